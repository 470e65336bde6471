"""Every reason to say no, in the one order in which they are looked for (first match wins).

docs/protocol.md §6 is generated from this table; tests/vectors/refusals.json freezes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from carepos import clock

Answer = Literal["problem", "outcome"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: its code, how the ledger answers it, what the cashier and the beneficiary read."""

    code: str
    answer: Answer
    en: str
    zh: str


_P: Answer = "problem"
_O: Answer = "outcome"

KINDS: tuple[Kind, ...] = (
    Kind("malformed", _P, "The request is not of the agreed form.", "请求格式不正确。"),
    Kind("basket_too_large", _P, "Too many lines: at most 40 in one sale. Split the basket.",
         "商品行数过多，一次最多40行，请分两次结算。"),
    Kind("unsupported_kind", _P, "The ledger does not know this kind of record yet.",
         "账本暂不支持此类记录。"),
    Kind("signature_invalid", _P, "The terminal's signature does not verify.", "终端签名无效。"),
    Kind("id_content_mismatch", _O, "This number was used for another sale. Start a new sale.",
         "此编号已用于另一笔交易，请重新开单。"),
    Kind("terminal_suspended", _P, "This till is suspended. Call the programme's office.",
         "本收银终端已暂停，请联系项目办公室。"),
    Kind("terminal_revoked", _P, "This till is no longer allowed to redeem.", "本收银终端已被撤销。"),
    Kind("terminal_forked", _P, "Two copies of this till were seen. Call the programme's office.",
         "检测到本终端的两个副本，请联系项目办公室。"),
    Kind("token_malformed", _O, "This is not a care code. Ask for the care code.",
         "这不是爱心码，请出示爱心码。"),
    Kind("token_issuer", _O, "The care code comes from an unknown office.", "爱心码的签发单位不被认可。"),
    Kind("token_signature", _O, "The care code is not genuine.", "爱心码签名无效。"),
    Kind("token_audience", _O, "The care code is meant for something else.", "爱心码不适用于本系统。"),
    Kind("token_type", _O, "The code is not a care code.", "此码不是爱心码类型。"),
    Kind("token_expired", _O, "The care code has expired. Ask for a fresh one.",
         "爱心码已过期，请刷新后重试。"),
    Kind("token_not_yet_valid", _O, "The care code is not valid yet. Check the clocks.",
         "爱心码尚未生效，请检查时钟。"),
    Kind("holder_unproven", _O, "Ask the holder to open the code anew on their own phone.",
         "请持有人在本人手机上重新打开爱心码。"),
    Kind("token_replayed", _O, "The care code was already used elsewhere. Ask for a fresh one.",
         "爱心码已在别处使用，请刷新后重试。"),
    Kind("token_revoked", _O, "The care code or card was withdrawn.", "爱心码或卡已被注销。"),
    Kind("token_assurance", _O, "This way of proving who one is, is not enough here.",
         "该身份验证方式不满足本项目要求。"),
    Kind("acting_not_allowed", _O, "The programme does not allow collecting for someone else so.",
         "该项目不允许以此方式代领。"),
    Kind("pin_required", _O, "The card's PIN is needed: ask the holder to enter it.",
         "需要卡片密码，请持卡人输入密码。"),
    Kind("pin_wrong", _O, "The PIN is wrong. Ask the holder to try again.",
         "密码错误，请持卡人重试。"),
    Kind("pin_locked", _O, "The card is locked after too many wrong PINs. Call the office.",
         "密码错误次数过多，卡片已锁定，请联系项目办公室。"),
    Kind("programme_not_started", _O, "The programme has not started.", "项目尚未开始。"),
    Kind("programme_ended", _O, "The programme has ended.", "项目已结束。"),
    Kind("programme_paused", _O, "The programme is paused.", "项目已暂停。"),
    Kind("store_not_in_programme", _O, "This shop does not take part in the programme.",
         "本店未参加该项目。"),
    Kind("voucher_unknown", _O, "The voucher is not known.", "未找到该券。"),
    Kind("other_programme", _O, "The code is good, its vouchers are of another programme.",
         "爱心码有效，但其券属于其他项目。"),
    Kind("voucher_not_yours", _O, "The voucher belongs to someone else.", "该券不属于持码人。"),
    Kind("voucher_frozen", _O, "The voucher is frozen. Call the programme's office.",
         "该券已冻结，请联系项目办公室。"),
    Kind("voucher_not_started", _O, "The voucher is not valid yet.", "该券尚未生效。"),
    Kind("voucher_expired", _O, "The voucher has expired.", "该券已过期。"),
    Kind("reserved_elsewhere", _O, "Part of the voucher is set aside for another shop.",
         "该券部分额度已预留给其他门店。"),
    Kind("original_unknown", _O, "The sale to be taken back is not known.", "未找到原销售单。"),
    Kind("original_not_booked", _O, "That sale was not booked: there is nothing to take back.",
         "原销售单未入账，无需退回。"),
    Kind("already_undone", _O, "That sale was taken back already.", "原销售单已撤销或退货。"),
    Kind("void_too_late", _O, "Too late to void this sale. Make a refund instead.",
         "已超过撤销时限，请办理退货。"),
    Kind("refund_not_allowed", _O, "The programme takes no refunds.", "该项目不支持退货。"),
    Kind("refund_too_late", _O, "Too late for a refund of this sale.", "已超过退货时限。"),
    Kind("refund_exceeds", _O, "More than is left of this line, or nothing to give back.",
         "退货数量超出可退范围，或无可退内容。"),
    Kind("refund_not_whole", _O, "Only whole portions of this line can come back.",
         "该商品只能整份退回。"),
    Kind("not_in_product_list", _O, "This product is not part of the programme.",
         "该商品不在项目范围内。"),
    Kind("category_not_covered", _O, "No voucher covers this kind of product.",
         "没有可用于该类商品的券。"),
    Kind("price_below_fixed", _O, "The price is not above the beneficiary's own part.",
         "售价不高于自付部分。"),
    Kind("price_above_cap", _O, "The price is above what the programme allows.",
         "售价超过项目限价。"),
    Kind("quantity_not_allowed", _O, "The quantity or unit does not fit the voucher.",
         "数量或单位与券不符。"),
    Kind("quota_exceeded", _O, "More than allowed of this kind in one visit.",
         "该类商品超出单次限量。"),
    Kind("limit_exceeded", _O, "Above the limit for one redemption.", "超出单次核销限额。"),
    Kind("acting_limit", _O, "Above what may be collected for someone else in this time.",
         "超出该时段的代领限额。"),
    Kind("balance_insufficient", _O, "Not enough left on the voucher.", "券余额不足。"),
    Kind("proposal_changed", _O, "The offer no longer holds. Scan again.",
         "核销方案已变化，请重新扫码。"),
    Kind("offline_not_allowed", _O, "The programme does not work without a network.",
         "该项目不支持离线核销。"),
    Kind("holder_not_in_pack", _O, "This holder's vouchers are not in the till: a network is needed.",
         "本终端未存有持码人的券信息，需联网办理。"),
    Kind("clock_behind", _O, "The till's clock is wrong. Set date and time.",
         "终端时钟不正确，请校准日期和时间。"),
    Kind("pack_stale", _O, "The till was offline too long.", "终端离线时间过长。"),
    Kind("floor_limit", _O, "Above what may be given without a network.", "超出离线单笔限额。"),
    Kind("stored_sum", _O, "The till holds too much that is not uploaded.",
         "终端未上传金额已达上限。"),
    Kind("stored_count", _O, "The till holds too many sales that are not uploaded.",
         "终端未上传笔数已达上限。"),
    Kind("allotment_exceeded", _O, "More than was set aside for this till.",
         "超出本终端预留额度。"),
    Kind("not_accepted", _O, "The office looked at this record and did not accept it.",
         "项目办公室审核后未接受此记录。"),
)  # fmt: skip

