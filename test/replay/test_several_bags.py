"""A recording in several bags, and topics that a bag lacks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.bags.writer import BagWriter
from mm_perception.cli.main import main
from mm_perception.core.rig import load_rig
from mm_perception.pipeline.intake import Intake
from mm_perception.replay.replay import missing_topics, observations


@pytest.fixture
def apart(demo_bag: Path, tmp_path: Path) -> list[Path]:
    """The demo's recording as three bags: a part of the topics, the rest of them before an instant, and after it."""
    paths = [tmp_path / "cameras.mcap", tmp_path / "first", tmp_path / "rest.mcap"]
    with BagReader(demo_bag) as bag:
        messages = list(bag.messages())
        middle_ns = messages[len(messages) // 2].log_ns
        writers = [BagWriter(path) for path in paths]
        for one in messages:
            writer = writers[0 if "rgb" in one.topic else 1 if one.log_ns < middle_ns else 2]
            writer.write(one.topic, bag.decode(one), one.log_ns, latched=bag.qos_durability_transient(one.topic))
    for writer in writers:
        writer.close()
    return paths


def seen(paths: Path | list[Path]) -> list[tuple[int, tuple[str, ...]]]:
    with BagReader(paths) as bag:
        found = observations(bag, Intake(load_rig("demo")))
        return [(one.bundle.stamp_ns, tuple(sorted(one.bundle.measurements))) for one in found]


def test_several_bags_give_what_one_gives(demo_bag, apart):
    expected = seen(demo_bag)
    assert len(expected) > 3
    assert seen(apart) == seen(apart[::-1]) == expected


def test_commands_take_several(apart, small_card, capsys):
    with BagReader(apart) as bag:
        total = bag.message_count
    names = [str(path) for path in apart]
    assert main(["info", *names]) == 0
    assert f"{total} messages" in capsys.readouterr().out
    assert main(["replay", *names, "--rig", "demo", "--model", str(small_card), "--engine", "onnxruntime"]) == 0
    assert "frames 6 " in capsys.readouterr().out


def test_every_topic_that_is_missing_is_named(demo_bag):
    rig = load_rig("demo")
    sensors = tuple(
        dataclasses.replace(
            one,
            topic=one.topic.replace("/sim/", "/robot/") if one.name != rig.reference else one.topic,
            camera_info=one.camera_info.replace("camera_info", "info") if one.camera_info else "",
        )
        for one in rig.sensors
    )
    changed = dataclasses.replace(rig, sensors=sensors, labels="/sim/rgb/truth/classes")
    with BagReader(demo_bag) as bag:
        found = {who: str(error) for who, error in missing_topics(bag, Intake(changed))}
        assert not list(missing_topics(bag, Intake(rig)))
    infos = {f"{one.name} camera_info" for one in sensors if one.camera_info}
    assert found.keys() == {one.name for one in sensors if one.name != rig.reference} | infos | {"labels"}
    for one in rig.sensors:
        if one.name != rig.reference:
            assert f"did you mean {one.topic}" in found[one.name]
    assert "did you mean /sim/rgb/truth/class" in found["labels"]
