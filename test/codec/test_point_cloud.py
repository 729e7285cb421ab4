from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mm_perception.codec.encode import encode_point_cloud
from mm_perception.codec.point_cloud import PointCloudDecoder, decode_point_cloud
from mm_perception.core.errors import DataError
from mm_perception.core.types import PointCloud

sys.path.insert(0, str(Path(__file__).parent))
from messages import FACTORY, STAMP_NS, header

CODES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


def message(points: np.ndarray, width=None, height=1, row_padding=0, big=False, **changes):
    fields = [
        FACTORY.make(
            "sensor_msgs/msg/PointField",
            name=name,
            offset=points.dtype.fields[name][1],
            datatype=CODES[points.dtype[name].str[1:]],
            count=1,
        )
        for name in points.dtype.names
    ]
    width = len(points) // height if width is None else width
    step = points.dtype.itemsize
    rows = (
        points.reshape(height, -1).view(np.uint8).reshape(height, -1)
        if len(points)
        else np.zeros((height, 0), np.uint8)
    )
    data = np.concatenate([rows, np.full((height, row_padding), 0xAB, np.uint8)], axis=1)
    content = {
        "header": header(frame_id="lidar"),
        "height": height,
        "width": width,
        "fields": fields,
        "is_bigendian": big,
        "point_step": step,
        "row_step": width * step + row_padding,
        "data": data.reshape(-1),
        "is_dense": True,
    }
    return FACTORY.make("sensor_msgs/msg/PointCloud2", **(content | changes))


def structured(layout, n=6, order="<"):
    dtype = np.dtype(
        {"names": [f[0] for f in layout], "formats": [order + f[1] for f in layout], "offsets": [f[2] for f in layout],
         "itemsize": layout[-1][2] + 16}
    )  # fmt: skip
    points = np.zeros(n, dtype)
    for i, name in enumerate(dtype.names):
        points[name] = np.arange(n) + 10 * i
    return points


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("intensity", ["u1", "f4", "u2"])
def test_any_order_padding_and_byte_order(order, intensity):
    layout = [("ring", "u2", 0), ("z", "f4", 4), ("intensity", intensity, 9), ("x", "f4", 16), ("y", "f8", 24)]
    points = structured(layout, order=order)
    cloud = decode_point_cloud(message(points, height=2, row_padding=5, big=order == ">"))
    np.testing.assert_allclose(cloud.xyz, np.stack([points["x"], points["y"], points["z"]], 1))
    assert cloud.ring.tolist() == points["ring"].tolist()
    assert cloud.intensity.tolist() == points["intensity"].tolist()
    assert (cloud.frame_id, cloud.stamp_ns, cloud.offset_ns) == ("lidar", STAMP_NS, None)


@pytest.mark.parametrize(
    ("name", "kind", "values", "expected_ns"),
    [
        ("t", "u4", [0, 100_000], [0, 100_000]),
        ("time", "f4", [-0.5, 0.25], [-500_000_000, 250_000_000]),
        ("timestamp", "f8", [1_700_000_000.25, 1_700_000_000.5], [126_543_211, 376_543_211]),
        ("timestamp", "f8", [1.7000000002e18, 1.7000000003e18], [76_543_211, 176_543_211]),
    ],
)
def test_point_times_relative_and_absolute(name, kind, values, expected_ns):
    points = structured([("x", "f4", 0), ("y", "f4", 4), ("z", "f4", 8), (name, kind, 16)], n=2)
    points[name] = values
    offset_ns = decode_point_cloud(message(points)).offset_ns
    assert np.abs(offset_ns - expected_ns).max() < 300  # doubles of absolute times end at some 200 ns


def test_missing_returns_are_dropped_with_all_their_fields():
    points = structured([("x", "f4", 0), ("y", "f4", 4), ("z", "f4", 8), ("ring", "u2", 12)])
    points["y"][1], points["z"][3] = np.nan, np.inf
    cloud = decode_point_cloud(message(points))
    assert cloud.ring.tolist() == [points["ring"][i] for i in (0, 2, 4, 5)]


