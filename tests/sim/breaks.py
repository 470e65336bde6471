"""The product broken on purpose, in the ways that lose money: does the checker see it?

Each break changes one promise of the running code, as a careless change would. `make sim-breaks`
says which is the first seed that finds each, and by which invariant.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sqlite3
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

from carepos import (
    attempt,
    correction,
    ids,
    journal_file,
    jws,
    ledger_keys,
    outcome,
    set_aside,
    strict_json,
    undo,
)
from carepos.attempt import Event, State, Step
from carepos.corrector import Corrector
from carepos.errors import Malformed, NotDecided
from carepos.journal import Journal
from carepos.journal_view import Attempt, JournalView
from carepos.keys import Keys, digest
from carepos.outcome import Outcome
from carepos.record import Record, envelope
from carepos.refusals import Refusal
from carepos.sale import Sale
from carepos.settler import Settler
from carepos.till import Till
from carepos_ledger import accounts, chain_check, database, decide, restored_rows, settlement
from carepos_ledger.book import Book
from carepos_ledger.healing import Healing
from carepos_ledger.opening import Opening
from carepos_ledger.problems import Problem
from carepos_ledger.replaying import Replayer
from carepos_ledger.shelf import AttemptState, Command, Decided
from tests.sim import ground
from tests.sim.ground import Ground, memory
from tests.sim.witness import Violation

Break = Callable[[ExitStack], None]


def _patch(stack: ExitStack, target: Any, name: str, by: Any) -> Any:
    """Replace an attribute until the end; what was there before."""
    before = getattr(target, name)
    stack.enter_context(mock.patch.object(target, name, by))
    return before


def _step(stack: ExitStack, state: State, event: Event, to: State) -> None:
    """Another row in the table of an attempt's life."""
    row = Step(state, event, to)
    stack.enter_context(mock.patch.dict(attempt._STEPS, {(state, event): row}))


# ── the till ───────────────────────────────────────────────────────────────────────────────────


def new_id_on_retry(stack: ExitStack) -> None:
    """Asking again makes another attempt, with another id."""

    def retry(self: Till, checkout: str) -> Sale:
        latest = self._latest(checkout)
        if latest.state != "unknown" or latest.id not in self._offers:
            return before(self, checkout)  # type: ignore[no-any-return]
        old = self.journal.record_of(latest)
        with self.journal._transaction():
            self.journal._db.execute(
                "UPDATE attempts SET state = 'refused' WHERE id = ?", (latest.id,)
            )
        begun, written = self.journal.write_intent(
            old.redeem,
            bucket=old.bucket,
            visit=None,
            slip=lambda r: {
                **latest.slip,
                "receipt_no": ids.receipt_no(self.enrolment.terminal_no, r.sequence),
            },
        )
        self._offers[begun.id] = self._offers[latest.id]
        return self._send_sale(begun, written)

    before = _patch(stack, Till, "retry", retry)


def unknown_is_refused(stack: ExitStack) -> None:
    """No answer is read as a no."""
    _step(stack, "open", "no_answer", "refused")


def unsigned_403_is_refused(stack: ExitStack) -> None:
    """An error page decides: what nobody signed is believed."""

    def send_sale(self: Till, sale: Attempt, written: Record) -> Sale:
        try:
            self._client.send([envelope(written, self._token_of(sale))])
        except NotDecided as error:
            with self.journal._transaction():
                self.journal._db.execute(
                    "UPDATE attempts SET state = 'refused' WHERE id = ?", (sale.id,)
                )
            return self._sale(self.journal.attempt(sale.id), str(error))
        except Exception as error:  # noqa: BLE001
            return self._no_answer(sale, str(error))
        return before(self, sale, written)  # type: ignore[no-any-return]

    before = _patch(stack, Till, "_send_sale", send_sale)


def signature_not_checked(stack: ExitStack) -> None:
    """Whatever has the form of an outcome is one."""

    def verify(text: object, *, typ: str, keys: Keys) -> jws.Signed:
        if typ != jws.OUTCOME:
            return before(text, typ=typ, keys=keys)  # type: ignore[no-any-return]
        whole, kid, payload, _ = jws._parts(text, typ)
        signing_input = whole.rsplit(".", 1)[0].encode("ascii")
        return jws.Signed(whole, kid, digest(signing_input), strict_json.read_object(payload))

    before = _patch(stack, jws, "verify", verify)


