"""`mm-perception bench gpu`: what this package's networks and its pipeline cost on an NVIDIA GPU, in one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mm_perception.bench.budget import Budget
from mm_perception.bench.machine import software
from mm_perception.bench.networks import NETWORKS, network_card
from mm_perception.bench.rows import (
    ALL_PRECISIONS,
    PIPELINE_ENGINES,
    PRECISIONS,
    RUNNERS,
    PipelineRow,
    Report,
    Row,
    RowSpec,
    row_specs,
)
from mm_perception.bench.samples import Recording
from mm_perception.cli import numbers
from mm_perception.cli.outputs import add_overwrite
from mm_perception.core.errors import ConfigError, EngineError, MmPerceptionError
from mm_perception.core.files import check_new_file, check_outputs, replace_file
from mm_perception.core.settings import OFF, FusionSettings
from mm_perception.engines.load import installed
from mm_perception.engines.stamp import default_cache_dir

if TYPE_CHECKING:
    from mm_perception.bench.gpu_table import Bench
    from mm_perception.bench.timing import Device

DEFAULT_NETWORKS = ["cmx-b0", "cmx-b2", "cmx-b4", "deepinteraction-full"]
ENDED = "the process ended while this was measured: killed, or a library's crash"
SKIPPABLE = (*RUNNERS, "pipeline")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "--networks", nargs="+", default=DEFAULT_NETWORKS, metavar="N",
        help=f"{', '.join(NETWORKS)} with random weights, or models: names in config/models or card files",
    )  # fmt: skip
    parser.add_argument(
        "--height", type=numbers.side_px, default=480, metavar="PX", help="of CMX's images without a card (480)"
    )
    parser.add_argument(
        "--width", type=numbers.side_px, default=640, metavar="PX", help="of CMX's images without a card (640)"
    )
    parser.add_argument(
        "--precisions", nargs="+", default=list(PRECISIONS), choices=ALL_PRECISIONS,
        help=f"{' '.join(PRECISIONS)}; mixed: TensorRT's fp16 but for the modules that break it",
    )  # fmt: skip
    parser.add_argument("--rounds", type=numbers.count_or_none, default=100, help="timed runs per row (100)")
    parser.add_argument("--warmup", type=numbers.count_or_none, default=10, help="runs before them (10)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:<index>, or cpu: the torch rows, to try it out")
    parser.add_argument("--skip", type=_names, default=(), metavar="A,B", help="of " + ",".join(SKIPPABLE))
    parser.add_argument(
        "--minutes", type=numbers.minutes, help="begin nothing after that; the rest is named as not run"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="exported graphs and engines (the package's cache)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here, after every row")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table for a README here")
    add_overwrite(parser)
    parser.add_argument("--resume", action="store_true", help="keep the rows that the --json file has already")
    parser.add_argument(
        "--bag", type=Path, default=Path("rosbags/demo.mcap"), help="for the pipeline, and to compare trained models on"
    )
    parser.add_argument("--rig", default="demo", help="the bag's sensors: a name in config/rigs or a path")
    parser.add_argument(
        "--samples",
        type=numbers.count_or_none,
        default=4,
        metavar="N",
        help="observations of it that trained models are compared on (4)",
    )
    parser.add_argument("--model", default=FusionSettings().model, help="the pipeline's segmentation, or none")
    parser.add_argument("--detector", default="deepinteraction-tiny", help="the pipeline's 3D detection, or none")


def _names(text: str) -> tuple[str, ...]:
    """Names between commas.

    Raises:
        argparse.ArgumentTypeError: one of them is unknown.
    """
    names = tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in SKIPPABLE]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(SKIPPABLE)}, got {','.join(unknown)}")
    return names


def run(args: argparse.Namespace) -> int:
    """Measures, prints row by row, and writes the files after every row.

    Raises:
        ConfigError: an option is out of range, or the file to go on with is of another machine.
        ModelError: a model card is wrong.
        EngineError: torch is not installed, or there is no GPU that it can use.
    """
    if args.rounds < 1 or args.warmup < 0:
        raise ConfigError(
            f"expected --rounds of at least 1 and --warmup of at least 0, got {args.rounds}, {args.warmup}"
        )
    if args.samples < 1:
        raise ConfigError(f"--samples: expected at least 1, got {args.samples}")
    if args.resume and (args.json is None or not args.json.is_file()):
        raise ConfigError(f"--resume: expected a --json file that is there, got {args.json}")
    _check_outputs(args)
    cards = {name: network_card(name, args.height, args.width) for name in args.networks}
    budget = Budget(args.minutes)
    if not installed("torch"):
        raise EngineError("the measurements need torch: pip install torch")
    from mm_perception.bench.gpu_table import Bench, network_rows
    from mm_perception.bench.timing import Device

    device = Device(args.device)
    report = _started(args, device)

    def begin(spec: RowSpec) -> None:
        if args.json is not None:
            replace(report, rows=[*report.rows, Row(spec, "failed", ENDED)]).write(args.json)

    cache, recording = args.cache or default_cache_dir(), Recording(args.bag, args.rig, args.samples)
    bench = Bench(device, cache, recording, args.rounds, args.warmup, budget, _tell, begin)
    try:
        for network, card in cards.items():
            done = {row.spec for row in report.rows}
            specs = [spec for spec in row_specs(network, args.precisions, args.skip) if spec not in done]
            if specs:
                _measure_network(args, report, network, network_rows(card, specs, bench, report, network))
        if "pipeline" not in args.skip:
            _measure_pipelines(args, report, bench)
    finally:
        _write(args, report)
    _print_not_run(report)
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Raises ConfigError for files that exist, unless they may be replaced; with --resume they go on."""
    check_outputs({"--json": args.json, "--markdown": args.markdown}, (args.bag, args.rig))
    for path, kind in ((args.json, "json"), (args.markdown, "text")):
        if path is not None:
            check_new_file(path, args.overwrite or args.resume, kind)


