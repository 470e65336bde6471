"""Settlement files: what a shop is paid for, one line per booking, under a signed manifest.

docs/protocol.md §12. The ledger writes with `render_csv` what `read_batch` reads. Every field is of
an alphabet of our own (names, digits, instants), so no value can be taken for a formula or needs
a quote; a reader therefore refuses quotes instead of interpreting them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, get_args

from carepos import clock, ids, jws, money, strict_json
from carepos.errors import Malformed
from carepos.keys import Keys, digest
from carepos.strict_json import MAX_INTEGER

LineKind = Literal["redeem", "reversal", "void", "refund"]
LINE_KINDS: Final[tuple[LineKind, ...]] = get_args(LineKind)

COLUMNS: Final = (
    "line_no",
    "kind",
    "receipt_no",
    "incarnation",
    "terminal",
    "store",
    "occurred_at",
    "recorded_at",
    "amount_minor",
    "currency",
)
MAX_FUNDERS: Final = 100
"""More would not fit into a signed manifest of 12 KiB."""
MANIFEST_SUFFIX: Final = ".manifest.jws"

_HEADER = ",".join(COLUMNS)
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class SettlementLine:
    """One booking: a redeem (amount ≥ 0), or a reversal (amount ≤ 0) of the sale it names.

    `terminal_no` and `sequence` are those of the sale's receipt number; the instants are those of
    this booking's own record: by the till's clock, and by the ledger's.
    """

    kind: LineKind
    terminal_no: int
    sequence: int
    incarnation: str
    terminal: str
    store: str
    occurred_at: datetime
    recorded_at: datetime
    amount_minor: int
    currency: str

    @property
    def receipt_no(self) -> str:
        return ids.receipt_no(self.terminal_no, self.sequence)

    def order(self) -> tuple[str, str, int, str]:
        """Rows are sorted by this; no two bookings share it."""
        return self.terminal, self.incarnation, self.sequence, self.kind


@dataclass(frozen=True, slots=True)
class Total:
    """How many lines of one kind there are and what they come to."""

    count: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the ledger signs about one file. Amounts are minor units of `currency`.

    `funders` maps each funder to its part of `net_minor`, in order of name; a part may be negative.
    """

    merchant: str
    programme: str
    currency: str
    batch_no: int
    closed_at: datetime
    epoch: int
    sha256: str
    length: int
    rows: int
    redeemed: Total
    reversed: Total
    funders: Mapping[str, int]
    previous: str

    @property
    def net_minor(self) -> int:
        return self.redeemed.amount_minor + self.reversed.amount_minor

    @property
    def file_name(self) -> str:
        return file_name(self.merchant, self.programme, self.batch_no)

    def to_json(self) -> dict[str, object]:
        def total(of: Total) -> dict[str, int]:
            return {"count": of.count, "amount_minor": of.amount_minor}

        return {
            "v": 1,
            "kind": "settlement",
            "merchant": self.merchant,
            "programme": self.programme,
            "currency": self.currency,
            "batch_no": self.batch_no,
            "closed_at": clock.to_text(self.closed_at),
            "epoch": self.epoch,
            "file": {
                "name": self.file_name,
                "sha256": self.sha256,
                "length": self.length,
                "rows": self.rows,
            },
            "redeemed": total(self.redeemed),
            "reversed": total(self.reversed),
            "net_minor": self.net_minor,
            "funders": [
                {"funder": name, "amount_minor": part} for name, part in self.funders.items()
            ],
            "previous": self.previous,
        }

    @classmethod
    def from_json(cls, value: object) -> Manifest:
        """Raises Malformed also when its own sums, counts or file name don't agree."""
        names = strict_json.exact_names(
            value,
            {
                "v", "kind", "merchant", "programme", "currency", "batch_no", "closed_at", "epoch",
                "file", "redeemed", "reversed", "net_minor", "funders", "previous",
            },
            where="manifest",
        )  # fmt: skip
        if strict_json.integer(names["v"], "manifest.v") != 1:
            raise Malformed("must be 1", field="manifest.v")
        if names["kind"] != "settlement":
            raise Malformed("must be settlement", field="manifest.kind")
        file = strict_json.exact_names(
            names["file"], {"name", "sha256", "length", "rows"}, where="manifest.file"
        )
        manifest = cls(
            merchant=ids.name(names["merchant"], "manifest.merchant"),
            programme=ids.name(names["programme"], "manifest.programme"),
            currency=_currency(names["currency"]),
            batch_no=strict_json.integer(names["batch_no"], "manifest.batch_no", low=1),
            closed_at=clock.from_text(names["closed_at"], "manifest.closed_at"),
            epoch=strict_json.integer(names["epoch"], "manifest.epoch", low=1),
            sha256=ids.digest_text(file["sha256"], "manifest.file.sha256"),
            length=strict_json.integer(file["length"], "manifest.file.length", low=1),
            rows=strict_json.integer(file["rows"], "manifest.file.rows", low=1),
            redeemed=_total(names["redeemed"], "manifest.redeemed", low=0, high=MAX_INTEGER),
            reversed=_total(names["reversed"], "manifest.reversed", low=-MAX_INTEGER, high=0),
            funders=_funders(names["funders"]),
            previous=ids.digest_text(names["previous"], "manifest.previous"),
        )
        net_minor = strict_json.integer(names["net_minor"], "manifest.net_minor", low=-MAX_INTEGER)
        manifest._check(net_minor, file["name"])
        return manifest

    def _check(self, net_minor: int, name: object) -> None:
        if name != self.file_name:
            raise Malformed(f"must be {self.file_name}", field="manifest.file.name")
        if self.redeemed.count + self.reversed.count != self.rows:
            raise Malformed("the counts do not sum to it", field="manifest.file.rows")
        if self.net_minor != net_minor:
            raise Malformed("is not redeemed and reversed together", field="manifest.net_minor")
        if sum(self.funders.values()) != net_minor:
            raise Malformed("the parts do not sum to net_minor", field="manifest.funders")


