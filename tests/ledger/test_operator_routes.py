"""Operators over HTTP: strict bodies, credentials first, a coded answer to everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from carepos.keys import SigningKey
from carepos_ledger import identity_routes, operator_routes
from carepos_ledger.cards import Cards
from carepos_ledger.http import answer_problems
from carepos_ledger.problems import STATUS
from carepos_ledger.revoking import Revoking
from tests.ledger.relief import (
    ENTRIES,
    IMPORT_KEY_ID,
    ISS,
    RULES,
    Desk,
    item_row,
    open_desk,
    ref,
    value_row,
)


class Web(NamedTuple):
    """A ledger's operator routes and an operator's credentials."""

    desk: Desk
    http: FlaskClient
    secret: str

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        data: bytes | None = None,
        content_type: str = "application/json",
        authorization: str | None = None,
    ) -> TestResponse:
        if data is None and body is not None:
            data = json.dumps(body).encode()
        return self.http.open(
            f"/v1/operators{path}",
            method=method,
            data=data,
            content_type=content_type if data is not None else None,
            headers={"Authorization": authorization or f"Bearer {self.secret}"},
        )


@pytest.fixture
def web(database_url: str, tmp_path: Path) -> Iterator[Web]:
    with open_desk(database_url, tmp_path) as desk:
        desk.settle_in(funded_minor=1_000_000)
        app = Flask(__name__)
        answer_problems(app)
        app.register_blueprint(
            operator_routes.blueprint(desk.operators, desk.programmes, desk.office, desk.terminals)
        )
        app.register_blueprint(
            identity_routes.blueprint(
                desk.operators,
                desk.issuers,
                Revoking(desk.database, desk.clock),
                Cards(desk.database, desk.clock),
                desk.database,
            )
        )
        yield Web(desk, app.test_client(), desk.operator("ops"))


def code_of(answer: TestResponse) -> str:
    """The code of a well-made problem document."""
    assert answer.content_type == "application/problem+json"
    problem = json.loads(answer.data)
    assert problem["status"] == answer.status_code == STATUS.get(problem["code"])
    assert problem["type"] == f"urn:carepos:problem:{problem['code']}"
    assert {"title", "detail"} <= problem.keys()
    return str(problem["code"])


RULES_BODY = {name: value for name, value in RULES.items() if name != "programme"}
JWK = SigningKey.generate().public.to_jwk()

CARD = {"iss": ISS, "jti_sha256": ref(1), "sub": "s", "pin_verifier": ref(2)}

# Every call that takes a body, and a good one for it.
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("PUT", "/issuers", {"iss": "https://new.example", "keys": [JWK]}),
    ("PUT", "/funders/new", {"name": "New"}),
    ("PUT", "/merchants/new", {"name": "New"}),
    ("PUT", "/stores/new", {"merchant": "guzhou", "name": "New"}),
    ("PUT", "/product-lists/new", {"version": 1, "entries": ENTRIES}),
    ("PUT", "/programmes/flood-dairy", {**RULES_BODY, "paused": True}),
    (
        "POST",
        "/programmes/flood-dairy/funds",
        {"funder": "red-cross", "amount_minor": 5, "reference": "T-9"},
    ),
    (
        "POST",
        "/programmes/flood-dairy/issue",
        {"import_key_id": IMPORT_KEY_ID, "rows": [value_row(7)]},
    ),
    ("POST", "/programmes/flood-dairy/freeze", {"ref": ref(1), "frozen": True}),
    ("POST", "/activations", {"store": "guzhou-1", "valid_s": 3600}),
    ("PUT", "/terminals/t-1/status", {"status": "suspended"}),
    ("PUT", "/issuers", {"iss": ISS, "jwks_url": "http://127.0.0.1:1/"}),
    ("POST", "/issuers/refresh", {"iss": ISS}),
    ("POST", "/issuers/confirm", {"iss": ISS, "thumbprints": [JWK["kid"]]}),
    ("POST", "/revocations/keys", {"iss": ISS, "kid": "k", "reason": "lost"}),
    ("POST", "/revocations/tokens", {"iss": ISS, "jti_sha256": ref(1), "reason": "lost"}),
    ("PUT", "/cards", CARD),
    ("POST", "/cards", {"cards": [CARD]}),
    ("POST", "/cards/unlock", {"iss": ISS, "jti_sha256": ref(1)}),
]  # fmt: skip


def is_fine(name: str, value: object) -> bool:
    """Whether an odd value is after all a good one under `name`, by docs/protocol.md §1."""
    whole = type(value) is int
    if name in ("name", "label", "iss"):
        low, high = {"name": (1, 80), "label": (0, 60), "iss": (1, 200)}[name]
        fits = isinstance(value, str) and low <= len(value) <= high and value.isprintable()
        return fits and (name != "iss" or str(value).isascii())
    if name in ("paused", "top_up_allowed", "frozen"):
        return isinstance(value, bool)
    if name in ("amount_minor", "limit_per_redemption_minor", "version", "quantity"):
        return (whole and value in (1, 7)) or (name.startswith("limit") and value is None)
    if name == "undo_window_s":
        return whole and value in (0, 1, 7)
    if name in ("amr_any", "quotas", "categories"):
        return value == []
    if name in ("kid", "reason"):
        most = 64 if name == "kid" else 200
        fits = isinstance(value, str) and 1 <= len(value) <= most and value.isprintable()
        return fits and (name != "kid" or str(value).isascii())
    return name == "reference" and value in ("x", "-")


READS = [
    "/issuers",
    "/revocations",
    "/programmes/flood-dairy/acted",
    "/programmes",
    "/programmes/flood-dairy",
    "/programmes/flood-dairy/sums",
    "/terminals",
]
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**53 - 1, 2**63, "", "x", "x" * 200, "x" * 5_000, "a\x00b",
    "\x7f", "１２３", "-", "../..", [], {}, [[]], [None], [1], {"a": 1}, ["x"] * 600,
]  # fmt: skip


def test_every_call_does_its_work(web: Web) -> None:
    """An operator's whole day over HTTP: created is 201, repeated is 200 and changes nothing."""
    steps: list[tuple[str, str, object, int]] = [
        ("PUT", "/issuers", {"iss": "https://new.example", "keys": [JWK]}, 201),
        ("PUT", "/funders/new", {"name": "新基金"}, 201),
        ("PUT", "/merchants/new", {"name": "New"}, 201),
        ("PUT", "/stores/new-1", {"merchant": "new", "name": "New 1"}, 201),
        ("PUT", "/product-lists/new", {"version": 1, "entries": ENTRIES}, 201),
        ("PUT", "/programmes/new", {**RULES_BODY, "product_list": "new"}, 201),
        ("PUT", "/programmes/new/stores/new-1", None, 201),
        ("POST", "/programmes/new/funds",
         {"funder": "new", "amount_minor": 50_000, "reference": "T-1"}, 201),
        ("POST", "/programmes/new/issue",
         {"import_key_id": IMPORT_KEY_ID, "rows": [value_row(1), item_row(2, 500)]}, 200),
        ("POST", "/programmes/new/freeze", {"ref": ref(1), "frozen": True}, 200),
    ]  # fmt: skip
    for method, path, body, status in steps:
        answer = web.send(method, path, body)
        assert (path, answer.status_code) == (path, status), answer.data
    before = web.desk.tables()
    for method, path, body, _ in steps:
        answer = web.send(method, path, body)
        assert (path, answer.status_code) == (path, 200), answer.data
        if "results" in json.loads(answer.data):
            found = [row["result"] for row in json.loads(answer.data)["results"]]
            assert found == ["already_issued"] * 2
        else:
            assert json.loads(answer.data)["result"] == "exists"
    assert web.desk.tables() == before
    sums = json.loads(web.send("GET", "/programmes/new/sums").data)
    assert (sums["funded_minor"], sums["issued_minor"], sums["differences"]) == (50_000, 37_000, [])
    programmes = json.loads(web.send("GET", "/programmes").data)["programmes"]
    assert [each["programme"] for each in programmes] == ["flood-dairy", "new"]
    assert programmes[1]["stores"] == ["new-1"]
    answer = web.send("POST", "/activations", {"store": "new-1", "valid_s": 3600})
    assert answer.status_code == 201
    assert json.loads(answer.data)["activation"].startswith("cp1.")
    assert json.loads(web.send("GET", "/terminals").data) == {"terminals": []}
    assert json.loads(web.send("GET", "/alarms?after=0").data) == {"alarms": []}
    answer = web.send("DELETE", "/programmes/new/stores/new-1")
    assert json.loads(answer.data) == {"result": "changed", "rules_version": 3}


