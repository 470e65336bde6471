"""T-6: a till whose clock is wrong, before a real ledger over real HTTP.

What has expired stays expired, no day is booked twice, and the till says "clock"; where there is a
network the ledger's time counts and the shop goes on selling.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from carepos import ClockSkew, Malformed, Offer, Refused, Sale, Till, jws, signed_time
from carepos.uptime import Uptime
from carepos_ledger import key_commands
from carepos_ledger.commands import DONE
from carepos_ledger.operator_client import CommandStopped
from carepos_plugin.problems import problem_of
from tests.faulty_proxy import FaultyProxy, between
from tests.pos_plugin.rig import rig as a_rig
from tests.world import Family, World, milk, world

WRONG: dict[str, Callable[[datetime], datetime]] = {
    "a day back": lambda at: at - timedelta(days=1),
    "ten years back": lambda at: at.replace(year=at.year - 10),
    "1970": lambda _: datetime(1970, 1, 1, tzinfo=UTC),
    "a day ahead": lambda at: at + timedelta(days=1),
    "2038": lambda _: datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
}


@dataclass
class Shop:
    """A till with a clock of its own, which is off; the world's time is the true one."""

    world: World
    proxy: FaultyProxy
    folder: Path
    off: timedelta = timedelta()
    till: Till = field(init=False)

    def wall(self) -> datetime:
        return self.world.now() + self.off

    def set_clock(self, wrong: str) -> None:
        self.off = WRONG[wrong](self.world.now()) - self.world.now()

    def open(self) -> Till:
        started = self.world.now()
        uptime = Uptime(lambda: (self.world.now() - started).total_seconds() + 60, "boot")
        self.till = Till.open(self.folder, now=self.wall, uptime=uptime, answer_timeout_s=20)
        return self.till

    def reopen(self) -> Till:
        self.till.close()
        return self.open()

    def offer(self, family: Family) -> Offer:
        return self.till.propose(family.token(), [milk(6_000)])

    def sell(self, checkout: str) -> Sale:
        return self.till.redeem(self.offer(self.world.family()), checkout=checkout, cashier="c01")


@contextmanager
def a_shop(folder: Path, zone: ZoneInfo | None = None) -> Iterator[Shop]:
    with world(folder, zone=zone) as made, between(made.url) as proxy:
        code = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        Till.enrol(folder / "till", url=proxy.url, activation=code)
        shop = Shop(made, proxy, folder / "till")
        shop.open()
        try:
            yield shop
        finally:
            shop.till.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with a_shop(tmp_path) as made:
        yield made


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("restarted", [False, True])
def test_t6_online_the_ledgers_time_counts(shop: Shop, wrong: str, restarted: bool) -> None:
    """T-6: with any wrong clock, also one that the till starts with, the sale goes through; its
    record bears the true time, within a minute, and the till says what is wrong."""
    shop.sell("S0")
    shop.world.now.forward(hours=1)
    shop.set_clock(wrong)
    if restarted:
        shop.reopen()
    sale = shop.sell("S1")
    assert sale.state == "confirmed", sale
    written = shop.till.journal.record_of(shop.till.journal.of_checkout("S1")[0])
    assert abs(written.occurred_at - shop.world.now()) <= timedelta(seconds=60)
    standing = shop.till.clock_standing()
    assert standing.state == ("ahead" if shop.off > timedelta() else "behind")
    assert abs(standing.off_s - abs(shop.off.total_seconds())) < 1
    day = shop.till.close_day()
    assert (day.report.business_date, day.acknowledged) == ("2026-11-22", True)


