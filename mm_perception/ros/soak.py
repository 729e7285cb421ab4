"""A live node, a simulated vehicle and faults, for as long as it takes to trust the node."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from mm_perception.codec.fields import NANOSECONDS
from mm_perception.codec.status import decode_perception_status
from mm_perception.core.errors import EngineError
from mm_perception.core.rig import RigConfig
from mm_perception.ros.listener import Listener
from mm_perception.ros.live_vehicle import LiveVehicle
from mm_perception.ros.messages import message_class
from mm_perception.ros.node_process import NodeProcess
from mm_perception.ros.player import header_stamp_ns
from mm_perception.ros.process_watch import Usage, usage
from mm_perception.ros.qos import output_qos
from mm_perception.ros.soak_judge import (
    HARMLESS,
    RECOVERED_WITHIN_S,
    USUAL_S,
    Snapshot,
    Verdict,
    groups,
    judge,
    seen_values,
)
from mm_perception.sim.drive_loop import DriveLoop
from mm_perception.sim.faults import Fault

READY_WITHIN_S = 300.0
SETTLED_WITHIN_S = 300.0
SETTLE_S = 15.0
"""After the node is active, before the first fault: expected rates are learned of 20 messages."""
PAUSE_S = 6.0
"""Between faults; a second longer than recovery may take."""
_HISTORY_S = 120.0
_BASE = "/fusion_node/output"
_VISIT_S = 0.5
_VISITED = {
    "segmentation_overlay": "sensor_msgs/msg/Image",
    "detection_overlay": "sensor_msgs/msg/Image",
    "detections": "vision_msgs/msg/Detection3DArray",
    "detection_markers": "visualization_msgs/msg/MarkerArray",
    "segmentation": "sensor_msgs/msg/Image",
}


@dataclass(slots=True)
class BlindWatch:
    """Empty lists of boxes, against what the node says of its sight and what the LiDAR really gave.

    Attributes:
        modes: of detection by stamp, as the node said.
        empties: stamps of empty lists. lists: of how many.
        blinded_ns: (from, to) in which the LiDAR really shows nothing.
    """

    modes: dict[int, str] = field(default_factory=dict)
    empties: list[int] = field(default_factory=list)
    lists: int = 0
    blinded_ns: list[tuple[int, int]] = field(default_factory=list)

    def violations(self) -> list[int]:
        """Stamps of empty lists of a blind detector, or of one that does not say what it saw."""
        return [
            stamp_ns
            for stamp_ns in self.empties
            if self.modes.get(stamp_ns, "blind") == "blind" or any(a <= stamp_ns < b for a, b in self.blinded_ns)
        ]


@dataclass(slots=True)
class SessionReport:
    """What one node lived through.

    Attributes:
        verdicts: of all faults that were over in time.
        usage: once a second, from the first fault on.
        alarms: what was not OK while there was no fault and none just before, by time.
        settled_s: how long it took until all levels were OK.
        violations: of `BlindWatch`.
        results: messages by output.
        internal_errors: log lines that name an error of the program.
        exit_code: None: it had ended before it was stopped.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)
    alarms: list[tuple[float, str]] = field(default_factory=list)
    settled_s: float = 0.0
    violations: int = 0
    results: dict[str, int] = field(default_factory=dict)
    internal_errors: list[str] = field(default_factory=list)
    exit_code: int | None = None
    crashed: bool = False


