"""The vectors of docs/offline.md §1–§3: void and refund. Expected values are written by hand."""

# Tables read better with their cases on long lines.
# ruff: noqa: E501

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from tests.vectors import second, second_undo
from tests.vectors.second import b64, jcs, jws_digest, make_id, sign

Json = dict[str, Any]
Changes = Sequence[tuple[str, Any]]
RECORD, OUTCOME = "carepos-record+jws", "carepos-outcome+jws"
TERMINAL, OTHER_TILL, INCARNATION = "t-4f1c2a9b", "t-4f1c2a9c", "0b5c9d2e7f8041a3b6c5d4e3f2a19080"
MS, BUCKET = 1795336200000, 0xABC  # 2026-11-22T08:30:00.000Z
MILK, RICE = "06913046198782", "cat:rice-loose"


def seed(name: str) -> bytes:
    return hashlib.sha256(f"carepos test vectors|{name}".encode()).digest()


TILL, LEDGER, STRANGER = (seed(name) for name in ("terminal", "ledger", "stranger"))
# In the order of their ids, so that outcomes list them as they stand here.
A, B, C = sorted(b64(seed(f"voucher {number}")[:16]) for number in (1, 2, 3))
BENEFICIARY = second.beneficiary_ref(seed("beneficiary secret"), "shop-a", "https://i.example", "s")
SALE, VOID, SECOND_SALE, REFUND = (make_id(MS + n * 1000, BUCKET, n) for n in (2, 3, 4, 5))


def key(of: bytes) -> Json:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(second.public(of))}
    return {"seed": of.hex(), "jwk": jwk, "kid": second.thumbprint(second.public(of))}


def entry(line: int, voucher: str, quantity: int, programme: int, own: int = 0) -> Json:
    return {
        "line": line,
        "voucher": voucher,
        "quantity": quantity,
        "programme_minor": programme,
        "beneficiary_minor": own,
    }


def goods(quantity: int, amount: int, unit: str = "piece") -> Json:
    product = MILK if unit == "piece" else RICE
    return {"key": product, "quantity": quantity, "unit": unit, "line_amount_minor": amount}


def back(**lines: int) -> list[Json]:
    """`back(l1=2)`: two of line 1."""
    return [{"line": int(name[1:]), "quantity": quantity} for name, quantity in lines.items()]


def record(kind: str, id_: str, sequence: int, prev: str, content: Json) -> Json:
    return {
        "v": 1,
        "kind": kind,
        "id": id_,
        "terminal": TERMINAL,
        "incarnation": INCARNATION,
        "sequence": sequence,
        "prev": prev,
        "occurred_at": f"2026-11-22T08:30:{sequence:02}.000Z",
        "content": content,
    }


# the chain

FIRST_BASKET = [goods(1, 6490), goods(1234, 987, "g")]
FIRST_ALLOCATION = [entry(1, A, 0, 6000), entry(2, B, 777, 621)]
SECOND_BASKET = [goods(3, 1999), goods(1000, 850, "g")]
SECOND_ALLOCATION = [entry(1, A, 0, 1999), entry(2, B, 1000, 800, 50)]
# Of the money 1332.66… and 533.6 are kept, of the own part 33.35: each rounded down.
PARTS = [entry(1, A, 0, 667), entry(2, B, 333, 267, 17)]


def redeem(checkout: str, basket: list[Json], allocation: list[Json]) -> Json:
    return {
        "checkout": checkout,
        "cashier": "c01",
        "presentment": "online",
        "programme": "flood-dairy",
        "rules_version": 1,
        "currency": "CNY",
        "beneficiary": BENEFICIARY,
        "token_sha256": second.digest(b"a token"),
        "basket": basket,
        "allocation": allocation,
    }


def void_content(sale: str, **changes: Any) -> Json:
    return {
        "original": {"terminal": TERMINAL, "id": SALE},
        "record_sha256": sale,
        "cashier": "c01",
        "approved_by": "c02",
        "reason": "wrong_goods",
        **changes,
    }


def refund_content(sale: str, **changes: Any) -> Json:
    return {
        "original": {"terminal": TERMINAL, "id": SECOND_SALE},
        "record_sha256": sale,
        "cashier": "c01",
        "approved_by": None,
        "reason": "returned",
        "currency": "CNY",
        "lines": back(l1=1, l2=333),
        "parts": PARTS,
        **changes,
    }


def chain() -> list[Json]:
    own = make_id(MS, second.terminal_bucket(TERMINAL), 1)
    made: list[Json] = []

    def say(name: str, kind: str, id_: str, content: Json) -> None:
        prev = made[-1]["digest"] if made else second.first_prev(INCARNATION)
        whole = record(kind, id_, len(made) + 1, prev, content)
        undo = kind in second_undo.CONTENT
        judge = second_undo.judge_undo if undo else second.judge_record
        assert judge(whole) is None, name
        jws = sign(jcs(whole), RECORD, TILL)
        case = {"name": name, "record": whole, "payload": jcs(whole).decode(), "jws": jws,
                "digest": jws_digest(jws)}  # fmt: skip
        if kind != "start":
            case["content_sha256"] = (second_undo if undo else second).content_sha256(whole)
        made.append(case)

    say("start", "start", own, {"software": "carepos 0.1.0"})
    say("a sale", "redeem", SALE, redeem("S1-000123", FIRST_BASKET, FIRST_ALLOCATION))
    say("its void", "void", VOID, void_content(made[-1]["digest"]))
    say("the next sale", "redeem", SECOND_SALE, redeem("S1-000124", SECOND_BASKET, SECOND_ALLOCATION))  # fmt: skip
    say("its refund", "refund", REFUND, refund_content(made[-1]["digest"]))
    return made


def change(whole: Json, changes: Changes) -> Json:
    """A copy of `whole` with the values at these paths set, or with `...` taken away."""
    changed = deepcopy(whole)
    for path, value in changes:
        *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
        target: Any = changed
        for part in way:
            target = target[part]
        if value is ...:
            del target[last]
        elif isinstance(target, list) and last == len(target):
            target.append(value)
        else:
            target[last] = value
    return changed


# records that are none, and the edges of those that are

VOUCHERS = [b64(seed(f"many {number}")[:16]) for number in range(21)]
FORTY = [{"line": number, "quantity": 1} for number in range(1, 41)]
EIGHTY = [entry(number, each, 0, 1) for number in range(1, 41) for each in VOUCHERS[:2]]
OTHER_BUCKET = make_id(MS, BUCKET ^ 1, 9)
PAPER = [True, "1", None, 1.0, -1]  # none of them is a quantity or an amount


