"""The issuer of a run: which keys it has published, and with which it signs codes."""

from __future__ import annotations

from dataclasses import dataclass, field

from carepos.keys import SigningKey


@dataclass
class Issuer:
    """Signs with the last of its keys; the others stay published until they are retired."""

    key: SigningKey
    version: int = 1
    _published: list[SigningKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._published = [self.key]

    def rotate(self, key: SigningKey) -> None:
        self.key = key
        self._published = [*self._published[-2:], key]
        self.version += 1

    def retire(self) -> None:
        self._published = [self.key]

    def published(self) -> list[dict[str, str]]:
        """What the operator is told: JWKs."""
        return [each.public.to_jwk() for each in self._published]
