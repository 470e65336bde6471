"""The product against the frozen vectors of the protocol, each case a test of its own name.

`tests/vectors/second.py` is held to the same data, so a vector that fails in one only shows a
difference in reading the page, and one that fails in both a broken vector.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from carepos import (
    basket,
    clock,
    ids,
    jws,
    keys,
    money,
    outcome,
    record,
    refusals,
    rules,
    slip,
    strict_json,
    voucher,
)
from carepos.errors import Malformed
from carepos.product import ProductList
from tests.vectors import build, second

Json = dict[str, Any]
VECTORS = Path(build.__file__).parent


def load(name: str) -> Json:
    content: Json = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return content


JSON, SPLIT, JWS, IDS, RECORDS, OUTCOMES, REFUSALS, ALLOCATIONS = (
    load(name)
    for name in ("json", "split", "jws", "ids", "records", "outcomes", "refusals", "allocations")
)


def each(cases: list[Json], label: str = "name") -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[str(case[label]) for case in cases])


def signing_key(named: Json) -> keys.SigningKey:
    return keys.SigningKey(bytes.fromhex(named["seed"]))


def believed(*named: Json) -> keys.KeySet:
    return keys.KeySet([keys.PublicKey.from_jwk(each["jwk"]) for each in named])


def code_of(call: Any) -> str | None:
    """The code that `call` refuses with; None if it does not. Any other exception is a failure."""
    try:
        call()
    except Malformed as error:
        return error.code
    return None


@pytest.mark.parametrize("name", sorted(build.FILES))
def test_vectors_are_what_is_built(name: str) -> None:
    """Building the vectors again gives the committed bytes: keys, times and cases are fixed."""
    # Text with universal line ends: a checkout on Windows may have changed them.
    assert (VECTORS / name).read_text("utf-8") == build.built_file(name)


def test_no_vector_file_is_left_over() -> None:
    """Every JSON file beside the builder is one that it writes."""
    assert {path.name for path in VECTORS.glob("*.json")} == set(build.FILES)


# §1


def raw_of(case: Json) -> bytes:
    return case["text"].encode() if "text" in case else base64.b64decode(case["base64"])


@each(JSON["cases"])
def test_json(case: Json) -> None:
    """Strict JSON is read and written canonically, anything else is malformed."""
    if "refused" in case:
        assert code_of(lambda: strict_json.read(raw_of(case))) == case["refused"]
    else:
        value = strict_json.read(raw_of(case))
        assert strict_json.canonical(value) == case["canonical"].encode()


# §2


@each([JWS["keys"][0], JWS["not_known"][0]], "kid")
def test_thumbprint(case: Json) -> None:
    """A kid is the RFC 7638 thumbprint, the same from seed and JWK."""
    assert signing_key(case).kid == keys.PublicKey.from_jwk(case["jwk"]).kid == case["kid"]


@each(JWS["cases"])
def test_jws(case: Json) -> None:
    """One spelling is believed; everything else is malformed or has no good signature."""

    def read() -> jws.Signed:
        return jws.verify(case["jws"], typ=JWS["typ"], keys=believed(*JWS["keys"]))

    if "refused" in case:
        assert code_of(read) == case["refused"]
    else:
        assert (read().payload, read().digest) == (case["payload"], case["digest"])
        assert jws.digest_of(case["jws"]) == case["digest"]


# §3, §12, §13


@each([case for case in IDS["ids"] if case["ms"] < 10**13])
def test_id_is_made(case: Json) -> None:
    """Milliseconds, bucket and 62 random bits stand where RFC 9562 puts them."""
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=case["ms"])
    made = ids.new_attempt_id(case["bucket"], now, lambda n: bytes.fromhex(case["custom_c"])[:n])
    assert made == case["id"]


@each(IDS["ids"])
def test_id_is_read(case: Json) -> None:
    """A good id is accepted and gives its bucket."""
    assert ids.bucket_of(ids.attempt_id(case["id"])) == case["bucket"]


@each(IDS["bad_ids"])
def test_bad_id(case: Json) -> None:
    """An id has one spelling."""
    assert code_of(lambda: ids.attempt_id(case["id"])) == "malformed"


@each(IDS["terminal_buckets"], "terminal")
def test_terminal_bucket(case: Json) -> None:
    """Records without a beneficiary go to their terminal's bucket."""
    assert ids.terminal_bucket(case["terminal"]) == case["bucket"]


@each(IDS["receipt_numbers"], "receipt_no")
def test_receipt_number(case: Json) -> None:
    """A receipt number is made and read back."""
    made = ids.receipt_no(case["terminal_no"], case["sequence"])
    assert made == case["receipt_no"]
    assert ids.parse_receipt_no(made) == (case["terminal_no"], case["sequence"])