@dataclass(frozen=True, slots=True)
class Batch:
    """One verified settlement: its manifest, that manifest's text and digest, and its lines."""

    manifest: Manifest
    manifest_jws: str
    digest: str
    lines: tuple[SettlementLine, ...]

    @property
    def name(self) -> str:
        return self.manifest.file_name


def file_name(merchant: str, programme: str, batch_no: int) -> str:
    """`settlement-<merchant>-<programme>-<batch_no, 6 digits>.csv`"""
    return f"settlement-{merchant}-{programme}-{batch_no:06d}.csv"


def manifest_name(csv_name: str) -> str:
    """The file that a manifest is kept in, beside its CSV."""
    return csv_name.removesuffix(".csv") + MANIFEST_SUFFIX


def first_previous(merchant: str, programme: str) -> str:
    """`previous` of batch 1, which has none before it."""
    return digest(f"carepos/settlement/v1|{merchant}|{programme}".encode("ascii"))


# ── writing ────────────────────────────────────────────────────────────────────────────────────


def render_csv(lines: Iterable[SettlementLine]) -> bytes:
    """The bytes of a settlement file: the lines in their order, numbered from 1.

    Raises Malformed when two lines are the same booking or a value is not of its form.
    """
    ordered = sorted(lines, key=SettlementLine.order)
    rows = [_HEADER]
    for number, line in enumerate(ordered, 1):
        rows.append(
            f"{number},{line.kind},{line.receipt_no},{line.incarnation},{line.terminal},"
            f"{line.store},{clock.to_text(line.occurred_at)},{clock.to_text(line.recorded_at)},"
            f"{line.amount_minor},{line.currency}"
        )
    data = ("\n".join(rows) + "\n").encode("utf-8")
    # Read back what was written: a file that a shop could not read is never signed.
    _read_lines(data, "the file that was to be written")
    return data


def totals(lines: Iterable[SettlementLine]) -> tuple[Total, Total]:
    """(redeemed, reversed) as a manifest states them: reversed is all that was taken back."""
    redeemed, undone = Total(0, 0), Total(0, 0)
    for line in lines:
        if line.kind == "redeem":
            redeemed = Total(redeemed.count + 1, redeemed.amount_minor + line.amount_minor)
        else:
            undone = Total(undone.count + 1, undone.amount_minor + line.amount_minor)
    return redeemed, undone


# ── reading ────────────────────────────────────────────────────────────────────────────────────


def read_manifest(manifest_jws: object, keys: Keys) -> tuple[Manifest, str]:
    """(manifest, its digest) if the ledger signed it. Raises Malformed, SignatureInvalid."""
    signed = jws.verify(manifest_jws, typ=jws.MANIFEST, keys=keys)
    return Manifest.from_json(signed.payload), signed.digest


def read_batch(csv_bytes: bytes, manifest_jws: object, keys: Keys) -> Batch:
    """The settlement that the two files are, or Malformed with what does not fit, and where.

    `keys`: the ledger's.
    """
    manifest, manifest_digest = read_manifest(manifest_jws, keys)
    name = manifest.file_name
    if len(csv_bytes) != manifest.length or digest(csv_bytes) != manifest.sha256:
        raise Malformed(
            f"is not the file that was signed: {_what_differs(csv_bytes, manifest)}", field=name
        )
    lines = _read_lines(csv_bytes, name)
    finding = _against(lines, manifest)
    if finding is not None:
        raise Malformed(finding, field=name)
    return Batch(manifest, str(manifest_jws), manifest_digest, tuple(lines))


def _what_differs(csv_bytes: bytes, manifest: Manifest) -> str:
    """The first thing a person can look at in a file whose digest is wrong."""
    try:
        lines = _read_lines(csv_bytes, "")
    except Malformed as error:
        return str(error).removeprefix(": ")
    finding = _against(lines, manifest)
    if finding is not None:
        return finding
    return "its lines are well-formed and come to the signed sums, but a value was changed"


