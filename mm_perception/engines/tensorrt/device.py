"""The NVIDIA GPU of this machine, asked of its driver without making a CUDA context.

TensorRT's runtime may crash where there is no driver, so this comes first.
"""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from functools import lru_cache

from mm_perception.core.errors import EngineError

OLDEST_CUDA = 12_000
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as its driver says it.
        compute_capability: e.g. "8.7".
        driver: version of the driver, or of the CUDA that it brings where the driver does not tell (Jetson).
        memory_mb: of the GPU [MiB].
    """

    name: str
    compute_capability: str
    driver: str
    memory_mb: int

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability}, driver {self.driver})"


@lru_cache(maxsize=1)
def find_gpu() -> Gpu:
    """The first GPU that CUDA shows (see CUDA_VISIBLE_DEVICES); the answer is kept.

    Raises:
        EngineError: there is no driver, it is too old, or it shows no GPU.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError(f"no NVIDIA GPU: its driver is not installed ({error})") from error
    version, device, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _call(cuda, "cuInit", 0)
    _call(cuda, "cuDriverGetVersion", ctypes.byref(version))
    if version.value < OLDEST_CUDA:
        raise EngineError(
            f"the NVIDIA driver is too old: it brings CUDA {_cuda(version.value)}, expected 12.0 or later"
        )
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if count.value < 1:
        raise EngineError("no NVIDIA GPU: the driver shows none (is CUDA_VISIBLE_DEVICES set?)")
    _call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _call(cuda, "cuDeviceGetName", name, 256, device)
    _call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        _call(cuda, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    driver = _driver_version() or f"CUDA {_cuda(version.value)}"
    return Gpu(name.value.decode(), ".".join(capability), driver, memory.value >> 20)


def _call(cuda: ctypes.CDLL, function: str, *arguments: object) -> None:
    code = getattr(cuda, function)(*arguments)
    if code != 0:
        text = ctypes.c_char_p()
        with contextlib.suppress(AttributeError):
            cuda.cuGetErrorString(code, ctypes.byref(text))
        why = text.value.decode() if text.value else "unknown error"
        raise EngineError(f"no NVIDIA GPU: {function} failed with {code} ({why})")


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _driver_version() -> str | None:
    """From NVML, which Jetsons may lack."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, 96) == 0:
            return text.value.decode()
    except (OSError, AttributeError):
        pass
    return None
