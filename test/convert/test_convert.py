from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.convert.kitti import convert_kitti
from mm_perception.convert.nuscenes import convert_nuscenes
from mm_perception.convert.rgbt import convert_rgbt
from mm_perception.core.errors import DataError
from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.core.types import Detections3D, PointCloud
from mm_perception.geometry.boxes import count_points_inside
from mm_perception.pipeline.intake import Intake, Observation
from mm_perception.replay.replay import observations

POINTS_PER_IMAGE = {
    "cam_front_left": 3704,
    "cam_front": 3067,
    "cam_front_right": 3079,
    "cam_back_left": 4097,
    "cam_back": 4826,
    "cam_back_right": 3379,
}


def observe(path: Path, rig: RigConfig) -> list[Observation]:
    intake = Intake(rig)
    with BagReader(path) as bag:
        seen = list(observations(bag, intake))
    assert not intake.rejected
    return seen


def points_in_image(one: Observation, camera: str, lidar: str, nearest_m: float) -> int:
    model = one.calibration.camera(camera)
    pixels, z = model.project(one.calibration.transform_from(lidar).apply(one.bundle.measurements[lidar].xyz))
    with np.errstate(invalid="ignore"):
        inside = (pixels >= 0).all(axis=1) & (pixels[:, 0] < model.width) & (pixels[:, 1] < model.height)
    return int((inside & (z > nearest_m)).sum())


@pytest.fixture(scope="module")
def nuscenes_source(shared_dir) -> Path:
    return shared_dir / "data" / "nuscenes_scene0061_frame0"


