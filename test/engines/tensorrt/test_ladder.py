"""The cache, the ladder and the self-test. What runs on a GPU is played by ONNX Runtime; some tests build for real."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mm_perception.core.errors import ConfigError, EngineError
from mm_perception.core.progress import Caution
from mm_perception.engines.engine import NotFiniteError
from mm_perception.engines.onnx_engine import OnnxEngine
from mm_perception.engines.reference import made_inputs
from mm_perception.engines.stamp import stamp_path
from mm_perception.engines.tensorrt.build import BuildJob, BuildReport
from mm_perception.engines.tensorrt.device import Gpu
from mm_perception.engines.tensorrt.errors import PlanError, RefusedError
from mm_perception.engines.tensorrt.library import Library
from mm_perception.engines.tensorrt.settings import BuildSettings, ShapeRange, TensorRtSettings

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from mm_perception.engines.tensorrt import cache, ladder  # noqa: E402
from mm_perception.engines.tensorrt.cache import read_engine_stamp  # noqa: E402
from mm_perception.engines.tensorrt.ladder import Workshop, rungs  # noqa: E402
from mm_perception.engines.tensorrt.precision import FRAGILE  # noqa: E402

GPU = Gpu("Orin", "8.7", "540.4", 30_000)
LIBRARY = Library("tensorrt", "10.16.1", None)


class Faulty:
    """An engine whose outputs go through `change`."""

    device = "cpu"

    def __init__(self, inner: OnnxEngine, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.name, self.inputs, self.outputs = "double", inner.inputs, inner.outputs
        self._inner, self._change = inner, change
        self.closed = False

    def run(self, tensors):
        changed = {name: self._change(value) for name, value in self._inner.run(tensors).items()}
        if not all(np.isfinite(value).all() for value in changed.values()):
            raise NotFiniteError("outputs hold values that are not finite")
        return changed

    def close(self) -> None:
        self.closed = True
        self._inner.close()


class Bench:
    """A workshop's tools: builds copy the graph, plans run in ONNX Runtime and are changed as `faults` says in turn."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "engines"
        self.built: list[BuildJob] = []
        self.written: list[tuple[str, tuple[str, ...]]] = []
        self.opened: list[Faulty] = []
        self.opened_as: list[BuildSettings] = []
        self.told: list[str] = []
        self.faults: list[Callable[[np.ndarray], np.ndarray]] = []
        self.build_fails: list[Exception] = []
        self.open_fails: list[Exception] = []
        self.breaks_on_gpu: set[str] = set()  # modules that a GPU gets wrong in 16 bits
        monkeypatch.setattr(ladder, "write_precision", self._write)

    def _write(self, source, target, precision, kept=(), samples=None, tell=None, wider=()):
        self.written.append((precision, tuple(kept)))
        if precision == "int8" and samples is None:
            raise RefusedError("INT8 needs calibration inputs")
        if precision in ("fp32", "tf32"):
            return source
        onnx.save(onnx.load(str(source)), str(target))
        return target

    def build(self, job: BuildJob, tell) -> BuildReport:
        self.built.append(job)
        if self.build_fails:
            raise self.build_fails.pop(0)
        onnx.save(onnx.load(str(job.onnx)), str(job.plan), format="protobuf")  # with weights that lay apart
        return BuildReport(4, 0.1, 0.2, job.plan.stat().st_size)

    def open(self, path: Path, build: BuildSettings) -> Faulty:
        if self.open_fails:
            raise self.open_fails.pop(0)
        self.opened_as.append(build)
        fault = self.faults.pop(0) if self.faults else lambda value: value
        precision, kept = self.written[-1]
        if precision not in ("fp32", "bf16") and not self.breaks_on_gpu <= set(kept):
            fault = broken
        self.opened.append(Faulty(OnnxEngine(path), fault))
        return self.opened[-1]

    def shop(self, network, settings=None, *, gpu=GPU, library=LIBRARY) -> Workshop:
        card, path = network
        runner = self.open if gpu is not None else None
        return Workshop(
            card, path, settings or TensorRtSettings(), library, gpu, runner, OnnxEngine, self.folder,
            self.told.append, self.build,
        )  # fmt: skip


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def off(value: np.ndarray) -> np.ndarray:
    return np.roll(value, 1, axis=1)


def broken(value: np.ndarray) -> np.ndarray:
    return value * np.nan


