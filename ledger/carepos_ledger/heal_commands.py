"""`carepos ledger heal …`: bring back what a ledger lost (docs/offline.md §12, docs/operators.md).

All but `begin` go over HTTP to the ledger, which serves meanwhile: tills report to it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from carepos import strict_json
from carepos.errors import NotDecided
from carepos.keys import b64
from carepos.settlement import MANIFEST_SUFFIX
from carepos_ledger import issue_command, operator_screen
from carepos_ledger.operator_client import CommandStopped, OperatorClient

DONE, NO = 0, 1

_Work = Callable[[OperatorClient, argparse.Namespace], int]
_Add = Callable[[str, str, _Work], argparse.ArgumentParser]

_NUMBERED: Final = re.compile(r"(.*)-([0-9]+)\.csv")
_REASONS: Final = {
    "programme_unknown": "its programme is not here 无此项目",
    "voucher_unknown": "its voucher was issued in what is lost 券在丢失期间发放",
    "balance_insufficient": "the voucher does not hold as much any more 券余额不足",
    "allotment_missing": "what was set aside is not here 无预留额度",
    "original_unknown": "the sale that it takes back is not here 无原销售单",
    "undone_differently": "another undo of the sale is not here 另一笔撤销缺失",
    "signature_invalid": "its key is not known here 密钥未知",
    "decided_differently": "it was decided otherwise since 已另行裁定",
}
_EARLY: Final = (
    "--early opens all the same. A till that reports later may find that its vouchers were spent "
    "again meanwhile: then its shop has a signed confirmation, nobody's voucher pays it, and it "
    "stands in `carepos ledger heal exceptions`."
)


def add(command: _Add) -> None:
    """Add what talks to the ledger; `command` makes a parser of a name, a summary and its work."""
    status = command("status", "how far it is, and who was not heard yet; 1 if anything is lost "
                     "恢复进度", _status)  # fmt: skip
    status.add_argument("--json", action="store_true", help="for programs instead of people")

    manifest = command(
        "manifest", "settlement files that were published after the backup 结算文件", _manifest
    )
    manifest.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="….csv, ….manifest.jws or a folder"
    )

    opening = command("open", "book what was offered, then let tills go on 开放账本", _open)
    opening.add_argument("--early", action="store_true", help="though not every till has reported")
    opening.add_argument("--json", action="store_true", help="the report, for programs")

    excepted = command(
        "exceptions", "what could not be booked again; 1 if any is open 例外", _exceptions
    )
    excepted.add_argument("--all", action="store_true", help="those that are closed too")
    excepted.add_argument("--close", type=int, metavar="N", help="close this one, for good")
    excepted.add_argument("--note", metavar="SENTENCE", help="what was done; no name in it")


def _status(client: OperatorClient, args: argparse.Namespace) -> int:
    told = client.get("/heal")
    if args.json:
        print(json.dumps(told, ensure_ascii=False))
        return NO if told.get("lost") else DONE
    state, lost = told.get("state"), told.get("lost")
    if state == "open":
        print(f"The ledger is open, epoch {told.get('epoch')}. 账本已开放。")
        if lost:
            print(
                f"DATA IS LOST 数据丢失: tills hold {lost} of this ledger's answers that are not "
                "in its book. Stop the server and run `carepos ledger heal begin`."
            )
            return NO
        return DONE
    print(
        f"The ledger is being healed since {told.get('since')}, epoch {told.get('epoch')}; tills "
        "wait. 账本恢复中。"
    )
    rows = strict_json.array(told.get("terminals"), "terminals", high=10**6)
    shown = []
    for each in rows:
        heard = "no 未报告" if each["heard_at"] is None else each["heard_at"]
        numbers = [
            f"{low}" if low == high else f"{low}-{high}"
            for chain in each["missing"]
            for low, high in chain["numbers"]
        ]
        shown.append(
            {
                **each,
                "heard": heard,
                "reported": "all 已完成" if each["complete"] else "",
                "missing": ", ".join(numbers),
            }
        )
    columns = ("terminal_no", "terminal", "store", "status", "heard", "reported", "offered")
    operator_screen.console().print(operator_screen.table((*columns, "missing"), shown))
    waiting = [each for each in rows if not each["complete"] and each["status"] != "revoked"]
    evidence = told.get("evidence") or {}
    print(f"{len(rows) - len(waiting)} of {len(rows)} tills have reported; "
          f"{evidence.get('staged', 0)} answers wait to be booked.")  # fmt: skip
    unpaid = strict_json.array(told.get("paid_not_booked"), "paid_not_booked")
    if unpaid:
        missing = sum(not each["offered"] for each in unpaid)
        print(
            f"Paid in restored batches, and not booked yet: {len(unpaid)}; of {missing} of them no "
            "till has told."
        )
    return DONE


def _manifest(client: OperatorClient, args: argparse.Namespace) -> int:
    for path in _in_order(args.files):
        beside = path.with_name(path.name.removesuffix(".csv") + MANIFEST_SUFFIX)
        try:
            manifest = beside.read_text("ascii").strip()
        except UnicodeDecodeError:
            raise CommandStopped(f"{beside} is no manifest.") from None
        answer = client.post(
            "/heal/settlements", {"manifest": manifest, "file": b64(_deflated(path.read_bytes()))}
        )
        operator_screen.tell(answer, path.name)
    return DONE


def _in_order(given: Sequence[Path]) -> list[Path]:
    """The CSV files that are meant, each batch behind the one before it."""
    found: set[Path] = set()
    for path in given:
        if path.is_dir():
            found |= set(path.glob("settlement-*.csv"))
        elif path.name.endswith(MANIFEST_SUFFIX):
            found.add(path.with_name(path.name.removesuffix(MANIFEST_SUFFIX) + ".csv"))
        else:
            found.add(path)

    def place(path: Path) -> tuple[str, int, str]:
        match = _NUMBERED.fullmatch(path.name)
        return (match[1], int(match[2]), "") if match else (path.name, 0, "")

    return sorted(found, key=place)


def _deflated(data: bytes) -> bytes:
    packing = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packing.compress(data) + packing.flush()


def _open(client: OperatorClient, args: argparse.Namespace) -> int:
    evidence = client.get("/heal").get("evidence") or {}
    last = 0
    while True:
        try:
            answer = client.post("/heal/open", {"early": args.early})
        except NotDecided as error:
            if error.code != "not_reported":
                raise
            why = error.detail or error.code
            print(f"Not opened: {why} (carepos ledger heal status).", file=sys.stderr)
            print(f"{_EARLY}", file=sys.stderr)
            return NO
        if staged := evidence.get("staged"):
            # What it began with: the first call may have booked them all.
            print(f"{staged} answers are booked again …", file=sys.stderr)
            last, evidence = staged, {}
        left = strict_json.integer(answer.get("left"), "left")
        if answer.get("open") is True:
            break
        if left and left != last:
            print(f"{left} answers wait to be booked …", file=sys.stderr)
            last = left
    report = client.get("/heal").get("report")
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        _print_report(report if isinstance(report, dict) else {})
    return NO if isinstance(report, dict) and report.get("excepted") else DONE


def _print_report(report: dict[str, Any]) -> None:
    print("The ledger is open; tills go on. 账本已开放，终端恢复使用。")
    for title, name, labels in (
        ("Booked again 已恢复", "restored", ("kind", "result")),
        ("NOT BOOKED 未能恢复", "excepted", ("reason",)),
    ):
        lines = strict_json.array(report.get(name, []), name)
        if not lines:
            continue
        print(f"{title}:")
        for each in lines:
            said = " ".join(str(each[label]) for label in labels)
            amount = ""
            if each["currency"] is not None:
                number = issue_command.number(each["amount_minor"], each["currency"])
                amount = f", {number} {each['currency']}"
            print(f"  {each['count']} × {_REASONS.get(said, said)}{amount}")
    aside = report.get("allotments") or {}
    if aside.get("placed"):
        print(f"Set aside again for tills: {aside['placed']} parts of vouchers.")
    if aside.get("excepted"):
        print(f"No longer held by their vouchers, and not set aside: {aside['excepted']}.")
    for name in strict_json.array(report.get("not_reported", []), "not_reported", high=10**6):
        print(f"Not heard 未报告: {name}")
    if report.get("paid_not_booked"):
        print(
            f"Paid in restored batches, and not booked yet: {report['paid_not_booked']} sales "
            "(carepos ledger heal status --json)."
        )
    if report.get("excepted"):
        print("A person works through them: carepos ledger heal exceptions")


def _exceptions(client: OperatorClient, args: argparse.Namespace) -> int:
    if args.close is not None:
        if args.note is None:
            raise CommandStopped("Closing one needs --note with what was done.")
        answer = client.put(f"/heal/exceptions/{args.close}", {"note": args.note})
        operator_screen.tell(answer, f"exception {args.close} is closed")
        return DONE
    found = client.pages("/heal/exceptions", "exceptions", number="exception")
    waiting = [each for each in found if each["state"] == "open"]
    for each in found if args.all else waiting:
        amount = ""
        if each["currency"] is not None:
            number = issue_command.number(each["amount_minor"], each["currency"])
            amount = f" · {number} {each['currency']}"
        print(
            f"{each['exception']} {each['state']} · {each['kind']} {each['result']}{amount} · "
            f"{each['receipt_no'] or each['sequence']} · {each['terminal']} · "
            f"{each['recorded_at']} · "
            f"{_REASONS.get(str(each['reason']), each['reason'])}"
        )
        if each["note"]:
            print(f"    {each['note']}")
    if not waiting:
        print("No open exception. 无待处理例外。")
        return DONE
    return NO
