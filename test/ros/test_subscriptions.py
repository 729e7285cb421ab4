"""Subscriptions that follow what is offered, over real DDS."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from rclpy.event_handler import UnsupportedEventTypeError
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import SensorConfig, load_rig
from mm_perception.pipeline.intake import InputTopic
from mm_perception.ros.messages import message_class
from mm_perception.ros.qos import FixedPolicies, InputPolicy, QosDecision, decide_qos, input_policy
from mm_perception.ros.session import FusionSession
from mm_perception.ros.subscriptions import SILENT_AFTER_S, AdaptiveSubscription
from mm_perception.ros.transport import PublisherProcess, parse_load

pytestmark = pytest.mark.ros
TOPIC = "/camera/info"
INFO, IMAGE = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/Image"
RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
LATCHED, VOLATILE = DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE


def profile(reliability: ReliabilityPolicy, durability: DurabilityPolicy = VOLATILE, depth: int = 20) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


class World:
    """A context with the node that subscribes and one that publishes."""

    def __init__(self, **overrides: Any) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        parameters = [Parameter(f"qos_overrides.{TOPIC}.subscription.{k}", value=v) for k, v in overrides.items()]
        self.node = rclpy.create_node("listener", context=self.context, parameter_overrides=parameters)
        self.driver = rclpy.create_node("driver", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.got: list[int] = []
        self.infos: list[dict[str, Any]] = []
        self.subscriptions: list[AdaptiveSubscription] = []
        self.strangers: list[Any] = []

    def subscribe(
        self, policy: InputPolicy | None = None, topic: str = TOPIC, type_name: str = INFO, **more: Any
    ) -> AdaptiveSubscription:
        def receive(msg: Any, info: dict[str, Any]) -> None:
            self.got.append(msg.width)
            self.infos.append(info)

        policy = policy or InputPolicy(depth=50, expects="once")
        subscription = AdaptiveSubscription(self.node, message_class(type_name), topic, policy, receive, **more)
        self.subscriptions.append(subscription)
        return subscription

    def publisher(self, qos: QoSProfile, type_name: str = INFO) -> Any:
        return self.driver.create_publisher(message_class(type_name), TOPIC, qos)

    def stranger(self, type_name: str) -> Any:
        """A node of a participant of its own, with a publisher; one participant has one type of a topic."""
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node("stranger", context=context)
        self.strangers.append(node)
        return node.create_publisher(message_class(type_name), TOPIC, profile(RELIABLE))

    def leave(self, node: Any) -> None:
        self.strangers.remove(node)
        node.destroy_node()
        rclpy.try_shutdown(context=node.context)

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {[(s.decided, s.received) for s in self.subscriptions]}"
            self.executor.spin_once(timeout_sec=0.02)
            for subscription in self.subscriptions:
                subscription.update()

    def close(self) -> None:
        for subscription in self.subscriptions:
            subscription.destroy()
        for node in list(self.strangers):
            self.leave(node)
        self.executor.shutdown()
        self.node.destroy_node()
        self.driver.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def make_world():
    worlds: list[World] = []

    def make(**overrides: Any) -> World:
        worlds.append(World(**overrides))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def info(width: int) -> Any:
    return message_class(INFO)(width=width)


@pytest.mark.parametrize(
    ("offered", "fixed", "expected"),
    [
        ([], FixedPolicies(), QosDecision(BEST_EFFORT, VOLATILE)),
        ([], FixedPolicies(reliability=RELIABLE), QosDecision(RELIABLE, VOLATILE)),
        ([(RELIABLE, VOLATILE)], FixedPolicies(), QosDecision(RELIABLE, VOLATILE)),
        ([(RELIABLE, VOLATILE), (BEST_EFFORT, VOLATILE)], FixedPolicies(), QosDecision(BEST_EFFORT, VOLATILE)),
        ([(RELIABLE, LATCHED)] * 2, FixedPolicies(), QosDecision(RELIABLE, LATCHED)),
        ([(RELIABLE, LATCHED), (RELIABLE, VOLATILE)], FixedPolicies(), QosDecision(RELIABLE, VOLATILE, True)),
        ([(RELIABLE, LATCHED), (BEST_EFFORT, LATCHED)], FixedPolicies(), QosDecision(BEST_EFFORT, LATCHED, True)),
        ([(BEST_EFFORT, LATCHED), (RELIABLE, VOLATILE)], FixedPolicies(), QosDecision(BEST_EFFORT, VOLATILE)),
        ([(RELIABLE, LATCHED)], FixedPolicies(BEST_EFFORT), QosDecision(BEST_EFFORT, LATCHED)),
        ([(RELIABLE, LATCHED)], FixedPolicies(None, VOLATILE), QosDecision(RELIABLE, VOLATILE)),
        ([(BEST_EFFORT, VOLATILE)], FixedPolicies(RELIABLE, LATCHED), QosDecision(RELIABLE, LATCHED)),
    ],
)
def test_decision_is_the_strictest_that_all_offer(offered, fixed, expected):
    assert decide_qos([profile(*one) for one in offered], fixed) == expected


def test_policy_of_each_role():
    rig = load_rig("demo")
    name = rig.reference
    assert input_policy(InputTopic("/x", IMAGE, "sensor", name), rig) == InputPolicy("auto", 1, "stream")
    assert input_policy(InputTopic("/x", INFO, "camera_info", name), rig) == InputPolicy("auto", 1, "once")
    assert input_policy(InputTopic("/tf", "tf2_msgs/msg/TFMessage", "tf"), rig).depth == 100
    assert SensorConfig("rgb", "rgb").reliability == "auto"


@pytest.mark.parametrize("load", ["640x480", "2MB"])
def test_large_messages_of_a_reliable_publisher_all_arrive_by_default(make_world, load):
    world = make_world()
    subscription = world.subscribe(InputPolicy(), type_name=parse_load(load).type_name)
    with PublisherProcess(TOPIC, load) as process:
        world.wait(lambda: subscription.publishers == 1 and subscription.settled, "the publisher")
        assert subscription.decided == "reliable, volatile, depth 1"
        process.publish(20, 10.0)
        world.wait(lambda: subscription.received == 20, "20 messages")
    assert all(one["received_timestamp"] > one["source_timestamp"] > 0 for one in world.infos)
    assert subscription.problem() is None


RIG = """
name: raw
reference: rgb
sensors:
  - {name: rgb, kind: rgb, topic: /raw/rgb}
  - {name: thermal, kind: thermal, topic: /raw/thermal, thermal_scale: agc}
