"""The device that is measured: its clock, its memory, and how long something takes on it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mm_perception.bench.machine import cpu_name, driver_version
from mm_perception.core.errors import EngineError

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Timing:
    """See `bench.rows.Row`."""

    median_ms: float
    p99_ms: float
    per_s: float


class Device:
    """A CPU or an NVIDIA GPU as torch names it.

    Attributes:
        torch_device: "cpu", or "cuda:0" and its like.
    """

    def __init__(self, name: str) -> None:
        """Raises EngineError if it is no device, or a GPU that torch cannot use; it says why."""
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise EngineError(f"--device: expected cpu, cuda or cuda:<index>, got {name!r}") from error
        if device.type not in ("cpu", "cuda"):
            raise EngineError(f"--device: expected cpu, cuda or cuda:<index>, got {name!r}")
        if device.type == "cuda":
            _check_gpu(device)
            device = torch.device("cuda", device.index or 0)
            torch.cuda.set_device(device)
        self.torch_device = device

    @property
    def is_gpu(self) -> bool:
        return self.torch_device.type == "cuda"

    def describe(self) -> dict[str, str]:
        """What the device is, and the versions of what drives it."""
        if not self.is_gpu:
            return {"device": f"CPU (not a GPU): {cpu_name()}", "threads": str(torch.get_num_threads())}
        properties = torch.cuda.get_device_properties(self.torch_device)
        return {
            "device": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": str(properties.multi_processor_count),
            "memory_mib": str(properties.total_memory // MIB),
            "driver": driver_version(),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        }

    def wait(self) -> None:
        """Until everything that was given to the device is done."""
        if self.is_gpu:
            torch.cuda.synchronize(self.torch_device)

    def settle(self) -> None:
        """Gives back what nobody uses any more, so that memory can be compared."""
        gc.collect()
        if self.is_gpu:
            self.wait()
            torch.cuda.empty_cache()

    def used_mib(self) -> float | None:
        """Memory of the whole GPU that is taken, by whomever; None for a CPU."""
        if not self.is_gpu:
            return None
        free, total = torch.cuda.mem_get_info(self.torch_device)
        return (total - free) / MIB

    def problem(self) -> str:
        """Why the device can do nothing more; empty if it can. An illegal access ends a process's use of a GPU."""
        try:
            torch.zeros(1, device=self.torch_device).add_(1)
            self.wait()
        except RuntimeError as error:
            return str(error).split("\n", 1)[0]
        return ""


def _check_gpu(device: torch.device) -> None:
    if torch.version.cuda is None:
        raise EngineError(
            f"no NVIDIA GPU can be used: torch {torch.__version__} is built without CUDA; install one that is built "
            "with it, or try the torch rows with --device cpu"
        )
    if not torch.cuda.is_available():
        raise EngineError(
            f"no NVIDIA GPU can be used: torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU or no "
            "driver (what does nvidia-smi say?); try the torch rows with --device cpu"
        )
    if (device.index or 0) >= torch.cuda.device_count():
        raise EngineError(f"--device: there are {torch.cuda.device_count()} GPUs, got {device}")


def measure(run: Callable[[], object], device: Device, rounds: int, warmup: int) -> Timing:
    """Times one call by the wall clock, waiting for the device before and after: what a caller has to wait.

    The rate is taken from a second loop, on a GPU without waiting between the calls.
    """
    for _ in range(warmup):
        run()
    latencies = []
    for _ in range(rounds):
        device.wait()
        started = time.perf_counter()
        run()
        device.wait()
        latencies.append((time.perf_counter() - started) * 1e3)
    median, p99 = np.percentile(latencies, (50, 99))
    per_s = _rate(run, device, rounds) if device.is_gpu else 1e3 / float(np.mean(latencies))
    return Timing(float(median), float(p99), per_s)


def _rate(run: Callable[[], object], device: Device, rounds: int) -> float:
    device.wait()
    started = time.perf_counter()
    for _ in range(rounds):
        run()
    device.wait()
    return rounds / (time.perf_counter() - started)


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Whether torch may round float32 products on a GPU to TF32. By itself it does so in convolutions alone."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = tf32, tf32, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
