"""The one write path: a batch of records in, one answer each out (docs/protocol.md §10).

All SQL of a posting is here. A batch is one transaction: lock the vouchers in sorted order, *then*
read what was stored, decide one after another in memory, write once. When anything races, the whole
transaction is undone and each record is tried alone, so that one never takes others down.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any, Protocol

from sqlalchemy import Connection, bindparam, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from carepos import clock
from carepos.clock import Clock
from carepos.product import ProductList
from carepos.record import Redeem
from carepos.token import IdentityToken
from carepos.undo import Refund, Void
from carepos.voucher import Programme, Terms, Voucher, voucher_kind
from carepos_ledger import (
    acceptance_rows,
    accounts,
    acting,
    allotments,
    cards,
    chain_check,
    chain_progress,
    held_intake,
    homes,
    schema,
    terminal_keys,
    undo_rows,
)
from carepos_ledger.accounts import Balance, Entry
from carepos_ledger.database import (
    Database,
    insert_or_ignore,
    is_conflict,
    is_lock_timeout,
)
from carepos_ledger.decide import MISSING_SHOWN, Decider, needed_vouchers
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import (
    AttemptState,
    Command,
    Decided,
    Holding,
    Posted,
    Posting,
    Shelf,
)

Reached = Callable[[str], None]
"""Told the name of each point of a posting; whoever starts the ledger may pass another."""

_Step = Callable[[list[Command], bool], dict[str, Decided | Problem]]
"""One transaction over a batch; the flag says whether it waits for locks."""

POINTS = ("noted", "written", "committed")
TRIES = 5


class HeldRuling(Protocol):
    """How a person's word on a held record takes part in the transaction that decides it."""

    def commands(self) -> list[Command]:
        """The record as it is held now; of a sale that went out of the door with its acceptance.
        Raises Problem."""

    def begin(self, connection: Connection) -> list[Command]:
        """Lock what may not change meanwhile; what is to be decided. Raises Problem when a person
        decided it otherwise before."""

    def end(self, connection: Connection, ruled: Sequence[Command]) -> None:
        """Note the word with the outcomes of these."""


def pass_by(_: str) -> None:
    """The default for `Reached`."""


