"""Life of an attempt at the till: one table, state × event → state, record, sentence.

Code, docs/protocol.md §11 and the state-machine test read this table; an event that is not in the
row of a state raises WrongState. Rules behind it: a sale found open at a start is never sent again
as a sale; an unknown attempt becomes a reversal or an acceptance, never both, and what is written
decides; goods that may not have left are asked about before their acceptance goes up. What becomes
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
    "accepted",
    "accept_asked",
    "provisional",
    "held",
    "short",
    "exception",
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
    "accept_chosen",
    "accept_posted",
    "accept_short",
    "accept_exception",
    "accept_held",
]
Writes = ReversalReason | Literal["accept_offline", "void"]


@dataclass(frozen=True, slots=True)
class Step:
    """One row: what happens to an attempt in `state` when `event` comes.

    `writes` is what is written in the same transaction: an acceptance, a void, or a reversal of
    that reason.
    """

    state: State
    event: Event
    to: State
    writes: Writes | None = None


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
    "accepted": Meaning(
        "PROVISIONAL: accepted without the ledger. Hand over the goods.",
        "待确认：已离线受理，请交付商品。",
        "once the goods are marked as handed over it goes up, when there is a network",
    ),
    "accept_asked": Meaning(
        "The till stopped when this sale was accepted without the ledger. "
        "Were the goods handed over?",
        "本单离线受理时终端中断，商品是否已交付？",
        "the cashier answers, then it goes up",
    ),
    "provisional": Meaning(
        "PROVISIONAL: the ledger has not booked it yet.",
        "待确认：账本尚未入账。",
        "it goes up with its acceptance when there is a network",
    ),
    "held": Meaning(
        "The ledger has this sale; the programme's office must look at it.",
        "账本已收到本单，待项目办公室核查。",
        "a person at the programme's office decides; the till asks now and then",
    ),
    "short": Meaning(
        "Booked in part: the vouchers covered less, the rest is the shop's loss.",
        "部分入账：券额不足，差额由商户承担。",
        "a person looks at it, for it stands in the list of exceptions",
    ),
    "exception": Meaning(
        "Not booked. Call the programme's office.",
        "未入账，请联系项目办公室。",
        "a person looks at it, for it stands in the list of exceptions",
    ),
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
    Step("open", "accept_chosen", "accepted", "accept_offline"),
    Step("unknown", "accept_chosen", "accepted", "accept_offline"),
    Step("accepted", "goods_handed_over", "provisional"),
    Step("accepted", "goods_kept", "provisional", "void"),
    Step("accepted", "restart", "accept_asked"),
    Step("accept_asked", "goods_handed_over", "provisional"),
    Step("accept_asked", "goods_kept", "provisional", "void"),
    Step("accept_asked", "restart", "accept_asked"),
    Step("provisional", "sale_posted", "provisional"),
    Step("provisional", "sale_refused", "provisional"),
    Step("provisional", "sale_reversed", "provisional"),
    Step("provisional", "sale_held", "provisional"),
    Step("provisional", "accept_posted", "confirmed"),
    Step("provisional", "accept_short", "short"),
    Step("provisional", "accept_exception", "exception"),
    Step("provisional", "accept_held", "held"),
    Step("provisional", "no_answer", "provisional"),
    Step("provisional", "restart", "provisional"),
    Step("held", "sale_posted", "held"),
    Step("held", "sale_refused", "held"),
    Step("held", "sale_reversed", "held"),
    Step("held", "sale_held", "held"),
    Step("held", "accept_posted", "confirmed"),
    Step("held", "accept_short", "short"),
    Step("held", "accept_exception", "exception"),
    Step("held", "accept_held", "held"),
    Step("held", "no_answer", "held"),
    Step("held", "restart", "held"),
    Step("short", "void_posted", "voided"),
)

FINAL: Final[frozenset[State]] = frozenset(
    {"confirmed", "refused", "reversed", "review", "voided", "short", "exception"}
)
"""States from which nothing happens by itself; a void may still take a booked sale back."""
BOOKED: Final[frozenset[State]] = frozenset({"confirmed", "short"})
"""States of a sale that the ledger booked, in whole or in part, and that stands."""
STORED: Final[frozenset[State]] = frozenset({"accepted", "accept_asked", "provisional", "held"})
"""States of an acceptance that has no final outcome."""
NOT_DECIDED: Final[frozenset[State]] = STORED | {
    "open",
    "unknown",
    "interrupted",
    "reversing",
    "filling",
}
"""States of a sale that has a record the ledger may not have decided."""
GOES_UP: Final[frozenset[State]] = NOT_DECIDED - {"accepted", "accept_asked"}
"""Those of them whose records may go up: of the others it is not known whether the goods left."""
GOODS_MAY_LEAVE: Final[frozenset[State]] = frozenset({"confirmed", "accepted", "provisional"})
"""States in which the cashier may hand over, or has handed over, what was sold."""
FOR_A_PERSON: Final[frozenset[State]] = frozenset({"held", "short", "exception", "review"})
"""States that stand in the till's list of exceptions."""
TICKED_BY_HAND: Final[frozenset[State]] = FOR_A_PERSON - {"held"}
"""Those of them that nothing ends by itself: somebody at the shop says that it is dealt with. What
is held the office decides, and the till hears of it."""
ASKS_LEDGER: Final[frozenset[State]] = frozenset({"unknown", "interrupted"})
"""States in which the till queries the ledger by itself."""
FREES_CHECKOUT: Final[frozenset[State]] = frozenset(
    {"refused", "reversing", "filling", "reversed", "review", "voided"}
)
"""States after which the same sale may make its next attempt."""

CANCELLED: Final[frozenset[State]] = frozenset({"reversing", "filling", "reversed", "review"})
"""States of a sale that was cancelled, whatever comes of that: to cancel it again says no more."""

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
        ("accept_offline", "posted"): "accept_posted",
        ("accept_offline", "exception"): "accept_exception",
        ("accept_offline", "held"): "accept_held",
    }
    if (outcome.kind, outcome.result) == ("accept_offline", "posted_short"):
        # What the programme bears is paid like any other sale.
        return "accept_posted" if outcome.liability == "programme" else "accept_short"
    try:
        return events[outcome.kind, outcome.result]
    except KeyError:
        raise WrongState(str(outcome.kind), outcome.result) from None


def as_markdown() -> str:
    """The table of docs/protocol.md §11."""
    lines = ["| state | event | next | writes |", "|---|---|---|---|"]
    lines += [
        f"| `{row.state}` | `{row.event}` | `{row.to}` | {_written(row.writes)} |" for row in TABLE
    ]
    lines += ["", "| state | the cashier reads | what happens next |", "|---|---|---|"]
    lines += [f"| `{s}` | {m.en} {m.zh} | {m.next} |" for s, m in MEANING.items()]
    return "\n".join(lines)


def _written(writes: Writes | None) -> str:
    if writes is None:
        return ""
    if writes in ("accept_offline", "void"):
        return f"`{writes}`"
    return f"`reversal` ({writes})"