BY_CODE: dict[str, Kind] = {kind.code: kind for kind in KINDS}
ORDER: dict[str, int] = {kind.code: place for place, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Reserved:
    """Where a part of a voucher is set aside, and until when at most."""

    store_name: str
    until: datetime

    def to_json(self) -> dict[str, object]:
        return {"store_name": self.store_name, "until": clock.to_text(self.until)}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer: the code and, where one thing is at fault, the line number or voucher.

    `reserved` stands with `reserved_elsewhere` alone, where it is known.
    """

    code: str
    at: int | str | None = None
    reserved: Reserved | None = None

    def __post_init__(self) -> None:
        if self.code not in BY_CODE:
            raise ValueError(f"no such refusal: {self.code}")

    def sentence(self, language: str = "zh") -> str:
        """What to read out. Shape: one sentence; `language` is "zh" or "en"."""
        kind = BY_CODE[self.code]
        return kind.en if language == "en" else kind.zh

    def to_json(self) -> dict[str, object]:
        told: dict[str, object] = {"code": self.code, "at": self.at}
        return told if self.reserved is None else {**told, "reserved": self.reserved.to_json()}


def first(refusals: list[Refusal]) -> Refusal | None:
    """The one that wins: earliest in the list of kinds, then earliest found."""
    return min(refusals, key=lambda refusal: ORDER[refusal.code], default=None)


def as_markdown() -> str:
    """The table of docs/protocol.md §6."""
    rows = ["| # | code | answered as | the cashier reads |", "|---|---|---|---|"]
    rows += [
        f"| {place} | `{kind.code}` | {kind.answer} | {kind.en} {kind.zh} |"
        for place, kind in enumerate(KINDS, 1)
    ]
    return "\n".join(rows)
