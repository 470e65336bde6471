"""`/v1/operators/held…` and a terminal's chains: HTTP in front of the held intake."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, g, request

from carepos import strict_json
from carepos.errors import Malformed
from carepos_ledger.held_list import HeldList
from carepos_ledger.held_rulings import HeldRulings
from carepos_ledger.http import (
    after,
    done_response,
    json_body,
    json_response,
    no_body,
    operators_only,
    whole_number,
)


def blueprint(
    held: HeldList, rulings: HeldRulings, operator_named: Callable[[str], str | None]
) -> Blueprint:
    """`operator_named` finds an operator by secret."""
    routes = Blueprint("held", __name__, url_prefix="/v1/operators")

    operators_only(routes, operator_named, "listed")

    @routes.get("/held")
    def listed() -> Response:
        no_body(request)
        return json_response({"held": held.listed(after())})

    @routes.get("/held/<n>")
    def one(n: str) -> Response:
        no_body(request)
        return json_response(held.one(whole_number(n, "n")))

    @routes.put("/held/<n>")
    def rule(n: str) -> Response:
        number = whole_number(n, "n")
        names = strict_json.names_within(
            json_body(request),
            required={"decision"},
            optional={"code", "sentence", "leaves_spent"},
            where="body",
        )
        match names["decision"]:
            case "post" if names.keys() <= {"decision", "sentence"}:
                done = rulings.post(number, operator=g.operator, sentence=names.get("sentence"))
            case "refuse" if names.keys() >= {"code", "sentence"}:
                done = rulings.refuse(
                    number,
                    names["code"],
                    names["sentence"],
                    operator=g.operator,
                    leaves_spent=names.get("leaves_spent", False),
                )
            case _:
                raise Malformed("must be post, or refuse with code and sentence", field="decision")
        return done_response(done, {"outcome": held.one(number)["result"]})

    @routes.get("/terminals/<terminal>/chains")
    def chains(terminal: str) -> Response:
        no_body(request)
        return json_response(held.chains(terminal))

    return routes
