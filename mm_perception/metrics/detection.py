"""The nuScenes detection metric: average precision by distance of centres, five errors of what was found, and NDS.

Caesar et al., "nuScenes", CVPR 2020 (arXiv:1903.11027), section 3.1, with the rules of the devkit's configuration
`detection_cvpr_2019`. The devkit itself (nuscenes-devkit 1.2.0, Apache-2.0) is not used: it pins old versions of what
this package needs, and scores whole sets only. Here each frame is matched once, so that any selection of frames (a
condition, a bootstrap sample) is scored from the matches; a test holds the figures equal to the devkit's.

Differs from the devkit: bicycles and motorcycles in bicycle racks count, because racks are no input here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError

F64 = NDArray[np.float64]

RANGES_M = {
    "car": 50.0, "truck": 50.0, "bus": 50.0, "trailer": 50.0, "construction_vehicle": 50.0, "pedestrian": 40.0,
    "motorcycle": 40.0, "bicycle": 40.0, "traffic_cone": 30.0, "barrier": 30.0,
}  # fmt: skip
"""Boxes farther from the vehicle do not count."""
THRESHOLDS_M = (0.5, 1.0, 2.0, 4.0)
ERROR_THRESHOLD_M = 2.0
MIN_RECALL = MIN_PRECISION = 0.1
MOST_PER_FRAME = 500
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
_NOT_ASKED = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}
_RECALLS = np.linspace(0.0, 1.0, 101)
_FIRST = round(100 * MIN_RECALL) + 1


@dataclass(frozen=True, slots=True, eq=False)
class ScoredBoxes:
    """N boxes of one frame, truth or prediction.

    Attributes:
        centers: (N, 3) [m]. sizes_lwh: (N, 3) [m]. yaw_rad: (N,). velocity: (N, 2) [m/s], NaN where unknown.
        classes: (N,) names. scores: (N,), of predictions.
        attributes: (N,) names, "" for none.
        distance_m: (N,) from the vehicle, over the ground.
        points: (N,) LiDAR and radar returns, of truth, -1 for a box whose returns nobody counted (the devkit's own
            mark; such a box stays); None: all boxes stay.

    Raises:
        DataError: a shape does not fit, a value is not finite (a velocity may be NaN, but not infinite), a size is not
            positive, a class is unknown, or a number of points is below -1.
    """

    centers: F64
    sizes_lwh: F64
    yaw_rad: F64
    velocity: F64
    classes: NDArray[np.str_]
    scores: F64
    attributes: NDArray[np.str_]
    distance_m: F64
    points: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.centers)
        rest = {"centers": (3,), "sizes_lwh": (3,), "yaw_rad": (), "velocity": (2,), "classes": (), "scores": (),
                "attributes": (), "distance_m": ()}  # fmt: skip
        for name, shape in rest.items():
            if getattr(self, name).shape != (count, *shape):
                raise DataError(f"boxes: {name}: expected {(count, *shape)}, got {getattr(self, name).shape}")
        for name in ("centers", "sizes_lwh", "yaw_rad", "scores", "distance_m"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f"boxes: {name}: expected finite values")
        if np.isinf(self.velocity).any():
            raise DataError("boxes: velocity: expected finite values, or NaN where unknown")
        if (self.sizes_lwh <= 0).any():
            raise DataError("boxes: sizes_lwh: expected positive sizes")
        if self.points is not None and self.points.shape != (count,):
            raise DataError(f"boxes: points: expected {(count,)}, got {self.points.shape}")
        if self.points is not None and (self.points < -1).any():
            raise DataError(f"boxes: points: expected counts, or -1 where unknown, got {self.points.min()}")
        unknown = sorted(set(self.classes.tolist()) - set(RANGES_M))
        if unknown:
            raise DataError(f"boxes: unknown class {', '.join(unknown)} (known: {', '.join(RANGES_M)})")

    def take(self, rows: NDArray[np.bool_]) -> ScoredBoxes:
        """Those that `rows` (N,) marks."""
        points = None if self.points is None else self.points[rows]
        return ScoredBoxes(
            self.centers[rows], self.sizes_lwh[rows], self.yaw_rad[rows], self.velocity[rows], self.classes[rows],
            self.scores[rows], self.attributes[rows], self.distance_m[rows], points,
        )  # fmt: skip

    def counted(self) -> ScoredBoxes:
        """Those nearer than their class's range that, of truth, have a return or were not counted."""
        reach = np.array([RANGES_M[name] for name in self.classes.tolist()])
        rows = self.distance_m < reach if len(reach) else np.zeros(0, bool)
        return self.take(rows if self.points is None else rows & (self.points != 0))