def malformed(void: Json, refund: Json) -> Iterator[tuple[str, Json, Changes, str]]:
    c, later = "content.", "unsupported_kind"
    for kind, base in (("void", void), ("refund", refund)):
        for name in base["content"]:
            yield f"{kind} without {name}", base, [(c + name, ...)], later
        yield f"{kind} with a name more", base, [(c + "note", 1)], later
        yield f"{kind} with an empty content", base, [("content", {})], later
        yield f"{kind} with the content of a start", base, [("content", {"software": "x"})], later
        whats: dict[str, Changes] = {
            "content null": [("content", None)],
            "content a list": [("content", [])],
            "a name more beside the content": [("note", 1)],
            "a content of a later version and v 2": [(c + "note", 1), ("v", 2)],
            "id of version 7": [("id", REFUND[:14] + "7" + REFUND[15:])],
            "id in another bucket than the sale's": [("id", OTHER_BUCKET)],
            "sale's id in another bucket": [(c + "original.id", OTHER_BUCKET)],
            "itself as original": [(c + "original.id", base["id"])],
            "original null": [(c + "original", None)],
            "original a text": [(c + "original", SALE)],
            "original without a terminal": [(c + "original.terminal", ...)],
            "original without an id": [(c + "original.id", ...)],
            "original with more": [(c + "original.sequence", 2)],
            "original's terminal in capitals": [(c + "original.terminal", TERMINAL.upper())],
            "original's terminal null": [(c + "original.terminal", None)],
            "original's id in capitals": [(c + "original.id", SALE.upper())],
            "original's id null": [(c + "original.id", None)],
            "original's id of version 7": [(c + "original.id", SALE[:14] + "7" + SALE[15:])],
            "digest of 42 characters": [(c + "record_sha256", "A" * 42)],
            "digest null": [(c + "record_sha256", None)],
            "digest in hex": [(c + "record_sha256", "0" * 64)],
            "cashier null": [(c + "cashier", None)],
            "cashier empty": [(c + "cashier", "")],
            "cashier's name": [(c + "cashier", "Zhou Min")],
            "approved_by empty": [(c + "approved_by", "")],
            "approved_by a list": [(c + "approved_by", ["c02"])],
            "approved_by of 41 characters": [(c + "approved_by", "c" * 41)],
            "reason unknown": [(c + "reason", "theft")],
            "reason null": [(c + "reason", None)],
            "reason empty": [(c + "reason", "")],
            "reason a list": [(c + "reason", ["other"])],
            "reason of a reversal": [(c + "reason", "cancelled")],
        }
        for what, changes in whats.items():
            yield f"{kind}: {what}", base, changes, "malformed"
    yield "void of another till's sale", void, [(c + "original.terminal", OTHER_TILL)], "malformed"
    yield "void with a refund's reason", void, [(c + "reason", "returned")], "malformed"
    yield "refund with a void's reason", refund, [(c + "reason", "wrong_goods")], "malformed"
    yield ("refund of another till's sale with its own id", refund,
           [(c + "original", {"terminal": OTHER_TILL, "id": REFUND})], "malformed")  # fmt: skip
    yield "void with the content of a refund", void, [("content", refund["content"])], later
    yield "refund with the content of a void", refund, [("content", void["content"])], later
    two = [{"line": 1, "quantity": 1}, {"line": 1, "quantity": 1}]
    of_refund: dict[str, Changes] = {
        "currency in small letters": [(c + "currency", "cny")],
        "currency null": [(c + "currency", None)],
        "currency empty": [(c + "currency", "")],
        "no lines": [(c + "lines", [])],
        "lines null": [(c + "lines", None)],
        "lines an object": [(c + "lines", {"1": 1})],
        "lines that are numbers": [(c + "lines", [1, 2])],
        "lines out of order": [(c + "lines", refund["content"]["lines"][::-1])],
        "a line twice": [(c + "lines.1", two[0]), (c + "parts", PARTS[:1])],
        "a line twice in one": [(c + "lines", two), (c + "parts", PARTS[:1])],
        "41 lines": [(c + "lines", [*FORTY, {"line": 41, "quantity": 1}])],
        "line 0": [(c + "lines.0.line", 0), (c + "parts", PARTS[1:])],
        "line 41": [(c + "lines.1.line", 41), (c + "parts", PARTS[:1])],
        "line true": [(c + "lines.0.line", True)],
        "line as text": [(c + "lines.0.line", "1")],
        "line without its quantity": [(c + "lines.0.quantity", ...)],
        "line without its number": [(c + "lines.0.line", ...)],
        "line with a unit": [(c + "lines.0.unit", "piece")],
        "quantity 0 of a line": [(c + "lines.0.quantity", 0)],
        **{f"quantity {json.dumps(bad)} of a line": [(c + "lines.0.quantity", bad)] for bad in PAPER},
        "quantity of a line above 10^9": [(c + "lines.0.quantity", 10**9 + 1)],
        "no parts": [(c + "parts", [])],
        "parts null": [(c + "parts", None)],
        "parts an object": [(c + "parts", PARTS[0])],
        "81 parts": [(c + "lines", FORTY), (c + "parts", [*EIGHTY, entry(40, VOUCHERS[2], 0, 1)])],
        "21 vouchers": [(c + "parts", [entry(1, each, 0, 1) for each in VOUCHERS])],
        "parts out of order": [(c + "parts", PARTS[::-1])],
        "a voucher twice on a line": [(c + "parts", [PARTS[0], PARTS[0], PARTS[1]])],
        "a part of a line that does not come back": [(c + "lines", back(l1=1))],
        "a part of line 3, and two come back": [(c + "parts.1.line", 3)],
        "a part of line 0": [(c + "parts.0.line", 0)],
        "a part of line 41": [(c + "parts.1.line", 41)],
        "a part of line true": [(c + "parts.0.line", True)],
        "a part that moves nothing": [(c + "parts.0.programme_minor", 0)],
        "a part with more": [(c + "parts.0.note", 1)],
        "a part with a unit": [(c + "parts.1.unit", "g")],
        **{f"a part without {name}": [(c + f"parts.1.{name}", ...)] for name in PARTS[0]},
        "a part's voucher of 21 characters": [(c + "parts.0.voucher", "A" * 21)],
        "a part's voucher null": [(c + "parts.0.voucher", None)],
        **{f"{name} {json.dumps(bad)}": [(c + f"parts.1.{name}", bad)]
           for name in ("quantity", "programme_minor", "beneficiary_minor") for bad in PAPER},
        "a part's quantity above 10^9": [(c + "parts.1.quantity", 10**9 + 1)],
        "programme_minor above 10^12": [(c + "parts.1.programme_minor", 10**12 + 1)],
        "beneficiary_minor above 10^12": [(c + "parts.1.beneficiary_minor", 10**12 + 1)],
        "parts above 10^12 in all": [(c + "parts.0.programme_minor", 10**12)],
    }  # fmt: skip
    for what, changes in of_refund.items():
        yield f"refund: {what}", refund, changes, "malformed"


def good(void: Json, refund: Json) -> Iterator[tuple[str, Json, Changes]]:
    c = "content."
    for reason in ("wrong_goods", "wrong_holder", "changed_mind", "goods_kept", "other"):
        yield f"void: {reason}", void, [(c + "reason", reason)]
    for reason in ("returned", "faulty", "overcharged", "other"):
        yield f"refund: {reason}", refund, [(c + "reason", reason)]
    for kind, base in (("void", void), ("refund", refund)):
        yield f"{kind}: nobody else was asked", base, [(c + "approved_by", None)]
        yield f"{kind}: the cashier approved it too", base, [(c + "approved_by", "c01")]
        yield f"{kind}: labels of forty", base, [(c + "cashier", "." * 40), (c + "approved_by", "-" * 40)]  # fmt: skip
        yield f"{kind}: before the sale, by a clock set back", base, [("occurred_at", "2026-11-22T08:00:00.000Z")]  # fmt: skip
    yield "refund of another till's sale", refund, [(c + "original.terminal", OTHER_TILL)]
    yield "refund in yen", refund, [(c + "currency", "JPY")]
    yield "40 lines, 80 parts", refund, [(c + "lines", FORTY), (c + "parts", EIGHTY)]
    yield "20 vouchers on one line", refund, [(c + "parts", [entry(1, each, 0, 1) for each in VOUCHERS[:20]])]  # fmt: skip
    yield "vouchers of a line in the order of the sale, not of their ids", refund, [
        (c + "parts", [entry(1, B, 0, 1), entry(1, A, 0, 1)])]  # fmt: skip
    yield "a line of which nothing goes to a voucher", refund, [(c + "parts", PARTS[:1])]
    yield "a part that is a quantity alone", refund, [
        (c + "parts.1.programme_minor", 0), (c + "parts.1.beneficiary_minor", 0)]  # fmt: skip
    yield "a part that is the beneficiary's alone", refund, [(c + "parts.1", entry(2, B, 0, 0, 1))]
    yield "the largest numbers", refund, [
        (c + "lines.1", {"line": 40, "quantity": 10**9}),
        (c + "parts", [entry(40, B, 10**9, 10**12, 10**12)])]  # fmt: skip


