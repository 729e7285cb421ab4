"""Targets of files: configuration, cards, checkpoints, stamps and ONNX graphs."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from mm_perception.core.config import load_yaml
from mm_perception.core.errors import MmPerceptionError
from mm_perception.core.resources import config_dir
from mm_perception.core.rig import RigConfig
from mm_perception.core.settings import FusionSettings
from mm_perception.engines.card import load_card
from mm_perception.engines.detector_card import find_any_card
from mm_perception.engines.stamp import read_stamp, stamp_path
from mm_perception.engines.tensorrt.cache import read_engine_stamp
from mm_perception.fuzz.bag_targets import scratch_file
from mm_perception.fuzz.mutate import mutated_bytes, mutated_text, one_of
from mm_perception.fuzz.targets import Target

_WORDS = (
    "&a [*a, *a]", "*a", "<<: *a", "&a", "!!float abc", "!!python/object:os.system x", "!!binary aGk=", "2026-13-45",
    "2026-01-01", ".nan", ".inf", "-.inf", "9" * 30, "9" * 5000, "1:2:3:4", "0x" + "f" * 40, "[" * 30, "{" * 12,
    "? [a]", "null", "~", "true", "''", "\0", "\t", "random:" + "9" * 30, "1e999", "-1", "- -", "|", ">", "%YAML 9.9",
    "...", "---", "~nobody/x.pth", "../../x.onnx", "é", "\ud7ff", "[]", "{}", "0", "1e-320",
)  # fmt: skip


def file_targets() -> list[Target]:
    """Targets of what is installed."""
    targets = [
        Target("rig", _yaml_maker("rigs"), _yaml_reader(lambda path: load_yaml(path, RigConfig)), 12),
        Target("settings", _settings_maker, _yaml_reader(lambda path: load_yaml(path, FusionSettings)), 12),
        Target("card", _yaml_maker("models"), _yaml_reader(_read_cards), 8),
        Target("stamp", _make_stamp, _read_stamps, 15),
    ]
    if importlib.util.find_spec("torch") is not None and importlib.util.find_spec("safetensors") is not None:
        targets.append(Target("pth", _make_pth, lambda data: _read_weights(data, ".pth"), 5))
        targets.append(Target("safetensors", _make_safetensors, lambda data: _read_weights(data, ".safetensors"), 15))
    if importlib.util.find_spec("onnx") is not None:
        targets.append(Target("onnx", lambda rng: mutated_bytes(_onnx(), rng), _read_onnx, 10))
    return targets


@lru_cache(maxsize=4)
def _texts(folder: str) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted((config_dir() / folder).glob("*.yaml"))]


def _yaml_maker(folder: str) -> Callable[[Random], bytes]:
    def text(rng: Random) -> bytes:
        return mutated_text(rng.choice(_texts(folder)), rng, _WORDS).encode("utf-8", "surrogatepass")

    return one_of([text, text, lambda rng: mutated_bytes(rng.choice(_texts(folder)).encode(), rng)])


def _settings_maker(rng: Random) -> bytes:
    lines = ["rig: demo", "threads: 2", "max_wait_ms: 3.5", "engine: auto", "build_only: false", "overlay_alpha: 0.5"]
    return mutated_text("\n".join(lines), rng, _WORDS).encode("utf-8", "surrogatepass")


def _yaml_reader(read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        read(scratch_file(data, "file.yaml"))

    return run


def _read_cards(path: Path) -> None:
    for read in (load_card, find_any_card):
        with contextlib.suppress(MmPerceptionError):
            card: Any = read(path)
            card.specs()
            card.content_sha256()


_STAMP = {
    "artefact_sha256": "ab" * 32, "weights": "random:3", "card_sha256": "cd" * 32, "package_version": "0.1.0",
    "tools": {"torch": "2.0"}, "input_size": [3, 4],
}  # fmt: skip
_KEY = {
    "onnx": {"m.onnx": "ab"}, "card": "cd", "library": "tensorrt", "version": "10.1", "gpu": "any",
    "compute_capability": "8.6", "driver": "any", "asked": "fp16", "ladder": True, "keep_fp32": ["a/"],
    "calibration": "none", "build": {"tf32": False, "shapes": {}}, "package": "0.1.0", "converters": {"m": "1"},
}  # fmt: skip
_ENGINE_STAMP = {
    "engine_sha256": "ab" * 32, "key": _KEY, "precision": "fp16", "kept": ["a/"], "references": "made",
    "tested": "well", "on_gpu": True, "steps": [], "layers": 3, "build_s": 1.5,
}  # fmt: skip
_JSON_WORDS = (
    "null",
    "[" * 3000,
    '{"a":' * 3000,
    "1e999",
    "NaN",
    "-1",
    "9" * 5000,
    '""',
    "[]",
    "{}",
    "true",
    '"\\ud800"',
)


def _make_stamp(rng: Random) -> bytes:
    text = json.dumps(rng.choice((_STAMP, _ENGINE_STAMP)), indent=rng.choice((None, 1)))
    if rng.random() < 0.5:
        return mutated_bytes(text.encode(), rng)
    return mutated_text(text, rng, _JSON_WORDS).encode("utf-8", "surrogatepass")


def _read_stamps(data: bytes) -> None:
    path = scratch_file(data, "m.onnx.stamp.json")
    artefact = path.with_name("m.onnx")
    assert stamp_path(artefact) == path
    read_stamp(artefact)
    read_engine_stamp(artefact)


@lru_cache(maxsize=1)
def _weights() -> dict[str, bytes]:
    """A small checkpoint in each form: torch's archive, the older one, and safetensors."""
    import torch
    from safetensors.torch import save

    torch.set_num_threads(1)
    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3), "n": torch.tensor([1, 2])}
    forms = {}
    for name, archive in (("new", True), ("old", False)):
        file = io.BytesIO()
        torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=archive)
        forms[name] = file.getvalue()
    return {**forms, "safetensors": save(state)}