def test_empty_cloud_is_legal():
    points = structured([("x", "f4", 0), ("y", "f4", 4), ("z", "f4", 8)], n=0)
    assert len(decode_point_cloud(message(points, width=0))) == 0
    nothing = structured([("x", "f4", 0), ("y", "f4", 4), ("z", "f4", 8)])
    for axis in "xyz":
        nothing[axis] = np.nan
    assert len(decode_point_cloud(message(nothing))) == 0


def test_intensity_is_scaled_to_255():
    points = structured([("x", "f4", 0), ("y", "f4", 4), ("z", "f4", 8), ("intensity", "f4", 12)], n=3)
    points["intensity"] = [0, 0.5, np.nan]
    assert decode_point_cloud(message(points), intensity_max=1.0).intensity.tolist() == [0, 127.5, 0]


@pytest.mark.parametrize("offsets", [(0, 50_000), (-5, 50_000)])
def test_encoded_clouds_come_back(offsets):
    cloud = PointCloud(
        np.array([[1, 2, 3], [4, 5, 6]], np.float32),
        STAMP_NS,
        "lidar",
        intensity=np.array([7, 255], np.float32),
        ring=np.array([0, 31], np.uint16),
        offset_ns=np.array(offsets) * 1000,
    )
    back = decode_point_cloud(encode_point_cloud(FACTORY, cloud))
    for name in ("xyz", "intensity", "ring"):
        np.testing.assert_array_equal(getattr(back, name), getattr(cloud, name))
    assert np.abs(back.offset_ns - cloud.offset_ns).max() <= 4


XYZ = [("x", "f4", 0), ("y", "f4", 4), ("z", "f4", 8)]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: message(structured(XYZ[:2])), "field 'z'"),
        (lambda: message(structured([("x", "i4", 0), *XYZ[1:]])), "floats"),
        (lambda: message(structured(XYZ), data=np.zeros(10, np.uint8)), "truncated"),
        (lambda: message(structured(XYZ), point_step=10), "beyond"),
        (lambda: message(structured(XYZ), height=2, row_padding=5, row_step=10), "row_step"),
        (lambda: message(structured(XYZ), header=header(0)), "stamp"),
    ],
)
def test_malformed_clouds_are_refused(make, expected):
    with pytest.raises(DataError, match=expected):
        decode_point_cloud(make())


def test_unknown_datatype_is_refused():
    cloud = message(structured(XYZ))
    cloud.fields[0].datatype = 99
    with pytest.raises(DataError, match="datatype 99"):
        decode_point_cloud(cloud)


FOUR = [*XYZ, ("extra", "u2", 12)]


def spread(layout, n=40):
    points = structured(layout, n)
    for axis in "xyz":
        points[axis] += 1
    return points


@pytest.mark.parametrize("row_step", [0, 3, 10**6])
def test_the_row_step_of_a_single_row_does_not_matter(row_step):
    points = spread(XYZ)
    assert len(decode_point_cloud(message(points, row_step=row_step))) == 40


def test_a_row_step_that_nobody_set_is_what_the_bytes_leave():
    points = spread(XYZ)
    cloud = decode_point_cloud(message(points, height=4, row_step=0))
    np.testing.assert_allclose(cloud.xyz[:, 0], points["x"])
    with pytest.raises(DataError, match="row_step 0"):
        decode_point_cloud(message(points, height=4, row_padding=8, row_step=0))


def test_no_returns_are_left_out_and_counted_by_what_marked_them():
    points = spread(FOUR)
    points["x"][:3] = np.nan
    points["z"][3] = -np.inf
    for axis in "xyz":
        points[axis][10:15] = 0
    points["x"][20] = 0  # a point in the plane x = 0 is a return
    points["y"][20] = 0
    decoder = PointCloudDecoder()
    for _ in range(2):
        assert len(decoder.decode(message(points, height=5))) == 40 - 4 - 5
    assert dict(decoder.left_out) == {
        "points at the origin (no return)": 10,
        "points that are not finite (no return)": 8,
    }
    assert decoder.losses == {}


