"""Labels on a device against those of numpy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.gpu.labels import most_likely  # noqa: E402


@pytest.mark.parametrize("classes", [1, 2, 9, 255])
def test_lowest_id_wins_a_tie(device, classes):
    logits = np.random.default_rng(0).integers(-3, 3, (1, classes, 20, 30)).astype(np.float32)
    got = most_likely(torch.from_numpy(logits).to(device))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, logits[0].argmax(axis=0))
