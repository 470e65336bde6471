"""The ledger's signed answer to one record (docs/protocol.md §5).

Only an outcome that verifies and is bound to the record may be read as posted or refused; every
other answer, of whatever HTTP status, is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast, get_args

from carepos import clock, ids, jws, money, strict_json
from carepos.basket import MAX_QUANTITY, unit
from carepos.errors import Malformed, problem_from
from carepos.keys import Keys, SigningKey
from carepos.offline_rule import Liability, liability
from carepos.product import Unit
from carepos.record import Record, Redeem
from carepos.refusals import BY_CODE, Refusal, Reserved
from carepos.undo import Refund, Void

Result = Literal["posted", "posted_short", "refused", "reversed", "exception", "not_found", "held"]
_RESULTS: frozenset[str] = frozenset(get_args(Result))
HeldReason = Literal[
    "terminal_suspended", "terminal_revoked", "terminal_forked", "token", "malformed"
]
NotServed = Literal["terminal_suspended", "terminal_revoked", "terminal_forked"]
"""Of these what is said of the till, whatever it sends."""
HELD_REASONS: frozenset[str] = frozenset(get_args(HeldReason))
# What each kind of record can be answered with; all others can only be posted or refused.
_ANSWERS: Mapping[object, frozenset[str]] = {
    "redeem": frozenset({"posted", "posted_short", "refused", "reversed", "exception", "held"}),
    "accept_offline": frozenset({"posted", "posted_short", "exception", "held"}),
    "reversal": frozenset({"reversed", "refused", "held"}),
}
_PLAIN_ANSWERS = frozenset({"posted", "refused", "held"})
_MOVES_MONEY = frozenset(
    {"redeem", "reversal", "accept_offline", "void", "refund", "return_allotment"}
)
_SHORT = frozenset({"shortfall_minor", "liability"})
_BASE = frozenset({"v", "result", "id", "terminal", "recorded_at", "epoch"})
_BOUND = _BASE | {"kind", "record_sha256"}
_BOOKED = frozenset({"currency", "amount_minor", "vouchers"})


@dataclass(frozen=True, slots=True)
class VoucherState:
    """What one posting moved on one voucher, and what the voucher holds after it."""

    voucher: str
    amount_minor: int
    quantity: int
    unit: Unit | None
    available_minor: int
    available_quantity: int
    from_allotment_minor: int = 0
    from_allotment_quantity: int = 0

    def to_json(self) -> dict[str, object]:
        return {
            "voucher": self.voucher,
            "amount_minor": self.amount_minor,
            "quantity": self.quantity,
            "unit": self.unit,
            "from_allotment_minor": self.from_allotment_minor,
            "from_allotment_quantity": self.from_allotment_quantity,
            "available_minor": self.available_minor,
            "available_quantity": self.available_quantity,
        }

    @classmethod
    def from_json(cls, value: object, where: str) -> VoucherState:
        names = strict_json.exact_names(value, cls.__dataclass_fields__.keys(), where=where)
        top = money.MAX_AMOUNT_MINOR

        def minor(name: str) -> int:
            return strict_json.integer(names[name], f"{where}.{name}", high=top)

        def quantity(name: str) -> int:
            return strict_json.integer(names[name], f"{where}.{name}", high=MAX_QUANTITY)

        return cls(
            ids.reference(names["voucher"], f"{where}.voucher"),
            minor("amount_minor"),
            quantity("quantity"),
            None if names["unit"] is None else unit(names["unit"], f"{where}.unit"),
            minor("available_minor"),
            quantity("available_quantity"),
            minor("from_allotment_minor"),
            quantity("from_allotment_quantity"),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verified outcome. `kind` and `record_sha256` are None only for `not_found`;
    `currency` is None when nothing was booked. `shortfall_minor` is what vouchers did not cover of
    a sale that was `posted_short`; with it and with an `exception` stands who bears it. `reason`
    says why a record is `held`."""

    jws: str
    result: Result
    id: str
    terminal: str
    recorded_at: datetime
    epoch: int
    kind: str | None
    record_sha256: str | None
    refusal: Refusal | None
    currency: str | None
    amount_minor: int
    vouchers: tuple[VoucherState, ...]
    shortfall_minor: int = 0
    liability: Liability | None = None
    reason: HeldReason | None = None


