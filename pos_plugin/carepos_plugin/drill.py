"""`carepos till drill`: an outage played before there is one, told as a list of what would work.

No money moves and no record is written. With a slip to print, it says DRILL in large and has no
number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from carepos import Paper, Refused, TokenRefused, Unreachable, slip
from carepos.clock_ratchet import ClockRatchet
from carepos.disk_room import Room
from carepos.drill import Could, Drill
from carepos.enrolment import Enrolment
from carepos.journal_view import JournalView
from carepos.outcome import NotServed
from carepos.readiness import Readiness, Why
from carepos.receipt import Receipt
from carepos.scan import PinTried
from carepos_plugin.offline_words import WHY_NOT, priced, readiness_said
from carepos_plugin.print_queue import NO_PRINTER, Slip
from carepos_plugin.sentences import refusal_of, refusal_said, said

_CHECKS: Final[Sequence[tuple[str, tuple[str, str], tuple[Why, ...], tuple[str, str]]]] = (
    (
        "till",
        ("Till", "终端"),
        (*get_args(NotServed), "put_back"),
        ("It was not stopped.", "终端未被停用。"),
    ),
    ("clock", ("Clock", "时钟"), ("clock_wrong",), ("The clock is not wrong.", "时钟可用。")),
    (
        "disk",
        ("Disk", "磁盘"),
        ("disk_failed", "disk_full"),
        ("The disk has room.", "磁盘有空间。"),
    ),
    (
        "pack",
        ("Pack", "离线包"),
        ("no_pack", "pack_damaged", "pack_old"),
        ("The offline pack is whole and signed, and not too old.", "离线包完整、有签名且未过期。"),
    ),
    (
        "programme",
        ("Programme", "项目"),
        ("offline_not_allowed",),
        ("A programme may be redeemed without a network.", "有项目允许离线核销。"),
    ),
    (
        "households",
        ("Households", "家庭"),
        ("no_households", "nobody_at_home"),
        ("The households of this shop are in it.", "离线包中有本店家庭。"),
    ),
    (
        "set_aside",
        ("Set aside", "预留额度"),
        ("nothing_set_aside",),
        ("There is something to sell from.", "有可用额度。"),
    ),
    (
        "stored",
        ("Room for sales", "存单余量"),
        ("stored_full",),
        ("More sales can be stored.", "还可存入离线单。"),
    ),
)
"""Name, what people call it, the reasons that fail it, what is said where none does."""

_OWN: Final = ("till", "clock", "disk", "pack")
"""What can be told without a pack."""
_OF_HOUSEHOLDS: Final = ("households", "set_aside")
"""What can't be told of a till that is suspended: it is given no households."""

NAMES: Final[Mapping[str, tuple[str, str]]] = {
    **{name: called for name, called, _, _ in _CHECKS},
    "seal": ("Evidence", "凭证"),
    "code": ("Code", "爱心码"),
    "printer": ("Printer", "打印机"),
}
NOT_TRIED: Final = ("Not tried.", "未检查。")


def played(
    folder: Path,
    enrolled: Enrolment,
    journal: JournalView,
    *,
    ratchet: ClockRatchet,
    disk: Room,
    paper: Paper,
    code: str | None = None,
    pin: str | None = None,
    pin_tried: PinTried | None = None,
    prints: Callable[[Receipt], Slip] | None = None,
) -> dict[str, Any]:
    """`{"passed", "checks", "could_use", "en", "zh"}`; of a check `ok` is null where it was not
    tried. `could_use` tells by programme what the holder of `code` could use, null without one.

    Beside a running plugin or without one; `prints` puts the slip on paper.
    """
    drill, now = Drill(folder, journal, ratchet, pin_tried=pin_tried), ratchet.now()
    ready = drill.readiness(disk)
    checks = [_checked(ready, *each) for each in _CHECKS]
    checks.append(_sealed(drill, ready))
    could_use = None
    if code is not None:
        could_use, check = _presented(drill, code, pin)
        checks.append(check)
    printed = None if prints is None else prints(slip.drill(enrolled, paper, now))
    checks.append(_printed(printed))
    passed = all(each["ok"] is not False for each in checks)
    told = readiness_said(ready, now)
    return {
        "passed": passed,
        "checks": checks,
        "could_use": could_use,
        **(
            said(f"Passed. {told['en']}", f"演练通过。{told['zh']}")
            if passed
            else said("Not passed: see what to do.", "演练未通过，请按提示处理。")
        ),
    }


