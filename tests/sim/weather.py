"""How bad a run is: which faults there are in it, how often, and who may die.

Each seed draws its own weather. Few kinds of faults at once reach states that all of them together
never would (swarm testing), and a calm run shows that the checker accepts what is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final, Literal, get_args

Fault = Literal[
    "drop_before",  # the request never leaves
    "cut_request",  # the ledger gets the head and half of the body
    "drop_after",  # the ledger answers, nobody hears it
    "truncate",  # half of the answer
    "garble",  # one character of the answer is another
    "status_502_after",
    "portal",  # a captive portal answers 200; the request never leaves
    "portal_after",
    "unsigned_403_after",
    "too_many_requests",  # 429 by something in between
    "problem_after",  # 200, but each result is a problem that nobody signed
    "forged_refused",  # 200, and outcomes in the right form, signed by a stranger
    "forged_posted",
    "empty_after",
    "redirect",
    "duplicate",  # the ledger gets it twice; one of the answers is heard
    "stale_answer",  # heard is the ledger's answer to another request
    "hold",  # nobody hears anything; it reaches the ledger later, perhaps twice
    "late_copy",  # answered as usual; a copy reaches the ledger later
]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)

Death = Literal["kill", "power", "disk"]
"""SIGKILL; the plug, which may tear the write under way; a disk that fails a COMMIT."""


@dataclass(frozen=True)
class Weather:
    """What one seed has to expect. Probabilities are per request or per step."""

    tills: int
    families: int
    steps: int
    faults: tuple[Fault, ...]
    fault: float
    outage: float
    blackout: bool
    morning: bool
    till_death: float
    ledger_death: float
    deaths: tuple[Death, ...]
    clock_step: float
    disk_step: float
    meanwhile: float
    cards: bool
    copied: bool
    """Whether somebody copies a till's folder, to put it back or to run it beside the first."""
    lost_disk: bool

    @classmethod
    def of(cls, rng: Random) -> Weather:
        many = rng.random() < 0.3
        blackout = rng.random() < 0.35
        kinds = FAULTS if many else tuple(rng.sample(FAULTS, rng.randint(1, 5)))
        return cls(
            tills=rng.choice((1, 2, 2, 3, 3, 4)),
            families=rng.choice((1, 2, 2, 3) if blackout else (1, 2, 3, 4, 6, 6)),
            steps=rng.randint(12, 40),
            faults=kinds,
            fault=rng.choice((0.0, 0.1, 0.25, 0.5)),
            outage=rng.choice((0.0, 0.0, 0.05, 0.15)),
            blackout=blackout,
            morning=blackout or rng.random() < 0.5,
            till_death=rng.choice((0.0, 0.1, 0.3)),
            ledger_death=rng.choice((0.0, 0.0, 0.1, 0.25)),
            deaths=tuple(rng.sample(("kill", "power", "disk"), rng.randint(1, 3))),
            clock_step=rng.choice((0.0, 0.0, 0.05)),
            disk_step=rng.choice((0.0, 0.0, 0.05)),
            meanwhile=rng.choice((0.0, 0.1, 0.3)),
            cards=rng.random() < 0.4,
            copied=rng.random() < 1 / 7,
            lost_disk=rng.random() < 1 / 7,
        )

    def is_dark(self, step: int) -> bool:
        """Whether nobody has a network in this step: the township's day without one."""
        return self.blackout and 1 < step <= self.steps * 4 // 5

    def fault_now(self, rng: Random, path: str) -> Fault | None:
        """What happens to this request. Where money moves, more happens."""
        often = self.fault if "/v1/records" in path else self.fault / 4
        return rng.choice(self.faults) if rng.random() < often else None
