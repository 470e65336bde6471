"""An OpenID Provider for trying and testing, over real HTTP; it believes anybody.

    python -m sample_issuer.fake_provider    # http://127.0.0.1:8470, accounts amy, ben and cui

Authorization code with PKCE, discovery, a JWKS. Never to be used for real people.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import secrets
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from flask import Flask, Response, redirect, request
from waitress.server import create_server
from werkzeug.wrappers import Response as AnyResponse

from carepos import clock
from carepos.clock import Clock
from carepos.issuer_folder import IssuerSigner
from carepos.keys import b64

PORT: Final = 8470
CLIENT: Final = "care"
ACCOUNTS: Final = ("amy", "ben", "cui")


class FakeProvider:
    """Who signs in is whoever is clicked, or `always` this account without a click."""

    def __init__(
        self,
        issuer: str,
        *,
        client_id: str = CLIENT,
        signer: IssuerSigner | None = None,
        now: Clock = clock.system_clock,
    ) -> None:
        self.issuer = issuer
        self.client_id = client_id
        self.signer = signer or IssuerSigner.generate("RS256", "p1")
        self.published = [self.signer.to_jwk()]
        self.amr: list[str] | None = ["sms"]
        self.always: str | None = None
        self.asked: list[str] = []
        self._now = now
        self._lock = threading.Lock()
        self._codes: dict[str, tuple[str, Mapping[str, str]]] = {}

    def claims(self, sub: str, nonce: str) -> dict[str, Any]:
        at = int(self._now().timestamp())
        made: dict[str, Any] = {
            "iss": self.issuer, "sub": sub, "aud": self.client_id, "nonce": nonce,
            "iat": at, "exp": at + 300, "auth_time": at,
        }  # fmt: skip
        return made if self.amr is None else {**made, "amr": self.amr}

    def id_token(self, sub: str, nonce: str) -> str:
        return self.signer.sign("JWT", self.claims(sub, nonce))

    def app(self) -> Flask:
        app = Flask(__name__, static_folder=None)

        @app.before_request
        def note() -> None:
            self.asked.append(request.path)

        @app.get("/.well-known/openid-configuration")
        def discovery() -> dict[str, Any]:
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [self.signer.alg],
                "code_challenge_methods_supported": ["S256"],
            }

        @app.get("/jwks")
        def jwks() -> dict[str, Any]:
            return {"keys": self.published}

        @app.get("/authorize")
        def authorize() -> AnyResponse:
            asked = request.args.to_dict()
            if asked.get("client_id") != self.client_id or "redirect_uri" not in asked:
                return Response("no such client", 400)
            account = asked.pop("account", self.always)
            if account is None:
                return Response(_choice(asked))
            code = secrets.token_urlsafe(24)
            with self._lock:
                self._codes[code] = (account, asked)
            back = urlencode({"code": code, "state": asked.get("state", "")})
            return redirect(f"{asked['redirect_uri']}?{back}", 302)

        @app.post("/token")
        def token() -> tuple[dict[str, Any], int]:
            shown = request.form.to_dict()
            with self._lock:
                account, asked = self._codes.pop(shown.get("code", ""), ("", {}))
            challenge = b64(hashlib.sha256(shown.get("code_verifier", "").encode()).digest())
            if (
                not account
                or shown.get("redirect_uri") != asked.get("redirect_uri")
                or challenge != asked.get("code_challenge")
            ):
                return {"error": "invalid_grant"}, 400
            made = self.id_token(account, asked.get("nonce", ""))
            return {"token_type": "Bearer", "access_token": "unused", "id_token": made}, 200

        return app


def _choice(asked: Mapping[str, str]) -> str:
    links = "".join(
        f'<p><a href="?{html.escape(urlencode({**asked, "account": each}))}">{each}</a></p>'
        for each in ACCOUNTS
    )
    return (
        '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Try</title><h1>Who are you? 您是谁？</h1>{links}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenID Provider for trying. 测试用。")
    parser.add_argument("--port", type=int, default=PORT)
    port = parser.parse_args().port
    issuer = f"http://127.0.0.1:{port}"
    try:
        listening = create_server(
            FakeProvider(issuer).app(), host="127.0.0.1", port=port, threads=4
        )
    except OSError as error:
        sys.exit(f"fake_provider: port {port} can't be used ({error.strerror}): try another --port")
    known = ", ".join(ACCOUNTS)
    print(f"A provider for trying, at {issuer}: {known} (Ctrl-C stops it)", flush=True)
    listening.run()


if __name__ == "__main__":
    main()
