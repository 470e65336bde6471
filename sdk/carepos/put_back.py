"""A till that was put back to an older copy of its folder, and what its second disk tells of it.

A record there that the journal lacks, or has otherwise under the same number, is of a line that the
journal has forgotten: the till signed it after the copy was made (docs/offline.md §9). Goods may
have left by it, and what is set aside for the till may be spent in it. So the till gives out
nothing without the ledger until that can do no harm any more. What was found is noted in the
journal, for the disk may be pulled out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from carepos import upload_file
from carepos.errors import Malformed
from carepos.journal import Journal
from carepos.journal_view import JournalView

_NOTE: Final = "put_back"
_EMPTY_KINDS: Final = frozenset({"start", "day_report"})
"""Kinds of record by which nobody gets or loses anything."""


@dataclass(frozen=True, slots=True)
class Lost:
    """One folder of records of a line that the journal has forgotten.

    `sold`: by currency (sales that left without the ledger's word, their minor units). `is_empty`:
    nothing was sold, taken back or asked for in it. `start`: the number of the `start` record that
    the journal wrote last before it was found. `released`: the office let the till sell on.
    """

    folder: str
    records: int
    from_sequence: int
    to_sequence: int
    sold: dict[str, tuple[int, int]]
    is_empty: bool
    start: int
    released: bool = False

    @property
    def named(self) -> tuple[object, ...]:
        """By which it is known again."""
        # Not the whole path: a stick is not always mounted in the same place.
        return Path(self.folder).name, self.records, self.from_sequence, self.to_sequence


def lost(journal: JournalView) -> list[Lost]:
    """All that was found so far, in the order in which it was."""
    noted = json.loads(journal.about().get(_NOTE, "[]"))
    return [
        Lost(**{**each, "sold": {name: tuple(sums) for name, sums in each["sold"].items()}})
        for each in noted
    ]


def holding_back(journal: JournalView) -> list[Lost]:
    """That of it for which the till gives out nothing without the ledger.

    Of an empty line the ledger's word is enough, or the office's; of one with offline sales neither
    is: this journal does not know what of its allotments is spent there, and never will.
    """
    return [each for each in lost(journal) if not _is_over(each, journal)]


def _is_over(found: Lost, journal: JournalView) -> bool:
    # Where the ledger has booked the first word of this line, it has nothing of the other one,
    # which would contradict it.
    return found.released or (found.is_empty and journal.is_decided(found.start))


class PutBack:
    """Notes in one journal what is found. Safe to call from several threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def found(self, folders: Iterable[Path]) -> None:
        """Note what is new in folders of records that are not the journal's. Raises OSError,
        JournalError."""
        known = lost(self._journal)
        seen = {each.named for each in known}
        start = self._journal.newest_start()
        news = [each for folder in folders if (each := _read(folder, start)) is not None]
        if news := [each for each in news if each.named not in seen]:
            self._note([*known, *news])

    def release(self) -> bool:
        """The office has seen it all and lets this till sell on without a network: whether it does.

        It does not where offline sales were lost; then nothing changes. Raises JournalClosed.
        """
        known = lost(self._journal)
        if any(each.sold for each in holding_back(self._journal)):
            return False
        if any(not each.released for each in known):
            self._note([each if each.sold else replace(each, released=True) for each in known])
        return True

    def _note(self, every: list[Lost]) -> None:
        made = json.dumps([asdict(each) for each in every], sort_keys=True)
        self._journal.note(_NOTE, made)


def _read(folder: Path, start: int) -> Lost | None:
    """What stands in a folder; None where nothing does. A file that is torn tells nothing."""
    numbers: list[int] = []
    amounts: dict[str, tuple[str, int]] = {}
    sold: dict[str, tuple[int, int]] = {}
    is_empty = True
    for file in sorted(folder.glob("[0-9]*.json")):
        try:
            each = upload_file.read_record(file.read_bytes(), None, line=0)
            if each.kind == "redeem":
                parts = each.content["allocation"]
                minor = sum(int(part["programme_minor"]) for part in parts)
                amounts[each.id] = str(each.content["currency"]), minor
            elif each.kind == "accept_offline":
                # Where its sale is not there, what it was for is not known (currency "").
                currency, minor = amounts.get(each.id, ("", 0))
                count, before = sold.get(currency, (0, 0))
                sold[currency] = count + 1, before + minor
        except (Malformed, KeyError, TypeError, ValueError):
            continue
        numbers.append(each.sequence)
        is_empty = is_empty and each.kind in _EMPTY_KINDS
    if not numbers:
        return None
    return Lost(str(folder), len(numbers), min(numbers), max(numbers), sold, is_empty, start)
