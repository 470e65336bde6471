"""Everybody's time under one seed: it goes on by itself a little, and some clocks are wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from carepos.uptime import Uptime

_TICK = timedelta(milliseconds=1)


class Time:
    """True time; `clock_of` is what somebody's clock says, each look a millisecond later."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
        self.wrong: dict[str, timedelta] = {}
        self._booted: dict[str, datetime] = {}

    def forward(self, seconds: float) -> None:
        self.at += timedelta(milliseconds=int(seconds * 1000))

    def clock_of(self, name: str) -> Callable[[], datetime]:
        def now() -> datetime:
            self.at += _TICK
            return self.at + self.wrong.get(name, timedelta())

        return now

    def uptime_of(self, name: str) -> Uptime:
        """How long somebody's computer has been running, whatever its clock says."""
        began = self._booted.setdefault(name, self.at)
        return Uptime(lambda: (self.at - began).total_seconds(), boot=began.isoformat())

    def switch_off(self, name: str) -> None:
        """Somebody's computer lost its power: it runs again from its next start on."""
        self._booted.pop(name, None)
