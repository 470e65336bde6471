"""What the plugin does by itself, tested without waiting for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos.errors import JournalClosed
from carepos_plugin.upkeep import LONGEST_S, Upkeep
from tests.pos_plugin.rig import plugged, rig

CHECKOUT = "S1-000001"


def test_upkeep_settles_what_the_cashier_left(tmp_path: Path) -> None:
    """An unknown sale that nobody looks at any more ends by itself, and its slip is queued."""
    with rig(tmp_path) as shop:
        shop.sell_unknown()
        shop.world.now.forward(seconds=2)
        assert shop.plugin.upkeep.one_pass() <= shop.plugin.settings.settle_every_s
        assert shop.get(f"/api/checkouts/{CHECKOUT}")["state"] == "confirmed"
        assert len(shop.till.journal.print_jobs(queued=True)) == 1


def test_fa4_a_sale_found_open_is_never_sent_again(tmp_path: Path) -> None:
    """FA-4: the till stopped before it sent; after the restart the sale is looked up and undone."""
    with rig(tmp_path) as shop:
        offer = shop.offer(CHECKOUT, shop.world.family().token())
        shop.cut_network()
        assert shop.redeem(CHECKOUT, offer)["state"] == "unknown"
        shop.till.close()
        with plugged(shop.world, shop.world.till(), shop.faults) as again:
            again.world.now.forward(seconds=2)
            again.plugin.upkeep.one_pass()
            assert again.get(f"/api/checkouts/{CHECKOUT}")["state"] == "reversed"
            assert again.world.balance() == 12_000


def test_upkeep_asks_less_often_while_the_ledger_is_away(tmp_path: Path) -> None:
    """Each pass in vain about doubles the pause up to its end; one answer resets it."""
    with rig(tmp_path) as shop:
        upkeep = shop.plugin.upkeep
        upkeep._random = lambda: 0.0
        shop.cut_network()
        assert [upkeep.one_pass() for _ in range(4)] == [60, 120, LONGEST_S, LONGEST_S]
        assert shop.get("/api/status")["ledger"]["problem"] is not None
        shop.mend_network()
        assert upkeep.one_pass() == 30
        status = shop.get("/api/status")
        assert status["ledger"]["problem"] is None
        assert status["pack"]["checked_at"] == "2026-11-22T08:00:00.000Z"


def test_the_first_customer_after_an_outage_brings_upkeep_back(tmp_path: Path) -> None:
    """A scan that reaches the ledger again is as good as a look: what is open is settled now."""
    with rig(tmp_path) as shop:
        shop.cut_network()
        shop.plugin.upkeep.one_pass()
        shop.mend_network()
        assert not shop.plugin.upkeep._soon.is_set()
        shop.offer(CHECKOUT, shop.world.family().token())
        assert shop.plugin.upkeep._soon.is_set()


def test_settling_asks_the_ledger_about_records_that_wait(tmp_path: Path) -> None:
    """Nothing open, but a record not uploaded: "the ledger answered" is said only when it did."""
    with rig(tmp_path) as shop:
        shop.sell()
        shop.plugin.upkeep.one_pass()
        shop.cut_network()
        shop.till.close_day("2026-11-22")
        assert shop.post("/api/settle", {})["ledger_answered"] is False
        shop.mend_network()
        assert shop.post("/api/settle", {})["ledger_answered"] is True
        assert shop.get("/api/status")["not_uploaded"] == 0


@given(st.integers(5, 3_600), st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_pause_is_bounded_and_spread(every_s: int, missed: int, random: float) -> None:
    """Never less than half of a pass's pause, never more than the longest."""
    upkeep = Upkeep(lambda: True, every_s=every_s, random=lambda: random)
    upkeep._missed = missed
    assert every_s / 2 <= upkeep.delay_s() <= max(LONGEST_S, every_s)


@pytest.mark.parametrize(
    "failure", [JournalClosed("a write failed"), OSError(28, "No space left"), KeyError("canary")]
)
def test_upkeep_goes_on_after_a_failure_and_ends_when_told(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """No failure ends upkeep, a full disk neither, and none is logged by its text; closing does."""
    passes: list[int] = []

    def chores() -> bool:
        passes.append(1)
        raise failure

    upkeep = Upkeep(chores, every_s=30, random=lambda: 0.0)
    waits: list[float] = []

    def wait(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 3:
            upkeep.close()

    upkeep.run(wait)
    assert len(passes) == 3
    assert waits == [60, 120, 120]
    assert type(failure).__name__ in caplog.text
    assert "canary" not in caplog.text


def test_what_is_past_its_time_goes_once_a_day(tmp_path: Path) -> None:
    """The plugin forgets by itself what a receipt showed; the sale, its chain and its Z stay."""
    with rig(tmp_path, receipts_days=10) as shop:
        sale = shop.sell()
        shop.plugin.print_queue.print_waiting()
        assert shop.plugin.chores()
        assert shop.post("/api/retain", {}) == {"visits": 0, "receipts": 0}
        shop.world.now.forward(days=11)
        shop.plugin.chores()
        assert shop.get("/api/checkouts/S1-000001")["receipt_text"] is not None
        shop.seconds.at += 86_400
        shop.plugin.chores()
        later = shop.get("/api/checkouts/S1-000001")
        assert (later["state"], later["receipt_text"]) == ("confirmed", None)
        path = f"/api/receipts/{sale['receipt_no']}"
        assert shop.refused("GET", path) == (404, "receipt_unknown")
        assert shop.refused("POST", f"{path}/print", {}) == (404, "receipt_unknown")
        assert shop.post("/api/day-close", {})["confirmed"] == 1
        assert shop.till.journal.verify() == shop.till.journal.sequence
