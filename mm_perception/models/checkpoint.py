"""Weights files into CMX networks: published checkpoints, safetensors, ImageNet weights of the encoder.

The sizes of the network are read from the shapes in the file; nothing is loaded in part.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mm_perception.core.errors import MmPerceptionError, ModelError
from mm_perception.core.limits import MAX_CHECKPOINT_OVERHEAD, MAX_PICKLE_BYTES, MAX_SAFETENSORS_HEADER
from mm_perception.models.cmx import Cmx, build_cmx, initialise
from mm_perception.models.mit import MIT_VARIANTS, STAGES
from mm_perception.models.wrapping import unwrap

StateDict = dict[str, Tensor]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_GLOBAL = re.compile(r"(?:GLOBAL|global) ([\w.]+)")
_NUMPY_SCALAR: Any = np.float64(0).__reduce__()[0]
_BESIDE_WEIGHTS = [
    argparse.Namespace, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
    *((_NUMPY_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]  # fmt: skip
"""What checkpoints keep beside weights and nothing is done with: scores as numpy's numbers, options."""
_LARGEST_LEGACY = 2**30
_SHOWN = 5  # keys named per kind of misfit
_BACKBONE = "backbone."
_IMAGENET_MARK = "patch_embed1.proj.weight"
_LAST_LAYER = "decode_head.linear_pred."
_IMAGENET_HEAD = ("head.weight", "head.bias")


def read_state_dict(path: Path | str) -> StateDict:
    """The tensors of a `.pth`, `.pt` or `.safetensors` file by the network's keys, whatever was wrapped around them.

    See `models.wrapping`. Pickled objects other than tensors, plain containers, numpy's numbers and argparse's options
    are refused, never executed.

    Raises:
        ModelError: the file is missing, damaged, holds other objects, no tensors or two sets of them.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"weights file {path}: does not exist")
    where = f"weights file {path}"
    state = unwrap(_read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path), where)
    if not state:
        raise ModelError(f"{where}: expected tensors, got an empty mapping")
    _check_sizes(state, path)
    return state


def _read_torch(path: Path) -> Any:
    return load_tensors(path, f"weights file {path}", ModelError)


def load_tensors(path: Path, what: str, kind: type[MmPerceptionError]) -> Any:
    """What torch.save wrote: tensors and plain containers. Nothing else is made, and no more than the file holds.

    Args:
        what: how messages name the file. kind: of the errors.

    Raises:
        kind: damaged, other objects, compressed, or tensors of more elements than the file has bytes for.
    """
    try:
        _check_archive(path)
        with torch.serialization.safe_globals(_BESIDE_WEIGHTS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(text := _plain(error))
        reason = f"it holds a {named.group(1)}" if named else text.split(". ")[0]
        raise kind(
            f"{what}: is damaged or holds more than tensors and plain containers ({reason}); load it where it was "
            "made, and save the state_dict alone: torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except Exception as error:  # the unpickler lets whatever a damaged file leads to through
        raise kind(f"{what}: cannot be read ({type(error).__name__}: {_plain(error)[:300]})") from error
    return content


def _plain(error: Exception) -> str:
    """The text of torch's errors in one line, without codes for colors."""
    return " ".join(_ANSI.sub("", str(error)).split()) or "it does not say why"


def _check_archive(path: Path) -> None:
    """Raises ValueError for an archive that unpacks to much more than itself; torch.save compresses nothing."""
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        if size > _LARGEST_LEGACY:
            raise ValueError(f"a file of the format before torch 1.6 of more than {_LARGEST_LEGACY} bytes")
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > size + MAX_CHECKPOINT_OVERHEAD:
        raise ValueError("the archive's entries say that they are larger than the archive")
    described = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if any(entry.file_size > MAX_PICKLE_BYTES for entry in described):
        raise ValueError(f"the description of the tensors is larger than {MAX_PICKLE_BYTES} bytes")


