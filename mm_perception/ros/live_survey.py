"""What is on the ROS graph now: the same survey and readiness check as of a bag, fed by subscriptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from mm_perception.core.errors import BagError, ConfigError, DataError
from mm_perception.core.rig import RigConfig
from mm_perception.ros.listener import Listener
from mm_perception.ros.messages import message_class
from mm_perception.ros.qos import FixedPolicies, QosDecision, decide_qos
from mm_perception.survey.facts import SurveyFacts
from mm_perception.survey.readiness import Readiness, ReadinessCheck
from mm_perception.survey.survey import Survey

_DISCOVERY_S, _LONGEST_DISCOVERY_S = 2.0, 8.0
"""How long publishers are waited for when some are there, and when none is."""
_DEPTH = 50
_OWN = ("/rosout", "/parameter_events")
SOURCE = "the running topics"
Take = Callable[[str, str, bytes, Callable[[], Any]], None]


def survey_live(seconds: float) -> SurveyFacts:
    """Facts of all topics that have a publisher.

    Raises:
        BagError: there is none.
    """
    survey = Survey()

    def take(topic: str, type_name: str, cdr: bytes, decode: Callable[[], Any]) -> None:
        survey.take(topic, type_name, cdr, time.time_ns(), decode)

    listener = Listener("mm_perception_rig_init")
    try:
        topics = _published(listener)
        for topic, type_name in topics.items():
            survey.announce(topic, type_name)
        _listen(listener, topics, topics, seconds, take)
    finally:
        listener.close()
    return survey.facts(SOURCE)


def check_live(rig: RigConfig, seconds: float) -> Readiness:
    """Whether a rig is ready for what is published now.

    Raises:
        BagError: nothing is published.
        ConfigError: the rig's own topics begin with ~: only a node can say what they are remapped to.
    """
    own = [sensor.name for sensor in rig.sensors if sensor.input_topic.startswith("~")]
    if own:
        raise ConfigError(f"rig {rig.name}: sensor {', '.join(own)}: no topic is named; --live needs the topics' names")
    listener = Listener("mm_perception_check")
    try:
        topics = _published(listener)
        check = ReadinessCheck(rig, topics)

        def take(topic: str, type_name: str, cdr: bytes, decode: Callable[[], Any]) -> None:
            check.take(topic, cdr, time.time_ns(), decode)

        _listen(listener, topics, check.inputs, seconds, take)
    finally:
        listener.close()
    return check.finish(SOURCE)


def _published(listener: Listener) -> dict[str, str]:
    """Type by topic of what others publish. Raises BagError if that is nothing."""
    topics: dict[str, str] = {}
    start = time.monotonic()
    while (passed := time.monotonic() - start) < (_DISCOVERY_S if topics else _LONGEST_DISCOVERY_S):
        listener.executor.spin_once(timeout_sec=0.1)
        found = _published_now(listener)
        if found.keys() - topics.keys() and passed > 0.5 * _DISCOVERY_S:
            start = time.monotonic() - 0.5 * _DISCOVERY_S  # more may follow
        topics = found
    if not topics:
        raise BagError("no topic has a publisher here: start the drivers first, in the same ROS_DOMAIN_ID")
    return topics


def _published_now(listener: Listener) -> dict[str, str]:
    return {
        topic: types[0]
        for topic, types in listener.node.get_topic_names_and_types()
        if types and topic not in _OWN and listener.node.count_publishers(topic)
    }


def _listen(listener: Listener, topics: dict[str, str], wanted: Collection[str], seconds: float, take: Take) -> None:
    """Subscribes for some seconds; topics whose message package is not installed stay without messages."""
    subscriptions = []
    for topic in wanted:
        try:
            kind = message_class(topics[topic])
        except ConfigError:
            continue
        offered = [info.qos_profile for info in listener.node.get_publishers_info_by_topic(topic)]

        def receive(cdr: bytes, topic: str = topic, kind: Any = kind) -> None:
            data = bytes(cdr)
            take(topic, topics[topic], data, partial(_decode, topic, data, kind))

        for qos in _profiles(decide_qos(offered, FixedPolicies())):
            subscriptions.append(listener.node.create_subscription(kind, topic, receive, qos, raw=True))
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        listener.executor.spin_once(timeout_sec=min(left, 0.2))


def _profiles(decision: QosDecision) -> list[QoSProfile]:
    """One profile, and where latched and other publishers share a topic one for each."""
    latched = (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
    pairs = [(decision.reliability, decision.durability), *([latched] if decision.with_latched else [])]
    return [
        QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=_DEPTH, reliability=reliability, durability=durability)
        for reliability, durability in pairs
    ]


def _decode(topic: str, cdr: bytes, kind: Any) -> Any:
    try:
        return deserialize_message(cdr, kind)
    except Exception as error:  # rclpy has errors of its own, of several families
        raise DataError(f"{topic}: {len(cdr)} bytes are no {kind.__name__} ({error})") from error
