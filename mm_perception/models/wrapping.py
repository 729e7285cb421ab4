"""What training code wraps around weights: mappings within mappings, prefixes of keys, averages, numbers beside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mm_perception.core.errors import ModelError

_DEEPEST, _SHOWN = 6, 5
_MOST_MAPPINGS = 1000
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|hyper_parameters|callbacks|loops|rng|history")
_AVERAGE = re.compile(r"ema|average|swa|teacher", re.IGNORECASE)
_FIRST = ("state_dict", "model", "model_state_dict", "module", "net", "network", "weights", "params", "student")
_INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and others put anywhere into a key."""
_PREFIXES = frozenset(
    (*_FIRST, "ema", "ema_model", "model_ema", "module_ema", "averaged_model", "teacher", "segmentor", "detector")
)
_TRAINING_ONLY = re.compile(r"(n_averaged$|(criterion|loss|losses|loss_\w+|metric|metrics|aux_head|auxiliary_head)\.)")


def unwrap(content: Any, where: str) -> dict[str, Tensor]:
    """The one state dict within what a checkpoint file holds, with the network's own keys.

    Of weights and their moving average (EMA) the weights are taken. Losses and counters of averages, which change no
    output, are left out.

    Raises:
        ModelError: there are no tensors, or a student's and a teacher's.
    """
    if not isinstance(content, Mapping):
        raise ModelError(f"{where}: expected a mapping of tensors, got {type(content).__name__}")
    found = list(_mappings(content))
    if not any(tensors for _, tensors in found):
        inner = content
        while len(inner) == 1 and isinstance(only := next(iter(inner.values())), Mapping) and only is not inner:
            inner = only
        named = ", ".join(str(key) for key in list(inner)[:_SHOWN]) or "an empty mapping"
        raise ModelError(f"{where}: expected tensors only, got something else in: {named}")
    most = max(len(tensors) for _, tensors in found)
    whole = [one for one in found if 2 * len(one[1]) > most]
    state = min(whole, key=_rank)[1]
    for word in _INSERTED:
        state = {key.replace(word, ""): value for key, value in state.items()}
    for _ in range(_DEEPEST):
        shorter = _without_prefix(state, where)
        if shorter is None:
            break
        state = shorter
    return {key: value for key, value in state.items() if not _TRAINING_ONLY.match(key)}


def _mappings(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping in a checkpoint but those of optimizers and their like: its path, and the tensors in it."""
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    for _ in range(_MOST_MAPPINGS):
        if not waiting:
            return
        path, mapping = waiting.pop(0)
        yield path, {str(key): value for key, value in mapping.items() if isinstance(value, Tensor)}
        if len(path) < _DEEPEST:
            inner = ((str(key), value) for key, value in mapping.items() if isinstance(value, Mapping))
            waiting += [((*path, key), value) for key, value in inner if not _NO_WEIGHTS.search(key)]


def _rank(one: tuple[tuple[str, ...], dict[str, Tensor]]) -> tuple[bool, int, int]:
    """Lower is meant: no average, the outermost, the usual names."""
    path, _ = one
    usual = sum(_FIRST.index(name) if name in _FIRST else len(_FIRST) for name in path)
    return any(_AVERAGE.search(name) for name in path), len(path), usual


def _without_prefix(state: dict[str, Tensor], where: str) -> dict[str, Tensor] | None:
    """The keys below a wrapper's name; None where no wrapper has most of them."""
    groups = Counter(key.partition(".")[0] for key in state)
    wrappers = [name for name in groups if name in _PREFIXES and 5 * groups[name] > 2 * len(state)]
    if not wrappers:
        return None
    if {"student", "teacher"} <= set(wrappers):
        raise ModelError(
            f"{where}: holds two sets of weights, of a student and of a teacher: save the one that is meant by itself"
        )
    chosen = min(wrappers, key=lambda name: (bool(_AVERAGE.search(name)), -groups[name]))
    rest = {} if len(wrappers) > 1 else {k: v for k, v in state.items() if k.partition(".")[0] != chosen}
    return {k.partition(".")[2]: v for k, v in state.items() if k.partition(".")[0] == chosen} | rest


def spconv1_kernels(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sparse kernels as spconv 1 has them, (kD, kH, kW, C_in, C_out), of a file that may be of spconv 2.

    spconv 2 keeps (C_out, kD, kH, kW, C_in). A kernel whose shape fits both ways is taken as the others of the file.
    """
    kernels = [key for key, value in state.items() if value.ndim == 5 and key in wanted]
    first = sum(state[key].shape == wanted[key].shape for key in kernels)
    second = sum(state[key].permute(1, 2, 3, 4, 0).shape == wanted[key].shape for key in kernels)
    if second <= first:
        return dict(state)
    return {key: value.permute(1, 2, 3, 4, 0).contiguous() if key in kernels else value for key, value in state.items()}