@pytest.mark.parametrize("wrong", ["a day back", "ten years back", "1970"])
def test_t6_no_expired_code_or_voucher_is_taken(shop: Shop, wrong: str) -> None:
    """T-6: a code and a voucher that were good when the clock, set back, says it is: the till
    refuses both by itself, before and after a restart, whether or not it reaches anybody."""
    family = shop.world.family(expires_at="2026-11-22T09:00:00.000Z")
    old_code = family.token()
    shop.till.scan(old_code)
    shop.world.now.forward(hours=2)
    shop.sell("S0")  # the ledger was heard
    shop.set_clock(wrong)
    for restarted in (False, True):
        if restarted:
            shop.reopen()
        shop.proxy.fail("drop_before", target="GET /v1/terminal")
        with pytest.raises(Refused) as refused:
            shop.till.identify(old_code)
        assert refused.value.code == "token_expired"
        offer = shop.till.propose(family.token(), [milk(6_000)])
        assert offer.refusal is not None and offer.refusal.code == "voucher_expired"


@pytest.mark.parametrize("wrong", [*WRONG])
def test_t6_offline_what_needs_the_time_is_refused(shop: Shop, wrong: str) -> None:
    """T-6: without a network a till that is behind, or ahead beyond belief, says so; a day ahead
    nobody can know, until the ledger is heard."""
    shop.sell("S0")
    shop.set_clock(wrong)
    till = shop.reopen()
    assert till.ratchet.is_wrong == (wrong != "a day ahead")


def test_t6_no_day_is_closed_twice_or_before_the_last(shop: Shop) -> None:
    """T-6, FH-4: a clock set back a day, or put right after it ran a day ahead, gives no Z of an
    earlier date, and no sale stands in two."""
    shop.sell("S0")
    first = shop.till.close_day()
    shop.set_clock("a day back")
    shop.sell("S1")
    second = shop.till.close_day()
    shop.set_clock("a day ahead")
    shop.reopen()  # nobody is heard before the day is closed
    shop.proxy.fail("drop_before", times=9)
    ahead = shop.till.close_day()
    shop.proxy.clear()
    shop.off = timedelta()
    shop.sell("S2")
    third = shop.till.close_day()
    days = [day.report.business_date for day in (first, second, ahead, third)]
    assert days == ["2026-11-22", "2026-11-22", "2026-11-23", "2026-11-23"]
    assert [day.report.confirmed for day in (first, second, ahead, third)] == [1, 1, 0, 1]
    before = shop.till.journal.sequence
    with pytest.raises(Malformed, match="2026-11-23"):
        shop.till.close_day("2026-11-22")
    assert shop.till.journal.sequence == before
    assert third.acknowledged


def test_t6_a_clock_set_during_day_close_changes_nothing(shop: Shop) -> None:
    """T-6, during day close: the Z bears one date and follows what it counts."""
    shop.sell("S0")
    shop.proxy.fail("drop_before", times=3)
    keep = shop.till.settle

    def settle(**how: bool) -> list[Sale]:
        shop.set_clock("ten years back")
        return keep(**how)

    shop.till.settle = settle  # type: ignore[method-assign]
    day = shop.till.close_day()
    last = shop.till.journal.records()[-2]
    assert day.report.business_date == "2026-11-22"
    assert day.record.occurred_at >= last.occurred_at and day.report.confirmed == 1


def test_fa9_a_step_between_intent_and_retry_keeps_the_id(shop: Shop) -> None:
    """FA-9: whatever the clock does in between, the same record goes out, once booked."""
    shop.till.settle()
    offer = shop.offer(shop.world.family())
    shop.proxy.fail("drop_before")
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
    (begun,) = shop.till.journal.attempts()
    for wrong in ("ten years back", "a day ahead", "2038", "1970"):
        shop.set_clock(wrong)
        shop.proxy.fail("drop_before")
        shop.proxy.fail("drop_before", target="GET /v1/records")
        assert shop.till.retry("S1").state == "unknown"
    shop.proxy.clear()
    assert shop.till.retry("S1").state == "confirmed"
    (ended,) = shop.till.journal.attempts()
    assert ended.id == begun.id and shop.world.balance() == 6_000