"""


def test_node_gets_raw_vga_images_and_warns_of_a_silent_publisher(tmp_path, small_card):
    path = tmp_path / "raw.yaml"
    path.write_text(RIG)
    given = {"rig": str(path), "model": str(small_card), "engine": "onnxruntime", "diagnostics_period_s": "0.1"}
    session = FusionSession(load_rig(str(path)), given, tmp_path / "node.log", overlays=False, lossless=False)

    def sensor(name: str) -> dict[str, str]:
        return session.result.status.get(f"fusion_node: sensor {name}", {})

    with session, PublisherProcess("/raw/rgb", "640x480") as rgb, PublisherProcess("/raw/thermal", "640x480"):
        connected = "reliable, volatile, depth 1"
        session.wait_until(lambda: sensor("rgb").get("qos") == connected, 300, "the node")
        rgb.publish(40, 10.0)
        session.wait_until(lambda: int(sensor("rgb").get("received", "0")) >= 30, 30, "the images")
        assert "publishers" in sensor("rgb") and sensor("rgb")["lost"].isdigit()
        session.wait_until(lambda: "nothing has arrived" in sensor("thermal")["message"], 30, "the warning")
        assert "/raw/thermal" in sensor("thermal")["message"]
        assert session.stop() == 0


def test_publishers_that_come_and_go_change_the_decision(make_world):
    world = make_world()
    subscription = world.subscribe()
    assert subscription.decided == "best effort, volatile, depth 50"
    first = world.publisher(profile(RELIABLE))
    world.wait(lambda: subscription.decided.startswith("reliable"), "the reliable publisher")
    second = world.publisher(profile(BEST_EFFORT))
    world.wait(lambda: subscription.decided.startswith("best effort"), "the best-effort publisher")
    world.wait(lambda: subscription.publishers == 2 and subscription.settled, "both")
    world.wait(lambda: second.get_subscription_count() == 1, "the match")
    second.publish(info(7))
    world.wait(lambda: world.got == [7], "the best-effort message")
    world.driver.destroy_publisher(second)
    world.wait(lambda: subscription.decided.startswith("reliable"), "the rest")
    world.driver.destroy_publisher(first)
    world.wait(lambda: subscription.publishers == 0 and subscription.settled, "nobody")
    assert subscription.decided.startswith("reliable")  # who comes back mostly comes back as it was
    world.publisher(profile(BEST_EFFORT))
    world.wait(lambda: subscription.publishers == 1, "another kind")
    assert subscription.decided.startswith("best effort") and subscription.problem() is None


def test_publisher_that_comes_and_goes_does_not_make_the_others_flap(make_world):
    world = make_world()
    subscription = world.subscribe()
    world.publisher(profile(RELIABLE))
    guest = world.publisher(profile(BEST_EFFORT))
    world.wait(lambda: subscription.publishers == 2 and subscription.settled, "both")
    mine = world.node.subscriptions
    before = list(mine)
    world.driver.destroy_publisher(guest)
    world.wait(lambda: subscription.publishers == 1, "the end of the guest")
    world.publisher(profile(BEST_EFFORT))
    world.wait(lambda: subscription.publishers == 2 and subscription.settled, "the guest again")
    assert list(world.node.subscriptions) == before


def test_change_neither_drops_nor_repeats_nor_reorders(make_world):
    world = make_world()
    subscription = world.subscribe()
    steady = world.publisher(profile(RELIABLE))
    world.wait(lambda: steady.get_subscription_count() > 0, "the match")
    sent = 0

    def stream(until: str) -> Callable[[], bool]:
        def step() -> bool:
            nonlocal sent
            if sent - subscription.received < 10:  # no more than the queues can hold
                steady.publish(info(sent))
                sent += 1
            return subscription.decided.startswith(until) and subscription.settled

        return step

    world.wait(stream("reliable"), "reliable")
    guest = world.publisher(profile(BEST_EFFORT))
    world.wait(stream("best effort"), "best effort")
    world.driver.destroy_publisher(guest)
    world.wait(stream("reliable"), "reliable again")
    world.wait(lambda: subscription.received == sent, "the rest")
    assert world.got == list(range(sent))


def test_latched_message_comes_once_and_live_ones_follow(make_world):
    world = make_world()
    latched = world.publisher(profile(RELIABLE, LATCHED, 1))
    latched.publish(info(1))
    subscription = world.subscribe(InputPolicy(expects="once"))
    world.wait(lambda: world.got == [1], "the latched message")
    assert subscription.decided == "reliable, transient local, depth 1"
    world.wait(lambda: subscription.settled, "one subscription")
    latched.publish(info(2))
    world.wait(lambda: world.got == [1, 2], "the next")
    assert subscription.problem() is None


@pytest.mark.parametrize("latched_first", [True, False])
def test_latched_and_volatile_publishers_are_both_heard_once(make_world, latched_first):
    world = make_world()
    kinds = [profile(RELIABLE, LATCHED, 1), profile(BEST_EFFORT)]
    first, second = (world.publisher(qos) for qos in (kinds if latched_first else kinds[::-1]))
    latched, live = (first, second) if latched_first else (second, first)
    latched.publish(info(1))
    subscription = world.subscribe()
    world.wait(lambda: subscription.publishers == 2 and 1 in world.got, "the latched message")
    assert subscription.decided.endswith("for latched publishers")
    world.wait(lambda: subscription.settled and live.get_subscription_count() > 0, "one set")
    live.publish(info(2))
    world.wait(lambda: 2 in world.got, "the live message")
    latched.publish(info(3))
    world.wait(lambda: 3 in world.got, "the latched publisher's next")
    live.publish(info(4))
    world.wait(lambda: 4 in world.got, "the end")
    assert world.got == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("asked", "offered", "policy"),
    [
        ({"reliability": "reliable"}, profile(BEST_EFFORT), "reliability"),
        ({"durability": "transient_local"}, profile(RELIABLE), "durability"),
    ],
)
def test_incompatible_qos_is_named_with_the_cure(make_world, asked, offered, policy):
    world = make_world(**asked)
    subscription = world.subscribe()
    publisher = world.publisher(offered)
    world.wait(lambda: subscription.incompatible[policy] > 0, "the event")
    problem = subscription.problem()
    for part in (TOPIC, f"incompatible {policy}", "auto", f"qos_overrides.{TOPIC}.subscription"):
        assert part in problem
    world.driver.destroy_publisher(publisher)
    world.wait(lambda: subscription.problem() is None, "the end of it")


def test_rig_names_a_policy(make_world):
    world = make_world()
    subscription = world.subscribe(InputPolicy("reliable"))
    publisher = world.publisher(profile(BEST_EFFORT))
    world.wait(lambda: "reliability" in (subscription.problem() or ""), "the refusal")
    world.driver.destroy_publisher(publisher)
    world.publisher(profile(RELIABLE))
    world.wait(lambda: subscription.publishers == 1 and subscription.problem() is None, "the match")
    assert subscription.decided == "reliable, volatile, depth 1"


def test_overrides_stay_while_the_rest_follows(make_world):
    world = make_world(reliability="best_effort", depth=7)
    latched = world.publisher(profile(RELIABLE, LATCHED))
    subscription = world.subscribe()
    world.wait(lambda: "transient local" in subscription.decided and subscription.settled, "the re-creation")
    assert subscription.decided == "best effort, transient local, depth 7"
    latched.publish(info(1))
    world.wait(lambda: world.got == [1], "a message")
    subscription.destroy()
    # Declared parameters are no obstacle, and win over the rig.
    assert world.subscribe(InputPolicy("reliable")).decided == "best effort, transient local, depth 7"


def test_rig_that_has_changed_is_heeded_without_overrides(make_world):
    world = make_world()
    world.subscribe(InputPolicy("reliable", depth=3)).destroy()
    assert world.subscribe(InputPolicy("auto", depth=4)).decided == "best effort, volatile, depth 4"


def test_best_available_takes_what_is_offered_whatever_the_rig_says(make_world):
    world = make_world(reliability="best_available")
    assert world.subscribe(InputPolicy("reliable")).decided == "best effort, volatile, depth 1"


@pytest.mark.parametrize(
    ("name", "value"),
    [("reliability", "certain"), ("durability", 3), ("history", "some"), ("depth", -1), ("depth", "many")],
)
def test_unusable_override_is_an_error_that_names_it(make_world, name, value):
    world = make_world(**{name: value})
    with pytest.raises(ConfigError, match=rf"qos_overrides\.{TOPIC}\.subscription\.{name}: .*got {value!r}"):
        world.subscribe()


def test_silent_publisher_is_a_problem_for_a_stream_only(make_world):
    world = make_world()
    stream = world.subscribe(InputPolicy("best_effort"))
    transforms = world.subscribe(InputPolicy(expects="anything"))
    once = world.subscribe(InputPolicy(expects="once"))
    publisher = world.publisher(profile(RELIABLE))
    world.wait(lambda: publisher.get_subscription_count() == 3 and transforms.settled, "the matches")
    assert stream.problem() is None
    world.wait(lambda: stream.problem() is not None and once.problem() is not None, "the warnings")
    assert "/driver is there to publish, but nothing has arrived" in stream.problem()
    assert "reliability: auto" in stream.problem() and TOPIC in stream.problem()
    assert transforms.problem() is None
    publisher.publish(info(1))
    world.wait(lambda: stream.problem() is None and once.problem() is None, "a message")
    start = time.monotonic()
    world.wait(lambda: "nothing arrives" in (stream.problem() or ""), "the silence")
    assert time.monotonic() - start > SILENT_AFTER_S - 1.0
    assert once.problem() is None


def test_other_type_is_named(make_world):
    world = make_world()
    subscription = world.subscribe()
    with PublisherProcess(TOPIC, "64x48"):
        world.wait(lambda: subscription.problem() is not None, "the other type")
        assert INFO in subscription.problem() and IMAGE in subscription.problem()


def test_an_open_type_follows_what_is_published(make_world):
    world = make_world()
    told: list[str] = []
    subscription = world.subscribe(type_name=IMAGE, types=(IMAGE, INFO), on_type=told.append)
    first = world.stranger(INFO)
    world.wait(lambda: first.get_subscription_count() == 1 and subscription.settled, "the match")
    first.publish(info(3))
    world.wait(lambda: world.got == [3], "its message")
    assert told == [INFO] and subscription.problem() is None
    second = world.stranger(IMAGE)
    world.wait(lambda: len(world.node.get_publishers_info_by_topic(TOPIC)) == 2, "a second type")
    world.wait(lambda: IMAGE in (subscription.problem() or ""), "the other is named")
    assert told == [INFO], "what comes is kept"
    world.leave(world.strangers[0])
    world.wait(lambda: told == [INFO, IMAGE] and second.get_subscription_count() == 1, "the change")
    second.publish(message_class(IMAGE)(width=4))
    world.wait(lambda: world.got == [3, 4], "the image")


def test_a_type_that_cannot_be_decoded_here_is_not_changed_to(make_world):
    world = make_world()
    asked: list[str] = []

    def refuse(type_name: str) -> None:
        asked.append(type_name)
        raise ConfigError("its decoder is not installed")

    subscription = world.subscribe(type_name=IMAGE, types=(IMAGE, INFO), on_type=refuse)
    world.stranger(INFO)
    world.wait(lambda: len(asked) > 0, "the other type")
    world.wait(lambda: INFO in (subscription.problem() or ""), "it is named")


def test_a_type_that_is_none_of_the_open_ones_is_named_with_all_of_them(make_world):
    world = make_world()
    both = (IMAGE, "sensor_msgs/msg/CompressedImage")
    subscription = world.subscribe(type_name=IMAGE, types=both)
    world.stranger(INFO)
    world.wait(lambda: subscription.problem() is not None, "the type")
    for part in (*both, f"published is {INFO}", "remap"):
        assert part in subscription.problem()
    assert "set the sensor's type" not in subscription.problem()


def test_an_open_type_that_is_not_installed_is_said(make_world, monkeypatch):
    world = make_world()

    def missing(name: str) -> Any:
        raise ConfigError(f"message type {name} is not installed")

    monkeypatch.setattr("mm_perception.ros.subscriptions.message_class", missing)
    said: list[str] = []
    subscription = world.subscribe(type_name=IMAGE, types=(IMAGE, INFO))
    monkeypatch.setattr(subscription, "_warn", lambda kind, text: said.append(text))
    world.stranger(INFO)
    world.wait(lambda: bool(said), "the word")
    assert said[0] == f"{TOPIC}: message type {INFO} is not installed"


def test_lost_messages_are_counted_and_named(make_world, monkeypatch):
    world = make_world()
    events: list[Any] = []
    create = world.node.create_subscription
    monkeypatch.setattr(
        world.node,
        "create_subscription",
        lambda *args, event_callbacks, **more: (
            events.append(event_callbacks) or create(*args, event_callbacks=event_callbacks, **more)
        ),
    )
    subscription = world.subscribe()
    assert (subscription.lost, subscription.problem()) == (0, None)
    events[0].message_lost(SimpleNamespace(total_count_change=3))
    assert subscription.lost == 3
    assert f"{TOPIC}: 3 message(s) lost" in subscription.problem() and "fastdds.xml" in subscription.problem()
    world.publisher(profile(RELIABLE))
    world.wait(lambda: len(events) == 2, "the re-creation")
    events[0].message_lost(SimpleNamespace(total_count_change=5))  # of the replaced one: the new one has them
    assert subscription.lost == 3


def test_middleware_without_events_is_served_too(make_world, monkeypatch):
    world = make_world()
    create = world.node.create_subscription

    def refuse(*args: Any, event_callbacks: Any, **more: Any) -> Any:
        if event_callbacks.message_lost is not None:
            raise UnsupportedEventTypeError("message_lost")
        return create(*args, event_callbacks=event_callbacks, **more)

    monkeypatch.setattr(world.node, "create_subscription", refuse)
    subscription = world.subscribe()
    publisher = world.publisher(profile(RELIABLE))
    world.wait(lambda: subscription.settled and publisher.get_subscription_count() > 0, "the match")
    publisher.publish(info(1))
    world.wait(lambda: world.got == [1], "a message")
    assert subscription.lost is None


def test_drain_takes_what_lies_in_the_queue(make_world):
    world = make_world()
    subscription = world.subscribe()
    publisher = world.publisher(profile(RELIABLE))
    world.wait(lambda: subscription.decided.startswith("reliable") and subscription.settled, "the match")
    for n in range(5):
        publisher.publish(info(n))
    deadline, taken = time.monotonic() + 20, 0
    while taken < 5:
        assert time.monotonic() < deadline
        taken += subscription.drain()  # nobody spins
    assert world.got == [0, 1, 2, 3, 4] and subscription.received == 5
    assert subscription.drain() == 0
    publisher.publish(info(5))
    world.wait(lambda: world.got[-1] == 5, "the executor, which goes on")


def test_destroy_frees_everything(make_world):
    world = make_world()
    before = (len(list(world.node.subscriptions)), len(list(world.node.waitables)))
    subscription = world.subscribe()
    world.publisher(profile(RELIABLE, LATCHED))
    world.publisher(profile(BEST_EFFORT))
    world.wait(lambda: subscription.publishers == 2, "both")
    subscription.destroy()
    assert (len(list(world.node.subscriptions)), len(list(world.node.waitables))) == before
    assert (subscription.publishers, subscription.drain()) == (0, 0)
    subscription.update()
    assert len(list(world.node.subscriptions)) == before[0]


def test_names_are_resolved(make_world):
    world = make_world()
    assert world.subscribe(topic="~/input/rgb").topic == "/listener/input/rgb"
