"""Quality of service of inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)

from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import Reliability, RigConfig
from mm_perception.pipeline.intake import InputTopic

Expected = Literal["stream", "once", "anything"]


@dataclass(frozen=True, slots=True)
class InputPolicy:
    """What an input's subscription asks for, where the user's `qos_overrides.` parameters say nothing else.

    Attributes:
        reliability: auto takes what is offered.
        depth: of the queue.
        expects: what a publisher does that works: sends a stream, sends at least once, or sends as it likes.
    """

    reliability: Reliability = "auto"
    depth: int = 1
    expects: Expected = "stream"


@dataclass(frozen=True, slots=True)
class FixedPolicies:
    """The policies that do not follow the publishers; None: this one does."""

    reliability: ReliabilityPolicy | None = None
    durability: DurabilityPolicy | None = None


@dataclass(frozen=True, slots=True)
class QosDecision:
    """What to subscribe with.

    Attributes:
        with_latched: some publishers are latched and others are not: a second subscription, reliable and transient
            local, gets what the latched ones have sent before.
    """

    reliability: ReliabilityPolicy = ReliabilityPolicy.BEST_EFFORT
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE
    with_latched: bool = False


def decide_qos(offered: Sequence[QoSProfile], fixed: FixedPolicies) -> QosDecision:
    """The strictest policies that every publisher offers; best effort and volatile, which match all, if there is none.

    Args:
        offered: by the publishers of the topic.
    """
    reliable = [qos.reliability == ReliabilityPolicy.RELIABLE for qos in offered]
    latched = [qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered]
    reliability = fixed.reliability
    if reliability is None:
        reliability = ReliabilityPolicy.RELIABLE if offered and all(reliable) else ReliabilityPolicy.BEST_EFFORT
    durability = fixed.durability
    if durability is None:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if offered and all(latched) else DurabilityPolicy.VOLATILE
    # A best-effort subscription gets nothing of what was sent before it was there.
    complete = (reliability, durability) == (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
    refused = fixed.reliability == ReliabilityPolicy.BEST_EFFORT or fixed.durability == DurabilityPolicy.VOLATILE
    some_keep = any(keeps and sends for keeps, sends in zip(latched, reliable, strict=True))
    return QosDecision(reliability, durability, some_keep and not complete and not refused)


def input_policy(topic: InputTopic, rig: RigConfig) -> InputPolicy:
    """Sensors as the rig says; what is small and rare has deep queues, as tf2's."""
    if topic.role == "sensor":
        sensor = rig.sensor(topic.sensor)
        # A still scene gives no events.
        return InputPolicy(sensor.reliability, sensor.queue_depth, "anything" if sensor.kind == "events" else "stream")
    if topic.role == "camera_info":
        return InputPolicy(expects="once")
    # A broadcaster of transforms may exist and have none to send.
    return InputPolicy(depth=100, expects="stream" if topic.role == "odometry" else "anything")


def requested_qos(node: Node, topic: str, policy: InputPolicy) -> tuple[HistoryPolicy, int, FixedPolicies]:
    """History, depth and what is fixed: the user's `qos_overrides.` parameters, where they say nothing the policy.

    rclpy's own QoSOverridingOptions would declare the first decision as the value of the parameter, which then looks
    like the user's. Here the values that say nothing, "auto" and 0, can be told from those of a user, also after the
    rig has changed; "best_available" takes what is offered, whatever the rig says.

    Args:
        topic: the resolved name.

    Raises:
        ConfigError: a parameter holds what is no such policy.
    """
    prefix = f"qos_overrides.{topic}.subscription"
    history = _override(node, f"{prefix}.history", HistoryPolicy, "auto")
    depth = _parameter(node, f"{prefix}.depth", 0)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise ConfigError(f"parameter {prefix}.depth: expected 1 or more, or 0 for the rig's, got {depth!r}")
    reliability = _override(node, f"{prefix}.reliability", ReliabilityPolicy, policy.reliability)
    durability = _override(node, f"{prefix}.durability", DurabilityPolicy, "auto")
    return history or HistoryPolicy.KEEP_LAST, depth or policy.depth, FixedPolicies(reliability, durability)


def _override(node: Node, name: str, kinds: Any, otherwise: str) -> Any:
    """The policy that a parameter names, or `otherwise`; None: what is offered."""
    value = _parameter(node, name, "auto")
    known = {kind.name.lower(): kind for kind in kinds if kind.name != "UNKNOWN"}
    if value != "auto" and value not in known:
        raise ConfigError(f"parameter {name}: expected auto or one of {', '.join(sorted(known))}, got {value!r}")
    chosen = otherwise if value == "auto" else value
    return None if chosen in ("auto", "best_available") else known[chosen]


def _parameter(node: Node, name: str, default: Any) -> Any:
    if not node.has_parameter(name):
        text = f"{name.rsplit('.', 1)[-1]} of the subscription; {default}: as the rig says, or the publishers offer"
        node.declare_parameter(
            name, default, ParameterDescriptor(description=text, read_only=True, dynamic_typing=True)
        )
    return node.get_parameter(name).value


def refusal(offered: QoSProfile, asked: QoSProfile) -> str:
    """The policies for which a publisher and a subscription cannot be connected; empty if they can."""
    compatibility, reason = qos_check_compatible(offered, asked)
    if compatibility != QoSCompatibility.ERROR:
        return ""
    reasons = []
    if asked.reliability == ReliabilityPolicy.RELIABLE and offered.reliability == ReliabilityPolicy.BEST_EFFORT:
        reasons.append("reliability")
    if asked.durability == DurabilityPolicy.TRANSIENT_LOCAL and offered.durability == DurabilityPolicy.VOLATILE:
        reasons.append("durability")
    return ", ".join(reasons) or str(reason)


def output_qos(latched: bool = False, depth: int = 5) -> QoSProfile:
    """Results are reliable; `latched` ones reach late subscribers."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1 if latched else depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def latched_qos(depth: int) -> QoSProfile:
    """Reliable and transient local: late subscribers get the last `depth` messages."""
    qos = output_qos(latched=True)
    qos.depth = depth
    return qos


def recorded_qos(reliable: bool, depth: int) -> QoSProfile:
    """As a publisher offered it when it was recorded. depth: 0: all are kept."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST if depth else HistoryPolicy.KEEP_ALL,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )
