"""What a scanner read, taken apart: the presentation that is verified and sent, a card's secret.

docs/identity.md §1. Nothing is verified here, and nothing here is shown by repr() (INV-10).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from carepos.errors import Malformed
from carepos.keys import digest

MAX_SCANNED: Final = 4_096
MAX_CHARACTERS: Final = 3_072
MAX_TOKEN: Final = 2_048
MAX_KEY_BINDING: Final = 1_023

_SCANNER_PREFIX = re.compile(r"\A(?:\][A-Za-z][0-9A-Za-z])?(?:\\000026)?")
_CARD = re.compile(r"CPC1\*([A-Za-z0-9_-]{22})\*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, repr=False)
class Presentation:
    """One code held up: `text` is what is digested and sent, `token` the JWT in it.

    `key_binding` is the wallet's KB-JWT; `card_secret` stays in this process's memory.
    """

    text: str
    token: str
    key_binding: str | None = None
    card_secret: str | None = None

    @property
    def sha256(self) -> str:
        """`token_sha256`, the only trace of it in a record."""
        return digest(self.text.encode("utf-8", "replace"))

    def __repr__(self) -> str:
        return "Presentation(…)"


def read(scanned: object) -> Presentation:
    """The presentation in what a scanner typed or an envelope carried.

    Raises Malformed when it is too long to be one; whether it *is* one, the verifier says.
    """
    if not isinstance(scanned, str):
        raise Malformed("must be a string", field="token")
    if len(scanned) > MAX_SCANNED:
        raise Malformed(f"over {MAX_SCANNED} characters", field="token")
    text = strip_scanner_prefix(scanned)
    secret = None
    if card := _CARD.fullmatch(text):
        secret, text = card[1], card[2]
    if len(text) > MAX_CHARACTERS:
        raise Malformed(f"over {MAX_CHARACTERS} characters", field="token")
    token, bar, key_binding = text.partition("~")
    if len(token) > MAX_TOKEN:
        raise Malformed(f"over {MAX_TOKEN} characters", field="token")
    if len(key_binding) > MAX_KEY_BINDING:
        raise Malformed(f"over {MAX_KEY_BINDING} characters", field="key_binding")
    return Presentation(text, token, key_binding if bar else None, secret)


def strip_scanner_prefix(scanned: str) -> str:
    """The code itself: without white space, AIM identifiers (`]Q1`) and ECI marks (`\\000026`)."""
    return _SCANNER_PREFIX.sub("", scanned.strip())
