"""A journal that lies in a folder which is to become a till, and why that is refused (FG-11)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from carepos.errors import EnrolmentFailed


def refuse(folder: Path) -> None:
    """Refuse to enrol a folder that holds a till's journal already.

    Its records are another enrolment's: under a new one nobody could read or upload them. Raises
    EnrolmentFailed with what is in it and what to do; nothing is changed.
    """
    path = folder / "journal.db"
    if not path.exists():
        return
    waiting = _not_uploaded(path)
    if waiting == 0:
        raise EnrolmentFailed(
            f"{folder} holds the journal of a till that was enrolled before. All of it is uploaded:"
            " keep the folder for the books, and enrol into another one"
        )
    told = f"{waiting} {'record' if waiting == 1 else 'records'} of a till"
    if waiting is None:
        told = "a journal that can't be read"
    raise EnrolmentFailed(
        f"{folder} holds {told} that the ledger may not have yet. Put enrolment.json and "
        "terminal.key back and upload them (carepos till settle), or make a file of them for the "
        "programme's office (carepos till export FILE); keep the folder and enrol into another one"
    )


def _not_uploaded(path: Path) -> int | None:
    """How many records have no answer; None where that can't be told."""
    try:
        # Not read-only: a log beside it, as after a power cut, is then read too.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as journal:
            journal.execute("PRAGMA query_only = ON")
            found = journal.execute(
                "SELECT count(*) FROM records WHERE sequence NOT IN (SELECT sequence FROM outcomes)"
            ).fetchone()
    except sqlite3.Error:
        return None
    return int(found[0])
