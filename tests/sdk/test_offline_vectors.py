"""The frozen vectors of docs/offline.md §1, §2, §5 and §7, by product and second reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from carepos import clock, jws, outcome, pack, record, strict_json
from carepos.errors import Malformed
from carepos.evidence import EvidenceKey, open_sealed, seal
from carepos.households import Household, HouseholdKey
from carepos.keys import KeySet, PublicKey, SigningKey
from tests.vectors import build, second, second_offline

Json = dict[str, Any]
VECTORS: Json = json.loads(Path(build.__file__).with_name("offline.json").read_text("utf-8"))
TILL = SigningKey(bytes.fromhex(VECTORS["key"]["seed"]))
KEYS = KeySet([TILL.public])
LEDGER = KeySet([PublicKey.from_jwk(VECTORS["ledger"]["jwk"])])
PRIVATE = bytes.fromhex(VECTORS["evidence_key"]["private"])


def each(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", VECTORS[name], ids=[c["name"] for c in VECTORS[name]])


def signed(payload: str) -> str:
    return second.sign(payload.encode(), jws.RECORD, bytes.fromhex(VECTORS["key"]["seed"]))


@each("chain")
def test_a_record_is_written_and_read(case: Json) -> None:
    """The same content gives the same bytes, signature and digests, whoever writes it."""
    told, read = case["record"], record.read(case["jws"], keys=KEYS)
    made = record.make(
        read.content,
        attempt_id=told["id"],
        terminal=told["terminal"],
        incarnation=told["incarnation"],
        sequence=told["sequence"],
        prev=told["prev"],
        occurred_at=clock.from_text(told["occurred_at"]),
        key=TILL,
    )
    assert (made.jws, made.digest, read.content.to_json()) == (
        case["jws"], case["digest"], told["content"],
    )  # fmt: skip
    if read.kind != "redeem":
        assert second_offline.judge(told) is None
        assert made.content_sha256 == case.get("content_sha256")


@each("malformed")
def test_a_content_is_refused(case: Json) -> None:
    """By the product and by the second reading, with the same code."""
    with pytest.raises(Malformed) as raised:
        record.read(signed(case["payload"]), keys=KEYS)
    assert raised.value.code == case["code"]
    assert second_offline.judge(json.loads(case["payload"])) == case["code"]


@each("outcomes")
def test_what_a_till_believes(case: Json) -> None:
    """What is posted and what is short come to the record's amount, in its currency; an exception
    has a reason and books nothing; nothing else answers an acceptance."""
    [mine] = [c for c in VECTORS["chain"] if c["name"] == case["of"]]
    try:
        got: str = outcome.read_bound(
            case["outcome"], record.read(mine["jws"], keys=KEYS), keys=LEDGER
        ).result
    except Malformed:
        got = "unknown"
    assert got == case["result"]
    if case["result"] != "unknown":
        body = json.loads(second.unb64(case["outcome"].split(".")[1]))
        assert second_offline.read_answer(body) == got


@each("households")
def test_a_household_is_sealed_and_found(case: Json) -> None:
    """The same bytes for the same household; its tag, and where it stands."""
    place = {"terminal": case["terminal"], "incarnation": case["incarnation"]}
    key = HouseholdKey.of(case["iss"], case["sub"], **place)
    held = Household.from_json(case["household"], kinds=2, dates=2)
    assert (key.tag, key.segment) == (case["tag"], case["segment"])
    assert key.seal(held) == case["entry"]
    assert key.open(case["entry"], kinds=2, dates=2) == held
    keys = second_offline.household_keys(case["iss"], case["sub"], **place)
    assert second_offline.open_household(case["entry"], *keys) == case["household"]


def test_a_household_opens_with_nothing_else() -> None:
    """Another `sub`, issuer, terminal or journal, and an entry with one bit turned."""
    case = VECTORS["households"][0]
    own = {name: case[name] for name in ("iss", "sub", "terminal", "incarnation")}
    for name, other in {
        "iss": "https://other.example",
        "sub": "A" * 22,
        "terminal": "t-2",
        "incarnation": "0" * 32,
    }.items():
        key = HouseholdKey.of(**{**own, name: other})
        assert key.tag != case["tag"]
        with pytest.raises(Malformed):
            key.open(case["entry"], kinds=2, dates=2)
    key = HouseholdKey.of(**own)
    for at in range(0, len(case["entry"]), 7):
        turned = "A" if case["entry"][at] != "A" else "B"
        with pytest.raises(Malformed):
            key.open(case["entry"][:at] + turned + case["entry"][at + 1 :], kinds=2, dates=2)
    with pytest.raises(Malformed):
        key.open(case["entry"], kinds=1, dates=2)


def test_an_entry_that_unpacks_to_too_much_is_refused() -> None:
    """A ledger's mistake must not fill a till's memory."""
    case = VECTORS["households"][0]
    own = {name: case[name] for name in ("iss", "sub", "terminal", "incarnation")}
    key = HouseholdKey.of(**own)
    allotments = [[n, 1, 0, 0] for n in range(1, 1_001)]
    voucher = [case["household"]["b"], 0, 1, 0, 0, allotments]
    wide = {**case["household"], "v": [voucher] * 20}
    bomb = key.seal(Household.from_json(wide, kinds=2, dates=2))
    assert len(strict_json.canonical(wide)) > 64 * 1024
    with pytest.raises(Malformed, match="may be"):
        key.open(bomb, kinds=2, dates=2)


@each("evidence")
def test_evidence_opens_for_its_ledger_terminal_and_attempt(case: Json) -> None:
    """And for nothing else; the second reading is RFC 9180 spelled out."""
    place = {"terminal": VECTORS["terminal"], "attempt_id": VECTORS["attempt"]}
    private = X25519PrivateKey.from_private_bytes(PRIVATE)
    opened = open_sealed(case["evidence"], private=private, **place)
    assert (opened.text, opened.pin_proof) == (case["token"], case["pin_proof"])
    for name in place:
        with pytest.raises(Malformed):
            open_sealed(case["evidence"], private=private, **{**place, name: "another"})
    with pytest.raises(Malformed):
        open_sealed(case["evidence"], private=X25519PrivateKey.generate(), **place)
    key = EvidenceKey.from_json({k: VECTORS["evidence_key"][k] for k in ("kid", "x")})
    again = seal(case["token"], pin_proof=case["pin_proof"], key=key, **place)
    assert again != case["evidence"]
    plain = second_offline.open_evidence(again, PRIVATE, *place.values())
    assert plain.split("\n")[0] == case["token"]
    with pytest.raises(InvalidTag):
        second_offline.open_evidence(again, PRIVATE, "another", VECTORS["attempt"])


ALLOTTED: Json = json.loads(Path(build.__file__).with_name("allotted.json").read_text("utf-8"))


@pytest.mark.parametrize("case", ALLOTTED["cases"], ids=[c["name"] for c in ALLOTTED["cases"]])
def test_what_a_pack_says_is_set_aside(case: Json) -> None:
    """Sums by currency, in order, none twice; read strictly where it is told."""
    told = strict_json.read_object(f'{{"allotted":{case["allotted"]}}}'.encode())["allotted"]
    if case["sums"] is None:
        with pytest.raises(Malformed):
            pack.allotted_from_json(told)
    else:
        assert pack.allotted_from_json(told) == case["sums"]
        assert pack.allotted_to_json(case["sums"]) == told
    assert second_offline.read_allotted(json.loads(case["allotted"])) == case["sums"]