def test_credentials_come_first(web: Web) -> None:
    """Without an operator's secret every call is 401, whatever its body, and changes nothing."""
    before = web.desk.tables()
    for wrong in ("Bearer x", "Basic eDp4", f"Bearer {web.secret}x", f"bearer {web.secret}", "é"):
        for method, path, body in CALLS:
            answer = web.send(method, path, body, authorization=wrong)
            assert (path, code_of(answer)) == (path, "unauthorised")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for path in [*READS, "/alarms"]:
            assert code_of(web.send("GET", path, authorization=wrong)) == "unauthorised"
        assert code_of(web.send("PUT", "/funders/n", data=b"{", authorization=wrong)) == (
            "unauthorised"
        )
    assert web.desk.tables() == before


def test_hostile_bodies_change_nothing(web: Web) -> None:
    """T-15: NaN, floats, duplicate names, deep nesting, other encodings, unknown and missing names
    get a coded 4xx on every call and leave every table as it was."""
    before = web.desk.tables()
    for method, path, body in CALLS:
        good = json.dumps(body)
        name = next(iter(body))
        bodies = [
            b"", b"{", b"[]", b"null", b'"x"', b"7", b"\xff\xfe{\x00}\x00", good.encode("utf-16"),
            b"\xef\xbb\xbf" + good.encode(), good.encode() + b"x",
            good[:-1].encode() + b',"unknown":1}',
            good[:-1].encode() + f',{json.dumps(name)}:{json.dumps(body[name])}}}'.encode(),
            b'{"a":' * 40 + b"1" + b"}" * 40, b"[" * 100_000,
            b'{"' + name.encode() + b'":"\\ud800"}',
        ]  # fmt: skip
        bodies += [
            json.dumps({k: v for k, v in body.items() if k != gone}).encode() for gone in body
        ]
        bodies += [
            good.replace(json.dumps(body[n]), literal, 1).encode()
            for n in body
            for literal in ("NaN", "Infinity", "1.0", "1e3", "-0.0", "9" * 5_000, "1" + "0" * 16)
        ]
        for data in bodies:
            answer = web.send(method, path, data=data)
            assert (path, data[:80], code_of(answer)) == (path, data[:80], "malformed")
    assert web.desk.tables() == before


