"""Settlement over HTTP: tills fetch what their merchant is paid, operators close (§9, §12)."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request

from carepos import ids
from carepos.settlement import file_name
from carepos_ledger.http import body_names, json_response, no_body, only_query, operators_only
from carepos_ledger.settlement import Settlement, read_after, read_batch_no
from carepos_ledger.shelf import Terminal


def terminal_blueprint(settlement: Settlement, authenticate: Callable[[], Terminal]) -> Blueprint:
    """What a till may read: its own merchant's batches. `authenticate` raises Problem."""
    routes = Blueprint("settlements", __name__, url_prefix="/v1/settlements")

    @routes.get("")
    def settlements() -> Response:
        merchant = authenticate().merchant
        no_body(request)
        after = only_query("after")
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
        only_query()
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
    operators_only(routes, operator_named, "settlements")

    @routes.post("/close")
    def close() -> Response:
        names = body_names(optional={"merchant", "programme"})
        for name, value in names.items():
            ids.name(value, name)
        closed = settlement.close(names.get("merchant"), names.get("programme"))
        return json_response({"closed": [each.to_json() for each in closed]})

    @routes.get("/settlements")
    def settlements() -> Response:
        no_body(request)
        merchant = only_query("merchant")
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
