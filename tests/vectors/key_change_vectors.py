"""The vectors of docs/identity.md §11, written by hand and signed by the second implementation."""

# Tables read better with their cases on long lines.
# ruff: noqa: E501

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.vectors import second
from tests.vectors.second import b64, jcs, jws_digest, sign

Json = dict[str, Any]
RECORD, PROOF, KEYSET, OUTCOME = (
    f"carepos-{name}+jws" for name in ("record", "proof", "keyset", "outcome")
)
TERMINAL, INCARNATION = "t-4f1c2a9b", "0b5c9d2e7f8041a3b6c5d4e3f2a19080"
ID = second.make_id(1795336200000, second.terminal_bucket(TERMINAL), 5)
PREV = second.digest(b"the record before")


def seed(name: str) -> bytes:
    return hashlib.sha256(f"carepos test vectors|{name}".encode()).digest()


OLD, NEW, STRANGER, LEDGER = (seed(name) for name in ("terminal", "next key", "stranger", "ledger"))
ROOT, OTHER_ROOT, SECOND_KEY = (seed(name) for name in ("root", "other root", "second ledger key"))


def jwk(key: bytes, **more: str) -> Json:
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(second.public(key)), **more}


def named_key(key: bytes) -> Json:
    return {"seed": key.hex(), "jwk": jwk(key), "kid": second.thumbprint(second.public(key))}


def proof(by: bytes = NEW, typ: str = PROOF, **changes: Any) -> str:
    said = {"v": 1, "terminal": TERMINAL, "incarnation": INCARNATION, "sequence": 5, **changes}
    return sign(jcs({name: value for name, value in said.items() if value is not ...}), typ, by)


def record(content: Json, **changes: Any) -> Json:
    return {
        "v": 1,
        "kind": "key_change",
        "id": ID,
        "terminal": TERMINAL,
        "incarnation": INCARNATION,
        "sequence": 5,
        "prev": PREV,
        "occurred_at": "2026-11-22T08:30:05.000Z",
        "content": content,
        **changes,
    }


def key_change_file() -> Json:
    kid = second.thumbprint(second.public(NEW))
    whole = {"key": jwk(NEW, kid=kid), "proof": proof()}
    good = []
    for name, made in [
        ("a key change", record(whole)),
        ("a key without its kid", record({"key": jwk(NEW), "proof": proof()})),
    ]:
        assert second.judge_key_change(made, second.public(OLD)) is None, name
        text = sign(jcs(made), RECORD, OLD)
        good.append({"name": name, "record": made, "jws": text, "digest": jws_digest(text)})
    other = second.make_id(1795336200000, second.terminal_bucket(TERMINAL) ^ 1, 5)
    bent = proof()[:-2] + ("A" if proof()[-2] != "A" else "B") + proof()[-1]
    refused = []
    for name, made, code in [
        ("proof by the old key", record({**whole, "proof": proof(OLD)}), "malformed"),
        ("proof by a stranger", record({**whole, "proof": proof(STRANGER)}), "malformed"),
        ("proof with another signature", record({**whole, "proof": bent}), "malformed"),
        ("proof of another type", record({**whole, "proof": proof(typ=RECORD)}), "malformed"),
        ("proof of another sequence", record({**whole, "proof": proof(sequence=6)}), "malformed"),
        (
            "proof of another incarnation",
            record({**whole, "proof": proof(incarnation="f" * 32)}),
            "malformed",
        ),
        (
            "proof of another terminal",
            record({**whole, "proof": proof(terminal="t-4f1c2a9c")}),
            "malformed",
        ),
        ("the record is another one", record(whole, sequence=6), "malformed"),
        ("the record is of another incarnation", record(whole, incarnation="f" * 32), "malformed"),
        ("proof with v true", record({**whole, "proof": proof(v=True)}), "malformed"),
        ("proof with v 2", record({**whole, "proof": proof(v=2)}), "malformed"),
        (
            "proof with the sequence as text",
            record({**whole, "proof": proof(sequence="5")}),
            "malformed",
        ),
        ("proof with more", record({**whole, "proof": proof(note=1)}), "malformed"),
        (
            "proof without the sequence",
            record({**whole, "proof": proof(sequence=...)}),
            "malformed",
        ),
        (
            "proof of an enrolment",
            record({**whole, "proof": sign(jcs({"v": 1, "activation_sha256": PREV}), PROOF, NEW)}),
            "malformed",
        ),
        ("proof a number", record({**whole, "proof": 1}), "malformed"),
        ("proof empty", record({**whole, "proof": ""}), "malformed"),
        ("the key that signs already", record({"key": jwk(OLD), "proof": proof(OLD)}), "malformed"),
        (
            "the key with its private part",
            record({**whole, "key": jwk(NEW, d=b64(NEW))}),
            "malformed",
        ),
        (
            "the key with another's kid",
            record({**whole, "key": jwk(NEW, kid=second.thumbprint(second.public(OLD)))}),
            "malformed",
        ),
        (
            "the key on another curve",
            record({**whole, "key": {**jwk(NEW), "crv": "Ed448"}}),
            "malformed",
        ),
        ("the key a text", record({**whole, "key": kid}), "malformed"),
        ("in another bucket", record(whole, id=other), "malformed"),
        ("without a proof", record({"key": jwk(NEW)}), "unsupported_kind"),
        ("with another name", record({**whole, "note": 1}), "unsupported_kind"),
        ("empty", record({}), "unsupported_kind"),
    ]:
        got = second.judge_key_change(made, second.public(OLD))
        assert got == code, (name, got, code)
        refused.append(
            {"name": name, "payload": json.dumps(made, separators=(",", ":")), "code": code}
        )
    return {
        "note": "Keys change (identity.md section 11). `good` and `refused`: records, signed by `old`, that announce"
        " `new`. `outcomes`: answers to the first good one, and what a till may believe. `arrivals`: what arrives at"
        " a ledger in this order: who signed it, at which number of which incarnation, which key it announces"
        " (`elsewhere`: another terminal has that one), and whether it is answered as the kind it is, `counts`, or"
        " with a problem. `key_sets`: whether a till that holds one answer of jwks.json takes the other for it.",
        "old": named_key(OLD),
        "new": named_key(NEW),
        "ledger": named_key(LEDGER),
        "good": good,
        "refused": refused,
        "outcomes": _outcomes(good[0]),
        "arrivals": _arrivals(),
        "root": named_key(ROOT),
        "key_sets": _key_sets(),
    }  # fmt: skip


