"""The header line: found by the mapping's names, with the title that stands above it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from carepos_ledger.column_mapping import Column, ColumnMapping, OnlyKind
from carepos_ledger.list_records import ListUnreadable, Record
from carepos_ledger.listed_values import header_key

HEADER_WITHIN_RECORDS = 50
MAX_TITLE_LENGTH = 200

_PERSONAL_TITLE = re.compile(r"人\s*[:：]|电话|手机|[0-9０-９]{7}")


@dataclass(frozen=True, slots=True)
class ListHeader:
    """Where the mapped columns stand in this file."""

    keys: tuple[str, ...]
    id_number: int
    amount: int
    people: int | None
    currency: int | None
    numbers: tuple[tuple[str, int], ...]
    only: tuple[tuple[str, int, frozenset[str]], ...]

    def repeated_by(self, cells: Sequence[str]) -> bool:
        return (
            header_key(cells[self.id_number]) == self.keys[self.id_number]
            and tuple(map(header_key, cells)) == self.keys
        )


def find_header(records: Iterator[Record], mapping: ColumnMapping) -> tuple[ListHeader, str]:
    """The first line that holds every mapped name, and the title above it."""
    named: list[Column] = [mapping.id_number, mapping.amount, *mapping.numbers]
    named += [c for c in (mapping.people, mapping.currency, mapping.note) if c is not None]
    named += [Column(_only_alias(kind), (kind.header,)) for kind in mapping.only]
    required = [column for column in named if column is not mapping.note]
    title: list[str] = []
    fewest_missing = [column.headers[0] for column in required]
    for _, record in zip(range(HEADER_WITHIN_RECORDS), records, strict=False):
        if record.cells is None:
            continue
        keys = tuple(map(header_key, record.cells))
        missing = [c.headers[0] for c in required if not _places(c, keys)]
        if not missing:
            return _header(record.line_no, keys, mapping, named), "\n".join(title)
        if len(missing) < len(fewest_missing):
            fewest_missing = missing
        title += _title_line(record.cells)
    names = ", ".join(fewest_missing)
    raise ListUnreadable(
        "no_header",
        f"no line holds the header names of the mapping; not found: {names}",
        f"未找到与列对照文件一致的表头，缺少：{names}",
    )


def _only_alias(kind: OnlyKind) -> str:
    """No alias of [columns] holds a colon, so a kind can't be taken for one."""
    return f"only:{kind.header}"


def _places(column: Column, keys: Sequence[str]) -> list[int]:
    wanted = {header_key(name) for name in column.headers}
    return [at for at, key in enumerate(keys) if key in wanted]


def _header(
    line_no: int, keys: tuple[str, ...], mapping: ColumnMapping, named: Sequence[Column]
) -> ListHeader:
    found: dict[str, int] = {}
    for column in named:
        places = _places(column, keys)
        if len(places) > 1:
            name = column.headers[0]
            raise ListUnreadable(
                "header_ambiguous",
                f"line {line_no}: several columns go by the name {name}",
                f"第 {line_no} 行：有多列名为“{name}”",
                line_no=line_no,
            )
        if places:
            found[column.alias] = places[0]
    return ListHeader(
        keys=keys,
        id_number=found["id_number"],
        amount=found["amount"],
        people=found["people"] if mapping.people else None,
        currency=found["currency"] if mapping.currency else None,
        numbers=tuple((column.alias, found[column.alias]) for column in mapping.numbers),
        only=tuple(
            (kind.header, found[_only_alias(kind)], frozenset(map(header_key, kind.values)))
            for kind in mapping.only
        ),
    )


def _title_line(cells: Sequence[str]) -> list[str]:
    """A title stands alone on its line; lines that name a person or a number are no title."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    if len(filled) != 1 or _PERSONAL_TITLE.search(filled[0]):
        return []
    return ["".join(c for c in filled[0] if c.isprintable())[:MAX_TITLE_LENGTH]]
