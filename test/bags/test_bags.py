from __future__ import annotations

import contextlib
import sqlite3
import struct
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.bags.typestore import typestore
from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_image, encode_label_info, encode_transforms
from mm_perception.codec.image import decode_image
from mm_perception.core.errors import BagError, DataError
from mm_perception.fuzz.cost import measured

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

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


@pytest.mark.parametrize("keep", [0.0, 0.001])
def test_a_bag_of_which_nothing_is_left_is_a_clear_error(tmp_path: Path, keep):
    path = tmp_path / "bag.mcap"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BagError, match=r"bag\.mcap"), BagReader(path) as bag:
        list(bag.messages())


def flipped(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def test_our_bags_carry_every_checksum(tmp_path: Path):
    path = tmp_path / "bag.mcap"
    write(path, 400)  # several chunks
    data = path.read_bytes()
    _, _, summary, _, summary_crc, magic = struct.unpack("<BQQQI8s", data[-37:])
    assert magic == b"\x89MCAP0\r\n"
    assert summary_crc == crc32(data[summary : len(data) - 12])
    assert data[summary - 13] == 0x0F and struct.unpack("<I", data[summary - 4 : summary])[0] == crc32(
        data[: summary - 13]
    )
    at, chunks = 8, 0
    while at < summary:
        op, size = struct.unpack_from("<BQ", data, at)
        if op == 0x06:
            raw_size, crc, length = struct.unpack_from("<QII", data, at + 25)
            raw = zstd.decompress(data[at + 41 + length + 8 : at + 9 + size])
            assert (len(raw), crc32(raw)) == (raw_size, crc)
            chunks += 1
        at += 9 + size
    assert chunks > 2


def test_no_flipped_bit_is_taken_for_data(tmp_path: Path):
    path = tmp_path / "bag.mcap"
    write(path, 300)
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    with BagReader(path) as bag:
        expected = {(m.topic, m.log_ns): m.cdr for m in bag.messages()}
        assert not bag.dropped
    gone = 0
    for bit in generator.integers(0, len(whole) * 8, 150):
        path.write_bytes(whole)
        flipped(path, int(bit))
        try:
            with BagReader(path) as bag:
                found = {(m.topic, m.log_ns): m.cdr for m in bag.messages()}
                dropped = bag.dropped
        except BagError:
            continue
        assert all(expected[key] == cdr for key, cdr in found.items())
        lost = len(expected) - len(found)
        assert lost == 0 or sum(dropped.values()) == lost, bit
        gone += lost > 0
    assert gone > 50


def test_a_damaged_chunk_is_named_once_and_the_next_is_read(tmp_path: Path):
    path = tmp_path / "bag.mcap"
    write(path, 400)
    flipped(path, 8 * 5000)  # within the first chunk
    with BagReader(path) as bag:
        for _ in range(2):
            stamps = [m.log_ns for m in bag.messages({"/image"})]
        dropped = bag.dropped
    assert len(stamps) > 200 and stamps[0] > 1 and stamps[-1] == 400
    assert dropped.total() == 400 - len(stamps)
    assert [reason.startswith("/image: damaged chunk (") for reason in dropped] == [True]


def test_a_damaged_summary_is_made_anew(tmp_path: Path):
    path = tmp_path / "bag.mcap"
    write(path, 300)
    (summary,) = struct.unpack("<Q", path.read_bytes()[-28:-20])
    flipped(path, 8 * (summary + 900))
    with BagReader(path) as bag:
        assert bag.message_count == 301 and bag.count("/image") == 300
        assert [decode_image(bag.decode(m)).stamp_ns for m in bag.messages({"/image"})] == list(range(1, 301))
        assert dict(bag.dropped) == {"bag: summary: checksum mismatch": 1}


@pytest.mark.parametrize("size", [2**40, 2**28])
def test_a_chunk_does_not_unpack_to_more_than_it_may(tmp_path: Path, size):
    path = tmp_path / "bag.mcap"
    write(path, 3)
    whole = path.read_bytes()
    at = whole.index(b"\x04\x00\x00\x00zstd") - 28 - 9
    packed = zstd.compress(bytes(200_000_000))
    record = struct.pack("<QQQI", 1, 4, size, 0) + b"\x04\x00\x00\x00zstd" + struct.pack("<Q", len(packed)) + packed
    bomb = whole[:at] + struct.pack("<BQ", 6, len(record)) + record
    path.write_bytes(bomb + struct.pack("<BQI", 0x0F, 4, 0) + struct.pack("<BQQQI", 2, 20, 0, 0, 0) + whole[-8:])
    with BagReader(path) as bag:
        cost = measured(lambda: list(bag.messages()))
        assert bag.message_count == 0 and "damaged chunk (chunk of more than" in next(iter(bag.dropped))
    assert cost.bytes < 300_000_000


@pytest.mark.parametrize("row", ["NULL", "'text'", "7"])
def test_a_row_that_is_no_message_is_named(tmp_path: Path, row):
    write(tmp_path / "bag")
    with sqlite3.connect(tmp_path / "bag" / "bag.db3") as database:
        database.executescript(
            "CREATE TABLE other AS SELECT * FROM messages; DROP TABLE messages;"
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);"
            f"INSERT INTO messages SELECT * FROM other; UPDATE messages SET data = {row} WHERE id = 2; DROP TABLE other"
        )
    with BagReader(tmp_path / "bag") as bag:
        assert len(list(bag.messages())) == 5
        assert dict(bag.dropped) == {"/image: row that holds no message": 1}


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE messages; CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
        "data BLOB AS (zeroblob(900000000)))",
        "CREATE VIEW other AS SELECT 1",
    ],
)
def test_a_database_that_computes_is_refused(tmp_path: Path, sql):
    write(tmp_path / "bag")
    with sqlite3.connect(tmp_path / "bag" / "bag.db3") as database:
        database.executescript(sql)
    with pytest.raises(BagError, match="no plain table"):
        BagReader(tmp_path / "bag")


def test_metadata_of_a_folder_is_no_way_around(tmp_path: Path):
    write(tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").write_text("a: " + "[" * 5000 + "]" * 5000)
    with BagReader(tmp_path / "bag") as bag:  # it is not parsed, and not needed
        assert bag.message_count == 6
        assert "deeper" in bag.notes[0]


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


@pytest.mark.parametrize("column", ["type", "name"])
def test_a_topic_without_name_or_type_is_damage_that_is_named(tmp_path, column):
    import sqlite3

    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/tf_static", encode_transforms(bag.factory, [], 1), 1)
    (file,) = (tmp_path / "bag").glob("*.db3")
    with contextlib.closing(sqlite3.connect(file)) as base:
        (table,) = (row[0] for row in base.execute("SELECT sql FROM sqlite_master WHERE name = 'topics'"))
        loose = table.replace("NOT NULL", "").replace("topics", "loose", 1)
        base.executescript(
            f"{loose}; INSERT INTO loose SELECT * FROM topics; UPDATE loose SET {column} = NULL; DROP TABLE topics;"
            "ALTER TABLE loose RENAME TO topics;"
        )
    with pytest.raises(BagError, match=r"without a name or type|cannot be opened"):
        BagReader(file)