class Book:
    """Posts batches of verified commands."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        now: Clock,
        reached: Reached = pass_by,
        decider: Callable[[Shelf, Keyring, datetime], Decider] = Decider,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._now = now
        self._reached = reached
        self._decider = decider
        self._lists: dict[tuple[str, int], ProductList] = {}

    def post(self, commands: Sequence[Command]) -> dict[str, Decided | Problem]:
        """The answer to each command, by record digest. Equal records collapse.

        When this returns, every `Decided` in it is committed. Raises only what the database raises
        for a failure that trying again does not mend.
        """
        batch = _collapsed(commands)
        answers = self._note_and_post(batch)
        # Quarantined between the two: they are held like whatever comes now.
        late = [c for c in batch if _is_quarantined(answers[c.record.digest])]
        return {**answers, **self._note_and_post(late)} if late else answers

    def post_held(self, ruling: HeldRuling) -> None:
        """Decide a held record by a person's word, once: the outcome is committed with the word.

        Raises Problem when it can't be, and what the database raises.
        """

        def step(batch: list[Command], wait: bool) -> dict[str, Decided | Problem]:
            return self._post(batch, wait, ruling)

        _raise_problem(_alone(step, ruling.commands(), True))

    def _note_and_post(self, batch: list[Command]) -> dict[str, Decided | Problem]:
        statuses: dict[str, str] = {}

        def note(some: list[Command], wait: bool) -> dict[str, Decided | Problem]:
            return self._note(some, wait, statuses)

        answers = _at_best_together(note, batch)
        batch = [
            replace(c, terminal=replace(c.terminal, status=statuses[c.record.digest]))
            for c in batch
            if c.record.digest not in answers
        ]
        self._reached("noted")
        return {**answers, **_at_best_together(self._post, batch)}

    def _post(
        self, batch: list[Command], wait: bool, ruling: HeldRuling | None = None
    ) -> dict[str, Decided | Problem]:
        if not batch:
            return {}
        wanted = needed_vouchers(Shelf(), batch)
        answers: dict[str, Decided | Problem] = {}
        while not answers:
            with self._database.write(wait=wait) as connection:
                if ruling is not None:
                    batch = ruling.begin(connection)
                shelf = Shelf()
                self._lock_vouchers(connection, shelf, wanted)
                self._read_stored(connection, shelf, batch)
                needed = needed_vouchers(shelf, batch)
                if needed <= wanted:
                    shelf.allotments |= allotments.read_open(connection, wanted)
                    answers = self._decide(connection, shelf, batch)
                    if ruling is not None:
                        # All of it or nothing: a problem undoes what was decided beside it.
                        _raise_problem(answers)
                        ruling.end(connection, batch)
                        self._give_numbers(connection, [c for c in batch if c.ruling is not None])
            # What was stored names vouchers that are not locked yet (a reversal): begin again.
            wanted |= needed
        self._reached("committed")
        return answers

    def _decide(
        self, connection: Connection, shelf: Shelf, batch: list[Command]
    ) -> dict[str, Decided | Problem]:
        self._read_rules(connection, shelf, batch)
        now = self._now()
        self._read_acted(connection, shelf, batch, now)
        self._read_ownerless(connection, shelf, batch)
        self._read_drawing(connection, shelf, batch)
        shelf.homes |= homes.read(connection, shelf, batch)
        acceptance_rows.read(connection, shelf, batch)
        decider = self._decider(shelf, self._keyring, now)
        answers = {command.record.digest: decider.decide(command) for command in batch}
        self._write(connection, shelf, clock.to_text(now))
        held_intake.write(connection, shelf.new_held, shelf=shelf, keyring=self._keyring, now=now)
        self._reached("written")
        return answers

    # ── the terminal's own short transaction ───────────────────────────────────────────────────

    def _note(
        self, batch: list[Command], wait: bool, statuses: dict[str, str]
    ) -> dict[str, Decided | Problem]:
        """Note which numbers arrived, as far as each chain is one line; hold what people decide.

        `statuses` gets, by digest of what may be decided, its terminal's. Noting the same records
        twice changes nothing.
        """
        if not batch:
            return {}
        now = self._now()
        with self._database.write(wait=wait) as connection:
            found = chain_check.lock(connection, batch)
            late = terminal_keys.close_others(connection, batch)
            late -= _answered_before(connection, [c for c in batch if c.record.digest in late])
            if late:
                # They must not take a number from the till itself.
                batch = [c for c in batch if c.record.digest not in late]
            checked = chain_check.check(connection, batch, found)
            to_note = checked.new + checked.unplaced
            self._write_notes(connection, to_note, clock.to_text(now))
            chain_check.mark_forked(connection, found, checked)
            forks = chain_check.news(connection, checked.forks)
            journals = chain_check.further_journals(connection, checked.new)
            alarms = [(chain_check.ALARM, c) for c in forks] + [("journal", c) for c in journals]
            self._raise_alarms(connection, alarms)
            answers = self._hold(connection, batch, checked, now)
            chain_progress.advance(
                connection,
                [c for c in batch if c.record.digest not in answers and chain_progress.waits(c)],
            )
        statuses |= {**dict.fromkeys(checked.held, "forked"), **checked.admitted}
        answers |= dict.fromkeys(
            late, Problem("signature_invalid", "another key has taken this one's place")
        )
        return answers

    def _write_notes(self, connection: Connection, to_note: list[Command], noted_at: str) -> None:
        rows = [
            {
                "terminal": c.record.terminal,
                "incarnation": c.record.incarnation,
                "sequence": c.record.sequence,
                "digest": c.record.digest,
                "prev": c.record.prev,
                "noted_at": noted_at,
                "bucket": c.record.bucket,
            }
            for c in to_note
        ]
        if rows:
            connection.execute(_insert_note(connection), rows)

    def _give_numbers(self, connection: Connection, ruled: list[Command]) -> None:
        """What was held alone took no number when it came, behind which its till would wait for
        ever; of a stopped till nothing waits."""
        statuses = chain_check.lock(connection, ruled)
        going = [c for c in ruled if statuses[c.record.terminal] not in chain_check.QUARANTINED]
        self._write_notes(connection, going, clock.to_text(self._now()))

    def _hold(
        self,
        connection: Connection,
        batch: list[Command],
        checked: chain_check.Checked,
        now: datetime,
    ) -> dict[str, Decided | Problem]:
        """The held outcomes of what may not be decided; not of what was: that has its own."""
        held = [c for c in batch if c.record.digest in checked.held]
        decided = _decided_before(connection, held)
        held = [c for c in held if c.record.digest not in decided]
        if not held:
            return {}
        shelf = Shelf()
        self._read_identities(connection, shelf, held)
        late = [c for c in held if c.is_late and c.record.kind == "redeem"]
        acceptance_rows.read_people(connection, shelf, late)
        return held_intake.hold(
            connection, held, checked.held, shelf=shelf, keyring=self._keyring, now=now
        )

    # ── reading under lock ─────────────────────────────────────────────────────────────────────

    def _lock_vouchers(
        self, connection: Connection, shelf: Shelf, wanted: set[tuple[int, str]]
    ) -> None:
        if not wanted:
            return
        table = schema.vouchers
        query = (
            select(table, schema.programmes.c.currency)
            .join(schema.programmes, schema.programmes.c.programme == table.c.programme)
            .where(tuple_(table.c.bucket, table.c.voucher).in_(sorted(wanted)))
            .order_by(table.c.bucket, table.c.voucher)
            .with_for_update(of=table)
        )
        for row in connection.execute(query).mappings():
            shelf.holdings[row["voucher"]] = holding_from(row)

    def _read_stored(self, connection: Connection, shelf: Shelf, batch: list[Command]) -> None:
        attempts, records = schema.attempts.c, schema.records.c
        own = sorted({(c.record.bucket, c.record.terminal, c.record.id) for c in batch})
        originals = {
            (c.record.bucket, c.record.content.original.terminal, c.record.content.original.id)
            for c in batch
            if isinstance(c.record.content, Void | Refund)
        }
        postings = set()
        for row in connection.execute(
            select(schema.attempts)
            .where(
                tuple_(attempts.bucket, attempts.terminal, attempts.id).in_(
                    sorted({*own, *originals})
                )
            )
            .order_by(attempts.bucket, attempts.terminal, attempts.id)
            # A tombstone has no voucher: only its own row can keep two late originals apart.
            .with_for_update()
        ):
            shelf.attempts[row.terminal, row.id] = AttemptState(
                row.state, row.content_sha256, row.record_sha256, row.posting
            )
            if row.posting is not None:
                postings.add((row.bucket, row.posting))
        for row in connection.execute(
            select(records.digest, records.result, records.outcome).where(
                tuple_(records.bucket, records.terminal, records.id).in_(own)
            )
        ):
            shelf.outcomes[row.digest] = Decided(row.result, row.outcome)
        for posted in read_posted(connection, postings):
            shelf.posted[posted.posting] = posted
        shelf.sold |= undo_rows.read_sold(connection, batch, shelf.posted.values())
        shelf.acted |= acting.read_acted(connection, postings)
        terminals = schema.terminals.c
        for row in connection.execute(
            select(terminals.terminal, terminals.status, terminals.merchant).where(
                terminals.terminal.in_(sorted({terminal for _, terminal, _ in {*own, *originals}}))
            )
        ):
            shelf.statuses[row.terminal] = row.status
            shelf.merchants[row.terminal] = row.merchant
        shelf.keys |= terminal_keys.read_for_changes(connection, batch)
        self._read_identities(connection, shelf, batch)
        shelf.held |= held_intake.read_held(connection, batch)
        self._read_gaps(connection, shelf, batch)
        undos = [c for c in batch if chain_progress.waits(c)]
        shelf.waiting |= chain_progress.read_waiting(connection, undos)

    def _read_identities(self, connection: Connection, shelf: Shelf, batch: list[Command]) -> None:
        identities = [c.identity for c in batch if isinstance(c.identity, IdentityToken)]
        if not identities:
            return
        table = schema.beneficiaries.c
        for row in connection.execute(
            select(schema.beneficiaries).where(
                tuple_(table.iss, table.sub).in_(sorted({(i.iss, i.sub) for i in identities}))
            )
        ):
            shelf.beneficiaries[row.iss, row.sub] = (row.bucket, row.beneficiary)
        shelf.visits |= read_visits(
            connection,
            {
                (c.record.bucket, c.identity.iss, c.identity.visit_sha256)
                for c in batch
                if isinstance(c.identity, IdentityToken) and c.identity.visit_sha256 is not None
            },
        )
        pins = {
            (c.record.bucket, c.identity.iss, c.identity.jti_sha256, c.record.terminal)
            for c in batch
            if isinstance(c.identity, IdentityToken) and c.identity.needs_pin
        }
        shelf.pin_visits |= cards.read_pin_visits(connection, pins)
        shelf.locked_cards |= cards.read_locked(connection, [key[:3] for key in pins])

    def _read_acted(
        self, connection: Connection, shelf: Shelf, batch: list[Command], now: datetime
    ) -> None:
        """What was paid to households and actors before, where a redemption is acted."""
        found = []
        for command in batch:
            identity, content = command.identity, command.record.content
            if not isinstance(identity, IdentityToken) or not isinstance(content, Redeem):
                continue
            programme = shelf.programmes.get(content.programme)
            person = shelf.beneficiaries.get((identity.iss, identity.sub))
            if identity.acting is not None and programme is not None and person is not None:
                found.append((programme, person, identity.acting.actor_sha256))
        acting.lock_households(connection, [person for _, person, _ in found])
        acting.lock_actors(connection, [(p.programme, actor) for p, _, actor in found])
        for programme, (bucket, beneficiary), actor in found:
            sums = acting.read_sums(
                connection,
                programme,
                bucket=bucket,
                beneficiary=beneficiary,
                actor_sha256=actor,
                now=now,
            )
            shelf.household_paid[programme.programme, beneficiary] = sums.household_minor
            shelf.actor_paid[programme.programme, actor] = sums.actor_minor

    def _read_drawing(self, connection: Connection, shelf: Shelf, batch: list[Command]) -> None:
        """What a redemption that may draw on an allotment has to wait for."""
        drawing = [c for c in batch if shelf.may_draw(c)]
        chain_progress.advance(connection, drawing)
        shelf.waiting |= chain_progress.read_waiting(connection, drawing)

    def _read_ownerless(self, connection: Connection, shelf: Shelf, batch: list[Command]) -> None:
        places = {
            (c.record.bucket, part.voucher)
            for c in batch
            if isinstance(c.record.content, Refund)
            for part in c.record.content.parts
        }
        shelf.ownerless |= undo_rows.read_ownerless(connection, places)

    def _read_gaps(self, connection: Connection, shelf: Shelf, batch: list[Command]) -> None:
        for command in batch:
            record = command.record
            if record.kind != "day_report":
                continue
            notes = schema.terminal_notes.c
            arrived = set(
                connection.scalars(
                    select(notes.sequence).where(
                        notes.terminal == record.terminal,
                        notes.incarnation == record.incarnation,
                        notes.sequence <= record.sequence,
                    )
                )
            )
            if len(arrived) < record.sequence:
                # Never all of them: a till may claim any number up to 2^53 - 1.
                missing = (n for n in range(1, record.sequence) if n not in arrived)
                shelf.gaps[record.digest] = list(islice(missing, MISSING_SHOWN))

    def _read_rules(self, connection: Connection, shelf: Shelf, batch: list[Command]) -> None:
        names = sorted(
            {c.record.content.programme for c in batch if isinstance(c.record.content, Redeem)}
            | {posted.programme for posted in shelf.posted.values()}
        )
        for programme in read_programmes(connection, names):
            shelf.programmes[programme.programme] = programme
            shelf.products[programme.product_list] = self._product_list(
                connection, programme.product_list
            )

    def _product_list(self, connection: Connection, name: str) -> ProductList:
        version = newest_list_version(connection, name)
        if (name, version) not in self._lists:
            self._lists[name, version] = read_product_list(connection, name, version)
        return self._lists[name, version]

    # ── writing ────────────────────────────────────────────────────────────────────────────────

    def _write(self, connection: Connection, shelf: Shelf, recorded_at: str) -> None:
        """Everything the decisions changed, once; `recorded_at` is what the outcomes say."""
        self._write_records(connection, shelf, recorded_at)
        self._write_attempts(connection, shelf)
        self._write_postings(connection, shelf, recorded_at)
        if shelf.new_visits:
            connection.execute(
                insert(schema.visits),
                [
                    {
                        "bucket": bucket,
                        "iss": iss,
                        "jti_sha256": jti,
                        "terminal": terminal,
                        "first_at": clock.to_text(first_at),
                    }
                    for bucket, iss, jti, terminal, first_at in shelf.new_visits
                ],
            )
        if shelf.touched:
            table = schema.vouchers
            connection.execute(
                update(table)
                .where(table.c.bucket == bindparam("b_bucket"))
                .where(table.c.voucher == bindparam("b_voucher"))
                .values(
                    available_minor=bindparam("b_available"),
                    saved_minor=bindparam("b_saved"),
                    available_quantity=bindparam("b_quantity"),
                ),
                [
                    {
                        "b_bucket": bucket,
                        "b_voucher": voucher,
                        "b_available": shelf.holdings[voucher].balance.available_minor,
                        "b_saved": shelf.holdings[voucher].balance.saved_minor,
                        "b_quantity": shelf.holdings[voucher].balance.available_quantity,
                    }
                    for bucket, voucher in sorted(set(self._touched(shelf)))
                ],
            )
        terminal_keys.write(connection, shelf.new_keys, recorded_at)
        acting.write_acted(connection, shelf.new_acted, shelf.undone_acted)
        undo_rows.write_returned(connection, shelf.new_returned)
        allotments.write_changed(connection, shelf.changed_allotments.values())
        homes.write(connection, shelf.new_homes)
        _write_expiry(connection, shelf)
        _write_reserves(connection, shelf)
        acceptance_rows.write_exceptions(connection, shelf.new_exceptions, recorded_at)
        self._raise_alarms(connection, shelf.alarms)

    def _touched(self, shelf: Shelf) -> Iterable[tuple[int, str]]:
        for posting in shelf.new_postings:
            for entry in posting.entries:
                if entry.holder in shelf.touched:
                    yield posting.bucket, entry.holder

    def _write_records(self, connection: Connection, shelf: Shelf, recorded_at: str) -> None:
        decided = list(shelf.new_outcomes.values())
        if not decided:
            return
        connection.execute(
            insert(schema.records),
            [
                {
                    "bucket": c.record.bucket,
                    "digest": c.record.digest,
                    "terminal": c.record.terminal,
                    "id": c.record.id,
                    "kind": c.record.kind,
                    "incarnation": c.record.incarnation,
                    "sequence": c.record.sequence,
                    "occurred_at": clock.to_text(c.record.occurred_at),
                    "recorded_at": recorded_at,
                    "result": answer.result,
                    "outcome": answer.jws,
                }
                for c, answer in decided
            ],
        )
        connection.execute(
            insert(schema.record_bytes),
            [
                {
                    "bucket": c.record.bucket,
                    "digest": c.record.digest,
                    "jws": c.record.jws.encode("ascii"),
                }
                for c, _ in decided
            ],
        )

    def _write_attempts(self, connection: Connection, shelf: Shelf) -> None:
        def row(key: tuple[str, str], bucket: int, state: AttemptState) -> dict[str, Any]:
            return {
                "bucket": bucket,
                "terminal": key[0],
                "id": key[1],
                "state": state.state,
                "content_sha256": state.content_sha256,
                "record_sha256": state.record_sha256,
                "posting": state.posting,
            }

        if shelf.new_attempts:
            connection.execute(
                insert(schema.attempts),
                [row(key, bucket, state) for key, (bucket, state) in shelf.new_attempts.items()],
            )
        table = schema.attempts
        for key, (bucket, state) in shelf.moved_attempts.items():
            connection.execute(
                update(table)
                .where(table.c.bucket == bucket)
                .where(table.c.terminal == key[0])
                .where(table.c.id == key[1])
                .values(
                    state=state.state,
                    content_sha256=state.content_sha256,
                    posting=state.posting,
                )
            )

    def _write_postings(self, connection: Connection, shelf: Shelf, recorded_at: str) -> None:
        if not shelf.new_postings:
            return
        headers, legs, lines = [], [], []
        for posting in shelf.new_postings:
            headers.append(
                {
                    "bucket": posting.bucket,
                    "posting": posting.posting,
                    "kind": posting.kind,
                    "programme": posting.programme,
                    "recorded_at": recorded_at,
                    "original": None if posting.original is None else posting.original.posting,
                    **_listed_as(posting),
                }
            )
            legs += entry_rows(posting.bucket, posting.posting, posting.programme, posting.entries)
            if posting.kind == "redeem" and posting.command is not None:
                redeem = posting.command.record.redeem
                lines += self._line_rows(shelf, posting.posting, posting.bucket, redeem)
        connection.execute(insert(schema.postings), headers)
        connection.execute(insert(schema.entries), legs)
        if lines:
            connection.execute(insert(schema.lines), lines)

    def _line_rows(
        self, shelf: Shelf, posting: str, bucket: int, redeem: Redeem
    ) -> list[dict[str, Any]]:
        """Category and amounts per line outlive the signed bytes, which hold GTINs."""
        products = shelf.products[shelf.programmes[redeem.programme].product_list]
        return [
            {
                "bucket": bucket,
                "posting": posting,
                "line": entry.line,
                "voucher": entry.voucher,
                "category": products.category_of(redeem.basket[entry.line - 1].key) or "",
                "quantity": entry.quantity,
                "programme_minor": entry.programme_minor,
                "beneficiary_minor": entry.beneficiary_minor,
            }
            for entry in redeem.allocation
        ]

    def _raise_alarms(self, connection: Connection, alarms: Sequence[tuple[str, Command]]) -> None:
        if alarms:
            connection.execute(
                insert(schema.alarms),
                [
                    {
                        "at": clock.to_text(self._now()),
                        "kind": kind,
                        "terminal": command.record.terminal,
                        "digest": command.record.digest,
                    }
                    for kind, command in alarms
                ],
            )


def _at_best_together(step: _Step, batch: list[Command]) -> dict[str, Decided | Problem]:
    """`step` for the batch in one transaction, which waits for locks; where that loses a race, for
    each record by itself, so that one never takes others down."""
    try:
        return step(batch, True)
    except DBAPIError as error:
        if not is_conflict(error):
            raise
        # The batch has waited its time: now it is only looked whether each one's rows are free.
        wait = not is_lock_timeout(error)
    answers: dict[str, Decided | Problem] = {}
    for unit in _units(batch):
        answers |= _alone(step, unit, wait)
    return answers


def _units(batch: list[Command]) -> list[list[Command]]:
    """Each record by itself; a sale and its acceptance, which are judged together, as two."""
    units: dict[object, list[Command]] = {}
    for command in batch:
        record = command.record
        paired = command.is_late or record.kind == "accept_offline"
        key = (record.terminal, record.id) if paired else record.digest
        units.setdefault(key, []).append(command)
    return list(units.values())


def _alone(step: _Step, unit: list[Command], wait: bool) -> dict[str, Decided | Problem]:
    """Again while it loses races. A lost COMMIT is looked up like this: the record's digest is
    either stored by now, or it is decided anew."""
    for _ in range(TRIES):
        try:
            return step(unit, wait)
        except DBAPIError as error:
            if not is_conflict(error):
                raise
            if is_lock_timeout(error):
                return {command.record.digest: Problem("in_flight") for command in unit}
    return {command.record.digest: Problem("try_again") for command in unit}


def _raise_problem(answers: Mapping[str, Decided | Problem]) -> None:
    for answer in answers.values():
        if isinstance(answer, Problem):
            raise answer


def _is_quarantined(answer: Decided | Problem) -> bool:
    return isinstance(answer, Problem) and answer.code in chain_check.QUARANTINED.values()


def _answered_before(connection: Connection, commands: Sequence[Command]) -> set[str]:
    """Digests of those that have an outcome, if only a held one."""
    keys = [(c.record.bucket, c.record.digest) for c in commands]
    return _decided_before(connection, commands) | held_intake.digests_held(connection, keys)


def _decided_before(connection: Connection, commands: Sequence[Command]) -> set[str]:
    """Digests of those that have an outcome."""
    records = schema.records.c
    keys = sorted((c.record.bucket, c.record.digest) for c in commands)
    if not keys:
        return set()
    return set(
        connection.scalars(
            select(records.digest).where(tuple_(records.bucket, records.digest).in_(keys))
        )
    )


def _listed_as(posting: Posting) -> dict[str, Any]:
    """Whose sale a posting is in settlement files: what nobody's till asked for is nobody's."""
    if posting.command is None:
        names = ("merchant", "store", "terminal", "incarnation", "sequence", "occurred_at")
        return dict.fromkeys(names)
    record, terminal = posting.command.record, posting.command.terminal
    # What the till itself takes back stands against the sale's number; a refund has its own.
    sale = posting.original if posting.kind in ("reversal", "void") else None
    return {
        "merchant": terminal.merchant,
        "store": terminal.store,
        "terminal": terminal.terminal,
        "incarnation": (sale or record).incarnation,
        "sequence": (sale or record).sequence,
        "occurred_at": clock.to_text(record.occurred_at),
    }


def _write_expiry(connection: Connection, shelf: Shelf) -> None:
    """Vouchers that may be used a while longer."""
    table = schema.vouchers
    for (bucket, voucher), until in sorted(shelf.new_expiry.items()):
        connection.execute(
            update(table)
            .where(table.c.bucket == bucket, table.c.voucher == voucher)
            .values(expires_at=clock.to_text(until))
        )


def _write_reserves(connection: Connection, shelf: Shelf) -> None:
    """What postings moved of programmes' own accounts: after forfeits there is more to issue, and
    what vouchers did not cover is paid from the loss reserve."""
    moved: dict[tuple[str, str], int] = {}
    for posting in shelf.new_postings:
        for entry in posting.entries:
            if entry.account in (accounts.UNRESERVED, accounts.LOSS_RESERVE):
                key = (posting.programme, entry.account)
                moved[key] = moved.get(key, 0) + entry.amount
    table = schema.programmes
    for (programme, account), amount in sorted(moved.items()):
        column = (
            table.c.unreserved_minor
            if account == accounts.UNRESERVED
            else table.c.loss_reserve_minor
        )
        connection.execute(
            update(table).where(table.c.programme == programme).values({column: column + amount})
        )


def _collapsed(commands: Sequence[Command]) -> list[Command]:
    """One command per record, in the order of its first. One that has its token comes before one
    that has not: whoever replays a record without its token must not spoil it."""
    first: dict[str, Command] = {}
    for command in commands:
        held = first.get(command.record.digest)
        if held is None or held.identity is None:
            first[command.record.digest] = command
    return list(first.values())


# ── rows ───────────────────────────────────────────────────────────────────────────────────────


def entry_rows(
    bucket: int, posting: str, programme: str, entries: Sequence[Entry]
) -> list[dict[str, Any]]:
    """The rows of one posting's legs."""
    return [
        {
            "bucket": bucket,
            "posting": posting,
            "n": n,
            "account": entry.account,
            "holder": entry.holder,
            "programme": programme,
            "unit": entry.unit,
            "amount": entry.amount,
        }
        for n, entry in enumerate(entries, 1)
    ]


