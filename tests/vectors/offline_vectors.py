"""The vectors of docs/offline.md §1, §2, §5 and §7. Expected values are written by hand."""

# Tables read better with their cases on long lines.
# ruff: noqa: E501

from __future__ import annotations

import hashlib
import hmac
import json
import zlib
from copy import deepcopy
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.vectors import second, second_offline
from tests.vectors.second import b64, jcs, jws_digest, make_id, sign
from tests.vectors.undo_vectors import (
    BUCKET,
    FIRST_ALLOCATION,
    FIRST_BASKET,
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
SALE, RETURN = (make_id(MS + n * 1000, BUCKET, n) for n in (2, 4))
PACK = b64(hashlib.sha256(b"a pack").digest())
ISS, SUB = "https://issuer.example", b64(seed("sub")[:16])
EVIDENCE_KEY = seed("evidence")
TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJBIn0." + "A" * 86
PROOF = b64(seed("pin proof"))
# Sealing is random, so what was sealed once stands here.
SEALED = {
    "a phone's code": (TOKEN, None, "dwQ0CoyoSVmS0a2ooEin1tcWqN0AvJhiq_fL783xJCmZJJDViHq-8VftvomWcX3HO3dQ1u2xJrHr9y3KU312JfPF4pl3liPBup4ynDXCKDMUNUtdUdrYUglxk8bF7-iYuytI4QhOAwcRQfDUVBK1meYHoetbnyQ3CIVcPxMXsLemPYflfvf8IfscpIl4kqVcleM1wMNQEha5Woe0N__NhNbs8VsFj-SaCcqI"),
    "a printed card and its proof": (TOKEN, PROOF, "6om4rz4TLW0UKpxeEipyZBe9fyIqzDMfYHrX13Qybjk4jl6ftw8nKAxQE6pwTEIxJh2lezNuSD10D6cIewxk4MozTx1JUGShjNarEE7SOxmJDh8euyVayukHe410TUihpHAS1BHuSCa8E72FnWXzN8w2GZcqVKS1xeVy0Zn-6HOgEV8_FZiwd6ATjOAzf4AyqidIcHjV2EGMn0ldZajVdRAwlfNJhyCDvurxV6Tgwy8diwCRZIzkEt-zGappSAs2zDvl846WBXxjFHkAGDHPjkYdpG9cPeg"),
}  # fmt: skip


def use(voucher: str, allotment: int, minor: int, quantity: int = 0) -> Json:
    return {
        "voucher": voucher,
        "allotment": allotment,
        "amount_minor": minor,
        "quantity": quantity,
    }


def redeem() -> Json:
    return {
        "checkout": "S1-000123", "cashier": "c01", "presentment": "online",
        "programme": "flood-dairy", "rules_version": 1, "currency": "CNY",
        "beneficiary": A, "token_sha256": second.digest(TOKEN.encode()),
        "basket": FIRST_BASKET, "allocation": FIRST_ALLOCATION,
    }  # fmt: skip


def chain() -> list[Json]:
    prev = second.first_prev(INCARNATION)
    made: list[Json] = []

    def add(name: str, kind: str, id_: str, content: Json) -> None:
        nonlocal prev
        told = record(kind, id_, len(made) + 1, prev, content)
        payload = jcs(told).decode()
        text = sign(payload.encode(), RECORD, TILL)
        prev = jws_digest(text)
        sha256 = None if kind == "redeem" else second_offline.content_sha256(told)
        made.append(
            {"name": name, "record": told, "payload": payload, "jws": text, "digest": prev,
             **({"content_sha256": sha256} if sha256 else {})}
        )  # fmt: skip

    add("the sale", "redeem", SALE, redeem())
    add("accepted", "accept_offline", SALE, {
        "record_sha256": prev, "presentment": "offline", "liability": "merchant",
        "pack_sha256": PACK, "allotment_use": [use(A, 1, 5000), use(A, 3, 500), use(B, 2, 621, 777)],
    })  # fmt: skip
    add("given back", "return_allotment", RETURN,
        {"allotments": [{"voucher": A, "allotment": 1}, {"voucher": A, "allotment": 3}]})  # fmt: skip
    return made


def malformed(made: list[Json]) -> list[Json]:
    accepted, returned = made[1]["record"], made[2]["record"]
    uses = accepted["content"]["allotment_use"]
    cases: list[tuple[str, Json, str, Any, str]] = [
        ("accepted by nobody", accepted, "liability", "nobody", "malformed"),
        ("liability null", accepted, "liability", None, "malformed"),
        ("presentment online", accepted, "presentment", "online", "malformed"),
        ("pack of 42 characters", accepted, "pack_sha256", PACK[1:], "malformed"),
        ("pack null", accepted, "pack_sha256", None, "malformed"),
        ("digest missing one character", accepted, "record_sha256", "A" * 42, "malformed"),
        ("use not sorted", accepted, "allotment_use", uses[::-1], "malformed"),
        ("use twice", accepted, "allotment_use", [uses[0], uses[0]], "malformed"),
        ("use of nothing", accepted, "allotment_use", [use(A, 1, 0)], "malformed"),
        ("use below 0", accepted, "allotment_use", [use(A, 1, -1, 1)], "malformed"),
        ("use above 10^12", accepted, "allotment_use", [use(A, 1, 10**12 + 1)], "malformed"),
        ("allotment 0", accepted, "allotment_use", [use(A, 0, 1)], "malformed"),
        ("allotment true", accepted, "allotment_use", [use(A, True, 1)], "malformed"),
        ("21 uses", accepted, "allotment_use", [use(A, n, 1) for n in range(1, 22)], "malformed"),
        ("uses an object", accepted, "allotment_use", {}, "malformed"),
        ("use with more", accepted, "allotment_use", [{**uses[0], "unit": "g"}], "malformed"),
        ("use with less", accepted, "allotment_use", [{"voucher": A, "allotment": 1}], "malformed"),
        ("a name more", accepted, "note", 1, "unsupported_kind"),
        ("no pack", accepted, "pack_sha256", ..., "unsupported_kind"),
        ("content a list", accepted, "", [], "malformed"),
        ("nothing given back", returned, "allotments", [], "malformed"),
        ("21 given back", returned, "allotments", [{"voucher": A, "allotment": n} for n in range(1, 22)], "malformed"),
        ("given back twice", returned, "allotments", [returned["content"]["allotments"][0]] * 2, "malformed"),
        ("given back unsorted", returned, "allotments", returned["content"]["allotments"][::-1], "malformed"),
        ("given back by text", returned, "allotments", [{"voucher": A, "allotment": "1"}], "malformed"),
        ("given back with an amount", returned, "allotments", [{"voucher": A, "allotment": 1, "amount_minor": 1}], "malformed"),
        ("given back with more", returned, "reason", "closing", "unsupported_kind"),
    ]  # fmt: skip
    found = []
    for name, base, path, value, code in cases:
        whole = deepcopy(base)
        if not path:
            whole["content"] = value
        elif value is ...:
            del whole["content"][path]
        else:
            whole["content"][path] = value
        assert second_offline.judge(whole) == code, (name, second_offline.judge(whole))
        found.append({"name": name, "payload": json.dumps(whole), "code": code})
    return found


def outcomes(made: list[Json]) -> list[Json]:
    def state(voucher: str, minor: int, quantity: int = 0, allotted: int = 0) -> Json:
        return {
            "voucher": voucher, "amount_minor": minor, "quantity": quantity,
            "unit": "g" if quantity else None, "from_allotment_minor": allotted,
            "from_allotment_quantity": 0, "available_minor": 0, "available_quantity": 0,
        }  # fmt: skip

    def answer(of: int, result: str, **more: Any) -> Json:
        told = made[of]["record"]
        return {
            "v": 1, "result": result, "kind": told["kind"], "id": told["id"], "terminal": TERMINAL,
            "record_sha256": made[of]["digest"], "recorded_at": "2026-11-25T08:30:00.000Z",
            "epoch": 1, **more,
        }  # fmt: skip

    booked = {
        "currency": "CNY",
        "amount_minor": 6621,
        "vouchers": [state(A, 6000, 0, 5500), state(B, 621, 777)],
    }
    short = {
        "currency": "CNY",
        "amount_minor": 6000,
        "vouchers": [state(A, 6000)],
        "shortfall_minor": 621,
        "liability": "merchant",
    }
    lost: Json = {
        "currency": None,
        "amount_minor": 0,
        "vouchers": [],
        "shortfall_minor": 6621,
        "liability": "programme",
    }
    refused = {"refusal": {"code": "voucher_frozen", "at": A}, "liability": "merchant"}
    cases: list[tuple[str, Json, str]] = [
        ("the sale is posted", answer(0, "posted", **booked), "posted"),
        ("the acceptance is posted", answer(1, "posted", **booked), "posted"),
        ("the sale is posted short", answer(0, "posted_short", **short), "posted_short"),
        ("the acceptance is posted short", answer(1, "posted_short", **short), "posted_short"),
        ("no voucher covers anything", answer(0, "posted_short", **lost), "posted_short"),
        ("an exception", answer(0, "exception", **refused), "exception"),
        ("an exception to the acceptance", answer(1, "exception", **refused), "exception"),
        ("short of nothing", answer(0, "posted_short", **{**short, "shortfall_minor": 0}), "unknown"),
        ("short of too much", answer(0, "posted_short", **{**short, "shortfall_minor": 622}), "unknown"),
        ("short without a liability", answer(0, "posted_short", **{k: v for k, v in short.items() if k != "liability"}), "unknown"),
        ("short in yen", answer(0, "posted_short", **{**short, "currency": "JPY"}), "unknown"),
        ("posted with a shortfall", answer(0, "posted", **booked, shortfall_minor=1), "unknown"),
        ("exception that books", answer(0, "exception", **refused, **booked), "unknown"),
        ("exception without a reason", answer(0, "exception", liability="merchant"), "unknown"),
        ("exception by nobody", answer(0, "exception", **{**refused, "liability": "nobody"}), "unknown"),
        ("an acceptance refused", answer(1, "refused", refusal={"code": "floor_limit", "at": None}), "unknown"),
        ("an acceptance reversed", answer(1, "reversed", **booked), "unknown"),
        ("of another sale", {**answer(0, "posted_short", **short), "record_sha256": "A" * 43}, "unknown"),
    ]  # fmt: skip
    return [
        {"name": name, "of": made[0 if body["kind"] == "redeem" else 1]["name"],
         "outcome": sign(json.dumps(body).encode(), "carepos-outcome+jws", LEDGER), "result": result}
        for name, body, result in cases
    ]  # fmt: skip


def households() -> list[Json]:
    made = []
    for name, incarnation, held in (
        ("two vouchers, one card", INCARNATION, {
            "b": A, "k": BUCKET, "c": [["AAAAAAAA", "B" * 22]],
            "v": [[A, 0, 6000, 0, 0, [[1, 6000, 0, 0], [3, 500, 0, 1]]], [B, 1, 0, 777, 1, []]],
        }),
        ("nothing", INCARNATION, {"b": A, "k": 0, "c": [], "v": []}),
        ("another journal", "f" * 32, {"b": A, "k": 0, "c": [], "v": []}),
    ):  # fmt: skip
        tag, seal, nonce_key = second_offline.household_keys(ISS, SUB, TERMINAL, incarnation)
        packing = zlib.compressobj(9, zlib.DEFLATED, -15)
        plain = packing.compress(jcs(held)) + packing.flush()
        nonce = hmac.digest(nonce_key, plain, "sha256")[:12]
        entry = b64(nonce + ChaCha20Poly1305(seal).encrypt(nonce, plain, tag.encode()))
        assert second_offline.open_household(entry, tag, seal, nonce_key) == held
        made.append(
            {"name": name, "iss": ISS, "sub": SUB, "terminal": TERMINAL, "incarnation": incarnation,
             "tag": tag, "segment": second_offline.segment(tag), "household": held, "entry": entry}
        )  # fmt: skip
    return made


def evidence() -> list[Json]:
    made = []
    for name, (token, proof, sealed) in SEALED.items():
        plain = token if proof is None else f"{token}\n{proof}"
        assert second_offline.open_evidence(sealed, EVIDENCE_KEY, TERMINAL, SALE) == plain
        made.append({"name": name, "token": token, "pin_proof": proof, "evidence": sealed})
    return made


def offline_file() -> Json:
    made = chain()
    public = X25519PrivateKey.from_private_bytes(EVIDENCE_KEY).public_key().public_bytes_raw()
    return {
        "note": "docs/offline.md §1, §2, §5, §7",
        "key": key(TILL),
        "ledger": key(LEDGER),
        "evidence_key": {
            "private": EVIDENCE_KEY.hex(),
            "kid": b64(hashlib.sha256(public).digest()),
            "x": b64(public),
        },
        "terminal": TERMINAL,
        "attempt": SALE,
        "chain": made,
        "malformed": malformed(made),
        "outcomes": outcomes(made),
        "households": households(),
        "evidence": evidence(),
    }
