"""From facts of topics to a rig: which sensors there are, which is the reference, and how their stamps fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_SENSORS
from mm_perception.survey.cameras import camera_info_of, group_twins, name_sensors, parent
from mm_perception.survey.facts import ImageContent, InfoContent, OdometryContent, SurveyFacts, TopicFacts
from mm_perception.survey.kinds import Verdict, judge, words_of
from mm_perception.survey.timing import CLOCK_MS, Phase, phase

KINDS = ("rgb", "depth", "thermal", "events", "lidar")
_ROLES = ("labels", "objects", "object_states")


@dataclass(frozen=True, slots=True, eq=False)
class ProposedSensor:
    """A sensor and what is known of it.

    Attributes:
        twins: topics that show the same, and were not chosen.
        info, info_by: its CameraInfo's topic, and by what it was found where that is not plain.
        phase: to the reference; None for the reference itself, and without stamps.
    """

    name: str
    kind: str
    facts: TopicFacts
    verdict: Verdict
    twins: tuple[str, ...] = ()
    info: str = ""
    info_by: str = ""
    phase: Phase | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """A rig before it is written.

    Attributes:
        reference, why_reference: name of the reference, and by what.
        fixed_frame, odometry: with `why_fixed`, where they are and come from, or why there is none.
        roles: topic and verdict of labels, objects and object_states.
        left_out: topics that no sensor takes, and why.
    """

    sensors: tuple[ProposedSensor, ...]
    reference: str
    why_reference: str
    max_wait_ms: float
    fixed_frame: str = ""
    odometry: str = ""
    why_fixed: str = ""
    roles: Mapping[str, tuple[str, Verdict]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def sensor(self, name: str) -> ProposedSensor:
        return next(one for one in self.sensors if one.name == name)


def propose(facts: SurveyFacts) -> Proposal:
    """The rig that the topics suggest.

    Raises:
        DataError: there is no camera, which is what a rig is built around; the message names what there is.
    """
    verdicts = {name: judge(one, facts.topics.values()) for name, one in facts.topics.items()}
    left_out = {name: v.reason for name, v in verdicts.items() if not v.role and v.reason}
    kinds = {name: v.role for name, v in verdicts.items() if v.role in KINDS and facts.topics[name].count}
    left_out |= {name: "no message came" for name, v in verdicts.items() if v.role in KINDS and name not in kinds}
    twins = group_twins(kinds, facts.topics)
    for topic, why in _unregistered(twins, kinds, facts).items():
        left_out[topic] = why
        left_out |= dict.fromkeys(twins.pop(topic), why)
    for topic in list(twins)[MAX_SENSORS:]:
        left_out[topic] = f"a rig has at most {MAX_SENSORS} sensors"
        del twins[topic]
    names = name_sensors({topic: kinds[topic] for topic in twins})
    infos = {topic: camera_info_of(facts.topics[topic], facts.topics) for topic in twins if kinds[topic] != "lidar"}
    cameras = [topic for topic in twins if kinds[topic] == "rgb"]
    if not cameras:
        raise DataError(_no_camera(facts, kinds, left_out))
    reference, why = _choose_reference(cameras, infos, facts, kinds, twins)
    sensors = tuple(
        ProposedSensor(
            names[topic], kinds[topic], facts.topics[topic], verdicts[topic], twins[topic],
            *infos.get(topic, ("", "")),
            None if topic == reference else phase(facts.topics[reference], facts.topics[topic]),
        )
        for topic in sorted(twins, key=lambda topic: (topic != reference, KINDS.index(kinds[topic]), topic))
    )  # fmt: skip
    roles, unused = _roles(verdicts, facts)
    fixed_frame, odometry, why_fixed = _fixed_frame(facts, facts.topics[reference], verdicts)
    left_out |= unused
    left_out |= {
        n: f"not needed: {why_fixed}" if fixed_frame else why_fixed
        for n, v in verdicts.items()
        if v.role == "odometry" and n != odometry
    }
    wait_ms = _max_wait_ms(facts.topics[reference], sensors)
    return Proposal(
        sensors, names[reference], why, wait_ms, fixed_frame, odometry, why_fixed, roles, dict(sorted(left_out.items()))
    )


def _no_camera(facts: SurveyFacts, kinds: Mapping[str, str], left_out: Mapping[str, str]) -> str:
    found = ", ".join(f"{topic} ({kind})" for topic, kind in kinds.items())
    others = [f"{topic}: {why}" for topic, why in left_out.items()]
    hint = f"; left out: {'; '.join(others[:5])}" if others else ""
    topics = ", ".join(facts.topics) or "none"
    return (
        f"{facts.source}: no colour or grey camera, which is what frames are made around; sensors: {found or 'none'}"
        f"{hint}; topics: {topics}. Record the camera's image topic, too, or write the rig by hand (docs/rig.md)"
    )


def _unregistered(twins: Mapping[str, tuple[str, ...]], kinds: Mapping[str, str], facts: SurveyFacts) -> dict[str, str]:
    """Depth images beside one that the camera's driver registered to the colour image already."""
    depths = [topic for topic in twins if kinds[topic] == "depth"]
    registered = [t for t in depths if any("aligned" in w or "registered" in w for w in words_of(t))]
    result = {}
    for topic in depths:
        beside = [one for one in registered if _root(one) == _root(topic)]
        if topic not in registered and beside:
            result[topic] = f"{beside[0]} shows the same distances from the colour camera"
    return result


