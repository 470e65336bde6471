"""Taking in what tills hold of a lost part of the book: `POST /v1/heal` (docs/offline.md §12).

Everything is verified before it is kept: the ledger's own signature proves what was decided, and
nothing else does. What it proves is booked by `opening`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import insert, select

from carepos import clock, ids, lost, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed, SignatureInvalid
from carepos.keys import KeySet, PublicKey, unb64
from carepos.lost import Certified, Evidence
from carepos_ledger import evidence_forks, evidence_rows, healing, schema, terminal_keys
from carepos_ledger.actions import act, find
from carepos_ledger.database import Database
from carepos_ledger.intake import MAX_ITEMS
from carepos_ledger.key_rules import TerminalKey
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Terminal


class Late(Protocol):
    """Books evidence that came after the opening, as far as it fits (`Opening.place_late`)."""

    def __call__(self, terminal: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """Which numbers of a journal a till asks about: those behind `after`, up to the `last` that it
    has an outcome of."""

    incarnation: str
    after: int
    last: int

    @classmethod
    def read(cls, incarnation: object, after: object, last: object) -> Asked:
        """Raises Malformed."""
        return cls(
            ids.incarnation(incarnation, "incarnation"),
            strict_json.integer(after, "after"),
            strict_json.integer(last, "last"),
        )


class Offering:
    """The ledger's side of `POST /v1/heal`. Safe to call from several threads."""

    def __init__(self, database: Database, keyring: Keyring, now: Clock, place_late: Late) -> None:
        self._database = database
        self._keyring = keyring
        self._now = now
        self._place_late = place_late

    # ── who offers ─────────────────────────────────────────────────────────────────────────────

    def certified(self, offered: object) -> list[Certified]:
        """The keys that a till says it had, as this ledger certified them. Raises Malformed."""
        return lost.read_certificates(offered, self._keyring.keys)

    def finder(self, certified: Sequence[Certified]) -> Callable[[str], Terminal]:
        """Finds the caller by the kid of a read token: whatever its status, also when the ledger
        knows its key, or the terminal, by these certificates alone."""

        def find_caller(kid: str) -> Terminal:
            known = terminal_keys.find(self._database, kid)
            if known is None:
                known = self._by_certificate(kid, certified)
            if known is None or known.terminal != certified[-1].terminal:
                raise Problem("unauthorised", "no terminal of this ledger")
            return known

        return find_caller

    def _by_certificate(self, kid: str, certified: Sequence[Certified]) -> Terminal | None:
        for each in certified:
            if each.key.kid != kid:
                continue
            with self._database.read() as connection:
                held = find(connection, schema.terminals, {"terminal": each.terminal})
            return Terminal(
                each.terminal,
                each.terminal_no if held is None else held.terminal_no,
                each.merchant if held is None else held.merchant,
                each.store if held is None else held.store,
                kid,
                each.key.x,
                "active" if held is None else held.status,
                TerminalKey(each.terminal, first=None),
            )
        return None

    def enrol_anew(self, certified: Sequence[Certified]) -> None:
        """The terminal as it was enrolled, where it is not known: its first key. The further ones
        come back with their changes. Raises Problem not_enrolled while its store is not there."""
        first = certified[0]
        at = clock.to_text(self._now())
        with self._database.read() as connection:
            if find(connection, schema.terminals, {"terminal": first.terminal}) is not None:
                return

        def work(connection: Any) -> str | None:
            terminals = schema.terminals
            if find(connection, terminals, {"terminal": first.terminal}) is not None:
                return None
            store = find(connection, schema.stores, {"store": first.store})
            if store is None or store.merchant != first.merchant:
                evidence_rows.alarm(connection, "store_missing", first.terminal, first.store, at)
                return f"its store {first.store} of {first.merchant} is not here: make it again"
            numbers = select(terminals.c.terminal).where(
                terminals.c.terminal_no == first.terminal_no
            )
            if connection.scalars(numbers).first() is not None:
                evidence_rows.alarm(connection, "number_taken", first.terminal, first.store, at)
                return f"another till has the number {first.terminal_no}"
            connection.execute(
                insert(terminals).values(
                    terminal=first.terminal,
                    terminal_no=first.terminal_no,
                    store=first.store,
                    merchant=first.merchant,
                    status="active",
                )
            )
            terminal_keys.enrol(
                connection, first.terminal, first.key, clock.to_text(first.issued_at)
            )
            return None

        problem = act(self._database, work)
        if problem is not None:
            raise Problem("not_enrolled", problem)

    # ── what is offered ────────────────────────────────────────────────────────────────────────

    def take(
        self,
        caller: Terminal,
        certified: Sequence[Certified],
        asked: Asked,
        items: object,
        complete: object,
    ) -> dict[str, Any]:
        """The answer to one call. Raises Malformed, Problem."""
        chain = (caller.terminal, asked.incarnation)
        done = strict_json.boolean(complete, "complete")
        listed = strict_json.array(items, "items", high=MAX_ITEMS)
        self.enrol_anew(certified)
        own = KeySet([*self._known_keys(caller.terminal), *(each.key for each in certified)])
        read = [self._read(each, caller.terminal, own) for each in listed]
        good = [each for each in read if isinstance(each, Evidence)]
        is_healing, before = self._stage(caller, good)
        if not is_healing and (good or self._waits(caller.terminal)):
            self._place_late(caller.terminal)
        at = clock.to_text(self._now())

        def look(connection: Any) -> dict[str, Any]:
            if is_healing or good:  # else it only asked, as every till does
                who = (caller.terminal, self._keyring.epoch, chain[1])
                evidence_rows.hear(connection, *who, complete=done, at=at)
            known = evidence_rows.stored_results(connection, good)
            ranges, more = evidence_rows.held(connection, chain, asked.after, asked.last)
            ends = evidence_rows.digests(connection, chain, [high for _, high in ranges])
            return {
                "forked": evidence_forks.is_known(connection, caller.terminal),
                "held": [list(each) for each in ranges],
                "ends": [ends[high] for _, high in ranges],
                "more": more,
                "results": [_answer(each, before, known) for each in read],
            }

        return {
            "epoch": self._keyring.epoch,
            "state": "healing" if is_healing else "open",
            **act(self._database, look),
        }

    def _waits(self, terminal: str) -> bool:
        """Whether something of before waits still: whoever was to place it was cut short, and the
        till, which is told that it is held, offers it no more."""
        with self._database.read() as connection:
            return bool(evidence_rows.late(connection, terminal, self._keyring.epoch))

    def _known_keys(self, terminal: str) -> list[PublicKey]:
        table = schema.terminal_keys.c
        with self._database.read() as connection:
            rows = connection.scalars(select(table.x).where(table.terminal == terminal)).all()
        return [PublicKey(unb64(x)) for x in rows]

    def _read(self, item: object, terminal: str, own: KeySet) -> Evidence | Malformed:
        try:
            return lost.read_evidence(
                item, terminal=terminal, own=own, ledger=self._keyring.keys.keys
            )
        except SignatureInvalid as error:
            return SignatureInvalid(
                f"{error}; where a key of the ledger is missing, restore the newest copy of them"
            )
        except Malformed as error:
            return error

    def _stage(
        self, caller: Terminal, good: Sequence[Evidence]
    ) -> tuple[bool, set[tuple[str, str]]]:
        """Keep what is new. Whether it waits for an opening; (digest, result) of what this ledger
        holds itself."""
        at = clock.to_text(self._now())

        def work(connection: Any) -> tuple[bool, set[tuple[str, str]]]:
            # Locked: what is kept now is seen by the opening that ends, or comes behind it.
            is_healing = healing.read(connection, for_update=True) is not None
            known = evidence_rows.stored_results(connection, good)
            fresh = [each for each in good if _key(each) not in known]
            evidence_forks.find(connection, [each.record for each in fresh], at)
            evidence_rows.stage(connection, fresh, at)
            evidence_rows.note_buckets(
                connection, [each for each in good if known.get(_key(each), "") is None]
            )
            unseen = [each for each in fresh if each.outcome.epoch >= self._keyring.epoch]
            if unseen and not is_healing:
                # Nobody restored anything that is known here: a person must look, and at once.
                digest = unseen[0].record.digest
                evidence_rows.alarm(connection, "data_lost", caller.terminal, digest, at)
            return is_healing, {key for key, state in known.items() if state is None}

        return act(self._database, work)


def _key(each: Evidence) -> tuple[str, str]:
    return each.record.digest, each.outcome.result


def _answer(
    read: Evidence | Malformed,
    before: set[tuple[str, str]],
    known: dict[tuple[str, str], str | None],
) -> dict[str, Any]:
    if isinstance(read, Malformed):
        return {"problem": Problem.of(read).to_json()}
    key = _key(read)
    if key in before:
        return {"result": "held"}
    state = known.get(key)
    return {"result": "exception" if state in ("excepted", "closed") else state or "held"}
