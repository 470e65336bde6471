"""A second reading of docs/offline.md §1–§3: void and refund, written from the pages alone.

As `second`, on which it stands, it imports nothing of the product. Sums are fractions on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.vectors import second
from tests.vectors.second import (
    B22,
    B43,
    BOUND,
    COUNT,
    CURRENCY,
    MONEY,
    NAME,
    RECORD,
    SUMS,
    TAG,
    Refused,
    Shape,
    digest,
    id_bucket,
    jcs,
    jws_digest,
    many,
    named,
    null_or,
    parse,
    text,
    unb64,
    verify,
    whole,
)

Json = dict[str, Any]

# §1 records

ASKED: dict[str, Shape] = {
    "original": named(terminal=NAME, id=text("[0-9a-f-]{36}")),
    "record_sha256": B43,
    "cashier": TAG,
    "approved_by": null_or(TAG),
}
PART = named(
    line=whole(1, 40), voucher=B22, quantity=COUNT, programme_minor=MONEY, beneficiary_minor=MONEY
)
CONTENT: dict[str, dict[str, Shape]] = {
    "void": {
        **ASKED,
        "reason": text("wrong_goods|wrong_holder|changed_mind|goods_kept|other"),
    },
    "refund": {
        **ASKED,
        "reason": text("returned|faulty|overcharged|other"),
        "currency": CURRENCY,
        "lines": many(named(line=whole(1, 40), quantity=whole(1, 10**9)), 1, 40),
        "parts": many(PART, 1, 80),
    },
}


def judge_undo(record: Any) -> str | None:
    """The code of a record of kind `void` or `refund` by itself, or None: it is well-formed."""
    if not RECORD(record):
        return "malformed"
    try:
        bucket = id_bucket(record["id"])
    except Refused as refused:
        return refused.code
    kind, content = record["kind"], record["content"]
    if kind not in CONTENT or content.keys() != CONTENT[kind].keys():
        return "unsupported_kind"
    if not named(**CONTENT[kind])(content):
        return "malformed"
    original = content["original"]
    try:
        same_bucket = id_bucket(original["id"]) == bucket
    except Refused as refused:
        return refused.code
    if not same_bucket or original["id"] == record["id"]:
        return "malformed"
    if kind == "void":
        return None if original["terminal"] == record["terminal"] else "malformed"
    return None if _hangs_together(content["lines"], content["parts"]) else "malformed"


def _hangs_together(lines: list[Json], parts: list[Json]) -> bool:
    back = [each["line"] for each in lines]
    return (
        back == sorted(set(back))
        and [part["line"] for part in parts] == sorted(part["line"] for part in parts)
        and {part["line"] for part in parts} <= set(back)
        and len({(part["line"], part["voucher"]) for part in parts}) == len(parts)
        and len({part["voucher"] for part in parts}) <= 20
        and sum(part["programme_minor"] for part in parts) <= 10**12
        and all(map(_moves, parts))
    )


def _moves(part: Mapping[str, Any]) -> bool:
    return any(part[name] for name in ("quantity", "programme_minor", "beneficiary_minor"))


def content_sha256(record: Mapping[str, Any]) -> str:
    """What the record means, whenever and by whom it was said."""
    means = {"kind": record["kind"], "terminal": record["terminal"]}
    names = ["original"] if means["kind"] == "void" else ["currency", "lines", "original", "parts"]
    return digest(jcs({**means, **{name: record["content"][name] for name in names}}))


# §2 outcomes

HELD = text("terminal_suspended|terminal_revoked|terminal_forked|token|malformed")
_HEAD = {**BOUND, "kind": text("void|refund")}
OUTCOMES: dict[str, Shape] = {
    "posted": named(**_HEAD, **SUMS, currency=null_or(CURRENCY)),
    "refused": named(
        **_HEAD,
        refusal=named(
            code=lambda code: isinstance(code, str), at=lambda at: at is None or _place(at)
        ),
    ),
    "held": named(**_HEAD, reason=HELD),
}


def _place(at: Any) -> bool:
    return whole(1, 40)(at) or B22(at)


def read_undone(outcome: str, record: str, sale: Mapping[str, Any], keys: Sequence[bytes]) -> str:
    """What a till may believe about its own void or refund of `sale`, the sale's record; else
    `unknown`."""
    mine = parse(unb64(record.split(".")[1]))
    try:
        said = verify(outcome, "carepos-outcome+jws", keys)
    except Refused:
        return "unknown"
    bound = ("id", "terminal", "kind")
    if [said.get(name) for name in bound] != [mine[name] for name in bound]:
        return "unknown"
    result = str(said.get("result"))
    if said.get("record_sha256") != jws_digest(record) or result not in OUTCOMES:
        return "unknown"
    if not OUTCOMES[result](said):
        return "unknown"
    if result == "refused" and ANSWERED.get(said["refusal"]["code"]) != "outcome":
        return "unknown"
    if result == "posted" and not _is_the_undo(said, mine, sale["content"]["currency"]):
        return "unknown"
    return result


def _is_the_undo(said: Json, mine: Json, currency: str) -> bool:
    if said["currency"] != currency:
        return False
    told = [each["voucher"] for each in said["vouchers"]]
    total = sum(each["amount_minor"] for each in said["vouchers"])
    if not told or told != sorted(set(told)) or said["amount_minor"] != total:
        return False
    if mine["kind"] == "void":
        return True
    if said["currency"] != mine["content"]["currency"]:  # protocol §5: as in the record, too
        return False
    back: dict[str, tuple[int, int]] = {}
    for part in mine["content"]["parts"]:
        amount, quantity = back.get(part["voucher"], (0, 0))
        back[part["voucher"]] = (amount + part["programme_minor"], quantity + part["quantity"])
    went = {each["voucher"]: (each["amount_minor"], each["quantity"]) for each in said["vouchers"]}
    # The beneficiary's part goes past the voucher: where that is all, nothing went back to it.
    return went == {voucher: moved for voucher, moved in back.items() if any(moved)}


# §3 what goes back, and whether


def kept(sale: Mapping[str, Any], entry: Mapping[str, Any], back: int) -> tuple[int, int, int]:
    """Units, programme's and beneficiary's part that stay taken of an entry when so much of its
    line has returned."""
    n = quantity_of(sale, entry["line"])
    stays = Fraction(n - back, n)
    q = entry["quantity"]
    line = [each for each in sale["allocation"] if each["line"] == entry["line"]]
    together = math.floor(sum(each["quantity"] for each in line) * stays)
    earlier = sum(each["quantity"] for each in line[: line.index(entry)])
    units = max(0, min(q, together - earlier))
    share = Fraction(units, q) if q else stays
    return (
        units,
        math.floor(entry["programme_minor"] * share),
        math.floor(entry["beneficiary_minor"] * share),
    )


def quantity_of(sale: Mapping[str, Any], line: int) -> int:
    return int(sale["basket"][line - 1]["quantity"])


def parts(sale: Mapping[str, Any], before: Sequence[Json], lines: Sequence[Json]) -> list[Json]:
    """What a refund of `lines` gives back of a sale's content, after what `before` gave back."""
    earlier, now = line_sums(before), line_sums(lines)
    made = []
    for entry in sale["allocation"]:
        number = entry["line"]
        if number not in now:
            continue
        was = earlier.get(number, 0)
        moved = [
            old - new
            for old, new in zip(
                kept(sale, entry, was), kept(sale, entry, was + now[number]), strict=True
            )
        ]
        part = {
            "line": number,
            "voucher": entry["voucher"],
            **dict(zip(("quantity", "programme_minor", "beneficiary_minor"), moved, strict=True)),
        }
        if _moves(part):
            made.append(part)
    return made


