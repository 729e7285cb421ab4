"""Asking the driver, played by a double, and the library."""

from __future__ import annotations

import ctypes
import sys
import types

import pytest

from mm_perception.core.errors import EngineError
from mm_perception.engines.tensorrt import device
from mm_perception.engines.tensorrt.device import find_gpu
from mm_perception.engines.tensorrt.library import check_tensorrt, find_library


class Driver:
    """libcuda as far as it is asked; `fails` maps a function to its error code."""

    def __init__(self, version: int = 13000, count: int = 1, fails: dict[str, int] | None = None) -> None:
        self._version, self._count, self._fails = version, count, fails or {}

    def __getattr__(self, name: str):
        def call(*arguments) -> int:
            if name in self._fails:
                return self._fails[name]
            type(self).__dict__.get(f"_{name}", lambda *_: None)(self, *arguments)
            return 0

        return call

    def _cuDriverGetVersion(self, out) -> None:  # noqa: N802
        out._obj.value = self._version

    def _cuDeviceGetCount(self, out) -> None:  # noqa: N802
        out._obj.value = self._count

    def _cuDeviceGetName(self, out, size, which) -> None:  # noqa: N802
        out.value = b"Orin"

    def _cuDeviceTotalMem_v2(self, out, which) -> None:  # noqa: N802
        out._obj.value = 30 << 30

    def _cuDeviceGetAttribute(self, out, attribute, which) -> None:  # noqa: N802
        out._obj.value = {75: 8, 76: 7}[attribute]

    def _cuGetErrorString(self, code, out) -> None:  # noqa: N802
        out._obj.value = b"no CUDA-capable device is detected"


@pytest.fixture
def driver(monkeypatch):
    """Installs a driver, or None for none."""

    def install(found: Driver | None) -> None:
        def load(name: str):
            if name != "libcuda.so.1" or found is None:
                raise OSError(f"{name}: cannot open shared object file")
            return found

        monkeypatch.setattr(ctypes, "CDLL", load)
        find_gpu.cache_clear()

    yield install
    find_gpu.cache_clear()


def test_a_gpu_is_described_without_nvml(driver):
    driver(Driver())
    gpu = find_gpu()
    assert (gpu.name, gpu.compute_capability, gpu.driver, gpu.memory_mb) == ("Orin", "8.7", "CUDA 13.0", 30 << 10)
    assert "Orin" in str(gpu) and "8.7" in str(gpu)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "no NVIDIA GPU: its driver is not installed"),
        (Driver(version=11080), r"too old: it brings CUDA 11\.8, expected 12\.0"),
        (Driver(count=0), "the driver shows none"),
        (Driver(fails={"cuInit": 100}), "cuInit failed with 100 .no CUDA-capable device"),
    ],
)
def test_what_is_missing_is_named(driver, found, said):
    driver(found)
    with pytest.raises(EngineError, match=said):
        find_gpu()
    with pytest.raises(EngineError, match=said):
        check_tensorrt()


def test_unknown_and_missing_libraries(monkeypatch):
    with pytest.raises(EngineError, match="expected one of tensorrt, tensorrt_rtx"):
        find_library("tensorflow")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"tensorrt is not installed; tensorrt_rtx is not installed.*pip install"):
        find_library()


@pytest.mark.parametrize(
    ("version", "parts", "said"),
    [
        ("8.6.1", {"Builder": 1, "Runtime": 1, "OnnxParser": 1}, "tensorrt 8.6.1 is too old, expected 10.1"),
        ("10.16.0", {}, "tensorrt cannot be used"),
    ],
)
def test_old_libraries_and_stubs_are_refused(monkeypatch, version, parts, said):
    stub = types.SimpleNamespace(__version__=version, **parts)
    monkeypatch.setitem(sys.modules, "tensorrt", stub)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(EngineError, match=said):
        find_library("tensorrt")


def test_the_driver_is_asked_once(driver):
    driver(Driver())
    assert find_gpu() is find_gpu()
    assert device.OLDEST_CUDA == 12_000
