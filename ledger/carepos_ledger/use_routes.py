"""What operators read of uses, disputes and exceptions, and answer: HTTP alone (protocol §9)."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, g, request

from carepos_ledger.disputes import Disputes
from carepos_ledger.http import (
    after,
    body_names,
    done_response,
    json_response,
    no_body,
    operators_only,
    whole_number,
)
from carepos_ledger.offline_exceptions import OfflineExceptions
from carepos_ledger.uses import Uses
from carepos_ledger.voucher_stops import VoucherStops


def blueprint(
    uses: Uses,
    disputes: Disputes,
    stops: VoucherStops,
    exceptions: OfflineExceptions,
    operator_named: Callable[[str], str | None],
) -> Blueprint:
    """`operator_named` finds an operator by secret."""
    routes = Blueprint("operator_uses", __name__, url_prefix="/v1/operators")

    operators_only(routes, operator_named, "feed", "listed", "excepted")

    @routes.get("/uses")
    def feed() -> Response:
        no_body(request)
        return json_response(uses.after(after()).to_json())

    @routes.get("/disputes")
    def listed() -> Response:
        no_body(request)
        return json_response({"disputes": disputes.listed(after())})

    @routes.put("/disputes/<dispute>")
    def answer(dispute: str) -> Response:
        names = body_names("state", "sentence")
        result = disputes.answer(
            whole_number(dispute, "dispute"), names["state"], names["sentence"], operator=g.operator
        )
        return done_response(result)

    @routes.get("/stops")
    def stopped() -> Response:
        no_body(request)
        return json_response({"stops": stops.listed()})

    @routes.get("/exceptions")
    def excepted() -> Response:
        no_body(request)
        return json_response({"exceptions": exceptions.listed(after())})

    @routes.put("/exceptions/<exception>")
    def close(exception: str) -> Response:
        [note] = body_names("note").values()
        number = whole_number(exception, "exception")
        return done_response(exceptions.close(number, note, operator=g.operator))

    return routes
