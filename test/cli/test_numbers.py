"""Every number on every command line: nan, inf, negative and absurd values are refused in one line."""

from __future__ import annotations

import argparse
import importlib

import pytest

from mm_perception.cli import numbers
from mm_perception.cli.main import COMMANDS, main

ABSURD = ("nan", "inf", "-inf", "1e999", "9" * 30, "", "ten", "0x10", "1_000", "\u0661", "-9999999")


def options() -> list[tuple[str, str]]:
    """(command, option) of every option whose values are numbers, found in the parsers themselves."""
    found = []
    for command in COMMANDS:
        module = importlib.import_module(f"mm_perception.cli.{command.replace('-', '_')}")
        parser = argparse.ArgumentParser()
        try:
            module.add_arguments(parser)
        except ImportError:
            continue
        found += [(words, option) for words, option in _numeric(parser, command)]
    return found


def _numeric(parser: argparse.ArgumentParser, words: str):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from _numeric(inner, f"{words} {name}")
        elif action.option_strings and action.type not in (None, str) and action.nargs in (None, 1):
            try:
                is_number = isinstance(action.type("1"), (int, float))
            except (argparse.ArgumentTypeError, ValueError, TypeError):
                is_number = False
            if is_number:
                yield words, action.option_strings[-1]


OPTIONS = options()


def test_options_are_found():
    assert len(OPTIONS) > 30
    assert {("replay", "--threads"), ("simulate", "--seconds"), ("bench gpu", "--rounds")} <= set(OPTIONS)


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=" ".join)
def test_absurd_numbers_are_refused_in_one_line(command, option, capsys):
    for value in ABSURD:
        assert main([*command.split(), f"{option}={value}"]) == 2, value
        said = capsys.readouterr().err
        assert option in said and len(said.splitlines()) == 1, (value, said)


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (numbers.threads, ["0", "256", "+3"], ["257", "-1", "1.0", "1e2", " "]),
        (numbers.real(-1.0, 5.0), ["-1", "5", "0.5", "1e-3"], ["-1.01", "5.01", "nan", "-nan", "infinity", ""]),
        (numbers.side_px, ["1", "8192"], ["0", "8193"]),
        (numbers.seed, ["0", str(2**31 - 1)], [str(2**31), "-1"]),
    ],
)
def test_ranges_are_inclusive(parse, good, bad):
    for text in good:
        assert parse(text) == float(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            parse(text)
