"""`carepos till export` and `import-answers`: what the network would carry, carried by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from carepos import CareposError, Malformed, jws, strict_json, upload_file
from carepos import export as exporting
from carepos.export import Exported, NothingToExport
from carepos.money import format_amount
from carepos.upload_file import AnswersFile, Chain
from carepos_plugin import app
from carepos_plugin.client import PluginClient, PluginProblem, is_running
from carepos_plugin.http import MAX_BODY_BYTES

DONE, NO = 0, 1
TOLD_EVERY: Final = 5_000
_NOT_BELIEVED: Final = ("malformed", "signature_invalid")
PART_BYTES: Final = MAX_BODY_BYTES - 2_000


def export(args: argparse.Namespace) -> int:
    """0: the file is made; 1: there is nothing to carry, or a part of a mirror can't be read."""
    path: Path = args.file
    try:
        if args.mirror is not None:
            made = exporting.of_mirror(args.mirror, path, progress=_progress)
        else:
            with exporting.looked_at(args.folder, running=_is_running(args.folder)) as journal:
                made = exporting.of_journal(journal, path, everything=args.all, progress=_progress)
    except NothingToExport as nothing:
        print(f"Nothing to carry: {nothing}. 没有需要导出的记录。")
        return NO
    _tell(made, path)
    return NO if made.bad else DONE


def import_answers(args: argparse.Namespace) -> int:
    """0: all that the file answers is settled and nothing is open; 1: something stays open."""
    try:
        found = upload_file.read_answers(args.file)
    except Malformed as error:
        raise CareposError(f"{args.file} {error}; nothing was changed") from None
    _must_be_ours(found.chain, args)
    taken = 0
    problems: list[dict[str, Any]] = []
    if is_running(args.folder):
        plugin = PluginClient(args.folder)
        _take_keys(found, args.file, lambda keys: plugin.post("/api/ledger-keys", dict(keys)))
        for part in _parts(found.answers):
            done = plugin.post("/api/answers", {"answers": part})
            taken, problems = taken + done["taken"], problems + done["problems"]
        now = plugin.get("/api/status")
    else:
        with app.opened(args.folder) as opened:
            _take_keys(found, args.file, opened.counter.take_ledger_keys)
            done = opened.counter.take_answers(found.answers)
            taken, problems = done["taken"], done["problems"]
            opened.print_queue.print_waiting()
            now = opened.read_status()
    for each in found.bad:
        print(f"  line {each.number} is no answer 第{each.number}行无法读取: {each.why}")
    print(f"Taken 已接受: {taken} answers 条回执.")
    for problem in problems:
        print(f"  number {problem['sequence']}: {problem['problem']}")
    still = len(now["open"]) + len(now["corrections"]) + sum(s["count"] for s in now["stored"])
    if not problems and (why := _why_not_taken(args, found, taken)):
        print(why)
    print(f"Still open 仍未完成: {still}.")
    print(f"Not uploaded 未上传: {waiting(now['not_uploaded'])}")
    return NO if found.bad or problems or still else DONE


def waiting(count: int) -> str:
    """How much is not uploaded, with what it counts; a bare 0, for that is looked for."""
    if not count:
        return "0"
    unit = "sale, return or day report" if count == 1 else "sales, returns and day reports"
    return f"{count} {unit} 笔（含退货、日结）"


def _why_not_taken(args: argparse.Namespace, found: AnswersFile, taken: int) -> str:
    """What a person can do about answers that changed nothing; empty where all did."""
    answered = {upload_file.answered_digest(each) for each in found.answers}
    halves = 0
    with exporting.looked_at(args.folder, running=_is_running(args.folder)) as journal:
        for sale in journal.attempts("provisional"):
            own = journal.digests_of(sale.id, "redeem", "accept_offline")
            halves += 0 < len(answered & own) < len(own)
    if halves:
        sales = "1 sale" if halves == 1 else f"{halves} sales"
        return (
            f"  Of {sales} only one of two answers is in it: the file was cut. Bring a whole one. "
            "文件不完整，请重新导入完整的文件。"
        )
    if found.bad:
        return "  Lines are broken: bring a whole file. 文件已损坏，请重新导入完整的文件。"
    if not found.answers:
        return "  It holds no answers: it was cut, or nothing was decided. 文件中没有回执。"
    return "" if taken else "  None of them is news to this till. 本终端均已知晓。"


