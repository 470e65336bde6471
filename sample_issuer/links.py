"""Which beneficiary somebody at the provider is: `links.csv`, and nothing else about anybody.

    person,sub        person = HMAC-SHA-256(links.secret, provider's issuer + "|" + provider's sub)

It is made once from two files that are not needed afterwards: the office's own `people.csv`
(provider_sub,line: whose account stands on which line of the list) and `enrolment.csv` of
`carepos ledger issue` (line,iss,sub). Without the key `links.csv` says of nobody who they are.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from carepos import durable
from carepos.errors import Malformed
from carepos.keys import b64, read_secret

FILE: Final = "links.csv"
KEY: Final = "links.secret"


@dataclass(frozen=True, slots=True, repr=False)
class Links:
    """The beneficiary's `sub` by the hash of who signed in."""

    provider: str
    key: bytes
    subs: Mapping[str, str]

    @classmethod
    def load(cls, folder: Path, provider: str) -> Links:
        """Raises Malformed, OSError. Without a links.csv nobody is known yet."""
        path = folder / FILE
        rows = _rows(path, ("person", "sub")) if path.exists() else iter(())
        subs = {person: sub for _, (person, sub) in rows}
        return cls(provider, read_secret(folder / KEY), subs)

    def sub_of(self, provider_sub: str) -> str | None:
        """The beneficiary's `sub`, None for somebody to whom nothing was issued."""
        return self.subs.get(self._person(provider_sub))

    def joined(self, people: Path, enrolment: Path, iss: str) -> Links:
        """With the people of two files added. Raises Malformed naming the row, OSError."""
        subs = {}
        for row, (line, of, sub) in _rows(enrolment, ("line", "iss", "sub")):
            if of != iss:
                raise Malformed(f"row {row} is of another issuer", field=enrolment.name)
            subs[line] = sub
        made = dict(self.subs)
        for row, (provider_sub, line) in _rows(people, ("provider_sub", "line")):
            # By its row, never by what stands there: in a file made otherwise that is a name.
            if line not in subs:
                raise Malformed(f"row {row} has no beneficiary", field=people.name)
            person = self._person(provider_sub)
            if made.setdefault(person, subs[line]) != subs[line]:
                raise Malformed(f"row {row}: this account is another's", field=people.name)
        return Links(self.provider, self.key, made)

    def save(self, folder: Path) -> None:
        """Write links.csv, 0600, whole or not at all."""
        content = io.StringIO(newline="")
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(("person", "sub"))
        writer.writerows(sorted(self.subs.items()))
        durable.write(folder / FILE, content.getvalue().encode(), mode=0o600)

    def _person(self, provider_sub: str) -> str:
        named = f"{self.provider}|{provider_sub}".encode()
        return b64(hmac.new(self.key, named, hashlib.sha256).digest())


def _rows(path: Path, header: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """(number in the file, values) of every row below the header."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if next(rows, None) != list(header):
            raise Malformed(f"must begin with the line {','.join(header)}", field=path.name)
        for row in rows:
            if len(row) != len(header) or not all(row):
                raise Malformed(f"row {rows.line_num} is not {','.join(header)}", field=path.name)
            yield rows.line_num, row
    except (UnicodeDecodeError, csv.Error):
        raise Malformed("is no CSV in UTF-8", field=path.name) from None
