"""Which image topics show the same picture, and which CameraInfo belongs to which image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mm_perception.survey.content import CAMERA_INFO
from mm_perception.survey.facts import EventContent, ImageContent, InfoContent, TopicFacts
from mm_perception.survey.kinds import words_of

_TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg", "h264", "h265", "hevc", "zstd", "draco", "raw")
_FORMS = ("image", "image_raw", "image_color", "image_rect_color", "image_rect", "image_rect_raw", "image_mono")
"""Last parts of one camera's topics, best first: the raw image is what its CameraInfo's K and D describe."""
_FORM_RANK = {"image_raw": 0, "image": 1, "image_color": 2, "image_rect_color": 3, "image_rect": 4, "image_rect_raw": 5}


def base_topic(topic: str) -> str:
    """The topic without the transport that image_transport appends."""
    head, _, tail = topic.rpartition("/")
    return head if head and tail in _TRANSPORTS else topic


def parent(topic: str) -> str:
    return topic.rpartition("/")[0]


def group_twins(kinds: Mapping[str, str], topics: Mapping[str, TopicFacts]) -> dict[str, tuple[str, ...]]:
    """The chosen topic of each group of topics that show one picture, with the others of the group.

    Args:
        kinds: the kind of sensor by topic.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for topic, kind in kinds.items():
        base = base_topic(topic)
        last = base.rpartition("/")[2]
        key = f"{parent(base)}/*" if last in _FORMS and parent(base) else base
        groups.setdefault((kind, key), []).append(topic)
    chosen = {}
    for topics_of_group in groups.values():
        best, *others = sorted(topics_of_group, key=lambda name: _rank(name, topics))
        chosen[best] = tuple(others)
    return chosen


def _rank(topic: str, topics: Mapping[str, TopicFacts]) -> tuple[float, ...]:
    """Complete ones first, then those that hold colour, the camera's own picture, and the raw one of its transports."""
    base = base_topic(topic)
    one, last = topics[topic], base.rpartition("/")[2]
    most = max(facts.count for name, facts in topics.items() if parent(base_topic(name)) == parent(base))
    content = one.content
    grey = isinstance(content, ImageContent) and (content.channels == 1 or content.is_grey)
    return (one.count < 0.9 * most, grey, _FORM_RANK.get(last, 9), topic != base, topic.endswith("theora"))


def camera_info_of(image: TopicFacts, topics: Mapping[str, TopicFacts]) -> tuple[str, str]:
    """The CameraInfo topic of an image or event topic, and by what; empty if there is none.

    image_transport's rule comes first: it lies beside the image. Then those of the same frame, or in a namespace
    around or below. Of another size than the image it is not taken, unless it is beside it.
    """
    infos = [one for one in topics.values() if one.type_name == CAMERA_INFO and one.count]
    base = base_topic(image.topic)
    beside = f"{parent(base)}/camera_info"
    exact = [one for one in infos if one.topic in (beside, f"{base}/camera_info", f"{base}_camera_info")]
    if exact:
        return exact[0].topic, ""
    fitting = [one for one in infos if _sizes_agree(image, one)]
    rooms = [one for one in fitting if parent(one.topic) and base.startswith(parent(one.topic) + "/")]
    if rooms:
        return max(rooms, key=lambda one: len(one.topic)).topic, "the nearest namespace"
    framed = [one for one in fitting if image.frame and one.frame == image.frame]
    if len(framed) == 1:
        return framed[0].topic, "the same frame"
    near = [one for one in framed or fitting if _common_words(image, one)]
    if near and image.frame:
        best = max(near, key=lambda one: _common_words(image, one))
        return best.topic, "size and name; look it over"
    return "", ""


def _sizes_agree(image: TopicFacts, info: TopicFacts) -> bool:
    seen, said = image.content, info.content
    if not isinstance(said, InfoContent) or not isinstance(seen, (ImageContent, EventContent)):
        return True
    return 0 in (seen.width, said.width) or (seen.width, seen.height) == (said.width, said.height)


def _common_words(image: TopicFacts, info: TopicFacts) -> int:
    plain = {"camera", "info", "image", "raw", "compressed", "sensors"}
    return len((set(words_of(image.topic)) & set(words_of(info.topic))) - plain)


_PLAIN_PARTS = {
    *("image", "raw", "compressed", "compresseddepth", "color", "colour", "rect", "points", "point", "cloud", "camera"),
    *("sensor", "sensors", "sensing", "data", "topic", "mono", "pointcloud", "events", "event", "packets", "packet"),
    *("rgb", "depth", "thermal", "lidar", "node", "driver", "pylon", "usb", "image_raw", "theora", "ffmpeg", "output"),
}


def name_sensors(kinds: Mapping[str, str]) -> dict[str, str]:
    """A name for each topic: its kind where it is the only one, else what tells it from the others of its kind."""
    by_kind: dict[str, list[str]] = {}
    for topic, kind in kinds.items():
        by_kind.setdefault(kind, []).append(topic)
    names: dict[str, str] = {}
    for kind, topics in by_kind.items():
        if len(topics) == 1:
            names[topics[0]] = kind
            continue
        shared = set.intersection(*(set(words_of(base_topic(topic))) for topic in topics))
        for topic in topics:
            names[topic] = _telling(topic, kind, shared)
    return _distinct(names)


def _telling(topic: str, kind: str, shared: Iterable[str]) -> str:
    words = [word for word in words_of(base_topic(topic)) if word not in _PLAIN_PARTS]
    own = [word for word in words if word not in set(shared)]
    kept = words if own else []
    if len("_".join(kept)) > 24:
        kept = own
    text = "_".join(kept)
    return text if text and not text[0].isdigit() else f"{kind}_{text}".rstrip("_")


def _distinct(names: Mapping[str, str]) -> dict[str, str]:
    taken: set[str] = set()
    result = {}
    for topic, name in names.items():
        wanted, number = name, 2
        while wanted in taken:
            wanted, number = f"{name}_{number}", number + 1
        taken.add(wanted)
        result[topic] = wanted
    return result
