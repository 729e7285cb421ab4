"""What the device can do at most, as far as torch reaches it: the two lines of the roofline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from mm_perception.bench.rows import PRECISIONS
from mm_perception.bench.timing import Device, float32_products

SIDE = {"cuda": 8192, "cpu": 512}
"""Of the square matrices: large enough to keep the device busy, small enough for its memory."""
COPY_MIB = {"cuda": 1024, "cpu": 64}
BATCH_S, BATCHES, MOST_CALLS = 0.05, 5, 50

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def peak_flops(device: Device) -> dict[str, float]:
    """Operations per second of a large matrix product by precision; those that the device lacks are missing.

    Random numbers, because a GPU draws less power and runs faster on zeros.
    """
    side = SIDE[device.torch_device.type]
    rates = {}
    for precision in PRECISIONS:
        try:
            product = _product(precision, side, device)
            if product is not None:
                with float32_products(precision == "tf32"):
                    rates[precision] = _best_rate(product, 2.0 * side**3, device)
        except RuntimeError:  # not supported, or too large: its roofline is then unknown
            continue
        finally:
            device.settle()
    return rates


def peak_bytes_per_s(device: Device) -> float:
    """Of a large copy within the device's memory, bytes read and written both counted."""
    count = COPY_MIB[device.torch_device.type] << 20
    if device.is_gpu:
        free, _ = torch.cuda.mem_get_info(device.torch_device)
        count = min(count, free // 4)
    try:
        return _copy_rate(count, device)
    finally:
        device.settle()


def _copy_rate(count: int, device: Device) -> float:
    source = torch.randint(0, 256, (count,), dtype=torch.uint8, device=device.torch_device)
    target = torch.empty_like(source)
    return _best_rate(lambda: target.copy_(source), 2.0 * count, device)


def _product(precision: str, side: int, device: Device) -> Callable[[], object] | None:
    where = device.torch_device
    if precision == "tf32" and not device.is_gpu:
        return None
    if precision == "int8":
        a, b = (torch.randint(-127, 128, (side, side), dtype=torch.int8, device=where) for _ in range(2))
        transposed = b.t()  # the layout that the GPU's int8 product is made for
        return lambda: torch._int_mm(a, transposed)
    x, y = (torch.randn(side, side, dtype=_DTYPES[precision], device=where) for _ in range(2))
    return lambda: x @ y


def _best_rate(call: Callable[[], object], work: float, device: Device) -> float:
    """Work per second in the best of a few batches."""
    for _ in range(2):
        call()
    seconds = _seconds(call, 1, device)
    calls = max(1, min(MOST_CALLS, math.ceil(BATCH_S / max(seconds, 1e-9))))
    return max(work * calls / _seconds(call, calls, device) for _ in range(BATCHES))


def _seconds(call: Callable[[], object], calls: int, device: Device) -> float:
    device.wait()
    started = time.perf_counter()
    for _ in range(calls):
        call()
    device.wait()
    return time.perf_counter() - started
