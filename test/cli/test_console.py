"""What commands print holds brackets: units of tables, and paths and topics of users."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.table import Table

from mm_perception.cli.console import make_console
from mm_perception.cli.replay import latency_table
from mm_perception.metrics.latency import LatencySummary
from mm_perception.replay.replay import ReplayReport

CLI = sorted((Path(__file__).parents[2] / "mm_perception" / "cli").glob("*.py"))


def printed(thing) -> str:
    out = io.StringIO()
    make_console(file=out, width=200).print(thing)
    return out.getvalue()


@pytest.mark.parametrize("unit", ["ms", "m", "rad", "m/s", "m/s2", "s", "MB", "px", "%", "/a", "a", "Hz"])
def test_units_and_names_in_brackets_are_printed(unit):
    table = Table(f"x [{unit}]", title=f"of [{unit}]")
    table.add_row(f"/topic[{unit}]")
    text = printed(table)
    assert text.count(f"[{unit}]") == 3
    assert f"y [{unit}]" in printed(f"y [{unit}]")


def test_a_report_has_its_units():
    report = ReplayReport(latency={"network": LatencySummary(3, 1.0, 2.0, 3.0, 4.0)})
    assert "median [ms]" in printed(latency_table(report))


@pytest.mark.parametrize("path", CLI, ids=lambda path: path.stem)
def test_no_command_makes_a_console_that_swallows_brackets(path):
    code = path.read_text()
    if path.stem != "console":
        assert "Console(" not in code.replace("make_console(", "")
    for word in ("[bold", "[/]", "[yellow]", "[red]", "[green]", "[dim]"):
        assert word not in code, word
