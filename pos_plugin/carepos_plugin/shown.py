"""What a register is shown of offers and sales, as JSON objects.

`{"en", "zh"}` stands for every sentence that a person reads. No token, no id of an attempt, voucher
or beneficiary is in any of them; a sale is named by its `checkout` and its `receipt_no`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from carepos import (
    Correction,
    Holder,
    Line,
    Offer,
    Refusal,
    Returnable,
    Sale,
    attempt,
    clock,
    corrector,
    ids,
    receipt,
    receipt_layout,
)
from carepos.attempt import State
from carepos.enrolment import Enrolment
from carepos.journal_view import Attempt, JournalView
from carepos.pack import Pack
from carepos.rules import LineProposal
from carepos.voucher import Voucher
from carepos_plugin.sentences import (
    BEING_VOIDED,
    MAY_ACCEPT,
    NEXT_STOPPED,
    acting_of,
    message_of,
    next_of,
    next_of_undo,
    next_try_said,
    refusal_of,
    said,
)


def offered(checkout: str, offer: Offer, offer_id: str | None, until: datetime) -> dict[str, Any]:
    """An offer; `offer` is null when nothing can be redeemed, and then `refusal` says why."""
    proposal = offer.proposal
    used = [v for v in proposal.before if any(e.voucher == v for e in proposal.allocation)]
    rest = [v for v in proposal.before if v not in used]
    numbers = {voucher: n for n, voucher in enumerate([*used, *rest], 1)}
    return {
        "checkout": checkout,
        "offer": offer_id,
        "expires_at": None if offer_id is None else clock.to_text(until),
        "programme": {"programme": offer.programme.programme, "name": offer.programme.name},
        "presentment": offer.presentment,
        "liability": offer.liability,
        "currency": offer.programme.currency,
        "lines": [
            _line(n, line, proposal.before, numbers) for n, line in enumerate(proposal.lines, 1)
        ],
        "totals": {
            "basket_minor": sum(line.line.line_amount_minor for line in proposal.lines),
            "programme_minor": proposal.programme_minor,
            "beneficiary_minor": proposal.beneficiary_minor,
            "rest_minor": proposal.rest_minor,
            "to_pay_minor": proposal.beneficiary_minor + proposal.rest_minor,
        },
        "vouchers": [
            _balance(numbers[v], proposal.before[v], proposal.after[v]) for v in [*used, *rest]
        ],
        "acting": acting_of(offer.holder.identity.acting),
        "pin": None,
        "refusal": refusal_of(offer.refusal),
    }


def not_offered(
    checkout: str,
    lines: Sequence[Line],
    refusal: dict[str, Any],
    *,
    pin: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The same shape for a code that is no good, a holder without vouchers, a card without its PIN.

    `refusal` is one of `sentences`; `pin` says where the PIN's request stands.
    """
    reason = {name: refusal[name] for name in ("code", "en", "zh")}
    total_minor = sum(line.line_amount_minor for line in lines)
    return {
        "checkout": checkout,
        "offer": None,
        "expires_at": None,
        "programme": None,
        "currency": None,
        "lines": [
            {
                **_line(n, LineProposal(line, (), line.line_amount_minor, None), {}, {}),
                "reason": reason,
            }
            for n, line in enumerate(lines, 1)
        ],
        "totals": {
            "basket_minor": total_minor,
            "programme_minor": 0,
            "beneficiary_minor": 0,
            "rest_minor": total_minor,
            "to_pay_minor": total_minor,
        },
        "vouchers": [],
        "acting": None,
        "pin": pin,
        "refusal": refusal,
    }


def given_back(count: int, *, sent: bool) -> dict[str, Any]:
    """What became of what was set aside for a holder: of how many allotments; whether the ledger
    has it, so that it can be used elsewhere."""
    if not count:
        told = said("Nothing is set aside here for this holder.", "本店没有为该持券人预留额度。")
    elif sent:
        told = said(
            "Given back: the holder can use it anywhere now.", "预留额度已释放，可在任何商户使用。"
        )
    else:
        told = said(
            "Given back here; the holder can use it elsewhere once this till has a network.",
            "预留额度已在本终端释放，待联网上传后可在其他商户使用。",
        )
    return {"allotments": count, "sent": bool(count) and sent, "pin": None, "refusal": None, **told}


def not_given_back(refusal: dict[str, Any], *, pin: dict[str, Any] | None = None) -> dict[str, Any]:
    """The same shape for a code that is no good, and a card without its PIN."""
    told = said(refusal["en"], refusal["zh"])
    return {"allotments": 0, "sent": False, "pin": pin, "refusal": refusal, **told}


def held_by(holder: Holder, pack: Pack | None) -> dict[str, Any]:
    """Somebody's vouchers; `currency` is null, and `left` a number, where the pack lacks one."""
    programmes = {} if pack is None else pack.programmes
    vouchers = []
    for voucher in holder.vouchers:
        programme = programmes.get(voucher.programme)
        balance = _balance(0, voucher, voucher)
        vouchers.append(
            {
                "programme_name": voucher.programme if programme is None else programme.name,
                "label": balance["label"],
                "unit": balance["unit"],
                "left": balance["before"],
                "currency": None if programme is None else programme.currency,
            }
        )
    return {
        "class": holder.identity.token_class,
        "acting": acting_of(holder.identity.acting),
        "vouchers": vouchers,
    }


