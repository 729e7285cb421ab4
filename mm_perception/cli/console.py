"""The console of all commands: what is printed is words, and nothing in it is markup."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def make_console(**options: Any) -> Console:
    """A console that prints brackets as they are: units ([ms], [m]) and users' paths and topics hold them.

    Colors are given by `style`, or as `rich.text.Text`.
    """
    return Console(markup=False, **options)
