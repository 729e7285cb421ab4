"""The inputs on which the ways to run a network are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mm_perception.core.errors import MmPerceptionError
from mm_perception.core.rig import load_rig
from mm_perception.engines.card import ModelCard
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.engine import Array
from mm_perception.engines.reference import made_inputs


@dataclass(frozen=True, slots=True)
class Recording:
    """`count` observations of a bag, spread evenly over it; `rig`: a name or path."""

    bag: Path
    rig: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs of one network, at least one.

    Attributes:
        recorded: they come from sensors, not from the card alone.
        origin: where they come from, in words.
    """

    inputs: list[dict[str, Array]]
    recorded: bool
    origin: str


def samples_of(card: ModelCard | DetectorCard, recording: Recording) -> Samples:
    """Recorded inputs for trained weights. Random weights get made ones, and trained ones where there is no bag."""
    if not card.trained:
        return Samples(made_inputs(card), False, "made inputs")
    try:
        # Reading bags needs a library that a bare machine may lack.
        from mm_perception.replay.inputs import network_inputs

        inputs = network_inputs(card, recording.bag, load_rig(recording.rig), recording.count)
    except (MmPerceptionError, OSError, ImportError) as error:
        return Samples(made_inputs(card), False, f"made inputs (none are recorded: {' '.join(str(error).split())})")
    return Samples(inputs, True, f"{len(inputs)} recorded inputs ({recording.bag}, rig {recording.rig})")
