"""The face or palm device at the counter hands over the token that its issuer gave it.

POST /device/code    {"code": token} → {"held": true, "seconds": 60}; the register's next offer with
                     `"code": null` is made for it

The device carries its own secret (`carepos till device`) in the header `X-CarePOS-Device`. A device
that types like a scanner needs none of this: what it types goes into the register's scan field.
"""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, request

from carepos import Malformed, strict_json
from carepos.presentation import MAX_SCANNED
from carepos_plugin.held_code import LIFE_S, HeldCode
from carepos_plugin.http import json_body, json_response

PREFIX: Final = "/device"


def blueprint(held: HeldCode) -> Blueprint:
    routes = Blueprint("device", __name__, url_prefix=PREFIX)

    @routes.post("/code")
    def code() -> Response:
        names = strict_json.exact_names(json_body(request), {"code"}, where="body")
        if not isinstance(names["code"], str) or not 1 <= len(names["code"]) <= MAX_SCANNED:
            raise Malformed(f"must be 1 to {MAX_SCANNED} characters", field="code")
        held.hold(names["code"])
        return json_response({"held": True, "seconds": LIFE_S}, 202)

    return routes
