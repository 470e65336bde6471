"""A second ledger, small and in memory, written from docs/protocol.md and its vectors alone.

It serves tills and imports nothing of carepos or carepos_ledger: what our till and it agree on is
what the page says. The operators' side is plain calls on `SecondLedger`, for it is no part of the
protocol.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.second_acting import Acting
from tests.second_identity import Identity
from tests.second_problems import Problem, is_any, is_text
from tests.second_rules import (
    Refusal,
    Refused,
    Situation,
    bucket,
    check,
    check_key_change,
    check_record,
    content_digest,
    exactly,
    text,
)
from tests.second_settlement import Entry, Settlement
from tests.second_signing import (
    Bad,
    Json,
    Key,
    PublicKey,
    Unread,
    b64,
    canonical,
    digest,
    read,
    receipt_no,
    unread,
    utc,
)
from tests.second_tokens import Shown
from tests.vectors.second import TerminalKeys

PACK, TIME, LOOKUP, OUTCOME = (
    f"carepos-{name}+jws" for name in ("manifest", "time", "lookup", "outcome")
)
# A programme that nobody may collect from for another says nothing of it.
_NOBODY = ("acting", None)
_ACTIVATION = text(r"cp1\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}")


@dataclass
class Terminal:
    name: str
    number: int
    store: str
    merchant: str
    enrolled: PublicKey
    enrolled_at: str
    status: str = "active"
    keys: dict[str, tuple[PublicKey, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys[self.enrolled.kid] = (self.enrolled, self.enrolled_at)
        self.order = TerminalKeys(self.enrolled.kid)


@dataclass(frozen=True)
class Holder:
    """A beneficiary, as the issuer knows them."""

    iss: str
    sub: str


@dataclass
class Attempt:
    """What is known under one (terminal, id). `record_sha256` is the redeem's that came first, or
    the one that a tombstone waits for; `sale` is that redeem, and `payload` what it was answered.
    """

    state: str = ""
    record_sha256: str = ""
    content_sha256: str = ""
    sale: Json = field(default_factory=dict)
    payload: Json = field(default_factory=dict)
    outcomes: list[str] = field(default_factory=list)


@dataclass
class Item:
    """An envelope that was verified."""

    record: Json
    digest: str
    terminal: Terminal
    token: str | None
    kid: str


def holder_of(shown: Shown) -> Holder:
    return Holder(shown.iss, shown.claims["sub"])


class SecondLedger:
    """Everything the ledger knows, behind one lock."""

    def __init__(
        self, now: Callable[[], datetime], ledger: str = "second", audience: str = "urn:second"
    ) -> None:
        self.now, self.ledger, self.audience = now, ledger, audience
        self.root, self.key, self.secret = Key.new(), Key.new(), secrets.token_bytes(32)
        self.lock = threading.RLock()
        self.identity, self.acting = Identity(now, audience), Acting()
        self.settlement = Settlement(now, self.key)
        self.products: dict[str, Json] = {}
        self.programmes: dict[str, Json] = {}
        self.admitted: dict[str, set[str]] = {}
        self.merchants: dict[str, str] = {}
        self.stores: dict[str, tuple[str, str]] = {}
        self.activations: dict[str, str] = {}
        self.used: dict[str, Terminal] = {}
        self.terminals: dict[str, Terminal] = {}
        self.buckets: dict[Holder, int] = {}
        self.vouchers: dict[str, Json] = {}
        self.holders: dict[str, Holder] = {}
        self.numbers: dict[tuple[str, str], dict[int, tuple[str, str]]] = {}
        self.held: dict[str, str] = {}
        self.attempts: dict[tuple[str, str], Attempt] = {}
        self.decided: dict[str, str] = {}

    # What an operator sets up.

    def put_store(self, store: str, merchant: str, merchant_name: str, store_name: str) -> None:
        self.merchants[merchant] = merchant_name
        self.stores[store] = (merchant, store_name)

    def put_programme(self, programme: Json) -> None:
        """`programme` as in the pack, without `stores` and `rules_version`."""
        name = programme["programme"]
        version = self.programmes.get(name, {"rules_version": 0})["rules_version"] + 1
        self.programmes[name] = {**programme, "rules_version": version}
        self.admitted.setdefault(name, set())
        self.settlement.begin(name)

    def activation(self, store: str) -> str:
        code = f"cp1.{b64(secrets.token_bytes(16))}.{self.root.public.kid}"
        self.activations[code] = store
        return code

    def issue(self, holder: Holder, **voucher: Any) -> str:
        """A new voucher's id. `voucher` as in a lookup, without `voucher` and `frozen`."""
        name = b64(secrets.token_bytes(16))
        self.vouchers[name] = {**voucher, "voucher": name, "frozen": False}
        self.holders[name] = holder
        self.buckets.setdefault(holder, secrets.randbelow(4096))
        return name

    def close(self, programme: str) -> int:
        """Sweep the programme's entries into one batch per merchant; how many were made."""
        with self.lock:
            return self.settlement.close(programme, self.programmes[programme]["currency"])

    # Keys and terminals.

    def key_set(self) -> Json:
        keys = [self.key.public.jwk]
        keyset = {"v": 1, "ledger": self.ledger, "version": 1, "epoch": 1, "keys": keys}
        signed = self.root.sign("carepos-keyset+jws", keyset)
        return {"keys": keys, "root": self.root.public.jwk, "keyset": signed}

    def enrol(self, body: Json) -> Json:
        if not exactly(activation=_ACTIVATION, public_key=is_any, proof=is_text)(body):
            raise Problem("malformed")
        key = PublicKey.of(body["public_key"])
        proof = read(body["proof"], "carepos-proof+jws", [key])
        if proof != {"v": 1, "activation_sha256": digest(body["activation"].encode())}:
            raise Problem("malformed", field="proof")
        with self.lock:
            store = self.activations.get(body["activation"])
            if store is None:
                raise Problem("activation_unknown")
            known = self.used.get(body["activation"])
            if known is None and self._owner(key.kid) is not None:
                raise Problem("already_exists_differently", field="public_key")
            if known is None:
                known = self.used[body["activation"]] = self._register(store, key)
            if known.enrolled != key:
                raise Problem("activation_used")
            return self.certificate(known, key.kid)

    def _register(self, store: str, key: PublicKey) -> Terminal:
        merchant, _ = self.stores[store]
        name, number = f"t-{secrets.token_hex(4)}", len(self.terminals) + 1
        made = Terminal(name, number, store, merchant, key, utc(self.now()))
        self.terminals[name] = made
        return made

    def certificate(self, terminal: Terminal, kid: str) -> Json:
        payload = {
            "v": 1,
            "ledger": self.ledger,
            "terminal": terminal.name,
            "terminal_no": terminal.number,
            "merchant": terminal.merchant,
            "merchant_name": self.merchants[terminal.merchant],
            "store": terminal.store,
            "store_name": self.stores[terminal.store][1],
            "key": kid,
            "audience": self.audience,
            "issued_at": terminal.keys[kid][1],
        }
        return {"certificate": self.key.sign("carepos-certificate+jws", payload)}

    def _owner(self, kid: str) -> Terminal | None:
        found = (terminal for terminal in self.terminals.values() if kid in terminal.keys)
        return next(found, None)

    def _by_kid(self, kid: str) -> PublicKey:
        owner = self._owner(kid)
        if owner is None:
            raise Bad("signature_invalid")
        return owner.keys[kid][0]

    def reader(self, bearer: str, method: str, path: str, body: bytes) -> tuple[Terminal, str, str]:
        """The terminal that signed a read token, the token's `jti`, and the key's `kid`."""
        if not bearer.startswith("Bearer "):
            raise Problem("unauthorised")
        try:
            thing = unread(bearer.removeprefix("Bearer "), "carepos-read+jwt")
            claims = thing.read(self._by_kid(thing.kid))
        except Bad as bad:
            raise Problem("unauthorised") from bad
        wanted = {"iss": claims.get("iss"), "aud": self.ledger, "htm": method, "htu": path}
        if body:
            wanted["body_sha256"] = digest(body)
        times: Json = {"iat": claims.get("iat"), "jti": claims.get("jti")}
        terminal = self.terminals.get(str(claims.get("iss")))
        if claims != {**wanted, **times} or terminal is None:
            raise Problem("unauthorised")
        if thing.kid not in terminal.order.reading:
            raise Problem("unauthorised")
        if terminal.status in ("revoked", "forked"):
            raise Problem("unauthorised")
        jti = times["jti"]
        if not _date(times["iat"]) or not text(r"[A-Za-z0-9_-]{22}")(jti):
            raise Problem("unauthorised")
        if abs(times["iat"] - self.now().timestamp()) > 60:
            at = {"v": 1, "server_time": utc(self.now()), "request": jti}
            raise Problem("clock_skew", server_time=self.key.sign(TIME, at))
        return terminal, str(jti), thing.kid

    # The pack and the lookup.

    def pack(self, terminal: Terminal) -> bytes:
        programmes = []
        for name, programme in sorted(self.programmes.items()):
            stores = [terminal.store] if terminal.store in self.admitted[name] else []
            told = {key: value for key, value in programme.items() if (key, value) != _NOBODY}
            programmes.append({**told, "stores": stores})
        file = {
            "v": 1,
            "terminal": terminal.name,
            "store": terminal.store,
            "audience": self.audience,
            "issuers": self.identity.issuers_told(),
            "programmes": programmes,
            "product_lists": [self.products[name] for name in sorted(self.products)],
            "revocations": self.identity.revocations(),
        }
        return canonical(file)

    def pack_manifest(self, terminal: Terminal) -> tuple[str, str]:
        file = self.pack(terminal)
        manifest = {
            "v": 1,
            "kind": "offline-pack",
            "terminal": terminal.name,
            "issued_at": utc(self.now()),
            "epoch": 1,
            "file": {"sha256": digest(file), "length": len(file)},
        }
        return digest(file), self.key.sign(PACK, manifest)

    def reference(self, merchant: str, holder: Holder) -> str:
        said = f"carepos/beneficiary-ref/v1|{merchant}|{holder.iss}|{holder.sub}".encode()
        return b64(hmac.new(self.secret, said, hashlib.sha256).digest())[:22]

    def lookup(self, terminal: Terminal, jti: str, token: str, proof: bytes | None) -> Json:
        with self.lock:
            if terminal.status != "active":
                raise Problem(f"terminal_{terminal.status}")
            try:
                shown = self.identity.read(token)
                self._known(holder_of(shown))
                until = self.identity.admit(shown, terminal.name, proof=proof)
            except Refused as refused:
                raise Problem(refused.refusal.code, 403, **refused.more) from refused
            holder = holder_of(shown)
            mine = [found for name, found in self.vouchers.items() if self.holders[name] == holder]
            mine.sort(
                key=lambda found: (
                    not (found["available_minor"] or found["available_quantity"]),
                    found["expires_at"],
                    found["voucher"],
                )
            )
            payload = {
                "v": 1,
                "request": jti,
                "terminal": terminal.name,
                "beneficiary": self.reference(terminal.merchant, holder),
                "bucket": self.buckets[holder],
                "as_of": utc(self.now()),
                "visit_until": utc(until),
                "rules": {
                    found["programme"]: self.programmes[found["programme"]]["rules_version"]
                    for found in mine[:20]
                },
                "vouchers": mine[:20],
            }
            if shown.actor is not None:
                payload["acted"] = {
                    name: self.acting.paid(shown, self.programmes[name], self.now())
                    for name in {found["programme"] for found in mine}
                    if self.programmes[name].get("acting")
                }
            return {"lookup": self.key.sign(LOOKUP, payload)}

    # Records.

    def records(self, envelopes: Sequence[object]) -> list[Json]:
        with self.lock:
            items = [self._counting(self._verified(envelope)) for envelope in envelopes]
            # All are noted before any is decided; what was noted is decided, also where a fork
            # came behind it.
            noted = {item.digest: self._note(item) for item in items if isinstance(item, Item)}
            return [self._answer(item, noted) for item in items]

    def _verified(self, envelope: object) -> Item | Problem:
        try:
            # Sealed evidence is reserved, and this ledger can't open any.
            if not isinstance(envelope, dict) or not set(envelope) <= {"record", "token"}:
                raise Bad
            token = envelope.get("token")
            if "token" in envelope and not isinstance(token, str):
                raise Bad
            thing: Unread = unread(envelope.get("record"), "carepos-record+jws")
            record = thing.read(self._by_kid(thing.kid))
            check_record(record)
            terminal = self.terminals.get(record["terminal"])
            if terminal is None or thing.kid not in terminal.keys:
                raise Bad("signature_invalid")
            if record["kind"] == "key_change":
                check_key_change(record, thing.kid)
        except Bad as bad:
            return Problem(bad.code)
        return Item(record, thing.digest, terminal, token, thing.kid)

    def _counting(self, item: Item | Problem) -> Item | Problem:
        """The item, unless another key has taken the place of the one that signed it. What was
        decided before keeps its outcome."""
        if isinstance(item, Problem) or {item.digest} & (self.decided.keys() | self.held.keys()):
            return item
        place = item.record["incarnation"], item.record["sequence"]
        if item.terminal.order.arrive(item.kid, *place):
            return item
        return Problem("signature_invalid")

    def _note(self, item: Item) -> str:
        """Note a record's place in its chain, if that is one line and the terminal in good
        standing; why it is held, else nothing."""
        terminal = item.terminal
        seen = self.numbers.setdefault((terminal.name, item.record["incarnation"]), {})
        number, prev = item.record["sequence"], item.record["prev"]
        if terminal.status in ("active", "suspended"):
            mine = item.digest, prev
            one_line = (
                seen.get(number, mine)[0] == item.digest
                and (number in seen or seen.get(number - 1, (prev, ""))[0] == prev)
                and (number in seen or seen.get(number + 1, ("", item.digest))[1] == item.digest)
            )
            if one_line:
                seen[number] = mine
                return ""
            if item.kid not in terminal.order.reading:
                # A key whose place was taken stops nobody.
                return "terminal_forked"
            terminal.status = "forked"
        return f"terminal_{terminal.status}"

    def _answer(self, item: Item | Problem, noted: dict[str, str]) -> Json:
        if isinstance(item, Problem):
            return {"problem": item.document}
        try:
            if item.digest in self.decided:
                return {"outcome": self.decided[item.digest]}
            if noted[item.digest]:
                return {"outcome": self._hold(item, noted[item.digest])}
            return {"outcome": self._decide(item)}
        except Problem as problem:
            return {"problem": problem.document}

    def _hold(self, item: Item, reason: str) -> str:
        """Keep it until a person decides; the same answer for the same record."""
        if item.digest not in self.held:
            self.held[item.digest] = self._signed(item, {"result": "held", "reason": reason})
        return self.held[item.digest]

    def _decide(self, item: Item) -> str:
        record, terminal = item.record, item.terminal
        attempt = self.attempts.get((terminal.name, record["id"]), Attempt())
        decides = {
            "redeem": self._redeem,
            "reversal": self._reverse,
            "key_change": self._change_key,
        }
        decide = decides.get(record["kind"], self._note_down)
        try:
            result = decide(item, attempt)
        except Refused as refused:
            refusal = {"code": refused.refusal.code, "at": refused.refusal.at}
            result = {"result": "refused", "refusal": refusal}
            if refused.refusal.code != "id_content_mismatch":
                self._begin(item, attempt, "refused", result)
        outcome = self._signed(item, result)
        self.attempts[terminal.name, record["id"]] = attempt
        attempt.outcomes.append(outcome)
        self.decided[item.digest] = outcome
        return outcome

    def _signed(self, item: Item, result: Json) -> str:
        bound = {name: item.record[name] for name in ("kind", "id", "terminal")}
        now = {"recorded_at": utc(self.now()), "epoch": 1}
        return self.key.sign(
            OUTCOME, {"v": 1, **bound, "record_sha256": item.digest, **now, **result}
        )

    def _note_down(self, item: Item, attempt: Attempt) -> Json:
        """`start` and `day_report`."""
        self._active(item.terminal)
        if item.record["kind"] == "day_report":
            seen = self.numbers[item.terminal.name, item.record["incarnation"]]
            missing = [n for n in range(1, item.record["sequence"]) if n not in seen]
            if missing:
                raise Problem("sequence_gap", missing=missing[:100])
        attempt.state = attempt.state or "posted"
        return {"result": "posted"}

    def _change_key(self, item: Item, attempt: Attempt) -> Json:
        self._active(item.terminal)
        key = PublicKey.of(item.record["content"]["key"])
        owner = self._owner(key.kid)
        elsewhere = owner is not None and owner is not item.terminal
        answer = item.terminal.order.announce(item.kid, key.kid, elsewhere)
        if answer != "posted":
            raise Problem(answer)
        item.terminal.keys.setdefault(key.kid, (key, utc(self.now())))
        attempt.state = "posted"
        return {"result": "posted"}

    def _active(self, terminal: Terminal) -> None:
        # What was noted before a fork is decided.
        if terminal.status == "suspended":
            raise Problem(f"terminal_{terminal.status}")

    def _begin(self, item: Item, attempt: Attempt, state: str, payload: Json) -> None:
        attempt.state, attempt.payload, attempt.sale = state, payload, item.record
        attempt.record_sha256, attempt.content_sha256 = item.digest, content_digest(item.record)

    def _redeem(self, item: Item, attempt: Attempt) -> Json:
        content = item.record["content"]
        if attempt.record_sha256:
            attempt.content_sha256 = attempt.content_sha256 or content_digest(item.record)
            if attempt.content_sha256 != content_digest(item.record):
                raise Refused("id_content_mismatch")
            if attempt.state == "reversed":
                return _nothing_put_back()
            return {**attempt.payload, **self._as_they_stand(attempt.payload)}
        self._active(item.terminal)
        programme = self.programmes.get(content["programme"])
        if programme is None or programme["currency"] != content["currency"]:
            raise Problem("malformed")
        shown = self._shown(item, programme)
        refusal = self._judge(item, programme, shown)
        if refusal is not None:
            raise Refused(refusal.code, refusal.at)
        parts = [
            (entry["voucher"], entry["programme_minor"], entry["quantity"])
            for entry in content["allocation"]
        ]
        payload = {"result": "posted", **self._book(content["currency"], parts, -1)}
        self._begin(item, attempt, "posted", payload)
        self._enter(item, item.record, payload["amount_minor"])
        self.acting.note(
            (item.terminal.name, item.record["id"]),
            shown,
            content["programme"],
            payload["amount_minor"],
            self.now(),
        )
        return payload

    def _as_they_stand(self, payload: Json) -> Json:
        """The vouchers of a stored answer with the balances of now."""
        names = ("available_minor", "available_quantity")
        told = [
            {**part, **{name: self.vouchers[part["voucher"]][name] for name in names}}
            for part in payload.get("vouchers", [])
        ]
        return {"vouchers": told} if "vouchers" in payload else {}

    def _shown(self, item: Item, programme: Json) -> Shown:
        """The good presentation that the record names, of its beneficiary, for its programme."""
        content = item.record["content"]
        if item.token is None or digest(item.token.encode()) != content["token_sha256"]:
            raise Problem("malformed", field="token")
        shown = self.identity.read(item.token)
        holder = holder_of(shown)
        if self.reference(item.terminal.merchant, holder) != content["beneficiary"]:
            raise Problem("malformed", field="content.beneficiary")
        self._known(holder)
        if self.buckets[holder] != bucket(item.record["id"]):
            raise Problem("malformed", field="id")
        self.identity.admit(shown, item.terminal.name, programme)
        return shown

    def _known(self, holder: Holder) -> None:
        """Whoever was never issued anything has no visits and no cards here either."""
        if holder not in self.buckets:
            raise Refused("voucher_unknown")

    def _judge(self, item: Item, programme: Json, shown: Shown) -> Refusal | None:
        content, holder = item.record["content"], holder_of(shown)
        # Only the bucket of the id is looked at: a ledger may keep each bucket somewhere else.
        near = {
            name
            for name, each in self.holders.items()
            if self.buckets[each] == self.buckets[holder]
        }
        mine = {name for name in near if self.holders[name] == holder}
        now = Situation(
            at=utc(self.now()),
            store=item.terminal.store,
            programme={**programme, "stores": sorted(self.admitted[content["programme"]])},
            products=self.products[programme["product_list"]]["entries"],
            vouchers={name: self.vouchers[name] for name in mine},
            others=frozenset(near - mine),
            acted=self.acting.paid(shown, programme, self.now()) if shown.actor else None,
        )
        return check(now, content["basket"], content["allocation"])

    def _book(self, currency: str, parts: Sequence[tuple[str, int, int]], sign: int) -> Json:
        """Take (`sign` -1) or put back (1) parts of vouchers; what the outcome says of it."""
        said = []
        for name in sorted({part[0] for part in parts}):
            voucher = self.vouchers[name]
            amount = sum(part[1] for part in parts if part[0] == name)
            quantity = sum(part[2] for part in parts if part[0] == name)
            if voucher["kind"] == "value":
                voucher["available_minor"] += sign * amount
            else:
                voucher["available_quantity"] += sign * quantity
            said.append(
                {
                    "voucher": name,
                    "amount_minor": amount,
                    "quantity": quantity,
                    "unit": voucher["terms"]["unit"] if voucher["terms"] else None,
                    "from_allotment_minor": 0,
                    "from_allotment_quantity": 0,
                    "available_minor": voucher["available_minor"],
                    "available_quantity": voucher["available_quantity"],
                }
            )
        amount = sum(part[1] for part in parts)
        return {"currency": currency, "amount_minor": amount, "vouchers": said}

    def _enter(self, item: Item, sale: Json, amount_minor: int) -> None:
        entry = Entry(
            item.record,
            item.digest,
            receipt_no(item.terminal.number, sale["sequence"]),
            sale,
            item.terminal.store,
            utc(self.now()),
            amount_minor,
        )
        self.settlement.enter(item.terminal.merchant, sale["content"]["programme"], entry)

    def _reverse(self, item: Item, attempt: Attempt) -> Json:
        named = item.record["content"]["record_sha256"]
        if attempt.record_sha256 not in ("", named):
            raise Refused("id_content_mismatch")
        attempt.record_sha256 = named
        if attempt.state in ("refused", "reversed"):
            return _nothing_put_back()
        was, attempt.state = attempt.state, "reversed"
        if was != "posted" or not attempt.sale:
            return _nothing_put_back()
        parts = [
            (part["voucher"], part["amount_minor"], part["quantity"])
            for part in attempt.payload["vouchers"]
        ]
        result = self._book(attempt.payload["currency"], parts, 1)
        self.acting.posted.pop((item.terminal.name, item.record["id"]), None)
        self._enter(item, attempt.sale, -result["amount_minor"])
        return {"result": "reversed", **result}

    def attempt(self, terminal: Terminal, jti: str, identifier: str) -> Json:
        with self.lock:
            known = self.attempts.get((terminal.name, identifier))
            if known is not None:
                return {"state": known.state, "outcomes": known.outcomes}
            payload = {
                "v": 1,
                "result": "not_found",
                "id": identifier,
                "terminal": terminal.name,
                "recorded_at": utc(self.now()),
                "epoch": 1,
                "request": jti,
            }
            return {"state": "not_found", "outcomes": [self.key.sign(OUTCOME, payload)]}


def _date(value: Any) -> bool:
    return type(value) is int


def _nothing_put_back() -> Json:
    return {"result": "reversed", "currency": None, "amount_minor": 0, "vouchers": []}
