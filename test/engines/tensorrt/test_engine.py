"""Running a plan: TensorRT's runtime and the GPU are played by doubles that compute y = 2 x + index on the CPU."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.core.errors import EngineError  # noqa: E402
from mm_perception.engines.engine import DeviceEngine, TensorSpec  # noqa: E402
from mm_perception.engines.tensorrt.cuda import TORCH_TYPES, SharedScratch  # noqa: E402
from mm_perception.engines.tensorrt.engine import TensorRtEngine  # noqa: E402
from mm_perception.engines.tensorrt.errors import PlanError  # noqa: E402
from mm_perception.engines.tensorrt.library import Library  # noqa: E402
from mm_perception.engines.tensorrt.settings import BuildSettings  # noqa: E402

X, INDEX, Y = TensorSpec("x", (2, 3)), TensorSpec("index", (3,), "int64"), TensorSpec("y", (2, 3))


class Severity:
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class Log:
    Severity = Severity

    def __init__(self) -> None: ...


class DataType:
    FLOAT, INT64 = "DataType.FLOAT", "DataType.INT64"


class Context:
    """Computes on the addresses that were bound, and counts what is asked of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.shapes = plan, dict(plan.shapes)
        self.bound: dict[str, int] = {}
        self.memory: list[tuple[int, int]] = []
        self.launches = 0
        self.fails = False
        self.is_recording = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.plan.shapes[name] != tuple(shape) and -1 not in self.plan.shapes[name]:
            return False
        self.shapes[name] = tuple(shape)
        if name == "x":
            self.shapes["y"] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory.append((address, size))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.bound[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7 and self.memory, "the engine's own stream, and scratch memory"
        self.launches += 1
        if self.fails:
            return False
        if not self.is_recording:  # what is recorded is not computed
            compute(self.bound, self.shapes)
        return True


def compute(bound: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
    def at(name: str, kind: Any) -> np.ndarray:
        size = int(np.prod(shapes[name]))
        return np.ctypeslib.as_array(ctypes.cast(bound[name], ctypes.POINTER(kind)), (size,)).reshape(shapes[name])

    at("y", ctypes.c_float)[:] = 2 * at("x", ctypes.c_float) + at("index", ctypes.c_int64)


class Plan:
    num_io_tensors = 3

    def __init__(self, need: int = 64, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
        self.device_memory_size_v2 = need
        self.shapes = shapes or {"x": (2, 3), "index": (3,), "y": (2, 3)}
        self.contexts: list[Context] = []

    def create_execution_context(self, strategy: str) -> Context:
        assert strategy == "user managed"
        self.contexts.append(Context(self))
        return self.contexts[-1]

    def get_tensor_name(self, i: int) -> str:
        return ("x", "index", "y")[i]

    def get_tensor_mode(self, name: str) -> str:
        return "out" if name == "y" else "in"

    def get_tensor_dtype(self, name: str) -> str:
        return DataType.INT64 if name == "index" else DataType.FLOAT


def library(plans: dict[bytes, Plan], runtimes: list[Any] | None = None) -> Library:
    class Runtime:
        engine_host_code_allowed, DLA_core = False, -1

        def __init__(self, log: Any) -> None:
            self._log = log
            if runtimes is not None:
                runtimes.append(self)

        def deserialize_cuda_engine(self, data: bytes) -> Plan | None:
            if data not in plans:
                self._log.log(Severity.ERROR, "magic tag does not match")
            return plans.get(data)

    class Trt:
        ILogger = Log

        class TensorIOMode:
            INPUT = "in"

        class ExecutionContextAllocationStrategy:
            USER_MANAGED = "user managed"

    Trt.Runtime = Runtime
    return Library("tensorrt", "10.16", Trt)


class Host:
    """The CPU in the place of a GPU. Recording notes what was bound, as a CUDA graph does."""

    name = "cpu"
    stream_handle = 7

    def __init__(self) -> None:
        self.log: list[str] = []
        self.context: Context | None = None
        self.full = False
        self.cannot_record = False

    def empty(self, spec: TensorSpec) -> Any:
        return torch.empty(spec.shape, dtype=TORCH_TYPES[spec.dtype])

    def scratch(self, size: int) -> Any:
        if self.full:
            raise RuntimeError("CUDA out of memory")
        return torch.empty(max(size, 1), dtype=torch.uint8)

    def upload(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def download(self, tensors: dict[str, Any]) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in tensors.items()}

    def follow(self, tensors: dict[str, Any]) -> None:
        self.log.append("follow")

    def copy(self, targets: dict[str, Any], sources: dict[str, Any]) -> None:
        self.log.append("copy")
        for name, target in targets.items():
            target.copy_(sources[name])

    def copies(self, tensors: dict[str, Any]) -> dict[str, Any]:
        return {name: value.clone() for name, value in tensors.items()}

    def record(self, enqueue: Any) -> Any:
        self.log.append("record")
        if self.cannot_record:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        context = self.context
        assert context is not None
        context.is_recording = True
        enqueue(self.stream_handle)
        context.is_recording = False
        bound = dict(context.bound)

        def replay() -> None:
            self.log.append("replay")
            compute(bound, context.shapes)

        return replay

    def wait(self) -> None:
        self.log.append("wait")


@pytest.fixture
def make(tmp_path):
    """Makes an engine; gives it with its host and plan."""
    path = tmp_path / "m.engine"
    path.write_bytes(b"plan")

    def do(plan: Plan | None = None, host: Host | None = None, scratch: SharedScratch | None = None, **options: Any):
        plan, host = plan or Plan(), host or Host()
        given = {"cuda_graph": False} | options
        taken, made = given.pop("inputs", (X, INDEX)), given.pop("outputs", (Y,))
        lib = library({b"plan": plan}, given.pop("runtimes", None))
        engine = TensorRtEngine(lib, path, taken, made, host, scratch or SharedScratch(host), **given)
        host.context = plan.contexts[-1]
        return engine, host, plan

    return do


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32), "index": np.arange(3)}


def expected(given: dict[str, np.ndarray]) -> np.ndarray:
    return 2 * given["x"] + given["index"]


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_arrays_and_tensors_give_the_same(make, cuda_graph):
    engine, _, _ = make(cuda_graph=cuda_graph)
    engine.warm_up()
    assert isinstance(engine, DeviceEngine) and engine.device == "cpu"
    kept = []
    for seed in range(6):
        given = inputs(seed)
        kept.append((engine.run(given)["y"], expected(given)))
        tensors = {name: torch.from_numpy(value) for name, value in given.items()}
        kept.append((engine.run_on_device(tensors)["y"].numpy(), expected(given)))
    for got, want in kept:  # at the end: what was handed out must not be overwritten by later runs
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_tensors_are_bound_where_they_lie(make):
    engine, host, plan = make()
    tensors = {name: torch.from_numpy(value) for name, value in inputs().items()}
    engine.run_on_device(tensors)
    assert plan.contexts[0].bound["x"] == tensors["x"].data_ptr()
    assert host.log[0] == "follow", "the engine waits for who made the inputs"


def test_one_graph_is_recorded_and_inputs_are_brought_to_it(make):
    engine, host, plan = make(cuda_graph=True)
    engine.warm_up()
    launches = plan.contexts[0].launches
    for seed in range(4):
        tensors = {name: torch.from_numpy(value) for name, value in inputs(seed).items()}
        np.testing.assert_allclose(engine.run_on_device(tensors)["y"].numpy(), expected(inputs(seed)), rtol=1e-6)
    assert host.log.count("record") == 1 and host.log.count("copy") == 6 and host.log.count("replay") == 5
    assert plan.contexts[0].launches == launches == 2, "a plain run, and the one that is recorded"


@pytest.mark.parametrize("refusing", ["torch", "tensorrt"])
def test_what_cannot_be_recorded_runs_without_a_graph(make, refusing):
    told: list[str] = []
    engine, host, plan = make(cuda_graph=True, tell=told.append)
    host.cannot_record = refusing == "torch"
    if refusing == "tensorrt":
        plan.contexts[0].is_stream_capturable = lambda stream: False
    for seed in range(3):
        np.testing.assert_allclose(engine.run(inputs(seed))["y"], expected(inputs(seed)), rtol=1e-6)
    assert len(told) == 1 and "runs without a CUDA graph" in told[0]
    assert host.log.count("record") == (refusing == "torch") and "replay" not in host.log


def test_a_scratch_that_cannot_grow_leaves_the_others_theirs(make):
    host = Host()
    scratch = SharedScratch(host)
    first, _, plan = make(Plan(100), host, scratch)
    first.run(inputs())
    before = (scratch.address, scratch.size, scratch.generation)
    host.full = True
    with pytest.raises(EngineError, match="GPU memory"):
        make(Plan(1 << 20), host, scratch)
    assert (scratch.address, scratch.size, scratch.generation) == before
    assert plan.contexts[0].memory[-1] == before[:2]
    np.testing.assert_allclose(first.run(inputs())["y"], expected(inputs()), rtol=1e-6)


def test_the_runtime_is_told_how_a_plan_was_built(make):
    runtimes: list[Any] = []
    make(runtimes=runtimes)
    make(runtimes=runtimes, build=BuildSettings(version_compatible=True, dla_core=1))
    assert [(one.engine_host_code_allowed, one.DLA_core) for one in runtimes] == [(False, -1), (True, 1)]


def test_rtx_keeps_the_kernels_that_it_compiled(tmp_path):
    path = tmp_path / ".m.engine.new"
    path.write_bytes(b"plan")
    read: list[bytes] = []

    class Cache:
        def deserialize(self, blob: bytes) -> bool:
            read.append(blob)
            return True

        def serialize(self) -> bytes:
            return b"kernels"

    class Config:
        def set_execution_context_allocation_strategy(self, strategy: str) -> None:
            self.strategy = strategy

        def create_runtime_cache(self) -> Cache:
            return Cache()

        def set_runtime_cache(self, cache: Cache) -> None:
            self.cache = cache

    class RtxPlan(Plan):
        def create_runtime_config(self) -> Config:
            return Config()

        def create_execution_context(self, config: Config) -> Context:
            assert isinstance(config.cache, Cache)
            return super().create_execution_context(config.strategy)

    host = Host()
    lib = library({b"plan": RtxPlan()})
    lib.module.IRuntimeCache = Cache
    for _ in range(2):
        engine = TensorRtEngine(
            Library("tensorrt_rtx", "1.7", lib.module), path, (X, INDEX), (Y,), host, SharedScratch(host),
            cuda_graph=False,
        )  # fmt: skip
        engine.warm_up()
        engine.close()
    assert (tmp_path / "m.engine.kernels").read_bytes() == b"kernels" and read == [b"kernels"]


def test_scratch_memory_is_shared_and_followed_when_it_moves(make):
    host = Host()
    scratch = SharedScratch(host)
    small, _, small_plan = make(Plan(100), host, scratch, cuda_graph=True)
    given = {name: torch.from_numpy(value) for name, value in inputs().items()}
    small.run_on_device(given)
    first = small_plan.contexts[0].memory[-1]
    big, _, big_plan = make(Plan(100_000), host, scratch)
    big.run_on_device(given)
    host.context = small_plan.contexts[0]
    small.run_on_device(given)
    assert small_plan.contexts[0].memory[-1] == big_plan.contexts[0].memory[-1] != first
    assert scratch.size == 100_000 and host.log.count("record") == 2, "graphs hold addresses, and are recorded anew"
    make(Plan(50), host, scratch)
    small.run_on_device(given)
    assert len(small_plan.contexts[0].memory) == 2


def test_open_sizes_are_set_to_the_cards(make):
    plan = Plan(shapes={"x": (-1, 3), "index": (3,), "y": (-1, 3)})
    engine, _, _ = make(plan, inputs=(TensorSpec("x", (4, 3)), INDEX), outputs=(TensorSpec("y", (4, 3)),))
    x = np.ones((4, 3), np.float32)
    np.testing.assert_allclose(engine.run({"x": x, "index": np.arange(3)})["y"], 2 * x + np.arange(3))


def test_values_that_are_not_finite_are_refused_and_the_next_run_works(make):
    engine, _, _ = make()
    bad = inputs()
    bad["x"][0, 0] = np.nan
    with pytest.raises(EngineError, match="NaN or infinite"):
        engine.run(bad)
    np.testing.assert_allclose(engine.run(inputs())["y"], expected(inputs()), rtol=1e-6)


def test_a_failing_launch_is_an_engine_error(make):
    engine, host, plan = make()
    plan.contexts[0].fails = True
    with pytest.raises(EngineError, match="the network failed"):
        engine.run(inputs())

    def lost(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    host.copies = lost
    plan.contexts[0].fails = False
    with pytest.raises(EngineError, match="the GPU failed: CUDA error"):
        engine.run(inputs())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": np.zeros((3, 3), np.float32)}, r"expected x float32\[2, 3\], got float32\[3, 3\]"),
        ({"x": np.zeros((2, 3))}, "got float64"),
        ({"z": np.zeros(1)}, "z: unexpected"),
    ],
)
def test_inputs_that_do_not_fit_are_named(make, change, said):
    engine, _, _ = make()
    with pytest.raises(EngineError, match=said):
        engine.run(inputs() | change)
    with pytest.raises(EngineError, match="x"):
        engine.run_on_device({"index": torch.arange(3)})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inputs": (TensorSpec("x", (5, 3)), INDEX)}, "does not take this shape"),
        ({"inputs": (TensorSpec("x", (2, 3), "int64"), INDEX)}, "expected .*got"),
        ({"outputs": (TensorSpec("labels", (2, 3)),)}, "expected .*labels.*got .*y"),
    ],
)
def test_plans_of_another_network_are_refused(make, options, said):
    with pytest.raises(PlanError, match=said):
        make(**options)


def test_damaged_plans_and_full_gpus_are_told_apart(make, tmp_path):
    host = Host()
    path = tmp_path / "damaged.engine"
    path.write_bytes(b"damaged")
    with pytest.raises(PlanError, match=r"TensorRT 10\.16: the engine cannot be read: magic tag"):
        TensorRtEngine(library({}), path, (X, INDEX), (Y,), host, SharedScratch(host))
    with pytest.raises(PlanError, match=r"cannot be read .No such file"):
        TensorRtEngine(library({}), tmp_path / "gone", (X, INDEX), (Y,), host, SharedScratch(host))
    host.full = True
    with pytest.raises(EngineError, match=r"no 1024 MiB of GPU memory .*CUDA out of memory") as caught:
        make(Plan(1 << 30), host)
    assert not isinstance(caught.value, PlanError), "it may fit at another time"


def test_a_closed_engine_refuses_to_run_and_frees_its_plan(make):
    engine, _, _ = make()
    engine.close()
    engine.close()
    for run in (lambda: engine.run(inputs()), lambda: engine.run_on_device({})):
        with pytest.raises(EngineError, match="closed"):
            run()
    gc.collect()
    assert engine._plan is None and engine._outputs == {}
