"""Life of an attempt at the till: one table, state × event → state, record, sentence.

Code, docs/protocol.md §11 and the state-machine test read this table; an event that is not in the
row of a state raises WrongState. Rules behind it: DESIGN of the restart (a sale found open is never
sent again as a sale) and of undo (once a reversal is written, the reversal decides). What becomes
of a void or refund itself is the table of `correction`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from carepos.errors import WrongState
from carepos.outcome import Outcome
from carepos.record import ReversalReason

State = Literal[
    "open",
    "unknown",
    "interrupted",
    "goods_asked",
    "confirmed",
    "refused",
    "reversing",
    "filling",
    "reversed",
    "review",
    "voided",
]
Event = Literal[
    "sale_posted",
    "sale_refused",
    "sale_reversed",
    "sale_not_found",
    "sale_held",
    "undo_reversed",
    "undo_refused",
    "undo_held",
    "no_answer",
    "restart",
    "reverse_chosen",
    "goods_handed_over",
    "goods_kept",
    "void_posted",
]


@dataclass(frozen=True, slots=True)
class Step:
    """One row: what happens to an attempt in `state` when `event` comes.

    `writes` is the reason of the reversal record that is written in the same transaction.
    """

    state: State
    event: Event
    to: State
    writes: ReversalReason | None = None


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a state tells the people at the counter, and what happens next by itself."""

    en: str
    zh: str
    next: str


MEANING: Final[dict[State, Meaning]] = {
    "open": Meaning(
        "Processing, please wait.", "正在处理，请稍候。", "the ledger's answer is awaited"
    ),
    "unknown": Meaning(
        "No answer yet. Do not hand over goods. Try again or cancel.",
        "尚无结果，请勿交付商品；可重试或取消。",
        "the same record is asked about and sent again, or the cashier cancels",
    ),
    "interrupted": Meaning(
        "The till stopped during this sale. Its outcome is being looked up.",
        "本单处理中断，正在查询结果。",
        "the ledger is asked; unknown there: reversed; posted there: the cashier is asked",
    ),
    "goods_asked": Meaning(
        "The ledger booked this sale. Were the goods handed over?",
        "账本已入账，商品是否已交付？",
        "the cashier answers",
    ),
    "confirmed": Meaning("REDEEMED", "已核销", "nothing"),
    "refused": Meaning("Refused, nothing was taken.", "已拒绝，未扣款。", "nothing"),
    "reversing": Meaning(
        "Being cancelled. Do not hand over goods.",
        "正在撤销，请勿交付商品。",
        "the reversal is sent until the ledger decides it",
    ),
    "filling": Meaning(
        "Cancelled, nothing was taken.",
        "已撤销，未扣款。",
        "the sale's own record goes up to fill its number",
    ),
    "reversed": Meaning("Cancelled, nothing was taken.", "已撤销，未扣款。", "nothing"),
    "review": Meaning(
        "The ledger did not accept the cancellation. Call the programme's office.",
        "账本未接受撤销，请联系项目办公室。",
        "a person at the programme's office looks at it",
    ),
    "voided": Meaning("VOIDED, the voucher has it back.", "已撤销，券额已退回。", "nothing"),
}  # fmt: skip