def line_sums(lines: Sequence[Json]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for each in lines:
        sums[each["line"]] = sums.get(each["line"], 0) + each["quantity"]
    return sums


RULE = named(window_s=whole(0, 31_622_400), grace_s=whole(0, 31_622_400))


def judge(situation: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    """The code with which a ledger that knows `situation` refuses the record, or None: it posts.

    The rows of the page's table stand here in its order; the first that is true is the answer.
    """
    content, sale, now = record["content"], situation["sale"], moment(situation["now"])
    void = record["kind"] == "void"
    mine = [record["terminal"]] if void else situation["terminals"]
    named_so = {**content["original"], "record_sha256": content["record_sha256"]}
    if (
        sale is None
        or sale["terminal"] not in mine
        or named_so != {name: sale[name] for name in ("terminal", "id", "record_sha256")}
    ):
        return "original_unknown"
    if sale["state"] != "posted":
        return "original_not_booked"
    before = sale["refunded"]
    gone = line_sums(before)
    if sale["undone"] or not any(
        any(kept(sale, entry, gone.get(entry["line"], 0))) for entry in sale["allocation"]
    ):
        return "already_undone"
    since = now - moment(sale["recorded_at"])
    if void:
        window = timedelta(seconds=situation["programme"]["undo_window_s"])
        by_till = moment(record["occurred_at"]) - moment(sale["occurred_at"])
        stayed = content["reason"] == "goods_kept" and sale["offline"]
        late = by_till >= window and not stayed
        if not sale["offline"]:
            late = late or since >= window or sale["settled"]
        return "already_undone" if before else "void_too_late" if late else None
    rule, lines = situation["programme"].get("refunds"), content["lines"]
    if rule is None:
        return "refund_not_allowed"
    if since >= timedelta(seconds=rule["window_s"]) or not sale["bytes_held"]:
        return "refund_too_late"
    if any(
        each["line"] > len(sale["basket"])
        or gone.get(each["line"], 0) + each["quantity"] > quantity_of(sale, each["line"])
        for each in lines
    ):
        return "refund_exceeds"
    right = parts(sale, before, lines)
    if not right:
        return "refund_exceeds"
    for part in right:
        terms = situation["terms"][part["voucher"]]
        if terms and terms["fixed_minor"] and part["quantity"] % terms["cap_quantity"]:
            return "refund_not_whole"
    if content["parts"] != right or content["currency"] != situation["programme"]["currency"]:
        return "proposal_changed"
    return None


def moment(told: str) -> datetime:
    return datetime.fromisoformat(told)


# §6 of the protocol with the codes that came with undo

UNDO_REFUSALS = (
    "original_unknown",
    "original_not_booked",
    "already_undone",
    "void_too_late",
    "refund_not_allowed",
    "refund_too_late",
    "refund_exceeds",
    "refund_not_whole",
)
ANSWERED = {**second.REFUSALS, **dict.fromkeys(UNDO_REFUSALS, "outcome")}
