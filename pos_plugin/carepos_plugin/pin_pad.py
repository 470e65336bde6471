"""The PIN of a printed card, entered on the beneficiary's side (docs/identity.md §7).

A sale that needs a PIN makes a request; the pad, a second screen or a tablet, shows it; what is
typed there goes from the pad's own call into the lookup and is forgotten. It never passes the
register. At most one request is on the pad: nobody's PIN can meet another's card.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

from carepos import CareposError, Holder, Refused
from carepos.ids import RandomBytes
from carepos.keys import b64
from carepos_plugin.problems import Problem, problem_of
from carepos_plugin.sentences import refusal_said, said

LIFE_S: Final = 60
"""Seconds a request waits for a press; each wrong PIN gives as many again."""
SHOWN_S: Final = 10
"""Seconds the pad shows what became of a request."""
MOST: Final = 50

State = Literal[
    "waiting", "checking", "proved", "cancelled", "timed_out", "replaced", "refused", "failed"
]

ON_REGISTER: Final[dict[str, tuple[str, str]]] = {
    "no_pad": (
        "A card needs its PIN, and no PIN pad is connected: carepos till pin-pad.",
        "刷卡需要密码，但未连接密码键盘：请运行 carepos till pin-pad。",
    ),
    "waiting": (
        "Ask the holder to enter the card's PIN on the PIN pad.",
        "请持卡人在密码键盘上输入密码。",
    ),
    "pad_silent": (
        "The PIN pad does not answer: open its page again. The holder enters the PIN there.",
        "密码键盘无响应：请重新打开其页面，由持卡人输入密码。",
    ),
    "checking": ("The PIN is being checked.", "正在核对密码。"),
    "proved": ("The PIN is right.", "密码正确。"),
    "cancelled": (
        "The PIN was not entered. Scan the card again, or let the customer pay another way.",
        "未输入密码：请重新刷卡，或改用其他方式付款。",
    ),
    "timed_out": (
        "No PIN was entered within a minute. Scan the card again.",
        "一分钟内未输入密码，请重新刷卡。",
    ),
    "replaced": ("Another code was scanned for this sale.", "本单已扫描其他码。"),
    "refused": ("The card was refused.", "该卡被拒绝。"),
    "failed": (
        "The PIN could not be checked. Scan the card again.",
        "无法核对密码，请重新刷卡。",
    ),
}

ON_PAD: Final[dict[str, tuple[str, str]]] = {
    "idle": ("Please wait for the cashier.", "请等待收银员操作"),
    "waiting": ("Enter your PIN", "请输入密码"),
    "wrong": ("Wrong PIN. Try again", "密码错误，请重试"),
    "checking": ("Checking, please wait", "正在核对，请稍候"),
    "proved": ("Thank you. Look at the cashier's screen", "谢谢，请看收银屏幕"),
    "cancelled": ("Cancelled. Nothing was taken", "已取消，未扣款"),
    "timed_out": ("Too long without a PIN. Nothing was taken", "输入超时，未扣款"),
    "replaced": ("The cashier scanned another code", "收银员已扫描其他码"),
    "refused": ("Refused. Nothing was taken", "已拒绝，未扣款"),
    "failed": ("No connection. Nothing was taken", "网络不通，未扣款"),
}


WITHOUT_PAD: Final[dict[str, Any]] = {
    "request": None,
    "state": "no_pad",
    "tries_left": None,
    "left_s": 0,
    **said(*ON_REGISTER["no_pad"]),
}


@dataclass(slots=True, repr=False)
class _Request:
    """One card that waits for its PIN. `code` holds the card's secret until the PIN was checked.

    `entry` counts presses: one that was taken is never taken again. `refusal` and `problem` are
    made anew, never kept exceptions: those would keep the frames in which the PIN was.
    """

    id: str
    checkout: str
    card: str
    code: str | None
    until: float
    on_pad_until: float = 0.0
    state: State = "waiting"
    entry: int = 1
    tries_left: int | None = None
    refusal: dict[str, Any] | None = None
    problem: Problem | None = None
    holder: Holder | None = None

    def __repr__(self) -> str:
        return f"_Request({self.state})"


@dataclass(frozen=True, slots=True, repr=False)
class Standing:
    """Where a request stands, for the register; `holder` once the PIN is proved."""

    shown: dict[str, Any]
    refusal: dict[str, Any] | None
    problem: Problem | None
    holder: Holder | None


class PinPad:
    """The requests of one till and its one pad. Safe to call from several threads.

    `look_up` asks the ledger with a card and its PIN and raises as `Till.scan`; `kept_s` is how
    long a proved holder is kept for the register.
    """

    def __init__(
        self,
        look_up: Callable[[str, str], Holder],
        *,
        shop: str,
        kept_s: float,
        monotonic: Callable[[], float],
        random_bytes: RandomBytes,
    ) -> None:
        self._look_up = look_up
        self._shop = shop
        self._kept_s = kept_s
        self._monotonic = monotonic
        self._random_bytes = random_bytes
        self._mutex = threading.Lock()
        self._requests: dict[str, _Request] = {}
        self._on_pad: _Request | None = None
        self._seen_at: float | None = None

    # ── the register's side ────────────────────────────────────────────────────────────────────

    def ask(self, checkout: str, code: str, card: str) -> Standing:
        """Put a card's request on the pad; the same card scanned twice is one request.

        Raises Problem pin_pad_busy while another sale's customer is at the pad.
        """
        with self._mutex:
            self._forget_expired()
            shown = self._on_pad
            if shown is not None and shown.state in ("waiting", "checking"):
                if shown.checkout != checkout:
                    raise Problem("pin_pad_busy")
                if shown.code == code:
                    return self._standing(shown)
            self._end(checkout, "replaced")
            made = _Request(
                b64(self._random_bytes(16)), checkout, card, code, self._monotonic() + LIFE_S
            )
            if len(self._requests) >= MOST:
                del self._requests[next(iter(self._requests))]
            self._requests[made.id] = self._on_pad = made
            return self._standing(made)

    def standing(self, request_id: str, checkout: str | None = None) -> Standing:
        """Raises Problem pin_request_gone for one not known, or of another sale."""
        with self._mutex:
            self._forget_expired()
            found = self._requests.get(request_id)
            if found is None or checkout not in (None, found.checkout):
                _gone()
            return self._standing(found)

    def cancel(self, request_id: str) -> Standing:
        """Take a request off the pad. Raises Problem pin_request_gone."""
        with self._mutex:
            self._forget_expired()
            found = self._requests.get(request_id)
            if found is None:
                _gone()
            self._end_one(found, "cancelled")
            return self._standing(found)

    def end(self, checkout: str, *, unless: str | None = None) -> None:
        """Another code was scanned for the sale: a card that waits for its PIN, or had it proved,
        is forgotten. A scan of the same card (`unless`) changes nothing."""
        with self._mutex:
            shown = self._on_pad
            if unless is not None and shown is not None and shown.code == unless:
                return
            self._end(checkout, "replaced")

    def over(self, checkout: str) -> None:
        """The sale is redeemed: its card is forgotten, and the pad goes on saying what it said.

        Nobody scanned anything else, and the holder must not read so.
        """
        with self._mutex:
            for each in [each for each in self._requests.values() if each.checkout == checkout]:
                each.holder = None
                if each.state != "proved":
                    self._end_one(each, "replaced")
                del self._requests[each.id]

    def answering(self) -> bool:
        """Whether the pad's page has asked within the last ten seconds."""
        return self._seen_at is not None and self._monotonic() - self._seen_at < SHOWN_S

    def forget_expired(self) -> None:
        """Called every so often, so that no card stays in memory over night."""
        with self._mutex:
            self._forget_expired()

    # ── the pad's side ─────────────────────────────────────────────────────────────────────────

    def state(self) -> dict[str, Any]:
        """What the pad's page shows now."""
        with self._mutex:
            self._seen_at = self._monotonic()
            self._forget_expired()
            return self._shown_on_pad()

    def enter(self, request_id: str, entry: int, pin: str) -> dict[str, Any]:
        """One press of OK. Told twice (a double press, an answer that was lost) it counts once.

        Raises Problem pin_request_gone when this is not the request that is on the pad.
        """
        with self._mutex:
            self._forget_expired()
            found = self._at_pad(request_id)
            if found.state != "waiting" or found.entry != entry or found.code is None:
                return self._shown_on_pad()
            found.state = "checking"
            found.entry += 1
            code = found.code
        self._check(found, code, pin)
        with self._mutex:
            return self._shown_on_pad()

    def give_up(self, request_id: str) -> dict[str, Any]:
        """The holder pressed cancel. Raises Problem pin_request_gone."""
        with self._mutex:
            self._forget_expired()
            self._end_one(self._at_pad(request_id), "cancelled")
            return self._shown_on_pad()

    # ── inside ─────────────────────────────────────────────────────────────────────────────────

    def _check(self, found: _Request, code: str, pin: str) -> None:
        """Ask the ledger, and note what it said unless the request was ended meanwhile."""
        holder, refusal, problem = None, None, None
        tries_left: int | None = None
        try:
            holder = self._look_up(code, pin)
        except Refused as error:
            refusal, tries_left = refusal_said(error), error.tries_left
        except CareposError as error:
            problem = problem_of(error)
        except BaseException:
            with self._mutex:
                self._end_one(found, "failed")
            raise
        with self._mutex:
            if found.state != "checking":
                return
            if holder is not None:
                self._end_one(found, "proved")
                found.holder = holder
                found.until = self._monotonic() + self._kept_s
            elif refusal is not None and refusal["code"] == "pin_wrong":
                found.state = "waiting"
                found.refusal, found.tries_left = refusal, tries_left
                found.until = self._monotonic() + LIFE_S
            else:
                self._end_one(found, "refused" if problem is None else "failed")
                found.refusal, found.problem, found.tries_left = refusal, problem, None

    def _at_pad(self, request_id: str) -> _Request:
        if self._on_pad is None or self._on_pad.id != request_id:
            _gone()
        return self._on_pad

    def _end(self, checkout: str, state: State) -> None:
        for each in self._requests.values():
            if each.checkout == checkout:
                each.holder = None
                self._end_one(each, "replaced" if each.state == "proved" else state)

    def _end_one(self, request: _Request, state: State) -> None:
        """From here on the card's secret is gone."""
        if request.state in ("waiting", "checking") or state == "replaced":
            request.state = state
            request.code = None
            request.until = request.on_pad_until = self._monotonic() + SHOWN_S

    def _forget_expired(self) -> None:
        at = self._monotonic()
        for each in list(self._requests.values()):
            if at < each.until or each.state == "checking":
                continue
            if each.state == "waiting":
                self._end_one(each, "timed_out")
            elif each.state == "proved":
                each.holder = None
                self._end_one(each, "replaced")
            elif at >= each.until + self._kept_s:
                del self._requests[each.id]

    def _standing(self, request: _Request) -> Standing:
        code = request.state
        if code == "waiting" and not self.answering():
            code_said = ON_REGISTER["pad_silent"]
        else:
            code_said = ON_REGISTER[code]
        return Standing(
            {
                "request": request.id,
                "state": code,
                "tries_left": request.tries_left,
                "left_s": self._left_s(request),
                **said(*code_said),
            },
            request.refusal,
            request.problem,
            request.holder,
        )

    def _left_s(self, request: _Request) -> int:
        return max(0, round(request.until - self._monotonic()))

    def _shown_on_pad(self) -> dict[str, Any]:
        shown = self._on_pad
        active = shown is not None and shown.state in ("waiting", "checking")
        if shown is not None and (active or self._monotonic() < shown.on_pad_until):
            wrong = shown.state == "waiting" and shown.refusal is not None
            en, zh = ON_PAD["wrong" if wrong else shown.state]
            if wrong and shown.tries_left is not None:
                en, zh = (
                    f"{en}. Tries left: {shown.tries_left}",
                    f"{zh}，还可试{shown.tries_left}次",
                )
            elif shown.state == "refused" and shown.refusal is not None:
                en, zh = shown.refusal["en"], shown.refusal["zh"]
            return {
                "shop": self._shop,
                "state": shown.state,
                "request": shown.id if active else None,
                "entry": shown.entry,
                "card": shown.card if active else None,
                "wrong": wrong,
                "left_s": self._left_s(shown),
                **said(en, zh),
            }
        return {
            "shop": self._shop,
            "state": "idle",
            "request": None,
            "entry": 0,
            "card": None,
            "wrong": False,
            "left_s": 0,
            **said(*ON_PAD["idle"]),
        }


def _gone() -> NoReturn:
    raise Problem("pin_request_gone")
