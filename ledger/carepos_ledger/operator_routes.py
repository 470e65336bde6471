"""`/v1/operators/…`: HTTP in front of the office, nothing more.

Every call wants `Authorization: Bearer <operator secret>`, before anything else is looked at. PUT
and POST answer `{"result": "created" | "exists" | "changed"}` with 201 for created, else 200.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, request

from carepos import clock, strict_json
from carepos.errors import Malformed
from carepos_ledger.auth import require_operator
from carepos_ledger.http import json_body, json_response, no_body, problem_response
from carepos_ledger.office import RULE_NAMES, Done, Office, RulesPut
from carepos_ledger.problems import Problem

_COUNT = re.compile(r"0|[1-9][0-9]{0,15}")


def blueprint(office: Office) -> Blueprint:
    """Every operator call but those about settlement, which bring a blueprint of their own."""
    routes = Blueprint("operators", __name__, url_prefix="/v1/operators")

    @routes.before_request
    def authorise() -> None:
        require_operator(office.operator_named, request.headers.get("Authorization"))
        if request.endpoint != "operators.alarms" and request.args:
            raise Malformed("this call takes no query")

    @routes.errorhandler(Problem)
    def problem(error: Problem) -> Response:
        return problem_response(error)

    @routes.errorhandler(Malformed)
    def malformed(error: Malformed) -> Response:
        return problem_response(error)

    _who_takes_part(routes, office)
    _programmes(routes, office)
    _tills(routes, office)
    return routes


def _who_takes_part(routes: Blueprint, office: Office) -> None:
    @routes.put("/issuers")
    def issuer() -> Response:
        names = _names("iss", "keys")
        return _done(office.put_issuer(names["iss"], names["keys"]))

    @routes.put("/funders/<funder>")
    def funder(funder: str) -> Response:
        return _done(office.put_funder(funder, _names("name")["name"]))

    @routes.put("/merchants/<merchant>")
    def merchant(merchant: str) -> Response:
        return _done(office.put_merchant(merchant, _names("name")["name"]))

    @routes.put("/stores/<store>")
    def store(store: str) -> Response:
        names = _names("merchant", "name")
        return _done(office.put_store(store, names["merchant"], names["name"]))

    @routes.put("/product-lists/<product_list>")
    def product_list(product_list: str) -> Response:
        names = _names("version", "entries")
        return _done(
            office.put_product_list(
                product_list,
                strict_json.integer(names["version"], "version", low=1),
                strict_json.mapping(names["entries"], "entries"),
            )
        )


def _programmes(routes: Blueprint, office: Office) -> None:
    @routes.get("/programmes")
    def programmes() -> Response:
        return json_response({"programmes": [each.to_json() for each in office.programmes()]})

    @routes.get("/programmes/<programme>")
    def programme(programme: str) -> Response:
        return json_response(office.programme(programme).to_json())

    @routes.put("/programmes/<programme>")
    def put_programme(programme: str) -> Response:
        rules = _names(*(RULE_NAMES - {"programme"}))
        return _rules(office.put_programme({**rules, "programme": programme}))

    @routes.put("/programmes/<programme>/stores/<store>")
    def admit(programme: str, store: str) -> Response:
        no_body(request)
        return _rules(office.admit_store(programme, store))

    @routes.delete("/programmes/<programme>/stores/<store>")
    def remove(programme: str, store: str) -> Response:
        no_body(request)
        return _rules(office.remove_store(programme, store))

    @routes.get("/programmes/<programme>/sums")
    def sums(programme: str) -> Response:
        return json_response(office.programme_sums(programme).to_json())

    @routes.post("/programmes/<programme>/funds")
    def fund(programme: str) -> Response:
        names = _names("funder", "amount_minor", "reference")
        return _done(
            office.fund(programme, names["funder"], names["amount_minor"], names["reference"])
        )

    @routes.post("/programmes/<programme>/issue")
    def issue(programme: str) -> Response:
        names = _names("import_key_id", "rows")
        answers = office.issue(programme, names["import_key_id"], names["rows"])
        return json_response({"results": [each.to_json() for each in answers]})

    @routes.post("/programmes/<programme>/freeze")
    def freeze(programme: str) -> Response:
        names = strict_json.names_within(
            json_body(request), required={"frozen"}, optional={"ref", "voucher"}, where="body"
        )
        return _done(
            office.freeze(
                programme,
                frozen=strict_json.boolean(names["frozen"], "frozen"),
                ref=names.get("ref"),
                voucher=names.get("voucher"),
            )
        )


def _tills(routes: Blueprint, office: Office) -> None:
    @routes.post("/activations")
    def activation() -> Response:
        names = _names("store", "valid_s")
        made = office.new_activation(names["store"], names["valid_s"])
        return json_response(
            {"activation": made.code, "expires_at": clock.to_text(made.expires_at)}, 201
        )

    @routes.get("/terminals")
    def terminals() -> Response:
        return json_response({"terminals": office.terminals()})

    @routes.put("/terminals/<terminal>/status")
    def status(terminal: str) -> Response:
        return _done(office.set_terminal_status(terminal, _names("status")["status"]))

    @routes.get("/alarms")
    def alarms() -> Response:
        after = request.args.getlist("after") or ["0"]
        if request.args.keys() - {"after"} or len(after) != 1 or not _COUNT.fullmatch(after[0]):
            raise Malformed("must be one whole number", field="after")
        return json_response({"alarms": office.alarms(int(after[0]))})


def _names(*names: str) -> dict[str, Any]:
    """The body's values, if it has exactly these names; their types are the office's to judge."""
    return strict_json.exact_names(json_body(request), set(names), where="body")


def _done(result: Done, more: Mapping[str, object] | None = None) -> Response:
    return json_response({"result": result, **(more or {})}, 201 if result == "created" else 200)


def _rules(put: RulesPut) -> Response:
    return _done(put.result, {"rules_version": put.rules_version})
