"""What the beneficiary's own pages say, in Chinese and English: short words, no codes.

A reader with little schooling, an old phone and perhaps a screen reader: one thought per sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from types import MappingProxyType
from typing import Final, Literal

from carepos.money import format_amount
from carepos.voucher import Terms
from carepos_ledger.holder_account import Back, Use

Language = Literal["zh", "en"]
LANGUAGES: Final[tuple[Language, ...]] = ("zh", "en")
HTML_LANGUAGE: Final[Mapping[Language, str]] = MappingProxyType({"zh": "zh-Hans", "en": "en"})

# word → (Chinese, English); {…} is filled in.
_WORDS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "title": ("我的爱心券", "My vouchers"),
        "other_language": ("English", "中文"),
        "leave": ("退出", "Leave"),
        "back": ("返回我的券", "Back to my vouchers"),
        "until_time": ("本页在 {time} 关闭。", "These pages close at {time}."),
        "times_in": ("时间为 {zone}。", "Times are {zone}."),
        # what I hold
        "held": ("我有的券", "What I have"),
        "nothing_held": ("您现在没有券。", "You have no voucher."),
        "left": ("还剩 {left}", "{left} left"),
        "left_over": ("过期未用 {left}", "{left} was not used"),
        "of": ("共发放 {issued}，已用 {used}", "{issued} given, {used} used"),
        "ended": (
            "{ended} 到期未用，已退回项目",
            "{ended} ended unused and went back to the programme",
        ),
        "programme": ("项目", "Programme"),
        "for_goods": ("可买", "For"),
        "any_goods": ("项目内的所有商品", "everything in the programme"),
        "price_item": (
            "项目每{per}最多付 {cap}",
            "the programme pays at most {cap} for each {per}",
        ),
        "price_fixed": ("每{per}您自付 {fixed}", "you pay {fixed} for each {per}"),
        "price": ("价格", "Price"),
        "use_by": ("有效期至", "Use by"),
        "use_from": ("开始使用", "Use from"),
        "where": ("可用门店", "Where"),
        "nowhere": ("现在没有门店参加", "no shop takes part now"),
        "state_frozen": ("已停用，不能使用", "Stopped, can't be used"),
        "state_frozen_by_you": ("您在 {at} 停用了此券", "You stopped it on {at}"),
        "ask_office": ("要恢复使用，请联系项目办公室。", "To use it again, call the office."),
        "state_not_yet": ("还没有开始", "Not yet"),
        "state_over": ("已过期", "Over"),
        "state_paused": ("项目暂停", "The programme is paused"),
        "state_used_up": ("已用完", "Used up"),
        "stop": ("停用此券", "Stop this voucher"),
        # what was used
        "used": ("用过的", "What was used"),
        "nothing_used": ("还没有用过。", "Nothing was used yet."),
        "new": ("新", "New"),
        "new_count": ("有 {n} 笔新的使用记录。", "New since your last visit: {n}."),
        "reversed": ("已撤销，钱已退回券里", "Cancelled, given back to the voucher"),
        "returned": ("退货", "Returned goods"),
        "returned_all": ("已全部退货", "All of it was returned"),
        "returned_some": ("其中 {back} 已退货", "{back} of it was returned"),
        "receipt_no": ("小票号", "Receipt number"),
        "shop": ("门店", "Shop"),
        "when": ("时间", "When"),
        "booked_at": ("入账时间", "Booked"),
        "amount": ("用券金额", "Paid by voucher"),
        "goods": ("商品", "Goods"),
        "own_part": ("您自付 {own}", "you paid {own}"),
        "more": ("更早的", "Older"),
        "newer": ("较新的", "Newer"),
        "this_use": ("这一笔", "This purchase"),
        "acted": ("代办", "Who acted"),
        "acted_proxy": ("别人代您领取（{why}）", "Somebody came for you ({why})"),
        "acted_witness": ("有人为您作证（{why}）", "Somebody vouched for you ({why})"),
        "why_unreadable": ("人脸或手掌无法识别", "your face or hand could not be read"),
        "why_phone_lost": ("手机丢失", "phone lost"),
        "why_card_lost": ("卡片丢失", "card lost"),
        "why_frail": ("行动不便", "frail or ill"),
        "why_minor": ("未成年人", "a child"),
        "why_other": ("其他原因", "another reason"),
        # this is not what I bought
        "dispute": ("这不是我买的", "I did not buy this"),
        "dispute_why": ("哪里不对？", "What is wrong?"),
        "dispute_note": (
            "请选一项。不用写姓名、电话或其他内容。",
            "Choose one. You need not write a name, a number or anything else.",
        ),
        "reason_not_me": ("不是我，也不是我让人买的", "It was not me, and I sent nobody"),
        "reason_not_these_goods": ("商品不对", "These were not the goods"),
        "reason_wrong_amount": ("金额不对", "The amount is wrong"),
        "reason_no_goods": ("我没有拿到商品", "I did not get the goods"),
        "dispute_sure": ("确定要告诉办公室吗？", "Tell the office?"),
        "dispute_what_happens": (
            "办公室会看到这一笔和您选的原因，查清后在这里答复您。钱现在不会变动。",
            (
                "The office sees this purchase and what you chose, looks into it and answers "
                "here. No money moves now."
            ),
        ),
        "dispute_send": ("是，告诉办公室", "Yes, tell the office"),
        "no_go_back": ("不，返回", "No, go back"),
        "dispute_card_stolen": (
            "如果手机或卡被偷，请同时停用您的券。",
            "If your phone or card was stolen, stop your vouchers too.",
        ),
        "you_said": ("您说过", "You said"),
        "you_said_on": ("{at}：{reason}", "{at}: {reason}"),
        "answer": ("办公室的答复", "The office's answer"),
        "state_open": ("正在处理", "Being looked into"),
        "state_upheld": ("办公室确认您说得对", "The office agrees with you"),
        "state_rejected": ("没有查到问题", "Nothing wrong was found"),
        # stop
        "stop_sure": ("确定要停用此券吗？", "Stop this voucher?"),
        "stop_what_happens": (
            "停用后任何门店都不能再用此券。只有项目办公室能恢复。",
            "After that no shop takes it any more. Only the programme's office can undo it.",
        ),
        "stop_yes": ("是，停用", "Yes, stop it"),
        # pages without a session
        "opened": ("已打开", "Opened"),
        "go_to_mine": ("查看我的券", "See my vouchers"),
        "closed": ("请从您的应用打开", "Open from your app"),
        "closed_how": (
            "请在出示爱心码的应用里点「我的爱心券」。打开后 15 分钟内有效，不需要密码。",
            (
                "In the app that shows your care code, choose “My vouchers”. It is open for 15 "
                "minutes and needs no password."
            ),
        ),
        "closed_phone": (
            "没有手机？门店的小票上有余额，项目办公室也能帮您查询。",
            "No phone? The shop's receipt says what is left, and the office can look it up.",
        ),
        "left_pages": ("您已退出。", "You have left."),
        "problem_late": (
            "时间已过，或这个码已经用过。",
            "The time is over, or this code was used before.",
        ),
        "problem_acting": (
            "代办人不能查看别人的页面，请由本人打开。",
            "Whoever acts for another can't see their pages. The holder opens them.",
        ),
        "problem_nobody": ("这里没有给您发过券。", "No voucher was issued to you here."),
        "problem_token": ("这个码不能打开本页。", "This code does not open these pages."),
        "problem_many": (
            "打开次数太多，请过 15 分钟再试。",
            "Opened too often. Try again in 15 minutes.",
        ),
        "problem_not_here": ("这里没有您要找的内容。", "There is nothing here."),
        "problem_form": (
            "没有做任何更改。请返回再试一次。",
            "Nothing was changed. Go back and try again.",
        ),
        "problem_busy": (
            "系统忙，请稍后再试。没有做任何更改。",
            "Try again in a moment. Nothing was changed.",
        ),
        "problem_restored": (
            "系统正在恢复数据，请过几小时再来。没有做任何更改。",
            "The records are being restored. Come back in a few hours. Nothing was changed.",
        ),
        "problem_title": ("没有成功", "That did not work"),
    }
)

# Categories are names that an operator chose; the usual ones have words here.
_CATEGORIES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "dairy": ("奶制品", "dairy"),
        "infant-formula": ("婴幼儿配方奶粉", "infant formula"),
        "grain": ("粮食", "grain"),
        "staples": ("主食", "staples"),
        "oil": ("食用油", "cooking oil"),
        "hygiene": ("卫生用品", "hygiene"),
    }
)
_UNITS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"piece": ("件", " pc"), "g": ("g", " g"), "ml": ("ml", " ml")}
)
_LARGE: Final[Mapping[str, str]] = MappingProxyType({"g": "kg", "ml": "L"})


class Words:
    """The words of one language. Instants are shown in `zone`; None is this machine's own."""

    def __init__(self, language: Language, zone: tzinfo | None = None) -> None:
        self.language: Language = language
        self._zone = zone
        self._place = LANGUAGES.index(language)

    @property
    def html_language(self) -> str:
        return HTML_LANGUAGE[self.language]

    @property
    def other(self) -> Language:
        return LANGUAGES[1 - self._place]

    def __call__(self, word: str, **filled: object) -> str:
        """Raises KeyError for a word that is not there, as any test that shows the page finds."""
        return _WORDS[word][self._place].format(**filled)

    def money(self, amount_minor: int, currency: str) -> str:
        """As on the paper receipt: ￥64.90 in Chinese, CNY 64.90 in English."""
        shown = format_amount(amount_minor, currency)
        if currency == "CNY" and self.language == "zh":
            return f"￥{shown}"
        return f"{currency} {shown}"

    def quantity(self, quantity: int, unit: str) -> str:
        """As on the paper receipt: 2件, 1.5kg."""
        if unit in _LARGE and quantity >= 1000:
            whole, part = divmod(quantity, 1000)
            decimals = f".{part:03d}".rstrip("0") if part else ""
            gap = " " if self.language == "en" else ""
            return f"{whole}{decimals}{gap}{_LARGE[unit]}"
        return f"{quantity}{_UNITS[unit][self._place]}"

    def counted(self, count: int, currency: str, terms: Terms | None) -> str:
        """What a voucher counts: money, or goods."""
        return self.money(count, currency) if terms is None else self.quantity(count, terms.unit)

    def given_back(self, back: Back, currency: str) -> str:
        """What one return gave back: goods where a voucher counts them, and money."""
        shown = [self.quantity(*goods) for goods in back.goods]
        if back.amount_minor or not shown:
            shown.append(self.money(back.amount_minor, currency))
        return self._listed(shown)

    def taken_back(self, use: Use) -> str:
        """What became of a use that something took back."""
        if use.is_undone:
            return self("reversed" if use.is_cancelled else "returned_all")
        goods: dict[str, int] = {}
        for quantity, unit in (each for back in use.backs for each in back.goods):
            goods[unit] = goods.get(unit, 0) + quantity
        whole = replace(
            use.backs[0],
            amount_minor=use.back_minor,
            goods=tuple((quantity, unit) for unit, quantity in goods.items()),
        )
        return self("returned_some", back=self.given_back(whole, use.currency))

    def _listed(self, words: Iterable[str]) -> str:
        return ("、" if self.language == "zh" else ", ").join(words)

    def price(self, terms: Terms, currency: str) -> str:
        per = self.quantity(terms.cap_quantity, terms.unit)
        if terms.fixed_minor:
            return self("price_fixed", per=per, fixed=self.money(terms.fixed_minor, currency))
        return self("price_item", per=per, cap=self.money(terms.cap_minor, currency))

    def category(self, category: str) -> str:
        return _CATEGORIES.get(category, (category, category))[self._place]

    def categories(self, categories: tuple[str, ...]) -> str:
        if not categories:
            return self("any_goods")
        return self._listed(map(self.category, categories))

    def instant(self, at: datetime) -> str:
        return f"{at.astimezone(self._zone):%Y-%m-%d %H:%M}"

    def clock_time(self, at: datetime) -> str:
        return f"{at.astimezone(self._zone):%H:%M}"

    def last_day(self, expires_at: datetime) -> str:
        """The last day on which something that ends at this instant is good."""
        return f"{(expires_at - timedelta(milliseconds=1)).astimezone(self._zone):%Y-%m-%d}"

    def day(self, at: datetime) -> str:
        return f"{at.astimezone(self._zone):%Y-%m-%d}"

    def zone(self, at: datetime) -> str:
        offset = f"{at.astimezone(self._zone):%z}"
        return f"UTC{offset[:3]}:{offset[3:5]}"