def test_times_in_the_chain_do_not_go_back(shop: Shop) -> None:
    """Records bear times that only grow, however the clock jumps; but a record of tomorrow is
    followed by one of today once the ledger said that it is today."""
    shop.sell("S0")
    shop.proxy.fail("drop_before", times=1_000)
    shop.proxy.fail("drop_before", times=1_000, target="GET")
    for wrong in ("a day back", "1970", "2038", "ten years back"):
        shop.set_clock(wrong)
        shop.world.now.forward(minutes=1)
        shop.reopen()
        shop.till.close_day()
    times = [each.occurred_at for each in shop.till.journal.records()]
    assert times == sorted(times) and times[-1] <= shop.world.now()
    shop.set_clock("a day ahead")
    shop.reopen()
    assert shop.till.journal.records()[-1].occurred_at.day == 23
    shop.off = timedelta()
    shop.reopen()
    shop.till.close_day()
    times = [each.occurred_at for each in shop.till.journal.records()]
    assert times == sorted(times) and times[-1].day == 23
    shop.proxy.clear()
    shop.sell("S1")
    assert shop.till.journal.records()[-1].occurred_at == shop.world.now()
    assert shop.till.journal.verify() == shop.till.journal.sequence


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Shanghai"])
def test_t6_fh4_summer_time_moves_no_day(tmp_path: Path, zone: str) -> None:
    """T-6, FH-4: over the nights in which clocks are changed, each local day is closed under its
    own date, and times go on growing."""
    with a_rig(tmp_path, zone=zone) as shop:
        closed: list[str] = []
        for hours in [*range(0, 18 * 24, 12), *range(0, 11 * 24, 12)]:
            if hours == 0:
                begin = datetime(2027, 10, 29, 5) if closed else datetime(2027, 3, 12, 5)  # noqa: DTZ001
                shop.world.now.at = begin.replace(tzinfo=UTC)
            answer = shop.post("/api/day-close", {})
            local = shop.world.now().astimezone(ZoneInfo(zone))
            assert answer["business_date"] == f"{local:%Y-%m-%d}"
            closed.append(answer["business_date"])
            shop.world.now.forward(hours=12)
        assert closed == sorted(closed) and len(set(closed)) >= 28
        times = [each.occurred_at for each in shop.till.journal.records()]
        assert times == sorted(times)


# what is said


def test_t6_a_clock_that_is_wrong_is_said_in_one_sentence(tmp_path: Path) -> None:
    """The plugin's status says in both languages what is wrong with the clock and what to do."""
    with a_rig(tmp_path) as shop:
        shop.sell()
        assert shop.get("/api/status")["clock"] == {
            "state": "fine", "off_s": 0, "en": "The clock is right.", "zh": "时钟正常。",
        }  # fmt: skip
        shop.till.ratchet._wall = lambda: shop.world.now() - timedelta(days=3)
        told = shop.get("/api/status")["clock"]
        assert (told["state"], told["off_s"]) == ("behind", 3 * 86_400)
        assert told["en"].startswith("The clock is wrong, at least 3 days behind: set date and")
        assert told["zh"].startswith("时钟不准，至少慢3天：请校准日期和时间")


def test_a_skew_that_nobody_can_mend_tells_how_far(shop: Shop) -> None:
    """A ledger two years on: the till believes neither it nor itself, tells the difference, and
    nowhere that anybody should set a clock by it."""
    shop.sell("S0")
    shop.world.now.forward(days=730)
    shop.off = -timedelta(days=730)
    shop.reopen()
    with pytest.raises(ClockSkew, match="730 days ahead of this computer's and can't be") as skew:
        shop.till.refresh_pack()
    assert skew.value.ahead_s == -730 * 86_400
    told = problem_of(skew.value).to_json()
    assert told["code"] == "clock_skew" and "call the programme's office" in told["en"]
    assert not any("set" in said.casefold() for said in (str(skew.value), told["en"]))
    standing = shop.till.clock_standing()
    assert (standing.state, standing.doubtful) == ("doubtful", shop.world.now())