def written(base: Json, changes: Changes) -> tuple[Json, str]:
    """The changed record, and its text: as short as what was signed may have to be."""
    whole = change(base, changes)
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    assert len(text.encode()) <= 12_000, "too long for a payload: another fault than the one meant"
    return whole, text


def judged(text: str) -> str | None:
    try:
        return second_undo.judge_undo(second.parse(text.encode()))
    except second.Refused as refused:
        return refused.code


# what the contents mean

MEANS: list[tuple[str, str, str, Any, bool]] = [
    ("void by another cashier", "void", "content.cashier", "c09", True),
    ("void that another approved", "void", "content.approved_by", None, True),
    ("void for another reason", "void", "content.reason", "other", True),
    ("void at another time", "void", "occurred_at", "2026-11-23T00:00:00.000Z", True),
    ("void under another id", "void", "id", make_id(MS, BUCKET, 8), True),
    ("void of another digest", "void", "content.record_sha256", "A" * 43, True),
    ("void of another sale", "void", "content.original.id", make_id(MS, BUCKET, 8), False),
    ("refund by another cashier", "refund", "content.cashier", "c09", True),
    ("refund that another approved", "refund", "content.approved_by", "c02", True),
    ("refund for another reason", "refund", "content.reason", "faulty", True),
    ("refund at another time", "refund", "occurred_at", "2026-11-23T00:00:00.000Z", True),
    ("refund under another id", "refund", "id", make_id(MS, BUCKET, 8), True),
    ("refund of another digest", "refund", "content.record_sha256", "A" * 43, True),
    ("refund of another sale", "refund", "content.original.id", make_id(MS, BUCKET, 8), False),
    ("refund of another till's sale", "refund", "content.original.terminal", OTHER_TILL, False),
    ("refund from another till", "refund", "terminal", OTHER_TILL, False),
    ("refund in another currency", "refund", "content.currency", "JPY", False),
    ("refund of more", "refund", "content.lines.0.quantity", 2, False),
    ("refund of a line more", "refund", "content.lines.2", {"line": 3, "quantity": 1}, False),
    ("refund of another sum", "refund", "content.parts.0.programme_minor", 666, False),
    ("refund to another voucher", "refund", "content.parts.0.voucher", C, False),
    ("refund of another own part", "refund", "content.parts.1.beneficiary_minor", 16, False),
]


def contents(bases: Mapping[str, Json]) -> list[Json]:
    made = []
    for name, of, path, value, same in MEANS:
        whole = change(bases[of], [(path, value)])
        assert second_undo.judge_undo(whole) is None, name
        got = second_undo.content_sha256(whole)
        assert (got == second_undo.content_sha256(bases[of])) is same, name
        made.append({"name": name, "of": of, "path": path, "value": value, "content_sha256": got,
                     "same": same})  # fmt: skip
    assert len({*map(second_undo.content_sha256, bases.values())}) == 2
    return made


# outcomes


def booked(voucher: str, amount: int, quantity: int, unit: str | None, left: int) -> Json:
    return {"voucher": voucher, "amount_minor": amount, "quantity": quantity, "unit": unit,
            "from_allotment_minor": 0, "from_allotment_quantity": 0,
            "available_minor": left if unit is None else 0,
            "available_quantity": 0 if unit is None else left}  # fmt: skip


