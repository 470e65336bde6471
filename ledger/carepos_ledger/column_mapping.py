"""How to read one office's list: a small TOML file naming its columns.

    encoding = "auto"              # or "utf-8", "gb18030"
    delimiter = ","                # or ";", "\\t"
    id_check_digit = "warn"        # or "off", "refuse"
    checks = ["amount = 60 * people"]

    [columns]                      # the header's name, or several it may have
    id_number = "身份证号码"
    amount = ["金额（元）", "金额"]
    people = "家庭人口"            # people, currency and note are optional

    [only]                         # rows of another kind are refused
    "券种" = "奶制品卡"

    [voucher]                      # what a good row becomes: see voucher_defaults

Further columns may be named under any alias; they hold whole numbers and exist for the checks,
which count money in the currency's major unit, as the list does. `note` says which column is
the note; like every column that isn't named it is never kept.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from carepos.errors import CareposError
from carepos_ledger.listed_values import header_key
from carepos_ledger.row_checks import CheckUnreadable, RowCheck, parse_check

MAX_MAPPING_BYTES = 64 * 1024

Encoding = Literal["auto", "utf-8", "gb18030"]
CheckDigit = Literal["off", "warn", "refuse"]
Delimiter = Literal[",", ";", "\t"]

_ENCODINGS: tuple[Encoding, ...] = ("auto", "utf-8", "gb18030")
_CHECK_DIGITS: tuple[CheckDigit, ...] = ("off", "warn", "refuse")
_DELIMITERS: tuple[Delimiter, ...] = (",", ";", "\t")
_T = TypeVar("_T", bound=str)
_SETTINGS = {"encoding", "delimiter", "id_check_digit", "checks", "columns", "only", "voucher"}
_ALIAS = re.compile(r"[a-z_][a-z0-9_]*")
_OWN_READER = {"id_number", "amount", "people", "currency", "note"}


class MappingUnreadable(CareposError):
    """A mapping file that can't be used. `code` is stable, the message says what to mend.

    Codes: `mapping_missing`, `mapping_not_toml`, `mapping_wrong`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its `alias` and the header names it may go by."""

    alias: str
    headers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OnlyKind:
    """Rows are taken only if the column headed `header` holds one of `values`."""

    header: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """A mapping file as values; `numbers` are the columns that exist only for `checks`."""

    id_number: Column
    amount: Column
    people: Column | None = None
    currency: Column | None = None
    note: Column | None = None
    numbers: tuple[Column, ...] = ()
    only: tuple[OnlyKind, ...] = ()
    checks: tuple[RowCheck, ...] = ()
    id_check_digit: CheckDigit = "warn"
    encoding: Encoding = "auto"
    delimiter: Delimiter = ","


def read_mapping(path: Path) -> ColumnMapping:
    """The mapping in the file at `path`. Raises MappingUnreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MAPPING_BYTES + 1)
    except OSError as error:
        raise MappingUnreadable("mapping_missing", f"cannot be opened: {error.strerror}") from None
    if len(data) > MAX_MAPPING_BYTES:
        raise MappingUnreadable("mapping_wrong", f"larger than {MAX_MAPPING_BYTES} bytes")
    try:
        # Windows editors put a byte order mark before UTF-8, which TOML doesn't know.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MappingUnreadable("mapping_not_toml", "not UTF-8: save it as UTF-8") from None
    return parse_mapping(text)


def parse_mapping(text: str) -> ColumnMapping:
    """The mapping in `text` (TOML). Raises MappingUnreadable."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MappingUnreadable("mapping_not_toml", f"not TOML: {error}") from None
    if unknown := sorted(set(document) - _SETTINGS):
        raise _wrong(f"unknown setting {unknown[0]!r}")
    columns = _columns(document.get("columns"))
    only = _only(document.get("only", {}))
    checks = _checks(document.get("checks", []))
    if "id_number" not in columns or "amount" not in columns:
        raise _wrong("[columns] must name id_number and amount")
    _refuse_shared_headers(columns, only)
    read_by_checks = {alias for check in checks for alias in check.aliases}
    countable = set(columns) - {"id_number", "currency", "note"}
    if unknown := sorted(read_by_checks - countable):
        raise _wrong(f"a check reads {unknown[0]!r}, which is no number in [columns]")
    if unused := sorted(set(columns) - _OWN_READER - read_by_checks):
        # Most likely a misspelt name: it would otherwise be left out in silence.
        raise _wrong(f"[columns] names {unused[0]!r}, which is unknown and in no check")
    return ColumnMapping(
        id_number=columns["id_number"],
        amount=columns["amount"],
        people=columns.get("people"),
        currency=columns.get("currency"),
        note=columns.get("note"),
        numbers=tuple(columns[alias] for alias in columns if alias not in _OWN_READER),
        only=only,
        checks=checks,
        id_check_digit=_choice(document, "id_check_digit", _CHECK_DIGITS, "warn"),
        encoding=_choice(document, "encoding", _ENCODINGS, "auto"),
        delimiter=_choice(document, "delimiter", _DELIMITERS, ","),
    )


def _wrong(message: str) -> MappingUnreadable:
    return MappingUnreadable("mapping_wrong", message)


def _columns(table: object) -> dict[str, Column]:
    if not isinstance(table, dict):
        raise _wrong("a table [columns] is needed")
    for alias in table:
        if _ALIAS.fullmatch(alias) is None:
            raise _wrong(f"[columns] alias {alias!r}: small letters, digits and _ only")
    return {alias: Column(alias, _names(alias, value)) for alias, value in table.items()}


def _only(table: object) -> tuple[OnlyKind, ...]:
    if not isinstance(table, dict):
        raise _wrong("[only] must be a table of header = value")
    if not all(header_key(header) for header in table):
        raise _wrong("[only] has an empty header")
    return tuple(OnlyKind(header, _names(header, value)) for header, value in table.items())


def _names(what: str, value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, list) else (value,)
    if not names:
        raise _wrong(f"{what}: at least one text is needed")
    for name in names:
        if not isinstance(name, str) or not header_key(name):
            raise _wrong(f"{what}: a text or a list of texts is needed")
    return names


def _checks(value: object) -> tuple[RowCheck, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _wrong("checks must be a list of texts")
    checks: list[RowCheck] = []
    for text in value:
        try:
            checks.append(parse_check(text))
        except CheckUnreadable as error:
            raise _wrong(f"check {text[:40]!r}: {error}") from None
    return tuple(checks)


def _refuse_shared_headers(columns: dict[str, Column], only: tuple[OnlyKind, ...]) -> None:
    """One column can't be two things. A kind may be asked of any column but these."""
    taken: set[str] = set()
    headers = [name for column in columns.values() for name in set(map(header_key, column.headers))]
    for name in (*headers, *(header_key(kind.header) for kind in only)):
        if name in taken:
            raise _wrong(f"the header {name!r} is named twice")
        taken.add(name)


def _choice(document: dict[str, object], name: str, allowed: tuple[_T, ...], default: _T) -> _T:
    given = document.get(name, default)
    for choice in allowed:
        if given == choice:
            return choice
    raise _wrong(f"{name} must be one of {', '.join(map(repr, allowed))}")
