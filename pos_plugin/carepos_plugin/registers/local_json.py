"""The plain register adapter: JSON over HTTP on the shop's own PC.

    POST /api/offers                          scan → what could be redeemed, or a PIN to wait for
    GET  /api/pin-requests/{request}          whether the PIN was entered
    POST /api/pin-requests/{request}/cancel   take it off the PIN pad
    POST /api/redemptions                     the offer was accepted → redeemed, refused or unknown
    GET  /api/checkouts/{checkout}            where a sale stands
    POST /api/checkouts/{checkout}/retry      ask and send again
    POST /api/checkouts/{checkout}/cancel     undo what is unknown
    POST /api/checkouts/{checkout}/accept     let it leave without the ledger's word
    POST /api/checkouts/{checkout}/goods      were the goods handed over?
    POST /api/checkouts/{checkout}/void       take a confirmed sale back, whole
    POST /api/returns                         what of a sale can come back
    POST /api/refunds                         give lines of a sale back to its vouchers
    GET  /api/corrections/{receipt_no}        where a void or refund stands
    POST /api/corrections/{receipt_no}/seen   the cashier has seen that it was refused
    POST /api/allotments/return               give back what is set aside here for a holder
    GET  /api/receipts/{receipt_no}           as JSON, or as text/plain
    POST /api/receipts/{receipt_no}/print     once more on paper, marked COPY

200 is an answer, a no of the rules too; what could not be done is an RFC 9457 problem. Every `en`
and `zh` beside each other are one sentence for people. Fields and examples: docs/register-api.md.
"""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, request

from carepos import Line, Malformed, ids, paper_text, spread_discount, strict_json
from carepos.basket import MAX_LINES, lines_from_json
from carepos.presentation import MAX_SCANNED
from carepos.product import normalise_gtin
from carepos_plugin.counter import Counter
from carepos_plugin.http import empty_body, json_body, json_response
from carepos_plugin.problems import Problem
from carepos_plugin.registers import taking_back

_SHORT_GTIN = re.compile(r"[0-9]{8}|[0-9]{12,13}")


