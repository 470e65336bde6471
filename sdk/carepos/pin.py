"""A card's PIN: what is derived from it, and what of that is kept where (docs/identity.md §7).

The PIN and the card's secret stay in this process's memory; the proof goes to the ledger; the
verifier is all that is stored. Without the card's 128 bits nobody can try PINs against it.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from carepos.errors import Malformed
from carepos.keys import b64, unb64

_PIN = re.compile(r"[0-9]{4,8}")
_LENGTH = 32


def entered(pin: object) -> str:
    """`pin` if it has the form of one. Raises Malformed, which does not repeat it."""
    if not isinstance(pin, str) or _PIN.fullmatch(pin) is None:
        raise Malformed("a PIN has 4 to 8 digits", field="pin")
    return pin


def proof(pin: object, *, iss: str, jti: str, card_secret: str) -> str:
    """What is sent: 43 characters of base64url. Raises Malformed for anything but 4 to 8 digits.

    Takes some 50 ms on purpose: whoever holds a card and a verifier has to pay it for each try.
    """
    digits = entered(pin).encode("ascii")
    salt = f"carepos/pin/v1|{iss}|{jti}|{card_secret}".encode("ascii")
    return b64(Scrypt(salt=salt, length=_LENGTH, n=2**14, r=8, p=1).derive(digits))


def verifier(proof_text: object) -> str:
    """What is stored of a proof. Raises Malformed for another form."""
    if not isinstance(proof_text, str) or len(proof_text) != 43:
        raise Malformed("must be 43 characters of base64url", field="pin_proof")
    data = b"carepos/pin-verifier/v1|" + unb64(proof_text, "pin_proof")
    return b64(hashlib.sha256(data).digest())


def matches(proof_text: object, stored: str) -> bool:
    """Whether a proof is the one that `stored` was made of, in constant time. Raises Malformed."""
    return hmac.compare_digest(verifier(proof_text).encode(), stored.encode())
