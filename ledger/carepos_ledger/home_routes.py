"""`/v1/operators/homes…`: where households shop, over HTTP.

Households are named in the body, never in an address: addresses stand in logs. Operators' secrets
as in `operator_routes`.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request

from carepos import strict_json
from carepos_ledger.http import body_names, json_response, no_body, operators_only
from carepos_ledger.pinning import MAX_HOMES, Pinning, Wish


def blueprint(pinning: Pinning, operator_named: Callable[[str], str | None]) -> Blueprint:
    """`operator_named` finds an operator by secret."""
    routes = Blueprint("homes", __name__, url_prefix="/v1/operators")

    operators_only(routes, operator_named)

    @routes.get("/homes")
    def by_store() -> Response:
        no_body(request)
        return json_response({"homes": pinning.by_store()})

    @routes.post("/homes")
    def pin() -> Response:
        names = body_names("homes", optional={"dry_run"})
        dry_run = strict_json.boolean(names.get("dry_run", False), "dry_run")
        listed = strict_json.array(names["homes"], "homes", low=1, high=MAX_HOMES)
        wishes = [Wish.from_json(each, f"homes[{n}]") for n, each in enumerate(listed, 1)]
        answers = pinning.pin_many(wishes, dry_run=dry_run)
        return json_response({"results": [each.to_json() for each in answers]})

    @routes.post("/homes/from-sales")
    def from_sales() -> Response:
        names = body_names("from_bucket", "dry_run")
        dry_run = strict_json.boolean(names["dry_run"], "dry_run")
        return json_response(pinning.from_sales(names["from_bucket"], dry_run=dry_run).to_json())

    return routes
