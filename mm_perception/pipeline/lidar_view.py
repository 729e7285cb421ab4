"""What a detector needs of space at a bundle's stamp: the last LiDAR turns, and where LiDAR and cameras were."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from mm_perception.core.errors import CalibrationError
from mm_perception.core.rig import RigConfig
from mm_perception.core.types import Measurement, PointCloud, SensorBundle
from mm_perception.geometry.sweeps import Turn, turn_end_ns
from mm_perception.geometry.transforms import RigidTransform, TransformTree

LONGEST_AGE_NS = 1_000_000_000
_SLACK = 4  # turns that may have come after the one that belongs to a bundle


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
        turns_left_out: turns whose poses are not known.
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
        self._clouds: deque[PointCloud] = deque(maxlen=taps.turns + _SLACK)

    def add(self, cloud: PointCloud) -> None:
        """Takes a turn. After a jump back in time, what was known belongs to another time and is forgotten."""
        if self._clouds and cloud.stamp_ns <= self._clouds[-1].stamp_ns:
            if cloud.stamp_ns == self._clouds[-1].stamp_ns:
                return  # sent twice
            self._clouds.clear()
        self._clouds.append(cloud)

    def view(self, bundle: SensorBundle, tree: TransformTree) -> LidarView | None:
        """None if no turn has come yet."""
        newest = bundle.measurements.get(self.taps.lidar)
        clouds = self._usable(newest if isinstance(newest, PointCloud) else None, bundle.stamp_ns)
        if not self._clouds:
            return None
        frame, stamp_ns = self._clouds[-1].frame_id, bundle.stamp_ns
        problems: dict[str, str] = {}

        lidar_from_fixed = None
        if self._fixed:
            lidar_from_fixed = _looked_up(tree, frame, self._fixed, stamp_ns, "motion", problems)
        turns, left_out = self._turns(clouds, tree, lidar_from_fixed, problems)
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
        return LidarView(frame, turns, still, cameras, output, problems, left_out)

    def _usable(self, newest: PointCloud | None, stamp_ns: int) -> list[PointCloud]:
        """Turns up to the one that was matched to the bundle, none much older than the bundle."""
        last_ns = stamp_ns if newest is None else newest.stamp_ns
        young = [c for c in self._clouds if c.stamp_ns <= last_ns and stamp_ns - c.stamp_ns <= LONGEST_AGE_NS]
        return young[-self.taps.turns :]

    def _between(
        self, tree: TransformTree, camera: Measurement, lidar_frame: str, stamp_ns: int, moves: bool
    ) -> RigidTransform:
        """Camera at its own stamp from the LiDAR at the bundle's; without a known motion, as if there was none."""
        if moves:
            return tree.lookup_between(camera.frame_id, camera.stamp_ns, lidar_frame, stamp_ns, self._fixed)
        return tree.lookup(camera.frame_id, lidar_frame, stamp_ns)

    def _turns(
        self,
        clouds: list[PointCloud],
        tree: TransformTree,
        lidar_from_fixed: RigidTransform | None,
        problems: dict[str, str],
    ) -> tuple[tuple[Turn, ...], int]:
        """Turns with their poses; without a known motion the newest alone, as it is."""
        if lidar_from_fixed is None:
            return tuple(_unmoved(cloud) for cloud in clouds[-1:]), max(0, len(clouds) - 1)
        turns: list[Turn] = []
        for cloud in clouds:
            try:
                turns.append(self._turn(cloud, tree))
            except CalibrationError as error:
                if cloud is clouds[-1]:
                    problems["motion"] = str(error)
        if clouds and "motion" in problems:
            still = lidar_from_fixed.inverse()
            turns.append(Turn(clouds[-1], still, still, clouds[-1].stamp_ns))
        return tuple(turns), len(clouds) - len(turns)

    def _turn(self, cloud: PointCloud, tree: TransformTree) -> Turn:
        end_ns = turn_end_ns(cloud)
        first = tree.lookup(self._fixed, cloud.frame_id, cloud.stamp_ns)
        last = first if end_ns == cloud.stamp_ns else tree.lookup(self._fixed, cloud.frame_id, end_ns)
        return Turn(cloud, first, last, end_ns)


def _looked_up(
    tree: TransformTree, dst: str, src: str, stamp_ns: int, what: str, problems: dict[str, str]
) -> RigidTransform | None:
    try:
        return tree.lookup(dst, src, stamp_ns)
    except CalibrationError as error:
        problems[what] = str(error)
        return None


def _unmoved(cloud: PointCloud) -> Turn:
    here = RigidTransform.identity(cloud.frame_id)
    return Turn(cloud, here, here, cloud.stamp_ns)
