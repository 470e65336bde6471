"""`carepos ledger backup`: a copy of an SQLite book, also while a server writes it."""

from __future__ import annotations

import argparse
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from carepos import durable
from carepos_ledger.founding import DONE, plain_failures, settings_of
from carepos_ledger.operator_client import CommandStopped


@plain_failures
def backup(args: argparse.Namespace) -> int:
    url = make_url(settings_of(args.folder).database)
    if url.get_backend_name() != "sqlite":
        raise CommandStopped("The book is in PostgreSQL: copy it with pg_dump.")
    source, target = Path(url.database or ""), args.file
    if target.exists():
        raise CommandStopped(f"{target} is there already: name another file.")
    copy(source, target)
    print(f"The book as of this moment is in {target}. Its keys have a copy of their own.")
    return DONE


def copy(source: Path, target: Path) -> None:
    """One consistent copy, on the disk when this returns, or none; readable by its owner only."""
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        # Read only: of two connections that checkpoint one book, SQLite before 3.51.3 may spoil it.
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reading,
            closing(sqlite3.connect(part)) as writing,
        ):
            reading.execute("PRAGMA wal_autocheckpoint = 0")
            reading.backup(writing)
            if writing.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                raise CommandStopped(f"{source} is damaged: its copy does not hold together.")
        for suffix in ("-wal", "-shm"):
            Path(f"{part}{suffix}").unlink(missing_ok=True)
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.replace(target)
        durable.sync_folder(target.absolute().parent)
    except sqlite3.Error as error:
        raise CommandStopped(f"{source} can't be copied: {error}.") from None
    finally:
        part.unlink(missing_ok=True)
