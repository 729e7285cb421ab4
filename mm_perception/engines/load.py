"""From a model card to a running engine: the choice, the export where one is needed, the checks between."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from mm_perception.core.errors import EngineError, ModelError
from mm_perception.core.processes import check_not_ended
from mm_perception.engines.card import WeightsCard
from mm_perception.engines.engine import Engine, check_specs
from mm_perception.engines.stamp import (
    check_writable,
    default_cache_dir,
    file_sha256,
    locked,
    make_stamp,
    remove_stamp,
    stamp_problems,
    weights_identity,
    write_stamp,
)
from mm_perception.engines.tensorrt.library import check_tensorrt
from mm_perception.engines.tensorrt.settings import TensorRtSettings

Progress = Callable[[str], None]

ENGINE_NAMES = ("tensorrt", "openvino", "onnxruntime", "torch")
"""In the order in which `auto` tries them: the GPU first, then the fastest on a CPU as `mm-perception bench engines`
measures it."""
EXPORT_TOOLS = ("torch", "onnx", "onnxscript")


def load_engine(
    card: WeightsCard,
    engine: str = "auto",
    *,
    threads: int | None = None,
    cache_dir: Path | str | None = None,
    on_progress: Progress | None = None,
    tensorrt: TensorRtSettings | None = None,
) -> Engine:
    """An engine that runs the card's network.

    All but torch take ONNX files: a card with other weights is exported once into the cache, and again when the
    stamp there differs from card, weights or exporter. A file that the user names is never rebuilt: one that is not
    the card's is refused. TensorRT builds its engine from the ONNX file and keeps it, too; see `tensorrt.ladder`.

    Args:
        card: what to run.
        engine: "auto" for the fastest that is there, or one of `ENGINE_NAMES`.
        threads: CPU threads of one inference; None lets the runtime choose.
        cache_dir: for exported files; None is `default_cache_dir()`.
        on_progress: is told in a few words about what takes long, and why an engine was passed over.
        tensorrt: how TensorRT builds and runs; None: in fp16, checked, or as an engine is there.

    Raises:
        ModelError: the weights are missing or are not the card's.
        EngineError: the engine is unknown or not installed, cannot run these weights, or refuses the file.
    """
    tell: Progress = on_progress if on_progress is not None else lambda text: None
    if engine != "auto" and engine not in ENGINE_NAMES:
        raise EngineError(f"engine: expected auto or one of {', '.join(ENGINE_NAMES)}, got {engine!r}")
    if threads is not None and threads < 1:
        raise EngineError(f"threads: expected at least 1, got {threads}")
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    weights = weights_identity(card)
    if engine != "auto":
        return _load(card, engine, weights, threads, cache, tell, tensorrt)
    reasons = []
    for name in ENGINE_NAMES:
        try:
            return _load(card, name, weights, threads, cache, tell, tensorrt)
        except EngineError as error:
            reasons.append(f"{name}: {error}")
            tell(f"engine {name} passed over: {error}")
    raise EngineError(f"no engine can run {card.name}\n  " + "\n  ".join(reasons))


def installed(package: str) -> bool:
    """Whether a package can be found; it is not imported."""
    return importlib.util.find_spec(package) is not None


def available_engines() -> tuple[str, ...]:
    """Names of the engines that can run here, fastest first."""
    return tuple(name for name in ENGINE_NAMES if why_not(name) is None)


def why_not(name: str) -> str | None:
    """What keeps an engine from running here; None: nothing."""
    if name != "tensorrt":
        return None if installed(name) else f"engine {name} is not installed: pip install {name}"
    try:
        check_tensorrt()
    except EngineError as error:
        return str(error)
    return None


def exported(card: WeightsCard, cache_dir: Path | str | None = None, on_progress: Progress | None = None) -> Path:
    """The card's network as an ONNX file: its own, or the one in the cache, which is exported where it is not there.

    Raises:
        ModelError: the weights are missing or are not the card's.
        EngineError: a package that the export needs is missing.
    """
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    weights = weights_identity(card)
    path = card.weights_path
    if path is not None and path.suffix == ".onnx":
        return path
    artefact = _artefact(card, cache)
    tell = on_progress or (lambda text: None)
    with locked(artefact, tell=tell):
        _ensure_exported(card, weights, artefact, tell)
    return artefact


def open_float32(path: Path) -> Engine | None:
    """An ONNX file in an engine that computes in float32 on the CPU; None where none is installed.

    Raises:
        EngineError: the engine refuses the file.
    """
    if installed("onnxruntime"):
        from mm_perception.engines.onnx_engine import OnnxEngine

        return OnnxEngine(path)
    if installed("openvino"):
        from mm_perception.engines.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(path)
    return None


def _artefact(card: WeightsCard, cache: Path) -> Path:
    height, width = card.input_size
    return cache / "onnx" / f"{card.name}-{height}x{width}.onnx"


def _load(
    card: WeightsCard,
    name: str,
    weights: str,
    threads: int | None,
    cache: Path,
    tell: Progress,
    tensorrt: TensorRtSettings | None,
) -> Engine:
    if name == "tensorrt":
        return _load_tensorrt(card, tensorrt or TensorRtSettings(adopt=True), cache, tell)
    missing = why_not(name)
    if missing is not None:
        raise EngineError(missing)
    if name == "torch":
        return _load_torch(card, threads)
    path = card.weights_path
    if path is not None and path.suffix == ".onnx":
        return _open_onnx(card, name, path, threads)
    artefact = _artefact(card, cache)
    with locked(artefact, tell=tell):  # until the runtime has read the file: another process may want to rebuild it
        _ensure_exported(card, weights, artefact, tell)
        return _open_onnx(card, name, artefact, threads)


def _load_tensorrt(card: WeightsCard, settings: TensorRtSettings, cache: Path, tell: Progress) -> Engine:
    check_tensorrt(settings.library)
    from mm_perception.engines.tensorrt.opening import workshop

    onnx_file = exported(card, cache, tell)
    _, engine = workshop(card, onnx_file, settings, cache, tell).ready()
    if engine is None:
        raise EngineError("an engine for another GPU was built; it cannot run here")
    return engine


def _load_torch(card: WeightsCard, threads: int | None) -> Engine:
    path = card.weights_path
    if path is not None and path.suffix == ".onnx":
        raise EngineError(f"engine torch cannot run {path}: use openvino or onnxruntime, or give the .pth file")
    from mm_perception.engines.torch_engine import TorchEngine, best_device

    return TorchEngine.from_card(card, threads=threads, device=best_device())


def _open_onnx(card: WeightsCard, name: str, path: Path, threads: int | None) -> Engine:
    engine: Engine
    if name == "openvino":
        from mm_perception.engines.openvino_engine import OpenVinoEngine

        engine = OpenVinoEngine(path, threads=threads)
    else:
        from mm_perception.engines.onnx_engine import OnnxEngine

        engine = OnnxEngine(path, threads=threads)
    inputs, outputs = card.specs()
    try:
        check_specs((*inputs, *outputs), (*engine.inputs, *engine.outputs), str(path))
    except EngineError as error:
        engine.close()
        raise ModelError(f"model {card.name}: the ONNX file is not what its card says: {error}") from error
    return engine


def _ensure_exported(card: WeightsCard, weights: str, artefact: Path, tell: Progress) -> None:
    """Exports the card's network to `artefact` unless its stamp says that this has been done."""
    problems = stamp_problems(artefact, card, weights, EXPORT_TOOLS)
    if not problems:
        return
    missing = [tool for tool in EXPORT_TOOLS if not installed(tool)]
    if missing:
        raise EngineError(
            f"{card.name} must be exported to ONNX first ({problems[0]}), which needs {', '.join(missing)}: "
            f"pip install {' '.join(missing)}, or use a card whose weights are an .onnx file"
        )
    check_writable(artefact.parent, f"{card.name} must be exported to ONNX ({problems[0]})")
    from mm_perception.engines.export import export_onnx
    from mm_perception.engines.torch_engine import deployed_network

    tell(f"exporting {card.name} to {artefact} ({'; '.join(problems)})")
    try:
        remove_stamp(artefact)
        report = export_onnx(deployed_network(card), card, artefact)
        write_stamp(artefact, make_stamp(card, weights, file_sha256(artefact), EXPORT_TOOLS))
    except OSError as error:  # a full disk, mostly
        raise EngineError(f"{artefact}: cannot be written ({error.strerror or error})") from error
    check_not_ended()
    compared = "not compared: no engine" if report.max_abs_diff is None else f"off by {report.max_abs_diff:.1g}"
    tell(f"exported {card.name} in {report.export_s:.0f} s (outputs against torch: {compared})")
