"""Problems of a replay, said once each and then ever more seldom."""

from __future__ import annotations

import re
from collections import Counter

from rich.console import Console

_NUMBER = re.compile(r"\d[\d.,e+-]*")


class ProblemPrinter:
    """Prints a problem the first, tenth, hundredth ... time: a broken topic has one in each message.

    Two are the same if they are of one place and one text, whatever the numbers in it. How often there was which kind
    is in the report.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._times: Counter[tuple[str, str]] = Counter()

    def __call__(self, where: str, error: Exception) -> None:
        text = str(error)
        key = where, _NUMBER.sub("#", text)
        self._times[key] += 1
        times = self._times[key]
        if times == 10 ** (len(str(times)) - 1):
            again = f" ({times} times)" if times > 1 else ""
            self._console.print(f"{where}: {text}{again}", style="yellow", highlight=False)
