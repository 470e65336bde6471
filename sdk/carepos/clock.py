"""Instants as the protocol spells them: ISO 8601, UTC, three decimals, 24 characters."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from carepos.errors import Malformed

Clock = Callable[[], datetime]
"""Tells the time, aware and in UTC. Passed in at the edge; no rule reads a clock by itself."""

_PATTERN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


def system_clock() -> datetime:
    return datetime.now(UTC)


def to_text(instant: datetime) -> str:
    """`2026-11-22T08:30:00.000Z`; microseconds are cut, never rounded into the future."""
    at = instant.astimezone(UTC)
    # %Y does not pad years before 1000 everywhere.
    return f"{at.year:04d}-{at:%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def from_text(value: object, field: str = "time") -> datetime:
    """The instant spelled by `value`. Raises Malformed for any other spelling."""
    if not isinstance(value, str) or _PATTERN.fullmatch(value) is None:
        raise Malformed("must look like 2026-11-22T08:30:00.000Z", field=field)
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise Malformed("no such date or time", field=field) from None
