"""What people read beside the SDK's own sentences: what happens next, who acts, why not."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Final, overload
from zoneinfo import ZoneInfo

from carepos import Correction, clock, correction, elapsed, mirror
from carepos.attempt import MEANING, State
from carepos.claims import Acting
from carepos.clock_ratchet import Standing
from carepos.disk_room import MIB, Room
from carepos.errors import Refused, TokenRefused
from carepos.healing import HealState
from carepos.refusals import Refusal

NEXT: Final[dict[State, tuple[str, str]]] = {
    "open": ("The ledger's answer is awaited.", "等待账本答复。"),
    "unknown": (
        "The till keeps asking the ledger. Try again to send the same sale once more, or cancel.",
        "终端会继续向账本查询；可重试（同一笔，不会重复扣款）或撤销。",
    ),
    "interrupted": (
        (
            "The till asks the ledger. Not known there: the sale is cancelled. Booked there: "
            "answer whether the goods were handed over."
        ),
        "终端正在向账本查询：若账本无此单则自动撤销；若已入账，请回答商品是否已交付。",
    ),
    "goods_asked": (
        (
            "Answer whether the goods were handed over (carepos till goods): "
            "yes keeps the sale, no gives the voucher back."
        ),
        "请回答商品是否已交付（carepos till goods）：已交付则保留本单，未交付则退回券额。",
    ),
    "confirmed": ("Hand over the goods.", "请交付商品。"),
    "refused": (
        "Tell the customer why; scan again or let the customer pay another way.",
        "请告知顾客原因；可重新扫码或改用其他方式付款。",
    ),
    "reversing": (
        "The cancellation is sent until the ledger has decided it. You may begin the sale again.",
        "终端会持续发送撤销，直到账本确认；可以重新开始本单。",
    ),
    "filling": (
        "Nothing for you to do: the till reports the cancelled number to the ledger.",
        "无需操作：终端会向账本补报该单号。",
    ),
    "reversed": ("Nothing is open. You may begin the sale again.", "已了结，可以重新开始本单。"),
    "review": (
        "Call the programme's office and give them the receipt number.",
        "请联系项目办公室并提供单号。",
    ),
    "voided": (
        "Give back what the customer paid otherwise. You may begin the sale again.",
        "如顾客另有付款请退还；可以重新开始本单。",
    ),
    "accepted": (
        "Hand over the goods and the slip. Nothing else for you to do: it goes up by itself.",
        "请交付商品和小票；联网后自动上传，无需操作。",
    ),
    "accept_asked": (
        (
            "Answer whether the goods were handed over (carepos till goods): "
            "yes sends the sale up, no takes it back."
        ),
        "请回答商品是否已交付（carepos till goods）：已交付则上传本单，未交付则撤销。",
    ),
    "provisional": (
        "Nothing for you to do: it goes up when there is a network. Until then it can be voided.",
        "无需操作：联网后自动上传；此前可以撤销。",
    ),
    "held": (
        "The programme's office decides it, and the till learns it by itself. Keep the slip.",
        "由项目办公室处理，结果会自动显示；请保留小票。",
    ),
    "short": (
        "Keep the slip. Ask the programme's office if you think that the rest is due to you.",
        "请保留小票；如有异议请联系项目办公室。",
    ),
    "exception": (
        "Keep the slip. Call the programme's office and give them the receipt number.",
        "请保留小票，联系项目办公室并提供单号。",
    ),
}

MAY_ACCEPT: Final = (
    (
        "No answer yet: no goods. Try again, cancel, or accept it without the ledger.",
        "尚无结果，请勿交付商品；可重试、取消，或离线受理。",
    ),
    (
        (
            "The till keeps asking the ledger. Try again to send the same sale once more, cancel, "
            "or let the goods go and have it booked later: carepos till accept."
        ),
        (
            "终端会继续向账本查询；可重试（同一笔，不会重复扣款）、撤销，"
            "或先交付商品、稍后入账：carepos till accept。"
        ),
    ),
)
"""Message and next of an unknown sale that may leave without the ledger's word."""

BEING_VOIDED: Final = (
    (
        "Being taken back. Do not hand over goods, give nothing back yet.",
        "正在撤销，请勿交付商品，也请先不要退款。",
    ),
    (
        "It is taken back once the ledger has decided the void.",
        "账本确认撤销后即退回券中。",
    ),
)
"""Message and next of a sale, whatever its state, of which a void waits."""

NEXT_OF_UNDO: Final[dict[correction.State, tuple[str, str]]] = {
    "waiting": (
        (
            "The ledger has not decided it: the till keeps sending it. "
            "Look again before you give anything back."
        ),
        "账本尚未确认，终端会持续发送；退款前请再次查看。",
    ),
    "posted": (
        "Give back what the customer paid themselves, if anything.",
        "如顾客有自付部分，请退还。",
    ),
    "refused": ("Tell the customer why. Nothing was changed.", "请告知顾客原因，未作任何变更。"),
}


