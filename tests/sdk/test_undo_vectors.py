"""The frozen vectors of docs/offline.md §1–§3: void and refund, by product and second reading."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from carepos import basket, clock, jws, outcome, record, refusals, undo
from carepos.errors import Malformed
from carepos.keys import KeySet, PublicKey, SigningKey
from carepos.record import Redeem
from carepos.undo import Refund, ReturnedLine, Sold, Void
from carepos.voucher import Programme, Terms
from tests.vectors import build, second, second_undo, undo_vectors

Json = dict[str, Any]
VECTORS: Json = json.loads(Path(build.__file__).with_name("undo.json").read_text("utf-8"))
TILL = SigningKey(bytes.fromhex(VECTORS["key"]["seed"]))
KEYS = KeySet([TILL.public])
LEDGER = KeySet([PublicKey.from_jwk(VECTORS["ledger"]["jwk"])])
UNDONE = {
    name: (record.read(each["jws"], keys=KEYS), record.read(each["sale"], keys=KEYS))
    for name, each in VECTORS["answered"].items()
}
RULES = build.programme()


def each(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", VECTORS[name], ids=[c["name"] for c in VECTORS[name]])


def signed(payload: str) -> str:
    return second.sign(payload.encode(), jws.RECORD, bytes.fromhex(VECTORS["key"]["seed"]))


# §1


@each("chain")
def test_a_record_is_written(case: Json) -> None:
    """The same content gives the same bytes, signature and digests, whoever writes it."""
    told = case["record"]
    content = record.read(signed(json.dumps(told)), keys=KEYS).content
    made = record.make(
        content,
        attempt_id=told["id"],
        terminal=told["terminal"],
        incarnation=told["incarnation"],
        sequence=told["sequence"],
        prev=told["prev"],
        occurred_at=clock.from_text(told["occurred_at"]),
        key=TILL,
    )
    assert (made.jws, made.digest) == (case["jws"], case["digest"])
    assert made.jws == signed(case["payload"])
    assert made.content_sha256 == case.get("content_sha256")


@each("chain")
def test_a_record_is_read(case: Json) -> None:
    """A reader finds in the signed bytes what was said; the second reading of them is the same."""
    got, told = record.read(case["jws"], keys=KEYS), case["record"]
    assert (got.kind, got.id, got.prev, got.digest) == (
        told["kind"],
        told["id"],
        told["prev"],
        case["digest"],
    )
    assert got.content.to_json() == told["content"]
    if isinstance(got.content, Void | Refund):
        assert got.content.original.record_sha256 == told["content"]["record_sha256"]
        assert second_undo.judge_undo(told) is None
        assert second_undo.content_sha256(told) == case["content_sha256"]


def test_the_chain_undoes_what_it_sold() -> None:
    """Each record names the one before; void and refund name their sale by id and digest."""
    start, sale, void, next_sale, refund = VECTORS["chain"]
    before = [record.first_prev(VECTORS["incarnation"])]
    before += [case["digest"] for case in VECTORS["chain"][:-1]]
    assert [case["record"]["prev"] for case in VECTORS["chain"]] == before
    assert start["record"]["sequence"] == 1
    for undone, of in ((void, sale), (refund, next_sale)):
        content = undone["record"]["content"]
        assert content["original"] == {n: of["record"][n] for n in ("terminal", "id")}
        assert content["record_sha256"] == of["digest"]


@each("malformed")
def test_a_record_that_is_none(case: Json) -> None:
    """Well signed and of another form, it is refused with its code by either implementation."""
    with pytest.raises(Malformed) as refused:
        record.read(signed(case["payload"]), keys=KEYS)
    assert refused.value.code == case["code"]
    assert undo_vectors.judged(case["payload"]) == case["code"]


@each("good")
def test_a_record_at_the_edge(case: Json) -> None:
    """The edges of what is allowed are inside, for either implementation."""
    got, told = record.read(signed(case["payload"]), keys=KEYS), json.loads(case["payload"])
    assert got.content.to_json() == told["content"]
    assert got.content_sha256 == case["content_sha256"] == second_undo.content_sha256(told)
    assert second_undo.judge_undo(told) is None


@each("contents")
def test_a_content_digest(case: Json) -> None:
    """It changes with what goes back and from which sale, and with nothing else."""
    base = next(c for c in VECTORS["chain"] if c["record"]["kind"] == case["of"])
    whole = undo_vectors.change(base["record"], [(case["path"], case["value"])])
    got = record.read(signed(json.dumps(whole)), keys=KEYS).content_sha256
    assert got == case["content_sha256"] == second_undo.content_sha256(whole)
    assert (got == base["content_sha256"]) is case["same"]


# §2


@each("outcomes")
def test_what_a_till_believes(case: Json) -> None:
    """`posted` in the sale's currency, and of a refund if each voucher got what the record says;
    `refused` with a code of the list; nothing else."""
    assert first_result(case) == case["result"] == second_result(case)


@each("held")
def test_what_is_held(case: Json) -> None:
    """`held` says why, by one of five words, and nothing of money."""
    assert first_result(case) == case["result"] == second_result(case)


def first_result(case: Json) -> str:
    mine, sale = UNDONE[case["of"]]
    assert isinstance(sale.content, Redeem)
    currency = sale.content.currency
    try:
        return outcome.read_undone(case["outcome"], mine, currency=currency, keys=LEDGER).result
    except Malformed:
        return "unknown"


def second_result(case: Json) -> str:
    told = VECTORS["answered"][case["of"]]
    sale = second.parse(second.unb64(told["sale"].split(".")[1]))
    ledger = [second.unb64(VECTORS["ledger"]["jwk"]["x"])]
    return second_undo.read_undone(case["outcome"], told["jws"], sale, ledger)


# §3


def sold(told: Json, **more: Any) -> Sold:
    lines = basket.lines_from_json(told["basket"])
    allocation = basket.allocation_from_json(told["allocation"], len(lines))
    at = clock.from_text("2026-11-22T08:30:00.000Z")
    return Sold(
        lines, allocation, **{"currency": "CNY", "occurred_at": at, "recorded_at": at, **more}
    )


def returned(told: Sequence[Json]) -> dict[int, int]:
    return {line["line"]: line["quantity"] for line in told}


@each("parts")
def test_what_goes_back(case: Json) -> None:
    """Each refund of a series gives back exactly this, by either implementation."""
    before: dict[int, int] = {}
    told_before: list[Json] = []
    for step in case["refunds"]:
        lines = undo.returned_lines(step["lines"])
        got = undo.parts_of(sold(case["sale"], refunded=dict(before)), lines)
        assert [part.to_json() for part in got] == step["parts"]
        assert second_undo.parts(case["sale"], told_before, step["lines"]) == step["parts"]
        for line in lines:
            before[line.line] = before.get(line.line, 0) + line.quantity
        told_before += step["lines"]


def test_the_codes_stand_in_their_place() -> None:
    """What refuses a void or refund stands in the list of refusals between these two, in the order
    in which it is asked."""
    frozen = [(case["code"], case["answered_as"]) for case in VECTORS["order"]]
    codes = {code for code, _ in frozen}
    told = [(kind.code, kind.answer) for kind in refusals.KINDS if kind.code in codes]
    assert told == frozen


@each("refusals")
def test_whether_it_goes_back_by_the_second_reading(case: Json) -> None:
    """The first row of the page's table that is true is the answer."""
    assert second_undo.judge(case["situation"], case["record"]) == case["code"]


