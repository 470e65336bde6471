"""`carepos ledger retain`, `erase` and `export-person` (docs/privacy.md).

Over HTTP, like all an operator does, so that an SQLite book has one process that writes. Whoever it
is about is read from stdin or found in the office's own list: words of a command can be seen by
every user of the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from carepos import compact, ids, presentation, strict_json
from carepos.errors import Malformed
from carepos.ids import BUCKETS
from carepos_ledger import list_records
from carepos_ledger.column_mapping import MappingUnreadable, read_mapping
from carepos_ledger.county_list import ListUnreadable, read_list
from carepos_ledger.import_key import load_import_key
from carepos_ledger.issue_command import IMPORT_KEY_FILE
from carepos_ledger.operator_client import CommandStopped, OperatorClient

DONE, NO = 0, 1

_Work = Callable[[OperatorClient, argparse.Namespace], int]
_Add = Callable[[str, str, _Work], argparse.ArgumentParser]


def add(command: _Add) -> None:
    """Add the three; `command` makes a parser of a name, a summary and its work."""
    retain = command("retain", "delete what is past its time 清理到期数据", _retain)
    retain.add_argument("--dry-run", action="store_true", help="only count it")

    erase = command("erase", "cut the tie between a person and their vouchers 删除个人数据", _erase)
    _person(erase)
    erase.add_argument(
        "--forfeit",
        action="store_true",
        help="though vouchers can still be spent: what they hold goes back to the programme",
    )
    erase.add_argument("--yes", action="store_true", help="do it; without, only say what would go")

    export = command("export-person", "all that is held about a person, as JSON 导出", _export)
    _person(export)


def _person(parser: argparse.ArgumentParser) -> None:
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--sub-stdin", action="store_true", help="the issuer's sub, from stdin")
    who.add_argument("--token-stdin", action="store_true", help="one of their codes, from stdin")
    who.add_argument("--list", type=Path, metavar="FILE.csv", help="they stand in this list")
    parser.add_argument("--iss", help="the issuer, with --sub-stdin")
    parser.add_argument("--line", type=int, metavar="N", help="with --list: the line")
    parser.add_argument("--mapping", type=Path, metavar="FILE.toml", help="with --list")
    parser.add_argument("--programme", metavar="NAME", help="with --list: one it was issued for")
    parser.add_argument("--import-key", type=Path, metavar="FILE", help="with --list")


def _retain(client: OperatorClient, args: argparse.Namespace) -> int:
    found: Counter[str] = Counter()
    bucket: int | None = 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Retention 清理", total=BUCKETS)
        while bucket is not None:
            answer = client.post("/retention", {"from_bucket": bucket, "dry_run": args.dry_run})
            for name, count in strict_json.mapping(answer.get("tables"), "tables").items():
                found[name] += strict_json.integer(count, name)
            after = answer.get("next_bucket")
            if after is not None:
                after = strict_json.integer(after, "next_bucket", low=bucket + 1, high=BUCKETS)
            bucket = after
            progress.update(task, completed=bucket or BUCKETS)
    word = "due 到期" if args.dry_run else "deleted 已删除"
    for name in sorted(found):
        print(f"{name}: {found[name]} {word}")
    return DONE


def _erase(client: OperatorClient, args: argparse.Namespace) -> int:
    body = {"person": _who(client, args), "forfeit": args.forfeit, "dry_run": not args.yes}
    answer = client.post("/people/erase", body)
    words = ", ".join(
        f"{answer.get(name)} {name}" for name in ("vouchers", "enrolments", "cards", "acted")
    )
    forfeited = json.dumps(answer.get("forfeited_minor"), sort_keys=True)
    if not args.yes:
        print(f"Would erase 将删除: {words}; goes back (minor units) 退回: {forfeited}")
        print("It can't be taken back. To do it, the same with --yes. 不可恢复，确认请加 --yes。")
        return NO
    print(f"Erased 已删除: {words}; went back (minor units) 已退回: {forfeited}")
    print(_ON_DISK.get(str(answer.get("on_disk")), ""))
    return DONE


_ON_DISK = {
    "gone": "It is gone from the ledger's files too; backups keep it for as long as they are kept.",
    "until_checkpoint": (
        "The write-ahead log beside the book holds it still: somebody was reading. "
        "`carepos ledger retain` clears it."
    ),
    "until_vacuum": (
        "PostgreSQL's files hold dead rows until VACUUM FULL, and its log and backups for as long "
        "as they are kept: docs/privacy.md."
    ),
}


def _export(client: OperatorClient, args: argparse.Namespace) -> int:
    answer = client.post("/people/export", {"person": _who(client, args)})
    print(json.dumps(answer, ensure_ascii=False, indent=2))
    return DONE


def _who(client: OperatorClient, args: argparse.Namespace) -> dict[str, str]:
    if args.list is None:
        return one_person(args)
    if args.line is None:
        raise CommandStopped("--list wants --line.")
    [person] = of_list(client, args).values()
    return person


def one_person(args: argparse.Namespace) -> dict[str, str]:
    """Whom stdin names: `--sub-stdin` with `--iss`, or `--token-stdin`. Raises CommandStopped,
    Malformed."""
    given = sys.stdin.readline().strip()
    if args.token_stdin:
        try:
            claims = compact.read(presentation.read(given).token).claims
            return {"iss": _text(claims, "iss"), "sub": _text(claims, "sub")}
        except Malformed:
            raise CommandStopped("What stdin gave is no care code.") from None
    if not args.iss:
        raise CommandStopped("Name the issuer of that sub with --iss.")
    return {"iss": args.iss, "sub": strict_json.text(given, "sub", high=64)}


def _text(claims: Any, name: str) -> str:
    return strict_json.text(claims.get(name), name)


def of_list(client: OperatorClient, args: argparse.Namespace) -> dict[int, dict[str, str]]:
    """The keyed hash of one `--line` of `--list`, or of every good one, by line; ID numbers and
    names stay here. Raises CommandStopped, Malformed."""
    if args.mapping is None or args.programme is None:
        raise CommandStopped("--list wants --mapping and --programme.")
    rules = client.get(f"/programmes/{ids.name(args.programme, '--programme')}")
    key = load_import_key(args.import_key or args.folder / IMPORT_KEY_FILE)
    with args.list.open("rb") as file:
        data = file.read(list_records.MAX_LIST_BYTES + 1)
    try:
        found = read_list(data, read_mapping(args.mapping), key, _text(rules, "currency"))
    except (ListUnreadable, MappingUnreadable) as error:
        raise CommandStopped(f"{args.list.name} can't be read as a list: {error}.") from None
    people = {
        row.line_no: {"iss": _text(rules, "issuer"), "import_key_id": key.key_id, "ref": row.ref}
        for row in found.rows
        if args.line in (None, row.line_no)
    }
    if not people:
        what = "no line" if args.line is None else f"line {args.line}"
        raise CommandStopped(f"{args.list.name}: {what} is a good row of the list.")
    return people
