"""Answers that decide nothing: RFC 9457 problem documents with a stable code.

Whatever was decided is a signed outcome instead; a problem never uses up an id.
"""

from __future__ import annotations

from typing import Any, Final

from carepos.errors import Malformed
from carepos.refusals import BY_CODE

STATUS: Final[dict[str, int]] = {
    "malformed": 400,
    "basket_too_large": 400,
    "unsupported_kind": 400,
    "signature_invalid": 401,
    "unauthorised": 401,
    "clock_skew": 401,
    "terminal_suspended": 403,
    "terminal_revoked": 403,
    "terminal_forked": 403,
    "activation_unknown": 403,
    "activation_expired": 403,
    "activation_used": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "in_flight": 409,
    "acceptance_missing": 409,
    "sequence_gap": 409,
    "already_exists_differently": 409,
    "not_funded": 409,
    "list_forgotten": 409,
    "still_worth": 409,
    "leaves_spent": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "too_many_requests": 429,
    "internal": 500,
    "issuer_unavailable": 502,
    "try_again": 503,
    "ledger_healing": 503,
    "not_reported": 409,
    "not_enrolled": 409,
    "out_of_order": 409,
}

_TITLES: Final[dict[str, str]] = {
    "unauthorised": "This call needs valid credentials.",
    "clock_skew": "The clocks differ by more than a minute.",
    "activation_unknown": "This activation code is not known.",
    "activation_expired": "This activation code has expired.",
    "activation_used": "This activation code was used by another till.",
    "not_found": "There is nothing here.",
    "method_not_allowed": "This address does not take this method.",
    "in_flight": "The same sale is being decided right now.",
    "acceptance_missing": "A sale made without the ledger travels with its acceptance.",
    "sequence_gap": "Records before this one are missing.",
    "already_exists_differently": "It exists already with other content.",
    "not_funded": "The programme has not enough money that is not reserved.",
    "list_forgotten": "What was issued from this programme's lists is no longer known.",
    "still_worth": "The person's vouchers can still be spent.",
    "leaves_spent": "This reversal would give money back.",
    "too_large": "The request is too large.",
    "unsupported_media_type": "The body must be application/json.",
    "too_many_requests": "Too many requests. Slow down.",
    "internal": "The ledger failed. Nothing was decided by this answer.",
    "issuer_unavailable": "The issuer's keys could not be had from its address.",
    "try_again": "The ledger could not decide now. Try again.",
    "ledger_healing": "The ledger is being restored. Nothing is decided until it is open again.",
    "out_of_order": "It is not the one that comes next.",
    "not_enrolled": "This till was enrolled in what is lost and can't be enrolled anew yet.",
    "not_reported": "Not every till has said that it has offered all that it has.",
}


class Problem(Exception):
    """One problem document. `extra` stands beside the standard members."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int | None = None,
        field: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.status = status or STATUS.get(code, 403)
        self.field = field
        self.extra = extra or {}

    @classmethod
    def of(cls, error: Malformed) -> Problem:
        """The problem that a malformed input is; its text names fields, never values."""
        return cls(error.code, str(error), field=error.field)

    def to_json(self) -> dict[str, Any]:
        """The members of RFC 9457 plus `code`, `field` where one is at fault, and `extra`."""
        kind = BY_CODE.get(self.code)
        document: dict[str, Any] = {
            "type": f"urn:carepos:problem:{self.code}",
            "title": kind.en if kind else _TITLES.get(self.code, self.code),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.field is not None:
            document["field"] = self.field
        return {**document, **self.extra}