@pytest.fixture(scope="module")
def nuscenes_bag(nuscenes_source, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("nuscenes") / "frame.mcap"
    assert convert_nuscenes(nuscenes_source, path) == 1
    return path


@pytest.mark.parametrize("camera", sorted(POINTS_PER_IMAGE))
def test_nuscenes_points_land_in_each_camera(nuscenes_source, nuscenes_bag, camera):
    rig = load_rig("nuscenes")
    sensors = tuple(replace(s, required=s.name in (camera, "lidar_top")) for s in rig.sensors)
    (one,) = observe(nuscenes_bag, replace(rig, reference=camera, sensors=sensors))
    assert points_in_image(one, camera, "lidar_top", 1.0) == POINTS_PER_IMAGE[camera]
    info = json.loads((nuscenes_source / "frame.json").read_text())["data_list"][0]["images"][camera.upper()]
    np.testing.assert_allclose(one.calibration.transform_from("lidar_top").matrix, info["lidar2cam"], atol=1e-5)
    assert one.bundle.stamp_ns == round(info["timestamp"] * 1e6) * 1000
    assert one.bundle.missing == ()
    assert -1 < one.bundle.skew_ns["lidar_top"] / 1e6 < 44


def test_nuscenes_truth_holds_the_points_that_it_claims(nuscenes_source, nuscenes_bag):
    info = json.loads((nuscenes_source / "frame.json").read_text())["data_list"][0]
    expected = [i["num_lidar_pts"] for i in info["instances"] if i["bbox_label_3d"] >= 0]
    with BagReader(nuscenes_bag) as bag:
        (message,) = [bag.decode(m) for m in bag.messages({"/ground_truth/detections"})]
    n = len(message.detections)
    boxes = [d.bbox for d in message.detections]
    yaw = [2 * np.arctan2(b.center.orientation.z, b.center.orientation.w) for b in boxes]
    detections = Detections3D(
        np.array([(b.center.position.x, b.center.position.y, b.center.position.z) for b in boxes], np.float32),
        np.array([(b.size.x, b.size.y, b.size.z) for b in boxes], np.float32),
        np.array(yaw, np.float32), np.zeros((n, 2), np.float32), np.ones(n, np.float32), np.zeros(n, np.int32),
        ("any",), "lidar_top", 1,
    )  # fmt: skip
    (one,) = observe(nuscenes_bag, load_rig("nuscenes"))
    cloud = one.bundle.measurements["lidar_top"]
    assert isinstance(cloud, PointCloud)
    counts = count_points_inside(cloud.xyz, detections)
    assert n == 68
    assert (np.abs(counts - expected) <= 1).sum() >= 64


def test_kitti_sequence(shared_dir, tmp_path):
    path = tmp_path / "kitti.mcap"
    assert convert_kitti(shared_dir / "data" / "kitti_sequence", path) == 6
    seen = observe(path, load_rig("kitti"))
    assert len(seen) == 6
    assert np.diff([o.bundle.stamp_ns for o in seen]).tolist() == [100_000_000] * 5
    cloud = seen[0].bundle.measurements["velodyne"]
    assert cloud.intensity.max() > 200
    # A point ahead lies in the image; KITTI's published chain P2 R0 Tr is the reference.
    text = (shared_dir / "data" / "kitti_sequence" / "calib.txt").read_text()
    rows = {
        name: np.array(numbers.split(), float) for name, _, numbers in (t.partition(":") for t in text.splitlines())
    }
    chain = rows["P2"].reshape(3, 4) @ np.vstack(
        [rows["R0_rect"].reshape(3, 3) @ rows["Tr_velo_to_cam"].reshape(3, 4), [0, 0, 0, 1]]
    )
    ahead = cloud.xyz[cloud.xyz[:, 0] > 5]
    expected = np.c_[ahead, np.ones(len(ahead))] @ chain.T
    pixels, _ = (
        seen[0].calibration.camera("cam_02").project(seen[0].calibration.transform_from("velodyne").apply(ahead))
    )
    np.testing.assert_allclose(pixels, expected[:, :2] / expected[:, 2:], atol=0.05)


@pytest.mark.parametrize(
    ("folder", "pairs", "size", "labels"),
    [("rgbt_msrs", 13, (480, 640), 0), ("rgbt_mfnet", 2, (480, 640), 0), ("rgbt_rtfnet_demo", 8, (281, 376), 8)],
)
def test_rgbt_samples(shared_dir, tmp_path, folder, pairs, size, labels):
    path = tmp_path / "rgbt.mcap"
    assert convert_rgbt(shared_dir / "data" / folder, path) == pairs
    seen = observe(path, load_rig("rgbt"))
    assert len(seen) == pairs
    assert seen[0].bundle.measurements["rgb"].image.shape == (*size, 3)
    assert seen[0].bundle.measurements["thermal"].values.shape == size
    with BagReader(path) as bag:
        assert bag.count("/ground_truth/segmentation") == labels


def make_pairs(folder: Path, shapes=((8, 10), (8, 10))) -> Path:
    generator = np.random.default_rng(0)
    for name, shape in zip(("vi", "ir"), shapes, strict=True):
        (folder / name).mkdir(parents=True)
        channels = (3,) if name == "vi" else ()
        for i in range(2):
            cv2.imwrite(str(folder / name / f"{i}.png"), generator.integers(0, 255, (*shape, *channels), np.uint8))
    return folder


def test_made_up_pairs_survive_the_way_through_a_bag(tmp_path):
    source = make_pairs(tmp_path / "pairs")
    contents = []
    for name in ("a.mcap", "b.mcap"):
        convert_rgbt(source, tmp_path / name)
        with BagReader(tmp_path / name) as bag:
            contents.append([(m.topic, m.log_ns, bytes(m.cdr)) for m in bag.messages()])
    assert contents[0] == contents[1]
    (_, second) = observe(tmp_path / "a.mcap", load_rig("rgbt"))
    expected = cv2.imread(str(source / "vi" / "1.png"))[..., ::-1]
    np.testing.assert_array_equal(second.bundle.measurements["rgb"].image, expected)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda d: (d / "ir" / "1.png").unlink(), "1.png"),
        (lambda d: (d / "vi" / "0.png").write_bytes(b"no image"), "0.png"),
        (
            lambda d: [p.unlink() for p in (d / "vi").glob("*")] and [p.unlink() for p in (d / "ir").glob("*")],
            "no folder of images",
        ),
    ],
)
def test_spoiled_pairs_are_named_and_leave_no_bag(tmp_path, spoil, expected):
    source = make_pairs(tmp_path / "pairs")
    spoil(source)
    with pytest.raises(DataError, match=expected):
        convert_rgbt(source, tmp_path / "out.mcap")
    assert not (tmp_path / "out.mcap").exists()


def test_pairs_of_different_sizes_are_refused(tmp_path):
    with pytest.raises(DataError, match="do not align"):
        convert_rgbt(make_pairs(tmp_path / "pairs", ((8, 10), (8, 11))), tmp_path / "out.mcap")


@pytest.mark.parametrize("convert", [convert_rgbt, convert_kitti, convert_nuscenes])
def test_missing_source_is_named(tmp_path, convert):
    with pytest.raises(DataError, match="nowhere"):
        convert(tmp_path / "nowhere", tmp_path / "out.mcap")


def test_unknown_layout_is_named(tmp_path):
    with pytest.raises(DataError, match="expected the folders images"):
        convert_rgbt(tmp_path, tmp_path / "out.mcap")


@pytest.mark.parametrize("content", ["{}", "[", '{"metainfo": {"categories": {}}, "data_list": [{}]}'])
def test_strange_nuscenes_info_is_refused(tmp_path, content):
    (tmp_path / "frame.json").write_text(content)
    with pytest.raises(DataError, match=r"frame\.json"):
        convert_nuscenes(tmp_path, tmp_path / "out.mcap")
