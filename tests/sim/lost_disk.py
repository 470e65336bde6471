"""The ledger's disk is lost and an older copy of its book put back (FC-8, FI-1).

The office copies the book once, as it does every night. Later the ledger dies at some point and its
disk with it; the copy takes its place and is healed as docs/operators.md says: `heal begin`, tills
report while the ledger decides nothing, the office does again what it did since, brings the batches
that were published, and opens. Whoever dies on the way goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, Literal

from sqlalchemy.exc import OperationalError

from carepos.keys import b64
from carepos_ledger import app, backup, healing
from carepos_ledger.database import Database
from carepos_ledger.keyring import Keyring
from tests.properties.ledger_model import Opened
from tests.sim.files import Row, looked_at, tables
from tests.sim.ledger_host import Down, LedgerHost, Request
from tests.sim.loss import Allotment, Loss, allotments_of, outcomes_of, postings_of
from tests.sim.operator_desk import Action, OperatorDesk
from tests.sim.process import Dead
from tests.sim.township import OPERATOR_SECRET, Township
from tests.sim.weather import Weather
from tests.sim.witness import Violation
from tests.world import ISSUER

_AGAIN: Final[tuple[Action, ...]] = (
    OperatorDesk.fund,
    OperatorDesk.change_rules,
    OperatorDesk.freeze,
    OperatorDesk.thaw,
    OperatorDesk.suspend,
    OperatorDesk.let_in,
    OperatorDesk.issue,
)
"""What is lost with the book and nobody else knows: the office does it once more."""
_SET_ASIDE: Final = ("allotments", "pack_issues", "postings", "entries")
_ROUNDS: Final = 200


@dataclass(frozen=True)
class Plan:
    """When it happens in a run, by step, and how the office goes about it."""

    copied: int
    lost: tuple[int, ...]
    unnoticed: bool
    """The copy is put back and served without a word."""
    early: bool
    """It is opened though some till has not reported."""

    @classmethod
    def of(cls, rng: Random, steps: int) -> Plan:
        copied = rng.randint(1, steps // 2)
        lost = [rng.randint(copied + 1, steps * 3 // 4 + 1)]
        if rng.random() < 0.2:
            lost.append(rng.randint(lost[0], steps))
        return cls(copied, tuple(lost), rng.random() < 0.2, rng.random() < 0.25)


def _put_issuer_keys(desk: OperatorDesk, ledger: app.Ledger, rng: Random) -> None:
    ledger.issuers.put(ISSUER, desk._issuer.published())


def office_of(seed: int, weather: Weather) -> Callable[..., OperatorDesk]:
    """The office of a run, which may be one whose ledger loses its disk."""
    if not weather.lost_disk:
        return OperatorDesk
    plan = Plan.of(Random(f"{seed}/lost disk"), weather.steps)
    return partial(RestoringDesk, plan=plan)


class RestoringDesk(OperatorDesk):
    """An office whose ledger loses its disk."""

    def __init__(self, host: LedgerHost, township: Township, *, plan: Plan, **more: Any) -> None:
        super().__init__(host, township, **more)
        self._plan = plan
        self._due = list(plan.lost)
        self._copy = host.database.with_name("backup.db")
        self._is_early = False
        """Whether it was said that it may open before every till has reported."""
        self._state: Literal["whole", "failing", "restored", "unnoticed", "healing"] = "whole"
        self._since: list[tuple[Action, Any]] = []
        """What was done since the copy was made, with the random numbers of it."""
        self._left: list[tuple[Action, Any]] = []
        """What of that is still to be done again."""
        self._files: list[tuple[str, bytes]] = []
        """Manifest and file of each batch that the office saw."""
        host.may_be_healed = self._look

    @property
    def _loss(self) -> Loss:
        loss = self._network.witness.loss
        assert loss is not None
        return loss

    # ── what happens ───────────────────────────────────────────────────────────────────────────

    def at_step(self, n: int, rng: Random) -> None:
        for shop in self.shops:
            shop.reports = True
        if self._state == "failing":
            self._lose()
        if self._copy.exists():
            if self._due and n >= self._due[0]:
                self._due.pop(0)
                self._state = "failing"
                self._host.arm(rng.randint(1, 20), "kill", rng)
                self._story.say("~ the disk of the ledger fails soon")
        elif n >= self._plan.copied and self._host.running is not None:
            self._back_up()
        if self._state in ("restored", "healing") and rng.random() < 0.5:
            self.act(rng)

    def _back_up(self) -> None:
        backup.copy(self._host.database, self._copy)
        held = tables(self._copy, ["records"])["records"]
        self._network.witness.loss = Loss(outcomes_of(held))
        self._say("copies the book")

    def _lose(self) -> None:
        """The machine is dead, and its disk with it."""
        self._host.disarm()
        self._host.stop()
        lost = looked_at(self._host.database, ("records", "held_records", *_SET_ASIDE))
        self._loss.ruled |= {row["digest"] for row in lost["held_records"]}
        self._loss.lose(self._network.witness, lost["records"], self._kept())
        self._loss.told = self._told(lost)
        self._network.forget_answers()
        self._pockets.answers.clear()
        for file in self._host.database.parent.glob(f"{self._host.database.name}*"):
            file.unlink()
        shutil.copy(self._copy, self._host.database)
        self._left = list(self._since)
        self._is_early = False
        # A ledger that has healed once does not start with a book of before.
        epoch = Keyring.load(self._host.settings.folder).epoch
        unnoticed = self._plan.unnoticed and epoch == 1
        self._state = "unnoticed" if unnoticed else "restored"
        if unnoticed:
            self._loss.is_unnoticed = True
            self._loss.serve_unhealed(self._network.witness, self._loss.answers)
        self._story.count("disk: lost")
        self._say(f"lost the disk, and puts the copy back{' without a word' * unnoticed}")

    def _kept(self) -> list[tuple[str, str]]:
        """(digest, outcome) of all that tills have of the ledger's answers."""
        found = []
        for shop in self.shops:
            held = looked_at(shop.database, ("records", "outcomes"))
            digests = {row["sequence"]: row["digest"] for row in held["records"]}
            found += [(digests[row["sequence"]], row["jws"]) for row in held["outcomes"]]
        return found

    def _told(self, lost: dict[str, list[Row]]) -> dict[Allotment, str]:
        """What packs tell of: a till that holds its newest knows all that was set aside for it,
        unless more was since, and no pack was made."""
        packs = sorted(lost["pack_issues"], key=lambda row: str(row["made_at"]))
        newest = {row["terminal"]: row for row in packs}
        made = {row["posting"]: row["recorded_at"] for row in lost["postings"]}
        behind = {
            terminal
            for row in lost["entries"]
            for head, _, terminal in [row["account"].partition(":")]
            if head == "allotted" and terminal in newest and row["amount"] > 0
            if made[row["posting"]] > newest[terminal]["made_at"]
        }
        found = dict[Allotment, str]()
        for shop in self.shops:
            terminal = self._network.witness.terminals[shop.name]
            kept = shop.folder / "pack.manifest"
            if terminal not in newest or terminal in behind or not kept.exists():
                continue
            manifest = Opened.of(kept.read_text("ascii")).payload
            if manifest["file"]["sha256"] == newest[terminal]["sha256"]:
                own = [
                    row
                    for row in lost["allotments"]
                    if row["terminal"] == terminal and not row["closed"]
                ]
                found |= dict.fromkeys(allotments_of(own), terminal)
        return found

    # ── what the office does ───────────────────────────────────────────────────────────────────

    def act(self, rng: Random) -> None:
        if self._state == "failing" and self._host.running is None:
            self._lose()
        if self._state == "restored":
            self._begin(rng)
        elif self._state == "healing":
            self._go_on(rng)
        else:
            super().act(rng)
            if self._state == "unnoticed":
                self._look_at_alarms(rng)

    def carry_out(self, action: Action, rng: Random) -> None:
        if self._copy.exists() and action in _AGAIN:
            self._since.append((action, rng.getstate()))
        if self._state == "unnoticed" and action is OperatorDesk.close_batches:
            return  # it would give out numbers again that were published
        super().carry_out(action, rng)
        if action is OperatorDesk.close_batches and self._host.running is not None:
            self._fetch()

    def _fetch(self) -> None:
        """The files of a close are published: merchants have them, and whoever pays."""
        if self._network.witness.loss is None:
            return
        rows = tables(self._host.database, ["batches"])["batches"]
        rows.sort(key=lambda row: (row["merchant"], row["programme"], row["batch_no"]))
        self._files = [(row["manifest"], bytes(row["file"])) for row in rows]
        self._loss.published |= {
            (row["merchant"], row["programme"], row["batch_no"]): row["manifest"] for row in rows
        }

    def _begin(self, rng: Random) -> None:
        """`carepos ledger heal begin`, which may be cut short as well."""
        self._host.stop()
        self._loss.began = postings_of(looked_at(self._host.database, ["postings"])["postings"])
        if rng.random() < 0.3:
            self._host.arm(rng.randint(1, 4), rng.choice(("kill", "power", "disk")), rng)
        database = Database(self._host.settings.database)
        try:
            progress = healing.begin(database, self._host.settings.folder, self._host.now)
        except Dead:
            self._say("begins to heal, cut short")
            database.close()
            self._host.bury()
            return
        except OperationalError:
            self._say("begins to heal: the disk failed")
            return
        finally:
            database.close()
            self._host.disarm()
        self._state = "healing"
        self._host.start()
        self._story.count("heals begun")
        self._say(f"begins to heal, epoch {progress.epoch}")

    def _go_on(self, rng: Random) -> None:
        if self._host.running is None:
            self._host.start()
            self._say("starts the ledger, which heals")
        if self._state != "healing":
            return  # it had died just behind the opening
        if rng.random() < 0.5:
            self._host.arm(rng.randint(1, 30), rng.choice(("kill", "power", "disk")), rng)
        try:
            if self._do_again(rng):
                self._open(early=self._plan.early and rng.random() < 0.3)
        except Down:
            self._say("waits for the ledger")

    def _do_again(self, rng: Random) -> bool:
        """What comes before the opening; False while something is left to do."""
        for each in [pair for pair in self._left if pair[0] is not OperatorDesk.issue]:
            self._repeat(each)
            if self._host.running is None:
                return False
        super().carry_out(_put_issuer_keys, rng)
        if self._host.running is None:
            return False
        for manifest, file in self._files:
            packing = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
            packed = b64(packing.compress(file) + packing.flush())
            status, answer = self._ask(
                "POST", "/settlements", {"manifest": manifest, "file": packed}
            )
            if status not in (200, 201):
                self._say(f"brings a batch: {status} {answer.get('code')}")
                return False
        return True

    def _repeat(self, done: tuple[Action, Any]) -> None:
        self._left.remove(done)
        action, state = done
        numbers = Random()
        numbers.setstate(state)
        super().carry_out(action, numbers)

    def _open(self, *, early: bool) -> None:
        """`carepos ledger heal open`: one call of it."""
        self._is_early |= early
        status, answer = self._ask("POST", "/open", {"early": early})
        in_play = {self._network.witness.terminals[shop.name] for shop in self.shops}
        if status == 409 and not in_play & set(answer.get("terminals", ())):
            # Only tills that are gone for good have not reported.
            status, answer = self._ask("POST", "/open", {"early": True})
        self._say(f"opens the ledger{' early' * early}: {status} {json.dumps(answer)[:80]}")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        """As an operator's command does. Raises Down."""
        sent = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {OPERATOR_SECRET}"}
        target = f"/v1/operators/heal{path}"
        answer = self._host.call(Request.of(method, target, sent, headers))
        return answer.status, json.loads(answer.body)

    def _look(self) -> None:
        """Whether the ledger, which began to heal, is open now: nobody has used it yet."""
        if self._state != "healing":
            return
        held = tables(
            self._host.database, ("meta", "postings", "records", "heal_reports", "allotments")
        )
        if any(row["name"] == "healing" for row in held["meta"]):
            return
        self._state = "whole"
        self._loss.healed = postings_of(held["postings"])
        self._loss.set_aside = allotments_of(held["allotments"])
        assert self._host.running is not None
        epoch = self._host.running.keyring.epoch
        complete = {
            row["terminal"]
            for row in held["heal_reports"]
            if row["epoch"] == epoch and row["complete"]
        }
        in_play = {self._network.witness.terminals[shop.name] for shop in self.shops}
        if in_play - complete:
            self._story.count("heals ended early")
            self._loss.is_unasked |= not self._is_early
            self._loss.serve_unhealed(
                self._network.witness, [row["digest"] for row in held["records"]]
            )
        self._story.count("heals ended")
        self._say("has a ledger that is open again")

    def _look_at_alarms(self, rng: Random) -> None:
        if self._host.running is None:
            return
        with suppress(Down):
            _, answer = self._ask("GET", "", None)
            if answer.get("lost"):
                self._say("hears that data is lost")
                self._state = "restored"
                self._begin(rng)

    # ── the end ────────────────────────────────────────────────────────────────────────────────

    def bring_up(self, rng: Random) -> None:
        """The ledger runs and is healed, whatever that takes."""
        if self._state == "failing":
            self._lose()
        if self._state == "unnoticed":
            super().bring_up(rng)
            self._all_report()
            self._look_at_alarms(rng)
            if self._state == "unnoticed":
                self._do_again(rng)  # no till had heard of what was lost
                self._state = "whole"
        for _ in range(_ROUNDS):
            if self._state == "whole":
                break
            self.act(rng)
            self._host.disarm()
            if self._state == "healing" and self._host.running is not None:
                self._all_report()
        else:
            raise Violation("INV-9", "the ledger does not open any more")
        super().bring_up(rng)
        if self._network.witness.loss is not None:
            self._all_report()
        for each in list(self._left):
            self._repeat(each)

    def _all_report(self) -> None:
        for shop in self.shops:
            if not shop.is_open:
                shop.start()
            assert shop.till is not None
            shop.report(Random())
