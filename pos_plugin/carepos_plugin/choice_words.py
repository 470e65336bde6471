"""Why something can't be done with a sale as it stands, and what can be done instead.

One row for each choice and the states in which it is none; docs/register-api.md has the table.
"""

from __future__ import annotations

from typing import Final, Literal

from carepos.errors import WrongState

Choice = Literal["cancel", "goods", "accept", "void", "refund"]
STOPPED: Final = "stopped"
"""Of an acceptance that was asked for with no plugin running: in place of the sale's state."""

CHOICES: Final[dict[str, Choice]] = {
    "reverse_chosen": "cancel",
    "goods_handed_over": "goods",
    "goods_kept": "goods",
    "accept_chosen": "accept",
    "void": "void",
    "refund": "refund",
}
"""By the event of a WrongState, what was asked for."""

_AWAITED = (
    "The ledger's answer is awaited: look again in a moment.",
    "正在等待账本答复，请稍后再查看。",
)
_BEING_CANCELLED = (
    "This sale is being cancelled, and that stands. You may begin it again.",
    "本单正在撤销，不能更改；可以重新开始本单。",
)
_SAY_KEPT = (
    "Say first whether the goods were handed over (carepos till goods): no takes the sale back.",
    "请先回答商品是否已交付（carepos till goods）：未交付则撤回本单。",
)
_NOT_BOOKED = (
    (
        "The ledger did not book this sale: there is nothing to take back. "
        "Call the programme's office and give them the receipt number."
    ),
    "账本未入账，无可撤销。请联系项目办公室并提供单号。",
)
_CANCEL_INSTEAD = (
    "The outcome of this sale is not known yet: try again, or cancel it instead.",
    "本单结果未知：请重试，或改为取消。",
)
_BEING_LOOKED_UP = (
    "The till is still asking what became of this sale: wait, or cancel it instead.",
    "正在查询本单结果：请等待，或改为取消。",
)
_FOR_THE_OFFICE = (
    (
        "The ledger did not accept the cancellation of this sale. "
        "Call the programme's office and give them the receipt number."
    ),
    "账本未接受本单的撤销，请联系项目办公室并提供单号。",
)
_NOBODY_ASKED = (
    "Nobody asks about the goods of this sale. How it stands: carepos till status.",
    "本单无需回答商品是否交付；请查看本单状态：carepos till status。",
)

