"""Bulk issue: each household once, never more than was funded, and nothing personal kept."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, func, insert, select

from carepos.clock import from_text
from carepos.errors import Malformed
from carepos_ledger import schema
from carepos_ledger.accounts import Entry, sums_to_zero
from carepos_ledger.column_mapping import read_mapping
from carepos_ledger.county_list import CountyList, read_list
from carepos_ledger.import_key import ImportKey
from carepos_ledger.issuing import RowAnswer
from carepos_ledger.office import Office
from carepos_ledger.problems import Problem
from carepos_ledger.voucher_defaults import read_voucher_defaults
from tests.ledger.relief import (
    ENDS,
    IMPORT_KEY_ID,
    ISS,
    RULES,
    STARTS,
    Desk,
    item_row,
    open_desk,
    ref,
    refused,
    until_it_waits,
    value_row,
)

DATA = Path(__file__).parents[2] / "sample_merchant" / "data"
MAPPING = DATA / "households.mapping.toml"
SAMPLE = DATA / "households_gb18030.csv"
KEY = ImportKey(bytes(range(32)))
SAMPLE_TOTAL_MINOR = 14_274_000


@pytest.fixture
def desk(database_url: str, tmp_path: Path) -> Iterator[Desk]:
    with open_desk(database_url, tmp_path) as opened:
        opened.settle_in(funded_minor=SAMPLE_TOTAL_MINOR)
        yield opened


def issue(desk: Desk, *rows: object) -> list[RowAnswer]:
    return desk.office.issue("flood-dairy", IMPORT_KEY_ID, list(rows))


def results(answers: Sequence[RowAnswer]) -> list[str]:
    return [answer.result for answer in answers]


def sub_of(desk: Desk, n: int) -> str:
    """The `sub` of household `n`, as the tables tie it to its ref."""
    enrolled, people = schema.enrolments.c, schema.beneficiaries.c
    with desk.database.read() as connection:
        found: str = connection.scalars(
            select(people.sub)
            .join(schema.enrolments, enrolled.beneficiary == people.beneficiary)
            .where(enrolled.ref == ref(n))
        ).one()
    return found


def sample_list(data: bytes | None = None) -> CountyList:
    return read_list(data or SAMPLE.read_bytes(), read_mapping(MAPPING), KEY, "CNY")


def issue_list(desk: Desk, county_list: CountyList, chunk: int = 300) -> list[RowAnswer]:
    defaults = read_voucher_defaults(MAPPING)
    rows = [
        defaults.row(
            row.ref, row.amount_minor, starts_at=from_text(STARTS), ends_at=from_text(ENDS)
        )
        for row in county_list.rows
    ]
    answers: list[RowAnswer] = []
    for start in range(0, len(rows), chunk):
        answers += desk.office.issue("flood-dairy", county_list.key_id, rows[start : start + chunk])
    return answers


def test_the_sample_list_is_issued(desk: Desk) -> None:
    """636 vouchers of CNY 142,740 in all, one per household, each with a beneficiary of its own;
    the programme's two sums hold. The same file again issues nothing and tells every sub again."""
    county_list = sample_list()
    answers = issue_list(desk, county_list)
    assert Counter(results(answers)) == {"issued": 636}
    assert len({answer.sub for answer in answers}) == 636
    assert {answer.iss for answer in answers} == {ISS}
    sums = desk.office.programme_sums("flood-dairy")
    assert (sums.vouchers, sums.issued_minor, sums.unreserved_minor) == (
        636,
        SAMPLE_TOTAL_MINOR,
        0,
    )
    assert sums.differences == ()
    before = desk.tables()
    again = issue_list(desk, county_list, chunk=500)
    assert Counter(results(again)) == {"already_issued": 636}
    assert [(a.ref, a.sub) for a in again] == [(a.ref, a.sub) for a in answers]
    assert desk.tables() == before


def test_nothing_personal_is_kept(desk: Desk) -> None:
    """T-12: after the whole list no table holds a name, an ID number, a phone number or a village
    of it, and a ref stands only where lists are matched, never as anybody's name elsewhere."""
    issue_list(desk, sample_list())
    lines = SAMPLE.read_bytes().decode("gb18030").splitlines()[2:]
    cells = {cell.strip() for line in lines for cell in line.split(",")}
    personal = {cell for cell in cells if len(cell) >= 3} - {"奶制品卡", "360", "420"}
    numbers = {cell for cell in personal if cell.replace("-", "").isdigit() and len(cell) > 8}
    assert len(numbers) > 1000
    names = {cell for cell in personal if not any(c.isascii() for c in cell)} - {"奶制品卡"}
    assert len(names) > 300
    tables = desk.tables()
    dump = repr(tables)
    assert [cell for cell in numbers | names if cell in dump] == []
    refs = {row[1] for row in tables["issues"]}
    del tables["issues"], tables["enrolments"]
    elsewhere = repr(tables)
    assert [each for each in refs if each in elsewhere] == []


