"""The way out of the held intake: a person decides a record, once, and its till is told.

`post`: it is decided now by the rules of now, as if its terminal were active. `refuse`: nothing is
booked. A sale that went out of the door and its acceptance are decided by one word, as they are
judged together; to post it the word stands for its token. Either is one transaction with the
posting (`Book.post_held`): the record's final outcome, who decided, and that nothing is left here
that the outcome's own tables keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, tuple_, update

from carepos import clock, record, strict_json
from carepos.acceptance import AcceptOffline
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.keys import PublicKey, unb64
from carepos.refusals import BY_CODE, Refusal
from carepos_ledger import chain_check, held_proof, schema, terminal_keys
from carepos_ledger.actions import Done, find
from carepos_ledger.book import Book
from carepos_ledger.database import Database
from carepos_ledger.decide import MISSING_SHOWN
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Command, Ruling, Terminal


class HeldRulings:
    """Decides held records. Safe to call from several threads and servers."""

    def __init__(self, database: Database, book: Book, now: Clock) -> None:
        self._database = database
        self._book = book
        self._now = now

    def post(self, n: int, *, operator: str, sentence: str | None = None) -> Done:
        """Let the record be decided now, whatever comes of it by the rules.

        Raises Malformed, Problem: `not_found`; `already_exists_differently` for one that was
        decided otherwise; why it can't be decided, `sequence_gap` while records before it are held.
        """
        if sentence is not None:
            _said(sentence)
        return self._rule(n, None, operator, sentence)

    def refuse(
        self,
        n: int,
        code: str,
        sentence: str,
        *,
        operator: str,
        leaves_spent: bool = False,
    ) -> Done:
        """Do not accept the record, for good; `code` is what its till reads.

        A reversal wants `leaves_spent` too: what it should give back may stay spent. Raises
        Malformed, Problem `not_found`, `already_exists_differently`, `leaves_spent`.
        """
        if not isinstance(code, str) or code not in BY_CODE or BY_CODE[code].answer != "outcome":
            raise Malformed("must be a code of a decided refusal", field="code")
        strict_json.boolean(leaves_spent, "leaves_spent")
        _said(sentence)
        with self._database.read() as connection:
            held = find(connection, schema.held_records, {"n": _number(n)})
        if held is not None and held.kind == "reversal" and not leaves_spent:
            raise Problem(
                "leaves_spent",
                "a reversal that is not accepted may leave money spent for goods that stayed in "
                "the shop; say so to do it",
                field="leaves_spent",
            )
        return self._rule(n, Refusal(code), operator, sentence)

    def _rule(self, n: int, refusal: Refusal | None, operator: str, sentence: str | None) -> Done:
        word = _Word(self._database, self._now, _number(n), operator, sentence, refusal)
        try:
            self._book.post_held(word)
        except _DecidedBefore as before:
            if before.decision == word.decision:
                return "exists"
            raise Problem(
                "already_exists_differently",
                f"another word was said before: {before.decision}",
                field="decision",
            ) from None
        return "changed"


class _DecidedBefore(Exception):
    """The record is not held any more."""

    def __init__(self, decision: str) -> None:
        super().__init__(decision)
        self.decision = decision


@dataclass(frozen=True, slots=True)
class _Word:
    """A `book.HeldRuling`."""

    database: Database
    now: Clock
    n: int
    operator: str
    sentence: str | None
    refusal: Refusal | None

    @property
    def decision(self) -> str:
        return "post" if self.refusal is None else "refuse"

    def commands(self) -> list[Command]:
        with self.database.read() as connection:
            return self._commands(connection, self._row(connection))

    def begin(self, connection: Connection) -> list[Command]:
        # The terminal first, as where records are held: one that comes again now is answered
        # either before this or after.
        chain_check.lock_terminals(connection, [self._row(connection).terminal])
        return self._commands(connection, self._row(connection, for_update=True))

    def end(self, connection: Connection, ruled: Sequence[Command]) -> None:
        table = schema.held_records
        digests = [(c.record.bucket, c.record.digest) for c in ruled if c.ruling is not None]
        connection.execute(
            update(table)
            .where(tuple_(table.c.bucket, table.c.digest).in_(digests))
            .values(
                resolved_at=clock.to_text(self.now()),
                operator=self.operator,
                decision=self.decision,
                sentence=self.sentence,
                # From here on the decided record's own tables keep what must be kept.
                jws=None,
                proof=None,
                beneficiary=None,
                actor_sha256=None,
            )
        )

    def _row(self, connection: Connection, *, for_update: bool = False) -> Any:
        row = find(connection, schema.held_records, {"n": self.n}, for_update=for_update)
        if row is None:
            raise Problem("not_found", "no such held record", field="n")
        if row.resolved_at is not None:
            raise _DecidedBefore(row.decision)
        return row

    def _commands(self, connection: Connection, row: Any) -> list[Command]:
        """The record; a sale that went out of the door comes with its acceptance, and before it."""
        own = self._command(connection, row)
        accept = own.record.content
        if isinstance(accept, AcceptOffline):
            sale = self._held_as(connection, row, accept.record_sha256)
            if sale is None:
                decided = self._decided_sale(connection, row, accept.record_sha256)
                return [own] if decided is None else [decided, own]
            return [self._command(connection, sale), own]
        if row.late:
            for other in self._beside(connection, row, "accept_offline"):
                found = self._command(connection, other)
                content = found.record.content
                if isinstance(content, AcceptOffline) and content.record_sha256 == row.digest:
                    return [own, found]
        return [own]

    def _beside(self, connection: Connection, row: Any, kind: str) -> Sequence[Any]:
        """Undecided records of this kind under the same id, locked by their terminal."""
        table = schema.held_records.c
        return connection.execute(
            select(schema.held_records)
            .where(table.bucket == row.bucket, table.terminal == row.terminal, table.id == row.id)
            .where(table.kind == kind, table.resolved_at.is_(None))
            .order_by(table.n)
        ).all()

    def _held_as(self, connection: Connection, row: Any, digest: str) -> Any:
        beside = self._beside(connection, row, "redeem")
        return next((each for each in beside if each.digest == digest), None)

    def _decided_sale(self, connection: Connection, row: Any, digest: str) -> Command | None:
        """A sale whose acceptance alone is held: it was decided before, and stays so."""
        table = schema.record_bytes.c
        jws = connection.scalars(
            select(table.jws).where(table.bucket == row.bucket, table.digest == digest)
        ).one_or_none()
        if jws is None:
            return None
        read, terminal = read_again(self.database, jws)
        if (read.terminal, read.id, read.kind) != (row.terminal, row.id, "redeem"):
            return None
        return Command(read, terminal, None, is_late=True)

    def _command(self, connection: Connection, row: Any) -> Command:
        people = schema.beneficiaries.c
        sub = connection.scalars(
            select(people.sub).where(
                people.bucket == row.bucket, people.beneficiary == row.beneficiary
            )
        ).one_or_none()
        identity, pin_proved = held_proof.proved_of(row, sub)
        ruling = Ruling(
            self.refusal,
            clock.from_text(row.held_at),
            pin_proved,
            _undecided_before(connection, row),
        )
        read, terminal = read_again(self.database, row.jws)
        return Command(read, terminal, identity, is_late=bool(row.late), ruling=ruling)


def read_again(database: Database, jws: bytes) -> tuple[record.Record, Terminal]:
    """A record whose bytes are kept, verified again, and whose it is."""
    found: list[Terminal] = []

    def key_of(kid: str) -> PublicKey:
        terminal = terminal_keys.find(database, kid)
        if terminal is None:
            raise Problem("internal")
        found.append(terminal)
        return PublicKey(unb64(terminal.x))

    read = record.read(bytes(jws).decode("ascii"), keys=key_of)
    return read, found[0]


def _undecided_before(connection: Connection, row: Any) -> tuple[int, ...]:
    """Numbers before it in its incarnation that are held still, the first of them."""
    table = schema.held_records.c
    return tuple(
        connection.scalars(
            select(table.sequence)
            .where(table.terminal == row.terminal, table.incarnation == row.incarnation)
            .where(table.sequence < row.sequence, table.resolved_at.is_(None))
            .order_by(table.sequence)
            .limit(MISSING_SHOWN)
        )
    )


def _number(n: int) -> int:
    return strict_json.integer(n, "n", low=1, high=2**31 - 1)


def _said(sentence: str) -> None:
    strict_json.text(sentence, "sentence", high=200)
    if not sentence.strip():
        raise Malformed("must say something", field="sentence")
