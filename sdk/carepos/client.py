"""The till's side of the HTTP interface (docs/protocol.md §9). It never decides and never retries.

An answer is only as good as its signature; this module brings bytes and says `Unreachable` for
whatever is not an answer of the agreed form: a timeout, a reset, a captive portal, a redirect.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import jwt
import requests

from carepos import deadline, ids, strict_json
from carepos.clock import Clock
from carepos.errors import ClockSkew, Malformed, NotDecided, Unreachable, problem_from
from carepos.ids import RandomBytes
from carepos.keys import SigningKey, b64, digest
from carepos.watched_http import WatchedAdapter

READ_TYP = "carepos-read+jwt"
MAX_ANSWER_BYTES = 4 * 2**20
MAX_FILE_BYTES = 64 * 2**20
CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 8.0
FILE_TIMEOUT_S = 120.0
"""For making or fetching a pack, or a settlement over a slow line: nobody waits at the counter."""
MAX_RETRY_AFTER_S = 300
"""A hint that nobody signed: it may slow a till down, not silence it."""


def read_token(
    key: SigningKey,
    *,
    terminal: str,
    ledger: str,
    method: str,
    target: str,
    issued_at_s: int,
    jti: str,
    body: bytes | None,
) -> str:
    """The JWT that authenticates one read: bound to method, target, body and this minute."""
    claims: dict[str, object] = {
        "iss": terminal,
        "aud": ledger,
        "htm": method,
        "htu": target,
        "iat": issued_at_s,
        "jti": jti,
    }
    if body is not None:
        claims["body_sha256"] = digest(body)
    return jwt.encode(
        claims, key.private_key(), algorithm="EdDSA", headers={"kid": key.kid, "typ": READ_TYP}
    )


class Transport:
    """One ledger over HTTP, without credentials: what enrolment and records need.

    `answer_timeout_s` is for all of a call: finding the name, connecting, and the whole answer,
    however slowly it comes. `answered`: whether the newest call had an answer of a ledger's form.
    """

    def __init__(
        self,
        url: str,
        *,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        self.answered = False
        self._monotonic = monotonic
        self._quiet_until = monotonic()
        self._answer_timeout_s = answer_timeout_s
        self._session = requests.Session()
        # A .netrc or proxy variable of the shop's PC must not reach or reroute money calls.
        self._session.trust_env = False
        adapter = WatchedAdapter(max_retries=0, pool_maxsize=4)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def close(self) -> None:
        self._session.close()

    def quiet_s(self) -> float:
        """How long whoever answered last still wants to be left alone."""
        return max(0.0, self._quiet_until - self._monotonic())

    def call(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        limit: int = MAX_ANSWER_BYTES,
        deadline_s: float | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body). Raises Unreachable for every failure of the way there."""
        sent = {"Accept": "application/json", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        limit_s = self._answer_timeout_s if deadline_s is None else deadline_s
        self.answered = False
        try:
            return deadline.within(
                limit_s, lambda: self._exchange(method, target, body, sent, limit, limit_s)
            )
        except Unreachable:
            raise
        except TimeoutError:
            raise Unreachable(f"no answer from the ledger within {limit_s:g} s") from None
        except Exception as error:  # noqa: BLE001
            # Not RequestException alone: requests lets errors of urllib3 and of reading a bad
            # Location out. The exception's own text can hold the URL; its type says enough.
            raise Unreachable(f"no answer from the ledger ({type(error).__name__})") from None

    def _exchange(
        self,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
        limit: int,
        limit_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        with self._session.request(
            method,
            self.url + target,
            data=body,
            headers=headers,
            timeout=(min(CONNECT_TIMEOUT_S, limit_s), limit_s),
            allow_redirects=False,
            stream=True,
        ) as answer:
            content = bytearray()
            for chunk in answer.iter_content(65_536):
                content += chunk
                if len(content) > limit:
                    raise Unreachable("the answer is larger than any answer may be")
            return answer.status_code, answer.headers, bytes(content)

    def json(
        self,
        method: str,
        target: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        expected: Sequence[int] = (200,),
        deadline_s: float | None = None,
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        """The JSON object of an expected answer.

        Raises NotDecided for a problem document, Unreachable for anything else.
        """
        data = None if body is None else strict_json.canonical(body)
        status, answered, content = self.call(
            method, target, body=data, headers=headers, deadline_s=deadline_s
        )
        kind = answered.get("Content-Type", "").split(";")[0].strip().lower()
        with suppress(Malformed):
            if status in expected and kind == "application/json":
                document = strict_json.read_object(content)
                self.answered, self._quiet_until = True, self._monotonic()
                return document, answered
        raise self.problem(status, answered, content)

    def problem(
        self, status: int, answered: Mapping[str, str], content: bytes
    ) -> NotDecided | Unreachable:
        """What an answer is that was not expected; how long to wait is noted."""
        kind = answered.get("Content-Type", "").split(";")[0].strip().lower()
        error: NotDecided | Unreachable = Unreachable(
            f"not an answer of a ledger (HTTP {status}, {kind[:40] or 'no type'})"
        )
        if kind == "application/problem+json":
            with suppress(Malformed):
                error = problem_from(status, strict_json.read_object(content))
                self.answered = True
        asked = answered.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", asked):  # a date would be another clock's
            error.retry_after_s = min(int(asked), MAX_RETRY_AFTER_S)
            self._quiet_until = self._monotonic() + error.retry_after_s
        return error


def send_records(
    transport: Transport, items: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """POST /v1/records; one result per item, `{"outcome"}` or `{"problem"}`, unverified. Anybody
    may send them: the envelopes say who signed. Raises Unreachable, NotDecided."""
    answer, _ = transport.json("POST", "/v1/records", body={"items": list(items)})
    results = answer.get("results")
    if not isinstance(results, list) or len(results) != len(items):
        raise Unreachable("not an answer of a ledger (results do not match the items)")
    if not all(isinstance(result, dict) for result in results):
        raise Unreachable("not an answer of a ledger (a result is no object)")
    return results


class Client:
    """One terminal's calls. Answers come back unread: their signatures are for the caller."""

    def __init__(
        self,
        transport: Transport,
        *,
        terminal: str,
        ledger: str,
        key: SigningKey,
        now: Clock,
        random_bytes: RandomBytes = os.urandom,
    ) -> None:
        self._transport = transport
        self._terminal = terminal
        self._ledger = ledger
        self._key = key
        self._now = now
        self._random_bytes = random_bytes
        self.on_skew: Callable[[ClockSkew, str], bool] = lambda error, jti: False
        """Told a `clock_skew` and the read that it answers; whether `now` is right from here on.
        Then the read, which changes nothing, is made once more."""
        self.on_suspended: Callable[[bool], None] = lambda is_suspended: None
        """Told whether this terminal is suspended, by what a suspended one may not read."""

    def close(self) -> None:
        self._transport.close()

    def quiet_s(self) -> float:
        """How long the ledger, or whoever answered for it, still wants to be left alone."""
        return self._transport.quiet_s()

    @property
    def answered(self) -> bool:
        """Whether the newest call had an answer of a ledger's form."""
        return self._transport.answered

    def send(self, items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """As `send_records`."""
        return send_records(self._transport, items)

    def ask(self, attempt_id: str) -> tuple[list[Any], str]:
        """GET /v1/records/{id}: (outcomes unverified, jti of the read)."""
        answer, jti = self._read("GET", f"/v1/records/{attempt_id}")
        outcomes = answer.get("outcomes")
        if not isinstance(outcomes, list) or not outcomes:
            raise Unreachable("not an answer of a ledger (no outcomes)")
        return outcomes, jti

    def look_up(
        self, token: str, pin_proof: str | None = None, *, deadline_s: float | None = None
    ) -> tuple[object, str]:
        """POST /v1/vouchers/lookup: (signed lookup unverified, jti). NotDecided: token refused."""
        proved = {} if pin_proof is None else {"pin_proof": pin_proof}
        answer, jti = self._read_active(
            "/v1/vouchers/lookup", {"token": token, **proved}, deadline_s=deadline_s
        )
        return answer.get("lookup"), jti

    def find_sale(self, receipt_no: str, code: str | None) -> tuple[object, object, str]:
        """POST /v1/sales/find: (signed sale, its record, jti), both unverified: `found_sale.read`.

        `code`: the 16 characters of the receipt's QR, where it can be read. NotDecided `not_found`:
        no sale of this merchant, or one that can't be told apart.
        """
        body = {"receipt_no": receipt_no, "code": code}
        answer, jti = self._read("POST", "/v1/sales/find", body=body)
        return answer.get("sale"), answer.get("record"), jti

    def use_key(self, key: SigningKey) -> None:
        """Sign every read from now on with `key`."""
        self._key = key

    def key_set(self) -> dict[str, Any]:
        """GET /.well-known/jwks.json: the ledger's key set, unverified."""
        return self._transport.json("GET", "/.well-known/jwks.json")[0]

    def greet(self) -> None:
        """A read whose only use is that the ledger tells a clock that is wrong (`on_skew`)."""
        self._read("GET", "/v1/terminal")

    def certificate(self, key: SigningKey) -> object:
        """GET /v1/terminal, signed with `key`: the terminal's certificate for it, unverified."""
        return self._read("GET", "/v1/terminal", key=key)[0].get("certificate")

    def heal(self, body: Mapping[str, object]) -> dict[str, Any]:
        """POST /v1/heal: what the ledger holds, and what became of what is offered; unverified."""
        return self._read("POST", "/v1/heal", body=body)[0]

    def heal_pack(self, body: Mapping[str, object]) -> object:
        """POST /v1/heal/pack: which files of the pack the ledger still lacks, unverified."""
        return self._read("POST", "/v1/heal/pack", body=body)[0].get("missing")

    def pack_manifest(self) -> object:
        answer, _ = self._read("GET", "/v1/offline-pack")
        return answer.get("manifest")

    def make_pack(self, incarnation: str) -> object:
        """POST /v1/offline-pack: the manifest of a pack for this journal, unverified."""
        answer, _ = self._read_active(
            "/v1/offline-pack", {"incarnation": incarnation}, deadline_s=FILE_TIMEOUT_S
        )
        return answer.get("manifest")

    def pack_file(self, sha256: str) -> bytes:
        return self._file(f"/v1/offline-pack/{sha256}")

    def settlements(self) -> list[Any]:
        """Every settlement of this merchant: `{"programme","batch_no","manifest"}`, unverified but
        for its form.

        A ledger lists them in parts: it is asked on behind the last one until none comes.
        """
        found: list[Any] = []
        last: tuple[str, int] | None = None
        while part := self._settlements(last):
            place = (part[-1]["programme"], part[-1]["batch_no"])
            if last is not None and place <= last:
                raise Unreachable("not an answer of a ledger (settlements do not go on)")
            found += part
            last = place
        return found

    def _settlements(self, after: tuple[str, int] | None) -> list[dict[str, Any]]:
        behind = "" if after is None else f"?after={after[0]}:{after[1]}"
        answer, _ = self._read("GET", f"/v1/settlements{behind}")
        try:
            part = strict_json.array(
                answer.get("settlements"), "settlements", high=MAX_ANSWER_BYTES
            )
            for each in part:
                named = strict_json.exact_names(
                    each, {"programme", "batch_no", "manifest"}, where="settlements"
                )
                ids.name(named["programme"], "settlements.programme")
                strict_json.integer(named["batch_no"], "settlements.batch_no", low=1)
        except Malformed as error:
            raise Unreachable(f"not an answer of a ledger ({error})") from None
        return part

    def settlement_file(self, programme: str, batch_no: int) -> bytes:
        return self._file(f"/v1/settlements/{programme}/{batch_no}")

    def _read_active(
        self, target: str, body: object, *, deadline_s: float | None
    ) -> tuple[dict[str, Any], str]:
        """A read that a suspended terminal is refused."""
        try:
            answer = self._read("POST", target, body=body, deadline_s=deadline_s)
        except NotDecided as error:
            if error.code == "terminal_suspended":
                self.on_suspended(True)
            raise
        self.on_suspended(False)
        return answer

    def _read(
        self,
        method: str,
        target: str,
        *,
        body: object = None,
        key: SigningKey | None = None,
        deadline_s: float | None = None,
    ) -> tuple[dict[str, Any], str]:
        data = None if body is None else strict_json.canonical(body)

        def read(headers: Mapping[str, str]) -> dict[str, Any]:
            return self._transport.json(
                method, target, body=body, headers=headers, deadline_s=deadline_s
            )[0]

        jti, headers = self._credentials(method, target, data, key)
        try:
            return read(headers), jti
        except ClockSkew as error:
            if not self.on_skew(error, jti):
                raise
        jti, headers = self._credentials(method, target, data, key)
        try:
            return read(headers), jti
        except ClockSkew as error:
            self.on_skew(error, jti)
            raise

    def _file(self, target: str) -> bytes:
        _, headers = self._credentials("GET", target, None)
        status, answered, content = self._transport.call(
            "GET", target, headers=headers, limit=MAX_FILE_BYTES, deadline_s=FILE_TIMEOUT_S
        )
        if status == 200:
            self._transport.answered = True
            return content
        raise self._transport.problem(status, answered, content)

    def _credentials(
        self, method: str, target: str, body: bytes | None, key: SigningKey | None = None
    ) -> tuple[str, dict[str, str]]:
        jti = b64(self._random_bytes(16))
        token = read_token(
            key or self._key,
            terminal=self._terminal,
            ledger=self._ledger,
            method=method,
            target=target,
            issued_at_s=int(self._now().timestamp()),
            jti=jti,
            body=body,
        )
        return jti, {"Authorization": f"Bearer {token}"}
