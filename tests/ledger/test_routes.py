"""What tills call, over real HTTP: good answers to good requests, a coded one to everything else.

T-15: whatever is sent to whichever endpoint, there is no 500, and no row of any table changes.
"""

from __future__ import annotations

import base64
import copy
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carepos import found_sale, ids, jws, outcome
from carepos.client import READ_TYP, Client, Transport, read_token
from carepos.errors import Malformed
from carepos.keys import SigningKey, b64, digest
from carepos.outcome import Outcome
from carepos_ledger import app, migrations
from carepos_ledger.book import Book
from carepos_ledger.database import Database
from carepos_ledger.intake import Intake
from carepos_ledger.keyring import Keyring
from carepos_ledger.office import Office
from carepos_ledger.problems import STATUS
from carepos_ledger.settings import Settings
from tests.ledger.rig import (
    AUDIENCE,
    PROGRAMME,
    Envelope,
    Holder,
    Rig,
    SetClock,
    Signer,
)
from tests.world import served

JTI = "A" * 22
NOT_FOUND_ID = "019aa9f3-2b80-8abc-9123-456789abcdef"
NO_SUCH = "A" * 43
NO_SALE, NO_CODE = ids.receipt_no(1, 999_999), "A" * 16


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        assert self.status in (200, 201), (self.status, self.body)
        assert self.headers["content-type"] == "application/json"
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    @property
    def code(self) -> str:
        """The code of a well-made problem document."""
        assert self.headers["content-type"] == "application/problem+json", self
        problem = json.loads(self.body)
        assert problem["status"] == self.status == STATUS.get(problem["code"], 403)
        assert problem["type"] == f"urn:carepos:problem:{problem['code']}"
        assert {"title", "detail"} <= problem.keys()
        return str(problem["code"])