def test_order_of_the_ladder():
    assert TensorRtSettings("auto").first == "fp16" and rungs("fp16", True) == ("fp16", "mixed", "bf16", "fp32")
    assert rungs("int8", True)[0] == "int8" and rungs("tf32", True) == ("tf32", "fp32")
    assert rungs("fp32", True) == rungs("fp32", False) == ("fp32",) and rungs("int8", False) == ("int8",)


def test_a_good_engine_is_built_tried_and_kept(tools, two_modules):
    shop = tools.shop(two_modules)
    stamp, engine = shop.ready()
    assert engine is tools.opened[0] and not engine.closed
    assert stamp.precision == "fp16" and stamp.on_gpu and "100.00 %" in stamp.tested and stamp.steps == ()
    assert read_engine_stamp(shop.engine_file) == stamp
    assert [one for one, _ in tools.written] == ["fp16"] and not list(tools.folder.glob(".graph-*"))
    assert tools.built[0].timing_cache is not None and "Orin" in tools.built[0].timing_cache.name


def test_a_kept_engine_is_used_without_parsing_or_building(tools, two_modules, monkeypatch):
    tools.shop(two_modules).ready()

    load = onnx.load

    def parse(path, *args, **options):  # here a plan is an ONNX file, too, and its runtime looks into it
        assert path.endswith(".engine"), "a hit needs no parse of the network"
        return load(path, *args, **options)

    monkeypatch.setattr(onnx, "load", parse)
    stamp, engine = tools.shop(two_modules).ready()
    assert len(tools.built) == 1 and engine is not None and stamp.precision == "fp16"
    assert tools.told[-1].startswith("using two-fp16.engine: fp16")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"library": Library("tensorrt", "11.4.1", None)}, "version: expected 11.4.1, got 10.16.1"),
        ({"library": Library("tensorrt_rtx", "10.16.1", None)}, "library: expected tensorrt_rtx"),
        ({"gpu": replace(GPU, name="Thor")}, "gpu: expected Thor, got Orin"),
        ({"gpu": replace(GPU, compute_capability="10.1")}, "compute_capability: expected 10.1, got 8.7"),
        ({"gpu": replace(GPU, driver="580.1")}, "driver: expected 580.1, got 540.4"),
        ({"settings": TensorRtSettings(ladder=False)}, "ladder: expected False, got True"),
        ({"settings": TensorRtSettings(keep_fp32=("b",))}, "keep_fp32: expected ..b"),
        ({"settings": TensorRtSettings(build=BuildSettings(workspace_mb=64))}, "build: expected .*workspace_mb 64"),
        (
            {"settings": TensorRtSettings(build=BuildSettings(shapes={"x": ShapeRange((1,), (2,), (3,))}))},
            "build: expected .*shapes .*usual",
        ),
    ],
)
def test_any_difference_names_itself_and_rebuilds(tools, two_modules, change, said):
    settings = change.pop("settings", TensorRtSettings())
    tools.shop(two_modules).ready()
    with pytest.raises(EngineError, match=f"(?s)by policy not rebuilt.*{said}"):
        tools.shop(two_modules, replace(settings, stale="refuse"), **change).ready()
    assert len(tools.built) == 1
    tools.shop(two_modules, settings, **change).ready()
    assert len(tools.built) == 2


def test_another_card_network_package_or_converter_rebuilds(tools, two_modules, monkeypatch):
    card, path = two_modules
    tools.shop(two_modules).ready()
    tools.shop((replace(card, provenance="elsewhere"), path)).ready()
    assert any("card: expected" in text for text in tools.told)
    model = onnx.load(str(path))
    model.producer_name = "another"
    onnx.save(model, str(path))
    tools.shop((replace(card, provenance="elsewhere"), path)).ready()
    assert any("onnx: expected two.onnx" in text for text in tools.told)
    monkeypatch.setattr(cache, "__version__", "9.9")
    monkeypatch.setattr(cache, "installed_version", lambda name: "77.1")
    tools.shop((replace(card, provenance="elsewhere"), path)).ready()
    assert any("package: expected 9.9" in text and "nvidia-modelopt 77.1" in text for text in tools.told)
    assert len(tools.built) == 4
    monkeypatch.setattr(cache, "installed_version", lambda name: "none")
    tools.shop((replace(card, provenance="elsewhere"), path)).ready()
    assert len(tools.built) == 4, "where nothing could convert, what was converted stays"


