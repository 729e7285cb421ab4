"""How long a bench may go on."""

from __future__ import annotations

import time

from mm_perception.core.errors import ConfigError


class Budget:
    """Minutes, counted from the object's making. What has begun is finished; nothing begins after them."""

    def __init__(self, minutes: float | None) -> None:
        """Args:
            minutes: None for no limit.

        Raises:
            ConfigError: they are not above 0.
        """
        if minutes is not None and not minutes > 0:
            raise ConfigError(f"--minutes: expected more than 0, got {minutes:g}")
        self._minutes = minutes
        self._started = time.monotonic()

    @property
    def is_spent(self) -> bool:
        return self._minutes is not None and time.monotonic() - self._started > 60 * self._minutes

    def __str__(self) -> str:
        return f"the budget of {self._minutes:g} min was spent" if self._minutes is not None else "no limit"
