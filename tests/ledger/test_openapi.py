"""The machine-readable description is true to the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
from openapi_spec_validator import validate

from carepos.client import Client, Transport
from carepos.keys import SigningKey
from carepos_ledger import openapi
from carepos_ledger.operators import new_secret
from tests.world import World, milk, world

DOCUMENT = openapi.document()


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("openapi")) as made:
        yield made


def test_the_description_is_openapi_3_1() -> None:
    """Anyone's generator can read /openapi.json."""
    validate(DOCUMENT)


def test_every_route_is_described_and_every_description_is_a_route(described: World) -> None:
    """No endpoint is hidden and none is promised in vain."""
    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in described.ledger.wsgi.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    paths = {
        (path, method)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert routes == paths


def _schema_of(path: str, method: str, status: int) -> dict[str, Any]:
    content = DOCUMENT["paths"][path][method]["responses"][str(status)]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return {**schema, "components": DOCUMENT["components"]}


def _check(path: str, method: str, answer: requests.Response) -> None:
    jsonschema.validate(answer.json(), _schema_of(path, method, answer.status_code))


def test_operators_answers_are_as_described(described: World) -> None:
    """What an operator reads validates against the description."""
    secret = new_secret()
    described.ledger.operators.add("auditor", secret)
    described.till("described-till")
    described.family()
    for n in range(2):
        # A programme may hold more than one funding can bring.
        described.ledger.office.fund("flood-dairy", "red-cross", 10**12, f"large-{n}")
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {secret}"
    reads = {
        "/v1/operators/programmes": {},
        "/v1/operators/programmes/{programme}": {"programme": "flood-dairy"},
        "/v1/operators/programmes/{programme}/sums": {"programme": "flood-dairy"},
        "/v1/operators/terminals": {},
        "/v1/operators/alarms": {},
        "/v1/operators/settlements": {},
    }
    for path, names in reads.items():
        answer = session.get(described.url + path.format(**names), timeout=10)
        assert answer.status_code == 200, answer.text
        _check(path, "get", answer)
    closed = session.post(described.url + "/v1/operators/close", json={}, timeout=10)
    _check("/v1/operators/close", "post", closed)
    code = session.post(
        described.url + "/v1/operators/activations",
        json={"store": "zhou-shop", "valid_s": 60},
        timeout=10,
    )
    _check("/v1/operators/activations", "post", code)


def test_tills_answers_are_as_described(described: World, tmp_path: Path) -> None:
    """What a till reads validates against the description: keys, records, packs, attempts."""
    till = described.till("asking-till")
    family = described.family()
    sale = till.redeem(till.propose(family.token(), [milk()]), checkout="D-1", cashier="c01")
    assert sale.state == "confirmed"
    key = SigningKey.load(till.folder / "terminal.key")
    client = Client(
        Transport(described.url),
        terminal=till.enrolment.terminal,
        ledger=till.enrolment.ledger_keys.ledger,
        key=key,
        now=described.now,
    )
    record = till.journal.records("redeem")[-1]
    answers = {
        "/v1/records/{attempt_id}": client._read("GET", f"/v1/records/{record.id}")[0],
        "/v1/vouchers/lookup": client._read(
            "POST", "/v1/vouchers/lookup", body={"token": family.token()}
        )[0],
        "/v1/offline-pack": client._read("GET", "/v1/offline-pack")[0],
        "/v1/settlements": client._read("GET", "/v1/settlements")[0],
        "/v1/records": {"results": client.send([{"record": record.jws}, {"record": "no"}])},
        "/.well-known/jwks.json": requests.get(
            f"{described.url}/.well-known/jwks.json", timeout=10
        ).json(),
    }
    for path, answer in answers.items():
        method = "post" if path in ("/v1/records", "/v1/vouchers/lookup") else "get"
        jsonschema.validate(answer, _schema_of(path, method, 200))
    client.close()


def test_a_problem_is_as_described(described: World) -> None:
    """An error is a problem document of the described shape."""
    answer = requests.post(f"{described.url}/v1/records", data=b"{", timeout=10)
    schema = {**DOCUMENT["components"]["schemas"]["Problem"]}
    jsonschema.validate(answer.json(), schema)
    assert answer.headers["Content-Type"] == "application/problem+json"
