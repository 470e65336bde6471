"""`/me`: the beneficiary's own pages, for a browser of any age and without a script (identity §12).

A GET changes nothing. What changes something is a POST of a page that this ledger gave to this
session. Whatever is wrong is a page too, in the reader's language, and names no value.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from importlib import resources
from typing import Any, Final

from flask import Blueprint, Request, Response, request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from werkzeug.exceptions import HTTPException

from carepos.errors import Malformed, Refused
from carepos_ledger.database import Database
from carepos_ledger.disputes import REASONS, Disputes
from carepos_ledger.holder_account import Account, Held, HolderAccounts, Use
from carepos_ledger.holder_sessions import SESSION, HolderSessions, Session
from carepos_ledger.holder_words import LANGUAGES, Language, Words
from carepos_ledger.problems import Problem
from carepos_ledger.voucher_stops import VoucherStops

MAX_FORM_BYTES: Final = 8 * 1024
USES_PER_PAGE: Final = 30
FORM: Final = "application/x-www-form-urlencoded"

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_STYLE: Final = resources.files("carepos_ledger").joinpath("templates/page.css").read_text("utf-8")
_STYLE_SHA256: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_SHA256}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not no-referrer: with it browsers send `Origin: null` with the pages' own forms.
    "Referrer-Policy": "same-origin",
    "Vary": "Accept-Language, Cookie",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SENTENCE_OF: Final[Mapping[str, str]] = {
    "token_expired": "problem_late",
    "token_replayed": "problem_late",
    "acting_not_allowed": "problem_acting",
    "voucher_unknown": "problem_nobody",
    "too_many_requests": "problem_many",
    "try_again": "problem_busy",
    "in_flight": "problem_busy",
    "internal": "problem_busy",
    "ledger_healing": "problem_restored",
    "not_found": "problem_not_here",
}

_log = logging.getLogger(__name__)


class _NoSession(Exception):
    """Whoever asks has no open session."""


class HolderPages:
    """The pages; `blueprint()` serves them, `refused()` is for addresses that no route has."""

    def __init__(
        self,
        database: Database,
        redemption_audience: str,
        now: Callable[[], datetime],
        zone: tzinfo | None = None,
    ) -> None:
        self._zone = zone
        self._sessions = HolderSessions(database, redemption_audience, now)
        self._accounts = HolderAccounts(database, now)
        self._disputes = Disputes(database, now)
        self._stops = VoucherStops(database, now)
        self._now = now
        self._templates = Environment(
            loader=PackageLoader("carepos_ledger", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._templates.globals["style"] = Markup(_STYLE)  # noqa: S704  a file of this package

    def blueprint(self) -> Blueprint:
        pages = Blueprint("holder_pages", __name__, url_prefix="/me")

        @pages.before_request
        def limit() -> None:
            request.max_content_length = MAX_FORM_BYTES

        self._answer_errors(pages)
        self._way_in_and_out(pages)
        self._reads(pages)
        self._forms(pages)
        return pages

    def refused(self, status: int) -> Response:
        """A page for an address or a method that is not there, or what else never met a route."""
        sentence = "problem_not_here" if status in (404, 405) else "problem_form"
        return self._message(_wished(request), "problem_title", [sentence], status)

    # ── routes ─────────────────────────────────────────────────────────────────────────────────

    def _way_in_and_out(self, pages: Blueprint) -> None:
        @pages.get("")
        def which_language() -> Response:
            return _go(f"/me/{_wished(request)}")

        @pages.post("")
        def sign_in() -> Response:
            secret = self._sessions.open(_fields("token")["token"])
            answer = self._page(_wished(request), "opened.html")
            name, secure = _cookie(request)
            answer.set_cookie(
                name,
                secret,
                max_age=int(SESSION.total_seconds()),
                path="/",
                secure=secure,
                httponly=True,
                samesite="Strict",
            )
            return answer

        @pages.post("/<language>/leave")
        def leave(language: str) -> Response:
            chosen = _language(language)
            self._sessions.leave(self._checked())
            answer = self._message(chosen, "left_pages", ["closed_how"], 200)
            name, secure = _cookie(request)
            answer.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="Strict")
            return answer

    def _reads(self, pages: Blueprint) -> None:
        @pages.get("/<language>")
        def account(language: str) -> Response:
            chosen = _language(language)
            session = self._sessions.find(_cookie_value(request))
            if session is None:
                return self._closed(chosen, 200)
            return self._account(chosen, session, 1)

        @pages.get("/<language>/page/<page>")
        def older(language: str, page: str) -> Response:
            chosen, session = _language(language), self._session()
            if not page.isascii() or not page.isdigit() or len(page) > 6 or page[0] == "0":
                raise Problem("not_found")
            return self._account(chosen, session, int(page))

        @pages.get("/<language>/uses/<use>")
        def one_use(language: str, use: str) -> Response:
            chosen, session = _language(language), self._session()
            found = self._use(session, use)
            return self._page(
                chosen, "use.html", session, use=found, name=use, new=_is_new(found, session)
            )

        @pages.get("/<language>/uses/<use>/dispute")
        def ask_why(language: str, use: str) -> Response:
            chosen, session = _language(language), self._session()
            return self._dispute_page(chosen, session, use, None)

        # An address of its own for each reason: a page that answers a form would be gone when
        # somebody goes back.
        @pages.get("/<language>/uses/<use>/dispute/<reason>")
        def ask_back(language: str, use: str, reason: str) -> Response:
            chosen, session = _language(language), self._session()
            return self._dispute_page(chosen, session, use, reason)

        @pages.get("/<language>/vouchers/<voucher>/stop")
        def ask_to_stop(language: str, voucher: str) -> Response:
            chosen, session = _language(language), self._session()
            held = self._voucher(session, voucher)
            if held.state == "frozen":
                return _go(f"/me/{chosen}")
            return self._page(chosen, "stop.html", session, held=held, name=voucher)

    def _forms(self, pages: Blueprint) -> None:
        @pages.post("/<language>/uses/<use>/dispute/<reason>")
        def dispute(language: str, use: str, reason: str) -> Response:
            chosen = _language(language)
            session = self._checked()
            found = self._use(session, use)
            if reason not in REASONS:
                raise Problem("not_found")
            if found.dispute is None and not found.is_undone:
                self._disputes.open(session.bucket, session.beneficiary, found.posting, reason)
            return _go(f"/me/{chosen}/uses/{use}")

        @pages.post("/<language>/vouchers/<voucher>/stop")
        def stop(language: str, voucher: str) -> Response:
            chosen = _language(language)
            session = self._checked()
            held = self._voucher(session, voucher)
            self._stops.stop(session.bucket, session.beneficiary, held.voucher)
            return _go(f"/me/{chosen}")

    # ── who asks, and for what ─────────────────────────────────────────────────────────────────

    def _session(self) -> Session:
        session = self._sessions.find(_cookie_value(request))
        if session is None:
            raise _NoSession
        return session

    def _checked(self) -> Session:
        """The session, for a form that this ledger gave to it. Raises _NoSession, Malformed."""
        session = self._session()
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower().partition("://")[2] != _host(request):
            raise Malformed("is another site's", field="Origin")
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Malformed("is another site's", field="Sec-Fetch-Site")
        if not _same(session.form_token, _fields("form")["form"]):
            raise Malformed("is not this session's", field="form")
        return session

    def _use(self, session: Session, name: str) -> Use:
        account = self._accounts.read(session.bucket, session.beneficiary)
        for use in account.uses:
            if _same(session.name_for("use", use.posting), name):
                return use
        raise Problem("not_found")

    def _voucher(self, session: Session, name: str) -> Held:
        account = self._accounts.read(session.bucket, session.beneficiary)
        for held in account.vouchers:
            if _same(session.name_for("voucher", held.voucher), name):
                return held
        raise Problem("not_found")

    # ── pages ──────────────────────────────────────────────────────────────────────────────────

    def _account(self, language: Language, session: Session, page: int) -> Response:
        account: Account = self._accounts.read(session.bucket, session.beneficiary)
        pages = max(1, -(-len(account.uses) // USES_PER_PAGE))
        if page > pages:
            raise Problem("not_found")
        return self._page(
            language,
            "account.html",
            session,
            account=account,
            page=page,
            pages=pages,
            shown=account.uses[(page - 1) * USES_PER_PAGE : page * USES_PER_PAGE],
            new_count=sum(_is_new(use, session) for use in account.uses),
            is_new=lambda use: _is_new(use, session),
            zone=Words(language, self._zone).zone(self._now()),
        )

    def _dispute_page(
        self, language: Language, session: Session, name: str, reason: str | None
    ) -> Response:
        use = self._use(session, name)
        if reason is not None and reason not in REASONS:
            raise Problem("not_found")
        if use.dispute is not None or use.is_undone:
            return _go(f"/me/{language}/uses/{name}")
        return self._page(
            language, "dispute.html", session, use=use, name=name, reason=reason, reasons=REASONS
        )

    def _closed(self, language: Language, status: int) -> Response:
        return self._message(language, "closed", ["closed_how", "closed_phone"], status)

    def _message(
        self, language: Language, heading: str, sentences: list[str], status: int
    ) -> Response:
        return self._page(
            language, "message.html", status=status, heading=heading, sentences=sentences
        )

    def _page(
        self,
        language: Language,
        template: str,
        session: Session | None = None,
        *,
        status: int = 200,
        **shown: Any,
    ) -> Response:
        words = Words(language, self._zone)
        text = self._templates.get_template(template).render(
            w=words,
            other=Words(words.other),
            other_language=(
                f"/me/{words.other}"
                if session is None or template == "message.html"
                else f"/me/{words.other}{request.path[len(f'/me/{language}') :]}"
            ),
            session=session,
            **shown,
        )
        answer = Response(text, status=status, content_type="text/html; charset=utf-8")
        answer.headers.update(_HEADERS)
        return answer

    def _answer_errors(self, pages: Blueprint) -> None:
        def failed(code: str, status: int) -> Response:
            language = _address_language(request)
            if request.method == "POST" and request.path == "/me":
                sentence = _SENTENCE_OF.get(code, "problem_token")
                return self._message(language, "problem_title", [sentence, "closed_how"], status)
            sentence = _SENTENCE_OF.get(code, "problem_form")
            session = self._sessions.find(_cookie_value(request)) if status < 500 else None
            return self._page(
                language,
                "message.html",
                session,
                status=status,
                heading="problem_title",
                sentences=[sentence],
            )

        @pages.errorhandler(_NoSession)
        def closed(_: _NoSession) -> Response:
            return self._closed(_address_language(request), 403)

        @pages.errorhandler(Refused)
        def refused(error: Refused) -> Response:
            return failed(error.code, 403)

        @pages.errorhandler(Problem)
        def problem(error: Problem) -> Response:
            answer = failed(error.code, error.status)
            if error.code == "too_many_requests":
                answer.headers["Retry-After"] = str(int(SESSION.total_seconds()))
            return answer

        @pages.errorhandler(Malformed)
        def malformed(_: Malformed) -> Response:
            return failed("malformed", 400)

        @pages.errorhandler(HTTPException)
        def http(error: HTTPException) -> Response:
            return failed("malformed", error.code or 400)

        @pages.errorhandler(Exception)
        def unexpected(error: Exception) -> Response:
            # The type only: an exception's text may hold a token, a name or a row.
            _log.error("a page failed: %s", type(error).__name__)
            return self._message(_address_language(request), "problem_title", ["problem_busy"], 500)


def is_page(path: str) -> bool:
    """Whether a browser, and so a person, is at this address."""
    return path == "/me" or path.startswith("/me/")


def _is_new(use: Use, session: Session) -> bool:
    return use.n is None or use.n > session.new_after


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "replace"))


def _go(address: str) -> Response:
    answer = Response(status=303)
    answer.headers.update(_HEADERS)
    answer.headers["Location"] = address
    return answer


def _fields(*names: str) -> dict[str, str]:
    """A form's fields from the body, never from the address: each of `names` once, and no others.

    Raises Problem `unsupported_media_type`, Malformed, and werkzeug's 413 for a large one.
    """
    if request.mimetype != FORM:
        raise Problem("unsupported_media_type")
    given = list(request.form.items(multi=True))
    fields = dict(given)
    if len(fields) != len(given) or fields.keys() != set(names):
        raise Malformed("has other fields than the page's form", field="form")
    return fields


def _host(asking: Request) -> str:
    return str(asking.environ.get("HTTP_HOST", "")).lower()


def _cookie(asking: Request) -> tuple[str, bool]:
    """(name, secure) of the session's cookie. Only on this very machine is there no TLS."""
    host = _host(asking)
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return ("carepos-me", False) if name in _LOOPBACK else ("__Host-carepos-me", True)


def _cookie_value(asking: Request) -> str | None:
    return asking.cookies.get(_cookie(asking)[0])


def _language(text: str) -> Language:
    """Raises Problem `not_found`."""
    for each in LANGUAGES:
        if text == each:
            return each
    raise Problem("not_found")


def _wished(asking: Request) -> Language:
    """By Accept-Language; Chinese where neither is asked for."""
    wished = asking.accept_languages.best_match(LANGUAGES)
    return "en" if wished == "en" else "zh"


def _address_language(asking: Request) -> Language:
    """Of the address, else the one wished for."""
    named = asking.path.split("/")[2:3]
    for each in LANGUAGES:
        if [each] == named:
            return each
    return _wished(asking)
