"""Till and ledger as processes of their own, which are killed where they are told to be.

They are forked from a process that has everything imported, so that a run of hundreds of them is
bearable; what they do and how they die is theirs alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from carepos import CareposError, Line, ReturnedLine, Till
from carepos_ledger import app
from carepos_ledger.settings import Settings
from tests.world import IMPORT_KEY_ID, PROGRAMME, FakeClock, milk, served

BEGAN_AT = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
ENDS_IN_S = 60.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.faults.processes"])


class Ticking(FakeClock):
    """A clock that all processes of this machine share and that goes as clocks do."""

    def __init__(self, began_s: float) -> None:
        super().__init__(BEGAN_AT)
        self.began_s = began_s

    def __call__(self) -> datetime:
        return BEGAN_AT + timedelta(seconds=time.monotonic() - self.began_s)


class Died(Exception):
    """The process is gone."""


class Armed:
    """Kills this very process when it reaches a point, the so-many-th time."""

    def __init__(self) -> None:
        self._point = ""
        self._times = 0

    def arm(self, point: str, times: int) -> None:
        self._point, self._times = point, times

    def reached(self, point: str) -> None:
        if point == self._point:
            self._times -= 1
            if self._times == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """A process that answers one call at a time."""

    def __init__(self, work: Callable[..., None], *args: Any) -> None:
        self._connection, theirs = _context.Pipe()
        self._process = _context.Process(target=work, args=(theirs, *args), daemon=True)
        self._process.start()
        theirs.close()
        self.first: Any = self._hear()

    def call(self, name: str, **more: Any) -> Any:
        """Raises Died when it does not live to answer."""
        try:
            self._connection.send((name, more))
        except OSError:
            raise Died from None
        return self._hear()

    def _hear(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join(ENDS_IN_S)
            raise Died from None

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """As if the plug were pulled."""
        self._process.kill()
        self._process.join(ENDS_IN_S)
        self._connection.close()


def ledger(folder: Path, database: str, began_s: float) -> Child:
    """A ledger, which its operators call here; `first` is its address."""
    return Child(_serve, folder, database, began_s)


def till(folder: Path, began_s: float, answer_timeout_s: float) -> Child:
    """An opened till."""
    return Child(_sell, folder, began_s, answer_timeout_s)


def _serve(calls: Connection, folder: Path, database: str, began_s: float) -> None:
    armed = Armed()
    built = app.build(Settings(folder, database), now=Ticking(began_s), reached=armed.reached)
    with served(built) as (url, _):
        calls.send(url)
        while True:
            try:
                name, wish = calls.recv()
            except EOFError:
                return
            if name == "arm":
                armed.arm(**wish)
                calls.send(None)
            elif name == "activation":
                calls.send(_new_shop(built, **wish))
            else:
                [answer] = built.office.issue(PROGRAMME["programme"], IMPORT_KEY_ID, [wish["row"]])
                calls.send(answer.sub)


def _new_shop(built: app.Ledger, store: str) -> str:
    """A code for the till of a store of its own, where nobody else's household shops."""
    built.office.put_store(store, "zhou", "周家超市")
    built.programmes.admit_store(PROGRAMME["programme"], store)
    return built.terminals.new_activation(store, 3600).code


def _sell(calls: Connection, folder: Path, began_s: float, answer_timeout_s: float) -> None:
    armed = Armed()
    with Till.open(
        folder,
        now=Ticking(began_s),
        reached=armed.reached,
        answer_timeout_s=answer_timeout_s,
    ) as opened:
        calls.send("open")
        while True:
            try:
                name, wish = calls.recv()
            except EOFError:
                return
            if name == "arm":
                armed.arm(**wish)
                calls.send(None)
                continue
            try:
                calls.send(_DOES[name](opened, **wish))
            except CareposError as error:
                calls.send(type(error).__name__)


# ── what a cashier can do; each answers in a word ──────────────────────────────────────────────


def _sale(till: Till, code: str, checkout: str, amount_minor: int) -> str:
    lines: list[Line] = [milk(amount_minor, 2)]
    return till.redeem(till.propose(code, lines), checkout=checkout, cashier="c01").state


def _retry(till: Till, checkout: str) -> str:
    return till.retry(checkout).state


def _cancel(till: Till, checkout: str) -> str:
    return till.cancel(checkout).state


def _accept(till: Till, checkout: str) -> str:
    return till.accept(checkout).state


def _goods(till: Till, checkout: str, handed_over: bool) -> str:
    return till.answer_goods(checkout, handed_over=handed_over).state


def _void(till: Till, checkout: str) -> str:
    return till.void(checkout, cashier="c01", reason="other").state


def _refund(till: Till, checkout: str) -> str:
    number = till.status(checkout).receipt_no
    returned = [ReturnedLine(1, 1)]
    return till.refund(number, returned, cashier="c01", reason="other", reference="R1").state


def _settle(till: Till) -> dict[str, str]:
    """What is not over, by checkout."""
    till.settle()
    still: dict[str, str] = {each.checkout: each.state for each in till.journal.unfinished()}
    for each in till.corrections(waiting=True):
        still[each.receipt_no] = each.state
    return still


def _close_day(till: Till) -> bool:
    return till.close_day().acknowledged


def _learn(till: Till) -> None:
    till.refresh_pack()


_DOES: dict[str, Callable[..., Any]] = {
    "sale": _sale,
    "retry": _retry,
    "cancel": _cancel,
    "accept": _accept,
    "goods": _goods,
    "void": _void,
    "refund": _refund,
    "settle": _settle,
    "close_day": _close_day,
    "learn": _learn,
}
