"""What operators read of uses and disputes, and answer: HTTP and nothing more (protocol §9)."""

from __future__ import annotations

import re
from collections.abc import Callable

from flask import Blueprint, Response, g, request

from carepos import strict_json
from carepos.errors import Malformed
from carepos_ledger.auth import require_operator
from carepos_ledger.disputes import Disputes
from carepos_ledger.http import json_body, json_response, no_body, problem_response
from carepos_ledger.problems import Problem
from carepos_ledger.uses import Uses
from carepos_ledger.voucher_stops import VoucherStops

_COUNT = re.compile(r"0|[1-9][0-9]{0,15}")


def blueprint(
    uses: Uses,
    disputes: Disputes,
    stops: VoucherStops,
    operator_named: Callable[[str], str | None],
) -> Blueprint:
    """`operator_named` finds an operator by secret."""
    routes = Blueprint("operator_uses", __name__, url_prefix="/v1/operators")

    @routes.before_request
    def authorise() -> None:
        g.operator = require_operator(operator_named, request.headers.get("Authorization"))

    @routes.errorhandler(Problem)
    def problem(error: Problem) -> Response:
        return problem_response(error)

    @routes.errorhandler(Malformed)
    def malformed(error: Malformed) -> Response:
        return problem_response(error)

    @routes.get("/uses")
    def feed() -> Response:
        no_body(request)
        return json_response(uses.after(_after()).to_json())

    @routes.get("/disputes")
    def listed() -> Response:
        no_body(request)
        return json_response({"disputes": disputes.listed(_after())})

    @routes.put("/disputes/<dispute>")
    def answer(dispute: str) -> Response:
        if request.args:
            raise Malformed("this call takes no query")
        names = strict_json.exact_names(json_body(request), {"state", "sentence"}, where="body")
        result = disputes.answer(
            _count(dispute, "dispute"), names["state"], names["sentence"], operator=g.operator
        )
        return json_response({"result": result})

    @routes.get("/stops")
    def stopped() -> Response:
        no_body(request)
        if request.args:
            raise Malformed("this call takes no query")
        return json_response({"stops": stops.listed()})

    return routes


def _after() -> int:
    """The query's one number, 0 where it is absent. Raises Malformed."""
    given = list(request.args.items(multi=True)) or [("after", "0")]
    if len(given) > 1 or given[0][0] != "after":
        raise Malformed("only after may be asked, once")
    return _count(given[0][1], "after")


def _count(text: str, field: str) -> int:
    if _COUNT.fullmatch(text) is None:
        raise Malformed("must be one whole number", field=field)
    return int(text)
