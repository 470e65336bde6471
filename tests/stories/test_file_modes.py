"""Files that hold something secret or pseudonymous are their owner's, whatever the umask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from carepos_ledger.database import Database
from tests.pos_plugin.rig import Faults, plugged
from tests.world import World, world

# Nothing in them is secret: public keys, what was enrolled, rules and prices, settings, locks.
OPEN = (
    "*.lock",
    "*.capabilities.pickle",
    "keyset.json",
    "enrolment.json",
    "pack-*.json",
    "pack.manifest",
    "plugin.toml",
)


@pytest.fixture
def careless(tmp_path: Path) -> Iterator[World]:
    """A ledger made, a till enrolled and a sale made under an umask that takes nothing away."""
    before = os.umask(0)
    try:
        with world(tmp_path) as made:
            yield made
    finally:
        os.umask(before)


def exposed(folder: Path) -> set[str]:
    """What another user of this machine could read or change, of files that hold something."""
    return {
        path.name
        for path in folder.rglob("*")
        if stat.S_IMODE(path.stat().st_mode) & 0o077
        and not any(fnmatch(path.name, each) for each in OPEN)
    }


def test_no_other_user_can_read_what_is_secret(careless: World) -> None:
    """Keys, secrets, book and journal with their logs, slips in a folder: 0600 in folders of 0700,
    from the first byte on."""
    till = careless.till()
    with plugged(careless, till, Faults(), printer="file:receipts") as rig:
        rig.sell()
        rig.plugin.print_queue.print_waiting()
        assert {p.name for p in till.folder.iterdir()} >= {
            "journal.db", "journal.db-wal", "pairing.secret", "receipts", "terminal.key",
        }  # fmt: skip
        assert exposed(careless.folder) == set()
        assert stat.S_IMODE(till.folder.stat().st_mode) == 0o700
    for name in ("ledger.db", "ledger.db-wal"):
        assert stat.S_IMODE((careless.folder / name).stat().st_mode) == 0o600


def test_a_book_or_journal_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    """One made by an older version is tightened when it is next opened."""
    with world(tmp_path) as made:
        made.till().close()
        made.tills.clear()
        journal = tmp_path / "till-1" / "journal.db"
        journal.chmod(0o644)
        made.till()
        assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    book = tmp_path / "ledger.db"
    book.chmod(0o644)
    Database(f"sqlite:///{book}").close()
    assert stat.S_IMODE(book.stat().st_mode) == 0o600