@dataclass
class Wire:
    """A ledger behind a real HTTP server, its parts, and one enrolled till."""

    rig: Rig
    url: str
    till: Signer
    holder: Holder

    def call(
        self, method: str, target: str, body: bytes | None = None, **headers: str | None
    ) -> Answer:
        """One request; `authorization=None` leaves that header out."""
        sent = {"content-type": "application/json"} if body is not None else {}
        sent |= {k.replace("_", "-"): v for k, v in headers.items() if v is not None}
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request(method, target, body, sent)
            answer = connection.getresponse()
            held = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, held, answer.read())
        finally:
            connection.close()

    def read(
        self, method: str, target: str, body: bytes | None = None, till: Signer | None = None
    ) -> Answer:
        """As `call`, with the till's own read token."""
        token = self.read_token(method, target, body, till)
        return self.call(method, target, body, authorization=f"Bearer {token}")

    def read_token(
        self, method: str, target: str, body: bytes | None = None, till: Signer | None = None
    ) -> str:
        caller = till or self.till
        return read_token(
            caller.key,
            terminal=caller.terminal,
            ledger=self.rig.keyring.ledger,
            method=method,
            target=target,
            issued_at_s=int(self.rig.now().timestamp()),
            jti=JTI,
            body=body,
        )

    def post(self, *envelopes: Any) -> list[dict[str, Any]]:
        answer = self.call("POST", "/v1/records", dumps({"items": list(envelopes)}))
        results = answer.json()["results"]
        assert isinstance(results, list) and len(results) == len(envelopes)
        return results

    def look_up(self, token: object, till: Signer | None = None) -> Answer:
        return self.read("POST", "/v1/vouchers/lookup", dumps({"token": token}), till)

    def outcome(self, text: str) -> Outcome:
        return outcome.read_any(text, keys=self.rig.keyring.keys.keys)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Every row of every table is after as before."""
        before = self.state()
        yield
        assert self.state() == before

    def state(self) -> dict[str, tuple[int, str]]:
        """How many rows each table has, and a digest of all that stands in them."""
        return {
            name: (len(rows), digest(repr(sorted(map(repr, rows))).encode()))
            for name, rows in self.rig.tables().items()
        }


def dumps(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Rig, str]]:
    """One ledger of each kind behind HTTP for the whole module, empty."""
    folder = tmp_path_factory.mktemp("routes")
    if request.param == "sqlite":
        with _serve(f"sqlite:///{folder / 'ledger.db'}", folder) as made:
            yield made
        return
    cluster = request.getfixturevalue("postgres_cluster")
    with cluster.fresh_database() as url, _serve(url, folder) as made:
        yield made


@contextmanager
def _serve(database_url: str, folder: Path) -> Iterator[tuple[Rig, str]]:
    Keyring.create(folder)
    database = Database(database_url)
    migrations.upgrade(database)
    database.close()
    now = SetClock()
    ledger = app.build(Settings(folder, database_url), now=now)
    try:
        with served(ledger) as (url, _):
            rig = Rig(
                ledger.database,
                ledger.keyring,
                now,
                SigningKey.generate(),
                ledger.issuers,
                ledger.programmes,
                ledger.office,
                ledger.terminals,
                Intake(ledger.database, AUDIENCE, now, ledger.keyring.evidence),
                Book(ledger.database, ledger.keyring, now),
            )
            # The desk's own office draws at random; this one can be told a bucket.
            rig.office = Office(ledger.database, now, lambda n: rig.random_bytes(n))
            yield rig, url
    finally:
        ledger.close()


@pytest.fixture
def wire(server: tuple[Rig, str]) -> Wire:
    """A ledger with one programme, one till and one household with 120.00."""
    rig, url = server
    rig.empty()
    rig.settle_in()
    return Wire(rig, url, rig.signer(), rig.holder())


# ── good requests ──────────────────────────────────────────────────────────────────────────────


def test_the_whole_way_over_http(wire: Wire) -> None:
    """Enrolled, looked up, redeemed, asked about and reversed: each answer is signed and bound."""
    rig, till, holder = wire.rig, wire.till, wire.holder
    keys = rig.keyring.keys.keys
    published = wire.call("GET", "/.well-known/jwks.json").json()
    assert published["keyset"] == rig.keyring.keyset
    assert [jwk["kid"] for jwk in published["keys"]] == [key.kid for key in keys]
    token = rig.token(holder)
    seen = jws.verify(wire.look_up(token).json()["lookup"], typ=jws.LOOKUP, keys=keys).payload
    assert (seen["request"], seen["terminal"], seen["bucket"]) == (
        JTI,
        till.terminal,
        holder.bucket,
    )
    assert seen["beneficiary"] == rig.reference(till, holder)
    [voucher] = seen["vouchers"]
    assert (voucher["voucher"], voucher["available_minor"]) == (holder.voucher, 12_000)
    envelope = rig.redeem(till, holder, token_text=token)
    record = rig.read(envelope)
    [result] = wire.post(envelope)
    posted = outcome.read_bound(result["outcome"], record, keys=keys)
    assert (posted.result, posted.amount_minor) == ("posted", 6_000)
    undo = till.reversal(record)
    [result] = wire.post({"record": undo.jws})
    back = outcome.read_bound(result["outcome"], undo, keys=keys)
    asked = wire.read("GET", f"/v1/records/{record.id}").json()
    assert asked == {"state": "reversed", "outcomes": [posted.jws, back.jws]}


def test_states_of_an_attempt(wire: Wire) -> None:
    """posted, refused, and for ids without a redemption what became of them; oldest first."""
    rig, till, holder = wire.rig, wire.till, wire.holder
    good, bad, start = rig.redeem(till, holder), rig.redeem(till, holder, 13_000), till.start()
    wire.post(good, bad, {"record": start.jws})
    for record, state in ((rig.read(good), "posted"), (rig.read(bad), "refused")):
        assert wire.read("GET", f"/v1/records/{record.id}").json()["state"] == state
    assert wire.read("GET", f"/v1/records/{start.id}").json()["state"] == "posted"


def test_a_foreign_id_answers_as_one_never_seen(wire: Wire) -> None:
    """Another till's id, and nobody's: the same signed `not_found`, bound to the question."""
    rig = wire.rig
    other = rig.signer()
    envelope = rig.redeem(wire.till, wire.holder)
    wire.post(envelope)
    answers = []
    for an_id in (rig.read(envelope).id, NOT_FOUND_ID):
        with wire.unchanged():
            found = wire.read("GET", f"/v1/records/{an_id}", till=other).json()
        assert found["state"] == "not_found"
        [text] = found["outcomes"]
        keys = rig.keyring.keys.keys
        outcome.read_not_found(text, an_id=an_id, terminal=other.terminal, request=JTI, keys=keys)
        payload = jws.verify(text, typ=jws.OUTCOME, keys=keys).payload
        answers.append({**payload, "id": ""})
    assert answers[0] == answers[1]


def test_enrolling_again_gives_the_same_certificate(wire: Wire) -> None:
    """Code and key again: the same; the code with another key is used up."""
    activation = wire.rig.terminals.new_activation("zhou-shop", 3600).code
    body = enrolment(activation, SigningKey.generate())
    first = wire.call("POST", "/v1/terminals", body)
    assert first.status == 201
    with wire.unchanged():
        assert wire.call("POST", "/v1/terminals", body).json() == first.json()
        stranger = enrolment(activation, SigningKey.generate())
        assert wire.call("POST", "/v1/terminals", stranger).code == "activation_used"


def enrolment(activation: str, key: SigningKey) -> bytes:
    proof = {"v": 1, "activation_sha256": digest(activation.encode())}
    return dumps(
        {
            "activation": activation,
            "public_key": key.public.to_jwk(),
            "proof": jws.sign(proof, typ=jws.PROOF, key=key),
        }
    )


def test_the_pack_is_fetched_once(wire: Wire) -> None:
    """Its manifest names the file by digest; with that as ETag nothing is sent again; a new version
    of the rules is another file."""
    first = wire.read("GET", "/v1/offline-pack")
    manifest = jws.verify(
        first.json()["manifest"], typ=jws.MANIFEST, keys=wire.rig.keyring.keys.keys
    ).payload
    sha256 = manifest["file"]["sha256"]
    assert first.headers["etag"] == f'"{sha256}"'
    file = wire.read("GET", f"/v1/offline-pack/{sha256}")
    assert (digest(file.body), len(file.body)) == (sha256, manifest["file"]["length"])
    token = wire.read_token("GET", "/v1/offline-pack")
    again = wire.call(
        "GET",
        "/v1/offline-pack",
        authorization=f"Bearer {token}",
        if_none_match=first.headers["etag"],
    )
    assert (again.status, again.body) == (304, b"")
    wire.rig.programmes.remove_store(PROGRAMME, "zhou-shop")
    assert wire.read("GET", f"/v1/offline-pack/{sha256}").code == "not_found"


def test_the_settlements_of_a_merchant_who_has_none(wire: Wire) -> None:
    """An empty list; a batch that is not there is `not_found`."""
    assert wire.read("GET", "/v1/settlements").json() == {"settlements": []}
    assert wire.read("GET", f"/v1/settlements/{PROGRAMME}/1").code == "not_found"


def test_a_lookup_shows_at_most_twenty_vouchers_used_up_ones_last(wire: Wire) -> None:
    """Those with something left first, then by earliest expiry."""
    rig = wire.rig
    dates = [f"2027-0{1 + n % 6}-01T00:00:00.000Z" for n in range(22)]
    holder = rig.holder(*({"amount_minor": 100 + n, "expires_at": d} for n, d in enumerate(dates)))
    # One of the earliest to expire is used up, so it is not among the first twenty any more.
    wire.post(rig.redeem(wire.till, holder, 100))
    text = wire.look_up(rig.token(holder)).json()["lookup"]
    vouchers = jws.verify(text, typ=jws.LOOKUP, keys=rig.keyring.keys.keys).payload["vouchers"]
    assert len(vouchers) == 20
    assert [v["expires_at"] for v in vouchers] == sorted(v["expires_at"] for v in vouchers)
    assert holder.voucher not in {v["voucher"] for v in vouchers}


# ── who may ask, and with which token ──────────────────────────────────────────────────────────


def test_a_token_is_looked_up_by_one_till_only(wire: Wire) -> None:
    """T-3: a lookup binds a `once` token; another till's lookup and redeem are replays, and this
    till's are not, until the visit is over."""
    rig, token = wire.rig, wire.rig.token(wire.holder, lifetime_s=900)
    other = rig.signer()
    first = wire.look_up(token)
    keys = rig.keyring.keys.keys
    seen = jws.verify(first.json()["lookup"], typ=jws.LOOKUP, keys=keys).payload
    assert seen["visit_until"] == "2026-11-22T08:15:00.000Z"
    with wire.unchanged():
        assert wire.look_up(token, other).code == "token_replayed"
        rig.now.forward(minutes=14)
        assert wire.look_up(token).status == 200
    [mine, replayed] = wire.post(
        rig.redeem(wire.till, wire.holder, 1, token_text=token),
        rig.redeem(other, wire.holder, 1, token_text=token),
    )
    assert wire.outcome(mine["outcome"]).result == "posted"
    refusal = wire.outcome(replayed["outcome"]).refusal
    assert refusal is not None and refusal.code == "token_replayed"


