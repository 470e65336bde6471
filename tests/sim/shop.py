"""A till and the cashier in front of it, with a printer beside it.

The till is the product's own, over its own files; the cashier is honest and not patient: she sells,
presses twice, asks again, cancels, takes back, goes to lunch, pulls the plug. Goods leave her hand
once she reads "confirmed", or "accepted" where there is no network, and never before; money and
vouchers once she reads "taken back".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, get_args

from carepos import Correction, ReturnedLine, Sale, Till, disk_room, key_change, token
from carepos import Line as Goods
from carepos.attempt import FREES_CHECKOUT
from carepos.disk_room import LEAST_BYTES, RESERVE_BYTES, WARN_BYTES, DiskRoom
from carepos.errors import (
    DiskFull,
    JournalClosed,
    JournalError,
    JournalLocked,
    NotDecided,
    NotWritten,
    Refused,
    Unreachable,
    WrongState,
)
from carepos.keys import write_secret
from carepos.mirror import Mirror
from carepos.record import Kind
from carepos.sale import Offer
from carepos.scan import Holder
from carepos_plugin.print_queue import PrintQueue
from carepos_plugin.printing import printers
from tests.sim import carried
from tests.sim.carried import Pockets
from tests.sim.clock import Time
from tests.sim.issuer import Issuer
from tests.sim.line import Line
from tests.sim.network import Network
from tests.sim.process import Process
from tests.sim.story import Story
from tests.sim.township import PIN, WRONG_PIN, Township
from tests.sim.witness import Receipt, Violation
from tests.world import AUDIENCE, FORMULA, ISSUER, MILK, RICE

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
PLENTY: Final = RESERVE_BYTES + 2 * WARN_BYTES
DISKS: Final = (0, RESERVE_BYTES, RESERVE_BYTES + LEAST_BYTES // 2, PLENTY, PLENTY)
"""How large a till's disk may be beside what lies on it: none of it left, only what the reserve
holds, a little more, enough."""
_COLUMNS: Final = 42
_ASKED: Final = ("goods_asked", "accepted", "accept_asked")
_ERRORS: Final = (Refused, NotDecided, Unreachable, WrongState, DiskFull, NotWritten, KeyError)
"""What a till may say to a cashier; anything else is a fault of the product. KeyError: of a sale
that it never began."""


@dataclass(frozen=True)
class Return:
    """What a family brings back: a receipt, or only its number, and some of its goods; `reference`
    is the register's own number of it, where the register has one."""

    receipt: str
    lines: tuple[ReturnedLine, ...]
    reference: str | None


@dataclass
class Checkout:
    """A sale at the register, and what was offered for it last."""

    number: str
    family: int
    offer: Offer | None = None


