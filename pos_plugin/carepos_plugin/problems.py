"""Answers for what was not done: RFC 9457 problem documents with a code and both languages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from carepos import attempt
from carepos.errors import (
    CareposError,
    ClockSkew,
    DiskFull,
    JournalClosed,
    JournalError,
    Malformed,
    NotDecided,
    NotWritten,
    Refused,
    Unreachable,
    WrongState,
)
from carepos.refusals import BY_CODE
from carepos_plugin import choice_words
from carepos_plugin.sentences import DISK_FAILED, DISK_FULL, refusal_said


@dataclass(frozen=True, slots=True)
class Kind:
    """One problem: its HTTP status and what the cashier can do."""

    status: int
    en: str
    zh: str


_AGAIN_EN = "Nothing was taken. Try again, or let the customer pay another way."
_AGAIN_ZH = "未扣款。请稍后重试，或改用其他方式付款。"

KINDS: Final[dict[str, Kind]] = {
    "no_reset": Kind(
        400,
        "This is not the programme's office's clock reset for this till. Nothing was changed.",
        "这不是项目办公室发给本终端的时钟重置文件，未作任何更改。",
    ),
    "host_not_allowed": Kind(
        400, "The plugin does not answer under this name.", "插件不接受此主机名的请求。"
    ),
    "unauthorised": Kind(
        401,
        "The register is not paired: its pairing secret is missing or wrong.",
        "收银机未配对：缺少配对密钥或密钥不正确。",
    ),
    "pad_not_paired": Kind(
        401,
        "This PIN pad is not connected. Open a new link: carepos till pin-pad.",
        "此密码键盘未连接，请打开新的链接：carepos till pin-pad。",
    ),
    "device_not_paired": Kind(
        401,
        "This device is not paired: its secret is missing or wrong.",
        "此设备未配对：缺少密钥或密钥不正确。",
    ),
    "page_not_paired": Kind(
        401,
        "This page is not connected. Open a new link: carepos till returns-page.",
        "此页面未连接，请打开新的链接：carepos till returns-page。",
    ),
    "foreign_origin": Kind(
        403, "Other web pages may not use the plugin.", "不允许其他网页调用插件。"
    ),
    "not_found": Kind(404, "There is nothing at this address.", "此地址无内容。"),
    "checkout_unknown": Kind(
        404, "No redemption was begun for this sale.", "此单没有核销记录。"
    ),
    "undo_unknown": Kind(
        404, "There is no void or refund of this number.", "没有此单号的撤销或退货。"
    ),
    "receipt_unknown": Kind(404, "There is no receipt of this number.", "没有此单号的小票。"),
    "method_not_allowed": Kind(
        405, "This address does not take this method.", "此地址不支持该方法。"
    ),
    "already_redeemed": Kind(
        409,
        "This sale is redeemed already. Begin a new sale for more goods.",
        "本单已核销，如需再次核销请重新开单。",
    ),
    "sale_not_over": Kind(
        409,
        "This sale has a redemption that is not over. Finish or cancel it first.",
        "本单有未完成的核销，请先完成或撤销。",
    ),
    "offer_of_other_checkout": Kind(
        409,
        "This offer was made for another sale. Scan again.",
        "此核销方案属于另一单，请重新扫码。",
    ),
    "nothing_offered": Kind(
        409,
        "Nothing was offered for this sale. Let the customer pay another way.",
        "本单没有可核销的金额，请改用其他方式付款。",
    ),
    "pin_pad_busy": Kind(
        409,
        "The PIN pad is in use for another sale. Wait, or cancel there.",
        "密码键盘正用于另一单，请稍候或先取消那一单。",
    ),
    "no_code_held": Kind(
        409,
        "The face or palm device has not read anybody yet.",
        "人脸或掌纹设备尚未读取到任何人。",
    ),
    "no_printer": Kind(
        409,
        "This till has no printer of its own. Print the text of the receipt at the register.",
        "本终端未接打印机，请在收银机上打印小票文本。",
    ),
    "wrong_state": Kind(
        409,
        "This can't be done with the sale as it stands now.",
        "本单目前的状态不能执行此操作。",
    ),
    "undo_waits": Kind(
        409,
        "Something of this sale is being taken back already. Wait until that is decided.",
        "本单已有撤销或退货在处理，请等待其完成。",
    ),
    "reset_taken": Kind(
        409,
        "This clock reset, or a newer one, was taken before. Nothing was changed: if the till "
        "still says that the time can't be right, ask the programme's office for a new one.",
        "此时钟重置文件（或更新的）已使用过，未作任何更改；如仍提示时间异常，请向项目办公室索取新的文件。",
    ),
    "sales_lost": Kind(
        409,
        (
            "Sales are among what this till lost when it was put back: what is set aside for it "
            "may be spent in them. Give the folder to the programme's office and enrol a new till."
        ),
        "本终端还原时丢失的记录中有离线单，其预留额度可能已用。请把该文件夹交给项目办公室并注册新终端。",
    ),
    "offer_gone": Kind(
        410,
        "The offer is over or was replaced. Nothing was taken. Scan again.",
        "核销方案已失效或已被替换，未扣款，请重新扫码。",
    ),
    "pin_request_gone": Kind(
        410, "The card must be scanned again. Nothing was taken.", "请重新刷卡，未扣款。"
    ),
    "link_gone": Kind(
        410,
        "This link was used or is too old. Make a new one: carepos till pin-pad.",
        "此链接已使用或已过期，请重新生成：carepos till pin-pad。",
    ),
    "too_large": Kind(413, "The request is too large.", "请求过大。"),
    "unsupported_media_type": Kind(
        415, "The body must be application/json.", "请求正文必须是 application/json。"
    ),
    "internal": Kind(
        500,
        "The plugin failed. Look at the sale's state before you try again.",
        "插件出错，重试前请先查看本单状态。",
    ),
    "journal_closed": Kind(503, *DISK_FAILED),
    "not_written": Kind(
        503,
        (
            "The disk is full: this was not written and nothing was done. Do it once more; if that "
            "fails too, make room first."
        ),
        "磁盘已满，本次操作未写入、未生效。请再试一次；若仍失败，请先清理磁盘。",
    ),
    "disk_full": Kind(503, *DISK_FULL),
    "disk": Kind(
        503,
        (
            "The till can't use its disk: it may be full. "
            "Look at the sale's state before you try again."
        ),
        "终端无法读写磁盘，磁盘可能已满；重试前请先查看本单状态。",
    ),
    "unreachable": Kind(
        503, f"No connection to the ledger. {_AGAIN_EN}", f"连不上账本，{_AGAIN_ZH}"
    ),
    "not_served": Kind(
        403,
        "The ledger does not serve this till. Nothing was taken. Call the programme's office.",
        "账本不受理本终端，未扣款，请联系项目办公室。",
    ),
    "ledger_healing": Kind(
        503,
        "The ledger is being restored. Nothing was taken. Sales wait until it is open again.",
        "账本正在恢复，未扣款。请等待账本恢复后再办理。",
    ),
    "clock_skew": Kind(
        503,
        "This computer's clock is wrong. Set it right, then try again. Nothing was taken.",
        "本机时钟不准，请校准后重试，未扣款。",
    ),
    "ledger_problem": Kind(
        503, f"The ledger could not answer now. {_AGAIN_EN}", f"账本暂时无法处理，{_AGAIN_ZH}"
    ),
}  # fmt: skip

_DOUBTFUL: Final = Kind(
    503,
    "The ledger's time can't be right by this computer's clock. Nothing was taken. Look at date "
    "and time here; if they are right, call the programme's office.",
    "账本时间与本机相差过大，未扣款。请核对本机日期和时间；若本机无误，请联系项目办公室。",
)
"""A `clock_skew` by which nobody should set a clock."""

_MORE: Final[tuple[str, ...]] = ("looks_like", "programmes", "tries_left")
_CODE = re.compile(r"[a-z][a-z_]{0,39}")


class Problem(Exception):
    """One problem document. `more` stands beside the standard members."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int | None = None,
        field: str | None = None,
        kind: Kind | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.kind = kind or KINDS[code]
        self.status = status or self.kind.status
        self.field = field
        self.more = dict(more or {})

    def to_json(self) -> dict[str, Any]:
        """The members of RFC 9457, then `code`, `en`, `zh`, and `field` where one is at fault."""
        document: dict[str, Any] = {
            "type": f"urn:carepos:problem:{self.code}",
            "title": self.kind.en,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "en": self.kind.en,
            "zh": self.kind.zh,
        }
        if self.field is not None:
            document["field"] = self.field
        return {**document, **self.more}