def test_a_token_that_is_refused_is_a_problem_with_its_code(wire: Wire) -> None:
    """Nothing is remembered of a bad token, or of a stranger's."""
    rig = wire.rig
    stranger = replace(wire.holder, sub="stranger")
    with wire.unchanged():
        for token, code in (
            (rig.token(wire.holder, aud="urn:other"), "token_audience"),
            (rig.token(wire.holder, iss="https://nobody.test"), "token_issuer"),
            (rig.token(stranger), "voucher_unknown"),
            ("no token", "token_malformed"),
        ):
            answer = wire.look_up(token)
            assert (answer.status, answer.code) == (403, code)


def test_a_suspended_till_may_ask_about_attempts_only(wire: Wire) -> None:
    """Its attempts are answered; vouchers are not shown. A revoked one is nobody."""
    rig = wire.rig
    rig.terminals.set_status(wire.till.terminal, "suspended")
    with wire.unchanged():
        assert wire.look_up(rig.token(wire.holder)).code == "terminal_suspended"
        assert wire.read("GET", f"/v1/records/{NOT_FOUND_ID}").status == 200
    rig.terminals.set_status(wire.till.terminal, "revoked")
    with wire.unchanged():
        assert wire.read("GET", f"/v1/records/{NOT_FOUND_ID}").code == "unauthorised"


