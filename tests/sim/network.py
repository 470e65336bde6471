"""The way between tills and ledger, with everything that happens to a request there (FAULTS FB).

`Line` is a till's transport: the same bytes as over HTTP, no socket. Whatever is not an answer is
`Unreachable`, as the real transport says. What arrives late arrives by `deliver_late`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from requests.structures import CaseInsensitiveDict

from carepos import jws
from carepos.errors import Unreachable
from carepos.keys import SigningKey, b64
from tests.properties.ledger_model import Opened
from tests.sim.ledger_host import Answer, Down, LedgerHost, Request
from tests.sim.process import Process
from tests.sim.story import Story
from tests.sim.weather import Fault, Weather
from tests.sim.witness import Witness

_STRANGER = SigningKey(b"a stranger who signs like ledger")
_HTML = b"<!doctype html><title>Welcome</title>Please accept our terms."
_NEVER_LEAVES = ("drop_before", "portal", "too_many_requests", "redirect", "hold")


@dataclass
class Network:
    """One network for everybody; calm once `weather` is None."""

    ledger: LedgerHost
    witness: Witness
    story: Story
    weather: Weather | None
    rng: Random = field(default_factory=Random)
    meanwhile: Callable[[str], None] = lambda _: None
    """Lets somebody else do something while the till named waits."""
    cut_off: set[str] = field(default_factory=set)
    late: list[Request] = field(default_factory=list)
    _answers: dict[str, deque[Answer]] = field(default_factory=dict)

    def carry(self, till: Process, request: Request) -> Answer:
        """One request of `till` and what it gets to hear. Raises Unreachable."""
        till.reached("the call")
        fault = None if self.weather is None else self.weather.fault_now(self.rng, request.path)
        if till.name in self.cut_off:
            fault = "drop_before"
        self.witness.leaves(till.name, request)
        if fault is not None:
            self.story.count(f"net: {fault}")
            self.story.say(f"~ {request.path}: {fault}")
        if fault in ("hold", "late_copy"):
            self.late.append(request)
        self.meanwhile(till.name)
        answer = None
        if fault not in _NEVER_LEAVES:
            answer = self.arrive(request, cut=fault == "cut_request")
            if fault == "duplicate":
                again = self.arrive(request)
                answer = again if self.rng.random() < 0.5 else answer
            self.meanwhile(till.name)
        heard = self._heard(fault, request, answer)
        till.reached("the answer")
        if heard is None:
            raise Unreachable("no answer from the ledger (simulated)")
        self.witness.reads(till.name, heard.body)
        return heard

    def deliver_late(self, rng: Random) -> None:
        """A request of before reaches the ledger now; nobody waits for the answer."""
        n = rng.randrange(len(self.late))
        request = self.late[n] if rng.random() < 0.2 else self.late.pop(n)
        # It may wait at the desk until the next one comes: then both are one batch.
        self.ledger.lingers = self.weather is not None and rng.random() < 0.4
        how = "together with the next" if self.ledger.lingers else "late"
        self.story.say(f"~ {request.path} arrives {how}")
        self.story.count(f"net: arrives {how}")
        self.arrive(request)
        self.ledger.lingers = False

    def forget_answers(self) -> None:
        """The machine that gave them is gone, and whatever of them was still on the way."""
        self._answers.clear()

    def arrive(self, request: Request, *, cut: bool = False) -> Answer | None:
        """A request is at the ledger; None if nobody is there."""
        try:
            answer = self.ledger.call(request, cut=cut)
        except Down:
            return None
        self.witness.answered(request, answer)
        self._answers.setdefault(request.path, deque(maxlen=8)).append(answer)
        return answer

    def _heard(self, fault: Fault | None, request: Request, answer: Answer | None) -> Answer | None:
        match fault:
            case "portal" | "portal_after":
                return _answer(200, "text/html", _HTML)
            case "status_502_after":
                return _answer(502, "text/html", b"<h1>502 Bad Gateway</h1>")
            case "unsigned_403_after":
                return _answer(403, "application/problem+json", _problem())
            case "too_many_requests":
                return _answer(429, "text/plain", b"slow down", {"Retry-After": "86400"})
            case "redirect":
                return _answer(307, "text/html", b"", {"Location": "http://stranger.test/"})
            case "empty_after":
                return _answer(200, "application/json", b"")
            case "problem_after" | "forged_refused" | "forged_posted":
                return self._lie(fault, request)
            case "stale_answer":
                held = [each for each in self._answers.get(request.path, ()) if each is not answer]
                return self.rng.choice(held) if held else None
            case None | "duplicate" | "late_copy":
                return answer
            case "truncate" if answer is not None and self.rng.random() < 0.5:
                # Something between mends the length; else the client sees that it is short.
                return Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2])
            case "garble" if answer is not None and answer.body:
                at = self.rng.randrange(len(answer.body))
                other = b"A" if answer.body[at : at + 1] != b"A" else b"B"
                body = answer.body[:at] + other + answer.body[at + 1 :]
                return Answer(answer.status, answer.headers, body)
            case _:
                return None

    def _lie(self, fault: Fault, request: Request) -> Answer:
        """An answer in the right form that the ledger never gave."""
        if request.path != "POST /v1/records" or request.body is None:
            return _answer(200, "application/json", b"{}")
        results: list[dict[str, Any]] = []
        for item in json.loads(request.body)["items"]:
            if fault == "problem_after":
                results.append({"problem": json.loads(_problem())})
            else:
                # By a key that nobody knows, or in the name of the ledger's.
                kid = self.rng.choice((_STRANGER.kid, *self.witness.ledger_keys))
                record = Opened.of(item["record"])
                outcome = _forged(record, self._original(record), fault, kid)
                results.append({"outcome": outcome})
        return _answer(200, "application/json", json.dumps({"results": results}).encode())

    def _original(self, record: Opened) -> Opened:
        """The sale that a record takes back; or the record itself, where nobody saw the sale."""
        named = record.payload["content"].get("record_sha256")
        return self.witness.left.get(named, record)


def _answer(status: int, kind: str, body: bytes, more: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, CaseInsensitiveDict({"Content-Type": kind, **(more or {})}), body)


def _problem() -> bytes:
    problem = {
        "type": "urn:carepos:problem:terminal_revoked",
        "title": "no",
        "status": 403,
        "detail": "no",
        "code": "terminal_revoked",
    }
    return json.dumps(problem).encode()


def _forged(record: Opened, original: Opened, fault: Fault, kid: str) -> str:
    said = record.payload
    outcome: dict[str, Any] = {
        "v": 1,
        "kind": said["kind"],
        "id": said["id"],
        "terminal": said["terminal"],
        "record_sha256": record.digest,
        "recorded_at": said["occurred_at"],
        "epoch": 1,
    }
    if fault == "forged_refused":
        outcome |= {"result": "refused", "refusal": {"code": "voucher_expired", "at": None}}
    elif said["kind"] in ("redeem", "void", "refund"):
        content = (said if said["kind"] == "refund" else original.payload)["content"]
        parts: dict[str, list[int]] = {}
        for entry in content.get("allocation", content.get("parts", [])):
            part = parts.setdefault(entry["voucher"], [0, 0])
            part[0] += entry["programme_minor"]
            part[1] += entry["quantity"]
        outcome |= {
            "result": "posted",
            "currency": content.get("currency", "CNY"),
            "amount_minor": sum(minor for minor, _ in parts.values()),
            "vouchers": [
                {
                    "voucher": voucher,
                    "amount_minor": minor,
                    "quantity": quantity,
                    "unit": None if not quantity else "piece",
                    "from_allotment_minor": 0,
                    "from_allotment_quantity": 0,
                    "available_minor": 0,
                    "available_quantity": 0,
                }
                for voucher, (minor, quantity) in sorted(parts.items())
            ],
        }
    elif said["kind"] == "reversal":
        outcome |= {"result": "reversed", "currency": None, "amount_minor": 0, "vouchers": []}
    else:
        outcome |= {"result": "posted"}
    header = {"alg": "EdDSA", "kid": kid, "typ": jws.OUTCOME}
    text = ".".join(b64(json.dumps(part).encode()) for part in (header, outcome))
    return f"{text}.{b64(_STRANGER.sign(text.encode()))}"
