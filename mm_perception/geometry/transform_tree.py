"""The tree of frames that TF messages build (REP 105)."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mm_perception.core.errors import CalibrationError
from mm_perception.geometry.transforms import RigidTransform, angle_between, interpolate

MOST_FRAMES = 1000
"""A vehicle has tens of frames; more than this come from a sender that makes up new names."""
LONGEST_NAME = 256
MOST_SAMPLES, MOST_IN_ALL = 4_000, 200_000
"""Of one link (10 s at 400 Hz) and of all together; beyond that a link forgets its oldest for each new one."""
LONGEST_GAP_NS = 1_000_000_000
"""Between two samples of a link that are interpolated over: poses come at 2 Hz (nuScenes' keyframes) and more often."""
BELIEVED = 3
"""So many samples in a row that are further ahead are taken for a jump of time, fewer for wrong stamps."""


_SHOWN = 20
NAMELESS = "messages of one of the two name no frame: set frame_id of the sensor in the rig"
SAME_M, SAME_RAD = 1e-3, 2e-3
"""Two senders of one static transform round it differently."""


class NotYetKnownError(CalibrationError):
    """A transform that is not known by now, and that later messages may tell.

    Attributes:
        dst, src: what was looked for.
        newest_ns: stamp of the newest sample of the link that ends too early; None: the frames are not connected.
    """

    def __init__(self, text: str, dst: str, src: str, newest_ns: int | None) -> None:
        super().__init__(text)
        self.dst, self.src, self.newest_ns = dst, src, newest_ns


class Transforms(Protocol):
    """What can be asked for transforms; see `TransformTree`."""

    def lookup(self, dst: str, src: str, stamp_ns: int) -> RigidTransform: ...

    def lookup_between(
        self, dst: str, dst_stamp_ns: int, src: str, src_stamp_ns: int, fixed: str
    ) -> RigidTransform: ...


@dataclass(slots=True)
class _Edge:
    """The transforms parent <- child of one child frame over time, or one for all times.

    Attributes:
        stamps_ns, transforms: samples, in the order of their stamps.
        ahead: by stamp, the last samples to come, all stamped more than `LONGEST_GAP_NS` after the others. They are
            used at their very stamps alone, and push nothing out: the stamps may be wrong.
        rival, rivals: another parent that is named instead, and how often in a row.
    """

    parent: str
    static: RigidTransform | None = None
    stamps_ns: list[int] = field(default_factory=list)
    transforms: list[RigidTransform] = field(default_factory=list)
    ahead: dict[int, RigidTransform] = field(default_factory=dict)
    rival: str = ""
    rivals: int = 0

    def yields_to(self, parent: str, stamp_ns: int) -> bool:
        """Whether a moving link to another parent takes the place of this one: when this one has ended."""
        self.rivals = self.rivals + 1 if self.rival == parent else 1
        self.rival = parent
        return self.rivals >= BELIEVED and stamp_ns > self.stamps_ns[-1] + LONGEST_GAP_NS

    def add(self, transform: RigidTransform, stamp_ns: int, most: int) -> None:
        """Stores a sample. One that is far ahead of all others waits in `ahead` until others confirm it."""
        self.rival, self.rivals = "", 0
        if len(self.stamps_ns) == 1 and stamp_ns < self.stamps_ns[0] - LONGEST_GAP_NS:
            self._clear()  # one of the two has a wrong stamp, and the newer sample is the better guess
        if self.stamps_ns and stamp_ns > self.stamps_ns[-1] + LONGEST_GAP_NS:
            if any(stamp_ns <= before for before in self.ahead):
                self.ahead.clear()
            self.ahead[stamp_ns] = transform
            if len(self.ahead) < BELIEVED:
                return
            confirmed, self.ahead = self.ahead, {}
        else:
            confirmed = {stamp_ns: transform}
            self.ahead.clear()
        for when_ns, one in confirmed.items():
            i = bisect.bisect_left(self.stamps_ns, when_ns)
            if i < len(self.stamps_ns) and self.stamps_ns[i] == when_ns:
                self.transforms[i] = one
            else:
                self.stamps_ns.insert(i, when_ns)
                self.transforms.insert(i, one)
        self._drop_first(len(self.stamps_ns) - most)

    def forget_before(self, stamp_ns: int) -> None:
        self._drop_first(bisect.bisect_left(self.stamps_ns, stamp_ns))

    def forget_after(self, stamp_ns: int) -> None:
        first = bisect.bisect_right(self.stamps_ns, stamp_ns)
        del self.stamps_ns[first:], self.transforms[first:]
        self.ahead = {when_ns: one for when_ns, one in self.ahead.items() if when_ns <= stamp_ns}

    def _clear(self) -> None:
        self._drop_first(len(self.stamps_ns))
        self.ahead.clear()

    def _drop_first(self, count: int) -> None:
        if count > 0:
            del self.stamps_ns[:count], self.transforms[:count]

    def at(self, stamp_ns: int, child: str) -> RigidTransform:
        if self.static is not None:
            return self.static
        if stamp_ns in self.ahead:
            return self.ahead[stamp_ns]
        i = bisect.bisect_left(self.stamps_ns, stamp_ns)
        if i < len(self.stamps_ns) and self.stamps_ns[i] == stamp_ns:
            return self.transforms[i]
        if i == 0 or i == len(self.stamps_ns):
            text = (
                f"transform {self.parent} <- {child} is known for {self.stamps_ns[0]}..{self.stamps_ns[-1]} ns, "
                f"not at {stamp_ns} ns"
            )
            if i == 0:
                raise CalibrationError(text)
            raise NotYetKnownError(text, self.parent, child, self.stamps_ns[-1])
        t0, t1 = self.stamps_ns[i - 1], self.stamps_ns[i]
        if t1 - t0 > LONGEST_GAP_NS:
            raise CalibrationError(
                f"transform {self.parent} <- {child} is known at {t0} and {t1} ns, not at {stamp_ns} ns: a gap of "
                f"{(t1 - t0) * 1e-9:.1f} s, expected at most {LONGEST_GAP_NS * 1e-9:g} s"
            )
        return interpolate(self.transforms[i - 1], self.transforms[i], (stamp_ns - t0) / (t1 - t0))


class TransformTree:
    """Frames and how they hang together; fed by /tf and /tf_static, live or from a bag.

    Never waits and never guesses: a transform that is not known is a `CalibrationError`. Whatever is sent, memory is
    bounded: by frames, by the length of their names, and by samples.

    Senders that contradict each other are refused by name, and what was known stays: a static transform is not
    displaced by one on /tf; a child keeps its parent while transforms to that one come, the static before the moving
    and the first before the second; a transform that would close a loop is not taken.
    """

    def __init__(self, keep_ns: int = 10_000_000_000) -> None:
        """Args:
        keep_ns: how long transforms that change are kept behind the newest.
        """
        self._keep_ns = keep_ns
        self._edges: dict[str, _Edge] = {}

    def set_static(self, parent_from_child: RigidTransform) -> None:
        """Stores a transform that is valid at all times; a later one of the same frames takes its place.

        Raises:
            CalibrationError: as `add`; the child has another static parent.
        """
        self._check_room(parent_from_child)
        dst, src = parent_from_child.dst, parent_from_child.src
        edge = self._edges.get(src)
        if edge is not None and edge.static is not None and edge.parent != dst:
            raise CalibrationError(_two_parents(src, edge.parent, dst, "both static; the first is used"))
        self._check_loop(dst, src)
        self._edges[src] = _Edge(dst, static=parent_from_child)

    def add(self, parent_from_child: RigidTransform, stamp_ns: int) -> None:
        """Stores a transform that is valid at `stamp_ns`; older and newer ones may come in any order.

        One that is static already may come so, too, as ROS 1 sends static transforms; it must say the same.

        Raises:
            CalibrationError: there are `MOST_FRAMES` other frames already, or a name is too long; the child is static,
                and elsewhere; it has another parent, which still moves it; the transform would close a loop.
        """
        dst, src = parent_from_child.dst, parent_from_child.src
        edge = self._edges.get(src)
        if edge is not None and edge.static is not None:
            _check_same(edge.static, parent_from_child)
            return
        if edge is not None and edge.parent != dst and not edge.yields_to(dst, stamp_ns):
            raise CalibrationError(_two_parents(src, edge.parent, dst, "both on /tf; the first is used while it comes"))
        if edge is None or edge.parent != dst:
            self._check_room(parent_from_child)
            self._check_loop(dst, src)
            edge = self._edges[src] = _Edge(dst)
        if edge.stamps_ns and stamp_ns < edge.stamps_ns[-1] - self._keep_ns:
            # Older than anything that is kept: time jumped back, and what was known belongs to another time.
            edge.forget_after(stamp_ns)
        in_all = sum(len(other.stamps_ns) for other in self._edges.values())
        edge.add(parent_from_child, stamp_ns, MOST_SAMPLES if in_all < MOST_IN_ALL else max(2, len(edge.stamps_ns)))
        edge.forget_before(edge.stamps_ns[-1] - self._keep_ns)

    def _check_loop(self, dst: str, src: str) -> None:
        """Raises CalibrationError if `src` is an ancestor of `dst`."""
        chain = self._ancestors(dst)
        if src in chain:
            way = " <- ".join([src, *reversed(chain[: chain.index(src)])])
            raise CalibrationError(
                f"transform {dst} <- {src} would close a loop ({way} is known): two senders disagree which of the "
                "frames is the parent; the first is used"
            )

    def _check_room(self, parent_from_child: RigidTransform) -> None:
        dst, src = parent_from_child.dst, parent_from_child.src
        if max(len(dst), len(src)) > LONGEST_NAME:
            raise CalibrationError(
                f"transform {dst[:40]}… <- {src[:40]}…: expected names of at most {LONGEST_NAME} letters, "
                f"got {len(dst)} and {len(src)}"
            )
        if src not in self._edges and len(self._edges) >= MOST_FRAMES:
            raise CalibrationError(
                f"transform {dst} <- {src}: refused, {MOST_FRAMES} frames are known already; "
                "a sender on /tf makes up new names"
            )

    def forget_after(self, stamp_ns: int) -> None:
        """Forgets what was known of later times (after a jump back to `stamp_ns`); static links stay."""
        for edge in self._edges.values():
            edge.forget_after(stamp_ns)
        self._edges = {c: e for c, e in self._edges.items() if e.static is not None or e.stamps_ns}

    def frames(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._edges) | {edge.parent for edge in self._edges.values()}))

    def lookup(self, dst: str, src: str, stamp_ns: int) -> RigidTransform:
        """`dst_from_src` at one instant.

        Raises:
            CalibrationError: a frame is unknown, the two are not connected, or a link is not known then.
        """
        if not dst or not src:
            raise CalibrationError(f"no transform {dst or '(no name)'} <- {src or '(no name)'}: {NAMELESS}")
        if dst == src:
            return RigidTransform.identity(dst)
        up_dst, up_src = self._ancestors(dst), self._ancestors(src)
        common = next((frame for frame in up_src if frame in up_dst), None)
        if common is None:
            raise NotYetKnownError(f"no transform {dst} <- {src} ({self._known()})", dst, src, None)
        common_from_dst = self._climb(dst, common, stamp_ns)
        return common_from_dst.inverse() @ self._climb(src, common, stamp_ns)

    def lookup_between(self, dst: str, dst_stamp_ns: int, src: str, src_stamp_ns: int, fixed: str) -> RigidTransform:
        """`dst` at one instant from `src` at another, through a frame that does not move (odom, map).

        Raises:
            CalibrationError: as `lookup`.
        """
        fixed_from_dst = self.lookup(fixed, dst, dst_stamp_ns)
        return fixed_from_dst.inverse() @ self.lookup(fixed, src, src_stamp_ns)

    def _ancestors(self, frame: str) -> list[str]:
        chain = [frame]
        while chain[-1] in self._edges:
            chain.append(self._edges[chain[-1]].parent)  # without end only in a loop, which is never taken
        return chain

    def _known(self) -> str:
        names = self.frames()
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"known frames: {', '.join(names[:_SHOWN]) or 'none'}{more}"

    def _climb(self, frame: str, ancestor: str, stamp_ns: int) -> RigidTransform:
        result = RigidTransform.identity(frame)
        while frame != ancestor:
            edge = self._edges[frame]
            result = edge.at(stamp_ns, frame) @ result
            frame = edge.parent
        return result


def _two_parents(child: str, first: str, second: str, what: str) -> str:
    return (
        f"frame {child} has two parents, {first} and {second} ({what}): a frame can hang on one alone; end one of the "
        "senders, or have it send the inverse"
    )


def _check_same(static: RigidTransform, moving: RigidTransform) -> None:
    """Raises CalibrationError unless a transform on /tf says what the static one of its child says."""
    if moving.dst != static.dst:
        text = _two_parents(
            static.src, static.dst, moving.dst, "the first static, the second on /tf; the first is used"
        )
        raise CalibrationError(text)
    off_m = float(np.linalg.norm(static.translation - moving.translation))
    off_rad = angle_between(static, moving)
    if off_m > SAME_M or off_rad > SAME_RAD:
        raise CalibrationError(
            f"transform {static.dst} <- {static.src} is static, and /tf has it elsewhere (by {off_m:.3f} m and "
            f"{np.degrees(off_rad):.1f} deg): the static one is used; if the frame moves, end its static sender"
        )
