"""`/v1/operators/…`: issuers, what is withdrawn, cards, and who acted for whom, over HTTP.

As `operator_routes`: credentials before anything else is looked at; nothing is decided here. Lists
that may grow long come a thousand at a time; `after` says how many are known already.
"""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response, request

from carepos import clock, strict_json
from carepos.errors import Malformed
from carepos_ledger import acting
from carepos_ledger.cards import CARD_NAMES, MAX_CARDS, Card, Cards
from carepos_ledger.database import Database
from carepos_ledger.http import (
    after,
    body_names,
    done_response,
    json_response,
    no_body,
    operators_only,
)
from carepos_ledger.issuers import Issuers
from carepos_ledger.operators import Operators
from carepos_ledger.revoking import Revoking

PAGE: Final = 1_000


def blueprint(
    operators: Operators, issuers: Issuers, revoking: Revoking, cards: Cards, database: Database
) -> Blueprint:
    """What operators do about who stands at the counter (docs/identity.md §3, §7, §8, §9)."""
    routes = Blueprint("identity", __name__, url_prefix="/v1/operators")

    operators_only(routes, operators.named, "revocations", "acted")
    _issuers(routes, issuers)
    _withdrawn(routes, revoking)
    _cards(routes, cards)
    _acted(routes, database)
    return routes


def _issuers(routes: Blueprint, issuers: Issuers) -> None:
    @routes.get("/issuers")
    def issuers_listed() -> Response:
        no_body(request)
        return json_response({"issuers": issuers.listed()})

    @routes.put("/issuers")
    def issuer() -> Response:
        names = body_names("iss", optional={"keys", "jwks_url", "confirmed"})
        confirmed = strict_json.boolean(names.get("confirmed", False), "confirmed")
        if ("keys" in names) == ("jwks_url" in names):
            raise Malformed("must have either keys or jwks_url", field="body")
        if "keys" in names:
            return done_response(issuers.put(names["iss"], names["keys"], confirmed=confirmed))
        return done_response(
            issuers.put_source(names["iss"], names["jwks_url"], confirmed=confirmed)
        )

    @routes.post("/issuers/refresh")
    def refresh() -> Response:
        return done_response(issuers.refresh(body_names("iss")["iss"]))

    @routes.post("/issuers/confirm")
    def confirm() -> Response:
        names = body_names("iss", "thumbprints")
        return done_response(issuers.confirm(names["iss"], names["thumbprints"]))


def _withdrawn(routes: Blueprint, revoking: Revoking) -> None:
    @routes.get("/revocations")
    def revocations() -> Response:
        no_body(request)
        listed, more = _page(revoking.all(after=after(), most=PAGE + 1))
        return json_response({"revocations": listed, "more": more})

    @routes.post("/revocations/keys")
    def key() -> Response:
        names = body_names("iss", "kid", "reason")
        return done_response(revoking.key(names["iss"], names["kid"], reason=names["reason"]))

    @routes.post("/revocations/tokens")
    def token() -> Response:
        names = body_names("iss", "jti_sha256", "reason", optional={"until"})
        until = clock.from_text(names["until"], "until") if "until" in names else None
        return done_response(
            revoking.token(names["iss"], names["jti_sha256"], reason=names["reason"], until=until)
        )

    @routes.post("/revocations/forget-expired")
    def forget_expired() -> Response:
        body_names()
        return json_response({"forgotten": revoking.forget_expired()})


def _cards(routes: Blueprint, cards: Cards) -> None:
    @routes.put("/cards")
    def card() -> Response:
        names = body_names(*CARD_NAMES)
        return done_response(cards.put(**names))

    @routes.post("/cards")
    def many() -> Response:
        names = body_names("cards", optional={"dry_run"})
        dry_run = strict_json.boolean(names.get("dry_run", False), "dry_run")
        listed = strict_json.array(names["cards"], "cards", low=1, high=MAX_CARDS)
        wanted = [Card.from_json(each, f"cards[{n}]") for n, each in enumerate(listed, 1)]
        answers = cards.put_many(wanted, dry_run=dry_run)
        return json_response({"results": [each.to_json() for each in answers]})

    @routes.post("/cards/unlock")
    def unlock() -> Response:
        names = body_names("iss", "jti_sha256")
        return done_response(cards.unlock(names["iss"], names["jti_sha256"]))


def _acted(routes: Blueprint, database: Database) -> None:
    @routes.get("/programmes/<programme>/acted")
    def acted(programme: str) -> Response:
        no_body(request)
        listed, more = _page(acting.audit(database, programme, after=after(), most=PAGE + 1))
        return json_response({"acted": listed, "more": more})


def _page(found: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    return found[:PAGE], len(found) > PAGE
