"""Erasing, exporting and retaining over HTTP: operators only, and nobody named in an address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from carepos_ledger.operators import new_secret
from tests.world import ISSUER, World, world

CALLS: dict[str, dict[str, Any]] = {
    "/retention": {"from_bucket": 0, "dry_run": True},
    "/people/erase": {
        "person": {"iss": ISSUER, "sub": "s"},
        "forfeit": False,
        "dry_run": True,
    },
    "/people/export": {"person": {"iss": ISSUER, "sub": "s"}},
}


class Office:
    """An operator of a served ledger."""

    def __init__(self, made: World) -> None:
        self.world, self.secret = made, new_secret()
        made.ledger.operators.add("auditor", self.secret)

    def post(
        self, path: str, body: object, *, secret: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        answer = requests.post(
            f"{self.world.url}/v1/operators{path}",
            json=body,
            headers={"Authorization": f"Bearer {secret or self.secret}"},
            timeout=30,
        )
        return answer.status_code, answer.json()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with world(tmp_path) as made:
        yield Office(made)


@pytest.mark.parametrize("path", CALLS)
def test_only_operators_ask_and_only_as_it_is_written(office: Office, path: str) -> None:
    """Without a secret nothing is said, of anybody; a query, another name or another type is
    refused, and what was sent is not repeated."""
    assert office.post(path, CALLS[path], secret="A" * 43)[1]["code"] == "unauthorised"
    status, said = office.post(f"{path}?sub=s", CALLS[path])
    assert (status, said["code"]) == (400, "malformed")
    for body in ({}, {**CALLS[path], "sub": "s"}, {**CALLS[path], next(iter(CALLS[path])): "名"}):
        status, said = office.post(path, body)
        assert (status, said["code"]) == (400, "malformed")
        assert "名" not in str(said)


def test_an_erasure_is_one_call_and_a_stranger_is_not_found(office: Office) -> None:
    """Counted first, then done, then nobody; a code of theirs is answered like a stranger's."""
    family, till = office.world.family(), office.world.till()
    till.scan(family.token())
    person = {"iss": ISSUER, "sub": family.sub}
    wish = {"person": person, "forfeit": False, "dry_run": False}
    status, said = office.post("/people/erase", wish)
    assert (status, said["code"]) == (409, "still_worth")
    assert office.post("/people/export", {"person": person})[1]["sub"] == family.sub
    status, counted = office.post("/people/erase", {**wish, "dry_run": True})
    assert (status, counted["on_disk"], counted["vouchers"]) == (200, "nothing_changed", 1)
    status, erased = office.post("/people/erase", {**wish, "forfeit": True})
    assert (status, erased["on_disk"]) == (200, "gone")
    assert erased["forfeited_minor"] == {"flood-dairy": 12_000}
    for path, body in (("/people/erase", wish), ("/people/export", {"person": person})):
        status, said = office.post(path, body)
        assert (status, said["code"]) == (404, "not_found")
    assert office.world.balance() == 0


def test_retention_goes_on_where_it_says(office: Office) -> None:
    """Every call names the next slice until none is left."""
    bucket: int | None = 0
    calls = 0
    while bucket is not None:
        status, said = office.post("/retention", {"from_bucket": bucket, "dry_run": False})
        assert status == 200
        bucket, calls = said["next_bucket"], calls + 1
    assert calls == 32
