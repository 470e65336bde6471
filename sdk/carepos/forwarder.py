"""Store and forward: what waits in the journal goes up in sequence order, an outcome each.

A batch that is cut anywhere is sent again whole; that is harmless, for each record is decided once.
What belongs together (a sale accepted offline and its acceptance) travels in one request. One that
is not decided keeps nothing else back; the ledger says itself what must wait for what.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from carepos import strict_json, upload_file
from carepos.client import Client
from carepos.errors import NotDecided, NotWritten, Unreachable
from carepos.record import Record

MAX_ITEMS: Final = 200
MAX_BODY_BYTES: Final = 1_900_000
"""A request may have 500 items and 2 MiB (docs/protocol.md §9); a slow line has 8 seconds."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Records that travel together, as their envelopes.

    `opened` takes their results and says why one is not decided, else None; `missed` is told why
    no answer came.
    """

    records: tuple[Record, ...]
    envelopes: tuple[Mapping[str, Any], ...]
    opened: Callable[[Sequence[Mapping[str, Any]]], str | None]
    missed: Callable[[str], None] = lambda problem: None

    @property
    def sequence(self) -> int:
        """The number of its first record, by which parcels are sorted."""
        return self.records[0].sequence


class Forwarder:
    """One till's. `reached` names crash points; safe to call from several threads."""

    def __init__(self, client: Client, *, reached: Callable[[str], None]) -> None:
        self._client = client
        self._reached = reached
        # Two at once would send the same records and both apply the answers.
        self._sending = threading.Lock()

    def forward(self, waiting: Callable[[], Iterable[Parcel]]) -> dict[int, str]:
        """Send what waits, in order; by number of a parcel, why it is not decided.

        `waiting` is asked once nothing else is being sent. After the first batch without an answer
        nothing more is sent.
        """
        with self._sending:
            problems: dict[int, str] = {}
            batches = batched(sorted(waiting(), key=lambda each: each.sequence))
            for batch in batches:
                self._reached("before_send")
                try:
                    results = self._client.send([e for each in batch for e in each.envelopes])
                except (Unreachable, NotDecided) as error:
                    for rest in (batch, *batches):
                        for parcel in rest:
                            with suppress(NotWritten):
                                parcel.missed(str(error))
                            problems[parcel.sequence] = str(error)
                    break
                for parcel in batch:
                    own, results = results[: len(parcel.records)], results[len(parcel.records) :]
                    try:
                        problem = parcel.opened(own)
                    except NotWritten as error:
                        problem = str(error)  # it is asked for again
                    if problem is not None:
                        problems[parcel.sequence] = problem
            return problems

    def take(
        self, waiting: Callable[[], Iterable[Parcel]], answers: Answers
    ) -> dict[int, str | None]:
        """As if `answers` had just come over the network, for the parcels that they answer whole;
        by number of each of them why it is not decided, else None."""
        with self._sending:
            taken: dict[int, str | None] = {}
            for parcel in sorted(waiting(), key=lambda each: each.sequence):
                results = [answers.of(each) for each in parcel.records]
                own = [each for each in results if each is not None]
                if len(own) == len(parcel.records):
                    taken[parcel.sequence] = parcel.opened(own)
            return taken


class Answers:
    """Outcomes that were carried here by hand, by the record that each says it answers."""

    def __init__(self, found: Iterable[Mapping[str, Any]]) -> None:
        self._by_digest: dict[str, Mapping[str, Any]] = {}
        for each in found:
            digest = upload_file.answered_digest(each)
            if digest is not None:
                self._by_digest[digest] = each

    def of(self, record: Record) -> Mapping[str, Any] | None:
        """Unverified: for `outcome.read_result`."""
        return self._by_digest.get(record.digest)


class Packed(Protocol):
    """Envelopes that travel together."""

    @property
    def envelopes(self) -> Sequence[Mapping[str, Any]]: ...


P = TypeVar("P", bound=Packed)


def batched(parcels: Iterable[P]) -> Iterator[list[P]]:
    """Parcels in requests of at most `MAX_ITEMS` records and `MAX_BODY_BYTES`."""
    batch: list[P] = []
    items = length = 0
    for parcel in parcels:
        more = sum(len(strict_json.canonical(each)) + 1 for each in parcel.envelopes)
        if batch and (items + len(parcel.envelopes) > MAX_ITEMS or length + more > MAX_BODY_BYTES):
            yield batch
            batch, items, length = [], 0, 0
        batch.append(parcel)
        items, length = items + len(parcel.envelopes), length + more
    if batch:
        yield batch
