"""`/v1/operators/…`: HTTP in front of what operators do, nothing more.

Every call wants `Authorization: Bearer <operator secret>`, before anything else is looked at. PUT
and POST answer `{"result": "created" | "exists" | "changed"}` with 201 for created, else 200.
"""

from __future__ import annotations

from flask import Blueprint, Response, request

from carepos import clock, strict_json
from carepos.voucher import OPTIONAL_NAMES
from carepos_ledger.http import (
    after,
    body_names,
    done_response,
    json_body,
    json_response,
    no_body,
    operators_only,
)
from carepos_ledger.office import Office
from carepos_ledger.operators import Operators
from carepos_ledger.programmes import RULE_NAMES, Programmes, RulesPut
from carepos_ledger.terminals import Terminals


def blueprint(
    operators: Operators,
    programmes: Programmes,
    office: Office,
    terminals: Terminals,
) -> Blueprint:
    """Every operator call but those about identity and settlement, which bring blueprints of
    their own."""
    routes = Blueprint("operators", __name__, url_prefix="/v1/operators")

    operators_only(routes, operators.named, "alarms")
    _rules(routes, programmes)
    _books(routes, office)
    _tills(routes, terminals)
    return routes


def _rules(routes: Blueprint, programmes: Programmes) -> None:
    @routes.put("/product-lists/<product_list>")
    def product_list(product_list: str) -> Response:
        names = body_names("version", "entries")
        return done_response(
            programmes.put_product_list(product_list, names["version"], names["entries"])
        )

    @routes.get("/programmes")
    def every() -> Response:
        return json_response({"programmes": [each.to_json() for each in programmes.all()]})

    @routes.get("/programmes/<programme>")
    def programme(programme: str) -> Response:
        return json_response(programmes.one(programme).to_json())

    @routes.put("/programmes/<programme>")
    def put_programme(programme: str) -> Response:
        rules = strict_json.names_within(
            json_body(request),
            required=RULE_NAMES - OPTIONAL_NAMES - {"programme"},
            optional=OPTIONAL_NAMES,
            where="body",
        )
        return _put(programmes.put_programme({**rules, "programme": programme}))

    @routes.put("/programmes/<programme>/stores/<store>")
    def admit(programme: str, store: str) -> Response:
        no_body(request)
        return _put(programmes.admit_store(programme, store))

    @routes.delete("/programmes/<programme>/stores/<store>")
    def remove(programme: str, store: str) -> Response:
        no_body(request)
        return _put(programmes.remove_store(programme, store))


def _books(routes: Blueprint, office: Office) -> None:
    @routes.put("/funders/<funder>")
    def funder(funder: str) -> Response:
        return done_response(office.put_funder(funder, body_names("name")["name"]))

    @routes.put("/merchants/<merchant>")
    def merchant(merchant: str) -> Response:
        return done_response(office.put_merchant(merchant, body_names("name")["name"]))

    @routes.put("/stores/<store>")
    def store(store: str) -> Response:
        names = body_names("merchant", "name")
        return done_response(office.put_store(store, names["merchant"], names["name"]))

    @routes.get("/programmes/<programme>/sums")
    def sums(programme: str) -> Response:
        return json_response(office.programme_sums(programme).to_json())

    @routes.post("/programmes/<programme>/funds")
    def fund(programme: str) -> Response:
        names = body_names("funder", "amount_minor", "reference")
        return done_response(
            office.fund(programme, names["funder"], names["amount_minor"], names["reference"])
        )

    @routes.post("/programmes/<programme>/loss-reserve")
    def reserve_for_losses(programme: str) -> Response:
        names = body_names("amount_minor", "reference")
        return done_response(
            office.reserve_for_losses(programme, names["amount_minor"], names["reference"])
        )

    @routes.post("/programmes/<programme>/issue")
    def issue(programme: str) -> Response:
        names = body_names("import_key_id", "rows")
        answers = office.issue(programme, names["import_key_id"], names["rows"])
        return json_response({"results": [each.to_json() for each in answers]})

    @routes.post("/programmes/<programme>/freeze")
    def freeze(programme: str) -> Response:
        names = strict_json.names_within(
            json_body(request), required={"frozen"}, optional={"ref", "voucher"}, where="body"
        )
        return done_response(
            office.freeze(
                programme,
                frozen=names["frozen"],
                ref=names.get("ref"),
                voucher=names.get("voucher"),
            )
        )


def _tills(routes: Blueprint, terminals: Terminals) -> None:
    @routes.post("/activations")
    def activation() -> Response:
        names = body_names("store", "valid_s")
        made = terminals.new_activation(names["store"], names["valid_s"])
        return json_response(
            {"activation": made.code, "expires_at": clock.to_text(made.expires_at)}, 201
        )

    @routes.get("/terminals")
    def listed() -> Response:
        return json_response({"terminals": terminals.listed()})

    @routes.put("/terminals/<terminal>/status")
    def status(terminal: str) -> Response:
        return done_response(terminals.set_status(terminal, body_names("status")["status"]))

    @routes.get("/alarms")
    def alarms() -> Response:
        return json_response({"alarms": terminals.alarms(after())})


def _put(put: RulesPut) -> Response:
    return done_response(put.result, {"rules_version": put.rules_version})
