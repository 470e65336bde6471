"""`carepos ledger …`: found a ledger, serve it, and do an operator's work over HTTP.

Exit codes: 0 done; 1 done or asked, but the answer is no (refused rows in a dry run, rows issued
differently, sums that do not hold, a call the ledger refused); 2 used wrongly, or it failed.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import json
import re
import sys
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.table import Table

from carepos import clock, ids, strict_json
from carepos.errors import CareposError, Malformed, NotDecided
from carepos.money import MAX_AMOUNT_MINOR, format_amount, minor_unit_digits
from carepos.product import normalise_gtin, parse_category, parse_product_key
from carepos_ledger import (
    alarm_hints,
    heal_commands,
    held_commands,
    home_commands,
    identity_commands,
    import_records,
    issue_command,
    operator_screen,
    privacy_commands,
)
from carepos_ledger.issue_command import IMPORT_KEY_FILE, MAX_CHUNK, MIN_CHUNK, Wish
from carepos_ledger.operator_client import SECRET_FILE, CommandStopped, OperatorClient
from carepos_ledger.settings import DEFAULT_AUDIENCE, DEFAULT_HOST, DEFAULT_PORT, FILE
from carepos_ledger.voucher_defaults import instant_text

DONE, NO, FAILED = 0, 1, 2

_RULES_WITHOUT_A_WORD: dict[str, object] = {
    "paused": False,
    "classes": ["once"],  # cards, and who may act, only where the programme's file says so
    "amr_any": [],
    "limit_per_redemption_minor": None,
    "top_up_allowed": False,
    "undo_window_s": 1800,
    "refunds": {"window_s": 1_209_600, "grace_s": 259_200},  # 14 days; 3 days more to use it
    "quotas": [],
}
_OFFLINE_WITHOUT_A_WORD: dict[str, object] = {"floor": None, "online_permille": 0}
"""TOML has no null."""
_AMOUNT = re.compile(r"([0-9]{1,13}|[0-9]{1,3}(?:,[0-9]{3}){1,4})(?:\.([0-9]{1,3}))?")
_HINTS = {
    "not_found": "check what you named",
    "already_exists_differently": "what is there is kept; look at it before you go on",
    "issuer_unavailable": "look at the address, and ask the issuer; nothing was changed",
    "not_funded": "fund the programme first",
    "still_worth": "name --forfeit if the person wants that",
    "leaves_spent": "name --leave-spent if you are sure",
    "sequence_gap": "decide those that are held before it first",
    "try_again": "try again in a moment",
    "ledger_healing": "open it first: carepos ledger heal open",
    "out_of_order": "name the files before it too, or their folder",
}

_MADE_BY_COMMANDS = ("funder", "issuer", "merchant", "product list", "programme", "store")

_Work = Callable[[argparse.Namespace], int]


def group(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ledger` to the carepos command."""
    commands = subparsers.add_parser(
        "ledger", help="found, serve and operate a ledger 账本"
    ).add_subparsers(required=True, metavar="COMMAND")
    _here(commands)
    _who_takes_part(commands)
    _money_and_vouchers(commands)
    _tills(commands)
    identity_commands.add_to(lambda name, summary, work: _remote(commands, name, summary, work))
    privacy_commands.add(lambda *named: _remote(commands, *named))
    held_commands.add(lambda *named: _remote(commands, *named))
    home_commands.add_to(lambda name, summary, work: _remote(commands, name, summary, work))
    _what_beneficiaries_say(commands)
    _after_a_loss(commands)


# ── on this machine ────────────────────────────────────────────────────────────────────────────


