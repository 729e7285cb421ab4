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
    main([*line, "--json", str(report), "--log", str(tmp_path)])
    facts = json.loads(report.read_text())
    # How soon all is well again is judged where a machine has nothing else to do; these hold on a busy one, too.
    for promise in ("no crash, exit code 0", "no internal error", "no empty boxes of a blind detector"):
        assert facts["promises"][promise]["holds"], capsys.readouterr().out
    assert all(one["holds"] in (True, False) for one in facts["promises"].values())
    # Of so few faults one may be missed: the promise of 95 % is one of the long soak.
    missed = [one for one in facts["faults"] if not one["good"]]
    assert len(missed) <= 1 and len(facts["faults"]) >= 8, missed
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
