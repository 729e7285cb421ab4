from glob import glob

from setuptools import find_packages, setup

package_name = "mm_perception"


def config_files(folder: str) -> tuple[str, list[str]]:
    kinds = ("yaml", "rviz", "safetensors", "xml")
    return f"share/{package_name}/{folder}", [path for kind in kinds for path in glob(f"{folder}/*.{kind}")]


setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(include=[package_name, f"{package_name}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
        (f"share/{package_name}/launch", glob("launch/*.launch.py")),
        config_files("config"),
        config_files("config/classes"),
        config_files("config/dds"),
        config_files("config/models"),
        config_files("config/recipes"),
        config_files("config/rigs"),
        config_files("config/rviz"),
        config_files("config/scenarios"),
        config_files("config/security"),
    ],
    package_data={package_name: ["py.typed"]},
    python_requires=">=3.10",
    extras_require={
        "fuzz": ["atheris"],  # coverage-guided fuzzing; `mm-perception fuzz` needs nothing more
        "video": ["av"],  # h264 and h265 topics
    },
    zip_safe=True,
    maintainer="mm_perception maintainers",
    maintainer_email="maintainers@mm-perception.invalid",
    description="Multi-modal perception for ROS 2: RGB-X segmentation with CMX, 3D detection with DeepInteraction++.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "mm-perception = mm_perception.cli.main:main",
            "fusion_node = mm_perception.ros.fusion_node:main",
        ],
    },
)
