"""The frozen vectors of version 2 of a file of answers (docs/offline.md §10), by product and second
reading."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from carepos import upload_file
from carepos.errors import Malformed
from carepos.ledger_keys import LedgerKeyKeeper, LedgerKeys
from carepos.upload_file import Chain
from tests.vectors import build, second_upload

Json = dict[str, Any]
VECTORS: Json = json.loads(Path(build.__file__).with_name("upload_keys.json").read_text("utf-8"))
CHAIN = Chain(VECTORS["terminal"], VECTORS["incarnation"])
ROOT = VECTORS["root"]["kid"]


def each(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", VECTORS[name], ids=[c["name"] for c in VECTORS[name]])


def test_a_file_with_keys_is_written() -> None:
    """Byte for byte."""
    told = VECTORS["written"]
    made = upload_file.answers_lines(CHAIN, told["answers"], told["ledger_keys"])
    assert b"".join(made) == told["file"].encode()


@each("files")
def test_either_version_is_read(case: Json, tmp_path: Path) -> None:
    """With the keys that stand in it, whoever's they are; a version that nobody knows, and a header
    that is of none, are refused whole, with a code."""
    path = tmp_path / "carried"
    path.write_bytes(case["file"].encode())
    got: Json | None = None
    code = None
    try:
        read = upload_file.read_answers(path)
        digests = [upload_file.answered_digest(answer) for answer in read.answers]
        got = {
            "lines": [{"record_sha256": digest} for digest in digests],
            "bad": [bad.number for bad in read.bad],
            "ledger_keys": read.ledger_keys,
        }
    except Malformed as refused:
        code = refused.code
    assert (got, code) == (case["read"], None if case["read"] else "malformed")
    again = second_upload.read_file(case["file"].encode(), "outcomes")
    assert (again is None) == (case["read"] is None)


@each("trust")
def test_a_set_that_was_carried_is_believed_as_one_that_was_asked_for(case: Json) -> None:
    """Kept before it counts; what is refused has a code, and what is held stays."""
    held = [LedgerKeys.read(case["held"], ROOT)]

    def never() -> Json:
        raise AssertionError("nobody is asked")

    keeper = LedgerKeyKeeper(
        held=lambda: held[-1], keep=held.append, ask=never, now=lambda: datetime.now(UTC)
    )
    then: str
    try:
        then = "taken" if keeper.take(case["ledger_keys"]) else "held"
    except Malformed as refused:
        then = refused.code
    assert then == case["then"]
    assert then == second_upload.take_keys(case["held"], case["ledger_keys"], ROOT)
    kept = [case["ledger_keys"]["keyset"]] if then == "taken" else []
    assert [keys.keyset for keys in held[1:]] == kept
