"""CarePOS: redeem digital aid vouchers exactly once, at the register a shop already has.

The names below are the public surface; everything else may change. Start with `Till`.
"""

from __future__ import annotations

from carepos.basket import Line, spread_discount
from carepos.errors import (
    CareposError,
    ClockSkew,
    EnrolmentFailed,
    JournalClosed,
    JournalCorrupt,
    JournalError,
    JournalLocked,
    Malformed,
    NotDecided,
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
from carepos.scan import Holder
from carepos.slip import Paper
from carepos.till import DayClose, Offer, Sale, Till
from carepos.token import IdentityToken, TokenVerifier
from carepos.voucher import Programme, Quota, Terms, Voucher

__all__ = [
    "CareposError",
    "ClockSkew",
    "DayClose",
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
    "Offer",
    "Paper",
    "Programme",
    "Proposal",
    "Quota",
    "Refusal",
    "Refused",
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
