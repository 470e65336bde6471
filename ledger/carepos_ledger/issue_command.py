"""`carepos ledger issue`: a county's list on this machine becomes vouchers in the ledger.

Names and ID numbers are read here and end here; what leaves are keyed refs and amounts. The same
command may be run again after any failure: what was issued is answered, not issued again.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from carepos import clock, strict_json
from carepos.errors import CareposError, Malformed, NotDecided
from carepos.money import format_amount, minor_unit_digits
from carepos_ledger import list_records
from carepos_ledger.column_mapping import MappingUnreadable, read_mapping
from carepos_ledger.county_list import CountyList, ListedRow, ListUnreadable, read_list
from carepos_ledger.enrolment_file import Enrolment, EnrolmentRefused, write_enrolment_file
from carepos_ledger.import_key import (
    KEY_BYTES,
    ImportKey,
    load_import_key,
    load_or_create_import_key,
)
from carepos_ledger.list_totals import Difference, Sums, TotalLine
from carepos_ledger.operator_client import OfficeUnreachable, OperatorClient
from carepos_ledger.voucher_defaults import VoucherDefaults, read_voucher_defaults

MIN_CHUNK, MAX_CHUNK = 100, 500
IMPORT_KEY_FILE = "import.key"


class IssueStopped(CareposError):
    """The list was not issued, or not to its end; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for on the command line."""

    file: Path
    mapping: Path
    programme: str
    enrolment: Path
    import_key: Path
    chunk: int = 250
    dry_run: bool = False
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """How the rows ended; `differently` are the lines somebody has to look at."""

    issued: int
    already: int
    differently: tuple[int, ...]
    enrolments: tuple[Enrolment, ...]


def dry_run(wish: Wish, currency: str, console: Console) -> bool:
    """Show what the list would issue and every row refused; whether none was. Writes nothing."""
    county_list, _ = _read(wish, currency, console)
    show_list(county_list, console)
    console.print(
        f"Dry run: nothing was issued. 试运行，未发放。 {len(county_list.rows)} vouchers for "
        f"{_money(county_list.good_rows.amount_minor, currency)} would be."
    )
    return not county_list.refused


def run(wish: Wish, client: OperatorClient, console: Console) -> bool:
    """Issue the good rows and write enrolment.csv; whether every one stands as this list has it.

    Raises IssueStopped and what reading raises.
    """
    if not wish.enrolment.absolute().parent.is_dir():
        raise IssueStopped(f"There is no folder for {wish.enrolment}: make it first.")
    rules = client.get(f"/programmes/{wish.programme}")
    currency = strict_json.text(rules.get("currency"), "currency", low=3, high=3)
    starts_at = clock.from_text(rules.get("starts_at"), "starts_at")
    ends_at = clock.from_text(rules.get("ends_at"), "ends_at")
    county_list, defaults = _read(wish, currency, console)
    show_list(county_list, console)
    if not county_list.rows:
        raise IssueStopped(f"{wish.file.name} has no good row: nothing was issued.")
    bodies = [
        defaults.row(row.ref, row.amount_minor, starts_at=starts_at, ends_at=ends_at)
        for row in county_list.rows
    ]
    done = _issue(wish, client, console, county_list.rows, bodies, county_list.key_id)
    try:
        written = write_enrolment_file(wish.enrolment, done.enrolments, replace=wish.replace)
    except EnrolmentRefused as error:
        raise IssueStopped(
            f"The vouchers are issued, but {wish.enrolment} is not written: {error}. Run the same "
            "command with another --enrolment, or with --replace."
        ) from None
    _show_done(done, wish, written, console)
    return not done.differently


def _read(wish: Wish, currency: str, console: Console) -> tuple[CountyList, VoucherDefaults]:
    try:
        mapping = read_mapping(wish.mapping)
        defaults = read_voucher_defaults(wish.mapping)
    except (MappingUnreadable, Malformed) as error:
        raise IssueStopped(f"{wish.mapping} can't be used: {error}.") from None
    with wish.file.open("rb") as file:
        data = file.read(list_records.MAX_LIST_BYTES + 1)
    try:
        county_list = read_list(data, mapping, _import_key(wish, console), currency)
    except ListUnreadable as error:
        raise IssueStopped(f"{wish.file.name} can't be read as a list: {error}.") from None
    return county_list, defaults


def _import_key(wish: Wish, console: Console) -> ImportKey:
    with contextlib.suppress(FileNotFoundError):
        return load_import_key(wish.import_key)
    if wish.dry_run:
        # A dry run leaves nothing behind; any key finds the households that stand twice.
        return ImportKey(secrets.token_bytes(KEY_BYTES))
    key = load_or_create_import_key(wish.import_key)
    console.print(
        f"A new import key 新的导入密钥: {wish.import_key}. Keep a copy in a safe place: without "
        "this key the same families are strangers to the next list. If there is one already, "
        "name it with --import-key."
    )
    return key


# ── issuing ────────────────────────────────────────────────────────────────────────────────────


def _issue(
    wish: Wish,
    client: OperatorClient,
    console: Console,
    rows: Sequence[ListedRow],
    bodies: Sequence[dict[str, object]],
    key_id: str,
) -> Done:
    results: list[dict[str, Any]] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Issuing 发放", total=len(rows))
        for chunk in _chunks(bodies, wish.chunk):
            try:
                results += _post(client, wish.programme, key_id, chunk)
            except (NotDecided, OfficeUnreachable) as error:
                raise IssueStopped(
                    f"Stopped after {len(results)} of {len(rows)} rows: {_why(error)}. Then run "
                    "the same command again: nothing is issued twice."
                ) from None
            progress.update(task, completed=len(results))
    return Done(
        issued=sum(each["result"] == "issued" for each in results),
        already=sum(each["result"] == "already_issued" for each in results),
        differently=tuple(
            row.line_no
            for row, each in zip(rows, results, strict=True)
            if each["result"] == "already_issued_differently"
        ),
        enrolments=tuple(
            Enrolment(row.line_no, str(each["iss"]), str(each["sub"]))
            for row, each in zip(rows, results, strict=True)
            if each["sub"] is not None
        ),
    )


def _post(
    client: OperatorClient, programme: str, key_id: str, chunk: Sequence[dict[str, object]]
) -> list[dict[str, Any]]:
    answer = client.post(
        f"/programmes/{programme}/issue", {"import_key_id": key_id, "rows": list(chunk)}
    )
    results = answer.get("results")
    try:
        listed = strict_json.array(results, "results", low=len(chunk), high=len(chunk))
        for row, each in zip(chunk, listed, strict=True):
            names = strict_json.exact_names(each, {"ref", "result", "iss", "sub"}, where="result")
            if names["ref"] != row["ref"]:
                raise Malformed("is another row's", field="ref")
    except Malformed:
        raise OfficeUnreachable(
            "what answered is not a ledger: name its address with --url"
        ) from None
    return listed


def _why(error: CareposError) -> str:
    if isinstance(error, NotDecided):
        hints = {
            "not_funded": "fund the programme with `carepos ledger fund`",
            "already_exists_differently": "use the import key this programme was begun with",
            "try_again": "the ledger is busy",
            "malformed": "mend the [voucher] table of the mapping",
        }
        hint = hints.get(error.code, "see the ledger")
        return f"{error.detail or error.code} — {hint}"
    return str(error)


def _chunks(
    bodies: Sequence[dict[str, object]], size: int
) -> Iterator[Sequence[dict[str, object]]]:
    for start in range(0, len(bodies), size):
        yield bodies[start : start + size]


# ── showing ────────────────────────────────────────────────────────────────────────────────────


def show_list(county_list: CountyList, console: Console) -> None:
    """Title, refused rows with line and reason, warnings, and the sums beside the printed ones."""
    if county_list.title:
        console.print(county_list.title, style="bold")
    if county_list.refused:
        table = Table(title="Refused rows 拒收行", title_justify="left")
        table.add_column("line 行", justify="right")
        table.add_column("code", no_wrap=True)
        table.add_column("reason")
        table.add_column("原因")
        for row in county_list.refused:
            table.add_row(str(row.line_no), row.code, row.reason, row.reason_zh)
        console.print(table)
    for warning in county_list.warnings:
        lines = ", ".join(map(str, warning.first_lines))
        more = ", …" if warning.count > len(warning.first_lines) else ""
        console.print(f"Warning 提示: {warning.reason} {warning.reason_zh} (line {lines}{more})")
    console.print(_sums_table(county_list))


def _sums_table(county_list: CountyList) -> Table:
    table = Table(title="Sums 合计", title_justify="left")
    table.add_column("")
    for heading in ("rows 行", "people 人", f"amount 金额 ({county_list.currency})"):
        table.add_column(heading, justify="right")

    def sums(name: str, of: Sums) -> None:
        table.add_row(
            name, f"{of.rows:,}", f"{of.people:,}", number(of.amount_minor, county_list.currency)
        )

    sums("all rows 全部", county_list.all_rows)
    sums("good rows 可发放", county_list.good_rows)
    table.add_row("refused 拒收", f"{len(county_list.refused):,}", "", "")
    for total in county_list.totals:
        _printed_total(table, total, county_list.currency)
    return table


def _printed_total(table: Table, total: TotalLine, currency: str) -> None:
    printed = total.printed
    table.add_row(
        f"printed, line {total.line_no} 名册合计",
        "" if printed.rows is None else f"{printed.rows:,}",
        "" if printed.people is None else f"{printed.people:,}",
        "" if printed.amount_minor is None else number(printed.amount_minor, currency),
    )
    for name, difference in (("all", total.against_all), ("good", total.against_good)):
        table.add_row(f"  less {name} rows 差额", *_differences(difference, currency))


def _differences(difference: Difference, currency: str) -> tuple[str, str, str]:
    return (
        "" if difference.rows is None else f"{difference.rows:+,}",
        "" if difference.people is None else f"{difference.people:+,}",
        ""
        if difference.amount_minor is None
        else ("+" if difference.amount_minor > 0 else "")
        + number(difference.amount_minor, currency),
    )


def _show_done(done: Done, wish: Wish, written: str, console: Console) -> None:
    console.print(
        f"{done.issued} issued, {done.already} issued before, {len(done.differently)} issued "
        f"differently. 新发放 {done.issued}，此前已发放 {done.already}，"
        f"内容不同 {len(done.differently)}。"
    )
    if done.differently:
        lines = ", ".join(map(str, done.differently[:50]))
        more = ", …" if len(done.differently) > 50 else ""
        console.print(
            f"Already issued with another amount or other terms, left as they are: line "
            f"{lines}{more}"
        )
    console.print(
        f"{wish.enrolment} {written}: hand it to the issuer on a safe way, then delete it."
    )


def _money(amount_minor: int, currency: str) -> str:
    return f"{number(amount_minor, currency)} {currency}"


def number(amount_minor: int, currency: str) -> str:
    """For people: 14274000 CNY is "142,740.00"."""
    whole, point, part = format_amount(abs(amount_minor), currency).partition(".")
    sign = "-" if amount_minor < 0 else ""
    assert bool(point) == bool(minor_unit_digits(currency))
    return f"{sign}{int(whole):,}{point}{part}"
