"""The journal's mirror on a second disk: what is not uploaded survives the till's own disk.

One small file for each record that has no final outcome, made behind the journal's fsync and
removed when the outcome is there. A thread of its own writes them: a second disk that is full, slow
or pulled out never stops a sale and never holds one up for longer than `WAIT_S`, once. The journal
alone decides; every pass makes the folder what the journal says, so a file that is missing, torn or
left over after a crash is put right by the next one. Only what another line of the journal left,
before the till was put back to an older copy, is kept, in a folder beside it.
"""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from carepos import attempt, durable, strict_json, upload_file
from carepos.errors import JournalError, Malformed
from carepos.journal_view import JournalView

WAIT_S: Final = 1.0
"""How long goods wait for a second disk that was well until now."""
RETRY_S: Final = 30.0
POINTS: Final = ("mirror_listed", "mirror_written", "mirror_removed", "mirror_done")

State = Literal["fine", "same_disk", "full", "gone", "slow", "failing"]

_STATES: Final[dict[int, State]] = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.ENOENT: "gone",
    errno.ENOTDIR: "gone",
    errno.ENODEV: "gone",
    errno.ENXIO: "gone",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """How the mirror stands: `waiting` records of the journal are not in it yet. `same_disk`: it is
    kept, but on the journal's own disk, as where a stick was pulled out of its folder."""

    state: State
    waiting: int


def folder_of(mirror: Path, terminal: str, incarnation: str) -> Path:
    """The folder of one journal in a mirror; those of other journals are left alone."""
    return mirror / f"{terminal}-{incarnation}"


def file_of(sequence: int) -> str:
    return f"{sequence:010d}.json"