WHY_NOT: Final[dict[tuple[Choice, str], tuple[str, str]]] = {
    ("cancel", "open"): _AWAITED,
    ("cancel", "goods_asked"): _SAY_KEPT,
    ("cancel", "confirmed"): (
        "This sale is redeemed: void it, or refund what comes back.",
        "本单已核销：请撤销整单，或办理退货。",
    ),
    ("cancel", "refused"): (
        "This sale was refused: nothing was taken, there is nothing to cancel.",
        "本单已被拒绝，未扣款，无需取消。",
    ),
    ("cancel", "voided"): (
        "This sale was taken back already: there is nothing to cancel.",
        "本单已撤销，无需取消。",
    ),
    ("cancel", "accepted"): _SAY_KEPT,
    ("cancel", "accept_asked"): _SAY_KEPT,
    ("cancel", "provisional"): (
        "This sale left without the ledger's word, which can't be cancelled: void it.",
        "本单已离线受理，不能取消：请撤销整单。",
    ),
    ("cancel", "held"): (
        "This sale left without the ledger's word, which can't be cancelled: void it.",
        "本单已离线受理，不能取消：请撤销整单。",
    ),
    ("cancel", "short"): (
        "This sale is booked in part: void it.",
        "本单已部分入账：请撤销整单。",
    ),
    ("cancel", "exception"): _NOT_BOOKED,
    ("goods", "open"): _AWAITED,
    ("goods", "unknown"): (
        "The outcome of this sale is not known yet: no goods. Try again or cancel.",
        "本单结果未知，请勿交付商品；可重试或取消。",
    ),
    ("goods", "interrupted"): (
        "The till is still asking what became of this sale: answer when it asks about the goods.",
        "正在查询本单结果，待终端询问商品是否交付时再回答。",
    ),
    ("goods", "confirmed"): _NOBODY_ASKED,
    ("goods", "refused"): _NOBODY_ASKED,
    ("goods", "reversing"): _BEING_CANCELLED,
    ("goods", "filling"): _BEING_CANCELLED,
    ("goods", "reversed"): _NOBODY_ASKED,
    ("goods", "review"): _FOR_THE_OFFICE,
    ("goods", "voided"): _NOBODY_ASKED,
    ("goods", "provisional"): _NOBODY_ASKED,
    ("goods", "held"): _NOBODY_ASKED,
    ("goods", "short"): _NOBODY_ASKED,
    ("goods", "exception"): _NOBODY_ASKED,
    ("accept", "open"): _AWAITED,
    ("accept", "unknown"): (
        "The scanned code is no longer in the till's memory: try again, or cancel and scan anew.",
        "终端已不再保存扫码内容：请重试，或取消后重新扫码。",
    ),
    ("accept", "interrupted"): (
        (
            "The till was started again since the code was scanned: wait until the ledger answers, "
            "or cancel and scan anew."
        ),
        "扫码后终端已重启：请等待账本答复，或取消后重新扫码。",
    ),
    ("accept", "goods_asked"): (
        (
            "The ledger booked this sale already: say whether the goods were handed over "
            "(carepos till goods)."
        ),
        "账本已入账：请回答商品是否已交付（carepos till goods）。",
    ),
    ("accept", "reversing"): _BEING_CANCELLED,
    ("accept", "filling"): _BEING_CANCELLED,
    ("accept", STOPPED): (
        (
            "The plugin is not running, and only it has the scanned code: start it (carepos till "
            "serve). It then asks the ledger what became of the sale."
        ),
        "插件未运行，无法离线受理：请启动插件（carepos till serve），由其查询本单结果。",
    ),
    ("void", "open"): _AWAITED,
    ("void", "unknown"): _CANCEL_INSTEAD,
    ("void", "interrupted"): _BEING_LOOKED_UP,
    ("void", "goods_asked"): _SAY_KEPT,
    ("void", "review"): _FOR_THE_OFFICE,
    ("void", "exception"): _NOT_BOOKED,
    ("refund", "open"): _AWAITED,
    ("refund", "unknown"): _CANCEL_INSTEAD,
    ("refund", "interrupted"): _BEING_LOOKED_UP,
    ("refund", "goods_asked"): _SAY_KEPT,
    ("refund", "accepted"): _SAY_KEPT,
    ("refund", "accept_asked"): _SAY_KEPT,
    ("refund", "provisional"): (
        "This sale is not uploaded yet: void the whole of it, or wait until it is.",
        "本单尚未上传：请撤销整单，或上传后再退货。",
    ),
    ("refund", "held"): (
        "The programme's office has not decided this sale yet: void the whole of it, or wait.",
        "项目办公室尚未处理本单：请撤销整单，或等待处理。",
    ),
    ("refund", "review"): _FOR_THE_OFFICE,
    ("refund", "exception"): _NOT_BOOKED,
}

ANSWERED: Final[dict[str, tuple[str, str]]] = {
    "goods_handed_over": (
        (
            "It was said that the goods were handed over, and that stands. "
            "Void the sale to take it back."
        ),
        "此前已回答商品已交付，不能更改；如需退回请撤销整单。",
    ),
    "goods_kept": (
        (
            "It was said that the shop kept the goods, and that stands: the sale is taken back. "
            "Begin a new one for the goods."
        ),
        "此前已回答商品未交付，不能更改：本单正在撤回；如需商品请重新开单。",
    ),
}
"""By what was answered before, why the other answer can't follow."""


def why_not(error: WrongState) -> tuple[str, str] | None:
    """English and Chinese; None where no choice of a cashier's was refused."""
    if error.before in ANSWERED:
        return ANSWERED[error.before]
    choice = CHOICES.get(error.event)
    return None if choice is None else WHY_NOT.get((choice, error.state))


def as_markdown() -> str:
    """The table of docs/register-api.md: choices and states that have one reason in one row."""
    rows: dict[tuple[Choice, tuple[str, str]], list[str]] = {}
    for (choice, state), told in WHY_NOT.items():
        if state != STOPPED:
            rows.setdefault((choice, told), []).append(f"`{state}`")
    lines = ["| asked for | `state` | people read |", "|---|---|---|"]
    lines += [
        f"| {c} | {', '.join(states)} | {en} {zh} |" for (c, (en, zh)), states in rows.items()
    ]
    lines += [f"| goods | the other was answered | {en} {zh} |" for en, zh in ANSWERED.values()]
    return "\n".join(lines)
