"""What was collected for others, written a second time from docs/identity.md section 8 alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tests.second_signing import Json
from tests.second_tokens import Shown


@dataclass(frozen=True)
class Acted:
    """An acted redemption, under the (terminal, id) of its attempt."""

    at: datetime
    programme: str
    household: tuple[str, str]
    actor: str
    way: str
    reason: str
    amount_minor: int


class Acting:
    """Every acted redemption that is posted and not reversed."""

    def __init__(self) -> None:
        self.posted: dict[tuple[str, str], Acted] = {}

    def note(
        self, attempt: tuple[str, str], shown: Shown, programme: str, amount: int, at: datetime
    ) -> None:
        if shown.actor is not None:
            household, reason = (shown.iss, shown.claims["sub"]), shown.claims["care_reason"]
            self.posted[attempt] = Acted(
                at,
                programme,
                household,
                shown.actor,
                shown.way,
                reason,
                amount,
            )

    def paid(self, shown: Shown, programme: Json, now: datetime) -> Json:
        """What was paid for this household, and to this actor, within the programme's window."""
        window = timedelta(seconds=programme["acting"]["window_s"])
        counted = [
            acted
            for acted in self.posted.values()
            if acted.programme == programme["programme"] and acted.at > now - window
        ]
        household = (shown.iss, shown.claims["sub"])
        return {
            "household_minor": sum(a.amount_minor for a in counted if a.household == household),
            "actor_minor": sum(a.amount_minor for a in counted if a.actor == shown.actor),
        }
