"""What comes late, twice, or under another key than was known: it is booked once, or told.

The rows of the faults that no other story plays: copies that a network kept (FB-9, FB-11), the
retry of a sale that took the last of a voucher (FD-6), a stranger's certificate (FB-1), issuers'
keys that changed while a shop had no network (FG-10).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from carepos.keys import SigningKey
from tests.key_server import key_server
from tests.sdk.test_key_store import _certificate
from tests.stories.offline_shop import OfflineShop, offline_world
from tests.stories.test_offline import booked
from tests.stories.test_offline_limits import listed
from tests.stories.test_redemption import Shop, a_shop
from tests.world import ISSUER, World, milk, world


@pytest.fixture
def shop(tmp_path: Path, database_url: str) -> Iterator[Shop]:
    with world(tmp_path, database_url) as made, a_shop(made, tmp_path / "till") as found:
        yield found


@pytest.fixture
def offline(tmp_path: Path, database_url: str) -> Iterator[World]:
    with offline_world(tmp_path, database_url, floor={}) as made:
        yield made


@pytest.mark.parametrize("end", ["void", "cancel", "day_close"])
def test_fb_9_a_first_copy_that_comes_last_posts_nothing(shop: Shop, end: str) -> None:
    """FB-9: the network kept the first copy; it arrives when the sale was voided, cancelled, or
    its day is closed."""
    family = shop.world.family(12_000)
    shop.proxy.fail("hold")
    assert shop.redeem(family).state == "unknown"
    left = 12_000
    if end == "cancel":
        assert shop.till.cancel("S1").state == "reversed"
    else:
        assert shop.till.retry("S1").state == "confirmed"
        if end == "void":
            shop.till.void("S1", cashier="c01", reason="other")
        else:
            left = 6_000
    assert shop.till.close_day().acknowledged and shop.balance() == left
    before = shop.world.rows("postings")
    assert b'"outcome"' in shop.proxy.deliver_held()
    assert (shop.balance(), shop.world.rows("postings")) == (left, before)


def test_fb_11_a_whole_day_that_comes_once_more_changes_nothing(shop: Shop) -> None:
    """FB-11: every request that left the till reaches the ledger a second time, in another order,
    and each record gets the answer that it had."""
    family = shop.world.family(30_000)
    assert shop.redeem(family, milk(6_000), checkout="S1").state == "confirmed"
    shop.proxy.fail("drop_after")
    assert shop.redeem(family, milk(4_000), checkout="S2").state == "unknown"
    assert shop.till.cancel("S2").state == "reversed"
    assert shop.redeem(family, milk(5_000), checkout="S3").state == "confirmed"
    shop.till.void("S3", cashier="c01", reason="other")
    assert shop.till.close_day().acknowledged and shop.balance() == 24_000
    before = shop.world.rows("postings")
    requests = [(each.raw, each.answer) for each in shop.proxy.sent]
    random.Random(11).shuffle(requests)
    for raw, answer in requests:
        again = shop.proxy._forward(raw)
        assert again.partition(b"\r\n\r\n")[2] == answer.partition(b"\r\n\r\n")[2]
    assert (shop.balance(), shop.world.rows("postings")) == (24_000, before)


def test_fd_6_the_retry_of_what_took_all_is_no_shortage(shop: Shop) -> None:
    """FD-6: the first copy was booked and emptied the voucher; the same id is answered `posted`,
    and no "balance insufficient", whether it is asked about or sent again."""
    for how in ("retry", "duplicate"):
        family = shop.world.family(6_000)
        shop.proxy.fail("drop_after" if how == "retry" else "duplicate")
        sale = shop.redeem(family, checkout=how)
        if how == "retry":
            assert sale.state == "unknown"
            sale = shop.till.retry(how)
        assert sale.state == "confirmed" and sale.refusal is None
        assert shop.balance() == 0


def test_fb_1_a_strangers_certificate_is_no_ledger(shop: Shop, tmp_path: Path) -> None:
    """FB-1: TLS that nobody vouches for: the record is not even sent; unknown, then cancelled."""
    family = shop.world.family(12_000)
    offer = shop.offer(family)
    there = shop.till._client._transport.url
    with key_server(_certificate(tmp_path, "127.0.0.1")) as stranger:
        shop.till._client._transport.url = stranger.url.rsplit("/", 1)[0]
        sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
        assert sale.state == "unknown" and stranger.asked == 0
    shop.till._client._transport.url = there
    assert shop.till.cancel("S1").state == "reversed" and shop.balance() == 12_000


def test_fg_10_a_key_that_retired_meanwhile_is_judged_by_the_sales_time(offline: World) -> None:
    """FG-10: the issuer changed its key while the shop had no network, and has long forgotten the
    old one when the sale comes up: the code was good when it was held up, so the sale is booked."""
    shop = OfflineShop(offline)
    family = shop.at_home(12_000)
    shop.learn()
    before = booked(shop)
    shop.cable.is_out = True
    assert shop.sell(family, 2_000).state == "provisional"
    old, newer = offline.issuer_key, SigningKey.generate()
    offline.ledger.issuers.put(ISSUER, [newer.public.to_jwk(), old.public.to_jwk()])
    offline.ledger.issuers.put(ISSUER, [newer.public.to_jwk()])
    offline.now.forward(days=2)
    newest = SigningKey.generate()
    offline.ledger.issuers.put(ISSUER, [newest.public.to_jwk(), newer.public.to_jwk()])
    shop.cable.is_out = False
    shop.till.settle()
    assert shop.newest().state == "confirmed" and booked(shop) == before + 2_000
    assert listed(offline) == []
