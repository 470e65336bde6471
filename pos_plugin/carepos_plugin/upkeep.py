"""What the plugin does by itself: settle what is open, keep the pack fresh, forget old offers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from carepos import CareposError, NotDecided, Till, Unreachable, clock, record
from carepos.clock import Clock

PACK_EVERY_S: Final = 600
FORGET_EVERY_S: Final = 86_400
LONGEST_S: Final = 120
SOONEST_S: Final = 1
FIRST_WITHIN_S: Final = 5
"""After a power cut a township's tills start together; their first calls do not come together."""

_log = logging.getLogger(__name__)


class Contact:
    """When the ledger was last heard in this run, and why not since: `problem` in words, `code` as
    the ledger named it, where it did.

    `heard_at` says when, as `Till.heard_at`; `back` is called when it is heard again.
    """

    def __init__(self, heard_at: Callable[[], datetime | None], back: Callable[[], None]) -> None:
        self._heard_at = heard_at
        self._back = back
        self.problem: str | None = None
        self.code: str | None = None

    def heard(self) -> None:
        was_away, self.problem, self.code = self.problem is not None, None, None
        if was_away:
            self._back()

    def missed(self, problem: str | CareposError) -> None:
        """`problem`: why no answer came, or none that counts."""
        self.problem = str(problem)
        self.code = problem.code if isinstance(problem, NotDecided) else None

    def to_json(self) -> dict[str, str | None]:
        at = self._heard_at()
        return {
            "last_heard_at": None if at is None else clock.to_text(at),
            "problem": self.problem,
            "code": self.code,
        }


class Chores:
    """One pass over what is open. `pack_checked_at`: when the pack was last known to be current."""

    def __init__(
        self,
        till: Till,
        contact: Contact,
        *,
        now: Clock,
        monotonic: Callable[[], float],
        afterwards: Callable[[], None],
        receipts_kept: timedelta,
    ) -> None:
        self._receipts_kept = receipts_kept
        self._till = till
        self._contact = contact
        self._now = now
        self._monotonic = monotonic
        self._afterwards = afterwards
        self._pack_due = monotonic()
        self._forget_due = monotonic()
        self.pack_checked_at: datetime | None = None

    def when_due(self) -> bool:
        """As calling it, but each sale is asked about only when its time has come."""
        return self(due_only=True)

    def __call__(self, *, due_only: bool = False) -> bool:
        """Whether the ledger answered, as far as it was asked."""
        if due_only and self._till.quiet_s():
            self._afterwards()
            return False
        try:
            settled = self._till.settle(due_only=due_only)
            problems: list[str | CareposError] = [
                sale.problem for sale in settled if sale.problem is not None
            ]
            if (
                not due_only  # by hand, perhaps because the pack is too old
                or self._contact.problem is not None
                or self._monotonic() >= self._pack_due
                or self._till.journal.unanswered("void", "refund", *record.PLAIN)
            ):
                # Before the pack is another: a ledger that was restored is told what is in it.
                self._till.heal()
                # Also when only a record waits: nothing else tells why it could not go up.
                self._till.refresh_pack()
                self._pack_due = self._monotonic() + PACK_EVERY_S
                self.pack_checked_at = self._now()
                self._contact.heard()
        except (Unreachable, NotDecided) as error:
            problems = [error]
            if isinstance(error, NotDecided) and error.code == "unauthorised":
                # Before the network goes: a till that was stopped must not sell without it.
                self._till.ask_why_not_served()
        finally:
            self._till.ratchet.keep()
            self._till.disk.refill()
            self._afterwards()
        if problems:
            self._contact.missed(problems[0])
        if self._monotonic() >= self._forget_due:
            self.forget()
        return not problems

    def forget(self) -> tuple[int, int]:
        """Once a day: delete what is past its time here, how many (visits, receipts)."""
        self._forget_due = self._monotonic() + FORGET_EVERY_S
        return self._till.journal.forget(self._receipts_kept)


class Upkeep:
    """Runs `chores` at the start, then every `every_s`, less often while the ledger is away, and
    when a sale is due: `due_in_s` says in how many seconds, or None.

    `random` gives 0 ≤ r < 1, so that a township's tills don't all call in the same second.
    """

    def __init__(
        self,
        chores: Callable[[], bool],
        *,
        every_s: float,
        random: Callable[[], float],
        due_in_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._chores = chores
        self._every_s = every_s
        self._random = random
        self._due_in_s = due_in_s
        self._soon = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._missed = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self.run, name="upkeep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping = True
        self._soon.set()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """Do the next pass now."""
        self._soon.set()

    def one_pass(self) -> float:
        """Do the chores once; seconds until the next time."""
        try:
            reached = self._chores()
        except Exception as error:  # noqa: BLE001  a closed journal, a full disk: the next pass is made
            _log.error("upkeep: %s", type(error).__name__)
            reached = False
        self._missed = 0 if reached else self._missed + 1
        due_s = self._due_in_s()
        return self.delay_s() if due_s is None else min(self.delay_s(), max(SOONEST_S, due_s))

    def delay_s(self) -> float:
        """Doubled for each pass in vain up to `LONGEST_S`, then shortened by up to a half."""
        whole = min(self._every_s * 2.0 ** min(self._missed, 10), max(LONGEST_S, self._every_s))
        return whole * (1 - self._random() / 2)

    def run(self, wait: Callable[[float], object] | None = None) -> None:
        """Until closed. `wait` sleeps that many seconds or until woken."""
        wait = wait or self._soon.wait
        if first_s := self._random() * FIRST_WITHIN_S:
            wait(first_s)
        while not self._stopping:
            delay_s = self.one_pass()
            wait(delay_s)
            self._soon.clear()
