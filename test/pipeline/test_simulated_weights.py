"""Weights that know the simulated world alone say so where the input is another."""

from __future__ import annotations

import pytest

from mm_perception.core.progress import Caution
from mm_perception.core.settings import FusionSettings
from mm_perception.engines.card import knows_simulation_alone
from mm_perception.pipeline.perception import build_perception


def said(rig: str, model: str) -> list[str]:
    told: list[str] = []
    build_perception(FusionSettings(rig=rig, model=model, detector="none", engine="torch"), told.append)
    return [text for text in told if isinstance(text, Caution) and "simulated scenes alone" in text]


def test_shipped_weights_on_a_real_rig_and_in_their_own_world():
    assert len(said("rgb", "cmx-tiny-rgb")) == 1
    assert said("demo", "cmx-tiny-rgb") == []


def test_untrained_weights_say_only_that_they_are():
    assert said("rgb", "cmx-b0-rgb-untrained") == []


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ("trained by `mm-perception train segmentation` on 10 frames of the simulated world; seed 0", True),
        ("trained by `mm-perception train detection` on bag x.mcap; started from y, of the simulated world", False),
        ("epoch-last.pth; classes of mfnet (public code)", False),
        ("", False),
    ],
)
def test_what_a_card_says(provenance, expected):
    assert knows_simulation_alone(provenance) is expected
