"""How long this computer has been running: a clock that nobody sets and no sleep stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Uptime:
    """`seconds()` only grows while the computer runs. `boot` tells one run of it from every other;
    it is empty where the system has no name for it. `measures`: whether a clock that was set can be
    found out by it."""

    seconds: Callable[[], float]
    boot: str = ""
    measures: bool = True


def system() -> Uptime:
    """Of this computer, with the time it slept where the system counts it."""
    try:
        boot = _BOOT.read_text("ascii").strip()[:64]
    except (OSError, ValueError):
        boot = ""
    counts_sleep = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    if counts_sleep is None:
        return Uptime(time.monotonic, boot)  # GetTickCount64 and its like count it by themselves
    return Uptime(lambda: time.clock_gettime(counts_sleep), boot)


def stands_still() -> Uptime:
    """For a clock that is not this computer's, which its running says nothing about."""
    return Uptime(lambda: 0.0, measures=False)
