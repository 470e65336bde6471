"""What tills call: HTTP in, one call of a concept, HTTP out (docs/protocol.md §9)."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from carepos import ids, strict_json
from carepos_ledger.auth import Authenticator, Caller
from carepos_ledger.counter import Counter
from carepos_ledger.desk import Desk
from carepos_ledger.http import json_body, json_response
from carepos_ledger.intake import MAX_TOKEN_CHARACTERS, Intake
from carepos_ledger.keyring import Keyring
from carepos_ledger.packs import Packs
from carepos_ledger.problems import Problem
from carepos_ledger.sales import Sales
from carepos_ledger.shelf import Decided
from carepos_ledger.terminals import Terminals


def caller(authenticate: Authenticator) -> Caller:
    """The terminal behind the current request. Raises Problem."""
    query = request.query_string.decode("ascii", "replace")
    target = f"{request.path}?{query}" if query else request.path
    body = request.get_data(cache=True) if request.method == "POST" else None
    return authenticate(request.headers.get("Authorization"), request.method, target, body)


def blueprint(
    *,
    keyring: Keyring,
    terminals: Terminals,
    intake: Intake,
    desk: Desk,
    counter: Counter,
    packs: Packs,
    sales: Sales,
    authenticate: Authenticator,
) -> Blueprint:
    """Enrolment, records, lookups, sales of other tills and the pack."""
    routes = Blueprint("terminals", __name__)

    @routes.get("/.well-known/jwks.json")
    def key_set() -> Response:
        return json_response(
            {
                "keys": [key.to_jwk() for key in keyring.keys.keys],
                "root": keyring.root.to_jwk(),
                "keyset": keyring.keyset,
            }
        )

    @routes.post("/v1/terminals")
    def enrol() -> Response:
        names = strict_json.exact_names(
            json_body(request), {"activation", "public_key", "proof"}, where="body"
        )
        certificate = terminals.enrol(names["activation"], names["public_key"], names["proof"])
        return json_response({"certificate": certificate}, 201)

    @routes.post("/v1/records")
    def records() -> Response:
        items = intake.items(json_body(request))
        answers = desk.post([item for item in items if not isinstance(item, Problem)])
        return json_response(
            {
                "results": [
                    _result(item if isinstance(item, Problem) else answers[item.record.digest])
                    for item in items
                ]
            }
        )

    @routes.get("/v1/records/<attempt_id>")
    def attempt(attempt_id: str) -> Response:
        who = caller(authenticate)
        return json_response(counter.attempt(who, ids.attempt_id(attempt_id)))

    @routes.get("/v1/terminal")
    def terminal() -> Response:
        who = caller(authenticate).terminal
        return json_response({"certificate": terminals.certificate(who.terminal, who.kid)})

    @routes.post("/v1/vouchers/lookup")
    def look_up() -> Response:
        body = json_body(request)
        who = caller(authenticate)
        names = strict_json.names_within(
            body, required={"token"}, optional={"pin_proof"}, where="body"
        )
        token = strict_json.text(names["token"], "token", high=MAX_TOKEN_CHARACTERS)
        proof = names.get("pin_proof")
        if proof is not None:
            proof = ids.digest_text(proof, "pin_proof")
        return json_response({"lookup": counter.look_up(who, token, proof)})

    @routes.post("/v1/sales/find")
    def find_sale() -> Response:
        body = json_body(request)
        who = caller(authenticate)
        names = strict_json.exact_names(body, {"receipt_no", "code"}, where="body")
        return json_response(sales.find(who, names["receipt_no"], names["code"]).to_json())

    @routes.get("/v1/offline-pack")
    def pack_manifest() -> Response:
        sha256, manifest = packs.manifest(caller(authenticate).terminal)
        if sha256 in request.if_none_match:
            return Response(status=304, headers={"ETag": f'"{sha256}"'})
        answer = json_response({"manifest": manifest})
        answer.set_etag(sha256)
        return answer

    @routes.post("/v1/offline-pack")
    def make_pack() -> Response:
        body = json_body(request)
        terminal = caller(authenticate).terminal
        if terminal.status != "active":
            raise Problem(f"terminal_{terminal.status}")
        names = strict_json.exact_names(body, {"incarnation"}, where="body")
        incarnation = ids.incarnation(names["incarnation"], "incarnation")
        sha256, manifest = packs.make(terminal, incarnation)
        answer = json_response({"manifest": manifest})
        answer.set_etag(sha256)
        return answer

    @routes.get("/v1/offline-pack/<sha256>")
    def pack_file(sha256: str) -> Response:
        data = packs.file(caller(authenticate).terminal, sha256)
        return Response(data, content_type="application/json")

    return routes


def _result(answer: Decided | Problem) -> dict[str, Any]:
    if isinstance(answer, Problem):
        return {"problem": answer.to_json()}
    return {"outcome": answer.jws}
