"""The vectors of docs/offline.md §12. Expected values are written by hand."""

# Tables read better with their cases on long lines.
# ruff: noqa: E501

from __future__ import annotations

import hmac
import json
import zlib
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.vectors import offline_vectors, second, second_healing, second_offline
from tests.vectors.second import b64, jcs, jws_digest, sign
from tests.vectors.undo_vectors import (
    BUCKET,
    FIRST_ALLOCATION,
    INCARNATION,
    LEDGER,
    MS,
    RECORD,
    TERMINAL,
    TILL,
    A,
    B,
    key,
    record,
    seed,
)

Json = dict[str, Any]
OUTCOME, CERTIFICATE = "carepos-outcome+jws", "carepos-certificate+jws"
OLD_LEDGER, OLD_TILL, STRANGER = (
    seed("ledger before"),
    seed("terminal before"),
    seed("stranger"),
)
NAME = "ledger-vectors"
ISS, SUB = offline_vectors.ISS, offline_vectors.SUB
SPEND, RECLAIM = "2026-11-25T08:30:00.000Z", "2026-11-27T08:30:00.000Z"
LATER, LATEST = "2026-11-26T08:30:00.000Z", "2026-11-28T08:30:00.000Z"


def public(secret: bytes) -> bytes:
    return second.public(secret)


def jwk(secret: bytes) -> Json:
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(public(secret))}


# certificates


def certificate(of: bytes = TILL, by: bytes = LEDGER, **changes: Any) -> Json:
    said = {
        "v": 1, "ledger": NAME, "terminal": TERMINAL, "terminal_no": 7, "merchant": "zhou",
        "merchant_name": "周家超市", "store": "zhou-guzhou", "store_name": "古州店",
        "key": second.thumbprint(public(of)), "audience": "urn:carepos:redeem",
        "issued_at": "2026-11-20T08:30:00.000Z", **changes,
    }  # fmt: skip
    return {"key": jwk(of), "certificate": sign(jcs(said), CERTIFICATE, by)}


def certificates() -> list[Json]:
    good, before = certificate(), certificate(OLD_TILL, OLD_LEDGER)
    cases: list[tuple[str, Any, str | None]] = [
        ("the key in use", [good], None),
        ("a key before it, signed by a key of the ledger's before", [before, good], None),
        ("forty", [good] * 40, None),
        ("none", [], "malformed"),
        ("forty-one", [good] * 41, "malformed"),
        ("an object", {}, "malformed"),
        ("not this ledger's", [certificate(by=STRANGER)], "signature_invalid"),
        ("another ledger's name", [certificate(ledger="ledger-other")], "malformed"),
        ("another terminal's", [certificate(terminal="t-other")], "malformed"),
        ("about another key", [{**good, "key": jwk(STRANGER)}], "malformed"),
        ("a good one and another terminal's", [good, certificate(OLD_TILL, terminal="t-other")], "malformed"),
        ("an outcome for a certificate", [{**good, "certificate": sign(b"{}", OUTCOME, LEDGER)}], "malformed"),
        ("without its key", [{"certificate": good["certificate"]}], "malformed"),
        ("a name more", [certificate(note=1)], "malformed"),
    ]  # fmt: skip
    for name, offered, code in cases:
        found = second_healing.certified(
            offered, TERMINAL, NAME, [public(LEDGER), public(OLD_LEDGER)]
        )
        assert (found if isinstance(found, str) else None) == code, (name, found)
    return [{"name": name, "certificates": offered, "code": code} for name, offered, code in cases]


# evidence


def start(sequence: int, secret: bytes = TILL, **changes: Any) -> str:
    bucket = second.terminal_bucket(changes.get("terminal", TERMINAL))
    own_id = second.make_id(MS + sequence, bucket, sequence)
    made = record("start", own_id, sequence, "A" * 43, {"software": "carepos/0.1.0"})
    told = {**made, **changes}
    if sequence == 1:
        told["prev"] = second.first_prev(told["incarnation"])
    return sign(jcs(told), RECORD, secret)


def answer(to: str, by: bytes = LEDGER, **changes: Any) -> str:
    told = second.parse(second.unb64(to.split(".")[1]))
    said = {
        "v": 1, "result": "posted", "kind": told["kind"], "id": told["id"],
        "terminal": told["terminal"], "record_sha256": jws_digest(to),
        "recorded_at": "2026-11-22T08:30:01.000Z", "epoch": 1, **changes,
    }  # fmt: skip
    return sign(jcs(said), OUTCOME, by)


