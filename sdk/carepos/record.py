"""The one signed record: a terminal's command, its chain, and what may stand in it.

docs/protocol.md §4. The bytes made here are the bytes sent online and the bytes uploaded days
later; the ledger reads them with the same `read`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, cast

from carepos import clock, ids, jws, money, strict_json
from carepos.acceptance import AcceptOffline, ReturnAllotment
from carepos.basket import MAX_ENTRIES, Entry, Line, allocation_from_json, lines_from_json
from carepos.errors import Malformed
from carepos.keys import Keys, KeySet, PublicKey, SigningKey, b64, digest
from carepos.undo import Refund, Void

Kind = Literal[
    "start",
    "redeem",
    "reversal",
    "accept_offline",
    "void",
    "refund",
    "return_allotment",
    "day_report",
    "key_change",
]
ReversalReason = Literal["not_found", "cancelled", "goods_kept"]

PLAIN: Final[tuple[Kind, ...]] = ("start", "day_report", "key_change")
"""Kinds that are no beneficiary's: their id is their own, in the terminal's bucket."""

ALONE: Final[tuple[Kind, ...]] = (*PLAIN, "return_allotment")
"""Kinds that are no sale's and change none."""

_KIND = re.compile(r"[a-z_]{1,30}")

_NAMES = frozenset(
    {"v", "kind", "id", "terminal", "incarnation", "sequence", "prev", "occurred_at", "content"}
)


@dataclass(frozen=True, slots=True)
class Redeem:
    """Content of a `redeem`: the allocation the beneficiary accepted, and what it was for."""

    checkout: str
    cashier: str
    programme: str
    rules_version: int
    currency: str
    beneficiary: str
    token_sha256: str
    basket: tuple[Line, ...]
    allocation: tuple[Entry, ...]
    presentment: str = "online"

    @property
    def programme_minor(self) -> int:
        return sum(entry.programme_minor for entry in self.allocation)

    def to_json(self) -> dict[str, object]:
        return {
            "checkout": self.checkout,
            "cashier": self.cashier,
            "presentment": self.presentment,
            "programme": self.programme,
            "rules_version": self.rules_version,
            "currency": self.currency,
            "beneficiary": self.beneficiary,
            "token_sha256": self.token_sha256,
            "basket": [line.to_json() for line in self.basket],
            "allocation": [entry.to_json() for entry in self.allocation],
        }

    @classmethod
    def from_json(cls, value: object) -> Redeem:
        names = strict_json.exact_names(value, cls.__dataclass_fields__.keys(), where="content")
        if names["presentment"] != "online":
            raise Malformed("must be online", field="content.presentment")
        basket = lines_from_json(names["basket"], "content.basket")
        if any("description" in line for line in names["basket"]):
            raise Malformed("no descriptions in a record", field="content.basket")
        redeem = cls(
            ids.label(names["checkout"], "content.checkout"),
            ids.label(names["cashier"], "content.cashier"),
            ids.name(names["programme"], "content.programme"),
            strict_json.integer(names["rules_version"], "content.rules_version", low=1),
            money.currency(names["currency"], "content.currency"),
            ids.reference(names["beneficiary"], "content.beneficiary"),
            ids.digest_text(names["token_sha256"], "content.token_sha256"),
            basket,
            allocation_from_json(names["allocation"], len(basket), "content.allocation"),
        )
        if redeem.programme_minor > money.MAX_AMOUNT_MINOR:
            # No outcome and no line of a settlement file could say it.
            raise Malformed("comes to more than one redemption may", field="content.allocation")
        return redeem


@dataclass(frozen=True, slots=True)
class Reversal:
    """Content of a `reversal`: which redeem record it undoes, and why."""

    record_sha256: str
    reason: ReversalReason

    def to_json(self) -> dict[str, object]:
        return {"record_sha256": self.record_sha256, "reason": self.reason}

    @classmethod
    def from_json(cls, value: object) -> Reversal:
        names = strict_json.exact_names(value, {"record_sha256", "reason"}, where="content")
        if names["reason"] not in ("not_found", "cancelled", "goods_kept"):
            raise Malformed("must be not_found, cancelled or goods_kept", field="content.reason")
        return cls(
            ids.digest_text(names["record_sha256"], "content.record_sha256"),
            cast(ReversalReason, names["reason"]),
        )


