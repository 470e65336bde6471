"""`carepos till …`: set up a till, run it, and look after it.

While the plugin runs, its journal is its own and these commands go through it; else they open the
till themselves. Exit codes: 0 done; 1 the answer is no; 2 wrong usage, or it failed.
"""

from __future__ import annotations

import argparse
import errno
import json
import secrets
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from carepos import (
    CareposError,
    EnrolmentFailed,
    JournalCorrupt,
    Malformed,
    Paper,
    Refused,
    ReturnedLine,
    Till,
    TokenRefused,
    WrongState,
    clock,
    ids,
    jws,
    key_change,
    outcome,
    record,
)
from carepos.disk_room import DiskRoom
from carepos.enrolment import Enrolment
from carepos.journal_view import JournalView
from carepos.money import format_amount
from carepos.receipt import Receipt
from carepos.signers import Signers
from carepos.till import clock_of
from carepos.undo import REFUND_REASONS, VOID_REASONS
from carepos_plugin import (
    app,
    choice_words,
    drill,
    exceptions,
    held_code,
    offline_words,
    pairing,
    print_queue,
    sentences,
    shown,
    status,
    upload_commands,
)
from carepos_plugin.client import PluginClient, PluginProblem, is_running
from carepos_plugin.print_queue import Slip
from carepos_plugin.problems import Problem, problem_of
from carepos_plugin.settings import FILE, Settings

DONE, NO, FAILED = 0, 1, 2


