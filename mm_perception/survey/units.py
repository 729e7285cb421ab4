"""What pixel and intensity values probably mean; the messages do not say it."""

from __future__ import annotations

from mm_perception.survey.facts import ImageContent

_CENTIKELVIN, _DECIKELVIN, _KELVIN = (22_000.0, 45_000.0), (2_200.0, 4_500.0), (220.0, 450.0)
"""-50 to 180 degrees Celsius, where outdoor scenes lie."""
_SCALES = (1.0, 100.0, 255.0, 1023.0, 4095.0, 65535.0)


def thermal_scale(content: ImageContent) -> tuple[str, str]:
    """A value of the rig's `thermal_scale`, and by what."""
    middle = f"the median value is {content.median:.0f}"
    if content.channels > 1:
        return "agc", "a colour image: a camera's own palette or grey values, no temperatures"
    if content.bits == 8:
        return "agc", "8 bits: the camera's own gain control, no temperatures"
    if content.is_float:
        if _KELVIN[0] <= content.median <= _KELVIN[1]:
            return "kelvin", middle
        return "counts", f"{middle}: no kelvin; degrees Celsius?"
    for scale, factor, (low, high) in (("centikelvin", 0.01, _CENTIKELVIN), ("decikelvin", 0.1, _DECIKELVIN)):
        if low <= content.median <= high and content.low >= 0.8 * low:
            celsius = content.median * factor - 273.15
            return scale, f"{middle}, which would be {celsius:.0f} degrees Celsius"
    return "counts", f"{middle}: sensor counts"


def depth_unit(content: ImageContent) -> tuple[float | None, str]:
    """Metres of one step, None where it is what REP 118 says; and by what."""
    if content.is_float:
        if content.median > 150:
            return 0.001, f"32-bit floats with a median of {content.median:.0f}: millimetres, where metres are usual"
        return None, f"metres (32-bit floats, median {content.median:.2f}, 99 % below {content.high:.1f})"
    median_m, high_m = content.median * 1e-3, content.high * 1e-3
    if content.median < 50:
        return 0.01, f"16 bits with a median of {content.median:.0f}: coarser than millimetres (centimetres?)"
    if median_m > 14 and high_m > 30:
        return None, (
            f"in millimetres the median would be {median_m:.1f} m, 99 % below {high_m:.0f} m; other sets use 256 steps "
            "per metre (KITTI) or 5000 (TUM)"
        )
    return None, f"millimetres: median {median_m:.2f} m, 99 % below {high_m:.1f} m"


def full_scale(largest: float) -> float:
    """The intensity that is full scale, the smallest usual one that holds the largest that was seen.

    Velodyne's and others' 0..100 for diffuse targets goes up to 255 for reflectors, so that 100 stands only for
    sensors whose largest value is 100 itself.
    """
    if largest <= 1.0 + 1e-3:
        return 1.0
    if largest <= 99.5 or 100.5 < largest <= 255.5:
        return 255.0
    return next((scale for scale in _SCALES if largest <= scale + 0.5), float(f"{largest:.2g}"))