def test_an_unsigned_or_foreign_time_is_not_believed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `clock_skew` whose time nobody signed, or that answered another question, moves nothing."""
    shop.sell("S0")
    shop.world.now.forward(days=2)
    shop.off = -timedelta(days=2)
    least = shop.till.ratchet.least()
    for forged in (None, "a.b.c", jws.sign({"v": 1}, typ=jws.TIME, key=shop.world.issuer_key)):
        error = ClockSkew(401, "", forged)
        assert not shop.till._word.skewed(error, "r" * 22) and error.ahead_s is None
    of_another = {"v": 1, "server_time": "2027-01-01T00:00:00.000Z", "request": "q" * 22}
    text = jws.sign(of_another, typ=jws.TIME, key=shop.world.ledger.keyring.signing)
    assert not shop.till._word.skewed(ClockSkew(401, "", text), "r" * 22)
    assert shop.till.ratchet.least() == least


# the operator's reset


def test_an_operators_reset_ends_the_doubt(shop: Shop, tmp_path: Path) -> None:
    """A till that lay in a drawer for two years believes neither side: the operator's file, taken
    once, lets it sell again; a till that an untrue ledger sent ahead comes back by another."""
    shop.sell("S0")
    shop.world.now.forward(days=730)
    shop.off = -timedelta(days=730)
    shop.reopen()
    with pytest.raises(ClockSkew):
        shop.till.refresh_pack()
    assert shop.till.clock_standing().state == "doubtful"
    text = reset_of(shop, tmp_path)
    assert shop.till.reset_clock(text) == shop.world.now()
    assert shop.till.clock_standing().state == "behind"
    shop.till.refresh_pack()
    with pytest.raises(Malformed, match="taken before"):
        shop.till.reset_clock(text)
    shop.off = timedelta()
    assert shop.till.clock_standing().state == "stepped"
    shop.reopen()
    assert shop.till.clock_standing().state == "fine"


def test_an_operators_reset_brings_back_who_followed_a_wrong_ledger(
    shop: Shop, tmp_path: Path
) -> None:
    """The ledger's clock was 250 days ahead and every till with it. Set right, it is believed again
    by whoever takes the reset, with a new pack for the one from the future."""
    shop.world.now.forward(days=250)
    shop.off = -timedelta(days=250)
    shop.sell("S0")
    shop.till.refresh_pack()
    shop.world.now.forward(days=-250)
    shop.off = timedelta()
    shop.reopen()
    assert shop.till.clock_standing().state == "behind"
    with pytest.raises(ClockSkew):
        shop.till.refresh_pack()
    ring = shop.world.ledger.keyring
    at = shop.world.now()
    other = signed_time.make_reset(ledger=ring.ledger, terminal="t-other", at=at, key=ring.signing)
    shop.world.settings.save()
    with pytest.raises(CommandStopped, match="no terminal t-other, and no reset was made"):
        reset_of(shop, tmp_path, terminal="t-other")
    assert not (tmp_path / "a.reset").exists()
    with pytest.raises(Malformed, match="another till"):
        shop.till.reset_clock(other)
    shop.till.reset_clock(reset_of(shop, tmp_path))
    assert shop.till.clock_standing().state == "fine" and shop.till.held_pack is None
    assert shop.till.refresh_pack().issued_at == shop.world.now()
    assert shop.sell("S1").state == "confirmed"
    assert shop.till.journal.verify() == shop.till.journal.sequence


def reset_of(shop: Shop, folder: Path, terminal: str | None = None) -> str:
    """As `carepos ledger clock-reset` makes it on the ledger's machine, at its time."""
    args = argparse.Namespace(
        terminal=terminal or shop.till.enrolment.terminal,
        folder=shop.world.settings.folder,
        to=folder / "a.reset",
    )
    assert key_commands.clock_reset(args, now=shop.world.now) == DONE
    return (folder / "a.reset").read_text("ascii")