def evidence() -> list[Json]:
    sale = offline_vectors.chain()[0]["jws"]
    took = FIRST_ALLOCATION
    amount = sum(entry["programme_minor"] for entry in took)
    state = {"unit": None, "quantity": 0, "from_allotment_minor": 0, "from_allotment_quantity": 0,
             "available_minor": 0, "available_quantity": 0}  # fmt: skip
    booked: Json = {
        "currency": "CNY", "amount_minor": amount,
        "vouchers": [{**state, "voucher": A, "amount_minor": amount}],
    }  # fmt: skip
    nothing: Json = {"currency": "CNY", "amount_minor": 0, "vouchers": []}
    first, old = start(1), start(2, OLD_TILL)
    refusal: Json = {"refusal": {"code": "voucher_frozen", "at": A}}
    foreign = start(3, terminal="t-other")
    absent = {
        "v": 1, "result": "not_found", "id": second.parse(second.unb64(first.split(".")[1]))["id"],
        "terminal": TERMINAL, "request": A, "recorded_at": "2026-11-22T08:30:01.000Z", "epoch": 1,
    }  # fmt: skip
    cases: list[tuple[str, str, str, str | None]] = [
        ("a start", first, answer(first), None),
        ("a sale", sale, answer(sale, **booked), None),
        ("a refusal", sale, answer(sale, result="refused", **refusal), None),
        ("a tombstone", sale, answer(sale, result="reversed", **{**nothing, "currency": None}), None),
        ("of an epoch to come", first, answer(first, epoch=9), None),
        ("under the terminal's key before", old, answer(old), None),
        ("under the ledger's key before", first, answer(first, OLD_LEDGER), None),
        ("an outcome that nobody of the ledger signed", first, answer(first, STRANGER), "signature_invalid"),
        ("an outcome that the till signed itself", first, answer(first, TILL), "signature_invalid"),
        ("a record that a stranger signed", start(1, STRANGER), answer(start(1, STRANGER)), "signature_invalid"),
        ("another terminal's record", foreign, answer(foreign), "signature_invalid"),
        ("an outcome to another record", first, answer(old), "malformed"),
        ("of another kind", first, answer(first, kind="day_report"), "malformed"),
        ("about another id", first, answer(first, id=offline_vectors.SALE), "malformed"),
        ("posts more than the sale's", sale, answer(sale, **{**booked, "amount_minor": amount + 1, "vouchers": [{**state, "voucher": A, "amount_minor": amount + 1}]}), "malformed"),
        ("held, so not final", first, answer(first, result="held", reason="token"), "malformed"),
        ("not found", first, sign(jcs(absent), OUTCOME, LEDGER), "malformed"),
        ("a record for an outcome", first, first, "malformed"),
        ("an outcome for a record", answer(first), answer(first), "malformed"),
    ]  # fmt: skip
    own, ledger = [public(TILL), public(OLD_TILL)], [public(LEDGER), public(OLD_LEDGER)]
    for name, text, told, code in cases:
        got = second_healing.judge({"record": text, "outcome": told}, TERMINAL, own, ledger)
        assert got == code, (name, got)
    return [{"name": name, "item": {"record": text, "outcome": told}, "code": code}
            for name, text, told, code in cases]  # fmt: skip


# which numbers


def held() -> list[Json]:
    cases: list[tuple[str, list[int], list[list[int]], bool, list[int]]] = [
        ("nothing lost", [1, 2, 3], [[1, 3]], False, []),
        ("the tail", [1, 2, 3, 4, 5], [[1, 3]], False, [4, 5]),
        ("everything", [1, 2], [], False, [1, 2]),
        ("one in the middle", [1, 2, 3, 4], [[1, 2], [4, 4]], False, [3]),
        ("what has no outcome is not offered", [1, 2, 5], [[1, 2]], False, [5]),
        ("the ledger holds more than the till knows", [1, 2], [[1, 9]], False, []),
        ("as far as it is told", [1, 2, 3, 4, 9], [[1, 1], [3, 4]], True, [2]),
        ("nothing as far as it is told", [1, 2, 9], [[1, 4]], True, []),
    ]
    for name, answered, ranges, more, missing in cases:
        assert second_healing.offered(answered, ranges, more) == missing, name
    return [
        {"name": name, "answered": answered, "held": ranges, "more": more, "offered": missing}
        for name, answered, ranges, more, missing in cases
    ]