def _against(lines: Sequence[SettlementLine], manifest: Manifest) -> str | None:
    """What in `lines` is not as the manifest says, if anything."""
    if len(lines) != manifest.rows:
        return f"it has {len(lines)} rows, the manifest says {manifest.rows}"
    for number, line in enumerate(lines, 2):
        if line.currency != manifest.currency:
            return f"line {number}, column currency: must be {manifest.currency}"
    found = dict(zip(("redeemed", "reversed"), totals(lines), strict=True))
    for word, stated in (("redeemed", manifest.redeemed), ("reversed", manifest.reversed)):
        if found[word] != stated:
            return (
                f"column amount_minor: {found[word].count} {word} lines come to "
                f"{found[word].amount_minor}, the manifest says {stated.count} lines and "
                f"{stated.amount_minor}"
            )
    return None


def _read_lines(data: bytes, name: str) -> list[SettlementLine]:
    """Rows in their order. The header is line 1 of the file, as an editor counts."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise Malformed(
            "has a byte that no column may hold", field=f"{name}: line {number}"
        ) from None
    if not text.endswith("\n"):
        raise Malformed("its last line is cut off", field=name)
    rows = text[:-1].split("\n")
    if rows[0] != _HEADER:
        raise Malformed(f"line 1: the header must be {_HEADER}", field=name)
    lines: list[SettlementLine] = []
    numbers: dict[str, int] = {}
    before: tuple[str, str, int, str] | None = None
    for number, row in enumerate(rows[1:], 2):
        try:
            line = _read_row(row.split(","), number - 1)
            if numbers.setdefault(line.terminal, line.terminal_no) != line.terminal_no:
                raise Malformed("another terminal's number", field="receipt_no")
        except Malformed as error:
            raise Malformed(
                str(error).removeprefix(f"{error.field}: "),
                field=f"{name}: line {number}, column {error.field}",
            ) from None
        if before is not None and line.order() <= before:
            what = "stands twice" if line.order() == before else "is out of order"
            raise Malformed(f"the booking {what}", field=f"{name}: line {number}")
        before = line.order()
        lines.append(line)
    return lines


def _read_row(values: Sequence[str], line_no: int) -> SettlementLine:
    if len(values) != len(COLUMNS):
        # Which column is missing can't be known; the last one that is there is where to look.
        raise Malformed(
            f"{len(values)} values instead of {len(COLUMNS)}",
            field=COLUMNS[min(len(values), len(COLUMNS)) - 1],
        )
    number, kind, receipt, incarnation, terminal, store, occurred, recorded, amount, currency = (
        values
    )
    if number != str(line_no):
        raise Malformed(f"must be {line_no}", field="line_no")
    line_kind = _line_kind(kind)
    terminal_no, sequence = ids.parse_receipt_no(receipt)
    if not terminal_no or not sequence:
        raise Malformed("numbers count from 1", field="receipt_no")
    if _INTEGER.fullmatch(amount) is None:
        raise Malformed("must be a whole number of minor units", field="amount_minor")
    amount_minor = int(amount)
    if abs(amount_minor) > money.MAX_AMOUNT_MINOR:
        raise Malformed("is larger than any redemption", field="amount_minor")
    if amount_minor > 0 and line_kind in ("void", "refund"):
        raise Malformed(f"a {line_kind} takes back: its amount is not above zero", field="kind")
    if amount_minor and (amount_minor < 0) != (line_kind != "redeem"):
        raise Malformed("only what is taken back is below zero", field="amount_minor")
    money.minor_unit_digits(currency)
    return SettlementLine(
        line_kind,
        terminal_no,
        sequence,
        ids.incarnation(incarnation, "incarnation"),
        ids.name(terminal, "terminal"),
        ids.name(store, "store"),
        clock.from_text(occurred, "occurred_at"),
        clock.from_text(recorded, "recorded_at"),
        amount_minor,
        currency,
    )


def _line_kind(value: object) -> LineKind:
    for known in LINE_KINDS:
        if value == known:
            return known
    raise Malformed(f"must be one of {', '.join(LINE_KINDS)}", field="kind")


def _total(value: object, where: str, *, low: int, high: int) -> Total:
    names = strict_json.exact_names(value, {"count", "amount_minor"}, where=where)
    return Total(
        strict_json.integer(names["count"], f"{where}.count"),
        strict_json.integer(names["amount_minor"], f"{where}.amount_minor", low=low, high=high),
    )


def _currency(value: object) -> str:
    code = strict_json.text(value, "manifest.currency", low=3, high=3)
    try:
        money.minor_unit_digits(code)
    except Malformed:
        raise Malformed("not a currency of ISO 4217", field="manifest.currency") from None
    return code


def _funders(value: object) -> dict[str, int]:
    funders: dict[str, int] = {}
    before = ""
    for each in strict_json.array(value, "manifest.funders", high=MAX_FUNDERS):
        names = strict_json.exact_names(each, {"funder", "amount_minor"}, where="manifest.funders")
        funder = ids.name(names["funder"], "manifest.funders")
        if funder <= before:
            raise Malformed("must be sorted by name, each once", field="manifest.funders")
        before = funder
        funders[funder] = strict_json.integer(
            names["amount_minor"], "manifest.funders", low=-MAX_INTEGER
        )
    return funders
