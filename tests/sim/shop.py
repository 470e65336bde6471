"""A till and the cashier in front of it, with a printer beside it.

The till is the product's own, over its own files; the cashier is honest and not patient: she sells,
presses twice, asks again, cancels, goes to lunch, pulls the plug. Goods leave her hand once she
reads "confirmed" and never before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, get_args

from carepos import Line as Goods
from carepos import Sale, Till, disk_room, key_change, token
from carepos.attempt import FREES_CHECKOUT
from carepos.disk_room import LEAST_BYTES, RESERVE_BYTES, WARN_BYTES, DiskRoom
from carepos.errors import (
    DiskFull,
    JournalClosed,
    JournalError,
    NotDecided,
    Refused,
    Unreachable,
    WrongState,
)
from carepos.keys import write_secret
from carepos.record import Kind
from carepos.scan import Holder
from carepos.till import Offer
from carepos_plugin.print_queue import PrintQueue
from carepos_plugin.printing import printers
from tests.sim.clock import Time
from tests.sim.network import Line, Network
from tests.sim.process import Process
from tests.sim.story import Story
from tests.sim.township import Township
from tests.world import AUDIENCE, FORMULA, ISSUER, MILK, RICE

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
PLENTY: Final = RESERVE_BYTES + 2 * WARN_BYTES
DISKS: Final = (0, RESERVE_BYTES, RESERVE_BYTES + LEAST_BYTES // 2, PLENTY, PLENTY)
"""How large a till's disk may be beside what lies on it: none of it left, only what the reserve
holds, a little more, enough."""
_COLUMNS: Final = 42
_ERRORS: Final = (Refused, NotDecided, Unreachable, WrongState, DiskFull, KeyError)
"""What a till may say to a cashier; anything else is a fault of the product. KeyError: of a sale
that it never began."""


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
        time: Time,
        ids: Callable[[int], bytes],
    ) -> None:
        super().__init__(name, folder / name / "journal.db", story)
        self.folder = folder / name
        self.till: Till | None = None
        self.checkouts: list[Checkout] = []
        self._network = network
        self._witness = network.witness
        self._township = township
        self._families = families
        self._time = time
        self._ids = ids
        self._queue: PrintQueue | None = None
        self._tokens: list[tuple[int, str]] = []
        self._holders: dict[int, Holder] = {}
        self._paper_rng = Random()
        self.disk_bytes = PLENTY

    # ── the process ────────────────────────────────────────────────────────────────────────────

    @property
    def is_open(self) -> bool:
        return self.till is not None

    def start(self) -> None:
        uptime = self._time.uptime_of(self.name)
        till = Till.open(
            self.folder,
            now=self._time.clock_of(self.name),
            random_bytes=self._ids,
            uptime=uptime,
            reached=self.reached,
            transport=Line(self._network, self, uptime.seconds),
            disk=DiskRoom(self.folder, free=lambda _: self._free_bytes()),
        )
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
        self._holders.clear()  # in memory only, like offers
        for each in self.checkouts:
            each.offer = None

    def stop(self) -> None:
        if self.till is not None:
            self.till.close()
        self.till = None

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
        self._paper_rng = rng
        if self.till is None:
            self._open()
            return
        action = rng.choices([each for each, _ in ACTIONS], [weight for _, weight in ACTIONS])[0]
        if not self.till.journal.attempts():
            action = Shop.sell
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
        else:
            family = rng.randrange(self._families)
            checkout = Checkout(f"S{len(self.checkouts) + 1:03d}", family)
            self.checkouts.append(checkout)
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
        self._read(self.till.cancel(self._some(rng)), "cancels")

    def answer_goods(self, rng: Random) -> None:
        """Whether the goods left; they didn't, or she had read "confirmed". She may still hand
        them over now."""
        assert self.till is not None
        yes = rng.random() < 0.5
        sale = self.till.answer_goods(self._some(rng), handed_over=yes)
        self._read(sale, f"answers {'yes' if yes else 'no'}")

    def look(self, rng: Random) -> None:
        assert self.till is not None
        self._read(self.till.status(self._some(rng)), "looks")

    def settle(self, rng: Random) -> None:
        assert self.till is not None
        sales = self.till.settle()
        self._say(f"settles {len(sales)}")
        for sale in sales:
            self._read(sale, "settles")

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

    def print_waiting(self, rng: Random) -> None:
        assert self._queue is not None
        for slip in self._queue.print_waiting():
            self._say(f"prints {slip.receipt_no} copy {slip.copy_no}: {slip.state}")

    def reprint(self, rng: Random) -> None:
        assert self.till is not None
        jobs = self.till.journal.print_jobs()
        if jobs:
            job = self.till.journal.queue_copy(rng.choice(jobs).receipt_no)
            self._say(f"wants a copy of {job.receipt_no}")

    def refresh_pack(self, rng: Random) -> None:
        assert self.till is not None
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

    # ── after the storm ────────────────────────────────────────────────────────────────────────

    def finish(self, rng: Random, *, last: bool) -> bool:
        """Do what is left to do, with a network that works; whether nothing is open any more. The
        day is closed at the `last` time."""
        assert self.till is not None
        self._paper_rng = rng
        for sale in self.till.settle():
            self._read(sale, "settles")
        for sale in self.open_sales():
            self._end(sale, rng)
        if self.open_sales():
            return False
        for checkout in self.checkouts:
            # Also one that was booked just before the till stopped: she looks, and hands over.
            if self.till.journal.of_checkout(checkout.number):
                self._read(self.till.status(checkout.number), "looks")
        self.print_waiting(rng)
        if last:
            closed = self.till.close_day()
            if not closed.acknowledged:
                self._say(f"closes the day, not acknowledged: {closed.problem}")
        return not self.till.journal.unanswered(*KINDS)

    def what_is_open(self) -> str:
        assert self.till is not None
        waiting = [f"{r.kind} {r.sequence}" for r in self.till.journal.unanswered(*KINDS)]
        sales = [f"{sale.checkout} {sale.state}" for sale in self.open_sales()]
        return ", ".join([*sales, *(f"no outcome of {each}" for each in waiting)])

    def open_sales(self) -> list[Sale]:
        assert self.till is not None
        open_ones = {each.checkout for each in self.till.journal.unfinished()}
        return [self.till.status(each) for each in sorted(open_ones)]

    def _end(self, sale: Sale, rng: Random) -> None:
        assert self.till is not None
        if sale.state == "goods_asked":
            yes = rng.random() < 0.5
            self._read(self.till.answer_goods(sale.checkout, handed_over=yes), f"answers {yes}")
        elif sale.state == "unknown" and rng.random() < 0.5:
            self._read(self.till.retry(sale.checkout), "asks again")
        elif sale.state in ("unknown", "interrupted"):
            self._read(self.till.cancel(sale.checkout), "cancels")

    # ── inside ─────────────────────────────────────────────────────────────────────────────────

    def print_job(self, job: printers.PrintJob) -> printers.PrintResult:
        """The printer (`printing.printers.Printer`): paper, no paper, or nobody knows."""
        state = self._paper_rng.choice(
            (printers.PrintState.PRINTED,) * 3 + tuple(printers.PrintState)
        )
        if state != printers.PrintState.FAILED:
            self._witness.printed(self.name, job.name.split("-copy")[0], job.text)
        return printers.PrintResult(state, "simulated")

    def _read(self, sale: Sale, doing: str) -> None:
        """What the till shows is read, and done: goods leave on "confirmed"."""
        problem = "" if sale.problem is None else f" ({sale.problem.split(':')[0]})"
        code = "" if sale.refusal is None else f" {sale.refusal.code}"
        self._say(f"{doing} {sale.checkout}: {sale.state}{code}{problem}")
        self._story.count(f"read: {sale.state}")
        self._witness.saw(self.name, sale)
        if sale.state == "confirmed" and not self._witness.has_goods(self.name, sale.checkout):
            self._witness.handed_over(self.name, sale)

    def _holder(self, family: int, rng: Random) -> Holder:
        """Scanned now, or a while ago: what they hold may have changed since."""
        assert self.till is not None
        if family not in self._holders or rng.random() < 0.4:
            self._holders[family] = self.till.scan(self._token(family, rng))
        return self._holders[family]

    def _token(self, family: int, rng: Random) -> str:
        """A family shows a fresh code, or one that it showed before."""
        before = [text for of, text in self._tokens if of == family]
        if before and rng.random() < 0.1:
            return before[-1]
        text = token.mint(
            self._township.issuer_key,
            iss=ISSUER,
            aud=AUDIENCE,
            sub=self._township.households[family].sub,
            jti=self._ids(8).hex(),
            issued_at=self._time.at,
        )
        self._tokens.append((family, text))
        return text

    def _may_try_again(self, checkout: Checkout) -> bool:
        assert self.till is not None
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
    (Shop.look, 3),
    (Shop.settle, 6),
    (Shop.settle_due, 6),
    (Shop.close_day, 3),
    (Shop.restart, 4),
    (Shop.print_waiting, 3),
    (Shop.reprint, 3),
    (Shop.refresh_pack, 1),
    (Shop.forget, 1),
    (Shop.change_key, 2),
)
"""What a cashier does, and how often. Whatever a till learns to do (void, refund, selling offline,
forwarding) becomes one more row here."""


def _basket(rng: Random) -> list[Goods]:
    kinds = rng.sample(("milk", "rice", "formula"), rng.randint(1, 2))
    lines = []
    for kind in kinds:
        n = rng.randint(1, 3)
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
