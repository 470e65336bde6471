"""`make faults`: play the runs, tell each that does not hold, and sum them up.

python -m tests.faults --only "sqlite cancel till:"
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack

from tests.faults.cases import DATABASES, FLOWS, Case, chosen
from tests.faults.town import Ended, play_all
from tests.postgres_cluster import PostgresCluster, running_cluster

CHUNK = 42
"""So many runs share one ledger."""


def many(cases: Sequence[Case], jobs: int) -> int:
    """Play them all; the exit code."""
    began_s, done = time.monotonic(), list[Ended]()
    with ExitStack() as stack:
        cluster: PostgresCluster | None = None
        if any(case.database == "postgresql" for case in cases):
            cluster = stack.enter_context(running_cluster())
        context = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(jobs, context))
        waiting = []
        for chunk in _chunks(cases):
            url = None
            if chunk[0].database == "postgresql":
                assert cluster is not None
                url = stack.enter_context(cluster.fresh_database())
            waiting.append(pool.submit(play_all, chunk, url))
        for each in as_completed(waiting):
            for ended in each.result():
                done.append(ended)
                if ended.violation is not None:
                    print(f'{ended.case.name}: {ended.violation}   ONLY="{ended.case.name}"')
            spent_s = time.monotonic() - began_s
            print(f"{len(done):,} of {len(cases):,} runs, {spent_s:.0f} s", flush=True)
    _tell(done)
    return 1 if any(ended.violation for ended in done) else 0


def _chunks(cases: Sequence[Case]) -> list[list[Case]]:
    """So that no ledger sees more than it can bear, and every worker has something."""
    chunks = []
    for database in DATABASES:
        own = [case for case in cases if case.database == database]
        chunks += [own[at : at + CHUNK] for at in range(0, len(own), CHUNK)]
    return chunks


def _tell(done: Sequence[Ended]) -> None:
    """By flow and database: runs, how many of them killed somebody, how many did not hold."""
    counts = Counter[tuple[str, str, str]]()
    for ended in done:
        key = ended.case.flow, ended.case.database
        counts[*key, "runs"] += 1
        counts[*key, "killed"] += bool(ended.killed)
        counts[*key, "both"] += len(ended.killed) == 2
        counts[*key, "failed"] += ended.violation is not None
    columns = ("runs", "killed", "both", "failed")
    print(f"\n{'flow':<14}{'database':<12}" + "".join(f"{each:>8}" for each in columns))
    for flow in FLOWS:
        for database in DATABASES:
            if counts[flow, database, "runs"]:
                numbers = [counts[flow, database, what] for what in columns]
                print(f"{flow:<14}{database:<12}" + "".join(f"{each:>8}" for each in numbers))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", help="words that a run's name must have")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    # Told to end, end as with Ctrl-C: the processes would else wait for ever.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cases = chosen(args.only)
    if not cases:
        print(f"no run has {args.only!r} in its name, like {next(iter(chosen(''))).name}")
        return 2
    return many(cases, args.jobs)


if __name__ == "__main__":
    sys.exit(main())