TABLE: Final[tuple[Step, ...]] = (
    Step("open", "sale_posted", "confirmed"),
    Step("open", "sale_refused", "refused"),
    Step("open", "sale_reversed", "reversed"),
    Step("open", "sale_held", "unknown"),
    Step("open", "no_answer", "unknown"),
    Step("open", "restart", "interrupted"),
    Step("unknown", "sale_posted", "confirmed"),
    Step("unknown", "sale_refused", "refused"),
    Step("unknown", "sale_reversed", "reversed"),
    Step("unknown", "sale_not_found", "unknown"),
    Step("unknown", "sale_held", "unknown"),
    Step("unknown", "no_answer", "unknown"),
    Step("unknown", "reverse_chosen", "reversing", "cancelled"),
    Step("unknown", "restart", "interrupted"),
    Step("interrupted", "sale_posted", "goods_asked"),
    Step("interrupted", "sale_refused", "refused"),
    Step("interrupted", "sale_reversed", "reversed"),
    Step("interrupted", "sale_not_found", "reversing", "not_found"),
    Step("interrupted", "sale_held", "interrupted"),
    Step("interrupted", "no_answer", "interrupted"),
    Step("interrupted", "reverse_chosen", "reversing", "cancelled"),
    Step("interrupted", "restart", "interrupted"),
    Step("goods_asked", "goods_handed_over", "confirmed"),
    Step("goods_asked", "goods_kept", "reversing", "goods_kept"),
    Step("goods_asked", "sale_posted", "goods_asked"),
    Step("goods_asked", "no_answer", "goods_asked"),
    Step("goods_asked", "restart", "goods_asked"),
    Step("reversing", "undo_reversed", "filling"),
    Step("reversing", "undo_refused", "review"),
    Step("reversing", "undo_held", "reversing"),
    Step("reversing", "sale_posted", "reversing"),
    Step("reversing", "sale_refused", "reversing"),
    Step("reversing", "sale_reversed", "reversing"),
    Step("reversing", "sale_not_found", "reversing"),
    Step("reversing", "sale_held", "reversing"),
    Step("reversing", "no_answer", "reversing"),
    Step("reversing", "restart", "reversing"),
    Step("filling", "sale_reversed", "reversed"),
    Step("filling", "sale_posted", "reversed"),
    Step("filling", "sale_refused", "reversed"),
    Step("filling", "sale_held", "filling"),
    Step("filling", "undo_reversed", "filling"),
    Step("filling", "no_answer", "filling"),
    Step("filling", "restart", "filling"),
    Step("confirmed", "void_posted", "voided"),
)

FINAL: Final[frozenset[State]] = frozenset({"confirmed", "refused", "reversed", "review", "voided"})
"""States from which nothing happens by itself; a void may still take a confirmed sale back."""
ASKS_LEDGER: Final[frozenset[State]] = frozenset({"unknown", "interrupted"})
"""States in which the till queries the ledger by itself."""
FREES_CHECKOUT: Final[frozenset[State]] = frozenset(
    {"refused", "reversing", "filling", "reversed", "review", "voided"}
)
"""States after which the same sale may make its next attempt."""

_STEPS: Final[dict[tuple[State, Event], Step]] = {(row.state, row.event): row for row in TABLE}


def step(state: State, event: Event) -> Step:
    """The row for `event` in `state`. Raises WrongState when the table has none."""
    try:
        return _STEPS[state, event]
    except KeyError:
        raise WrongState(state, event) from None


def event_of(outcome: Outcome) -> Event:
    """The event that a verified outcome is, by the record it answers."""
    events: dict[tuple[str | None, str], Event] = {
        ("redeem", "posted"): "sale_posted",
        ("redeem", "refused"): "sale_refused",
        ("redeem", "reversed"): "sale_reversed",
        # Of a sale that was not accepted offline: a person did not accept a record that was held,
        # and nothing was booked.
        ("redeem", "exception"): "sale_refused",
        ("redeem", "held"): "sale_held",
        # Of such a sale it decides nothing.
        ("redeem", "posted_short"): "sale_held",
        (None, "not_found"): "sale_not_found",
        ("reversal", "reversed"): "undo_reversed",
        ("reversal", "refused"): "undo_refused",
        ("reversal", "held"): "undo_held",
    }
    try:
        return events[outcome.kind, outcome.result]
    except KeyError:
        raise WrongState(str(outcome.kind), outcome.result) from None


def as_markdown() -> str:
    """The table of docs/protocol.md §11."""
    lines = ["| state | event | next | writes |", "|---|---|---|---|"]
    lines += [
        f"| `{row.state}` | `{row.event}` | `{row.to}` | "
        f"{'' if row.writes is None else f'`reversal` ({row.writes})'} |"
        for row in TABLE
    ]
    lines += ["", "| state | the cashier reads | what happens next |", "|---|---|---|"]
    lines += [f"| `{s}` | {m.en} {m.zh} | {m.next} |" for s, m in MEANING.items()]
    return "\n".join(lines)