def payload(
    result: Result,
    record: Record,
    *,
    recorded_at: datetime,
    epoch: int,
    refusal: Refusal | None = None,
    currency: str | None = None,
    amount_minor: int = 0,
    vouchers: tuple[VoucherState, ...] = (),
    shortfall_minor: int = 0,
    liability: Liability | None = None,
    reason: HeldReason | None = None,
) -> dict[str, object]:
    """What the ledger signs as its answer to `record`."""
    body: dict[str, object] = {
        "v": 1,
        "result": result,
        "kind": record.kind,
        "id": record.id,
        "terminal": record.terminal,
        "record_sha256": record.digest,
        "recorded_at": clock.to_text(recorded_at),
        "epoch": epoch,
    }
    if result == "held":
        assert reason is not None
        body["reason"] = reason
    elif result in ("refused", "exception"):
        assert refusal is not None
        body["refusal"] = refusal.to_json()
    elif record.kind in _MOVES_MONEY:
        body["currency"] = currency
        body["amount_minor"] = amount_minor
        body["vouchers"] = [each.to_json() for each in vouchers]
    if result in ("posted_short", "exception"):
        body["liability"] = liability
    if result == "posted_short":
        body["shortfall_minor"] = shortfall_minor
    return body


def not_found_payload(
    an_id: str, terminal: str, *, request: str, recorded_at: datetime, epoch: int
) -> dict[str, object]:
    """The signed answer to a read of an id that this terminal never sent."""
    return {
        "v": 1,
        "result": "not_found",
        "id": an_id,
        "terminal": terminal,
        "request": request,
        "recorded_at": clock.to_text(recorded_at),
        "epoch": epoch,
    }


def sign(body: Mapping[str, object], key: SigningKey) -> str:
    return jws.sign(body, typ=jws.OUTCOME, key=key)


def read_bound(text: object, record: Record, *, keys: Keys) -> Outcome:
    """The outcome `text` spells, if it answers exactly `record`.

    Raises Malformed or SignatureInvalid otherwise: the caller then knows no more than before.
    """
    outcome = _read(text, keys)
    bound = (outcome.record_sha256, outcome.id, outcome.terminal, outcome.kind)
    if bound != (record.digest, record.id, record.terminal, record.kind):
        raise Malformed("answers another record", field="outcome")
    if isinstance(record.content, Redeem):
        _check_sale(outcome, record.content)
    if outcome.result == "posted" and isinstance(record.content, Refund):
        _check_refund(outcome, record.content)
    return outcome


def read_accepted(text: object, accept: Record, redeem: Redeem, *, keys: Keys) -> Outcome:
    """As `read_bound`, of the acceptance of a sale: it posts that sale's amount or says what is
    missing of it."""
    outcome = read_bound(text, accept, keys=keys)
    _check_sale(outcome, redeem)
    return outcome


def _check_sale(outcome: Outcome, redeem: Redeem) -> None:
    if outcome.result not in ("posted", "posted_short"):
        return
    agreed = (redeem.programme_minor, redeem.currency)
    booked = outcome.amount_minor + outcome.shortfall_minor
    # Of what vouchers cover nothing of, no currency is told.
    if (booked, outcome.currency or agreed[1]) != agreed:
        raise Malformed("posts another amount than the record's", field="outcome.amount_minor")


def read_undone(
    text: object, undo: Record, *, currency: str, keys: Keys, booked: Outcome | None = None
) -> Outcome:
    """As `read_bound`, of a void or refund of a sale in `currency`.

    One that is posted gave money back; a void exactly what the sale's own outcome `booked`, where
    that is known.
    """
    outcome = read_bound(text, undo, keys=keys)
    if outcome.result == "posted":
        if outcome.currency != currency:
            raise Malformed("is in another currency than the sale's", field="outcome.currency")
        if isinstance(undo.content, Void) and booked is not None:
            _check_void(outcome, booked)
    return outcome