def outcome_not_bound(stack: ExitStack) -> None:
    """The ledger's answer to another record is taken for the one to this."""

    def read_bound(text: object, of: Record, *, keys: Keys) -> Outcome:
        found = outcome._read(text, keys)
        if found.kind != of.kind:
            raise Malformed("answers another kind")
        return found

    _patch(stack, outcome, "read_bound", read_bound)


def restart_sends_again(stack: ExitStack) -> None:
    """A sale found open after a restart is sent again as a sale."""

    def ask(self: Settler, sale: Attempt) -> tuple[Attempt, str | None]:
        if sale.state == "interrupted":
            return self._deliver(sale, self._journal.record_of(sale))
        return before(self, sale)  # type: ignore[no-any-return]

    before = _patch(stack, Settler, "ask", ask)


def goods_not_asked(stack: ExitStack) -> None:
    """A sale that was booked while the till was down is taken back without a word to the ledger."""
    _step(stack, "interrupted", "sale_posted", "reversed")


def choice_taken_back(stack: ExitStack) -> None:
    """A sale that is being cancelled may still become redeemed."""

    def retry(self: Till, checkout: str) -> Sale:
        latest = self._latest(checkout)
        if latest.state == "reversing":
            answers, _ = self._client.ask(latest.id)
            found = outcome._read(answers[0], self._keys)
            if found.result == "posted":
                with self.journal._transaction():
                    self.journal._db.execute(
                        "UPDATE attempts SET state = 'confirmed' WHERE id = ?", (latest.id,)
                    )
        return before(self, checkout)  # type: ignore[no-any-return]

    before = _patch(stack, Till, "retry", retry)


def number_not_filled(stack: ExitStack) -> None:
    """The number of a cancelled sale stays empty at the ledger."""
    _step(stack, "reversing", "undo_reversed", "reversed")


def goods_before_the_write(stack: ExitStack) -> None:
    """ "Confirmed" is shown before it is in the journal."""

    def advance(self: Journal, attempt_id: str, event: Event, **more: Any) -> Attempt:
        if event == "sale_posted" and self.attempt(attempt_id).state == "open":
            return replace(self.attempt(attempt_id), state="confirmed")
        return before(self, attempt_id, event, **more)  # type: ignore[no-any-return]

    before = _patch(stack, Journal, "advance", advance)


