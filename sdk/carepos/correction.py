"""Life of a void or refund at the till: one table, as that of an attempt (`attempt`).

It is much smaller, for nothing can be chosen: the record is sent, again and again, until the
ledger decides it. One that is refused behind the cashier's back waits to be seen by her. Code,
docs/protocol.md §11 and the tests read this table; an event that is not in the row of a state
raises WrongState.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from carepos.attempt import Meaning
from carepos.errors import WrongState
from carepos.outcome import Outcome
from carepos.refusals import Refusal

Kind = Literal["void", "refund"]
State = Literal["waiting", "posted", "refused"]
Event = Literal["undo_posted", "undo_refused", "undo_held", "no_answer", "restart", "seen"]


@dataclass(frozen=True, slots=True)
class Step:
    """One row: what happens to a void or refund in `state` when `event` comes."""

    state: State
    event: Event
    to: State


MEANING: Final[dict[State, Meaning]] = {
    "waiting": Meaning(
        "Not taken back yet. Give nothing back.",
        "尚未退回，请先不要退款。",
        "the same record is sent until the ledger decides it",
    ),
    "posted": Meaning("Taken back, the voucher has it again.", "已退回券中。", "nothing"),
    "refused": Meaning(
        "Refused, the sale stands as it was.",
        "已拒绝，原单不变。",
        "nothing; it is told until the cashier has seen it",
    ),
}

TABLE: Final[tuple[Step, ...]] = (
    Step("waiting", "undo_posted", "posted"),
    Step("waiting", "undo_refused", "refused"),
    Step("waiting", "undo_held", "waiting"),
    Step("waiting", "no_answer", "waiting"),
    Step("waiting", "restart", "waiting"),
    Step("refused", "seen", "refused"),
)

FINAL: Final[frozenset[State]] = frozenset({"posted", "refused"})

_STEPS: Final[dict[tuple[State, Event], Step]] = {(row.state, row.event): row for row in TABLE}


def step(state: State, event: Event) -> Step:
    """The row for `event` in `state`. Raises WrongState when the table has none."""
    try:
        return _STEPS[state, event]
    except KeyError:
        raise WrongState(state, event) from None


def event_of(outcome: Outcome) -> Event:
    """The event that a verified outcome of a void or refund is."""
    events: dict[str, Event] = {
        "posted": "undo_posted",
        "refused": "undo_refused",
        "held": "undo_held",
    }
    if outcome.kind not in ("void", "refund") or outcome.result not in events:
        raise WrongState(str(outcome.kind), outcome.result)
    return events[outcome.result]


def as_markdown() -> str:
    """The second table of docs/protocol.md §11."""
    lines = ["| state | event | next |", "|---|---|---|"]
    lines += [f"| `{row.state}` | `{row.event}` | `{row.to}` |" for row in TABLE]
    lines += ["", "| state | the cashier reads | what happens next |", "|---|---|---|"]
    lines += [f"| `{s}` | {m.en} {m.zh} | {m.next} |" for s, m in MEANING.items()]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Correction:
    """Where a void or refund stands, for the screen.

    `receipt_no` is its own number, `sale_receipt_no` that of the sale, whose `checkout` is None
    when another till made it. Amounts in minor units: `amount_minor` goes back to the vouchers,
    `beneficiary_minor` the shop gives back itself. Only `state == "posted"` means taken back.
    `waits_for`: the receipt number of a sale of this till that has to end first; None where it
    waits for the ledger alone.
    `decided_at`: when the ledger decided it, by its clock. `seen`: false of one that was refused
    and that nobody was told yet. `repeated`: whether the call that this answers found it, instead
    of beginning it.
    """

    kind: Kind
    state: State
    receipt_no: str
    sale_receipt_no: str
    checkout: str | None
    currency: str
    amount_minor: int
    beneficiary_minor: int
    refusal: Refusal | None
    problem: str | None
    waits_for: str | None = None
    decided_at: datetime | None = None
    seen: bool = True
    repeated: bool = field(default=False, compare=False)

    def message(self, language: str = "zh") -> str:
        """What the cashier reads: the state's sentence, then why; "zh" or "en"."""
        meaning = MEANING[self.state]
        english = language == "en"
        said = meaning.en if english else meaning.zh
        if self.refusal is not None:
            return f"{said} {self.refusal.sentence(language)}"
        if self.waits_for is not None:
            first = self.waits_for
            why = f"Sale {first} has to end first." if english else f"须先了结单号{first}。"
            return f"{said} {why}"
        return said

    @property
    def final(self) -> bool:
        return self.state in FINAL
