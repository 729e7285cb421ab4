"""From an exported network to a TensorRT engine that was tried: the cache, the precision ladder, the self-test.

A kept engine is used where its stamp says that it was made from just this, and else built anew. A new one is
compared with the reference engine on reference inputs; where it misses the tolerance of its precision the next safer
one is built, and fp16 is first given another chance with the modules that break it kept in float32.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from mm_perception.core.errors import EngineError, ModelError
from mm_perception.engines.agreement import TOLERANCES, Agreement, agreement
from mm_perception.engines.card import WeightsCard
from mm_perception.engines.engine import Array, Engine
from mm_perception.engines.reference import load_references, made_inputs, save_references
from mm_perception.engines.stamp import file_sha256, locked, remove_stamp, write_stamp
from mm_perception.engines.tensorrt.build import BuildReport, build_plan
from mm_perception.engines.tensorrt.build_process import BuildJob
from mm_perception.engines.tensorrt.cache import (
    EngineKey,
    EngineStamp,
    engine_file,
    engine_key,
    engine_problems,
    hashes,
    read_engine_stamp,
    weight_files,
)
from mm_perception.engines.tensorrt.device import Gpu
from mm_perception.engines.tensorrt.library import Library
from mm_perception.engines.tensorrt.precision import (
    FRAGILE,
    breaking_modules,
    own_modules,
    rounded_graph,
    write_precision,
)
from mm_perception.engines.tensorrt.settings import LADDER, Precision, TensorRtSettings

Progress = Callable[[str], None]
BUILD_TIMEOUT_S = 7200.0
"""How long one process waits for another that builds the same engine."""
MOST_SAMPLES = 4
"""Reference inputs that an engine is tried on."""


Runner = Callable[[bytes], Engine]
"""Opens a plan on this machine's GPU; raises EngineError if it cannot run there."""
Builder = Callable[[BuildJob, Progress], BuildReport]


