"""`enrolment.csv`: for the issuer, which line of the list became which `sub`.

It joins a family to its vouchers, so it is private, and it holds nothing that the issuer
doesn't need: no ref, no amount, nothing of what stood on the line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from carepos.errors import CareposError
from carepos_ledger.private_file import write_private_file

HEADER = ("line", "iss", "sub")


class EnrolmentRefused(CareposError):
    """An enrolment file that isn't written. `code` is stable.

    Codes: `enrolment_exists` (another content is there), `enrolment_wrong` (rows that no issuer
    could use), `enrolment_unwritable`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Enrolment:
    """One beneficiary: the 1-based line of the list, the issuer, the issuer's `sub`."""

    line_no: int
    iss: str
    sub: str = field(repr=False)


def enrolment_bytes(enrolments: Iterable[Enrolment]) -> bytes:
    """The file's content: UTF-8, LF, header `line,iss,sub`, in the order of lines.

    The order of `enrolments` doesn't matter. Raises EnrolmentRefused (`enrolment_wrong`).
    """
    ordered = sorted(set(enrolments), key=lambda row: (row.line_no, row.iss, row.sub))
    seen: set[tuple[int, str]] = set()
    for row in ordered:
        for text in (row.iss, row.sub):
            if not text or not text.isprintable() or text != text.strip():
                raise EnrolmentRefused("enrolment_wrong", f"line {row.line_no}: iss or sub is odd")
        if row.line_no < 1 or (row.line_no, row.iss) in seen:
            raise EnrolmentRefused("enrolment_wrong", f"line {row.line_no} stands for two subs")
        seen.add((row.line_no, row.iss))
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((row.line_no, row.iss, row.sub) for row in ordered)
    return content.getvalue().encode("utf-8")


def write_enrolment_file(
    path: Path, enrolments: Iterable[Enrolment], *, replace: bool = False
) -> Literal["written", "unchanged"]:
    """Writes the file at `path`, mode 0600, whole or not at all.

    A file of the same content is left (its mode is tightened); another is overwritten only with
    `replace`. Raises EnrolmentRefused.
    """
    content = enrolment_bytes(enrolments)
    try:
        if not path.is_symlink() and path.is_file() and path.read_bytes() == content:
            path.chmod(0o600)
            return "unchanged"
        write_private_file(path, content, replace=replace)
    except FileExistsError:
        raise EnrolmentRefused(
            "enrolment_exists", f"{path.name} exists with other content: move it away or replace it"
        ) from None
    except OSError as error:
        raise EnrolmentRefused(
            "enrolment_unwritable", f"{path.name} cannot be written: {error.strerror}"
        ) from None
    return "written"