def _make_pth(rng: Random) -> bytes:
    """A damaged file, or a whole archive around a damaged description of its tensors."""
    if rng.random() < 0.4:
        return mutated_bytes(_weights()[rng.choice(("new", "old"))], rng)
    source, target = io.BytesIO(_weights()["new"]), io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w", packing) as after:
        for entry in before.infolist():
            data = before.read(entry)
            if entry.filename.endswith("data.pkl"):
                data = _described(data, rng)
            elif rng.random() < 0.1:
                data = mutated_bytes(data, rng)
            after.writestr(entry.filename, data)
    return target.getvalue()


def _described(data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.9:
        return mutated_bytes(data, rng)
    return pickle.dumps(rng.choice(({}, [1], {"a": 1}, {1: {2: 3}}, bytearray(100), 10**400, "x")), 2)


def _make_safetensors(rng: Random) -> bytes:
    data = _weights()["safetensors"]
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3:
        return mutated_bytes(data, rng)
    header = mutated_bytes(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _read_weights(data: bytes, suffix: str) -> None:
    from mm_perception.models.checkpoint import load_checkpoint, read_state_dict

    path = scratch_file(data, f"weights{suffix}")
    with contextlib.suppress(MmPerceptionError):
        read_state_dict(path)
    load_checkpoint(path)


@lru_cache(maxsize=1)
def _onnx() -> bytes:
    import numpy as np
    import onnx
    from onnx import helper

    shape = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 3))
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 3))
    weight = onnx.numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")
    size = onnx.numpy_helper.from_array(np.array([1, 3], np.int64), "s")
    outside = onnx.TensorProto(
        name="e", data_type=1, dims=(2,), data_location=onnx.TensorProto.EXTERNAL,
        external_data=[onnx.StringStringEntryProto(key="location", value="w.bin")],
    )  # fmt: skip
    nodes = [
        helper.make_node("Expand", ["w", "s"], ["v"]), helper.make_node("Add", ["x", "v"], ["y"]),
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [shape], [out], [weight, size, outside])
    return bytes(helper.make_model(graph).SerializeToString())


def _read_onnx(data: bytes) -> None:
    from mm_perception.engines.onnx_file import check_onnx_file

    check_onnx_file(scratch_file(data, "m.onnx"))
