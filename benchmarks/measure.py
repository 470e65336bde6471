"""How a row is measured: ours and its floor in turn, in one run, the median of several rounds.

Absolute figures of a shared machine drift; only the ratio inside one run counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table and of `bench-out/results.json`.

    `ratio` is ours / floor. `goal` is a sentence about the ratio or figure, `met` whether it holds.
    """

    row: str
    ours: float
    floor: float | None
    unit: str
    goal: str
    higher_is_better: bool
    met: bool

    @property
    def ratio(self) -> float | None:
        return None if not self.floor else self.ours / self.floor

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


def per_second(work: Callable[[], object], at_least_s: float = 0.3) -> float:
    """How often a second `work` can be done."""
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < at_least_s:
        work()
        count += 1
    return count / spent


def in_turn(
    ours: Callable[[], object], floor: Callable[[], object], rounds: int = 5
) -> tuple[float, float]:
    """Median rates of both, measured A B A B …, so that drift hits both alike."""
    pairs = [(per_second(ours), per_second(floor)) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