def group(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `till` to the carepos command."""
    till = subparsers.add_parser(
        "till",
        help="the till beside the cash register 收银终端",
        description="Set up a till, run its plugin, and look after it.",
    )
    commands = till.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str, summary: str, work: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=summary, description=summary)
        parser.add_argument(
            "--folder",
            type=Path,
            default=Path(),
            help="the till's folder (default: the one you are in)",
        )
        parser.set_defaults(run=_guarded(work))
        return parser

    enrol = add("enrol", "make a folder a till, with the code from the office 注册终端", _enrol)
    enrol.add_argument("--url", required=True, help="the ledger's address, https://…")
    enrol.add_argument(
        "--code",
        required=True,
        help="the activation code; - reads it from stdin, where no other user sees it",
    )
    add("serve", "run the plugin until it is stopped 运行插件", _serve)
    pad = add(
        "pin-pad", "connect the screen on which holders enter a card's PIN 密码键盘", _pin_pad
    )
    pad.add_argument("--forget", action="store_true", help="no pad is connected any more")
    page = add(
        "returns-page", "open the page on which sales are taken back 撤销与退货", _returns_page
    )
    page.add_argument("--forget", action="store_true", help="no page is connected any more")
    add("device", "make the secret of a face or palm device 人脸或掌纹设备", _device)
    scan = add("scan", "say what a code is, read from stdin; takes nothing 识别扫码内容", _scan)
    scan.add_argument(
        "--pin-stdin", action="store_true", help="a card's PIN stands on stdin's second line"
    )
    standing = add("status", "what is open, and what happens next 状态", _status)
    standing.add_argument("--json", action="store_true", help="for programs instead of people")
    played = add(
        "drill", "play an outage: what would work, what not; takes nothing 断网演练", _drill
    )
    played.add_argument("--print", action="store_true", help="a slip too, which says DRILL")
    played.add_argument(
        "--code-stdin", action="store_true", help="what the code on stdin could buy, too"
    )
    played.add_argument(
        "--pin-stdin", action="store_true", help="a card's PIN stands on stdin's second line"
    )
    listed = add("exceptions", "the sales that a person must look at 需人工处理的单", _exceptions)
    listed.add_argument("--json", action="store_true", help="for programs instead of people")
    listed.add_argument(
        "--done", metavar="RECEIPT", help="this one was dealt with: off the list, for good"
    )
    listed.add_argument("--note", metavar="SENTENCE", help="what was done; no name in it")
    add("verify", "check every record and every outcome of the journal 校验流水", _verify)
    add("settle", "settle with the ledger what is open 处理未完成的单", _settle)
    close = add("close-day", "write the day report (Z) and send it 日结", _close_day)
    close.add_argument("--date", metavar="YYYY-MM-DD", help="the business date (default: today)")
    add("change-key", "sign with a new key from now on 更换终端密钥", _change_key)
    reset = add(
        "clock-reset", "take the office's word that the ledger's time is right 重置时钟校验", _reset
    )
    reset.add_argument("file", type=Path, metavar="FILE", help="what the office sent")
    export = add(
        "export", "what is not uploaded, as a file to carry 导出待上传记录", upload_commands.export
    )
    export.add_argument("file", type=Path, metavar="FILE", help="made anew, for example on a stick")
    what = export.add_mutually_exclusive_group()
    what.add_argument("--all", action="store_true", help="the whole journal, decided or not")
    what.add_argument(
        "--mirror", type=Path, metavar="FOLDER", help="from the second disk: the till's own is dead"
    )
    back = add(
        "import-answers",
        "take the ledger's answers from a file 导入回执",
        upload_commands.import_answers,
    )
    back.add_argument("file", type=Path, metavar="ANSWERS", help="what the office sent back")
    add(
        "sell-on",
        "the office has seen what this till lost when it was put back 还原后恢复离线核销",
        _sell_on,
    )
    add("retain", "delete what is past its time, as the plugin does daily 清理到期数据", _retain)
    reprint = add("reprint", "print a receipt again, marked COPY 补打小票", _reprint)
    reprint.add_argument("receipt_no", metavar="RECEIPT_NO")
    goods = add("goods", "say whether the goods of a sale were handed over 商品是否已交付", _goods)
    goods.add_argument("checkout", metavar="CHECKOUT")
    either = goods.add_mutually_exclusive_group(required=True)
    either.add_argument("--handed-over", action="store_true", help="the customer has them")
    either.add_argument("--kept", action="store_true", help="the shop has them: give back")
    cancel = add("cancel", "cancel a sale whose outcome is not known 撤销未知结果的单", _cancel)
    cancel.add_argument("checkout", metavar="CHECKOUT")
    accept = add(
        "accept", "let a sale whose outcome is not known go, to be booked later 离线受理", _accept
    )
    accept.add_argument("checkout", metavar="CHECKOUT")
    void = add("void", "take a whole confirmed sale back 撤销已核销的单", _void)
    void.add_argument("checkout", metavar="CHECKOUT")
    seen = add(
        "seen", "a void or refund that waited was refused: you have seen it 已知悉被拒绝", _seen
    )
    seen.add_argument("number", metavar="NUMBER", help="its own number, as status tells it")
    refund = add("refund", "give lines of a sale back to its vouchers 退货", _refund)
    refund.add_argument("receipt", metavar="RECEIPT", help="the receipt's number, or its QR")
    refund.add_argument(
        "lines",
        metavar="LINE:QUANTITY",
        nargs="*",
        help="2:1 is one unit of the second line; without any the lines are listed",
    )
    refund.add_argument(
        "--number", help="your number of this return: given twice, it is one return"
    )
    for undo, reasons in ((void, VOID_REASONS), (refund, REFUND_REASONS)):
        undo.add_argument("--cashier", default="office", help="who does it: a label, never a name")
        undo.add_argument("--approved-by", metavar="LABEL", help="the second person who was asked")
        undo.add_argument("--reason", choices=reasons, default="other")


def _guarded(
    work: Callable[[argparse.Namespace], int],
) -> Callable[[argparse.Namespace], int]:
    """Turn what can go wrong into one sentence on stderr and an exit code."""

    def run(args: argparse.Namespace) -> int:
        try:
            return work(args)
        except PluginProblem as error:
            return _said_no(error.document)
        except Problem as error:
            return _said_no(error.to_json())
        except (Refused, WrongState) as error:
            return _said_no(problem_of(error).to_json())
        except JournalCorrupt as error:
            print(
                f"carepos till: {error}. Nothing was changed, and this till can't be used any "
                "more: make a file of its journal for the programme's office (carepos till export "
                "FILE --all), keep the folder, and enrol a new till in another one. 流水校验失败："
                "请导出全部记录交给项目办公室，保留该文件夹，并在另一文件夹注册新终端。",
                file=sys.stderr,
            )
        except (CareposError, FileNotFoundError) as error:
            print(f"carepos till: {_sentence(error, args)}", file=sys.stderr)
        except sqlite3.DatabaseError as error:
            print(
                f"carepos till: the journal can't be read ({error}). Keep the folder and call the "
                "programme's office.",
                file=sys.stderr,
            )
        except OSError as error:
            what = f"{error.filename}: " if error.filename else ""
            print(f"carepos till: {what}{error.strerror or error}", file=sys.stderr)
        return FAILED

    return run


def _said_no(document: dict[str, Any]) -> int:
    """Print a problem document; 1 where the plugin is fine and the answer is no, else 2."""
    detail = document.get("detail")
    more = f" ({detail})" if detail else ""
    print(f"carepos till: {document.get('en')} {document.get('zh')}{more}", file=sys.stderr)
    return NO if document.get("status") in (404, 409, 410) else FAILED


def _sentence(error: Exception, args: argparse.Namespace) -> str:
    if isinstance(error, FileNotFoundError):
        missing = Path(error.filename or "")
        # What was named with the command is no part of the till, wherever it should lie.
        named = missing == getattr(args, "file", None)
        if named or missing.absolute().parent != args.folder.absolute():
            return f"{missing}: no such file. 没有此文件。"
        missing = Path(missing.name)
        return (
            f"{missing} is not in {args.folder}: enrol the till first (carepos till enrol), "
            "or name its folder with --folder"
        )
    return str(error)


# ── setting up and running ─────────────────────────────────────────────────────────────────────


def _enrol(args: argparse.Namespace) -> int:
    folder: Path = args.folder
    code = sys.stdin.readline() if args.code == "-" else args.code
    key_change.refuse_lost_key(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Before the code is spent, so that a till that is enrolled never lacks them.
    wrote_settings = Settings.write_default(folder)
    wrote_secret = pairing.make(folder)
    if (folder / "enrolment.json").exists():
        made = {FILE: wrote_settings, pairing.FILE: wrote_secret}
        what = ", ".join(f"a new {name} was made" for name, wrote in made.items() if wrote)
        print(
            f"{folder} is enrolled already; {what or 'nothing was changed'}. Run it: carepos till "
            f"serve --folder {folder}. For another till name another folder.",
            file=sys.stderr,
        )
        return NO
    enrolled = Till.enrol(folder, url=args.url, activation=code)
    print(f"Enrolled as till {enrolled.terminal_no:04d} of {enrolled.store_name}.")
    print(f"已注册为 {enrolled.store_name} 的 {enrolled.terminal_no:04d} 号终端。")
    print("Next:")
    if wrote_settings:
        print(f"  1. Look through {folder / FILE}: printer, paper width, language.")
    else:
        print(f"  1. {folder / FILE} was there and stays as it is.")
    kept = "made" if wrote_secret else "kept"
    print(f"  2. Give the register the pairing secret in {folder / pairing.FILE} ({kept});")
    print(f"     it sends it with every call, in the header {pairing.HEADER}.")
    print(f"  3. carepos till serve --folder {folder}")
    return DONE


def _serve(args: argparse.Namespace) -> int:
    settings = Settings.load(args.folder)
    if not settings.loopback:
        print(
            f"Warning: {settings.host} can be reached from other computers, and the pairing "
            "secret travels there in the clear. Use a cable of its own.",
            file=sys.stderr,
        )

    if settings.devices_host:
        print(
            f"Warning: at {settings.devices_url} PIN pad and devices are served to the network, "
            "unencrypted. Use a cable or a Wi-Fi of their own.",
            file=sys.stderr,
        )

    def ready(url: str) -> None:
        print(f"The plugin answers at {url} (Ctrl-C stops it). 插件已启动。", flush=True)

    try:
        app.serve(args.folder, ready=ready)
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno == errno.EADDRNOTAVAIL:
            why = (
                f"{settings.host} is not an address of this computer. "
                f"Correct host in {args.folder / FILE}."
            )
        else:
            why = (
                f"{settings.url} can't be used ({error.strerror or error}): is another plugin "
                f"running? Stop it, or give another port in {args.folder / FILE}."
            )
        print(f"carepos till: {why}", file=sys.stderr)
        return FAILED
    return DONE


def _pin_pad(args: argparse.Namespace) -> int:
    if not is_running(args.folder):
        print("Start the plugin first: carepos till serve. 请先启动插件。", file=sys.stderr)
        return NO
    plugin = PluginClient(args.folder)
    if args.forget:
        plugin.post("/api/pin-pad/forget")
        print("No PIN pad is connected. 已断开密码键盘。")
        return DONE
    link = plugin.post("/api/pin-pad/link")["link"]
    print("Open this on the screen that faces the holder; it works once, within ten minutes.")
    print("请在面向持卡人的屏幕上打开（十分钟内有效，仅限一次）：")
    print(f"  {link}")
    settings = Settings.load(args.folder)
    if not settings.devices_host and settings.loopback:
        print("It is a screen of this computer. For a tablet or phone set devices_host in")
        print(f"{args.folder / FILE}, restart the plugin, and make a new link.")
    elif sys.stdout.isatty():
        _print_qr(link)
    return DONE


def _print_qr(text: str) -> None:
    from qrcode import QRCode

    code = QRCode(border=2)
    code.add_data(text)
    code.print_ascii(invert=True)


def _device(args: argparse.Namespace) -> int:
    key_change.load_terminal(args.folder)
    made = pairing.make(args.folder, file=held_code.FILE)
    pairing.read(args.folder, held_code.FILE)  # one that is no good lets no device in: say so now
    path = args.folder / held_code.FILE
    print(f"The device's secret is in {path} ({'made' if made else 'kept'}).")
    print(f"设备密钥在 {path}。")
    print(f"The device sends it in the header {held_code.HEADER} when it posts what it read to")
    print(f"  {Settings.load(args.folder).devices_url}/device/code")
    return DONE


def _returns_page(args: argparse.Namespace) -> int:
    if not is_running(args.folder):
        print("Start the plugin first: carepos till serve. 请先启动插件。", file=sys.stderr)
        return NO
    plugin = PluginClient(args.folder)
    if args.forget:
        plugin.post("/api/returns-page/forget")
        print("No page for taking back is connected. 已断开撤销与退货页面。")
        return DONE
    link = plugin.post("/api/returns-page/link")["link"]
    print("Open this in a browser of this computer; it works once, within ten minutes.")
    print("请在本机浏览器中打开（十分钟内有效，仅限一次）：")
    print(f"  {link}")
    return DONE


def _scan(args: argparse.Namespace) -> int:
    """The code and the PIN come by stdin: arguments can be seen by everybody on a computer."""
    if is_running(args.folder):
        print("The plugin has this till open: scan at the register, or stop the plugin first.",
              file=sys.stderr)  # fmt: skip
        return NO
    code, pin = sys.stdin.readline().rstrip("\r\n"), None
    if args.pin_stdin:
        pin = sys.stdin.readline().strip()
    with app.opened(args.folder) as plugin:
        try:
            found = plugin.counter.told_of(code, pin)
        except Refused as error:
            look = error.looks_like if isinstance(error, TokenRefused) else None
            print(f"{error.code}{'' if look is None else f' ({look})'}")
            print(f"  {error.sentence('en')} {error.sentence('zh')}")
            return NO
    print(f"good 有效: {found['class']}, {len(found['vouchers'])} vouchers 张券")
    if found["acting"] is not None:
        print(f"  {found['acting']['en']} {found['acting']['zh']}")
    for each in found["vouchers"]:
        left, unit = each["left"], each["unit"]
        if unit is None and each["currency"] is not None:
            left, unit = format_amount(left, each["currency"]), each["currency"]
        print(f"  {each['programme_name']}: {each['label']}, left 剩余 {left} {unit or ''}")
    return DONE


# ── looking ────────────────────────────────────────────────────────────────────────────────────


def _status(args: argparse.Namespace) -> int:
    if is_running(args.folder):
        found = PluginClient(args.folder).get("/api/status")
    else:
        enrolled, view = _beside(args.folder)
        with closing(view):
            ratchet = clock_of(args.folder, enrolled, now=clock.system_clock)
            found = status.of_journal(args.folder, enrolled, view, ratchet=ratchet, running=False)
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        _print_status(found)
    return DONE


def _print_status(found: dict[str, Any]) -> None:
    terminal, ledger, printer = found["terminal"], found.get("ledger"), found.get("printer")
    print(f"Till 终端 {terminal['terminal_no']}, {terminal['store_name']}")
    if ledger is None:
        print("Plugin 插件: not running, start it 未运行，请启动: carepos till serve")
    else:
        heard = ledger["last_heard_at"] or "not since the start 启动后尚未联系"
        print(f"Ledger 账本: {ledger['url']}, last heard 最近联系 {heard}")
        if ledger["problem"]:
            print(f"  {ledger['problem']}")
    if found["stopped"] is not None:
        print(f"Stopped 停用: {found['stopped']['en']} {found['stopped']['zh']}")
    if found["healing"] is not None:
        print(f"{found['healing']['en']} {found['healing']['zh']}")
    print(f"Clock 时钟: {found['clock']['en']} {found['clock']['zh']}")
    print(f"Disk 磁盘: {found['disk']['en']} {found['disk']['zh']}")
    if mirrored := found.get("mirror"):
        print(f"Second disk 第二块磁盘: {mirrored['en']} {mirrored['zh']}")
    if put_back := found.get("put_back"):
        print(f"Put back 备份还原: {put_back['en']}\n  {put_back['zh']}")
    print(f"Pack 离线包: {_pack_text(found['pack'])}")
    print(f"Without a network 断网: {found['offline']['en']} {found['offline']['zh']}")
    print(f"Not uploaded 未上传: {upload_commands.waiting(found['not_uploaded'])}")
    print(f"For a person 人工处理: {found['exceptions']['en']} {found['exceptions']['zh']}")
    if printer is not None:
        print(f"Printer 打印机: {printer['printer']}, waiting 待打印 {printer['waiting']}")
        for slip in printer["unsure"]:
            print(f"  {slip['en']} {slip['zh']}")
    pad = found.get("pin_pad")
    if pad is not None and pad["paired"]:
        answers = "answers 正常" if pad["answering"] else "its page is closed 页面未打开"
        print(f"PIN pad 密码键盘: {answers}")
    _print_open(found)


def _print_open(found: dict[str, Any]) -> None:
    if not _has_open(found):
        print("Nothing is open. 没有未完成的单。")
    for each in found["stored"]:
        print(f"{each['en']}\n  {each['zh']}")
    for sale in found["open"]:
        _print_sale(sale)
    for undo in found["corrections"]:
        _print_undo(undo)


def _has_open(found: dict[str, Any]) -> bool:
    return any(found[name] for name in ("open", "stored", "corrections"))


def _print_undo(undo: dict[str, Any]) -> None:
    amount = format_amount(undo["amount_minor"], undo["currency"])
    what = {"void": "void 撤销", "refund": "refund 退货"}[undo["kind"]]
    print(
        f"{undo['receipt_no']}  {what}, sale 原单 {undo['sale_receipt_no']}  "
        f"{amount} {undo['currency']}  {undo['state']}"
    )
    for language in ("en", "zh"):
        print(f"  {undo['message'][language]} {undo['next'][language]}")


def _pack_text(held: dict[str, Any]) -> str:
    if held["issued_at"] is None:
        return "none 无"
    age_s = held["age_s"]
    age = f"{age_s // 86_400} d {age_s % 86_400 // 3_600} h {age_s % 3_600 // 60} min"
    keys = sum(each["keys"] for each in held["issuers"])
    return f"{held['issued_at']}, age 已过 {age}; issuers' keys 签发方密钥 {keys}, of the same age"


def _print_sale(sale: dict[str, Any]) -> None:
    amount = format_amount(sale["amount_minor"], sale["currency"])
    print(f"{sale['checkout']}  {sale['receipt_no']}  {amount} {sale['currency']}  {sale['state']}")
    for language in ("en", "zh"):
        print(f"  {sale['message'][language]} {sale['next'][language]}")
    if tries := sale.get("next_try"):
        print(f"  {tries['en']} {tries['zh']}")


def _drill(args: argparse.Namespace) -> int:
    """The code and the PIN come by stdin: arguments can be seen by everybody on a computer."""
    code = pin = None
    if args.code_stdin or args.pin_stdin:
        code = sys.stdin.readline().rstrip("\r\n")
    if args.pin_stdin:
        pin = sys.stdin.readline().strip()
    if not is_running(args.folder):
        found = _drill_beside(args.folder, code, pin, prints=args.print)
    elif pin is not None:
        print("The plugin has this till open: stop it first, for a PIN is counted.",
              file=sys.stderr)  # fmt: skip
        return NO
    else:
        body = {"print": bool(args.print), "code": code}
        found = PluginClient(args.folder).post("/api/drill", body)
    _print_drill(found)
    return DONE if found["passed"] else NO


def _drill_beside(
    folder: Path, code: str | None, pin: str | None, *, prints: bool
) -> dict[str, Any]:
    """Without a plugin: the folder is only looked at, but for a PIN, which must be counted."""
    settings = Settings.load(folder)

    def print_slip(slip: Receipt) -> Slip:
        printer, encode = app.printer_of(settings), app.encoder_of(settings).encode
        return print_queue.print_drill(slip, printer, encode, settings.columns)

    if pin is not None:
        with app.opened(folder) as plugin:
            return plugin.counter.drill(code, pin, print_slip if prints else None)
    enrolled, view = _beside(folder)
    with closing(view):
        ratchet = clock_of(folder, enrolled, now=clock.system_clock)
        return drill.played(
            folder,
            enrolled,
            view,
            ratchet=ratchet,
            disk=DiskRoom(folder).room(),
            paper=Paper(settings.language, settings.zone),
            code=code,
            prints=print_slip if prints else None,
        )


_MARKS = {True: "✓", False: "✗", None: "–"}


def _print_drill(found: dict[str, Any]) -> None:
    for each in found["checks"]:
        name = each["name"]
        print(f"{_MARKS[each['ok']]} {name['en']} {name['zh']}: {each['en']} {each['zh']}")
    for each in found["could_use"] or ():
        if each["refusal"] is not None:
            print(f"  {each['name']}: {each['refusal']['en']} {each['refusal']['zh']}")
        for voucher in each["vouchers"]:
            print(f"  {each['name']}: {voucher['label']}, up to 最多 {voucher['text']}")
    print(f"{found['en']} {found['zh']}")


def _exceptions(args: argparse.Namespace) -> int:
    """The journal is only looked at: it makes no difference whether the plugin runs."""
    if args.done is not None or args.note is not None:
        return _tick_off(args)
    enrolled, view = _beside(args.folder)
    with closing(view):
        found = exceptions.document(view, enrolled)
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return NO if found["count"] else DONE
    if not found["count"]:
        print(f"{found['en']} {found['zh']}")
        return DONE
    count = found["count"]
    print(f"{count} sale{' needs' if count == 1 else 's need'} a person. {count}单需要人工处理。")
    for each in found["exceptions"]:
        _print_exception(each)
    print("Once one is dealt with 处理完毕后: carepos till exceptions --done RECEIPT --note …")
    return NO


def _tick_off(args: argparse.Namespace) -> int:
    if args.done is None or args.note is None:
        raise CareposError("--done RECEIPT and --note SENTENCE go together")
    ids.parse_receipt_no(args.done)
    if is_running(args.folder):
        body = {"note": args.note}
        done = PluginClient(args.folder).post(f"/api/exceptions/{args.done}/done", body)
    else:
        with app.opened(args.folder) as plugin:
            done = plugin.counter.tick_off(args.done, args.note)
    print(f"{done['receipt_no']} is done 已了结: {done['note']} ({done['at']})")
    return DONE


def _print_exception(sale: dict[str, Any]) -> None:
    amount = format_amount(sale["amount_minor"], sale["currency"])
    risk = {
        None: "",
        "programme": ", programme's risk 项目承担",
        "merchant": ", shop's risk 本店承担",
    }
    print(
        f"{sale['receipt_no']}  {sale['occurred_at']}  {amount} {sale['currency']}  "
        f"{sale['state']}{risk[sale['liability']]}"
    )
    told = sale["ledger_said"] or sale["message"]
    for language in ("en", "zh"):
        print(f"  {told[language]} {sale['next'][language]}")


def _verify(args: argparse.Namespace) -> int:
    enrolled, view = _beside(args.folder)
    with closing(view):
        try:
            records, outcomes = verify(view, enrolled)
        except JournalCorrupt as error:
            print(f"NOT GOOD 校验失败: {error}. Keep the folder and call the programme's office.")
            return NO
    print(f"good 有效: {records} records, {outcomes} outcomes; chain and signatures hold")
    return DONE


def verify(view: JournalView, enrolled: Enrolment) -> tuple[int, int]:
    """Check every record's signature and place and every outcome's: (records, outcomes).

    Can be done beside a running plugin. Raises JournalCorrupt.
    """
    outcomes = count = 0
    try:
        about = view.about()
        head = record.first_prev(about["incarnation"])
        signers = Signers()
        for count, found in enumerate(view.records(), 1):
            place = (found.sequence, found.prev, found.incarnation, found.terminal)
            if place != (count, head, about["incarnation"], enrolled.terminal):
                raise JournalCorrupt(f"record {count} is not in its place", sequence=count)
            signers.admit(found)
            head = found.digest
            for text in view.outcomes_of(found.sequence):
                said = outcome.read_any(text, keys=enrolled.ledger_keys.keys)
                if said.record_sha256 != found.digest:
                    raise JournalCorrupt(f"record {count} has another's outcome", sequence=count)
                outcomes += 1
    except (Malformed, KeyError, sqlite3.DatabaseError) as error:
        raise JournalCorrupt(f"after record {count}: {error}") from error
    return count, outcomes


def _beside(folder: Path) -> tuple[Enrolment, JournalView]:
    """The till of a folder to be looked at only, whether or not a plugin runs it."""
    try:
        _, enrolled = key_change.load_terminal(folder)
    except FileNotFoundError:
        raise EnrolmentFailed(
            f"{folder} is not the folder of an enrolled till: enrol it (carepos till enrol), "
            "or name another with --folder"
        ) from None
    return enrolled, JournalView.open(folder / "journal.db", enrolled.terminal_keys)


# ── acting ─────────────────────────────────────────────────────────────────────────────────────


def _settle(args: argparse.Namespace) -> int:
    if is_running(args.folder):
        client = PluginClient(args.folder)
        before = client.get("/api/status")
        reached, found = client.post("/api/settle")["ledger_answered"], client.get("/api/status")
        ended = [client.get(f"/api/checkouts/{each}") for each in _no_more_open(before, found)]
    else:
        with app.opened(args.folder) as plugin:
            before = plugin.read_status(running=False)
            reached, found = plugin.chores(), plugin.read_status(running=False)
            ended = [plugin.counter.sale(each) for each in _no_more_open(before, found)]
            plugin.print_queue.print_waiting()
    for sale in ended:
        _print_sale(sale)
    told = offline_words.not_settled_said(found, reached)
    if told is not None:
        print(f"{told['en']}\n{told['zh']}")
    _print_open(found)
    return DONE if told is None and not _has_open(found) else NO


def _no_more_open(before: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Checkouts of sales that were open and are not any more."""
    still = {each["checkout"] for each in found["open"]}
    return [each["checkout"] for each in before["open"] if each["checkout"] not in still]


def _close_day(args: argparse.Namespace) -> int:
    if is_running(args.folder):
        body = {} if args.date is None else {"business_date": args.date}
        closed = PluginClient(args.folder).post("/api/day-close", body)
    else:
        with app.opened(args.folder) as plugin:
            closed = plugin.counter.close_day(args.date)
    print(
        f"Z {closed['z_no']}  {closed['business_date']}: "
        f"{closed['confirmed']} redeemed 已核销, {closed['refused']} refused 已拒绝, "
        f"{closed['reversed']} cancelled 已撤销, {closed['open']} open 未完成"
    )
    for each in closed["sums"]:
        amount = format_amount(each["amount_minor"], each["currency"])
        print(f"  {each['programme']}: {each['count']} × = {amount} {each['currency']}")
    for each in closed.get("undone", ()):
        amount = format_amount(each["amount_minor"], each["currency"])
        print(
            f"  {each['programme']}: taken back 退回 {each['count']} × = "
            f"{amount} {each['currency']}"
        )
    for each in closed["stored"]:
        amount = format_amount(each["amount_minor"], each["currency"])
        print(
            f"  {each['programme']}: sold without the ledger, counted in the Z of the day it is "
            f"booked 离线受理，入账当日计入 {each['count']} × = {amount} {each['currency']}"
        )
    if closed["acknowledged"]:
        print("The ledger has it. 账本已收到。")
    elif is_running(args.folder):
        print("The ledger does not have it yet; it goes up by itself. 账本尚未收到，将自动上传。")
    else:
        print(f"The ledger does not have it yet. 账本尚未收到。 {' '.join(sentences.NOT_RUNNING)}")
    return DONE


def _change_key(args: argparse.Namespace) -> int:
    before = _beside_key(args.folder)
    running = is_running(args.folder)
    # The till, wherever it runs, finds the new key beside the old one and changes over to it.
    if running:
        key_change.wish(args.folder)
        PluginClient(args.folder).post("/api/settle")
    else:
        with app.opened(args.folder) as plugin:
            key_change.wish(args.folder)
            plugin.chores()
    now = _beside_key(args.folder)
    if now != before:
        print(f"The till signs with a new key now, {now}. 已启用新密钥。")
        return DONE
    print(
        "The new key waits until the ledger has it; meanwhile the till sells on with the old one, "
        "and changes over by itself. 新密钥待账本确认，期间仍可正常收银，确认后自动启用。"
    )
    if not running:
        print(" ".join(sentences.NOT_RUNNING))
    return NO


def _beside_key(folder: Path) -> str:
    enrolled, view = _beside(folder)
    view.close()
    return enrolled.key.kid


def _reset(args: argparse.Namespace) -> int:
    read = args.file.read_bytes()[: jws.MAX_JWS_BYTES + 1]
    # Of a picture something short enough for a call is left, which is no reset either.
    text = read.decode("ascii", "replace").replace("\ufffd", "?").strip()
    if is_running(args.folder):
        at = PluginClient(args.folder).post("/api/clock-reset", {"reset": text})["time"]
    else:
        with app.opened(args.folder) as plugin:
            at = plugin.counter.reset_clock(text)["time"]
    print(f"The till reckons from {at} on. 终端自此时间起校验时钟。")
    return DONE


def _sell_on(args: argparse.Namespace) -> int:
    if is_running(args.folder):
        PluginClient(args.folder).post("/api/sell-on")
    else:
        with app.opened(args.folder) as plugin:
            plugin.counter.sell_on()
    print("Nothing that was lost keeps this till from selling without a network. 可以离线核销。")
    return DONE


def _retain(args: argparse.Namespace) -> int:
    if is_running(args.folder):
        gone = PluginClient(args.folder).post("/api/retain")
        visits, receipts = gone["visits"], gone["receipts"]
    else:
        with app.opened(args.folder) as plugin:
            visits, receipts = plugin.chores.forget()
    print(f"Deleted 已删除: visits {visits}, receipts' contents 小票内容 {receipts}.")
    return DONE


def _reprint(args: argparse.Namespace) -> int:
    number = args.receipt_no
    ids.parse_receipt_no(number)
    if is_running(args.folder):
        PluginClient(args.folder).post(f"/api/receipts/{number}/print")
        print("Queued, marked COPY. 已加入打印队列（副本）。")
        return DONE
    with app.opened(args.folder) as plugin:
        plugin.counter.reprint(number)
        plugin.print_queue.print_waiting()
        last = plugin.print_queue.last
    if last is None or last.state != "printed":
        why = "" if last is None else f" ({last.state}: {last.reason})"
        print(f"It may not be on paper{why}; look at the printer. 可能未打出，请检查打印机。")
        return NO
    print("Printed, marked COPY. 已打印（副本）。")
    return DONE


def _goods(args: argparse.Namespace) -> int:
    handed_over = bool(args.handed_over)
    if is_running(args.folder):
        target = f"/api/checkouts/{ids.label(args.checkout, 'CHECKOUT')}/goods"
        sale = PluginClient(args.folder).post(target, {"handed_over": handed_over})
    else:
        with app.opened(args.folder) as plugin:
            sale = plugin.counter.answer_goods(args.checkout, handed_over=handed_over)
            sale = shown.while_stopped(sale)
            plugin.print_queue.print_waiting()
    _print_sale(sale)
    return DONE


def _accept(args: argparse.Namespace) -> int:
    checkout = ids.label(args.checkout, "CHECKOUT")
    if not is_running(args.folder):
        # The scanned code is in that process's memory alone, and a restart asks instead.
        raise WrongState(choice_words.STOPPED, "accept_chosen")
    sale = PluginClient(args.folder).post(f"/api/checkouts/{checkout}/accept")
    _print_sale(sale)
    return DONE


def _cancel(args: argparse.Namespace) -> int:
    if is_running(args.folder):
        target = f"/api/checkouts/{ids.label(args.checkout, 'CHECKOUT')}/cancel"
        sale = PluginClient(args.folder).post(target)
    else:
        with app.opened(args.folder) as plugin:
            sale = shown.while_stopped(plugin.counter.cancel(args.checkout))
    _print_sale(sale)
    return DONE


def _void(args: argparse.Namespace) -> int:
    checkout = ids.label(args.checkout, "CHECKOUT")
    more = {"cashier": args.cashier, "reason": args.reason, "approved_by": args.approved_by}
    if is_running(args.folder):
        plugin = PluginClient(args.folder)
        number = plugin.get(f"/api/checkouts/{checkout}")["receipt_no"]
        done = plugin.post(f"/api/checkouts/{checkout}/void", {"receipt_no": number, **more})
    else:
        with app.opened(args.folder) as opened:
            number = opened.counter.sale(checkout)["receipt_no"]
            done = shown.while_stopped(opened.counter.void(checkout, number, **more))
            opened.print_queue.print_waiting()
    return _said_undo(done)


def _refund(args: argparse.Namespace) -> int:
    lines = [_returned(text) for text in args.lines]
    # Without a number of the shop's own each command is a return of its own.
    number = args.number or f"cli-{secrets.token_hex(8)}"
    more = {"cashier": args.cashier, "reason": args.reason, "approved_by": args.approved_by}
    if is_running(args.folder):
        plugin = PluginClient(args.folder)
        if not lines:
            return _print_returnable(plugin.post("/api/returns", {"receipt": args.receipt}))
        body = {"refund": number, "receipt": args.receipt, **more}
        done = plugin.post("/api/refunds", {**body, "lines": [each.to_json() for each in lines]})
    else:
        with app.opened(args.folder) as opened:
            if not lines:
                return _print_returnable(opened.counter.returnable(args.receipt))
            done = opened.counter.refund(number, args.receipt, lines, **more)
            done = shown.while_stopped(done)
            opened.print_queue.print_waiting()
    return _said_undo(done)


def _seen(args: argparse.Namespace) -> int:
    ids.parse_receipt_no(args.number)
    if is_running(args.folder):
        found = PluginClient(args.folder).post(f"/api/corrections/{args.number}/seen")
    else:
        with app.opened(args.folder) as opened:
            found = opened.counter.undo_seen(args.number)
    _print_undo(found)
    return DONE


def _returned(text: str) -> ReturnedLine:
    line, colon, quantity = text.partition(":")
    if not (colon and line.isascii() and line.isdigit() and quantity.isdigit()):
        raise Malformed("must look like 2:1", field="LINE:QUANTITY")
    return ReturnedLine(int(line), int(quantity))


def _print_returnable(found: dict[str, Any]) -> int:
    for line in found["lines"]:
        amount = format_amount(line["line_amount_minor"], found["currency"])
        print(
            f"{line['line']}: {line['description']}  {line['quantity']} {line['unit']}  {amount}"
            f"  can come back 可退 {line['left']}"
            f"{'' if line['programme_minor'] else ', no voucher paid for it 未用券支付'}"
        )
    return DONE


def _said_undo(done: dict[str, Any]) -> int:
    _print_undo(done)
    if done["taken_back"] and done["beneficiary_minor"]:
        amount = format_amount(done["beneficiary_minor"], done["currency"])
        how = ", once 只退一次" if done["repeated"] else ""
        print(f"  The shop gives back 本店退还{how}: {amount} {done['currency']}")
    return DONE if done["taken_back"] else NO
