"""What the shop asks about the till itself: status, settling, the end of the day.

GET  /api/status       what is open and what happens next; ledger, pack, printer
GET  /api/exceptions   the sales that a person must look at
POST /api/exceptions/{receipt_no}/done   one of them was dealt with: off the list, with a note
POST /api/drill        play an outage: what would work, what not
POST /api/settle       do the next thing for everything that is open, now
POST /api/day-close    write the till's Z and send it
POST /api/retain       delete what is past its time
POST /api/answers      take the ledger's answers from a file that was carried here
POST /api/ledger-keys  take the ledger's key set from such a file
POST /api/clock-reset  take the office's word that the ledger's time is right
POST /api/sell-on      take the office's word on what a till lost that was put back
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request

from carepos import Malformed, jws, strict_json, upload_file
from carepos.presentation import MAX_SCANNED
from carepos.receipt import Receipt
from carepos_plugin.counter import Counter
from carepos_plugin.http import empty_body, json_body, json_response
from carepos_plugin.print_queue import Slip
from carepos_plugin.upkeep import Chores


def blueprint(
    counter: Counter,
    chores: Chores,
    status: Callable[[], dict[str, Any]],
    print_drill: Callable[[Receipt], Slip],
) -> Blueprint:
    routes = Blueprint("office", __name__, url_prefix="/api")

    @routes.get("/status")
    def read_status() -> Response:
        return json_response(status())

    @routes.get("/exceptions")
    def read_exceptions() -> Response:
        return json_response(counter.exceptions())

    @routes.post("/exceptions/<receipt_no>/done")
    def tick_off(receipt_no: str) -> Response:
        names = strict_json.exact_names(json_body(request), {"note"}, where="body")
        return json_response(counter.tick_off(receipt_no, names["note"]))

    @routes.post("/drill")
    def drill() -> Response:
        names = strict_json.names_within(
            json_body(request), required=frozenset(), optional={"code", "print"}, where="body"
        )
        code = names.get("code")
        if code is not None and not (isinstance(code, str) and len(code) <= MAX_SCANNED):
            raise Malformed(f"must be at most {MAX_SCANNED} characters, or null", field="code")
        prints = strict_json.boolean(names.get("print", False), "print")
        return json_response(counter.drill(code, None, print_drill if prints else None))

    @routes.post("/settle")
    def settle() -> Response:
        empty_body(request)
        reached = chores()
        now = status()
        still = {name: now[name] for name in ("open", "stored", "corrections")}
        return json_response({"ledger_answered": reached, **still})

    @routes.post("/day-close")
    def close_day() -> Response:
        names = strict_json.names_within(
            json_body(request), required=frozenset(), optional={"business_date"}, where="body"
        )
        day = names.get("business_date")
        if day is not None:
            day = strict_json.text(day, "business_date", high=10)
        return json_response(counter.close_day(day))

    @routes.post("/retain")
    def retain() -> Response:
        empty_body(request)
        visits, receipts = chores.forget()
        return json_response({"visits": visits, "receipts": receipts})

    @routes.post("/answers")
    def take_answers() -> Response:
        names = strict_json.exact_names(json_body(request), {"answers"}, where="body")
        found = strict_json.array(names["answers"], "answers", low=1, high=500)
        for each in found:
            upload_file.check_answer(each)
        return json_response(counter.take_answers(found))

    @routes.post("/ledger-keys")
    def take_ledger_keys() -> Response:
        names = strict_json.exact_names(json_body(request), {"root", "keyset"}, where="body")
        return json_response(counter.take_ledger_keys(names))

    @routes.post("/clock-reset")
    def reset_clock() -> Response:
        names = strict_json.exact_names(json_body(request), {"reset"}, where="body")
        text = names["reset"]
        if not isinstance(text, str):
            raise Malformed("must be a text", field="reset")
        return json_response(counter.reset_clock(text[: jws.MAX_JWS_BYTES + 1]))

    @routes.post("/sell-on")
    def sell_on() -> Response:
        empty_body(request)
        return json_response(counter.sell_on())

    return routes
