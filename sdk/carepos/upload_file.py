"""Records and outcomes as files, for when the network stays away (docs/offline.md §10).

One JSON text a line behind a header. What stands in a line is signed, the file is not: a line that
is broken costs that line, and a reader trusts nothing here that it has not verified itself.

Answers come in two versions. The second carries the ledger's key set in its header, for a till that
can't ask for it: whether it is believed says `ledger_keys`, and never that it stands in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from carepos import ids, jws, strict_json
from carepos.errors import Malformed

MAX_LINE_BYTES: Final = 65_536
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Chain:
    """One journal of one terminal."""

    terminal: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not what it should be; the first line of a file is number 1."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Carried:
    """One record as it travels; all but the envelope is what the record says, unverified."""

    line: int
    sequence: int
    kind: str
    id: str
    digest: str
    content: Mapping[str, Any]
    envelope: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RecordsFile:
    """A file of records. `to_sequence` is the last number that the header announces: where the last
    record has another one, the file was cut."""

    chain: Chain
    from_sequence: int
    to_sequence: int
    records: tuple[Carried, ...]
    bad: tuple[BadLine, ...]

    @property
    def is_cut(self) -> bool:
        return max((each.sequence for each in self.records), default=0) < self.to_sequence


@dataclass(frozen=True, slots=True)
class AnswersFile:
    """A file of answers: `{"outcome"}` or `{"problem"}` each, unverified. `ledger_keys`: the key
    set that came with them, for `ledger_keys.LedgerKeys.read`, unverified; None in version 1."""

    chain: Chain
    answers: tuple[Mapping[str, Any], ...]
    bad: tuple[BadLine, ...]
    ledger_keys: Mapping[str, Any] | None = None


# ── writing ────────────────────────────────────────────────────────────────────────────────────


def records_lines(
    chain: Chain, numbers: Sequence[int], envelopes: Iterable[Mapping[str, Any]]
) -> Iterator[bytes]:
    """The lines of a file of records; `numbers` are theirs, at least one, in ascending order."""
    yield _line(
        {
            "v": 1,
            "kind": "records",
            "terminal": chain.terminal,
            "incarnation": chain.incarnation,
            "from_sequence": numbers[0],
            "to_sequence": numbers[-1],
        }
    )
    for each in envelopes:
        yield _line(each)


def answers_lines(
    chain: Chain,
    answers: Iterable[Mapping[str, Any]],
    ledger_keys: Mapping[str, Any] | None = None,
) -> Iterator[bytes]:
    """The lines of a file of answers, in the order of their records; of version 2 where there are
    `ledger_keys` (`LedgerKeys.document`) to go with them, else of version 1."""
    header: dict[str, Any] = {
        "v": 1 if ledger_keys is None else 2,
        "kind": "outcomes",
        "terminal": chain.terminal,
        "incarnation": chain.incarnation,
    }
    if ledger_keys is not None:
        header["ledger_keys"] = ledger_keys
    yield _line(header)
    for each in answers:
        yield _line(each)


def _line(value: Mapping[str, Any]) -> bytes:
    return strict_json.canonical(value) + b"\n"


# ── reading ────────────────────────────────────────────────────────────────────────────────────


def read_records(path: Path) -> RecordsFile:
    """The records in a file, and the lines that are none. Raises Malformed when it is no file of
    records, OSError."""
    with path.open("rb") as file:
        lines = _lines(file)
        names = _header(
            next(lines, (1, b"")), "records", {1: frozenset({"from_sequence", "to_sequence"})}
        )
        chain = _chain(names)
        low = strict_json.integer(names["from_sequence"], "from_sequence", low=1)
        high = strict_json.integer(names["to_sequence"], "to_sequence", low=low)
        records, bad = [], []
        for number, data in lines:
            try:
                records.append(read_record(data, chain, line=number))
            except Malformed as error:
                bad.append(BadLine(number, str(error)))
    return RecordsFile(chain, low, high, tuple(records), tuple(bad))


def read_record(data: bytes | None, chain: Chain | None, *, line: int) -> Carried:
    """The record in one line (None: one that was too long), of this chain if one is given. Raises
    Malformed."""
    if data is None:
        raise Malformed("longer than a line may be")
    envelope = strict_json.names_within(
        strict_json.read_object(data), required={"record"}, optional={"evidence"}, where="line"
    )
    if "evidence" in envelope:
        strict_json.text(envelope["evidence"], "evidence", high=MAX_LINE_BYTES)
    digest, said = jws.peek(envelope["record"], typ=jws.RECORD)
    content = said.get("content")
    if not isinstance(content, dict):
        raise Malformed("must be an object", field="content")
    if chain is not None and _chain(said) != chain:
        raise Malformed("is another till's, or of another journal of this one")
    kind = strict_json.text(said.get("kind"), "kind", high=30)
    if not kind.isascii() or not kind.replace("_", "a").isalpha():
        raise Malformed("is none", field="kind")
    return Carried(
        line,
        strict_json.integer(said.get("sequence"), "sequence", low=1),
        kind,
        ids.attempt_id(said.get("id")),
        digest,
        content,
        envelope,
    )


def chain_of(data: bytes) -> Chain:
    """The chain that the record in a line is of. Raises Malformed."""
    envelope = strict_json.read_object(data)
    return _chain(jws.peek(envelope.get("record"), typ=jws.RECORD)[1])


def read_answers(path: Path) -> AnswersFile:
    """The answers in a file, and the lines that are none. Raises Malformed when it is no file of
    answers, OSError."""
    with path.open("rb") as file:
        lines = _lines(file)
        names = _header(
            next(lines, (1, b"")), "outcomes", {1: frozenset(), 2: frozenset({"ledger_keys"})}
        )
        chain = _chain(names)
        keys = None
        if "ledger_keys" in names:
            keys = strict_json.exact_names(
                names["ledger_keys"], {"root", "keyset"}, where="ledger_keys"
            )
        answers, bad = [], []
        for number, data in lines:
            try:
                answers.append(_answer(data))
            except Malformed as error:
                bad.append(BadLine(number, str(error)))
    return AnswersFile(chain, tuple(answers), tuple(bad), keys)


def answered_digest(answer: Mapping[str, Any]) -> str | None:
    """The digest of the record that an answer is about, as it says itself; None for a problem."""
    if "outcome" not in answer:
        return None
    said = jws.peek(answer["outcome"], typ=jws.OUTCOME)[1]
    return ids.digest_text(said.get("record_sha256"), "outcome.record_sha256")


def check_answer(value: object) -> dict[str, Any]:
    """`value` if it has the form of an answer. Raises Malformed."""
    answer = strict_json.names_within(
        value, required=frozenset(), optional={"outcome", "problem"}, where="answer"
    )
    if len(answer) != 1 or not isinstance(answer.get("problem", {}), dict):
        raise Malformed("holds neither an outcome nor a problem", field="answer")
    answered_digest(answer)
    return answer


def _answer(data: bytes | None) -> dict[str, Any]:
    if data is None:
        raise Malformed("longer than a line may be")
    return check_answer(strict_json.read_object(data))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(number, bytes) of each line that is not empty; None for one that is too long."""
    number = 0
    while data := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        whole: bytes | None = data
        while not data.endswith(b"\n") and len(data) > MAX_LINE_BYTES:
            whole, data = None, file.readline(MAX_LINE_BYTES + 1)
        if number == 1 and whole is not None:
            whole = whole.removeprefix(_BOM)  # what an editor puts there
        if whole is None or whole.strip():
            yield number, whole


def _header(
    first: tuple[int, bytes | None], kind: str, versions: Mapping[int, frozenset[str]]
) -> dict[str, Any]:
    """`versions`: by each that is known, the names that its header has besides."""
    what = {"records": "a till's records", "outcomes": "a ledger's answers"}[kind]
    try:
        names = strict_json.read_object(first[1] or b"")
        if names.get("kind") != kind:
            raise Malformed("is of another kind")
        version = strict_json.integer(names.get("v"), "v", low=1)
        if version in versions:
            return strict_json.exact_names(
                names, {"v", "kind", "terminal", "incarnation", *versions[version]}, where="header"
            )
    except Malformed as error:
        raise Malformed(f"is not a file of {what} (first line: {error})") from None
    raise Malformed(
        f"is a file of {what} of version {version}, which is not known here: update CarePOS"
    )


def _chain(names: Mapping[str, Any]) -> Chain:
    return Chain(
        ids.name(names.get("terminal"), "terminal"),
        ids.incarnation(names.get("incarnation"), "incarnation"),
    )
