"""Bulk issue: rows of a county's list become beneficiaries and vouchers, each ref once.

A chunk is one transaction under the programme's row lock: what is `unreserved` is looked at before
anything is written, and the column's CHECK stands behind it (issued ≤ funded). A row is known by
its `ref`, a keyed hash; a name or an ID number has no place to stand in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Self

from sqlalchemy import Connection, delete, insert, select, tuple_, update

from carepos import clock, ids, money, strict_json
from carepos.basket import MAX_QUANTITY
from carepos.errors import Malformed
from carepos.ids import RandomBytes
from carepos.keys import b64, digest
from carepos.voucher import Terms, VoucherKind, categories, voucher_kind
from carepos_ledger import accounts, schema
from carepos_ledger.book import entry_rows, newest_list_version, read_product_list
from carepos_ledger.problems import Problem
from carepos_ledger.programmes import locked_programme

MAX_ROWS: Final = 500

Issued = Literal["issued", "already_issued", "already_issued_differently"]

_ALWAYS = {"ref", "kind", "label", "categories", "starts_at", "expires_at"}


@dataclass(frozen=True, slots=True)
class IssueRow:
    """One voucher to issue: `amount_minor` for a value voucher, else `quantity` under `terms`."""

    ref: str
    kind: VoucherKind
    label: str
    categories: frozenset[str]
    starts_at: datetime
    expires_at: datetime
    amount_minor: int
    quantity: int
    terms: Terms | None

    @classmethod
    def from_json(cls, value: object, where: str = "row") -> Self:
        """Raises Malformed, also for what could never be redeemed in full (protocol §7, §14)."""
        if not isinstance(value, Mapping):
            raise Malformed("must be an object", field=where)
        kind = voucher_kind(value.get("kind"), f"{where}.kind")
        worth = {"amount_minor"} if kind == "value" else {"quantity", "terms"}
        names = strict_json.exact_names(value, _ALWAYS | worth, where=where)
        amount_minor, quantity, terms = 0, 0, None
        if kind == "value":
            amount_minor = strict_json.integer(
                names["amount_minor"],
                f"{where}.amount_minor",
                low=1,
                high=money.MAX_AMOUNT_MINOR,
            )
        else:
            quantity = strict_json.integer(
                names["quantity"], f"{where}.quantity", low=1, high=MAX_QUANTITY
            )
            terms = _terms(names["terms"], kind, quantity, where)
        row = cls(
            # The keyed hash and nothing else: an ID number would not fit here.
            ids.digest_text(names["ref"], f"{where}.ref"),
            kind,
            strict_json.text(names["label"], f"{where}.label", low=0, high=60),
            categories(names["categories"], f"{where}.categories"),
            clock.from_text(names["starts_at"], f"{where}.starts_at"),
            clock.from_text(names["expires_at"], f"{where}.expires_at"),
            amount_minor,
            quantity,
            terms,
        )
        if row.starts_at >= row.expires_at:
            raise Malformed("must be after starts_at", field=f"{where}.expires_at")
        return row

    @property
    def reserved_minor(self) -> int:
        """What issuing it takes from the programme's unreserved money."""
        return self.amount_minor if self.terms is None else self.terms.reserve(self.quantity)

    @property
    def terms_sha256(self) -> str:
        """Says whether a ref issued before was issued just like this."""
        return digest(
            strict_json.canonical(
                {
                    "kind": self.kind,
                    "label": self.label,
                    "categories": sorted(self.categories),
                    "starts_at": clock.to_text(self.starts_at),
                    "expires_at": clock.to_text(self.expires_at),
                    "amount_minor": self.amount_minor,
                    "quantity": self.quantity,
                    "terms": None if self.terms is None else self.terms.to_json(),
                }
            )
        )


def _terms(value: object, kind: VoucherKind, quantity: int, where: str) -> Terms:
    terms = Terms.from_json(value, f"{where}.terms")
    if (kind == "fixed_price") != (terms.fixed_minor > 0):
        raise Malformed("only a fixed-price voucher has a fixed price", field=f"{where}.terms")
    if terms.portion(quantity) != quantity:
        raise Malformed("must be whole portions of cap_quantity", field=f"{where}.quantity")
    if not 1 <= terms.reserve(quantity) <= money.MAX_AMOUNT_MINOR:
        raise Malformed("can cost nothing, or more than any amount", field=f"{where}.quantity")
    return terms


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """`sub` is told for every row issued like this, now or before: enrolment.csv can be written
    again. Not for a row issued differently, which somebody has to look at, nor for a person who
    was erased since."""

    ref: str
    result: Issued
    iss: str | None
    sub: str | None = field(repr=False)

    def to_json(self) -> dict[str, object]:
        return {"ref": self.ref, "result": self.result, "iss": self.iss, "sub": self.sub}


