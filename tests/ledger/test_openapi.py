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
from tests.key_server import key_server
from tests.ledger.test_allotments import OFFLINE
from tests.ledger.test_holder_pages import buy, dispute, operator, signed_in
from tests.world import ISSUER, PROGRAMME, World, milk, world

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
        "/v1/operators/issuers": {},
        "/v1/operators/revocations": {},
        "/v1/operators/programmes/{programme}/acted": {"programme": "flood-dairy"},
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


def test_what_operators_do_about_people_is_as_described(described: World) -> None:
    """Counting, telling, erasing, deleting what is past its time."""
    family, http = described.family(), operator(described)
    person = {"iss": ISSUER, "sub": family.sub}
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("/people/export", {"person": person}),
        ("/people/erase", {"person": person, "forfeit": False, "dry_run": True}),
        ("/people/erase", {"person": person, "forfeit": True, "dry_run": False}),
        ("/retention", {"from_bucket": 0, "dry_run": True}),
        ("/retention", {"from_bucket": 4095, "dry_run": False}),
    ]
    for name, body in wanted:
        path = f"/v1/operators{name}"
        answer = http.post(described.url + path, json=body, timeout=20)
        assert answer.status_code == 200, (path, answer.text)
        _check(path, "post", answer)


def test_what_operators_send_about_identity_is_as_described(described: World) -> None:
    """A body that the description allows is taken, and the answer to it validates."""
    secret = new_secret()
    described.ledger.operators.add("identity", secret)
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {secret}"
    family = described.family()
    card = {"iss": ISSUER, "jti_sha256": "j" * 43, "sub": family.sub, "pin_verifier": "v" * 43}
    named = {"iss": ISSUER, "jti_sha256": "j" * 43}
    with key_server() as keys:
        keys.publishes(described.issuer_key)
        wanted: list[tuple[str, str, dict[str, Any]]] = [
            ("put", "issuers", {"iss": ISSUER, "keys": [described.issuer_key.public.to_jwk()]}),
            ("put", "issuers", {"iss": ISSUER, "jwks_url": keys.url, "confirmed": True}),
            ("post", "issuers/refresh", {"iss": ISSUER}),
            ("post", "issuers/confirm",
             {"iss": ISSUER, "thumbprints": [described.issuer_key.kid]}),
            ("put", "cards", card),
            ("post", "cards", {"cards": [card, {**card, "jti_sha256": "k" * 43, "sub": "x"}]}),
            ("post", "cards", {"cards": [card], "dry_run": True}),
            ("post", "cards/unlock", named),
            ("post", "revocations/tokens",
             {**named, "reason": "lost", "until": "2026-01-01T00:00:00.000Z"}),
            ("post", "revocations/forget-expired", {}),
            ("post", "revocations/tokens", {**named, "reason": "lost"}),
            ("post", "revocations/keys", {"iss": ISSUER, "kid": "old", "reason": "lost"}),
        ]  # fmt: skip
        for method, name, body in wanted:
            path = f"/v1/operators/{name}"
            asked = DOCUMENT["paths"][path][method]["requestBody"]["content"]["application/json"]
            jsonschema.validate(body, {**asked["schema"], "components": DOCUMENT["components"]})
            answer = session.request(method, described.url + path, json=body, timeout=20)
            assert answer.status_code in (200, 201), (path, answer.text)
            _check(path, method, answer)
        for path in ("/v1/operators/issuers", "/v1/operators/revocations"):
            _check(path, "get", session.get(described.url + path, timeout=10))


def test_rules_with_acting_are_as_described(described: World) -> None:
    """Who may act stands in the rules that are put and in those that are read."""
    rule = {"proxy": True, "witness": False, "household_minor": 1, "actor_minor": 1, "window_s": 60}
    path = "/v1/operators/programmes/{programme}"
    rules = {name: value for name, value in PROGRAMME.items() if name != "programme"}
    body = {**rules, "acting": rule}
    schema = DOCUMENT["components"]["schemas"]["Rules"]
    jsonschema.validate(body, {**schema, "components": DOCUMENT["components"]})
    session = requests.Session()
    secret = new_secret()
    described.ledger.operators.add("rules", secret)
    session.headers["Authorization"] = f"Bearer {secret}"
    url = described.url + path.format(programme="flood-dairy")
    for wanted in (body, {**rules, "acting": None}):
        _check(path, "put", session.put(url, json=wanted, timeout=10))
        _check(path, "get", session.get(url, timeout=10))


