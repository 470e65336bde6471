"""The shape of records and the rule `check`, written a second time from docs/protocol.md alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from tests.second_signing import (
    Bad,
    Json,
    PublicKey,
    bucket_of,
    canonical,
    digest,
    moment,
    read,
    split,
)
from tests.vectors import second_offline, second_undo

ORDER = (
    "programme_not_started programme_ended programme_paused store_not_in_programme"
    " voucher_unknown voucher_not_yours voucher_frozen voucher_not_started voucher_expired"
    " reserved_elsewhere not_in_product_list category_not_covered price_below_fixed"
    " price_above_cap quantity_not_allowed quota_exceeded limit_exceeded acting_limit"
    " balance_insufficient proposal_changed"
).split()
UNITS = ("piece", "g", "ml")
MANY = 10**9
MONEY = 10**12
SAFE = 2**53 - 1

Check = Callable[[Any], bool]


def text(pattern: str) -> Check:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def integer(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def one_of(*values: object) -> Check:
    return lambda value: isinstance(value, str) and value in values


def exactly(**names: Check) -> Check:
    def matches(value: Any) -> bool:
        if not isinstance(value, dict) or set(value) != set(names):
            return False
        return all(check(value[name]) for name, check in names.items())

    return matches


def either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def each(low: int, high: int, check: Check) -> Check:
    def matches(value: Any) -> bool:
        return isinstance(value, list) and low <= len(value) <= high and all(map(check, value))

    return matches


def a_day(value: Any) -> bool:
    try:
        return bool(_DAY(value)) and bool(date.fromisoformat(value))
    except ValueError:
        return False


def a_time(value: Any) -> bool:
    try:
        return bool(_TIME(value)) and bool(moment(value))
    except ValueError:
        return False


def a_product(value: Any) -> bool:
    if _LOOSE(value):
        return True
    if not _GTIN(value):
        return False
    weighted = sum(int(figure) * (3, 1)[n % 2] for n, figure in enumerate(value[:13]))
    return -weighted % 10 == int(value[13])


_DAY = text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_LOOSE = text(r"cat:[a-z0-9][a-z0-9-]{0,39}")
_GTIN = text(r"[0-9]{14}")
NAME = text(r"[a-z0-9][a-z0-9-]{0,39}")
REFERENCE = text(r"[A-Za-z0-9_-]{22}")
DIGEST = text(r"[A-Za-z0-9_-]{43}")
CURRENCY = text(r"[A-Z]{3}")
TAG = text(r"[A-Za-z0-9._-]{1,40}")
ID = text(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
MINOR = integer(0, MONEY)

_RECORD = exactly(
    v=lambda value: type(value) is int and value == 1,
    kind=text(r"[a-z_]{1,30}"),
    id=ID,
    terminal=NAME,
    incarnation=text(r"[0-9a-f]{32}"),
    sequence=integer(1, SAFE),
    prev=DIGEST,
    occurred_at=a_time,
    content=lambda value: isinstance(value, dict),
)
_REDEEM = exactly(
    checkout=TAG,
    cashier=TAG,
    presentment=one_of("online"),
    programme=NAME,
    rules_version=integer(1, SAFE),
    currency=CURRENCY,
    beneficiary=REFERENCE,
    token_sha256=DIGEST,
    basket=each(
        1,
        40,
        exactly(
            key=a_product,
            quantity=integer(1, MANY),
            unit=one_of(*UNITS),
            line_amount_minor=MINOR,
        ),
    ),
    allocation=each(
        1,
        80,
        exactly(
            line=integer(1, 40),
            voucher=REFERENCE,
            quantity=integer(0, MANY),
            programme_minor=MINOR,
            beneficiary_minor=MINOR,
        ),
    ),
)
_SUM = exactly(programme=NAME, currency=CURRENCY, count=integer(0, SAFE), amount_minor=MINOR)
_REPORT: dict[str, Check] = {
    "z_no": integer(1, SAFE),
    "business_date": a_day,
    "from_sequence": integer(1, SAFE),
    "to_sequence": integer(0, SAFE),
    "confirmed": integer(0, SAFE),
    "refused": integer(0, SAFE),
    "reversed": integer(0, SAFE),
    "open": integer(0, SAFE),
    "sums": each(0, 50, _SUM),
}
_CONTENT: Mapping[str, Check] = {
    "redeem": _REDEEM,
    "start": exactly(
        software=lambda value: (
            isinstance(value, str) and 1 <= len(value) <= 60 and value.isprintable()
        )
    ),
    "key_change": exactly(
        key=lambda value: isinstance(value, dict), proof=lambda value: isinstance(value, str)
    ),
    "reversal": exactly(
        record_sha256=DIGEST, reason=one_of("not_found", "cancelled", "goods_kept")
    ),
    "day_report": either(exactly(**_REPORT), exactly(**_REPORT, undone=each(1, 50, _SUM))),
}


def bucket(identifier: str) -> int:
    return int(identifier[15:18], 16)


def check_record(record: Json) -> None:
    """Section 4's shape of a record.

    Raises:
        Bad: `malformed`, `basket_too_large` or `unsupported_kind`.
    """
    if not _RECORD(record):
        raise Bad
    kind, content = record["kind"], record["content"]
    if kind in second_undo.CONTENT:
        code = second_undo.judge_undo(record)
        if code is not None:
            raise Bad(code)
    elif kind in second_offline.CONTENT:
        code = second_offline.judge(record)
        if code is not None:
            raise Bad(code)
    elif kind not in _CONTENT:
        raise Bad("unsupported_kind")
    if kind == "key_change" and set(content) != {"key", "proof"}:
        raise Bad("unsupported_kind")
    basket = content.get("basket")
    if kind == "redeem" and isinstance(basket, list) and len(basket) > 40:
        raise Bad("basket_too_large")
    if kind in _CONTENT and not _CONTENT[kind](content):
        raise Bad
    if kind == "redeem":
        _check_allocation(content["basket"], content["allocation"])
    elif kind == "day_report" and content["to_sequence"] < content["from_sequence"] - 1:
        raise Bad
    if kind in ("start", "day_report", "key_change") and bucket(record["id"]) != bucket_of(
        record["terminal"]
    ):
        raise Bad
    first = digest(f"carepos/incarnation/v1|{record['incarnation']}".encode())
    if record["sequence"] == 1 and record["prev"] != first:
        raise Bad


def check_key_change(record: Json, signer: str) -> PublicKey:
    """The key that a `key_change` announces, if it proved itself about this very record.

    Raises:
        Bad: `malformed`.
    """
    key = PublicKey.of(record["content"]["key"])
    try:
        said = read(record["content"]["proof"], "carepos-proof+jws", [key])
    except Bad as bad:
        raise Bad from bad
    place = {name: record[name] for name in ("terminal", "incarnation", "sequence")}
    # As text, for Python takes true for 1.
    if canonical(said) != canonical({"v": 1, **place}) or key.kid == signer:
        raise Bad
    return key


def _check_allocation(basket: Sequence[Json], allocation: Sequence[Json]) -> None:
    lines = [entry["line"] for entry in allocation]
    if lines != sorted(lines) or lines[-1] > len(basket):
        raise Bad
    if len({(entry["line"], entry["voucher"]) for entry in allocation}) < len(allocation):
        raise Bad
    if len({entry["voucher"] for entry in allocation}) > 20:
        raise Bad
    if any(entry["programme_minor"] + entry["beneficiary_minor"] < 1 for entry in allocation):
        raise Bad
    if sum(entry["programme_minor"] for entry in allocation) > 10**12:
        raise Bad


def content_digest(record: Json) -> str:
    content = record["content"]
    if record["kind"] in second_undo.CONTENT:
        return second_undo.content_sha256(record)
    if record["kind"] in second_offline.CONTENT:
        return second_offline.content_sha256(record) or ""
    named = {name: content[name] for name in ("allocation", "beneficiary", "currency", "programme")}
    return digest(canonical({**named, "terminal": record["terminal"]}))


@dataclass(frozen=True)
class Refusal:
    code: str
    at: int | str | None = None


class Refused(Exception):
    """A decision against, with its code; `more` is what a problem says beside it."""

    def __init__(self, code: str, at: int | str | None = None, **more: int) -> None:
        super().__init__(code)
        self.refusal, self.more = Refusal(code, at), more


@dataclass
class Situation:
    """What `check` may know: vouchers are as section 9's lookup gives them, by id; `acted` is what
    was paid within the window, where somebody acts for the beneficiary.
    """

    at: str
    store: str
    programme: Json
    products: Mapping[str, str]
    vouchers: Mapping[str, Json]
    others: frozenset[str] = frozenset()
    reserved: Mapping[str, int] | None = None
    acted: Mapping[str, int] | None = None


@dataclass(frozen=True)
class _Rest:
    """What remains of a line; `value_of` is the line as the first value entry met it."""

    amount: int
    quantity: int
    covered: int = 0
    value: int = 0
    value_of: tuple[int, int] | None = None


def check(now: Situation, basket: Sequence[Json], allocation: Sequence[Json]) -> Refusal | None:
    """Section 7's `check`: the refusal that comes first in section 6, or None."""
    found = [
        *_programme(now),
        *_vouchers(now, allocation),
        *_lines(now, basket, allocation),
        *_sums(now, allocation),
    ]
    return min(found, key=lambda refusal: ORDER.index(refusal.code), default=None)


