"""Weights files into DeepInteraction++ networks."""

from __future__ import annotations

from pathlib import Path

from mm_perception.core.detector import DetectorVariant
from mm_perception.core.errors import ModelError
from mm_perception.models.checkpoint import read_state_dict
from mm_perception.models.deepinteraction.model import DeepInteraction
from mm_perception.models.wrapping import spconv1_kernels

_SHOWN = 4


def load_detector(
    path: Path, variant: DetectorVariant, classes: int, published_decoder_quirk: bool = False
) -> DeepInteraction:
    """A network in evaluation mode, with the weights of a file of the published keys, of spconv 1 or 2.

    Raises:
        ModelError: the file is missing or damaged, or has other keys or shapes (the first ones are named).
    """
    network = DeepInteraction(variant, classes, published_decoder_quirk)
    wanted = network.state_dict()
    state = spconv1_kernels(read_state_dict(path), wanted)
    missing, strange = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    other = [
        f"{k}: expected {tuple(v.shape)}, got {tuple(state[k].shape)}"
        for k, v in wanted.items()
        if k in state and state[k].shape != v.shape
    ]
    lists = (("missing", missing), ("unexpected", strange), ("of another shape", other))
    problems = [f"{len(names)} {what}: {', '.join(names[:_SHOWN])}" for what, names in lists if names]
    if problems:
        counts = f"the network has {len(wanted)} keys, the file {len(state)}"
        raise ModelError(
            f"weights file {path}: is of another network ({counts})\n  "
            + "\n  ".join([*problems, "is it of another variant (full, full-voxels, tiny)?"])
        )
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in state.items()})
    return network.eval()