def read_posted(connection: Connection, keys: set[tuple[int, str]]) -> list[Posted]:
    if not keys:
        return []
    postings, entries = schema.postings.c, schema.entries.c
    legs: dict[str, list[Entry]] = {}
    for row in connection.execute(
        select(schema.entries)
        .where(tuple_(entries.bucket, entries.posting).in_(sorted(keys)))
        .order_by(entries.bucket, entries.posting, entries.n)
    ):
        legs.setdefault(row.posting, []).append(
            Entry(row.account, row.holder, row.unit, row.amount)
        )
    query = (
        select(schema.postings, schema.programmes.c.currency)
        .join(schema.programmes, schema.programmes.c.programme == postings.programme)
        .where(tuple_(postings.bucket, postings.posting).in_(sorted(keys)))
    )
    undone = undo_rows.read_undone(connection, keys)
    return [
        Posted(
            row.posting,
            row.kind,
            row.programme,
            row.merchant,
            row.currency,
            row.sequence,
            row.incarnation,
            legs[row.posting],
            tuple(undone.get(row.posting, ())),
        )
        for row in connection.execute(query)
    ]


def holding_from(row: Any) -> Holding:
    """A row of `vouchers` joined with its programme's currency."""
    terms = None if row["terms"] is None else Terms.from_json(json.loads(row["terms"]))
    voucher = Voucher(
        voucher=row["voucher"],
        programme=row["programme"],
        beneficiary=row["beneficiary"],
        kind=voucher_kind(row["kind"]),
        label=row["label"],
        categories=frozenset(json.loads(row["categories"])),
        starts_at=clock.from_text(row["starts_at"]),
        expires_at=clock.from_text(row["expires_at"]),
        frozen=bool(row["frozen"]),
        available_minor=row["available_minor"] if terms is None else 0,
        available_quantity=row["available_quantity"],
        terms=terms,
    )
    balance = Balance(
        row["voucher"],
        row["currency"],
        row["available_minor"],
        row["saved_minor"],
        row["available_quantity"],
        terms,
    )
    return Holding(voucher, balance)


