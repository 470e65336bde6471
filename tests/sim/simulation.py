"""One seed, one run: tills, network and ledger under one clock and one source of randomness.

Each step has random numbers of its own, made from the seed and its number. So a step can be left
out and the others still do what they did, which is how a failing run is made short (`shrink`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random

from tests.sim import checker, lost_disk, tampering
from tests.sim.carried import Pockets
from tests.sim.clock import Time
from tests.sim.copied import Copying
from tests.sim.issuer import Issuer
from tests.sim.ledger_host import LedgerHost
from tests.sim.network import Network
from tests.sim.operator_desk import OperatorDesk
from tests.sim.process import Dead, Process, watched
from tests.sim.shop import DISKS, PLENTY, Shop
from tests.sim.story import Story
from tests.sim.township import Township
from tests.sim.weather import Weather
from tests.sim.witness import Violation, Witness

_ROUNDS = 8
_CALM_S = 330
"""A till asks for keys that it does not know again after five minutes (docs/identity.md §3)."""
_WRONG_S = (-10 * 365 * 86_400, -86_400, -3600, -20, 0, 0, 20, 3600, 86_400, 10 * 365 * 86_400)
"""By how much a till's clock may be wrong, from one with a flat battery to one set by hand."""


@dataclass
class Run:
    """How a seed ended. `violation` is None where everything held."""

    seed: int
    story: Story
    steps: int
    violation: Violation | None = None
    skipped: frozenset[int] = frozenset()

    @property
    def digest(self) -> str:
        return self.story.digest


@dataclass
class Simulation:
    """Everybody in one run."""

    seed: int
    weather: Weather
    story: Story
    time: Time
    host: LedgerHost
    network: Network
    desk: OperatorDesk
    shops: list[Shop]
    open_shop: Callable[[str], Shop]
    """Makes the shop whose folder has this name."""
    copying: Copying | None = None
    ids: Random = field(default_factory=Random)
    _rng: Random = field(default_factory=Random)
    _busy: set[str] = field(default_factory=set)

    def open_shops(self) -> None:
        """A quiet morning: every shop sells a little and gets its pack."""
        rng = self._use(f"{self.seed}/morning")
        self.story.say("morning")
        weather, self.network.weather = self.network.weather, None
        with self.story.inside():
            for shop in self.shops:
                shop.start()
                shop.open_shop(rng)
        self.network.weather = weather

    # ── a step ─────────────────────────────────────────────────────────────────────────────────

    def step(self, n: int) -> None:
        """Time goes on, somebody does something, something may go wrong."""
        rng = self._use(f"{self.seed}/{n}")
        self.time.forward(_pause_s(rng))
        self.story.say(f"{n:>3} {self.time.at:%d %H:%M:%S}")
        with self.story.inside():
            self._change_weather(rng, n)
            if self.copying is not None:
                self.copying.step(self, n)
            self.desk.at_step(n, rng)
            if self.host.running is None and rng.random() < 0.5:
                self.desk.act(rng)
            self._arm(rng)
            self._somebody_acts(rng)

    def _use(self, name: str) -> Random:
        self.ids.seed(f"{name}/ids")
        self._rng = Random(name)
        self.network.rng = Random(f"{name}/network")
        return self._rng

    def _somebody_acts(self, rng: Random) -> None:
        roll = rng.random()
        if roll < 0.08:
            self.desk.act(rng)
        elif roll < 0.16 and self.network.late:
            self.network.deliver_late(rng)
        else:
            self._at(rng.choice(self.shops), rng)

    def _at(self, shop: Shop, rng: Random) -> None:
        self._busy.add(shop.name)
        try:
            shop.act(rng)
        except Dead as death:
            if death.process is not shop:
                raise
            shop.bury()
        finally:
            self._busy.discard(shop.name)

    def _meanwhile(self, till: str) -> None:
        """While one till waits for its answer, somebody else may do something."""
        if self.network.weather is None or len(self._busy) > 1:
            return
        if self._rng.random() >= self.weather.meanwhile:
            return
        others = [each for each in self.shops if each.name not in self._busy]
        with self.story.inside():
            if others and self._rng.random() < 0.7:
                self._at(self._rng.choice(others), self._rng)
            else:
                self.desk.act(self._rng)

    def _change_weather(self, rng: Random, n: int) -> None:
        if self.weather.is_dark(n) != self.weather.is_dark(n - 1):
            everybody = {shop.name for shop in self.shops}
            self.network.cut_off = everybody if self.weather.is_dark(n) else set()
            self.story.say(f"~ nobody has a line: {self.weather.is_dark(n)}")
        elif rng.random() < self.weather.outage:
            all_of_them = {shop.name for shop in self.shops}
            if rng.random() < 0.4:
                # The whole township at once, and again when it is repaired.
                self.network.cut_off = set() if self.network.cut_off else all_of_them
            else:
                self.network.cut_off ^= {rng.choice(self.shops).name}
            self.story.say(f"~ without a line: {sorted(self.network.cut_off)}")
        if rng.random() < self.weather.clock_step:
            name = rng.choice([self.host.name, *(each.name for each in self.shops)])
            wrong = timedelta(seconds=rng.choice(_WRONG_S))
            if name == self.host.name:
                wrong = timedelta(seconds=rng.choice((-2, 0, 2)))
            self.time.wrong[name] = wrong
            self.story.say(f"~ the clock of {name} is off by {wrong.total_seconds():.0f} s")
            self.story.count("clock steps")
        if rng.random() < self.weather.disk_step:
            shop = rng.choice(self.shops)
            shop.disk_bytes = rng.choice(DISKS)
            self.story.say(f"~ the disk of {shop.name} has {shop.disk_bytes:,} bytes for it")
            self.story.count("disk steps")

    def _arm(self, rng: Random) -> None:
        if rng.random() < self.weather.ledger_death:
            self.host.arm(rng.randint(1, 8), rng.choice(self.weather.deaths), rng)
        if rng.random() < self.weather.till_death:
            # Armed until it fires: who acts next may be somebody else.
            shop = rng.choice(self.shops)
            shop.arm(rng.randint(1, 16), rng.choice(self.weather.deaths), rng)

    # ── the end ────────────────────────────────────────────────────────────────────────────────

    def heal(self, name: str, *, last: bool = False) -> None:
        """The network is good, clocks are right, everything runs, everybody finishes."""
        rng = self._use(f"{self.seed}/{name}")
        self.story.say(f"{name}")
        with self.story.inside():
            for each in (self.host, *self.shops):
                each.disarm()
            for shop in self.shops:
                shop.disk_bytes = PLENTY
            self.network.weather = None
            self.network.cut_off.clear()
            self.time.wrong.clear()
            self.time.forward(_CALM_S)
            self.desk.bring_up(rng)
            assert self.host.running is not None
            self.desk.let_everybody_in()
            if self.copying is not None:
                self.copying.sort_out(self, rng, last=last)
            for shop in self.shops:
                if self.network.witness.terminals[shop.name] not in self.network.witness.copied:
                    self._finish(shop, rng, last)

    def _finish(self, shop: Shop, rng: Random, last: bool) -> None:
        if not shop.is_open:
            shop.start()
        for _ in range(_ROUNDS):
            if shop.finish(rng, last=last):
                return
            assert self.host.running is not None
            self.desk.rule(self.host.running, rng)
        raise Violation("INV-5", f"{shop.name}: this stays open: {shop.what_is_open()}")

    def restart_all(self) -> None:
        self.story.say("everything is started again")
        for each in (self.host, *self.shops):
            each.stop()
            each.start()


