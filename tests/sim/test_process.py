"""The simulation's own promise about disks: what was synced stays, what was not may be anything."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random

import pytest

from tests.sim.process import Dead, Process, watched
from tests.sim.story import Story
from tests.sim.weather import Death


class Writer(Process):
    """Writes numbers into its file, a transaction each."""

    connection: sqlite3.Connection | None = None
    synchronous = "FULL"

    def start(self) -> None:
        self.connection = sqlite3.connect(str(self.database), isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        self.connection.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER, filler TEXT)")

    def stop(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def write(self, n: int) -> None:
        assert self.connection is not None
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("INSERT INTO numbers VALUES (?, ?)", (n, "x" * 6000))
        self.connection.execute("COMMIT")

    def numbers(self) -> list[int]:
        assert self.connection is not None
        return [row[0] for row in self.connection.execute("SELECT n FROM numbers ORDER BY n")]


def _left(folder: Path, seed: int, how: Death, after: int, synchronous: str = "FULL") -> list[int]:
    """What is there of three numbers when a death comes at the `after`-th point of the third."""
    folder.mkdir()
    with watched():
        writer = Writer("writer", folder / "numbers.db", Story())
        writer.synchronous = synchronous
        writer.start()
        writer.write(1)
        writer.write(2)
        writer.arm(after, how, Random(seed))
        with pytest.raises(Dead):
            writer.write(3)
        writer.bury()
        writer.start()
        found = writer.numbers()
        writer.stop()
    return found


@pytest.mark.parametrize("how", ["kill", "power"])
def test_a_torn_commit_is_there_whole_or_not_at_all(tmp_path: Path, how: Death) -> None:
    """Whatever part of a COMMIT is on the disk: earlier ones are whole, both ends happen."""
    ends = {tuple(_left(tmp_path / str(n), n, how, 2)) for n in range(40)}
    assert ends == {(1, 2), (1, 2, 3)}


def test_before_and_after_commit_are_certain(tmp_path: Path) -> None:
    """A death before COMMIT leaves nothing of it, a death after it everything."""
    assert _left(tmp_path / "before", 1, "kill", 1) == [1, 2]
    assert _left(tmp_path / "after", 1, "power", 3) == [1, 2, 3]


def test_what_was_never_synced_can_be_lost(tmp_path: Path) -> None:
    """Without `synchronous = FULL` a plug that is pulled also takes what was committed before."""
    ends = {tuple(_left(tmp_path / str(n), n, "power", 2, "OFF")) for n in range(40)}
    assert any(2 not in end for end in ends)


def test_a_failing_commit_may_reappear(tmp_path: Path) -> None:
    """FA-3: an error at COMMIT says nothing about what a restart finds."""
    ends = set()
    for n in range(20):
        folder = tmp_path / str(n)
        folder.mkdir()
        with watched():
            writer = Writer("writer", folder / "numbers.db", Story())
            writer.start()
            writer.arm(1, "disk", Random(n))
            with pytest.raises(sqlite3.OperationalError):
                writer.write(1)
            writer.stop()
            writer.start()
            ends.add(tuple(writer.numbers()))
            writer.stop()
    assert ends == {(), (1,)}
