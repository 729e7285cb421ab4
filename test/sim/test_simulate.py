"""Bags of simulated drives: complete, equal for equal seeds, consistent between sensors and truth, and never half."""

from __future__ import annotations

import errno
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.bags.writer import BagWriter
from mm_perception.cli.main import main
from mm_perception.codec.image import decode_labels
from mm_perception.codec.point_cloud import decode_point_cloud
from mm_perception.core.errors import BagError, ConfigError, DataError
from mm_perception.core.rig import load_rig
from mm_perception.pipeline.intake import Intake
from mm_perception.replay.replay import observations
from mm_perception.sim.frames import cached_frames, load_frame, make_frames
from mm_perception.sim.rig import simulated_rig
from mm_perception.sim.scenario import Ego, PlacedObject, Scenario
from mm_perception.sim.sensors import Sensors, visible_shares
from mm_perception.sim.simulate import OBJECTS_TOPIC, STATES_TOPIC, simulate
from mm_perception.sim.surfaces import CLASSES
from mm_perception.sim.world import World

RIG = load_rig("demo")
DRIVE = Scenario(
    seed=2, condition="day", traffic=0.3, parked=0.3, people=0.5, ego=Ego(speed_mps=6.0),
    objects=(PlacedObject("car", 18.0, 2.0), PlacedObject("pedestrian", 12.0, -3.4, 1.0, 90.0)),
)  # fmt: skip


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("sim") / "drive.mcap"
    simulate(DRIVE, RIG, 0.4, path, workers=1)
    return path


def messages(path, topic):
    with BagReader(path) as reader:
        return [reader.decode(m) for m in reader.messages({topic})]


def table_of(message):
    kinds = {7: "<f4", 6: "<u4"}
    names, formats = zip(*((f.name, kinds[f.datatype]) for f in message.fields), strict=True)
    offsets = [f.offset for f in message.fields]
    layout = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": message.point_step})
    return np.frombuffer(bytes(message.data), layout)


def test_each_frame_is_a_whole_observation(bag):
    intake = Intake(RIG)
    with BagReader(bag) as reader:
        seen = list(observations(reader, intake))
    assert len(seen) == 4 and not intake.rejected
    for observation in seen:
        assert not observation.bundle.missing
        assert set(observation.calibration.reference_from) >= {"depth", "thermal", "lidar"}


def test_equal_seeds_give_equal_bags_for_any_number_of_workers(bag, tmp_path):
    again = tmp_path / bag.name  # a bag's metadata holds its name
    simulate(DRIVE, RIG, 0.4, again, workers=2)
    assert again.read_bytes() == bag.read_bytes()
    other = tmp_path / "other.mcap"
    simulate(replace(DRIVE, seed=3), RIG, 0.1, other, workers=1)
    first, second = (messages(p, "/sim/thermal/image_raw/compressed")[0].data for p in (bag, other))
    assert bytes(first) != bytes(second)


def test_bag_holds_odometry_transforms_and_truth(bag):
    with BagReader(bag) as reader:
        topics = dict(reader.topics)
    assert topics["/odom"] == "nav_msgs/msg/Odometry" and topics["/tf"] == "tf2_msgs/msg/TFMessage"
    assert topics[OBJECTS_TOPIC] == "vision_msgs/msg/Detection3DArray"
    odometry = messages(bag, "/odom")
    assert odometry[-1].twist.twist.linear.x == pytest.approx(6.0, rel=0.05)
    assert odometry[-1].child_frame_id == "base_link"
    names = {c.class_name for c in messages(bag, "/sim/rgb/truth/class/label_info")[0].class_map}
    assert set(CLASSES) <= names


def test_boxes_velocities_and_ids_agree_with_the_scenario(bag):
    for boxes, states in zip(messages(bag, OBJECTS_TOPIC), messages(bag, STATES_TOPIC), strict=True):
        table = table_of(states)
        assert [d.id for d in boxes.detections] == [str(i) for i in table["id"]]
        walker = table[table["id"] == 2][0]
        kind = next(d for d in boxes.detections if d.id == "2").results[0].hypothesis.class_id
        assert kind == "pedestrian" and boxes.header.frame_id == "base_link"
        assert np.hypot(walker["vx"], walker["vy"]) == pytest.approx(1.0, abs=1e-5), "over ground, not relative"
        assert walker["x"] == pytest.approx(12.0, abs=3.0)


def test_what_is_counted_and_seen_is_there(bag):
    table = table_of(messages(bag, STATES_TOPIC)[-1])
    pictures = [np.frombuffer(bytes(m.data), np.uint8) for m in messages(bag, "/sim/rgb/truth/instance")]
    instances = cv2.imdecode(pictures[-1], cv2.IMREAD_UNCHANGED)
    for row in table:
        assert row["pixels"] == np.count_nonzero(instances == row["id"])
    car = table[table["id"] == 1][0]
    assert car["visibility"] > 0.5 and car["pixels"] > 500 and car["lidar_points"] > 30
    near = np.hypot(table["x"], table["y"]) < 40.0  # farther ones fit between pixels
    hidden = table[(table["pixels"] == 0) & near]
    assert len(hidden) and (hidden["visibility"] < 0.1).all()