def _here(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    init = _leaf(
        commands,
        "init",
        "found a ledger: settings, keys, empty book, first operator",
        _in_the_ledger("init"),
    )
    init.add_argument("--folder", type=Path, required=True, metavar="FOLDER")
    init.add_argument(
        "--database",
        metavar="URL",
        help="default: an SQLite file in the folder; - reads it from stdin (it holds a password)",
    )
    init.add_argument("--audience", default=DEFAULT_AUDIENCE, help="what identity tokens must name")
    init.add_argument("--host", default=DEFAULT_HOST)
    init.add_argument("--port", type=int, default=DEFAULT_PORT)
    init.add_argument("--operator", default="office", metavar="NAME", help="the first operator")

    serve = _leaf(
        commands, "serve", "serve this folder's ledger until stopped", _in_the_ledger("serve")
    )
    serve.add_argument("--folder", type=Path, default=Path(), metavar="FOLDER")
    serve.add_argument("--host", help="instead of the one in ledger.toml")
    serve.add_argument("--port", type=int, help="instead of the one in ledger.toml")

    migrate = _leaf(
        commands,
        "migrate",
        "bring the database to this version's schema",
        _in_the_ledger("migrate"),
    )
    migrate.add_argument("--folder", type=Path, default=Path(), metavar="FOLDER")

    backup = _leaf(
        commands,
        "backup",
        "copy an SQLite book, also while it is served 备份",
        _in_the_ledger("backup", "backup"),
    )
    backup.add_argument("file", type=Path, metavar="FILE", help="a new one")
    backup.add_argument("--folder", type=Path, default=Path(), metavar="FOLDER")

    keys = _leaf(commands, "keys", "the ledger's own keys", _in_the_ledger("keys", "key_commands"))
    keys.add_argument("--folder", type=Path, default=Path(), metavar="FOLDER")

    rotate = _leaf(
        commands,
        "rotate-key",
        "a new signing key; the server must be restarted 更换签名密钥",
        _in_the_ledger("rotate_key", "key_commands"),
    )
    rotate.add_argument("--folder", type=Path, default=Path(), metavar="FOLDER")
    rotate.add_argument(
        "--root", type=Path, metavar="FILE", help="the root key; default: root.key in the folder"
    )

    reset = _leaf(
        commands,
        "clock-reset",
        "for a till that does not believe the ledger's time 终端时钟重置",
        _in_the_ledger("clock_reset", "key_commands"),
    )
    reset.add_argument("terminal", metavar="TERMINAL", help="see carepos ledger terminals")
    reset.add_argument("--folder", type=Path, default=Path(), metavar="FOLDER")
    reset.add_argument(
        "--to", type=Path, metavar="FILE", help="default: TERMINAL.reset, where you are"
    )

    operator = _leaf(
        commands,
        "operator",
        "a new operator's secret (the ledger stopped)",
        _in_the_ledger("operator"),
    )
    operator.add_argument("name", metavar="NAME")
    operator.add_argument("--folder", type=Path, default=Path(), metavar="FOLDER")
    operator.add_argument(
        "--to", type=Path, metavar="FILE", help="default: operator.secret in the folder"
    )


def _in_the_ledger(name: str, module: str = "founding") -> _Work:
    """A command that opens the database. Its module, and SQLAlchemy with it, is loaded only then:
    every other command starts in half the time."""

    def work(args: argparse.Namespace) -> int:
        found = importlib.import_module(f"carepos_ledger.{module}")
        return int(getattr(found, name)(args))

    return work


def _after_a_loss(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "bring back what the ledger lost, after a backup was restored 恢复丢失数据"
    heal = commands.add_parser("heal", help=summary, description=summary).add_subparsers(
        required=True, metavar="COMMAND"
    )
    begin = _leaf(
        heal,
        "begin",
        "once a backup is restored, the server stopped: tills wait from then 开始恢复",
        _in_the_ledger("begin", "heal_begin"),
    )
    begin.add_argument("--folder", type=Path, default=Path(), metavar="FOLDER")
    begin.add_argument(
        "--root", type=Path, metavar="FILE", help="the root key; default: root.key in the folder"
    )
    heal_commands.add(lambda *named: _remote(heal, *named))


# ── who takes part ─────────────────────────────────────────────────────────────────────────────


def _who_takes_part(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    funder = _remote(commands, "funder", "a funder", _funder)
    funder.add_argument("funder", metavar="NAME")
    funder.add_argument("title", metavar="TITLE")

    merchant = _remote(commands, "merchant", "a merchant", _merchant)
    merchant.add_argument("merchant", metavar="NAME")
    merchant.add_argument("title", metavar="TITLE")

    store = _remote(commands, "store", "a store of a merchant", _store)
    store.add_argument("store", metavar="NAME")
    store.add_argument("title", metavar="TITLE")
    store.add_argument("--merchant", required=True, metavar="NAME")

    products = _remote(commands, "product-list", "a new version of a product list", _product_list)
    products.add_argument("product_list", metavar="NAME")
    products.add_argument("version", type=int, metavar="VERSION", help="versions only grow")
    products.add_argument("file", type=Path, metavar="FILE.csv", help="columns key,category")

    programme = _remote(commands, "programme", "a programme, or new rules of one", _programme)
    programme.add_argument("file", type=Path, metavar="FILE", help="TOML or JSON")

    admit = _remote(commands, "admit", "let a store take a programme's vouchers", _admit)
    admit.add_argument("programme", metavar="PROGRAMME")
    admit.add_argument("store", metavar="STORE")
    admit.add_argument("--remove", action="store_true", help="no longer")


def _funder(client: OperatorClient, args: argparse.Namespace) -> int:
    return _tell(client.put(f"/funders/{_segment(args.funder)}", {"name": args.title}), args.funder)


def _merchant(client: OperatorClient, args: argparse.Namespace) -> int:
    path = f"/merchants/{_segment(args.merchant)}"
    return _tell(client.put(path, {"name": args.title}), args.merchant)


def _store(client: OperatorClient, args: argparse.Namespace) -> int:
    body = {"merchant": args.merchant, "name": args.title}
    return _tell(client.put(f"/stores/{_segment(args.store)}", body), args.store)


def _product_list(client: OperatorClient, args: argparse.Namespace) -> int:
    entries = read_product_csv(args.file)
    path = f"/product-lists/{_segment(args.product_list)}"
    answer = client.put(path, {"version": args.version, "entries": entries})
    return _tell(answer, f"{args.product_list} version {args.version}, {len(entries)} products")


def read_product_csv(path: Path) -> dict[str, str]:
    """Product key → category of a UTF-8 CSV with the columns `key,category`.

    A GTIN may be written with 8, 12, 13 or 14 digits. Raises CommandStopped naming the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandStopped(f"{path} is not UTF-8: save it as UTF-8.") from None
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    entries: dict[str, str] = {}
    try:
        if next(rows, None) != ["key", "category"]:
            raise CommandStopped(f"{path} must begin with the line key,category.")
        for row in rows:
            if not any(row):
                continue
            if len(row) != 2:
                raise Malformed("must have two columns")
            key = normalise_gtin(row[0]) if row[0].isdigit() else parse_product_key(row[0])
            if key in entries:
                raise Malformed("stands twice", field="key")
            entries[key] = parse_category(row[1])
    except (Malformed, csv.Error) as error:
        raise CommandStopped(f"{path}, line {rows.line_num}: {error}.") from None
    return entries


def _programme(client: OperatorClient, args: argparse.Namespace) -> int:
    rules = read_rules(args.file)
    programme = ids.name(rules.pop("programme", None), "programme")
    answer = client.put(f"/programmes/{programme}", rules)
    return _tell(answer, f"{programme}, rules version {answer.get('rules_version')}")


def read_rules(path: Path) -> dict[str, Any]:
    """A programme's rules from TOML or JSON; what may be left out is filled in.

    Raises CommandStopped, Malformed, OSError.
    """
    data = path.read_bytes()
    if path.suffix.lower() == ".json":
        found = strict_json.read_object(data)
    else:
        try:
            found = tomllib.loads(data.decode("utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CommandStopped(f"{path} is not TOML: {error}.") from None
    if isinstance(found.get("offline"), dict):
        found["offline"] = {**_OFFLINE_WITHOUT_A_WORD, **found["offline"]}
    return {
        **_RULES_WITHOUT_A_WORD,
        **{name: instant_text(value, name) for name, value in found.items()},
    }


def _admit(client: OperatorClient, args: argparse.Namespace) -> int:
    path = f"/programmes/{_segment(args.programme)}/stores/{_segment(args.store)}"
    answer = client.delete(path) if args.remove else client.put(path)
    return _tell(answer, f"{args.store}, rules version {answer.get('rules_version')}")


# ── money and vouchers ─────────────────────────────────────────────────────────────────────────


def _money_and_vouchers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fund = _remote(commands, "fund", "book a funder's money to a programme, once", _fund)
    fund.add_argument("programme", metavar="PROGRAMME")
    fund.add_argument("--funder", required=True, metavar="NAME")
    fund.add_argument("--amount", required=True, help="as money is written: 142740 or 142,740.00")
    fund.add_argument("--reference", required=True, help="the transfer's; known ones book nothing")

    reserve = _remote(
        commands,
        "reserve-losses",
        "set money aside for offline sales that no voucher covers, once 损失准备",
        _reserve_losses,
    )
    reserve.add_argument("programme", metavar="PROGRAMME")
    reserve.add_argument("--amount", required=True, help="as money is written")
    reserve.add_argument("--reference", required=True, help="yours; a known one books nothing")

    issue = _leaf(commands, "issue", "issue a list's vouchers 批量发放", _issue)
    _address(issue)
    issue.add_argument("file", type=Path, metavar="FILE.csv")
    issue.add_argument("--mapping", type=Path, required=True, metavar="FILE.toml")
    issue.add_argument("--programme", required=True, metavar="NAME")
    issue.add_argument(
        "--enrolment", type=Path, metavar="FILE.csv", default=Path("enrolment.csv"),
        help="written for the issuer: line, iss, sub",
    )  # fmt: skip
    issue.add_argument(
        "--import-key", type=Path, metavar="FILE", help=f"default: {IMPORT_KEY_FILE} in the folder"
    )
    issue.add_argument("--chunk", type=int, default=250, help="rows per request, 100 to 500")
    issue.add_argument("--dry-run", action="store_true", help="read and judge only; 1 if refused")
    issue.add_argument("--currency", help="with --dry-run: judge without asking the ledger")
    issue.add_argument("--replace", action="store_true", help="overwrite another enrolment file")

    freeze = _remote(commands, "freeze", "freeze a voucher", _freeze)
    freeze.add_argument("programme", metavar="PROGRAMME")
    which = freeze.add_mutually_exclusive_group(required=True)
    which.add_argument("--voucher", metavar="ID")
    which.add_argument("--ref", metavar="REF")
    freeze.add_argument("--thaw", action="store_true", help="no longer")

    status = _remote(commands, "status", "a programme's money, and whether it adds up", _status)
    status.add_argument("programme", metavar="PROGRAMME")
    status.add_argument("--json", action="store_true", help="for programs instead of people")


def _fund(client: OperatorClient, args: argparse.Namespace) -> int:
    path = f"/programmes/{_segment(args.programme)}"
    currency = strict_json.text(client.get(path).get("currency"), "currency", low=3, high=3)
    amount_minor = read_amount(args.amount, currency)
    answer = client.post(
        f"{path}/funds",
        {"funder": args.funder, "amount_minor": amount_minor, "reference": args.reference},
    )
    shown = f"{format_amount(amount_minor, currency)} {currency} of {args.funder}"
    return _tell(answer, shown)


def _reserve_losses(client: OperatorClient, args: argparse.Namespace) -> int:
    path = f"/programmes/{_segment(args.programme)}"
    currency = strict_json.text(client.get(path).get("currency"), "currency", low=3, high=3)
    amount_minor = read_amount(args.amount, currency)
    answer = client.post(
        f"{path}/loss-reserve", {"amount_minor": amount_minor, "reference": args.reference}
    )
    return _tell(answer, f"{format_amount(amount_minor, currency)} {currency} for losses")


def read_amount(text: str, currency: str) -> int:
    """Minor units of an amount as people write it. Raises CommandStopped."""
    digits = minor_unit_digits(currency)
    match = _AMOUNT.fullmatch(text)
    part = (match[2] or "") if match else ""
    if match is None or len(part) > digits:
        raise CommandStopped(f"{text!r} is no amount of {currency}: write it like 142740.00.")
    amount_minor = int(match[1].replace(",", "") + part.ljust(digits, "0"))
    return strict_json.integer(amount_minor, "--amount", low=1, high=MAX_AMOUNT_MINOR)


def _issue(args: argparse.Namespace) -> int:
    strict_json.integer(args.chunk, "--chunk", low=MIN_CHUNK, high=MAX_CHUNK)
    wish = Wish(
        file=args.file,
        mapping=args.mapping,
        programme=ids.name(args.programme, "--programme"),
        enrolment=args.enrolment,
        import_key=args.import_key or args.folder / IMPORT_KEY_FILE,
        chunk=args.chunk,
        dry_run=args.dry_run,
        replace=args.replace,
    )
    console = operator_screen.console()
    if args.dry_run and args.currency:
        return DONE if issue_command.dry_run(wish, args.currency, console) else NO
    with closing(OperatorClient.of_folder(args.folder, args.url)) as client:
        if args.dry_run:
            currency = str(client.get(f"/programmes/{wish.programme}").get("currency"))
            return DONE if issue_command.dry_run(wish, currency, console) else NO
        return DONE if issue_command.run(wish, client, console) else NO


def _freeze(client: OperatorClient, args: argparse.Namespace) -> int:
    named = {"voucher": args.voucher} if args.voucher else {"ref": args.ref}
    path = f"/programmes/{_segment(args.programme)}/freeze"
    answer = client.post(path, {**named, "frozen": not args.thaw})
    return _tell(answer, "thawed" if args.thaw else "frozen")


def _status(client: OperatorClient, args: argparse.Namespace) -> int:
    sums = client.get(f"/programmes/{_segment(args.programme)}/sums")
    if args.json:
        print(json.dumps(sums, ensure_ascii=False))
        return NO if sums.get("differences") else DONE
    currency = strict_json.text(sums.get("currency"), "currency", low=3, high=3)
    table = Table(title=f"{args.programme} ({currency})", title_justify="left")
    table.add_column("")
    table.add_column("amount", justify="right")
    for name, title in (
        ("funded_minor", "funded 资金"),
        ("unreserved_minor", "  unreserved 未发放"),
        ("loss_reserve_minor", "  loss reserve 损失准备"),
        ("lost_minor", "  lost 已损失"),
        ("issued_minor", "  issued 已发放"),
        ("available_minor", "    available 可用"),
        ("allotted_minor", "    set aside for tills 已预留"),
        ("saved_minor", "    saved 结余"),
        ("redeemed_minor", "    redeemed 已核销"),
        ("returned_minor", "    returned 已退回"),
    ):
        amount = strict_json.integer(sums.get(name), name, low=-strict_json.MAX_INTEGER)
        table.add_row(title, issue_command.number(amount, currency))
    table.add_row("vouchers 券", str(sums.get("vouchers")))
    console = operator_screen.console()
    console.print(table)
    differences = strict_json.array(sums.get("differences"), "differences")
    for sentence in differences:
        console.print(f"DOES NOT ADD UP 账不平: {sentence}")
    if differences:
        return NO
    console.print("Both sums hold. 两项合计均平。")
    return DONE


# ── tills ──────────────────────────────────────────────────────────────────────────────────────


def _tills(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    activate = _remote(commands, "activate", "a one-time code for a new till of a store", _activate)
    activate.add_argument("store", metavar="STORE")
    activate.add_argument("--hours", type=int, default=72, help="how long it may be used")
    activate.add_argument("--no-qr", action="store_true", help="the code as text only")

    _remote(commands, "terminals", "every till", _terminals)

    carried = _leaf(
        commands,
        "import-records",
        "post what a till exported, for it 导入终端记录文件",
        import_records.run,
    )
    _address(carried)
    carried.add_argument("files", type=Path, nargs="+", metavar="FILE")
    carried.add_argument(
        "--answers",
        type=Path,
        metavar="ANSWERS",
        help="the file that goes back to the till; a folder, where the files are of several tills",
    )

    suspend = _remote(commands, "suspend", "suspend a till", _suspend)
    suspend.add_argument("terminal", metavar="TERMINAL")
    instead = suspend.add_mutually_exclusive_group()
    instead.add_argument("--resume", action="store_true", help="let it redeem again")
    instead.add_argument("--revoke", action="store_true", help="for ever")

    alarms = _remote(commands, "alarms", "what somebody should look at; 1 if there is any", _alarms)
    alarms.add_argument("--after", type=int, default=0, metavar="N", help="only later ones")
    alarms.add_argument("--all", action="store_true", help="those that are over too")

    close = _remote(commands, "close", "close settlement batches 日结", _close)
    close.add_argument("--merchant", metavar="NAME", help="only this one's")
    close.add_argument("--programme", metavar="NAME", help="only of this one")


def _activate(client: OperatorClient, args: argparse.Namespace) -> int:
    answer = client.post("/activations", {"store": args.store, "valid_s": args.hours * 3600})
    code = str(answer.get("activation"))
    if not args.no_qr:
        _print_qr(code)
    print(code)
    print(f"For one till of {args.store}, until {answer.get('expires_at')}.", file=sys.stderr)
    return DONE


def _print_qr(text: str) -> None:
    """As block characters, where the package that draws them is installed."""
    try:
        qrcode = importlib.import_module("qrcode")
    except ModuleNotFoundError:
        return
    drawing = qrcode.QRCode(border=2)
    drawing.add_data(text)
    # Beside the output, not in it: a script reads the code from there.
    drawing.print_ascii(out=sys.stderr, invert=True)


def _terminals(client: OperatorClient, _: argparse.Namespace) -> int:
    found = strict_json.array(client.get("/terminals").get("terminals"), "terminals", high=10**6)
    now = clock.system_clock()
    for each in found:
        since = clock.from_text(each.get("key_since"), "key_since")
        each["key"] = f"{each.get('kid')}{' (changing 更换中)' if each.get('key_changing') else ''}"
        each["key age"] = f"{max(0, (now - since).days)} d"
    columns = ("terminal_no", "terminal", "merchant", "store", "status", "key", "key age")
    operator_screen.console().print(operator_screen.table(columns, found))
    return DONE


def _suspend(client: OperatorClient, args: argparse.Namespace) -> int:
    status = "revoked" if args.revoke else "active" if args.resume else "suspended"
    path = f"/terminals/{_segment(args.terminal)}/status"
    return _tell(client.put(path, {"status": status}), f"{args.terminal} is {status}")


def _alarms(client: OperatorClient, args: argparse.Namespace) -> int:
    alarms = client.pages("/alarms", "alarms", number="n", after=args.after)
    waiting = [each for each in alarms if not each["over"]]
    if shown := alarms if args.all else waiting:
        operator_screen.console().print(
            operator_screen.table(("n", "at", "kind", "terminal", "digest"), shown)
        )
    for kind in sorted({str(each["kind"]) for each in waiting}):
        print(f"{kind}: {alarm_hints.hint(kind)}")
    over = len(alarms) - len(waiting)
    if over:
        print(f"{over} data_lost: over, the ledger was healed. 数据丢失告警已由恢复处理。")
    if not waiting:
        print("No alarms. 无告警。" if not over else "No other alarms. 无其他告警。")
        return DONE
    return NO


def _close(client: OperatorClient, args: argparse.Namespace) -> int:
    only = {"merchant": args.merchant, "programme": args.programme}
    body = {name: value for name, value in only.items() if value is not None}
    closed = strict_json.array(client.post("/close", body).get("closed"), "closed", high=10**6)
    if not closed:
        print("Nothing to close: every booking is in a batch. 无待结算。")
        return DONE
    columns = ("merchant", "programme", "batch_no", "rows", "net", "currency")
    for each in closed:
        each["net"] = issue_command.number(each["net_minor"], each["currency"])
    operator_screen.console().print(operator_screen.table(columns, closed))
    return DONE


# ── what beneficiaries say ─────────────────────────────────────────────────────────────────────


def _what_beneficiaries_say(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    disputes = _remote(
        commands, "disputes", "“I did not buy this”: list, answer; 1 if any is open 异议", _disputes
    )
    disputes.add_argument("--all", action="store_true", help="those that are answered too")
    disputes.add_argument("--answer", type=int, metavar="N", help="answer this one, for good")
    verdict = disputes.add_mutually_exclusive_group()
    verdict.add_argument("--upheld", action="store_const", const="upheld", dest="state")
    verdict.add_argument("--rejected", action="store_const", const="rejected", dest="state")
    disputes.add_argument(
        "--say", metavar="SENTENCE", help="what the beneficiary reads; no name, no number in it"
    )

    excepted = _remote(
        commands,
        "exceptions",
        "sales without the ledger that a person looks at; 1 if any is open 离线例外",
        _exceptions,
    )
    excepted.add_argument("--all", action="store_true", help="those that are closed too")
    excepted.add_argument("--close", type=int, metavar="N", help="close this one, for good")
    excepted.add_argument("--note", metavar="SENTENCE", help="what was done; no name in it")
    excepted.add_argument("--json", action="store_true", help="for programs instead of people")

    _remote(commands, "stops", "vouchers that their holders stopped; 1 if there is any", _stops)


def _disputes(client: OperatorClient, args: argparse.Namespace) -> int:
    if args.answer is not None:
        if args.state is None or args.say is None:
            raise CommandStopped(
                "An answer needs --upheld or --rejected, and --say with a sentence for the "
                "beneficiary."
            )
        answer = client.put(f"/disputes/{args.answer}", {"state": args.state, "sentence": args.say})
        return _tell(answer, f"dispute {args.answer} is {args.state}")
    if args.state is not None or args.say is not None:
        raise CommandStopped("Name the dispute with --answer.")
    found = client.pages("/disputes", "disputes", number="dispute")
    waiting = [each for each in found if each["state"] == "open"]
    # Lines, not a table: a receipt number that is cut off is none.
    for each in found if args.all else waiting:
        amount = issue_command.number(each["amount_minor"], each["currency"])
        acted = f" · {each['acted']}" if each["acted"] else ""
        undone = " · reversed" if each["reversed"] else ""
        if each["returned_minor"] and not each["reversed"]:
            undone = f" · {issue_command.number(each['returned_minor'], each['currency'])} returned"
        print(
            f"{each['dispute']} {each['state']} · {each['reason']} · {each['receipt_no']} · "
            f"{amount} {each['currency']} · {each['store']} {each['store_name']} · "
            f"{each['recorded_at']}{acted}{undone}"
        )
        if each["answer"]:
            print(f"    {each['answer']}")
    if not waiting:
        print("No open dispute. 无待处理异议。")
        return DONE
    return NO


def _exceptions(client: OperatorClient, args: argparse.Namespace) -> int:
    if args.close is not None:
        if args.note is None:
            raise CommandStopped("Closing one needs --note with what was done.")
        answer = client.put(f"/exceptions/{args.close}", {"note": args.note})
        return _tell(answer, f"exception {args.close} is closed")
    found = client.pages("/exceptions", "exceptions", number="exception")
    waiting = [each for each in found if each["state"] == "open"]
    shown = found if args.all else waiting
    if args.json:
        print(json.dumps({"exceptions": shown}, ensure_ascii=False))
        return NO if waiting else DONE
    for each in shown:
        amount = issue_command.number(each["amount_minor"], each["currency"])
        print(
            f"{each['exception']} {each['state']} · {each['receipt_no'] or 'no receipt number'} · "
            f"{each['reason']} · {amount} {each['currency']} · {each['liability']} liable · "
            f"{each['store']} · {each['terminal']} · {each['occurred_at']}"
        )
        if each["note"]:
            print(f"    {each['note']}")
    if not waiting:
        print("No open exception. 无待处理例外。")
        return DONE
    return NO


def _stops(client: OperatorClient, _: argparse.Namespace) -> int:
    found = strict_json.array(client.get("/stops").get("stops"), "stops")
    if not found:
        print("No voucher is stopped. 无停用券。")
        return DONE
    operator_screen.console().print(
        operator_screen.table(("programme", "voucher", "stopped_at"), found)
    )
    print("To free one: carepos ledger freeze PROGRAMME --voucher ID --thaw", file=sys.stderr)
    return NO


# ── every command ──────────────────────────────────────────────────────────────────────────────


def _leaf(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    work: _Work,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=_guarded(work))
    return parser


def _remote(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    work: Callable[[OperatorClient, argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """A command that talks to a ledger over HTTP."""

    def run(args: argparse.Namespace) -> int:
        with closing(OperatorClient.of_folder(args.folder, args.url)) as client:
            return work(client, args)

    parser = _leaf(commands, name, summary, run)
    _address(parser)
    return parser


def _address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help=f"the operator's folder, which holds {SECRET_FILE}; default: this one",
    )
    parser.add_argument("--url", help=f"the ledger's address; default: the one in {FILE}")


def _guarded(work: _Work) -> _Work:
    """What can go wrong becomes one sentence on stderr: what happened, and what to do."""

    def run(args: argparse.Namespace) -> int:
        try:
            return work(args)
        except NotDecided as error:
            print(f"The ledger refused: {_refusal(error)}.", file=sys.stderr)
            return NO
        except CareposError as error:
            print(error, file=sys.stderr)
        except OSError as error:
            print(f"{error.filename or 'A file'}: {error.strerror or 'failed'}.", file=sys.stderr)
        except ModuleNotFoundError as error:
            extra = "postgres" if error.name == "psycopg" else "ledger"
            print(f"{error.name} is missing: pip install 'carepos[{extra}]'.", file=sys.stderr)
        except RuntimeError as error:
            print(error, file=sys.stderr)
        return FAILED

    return run


def _refusal(error: NotDecided) -> str:
    hint = _HINTS.get(error.code)
    if error.code == "not_found" and error.detail.removeprefix("no such ") in _MADE_BY_COMMANDS:
        hint = "check the name, or make it first"
    said = error.detail or error.code.replace("_", " ")
    return f"{said} — {hint}" if hint else said


def _tell(answer: dict[str, Any], what: str) -> int:
    operator_screen.tell(answer, what)
    return DONE


def _segment(text: str) -> str:
    """One part of an address; what is no name the ledger refuses with its reason."""
    return quote(text, safe="") or "-"
