"""Everything that is computed from one observation, and how it is put together from settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.core.settings import FusionSettings
from mm_perception.core.types import SegmentationMap
from mm_perception.engines.card import ModelCard, find_card
from mm_perception.engines.load import load_engine
from mm_perception.metrics.latency import StageClock
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.segmentation import SegmentationPipeline, choose_x_sensor


@dataclass(frozen=True, slots=True, eq=False)
class PerceptionResult:
    """What one step gave.

    Attributes:
        stage_ms: wall time by stage [ms].
    """

    segmentation: SegmentationMap
    stage_ms: dict[str, float] = field(default_factory=dict)


class Perception:
    """All models of one rig; `step` is called with one observation after the other."""

    def __init__(self, rig: RigConfig, segmentation: SegmentationPipeline) -> None:
        self.rig = rig
        self.segmentation = segmentation

    @property
    def card(self) -> ModelCard:
        return self.segmentation.card

    def step(self, observation: Observation) -> PerceptionResult:
        """Raises DataError, CalibrationError or EngineError; the observation is then dropped."""
        clock = StageClock()
        segmentation = self.segmentation.step(observation, clock)
        return PerceptionResult(segmentation, clock.stage_ms)

    def close(self) -> None:
        self.segmentation.engine.close()


def build_perception(settings: FusionSettings, on_progress: Callable[[str], None] | None = None) -> Perception:
    """Loads rig, model card and engine, and checks that they fit.

    Raises:
        ConfigError, ModelError, EngineError: with everything that the user has to know.
    """
    rig = load_rig(settings.rig)
    if settings.max_wait_ms >= 0:
        rig = rig.with_max_wait_ms(settings.max_wait_ms)
    card = find_card(settings.model)
    choose_x_sensor(card, rig, settings.x_sensor)  # before the engine, which may take long to build
    engine = load_engine(card, settings.engine, threads=settings.threads or None, on_progress=on_progress)
    return Perception(rig, SegmentationPipeline(card, engine, rig, settings.x_sensor))