def _check_refund(outcome: Outcome, refund: Refund) -> None:
    """What went back is what the record says, voucher by voucher."""
    if outcome.currency != refund.currency:
        raise Malformed("is in another currency than the record's", field="outcome.currency")
    agreed: dict[str, tuple[int, int]] = {}
    for part in refund.parts:
        minor, quantity = agreed.get(part.voucher, (0, 0))
        agreed[part.voucher] = (minor + part.programme_minor, quantity + part.quantity)
    if _moved(outcome) != {voucher: back for voucher, back in agreed.items() if any(back)}:
        raise Malformed("gives back other than the record says", field="outcome.vouchers")


def _check_void(outcome: Outcome, sale: Outcome) -> None:
    """What went back is what the sale had booked, voucher by voucher."""
    if (outcome.currency, _moved(outcome)) != (sale.currency, _moved(sale)):
        raise Malformed("gives back other than the sale booked", field="outcome.vouchers")


def _moved(outcome: Outcome) -> dict[str, tuple[int, int]]:
    """By voucher: (minor units, quantity)."""
    return {state.voucher: (state.amount_minor, state.quantity) for state in outcome.vouchers}


def read_result(
    result: Mapping[str, object],
    record: Record,
    *,
    keys: Keys,
    sale: Outcome | None = None,
    accepted: Redeem | None = None,
) -> tuple[Outcome | None, str | None]:
    """The bound outcome in one result of `POST /v1/records`, or why there is none.

    `sale`: of a void or refund of the till's own sale, the outcome that booked that; `accepted`: of
    an acceptance, what was sold.
    """
    if "outcome" in result:
        try:
            if accepted is not None:
                return read_accepted(result["outcome"], record, accepted, keys=keys), None
            if sale is None or sale.currency is None:
                return read_bound(result["outcome"], record, keys=keys), None
            return read_undone(
                result["outcome"], record, currency=sale.currency, keys=keys, booked=sale
            ), None
        except Malformed as error:
            return None, f"the ledger's answer can't be trusted: {error}"
    problem = result.get("problem")
    if isinstance(problem, dict):
        status = problem.get("status")
        return None, str(problem_from(status if isinstance(status, int) else 0, problem))
    return None, "not an answer of a ledger"


def read_not_found(text: object, *, an_id: str, terminal: str, request: str, keys: Keys) -> Outcome:
    """A signed `not_found` that answers exactly the read `request`."""
    signed = jws.verify(text, typ=jws.OUTCOME, keys=keys)
    outcome = _parse(signed)
    asked = (outcome.result, outcome.id, outcome.terminal, signed.payload.get("request"))
    if asked != ("not_found", an_id, terminal, request):
        raise Malformed("answers another question", field="outcome")
    return outcome


def read_any(text: object, *, keys: Keys) -> Outcome:
    """A verified outcome, bound to whatever it names; the caller looks the record up."""
    return _read(text, keys)


def _read(text: object, keys: Keys) -> Outcome:
    return _parse(jws.verify(text, typ=jws.OUTCOME, keys=keys))


