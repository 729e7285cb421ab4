"""Bags as other programs write, cut, copy and pack them."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from mm_perception.bags.channels import RecordedQos, parse_qos
from mm_perception.bags.compression import unpack_file
from mm_perception.bags.names import nearest_names
from mm_perception.bags.reader import BagReader
from mm_perception.bags.typestore import serialize
from mm_perception.codec.camera_info import decode_camera_info
from mm_perception.codec.image import decode_image
from mm_perception.codec.transforms import decode_transform
from mm_perception.core.errors import BagError, DataError
from mm_perception.fuzz.cost import measured
from mm_perception.fuzz.mutate import mutated_bytes

sys.path.insert(0, str(Path(__file__).parent))
from bag_files import (
    IMAGE,
    INFO,
    MAGIC,
    PACK,
    PIXELS,
    ROS1,
    channel,
    chunk,
    chunks_of_images,
    closed,
    image,
    image_cdr,
    image_channel,
    message,
    record,
    ros1_image,
    ros1_info,
    ros1_transforms,
    schema,
    text,
    write_folder,
    write_ros1,
)  # fmt: skip

STAMPS = list(range(1_000, 1_030))


def stamps_of(path: Path | list[Path], topic: str = "/image") -> list[int]:
    with BagReader(path) as bag:
        return [decode_image(bag.decode(m)).stamp_ns for m in bag.messages({topic})]


# ---- ROS 1


@pytest.fixture(params=["none", "lz4", "bz2"])
def ros1_bag(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "drive.bag"
    items: list[tuple[str, Any, int]] = [("/tf_static", ros1_transforms(1), 1)]
    items += [("/cam/camera_info", ros1_info(ns), ns) for ns in STAMPS]
    items += [("/cam/image_raw", ros1_image(ns), ns) for ns in STAMPS]
    write_ros1(path, sorted(items, key=lambda item: item[2]), request.param)
    return path


def test_a_ros1_bag_reads_as_one_of_ros2(ros1_bag: Path):
    with BagReader(ros1_bag) as bag:
        assert bag.topics == {
            "/tf_static": "tf2_msgs/msg/TFMessage", "/cam/camera_info": INFO, "/cam/image_raw": IMAGE
        }  # fmt: skip
        assert (bag.message_count, bag.count("/cam/image_raw")) == (61, 30)
        assert bag.duration_s == pytest.approx((STAMPS[-1] - 1) * 1e-9)
        assert bag.qos_durability_transient("/tf_static") and not bag.qos_durability_transient("/cam/image_raw")
        decoded = [(m.topic, bag.decode(m)) for m in bag.messages()]
        assert not bag.dropped and not bag.notes
    images = [decode_image(one) for topic, one in decoded if topic == "/cam/image_raw"]
    assert [one.stamp_ns for one in images] == STAMPS
    np.testing.assert_array_equal(images[3].image, PIXELS)
    (static,) = (one for topic, one in decoded if topic == "/tf_static")
    assert not hasattr(static.transforms[0].header, "seq")
    transform, _ = decode_transform(static.transforms[0])
    np.testing.assert_array_equal(transform.translation, [1, 2, 3])
    camera = decode_camera_info(next(one for topic, one in decoded if topic == "/cam/camera_info"))
    np.testing.assert_array_equal(camera.distortion, [0.1, -0.2, 0.01, 0.02, 0.3])
    assert camera.intrinsics[1, 1] == 21.0


def test_bytes_of_ros1_are_given_as_ros2_has_them(ros1_bag: Path):
    with BagReader(ros1_bag) as bag:
        first = next(iter(bag.messages({"/cam/image_raw"})))
    assert first.cdr == serialize(image(STAMPS[0]), IMAGE)


def test_old_names_of_ros1_types_are_known(tmp_path: Path):
    definition = ROS1.generate_msgdef("tf2_msgs/msg/TFMessage", ros_version=1)[0]
    data = bytes(ROS1.serialize_ros1(ros1_transforms(5), "tf2_msgs/msg/TFMessage"))
    inner = schema(1, "tf/tfMessage", "ros1msg", definition) + channel(1, 1, "/tf", "ros1") + message(1, 5, data)
    path = tmp_path / "old.mcap"
    path.write_bytes(closed(chunk(inner, 5, 5, "lz4"), profile="ros1"))
    with BagReader(path) as bag:
        assert bag.topics == {"/tf": "tf2_msgs/msg/TFMessage"}
        (found,) = [bag.decode(m) for m in bag.messages()]
    assert found.transforms[0].child_frame_id == "lidar"


@pytest.mark.parametrize("definition", ["", "uint32 height\nbroken here\n", "int32[ x"])
def test_ros1_messages_without_a_usable_definition_are_read_by_noetics(tmp_path: Path, definition):
    data = bytes(ROS1.serialize_ros1(ros1_info(9), INFO))
    inner = schema(4, "sensor_msgs/CameraInfo", "ros1msg", definition) + channel(2, 4, "/info", "ros1")
    (tmp_path / "a.mcap").write_bytes(closed(inner, message(2, 9, data), profile=""))
    with BagReader(tmp_path / "a.mcap") as bag:
        (found,) = [bag.decode(m) for m in bag.messages()]
    assert found.k[0] == 20.0 and found.header.stamp.nanosec == 9


@pytest.mark.parametrize("keep", [0.98, 0.7, 0.4])
def test_a_ros1_bag_that_is_cut_is_read_as_far_as_it_goes(ros1_bag: Path, keep):
    data = ros1_bag.read_bytes()
    active = ros1_bag.with_suffix(".bag.active")
    active.write_bytes(data[: int(len(data) * keep)])
    with BagReader(active) as bag:
        found = [decode_image(bag.decode(m)).stamp_ns for m in bag.messages({"/cam/image_raw"})]
        notes = bag.notes
    assert found and found == STAMPS[: len(found)] and len(found) < 31
    assert "rosbag reindex" in notes[0]


def test_an_unindexed_ros1_bag_is_whole(ros1_bag: Path):
    data = bytearray(ros1_bag.read_bytes())
    at = data.index(b"index_pos=") + len(b"index_pos=")
    data[at : at + 8] = bytes(8)
    ros1_bag.write_bytes(data)
    assert stamps_of(ros1_bag, "/cam/image_raw") == STAMPS


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data.replace(b"#ROSBAG V2.0", b"#ROSBAG V1.2"), "version 1.2"),
        (lambda data: data[:13], "record"),
        (lambda data: data[:13] + b"\xff" * 200, "header of"),
    ],
)
def test_what_is_no_ros1_bag_that_is_known_is_refused(ros1_bag: Path, change, expected):
    ros1_bag.write_bytes(change(ros1_bag.read_bytes()))
    with pytest.raises(BagError, match=expected):
        BagReader(ros1_bag)


def test_a_ros1_chunk_does_not_unpack_to_more_than_it_may(tmp_path: Path):
    import bz2

    path = tmp_path / "bomb.bag"
    write_ros1(path, [("/image", ros1_image(5), 5)], "bz2")
    data = path.read_bytes()
    at = data.index(b"compression=bz2")
    packed = bz2.compress(bytes(400_000_000))
    start = data.index(b"BZh", at)
    path.write_bytes(data[: start - 4] + struct.pack("<I", len(packed)) + packed)
    with BagReader(path) as bag:
        cost = measured(lambda: list(bag.messages()))
        assert dict(bag.dropped) == {"bag: damaged chunk (chunk of another size than it says)": 1}
    assert cost.bytes < 300_000_000


def test_a_damaged_ros1_chunk_is_named_and_the_next_is_read(tmp_path: Path):
    path = tmp_path / "drive.bag"
    write_ros1(path, [("/image", ros1_image(ns), ns) for ns in STAMPS], "bz2")
    data = bytearray(path.read_bytes())
    at = data.index(b"BZh")
    data[at + 20 : at + 60] = bytes(40)
    path.write_bytes(data)
    with BagReader(path) as bag:
        found = [m.log_ns for m in bag.messages({"/image"})]
        dropped = bag.dropped
    assert 20 < len(found) < 30 and found[-1] == STAMPS[-1]
    assert dropped.total() == 30 - len(found) and "/image: damaged chunk" in next(iter(dropped))


# ---- MCAP


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
@pytest.mark.parametrize("size", [1, 7, 30])
def test_chunks_without_summary_and_index(tmp_path: Path, compression, size):
    path = tmp_path / "a.mcap"
    path.write_bytes(closed(*chunks_of_images(STAMPS, size, compression), profile="anything"))
    assert stamps_of(path) == STAMPS


def test_messages_outside_of_chunks_are_sorted(tmp_path: Path):
    mixed = STAMPS[10:] + STAMPS[:10]
    path = tmp_path / "a.mcap"
    path.write_bytes(closed(image_channel(), *(message(1, ns, image_cdr(ns)) for ns in mixed)))
    assert stamps_of(path) == STAMPS


def statistics(messages: int, chunks: int) -> bytes:
    counts = struct.pack("<IHQ", 10, 1, messages)
    return record(11, struct.pack("<QHIIIIQQ", messages, 1, 1, 0, 0, chunks, STAMPS[0], STAMPS[-1]) + counts)


@pytest.mark.parametrize("said", [0, 3])
def test_a_summary_that_names_no_chunks_is_made_anew(tmp_path: Path, said):
    path = tmp_path / "a.mcap"
    summary = image_channel() + statistics(len(STAMPS), said)
    path.write_bytes(closed(*chunks_of_images(STAMPS, 10, "lz4"), summary=summary))
    assert stamps_of(path) == STAMPS


def test_chunk_indexes_without_message_indexes(tmp_path: Path):
    parts = chunks_of_images(STAMPS, 10, "zstd")
    at, indexes = len(MAGIC) + len(record(1, text("ros2") + text("test"))), b""
    for i, part in enumerate(parts):
        first, last, raw, _ = struct.unpack_from("<QQQI", part, 9)
        (packed,) = struct.unpack_from("<Q", part, 9 + 28 + 4 + 4)
        body = struct.pack("<QQQQ", first, last, at, len(part)) + struct.pack("<IQ", 0, 0) + text("zstd")
        indexes += record(8, body + struct.pack("<QQ", packed, raw))
        at += len(part) + (len(message(1, 1, image_cdr(STAMPS[0]))) if i == 0 else 0)
    loose = message(1, STAMPS[0], image_cdr(STAMPS[0]))  # beside the chunks, which a summary cannot say
    path = tmp_path / "a.mcap"
    summary = image_channel() + indexes + statistics(31, 3)
    path.write_bytes(closed(parts[0], loose, *parts[1:], summary=summary))
    assert stamps_of(path) == [STAMPS[0], *STAMPS]


def test_an_unknown_compression_is_named(tmp_path: Path):
    path = tmp_path / "a.mcap"
    path.write_bytes(closed(*chunks_of_images(STAMPS, 10, "brotli")))
    with pytest.raises(BagError, match=r"'brotli'.*lz4, zstd or none") as caught:
        BagReader(path)
    assert "\n" not in str(caught.value)


JSON = schema(9, "Pose", "jsonschema", "{}") + channel(9, 9, "/pose", "json") + message(9, 1_005, b'{"x": 1}')
PROTO = schema(8, "foxglove.CompressedImage", "protobuf", b"\xff\x00\x80") + channel(8, 8, "/cam", "protobuf")
ATTACHMENT = record(9, struct.pack("<QQ", 1, 1) + text("log.txt") + text("text/plain") + struct.pack("<Q", 2) + b"hi")
METADATA = record(0x0C, text("vehicle") + text(text("wheels") + text("4")))
NAMELESS = channel(7, 0, "/raw", "cdr") + message(7, 1_006, b"\0\1\0\0")
UNKNOWN = (
    schema(6, "acme_msgs/msg/Wheel", "ros2msg", "") + channel(6, 6, "/wheel", "cdr") + message(6, 1_007, b"\0\1\0\0")
)
BROKEN = (
    schema(5, "acme_msgs/msg/Gear", "ros2msg", "uint8 [[[") + channel(5, 5, "/gear", "cdr") + message(5, 1_008, b"\0\1")
)
PRIVATE = record(0x90, b"of somebody")


@pytest.mark.parametrize("foreign", [JSON, PROTO, ATTACHMENT, METADATA, NAMELESS, UNKNOWN, BROKEN, PRIVATE])
@pytest.mark.parametrize("loose", [True, False])
def test_one_foreign_item_never_kills_the_rest(tmp_path: Path, foreign, loose):
    inside = foreign not in (ATTACHMENT, METADATA)
    parts = chunks_of_images(STAMPS, 10, "zstd")
    parts.insert(1, foreign if loose or not inside else chunk(foreign, 1_005, 1_008, "zstd"))
    path = tmp_path / "a.mcap"
    path.write_bytes(closed(*parts))
    with BagReader(path) as bag:
        found = []
        for one in bag.messages():
            with contextlib.suppress(DataError):
                found.append((one.topic, bag.decode(one)))
    assert len([topic for topic, _ in found if topic == "/image"]) == 30


def test_foreign_channels_are_named(tmp_path: Path):
    path = tmp_path / "a.mcap"
    path.write_bytes(closed(JSON, PROTO, NAMELESS, UNKNOWN, BROKEN, *chunks_of_images(STAMPS, 10, "")))
    with BagReader(path) as bag:
        assert set(bag.foreign) == {"/pose", "/cam", "/raw"}
        assert bag.why_missing("/cam").startswith("/cam is a protobuf channel (foxglove.CompressedImage)")
        assert bag.why_missing("/pose").startswith("/pose is a json channel (Pose)")
        assert "without a schema" in bag.foreign["/raw"]
        wheel, gear = (next(iter(bag.messages({topic}))) for topic in ("/wheel", "/gear"))
        with pytest.raises(DataError, match="acme_msgs/msg/Wheel is not known: the bag does not define it"):
            bag.decode(wheel)
        with pytest.raises(DataError, match="definition of it is broken"):
            bag.decode(gear)


def test_a_broken_definition_of_a_known_type_is_replaced(tmp_path: Path):
    inner = schema(1, IMAGE, "ros2msg", "this is # no definition\n= at all") + channel(1, 1, "/image", "cdr")
    path = tmp_path / "a.mcap"
    path.write_bytes(closed(inner, message(1, 4, image_cdr(4))))
    assert stamps_of(path) == [4]


# ---- files that were not closed

CUTS: dict[str, Callable[[bytes], bytes]] = {
    "in a chunk": lambda data: data[: int(len(data) * 0.6)],
    "in the end mark": lambda data: data[:-3],
    "without the end mark": lambda data: data[:-8],
    "without footer": lambda data: data[: -8 - 29],
    "without data end": lambda data: data[: -8 - 29 - 13],
    "in the last chunk": lambda data: data[: -8 - 29 - 13 - 900],
    "zeros at the end": lambda data: data[: int(len(data) * 0.6)] + bytes(int(len(data) * 0.4)),
    "zeros beyond the end": lambda data: data + bytes(5000),
    "text beyond the end": lambda data: data + b"more" * 30,
}


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_what_is_whole_of_a_file_that_was_not_closed_is_read(tmp_path: Path, how, compression):
    path = tmp_path / "cut.mcap"
    path.write_bytes(CUTS[how](closed(*chunks_of_images(STAMPS, 3, compression))))
    with BagReader(path) as bag:
        found = [m.log_ns for m in bag.messages({"/image"})]
        notes, counted = bag.notes, bag.count("/image")
    assert found == STAMPS[: len(found)] and len(found) >= 12 and counted >= len(found)
    assert notes and str(path) in notes[0]
    if found != STAMPS:
        assert "mcap recover" in notes[0]


@pytest.mark.parametrize("compression", ["", "lz4"])
def test_the_whole_messages_of_a_cut_chunk_are_read(tmp_path: Path, compression):
    path, stamps = tmp_path / "cut.mcap", list(range(1, 500))
    data = closed(*chunks_of_images(stamps, len(stamps), compression))
    path.write_bytes(data[: int(len(data) * 0.6)])
    found = stamps_of(path)
    assert 50 < len(found) < 400 and found == stamps[: len(found)]


@pytest.mark.parametrize("keep", [0, 5, 30])
def test_a_file_of_which_nothing_is_whole_says_so(tmp_path: Path, keep):
    path = tmp_path / "cut.mcap"
    path.write_bytes(closed(*chunks_of_images(STAMPS, 30, "zstd"))[:keep])
    with pytest.raises(BagError, match=r"cut\.mcap.*(empty|neither|not closed|mcap recover)"):
        BagReader(path)


# ---- sqlite3


def test_databases_of_every_age(tmp_path: Path):
    path = write_folder(tmp_path / "bag", STAMPS, "sqlite3")
    with contextlib.closing(sqlite3.connect(path)) as base:
        for step in (
            "DROP TABLE schema", "DROP TABLE message_definitions", "DROP TABLE metadata",
            "ALTER TABLE topics DROP COLUMN type_description_hash",
            "ALTER TABLE topics DROP COLUMN offered_qos_profiles",
            "ALTER TABLE topics DROP COLUMN serialization_format",
        ):  # fmt: skip
            base.execute(step)
            base.commit()
            assert stamps_of(path) == STAMPS, step


@pytest.mark.parametrize("keep", [0.9, 0.5])
def test_a_cut_database_is_read_as_far_as_sqlite_can(tmp_path: Path, keep):
    path = write_folder(tmp_path / "bag", range(1, 400), "sqlite3")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with BagReader(path) as bag:
        found = [m.log_ns for m in bag.messages()]
        notes = bag.notes
    assert len(found) > 100 * keep and found == sorted(found)
    assert any(".recover" in note for note in notes) or bag.dropped


def test_a_journal_beside_a_database_is_read_with_it(tmp_path: Path):
    whole = write_folder(tmp_path / "bag", STAMPS[:10], "sqlite3")
    base = sqlite3.connect(whole)
    base.execute("PRAGMA journal_mode=WAL")
    for ns in STAMPS[10:]:
        base.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (1, ?, ?)", (ns, image_cdr(ns)))
    base.commit()
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in whole.parent.glob(f"{whole.name}*"):
        shutil.copy(file, killed / file.name)
    base.close()
    before = {one.name: one.read_bytes() for one in killed.iterdir()}
    with BagReader(killed / whole.name) as bag:
        assert [m.log_ns for m in bag.messages()] == STAMPS
        assert "-wal" in bag.notes[0]
    assert {one.name: one.read_bytes() for one in killed.iterdir()} == before


def test_a_database_that_somebody_writes_to_is_read(tmp_path: Path):
    path = write_folder(tmp_path / "bag", STAMPS, "sqlite3")
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("BEGIN EXCLUSIVE")
        assert stamps_of(path) == STAMPS


# ---- folders and packed files


@pytest.fixture(params=["mcap", "sqlite3"])
def parts(tmp_path: Path, request: pytest.FixtureRequest) -> list[Path]:
    """Files of three messages each, in folders of their own."""
    return [write_folder(tmp_path / f"src{k}", STAMPS[3 * k : 3 * k + 3], request.param) for k in range(3)]


def lay(folder: Path, files: dict[str, Path]) -> Path:
    folder.mkdir()
    for name, source in files.items():
        shutil.copy(source, folder / (name + source.suffix))
    return folder


def metadata(folder: Path, names: list[str], extra: str = "") -> None:
    listed = "".join(f"\n    - {name}" for name in names)
    (folder / "metadata.yaml").write_text(
        f"rosbag2_bagfile_information:\n  version: 5\n  relative_file_paths:{listed or ' []'}\n{extra}"
    )


def test_a_folder_without_metadata_is_read_in_natural_order(tmp_path: Path, parts):
    folder = lay(tmp_path / "bag", {"bag_9": parts[0], "bag_10": parts[1], "bag_100": parts[2]})
    with BagReader(folder) as bag:
        assert [m.log_ns for m in bag.messages()] == STAMPS[:9]
        assert bag.message_count == 9
        assert "metadata.yaml" in bag.notes[0] and len(bag.notes) == 1


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["bag_0", "bag_1", "bag_2"], ""),
        (["bag_0", "gone_1"], "gone_1"),
        (["old/renamed_0"], "renamed_0"),
    ],
)
def test_metadata_that_names_what_is_not_there(tmp_path: Path, parts, names, said):
    folder = lay(tmp_path / "bag", {f"bag_{k}": part for k, part in enumerate(parts)})
    metadata(folder, [name + parts[0].suffix for name in names])
    with BagReader(folder) as bag:
        assert [m.log_ns for m in bag.messages()] == STAMPS[:9]
        assert any(said in note for note in bag.notes) if said else not bag.notes


def test_files_that_metadata_does_not_name_are_named(tmp_path: Path, parts):
    folder = lay(tmp_path / "bag", {f"bag_{k}": part for k, part in enumerate(parts)})
    metadata(folder, [f"bag_0{parts[0].suffix}"])
    with BagReader(folder) as bag:
        assert bag.message_count == 3
        assert f"bag_1{parts[0].suffix}, bag_2{parts[0].suffix} not read" in bag.notes[0]


@pytest.mark.parametrize(
    "content", ["", "\0" * 50, "a: [", "rosbag2_bagfile_information: 7", "x: 1", "a: " + "[" * 5000]
)
def test_metadata_that_is_damaged_is_done_without(tmp_path: Path, parts, content):
    folder = lay(tmp_path / "bag", {"bag_0": parts[0]})
    (folder / "metadata.yaml").write_text(content)
    with BagReader(folder) as bag:
        assert [m.log_ns for m in bag.messages()] == STAMPS[:3]
        assert "metadata.yaml" in bag.notes[0] and "reindex" in bag.notes[0]


@pytest.mark.parametrize("ending", [".zstd", ".zst"])
@pytest.mark.parametrize("listed", [True, False])
def test_packed_files_are_unpacked(tmp_path: Path, parts, ending, listed):
    folder = tmp_path / "bag"
    folder.mkdir()
    names = []
    for k, part in enumerate(parts):
        names.append(f"bag_{k}{part.suffix}{ending}")
        (folder / names[-1]).write_bytes(PACK["zstd"](part.read_bytes()))
    if listed:
        metadata(folder, names, "  compression_format: zstd\n  compression_mode: FILE\n")
    with BagReader(folder) as bag:
        assert [m.log_ns for m in bag.messages()] == STAMPS[:9]
    assert stamps_of(folder / names[1]) == STAMPS[3:6]


def test_another_compression_of_a_folder_is_named(tmp_path: Path, parts):
    folder = lay(tmp_path / "bag", {"bag_0": parts[0]})
    metadata(folder, ["bag_0.mcap"], "  compression_format: lz4\n  compression_mode: MESSAGE\n")
    with pytest.raises(BagError, match=r"compressed with 'lz4'.*ros2 bag convert"):
        BagReader(folder)


def test_a_packed_file_that_is_cut_off_gives_its_beginning(tmp_path: Path):
    data = closed(*chunks_of_images(STAMPS, 3, ""))
    packed = b"".join(PACK["zstd"](data[i : i + 2000]) for i in range(0, len(data), 2000))
    path = tmp_path / "a.mcap.zstd"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    with BagReader(path) as bag:
        assert len(list(bag.messages())) > 5
        assert "cut off" in bag.notes[0] and "not closed" in bag.notes[1]


def test_a_packed_file_does_not_unpack_to_more_than_it_may(tmp_path: Path):
    path = tmp_path / "bomb.mcap.zstd"
    path.write_bytes(PACK["zstd"](MAGIC + bytes(600_000_000)))
    with pytest.raises(BagError, match="unpacks to more than"):
        BagReader(path)
    with pytest.raises(BagError, match="unpacks to more than"):
        unpack_file(path, tmp_path / "out")


def test_unpacked_files_are_removed(tmp_path: Path, parts, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    packed = tmp_path / f"a{parts[0].suffix}.zstd"
    packed.write_bytes(PACK["zstd"](parts[0].read_bytes()))
    with BagReader(packed):
        assert len(list((tmp_path / "tmp").iterdir())) == 1
    assert not list((tmp_path / "tmp").iterdir())


def test_a_recording_that_is_there_twice_is_read_once(tmp_path: Path, parts):
    folder = lay(tmp_path / "bag", {"bag_0": parts[0], "bag_1": parts[1]})
    packed = folder / f"bag_0{parts[0].suffix}.zstd"
    packed.write_bytes(PACK["zstd"](parts[0].read_bytes()))
    with BagReader(folder) as bag:
        assert bag.message_count == 6
        assert any(packed.name in note for note in bag.notes)


def test_recordings_of_other_names_are_read_and_named(tmp_path: Path, parts):
    folder = lay(tmp_path / "bags", {"monday": parts[0], "tuesday": parts[1]})
    with BagReader(folder) as bag:
        assert bag.message_count == 6
        assert any("different names" in note and "tuesday" in note for note in bag.notes)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: None, "it is empty"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "it holds notes.txt"),
        (lambda folder: write_folder(folder / "inner", [1]), "but in inner"),
        (lambda folder: metadata(folder, ["bag_0.mcap"]), "names bag_0.mcap, and there is no bag file"),
    ],
)
def test_a_folder_without_a_bag_says_what_it_holds(tmp_path: Path, make, expected):
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)
    with pytest.raises(BagError, match=expected):
        BagReader(folder)


def test_one_damaged_part_does_not_kill_the_others(tmp_path: Path, parts):
    folder = lay(tmp_path / "bag", {f"bag_{k}": part for k, part in enumerate(parts)})
    (folder / f"bag_1{parts[0].suffix}").write_bytes(bytes(400))
    with BagReader(folder) as bag:
        assert [m.log_ns for m in bag.messages()] == STAMPS[:3] + STAMPS[6:9]
        assert any("bag_1" in note and "zeros" in note for note in bag.notes)
        assert bag.dropped.total() == 1


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", "empty"), (bytes(90), "zeros only"), (b"\x1f\x8b\x08" + bytes(60), "gunzip"), (b"PK\x03\x04", "unzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"), (b"<!DOCTYPE html>", "web page"),
        (b"hello", "neither MCAP"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.bag"])
def test_what_is_no_bag_is_named_for_what_it_is(tmp_path: Path, head, expected, name):
    (tmp_path / name).write_bytes(head)
    with pytest.raises(BagError, match=expected):
        BagReader(tmp_path / name)


# ---- several bags


def test_several_bags_are_one_timeline(tmp_path: Path, parts):
    write_ros1(tmp_path / "old.bag", [("/old", ros1_image(ns), ns) for ns in STAMPS[:9:2]])
    with BagReader([parts[1].parent, tmp_path / "old.bag", parts[0], str(parts[2])]) as bag:
        assert (bag.message_count, bag.count("/image"), bag.count("/old")) == (14, 9, 5)
        assert bag.duration_s == pytest.approx(8e-9)
        found = [(m.log_ns, m.topic) for m in bag.messages()]
        assert all(decode_image(bag.decode(m)).stamp_ns == m.log_ns for m in bag.messages())
    assert [ns for ns, _ in found] == sorted(ns for ns, _ in found)
    assert [ns for ns, topic in found if topic == "/image"] == STAMPS[:9]


def orders(bags: list[Path]) -> Iterator[list[str]]:
    for some in (bags, bags[::-1]):
        with BagReader(some) as bag:
            yield [m.topic for m in bag.messages()]


def test_messages_of_one_moment_come_in_the_order_of_the_bags(tmp_path: Path):
    bags = [write_folder(tmp_path / topic, [7, 7], topic=f"/{topic}") for topic in ("one", "two")]
    assert list(orders(bags)) == [["/one", "/one", "/two", "/two"], ["/two", "/two", "/one", "/one"]]


def test_a_bag_that_is_named_twice_is_read_once(tmp_path: Path):
    path = write_folder(tmp_path / "bag", STAMPS)
    assert stamps_of([path, path]) == STAMPS


def test_each_bag_is_read_by_its_own_definitions(tmp_path: Path):
    for name, kind, data in (("a", b"uint8", b"\5"), ("b", b"float64", struct.pack("<d", 2.5))):
        path = tmp_path / f"{name}.mcap"
        body = schema(1, "acme/msg/Value", "ros2msg", kind + b" value\n") + channel(1, 1, "/value", "cdr")
        path.write_bytes(closed(body, message(1, 3, b"\0\1\0\0" + data)))
    with BagReader([tmp_path / "a.mcap", tmp_path / "b.mcap"]) as bag:
        assert [bag.decode(m).value for m in bag.messages()] == [5, 2.5]


# ---- names


@pytest.mark.parametrize(
    ("wanted", "known", "expected"),
    [
        ("/camera/image_raw", ["/cam/image_raw", "/lidar/points"], ["/cam/image_raw"]),
        ("/points", ["/velodyne_points", "/imu"], ["/velodyne_points"]),
        ("/front/camera_info", ["/robot1/front/camera_info", "/gps"], ["/robot1/front/camera_info"]),
        ("/Image", ["/image", "/x"], ["/image"]),
        ("/lidar/points", ["/imu/data", "/gps/fix"], []),
    ],
)
def test_the_nearest_names_are_found(wanted, known, expected):
    assert nearest_names(wanted, known) == expected


def test_a_missing_topic_is_named_with_what_is_there(tmp_path: Path):
    path = write_folder(tmp_path / "bag", STAMPS, topic="/cam_front/image")
    with BagReader(path) as bag:
        assert (
            bag.why_missing("/cam_front/image_raw") == "no topic /cam_front/image_raw; did you mean /cam_front/image?"
        )
        assert bag.why_missing("/zzz", IMAGE) == f"no topic /zzz; topics of {IMAGE}: /cam_front/image"
        assert bag.why_missing("/zzz") == "no topic /zzz; topics: /cam_front/image"


# ---- quality of service


@pytest.mark.parametrize(
    ("text_of_it", "expected"),
    [
        ("", ()),
        ("- [", ()),
        ("7", ()),
        ("- history: 1\n  depth: 3\n  reliability: 2\n  durability: 1", (RecordedQos(False, True, 3),)),
        (
            "- {history: keep_all, depth: 0, reliability: reliable, durability: volatile}",
            (RecordedQos(True, False, 0),),
        ),
        ("- {history: 3, depth: -1, reliability: unknown}", (RecordedQos(True, False, 10),)),
        ("- {depth: many}\n- {durability: TRANSIENT_LOCAL}", (RecordedQos(), RecordedQos(True, True, 10))),
    ],
)
def test_recorded_qos_of_every_version(text_of_it, expected):
    assert parse_qos(text_of_it) == expected


# ---- damage of every kind


@pytest.mark.parametrize("kind", ["ros1", "ros1 bz2", "mcap", "mcap without chunks", "db3"])
def test_damage_gives_messages_or_one_clear_error(tmp_path: Path, kind):
    path = tmp_path / "whole"
    if kind.startswith("ros1"):
        write_ros1(path, [("/image", ros1_image(ns), ns) for ns in STAMPS[:6]], kind[5:] or "none")
    elif kind == "db3":
        path = write_folder(path, STAMPS[:6], "sqlite3")
    elif kind == "mcap":
        path.write_bytes(closed(*chunks_of_images(STAMPS[:6], 2, "lz4")))
    else:
        path.write_bytes(closed(image_channel(), *(message(1, ns, image_cdr(ns)) for ns in STAMPS[:6])))
    whole, hurt, read = path.read_bytes(), tmp_path / "hurt", 0
    for seed in range(250):
        hurt.write_bytes(mutated_bytes(whole, Random(seed)))
        try:
            with BagReader(hurt) as bag:
                for one in bag.messages():
                    with contextlib.suppress(DataError):
                        bag.decode(one)
                        read += 1
                bag.dropped.total()
        except BagError:
            continue
    assert read > 100
