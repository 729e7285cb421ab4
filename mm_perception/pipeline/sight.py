"""What the sensors of one observation could see, task by task: how far its results may be believed.

Absence of sight is not absence of obstacles. A task is

- `full`: everything that it listens to was there and showed something;
- `degraded`: something was missing or worth less, and the rest gave a result;
- `blind`: there is no result, or one that says nothing of the present.

The detector is blind without a LiDAR sweep of the last 300 ms, with the same sweep for the fourth time, or with one of
fewer than 50 returns beyond 1.5 m. Its LiDAR sight is whole where the set itself holds a sweep that is no repetition
and covers at least 90 % of the rig's `coverage_deg` with at least 30 % of the returns that the sensor gave at best of
late, most of them within the network's range; only then does "no boxes" mean that nothing was seen.

Segmentation is blind where the reference image is frozen, or shows nothing while no other modality does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mm_perception.core.rig import RigConfig
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.lidar_view import DetectorTaps
from mm_perception.sensing.health import SECTOR_DEG, Coverage, Health

Mode = Literal["full", "degraded", "blind"]
MODES: tuple[Mode, ...] = ("full", "degraded", "blind")

OLDEST_SWEEP_NS = 300_000_000
FEWEST_RETURNS = 50
WHOLE_SHARE = 0.9
THIN_SHARE = 0.3
"""Of the returns that the sensor gave at best of late; with fewer, most of what it saw then is out of sight."""
_HEALTHY = Health()


@dataclass(frozen=True, slots=True)
class TaskSight:
    """What one task could see.

    Attributes:
        blind, degraded: by a short name such as "lidar.missing", in words.
        no_boxes_means_free: detection: whether an empty result says that nothing was there.
    """

    blind: Mapping[str, str] = field(default_factory=dict)
    degraded: Mapping[str, str] = field(default_factory=dict)
    no_boxes_means_free: bool = True

    @property
    def mode(self) -> Mode:
        return "blind" if self.blind else "degraded" if self.degraded else "full"

    @property
    def reasons(self) -> dict[str, str]:
        return {**self.blind, **self.degraded}

    def also(self, degraded: Mapping[str, str]) -> TaskSight:
        """With further reasons for being degraded."""
        return replace(self, degraded={**self.degraded, **degraded})

    def failed(self, why: str) -> TaskSight:
        """Of a task that gave no result."""
        return self if self.blind else replace(self, blind={"result": why})


@dataclass(frozen=True, slots=True)
class GroundCoverage:
    """The ground round the LiDAR that a set covers.

    Attributes:
        frame_id: whose axes azimuths are counted in (0 along +x, counter-clockwise about +z).
        origin_xyz_m: the LiDAR in that frame.
        sectors: (from, to [deg], range [m]) of runs of covered sectors of 10 degrees; the range is the smallest of a
            run's, see `sensing.health.Coverage`.
    """

    frame_id: str
    origin_xyz_m: tuple[float, float, float]
    sectors: tuple[tuple[int, int, float], ...]
    covered_deg: int


@dataclass(frozen=True, slots=True)
class Sight:
    """What all tasks of one observation could see.

    Attributes:
        tasks: by "segmentation", "detection".
        coverage: None without a detector, or without a sweep.
        missing: sensors of the rig that gave no measurement.
    """

    stamp_ns: int
    tasks: Mapping[str, TaskSight]
    coverage: GroundCoverage | None = None
    missing: tuple[str, ...] = ()

    @property
    def mode(self) -> Mode:
        """The worst of the tasks'."""
        return max((task.mode for task in self.tasks.values()), key=MODES.index, default="blind")

    def with_task(self, name: str, task: TaskSight) -> Sight:
        return replace(self, tasks={**self.tasks, name: task})

    def failed(self, why: str) -> Sight:
        """Of a set that gave no result at all."""
        return replace(self, tasks={name: task.failed(why) for name, task in self.tasks.items()})

    def values(self) -> dict[str, str]:
        """All of it as text, for `codec.status`."""
        found = {"missing": ", ".join(self.missing)}
        for name, task in self.tasks.items():
            found[f"{name}.mode"] = task.mode
            found[f"{name}.blind"] = in_words(task.blind)
            found[f"{name}.degraded"] = in_words(task.degraded)
        if "detection" in self.tasks:
            task = self.tasks["detection"]
            means_free = task.no_boxes_means_free and not task.blind
            found["detection.no_boxes_means_free"] = str(means_free).lower()
        if self.coverage is not None:
            cover = self.coverage
            found |= {
                "coverage.frame_id": cover.frame_id,
                "coverage.origin_m": " ".join(f"{v:.3f}" for v in cover.origin_xyz_m),
                "coverage.covered_deg": str(cover.covered_deg),
                "coverage.sectors": "; ".join(f"{a}..{b}: {r:.0f}" for a, b, r in cover.sectors),
            }
        return found


def segmentation_sight(observation: Observation, x_sensor: str) -> TaskSight:
    """Args: x_sensor: what feeds the X input; the reference itself for networks that see RGB only."""
    bundle = observation.bundle
    reference = bundle.reference
    problem = observation.health.get(reference, _HEALTHY).problem
    if x_sensor == reference:
        return TaskSight(blind={f"{reference}.{problem}": f"the image is {problem}"} if problem else {})
    degraded = {}
    if x_sensor not in bundle.measurements:
        degraded[f"{x_sensor}.missing"] = "no measurement in the set"
    elif x_problem := observation.health.get(x_sensor, _HEALTHY).problem:
        degraded[f"{x_sensor}.{x_problem}"] = f"the measurement is {x_problem}"
    if not problem:
        return TaskSight(degraded=degraded)
    why = {f"{reference}.{problem}": f"the image is {problem}"}
    is_blind = problem == "frozen" or bool(degraded)
    return TaskSight(blind=why, degraded=degraded) if is_blind else TaskSight(degraded=why)


