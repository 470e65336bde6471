"""Whether this ledger heals from a loss of data, and how far that is (docs/offline.md §12).

The state is one row of the book, so it outlives every crash: it begins on the ledger's own machine,
before the server starts, and ends when the opening has gone through all that was offered.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, delete, func, select, update

from carepos import clock
from carepos.clock import Clock
from carepos_ledger import epochs, schema
from carepos_ledger.database import Database
from carepos_ledger.keyring import Keyring

_STATE: Final = "healing"
_REPORT: Final = "heal_report"
POINTS: Final = ("heal_written", "heal_begun", "heal_signed")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the healing stands. `since` is an instant; `early`: not every till was waited for.

    While it is `opening` everything that was offered is gone through in turns, until a `turn`
    books nothing (`moved`) any more; first `exactly` as it was, then without the allotments that
    nobody told of.
    """

    epoch: int
    since: str
    opening: bool = False
    early: bool = False
    exactly: bool = True
    turn: int = 1
    moved: int = 0


def read(connection: Connection, *, for_update: bool = False) -> Progress | None:
    """None for a ledger that is open. `for_update`: until the transaction ends nobody else goes
    on with it."""
    table = schema.meta.c
    query = select(table.value).where(table.name == _STATE)
    if for_update:
        query = query.with_for_update()
    held = connection.scalars(query).one_or_none()
    return None if held is None else Progress(**json.loads(held))


def write(connection: Connection, progress: Progress | None) -> None:
    if progress is None:
        connection.execute(delete(schema.meta).where(schema.meta.c.name == _STATE))
    else:
        epochs.write_meta(connection, _STATE, json.dumps(asdict(progress)))


def read_report(connection: Connection) -> dict[str, object] | None:
    """What the last opening came to."""
    held = epochs.read_meta(connection, _REPORT)
    return None if held is None else json.loads(held)


def write_report(connection: Connection, report: dict[str, object]) -> None:
    epochs.write_meta(connection, _REPORT, json.dumps(report, ensure_ascii=False))


class Healing:
    """Asked by every call of a till. Safe to call from several threads."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self._open = False

    def check(self) -> None:
        """Raises RuntimeError where book and keys are not of one epoch: one was restored alone."""
        with self._database.read() as connection:
            epoch, progress = epochs.read(connection), read(connection)
        if epoch == self._keyring.epoch:
            return
        if epoch < self._keyring.epoch:
            raise RuntimeError(
                f"the database is of epoch {epoch} and the keys are of epoch "
                f"{self._keyring.epoch}: it was restored from a backup; run "
                "`carepos ledger heal begin`"
            )
        raise RuntimeError(
            "`carepos ledger heal begin` was cut short: run it again"
            if progress is not None
            else f"the keys are of epoch {self._keyring.epoch} and the database is of epoch "
            f"{epoch}: restore the newest copy of the keys"
        )

    @property
    def begun(self) -> bool:
        """Whether tills must wait. Once a ledger is open it stays so until its server is started
        again: healing begins without one."""
        if not self._open:
            with self._database.read() as connection:
                self._open = read(connection) is None
        return not self._open


def begin(
    database: Database,
    folder: Path,
    now: Clock,
    root_file: Path | None = None,
    *,
    reached: Callable[[str], None] = lambda point: None,
) -> Progress:
    """Make this ledger one that heals: the next epoch in book and key set, no code left to enrol
    with. Repeating it finishes what was begun and changes nothing else. `reached` is told the
    points that it passes (`POINTS`).

    Raises FileNotFoundError without a root key, Malformed for another ledger's, BlockingIOError
    while another process changes the keys.
    """
    keyring = Keyring.load(folder)
    with database.write() as connection:
        progress = read(connection)
        if progress is None:
            offered = connection.scalar(select(func.max(schema.heal_evidence.c.epoch))) or 0
            epoch = 1 + max(keyring.epoch, epochs.read(connection), offered)
            progress = Progress(epoch, clock.to_text(now()))
            Keyring.check_root(folder, root_file)
            number = connection.scalar(select(func.max(schema.terminals.c.terminal_no))) or 0
            epochs.start(connection, epoch, number)
            # A code that was used in what is lost must not make a second till.
            codes = schema.activations.c
            connection.execute(
                update(schema.activations)
                .where(codes.terminal.is_(None), codes.expires_at > progress.since)
                .values(expires_at=progress.since)
            )
            # What an earlier heal was told is booked, and would only hide what is told now.
            told = schema.heal_evidence
            connection.execute(delete(told).where(told.c.state == "placed"))
            for table in (schema.heal_allotments, schema.heal_files):
                connection.execute(delete(table))
            write(connection, progress)
            reached("heal_written")
    reached("heal_begun")
    if keyring.epoch < progress.epoch:
        Keyring.start_epoch(folder, progress.epoch, root_file)
    reached("heal_signed")
    return progress
