"""The sample issuer's wiring and its HTTP interface.

GET  /.well-known/jwks.json   the public keys, all that count
POST /v1/nonces               an app asks for a nonce, signs in with it at the provider, and
POST /v1/care-codes           brings the ID token (Bearer) with {"nonce", "use"}: a care code
GET  /  /login  /callback     the same as a page on a phone, without an app or a script
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from flask import Flask, Response, redirect, render_template, request, session
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from carepos import clock, qr_picture, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.keys import b64
from sample_issuer.desk import Desk
from sample_issuer.nonces import Nonces
from sample_issuer.pace import Pace, Seconds
from sample_issuer.problems import Problem
from sample_issuer.provider import Provider
from sample_issuer.settings import Settings

ASKS_A_MINUTE: Final = 120
"""Of one address: a whole clinic's phones may share one."""
FRESH_BEFORE_S: Final = 45
"""A code is replaced this long before it ends, so that the one on the screen always has time."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes work with."""

    settings: Settings
    provider: Provider
    desk: Desk
    nonces: Nonces
    pace: Pace
    now: Clock


def create_app(
    folder: Path, *, now: Clock = clock.system_clock, seconds: Seconds = time.monotonic
) -> Flask:
    """The service of an issuer's folder. Raises Malformed, OSError."""
    settings = Settings.load(folder)
    parts = Parts(
        settings,
        Provider(settings.expected, settings.client_secret, now),
        Desk(folder, settings, now, seconds),
        Nonces(seconds),
        Pace(ASKS_A_MINUTE, 60.0, seconds),
        now,
    )
    app = Flask(__name__)
    # Sign-ins end with the process: nothing about who signed in is ever stored.
    app.secret_key = secrets.token_bytes(32)
    app.config.update(
        MAX_CONTENT_LENGTH=4_096,
        SESSION_COOKIE_NAME="care",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",  # Strict would lose it on the way back from the provider
        SESSION_COOKIE_SECURE=settings.url.startswith("https://"),
    )

    @app.before_request
    def not_too_often() -> None:
        if request.endpoint not in ("static", "jwks"):
            parts.pace.count(request.remote_addr or "")

    @app.after_request
    def close_doors(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.errorhandler(Problem)
    def say_no(problem: Problem) -> tuple[str | Response, int]:
        if request.path.startswith("/v1/"):
            return _json(problem.to_json()), problem.kind.status
        return render_template("no.html", problem=problem), problem.kind.status

    @app.errorhandler(HTTPException)
    def other(error: HTTPException) -> tuple[Response, int]:
        return _json({"code": "http", "detail": error.name}), error.code or 500

    _for_apps(app, parts)
    _for_phones(app, parts)
    return app


def _for_apps(app: Flask, parts: Parts) -> None:
    @app.get("/.well-known/jwks.json")
    def jwks() -> Response:
        response = _json(parts.desk.issuer().jwks())
        response.headers["Cache-Control"] = "public, max-age=300"
        return response

    @app.post("/v1/nonces")
    def nonces() -> Response:
        return _json({"nonce": parts.nonces.make()})

    @app.post("/v1/care-codes")
    def care_codes() -> Response:
        nonce, use = _wish()
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not shown:
            raise Problem("request_malformed", "send the ID token as a Bearer token")
        person = parts.provider.person(shown, nonce)
        # After the token, so that guessing does not use up somebody's nonce.
        if not parts.nonces.take(nonce):
            raise Problem("id_token_nonce", "was not handed out here, or was used", "nonce")
        sub, methods = parts.desk.admit(person)
        made = parts.desk.mint(sub, methods, "self" if use == "self" else "redeem")
        return _json({"code": made.code, "expires_at": clock.to_text(made.expires_at)})


def _wish() -> tuple[str, str]:
    try:
        names = strict_json.names_within(
            strict_json.read(request.get_data()), required={"nonce"}, optional={"use"}, where="body"
        )
        nonce = strict_json.text(names["nonce"], "nonce", high=128)
        use = names.get("use", "redeem")
        if use not in ("redeem", "self"):
            raise Malformed("must be redeem or self", field="use")
    except Malformed as error:
        raise Problem("request_malformed", str(error)) from None
    return nonce, str(use)


def _for_phones(app: Flask, parts: Parts) -> None:
    settings = parts.settings

    @app.get("/")
    def page() -> str | Response:
        who = _signed_in(parts.now())
        if who is None:
            return render_template("sign_in.html")
        made = parts.desk.mint(who["sub"], who["amr"])
        dark = qr_picture.modules(made.code, "L")
        picture = base64.b64encode(qr_picture.png(dark, 4)).decode()
        until = made.expires_at.astimezone(settings.time_zone)
        text = render_template(
            "care_code.html",
            picture=picture,
            until=f"{until:%H:%M:%S}",
            own_pages=bool(settings.own_pages),
        )
        response = Response(text)
        # Renewed by the browser itself: no script, and never a code that has just ended.
        response.headers["Refresh"] = str(max(settings.lifetime_s - FRESH_BEFORE_S, 10))
        return response

    @app.post("/my-vouchers")
    def my_vouchers() -> AnyResponse:
        who = _signed_in(parts.now())
        if who is None or not settings.own_pages:
            return redirect("/", 303)
        made = parts.desk.mint(who["sub"], who["amr"], "self")
        response = Response(
            render_template("my_vouchers.html", address=settings.own_pages, token=made.code)
        )
        # The ledger's is the one other place to which a form of ours may go: the token is in its
        # body, never in an address.
        split = urlsplit(settings.own_pages)
        to = f"form-action {split.scheme}://{split.netloc}"
        policy = _HEADERS["Content-Security-Policy"].replace("form-action 'self'", to)
        response.headers["Content-Security-Policy"] = policy
        return response

    @app.get("/login")
    def login() -> AnyResponse:
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        address = parts.provider.sign_in_address()
        session.clear()
        session["login"] = {"state": state, "nonce": nonce, "verifier": verifier}
        query = {
            "response_type": "code",
            "scope": "openid",
            "client_id": settings.expected.client_id,
            "redirect_uri": settings.redirect_uri,
            "state": state,
            "nonce": nonce,
            "code_challenge": b64(hashlib.sha256(verifier.encode("ascii")).digest()),
            "code_challenge_method": "S256",
        }
        return redirect(f"{address}{'&' if '?' in address else '?'}{urlencode(query)}", 302)

    @app.get("/callback")
    def callback() -> AnyResponse:
        begun = session.pop("login", None)
        code, state = (request.args.get(name, "") for name in ("code", "state"))
        if not isinstance(begun, dict) or not code or not hmac.compare_digest(
            state.encode(), str(begun["state"]).encode()
        ):  # fmt: skip
            raise Problem("login_interrupted", "no sign-in of this browser is open")
        text = parts.provider.exchange(
            code, redirect_uri=settings.redirect_uri, code_verifier=begun["verifier"]
        )
        sub, methods = parts.desk.admit(parts.provider.person(text, begun["nonce"]))
        until = parts.now() + timedelta(seconds=settings.session_s)
        session["who"] = {"sub": sub, "amr": methods, "until": int(until.timestamp())}
        return redirect("/", 303)

    @app.post("/logout")
    def logout() -> AnyResponse:
        session.clear()
        return redirect("/", 303)


def _signed_in(now: datetime) -> dict[str, Any] | None:
    who = session.get("who")
    if not isinstance(who, dict) or now.timestamp() >= who["until"]:
        session.pop("who", None)
        return None
    return who


def _json(document: object) -> Response:
    text = json.dumps(document, ensure_ascii=False)
    return Response(text, content_type="application/json; charset=utf-8")
