"""A fusion node in its own process, with its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mm_perception.ros.fusion_node import PARENT_VARIABLE


class NodeProcess(subprocess.Popen[bytes]):
    """Starts `fusion_node`; leaves no process behind if `stop` is called."""

    def __init__(self, parameters: Mapping[str, str], log_path: Path) -> None:
        """Args:
        parameters: of the node.
        log_path: where its output is appended.
        """
        self._log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        line = [sys.executable, "-m", "mm_perception.ros.fusion_node", "--ros-args"]
        for name, value in parameters.items():
            line += ["-p", f"{name}:={value or repr('')}"]
        self._log = log_path.open("ab")
        self._log_start = self._log.tell()
        environment = os.environ | {PARENT_VARIABLE: str(os.getpid())}
        super().__init__(line, stdout=self._log, stderr=subprocess.STDOUT, env=environment)

    def stop(self, timeout_s: float = 30.0) -> int:
        """Interrupts the node as a user would and waits for its end; returns its exit code."""
        if self.poll() is None:
            self.send_signal(signal.SIGINT)
            try:
                self.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
                self.wait()
        self._log.close()
        return int(self.returncode)

    def log_lines(self) -> list[str]:
        """Of this process."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace").splitlines()

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log_lines()[-lines:])
