"""Every encoding of a picture, made from one picture by OpenCV's or by plain arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mm_perception.codec.encodings import ENCODINGS, find_encoding
from mm_perception.codec.image import decode_depth, decode_image, decode_thermal
from mm_perception.core.errors import DataError

sys.path.insert(0, str(Path(__file__).parent))
from messages import raw_image

H, W = 24, 36


def scene() -> np.ndarray:
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([60 + 4 * x, 200 - 5 * y, 80 + x + 2 * y], -1).astype(np.uint8)


SCENE = scene()


def yuv420(order: str) -> bytes:
    planes = cv2.cvtColor(SCENE, cv2.COLOR_RGB2YUV_I420)
    u, v = planes[H : H + H // 4].reshape(-1), planes[H + H // 4 :].reshape(-1)
    return planes[:H].tobytes() + np.stack((u, v) if order == "uv" else (v, u), -1).tobytes()


def yuv444() -> np.ndarray:
    r, g, b = (SCENE[..., i].astype(float) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return np.rint(np.stack([y, u, v], -1)).astype(np.uint8)


def yuv422(order: str) -> np.ndarray:
    yuv = yuv444()
    pairs = {"y": yuv[..., 0], "c": yuv[..., 1].copy()}
    pairs["c"][:, 1::2] = yuv[:, ::2, 2]
    return np.stack([pairs[c] for c in order], -1)


def mosaic(pattern: str, values: np.ndarray) -> np.ndarray:
    out = np.zeros((H, W), values.dtype)
    for i, color in enumerate(pattern):
        row, column = divmod(i, 2)
        out[row::2, column::2] = values[row::2, column::2, "rgb".index(color)]
    return out


def message(encoding: str, pixels: np.ndarray, pad: int = 0, big: int = 0):
    """An Image with `pad` bytes of rubbish behind each row."""
    if big:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = pixels.reshape(len(pixels), -1)
    data = b"".join(row.tobytes() + b"\xa5" * pad for row in rows)
    return raw_image(data, W, H, encoding, rows[0].nbytes + pad, big)


BYTES = {"rgb": SCENE, "bgr": SCENE[..., ::-1]}
ALPHA = {name + "a": np.dstack([pixels, np.full((H, W), 9, np.uint8)]) for name, pixels in BYTES.items()}


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("pad", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [(f"{name}16", pixels) for name, pixels in (BYTES | ALPHA).items()]
    + [("16UC3", BYTES["bgr"]), ("16UC4", ALPHA["bgra"])],
)
def test_colour_of_16_bits(encoding, pixels, pad, big):
    wide = pixels.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(message(encoding, wide, pad, big)).image, SCENE)


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "Mono16", "MONO16 ", "Y16"])
def test_grey_of_16_bits_as_colour(encoding):
    image = decode_image(message(encoding, SCENE[..., 0].astype(np.uint16) * 257)).image
    np.testing.assert_array_equal(image, np.repeat(SCENE[..., :1], 3, 2))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_bits_that_are_used(bits):
    full = (SCENE.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    image = decode_image(message("rgb16", full), bit_depth=bits).image
    assert np.abs(image.astype(int) - SCENE).max() <= 1
    assert decode_image(message("rgb16", full)).image.max() <= 255 >> (16 - bits)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_mosaics(pattern, bits):
    values = SCENE if bits == 8 else SCENE.astype(np.uint16) * 257
    image = decode_image(message(f"bayer_{pattern}{bits}", mosaic(pattern, values), pad=2)).image
    assert np.abs(image[2:-2, 2:-2].astype(int) - SCENE[2:-2, 2:-2]).max() <= 3


@pytest.mark.parametrize(("encoding", "order"), [("nv12", "uv"), ("nv21", "vu"), ("NV12", "uv")])
def test_two_planes(encoding, order):
    data = yuv420(order)
    image = decode_image(raw_image(data, W, H, encoding, W)).image
    assert np.abs(image.astype(int) - SCENE).mean() < 3
    rows = np.frombuffer(data, np.uint8).reshape(-1, W)
    padded = np.hstack([rows, np.full((len(rows), 4), 7, np.uint8)])
    np.testing.assert_array_equal(decode_image(raw_image(padded.tobytes(), W, H, encoding, W + 4)).image, image)


@pytest.mark.parametrize("pad", [0, 3])
def test_two_planes_of_full_chroma(pad):
    yuv = yuv444()
    brightness = np.hstack([yuv[..., 0], np.zeros((H, pad), np.uint8)])
    chroma = np.hstack([yuv[..., 1:].reshape(H, 2 * W), np.zeros((H, 2 * pad), np.uint8)])
    image = decode_image(raw_image(brightness.tobytes() + chroma.tobytes(), W, H, "nv24", W + pad)).image
    assert np.abs(image.astype(int) - SCENE).max() <= 4


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "cy"), ("uyvy", "cy"), ("UYVY", "cy"), ("yuv422_yuy2", "yc"), ("yuyv", "yc"), ("YUY2", "yc")],
)
def test_pairs_of_pixels(encoding, order):
    image = decode_image(message(encoding, yuv422(order), pad=8)).image
    assert np.abs(image.astype(int) - SCENE).mean() < 4


@pytest.mark.parametrize(
    ("written", "name"), [("RGB8", "rgb8"), (" bgr8", "bgr8"), ("8uc3", "8UC3"), ("gray", "mono8")]
)
def test_other_spellings(written, name):
    assert find_encoding(written) == name


def test_a_step_of_zero_means_that_rows_touch():
    image = decode_image(raw_image(SCENE.tobytes(), W, H, "rgb8", 0)).image
    np.testing.assert_array_equal(image, SCENE)


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("bgr9", "did you mean bgr8"),
        ("p010", "known: rgb8"),
        ("mjpeg", "CompressedImage"),
        ("32FC3", "no colour or grey picture"),
        ("8UC2", "no colour or grey picture"),
    ],
)
def test_what_is_no_picture_is_named(encoding, words):
    with pytest.raises(DataError, match=words):
        decode_image(raw_image(bytes(12 * W * H), W, H, encoding, 12 * W))


@pytest.mark.parametrize(("width", "height"), [(W - 1, H), (W, H - 1)])
def test_odd_sizes_of_shared_chroma_are_refused(width, height):
    with pytest.raises(DataError, match="odd size"):
        decode_image(raw_image(bytes(2 * W * H), width, height, "nv12", W))


def test_cut_chroma_is_refused():
    with pytest.raises(DataError, match=f"truncated: {W * H + 5} bytes, expected 36 x 24 and 0.5 times"):
        decode_image(raw_image(bytes(W * H + 5), W, H, "nv21", W))


GREY = SCENE[..., 1]


@pytest.mark.parametrize("pad", [0, 5])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "rgb8", "bgra8", "yuv422", "yuyv"])
def test_thermal_video_of_any_encoding_is_its_brightness(encoding, pad):
    channels = ENCODINGS[find_encoding(encoding)].channels
    pixels = np.repeat(GREY[..., None], channels, 2)
    if channels == 2:
        pixels[..., 0 if encoding == "yuv422" else 1] = 128
    frame = decode_thermal(message(encoding, pixels, pad), "agc")
    assert frame.unit == "agc"
    np.testing.assert_array_equal(frame.values, GREY.astype(np.float32))


def test_thermal_video_of_two_planes_is_its_brightness():
    data = GREY.tobytes() + bytes([128]) * (W * H // 2)
    np.testing.assert_array_equal(decode_thermal(raw_image(data, W, H, "nv12", W), "agc").values, GREY)


@pytest.mark.parametrize("colormap", [cv2.COLORMAP_JET, cv2.COLORMAP_INFERNO, cv2.COLORMAP_HOT])
@pytest.mark.parametrize("encoding", ["bgr8", "rgb8", "yuv"])
def test_palettes_are_refused(colormap, encoding):
    colors = cv2.applyColorMap(np.ascontiguousarray(GREY), colormap)
    if encoding == "yuv":
        planes = cv2.cvtColor(colors, cv2.COLOR_BGR2YUV_I420)
        half = np.stack([planes[H : H + H // 4].reshape(-1), planes[H + H // 4 :].reshape(-1)], -1)
        found = raw_image(planes[:H].tobytes() + half.tobytes(), W, H, "nv12", W)
    else:
        found = message(encoding, colors)
    with pytest.raises(DataError, match="false-colour palette"):
        decode_thermal(found, "agc")


@pytest.mark.parametrize(
    ("encoding", "dtype", "value", "unit_m", "metres"),
    [
        ("16UC1", "<u2", 1500, 0.0, 1.5),
        ("16UC1", "<u2", 1500, 0.0001, 0.15),
        ("mono16", "<u2", 5000, 1 / 5000, 1.0),
        ("32FC1", "<f4", 1500.0, 0.001, 1.5),
        ("64FC1", "<f8", 2.5, 0.0, 2.5),
        ("16SC1", "<i2", 700, 0.0, 0.7),
        ("z16", "<u2", 2000, 0.0, 2.0),
    ],
)
def test_depth_units(encoding, dtype, value, unit_m, metres):
    pixels = np.array([[value, 0]], dtype)
    depth = decode_depth(raw_image(pixels.tobytes(), 2, 1, encoding, pixels.nbytes), unit_m=unit_m).depth_m
    np.testing.assert_allclose(depth, [[metres, np.nan]], rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "gain_k", "offset_k", "value", "kelvin"),
    [
        ("celsius", 0.0, 0.0, 25, 298.15),
        ("decicelsius", 0.0, 0.0, 253, 298.45),
        ("centicelsius", 0.0, 0.0, 2531, 298.46),
        ("counts", 0.04, 0.0, 7500, 300.0),
        ("counts", 0.0092, 273.15, 3000, 300.75),
        ("agc", 0.5, 253.15, 90, 298.15),
    ],
)
def test_temperatures(scale, gain_k, offset_k, value, kelvin):
    pixels = np.array([[value]], "u1" if scale == "agc" else "<u2")
    encoding = "mono8" if scale == "agc" else "mono16"
    frame = decode_thermal(
        raw_image(pixels.tobytes(), 1, 1, encoding, pixels.nbytes), scale, gain_k=gain_k, offset_k=offset_k
    )
    assert frame.unit == "kelvin"
    assert frame.values[0, 0] == pytest.approx(kelvin, abs=1e-3)


@pytest.mark.parametrize("encoding", ["8UC2", "32FC3", "16SC4", "bayer_rggb8"])
def test_what_is_no_thermal_image_is_not_called_a_palette(encoding):
    size = ENCODINGS[encoding].channels * np.dtype(ENCODINGS[encoding].code).itemsize
    with pytest.raises(DataError, match=f"expected one channel, .* got {encoding}"):
        decode_thermal(raw_image(bytes(size * W * H), W, H, encoding, size * W), "counts")


@pytest.mark.parametrize(("encoding", "order", "step"), [("nv12", "uv", W * 3 // 2), ("nv21", "vu", 2 * W)])
def test_a_step_that_counts_the_chroma_means_that_rows_touch(encoding, order, step):
    data = yuv420(order)
    expected = decode_image(raw_image(data, W, H, encoding, W)).image
    np.testing.assert_array_equal(decode_image(raw_image(data, W, H, encoding, step)).image, expected)


@pytest.mark.parametrize("pattern", ["RG", "BG", "GB", "GR"])
def test_names_of_machine_vision(pattern):
    first, second = pattern.lower()
    rest = {"rg": "gb", "bg": "gr", "gb": "rg", "gr": "bg"}[first + second]
    assert find_encoding(f"Bayer{pattern}16") == f"bayer_{first}{second}{rest}16"


def test_an_encoding_that_only_cv_bridge_knows_goes_through_it(monkeypatch):
    asked = []

    class CvBridge:
        def imgmsg_to_cv2(self, msg, encoding):
            asked.append((msg.encoding, encoding))
            if msg.encoding == "nobody":
                raise RuntimeError("Unrecognized image encoding")
            return SCENE if msg.encoding == "rgb565" else SCENE[:3]

    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=CvBridge))
    np.testing.assert_array_equal(decode_image(raw_image(bytes(2 * W * H), W, H, "rgb565", 2 * W)).image, SCENE)
    with pytest.raises(DataError, match="cv_bridge gives uint8 of shape"):
        decode_image(raw_image(bytes(2 * W * H), W, H, "xyz", 2 * W))
    with pytest.raises(DataError, match="'nobody' is not supported"):
        decode_image(raw_image(bytes(2 * W * H), W, H, "nobody", 2 * W))
    np.testing.assert_array_equal(decode_image(message("rgb8", SCENE)).image, SCENE)
    assert asked == [("rgb565", "rgb8"), ("xyz", "rgb8"), ("nobody", "rgb8")]


PICTURES = [name for name, found in ENCODINGS.items() if found.is_picture and "UC" not in name]


@pytest.mark.parametrize("encoding", PICTURES)
def test_pixels_equal_those_of_cv_bridge(encoding):
    module = pytest.importorskip("cv_bridge", reason="needs a ROS installation with cv_bridge", exc_type=ImportError)
    found = ENCODINGS[encoding]
    if found.chroma:
        data = yuv420("vu" if encoding == "nv21" else "uv") if encoding != "nv24" else yuv444().tobytes()
        one = raw_image(data, W, H, encoding, W)
    else:
        dtype = np.dtype("<" + found.code)
        shape = (H, W) if found.channels == 1 else (H, W, found.channels)
        one = message(encoding, np.random.default_rng(3).integers(0, np.iinfo(dtype).max, shape).astype(dtype))
    try:
        theirs = module.CvBridge().imgmsg_to_cv2(one, "rgb8")
    except Exception as error:
        pytest.skip(f"this cv_bridge does not read {encoding} ({str(error)[:80]})")
    assert np.abs(decode_image(one).image.astype(int) - theirs).max() <= 1
