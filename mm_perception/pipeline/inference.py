"""How a task runs its network: on arrays of the host, or on tensors that are made where the engine computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mm_perception.core.errors import ConfigError, EngineError
from mm_perception.engines.engine import Array, DeviceEngine, Engine, device_of

if TYPE_CHECKING:
    from mm_perception.gpu.transfer import Lane

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Made(Generic[T]):
    """What was encoded for a network; on a GPU it may still be under way.

    Attributes:
        wait: lets what the calling thread gives the device next come after it; the host does not wait.
    """

    value: T
    wait: Callable[[], None]


class Inference:
    """One engine, and the way to it.

    Attributes:
        lane: where inputs are made on the engine's device, beside the network that runs meanwhile; None: inputs are
            numpy arrays.
    """

    def __init__(self, engine: Engine, on_device: bool | None = None) -> None:
        """Args:
            on_device: whether inputs are torch tensors on the engine's device; None: where that is not the CPU.

        Raises:
            ConfigError: the engine takes numpy arrays alone.
        """
        self.engine = engine
        self.lane: Lane | None = None
        if device_of(engine) == "cpu" if on_device is None else not on_device:
            return
        if not isinstance(engine, DeviceEngine):
            raise ConfigError(f"engine {engine.name} takes no tensors on a device")
        from mm_perception.gpu.transfer import Lane

        self.lane = Lane(engine.device)

    def make(self, encode: Callable[[], T]) -> Made[T]:
        """Encodes inputs; called in any thread, but not in two at a time.

        What a GPU has not finished when this returns shows in the time of the network.

        Raises:
            EngineError: the device failed, or has no room for them.
        """
        if self.lane is None:
            return Made(encode(), lambda: None)
        with self._guarded("no inputs"):
            with self.lane.entered():
                value = encode()
            return Made(value, self.lane.mark())

    def run(self, tensors: Mapping[str, Any], wait: Callable[[], None]) -> Mapping[str, Any]:
        """The network's outputs, arrays or tensors as the inputs are.

        Raises:
            EngineError: the engine or its device failed, or it gave values that are not finite.
        """
        if self.lane is None:
            return self.engine.run(tensors)
        assert isinstance(self.engine, DeviceEngine)
        with self._guarded("no outputs"):
            wait()
            return self.engine.run_on_device(tensors)

    def fetch(self, outputs: Callable[[], T]) -> T:
        """What is computed from outputs and brought to the host.

        Raises:
            EngineError: the device failed.
        """
        with self._guarded("no results"):
            return outputs()

    def arrays(self, outputs: Mapping[str, Any]) -> Mapping[str, Array]:
        """Outputs on the host. Raises EngineError if the device failed."""
        if self.lane is None:
            return outputs
        from mm_perception.gpu.transfer import download

        return self.fetch(lambda: download(outputs))

    @contextmanager
    def _guarded(self, lack: str) -> Iterator[None]:
        """What torch raises of a device is an error of the engine, which takes one task's result and no more.

        Whatever a GPU was given may fail later, in any call that waits for it.
        """
        try:
            yield
        except RuntimeError as error:
            if self.lane is None:
                raise
            raise EngineError(f"{self.engine.name}: {lack} on {self.lane.device}: {error}") from error