def _programme(now: Situation) -> list[Refusal]:
    programme, found = now.programme, []
    if now.at < programme["starts_at"]:
        found.append(Refusal("programme_not_started"))
    if now.at >= programme["ends_at"]:
        found.append(Refusal("programme_ended"))
    if programme["paused"]:
        found.append(Refusal("programme_paused"))
    if now.store not in programme["stores"]:
        found.append(Refusal("store_not_in_programme"))
    return found


def _usable(now: Situation, name: str) -> Json | None:
    voucher = now.vouchers.get(name)
    if voucher is None or voucher["programme"] != now.programme["programme"]:
        return None
    return voucher


def _vouchers(now: Situation, allocation: Sequence[Json]) -> list[Refusal]:
    found = []
    for name in sorted({entry["voucher"] for entry in allocation}):
        voucher = _usable(now, name)
        if voucher is None:
            yours = name not in now.others
            found.append(Refusal("voucher_unknown" if yours else "voucher_not_yours", name))
            continue
        if voucher["frozen"]:
            found.append(Refusal("voucher_frozen", name))
        if now.at < voucher["starts_at"]:
            found.append(Refusal("voucher_not_started", name))
        if now.at >= voucher["expires_at"]:
            found.append(Refusal("voucher_expired", name))
        lacking = taken(allocation, voucher) - left_of(voucher)
        if 0 < lacking <= (now.reserved or {}).get(name, 0):
            found.append(Refusal("reserved_elsewhere", name))
    return found