def test_homes_and_offline_rules_are_as_described(described: World) -> None:
    """A programme that works offline, its households' homes pinned, refused, counted, noted."""
    family, http = described.family(), operator(described)
    components = DOCUMENT["components"]
    rules = {name: value for name, value in PROGRAMME.items() if name != "programme"}
    floor = {
        "redemption_minor": 1, "beneficiary_minor": 1, "window_s": 60, "liability": "merchant",
    }  # fmt: skip
    path = "/v1/operators/programmes/{programme}"
    for wanted in ({**OFFLINE, "floor": floor}, OFFLINE, None):
        body = {**rules, "offline": wanted}
        jsonschema.validate(body, {**components["schemas"]["Rules"], "components": components})
        url = described.url + path.format(programme="flood-dairy")
        _check(path, "put", http.put(url, json=body, timeout=10))
        _check(path, "get", http.get(url, timeout=10))
    person = {"iss": ISSUER, "sub": family.sub}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/homes", {"homes": [{"person": person, "store": "zhou-shop"}]}),
        ("/homes", {"homes": [{"person": person, "store": None}], "dry_run": True}),
        ("/homes", {"homes": [{"person": {**person, "sub": "x"}, "store": "zhou-shop"}]}),
        ("/homes/from-sales", {"from_bucket": 0, "dry_run": True}),
        ("/homes/from-sales", {"from_bucket": 4095, "dry_run": False}),
    ]
    for name, body in bodies:
        path = f"/v1/operators{name}"
        asked = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        jsonschema.validate(body, {**asked["schema"], "components": components})
        answer = http.post(described.url + path, json=body, timeout=20)
        assert answer.status_code == 200, (path, answer.text)
        _check(path, "post", answer)
    answer = http.get(described.url + "/v1/operators/homes", timeout=10)
    assert answer.json()["homes"]
    _check("/v1/operators/homes", "get", answer)
    assert requests.get(described.url + "/v1/operators/homes", timeout=10).status_code == 401


def test_what_operators_read_of_uses_is_as_described(described: World) -> None:
    """Uses, disputes, answers, stopped vouchers: with something in each list."""
    family = described.family()
    buy(described, family)
    browser = signed_in(described, family)
    dispute(browser, browser.mine().use_links[0])
    browser.submit(browser.get(browser.mine().links["Stop this voucher"]), "/stop")
    http = operator(described)
    url = f"{described.url}/v1/operators"
    for path, name in (("/uses", "uses"), ("/disputes", "disputes"), ("/stops", "stops")):
        answer = http.get(url + path, timeout=10)
        assert answer.json()[name]
        _check(f"/v1/operators{path}", "get", answer)
    body = {"state": "upheld", "sentence": "对"}
    jsonschema.validate(
        body,
        DOCUMENT["paths"]["/v1/operators/disputes/{dispute}"]["put"]["requestBody"]["content"][
            "application/json"
        ]["schema"],
    )
    answer = http.put(f"{url}/disputes/1", json=body, timeout=10)
    _check("/v1/operators/disputes/{dispute}", "put", answer)
    _check("/v1/operators/disputes", "get", http.get(f"{url}/disputes", timeout=10))


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
        "/v1/sales/find": client._read(
            "POST", "/v1/sales/find", body={"receipt_no": sale.receipt_no, "code": None}
        )[0],
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
        posts = ("/v1/records", "/v1/sales/find", "/v1/vouchers/lookup")
        method = "post" if path in posts else "get"
        jsonschema.validate(answer, _schema_of(path, method, 200))
    client.close()


def test_a_problem_is_as_described(described: World) -> None:
    """An error is a problem document of the described shape."""
    answer = requests.post(f"{described.url}/v1/records", data=b"{", timeout=10)
    schema = {**DOCUMENT["components"]["schemas"]["Problem"]}
    jsonschema.validate(answer.json(), schema)
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_what_is_held_is_as_described(described: World) -> None:
    """The list, one in full before and after it is decided, the chains, and a person's word."""
    http, till = operator(described), described.till("stopped-till")
    offer = till.propose(described.family().token(), [milk(500)])
    terminal = till.enrolment.terminal
    described.ledger.terminals.set_status(terminal, "revoked")
    assert till.redeem(offer, checkout="S1", cashier="c01").held == "terminal_revoked"
    assert till.close_day().problem
    base = described.url + "/v1/operators"
    waiting = http.get(base + "/held", timeout=10)
    _check("/v1/operators/held", "get", waiting)
    by_kind = {each["kind"]: each["n"] for each in waiting.json()["held"]}
    words = {
        "redeem": {"decision": "post"},
        "day_report": {"decision": "refuse", "code": "not_accepted", "sentence": "no"},
    }
    for kind, word in words.items():
        one = f"/held/{by_kind[kind]}"
        _check("/v1/operators/held/{n}", "get", http.get(base + one, timeout=10))
        _check("/v1/operators/held/{n}", "put", http.put(base + one, json=word, timeout=10))
        _check("/v1/operators/held/{n}", "get", http.get(base + one, timeout=10))
    for wrong in ({}, {"decision": "refuse"}, {"decision": "post", "code": "x"}, {"decision": "x"}):
        answer = http.put(f"{base}/held/{by_kind['redeem']}", json=wrong, timeout=10)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    chains = http.get(f"{base}/terminals/{terminal}/chains", timeout=10)
    _check("/v1/operators/terminals/{terminal}/chains", "get", chains)
    _check("/v1/operators/alarms", "get", http.get(base + "/alarms", timeout=10))
