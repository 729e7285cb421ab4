"""KITTI, nuScenes and PandaSet as they are downloaded: folders made here, the bags, what a vehicle sees of them."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.cli.main import main
from mm_perception.convert.kitti import convert_kitti
from mm_perception.convert.nuscenes import convert_nuscenes
from mm_perception.convert.pandaset import convert_pandaset
from mm_perception.core.errors import DataError
from mm_perception.core.rig import load_rig
from mm_perception.datasets.kitti import open_kitti, read_point_labels
from mm_perception.datasets.table_pickle import read_table
from mm_perception.pipeline.intake import Intake
from mm_perception.replay.replay import observations

sys.path.insert(0, str(Path(__file__).parent))
from makers import write

F = 50.0
P2 = f"{F} 0 32 {F * 0.5} 0 {F} 24 0 0 0 1 0"  # half a metre to the right of camera 0
VELO_R, VELO_T = "0 -1 0 0 0 -1 1 0 0", "0 -0.1 -0.3"
POINTS = np.array([[10, 0, 0, 0.5], [10, -2, 1, 1.0], [-5, 0, 0, 0.0]], "<f4")
EXPECTED_PX = [[32 + F * 0.5 / 9.7, 24 - F * 0.1 / 9.7], [32 + F * 2.5 / 9.7, 24 - F * 1.1 / 9.7]]


def observe(path, rig):
    intake = Intake(rig)
    with BagReader(path) as bag:
        seen = list(observations(bag, intake))
    assert not intake.rejected
    return seen


def raw_drive(root: Path, frames=(0, 1, 2), camera="image_02", velodyne_frames=None) -> Path:
    drive = root / "2011_10_03" / "2011_10_03_drive_0047_sync"
    lines = [f"2011-10-03 12:55:3{i}.5{i}0000001\n" for i in range(max(frames) + 1)]
    for i in frames:
        write(drive / camera / "data" / f"{i:010d}.png", 10 * i, 3)
        if velodyne_frames is None or i in velodyne_frames:
            path = drive / "velodyne_points" / "data" / f"{i:010d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            POINTS.tofile(path)
    (drive / camera / "timestamps.txt").write_text("".join(lines))
    (drive / "velodyne_points" / "timestamps.txt").write_text("".join(line.replace(".5", ".6") for line in lines))
    cam = f"calib_time: 09-Jan-2012 14:00:15\nR_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_{camera[-2:]}: {P2}\n"
    (drive.parent / "calib_cam_to_cam.txt").write_text(cam)
    (drive.parent / "calib_velo_to_cam.txt").write_text(f"calib_time: x\nR: {VELO_R}\nT: {VELO_T}\n")
    return drive


def odometry(root: Path, labels=True) -> Path:
    sequence = root / "sequences" / "07"
    for i in range(2):
        write(sequence / "image_2" / f"{i:06d}.png", 10 * i, 3)
        for part, content in (("velodyne", POINTS), ("labels", np.array([40, 10 | 7 << 16, 0], "<u4"))):
            if part == "velodyne" or labels:
                (sequence / part).mkdir(exist_ok=True)
                content.tofile(sequence / part / f"{i:06d}.{'bin' if part == 'velodyne' else 'label'}")
    tr = "0 -1 0 0 0 0 -1 -0.1 1 0 0 -0.3"
    (sequence / "calib.txt").write_text("".join(f"P{i}: {P2}\n" for i in range(4)) + f"Tr: {tr}\n")
    (sequence / "times.txt").write_text("0.000000e+00\n1.037875e-01\n")
    return sequence


@pytest.mark.parametrize("make", [raw_drive, odometry])
def test_kitti_points_land_where_the_matrices_say(tmp_path, make):
    source = make(tmp_path / "k")
    frames = convert_kitti(source, tmp_path / "k.mcap")
    with BagReader(tmp_path / "k.mcap") as bag:
        (message,) = (bag.decode(m) for m in bag.messages({"/tf_static"}))
        assert [(t.header.frame_id, t.child_frame_id) for t in message.transforms] == [("velodyne", "cam_02")]
        clouds = [bag.decode(m) for m in bag.messages({"/velodyne/points"})]
    assert len(clouds) == frames
    drive = open_kitti(source)
    pixels = drive.camera_transform("cam_02").apply(POINTS[:2, :3].astype(np.float64)) @ drive.intrinsics("cam_02").T
    np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], EXPECTED_PX, atol=1e-4)


def test_stamps_of_a_raw_drive_are_the_files(tmp_path):
    drive = raw_drive(tmp_path / "k", velodyne_frames=(0, 2))
    assert convert_kitti(drive, tmp_path / "k.mcap") == 3  # published drives lack some sweeps
    with BagReader(tmp_path / "k.mcap") as bag:
        stamps = {m.topic: [] for m in bag.messages()}
        for m in bag.messages():
            stamps[m.topic].append(m.log_ns)
    assert stamps["/cam_02/image_raw/compressed"][0] == 1_317_646_530_500_000_001
    assert np.diff(stamps["/cam_02/image_raw/compressed"]).tolist() == [1_010_000_000] * 2
    assert len(stamps["/velodyne/points"]) == 2


def test_stamps_of_a_sequence_and_point_classes(tmp_path):
    source = odometry(tmp_path / "k")
    convert_kitti(tmp_path / "k", tmp_path / "k.mcap")  # the only sequence in the folder
    seen = observe(tmp_path / "k.mcap", load_rig("kitti"))
    assert seen[1].bundle.stamp_ns - seen[0].bundle.stamp_ns == 103_787_500
    with BagReader(tmp_path / "k.mcap") as bag:
        cloud = next(bag.decode(m) for m in bag.messages({"/velodyne/points"}))
    assert [f.name for f in cloud.fields] == ["x", "y", "z", "intensity", "label", "instance"]
    label, instance = read_point_labels(source / "labels" / "000000.label", 3)
    assert (label.tolist(), instance.tolist()) == ([40, 10, 0], [0, 7, 0])
    with pytest.raises(DataError, match="expected 4 for each of the sweep's 5 points"):
        read_point_labels(source / "labels" / "000000.label", 5)


def test_sweeps_and_point_classes_alone(tmp_path):
    sequence = odometry(tmp_path / "k")
    shutil.rmtree(sequence / "image_2")
    (sequence / "calib.txt").unlink()
    assert convert_kitti(tmp_path / "k", tmp_path / "k.mcap") == 2
    with BagReader(tmp_path / "k.mcap") as bag:
        assert set(bag.topics) == {"/velodyne/points"}
        assert next(bag.decode(m) for m in bag.messages()).fields[4].name == "label"


def test_other_cameras_and_jpegs(tmp_path):
    drive = raw_drive(tmp_path / "k", camera="image_00")
    for path in (drive / "image_00" / "data").glob("*.png"):
        write(path.with_suffix(".jpg"), 5)
        path.unlink()
    assert convert_kitti(drive.parent, tmp_path / "k.mcap") == 3
    with BagReader(tmp_path / "k.mcap") as bag:
        message = next(bag.decode(m) for m in bag.messages({"/cam_00/image_raw/compressed"}))
    assert message.format == "jpeg"


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda d: (d.parent / "calib_velo_to_cam.txt").unlink(), r"calib_velo_to_cam.txt: does not exist"),
        (lambda d: (d.parent / "calib_cam_to_cam.txt").unlink(), r"no calibration: expected calib_cam_to_cam"),
        (lambda d: (d.parent / "calib_cam_to_cam.txt").write_text("S: 1"), r"no P_rect_02 \(there are S\)"),
        (lambda d: (d / "image_02" / "timestamps.txt").write_text("2011-10-03 12:55:30"), "1 stamps, but there is a"),
        (
            lambda d: (d / "calib.txt").write_text(f"P2: {P2}") and (d.parent / "calib_cam_to_cam.txt").unlink(),
            "nor Tr",
        ),
        (lambda d: (d / "image_02" / "timestamps.txt").write_text("noon\n" * 3), "expected stamps such as"),
        (lambda d: (d / "velodyne_points/data/0000000001.bin").write_bytes(b"12345"), "no whole points"),
        (lambda d: (d / "image_02" / "data" / "x.png").write_bytes(b"1"), "expected a number as name"),
        (lambda d: shutil.rmtree(d / "velodyne_points"), "expected a raw drive .* found image_02/"),
        (lambda d: shutil.copytree(d, d.parent / "2011_10_03_drive_0001_sync"), "2 drives"),
    ],
)
def test_faults_of_kitti_are_named(tmp_path, spoil, expected):
    drive = raw_drive(tmp_path / "k")
    spoil(drive)
    with pytest.raises(DataError, match=expected):
        convert_kitti(drive.parent if "drives" in expected else drive, tmp_path / "out.mcap")
    assert not (tmp_path / "out.mcap").exists()


def quat_z(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


LIDAR_YAW, EGO_YAW, BOX_YAW = -np.pi / 2, 0.3, 0.8


def nuscenes(root: Path, scenes=("scene-0003",)) -> Path:
    """Two key frames a scene, the vehicle 1 m further in the second, one sweep between; a car and a tree."""
    tables: dict[str, list] = {n: [] for n in ("scene", "sample", "sample_data", "ego_pose", "sample_annotation")}
    tables["sensor"] = [
        {"token": "c", "channel": "CAM_FRONT", "modality": "camera"},
        {"token": "l", "channel": "LIDAR_TOP", "modality": "lidar"},
        {"token": "r", "channel": "RADAR_FRONT", "modality": "radar"},
    ]
    camera_quat, k = [0.5, -0.5, 0.5, -0.5], [[F, 0, 32], [0, F, 24], [0, 0, 1]]
    tables["calibrated_sensor"] = [
        {"token": f"k{s}", "sensor_token": s, "translation": t, "rotation": q, "camera_intrinsic": m}
        for s, t, q, m in (("c", [1, 0, 1], camera_quat, k), ("l", [0, 0, 2], quat_z(LIDAR_YAW), []),
                           ("r", [3, 0, 0], quat_z(0), []))
    ]  # fmt: skip
    tables["category"] = [{"token": "car", "name": "vehicle.car"}, {"token": "dog", "name": "animal"}]
    tables["instance"] = [{"token": f"i{c}", "category_token": c} for c in ("car", "dog")]
    (root / "v1.0-mini").mkdir(parents=True)
    for s, name in enumerate(scenes):
        tables["scene"].append({"token": name, "name": name})
        for i in range(3):
            t_us, sample = 1_600_000_000_000_000 + 100_000_000 * s + 250_000 * i, f"{name}{i // 2}"
            if i != 1:
                tables["sample"].append({"token": sample, "scene_token": name, "timestamp": t_us})
                for c in ("car", "dog"):
                    center = [100 + 20 * np.cos(EGO_YAW), 20 * np.sin(EGO_YAW), 1]
                    box = {"token": f"{sample}{c}", "sample_token": sample, "instance_token": f"i{c}"}
                    box |= {"size": [2, 4, 1.5], "translation": center, "rotation": quat_z(BOX_YAW)}
                    tables["sample_annotation"].append(box)
            pose = {"token": f"{name}e{i}", "timestamp": t_us, "rotation": quat_z(EGO_YAW)}
            tables["ego_pose"].append({**pose, "translation": [100 + i / 2, 0, 0]})
            for sensor, file in (("c", "CAM_FRONT/a.jpg"), ("l", "LIDAR_TOP/a.pcd.bin"), ("r", "RADAR_FRONT/a.pcd")):
                folder = "sweeps" if i == 1 else "samples"
                path = root / folder / file.replace("/a", f"/{name}{i}")
                row = {"token": f"{name}{i}{sensor}", "sample_token": sample, "ego_pose_token": f"{name}e{i}",
                       "calibrated_sensor_token": f"k{sensor}", "timestamp": t_us - (40_000 if sensor == "c" else 0),
                       "is_key_frame": i != 1, "filename": str(path.relative_to(root))}  # fmt: skip
                tables["sample_data"].append(row)
                path.parent.mkdir(parents=True, exist_ok=True)
                if sensor == "c":
                    write(path, 50 * i, 3)
                elif sensor == "l":
                    np.array([[0, 1, 2, 7, 3], [5, 5, 0, 255, 31]], "<f4").tofile(path)
    for name, rows in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    return root


def test_nuscenes_tables(tmp_path):
    assert convert_nuscenes(nuscenes(tmp_path / "n"), tmp_path / "n.mcap") == 3
    rig = load_rig("nuscenes")
    seen = observe(tmp_path / "n.mcap", rig)
    assert [o.bundle.stamp_ns for o in seen] == [
        1_600_000_000_000_000_000 + 250_000_000 * i - 40_000_000 for i in range(3)
    ]
    cloud = seen[0].bundle.measurements["lidar_top"]
    assert (cloud.intensity.tolist(), cloud.ring.tolist()) == ([7, 255], [3, 31])
    with BagReader(tmp_path / "n.mcap") as bag:
        truths = [bag.decode(m) for m in bag.messages({"/ground_truth/detections"})]
    assert [len(t.detections) for t in truths] == [1, 1]  # key frames only, and no animals
    box = truths[0].detections[0].bbox
    # The vehicle stands at (100, 0) and looks along EGO_YAW; the LiDAR's x axis points to its right.
    np.testing.assert_allclose(
        [box.center.position.x, box.center.position.y, box.center.position.z], [0, 20, -1], atol=1e-4
    )
    yaw = 2 * np.arctan2(box.center.orientation.z, box.center.orientation.w)
    assert yaw == pytest.approx(BOX_YAW - EGO_YAW - LIDAR_YAW, abs=1e-5)
    assert (box.size.x, box.size.y) == (4, 2)


def test_nuscenes_files_that_are_not_there_are_counted(tmp_path, capsys):
    root = nuscenes(tmp_path / "n")
    shutil.rmtree(root / "sweeps")
    assert main(["convert", "nuscenes", str(root / "v1.0-mini"), str(tmp_path / "n.mcap")]) == 0
    assert "2 files that the tables name are not there" in capsys.readouterr().out
    shutil.rmtree(root / "samples")
    with pytest.raises(DataError, match="none of the 6 files of scene-0003 is there"):
        convert_nuscenes(root, tmp_path / "m.mcap")


def test_nuscenes_scenes_are_chosen(tmp_path, capsys):
    root = nuscenes(tmp_path / "n", ("scene-0003", "scene-0012"))
    with pytest.raises(DataError, match=r"2 scenes \(scene-0003, scene-0012\).*--scene NAME"):
        convert_nuscenes(root, tmp_path / "n.mcap")
    with pytest.raises(DataError, match=r"no scene 'scene-0013'; did you mean 'scene-0012'"):
        convert_nuscenes(root, tmp_path / "n.mcap", scene="scene-0013")
    assert main(["convert", "nuscenes", str(root), str(tmp_path / "n.mcap"), "--scene", "scene-0012"]) == 0
    with BagReader(tmp_path / "n.mcap") as bag:
        assert min(m.log_ns for m in bag.messages()) > 1_600_000_099_000_000_000


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda d: (d / "v1.0-mini/ego_pose.json").unlink(), "no ego_pose.json"),
        (lambda d: (d / "v1.0-mini/ego_pose.json").write_text("[]"), "no row 'scene-0003e0'"),
        (lambda d: (d / "v1.0-mini/sensor.json").write_text("{}"), "expected a list of rows"),
        (lambda d: (d / "v1.0-mini/scene.json").write_text('[{"token": "a"}]'), "KeyError 'name'"),
        (lambda d: shutil.copytree(d / "v1.0-mini", d / "v1.0-test"), "several versions"),
        (lambda d: shutil.rmtree(d / "v1.0-mini"), "expected the tables of nuScenes"),
    ],
)
def test_faults_of_nuscenes_are_named(tmp_path, spoil, expected):
    root = nuscenes(tmp_path / "n")
    spoil(root)
    with pytest.raises(DataError, match=expected):
        convert_nuscenes(root, tmp_path / "out.mcap")


def test_nuscenes_without_truth(tmp_path):
    root = nuscenes(tmp_path / "n")
    (root / "v1.0-mini" / "sample_annotation.json").unlink()
    convert_nuscenes(root, tmp_path / "n.mcap")
    with BagReader(tmp_path / "n.mcap") as bag:
        assert "/ground_truth/detections" not in bag.topics


# What pandas writes, by stand-ins under its names: the same opcodes without pandas.
def pandas_module(monkeypatch, newer: bool):
    import types

    modules = {n: types.ModuleType(n) for n in (
        "pandas", "pandas.core", "pandas.core.frame", "pandas.core.internals", "pandas.core.internals.managers",
        "pandas.core.indexes", "pandas.core.indexes.base", "pandas._libs", "pandas._libs.internals")}  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def put(module, name, value):
        value.__module__, value.__qualname__ = module, name
        setattr(modules[module], name, value)
        return value

    def new_index(cls, d):
        return cls(d["data"])

    def unpickle_block(values, placement, ndim):
        return values

    put("pandas.core.indexes.base", "_new_Index", new_index)
    put("pandas._libs.internals", "_unpickle_block", unpickle_block)

    class Index:
        def __init__(self, data):
            self.data = data

        def __reduce__(self):
            return new_index, (Index, {"data": self.data, "name": None})

    class Block:
        def __init__(self, values, placement):
            self.values, self.placement = values, placement

        def __reduce__(self):
            return unpickle_block, (self.values, self.placement, 2)

    class BlockManager:
        def __init__(self, axes, blocks):
            self.axes, self.blocks = axes, blocks

        def __reduce__(self):
            if newer:
                return BlockManager, (tuple(self.blocks), self.axes)
            content = [{"values": b.values, "mgr_locs": b.placement} for b in self.blocks]
            state = (self.axes, [], [], {"0.14.1": {"axes": self.axes, "blocks": content}})
            return BlockManager, (), state

    class DataFrame:
        pass

    put("pandas.core.indexes.base", "Index", Index)
    put("pandas.core.internals.managers", "BlockManager", BlockManager)
    put("pandas.core.frame", "DataFrame", DataFrame)

    def frame(columns):
        names = np.array(list(columns), object)
        blocks = [Block(np.array(v)[None], slice(i, i + 1, 1)) for i, v in enumerate(columns.values())]
        made = DataFrame()
        rows = len(next(iter(columns.values())))
        made.__dict__["_mgr" if newer else "_data"] = BlockManager([Index(names), Index(np.arange(rows))], blocks)
        return made

    return frame


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickled_tables(tmp_path, monkeypatch, newer, protocol):
    frame = pandas_module(monkeypatch, newer)
    table = frame({"x": [1.5, 2.5], "d": [0, 1], "label": np.array(["Car", "Bus"], object)})
    with gzip.open(tmp_path / "a.pkl.gz", "wb") as file:
        pickle.dump(table, file, protocol)
    columns = read_table(tmp_path / "a.pkl.gz")
    assert {k: v.tolist() for k, v in columns.items()} == {"x": [1.5, 2.5], "d": [0, 1], "label": ["Car", "Bus"]}


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lambda p: pickle.dumps(Evil(p)), "which no table needs"),
        (lambda p: b"cos\nsystem\n(S'touch " + str(p).encode() + b"'\ntR.", "asks for os.system"),
        (lambda p: b"cbuiltins\neval\n.", "asks for builtins.eval"),
        (lambda p: b"cpandas.io.common\nget_handle\n.", "asks for pandas.io.common.get_handle"),
        (lambda p: pickle.dumps([1, 2]), "expected a pickled DataFrame, got list"),
        (lambda p: b"\x80\x04 nonsense", "no pickle of a table"),
        (lambda p: gzip.compress(b"x" * 100)[:-20], "cannot be read"),
    ],
)
def test_pickles_run_nothing(tmp_path, content, expected):
    (tmp_path / "a.pkl").write_bytes(content(tmp_path / "touched"))
    with pytest.raises(DataError, match=expected):
        read_table(tmp_path / "a.pkl")
    assert not (tmp_path / "touched").exists()


def pandaset(root: Path, frame) -> Path:
    """Two sweeps at 10 Hz of a LiDAR that looks along the world's x (its y axis ahead), a camera, a car 10 m ahead."""
    pose = {"position": {"x": 3.0, "y": 0.0, "z": 2.0}, "heading": dict(zip("wxyz", quat_z(-np.pi / 2), strict=True))}
    looking = {"position": {"x": 3.0, "y": 0.0, "z": 2.0}, "heading": {"w": 0.5, "x": -0.5, "y": 0.5, "z": -0.5}}
    stamps = [1_557_539_924.5, 1_557_539_924.6]
    camera, lidar = root / "camera" / "front_camera", root / "lidar"
    for i in range(2):
        write(camera / f"{i:02d}.jpg", 40, 3)
        world = np.array([[13.0, 0.5, 1.0], [13.0, 9.0, 1.0], [14.0, 0.0, 1.0], [12.0, 0.0, 1.0]])
        content = {
            "lidar": {"x": world[:, 0], "y": world[:, 1], "z": world[:, 2], "i": [5.0, 6, 7, 8], "t": [stamps[i]] * 4,
                      "d": [0, 0, 0, 1]},
            "annotations/semseg": {"class": [13, 7, 13, 13]},
            "annotations/cuboids": {
                "uuid": np.array(["a", "b"], object), "label": np.array(["Car", "Car"], object),
                "yaw": [-np.pi / 2] * 2, "position.x": [13.0] * 2, "position.y": [0.0] * 2, "position.z": [1.0] * 2,
                "dimensions.x": [2.0] * 2, "dimensions.y": [4.0] * 2, "dimensions.z": [1.5] * 2,
                "cuboids.sensor_id": [0, 1]},
        }  # fmt: skip
        for folder, columns in content.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{i:02d}.pkl.gz").write_bytes(gzip.compress(pickle.dumps(frame(columns))))
    for folder, one in ((camera, looking), (lidar, pose)):
        (folder / "poses.json").write_text(json.dumps([one] * 2))
        (folder / "timestamps.json").write_text(json.dumps([s - 0.05 * (folder == camera) for s in stamps]))
    (camera / "intrinsics.json").write_text(json.dumps({"fx": F, "fy": F, "cx": 32, "cy": 24}))
    return root


