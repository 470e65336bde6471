"""The page on which a cashier takes sales back, for shops whose register does not.

GET  /returns, /returns/page.js, /returns/page.css   the page; nothing of a sale is in it
POST /returns/pair     the code of a one-time link → this page's secret
POST /returns/state    the sales that can be voided now, what waits, what was refused unseen
POST /returns/standing where a void or refund stands, by its own number
POST /returns/seen     the cashier has seen that one was refused, by its own number
POST /returns/find     what of a sale can come back
POST /returns/void     `checkout`, and the body of a void
POST /returns/refund   the body of a refund

All but the page and `pair` carry the page's secret in the header `X-CarePOS-Returns`. It is there
for the shop's own computer only, never at the devices' address.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from flask import Blueprint, Response, request

from carepos import ids, strict_json
from carepos_plugin.counter import Counter
from carepos_plugin.http import empty_body, json_body, json_response
from carepos_plugin.pad_link import PadLink
from carepos_plugin.pin_pad_routes import PAGE_POLICY
from carepos_plugin.registers import taking_back

FILE: Final = "returns-page.paired"
HEADER: Final = "X-CarePOS-Returns"
PREFIX: Final = "/returns"
OPEN: Final = frozenset({PREFIX, f"{PREFIX}/page.js", f"{PREFIX}/page.css", f"{PREFIX}/pair"})


def blueprint(counter: Counter, link: PadLink) -> Blueprint:
    routes = Blueprint("returns", __name__, url_prefix=PREFIX)
    files = resources.files("carepos_plugin")

    def page(name: str, kind: str) -> Response:
        answer = Response(files.joinpath(name).read_bytes(), content_type=f"{kind}; charset=utf-8")
        answer.headers["Content-Security-Policy"] = PAGE_POLICY
        return answer

    @routes.get("")
    def html() -> Response:
        return page("returns.html", "text/html")

    @routes.get("/page.js")
    def script() -> Response:
        return page("returns.js", "text/javascript")

    @routes.get("/page.css")
    def style() -> Response:
        return page("returns.css", "text/css")

    @routes.post("/pair")
    def pair() -> Response:
        names = strict_json.exact_names(json_body(request), {"code"}, where="body")
        code = strict_json.text(names["code"], "code", high=64)
        return json_response({"secret": link.pair(code)})

    @routes.post("/state")
    def state() -> Response:
        empty_body(request)
        return json_response(counter.taking_back())

    @routes.post("/standing")
    def standing() -> Response:
        names = strict_json.exact_names(json_body(request), {"receipt_no"}, where="body")
        return json_response(
            counter.correction(strict_json.text(names["receipt_no"], "receipt_no"))
        )

    @routes.post("/seen")
    def seen() -> Response:
        names = strict_json.exact_names(json_body(request), {"receipt_no"}, where="body")
        return json_response(counter.undo_seen(strict_json.text(names["receipt_no"], "receipt_no")))

    @routes.post("/find")
    def find() -> Response:
        return json_response(taking_back.returnable(counter, json_body(request)))

    @routes.post("/void")
    def void() -> Response:
        body = json_body(request)
        checkout = ids.label(body.pop("checkout", None), "checkout")
        return json_response(taking_back.void(counter, checkout, body))

    @routes.post("/refund")
    def refund() -> Response:
        return json_response(taking_back.refund(counter, json_body(request)))

    return routes


def register_side(link: PadLink, url: str) -> Blueprint:
    """What `carepos till returns-page` asks."""
    routes = Blueprint("returns_link", __name__, url_prefix="/api")

    @routes.post("/returns-page/link")
    def new_link() -> Response:
        empty_body(request)
        return json_response({"link": f"{url}{PREFIX}#{link.new_link()}"}, 201)

    @routes.post("/returns-page/forget")
    def forget() -> Response:
        empty_body(request)
        link.forget()
        return json_response({"paired": False})

    return routes