# Which attempt is meant, whether it was booked, and whether its bytes are still held, only a ledger
# knows; what is told of it is the rules' own part.
JUDGED = [
    case
    for case in VECTORS["refusals"]
    if case["code"] not in ("original_unknown", "original_not_booked")
    and not (case["code"] == "refund_too_late" and not case["situation"]["sale"]["bytes_held"])
]


@pytest.mark.parametrize("case", JUDGED, ids=[case["name"] for case in JUDGED])
def test_whether_it_goes_back(case: Json) -> None:
    """The rules refuse with the first code that applies; what they let pass is posted only with the
    very parts that they give."""
    where, asked = case["situation"], case["record"]
    told = where["sale"]
    sale = sold(
        told,
        occurred_at=clock.from_text(told["occurred_at"]),
        recorded_at=clock.from_text(told["recorded_at"]),
        accepted_offline=told["offline"],
        settled=told["settled"],
        undone=told["undone"],
        refunded=returned(told["refunded"]),
    )
    programme = Programme.from_json({**RULES, **where["programme"]})
    now, content = clock.from_text(where["now"]), asked["content"]
    if asked["kind"] == "void":
        at = clock.from_text(asked["occurred_at"])
        refusal = undo.void_refusal(sale, programme, occurred_at=at, now=now)
        assert (refusal and refusal.code) == case["code"]
        return
    terms = {
        voucher: None if each is None else Terms.from_json(each)
        for voucher, each in where["terms"].items()
    }
    lines: tuple[ReturnedLine, ...] = undo.returned_lines(content["lines"])
    refusal = undo.refund_refusal(sale, programme, terms, lines, now=now)
    if case["code"] == "refund_exceeds" and case["name"].startswith("refund that moves nothing"):
        assert refusal == refusals.Refusal("refund_exceeds", None)
    if refusal is not None or (case["code"] is not None and case["code"] != "proposal_changed"):
        assert refusal is not None and refusal.code == case["code"]
        return
    right = [part.to_json() for part in undo.parts_of(sale, lines)]
    agreed = right == content["parts"] and content["currency"] == sale.currency
    assert agreed is (case["code"] is None)


@each("rules")
def test_what_a_programme_may_say_of_refunds(case: Json) -> None:
    """Two lengths of time, and nothing else; without them none are taken."""

    def read(**more: Any) -> Programme:
        return Programme.from_json({**RULES, **more})

    assert second_undo.RULE(case["refunds"]) is case["taken"]
    assert read().refunds is None
    if case["taken"]:
        rule = read(refunds=case["refunds"]).refunds
        assert rule is not None and rule.to_json() == case["refunds"]
    else:
        with pytest.raises(Malformed):
            read(refunds=case["refunds"])


def test_the_second_reading_is_independent() -> None:
    """It imports nothing of the product, nor does what builds the vectors."""
    for module in (second_undo, undo_vectors):
        lines = Path(str(module.__file__)).read_text("utf-8").splitlines()
        assert not any("carepos" in line for line in lines if line.startswith(("import", "from")))
