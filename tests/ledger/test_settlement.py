"""Day close on both databases: exactly once, gapless, funders' parts to the last minor unit."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from carepos import Till, jws, money, settlement, settlement_commands, settlement_folder
from carepos.basket import Entry, Line
from carepos.errors import JournalError, Malformed, NotDecided, Unreachable
from carepos.keys import KeySet, SigningKey
from carepos.settlement import Batch
from carepos.settlement_commands import TillFolder, fetch
from carepos.strict_json import MAX_INTEGER
from carepos_ledger import schema
from carepos_ledger.book import Book
from carepos_ledger.database import Database
from carepos_ledger.operators import new_secret
from carepos_ledger.problems import Problem
from carepos_ledger.settlement import MAX_LISTED, POINTS, Settlement, parts_of
from tests.ledger.rig import MILK, Envelope, Rig
from tests.vectors import build
from tests.world import Family, World, milk, world

VECTORS: dict[str, Any] = json.loads(
    Path(build.__file__).with_name("settlement.json").read_text("utf-8")
)


@pytest.fixture
def relief(tmp_path: Path, database_url: str) -> Iterator[World]:
    with world(tmp_path, database_url) as made:
        yield made


def redeem(till: Till, family: Family, amount_minor: int, checkout: str) -> None:
    offer = till.propose(family.token(), [milk(amount_minor)])
    assert till.redeem(offer, checkout=checkout, cashier="c01").state == "confirmed"


@contextmanager
def answers_lost(till: Till) -> Iterator[None]:
    """What the till sends arrives, and the answers don't come back."""
    send = till._client.send

    def lose(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        send(items)
        raise Unreachable("the line is dead")

    till._client.send = lose  # type: ignore[method-assign]
    try:
        yield
    finally:
        till._client.send = send  # type: ignore[method-assign]


def redeem_unheard(till: Till, family: Family, amount_minor: int, checkout: str) -> None:
    """A sale that the ledger booked while the till never heard of it."""
    offer = till.propose(family.token(), [milk(amount_minor)])
    with answers_lost(till):
        assert till.redeem(offer, checkout=checkout, cashier="c01").state == "unknown"


def keys_of(relief: World) -> KeySet:
    return relief.ledger.keyring.keys.keys


def all_batches(at: World | Rig) -> list[Batch]:
    """Every stored batch of one merchant, verified, and in an unbroken chain."""
    source = at.ledger if isinstance(at, World) else at
    own = Settlement(source.database, source.keyring, at.now)
    batches = [
        settlement.read_batch(
            own.file(each.merchant, each.programme, each.batch_no),
            each.manifest,
            source.keyring.keys.keys,
        )
        for each in own.batches()
    ]
    settlement_folder.check_sequence(batches)
    return batches


def settled(relief: World) -> list[tuple[str, int, str]]:
    """(incarnation, sequence, kind) of every line of every batch."""
    return [
        (line.incarnation, line.sequence, line.kind)
        for batch in all_batches(relief)
        for line in batch.lines
    ]


# ── the close ──────────────────────────────────────────────────────────────────────────────────


def test_fh2_a_close_takes_everything_and_running_it_twice_changes_nothing(
    relief: World,
) -> None:
    """What was booked stands in one batch, signed and readable; a second close makes nothing."""
    till, family = relief.till(), relief.family(20_000)
    redeem(till, family, 6_490, "S1-1")
    redeem(till, family, 1, "S1-2")
    assert relief.ledger.settlement.close(merchant="zhou", programme="flood-dairy")[
        0
    ].to_json() == {
        "merchant": "zhou",
        "programme": "flood-dairy",
        "batch_no": 1,
        "rows": 2,
        "net_minor": 6_491,
        "currency": "CNY",
    }
    (batch,) = all_batches(relief)
    before = relief.ledger.settlement.batches()
    assert relief.ledger.settlement.close() == []
    assert relief.ledger.settlement.batches() == before
    assert [line.amount_minor for line in batch.lines] == [6_490, 1]
    assert {line.store for line in batch.lines} == {"zhou-shop"}
    assert batch.manifest.funders == {"dairy-fund": 2_164, "red-cross": 4_327}
    assert [each.manifest for each in before] == [batch.manifest_jws]
    with till.journal._mutex:
        receipts = {str(a.slip["receipt_no"]) for a in till.journal.attempts()}
    assert {line.receipt_no for line in batch.lines} == receipts


def test_nothing_booked_makes_no_batch(relief: World) -> None:
    """A close on a day without a sale makes no file and uses up no number."""
    assert relief.ledger.settlement.close() == []
    redeem(relief.till(), relief.family(), 100, "S1-1")
    assert [each.batch_no for each in relief.ledger.settlement.close()] == [1]


def test_fh3_what_comes_after_the_close_is_in_the_next_batch_once(relief: World) -> None:
    """A sale after the cut goes to the next batch, and to no other."""
    till, family = relief.till(), relief.family()
    redeem(till, family, 6_000, "S1-1")
    relief.ledger.settlement.close()
    redeem(till, family, 500, "S1-2")
    relief.ledger.settlement.close()
    first, second = all_batches(relief)
    assert [line.amount_minor for line in first.lines] == [6_000]
    assert [line.amount_minor for line in second.lines] == [500]


def test_a_reversal_after_settlement_is_a_correcting_line(relief: World) -> None:
    """A sale settled yesterday and undone today is taken back under its own receipt number; the
    batch is below zero, and so are the funders' parts."""
    till, family = relief.till(), relief.family()
    redeem_unheard(till, family, 6_001, "S1-1")
    relief.ledger.settlement.close()
    assert till.cancel("S1-1").state == "reversed"
    (closed,) = relief.ledger.settlement.close()
    assert (closed.rows, closed.net_minor) == (1, -6_001)
    first, second = all_batches(relief)
    assert second.lines[0].kind == "reversal"
    assert second.lines[0].receipt_no == first.lines[0].receipt_no
    assert {f: -part for f, part in second.manifest.funders.items()} == first.manifest.funders


def test_sale_and_reversal_before_the_close_both_stand_in_the_file(relief: World) -> None:
    """An undone sale is two lines that come to nothing; the funders bear nothing."""
    till = relief.till()
    redeem_unheard(till, relief.family(), 6_000, "S1-1")
    till.cancel("S1-1")
    (closed,) = relief.ledger.settlement.close()
    assert (closed.rows, closed.net_minor) == (2, 0)
    assert set(all_batches(relief)[0].manifest.funders.values()) == {0}


def test_an_unknown_name_is_not_found(relief: World) -> None:
    """Closing for a merchant or programme that isn't there says so."""
    for names in ({"merchant": "nobody"}, {"programme": "nothing"}):
        with pytest.raises(Problem) as refused:
            relief.ledger.settlement.close(**names)
        assert (refused.value.code, refused.value.field) == ("not_found", *names)


class Stopped(Exception):
    """Stands for the power going off."""


@pytest.mark.parametrize("point", POINTS)
def test_fh1_a_close_cut_short_is_finished_by_the_next(relief: World, point: str) -> None:
    """Wherever a close is cut, nothing of a batch or all of it is there, and the next close makes
    the same file that the first would have made."""
    redeem(relief.till(), relief.family(), 6_000, "S1-1")
    ledger = relief.ledger

    def stop(reached: str) -> None:
        if reached == point:
            raise Stopped

    cut = Settlement(ledger.database, ledger.keyring, relief.now, stop)
    with pytest.raises(Stopped):
        cut.close()
    committed = point == "close_committed"
    assert len(ledger.settlement.batches()) == committed
    for table in ("batches", "batch_postings"):
        assert relief.rows(table) == committed
    assert len(ledger.settlement.close()) == (not committed)
    assert len(settled(relief)) == 1
    assert ledger.settlement.close() == []


def test_one_that_can_not_be_closed_keeps_no_other_shop_waiting(relief: World) -> None:
    """A merchant whose file can't be made is named, and every other merchant is closed all the
    same; nothing of the one is stored, so that mending it and closing again settles it whole."""
    office = relief.ledger.office
    for merchant in ("a-first", "z-last"):
        office.put_merchant(merchant, merchant)
        office.put_store(f"{merchant}-shop", merchant, merchant)
        relief.ledger.programmes.admit_store("flood-dairy", f"{merchant}-shop")
    family = relief.family(100_000)
    for n, store in enumerate(("a-first-shop", "zhou-shop", "z-last-shop"), 1):
        redeem(relief.till(f"till-{n}", store), family, 100 * n, "S-1")
    held = schema.postings
    of_zhou = held.c.merchant == "zhou"
    with relief.ledger.database.write() as connection:
        store = connection.scalars(select(held.c.store).where(of_zhou)).one()
        connection.execute(held.update().where(of_zhou).values(store="=1+1"))
    with pytest.raises(Problem) as refused:
        relief.ledger.settlement.close()
    assert refused.value.code == "internal"
    assert "zhou, flood-dairy" in refused.value.detail and "column store" in refused.value.detail
    assert [each.merchant for each in relief.ledger.settlement.batches()] == ["a-first", "z-last"]
    with relief.ledger.database.write() as connection:
        connection.execute(held.update().where(of_zhou).values(store=store))
    (closed,) = relief.ledger.settlement.close()
    assert (closed.merchant, closed.batch_no, closed.net_minor) == ("zhou", 1, 200)


def test_a_till_of_any_number_is_settled(rig: Rig) -> None:
    """A record's number may be as large as an integer of the protocol: what was booked under it
    stands in a file that a till can read."""
    holder, signer = rig.holder({"amount_minor": 12_000}), rig.signer()
    for sequence in (1, 10**12, MAX_INTEGER):
        assert rig.send_one(rig.redeem(signer, holder, 1_000, sequence=sequence)).result == "posted"
    own = Settlement(rig.database, rig.keyring, rig.now)
    (closed,) = own.close()
    assert (closed.rows, closed.net_minor) == (3, 3_000)
    (batch,) = all_batches(rig)
    assert [line.sequence for line in batch.lines] == [1, 10**12, MAX_INTEGER]


def test_no_redemption_is_larger_than_an_outcome_or_a_file_can_say(rig: Rig) -> None:
    """Lines that are each within 10^12 and together beyond it are not booked: their outcome could
    be read by no till, and their line would keep the whole file from being made."""
    top = money.MAX_AMOUNT_MINOR
    for grant in ("grant-2", "grant-3"):
        rig.office.fund("flood-dairy", "red-cross", top, grant)
    holder, signer = rig.holder(*[{"amount_minor": top}] * 2), rig.signer()

    def sale(*amounts: int) -> Envelope:
        lines = [Line(MILK, 1, "piece", amount) for amount in amounts]
        entries = [
            Entry(n, holder.vouchers[n - 1], 0, amount, 0) for n, amount in enumerate(amounts, 1)
        ]
        return rig.redeem(signer, holder, basket=lines, allocation=entries)

    with pytest.raises(Malformed, match="more than one redemption"):
        sale(top, 1)
    assert rig.send_one(sale(top - 1, 1)).result == "posted"
    own = Settlement(rig.database, rig.keyring, rig.now)
    assert [each.net_minor for each in own.close()] == [top]


def test_the_time_of_a_close_is_before_it_looks(rig: Rig) -> None:
    """`closed_at` is not later than what the close saw: a booking after that moment is told by its
    time to be in the next file, however long the file took to make."""
    holder, signer = rig.holder({"amount_minor": 12_000}), rig.signer()
    assert rig.send_one(rig.redeem(signer, holder, 1_000)).result == "posted"
    began = rig.now.at

    def slow(point: str) -> None:
        if point == "close_swept":
            rig.now.forward(hours=1)

    own = Settlement(rig.database, rig.keyring, rig.now, slow)
    own.close()
    (batch,) = all_batches(rig)
    assert batch.manifest.closed_at == began


# ── at the same time ───────────────────────────────────────────────────────────────────────────


def together(*works: Callable[[], None]) -> None:
    """Run all at once; what one of them raises is raised here."""
    failed: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_fh9_what_is_booked_while_batches_close_is_in_exactly_one(relief: World) -> None:
    """Tills sell and undo while two nodes close without pause: every booking is in exactly one
    batch, numbers have no gap, each file's chain holds, and the sums are those of the book."""
    tills = [relief.till(f"till-{n}") for n in range(2)]
    families = [relief.family(1_000_000) for _ in tills]
    selling = threading.Event()
    done: list[int] = []

    def sell(till: Till, family: Family) -> None:
        try:
            for number in range(12):
                if number % 4 == 3:
                    redeem_unheard(till, family, 700 + number, f"S-{number}")
                    till.cancel(f"S-{number}")
                else:
                    redeem(till, family, 700 + number, f"S-{number}")
        finally:
            done.append(1)
            if len(done) == len(tills):
                selling.set()

    with another_node(relief) as other:

        def close(node: Settlement) -> None:
            while not selling.is_set():
                node.close()

        together(
            *(partial(sell, *each) for each in zip(tills, families, strict=True)),
            partial(close, relief.ledger.settlement),
            partial(close, other),
        )
    relief.ledger.settlement.close()
    lines = settled(relief)
    assert len(lines) == len(set(lines)) == 2 * (12 + 3)
    with relief.ledger.database.read() as connection:
        entries, held = schema.entries.c, schema.batch_postings.c
        owed = connection.scalars(select(entries.amount).where(entries.account == "payable")).all()
        assert len(connection.scalars(select(held.posting)).all()) == len(lines)
    assert sum(batch.manifest.net_minor for batch in all_batches(relief)) == sum(owed)


@pytest.mark.parametrize("point", ["close_swept", "close_stored"])
def test_fh9_what_commits_while_a_batch_closes_is_in_the_next(rig: Rig, point: str) -> None:
    """A sale and the undo of a swept one that commit between a close's look and its COMMIT are in
    the next batch, each once; nothing of them is in the first."""
    holder, signer = rig.holder({"amount_minor": 12_000}), rig.signer()
    first = rig.redeem(signer, holder, 1_000)
    assert rig.send_one(first).result == "posted"

    def sell() -> None:
        assert rig.send_one(rig.redeem(signer, holder, 200)).result == "posted"
        assert rig.send_one(signer.reversal(rig.read(first))).result == "reversed"

    selling = threading.Thread(target=sell)

    def meanwhile(reached: str) -> None:
        if reached == point:
            selling.start()
            if not rig.database.is_sqlite:  # one writer: there it waits for the close
                selling.join(20)

    Settlement(rig.database, rig.keyring, rig.now, meanwhile).close()
    selling.join(20)
    own = Settlement(rig.database, rig.keyring, rig.now)
    own.close()
    assert lines_of(rig) == [
        [("redeem", 1_000)],
        [("reversal", -1_000), ("redeem", 200)],
    ]
    assert own.close() == []


def test_fh9_a_close_does_not_wait_for_a_sale_that_is_not_committed(rig: Rig) -> None:
    """A sale that is written and not yet committed is in no batch of a close that ends before it,
    and in exactly one after it."""
    holder, signer = rig.holder({"amount_minor": 12_000}), rig.signer()
    assert rig.send_one(rig.redeem(signer, holder, 1_000)).result == "posted"
    own = Settlement(rig.database, rig.keyring, rig.now)
    closing_too = threading.Thread(target=own.close)

    def meanwhile(reached: str) -> None:
        if reached == "written":
            closing_too.start()
            if not rig.database.is_sqlite:
                closing_too.join(20)
                assert lines_of(rig) == [[("redeem", 1_000)]]

    late = rig.redeem(signer, holder, 200)
    assert (
        rig.send_one(late, Book(rig.database, rig.keyring, rig.now, meanwhile)).result == "posted"
    )
    closing_too.join(20)
    own.close()
    assert [line for lines in lines_of(rig) for line in lines] == [
        ("redeem", 1_000),
        ("redeem", 200),
    ]


def lines_of(rig: Rig) -> list[list[tuple[str, int]]]:
    """(kind, amount) of each line, batch by batch."""
    return [[(line.kind, line.amount_minor) for line in each.lines] for each in all_batches(rig)]


@contextmanager
def another_node(relief: World) -> Iterator[Settlement]:
    """A second server's settlement: its own connections on PostgreSQL; SQLite has one process."""
    ledger = relief.ledger
    if ledger.database.is_sqlite:
        yield Settlement(ledger.database, ledger.keyring, relief.now)
        return
    database = Database(relief.settings.database)
    try:
        yield Settlement(database, ledger.keyring, relief.now)
    finally:
        database.close()


def test_fh2_two_closes_at_once_make_one_batch(relief: World) -> None:
    """Two nodes that close in the same moment make one file between them, every time."""
    till, family = relief.till(), relief.family(100_000)
    with another_node(relief) as other:
        for number in range(1, 6):
            redeem(till, family, 100, f"S-{number}")
            start = threading.Barrier(2)
            made: list[int] = []

            def close(node: Settlement, start: threading.Barrier, made: list[int]) -> None:
                start.wait(20)
                made.extend(each.batch_no for each in node.close())

            together(
                partial(close, relief.ledger.settlement, start, made),
                partial(close, other, start, made),
            )
            assert made == [number]
    assert len(all_batches(relief)) == 5


# ── the funders' parts ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "case", VECTORS["funders_parts"], ids=[case["name"] for case in VECTORS["funders_parts"]]
)
def test_funders_parts_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    """Batch after batch, each funder's part is the frozen one."""
    assigned: dict[str, int] = {}
    for batch in case["batches"]:
        parts = parts_of(batch["net_minor"], batch["put_in_minor"], assigned)
        assert parts == batch["parts_minor"]
        assigned = {name: assigned.get(name, 0) + part for name, part in parts.items()}


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