def read_programmes(connection: Connection, names: Sequence[str] | None = None) -> list[Programme]:
    """Programmes with all their stores, by name; all of them without `names`."""
    query = select(schema.programmes).order_by(schema.programmes.c.programme)
    stores = select(schema.programme_stores)
    if names is not None:
        query = query.where(schema.programmes.c.programme.in_(names))
        stores = stores.where(schema.programme_stores.c.programme.in_(names))
    taking_part: dict[str, list[str]] = {}
    for row in connection.execute(stores):
        taking_part.setdefault(row.programme, []).append(row.store)
    return [
        Programme.from_json(
            {**json.loads(row.rules), "stores": sorted(taking_part.get(row.programme, []))}
        )
        for row in connection.execute(query)
    ]


def newest_list_version(connection: Connection, name: str) -> int:
    table = schema.product_lists.c
    return (
        connection.scalars(
            select(table.version).where(table.product_list == name).order_by(table.version.desc())
        ).first()
        or 0
    )


def read_product_list(connection: Connection, name: str, version: int) -> ProductList:
    table = schema.product_lists.c
    entries = connection.scalars(
        select(table.entries).where(table.product_list == name, table.version == version)
    ).one()
    return ProductList(name, version, json.loads(entries))


def _insert_note(connection: Connection) -> Any:
    """A number is noted once. What was noted before its bucket was kept, and comes again, has it
    from now on: an undo behind it would else wait for ever."""
    table = schema.terminal_notes
    if connection.dialect.name == "sqlite":
        made: Any = sqlite.insert(table)
    else:
        made = postgresql.insert(table)
    return made.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={"bucket": made.excluded.bucket},
        where=table.c.bucket.is_(None) & (table.c.digest == made.excluded.digest),
    )


