"""The office's books: each action may be repeated, and none can strand money or vouchers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from carepos.errors import Malformed
from carepos_ledger import schema
from tests.ledger.relief import (
    IMPORT_KEY_ID,
    RULES,
    Desk,
    item_row,
    malformed,
    open_desk,
    ref,
    refused,
    value_row,
)


@pytest.fixture
def desk(database_url: str, tmp_path: Path) -> Iterator[Desk]:
    with open_desk(database_url, tmp_path) as opened:
        opened.settle_in()
        yield opened


def test_names_are_kept_as_first_written(desk: Desk) -> None:
    """A funder, merchant or store put again is the same one; another name for it is refused."""
    office = desk.office
    assert office.put_funder("unicef", "UNICEF") == "created"
    assert office.put_funder("unicef", "UNICEF") == "exists"
    assert office.put_merchant("guzhou", "古州超市") == "exists"
    assert office.put_store("guzhou-1", "guzhou", "古州超市一店") == "exists"
    office.put_merchant("other", "Other")
    for call in (
        lambda: office.put_funder("unicef", "Unicef"),
        lambda: office.put_merchant("guzhou", "别的超市"),
        lambda: office.put_store("guzhou-1", "other", "古州超市一店"),
    ):
        refused("already_exists_differently", call, desk)
    refused("not_found", lambda: office.put_store("s", "nobody", "S"), desk)


def test_the_same_thing_put_at_once_is_made_once(desk: Desk) -> None:
    """Six operators who put one funder at the same moment: one made it, five find it there."""
    results: list[str] = []
    start = threading.Barrier(6)

    def one() -> None:
        start.wait()
        results.append(desk.office.put_funder("unicef", "UNICEF"))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["created"] + ["exists"] * 5


def test_a_lost_race_is_run_again(desk: Desk) -> None:
    """An action that loses a race is tried again, five times at most; then it says try again and
    has changed nothing. A failure that repeating does not mend is not repeated."""
    tries = 0

    def fail(error: type[DBAPIError], times: int, call: Callable[[], object]) -> object:
        """`call` while the first `times` inserts of a funder raise `error`."""
        nonlocal tries
        tries = 0

        def boom(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
            nonlocal tries
            if statement.startswith("INSERT INTO funders"):
                tries += 1
                if tries <= times:
                    raise error("boom", None, Exception())

        engine = desk.database.engine
        event.listen(engine, "before_cursor_execute", boom)
        try:
            return call()
        finally:
            event.remove(engine, "before_cursor_execute", boom)

    put = partial(desk.office.put_funder, "unicef", "UNICEF")
    refused("try_again", partial(fail, IntegrityError, 9, put), desk)
    assert tries == 5
    with pytest.raises(ProgrammingError):
        fail(ProgrammingError, 9, put)
    assert tries == 1
    assert fail(IntegrityError, 4, put) == "created"
    assert tries == 5


# Money


def test_a_reference_is_booked_once(desk: Desk) -> None:
    """One transfer is one reference: repeated it is there already, changed it is refused."""
    office = desk.office
    assert office.fund("flood-dairy", "red-cross", 5_000, "T1") == "created"
    assert office.fund("flood-dairy", "red-cross", 5_000, "T1") == "exists"
    assert office.fund("flood-dairy", "city-fund", 2_000, "T2") == "created"
    for funder, amount in (("red-cross", 5_001), ("city-fund", 5_000)):
        refused(
            "already_exists_differently",
            partial(office.fund, "flood-dairy", funder, amount, "T1"),
            desk,
        )
    sums = office.programme_sums("flood-dairy")
    assert (sums.funded_minor, sums.unreserved_minor, sums.differences) == (7_000, 7_000, ())


def test_only_amounts_are_funded(desk: Desk) -> None:
    """T-15: a funding is a positive integer of minor units, nothing that only looks like one."""
    odd: list[Any] = [0, -1, True, 1.5, "5", None, 10**12 + 1]
    for amount in odd:
        call = partial(desk.office.fund, "flood-dairy", "red-cross", amount, "T")
        malformed("amount_minor", call, desk)


def test_a_programme_has_at_most_100_funders(desk: Desk) -> None:
    """What a settlement manifest has room for; the 101st is refused and nothing is booked."""
    for n in range(101):
        desk.office.put_funder(f"funder-{n}", f"Funder {n}")
    for n in range(100):
        assert desk.office.fund("flood-dairy", f"funder-{n}", 100, f"T-{n}") == "created"
    before = desk.tables()
    with pytest.raises(Malformed, match="at most 100 funders"):
        desk.office.fund("flood-dairy", "funder-100", 100, "T-100")
    assert desk.tables() == before


def test_unknown_funders_and_programmes_are_not_found(desk: Desk) -> None:
    """Money goes from a known funder to a known programme."""
    refused("not_found", lambda: desk.office.fund("flood-dairy", "nobody", 1, "T"), desk)
    refused("not_found", lambda: desk.office.fund("nothing", "red-cross", 1, "T"), desk)
    refused("not_found", lambda: desk.office.programme_sums("nothing"), desk)


def test_sums_are_those_of_the_entries(desk: Desk) -> None:
    """After funding, issuing and redeeming a part, both sums of INV-2 hold and nothing differs."""
    office = desk.office
    office.fund("flood-dairy", "red-cross", 100_000, "T1")
    office.issue("flood-dairy", IMPORT_KEY_ID, [value_row(1), item_row(2, 5_000)])
    sums = office.programme_sums("flood-dairy")
    assert sums.differences == ()
    assert (sums.funded_minor, sums.issued_minor, sums.unreserved_minor, sums.vouchers) == (
        100_000,
        46_000,
        54_000,
        2,
    )
    assert sums.to_json()["quantities"] == {
        "g": {"issued": 5_000, "available": 5_000, "allotted": 0, "redeemed": 0, "returned": 0}
    }
    assert json.loads(json.dumps(sums.to_json())) == sums.to_json()


def test_a_wrong_balance_is_reported(desk: Desk) -> None:
    """A balance or an entry that was changed by hand is named among the differences."""
    office = desk.office
    office.fund("flood-dairy", "red-cross", 100_000, "T1")
    office.issue("flood-dairy", IMPORT_KEY_ID, [value_row(1)])
    vouchers, entries, programmes = schema.vouchers, schema.entries, schema.programmes
    with desk.database.write() as connection:
        connection.execute(update(vouchers).values(available_minor=35_999))
        connection.execute(update(programmes).values(unreserved_minor=1))
    assert len(office.programme_sums("flood-dairy").differences) == 2
    with desk.database.write() as connection:
        connection.execute(
            update(entries).where(entries.c.account == "funder").values(amount=-99_999)
        )
    assert office.programme_sums("flood-dairy").differences[0].startswith("funded")
    assert "a posting does not sum to zero" in office.programme_sums("flood-dairy").differences


# Freezing


def test_a_voucher_is_frozen_by_its_ref_or_id(desk: Desk) -> None:
    """The office names a voucher as the list or as the till knows it, in its own programme only."""
    programmes, office = desk.programmes, desk.office
    office.fund("flood-dairy", "red-cross", 100_000, "T1")
    office.issue("flood-dairy", IMPORT_KEY_ID, [value_row(1), value_row(2)])
    with desk.database.read() as connection:
        voucher = connection.scalars(
            select(schema.issues.c.voucher).where(schema.issues.c.ref == ref(1))
        ).one()

    def frozen() -> list[int]:
        with desk.database.read() as connection:
            return sorted(connection.scalars(select(schema.vouchers.c.frozen)))

    assert office.freeze("flood-dairy", ref=ref(1), frozen=True) == "changed"
    assert frozen() == [0, 1]
    assert office.freeze("flood-dairy", voucher=voucher, frozen=True) == "exists"
    assert office.freeze("flood-dairy", voucher=voucher, frozen=False) == "changed"
    assert frozen() == [0, 0]
    programmes.put_programme({**RULES, "programme": "other"})
    by_id: dict[str, Any] = {"voucher": voucher}
    for named in (by_id, {"ref": ref(1)}):
        call = partial(office.freeze, "other", frozen=True, **named)
        assert refused("not_found", call, desk).field == next(iter(named))
    malformed("voucher", lambda: office.freeze("flood-dairy", frozen=True), desk)
