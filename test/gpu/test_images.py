"""Pictures on a device against those of OpenCV and numpy."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.sensing.image import GREY_LEVELS, Placement, to_tensor

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.gpu.images import normalised, normalised_views, resized, upload_picture  # noqa: E402

SIZES = [
    ((480, 640), (96, 128)), ((540, 961), (252, 448)), ((100, 50), (256, 448)), ((480, 640), (240, 320)),
    ((480, 640), (480, 320)), ((480, 640), (600, 320)), ((50, 65), (77, 64)), ((96, 64), (48, 128)),
    ((77, 33), (48, 64)), ((90, 200), (48, 64)), ((48, 64), (48, 64)), ((1, 1), (30, 40)), ((30, 40), (1, 1)),
]  # fmt: skip
"""Shrinking, growing, both at once, whole factors and none, neither."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def as_image(tensor):
    return tensor.permute(1, 2, 0).cpu().numpy()


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_grey_levels_are_opencvs_within_one(device, source, target, mode):
    image, placement = picture(source), Placement.fit(source[1], source[0], target[1], target[0], mode)
    got = as_image(resized(upload_picture(image, device), placement, border=116.4))
    expected = placement.resize(image, border=116.4)
    assert got.dtype == np.float32 and (got == np.rint(got)).all()
    off = np.abs(got - expected)
    assert off.max() <= 1.0
    assert (off > 0).mean() < 0.3, "OpenCV's whole numbers and halves; elsewhere both are the same"


@pytest.mark.parametrize(
    ("source", "target"),
    [((480, 640), (96, 128)), ((540, 961), (252, 448)), ((192, 256), (96, 128)), ((192, 512), (96, 128)),
     ((384, 512), (96, 128)), ((192, 200), (96, 128))],
)  # fmt: skip
def test_shrinking_by_means_gives_the_same_grey_levels(device, source, target):
    image, placement = picture(source), Placement.fit(source[1], source[0], target[1], target[0], "stretch")
    got = as_image(resized(upload_picture(image, device), placement))
    off = np.abs(got - placement.resize(image))
    assert off.max() <= 1.0 and (off > 0).mean() < 5e-3, "means within float32's rounding of a half"


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_x_images_are_opencvs_to_rounding(device, source, target, mode):
    image = np.random.default_rng(1).standard_normal((*source, 3)).astype(np.float32)
    placement = Placement.fit(source[1], source[0], target[1], target[0], mode)
    got = as_image(resized(upload_picture(image, device), placement, border=0.25))
    np.testing.assert_allclose(got, placement.resize(image, border=0.25), atol=2e-6)


@pytest.mark.parametrize("size", [(130, 100), (64, 48)])
def test_pictures_of_another_size_than_the_placement_was_made_for(device, size):
    placement = Placement.fit(128, 96, 64, 48, "stretch")
    got = as_image(resized(upload_picture(picture(size), device), placement))
    assert np.abs(got - placement.resize(picture(size))).max() <= 1.0


@pytest.mark.parametrize("reverse", [False, True])
def test_normalisation_is_that_of_the_host(device, reverse):
    image = picture((20, 30))
    got = normalised(upload_picture(image, device).float(), GREY_LEVELS, MEAN, STD, reverse)
    assert got.is_contiguous() and got.dtype == torch.float32
    np.testing.assert_allclose(got.cpu().numpy(), to_tensor(image, MEAN, STD, reverse), atol=1e-6)
    floats = np.random.default_rng(0).random((20, 30, 3), np.float32)
    got = normalised(upload_picture(floats, device), 1.0, MEAN, STD, reverse)
    np.testing.assert_allclose(got.cpu().numpy(), to_tensor(floats, MEAN, STD, reverse), atol=1e-6)


def test_pictures_of_any_strides_and_such_that_may_not_be_written(device):
    image = picture((8, 9))
    image.flags.writeable = False
    for view in (image, image[..., ::-1], image[::2, 1:]):
        np.testing.assert_array_equal(as_image(upload_picture(view, device)), view)


def test_missing_views_are_dark(device):
    images, present = picture((4, 10, 12)[1:], 5)[None].repeat(4, axis=0), np.array([True, False, True, True])
    mean, std = np.float32(MEAN), np.float32(STD)
    got = normalised_views(images[..., ::-1], present, mean, std, device)
    expected = (images[..., ::-1] / np.float32(255) - mean) / std * present[:, None, None, None]
    assert got.is_contiguous() and got.shape == (4, 3, 10, 12) and (got[1] == 0).all()
    np.testing.assert_allclose(got.cpu().numpy(), expected.transpose(0, 3, 1, 2), atol=2e-6)
