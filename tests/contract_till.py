"""A till for contract tests: it speaks docs/protocol.md and believes only what is signed.

It signs with the second implementation, so neither end of a contract test is the product's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import requests

from tests.second_signing import (
    Json,
    Key,
    PublicKey,
    b64,
    bucket_of,
    canonical,
    digest,
    new_id,
    read,
    unread,
    utc,
)

MILK = "06913046198782"
FORMULA = "06936687862270"
RICE = "cat:rice-loose"

STATUS = {
    **dict.fromkeys(("malformed", "basket_too_large", "unsupported_kind"), 400),
    **dict.fromkeys(("signature_invalid", "unauthorised", "clock_skew"), 401),
    "not_found": 404,
    "method_not_allowed": 405,
    **dict.fromkeys(
        ("in_flight", "sequence_gap", "already_exists_differently", "acceptance_missing"), 409
    ),
    "ledger_healing": 503,
    "too_large": 413,
    "unsupported_media_type": 415,
}
"""Section 9's statuses of problems; every other code is 403."""


@dataclass(frozen=True)
class Sent:
    """A record of a till, as it travels."""

    jws: str
    payload: Json
    token: str | None = None
    evidence: str | None = None

    @property
    def digest(self) -> str:
        return unread(self.jws, "carepos-record+jws").digest

    @property
    def envelope(self) -> Json:
        beside = {"token": self.token, "evidence": self.evidence}
        return {"record": self.jws, **{name: said for name, said in beside.items() if said}}