def _outcomes(of: Json) -> list[Json]:
    said = {
        "v": 1,
        "result": "posted",
        "kind": "key_change",
        "id": ID,
        "terminal": TERMINAL,
        "record_sha256": of["digest"],
        "recorded_at": "2026-11-22T08:30:06.000Z",
        "epoch": 1,
    }
    refusal = {"result": "refused", "refusal": {"code": "id_content_mismatch", "at": None}}
    cases = []
    for name, payload, result in [
        ("posted", said, "posted"),
        ("refused", {**said, **refusal}, "refused"),
        (
            "posted with an amount",
            {**said, "currency": "CNY", "amount_minor": 0, "vouchers": []},
            "unknown",
        ),
        (
            "reversed",
            {**said, "result": "reversed", "currency": None, "amount_minor": 0, "vouchers": []},
            "unknown",
        ),
        ("posted as a start", {**said, "kind": "start"}, "unknown"),
        ("of another record", {**said, "record_sha256": PREV}, "unknown"),
    ]:
        text = sign(jcs(payload), OUTCOME, LEDGER)
        if name != "reversed":  # section 5 says it; the second implementation's shapes do not
            got = second.read_outcome(text, of["jws"], [second.public(LEDGER)], None)
            assert got == result, (name, got)
        cases.append({"name": name, "outcome": text, "result": result})
    return cases


