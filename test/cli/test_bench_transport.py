"""`mm-perception bench transport`: what arrives between two processes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")

from mm_perception.cli.main import main
from mm_perception.core.errors import ConfigError
from mm_perception.ros.transport import parse_load

pytestmark = pytest.mark.ros


def test_small_messages_of_both_publishers_all_arrive(tmp_path, capsys):
    out = tmp_path / "figures.json"
    line = ["bench", "transport", "--sizes", "64x48,0.01MB", "--seconds", "1", "--rate", "10", "--json", str(out)]
    assert main(line) == 0
    assert "10 of 10" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert [(one["load"], one["publisher"]) for one in figures] == [
        (load, publisher) for load in ("64x48", "0.01MB") for publisher in ("reliable", "best_effort")
    ]
    for one in figures:
        assert (one["sent"], one["arrived"]) == (10, 10)
        assert 0.0 < one["median_ms"] <= one["p95_ms"]
        assert one["qos"] == f"{one['publisher'].replace('_', ' ')}, volatile, depth 1"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--sizes", "640"], "640"),
        (["--sizes", "0x480"], "0x480"),
        (["--sizes", "640x480,200MB"], "200MB"),
        (["--publishers", "reliable,certain"], "certain"),
        (["--seconds", "0"], "--seconds"),
        (["--rate", "-1"], "--rate"),
    ],
)
def test_unusable_options_are_named(capsys, options, named):
    assert main(["bench", "transport", *options]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "type_name", "megabytes"),
    [
        ("640x480", "sensor_msgs/msg/Image", 0.9216),
        ("2MB", "sensor_msgs/msg/PointCloud2", 2.0),
        ("0.5MB", "sensor_msgs/msg/PointCloud2", 0.5),
    ],
)
def test_loads_are_as_large_as_they_say(text, type_name, megabytes):
    load = parse_load(text)
    assert (load.type_name, load.megabytes) == (type_name, pytest.approx(megabytes))
    assert len(load.message(0).data) == pytest.approx(megabytes * 1e6)


@pytest.mark.parametrize("text", ["", "x", "-1x2", "640X480", "2", "2mb"])
def test_what_is_no_load_is_refused(text):
    with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
        parse_load(text)