def test_lidar_points_of_an_object_lie_in_its_box(bag):
    cloud = decode_point_cloud(messages(bag, "/sim/lidar/points")[-1], 255.0)
    car = table_of(messages(bag, STATES_TOPIC)[-1])
    car = car[car["id"] == 1][0]
    rig = simulated_rig(RIG)
    points = rig.lidars[0].base_from_lidar.apply(cloud.xyz)
    points[:, 0] -= 6.0 * (0.1 - cloud.offset_ns * 1e-9)  # the vehicle drove on after the point was taken
    local = points - np.array([car["x"], car["y"], car["z"]])
    cos, sin = np.cos(car["yaw"]), np.sin(car["yaw"])
    turned = np.stack([cos * local[:, 0] + sin * local[:, 1], -sin * local[:, 0] + cos * local[:, 1], local[:, 2]], 1)
    size = np.array([car["length"], car["width"], car["height"]]) / 2 + (0.15, 0.15, -0.05)
    inside = int((np.abs(turned) < size).all(axis=1).sum())
    assert inside == pytest.approx(int(car["lidar_points"]), rel=0.15)


def test_points_from_fog_are_counted_for_no_object():
    empty = Scenario(
        seed=1, traffic=0, parked=0, people=0, style="rural", objects=(PlacedObject("truck", 22.0, -1.65),)
    )
    for condition, share in (("day", 1.0), ("fog", 0.0)):
        world = World(replace(empty, condition=condition, fog_visibility_m=15.0 if condition == "fog" else None), 1.0)
        sensors = Sensors(world, simulated_rig(RIG), 0)
        scene = sensors.scene(0.2)
        cloud, ids = sensors.sweep(sensors.rig.lidars[0], [scene], 0, 0.1, 2)
        distance = np.linalg.norm(cloud.xyz, axis=1)
        ahead = (np.abs(np.arctan2(cloud.xyz[:, 1], cloud.xyz[:, 0])) < 0.02) & (
            np.abs(cloud.xyz[:, 2]) < 0.1 * distance
        )
        assert ahead.any() and (ids[distance < 10.0] == 0).all()
        assert (ids[ahead] == 1).mean() == pytest.approx(share, abs=0.5 if share else 0.2)


def test_depth_and_class_images_show_the_same_world(bag):
    depth = cv2.imdecode(np.frombuffer(bytes(messages(bag, "/sim/depth/image_raw/compressed")[0].data), np.uint8), -1)
    labels = decode_labels(messages(bag, "/sim/rgb/truth/class")[0]).class_ids
    assert (depth[labels == CLASSES.index("sky")] == 0).all()
    road = (labels == CLASSES.index("road")) & (np.arange(480)[:, None] > 400)
    assert np.median(depth[road]) / 1000.0 == pytest.approx(4.0, abs=2.0)


def test_visibility_counts_what_stands_before():
    empty = Scenario(seed=1, traffic=0, parked=0, people=0, style="rural")
    alone = replace(empty, objects=(PlacedObject("pedestrian", 20.0, -1.65),))
    behind = replace(empty, objects=(PlacedObject("pedestrian", 20.0, -1.65), PlacedObject("truck", 12.0, -1.65)))
    shares = []
    for scenario in (alone, behind):
        world = World(scenario, 1.0)
        sensors = Sensors(world, simulated_rig(RIG), 0)
        scene = sensors.scene(0.0)
        objects = scene.snapshot.objects
        shares.append(
            dict(
                zip(
                    [o.instance for o in objects],
                    visible_shares(scene, sensors.rig.cameras, world.ego_pose(0.0), objects),
                    strict=True,
                )
            )
        )
    assert shares[0][1] > 0.9 and shares[1][1] < 0.05 and shares[1][2] > 0.9


@pytest.mark.parametrize(("seconds", "rate"), [(0.0, 10.0), (-1.0, 10.0), (1.0, 0.5), (1.0, 20.0), (1.0, 7.0)])
def test_impossible_lengths_and_rates_are_refused_before_anything_is_written(tmp_path, seconds, rate):
    with pytest.raises(ConfigError):
        simulate(DRIVE, RIG, seconds, tmp_path / "x.mcap", rate_hz=rate)
    assert not list(tmp_path.iterdir())


def test_existing_bag_is_kept_unless_told(bag, tmp_path):
    path = tmp_path / "mine.mcap"
    path.write_bytes(b"precious")
    with pytest.raises(BagError, match="exists"):
        simulate(DRIVE, RIG, 0.1, path, workers=1)
    assert path.read_bytes() == b"precious"


