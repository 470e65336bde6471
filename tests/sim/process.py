"""A process that can die: at a named point, in the middle of a COMMIT, or while it waits.

Nothing here is mocked but the moment of death. The product runs in this Python process over real
SQLite files; `Dead` is a BaseException, so that no handler for errors of the product stops it, and
what its files held at that moment is put back once the stack is gone: as after SIGKILL, whatever
the clean-up on the way out did.

A COMMIT is where a disk can lie. While it runs, what it writes to the write-ahead log is not yet
durable, and a death then keeps any part of it. Bytes that were synced are never touched: whether
they were is what the connection's `synchronous` says.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from tests.sim.story import Story
from tests.sim.weather import Death

_FULL = 2
_CHECKPOINTED = 1000 * 4096
"""A log that is longer than this SQLite copies into the database at a COMMIT."""


class Dead(BaseException):
    """`process` ended at `point`."""

    def __init__(self, process: Process, point: str) -> None:
        super().__init__(f"{process.name} at {point}")
        self.process = process
        self.point = point


class Process:
    """Somebody with one SQLite file, who may be told to die."""

    def __init__(self, name: str, database: Path, story: Story) -> None:
        self.name = name
        self.database = database
        self._story = story
        self._left = 0
        self._how: Death = "kill"
        self._rng = Random()
        self._image: dict[Path, bytes] | None = None
        Watched.processes[str(database)] = self

    def start(self) -> None:
        """Begin, with nothing but the files."""
        raise NotImplementedError

    def stop(self) -> None:
        """End as one should, if it runs."""
        raise NotImplementedError

    # ── dying ──────────────────────────────────────────────────────────────────────────────────

    def arm(self, after: int, how: Death, rng: Random) -> None:
        """Die at the `after`-th point from here; disarmed when the step is over before."""
        self._left, self._how, self._rng = after, how, rng

    def disarm(self) -> None:
        self._left = 0

    def reached(self, point: str) -> None:
        """Told every point that the process passes: the product's named ones, and each call."""
        if self._how != "disk" and self._is_due():
            self._die(point)

    def has_room(self) -> bool:
        """Whether its disk takes another write."""
        return True

    def committing(self, connection: Watched, commit: Callable[[], object]) -> None:
        if not self.has_room():
            self._story.count("disk: no room")
            self._story.say(f"!! no room on the disk of {self.name}")
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        if not self._left:
            commit()
            return
        if self._how == "disk":
            self._commit_on_a_bad_disk(commit)
            return
        self.reached("before COMMIT")
        synced = self._log_end() if _is_synchronous(connection) else 0
        commit()
        if self._is_due():
            self._die("COMMIT", cut_to=self._unsynced(synced))
        self.reached("after COMMIT")

    def _commit_on_a_bad_disk(self, commit: Callable[[], object]) -> None:
        if not self._is_due():
            commit()
            return
        self._story.count("disk: COMMIT fails")
        if self._rng.random() < 0.5:
            # The write is there all the same, after the next start: fsync failed, not the write.
            commit()
        self._story.say(f"!! the disk of {self.name} fails in COMMIT")
        raise sqlite3.OperationalError("disk I/O error")

    def _unsynced(self, synced: int) -> int:
        """A place in what this COMMIT wrote to the log."""
        end = self._log_end()
        if end > _CHECKPOINTED:
            return end  # SQLite copied the log into the database meanwhile, and synced both
        if self._rng.random() < 0.4:
            return end  # all of it is there, and nobody was told
        # A log that is shorter than it was has begun again; the old one was copied before.
        return self._rng.randint(synced if synced <= end else 32, end)

    def _is_due(self) -> bool:
        if not self._left:
            return False
        self._left -= 1
        return self._left == 0

    def _die(self, point: str, cut_to: int | None = None) -> None:
        self._story.count(f"{self._how}: {point}")
        self._story.say(f"!! {self.name} dies at {point} ({self._how})")
        self._image = self._files()
        log = self._log
        if cut_to is not None and log in self._image:
            self._image[log] = self._torn(self._image[log], cut_to)
        raise Dead(self, point)

    def _torn(self, log: bytes, cut_to: int) -> bytes:
        """What was not synced yet may be there, in part, or as something else."""
        tail = log[cut_to:]
        if self._how == "power" and tail and self._rng.random() < 0.5:
            noise = self._rng.randbytes(min(len(tail), 512))
            return log[:cut_to] + noise + tail[len(noise) :]
        return log[:cut_to]

    def _log_end(self) -> int:
        """Where the write-ahead log ends: a file that is written over again is longer."""
        if not self._log.exists():
            return 0
        with self._log.open("rb") as log:
            header = log.read(32)
            if len(header) < 32:
                return len(header)
            frame = 24 + int.from_bytes(header[8:12], "big")
            end = 32
            while True:
                log.seek(end + 8)
                if log.read(8) != header[16:24]:
                    return end
                end += frame

    # ── what is left ───────────────────────────────────────────────────────────────────────────

    @property
    def _log(self) -> Path:
        return self.database.with_name(self.database.name + "-wal")

    def _files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (self.database, self._log) if path.exists()}

    def bury(self) -> None:
        """Nothing of the dead process is left but its files, as they were when it died."""
        self.stop()
        if self._image is None:
            return
        for beside in self.database.parent.glob(f"{self.database.name}-*"):
            beside.unlink()
        for path, data in self._image.items():
            path.write_bytes(data)
        self._image = None


class Watched(sqlite3.Connection):
    """An SQLite connection that tells its process of each COMMIT that wrote something."""

    processes: ClassVar[dict[str, Process]] = {}
    process: Process | None = None
    written = 0

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            self.commit()
            return self.cursor()
        return super().execute(sql, *values)

    def commit(self) -> None:
        if self.process is None or self.total_changes == self.written:
            super().commit()
            return
        self.written = self.total_changes
        self.process.committing(self, super().commit)


def _is_synchronous(connection: Watched) -> bool:
    found: int = sqlite3.Connection.execute(connection, "PRAGMA synchronous").fetchone()[0]
    return found >= _FULL


@contextmanager
def watched() -> Iterator[None]:
    """While this is open, connections to the files of processes are watched."""
    before = sqlite3.connect

    def connect(database: Any, *args: Any, **options: Any) -> Any:
        process = Watched.processes.get(str(database))
        if process is None:
            return before(database, *args, **options)
        connection = before(database, *args, factory=Watched, **options)
        connection.process = process
        return connection

    sqlite3.connect = sqlite3.dbapi2.connect = connect
    try:
        yield
    finally:
        sqlite3.connect = sqlite3.dbapi2.connect = before
        Watched.processes.clear()
