"""The register's side of the plugin, in front of things that are not the plugin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sample_merchant.shop import Answer, Declined, Plugin, PluginGone


@contextmanager
def _answering(status: int, body: bytes, location: str = "") -> Iterator[tuple[str, list[str]]]:
    """Something that answers every request so, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>router</html>"), (502, b""), (200, b"[]"), (500, b"null"), (200, b"\xff")],
)
def test_what_is_not_the_plugin_is_no_answer(status: int, body: bytes) -> None:
    """Another program on the port is told as a plugin that is gone, never as a traceback."""
    with _answering(status, body) as (url, _), pytest.raises(PluginGone):
        Plugin(url, "secret").checkout("S1-000001")


def test_the_secret_is_not_carried_elsewhere() -> None:
    """A redirect is not followed: the pairing secret is for the plugin's own address."""
    with _answering(200, b'{"state": "confirmed"}') as (other, asked):
        location = f"{other}/api/checkouts/S1-000001"
        with _answering(307, b"", location) as (url, _), pytest.raises(PluginGone):
            Plugin(url, "secret").checkout("S1-000001")
        assert asked == []


def test_a_problem_of_the_plugin_is_declined_with_its_code() -> None:
    """A problem document is an answer: nothing was redeemed, and why."""
    body = b'{"code": "offer_gone", "detail": ""}'
    with _answering(410, body) as (url, _), pytest.raises(Declined) as declined:
        Plugin(url, "secret").status()
    assert declined.value.code == "offer_gone"


def test_a_refusal_before_any_number_has_none() -> None:
    """The till's own no has no receipt number, and none is made up for it."""
    assert Answer({"state": "refused", "receipt_no": None, "amount_minor": 0}).receipt_no is None
