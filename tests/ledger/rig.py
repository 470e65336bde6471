"""A ledger without HTTP, and tills that sign whatever a test wants.

`send` goes the way of `POST /v1/records`: intake, then one posting, then an answer per item. So
what is proved here is what tills get, less the socket.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import delete, select, update

from carepos import ids, jws, outcome, record, token
from carepos.acceptance import AcceptOffline
from carepos.basket import Entry, Line
from carepos.evidence import seal
from carepos.keys import KeySet, SigningKey, digest
from carepos.offline import AllotmentUse
from carepos.offline_rule import Liability
from carepos.outcome import Outcome
from carepos.record import DayReport, Record, Redeem, Reversal, ReversalReason, Start
from carepos.undo import Original, Refund, ReturnedLine, Sold, Void, parts_of
from carepos_ledger import schema
from carepos_ledger.book import Book, Reached, pass_by
from carepos_ledger.database import Database
from carepos_ledger.held_rulings import HeldRulings
from carepos_ledger.intake import Intake
from carepos_ledger.issuers import Issuers
from carepos_ledger.keyring import Keyring
from carepos_ledger.office import Office
from carepos_ledger.problems import Problem
from carepos_ledger.programmes import Programmes
from carepos_ledger.shelf import Command, Decided
from carepos_ledger.terminals import Terminals
from tests.ledger.relief import until_it_waits
from tests.quick_starts import migrate

AUDIENCE = "urn:carepos:redeem"
ISSUER = "https://issuer.test"
PROGRAMME = "flood-dairy"
MILK = "06913046198782"
RICE = "cat:rice-loose"
SOAP = "06965356619631"
IMPORT_KEY_ID = "0123456789abcdef"
STARTS, ENDS = "2026-08-01T00:00:00.000Z", "2027-08-01T00:00:00.000Z"
RULES: dict[str, Any] = {
    "programme": PROGRAMME,
    "name": "奶制品援助",
    "currency": "CNY",
    "starts_at": STARTS,
    "ends_at": ENDS,
    "paused": False,
    "product_list": "relief",
    "issuer": ISSUER,
    "classes": ["once"],
    "amr_any": [],
    "limit_per_redemption_minor": None,
    "top_up_allowed": True,
    "undo_window_s": 3600,
    "quotas": [],
    "refunds": {"window_s": 14 * 86_400, "grace_s": 3 * 86_400},
}

Envelope = dict[str, Any]
Answer = Outcome | str
"""A verified outcome, or the code of a problem."""

T = TypeVar("T")


class SetClock:
    """The time, moved by hand; or ticking a second at each look when `ticks`."""

    def __init__(self, at: datetime = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)) -> None:
        self.at = at
        self.ticks = False

    def __call__(self) -> datetime:
        if self.ticks:
            self.at += timedelta(seconds=1)
        return self.at

    def forward(self, **by: float) -> None:
        self.at += timedelta(**by)


def code(answer: Answer) -> str:
    """One word for an answer: its refusal's code, else its result; or the problem's code."""
    if isinstance(answer, str):
        return answer
    return answer.refusal.code if answer.refusal else answer.result


@dataclass(frozen=True)
class Holder:
    """A beneficiary as issuer and ledger know them."""

    sub: str
    bucket: int
    beneficiary: str
    vouchers: tuple[str, ...]

    @property
    def voucher(self) -> str:
        return self.vouchers[0]


@dataclass
class Signer:
    """An enrolled till: its key and the chain it writes."""

    terminal: str
    merchant: str
    key: SigningKey
    now: Callable[[], datetime]
    incarnation: str = field(default_factory=ids.new_incarnation)
    sequence: int = 0
    prev: str = ""

    def __post_init__(self) -> None:
        self.prev = self.prev or record.first_prev(self.incarnation)

    def sign(
        self,
        content: record.Content,
        attempt_id: str,
        *,
        sequence: int | None = None,
        prev: str | None = None,
    ) -> Record:
        """The next record of the chain; at a `sequence` given, a second line of it, which goes on
        from `prev`."""
        if sequence == 1:
            prev = record.first_prev(self.incarnation)
        made = record.make(
            content,
            attempt_id=attempt_id,
            terminal=self.terminal,
            incarnation=self.incarnation,
            sequence=self.sequence + 1 if sequence is None else sequence,
            prev=prev or self.prev,
            occurred_at=self.now(),
            key=self.key,
        )
        if sequence is None:
            self.sequence, self.prev = made.sequence, made.digest
        return made

    def start(self, **where: Any) -> Record:
        return self.sign(Start("test 1"), self.own_id(), **where)

    def own_id(self) -> str:
        return ids.new_attempt_id(ids.terminal_bucket(self.terminal), self.now())

    def reversal(
        self, of: Record, reason: ReversalReason = "cancelled", *, record_sha256: str | None = None
    ) -> Record:
        return self.sign(Reversal(record_sha256 or of.digest, reason), of.id)

    def void(self, of: Record, attempt_id: str | None = None, **changes: Any) -> Record:
        """This till takes its own sale back."""
        content: dict[str, Any] = {
            "original": Original(of.terminal, of.id, of.digest),
            "cashier": "c01",
            "approved_by": None,
            "reason": "changed_mind",
        }
        return self.sign(Void(**{**content, **changes}), attempt_id or self.undo_id(of))

    def refund(
        self,
        of: Record,
        *lines: tuple[int, int],
        before: Mapping[int, int] | None = None,
        attempt_id: str | None = None,
        **changes: Any,
    ) -> Record:
        """These (line, quantity) of a sale come back, when `before` of its lines did already."""
        returned = tuple(ReturnedLine(*line) for line in lines)
        sale = of.redeem
        sold = Sold(
            sale.basket, sale.allocation, sale.currency, of.occurred_at, of.occurred_at,
            refunded=before or {},
        )  # fmt: skip
        content: dict[str, Any] = {
            "original": Original(of.terminal, of.id, of.digest),
            "cashier": "c01",
            "approved_by": "c02",
            "reason": "returned",
            "currency": sale.currency,
            "lines": returned,
            "parts": parts_of(sold, returned),
        }
        return self.sign(Refund(**{**content, **changes}), attempt_id or self.undo_id(of))

    def undo_id(self, of: Record) -> str:
        return ids.new_attempt_id(of.bucket, self.now())

    def day_report(self, **where: Any) -> Record:
        content = DayReport(1, "2026-11-22", 1, self.sequence, 0, 0, 0, 0, ())
        return self.sign(content, self.own_id(), **where)


@dataclass
class Rig:
    """One ledger's parts, and everybody around it."""

    database: Database
    keyring: Keyring
    now: SetClock
    issuer_key: SigningKey
    issuers: Issuers
    programmes: Programmes
    office: Office
    terminals: Terminals
    intake: Intake
    book: Book
    forced_bucket: int | None = None
    issued: int = 0
    tokens: int = 0

    # ── who takes part ─────────────────────────────────────────────────────────────────────────

    def settle_in(self, funded_minor: int = 100_000_000) -> None:
        office, programmes = self.office, self.programmes
        self.issuers.put(ISSUER, [self.issuer_key.public.to_jwk()])
        programmes.put_product_list("relief", 1, {MILK: "dairy", RICE: "grain"})
        programmes.put_programme(RULES)
        office.put_funder("red-cross", "红十字会")
        office.fund(PROGRAMME, "red-cross", funded_minor, "grant-1")
        office.put_merchant("zhou", "周家超市")
        office.put_store("zhou-shop", "zhou", "周家超市 古州店")
        office.put_store("zhou-far", "zhou", "周家超市 忠诚店")
        programmes.admit_store(PROGRAMME, "zhou-shop")

    def empty(self) -> None:
        """No row in any table and the clock back at its start; the schema stays."""
        self.now.at, self.now.ticks = SetClock().at, False
        with self.database.write() as connection:
            for table in reversed(schema.metadata.sorted_tables):
                connection.execute(delete(table))
        # What it has read of this database is no more.
        self.intake = Intake(self.database, AUDIENCE, self.now, self.keyring.evidence)
        self.new_book()

    def new_book(self, reached: Reached = pass_by) -> Book:
        self.book = Book(self.database, self.keyring, self.now, reached)
        return self.book

    def signer(self, store: str = "zhou-shop") -> Signer:
        """An enrolled till that has sent nothing yet."""
        activation = self.terminals.new_activation(store, 3600).code
        key = SigningKey.generate()
        payload = {"v": 1, "activation_sha256": digest(activation.encode("ascii"))}
        proof = jws.sign(payload, typ=jws.PROOF, key=key)
        certificate = self.terminals.enrol(activation, key.public.to_jwk(), proof)
        signed = jws.verify(certificate, typ=jws.CERTIFICATE, keys=self.keyring.keys.keys)
        return Signer(signed.payload["terminal"], signed.payload["merchant"], key, self.now)

    def holder(self, *rows: Mapping[str, Any], bucket: int | None = None) -> Holder:
        """A household with a voucher per row (a value voucher of 120.00 if none is named).

        An issue makes one voucher for one beneficiary; the further ones are handed over by hand.
        """
        wanted = rows or ({},)
        self.forced_bucket = secrets.randbelow(4096) if bucket is None else bucket
        answers = self.office.issue(PROGRAMME, IMPORT_KEY_ID, [self.row(row) for row in wanted])
        assert [answer.result for answer in answers] == ["issued"] * len(wanted)
        issues, vouchers = schema.issues.c, schema.vouchers
        with self.database.write() as connection:
            found = {
                row.ref: (row.voucher, row.beneficiary)
                for row in connection.execute(
                    select(issues.ref, vouchers.c.voucher, vouchers.c.beneficiary)
                    .join(vouchers, vouchers.c.voucher == issues.voucher)
                    .where(issues.ref.in_([answer.ref for answer in answers]))
                )
            }
            held = [found[answer.ref] for answer in answers]
            connection.execute(
                update(vouchers)
                .where(vouchers.c.voucher.in_([voucher for voucher, _ in held]))
                .values(beneficiary=held[0][1])
            )
        sub = str(answers[0].sub)
        bucket, self.forced_bucket = self.forced_bucket, None
        return Holder(sub, bucket, held[0][1], tuple(voucher for voucher, _ in held))

    def random_bytes(self, count: int) -> bytes:
        if count == 2 and self.forced_bucket is not None:
            return (self.forced_bucket << 4).to_bytes(2, "big")
        return secrets.token_bytes(count)

    def row(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """A row of a list, of a household that was not met before."""
        self.issued += 1
        row: dict[str, Any] = {
            "ref": digest(f"household {self.issued}".encode()),
            "kind": "value",
            "label": "奶制品卡",
            "categories": [],
            "starts_at": STARTS,
            "expires_at": ENDS,
            "amount_minor": 12_000,
            **changed,
        }
        if row["kind"] != "value":
            del row["amount_minor"]
        return row

    def rule_on(self, of: Record, *, post: bool, book: Book | None = None) -> str:
        """A person decides a held record; what came of the word, `changed` or `exists`."""
        table = schema.held_records.c
        with self.database.read() as connection:
            n = connection.scalars(select(table.n).where(table.digest == of.digest)).one()
        rulings = HeldRulings(self.database, book or self.book, self.now)
        if post:
            return rulings.post(n, operator="wang")
        return rulings.refuse(
            n, "not_accepted", "not this shop's", operator="wang", leaves_spent=True
        )

    # ── what they bring ────────────────────────────────────────────────────────────────────────

    def token(self, holder: Holder, **changes: Any) -> str:
        self.tokens += 1
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": holder.sub,
            "jti": f"visit-{self.tokens}",
            "issued_at": self.now(),
        }
        return token.mint(self.issuer_key, **{**claims, **changes})

    def redeem(
        self,
        signer: Signer,
        holder: Holder,
        amount_minor: int = 6_000,
        *,
        token_text: str | None = None,
        attempt_id: str | None = None,
        basket: Sequence[Line] = (),
        allocation: Sequence[Entry] = (),
        sequence: int | None = None,
        **changes: Any,
    ) -> Envelope:
        """A redemption of `amount_minor` from the holder's first voucher, unless told otherwise."""
        text = self.token(holder) if token_text is None else token_text
        content: dict[str, Any] = {
            "checkout": f"S1-{signer.sequence + 1}",
            "cashier": "c01",
            "programme": PROGRAMME,
            "rules_version": 1,
            "currency": "CNY",
            "beneficiary": self.reference(signer, holder),
            "token_sha256": token.token_sha256(text),
            "basket": tuple(basket) or (Line(MILK, 1, "piece", amount_minor),),
            "allocation": tuple(allocation) or (Entry(1, holder.voucher, 0, amount_minor, 0),),
        }
        made = signer.sign(
            Redeem(**{**content, **changes}),
            attempt_id or ids.new_attempt_id(holder.bucket, self.now()),
            sequence=sequence,
        )
        return {"record": made.jws, "token": text}

    def offline_sale(
        self,
        signer: Signer,
        holder: Holder,
        amount_minor: int = 6_000,
        *,
        uses: Sequence[AllotmentUse] = (),
        liability: Liability = "programme",
        pack_sha256: str = "A" * 43,
        pin_proof: str | None = None,
        **changes: Any,
    ) -> list[Envelope]:
        """A sale that went out of the door without the ledger, as it comes up later: the redeem and
        its acceptance, with the token sealed."""
        sale = self.redeem(signer, holder, amount_minor, **changes)
        redeem = record.read(sale["record"], keys=KeySet([signer.key.public]))
        evidence = seal(
            sale["token"],
            pin_proof=pin_proof,
            key=self.keyring.evidence_key,
            terminal=signer.terminal,
            attempt_id=redeem.id,
        )
        accept = signer.sign(
            AcceptOffline(redeem.digest, liability, pack_sha256, tuple(uses)), redeem.id
        )
        return [
            {"record": redeem.jws, "evidence": evidence},
            {"record": accept.jws, "evidence": evidence},
        ]

    def reference(self, signer: Signer, holder: Holder) -> str:
        return self.keyring.beneficiary_ref(signer.merchant, ISSUER, holder.sub)

    # ── sending ────────────────────────────────────────────────────────────────────────────────

    def commands(self, envelopes: Sequence[Mapping[str, Any]]) -> list[Command | Problem]:
        return self.intake.items({"items": [dict(each) for each in envelopes]})

    def send(
        self, *envelopes: Mapping[str, Any] | Record, book: Book | None = None
    ) -> list[Answer]:
        """What the ledger answers, in order; every outcome is verified and bound."""
        items = [{"record": each.jws} if isinstance(each, Record) else each for each in envelopes]
        commands = self.commands(items)
        answers = (book or self.book).post([c for c in commands if isinstance(c, Command)])
        return [
            self._answer(each["record"], c if isinstance(c, Problem) else answers[c.record.digest])
            for each, c in zip(items, commands, strict=True)
        ]

    def send_one(self, envelope: Mapping[str, Any] | Record, book: Book | None = None) -> Outcome:
        """As `send`, for one record that is decided."""
        [answer] = self.send(envelope, book=book)
        assert isinstance(answer, Outcome), answer
        return answer

    def side_by_side(self, envelopes: Sequence[Envelope]) -> list[Answer]:
        """Each envelope sent at once from a thread of its own, past the desk: every one is posted
        by a book of its own, as if each came to another server."""
        answers: list[Answer] = [""] * len(envelopes)
        at_once = threading.Barrier(len(envelopes))

        def send(n: int) -> None:
            book = Book(self.database, self.keyring, self.now)
            at_once.wait()
            [answers[n]] = self.send(envelopes[n], book=book)

        threads = [threading.Thread(target=send, args=[n]) for n in range(len(envelopes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def before_commit(self, envelope: Envelope, then: Callable[[], T]) -> tuple[Answer, T]:
        """What `envelope` is answered and what `then` returns, which begins in another thread when
        the envelope is decided, and not committed before `then` waits for it or is done."""
        written, go_on = threading.Event(), threading.Event()

        def reached(point: str) -> None:
            if point == "written":
                written.set()
                assert go_on.wait(20)

        slow = Book(self.database, self.keyring, self.now, reached)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(self.send, envelope, book=slow)
            assert written.wait(20)
            second = pool.submit(then)
            self.until_it_waits(second)
            go_on.set()
            [answer] = first.result()
            return answer, second.result()

    def until_it_waits(self, running: Future[Any]) -> None:
        until_it_waits(self.database, running)

    def _answer(self, text: str, answer: Decided | Problem) -> Answer:
        if isinstance(answer, Problem):
            return answer.code
        found = outcome.read_any(answer.jws, keys=self.keyring.keys.keys)
        assert found.record_sha256 == jws.digest_of(text)
        return found

    def read(self, envelope: Mapping[str, Any] | Record) -> Record:
        """The record in an envelope."""
        if isinstance(envelope, Record):
            return envelope
        [command] = self.commands([envelope])
        assert isinstance(command, Command)
        return command.record

    # ── looking ────────────────────────────────────────────────────────────────────────────────

    def balance(self, voucher: str) -> tuple[int, int, int]:
        """(available_minor, saved_minor, available_quantity) as the voucher's row says."""
        table = schema.vouchers.c
        with self.database.read() as connection:
            row = connection.execute(
                select(table.available_minor, table.saved_minor, table.available_quantity).where(
                    table.voucher == voucher
                )
            ).one()
        return (row[0], row[1], row[2])

    def tables(self, names: Collection[str] = ()) -> dict[str, list[dict[str, Any]]]:
        """Every row of every table, or of those named."""
        with self.database.read() as connection:
            return {
                table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
                for table in schema.metadata.sorted_tables
                if not names or table.name in names
            }

    def counts(self) -> dict[str, int]:
        """How many rows each table has; tables without any are left out."""
        return {name: len(rows) for name, rows in self.tables().items() if rows}

    def differences(self) -> tuple[str, ...]:
        return self.office.programme_sums(PROGRAMME).differences


@contextmanager
def open_rig(url: str, folder: Path, *, settled: bool = True) -> Iterator[Rig]:
    """A ledger with its tables made and, if `settled`, a programme in it."""
    database = Database(url, pool_size=20)
    try:
        migrate(database)
        keyring = Keyring.create(folder / "keys")
        now = SetClock()
        intake = Intake(database, AUDIENCE, now, keyring.evidence)
        book = Book(database, keyring, now)

        def random_bytes(count: int) -> bytes:
            return rig.random_bytes(count)

        rig = Rig(
            database,
            keyring,
            now,
            SigningKey.generate(),
            Issuers(database, now),
            Programmes(database),
            Office(database, now, random_bytes),
            Terminals(database, keyring, now, AUDIENCE),
            intake,
            book,
        )
        if settled:
            rig.settle_in()
        yield rig
    finally:
        database.close()