class SoakSession:
    """One node's life among faults."""

    def __init__(
        self, rig: RigConfig, parameters: Mapping[str, str], loop: DriveLoop, log_path: Path, with_clock: bool = False
    ) -> None:
        """Args:
        parameters: of the node; `use_sim_time` is set where there is a clock.
        with_clock: the vehicle drives /clock, and the node lives by it.
        """
        self.report = SessionReport()
        self._rig = rig
        self._history: deque[Snapshot] = deque(maxlen=5000)
        self._blind = BlindWatch()
        self._start_s: float | None = None
        self._listener = Listener("soak")
        self._node, self._executor = self._listener.node, self._listener.executor
        self._visitor = self._listener.add_node("visitor")
        self._visits: list[Any] = []
        self._next_visit_s = 0.0
        self._vehicle = LiveVehicle(self._node, rig, loop, with_clock)
        self._subscribe()
        self._process = NodeProcess(dict(parameters) | ({"use_sim_time": "true"} if with_clock else {}), log_path)

    def __enter__(self) -> SoakSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def settle(self, on_progress: Callable[[str], None]) -> None:
        """Waits for the node, drives, and waits until all levels are OK.

        Raises:
            EngineError: they do not become so in time, or the node ended.
        """
        self._wait(lambda: not self._vehicle.unmatched(), READY_WITHIN_S, "the node is not active", on_progress)
        on_progress("the node is active: driving without faults")
        start_s = time.monotonic()

        def is_settled() -> bool:
            recent = [one for one in self._history if time.monotonic() - one.at_s < 2.0]
            return time.monotonic() - start_s > SETTLE_S and bool(recent) and all(one.is_ok for one in recent)

        self._wait(is_settled, SETTLED_WITHIN_S, "not all levels are OK without any fault", on_progress)
        self.report.settled_s = time.monotonic() - start_s

    def run(
        self,
        seconds: float,
        faults: Sequence[Fault],
        on_verdict: Callable[[Verdict], None],
        blinding: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Lets the faults happen; the node ended before its time if `report.crashed`.

        Args:
            seconds: how long all of it takes.
            faults: their times count from now.
            on_verdict: is told each.
            blinding: (from, to [s]) in which the LiDAR gives nothing that shows the present.
        """
        start_s, start_ns = time.monotonic(), self._vehicle.now_ns()
        self._start_s = start_s
        self._history.clear()  # it was timed otherwise
        self._blind.blinded_ns = [
            (start_ns + round(a * NANOSECONDS), start_ns + round(b * NANOSECONDS)) for a, b in blinding
        ]
        self._vehicle.befall(faults, start_ns)
        waiting = groups(faults)
        calm = _calm_spans(faults, seconds)
        next_usage_s = 0.0
        while (now_s := time.monotonic() - start_s) < seconds:
            self._drive()
            if self._process.poll() is not None:
                self.report.crashed = True
                return
            if now_s >= next_usage_s:
                next_usage_s = now_s + 1.0
                if (one := usage(self._process.pid, now_s)) is not None:
                    self.report.usage.append(one)
            visited = any(f.kind == HARMLESS and f.start_s <= now_s < f.end_s for f in faults)
            self._visit(now_s, visited)
            while waiting and now_s >= self._due_s(waiting, seconds):
                self._judge(waiting.pop(0), now_s, on_verdict)
        for group in waiting:
            self._judge(group, seconds, on_verdict)
        self._note_alarms(calm)

    def stop(self) -> None:
        """Ends the node and notes what it left."""
        if not self._listener.context.ok():
            return
        ended = self._process.poll()
        self.report.exit_code = self._process.stop()
        self.report.crashed = self.report.crashed or ended is not None
        self.report.violations = len(self._blind.violations())
        lines = self._process.log_lines()
        self.report.internal_errors = [one for one in lines if "internal error" in one or "Traceback" in one]
        self._listener.close()

    def _drive(self) -> None:
        wait_s = self._vehicle.send_due()
        self._executor.spin_once(timeout_sec=min(wait_s, 0.02))

    def _wait(
        self, is_over: Callable[[], bool], timeout_s: float, problem: str, on_progress: Callable[[str], None]
    ) -> None:
        until_s, said = time.monotonic() + timeout_s, ""
        while not is_over():
            self._drive()
            if self._process.poll() is not None:
                raise EngineError(f"the fusion node ended with code {self._process.returncode}:\n{self._tail()}")
            if time.monotonic() > until_s:
                last = self._history[-1].troubles() if self._history else {"/diagnostics": "nothing came"}
                words = "\n".join(f"{name}: {text}" for name, text in last.items())
                raise EngineError(f"after {timeout_s:.0f} s {problem}:\n{words}\n{self._tail()}")
            if not self._history and (line := self._process.log_tail(1)) != said:
                said = line
                on_progress(line)

    def _tail(self) -> str:
        return self._process.log_tail()

    def _subscribe(self) -> None:
        create = self._node.create_subscription
        create(message_class("diagnostic_msgs/msg/DiagnosticArray"), "/diagnostics", self._diagnose, output_qos())
        status = message_class("diagnostic_msgs/msg/DiagnosticStatus")
        create(status, f"{_BASE}/perception_status", self._see, output_qos())
        boxes = message_class("vision_msgs/msg/Detection3DArray")
        create(boxes, f"{_BASE}/detections", self._take_boxes, output_qos())
        image = message_class("sensor_msgs/msg/Image")
        create(image, f"{_BASE}/segmentation", lambda _: self._count("segmentation"), output_qos())

    def _diagnose(self, msg: Any) -> None:
        now_s = time.monotonic() - (self._start_s or 0.0)
        statuses = {
            one.name.split(": ", 1)[-1]: seen_values(
                int.from_bytes(one.level, "little"), one.message, {item.key: item.value for item in one.values}
            )
            for one in msg.status
            if one.name.startswith("fusion_node: ")
        }
        if statuses:
            self._history.append(Snapshot(now_s, statuses))

    def _see(self, msg: Any) -> None:
        stamp_ns, values = decode_perception_status(msg)
        self._blind.modes[stamp_ns] = values.get("detection.mode", "")
        self._count("perception_status")

    def _take_boxes(self, msg: Any) -> None:
        self._count("detections")
        self._blind.lists += 1
        if not msg.detections:
            self._blind.empties.append(header_stamp_ns(msg))

    def _count(self, output: str) -> None:
        self.report.results[output] = self.report.results.get(output, 0) + 1

    def _visit(self, now_s: float, is_on: bool) -> None:
        """Subscribers that come and go: all outputs are subscribed, and left again, twice a second."""
        if now_s < self._next_visit_s or not (is_on or self._visits):
            return
        self._next_visit_s = now_s + _VISIT_S
        if self._visits or not is_on:
            for one in self._visits:
                self._visitor.destroy_subscription(one)
            self._visits = []
            return
        for output, kind in _VISITED.items():
            topic = f"{_BASE}/{output}"
            self._visits.append(
                self._visitor.create_subscription(message_class(kind), topic, lambda _: None, output_qos())
            )

    def _due_s(self, waiting: list[list[Fault]], seconds: float) -> float:
        """When a group can be judged: just before the next one starts."""
        return waiting[1][0].start_s if len(waiting) > 1 else seconds

    def _judge(self, group: list[Fault], now_s: float, on_verdict: Callable[[Verdict], None]) -> None:
        since_s = group[0].start_s - USUAL_S - 1.0
        history = [one for one in self._history if since_s <= one.at_s <= now_s]
        for verdict in judge(group, history):
            self.report.verdicts.append(verdict)
            on_verdict(verdict)

    def _note_alarms(self, calm: list[tuple[float, float]]) -> None:
        for one in self._history:
            if not one.is_ok and any(a <= one.at_s < b for a, b in calm):
                self.report.alarms.append((one.at_s, "; ".join(f"{n}: {t}" for n, t in one.troubles().items())))


def _calm_spans(faults: Sequence[Fault], seconds: float) -> list[tuple[float, float]]:
    """(from, to) without a fault, and without one within what recovery may take."""
    spans, at_s = [], 0.0
    for group in groups(faults):
        spans.append((at_s, group[0].start_s))
        at_s = max(one.end_s for one in group) + RECOVERED_WITHIN_S
    return [*spans, (at_s, seconds)]


def blinding_spans(faults: Sequence[Fault], lidar: str, period_s: float) -> list[tuple[float, float]]:
    """(from, to [s]) in which a LiDAR shows nothing of the present, by what is done to it."""
    kinds = ("die", "freeze", "empty", "cut", "no_stamp")
    return [(f.start_s + 2 * period_s, f.end_s) for f in faults if f.target == lidar and f.kind in kinds]