def _line(
    number: int, line: LineProposal, vouchers: Any, numbers: dict[str, int]
) -> dict[str, Any]:
    return {
        "line": number,
        "key": line.line.key,
        "description": line.line.description,
        "quantity": line.line.quantity,
        "unit": line.line.unit,
        "line_amount_minor": line.line.line_amount_minor,
        "programme_minor": sum(entry.programme_minor for entry in line.entries),
        "beneficiary_minor": sum(entry.beneficiary_minor for entry in line.entries),
        "rest_minor": line.rest_minor,
        "vouchers": [
            {
                "voucher": numbers[entry.voucher],
                "label": _label(vouchers[entry.voucher]),
                "quantity": entry.quantity,
                "programme_minor": entry.programme_minor,
                "beneficiary_minor": entry.beneficiary_minor,
            }
            for entry in line.entries
        ],
        "reason": None if line.reason is None else _reason(line.reason),
    }


def _reason(code: str) -> dict[str, str]:
    refusal = Refusal(code)
    return {"code": code, **said(refusal.sentence("en"), refusal.sentence("zh"))}


def _balance(number: int, before: Voucher, after: Voucher) -> dict[str, Any]:
    """`unit` null: `before` and `after` are minor units of money, else they count that unit."""
    money = before.terms is None
    return {
        "voucher": number,
        "label": _label(before),
        "unit": None if before.terms is None else before.terms.unit,
        "before": before.available_minor if money else before.available_quantity,
        "after": after.available_minor if money else after.available_quantity,
        "expires_at": clock.to_text(before.expires_at),
    }


def _label(voucher: Voucher) -> str:
    return voucher.label or voucher.kind


def sold(
    sale: Sale,
    receipt_text: str | None,
    now: datetime,
    void_until: datetime | None = None,
    *,
    can_accept: bool = False,
    is_being_voided: bool = False,
) -> dict[str, Any]:
    """Where one attempt of a sale stands. Goods may leave only when `goods_may_leave` is true: no
    more once a void of it waits.

    Of a sale without the ledger's word `liability` says who bears the loss if it turns out bad;
    `can_accept`: one whose outcome is unknown may leave so too.
    `problem` says in English what a technician wants to know, or null; `void_until` until when the
    sale can be voided, null where it can't.
    """
    return {
        **_standing(
            sale.checkout,
            sale.receipt_no,
            sale.state,
            sale.currency,
            sale.amount_minor,
            is_being_voided=is_being_voided,
            can_accept=can_accept,
        ),
        "presentment": "online" if sale.liability is None else "offline",
        "liability": sale.liability,
        "can_accept": can_accept,
        "void_until": None if void_until is None else clock.to_text(void_until),
        "next_try": next_try_said(sale.next_try_at, now),
        "refusal": refusal_of(sale.refusal),
        "problem": sale.problem,
        "receipt_text": receipt_text,
    }


def refused_before(checkout: str, offer: Offer, refusal: Refusal) -> dict[str, Any]:
    """The till's own no: nothing was written, so there is no number."""
    return {
        **_standing(checkout, None, "refused", offer.programme.currency, 0),
        "presentment": offer.presentment,
        "liability": None,
        "can_accept": False,
        "void_until": None,
        "next_try": None,
        "refusal": refusal_of(refusal),
        "problem": None,
        "receipt_text": None,
    }


def taken_back(of: Correction, receipt_text: str | None, *, zone: str = "UTC") -> dict[str, Any]:
    """Where a void or refund stands. Nothing is given back before `taken_back` is true.

    `checkout` is null where another till sold it; `beneficiary_minor` is what the shop gives back
    itself; `seen` is false of one that was refused and that nobody was told yet; `repeated` is true
    where the call found it, so that nobody gives money back twice. Times are told in `zone`.
    """
    return {
        "kind": of.kind,
        "receipt_no": of.receipt_no,
        "sale_receipt_no": of.sale_receipt_no,
        "checkout": of.checkout,
        "state": of.state,
        "final": of.final,
        "taken_back": of.state == "posted",
        "currency": of.currency,
        "amount_minor": of.amount_minor,
        "beneficiary_minor": of.beneficiary_minor,
        "message": said(of.message("en"), of.message("zh")),
        "next": next_of_undo(of, zone),
        "waits_for": of.waits_for,
        "decided_at": None if of.decided_at is None else clock.to_text(of.decided_at),
        "seen": of.seen,
        "repeated": of.repeated,
        "refusal": refusal_of(of.refusal),
        "problem": of.problem,
        "receipt_text": receipt_text,
    }


def voidable(sale: Attempt, terminal_no: int, until: datetime) -> dict[str, Any]:
    """A sale in the list of those that can be voided."""
    return {
        "checkout": sale.checkout,
        "receipt_no": ids.receipt_no(terminal_no, sale.sequence),
        "currency": sale.currency,
        "amount_minor": sale.amount_minor,
        "goods": [str(line["description"]) for line in sale.slip.get("lines", [])],
        "void_until": clock.to_text(until),
    }


