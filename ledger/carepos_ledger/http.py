"""Bodies in, answers out: the two things every route does the same way (docs/protocol.md §9)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any, Final

from flask import Request, Response, request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from carepos import strict_json
from carepos.errors import Malformed
from carepos_ledger.problems import Problem

MAX_BODY_BYTES: Final = 2 * 1024 * 1024


def json_response(document: object, status: int = 200) -> Response:
    """`document` as `application/json`; non-ASCII text stays readable."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return Response(body, status=status, content_type="application/json")


def problem_response(problem: Problem | Malformed) -> Response:
    """`application/problem+json` (RFC 9457) for what was not decided."""
    if isinstance(problem, Malformed):
        problem = Problem.of(problem)
    response = json_response(problem.to_json(), problem.status)
    response.content_type = "application/problem+json"
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 §11.6.1 asks for it
    if problem.status == 503:
        response.headers["Retry-After"] = "1"
    return response


def json_body(from_request: Request, limit_bytes: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """The request's body as one strict JSON object; its `get_data()` gives the bytes again.

    Raises Problem (`unsupported_media_type`, `too_large`) and Malformed.
    """
    if from_request.mimetype != "application/json":
        raise Problem("unsupported_media_type")
    from_request.max_content_length = limit_bytes
    try:
        body = from_request.get_data(cache=True)
    except RequestEntityTooLarge:
        raise Problem("too_large", f"at most {limit_bytes} bytes") from None
    except BadRequest:
        # The connection ended before the length it had announced.
        raise Malformed("the body is not complete") from None
    return strict_json.read_object(body)


def body_names(*names: str, optional: Set[str] = frozenset()) -> dict[str, Any]:
    """The current request's values, if its body has exactly these names; their types are not
    judged here."""
    return strict_json.names_within(
        json_body(request), required=set(names), optional=optional, where="body"
    )


def done_response(result: str, more: Mapping[str, object] | None = None) -> Response:
    """What PUT and POST of an operator answer: 201 for `created`, else 200."""
    return json_response({"result": result, **(more or {})}, 201 if result == "created" else 200)


def no_body(from_request: Request) -> None:
    """For calls that take none. Raises Malformed when there is one."""
    if from_request.content_length or "Transfer-Encoding" in from_request.headers:
        raise Malformed("this call takes no body")