def _check_sizes(state: Mapping[str, Tensor], path: Path) -> None:
    """Raises ModelError for tensors that claim more than the file holds: a view may repeat one number for ever."""
    size = path.stat().st_size
    for key, value in state.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise ModelError(f"weights file {path}: {key}: expected a plain tensor, got {value.layout} {value.dtype}")
        if value.numel() * value.element_size() > size:
            raise ModelError(f"weights file {path}: {key}: {tuple(value.shape)} is more than its {size} bytes hold")


def _read_safetensors(path: Path) -> StateDict:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ModelError(f"weights file {path}: needs the package safetensors (pip install safetensors)") from error
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > min(MAX_SAFETENSORS_HEADER, path.stat().st_size):
            raise ValueError(f"a header of {header} bytes")
        return load_file(path)
    except Exception as error:  # the bindings know types that torch has no name for
        raise ModelError(f"weights file {path}: cannot be read ({type(error).__name__}: {error})") from error


def infer_variant(state: Mapping[str, Tensor], where: str) -> str:
    """The MiT variant whose widths and depths the keys and shapes of `state` have.

    Args:
        state: keys as in a CMX checkpoint (`backbone.…`) or in a bare MiT.
        where: how the message names the source.

    Raises:
        ModelError: no variant fits.
    """
    prefix = _BACKBONE if _BACKBONE + _IMAGENET_MARK in state else ""
    dims, depths = [], []
    for stage in STAGES:
        embed = state.get(f"{prefix}patch_embed{stage}.proj.weight")
        if embed is None or embed.ndim != 4:
            raise ModelError(_not_a_checkpoint(state, f"{prefix}patch_embed{stage}.proj.weight", where))
        dims.append(embed.shape[0])
        block = re.compile(rf"{re.escape(prefix)}block{stage}\.(\d+)\.")
        found = {int(match.group(1)) for key in state if (match := block.match(key))}
        depths.append(len(found))
    for name, variant in MIT_VARIANTS.items():
        if variant.dims == tuple(dims) and variant.depths == tuple(depths):
            return name
    known = "; ".join(f"{name} {v.dims} {v.depths}" for name, v in MIT_VARIANTS.items())
    raise ModelError(f"{where}: no MiT variant has widths {tuple(dims)} and depths {tuple(depths)} (known: {known})")


def _not_a_checkpoint(state: Mapping[str, Tensor], missing: str, where: str) -> str:
    first = ", ".join(list(state)[:_SHOWN])
    return f"{where}: no CMX or MiT weights: key {missing} is missing; the file's first keys are: {first}"


def load_checkpoint(
    path: Path | str,
    *,
    num_classes: int | None = None,
    decoder_dim: int | None = None,
    seed: int = 0,
    new_head: bool = False,
) -> Cmx:
    """A network in evaluation mode from a CMX checkpoint or from ImageNet weights of its encoder.

    Args:
        path: a file that `read_state_dict` takes.
        num_classes: for encoder weights, which hold no classes, the size of the new head; for CMX checkpoints
            the expected number.
        decoder_dim: likewise the decoder's width (512 if None).
        seed: seeds what encoder weights leave open (fusion modules and decoder), and a new head.
        new_head: where a CMX checkpoint has another number of classes, keep all but its last layer, which starts
            anew (to train on other classes), instead of raising.

    Raises:
        ModelError: the file cannot be read or does not fit; the message names the first keys.
    """
    path = Path(path)
    state = read_state_dict(path)
    where = f"weights file {path}"
    if _is_imagenet(state):
        if num_classes is None:
            raise ModelError(f"{where}: holds encoder weights only; give num_classes to build a network around them")
        model = build_cmx(infer_variant(state, where), num_classes, decoder_dim or 512)
        initialise(model, seed)
        _copy_backbone(model, state, where)
        return model.eval()
    variant = infer_variant(state, where)
    classes, width = _head_sizes(state, where)
    if new_head and num_classes not in (None, classes):
        assert num_classes is not None
        state = {**state, **_fresh_head(variant, num_classes, width, seed)}
        classes = num_classes
    for label, expected, got in (("classes", num_classes, classes), ("decoder width", decoder_dim, width)):
        if expected is not None and expected != got:
            raise ModelError(f"{where}: expected {expected} {label}, got {got}")
    with torch.device("meta"):
        model = build_cmx(variant, classes, width)
    _check_fit(model.state_dict(), state, where)
    floats = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    model.load_state_dict(floats, assign=True)
    return model.eval()


