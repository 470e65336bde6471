"""A shop with a network that can be pulled out, and families at home in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from carepos import Offer, Sale, Till, Unreachable
from carepos.client import Transport
from carepos.journal_view import Attempt
from tests.world import PROGRAMME, Family, World, milk, world

DAY = 86_400
OFFLINE: dict[str, Any] = {
    "allotment_permille": 500,
    "spend_s": 3 * DAY,
    "upload_s": 4 * DAY,
    "pack_age_s": 3 * DAY,
    "floor": None,
    "stored_sum_minor": 1_000_000,
    "stored_count": 200,
    "online_permille": 0,
}
FLOOR: dict[str, Any] = {
    "redemption_minor": 3_000,
    "beneficiary_minor": 5_000,
    "window_s": 7 * DAY,
    "liability": "merchant",
}


class Cable(Transport):
    """The way to the ledger over real HTTP, which can be pulled out and put in again, or `loses`
    what is sent."""

    def __init__(self, url: str) -> None:
        super().__init__(url, answer_timeout_s=20)
        self.is_out = False
        self.loses: Literal["request", "answer", None] = None
        self.calls = 0

    def call(self, method: str, target: str, **more: Any) -> tuple[int, Mapping[str, str], bytes]:
        self.calls += 1
        if self.is_out or self.loses == "request":
            self.answered = False
            raise Unreachable("no answer from the ledger (the cable is out)")
        answer = super().call(method, target, **more)
        if self.loses == "answer":
            self.answered = False
            raise Unreachable("no answer from the ledger (nobody heard it)")
        return answer


class OfflineShop:
    """One till of a world's shop."""

    def __init__(self, made: World, name: str = "till-1", store: str = "zhou-shop") -> None:
        self.world = made
        self.name = name
        self.store = store
        made.till(name, store).close()
        made.tills.pop()
        self.folder = made.folder / name
        self.cable = Cable(made.url)
        self.till = self._open()
        self.checkouts = 0

    def _open(self, **options: Any) -> Till:
        till = Till.open(self.folder, now=self.world.now, transport=self.cable, **options)
        self.world.tills.append(till)
        return till

    def restart(self, **options: Any) -> None:
        """The till's process ends without a word and is started again."""
        self.till.close()
        self.world.tills.remove(self.till)
        is_out = self.cable.is_out
        self.cable = Cable(self.world.url)
        self.cable.is_out = is_out
        self.till = self._open(**options)

    def copied(self, name: str) -> OfflineShop:
        """Another PC with a copy of this till's folder (a restored or stolen disk)."""
        shutil.copytree(self.folder, self.world.folder / name)
        twin = OfflineShop.__new__(OfflineShop)
        twin.world, twin.name, twin.store, twin.checkouts = self.world, name, self.store, 100
        twin.folder, twin.cable = self.world.folder / name, Cable(self.world.url)
        twin.till = twin._open()
        return twin

    def at_home(self, amount_minor: int = 12_000, first_minor: int = 0) -> Family:
        """A family that shops here: it did once, so this store is its home."""
        family = self.world.family(amount_minor + (first_minor or 100))
        assert self.sell(family, first_minor or 100).state == "confirmed"
        return family

    def learn(self) -> None:
        """Fetch a pack with the households that shop here."""
        self.till.refresh_pack()

    def offer(self, holder: Family | str, amount_minor: int) -> Offer:
        code = holder if isinstance(holder, str) else holder.token()
        return self.till.propose(code, [milk(amount_minor)])

    def sell(self, holder: Family | str, amount_minor: int, *, seen: bool = True) -> Sale:
        """Scan, propose, redeem; of a sale accepted without the ledger the goods leave (`seen`)."""
        self.checkouts += 1
        checkout = f"{self.name}-{self.checkouts}"
        offer = self.offer(holder, amount_minor)
        sale = self.till.redeem(offer, checkout=checkout, cashier="c01")
        if sale.state == "accepted" and seen:
            return self.till.answer_goods(checkout, handed_over=True)
        return sale

    def newest(self) -> Attempt:
        return self.till.journal.attempts()[-1]


@contextmanager
def offline_world(
    folder: Path,
    database_url: str | None = None,
    *,
    floor: Mapping[str, Any] | None = None,
    reserve_minor: int = 0,
    classes: tuple[str, ...] = ("once",),
    **rule: Any,
) -> Iterator[World]:
    """A world whose programme redeems without a network."""
    with world(folder, database_url) as made:
        rules = {**OFFLINE, "floor": None if floor is None else {**FLOOR, **floor}, **rule}
        made.ledger.programmes.put_programme(
            {**PROGRAMME, "offline": rules, "classes": list(classes)}
        )
        if reserve_minor:
            made.ledger.office.reserve_for_losses(PROGRAMME["programme"], reserve_minor, "losses-1")
        yield made
