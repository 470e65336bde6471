"""`carepos ledger home` and `homes`: where households shop (docs/offline.md §4).

Added to the command by `commands`, whose exit codes hold here too. A household is named as for
`erase`: words of a command can be seen by every user of the machine, and names and ID numbers of a
list end here.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from carepos import ids, strict_json
from carepos.errors import Malformed, NotDecided
from carepos.ids import BUCKETS
from carepos.issuer_keys import issuer_text
from carepos_ledger import operator_screen
from carepos_ledger.identity_commands import Add
from carepos_ledger.operator_client import CommandStopped, OfficeUnreachable, OperatorClient
from carepos_ledger.privacy_commands import of_list, one_person

DONE, NO = 0, 1
CHUNK: Final = 250
MAX_FILE_BYTES: Final = 64 * 2**20
COLUMNS: Final = ("iss", "sub", "store")


@dataclass(frozen=True, slots=True)
class _Wish:
    """A household and its home, as the ledger takes them; `line`: of the file, 0 of none."""

    line: int
    person: dict[str, str]
    store: str | None


def add_to(add: Add) -> None:
    """Add both; `add` makes a parser of a name, a summary and its work."""
    home = add("home", "say in which store households shop 指定家庭的常用门店", _home)
    home.add_argument("store", nargs="?", metavar="STORE", help="it stays so until it is changed")
    home.add_argument(
        "--follow", action="store_true", help="instead of STORE: where they redeem, as before"
    )
    who = home.add_mutually_exclusive_group(required=True)
    who.add_argument("--sub-stdin", action="store_true", help="the issuer's sub, from stdin")
    who.add_argument("--token-stdin", action="store_true", help="one of their codes, from stdin")
    who.add_argument("--list", type=Path, metavar="FILE.csv", help="all of this list, or one line")
    who.add_argument(
        "--file",
        type=Path,
        metavar="FILE.csv",
        help=f"CSV with columns {','.join(COLUMNS)}; where store is empty they follow again",
    )
    home.add_argument("--iss", help="the issuer, with --sub-stdin")
    home.add_argument("--line", type=int, metavar="N", help="with --list: this line only")
    home.add_argument("--mapping", type=Path, metavar="FILE.toml", help="with --list")
    home.add_argument("--programme", metavar="NAME", help="with --list: one it was issued for")
    home.add_argument("--import-key", type=Path, metavar="FILE", help="with --list")
    home.add_argument("--dry-run", action="store_true", help="judge only; 1 if one is refused")

    homes = add("homes", "how many households shop in which store 各门店家庭数", _homes)
    homes.add_argument(
        "--from-sales",
        action="store_true",
        help="where none is known, by the latest sale: once a programme began to work offline",
    )
    homes.add_argument("--dry-run", action="store_true", help="with --from-sales: only count")


def _home(client: OperatorClient, args: argparse.Namespace) -> int:
    bad: dict[int, str] = {}
    if args.file is not None:
        if args.store is not None or args.follow:
            raise CommandStopped("The file names the stores itself: leave out STORE and --follow.")
        wishes, bad = read_homes(args.file)
    else:
        if (args.store is None) == (not args.follow):
            raise CommandStopped("Name a STORE, or --follow.")
        store = None if args.follow else ids.name(args.store, "STORE")
        found = of_list(client, args) if args.list is not None else {0: one_person(args)}
        wishes = [_Wish(line, person, store) for line, person in found.items()]
    return _show(_pin(client, wishes, args.dry_run) | _refused(bad), args.dry_run)


def read_homes(path: Path) -> tuple[list[_Wish], dict[int, str]]:
    """(wishes, reasons of bad lines) of a UTF-8 CSV with the columns `iss,sub,store`.

    Raises CommandStopped, OSError.
    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise CommandStopped(f"{path} is larger than {MAX_FILE_BYTES} bytes: split it.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandStopped(f"{path} is not UTF-8: save it as UTF-8.") from None
    wishes: list[_Wish] = []
    bad: dict[int, str] = {}
    seen: dict[tuple[str, str], int] = {}
    for line, row in _rows(text, path):
        try:
            wish = _wish_of(line, row)
            first = seen.setdefault((wish.person["iss"], wish.person["sub"]), line)
            if first != line:
                raise Malformed(f"stands in line {first} already", field="sub")
            wishes.append(wish)
        except Malformed as error:
            bad[line] = str(error)
    return wishes, bad


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        if next(rows, None) != list(COLUMNS):
            raise CommandStopped(f"{path} must begin with the line {','.join(COLUMNS)}.")
        for row in rows:
            if any(row):
                yield rows.line_num, row
    except csv.Error as error:
        raise CommandStopped(f"{path}, line {rows.line_num}: {error}.") from None


def _wish_of(line: int, row: Sequence[str]) -> _Wish:
    if len(row) != len(COLUMNS):
        raise Malformed(f"must have {len(COLUMNS)} columns")
    iss, sub, store = row
    person = {"iss": issuer_text(iss), "sub": strict_json.text(sub, "sub", high=64)}
    return _Wish(line, person, ids.name(store, "store") if store else None)


_Results = dict[int, tuple[str, str]]
"""By line: what became of it, and why it is refused."""


def _refused(bad: dict[int, str]) -> _Results:
    return {line: ("refused", why) for line, why in bad.items()}


def _pin(client: OperatorClient, wishes: Sequence[_Wish], dry_run: bool) -> _Results:
    results: _Results = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Homes 门店", total=len(wishes))
        for start in range(0, len(wishes), CHUNK):
            chunk = wishes[start : start + CHUNK]
            homes = [{"person": each.person, "store": each.store} for each in chunk]
            try:
                answer = client.post("/homes", {"homes": homes, "dry_run": dry_run})
            except (NotDecided, OfficeUnreachable) as error:
                raise CommandStopped(
                    f"Stopped after {start} of {len(wishes)} households ({error}). Run the same "
                    "command again: what is done already stays as it is."
                ) from None
            told = strict_json.array(answer.get("results"), "results", high=CHUNK)
            for wish, each in zip(chunk, told, strict=True):
                results[wish.line] = (str(each["result"]), str(each["detail"] or ""))
            progress.advance(task, len(chunk))
    return results


def _show(results: _Results, dry_run: bool) -> int:
    counts = operator_screen.rows_refused(results, dry_run=dry_run)
    console = operator_screen.console()
    console.print(
        f"{counts['created']} new, {counts['changed']} changed, {counts['exists']} as before, "
        f"{counts['refused']} refused. 新增 {counts['created']}，更改 {counts['changed']}，"
        f"未变 {counts['exists']}，拒收 {counts['refused']}。"
    )
    if not dry_run and counts["created"] + counts["changed"]:
        console.print(
            "Tills learn it with their next pack. What is set aside elsewhere stays there until "
            "its date. 终端下次更新离线包后生效。"
        )
    return NO if counts["refused"] else DONE


def _homes(client: OperatorClient, args: argparse.Namespace) -> int:
    if args.dry_run and not args.from_sales:
        raise CommandStopped("--dry-run goes with --from-sales.")
    if args.from_sales:
        noted = _from_sales(client, args.dry_run)
        word = "would be noted 将登记" if args.dry_run else "noted 已登记"
        print(f"{noted} homes {word}.")
    found = strict_json.array(client.get("/homes").get("homes"), "homes")
    if not found:
        print("No household's home is known. 无家庭登记。")
        return DONE
    columns = ("store", "store_name", "households", "pinned")
    operator_screen.console().print(operator_screen.table(columns, found))
    return DONE


def _from_sales(client: OperatorClient, dry_run: bool) -> int:
    noted, bucket = 0, 0
    while True:
        answer = client.post("/homes/from-sales", {"from_bucket": bucket, "dry_run": dry_run})
        noted += strict_json.integer(answer.get("homes"), "homes")
        following: Any = answer.get("next_bucket")
        if following is None:
            return noted
        bucket = strict_json.integer(following, "next_bucket", low=bucket + 1, high=BUCKETS)
