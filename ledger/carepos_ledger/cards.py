"""Printed cards: what proves a card's PIN, and how many tries are left (docs/identity.md §7).

Counting and answer are one transaction, so tries at many shops at once are counted one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Connection, delete, insert, select, tuple_, update

from carepos import clock, ids, pin, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.issuer_keys import issuer_text
from carepos.token import VISIT, IdentityToken
from carepos_ledger import schema
from carepos_ledger.actions import Done, act, find
from carepos_ledger.database import Database
from carepos_ledger.person import find_holder
from carepos_ledger.problems import Problem

TRIES: Final = 5
MAX_CARDS: Final = 500
CARD_NAMES: Final = ("iss", "jti_sha256", "sub", "pin_verifier")

CardVisit = tuple[str, str, str]
"""(iss, jti_sha256, terminal) of a PIN visit."""


@dataclass(frozen=True, slots=True)
class Card:
    """A card as its issuer tells it. `pin_verifier` proves nothing without the card's secret."""

    iss: str
    jti_sha256: str
    sub: str = field(repr=False)
    pin_verifier: str = field(repr=False)

    @classmethod
    def from_json(cls, value: object, where: str = "card") -> Card:
        """Raises Malformed."""
        names = strict_json.exact_names(value, set(CARD_NAMES), where=where)
        return cls(
            issuer_text(names["iss"]),
            ids.digest_text(names["jti_sha256"], f"{where}.jti_sha256"),
            strict_json.text(names["sub"], f"{where}.sub", high=64),
            ids.digest_text(names["pin_verifier"], f"{where}.pin_verifier"),
        )


@dataclass(frozen=True, slots=True)
class CardAnswer:
    """What became of one card of many. `detail` says why one is `refused`."""

    jti_sha256: str
    result: Done | Literal["refused"]
    detail: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _DryRun(Exception):
    """Takes back what a dry run wrote."""


