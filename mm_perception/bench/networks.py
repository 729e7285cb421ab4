"""The networks that benches measure: sizes as published with seeded random weights, and those of model cards."""

from __future__ import annotations

from mm_perception.core.detector import VARIANTS
from mm_perception.core.errors import ConfigError, ModelError
from mm_perception.engines.card import ModelCard, card_path
from mm_perception.engines.detector_card import DetectorCard, find_any_card

NETWORKS = ("cmx-tiny", "cmx-b0", "cmx-b2", "cmx-b4", "deepinteraction-full")
CLASSES = tuple(f"class{i}" for i in range(9))  # as many as MFNet has
DETECTOR_CLASSES = tuple(f"class{i}" for i in range(10))  # as many as nuScenes has
TINY_DECODER_DIM, DECODER_DIM = 128, 512
WEIGHTS = "random:7"


def network_card(network: str, height: int, width: int) -> ModelCard | DetectorCard:
    """The card of a shipped model by its name, of any model by its card file, else `bench_card`.

    Raises:
        ModelError: the card is wrong.
        ConfigError: there is none, and no such network or size.
    """
    try:
        path = card_path(network)
    except ModelError:
        return bench_card(network, height, width)
    return find_any_card(path)


def bench_card(network: str, height: int, width: int) -> ModelCard | DetectorCard:
    """The card of "cmx-<variant>" with images of that size, or of "deepinteraction-<variant>", whose size is fixed.

    Raises:
        ConfigError: the network or the size is impossible.
    """
    family, _, variant = network.partition("-")
    if family == "deepinteraction" and variant in VARIANTS:
        return DetectorCard(
            name=f"bench-{network}",
            variant=variant,
            classes=DETECTOR_CLASSES,
            channel_order="rgb",
            trained=False,
            weights=WEIGHTS,
        )
    if family != "cmx":
        known = ", ".join(NETWORKS)
        raise ConfigError(f"network: expected one of {known}, a name in config/models or a card file, got {network!r}")
    return ModelCard(
        name=f"bench-{network}",
        variant=variant,
        classes=CLASSES,
        modality="thermal",
        encoding="raw",
        input_height=height,
        input_width=width,
        channel_order="rgb",
        trained=False,
        weights=WEIGHTS,
        decoder_dim=TINY_DECODER_DIM if variant == "tiny" else DECODER_DIM,
    )
