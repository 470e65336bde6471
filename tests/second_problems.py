"""Answers that decide nothing, and their statuses: docs/protocol.md section 9, read again."""

from __future__ import annotations

from typing import Any

from tests.second_signing import Json

STATUS = {
    "acceptance_missing": 409,
    "activation_unknown": 403,
    "activation_used": 403,
    "already_exists_differently": 409,
    "clock_skew": 401,
    "in_flight": 409,
    "ledger_healing": 503,
    "not_enrolled": 409,
    "not_found": 404,
    "method_not_allowed": 405,
    "sequence_gap": 409,
    "signature_invalid": 401,
    "terminal_forked": 403,
    "terminal_revoked": 403,
    "terminal_suspended": 403,
    "too_large": 413,
    "unauthorised": 401,
    "unsupported_media_type": 415,
}


class Problem(Exception):
    """Nothing was decided: an RFC 9457 document."""

    def __init__(self, code: str, status: int | None = None, **more: object) -> None:
        super().__init__(code)
        self.status = status or STATUS.get(code, 400)
        self.document: Json = {
            "type": f"urn:carepos:problem:{code}",
            "title": code.replace("_", " "),
            "status": self.status,
            "detail": f"The request was not taken: {code}.",
            "code": code,
            **more,
        }


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_any(_value: Any) -> bool:
    return True
