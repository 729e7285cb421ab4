"""What a detector needs of space at a bundle's stamp: the last LiDAR turns, and where LiDAR and cameras were."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass

from mm_perception.core.errors import CalibrationError
from mm_perception.core.rig import RigConfig
from mm_perception.core.types import Measurement, PointCloud, SensorBundle
from mm_perception.geometry.sweeps import Turn, turn_span_ns
from mm_perception.geometry.transform_tree import Transforms
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sync.synchronizer import JUMP_NS

LONGEST_AGE_NS = 1_000_000_000
MOST_TURNS = 100


@dataclass(frozen=True, slots=True)
class DetectorTaps:
    """Which sensors of a rig a detector listens to.

    Attributes:
        cameras: names, in the order of the network's views.
        turns: LiDAR turns that are taken together.
        output_frame: frame of the boxes; empty: the LiDAR's.
    """

    lidar: str
    cameras: tuple[str, ...]
    turns: int
    output_frame: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class LidarView:
    """The LiDAR at a bundle's stamp.

    Attributes:
        frame_id: of the LiDAR.
        turns: the last ones, the oldest first.
        lidar_from_fixed: at the bundle's stamp.
        camera_from_lidar: by camera, from the LiDAR at the bundle's stamp to the camera at its own stamp.
        output_from_lidar: at the bundle's stamp; None where it is not known.
        problems: what is not known, by sensor name or "output": each costs a camera, the motion or the result.
        turns_left_out: turns that are lacking: they did not come, or their poses are not known.
    """

    frame_id: str
    turns: tuple[Turn, ...]
    lidar_from_fixed: RigidTransform
    camera_from_lidar: Mapping[str, RigidTransform]
    output_from_lidar: RigidTransform | None
    problems: Mapping[str, str]
    turns_left_out: int = 0


class LidarTap:
    """Keeps the last turns and gives views of them."""

    def __init__(self, rig: RigConfig, taps: DetectorTaps) -> None:
        self.taps = taps
        self._fixed = rig.fixed_frame
        # A bundle may wait for sensors and then for transforms, while younger turns come.
        self._keep_ns = LONGEST_AGE_NS + round(2 * rig.max_wait_ms * 1e6)
        self._clouds: list[PointCloud] = []  # by stamp
        self._turns_of: dict[int, Turn] = {}  # by stamp, of clouds whose poses were found
        self._seen = 0

    def add(self, cloud: PointCloud) -> None:
        """Takes a turn; one that was sent twice is left out.

        After a jump back in time, what was known belongs to another time and is forgotten.
        """
        stamps = [one.stamp_ns for one in self._clouds]
        if stamps and cloud.stamp_ns < stamps[-1] - JUMP_NS:
            self._clouds, self._turns_of, self._seen, stamps = [], {}, 0, []
        i = bisect.bisect_left(stamps, cloud.stamp_ns)
        if i < len(stamps) and stamps[i] == cloud.stamp_ns:
            return
        self._clouds.insert(i, cloud)
        self._seen += 1
        oldest_ns = self._clouds[-1].stamp_ns - self._keep_ns
        self._clouds = [one for one in self._clouds if one.stamp_ns >= oldest_ns][-MOST_TURNS:]
        kept = {one.stamp_ns for one in self._clouds}
        self._turns_of = {stamp_ns: turn for stamp_ns, turn in self._turns_of.items() if stamp_ns in kept}

    def view(self, bundle: SensorBundle, tree: Transforms) -> LidarView | None:
        """None if no turn has come yet."""
        newest = bundle.measurements.get(self.taps.lidar)
        clouds = self._usable(newest if isinstance(newest, PointCloud) else None, bundle.stamp_ns)
        if not self._clouds and not clouds:
            return None
        frame, stamp_ns = (clouds or self._clouds)[-1].frame_id, bundle.stamp_ns
        problems: dict[str, str] = {}
        lidar_from_fixed = None
        if self._fixed:
            lidar_from_fixed = _looked_up(tree, frame, self._fixed, stamp_ns, "motion", problems)
        turns = self._turns(clouds, tree, lidar_from_fixed, problems)
        cameras: dict[str, RigidTransform] = {}
        for name in self.taps.cameras:
            measurement = bundle.measurements.get(name)
            if measurement is None:
                continue
            try:
                cameras[name] = self._between(tree, measurement, frame, stamp_ns, lidar_from_fixed is not None)
            except CalibrationError as error:
                problems[name] = str(error)
        output = _looked_up(tree, self.taps.output_frame or frame, frame, stamp_ns, "output", problems)
        still = lidar_from_fixed or RigidTransform.identity(frame)
        # Younger turns may have come while the bundle waited: they are none that it lacks.
        last_ns = clouds[-1].stamp_ns if clouds else stamp_ns
        younger = sum(one.stamp_ns > last_ns for one in self._clouds)
        expected = min(self.taps.turns, self._seen - younger)
        return LidarView(frame, turns, still, cameras, output, problems, max(0, expected - len(turns)))

    def _usable(self, newest: PointCloud | None, stamp_ns: int) -> list[PointCloud]:
        """Turns up to the one that was matched to the bundle, none much older than the bundle."""
        last_ns = stamp_ns if newest is None else newest.stamp_ns
        young = [c for c in self._clouds if c.stamp_ns <= last_ns and stamp_ns - c.stamp_ns <= LONGEST_AGE_NS]
        if newest is not None and (not young or young[-1].stamp_ns != last_ns):
            young.append(newest)
        return young[-self.taps.turns :]

    def _between(
        self, tree: Transforms, camera: Measurement, lidar_frame: str, stamp_ns: int, moves: bool
    ) -> RigidTransform:
        """Camera at its own stamp from the LiDAR at the bundle's; without a known motion, as if there was none."""
        if moves:
            return tree.lookup_between(camera.frame_id, camera.stamp_ns, lidar_frame, stamp_ns, self._fixed)
        return tree.lookup(camera.frame_id, lidar_frame, stamp_ns)

    def _turns(
        self,
        clouds: list[PointCloud],
        tree: Transforms,
        lidar_from_fixed: RigidTransform | None,
        problems: dict[str, str],
    ) -> tuple[Turn, ...]:
        """Turns with their poses; without a known motion the newest alone, as it is."""
        turns: list[Turn] = []
        for cloud in clouds if lidar_from_fixed is not None else ():
            try:
                turns.append(self._turn(cloud, tree))
            except CalibrationError as error:
                if cloud is clouds[-1]:
                    problems["motion"] = str(error)
        if clouds and (lidar_from_fixed is None or "motion" in problems):
            cloud = clouds[-1]
            here = RigidTransform.identity(cloud.frame_id) if lidar_from_fixed is None else lidar_from_fixed.inverse()
            turns.append(Turn(cloud, here, here, cloud.stamp_ns, cloud.stamp_ns))
        return tuple(turns)

    def _turn(self, cloud: PointCloud, tree: Transforms) -> Turn:
        """Raises CalibrationError if a pose is not known. A pose that was found once stays."""
        if cloud.stamp_ns not in self._turns_of:
            start_ns, end_ns = turn_span_ns(cloud)
            first = tree.lookup(self._fixed, cloud.frame_id, start_ns)
            last = first if end_ns == start_ns else tree.lookup(self._fixed, cloud.frame_id, end_ns)
            self._turns_of[cloud.stamp_ns] = Turn(cloud, first, last, start_ns, end_ns)
        return self._turns_of[cloud.stamp_ns]


def _looked_up(
    tree: Transforms, dst: str, src: str, stamp_ns: int, what: str, problems: dict[str, str]
) -> RigidTransform | None:
    try:
        return tree.lookup(dst, src, stamp_ns)
    except CalibrationError as error:
        problems[what] = str(error)
        return None
