"""The types of a bag's messages, made of the bag's own definitions when a message of one is decoded.

What a definition of one topic is worth is nothing to the others: one that cannot be parsed leaves its topic to this
package's own definition of the type, if there is one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mm_perception.bags.channels import ROS1, Channel, Definition
from mm_perception.bags.damage import DamagedError
from mm_perception.bags.flat_arrays import FLAT_ARRAYS, ITEM_TYPES, FlatArray
from mm_perception.bags.typestore import typestore

_RENAMED = {
    "event_array_msgs/msg/EventArray": "event_camera_msgs/msg/EventPacket",
    "tf/msg/tfMessage": "tf2_msgs/msg/TFMessage",
}
_TRANSFORMS = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
_HEADER, _SEQUENCE = "std_msgs/msg/Header", "seq"
_FILE_MARK = "=" * 80 + "\n"
_IDL_MARK = "IDL: "


def full_name(type_name: str) -> str:
    """package/msg/Name of a type; some recorders left the middle part out."""
    return type_name if type_name.count("/") == 2 else type_name.replace("/", "/msg/", 1)


def todays_name(type_name: str) -> str:
    """As `full_name`, for types that were renamed by their new name."""
    name = full_name(type_name)
    return _RENAMED.get(name, name)


class ChannelTypes:
    """Decodes the messages of a channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._name = full_name(channel.type_name)

    def to_cdr(self, data: bytes) -> bytes:
        """A message as ROS 2 has it on the wire: those of ROS 1 are converted. Raises DamagedError."""
        if self._channel.encoding != ROS1:
            return data
        store = self._store()
        try:
            return bytes(store.ros1_to_cdr(data, self._name))
        except Exception as error:
            raise DamagedError(f"bytes that are no ROS 1 {self._channel.type_name}") from error

    def decode(self, cdr: bytes) -> Any:
        """A message as an object with ROS 2's fields. Raises DamagedError, and the library's errors for bad bytes."""
        return self._store().deserialize_cdr(cdr, self._name)

    def flat_array(self) -> FlatArray | None:
        """The layout of a message that is one long list, where the bag's own definitions are of it."""
        flat = FLAT_ARRAYS.get(self._name)
        if flat is None:
            return None
        recorded, _ = _store_of(self._name, self._channel.definition)
        known = typestore().fielddefs
        names = (self._name, ITEM_TYPES[self._name])
        same = recorded is None or all(recorded.fielddefs.get(name) == known[name] for name in names)
        return flat if same else None

    def _store(self) -> Typestore:
        """Types that hold the channel's. Raises DamagedError if nobody knows it."""
        store, problem = _store_of(self._name, self._channel.definition)
        if store is not None:
            return store
        own = _ros1_store() if self._channel.encoding == ROS1 else typestore()
        if self._name not in own.fielddefs:
            raise DamagedError(f"type {self._channel.type_name} is not known: {problem}")
        return own


@lru_cache(maxsize=512)
def _store_of(name: str, definition: Definition) -> tuple[Typestore | None, str]:
    """The types of a definition, or why there are none."""
    if not definition.text.strip():
        return None, "the bag does not define it"
    try:
        types = _parsed(name, definition)
        if definition.form == "ros1msg":
            types = _as_ros2(types)
        store = get_typestore(Stores.EMPTY)
        store.register({key: value for key, value in types.items() if key not in store.fielddefs})
        store.get_msgdef(name)
    except Exception as error:  # the parser and the code that it makes let errors of every kind through
        return None, f"the bag's definition of it is broken ({type(error).__name__})"
    return store, ""


def _parsed(name: str, definition: Definition) -> dict[str, Any]:
    if definition.form in ("ros2msg", "ros1msg"):
        return dict(get_types_from_msg(definition.text, name))
    if definition.form not in ("ros2idl", "omgidl"):
        raise DamagedError(f"definition in {definition.form}")
    if not definition.text.startswith(_FILE_MARK + _IDL_MARK):
        return dict(get_types_from_idl(definition.text))
    types: dict[str, Any] = {}
    for part in definition.text.split(_FILE_MARK)[1:]:
        types.update(get_types_from_idl(part.partition("\n")[2]))  # its first line names the file
    return types


def _as_ros2(types: dict[str, Any]) -> dict[str, Any]:
    """ROS 1's types with ROS 2's names of fields (d, k, r and p of CameraInfo), and without the number in headers."""
    converted = {}
    for name, (constants, fields) in types.items():
        if name == _HEADER:
            fields = [one for one in fields if one[0] != _SEQUENCE]
        lower = [(field.lower(), kind) for field, kind in fields]
        distinct = len({field for field, _ in lower}) == len(lower)
        converted[name] = ([] if distinct else constants, lower if distinct else fields)
    return converted


@lru_cache(maxsize=1)
def _ros1_store() -> Typestore:
    """ROS 1 Noetic's types, as `_as_ros2` has them."""
    store = get_typestore(Stores.EMPTY)
    types = dict(get_typestore(Stores.ROS1_NOETIC).fielddefs)
    for name in _TRANSFORMS:  # not in the library's list
        types |= get_types_from_msg("geometry_msgs/TransformStamped[] transforms\n", name)
    store.register({name: fields for name, fields in _as_ros2(types).items() if name not in store.fielddefs})
    return store