def test_a_family_is_one_person_in_two_programmes(desk: Desk) -> None:
    """The same ref under the same import key and issuer has one `sub` and one bucket, so one care
    code opens both programmes' vouchers."""
    desk.programmes.put_programme({**RULES, "programme": "flood-rice"})
    desk.office.fund("flood-rice", "red-cross", 100_000, "TRANSFER-2")
    dairy = issue(desk, value_row(1), value_row(2))
    rice = desk.office.issue("flood-rice", IMPORT_KEY_ID, [value_row(2, 500), value_row(3, 500)])
    assert results(rice) == ["issued", "issued"]
    assert rice[0].sub == dairy[1].sub
    assert len({answer.sub for answer in (*dairy, *rice)}) == 3
    held = desk.tables()["vouchers"]
    assert len({(row[0], row[2]) for row in held}) == 3


def test_a_corrected_list_issues_only_what_is_missing(desk: Desk) -> None:
    """A row that was refused and is then mended is issued; the others are there already."""
    lines = SAMPLE.read_bytes().decode("gb18030").splitlines()
    broken = lines.copy()
    broken[2] = broken[2].replace(",360,", ",三百六十元,")
    assert broken[2] != lines[2]
    first = issue_list(desk, sample_list("\r\n".join(broken).encode("gb18030")))
    assert len(first) == 635
    second = issue_list(desk, sample_list())
    assert Counter(results(second)) == {"issued": 1, "already_issued": 635}
    assert results(second)[0] == "issued"


def test_another_wish_for_a_known_ref_changes_nothing(desk: Desk) -> None:
    """A household issued with another amount or other terms keeps what it has; nobody's sub is
    told, so that no enrolment hides the difference."""
    issue(desk, value_row(1))
    before = desk.tables()
    for row in (
        value_row(1, 36_001),
        value_row(1, expires_at="2027-04-01T00:00:00.000Z"),
        value_row(1, categories=["dairy"]),
        value_row(1, label="别的卡"),
        item_row(1, 500),
    ):
        (answer,) = issue(desk, row)
        assert answer == RowAnswer(ref(1), "already_issued_differently", None, None)
    assert desk.tables() == before


def test_a_ref_twice_in_one_chunk_is_issued_once(desk: Desk) -> None:
    """The second of two equal rows is there already, the second of two unequal ones differs."""
    answers = issue(desk, value_row(1), value_row(1), value_row(1, 99))
    assert results(answers) == ["issued", "already_issued", "already_issued_differently"]
    assert answers[0].sub == answers[1].sub
    assert desk.office.programme_sums("flood-dairy").vouchers == 1


def test_a_chunk_beyond_the_money_is_not_issued(desk: Desk) -> None:
    """issued ≤ funded: a chunk that needs a minor unit more than is unreserved writes nothing;
    with that minor unit it is issued."""
    rows = [value_row(1, SAMPLE_TOTAL_MINOR), value_row(2, 1)]
    problem = refused("not_funded", partial(issue, desk, *rows), desk)
    assert problem.extra == {
        "needed_minor": SAMPLE_TOTAL_MINOR + 1,
        "unreserved_minor": SAMPLE_TOTAL_MINOR,
        "currency": "CNY",
    }
    assert "142740.01 CNY" in problem.detail
    desk.office.fund("flood-dairy", "city-fund", 1, "T2")
    assert results(issue(desk, *rows)) == ["issued", "issued"]


def test_two_issues_at_once_share_the_money(desk: Desk) -> None:
    """Eight chunks race for money that is enough for three: three are issued whole, five are not
    funded, and the sums hold."""
    each = SAMPLE_TOTAL_MINOR // 3
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def one(n: int) -> None:
        start.wait()
        try:
            rows = [value_row(10 * n, each - 1), value_row(10 * n + 1, 1)]
            outcomes.append(",".join(results(issue(desk, *rows))))
        except Problem as problem:
            outcomes.append(problem.code)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(outcomes) == {"issued,issued": 3, "not_funded": 5}
    sums = desk.office.programme_sums("flood-dairy")
    assert (sums.issued_minor, sums.vouchers, sums.differences) == (3 * each, 6, ())


def test_the_same_chunk_at_once_is_issued_once(desk: Desk) -> None:
    """The same rows sent four times at once: each voucher once, and everyone is told its sub."""
    rows = [value_row(n) for n in range(50)]
    answers: list[list[RowAnswer]] = []

    def one() -> None:
        answers.append(issue(desk, *rows))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(r for each in answers for r in results(each)) == {
        "issued": 50,
        "already_issued": 150,
    }
    assert len({tuple(a.sub for a in each) for each in answers}) == 1
    assert desk.office.programme_sums("flood-dairy").vouchers == 50


