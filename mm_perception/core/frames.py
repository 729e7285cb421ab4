"""One spelling of frame names, whoever writes them."""

from __future__ import annotations


def frame_name(name: object) -> str:
    """A frame's name as TF 2 spells it: without blanks and zero bytes around it, and without empty parts.

    ROS 1 and older drivers put a slash in front ("/rslidar"), and joining a prefix that ends in one leaves two
    ("robot1//lidar"). Returns "" where nothing is left: the message names no frame.
    """
    text = str(name).strip(" \t\r\n\0")
    return "/".join(part for part in text.split("/") if part.strip())


def prefixed(prefix: str, name: str) -> str:
    """A frame's name below a prefix; a name that is there already, or empty, stays as it is.

    Args:
        prefix, name: as `frame_name` gives them.
    """
    return f"{prefix}/{name}" if prefix and name and not name.startswith(f"{prefix}/") else name
