"""A failing run made short: steps are left out as long as the same invariant still breaks."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.simulation import Run

Play = Callable[[frozenset[int]], Run]


def shrink(failed: Run, play: Play, *, tries: int = 60) -> Run:
    """The shortest run found that breaks what `failed` broke; `play` runs it without some steps."""
    assert failed.violation is not None
    best = failed
    size = failed.steps // 2
    while size and tries:
        left = [n for n in range(1, best.steps + 1) if n not in best.skipped]
        for at in range(0, len(left), size):
            if not tries:
                break
            tries -= 1
            tried = play(best.skipped | set(left[at : at + size]))
            if tried.violation and tried.violation.invariant == failed.violation.invariant:
                best = tried
        size //= 2
    return best
