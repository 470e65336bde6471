"""What time it is at a till, whatever its clock says (docs/offline.md §11).

A shop's PC wakes up in 1970 when its battery is flat, and a clock can be set back so that what has
expired seems good. What the ledger signed can't be set back: it is later than the newest of those
times, by at least as long as this computer ran since. That is the least time; the till reckons with
its clock where that is not before it. A time that the ledger signed just now, for this very
question, tells besides how far the clock is ahead.

The file is as trustworthy as the folder: whoever may write there also holds the till's key.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from carepos import clock, durable, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.uptime import Uptime

FILE: Final = "clock.json"
TOLERANCE: Final = timedelta(seconds=60)
FAR: Final = timedelta(days=400)
STEP: Final = timedelta(minutes=2)
SIGNED_KEPT_EVERY: Final = timedelta(seconds=60)
RAN_KEPT_EVERY: Final = timedelta(minutes=10)
"""How far the file may fall behind what was signed, and behind how long the computer ran since."""

State = Literal["fine", "behind", "ahead", "stepped", "doubtful"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How the clock stands. `off_s`: by how many seconds it is wrong, as far as that is known (of
    `behind` at least so many); `doubtful`: the ledger's time that is not believed."""

    state: State
    off_s: int = 0
    doubtful: datetime | None = None


class ResetTaken(Malformed):
    """An operator's reset that is not newer than the last one that was taken."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the file holds. `ran`: how long computers ran since `signed`, until `uptime` of `boot`;
    `reset`: the newest reset that was taken."""

    signed: datetime | None = None
    ran: timedelta = timedelta()
    boot: str = ""
    uptime: timedelta = timedelta()
    doubtful: datetime | None = None
    reset: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Anchor:
    """The clock and the uptime at one moment, and the ledger's time then, where it is known."""

    wall: datetime
    uptime: timedelta
    signed: datetime | None


