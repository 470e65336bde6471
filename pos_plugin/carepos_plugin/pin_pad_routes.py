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

from importlib import resources
from typing import Final

from flask import Blueprint, Response, request

from carepos import ids, pin, strict_json
from carepos_plugin.http import empty_body, json_body, json_response
from carepos_plugin.pad_link import PadLink
from carepos_plugin.pin_pad import PinPad

PREFIX: Final = "/pin-pad"
OPEN: Final = frozenset({PREFIX, f"{PREFIX}/pad.js", f"{PREFIX}/pad.css", f"{PREFIX}/pair"})
"""What is answered without a secret: the page, which holds nothing, and the one-time link."""

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint(pad: PinPad, link: PadLink) -> Blueprint:
    routes = Blueprint("pin_pad", __name__, url_prefix=PREFIX)
    files = resources.files("carepos_plugin")

    def page(name: str, kind: str) -> Response:
        data = files.joinpath(name).read_bytes()
        answer = Response(data, content_type=f"{kind}; charset=utf-8")
        answer.headers["Content-Security-Policy"] = PAGE_POLICY
        return answer

    @routes.get("")
    def html() -> Response:
        return page("pin_pad.html", "text/html")

    @routes.get("/pad.js")
    def script() -> Response:
        return page("pin_pad.js", "text/javascript")

    @routes.get("/pad.css")
    def style() -> Response:
        return page("pin_pad.css", "text/css")

    @routes.post("/pair")
    def pair() -> Response:
        names = strict_json.exact_names(json_body(request), {"code"}, where="body")
        code = strict_json.text(names["code"], "code", high=64)
        return json_response({"secret": link.pair(code)})

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


def register_side(pad: PinPad, link: PadLink, pad_url: str) -> Blueprint:
    """What the register, and `carepos till pin-pad`, ask about the pad."""
    routes = Blueprint("pin_requests", __name__, url_prefix="/api")

    @routes.get("/pin-requests/<request_id>")
    def standing(request_id: str) -> Response:
        return json_response(pad.standing(ids.reference(request_id, "request")).shown)

    @routes.post("/pin-requests/<request_id>/cancel")
    def cancel(request_id: str) -> Response:
        empty_body(request)
        return json_response(pad.cancel(ids.reference(request_id, "request")).shown)

    @routes.post("/pin-pad/link")
    def new_link() -> Response:
        empty_body(request)
        return json_response({"link": f"{pad_url}{PREFIX}#{link.new_link()}"}, 201)

    @routes.post("/pin-pad/forget")
    def forget() -> Response:
        empty_body(request)
        link.forget()
        return json_response({"paired": False})

    return routes
