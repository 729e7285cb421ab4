"""A subscription that takes the QoS of what is offered, and knows why nothing arrives."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.subscription import Subscription

from mm_perception.core.driver_packets import way_out
from mm_perception.core.errors import ConfigError
from mm_perception.ros.messages import message_class
from mm_perception.ros.qos import InputPolicy, QosDecision, decide_qos, refusal, requested_qos

Receiver = Callable[[Any, dict[str, Any]], None]

SILENT_AFTER_S = 3.0
"""How long a publisher may be there without a message before that is a problem."""

_SETTLE_S = 2.0  # how long stricter policies must have been possible before they replace looser ones
_OVERLAP_S = 1.0  # how long a replaced subscription still listens: the publisher hears of the new one later than we
_LOSS_SHOWN_S = 10.0
_LOG_AGAIN_AFTER_S = 10.0
_HELP = "docs/troubleshooting.md"


class AdaptiveSubscription:
    """One input's subscription, re-created where the publishers that come and go make another QoS the right one.

    Reliable where every publisher of the topic is, else best effort; transient local where they are latched; best
    effort and volatile, which match every publisher, before there is one. A policy that the rig or a parameter
    `qos_overrides.<topic>.subscription.<history|depth|reliability|durability>` names stays as it is.

    A change loses nothing and repeats nothing: the replaced subscription listens on for a while, and a message that
    came on both is passed on once. Looser policies, without which a publisher is not heard, are taken at once;
    stricter ones when they have been possible for two seconds, so that a publisher that comes and goes does not
    disturb the others.

    Not thread-safe: call everything in the executor's thread, and spin the node with a single-threaded executor.

    Attributes:
        topic: the resolved name.
        received: messages passed to the receiver.
        lost: messages that the middleware says were lost on the way; None where it does not say.
        incompatible: events of publishers with other QoS than was asked for, by the policy's name.
    """

    def __init__(
        self,
        node: Node,
        message_type: Any,
        topic: str,
        policy: InputPolicy,
        receiver: Receiver,
        types: Sequence[str] = (),
        on_type: Callable[[str], None] | None = None,
    ) -> None:
        """Subscribes.

        Args:
            types: message types that are taken, where one is published and `message_type` is not; it is changed to.
            on_type: is told the type that is subscribed from now on; where it raises ConfigError, the type stays.
            topic: relative, private or absolute; remapped as usual.
            receiver: is given each message and rclpy's MessageInfo (source_timestamp and received_timestamp in ns).

        Raises:
            ConfigError: a `qos_overrides.` parameter of the topic cannot be used.
        """
        self.topic: str = node.resolve_topic_name(topic)
        self.received = 0
        self.lost: int | None = 0
        self.incompatible: Counter[str] = Counter()
        self._node, self._message_type, self._receiver = node, message_type, receiver
        self._type_name = _type_name(message_type)
        self._types, self._on_type, self._is_changing_type = tuple(types), on_type, False
        self._expects = policy.expects
        self._history, self._depth, self._fixed = requested_qos(node, self.topic, policy)
        self._decision: QosDecision | None = None
        self._main: Subscription | None = None
        self._latched: Subscription | None = None
        self._retired: list[tuple[Subscription, float]] = []
        self._endpoints: list[Any] = []
        self._was_offered = False
        self._present_since_s: float | None = None
        self._stricter_since_s: float | None = None
        self._last_arrival_s: float | None = None
        self._interval_s = 0.0
        self._last_loss_s: float | None = None
        self._remembered = max(256, 2 * self._depth)
        self._recent: dict[tuple[int, int | None, bytes | None], None] = {}
        self._logged_s: dict[str, float] = {}
        self._destroyed = False
        self.update()

    @property
    def publishers(self) -> int:
        """How many publishers the subscription is connected with."""
        return int(self._main.get_publisher_count()) if self._main is not None else 0

    @property
    def decided(self) -> str:
        """The QoS in words, such as "reliable, volatile, depth 1"."""
        decision = self._decision or QosDecision()
        text = f"{_words(decision.reliability)}, {_words(decision.durability)}, {self._queue_text()}"
        return f"{text}; reliable, transient local for latched publishers" if decision.with_latched else text

    @property
    def settled(self) -> bool:
        """Whether no change of the QoS is under way."""
        return not self._retired and self._stricter_since_s is None

    def update(self) -> None:
        """Looks at the publishers and re-creates the subscription where another QoS is right; cheap if nothing is new.

        Runs by itself when a publisher connects or disconnects; call it about once a second for what no event tells.
        """
        if self._destroyed:
            return
        now_s = time.monotonic()
        self._endpoints = list(self._node.get_publishers_info_by_topic(self.topic))
        self._follow_type()
        self._release_retired(now_s)
        offered = [one.qos_profile for one in self._endpoints if one.topic_type == self._type_name]
        if not self._endpoints:
            self._present_since_s = None
        elif self._present_since_s is None:
            self._present_since_s = now_s
        first, self._was_offered = not self._was_offered, bool(offered)
        if not offered and self._decision is not None:
            # Who comes back mostly comes back as it was.
            self._stricter_since_s = None
            return
        decision = decide_qos(offered, self._fixed)
        if decision == self._decision:
            self._stricter_since_s = None
        elif self._is_urgent(decision, offered) or first or self._has_settled(now_s):
            try:
                self._subscribe(decision, now_s)
            except RuntimeError:
                if not self._is_changing_type:
                    raise
                self._decision = None  # one of the old type is still in use; the next look is soon enough
            else:
                self._is_changing_type = False

    def drain(self) -> int:
        """Passes on every message that lies in the queue by now; returns how many there were.

        After it, what has not arrived is later than everything that has, so that deadlines can be judged.
        """
        taken = sum(self._drain(subscription) for subscription, _ in list(self._retired))
        return taken + sum(self._drain(one) for one in (self._latched, self._main) if one is not None)

    def problem(self) -> str | None:
        """Why messages do not arrive although there is a publisher, and what to try; None if nothing is wrong."""
        now_s = time.monotonic()
        return self._wrong_type() or self._wrong_qos() or self._silence(now_s) or self._loss(now_s)

    def destroy(self) -> None:
        """Ends the subscription; the object cannot be used again."""
        self._destroyed = True
        for subscription in (self._main, self._latched, *(one for one, _ in self._retired)):
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        self._main = self._latched = None
        self._retired.clear()

    def _follow_type(self) -> None:
        """Takes another of the types that may come, where that one is published and the present one is not."""
        published = {one.topic_type for one in self._endpoints}
        wanted = next((name for name in self._types if name in published), None)
        if wanted is None or self._type_name in published:
            return
        try:
            message_type = message_class(wanted)
            if self._on_type is not None:
                self._on_type(wanted)
        except ConfigError as error:
            self._warn("type", f"{self.topic}: {error}")
            return
        self._message_type = message_type
        self._type_name, self._decision, self._was_offered = wanted, None, False
        self._is_changing_type = True
        for subscription in (self._main, self._latched, *(one for one, _ in self._retired)):
            if subscription is not None:  # a participant can have one type of a topic at a time
                self._node.destroy_subscription(subscription)
        self._main = self._latched = None
        self._retired.clear()
        self._node.get_logger().info(f"{self.topic}: takes {wanted}, which is published")

    def _is_urgent(self, decision: QosDecision, offered: Iterable[QoSProfile]) -> bool:
        """Whether somebody is not heard, or a latched message not had, with what is subscribed now."""
        if self._decision is None or (decision.with_latched and not self._decision.with_latched):
            return True
        asked = self._profile(self._decision.reliability, self._decision.durability)
        return any(refusal(qos, asked) for qos in offered)

    def _has_settled(self, now_s: float) -> bool:
        if self._stricter_since_s is None:
            self._stricter_since_s = now_s
        return now_s - self._stricter_since_s >= _SETTLE_S

    def _subscribe(self, decision: QosDecision, now_s: float) -> None:
        before = (self._main, self._latched)
        self._retired += [(one, now_s + _OVERLAP_S) for one in before if one is not None]
        had_one, self._decision, self._stricter_since_s = self._decision is not None, decision, None
        self._main = self._create(self._profile(decision.reliability, decision.durability), with_events=True)
        latched = self._profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
        self._latched = self._create(latched, with_events=False) if decision.with_latched else None
        if had_one:
            self._node.get_logger().info(f"{self.topic}: subscribes {self.decided}, as its publishers offer")

    def _create(self, qos: QoSProfile, with_events: bool) -> Subscription:
        mine: list[Subscription] = []

        def receive(msg: Any, info: dict[str, Any]) -> None:
            self._take(mine[0], msg, info)

        def is_current() -> bool:
            return bool(mine) and mine[0] is self._main

        def lose(event: Any) -> None:
            if is_current():
                self._count_loss(event.total_count_change)

        def refuse(event: Any) -> None:
            if is_current():
                self._count_refusal(event)

        def match(event: Any) -> None:
            self.update()

        wanted: dict[str, Any] = {"incompatible_qos": refuse, "matched": match, "message_lost": lose}
        if not with_events:
            wanted = {}
        while True:
            events = SubscriptionEventCallbacks(**wanted, use_default_callbacks=False)
            try:
                created = self._node.create_subscription(
                    self._message_type, self.topic, receive, qos, event_callbacks=events
                )
            except UnsupportedEventTypeError:
                # Not every middleware has every event: first go without counting losses, then without the rest.
                wanted.popitem()
                self.lost = None
            else:
                mine.append(created)
                return created

    def _take(self, source: Subscription, msg: Any, info: dict[str, Any]) -> None:
        """Passes a message on, unless it came already by another subscription or before a re-creation."""
        if source is self._main or source is self._latched:
            for older, _ in list(self._retired):
                self._drain(older)  # what it holds was sent earlier
        if self._is_known(info):
            return
        self.received += 1
        now_s = time.monotonic()
        self._interval_s = now_s - (self._last_arrival_s or now_s)
        self._last_arrival_s = now_s
        self._receiver(msg, info)

    def _is_known(self, info: dict[str, Any]) -> bool:
        """Whether this message was passed on before; a middleware without time stamps repeats what comes twice."""
        gid = (info.get("publisher_gid") or {}).get("data")
        key = (info.get("source_timestamp", 0), info.get("publication_sequence_number"), gid)
        if not key[0]:
            return False
        known = key in self._recent
        self._recent[key] = None
        if len(self._recent) > self._remembered:
            del self._recent[next(iter(self._recent))]
        return known

    def _drain(self, subscription: Subscription) -> int:
        # The bound is what the queue can hold: a fast publisher must not keep us here.
        for n in range(self._depth if self._history == HistoryPolicy.KEEP_LAST else 10_000):
            try:
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            except InvalidHandle:
                return n
            if taken is None:
                return n
            subscription.callback(*taken)
        return n + 1

    def _release_retired(self, now_s: float) -> None:
        for entry in [one for one in self._retired if one[1] <= now_s]:
            self._drain(entry[0])
            self._retired.remove(entry)
            self._node.destroy_subscription(entry[0])

    def _count_loss(self, n: int) -> None:
        self.lost = (self.lost or 0) + n
        self._last_loss_s = time.monotonic()
        if (text := self._loss(self._last_loss_s)) is not None:
            self._warn("lost", text)

    def _count_refusal(self, event: Any) -> None:
        self.incompatible[_policy_name(event.last_policy_kind)] += event.total_count_change
        self.update()
        if (text := self._wrong_qos()) is not None:
            self._warn("incompatible", text)

    def _warn(self, kind: str, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s.get(kind, -1e9) >= _LOG_AGAIN_AFTER_S:
            self._logged_s[kind] = now_s
            self._node.get_logger().warning(text)

    def _wrong_type(self) -> str | None:
        others = sorted({one.topic_type for one in self._endpoints} - {self._type_name})
        if not others:
            return None
        expected = " or ".join(self._types or (self._type_name,))
        cure = "; ".join(filter(None, ["remap the input to a topic of that type", *map(way_out, others)]))
        if self._types:  # as the rig leaves the type open, to name it would not help
            return f"{self.topic}: expected {expected}, published is {', '.join(others)}: {cure}"
        return (
            f"{self.topic}: expected {expected}, published is {', '.join(others)}: set the sensor's type in the rig, "
            f"or {cure}"
        )

    def _wrong_qos(self) -> str | None:
        decision = self._decision or QosDecision()
        asked = self._profile(decision.reliability, decision.durability)
        for one in self._endpoints:
            if one.topic_type == self._type_name and (reason := refusal(one.qos_profile, asked)):
                offer = f"{_words(one.qos_profile.reliability)}, {_words(one.qos_profile.durability)}"
                return (
                    f"{self.topic}: {_node_name(one)} offers {offer}, asked for is {self.decided}: nothing of it can "
                    f"arrive (incompatible {reason}); set the rig's reliability to auto and take away the parameters "
                    f"qos_overrides.{self.topic}.subscription.*, or change the publisher"
                )
        return None

    def _silence(self, now_s: float) -> str | None:
        never = self._last_arrival_s is None
        if self._present_since_s is None or self._expects == "anything" or (self._expects == "once" and not never):
            return None
        silent_s = now_s - max(self._present_since_s, self._last_arrival_s or 0.0)
        if silent_s < max(SILENT_AFTER_S, 3 * self._interval_s):
            return None
        names = ", ".join(sorted({_node_name(one) for one in self._endpoints}))
        what = f"{self.topic}: {names} is there to publish, but {'nothing has arrived' if never else 'nothing arrives'}"
        best_effort = (self._decision or QosDecision()).reliability == ReliabilityPolicy.BEST_EFFORT
        if best_effort and self._fixed.reliability is not None and self._all_reliable():
            cure = "large messages get through reliably: set reliability: auto (the publisher is reliable)"
        elif best_effort:
            cure = (
                "large messages over about 0.5 MB do not get through with best effort and Fast DDS's defaults: make "
                "the publisher reliable, or start its process with config/dds/fastdds.xml"
            )
        else:
            cure = "look whether the driver sends at all (ros2 topic hz), then at the network and the domain"
        return f"{what} for {silent_s:.0f} s ({self.decided}): {cure}; see {_HELP}"

    def _loss(self, now_s: float) -> str | None:
        if self._last_loss_s is None or now_s - self._last_loss_s > _LOSS_SHOWN_S:
            return None
        best_effort = (self._decision or QosDecision()).reliability == ReliabilityPolicy.BEST_EFFORT
        cure = (
            "make the publisher reliable, or start its process with config/dds/fastdds.xml"
            if best_effort
            else "the publisher's queue is too short for the load: make it deeper, or send less"
        )
        return f"{self.topic}: {self.lost} message(s) lost on the way ({self.decided}): {cure}; see {_HELP}"

    def _all_reliable(self) -> bool:
        return all(one.qos_profile.reliability == ReliabilityPolicy.RELIABLE for one in self._endpoints)

    def _profile(self, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
        return QoSProfile(history=self._history, depth=self._depth, reliability=reliability, durability=durability)

    def _queue_text(self) -> str:
        return f"depth {self._depth}" if self._history == HistoryPolicy.KEEP_LAST else _words(self._history)


def _policy_name(kind: Any) -> str:
    """reliability, durability, ..."""
    return str(qos_policy_name_from_kind(kind)).lower()


def _type_name(message_type: Any) -> str:
    """package/msg/Name of a message class."""
    package = message_type.__module__.split(".")[0]
    return f"{package}/msg/{message_type.__name__}"


def _node_name(endpoint: Any) -> str:
    if endpoint.node_name.startswith("_"):  # not known yet
        return "a publisher"
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def _words(policy: Any) -> str:
    return str(policy.name).lower().replace("_", " ")
