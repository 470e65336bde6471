"""A village whose shop an operator named before the flood: the first outage finds it ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from carepos import Refused
from carepos_ledger.person import Who
from carepos_ledger.pinning import Pinning, Wish
from tests.stories.offline_shop import OfflineShop, offline_world
from tests.world import ISSUER, PROGRAMME


def test_a_family_that_never_came_is_served_in_the_first_outage(
    tmp_path: Path, database_url: str
) -> None:
    """At the store that was named, up to what is set aside, and booked in full when the network is
    back; at the other store it is nobody's yet."""
    with offline_world(tmp_path, database_url) as made:
        made.ledger.programmes.admit_store(PROGRAMME["programme"], "zhou-far")
        near, far = OfflineShop(made, "near"), OfflineShop(made, "far", "zhou-far")
        near.at_home()
        family = made.family(12_000)
        wish = Wish(Who(ISSUER, family.sub, None, None), "zhou-far")
        [answer] = Pinning(made.ledger.database).pin_many([wish])
        assert answer.result == "created"
        for shop in (near, far):
            shop.learn()
            shop.till.settle()
            shop.cable.is_out = True
        with pytest.raises(Refused) as refused:
            near.offer(family, 4_000)
        assert refused.value.code == "holder_not_in_pack"
        assert far.sell(family, 4_000).state == "provisional"
        far.cable.is_out = False
        far.till.settle()
        assert far.newest().state == "confirmed"
        assert made.ledger.office.programme_sums(PROGRAMME["programme"]).redeemed_minor == 4_100
