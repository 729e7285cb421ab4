"""Networks run by PyTorch itself: the reference that other engines are compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from mm_perception.core.errors import EngineError, ModelError
from mm_perception.engines.card import ModelCard, WeightsCard
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.engine import (
    Array,
    TensorSpec,
    check_device_inputs,
    check_device_outputs,
    check_inputs,
    check_outputs,
)
from mm_perception.models.checkpoint import load_checkpoint
from mm_perception.models.cmx import Cmx, build_untrained_cmx, fold_for_inference
from mm_perception.models.deepinteraction.checkpoint import load_detector
from mm_perception.models.deepinteraction.deploy import DeployedDetector
from mm_perception.models.deepinteraction.model import DeepInteraction, untrained_detector


def deployed_network(card: WeightsCard) -> nn.Module:
    """The card's network in the form that engines run: `card.specs` in and out.

    Raises:
        ModelError: as `load_network` and `load_detector_network`.
    """
    if isinstance(card, DetectorCard):
        return DeployedDetector(load_detector_network(card))
    assert isinstance(card, ModelCard)
    return fold_for_inference(load_network(card))


def load_detector_network(card: DetectorCard) -> DeepInteraction:
    """The card's detector with its weights, in evaluation mode.

    Raises:
        ModelError: the weights are missing, are an ONNX file, or are of another network than the card says.
    """
    if card.random_seed is not None:
        network = untrained_detector(card.sizes, len(card.classes), card.random_seed, card.published_decoder_quirk)
        return network.eval()
    path = card.weights_path
    if path is None or path.suffix == ".onnx":
        raise ModelError(f"model {card.name}: {card.weights} cannot become a torch network; give its .pth file")
    return load_detector(path, card.sizes, len(card.classes), card.published_decoder_quirk)


def load_network(card: ModelCard) -> Cmx:
    """The card's network with its weights, in evaluation mode.

    Raises:
        ModelError: the weights are missing, are an ONNX file, or are of another network than the card says.
    """
    if card.random_seed is not None:
        return build_untrained_cmx(card.variant, card.num_classes, card.decoder_dim, card.random_seed)
    path = card.weights_path
    if path is None or path.suffix == ".onnx":
        raise ModelError(f"model {card.name}: {card.weights} cannot become a torch network; give its .pth file")
    model = load_checkpoint(path, num_classes=card.num_classes, decoder_dim=card.decoder_dim)
    if model.variant != card.variant:
        raise ModelError(f"model {card.name}: variant: expected {card.variant}, got {model.variant} in {path}")
    return model


class TorchEngine:
    """Runs a module that takes the inputs in the order of their specs and returns the outputs in theirs.

    Args:
        model: in evaluation mode; it is moved to `device`.
        inputs: specs of the inputs.
        outputs: specs of the outputs.
        threads: CPU threads within one run; None leaves torch's own setting.
        device: a torch device name.
    """

    name = "torch"

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._model: nn.Module | None = model.to(device)
        self.device = device
        self._threads = threads
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)

    @classmethod
    def from_card(cls, card: WeightsCard, *, threads: int | None = None, device: str = "cpu") -> TorchEngine:
        """The card's network, folded for inference.

        Raises:
            ModelError: as `load_network`.
        """
        return cls(deployed_network(card), *card.specs(), threads=threads, device=device)

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """See `Engine.run`."""
        model = self._open_model()
        checked = check_inputs(self.inputs, tensors, self.name)
        with self._running():
            results = model(*(torch.from_numpy(array).to(self.device) for array in checked.values()))
            named = {name: value.cpu().numpy() for name, value in self._named(results).items()}
        return check_outputs(self.outputs, named, self.name)

    def run_on_device(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `DeviceEngine.run_on_device`; computes on torch's current stream, where the inputs are made."""
        model = self._open_model()
        checked = check_device_inputs(self.inputs, tensors, self.device, self.name)
        with self._running():
            return check_device_outputs(self.outputs, self._named(model(*checked.values())), self.name)

    def _open_model(self) -> nn.Module:
        if self._model is None:
            raise EngineError("torch: the engine is closed")
        return self._model

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Within it torch keeps to the engine's threads, and what it raises is an EngineError."""
        # torch counts threads per calling thread, so a constructor could not set them for a worker.
        threads_before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                yield
        except RuntimeError as error:
            raise EngineError(f"torch: the network failed: {error}") from error
        finally:
            if self._threads is not None:
                torch.set_num_threads(threads_before)

    def _named(self, results: torch.Tensor | Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        values = (results,) if isinstance(results, torch.Tensor) else results
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def close(self) -> None:
        """See `Engine.close`."""
        self._model = None


def best_device() -> str:
    """The first GPU that torch can use, else the CPU."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"