def test_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "full.mcap"
    written = []

    def fail(self, connection, timestamp, data):
        written.append(timestamp)
        if len(written) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rosbags.rosbag2.Writer.write", fail)
    with pytest.raises(BagError, match=r"full\.mcap: cannot be written \(No space left on device\)"):
        simulate(DRIVE, RIG, 0.2, path, workers=1)
    assert not list(tmp_path.iterdir())


def test_interrupted_simulation_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(DRIVE, RIG, 0.3, tmp_path / "x.mcap", workers=1, on_progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_bag_writer_can_be_given_up(tmp_path):
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "y.mcap"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_cameras_that_would_share_truth_topics_are_refused():
    twin = next(s for s in load_rig("sim").sensors if s.name == "cam_front")
    twin = replace(twin, topic="/sim/rgb/other", name="twin")
    with pytest.raises(ConfigError, match="truth topic /sim/rgb/truth/class is that of rgb too"):
        simulated_rig(replace(RIG, sensors=(*RIG.sensors, twin)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--workers", "-1"], "--workers"), (["--seed", "-1"], "--seed"), (["--rate", "30"], "40 / n"),
        (["--scenario", "noise.yaml"], "UTF-8"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_clear_line(tmp_path, monkeypatch, capsys, wrong, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise.yaml").write_bytes(b"\xff\xfe\x00")
    assert main(["simulate", "--out", "x.mcap", "--rig", "demo", *wrong]) == 2
    assert said in capsys.readouterr().err
    assert main(["simulate", "--sheet", "sheet.xyz"]) == 2
    assert not list(tmp_path.glob("[xs]*"))


# Frames for training and judging


def test_frames_depend_on_seed_and_place_alone_and_worlds_of_both_splits_differ(tmp_path):
    first = list(make_frames("train", 0, 2, workers=1))
    longer = list(make_frames("train", 0, 3, workers=1))
    held_out = next(iter(make_frames("held-out", 0, 1, workers=1)))
    for a, b in zip(first, longer, strict=False):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.thermal, b.thermal)
    assert {f.condition for f in longer} == {"day", "dusk", "night"}
    assert held_out.world_seed > 1000 * 100_000 + longer[0].world_seed, "beyond the last of 1000 sets of 100 000 worlds"
    assert (held_out.class_ids != first[0].class_ids).any()


def test_cached_frames_are_the_frames_and_damage_is_named(tmp_path):
    made = list(make_frames("held-out", 4, 1, workers=1))
    for _ in range(2):  # made, then read
        cached = list(cached_frames(tmp_path, "held-out", 4, 1))
        for name in ("rgb", "depth_m", "thermal", "class_ids"):
            np.testing.assert_array_equal(getattr(cached[0], name), getattr(made[0], name))
        assert (cached[0].condition, cached[0].world_seed) == (made[0].condition, made[0].world_seed)
    path = next(tmp_path.rglob("*.npz"))
    for size in (1000, 0):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(DataError, match="remove it"):
            load_frame(path)


@pytest.mark.parametrize(("seed", "count"), [(-1, 1), (1000, 1), (0, 0)])
def test_frame_sets_out_of_range_are_refused(seed, count):
    with pytest.raises(ConfigError):
        next(iter(make_frames("train", seed, count)))


def test_folder_that_cannot_be_written_is_said(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(BagError, match="cannot be written"):
        simulate(DRIVE, RIG, 0.1, blocker / "x.mcap", workers=1)


def test_command_says_what_it_wrote(tmp_path, capsys):
    path = tmp_path / "bag"
    options = ["--scenario", "country-night", "--seconds", "0.2", "--rig", "demo", "--workers", "1"]
    assert main(["simulate", *options, "--out", str(path)]) == 0
    assert (path / "metadata.yaml").is_file(), "a rosbag2 folder, as its name does not end in .mcap"
    assert "2 bundles" in capsys.readouterr().out
    assert main(["simulate", *options, "--out", str(path)]) == 2
    assert "exists" in capsys.readouterr().err


def test_sheet_has_a_row_per_condition_and_a_column_per_modality():
    from mm_perception.sim.conditions import CONDITIONS
    from mm_perception.sim.sheet import COLUMNS, draw_sheet

    sheet = draw_sheet(seed=3, style="rural", time_s=0.2, scale=0.1)
    assert sheet.shape == (24 + 48 * len(CONDITIONS), 64 * len(COLUMNS), 3)
    rows = sheet[24:].reshape(len(CONDITIONS), 48, len(COLUMNS), 64, 3).swapaxes(1, 2)
    assert all(cell[20:].std() > 2 for row in rows for cell in row), "no empty picture"
    day, night = (float(rows[CONDITIONS.index(c), 0].mean()) for c in ("day", "night"))
    assert day > 2 * night