def problem_of(error: CareposError) -> Problem:
    """The problem that an error of the SDK is. Its texts hold no token and no name (INV-10)."""
    match error:
        case Malformed():
            return Problem(
                error.code, str(error), field=error.field, kind=_of_list(error.code, 400)
            )
        case Refused():
            told = refusal_said(error)
            more = {name: told[name] for name in _MORE if name in told}
            return Problem(error.code, kind=Kind(409, told["en"], told["zh"]), more=more)
        case NotDecided():
            return _of_ledger(error)
        case Unreachable():
            return Problem("unreachable", str(error))
        case WrongState():
            return _of_state(error)
        case JournalClosed():
            return Problem("journal_closed")
        case NotWritten():
            return Problem("not_written")
        case DiskFull():
            return Problem("disk_full")
        case JournalError():
            return Problem("wrong_state", str(error))
    return Problem("internal")


def _of_state(error: WrongState) -> Problem:
    """Why not, and what instead, in the place of a table's words."""
    if error.state == "waiting":  # a void or refund is; a sale is in another state then
        return Problem("undo_waits")
    told = choice_words.why_not(error)
    if told is None:
        return Problem("wrong_state", str(error))
    more = {"state": error.state} if error.state in attempt.MEANING else {}
    return Problem("wrong_state", kind=Kind(KINDS["wrong_state"].status, *told), more=more)


def _of_ledger(error: NotDecided) -> Problem:
    """What the ledger did not decide. Its document is unsigned: only its code is passed on."""
    code = error.code if _CODE.fullmatch(error.code) else "unknown_problem"
    if code in BY_CODE:
        return Problem(code, "the ledger said so", kind=_of_list(code, 403))
    if isinstance(error, ClockSkew):
        kind = _DOUBTFUL if error.is_doubtful else None
        return Problem(code, "" if error.ahead_s is None else str(error), kind=kind)
    if code == "ledger_healing":
        return Problem(code)
    if code == "unauthorised":
        return Problem("not_served", "the ledger said unauthorised")
    return Problem("ledger_problem", f"the ledger said {code}")


def _of_list(code: str, status: int) -> Kind:
    """A code of the SDK's one list as a problem."""
    listed = BY_CODE.get(code) or BY_CODE["malformed"]
    return Kind(status, listed.en, listed.zh)


def as_markdown() -> str:
    """The table of docs/register-api.md."""
    rows = ["| code | status | people read |", "|---|---|---|"]
    rows += [f"| `{code}` | {kind.status} | {kind.en} {kind.zh} |" for code, kind in KINDS.items()]
    return "\n".join(rows)
