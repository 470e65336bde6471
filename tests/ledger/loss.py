"""A ledger without HTTP that loses what happened since a backup, and is healed again.

Every answer is kept as a till keeps it; `lose` puts the rows of the backup back, and what the
ledger looked like before is what it must look like healed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import delete, insert, select

from carepos import clock, jws
from carepos.keys import SigningKey
from carepos.outcome import Outcome
from carepos.record import Record
from carepos_ledger import epochs, healing, schema, terminal_keys
from carepos_ledger.book import Reached, pass_by
from carepos_ledger.heal_status import HealStatus
from carepos_ledger.healing import Progress
from carepos_ledger.offering import Asked, Offering
from carepos_ledger.opening import Opening
from carepos_ledger.shelf import Terminal
from carepos_ledger.told_allotments import ToldAllotments
from tests.ledger.rig import Answer, Rig, Signer

Rows = dict[str, list[dict[str, Any]]]

NOT_BROUGHT_BACK = {
    "meta", "alarms", "visits", "pin_visits", "activations", "uses", "terminal_progress",
    "pack_files", "heal_evidence", "heal_reports", "heal_files", "heal_allotments", "heal_rows",
}  # fmt: skip
"""Tables that a heal does not bring back, or brings about."""


def comparable(rows: Rows) -> Rows:
    """What a healed ledger must have: all but when a number was noted, or something set aside."""
    found: Rows = {}
    for name, table in rows.items():
        if name in NOT_BROUGHT_BACK:
            continue
        kept = []
        for row in table:
            kept_names = row.keys() - {"noted_at", *(("n",) if name == "exceptions" else ())}
            row = {k: v for k, v in row.items() if k in kept_names}
            if name == "postings" and row["kind"] in ("allot", "release"):
                del row["recorded_at"]
            kept.append(row)
        found[name] = sorted(kept, key=repr)
    return found


@dataclass
class Loss:
    """One ledger, a backup of it, and what the tills hold."""

    rig: Rig
    backup: Rows = field(default_factory=dict)
    whole: Rows = field(default_factory=dict)
    held: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    certificates: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    signers: dict[str, Signer] = field(default_factory=dict)

    # ── before ─────────────────────────────────────────────────────────────────────────────────

    def till(self, store: str = "zhou-shop") -> Signer:
        """An enrolled till, and the certificate that it holds."""
        made = self.rig.signer(store)
        self.signers[made.terminal] = made
        self.certified(made, made.key)
        return made

    def certified(self, signer: Signer, key: SigningKey) -> None:
        """It has the ledger's certificate for a key."""
        text = self.rig.terminals.certificate(signer.terminal, key.kid)
        held = self.certificates.setdefault(signer.terminal, [])
        held.append({"key": key.public.to_jwk(), "certificate": text})

    def back_up(self) -> None:
        self.backup = self.rig.tables()

    def send(self, *envelopes: Mapping[str, Any] | Record) -> list[Answer]:
        """As `Rig.send`; each answer is kept as the till keeps it."""
        answers = self.rig.send(*envelopes)
        for envelope, answer in zip(envelopes, answers, strict=True):
            written = self.rig.read(envelope)
            if isinstance(answer, Outcome):
                pair = (written.jws, answer.jws)
                if pair not in self.held.setdefault(written.terminal, []):
                    self.held[written.terminal].append(pair)
        return answers

    def one(self, envelope: Mapping[str, Any] | Record) -> Outcome:
        [answer] = self.send(envelope)
        assert isinstance(answer, Outcome), answer
        return answer

    # ── the loss ───────────────────────────────────────────────────────────────────────────────

    def lose(self) -> None:
        """The rows of the backup are back; what was there is kept to compare with."""
        self.whole = self.rig.tables()
        with self.rig.database.write() as connection:
            for table in reversed(schema.metadata.sorted_tables):
                connection.execute(delete(table))
            for table in schema.metadata.sorted_tables:
                if self.backup[table.name]:
                    connection.execute(insert(table), self.backup[table.name])

    def begin(self) -> None:
        """As `carepos ledger heal begin`, whose files are another test's."""
        epoch = self.rig.keyring.epoch + 1
        with self.rig.database.write() as connection:
            epochs.start(connection, epoch, 0)
            healing.write(connection, Progress(epoch, clock.to_text(self.rig.now())))
        self.rig.keyring = replace(self.rig.keyring, epoch=epoch)
        self.rig.new_book()

    # ── healing ────────────────────────────────────────────────────────────────────────────────

    def opening(self, reached: Reached = pass_by) -> Opening:
        return Opening(self.rig.database, self.rig.keyring, self.rig.now, reached)

    def offering(self, opening: Opening | None = None) -> Offering:
        rig, opening = self.rig, opening or self.opening()
        return Offering(rig.database, rig.keyring, rig.now, opening.place_late)

    def caller(self, signer: Signer) -> Terminal:
        offering = self.offering()
        certified = offering.certified(self.certificates[signer.terminal])
        return offering.finder(certified)(signer.key.kid)

    def offer(
        self,
        signer: Signer,
        items: Sequence[tuple[str, str]] | None = None,
        *,
        complete: bool = True,
        after: int = 0,
        opening: Opening | None = None,
    ) -> dict[str, Any]:
        """What a till holds, all of it; the answer."""
        offering = self.offering(opening)
        certified = offering.certified(self.certificates[signer.terminal])
        pairs = self.held.get(signer.terminal, []) if items is None else items
        told = [{"record": record, "outcome": outcome} for record, outcome in pairs]
        asked = Asked(signer.incarnation, after, signer.sequence)
        return offering.take(self.caller(signer), certified, asked, told, complete)

    def offer_pack(self, signer: Signer, manifest: str, files: Sequence[bytes]) -> list[str]:
        told = ToldAllotments(self.rig.database, self.rig.keyring, self.rig.now)
        return told.take(
            self.caller(signer),
            signer.incarnation,
            manifest,
            [data.decode() for data in files],
        )

    def open(self, *, early: bool = False, opening: Opening | None = None, most: int = 3) -> None:
        """In small steps until it is open."""
        opening = opening or self.opening()
        for _ in range(500):
            if opening.step(early=early, most=most):
                return
        raise AssertionError("it never opens")

    def status(self) -> dict[str, Any]:
        return HealStatus(self.rig.database, self.rig.now).to_json()

    def exceptions(self) -> list[tuple[str | None, str, str]]:
        found = HealStatus(self.rig.database, self.rig.now).exceptions(0)
        return [(each["reason"], each["kind"], each["state"]) for each in found]

    def is_whole(self) -> None:
        """Everything is as if nothing had ever been lost."""
        now, before = comparable(self.rig.tables()), comparable(self.whole)
        for name, rows in before.items():
            assert now[name] == rows, name


def outcome_of(text: str) -> dict[str, Any]:
    """What a signed outcome says, unverified."""
    found: dict[str, Any] = jws.identified(
        text, typ=jws.OUTCOME, sha256=jws.digest_of(text)
    ).payload
    return found


def keys_of(rig: Rig, terminal: str) -> list[str]:
    """The kids of a terminal's keys."""
    table = schema.terminal_keys.c
    with rig.database.read() as connection:
        return sorted(connection.scalars(select(table.kid).where(table.terminal == terminal)))


def found(rig: Rig, kid: str) -> Terminal | None:
    return terminal_keys.find(rig.database, kid)
