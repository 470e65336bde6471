"""Documents of the provider over HTTP: bounded in size and in time, no redirect followed."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import requests

from carepos import strict_json
from carepos.errors import Malformed
from sample_issuer.problems import Problem

MAX_BYTES: Final = 64 * 1024
TOTAL_S: Final = 10.0
READ_S: Final = 3.0


def check_address(url: str, what: str) -> str:
    """`url` if it is https, or http on this very machine. Raises Malformed."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and _is_here(parts.hostname or ""):
        return url
    raise Malformed("must be https:// (http:// only on this machine)", field=what)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def json_document(
    method: str, url: str, *, form: Mapping[str, str] | None = None, total_s: float = TOTAL_S
) -> dict[str, Any]:
    """The JSON object that a 200 answer holds.

    Raises Problem `provider_unreachable` for anything else: another status (a redirect too), no
    JSON, over 64 KiB, more than `total_s` seconds in all.
    """
    until = time.monotonic() + total_s
    try:
        with requests.Session() as session:
            # A .netrc or a proxy variable must not see or reroute sign-ins.
            session.trust_env = False
            with session.request(
                method,
                url,
                data=form,
                headers={"Accept": "application/json"},
                timeout=(READ_S, READ_S),
                allow_redirects=False,
                stream=True,
            ) as answer:
                return strict_json.read_object(_body(answer, until))
    except Malformed as error:
        raise Problem("provider_unreachable", f"its document is {error}") from None
    except Problem:
        raise
    except Exception as error:  # noqa: BLE001
        # requests lets errors of urllib3 out too; their texts can hold the URL with its query.
        raise Problem("provider_unreachable", f"no answer ({type(error).__name__})") from None


def _body(answer: requests.Response, until: float) -> bytes:
    if answer.status_code != 200:
        raise Problem("provider_unreachable", f"answered {answer.status_code}")
    content = bytearray()
    # read1: what has arrived. Waiting for a whole chunk would let a slow answer outlast the limit.
    while chunk := answer.raw.read1(8_192, decode_content=True):
        content += chunk
        if len(content) > MAX_BYTES:
            raise Problem("provider_unreachable", f"its answer is over {MAX_BYTES} bytes")
        if time.monotonic() > until:
            raise Problem("provider_unreachable", "its answer takes too long")
    return bytes(content)
