"""Which key may have signed which record of one chain, once keys change (docs/identity.md §11)."""

from __future__ import annotations

from carepos.errors import Malformed
from carepos.record import KeyChange, Record


class Signers:
    """Walks a chain from its first record: a key signs only after the key before it announced it,
    and the one before it never again."""

    def __init__(self) -> None:
        self._current: str | None = None
        self._announced: set[str] = set()

    def admit(self, found: Record) -> None:
        """The next record of the chain. Raises Malformed when its signer had no business there."""
        if self._current is None:
            self._current = found.kid
        elif found.kid != self._current:
            if found.kid not in self._announced:
                raise Malformed("is signed by a key that no record before it announced")
            self._current = found.kid
            self._announced.clear()
        if isinstance(found.content, KeyChange):
            self._announced.add(found.content.key.kid)
