"""The second ledger over HTTP, as docs/protocol.md section 9 has it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.second_attempts import Terminal
from tests.second_ledger import SecondLedger
from tests.second_loss import offer
from tests.second_problems import Problem, is_any, is_text
from tests.second_reading import caller, reader
from tests.second_rules import DIGEST, ID, each, either, exactly, text
from tests.second_signing import Bad, Json, canonical, strict_json, unb64

BODY_LIMIT = 2 * 1024 * 1024
INCARNATION = text(r"[0-9a-f]{32}")
_WHILE_HEALING = ("/.well-known/jwks.json", "/v1/heal", "/v1/heal/pack")
RECEIPT_NO, RECEIPT_CODE = text(r"[0-9]{4,}-[0-9]{6,}-[0-9]"), text(r"[A-Z2-7]{16}")


def is_null(value: object) -> bool:
    return value is None


def flask_app(ledger: SecondLedger) -> Flask:
    """Section 9 over HTTP."""
    app = Flask("second_ledger")

    def answer(value: Mapping[str, Any], status: int = 200, kind: str = "json") -> Response:
        return Response(canonical(value), status, content_type=f"application/{kind}")

    def reading() -> tuple[Terminal, str, str]:
        path = request.full_path if request.query_string else request.path
        bearer = request.headers.get("Authorization", "")
        return reader(ledger, bearer, request.method, path, request.get_data())

    def body() -> Json:
        if request.mimetype != "application/json":
            raise Problem("unsupported_media_type")
        if (request.content_length or 0) > BODY_LIMIT:
            raise Problem("too_large")
        value = strict_json(request.get_data())
        if not isinstance(value, dict):
            raise Problem("malformed")
        return value

    @app.errorhandler(Problem)
    def problem(failure: Problem) -> Response:
        return answer(failure.document, failure.status, "problem+json")

    @app.errorhandler(Bad)
    def bad(failure: Bad) -> Response:
        return problem(Problem(failure.code))

    @app.errorhandler(HTTPException)
    def http(failure: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(failure.code or 0, "malformed")
        return problem(Problem(code, failure.code))

    @app.get("/.well-known/jwks.json")
    def keys() -> Response:
        return answer(ledger.key_set())

    @app.before_request
    def healing() -> Response | None:
        shared = request.method == "GET" and request.path.startswith("/v1/offline-pack")
        if not ledger.heal.healing or shared or request.path in _WHILE_HEALING:
            return None
        found = problem(Problem("ledger_healing"))
        found.headers["Retry-After"] = "30"
        return found

    @app.post("/v1/heal")
    def heal() -> Response:
        said = body()
        shape = {
            "incarnation": INCARNATION,
            "after": lambda value: type(value) is int and value >= 0,
            "last": lambda value: type(value) is int and value >= 0,
            "certificates": each(1, 40, is_any),
            "items": each(0, 500, exactly(record=is_text, outcome=is_text)),
            "complete": lambda value: isinstance(value, bool),
        }
        if not exactly(**shape)(said):
            raise Problem("malformed")
        bearer = request.headers.get("Authorization", "")
        read = request.path, request.get_data()
        return answer(offer(ledger, said, lambda keys: caller(ledger, bearer, *read, keys)))

    @app.post("/v1/terminals")
    def enrol() -> Response:
        return answer(ledger.enrol(body()), 201)

    @app.post("/v1/vouchers/lookup")
    def lookup() -> Response:
        said = body()
        terminal, jti, _ = reading()
        wanted = {"token": is_text, **({"pin_proof": DIGEST} if "pin_proof" in said else {})}
        if not exactly(**wanted)(said):
            raise Problem("malformed")
        proof = unb64(said["pin_proof"]) if "pin_proof" in said else None
        return answer(ledger.lookup(terminal, jti, said["token"], proof))

    @app.post("/v1/records")
    def records() -> Response:
        said = body()
        if not exactly(items=each(1, 500, is_any))(said):
            raise Problem("malformed", field="items")
        return answer({"results": ledger.records(said["items"])})

    @app.get("/v1/records/<identifier>")
    def record(identifier: str) -> Response:
        terminal, jti, _ = reading()
        if not ID(identifier):
            raise Problem("malformed", field="id")
        return answer(ledger.attempt(terminal, jti, identifier))

    @app.post("/v1/sales/find")
    def find() -> Response:
        said = body()
        terminal, jti, _ = reading()
        if not exactly(receipt_no=RECEIPT_NO, code=either(RECEIPT_CODE, is_null))(said):
            raise Problem("malformed")
        return answer(ledger.find_sale(terminal, jti, said["receipt_no"], said["code"]))

    @app.get("/v1/terminal")
    def terminal() -> Response:
        who, _, kid = reading()
        return answer(ledger.certificate(who, kid))

    @app.get("/v1/offline-pack")
    def pack() -> Response:
        terminal, *_ = reading()
        sha256, manifest = ledger.pack_manifest(terminal)
        if request.headers.get("If-None-Match") == f'"{sha256}"':
            return Response(status=304, headers={"ETag": f'"{sha256}"'})
        found = answer({"manifest": manifest})
        found.headers["ETag"] = f'"{sha256}"'
        return found

    @app.post("/v1/offline-pack")
    def household_pack() -> Response:
        said = body()
        terminal, *_ = reading()
        if not exactly(incarnation=INCARNATION)(said):
            raise Problem("malformed")
        sha256, manifest = ledger.household_pack(terminal, said["incarnation"])
        found = answer({"manifest": manifest})
        found.headers["ETag"] = f'"{sha256}"'
        return found

    @app.get("/v1/offline-pack/<sha256>")
    def pack_file(sha256: str) -> Response:
        file = ledger.pack_file(reading()[0], sha256)
        return Response(file, content_type="application/json")

    @app.get("/v1/settlements")
    def settlements() -> Response:
        terminal, *_ = reading()
        after, _, number = request.args.get("after", ":0").partition(":")
        if not number.isascii() or not number.isdigit():
            raise Problem("malformed", field="after")
        found = [
            {"programme": programme, "batch_no": batch_no, "manifest": manifest}
            for (merchant, programme), batches in sorted(ledger.settlement.batches.items())
            for batch_no, (manifest, _) in enumerate(batches, 1)
            if merchant == terminal.merchant and (programme, batch_no) > (after, int(number))
        ]
        return answer({"settlements": found})

    @app.get("/v1/settlements/<programme>/<int:batch_no>")
    def settlement(programme: str, batch_no: int) -> Response:
        terminal, *_ = reading()
        batches = ledger.settlement.batches.get((terminal.merchant, programme), [])
        if not 1 <= batch_no <= len(batches):
            raise Problem("not_found")
        return Response(batches[batch_no - 1][1], content_type="text/csv; charset=utf-8")

    return app


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@contextmanager
def served(ledger: SecondLedger) -> Iterator[str]:
    """The ledger on a free port of loopback: its URL."""
    server = make_server("127.0.0.1", 0, flask_app(ledger), threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