@given(
    st.lists(
        st.tuples(
            st.dictionaries(NAMES, st.integers(1, 10**9), max_size=3), st.integers(-(10**6), 10**7)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_no_funder_is_ever_a_minor_unit_off(steps: list[tuple[dict[str, int], int]]) -> None:
    """Funders put in more or join at any time, batches pay or take back: each batch's parts sum to
    its net, and over all batches each funder bears its share to less than a minor unit."""
    weights = {"a": 1}
    assigned: dict[str, int] = {}
    settled_minor = 0
    for put_in, net_minor in steps:
        for name, amount in put_in.items():
            weights[name] = weights.get(name, 0) + amount
        net_minor = max(net_minor, -settled_minor)  # nothing is taken back that was not paid
        parts = parts_of(net_minor, weights, assigned)
        assert sum(parts.values()) == net_minor and list(parts) == sorted(weights)
        settled_minor += net_minor
        assigned = {name: assigned.get(name, 0) + part for name, part in parts.items()}
        total = sum(weights.values())
        for name, weight in weights.items():
            assert abs(assigned[name] * total - settled_minor * weight) < total


def test_parts_hold_over_all_merchants_and_for_funders_that_join(relief: World) -> None:
    """Two shops and a funder that joins later: over all batches of the programme nobody is a minor
    unit off, though each shop's batches alone would round otherwise."""
    office = relief.ledger.office
    office.put_merchant("second", "二店")
    office.put_store("second-shop", "second", "二店")
    relief.ledger.programmes.admit_store("flood-dairy", "second-shop")
    tills = [relief.till("till-1"), relief.till("till-2", "second-shop")]
    family = relief.family(100_000)
    for day in range(4):
        for till in tills:
            redeem(till, family, 1, f"S-{day}")
        relief.ledger.settlement.close()
        if day == 1:
            office.put_funder("a-late-one", "A late one")
            office.fund("flood-dairy", "a-late-one", 100_000_000, "grant-3")
    borne: dict[str, int] = {}
    for each in relief.ledger.settlement.batches():
        manifest, _ = settlement.read_manifest(each.manifest, keys_of(relief))
        for name, part in manifest.funders.items():
            borne[name] = borne.get(name, 0) + part
    assert borne == {"a-late-one": 4, "dairy-fund": 1, "red-cross": 3}


# ── over HTTP ──────────────────────────────────────────────────────────────────────────────────


def folder_of(till: Till) -> TillFolder:
    return TillFolder.load(till.folder)


def fetch_all(relief: World, till: Till, to: Path) -> tuple[int, int]:
    own = folder_of(till)
    with closing(own.client(relief.now)) as client:
        return fetch(client, own.enrolled, to)


def run(*arguments: str) -> int:
    """What `carepos <arguments>` returns, or raises before it is made into an exit code."""
    parser = argparse.ArgumentParser()
    settlement_commands.group(parser.add_subparsers())
    chosen = parser.parse_args(arguments)
    return int(chosen.run(chosen))


def test_a_shop_fetches_its_files_and_reconciles(
    relief: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From sale to agreement over real HTTP; a planted difference is named and changes the exit
    code; fetching again fetches nothing, a damaged file is fetched anew."""
    till, family, to = relief.till(), relief.family(), tmp_path / "files"
    redeem(till, family, 6_000, "S1-1")
    redeem_unheard(till, family, 700, "S1-2")
    till.cancel("S1-2")
    relief.now.forward(hours=1)
    relief.ledger.settlement.close()
    relief.now.forward(hours=1)
    redeem(till, family, 500, "S1-3")
    relief.now.forward(hours=1)
    relief.ledger.settlement.close()
    assert fetch_all(relief, till, to) == (0, 2)
    assert fetch_all(relief, till, to) == (2, 0)
    names = [f"settlement-zhou-flood-dairy-00000{n}.csv" for n in (1, 2)]
    assert sorted(path.name for path in to.glob("*.csv")) == names

    reconcile = ("reconcile", "--till", str(till.folder), "--settlements", str(to))
    assert run(*reconcile) == 0
    assert "RECONCILED 对账完成" in capsys.readouterr().out
    assert run("settlement", "check", str(to)) == 0
    assert run("settlement", "check", str(to), "--till", str(till.folder)) == 0
    capsys.readouterr()

    last = to / names[1]
    good = last.read_bytes()
    last.write_bytes(good.replace(b",500,", b",501,"))
    with pytest.raises(Malformed, match="501, the manifest says 1 lines and 500"):
        run(*reconcile)
    assert run("settlement", "check", str(to)) == 1
    assert f"REFUSED 拒收 {names[1]}" in capsys.readouterr().out
    assert fetch_all(relief, till, to) == (1, 1)
    assert last.read_bytes() == good

    (to / names[1]).unlink()
    (to / settlement.manifest_name(names[1])).unlink()
    assert run(*reconcile, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["cause"] for each in shown["differences"]] == ["not_settled_yet"]

    # The ledger's word against its own file: the same sale, but no file pays it.
    with relief.ledger.database.write() as connection:
        connection.execute(schema.batch_postings.delete())
        connection.execute(schema.batches.delete())
        connection.execute(schema.batch_shares.delete())
        held = schema.postings.c
        of_sale = held.sequence == till.journal.of_checkout("S1-1")[0].sequence
        connection.execute(schema.postings.delete().where(of_sale))
    relief.ledger.settlement.close()
    other = tmp_path / "other"
    assert fetch_all(relief, till, other) == (0, 1)
    assert run("reconcile", "--till", str(till.folder), "--settlements", str(other)) == 1
    assert "missing in the files" in capsys.readouterr().out
    with pytest.raises(Malformed, match="another file of this number"):
        fetch_all(relief, till, to)
    assert (to / names[0]).read_bytes() != (other / names[0]).read_bytes()


def test_a_folder_keeps_to_one_ledger(relief: World, tmp_path: Path) -> None:
    """Files of two ledgers are not mixed, and the keys kept beside them are not replaced."""
    till, to = relief.till(), tmp_path / "files"
    fetch_all(relief, till, to)
    (tmp_path / "elsewhere").mkdir()
    with world(tmp_path / "elsewhere") as another:
        with pytest.raises(Malformed, match="another ledger's"):
            fetch_all(another, another.till(), to)
        with pytest.raises(Malformed, match="one merchant at one ledger"):
            run(
                *("reconcile", "--till", str(till.folder)),
                *("--till", str(another.tills[0].folder), "--settlements", str(to)),
            )
    with pytest.raises(Malformed, match="name a till with --till"):
        run("settlement", "check", str(tmp_path / "elsewhere"))
    with pytest.raises(Malformed, match="is no folder"):
        run("settlement", "check", str(tmp_path / "nowhere"))
    shutil.rmtree(to)


def test_years_of_files_are_listed_in_parts(relief: World) -> None:
    """However many settlements there are, and however many funders each names, an answer stays
    within what a till reads: the till asks on until it has them all, in order."""
    till = relief.till()
    manifest = "x" * 16_000  # the largest that can be signed
    rows = [
        {
            "merchant": "zhou",
            "programme": programme,
            "batch_no": number,
            "closed_at": "",
            "file": b"",
        }
        for programme in ("flood-dairy", "a-first")
        for number in range(1, 351)
    ]
    with relief.ledger.database.write() as connection:
        held = schema.programmes
        row = dict(connection.execute(select(held)).mappings().one())
        connection.execute(held.insert(), [{**row, "programme": "a-first"}])
        connection.execute(schema.batches.insert(), [{**row, "manifest": manifest} for row in rows])
    with closing(folder_of(till).client(relief.now)) as client:
        listed = [(each["programme"], each["batch_no"]) for each in client.settlements()]
        answer, _ = client._read("GET", "/v1/settlements")
        assert len(answer["settlements"]) == MAX_LISTED
    wanted = [("a-first", n) for n in range(1, 351)] + [("flood-dairy", n) for n in range(1, 351)]
    assert listed == wanted


def test_a_list_that_does_not_go_on_is_no_answer(relief: World) -> None:
    """A ledger that answers the same part again and again, or no list, holds no till for ever."""
    till = relief.till()
    page = [{"programme": "flood-dairy", "batch_no": 1, "manifest": ""}]
    one = page[0]
    wrong: list[object] = [
        *(page, [1], [{}], {}, None),
        *([{**one, name: wrong}] for name in ("programme", "batch_no") for wrong in (True, "=", 0)),
    ]
    for settlements in wrong:
        with closing(folder_of(till).client(relief.now)) as client:
            client._read = lambda *_, found=settlements: ({"settlements": found}, "")  # type: ignore[method-assign]
            with pytest.raises(Unreachable, match="not an answer of a ledger"):
                client.settlements()


def test_what_a_lying_ledger_lists_is_not_kept(relief: World, tmp_path: Path) -> None:
    """A settlement under another number, another merchant's, one that the ledger's keys did not
    sign, and one whose file is cut off are refused by name, and nothing of them is kept."""
    till = relief.till()
    redeem(till, relief.family(), 100, "S1-1")
    relief.ledger.settlement.close()
    (stored,) = relief.ledger.settlement.batches()
    manifest, _ = settlement.read_manifest(stored.manifest, keys_of(relief))
    file = relief.ledger.settlement.file("zhou", "flood-dairy", 1)
    good = {"programme": "flood-dairy", "batch_no": 1, "manifest": stored.manifest}
    other = dataclasses.replace(manifest, merchant="second")
    by_ledger = jws.sign(other.to_json(), typ=jws.MANIFEST, key=relief.ledger.keyring.signing)
    by_stranger = jws.sign(manifest.to_json(), typ=jws.MANIFEST, key=SigningKey(bytes(32)))
    lies: list[tuple[object, bytes, str]] = [
        ({**good, "batch_no": 2}, file, "is not the file it is listed as"),
        ({**good, "programme": "../etc"}, file, "is not the file it is listed as"),
        ({**good, "manifest": by_ledger}, file, "is the file of second, not of zhou"),
        ({**good, "manifest": by_stranger}, file, "not known here"),
        ({**good, "manifest": None}, file, "must be a string"),
        (good, file[:-1], "its last line is cut off"),
        (good, b"", "its last line is cut off"),
    ]
    own = folder_of(till)
    for number, (listed, data, why) in enumerate(lies):
        to = tmp_path / str(number)
        with closing(own.client(relief.now)) as client:
            client.settlements = lambda listed=listed: [listed]  # type: ignore[method-assign,misc]
            client.settlement_file = lambda *_, data=data: data  # type: ignore[method-assign]
            with pytest.raises(Malformed, match=why):
                fetch(client, own.enrolled, to)
        assert [path.name for path in to.iterdir()] == [settlement_commands.KEYS_FILE]


def test_the_newest_keys_stay_beside_the_files(relief: World, tmp_path: Path) -> None:
    """A till that was enrolled before the ledger's keys changed doesn't put its older set over the
    newer one, with which files would no longer be believed."""
    till, to = relief.till(), tmp_path / "files"
    fetch_all(relief, till, to)
    kept = to / settlement_commands.KEYS_FILE
    newer = keyset_of(relief, version=2)
    document = json.loads(kept.read_bytes())
    kept.write_text(json.dumps({**document, "keyset": newer}))
    fetch_all(relief, till, to)
    assert json.loads(kept.read_bytes())["keyset"] == newer


def keyset_of(relief: World, version: int) -> str:
    """The ledger's key set as its root signs it, at another version."""
    document = json.loads(requests.get(f"{relief.url}/.well-known/jwks.json", timeout=20).content)
    root = SigningKey.load(relief.settings.folder / "root.key")
    payload = jws.verify(document["keyset"], typ=jws.KEYSET, keys=KeySet([root.public])).payload
    return jws.sign({**payload, "version": version}, typ=jws.KEYSET, key=root)


def test_a_damaged_file_of_keys_is_named(relief: World, tmp_path: Path) -> None:
    """What a crash or a person left of the kept keys is refused with its name and what to do."""
    till, to = relief.till(), tmp_path / "files"
    fetch_all(relief, till, to)
    kept = to / settlement_commands.KEYS_FILE
    for damaged in (b"", b"{", b"[]", kept.read_bytes().replace(b'"x": "', b'"x": "A')):
        kept.write_bytes(damaged)
        for call in (
            lambda: run("settlement", "check", str(to)),
            lambda: fetch_all(relief, till, to),
        ):
            with pytest.raises(Malformed) as refused:
                call()
            assert str(refused.value).startswith(f"{kept}: ")
            assert "remove it and fetch again" in str(refused.value)


def test_a_file_that_the_ledger_no_longer_lists_is_named(relief: World, tmp_path: Path) -> None:
    """A shop that holds a settlement which its ledger has lost learns of it, and keeps the file."""
    till, to = relief.till(), tmp_path / "files"
    redeem(till, relief.family(), 100, "S1-1")
    relief.ledger.settlement.close()
    assert fetch_all(relief, till, to) == (0, 1)
    with relief.ledger.database.write() as connection:
        for table in (schema.batch_postings, schema.batch_shares, schema.batches):
            connection.execute(table.delete())
    name = "settlement-zhou-flood-dairy-000001.csv"
    with pytest.raises(Malformed, match=f"{name}: .*no longer lists it"):
        fetch_all(relief, till, to)
    assert (to / name).exists()


def test_a_journal_that_is_damaged_or_another_tills_is_refused(
    relief: World, tmp_path: Path
) -> None:
    """A journal that can't be read to its end, or that isn't this till's, is no side to compare."""
    till, other, to = relief.till(), relief.till("till-2"), tmp_path / "files"
    for number in range(20):
        redeem(till, relief.family(), 100, f"S1-{number}")
    fetch_all(relief, till, to)
    for each in (till, other):
        each.close()
    own = till.folder / "journal.db"
    whole = own.read_bytes()
    reconcile = ("reconcile", "--till", str(till.folder), "--settlements", str(to))
    assert run(*reconcile) == 0
    with sqlite3.connect(own) as connection:
        (written,) = connection.execute("SELECT jws FROM records WHERE sequence = 12").fetchone()
    connection.close()
    page = whole.index(written[-80:].encode()) // 4096 * 4096
    own.write_bytes(whole[:page] + bytes(4096) + whole[page + 4096 :])
    with pytest.raises(JournalError, match="can't be read"):
        run(*reconcile)
    own.write_bytes((other.folder / "journal.db").read_bytes())
    with pytest.raises(JournalError, match="is another till's"):
        run(*reconcile)


def test_a_till_reads_only_its_own_merchants_files(relief: World, tmp_path: Path) -> None:
    """Another merchant's till sees none of these files and can't fetch one by its address."""
    office = relief.ledger.office
    office.put_merchant("second", "二店")
    office.put_store("second-shop", "second", "二店")
    redeem(relief.till(), relief.family(), 100, "S1-1")
    relief.ledger.settlement.close()
    stranger = folder_of(relief.till("till-2", "second-shop"))
    with closing(stranger.client(relief.now)) as client:
        assert client.settlements() == []
        with pytest.raises(NotDecided) as refused:
            client.settlement_file("flood-dairy", 1)
        assert (refused.value.status, refused.value.code) == (404, "not_found")
    own = folder_of(relief.tills[0])
    with closing(own.client(relief.now)) as client:
        assert len(client.settlements()) == 1
        for after, left in (("flood-dairy:0", None), ("flood-dairy:1", 0), ("a:9", 1)):
            if left is None:
                with pytest.raises(NotDecided, match="batch number"):
                    client._read("GET", f"/v1/settlements?after={after}")
                continue
            answer, _ = client._read("GET", f"/v1/settlements?after={after}")
            assert len(answer["settlements"]) == left
        for bad in ("01", "x", "1e3", "-1", "9" * 30, "１"):
            with pytest.raises(NotDecided) as refused:
                client.settlement_file("flood-dairy", bad)  # type: ignore[arg-type]
            assert refused.value.status in (400, 401)
        with pytest.raises(NotDecided, match="only after may be asked"):
            client._read("GET", "/v1/settlements?before=x")


def test_operators_close_over_http(relief: World) -> None:
    """`close` answers what it made; wrong bodies and secrets change nothing."""
    redeem(relief.till(), relief.family(), 100, "S1-1")
    secret = new_secret()
    relief.ledger.operators.add("ops", secret)
    known = {"Authorization": f"Bearer {secret}"}

    def post(body: object, headers: Mapping[str, str] = known) -> requests.Response:
        address = f"{relief.url}/v1/operators/close"
        return requests.post(address, json=body, headers=headers, timeout=20)

    def listed(query: str = "", headers: Mapping[str, str] = known) -> requests.Response:
        address = f"{relief.url}/v1/operators/settlements{query}"
        return requests.get(address, headers=headers, timeout=20)

    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer nobody"},
        {"Authorization": secret},
    ]
    for headers in wrong:
        assert (post({}, headers).status_code, listed("", headers).status_code) == (401, 401)
    bodies: list[object] = [{"merchants": "zhou"}, {"merchant": 1}, {"merchant": "=X"}, [], None]
    assert {post(body).status_code for body in bodies} <= {400, 415}
    gone = post({"merchant": "nobody"})
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    assert relief.rows("batches") == 0
    (closed,) = post({"programme": "flood-dairy"}).json()["closed"]
    assert (closed["merchant"], closed["batch_no"], closed["net_minor"]) == ("zhou", 1, 100)
    assert post({}).json() == {"closed": []}
    (only,) = listed("?merchant=zhou").json()["settlements"]
    assert (only["programme"], only["batch_no"]) == ("flood-dairy", 1)
    settlement.read_manifest(only["manifest"], keys_of(relief))
    assert listed("?merchant=nobody").json() == {"settlements": []}
    assert {listed(query).status_code for query in ("?a=b", "?merchant==X")} == {400}