NOT_RUNNING: Final = (
    "Nothing is sent while the plugin is not running: start it (carepos till serve).",
    "插件未运行，不会自动发送：请启动插件（carepos till serve）。",
)
_OR_CANCEL: Final = (
    f"{NOT_RUNNING[0]} Or cancel: carepos till cancel.",
    f"{NOT_RUNNING[1]}也可撤销：carepos till cancel。",
)
NEXT_STOPPED: Final[dict[str, tuple[str, str]]] = {
    "unknown": _OR_CANCEL,
    "interrupted": _OR_CANCEL,
    "reversing": NOT_RUNNING,
    "filling": NOT_RUNNING,
    "waiting": (
        f"{NOT_RUNNING[0]} Look again before you give anything back.",
        f"{NOT_RUNNING[1]}退款前请再次查看。",
    ),
}
"""By the state of a sale, void or refund of which the till would do the next thing by itself, what
there is to do while no process runs it."""


def said(en: str, zh: str) -> dict[str, str]:
    return {"en": en, "zh": zh}


def message_of(state: State) -> dict[str, str]:
    """What the cashier reads for a state, without the reason of a refusal."""
    return said(MEANING[state].en, MEANING[state].zh)


def next_of(state: State) -> dict[str, str]:
    return said(*NEXT[state])


def next_of_undo(of: Correction, zone: str) -> dict[str, str]:
    """What happens next with a void or refund, or what there is to do; times are told in `zone`."""
    if of.repeated and of.state == "posted" and of.decided_at is not None:
        return _done_before(of, f"{of.decided_at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M}")
    en, zh = NEXT_OF_UNDO[of.state]
    if not of.seen:
        en = f"{en} Then say that you have seen it: carepos till seen {of.receipt_no}."
        zh = f"{zh}知悉后请运行 carepos till seen {of.receipt_no}。"
    return said(en, zh)


def _done_before(of: Correction, at: str) -> dict[str, str]:
    if not of.beneficiary_minor:
        return said(f"This was done before, at {at}.", f"此前已办理：{at}。")
    return said(
        f"This was done before, at {at}: what the customer paid themselves is given back once. "
        "If they have it, give nothing.",
        f"此前已办理：{at}。顾客自付部分只退一次，如已退还请勿再退。",
    )


def next_try_said(at: datetime | None, now: datetime) -> dict[str, str] | None:
    """`{"at", "en", "zh"}`: when the till by itself asks the ledger again; None: it does not."""
    if at is None:
        return None
    seconds = max(0, math.ceil((at - now).total_seconds()))
    if not seconds:
        told = said("The till asks again now.", "终端即将再次查询。")
    else:
        told = said(
            f"The till asks again by itself in {elapsed.length(seconds)}.",
            f"终端将于{length_zh(seconds)}后自动再次查询。",
        )
    return {"at": clock.to_text(at), **told}


_UNITS_ZH: Final = ((86_400, "天"), (3_600, "小时"), (60, "分钟"), (1, "秒"))


def length_zh(seconds: int) -> str:
    """`90` → `1分钟`, as `elapsed.length`."""
    for size, unit in _UNITS_ZH:
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return "0秒"


def healing_said(state: HealState) -> dict[str, Any] | None:
    """`{"sent", "of", "complete", "en", "zh"}` while the ledger is being restored, else null."""
    en, zh = state.message("en"), state.message("zh")
    if en is None or zh is None:
        return None
    told = {"sent": state.sent, "of": state.of, "complete": state.complete}
    return {**told, **said(en, zh)}


def clock_said(standing: Standing) -> dict[str, Any]:
    """`{"state", "off_s", "en", "zh"}`: how the computer's clock stands, in one sentence."""
    off = abs(standing.off_s)
    en, zh = elapsed.length(off), length_zh(off)
    return {"state": standing.state, "off_s": standing.off_s, **_clock_words(standing, en, zh)}


def _clock_words(standing: Standing, en: str, zh: str) -> dict[str, str]:
    match standing.state:
        case "fine":
            return said("The clock is right.", "时钟正常。")
        case "behind":
            return said(
                f"The clock is wrong, at least {en} behind: set date and time. "
                "Until then nothing can be redeemed without a network.",
                f"时钟不准，至少慢{zh}：请校准日期和时间，校准前无法离线核销。",
            )
        case "ahead":
            return said(
                f"The clock is wrong, {en} ahead: set date and time.",
                f"时钟不准，快{zh}：请校准日期和时间。",
            )
        case "stepped":
            way_en, way_zh = ("forward", "拨快") if standing.off_s > 0 else ("back", "拨慢")
            return said(
                f"The clock was set {way_en} by {en} while the till ran: look whether it is right.",
                f"终端运行期间时钟被{way_zh}{zh}：请核对日期和时间。",
            )
        case "doubtful":
            at = "" if standing.doubtful is None else clock.to_text(standing.doubtful)
            return said(
                f"The ledger's time, {at}, can't be right by this till's clock: "
                "set date and time; if they are right, call the programme's office.",
                f"账本时间 {at} 与本机相差过大：请校准日期和时间；若本机无误，请联系项目办公室。",
            )


