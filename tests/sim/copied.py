"""Somebody copies a till's folder, as it lies: to put it back later, or to run it on a second
computer (FG-7, FG-8, T-1, T-7).

Put back, the till has lost what it did in between; beside the first, both sell and both send. The
office hears of it by the alarm, and the shop gets a new till. In the end the old ones are started
once more, and people decide what is held of them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from carepos.record import Record
from carepos_ledger.held_list import HeldList
from tests.sim.files import Journal, tables
from tests.sim.shop import KINDS, Shop
from tests.sim.township import TILLS, copy, enrol_till
from tests.sim.weather import Weather
from tests.sim.witness import Branch, Memory, Violation

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

_ROUNDS: Final = 14
_NOT_OPEN: Final = {"confirmed", "refused", "reversed", "voided", "short", "exception"}
_LEFT_OUT: Final = shutil.ignore_patterns("*.lock", "*-shm")


@dataclass
class Copy:
    """The journals of a till that was copied: what they share, and what of it was open then."""

    terminal: str
    shared: int
    """Up to this number both journals are the same."""
    open_then: frozenset[str]
    """Ids of what was not over: each journal goes on with it by itself."""
    memory: Memory
    lost: Path | None = None
    """The files of the till that was put back, as they were just before."""
    shut_out: set[str] = field(default_factory=set)
    """Tills whose key another copy has changed since: what they sign with it is refused, unread."""


class Copying:
    """What happens to one till's folder in one run."""

    def __init__(self, seed: int, weather: Weather) -> None:
        rng = self._rng = Random(f"{seed}/copied")
        self._till = rng.randrange(weather.tills)
        self._taken = rng.randint(1, weather.steps // 2)
        self._used = self._taken + rng.randint(1, weather.steps // 3)
        self._is_put_back = rng.random() < 0.5
        self._draft: Copy | None = None
        self.copy: Copy | None = None
        """Once there are two journals."""
        self._is_replaced = False

    def step(self, sim: Simulation, n: int) -> None:
        """What somebody does with the copy in this step; random numbers are its own."""
        if n == self._taken:
            self._take(sim)
        elif n == self._used and self._draft is not None:
            self._begin_again(sim)
        elif self._rng.random() < 0.3:
            self._give_new_till(sim)

    # ── the copy ───────────────────────────────────────────────────────────────────────────────

    def _take(self, sim: Simulation) -> None:
        shop = sim.shops[self._till]
        witness = sim.network.witness
        terminal, shared, is_open = witness.terminals[shop.name], 0, frozenset[str]()
        if shop.database.exists():
            journal = Journal.read(shop.database, terminal)
            shared = len(journal.records)
            waiting = {row["id"] for row in journal.undos if row["state"] == "waiting"}
            is_open = frozenset(waiting).union(
                row["id"] for row in journal.attempts if row["state"] not in _NOT_OPEN
            )
        self._draft = Copy(terminal, shared, is_open, witness.memory_of(shop.name))
        shutil.copytree(shop.folder, self._image(shop), ignore=_LEFT_OUT, copy_function=copy)
        how = "running" if shop.is_open else "switched off"
        sim.story.say(f"~ somebody copies {shop.name}, {how}, up to number {shared}")

    def _begin_again(self, sim: Simulation) -> None:
        assert self._draft is not None
        shop, made = sim.shops[self._till], self._draft
        if self._is_put_back:
            shop.stop()
            shop.disarm()
            made.lost = shop.folder.rename(shop.folder.with_name(f"{shop.name}-lost"))
            self._image(shop).rename(shop.folder)
            shop.begun_elsewhere = {each.number for each in shop.checkouts}
            shop.register = "R"
            again = shop
            sim.story.say(f"~ the copy is put back over {shop.name}")
        else:
            self._image(shop).rename(shop.folder.with_name(f"{shop.name}-copy"))
            again = sim.open_shop(f"{shop.name}-copy")
            again.checkouts = [type(each)(each.number, each.family) for each in shop.checkouts]
            again.begun_elsewhere = {each.number for each in shop.checkouts}
            again.returns = list(shop.returns)
            again.register = "C"
            sim.shops.append(again)
            sim.story.say(f"~ the copy of {shop.name} runs beside it")
        sim.story.count(f"copied: {'put back' if self._is_put_back else 'beside the first'}")
        branch = Branch(f"{made.terminal}/2", made.shared)
        sim.network.witness.branches_off(again.name, made.terminal, branch, made.memory)
        self.copy = made

    @staticmethod
    def _image(shop: Shop) -> Path:
        return shop.folder.with_name(f"{shop.name}-image")

    # ── the office ─────────────────────────────────────────────────────────────────────────────

    def _give_new_till(self, sim: Simulation) -> None:
        """The shop sells on with a till that is enrolled anew, once the fork is known."""
        if self._is_replaced or self.copy is None or sim.host.running is None:
            return
        if not self._is_forked(sim):
            return
        sim.host.disarm()
        old = sim.shops[self._till]
        name, store = f"{old.name}-new", TILLS[self._till]
        terminal = enrol_till(old.folder.with_name(name), sim.host, store, sim.ids.randbytes)
        sim.network.witness.terminals[name] = terminal
        sim.shops.append(sim.open_shop(name))
        self._is_replaced = True
        sim.story.say(f"the office enrols {name} in place of {old.name}")
        sim.story.count("copied: a new till")

    def _is_forked(self, sim: Simulation) -> bool:
        assert sim.host.running is not None and self.copy is not None
        told = sim.host.running.terminals.alarms(0)
        return ("fork", self.copy.terminal) in {(a["kind"], a["terminal"]) for a in told}

    def sort_out(self, sim: Simulation, rng: Random, *, last: bool) -> None:
        """Every copy sends what it has, and people decide, until nothing of any of them is open."""
        if self.copy is None:
            return
        witness = sim.network.witness
        shops = [s for s in sim.shops if witness.terminals[s.name] == self.copy.terminal]
        for shop in shops:
            if not shop.is_open:
                shop.start()
        self._go_on(sim, shops, rng)
        if last:
            for shop in shops:
                shop.finish(rng, last=True)
            self._go_on(sim, shops, rng)
        self._give_new_till(sim)

    def _go_on(self, sim: Simulation, shops: list[Shop], rng: Random) -> None:
        assert sim.host.running is not None and self.copy is not None
        held, left = HeldList(sim.host.running.database), shops
        for _ in range(_ROUNDS):
            left = [shop for shop in shops if not shop.finish(rng, last=False)]
            self.copy.shut_out = _shut_out(sim, shops)
            left = [shop for shop in left if shop.name not in self.copy.shut_out]
            if not left and not held.listed():
                return
            sim.desk.rule(sim.host.running, rng)
        open_ones = "; ".join(f"{shop.name}: {shop.what_is_open()}" for shop in left)
        raise Violation("INV-5", f"this stays open of a till that was copied: {open_ones}")


def _shut_out(sim: Simulation, shops: list[Shop]) -> set[str]:
    """Those of these tills that wait for an answer to what they signed with a key after another had
    taken its place at the ledger."""
    rows = tables(sim.host.database, ["terminal_keys"])["terminal_keys"]
    until = {
        row["kid"]: (row["until_incarnation"], row["until_sequence"])
        for row in rows
        if row["until_sequence"] is not None
    }
    found = set()
    for shop in shops:
        assert shop.till is not None
        waiting = shop.till.journal.unanswered(*KINDS)
        if any(_is_after(until[each.kid], each) for each in waiting if each.kid in until):
            found.add(shop.name)
    return found


def _is_after(until: tuple[str, int], record: Record) -> bool:
    incarnation, sequence = until
    return record.incarnation != incarnation or record.sequence >= sequence