def read_visits(
    connection: Connection, keys: Iterable[tuple[int, str, str]]
) -> dict[tuple[str, str], tuple[str, datetime]]:
    """First uses of these (bucket, iss, visit_sha256): by (iss, visit_sha256), who and when."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    table = schema.visits.c
    rows = connection.execute(
        select(schema.visits).where(tuple_(table.bucket, table.iss, table.jti_sha256).in_(wanted))
    )
    return {
        (row.iss, row.jti_sha256): (row.terminal, clock.from_text(row.first_at)) for row in rows
    }


def bind_visit(
    connection: Connection, bucket: int, identity: IdentityToken, terminal: str, now: datetime
) -> tuple[str, datetime]:
    """The first use of a token that opens a visit: this one if there was none."""
    row = {
        "bucket": bucket,
        "iss": identity.iss,
        "jti_sha256": identity.visit_sha256,
        "terminal": terminal,
        "first_at": clock.to_text(now),
    }
    connection.execute(insert_or_ignore(connection, schema.visits), [row])
    table = schema.visits.c
    held = connection.execute(
        select(table.terminal, table.first_at).where(
            table.bucket == bucket,
            table.iss == identity.iss,
            table.jti_sha256 == identity.visit_sha256,
        )
    ).one()
    return held.terminal, clock.from_text(held.first_at)