@dataclass(frozen=True, slots=True, eq=False)
class DetectionScores:
    """The figures; errors are NaN for classes of which they are not asked.

    Attributes:
        mean_ap, nds: 0..1.
        label_aps: by class and distance threshold. mean_dist_aps: by class.
        label_errors: by class and error. errors: by error, the mean over classes.
    """

    mean_ap: float
    nds: float
    label_aps: dict[str, dict[float, float]]
    mean_dist_aps: dict[str, float]
    label_errors: dict[str, dict[str, float]]
    errors: dict[str, float]

    def over(self, classes: Sequence[str]) -> DetectionScores:
        """The same, with means over some of the classes."""
        return _scores({c: self.label_aps[c] for c in classes}, {c: self.label_errors[c] for c in classes})


@dataclass(slots=True, eq=False)
class _Matched:
    """One class in one frame: number of true boxes; by prediction the score, whether it is right at each threshold, and
    its errors at 2 m (NaN rows for those that are wrong)."""

    truths: int
    scores: F64
    right: NDArray[np.bool_]
    errors: F64


@dataclass(slots=True, eq=False)
class DetectionMetric:
    """Collects frames and scores any selection of them.

    Attributes:
        classes: over which means are taken.
        with_attributes: whether predictions name attributes; if not, that error is reported as NaN and counts as 1 in
            NDS, as for a detector that guesses none.

    Raises:
        DataError: a class that nuScenes does not have.
    """

    classes: tuple[str, ...] = tuple(RANGES_M)
    with_attributes: bool = True
    _frames: list[dict[str, _Matched]] = field(default_factory=list)

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in RANGES_M]
        if unknown:
            raise DataError(f"metric: unknown class {', '.join(unknown)} (known: {', '.join(RANGES_M)})")

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, truth: ScoredBoxes, predicted: ScoredBoxes) -> None:
        """Matches one frame.

        Raises:
            DataError: more than 500 predictions.
        """
        if len(predicted.centers) > MOST_PER_FRAME:
            raise DataError(f"boxes: expected at most {MOST_PER_FRAME} predictions, got {len(predicted.centers)}")
        truth, predicted = truth.counted(), predicted.counted()
        frame = {}
        for name in self.classes:
            found, there = predicted.take(predicted.classes == name), truth.take(truth.classes == name)
            frame[name] = _match(name, there, found)
        self._frames.append(frame)

    def scores(self, frame_indices: Sequence[int] | NDArray[np.integer] | None = None) -> DetectionScores:
        """The figures of all frames, or of some.

        Of equal scores the later frame's prediction goes first, as in the devkit, so the order of frames counts there.

        Args:
            frame_indices: places in the order of `add`; a place may come several times (a bootstrap sample), each time
                as a frame of its own. None: all. With no frame at all, and for a class without truth, AP is 0 and the
                errors are 1.

        Raises:
            DataError: there is no such frame.
        """
        chosen = self._frames if frame_indices is None else [self._frame(int(i)) for i in frame_indices]
        aps: dict[str, dict[float, float]] = {}
        errors: dict[str, dict[str, float]] = {}
        for name in self.classes:
            parts = [frame[name] for frame in chosen]
            aps[name], errors[name] = _score_class(parts)
            for error in (*_NOT_ASKED.get(name, ()), *(() if self.with_attributes else ("attr_err",))):
                errors[name][error] = float("nan")
        return _scores(aps, errors)

    def _frame(self, i: int) -> dict[str, _Matched]:
        if not 0 <= i < len(self._frames):
            raise DataError(f"metric: expected a frame of 0..{len(self._frames) - 1}, got {i}")
        return self._frames[i]


def matched_frames(
    pairs: Sequence[tuple[ScoredBoxes, ScoredBoxes]], classes: Sequence[str] = tuple(RANGES_M)
) -> DetectionMetric:
    """Truth and predictions of frames, over those of the classes of which some frame holds truth that counts.

    Args:
        classes: in the order in which figures shall come. Predictions name no attributes.
    """
    present = {name for truth, _ in pairs for name in truth.counted().classes.tolist()}
    metric = DetectionMetric(tuple(name for name in classes if name in present), with_attributes=False)
    for truth, predicted in pairs:
        metric.add(truth, predicted)
    return metric


def _scores(aps: dict[str, dict[float, float]], errors: dict[str, dict[str, float]]) -> DetectionScores:
    """All figures from those of the classes. An error that is not known gains nothing, as one of 1."""
    mean_dist = {name: float(np.mean(list(values.values()))) for name, values in aps.items()}
    mean_ap = float(np.mean(list(mean_dist.values()))) if mean_dist else 0.0
    means = {error: _mean_of_known([of_class[error] for of_class in errors.values()]) for error in ERRORS}
    gains = sum(max(0.0, 1.0 - value) for value in means.values() if np.isfinite(value))
    return DetectionScores(mean_ap, (5.0 * mean_ap + gains) / 10.0, aps, mean_dist, errors, means)


