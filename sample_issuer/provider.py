"""The OpenID Provider: where it is, its keys, and the code that a sign-in brings back.

Its keys are held as an issuer's are (docs/identity.md §3): a set that shares no key with the one
held is not taken, a key that goes away counts for a day more, an unknown kid asks for the set anew
at most once in five minutes, whatever is shown. PyJWT's PyJWKClient is not used: it reads answers
of any size, asks at once again after a failure, and puts the kid into its messages.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from carepos import unknown_key
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.issuer_keys import IssuerKeys, SetRefused
from carepos.key_source import source_url
from sample_issuer import id_token, limited_http
from sample_issuer.id_token import Expected, Person
from sample_issuer.problems import Problem

FIRST_AGAIN: Final = timedelta(seconds=10)
RENEW: Final = timedelta(hours=1)
TOO_OLD: Final = timedelta(hours=24)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Discovered:
    """What its discovery document names (OpenID Connect Discovery §3)."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


class Provider:
    """One provider and our registration with it. Safe to use from several threads."""

    def __init__(self, expected: Expected, client_secret: str | None, now: Clock) -> None:
        source_url(expected.issuer, "provider.issuer")
        self.expected = expected
        self._client_secret = client_secret
        self._now = now
        self._asking = threading.Lock()
        self._discovered: Discovered | None = None
        self._keys: IssuerKeys | None = None
        self._asked_at: datetime | None = None

    def person(self, text: str, nonce: str) -> Person:
        """Who signed in, by this ID token. Raises Problem."""
        kid = id_token.kid_of(text)
        return id_token.verify(
            text, self.expected, self._keys_for(kid), nonce=nonce, now=self._now()
        )

    def sign_in_address(self) -> str:
        """Where the person's browser goes. Raises Problem provider_unreachable."""
        return self._discover().authorization_endpoint

    def exchange(self, code: str, *, redirect_uri: str, code_verifier: str) -> str:
        """The ID token for an authorization code (RFC 6749 §4.1.3, with PKCE). Raises Problem."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self.expected.client_id,
            "code_verifier": code_verifier,
        }
        if self._client_secret is not None:
            form["client_secret"] = self._client_secret
        answer = limited_http.post(self._discover().token_endpoint, form)
        text = answer.get("id_token")
        if not isinstance(text, str):
            raise Problem("provider_unreachable", "it sent no ID token")
        return text

    def _discover(self) -> Discovered:
        if self._discovered is None:
            base = self.expected.issuer.rstrip("/")
            found = limited_http.get(f"{base}/.well-known/openid-configuration")
            # Discovery §4.3: it must name itself, or it speaks for somebody else.
            if found.get("issuer") != self.expected.issuer:
                raise Problem("provider_unreachable", "its document is another provider's")
            self._discovered = Discovered(
                _address(found, "authorization_endpoint"),
                _address(found, "token_endpoint"),
                _address(found, "jwks_uri"),
            )
        return self._discovered

    def _keys_for(self, kid: str | None) -> IssuerKeys:
        held, now = self._keys, self._now()
        wanting = held is None or abs(now - held.as_of) > RENEW or _lacks(held, kid, now)
        # Whoever has keys to go by does not wait for the one who asks.
        if wanting and self._asking.acquire(blocking=held is None):
            try:
                if unknown_key.may_ask(self._asked_at, self._now()):
                    self._renew()
            finally:
                self._asking.release()
            held, now = self._keys, self._now()
        if held is None or now - held.as_of > TOO_OLD:
            raise Problem("provider_unreachable", "its keys are not known")
        return held

    def _renew(self) -> None:
        """Take the newest set, if it can be had and is to be taken."""
        held, now = self._keys, self._now()
        self._asked_at = now
        try:
            document = limited_http.get(self._discover().jwks_uri)
            newest = IssuerKeys.from_jwks(json.dumps(document).encode(), now)
            self._keys = newest if held is None else held.replaced_by(newest, now=now)
        except (SetRefused, Problem) as error:
            _log.warning("the provider's keys were not taken: %s", error)
            if held is None:
                # Nobody can sign in: soon again, and still not with every call.
                self._asked_at = now - unknown_key.COOL_DOWN + FIRST_AGAIN


def _lacks(held: IssuerKeys, kid: str | None, now: datetime) -> bool:
    return kid is not None and held.get(kid, now) is None


def _address(found: dict[str, Any], name: str) -> str:
    try:
        return source_url(found.get(name), name)
    except Malformed as error:
        raise Problem("provider_unreachable", f"its document: {error}") from None
