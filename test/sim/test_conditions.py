"""Conditions are drawn within their meaning, and overrides are honoured."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import ConfigError
from mm_perception.sim.conditions import CONDITIONS, KOSCHMIEDER, make_environment, rain_extinction_1pm


@pytest.mark.parametrize("name", CONDITIONS)
def test_same_seed_same_environment(name):
    first, second = (make_environment(name, np.random.default_rng(3), 0.4) for _ in range(2))
    for field in first.__slots__:
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))


def test_light_falls_from_day_to_night():
    lux = {n: make_environment(n, np.random.default_rng(1)) for n in CONDITIONS}
    level = {n: float((e.sky_lux + e.sun_lux * max(e.sun_direction[2], 0)).mean()) for n, e in lux.items()}
    assert level["day"] > level["low_sun"] > level["dusk"] > level["night"] > 0
    assert lux["night"].lamps_on and lux["dusk"].lamps_on and not lux["day"].lamps_on


def test_glare_has_the_sun_ahead_and_low_sun_has_it_elsewhere():
    ahead = np.array([np.cos(0.7), np.sin(0.7)])
    for seed in range(20):
        glare = make_environment("glare", np.random.default_rng(seed), 0.7).sun_direction[:2]
        low = make_environment("low_sun", np.random.default_rng(seed), 0.7).sun_direction[:2]
        assert glare @ ahead / np.linalg.norm(glare) > np.cos(0.41)
        assert low @ ahead / np.linalg.norm(low) < np.cos(0.89)


def test_visibility_follows_koschmieder():
    env = make_environment("fog", np.random.default_rng(0), fog_visibility_m=100.0)
    assert env.visibility_m == pytest.approx(100.0)
    assert env.extinction_1pm * 100.0 == pytest.approx(KOSCHMIEDER)
    assert env.thermal_extinction_1pm < env.extinction_1pm, "thermal cameras see further through fog"
    assert make_environment("day", np.random.default_rng(0)).visibility_m == np.inf


def test_rain_extinction_is_atlas_power_law():
    assert rain_extinction_1pm(10.0) == pytest.approx(0.31e-3 * 10**0.63)
    wet = make_environment("day", np.random.default_rng(0), rain_mm_h=10.0)
    assert wet.extinction_1pm == pytest.approx(rain_extinction_1pm(10.0)) and wet.wetness == 1.0


def test_air_temperature_moves_the_sky_alike():
    cold, warm = (make_environment("night", np.random.default_rng(4), air_c=c) for c in (-10.0, 20.0))
    assert warm.air_k == pytest.approx(293.15)
    assert warm.sky_k - cold.sky_k == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("name", "other"), [("fogg", {}), ("fog", {"fog_visibility_m": 1.0}), ("rain", {"rain_mm_h": -1.0})]
)
def test_impossible_values_are_refused(name, other):
    with pytest.raises(ConfigError):
        make_environment(name, np.random.default_rng(0), **other)