def test_odd_values_change_nothing(web: Web) -> None:
    """T-15: a value of another type or range under any name of any call is a coded 4xx that leaves
    every table as it was."""
    web.desk.office.issue("flood-dairy", IMPORT_KEY_ID, [value_row(1)])
    before = web.desk.tables()
    tried = 0
    for method, path, body in CALLS:
        for name in body:
            for value in ODD:
                if is_fine(name, value) or (name, value) == ("version", 2**53 - 1):
                    continue
                answer = web.send(method, path, {**body, name: value})
                place = (path, name, repr(value)[:40])
                assert (*place, code_of(answer)) in (
                    (*place, "malformed"),
                    (*place, "not_found"),
                )
                tried += 1
    assert tried > 600
    assert web.desk.tables() == before


def test_odd_rows_change_nothing(web: Web) -> None:
    """T-15: odd values inside a row of a bulk issue refuse the chunk, its good row too."""
    before = web.desk.tables()
    for row in (value_row(1), item_row(1, 500)):
        for name in row:
            for value in ODD:
                if is_fine(name, value):
                    continue
                rows = [value_row(2), {**row, name: value}]
                answer = web.send(
                    "POST",
                    "/programmes/flood-dairy/issue",
                    {"import_key_id": IMPORT_KEY_ID, "rows": rows},
                )
                place = (name, repr(value)[:40])
                assert (*place, code_of(answer)) == (*place, "malformed")
    assert web.desk.tables() == before


