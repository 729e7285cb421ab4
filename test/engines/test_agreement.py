"""What counts as the same result, and reference inputs."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import ModelError
from mm_perception.engines.agreement import TOLERANCES, Agreement, agreement
from mm_perception.engines.card import find_card
from mm_perception.engines.detector_card import find_detector_card
from mm_perception.engines.reference import load_references, made_inputs, save_references

CARD, DETECTOR = find_card("cmx-tiny-rgb-thermal"), find_detector_card("deepinteraction-tiny")


def logits(seed: int = 0) -> dict[str, np.ndarray]:
    shape = CARD.specs()[1][0].shape
    return {"logits": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def test_labels_that_differ_are_counted():
    want = logits()
    got = {"logits": want["logits"].copy()}
    height, width = CARD.input_size
    best = want["logits"].argmax(axis=1)
    got["logits"][0, :, :10] = 0.0
    got["logits"][0, (best[0, 0, 0] + 1) % 4, :10] = 1.0
    wrong = int((got["logits"].argmax(axis=1) != best).sum())
    assert agreement(CARD, [want], [got]).labels == pytest.approx(1 - wrong / (height * width))
    assert wrong and agreement(CARD, [want], [want]) == Agreement(True, 0.0, 1.0)
    both = agreement(CARD, [want, want], [want, got])
    assert both.labels == agreement(CARD, [want], [got]).labels, "the worst sample counts"


def test_values_that_are_not_finite_meet_no_tolerance():
    got = logits()
    got["logits"][0, 0, 0, 0] = np.nan
    result = agreement(CARD, [logits()], [got])
    assert not result.usable and not any(tolerance.met(result) for tolerance in TOLERANCES.values())


def boxes(queries: int = 100) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    made = {s.name: rng.standard_normal(s.shape).astype(s.dtype) for s in DETECTOR.specs()[1]}
    made["labels"] = rng.integers(0, len(DETECTOR.classes), (1, queries))
    made["center"] = rng.uniform(0, 104, (1, 2, queries)).astype(np.float32)
    made["prior"] = np.abs(made["prior"])
    return made


def test_boxes_are_compared_wherever_they_stand():
    want = boxes()
    order = np.random.default_rng(2).permutation(100)
    got = {name: value[..., order] for name, value in want.items()}
    assert agreement(DETECTOR, [want], [got]) == Agreement(True, 0.0, 1.0)


@pytest.mark.parametrize(("name", "amount", "share"), [("center", 0.1, 1.0), ("center", 1.0, 0.0), ("labels", 1, 0.0)])
def test_boxes_elsewhere_or_of_another_class_are_not_the_same(name, amount, share):
    want = boxes()
    got = want | {name: (want[name] + amount) % (10 if name == "labels" else np.inf)}
    if name == "center":
        got["center"] = want["center"] + np.array([amount, 0], np.float32)[None, :, None]
    assert agreement(DETECTOR, [want], [got]).labels == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("strange", [2**31 - 1, len(DETECTOR.classes), -1])
def test_labels_of_no_class_meet_no_tolerance(strange):
    want = boxes()
    want["labels"][0, 7] = len(DETECTOR.classes) - 1
    got = want | {"labels": want["labels"].copy()}
    got["labels"][0, 7] = strange  # of one query: -1 is the last class's index, too
    result = agreement(DETECTOR, [want, want], [want, got])
    assert result == Agreement(False, np.inf, 0.0) and "labels of no class" in str(result)
    assert not any(tolerance.met(result) for tolerance in TOLERANCES.values())


@pytest.mark.parametrize("card", [CARD, DETECTOR], ids=lambda card: card.name)
def test_made_inputs_fit_and_repeat(card):
    pytest.importorskip("torch", reason="torch is not installed")
    first, again = made_inputs(card, 2), made_inputs(card, 2)
    for sample, other in zip(first, again, strict=True):
        for spec in card.specs()[0]:
            value = sample[spec.name]
            assert value.shape == spec.shape and value.dtype == np.dtype(spec.dtype)
            assert np.array_equal(value, other[spec.name]) and np.isfinite(value).all()
    assert not np.array_equal(*(sample[card.specs()[0][0].name] for sample in first))


def test_recorded_inputs_survive_and_foreign_ones_are_refused(tmp_path):
    path = tmp_path / "a" / "inputs.npz"
    samples = made_inputs(CARD, 2)
    save_references(path, samples)
    again = load_references(path, CARD.specs()[0])
    assert all(np.array_equal(a[n], b[n]) for a, b in zip(samples, again, strict=True) for n in ("rgb", "x"))
    with pytest.raises(ModelError, match=r"images.*got None"):
        load_references(path, DETECTOR.specs()[0])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read"):
        load_references(path, CARD.specs()[0])
