"""More sets than a machine can infer: how old results get, what is passed over, and whether memory grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm_perception.core.errors import EngineError
from mm_perception.core.rig import RigConfig
from mm_perception.ros.listener import Listener
from mm_perception.ros.live_vehicle import LiveVehicle
from mm_perception.ros.messages import message_class
from mm_perception.ros.node_process import NodeProcess
from mm_perception.ros.process_watch import usage
from mm_perception.ros.qos import output_qos
from mm_perception.ros.soak_judge import slope_per_min
from mm_perception.sim.drive_loop import DriveLoop

READY_WITHIN_S = 300.0
_STAGES = ("preprocess", "inference", "postprocess", "publish")


@dataclass(frozen=True, slots=True)
class OverloadFigures:
    """What a node did with the sets of a live vehicle.

    Attributes:
        offered_hz, inferred_hz: sets per second. superseded: sets that a newer one replaced.
        inference_ms: median of all that one set takes: inputs, networks, publishing.
        age_median_ms, age_p95_ms: from the reference's stamp to the published result.
        rss_mb_per_min: slope of the node's resident set.
    """

    offered_hz: float
    inferred_hz: float
    superseded: int
    inference_ms: float
    age_median_ms: float
    age_p95_ms: float
    rss_mb_per_min: float

    @property
    def bound_ms(self) -> float:
        """Two inference times and one period."""
        return 2 * self.inference_ms + 1e3 / self.offered_hz


def measure_overload(
    rig: RigConfig,
    parameters: Mapping[str, str],
    loop: DriveLoop,
    rate_hz: float,
    seconds: float,
    log_path: Path,
    on_progress: Callable[[str], None],
) -> OverloadFigures:
    """Lets a simulated vehicle drive before a node for a while.

    Args:
        rate_hz: of the reference in `loop`.

    Raises:
        EngineError: the node was not ready in time, or ended.
    """
    listener = Listener("overload")
    node, executor = listener.node, listener.executor
    values: dict[str, str] = {}

    def take(msg: Any) -> None:
        for status in msg.status:
            if status.name.endswith(": pipeline"):
                values.update({item.key: item.value for item in status.values})

    node.create_subscription(message_class("diagnostic_msgs/msg/DiagnosticArray"), "/diagnostics", take, output_qos())
    vehicle = LiveVehicle(node, rig, loop)
    process = NodeProcess(parameters, log_path)

    def drive_until(is_over: Callable[[], bool]) -> None:
        while not is_over():
            executor.spin_once(timeout_sec=min(vehicle.send_due(), 0.02))
            if process.poll() is not None:
                raise EngineError(f"the fusion node ended with code {process.returncode}:\n{process.log_tail()}")

    try:
        deadline_s = time.monotonic() + READY_WITHIN_S
        drive_until(lambda: not vehicle.unmatched() or time.monotonic() > deadline_s)
        if vehicle.unmatched():
            raise EngineError(f"the node was not ready within {READY_WITHIN_S:.0f} s:\n{process.log_tail()}")
        on_progress(f"driving for {seconds:.0f} s at {rate_hz:g} sets per second")
        drive_until(lambda: int(values.get("published", 0)) > 5)
        before, start_s = dict(values), time.monotonic()
        memory: list[tuple[float, float]] = []

        def is_over() -> bool:
            now_s = time.monotonic() - start_s
            if (not memory or now_s - memory[-1][0] >= 1.0) and (one := usage(process.pid, now_s)) is not None:
                memory.append((now_s, one.rss_mb))
            return now_s >= seconds

        drive_until(is_over)
        return _figures(before, values, memory, rate_hz, time.monotonic() - start_s)
    finally:
        process.stop()
        listener.close()


def _figures(
    before: Mapping[str, str],
    after: Mapping[str, str],
    memory: list[tuple[float, float]],
    rate_hz: float,
    seconds: float,
) -> OverloadFigures:
    def gained(name: str) -> int:
        return int(after.get(name, 0)) - int(before.get(name, 0))

    times_s, rss_mb = zip(*memory, strict=True)
    stages = {key.removesuffix(".median_ms"): float(v) for key, v in after.items() if key.endswith(".median_ms")}
    return OverloadFigures(
        offered_hz=rate_hz,
        inferred_hz=gained("published") / seconds,
        superseded=gained("dropped.superseded"),
        inference_ms=sum(ms for stage, ms in stages.items() if stage.removeprefix("detection.") in _STAGES),
        age_median_ms=stages["age"],
        age_p95_ms=float(after["age.p95_ms"]),
        rss_mb_per_min=slope_per_min(times_s, rss_mb),
    )
