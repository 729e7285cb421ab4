"""Light, weather and temperature of a scene.

Photometric quantities are linear red, green, blue triples whose white is a lamp's or the sun's illuminance in lux
(so radiance of a matt surface is albedo x illuminance / pi, in cd/m2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError

ConditionName = Literal["day", "dusk", "night", "fog", "rain", "glare", "low_sun"]
CONDITIONS: tuple[ConditionName, ...] = get_args(ConditionName)

Vector = NDArray[np.float64]

KOSCHMIEDER = 3.912
"""Optical depth at which 2 % of the contrast is left: visibility = 3.912 / extinction (Koschmieder 1924)."""


@dataclass(frozen=True, slots=True, eq=False)
class Environment:
    """One condition with all its numbers.

    Attributes:
        sun_direction: (3,) unit vector towards the sun, in the world.
        sun_lux, sky_lux: (3,) illuminance of a surface that faces the sun, and of a free horizontal one by the sky.
        zenith, horizon: (3,) luminance of the sky [cd/m2].
        cloud_cover: 0..1.
        lamps_on: street lamps, lit windows, headlights.
        extinction_1pm: of visible light and 905 nm by fog or rain [1/m].
        airlight: (3,) luminance of an endless layer of fog [cd/m2].
        rain_mm_h: rain rate.
        wetness: 0..1, of the ground.
        lens_scatter: share of the light that dirt and drops on the glass spread over the image.
        air_k: air temperature [K].
        sky_k: temperature at which the clear or clouded sky shows to a thermal camera, at the zenith [K].
        heating: 0..1, how much of full, steady sunshine the surfaces have stored.
    """

    name: ConditionName
    sun_direction: Vector
    sun_lux: Vector
    sky_lux: Vector
    zenith: Vector
    horizon: Vector
    cloud_cover: float
    lamps_on: bool
    extinction_1pm: float
    airlight: Vector
    rain_mm_h: float
    wetness: float
    lens_scatter: float
    air_k: float
    sky_k: float
    heating: float

    @property
    def visibility_m(self) -> float:
        """Meteorological visibility; infinite in clear air."""
        return KOSCHMIEDER / self.extinction_1pm if self.extinction_1pm > 0 else float("inf")

    @property
    def thermal_extinction_1pm(self) -> float:
        """Extinction in 8-14 um [1/m].

        Droplets of fog (some micrometres) scatter long waves less than light, so a thermal camera sees about twice
        as far there; raindrops (millimetres) extinguish both alike. Clear air: 0.1 per km by water vapour.
        """
        share = 1.0 if self.rain_mm_h > 0 else 0.5
        return 1e-4 + share * self.extinction_1pm


def rain_extinction_1pm(rain_mm_h: float) -> float:
    """Extinction by rain [1/m], a power law of the rain rate (Atlas 1953: 0.31 R^0.63 per km)."""
    return float(0.31e-3 * rain_mm_h**0.63)


def make_environment(
    name: ConditionName,
    generator: np.random.Generator,
    road_heading_rad: float = 0.0,
    fog_visibility_m: float | None = None,
    rain_mm_h: float | None = None,
    air_c: float | None = None,
) -> Environment:
    """Draws one environment of a condition.

    Args:
        road_heading_rad: where the ego vehicle looks; the sun of `glare` and `low_sun` is placed relative to it.
        fog_visibility_m, rain_mm_h, air_c: replace what would be drawn.

    Raises:
        ConfigError: an unknown condition or impossible values.
    """
    if name not in CONDITIONS:
        raise ConfigError(f"condition: expected one of {', '.join(CONDITIONS)}, got {name!r}")
    if (fog_visibility_m is not None and fog_visibility_m <= 5) or (
        rain_mm_h is not None and not 0 <= rain_mm_h <= 150
    ):
        raise ConfigError("expected fog_visibility_m above 5 and rain_mm_h in [0, 150]")
    environment = _MAKERS[name](generator, road_heading_rad)
    if rain_mm_h is not None or environment.rain_mm_h > 0:
        rate = environment.rain_mm_h if rain_mm_h is None else rain_mm_h
        environment = replace(environment, rain_mm_h=rate, wetness=min(1.0, rate / 4.0))
        environment = replace(environment, extinction_1pm=environment.extinction_1pm + rain_extinction_1pm(rate))
    if fog_visibility_m is not None:
        environment = replace(environment, extinction_1pm=KOSCHMIEDER / fog_visibility_m)
    if air_c is not None:
        shift = air_c + 273.15 - environment.air_k
        environment = replace(environment, air_k=environment.air_k + shift, sky_k=environment.sky_k + shift)
    return environment


def _sun(elevation_deg: float, azimuth_rad: float) -> Vector:
    up = np.radians(elevation_deg)
    return np.array([np.cos(up) * np.cos(azimuth_rad), np.cos(up) * np.sin(azimuth_rad), np.sin(up)])


def _tint(level: float, red: float, green: float, blue: float) -> Vector:
    return level * np.array([red, green, blue])


def _daylight(
    name: ConditionName, sun: Vector, sun_lux: Vector, sky_lux: Vector, air_k: float, *, cloud: float = 0.2,
    heating: float = 0.8, sky_k: float | None = None, lamps: bool = False, extinction: float = 0.0,
    rain: float = 0.0, scatter: float = 0.01,
) -> Environment:  # fmt: skip
    zenith = sky_lux / np.pi * np.array([0.75, 0.9, 1.25])
    horizon = sky_lux / np.pi * np.array([1.1, 1.1, 1.1])
    if sky_k is None:  # a clear zenith shows some 50 K, a clouded one some 8 K below the air
        sky_k = air_k - 50.0 + 42.0 * cloud
    return Environment(
        name, sun, sun_lux, sky_lux, zenith, horizon, cloud, lamps, extinction, (sky_lux + 0.3 * sun_lux) / np.pi,
        rain, min(1.0, rain / 4.0), scatter, air_k, sky_k, heating,
    )  # fmt: skip


def _celsius(generator: np.random.Generator, low: float, high: float) -> float:
    return float(generator.uniform(low, high)) + 273.15


def _day(g: np.random.Generator, heading: float) -> Environment:
    cloud = float(g.choice([0.1, 0.4, 0.95]))
    sun = _sun(g.uniform(30, 60), g.uniform(-np.pi, np.pi))
    direct = 80_000.0 * sun[2] * (0.02 if cloud > 0.9 else 1.0)
    sky = 15_000.0 if cloud < 0.9 else 18_000.0
    heating = 0.25 if cloud > 0.9 else float(g.uniform(0.6, 1.0))
    return _daylight("day", sun, _tint(direct / sun[2], 1, 0.96, 0.88), _tint(sky, 0.9, 1, 1.15), _celsius(g, 5, 28),
                     cloud=cloud, heating=heating)  # fmt: skip


def _low_sun(g: np.random.Generator, heading: float) -> Environment:
    sun = _sun(g.uniform(6, 14), heading + g.choice([-1, 1]) * g.uniform(0.9, 2.9))
    return _daylight("low_sun", sun, _tint(35_000, 1, 0.8, 0.55), _tint(7_000, 0.85, 0.95, 1.2), _celsius(g, 2, 22),
                     cloud=0.1, heating=0.45)  # fmt: skip


def _glare(g: np.random.Generator, heading: float) -> Environment:
    sun = _sun(g.uniform(5, 13), heading + g.uniform(-0.4, 0.4))
    return _daylight("glare", sun, _tint(40_000, 1, 0.85, 0.62), _tint(8_000, 0.95, 0.97, 1.1), _celsius(g, 2, 24),
                     cloud=0.1, heating=0.45, scatter=float(g.uniform(0.1, 0.22)))  # fmt: skip


def _dusk(g: np.random.Generator, heading: float) -> Environment:
    sun = _sun(-4.0, g.uniform(-np.pi, np.pi))
    lux = float(np.exp(g.uniform(np.log(4), np.log(60))))
    return _daylight("dusk", sun, np.zeros(3), _tint(lux, 0.85, 0.9, 1.25), _celsius(g, 2, 20), cloud=0.3,
                     heating=0.3, lamps=True)  # fmt: skip


def _night(g: np.random.Generator, heading: float) -> Environment:
    sun = _sun(-30.0, 0.0)
    lux = float(np.exp(g.uniform(np.log(0.02), np.log(0.3))))
    return _daylight("night", sun, np.zeros(3), _tint(lux, 1.1, 0.95, 0.9), _celsius(g, -2, 18), cloud=0.3,
                     heating=0.06, lamps=True)  # fmt: skip


def _fog(g: np.random.Generator, heading: float) -> Environment:
    sun = _sun(g.uniform(15, 50), g.uniform(-np.pi, np.pi))
    visibility = float(np.exp(g.uniform(np.log(35), np.log(140))))
    air = _celsius(g, 0, 12)
    return _daylight("fog", sun, np.zeros(3), _tint(g.uniform(3_000, 9_000), 0.97, 1, 1.03), air, cloud=1.0,
                     heating=0.12, sky_k=air - 2.0, extinction=KOSCHMIEDER / visibility)  # fmt: skip


def _rain(g: np.random.Generator, heading: float) -> Environment:
    sun = _sun(g.uniform(20, 50), g.uniform(-np.pi, np.pi))
    rate = float(np.exp(g.uniform(np.log(4), np.log(40))))
    air = _celsius(g, 4, 18)
    return _daylight("rain", sun, np.zeros(3), _tint(g.uniform(1_500, 6_000), 0.96, 1, 1.06), air, cloud=1.0,
                     heating=0.1, sky_k=air - 5.0, extinction=float(g.uniform(0.002, 0.006)), rain=rate,
                     scatter=0.04)  # fmt: skip


_MAKERS = {
    "day": _day, "dusk": _dusk, "night": _night, "fog": _fog, "rain": _rain, "glare": _glare, "low_sun": _low_sun,
}  # fmt: skip
