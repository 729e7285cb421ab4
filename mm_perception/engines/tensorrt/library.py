"""Which TensorRT there is: the full one or TensorRT-RTX, and what its log says."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from mm_perception.core.errors import EngineError
from mm_perception.engines.tensorrt.device import find_gpu

LIBRARIES = ("tensorrt", "tensorrt_rtx")
OLDEST = {"tensorrt": (10, 1), "tensorrt_rtx": (1, 4)}
KEPT_MESSAGES = 20


@dataclass(frozen=True, slots=True)
class Library:
    """An installed TensorRT.

    Attributes:
        name: "tensorrt" or "tensorrt_rtx".
        version: e.g. "10.16.1.11".
        module: its Python bindings.
    """

    name: str
    version: str
    module: Any

    def __str__(self) -> str:
        return f"{'TensorRT' if self.name == 'tensorrt' else 'TensorRT-RTX'} {self.version}"


def find_library(name: str | None = None) -> Library:
    """The TensorRT of a name, or the first of `LIBRARIES` that can be imported.

    Raises:
        EngineError: there is none, or it is too old; the message says what to install.
    """
    if name is not None and name not in LIBRARIES:
        raise EngineError(f"TensorRT: expected one of {', '.join(LIBRARIES)}, got {name!r}")
    reasons = []
    for candidate in (name,) if name else LIBRARIES:
        try:
            return _import(candidate)
        except EngineError as error:
            reasons.append(str(error))
    raise EngineError(
        f"TensorRT is not there ({'; '.join(reasons)}): it comes with JetPack, with NVIDIA's Debian packages or "
        f"containers; for RTX GPUs, pip install tensorrt-rtx"
    )


def check_tensorrt(library: str | None = None) -> None:
    """Raises EngineError with what is missing to run TensorRT here: a driver, a GPU, the library, a torch with CUDA."""
    find_gpu()
    find_library(library)
    try:
        import torch
    except ImportError as error:
        raise EngineError(f"TensorRT's tensors are torch's, which cannot be imported ({error})") from error
    if not torch.cuda.is_available():
        raise EngineError("torch sees no GPU: install a build of torch with CUDA, for this driver")


def _import(name: str) -> Library:
    if importlib.util.find_spec(name) is None:
        raise EngineError(f"{name} is not installed")
    try:
        module = importlib.import_module(name)
        version = str(module.__version__)
        module.Builder, module.Runtime, module.OnnxParser  # noqa: B018  # PyPI's stubs import, and hold nothing
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise EngineError(f"{name} cannot be used ({error})") from error
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST[name]:
        oldest = ".".join(map(str, OLDEST[name]))
        raise EngineError(f"{name} {version} is too old, expected {oldest} or later")
    return Library(name, version, module)


def make_log(trt: Any) -> Any:
    """A logger of the library whose `messages` are the newest errors, for error texts."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.messages = [*self.messages, text.strip()][-KEPT_MESSAGES:]

    return Log()
