"""The frozen vectors of docs/identity.md §11: records that change a key, and key sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carepos import clock, jws, outcome, record
from carepos.errors import Malformed
from carepos.keys import KeySet, PublicKey, SigningKey
from carepos.ledger_keys import LedgerKeys, newest
from carepos.record import KeyChange
from tests.vectors import build, second

Json = dict[str, Any]
VECTORS: Json = json.loads(Path(build.__file__).with_name("key_change.json").read_text("utf-8"))
OLD, NEW = (SigningKey(bytes.fromhex(VECTORS[name]["seed"])) for name in ("old", "new"))
KEYS = KeySet([OLD.public])


def each(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", VECTORS[name], ids=[c["name"] for c in VECTORS[name]])


@each("good")
def test_a_key_change_is_read(case: Json) -> None:
    """The key and its proof are found in the signed bytes."""
    got = record.read(case["jws"], keys=KEYS)
    assert isinstance(got.content, KeyChange)
    assert (got.kind, got.digest, got.content.key) == ("key_change", case["digest"], NEW.public)


def test_a_key_change_is_written() -> None:
    """Key, place and time give the very bytes of the vector."""
    case = VECTORS["good"][0]
    told = case["record"]
    content = KeyChange.make(NEW, **{n: told[n] for n in ("terminal", "incarnation", "sequence")})
    made = record.make(
        content,
        attempt_id=told["id"],
        terminal=told["terminal"],
        incarnation=told["incarnation"],
        sequence=told["sequence"],
        prev=told["prev"],
        occurred_at=clock.from_text(told["occurred_at"]),
        key=OLD,
    )
    assert (made.jws, made.digest) == (case["jws"], case["digest"])


@each("refused")
def test_a_key_change_that_is_none(case: Json) -> None:
    """Well signed by the old key, it is refused with its code by either implementation."""
    text = second.sign(case["payload"].encode(), jws.RECORD, bytes.fromhex(VECTORS["old"]["seed"]))
    with pytest.raises(Malformed) as refused:
        record.read(text, keys=KEYS)
    assert refused.value.code == case["code"]
    told = second.parse(case["payload"].encode())
    assert second.judge_key_change(told, second.unb64(OLD.public.x)) == case["code"]


@each("outcomes")
def test_what_a_till_believes_of_a_key_change(case: Json) -> None:
    """`posted` and `refused` bound to the record; nothing that speaks of money."""
    mine = record.read(VECTORS["good"][0]["jws"], keys=KEYS)
    ledger = KeySet([PublicKey.from_jwk(VECTORS["ledger"]["jwk"])])
    try:
        got: str = outcome.read_bound(case["outcome"], mine, keys=ledger).result
    except Malformed:
        got = "unknown"
    assert got == case["result"]


@each("key_sets")
def test_which_key_set_takes_the_place_of_another(case: Json) -> None:
    """Signed by the same root, of the same ledger, newer, and with every key that is held."""
    root = VECTORS["root"]["kid"]
    held = LedgerKeys.read(case["held"], root)

    def taken() -> bool:
        try:
            held.check_successor(LedgerKeys.read(case["offered"], root))
        except Malformed:
            return False
        return True

    assert taken() is case["taken"] is second.takes_key_set(case["held"], case["offered"], root)


def test_the_newest_of_several_sets() -> None:
    """Tills of one shop hold sets of different age: the newest counts, if each follows another."""
    root = VECTORS["root"]["kid"]
    sets = {
        case["name"]: LedgerKeys.read(case["offered"], root)
        for case in VECTORS["key_sets"]
        if case["name"]
        in (
            "a key was added",
            "the same again",
            "an older version",
            "a key that is held is missing",
        )
    }
    older, same, added = (
        sets[name] for name in ("an older version", "the same again", "a key was added")
    )
    assert newest([same, added, same]) is added
    assert newest([added]) is added
    with pytest.raises(Malformed, match="lacks a key"):
        newest([older, sets["a key that is held is missing"]])
