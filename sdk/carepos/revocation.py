"""Keys, tokens and cards that were withdrawn: a list that a till carries in its pack.

docs/identity.md §9. A card is a token; both are named by (iss, SHA-256 of `jti`), never by bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from carepos import ids, strict_json
from carepos.issuer_keys import kid_text
from carepos.keys import digest

MAX_ENTRIES: Final = 50_000


@dataclass(frozen=True, slots=True)
class Revocations:
    """What is withdrawn as of `version`, which only grows."""

    version: int
    keys: frozenset[tuple[str, str]]
    tokens: frozenset[tuple[str, str]]

    def covers(self, iss: str, kid: str, jti: str) -> bool:
        """Whether a token of this name, signed with this key, is withdrawn."""
        if (iss, kid) in self.keys:
            return True
        return bool(self.tokens) and (iss, digest(jti.encode("ascii"))) in self.tokens

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "keys": [{"iss": iss, "kid": kid} for iss, kid in sorted(self.keys)],
            "tokens": [{"iss": iss, "jti_sha256": jti} for iss, jti in sorted(self.tokens)],
        }

    @classmethod
    def from_json(cls, value: object, where: str = "revocations") -> Revocations:
        """Raises Malformed."""
        names = strict_json.exact_names(value, {"version", "keys", "tokens"}, where=where)
        keys = strict_json.array(names["keys"], f"{where}.keys", high=MAX_ENTRIES)
        tokens = strict_json.array(names["tokens"], f"{where}.tokens", high=MAX_ENTRIES)
        return cls(
            strict_json.integer(names["version"], f"{where}.version"),
            frozenset(_pairs(keys, "kid", f"{where}.keys")),
            frozenset(_pairs(tokens, "jti_sha256", f"{where}.tokens")),
        )


NONE: Final = Revocations(0, frozenset(), frozenset())


def _pairs(listed: Iterable[object], name: str, where: str) -> Iterable[tuple[str, str]]:
    for each in listed:
        names = strict_json.exact_names(each, {"iss", name}, where=where)
        value = names[name]
        named = kid_text(value) if name == "kid" else ids.digest_text(value, where)
        yield strict_json.text(names["iss"], where), named
