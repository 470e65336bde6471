"""Bodies in, answers out: what every route does the same way."""

from __future__ import annotations

import json
from typing import Any, Final

from flask import Request, Response
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from carepos import strict_json
from carepos.errors import Malformed
from carepos_plugin.problems import Problem

MAX_BODY_BYTES: Final = 64 * 1024
"""Forty lines with long descriptions are a fifth of it."""


def json_response(document: object, status: int = 200) -> Response:
    """`document` as `application/json`; Chinese stays readable."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return Response(body, status=status, content_type="application/json")


def problem_response(problem: Problem) -> Response:
    """`application/problem+json` (RFC 9457)."""
    response = json_response(problem.to_json(), problem.status)
    response.content_type = "application/problem+json"
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = "CarePOS-Pairing"  # RFC 9110 §11.6.1 asks for one
    if problem.status == 503:
        response.headers["Retry-After"] = "5"
    return response


def json_body(request: Request) -> dict[str, Any]:
    """The request's body as one strict JSON object. Raises Problem (too_large) and Malformed."""
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise Problem("too_large", f"at most {MAX_BODY_BYTES} bytes") from None
    except BadRequest:
        # The connection ended before the length it had announced.
        raise Malformed("the body is not complete") from None
    return strict_json.read_object(body)


def empty_body(request: Request) -> None:
    """For calls that need nothing but `{}`. Raises as `json_body`."""
    strict_json.exact_names(json_body(request), frozenset(), where="body")