def run(seed: int, township: Township, folder: Path, skip: frozenset[int] = frozenset()) -> Run:
    """Play `seed` without the steps in `skip`, in `folder`, which is gone afterwards."""
    story = Story()
    weather = Weather.of(Random(f"{seed}/weather"))
    township.settle_in(folder)
    result = Run(seed, story, weather.steps, skipped=skip)
    try:
        with watched(), _everybody(seed, weather, story, township, folder) as sim:
            _play(sim, skip)
    except Violation as violation:
        story.say(f"VIOLATED {violation}")
        result.violation = violation
    finally:
        shutil.rmtree(folder)
    return result


def _play(sim: Simulation, skip: frozenset[int]) -> None:
    with _no_surprise():
        if sim.weather.morning:
            sim.open_shops()
        for n in range(1, sim.weather.steps + 1):
            if n not in skip:
                sim.step(n)
        sim.heal("healed")
        witness = sim.network.witness
        once = checker.state(sim.host.database, sim.shops, witness)
        rng = Random(f"{sim.seed}/late")
        while sim.network.late:
            sim.network.deliver_late(rng)
        sim.heal("healed again")
        sim.restart_all()
        sim.heal("healed after a restart", last=True)
        assert sim.host.running is not None
        while sim.host.running.settlement.close():
            pass  # what two copies of a till sold under one number stands in two batches
        twice = checker.state(sim.host.database, sim.shops, witness)
        checker.check_recovery(once, twice)
        checker.check(
            witness,
            sim.host.database,
            sim.shops,
            in_order=not sim.weather.clock_step,
            copy=None if sim.copying is None else sim.copying.copy,
        )
        tampering.check(rng.choice(sim.shops), rng)
    sim.story.say(checker.summary(sim.host.database))


@contextmanager
def _no_surprise() -> Iterator[None]:
    """An error that nobody foresaw is a violation too."""
    try:
        yield
    except Violation:
        raise
    except Exception as error:
        raise Violation("no crash", f"{type(error).__name__}: {error}") from error


@contextmanager
def _everybody(
    seed: int, weather: Weather, story: Story, township: Township, folder: Path
) -> Iterator[Simulation]:
    time, ids = Time(), Random()
    time.forward(60)  # after the township was founded
    host = LedgerHost(folder, story, now=time.clock_of("the ledger"), ids=ids.randbytes)
    witness = Witness({township.ledger_kid: township.ledger_x}, dict(township.terminals))
    network = Network(host, witness, story, weather)
    issuer, pockets = Issuer(township.issuer_key), Pockets(folder / "pockets")
    desk = lost_disk.office_of(seed, weather)(
        host, township, network=network, issuer=issuer, pockets=pockets, ids=ids.randbytes
    )

    def open_shop(name: str) -> Shop:
        return Shop(
            name,
            folder,
            story=story,
            network=network,
            township=township,
            families=weather.families,
            cards=weather.cards,
            pockets=pockets,
            issuer=issuer,
            time=time,
            ids=ids.randbytes,
        )

    shops = [open_shop(name) for name in list(township.terminals)[: weather.tills]]
    desk.shops = shops
    copying = Copying(seed, weather) if weather.copied else None
    sim = Simulation(
        seed, weather, story, time, host, network, desk, shops, open_shop, copying, ids
    )
    network.meanwhile = sim._meanwhile
    story.say(f"seed {seed}: {weather}")
    try:
        host.start()
        yield sim
    finally:
        everybody: list[Process] = [host, *shops]
        for each in everybody:
            each.disarm()
        for each in everybody:
            each.stop()


def _pause_s(rng: Random) -> float:
    """Mostly seconds, sometimes a quarter of an hour, rarely a night."""
    roll = rng.random()
    if roll < 0.8:
        return rng.uniform(0.2, 20)
    if roll < 0.97:
        return rng.uniform(60, 1200)
    return rng.uniform(3600, 40_000)
