"""A workshop for this machine: which TensorRT, which GPU, and what runs plans and reference outputs on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mm_perception.core.errors import EngineError
from mm_perception.engines.card import WeightsCard
from mm_perception.engines.engine import Engine
from mm_perception.engines.load import open_float32
from mm_perception.engines.tensorrt.device import find_gpu
from mm_perception.engines.tensorrt.ladder import Runner, Workshop
from mm_perception.engines.tensorrt.library import Library, check_tensorrt, find_library
from mm_perception.engines.tensorrt.settings import BuildSettings, TensorRtSettings

if TYPE_CHECKING:
    from mm_perception.engines.tensorrt.cuda import SharedScratch


def workshop(
    card: WeightsCard, onnx_file: Path, settings: TensorRtSettings, cache: Path, tell: Callable[[str], None]
) -> Workshop:
    """The workshop for an exported network. With a compute capability to build for, no GPU is asked for or used.

    Raises:
        EngineError: as `check_tensorrt`.
    """
    library = find_library(settings.library)
    gpu, runner = None, None
    if settings.build.compute_capability is None:
        check_tensorrt(settings.library)
        gpu, runner = find_gpu(), _runner(card, settings, library, tell)
    return Workshop(card, onnx_file, settings, library, gpu, runner, open_reference, cache / "tensorrt", tell)


def open_reference(path: Path) -> Engine:
    """What engines are compared with. Raises EngineError if nothing that could run it is installed."""
    engine = open_float32(path)
    if engine is None:
        raise EngineError("the self-test needs a float32 engine: pip install onnxruntime")
    return engine


def _runner(card: WeightsCard, settings: TensorRtSettings, library: Library, tell: Callable[[str], None]) -> Runner:
    def open_plan(path: Path, build: BuildSettings) -> Engine:
        from mm_perception.engines.tensorrt.cuda import CudaDevice
        from mm_perception.engines.tensorrt.engine import TensorRtEngine

        inputs, outputs = card.specs()
        engine = TensorRtEngine(
            library, path, inputs, outputs, CudaDevice(), _scratch(),
            cuda_graph=settings.cuda_graph, build=build, tell=tell,
        )  # fmt: skip
        try:
            engine.warm_up()
        except EngineError:
            engine.close()
            raise
        return engine

    return open_plan


def forget_scratch() -> None:
    """Engines that are opened later get scratch memory of their own; that of the others goes with the last of them."""
    _scratch.cache_clear()


@lru_cache(maxsize=1)
def _scratch() -> SharedScratch:
    """Segmentation and detection run one after the other: one piece of memory serves both."""
    from mm_perception.engines.tensorrt.cuda import CudaDevice, SharedScratch

    return SharedScratch(CudaDevice())
