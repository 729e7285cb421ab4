"""Kept engines, and the stamps that say whether one may be used.

Beside `m.engine` lies `m.engine.stamp.json`. A stamp is removed before its engine is replaced and written after it,
so an interrupted build leaves an engine that is not trusted. Looking one up reads and hashes files and parses no ONNX.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mm_perception import __version__
from mm_perception.core.config import from_mapping
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import read_json
from mm_perception.engines.card import WeightsCard
from mm_perception.engines.onnx_file import check_onnx_file
from mm_perception.engines.stamp import differences, file_sha256, installed_version, stamp_path
from mm_perception.engines.tensorrt.device import Gpu
from mm_perception.engines.tensorrt.library import Library
from mm_perception.engines.tensorrt.settings import BuildSettings, TensorRtSettings

CONVERTERS = ("nvidia-modelopt",)
ANY_GPU = "any"
ADOPTED = ("ladder", "build", "keep_fp32", "calibration")


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that an engine is made from, or that decides whether it can run here.

    Attributes:
        onnx: name and sha256 of the float32 network's file and of the files of its weights, where those lie apart.
        card: sha256 of the model card's content.
        library, version: the TensorRT.
        gpu, driver: "any" for engines that were built without one.
        asked: the first precision that was tried; ladder: whether a step down was allowed.
        keep_fp32, calibration: as asked for; the latter as the file's sha256.
        build: settings of the builder, shapes among them.
        package, converters: versions of this package and of what writes precision into graphs.
    """

    onnx: Mapping[str, str]
    card: str
    library: str
    version: str
    gpu: str
    compute_capability: str
    driver: str
    asked: str
    ladder: bool
    keep_fp32: tuple[str, ...]
    calibration: str
    build: Mapping[str, Any]
    package: str
    converters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EngineStamp:
    """What an engine file is.

    Attributes:
        engine_sha256: of the file.
        key: what it was made from.
        precision: what it came out as.
        kept: modules that stayed in float32.
        references: sha256 of the recorded inputs that it was tried on; "made": on made ones.
        tested: the self-test's result in words.
        on_gpu: whether the self-test ran the engine itself; else only its rounding was tried, on the CPU.
        steps: why faster precisions were passed over.
        layers, build_s: number of TensorRT's layers, and how long it took.
    """

    engine_sha256: str
    key: EngineKey
    precision: str
    kept: tuple[str, ...]
    references: str
    tested: str
    on_gpu: bool
    steps: tuple[str, ...] = ()
    layers: int = 0
    build_s: float = field(default=0.0)


def engine_key(
    onnx_files: Mapping[str, str], card: WeightsCard, library: Library, gpu: Gpu | None, settings: TensorRtSettings
) -> EngineKey:
    """What an engine made now would be made from.

    Args:
        onnx_files: as `hashes` gives them.
        gpu: None where it is built for a GPU that is not there.

    Raises:
        ModelError: the calibration file cannot be read.
    """
    build = json.loads(json.dumps(dataclasses.asdict(settings.build)))
    calibration = settings.calibration
    return EngineKey(
        onnx=onnx_files,
        card=card.content_sha256(),
        library=library.name,
        version=library.version,
        gpu=gpu.name if gpu is not None else ANY_GPU,
        compute_capability=gpu.compute_capability if gpu is not None else str(settings.build.compute_capability),
        driver=gpu.driver if gpu is not None else ANY_GPU,
        asked=settings.first,
        ladder=settings.ladder,
        keep_fp32=settings.keep_fp32,
        calibration=file_sha256(calibration) if calibration is not None and settings.precision == "int8" else "none",
        build=build,
        package=__version__,
        converters={name: installed_version(name) for name in CONVERTERS},
    )