def _take_keys(
    found: AnswersFile, path: Path, take: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> None:
    """First of all: with them the answers are read. Whoever put keys here that are not the
    ledger's may have altered the rest as well, so nothing of such a file is taken."""
    if found.ledger_keys is None:
        return
    try:
        news = take(found.ledger_keys)["news"]
    except (Malformed, PluginProblem) as error:
        if error.code not in _NOT_BELIEVED:
            raise
        raise CareposError(
            f"{path}: the ledger's keys in it are not believed ({error.code}: {error}); "
            "nothing was changed. 文件中的账本密钥不可信，未作任何更改。"
        ) from None
    if news:
        print("The ledger's new keys were taken. 已接受账本的新密钥。")


def _must_be_ours(chain: Chain, args: argparse.Namespace) -> None:
    with exporting.looked_at(args.folder, running=is_running(args.folder)) as journal:
        about = journal.about()
    if chain.terminal != about["terminal"]:
        raise CareposError(f"{args.file} is for the till {chain.terminal}; nothing was changed")
    if chain.incarnation != about["incarnation"]:
        raise CareposError(f"{args.file} is for an earlier journal of this till; nothing changed")


def _parts(answers: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """As many at a time as the plugin takes; the answers to one sale and its acceptance together,
    for neither counts alone."""
    by_id: dict[str, list[Mapping[str, Any]]] = {}
    for each in answers:
        if "outcome" in each:
            an_id = str(jws.peek(each["outcome"], typ=jws.OUTCOME)[1].get("id"))
            by_id.setdefault(an_id, []).append(each)
    part: list[Mapping[str, Any]] = []
    length = 0
    for together in by_id.values():
        more = sum(len(strict_json.canonical(each)) + 1 for each in together)
        if part and length + more > PART_BYTES:
            yield part
            part, length = [], 0
        part, length = [*part, *together], length + more
    if part:
        yield part


def _is_running(folder: Path) -> bool:
    """Without leaving a lock file in a folder that had none."""
    try:
        return (folder / "journal.db.lock").exists() and is_running(folder)
    except OSError:
        return False  # a disk that can't be written: no till runs there


def _tell(made: Exported, path: Path) -> None:
    print(f"{_counted(made)} in {path}. 已导出 {made.records} 条记录。")
    for currency, (count, minor) in sorted(made.sums.items()):
        print(
            f"  sold without the ledger's word 离线受理: {count} × = "
            f"{format_amount(minor, currency)} {currency}"
        )
    if made.asked:
        sales = "1 sale" if made.asked == 1 else f"{made.asked} sales"
        print(
            f"  not in it 未包含: {sales} of which the till does not know whether the "
            "goods left. Answer first (carepos till goods); if this till can't run any more: --all"
        )
    for each in made.bad:
        print(f"  number {each.number} can't be read 无法读取: {each.why}")
    print("Next: bring the file to the programme's office, or send it; it may be sent twice.")
    print("They type: carepos ledger import-records FILE --answers ANSWERS")
    print("下一步：把该文件交给项目办公室（U盘或手机均可），重复提交无妨。")
    print("With what comes back: carepos till import-answers ANSWERS. 收到回执文件后导入。")


def _counted(made: Exported) -> str:
    if made.records == 1:
        return f"1 record, number {made.from_sequence}, is"
    return f"{made.records} records, numbers {made.from_sequence} to {made.to_sequence}, are"


def _progress(done: int, of: int) -> None:
    if done % TOLD_EVERY == 0:
        print(f"{done} of {of} records 条记录", file=sys.stderr)