def blueprint(counter: Counter) -> Blueprint:
    routes = Blueprint("local_json", __name__, url_prefix="/api")

    @routes.post("/offers")
    def offer() -> Response:
        names = strict_json.names_within(
            json_body(request),
            required={"checkout", "lines"},
            optional={"code", "pin_request", "discount_minor", "programme"},
            where="body",
        )
        checkout = ids.label(names["checkout"], "checkout")
        if ("code" in names) == ("pin_request" in names):
            raise Malformed("needs code or pin_request, one of them", field="body")
        programme = names.get("programme")
        if programme is not None:
            programme = ids.name(programme, "programme")
        lines = _lines(names["lines"])
        discount_minor = strict_json.integer(names.get("discount_minor", 0), "discount_minor")
        lines = spread_discount(lines, discount_minor)
        if "pin_request" in names:
            pin_request = ids.reference(names["pin_request"], "pin_request")
            return json_response(counter.offer_after_pin(checkout, pin_request, lines, programme))
        return json_response(counter.offer(checkout, _code(names["code"]), lines, programme))

    @routes.post("/redemptions")
    def redeem() -> Response:
        names = strict_json.exact_names(
            json_body(request), {"offer", "checkout", "cashier"}, where="body"
        )
        checkout = ids.label(names["checkout"], "checkout")
        cashier = ids.label(names["cashier"], "cashier")
        if names["offer"] is None:
            raise Problem("nothing_offered")
        offer_id = ids.reference(names["offer"], "offer")
        return _told(counter, checkout, counter.redeem(offer_id, checkout, cashier))

    @routes.get("/checkouts/<checkout>")
    def checkout_state(checkout: str) -> Response:
        return json_response(counter.sale_with_attempts(ids.label(checkout, "checkout")))

    @routes.post("/checkouts/<checkout>/retry")
    def retry(checkout: str) -> Response:
        empty_body(request)
        return json_response(counter.retry(checkout))

    @routes.post("/checkouts/<checkout>/cancel")
    def cancel(checkout: str) -> Response:
        empty_body(request)
        return json_response(counter.cancel(checkout))

    @routes.post("/checkouts/<checkout>/accept")
    def accept(checkout: str) -> Response:
        empty_body(request)
        return _told(counter, checkout, counter.accept(checkout))

    @routes.post("/checkouts/<checkout>/goods")
    def goods(checkout: str) -> Response:
        names = strict_json.exact_names(json_body(request), {"handed_over"}, where="body")
        handed_over = strict_json.boolean(names["handed_over"], "handed_over")
        return json_response(counter.answer_goods(checkout, handed_over=handed_over))

    @routes.post("/checkouts/<checkout>/void")
    def void(checkout: str) -> Response:
        return json_response(taking_back.void(counter, checkout, json_body(request)))

    @routes.post("/returns")
    def returnable() -> Response:
        return json_response(taking_back.returnable(counter, json_body(request)))

    @routes.post("/refunds")
    def refund() -> Response:
        return json_response(taking_back.refund(counter, json_body(request)))

    @routes.get("/corrections/<receipt_no>")
    def read_correction(receipt_no: str) -> Response:
        return json_response(counter.correction(receipt_no))

    @routes.post("/corrections/<receipt_no>/seen")
    def correction_seen(receipt_no: str) -> Response:
        empty_body(request)
        return json_response(counter.undo_seen(receipt_no))

    @routes.post("/allotments/return")
    def give_back() -> Response:
        names = strict_json.names_within(
            json_body(request), required=frozenset(), optional={"code", "pin_request"}, where="body"
        )
        if ("code" in names) == ("pin_request" in names):
            raise Malformed("needs code or pin_request, one of them", field="body")
        if "pin_request" in names:
            pin_request = ids.reference(names["pin_request"], "pin_request")
            return json_response(counter.give_back(None, pin_request))
        code = _code(names["code"])
        if code is None:
            raise Malformed("must be what was scanned", field="code")
        return json_response(counter.give_back(code, None))

    @routes.get("/receipts/<receipt_no>")
    def read_receipt(receipt_no: str) -> Response:
        found = counter.receipt(receipt_no)
        wanted = request.accept_mimetypes.best_match(["application/json", "text/plain"])
        if wanted == "text/plain":
            return Response(found["text"], content_type="text/plain; charset=utf-8")
        return json_response(found)

    @routes.post("/receipts/<receipt_no>/print")
    def print_receipt(receipt_no: str) -> Response:
        empty_body(request)
        return json_response(counter.reprint(receipt_no), 202)

    return routes


def _told(counter: Counter, checkout: str, sale: dict[str, Any]) -> Response:
    """The answer; once it is out, the goods of a sale accepted without the ledger have left. One
    that never got out is asked about after a restart."""
    answer = json_response(sale)
    if sale["state"] == "accepted":
        answer.call_on_close(lambda: counter.seen(checkout))
    return answer


def _code(value: object) -> str | None:
    """As scanned: an empty scan is an answer too. None for what the device holds."""
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_SCANNED):
        raise Malformed(f"must be at most {MAX_SCANNED} characters, or null", field="code")
    return value


def _lines(value: object) -> tuple[Line, ...]:
    """The basket as registers have it: any GTIN as printed, descriptions with anything in them."""
    if not isinstance(value, list) or len(value) > MAX_LINES:
        return lines_from_json(value, "lines")
    return lines_from_json([_line(n, line) for n, line in enumerate(value, 1)], "lines")


def _line(number: int, line: object) -> Any:
    if not isinstance(line, dict):
        return line
    made = dict(line)
    key, description = line.get("key"), line.get("description")
    if isinstance(key, str) and _SHORT_GTIN.fullmatch(key):
        try:
            made["key"] = normalise_gtin(key)
        except Malformed:
            raise Malformed("the check digit is wrong", field=f"lines[{number}].key") from None
    if isinstance(description, str):
        # Only shown, never recorded: a tab in a product's name must not stop a sale.
        made["description"] = paper_text.scrub(description, 96)
    return made
