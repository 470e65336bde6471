"""A till changes its key, and no sale is lost over it: docs/identity.md §11, over real HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carepos import (
    EnrolmentFailed,
    JournalCorrupt,
    Malformed,
    NotDecided,
    Refused,
    Till,
    key_change,
)
from carepos.journal_view import JournalView
from carepos.key_change import POINTS, load_terminal, wish
from carepos.keys import KeySet, SigningKey
from carepos.record import envelope
from carepos.settlement_commands import TillFolder
from carepos_plugin.commands import verify
from tests.faulty_proxy import Mode
from tests.stories.test_redemption import Crash, Shop, a_shop
from tests.world import Family, World, milk, world

SWITCHED = ("key_switched", "key_renamed", "start_written")
"""Points from which the new key is the till's, whatever happens."""


@pytest.fixture(scope="module")
def one_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("ledger")) as made:
        made.families = 1_000
        yield made


@pytest.fixture
def shop(one_ledger: World, tmp_path: Path) -> Iterator[Shop]:
    with a_shop(one_ledger, tmp_path / "till") as made:
        yield made


@pytest.fixture
def either(tmp_path: Path, database_url: str) -> Iterator[Shop]:
    with world(tmp_path, database_url) as alone, a_shop(alone, tmp_path / "till") as made:
        yield made


@pytest.fixture
def family(shop: Shop) -> Family:
    return shop.world.family(12_000)


def key_of(shop: Shop) -> str:
    return shop.till.key_state.kid


def is_changing(shop: Shop) -> bool:
    return shop.till.key_state.changing


def sells(shop: Shop, family: Family, checkout: str, amount_minor: int = 1_000) -> bool:
    sale = shop.redeem(family, milk(amount_minor), checkout=checkout)
    return sale.state == "confirmed"


def signers(shop: Shop) -> list[str]:
    """The kid of every record, in order."""
    return [each.kid for each in shop.till.journal.records()]


def whole(shop: Shop) -> int:
    """Every way to read the chain reads all of it: the till's, one beside it, `till verify`."""
    count = shop.till.journal.verify()
    beside = TillFolder.load(shop.folder)
    view = beside.journal()
    try:
        assert verify(view, beside.enrolled)[0] == count
    finally:
        view.close()
    return count


def listed(shop: Shop) -> dict[str, object]:
    name = shop.till.enrolment.terminal
    return next(t for t in shop.world.ledger.terminals.listed() if t["terminal"] == name)


# the way it should be


def test_a_till_changes_its_key_and_sells_on(either: Shop) -> None:
    """Before, during, after: each sale is confirmed, the chain is one, the old key's file gone."""
    family = either.world.family(12_000)
    first = key_of(either)
    secret = (either.folder / "terminal.key").read_bytes()
    assert sells(either, family, "S1")
    state = either.till.change_key()
    assert (state.changing, state.problem) == (False, None) and state.kid != first
    assert sells(either, family, "S2") and either.balance() == 10_000
    assert listed(either)["kid"] == state.kid
    assert either.till.enrolment.key.kid == state.kid
    assert [each.key.kid for each in either.till.enrolment.former] == [first]
    files = b"".join(f.read_bytes() for f in either.folder.iterdir() if f.is_file())
    assert secret.strip() not in files and not (either.folder / "next.key").exists()
    if os.name == "posix":
        assert (either.folder / "terminal.key").stat().st_mode & 0o777 == 0o600
    assert signers(either) == [first] * 3 + [state.kid] * 2
    assert whole(either) == 5
    either.reopen()
    assert key_of(either) == state.kid and sells(either, family, "S3")
    assert either.till.close_day().acknowledged
    assert whole(either) == 8


def test_a_key_may_change_again_and_again(shop: Shop, family: Family) -> None:
    """Three changes in a row, a sale between them; all of the chain stays readable."""
    seen = [key_of(shop)]
    for n in range(3):
        assert sells(shop, family, f"S{n}")
        seen.append(shop.till.change_key().kid)
    shop.reopen()
    assert len(set(seen)) == 4 and key_of(shop) == seen[-1] == listed(shop)["kid"]
    assert list(dict.fromkeys(signers(shop))) == seen and whole(shop)


