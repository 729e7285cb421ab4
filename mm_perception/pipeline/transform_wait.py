"""Whether a bundle should wait for transforms: only for those that may still come."""

from __future__ import annotations

from mm_perception.geometry.transform_tree import NotYetKnownError, Transforms
from mm_perception.geometry.transforms import RigidTransform

_MOST_LINKS = 1000
_Missing = dict[tuple[str, str], int | None]
"""Links that were not known, (dst, src), with the stamp of their newest sample; None: they never came."""


class TransformWait:
    """Looks transforms up for bundles, one after the other, and knows which of them are worth waiting for.

    A link is waited for where it ends before the bundle's stamp (its next sample may be under way) or has never come
    (at a start). One for which a bundle has waited in vain is not waited for again until it has a new sample: a rig
    without TF, or whose TF has died, costs one wait and not one per bundle.
    """

    def __init__(self, tree: Transforms) -> None:
        self._tree = tree
        self._missing: _Missing = {}
        self._given_up: _Missing = {}

    def begin(self) -> None:
        """A bundle is looked at, or looked at anew."""
        self._missing = {}

    @property
    def is_worthwhile(self) -> bool:
        """Whether something that the bundle lacks may still come."""
        return any(key not in self._given_up or self._given_up[key] != end for key, end in self._missing.items())

    def give_up(self) -> None:
        """The bundle goes as it is: its time is up, or nothing that it lacks may come."""
        if len(self._given_up) > _MOST_LINKS:  # a sender makes up new names
            self._given_up.clear()
        self._given_up.update(self._missing)

    def forget(self) -> None:
        """Time has jumped."""
        self._given_up.clear()

    def lookup(self, dst: str, src: str, stamp_ns: int) -> RigidTransform:
        """As `TransformTree.lookup`."""
        try:
            return self._tree.lookup(dst, src, stamp_ns)
        except NotYetKnownError as error:
            self._missing[error.dst, error.src] = error.newest_ns
            raise

    def lookup_between(self, dst: str, dst_stamp_ns: int, src: str, src_stamp_ns: int, fixed: str) -> RigidTransform:
        """As `TransformTree.lookup_between`."""
        try:
            return self._tree.lookup_between(dst, dst_stamp_ns, src, src_stamp_ns, fixed)
        except NotYetKnownError as error:
            self._missing[error.dst, error.src] = error.newest_ns
            raise