@dataclass(frozen=True, slots=True)
class Start:
    """Content of a `start`: which software began to write here."""

    software: str

    def to_json(self) -> dict[str, object]:
        return {"software": self.software}

    @classmethod
    def from_json(cls, value: object) -> Start:
        names = strict_json.exact_names(value, {"software"}, where="content")
        return cls(strict_json.text(names["software"], "content.software", high=60))


@dataclass(frozen=True, slots=True)
class DaySum:
    """What one programme's confirmed redemptions of the day come to."""

    programme: str
    currency: str
    count: int
    amount_minor: int

    def to_json(self) -> dict[str, object]:
        return {
            "programme": self.programme,
            "currency": self.currency,
            "count": self.count,
            "amount_minor": self.amount_minor,
        }

    @classmethod
    def from_json(cls, value: object, where: str) -> DaySum:
        names = strict_json.exact_names(
            value, {"programme", "currency", "count", "amount_minor"}, where=where
        )
        return cls(
            ids.name(names["programme"], f"{where}.programme"),
            money.currency(names["currency"], f"{where}.currency"),
            strict_json.integer(names["count"], f"{where}.count"),
            strict_json.integer(names["amount_minor"], f"{where}.amount_minor"),
        )


@dataclass(frozen=True, slots=True)
class DayReport:
    """Content of a `day_report` (the till's Z): a range of numbers, counts and sums.

    `undone`: what voids and refunds of this till gave back; left out where there were none.
    """

    z_no: int
    business_date: str
    from_sequence: int
    to_sequence: int
    confirmed: int
    refused: int
    reversed: int
    open: int
    sums: tuple[DaySum, ...]
    undone: tuple[DaySum, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {
            "z_no": self.z_no,
            "business_date": self.business_date,
            "from_sequence": self.from_sequence,
            "to_sequence": self.to_sequence,
            "confirmed": self.confirmed,
            "refused": self.refused,
            "reversed": self.reversed,
            "open": self.open,
            "sums": [each.to_json() for each in self.sums],
            **({"undone": [each.to_json() for each in self.undone]} if self.undone else {}),
        }

    @classmethod
    def from_json(cls, value: object) -> DayReport:
        names = strict_json.names_within(
            value,
            required=cls.__dataclass_fields__.keys() - {"undone"},
            optional={"undone"},
            where="content",
        )

        def count(name: str, low: int = 0) -> int:
            return strict_json.integer(names[name], f"content.{name}", low=low)

        day = strict_json.text(names["business_date"], "content.business_date", low=10, high=10)
        clock.from_text(f"{day}T00:00:00.000Z", "content.business_date")
        sums = strict_json.array(names["sums"], "content.sums", high=50)
        undone = []
        if "undone" in names:
            undone = strict_json.array(names["undone"], "content.undone", low=1, high=50)
        report = cls(
            count("z_no", 1),
            day,
            count("from_sequence", 1),
            count("to_sequence", 0),
            count("confirmed"),
            count("refused"),
            count("reversed"),
            count("open"),
            tuple(DaySum.from_json(s, f"content.sums[{n}]") for n, s in enumerate(sums, 1)),
            tuple(DaySum.from_json(s, f"content.undone[{n}]") for n, s in enumerate(undone, 1)),
        )
        if report.to_sequence < report.from_sequence - 1:
            raise Malformed("must not be before from_sequence", field="content.to_sequence")
        return report


@dataclass(frozen=True, slots=True)
class KeyChange:
    """Content of a `key_change`: the key that will sign, and its word that it is held here.

    The record is signed by the key in use; `proof` (`carepos-proof+jws`) by the new one, over
    `{"v":1,"terminal","incarnation","sequence"}` of this very record (docs/identity.md §11).
    """

    key: PublicKey
    proof: str

    @classmethod
    def make(cls, key: SigningKey, *, terminal: str, incarnation: str, sequence: int) -> KeyChange:
        """The content of the record at this place that announces `key`."""
        said = {"v": 1, "terminal": terminal, "incarnation": incarnation, "sequence": sequence}
        return cls(key.public, jws.sign(said, typ=jws.PROOF, key=key))

    def to_json(self) -> dict[str, object]:
        return {"key": self.key.to_jwk(), "proof": self.proof}

    @classmethod
    def from_json(cls, value: object) -> KeyChange:
        if isinstance(value, dict) and value.keys() != {"key", "proof"}:
            # What a later version may have instead; the frozen vectors hold one without either.
            raise Malformed("not of a version known here", field="content", code="unsupported_kind")
        names = strict_json.exact_names(value, {"key", "proof"}, where="content")
        return cls(
            PublicKey.from_jwk(names["key"]),
            strict_json.text(names["proof"], "content.proof", high=jws.MAX_JWS_BYTES),
        )

    def check(self, *, signer: str, terminal: str, incarnation: str, sequence: int) -> None:
        """Raises Malformed unless the new key proved itself about the record at this place, and is
        another than the `signer` (a kid)."""
        if self.key.kid == signer:
            raise Malformed("is the key that signs already", field="content.key")
        try:
            said = jws.verify(self.proof, typ=jws.PROOF, keys=KeySet([self.key])).payload
        except Malformed:
            raise Malformed("is not the new key's proof", field="content.proof") from None
        names = strict_json.exact_names(
            said, {"v", "terminal", "incarnation", "sequence"}, where="content.proof"
        )
        if strict_json.integer(names["v"], "content.proof.v") != 1:
            raise Malformed("must be 1", field="content.proof.v")
        place = (
            names["terminal"],
            names["incarnation"],
            strict_json.integer(names["sequence"], "content.proof.sequence"),
        )
        if place != (terminal, incarnation, sequence):
            raise Malformed("is about another record", field="content.proof")


Content = (
    Redeem
    | Reversal
    | AcceptOffline
    | Void
    | Refund
    | ReturnAllotment
    | Start
    | DayReport
    | KeyChange
)

_CONTENTS: Mapping[str, Callable[[object], Content]] = {
    "start": Start.from_json,
    "redeem": Redeem.from_json,
    "reversal": Reversal.from_json,
    "accept_offline": AcceptOffline.from_json,
    "return_allotment": ReturnAllotment.from_json,
    "void": Void.from_json,
    "refund": Refund.from_json,
    "day_report": DayReport.from_json,
    "key_change": KeyChange.from_json,
}


@dataclass(frozen=True, slots=True)
class Record:
    """A verified record: its text and digest, and what it says."""

    jws: str
    digest: str
    kid: str
    kind: Kind
    id: str
    terminal: str
    incarnation: str
    sequence: int
    prev: str
    occurred_at: datetime
    content: Content

    @property
    def bucket(self) -> int:
        return ids.bucket_of(self.id)

    @property
    def redeem(self) -> Redeem:
        """The content of a `redeem`; calling it on another kind is a programming error."""
        assert isinstance(self.content, Redeem)
        return self.content

    @property
    def content_sha256(self) -> str | None:
        """What a redemption means (INV-1): terminal, programme, beneficiary, allocation, currency;
        of a void or refund what it undoes.

        None for other kinds.
        """
        match self.content:
            case Redeem() as redeem:
                meaning: dict[str, object] = {
                    "allocation": [entry.to_json() for entry in redeem.allocation],
                    "beneficiary": redeem.beneficiary,
                    "currency": redeem.currency,
                    "programme": redeem.programme,
                }
            case Void() | Refund() | ReturnAllotment() as own:
                meaning = {"kind": self.kind, **own.meaning()}
            case _:
                return None
        return digest(strict_json.canonical({**meaning, "terminal": self.terminal}))


def first_prev(incarnation: str) -> str:
    """`prev` of an incarnation's first record (docs/protocol.md §4)."""
    return b64(hashlib.sha256(f"carepos/incarnation/v1|{incarnation}".encode("ascii")).digest())


def make(
    content: Content,
    *,
    attempt_id: str,
    terminal: str,
    incarnation: str,
    sequence: int,
    prev: str,
    occurred_at: datetime,
    key: SigningKey,
) -> Record:
    """A new record, signed. Raises Malformed, code basket_too_large when it would be over 16 KiB
    as it travels or has more entries than a record may."""
    payload = {
        "v": 1,
        "kind": kind_of(content),
        "id": attempt_id,
        "terminal": terminal,
        "incarnation": incarnation,
        "sequence": sequence,
        "prev": prev,
        "occurred_at": clock.to_text(occurred_at),
        "content": content.to_json(),
    }
    too_large = Malformed("the basket is too large", code="basket_too_large")
    if isinstance(content, Redeem) and len(content.allocation) > MAX_ENTRIES:
        raise too_large
    try:
        text = jws.sign(payload, typ=jws.RECORD, key=key)
    except Malformed as error:
        if isinstance(content, Redeem):
            raise too_large from error
        raise
    if len(text) > jws.MAX_JWS_BYTES:
        raise too_large
    # Read back what was written: a record the ledger would call malformed never leaves here.
    return read(text, keys=KeySet([key.public]))


def kind_of(content: Content) -> Kind:
    match content:
        case Redeem():
            return "redeem"
        case Reversal():
            return "reversal"
        case AcceptOffline():
            return "accept_offline"
        case ReturnAllotment():
            return "return_allotment"
        case Void():
            return "void"
        case Refund():
            return "refund"
        case Start():
            return "start"
        case DayReport():
            return "day_report"
        case KeyChange():
            return "key_change"


def read(text: object, *, keys: Keys) -> Record:
    """The record that `text` spells, signature and form checked.

    `keys` finds the terminal's key by kid. Raises Malformed (code unsupported_kind for a kind that
    a later version defines) and SignatureInvalid. That the key is the terminal's is for the caller.
    """
    signed = jws.verify(text, typ=jws.RECORD, keys=keys)
    return _parse(signed)


def vouched_for(text: object, *, sha256: str) -> Record:
    """The record whose digest somebody believed has signed: of a terminal whose keys are not known
    here. Raises Malformed also when it is another one."""
    return _parse(jws.identified(text, typ=jws.RECORD, sha256=sha256))


def _parse(signed: jws.Signed) -> Record:
    names = strict_json.exact_names(signed.payload, _NAMES, where="record")
    if strict_json.integer(names["v"], "v") != 1:
        raise Malformed("must be 1", field="v")
    kind = names["kind"]
    if not isinstance(kind, str) or _KIND.fullmatch(kind) is None:
        raise Malformed("must be lower-case letters and underscores", field="kind")
    if kind not in _CONTENTS:
        # A newer till must not take its record for broken: it is only not understood here.
        raise Malformed("not known here yet", field="kind", code="unsupported_kind")
    an_id = ids.attempt_id(names["id"])
    terminal = ids.name(names["terminal"], "terminal")
    content = _CONTENTS[kind](names["content"])
    if kind in PLAIN and ids.bucket_of(an_id) != ids.terminal_bucket(terminal):
        raise Malformed("the id's bucket is not the terminal's", field="id")
    if isinstance(content, Void | Refund):
        _check_original(content, an_id, terminal)
    incarnation = ids.incarnation(names["incarnation"], "incarnation")
    sequence = strict_json.integer(names["sequence"], "sequence", low=1)
    if isinstance(content, KeyChange):
        content.check(
            signer=signed.kid, terminal=terminal, incarnation=incarnation, sequence=sequence
        )
    prev = ids.digest_text(names["prev"], "prev")
    if sequence == 1 and prev != first_prev(incarnation):
        raise Malformed("is not what an incarnation begins with", field="prev")
    return Record(
        signed.jws,
        signed.digest,
        signed.kid,
        cast(Kind, kind),
        an_id,
        terminal,
        incarnation,
        sequence,
        prev,
        clock.from_text(names["occurred_at"], "occurred_at"),
        content,
    )


def _check_original(undo: Void | Refund, an_id: str, terminal: str) -> None:
    original = undo.original
    if isinstance(undo, Void) and original.terminal != terminal:
        raise Malformed("only the till that sold may void", field="content.original.terminal")
    if ids.bucket_of(original.id) != ids.bucket_of(an_id):
        raise Malformed("the id's bucket is not the sale's", field="id")
    if original.id == an_id:
        raise Malformed("names itself", field="content.original.id")


def envelope(
    record: Record | str, token: str | None = None, *, evidence: str | None = None
) -> dict[str, Any]:
    """How a record travels (docs/protocol.md §4): with the token while it is in memory, with the
    sealed token after."""
    made: dict[str, Any] = {"record": record if isinstance(record, str) else record.jws}
    if token is not None:
        made["token"] = token
    elif evidence is not None:
        made["evidence"] = evidence
    return made
