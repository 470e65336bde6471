"""One ledger, killed and started again, and tills that come to it one after another.

`play` is one run: a calm beginning, a flow in which a process is killed while the network lies,
the healing, and the judge: after it, after every request has come once more, and after recovering
twice more.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from carepos import Till
from carepos.keys import SigningKey
from carepos_ledger import app
from carepos_ledger.database import Database
from carepos_ledger.keyring import Keyring
from carepos_ledger.settings import Settings
from tests.faults import flows, processes
from tests.faults.cases import CALM, Case
from tests.faults.judge import Disagree, Shop, judge
from tests.faults.processes import Child, Died, Ticking
from tests.faulty_proxy import FaultyProxy, Mode, between
from tests.quick_starts import migrate
from tests.stories.offline_shop import OFFLINE
from tests.world import PROGRAMME, Family, World, set_up

ISSUED_MINOR = 20_000
PATIENT_S, SHORT_S = 60.0, 1.5
ROUNDS = 8
"""So often a healed till may be asked to settle until nothing is open: each does all it can."""


@dataclass
class Ended:
    """How a run ended: `violation` is None where everything held. `killed`: whose point was
    reached."""

    case: Case
    violation: str | None
    killed: frozenset[str]
    spent_s: float


class Town:
    """A ledger on one database, as operators have it, and its process, as tills have it."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.began_s = time.monotonic()
        self.settings = Settings(folder / "ledger", database_url)
        Keyring.create(self.settings.folder)
        database = Database(database_url)
        migrate(database)
        database.close()
        now = Ticking(self.began_s)
        office, key = app.build(self.settings, now=now), SigningKey.generate()
        try:
            set_up(office, key, 1_000_000_000)
            office.programmes.put_programme(
                {**PROGRAMME, "offline": OFFLINE, "refunds": {"window_s": 86_400, "grace_s": 0}}
            )
        finally:
            office.close()
        self.world = World(folder, self.settings, now, office, key, "", None)
        self.engine = create_engine(database_url)
        self.ledger: Child = self._start()

    def _start(self) -> Child:
        return processes.ledger(self.settings.folder, self.settings.database, self.began_s)

    def revive(self) -> bool:
        """Start the ledger again if it is dead; whether it was."""
        if self.ledger.is_alive:
            return False
        self.ledger.kill()
        self.ledger = self._start()
        return True

    def close(self) -> None:
        self.ledger.kill()
        self.engine.dispose()

    def family(self) -> Family:
        """One with a voucher of its own."""
        self.world.families += 1
        row = self.world.row(f"family-{self.world.families:05}", ISSUED_MINOR)
        return Family(self.ledger.call("issue", row=row), self.world)

    def play(self, case: Case) -> Ended:
        began_s = time.monotonic()
        self.revive()
        folder = self.folder / f"till-{self.world.families}"
        with between(self.ledger.first) as proxy:
            run = _Run(self, case, proxy, folder)
            try:
                run.play()
                violation = None
            except Disagree as error:
                violation = str(error)
            finally:
                run.close()
        if violation is None:
            shutil.rmtree(folder, ignore_errors=True)
        return Ended(case, violation, frozenset(run.killed), time.monotonic() - began_s)


