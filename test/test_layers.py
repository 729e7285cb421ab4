"""The rooms of the house: who may import whom, and which library is used where."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mm_perception"

MAY_IMPORT = {
    "core": set(),
    "geometry": {"core"},
    "sensing": {"core", "geometry"},
    "gpu": {"core", "geometry", "sensing"},
    "sync": {"core"},
    "metrics": {"core", "geometry"},
    "codec": {"core", "geometry"},
    "bags": {"core"},
    "models": {"core"},
    "engines": {"core", "models"},
    "pipeline": {"core", "geometry", "sensing", "gpu", "sync", "metrics", "codec", "engines"},
    "sim": {"core", "geometry", "codec", "bags"},
    "datasets": {"core", "geometry", "codec", "bags"},
    "convert": {"core", "geometry", "codec", "bags", "datasets"},
    "replay": {"core", "geometry", "sensing", "sync", "metrics", "codec", "bags", "engines", "pipeline", "sim"},
    "survey": {"core", "geometry", "metrics", "sync", "codec", "bags", "pipeline"},
    "fuzz": {"core", "geometry", "codec", "bags", "models", "engines"},
    "bench": {"core", "bags", "engines", "pipeline", "replay"},
    "training": {
        *("core", "geometry", "sensing", "metrics", "codec", "bags", "datasets"),
        *("models", "engines", "pipeline", "replay", "sim"),
    },
    # The soak drives the live node with the simulated vehicle and its faults.
    "ros": {"core", "geometry", "sensing", "sync", "metrics", "codec", "bags", "engines", "pipeline", "sim", "survey"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT) | {"cli"}

ONLY_IN = {
    # bench/ times torch itself, and reads the GPU's clock and memory through it.
    "torch": (
        "models/",
        "training/",
        "gpu/",
        "engines/torch_engine.py",
        "engines/export.py",
        "engines/tensorrt/",
        "bench/",
        "fuzz/file_targets.py",
    ),
    "safetensors": ("fuzz/file_targets.py", "models/", "training/", "engines/"),
    "onnx": (
        "fuzz/file_targets.py",
        "engines/onnx_file.py",
        "engines/export.py",
        "engines/roofline.py",
        "engines/tensorrt/",
    ),
    "onnxruntime": ("engines/onnx_engine.py", "bench/onnxruntime_runner.py"),
    "openvino": ("engines/openvino_engine.py",),
    "tensorrt": ("engines/tensorrt/",),
    "tensorrt_rtx": ("engines/tensorrt/",),
    "modelopt": ("engines/tensorrt/precision.py",),
    "rosbags": ("bags/",),
    "open3d": ("sim/scene.py",),
    "rclpy": ("ros/", "cli/bench_sync.py"),
    "message_filters": ("ros/", "cli/bench_sync.py"),
    "rcl_interfaces": ("ros/",),
    "sensor_msgs": ("ros/",),
    "vision_msgs": ("ros/",),
    "rich": ("cli/",),
}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported with the file) of every import.

    Imports within functions come when asked for, and those under TYPE_CHECKING never.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) or (isinstance(n, ast.If) and is_typing(n))]
    inside = {id(n) for f in later for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module or "", id(node) not in inside))
    return found


def is_typing(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file_imports_only_what_its_room_may(path):
    inner = path.relative_to(PACKAGE)
    room = inner.parts[0] if len(inner.parts) > 1 else None
    for module, _ in imports(path):
        parts = module.split(".")
        if parts[0] == "mm_perception" and len(parts) > 1 and room is not None and parts[1] != room:
            assert parts[1] in MAY_IMPORT[room], f"{inner} imports {module}"
        if parts[0] in ONLY_IN:
            assert str(inner).startswith(ONLY_IN[parts[0]]), f"{inner} imports {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "pipeline").glob("*.py")), ids=lambda p: p.name)
def test_pipeline_imports_torch_code_only_when_it_is_asked_for(path):
    early = [module for module, with_file in imports(path) if with_file]
    assert not [module for module in early if module.startswith("mm_perception.gpu")]


def test_every_room_is_known():
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert rooms <= set(MAY_IMPORT)


def test_no_cycles_between_files():
    graph = {
        "mm_perception." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts): {
            m for m, with_file in imports(p) if with_file and m.startswith("mm_perception.")
        }
        for p in FILES
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for other in graph.get(name, ()):
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_commands_print(path):
    if path.relative_to(PACKAGE).parts[0] == "cli":
        return
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


@pytest.mark.parametrize("folder", ["rosbags", "launch", "test"])
def test_folders_that_would_hide_libraries_are_no_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists()
