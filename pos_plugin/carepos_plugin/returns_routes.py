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

from typing import Final

from flask import Blueprint, Response, request

from carepos import ids, strict_json
from carepos_plugin.counter import Counter
from carepos_plugin.http import empty_body, json_body, json_response
from carepos_plugin.pad_link import PadLink
from carepos_plugin.paired_page import PairedPage
from carepos_plugin.registers import taking_back

FILE: Final = "returns-page.paired"
HEADER: Final = "X-CarePOS-Returns"
PAGE: Final = PairedPage(prefix="/returns", file="returns", part="page", name="returns-page")


def blueprint(counter: Counter, link: PadLink) -> Blueprint:
    routes = PAGE.blueprint(link)

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