class Mirror:
    """One journal's. `mirror` must be there, for only a person knows whether a folder is on another
    disk; `beside` is where the journal lies; `reached` is told the points of a pass (`POINTS`), by
    the mirror's own thread, and so is `found` whenever the disk is looked at: the folders of what
    another line of the journal left there. Safe to call from several threads."""

    def __init__(
        self,
        mirror: Path,
        journal: JournalView,
        *,
        beside: Path,
        device: Callable[[Path], int] = lambda path: path.stat().st_dev,
        wait_s: float = WAIT_S,
        reached: Callable[[str], None] = lambda point: None,
        found: Callable[[Sequence[Path]], None] = lambda folders: None,
    ) -> None:
        about = journal.about()
        self.folder = folder_of(mirror, about["terminal"], about["incarnation"])
        self._journal = journal
        self._beside = beside
        self._device = device
        self._wait_s = wait_s
        self._reached = reached
        self._found = found
        self._held: dict[str, bool] | None = None  # by file: whether evidence is in it
        self._changed = threading.Condition()
        self._asked, self._done = 1, 0  # passes: the first is due at once
        self._state: State = "fine"
        self._waiting = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Keep it up to date in the background from now on."""
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """After one more pass if one is due; a disk that hangs is not waited for."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(self._wait_s)

    def wake(self) -> None:
        """The journal was written."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until all that the journal holds by now is in the mirror: not at all while that
        fails, and never longer than `wait_s`."""
        with self._changed:
            wanted = self._asked
            if not self._changed.wait_for(
                lambda: self._done >= wanted or self._state not in ("fine", "same_disk"),
                self._wait_s,
            ):
                self._state = "slow"

    def standing(self) -> Standing:
        """As the last pass left it."""
        with self._changed:
            return Standing(self._state, self._waiting)

    # ── a pass ─────────────────────────────────────────────────────────────────────────────────

    def one_pass(self) -> None:
        """Make the folder what the journal says; what fails is told by `standing`. The thread does
        it, or whoever has not started one."""
        with self._changed:
            asked = self._asked
        state: State = "fine"
        try:
            wanted = {
                file_of(sequence): (sequence, sealed)
                for sequence, sealed in self._journal.to_upload(attempt.NOT_DECIDED)
            }
            self._reached("mirror_listed")
            with self._changed:
                self._waiting = len(wanted)
            self._make(wanted)
            if self._device(self.folder) == self._device(self._beside):
                state = "same_disk"
        except (OSError, sqlite3.Error, JournalError) as error:
            self._held = None  # perhaps another stick by the next time
            state = _STATES.get(getattr(error, "errno", None) or 0, "failing")
        self._reached("mirror_done")
        with self._changed:
            self._state, self._done = state, asked
            self._changed.notify_all()

    def _make(self, wanted: dict[str, tuple[int, bool]]) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        there = {each.name for each in self.folder.iterdir()}
        if self._held is None:
            there -= self._set_aside(there)
            # All that is there, moved now or before: a crash may have come between.
            if aside := self._aside():
                self._found(aside)
            self._held = self._looked_at(there, wanted)
        held = self._held = {name: has for name, has in self._held.items() if name in there}
        with self._changed:
            self._waiting = len(wanted.keys() - held.keys())
        for name, (sequence, sealed) in wanted.items():
            if held.get(name) is not sealed:
                durable.write(self.folder / name, self._content(sequence, sealed), mode=0o600)
                self._reached("mirror_written")
                held[name] = sealed
                with self._changed:
                    self._waiting = len(wanted.keys() - held.keys())
        for name in there - wanted.keys():
            if _is_ours(name):
                (self.folder / name).unlink(missing_ok=True)
                self._reached("mirror_removed")

    def _set_aside(self, there: set[str]) -> set[str]:
        """Move what this journal never wrote into a folder of its own; the names that were moved.
        It is of before the till was put back to an older copy, and perhaps nobody else has it."""
        others = {name for name in there if name.endswith(".json") and self._is_anothers(name)}
        if others:
            n = 2
            while (place := self.folder.with_name(f"{self.folder.name}-{n}")).exists():
                n += 1
            place.mkdir(mode=0o700)
            for name in sorted(others):
                (self.folder / name).rename(place / name)
        return others

    def _aside(self) -> list[Path]:
        before = f"{self.folder.name}-"
        return sorted(
            each
            for each in self.folder.parent.glob(f"{before}*")
            if each.name.removeprefix(before).isdigit()
        )

    def _is_anothers(self, name: str) -> bool:
        """Whether a file holds a record that is not the journal's; a torn one holds none."""
        try:
            data = (self.folder / name).read_bytes()
            found = upload_file.read_record(data, upload_file.chain_of(data), line=0)
        except Malformed:
            return False
        try:
            own = self._journal.envelope_at(found.sequence, sealed=False)
        except KeyError:
            return True
        return bool(own["record"] != found.envelope["record"])

    def _looked_at(self, there: set[str], wanted: dict[str, tuple[int, bool]]) -> dict[str, bool]:
        """Which files are whole: what a crash, or another disk, left is written anew."""
        return {
            name: sealed
            for name, (sequence, sealed) in wanted.items()
            if name in there
            and (self.folder / name).read_bytes() == self._content(sequence, sealed)
        }

    def _content(self, sequence: int, sealed: bool) -> bytes:
        envelope = self._journal.envelope_at(sequence, sealed=sealed)
        return strict_json.canonical(envelope) + b"\n"

    def _run(self) -> None:
        while True:
            with self._changed:
                is_well = self._state in ("fine", "same_disk", "slow")
                self._changed.wait_for(
                    lambda: self._stopping or self._asked > self._done,
                    None if is_well else RETRY_S,
                )
                if self._stopping and (self._asked <= self._done or not is_well):
                    return
            self.one_pass()


def _is_ours(name: str) -> bool:
    """A record's file, or what a crash left of one."""
    number = name.removeprefix(".").partition(".")[0]
    return number.isdigit() and len(number) >= 10 and name.endswith((".json", ".part"))