def open_undos(journal: JournalView, enrolled: Enrolment) -> list[dict[str, Any]]:
    """Every void and refund that the ledger has not decided, or that it refused and nobody was
    told of; oldest first."""
    keys = enrolled.ledger_keys.keys
    listed = [*journal.undos("waiting"), *journal.unseen_undos()]
    return [
        taken_back(corrector.standing(journal, each, enrolled, keys=keys), None)
        for each in sorted(listed, key=lambda each: each.sequence)
    ]


def returnable(found: Returnable, void_until: datetime | None) -> dict[str, Any]:
    """The lines of a sale and how much of each can come back yet."""
    sold = found.sold
    return {
        "receipt_no": found.receipt_no,
        "checkout": found.checkout,
        "currency": sold.currency,
        "void_until": None if void_until is None else clock.to_text(void_until),
        "lines": [
            {
                "line": n,
                "key": line.key,
                "description": found.descriptions.get(n, line.key),
                "quantity": line.quantity,
                "unit": line.unit,
                "line_amount_minor": line.line_amount_minor,
                "programme_minor": sum(e.programme_minor for e in sold.allocation if e.line == n),
                "returned": sold.refunded.get(n, 0),
                "left": line.quantity - sold.refunded.get(n, 0) if sold.gives_back(n) else 0,
            }
            for n, line in enumerate(sold.basket, 1)
        ],
    }


OPEN: Final[tuple[State, ...]] = (
    "open",
    "unknown",
    "interrupted",
    "goods_asked",
    "reversing",
    "filling",
    "accepted",
    "accept_asked",
)
"""States of a sale that somebody at the counter waits for."""


def open_sales(
    journal: JournalView,
    terminal_no: int,
    next_try: Callable[[Attempt], dict[str, str] | None],
    can_accept: Callable[[Attempt], bool],
) -> list[dict[str, Any]]:
    """Every attempt that is not over, oldest first, with what is open and what happens next.

    `next_try` says when the till asks again; `can_accept` whether one may leave as it is. Not those
    that wait for the network or the office: they are told by programme, and in the list for a
    person.
    """
    listed = [*journal.attempts(*OPEN), *journal.attempts("review")]
    return [
        {
            **_of_attempt(journal, each, terminal_no, can_accept=can_accept(each)),
            "next_try": next_try(each),
        }
        for each in sorted(listed, key=lambda each: each.sequence)
    ]


_AFTER_RESTART: Final[dict[State, State]] = {"open": "interrupted", "accepted": "accept_asked"}
"""What a sale is that a process left so: it can't tell any more whether the goods went."""


def while_stopped(told: dict[str, Any]) -> dict[str, Any]:
    """A sale, void or refund as it is while no process runs the till: nothing happens by itself."""
    state = _AFTER_RESTART.get(told["state"])
    if state is not None:
        told = {
            **told,
            "state": state,
            "goods_may_leave": state in attempt.GOODS_MAY_LEAVE,
            "message": message_of(state),
            "next": next_of(state),
        }
    if told["state"] in NEXT_STOPPED:
        told = {**told, "next": said(*NEXT_STOPPED[told["state"]])}
    return {**told, "next_try": None} if "next_try" in told else told


def attempts_of(journal: JournalView, checkout: str, terminal_no: int) -> list[dict[str, Any]]:
    """Every attempt of a sale, oldest first."""
    return [_of_attempt(journal, each, terminal_no) for each in journal.of_checkout(checkout)]


def _of_attempt(
    journal: JournalView, each: Attempt, terminal_no: int, *, can_accept: bool = False
) -> dict[str, Any]:
    return _standing(
        each.checkout,
        ids.receipt_no(terminal_no, each.sequence),
        each.state,
        each.currency,
        each.amount_minor,
        is_being_voided=journal.is_being_voided(each.id),
        can_accept=can_accept,
    )


def _standing(
    checkout: str,
    receipt_no: str | None,
    state: State,
    currency: str,
    amount_minor: int,
    *,
    is_being_voided: bool = False,
    can_accept: bool = False,
) -> dict[str, Any]:
    message, following = message_of(state), next_of(state)
    if is_being_voided:
        message, following = (said(*each) for each in BEING_VOIDED)
    elif can_accept:
        message, following = (said(*each) for each in MAY_ACCEPT)
    return {
        "checkout": checkout,
        "receipt_no": receipt_no,
        "state": state,
        "final": state in attempt.FINAL,
        "goods_may_leave": state in attempt.GOODS_MAY_LEAVE and not is_being_voided,
        "currency": currency,
        "amount_minor": amount_minor,
        "message": message,
        "next": following,
    }


def receipt_text(slip: dict[str, Any], columns: int, *, copy: bool) -> str:
    """The receipt as plain text. Raises Malformed when the slip is of a format not known here."""
    shown = {**slip, "is_copy": copy}
    return receipt_layout.render_text(receipt.from_json_object(shown), columns)
