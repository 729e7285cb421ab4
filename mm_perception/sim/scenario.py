"""The scenario file: what a simulated drive looks like, and what stands in its way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mm_perception.core.config import load_yaml, setting
from mm_perception.core.resources import find_config
from mm_perception.sim.actors import Kind
from mm_perception.sim.conditions import ConditionName

Style = Literal["urban", "residential", "rural"]


@dataclass(frozen=True, slots=True)
class PlacedObject:
    """An object put by hand; it keeps its speed and heading."""

    kind: Kind = setting(description="what it is")
    s_m: float = setting(description="place along the road at the start, the ego vehicle's start is ego.start_m")
    d_m: float = setting(description="place across the road, left of its centre line")
    speed_mps: float = setting(0.0, "along its heading", minimum=0.0, maximum=60.0)
    heading_deg: float = setting(0.0, "about +z, relative to the road's direction", minimum=-360.0, maximum=360.0)


@dataclass(frozen=True, slots=True)
class Ego:
    """The vehicle that carries the sensors."""

    speed_mps: float = setting(8.0, "constant", minimum=0.0, maximum=40.0)
    lane: int = setting(0, "0: next to the centre line, counted outwards", minimum=0, maximum=1)
    start_m: float = setting(0.0, "where it starts along the road", minimum=-50.0, maximum=10_000.0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything but the sensors; what is not given is drawn from the seed."""

    name: str = setting("street", "for reports")
    seed: int = setting(0, "draws the street, its traffic and the weather's numbers", minimum=0, maximum=2**31 - 1)
    condition: ConditionName = setting("day", "light and weather")
    style: Style = setting("urban", "what lines the street")
    ego: Ego = setting(Ego(), "the ego vehicle")
    traffic: float = setting(1.0, "amount of moving vehicles; 0: none", minimum=0.0, maximum=3.0)
    parked: float = setting(1.0, "amount of parked vehicles", minimum=0.0, maximum=3.0)
    people: float = setting(1.0, "amount of pedestrians and cyclists", minimum=0.0, maximum=3.0)
    fog_visibility_m: float | None = setting(None, "meteorological visibility", minimum=6.0, maximum=1e5)
    rain_mm_h: float | None = setting(None, "rain rate", minimum=0.0, maximum=150.0)
    air_c: float | None = setting(None, "air temperature in degrees Celsius", minimum=-40.0, maximum=50.0)
    objects: tuple[PlacedObject, ...] = setting((), "objects put by hand")


def load_scenario(name_or_path: str, seed: int | None = None) -> Scenario:
    """A shipped scenario (config/scenarios) by name, or any by path.

    Args:
        seed: replaces the file's seed.

    Raises:
        ConfigError: it does not exist, or has unknown keys or impossible values.
    """
    path: Path = find_config("scenarios", name_or_path)
    scenario = load_yaml(path, Scenario)
    return scenario if seed is None else replace(scenario, seed=seed)
