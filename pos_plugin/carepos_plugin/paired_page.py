"""A page of the plugin for a screen beside the register: its files, and the one-time link to it.

GET  PREFIX, PREFIX/PART.js, PREFIX/PART.css   the page; nothing of a sale is in it
POST PREFIX/pair       the code of a one-time link → this page's secret

POST /api/NAME/link    a new one-time link
POST /api/NAME/forget  no page is connected any more

The second two are for the shop's own computer, with the register's secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Final

from flask import Blueprint, Response, request

from carepos import strict_json
from carepos_plugin.http import empty_body, json_body, json_response
from carepos_plugin.pad_link import PadLink

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class PairedPage:
    """`prefix`: where it is. `file`: its three files in this package, without their ending; `part`:
    what two of them are called where it is. `name`: of the page in the register's API."""

    prefix: str
    file: str
    part: str
    name: str

    @property
    def open(self) -> frozenset[str]:
        """What is answered without a secret: the page, which holds nothing, and the link."""
        parts = ("", f"/{self.part}.js", f"/{self.part}.css", "/pair")
        return frozenset(self.prefix + part for part in parts)

    def blueprint(self, link: PadLink) -> Blueprint:
        """The page and its pairing; whatever it asks goes into the same blueprint."""
        routes = Blueprint(self.file, __name__, url_prefix=self.prefix)

        @routes.get("")
        def html() -> Response:
            return self._file("html", "text/html")

        @routes.get(f"/{self.part}.js")
        def script() -> Response:
            return self._file("js", "text/javascript")

        @routes.get(f"/{self.part}.css")
        def style() -> Response:
            return self._file("css", "text/css")

        @routes.post("/pair")
        def pair() -> Response:
            names = strict_json.exact_names(json_body(request), {"code"}, where="body")
            code = strict_json.text(names["code"], "code", high=64)
            return json_response({"secret": link.pair(code)})

        return routes

    def register_side(self, link: PadLink, url: str) -> Blueprint:
        """What `carepos till …` asks; `url` is the plugin's, as the page's screen sees it."""
        routes = Blueprint(f"{self.file}_link", __name__, url_prefix=f"/api/{self.name}")

        @routes.post("/link")
        def new_link() -> Response:
            empty_body(request)
            return json_response({"link": f"{url}{self.prefix}#{link.new_link()}"}, 201)

        @routes.post("/forget")
        def forget() -> Response:
            empty_body(request)
            link.forget()
            return json_response({"paired": False})

        return routes

    def _file(self, ending: str, kind: str) -> Response:
        data = resources.files("carepos_plugin").joinpath(f"{self.file}.{ending}").read_bytes()
        answer = Response(data, content_type=f"{kind}; charset=utf-8")
        answer.headers["Content-Security-Policy"] = _POLICY
        return answer