@each(IDS["bad_receipt_numbers"])
def test_bad_receipt_number(case: Json) -> None:
    """A slip of the finger is found."""
    assert code_of(lambda: ids.parse_receipt_no(case["receipt_no"])) == "malformed"


@each(IDS["receipt_qrs"], "receipt_no")
def test_receipt_qr(case: Json) -> None:
    """The receipt's QR commits to the record by 80 bits of its digest."""
    names = ("receipt_no", "currency", "amount_minor", "record_sha256")
    assert slip.qr_text(*(case[name] for name in names)) == case["qr"]


@each(IDS["first_prev"], "incarnation")
def test_first_prev(case: Json) -> None:
    """A chain begins with the digest of its incarnation."""
    assert record.first_prev(case["incarnation"]) == case["prev"]


# §4

CONTENTS: dict[str, Callable[[object], record.Content]] = {
    "start": record.Start.from_json,
    "redeem": record.Redeem.from_json,
    "reversal": record.Reversal.from_json,
    "day_report": record.DayReport.from_json,
}


@each(RECORDS["chain"])
def test_record_is_written(case: Json) -> None:
    """The same content gives the same bytes, signature and digest, whoever writes it."""
    told = case["record"]
    made = record.make(
        CONTENTS[told["kind"]](told["content"]),
        attempt_id=told["id"],
        terminal=told["terminal"],
        incarnation=told["incarnation"],
        sequence=told["sequence"],
        prev=told["prev"],
        occurred_at=clock.from_text(told["occurred_at"]),
        key=signing_key(RECORDS["key"]),
    )
    assert (made.jws, made.digest) == (case["jws"], case["digest"])


@each(RECORDS["chain"])
def test_record_is_read(case: Json) -> None:
    """A reader finds in the signed bytes what was said."""
    got = record.read(case["jws"], keys=believed(RECORDS["key"]))
    told = case["record"]
    assert (got.kind, got.id, got.sequence, got.prev, got.digest) == (
        told["kind"],
        told["id"],
        told["sequence"],
        told["prev"],
        case["digest"],
    )
    assert got.content.to_json() == told["content"]
    assert got.content_sha256 == case.get("content_sha256")


def test_chain_hangs_together() -> None:
    """Each record names the digest of the one before, the first the incarnation's."""
    digests = [record.first_prev(RECORDS["incarnation"])]
    digests += [case["digest"] for case in RECORDS["chain"]]
    assert [case["record"]["prev"] for case in RECORDS["chain"]] == digests[:-1]


def signed_payload(case: Json) -> str:
    return second.sign(case["payload"].encode(), jws.RECORD, bytes.fromhex(RECORDS["key"]["seed"]))


@each(RECORDS["malformed"])
def test_malformed_record(case: Json) -> None:
    """A well-signed record of another form is refused with its code."""
    text = signed_payload(case)
    got = code_of(lambda: record.read(text, keys=believed(RECORDS["key"])))
    assert got == case["code"]


@each(RECORDS["good"])
def test_good_record(case: Json) -> None:
    """The edges of what is allowed are inside."""
    got = record.read(signed_payload(case), keys=believed(RECORDS["key"]))
    assert got.content.to_json() == json.loads(case["payload"])["content"]


def changed_redeem(case: Json) -> Json:
    whole: Json = json.loads(json.dumps(RECORDS["chain"][1]["record"]))
    *way, last = (int(part) if part.isdigit() else part for part in case["path"].split("."))
    target: Any = whole
    for part in way:
        target = target[part]
    target[last] = case["value"]
    return whole


@each(RECORDS["contents"])
def test_content_digest(case: Json) -> None:
    """The content digest changes with what the redemption means and with nothing else."""
    text = signed_payload({"payload": json.dumps(changed_redeem(case))})
    got = record.read(text, keys=believed(RECORDS["key"])).content_sha256
    assert got == case["content_sha256"]
    assert (got == RECORDS["chain"][1]["content_sha256"]) is case["same"]


# §5


@each(OUTCOMES["cases"])
def test_outcome(case: Json) -> None:
    """Only a verified outcome bound to the record is believed; all else is unknown."""
    ledger = believed(OUTCOMES["ledger"])
    mine = record.read(case["record"], keys=believed(OUTCOMES["terminal"]))

    def believe() -> str:
        try:
            return outcome.read_bound(case["outcome"], mine, keys=ledger).result
        except Malformed:
            pass
        try:
            return outcome.read_not_found(
                case["outcome"],
                an_id=mine.id,
                terminal=mine.terminal,
                request=OUTCOMES["request"],
                keys=ledger,
            ).result
        except Malformed:
            return "unknown"

    assert believe() == case["result"]