class Cards:
    """Cards as issuers told them, and their PIN visits. Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    def put(self, iss: str, jti_sha256: str, sub: str, pin_verifier: str) -> Done:
        """Know a card; another verifier for the same card is a new PIN, with all its tries.

        Raises Malformed, Problem not_found for a holder to whom nothing was issued,
        already_exists_differently for another holder's card.
        """
        named = dict(zip(CARD_NAMES, (iss, jti_sha256, sub, pin_verifier), strict=True))
        wanted = Card.from_json(named)
        return act(self._database, lambda connection: put_in(connection, wanted))

    def put_many(self, cards: Sequence[Card], *, dry_run: bool = False) -> list[CardAnswer]:
        """Know many cards, in one transaction; one that is refused keeps no other back.

        The answers are in the order of `cards`. A dry run writes nothing. Raises Malformed for a
        card that is named twice.
        """
        named = [(card.iss, card.jti_sha256) for card in cards]
        if len(set(named)) < len(named):
            raise Malformed("a card stands twice", field="cards")
        answers: dict[Card, CardAnswer] = {}

        def work(connection: Connection) -> None:
            answers.clear()
            # Sorted: two files at once lock the same cards in the same order.
            for card in sorted(cards, key=lambda each: (each.iss, each.jti_sha256)):
                answers[card] = _answer(connection, card)
            if dry_run:
                raise _DryRun

        with suppress(_DryRun):
            act(self._database, work)
        return [answers[card] for card in cards]

    def unlock(self, iss: str, jti_sha256: str) -> Done:
        """Give a card its tries back. Raises Problem `not_found`."""
        issuer_text(iss)
        ids.digest_text(jti_sha256, "jti_sha256")

        def work(connection: Connection) -> Done:
            key = {"iss": iss, "jti_sha256": jti_sha256}
            held = find(connection, schema.cards, key, for_update=True)
            if held is None:
                raise Problem("not_found", "no such card", field="jti_sha256")
            if held.wrong_tries == 0:
                return "exists"
            _set(connection, {**key, "bucket": held.bucket}, wrong_tries=0)
            return "changed"

        return act(self._database, work)

    def prove(
        self,
        identity: IdentityToken,
        bucket: int,
        beneficiary: str,
        terminal: str,
        proof: str | None,
    ) -> datetime:
        """When the PIN was proved at this terminal: now by `proof`, or in a visit that is open.

        A wrong proof is counted; the last one ends the card's visits wherever they are. Raises
        Problem pin_required, pin_wrong (with `tries_left`), pin_locked; Malformed.
        """
        key = {"bucket": bucket, "iss": identity.iss, "jti_sha256": identity.jti_sha256}
        if proof is not None:
            pin.verifier(proof)  # its form, before anything is counted

        def work(connection: Connection) -> Problem | datetime:
            held = find(connection, schema.cards, key, for_update=True)
            if held is None or held.beneficiary != beneficiary:
                return _refused("pin_required", "no PIN was set for this card")
            if held.wrong_tries >= TRIES:
                return _refused("pin_locked", "an operator can unlock it")
            if proof is None:
                visit = (bucket, identity.iss, identity.jti_sha256, terminal)
                for proved_at in read_pin_visits(connection, [visit]).values():
                    if self._now() - proved_at <= VISIT:
                        return proved_at
                return _refused("pin_required", "send pin_proof beside the token")
            if pin.matches(proof, held.pin_verifier):
                _set(connection, key, wrong_tries=0)
                return self._open_visit(connection, key, terminal)
            _set(connection, key, wrong_tries=held.wrong_tries + 1)
            left = TRIES - held.wrong_tries - 1
            if left == 0:
                _end_visits(connection, key)
                return _refused("pin_locked", "that was the last try")
            return _refused("pin_wrong", f"{left} tries left", {"tries_left": left})

        # The refusal leaves after COMMIT: raised inside, it would take the count back.
        proved = act(self._database, work)
        if isinstance(proved, Problem):
            raise proved
        return proved

    def _open_visit(self, connection: Connection, key: dict[str, Any], terminal: str) -> datetime:
        table, now = schema.pin_visits, self._now()
        place = {**key, "terminal": terminal}
        connection.execute(delete(table).where(*(table.c[n] == v for n, v in place.items())))
        connection.execute(insert(table).values(**place, proved_at=clock.to_text(now)))
        return now


def put_in(connection: Connection, card: Card) -> Done:
    """As `Cards.put`, in a transaction. Raises Problem before it has written anything."""
    table = schema.cards
    person = find_holder(connection, card.iss, card.sub)
    if person is None:
        raise Problem("not_found", "nothing was issued to this holder", field="sub")
    name = {"iss": card.iss, "jti_sha256": card.jti_sha256}
    key = {"bucket": person.bucket, **name}
    held = find(connection, table, name, for_update=True)
    if held is None:
        connection.execute(
            insert(table).values(
                **key,
                beneficiary=person.beneficiary,
                pin_verifier=card.pin_verifier,
                wrong_tries=0,
            )
        )
        return "created"
    if held.beneficiary != person.beneficiary:
        raise Problem("already_exists_differently", "is another holder's", field="sub")
    if held.pin_verifier == card.pin_verifier:
        return "exists"
    _set(connection, key, pin_verifier=card.pin_verifier, wrong_tries=0)
    _end_visits(connection, key)
    return "changed"


def _answer(connection: Connection, card: Card) -> CardAnswer:
    try:
        return CardAnswer(card.jti_sha256, put_in(connection, card))
    except Problem as problem:
        return CardAnswer(card.jti_sha256, "refused", problem.detail)


def _set(connection: Connection, key: dict[str, Any], **values: object) -> None:
    table = schema.cards
    connection.execute(
        update(table).where(*(table.c[n] == v for n, v in key.items())).values(**values)
    )


def _end_visits(connection: Connection, key: dict[str, Any]) -> None:
    table = schema.pin_visits
    connection.execute(delete(table).where(*(table.c[n] == v for n, v in key.items())))


def _refused(code: str, detail: str, extra: dict[str, Any] | None = None) -> Problem:
    return Problem(code, detail, status=403, extra=extra)


def read_pin_visits(
    connection: Connection, keys: Iterable[tuple[int, str, str, str]]
) -> dict[CardVisit, datetime]:
    """When the PIN of these (bucket, iss, jti_sha256, terminal) was proved last, if it was."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    table = schema.pin_visits.c
    rows = connection.execute(
        select(table.iss, table.jti_sha256, table.terminal, table.proved_at).where(
            tuple_(table.bucket, table.iss, table.jti_sha256, table.terminal).in_(wanted)
        )
    )
    return {(row.iss, row.jti_sha256, row.terminal): clock.from_text(row.proved_at) for row in rows}


def read_locked(
    connection: Connection, keys: Iterable[tuple[int, str, str]]
) -> set[tuple[str, str]]:
    """Which of the cards of these (bucket, iss, jti_sha256) are locked: by (iss, jti_sha256)."""
    wanted = sorted(set(keys))
    if not wanted:
        return set()
    table = schema.cards.c
    rows = connection.execute(
        select(table.iss, table.jti_sha256).where(
            tuple_(table.bucket, table.iss, table.jti_sha256).in_(wanted),
            table.wrong_tries >= TRIES,
        )
    )
    return {(row.iss, row.jti_sha256) for row in rows}
