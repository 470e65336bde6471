"""Which runs there are: a flow, where a process is killed in it, what the network does, on which
database. A run is known by its name, and the name is all that it depends on."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.faulty_proxy import Mode

DATABASES: Final = ("sqlite", "postgresql")
FLOWS: Final = (
    "sale",
    "retry",
    "cancel",
    "void",
    "refund",
    "offline",
    "accept",
    "void_stored",
    "day",
)
TILL_POINTS: Final = (
    "intent_written",
    "before_send",
    "answer_read",
    "outcome_written",
    "acceptance_written",
)
LEDGER_POINTS: Final = ("noted", "written", "committed")
NETWORK: Final[tuple[Mode, ...]] = (
    "drop_before",
    "cut_request",
    "drop_after",
    "truncate",
    "garble",
    "status_502_after",
    "unsigned_403_after",
    "unsigned_refusal_after",
    "silence",
    "half_open",
    "hold",
    "duplicate",
    "stale_answer",
)
SLOW: Final = ("silence", "half_open")
"""Here the till gives up soon, for nothing comes."""
AGAIN: Final = {
    "offline": 4,
    "accept": 2,
    "void_stored": 3,
    "cancel": 2,
    "retry": 2,
}
"""Up to which time a till's point is met in a flow: the k-th record of an upload."""

CALM: Final = "calm"


@dataclass(frozen=True)
class Case:
    """`killed`: "till" or "ledger" with point and how many times it is passed, nobody, or one of
    each, joined by `+`."""

    database: str
    flow: str
    killed: str
    network: str

    @property
    def name(self) -> str:
        return f"{self.database}/{self.flow}/{self.killed}/{self.network}"

    @property
    def number(self) -> int:
        """What is drawn in a run is drawn from this."""
        return zlib.crc32(self.name.encode())

    @property
    def victims(self) -> list[tuple[str, str, int]]:
        """Who, at which point, at which time it is reached."""
        found = []
        for each in self.killed.split("+") if self.killed != "nobody" else ():
            who, _, point = each.partition(":")
            point, _, times = point.partition("#")
            found.append((who, point, int(times or 1)))
        return found

    @property
    def is_slow(self) -> bool:
        return self.network in SLOW


def every() -> Iterator[Case]:
    """All of them, always in this order."""
    for database in DATABASES:
        for flow in FLOWS:
            for killed in _victims(flow):
                for network in (CALM, *NETWORK):
                    yield Case(database, flow, killed, network)
        yield from _both(database)


def _both(database: str) -> Iterator[Case]:
    """Till and ledger die in one run; the network does each of what it can in turn."""
    quick: list[str] = [CALM, *(mode for mode in NETWORK if mode not in SLOW)]
    n = 0
    for flow in FLOWS:
        for at_till in _till_points(flow):
            for at_ledger in LEDGER_POINTS:
                killed = f"till:{at_till}+ledger:{at_ledger}"
                yield Case(database, flow, killed, quick[n % len(quick)])
                n += 1


def _till_points(flow: str) -> list[str]:
    accepts = flow in ("offline", "accept", "void_stored")
    return [point for point in TILL_POINTS if accepts or point != "acceptance_written"]


def _victims(flow: str) -> Iterator[str]:
    yield "nobody"
    for point in _till_points(flow):
        yield f"till:{point}"
        for times in range(2, AGAIN.get(flow, 1) + 1):
            if point != "intent_written":
                yield f"till:{point}#{times}"
    for point in LEDGER_POINTS:
        yield f"ledger:{point}"


def chosen(only: str) -> list[Case]:
    """Those whose name has each of these words (`sqlite cancel till:`); all without any."""
    words = only.split()
    return [case for case in every() if all(word in case.name for word in words)]


def a_few(database: str) -> list[Case]:
    """For every run of the tests: each flow, each point and each mode of the network once, and each
    point once more where both die."""
    cases = [case for case in every() if case.database == database and not case.is_slow]
    picked: list[Case] = []
    seen: set[str] = set()
    seen_together: set[str] = set()
    for case in sorted(cases, key=lambda each: each.number):
        if len(case.victims) == 2:
            new = set(case.killed.split("+")) - seen_together
            if new:
                picked.append(case)
                seen_together |= new
            continue
        new = {case.flow, case.killed.partition("#")[0], case.network} - seen
        if len(new) >= 2 or (new and len(seen) > 20):
            picked.append(case)
            seen |= new
    return picked
