"""A hand on the plug: stop a process dead at a chosen point of a redemption.

The shipped ledger and till tell whoever embeds them which point they pass (`reached`) and do
nothing else with it. Only the demo's own launchers listen, and only to a file in the demo's folder.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path


class Plug:
    """`pull_at(point)` makes the process that was given `reached` die when it gets there."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pull_at(self, point: str) -> None:
        self._file.write_text(point, "ascii")

    def reached(self, point: str) -> None:
        if self._file.exists() and self._file.read_text("ascii") == point:
            self._file.unlink()
            # SIGKILL: no handler, no flush, no goodbye, as when the power goes.
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
