"""Tables out of pickles that pandas wrote, without pandas and without running what else a pickle may hold.

A pickle is a program. Here it may only build arrays, strings, numbers and the few pandas objects of a table, and those
become stand-ins that keep what they are given; any other name ends the reading.
"""

from __future__ import annotations

import gzip
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError

MAX_BYTES = 2**29
_GZIP = b"\x1f\x8b"


class _Kept:
    """Keeps what it is built with."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Table(_Kept):
    pass


class _Blocks(_Kept):
    pass


class _Index(_Kept):
    pass


def _new_index(_: Any, values: dict[str, Any]) -> _Index:
    index = _Index()
    index.state = values
    return index


def _block(values: Any, places: Any, *_: Any) -> tuple[Any, Any]:
    return values, places


def _placement(places: Any) -> Any:
    return places


_NUMPY = {"_reconstruct", "scalar"}
_STAND_INS: dict[str, Any] = {
    "DataFrame": _Table,
    "BlockManager": _Blocks,
    "_new_Index": _new_index,
    "Index": _Index,
    "RangeIndex": _Index,
    "Int64Index": _Index,
    "Float64Index": _Index,
    "_unpickle_block": _block,
    "BlockPlacement": _placement,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "pandas" and name in _STAND_INS:
            return _STAND_INS[name]
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in _NUMPY:
            from numpy._core import multiarray  # its place in numpy 2

            return getattr(multiarray, name)
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return _from_buffer
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module in ("builtins", "__builtin__") and name == "slice":
            return slice
        if module == "_codecs" and name == "encode":
            return _encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no table needs")


def read_table(path: Path) -> dict[str, NDArray[Any]]:
    """The columns of a pickled DataFrame (.pkl, .pkl.gz) by name, (N,) each.

    Raises:
        DataError: the file is missing, too large, no pickle of a table, or asks for anything but what tables need.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        table = _Unpickler(io.BytesIO(data)).load()
        return _columns(table)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # a pickle may raise anything
        raise DataError(f"{path}: is no pickle of a table ({type(error).__name__}: {error})") from error


def _columns(table: Any) -> dict[str, NDArray[Any]]:
    if not isinstance(table, _Table) or not isinstance(table.state, dict):
        raise DataError(f"expected a pickled DataFrame, got {type(table).__name__.lstrip('_').lower()}")
    manager = table.state.get("_mgr", table.state.get("_data"))
    if not isinstance(manager, _Blocks):
        raise DataError("expected a pickled DataFrame with its blocks")
    axes, blocks = _blocks(manager)
    names = [str(name) for name in _values(axes[0])]
    columns: dict[str, NDArray[Any]] = {}
    for values, places in blocks:
        rows = np.arange(len(names))[places] if isinstance(places, slice) else np.asarray(places)
        for row, column in zip(np.atleast_1d(rows), np.atleast_2d(values), strict=True):
            columns[names[int(row)]] = np.asarray(column)
    missing = [name for name in names if name not in columns]
    if missing or len({len(column) for column in columns.values()}) > 1:
        raise DataError(f"columns are missing or of different lengths ({', '.join(missing[:5])})")
    return columns


def _blocks(manager: _Blocks) -> tuple[Any, list[tuple[Any, Any]]]:
    """Axes and (values, places of its columns) of each block; older and newer pandas keep them differently."""
    if isinstance(manager.state, tuple) and len(manager.state) >= 4:
        content = manager.state[3]["0.14.1"]
        return content["axes"], [(block["values"], block["mgr_locs"]) for block in content["blocks"]]
    if len(manager.args) >= 2:
        blocks, axes = manager.args[:2]
        return axes, list(blocks)
    raise DataError("a DataFrame of an unknown version of pandas")


def _values(index: Any) -> list[Any]:
    if not isinstance(index, _Index) or not isinstance(index.state, dict):
        raise DataError("a DataFrame without names of columns")
    if "data" in index.state:
        return list(index.state["data"])
    return list(range(index.state["start"], index.state["stop"], index.state["step"]))


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    return np.asarray(np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C"))


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf-8")
