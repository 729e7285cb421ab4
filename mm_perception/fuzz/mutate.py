"""Mutations: of bytes, of text, and of the fields of a message."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WHOLE = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    127,
    128,
    255,
    256,
    4095,
    4096,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
)
_REAL = (0.0, -0.0, 1.0, -1.0, 1e-320, 1e-30, 1e30, 1e300, float("nan"), float("inf"), float("-inf"))
_TEXTS = (
    "",
    "/",
    "\0",
    "a" * 300,
    "ünïcode",
    "rgb8",
    "evt3",
    "mono",
    "16UC1; compressedDepth png",
    "compressedDepth rvl",
)


def mutated_bytes(data: bytes, rng: Random, most: int = 4) -> bytes:
    """A few bits flipped, bytes replaced, pieces cut, repeated or moved, or numbers of 2, 4 or 8 bytes overwritten."""
    out = bytearray(data)
    for _ in range(rng.randint(1, most)):
        _mutate_once(out, rng)
    return bytes(out)


def _mutate_once(out: bytearray, rng: Random) -> None:
    if not out:
        out += bytes([rng.randrange(256)])
        return
    at, kind = rng.randrange(len(out)), rng.randrange(8)
    length = min(1 << rng.randrange(1, 9), len(out) - at)
    if kind <= 1:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        out[at] = rng.randrange(256)
    elif kind == 3:
        size = rng.choice((2, 4, 8))
        order = rng.choice(("little", "big"))
        out[at : at + size] = (rng.choice(_WHOLE) % 2 ** (8 * size)).to_bytes(size, order)
    elif kind == 4:
        del out[at : at + length]
    elif kind == 5:
        out[at:at] = out[at : at + length] * rng.choice((1, 2, 20))
    elif kind == 6:
        piece, to = out[at : at + length], rng.randrange(len(out))
        out[to : to + len(piece)] = piece
    else:
        del out[rng.randrange(len(out)) :]


def mutated_text(text: str, rng: Random, words: Sequence[str]) -> str:
    """Lines and words of a text exchanged, repeated, left out, or replaced by `words`."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        at, kind = rng.randrange(len(lines)), rng.randrange(7)
        if kind == 0:
            lines.insert(at, rng.choice(lines))
        elif kind == 1:
            del lines[at]
        elif kind == 2:
            lines[at] = " " * rng.randrange(5) + lines[at]
        elif kind <= 4:
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon or ':'} {rng.choice(words)}"
        else:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(words) + lines[at][place:]
        lines = lines or [""]
    return "\n".join(lines)


def mutate_message(message: Any, rng: Random, most: int = 3) -> None:
    """Changes some fields of a message, however deep, in place."""
    for _ in range(rng.randint(1, most)):
        places = list(_places(message, 0))
        if places:
            holder, name = rng.choice(places)
            setattr(holder, name, _mutated_value(getattr(holder, name), rng))


def _places(message: Any, depth: int) -> Any:
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if field.name.startswith("_") or field.name.isupper() or depth > 8:
            continue
        if dataclasses.is_dataclass(value):
            yield from _places(value, depth + 1)
            continue
        yield message, field.name
        if isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
            yield from _places(value[0], depth + 1)
            yield from _places(value[-1], depth + 1)


def _mutated_value(value: Any, rng: Random) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return not value
    if isinstance(value, int):
        return rng.choice((rng.choice(_WHOLE), value + rng.randint(-2, 2), value * 2, -1))
    if isinstance(value, float):
        return rng.choice((*_REAL, value * 1e6, -value))
    if isinstance(value, str):
        return rng.choice(_TEXTS)
    if isinstance(value, np.ndarray):
        return _mutated_array(value, rng)
    if isinstance(value, list):
        return rng.choice((value[:-1], value * 2, value * 50 if len(value) < 100 else value, []))
    return value


def _mutated_array(values: NDArray[Any], rng: Random) -> NDArray[Any]:
    if values.dtype == np.uint8:
        return np.frombuffer(mutated_bytes(values.tobytes(), rng), np.uint8)
    changed: NDArray[Any] = values.copy()
    if changed.size and rng.random() < 0.8:
        changed[rng.randrange(changed.size)] = rng.choice(_REAL if changed.dtype.kind == "f" else (0, 1, 127))
    elif rng.random() < 0.5:
        changed = np.concatenate([changed, changed])
    else:
        changed = changed[: rng.randrange(changed.size + 1)]
    return changed


def one_of(makers: Sequence[Callable[[Random], bytes]]) -> Callable[[Random], bytes]:
    """Inputs of several makers, in turn at random."""
    return lambda rng: rng.choice(makers)(rng)