def test_weights_that_lie_apart_count(tools, two_modules):
    _, path = two_modules
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="two.bin", size_threshold=0)
    stamp, _ = tools.shop(two_modules).ready()
    assert set(stamp.key.onnx) == {"two.onnx", "two.bin"}
    tools.shop(two_modules).ready()
    assert len(tools.built) == 1
    blob = bytearray((path.parent / "two.bin").read_bytes())
    blob[5] ^= 1
    (path.parent / "two.bin").write_bytes(blob)
    tools.shop(two_modules).ready()
    assert len(tools.built) == 2


@pytest.mark.parametrize("harm", ["cut", "flip", "no stamp", "half a stamp", "other stamp", "gone"])
def test_damaged_and_half_written_engines_are_recognised(tools, two_modules, harm):
    shop = tools.shop(two_modules)
    shop.ready()
    engine, stamp = shop.engine_file, stamp_path(shop.engine_file)
    plan = bytearray(engine.read_bytes())
    if harm == "cut":
        engine.write_bytes(plan[: len(plan) // 2])
    elif harm == "flip":
        plan[len(plan) // 2] ^= 1
        engine.write_bytes(plan)
    elif harm == "no stamp":
        stamp.unlink()
    elif harm == "half a stamp":
        stamp.write_text(stamp.read_text()[:-200])
    elif harm == "other stamp":
        stamp.write_text(json.dumps({"anything": 1}))
    else:
        engine.unlink()
    tools.shop(two_modules).ready()
    assert len(tools.built) == 2
    tools.shop(two_modules).ready()
    assert len(tools.built) == 2


def test_an_engine_that_cannot_run_any_more_is_rebuilt(tools, two_modules):
    tools.shop(two_modules).ready()
    tools.open_fails = [PlanError("made by another GPU")]
    tools.shop(two_modules).ready()
    assert len(tools.built) == 2 and any("made by another GPU" in text for text in tools.told)


def test_an_engine_that_cannot_be_opened_now_is_left_as_it_is(tools, two_modules):
    shop = tools.shop(two_modules)
    kept, _ = shop.ready()
    tools.open_fails = [EngineError("no 300 MiB of GPU memory")]
    with pytest.raises(EngineError, match="no 300 MiB"):
        tools.shop(two_modules).ready()
    assert len(tools.built) == 1 and read_engine_stamp(shop.engine_file) == kept
    assert tools.shop(two_modules).ready()[0] == kept and len(tools.built) == 1


def test_a_failure_of_the_moment_ends_the_attempt_and_keeps_what_is_there(tools, two_modules):
    shop = tools.shop(two_modules)
    kept, _ = shop.ready()
    tools.build_fails = [EngineError("was killed; the system does that when memory runs out")]
    with pytest.raises(EngineError, match="was killed"):
        tools.shop(two_modules, TensorRtSettings(keep_fp32=("a",))).ready()
    assert read_engine_stamp(shop.engine_file) == kept and not list(tools.folder.glob(".*.new"))
    assert tools.shop(two_modules).ready()[0] == kept


def test_a_full_disk_is_an_engine_error(tools, two_modules, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ladder, "write_stamp", full)
    with pytest.raises(EngineError, match="No space left"):
        tools.shop(two_modules).ready()


def test_an_interrupted_build_leaves_nothing_that_is_trusted(tools, two_modules):
    shop = tools.shop(two_modules)
    shop.ready()
    tools.told.clear()

    def interrupted(job: BuildJob, tell):
        job.plan.write_bytes(b"half of it")
        raise KeyboardInterrupt

    again = tools.shop(two_modules, TensorRtSettings(keep_fp32=("a",)))
    again._build = interrupted
    with pytest.raises(KeyboardInterrupt):
        again.ready()
    assert not list(tools.folder.glob(".*.new")) and tools.shop(two_modules).ready()[0].kept == FRAGILE["cmx"]
    assert len(tools.built) == 1


def test_two_who_want_one_engine_build_it_once(tools, two_modules):
    results = []

    def work() -> None:
        results.append(tools.shop(two_modules).ready()[0])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(results) == 2 and results[0] == results[1] and len(tools.built) == 1


def test_fp16_that_is_not_finite_steps_down_with_a_word(tools, two_modules):
    tools.breaks_on_gpu = {"no module of it"}
    stamp, _ = tools.shop(two_modules).ready()
    assert "no choice of modules" in stamp.steps[1]
    assert "not finite" in stamp.steps[0] and stamp.precision == "bf16"
    assert tools.opened[0].closed


def test_labels_that_differ_step_down_to_float32(tools, two_modules):
    tools.faults = [off, off, off]  # fp16, the trial with everything in float32, bf16
    stamp, _ = tools.shop(two_modules).ready()
    assert stamp.precision == "fp32" and "asked for: at least 99.50 %" in stamp.steps[0]


def test_nothing_that_keeps_the_tolerance_is_an_error_that_tells_all(tools, two_modules):
    tools.faults = [off] * 4
    shop = tools.shop(two_modules)
    with pytest.raises(EngineError, match=r"(?s)no TensorRT engine of two.*fp16: .*mixed: .*bf16: .*fp32: ") as caught:
        shop.ready()
    assert "99.90 %" in str(caught.value)
    assert not shop.engine_file.exists() and read_engine_stamp(shop.engine_file) is None
    assert all(engine.closed for engine in tools.opened)


def test_without_the_ladder_a_miss_is_an_error(tools, two_modules):
    tools.faults = [off]
    with pytest.raises(EngineError, match="fp16: "):
        tools.shop(two_modules, TensorRtSettings("fp16", ladder=False)).ready()
    assert len(tools.built) == 1


def test_a_precision_that_cannot_be_built_is_passed_over(tools, two_modules):
    tools.build_fails = [RefusedError("no kernel for it")]
    stamp, _ = tools.shop(two_modules).ready()
    assert not any("looking for what breaks" in text for text in tools.told), "it was not inexact"
    assert "no kernel for it" in stamp.steps[0] and stamp.precision == "bf16"


def test_what_breaks_fp16_is_found_and_kept(tools, two_modules):
    _, path = two_modules
    model = onnx.load(str(path))
    for one in model.graph.initializer:
        if one.name == "mix":
            array = onnx.numpy_helper.to_array(one) * np.float32(1e6)
            one.CopyFrom(onnx.numpy_helper.from_array(array, "mix"))
    onnx.save(model, str(path))
    tools.faults = [broken]
    stamp, _ = tools.shop(two_modules).ready()
    # 1e6 leaves fp16's range in the first product and stays out of it until the end.
    assert stamp.precision == "mixed" and set(stamp.kept) - set(FRAGILE["cmx"]) == {"a.mix/", "a/", "b.classify/"}
    assert "kept in float32" in " ".join(tools.told)
    assert tools.written[-1] == ("mixed", stamp.kept)


def test_what_only_a_gpu_shows_is_found_by_building(tools, two_modules):
    tools.breaks_on_gpu = {"a.mix"}
    stamp, engine = tools.shop(two_modules).ready()
    assert stamp.precision == "mixed" and set(stamp.kept) - set(FRAGILE["cmx"]) == {"a.mix"}
    assert any("building engines to find it" in text for text in tools.told)
    assert [one.closed for one in tools.opened] == [True] * (len(tools.opened) - 1) + [False] and engine is not None
    assert len(tools.built) <= 8 and sum("on trial" in text for text in tools.told) == len(tools.built) - 2


def test_a_search_on_the_gpu_ends(tools, two_modules, monkeypatch):
    tools.breaks_on_gpu = {"a.mix"}
    monkeypatch.setattr(ladder, "MOST_TRIALS", 2)
    stamp, _ = tools.shop(two_modules).ready()
    assert stamp.precision == "bf16" and "2 engines built on trial" in stamp.steps[1]


def test_names_of_no_module_are_refused(tools, two_modules):
    with pytest.raises(ConfigError, match=r"keep in float32: a\.blend: no module of two"):
        tools.shop(two_modules, TensorRtSettings(keep_fp32=("a.mix", "a.blend"))).ready()
    assert not tools.built


@pytest.mark.parametrize("choice", ["build", "keep_fp32", "ladder"])
def test_other_choices_are_adopted_and_hold_when_it_is_built_anew(tools, two_modules, choice):
    given = {"build": BuildSettings(dla_core=0, workspace_mb=64), "keep_fp32": ("a.mix",), "ladder": False}
    chosen = TensorRtSettings(**{choice: given[choice]})
    stamp, _ = tools.shop(two_modules, chosen).ready()
    adopting = TensorRtSettings(adopt=True)
    assert tools.shop(two_modules, adopting).ready()[0] == stamp and len(tools.built) == 1
    assert tools.opened_as[-1] == chosen.build
    again, _ = tools.shop(two_modules, adopting, gpu=replace(GPU, driver="999")).ready()
    assert len(tools.built) == 2 and getattr(again.key, choice) == getattr(stamp.key, choice)
    assert tools.opened_as[-1] == chosen.build == tools.built[-1].settings


def test_compatible_engines_are_taken_elsewhere_and_tried_there(tools, two_modules):
    build = BuildSettings(version_compatible=True, hardware_compatible=True)
    tools.shop(two_modules, TensorRtSettings(build=build)).ready()
    other = replace(GPU, name="RTX 4000", compute_capability="8.9")
    newer = Library("tensorrt", "10.17.0", None)
    adopting = TensorRtSettings(adopt=True)
    stamp, _ = tools.shop(two_modules, adopting, gpu=other, library=newer).ready()
    assert len(tools.built) == 1 and stamp.key.gpu == "RTX 4000"
    tools.shop(two_modules, adopting, library=Library("tensorrt", "11.0", None)).ready()
    assert len(tools.built) == 2, "of another major version"
    tools.shop(two_modules, adopting, gpu=replace(GPU, compute_capability="7.5"), library=newer).ready()
    assert len(tools.built) == 3, "older than Ampere"


def test_new_recorded_inputs_try_a_kept_engine_again(tools, two_modules):
    card, _ = two_modules
    first, _ = tools.shop(two_modules).ready()
    shop = tools.shop(two_modules)
    shop.record(made_inputs(card, 8))
    second, _ = shop.ready()
    assert first.references == "made" and len(second.references) == 64 and len(tools.built) == 1
    assert len(shop.samples) == ladder.MOST_SAMPLES
    shop.record(made_inputs(card, 3))
    tools.faults = [off]
    third = tools.shop(two_modules)
    third.ready()
    assert len(tools.built) == 2, "what misses the tolerance on them is built anew"


def test_asked_mixed_keeps_what_is_known_where_nothing_else_breaks(tools, two_modules):
    stamp, _ = tools.shop(two_modules, TensorRtSettings("mixed")).ready()
    assert stamp.precision == "mixed" and stamp.kept == FRAGILE["cmx"] and not stamp.steps


def test_asked_tf32_sets_the_builders_flag(tools, two_modules):
    stamp, _ = tools.shop(two_modules, TensorRtSettings("tf32")).ready()
    assert stamp.precision == "tf32" and tools.built[0].settings.tf32
    tools.shop(two_modules, TensorRtSettings("fp32")).ready()
    assert not tools.built[1].settings.tf32 and tools.built[1].plan != tools.built[0].plan


def test_int8_takes_recorded_inputs_and_their_change_rebuilds(tools, two_modules):
    card, _ = two_modules
    shop = tools.shop(two_modules, TensorRtSettings("int8", ladder=False))
    shop.record(made_inputs(card, 3))
    first, _ = shop.ready()
    assert first.precision == "int8" and first.key.calibration != "none"
    again = tools.shop(two_modules, TensorRtSettings("int8", ladder=False))
    again.record(made_inputs(card, 2))
    second, _ = again.ready()
    assert second.key.calibration != first.key.calibration and len(tools.built) == 2


def test_damaged_recorded_inputs_are_told_and_made_ones_used(tools, two_modules):
    shop = tools.shop(two_modules)
    shop.reference_file.parent.mkdir(parents=True)
    shop.reference_file.write_bytes(b"nonsense")
    shop.ready()
    assert any("made inputs stand in" in text for text in tools.told)


def test_built_without_a_gpu_it_is_tried_on_the_first_that_opens_it(tools, two_modules):
    ahead = TensorRtSettings(build=BuildSettings(compute_capability="8.7"))
    stamp, engine = tools.shop(two_modules, ahead, gpu=None).ready()
    assert engine is None and not stamp.on_gpu and stamp.key.gpu == "any"
    later, engine = tools.shop(two_modules).ready()
    assert engine is not None and later.on_gpu and later.key.gpu == "Orin" and len(tools.built) == 1
    assert tools.shop(two_modules).ready()[0] == later and len(tools.built) == 1
    tools.shop(two_modules, gpu=replace(GPU, driver="999")).ready()
    assert len(tools.built) == 1, "the one for any GPU of this kind is still there, and tried again"
    tools.shop(two_modules, gpu=replace(GPU, compute_capability="8.9")).ready()
    assert len(tools.built) == 2


def test_built_without_a_gpu_and_wrong_on_this_one_it_is_built_anew(tools, two_modules):
    ahead = TensorRtSettings(build=BuildSettings(compute_capability="8.7"))
    tools.shop(two_modules, ahead, gpu=None).ready()
    tools.faults = [off]
    stamp, _ = tools.shop(two_modules).ready()
    assert stamp.precision == "fp16" and stamp.key.gpu == "Orin" and len(tools.built) == 2
    assert tools.opened[0].closed


def test_the_real_builder_climbs_the_real_ladder(two_modules, rtx, modelopt, tmp_path):
    from mm_perception.engines.tensorrt.library import find_library

    card, path = two_modules
    told: list[str] = []
    for precision in ("auto", "bf16", "fp32", "int8"):
        settings = TensorRtSettings(precision, build=BuildSettings(compute_capability="8.9"))
        for round_ in range(2):
            shop = Workshop(
                card, path, settings, find_library(rtx), None, None, OnnxEngine, tmp_path / "engines", told.append
            )
            if precision == "int8" and round_ == 0:
                shop.record(made_inputs(card, 2))
            before = len(told)
            stamp, _ = shop.ready()
            assert round_ == 0 or len(told) == before, told[before:]
            assert stamp.precision == {"auto": "fp16"}.get(precision, precision), told
            assert stamp.engine_sha256 and dataclasses.asdict(stamp)["layers"] > 2
    assert sum(text.startswith("built ") for text in told) == 4


def test_open_sizes_are_built_in_their_ranges_and_tried_at_the_cards(two_modules, rtx, modelopt, tmp_path):
    from mm_perception.engines.tensorrt.library import find_library

    card, path = two_modules
    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, str(path))
    shapes = {name: ShapeRange((1, 3, 16, 48), (1, 3, 32, 48), (1, 3, 64, 48)) for name in ("rgb", "x")}
    settings = TensorRtSettings(ladder=False, build=BuildSettings(compute_capability="8.9", shapes=shapes))
    shop = Workshop(
        card, path, settings, find_library(rtx), None, None, OnnxEngine, tmp_path / "engines", lambda text: None
    )
    stamp, _ = shop.ready()
    assert stamp.precision == "fp16" and stamp.key.build["shapes"]["rgb"]["usual"] == [1, 3, 32, 48]
    without = replace(settings, build=BuildSettings(compute_capability="8.9"))
    shop = Workshop(
        card, path, without, find_library(rtx), None, None, OnnxEngine, tmp_path / "engines", lambda text: None
    )
    with pytest.raises(EngineError, match="rgb: sizes are open"):
        shop.ready()


def test_two_that_begin_at_once_build_once(two_modules, tools):
    begun, go_on = threading.Event(), threading.Event()
    build = tools.build

    def slow(job, tell):
        begun.set()
        assert go_on.wait(30.0)
        return build(job, tell)

    tools.build = slow
    stamps, threads = [], []
    for _ in range(2):
        shop = tools.shop(two_modules)
        threads.append(threading.Thread(target=lambda shop=shop: stamps.append(shop.ready()[0])))
        threads[-1].start()
        assert begun.wait(30.0)
    while not any("waiting for another process" in text for text in tools.told):
        threads[1].join(0.05)
        assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(60.0)
    assert len(tools.built) == 1 and len({stamp.engine_sha256 for stamp in stamps}) == 1 and len(stamps) == 2


def test_a_read_only_cache_is_used_and_nothing_is_built_for_it(two_modules, tools, monkeypatch):
    import os

    tools.shop(two_modules).ready()
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(tools.folder))
    stamp, engine = tools.shop(two_modules).ready()
    assert engine is not None and len(tools.built) == 1 and stamp.on_gpu
    with pytest.raises(EngineError, match=r"must be built .*keep_fp32.* cannot be written: set MM_PERCEPTION_CACHE"):
        tools.shop(two_modules, TensorRtSettings(keep_fp32=("a.mix",))).ready()
    assert len(tools.built) == 1


def test_a_self_test_that_cannot_be_kept_is_told_and_costs_no_engine(two_modules, tools, monkeypatch):
    tools.shop(two_modules).ready()
    written = stamp_path(tools.shop(two_modules).engine_file).read_text()

    def full(path, stamp):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ladder, "write_stamp", full)
    shop = tools.shop(two_modules)
    (shop.reference_file.parent).mkdir(exist_ok=True)
    np.savez(shop.reference_file, **{name: value[None] for name, value in made_inputs(two_modules[0])[0].items()})
    _, engine = shop.ready()
    assert engine is not None
    (said,) = [text for text in tools.told if isinstance(text, Caution)]
    assert "No space left" in said and "repeated at every start" in said
    assert stamp_path(shop.engine_file).read_text() == written
