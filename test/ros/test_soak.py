"""The soak itself: a live node, a simulated vehicle, and every kind of fault in two minutes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")

from mm_perception.cli.main import main

pytestmark = pytest.mark.ros


@pytest.mark.slow
def test_two_minutes_of_faults_are_named_and_survived(tmp_path, capsys):
    report = tmp_path / "soak.json"
    line = ["soak", "--minutes", "2", "--seed", "1", "--rig", "demo", "--detector", "none", "--rate", "2"]
    code = main([*line, "--json", str(report), "--log", str(tmp_path)])
    facts = json.loads(report.read_text())
    assert code == 0, capsys.readouterr().out
    assert all(one["holds"] for one in facts["promises"].values())
    assert facts["named_share"] >= 0.95 and len(facts["faults"]) >= 8
    assert {one["exit_code"] for one in facts["sessions"].values()} == {0}
    assert set(facts["sessions"]) == {"main", "clock"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--faults", "explode"], "explode"),
        (["--minutes", "0"], "--minutes"),
        (["--rate", "3"], "--rate"),
        (["--rig", "nuscenes"], "--rig nuscenes"),
    ],
)
def test_what_cannot_be_driven_is_refused_in_a_line(options, words, tmp_path, capsys):
    rig = [] if "--rig" in options else ["--rig", "demo", "--detector", "none"]
    assert main(["soak", *rig, *options, "--log", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
