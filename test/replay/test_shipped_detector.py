"""The detector that ships with the package."""

from __future__ import annotations

import pytest

from mm_perception.core.config import load_yaml
from mm_perception.core.resources import find_config
from mm_perception.engines.detector_card import find_detector_card
from mm_perception.engines.stamp import file_sha256

NAME = "deepinteraction-tiny"


def test_weights_are_small_and_those_of_the_card():
    pytest.importorskip("torch", reason="torch is not installed")
    from mm_perception.training.detection_recipe import DetectorRecipe

    card = find_detector_card(NAME)
    assert card.trained and card.weights_path is not None
    assert file_sha256(card.weights_path) == card.weights_sha256
    assert card.weights_path.stat().st_size <= 10_000_000
    recipe = load_yaml(find_config("recipes", "detection-world"), DetectorRecipe)
    assert f"recipe {recipe.digest()}" in card.provenance and "commit" in card.provenance
    assert card.measured is not None and card.measured["mAP"] > 0.2
    assert 0 < card.deviations["car"][0] < 1.0


def test_it_finds_most_cars_of_a_street_that_it_has_not_seen():
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("open3d", reason="the simulated world needs open3d-cpu", exc_type=ImportError)
    from mm_perception.engines.load import load_engine
    from mm_perception.replay.held_out_detection import FUSION, Way, compare_ways
    from mm_perception.sim.detection_frames import make_detection_frames

    card = find_detector_card(NAME)
    frames = list(make_detection_frames("held-out", 7, 3, workers=1))
    comparison = compare_ways(card, {FUSION: Way(load_engine(card, "torch"))}, frames)
    found, truth = comparison.found[FUSION], comparison.truth
    seen = missed = 0
    for boxes, there in zip(found, truth, strict=True):
        cars = there.take((there.classes == "car") & (there.distance_m < 30) & (there.points >= 20))
        sure = boxes.take((boxes.classes == "car") & (boxes.scores >= card.min_score))
        for center in cars.centers:
            near = ((sure.centers[:, :2] - center[:2]) ** 2).sum(axis=1) < 4.0
            seen, missed = seen + bool(near.any()), missed + (not near.any())
    assert seen + missed >= 5, "a test of nothing"
    assert seen >= 0.7 * (seen + missed)