def checkpoint_sizes(path: Path | str) -> tuple[str, int, int]:
    """Variant, number of classes and width of the decoder of a CMX checkpoint.

    Raises:
        ModelError: the file cannot be read, or holds no CMX network.
    """
    state = read_state_dict(path)
    variant = infer_variant(state, str(path))
    return (variant, *_head_sizes(state, str(path)))


def _fresh_head(variant: str, num_classes: int, width: int, seed: int) -> StateDict:
    """The last layer of an initialised network."""
    model = build_cmx(variant, num_classes, width)
    initialise(model, seed)
    return {key: value for key, value in model.state_dict().items() if key.startswith(_LAST_LAYER)}


def load_imagenet_backbone(model: Cmx, path: Path | str) -> None:
    """Copies ImageNet weights of a MiT (`mit_bX.pth` of SegFormer) into both branches of `model`, in place.

    The classification head in the file is dropped; fusion modules and decoder keep their values.

    Raises:
        ModelError: the file cannot be read or is of another variant; `model` is then unchanged.
    """
    state = read_state_dict(path)
    where = f"weights file {path}"
    if not _is_imagenet(state):
        raise ModelError(_not_a_checkpoint(state, _IMAGENET_MARK, where))
    _copy_backbone(model, state, where)


def _is_imagenet(state: Mapping[str, Tensor]) -> bool:
    return _IMAGENET_MARK in state and "decode_head.linear_pred.weight" not in state


def _copy_backbone(model: Cmx, state: StateDict, where: str) -> None:
    encoder = {key: value for key, value in state.items() if key not in _IMAGENET_HEAD}
    fused = ("FRMs.", "FFMs.", "extra_")
    own = model.backbone.state_dict()
    branch = {key: value for key, value in own.items() if not key.startswith(fused)}
    _check_fit(branch, encoder, where)
    both = {prefix + key: value for prefix in ("", "extra_") for key, value in encoder.items()}
    model.backbone.load_state_dict({**own, **both})


def _head_sizes(state: StateDict, where: str) -> tuple[int, int]:
    key = "decode_head.linear_pred.weight"
    weight = state.get(key)
    if weight is None or weight.ndim != 4:
        raise ModelError(_not_a_checkpoint(state, key, where))
    return weight.shape[0], weight.shape[1]


def _check_fit(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], where: str) -> None:
    """Raises a ModelError that names the first keys that are missing, unexpected or of another shape."""
    missing = [key for key in expected if key not in got]
    unexpected = [key for key in got if key not in expected]
    shapes = [
        f"{key} (expected {tuple(expected[key].shape)}, got {tuple(got[key].shape)})"
        for key in expected
        if key in got and expected[key].shape != got[key].shape
    ]
    fitting = sum(key in got and got[key].shape == value.shape for key, value in expected.items())
    problems = [
        f"{len(keys)} {label}: {', '.join(keys[:_SHOWN])}" + (", …" if len(keys) > _SHOWN else "")
        for label, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        counts = f"{fitting} of the network's {len(expected)} keys fit, the file has {len(got)}"
        hint = "is it of another variant, another number of classes, or another network?"
        raise ModelError(f"{where}: does not fit the network: {counts}\n  " + "\n  ".join([*problems, hint]))
