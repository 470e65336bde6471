"""From the bytes of a CSV file to records that know their line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from carepos.errors import CareposError
from carepos_ledger.column_mapping import Encoding

MAX_LIST_BYTES = 32 * 1024 * 1024
MAX_LINES_OF_RECORD = 10

_LINE_END = re.compile(r"\r\n|\n|\r")
_SAVE_AS_CSV = "open it in the spreadsheet program and save it as CSV (UTF-8)"
_SAVE_AS_CSV_ZH = "请在表格软件中打开，另存为 CSV（UTF-8）后再导入"
_SIGNATURES = (
    (b"PK\x03\x04", "spreadsheet_file"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "spreadsheet_file"),
    (b"\xff\xfe", "utf_16"),
    (b"\xfe\xff", "utf_16"),
)


class ListUnreadable(CareposError):
    """The whole file is of no use; no row was judged. `code` is stable.

    Codes: `empty`, `too_large`, `spreadsheet_file`, `utf_16`, `nul_bytes`, `undecodable`,
    `no_header`, `header_ambiguous`. Holds nothing of the file's content; `line_no` is 1-based.
    """

    def __init__(
        self, code: str, reason: str, reason_zh: str, *, line_no: int | None = None
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.reason_zh = reason_zh
        self.line_no = line_no


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its first physical line (1-based) and its cells, None if its quotes are torn."""

    line_no: int
    cells: list[str] | None = field(repr=False)


def decode_list(data: bytes, encoding: Encoding) -> str:
    """The text of a list: UTF-8 with or without a mark, else GB18030. Raises ListUnreadable."""
    _refuse_other_formats(data)
    if not data.removeprefix(b"\xef\xbb\xbf").strip():
        raise ListUnreadable("empty", "the file is empty", "文件是空的")
    tries = ("utf-8-sig", "gb18030") if encoding == "auto" else (_codec(encoding),)
    line_no = 0
    for codec in tries:
        try:
            return data.decode(codec)
        except UnicodeDecodeError as error:
            line_no = max(line_no, len(re.findall(rb"\r\n|\n|\r", data[: error.start])) + 1)
    # Raised here and not inside the handler: the decoder's error carries the whole file.
    raise ListUnreadable(
        "undecodable",
        f"line {line_no} is neither UTF-8 nor GB18030: {_SAVE_AS_CSV}"
        if encoding == "auto"
        else f"line {line_no} is not {encoding.upper()}, which the mapping asks for",
        f"第 {line_no} 行的文字编码无法识别。{_SAVE_AS_CSV_ZH}",
        line_no=line_no,
    )


def _codec(encoding: Encoding) -> str:
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _refuse_other_formats(data: bytes) -> None:
    if len(data) > MAX_LIST_BYTES:
        raise ListUnreadable(
            "too_large",
            f"the file is larger than {MAX_LIST_BYTES // (1024 * 1024)} MiB: split it",
            "文件过大，请拆分后再导入",
        )
    for signature, code in _SIGNATURES:
        if data.startswith(signature):
            raise ListUnreadable(code, f"this is no CSV file: {_SAVE_AS_CSV}", _SAVE_AS_CSV_ZH)
    if b"\0" in data:
        raise ListUnreadable("nul_bytes", f"this is no text file: {_SAVE_AS_CSV}", _SAVE_AS_CSV_ZH)


def read_records(text: str, delimiter: str) -> Iterator[Record]:
    """The records of `text`, RFC 4180 with any line end; blank lines are left out.

    A quote that never closes costs its own line only: a cell may run over several lines, but
    not over a delimiter and a line end both, for then it would be swallowing other households.
    """
    lines = _LINE_END.split(text)
    at = 0
    while at < len(lines):
        line = lines[at]
        if '"' not in line:
            cells: list[str] | None = line.split(delimiter)
            used = 1
        else:
            cells, used = _quoted(lines, at, delimiter)
        if cells is None or any(map(_filled, cells)):
            yield Record(at + 1, cells)
        at += used


def _filled(cell: str) -> bool:
    return bool(cell) and not cell.isspace()


def _quoted(lines: list[str], at: int, delimiter: str) -> tuple[list[str] | None, int]:
    for used in range(1, min(MAX_LINES_OF_RECORD, len(lines) - at) + 1):
        rows, torn = _parsed("\n".join(lines[at : at + used]), delimiter)
        if rows is not None:
            swallowing = any("\n" in cell and delimiter in cell for cell in rows)
            return (None, 1) if swallowing else (rows, used)
        if torn:
            return None, 1
    return None, 1


def _parsed(text: str, delimiter: str) -> tuple[list[str] | None, bool]:
    """The cells of one record, or None and whether no further line could mend it."""
    try:
        rows = list(
            csv.reader([part + "\n" for part in text.split("\n")], delimiter=delimiter, strict=True)
        )
    except csv.Error as error:
        return None, "unexpected end of data" not in str(error)
    return (rows[0], False) if len(rows) == 1 else (None, True)