def test_a_failure_in_a_chunk_leaves_nothing(desk: Desk) -> None:
    """When the machine fails at the 30th row, none of the chunk is there; again, all are."""
    drawn = 0

    def boom(length: int) -> bytes:
        nonlocal drawn
        drawn += 1
        if drawn == 120:
            raise OSError("boom")
        return bytes([drawn % 256]) * length

    rows = [value_row(n) for n in range(40)]
    office = Office(desk.database, desk.clock, boom)
    before = desk.tables()
    with pytest.raises(OSError, match="boom"):
        office.issue("flood-dairy", IMPORT_KEY_ID, rows)
    assert desk.tables() == before
    assert set(results(issue(desk, *rows))) == {"issued"}


def test_item_vouchers_reserve_money_and_quantity(desk: Desk) -> None:
    """An item voucher sets its cap aside, a fixed-price one the cap less the beneficiary's part;
    every posting sums to zero in money and in pieces."""
    answers = issue(
        desk,
        item_row(1, 5_000),
        item_row(2, 30, unit="piece", cap_minor=1_500, fixed_minor=1, cap_quantity=3),
        item_row(3, 700, cap_minor=1_001),
    )
    assert set(results(answers)) == {"issued"}
    sums = desk.office.programme_sums("flood-dairy")
    # 5000 g at 10.00 per 500 g; 10 portions at 15.00 less 0.01; 700 g at 10.01 per 500 g, floored.
    assert sums.issued_minor == 10_000 + 14_990 + 1_401
    assert sums.to_json()["quantities"] == {
        "g": {"issued": 5_700, "available": 5_700, "allotted": 0, "redeemed": 0, "returned": 0},
        "piece": {"issued": 30, "available": 30, "allotted": 0, "redeemed": 0, "returned": 0},
    }
    assert sums.differences == ()
    with desk.database.read() as connection:
        entries = schema.entries.c
        postings: dict[str, list[Entry]] = {}
        for row in connection.execute(select(schema.entries).order_by(entries.posting)):
            postings.setdefault(row.posting, []).append(
                Entry(row.account, row.holder, row.unit, row.amount)
            )
    assert len(postings) == 4 and all(map(sums_to_zero, postings.values()))


ODD_ROWS: list[tuple[Any, str]] = [
    (item_row(1, 31, fixed_minor=1, cap_quantity=3), "rows[1].quantity"),
    (item_row(1, 1, cap_minor=1, cap_quantity=1_000), "rows[1].quantity"),
    (item_row(1, 10**9, cap_minor=10**12, cap_quantity=1), "rows[1].quantity"),
    ({**item_row(1, 3), "kind": "fixed_price"}, "rows[1].terms"),
    ({**item_row(1, 3), "amount_minor": 5}, "rows[1]"),
    ({**value_row(1), "kind": "item"}, "rows[1]"),
    (value_row(1, 0), "rows[1].amount_minor"),
    (value_row(1, 10**12 + 1), "rows[1].amount_minor"),
    (value_row(1, expires_at=STARTS), "rows[1].expires_at"),
    (value_row(1, ref="522632195312013526"), "rows[1].ref"),
    (value_row(1, categories=["diary"]), "rows[1].categories"),
    (value_row(1, label="x" * 61), "rows[1].label"),
    (value_row(1, name="somebody"), "rows[1]"),
    ("row", "rows[1]"),
]


def test_rows_that_could_never_be_redeemed_are_malformed(desk: Desk) -> None:
    """Portions that don't come out even, nothing to reserve, misspelt categories, an ID number for
    a ref, a name beside it: the chunk is refused whole, the row and field named."""
    before = desk.tables()
    for row, field in ODD_ROWS:
        with pytest.raises(Malformed) as caught:
            issue(desk, row)
        assert caught.value.field == field
    assert desk.tables() == before


def test_one_import_key_per_programme(desk: Desk) -> None:
    """The first issue fixes the import key; another would issue every household again."""
    issue(desk, value_row(1))
    again = partial(desk.office.issue, "flood-dairy", "f" * 16, [value_row(2)])
    assert refused("already_exists_differently", again, desk).field == "import_key_id"
    desk.programmes.put_programme({**RULES, "programme": "second"})
    desk.office.fund("second", "red-cross", 36_000, "T1")
    assert results(desk.office.issue("second", "f" * 16, [value_row(1)])) == ["issued"]