@dataclass(frozen=True, slots=True)
class _Person:
    """A beneficiary: the ledger's names, and the issuer's `sub`."""

    bucket: int
    beneficiary: str
    sub: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Earlier:
    terms_sha256: str
    iss: str | None
    sub: str | None = field(repr=False)


def issue(
    connection: Connection,
    programme: str,
    import_key_id: str,
    rows: Sequence[IssueRow],
    *,
    now: datetime,
    random_bytes: RandomBytes,
) -> list[RowAnswer]:
    """One chunk inside one transaction, an answer per row in order.

    Raises Problem `not_found`, `already_exists_differently` (another import key) or `not_funded`,
    and Malformed for a category that the product list doesn't have; then nothing was written.
    """
    held = locked_programme(connection, programme)
    if held.import_key_id not in (None, import_key_id):
        raise Problem(
            "already_exists_differently",
            "this programme was issued with another import key; with a new one every household "
            "would be issued again. Use the first one, or its backup",
            field="import_key_id",
        )
    if held.list_forgotten_at is not None:
        raise Problem(
            "list_forgotten",
            "the programme is over and its lists were deleted: every household would be issued "
            "again. Make a new programme",
            field="programme",
        )
    rules = json.loads(held.rules)
    _refuse_unknown_categories(connection, rules["product_list"], rows)
    refs = sorted({row.ref for row in rows})
    known = _issued_before(connection, programme, refs)
    people = _enrolled(connection, rules["issuer"], import_key_id, refs)
    answers: list[RowAnswer] = []
    chunk = _Chunk(programme, held.currency, rules["issuer"], import_key_id, clock.to_text(now))
    reserved_minor = 0
    for row in rows:
        earlier = known.get(row.ref)
        if earlier is None:
            sub = chunk.add(row, people.get(row.ref), random_bytes)
            known[row.ref] = _Earlier(row.terms_sha256, chunk.iss, sub)
            reserved_minor += row.reserved_minor
            answers.append(RowAnswer(row.ref, "issued", chunk.iss, sub))
        elif earlier.terms_sha256 == row.terms_sha256:
            answers.append(RowAnswer(row.ref, "already_issued", earlier.iss, earlier.sub))
        else:
            answers.append(RowAnswer(row.ref, "already_issued_differently", None, None))
    if reserved_minor > held.unreserved_minor:
        raise Problem(
            "not_funded",
            f"{money.format_amount(reserved_minor, held.currency)} {held.currency} are needed, "
            f"{money.format_amount(held.unreserved_minor, held.currency)} are not reserved; "
            "nothing of these rows was issued",
            extra={
                "needed_minor": reserved_minor,
                "unreserved_minor": held.unreserved_minor,
                "currency": held.currency,
            },
        )
    if reserved_minor:
        table = schema.programmes
        connection.execute(
            update(table)
            .where(table.c.programme == programme)
            .values(
                unreserved_minor=table.c.unreserved_minor - reserved_minor,
                import_key_id=import_key_id,
            )
        )
        chunk.write(connection)
    return answers


def issue_posting(programme: str, ref: str) -> str:
    """The name of the posting that issued a row, until its person is erased."""
    return digest(f"carepos/issue/v1|{programme}|{ref}".encode("ascii"))