# §6


def test_refusals_order() -> None:
    """The frozen list of refusals still stands in its order, each answered its way: codes that came
    later stand between, and none has gone."""
    frozen = [(case["code"], case["answered_as"]) for case in REFUSALS["order"]]
    codes = {code for code, _ in frozen}
    told = [(kind.code, kind.answer) for kind in refusals.KINDS if kind.code in codes]
    assert told == frozen
    assert [case["number"] for case in REFUSALS["order"]] == list(range(1, len(frozen) + 1))


def test_refusals_are_the_page() -> None:
    """The page's table is the list."""
    page = (VECTORS.parents[1] / "docs" / "protocol.md").read_text("utf-8")
    rows = page.partition("<!-- refusals:begin -->")[2].partition("<!-- refusals:end -->")[0]
    told = [
        (number, code.strip("`"), answered)
        for _, number, code, answered, *_ in (
            [cell.strip() for cell in row.split("|")] for row in rows.strip().splitlines()
        )
        if number.isdigit()
    ]
    assert told == [
        (str(number), kind.code, kind.answer) for number, kind in enumerate(refusals.KINDS, 1)
    ]


def situation_of(told: Json) -> rules.Situation:
    vouchers = [voucher.Voucher.from_json(v, told["beneficiary"]) for v in told["vouchers"]]
    vouchers += [voucher.Voucher.from_json(v, "A" * 22) for v in told.get("others", [])]
    return rules.Situation(
        programme=voucher.Programme.from_json(told["programme"]),
        products=ProductList.from_json_object(told["product_list"]),
        vouchers={v.voucher: v for v in vouchers},
        beneficiary=told["beneficiary"],
        store=told["store"],
        at=clock.from_text(told["at"]),
        lines=basket.lines_from_json(told["lines"]),
    )


# Allotments are reserved: until the product holds them, only the second implementation is asked
# about what is reserved elsewhere.
CHECKS = [
    case
    for case in REFUSALS["checks"] + REFUSALS["both"]
    if "reserved_elsewhere" not in case["situation"]
]


@each(CHECKS)
def test_check(case: Json) -> None:
    """`check` answers the first refusal of the list that applies, or accepts."""
    where = situation_of(case["situation"])
    got = rules.check(where, basket.allocation_from_json(case["allocation"], len(where.lines)))
    assert (None if got is None else got.code) == case["code"]


# §7


@each(SPLIT["cases"])
def test_split(case: Json) -> None:
    """Largest remainder: no unit is lost, ties go to the earlier part."""
    assert money.split(case["amount"], case["weights"]) == case["parts"]


@each(SPLIT["discounts"])
def test_discount(case: Json) -> None:
    """A basket discount is spread over the lines by their amounts."""
    lines = [basket.Line("cat:rice", 1, "piece", amount) for amount in case["amounts"]]
    got = basket.spread_discount(lines, case["discount"])
    assert [line.line_amount_minor for line in got] == case["after"]


@each(ALLOCATIONS["cases"])
def test_proposal(case: Json) -> None:
    """`propose` offers exactly this, and says of each line what stood in the way."""
    got = rules.propose(situation_of(case["situation"]))
    assert [entry.to_json() for entry in got.allocation] == case["entries"]
    assert [line.rest_minor for line in got.lines] == case["rest_minor"]
    assert [line.reason for line in got.lines] == case["reasons"]


@each([case for case in ALLOCATIONS["cases"] if case["entries"]])
def test_proposal_is_accepted(case: Json) -> None:
    """What the vectors offer, `check` accepts for the same state."""
    where = situation_of(case["situation"])
    allocation = basket.allocation_from_json(case["entries"], len(where.lines))
    assert rules.check(where, allocation) is None


@each(ALLOCATIONS["cases"])
def test_voucher_order(case: Json) -> None:
    """Earliest expiry, most specific, id: the order in which vouchers are used."""
    where = situation_of(case["situation"])
    ordered = sorted(where.vouchers.values(), key=voucher.Voucher.order)
    assert [v.voucher for v in ordered] == second.voucher_order(case["situation"]["vouchers"])


# the second implementation


def second_code(call: Any) -> str | None:
    try:
        call()
    except second.Refused as refused:
        return refused.code
    return None


