"""Where runs are played: a township in memory-backed storage, and workers that each have one."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

from tests.sim.ledger_host import quick_starts
from tests.sim.simulation import Run, run
from tests.sim.township import Township, found


@dataclass(frozen=True)
class Ended:
    """What a worker tells of one seed."""

    seed: int
    steps: int
    counts: Counter[str]
    violation: str | None


class Ground:
    """Plays one run after the other in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._township: Township = found(folder / "township")

    def play(self, seed: int, skip: frozenset[int] = frozenset()) -> Run:
        return run(seed, self._township, self._folder / "run", skip)


@contextmanager
def memory() -> Iterator[Path]:
    """A folder that is gone afterwards, in memory where the system has such a place."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="carepos-sim-", dir=place if place.is_dir() else None
    ) as folder:
        yield Path(folder)


# ── one per process ────────────────────────────────────────────────────────────────────────────

here: Ground | None = None
"""This process's own."""


def begin(folder: str) -> None:
    """In a process of its own: get ready to play many seeds quickly."""
    global here
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    logging.disable(logging.CRITICAL)  # a ledger that is made to fail says so
    quick_starts()
    here = Ground(Path(tempfile.mkdtemp(dir=folder)))
    # A run leaves much garbage in cycles: collecting it now and then is enough.
    gc.freeze()
    gc.disable()


def _end_with_parent(folder: str) -> None:
    """Whoever is killed takes nobody along: a worker would else wait for ever for more to do."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def work(seed: int) -> Ended:
    """Play one seed here."""
    assert here is not None
    ended = here.play(seed)
    if seed % 20 == 0:
        gc.collect()
    violation = None if ended.violation is None else str(ended.violation)
    return Ended(seed, ended.steps, ended.story.counts, violation)