def detection_sight(observation: Observation, taps: DetectorTaps, rig: RigConfig) -> TaskSight:
    """By the LiDAR and the cameras' health; what else is missing, the detector says itself."""
    name, sensor = taps.lidar, rig.sensor(taps.lidar)
    view, health = observation.lidar_view, observation.health
    degraded = {
        f"{camera}.{health[camera].problem}": f"the image is {health[camera].problem}"
        for camera in taps.cameras
        if camera in health and health[camera].problem
    }
    if view is None or not view.turns:
        return TaskSight({f"{name}.missing": "no sweep"}, degraded, False)
    newest = view.turns[-1].cloud
    age_ns = observation.bundle.stamp_ns + sensor.lag_ns - newest.stamp_ns
    seen = health.get(name, _HEALTHY)
    blind: dict[str, str] = {}
    if age_ns > OLDEST_SWEEP_NS:
        blind[f"{name}.old"] = f"the newest sweep is {age_ns / 1e6:.0f} ms older than the set"
    if seen.problem:
        blind[f"{name}.{seen.problem}"] = f"the sweep is {seen.problem}"
    coverage = seen.coverage
    returns = len(newest) if coverage is None else coverage.returns
    if returns < FEWEST_RETURNS and f"{name}.empty" not in blind:
        blind[f"{name}.empty"] = f"the sweep has {returns} returns, fewer than {FEWEST_RETURNS}"
    in_set = name in observation.bundle.measurements
    if not in_set:
        degraded[f"{name}.missing"] = f"no sweep in the set; the newest is {age_ns / 1e6:.0f} ms older"
    is_thin = returns < THIN_SHARE * seen.usual_returns
    if is_thin and not blind:
        degraded[f"{name}.thin"] = f"{returns} returns; of late there were up to {seen.usual_returns}"
    if seen.repeats and not seen.problem:
        degraded[f"{name}.repeated"] = "the sweep equals the one before"
    narrow = coverage is not None and coverage.covered_deg < WHOLE_SHARE * sensor.coverage_deg
    if narrow and coverage is not None:
        degraded[f"{name}.sector"] = (
            f"returns from {coverage.covered_deg} of {sensor.coverage_deg:g} degrees; if that is all that the sensor "
            f"covers, set its coverage_deg in the rig"
        )
    return TaskSight(blind, degraded, in_set and not narrow and not blind and not seen.repeats and not is_thin)


def unseen_by_the_network(
    degraded: Mapping[str, str], lost: Mapping[str, int], points: int, lidar: str
) -> dict[str, str]:
    """What of the LiDAR's points did not reach the network, where that is more than boxes can be told without.

    Args:
        degraded, lost: of `pipeline.detection.DetectionOutcome`. points: of all its sweeps.
    """
    unseen = {what: why for what, why in degraded.items() if what.startswith("capacity.") or what == f"{lidar}.empty"}
    beyond = lost.get("out_of_range", 0)
    if 2 * beyond > points:
        unseen[f"{lidar}.range"] = f"{beyond} of {points} points lie beyond the network's range; wrong units or axes?"
    return unseen


def ground_coverage(observation: Observation, taps: DetectorTaps) -> GroundCoverage | None:
    """The covered ground in the output frame's axes; in the LiDAR's where the output frame is not known."""
    view, health = observation.lidar_view, observation.health.get(taps.lidar)
    if view is None or health is None or health.coverage is None:
        return None
    frame_id, heading_deg, origin = view.frame_id, 0.0, (0.0, 0.0, 0.0)
    if view.output_from_lidar is not None:
        moved = view.output_from_lidar
        heading_deg = math.degrees(math.atan2(moved.rotation[1, 0], moved.rotation[0, 0]))
        x, y, z = (float(v) for v in moved.translation)
        frame_id, origin = moved.dst, (x, y, z)
    return GroundCoverage(frame_id, origin, _runs(health.coverage, round(heading_deg)), health.coverage.covered_deg)


def in_words(reasons: Mapping[str, str]) -> str:
    """Reasons by their names, in one line."""
    return "; ".join(f"{what}: {why}" for what, why in reasons.items())


def _runs(coverage: Coverage, heading_deg: int) -> tuple[tuple[int, int, float], ...]:
    """Runs of covered sectors, turned by a heading; one that is cut at the end of the table is one run."""
    covered = [float(r) for r in coverage.range_m]
    if all(covered):
        return ((-180, 180, min(covered)),)
    runs: list[list[float]] = []
    first_gap = covered.index(0.0)
    for i in range(first_gap, first_gap + len(covered)):
        range_m = covered[i % len(covered)]
        if not range_m:
            continue
        start = -180 + SECTOR_DEG * i
        if runs and runs[-1][1] == start:
            runs[-1][1], runs[-1][2] = start + SECTOR_DEG, min(runs[-1][2], range_m)
        else:
            runs.append([start, start + SECTOR_DEG, range_m])
    return tuple((_wrapped(a + heading_deg), _wrapped(b + heading_deg, 180), r) for a, b, r in runs)


def _wrapped(degrees: float, top: int = 179) -> int:
    """The same direction in -180..`top`."""
    return int((degrees - top - 1) % 360 + top + 1 - 360)
