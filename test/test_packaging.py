from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from pathlib import Path

import pytest

import mm_perception

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_XML = ElementTree.parse(ROOT / "package.xml").getroot()
SETUP = (ROOT / "setup.py").read_text()

ROSDEP_KEY = {
    "numpy": "python3-numpy",
    "cv2": "python3-opencv",
    "yaml": "python3-yaml",
    "rich": "python3-rich",
    "scipy": "python3-scipy",
}
FROM_PIP = {
    "rosbags",
    "onnxruntime",
    "openvino",
    "torch",
    "onnx",
    "onnxscript",
    "safetensors",
    "open3d",
    "modelopt",
    "backports",
    "compression",
    "lz4",  # with rosbags, as backports and apsw
    "apsw",
}
OPTIONAL = {"message_filters", "atheris", "av"}


def test_package_xml_is_of_format_3_and_python():
    assert PACKAGE_XML.get("format") == "3"
    assert PACKAGE_XML.findtext("export/build_type") == "ament_python"
    assert (ROOT / "resource" / "mm_perception").exists()


def test_versions_are_equal():
    in_setup = re.search(r'version="([^"]+)"', SETUP)
    assert in_setup is not None
    assert in_setup.group(1) == PACKAGE_XML.findtext("version") == mm_perception.__version__


def test_every_import_has_a_dependency():
    import sys

    declared = {element.text for element in PACKAGE_XML.findall("exec_depend")}
    for path in [*sorted((ROOT / "mm_perception").rglob("*.py")), *sorted((ROOT / "launch").glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )  # fmt: skip
            for module in modules:
                top = module.split(".")[0]
                if top in sys.stdlib_module_names or top == "mm_perception" or top in FROM_PIP | OPTIONAL:
                    continue
                assert ROSDEP_KEY.get(top, top.replace("ament_index_python", "launch_ros")) in declared, (path, module)


OF_DRIVERS = {
    "dvs_msgs", "prophesee_event_msgs", "livox_ros_driver", "livox_ros_driver2", "livox_interfaces",
    "ffmpeg_image_transport_msgs", "foxglove_msgs",
}  # fmt: skip
"""Come with the driver whose messages they are; a node needs them only where its rig names such a type."""


def test_message_types_that_are_used_by_name_have_a_dependency():
    declared = {element.text for element in PACKAGE_XML.findall("exec_depend")}
    for path in sorted((ROOT / "mm_perception").rglob("*.py")):
        for package in re.findall(r'"([a-z0-9_]+)/msg/[A-Z]', path.read_text()):
            assert package in declared | OF_DRIVERS | {"event_array_msgs", "package"}, (path, package)


@pytest.mark.parametrize("entry", re.findall(r'"[\w-]+ = ([\w.]+:\w+)"', SETUP))
def test_entry_points_can_be_imported(entry):
    module, function = entry.split(":")
    if ".ros." in module:
        pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
    assert callable(getattr(import_module(module), function))


def test_shipped_files_are_installed():
    for pattern in ("launch/*.launch.py", "config"):
        assert pattern in SETUP
    for suffix in ("yaml", "xml"):
        assert f'"{suffix}"' in SETUP
        for folder in {p.parent.relative_to(ROOT) for p in (ROOT / "config").rglob(f"*.{suffix}")}:
            assert f'"{folder.as_posix()}"' in SETUP
