"""CarePOS: redeem digital aid vouchers exactly once, at the register a shop already has.

The names below are the public surface; everything else may change. Start with `Till`.

Each is loaded when it is first asked for (PEP 562): whoever only verifies care codes does not wait
for the journal, and a register's process starts at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carepos.basket import Line, spread_discount
    from carepos.correction import Correction
    from carepos.errors import (
        CareposError,
        ClockSkew,
        DiskFull,
        EnrolmentFailed,
        JournalClosed,
        JournalCorrupt,
        JournalError,
        JournalLocked,
        Malformed,
        NotDecided,
        NotWritten,
        Refused,
        SignatureInvalid,
        TokenRefused,
        Unreachable,
        WrongState,
    )
    from carepos.issuer_keys import IssuerKeys, SetRefused
    from carepos.key_store import KeyStore
    from carepos.refusals import Refusal
    from carepos.rules import Proposal, Situation, check, propose
    from carepos.sale import Offer, Returnable, Sale
    from carepos.scan import Holder
    from carepos.slip import Paper
    from carepos.till import DayClose, Till
    from carepos.token import IdentityToken, TokenVerifier
    from carepos.undo import ReturnedLine
    from carepos.voucher import Programme, Quota, Terms, Voucher

__all__ = [
    "CareposError",
    "ClockSkew",
    "Correction",
    "DayClose",
    "DiskFull",
    "EnrolmentFailed",
    "Holder",
    "IdentityToken",
    "IssuerKeys",
    "JournalClosed",
    "JournalCorrupt",
    "JournalError",
    "JournalLocked",
    "KeyStore",
    "Line",
    "Malformed",
    "NotDecided",
    "NotWritten",
    "Offer",
    "Paper",
    "Programme",
    "Proposal",
    "Quota",
    "Refusal",
    "Refused",
    "Returnable",
    "ReturnedLine",
    "Sale",
    "SetRefused",
    "SignatureInvalid",
    "Situation",
    "Terms",
    "Till",
    "TokenRefused",
    "TokenVerifier",
    "Unreachable",
    "Voucher",
    "WrongState",
    "check",
    "propose",
    "spread_discount",
]

_NAMES_OF = {
    "basket": "Line spread_discount",
    "correction": "Correction",
    "errors": "CareposError ClockSkew DiskFull EnrolmentFailed JournalClosed JournalCorrupt"
    " JournalError JournalLocked Malformed NotDecided NotWritten Refused SignatureInvalid"
    " TokenRefused Unreachable WrongState",
    "issuer_keys": "IssuerKeys SetRefused",
    "key_store": "KeyStore",
    "refusals": "Refusal",
    "rules": "Proposal Situation check propose",
    "sale": "Offer Returnable Sale",
    "scan": "Holder",
    "slip": "Paper",
    "till": "DayClose Till",
    "token": "IdentityToken TokenVerifier",
    "undo": "ReturnedLine",
    "voucher": "Programme Quota Terms Voucher",
}
_HOME = {name: module for module, names in _NAMES_OF.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"carepos.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