def test_a_sale_is_found_by_another_till_of_the_merchant(wire: Wire) -> None:
    """Over HTTP, through the till's own client: the answer is bound to the question, and what the
    other till reads of it makes a refund that is booked. A suspended till may ask, too."""
    rig, other = wire.rig, wire.rig.signer("zhou-far")
    envelope = rig.redeem(wire.till, wire.holder, 6_000)
    sale = rig.read(envelope)
    wire.post(envelope)
    client = Client(
        Transport(wire.url),
        terminal=other.terminal,
        ledger=rig.keyring.ledger,
        key=other.key,
        now=rig.now,
    )
    rig.terminals.set_status(other.terminal, "suspended")
    answer, record, jti = client.find_sale(ids.receipt_no(1, sale.sequence), None)
    rig.terminals.set_status(other.terminal, "active")
    keys = rig.keyring.keys.keys
    found = found_sale.read(answer, record, request=jti, terminal=other.terminal, keys=keys)
    assert (found.record.jws, found.programme) == (sale.jws, PROGRAMME)
    [result] = wire.post({"record": other.refund(found.record, (1, 1)).jws})
    assert wire.outcome(result["outcome"]).amount_minor == 6_000
    for request, terminal in (("B" * 22, other.terminal), (jti, wire.till.terminal)):
        with pytest.raises(Malformed, match="another question"):
            found_sale.read(answer, record, request=request, terminal=terminal, keys=keys)


READS: list[tuple[str, str, bytes | None]] = [
    ("GET", f"/v1/records/{NOT_FOUND_ID}", None),
    ("POST", "/v1/vouchers/lookup", dumps({"token": "x"})),
    ("POST", "/v1/sales/find", dumps({"receipt_no": "0001-000001-0", "code": None})),
    ("GET", "/v1/offline-pack", None),
    ("GET", f"/v1/offline-pack/{NO_SUCH}", None),
    ("GET", "/v1/settlements", None),
    ("GET", f"/v1/settlements?after={PROGRAMME}:1", None),
    ("GET", f"/v1/settlements/{PROGRAMME}/1", None),
]


def claims_of(wire: Wire, method: str, target: str, body: bytes | None) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "iss": wire.till.terminal,
        "aud": wire.rig.keyring.ledger,
        "htm": method,
        "htu": target,
        "iat": int(wire.rig.now().timestamp()),
        "jti": JTI,
    }
    return claims if body is None else {**claims, "body_sha256": digest(body)}


WRONG_CLAIMS: dict[str, dict[str, Any]] = {
    "another ledger": {"aud": "ledger-other"},
    "another till": {"iss": "t-other"},
    "another method": {"htm": "DELETE"},
    "another address": {"htu": "/v1/records"},
    "another body": {"body_sha256": NO_SUCH},
    "a list for the ledger": {"aud": ["ledger-other"]},
    "no jti": {"jti": None},
    "a short jti": {"jti": "x"},
    "a number for jti": {"jti": 5},
    "a text for iat": {"iat": "now"},
    "a float for iat": {"iat": 1.5},
    "true for iat": {"iat": True},
    "a huge iat": {"iat": 10**18},
    "an extra claim": {"sub": "x"},
    "an expiry": {"exp": 1},
    "a null ledger": {"aud": None},
}


@pytest.mark.parametrize(("method", "target", "body"), READS)
def test_a_read_token_is_for_exactly_one_request(
    wire: Wire, method: str, target: str, body: bytes | None
) -> None:
    """Missing, misspelt, foreign, for another method, address or body: 401 and nothing else."""
    right = wire.read_token(method, target, body)
    claims = claims_of(wire, method, target, body)
    key, header = wire.till.key, {"kid": wire.till.key.kid, "typ": READ_TYP}
    stranger = SigningKey.generate()

    def made(changed: dict[str, Any], by: SigningKey = key, **headers: Any) -> str:
        wanted = {k: v for k, v in {**claims, **changed}.items() if v is not None}
        return jwt.encode(
            wanted, by.private_key(), algorithm="EdDSA", headers={**header, **headers}
        )

    signing_input = made({}).rpartition(".")[0]
    tokens: dict[str, str | None] = {
        "none": None,
        "nothing": "",
        "basic": "Basic YTpi",
        "no bearer": right,
        "junk": "Bearer junk",
        "padded": f"Bearer {right}=",
        "huge": f"Bearer {'A' * 5000}.{'A' * 5000}.{'A' * 86}",
        "header is no JSON": f"Bearer {b64(b'x')}.{b64(b'{}')}.{'A' * 86}",
        "header is a list": f"Bearer {b64(b'[]')}.{b64(b'{}')}.{'A' * 86}",
        "bad signature": f"Bearer {signing_input}.{'A' * 86}",
        "a stranger's": f"Bearer {made({}, stranger, kid=stranger.kid)}",
        "a stranger's with our kid": f"Bearer {made({}, stranger)}",
        "another typ": f"Bearer {made({}, typ='JWT')}",
        "an extra header": f"Bearer {made({}, crit=['x'])}",
        "kid is a number": f"Bearer {made({}, kid='5')}",
        "alg none": "Bearer " + jwt.encode(claims, "", algorithm="none", headers=header) + "A" * 86,
        "alg HS256": "Bearer "
        + jwt.encode(claims, wire.till.key.public.x, algorithm="HS256", headers=header),
        **{what: f"Bearer {made(changed)}" for what, changed in WRONG_CLAIMS.items()},
    }
    with wire.unchanged():
        for what, token in tokens.items():
            answer = wire.call(method, target, body, authorization=token)
            assert (what, answer.status, answer.code) == (what, 401, "unauthorised")
        answer = wire.call(method, target, body, authorization=f"Bearer {right}")
        assert answer.status not in (401, 500)