def outcomes(made: Mapping[str, Json]) -> tuple[list[Json], list[Json]]:
    """What a till may believe about these records, and apart what is held."""

    def head(of: Json, result: str, **more: Any) -> Json:
        told = of["record"]
        return {"v": 1, "result": result, "kind": told["kind"], "id": told["id"],
                "terminal": told["terminal"], "record_sha256": of["digest"],
                "recorded_at": "2026-11-22T08:31:00.000Z", "epoch": 1, **more}  # fmt: skip

    void, refund, yen = made["void"], made["refund"], made["refund in yen"]
    all_back: Json = {"currency": "CNY", "amount_minor": 6621,
                "vouchers": [booked(A, 6000, 0, None, 18000), booked(B, 621, 777, "g", 2000)]}  # fmt: skip
    piece = [booked(A, 667, 0, None, 16668), booked(B, 267, 333, "g", 1333)]
    part_back: Json = {"currency": "CNY", "amount_minor": 934, "vouchers": piece}
    nothing: Json = {"currency": None, "amount_minor": 0, "vouchers": []}
    voided, refunded = head(void, "posted", **all_back), head(refund, "posted", **part_back)

    def other(index: int, **changes: Any) -> Json:
        vouchers = [{**each, **changes} if n == index else each for n, each in enumerate(piece)]
        return {**refunded, "vouchers": vouchers,
                "amount_minor": sum(each["amount_minor"] for each in vouchers)}  # fmt: skip

    def refused(of: Json, code: Any, at: int | str | None = None) -> Json:
        return head(of, "refused", refusal={"code": code, "at": at})

    rows: list[tuple[str, str, Json, str]] = [
        ("void posted", "void", voided, "posted"),
        ("void posted in another currency", "void", {**voided, "currency": "JPY"}, "unknown"),
        ("void posted in no currency", "void", {**voided, "currency": None}, "unknown"),
        ("void posted, and nothing went back", "void", head(void, "posted", **nothing), "unknown"),
        ("void posted whose sum is not its vouchers'", "void", {**voided, "amount_minor": 6620}, "unknown"),
        ("void posted with a voucher twice", "void",
         {**voided, "amount_minor": 12000, "vouchers": [all_back["vouchers"][0]] * 2}, "unknown"),
        ("void posted as a start is", "void", head(void, "posted"), "unknown"),
        ("void answered as a reversal", "void", {**voided, "result": "reversed"}, "unknown"),
        ("void answered, nothing reversed", "void", head(void, "reversed", **nothing), "unknown"),
        ("void not found and yet bound", "void", head(void, "not_found"), "unknown"),
        ("void posted short", "void", {**voided, "result": "posted_short", "shortfall_minor": 1,
                                       "liability": "programme"}, "unknown"),
        ("void an exception", "void",
         head(void, "exception", refusal={"code": "void_too_late", "at": None}, liability="merchant"), "unknown"),
        ("void posted for the refund's digest", "void", {**voided, "record_sha256": refund["digest"]}, "unknown"),
        ("void posted under the sale's id", "void", {**voided, "id": SALE}, "unknown"),
        ("void posted for another till", "void", {**voided, "terminal": OTHER_TILL}, "unknown"),
        ("void posted as a refund", "void", {**voided, "kind": "refund"}, "unknown"),
        ("void posted as a redeem", "void", {**voided, "kind": "redeem"}, "unknown"),
        ("void answered by what the refund got", "void", refunded, "unknown"),
        ("void posted with a name more", "void", {**voided, "note": 1}, "unknown"),
        ("void posted with amount true", "void",
         {**voided, "amount_minor": True, "vouchers": [booked(A, 1, 0, None, 1)]}, "unknown"),
        ("refund posted", "refund", refunded, "posted"),
        ("refund posted in another currency", "refund", {**refunded, "currency": "JPY"}, "unknown"),
        ("refund posted in no currency", "refund", {**refunded, "currency": None}, "unknown"),
        ("refund posted, and nothing went back", "refund", head(refund, "posted", **nothing), "unknown"),
        ("refund that gave a voucher a minor unit less", "refund", other(0, amount_minor=666), "unknown"),
        ("refund that gave a voucher a minor unit more", "refund", other(1, amount_minor=268), "unknown"),
        ("refund that gave another voucher", "refund", other(1, voucher=C), "unknown"),
        ("refund that moved money between the vouchers", "refund",
         {**refunded, "vouchers": [{**piece[0], "amount_minor": 668}, {**piece[1], "amount_minor": 266}]}, "unknown"),
        ("refund that gave no quantity", "refund", other(1, quantity=0), "unknown"),
        ("refund that gave another quantity", "refund", other(1, quantity=334), "unknown"),
        ("refund that gave a value voucher a quantity", "refund", other(0, quantity=1, unit="piece"), "unknown"),
        ("refund that left a voucher out", "refund",
         {**refunded, "amount_minor": 667, "vouchers": piece[:1]}, "unknown"),
        ("refund that gave one voucher more", "refund",
         {**refunded, "amount_minor": 935, "vouchers": [*piece, booked("z" * 22, 1, 0, None, 1)]}, "unknown"),
        ("refund that names a voucher it gave nothing", "refund",
         {**refunded, "vouchers": [*piece, booked("z" * 22, 0, 0, None, 1)]}, "unknown"),
        ("refund that gave a voucher twice", "refund",
         {**refunded, "amount_minor": 1601, "vouchers": [piece[0], *piece]}, "unknown"),
        ("refund whose sum is not its vouchers'", "refund", {**refunded, "amount_minor": 951}, "unknown"),
        ("refund in yen of a sale in yuan", "refund in yen", head(yen, "posted", **{**part_back, "currency": "JPY"}), "unknown"),
        ("refund in yen, posted in yuan", "refund in yen", head(yen, "posted", **part_back), "unknown"),
        ("refund posted for another record", "refund", {**refunded, "record_sha256": void["digest"]}, "unknown"),
        ("refund posted as a void", "refund", {**refunded, "kind": "void"}, "unknown"),
        ("refund answered as a reversal", "refund", {**refunded, "result": "reversed"}, "unknown"),
        *((f"{kind} refused: {code}", kind, refused(made[kind], code, at), "refused") for kind, code, at in (
            ("void", "original_unknown", None), ("void", "original_not_booked", None),
            ("void", "already_undone", None), ("void", "void_too_late", None),
            ("void", "id_content_mismatch", None), ("refund", "original_unknown", None),
            ("refund", "original_not_booked", None), ("refund", "already_undone", None),
            ("refund", "refund_not_allowed", None), ("refund", "refund_too_late", None),
            ("refund", "refund_exceeds", 2), ("refund", "refund_exceeds", None),
            ("refund", "refund_not_whole", 1), ("refund", "proposal_changed", None),
            ("refund", "id_content_mismatch", None))),
        ("void refused with a problem's code", "void", refused(void, "malformed"), "unknown"),
        ("void refused as sequence_gap", "void", refused(void, "sequence_gap"), "unknown"),
        ("void refused with a code that nobody knows", "void", refused(void, "no_mood"), "unknown"),
        ("refund refused without a refusal", "refund", head(refund, "refused"), "unknown"),
        ("refund refused and with money", "refund", {**refused(refund, "refund_too_late"), **part_back}, "unknown"),
    ]  # fmt: skip
    held: list[tuple[str, str, Json, str]] = [
        *((f"{kind} held: {reason}", kind, head(made[kind], "held", reason=reason), "held")
          for kind in ("void", "refund")
          for reason in ("terminal_suspended", "terminal_revoked", "terminal_forked", "token", "malformed")),
        ("void held for no reason", "void", head(void, "held"), "unknown"),
        ("void held for a reason that nobody knows", "void", head(void, "held", reason="mood"), "unknown"),
        ("void held with money", "void", head(void, "held", reason="token", **nothing), "unknown"),
    ]  # fmt: skip

    def case(name: str, of: str, payload: Json, result: str, by: bytes = LEDGER, typ: str = OUTCOME) -> Json:  # fmt: skip
        jws = sign(jcs(payload), typ, by)
        sale = second.parse(second.unb64(made[of]["sale"].split(".")[1]))
        got = second_undo.read_undone(jws, made[of]["jws"], sale, [second.public(LEDGER)])
        assert got == result, (name, got)
        return {"name": name, "of": of, "outcome": jws, "result": result}

    cases = [case(*row) for row in rows]
    for kind, payload in (("void", voided), ("refund", refunded)):
        cases += [
            case(f"{kind} posted by a stranger", kind, payload, "unknown", by=STRANGER),
            case(f"{kind} posted by the till itself", kind, payload, "unknown", by=TILL),
            case(f"{kind} posted, typ of a record", kind, payload, "unknown", typ=RECORD),
        ]
    return cases, [case(*row) for row in held]


# what goes back

Sale = tuple[list[Json], list[Json]]
Step = tuple[list[Json], list[Json]]


def grams(quantity: int, amount: int) -> Json:
    return goods(quantity, amount, "g")


def one(n: int, *entries: Json, amount: int = 10**6, unit: str = "piece") -> Sale:
    """A sale of one line of n."""
    return [goods(n, amount, unit)], list(entries)


def series(*steps: tuple[int, list[Json]]) -> list[Step]:
    """Refunds of line 1, one after the other."""
    return [(back(l1=quantity), parts) for quantity, parts in steps]


def value(*amounts: int) -> Iterator[list[Json]]:
    return ([entry(1, A, 0, amount)] if amount else [] for amount in amounts)


