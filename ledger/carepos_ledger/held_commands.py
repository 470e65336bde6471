"""`carepos ledger held` and `chain`: what only people can decide, and what becomes of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from carepos import strict_json
from carepos.money import format_amount
from carepos_ledger import operator_screen
from carepos_ledger.operator_client import CommandStopped, OperatorClient

DONE, NO = 0, 1

_Work = Callable[[OperatorClient, argparse.Namespace], int]
_Add = Callable[[str, str, _Work], argparse.ArgumentParser]


def add(command: _Add) -> None:
    """Add the two; `command` makes a parser of a name, a summary and its work."""
    held = command(
        "held", "records that wait for a person: list, show, decide; 1 if any waits 待审记录", _held
    )
    held.add_argument("n", type=int, nargs="?", metavar="N", help="show this one, or decide it")
    word = held.add_mutually_exclusive_group()
    word.add_argument(
        "--post", action="store_true", help="decide it now, as if its till were in good standing"
    )
    word.add_argument("--refuse", action="store_true", help="do not accept it: nothing is booked")
    held.add_argument(
        "--code", default="not_accepted", help="with --refuse: what its till reads (not_accepted)"
    )
    held.add_argument("--say", metavar="SENTENCE", help="why, for the book; no name in it")
    held.add_argument(
        "--leave-spent",
        action="store_true",
        help="with --refuse of a reversal: what it would give back may stay spent",
    )
    chain = command(
        "chain",
        "a till's journals: what came, what is missing; 1 if anything is 终端记录链",
        _chain,
    )
    chain.add_argument("terminal")


def _held(client: OperatorClient, args: argparse.Namespace) -> int:
    if args.n is None:
        if args.post or args.refuse:
            raise CommandStopped("Name the record by its number N.")
        return _list(client)
    if args.post or args.refuse:
        return _decide(client, args)
    print(json.dumps(client.get(f"/held/{args.n}"), ensure_ascii=False, indent=2))
    return DONE


def _list(client: OperatorClient) -> int:
    found = client.pages("/held", "held", number="n")
    # Lines, not a table: a receipt number that is cut off is none.
    for each in found:
        amount = ""
        if each["amount_minor"] is not None and each["currency"] is not None:
            shown = format_amount(each["amount_minor"], each["currency"])
            amount = f" · {shown} {each['currency']} · {each['programme'] or ''}".rstrip(" ·")
        token = f" · token {each['token']}" if each["token"] else ""
        gone = " · sold offline 离线售出" if each["sold_offline"] else ""
        print(
            f"{each['n']} {each['kind']} · {each['receipt_no'] or each['sequence']}{amount} · "
            f"{each['terminal']} · {each['store']} {each['store_name']} · {each['occurred_at']} · "
            f"{each['reason']}{token}{gone}"
        )
    if not found:
        print("Nothing is held. 无待审记录。")
        return DONE
    print("Look at one: carepos ledger held N; decide it: --post, or --refuse --say WHY")
    return NO


def _decide(client: OperatorClient, args: argparse.Namespace) -> int:
    body: dict[str, Any] = {"decision": "post" if args.post else "refuse"}
    if args.say is not None:
        body["sentence"] = args.say
    if args.refuse:
        if args.say is None:
            raise CommandStopped("--refuse needs --say with a sentence: why it is not accepted.")
        body |= {"code": args.code, "leaves_spent": args.leave_spent}
    answer = client.put(f"/held/{args.n}", body)
    operator_screen.tell(answer, f"record {args.n} is {answer.get('outcome')}")
    return DONE


def _chain(client: OperatorClient, args: argparse.Namespace) -> int:
    answer = client.get(f"/terminals/{quote(args.terminal, safe='') or '-'}/chains")
    print(f"{answer['terminal']} · {answer['status']}")
    missing = False
    for each in strict_json.array(answer.get("chains"), "chains", high=10**6):
        missing = missing or bool(each["missing"])
        print(
            f"journal 日志 {each['incarnation']} · came up to 已收至 {each['arrived_to']} · "
            f"missing 缺号 {_numbers(each['missing'])} · held 待审 {_numbers(each['held'])}"
        )
    return NO if missing else DONE


def _numbers(of: list[int]) -> str:
    return ", ".join(map(str, of)) or "—"
