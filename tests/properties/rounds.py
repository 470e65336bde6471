"""How many histories a property of the ledger is tried with."""

from __future__ import annotations

from hypothesis import settings


def histories(database_url: str, share: int) -> int:
    """One in `share` of the profile's examples; half of that on PostgreSQL, where each step waits
    for the disk and the rules are the same."""
    part = share if database_url.startswith("sqlite") else 2 * share
    return max(10, settings().max_examples // part)
