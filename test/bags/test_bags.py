from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.bags.typestore import typestore
from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_image, encode_label_info
from mm_perception.codec.image import decode_image
from mm_perception.core.errors import BagError, DataError

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)

HASHES = {
    "vision_msgs/msg/Detection3DArray": "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "vision_msgs/msg/LabelInfo": "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
}


def write(path: Path, count: int = 5) -> None:
    with BagWriter(path) as bag:
        for i in range(1, count + 1):
            bag.write("/image", encode_image(bag.factory, IMAGE, "rgb8", i, "cam"), i)
        bag.write("/labels", encode_label_info(bag.factory, ["a"], count + 1, ""), count + 1, latched=True)


@pytest.mark.parametrize("name", ["bag.mcap", "bag"])
def test_bags_come_back(tmp_path: Path, name):
    write(tmp_path / name)
    with BagReader(tmp_path / name) as bag:
        assert bag.topics == {"/image": "sensor_msgs/msg/Image", "/labels": "vision_msgs/msg/LabelInfo"}
        assert (bag.message_count, bag.count("/image")) == (6, 5)
        assert bag.qos_durability_transient("/labels")
        assert not bag.qos_durability_transient("/image")
        frames = [decode_image(bag.decode(m)) for m in bag.messages({"/image"})]
    assert [f.stamp_ns for f in frames] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(frames[0].image, IMAGE)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_existing_bag_is_not_overwritten_unless_told(tmp_path: Path):
    write(tmp_path / "bag.mcap")
    with pytest.raises(BagError, match="exists"):
        BagWriter(tmp_path / "bag.mcap")
    with BagWriter(tmp_path / "bag.mcap", overwrite=True) as bag:
        bag.write("/image", encode_image(bag.factory, IMAGE, "rgb8", 1, "cam"), 1)
    with BagReader(tmp_path / "bag.mcap") as bag:
        assert bag.message_count == 1


def test_interrupted_writing_leaves_nothing(tmp_path: Path):
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "bag.mcap") as bag:
        bag.write("/image", encode_image(bag.factory, IMAGE, "rgb8", 1, "cam"), 1)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_damaged_bag_is_a_clear_error(tmp_path: Path, keep):
    path = tmp_path / "bag.mcap"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BagError, match=r"bag\.mcap"), BagReader(path) as bag:
        list(bag.messages())


def test_flipped_bytes_are_a_clear_error_or_refused_messages(tmp_path: Path):
    path = tmp_path / "bag.mcap"
    write(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 40] = bytes(40)
    path.write_bytes(bytes(data))
    with pytest.raises((BagError, DataError)), BagReader(path) as bag:
        for message in bag.messages():
            bag.decode(message)
            raise BagError("a damaged chunk was taken for whole")


@pytest.mark.parametrize("name", ["none.mcap", "text.txt"])
def test_what_is_no_bag_is_named(tmp_path: Path, name):
    (tmp_path / "text.txt").write_text("no bag")
    with pytest.raises(BagError, match=name):
        BagReader(tmp_path / name)


def test_bytes_that_are_no_message_are_refused(tmp_path: Path):
    write(tmp_path / "bag.mcap", 1)
    with BagReader(tmp_path / "bag.mcap") as bag:
        message = next(iter(bag.messages({"/image"})))
        from dataclasses import replace

        with pytest.raises(DataError, match="/image"):
            bag.decode(replace(message, cdr=message.cdr[:30]))


@pytest.mark.parametrize("type_name", sorted(HASHES))
def test_own_definitions_have_the_upstream_type_hash(type_name):
    assert typestore().hash_rihs01(type_name) == HASHES[type_name]


def test_recorded_bag_with_compressed_messages(shared_dir):
    with BagReader(shared_dir / "data" / "ros2_mcap_camera" / "soccer_goal_12.mcap") as bag:
        assert bag.topics == {"/camera/image_raw": "sensor_msgs/msg/Image"}
        frames = [decode_image(bag.decode(message)) for message in bag.messages()]
    assert [f.image.shape for f in frames] == [(480, 640, 3)] * 2