@pytest.mark.parametrize(
    "name", ["intensities", "Intensity", "reflectivity", "i", "signal", "reflectance", "remission", "amplitude"]
)
@pytest.mark.parametrize("code", ["u1", "i2", "u2", "u4", "f4", "f8"])
def test_intensity_under_the_names_of_drivers(name, code):
    points = spread([*XYZ, (name, code, 13)])
    points[name] = np.arange(40)
    assert decode_point_cloud(message(points)).intensity.tolist() == list(range(40))


@pytest.mark.parametrize("name", ["ring", "line", "channel", "laser_id", "Ring"])
@pytest.mark.parametrize("code", ["u1", "i1", "u2", "i4", "f4"])
def test_laser_numbers_under_the_names_of_drivers(name, code):
    points = spread([*XYZ, (name, code, 15)])
    points[name] = np.arange(40) % 16
    assert decode_point_cloud(message(points)).ring.tolist() == (np.arange(40) % 16).tolist()


def test_laser_numbers_that_are_none_cost_no_points():
    points = spread([*XYZ, ("ring", "f4", 12)])
    points["ring"][7] = np.nan
    decoder = PointCloudDecoder()
    cloud = decoder.decode(message(points))
    assert (len(cloud), cloud.ring) == (40, None)
    assert "laser numbers" in decoder.notes[0]


def test_fields_that_nobody_reads_may_be_anything():
    cloud = message(spread(FOUR))
    cloud.fields[3].datatype = 77
    assert len(decode_point_cloud(cloud)) == 40
    cloud.fields[3].datatype, cloud.fields[3].offset = 8, 10_000
    assert len(decode_point_cloud(cloud)) == 40


def test_of_a_field_that_comes_twice_the_first_counts():
    points = spread([*XYZ, ("again", "f4", 12)])
    cloud = message(points)
    cloud.fields[3].name = "x"
    np.testing.assert_allclose(decode_point_cloud(cloud).xyz[:, 0], points["x"])


def test_axes_in_capitals_are_axes_and_missing_ones_are_named_with_what_is_there():
    cloud = message(spread(FOUR))
    for field in cloud.fields[:3]:
        field.name = field.name.upper()
    assert len(decode_point_cloud(cloud)) == 40
    cloud.fields[1].name = "height"
    with pytest.raises(DataError, match=r"without field 'y' \(fields: X, height, Z, extra\)"):
        decode_point_cloud(cloud)


@pytest.mark.parametrize(
    ("layout", "values"),
    [
        ([("t_sec", "u4", 12), ("t_nsec", "u4", 16)], lambda ns: {"t_sec": ns // 10**9, "t_nsec": ns % 10**9}),
        ([("timestamp_high", "u4", 16), ("timestamp_low", "u4", 12)],
         lambda ns: {"timestamp_high": ns >> 32, "timestamp_low": ns & 0xFFFFFFFF}),
    ],
)  # fmt: skip
def test_times_in_two_fields(layout, values):
    expected = np.arange(40) * 2_000_000
    points = spread([*XYZ, *layout])
    for name, column in values(STAMP_NS + expected).items():
        points[name] = column
    assert decode_point_cloud(message(points)).offset_ns.tolist() == expected.tolist()


def test_times_as_two_words_of_one_field():
    expected = np.arange(40) * 2_000_000
    points = spread([*XYZ, ("timestamp", "u4", 12), ("rest", "u4", 16)])
    points["timestamp"], points["rest"] = (STAMP_NS + expected) & 0xFFFFFFFF, (STAMP_NS + expected) >> 32
    cloud = message(points)
    cloud.fields[3].count = 2
    del cloud.fields[4]
    assert decode_point_cloud(cloud).offset_ns.tolist() == expected.tolist()


def test_times_that_say_nothing_cost_no_points():
    points = spread([*XYZ, ("time", "f4", 12)])
    points["time"] = np.nan
    decoder = PointCloudDecoder()
    cloud = decoder.decode(message(points))
    assert (len(cloud), cloud.offset_ns) == (40, None)
    assert "ignored" in decoder.notes[0]
