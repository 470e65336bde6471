"""Operators: their secrets stay with them; the ledger keeps digests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from carepos_ledger.operators import new_secret
from tests.ledger.relief import (
    Desk,
    open_desk,
    refused,
)


@pytest.fixture
def desk(database_url: str, tmp_path: Path) -> Iterator[Desk]:
    with open_desk(database_url, tmp_path) as opened:
        opened.settle_in()
        yield opened


def test_operator_secrets_are_kept_as_digests(desk: Desk) -> None:
    """The secret names its operator, and stands in no table."""
    operators = desk.operators
    secret = desk.operator("ops-1")
    assert operators.named(secret) == "ops-1"
    assert secret not in repr(desk.tables())
    for other in ("", secret[:-1], secret + "A", "A" * 43, None, 7):
        assert operators.named(other) is None
    refused("already_exists_differently", lambda: operators.add("ops-1", new_secret()), desk)