def returned() -> list[tuple[str, Sale, list[Step]]]:
    e = entry
    third = one(3, e(1, A, 0, 100))
    items = one(3, e(1, A, 3, 1000))
    two_items = one(5, e(1, A, 2, 200), e(1, B, 3, 270, 30))
    lines: Sale = (
        [goods(2, 300), goods(3, 100)],
        [e(1, A, 2, 201), e(1, B, 0, 99), e(2, A, 1, 10), e(2, B, 0, 66)],
    )
    last: Sale = ([goods(1, 300), goods(2, 300)], [e(1, A, 0, 100), e(2, A, 0, 200)])
    return [
        ("value: one of one", one(1, e(1, A, 0, 100)), series((1, [e(1, A, 0, 100)]))),
        ("value: all three at once", third, series((3, [e(1, A, 0, 100)]))),
        ("value: three, one by one", third, series(*zip((1, 1, 1), value(34, 33, 33), strict=True))),
        ("value: two, then one", third, series(*zip((2, 1), value(67, 33), strict=True))),
        ("value: one, then two", third, series(*zip((1, 2), value(34, 66), strict=True))),
        ("value: seven, one by one", one(7, e(1, A, 0, 100)),
         series(*zip((1,) * 7, value(15, 14, 14, 15, 14, 14, 14), strict=True))),
        ("value: three of seven, then four", one(7, e(1, A, 0, 100)), series(*zip((3, 4), value(43, 57), strict=True))),
        ("value: a minor unit on three pieces comes back with the first", one(3, e(1, A, 0, 1)),
         series(*zip((1, 1, 1), value(1, 0, 0), strict=True))),
        ("value: two minor units on three pieces", one(3, e(1, A, 0, 2)),
         series(*zip((1, 1, 1), value(1, 1, 0), strict=True))),
        ("value: half of the line was paid otherwise", one(2, e(1, A, 0, 150), amount=300),
         series(*zip((1, 1), value(75, 75), strict=True))),
        ("two value vouchers share a line", one(3, e(1, A, 0, 100), e(1, B, 0, 50)),
         series((1, [e(1, A, 0, 34), e(1, B, 0, 17)]), (1, [e(1, A, 0, 33), e(1, B, 0, 17)]),
                (1, [e(1, A, 0, 33), e(1, B, 0, 16)]))),
        ("in the order of the sale, not of the ids", one(2, e(1, B, 0, 100), e(1, A, 0, 50)),
         series((1, [e(1, B, 0, 50), e(1, A, 0, 25)]))),
        ("value in grams: one gram", one(1234, e(1, A, 0, 987), unit="g"), series((1, [e(1, A, 0, 1)]))),
        ("value in grams: a gram, a gram and the rest", one(1234, e(1, A, 0, 987), unit="g"),
         series(*zip((1, 1, 1232), value(1, 1, 985), strict=True))),
        ("value in grams: three parts", one(333, e(1, A, 0, 1000), unit="g"),
         series(*zip((100, 133, 100), value(301, 399, 300), strict=True))),
        ("value: one gram of a ton", one(10**9, e(1, A, 0, 1), unit="g"), series((1, [e(1, A, 0, 1)]))),
        ("the largest sum: one gram, then the rest", one(10**9, e(1, A, 0, 10**12), unit="g"),
         series(*zip((1, 10**9 - 1), value(1000, 10**12 - 1000), strict=True))),
        ("item: one of one", one(1, e(1, A, 1, 100)), series((1, [e(1, A, 1, 100)]))),
        ("item: all at once", items, series((3, [e(1, A, 3, 1000)]))),
        ("item: one by one", items, series((1, [e(1, A, 1, 334)]), (1, [e(1, A, 1, 333)]), (1, [e(1, A, 1, 333)]))),
        ("item: a minor unit for three pieces", one(3, e(1, A, 3, 1)),
         series((1, [e(1, A, 1, 1)]), (1, [e(1, A, 1, 0)]), (1, [e(1, A, 1, 0)]))),
        ("item: with an own part", one(2, e(1, A, 2, 200, 101)),
         series((1, [e(1, A, 1, 100, 51)]), (1, [e(1, A, 1, 100, 50)]))),
        ("item: only an own part", one(2, e(1, A, 2, 0, 5)), series((1, [e(1, A, 1, 0, 3)]), (1, [e(1, A, 1, 0, 2)]))),
        ("item: two of three pieces, one by one", one(3, e(1, A, 2, 200)),
         series((1, [e(1, A, 1, 100)]), (1, [e(1, A, 1, 100)]), (1, []))),
        ("item: one of three pieces comes back with the first", one(3, e(1, A, 1, 90)),
         series((1, [e(1, A, 1, 90)]), (2, []))),
        ("item in grams: part of a line", one(1234, e(1, A, 777, 621), unit="g"),
         series((457, [e(1, A, 288, 231)]), (777, [e(1, A, 489, 390)]))),
        ("item in grams: grams that do not divide", one(999, e(1, A, 500, 333), unit="g"),
         series((1, [e(1, A, 1, 1)]), (1, [e(1, A, 1, 1)]), (997, [e(1, A, 498, 331)]))),
        ("item in millilitres: half of it twice", one(500, e(1, A, 500, 333), unit="ml"),
         series((250, [e(1, A, 250, 167)]), (250, [e(1, A, 250, 166)]))),
        ("item: the largest numbers", one(10**9, e(1, A, 10**9, 10**12, 10**12), unit="g"),
         series((333_333_333, [e(1, A, 333_333_333, 333_333_333_000, 333_333_333_000)]),
                (666_666_667, [e(1, A, 666_666_667, 666_666_667_000, 666_666_667_000)]))),
        ("two items share a line: one piece back is one unit back, of the last", two_items,
         series((1, [e(1, B, 1, 90, 10)]), (4, [e(1, A, 2, 200), e(1, B, 2, 180, 20)]))),
        ("two items share a line: across both", two_items,
         series((4, [e(1, A, 1, 100), e(1, B, 3, 270, 30)]), (1, [e(1, A, 1, 100)]))),
        ("two items share part of a line", one(7, e(1, A, 2, 200), e(1, B, 3, 270)),
         series((2, [e(1, B, 2, 180)]), (2, [e(1, B, 1, 90)]), (1, [e(1, A, 1, 100)]), (2, [e(1, A, 1, 100)]))),
        ("two items share a line: all at once", two_items, series((5, [e(1, A, 2, 200), e(1, B, 3, 270, 30)]))),
        ("fixed price: portions of two", one(4, e(1, A, 4, 800, 200)),
         series((2, [e(1, A, 2, 400, 100)]), (2, [e(1, A, 2, 400, 100)]))),
        ("fixed price: neither part divides", one(3, e(1, A, 3, 1000, 301)),
         series((1, [e(1, A, 1, 334, 101)]), (1, [e(1, A, 1, 333, 100)]), (1, [e(1, A, 1, 333, 100)]))),
        ("fixed price: four of five pieces", one(5, e(1, A, 4, 400, 100)),
         series((2, [e(1, A, 2, 200, 50)]), (2, [e(1, A, 2, 200, 50)]), (1, []))),
        ("fixed price: two vouchers, a portion of two each", one(4, e(1, A, 2, 150, 50), e(1, B, 2, 160, 40)),
         series((2, [e(1, B, 2, 160, 40)]), (2, [e(1, A, 2, 150, 50)]))),
        ("fixed price in grams", one(1500, e(1, A, 1500, 1200, 600), unit="g"),
         series((500, [e(1, A, 500, 400, 200)]), (1000, [e(1, A, 1000, 800, 400)]))),
        ("mixed: an item and a value", one(3, e(1, A, 1, 100), e(1, B, 0, 150)),
         series((1, [e(1, A, 1, 100), e(1, B, 0, 50)]), (1, [e(1, B, 0, 50)]), (1, [e(1, B, 0, 50)]))),
        ("mixed: a fixed price and a value", one(4, e(1, A, 2, 150, 50), e(1, B, 0, 190)),
         series((2, [e(1, A, 1, 75, 25), e(1, B, 0, 95)]), (2, [e(1, A, 1, 75, 25), e(1, B, 0, 95)]))),
        ("mixed: two items and a value", one(4, e(1, A, 1, 100), e(1, B, 2, 150, 50), e(1, C, 0, 70)),
         series((1, [e(1, B, 1, 75, 25), e(1, C, 0, 18)]), (1, [e(1, B, 1, 75, 25), e(1, C, 0, 17)]),
                (1, [e(1, A, 1, 100), e(1, C, 0, 18)]), (1, [e(1, C, 0, 17)]))),
        ("mixed in grams: an item and a value", one(1000, e(1, A, 600, 480), e(1, B, 0, 200), unit="g"),
         series((500, [e(1, A, 300, 240), e(1, B, 0, 100)]), (500, [e(1, A, 300, 240), e(1, B, 0, 100)]))),
        ("one line of two", last, [(back(l2=1), [e(2, A, 0, 100)]), (back(l2=1), [e(2, A, 0, 100)])]),
        ("both lines at once, one voucher", last, [(back(l1=1, l2=2), [e(1, A, 0, 100), e(2, A, 0, 200)])]),
        ("a line that no voucher paid", ([goods(1, 100), goods(1, 300)], [e(1, A, 0, 100)]),
         [(back(l2=1), []), (back(l1=1), [e(1, A, 0, 100)])]),
        ("beside a line of which nothing moves", ([goods(3, 1), goods(2, 300)], [e(1, A, 0, 1), e(2, A, 0, 200)]),
         [(back(l1=1), [e(1, A, 0, 1)]), (back(l1=1, l2=1), [e(2, A, 0, 100)]), (back(l1=1, l2=1), [e(2, A, 0, 100)])]),
        ("two lines by turns", lines,
         [(back(l1=1), [e(1, A, 1, 101), e(1, B, 0, 50)]), (back(l2=2), [e(2, A, 1, 10), e(2, B, 0, 44)]),
          (back(l1=1, l2=1), [e(1, A, 1, 100), e(1, B, 0, 49), e(2, B, 0, 22)])]),
        ("two lines, the other way round", lines,
         [(back(l2=1), [e(2, A, 1, 10), e(2, B, 0, 22)]),
          (back(l1=1, l2=1), [e(1, A, 1, 101), e(1, B, 0, 50), e(2, B, 0, 22)]),
          (back(l1=1, l2=1), [e(1, A, 1, 100), e(1, B, 0, 49), e(2, B, 0, 22)])]),
        ("two lines at once", lines,
         [(back(l1=2, l2=3), [e(1, A, 2, 201), e(1, B, 0, 99), e(2, A, 1, 10), e(2, B, 0, 66)])]),
    ]  # fmt: skip


