"""A `kid` that nobody here knows may mean a rotation: whom to ask about it, and how often.

docs/identity.md §3: at most once in five minutes per issuer, whatever is shown. Otherwise whoever
makes kids up would have us call the issuer as often as they like.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from carepos import compact, presentation
from carepos.errors import Malformed, TokenRefused
from carepos.presentation import Presentation

COOL_DOWN: Final = timedelta(minutes=5)


def may_ask(asked_at: datetime | None, now: datetime) -> bool:
    """Whether enough time has passed since `asked_at`.

    Both ways: a clock that was set back must not stop the asking for years.
    """
    return asked_at is None or abs(now - asked_at) >= COOL_DOWN


def is_meant(refused: TokenRefused) -> bool:
    """Whether a token was refused only because its key is not known (row 5, not another row)."""
    return refused.code == "token_signature" and refused.claim == "kid"


def is_meant_or_its_issuer(refused: TokenRefused) -> bool:
    """As `is_meant`, or because its issuer is not known either (row 4)."""
    return is_meant(refused) or refused.code == "token_issuer"


def issuer_named(scanned: str | Presentation) -> str | None:
    """The `iss` that a token names. Nothing of it is verified: it only says whom to ask."""
    try:
        held = presentation.read(scanned) if isinstance(scanned, str) else scanned
        iss = compact.read(held.token).claims.get("iss")
    except Malformed:
        return None
    return iss if isinstance(iss, str) else None
