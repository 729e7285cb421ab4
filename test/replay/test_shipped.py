"""The bag and the weights that ship with the package."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.resources import config_dir
from mm_perception.core.settings import FusionSettings
from mm_perception.engines.card import find_card
from mm_perception.engines.stamp import file_sha256
from mm_perception.pipeline.perception import build_perception
from mm_perception.replay.replay import replay_bag
from mm_perception.sim.surfaces import CLASSES, PALETTE

BAG = config_dir().parent / "rosbags" / "demo.mcap"
CARDS = ("cmx-tiny-rgb", "cmx-tiny-rgb-thermal", "cmx-tiny-rgb-depth")


def test_demo_bag_is_small():
    assert 1_000_000 < BAG.stat().st_size <= 15_000_000


def test_weights_are_small_and_those_of_their_cards():
    total = 0
    for name in CARDS:
        card = find_card(name)
        assert card.trained and card.weights_path is not None
        assert file_sha256(card.weights_path) == card.weights_sha256
        assert card.classes == CLASSES and card.palette == PALETTE
        assert "commit" in card.provenance and "seed" in card.provenance
        assert card.measured is not None and card.measured["miou.night"] > 0.2
        total += card.weights_path.stat().st_size
    assert total <= 10_000_000


@pytest.mark.parametrize("name", CARDS)
def test_shipped_weights_see_the_demo_street(name):
    """Labels of the night drive: far better than any constant answer, and most of the picture right."""
    perception = build_perception(FusionSettings(model=name, engine="onnxruntime"))
    report = replay_bag(BAG, perception)
    perception.close()
    assert (report.frames, report.bundles, report.scored) == (7, 7, 7) and not report.dropped
    assert report.scores is not None and report.trained
    assert report.scores.pixel_accuracy > 0.75
    for important in ("road", "building", "car", "sky"):
        assert report.scores.iou[CLASSES.index(important)] > 0.3, important
    assert np.nanmean(report.scores.iou) > 0.2