def parts_cases() -> list[Json]:
    cases = []
    for name, (basket, allocation), steps in returned():
        sale = {"basket": basket, "allocation": allocation}
        before: list[Json] = []
        moved: Counter[tuple[int, str, str]] = Counter()
        for lines, parts in steps:
            got = second_undo.parts(sale, before, lines)
            assert got == parts, (name, got)
            before += lines
            for part in parts:
                moved += Counter(dict(_amounts(part)))
        at_once = [
            {"line": n, "quantity": q} for n, q in sorted(second_undo.line_sums(before).items())
        ]
        whole = Counter(
            dict(each for part in second_undo.parts(sale, [], at_once) for each in _amounts(part))
        )
        assert moved == +whole, name  # as much piece by piece as at once
        cases.append({"name": name, "sale": sale, "refunds": [{"lines": lines, "parts": parts}
                                                              for lines, parts in steps]})  # fmt: skip
    return cases


def _amounts(part: Json) -> Iterator[tuple[tuple[int, str, str], int]]:
    for name in ("quantity", "programme_minor", "beneficiary_minor"):
        yield (part["line"], part["voucher"], name), part[name]


# whether it goes back

SOLD_AT, BOOKED_AT = "2026-11-22T08:30:04.000Z", "2026-11-22T08:30:06.000Z"
NOW, UNDO_WINDOW_S, WINDOW_S = "2026-11-22T08:40:00.000Z", 900, 86_400
# The first moments that are too late: by the till's own clock, by the ledger's, and for a refund.
TILL_LATE, LEDGER_LATE = "2026-11-22T08:45:04.000Z", "2026-11-22T08:45:06.000Z"
REFUND_LATE = "2026-11-23T08:30:06.000Z"
RULE = {"window_s": WINDOW_S, "grace_s": 0}
TERMS = {"unit": "piece", "cap_minor": 300, "fixed_minor": 50, "cap_quantity": 2}


def a_millisecond_before(moment: str) -> str:
    return f"{moment[:17]}{int(moment[17:19]) - 1:02}.999Z"


def programme(**changes: Any) -> Json:
    """The rules of it that void and refund look at."""
    rules = {"currency": "CNY", "undo_window_s": UNDO_WINDOW_S, "refunds": RULE, **changes}
    return {name: value for name, value in rules.items() if value is not ...}


# A value voucher, an item on part of a line, a fixed price by portions of two, and no voucher.
SOLD_BASKET = [goods(3, 999), goods(5, 500), goods(4, 600), goods(1, 100)]
SOLD_ALLOCATION = [entry(1, A, 0, 999), entry(2, B, 5, 500), entry(3, C, 4, 500, 100)]
ALL_BACK = back(l1=3, l2=5, l3=4)


def sold(**changes: Any) -> Json:
    return {
        "terminal": TERMINAL, "id": SECOND_SALE, "record_sha256": "S" * 43, "state": "posted",
        "occurred_at": SOLD_AT, "recorded_at": BOOKED_AT, "offline": False, "settled": False,
        "bytes_held": True, "basket": SOLD_BASKET, "allocation": SOLD_ALLOCATION, "undone": False,
        "refunded": [], **changes,
    }  # fmt: skip


def situation(sale: Json | None, now: str = NOW, **rules: Any) -> Json:
    return {
        "now": now, "programme": programme(**rules), "terminals": [TERMINAL, OTHER_TILL],
        "terms": {A: None, B: {**TERMS, "fixed_minor": 0}, C: TERMS}, "sale": sale,
    }  # fmt: skip


def ask_void(at: str = "2026-11-22T08:39:00.000Z", terminal: str = TERMINAL, **changes: Any) -> Json:  # fmt: skip
    original = {"terminal": terminal, "id": SECOND_SALE}
    return {"kind": "void", "terminal": terminal, "occurred_at": at,
            "content": void_content("S" * 43, original=original, **changes)}  # fmt: skip


def ask_refund(lines: list[Json], parts: list[Json], terminal: str = OTHER_TILL, **changes: Any) -> Json:  # fmt: skip
    return {"kind": "refund", "terminal": terminal, "occurred_at": "2026-11-22T08:39:00.000Z",
            "content": refund_content("S" * 43, lines=lines, parts=parts, **changes)}  # fmt: skip


