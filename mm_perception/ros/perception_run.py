"""What runs while the node is active: inputs, matching, inference, results, and the watch over all of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from mm_perception.core.errors import MmPerceptionError
from mm_perception.core.rig import MESSAGE_TYPES
from mm_perception.core.settings import FusionSettings
from mm_perception.core.types import ImageFrame
from mm_perception.pipeline.intake import InputTopic, Intake, MeasurementSynchronizer, Observation, make_synchronizer
from mm_perception.pipeline.perception import Perception, PerceptionResult
from mm_perception.pipeline.sight import Sight, TaskSight
from mm_perception.ros.diagnostics import InputWatch, ResultWatch, Status, clock_status, pipeline_status
from mm_perception.ros.message_filters_policy import MessageFiltersSynchronizer
from mm_perception.ros.messages import message_class
from mm_perception.ros.monitors import SteadyFrom
from mm_perception.ros.outputs import Outputs
from mm_perception.ros.qos import input_policy
from mm_perception.ros.subscriptions import AdaptiveSubscription
from mm_perception.ros.worker import InferenceWorker

_POLL_PERIOD_S = 0.02
_QOS_PERIOD_S = 1.0
_SILENCE_PERIOD_S = 0.1
_LOG_AGAIN_AFTER_S = 5.0
_MOST_LOG_KEYS = 1000
QUIET_S = 0.5
"""Without a set for this long, and for three of its periods, the node says by itself that it is blind."""
STARVED_NS = 20_000_000
"""A message that waited longer than this for the executor shows that there is too little time for all of them."""
_LONGEST_QUEUE_S = 60.0
_Arrived = tuple[int, list[InputTopic], Any]


class PerceptionRun:
    """Decodes and matches in the executor's thread, infers in a worker, publishes what comes out.

    Attributes:
        intake: of this run; a new activation begins with a new one.
    """

    def __init__(
        self,
        node: Node,
        perception: Perception,
        outputs: Outputs,
        settings: FusionSettings,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
            facts: further values of the pipeline's status, which do not change.

        Raises:
            ConfigError: the synchronizer or a QoS override cannot be used.
        """
        self._facts = dict(facts or {})
        self._stopped = False
        self._timers: list[Any] = []
        self._silence_said_s = 0.0
        self._node, self._perception, self._outputs, self._settings = node, perception, outputs, settings
        self._last_logged: dict[tuple[str, str], float] = {}
        self._suppressed: Counter[tuple[str, str]] = Counter()
        self._log_lock = threading.Lock()
        rig, used = perception.rig, perception.used_sensors
        filters = settings.sync_policy == "message_filters"
        synchronizer: MeasurementSynchronizer
        synchronizer = MessageFiltersSynchronizer(rig) if filters else make_synchronizer(rig, used)
        self.intake = Intake(rig, self._on_problem, synchronizer, perception.taps, used, self._on_change, self._on_note)
        self._inputs: dict[str, AdaptiveSubscription] = {}
        self._batch: list[_Arrived] | None = None
        deadline_s, now_s = settings.deadline_ms * 1e-3, time.monotonic()
        critical = frozenset({rig.reference} | ({perception.taps.lidar} if perception.taps else set()))
        self._watch = InputWatch(self.intake, self._inputs, critical, settings.stale_after_s, deadline_s)
        self._results = ResultWatch(deadline_s, now_s)
        self._clock_watch = SteadyFrom(now_s)
        self._worker = InferenceWorker(
            perception, self._publish, self._on_problem, settings.queue_depth, self._on_dropped
        )
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        try:
            for route in self.intake.inputs:
                if route.topic not in self._inputs:  # cameras may share a CameraInfo; the intake knows whose it is
                    self._subscribe(route)
        except BaseException:
            self.stop(0.0)
            raise
        self._timers = [
            node.create_timer(period_s, act, clock=self._steady)
            for period_s, act in (
                (_POLL_PERIOD_S, self._poll),
                (_QOS_PERIOD_S, self._follow_publishers),
                (_SILENCE_PERIOD_S, self._publish_silence),
            )
        ]

    @property
    def has_ended(self) -> bool:
        """Whether the worker's threads have."""
        return self._worker.has_ended

    def stop(self, timeout_s: float) -> bool:
        """Ends everything; nothing is published any more. Returns whether the worker ended in time."""
        self._stopped = True
        try:
            for timer in self._timers:
                self._node.destroy_timer(timer)
            for subscription in self._inputs.values():
                subscription.destroy()
        finally:
            ended = self._worker.stop(timeout_s)
        return ended

    def statuses(self, prefix: str, now_s: float) -> list[Status]:
        """The state of the pipeline, every sensor, every other input, and the clock if it is driven from outside."""
        perception, worker = self._perception, self._worker
        counts, latency = worker.snapshot()
        latency = {**self.intake.latency.summary(), **latency}
        for (where, kind), n in self.intake.rejected.items():
            if where == "bundle":
                counts[f"dropped.{kind}"] = counts.get(f"dropped.{kind}", 0) + n
        counts |= self._outputs.subscribers() | {"sync.timeouts": self.intake.sync_stats.timeouts}
        sight = self._quiet_sight(now_s) or self._results.worst(now_s) or self._no_sight("no set yet")
        troubles = [
            text for where in ("bundle", "images", *sight.tasks) for text in self._watch.troubles.recent(where, now_s)
        ]
        deadline = self._results.deadline.verdict(now_s)
        found = [
            pipeline_status(
                f"{prefix}: pipeline",
                perception,
                self._facts,
                counts,
                latency,
                sight,
                deadline,
                troubles,
                0.0 if self._uses_sim_time else self._watch.stamps_off_s,
            ),
            *self._watch.statuses(prefix, now_s),
        ]
        if self._uses_sim_time:
            clock_ns, after_s = self._node.get_clock().now().nanoseconds, self._settings.stale_after_s
            found.append(clock_status(f"{prefix}: clock", self._clock_watch, clock_ns, after_s, now_s))
        return found

    def _publish_silence(self) -> None:
        """Says that the node is blind, where no set has come for a while; again and again."""
        now_s = time.monotonic()
        if now_s - self._silence_said_s < QUIET_S or (sight := self._quiet_sight(now_s)) is None:
            return
        self._silence_said_s = now_s
        self._outputs.publish_sight(sight)
        if self._outputs.detection is not None:
            self._outputs.detection.clear(sight.stamp_ns)

    @property
    def _uses_sim_time(self) -> bool:
        return bool(self._node.get_parameter("use_sim_time").value)

    def _subscribe(self, route: InputTopic) -> None:
        rig = self._perception.rig
        policy, kind = input_policy(route, rig), message_class(route.type_name)
        receive = partial(self._receive, [one for one in self.intake.inputs if one.topic == route.topic])
        types: tuple[str, ...] = ()
        if route.role == "sensor" and not rig.sensor(route.sensor).type:
            types = MESSAGE_TYPES[rig.sensor(route.sensor).kind]
        self._inputs[route.topic] = AdaptiveSubscription(
            self._node, kind, route.topic, policy, receive, types, partial(self.intake.take_type, route.sensor)
        )

    def _receive(self, routes: list[InputTopic], msg: Any, info: dict[str, Any]) -> None:
        """Takes a message; where it had to wait, together with all that wait in the other queues.

        A starved executor that took one queue after the other would take messages of different instants, since short
        queues keep the newest alone, and nothing would match.
        """
        arrived_ns = _arrival_ns(info)
        if self._batch is not None:
            self._batch.append((arrived_ns, routes, msg))
        elif time.monotonic_ns() - arrived_ns > STARVED_NS:
            self._take_all([(arrived_ns, routes, msg)])
        else:
            self._take(arrived_ns, routes, msg)

    def _take_all(self, batch: list[_Arrived]) -> None:
        """Empties all queues, and takes what was in them in the order in which it arrived."""
        self._batch = batch
        try:
            for subscription in self._inputs.values():
                subscription.drain()
        finally:
            self._batch = None
        for arrived_ns, routes, msg in sorted(batch, key=lambda one: one[0]):
            self._take(arrived_ns, routes, msg)

    def _take(self, arrived_ns: int, routes: list[InputTopic], msg: Any) -> None:
        now_s = time.monotonic()
        topic, sensor = routes[0].topic, routes[0].sensor if routes[0].role == "sensor" else ""
        self._watch.arrived(routes[0], now_s)
        before_ns = self.intake.newest_ns.get(sensor)
        found = self.intake.receive(topic, msg, arrived_ns, expire=False)
        stamp_ns = self.intake.newest_ns.get(sensor)
        if stamp_ns is not None and stamp_ns != before_ns:
            waited_ns = max(0, time.monotonic_ns() - arrived_ns)
            clock_ns = self._node.get_clock().now().nanoseconds - waited_ns
            self._watch.decoded(sensor, stamp_ns, clock_ns, now_s)
        self._submit(found)

    def _poll(self) -> None:
        """Gives out the sets whose time is up, when all that had arrived by then has been taken."""
        now_ns, due_ns = time.monotonic_ns(), self.intake.next_deadline_ns
        if due_ns is None or due_ns > now_ns:
            return
        self._take_all([])
        self._submit(self.intake.poll(now_ns))

    def _follow_publishers(self) -> None:
        for subscription in self._inputs.values():
            subscription.update()
        forget_destroyed(self._node)

    def _submit(self, observations: list[Observation]) -> None:
        for observation in observations:
            self._watch.matched(observation)
            self._worker.submit(observation)

    def _publish(self, observation: Observation, result: PerceptionResult) -> None:
        """Called in the worker's thread."""
        if self._stopped:
            return
        assert result.sight is not None
        self._say(result.sight)
        segmentation, detection = self._outputs.segmentation, self._outputs.detection
        if segmentation is not None and result.segmentation is not None:
            segmentation.publish(result.segmentation)
        if detection is not None and result.detection is not None:
            detection.publish(result.detection)
        try:
            self._note_age(observation)
            self._illustrate(observation, result)
        except Exception as error:  # the results are out, and are not taken back for a picture
            self._on_problem("images", error)

    def _illustrate(self, observation: Observation, result: PerceptionResult) -> None:
        segmentation, detection = self._outputs.segmentation, self._outputs.detection
        if segmentation is not None and result.segmentation is not None:
            reference = observation.bundle.measurements[observation.bundle.reference]
            assert isinstance(reference, ImageFrame)
            alpha = float(self._node.get_parameter("overlay_alpha").value)
            segmentation.illustrate(reference, result.segmentation, alpha)
        if detection is not None and result.detection is not None:
            detection.illustrate(result.detection)
        elif detection is not None:
            detection.clear(observation.bundle.stamp_ns)

    def _note_age(self, observation: Observation) -> None:
        """From the sensor to the published result; of a recording, from the reference's arrival."""
        now_s = time.monotonic()
        age_s = now_s - observation.arrived_ns * 1e-9
        if not self._watch.is_recording:
            age_s = (self._node.get_clock().now().nanoseconds - observation.bundle.stamp_ns) * 1e-9
        self._results.deadline.published(now_s, age_s)
        self._worker.note({"age": age_s * 1e3})

    def _on_dropped(self, observation: Observation, error: Exception) -> None:
        """Called in the worker's thread: there is no result of this observation."""
        if self._stopped:
            return
        self._say(self._perception.sight(observation).failed(f"{type(error).__name__}: {error}"))
        if self._outputs.detection is not None:
            self._outputs.detection.clear(observation.bundle.stamp_ns)

    def _say(self, sight: Sight) -> None:
        self._results.saw(sight, time.monotonic())
        self._outputs.publish_sight(sight)

    def _quiet_sight(self, now_s: float) -> Sight | None:
        """Of the time since the last set, where that is long; None if sets come."""
        quiet_s = self._results.quiet_s(now_s)
        if quiet_s < max(QUIET_S, 3 * self._watch.set_period_s) or quiet_s < 3 * self._perception_period_s():
            return None
        why = self._watch.silence(now_s) or "the sensors' stamps do not fit together, see their statuses"
        if self._worker.is_busy:
            why = "the networks are still at work on the last one"
        return self._no_sight(f"no set for {quiet_s:.1f} s: {why}")

    def _perception_period_s(self) -> float:
        """Inference time [s] of one set by what was measured, which a slow machine may need between two."""
        summary = self._worker.latency_of("bundle_to_output")
        return 0.0 if summary is None else summary.p95_ms * 1e-3

    def _no_sight(self, why: str) -> Sight:
        tasks = {
            name: TaskSight(blind={"set": why}, no_boxes_means_free=False)
            for name, task in (
                ("segmentation", self._perception.segmentation),
                ("detection", self._perception.detection),
            )
            if task is not None
        }
        return Sight(self._node.get_clock().now().nanoseconds, tasks)

    def _on_change(self, sensor: str, text: str) -> None:
        self._watch.changed(sensor, text, time.monotonic())

    def _on_note(self, sensor: str, text: str) -> None:
        self._watch.changed(sensor, text, time.monotonic())
        self._node.get_logger().warning(f"{sensor}: {text}")

    def _on_problem(self, where: str, error: Exception) -> None:
        """Logs what was dropped, at most once in a while per place and kind; called in both threads."""
        if not self._node.context.ok():
            return  # a signal ends the context under a result that is being published: no problem of the data
        now_s = time.monotonic()
        with self._log_lock:
            self._watch.rejected(where, error, now_s)
            key = (where, type(error).__name__)
            if now_s - self._last_logged.get(key, -1e9) < _LOG_AGAIN_AFTER_S:
                self._suppressed[key] += 1
                return
            count = self._suppressed.pop(key, 0)
            if len(self._last_logged) < _MOST_LOG_KEYS or key in self._last_logged:
                self._last_logged[key] = now_s
        more = f" ({count} more like it)" if count else ""
        kind = (
            type(error).__name__ if isinstance(error, MmPerceptionError) else f"internal error {type(error).__name__}"
        )
        self._node.get_logger().warning(f"{where}: dropped: {kind}: {error}{more}")


def forget_destroyed(node: Node) -> None:
    """rclpy's callback groups keep a dead reference of each timer, subscription and publisher that was destroyed."""
    entities = node.default_callback_group.entities
    entities -= {entity for entity in entities if entity() is None}


def _arrival_ns(info: dict[str, Any]) -> int:
    """When the middleware had the message, on the steady clock.

    What lay in a queue of a starved process had arrived in time.
    """
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    waited_ns = wall_ns - int(info.get("received_timestamp") or wall_ns)
    return now_ns - waited_ns if 0 <= waited_ns <= _LONGEST_QUEUE_S * 1e9 else now_ns
