"""How a till asks again by itself, over real HTTP: its own pace, and what it says about it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from carepos.errors import NotDecided
from tests.pos_plugin.rig import rig
from tests.stories.test_redemption import Shop, a_shop
from tests.world import milk, world

CHECKOUT = "S1-000001"


def asked(shop: Shop) -> int:
    return sum(each.target.startswith("/v1/records") for each in shop.proxy.seen)


def test_a_sale_is_asked_about_when_its_time_has_come(tmp_path: Path) -> None:
    """Again and again in vain: `settle(due_only=True)` asks only when it is due, ever more seldom,
    also after a restart; the cashier asks at once; an answer ends it."""
    with world(tmp_path) as made, a_shop(made, tmp_path / "till") as shop:
        offer = shop.offer(made.family(12_000))
        shop.proxy.fail("drop_before", times=10_000)
        shop.proxy.fail("drop_before", times=10_000, target="GET /v1/records")
        sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
        questions, seconds = [], 0
        while seconds < 3_600:
            before = asked(shop)
            shop.till.settle(due_only=True)
            if any(each.method == "GET" for each in shop.proxy.seen[-1:]) and asked(shop) > before:
                questions.append(seconds)
            if seconds == 1_800:
                shop.reopen()
            made.now.forward(seconds=4)
            seconds += 4
        gaps = [after - one for one, after in pairwise(questions)]
        assert questions[0] <= 4 and max(gaps) <= 184
        assert 3_600 / 184 <= len(questions) <= 80
        before = asked(shop)
        shop.till.retry("S1")
        assert asked(shop) == before + 1
        shop.proxy.clear()
        due = shop.till.next_try()
        assert due is not None and due > made.now()
        made.now.at = due
        (ended,) = shop.till.settle(due_only=True)
        assert ended.state == "reversed" and ended.next_try_at is None
        assert shop.till.next_try() is None and sale.next_try_at is not None


def test_once_nobody_answers_the_others_wait(tmp_path: Path) -> None:
    """Five sales are open and the network is away: a pass makes one call, and another one next."""
    with world(tmp_path) as made, a_shop(made, tmp_path / "till") as shop:
        shop.till.settle()
        for n in range(5):
            offer = shop.offer(made.family(12_000), milk(1_000))
            shop.proxy.fail("drop_before")
            shop.till.redeem(offer, checkout=f"S{n}", cashier="c01")
        made.now.forward(hours=1)
        shop.proxy.fail("drop_before", times=2, target="GET /v1/records")
        asked_about = []
        for _ in range(2):
            before = asked(shop)
            asked_about += [sale.checkout for sale in shop.till.settle(due_only=True)]
            assert asked(shop) == before + 1
            made.now.forward(seconds=3)
        assert len(set(asked_about)) == 2
        made.now.forward(minutes=3)
        assert len(shop.till.settle(due_only=True)) == 5


def test_the_first_signed_word_makes_all_of_it_due(tmp_path: Path) -> None:
    """After hours in vain somebody's code is looked up: what is open is asked about now."""
    with world(tmp_path) as made, a_shop(made, tmp_path / "till") as shop:
        shop.till.settle()
        offer = shop.offer(made.family(12_000))
        shop.proxy.fail("drop_after")
        shop.till.redeem(offer, checkout="S1", cashier="c01")
        shop.proxy.fail("drop_before", times=12, target="GET /v1/records")
        for _ in range(12):
            shop.till.retry("S1")
        made.now.forward(milliseconds=5)
        assert shop.till.settle(due_only=True) == []
        shop.till.scan(made.family(1_000).token())
        assert [sale.state for sale in shop.till.settle(due_only=True)] == ["confirmed"]


def test_fb15_a_ledger_that_wants_to_be_left_alone_is(tmp_path: Path) -> None:
    """FB-15: `Retry-After` moves what is asked by itself, at most by five minutes, and not what the
    cashier asks; it is told, and the next answer ends it."""
    with rig(tmp_path) as shop:
        shop.sell_unknown()
        seconds = shop.seconds
        transport = shop.till._client._transport
        transport._monotonic = seconds
        answer = {"Content-Type": "application/problem+json", "Retry-After": "86400"}
        problem = transport.problem(429, answer, b'{"code":"too_many_requests","status":429}')
        assert isinstance(problem, NotDecided)
        shop.world.now.forward(seconds=2)
        assert shop.till.settle(due_only=True) == []
        (waits,) = shop.get("/api/status")["open"]
        assert waits["next_try"]["at"] == "2026-11-22T08:05:02.000Z"
        assert waits["next_try"]["en"] == "The till asks again by itself in 5 minutes."
        assert waits["next_try"]["zh"] == "终端将于5分钟后自动再次查询。"
        assert shop.post(f"/api/checkouts/{CHECKOUT}/retry", {})["state"] == "confirmed"
        assert transport.quiet_s() == 0


def test_upkeep_comes_when_a_sale_is_due(tmp_path: Path) -> None:
    """The pause of the plugin ends when the next sale is due, and not before a second is over."""
    with rig(tmp_path) as shop:
        upkeep = shop.plugin.upkeep
        upkeep._random = lambda: 0.0
        assert upkeep.one_pass() == 30
        sold = shop.sell_unknown()
        assert sold["next_try"]["at"] > "2026-11-22T08:00:00.000Z"
        shop.cut_network()
        pauses = [upkeep.one_pass() for _ in range(8)]
        assert all(1 <= pause <= 120 for pause in pauses) and pauses[0] <= 2