class _Chunk:
    """The rows of every table for the vouchers of one chunk that are new."""

    def __init__(
        self, programme: str, currency: str, iss: str, import_key_id: str, recorded_at: str
    ) -> None:
        self.iss = iss
        self._import_key_id = import_key_id
        self._programme = programme
        self._currency = currency
        self._recorded_at = recorded_at
        self._beneficiaries: list[dict[str, Any]] = []
        self._enrolments: list[dict[str, Any]] = []
        self._vouchers: list[dict[str, Any]] = []
        self._issues: list[dict[str, Any]] = []
        self._postings: list[dict[str, Any]] = []
        self._entries: list[dict[str, Any]] = []

    def add(self, row: IssueRow, person: _Person | None, random_bytes: RandomBytes) -> str:
        """A voucher for `person`, or for a new beneficiary; their `sub`. All names are random:
        none can be told from a ref or from each other."""
        person = person or self._new_person(row.ref, random_bytes)
        bucket, beneficiary, voucher = person.bucket, person.beneficiary, b64(random_bytes(16))
        self._vouchers.append(
            {
                "bucket": bucket,
                "voucher": voucher,
                "beneficiary": beneficiary,
                "programme": self._programme,
                "kind": row.kind,
                "label": row.label,
                "categories": json.dumps(sorted(row.categories)),
                "starts_at": clock.to_text(row.starts_at),
                "expires_at": clock.to_text(row.expires_at),
                "frozen": 0,
                "terms": None if row.terms is None else json.dumps(row.terms.to_json()),
                "available_minor": row.reserved_minor,
                "saved_minor": 0,
                "available_quantity": row.quantity,
            }
        )
        self._issues.append(
            {
                "programme": self._programme,
                "ref": row.ref,
                "bucket": bucket,
                "voucher": voucher,
                "terms_sha256": row.terms_sha256,
            }
        )
        posting = issue_posting(self._programme, row.ref)
        self._postings.append(
            {
                "bucket": bucket,
                "posting": posting,
                "kind": "issue",
                "programme": self._programme,
                "recorded_at": self._recorded_at,
            }
        )
        legs = accounts.issue(
            voucher, self._programme, self._currency, row.amount_minor, row.quantity, row.terms
        )
        self._entries += entry_rows(bucket, posting, self._programme, legs)
        return person.sub

    def _new_person(self, ref: str, random_bytes: RandomBytes) -> _Person:
        bucket = int.from_bytes(random_bytes(2), "big") >> 4
        person = _Person(bucket, b64(random_bytes(16)), b64(random_bytes(16)))
        self._beneficiaries.append(
            {
                "bucket": bucket,
                "beneficiary": person.beneficiary,
                "iss": self.iss,
                "sub": person.sub,
            }
        )
        self._enrolments.append(
            {
                "iss": self.iss,
                "import_key_id": self._import_key_id,
                "ref": ref,
                "bucket": bucket,
                "beneficiary": person.beneficiary,
            }
        )
        return person

    def write(self, connection: Connection) -> None:
        if self._beneficiaries:
            connection.execute(insert(schema.beneficiaries), self._beneficiaries)
            # In one order: two programmes may enrol the same people at once, and each would else
            # wait for a row of the other's.
            enrolments = sorted(self._enrolments, key=lambda row: str(row["ref"]))
            connection.execute(insert(schema.enrolments), enrolments)
        connection.execute(insert(schema.vouchers), self._vouchers)
        connection.execute(insert(schema.issues), self._issues)
        connection.execute(insert(schema.postings), self._postings)
        connection.execute(insert(schema.entries), self._entries)


def _refuse_unknown_categories(
    connection: Connection, product_list: str, rows: Sequence[IssueRow]
) -> None:
    """A voucher for a misspelt category would look fine and pay for nothing."""
    version = newest_list_version(connection, product_list)
    there = read_product_list(connection, product_list, version).categories
    for n, row in enumerate(rows, 1):
        if not row.categories <= there:
            raise Malformed(
                "names a category that the programme's product list doesn't have",
                field=f"rows[{n}].categories",
            )


def _enrolled(
    connection: Connection, iss: str, import_key_id: str, refs: Sequence[str]
) -> dict[str, _Person]:
    """Who is known already, from whichever programme: a person has one `sub` at an issuer."""
    table, people = schema.enrolments.c, schema.beneficiaries.c
    query = (
        select(table.ref, table.bucket, table.beneficiary, people.sub)
        .outerjoin(
            schema.beneficiaries,
            tuple_(people.bucket, people.beneficiary) == tuple_(table.bucket, table.beneficiary),
        )
        .where(table.iss == iss, table.import_key_id == import_key_id, table.ref.in_(refs))
    )
    rows = connection.execute(query).all()
    # An erased person's enrolment leads nowhere and would stand in a new one's way. Named by its
    # beneficiary too: another transaction may have put the new one there by now.
    if erased := [(row.ref, row.beneficiary) for row in rows if row.sub is None]:
        connection.execute(
            delete(schema.enrolments).where(
                table.iss == iss,
                table.import_key_id == import_key_id,
                tuple_(table.ref, table.beneficiary).in_(erased),
            )
        )
    return {
        row.ref: _Person(row.bucket, row.beneficiary, row.sub)
        for row in rows
        if row.sub is not None
    }


def _issued_before(
    connection: Connection, programme: str, refs: Sequence[str]
) -> dict[str, _Earlier]:
    """What each ref was issued as; without its `sub` once the person was erased, and then the
    row names no voucher either."""
    issues, vouchers, people = schema.issues.c, schema.vouchers.c, schema.beneficiaries.c
    query = (
        select(issues.ref, issues.terms_sha256, people.iss, people.sub)
        .outerjoin(
            schema.vouchers,
            tuple_(vouchers.bucket, vouchers.voucher) == tuple_(issues.bucket, issues.voucher),
        )
        .outerjoin(
            schema.beneficiaries,
            tuple_(people.bucket, people.beneficiary)
            == tuple_(vouchers.bucket, vouchers.beneficiary),
        )
        .where(issues.programme == programme, issues.ref.in_(refs))
    )
    return {
        row.ref: _Earlier(row.terms_sha256, row.iss, row.sub) for row in connection.execute(query)
    }
