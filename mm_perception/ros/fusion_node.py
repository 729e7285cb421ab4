"""The live node: sensor topics in, segmentation and 3D boxes out."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from mm_perception.codec.encode import encode_diagnostics
from mm_perception.core.errors import MmPerceptionError
from mm_perception.core.types import ImageFrame
from mm_perception.engines.load import why_not
from mm_perception.pipeline.intake import InputTopic, Intake, MeasurementSynchronizer, Observation, make_synchronizer
from mm_perception.pipeline.perception import PerceptionResult, build_perception
from mm_perception.ros.diagnostics import WARN, SensorWatch, Status, pipeline_status
from mm_perception.ros.message_filters_policy import MessageFiltersSynchronizer
from mm_perception.ros.messages import RclpyMessages, message_class
from mm_perception.ros.outputs import DetectionOutputs, SegmentationOutputs
from mm_perception.ros.params import declare_settings
from mm_perception.ros.qos import input_policy, output_qos
from mm_perception.ros.subscriptions import AdaptiveSubscription
from mm_perception.ros.worker import InferenceWorker

_POLL_PERIOD_S = 0.01
_QOS_PERIOD_S = 1.0
_LOG_AGAIN_AFTER_S = 5.0


class FusionNode(Node):
    """Decodes and matches in the executor's thread, infers in a worker, publishes what comes out.

    Outputs: `~/output/segmentation` (mono8 class ids with the reference image's header, frame and size),
    `~/output/segmentation_overlay` (rgb8), `~/output/label_info` (latched); with a detector `~/output/detections`
    (vision_msgs/Detection3DArray in the output frame, with the bundle's stamp), `~/output/detection_velocities`,
    `~/output/detection_markers`, `~/output/detection_overlay` (rgb8); `/diagnostics`.
    """

    def __init__(self, **node_options: Any) -> None:
        """Raises MmPerceptionError with everything that is wrong with the configuration."""
        super().__init__("fusion_node", **node_options)
        self.settings = declare_settings(self)
        log = self.get_logger()
        self._factory = RclpyMessages()
        diagnostics = message_class("diagnostic_msgs/msg/DiagnosticArray")
        self._diagnostics = self.create_publisher(diagnostics, "/diagnostics", output_qos())
        self.perception = build_perception(self.settings, on_progress=self._on_start_up)
        rig, cards = self.perception.rig, self.perception.cards
        for card in cards:
            if not card.trained:
                log.warning(f"model {card.name} is untrained: what it gives means nothing")
        self._last_logged: dict[tuple[str, str], float] = {}
        self._suppressed: Counter[tuple[str, str]] = Counter()
        self._log_lock = threading.Lock()
        filters = self.settings.sync_policy == "message_filters"
        synchronizer: MeasurementSynchronizer = MessageFiltersSynchronizer(rig) if filters else make_synchronizer(rig)
        self.intake = Intake(rig, self._on_problem, synchronizer, self.perception.taps)
        self._inputs: dict[str, AdaptiveSubscription] = {}
        self._watch = SensorWatch(self.intake, self._inputs)
        self._create_outputs()
        depth = self.settings.queue_depth
        self._worker = InferenceWorker(self.perception, self._publish, self._on_problem, depth, self._clear)
        for topic in self.intake.inputs:
            if topic.topic not in self._inputs:  # cameras may share a CameraInfo; the intake knows whose it is
                self._subscribe(topic)
        self.create_timer(_POLL_PERIOD_S, self._poll)
        self.create_timer(_QOS_PERIOD_S, self._follow_publishers)
        self.create_timer(self.settings.diagnostics_period_s, self.publish_diagnostics)
        names = ", ".join(card.name for card in cards)
        log.info(f"ready: rig {rig.name}, model {names}, engine {self.perception.engine_name}")

    def _create_outputs(self) -> None:
        segmentation, detection = self.perception.segmentation, self.perception.detection
        self._segmentation = SegmentationOutputs(self, self._factory, segmentation.card) if segmentation else None
        self._detection = DetectionOutputs(self, self._factory, detection.card, detection.taps) if detection else None

    def _subscribe(self, topic: InputTopic) -> None:
        def receive(msg: Any, info: dict[str, Any]) -> None:
            if topic.role == "sensor":
                self._watch.arrived(topic.sensor)
            self._submit(self.intake.receive(topic.topic, msg, time.monotonic_ns()))

        policy = input_policy(topic, self.perception.rig)
        kind = message_class(topic.type_name)
        self._inputs[topic.topic] = AdaptiveSubscription(self, kind, topic.topic, policy, receive)

    def _follow_publishers(self) -> None:
        for subscription in self._inputs.values():
            subscription.update()

    def _poll(self) -> None:
        self._submit(self.intake.poll(time.monotonic_ns()))

    def _submit(self, observations: list[Observation]) -> None:
        for observation in observations:
            self._watch.matched(observation.bundle.skew_ns)
            self._worker.submit(observation)

    def _publish(self, observation: Observation, result: PerceptionResult) -> None:
        """Called in the worker's thread."""
        if self._segmentation is not None and result.segmentation is not None:
            reference = observation.bundle.measurements[observation.bundle.reference]
            assert isinstance(reference, ImageFrame)
            alpha = float(self.get_parameter("overlay_alpha").value)
            self._segmentation.publish(reference, result.segmentation, alpha)
        if self._detection is not None and result.detection is not None:
            self._detection.publish(result.detection)
        else:
            self._clear(observation)

    def _clear(self, observation: Observation) -> None:
        """Called in the worker's thread: there are no boxes of this observation."""
        if self._detection is not None:
            self._detection.clear(observation.bundle.stamp_ns)

    def _on_start_up(self, text: str) -> None:
        """Tells what takes long before the node is ready: building an engine can take many minutes."""
        self.get_logger().info(text)
        name = self.get_fully_qualified_name().lstrip("/")
        status: Status = (f"{name}: pipeline", WARN, f"starting: {text}", {})
        now_ns = self.get_clock().now().nanoseconds
        self._diagnostics.publish(encode_diagnostics(self._factory, now_ns, [status], self.settings.rig))

    def publish_diagnostics(self) -> None:
        """Sends the state of every sensor and of the pipeline."""
        now_ns = self.get_clock().now().nanoseconds
        name = self.get_fully_qualified_name().lstrip("/")
        counts, latency = self._worker.snapshot()
        latency = {**self.intake.latency.summary(), **latency}
        for (where, kind), n in self.intake.rejected.items():
            if where == "bundle":
                counts[f"dropped.{kind}"] = counts.get(f"dropped.{kind}", 0) + n
        for outputs in (self._segmentation, self._detection):
            counts |= outputs.subscribers() if outputs is not None else {}
        statuses = [
            pipeline_status(f"{name}: pipeline", self.perception, counts, latency, self._worker.degraded()),
            *self._watch.statuses(name, now_ns, self.settings.stale_after_s),
        ]
        hardware_id = self.perception.rig.name
        self._diagnostics.publish(encode_diagnostics(self._factory, now_ns, statuses, hardware_id))

    def _on_problem(self, where: str, error: Exception) -> None:
        """Logs a dropped message, at most once in a while per place and kind."""
        key = (where, type(error).__name__)
        now = time.monotonic()
        with self._log_lock:  # both threads report
            if now - self._last_logged.get(key, -1e9) < _LOG_AGAIN_AFTER_S:
                self._suppressed[key] += 1
                return
            count = self._suppressed.pop(key, 0)
            self._last_logged[key] = now
        more = f" ({count} more like it)" if count else ""
        self.get_logger().warning(f"{where}: dropped: {type(error).__name__}: {error}{more}")

    def built(self) -> int:
        """The end of `build_only`: 0 where the engines are what this machine can have at best, else 1."""
        name, log = self.perception.engine_name, self.get_logger()
        others = [one for one in name.split(", ") if not one.startswith("tensorrt")]
        if self.settings.engine == "auto" and others and why_not("tensorrt") is None:
            log.error(f"build_only: TensorRT can run here, and was passed over (see above) for {name}")
            return 1
        log.info(f"build_only: the engines are there: {name}")
        return 0

    def shut_down(self) -> None:
        """Ends the worker and frees the engine."""
        if self._worker.stop():
            self.perception.close()


def main(args: list[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM.

    Returns:
        0 after a clean end, 1 if `build_only` has not built what could be built, 2 if the configuration cannot be
        used.
    """
    rclpy.init(args=args)
    node: FusionNode | None = None
    try:
        node = FusionNode()
        if node.settings.build_only:
            return node.built()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except MmPerceptionError as error:
        rclpy.logging.get_logger("fusion_node").fatal(f"cannot start: {error}")
        return 2
    except Exception:
        # A signal can end the context in the middle of any call into rcl, which then fails.
        if rclpy.ok():
            raise
    finally:
        if node is not None:
            node.shut_down()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
