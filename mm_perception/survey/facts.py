"""What one pass over messages tells of each topic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ImageContent:
    """Images of a topic.

    Attributes:
        encoding: of sensor_msgs/Image, or the format of a CompressedImage.
        channels, bits: of the decoded pixels; 0 where they could not be decoded.
        is_float: whether pixels are floats.
        low, median, high: 1 %, 50 % and 99 % of the values that are finite and not zero.
        zero_share: of values that are zero or not finite.
        is_grey: whether the channels of a colour image are equal.
    """

    width: int
    height: int
    encoding: str
    channels: int = 0
    bits: int = 0
    is_float: bool = False
    low: float = 0.0
    median: float = 0.0
    high: float = 0.0
    zero_share: float = 0.0
    is_grey: bool = False


@dataclass(frozen=True, slots=True)
class CloudContent:
    """Point clouds of a topic.

    Attributes:
        fields: their names.
        points: median count of points with a return.
        coverage_deg: azimuth without the widest gap between points.
        intensity_max: largest raw value; 0 where there is none.
        sweep_ms: first and last point time relative to the stamp; None where points have no time.
    """

    fields: tuple[str, ...]
    points: int = 0
    coverage_deg: float = 0.0
    intensity_max: float = 0.0
    range_m: float = 0.0
    sweep_ms: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class EventContent:
    """Event packets of a topic."""

    width: int
    height: int
    encoding: str


@dataclass(frozen=True, slots=True)
class InfoContent:
    """CameraInfo of a topic; `problem` says why it is no camera model, empty if it is one."""

    width: int
    height: int
    distortion: str = ""
    fov_deg: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class OdometryContent:
    """nav_msgs/Odometry: the frames between which it moves."""

    parent: str
    child: str


Content = Union[ImageContent, CloudContent, EventContent, InfoContent, OdometryContent]


@dataclass(frozen=True, slots=True, eq=False)
class TopicFacts:
    """One topic.

    Attributes:
        count: messages in the whole recording; of a live graph those that came.
        stamps_ns, logs_ns: (N,) int64 header stamps and arrival times of the messages that were looked at and have a
            header, in the order of their arrival.
        message_bytes: median size.
        frames: frame names of the headers.
        content: of the samples that were decoded; None where none was, or the type means nothing to this package.
        problem: why a sample could not be decoded, empty if all could.
    """

    topic: str
    type_name: str
    count: int
    stamps_ns: NDArray[np.int64]
    logs_ns: NDArray[np.int64]
    message_bytes: int = 0
    frames: tuple[str, ...] = ()
    content: Content | None = None
    problem: str = ""

    @property
    def frame(self) -> str:
        """The frame of its first message, without a leading slash."""
        return self.frames[0].lstrip("/") if self.frames else ""

    @property
    def kind_of_type(self) -> str:
        """The type's name without its package."""
        return self.type_name.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """Links between frames: parent by child, and the children whose link moves."""

    parents: Mapping[str, str] = field(default_factory=dict)
    moving: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.parents) | frozenset(self.parents.values())

    def prefix_of(self, frame: str) -> str:
        """What transforms put before the frame (robot1 of robot1/cam) where they do not know it as it is."""
        longer = [name for name in self.names if name.endswith(f"/{frame}")]
        return longer[0].removesuffix(f"/{frame}") if frame and frame not in self.names and len(longer) == 1 else ""

    def chain(self, frame: str) -> tuple[str, ...]:
        """The frame, by its name in transforms, and its ancestors, root last."""
        prefix = self.prefix_of(frame)
        chain = [f"{prefix}/{frame}" if prefix else frame]
        while chain[-1] in self.parents and self.parents[chain[-1]] not in chain:
            chain.append(self.parents[chain[-1]])
        return tuple(chain)

    def connected(self, a: str, b: str) -> bool:
        """Whether links lead from one frame to the other."""
        return bool(set(self.chain(a)) & set(self.chain(b)))

    def moving_ancestors(self, frame: str) -> tuple[str, ...]:
        """The frames above the lowest link that moves: those in which the vehicle drives."""
        chain = self.chain(frame)
        first = next((i for i, one in enumerate(chain) if one in self.moving), None)
        return () if first is None else chain[first + 1 :]


@dataclass(frozen=True, slots=True, eq=False)
class SurveyFacts:
    """All topics by name, and the frames.

    Attributes:
        source: how comments call what was looked at.
        seconds: how long a time was looked at.
        tf_topics: topics of transforms.
    """

    topics: Mapping[str, TopicFacts]
    frames: FrameFacts
    source: str = ""
    seconds: float = 0.0
    tf_topics: tuple[str, ...] = ()