class Shop(Process):
    """One till's process and its cashier. Her actions take the random numbers of the step."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        story: Story,
        network: Network,
        township: Township,
        families: int,
        cards: bool,
        pockets: Pockets,
        issuer: Issuer,
        time: Time,
        ids: Callable[[int], bytes],
    ) -> None:
        super().__init__(name, folder / name / "journal.db", story)
        self.folder = folder / name
        self.till: Till | None = None
        self.checkouts: list[Checkout] = []
        self.returns: list[Return] = []
        self.register = "S"
        self.begun_elsewhere: set[str] = set()
        """Checkouts that another copy of this till began, or went on with."""
        self._network = network
        self._witness = network.witness
        self._township = township
        self._families = families
        self._cards = cards
        self._issuer = issuer
        self.pockets = pockets
        self.second_disk: Mirror | None = None
        self._time = time
        self._ids = ids
        self._queue: PrintQueue | None = None
        self._holders: dict[int, Holder] = {}
        self._step_rng = Random()
        self.disk_bytes = PLENTY
        self.reports = False
        """Whether it asks now and then what the ledger holds of its records."""
        self._wrong_paper: Violation | None = None

    # ── the process ────────────────────────────────────────────────────────────────────────────

    @property
    def is_open(self) -> bool:
        return self.till is not None

    def start(self) -> None:
        till = self._new_till()
        self.till = till
        self._witness.started(self.name, till.journal.sequence)
        self._queue = PrintQueue(
            till.journal,
            self,
            lambda _: b"",
            columns=_COLUMNS,
            terminal_no=till.enrolment.terminal_no,
            reached=self.reached,
        )
        self.second_disk = carried.second_disk_of(till, self.folder)
        self._holders.clear()  # in memory only, like offers
        for each in self.checkouts:
            each.offer = None

    def _new_till(self) -> Till:
        uptime = self._time.uptime_of(self.name)
        return Till.open(
            self.folder,
            now=self._time.clock_of(self.name),
            random_bytes=self._ids,
            uptime=uptime,
            reached=self.reached,
            transport=Line(partial(self._network.carry, self), uptime.seconds),
            disk=DiskRoom(self.folder, free=lambda _: self._free_bytes()),
        )

    def stop(self) -> None:
        if self.till is not None:
            self.till.close()
        self.till = self.second_disk = None

    def bury(self) -> None:
        super().bury()
        if self._how == "power":
            self._time.switch_off(self.name)

    def has_room(self) -> bool:
        return self._free_bytes() > 0

    def _free_bytes(self) -> int:
        held = (self.folder / disk_room.FILE).exists()
        return max(0, self.disk_bytes - (RESERVE_BYTES if held else 0))

    # ── what the cashier does ──────────────────────────────────────────────────────────────────

    def act(self, rng: Random) -> None:
        """One thing that she might do now."""
        self._step_rng = rng
        if self.till is None:
            self._open()
            return
        action = rng.choices([each for each, _ in ACTIONS], [weight for _, weight in ACTIONS])[0]
        if not self.till.journal.attempts():
            action = Shop.sell
        if self.reports and rng.random() < 0.3:
            action = rng.choice((Shop.report, Shop.report, Shop.refresh_pack))
        try:
            action(self, rng)
            if self.is_open and rng.random() < 0.5:
                self.print_waiting(rng)  # the plugin prints by itself, soon
        except JournalClosed:
            self._say("the journal is closed; the till is started again")
            self.stop()
        except _ERRORS as error:
            self._say(f"{action.__name__}: {_named(error)}")

    def _open(self) -> None:
        try:
            self.start()
        except JournalError as error:
            self._say(f"does not start: {_named(error)}")
        else:
            self._say("starts")

    def sell(self, rng: Random) -> None:
        """A new sale, or the next try of one that came to nothing."""
        assert self.till is not None
        again = [each for each in self.checkouts if self._may_try_again(each)]
        if again and rng.random() < 0.4:
            checkout = rng.choice(again)
            if self.till.journal.of_checkout(checkout.number):
                self._read(self.till.status(checkout.number), "looks")
        else:
            checkout = self._new_checkout(rng.randrange(self._families))
        goods = _basket(rng)
        checkout.offer = self.till.propose(self._holder(checkout.family, rng), goods)
        sale = self.till.redeem(checkout.offer, checkout=checkout.number, cashier="c01")
        self._read(sale, "sells")

    def press_again(self, rng: Random) -> None:
        """The same button once more."""
        assert self.till is not None
        offered = [each for each in self.checkouts if each.offer is not None]
        if offered:
            checkout = rng.choice(offered)
            assert checkout.offer is not None
            sale = self.till.redeem(checkout.offer, checkout=checkout.number, cashier="c01")
            self._read(sale, "presses again")

    def retry(self, rng: Random) -> None:
        assert self.till is not None
        self._read(self.till.retry(self._some(rng)), "asks again")

    def cancel(self, rng: Random) -> None:
        assert self.till is not None
        checkout = self._some(rng)
        if self.begun_elsewhere and self._witness.has_goods(self.name, self.till.status(checkout)):
            return  # whatever this copy of the till knows, she remembers
        self._read(self.till.cancel(checkout), "cancels")

    def accept(self, rng: Random) -> None:
        """Let a sale that nobody answered go, where the rules allow it."""
        assert self.till is not None
        checkout = self._some(rng)
        self.till.can_accept(checkout)
        self._read(self.till.accept(checkout), "accepts")

    def answer_goods(self, rng: Random) -> None:
        """Whether the goods left, where she is asked."""
        assert self.till is not None
        sale = self.till.status(self._some(rng))
        if sale.state in _ASKED:
            self._answer(sale, rng)
        else:
            self.till.answer_goods(sale.checkout, handed_over=True)

    def _answer(self, sale: Sale, rng: Random) -> None:
        """If they did not, she may still hand them over now."""
        assert self.till is not None
        has_left = self._witness.has_goods(self.name, sale)
        waits = self._witness.is_waited_for(self.name, sale)
        yes = has_left or (waits and rng.random() < 0.5)
        if not has_left:
            if yes:
                self._witness.handed_over(self.name, sale, self._receipt(sale))
            else:
                self._witness.keeps(self.name, sale)
        now = self.till.answer_goods(sale.checkout, handed_over=yes)
        self._read(now, f"answers {'yes' if yes else 'no'}")

    def void(self, rng: Random) -> None:
        """A whole sale is taken back; she looks at it first."""
        assert self.till is not None
        checkout = rng.choice(self.checkouts).number
        self._read(self.till.status(checkout), "looks")
        done = self.till.void(checkout, cashier="c01", reason="wrong_goods", approved_by="c02")
        self._read_undo(done, "voids")

    def refund(self, rng: Random) -> None:
        """A family brings goods back, here or to another till than it bought them at; or the same
        return is typed in once more."""
        assert self.till is not None
        if self.returns and rng.random() < 0.35:
            wish = rng.choice(self.returns)
        elif not self._witness.receipts:
            return
        else:
            wish = self._return(rng)
            self.returns.append(wish)
        if rng.random() < 0.2:
            self.till.returnable(wish.receipt)
        done = self.till.refund(
            wish.receipt,
            wish.lines,
            cashier="c01",
            reason="returned",
            approved_by="c02",
            reference=wish.reference,
        )
        self._read_undo(done, "refunds")

    def _return(self, rng: Random) -> Return:
        """Anything that somebody may bring, also more than is left of it."""
        receipt = rng.choice(self._witness.receipts)
        bought = list(enumerate(receipt.quantities, 1))
        brought = sorted(rng.sample(bought, rng.randint(1, len(bought))))
        return Return(
            receipt.qr if rng.random() < 0.5 else receipt.receipt_no,
            tuple(ReturnedLine(n, rng.choice((1, -(-of // 2), of))) for n, of in brought),
            f"R{len(self.returns) + 1:03d}" if rng.random() < 0.7 else None,
        )

    def look(self, rng: Random) -> None:
        assert self.till is not None
        self._read(self.till.status(self._some(rng)), "looks")

    def settle(self, rng: Random) -> None:
        assert self.till is not None
        sales = self.till.settle()
        self._say(f"settles {len(sales)}")
        for sale in sales:
            self._read(sale, "settles")
        for undo in self.till.corrections():
            self._read_undo(undo, "settles")

    def settle_due(self, rng: Random) -> None:
        """As the plugin does by itself: only what may be asked about by now."""
        assert self.till is not None
        for sale in self.till.settle(due_only=True):
            self._read(sale, "settles what is due")

    def close_day(self, rng: Random) -> None:
        assert self.till is not None
        closed = self.till.close_day()
        self._say(f"closes the day: z {closed.report.z_no}, acknowledged {closed.acknowledged}")

    def restart(self, rng: Random) -> None:
        self.stop()
        self._open()

    def start_twice(self, rng: Random) -> None:
        """The icon is clicked once more: a second process must not touch the journal."""
        try:
            second = self._new_till()
        except JournalLocked:
            self._say("is started twice, and the second process ends")
        else:
            second.close()
            raise Violation("FA-6", f"two processes of {self.name} have one journal")

    def print_waiting(self, rng: Random) -> None:
        assert self._queue is not None
        for slip in self._queue.print_waiting():
            self._say(f"prints {slip.receipt_no} copy {slip.copy_no}: {slip.state}")
        if self._wrong_paper is not None:
            raise self._wrong_paper

    def reprint(self, rng: Random) -> None:
        assert self.till is not None
        jobs = self.till.journal.print_jobs()
        if jobs:
            job = self.till.journal.queue_copy(rng.choice(jobs).receipt_no)
            self._say(f"wants a copy of {job.receipt_no}")

    def report(self, rng: Random) -> None:
        """Ask what the ledger holds, and offer it what it lost: as the plugin does by itself."""
        assert self.till is not None
        state = self.till.heal()
        word = "healing" if state.is_healing else "open"
        self._say(f"reports: {word}, epoch {state.epoch}, {state.sent} of {state.of} sent")

    def give_back(self, rng: Random) -> None:
        """A family moves on: what this till has set aside for it is free again elsewhere."""
        assert self.till is not None
        n = self.till.give_back(self._holder(rng.randrange(self._families), rng))
        self._story.count("allotments given back", n)
        self._say(f"gives {n} allotments back")

    def refresh_pack(self, rng: Random) -> None:
        assert self.till is not None
        if self.reports:
            self.till.heal()
        self.till.refresh_pack()

    def forget(self, rng: Random) -> None:
        assert self.till is not None
        self.till.journal.forget()

    def change_key(self, rng: Random) -> None:
        assert self.till is not None
        if not key_change.is_wished(self.folder):
            # As another process would (`carepos till change-key`), with a key of this seed.
            write_secret(self.folder / key_change.NEXT_FILE, self._ids(32))
        state = self.till.change_key()
        self._say(f"changes its key{', not yet' if state.changing else ''}")

    def open_shop(self, rng: Random) -> None:
        """Before the storm: families that shop here, and a pack that knows them."""
        assert self.till is not None
        for family in range(self._families):
            # Little, so that something is left for the storm.
            with suppress(*_ERRORS):
                offer = self.till.propose(self._holder(family, rng), [Goods(MILK, 1, "piece", 120)])
                checkout = self._new_checkout(family)
                self._read(
                    self.till.redeem(offer, checkout=checkout.number, cashier="c01"), "sells"
                )
        self.till.refresh_pack()

    # ── after the storm ────────────────────────────────────────────────────────────────────────

    def finish(self, rng: Random, *, last: bool) -> bool:
        """Do what is left to do, with a network that works; whether nothing is open any more. The
        day is closed at the `last` time."""
        assert self.till is not None
        self._step_rng = rng
        for sale in self.till.settle():
            self._read(sale, "settles")
        for sale in self.open_sales():
            self._end(sale, rng)
        if self.open_sales() or self.till.corrections(waiting=True):
            return False
        self.look_at_all()
        self.print_waiting(rng)
        if last:
            closed = self.till.close_day()
            if not closed.acknowledged:
                self._say(f"closes the day, not acknowledged: {closed.problem}")
        return not self.till.journal.unanswered(*KINDS)

    def look_at_all(self) -> None:
        """Also at a sale that was booked just before the till stopped: its goods leave now."""
        assert self.till is not None
        for undo in self.till.corrections():
            self._read_undo(undo, "looks at")
        for checkout in self.checkouts:
            if self.till.journal.of_checkout(checkout.number):
                self._read(self.till.status(checkout.number), "looks")

    def what_is_open(self) -> str:
        assert self.till is not None
        waiting = [f"{r.kind} {r.sequence}" for r in self.till.journal.unanswered(*KINDS)]
        sales = [f"{sale.checkout} {sale.state}" for sale in self.open_sales()]
        undos = [f"{e.kind} of {e.sale_receipt_no}" for e in self.till.corrections(waiting=True)]
        return ", ".join([*sales, *undos, *(f"no outcome of {each}" for each in waiting)])

    def open_sales(self) -> list[Sale]:
        assert self.till is not None
        open_ones = {each.checkout for each in self.till.journal.unfinished()}
        return [self.till.status(each) for each in sorted(open_ones)]

    def _end(self, sale: Sale, rng: Random) -> None:
        assert self.till is not None
        if sale.state in _ASKED:
            self._answer(sale, rng)
        elif sale.state == "unknown" and rng.random() < 0.5:
            self._read(self.till.retry(sale.checkout), "asks again")
        elif sale.state in ("unknown", "interrupted"):
            self._read(self.till.cancel(sale.checkout), "cancels")

    # ── inside ─────────────────────────────────────────────────────────────────────────────────

    def print_job(self, job: printers.PrintJob) -> printers.PrintResult:
        """The printer (`printing.printers.Printer`): paper, no paper, or nobody knows."""
        state = self._step_rng.choice(
            (printers.PrintState.PRINTED,) * 3 + tuple(printers.PrintState)
        )
        if state != printers.PrintState.FAILED:
            try:
                self._witness.printed(self.name, job.name.split("-copy")[0], job.text)
            except Violation as violation:
                # The queue takes whatever a printer raises for a printer that failed.
                self._wrong_paper = violation
        return printers.PrintResult(state, "simulated")

    def _read(self, sale: Sale, doing: str) -> None:
        """What the till shows is read, and done: goods leave on "confirmed"."""
        problem = "" if sale.problem is None else f" ({sale.problem.split(':')[0]})"
        code = "" if sale.refusal is None else f" {sale.refusal.code}"
        self._say(f"{doing} {sale.checkout}: {sale.state}{code}{problem}")
        self._story.count(f"read: {sale.state}")
        self._witness.saw(self.name, sale)
        may_leave = sale.state in ("confirmed", "accepted")
        if may_leave and self._witness.is_waited_for(self.name, sale):
            self._witness.handed_over(self.name, sale, self._receipt(sale))
        if sale.state == "accepted" and self._step_rng.random() < 0.8:
            # The register says so by itself, once it has shown it.
            assert self.till is not None
            self._read(self.till.answer_goods(sale.checkout, handed_over=True), "handed over")

    def _receipt(self, sale: Sale) -> Receipt:
        assert self.till is not None
        shown = self.till.journal.of_checkout(sale.checkout)[-1].slip
        quantities = tuple(int(line["quantity"]) for line in shown["lines"])
        return Receipt(sale.receipt_no, shown["qr_text"], quantities)

    def _read_undo(self, done: Correction, doing: str) -> None:
        code = "" if done.refusal is None else f" {done.refusal.code}"
        self._say(
            f"{doing} {done.kind} {done.receipt_no} of {done.sale_receipt_no}: {done.state}{code}"
        )
        self._story.count(f"read: {done.kind} {done.state}")
        self._witness.saw_undo(self.name, done)

    def _holder(self, family: int, rng: Random) -> Holder:
        """Scanned now, or a while ago: what they hold may have changed since."""
        assert self.till is not None
        if family not in self._holders or rng.random() < 0.4:
            self._holders[family] = self._scanned(family, rng)
        return self._holders[family]

    def _scanned(self, family: int, rng: Random) -> Holder:
        assert self.till is not None
        if not self._cards or rng.random() < 0.6:
            return self.till.scan(self._token(family, rng))
        household = self._township.households[family]
        self._story.count("cards")
        return self.till.scan(household.card, pin=WRONG_PIN if rng.random() < 0.15 else PIN)

    def _token(self, family: int, rng: Random) -> str:
        """A family shows a fresh code, or somebody one that was shown before, here or elsewhere."""
        before = [text for of, text in self._witness.codes if of == family]
        if before and rng.random() < 0.15:
            return rng.choice(before)
        text = token.mint(
            self._issuer.key,
            iss=ISSUER,
            aud=AUDIENCE,
            sub=self._township.households[family].sub,
            jti=self._ids(8).hex(),
            issued_at=self._time.at,
        )
        self._witness.codes.append((family, text))
        return text

    def _new_checkout(self, family: int) -> Checkout:
        checkout = Checkout(f"{self.register}{len(self.checkouts) + 1:03d}", family)
        self.checkouts.append(checkout)
        return checkout

    def _may_try_again(self, checkout: Checkout) -> bool:
        assert self.till is not None
        if checkout.number in self.begun_elsewhere:
            return False
        attempts = self.till.journal.of_checkout(checkout.number)
        return not attempts or attempts[-1].state in FREES_CHECKOUT

    def _some(self, rng: Random) -> str:
        """Mostly a sale that is not over."""
        assert self.till is not None
        begun = [each.checkout for each in self.till.journal.unfinished()]
        if begun and rng.random() < 0.8:
            return rng.choice(begun)
        return rng.choice(self.checkouts).number

    def _say(self, text: str) -> None:
        self._story.say(f"{self.name} {text}")


Action = Callable[[Shop, Random], None]

ACTIONS: Final[tuple[tuple[Action, int], ...]] = (
    (Shop.sell, 40),
    (Shop.press_again, 4),
    (Shop.retry, 10),
    (Shop.cancel, 7),
    (Shop.answer_goods, 6),
    (Shop.accept, 8),
    (Shop.void, 7),
    (Shop.refund, 10),
    (Shop.look, 3),
    (Shop.settle, 6),
    (Shop.settle_due, 6),
    (Shop.close_day, 3),
    (Shop.restart, 4),
    (Shop.start_twice, 1),
    (Shop.print_waiting, 3),
    (Shop.reprint, 3),
    (Shop.give_back, 2),
    (Shop.refresh_pack, 4),
    (Shop.forget, 1),
    (Shop.change_key, 2),
    (carried.export_records, 5),
    (carried.there_and_back, 6),
    (carried.take_answers, 4),
    (carried.keep_second_disk, 3),
)
"""What a cashier does, and how often. Whatever a till learns to do becomes one more row here."""


def _basket(rng: Random) -> list[Goods]:
    kinds = rng.sample(("milk", "rice", "formula"), rng.randint(1, 2))
    lines = []
    for kind in kinds:
        n = rng.choice((1, 1, 1, 2, 3))
        if kind == "milk":
            lines.append(Goods(MILK, n, "piece", rng.choice((120, 650, 999, 2490)) * n))
        elif kind == "rice":
            lines.append(Goods(RICE, 500 * n, "g", rng.choice((390, 500, 777)) * n))
        else:
            lines.append(Goods(FORMULA, n, "piece", rng.choice((8900, 9900, 12_345)) * n))
    return lines


def _named(error: Exception) -> str:
    code = getattr(error, "code", None)
    return f"{type(error).__name__}{'' if code is None else f' {code}'}"
