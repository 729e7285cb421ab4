"""The torch engine fed with tensors on its device, against the same engine fed with arrays."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import EngineError
from mm_perception.engines.engine import DeviceEngine, TensorSpec, device_of

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.engines.torch_engine import TorchEngine  # noqa: E402

INPUTS = (TensorSpec("a", (2, 3)), TensorSpec("index", (2,), "int64"))
OUTPUTS = (TensorSpec("quotient", (2, 3)), TensorSpec("taken", (2,), "int64"))


class Quotient(torch.nn.Module):
    """One over a, and the index again."""

    def forward(self, a, index):
        return 1.0 / a, index


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def engine(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no NVIDIA GPU")
    return TorchEngine(Quotient().eval(), INPUTS, OUTPUTS, threads=1, device=request.param)


def arrays(**changes):
    return {"a": np.arange(1, 7, dtype=np.float32).reshape(2, 3), "index": np.array([4, 5])} | changes


def tensors(engine, **changes):
    return {name: torch.from_numpy(array).to(engine.device) for name, array in arrays(**changes).items()}


def test_outputs_stay_on_the_device_and_equal_those_of_arrays(engine):
    expected, got = engine.run(arrays()), engine.run_on_device(tensors(engine))
    assert list(got) == list(expected) == ["quotient", "taken"]
    for name, tensor in got.items():
        assert tensor.device.type == engine.device
        np.testing.assert_array_equal(tensor.cpu().numpy(), expected[name])


def test_inputs_of_any_order_and_strides_are_taken(engine):
    a = torch.arange(1.0, 7.0).reshape(3, 2).T.to(engine.device)
    got = engine.run_on_device({"index": torch.tensor([0, 1], device=engine.device), "a": a})
    np.testing.assert_array_equal(got["quotient"].cpu().numpy(), 1 / a.cpu().numpy())


def test_inputs_that_do_not_fit_are_named_all_at_once(engine):
    bad = {"a": torch.zeros(3, 3, device=engine.device), "other": torch.zeros(1)}
    with pytest.raises(EngineError, match=r"other: unexpected(.|\n)*got float32\[3, 3\](.|\n)*index: missing"):
        engine.run_on_device(bad)
    with pytest.raises(EngineError, match=r"a: expected a torch tensor .* got ndarray"):
        engine.run_on_device(tensors(engine) | {"a": arrays()["a"]})
    with pytest.raises(EngineError, match=rf"a: expected on {engine.device}, lies on meta"):
        engine.run_on_device(tensors(engine) | {"a": torch.zeros(2, 3, device="meta")})
    with pytest.raises(EngineError, match="got float64"):
        engine.run_on_device(tensors(engine, a=np.ones((2, 3))))


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_outputs_that_are_not_finite_are_refused_and_counted(engine, bad):
    values = arrays()["a"]
    values[1, :2] = bad
    for run, given in ((engine.run, arrays(a=values)), (engine.run_on_device, tensors(engine, a=values))):
        with pytest.raises(EngineError, match=r"quotient float32\[2, 3\] holds 2 values that are NaN or infinite"):
            run(given)


def test_the_largest_finite_values_are_finite(engine):
    engine.run_on_device(tensors(engine, a=np.full((2, 3), 3e-39, np.float32)))


def test_what_the_network_raises_is_an_engine_error(engine):
    narrow = TorchEngine(torch.nn.Linear(4, 4), INPUTS[:1], OUTPUTS[:1], device=engine.device)
    with pytest.raises(EngineError, match="network failed"):
        narrow.run_on_device({"a": torch.zeros(2, 3, device=engine.device)})


def test_a_closed_engine_refuses_to_run(engine):
    given = tensors(engine)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run_on_device(given)


def test_engines_say_where_they_take_tensors(engine):
    class ArraysAlone:
        name, inputs, outputs = "plain", INPUTS, OUTPUTS

        def run(self, tensors): ...

        def close(self): ...

    assert isinstance(engine, DeviceEngine) and device_of(engine) == engine.device
    assert not isinstance(ArraysAlone(), DeviceEngine) and device_of(ArraysAlone()) == "cpu"
