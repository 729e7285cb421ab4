"""A planner at the node's side: no boxes must never look like a free road. Over real DDS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_camera_info, encode_compressed, encode_point_cloud, encode_transforms
from mm_perception.core.resources import find_config
from mm_perception.core.rig import load_rig
from mm_perception.core.types import PointCloud
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sim.rig import simulated_rig

pytestmark = pytest.mark.ros
pytest.importorskip("torch", reason="torch is not installed")

SIMULATED = simulated_rig(load_rig("sim"))
CAMERAS = {camera.sensor.name: camera for camera in SIMULATED.cameras}
LIDAR = SIMULATED.lidars[0]
START_NS, PERIOD_NS = 10**18, 100_000_000


@pytest.fixture(scope="module")
def finds_nothing(tmp_path_factory) -> Path:
    """A detector that reports no box: its every array is empty."""
    card = yaml.safe_load(find_config("models", "deepinteraction-tiny-untrained").read_text())
    path = tmp_path_factory.mktemp("card") / "nothing.yaml"
    path.write_text(yaml.safe_dump(card | {"name": "nothing", "min_score": 1.0}))
    return path


def sweep(seed: int, stamp_ns: int, from_deg: float = -180.0, to_deg: float = 180.0, n: int = 2000) -> PointCloud:
    generator = np.random.default_rng(seed)
    angle = np.radians(generator.uniform(from_deg, to_deg, n))
    distance = generator.uniform(5, 30, n)
    xyz = np.stack([distance * np.cos(angle), distance * np.sin(angle), generator.uniform(-1.8, 1, n)], 1)
    return PointCloud(xyz.astype(np.float32), stamp_ns, "lidar", np.full(n, 9.0, np.float32))


def write_drive(path: Path, sweeps: list[PointCloud | None]) -> None:
    """A vehicle that stands still and whose cameras live; None: no sweep comes."""
    with BagWriter(path) as bag:
        make = bag.factory
        static = [LIDAR.base_from_lidar, *(camera.base_from_camera for camera in CAMERAS.values())]
        bag.write("/tf_static", encode_transforms(make, static, START_NS), START_NS, latched=True)
        here = RigidTransform("odom", "base_link", np.eye(3), np.zeros(3))
        for i, cloud in enumerate(sweeps):
            stamp_ns = START_NS + i * PERIOD_NS
            for t_ns in (stamp_ns - PERIOD_NS, stamp_ns):
                bag.write("/tf", encode_transforms(make, [here], t_ns), stamp_ns)
            messages: dict[str, Any] = {}
            if cloud is not None:
                messages["/sim/lidar/points"] = encode_point_cloud(make, cloud)
            for name, camera in CAMERAS.items():
                model = camera.model
                cells = np.random.default_rng(i).integers(0, 255, (model.height // 16, model.width // 16, 3), np.uint8)
                image = cv2.resize(cells, (model.width, model.height), interpolation=cv2.INTER_NEAREST)
                messages[f"/sim/{name}/camera_info"] = encode_camera_info(make, model, stamp_ns)
                messages[f"/sim/{name}/image_raw/compressed"] = encode_compressed(
                    make, image, "jpeg", stamp_ns, model.frame_id
                )
            for topic, message in messages.items():
                bag.write(topic, message, stamp_ns)


def whole(i: int) -> PointCloud:
    """The sweep that belongs to set i: the simulated LiDAR's stamps are the turn's start."""
    return sweep(i, START_NS + (i - 1) * PERIOD_NS)


def part(i: int, **options: float) -> PointCloud:
    return sweep(i, START_NS + (i - 1) * PERIOD_NS, **options)  # type: ignore[arg-type]


FAULTS: dict[str, tuple[Any, int, int]] = {
    # What the LiDAR sends for set i of a segment that began at set `first`; how many sets; from which on it is blind.
    "dead": (lambda i, first: None, 6, 3),
    "frozen": (lambda i, first: sweep(first - 1, START_NS + (i - 1) * PERIOD_NS), 5, 2),
    "empty": (lambda i, first: part(i, n=20), 3, 0),
    "cut to a sector": (lambda i, first: part(i, from_deg=-40, to_deg=40), 3, 99),
    "of the wrong time": (lambda i, first: sweep(i, START_NS + (i - 1) * PERIOD_NS + 37 * 10**9), 6, 3),
}
HEALTHY = 3
"""Sets between two faults."""


def drive() -> tuple[list[PointCloud | None], list[str]]:
    """The sweep of each set, and in which fault it is ("" for none)."""
    sweeps: list[PointCloud | None] = []
    names: list[str] = []
    for name, (make, count, _) in FAULTS.items():
        for _ in range(HEALTHY):
            sweeps.append(whole(len(sweeps)))
        names += [""] * HEALTHY + [name] * count
        first = len(sweeps)
        for _ in range(count):
            sweeps.append(make(len(sweeps), first))
    return sweeps, names


def test_an_empty_array_is_published_only_where_the_lidar_saw_all(start_session, tmp_path, finds_nothing):
    sweeps, faults = drive()
    path = tmp_path / "drive.mcap"
    write_drive(path, sweeps)
    session = start_session(
        rig="sim", model="none", detector=str(finds_nothing), engine="onnxruntime", overlays=False, max_wait_ms="1000.0"
    )
    session.play(path)
    stamps = [START_NS + i * PERIOD_NS for i in range(len(sweeps))]
    session.wait_until(lambda: set(stamps) <= set(session.result.sights), 60, "the last status")
    found, sights = session.result.detections, [session.result.sights[stamp] for stamp in stamps]
    assert not any(msg.detections for msg in found.values()), "the detector finds nothing"
    assert {stamps.index(stamp) for stamp in found} == {i for i, fault in enumerate(faults) if not fault}
    for i, (sight, fault) in enumerate(zip(sights, faults, strict=True)):
        assert (sight["detection.no_boxes_means_free"] == "true") == (not fault)
        first = next((j for j in range(i, -1, -1) if faults[j] != fault), -1) + 1
        is_blind = bool(fault) and i - first >= FAULTS[fault][2]
        if is_blind:
            assert sight["detection.mode"] == "blind", (fault, i - first, sight)
        if fault == "cut to a sector":
            assert sight["coverage.covered_deg"] == "80" and sight["coverage.sectors"].startswith("-40..40: ")
    assert faults[-1] and sights[-1]["mode"] == "blind"
    session.wait_until(lambda: "detection blind" in session.result.pipeline.get("message", ""), 20, "the level")


def test_a_node_without_any_message_says_that_it_is_blind(start_session, finds_nothing):
    session = start_session(rig="sim", model="none", detector=str(finds_nothing), engine="torch", overlays=False)
    session.wait_until(lambda: bool(session.result.sights), 120, "a status")
    sight = next(iter(session.result.sights.values()))
    assert sight["mode"] == sight["detection.mode"] == "blind" and "rgb: no message yet" in sight["detection.blind"]
    assert session.result.detections == {}
