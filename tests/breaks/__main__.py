"""`make breaks`: break the product in each way, run the tests that must see it, say who did.

    python -m tests.breaks [NAME …]

A break is caught when a test fails in its body; one that ends in anything else is not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.breaks.ways import WAYS, Way

ROOT = Path(__file__).parent.parent.parent
FAILED = 1
"""pytest's exit code when tests failed, and nothing worse."""


def caught_by(way: Way) -> list[str]:
    """The tests that failed under it, without their parameters; none: nobody saw it."""
    words = [sys.executable, "-m", "pytest", "-p", "tests.breaks.plugin", "-p", "no:cacheprovider"]
    # SQLite alone: what is broken here is broken on both.
    chosen = ["-k", "not postgresql", *(f"tests/{test}" for test in way.tests)]
    done = subprocess.run(
        [*words, "-q", "--tb=no", "-rf", *chosen],
        cwd=ROOT,
        env={**os.environ, "CAREPOS_BREAK": way.name},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != FAILED:
        return []
    return sorted(set(re.findall(r"^FAILED tests/\S+::(\w+)", done.stdout, re.MULTILINE)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.breaks", description=__doc__)
    parser.add_argument("names", nargs="*", help="some of the breaks; all without any")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    ways = [way for way in WAYS if not args.names or way.name in args.names]
    missed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for way, tests in zip(ways, pool.map(caught_by, ways), strict=True):
            missed += not tests
            print(f"{way.name:<40} {', '.join(tests) or 'NOBODY SAW IT'}", flush=True)
    print(f"{len(ways) - missed} of {len(ways)} breaks caught")
    return 1 if missed or not ways else 0


if __name__ == "__main__":
    sys.exit(main())