def journal_not_synced(stack: ExitStack) -> None:
    """The till's COMMIT returns before the disk has it."""

    def connect(path: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = before(path)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    before = _patch(stack, journal_file, "connect", connect)


def journal_not_locked(stack: ExitStack) -> None:
    """Two processes may write one journal."""

    def lock(path: Path) -> Any:
        return path.open("ab")

    _patch(stack, journal_file, "lock", lock)


def hash_not_checked(stack: ExitStack) -> None:
    """A till starts on a journal without holding each record against its digest."""

    def check_chain(self: Journal) -> tuple[int, str]:
        last = self._db.execute("SELECT max(sequence) FROM records").fetchone()[0] or 0
        if not last:
            return before(self)  # type: ignore[no-any-return]
        [head] = self._db.execute(
            "SELECT digest FROM records WHERE sequence = ?", (last,)
        ).fetchone()
        return last, head

    before = _patch(stack, Journal, "_check_chain", check_chain)


def printed_again(stack: ExitStack) -> None:
    """A receipt that was in the printer when the till stopped is printed once more."""

    def recover(self: Journal, software: str) -> None:
        before(self, software)
        with self._transaction():
            self._db.execute("UPDATE print_jobs SET state = 'queued' WHERE state = 'unknown'")

    before = _patch(stack, Journal, "_recover", recover)


def copy_not_marked(stack: ExitStack) -> None:
    """A reprint looks like the original."""

    def queue(self: Journal, receipt_no: str, copy_no: int, slip: dict[str, Any]) -> None:
        before(self, receipt_no, copy_no, {**slip, "is_copy": False})

    before = _patch(stack, Journal, "_queue", queue)


def undo_without_answer(stack: ExitStack) -> None:
    """A void or refund that nobody answered is shown as done."""
    row = correction.Step("waiting", "no_answer", "posted")
    stack.enter_context(mock.patch.dict(correction._STEPS, {("waiting", "no_answer"): row}))


def undo_sent_anew(stack: ExitStack) -> None:
    """A void that was not answered is written once more, with an id of its own."""

    def newest_of(self: Corrector, attempt_id: str, kind: Any) -> Any:
        found = before(self, attempt_id, kind)
        if found is not None and found.state == "waiting":
            with self._journal._transaction():
                self._journal._db.execute(
                    "UPDATE corrections SET state = 'refused' WHERE id = ?", (found.id,)
                )
            return None
        return found

    before = _patch(stack, Corrector, "_newest_of", newest_of)


def allotment_not_subtracted(stack: ExitStack) -> None:
    """What a till took of an allotment can be taken again."""

    def left(vouchers: Any, dates: Any, taken: Any, *more: Any) -> Any:
        return before(vouchers, dates, (), *more)

    before = _patch(stack, set_aside, "left", left)


def returned_allotment_spent(stack: ExitStack) -> None:
    """What a till gave back of an allotment can still be taken there."""
    _patch(stack, JournalView, "returned_allotments", lambda self: frozenset())


def new_ledger_key_not_asked_for(stack: ExitStack) -> None:
    """A till that meets a signature of a key that it does not know never asks about it."""
    _patch(stack, ledger_keys, "may_ask", lambda *args: False)


def second_disk_forgets(stack: ExitStack) -> None:
    """What left without the ledger's word is not copied to the second disk."""
    _patch(stack, attempt, "NOT_DECIDED", attempt.NOT_DECIDED - {"accepted", "provisional"})


def family_limit_forgotten(stack: ExitStack) -> None:
    """What a family was given beyond allotments before does not count."""
    _patch(stack, JournalView, "beyond_of", lambda self, *args: 0)


def stored_limit_forgotten(stack: ExitStack) -> None:
    """A till holds as many sales that are not decided as come."""
    _patch(stack, JournalView, "stored", lambda self, programme: (0, 0))


def acceptance_not_written(stack: ExitStack) -> None:
    """A sale leaves without the ledger's word, and nothing says so but its state."""
    _patch(stack, Journal, "_accept", lambda self, *args: None)


def accepted_sale_cancelled(stack: ExitStack) -> None:
    """A sale that left without the ledger's word is reversed when the till starts again."""
    row = Step("accepted", "restart", "reversing", "not_found")
    stack.enter_context(mock.patch.dict(attempt._STEPS, {("accepted", "restart"): row}))


# ── the ledger ─────────────────────────────────────────────────────────────────────────────────


def no_tombstone(stack: ExitStack) -> None:
    """A reversal that comes before its sale is answered and forgotten."""

    def reversal(self: decide.Decider, command: Command, wish: Any) -> Decided:
        if (command.record.terminal, command.record.id) not in self._shelf.attempts:
            return self._sign("reversed", command)
        return before(self, command, wish)  # type: ignore[no-any-return]

    before = _patch(stack, decide.Decider, "_reversal", reversal)


def reversed_and_posted(stack: ExitStack) -> None:
    """A late original of a reversed attempt is answered as posted."""

    def again(self: decide.Decider, command: Command, key: Any, known: AttemptState) -> Decided:
        if known.state == "reversed" and known.posting is not None:
            posted = self._shelf.posted[known.posting]
            return self._sign_posted("posted", command, posted.currency, posted.entries)
        if known.content_sha256 is None:
            del self._shelf.attempts[key]
            return self._redeem(command, command.record.redeem)
        return before(self, command, key, known)  # type: ignore[no-any-return]

    before = _patch(stack, decide.Decider, "_again", again)


def reversal_gives_nothing_back(stack: ExitStack) -> None:
    """A posted sale is marked reversed, and its money stays with the merchant."""

    def take_back(
        self: decide.Decider, result: Any, command: Command, posted: Any, *, kind: str
    ) -> Decided:
        return self._sign(result, command)

    _patch(stack, decide.Decider, "_take_back", take_back)


def stored_outcome_ignored(stack: ExitStack) -> None:
    """A record that comes again is decided again."""

    def one(self: decide.Decider, command: Command) -> Decided | Problem:
        self._shelf.outcomes.pop(command.record.digest, None)
        return before(self, command)  # type: ignore[no-any-return]

    before = _patch(stack, decide.Decider, "decide", one)


def refusal_forgotten(stack: ExitStack) -> None:
    """A refused sale that comes again may be posted: the id is not used up."""

    def refuse(self: decide.Decider, command: Command, refusal: Refusal) -> Decided:
        return self._sign("refused", command, refusal=refusal)

    def one(self: decide.Decider, command: Command) -> Decided | Problem:
        stored = self._shelf.outcomes.get(command.record.digest)
        if stored is not None and stored.result == "refused":
            return Problem("try_again")
        return before(self, command)  # type: ignore[no-any-return]

    _patch(stack, decide.Decider, "_refuse", refuse)
    before = _patch(stack, decide.Decider, "decide", one)


def answered_before_commit(stack: ExitStack) -> None:
    """Answers leave while their posting waits in memory for the next one."""

    class Later(Exception):
        pass

    waiting: dict[int, list[Command]] = {}

    def post(self: Book, batch: list[Command], wait: bool) -> dict[str, Decided | Problem]:
        if waiting.get(id(self)):
            before(self, waiting.pop(id(self)), wait)
        answers: dict[str, Decided | Problem] = {}

        def note(
            inner: Book, connection: Any, shelf: Any, commands: list[Command]
        ) -> dict[str, Decided | Problem]:
            answers.update(decided(inner, connection, shelf, commands))
            raise Later

        decided = Book._decide
        try:
            with mock.patch.object(Book, "_decide", note):
                before(self, batch, wait)
        except Later:
            waiting[id(self)] = batch
        return answers

    before = _patch(stack, Book, "_post", post)


def ledger_not_synced(stack: ExitStack) -> None:
    """The ledger's COMMIT returns before the disk has it."""

    def make_writer(connection: Any, more: object) -> None:
        before(connection, more)
        connection.execute("PRAGMA synchronous = OFF")

    before = _patch(stack, database, "_make_writer", make_writer)


def balance_not_written(stack: ExitStack) -> None:
    """What was taken from a voucher can be taken again."""

    def write(self: Book, connection: Any, shelf: Any, recorded_at: str) -> None:
        shelf.touched.clear()
        before(self, connection, shelf, recorded_at)

    before = _patch(stack, Book, "_write", write)


def one_leg_forgotten(stack: ExitStack) -> None:
    """A redemption takes from the voucher, and the merchant is not owed it."""

    def redemption(*args: Any) -> list[Any]:
        return [leg for leg in before(*args) if leg.account != accounts.PAYABLE]

    before = _patch(stack, accounts, "redemption", redemption)


def refund_limit_forgotten(stack: ExitStack) -> None:
    """More of a line may come back than was sold."""
    _patch(stack, undo, "excess_refusal", lambda sold, lines: None)


def settled_sale_voided(stack: ExitStack) -> None:
    """A sale that was paid already may be voided."""

    def void_refusal(sold: Any, *args: Any, **more: Any) -> Refusal | None:
        return before(replace(sold, settled=False), *args, **more)  # type: ignore[no-any-return]

    before = _patch(stack, undo, "void_refusal", void_refusal)


def loss_not_listed(stack: ExitStack) -> None:
    """What no voucher paid of an offline sale stands in no list."""
    _patch(stack, decide.Decider, "_list", lambda self, *args: None)


def fork_not_seen(stack: ExitStack) -> None:
    """Two records at one number are two records."""
    _patch(stack, chain_check, "contradicts", lambda *args: False)


def fork_not_told(stack: ExitStack) -> None:
    """A fork is found, and nobody hears of it."""
    _patch(stack, chain_check, "news", lambda *args: [])


def fork_held_alone(stack: ExitStack) -> None:
    """The record that contradicts is held, and what its till sends behind it is decided."""
    _patch(stack, chain_check, "mark_forked", lambda *args: None)


def one_number_twice_a_file(stack: ExitStack) -> None:
    """A settlement file is made of whatever is booked, two sales of one number too."""
    _patch(stack, settlement, "_one_sale_a_number", lambda rows: rows)


# ── after a loss ───────────────────────────────────────────────────────────────────────────────


def evidence_not_booked(stack: ExitStack) -> None:
    """A sale that a till told of after a loss is ticked off, and not in the book."""

    def replay(self: Opening, row: Any, **more: Any) -> Any:
        return None if row.kind == "redeem" else before(self, row, **more)

    before = _patch(stack, Opening, "_replay", replay)


def evidence_signed_anew(stack: ExitStack) -> None:
    """What was decided in what is lost is decided so again, in another word."""

    def keep(self: Replayer, command: Command, decided: Decided) -> Decided:
        again = decide.Decider._sign(self, "refused", command, refusal=Refusal("voucher_frozen"))
        kept = again if decided.result == "refused" else decided
        return before(self, command, kept)  # type: ignore[no-any-return]

    before = _patch(stack, Replayer, "_keep", keep)


def serves_while_it_heals(stack: ExitStack) -> None:
    """A ledger that lost data sells on what is left of its book."""
    _patch(stack, Healing, "begun", False)


def opened_unasked(stack: ExitStack) -> None:
    """A ledger opens while tills still have something to tell."""
    _patch(stack, Opening, "not_reported", lambda self: [])


def paid_batch_closed_again(stack: ExitStack) -> None:
    """What a batch of before a loss has paid stands in the next one too."""
    _patch(stack, restored_rows, "place", lambda *args: None)


def key_not_brought_back(stack: ExitStack) -> None:
    """A key that a till changed to is unknown after a loss."""
    _patch(stack, Replayer, "_changed_key", lambda self, *args: None)


BREAKS: Final[dict[str, Break]] = {
    each.__name__: each
    for each in (
        new_id_on_retry,
        unknown_is_refused,
        unsigned_403_is_refused,
        signature_not_checked,
        outcome_not_bound,
        restart_sends_again,
        goods_not_asked,
        choice_taken_back,
        number_not_filled,
        goods_before_the_write,
        journal_not_synced,
        journal_not_locked,
        hash_not_checked,
        printed_again,
        copy_not_marked,
        allotment_not_subtracted,
        returned_allotment_spent,
        new_ledger_key_not_asked_for,
        second_disk_forgets,
        family_limit_forgotten,
        stored_limit_forgotten,
        acceptance_not_written,
        accepted_sale_cancelled,
        undo_without_answer,
        undo_sent_anew,
        no_tombstone,
        reversed_and_posted,
        reversal_gives_nothing_back,
        stored_outcome_ignored,
        refusal_forgotten,
        answered_before_commit,
        ledger_not_synced,
        balance_not_written,
        one_leg_forgotten,
        refund_limit_forgotten,
        settled_sale_voided,
        loss_not_listed,
        fork_not_seen,
        fork_not_told,
        fork_held_alone,
        one_number_twice_a_file,
        evidence_not_booked,
        evidence_signed_anew,
        serves_while_it_heals,
        opened_unasked,
        paid_batch_closed_again,
        key_not_brought_back,
    )
}


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The product with this one break."""
    with ExitStack() as stack:
        BREAKS[name](stack)
        yield


def first_found(here: Ground, name: str, seeds: int) -> tuple[int, Violation] | None:
    """The first seed that finds a break."""
    with broken(name):
        for seed in range(seeds):
            ended = here.play(seed)
            if ended.violation is not None:
                return seed, ended.violation
    return None


def search(seeds: int, name: str) -> str:
    """In a process of its own (`ground.begin`): the break's line of the table, after its name."""
    assert ground.here is not None
    found = first_found(ground.here, name, seeds)
    if found is None:
        return f"{MISSED} {seeds:,} seeds"
    seed, violation = found
    return f"{seed:>4}  {violation}"


MISSED: Final = "not found in"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.breaks", description=__doc__)
    parser.add_argument("names", nargs="*", help="some of the breaks; all without any")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    names = args.names or list(BREAKS)
    missed = []
    with (
        memory() as folder,
        ProcessPoolExecutor(
            args.jobs, multiprocessing.get_context("spawn"), ground.begin, (str(folder),)
        ) as pool,
    ):
        lines = pool.map(partial(search, args.seeds), names)
        for name, line in zip(names, lines, strict=True):
            missed += [name] if line.startswith(MISSED) else []
            print(f"{name:<28} {line}"[:150], flush=True)
    print(f"{len(names) - len(missed)} of {len(names)} breaks found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