def weight_files(path: Path) -> list[str]:
    """Names of the files in which an ONNX file's weights lie, where they lie apart. Parses the file."""
    import onnx

    check_onnx_file(path)
    model = onnx.load(str(path), load_external_data=False)
    names: dict[str, None] = {}
    for one in model.graph.initializer:
        if one.data_location == onnx.TensorProto.EXTERNAL:
            names |= {entry.value: None for entry in one.external_data if entry.key == "location"}
    return list(names)


def hashes(path: Path, apart: Sequence[str]) -> dict[str, str]:
    """sha256 by name of an ONNX file and of the files of its weights.

    Raises:
        ModelError: one is missing.
    """
    return {path.name: file_sha256(path)} | {name: file_sha256(path.parent / name) for name in apart}


def read_engine_stamp(engine: Path) -> EngineStamp | None:
    """The stamp of an engine; None where it is missing or unreadable."""
    path = stamp_path(engine)
    try:
        stamp = from_mapping(EngineStamp, read_json(path), str(path))
        BuildSettings.of(stamp.key.build)
    except (ConfigError, TypeError, ValueError, KeyError, AttributeError):
        return None
    return stamp


def engine_problems(engine: Path, stamp: EngineStamp | None, key: EngineKey, adopt: bool) -> list[str]:
    """Why a kept engine may not be used; empty where it may. Each line names one difference.

    Args:
        adopt: see `TensorRtSettings`.
    """
    if not engine.is_file():
        return ["there is none yet"]
    if stamp is None:
        return ["it has no readable stamp: building it was interrupted, or it is not from this cache"]
    problems = differences(_what_fits(stamp.key, key, adopt), stamp.key)
    found = file_sha256(engine)
    if found != stamp.engine_sha256:
        problems.append(f"engine file: damaged, expected sha256 {stamp.engine_sha256[:12]}…, got {found[:12]}…")
    return problems


def _what_fits(kept: EngineKey, key: EngineKey, adopt: bool) -> EngineKey:
    """The key, with the kept one's values in the place of those that may differ."""
    fits: dict[str, Any] = {
        # Where no converter is installed none could rebuild it.
        "converters": {n: kept.converters.get(n, v) if v == "none" else v for n, v in key.converters.items()},
    }
    if adopt:
        fits |= {name: getattr(kept, name) for name in ADOPTED}
    if kept.gpu == ANY_GPU and key.compute_capability == kept.compute_capability:
        build = {**key.build, "compute_capability": kept.compute_capability}
        fits = {"build": build} | fits | {"gpu": ANY_GPU, "driver": ANY_GPU}
    if kept.build.get("hardware_compatible") and min(
        map(_numbers, (kept.compute_capability, key.compute_capability))
    ) >= (8, 0):
        fits |= {name: getattr(kept, name) for name in ("gpu", "compute_capability", "driver")}
    newer, older = _numbers(key.version), _numbers(kept.version)
    if kept.build.get("version_compatible") and newer[:1] == older[:1] and newer >= older:
        fits["version"] = kept.version
    return dataclasses.replace(key, **fits)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isascii() and part.isdigit() and len(part) < 10)


def adopted(settings: TensorRtSettings, stamp: EngineStamp | None) -> TensorRtSettings:
    """The settings with which an engine is built anew: with `adopt` the choices of the one that is there."""
    if stamp is None or not settings.adopt:
        return settings
    build = {**stamp.key.build, "compute_capability": settings.build.compute_capability}
    kept = stamp.key.keep_fp32
    return dataclasses.replace(settings, build=BuildSettings.of(build), keep_fp32=kept, ladder=stamp.key.ladder)


def engine_file(
    folder: Path, onnx_file: Path, settings: TensorRtSettings, compute_capability: str | None = None
) -> Path:
    """Where the engine of an exported network and a wanted precision is kept.

    Args:
        compute_capability: of engines that were built without their GPU.
    """
    suffix = f"-sm{compute_capability.replace('.', '')}" if compute_capability else ""
    return folder / f"{onnx_file.stem}-{settings.first}{suffix}.engine"
