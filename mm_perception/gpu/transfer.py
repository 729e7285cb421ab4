"""The ways between the host and a device. Nothing else in this room knows of pinned memory, streams and events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy on the device of an array of any strides; on CUDA it is under way when this returns.

    The GPU fetches pinned memory by itself, beside the host's and its own work. torch keeps such memory for the next
    upload, and gives none away that is still being read.
    """
    kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
    host = torch.empty(array.shape, dtype=kind, pin_memory=device.type == "cuda")
    host.numpy()[...] = array
    return host.to(device, non_blocking=True)


def upload_to_keep(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy that is finished when this returns: what is kept may be used by others than who uploaded it."""
    return torch.from_numpy(np.array(array)).to(device)


def download(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Copies on the host, finished when this returns."""
    return {name: np.asarray(tensor.cpu().numpy()) for name, tensor in tensors.items()}


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(N,) numbers on the device; kept, because each upload of pageable memory lets the host wait."""
    return torch.tensor(values, dtype=dtype, device=device)


class Lane:
    """A row in which a device does one thing after the other: on CUDA a stream, beside those of networks.

    Elsewhere all is done when it is called, and a lane does nothing.

    Attributes:
        device: where it is.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is called within stands in this lane."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def mark(self) -> Callable[[], None]:
        """A function that lets whatever its caller's thread computes next wait for all that stands in the lane now."""
        if self._stream is None:
            return lambda: None
        device, event = self.device, self._stream.record_event()
        return lambda: torch.cuda.current_stream(device).wait_event(event)
