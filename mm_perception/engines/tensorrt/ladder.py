"""From an exported network to a TensorRT engine that was tried: the cache, the precision ladder, the self-test.

A kept engine is used where its stamp says that it was made from just this, and else built anew. A new one is
compared with the reference engine on reference inputs; where it misses the tolerance of its precision the next safer
one is built, and fp16 is first given another chance with the modules that break it kept in float32. Only what the
network or the machine cannot have leads down the ladder: what is of the moment ends the attempt, and leaves what is
there as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from mm_perception.core.errors import ConfigError, EngineError, ModelError
from mm_perception.core.processes import check_not_ended
from mm_perception.core.progress import Caution
from mm_perception.core.scratch import scratch_folder
from mm_perception.engines.agreement import TOLERANCES, Agreement, agreement
from mm_perception.engines.card import WeightsCard
from mm_perception.engines.engine import Array, Engine, NotFiniteError
from mm_perception.engines.reference import load_references, made_inputs, save_references
from mm_perception.engines.stamp import check_writable, file_sha256, locked, remove_stamp, write_stamp
from mm_perception.engines.tensorrt.apart import Progress
from mm_perception.engines.tensorrt.build import BuildJob, BuildReport, build_plan
from mm_perception.engines.tensorrt.cache import (
    EngineKey,
    EngineStamp,
    adopted,
    engine_file,
    engine_key,
    engine_problems,
    hashes,
    read_engine_stamp,
    weight_files,
)
from mm_perception.engines.tensorrt.device import Gpu
from mm_perception.engines.tensorrt.errors import PlanError, RefusedError, ToleranceError
from mm_perception.engines.tensorrt.library import Library
from mm_perception.engines.tensorrt.precision import (
    FRAGILE,
    UNQUANTIZED,
    breaking_modules,
    own_modules,
    pinned_graph,
    rounded_graph,
    unknown_modules,
    write_precision,
)
from mm_perception.engines.tensorrt.settings import LADDER, BuildSettings, Precision, TensorRtSettings

BUILD_TIMEOUT_S = 7200.0
"""How long one process waits for another that builds the same engine."""
MOST_SAMPLES = 4
"""Reference inputs that an engine is tried on."""
MOST_TRIALS = 16
"""Engines that are built to find what breaks fp16."""
MADE = "made"

Runner = Callable[[Path, BuildSettings], Engine]
"""Opens a plan, built in such a way, on this machine's GPU; raises PlanError if it cannot run there, EngineError if it
cannot now."""
Builder = Callable[[BuildJob, Progress], BuildReport]


class Workshop:
    """Builds, tries and keeps the engines of one exported network.

    Args:
        card: of the network; onnx_file: its float32 export.
        library, gpu: what builds, and for what; gpu None: for `settings.build.compute_capability`, without trying.
        open_plan: None where there is no GPU.
        open_reference: opens an ONNX file in an engine that computes in float32.
        folder: of kept engines.
        build: builds one plan.
    """

    def __init__(
        self,
        card: WeightsCard,
        onnx_file: Path,
        settings: TensorRtSettings,
        library: Library,
        gpu: Gpu | None,
        open_plan: Runner | None,
        open_reference: Callable[[Path], Engine],
        folder: Path,
        tell: Progress,
        build: Builder = build_plan,
    ) -> None:
        self._card, self._onnx, self._settings = card, onnx_file, settings
        self._library, self._gpu = library, gpu
        self._open_plan, self._open_reference = open_plan, open_reference
        self._folder, self._tell, self._build = folder, tell, build
        self.engine_file = engine_file(folder, onnx_file, settings, settings.build.compute_capability)
        self._new_file = self.engine_file.with_name(f".{self.engine_file.name}.new")
        self._steps: list[str] = []
        self._trials = 0

    @property
    def reference_file(self) -> Path:
        """Where recorded reference inputs of this network are kept."""
        return self._folder / f"{self._onnx.stem}.inputs.npz"

    def ready(self) -> tuple[EngineStamp, Engine | None]:
        """A kept engine that fits, or a new one.

        Returns:
            its stamp, and the running engine; None where there is no GPU to run it.

        Raises:
            EngineError: no precision of the ladder can be built and keeps its tolerance; the kept engine does not
                fit and the settings refuse to build (the message names every difference); or there is not enough
                memory or disk now.
            ModelError: the network's file is missing.
            ConfigError: a module that shall stay in float32 is none of the network's.
        """
        try:
            with locked(self.engine_file, BUILD_TIMEOUT_S, self._tell):
                with contextlib.suppress(OSError):  # what a killed process has left; whoever has the lock may
                    self._new_file.unlink(missing_ok=True)
                return self._kept_or_new()
        except OSError as error:
            raise EngineError(f"TensorRT engine {self.engine_file}: {error}") from error

    def _kept_or_new(self) -> tuple[EngineStamp, Engine | None]:
        problems: list[str] = []
        for path in self._candidates():
            stamp = read_engine_stamp(path)
            apart = [name for name in stamp.key.onnx if name != self._onnx.name] if stamp is not None else []
            key = self._key([name for name in apart if (self._onnx.parent / name).is_file()])
            found = engine_problems(path, stamp, key, self._settings.adopt)
            if not found and stamp is not None:
                try:
                    return self._reuse(path, stamp, key)
                except (PlanError, ToleranceError) as error:
                    found = [str(error)]
            problems = problems or found
        if self._settings.stale == "refuse" and self.engine_file.is_file():
            raise EngineError(
                f"engine {self.engine_file}: not used, and by policy not rebuilt\n  " + "\n  ".join(problems)
            )
        self._settings = adopted(self._settings, read_engine_stamp(self.engine_file))
        check_writable(self._folder, f"{self.engine_file.name} must be built ({'; '.join(problems)})")
        self._tell(f"building {self.engine_file.name} with {self._library}: {'; '.join(problems)}")
        return self._climb_down(self._key(weight_files(self._onnx)))

    def _candidates(self) -> list[Path]:
        """The engine's own file, and that of one that was built for such GPUs without having one."""
        if self._gpu is None:
            return [self.engine_file]
        ahead = engine_file(self._folder, self._onnx, self._settings, self._gpu.compute_capability)
        return [self.engine_file, *([ahead] if ahead.is_file() else [])]

    def _key(self, apart: Sequence[str]) -> EngineKey:
        settings = dataclasses.replace(self._settings, calibration=self.calibration_file)
        return engine_key(hashes(self._onnx, apart), self._card, self._library, self._gpu, settings)

    def _reuse(self, path: Path, stamp: EngineStamp, key: EngineKey) -> tuple[EngineStamp, Engine | None]:
        """Opens a kept engine; tries it where nobody has on this GPU, or not on these reference inputs.

        Raises:
            PlanError, ToleranceError: it cannot be used.
            EngineError: it cannot be opened now.
        """
        if self._open_plan is None:
            return stamp, None
        engine = self._open_plan(path, BuildSettings.of(stamp.key.build))
        # An engine for many GPUs was tried on another one.
        elsewhere = (stamp.key.gpu, stamp.key.driver) != (key.gpu, key.driver)
        if not stamp.on_gpu or elsewhere or stamp.references != self._references:
            with _closed_on_failure(engine):
                result = self._require(self._try(engine), stamp.precision)
            here = dataclasses.replace(
                stamp.key, gpu=key.gpu, driver=key.driver, compute_capability=key.compute_capability
            )
            stamp = dataclasses.replace(stamp, key=here, references=self._references, tested=str(result), on_gpu=True)
            try:
                self._keep(path, stamp)
            except OSError as error:
                self._new_file.unlink(missing_ok=True)
                why = error.strerror or error
                self._tell(
                    Caution(
                        f"{self.engine_file}: its self-test is repeated at every start, as it cannot be kept: {why}"
                    )
                )
        self._tell(f"using {self.engine_file.name}: {stamp.precision}, {stamp.tested}")
        return stamp, engine

    def _keep(self, plan: Path, stamp: EngineStamp) -> None:
        """Puts a plan in the engine's place, with its stamp."""
        if plan != self.engine_file:
            if plan != self._new_file:
                shutil.copyfile(plan, self._new_file)
            remove_stamp(self.engine_file)
            self._new_file.replace(self.engine_file)
        write_stamp(self.engine_file, stamp)

    def _climb_down(self, key: EngineKey) -> tuple[EngineStamp, Engine | None]:
        self._check_kept()
        self._steps, self._trials = [], 0
        missed = False
        try:
            for precision in rungs(self._settings.first, self._settings.ladder):
                if precision == "mixed" and self._steps and not missed:
                    continue  # fp16 is not inexact but refused
                check_not_ended()
                try:
                    return self._stand_on(precision, key)
                except (RefusedError, PlanError, ToleranceError) as error:
                    missed = precision == "fp16" and isinstance(error, ToleranceError)
                    self._steps.append(f"{precision}: {error}")
                    self._tell(f"passed over {precision}: {error}")
        finally:
            self._new_file.unlink(missing_ok=True)
        raise EngineError(f"no TensorRT engine of {self._card.name}\n  " + "\n  ".join(self._steps))

    def _check_kept(self) -> None:
        unknown = unknown_modules(self._settings.keep_fp32, own_modules(self._onnx))
        if unknown:
            raise ConfigError(f"keep in float32: {', '.join(unknown)}: no module of {self._card.name}")

    def _stand_on(self, precision: Precision, key: EngineKey) -> tuple[EngineStamp, Engine | None]:
        """Builds one precision and tries it.

        Raises:
            RefusedError: it cannot be had.
            PlanError: it cannot run here.
            ToleranceError: it misses its tolerance.
        """
        kept = self._kept(precision)
        report, engine, result = self._built_and_tried(precision, kept)
        stamp = EngineStamp(
            engine_sha256=file_sha256(self._new_file),
            key=key,
            precision=precision,
            kept=kept,
            references=self._references,
            tested=str(result),
            on_gpu=engine is not None,
            steps=tuple(self._steps),
            layers=report.layers,
            build_s=report.build_s,
        )
        self._keep(self._new_file, stamp)
        held = f", {len(kept)} modules in float32" if kept else ""
        self._tell(f"built {self.engine_file.name} in {report.build_s:.0f} s: {precision}{held}, {result}")
        return stamp, engine

    def _built_and_tried(
        self, precision: Precision, kept: tuple[str, ...]
    ) -> tuple[BuildReport, Engine | None, Agreement]:
        """A plan in `_new_file` that keeps its tolerance, on the GPU or, without one, in what the CPU shows of it."""
        with self._temporary_folder() as folder:
            target = folder / f"{self._onnx.stem}-{precision}.onnx"
            calibration = self.calibration_file if precision == "int8" else None
            if calibration is not None:
                self._check_calibration(calibration)
            wider = UNQUANTIZED.get(self._card.architecture, ())
            graph = write_precision(self._onnx, target, precision, kept, calibration, self._tell, wider)
            report = self._build_plan(graph, precision)
            if self._open_plan is None:
                return report, None, self._require(self._try_rounded(graph, precision, kept), precision)
        engine = self._open_plan(self._new_file, self._settings.build)
        with _closed_on_failure(engine):
            return report, engine, self._require(self._try(engine), precision)

    def _build_plan(self, graph: Path, precision: Precision) -> BuildReport:
        build = self._settings.build
        if precision == "tf32":
            build = dataclasses.replace(build, tf32=True)
        gpu = self._gpu.name.replace(" ", "-").replace("/", "-") if self._gpu is not None else build.compute_capability
        timing = self._folder / f"{self._library.name}-{self._library.version}-{gpu}.timing"
        return self._build(BuildJob(graph, self._new_file, self._library.name, build, timing), self._tell)

    def _try(self, engine: Engine) -> Agreement:
        """Raises ToleranceError for outputs that are not finite."""
        expected = self._expected
        try:
            got = [engine.run(sample) for sample in self.samples]
        except NotFiniteError as error:
            raise ToleranceError(str(error)) from error
        return agreement(self._card, expected, got)

    def _require(self, result: Agreement, precision: str) -> Agreement:
        if not TOLERANCES[precision].met(result):
            raise ToleranceError(f"{result}; asked for: {TOLERANCES[precision]}")
        return result

    def _try_rounded(self, graph: Path, precision: Precision, kept: tuple[str, ...]) -> Agreement:
        with self._temporary_folder() as folder:
            if precision in ("fp16", "mixed", "bf16"):
                low = "bf16" if precision == "bf16" else "fp16"
                graph = rounded_graph(self._onnx, folder / "rounded.onnx", low, kept)
            self._expected  # noqa: B018  # whose failure is not that of the rounding
            engine = self._open_pinned(graph, folder)
            try:
                return self._try(engine)
            except EngineError as error:  # rounding makes indices that no table has, and the like
                raise ToleranceError(str(error)) from error
            finally:
                engine.close()

    def _kept(self, precision: Precision) -> tuple[str, ...]:
        """The modules that stay in float32: asked for, known to be fragile, or found by trying."""
        kept = self._settings.keep_fp32
        if precision not in ("fp32", "tf32"):
            kept = tuple(dict.fromkeys((*kept, *FRAGILE.get(self._card.architecture, ()))))
        if precision != "mixed":
            return kept
        found = self._breaking(kept)
        if found:
            self._tell(f"kept in float32, since fp16 breaks them: {', '.join(found)}")
        return (*kept, *found)

    def _breaking(self, kept: tuple[str, ...]) -> tuple[str, ...]:
        """What else must stay in float32: by what the CPU shows of the rounding, else by engines built on trial.

        Raises:
            ToleranceError: fp16 missed its tolerance, and nothing shows why.
        """
        modules = own_modules(self._onnx)
        self._tell(f"looking for what breaks fp16, in {len(modules)} modules")
        found = breaking_modules(modules, lambda more: self._keeps_rounded((*kept, *more)))
        if found or not self._steps:
            return found
        if self._open_plan is None:
            raise ToleranceError("fp16 failed, and rounding on the CPU shows no module that breaks it")
        self._tell("rounding on the CPU shows no module that breaks fp16: building engines to find it")
        # fp16 as it stands has just failed.
        return breaking_modules(_parts(modules), lambda more: bool(more) and self._keeps_on_gpu((*kept, *more)))

    def _keeps_rounded(self, kept: tuple[str, ...]) -> bool:
        try:
            self._require(self._try_rounded(self._onnx, "mixed", kept), "mixed")
        except ToleranceError:
            return False
        return True

    def _keeps_on_gpu(self, kept: tuple[str, ...]) -> bool:
        if self._trials == MOST_TRIALS:
            raise ToleranceError(f"{MOST_TRIALS} engines built on trial have not shown what breaks fp16")
        self._trials += 1
        self._tell(f"engine on trial {self._trials} of at most {MOST_TRIALS}: {len(kept)} parts in float32")
        try:
            _, engine, _ = self._built_and_tried("mixed", kept)
        except (RefusedError, PlanError, ToleranceError):
            return False
        if engine is not None:
            engine.close()
        return True

    @cached_property
    def samples(self) -> list[dict[str, Array]]:
        """Reference inputs: recorded ones, spread over what there is, else made ones."""
        if self.reference_file.is_file():
            try:
                recorded = load_references(self.reference_file, self._card.specs()[0])
                return recorded[:: max(1, len(recorded) // MOST_SAMPLES)][:MOST_SAMPLES]
            except ModelError as error:
                self._tell(f"made inputs stand in for recorded ones: {error}")
        return made_inputs(self._card)

    @cached_property
    def _references(self) -> str:
        return file_sha256(self.reference_file) if self.reference_file.is_file() else MADE

    def record(self, samples: Sequence[Mapping[str, Array]]) -> None:
        """Keeps recorded inputs of this network, to try engines on and to calibrate INT8 with."""
        save_references(self.reference_file, samples)
        for name in ("samples", "_references", "_expected"):
            self.__dict__.pop(name, None)

    @property
    def calibration_file(self) -> Path | None:
        """The file that was asked for, else recorded reference inputs if there are any."""
        if self._settings.calibration is not None:
            return self._settings.calibration
        return self.reference_file if self.reference_file.is_file() else None

    def _check_calibration(self, path: Path) -> None:
        try:
            load_references(path, self._card.specs()[0])
        except ModelError as error:
            raise RefusedError(f"calibration: {error}") from error

    @cached_property
    def _expected(self) -> list[dict[str, Array]]:
        with self._temporary_folder() as folder:
            engine = self._open_pinned(self._onnx, folder)
            try:
                return [engine.run(sample) for sample in self.samples]
            finally:
                engine.close()

    def _open_pinned(self, graph: Path, folder: Path) -> Engine:
        inputs, outputs = self._card.specs()
        return self._open_reference(pinned_graph(graph, folder / "pinned.onnx", (*inputs, *outputs)))

    @contextlib.contextmanager
    def _temporary_folder(self) -> Iterator[Path]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(self._folder / "graph") as folder:
            yield folder


@contextlib.contextmanager
def _closed_on_failure(engine: Engine) -> Iterator[None]:
    try:
        yield
    except Exception:
        engine.close()
        raise


def _parts(modules: Sequence[str]) -> list[str]:
    """Coarser parts of the network: `a.b` for all that lies in it, `a/` for what lies above."""
    levels = [module.rstrip("/").split(".") for module in modules]
    return list(dict.fromkeys(".".join(names[:2]) if len(names) > 1 else f"{names[0]}/" for names in levels))


def rungs(first: Precision, ladder: bool) -> tuple[Precision, ...]:
    """The precisions to try, in turn."""
    if not ladder:
        return (first,)
    return LADDER[LADDER.index(first) :] if first in LADDER else (first, "fp32")
