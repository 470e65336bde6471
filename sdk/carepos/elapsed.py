"""How long ago, or how soon, in the words people use."""

from __future__ import annotations

from datetime import datetime
from typing import Final

_UNITS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def relative(instant: datetime, now: datetime) -> str:
    """`3 minutes ago`, `in 2 hours`, `now`: whole units, cut and not rounded."""
    seconds = int((instant - now).total_seconds())
    if seconds == 0:
        return "now"
    said = length(abs(seconds))
    return f"in {said}" if seconds > 0 else f"{said} ago"


def length(seconds: int) -> str:
    """`90` → `1 minute`, of seconds that are not negative."""
    for size, unit in _UNITS:
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "0 seconds"
