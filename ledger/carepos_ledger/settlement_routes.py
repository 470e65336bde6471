"""Settlement over HTTP: tills fetch what their merchant is paid, operators close (§9, §12)."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request

from carepos import ids, strict_json
from carepos.errors import Malformed
from carepos.settlement import file_name
from carepos_ledger.auth import require_operator
from carepos_ledger.decide import Terminal
from carepos_ledger.http import json_body, json_response, no_body, problem_response
from carepos_ledger.problems import Problem
from carepos_ledger.settlement import Settlement, read_after, read_batch_no


def terminal_blueprint(settlement: Settlement, authenticate: Callable[[], Terminal]) -> Blueprint:
    """What a till may read: its own merchant's batches. `authenticate` raises Problem."""
    routes = Blueprint("settlements", __name__, url_prefix="/v1/settlements")
    _answer_problems(routes)

    @routes.get("")
    def settlements() -> Response:
        merchant = authenticate().merchant
        no_body(request)
        after = _only_query("after")
        found = settlement.listed(merchant, None if after is None else read_after(after))
        return json_response(
            {
                "settlements": [
                    {
                        "programme": each.programme,
                        "batch_no": each.batch_no,
                        "manifest": each.manifest,
                    }
                    for each in found
                ]
            }
        )

    @routes.get("/<programme>/<batch_no>")
    def file(programme: str, batch_no: str) -> Response:
        merchant = authenticate().merchant
        no_body(request)
        _only_query()
        ids.name(programme, "programme")
        number = read_batch_no(batch_no, "batch_no")
        answer = Response(
            settlement.file(merchant, programme, number), content_type="text/csv; charset=utf-8"
        )
        answer.headers.set(
            "Content-Disposition", "attachment", filename=file_name(merchant, programme, number)
        )
        return answer

    return routes


def operator_blueprint(
    settlement: Settlement, operator_named: Callable[[str], str | None]
) -> Blueprint:
    """Closing, and the list of all batches. `operator_named` finds an operator by secret."""
    routes = Blueprint("operator_settlements", __name__, url_prefix="/v1/operators")
    _answer_problems(routes)

    @routes.before_request
    def authorise() -> None:
        require_operator(operator_named, request.headers.get("Authorization"))

    @routes.post("/close")
    def close() -> Response:
        _only_query()
        names = strict_json.names_within(
            json_body(request), required=set(), optional={"merchant", "programme"}, where="body"
        )
        for name, value in names.items():
            ids.name(value, name)
        closed = settlement.close(names.get("merchant"), names.get("programme"))
        return json_response({"closed": [each.to_json() for each in closed]})

    @routes.get("/settlements")
    def settlements() -> Response:
        no_body(request)
        merchant = _only_query("merchant")
        found = settlement.batches(None if merchant is None else ids.name(merchant, "merchant"))
        return json_response(
            {
                "settlements": [
                    {
                        "merchant": each.merchant,
                        "programme": each.programme,
                        "batch_no": each.batch_no,
                        "closed_at": each.closed_at,
                        "manifest": each.manifest,
                    }
                    for each in found
                ]
            }
        )

    return routes


def _only_query(name: str | None = None) -> str | None:
    """The one value that may stand in the query, if it is there. Raises Malformed for others."""
    given = list(request.args.items(multi=True))
    if not given:
        return None
    if len(given) > 1 or given[0][0] != name:
        raise Malformed(
            "this call takes no query" if name is None else f"only {name} may be asked, once"
        )
    return given[0][1]


def _answer_problems(routes: Blueprint) -> None:
    @routes.errorhandler(Problem)
    def problem(error: Problem) -> Response:
        return problem_response(error)

    @routes.errorhandler(Malformed)
    def malformed(error: Malformed) -> Response:
        return problem_response(error)
