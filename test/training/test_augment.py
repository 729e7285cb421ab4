from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import ConfigError
from mm_perception.training.augment import augment, flip, jitter, random_crop, rescale
from mm_perception.training.recipe import Recipe, learning_rate
from mm_perception.training.samples import Sample, x_format

HEIGHT, WIDTH = 64, 96


def coordinates() -> Sample:
    """A frame whose pixels tell where they are: row and column in rgb and x, quadrant in the labels."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.uint8)
    rgb = np.stack([rows * 2, columns * 2, np.full_like(rows, 7)], axis=-1)
    x = np.stack([columns * 2, rows * 2, np.full_like(rows, 9)], axis=-1)
    return Sample(rgb, x, (2 * (rows >= HEIGHT // 2) + (columns >= WIDTH // 2)).astype(np.uint8), "night")


@pytest.mark.parametrize("modality", ["thermal", "depth"])
@pytest.mark.parametrize("seed", range(12))
def test_image_x_and_labels_stay_together(modality, seed):
    form = x_format(modality)
    made = augment(coordinates(), Recipe(), (48, 80), form, 250, np.random.default_rng(seed))
    assert made.labels.shape == (48, 80)
    inside = made.labels != 255
    np.testing.assert_array_equal(inside, made.rgb[..., 2] == 7)
    np.testing.assert_array_equal(inside, made.x[..., 2] == 9)
    assert (made.rgb[~inside] == 250).all()
    assert (made.x[~inside] == form.empty).all()
    row, column = made.rgb[inside][:, 0].astype(int), made.rgb[inside][:, 1].astype(int)
    apart = 2 if modality == "thermal" else 6  # nearest and linear differ by up to a pixel of the source
    assert np.abs(made.x[inside][:, 1].astype(int) - row).max() <= apart
    assert np.abs(made.x[inside][:, 0].astype(int) - column).max() <= apart
    clear = (np.abs(row - HEIGHT) > 6) & (np.abs(column - WIDTH) > 6)
    np.testing.assert_array_equal(made.labels[inside][clear], (2 * (row > HEIGHT) + (column > WIDTH))[clear])
    assert made.condition == "night"


def test_same_generator_gives_the_same_and_the_input_is_kept():
    sample = coordinates()
    before = sample.rgb.copy()
    recipe = Recipe(brightness=0.2, contrast=0.2)
    a, b = (augment(sample, recipe, (48, 80), x_format("rgb"), 0, np.random.default_rng(5)) for _ in range(2))
    for part in ("rgb", "x", "labels"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
    np.testing.assert_array_equal(a.rgb, a.x)
    np.testing.assert_array_equal(sample.rgb, before)


def test_flip_twice_is_nothing():
    sample = coordinates()
    np.testing.assert_array_equal(flip(sample).rgb, sample.rgb[:, ::-1])
    np.testing.assert_array_equal(flip(flip(sample)).labels, sample.labels)


def test_labels_are_never_mixed():
    labels = np.where(np.indices((HEIGHT, WIDTH)).sum(0) % 2, 1, 200).astype(np.uint8)
    sample = Sample(coordinates().rgb, coordinates().x, labels)
    for scale in (0.5, 0.75, 1.25, 1.75):
        assert set(np.unique(rescale(sample, scale, False).labels)) <= {1, 200}


def test_crop_places():
    whole = random_crop(coordinates(), (HEIGHT, WIDTH), x_format("depth"), 0, (0.3, 0.9))
    np.testing.assert_array_equal(whole.rgb, coordinates().rgb)
    corner = random_crop(coordinates(), (32, 48), x_format("depth"), 0, (1.0, 0.0))
    np.testing.assert_array_equal(corner.labels, 2)
    padded = random_crop(coordinates(), (HEIGHT + 10, WIDTH + 4), x_format("events"), 0, (1.0, 0.0))
    assert (padded.x[:10] == 128).all() or (padded.x[-10:] == 128).all()


def test_jitter():
    grey = np.full((4, 4, 3), 100, np.uint8)
    np.testing.assert_array_equal(jitter(grey, 1.5, 0.2), 150)
    np.testing.assert_array_equal(jitter(grey, 9.0, 1.0), 255)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 0.0), (0.05, 0.5 * 0.95**0.9), (0.1, 0.9**0.9), (0.5, 0.5**0.9), (1.0, 0.0), (1.2, 0.0)],
)
def test_rate_follows_its_closed_form(share, expected):
    recipe = Recipe(learning_rate=0.01, warmup=0.1)
    assert learning_rate(recipe, share) == pytest.approx(0.01 * expected)
    epochs = Recipe(learning_rate=0.01, epochs=50, warmup_epochs=5.0)
    assert learning_rate(epochs, share) == learning_rate(recipe, share)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"crop_height": 20}, "crop_height"),
        ({"scales": ()}, "scales"),
        ({"minutes": 0.0}, "minutes"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "warmup_epochs"),
    ],
)
def test_impossible_recipes(change, expected):
    with pytest.raises(ConfigError, match=expected):
        Recipe(**change)
    assert Recipe().digest() != Recipe(seed=1).digest()
