"""A proposed rig as YAML that a person reads: every value with the fact that it comes from."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mm_perception.core.config import from_mapping, setting_info
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.yaml_file import parse_yaml
from mm_perception.survey.facts import CloudContent, EventContent, ImageContent, SurveyFacts
from mm_perception.survey.propose import KINDS, Proposal, ProposedSensor, info_content
from mm_perception.survey.timing import BOOT_MS, Rhythm, rhythm
from mm_perception.survey.units import depth_unit, full_scale, thermal_scale

_COMMENT_AT = 44
_KEYS = {one.name: one for one in dataclasses.fields(SensorConfig)}
_RIG_KEYS = {one.name for one in dataclasses.fields(RigConfig)}
_STEADY = 0.2
"""A rate is written down where the p95 jitter is less than this share of the period."""
_FULL_CIRCLE_DEG = 340.0


@dataclass(frozen=True, slots=True)
class _Line:
    """A key with its value and comment; without a key a comment alone."""

    key: str = ""
    value: str | float | bool = ""
    comment: str = ""

    def text(self, indent: str) -> str:
        comment = f"# {_plain(self.comment)}" if self.comment else ""
        if not self.key:
            return f"{indent}{comment}"
        return f"{f'{indent}{self.key}: {_scalar(self.value)}':{_COMMENT_AT}}  {comment}".rstrip()


def write_rig(proposal: Proposal, facts: SurveyFacts, name: str) -> str:
    """The rig's YAML.

    Raises:
        ConfigError: it would not load; a rig that does not is never given out.
    """
    lines = [line.text("") for line in _head(proposal, facts, name)]
    lines.append("sensors:")
    for one in proposal.sensors:
        first, *rest = [line.text("    ") for line in _sensor_lines(one, proposal, facts)]
        lines += ["", f"  - {first[4:]}", *rest]
    lines += ["", *_left_out(proposal)]
    text = "\n".join(lines).rstrip() + "\n"
    from_mapping(RigConfig, parse_yaml(text, "the rig"), "the rig")
    return text


def _head(proposal: Proposal, facts: SurveyFacts, name: str) -> Iterator[_Line]:
    yield _Line(comment=f"Written by mm-perception rig init from {facts.source} ({facts.seconds:.1f} s looked at).")
    yield _Line(
        comment="Look over the lines with 'guess': the messages do not say these. Then see whether all is there:"
    )
    yield _Line(comment="  mm-perception check THIS_FILE BAG")
    yield _Line("name", name)
    yield _Line("reference", proposal.reference, f"frames are made around its stamps: {proposal.why_reference}")
    yield _Line("max_wait_ms", proposal.max_wait_ms, "how long a frame waits for the slowest sensor")
    if proposal.fixed_frame:
        yield _Line("fixed_frame", proposal.fixed_frame, proposal.why_fixed)
    else:
        yield _Line(comment=f"fixed_frame: none: {proposal.why_fixed}")
    if proposal.odometry:
        yield _Line("odometry", proposal.odometry, f"type {facts.topics[proposal.odometry].type_name}")
    yield from _transforms(proposal, facts)
    for role, (topic, verdict) in sorted(proposal.roles.items()):
        guess = "guess: " if verdict.is_guess else ""
        yield _Line(role, topic, f"{guess}the truth, for scores in replay: {verdict.reason}")


def _transforms(proposal: Proposal, facts: SurveyFacts) -> Iterator[_Line]:
    if not facts.tf_topics:
        yield _Line(comment="no transforms were there: sensors of different frames cannot be brought together;")
        yield _Line(comment="  publish /tf_static (robot_state_publisher, static_transform_publisher) and record it")
        return
    static = [topic for topic in facts.tf_topics if "static" in topic]
    moving = [topic for topic in facts.tf_topics if "static" not in topic]
    for key, topics, plain in (("tf", moving, "/tf"), ("tf_static", static, "/tf_static")):
        if plain in topics or not topics:
            continue
        if key in _RIG_KEYS:
            yield _Line(key, topics[0], f"there is no {plain}")
        else:
            yield _Line(comment=f"transforms come on {topics[0]}, not on {plain}: remap it ({topics[0]}:={plain})")
    frame = proposal.sensor(proposal.reference).facts.frame
    prefix = facts.frames.prefix_of(frame)
    if prefix and "frame_prefix" in _RIG_KEYS:
        yield _Line("frame_prefix", prefix, f"guess: transforms call the frame {frame} {prefix}/{frame}")
    elif prefix:
        yield _Line(comment=f"transforms call the frame {frame} {prefix}/{frame}: let both use one name")


def _sensor_lines(one: ProposedSensor, proposal: Proposal, facts: SurveyFacts) -> Iterator[_Line]:
    guess = "guess: " if one.verdict.is_guess else ""
    yield _Line("name", one.name)
    yield _Line("kind", one.kind, f"{guess}{one.verdict.reason}")
    yield _Line("topic", one.facts.topic, _form(one))
    yield _Line("type", one.facts.type_name)
    yield from _info_lines(one, facts)
    yield from _frame_lines(one, proposal, facts)
    yield _Line("required", one.name == proposal.reference, *([] if one.name == proposal.reference else [_OPTIONAL]))
    yield from _unit_lines(one)
    yield from _time_lines(one, proposal)
    if one.twins:
        yield _Line(comment=f"shows the same, not used: {', '.join(one.twins)}")


_OPTIONAL = "frames without it go on, and say so"


def _form(one: ProposedSensor) -> str:
    content, size = one.facts.content, f"{_size(one.facts.message_bytes)} a message"
    if isinstance(content, ImageContent):
        return f"{content.width}x{content.height} {content.encoding}, {size}"
    if isinstance(content, CloudContent):
        return f"{content.points} points, 99 % within {content.range_m:.0f} m, {size}"
    if isinstance(content, EventContent):
        return f"{content.width}x{content.height} {content.encoding}, {size}"
    return size


def _size(count: float) -> str:
    return f"{count * 1e-6:.1f} MB" if count >= 1e5 else f"{count * 1e-3:.1f} kB"


def _info_lines(one: ProposedSensor, facts: SurveyFacts) -> Iterator[_Line]:
    if one.kind == "lidar":
        return
    content = info_content(one, facts)
    if not one.info:
        needs = "needed to project LiDAR and boxes" if one.kind == "rgb" else "not needed where it shares the lens"
        yield _Line(comment=f"camera_info: none was found; {needs}")
        return
    said = []
    if content is not None and content.problem:
        said.append(f"unusable: {content.problem}")
    elif content is not None:
        said.append(f"{content.fov_deg:.0f} degrees wide" + (f", {content.distortion}" if content.distortion else ""))
    yield _Line("camera_info", one.info, "; ".join([*said, *([f"guess: by {one.info_by}"] if one.info_by else [])]))
    if content is not None and content.distortion and "image_rect" in one.facts.topic:
        yield _Line("rectified", True, "guess: by the topic's name; P of the camera_info holds, and no distortion")


def _frame_lines(one: ProposedSensor, proposal: Proposal, facts: SurveyFacts) -> Iterator[_Line]:
    frame, reference = one.facts.frame, proposal.sensor(proposal.reference).facts.frame
    if not frame:
        what = "its messages name no frame"
        yield _Line(comment=f"frame: {what}: " + ("set frame_id" if "frame_id" in _KEYS else "set it in its driver"))
    elif one.name == proposal.reference or frame == reference:
        yield _Line(comment=f"frame {frame}" + ("" if one.name == proposal.reference else ", the reference's"))
    elif facts.frames.connected(frame, reference):
        yield _Line(comment=f"frame {frame}, linked to the reference's {reference} by transforms")
    else:
        yield _Line(comment=f"frame {frame}: NO transform links it to the reference's {reference or '(no frame)'}")


def _unit_lines(one: ProposedSensor) -> Iterator[_Line]:
    content = one.facts.content
    if one.kind == "thermal" and isinstance(content, ImageContent):
        scale, why = thermal_scale(content)
        yield _Line("thermal_scale", scale, f"guess: {why}")
    elif one.kind == "depth" and isinstance(content, ImageContent):
        unit, why = depth_unit(content)
        key = next((k for k in ("depth_unit_m", "depth_scale_m") if k in _KEYS), "")
        if key and unit is not None:
            yield _Line(key, unit, f"guess: {why}")
        else:
            yield _Line(comment=f"guess of the unit: {why}")
    elif one.kind == "lidar" and isinstance(content, CloudContent):
        yield from _lidar_lines(content)
    elif one.kind == "events":
        if isinstance(content, EventContent) and not content.width:
            yield _Line(comment="its messages do not say the sensor's size: set size_px: [width, height]")
        yield _Line("window_ms", 50, "events of this long a time before each frame are gathered")


def _lidar_lines(content: CloudContent) -> Iterator[_Line]:
    if content.intensity_max > 0:
        scale = full_scale(content.intensity_max)
        yield _Line("intensity_max", scale, f"guess: the largest that was seen is {content.intensity_max:.4g}")
    else:
        yield _Line(comment="no intensity")
    if 0 < content.coverage_deg < _FULL_CIRCLE_DEG:
        covered = max(1.0, round(content.coverage_deg / 5) * 5)
        yield _Line("coverage_deg", covered, f"guess: points were seen over {content.coverage_deg:.0f} degrees")
    if content.sweep_ms is None:
        yield _Line(comment="points carry no time of their own: a sweep is not straightened while the vehicle drives")
    else:
        first, last = content.sweep_ms
        yield _Line(comment=f"points are of {first:+.0f} to {last:+.0f} ms from the stamp")


def _time_lines(one: ProposedSensor, proposal: Proposal) -> Iterator[_Line]:
    beat, phase = rhythm(one.facts.stamps_ns), one.phase
    yield from _rate_lines(one, beat)
    if phase is None:
        if one.name != proposal.reference:
            yield _Line(comment="no stamps were seen: offset_ms and tolerance_ms are the defaults")
        return
    if phase.clock_ms:
        yield from _clock_lines(one, phase.offset_ms, phase.clock_name)
    elif one.kind == "events":
        return
    elif phase.is_steady:
        yield _Line(
            "offset_ms", phase.offset_ms, f"its stamps lie that far from the reference's, +-{phase.spread_ms:.1f}"
        )
    elif not phase.enough:
        yield _Line(comment=f"offset_ms: too few stamps to tell; the first ones are {phase.lag_ms:+.1f} ms apart")
    elif phase.spread_ms > 10.0:
        yield _Line(comment=f"no steady offset: it runs free, {phase.lag_ms:+.1f} +-{phase.spread_ms:.1f} ms")
    else:
        yield _Line(comment=f"no offset: its stamps lie {phase.lag_ms:+.1f} ms from the reference's")
    if one.kind != "events":
        tolerance = phase.tolerance_ms if phase.enough else max(50.0, phase.tolerance_ms)
        yield _Line("tolerance_ms", min(tolerance, 1e4), "largest skew that is matched" + _of(beat))


def _of(beat: Rhythm | None) -> str:
    return f"; its period is {beat.period_ms:.0f} ms" if beat else ""


def _rate_lines(one: ProposedSensor, beat: Rhythm | None) -> Iterator[_Line]:
    if beat is None:
        return
    gap = f", longest gap {beat.longest_gap_ms:.0f} ms"
    said = f"jitter {beat.jitter_ms:.1f} ms{gap}"
    if one.kind != "events" and beat.jitter_ms < _STEADY * beat.period_ms:
        yield _Line("rate_hz", float(f"{beat.rate_hz:.3g}"), said)
    else:
        yield _Line(comment=f"about {beat.rate_hz:.3g} messages per second, {said}")


def _clock_lines(one: ProposedSensor, offset_ms: float, name: str) -> Iterator[_Line]:
    info = setting_info(_KEYS["offset_ms"])
    allowed = (info.minimum or 0.0) <= offset_ms <= (info.maximum or 0.0)
    side = "ahead of" if offset_ms > 0 else "behind"
    what = f"guess: its clock is {abs(offset_ms) * 1e-3:.3f} s {side} the reference's" + (f" ({name})" if name else "")
    if abs(offset_ms) > BOOT_MS:
        yield _Line(comment=f"{what}: one of the two counts from its own start; let its driver stamp with ROS time")
    elif allowed:
        yield _Line("offset_ms", offset_ms, what)
    else:
        yield _Line(comment=f"{what}: more than offset_ms may be; set its clock, or let its driver stamp with ROS time")


def _left_out(proposal: Proposal) -> Iterator[str]:
    missing = [kind for kind in KINDS if not any(one.kind == kind for one in proposal.sensors)]
    if missing:
        yield f"# No sensor of kind {', '.join(missing)} was found."
    if proposal.left_out:
        yield "# Not taken:"
    for topic, why in proposal.left_out.items():
        yield f"#   {_plain(topic)}: {_plain(why)}"


def _plain(text: str) -> str:
    """Text of a comment: one line, whatever a sender put into a name."""
    return re.sub(r"[^\x20-\x7e\u00a0-\ud7ff]", "?", " ".join(text.split()))[:300]


def _scalar(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:.10g}"
    is_plain = re.fullmatch(r"[A-Za-z_/~][A-Za-z0-9_/.~-]*", value) and value.lower() not in _YAML_WORDS
    return value if is_plain else json.dumps(value)


_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n", "~"}
