"""A handful of seeds of the simulation, and that it can see what it looks for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.sim.breaks import broken, first_found
from tests.sim.ground import Ground, memory
from tests.sim.process import Watched
from tests.sim.shrink import shrink
from tests.sim.weather import Weather

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with memory() as folder:
        yield Ground(folder)


@pytest.mark.parametrize("seed", range(6))
def test_everything_holds_whatever_fails(ground: Ground, seed: int) -> None:
    """INV-1 to INV-9 after deaths, cut lines, lies, late arrivals and a ledger's disk that is lost
    (FA, FB, FC, FD, FF-1, FI-1)."""
    ended = ground.play(seed)
    assert ended.violation is None, "\n".join(ended.story.lines)
    assert ended.story.counts
    assert not Watched.processes


WITH_A_COPY = [n for n in range(6, 60) if Weather.of(Random(f"{n}/weather")).copied]


@pytest.mark.parametrize("seed", WITH_A_COPY[:3])
def test_a_till_that_was_copied(ground: Ground, seed: int) -> None:
    """FG-7, FG-8, T-7: put back, or run beside the first: one line is booked by itself, and people
    decide the other."""
    ended = ground.play(seed)
    assert ended.violation is None, "\n".join(ended.story.lines)
    assert any(what.startswith("copied") for what in ended.story.counts)


def test_runs_that_once_failed(ground: Ground) -> None:
    """What was found by a seed is never lost again; its reason stands beside it."""
    for kept in json.loads((HERE / "seeds.json").read_text("utf-8")):
        ended = ground.play(kept["seed"], frozenset(kept["skip"]))
        assert ended.violation is None, "\n".join([kept["reason"], *ended.story.lines])


def test_a_seed_replays_byte_for_byte(ground: Ground) -> None:
    """The same story and the same outcomes, also in another process with other hashes."""
    here = ground.play(11)
    there = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--seed", "11"],
        cwd=HERE.parent.parent,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.findall("^digest (.*?);", there.stdout, re.MULTILINE) == [here.digest]


@pytest.mark.parametrize("name", ["unknown_is_refused", "balance_not_written", "fork_not_seen"])
def test_a_break_is_found(ground: Ground, name: str) -> None:
    """The checker is not blind: these breaks of the product show within few seeds (all of them:
    `make sim-breaks`)."""
    assert first_found(ground, name, 20) is not None


def test_a_failing_run_is_made_short(ground: Ground) -> None:
    """Steps that a violation does not need are left out, and it is still the same violation."""
    with broken("unknown_is_refused"):
        found = first_found(ground, "unknown_is_refused", 20)
        assert found is not None
        failed = ground.play(found[0])
        short = shrink(failed, lambda skip: ground.play(found[0], skip), tries=25)
    assert failed.violation is not None and short.violation is not None
    assert short.violation.invariant == failed.violation.invariant
    assert len(short.skipped) > failed.steps // 3
