from __future__ import annotations

import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mm_perception.codec.encode import encode_compressed, encode_image, wrap_compressed
from mm_perception.codec.image import decode_depth, decode_image, decode_labels, decode_pixels, decode_thermal
from mm_perception.core.errors import DataError

sys.path.insert(0, str(Path(__file__).parent))
from messages import FACTORY, STAMP_NS, header, raw_image

RED = np.zeros((4, 6, 3), np.uint8)
RED[..., 0] = 200


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb8", (200, 10, 30)),
        ("bgr8", (30, 10, 200)),
        ("8UC3", (30, 10, 200)),
        ("rgba8", (200, 10, 30, 7)),
        ("bgra8", (30, 10, 200, 7)),
    ],
)
def test_colour_encodings_with_padded_rows(encoding, pixel):
    row = bytes(pixel) * 3 + b"\xee\xee"
    frame = decode_image(raw_image(row * 2, 3, 2, encoding, len(row)))
    assert frame.image.tolist() == [[[200, 10, 30]] * 3] * 2
    assert (frame.stamp_ns, frame.frame_id) == (STAMP_NS, "cam")


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_becomes_three_equal_channels(encoding):
    frame = decode_image(raw_image(bytes([1, 2, 3, 4]), 2, 2, encoding, 2))
    assert frame.image.tolist() == [[[1] * 3, [2] * 3], [[3] * 3, [4] * 3]]


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_bayer_patterns_keep_their_colour(pattern, channel):
    cell = np.array([150 if c == "rgb"[channel] else 0 for c in pattern], np.uint8).reshape(2, 2)
    mosaic = np.tile(cell, (8, 8))
    image = decode_image(raw_image(mosaic.tobytes(), 16, 16, f"bayer_{pattern}8", 16)).image
    inner = image[4:12, 4:12].reshape(-1, 3).mean(axis=0)
    assert int(inner.argmax()) == channel
    assert inner[channel] > 140
    assert np.delete(inner, channel).max() == 0


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", "UYVY"), ("yuv422_yuy2", "YUYV")])
def test_yuv_encodings(encoding, order):
    values = {"Y": 81, "U": 90, "V": 240}  # pure red in BT.601, limited range
    row = bytes(values[c] for c in order) * 2
    image = decode_image(raw_image(row * 2, 4, 2, encoding, 8)).image
    assert np.abs(image.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("big", [0, 1])
def test_byte_order_of_16_bit_and_float_images(big):
    order = ">" if big else "<"
    counts = np.array([[1, 258], [3, 65535]], f"{order}u2")
    pixels, _ = decode_pixels(raw_image(counts.tobytes(), 2, 2, "mono16", 4, big))
    assert pixels.tolist() == [[1, 258], [3, 65535]]
    metres = np.array([[1.5, np.nan]], f"{order}f4")
    depth = decode_depth(raw_image(metres.tobytes(), 2, 1, "32FC1", 8, big)).depth_m
    np.testing.assert_array_equal(depth, np.array([[1.5, np.nan]], np.float32))


def test_depth_units_and_invalid_values():
    millimetres = np.array([[0, 1500]], "<u2")
    depth = decode_depth(raw_image(millimetres.tobytes(), 2, 1, "16UC1", 4)).depth_m
    np.testing.assert_allclose(depth, [[np.nan, 1.5]])
    metres = np.array([[np.inf, 0.0, 2.0]], "<f4")
    depth = decode_depth(raw_image(metres.tobytes(), 3, 1, "32FC1", 12)).depth_m
    np.testing.assert_allclose(depth, [[np.nan, np.nan, 2.0]])


@pytest.mark.parametrize(
    ("scale", "unit", "value"),
    [("counts", "counts", 30000), ("centikelvin", "kelvin", 300.0), ("decikelvin", "kelvin", 3000.0)],
)
def test_thermal_scales(scale, unit, value):
    frame = decode_thermal(raw_image(np.array([[30000]], "<u2").tobytes(), 1, 1, "mono16", 2), scale)
    assert frame.unit == unit
    assert frame.values[0, 0] == pytest.approx(value)


def test_compressed_images_come_back():
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    frame = decode_image(encode_compressed(FACTORY, noise, "png", STAMP_NS, "cam"))
    np.testing.assert_array_equal(frame.image, noise)
    jpeg = decode_image(encode_compressed(FACTORY, RED, "jpeg", STAMP_NS, "cam"))
    assert np.abs(jpeg.image.astype(int) - RED).max() < 6
    depth = np.array([[0, 1234], [5, 60000]], np.uint16)
    decoded = decode_depth(encode_compressed(FACTORY, depth, "png", STAMP_NS, "cam")).depth_m
    np.testing.assert_allclose(decoded, np.where(depth, depth / 1000, np.nan), rtol=1e-6)
    labels = np.array([[0, 255], [3, 1]], np.uint8)
    np.testing.assert_array_equal(
        decode_labels(encode_compressed(FACTORY, labels, "png", STAMP_NS, "c")).class_ids, labels
    )


def test_compressed_depth_of_both_kinds():
    depth = np.array([[0, 1500], [2000, 3000]], np.uint16)
    png = cv2.imencode(".png", depth)[1].tobytes()
    message = wrap_compressed(
        FACTORY,
        np.frombuffer(struct.pack("<iff", 0, 0, 0) + png, np.uint8),
        "16UC1; compressedDepth png",
        STAMP_NS,
        "c",
    )
    np.testing.assert_allclose(decode_depth(message).depth_m, np.where(depth, depth / 1000, np.nan), rtol=1e-6)
    metres, a, b = np.array([[1.0, 2.5]]), 1000.0, 3.0
    inverse = np.rint(a / metres + b).astype(np.uint16)
    png = cv2.imencode(".png", np.concatenate([inverse, [[0]]], axis=1).astype(np.uint16))[1].tobytes()
    message = wrap_compressed(
        FACTORY,
        np.frombuffer(struct.pack("<iff", 0, a, b) + png, np.uint8),
        "32FC1; compressedDepth png",
        STAMP_NS,
        "c",
    )
    np.testing.assert_allclose(decode_depth(message).depth_m, [[1.0, 2.5, np.nan]], rtol=2e-3)


def damaged(fmt: str, cut: float):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    message = encode_compressed(FACTORY, noise, fmt, STAMP_NS, "cam")
    message.data = message.data[: int(len(message.data) * cut)]
    return message


@pytest.mark.parametrize(
    ("decode", "message", "expected"),
    [
        (decode_image, raw_image(bytes(12), 2, 2, "rgb16", 6), "shorter than a row of 2 rgb16"),
        (decode_image, raw_image(bytes(12), 2, 2, "32FC1", 8), "truncated"),
        (decode_image, raw_image(bytes(16), 2, 2, "32FC1", 8), "no colour or grey picture"),
        (decode_image, raw_image(bytes(11), 2, 2, "rgb8", 6), "truncated"),
        (decode_image, raw_image(bytes(12), 2, 2, "rgb8", 5), "step"),
        (decode_image, raw_image(b"", 0, 2, "rgb8", 0), "zero size"),
        (decode_image, raw_image(bytes(12), 3, 2, "yuv422", 6), "odd width"),
        (decode_image, raw_image(bytes(4), 2, 2, "bayer_rggb8", 2), "small"),
        (decode_image, raw_image(bytes(12), 2, 2, "rgb8", 6, header=header(0)), "stamp"),
        (decode_image, damaged("jpeg", 0.5), "truncated"),
        (decode_image, damaged("png", 0.5), "truncated"),
        (decode_image, wrap_compressed(FACTORY, np.zeros(0, np.uint8), "jpeg", STAMP_NS, "c"), "without data"),
        (decode_image, wrap_compressed(FACTORY, np.zeros(99, np.uint8), "jpeg", STAMP_NS, "c"), "neither"),
        (decode_depth, raw_image(bytes(4), 2, 2, "mono8", 2), "mono8"),
        (decode_depth, raw_image(np.array([-1.0], "<f4").tobytes(), 1, 1, "32FC1", 4), "negative"),
        (decode_labels, raw_image(bytes(12), 2, 2, "rgb8", 6), "mono8"),
        (lambda m: decode_thermal(m, "counts"), raw_image(bytes(range(12)), 2, 2, "rgb8", 6), "thermal_scale: agc"),
        (lambda m: decode_thermal(m, "agc"), raw_image(bytes(range(0, 240, 20)), 2, 2, "bgr8", 6), "false-colour"),
        (lambda m: decode_thermal(m, "counts"), raw_image(bytes(4), 2, 2, "mono8", 2), "thermal_scale"),
        (lambda m: decode_thermal(m, "agc"), raw_image(bytes(8), 2, 2, "mono16", 4), "thermal_scale"),
        (
            decode_depth,
            wrap_compressed(FACTORY, np.zeros(40, np.uint8), "16UC1; compressedDepth rvl", STAMP_NS, "c"),
            "rvl",
        ),
    ],
)
def test_unusable_images_are_refused(decode, message, expected):
    with pytest.raises(DataError, match=expected):
        decode(message)


@pytest.mark.parametrize(("sec", "nanosec"), [(-1, 5), (1, 1_000_000_000), (0, 0)])
def test_impossible_stamps_are_refused(sec, nanosec):
    message = encode_image(FACTORY, RED, "rgb8", STAMP_NS, "cam")
    message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
    with pytest.raises(DataError, match="impossible stamp"):
        decode_image(message)


def test_pixels_that_do_not_fit_the_encoding_are_not_encoded():
    with pytest.raises(DataError, match="mono8"):
        encode_image(FACTORY, RED, "mono8", STAMP_NS, "cam")
