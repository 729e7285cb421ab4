from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mm_perception.codec.encode import encode_point_cloud
from mm_perception.codec.point_cloud import decode_point_cloud
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
        (lambda: message(structured(XYZ), row_step=10), "row_step"),
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