def _started(args: argparse.Namespace, device: Device) -> Report:
    """A report that knows the machine, and what an earlier run measured on it."""
    from mm_perception.bench.peaks import peak_bytes_per_s, peak_flops
    from mm_perception.bench.report_text import NOTES, machine_lines

    options = {name: getattr(args, name) for name in ("height", "width", "rounds", "warmup", "rig", "samples")}
    options["bag"] = str(args.bag)
    report = Report({**device.describe(), **software()}, options)
    if args.resume:
        report.take_over(args.json)
    if not report.peak_flops:
        _tell("measuring the device's peaks …")
        report.peak_flops, report.peak_bytes_per_s = peak_flops(device), peak_bytes_per_s(device)
    for line in machine_lines(report):
        print(line)
    print(f"{args.rounds} rounds after {args.warmup} to warm up; CMX without a card at {args.height}x{args.width} px")
    for note in NOTES:
        print(f"  {note}")
    return report


def _measure_network(args: argparse.Namespace, report: Report, network: str, rows: Iterable[Row]) -> None:
    from mm_perception.bench.report_text import facts_line, head_line, row_line

    for number, row in enumerate(rows):
        if number == 0:
            print(f"\n{network}" + (f": {facts_line(report.networks[network])}" if network in report.networks else ""))
            print(head_line())
        report.rows.append(row)
        print(row_line(row), flush=True)
        _write(args, report)


def _measure_pipelines(args: argparse.Namespace, report: Report, bench: Bench) -> None:
    from mm_perception.bench.report_text import pipeline_lines

    models = " + ".join(name for name in (args.model, args.detector) if name not in OFF)
    engines = [engine for engine in PIPELINE_ENGINES if engine not in {row.engine for row in report.pipelines}]
    print(f"\npipeline on {args.bag} (rig {args.rig}): {models}")
    for row in _pipeline_rows(args, engines, models, bench):
        report.pipelines.append(row)
        print("\n".join(pipeline_lines(row)), flush=True)
        _write(args, report)


def _pipeline_rows(
    args: argparse.Namespace, engines: Sequence[str], models: str, bench: Bench
) -> Iterable[PipelineRow]:
    from mm_perception.bench.gpu_table import reason_of

    if bench.budget.is_spent:
        return [PipelineRow(engine, models, "not run", str(bench.budget)) for engine in engines]
    try:
        # Reading bags needs a library that a bare machine may lack; the networks are measured all the same.
        from mm_perception.bench.pipeline_bench import load_drive, pipeline_row

        drive = load_drive(args.bag, args.rig, args.model, args.detector)
    except (MmPerceptionError, OSError, ImportError) as error:
        return [PipelineRow(engine, models, "failed", reason_of(error)) for engine in engines]
    return (pipeline_row(drive, engine, bench) for engine in engines)


def _print_not_run(report: Report) -> None:
    missing = [f"{row.spec.network} {row.spec.label} {row.spec.precision}" for row in report.rows if _is_left(row)]
    missing += [f"pipeline {row.engine}" for row in report.pipelines if _is_left(row)]
    if missing:
        print(f"\nnot run ({len(missing)}; --resume goes on): " + "; ".join(missing))


def _is_left(row: Row | PipelineRow) -> bool:
    return row.status == "not run"


def _write(args: argparse.Namespace, report: Report) -> None:
    from mm_perception.bench.report_text import markdown

    if args.json is not None:
        report.write(args.json)
    if args.markdown is not None:
        args.markdown.parent.mkdir(parents=True, exist_ok=True)
        replace_file(args.markdown, markdown(report).encode())


def _tell(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