def bad_ranges() -> list[Json]:
    cases: list[tuple[str, Any]] = [
        ("not sorted", [[4, 5], [1, 2]]),
        ("touching", [[1, 2], [3, 4]]),
        ("the same number twice", [[1, 2], [2, 4]]),
        ("backwards", [[2, 1]]),
        ("from 0", [[0, 1]]),
        ("three numbers", [[1, 2, 3]]),
        ("true for 1", [[True, 2]]),
        ("no list", {"1": 2}),
        ("201 ranges", [[3 * n, 3 * n] for n in range(1, 202)]),
    ]
    return [{"name": name, "held": ranges} for name, ranges in cases]


# what is booked


def order() -> list[Json]:
    def item(at: str, terminal: str, sequence: int) -> Json:
        return {
            "recorded_at": f"2026-11-22T08:30:{at}Z",
            "terminal": terminal,
            "sequence": sequence,
        }

    mixed = [
        item("02.000", "t-a", 4), item("01.000", "t-b", 9), item("01.000", "t-a", 3),
        item("01.000", "t-a", 10), item("00.999", "t-z", 1),
    ]  # fmt: skip
    right = [mixed[4], mixed[2], mixed[3], mixed[1], mixed[0]]
    assert second_healing.in_order(mixed) == right
    return [{"name": "by time, terminal, number", "items": mixed, "ordered": right}]


def draws() -> list[Json]:
    terms = {"unit": "g", "cap_minor": 1000, "fixed_minor": 0, "cap_quantity": 500}

    def state(minor: int, units: int, from_minor: int, from_units: int) -> Json:
        return {"voucher": A, "amount_minor": minor, "quantity": units, "unit": "g" if units else None,
                "from_allotment_minor": from_minor, "from_allotment_quantity": from_units,
                "available_minor": 0, "available_quantity": 0}  # fmt: skip

    def open_(number: int, minor: int, units: int = 0) -> Json:
        return {"allotment": number, "left_minor": minor, "left_quantity": units}

    cases: list[tuple[str, Json, Json | None, list[Json], list[int], list[list[int]], list[int]]] = [
        ("all of it available", state(6000, 0, 0, 0), None, [open_(1, 500)], [6000, 0], [], [0, 0]),
        ("partly set aside", state(6000, 0, 400, 0), None, [open_(1, 500)], [5600, 0], [[1, 400, 0]], [0, 0]),
        ("over two allotments", state(6000, 0, 700, 0), None, [open_(7, 900), open_(3, 500)], [5300, 0], [[3, 500, 0], [7, 200, 0]], [0, 0]),
        ("they hold too little", state(6000, 0, 700, 0), None, [open_(1, 500)], [5300, 0], [[1, 500, 0]], [200, 0]),
        ("there is none", state(6000, 0, 700, 0), None, [], [5300, 0], [], [700, 0]),
        ("an item's allotment whole", state(2000, 1000, 2000, 1000), terms, [open_(1, 2000, 1000)], [0, 0], [[1, 2000, 1000]], [0, 0]),
        ("an item's below its cap: the rest of its money stays", state(900, 500, 900, 500), terms, [open_(1, 2000, 1000)], [0, 0], [[1, 900, 500]], [0, 0]),
        ("an item's from both", state(3000, 1500, 1000, 500), terms, [open_(1, 1000, 500)], [2000, 1000], [[1, 1000, 500]], [0, 0]),
    ]  # fmt: skip
    made = []
    for name, told, of, opened, available, parts, missing in cases:
        right = {"available": available, "allotments": parts, "missing": missing}
        assert second_healing.drawn(told, of, opened) == right, name
        made.append({"name": name, "state": told, "terms": of, "opened": opened, **right})
    return made


