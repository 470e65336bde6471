"""What the readers of the SDK take for what it says they are, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos import ids, keys, outcome, record, refusals, rules, strict_json, voucher
from carepos.basket import Line, allocation_from_json, lines_from_json, product_key, unit
from carepos.errors import ClockSkew, Malformed, NotDecided, SignatureInvalid, problem_from
from carepos.keys import KeySet, SigningKey
from carepos.outcome import VoucherState
from carepos.product import ProductList
from carepos.record import DayReport, DaySum, Record, Reversal, Start
from tests import paper_till

TILL, LEDGER = SigningKey(b"t" * 32), SigningKey(b"l" * 32)
LEDGER_KEYS = KeySet([LEDGER.public])
NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
MOVED = VoucherState("V" * 22, 6_000, 0, None, 1_000, 0)


def written(content: Any, an_id: str = "01a20260-5f40-8007-8000-000000000001") -> Record:
    return record.make(
        content,
        attempt_id=an_id,
        terminal="t-1",
        incarnation="0" * 32,
        sequence=3,
        prev="P" * 43,
        occurred_at=NOW,
        key=TILL,
    )


SUM = {"programme": "flood", "currency": "CNY", "count": 1, "amount_minor": 6_000}
SALE = written(paper_till.redeem("S1"))
UNDO = written(Reversal(SALE.digest, "cancelled"))
BEGUN = written(Start("test/1"), ids.new_attempt_id(ids.terminal_bucket("t-1"), NOW))


def answer(about: Record, result: Any, /, **changed: Any) -> str:
    """A signed outcome about a record, with some names changed, whatever comes of it."""
    booked: dict[str, Any] = {}
    if about.kind != "start" and result in ("posted", "reversed"):
        booked = {"currency": "CNY", "amount_minor": 6_000, "vouchers": (MOVED,)}
    if result in ("refused", "exception"):
        booked["refusal"] = refusals.Refusal("voucher_expired", "V" * 22)
    if result == "exception":
        booked["liability"] = "merchant"
    if result == "held":
        booked["reason"] = "terminal_forked"
    body = outcome.payload(result, about, recorded_at=NOW, epoch=1, **booked)
    whole = {**body, **changed}
    return outcome.sign({n: v for n, v in whole.items() if v is not ...}, LEDGER)


@pytest.mark.parametrize(
    ("about", "results"),
    [
        (SALE, {"posted", "refused", "reversed", "exception", "held"}),
        (UNDO, {"refused", "reversed", "held"}),
        (BEGUN, {"posted", "refused", "held"}),
    ],
    ids=["redeem", "reversal", "start"],
)
def test_each_kind_has_its_answers(about: Record, results: set[str]) -> None:
    """What can't be the answer to a record is not believed, even when the ledger signed it.

    So no signed answer can be one that the attempt's table has no event for.
    """
    for result in ("posted", "refused", "reversed", "exception", "held", "not_found"):
        text = answer(about, result)
        if result in results:
            assert outcome.read_bound(text, about, keys=LEDGER_KEYS).result == result
            assert outcome.read_any(text, keys=LEDGER_KEYS).record_sha256 == about.digest
        else:
            with pytest.raises(Malformed):
                outcome.read_bound(text, about, keys=LEDGER_KEYS)


@pytest.mark.parametrize(
    ("result", "changed"),
    [
        ("held", {"reason": ...}),
        ("held", {"reason": "terminal_active"}),
        ("held", {"reason": ["token"]}),
        ("held", {"refusal": {"code": "voucher_expired", "at": None}}),
        ("held", {"currency": None, "amount_minor": 0, "vouchers": []}),
        ("exception", {"liability": ...}),
        ("exception", {"liability": "nobody"}),
        ("exception", {"refusal": ...}),
        ("exception", {"refusal": {"code": "terminal_revoked", "at": None}}),
        ("exception", {"reason": "token"}),
        ("refused", {"liability": "merchant"}),
        ("posted", {"reason": "token"}),
    ],
    ids=str,
)
def test_what_people_decide_is_said_exactly(result: str, changed: dict[str, Any]) -> None:
    """`held` says why and nothing of money; an `exception` says its code and who bears it."""
    outcome.read_bound(answer(SALE, result), SALE, keys=LEDGER_KEYS)
    with pytest.raises(Malformed):
        outcome.read_bound(answer(SALE, result, **changed), SALE, keys=LEDGER_KEYS)


def test_an_incarnation_begins_with_its_own_digest() -> None:
    """`prev` of number 1 is the digest of the incarnation, else it is no record."""

    def first(prev: str) -> Record:
        return record.make(
            Start("test/1"),
            attempt_id=BEGUN.id,
            terminal="t-1",
            incarnation="0" * 32,
            sequence=1,
            prev=prev,
            occurred_at=NOW,
            key=TILL,
        )

    assert first(record.first_prev("0" * 32)).sequence == 1
    for other in ("P" * 43, record.first_prev("1" * 32)):
        with pytest.raises(Malformed) as refused:
            first(other)
        assert (refused.value.code, refused.value.field) == ("malformed", "prev")


@pytest.mark.parametrize(
    "changed",
    [
        {"v": 2}, {"v": True}, {"v": ...}, {"result": "paid"}, {"result": ["posted"]},
        {"result": "posted_short"}, {"result": ...}, {"kind": 1}, {"kind": ""}, {"kind": ...},
        {"kind": "start"}, {"id": "x"}, {"id": UNDO.id.replace("8007", "8008")},
        {"terminal": "t-2"}, {"terminal": 1}, {"record_sha256": "x"}, {"record_sha256": "Q" * 43},
        {"recorded_at": "2026-11-22T08:30:00Z"}, {"epoch": 0}, {"epoch": 1.0 == 1},
        {"currency": "EUR"},
        {"amount_minor": 5_999, "vouchers": [{**MOVED.to_json(), "amount_minor": 5_999}]},
        {"currency": None}, {"currency": "XYZ"}, {"amount_minor": 5_999}, {"amount_minor": -1},
        {"amount_minor": "6000"}, {"vouchers": []}, {"vouchers": None}, {"vouchers": [{}]},
        {"vouchers": [{**MOVED.to_json(), "unit": "kg"}]},
        {"vouchers": [{**MOVED.to_json(), "available_minor": -1}]},
        {"vouchers": [{**MOVED.to_json(), "quantity": None}]},
        {"extra": 1}, {"refusal": {"code": "voucher_expired", "at": None}},
    ],
    ids=str,
)  # fmt: skip
def test_a_posted_outcome_is_exactly_that(changed: dict[str, Any]) -> None:
    """A name missing, added or of another type: the ledger has not said posted."""
    with pytest.raises(Malformed):
        outcome.read_bound(answer(SALE, "posted", **changed), SALE, keys=LEDGER_KEYS)


@pytest.mark.parametrize(
    "refusal",
    [
        {"code": "no_such"}, {"code": "malformed", "at": None}, {"code": 1, "at": None},
        {"code": "terminal_suspended", "at": None}, {"code": ["voucher_expired"], "at": None},
        {"code": "voucher_expired", "at": True}, {"code": "voucher_expired", "at": [1]},
        {"code": "voucher_expired"}, {}, None, "voucher_expired",
    ],
    ids=str,
)  # fmt: skip
def test_a_refusal_is_one_of_the_decided_codes(refusal: Any) -> None:
    """A refusal with an unknown code, or one that is never decided, refuses nothing."""
    with pytest.raises(Malformed):
        outcome.read_bound(answer(SALE, "refused", refusal=refusal), SALE, keys=LEDGER_KEYS)


def test_a_refusal_says_where() -> None:
    """A line, a voucher, or neither."""
    for at in (3, "V" * 22, None):
        refusal = {"code": "voucher_expired", "at": at}
        got = outcome.read_bound(answer(SALE, "refused", refusal=refusal), SALE, keys=LEDGER_KEYS)
        assert got.refusal == refusals.Refusal("voucher_expired", at)
    with pytest.raises(ValueError, match="no such refusal"):
        refusals.Refusal("no_such")


def test_a_not_found_answers_one_question() -> None:
    """It names the read it answers; for any other it says nothing."""

    def said(request: str, **changed: Any) -> str:
        body = outcome.not_found_payload(SALE.id, "t-1", request=request, recorded_at=NOW, epoch=1)
        return outcome.sign({**body, **changed}, LEDGER)

    def read(text: str) -> outcome.Outcome:
        return outcome.read_not_found(
            text, an_id=SALE.id, terminal="t-1", request="R" * 22, keys=LEDGER_KEYS
        )

    assert read(said("R" * 22)).kind is None
    for text in (
        said("Q" * 22),
        said("R" * 22, terminal="t-2"),
        said("R" * 22, result="held"),
        said("R" * 22, kind="redeem"),
        answer(SALE, "posted"),
    ):
        with pytest.raises(Malformed):
            read(text)


# records


@pytest.mark.parametrize(
    "changed",
    [
        {"to_sequence": 8}, {"z_no": 0}, {"from_sequence": 0}, {"business_date": "2026-02-30"},
        {"business_date": "26-11-22"}, {"confirmed": -1}, {"open": True}, {"sums": None},
        {"undone": []}, {"undone": None}, {"undone": [{}]}, {"undone": [{**SUM, "count": -1}]},
        {"undone": [SUM] * 51}, {"undone": [{**SUM, "more": 1}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_day_report_counts(changed: dict[str, Any]) -> None:
    """Ranges run forward, counts are not negative, the day is one of the calendar."""
    good = DayReport(1, "2026-11-22", 10, 9, 0, 0, 0, 0, (DaySum("flood", "CNY", 1, 6_000),))
    assert DayReport.from_json(good.to_json()) == good and "undone" not in good.to_json()
    undone = replace(good, undone=(DaySum("flood", "CNY", 2, 500),))
    assert DayReport.from_json(undone.to_json()) == undone
    with pytest.raises(Malformed):
        DayReport.from_json({**good.to_json(), **changed})


def test_only_a_redemption_has_a_content_digest() -> None:
    """Other kinds mean nothing that could be redeemed twice."""
    assert SALE.content_sha256 is not None and SALE.bucket == 7
    assert UNDO.content_sha256 is None and BEGUN.content_sha256 is None
    assert record.envelope(SALE) == {"record": SALE.jws}
    assert record.envelope(SALE.jws, "t") == {"record": SALE.jws, "token": "t"}


# strict JSON


@pytest.mark.parametrize("value", [1.0, {1: 2}, {"é": 1}, 2**53, -(2**53), b"x", {1}, "\ud800"])
def test_canonical_json_holds_only_what_the_protocol_has(value: Any) -> None:
    """Floats, odd names, large integers, lone surrogates and foreign types are malformed."""
    for each in (value, [value], {"a": (value,)}):
        with pytest.raises(Malformed):
            strict_json.canonical(each)


@pytest.mark.parametrize(
    "text", ['"' + "[" * 40 + '"', '["\\"[",' + "[" * 29 + "]" * 29 + ',"{{{{{{"]', '"\\\\"']
)
def test_brackets_in_strings_are_no_depth(text: str) -> None:
    """Depth is of the structure; text may hold as many brackets as it likes."""
    assert strict_json.read(text.encode()) == json.loads(text)


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda t: t.encode("utf-8", "ignore")))
def test_any_bytes_are_json_or_malformed(data: bytes) -> None:
    """Nothing but Malformed comes out of the reader, and what is read can be written again."""
    try:
        value = strict_json.read(data)
    except Malformed:
        return
    assert strict_json.read(strict_json.canonical({"v": value} if _ascii(value) else 1)) is not None


def _ascii(value: Any) -> bool:
    return "\\u" not in json.dumps(value)


REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("text a number", lambda: strict_json.text(1, "f")),
    ("text empty", lambda: strict_json.text("", "f")),
    ("text long", lambda: strict_json.text("x" * 201, "f")),
    ("text with a control character", lambda: strict_json.text("a\x1b", "f")),
    ("boolean a number", lambda: strict_json.boolean(1, "f")),
    ("integer a bool", lambda: strict_json.integer(True, "f")),
    ("integer a float", lambda: strict_json.integer(1.0, "f")),
    ("integer negative", lambda: strict_json.integer(-1, "f")),
    ("array an object", lambda: strict_json.array({}, "f")),
    ("array long", lambda: strict_json.array([0] * 1_001, "f")),
    ("mapping a list", lambda: strict_json.mapping([], "f")),
    ("mapping large", lambda: strict_json.mapping(dict.fromkeys(map(str, range(5))), "f", high=4)),
    ("object a list", lambda: strict_json.read_object(b"[]")),
    ("names of a list", lambda: strict_json.exact_names([], {"a"})),
    ("bucket out of range", lambda: ids.attempt_id(None)),
    ("unit kg", lambda: unit("kg")),
    ("unit a list", lambda: unit(["g"])),
    ("product key a number", lambda: product_key(6913046198782)),
    ("product key with a wrong digit", lambda: product_key("06913046198783")),
    ("no lines", lambda: lines_from_json([])),
    ("a line with a name more", lambda: Line.from_json({**paper_till.SOLD.to_json(), "vat": 1})),
    ("no allocation", lambda: allocation_from_json([], 1)),
    ("jwk of another curve", lambda: keys.PublicKey.from_jwk({"kty": "OKP", "crv": "X", "x": ""})),
    ("jwk with another kid",
     lambda: keys.PublicKey.from_jwk({**TILL.public.to_jwk(), "kid": LEDGER.kid})),
    ("jwk with a private part",
     lambda: keys.PublicKey.from_jwk({**TILL.public.to_jwk(), "d": "x" * 43})),
    ("jwk too short", lambda: keys.PublicKey.from_jwk({"kty": "OKP", "crv": "Ed25519", "x": "AA"})),
    ("fixed price above the cap", lambda: voucher.Terms("piece", 100, 100, 1)),
    ("kind of voucher unknown", lambda: voucher.voucher_kind("gift")),
]  # fmt: skip


@pytest.mark.parametrize("call", [r[1] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_wrong_value_is_malformed(call: Callable[[], object]) -> None:
    """Each reader says Malformed, whatever it is given."""
    with pytest.raises(Malformed):
        call()


def test_an_unknown_name_is_repeated_harmlessly() -> None:
    """A hostile name comes back short and printable."""
    with pytest.raises(Malformed) as malformed:
        strict_json.exact_names({"\x1b[2J" + "x" * 500: 1}, set())
    assert "\x1b" not in str(malformed.value) and len(str(malformed.value)) < 100


# keys and problems


def test_a_key_file_is_its_owners_and_says_nothing(tmp_path: Path) -> None:
    """Written once, read back, never shown; a damaged one is named without its content."""
    file = tmp_path / "terminal.key"
    TILL.save(file)
    with pytest.raises(FileExistsError):
        TILL.save(file)
    assert SigningKey.load(file).kid == TILL.kid and file.read_text()[:20] not in repr(TILL)
    for damage in (b"", b"canary", b"\xff\xfe", keys.b64(b"x" * 31).encode()):
        file.write_bytes(damage)
        with pytest.raises(Malformed, match=r"terminal\.key holds no key") as malformed:
            SigningKey.load(file)
        assert "canary" not in str(malformed.value)


def test_keys_are_compared_by_what_they_are() -> None:
    """A set of keys finds by kid; an unknown one is an invalid signature, not a KeyError."""
    both = KeySet([TILL.public, LEDGER.public])
    assert len(both) == 2 and set(both) == {TILL.public, LEDGER.public}
    assert both.get(TILL.kid) == TILL.public != LEDGER.public
    assert repr(TILL.public) == f"PublicKey({TILL.kid})"
    with pytest.raises(SignatureInvalid):
        both.get("x" * 43)


def test_a_problem_is_shown_short_and_printable() -> None:
    """What a problem document says is bounded before it is shown; it carries no decision."""
    hostile = problem_from(500, {"code": "\x1b" * 99, "detail": "d" * 900, "title": 1})
    assert (hostile.code, len(hostile.detail)) == ("unknown_problem", 300)
    skew = problem_from(401, {"code": "clock_skew", "detail": "", "server_time": "t"})
    assert isinstance(skew, ClockSkew) and skew.server_time == "t"
    assert isinstance(problem_from(401, {"code": "clock_skew", "server_time": 5}), ClockSkew)
    assert type(problem_from(409, {"code": "in_flight"})) is NotDecided


def test_a_problem_without_a_detail_says_its_title() -> None:
    """Nobody reads a bare code and a colon."""
    bare = problem_from(403, {"code": "activation_used", "detail": "", "title": "It was used."})
    assert str(bare) == "activation_used (403): It was used"
    assert str(problem_from(409, {"code": "in_flight"})) == "in_flight (409)"


def test_a_length_that_is_fixed_is_said_once() -> None:
    """`must have 43 characters`, not `43 to 43`."""
    with pytest.raises(Malformed, match=r"must have 43 characters"):
        strict_json.text("x", "thumbprint", low=43, high=43)
    with pytest.raises(Malformed, match=r"must have 1 to 3 elements"):
        strict_json.array([], "keys", low=1, high=3)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_refusal_has_a_sentence(language: str) -> None:
    """A cashier never reads a bare code."""
    for kind in refusals.KINDS:
        said = refusals.Refusal(kind.code).sentence(language)
        assert said and said != kind.code and said.endswith("。" if language == "zh" else ".")


def test_a_proposal_that_is_refused_covers_nothing() -> None:
    """`nothing` leaves every line for another tender and every voucher as it was."""
    situation = rules.Situation(
        programme=replace(_programme(), paused=True),
        products=ProductList("relief", 1, {}),
        vouchers={},
        beneficiary="B" * 22,
        store="s",
        at=NOW,
        lines=(paper_till.SOLD,),
    )
    offer = rules.propose(situation)
    assert offer == rules.nothing(situation, refusals.Refusal("programme_paused"))
    assert (offer.rest_minor, offer.programme_minor, offer.allocation) == (6_490, 0, ())


def _programme() -> voucher.Programme:
    return voucher.Programme(
        "flood", "Flood", "CNY", 1, datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1,
        tzinfo=UTC), False, frozenset({"s"}), "relief", "i", frozenset({"once"}), frozenset(),
        None, False, 0, (),
    )  # fmt: skip


def test_a_programme_and_a_voucher_are_read_as_they_are_written() -> None:
    """Writing and reading again changes nothing, for every field."""
    programme = replace(_programme(), quotas=(voucher.Quota("dairy", 3, "piece"),))
    assert voucher.Programme.from_json(programme.to_json()) == programme
    held = voucher.Voucher(
        "V" * 22, "flood", "B" * 22, "fixed_price", "餐", frozenset({"dairy"}), NOW,
        datetime(2027, 1, 1, tzinfo=UTC), False, 0, 4, voucher.Terms("piece", 1_500, 1, 1),
    )  # fmt: skip
    assert voucher.Voucher.from_json(held.to_json(), "B" * 22) == held
    for wrong in (
        {"ends_at": programme.to_json()["starts_at"]},
        {"quotas": [programme.quotas[0].to_json()] * 2},
        {"classes": ["gold"]},
        {"limit_per_redemption_minor": 0},
    ):
        with pytest.raises(Malformed):
            voucher.Programme.from_json({**programme.to_json(), **wrong})
    for name, value in (("terms", None), ("kind", "value"), ("kind", "item")):
        with pytest.raises(Malformed):
            voucher.Voucher.from_json({**held.to_json(), name: value}, "B" * 22)