def test_other_media_and_large_bodies(web: Web) -> None:
    """Only application/json is read (415), and at most 2 MiB of it (413)."""
    before = web.desk.tables()
    for method, path, body in CALLS:
        data = json.dumps(body).encode()
        for other in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            answer = web.send(method, path, data=data, content_type=other)
            assert code_of(answer) == "unsupported_media_type"
        padded = data + b" " * (2 * 2**20 - len(data) + 1)
        assert code_of(web.send(method, path, data=padded)) == "too_large"
    assert web.desk.tables() == before


def test_odd_addresses(web: Web) -> None:
    """Names in an address are judged like names in a body; a body where none belongs, a query
    nobody reads, an odd `after`: coded 4xx."""
    before = web.desk.tables()
    for name in ("UPPER", "-", "a%00b", "%E5%8E%BF", "a" * 41, "%2e%2e", "a b"):
        for method, path, body in CALLS:
            if path.count("/") < 2 or path.startswith(("/issuers", "/revocations", "/cards")):
                continue
            _, collection, _, *rest = path.split("/")
            odd = "/".join(["", collection, name, *rest])
            assert (odd, code_of(web.send(method, odd, body))) == (odd, "malformed")
        for rest_of_it in ("", "/sums", "/acted"):
            answer = web.send("GET", f"/programmes/{name}{rest_of_it}")
            assert code_of(answer) == "malformed"
        for method in ("PUT", "DELETE"):
            answer = web.send(method, f"/programmes/flood-dairy/stores/{name}")
            assert code_of(answer) == "malformed"
    assert code_of(web.send("PUT", "/programmes/flood-dairy/stores/guzhou-1", {})) == "malformed"
    assert code_of(web.send("GET", "/terminals?x=1")) == "malformed"
    for after in ("-1", "1.0", "x", "%D9%A1", "01", "2147483648", "9" * 40, "", "1&after=2"):
        for path in ("/alarms", "/revocations", "/programmes/flood-dairy/acted"):
            answer = web.send("GET", f"{path}?after={after}")
            assert (path, after, code_of(answer)) == (path, after, "malformed")
    for path in ("/programmes/nothing", "/programmes/nothing/sums", "/programmes/nothing/acted"):
        assert code_of(web.send("GET", path)) == "not_found"
    assert web.desk.tables() == before


def test_too_little_money_is_said_in_numbers(web: Web) -> None:
    """not_funded tells how much is needed and how much is there, for programs and for people."""
    rows = [value_row(1, 1_000_001)]
    answer = web.send(
        "POST",
        "/programmes/flood-dairy/issue",
        {"import_key_id": IMPORT_KEY_ID, "rows": rows},
    )
    assert code_of(answer) == "not_funded"
    problem = json.loads(answer.data)
    assert (problem["needed_minor"], problem["unreserved_minor"]) == (1_000_001, 1_000_000)
    assert "10000.01 CNY" in problem["detail"]


def test_an_issuers_private_key_is_not_taken(web: Web) -> None:
    """A JWK with its private part, or that is no signing key, is refused and not stored."""
    before = web.desk.tables()
    for extra in ({"d": "A" * 43}, {"use": "enc"}, {"alg": "RS256"}, {"crv": "X25519"}):
        answer = web.send("PUT", "/issuers", {"iss": ISS, "keys": [{**JWK, **extra}]})
        assert code_of(answer) == "malformed"
        assert b"A" * 43 not in answer.data
    assert web.desk.tables() == before
