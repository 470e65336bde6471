"""Names of things: the id of an attempt with its bucket, incarnations, receipt numbers."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from datetime import datetime

from carepos.errors import Malformed

BUCKETS = 4096

RandomBytes = Callable[[int], bytes]

_UUID8 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_REFERENCE = re.compile(r"[A-Za-z0-9_-]{22}")
_DIGEST = re.compile(r"[A-Za-z0-9_-]{43}")
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,40}")
_INCARNATION = re.compile(r"[0-9a-f]{32}")
_RECEIPT_NO = re.compile(r"([0-9]{4,9})-([0-9]{6,16})-([0-9])")


def new_attempt_id(
    bucket: int, now: datetime, random_bytes: RandomBytes = secrets.token_bytes
) -> str:
    """A UUIDv8 (RFC 9562): 48 bits of milliseconds, 12 bits of bucket, 62 random bits."""
    if not 0 <= bucket < BUCKETS:
        raise ValueError("bucket out of range")
    milliseconds = int(now.timestamp() * 1000) & (2**48 - 1)
    random = int.from_bytes(random_bytes(8), "big") & (2**62 - 1)
    value = milliseconds << 80 | 8 << 76 | bucket << 64 | 0b10 << 62 | random
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def attempt_id(value: object) -> str:
    """`value` if it is an id in its one spelling. Raises Malformed."""
    if not isinstance(value, str) or _UUID8.fullmatch(value) is None:
        raise Malformed("must be a UUIDv8 in lower case", field="id")
    return value


def bucket_of(an_id: str) -> int:
    """The bucket that an id carries (RFC 9562 custom_b)."""
    return int(an_id[15:18], 16)


def terminal_bucket(terminal: str) -> int:
    """Bucket of records without a beneficiary: the first 12 bits of SHA-256(terminal id)."""
    first = hashlib.sha256(terminal.encode("ascii")).digest()[:2]
    return int.from_bytes(first, "big") >> 4


def new_incarnation(random_bytes: RandomBytes = secrets.token_bytes) -> str:
    return random_bytes(16).hex()


def receipt_no(terminal_no: int, sequence: int) -> str:
    """`0001-000007-2`: terminal number, sequence, check digit (ISO/IEC 7064 MOD 11,10)."""
    body = f"{terminal_no:04d}-{sequence:06d}"
    return f"{body}-{check_digit(body.replace('-', ''))}"


def parse_receipt_no(value: object) -> tuple[int, int]:
    """(terminal number, sequence). Raises Malformed for another form or a wrong check digit."""
    match = _RECEIPT_NO.fullmatch(value) if isinstance(value, str) else None
    # Printed again it must be the same text: each number has one spelling.
    if match is None or receipt_no(int(match[1]), int(match[2])) != value:
        raise Malformed("not a receipt number, or a digit is wrong", field="receipt_no")
    return int(match[1]), int(match[2])


def check_digit(digits: str) -> int:
    """ISO/IEC 7064 MOD 11,10: finds every single wrong digit and nearly all transpositions."""
    product = 10
    for digit in digits:
        product = (product + int(digit)) % 10 or 10
        product = product * 2 % 11
    return (11 - product) % 10


def _matching(pattern: re.Pattern[str], sentence: str) -> Callable[[object, str], str]:
    def check(value: object, field: str) -> str:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise Malformed(sentence, field=field)
        return value

    return check


name = _matching(_NAME, "must be lower-case letters, digits and hyphens, at most 40")
"""`name(value, field)`: an operator's name for a thing. Raises Malformed."""
reference = _matching(_REFERENCE, "must be 22 characters of base64url")
digest_text = _matching(_DIGEST, "must be 43 characters of base64url")
label = _matching(_LABEL, "must be letters, digits, dot, underscore or hyphen, at most 40")
incarnation = _matching(_INCARNATION, "must be 32 lower-case hex digits")
