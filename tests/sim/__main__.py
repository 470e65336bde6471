"""`make sim`: play seeds, tell of the first that fail, or replay one and tell all of it."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.sim import ground
from tests.sim.ground import Ended, Ground, memory
from tests.sim.shrink import shrink
from tests.sim.simulation import Run

_TOLD = 5
"""So many failing seeds are made short and told; the others are only named."""


def many(first: int, seeds: int, jobs: int) -> int:
    """Play them all; the exit code."""
    logging.disable(logging.CRITICAL)  # a ledger that is made to fail says so
    began, counts, steps, failed = time.monotonic(), Counter[str](), 0, list[Ended]()
    with (
        memory() as folder,
        ProcessPoolExecutor(
            jobs, multiprocessing.get_context("spawn"), ground.begin, (str(folder),)
        ) as pool,
    ):
        played = pool.map(ground.work, range(first, first + seeds), chunksize=5)
        for n, ended in enumerate(played, 1):
            counts += ended.counts
            steps += ended.steps
            if ended.violation is not None:
                failed.append(ended)
                print(f"seed {ended.seed}: {ended.violation}", flush=True)
            if n % 100 == 0 or n == seeds:
                spent = time.monotonic() - began
                print(
                    f"{n:,} of {seeds:,} seeds, {steps:,} steps, {n / spent:.1f} seeds/s, "
                    f"{len(failed)} violations",
                    flush=True,
                )
    for what, times in sorted(counts.items()):
        print(f"  {what:<40} {times:>9,}")
    if failed:
        with memory() as folder:
            here = Ground(folder)
            for each in failed[:_TOLD]:
                tell(shrink(here.play(each.seed), partial(here.play, each.seed)))
    return 1 if failed else 0


def tell(ended: Run) -> None:
    """The whole story of a run, what it broke, and how to see it again."""
    print("\n".join(ended.story.lines))
    skip = ",".join(map(str, sorted(ended.skipped)))
    again = f"make sim SEED={ended.seed}" + (f" SKIP={skip}" if skip else "")
    print(f"digest {ended.digest}; again: {again}")
    if ended.violation is not None:
        print(f"VIOLATED {ended.violation}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one and tell all of it")
    parser.add_argument("--skip", default="", help="steps of it to leave out: 3,4,7")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    # Told to end, end as with Ctrl-C: the workers would else wait for ever.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args.seed is None:
        return many(args.first, args.seeds, args.jobs)
    logging.disable(logging.CRITICAL)
    with memory() as folder:
        here = Ground(folder)
        ended = here.play(args.seed, frozenset(map(int, filter(None, args.skip.split(",")))))
    tell(ended)
    return 0 if ended.violation is None else 1


if __name__ == "__main__":
    sys.exit(main())
