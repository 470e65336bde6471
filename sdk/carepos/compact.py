"""The form of a compact JWS that somebody else made (RFC 7515 §7.1), before any cryptography.

PyJWT by itself takes padding, duplicate names, floats for dates and any nesting. What passes here
has one spelling and one reading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from carepos import strict_json
from carepos.errors import Malformed
from carepos.keys import unb64

MAX_HEADER_BYTES: Final = 256
MAX_CLAIMS_BYTES: Final = 1_536
MAX_DEPTH: Final = 4
_HEADERS_KEPT: Final = 512

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

# Tokens of one issuer's key all begin with the same header. Bounded; emptied when full, so that a
# stream of made-up headers costs their parsing and nothing more.
_headers: dict[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True, repr=False)
class Compact:
    """Header and claims as they are spelled; nothing of it is true until `signature` over
    `signed` verifies. repr() shows none of it (INV-10)."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes


def read(text: str) -> Compact:
    """Raises Malformed for any form but the canonical one, within the profile's sizes."""
    if _FORM.fullmatch(text) is None:
        raise Malformed("not a compact JWS", field="token")
    header_text, claims_text, signature_text = text.split(".")
    header = _headers.get(header_text)
    if header is None:
        header = _part(header_text, MAX_HEADER_BYTES, "header")
        if len(_headers) >= _HEADERS_KEPT:
            _headers.clear()
        _headers[header_text] = header
    signature = unb64(signature_text, "signature")
    claims = _part(claims_text, MAX_CLAIMS_BYTES, "claims")
    return Compact(header, claims, f"{header_text}.{claims_text}".encode("ascii"), signature)


def _part(text: str, limit: int, field: str) -> Mapping[str, Any]:
    data = unb64(text, field)
    if len(data) > limit:
        raise Malformed(f"over {limit} bytes", field=field)
    try:
        return strict_json.read_object(data, max_depth=MAX_DEPTH)
    except Malformed as error:
        raise Malformed(str(error), field=field) from None