DISK_FULL: Final = (
    "The disk is full: no new sale. Open sales can be ended and the day closed. Make room.",
    "磁盘已满，暂停新的核销；未完成的单仍可处理，可以日结。请清理磁盘。",
)


DISK_FAILED: Final = (
    (
        "The till can't write to its disk, so no voucher can be taken. Restart the plugin; whether "
        "what was just done is written, is seen then: look before you do it again."
    ),
    "终端无法写入磁盘，暂不能核销。请重启插件；刚才的操作是否已写入，重启后才能确认，重做前请先查看。",
)


def disk_said(room: Room) -> dict[str, Any]:
    """`{"state", "free_bytes", "en", "zh"}`: whether the till's disk has room, in one sentence."""
    free = room.free_bytes // MIB
    if room.state == "fine":
        told = said("The disk has room.", "磁盘空间充足。")
    elif room.state == "low":
        told = said(
            f"The disk is filling up, {free} MiB are free: make room before it stops sales.",
            f"磁盘空间不足，仅剩{free} MiB：请及时清理，以免影响核销。",
        )
    elif room.state == "full":
        told = said(*DISK_FULL)
    else:
        told = said(*DISK_FAILED)
    return {"state": room.state, "free_bytes": room.free_bytes, **told}


MIRROR: Final[dict[mirror.State, tuple[str, str]]] = {
    "fine": (
        "The second disk holds what is not uploaded.",
        "第二块磁盘已保存待上传的记录。",
    ),
    "same_disk": (
        "The mirror's folder is on the till's own disk: connect the second disk.",
        "镜像文件夹与终端在同一磁盘上，请连接第二块磁盘。",
    ),
    "full": (
        "The second disk is full: make room on it. Sales go on.",
        "第二块磁盘已满，请清理；不影响核销。",
    ),
    "gone": (
        "The second disk is not there: connect it. Sales go on.",
        "未找到第二块磁盘，请连接；不影响核销。",
    ),
    "slow": (
        "The second disk does not answer: look at it. Sales go on.",
        "第二块磁盘没有响应，请检查；不影响核销。",
    ),
    "failing": (
        "The second disk can't be written: look at it. Sales go on.",
        "第二块磁盘无法写入，请检查；不影响核销。",
    ),
}


def mirror_said(standing: mirror.Standing) -> dict[str, Any]:
    """`{"state", "waiting", "en", "zh"}`: whether the second disk holds what is not uploaded."""
    told = said(*MIRROR[standing.state])
    return {"state": standing.state, "waiting": standing.waiting, **told}


def refusal_said(error: Refused) -> dict[str, Any]:
    """As `refusal_of`, with what is known of this case: `looks_like` of a code that is no care code
    (docs/identity.md §10), `programmes` that a wrong code of a wallet is for, `tries_left`."""
    told: dict[str, Any] = {
        **refusal_of(error.refusal),
        **said(error.sentence("en"), error.sentence("zh")),
    }
    if isinstance(error, TokenRefused) and error.looks_like is not None:
        told["looks_like"] = error.looks_like
    if error.programmes:
        told["programmes"] = list(error.programmes)
    if error.tries_left is not None:
        told["tries_left"] = error.tries_left
    return told


WAYS: Final[dict[str, tuple[str, str]]] = {
    "proxy": (
        "Somebody collects for the holder, who is not here.",
        "由他人代领，持券人不在场。",
    ),
    "witness": (
        "Somebody vouches for the holder, who must be here.",
        "有见证人为持券人作证，持券人应在场。",
    ),
}

REASONS: Final[dict[str, tuple[str, str]]] = {
    "unreadable": ("Face, palm or finger could not be read.", "人脸、掌纹或指纹无法识别。"),
    "phone_lost": ("The phone is lost.", "手机遗失。"),
    "card_lost": ("The card is lost.", "卡片遗失。"),
    "frail": ("The holder can't come.", "持券人行动不便。"),
    "minor": ("The holder is a child.", "持券人为未成年人。"),
    "other": ("For another reason.", "其他原因。"),
}


def acting_of(acting: Acting | None) -> dict[str, Any] | None:
    """`{"way", "reason", "en", "zh"}` where somebody acts for the holder; never who it is."""
    if acting is None:
        return None
    (way_en, way_zh), (why_en, why_zh) = WAYS[acting.way], REASONS[acting.reason]
    return {
        "way": acting.way,
        "reason": acting.reason,
        **said(f"{way_en} {why_en}", f"{way_zh}{why_zh}"),
    }


@overload
def refusal_of(refusal: Refusal) -> dict[str, Any]: ...
@overload
def refusal_of(refusal: None) -> None: ...
@overload
def refusal_of(refusal: Refusal | None) -> dict[str, Any] | None: ...
def refusal_of(refusal: Refusal | None) -> dict[str, Any] | None:
    """`{"code", "en", "zh", "line"}`; `line` is the basket line at fault, or null.

    A voucher at fault is not named: its id would link one family's purchases in several shops.
    """
    if refusal is None:
        return None
    line = refusal.at if isinstance(refusal.at, int) else None
    return {
        "code": refusal.code,
        **said(refusal.sentence("en"), refusal.sentence("zh")),
        "line": line,
    }
