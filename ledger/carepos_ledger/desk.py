"""Group commit: whatever waits at this moment is posted as one batch.

Requests put their verified commands down and wait; one thread takes all that lie there, posts them
in one transaction and hands every request its answers. Alone, a record is a batch of one.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from carepos_ledger.book import Book
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Command, Decided

MAX_BATCH = 500

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    commands: Sequence[Command]
    done: threading.Event = field(default_factory=threading.Event)
    answers: dict[str, Decided | Problem] = field(default_factory=dict)


class Desk:
    """One posting thread in front of the book. `close()` lets what waits finish first."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._waiting: queue.Queue[_Job | None] = queue.Queue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="posting", daemon=True)
        self._thread.start()

    def post(self, commands: Sequence[Command]) -> dict[str, Decided | Problem]:
        """The committed answers, by record digest; blocks until they are."""
        if not commands:
            return {}
        job = _Job(commands)
        with self._closing:
            if self._closed:
                return _undecided(commands)
            self._waiting.put(job)
        job.done.wait()
        return job.answers

    def close(self) -> None:
        with self._closing:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            jobs: list[_Job] = []
            size = 0
            job = self._waiting.get()
            while job is not None:
                jobs.append(job)
                size += len(job.commands)
                if size >= MAX_BATCH:
                    break
                try:
                    job = self._waiting.get_nowait()
                except queue.Empty:
                    break
            ending = job is None
            self._post(jobs)

    def _post(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        commands = [command for job in jobs for command in job.commands]
        try:
            answers = self._book.post(commands)
        except Exception as error:  # noqa: BLE001  the posting thread outlives any failure
            # Nothing is known to be committed: every record may be asked about or sent again.
            _log.error("a batch of %d could not be posted: %s", len(commands), type(error).__name__)
            answers = _undecided(commands)
        for job in jobs:
            job.answers = answers
            job.done.set()


def _undecided(commands: Sequence[Command]) -> dict[str, Decided | Problem]:
    return {command.record.digest: Problem("try_again") for command in commands}
