"""The rules that tills hold: versions only grow, and nothing strands money or vouchers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from carepos.errors import Malformed
from carepos.keys import SigningKey
from carepos.product import gtin_check_digit
from carepos_ledger import schema
from tests.ledger.relief import (
    ENTRIES,
    IMPORT_KEY_ID,
    RULES,
    Desk,
    malformed,
    open_desk,
    refused,
    value_row,
)


@pytest.fixture
def desk(database_url: str, tmp_path: Path) -> Iterator[Desk]:
    with open_desk(database_url, tmp_path) as opened:
        opened.settle_in()
        yield opened


def rules_version(desk: Desk, programme: str = "flood-dairy") -> int:
    """The version that the rules themselves carry, and the column beside them: the same."""
    with desk.database.read() as connection:
        table = schema.programmes.c
        column: int = connection.scalars(
            select(table.rules_version).where(table.programme == programme)
        ).one()
    assert desk.programmes.one(programme).rules_version == column
    return column


def test_product_lists_only_grow(desk: Desk) -> None:
    """A version stands for ever; a changed list is a higher version, which tills are told of."""
    programmes, more = desk.programmes, {**ENTRIES, "cat:eggs": "dairy"}
    before = rules_version(desk)
    assert programmes.put_product_list("dairy-list", 1, ENTRIES) == "exists"
    assert programmes.put_product_list("dairy-list", 3, more) == "changed"
    assert programmes.put_product_list("dairy-list", 3, more) == "exists"
    assert rules_version(desk) == before + 1
    for version, entries in ((1, more), (2, more), (3, ENTRIES)):
        refused(
            "already_exists_differently",
            partial(programmes.put_product_list, "dairy-list", version, entries),
            desk,
        )
    malformed("entries", lambda: programmes.put_product_list("empty", 1, {}), desk)


def test_a_shops_own_numbers_are_on_no_list(desk: Desk) -> None:
    """A number that each shop gives out for itself (GS1 restricted circulation) is refused."""
    for digits in ("0211234500123", "0021234567890", "0040000000000", "0000002345678"):
        entries = {digits + str(gtin_check_digit(digits)): "dairy"}
        malformed("entries", partial(desk.programmes.put_product_list, "new", 1, entries), desk)


def test_programme_rules_are_versioned_by_content(desk: Desk) -> None:
    """The same rules again change nothing, in whatever order they are written; other rules are
    the next version."""
    programmes = desk.programmes
    assert rules_version(desk) == 2  # one for the store that was admitted
    assert programmes.put_programme(dict(reversed(RULES.items()))) == ("exists", 2)
    assert programmes.put_programme({**RULES, "classes": ["card", "once"]}) == ("exists", 2)
    assert programmes.put_programme({**RULES, "paused": True}) == ("changed", 3)
    assert rules_version(desk) == 3
    assert programmes.one("flood-dairy").paused
    assert programmes.one("flood-dairy").stores == {"guzhou-1"}


def test_programme_needs_its_issuer_and_list(desk: Desk) -> None:
    """A programme whose issuer or product list nobody knows is not made."""
    for name, value in (("issuer", "https://nobody.example"), ("product_list", "nothing")):
        rules = {**RULES, "programme": "new", name: value}
        problem = refused("not_found", partial(desk.programmes.put_programme, rules), desk)
        assert problem.field == name


def test_currency_stays_once_there_is_money(desk: Desk) -> None:
    """Before any money a programme's currency may be mended; afterwards never."""
    programmes, office = desk.programmes, desk.office
    assert programmes.put_programme({**RULES, "currency": "JPY"}).result == "changed"
    assert programmes.put_programme(RULES).result == "changed"
    office.fund("flood-dairy", "red-cross", 100, "T1")
    problem = refused(
        "already_exists_differently",
        lambda: programmes.put_programme({**RULES, "currency": "JPY"}),
        desk,
    )
    assert problem.field == "currency"


def test_issuer_stays_once_vouchers_are_out(desk: Desk) -> None:
    """A programme that issued keeps its issuer: nobody else's tokens open those vouchers."""
    programmes, office = desk.programmes, desk.office
    desk.issuers.put("https://other.example", [SigningKey.generate().public.to_jwk()])
    office.fund("flood-dairy", "red-cross", 36_000, "T1")
    office.issue("flood-dairy", IMPORT_KEY_ID, [value_row(1)])
    rules = {**RULES, "issuer": "https://other.example"}
    refused("already_exists_differently", lambda: programmes.put_programme(rules), desk)


ODD_RULES: list[dict[str, Any]] = [
    {"starts_at": "2027-03-01T00:00:00.000Z"},
    {"currency": "XXX"},
    {"rules_version": 4},
    {"stores": ["guzhou-1"]},
    {"limit_per_redemption_minor": True},
    {"limit_per_redemption_minor": 1.0},
    {"undo_window_s": -1},
    {"quotas": [{"category": "dairy", "quantity": 1, "unit": "piece"}] * 2},
    {"name": "a\x00b"},
    {"classes": [[]]},
]


def test_odd_rules_are_malformed(desk: Desk) -> None:
    """Rules that a till could not read are never stored."""
    before = desk.tables()
    for change in ODD_RULES:
        with pytest.raises(Malformed):
            desk.programmes.put_programme({**RULES, **change})
    assert desk.tables() == before


def test_a_method_no_token_can_name_is_malformed(desk: Desk) -> None:
    """`Face` would refuse every family at every till; the slip is told to who made it."""
    for slip in ("Face", "otp ", "脸"):
        with pytest.raises(Malformed, match="a method is"):
            desk.programmes.put_programme({**RULES, "amr_any": ["otp", slip]})


def test_stores_come_and_go_with_new_rules(desk: Desk) -> None:
    """Admitting or removing a store is a new version of the rules, once each."""
    programmes = desk.programmes
    assert programmes.admit_store("flood-dairy", "guzhou-1") == ("exists", 2)
    assert programmes.remove_store("flood-dairy", "guzhou-1") == ("changed", 3)
    assert programmes.remove_store("flood-dairy", "guzhou-1") == ("exists", 3)
    assert programmes.one("flood-dairy").stores == frozenset()
    assert programmes.admit_store("flood-dairy", "guzhou-1") == ("created", 4)
    assert rules_version(desk) == 4
    refused("not_found", lambda: programmes.admit_store("flood-dairy", "nowhere"), desk)
    refused("not_found", lambda: programmes.admit_store("nothing", "guzhou-1"), desk)


def test_a_store_too_many_is_not_admitted(desk: Desk) -> None:
    """A programme whose rules could not be read any more would pay nobody: the store that is one
    too many is refused, and the others go on."""
    stores = [f"s-{n}" for n in range(10_000)]
    with desk.database.write() as connection:
        connection.execute(
            insert(schema.stores), [{"store": s, "merchant": "guzhou", "name": s} for s in stores]
        )
        connection.execute(
            insert(schema.programme_stores),
            [{"programme": "flood-dairy", "store": s} for s in stores[1:]],
        )
    with pytest.raises(Malformed, match="stores"):
        desk.programmes.admit_store("flood-dairy", "s-0")
    assert len(desk.programmes.one("flood-dairy").stores) == 10_000
    assert desk.programmes.admit_store("flood-dairy", "s-1").result == "exists"
