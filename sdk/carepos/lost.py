"""What proves that a ledger lost data, and what a till still has to offer (docs/offline.md §12).

Pure: the form of `POST /v1/heal`, which till and ledger share. An outcome under the ledger's own
signature that the ledger does not hold is the proof.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from carepos import clock, enrolment, jws, outcome, record, strict_json
from carepos.errors import Malformed, SignatureInvalid
from carepos.keys import Keys, PublicKey
from carepos.ledger_keys import LedgerKeys
from carepos.outcome import Outcome
from carepos.record import Record

MAX_CERTIFICATES: Final = 40
MAX_RANGES: Final = 200
MAX_LINES: Final = 20
"""Records of one number that an answer tells of at most: as many copies of a till as nobody has."""

Range = tuple[int, int]
"""(from, to), both of them in it."""


@dataclass(frozen=True, slots=True)
class Certified:
    """One key of a terminal, by the ledger's word of `issued_at`; and whose terminal it is."""

    key: PublicKey
    terminal: str
    terminal_no: int
    merchant: str
    store: str
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class Evidence:
    """A record and the ledger's final answer to it."""

    record: Record
    outcome: Outcome


def read_certificates(offered: object, ledger: LedgerKeys) -> list[Certified]:
    """Every key that a terminal had, oldest first: all of one terminal, signed by this ledger.

    Raises Malformed, SignatureInvalid.
    """
    where = "certificates"
    found: list[Certified] = []
    for each in strict_json.array(offered, where, low=1, high=MAX_CERTIFICATES):
        names = strict_json.exact_names(each, {"key", "certificate"}, where=where)
        key = PublicKey.from_jwk(names["key"])
        told = enrolment.read_certificate(names["certificate"], "", ledger, [key], ledger.keys)
        said = jws.verify(told.certificate, typ=jws.CERTIFICATE, keys=ledger.keys).payload
        found.append(
            Certified(
                key,
                told.terminal,
                told.terminal_no,
                told.merchant,
                told.store,
                clock.from_text(said["issued_at"], f"{where}.issued_at"),
            )
        )
    if len({each.terminal for each in found}) > 1:
        raise Malformed("must be of one terminal", field=where)
    return found


def read_evidence(item: object, *, terminal: str, own: Keys, ledger: Keys) -> Evidence:
    """A record of `terminal`, signed by a key that `own` finds, and an outcome that decided it,
    under one of the ledger's keys. Raises Malformed, SignatureInvalid."""
    names = strict_json.exact_names(item, {"record", "outcome"}, where="item")
    written = record.read(names["record"], keys=own)
    if written.terminal != terminal:
        raise SignatureInvalid("the record names another terminal")
    told = outcome.read_bound(names["outcome"], written, keys=ledger)
    if told.result == "held":
        raise Malformed("is not final", field="outcome.result")
    return Evidence(written, told)


def ranges_of(numbers: Iterable[int]) -> list[Range]:
    """The same numbers, in rising order."""
    found: list[Range] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def read_ranges(value: object) -> list[Range]:
    """Raises Malformed unless they rise and do not touch."""
    where, found, last = "held", [], -1
    for each in strict_json.array(value, where, high=MAX_RANGES):
        pair = strict_json.array(each, where, low=2, high=2)
        low, high = (strict_json.integer(number, where, low=1) for number in pair)
        if not last + 1 < low <= high:
            raise Malformed("must rise and not touch", field=where)
        found.append((low, high))
        last = high
    return found


def read_ends(value: object, held: Sequence[Range]) -> list[frozenset[str]]:
    """Of each range the digests of the records that its last number has. Raises Malformed."""
    where = "ends"
    return [
        frozenset(
            strict_json.text(sha256, where, low=43, high=43)
            for sha256 in strict_json.array(each, where, low=1, high=MAX_LINES)
        )
        for each in strict_json.array(value, where, low=len(held), high=len(held))
    ]


def of_others(
    held: Sequence[Range], ends: Sequence[frozenset[str]], own: Mapping[int, str]
) -> frozenset[int]:
    """The places of the ranges in which a ledger tells of another line than this journal's, whose
    records have the digests `own`: a copy of the till counts with the same numbers."""
    return frozenset(
        place
        for place, ((_, last), told) in enumerate(zip(held, ends, strict=True))
        if own.get(last) not in told
    )


def to_offer(
    answered: Iterable[int],
    held: Sequence[Range],
    *,
    more: bool,
    others: Container[int] = frozenset(),
) -> list[int]:
    """Which of the numbers that have an outcome here a ledger lacks that holds `held`.

    `more`: there are others behind the last range, of which nothing is known yet. `others`: which
    of the ranges say nothing of this journal (`of_others`).
    """
    end = held[-1][1] if more and held else None
    lacking, place = [], 0
    for number in sorted(set(answered)):
        if end is not None and number > end:
            break
        while place < len(held) and held[place][1] < number:
            place += 1
        if place == len(held) or number < held[place][0] or place in others:
            lacking.append(number)
    return lacking


def in_order(each: Any) -> tuple[datetime, str, int]:
    """What evidence is sorted by: when it was decided, whose it is, its number."""
    return each.recorded_at, each.terminal, each.sequence