def test_without_a_network_the_change_waits_and_selling_goes_on(shop: Shop, family: Family) -> None:
    """Nothing is switched before the ledger has posted the change: the old key sells on, also
    through restarts, and the change goes through by itself when the network is back."""
    first = key_of(shop)
    shop.proxy.fail("drop_before", times=2)
    state = shop.till.change_key()
    assert state.changing and state.kid == first and state.problem
    assert shop.till.change_key().changing  # the same change, not another one
    shop.reopen()
    assert is_changing(shop) and key_of(shop) == first
    assert len(shop.till.journal.records("key_change")) == 1
    # The sale takes the change along; it is switched when the till settles the next time.
    assert sells(shop, family, "S1") and key_of(shop) == first
    shop.till.settle()
    assert key_of(shop) != first and not is_changing(shop)
    assert sells(shop, family, "S2") and whole(shop)


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "garble", "html_200", "redirect"])
@pytest.mark.parametrize("target", ["POST /v1/records", "GET /v1/terminal"])
def test_an_answer_that_is_lost_changes_nothing_by_half(
    shop: Shop, family: Family, target: str, fault: Mode
) -> None:
    """Without the outcome, or without the certificate, the old key signs; then it goes on."""
    shop.till.settle()
    first = key_of(shop)
    shop.proxy.fail(fault, target=target)
    state = shop.till.change_key()
    assert state.changing and state.kid == first and state.problem
    assert sells(shop, family, "S1") and shop.till.journal.records()[-1].kid == first
    shop.till.settle()
    assert key_of(shop) != first and sells(shop, family, "S2") and whole(shop)


def test_another_tills_certificate_is_not_taken(
    shop: Shop, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's word for another key or another terminal does not switch."""
    first = key_of(shop)
    monkeypatch.setattr(
        shop.till._client, "certificate", lambda _key: shop.till.enrolment.certificate
    )
    state = shop.till.change_key()
    assert state.kid == first and "another key" in (state.problem or "")
    monkeypatch.undo()
    shop.till.settle()
    assert key_of(shop) != first


# wherever it stops


def stop_at(shop: Shop, point: str) -> None:
    """Change the key, and die at `point`."""

    def reached(name: str) -> None:
        if name == point:
            raise Crash

    shop.reopen(reached=reached)
    with pytest.raises(Crash):
        shop.till.change_key()


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_leaves_one_key_or_the_other(
    shop: Shop, family: Family, point: str
) -> None:
    """After the restart the till sells at once with the key it has, goes on with the change, and
    the whole chain verifies. Nothing is lost and nothing posted twice."""
    first = key_of(shop)
    assert sells(shop, family, "S1")
    stop_at(shop, point)
    shop.reopen()
    assert (key_of(shop) != first) is (point in SWITCHED)
    assert sells(shop, family, "S2")
    shop.till.settle()
    assert key_of(shop) != first and not shop.till.key_state.changing
    assert sells(shop, family, "S3") and shop.balance() == 9_000
    shop.till.settle()
    assert listed(shop)["kid"] == key_of(shop) and not (shop.folder / "next.key").exists()
    assert len(shop.till.journal.records("key_change")) == 1 and whole(shop)
    assert shop.till.close_day().acknowledged


@pytest.mark.parametrize("point", POINTS)
def test_inv_8_recovering_twice_is_recovering_once(shop: Shop, family: Family, point: str) -> None:
    """Restarted three times without a network after the crash: the same key, no more records than
    the restarts' own."""
    stop_at(shop, point)
    shop.proxy.fail("drop_before", times=100)
    shop.reopen()
    once, written = key_of(shop), shop.till.journal.sequence
    shop.reopen()
    shop.reopen()
    assert key_of(shop) == once and shop.till.journal.sequence == written + 2 and whole(shop)


_CHANGE = """
import os, signal, sys
from datetime import datetime
from carepos import Till

def reached(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

at = datetime.fromisoformat(sys.argv[3])
Till.open(sys.argv[1], now=lambda: at, reached=reached).change_key()
"""


@pytest.mark.parametrize("point", ["change_written", "certificate_fetched", *SWITCHED])
def test_a_killed_process_leaves_one_key_or_the_other(
    shop: Shop, family: Family, point: str
) -> None:
    """The same with a process that really dies."""
    first = key_of(shop)
    shop.till.close()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(_CHANGE),
            str(shop.folder),
            point,
            shop.world.now().isoformat(),
        ],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    shop.reopen()
    assert (key_of(shop) != first) is (point in SWITCHED)
    shop.till.settle()
    assert key_of(shop) != first and whole(shop)