def _check(name: str, ok: bool | None, en: str, zh: str) -> dict[str, Any]:
    called_en, called_zh = NAMES[name]
    return {"check": name, "ok": ok, "name": said(called_en, called_zh), **said(en, zh)}


def _checked(
    ready: Readiness,
    name: str,
    _called: tuple[str, str],
    fails: tuple[Why, ...],
    fine: tuple[str, str],
) -> dict[str, Any]:
    for each in fails:
        if each in ready.why_not:
            return _check(name, False, *WHY_NOT[each])
    if "no_pack" in ready.why_not and name not in _OWN:
        return _check(name, None, *NOT_TRIED)
    if "terminal_suspended" in ready.why_not and name in _OF_HOUSEHOLDS:
        return _check(name, None, *NOT_TRIED)
    return _check(name, True, *fine)


def _sealed(drill: Drill, ready: Readiness) -> dict[str, Any]:
    if {"no_pack", "no_households", "pack_damaged", "terminal_suspended"} & set(ready.why_not):
        return _check("seal", None, *NOT_TRIED)
    if not drill.seals():
        return _check("seal", False, *WHY_NOT["no_evidence_key"])
    return _check("seal", True, "A code can be sealed for the ledger.", "可为账本加密保存爱心码。")


def _presented(
    drill: Drill, code: str, pin: str | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    try:
        found = drill.could_use(code, pin)
    except Refused as error:
        told = refusal_said(error)
        look = error.looks_like if isinstance(error, TokenRefused) else None
        return [], {
            **_check("code", False, told["en"], told["zh"]),
            "code": told["code"],
            "looks_like": look,
        }
    except Unreachable:
        return [], _check("code", None, *NOT_TRIED)
    shown = [_could(each) for each in found]
    if any(each["refusal"] is None for each in shown):
        check = _check("code", True, "It could be used without a network.", "此码断网时可以使用。")
    else:
        check = _check(
            "code", False, "Nothing could be used without a network.", "此码断网时无法使用。"
        )
    return shown, check


def _could(could: Could) -> dict[str, Any]:
    programme = could.programme
    vouchers = []
    for each in could.vouchers:
        money = each.terms is None
        left = each.available_minor if each.terms is None else each.available_quantity
        unit = "" if each.terms is None else f" {each.terms.unit}"
        vouchers.append(
            {
                "label": each.label or each.kind,
                "unit": None if each.terms is None else each.terms.unit,
                "left": left,
                "text": priced(left, programme.currency) if money else f"{left}{unit}",
            }
        )
    return {
        "programme": programme.programme,
        "name": programme.name,
        "currency": programme.currency,
        "vouchers": vouchers,
        "refusal": refusal_of(could.refusal),
    }


def _printed(done: Slip | None) -> dict[str, Any]:
    if done is None:
        return _check("printer", None, *NOT_TRIED)
    if done.state == "printed":
        return _check("printer", True, "The slip is on paper.", "演练小票已打出。")
    if done.reason == NO_PRINTER:
        return _check(
            "printer",
            None,
            "This till has no printer of its own: print at the register.",
            "本终端未接打印机，请在收银机上打印。",
        )
    return _check(
        "printer",
        False,
        f"The slip may not be on paper ({done.reason}): look at the printer.",
        f"演练小票可能未打出（{done.reason}），请检查打印机。",
    )