@dataclass
class ContractTill:
    """An enrolled terminal with one incarnation, counting from its `start`."""

    url: str
    now: Callable[[], datetime]
    key: Key
    certificate: Json
    ledger_keys: list[PublicKey]
    incarnation: str = field(default_factory=lambda: secrets.token_hex(16))
    sequence: int = 0
    prev: str = ""

    @property
    def terminal(self) -> str:
        name: str = self.certificate["terminal"]
        return name

    # Signed things that go out.

    def write(self, kind: str, identifier: str, content: Json, token: str | None = None) -> Sent:
        """The next record of the chain."""
        self.sequence += 1
        first = digest(f"carepos/incarnation/v1|{self.incarnation}".encode())
        payload = {
            "v": 1,
            "kind": kind,
            "id": identifier,
            "terminal": self.terminal,
            "incarnation": self.incarnation,
            "sequence": self.sequence,
            "prev": self.prev or first,
            "occurred_at": utc(self.now()),
            "content": content,
        }
        sent = self.sign(payload, token)
        self.prev = sent.digest
        return sent

    def sign(self, payload: Json, token: str | None = None) -> Sent:
        return Sent(self.key.sign("carepos-record+jws", payload), payload, token)

    def own_id(self) -> str:
        return new_id(bucket_of(self.terminal), self.now())

    def start(self) -> Sent:
        return self.write("start", self.own_id(), {"software": "contract till"})

    def key_change(self, key: Key, **proof: Any) -> Sent:
        """A record that announces `key`; `proof` replaces names of what the key proves."""
        return self.write("key_change", self.own_id(), self.announcing(key, **proof))

    def announcing(self, key: Key, by: Key | None = None, **proof: Any) -> Json:
        """The content of the next record, if that announces `key`; `by`: who signs the proof."""
        place = {
            "v": 1,
            "terminal": self.terminal,
            "incarnation": self.incarnation,
            "sequence": self.sequence + 1,
        }
        signed = (by or key).sign("carepos-proof+jws", {**place, **proof})
        return {"key": key.public.jwk, "proof": signed}

    def under(self, key: Key) -> ContractTill:
        """The same till, which signs with another key from here on."""
        return replace(self, key=key)

    def day_report(self) -> Sent:
        content = {
            "z_no": 1,
            "business_date": f"{self.now():%Y-%m-%d}",
            "from_sequence": 1,
            "to_sequence": self.sequence,
            **dict.fromkeys(("confirmed", "refused", "reversed", "open"), 0),
            "sums": [],
        }
        return self.write("day_report", self.own_id(), content)

    def reversal(self, sale: Sent, reason: str = "cancelled", **changes: Any) -> Sent:
        content = {"record_sha256": sale.digest, "reason": reason, **changes}
        return self.write("reversal", sale.payload["id"], content)

    def void(self, sale: Sent, **changes: Any) -> Sent:
        """A sale of this till is taken back; `changes` replace names of the content."""
        return self._undo("void", sale, {"reason": "wrong_goods", **changes})

    def refund(
        self, sale: Sent, lines: Mapping[int, int], parts: Sequence[Json], **changes: Any
    ) -> Sent:
        """Quantities of `lines` of anybody's sale come back, and `parts` of what they cost."""
        back = [{"line": line, "quantity": quantity} for line, quantity in lines.items()]
        named = {"currency": "CNY", "lines": back, "parts": list(parts), **changes}
        return self._undo("refund", sale, {"reason": "returned", **named})

    def _undo(self, kind: str, sale: Sent, changes: Json) -> Sent:
        original = {name: sale.payload[name] for name in ("terminal", "id")}
        content = {"original": original, "record_sha256": sale.digest, "cashier": "c01"}
        identifier = changes.pop("identifier", None) or new_id(
            int(original["id"][15:18], 16), self.now()
        )
        return self.write(kind, identifier, {**content, "approved_by": None, **changes})

    def redeem(
        self,
        found: Json,
        token: str,
        basket: Sequence[Json],
        allocation: Sequence[Json],
        identifier: str | None = None,
        **changes: Any,
    ) -> Sent:
        """A redeem for the holder of the lookup `found`; `changes` replace names of the content."""
        content = {
            "checkout": f"S1-{self.sequence:06d}",
            "cashier": "c01",
            "presentment": "online",
            "programme": "dairy",
            "rules_version": found["rules"].get(changes.get("programme", "dairy"), 1),
            "currency": "CNY",
            "beneficiary": found["beneficiary"],
            "token_sha256": digest(token.encode()),
            "basket": list(basket),
            "allocation": list(allocation),
            **changes,
        }
        return self.write(
            "redeem", identifier or new_id(found["bucket"], self.now()), content, token
        )

    def read_token(self, method: str, path: str, body: bytes, **changes: Any) -> str:
        claims = {
            "iss": self.terminal,
            "aud": self.certificate["ledger"],
            "htm": method,
            "htu": path,
            "iat": int(self.now().timestamp()),
            "jti": b64(secrets.token_bytes(16)),
            **({"body_sha256": digest(body)} if body else {}),
            **changes,
        }
        return self.key.sign("carepos-read+jwt", claims)

    def signed(self, jws: str, typ: str) -> Json:
        """What the ledger signed."""
        return read(jws, typ, self.ledger_keys)

    # HTTP.

    def get(self, path: str, headers: Mapping[str, str] | None = None, **changes: Any) -> Any:
        bearer = {"Authorization": "Bearer " + self.read_token("GET", path, b"", **changes)}
        return requests.get(self.url + path, headers={**bearer, **(headers or {})}, timeout=20)

    def post(self, path: str, value: object, **changes: Any) -> Any:
        body = canonical(value)
        bearer = "Bearer " + self.read_token("POST", path, body, **changes)
        headers = {"Authorization": bearer, "Content-Type": "application/json"}
        return requests.post(self.url + path, body, headers=headers, timeout=20)

    def lookup(self, token: str, pin_proof: str | None = None) -> Json:
        """The signed answer to a lookup of a good token."""
        jti = b64(secrets.token_bytes(16))
        body = {"token": token} if pin_proof is None else {"token": token, "pin_proof": pin_proof}
        answer = self.post("/v1/vouchers/lookup", body, jti=jti)
        assert answer.status_code == 200, answer.text
        found = read(answer.json()["lookup"], "carepos-lookup+jws", self.ledger_keys)
        assert found["request"] == jti and found["terminal"] == self.terminal
        return found

    def refused_lookup(self, token: str, pin_proof: str | None = None) -> Json:
        """The problem that is answered to a lookup."""
        body = {"token": token} if pin_proof is None else {"token": token, "pin_proof": pin_proof}
        return refused(self.post("/v1/vouchers/lookup", body))

    def send(self, *sent: Sent | Json) -> list[Json]:
        """The results of a batch, in its order."""
        items = [item.envelope if isinstance(item, Sent) else item for item in sent]
        answer = requests.post(self.url + "/v1/records", json={"items": items}, timeout=20)
        assert answer.status_code == 200, answer.text
        results: list[Json] = answer.json()["results"]
        assert len(results) == len(items)
        return results

    def outcome(self, sent: Sent) -> Json:
        """What a till may believe about a record that it sends now."""
        return self.believe(sent, self.send(sent)[0])

    def problem(self, sent: Sent | Json) -> Json:
        """The problem that is answered to a record."""
        result = self.send(sent)[0]
        assert list(result) == ["problem"], result
        return check_problem(result["problem"])

    def believe(self, sent: Sent, result: Json) -> Json:
        """Section 5: a verified outcome, bound to the record."""
        assert list(result) == ["outcome"], result
        outcome = read(result["outcome"], "carepos-outcome+jws", self.ledger_keys)
        assert outcome["v"] == 1 and outcome["epoch"] >= 1
        assert outcome["record_sha256"] == sent.digest
        for name in ("id", "terminal", "kind"):
            assert outcome[name] == sent.payload[name]
        return outcome

    def attempt(self, identifier: str) -> tuple[str, list[Json]]:
        """State and outcomes of `GET /v1/records/{id}`."""
        jti = b64(secrets.token_bytes(16))
        answer = self.get(f"/v1/records/{identifier}", jti=jti)
        assert answer.status_code == 200, answer.text
        value = answer.json()
        assert set(value) == {"state", "outcomes"}
        outcomes = [read(jws, "carepos-outcome+jws", self.ledger_keys) for jws in value["outcomes"]]
        for outcome in outcomes:
            assert (outcome["id"], outcome["terminal"]) == (identifier, self.terminal)
            assert outcome.get("request", jti) == jti
        return value["state"], outcomes