class ClockRatchet:
    """One till's. Safe to call from several threads; `wall` is the computer's clock."""

    def __init__(self, path: Path, kept: _Kept, *, wall: Clock, uptime: Uptime) -> None:
        self._path = path
        self._wall = wall
        self._uptime = uptime
        self._mutex = threading.Lock()
        self._written = self._kept = kept
        self._anchor = _Anchor(wall(), self._up(), None)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        wall: Clock,
        uptime: Uptime,
        signed: Callable[[], Iterable[datetime]] = tuple,
    ) -> ClockRatchet:
        """Go on from the folder's file; without one that can be read, from `signed()`: what else in
        the folder has the ledger's signature."""
        path = folder / FILE
        try:
            kept = _read(path.read_bytes())
        except (OSError, Malformed):
            up = timedelta(seconds=uptime.seconds())
            begun = _Kept(signed=max(signed(), default=None), boot=uptime.boot, uptime=up)
            ratchet = cls(path, begun, wall=wall, uptime=uptime)
            ratchet._written = _Kept()  # nothing: the first to be heard writes it
            return ratchet
        ratchet = cls(path, kept, wall=wall, uptime=uptime)
        ratchet._go_on()
        return ratchet

    def _go_on(self) -> None:
        """Count the time in which this computer ran while no till did."""
        kept, up = self._kept, self._up()
        more = max(timedelta(), up - kept.uptime)
        if kept.boot != self._uptime.boot:
            more = timedelta()  # how long it was off nobody knows
        elif not kept.boot and kept.signed is not None:
            # It may be another run or another computer: no more than the clock says, too.
            more = min(more, max(timedelta(), self._wall() - kept.signed - kept.ran))
        self._kept = replace(kept, ran=kept.ran + more, boot=self._uptime.boot, uptime=up)

    # ── what time it is ────────────────────────────────────────────────────────────────────────

    def now(self) -> datetime:
        """The time to reckon with: never before the least; never more than 400 days after it."""
        with self._mutex:
            wall, least = self._wall(), self._least()
            if least is None:
                return wall
            if wall > least + FAR:
                return least
            return max(wall - self._known_ahead(wall), least)

    def least(self) -> datetime | None:
        """It is not earlier than this; None before the ledger signed anything."""
        with self._mutex:
            return self._least()

    def follow(self, now: datetime, previous: datetime) -> datetime:
        """The time of a record at `now` behind one of `previous`: times in a journal don't go back.

        But where a time that the ledger signed just now proves that the one before lies in the
        future: after a day with a wrong clock a year of records would else bear its date.
        """
        if now >= previous:
            return now
        with self._mutex:
            known = self._reckoned(self._wall())
        return now if known is not None and previous > known + TOLERANCE else previous

    def is_known(self) -> bool:
        """Whether the ledger told the time in this run, and the clock was not set since."""
        with self._mutex:
            return self._reckoned(self._wall()) is not None

    def ahead_s(self, true: datetime) -> int:
        """By how many seconds the clock is ahead of `true`, now; negative: behind."""
        return _seconds(self._wall() - true)

    def standing(self) -> Standing:
        """What there is to say about the clock."""
        with self._mutex:
            wall, least = self._wall(), self._least()
            if self._kept.doubtful is not None:
                return Standing("doubtful", doubtful=self._kept.doubtful)
            if least is not None and wall < least - TOLERANCE:
                return Standing("behind", _seconds(least - wall))
            if least is not None and wall > least + FAR:
                return Standing("ahead", _seconds(wall - least))
            ahead, stepped = self._known_ahead(wall), self._stepped(wall)
            if ahead:
                return Standing("ahead", _seconds(ahead))
            if abs(stepped) > STEP:
                return Standing("stepped", _seconds(stepped))
            return Standing("fine")

    @property
    def is_wrong(self) -> bool:
        """Whether what needs the time offline must be refused (`clock_behind`): the clock is
        behind, or so far ahead that it can't be right."""
        with self._mutex:
            wall, least = self._wall(), self._least()
            return least is not None and not least - TOLERANCE <= wall <= least + FAR

    # ── what tells it ──────────────────────────────────────────────────────────────────────────

    def heard(self, signed: datetime, *, fresh: bool = False) -> None:
        """A time under the ledger's verified signature; `fresh`: made for a question of just now.

        One more than 400 days after the till's time is noted as doubtful and not kept.
        """
        with self._mutex:
            wall, least, up = self._wall(), self._least(), self._up()
            if least is not None and signed > max(wall, least) + FAR:
                self._kept = replace(self._kept, doubtful=signed)
            else:
                if fresh:
                    self._anchor = _Anchor(wall, up, signed)
                    self._kept = replace(self._kept, doubtful=None)
                if least is None or signed > least:
                    self._kept = replace(
                        self._kept,
                        signed=signed,
                        ran=timedelta(),
                        boot=self._uptime.boot,
                        uptime=up,
                    )
            self._keep_if_due()

    def keep(self) -> None:
        """Write down how long this computer ran, if the file is ten minutes behind."""
        with self._mutex:
            self._keep_if_due()

    def reset(self, signed: datetime) -> None:
        """Begin anew at the time of an operator's reset, earlier or later than what was kept.

        Raises ResetTaken for one that is not newer than the last that was taken, OSError.
        """
        with self._mutex:
            if self._kept.reset is not None and signed <= self._kept.reset:
                raise ResetTaken("this reset, or a newer one, was taken before", field="reset")
            self._kept = _Kept(signed=signed, boot=self._uptime.boot, uptime=self._up())
            self._kept = replace(self._kept, reset=signed)
            self._anchor = _Anchor(self._wall(), self._up(), None)
            self._write()

    # ── inside ─────────────────────────────────────────────────────────────────────────────────

    def _up(self) -> timedelta:
        return timedelta(seconds=self._uptime.seconds())

    def _least(self) -> datetime | None:
        if self._kept.signed is None:
            return None
        return self._kept.signed + self._kept.ran + max(timedelta(), self._up() - self._kept.uptime)

    def _stepped(self, wall: datetime) -> timedelta:
        """By how much the clock was set since the anchor, as far as that can be told."""
        if not self._uptime.measures:
            return timedelta()
        return (wall - self._anchor.wall) - (self._up() - self._anchor.uptime)

    def _reckoned(self, wall: datetime) -> datetime | None:
        """The ledger's time now, where it was told lately and the clock was not set since."""
        if self._anchor.signed is None or abs(self._stepped(wall)) > STEP:
            return None
        return self._anchor.signed + (wall - self._anchor.wall)

    def _known_ahead(self, wall: datetime) -> timedelta:
        known = self._reckoned(wall)
        ahead = timedelta() if known is None else wall - known
        return ahead if ahead > TOLERANCE else timedelta()

    def _keep_if_due(self) -> None:
        least, written = self._least(), self._written
        if least is None or written.signed is None or written.doubtful != self._kept.doubtful:
            due = self._kept != written
        else:
            every = RAN_KEPT_EVERY if written.signed == self._kept.signed else SIGNED_KEPT_EVERY
            due = least - written.signed - written.ran >= every
        if due:
            # A disk that takes nothing must not cost a sale its outcome; it is tried again.
            with suppress(OSError):
                self._write()

    def _write(self) -> None:
        up = self._up()
        ran = self._kept.ran + max(timedelta(), up - self._kept.uptime)
        self._kept = replace(self._kept, ran=ran, boot=self._uptime.boot, uptime=up)
        durable.write(self._path, _spelled(self._kept), mode=0o600)
        self._written = self._kept


def _seconds(length: timedelta) -> int:
    return int(length.total_seconds())


def _spelled(kept: _Kept) -> bytes:
    def text(at: datetime | None) -> str | None:
        return None if at is None else clock.to_text(at)

    document = {
        "v": 1,
        "signed": text(kept.signed),
        "ran_ms": kept.ran // timedelta(milliseconds=1),
        "boot": kept.boot,
        "uptime_ms": kept.uptime // timedelta(milliseconds=1),
        "doubtful": text(kept.doubtful),
        "reset": text(kept.reset),
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _read(data: bytes) -> _Kept:
    names = strict_json.exact_names(
        strict_json.read(data),
        {"v", "signed", "ran_ms", "boot", "uptime_ms", "doubtful", "reset"},
        where=FILE,
    )
    if strict_json.integer(names["v"], f"{FILE}.v") != 1:
        raise Malformed("must be 1", field=f"{FILE}.v")

    def instant(name: str) -> datetime | None:
        value = names[name]
        return None if value is None else clock.from_text(value, f"{FILE}.{name}")

    def length(name: str) -> timedelta:
        top = 100 * 366 * 86_400_000
        return timedelta(milliseconds=strict_json.integer(names[name], f"{FILE}.{name}", high=top))

    return _Kept(
        instant("signed"),
        length("ran_ms"),
        strict_json.text(names["boot"], f"{FILE}.boot", low=0, high=64),
        length("uptime_ms"),
        instant("doubtful"),
        instant("reset"),
    )
