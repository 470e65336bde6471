"""What the programme's office does meanwhile: starts the ledger, freezes, suspends, pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from sqlalchemy.exc import OperationalError

from carepos.keys import SigningKey, write_secret
from carepos_ledger import app
from carepos_ledger.held_list import HeldList
from carepos_ledger.held_rulings import HeldRulings
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from tests.sim import carried
from tests.sim.carried import Pockets
from tests.sim.issuer import Issuer
from tests.sim.ledger_host import LedgerHost
from tests.sim.network import Network
from tests.sim.process import Dead
from tests.sim.shop import Shop
from tests.sim.township import PROGRAMMES, Household, Township, issue, rules_of
from tests.world import ISSUER


class OperatorDesk:
    """One operator at the ledger's own machine."""

    def __init__(
        self,
        host: LedgerHost,
        township: Township,
        *,
        network: Network,
        issuer: Issuer,
        pockets: Pockets,
        ids: Callable[[int], bytes],
    ) -> None:
        self._host = host
        self._township = township
        self._network = network
        self._story = network.story
        self._issuer = issuer
        self._pockets = pockets
        self._ids = ids
        self.funded = 0
        self.households = 0
        self.shops: Sequence[Shop] = ()

    def act(self, rng: Random) -> None:
        """One thing that an operator might do now."""
        if self._host.running is None:
            self._host.start()
            self._say("starts the ledger")
            return
        action = rng.choices([each for each, _ in ACTIONS], [weight for _, weight in ACTIONS])[0]
        self.carry_out(action, rng)

    def carry_out(self, action: Action, rng: Random) -> None:
        assert self._host.running is not None
        try:
            action(self, self._host.running, rng)
        except Dead as death:
            if death.process is not self._host:
                raise
            self._host.bury()
        except Problem as problem:
            self._say(f"{action.__name__}: {problem.code}")
        except OperationalError:
            self._say(f"{action.__name__}: the disk failed")

    def at_step(self, n: int, rng: Random) -> None:
        """What is due in a step, whatever else happens in it."""

    def bring_up(self, rng: Random) -> None:
        """The storm is over: the ledger runs."""
        if self._host.running is None:
            self._host.start()

    def freeze(self, ledger: app.Ledger, rng: Random) -> None:
        self._set_frozen(ledger, rng, True)

    def thaw(self, ledger: app.Ledger, rng: Random) -> None:
        self._set_frozen(ledger, rng, False)

    def _set_frozen(self, ledger: app.Ledger, rng: Random, frozen: bool) -> None:
        household = rng.choice(self._township.households)
        programme = rng.choice(sorted(household.rows()))
        ref = household.rows()[programme]["ref"]
        done = ledger.office.freeze(programme, frozen=frozen, ref=ref)
        self._say(f"{'freezes' if frozen else 'thaws'} {programme} of {household.ref}: {done}")

    def suspend(self, ledger: app.Ledger, rng: Random) -> None:
        self._set_status(ledger, rng, "suspended")

    def let_in(self, ledger: app.Ledger, rng: Random) -> None:
        self._set_status(ledger, rng, "active")

    def _set_status(self, ledger: app.Ledger, rng: Random, status: str) -> None:
        name = rng.choice(sorted(self._township.terminals))
        done = ledger.terminals.set_status(self._township.terminals[name], status)
        self._say(f"makes {name} {status}: {done}")

    def close_batches(self, ledger: app.Ledger, rng: Random) -> None:
        closed = ledger.settlement.close()
        self._say(f"closes {len(closed)} batches")

    def fund(self, ledger: app.Ledger, rng: Random) -> None:
        ledger.office.fund(rng.choice(PROGRAMMES), "red-cross", 5_000, f"late-{self._ids(4).hex()}")
        self._say("books money of a funder")

    def issue(self, ledger: app.Ledger, rng: Random) -> None:
        self.households += 1
        issue(ledger.office, Household(f"new-{self.households}", dairy_minor=100))
        self._say("issues to a new family")

    def change_rules(self, ledger: app.Ledger, rng: Random) -> None:
        programme, paused = rng.choice(PROGRAMMES), rng.random() < 0.3
        done = ledger.programmes.put_programme(rules_of(programme, paused=paused))
        self._say(f"puts {programme}{' on hold' if paused else ''}: {done.result}")

    def rule(self, ledger: app.Ledger, rng: Random) -> None:
        """Somebody looks at the records that are held, and decides each, once."""
        desk = ledger.desk
        rulings = HeldRulings(ledger.database, desk._book, self._host.now)
        for held in HeldList(ledger.database).listed():
            accepts = held["kind"] == "reversal" or rng.random() < 0.6
            try:
                if accepts:
                    done = rulings.post(held["n"], operator="desk")
                else:
                    done = rulings.refuse(
                        held["n"], "not_accepted", "looked at it", operator="desk"
                    )
            except Problem as problem:
                self._say(f"can't decide {held['kind']} {held['n']}: {problem.code}")
            else:
                word = "posts" if accepts else "refuses"
                self._story.count(f"held: {word} {held['kind']}, {held['reason']}")
                self._say(f"{word} {held['kind']} {held['n']}, {held['reason']}: {done}")

    def let_everybody_in(self) -> None:
        """Whoever is suspended may sell again; who is forked never may."""
        ledger = self._host.running
        assert ledger is not None
        for till in ledger.terminals.listed():
            if till["status"] == "suspended":
                ledger.terminals.set_status(str(till["terminal"]), "active")

    def restart(self, ledger: app.Ledger, rng: Random) -> None:
        self._host.stop()
        self._host.start()
        self._say("restarts the ledger")

    def import_records(self, ledger: app.Ledger, rng: Random) -> None:
        self._say(carried.import_records(self._pockets, self._network, rng))

    def rotate_issuer_key(self, ledger: app.Ledger, rng: Random) -> None:
        self._issuer.rotate(SigningKey(self._ids(32)))
        ledger.issuers.put(ISSUER, self._issuer.published())
        self._say(f"learns of the issuer's {self._issuer.version}. key")

    def retire_issuer_key(self, ledger: app.Ledger, rng: Random) -> None:
        self._issuer.retire()
        ledger.issuers.put(ISSUER, self._issuer.published())
        self._say("learns that the issuer retired its older keys")

    def rotate_ledger_key(self, ledger: app.Ledger, rng: Random) -> None:
        folder = self._host.settings.folder
        self._host.stop()
        # As it would be made by the command, but with a key of this seed.
        write_secret(folder / "signing.key.next", self._ids(32))
        signing = Keyring.rotate(folder).signing
        self._network.witness.ledger_keys[signing.kid] = signing.public.x
        self._host.start()
        self._say("changes the ledger's key")

    def _say(self, text: str) -> None:
        self._story.say(f"the office {text}")


Action = Callable[[OperatorDesk, app.Ledger, Random], None]

ACTIONS: Final[tuple[tuple[Action, int], ...]] = (
    (OperatorDesk.freeze, 4),
    (OperatorDesk.thaw, 4),
    (OperatorDesk.suspend, 3),
    (OperatorDesk.let_in, 5),
    (OperatorDesk.close_batches, 8),
    (OperatorDesk.fund, 1),
    (OperatorDesk.issue, 1),
    (OperatorDesk.change_rules, 2),
    (OperatorDesk.restart, 2),
    (OperatorDesk.rule, 3),
    (OperatorDesk.import_records, 14),
    (OperatorDesk.rotate_issuer_key, 2),
    (OperatorDesk.retire_issuer_key, 1),
    (OperatorDesk.rotate_ledger_key, 2),
)
