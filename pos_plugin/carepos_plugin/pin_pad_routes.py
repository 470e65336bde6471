"""The PIN pad: its page, and what the page asks. Everything that asks or does is a POST.

GET  /pin-pad, /pin-pad/pad.js, /pin-pad/pad.css   the page; nothing of a sale is in it
POST /pin-pad/pair     the code of a one-time link → this pad's secret
POST /pin-pad/state    what to show now
POST /pin-pad/enter    one press of OK
POST /pin-pad/cancel   the holder gives up

All but the page and `pair` carry the pad's secret in the header `X-CarePOS-Pin-Pad`. The register's
side of it is `/api/pin-pad/…` and `/api/pin-requests/…`.
"""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, request

from carepos import ids, pin, strict_json
from carepos_plugin.http import empty_body, json_body, json_response
from carepos_plugin.pad_link import PadLink
from carepos_plugin.paired_page import PairedPage
from carepos_plugin.pin_pad import PinPad

PAGE: Final = PairedPage(prefix="/pin-pad", file="pin_pad", part="pad", name="pin-pad")


def blueprint(pad: PinPad, link: PadLink) -> Blueprint:
    routes = PAGE.blueprint(link)

    @routes.post("/state")
    def state() -> Response:
        empty_body(request)
        return json_response(pad.state())

    @routes.post("/enter")
    def enter() -> Response:
        names = strict_json.exact_names(
            json_body(request), {"request", "entry", "pin"}, where="body"
        )
        request_id = ids.reference(names["request"], "request")
        entry = strict_json.integer(names["entry"], "entry", low=1)
        # What is no PIN is no try: the ledger never hears of it.
        return json_response(pad.enter(request_id, entry, pin.entered(names["pin"])))

    @routes.post("/cancel")
    def cancel() -> Response:
        names = strict_json.exact_names(json_body(request), {"request"}, where="body")
        return json_response(pad.give_up(ids.reference(names["request"], "request")))

    return routes


def register_side(pad: PinPad) -> Blueprint:
    """What the register asks about a PIN."""
    routes = Blueprint("pin_requests", __name__, url_prefix="/api/pin-requests")

    @routes.get("/<request_id>")
    def standing(request_id: str) -> Response:
        return json_response(pad.standing(ids.reference(request_id, "request")).shown)

    @routes.post("/<request_id>/cancel")
    def cancel(request_id: str) -> Response:
        empty_body(request)
        return json_response(pad.cancel(ids.reference(request_id, "request")).shown)

    return routes