def test_a_key_half_erased_is_no_harm(shop: Shop, family: Family) -> None:
    """The old key was overwritten and the machine went off before the new one had its name."""
    stop_at(shop, "key_switched")
    (shop.folder / "terminal.key").write_bytes(b"\0" * 44)
    shop.reopen()
    assert sells(shop, family, "S1") and whole(shop)
    assert SigningKey.load(shop.folder / "terminal.key").kid == key_of(shop)


def test_two_that_go_on_at_once_make_one_change(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upkeep saw the wish and waited while the operator's own call changed the key: it finds the
    wish fulfilled, and announces nothing that nobody asked for."""
    shop.till.change_key()
    seen, is_wished = [True, True], key_change.is_wished  # before it waited: settle, write
    monkeypatch.setattr(
        key_change, "is_wished", lambda folder: seen.pop() if seen else is_wished(folder)
    )
    shop.till.settle()
    assert not (shop.folder / "next.key").exists()
    assert len(shop.till.journal.records("key_change")) == 1


def test_a_late_wish_takes_no_waiting_keys_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's command saw no key, was slow, and writes when one waits already: that one
    stays, for the till may sign with it by now."""
    assert wish(tmp_path)
    waiting = (tmp_path / "next.key").read_bytes()
    unseen, load = [True], key_change._load
    monkeypatch.setattr(
        key_change, "_load", lambda path: None if unseen and unseen.pop() else load(path)
    )
    assert not wish(tmp_path)
    assert (tmp_path / "next.key").read_bytes() == waiting


def test_a_waiting_key_that_was_damaged_is_replaced(shop: Shop, family: Family) -> None:
    """Nothing was ever signed with it: another one takes its place, and selling never stops."""
    first = key_of(shop)
    stop_at(shop, "change_posted")
    (shop.folder / "next.key").write_bytes(b"")
    shop.reopen()
    assert key_of(shop) == first and sells(shop, family, "S1")
    shop.till.settle()
    assert key_of(shop) not in (first, "") and sells(shop, family, "S2") and whole(shop)
    # Two keys were announced at once: the office hears of it.
    alarms = shop.world.ledger.terminals.alarms(0)
    assert [a["kind"] for a in alarms if a["terminal"] == shop.till.enrolment.terminal] == [
        "key_change"
    ]


def test_sales_that_are_sent_after_the_switch_keep_their_key(shop: Shop, family: Family) -> None:
    """A sale whose answer was lost under the old key is settled after the change as before it."""
    shop.proxy.fail("drop_before")
    assert shop.redeem(family, milk(1_000), checkout="S1").state == "unknown"
    shop.proxy.fail("drop_after")
    assert shop.redeem(family, milk(1_000), checkout="S2").state == "unknown"
    assert not shop.till.change_key().changing
    assert shop.till.retry("S1").state == "confirmed" == shop.till.retry("S2").state
    assert shop.balance() == 10_000 and whole(shop)


def test_selling_while_the_key_changes(shop: Shop) -> None:
    """Sales from other threads during the change are all confirmed, each under one of the keys."""
    families = [shop.world.family(12_000) for _ in range(6)]
    offers = [shop.offer(each, milk(1_000)) for each in families]
    states: list[str] = []

    def sell(n: int) -> None:
        states.append(shop.till.redeem(offers[n], checkout=f"S{n}", cashier="c01").state)

    threads = [threading.Thread(target=sell, args=[n]) for n in range(6)]
    for each in threads:
        each.start()
    state = shop.till.change_key()
    for each in threads:
        each.join()
    assert not state.changing and states == ["confirmed"] * 6 and whole(shop)


# who reads the chain


def test_a_record_of_a_key_that_nobody_announced_is_found(shop: Shop, family: Family) -> None:
    """The old key may not sign again after the new one, nor a key that no record announced."""
    old = SigningKey.load(shop.folder / "terminal.key")
    shop.till.change_key()
    fresh = SigningKey.load(shop.folder / "terminal.key")
    shop.till.journal.use_key(old)
    shop.till.journal.write_start("old again")
    with pytest.raises(JournalCorrupt, match="no record before it announced"):
        shop.till.journal.verify()
    beside = TillFolder.load(shop.folder)
    view = beside.journal()
    with pytest.raises(JournalCorrupt, match="no record before it announced"):
        verify(view, beside.enrolled)
    view.close()
    shop.till.journal.use_key(fresh)


def test_the_journal_needs_the_keys_of_before(shop: Shop, family: Family) -> None:
    """Without the former key the chain can't be read; the enrolment keeps it, with the ledger's
    certificate, and one that the ledger did not certify is not taken."""
    shop.till.change_key()
    key = SigningKey.load(shop.folder / "terminal.key")
    view = JournalView.open(shop.folder / "journal.db", KeySet([key.public]))
    with pytest.raises(Malformed):
        view.records()
    view.close()
    path = shop.folder / "enrolment.json"
    document = json.loads(path.read_text())
    document["former"][0]["key"] = SigningKey.generate().public.to_jwk()
    path.write_text(json.dumps(document))
    with pytest.raises(EnrolmentFailed, match="another key"):
        load_terminal(shop.folder)


def test_a_key_too_many_stops_the_change_and_not_the_till(
    shop: Shop, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the enrolment's file could not hold is not written: the till sells on under the key it
    has, says why, and opens again."""
    monkeypatch.setattr("carepos.enrolment.MAX_FORMER", 1)
    shop.till.change_key()
    last = key_of(shop)
    state = shop.till.change_key()
    assert state.kid == last and "enrol a new till" in str(state.problem)
    assert sells(shop, family, "S1")
    shop.reopen()
    assert key_of(shop) == last and sells(shop, family, "S2")


# T-1: a stolen key


class Thief:
    """A copy of a till's folder as it was at one moment, on another machine."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        self.shop = shop
        shop.till.journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copytree(shop.folder, folder, ignore=shutil.ignore_patterns("*.lock", "*-shm"))
        self.till = Till.open(folder, now=shop.world.now, answer_timeout_s=20)

    def sends(self, *names: str) -> list[str]:
        """What is answered to the copy's records of these kinds, by result or code."""
        records = [each for each in self.till.journal.records() if each.kind in names]
        results = self.till._client.send([envelope(each) for each in records])
        return ["outcome" if "outcome" in r else r["problem"]["code"] for r in results]


def alarms(shop: Shop) -> list[str]:
    name = shop.till.enrolment.terminal
    found = shop.world.ledger.terminals.alarms(0)
    return [str(each["kind"]) for each in found if each["terminal"] == name]


def test_t_1_a_copied_key_that_sells_beside_the_till_is_found(either: Shop, tmp_path: Path) -> None:
    """T-1: two machines write one chain: the second record at a number is held, both machines are
    stopped, and the office is told."""
    family = either.world.family(12_000)
    assert sells(either, family, "S1")
    thief = Thief(either, tmp_path / "copy")
    try:
        either.reopen()  # the till writes the next number…
        assert sells(either, family, "S2")
        before = either.balance()
        holder = thief.till.scan(either.world.family(12_000).token())
        stolen = thief.till.propose(holder, [milk(5_000)])
        sale = thief.till.redeem(stolen, checkout="X1", cashier="c09")  # …and the copy too
        assert (sale.state, sale.held) == ("unknown", "terminal_forked")
        assert either.balance() == before + 12_000 and alarms(either).count("fork") == 1
        with pytest.raises(NotDecided, match="unauthorised"):
            either.till.scan(family.token())
    finally:
        thief.till.close()


def test_t_1_after_revocation_nothing_but_stored_outcomes(either: Shop, tmp_path: Path) -> None:
    """T-1: a revoked terminal, and so its copy, is answered what was decided before and no more."""
    family = either.world.family(12_000)
    assert sells(either, family, "S1")
    thief = Thief(either, tmp_path / "copy")
    try:
        offer = thief.till.propose(family.token(), [milk(1_000)])
        either.world.ledger.terminals.set_status(either.till.enrolment.terminal, "revoked")
        before = either.balance()
        sale = thief.till.redeem(offer, checkout="X1", cashier="c09")
        assert (sale.state, sale.held) == ("unknown", "terminal_revoked")
        with pytest.raises(Refused, match="terminal_revoked"):
            thief.till.scan(family.token())
        stored = next(e for e in thief.till.journal.records() if e.kind == "redeem")
        assert "outcome" in thief.till._client.send([envelope(stored)])[0]
        assert thief.till.change_key().problem and either.balance() == before
    finally:
        thief.till.close()


def test_t_1_after_a_key_change_the_copied_key_is_worth_nothing(
    either: Shop, tmp_path: Path
) -> None:
    """T-1: once the new key has spoken, the copy can't sell, read, change the key or take a number
    from the till; a copy of the new key would be another theft."""
    family = either.world.family(12_000)
    assert sells(either, family, "S1")
    thief = Thief(either, tmp_path / "copy")
    try:
        offer = thief.till.propose(family.token(), [milk(1_000)])
        assert not either.till.change_key().changing
        before = either.balance()
        sale = thief.till.redeem(offer, checkout="X1", cashier="c09")
        assert sale.state == "unknown" and "signature_invalid" in (sale.problem or "")
        client, key = thief.till._client, thief.till.journal._key
        reads: list[Callable[[], object]] = [
            thief.till.refresh_pack,
            lambda: client.certificate(key),
            lambda: client.ask(thief.till.journal.attempts()[0].id),
        ]
        for read in reads:
            with pytest.raises(NotDecided, match="unauthorised"):
                read()
        with pytest.raises(Refused, match="terminal_forked"):  # its start was held: it knows why
            thief.till.scan(family.token())
        assert "signature_invalid" in (thief.till.change_key().problem or "")
        assert either.balance() == before
        for n in range(4):  # the numbers that the copy tried are the till's
            assert sells(either, family, f"T{n}")
        # Its one record at a number from before the change met the till's own.
        assert set(alarms(either)) == {"fork"} and either.till.close_day().acknowledged
    finally:
        thief.till.close()


def test_t_1_a_copy_in_a_journal_of_its_own_is_shut_out_too(either: Shop, tmp_path: Path) -> None:
    """T-1: with the key alone the copy begins another journal: it sells until the key changes."""
    family = either.world.family(12_000)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("terminal.key", "enrolment.json"):
        shutil.copyfile(either.folder / name, copy / name)
    either.till.settle()
    with Till.open(copy, now=either.world.now, answer_timeout_s=20) as thief:
        sold = thief.redeem(thief.propose(family.token(), [milk(1_000)]), checkout="X", cashier="c")
        assert sold.state == "confirmed"
        offer = thief.propose(family.token(), [milk(1_000)])
        either.till.change_key()
        sale = thief.redeem(offer, checkout="X1", cashier="c09")
        assert sale.state == "unknown" and "signature_invalid" in (sale.problem or "")
    assert sells(either, family, "S1")