def _second_json(case: Json) -> bool:
    if "refused" in case:
        code = second_code(lambda: second.parse(raw_of(case)))
        return bool(code == case["refused"])
    return bool(second.jcs(second.parse(raw_of(case))) == case["canonical"].encode())


def _second_jws(case: Json) -> bool:
    known = [second.unb64(key["jwk"]["x"]) for key in JWS["keys"]]
    if "refused" in case:
        call = lambda: second.verify(case["jws"], JWS["typ"], known)  # noqa: E731
        return bool(second_code(call) == case["refused"])
    return bool(second.verify(case["jws"], JWS["typ"], known) == case["payload"])


def _second_discount(case: Json) -> bool:
    parts = second.split(case["discount"], case["amounts"])
    after: list[int] = case["after"]
    return after == [a - part for a, part in zip(case["amounts"], parts, strict=True)]


def _second_chain(case: Json) -> bool:
    told, seed = case["record"], bytes.fromhex(RECORDS["key"]["seed"])
    return bool(
        second.sign(second.jcs(told), jws.RECORD, seed) == case["jws"]
        and second.jws_digest(case["jws"]) == case["digest"]
        and ("content_sha256" in case) is (told["kind"] == "redeem")
        and ("content_sha256" not in case or second.content_sha256(told) == case["content_sha256"])
    )


def _second_payload(case: Json) -> bool:
    def judge() -> None:
        code = second.judge_record(second.parse(case["payload"].encode()))
        if code is not None:
            raise second.Refused(code)

    return bool(second_code(judge) == case.get("code"))


def _second_outcome(case: Json) -> bool:
    ledger = [second.unb64(OUTCOMES["ledger"]["jwk"]["x"])]
    got = second.read_outcome(case["outcome"], case["record"], ledger, OUTCOMES["request"])
    return bool(got == case["result"])


def _second_reference(case: Json) -> bool:
    names = (case["merchant"], case["iss"], case["sub"])
    got = second.beneficiary_ref(bytes.fromhex(case["secret"]), *names)
    return bool(got == case["beneficiary"])


AGREED = {
    "json": (JSON["cases"], _second_json),
    "split": (SPLIT["cases"], lambda c: second.split(c["amount"], c["weights"]) == c["parts"]),
    "discounts": (SPLIT["discounts"], _second_discount),
    "jws": (JWS["cases"], _second_jws),
    "ids": (
        IDS["ids"],
        lambda c: second.make_id(c["ms"], c["bucket"], int(c["custom_c"], 16)) == c["id"],
    ),
    "bad ids": (
        IDS["bad_ids"],
        lambda c: second_code(lambda: second.id_bucket(c["id"])) == "malformed",
    ),
    "terminal buckets": (
        IDS["terminal_buckets"],
        lambda c: second.terminal_bucket(c["terminal"]) == c["bucket"],
    ),
    "receipt numbers": (
        IDS["receipt_numbers"],
        lambda c: second.receipt_no(c["terminal_no"], c["sequence"]) == c["receipt_no"],
    ),
    "bad receipt numbers": (
        IDS["bad_receipt_numbers"],
        lambda c: not second.receipt_no_good(c["receipt_no"]),
    ),
    "beneficiary references": (IDS["beneficiary_refs"], _second_reference),
    "first previous": (
        IDS["first_previous"],
        lambda c: second.first_previous(c["merchant"], c["programme"]) == c["previous"],
    ),
    "chain": (RECORDS["chain"], _second_chain),
    "malformed records": (RECORDS["malformed"], _second_payload),
    "good records": (RECORDS["good"], _second_payload),
    "contents": (
        RECORDS["contents"],
        lambda c: second.content_sha256(changed_redeem(c)) == c["content_sha256"],
    ),
    "outcomes": (OUTCOMES["cases"], _second_outcome),
    "checks": (
        REFUSALS["checks"] + REFUSALS["both"],
        lambda c: second.check(c["situation"], c["allocation"]) == c["code"],
    ),
    "proposals": (
        ALLOCATIONS["cases"],
        lambda c: not c["entries"] or second.check(c["situation"], c["entries"]) is None,
    ),
}


@pytest.mark.parametrize("group", AGREED)
def test_second_implementation_agrees(group: str) -> None:
    """An implementation written from the page alone gives every vector of the group."""
    cases, agrees = AGREED[group]
    assert [case for case in cases if not agrees(case)] == []


def test_second_implementation_is_independent() -> None:
    """The second implementation imports nothing of the product."""
    for module in (second, build):
        assert "carepos." not in "".join(
            line
            for line in Path(str(module.__file__)).read_text("utf-8").splitlines()
            if line.startswith(("import ", "from "))
        )
