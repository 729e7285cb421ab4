from __future__ import annotations

import io

from mm_perception.cli.console import make_console
from mm_perception.cli.problems import ProblemPrinter
from mm_perception.core.errors import DataError


def said(problems) -> list[str]:
    out = io.StringIO()
    say = ProblemPrinter(make_console(file=out, width=200))
    for where, text in problems:
        say(where, DataError(text))
    return out.getvalue().splitlines()


def test_the_same_problem_is_said_ever_more_seldom():
    lines = said(("/cam", f"image truncated: {n} bytes [m]") for n in range(250))
    assert lines == [
        "/cam: image truncated: 0 bytes [m]",
        "/cam: image truncated: 9 bytes [m] (10 times)",
        "/cam: image truncated: 99 bytes [m] (100 times)",
    ]


def test_problems_of_other_places_and_texts_are_said_for_themselves():
    assert len(said([("/a", "cut"), ("/b", "cut"), ("/a", "black"), ("/a", "cut")])) == 3