def _root(topic: str) -> str:
    """The namespace of a depth camera's topics: /camera of /camera/depth/image_raw."""
    return parent(parent(topic.removesuffix("/compressedDepth").removesuffix("/compressed")))


def _choose_reference(
    cameras: list[str],
    infos: Mapping[str, tuple[str, str]],
    facts: SurveyFacts,
    kinds: Mapping[str, str],
    twins: Mapping[str, tuple[str, ...]],
) -> tuple[str, str]:
    """The camera that frames are made around, and by what."""
    if len(cameras) == 1:
        return cameras[0], "the only camera"
    others = [facts.topics[topic] for topic in twins if kinds[topic] not in ("rgb", "lidar")]

    def merits(topic: str) -> dict[str, bool]:
        one, words = facts.topics[topic], set(words_of(topic, facts.topics[topic].frame))
        content, info = one.content, facts.topics.get(infos[topic][0])
        colour = isinstance(content, ImageContent) and content.channels >= 3 and not content.is_grey
        sides = words & {"left", "right", "rear", "back", "side"}
        return {
            "it lies with the other sensors": any(_share_room(one, other) for other in others),
            "colour": colour,
            "it has a camera_info": info is not None and not getattr(info.content, "problem", ""),
            "its name says front": bool(words & {"front", "forward", "center", "centre", "main"}) and not sides,
            "it is no side or rear camera": not sides
            or bool(words & {"left"} and not words & {"front", "rear", "back"}),
            "first by name": topic == cameras[0],
        }

    found = {topic: merits(topic) for topic in cameras}
    best = max(cameras, key=lambda topic: tuple(found[topic].values()))
    telling = [what for what, there in found[best].items() if there and not all(m[what] for m in found.values())]
    return best, ", ".join(telling[:2])


def _share_room(one: TopicFacts, other: TopicFacts) -> bool:
    if one.frame and one.frame == other.frame:
        return True
    ours, theirs = one.topic.strip("/").split("/"), other.topic.strip("/").split("/")
    return len(ours) > 2 and len(theirs) > 2 and ours[0] == theirs[0] and ours[0] not in ("sensors", "sensing")


def _roles(
    verdicts: Mapping[str, Verdict], facts: SurveyFacts
) -> tuple[dict[str, tuple[str, Verdict]], dict[str, str]]:
    """The first topic of each role of truth, and what is left out."""
    roles: dict[str, tuple[str, Verdict]] = {}
    unused = {}
    for name, verdict in verdicts.items():
        if verdict.role not in _ROLES:
            continue
        if not facts.topics[name].count:
            unused[name] = "no message came"
        elif verdict.role in roles:
            unused[name] = f"{roles[verdict.role][0]} is the first that looks like {verdict.role}"
        else:
            roles[verdict.role] = name, verdict
    if "object_states" in roles and "objects" not in roles:
        unused[roles.pop("object_states")[0]] = "states without boxes"
    return roles, unused


def _fixed_frame(facts: SurveyFacts, reference: TopicFacts, verdicts: Mapping[str, Verdict]) -> tuple[str, str, str]:
    """The frame that does not move, the odometry that links it where /tf does not, and by what."""
    moving = facts.frames.moving_ancestors(reference.frame)
    names = [name for name in moving if "odom" in name.lower()] or list(moving)
    if names:
        return names[0], "", f"{names[0]} is above the vehicle on /tf, and the link between moves"
    for name, verdict in verdicts.items():
        content = facts.topics[name].content
        if verdict.role != "odometry" or not isinstance(content, OdometryContent) or not content.child:
            continue
        if facts.frames.connected(content.child, reference.frame):
            return content.parent, name, f"the vehicle's motion is in {name}, not on /tf"
    if any(verdict.role == "odometry" for verdict in verdicts.values()):
        return "", "", "no transform links an odometry's child frame to the camera's frame"
    return "", "", "no transform of a vehicle that moves; motion between stamps is not made up for"


def _max_wait_ms(reference: TopicFacts, sensors: tuple[ProposedSensor, ...]) -> float:
    """How long after the reference the slowest of the others arrives for the same instant, with room; 100 at least."""
    if not len(reference.stamps_ns):
        return 100.0
    ours = float(np.median(reference.logs_ns - reference.stamps_ns)) * 1e-6
    needed = 0.0
    for one in sensors:
        if one.phase is None or not len(one.facts.stamps_ns) or abs(one.phase.clock_ms) >= CLOCK_MS:
            continue
        late = float(np.percentile(one.facts.logs_ns - one.facts.stamps_ns, 95)) * 1e-6
        needed = max(needed, late - ours + one.phase.lag_ms)
    return float(min(2000, max(100, 50 * ceil(1.5 * needed / 50))))


def info_content(one: ProposedSensor, facts: SurveyFacts) -> InfoContent | None:
    """What its CameraInfo says."""
    info = facts.topics.get(one.info)
    return info.content if info is not None and isinstance(info.content, InfoContent) else None
