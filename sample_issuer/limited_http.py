"""Documents of the provider over HTTP: bounded in size and in time, no redirect followed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import requests

from carepos import key_source, strict_json
from carepos.errors import Malformed, Unreachable
from carepos.issuer_keys import MAX_SET_BYTES
from sample_issuer.problems import Problem

TOTAL_S: Final = 10.0
READ_S: Final = 3.0


def get(url: str, *, total_s: float = TOTAL_S) -> dict[str, Any]:
    """The JSON object at `url`, as an issuer's keys are fetched: however slowly it comes, within
    `total_s` seconds or not at all.

    Raises Problem `provider_unreachable`.
    """
    try:
        return _object(key_source.fetch(url, deadline_s=total_s))
    except Unreachable as error:
        raise Problem("provider_unreachable", str(error)) from None


def post(url: str, form: Mapping[str, str], *, total_s: float = TOTAL_S) -> dict[str, Any]:
    """The JSON object that a 200 answer to `form` holds.

    Raises Problem `provider_unreachable` for anything else: another status (a redirect too), no
    JSON, over 64 KiB, a body that takes more than `total_s` seconds.
    """
    until = time.monotonic() + total_s
    try:
        with requests.Session() as session:
            # A .netrc or a proxy variable must not see or reroute sign-ins.
            session.trust_env = False
            with session.post(
                url,
                data=form,
                headers={"Accept": "application/json"},
                timeout=(READ_S, READ_S),
                allow_redirects=False,
                stream=True,
            ) as answer:
                return _object(_body(answer, until))
    except Problem:
        raise
    except Exception as error:  # noqa: BLE001
        # requests lets errors of urllib3 out too; their texts can hold the URL with its query.
        raise Problem("provider_unreachable", f"no answer ({type(error).__name__})") from None


def _object(document: bytes) -> dict[str, Any]:
    try:
        return strict_json.read_object(document)
    except Malformed as error:
        raise Problem("provider_unreachable", f"its document is {error}") from None


def _body(answer: requests.Response, until: float) -> bytes:
    if answer.status_code != 200:
        raise Problem("provider_unreachable", f"answered {answer.status_code}")
    content = bytearray()
    # read1: what has arrived. Waiting for a whole chunk would let a slow answer outlast the limit.
    while chunk := answer.raw.read1(8_192, decode_content=True):
        content += chunk
        if len(content) > MAX_SET_BYTES:
            raise Problem("provider_unreachable", f"its answer is over {MAX_SET_BYTES} bytes")
        if time.monotonic() > until:
            raise Problem("provider_unreachable", "its answer takes too long")
    return bytes(content)