def refusals() -> list[Json]:
    s, none = situation, ...
    piece = ask_refund(back(l1=1), [entry(1, A, 0, 333)])
    own = {**piece, "terminal": TERMINAL}
    whole = ask_refund(ALL_BACK, SOLD_ALLOCATION)
    unpaid = ask_refund(back(l4=1), [entry(4, A, 0, 1)])
    broken = ask_refund(back(l3=1), [entry(3, C, 1, 125, 25)])
    portion = ask_refund(back(l3=2), [entry(3, C, 2, 250, 50)])
    beyond = ask_refund(back(l1=4), [entry(1, A, 0, 999)])
    wrong = ask_refund(back(l1=1), [entry(1, A, 0, 334)])
    some, undone, offline = sold(refunded=back(l1=1)), sold(undone=True), sold(offline=True)
    rows: list[tuple[str, Json, Json, str | None]] = [
        ("void posted", s(sold()), ask_void(), None),
        ("void in its last millisecond by the till's clock", s(sold()), ask_void(a_millisecond_before(TILL_LATE)), None),
        ("void in its last millisecond by the ledger's clock", s(sold(), a_millisecond_before(LEDGER_LATE)), ask_void(), None),
        ("void before the sale, by a clock set back", s(sold()), ask_void("2026-11-21T08:30:00.000Z"), None),
        ("void for a programme that takes no refunds", s(sold(), refunds=none), ask_void(), None),
        ("void of an offline sale, long after at the ledger", s(offline, "2026-12-22T08:40:00.000Z"), ask_void(), None),
        ("void of an offline sale that was settled", s(sold(offline=True, settled=True)), ask_void(), None),
        ("void of an attempt that nobody knows", s(None), ask_void(), "original_unknown"),
        ("void of another digest", s(sold()), ask_void(record_sha256="T" * 43), "original_unknown"),
        ("void by the merchant's other till, of an id that it never had", s(sold()), ask_void(terminal=OTHER_TILL),
         "original_unknown"),
        ("void of a sale that was refused", s(sold(state="refused")), ask_void(), "original_not_booked"),
        ("void of a sale that was reversed", s(sold(state="reversed")), ask_void(), "original_not_booked"),
        ("void of an offline sale that was not booked", s(sold(state="exception")), ask_void(), "original_not_booked"),
        ("void twice", s(undone), ask_void(), "already_undone"),
        ("void after all was refunded", s(sold(refunded=ALL_BACK)), ask_void(), "already_undone"),
        ("void after a part was refunded", s(some), ask_void(), "already_undone"),
        ("void too late by the till's clock", s(sold()), ask_void(TILL_LATE), "void_too_late"),
        ("void too late by the ledger's clock", s(sold(), LEDGER_LATE), ask_void(), "void_too_late"),
        ("void of an offline sale too late by the till's clock", s(offline), ask_void(TILL_LATE), "void_too_late"),
        ("void in a programme whose window is 0", s(sold(), undo_window_s=0), ask_void(), "void_too_late"),
        ("void after the settlement", s(sold(settled=True)), ask_void(), "void_too_late"),
        ("void by a clock set back, too late by the ledger's", s(sold(), LEDGER_LATE), ask_void("2026-11-21T08:30:00.000Z"),
         "void_too_late"),
        ("refund posted", s(sold()), piece, None),
        ("refund of all of it", s(sold()), whole, None),
        ("refund of a whole portion", s(sold()), portion, None),
        ("refund from the till that sold", s(sold()), own, None),
        ("refund in its last millisecond", s(sold(), a_millisecond_before(REFUND_LATE)), piece, None),
        ("refund after the settlement", s(sold(settled=True)), piece, None),
        ("refund after the void's window", s(sold(), LEDGER_LATE), piece, None),
        ("refund of an offline sale", s(offline), piece, None),
        ("refund of the next piece", s(some), piece, None),
        ("refund of the last of it", s(sold(refunded=back(l1=3, l2=5, l3=2))), portion, None),
        ("refund with a line that no voucher paid", s(sold()),
         ask_refund(back(l1=1, l4=1), [entry(1, A, 0, 333)]), None),
        ("refund of an attempt that nobody knows", s(None), piece, "original_unknown"),
        ("refund of another digest", s(sold()), ask_refund(back(l1=1), [entry(1, A, 0, 333)], record_sha256="T" * 43),
         "original_unknown"),
        ("refund of another id", s(sold()), ask_refund(
            back(l1=1), [entry(1, A, 0, 333)], original={"terminal": TERMINAL, "id": SALE}), "original_unknown"),
        ("refund of an id of another of the merchant's tills", s(sold()), ask_refund(
            back(l1=1), [entry(1, A, 0, 333)], original={"terminal": OTHER_TILL, "id": SECOND_SALE}), "original_unknown"),
        ("refund of another merchant's sale", {**s(sold()), "terminals": [OTHER_TILL]}, piece, "original_unknown"),
        ("refund of a sale that was refused", s(sold(state="refused")), own, "original_not_booked"),
        ("refund of a sale that was reversed", s(sold(state="reversed")), own, "original_not_booked"),
        ("refund of a sale that was voided", s(undone), piece, "already_undone"),
        ("refund after all came back", s(sold(refunded=ALL_BACK)), piece, "already_undone"),
        ("refund of what no voucher paid, after all else came back", s(sold(refunded=ALL_BACK)), unpaid, "already_undone"),
        ("refund of pieces whose money came back with the first",
         s(sold(basket=[goods(3, 1)], allocation=[entry(1, A, 0, 1)], refunded=back(l1=1))),
         ask_refund(back(l1=1), [entry(1, A, 0, 1)]), "already_undone"),
        ("refund in a programme that takes none", s(sold(), refunds=none), piece, "refund_not_allowed"),
        ("refund too late", s(sold(), REFUND_LATE), piece, "refund_too_late"),
        ("refund in a programme whose window is 0", s(sold(), refunds={"window_s": 0, "grace_s": 0}), piece,
         "refund_too_late"),
        ("refund of a sale whose bytes are gone", s(sold(bytes_held=False)), piece, "refund_too_late"),
        ("refund of a line that the sale has not", s(sold()), ask_refund(back(l1=1, l5=1), [entry(1, A, 0, 333)]),
         "refund_exceeds"),
        ("refund of more than the line", s(sold()), beyond, "refund_exceeds"),
        ("refund of more than is left", s(some), ask_refund(back(l1=3), [entry(1, A, 0, 999)]), "refund_exceeds"),
        ("refund of a line that is back, and another", s(sold(refunded=back(l1=3))),
         ask_refund(back(l1=1, l2=1), [entry(2, B, 1, 100)]), "refund_exceeds"),
        ("refund that moves nothing: no voucher paid the line", s(sold()), unpaid, "refund_exceeds"),
        ("refund that moves nothing: the money came back with the first piece",
         s(sold(basket=[goods(3, 1), goods(1, 1)], allocation=[entry(1, A, 0, 1), entry(2, A, 0, 1)],
                refunded=back(l1=1))), ask_refund(back(l1=1), [entry(1, A, 0, 1)]), "refund_exceeds"),
        ("refund of half a portion", s(sold()), broken, "refund_not_whole"),
        ("refund of a portion and a half", s(sold()), ask_refund(back(l3=3), [entry(3, C, 3, 375, 75)]), "refund_not_whole"),
        ("refund of half a portion beside a piece", s(sold()),
         ask_refund(back(l1=1, l3=1), [entry(1, A, 0, 333), entry(3, C, 1, 125, 25)]), "refund_not_whole"),
        ("refund of a minor unit more", s(sold()), wrong, "proposal_changed"),
        ("refund of a minor unit less", s(sold()), ask_refund(back(l1=1), [entry(1, A, 0, 332)]), "proposal_changed"),
        ("refund to another voucher", s(sold()), ask_refund(back(l1=1), [entry(1, B, 0, 333)]), "proposal_changed"),
        ("refund of another quantity", s(sold()), ask_refund(back(l2=1), [entry(2, B, 2, 100)]), "proposal_changed"),
        ("refund without the own part", s(sold()), ask_refund(back(l3=2), [entry(3, C, 2, 250)]), "proposal_changed"),
        ("refund of the own part to the voucher", s(sold()), ask_refund(back(l3=2), [entry(3, C, 2, 300)]),
         "proposal_changed"),
        ("refund that leaves a part out", s(sold()), ask_refund(back(l1=1, l2=1), [entry(1, A, 0, 333)]),
         "proposal_changed"),
        ("refund in another currency", s(sold()), ask_refund(back(l1=1), [entry(1, A, 0, 333)], currency="JPY"),
         "proposal_changed"),
        ("refund with the vouchers of a line in another order",
         s(sold(basket=[goods(2, 200)], allocation=[entry(1, B, 0, 100), entry(1, A, 0, 100)])),
         ask_refund(back(l1=1), [entry(1, A, 0, 50), entry(1, B, 0, 50)]), "proposal_changed"),
        ("both: void, another digest of a refused sale", s(sold(state="refused")), ask_void(record_sha256="T" * 43),
         "original_unknown"),
        ("both: void, refused and too late", s(sold(state="refused"), LEDGER_LATE), ask_void(TILL_LATE),
         "original_not_booked"),
        ("both: void, done and settled", s(sold(undone=True, settled=True), LEDGER_LATE), ask_void(), "already_undone"),
        ("both: void, a part refunded and too late", s(some, LEDGER_LATE), ask_void(TILL_LATE), "already_undone"),
        ("both: refund, reversed and no refunds taken", s(sold(state="reversed"), refunds=none), own,
         "original_not_booked"),
        ("both: refund, voided and no refunds taken", s(undone, refunds=none), piece, "already_undone"),
        ("both: refund, voided and too late", s(undone, REFUND_LATE), piece, "already_undone"),
        ("both: refund, no refunds taken and bytes gone", s(sold(bytes_held=False), refunds=none), piece,
         "refund_not_allowed"),
        ("both: refund, too late and too much", s(sold(), REFUND_LATE), beyond, "refund_too_late"),
        ("both: refund, bytes gone and too much", s(sold(bytes_held=False)), beyond, "refund_too_late"),
        ("both: refund, too much of a line and half a portion of another", s(sold()),
         ask_refund(back(l1=4, l3=1), [entry(3, C, 1, 125, 25)]), "refund_exceeds"),
        ("both: refund, half a portion of a line and too much of a later one", s(sold()),
         ask_refund(back(l3=1, l4=2), [entry(3, C, 1, 125, 25)]), "refund_exceeds"),
        ("both: refund, half a portion and wrong parts", s(sold()), ask_refund(back(l3=1), [entry(3, C, 2, 250, 50)]),
         "refund_not_whole"),
        ("both: refund, nothing moves and the currency is another", s(sold()),
         ask_refund(back(l4=1), [entry(4, A, 0, 1)], currency="JPY"), "refund_exceeds"),
    ]  # fmt: skip
    for name, where, asked, code in rows:
        got = second_undo.judge(where, asked)
        assert got == code, (name, got, code)
        full = {**record(asked["kind"], REFUND, 9, "A" * 43, asked["content"]),
                "terminal": asked["terminal"], "occurred_at": asked["occurred_at"]}  # fmt: skip
        assert second_undo.judge_undo(full) is None, name
    names = ("name", "situation", "record", "code")
    return [dict(zip(names, row, strict=True)) for row in rows]


