"""The keys a ledger signs with: the set that its root signed, and when another one is believed.

docs/identity.md §11. The rule stands here and nowhere else; tills, `carepos settlement` and
`carepos reconcile` all come here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from carepos import jws, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed, NotDecided, SignatureInvalid, Unreachable
from carepos.keys import KeySet, PublicKey
from carepos.unknown_key import may_ask

MAX_KEYS: Final = 40


@dataclass(frozen=True, slots=True)
class LedgerKeys:
    """The ledger's keys as its root signed them; `version` only grows, old keys stay."""

    ledger: str
    version: int
    epoch: int
    keys: KeySet
    keyset: str
    root: PublicKey

    @classmethod
    def read(cls, document: Mapping[str, Any], root_thumbprint: str) -> LedgerKeys:
        """From the answer of /.well-known/jwks.json. Raises Malformed, SignatureInvalid.

        `keys` beside the signed set is for others' libraries and is not looked at.
        """
        root = PublicKey.from_jwk(document.get("root"))
        if root.kid != root_thumbprint:
            raise SignatureInvalid("the root key is not the one in the activation code")
        signed = jws.verify(document.get("keyset"), typ=jws.KEYSET, keys=KeySet([root]))
        names = strict_json.exact_names(
            signed.payload, {"v", "ledger", "version", "epoch", "keys"}, where="keyset"
        )
        if strict_json.integer(names["v"], "keyset.v") != 1:
            raise Malformed("must be 1", field="keyset.v")
        listed = strict_json.array(names["keys"], "keyset.keys", low=1, high=MAX_KEYS)
        return cls(
            strict_json.text(names["ledger"], "keyset.ledger", high=60),
            strict_json.integer(names["version"], "keyset.version", low=1),
            strict_json.integer(names["epoch"], "keyset.epoch", low=1),
            KeySet(PublicKey.from_jwk(jwk) for jwk in listed),
            signed.jws,
            root,
        )

    def document(self) -> dict[str, object]:
        """What `read` reads, to be kept."""
        return {"root": self.root.to_jwk(), "keyset": self.keyset}

    def check_successor(self, offered: LedgerKeys) -> None:
        """Raises Malformed with the reason why `offered` does not take the place of this set."""
        if (offered.root, offered.ledger) != (self.root, self.ledger):
            raise Malformed("is another ledger's", field="keyset")
        if offered.version <= self.version:
            raise Malformed("is not newer than the one that is held", field="keyset.version")
        if offered.epoch < self.epoch:
            raise Malformed("is of an earlier epoch than the one held", field="keyset.epoch")
        if {key.kid for key in self.keys} - {key.kid for key in offered.keys}:
            raise Malformed("lacks a key that is held", field="keyset.keys")


def newest(held: Iterable[LedgerKeys]) -> LedgerKeys:
    """The newest of several sets of one ledger, at least one.

    Raises Malformed when they are not all of one ledger, or do not follow one from another.
    """
    first, *later = sorted(held, key=lambda each: each.version)
    for each in later:
        if each.keyset != first.keyset:
            first.check_successor(each)
        first = each
    return first


class LedgerKeyKeeper:
    """The set that is held, and asking for a newer one. Safe to call from several threads.

    `held` and `keep` are where the set lies durably; `ask` brings the answer of
    /.well-known/jwks.json and raises Unreachable or NotDecided when there is none.
    """

    def __init__(
        self,
        *,
        held: Callable[[], LedgerKeys],
        keep: Callable[[LedgerKeys], None],
        ask: Callable[[], Mapping[str, Any]],
        now: Clock,
    ) -> None:
        self._held = held
        self._keep = keep
        self._ask = ask
        self._now = now
        self._asking = threading.Lock()
        self._asked_at: datetime | None = None

    def find(self, kid: str) -> PublicKey:
        """The ledger's key of this kid, for whoever verifies (`keys.Keys`).

        An unknown kid may mean a rotation: the ledger is asked, at most once in five minutes
        whatever is shown here. Raises SignatureInvalid for a key that is not in the newest set that
        is believed: the answer it signed says nothing then.
        """
        try:
            return self._held().keys.get(kid)
        except SignatureInvalid:
            self._refresh(kid)
        return self._held().keys.get(kid)

    def take(self, document: Mapping[str, Any]) -> bool:
        """Take the set that was carried here as one that was asked for; whether it is news.

        One from before the set that is held changes nothing. Raises Malformed, SignatureInvalid for
        one that neither follows the one that is held nor is followed by it, OSError when it can't
        be kept; then what is held stays.
        """
        with self._asking:
            held = self._held()
            offered = newest([held, LedgerKeys.read(document, held.root.kid)])
            if offered.keyset == held.keyset:
                return False
            self._keep(offered)
            return True

    def _refresh(self, kid: str) -> None:
        with self._asking:
            if any(key.kid == kid for key in self._held().keys):
                return  # somebody else has brought it meanwhile
            now = self._now()
            if not may_ask(self._asked_at, now):
                return
            self._asked_at = now
            held = self._held()
            try:
                offered = LedgerKeys.read(self._ask(), held.root.kid)
                held.check_successor(offered)
                self._keep(offered)
            except (Unreachable, NotDecided, Malformed, OSError):
                return  # what is held stays, and what it can't read stays unread
