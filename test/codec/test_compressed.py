"""CompressedImage as drivers and transports of all ages fill it."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mm_perception.codec.encode import wrap_compressed
from mm_perception.codec.image import decode_depth, decode_image, decode_thermal
from mm_perception.codec.rvl import decode_rvl
from mm_perception.core.errors import DataError

sys.path.insert(0, str(Path(__file__).parent))
from messages import FACTORY, STAMP_NS

H, W = 40, 56


def scene() -> np.ndarray:
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([4 * x, 255 - 6 * y, 90 + x + y], -1).astype(np.uint8)


SCENE = scene()
BGR = np.ascontiguousarray(SCENE[..., ::-1])


def compressed(fmt: str, data: bytes):
    return wrap_compressed(FACTORY, np.frombuffer(data, np.uint8), fmt, STAMP_NS, "cam")


def packed(suffix: str, pixels: np.ndarray, *flags: int) -> bytes:
    done, data = cv2.imencode(suffix, pixels, flags)
    assert done
    return data.tobytes()


@pytest.mark.parametrize(
    ("fmt", "data", "tolerance"),
    [
        ("webp", packed(".webp", BGR, cv2.IMWRITE_WEBP_QUALITY, 101), 0),
        ("webp", packed(".webp", BGR, cv2.IMWRITE_WEBP_QUALITY, 80), 8),
        ("webp", packed(".webp", np.dstack([BGR, BGR[..., 0]]), cv2.IMWRITE_WEBP_QUALITY, 101), 0),
        ("bgr8; tiff compressed bgr8", packed(".tiff", BGR), 0),
        ("tiff", packed(".tiff", BGR.astype(np.uint16) * 257), 0),
        ("bmp", packed(".bmp", BGR), 0),
        ("rgba8; png compressed bgra8", packed(".png", np.dstack([BGR, BGR[..., 1]])), 0),
        ("bgr16; png compressed bgr16", packed(".png", BGR.astype(np.uint16) * 257), 0),
        ("nonsense", packed(".png", BGR), 0),
        ("", packed(".jpg", BGR, cv2.IMWRITE_JPEG_QUALITY, 98), 8),
        ("bgr8; jpeg compressed bgr8", packed(".jpg", BGR, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), 8),
        ("bgr8; jpeg compressed bgr8", packed(".jpg", BGR, cv2.IMWRITE_JPEG_RST_INTERVAL, 2), 8),
    ],
)
def test_files_of_all_kinds(fmt, data, tolerance):
    image = decode_image(compressed(fmt, data)).image
    assert np.abs(image.astype(int) - SCENE).mean() <= tolerance


def test_a_sender_that_packed_red_for_blue_is_understood():
    # The transport's encoder hands pixels on as they are when no conversion is asked for.
    np.testing.assert_array_equal(
        decode_image(compressed("rgb8; png compressed rgb8", packed(".png", SCENE))).image, SCENE
    )


def test_mosaics_within_files():
    mosaic = np.zeros((H, W), np.uint8)
    for i, color in enumerate("gbrg"):
        mosaic[i // 2 :: 2, i % 2 :: 2] = SCENE[i // 2 :: 2, i % 2 :: 2, "rgb".index(color)]
    image = decode_image(compressed("bayer_gbrg8; png compressed ", packed(".png", mosaic))).image
    assert np.abs(image[2:-2, 2:-2].astype(int) - SCENE[2:-2, 2:-2]).max() <= 4
    grey = decode_image(compressed("bayer_gbrg8; png compressed mono8", packed(".png", mosaic))).image
    np.testing.assert_array_equal(grey[..., 0], mosaic)


@pytest.mark.parametrize("padding", [1, 5000, 100_000])
@pytest.mark.parametrize("fill", [0, 0xFF, 0x20])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_buffers_that_are_larger_than_the_file(suffix, padding, fill):
    data = packed(suffix, BGR, *((cv2.IMWRITE_JPEG_QUALITY, 98) if suffix == ".jpg" else ()))
    image = decode_image(compressed(suffix[1:], data + bytes([fill]) * padding)).image
    assert np.abs(image.astype(int) - SCENE).mean() <= 8


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".bmp"])
def test_files_that_end_early_are_refused(suffix, share):
    noise = np.random.default_rng(1).integers(0, 255, (H, W, 3), np.uint8)
    data = packed(suffix, noise)
    with pytest.raises(DataError, match=r"truncated|damaged"):
        decode_image(compressed(suffix[1:], data[: int(share * len(data))]))


def test_a_jpeg_whose_middle_is_of_another_file_is_refused():
    noise = np.random.default_rng(2).integers(0, 255, (H, W, 3), np.uint8)
    data = bytearray(packed(".jpg", noise))
    at = data.index(b"\xff\xda") + 400
    data[at : at + 8] = b"\xff\x10" * 4
    with pytest.raises(DataError, match="damaged: marker 0x10"):
        decode_image(compressed("jpeg", bytes(data)))


@pytest.mark.parametrize("missing", [1, 3, 7])
def test_a_jpeg_that_lacks_some_of_its_restarts_is_refused(missing):
    noise = np.random.default_rng(2).integers(0, 255, (8 * H, 8 * W, 3), np.uint8)
    data = packed(".jpg", noise, cv2.IMWRITE_JPEG_RST_INTERVAL, 3)
    parts = re.split(rb"(?=\xff[\xd0-\xd7])", data)
    assert len(parts) > 30
    assert decode_image(compressed("jpeg", data)).image.shape == noise.shape
    with pytest.raises(DataError, match=r"jpeg damaged: restart .* expected 4"):
        decode_image(compressed("jpeg", b"".join(parts[:5] + parts[5 + missing :])))


def test_compressed_depth_without_parameters():
    depth = depth_scene("dense")
    data = packed(".png", depth)
    np.testing.assert_allclose(
        decode_depth(compressed("16UC1; compressedDepth", data)).depth_m, depth * 1e-3, rtol=1e-5
    )
    with pytest.raises(DataError, match="without its 12 bytes of parameters"):
        decode_depth(compressed("32FC1; compressedDepth png", data))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x0cjP  \r\n" + bytes(30), "jpeg 2000"),
        (b"GIF89a" + bytes(30), "gif"),
        (b"\0\0\0\x1cftypavif" + bytes(30), "avif"),
        (b"II+\0" + bytes(30), "BigTIFF"),
    ],
)
def test_other_files_are_named(data, name):
    with pytest.raises(DataError, match=name):
        decode_image(compressed("jpeg", data))


def bomb(suffix: str) -> bytes:
    data = bytearray(packed(suffix, BGR, *((cv2.IMWRITE_WEBP_QUALITY, 80) if suffix == ".webp" else ())))
    if suffix == ".webp":
        data[26:30] = struct.pack("<HH", 16383, 16383)
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", 60000, 60000)
    else:
        (at,) = struct.unpack_from("<I", data, 4)
        for i in range(struct.unpack_from("<H", data, at)[0]):
            if struct.unpack_from("<H", data, at + 2 + 12 * i)[0] in (256, 257):
                struct.pack_into("<HII", data, at + 4 + 12 * i, 4, 1, 60000)
    return bytes(data)


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tiff"])
def test_sizes_are_checked_before_anything_is_decoded(suffix):
    with pytest.raises(DataError, match="expected at most"):
        decode_image(compressed(suffix[1:], bomb(suffix)))


def depth_scene(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    depth = rng.integers(300, 65535, (H, W)).astype(np.uint16)
    if kind == "sparse":
        depth[rng.random((H, W)) < 0.7] = 0
    elif kind == "smooth":
        depth = (1000 + 3 * np.arange(H * W, dtype=np.uint16)).reshape(H, W)
    elif kind == "empty":
        depth[:] = 0
    return depth


def rvl(depth: np.ndarray) -> bytes:
    """The slow, obvious coder of the paper."""
    pieces: list[int] = []

    def put(value: int) -> None:
        while value > 7:
            pieces.append(8 | value & 7)
            value >>= 3
        pieces.append(value)

    flat, previous, i = [int(v) for v in depth.reshape(-1)], 0, 0
    while i < len(flat):
        zeros = next((k for k, v in enumerate(flat[i:]) if v), len(flat) - i)
        i += zeros
        length = next((k for k, v in enumerate(flat[i:]) if not v), len(flat) - i)
        put(zeros)
        put(length)
        for value in flat[i : i + length]:
            delta = value - previous
            put(2 * delta if delta >= 0 else -2 * delta - 1)
            previous = value
        i += length
    pieces += [0] * (-len(pieces) % 8)
    words = [sum(p << 4 * (7 - k) for k, p in enumerate(pieces[j : j + 8])) for j in range(0, len(pieces), 8)]
    return struct.pack(f"<{len(words)}I", *words)


@pytest.mark.parametrize("kind", ["dense", "sparse", "smooth", "empty"])
def test_rvl_gives_back_what_was_packed(kind):
    depth = depth_scene(kind)
    np.testing.assert_array_equal(decode_rvl(np.frombuffer(rvl(depth), np.uint8), W, H), depth)


@pytest.mark.parametrize("fmt", ["16UC1; compressedDepth rvl", "32FC1; compressedDepth rvl"])
def test_compressed_depth_in_rvl(fmt):
    depth = depth_scene("sparse")
    head = struct.pack("<iffii", 0, 800.0, 50.0, W, H)
    got = decode_depth(compressed(fmt, head + rvl(depth))).depth_m
    metres = depth * 1e-3 if fmt.startswith("16") else 800.0 / (depth.astype(float) - 50.0)
    np.testing.assert_allclose(got, np.where(depth > 0, metres, np.nan), rtol=1e-4)


@pytest.mark.parametrize("cut", [1, 4, 20, 400])
def test_rvl_that_ends_early_is_refused(cut):
    data = rvl(depth_scene("dense"))
    with pytest.raises(DataError, match="rvl"):
        decode_rvl(np.frombuffer(data[: -4 * cut] if cut < 400 else data[:8], np.uint8), W, H)


@pytest.mark.parametrize(("width", "height"), [(W, 2 * H), (W, H // 2)])
def test_rvl_of_another_size_is_refused(width, height):
    with pytest.raises(DataError, match="rvl"):
        decode_rvl(np.frombuffer(rvl(depth_scene("dense")), np.uint8), width, height)


def test_false_colour_thermal_in_a_jpeg_is_refused_and_grey_taken():
    grey = SCENE[..., 0]
    three = packed(".jpg", np.repeat(grey[..., None], 3, 2), cv2.IMWRITE_JPEG_QUALITY, 95)
    frame = decode_thermal(compressed("jpeg", three), "agc")
    assert np.abs(frame.values - grey).mean() < 2
    with pytest.raises(DataError, match="false-colour palette"):
        decode_thermal(compressed("jpeg", packed(".jpg", cv2.applyColorMap(grey, cv2.COLORMAP_PLASMA))), "agc")