def check_problem(problem: Json) -> Json:
    """The shape of an RFC 9457 document of section 9."""
    assert {"type", "title", "status", "detail", "code"} <= set(problem), problem
    assert problem["type"] == f"urn:carepos:problem:{problem['code']}"
    assert problem["status"] == STATUS.get(problem["code"], 403)
    assert isinstance(problem["title"], str) and isinstance(problem["detail"], str)
    return problem


def refused(answer: Any) -> Json:
    """The problem of a whole HTTP answer."""
    assert answer.headers["Content-Type"].partition(";")[0] == "application/problem+json"
    problem = check_problem(answer.json())
    assert problem["status"] == answer.status_code
    return problem


def enrolment(activation: str, key: Key) -> Json:
    """The body that enrols a key."""
    proof = {"v": 1, "activation_sha256": digest(activation.encode())}
    return {
        "activation": activation,
        "public_key": key.public.jwk,
        "proof": key.sign("carepos-proof+jws", proof),
    }


def trusted_keys(url: str, root_kid: str) -> tuple[Json, list[PublicKey]]:
    """The key set that the root of an activation code signed, and its keys."""
    value = requests.get(url + "/.well-known/jwks.json", timeout=20).json()
    root = PublicKey.of(value["root"])
    assert root.kid == root_kid
    keyset = read(value["keyset"], "carepos-keyset+jws", [root])
    return keyset, [PublicKey.of(jwk) for jwk in keyset["keys"]]


def enrol(url: str, now: Callable[[], datetime], activation: str) -> ContractTill:
    """A till that was enrolled with `activation` and said that it started."""
    key = Key.new()
    _, keys = trusted_keys(url, activation.split(".")[2])
    answer = requests.post(url + "/v1/terminals", json=enrolment(activation, key), timeout=20)
    assert answer.status_code == 201, answer.text
    certificate = read(answer.json()["certificate"], "carepos-certificate+jws", keys)
    till = ContractTill(url, now, key, certificate, keys)
    assert till.outcome(till.start())["result"] == "posted"
    return till