def test_a_chunk_has_one_to_500_rows(desk: Desk) -> None:
    """What is larger is malformed before it is looked at; unknown programmes are not found."""
    for rows in ([], [value_row(n) for n in range(501)]):
        with pytest.raises(Malformed, match="rows"):
            issue(desk, *rows)
    refused("not_found", partial(desk.office.issue, "nothing", IMPORT_KEY_ID, [value_row(1)]), desk)


def test_buckets_spread(desk: Desk) -> None:
    """Beneficiaries get random buckets over the whole range, so no bucket is hot."""
    issue(desk, *(value_row(n, 1) for n in range(500)))
    with desk.database.read() as connection:
        buckets = connection.scalars(select(schema.beneficiaries.c.bucket)).all()
        worst = connection.scalar(
            select(func.count())
            .select_from(schema.beneficiaries)
            .group_by(schema.beneficiaries.c.bucket)
            .order_by(func.count().desc())
            .limit(1)
        )
    assert 0 <= min(buckets) < 1_000 and 3_000 < max(buckets) < 4_096
    assert worst is not None and worst < 10


def test_an_erased_person_keeps_nobody_else_from_being_issued(desk: Desk) -> None:
    """Once the tie from a `sub` to its vouchers is cut, the list of before still issues nothing
    twice and whoever is new on it gets a voucher; the erased household's `sub` is told no more."""
    issue(desk, value_row(1), value_row(2))
    with desk.database.write() as connection:
        people = schema.beneficiaries
        connection.execute(delete(people).where(people.c.sub == sub_of(desk, 1)))
    answers = issue(desk, value_row(1), value_row(2), value_row(3))
    assert results(answers) == ["already_issued", "already_issued", "issued"]
    assert (answers[0].iss, answers[0].sub) == (None, None)
    assert answers[1].sub == sub_of(desk, 2)


def test_an_erased_person_in_another_programme_is_somebody_new(desk: Desk) -> None:
    """A household whose beneficiary was erased is enrolled afresh, once for every programme."""
    erased = issue(desk, value_row(1))[0].sub
    with desk.database.write() as connection:
        connection.execute(delete(schema.beneficiaries))
    for programme in ("flood-rice", "flood-oil"):
        desk.programmes.put_programme({**RULES, "programme": programme})
        desk.office.fund(programme, "red-cross", 100_000, "TRANSFER-2")
    rice = desk.office.issue("flood-rice", IMPORT_KEY_ID, [value_row(1)])
    oil = desk.office.issue("flood-oil", IMPORT_KEY_ID, [value_row(1)])
    assert results(rice) == results(oil) == ["issued"]
    assert rice[0].sub == oil[0].sub != erased


def test_two_programmes_that_issue_at_once_share_their_people(desk: Desk) -> None:
    """The same households on two programmes' lists, sent at the same moment in opposite orders:
    one `sub` each, whoever came first."""
    rows = [value_row(n, 1) for n in range(60)]
    names = [f"p-{n}" for n in range(4)]
    for programme in names:
        desk.programmes.put_programme({**RULES, "programme": programme})
        desk.office.fund(programme, "red-cross", 100, "T")
    subs: dict[str, dict[str, str | None]] = {}
    start = threading.Barrier(len(names))

    def one(n: int) -> None:
        start.wait()
        chunk = rows if n % 2 else rows[::-1]
        answers = desk.office.issue(names[n], IMPORT_KEY_ID, chunk)
        subs[names[n]] = {answer.ref: answer.sub for answer in answers}

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [subs.get(name) for name in names] == [subs["p-0"]] * len(names)
    assert len(set(subs["p-0"].values())) == 60


def test_who_waits_for_a_person_holds_nobody_that_others_wait_for(desk: Desk) -> None:
    """Two that enrol the same people meet at the first of them, in whatever order their rows came:
    neither can wait for the other while the other waits for it."""
    if desk.database.is_sqlite:
        pytest.skip("one writer: it waits for nobody's rows")
    first, last = sorted((value_row(n) for n in range(50)), key=lambda row: str(row["ref"]))[::49]
    with ThreadPoolExecutor(1) as pool:
        with desk.database.write() as connection:
            enrol(connection, first)
            issuing = pool.submit(issue, desk, last, first)
            until_it_waits(desk.database, issuing)
            connection.exec_driver_sql("SET LOCAL lock_timeout = '1ms'")
            enrol(connection, last)
            connection.rollback()
        assert results(issuing.result()) == ["issued", "issued"]


def enrol(connection: Connection, row: Mapping[str, object]) -> None:
    """Somebody of that row, by another transaction."""
    known = {"iss": ISS, "import_key_id": IMPORT_KEY_ID, "ref": row["ref"]}
    connection.execute(insert(schema.enrolments).values(bucket=0, beneficiary="p", **known))
