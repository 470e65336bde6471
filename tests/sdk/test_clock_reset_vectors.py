"""The frozen vectors of docs/offline.md §11: an operator's clock reset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carepos import clock, signed_time
from carepos.errors import Malformed, SignatureInvalid
from carepos.keys import KeySet, SigningKey
from tests.vectors import build

VECTORS: dict[str, Any] = json.loads(
    Path(build.__file__).with_name("clock_reset.json").read_text("utf-8")
)
KEY = SigningKey(bytes.fromhex(VECTORS["seed"]))
GOOD = VECTORS["good"]
OWN = {"ledger": "ledger-1", "terminal": "t-1"}
AT = clock.from_text(GOOD["payload"]["server_time"])


def test_a_reset_is_made_and_read() -> None:
    """The same ledger, till and time give the very bytes; read back, they give the time."""
    assert signed_time.make_reset(**OWN, at=AT, key=KEY) == GOOD["jws"]
    assert signed_time.read_reset(GOOD["jws"], **OWN, keys=KeySet([KEY.public])) == AT


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_a_reset_that_is_none(case: dict[str, str]) -> None:
    """Well signed, and not this till's, or not of the form."""
    with pytest.raises(Malformed) as refused:
        signed_time.read_reset(case["jws"], **OWN, keys=KeySet([KEY.public]))
    assert refused.value.code == "malformed"


def test_a_reset_of_a_strangers_key_is_none() -> None:
    """Only the ledger's own key resets a till's clock."""
    stranger = SigningKey(b"s" * 32)
    with pytest.raises(SignatureInvalid):
        signed_time.read_reset(GOOD["jws"], **OWN, keys=KeySet([stranger.public]))