def _parse(signed: jws.Signed) -> Outcome:
    body = signed.payload
    result = body.get("result")
    if not isinstance(result, str) or result not in _RESULTS:
        raise Malformed("no such result", field="outcome.result")
    kind = body.get("kind")
    if result != "not_found":
        kind = strict_json.text(kind, "outcome.kind", high=30)
        if result not in _ANSWERS.get(kind, _PLAIN_ANSWERS):
            raise Malformed("can't be the answer to this kind", field="outcome.result")
    strict_json.exact_names(body, _names_of(result, kind), where="outcome")
    if strict_json.integer(body["v"], "outcome.v") != 1:
        raise Malformed("must be 1", field="outcome.v")
    currency = body.get("currency")
    if currency is not None:
        money.currency(currency, "outcome.currency")
    states = strict_json.array(body.get("vouchers", []), "outcome.vouchers", high=80)
    outcome = Outcome(
        jws=signed.jws,
        result=cast(Result, result),
        id=ids.attempt_id(body["id"]),
        terminal=ids.name(body["terminal"], "outcome.terminal"),
        recorded_at=clock.from_text(body["recorded_at"], "outcome.recorded_at"),
        epoch=strict_json.integer(body["epoch"], "outcome.epoch", low=1),
        kind=None if result == "not_found" else kind,
        record_sha256=(
            None
            if result == "not_found"
            else ids.digest_text(body["record_sha256"], "outcome.record_sha256")
        ),
        refusal=_refusal(body["refusal"]) if "refusal" in body else None,
        currency=currency,
        amount_minor=strict_json.integer(
            body.get("amount_minor", 0), "outcome.amount_minor", high=money.MAX_AMOUNT_MINOR
        ),
        vouchers=tuple(
            VoucherState.from_json(each, f"outcome.vouchers[{n}]")
            for n, each in enumerate(states, 1)
        ),
        shortfall_minor=strict_json.integer(
            body.get("shortfall_minor", 0),
            "outcome.shortfall_minor",
            low=1 if result == "posted_short" else 0,
            high=money.MAX_AMOUNT_MINOR,
        ),
        liability=liability(body["liability"], "outcome.liability")
        if "liability" in body
        else None,
        reason=_reason(body["reason"]) if "reason" in body else None,
    )
    _check_booked(outcome)
    return outcome


def _names_of(result: str, kind: object) -> frozenset[str]:
    """The names that an outcome of this result has for a record of this kind."""
    match result:
        case "not_found":
            return _BASE | {"request"}
        case "held":
            return _BOUND | {"reason"}
        case "refused":
            return _BOUND | {"refusal"}
        case "exception":
            return _BOUND | {"refusal", "liability"}
        case "posted_short":
            return _BOUND | _BOOKED | _SHORT
        case _:
            return _BOUND | _BOOKED if kind in _MOVES_MONEY else _BOUND


def _reason(value: object) -> HeldReason:
    if not isinstance(value, str) or value not in HELD_REASONS:
        raise Malformed("no such word", field="outcome.reason")
    return cast(HeldReason, value)


def _check_booked(outcome: Outcome) -> None:
    """An outcome that moved money says in which currency and how much of it, voucher by voucher."""
    if sum(state.amount_minor for state in outcome.vouchers) != outcome.amount_minor:
        raise Malformed("is not the sum of its vouchers", field="outcome.amount_minor")
    if len({state.voucher for state in outcome.vouchers}) < len(outcome.vouchers):
        raise Malformed("names a voucher twice", field="outcome.vouchers")
    moved = bool(outcome.vouchers) or (outcome.kind, outcome.result) == ("redeem", "posted")
    if outcome.kind in _MOVES_MONEY and moved != (outcome.currency is not None):
        raise Malformed("must be there when something was booked", field="outcome.currency")


def _refusal(value: object) -> Refusal:
    where = "outcome.refusal"
    names = strict_json.names_within(
        value, required={"code", "at"}, optional={"reserved"}, where=where
    )
    code, at = names["code"], names["at"]
    if not isinstance(code, str) or code not in BY_CODE or BY_CODE[code].answer != "outcome":
        raise Malformed("no code of a decided refusal", field=f"{where}.code")
    if at is not None and type(at) is not int and not isinstance(at, str):
        raise Malformed("must be a line, a voucher or null", field=f"{where}.at")
    if "reserved" not in names:
        return Refusal(code, at)
    if code != "reserved_elsewhere":
        raise Malformed("stands with reserved_elsewhere alone", field=f"{where}.reserved")
    told = strict_json.exact_names(
        names["reserved"], {"store_name", "until"}, where=f"{where}.reserved"
    )
    reserved = Reserved(
        strict_json.text(told["store_name"], f"{where}.reserved.store_name", high=80),
        clock.from_text(told["until"], f"{where}.reserved.until"),
    )
    return Refusal(code, at, reserved)