@dataclass
class _Run:
    """One case under way; also the cashier of its flow."""

    town: Town
    case: Case
    proxy: FaultyProxy
    folder: Path
    killed: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    till: Child | None = None
    is_wild: bool = False

    def __post_init__(self) -> None:
        code = self.town.ledger.call("activation", store=f"shop-{self.town.world.families}")
        self.terminal = Till.enrol(self.folder, url=self.proxy.url, activation=code).terminal
        self.family = self.town.family()

    # ── the cashier ────────────────────────────────────────────────────────────────────────────

    def does(self, what: str, **more: Any) -> Any:
        assert self.till is not None
        try:
            said = self.till.call(what, **more)
        finally:
            self._look_after_the_ledger()
        if what in ("sale", "retry", "accept") and said in ("confirmed", "accepted"):
            self.left.add(more["checkout"])
        return said

    def sells(self, checkout: str, amount_minor: int) -> str:
        token = self.family.token()
        said = self.does("sale", code=token, checkout=checkout, amount_minor=amount_minor)
        return str(said)

    def is_away(self, away: bool) -> None:
        self.proxy.is_away = away

    def fails(self, otherwise: Mode | None = None) -> None:
        mode = self.case.network if self.case.network != CALM else otherwise
        if mode is not None:
            self.proxy.fail(mode)  # type: ignore[arg-type]  # a name of the list in `cases`

    def _look_after_the_ledger(self) -> None:
        if self.town.revive():
            self.killed.add("ledger")
        host, _, port = self.town.ledger.first.removeprefix("http://").partition(":")
        self.proxy.upstream = (host, int(port))

    # ── a run ──────────────────────────────────────────────────────────────────────────────────

    def play(self) -> None:
        before, then = flows.FLOWS[self.case.flow]
        self._open(SHORT_S if self.case.is_slow else PATIENT_S)
        before(self)
        for who, point, times in self.case.victims:
            victim = self.till if who == "till" else self.town.ledger
            assert victim is not None
            victim.call("arm", point=point, times=times)
        try:
            then(self)
        except Died:
            self.killed.add("till")
        self._heal()
        facts = self._judged()
        self._everything_comes_again()
        need_same(facts, self._judged(), "INV-1: late copies changed something")
        for _ in range(2):
            self._open(PATIENT_S)
            self._settle()
        need_same(facts, self._judged(), "INV-8: recovering again changed something")

    def close(self) -> None:
        if self.till is not None:
            self.till.kill()

    def _open(self, answer_timeout_s: float) -> None:
        """Start the till; one that runs is killed first."""
        self.close()
        self.till = processes.till(self.folder, self.town.began_s, answer_timeout_s)

    def _heal(self) -> None:
        self.proxy.clear()
        self.proxy.is_away = False
        self._look_after_the_ledger()
        self._open(PATIENT_S)
        if len(self.case.victims) == 2:
            self._die_healing()
        self._calm_the_ledger()
        self._settle()
        if not self.does("close_day"):
            raise Disagree("INV-7: the day is not closed, something is missing below it")

    def _die_healing(self) -> None:
        """Where both are to die, whoever has not died yet does so while the other recovers."""
        for who, point, _ in self.case.victims:
            if who in self.killed:
                continue
            if who == "till":
                assert self.till is not None
                self.till.call("arm", point=point, times=1)
            else:
                # What the till said last may be killing it just now: then it has died already.
                with suppress(Died):
                    self.town.ledger.call("arm", point=point, times=1)
        try:
            self._settle()
            self.does("close_day")
        except Died:
            self.killed.add("till")
            self._open(PATIENT_S)

    def _calm_the_ledger(self) -> None:
        """It lives, and dies no more; a request that was late may still have killed it."""
        while True:
            self._look_after_the_ledger()
            with suppress(Died):
                self.town.ledger.call("arm", point="", times=0)
                return

    def _settle(self) -> None:
        still: dict[str, str] = {}
        for _ in range(ROUNDS):
            still = self.does("settle")
            if not still:
                return
            for checkout, state in still.items():
                if state in ("goods_asked", "accept_asked"):
                    handed_over = checkout in self.left or self.case.number % 2 == 1
                    self.does("goods", checkout=checkout, handed_over=handed_over)
        raise Disagree(f"INV-5: this stays open: {still}")

    def _judged(self) -> dict[str, object]:
        shop = Shop(
            self.folder.absolute() / "journal.db",
            self.terminal,
            ISSUED_MINOR,
            frozenset(self.left),
        )
        with self.town.engine.connect() as connection:
            return judge(shop, connection)

    def _everything_comes_again(self) -> None:
        """Every request that left the till, also those that a network held, in another order."""
        requests = [each.raw for each in self.proxy.sent]
        random.Random(self.case.number).shuffle(requests)
        for raw in requests:
            with suppress(OSError):
                self.proxy._forward(raw)


def need_same(before: dict[str, object], after: dict[str, object], what: str) -> None:
    other = sorted(name for name in before if before[name] != after[name])
    if other:
        raise Disagree(f"{what}: {', '.join(other)}")


@contextmanager
def town(folder: Path, database_url: str) -> Iterator[Town]:
    made = Town(folder, database_url)
    try:
        yield made
    finally:
        made.close()


def play_all(cases: Sequence[Case], database_url: str | None) -> list[Ended]:
    """Runs of one database, one after another at a ledger of their own; no URL: on SQLite."""
    with tempfile.TemporaryDirectory(prefix="carepos-faults-") as name:
        folder = Path(name)
        with town(folder, database_url or f"sqlite:///{folder / 'ledger.db'}") as here:
            return [here.play(case) for case in cases]
