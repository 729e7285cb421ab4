"""From a segmentation network's scores to labels, where the scores lie: one byte per pixel goes to the host."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def most_likely(logits: Tensor) -> NDArray[np.uint8]:
    """(1, C, H, W) logits to (H, W) uint8 ids of the largest; the lowest id wins a tie."""
    return np.asarray(logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy())
