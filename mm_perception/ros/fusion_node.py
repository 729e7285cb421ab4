"""The live node: sensor topics in, segmentation and 3D boxes out. A lifecycle node."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from mm_perception.codec.encode import encode_diagnostics
from mm_perception.core.errors import EngineError, MmPerceptionError
from mm_perception.core.processes import die_with_parent, end_children, end_within
from mm_perception.core.progress import Caution
from mm_perception.engines.load import why_not
from mm_perception.engines.stamp import weights_identity
from mm_perception.pipeline.perception import Perception, build_perception
from mm_perception.ros.arguments import check_arguments
from mm_perception.ros.diagnostics import ERROR, OK, WARN, Status
from mm_perception.ros.messages import RclpyMessages, message_class
from mm_perception.ros.outputs import Outputs
from mm_perception.ros.params import declare_settings
from mm_perception.ros.perception_run import PerceptionRun, forget_destroyed
from mm_perception.ros.qos import output_qos

T = TypeVar("T")

STOP_WITHIN_S = 1.0
"""What an inference that is under way may take when the node stops."""
PARENT_VARIABLE = "MM_PERCEPTION_PARENT"
"""Of the environment: the process with this id has started the node for itself, and the node ends with it."""
_HEARTBEAT_S = 1.0
LEAVE_WITHIN_S = 1.5
"""After a signal; a thread that is in the middle of native code then is left there."""
_WAIT_S = 0.02
_LONGEST_TEXT = 1000
_TRIM_PERIOD_S = 30.0
_SIGNAL_WITHIN_S = 0.5
"""A signal may break a call into rcl this long before its context is shut down."""
MOST_ERRORS = 100
"""Errors of this program's own that the node survives in a row, each logged, before it ends."""
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class InterruptedTransitionError(Exception):
    """The context was shut down while something long was under way."""


