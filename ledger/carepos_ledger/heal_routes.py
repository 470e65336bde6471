"""Healing over HTTP: what tills offer, what operators ask, and who must wait meanwhile."""

from __future__ import annotations

import zlib
from typing import Any, Final

from flask import Blueprint, Flask, Response, g, request

from carepos import ids, strict_json
from carepos.errors import Malformed
from carepos.keys import unb64
from carepos_ledger.auth import Authenticator
from carepos_ledger.heal_status import HealStatus
from carepos_ledger.healing import Healing
from carepos_ledger.http import (
    after,
    body_names,
    done_response,
    json_body,
    json_response,
    no_body,
    operators_only,
    whole_number,
)
from carepos_ledger.lost_batches import LostBatches
from carepos_ledger.offering import Asked, Offering
from carepos_ledger.opening import Opening
from carepos_ledger.operators import Operators
from carepos_ledger.problems import Problem
from carepos_ledger.told_allotments import ToldAllotments

MAX_FILE_BYTES: Final = 64 * 2**20

# What does not say what vouchers hold, nor what was decided.
_TILLS_MAY: Final = frozenset(
    {"terminals.key_set", "terminals.pack_manifest", "terminals.pack_file"}
)
# What would be done to a book that is not whole.
_OPERATORS_MAY_NOT: Final = frozenset(
    {
        "held.rule",
        "operator_settlements.close",
        "operator_uses.feed",
        "operators.issue",
        "privacy.erase",
    }
)


def guard(app: Flask, healing: Healing) -> None:
    """While the ledger heals everybody else waits: `ledger_healing`, before it is looked who calls
    and what is asked."""

    @app.before_request
    def wait() -> None:
        endpoint = request.endpoint
        if endpoint is None or endpoint == "describe" or endpoint in _TILLS_MAY:
            return
        blueprint = endpoint.partition(".")[0]
        if blueprint in ("heal", "operator_heal"):
            return
        is_operators = request.path.startswith("/v1/operators")
        if (not is_operators or endpoint in _OPERATORS_MAY_NOT) and healing.begun:
            raise Problem("ledger_healing")


def terminal_blueprint(
    offering: Offering, told: ToldAllotments, opening: Opening, authenticate: Authenticator
) -> Blueprint:
    """What tills hold of what this ledger lost."""
    routes = Blueprint("heal", __name__, url_prefix="/v1/heal")

    def called(body: dict[str, Any]) -> tuple[Any, Any]:
        certified = offering.certified(body.get("certificates"))
        caller = authenticate(
            request.headers.get("Authorization"),
            request.method,
            request.path,
            request.get_data(cache=True),
            offering.finder(certified),
        )
        return caller.terminal, certified

    @routes.post("")
    def offer() -> Response:
        body = json_body(request)
        caller, certified = called(body)
        names = strict_json.exact_names(
            body,
            {"incarnation", "after", "last", "certificates", "items", "complete"},
            where="body",
        )
        asked = Asked.read(names["incarnation"], names["after"], names["last"])
        return json_response(
            offering.take(caller, certified, asked, names["items"], names["complete"])
        )

    @routes.post("/pack")
    def pack() -> Response:
        body = json_body(request)
        caller, certified = called(body)
        names = strict_json.exact_names(
            body, {"incarnation", "certificates", "manifest", "files"}, where="body"
        )
        incarnation = ids.incarnation(names["incarnation"], "incarnation")
        offering.enrol_anew(certified)
        missing = told.take(caller, incarnation, names["manifest"], names["files"])
        if not missing and not opening.is_under_way():
            opening.place_late(caller.terminal)
        return json_response({"missing": missing})

    return routes


def operator_blueprint(
    operators: Operators, status: HealStatus, opening: Opening, batches: LostBatches
) -> Blueprint:
    """How far it is, what was paid, and the opening."""
    routes = Blueprint("operator_heal", __name__, url_prefix="/v1/operators/heal")
    operators_only(routes, operators.named, "excepted")

    @routes.get("")
    def how_far() -> Response:
        no_body(request)
        return json_response(status.to_json())

    @routes.post("/open")
    def open_() -> Response:
        early = strict_json.boolean(body_names("early")["early"], "early")
        done = opening.step(early=early)
        return json_response({"open": done, "left": opening.left()})

    @routes.post("/settlements")
    def settlement() -> Response:
        # A month of a large merchant is more than a call may bring: it comes deflated.
        names = body_names("manifest", "file")
        packed = unb64(strict_json.text(names["file"], "file", high=2**21), "file")
        done, batch = batches.restore(names["manifest"], _inflated(packed))
        return done_response(done, {"name": batch.name})

    @routes.get("/exceptions")
    def excepted() -> Response:
        no_body(request)
        return json_response({"exceptions": status.exceptions(after())})

    @routes.put("/exceptions/<exception>")
    def close(exception: str) -> Response:
        number = whole_number(exception, "exception")
        note = body_names("note")["note"]
        return done_response(status.close(number, note, operator=g.operator))

    return routes


def _inflated(packed: bytes) -> bytes:
    """Raw DEFLATE (RFC 1951). Raises Malformed."""
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpacking.decompress(packed, MAX_FILE_BYTES)
    except zlib.error:
        raise Malformed("does not unpack", field="file") from None
    if not unpacking.eof:
        raise Malformed(f"is larger than {MAX_FILE_BYTES} bytes, or cut off", field="file")
    return data
