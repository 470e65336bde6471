"""Who stands at the counter, in the order of docs/identity.md section 4, written a second time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from tests.second_cards import Cards
from tests.second_keys import IssuerKey, KeySet, read_set
from tests.second_rules import Refused
from tests.second_signing import Json
from tests.second_tokens import Shown, read_shown

VISIT = timedelta(minutes=15)


class Identity:
    """Issuers' keys, visits, cards, and what is withdrawn."""

    def __init__(self, now: Callable[[], datetime], audience: str) -> None:
        self.now, self.audience = now, audience
        self.issuers: dict[str, KeySet] = {}
        self.visits: dict[tuple[str, str], tuple[str, datetime]] = {}
        self.cards = Cards()
        self.withdrawn: dict[str, set[tuple[str, str]]] = {"keys": set(), "tokens": set()}
        self.version = 0

    # What operators say.

    def put_keys(self, iss: str, jwks: Sequence[Any], *, confirmed: bool = False) -> None:
        """Hold a set of an issuer; Bad: it is refused."""
        keys = read_set(jwks)
        held = self.issuers.setdefault(iss, KeySet(keys))
        held.replace(keys, self.now(), confirmed=confirmed)

    def withdraw(self, kind: str, iss: str, name: str) -> None:
        """A key by its `kid`, a token or card by its `jti_sha256`; kind `keys` or `tokens`."""
        if (iss, name) not in self.withdrawn[kind]:
            self.withdrawn[kind].add((iss, name))
            self.version += 1

    # What the pack tells.

    def issuers_told(self) -> list[Json]:
        return [
            {"iss": iss, "keys": [key.jwk for key in held.believed(self.now()).values()]}
            for iss, held in sorted(self.issuers.items())
        ]

    def revocations(self) -> Json:
        keys, tokens = (sorted(self.withdrawn[kind]) for kind in ("keys", "tokens"))
        return {
            "version": self.version,
            "keys": [{"iss": iss, "kid": kid} for iss, kid in keys],
            "tokens": [{"iss": iss, "jti_sha256": name} for iss, name in tokens],
        }

    # The checks.

    def read(self, told: str) -> Shown:
        """Rows 1 to 10."""
        shown = read_shown(told, self._believed, self.audience, self.now().timestamp())
        if shown.mark not in self.visits and not shown.fresh(self.now().timestamp()):
            raise Refused("holder_unproven")
        return shown

    def admit(
        self,
        shown: Shown,
        terminal: str,
        programme: Json | None = None,
        proof: bytes | None = None,
    ) -> datetime:
        """Rows 11 to 16, those of a programme where there is one; the end of the visit."""
        if programme is not None and shown.iss != programme["issuer"]:
            raise Refused("token_issuer")
        until = self._visit(shown, terminal)
        if (shown.iss, shown.kid) in self.withdrawn["keys"]:
            raise Refused("token_revoked")
        if (shown.iss, shown.jti_sha256) in self.withdrawn["tokens"]:
            raise Refused("token_revoked")
        if programme is not None:
            self._as_asked(shown, programme)
        if shown.printed:
            return self.cards.prove(shown, terminal, proof, self.now())
        return until

    def admit_late(self, told: str, programme: Json, at: datetime, proof: bytes | None) -> Shown:
        """What was shown to a till that was alone, by the time at which it was; nobody could open
        a visit there, or count a PIN."""
        issuers = self.issuers

        def believed(iss: str) -> Mapping[str, IssuerKey] | None:
            return issuers[iss].believed(at) if iss in issuers else None

        shown = read_shown(told, believed, self.audience, at.timestamp())
        if not shown.fresh(at.timestamp()):
            raise Refused("holder_unproven")
        if shown.iss != programme["issuer"]:
            raise Refused("token_issuer")
        self._assured(shown, programme)
        if shown.printed and not self.cards.proves(shown, proof):
            raise Refused("pin_wrong")
        return shown

    def withdrawals(self) -> set[tuple[str, str]]:
        return self.withdrawn["keys"] | self.withdrawn["tokens"]

    def _believed(self, iss: str) -> Mapping[str, IssuerKey] | None:
        held = self.issuers.get(iss)
        return None if held is None else held.believed(self.now())

    def _visit(self, shown: Shown, terminal: str) -> datetime:
        now = self.now()
        if shown.printed:
            return now + VISIT
        by, until = self.visits.setdefault(shown.mark, (terminal, now + VISIT))
        if by != terminal or now > until:
            raise Refused("token_replayed")
        return until

    def _as_asked(self, shown: Shown, programme: Json) -> None:
        """Rows 14 and 15."""
        self._assured(shown, programme)
        acting = programme.get("acting")
        if shown.actor is not None and not (acting and acting[shown.way]):
            raise Refused("acting_not_allowed")

    def _assured(self, shown: Shown, programme: Json) -> None:
        methods = set(shown.claims["amr"])
        if shown.binding is not None:
            methods.add("pop")
        if shown.printed:
            # Row 16 lets no card pass whose PIN was not proved.
            methods.add("pin")
        wanted = set(programme["amr_any"])
        if shown.claims["care_class"] not in programme["classes"] or (
            wanted and not wanted & methods
        ):
            raise Refused("token_assurance")