class FusionNode(LifecycleNode):
    """configure: load or build the engines; activate: warm up and subscribe; deactivate: stop listening;
    cleanup: give the engines back. A transition that fails is refused, and its reason is logged and on /diagnostics.

    Outputs: `~/output/segmentation` (mono8 class ids with the reference image's header, frame and size),
    `~/output/segmentation_overlay` (rgb8), `~/output/label_info` (latched); with a detector `~/output/detections`
    (vision_msgs/Detection3DArray in the output frame, with the bundle's stamp), `~/output/detection_velocities`,
    `~/output/detection_markers`, `~/output/detection_overlay` (rgb8); `~/output/perception_status`
    (diagnostic_msgs/DiagnosticStatus: what each set is worth, see docs/planner.md); `/diagnostics`.

    Attributes:
        perception: while configured.
        run: while active.
        failure: why the last transition was refused; "" if it was not.
    """

    def __init__(self, **node_options: Any) -> None:
        """Raises ConfigError with every parameter that is wrong."""
        super().__init__("fusion_node", **node_options)
        self.settings = declare_settings(self)
        self.perception: Perception | None = None
        self.run: PerceptionRun | None = None
        self.failure = ""
        self._factory = RclpyMessages()
        self._outputs: Outputs | None = None
        self._progress = ""
        self._start_up: list[str] = []
        self._facts: dict[str, str] = {}
        self._interrupted = False
        self._unfinished: PerceptionRun | None = None
        diagnostics = message_class("diagnostic_msgs/msg/DiagnosticArray")
        self._diagnostics = self.create_publisher(diagnostics, "/diagnostics", output_qos())
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self.settings.diagnostics_period_s, self._report, clock=self._steady)
        # What piled up while a sensor was dead leaves holes in the heap, which malloc keeps by itself.
        self.create_timer(_TRIM_PERIOD_S, trim_heap, clock=self._steady)

    @property
    def has_leftovers(self) -> bool:
        """Whether a thread did not end in time and still uses an engine: the process must end without waiting."""
        return self._interrupted or (self._unfinished is not None and not self._unfinished.has_ended)

    def _check_rest(self) -> None:
        """Raises EngineError while a thread of before still uses the engines."""
        if self.has_leftovers:
            raise EngineError("the last inference is still under way; try again when it has ended")

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("configure", self._configure, self._cleanup)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("activate", self._activate, self._deactivate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("deactivate", self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("cleanup", self._clean_up_at_rest)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("shutdown", self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, from where the node can be configured again."""
        failure = self.failure
        outcome = self._transition("error processing", self._release)
        self.failure = failure or self.failure
        return outcome

    def _transition(
        self, name: str, act: Callable[[], object], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        """rclpy swallows what a transition raises; here it is a refused transition with its reason."""
        self.failure = ""
        try:
            act()
        except Exception as error:
            known = isinstance(error, (MmPerceptionError, InterruptedTransitionError))
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            self.failure = f"{name} failed: {reason}"
            if not isinstance(error, InterruptedTransitionError):
                self.get_logger().error(self.failure)
            if undo is not None:
                undo()
            return FAILURE
        return SUCCESS

    def _configure(self) -> None:
        settings, self._start_up = self.settings, []
        self.perception = self._patiently("configuring", lambda: build_perception(settings, self._on_progress))
        log, cards = self.get_logger(), self.perception.cards
        self._facts = {"precision": settings.precision, "start_up": "; ".join(self._start_up)[-_LONGEST_TEXT:]}
        self._facts |= {f"weights.{card.name}": weights_identity(card) for card in cards}
        for card in cards:
            if not card.trained:
                log.warning(f"model {card.name} is untrained: what it gives means nothing")
        if not settings.build_only:
            self._outputs = Outputs(self, self._factory, self.perception)

    def _activate(self) -> None:
        self._check_rest()
        perception, outputs = self.perception, self._outputs
        assert perception is not None and outputs is not None
        self._patiently("activating", perception.warm_up)
        self.run = PerceptionRun(self, perception, outputs, self.settings, self._facts)
        names = ", ".join(card.name for card in perception.cards)
        self.get_logger().info(f"ready: rig {perception.rig.name}, model {names}, engine {perception.engine_name}")

    def _deactivate(self) -> None:
        run, self.run = self.run, None
        if run is not None and not run.stop(STOP_WITHIN_S):
            self._unfinished = run
            self.get_logger().warning(f"an inference did not end within {STOP_WITHIN_S:.0f} s")

    def _clean_up_at_rest(self) -> None:
        self._check_rest()
        self._cleanup()

    def _cleanup(self) -> None:
        perception, self.perception = self.perception, None
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.destroy()
        if perception is not None and not self.has_leftovers:
            perception.close()
        del perception, outputs
        forget_destroyed(self)
        give_memory_back()

    def _release(self) -> None:
        self._deactivate()
        self._cleanup()

    def _patiently(self, what: str, act: Callable[[], T]) -> T:
        """Does what may take minutes in a thread of its own, and says meanwhile that it is under way.

        Raises:
            InterruptedTransitionError: the context was shut down; the thread is left behind.
            Whatever `act` raises.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(act())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work, name=what, daemon=True)
        start_s = last_s = time.monotonic()
        self._progress = ""
        thread.start()
        while thread.is_alive():
            thread.join(_WAIT_S)
            if not self.context.ok():
                end_children()
                self._interrupted = thread.is_alive()
                raise InterruptedTransitionError(f"{what} was interrupted")
            now_s = time.monotonic()
            if now_s - last_s >= _HEARTBEAT_S:
                last_s = now_s
                self._say_progress(f"{what} since {now_s - start_s:.0f} s: {self._progress}")
        if errors:
            raise errors[0]
        return results[0]

    def _on_progress(self, text: str) -> None:
        """Called in the thread that loads or builds."""
        self._progress = text
        self._start_up.append(str(text))
        if isinstance(text, Caution):
            self.get_logger().warning(text)
        else:
            self.get_logger().info(text)
        self._say_progress(f"starting: {text}")

    def _say_progress(self, text: str) -> None:
        self._publish([(f"{self._prefix}: pipeline", WARN, text, {})])

    def _report(self) -> None:
        """Sends the state of every sensor and of the pipeline."""
        now_s = time.monotonic()
        if self.run is not None:
            self._publish(self.run.statuses(self._prefix, now_s))
            return
        label = self._state_machine.current_state[1]
        level, text = (ERROR, f"{label}: {self.failure}") if self.failure else (OK, f"{label}: gives no results")
        self._publish([(f"{self._prefix}: pipeline", level, text, {"state": label})])

    @property
    def _prefix(self) -> str:
        return str(self.get_fully_qualified_name()).lstrip("/")

    def _publish(self, statuses: list[Status]) -> None:
        rig = self.settings.rig if self.perception is None else self.perception.rig.name
        now_ns = self.get_clock().now().nanoseconds
        self._diagnostics.publish(encode_diagnostics(self._factory, now_ns, statuses, rig))

    def built(self) -> int:
        """The end of `build_only`: 0 where the engines are what this machine can have at best, else 1."""
        assert self.perception is not None
        name, log = self.perception.engine_name, self.get_logger()
        others = [one for one in name.split(", ") if not one.startswith("tensorrt")]
        if self.settings.engine == "auto" and others and why_not("tensorrt") is None:
            log.error(f"build_only: TensorRT can run here, and was passed over (see above) for {name}")
            return 1
        log.info(f"build_only: the engines are there: {name}")
        return 0

    def shut_down(self) -> None:
        """Ends the worker and frees the engine."""
        self._release()


def give_memory_back() -> None:
    """Returns freed memory to the system: an engine's buffers are large, and malloc keeps them."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Returns the pages of the heap that nothing lies in."""
    with contextlib.suppress(OSError, AttributeError):  # another C library keeps what it keeps
        ctypes.CDLL(None).malloc_trim(0)


def start(node: FusionNode) -> int | None:
    """Brings the node to life as its settings say; an exit code if it shall end at once."""
    if node.settings.build_only:
        if node.trigger_configure() != SUCCESS:
            return _refused(node)
        return node.built()
    if not node.settings.autostart:
        node.get_logger().info("unconfigured: waits for a lifecycle manager (autostart is false)")
        return None
    if node.trigger_configure() != SUCCESS or node.trigger_activate() != SUCCESS:
        return _refused(node)
    return None


def _refused(node: FusionNode) -> int:
    if not node.context.ok():
        return 0
    node.get_logger().fatal(f"cannot start: {node.failure}")
    return 2


def main(args: list[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM, within 2 s of which it ends wherever it is.

    Returns:
        0 after a clean end, 1 if `build_only` has not built what could be built, 2 if the configuration cannot be
        used.
    """
    node: FusionNode | None = None
    code, own_end = 0, threading.Event()
    if parent := os.environ.get(PARENT_VARIABLE):
        die_with_parent(int(parent))
    try:
        check_arguments(sys.argv[1:] if args is None else args)
        rclpy.init(args=args)
        threading.Thread(target=_leave_in_time, args=(own_end,), daemon=True).start()
        node = FusionNode()
        early = start(node)
        if early is not None:
            code = early
        else:
            spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except MmPerceptionError as error:
        rclpy.logging.get_logger("fusion_node").fatal(f"cannot start: {error}")
        code = 2
    except Exception:
        if not is_ending():
            raise
    finally:
        if rclpy.ok():
            own_end.set()
        if node is not None:
            _end(node, code)
    return code


def _leave_in_time(own_end: threading.Event) -> None:
    """After a signal, ends the process wherever its other threads are; not where the node ends by itself."""
    while rclpy.ok() and not own_end.wait(_WAIT_S):
        pass
    if not own_end.is_set():
        end_within(LEAVE_WITHIN_S)


def spin(node: FusionNode) -> None:
    """Serves the node until its context ends. An error of this program's own costs one message, not the node.

    Raises:
        Exception: the error that came once too often in a row.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    errors, last_s = 0, 0.0
    while True:
        try:
            executor.spin()
            return
        except ExternalShutdownException:
            return
        except Exception as error:
            now_s = time.monotonic()
            errors, last_s = (errors + 1 if now_s - last_s < 1.0 else 1), now_s
            if is_ending():
                return
            if errors > MOST_ERRORS:
                raise
            node.get_logger().error(f"internal error {type(error).__name__}: {error}")


def is_ending() -> bool:
    """Whether the context is shut down, or will be in a moment: a signal breaks whatever call into rcl it meets."""
    deadline_s = time.monotonic() + _SIGNAL_WITHIN_S
    while rclpy.ok() and time.monotonic() < deadline_s:
        time.sleep(_WAIT_S)
    return not rclpy.ok()


def _end(node: FusionNode, code: int) -> None:
    """Frees everything; with a thread left in the middle of native code, the process ends without waiting for it."""
    try:
        node.shut_down()
        if not node.has_leftovers:
            node.destroy_node()
    finally:
        rclpy.try_shutdown()
        if node.has_leftovers:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
