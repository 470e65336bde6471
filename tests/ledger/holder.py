"""A beneficiary with a browser, over real HTTP: what comes back, and the forms that are in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import requests

from tests.world import AUDIENCE, Family, World

SELF = f"{AUDIENCE}:self"
COOKIE = "carepos-me"


class _Reader(HTMLParser):
    """Text as it is read out, links, forms; `problems` are tags that do not close."""

    VOID = frozenset({"meta", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: dict[str, str] = {}
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.problems: list[str] = []
        self._link = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name: value or "" for name, value in attrs}
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "a":
            self._link = names["href"]
        if tag == "form":
            self.forms.append((names["action"], {}))
        if tag == "input" and names["type"] == "hidden":
            self.forms[-1][1][names["name"]] = names["value"]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)
        if tag == "a":
            self._link = ""

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title") and data.strip():
            self.text.append(" ".join(data.split()))
            if self._link:
                self.links.setdefault(self.text[-1], self._link)


@dataclass
class Page:
    answer: requests.Response

    def __post_init__(self) -> None:
        self._reader = _Reader()
        self._reader.feed(self.answer.text)
        assert not self._reader.problems and not self._reader.open, self._reader.problems

    @property
    def status(self) -> int:
        return self.answer.status_code

    @property
    def text(self) -> str:
        return "\n".join(self._reader.text)

    @property
    def links(self) -> dict[str, str]:
        """Addresses by the words of the link."""
        return self._reader.links

    @property
    def use_links(self) -> list[str]:
        return sorted(
            set(re.findall(r'href="(/me/[a-z]+/uses/[^"/]+)"', self.answer.text)),
            key=self.answer.text.index,
        )

    def form(self, ending: str) -> tuple[str, dict[str, str]]:
        """(address, hidden fields) of the form whose address ends so."""
        [found] = [each for each in self._reader.forms if each[0].endswith(ending)]
        return found


@dataclass
class Browser:
    """Keeps cookies as a browser does; every answer's headers are looked at."""

    world: World
    language: str = "en"
    http: requests.Session = field(default_factory=requests.Session)

    def get(self, path: str, **more: object) -> Page:
        return self._ask("GET", path, **more)

    def post(self, path: str, fields: object = None, **more: object) -> Page:
        if isinstance(fields, bytes):
            more["headers"] = {
                "Content-Type": "application/x-www-form-urlencoded",
                **more.get("headers", {}),  # type: ignore[dict-item]  # tests give dicts
            }
        return self._ask("POST", path, data=fields, **more)

    def _ask(self, method: str, path: str, **more: object) -> Page:
        headers = {"Accept-Language": self.language, **more.pop("headers", {})}  # type: ignore[dict-item]  # tests give dicts
        answer = self.http.request(
            method,
            self.world.url + path,
            headers=headers,
            timeout=20,
            **more,  # type: ignore[arg-type]  # as requests takes them
        )
        check_headers(answer)
        return Page(answer)

    def sign_in(self, family: Family, **changes: object) -> Page:
        """With a fresh token for the pages, as the issuer's app posts it."""
        text = self_token(family, **changes)
        return self.post("/me", {"token": text})

    def mine(self) -> Page:
        return self.get(f"/me/{self.language}")

    def submit(self, page: Page, ending: str, **more: str) -> Page:
        address, fields = page.form(ending)
        return self.post(address, {**fields, **more})


def self_token(family: Family, **changes: object) -> str:
    return family.token(**{"aud": SELF, **changes})


def check_headers(answer: requests.Response) -> None:
    """What every page must say, whatever it is."""
    for each in [answer, *answer.history]:
        found = each.headers
        assert found["Cache-Control"] == "no-store"
        assert found["Referrer-Policy"] == "same-origin"
        assert found["X-Content-Type-Options"] == "nosniff"
        assert found["X-Frame-Options"] == "DENY"
        policy = found["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy and "http" not in policy
        assert "form-action 'self'; base-uri 'none'; frame-ancestors 'none'" in policy
        if each.text:
            assert found["Content-Type"] == "text/html; charset=utf-8"
            for word in ("<script", "http://", "https://", "<img", "<link", "<iframe", "@import"):
                assert word not in each.text.lower(), word
