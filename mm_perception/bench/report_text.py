"""A report of the GPU's bench as text: lines for a terminal, and Markdown fit for a README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mm_perception.bench.rows import PRECISIONS, NetworkFacts, PipelineRow, Report, Row
from mm_perception.bench.torch_runners import COMPILE_MODE

NOTES = (
    "median / p99: wall clock of one run, waiting for the device before and after it; inputs and outputs stay on the "
    "device; copying a CUDA graph's inputs in, casts, and TensorRT's check for finite outputs are counted.",
    "1/s: from runs given to the device without waiting in between (TensorRT's check waits in every run).",
    "MiB: what the whole GPU has more in use than before the network was loaded; 'nvidia-smi' counts alike.",
    "max |diff|: largest difference of any output from torch's in float32 without TF32; a detector's queries are "
    "ranked, so that two of about one score that change places count as a difference.",
    "agree: share of pixels with the reference's label; for a detector, of its boxes (at least the likeliest 20) that "
    "are found again: same class, about its score, centre within 0.2 m; in the worst of the inputs that are named with "
    "the network.",
    "roofline: the longer of all operations at the measured peak and weights, inputs and outputs moved once at the "
    "measured copy rate, as if every tensor had the row's precision; 'x' is median / roofline.",
    f"torch in fp16 and bf16: CMX with cast weights, the detector with autocast; torch.compile: {COMPILE_MODE}. "
    "Weights are seeded random numbers, but for networks that are named by their model card.",
)
ROW_HEAD = (
    *("how", "precision", "median / p99 [ms]", "1/s", "MiB", "max \\|diff\\|", "agree [%]"),
    *("roofline [ms]", "x"),
)
_LEFT = 2


def machine_lines(report: Report) -> list[str]:
    """Who measured, with what, and how fast it is at most."""
    machine = "; ".join(f"{name} {value}" for name, value in report.machine.items())
    peaks = ", ".join(f"{name} {value / 1e12:.3g}" for name, value in report.peak_flops.items())
    return [
        machine,
        f"measured peaks: {peaks} Tera-operations/s in a large matrix product; "
        f"{report.peak_bytes_per_s / 1e9:.4g} GB/s in a large copy (read + written)",
    ]


def facts_line(facts: NetworkFacts) -> str:
    """What a network costs at least, and on what its rows are compared."""
    compared = f"; agreement on {facts.inputs}" if facts.inputs else ""
    if facts.reason:
        return f"its least cost is not known: {facts.reason}{compared}"
    once, unfused = (_figures(mb, ("fp32", "fp16", "int8")) for mb in (facts.once_mb, facts.unfused_mb))
    text = (
        f"{facts.products_gflop:.4g} GFLOP in products, {facts.others_gflop:.3g} in all else; MB in fp32, fp16, int8: "
        f"{once} once through, {unfused} unfused"
    )
    known = [precision for precision in PRECISIONS if precision in facts.roofline_ms]
    least, most = _figures(facts.roofline_ms, known), _figures(facts.unfused_roofline_ms, known)
    if known:
        text += f"; roofline in {', '.join(known)}: {least} ms, with the unfused bytes {most} ms"
    return text + compared


def _figures(values: Mapping[str, float], names: Iterable[str]) -> str:
    return ", ".join(f"{values[name]:.4g}" for name in names)


def row_cells(row: Row) -> list[str]:
    """One row of the table; the reason stands where figures would."""
    name = f"{row.spec.label} ({row.note})" if row.note else row.spec.label
    if row.status != "ok":
        return [name, row.spec.precision, f"{row.status}: {row.reason}"]
    return [
        name,
        row.spec.precision,
        f"{row.median_ms:.3f} / {row.p99_ms:.3f}",
        f"{row.per_s:.1f}",
        _number(row.memory_mib, ".0f"),
        _number(row.max_abs_diff, ".1e"),
        _number(None if row.agreement is None else 100 * row.agreement, ".2f"),
        _number(row.roofline_ms, ".3f"),
        _number(row.times_roofline, ".1f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def row_line(row: Row) -> str:
    """One row for the terminal."""
    cells = row_cells(row)
    if len(cells) <= _LEFT + 1:
        return f"  {cells[0]:34} {cells[1]:5} {cells[2]}"
    figures = "".join(f"{cell:>{width}}" for cell, width in zip(cells[2:], (20, 10, 8, 9, 9, 10, 8), strict=True))
    return f"  {cells[0]:34} {cells[1]:5} {figures}"


def head_line() -> str:
    """Above the rows in the terminal."""
    titles = ("median / p99 ms", "1/s", "MiB", "|diff|", "agree %", "roofl ms", "x")
    return f"  {'':34} {'':5} " + "".join(f"{t:>{w}}" for t, w in zip(titles, (20, 10, 8, 9, 9, 10, 8), strict=True))


def pipeline_lines(row: PipelineRow) -> list[str]:
    """One engine's pipeline for the terminal."""
    if row.status != "ok":
        return [f"  {row.engine:12} {row.status}: {row.reason}"]
    stages = [f"      {stage:28} {median:9.3f} / {p99:9.3f} ms" for stage, (median, p99) in row.stages.items()]
    return [f"  {row.engine:12} {_rates(row)} ({row.bundles} bundles)", *stages]


def _rates(row: PipelineRow) -> str:
    overlapped = "overlapped: " + (_number(row.overlapped_per_s, ".2f") or "not possible")
    return f"bundles per second: {_number(row.step_per_s, '.2f')} in sequence, {overlapped}"


def markdown(report: Report) -> str:
    """The whole report."""
    lines = [line for text in machine_lines(report) for line in (text, "")]
    for network in dict.fromkeys([*report.networks, *(row.spec.network for row in report.rows)]):
        lines += [
            f"**{network}**: {facts_line(report.networks[network])}" if network in report.networks else network,
            "",
        ]
        rows = [row_cells(row) for row in report.rows if row.spec.network == network]
        lines += [*_table(ROW_HEAD, rows), ""]
    for row in report.pipelines:
        lines += [f"**Pipeline, {row.engine}** ({row.models}): {_rates(row) if row.status == 'ok' else row.reason}", ""]
        stages = [[stage, f"{median:.3f}", f"{p99:.3f}"] for stage, (median, p99) in row.stages.items()]
        lines += [*_table(("stage", "median [ms]", "p99 [ms]"), stages), ""] if stages else []
    return "\n".join([*lines, *(f"- {note}" for note in NOTES), ""])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    filled = [[cell.replace("|", "\\|") for cell in row] + [""] * (len(head) - len(row)) for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *filled)]