def test_pandaset_download(tmp_path, monkeypatch):
    source = pandaset(tmp_path / "002", pandas_module(monkeypatch, False))
    assert convert_pandaset(tmp_path, tmp_path / "p.mcap") == 2  # the only sequence in the folder
    assert source.name == "002"
    seen = observe(tmp_path / "p.mcap", load_rig("pandaset"))
    assert [o.bundle.stamp_ns for o in seen] == [1_557_539_924_450_000_000, 1_557_539_924_550_000_000]
    cloud = seen[0].bundle.measurements["pandar64"]
    np.testing.assert_allclose(cloud.xyz, [[-0.5, 10, -1], [-9, 10, -1], [0, 11, -1]], atol=1e-5)
    ahead = seen[0].calibration.transform_from("pandar64").apply(cloud.xyz)
    np.testing.assert_allclose(ahead[0], [-0.5, 1, 10], atol=1e-5)
    with BagReader(tmp_path / "p.mcap") as bag:
        truth = next(bag.decode(m) for m in bag.messages({"/ground_truth/detections"}))
        fields = [f.name for f in next(bag.decode(m) for m in bag.messages({"/pandar64/points"})).fields]
    assert fields == ["x", "y", "z", "intensity", "label"]
    (box,) = (d.bbox for d in truth.detections)  # its double, seen by the other LiDAR, is left out
    yaw = 2 * np.arctan2(box.center.orientation.z, box.center.orientation.w)
    assert (box.size.x, box.size.y, abs(yaw)) == (4, 2, pytest.approx(np.pi / 2, abs=1e-5))
    assert (box.center.position.x, box.center.position.y) == pytest.approx((0, 10), abs=1e-5)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda d: (d / "annotations/semseg/00.pkl.gz").write_bytes(b""), "00.pkl.gz"),
        (lambda d: (d / "lidar/poses.json").write_text("[]"), "sweep 00 not as expected, IndexError"),
        (lambda d: (d / "camera/front_camera/intrinsics.json").write_text("{}"), "KeyError 'fx'"),
        (lambda d: shutil.rmtree(d / "camera"), "expected the folders lidar/ and camera/"),
    ],
)
def test_faults_of_pandaset_are_named(tmp_path, monkeypatch, spoil, expected):
    source = pandaset(tmp_path / "002", pandas_module(monkeypatch, True))
    spoil(source)
    with pytest.raises(DataError, match=expected):
        convert_pandaset(source, tmp_path / "out.mcap")
    assert not (tmp_path / "out.mcap").exists()


def test_real_part_of_pandaset(shared_dir):
    from mm_perception.datasets.pandaset import PandaSequence

    sequence = PandaSequence(shared_dir / "data" / "pandaset_002_start")
    sweep = sequence.sweep("05")
    car = sweep.objects.classes.index("Car")
    cars = sweep.objects.take(sweep.objects.labels == car)
    points = sweep.xyz[sweep.labels == 13]
    assert _inside_any(points, cars).mean() > 0.98


def _inside_any(points, boxes):
    inside = np.zeros(len(points), bool)
    for i in range(len(boxes)):
        rows = np.arange(len(boxes)) == i
        c, s = np.cos(boxes.yaw_rad[i]), np.sin(boxes.yaw_rad[i])
        local = (points - boxes.centers[rows]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        inside |= (np.abs(local) <= boxes.sizes_lwh[rows] / 2 + 0.05).all(axis=1)
    return inside