class Workshop:
    """Builds, tries and keeps the engines of one exported network.

    Args:
        card: of the network; onnx_file: its float32 export.
        library, gpu: what builds, and for what; gpu None: for `settings.build.compute_capability`, without trying.
        open_plan: opens a plan on the GPU; None where there is none.
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
        self.engine_file = engine_file(folder, onnx_file, settings)
        self._steps: list[str] = []

    @property
    def reference_file(self) -> Path:
        """Where recorded reference inputs of this network are kept."""
        return self._folder / f"{self._onnx.stem}.inputs.npz"

    def ready(self) -> tuple[EngineStamp, Engine | None]:
        """A kept engine that fits, or a new one.

        Returns:
            its stamp, and the running engine; None where there is no GPU to run it.

        Raises:
            EngineError: no precision of the ladder can be built and keeps its tolerance, or the kept engine does not
                fit and the settings refuse to build; the message names every difference.
            ModelError: a file is missing.
        """
        with locked(self.engine_file, BUILD_TIMEOUT_S):
            stamp = read_engine_stamp(self.engine_file)
            apart = [name for name in stamp.key.onnx if name != self._onnx.name] if stamp is not None else []
            key = self._key([name for name in apart if (self._onnx.parent / name).is_file()])
            problems = engine_problems(self.engine_file, stamp, key)
            if not problems and stamp is not None:
                try:
                    return self._reuse(stamp)
                except EngineError as error:
                    problems = [str(error)]
            if self._settings.stale == "refuse" and self.engine_file.is_file():
                raise EngineError(
                    f"engine {self.engine_file}: not used, and by policy not rebuilt\n  " + "\n  ".join(problems)
                )
            self._tell(f"building {self.engine_file.name} with {self._library}: {'; '.join(problems)}")
            return self._climb_down(self._key(weight_files(self._onnx)))

    def _key(self, apart: Sequence[str]) -> EngineKey:
        settings = dataclasses.replace(self._settings, calibration=self.calibration_file)
        return engine_key(hashes(self._onnx, apart), self._card, self._library, self._gpu, settings)

    def _reuse(self, stamp: EngineStamp) -> tuple[EngineStamp, Engine | None]:
        if self._open_plan is None:
            return stamp, None
        engine = self._open_plan(self.engine_file.read_bytes())
        if not stamp.on_gpu:
            result = self._try(engine)
            if not TOLERANCES[stamp.precision].met(result):
                engine.close()
                raise EngineError(f"it was built without a GPU, and on this one it gives {result}")
            stamp = dataclasses.replace(stamp, tested=str(result), on_gpu=True)
            write_stamp(self.engine_file, stamp)
        self._tell(f"using {self.engine_file.name}: {stamp.precision}, {stamp.tested}")
        return stamp, engine

    def _climb_down(self, key: EngineKey) -> tuple[EngineStamp, Engine | None]:
        self._steps = []
        for precision in rungs(self._settings.precision, self._settings.ladder):
            try:
                return self._stand_on(precision, key)
            except EngineError as error:
                self._steps.append(f"{precision}: {error}")
                self._tell(f"passed over {precision}: {error}")
        raise EngineError(f"no TensorRT engine of {self._card.name}\n  " + "\n  ".join(self._steps))

    def _stand_on(self, precision: Precision, key: EngineKey) -> tuple[EngineStamp, Engine | None]:
        """Builds one precision and tries it. Raises EngineError if it cannot be built or misses its tolerance."""
        kept = self._kept(precision)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".graph-") as folder:
            target = Path(folder) / f"{self._onnx.stem}-{precision}.onnx"
            samples = self._calibration() if precision == "int8" else ()
            graph = write_precision(self._onnx, target, precision, kept, samples)
            report = self._build_engine(graph, precision)
            engine, result = self._tried(graph, precision, kept)
        if not TOLERANCES[precision].met(result):
            if engine is not None:
                engine.close()
            self.engine_file.unlink(missing_ok=True)
            raise EngineError(f"{result}; asked for: {TOLERANCES[precision]}")
        stamp = EngineStamp(
            engine_sha256=file_sha256(self.engine_file),
            key=key,
            precision=precision,
            kept=kept,
            tested=str(result),
            on_gpu=engine is not None,
            steps=tuple(self._steps),
            layers=report.layers,
            build_s=report.build_s,
        )
        write_stamp(self.engine_file, stamp)
        held = f", {len(kept)} modules in float32" if kept else ""
        self._tell(f"built {self.engine_file.name} in {report.build_s:.0f} s: {precision}{held}, {result}")
        return stamp, engine

    def _build_engine(self, graph: Path, precision: Precision) -> BuildReport:
        build = self._settings.build
        if precision == "tf32":
            build = dataclasses.replace(build, tf32=True)
        gpu = self._gpu.name.replace(" ", "-").replace("/", "-") if self._gpu is not None else build.compute_capability
        timing = self._folder / f"{self._library.name}-{self._library.version}-{gpu}.timing"
        remove_stamp(self.engine_file)
        return self._build(BuildJob(graph, self.engine_file, self._library.name, build, timing), self._tell)

    def _tried(self, graph: Path, precision: Precision, kept: tuple[str, ...]) -> tuple[Engine | None, Agreement]:
        """The engine on the GPU with its result; without a GPU, what the CPU shows of its rounding."""
        if self._open_plan is None:
            return None, self._try_rounded(graph, precision, kept)
        engine = self._open_plan(self.engine_file.read_bytes())
        try:
            return engine, self._try(engine)
        except EngineError:
            engine.close()
            raise

    def _try(self, engine: Engine) -> Agreement:
        return agreement(self._card, self._expected, [engine.run(sample) for sample in self.samples])

    def _try_rounded(self, graph: Path, precision: Precision, kept: tuple[str, ...]) -> Agreement:
        if precision in ("fp16", "mixed", "bf16"):
            graph = rounded_graph(self._onnx, graph, "bf16" if precision == "bf16" else "fp16", kept)
        engine = self._open_reference(graph)
        try:
            return self._try(engine)
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
            EngineError: fp16 failed, and nothing shows why.
        """
        self._tell("looking for what breaks fp16")
        modules = own_modules(self._onnx)
        expected = self._expected  # whose failure is none of fp16's
        assert expected
        found = breaking_modules(modules, lambda more: self._keeps_rounded((*kept, *more)))
        if found or not self._steps:
            return found
        if self._open_plan is None:
            raise EngineError("fp16 failed, and rounding on the CPU shows no module that breaks it")
        self._tell("rounding on the CPU shows no module that breaks fp16: building engines to find it")
        # fp16 as it stands has just failed.
        return breaking_modules(_parts(modules), lambda more: bool(more) and self._keeps_on_gpu((*kept, *more)))

    def _keeps_rounded(self, kept: tuple[str, ...]) -> bool:
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".graph-") as folder:
            try:
                result = self._try_rounded(Path(folder) / "rounded.onnx", "mixed", kept)
            except EngineError:  # not finite
                return False
        return TOLERANCES["mixed"].met(result)

    def _keeps_on_gpu(self, kept: tuple[str, ...]) -> bool:
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".graph-") as folder:
            try:
                graph = write_precision(self._onnx, Path(folder) / "trial.onnx", "mixed", kept)
                self._build_engine(graph, "mixed")
                engine, result = self._tried(graph, "mixed", kept)
            except EngineError:
                return False
        if engine is not None:
            engine.close()
        return TOLERANCES["mixed"].met(result)

    @cached_property
    def samples(self) -> list[dict[str, Array]]:
        """Reference inputs: the recorded ones, else made ones."""
        if self.reference_file.is_file():
            try:
                return load_references(self.reference_file, self._card.specs()[0])[:MOST_SAMPLES]
            except ModelError as error:
                self._tell(f"made inputs stand in for recorded ones: {error}")
        return made_inputs(self._card)

    def record(self, samples: Sequence[Mapping[str, Array]]) -> None:
        """Keeps recorded inputs of this network, to try engines on and to calibrate INT8 with."""
        save_references(self.reference_file, samples)
        self.__dict__.pop("samples", None)

    def _calibration(self) -> list[dict[str, Array]]:
        path = self.calibration_file
        return load_references(path, self._card.specs()[0]) if path is not None else []

    @property
    def calibration_file(self) -> Path | None:
        """The file that was asked for, else recorded reference inputs if there are any."""
        if self._settings.calibration is not None:
            return self._settings.calibration
        return self.reference_file if self.reference_file.is_file() else None

    @cached_property
    def _expected(self) -> list[dict[str, Array]]:
        engine = self._open_reference(self._onnx)
        try:
            return [engine.run(sample) for sample in self.samples]
        finally:
            engine.close()


def _parts(modules: Sequence[str]) -> list[str]:
    """Coarser parts of the network: `a.b.c` for all that lies in it, `a.b/` for shallow modules."""
    levels = [module.rstrip("/").split(".") for module in modules]
    return list(dict.fromkeys(".".join(names[:3]) if len(names) > 2 else f"{'.'.join(names)}/" for names in levels))


def rungs(asked: str, ladder: bool) -> tuple[Precision, ...]:
    """The precisions to try, in turn."""
    first: Precision = "fp16" if asked == "auto" else asked  # type: ignore[assignment]
    if not ladder:
        return (first,)
    return LADDER[LADDER.index(first) :] if first in LADDER else (first, "fp32")
