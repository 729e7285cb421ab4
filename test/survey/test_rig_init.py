"""From a recording to a rig, and from the rig back to the recording."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mm_perception.cli.main import main
from mm_perception.core.rig import RigConfig, load_rig

sys.path.insert(0, str(Path(__file__).parent))
from recorded import Drive, Stream

CAMERA = {"/front/image_raw": Stream("colour"), "/front/camera_info": Stream("info")}
FULL = CAMERA | {
    "/front/depth/image_raw": Stream("depth"),
    "/boson/image_raw": Stream("thermal16", period_ms=50.0, count=60),
    "/laser/points": Stream("cloud", "laser", phase_ms=30.0),
}


@pytest.fixture
def init(tmp_path: Path, capsys):
    """A function from a drive to the rig that is written of it, its text and its bag."""

    def run(drive: Drive, *options: str) -> tuple[RigConfig, str, Path]:
        bag, rig = drive.write(tmp_path / "drive.mcap"), tmp_path / "rig.yaml"
        assert main(["rig", "init", str(bag), "--out", str(rig), *options]) == 0
        capsys.readouterr()
        return load_rig(str(rig)), rig.read_text(), bag

    return run


def checked(rig: Path, bag: Path, tmp_path: Path, *options: str) -> tuple[int, dict]:
    out = tmp_path / "check.json"
    code = main(["check", str(rig), str(bag), "--json", str(out), "--overwrite", *options])
    return code, json.loads(out.read_text())


def sensor_of(report: dict, name: str) -> dict:
    return next(one for one in report["sensors"] if one["name"] == name)


def test_all_that_a_vehicle_has_becomes_a_rig_that_is_ready(init, tmp_path, capsys):
    rig, text, bag = init(Drive(FULL))
    assert {one.name: (one.kind, one.topic) for one in rig.sensors} == {
        "rgb": ("rgb", "/front/image_raw"),
        "depth": ("depth", "/front/depth/image_raw"),
        "thermal": ("thermal", "/boson/image_raw"),
        "lidar": ("lidar", "/laser/points"),
    }
    assert (rig.reference, rig.fixed_frame, rig.odometry) == ("rgb", "odom", "")
    assert rig.sensor("rgb").camera_info == "/front/camera_info"
    assert rig.sensor("thermal").thermal_scale == "centikelvin"
    assert (rig.sensor("lidar").intensity_max, rig.sensor("lidar").coverage_deg) == (1.0, 360.0)
    assert rig.sensor("lidar").offset_ms == pytest.approx(30.0, abs=0.2)
    assert rig.sensor("thermal").rate_hz == pytest.approx(20.0)
    assert [one.name for one in rig.sensors if one.required] == ["rgb"]
    assert text.count("guess") >= 3
    code, report = checked(tmp_path / "rig.yaml", bag, tmp_path)
    assert (code, report["ready"]) == (0, True), report
    assert report["bundles"] == report["frames"] == 30 and report["complete"] >= 28
    assert "READY" in capsys.readouterr().out


def test_what_is_not_taken_is_listed_with_the_reason(init):
    streams = FULL | {
        "/front/image_raw/compressed": Stream("jpeg"),
        "/camera/infra1/image_rect_raw": Stream("grey"),
        "/front/segmentation/labels": Stream("labels"),
    }
    rig, text, _ = init(Drive(streams, odometry={"/wheels/odom": ("odom", "base_link")}))
    assert "/camera/infra1/image_rect_raw: near infrared" in text
    assert "not used: /front/image_raw/compressed" in text
    assert "/wheels/odom: not needed" in text
    assert rig.labels == "/front/segmentation/labels"
    assert len(rig.sensors) == 4


@pytest.mark.parametrize(
    ("drive", "key", "value"),
    [
        (Drive(CAMERA, moving=(), odometry={"/wheels/odom": ("world", "base_link")}), "odometry", "/wheels/odom"),
        (Drive(CAMERA, moving=(), odometry={"/wheels/odom": ("world", "elsewhere")}), "fixed_frame", ""),
        (Drive(CAMERA, moving=(("map", "odom"), ("odom", "base_link"))), "fixed_frame", "odom"),
        (Drive(CAMERA, moving=(("local", "base_link"),)), "fixed_frame", "local"),
        (Drive(CAMERA, moving=(), static=()), "fixed_frame", ""),
    ],
)
def test_motion_is_found_where_it_is(init, drive, key, value):
    rig, _, _ = init(drive)
    assert getattr(rig, key) == value


def test_the_front_camera_with_calibration_is_the_reference(init):
    side = {
        "/cam_rear/image_raw": Stream("colour", "rear"), "/cam_left/image_raw": Stream("colour", "left"),
        "/cam_front/image_raw": Stream("colour"), "/cam_front/camera_info": Stream("info"),
        "/a_grey/image": Stream("grey"),
    }  # fmt: skip
    rig, text, _ = init(Drive(side))
    assert rig.reference == "cam_front"
    assert {one.name for one in rig.sensors} == {"cam_front", "cam_rear", "cam_left", "a_grey"}
    assert "NO transform links it" in text


def test_a_narrow_lidar_says_how_far_it_sees(init):
    rig, _, _ = init(Drive(CAMERA | {"/livox/lidar": Stream("cloud", "narrow")}))
    assert rig.sensor("lidar").coverage_deg == pytest.approx(115, abs=5)


def test_transforms_of_another_namespace_and_with_a_prefix_are_said(init):
    links = (("robot1/base_link", "robot1/cam"), ("robot1/base_link", "robot1/laser"))
    streams = CAMERA | {"/laser/points": Stream("cloud", "laser")}
    _, text, _ = init(Drive(streams, static=links, moving=(), tf_prefix="/robot1"))
    assert "/robot1/tf_static" in text and "transforms call the frame cam robot1/cam" in text
    assert "frame laser, linked to the reference's cam" in text


@pytest.mark.parametrize("ahead_ms", [5250.0, -8000.0])
def test_another_clock_becomes_an_offset_and_matches(init, tmp_path, ahead_ms):
    streams = CAMERA | {"/laser/points": Stream("cloud", "laser", clock_ms=ahead_ms)}
    rig, text, bag = init(Drive(streams, moving=()))
    assert rig.sensor("lidar").offset_ms == pytest.approx(ahead_ms, abs=20)
    assert "its clock is" in text
    code, report = checked(tmp_path / "rig.yaml", bag, tmp_path)
    assert code == 0, report


def test_tai_is_named(init):
    _, text, _ = init(Drive(CAMERA | {"/laser/points": Stream("cloud", "laser", clock_ms=37_000)}))
    assert "37.000 s ahead of the reference's (TAI)" in text


@pytest.mark.parametrize(
    ("streams", "sensor", "said"),
    [
        ({"/laser/points": None}, "lidar", "no topic /laser/points"),
        ({"/laser/points": None, "/laser/points_raw": Stream("cloud", "laser")}, "lidar",
         "did you mean /laser/points_raw?"),
        ({"/boson/image_raw": Stream("jpeg")}, "thermal", "is a sensor_msgs/msg/CompressedImage"),
        ({"/laser/points": Stream("cloud", "laser", clock_ms=37_000)}, "lidar", "37.000 s ahead"),
        ({"/laser/points": Stream("cloud", "laser", phase_ms=60)}, "lidar", "out of sync"),
        ({"/laser/points": Stream("cloud", "elsewhere", phase_ms=30)}, "lidar", "no transform"),
        ({"/laser/points": Stream("cloud", "laser", phase_ms=30, late_ms=400)}, "lidar", "late: it comes 4"),
        ({"/boson/image_raw": Stream("thermal16", period_ms=200, count=15)}, "thermal", "too slow: 5"),
        ({"/boson/image_raw": Stream("thermal8", period_ms=50, count=60)}, "thermal", "cannot be used"),
        ({"/front/camera_info": None}, "rgb", "camera_info: no topic"),
        ({"/front/image_raw": None}, "rgb", "no topic /front/image_raw"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_drive(init, tmp_path, capsys, streams, sensor, said):
    init(Drive(FULL))
    other = {name: stream for name, stream in (FULL | streams).items() if stream is not None}
    bag = Drive(other).write(tmp_path / "other.mcap")
    code, report = checked(tmp_path / "rig.yaml", bag, tmp_path)
    assert (code, report["ready"], sensor_of(report, sensor)["ready"]) == (1, False, False)
    assert any(said in reason for reason in sensor_of(report, sensor)["reasons"]), sensor_of(report, sensor)
    printed = capsys.readouterr().out
    assert "NOT READY" in printed and f"{sensor}: " in printed
    others = [one for one in report["sensors"] if one["name"] != sensor]
    if sensor != "rgb":
        assert all(one["ready"] for one in others), others


def test_sensors_that_may_be_missing_count_only_where_asked(init, tmp_path):
    init(Drive(FULL))
    bag = Drive(CAMERA).write(tmp_path / "other.mcap")
    assert checked(tmp_path / "rig.yaml", bag, tmp_path)[0] == 1
    assert checked(tmp_path / "rig.yaml", bag, tmp_path, "--required-only")[0] == 0


def test_several_bags_are_one_recording(tmp_path, capsys):
    camera, laser = tmp_path / "camera.mcap", tmp_path / "laser"
    Drive(CAMERA).write(camera)
    Drive({"/laser/points": Stream("cloud", "laser")}, static=(), moving=()).write(laser)
    rig = tmp_path / "rig.yaml"
    assert main(["rig", "init", str(camera), str(laser), "--out", str(rig)]) == 0
    assert [one.kind for one in load_rig(str(rig)).sensors] == ["rgb", "lidar"]
    assert main(["check", str(rig), str(camera), str(laser)]) == 0


def test_standard_output_is_the_rig_and_nothing_else(tmp_path, capsys):
    bag = Drive(CAMERA).write(tmp_path / "my drive 7.mcap")
    assert main(["rig", "init", str(bag)]) == 0
    (tmp_path / "rig.yaml").write_text(capsys.readouterr().out)
    assert load_rig(str(tmp_path / "rig.yaml")).name == "my_drive_7"


def test_a_rig_that_is_there_stays(init, tmp_path, capsys):
    _, before, bag = init(Drive(CAMERA))
    assert main(["rig", "init", str(bag), "--out", str(tmp_path / "rig.yaml")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "rig.yaml").read_text() == before


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["rig", "init"], "one or more bags, or --live"),
        (["check", "demo"], "one or more bags, or --live"),
        (["check", "demo", "x.mcap", "--live", "5"], "not both"),
        (["check", "no_such_rig", "drive.mcap"], "no_such_rig"),
        (["check", "demo", "none.mcap"], "none.mcap"),
        (["rig", "init", "laser.mcap"], "no colour or grey camera"),
    ],
)
def test_unusable_input_is_told_in_one_line(tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    Drive(CAMERA).write(tmp_path / "drive.mcap")
    Drive({"/laser/points": Stream("cloud", "laser")}).write(tmp_path / "laser.mcap")
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_names_and_reasons_of_a_hostile_sender_stay_in_their_comments(init):
    evil = Stream("colour", "cam\nreference: evil")
    streams = CAMERA | {"/side/image_raw": evil, "/on": replace(evil, frame="yes")}
    rig, text, _ = init(Drive(streams))
    assert rig.reference != "evil" and all(not line.startswith("reference: evil") for line in text.splitlines())
    assert {one.topic for one in rig.sensors} == {"/front/image_raw", "/side/image_raw", "/on"}


def test_the_demo_bag_goes_from_rig_to_replay(demo_bag, tmp_path, small_card, capsys):
    pytest.importorskip("onnxruntime", reason="needs an engine")
    rig = tmp_path / "rig.yaml"
    assert main(["rig", "init", str(demo_bag), "--out", str(rig)]) == 0
    assert {one.kind for one in load_rig(str(rig)).sensors} == {"rgb", "depth", "thermal", "events", "lidar"}
    assert main(["check", str(rig), str(demo_bag)]) == 0
    assert main(["replay", str(demo_bag), "--rig", str(rig), "--model", str(small_card)]) == 0
    assert "segmented 6" in capsys.readouterr().out


@pytest.mark.parametrize(("topic", "rectified"), [("/front/image_rect_color", True), ("/front/image_raw", False)])
def test_rectified_images_of_a_camera_with_a_lens_are_known_by_name(init, topic, rectified):
    rig, text, _ = init(Drive({topic: Stream("colour"), "/front/camera_info": Stream("lens")}))
    assert rig.sensor(rig.reference).rectified is rectified
    assert ("P of the camera_info holds" in text) is rectified
