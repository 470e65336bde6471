"""What every route does the same way: callers, bodies and queries in, answers out (protocol §9)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Set
from typing import Any, Final

from flask import Blueprint, Flask, Request, Response, g, request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from carepos import strict_json
from carepos.errors import Malformed
from carepos_ledger.auth import require_operator
from carepos_ledger.problems import Problem

MAX_BODY_BYTES: Final = 2 * 1024 * 1024

_COUNT = re.compile(r"0|[1-9][0-9]{0,15}")


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
        # A restore takes hours: whoever asks every second would only be in its way.
        response.headers["Retry-After"] = "60" if problem.code == "ledger_healing" else "1"
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


def answer_problems(app: Flask) -> None:
    """Whatever is refused, in whichever blueprint, becomes a problem document."""

    @app.errorhandler(Problem)
    def problem(error: Problem) -> Response:
        return problem_response(error)

    @app.errorhandler(Malformed)
    def malformed(error: Malformed) -> Response:
        return problem_response(error)


def operators_only(
    routes: Blueprint, operator_named: Callable[[str], str | None], *queried: str
) -> None:
    """Let operators in, each as `g.operator`, before anything else is looked at; only the functions
    named in `queried` may be asked with a query. `operator_named` finds an operator by secret."""
    endpoints = {f"{routes.name}.{each}" for each in queried}

    @routes.before_request
    def authorise() -> None:
        g.operator = require_operator(operator_named, request.headers.get("Authorization"))
        if request.endpoint not in endpoints:
            only_query()


def only_query(name: str | None = None) -> str | None:
    """The one value that may stand in the query, if it is there. Raises Malformed for others."""
    given = list(request.args.items(multi=True))
    if not given:
        return None
    if len(given) > 1 or given[0][0] != name:
        raise Malformed(
            "this call takes no query" if name is None else f"only {name} may be asked, once"
        )
    return given[0][1]


def after() -> int:
    """The query's one number, 0 where it is absent. Raises Malformed."""
    given = only_query("after")
    return 0 if given is None else whole_number(given, "after")


def whole_number(text: str, field: str) -> int:
    """Of a query or an address: 0 to 10^16 - 1. Raises Malformed."""
    if _COUNT.fullmatch(text) is None:
        raise Malformed("must be one whole number", field=field)
    return int(text)


def no_body(from_request: Request) -> None:
    """For calls that take none. Raises Malformed when there is one."""
    if from_request.content_length or "Transfer-Encoding" in from_request.headers:
        raise Malformed("this call takes no body")