def rules() -> list[Json]:
    top = 31_622_400
    rows: list[tuple[str, Any, bool]] = [
        ("a day, and a week of grace", {"window_s": 86_400, "grace_s": 604_800}, True),
        ("the least", {"window_s": 0, "grace_s": 0}, True),
        ("the most", {"window_s": top, "grace_s": top}, True),
        ("a window too long", {"window_s": top + 1, "grace_s": 0}, False),
        ("a grace too long", {"window_s": 0, "grace_s": top + 1}, False),
        ("a window below 0", {"window_s": -1, "grace_s": 0}, False),
        ("a window true", {"window_s": True, "grace_s": 0}, False),
        ("a grace null", {"window_s": 1, "grace_s": None}, False),
        ("no grace", {"window_s": 1}, False),
        ("no window", {"grace_s": 1}, False),
        ("more than that", {"window_s": 1, "grace_s": 1, "days": 1}, False),
        ("true", True, False),
        ("a number", 86_400, False),
        ("a list", [86_400, 0], False),
        ("an empty object", {}, False),
    ]
    for name, rule, taken in rows:
        assert second_undo.RULE(rule) is taken, name
    return [{"name": name, "refunds": rule, "taken": taken} for name, rule, taken in rows]


def undo_file() -> Json:
    made = chain()
    _, sale, void, next_sale, refund = made
    bad, fine = [], []
    for name, base, changes, code in malformed(void["record"], refund["record"]):
        _, text = written(base, changes)
        assert judged(text) == code, (name, judged(text))
        bad.append({"name": name, "payload": text, "code": code})
    for name, base, changes in good(void["record"], refund["record"]):
        whole, text = written(base, changes)
        assert judged(text) is None, (name, judged(text))
        fine.append(
            {"name": name, "payload": text, "content_sha256": second_undo.content_sha256(whole)}
        )
    yen = sign(jcs(change(refund["record"], [("content.currency", "JPY")])), RECORD, TILL)
    told = {
        "void": {"jws": void["jws"], "sale": sale["jws"]},
        "refund": {"jws": refund["jws"], "sale": next_sale["jws"]},
        "refund in yen": {"jws": yen, "sale": next_sale["jws"]},
    }
    answered = {
        name: {**each, "digest": jws_digest(each["jws"]),
               "record": second.parse(second.unb64(each["jws"].split(".")[1]))}
        for name, each in told.items()
    }  # fmt: skip
    believed, held = outcomes(answered)
    between = ("reserved_elsewhere", *second_undo.UNDO_REFUSALS, "not_in_product_list")
    return {
        "note": "Void and refund (offline.md, sections 1 to 3). `chain`: one incarnation of a terminal, signed;"
        " `payload` is its canonical text. `malformed` and `good`: payload texts, to be signed with the"
        " terminal's key, and the code of a reader that keeps no state. `contents`: the chain's void or refund"
        " with one value changed. `outcomes` and `held`: what a till that knows `ledger` may believe about its"
        " record in `answered`, whose `sale` is the one undone. `parts`: what a series of refunds gives back of a"
        " sale. `order`: where the codes stand in the list of refusals. `refusals`: what a ledger that knows"
        " the situation answers to a well-formed record, null where it posts it; `programme` has the names that"
        " matter, `refunded` is what came back"
        " before, `terms` are the vouchers'. `rules`: what a programme's `refunds` may be.",
        "key": key(TILL),
        "ledger": key(LEDGER),
        "stranger": key(STRANGER),
        "terminal": TERMINAL,
        "incarnation": INCARNATION,
        "chain": made,
        "malformed": bad,
        "good": fine,
        "contents": contents({"void": void["record"], "refund": refund["record"]}),
        "answered": told,
        "outcomes": believed,
        "held": held,
        "parts": parts_cases(),
        "order": [{"code": code, "answered_as": second_undo.ANSWERED[code]} for code in between],
        "refusals": refusals(),
        "rules": rules(),
    }  # fmt: skip