def _arrivals() -> list[Json]:
    """Each step: (signed by, incarnation, number, announces, answer)."""
    counts, invalid, malformed = "counts", "signature_invalid", "malformed"
    stories: list[tuple[str, list[tuple[str, str, int, str | None, str]]]] = [
        ("both keys count until the new one is used", [
            ("a", "x", 1, None, counts), ("a", "x", 2, "b", counts), ("a", "x", 3, None, counts),
            ("a", "y", 1, None, counts), ("a", "x", 9, None, counts)]),
        ("the first record under the new key closes the old", [
            ("a", "x", 2, "b", counts), ("b", "x", 5, None, counts), ("a", "x", 5, None, invalid),
            ("a", "x", 6, None, invalid), ("a", "x", 4, None, counts), ("a", "x", 1, None, counts),
            ("a", "y", 1, None, invalid), ("b", "y", 1, None, counts), ("b", "x", 6, None, counts)]),
        ("an earlier record under the new key moves the end of the old", [
            ("a", "x", 2, "b", counts), ("b", "x", 7, None, counts), ("a", "x", 6, None, counts),
            ("b", "x", 5, None, counts), ("a", "x", 6, None, invalid), ("a", "x", 5, None, invalid),
            ("a", "x", 4, None, counts)]),
        ("a new journal begins under the new key", [
            ("a", "x", 2, "b", counts), ("b", "y", 1, None, counts), ("a", "x", 1, None, invalid),
            ("a", "x", 3, None, invalid), ("a", "y", 2, None, invalid), ("b", "x", 3, None, counts),
            ("a", "x", 2, None, invalid)]),
        ("a key that nobody announced", [("b", "x", 1, None, invalid), ("a", "x", 1, None, counts)]),
        ("the same key announced again", [
            ("a", "x", 2, "b", counts), ("a", "x", 3, "b", counts), ("b", "x", 4, None, counts)]),
        ("two keys announced: the first that signs closes the other", [
            ("a", "x", 2, "b", counts), ("a", "x", 3, "c", counts), ("b", "x", 4, None, counts),
            ("c", "x", 5, None, invalid), ("c", "x", 1, None, invalid), ("a", "x", 5, None, invalid),
            ("a", "x", 1, None, counts)]),
        ("one change after another", [
            ("a", "x", 2, "b", counts), ("b", "x", 3, None, counts), ("b", "x", 4, "c", counts),
            ("b", "x", 5, None, counts), ("c", "x", 6, None, counts), ("b", "x", 6, None, invalid),
            ("b", "x", 5, None, counts), ("a", "x", 1, None, counts), ("a", "x", 3, None, invalid),
            ("c", "x", 7, None, counts)]),
        ("the first word of the new key announces another", [
            ("a", "x", 2, "b", counts), ("b", "x", 3, "c", counts), ("a", "x", 3, None, invalid),
            ("c", "x", 4, None, counts), ("b", "x", 4, None, invalid)]),
        ("a closed key announces nothing", [
            ("a", "x", 3, "b", counts), ("b", "x", 4, None, counts), ("a", "x", 2, "c", invalid),
            ("c", "x", 5, None, invalid)]),
        ("no key comes back", [
            ("a", "x", 2, "b", counts), ("b", "x", 3, None, counts), ("b", "x", 4, "a", malformed),
            ("a", "x", 5, None, invalid)]),
        ("a key that was dropped does not come back", [
            ("a", "x", 2, "b", counts), ("a", "x", 3, "c", counts), ("b", "x", 4, None, counts),
            ("b", "x", 5, "c", malformed), ("c", "x", 6, None, invalid)]),
        ("another terminal's key", [
            ("a", "x", 2, "elsewhere", malformed), ("a", "x", 3, None, counts)]),
    ]  # fmt: skip
    told = []
    for name, steps in stories:
        keys = second.TerminalKeys("a")
        for by, incarnation, sequence, announces, answer in steps:
            got = "counts" if keys.arrive(by, incarnation, sequence) else "signature_invalid"
            if got == "counts" and announces:
                got = keys.announce(by, announces, announces == "elsewhere").replace(
                    "posted", "counts"
                )
            assert got == answer, (name, by, sequence, got)
        names = ("signed_by", "incarnation", "sequence", "announces", "answer")
        told.append(
            {"name": name, "steps": [dict(zip(names, step, strict=True)) for step in steps]}
        )
    return told


def _key_sets() -> list[Json]:
    def document(by: bytes = ROOT, **changes: Any) -> Json:
        said = {
            "v": 1,
            "ledger": "ledger-1",
            "version": 3,
            "epoch": 2,
            "keys": [jwk(LEDGER)],
            **changes,
        }
        return {"root": jwk(by), "keyset": sign(jcs(said), KEYSET, by)}

    both = [jwk(LEDGER), jwk(SECOND_KEY)]
    newer = document(version=4, keys=both)
    cases = []
    for name, offered, taken in [
        ("a key was added", newer, True),
        ("versions may be left out", document(version=9, keys=both), True),
        ("in another order", document(version=4, keys=both[::-1]), True),
        ("the epoch grew", document(version=4, epoch=3, keys=both), True),
        ("the same again", document(), False),
        ("the same version with another key", document(keys=both), False),
        ("an older version", document(version=2, keys=both), False),
        ("an earlier epoch", document(version=4, epoch=1, keys=both), False),
        (
            "another ledger of the same root",
            document(version=4, ledger="ledger-2", keys=both),
            False,
        ),
        ("a key that is held is missing", document(version=4, keys=[jwk(SECOND_KEY)]), False),
        ("another root", document(OTHER_ROOT, version=4, keys=both), False),
        (
            "another root that names the right one",
            {**document(OTHER_ROOT, version=4, keys=both), "root": jwk(ROOT)},
            False,
        ),
        ("no signed set", {"keys": both, "root": jwk(ROOT)}, False),
        (
            "signed as something else",
            {"root": jwk(ROOT), "keyset": sign(jcs({"v": 1}), OUTCOME, ROOT)},
            False,
        ),
        ("no keys", document(version=4, keys=[]), False),
        ("version true", document(version=True, keys=both), False),
        ("another name in it", document(version=4, keys=both, note=1), False),
        (
            "a private key in it",
            document(version=4, keys=[*both, jwk(STRANGER, d=b64(STRANGER))]),
            False,
        ),
        ("a captive portal's answer", {"login": "please"}, False),
    ]:
        kid = second.thumbprint(second.public(ROOT))
        got = second.takes_key_set(document(), offered, kid)
        assert got is taken, (name, got)
        cases.append({"name": name, "held": document(), "offered": offered, "taken": taken})
    return cases
