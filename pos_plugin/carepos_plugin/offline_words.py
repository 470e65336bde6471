"""What people read of selling without a network: readiness, what is stored, what a person must see.

Each returns JSON of numbers, with one sentence in `en` and `zh`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from carepos import clock, elapsed, money
from carepos.journal_view import Kept
from carepos.outcome import NotServed
from carepos.readiness import Amount, Readiness, Stored, Why
from carepos_plugin.sentences import DISK_FAILED, DISK_FULL, length_zh, said

WHY_NOT: Final[Mapping[Why, tuple[str, str]]] = {
    "terminal_revoked": (
        (
            "The office has revoked this till, it sells no more: keep its folder and call the "
            "programme's office; the shop needs another till."
        ),
        "本收银终端已被撤销，不能再核销：请保留其文件夹并联系项目办公室，另行启用新终端。",
    ),
    "terminal_forked": (
        (
            "Two copies of this till were seen, it sells no more: keep its folder and call the "
            "programme's office; the shop needs another till."
        ),
        "检测到本终端的两个副本，不能再核销：请保留其文件夹并联系项目办公室，另行启用新终端。",
    ),
    "terminal_suspended": (
        (
            "This till is suspended: call the programme's office. Once they let it go on, run "
            "carepos till settle."
        ),
        "本收银终端已暂停：请联系项目办公室；恢复后运行 carepos till settle。",
    ),
    "put_back": (
        (
            "This till was put back from a backup and has forgotten what its second disk holds: "
            "see carepos till status."
        ),
        "本终端曾用备份还原，第二块磁盘上有它已不知道的记录：请看 carepos till status。",
    ),
    "clock_wrong": (
        "The clock is wrong: set date and time.",
        "时钟不准：请校准日期和时间。",
    ),
    "disk_failed": DISK_FAILED,
    "disk_full": DISK_FULL,
    "no_pack": (
        "There is no offline pack yet: connect the network and run carepos till settle.",
        "尚无离线包：请联网后运行 carepos till settle。",
    ),
    "pack_damaged": (
        "The offline pack is damaged: connect the network and run carepos till settle.",
        "本机离线包已损坏：请联网后运行 carepos till settle。",
    ),
    "no_households": (
        (
            "The offline pack has no households: connect the network and run carepos till settle; "
            "if that does not help, call the programme's office."
        ),
        "离线包中没有家庭资料：请联网后运行 carepos till settle；若仍无效，请联系项目办公室。",
    ),
    "nobody_at_home": (
        "No household shops here yet: each is prepared once it has redeemed here with a network.",
        "本店尚无常客家庭：家庭在本店联网核销一次后即可离线使用。",
    ),
    "offline_not_allowed": (
        "No programme of this shop may be redeemed without a network: that is the office's choice.",
        "本店没有允许离线核销的项目，由项目办公室决定。",
    ),
    "pack_old": (
        "The offline pack is too old: connect the network and run carepos till settle.",
        "离线包已过期：请联网后运行 carepos till settle。",
    ),
    "no_evidence_key": (
        "The offline pack lacks the ledger's evidence key: call the programme's office.",
        "离线包缺少账本的凭证密钥：请联系项目办公室。",
    ),
    "nothing_set_aside": (
        (
            "Nothing is set aside for this till, or all of it is used: connect the network and run "
            "carepos till settle."
        ),
        "没有为本终端预留额度，或已用完：请联网后运行 carepos till settle。",
    ),
    "stored_full": (
        "As much is stored as may be: connect the network, so that it goes up.",
        "离线单已达上限：请联网上传。",
    ),
}


def priced(amount_minor: int, currency: str) -> str:
    """`1230000` CNY → `¥12,300.00`; other currencies by their code."""
    whole, point, part = money.format_amount(amount_minor, currency).partition(".")
    told = f"{int(whole):,}{point}{part}"
    return f"¥{told}" if currency == "CNY" else f"{told} {currency}"


def span(seconds: int) -> tuple[str, str]:
    """How long, in days and hours where it is more than a day; English and Chinese."""
    days, rest = divmod(seconds, 86_400)
    if not days or rest < 3_600:
        return elapsed.length(seconds), length_zh(seconds)
    hours = rest - rest % 3_600
    return (
        f"{elapsed.length(seconds)} {elapsed.length(hours)}",
        f"{length_zh(seconds)}{length_zh(hours)}",
    )


def stopped_said(reason: NotServed | None) -> dict[str, str] | None:
    """`{"code", "en", "zh"}`: why the ledger serves this till no more, or not now, and what helps;
    null where it serves it."""
    return None if reason is None else {"code": reason, **said(*WHY_NOT[reason])}


def not_settled_said(found: Mapping[str, Any], reached: bool) -> dict[str, str] | None:
    """Why `settle` has not settled everything with the ledger, and what helps: `found` is the
    status behind it, `reached` whether the ledger answered. None where nothing is in its way."""
    if found["stopped"] is not None:
        return said(found["stopped"]["en"], found["stopped"]["zh"])
    if reached:
        return None
    code, why = found["ledger"]["code"], found["ledger"]["problem"]
    if code == "ledger_healing":
        return _reported(found["healing"])
    if code == "unauthorised":
        return said(
            f"The ledger does not serve this till ({why}): call the programme's office.",
            "账本不受理本终端，请联系项目办公室。",
        )
    told = f" ({why})" if why else ""
    return said(
        f"The ledger gave no answer that counts{told}; try again later.",
        "账本未答复或答复无效，请稍后再试。",
    )


def _reported(healing: Mapping[str, Any] | None) -> dict[str, str]:
    """Of a ledger that is being restored, which takes reports and decides nothing."""
    sent = f"{healing['sent']} of {healing['of']} answers are sent" if healing else ""
    if healing is None or not healing["complete"]:
        so_far = f" {sent}: run settle again." if sent else ""
        return said(
            f"The ledger is being restored, and has not had all that this till knows yet.{so_far}",
            "账本正在恢复，本终端尚未全部上报，请再次运行 settle。",
        )
    return said(
        f"Reported: the ledger is being restored, and has had all that this till knows; {sent}. "
        "Sales and what is open wait until the office opens it.",
        f"已上报（{healing['sent']}/{healing['of']}）：账本正在恢复，"
        "销售和未完成的单请等待办公室开放账本。",
    )


def readiness_said(ready: Readiness, now: datetime) -> dict[str, Any]:
    """`{"ready", "until", "households", "sums", "room", "why_not", "en", "zh"}`."""
    why = [{"code": each, **said(*WHY_NOT[each])} for each in ready.why_not]
    return {
        "ready": ready.is_ready,
        "until": None if ready.until is None else clock.to_text(ready.until),
        "households": ready.households,
        "sums": _amounts(ready.sums),
        "room": _amounts(ready.room),
        "why_not": why,
        **(_not_ready(ready) if ready.why_not else _ready(ready, now)),
    }


def _not_ready(ready: Readiness) -> dict[str, str]:
    told = [WHY_NOT[each] for each in ready.why_not]
    return said(
        " ".join(["Not ready to sell without a network.", *(en for en, _ in told)]),
        "".join(["断网时无法核销。", *(zh for _, zh in told)]),
    )


def _ready(ready: Readiness, now: datetime) -> dict[str, str]:
    until = ready.until or now
    en, zh = span(max(0, int((until - now).total_seconds())))
    count = f"{ready.households} household{'' if ready.households == 1 else 's'}"
    sums = [priced(each.amount_minor, each.currency) for each in ready.sums if each.amount_minor]
    if not sums:
        return said(
            f"Ready without a network for {en}: {count}, within the floor limits only.",
            f"断网仍可核销{zh}：{ready.households}户，仅限小额限额内。",
        )
    narrow = _narrower(ready)
    more_en = f"; {' and '.join(narrow)} of it before it must go up" if narrow else ""
    more_zh = f"，其中{'、'.join(narrow)}后须联网上传" if narrow else ""
    return said(
        f"Ready without a network for {en}: {count}, up to {' and '.join(sums)}{more_en}.",
        f"断网仍可核销{zh}：{ready.households}户，最多{'、'.join(sums)}{more_zh}。",
    )


def _narrower(ready: Readiness) -> list[str]:
    """What may be stored, of the currencies in which that is less than what is set aside."""
    room = {each.currency: each.amount_minor for each in ready.room}
    return [
        priced(room[each.currency], each.currency)
        for each in ready.sums
        if room.get(each.currency, each.amount_minor) < each.amount_minor
    ]


def stored_said(stored: Stored, kept: Kept, *, running: bool = True) -> dict[str, Any]:
    """What of one programme left without the ledger's word, and what happens next; of `asked`
    somebody has to say whether the goods left. `running`: whether a process runs the till."""
    amount = priced(stored.amount_minor, stored.currency)
    count_en, count_zh, amount_en, amount_zh = f"{stored.count}", f"{stored.count}", amount, amount
    if stored.most_count is not None and stored.most_minor is not None:
        most = priced(stored.most_minor, stored.currency)
        count_en, count_zh = f"{count_en} of {stored.most_count}", f"{count_zh}/{stored.most_count}"
        amount_en, amount_zh = f"{amount} of {most}", f"{amount}/{most}"
    asked = kept.asked if running else kept.asked + kept.accepted
    en, zh = _next_of_stored(stored, kept, asked, running=running)
    return {
        "programme": stored.programme,
        "name": stored.name,
        "currency": stored.currency,
        "count": stored.count,
        "amount_minor": stored.amount_minor,
        "most_count": stored.most_count,
        "most_minor": stored.most_minor,
        "held": kept.held,
        "asked": asked,
        "since": clock.to_text(kept.since),
        **said(
            f"{stored.name}: {count_en} sales, {amount_en} stored. {en}",
            f"{stored.name}：已离线受理{count_zh}单，{amount_zh}。{zh}",
        ),
    }


def _next_of_stored(stored: Stored, kept: Kept, asked: int, *, running: bool) -> tuple[str, str]:
    en, zh = [], []
    if stored.left_minor == 0:
        en.append("No more can be sold without a network until some are decided.")
        zh.append("已达上限，账本处理前不能继续离线核销。")
    if asked:
        en.append(f"Say of {asked} whether the goods were handed over: carepos till goods.")
        zh.append(f"其中{asked}单请回答商品是否已交付：carepos till goods。")
    if kept.held + asked < stored.count:
        if running:
            en.append("They go up by themselves when there is a network.")
            zh.append("联网后自动上传。")
        else:
            en.append("They go up once the plugin runs: carepos till serve.")
            zh.append("插件启动后才会上传：carepos till serve。")
    if kept.held:
        en.append(f"The programme's office decides {kept.held}.")
        zh.append(f"其中{kept.held}单由项目办公室处理。")
    return " ".join(en), "".join(zh)


def exceptions_said(count: int) -> dict[str, Any]:
    """`{"count", "en", "zh"}`: how many sales a person must look at."""
    if not count:
        told = said("No sale needs a person.", "没有需要人工处理的单。")
    else:
        sales = "1 sale needs" if count == 1 else f"{count} sales need"
        told = said(
            f"{sales} a person: carepos till exceptions.",
            f"有{count}单需要人工处理：carepos till exceptions。",
        )
    return {"count": count, **told}


def _amounts(amounts: Iterable[Amount]) -> list[dict[str, Any]]:
    return [{"currency": each.currency, "amount_minor": each.amount_minor} for each in amounts]