def left_of(voucher: Json) -> int:
    of = "available_minor" if voucher["kind"] == "value" else "available_quantity"
    left: int = voucher[of]
    return left


def taken(allocation: Sequence[Json], voucher: Json) -> int:
    of = "programme_minor" if voucher["kind"] == "value" else "quantity"
    return sum(entry[of] for entry in allocation if entry["voucher"] == voucher["voucher"])


def _lines(now: Situation, basket: Sequence[Json], allocation: Sequence[Json]) -> list[Refusal]:
    found: list[Refusal] = []
    quotas = {quota["category"]: quota for quota in now.programme["quotas"]}
    used: dict[str, int] = {}
    for number, line in enumerate(basket, 1):
        entries = [entry for entry in allocation if entry["line"] == number]
        if not entries:
            continue
        category = now.products.get(line["key"])
        if category is None:
            found.append(Refusal("not_in_product_list", number))
        rest = _Rest(line["line_amount_minor"], line["quantity"])
        for entry in entries:
            voucher = _usable(now, entry["voucher"])
            if voucher is None:
                continue
            if category and voucher["categories"] and category not in voucher["categories"]:
                found.append(Refusal("category_not_covered", number))
            apply = _value if voucher["kind"] == "value" else _item
            code, rest = apply(now, voucher, line, entry, rest)
            if code is not None:
                found.append(Refusal(code, number))
        quota = quotas.get(category or "")
        if quota is None:
            continue
        if quota["unit"] != line["unit"]:
            found.append(Refusal("quantity_not_allowed", number))
            continue
        use = rest.covered
        if rest.value_of is not None and rest.value:
            amount, quantity = rest.value_of
            use += -(-rest.value * quantity // amount)
        used[quota["category"]] = used.get(quota["category"], 0) + use
        if used[quota["category"]] > quota["quantity"]:
            found.append(Refusal("quota_exceeded", number))
    return found


def _value(
    _now: Situation, _voucher: Json, _line: Json, entry: Json, rest: _Rest
) -> tuple[str | None, _Rest]:
    part = entry["programme_minor"]
    if entry["quantity"]:
        return "quantity_not_allowed", rest
    if not 1 <= part <= rest.amount or entry["beneficiary_minor"]:
        return "proposal_changed", rest
    return None, replace(
        rest,
        amount=rest.amount - part,
        value=rest.value + part,
        value_of=rest.value_of or (rest.amount, rest.quantity),
    )


def _item(
    now: Situation, voucher: Json, line: Json, entry: Json, rest: _Rest
) -> tuple[str | None, _Rest]:
    terms, quantity = voucher["terms"], entry["quantity"]
    if not 1 <= quantity <= rest.quantity or terms["unit"] != line["unit"]:
        return "quantity_not_allowed", rest
    if terms["fixed_minor"] and quantity % terms["cap_quantity"]:
        return "quantity_not_allowed", rest
    if rest.value_of is not None:
        return "proposal_changed", rest
    share = split(rest.amount, [quantity, rest.quantity - quantity])[0]
    cap = terms["cap_minor"] * quantity // terms["cap_quantity"]
    fixed = terms["fixed_minor"] * quantity // terms["cap_quantity"]
    programme = max(0, min(share, cap) - fixed)
    after = replace(
        rest,
        amount=rest.amount - share,
        quantity=rest.quantity - quantity,
        covered=rest.covered + quantity,
    )
    if share <= fixed:
        return "price_below_fixed", after
    if share > cap and not now.programme["top_up_allowed"]:
        return "price_above_cap", after
    if programme == 0:
        return "quantity_not_allowed", after
    if (entry["programme_minor"], entry["beneficiary_minor"]) != (programme, share - programme):
        return "proposal_changed", after
    return None, after


def _sums(now: Situation, allocation: Sequence[Json]) -> list[Refusal]:
    found = []
    limit = now.programme["limit_per_redemption_minor"]
    asked = sum(entry["programme_minor"] for entry in allocation)
    if limit is not None and asked > limit:
        found.append(Refusal("limit_exceeded"))
    for name, paid in (now.acted or {}).items():
        if paid + asked > now.programme["acting"][name]:
            found.append(Refusal("acting_limit"))
    for name in sorted({entry["voucher"] for entry in allocation}):
        voucher = _usable(now, name)
        if voucher is not None and taken(allocation, voucher) > left_of(voucher):
            found.append(Refusal("balance_insufficient", name))
    return found
