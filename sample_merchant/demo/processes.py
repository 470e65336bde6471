"""Processes of the demo: started, waited for by what they answer, killed, started again."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import requests

START_TIMEOUT_S = 30


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


class Process:
    """One server process; its output goes to a log file."""

    def __init__(self, name: str, command: list[str], probe_url: str, log: Path) -> None:
        self.name = name
        self._command = [sys.executable, *command]
        self._probe_url = probe_url
        self._log = log
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return once it answers. Raises RuntimeError with the end of its log."""
        with self._log.open("ab") as output:
            self._running = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._running.poll() is None:
            try:
                requests.get(self._probe_url, timeout=1)
            except requests.RequestException:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"the {self.name} did not start:\n{self._log.read_text()[-2000:]}")

    def wait_dead(self) -> int:
        """Wait until it has died by itself; its exit code (negative: by that signal)."""
        assert self._running is not None
        return self._running.wait(START_TIMEOUT_S)

    def stop(self) -> None:
        if self._running is not None and self._running.poll() is None:
            self._running.terminate()
            try:
                self._running.wait(10)
            except subprocess.TimeoutExpired:
                self._running.kill()
                self._running.wait()

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