@pytest.mark.parametrize("off_s", [61, -61, 86_400, -(10**9)])
def test_a_wrong_clock_is_told_the_signed_time(wire: Wire, off_s: int) -> None:
    """Beyond 60 s either way: `clock_skew` with the server's time, signed and bound to this read;
    within it the read is answered."""
    target = f"/v1/records/{NOT_FOUND_ID}"
    token = wire.read_token("GET", target)
    wire.rig.now.forward(seconds=off_s)
    with wire.unchanged():
        answer = wire.call("GET", target, authorization=f"Bearer {token}")
    assert (answer.status, answer.code) == (401, "clock_skew")
    signed = json.loads(answer.body)["server_time"]
    payload = jws.verify(signed, typ=jws.TIME, keys=wire.rig.keyring.keys.keys).payload
    assert payload["request"] == JTI
    assert payload["server_time"].startswith(f"{wire.rig.now():%Y-%m-%dT%H:%M:%S}")
    wire.rig.now.forward(seconds=-off_s + 60)
    assert wire.call("GET", target, authorization=f"Bearer {token}").status == 200


# ── bad bodies (T-15) ──────────────────────────────────────────────────────────────────────────

POSTS = ("/v1/records", "/v1/terminals", "/v1/vouchers/lookup", "/v1/sales/find")
BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "NaN": b'{"items":NaN,"token":NaN}',
    "minus infinity": b"-Infinity",
    "a float": b'{"items":1.0,"token":1.0}',
    "an exponent": b'{"items":1e3}',
    "a huge integer": b'{"items":' + b"9" * 5000 + b"}",
    "beyond a double": b'{"items":9007199254740993}',
    "a text": b'"items"',
    "a list": b"[]",
    "null": b"null",
    "true": b"true",
    "empty": b"{}",
    "a name twice": b'{"items":[],"items":[],"token":"x","token":"x"}',
    "deep lists": b"[" * 10_000 + b"]" * 10_000,
    "deep objects": b'{"items":' * 10_000 + b"1" + b"}" * 10_000,
    "deep in a value": b'{"items":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "cut off": b'{"items":[{"record":"',
    "with BOM": b'\xef\xbb\xbf{"items":[]}',
    "UTF-16": '{"items":[]}'.encode("utf-16"),
    "not UTF-8": b'{"items":"\xff"}',
    "a lone surrogate": b'{"token":"\\ud800","items":"\\ud800"}',
    "a NUL": b'{"token":"\\u0000"}',
    "an unknown name": b'{"items":[],"more":1}',
    "white space": b" \n\t ",
    "two values": b"{}{}",
    **{f"items is {text.decode()}": b'{"items":' + text + b"}" for text in (b'""', b"[]", b"{}")},
    "items of junk": b'{"items":' + b"[" + b",".join([b"0"] * 501) + b"]}",
}


@pytest.mark.parametrize("target", POSTS)
def test_a_body_that_is_not_of_the_form(wire: Wire, target: str) -> None:
    """T-15: NaN, floats, duplicate names, deep nesting, wrong types, unknown names: `malformed`."""
    with wire.unchanged():
        for what, body in BAD_BODIES.items():
            answer = wire.read("POST", target, body)
            assert (what, answer.status, answer.code) == (what, 400, "malformed")


WRONG_VALUES: list[Any] = [None, True, 0, -1, 2**53 - 1, "", "x", "é\n", [], [[]], {}, {"a": 1}]


def test_every_wrong_value_in_an_enrolment_and_a_lookup(wire: Wire) -> None:
    """T-15: each name of the body with each wrong type, left out, and beside an unknown one."""
    activation = wire.rig.terminals.new_activation("zhou-shop", 3600).code
    bodies = {
        "/v1/terminals": json.loads(enrolment(activation, SigningKey.generate())),
        "/v1/vouchers/lookup": {"token": wire.rig.token(wire.holder)},
        "/v1/sales/find": {"receipt_no": NO_SALE, "code": NO_CODE},
    }
    codes = {"malformed", "signature_invalid", "token_malformed"}
    with wire.unchanged():
        for target, good in bodies.items():
            changed = [
                {**good, name: value}
                for name in good
                for value in WRONG_VALUES
                if (name, value) != ("code", None)
            ]
            changed += [{k: v for k, v in good.items() if k != name} for name in good]
            changed.append({**good, "more": 1})
            for body in changed:
                answer = wire.read("POST", target, dumps(body))
                assert answer.code in codes and answer.status in (400, 401, 403)
        jwk = bodies["/v1/terminals"]["public_key"]
        for name in jwk:
            for value in WRONG_VALUES:
                body = {**bodies["/v1/terminals"], "public_key": {**jwk, name: value}}
                assert wire.call("POST", "/v1/terminals", dumps(body)).code in codes
    assert wire.call("POST", "/v1/terminals", dumps(bodies["/v1/terminals"])).status == 201


def raw_jws(payload: bytes, key: SigningKey, typ: str = jws.RECORD, **header: Any) -> str:
    """A well-signed JWS over any bytes."""
    names = {"alg": "EdDSA", "kid": key.kid, "typ": typ, **header}
    signing_input = f"{b64(dumps(names))}.{b64(payload)}"
    return f"{signing_input}.{b64(key.sign(signing_input.encode()))}"


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    if at:
        yield at
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[name], (*at, name))


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    made = copy.deepcopy(value)
    inner = made
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = new
    return made


def payload_of(envelope: Envelope) -> dict[str, Any]:
    text = envelope["record"].split(".")[1]
    found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    assert isinstance(found, dict)
    return found


# Where a value of WRONG_VALUES is a good one after all.
GOOD_AFTER_ALL: dict[str, set[int | str]] = {
    "checkout": {"x"},
    "cashier": {"x"},
    "sequence": {2**53 - 1},
    "rules_version": {2**53 - 1},
    "line_amount_minor": {0},
    "beneficiary_minor": {0},
    "quantity": {0},
    "programme": {"x"},
    "terminal": {"x"},
}


def test_every_wrong_value_in_a_signed_record(wire: Wire) -> None:
    """T-15: a record signed by an enrolled till with any of its values of a wrong type or out of
    range is a problem in its place; it writes nothing and the good record beside it is posted."""
    rig, till = wire.rig, wire.till
    envelopes = [rig.redeem(till, wire.holder)]
    undo, report = till.reversal(rig.read(envelopes[0])), till.day_report()
    envelopes += [{"record": undo.jws}, {"record": report.jws}]
    items = []
    for envelope in envelopes:
        good = payload_of(envelope)
        for at in paths(good):
            for value in WRONG_VALUES:
                if isinstance(value, int | str) and value in GOOD_AFTER_ALL.get(at[-1], ()):
                    continue
                if at[-1] in (
                    "sums",
                    "z_no",
                    "to_sequence",
                    "from_sequence",
                    "confirmed",
                    "refused",
                    "reversed",
                    "open",
                    "software",
                ):
                    continue  # a day report's counts may be many things
                text = raw_jws(dumps(replaced(good, at, value)), till.key)
                items.append({**envelope, "record": text})
        for at in paths(good):
            if isinstance(at[-1], str):
                missing = replaced(good, at, None)
                inner = missing
                for name in at[:-1]:
                    inner = inner[name]
                del inner[at[-1]]
                items.append({**envelope, "record": raw_jws(dumps(missing), till.key)})
        items.append({**envelope, "record": raw_jws(dumps({**good, "more": 1}), till.key)})
    assert len(items) > 400
    codes = set()
    with wire.unchanged():
        for start in range(0, len(items), 500):
            for item, result in zip(
                items[start : start + 500], wire.post(*items[start : start + 500]), strict=True
            ):
                assert "problem" in result, payload_of(item)
                codes.add(result["problem"]["code"])
    assert codes <= {"malformed", "unsupported_kind", "signature_invalid"}
    answers = wire.post(items[0], envelopes[0], items[1])
    assert ["problem" in answer for answer in answers] == [True, False, True]


def test_every_wrong_byte_in_a_signed_record(wire: Wire) -> None:
    """T-15: signed bytes that two parsers could read differently are `malformed`."""
    till = wire.till
    good = wire.rig.redeem(till, wire.holder)
    text = dumps(payload_of(good))
    payloads = [
        b"",
        b"[]",
        b"null",
        b"{",
        b"[" * 6_000,
        text + b" x",
        b"\xef\xbb\xbf" + text,
        text.decode().encode("utf-16"),
        text.replace(b'"v": 1', b'"v": 1, "v": 1'),
        text.replace(b'"v": 1', b'"v": 1.0'),
        text.replace(b'"v": 1', b'"v": 1e0'),
        text.replace(b'"v": 1', b'"v": NaN'),
        text.replace(b'"v": 1', b'"v": true'),
        text.replace(b'"v": 1', b'"v": 2'),
        text.replace(b"6000", b"6000.0"),
        text.replace(b"6000", b'"6000"'),
        text.replace(b"6000", b"9007199254740993"),
        text.replace(b"6000", b"1" * 4_000),
        text.replace(b'"c01"', b'"\\ud800"'),
        text.replace(b'"c01"', b'"c\\u0000"'),
        text.replace(b'"redeem"', b'"Redeem"'),
        text.replace(b'"redeem"', b'"%s"' % (b"a" * 31)),
    ]
    records = [raw_jws(payload, till.key) for payload in payloads]
    stranger = SigningKey.generate()
    untouched = good["record"]
    records += [
        "",
        "x",
        untouched[:-1],
        untouched + "=",
        untouched + "\n",
        untouched[:-86] + "A" * 86,
        raw_jws(text, stranger),
        raw_jws(text, stranger, kid=till.key.kid),
        raw_jws(text, till.key, typ=jws.OUTCOME),
        raw_jws(text, till.key, alg="none"),
        raw_jws(text, till.key, zip="DEF"),
        raw_jws(text + b" " * 12_288, till.key),
        "A" * 20_000,
    ]
    items: list[Any] = [{**good, "record": record} for record in records]
    junk: list[Any] = [1, [], {}, True]
    items += [{**good, "record": value} for value in [None, *junk]]
    items += [{**good, "token": value} for value in ["", "x" * 5_000, "\n", *junk]]
    items += [{**good, "more": 1}, {**good, "evidence": "x"}, {}, [], None, 1, "x"]
    items += [{"token": good["token"]}]
    allowed = {"malformed", "signature_invalid", "unsupported_kind"}
    with wire.unchanged():
        for item, result in zip(items, wire.post(*items), strict=True):
            assert result["problem"]["code"] in allowed, item


def test_a_kind_of_a_later_version_is_not_understood(wire: Wire) -> None:
    """`unsupported_kind`, a problem: the till keeps the record, its id is not used up."""
    payload = payload_of(wire.rig.redeem(wire.till, wire.holder))
    text = raw_jws(dumps({**payload, "kind": "void"}), wire.till.key)
    with wire.unchanged():
        [result] = wire.post({"record": text})
    assert (result["problem"]["code"], result["problem"]["status"]) == ("unsupported_kind", 400)


def test_a_till_cannot_speak_for_another(wire: Wire) -> None:
    """A record that names another terminal than the key's is `signature_invalid`."""
    payload = payload_of(wire.rig.redeem(wire.till, wire.holder))
    other = wire.rig.signer()
    with wire.unchanged():
        [result] = wire.post({"record": raw_jws(dumps(payload), other.key)})
    assert result["problem"]["code"] == "signature_invalid"


# ── around the body ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("target", POSTS)
def test_a_body_of_another_kind_or_size(wire: Wire, target: str) -> None:
    """Not JSON by its type: 415. Above 2 MiB: 413. Both before anything is read of it."""
    good = dumps({"items": [wire.rig.redeem(wire.till, wire.holder)]})
    token = f"Bearer {wire.read_token('POST', target, good)}"
    with wire.unchanged():
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            answer = wire.call("POST", target, good, authorization=token, content_type=kind)
            assert (answer.status, answer.code) == (415, "unsupported_media_type")
        huge = good + b" " * (2 * 2**20)
        token = f"Bearer {wire.read_token('POST', target, huge)}"
        answer = wire.call("POST", target, huge, authorization=token)
        assert (answer.status, answer.code) == (413, "too_large")


def test_a_body_with_a_charset_is_still_json(wire: Wire) -> None:
    """`application/json; charset=utf-8` is the same type."""
    body = dumps({"items": [wire.rig.redeem(wire.till, wire.holder)]})
    kind = "application/json; charset=utf-8"
    assert wire.call("POST", "/v1/records", body, content_type=kind).status == 200


def test_a_request_that_is_cut_off_does_nothing(wire: Wire) -> None:
    """FB-3: half a body, then the connection ends: the ledger does not act on a part, and goes on
    to serve others."""
    body = dumps({"items": [wire.rig.redeem(wire.till, wire.holder)]})
    address = urlsplit(wire.url)
    head = (
        "POST /v1/records HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body) + 1}\r\n\r\n"
    )
    with wire.unchanged():
        for part in (head[:20].encode(), head.encode(), head.encode() + body):
            with socket.create_connection((address.hostname, address.port)) as connection:
                connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(20)
                heard = connection.recv(4_096)
                assert heard == b"" or not heard.startswith(b"HTTP/1.1 2")
        assert wire.call("GET", "/openapi.json").status == 200


ADDRESSES: dict[str, set[str]] = {
    "/.well-known/jwks.json": {"GET"},
    "/openapi.json": {"GET"},
    "/v1/terminals": {"POST"},
    "/v1/records": {"POST"},
    f"/v1/records/{NOT_FOUND_ID}": {"GET"},
    "/v1/vouchers/lookup": {"POST"},
    "/v1/sales/find": {"POST"},
    "/v1/offline-pack": {"GET", "POST"},
    f"/v1/offline-pack/{NO_SUCH}": {"GET"},
    "/v1/settlements": {"GET"},
    f"/v1/settlements/{PROGRAMME}/1": {"GET"},
}


def test_a_method_that_an_address_does_not_take(wire: Wire) -> None:
    """405 with the methods it takes, and nothing is done."""
    body = dumps({"items": [wire.rig.redeem(wire.till, wire.holder)]})
    with wire.unchanged():
        for target, takes in ADDRESSES.items():
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - takes:
                answer = wire.read(method, target, body)
                assert (answer.status, answer.code) == (405, "method_not_allowed")
                assert takes <= set(answer.headers["allow"].split(", "))


def test_an_address_that_is_not_there(wire: Wire) -> None:
    """404 as a problem document."""
    with wire.unchanged():
        for target in (
            "/",
            "/v1",
            "/v1/records/",
            "/v2/records",
            "/v1/records/a/b",
            "/%00",
            "/%C3%A9",
            "/v1//records",
            "/v1/settlements//1",
        ):
            for method in ("GET", "POST"):
                answer = wire.call(method, target)
                assert (target, answer.status, answer.code) == (target, 404, "not_found")


# ── anything at all ────────────────────────────────────────────────────────────────────────────

texts = st.text(max_size=12) | st.sampled_from(
    ["items", "record", "token", "evidence", "activation", "public_key", "proof", "kty", "OKP", "x"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
profile = settings.get_profile(settings.get_current_profile_name())
fuzz = settings(
    max_examples=profile.max_examples // 2,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("target", POSTS)
@given(value=json_values)
@fuzz
def test_any_json_gets_a_coded_answer(wire: Wire, target: str, value: Any) -> None:
    """Whatever JSON comes, alone or as an item or value of the right name: no 500, no row."""
    bodies = (value, {"items": [value]}, {"items": [{"record": value}]}, {"token": value})
    with wire.unchanged():
        for body in bodies:
            answer = wire.read("POST", target, dumps(body))
            if answer.status == 200:
                for result in answer.json()["results"]:
                    assert result["problem"]["code"] in ("malformed", "signature_invalid")
            else:
                assert answer.code and 400 <= answer.status < 500


@pytest.mark.parametrize("target", POSTS)
@given(data=st.data())
@fuzz
def test_any_damage_to_a_good_body_gets_a_coded_answer(
    wire: Wire, target: str, data: st.DataObject
) -> None:
    """A good request with bytes changed, cut out or put in: a coded answer, and either no row
    changes or it was decided as what it still says. (That a whole signed record came is noted even
    when its token was damaged on the way.)"""
    activation = f"cp1.{JTI}.{wire.rig.keyring.root.kid}"
    good = {
        "/v1/records": dumps({"items": [wire.rig.redeem(wire.till, wire.holder, 1)]}),
        "/v1/terminals": enrolment(activation, SigningKey.generate()),
        "/v1/vouchers/lookup": dumps({"token": wire.rig.token(wire.holder)}),
        "/v1/sales/find": dumps({"receipt_no": NO_SALE, "code": NO_CODE}),
    }[target]
    start = len(good) * data.draw(st.integers(0, 1_000)) // 1_000
    cut = data.draw(st.integers(0, 3))
    put = data.draw(st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"}", b"\\u0000", b"1e9"]))
    body = good[:start] + put + good[start + cut :]
    before = wire.state()
    answer = wire.read("POST", target, body)
    assert answer.status < 500
    if answer.status == 200:
        assert answer.headers["content-type"] == "application/json"
        decided = target != "/v1/records" or any(
            "outcome" in result for result in answer.json()["results"]
        )
    else:
        decided = False
        assert answer.code
    after = wire.state()
    if target == "/v1/records":
        del before["terminal_notes"], after["terminal_notes"]
    assert decided or after == before


@given(
    rest=st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=60),
    place=st.sampled_from(
        ["/v1/records/", "/v1/offline-pack/", "/v1/settlements/", "/v1/settlements?"]
    ),
)
@fuzz
def test_any_address_gets_a_coded_answer(wire: Wire, place: str, rest: str) -> None:
    """Any text where an id, a digest, a batch or a query should stand: a coded answer, no 500."""
    with wire.unchanged():
        for target in (place + quote(rest, safe=""), place + quote(rest, safe="/?=&:%")):
            answer = wire.read("GET", target)
            assert answer.status < 500
            assert answer.status == 200 or answer.code