def _mean_of_known(values: list[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _match(name: str, truth: ScoredBoxes, found: ScoredBoxes) -> _Matched:
    """Greedy, the best score first (of equal ones the later box); each true box is found once."""
    order = np.lexsort((np.arange(len(found.scores)), found.scores))[::-1]
    distance = np.linalg.norm(found.centers[:, None, :2] - truth.centers[None, :, :2], axis=-1)
    right = np.zeros((len(order), len(THRESHOLDS_M)), bool)
    errors = np.full((len(order), len(ERRORS)), np.nan)
    for column, threshold in enumerate(THRESHOLDS_M):
        free = np.ones(len(truth.centers), bool)
        for rank, i in enumerate(order):
            if not free.any():
                break
            j = int(np.argmin(np.where(free, distance[i], np.inf)))
            if distance[i, j] < threshold:
                free[j], right[rank, column] = False, True
                if threshold == ERROR_THRESHOLD_M:
                    errors[rank] = _errors(name, truth, j, found, int(i))
    return _Matched(len(truth.centers), found.scores[order], right, errors)


def _errors(name: str, truth: ScoredBoxes, j: int, found: ScoredBoxes, i: int) -> F64:
    a, b = truth.sizes_lwh[j], found.sizes_lwh[i]
    shared = float(np.minimum(a, b).prod())
    period = np.pi if name == "barrier" else 2 * np.pi
    turned = (truth.yaw_rad[j] - found.yaw_rad[i] + period / 2) % period - period / 2
    attribute = truth.attributes[j]
    wrong = float("nan") if attribute == "" else float(attribute != found.attributes[i])
    return np.array([
        np.linalg.norm(truth.centers[j, :2] - found.centers[i, :2]),
        1.0 - shared / (float(a.prod()) + float(b.prod()) - shared),
        abs(turned - 2 * np.pi if turned > np.pi else turned),
        np.linalg.norm(truth.velocity[j] - found.velocity[i]),
        wrong,
    ])  # fmt: skip


def _score_class(parts: list[_Matched]) -> tuple[dict[float, float], dict[str, float]]:
    """Average precision by threshold, and the errors, of one class over several frames."""
    worst = dict.fromkeys(ERRORS, 1.0)
    truths = sum(part.truths for part in parts)
    scores = np.concatenate([part.scores for part in parts]) if parts else np.zeros(0)
    if truths == 0 or len(scores) == 0:
        return dict.fromkeys(THRESHOLDS_M, 0.0), worst
    # Within a frame the order is that of the matching; of equal scores the later frame goes first.
    position = np.concatenate([np.arange(len(part.scores))[::-1] for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])
    order = np.lexsort((position, owner, scores))[::-1]
    scores = scores[order]
    right = np.concatenate([part.right for part in parts])[order]
    aps, errors = {}, worst
    for column, threshold in enumerate(THRESHOLDS_M):
        precision, confidence = _curve(right[:, column], scores, truths)
        aps[threshold] = _average_precision(precision) if right[:, column].any() else 0.0
        if threshold == ERROR_THRESHOLD_M and right[:, column].any():
            rows = np.concatenate([part.errors for part in parts])[order][right[:, column]]
            errors = _average_errors(rows, scores[right[:, column]], confidence)
    return aps, errors


def _curve(right: NDArray[np.bool_], scores: F64, truths: int) -> tuple[F64, F64]:
    """Precision and score at 101 recalls; 0 beyond the largest recall."""
    hits = np.cumsum(right).astype(np.float64)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / truths
    return (
        np.asarray(np.interp(_RECALLS, recall, precision, right=0)),
        np.asarray(np.interp(_RECALLS, recall, scores, right=0)),
    )


def _average_precision(precision: F64) -> float:
    return float(np.mean(np.maximum(precision[_FIRST:] - MIN_PRECISION, 0.0))) / (1.0 - MIN_PRECISION)


def _average_errors(rows: F64, scores: F64, confidence: F64) -> dict[str, float]:
    """Running means of (M, 5) errors, averaged from a recall of 0.1 to the largest."""
    reached = np.nonzero(confidence)[0]
    last = int(reached[-1]) if len(reached) else 0
    out = {}
    for column, name in enumerate(ERRORS):
        running = _running_mean(rows[:, column])
        at_recall = np.interp(confidence[::-1], scores[::-1], running[::-1])[::-1]
        out[name] = 1.0 if last < _FIRST else float(np.mean(at_recall[_FIRST : last + 1]))
    return out


def _running_mean(values: F64) -> F64:
    """Means of the known ones so far; 0 before the first, 1 everywhere where none is known."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    count = np.cumsum(known)
    return np.asarray(np.divide(np.nancumsum(values), count, out=np.zeros(len(values)), where=count > 0))