def set_aside() -> list[Json]:
    household = {
        "b": A, "k": BUCKET, "c": [],
        "v": [[A, 0, 6000, 0, 0, [[1, 6000, 0, 0], [3, 500, 0, 1]]], [B, 1, 0, 777, 1, [[2, 621, 777, 0]]]],
    }  # fmt: skip
    tag, seal, nonce_key = second_offline.household_keys(ISS, SUB, TERMINAL, INCARNATION)
    packing = zlib.compressobj(9, zlib.DEFLATED, -15)
    plain = packing.compress(jcs(household)) + packing.flush()
    nonce = hmac.digest(nonce_key, plain, "sha256")[:12]
    entry = b64(nonce + ChaCha20Poly1305(seal).encrypt(nonce, plain, tag.encode()))
    texts = [
        jcs(
            {"v": 1, "households": {tag: entry} if n == second_offline.segment(tag) else {}}
        ).decode()
        for n in range(64)
    ]
    told = {
        "households": {
            "incarnation": INCARNATION, "count": 1, "kinds": [{}, {}],
            "dates": [[SPEND, RECLAIM], [LATER, LATEST]],
            "segments": [{"sha256": second.digest(text.encode()), "length": len(text)} for text in texts],
        }
    }  # fmt: skip

    def one(voucher: str, number: int, minor: int, units: int, spend: str, reclaim: str) -> Json:
        return {"bucket": BUCKET, "voucher": voucher, "allotment": number, "amount_minor": minor,
                "quantity": units, "spend_until": spend, "reclaim_after": reclaim}  # fmt: skip

    right = [
        one(A, 1, 6000, 0, SPEND, RECLAIM),
        one(A, 3, 500, 0, LATER, LATEST),
        one(B, 2, 621, 777, SPEND, RECLAIM),
    ]
    files = {second.digest(text.encode()): json.loads(text) for text in texts}
    assert second_healing.set_aside(told, files, ISS, SUB, TERMINAL) == right
    assert second_healing.set_aside(told, files, ISS, b64(seed("stranger")[:16]), TERMINAL) == []
    return [{"name": "two vouchers", "iss": ISS, "sub": SUB, "dates": told["households"]["dates"],
             "segment": texts[second_offline.segment(tag)], "set_aside": right}]  # fmt: skip


def numbers() -> list[Json]:
    cases = [
        ("allotment", 1, 0, 1), ("allotment", 1, 4, 5), ("allotment", 2, 4, 1_000_001),
        ("allotment", 2, 1_000_001, 1_000_002), ("allotment", 3, 1_000_002, 2_000_001),
        ("use", 1, 17, 18), ("use", 2, 17, 1_000_000_001),
    ]  # fmt: skip
    for what, epoch, last, following in cases:
        assert second_healing.next_number(what, epoch, last) == following
    return [{"name": f"{what} of epoch {epoch} behind {last}", "what": what, "epoch": epoch,
             "last": last, "next": following} for what, epoch, last, following in cases]  # fmt: skip


def batches() -> list[Json]:
    first = second.first_previous("zhou", "flood-dairy")
    one, two = b64(seed("manifest 1")), b64(seed("manifest 2"))
    held_1 = {"batch_no": 1, "digest": one}
    cases: list[tuple[str, Json | None, int, str, bool]] = [
        ("the first", None, 1, first, True),
        ("the next", held_1, 2, one, True),
        ("a first that names another", None, 1, one, False),
        ("the second where there is none", None, 2, one, False),
        ("one left out", held_1, 3, two, False),
        ("the next of another file", held_1, 2, two, False),
        ("the first again, as another", held_1, 1, first, False),
    ]
    for name, before, number, previous, right in cases:
        assert second_healing.follows(before, number, previous, first) is right, name
    return [{"name": name, "before": before, "batch_no": number, "previous": previous, "follows": right}
            for name, before, number, previous, right in cases]  # fmt: skip


def healing_file() -> Json:
    return {
        "note": "docs/offline.md §12",
        "key": key(TILL),
        "key_before": key(OLD_TILL),
        "ledger": key(LEDGER),
        "ledger_before": key(OLD_LEDGER),
        "ledger_name": NAME,
        "terminal": TERMINAL,
        "incarnation": INCARNATION,
        "certificates": certificates(),
        "evidence": evidence(),
        "held": held(),
        "bad_ranges": bad_ranges(),
        "order": order(),
        "draws": draws(),
        "set_aside": set_aside(),
        "numbers": numbers(),
        "batches": batches(),
    }
