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
from collections.abc import Callable, Container, Sequence
from datetime import datetime
from functools import partial
from itertools import zip_longest
from typing import Any

from tests.second_acceptances import accept_alone, went_out
from tests.second_acting import Acting
from tests.second_attempts import (
    Attempt,
    Holder,
    Item,
    Terminal,
    holder_of,
    nothing_put_back,
)
from tests.second_book import Allotment, Book
from tests.second_heal import (
    Heal,
)
from tests.second_identity import Identity
from tests.second_offline import Held, Offline
from tests.second_pack import Allotting, Household, Known
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
    strict_json,
    unb64,
    unread,
    utc,
)
from tests.second_tokens import Shown
from tests.second_undo import Undo

PACK, TIME, LOOKUP, OUTCOME, SALE = (
    f"carepos-{name}+jws" for name in ("manifest", "time", "lookup", "outcome", "sale")
)
# A programme that nobody may collect from for another says nothing of it.
_NOBODY = ("acting", None)
_ENVELOPE = {"record", "token", "evidence"}
_ACTIVATION = text(r"cp1\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}")


class SecondLedger:
    """Everything the ledger knows, behind one lock."""

    def __init__(
        self, now: Callable[[], datetime], ledger: str = "second", audience: str = "urn:second"
    ) -> None:
        self.now, self.ledger, self.audience = now, ledger, audience
        self.root, self.key, self.secret = Key.new(), Key.new(), secrets.token_bytes(32)
        self.lock = threading.RLock()
        self.heal, self.least_no = Heal(), 1
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
        self.book = Book()
        self.holders: dict[str, Holder] = {}
        self.numbers: dict[tuple[str, str], dict[int, tuple[str, str]]] = {}
        self.held: dict[str, str] = {}
        self.attempts: dict[tuple[str, str], Attempt] = {}
        self.decided: dict[str, str] = {}
        self.places: dict[tuple[str, str], dict[int, set[str]]] = {}
        self.allotting = Allotting(now, self.book)
        self.offline = Offline(self.book, self.allotting)
        self.packs: dict[str, tuple[str, bytes]] = {}
        self.said: dict[str, Known] = {}
        self.homes: dict[Holder, str] = {}
        self.undo = Undo(
            now,
            self.book,
            self.attempts,
            self.terminals,
            lambda sale: sale.record_sha256 in self.settlement.swept,
            self.own_allotments,
        )

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
        minor, quantity = voucher.pop("available_minor"), voucher.pop("available_quantity")
        self.book.issue(name, minor, quantity, voucher)
        self.holders[name] = holder
        self.buckets.setdefault(holder, secrets.randbelow(4096))
        return name

    def close(self, programme: str) -> int:
        """Sweep the programme's entries into one batch per merchant; how many were made."""
        with self.lock:
            return self.settlement.close(programme, self.programmes[programme]["currency"])

    # Keys and terminals.

    def key_set(self) -> Json:
        keys, epoch = [self.key.public.jwk], self.heal.epoch
        keyset = {"v": 1, "ledger": self.ledger, "version": epoch, "epoch": epoch, "keys": keys}
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
        name = f"t-{secrets.token_hex(4)}"
        number = max([self.least_no, *(each.number + 1 for each in self.terminals.values())])
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

    def by_kid(self, kid: str) -> PublicKey:
        owner = self._owner(kid)
        if owner is None:
            raise Bad("signature_invalid")
        return owner.keys[kid][0]

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

    def household_pack(self, terminal: Terminal, incarnation: str) -> tuple[str, str]:
        """The pack of `POST /v1/offline-pack`: its digest and its manifest."""
        with self.lock:
            if terminal.status != "active":
                raise Problem(f"terminal_{terminal.status}")
            households = []
            for holder, store in self.homes.items():
                reference = self.reference(terminal.merchant, holder)
                mine = [each["voucher"] for each in self._in_order(holder, terminal)]
                is_home = store == terminal.store
                for name in mine if is_home else ():
                    rule = self.programmes[self.book.vouchers[name]["programme"]].get("offline")
                    if rule:
                        self.allotting.set_aside(name, rule, terminal, incarnation)
                if not is_home:
                    mine = [
                        name
                        for name in mine
                        if any(
                            each.reclaim_after > utc(self.now())
                            for each in self.allotting.own(name, terminal.name, incarnation)
                        )
                    ]
                    if not mine:
                        continue
                households.append(Household(holder, reference, self.buckets[holder], mine, is_home))
            currencies = {name: each["currency"] for name, each in self.programmes.items()}
            names, files = self.allotting.households(
                households, terminal, incarnation, self.identity.cards.told, currencies
            )
            for sha256, file in files.items():
                self.packs[sha256] = terminal.name, file
            return self.pack_manifest(terminal, names)

    def pack_file(self, terminal: Terminal, sha256: str) -> bytes:
        if sha256 not in self.packs:
            self.pack_manifest(terminal)
        owner, file = self.packs.get(sha256, ("", b""))
        if owner != terminal.name:
            raise Problem("not_found")
        return file

    def pack_manifest(self, terminal: Terminal, names: Json | None = None) -> tuple[str, str]:
        """Its digest and its manifest; `names`: what a pack with households has besides."""
        file = canonical({**strict_json(self.pack(terminal)), **(names or {})})
        self.packs[digest(file)] = terminal.name, file
        self.said[digest(file)] = Known(
            {name: dict(each) for name, each in self.programmes.items()},
            {name: dict(each) for name, each in self.book.vouchers.items()},
            self.identity.withdrawals(),
        )
        manifest = {
            "v": 1,
            "kind": "offline-pack",
            "terminal": terminal.name,
            "issued_at": utc(self.now()),
            "epoch": self.heal.epoch,
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
            mine = self._in_order(holder, terminal)
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

    def _in_order(self, holder: Holder, terminal: Terminal) -> list[Json]:
        """A holder's vouchers as a terminal sees them, what is left first."""
        found = []
        for name in (name for name, each in self.holders.items() if each == holder):
            self.allotting.free(name)
            found.append(self.book.told(name, self.allotting.own(name, terminal.name)))
        found.sort(
            key=lambda each: (
                not (each["available_minor"] or each["available_quantity"]),
                each["expires_at"],
                each["voucher"],
            )
        )
        return found

    # Records.

    def records(self, envelopes: Sequence[object]) -> list[Json]:
        with self.lock:
            items = [self._counting(self._verified(envelope)) for envelope in envelopes]
            # All are noted before any is decided; what was noted is decided, also where a fork
            # came behind it.
            noted = {item.digest: self._note(item) for item in items if isinstance(item, Item)}
            return [
                self._answer(item, noted, behind)
                for item, behind in zip_longest(items, items[1:])
                if item is not None
            ]

    def _verified(self, envelope: object) -> Item | Problem:
        try:
            if not isinstance(envelope, dict) or not set(envelope) <= _ENVELOPE:
                raise Bad
            if not all(isinstance(each, str) for each in envelope.values()):
                raise Bad
            token, evidence = envelope.get("token"), envelope.get("evidence")
            if evidence is not None and (len(evidence) > 5_600 or len(unb64(evidence)) < 48):
                raise Bad
            thing: Unread = unread(envelope.get("record"), "carepos-record+jws")
            record = thing.read(self.by_kid(thing.kid))
            check_record(record)
            terminal = self.terminals.get(record["terminal"])
            if terminal is None or thing.kid not in terminal.keys:
                raise Bad("signature_invalid")
            if record["kind"] == "key_change":
                check_key_change(record, thing.kid)
        except Bad as bad:
            return Problem(bad.code)
        jws = envelope["record"]
        return Item(record, thing.digest, terminal, token, evidence, thing.kid, jws)

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

    def _answer(
        self, item: Item | Problem, noted: dict[str, str], behind: Item | Problem | None
    ) -> Json:
        """`behind`: the item that comes next."""
        if isinstance(item, Problem):
            return {"problem": item.document}
        try:
            if item.digest in self.decided:
                return {"outcome": self.decided[item.digest]}
            if noted[item.digest]:
                return {"outcome": self.hold(item, noted[item.digest])}
            if item.digest in self.held:
                return {"outcome": self.held[item.digest]}
            attempt = self._attempt(item)
            if item.record["kind"] == "redeem" and item.evidence and not attempt.record_sha256:
                return {"outcome": went_out(self, item, attempt, behind)}
            return {"outcome": self._decide(item)}
        except Problem as problem:
            return {"problem": problem.document}

    def hold(self, item: Item, reason: str) -> str:
        """Keep it until a person decides; the same answer for the same record."""
        if item.digest not in self.held:
            self.held[item.digest] = self._signed(item, {"result": "held", "reason": reason})
        return self.held[item.digest]

    def _attempt(self, item: Item) -> Attempt:
        return self.attempts.get((item.terminal.name, item.record["id"]), Attempt())

    def _decide(self, item: Item) -> str:
        record, attempt = item.record, self._attempt(item)
        decides: dict[str, Callable[[Item, Attempt], Json]] = {
            "redeem": self._redeem,
            "reversal": self._reverse,
            "key_change": self._change_key,
            "void": self._take_back,
            "refund": self._take_back,
            "return_allotment": self._return,
            "accept_offline": partial(accept_alone, self),
        }
        decide = decides.get(record["kind"], self._note_down)
        try:
            result = decide(item, attempt)
        except Held as held:
            return self.hold(item, held.reason)
        except Refused as refused:
            refusal: Json = {"code": refused.refusal.code, "at": refused.refusal.at}
            if refused.refusal.code == "reserved_elsewhere":
                refusal["reserved"] = self._reserved(str(refused.refusal.at), item)
            result = {"result": "refused", "refusal": refusal}
            if refused.refusal.code != "id_content_mismatch":
                self.begin(item, attempt, "refused", result)
        attempt.kind = attempt.kind or record["kind"]
        return self.keep(item, attempt, result)

    def _reserved(self, name: str, item: Item) -> Json:
        """Where a voucher's rest is set aside for the longest time."""
        own = self.own_allotments(name, item)
        others = [each for each in self.book.allotments[name] if each.open and each not in own]
        last = max(others, key=lambda each: each.reclaim_after)
        store = self.terminals[last.terminal].store
        return {"store_name": self.stores[store][1], "until": last.reclaim_after}

    def keep(self, item: Item, attempt: Attempt, result: Json) -> str:
        """Sign an outcome, for good."""
        record, terminal = item.record, item.terminal
        outcome = self._signed(item, result)
        self.attempts[terminal.name, record["id"]] = attempt
        attempt.outcomes.append(outcome)
        self.decided[item.digest] = outcome
        place = terminal.name, record["incarnation"]
        decided = self.places.setdefault(place, {})
        decided.setdefault(record["sequence"], set()).add(item.digest)
        return outcome

    def _signed(self, item: Item, result: Json) -> str:
        bound = {name: item.record[name] for name in ("kind", "id", "terminal")}
        now = {"recorded_at": utc(self.now()), "epoch": self.heal.epoch}
        return self.key.sign(
            OUTCOME, {"v": 1, **bound, "record_sha256": item.digest, **now, **result}
        )

    def _note_down(self, item: Item, attempt: Attempt) -> Json:
        """`start` and `day_report`."""
        self.active(item.terminal)
        if item.record["kind"] == "day_report":
            self._wait(item, self.numbers[item.terminal.name, item.record["incarnation"]])
        attempt.state = attempt.state or "posted"
        return {"result": "posted"}

    def _wait(self, item: Item, seen: Container[int]) -> None:
        missing = [n for n in range(1, item.record["sequence"]) if n not in seen]
        if missing:
            raise Problem("sequence_gap", missing=missing[:100])

    def wait_for_decisions(self, item: Item) -> None:
        """Of every earlier record of the terminal."""
        self._wait(item, self.places.get((item.terminal.name, item.record["incarnation"]), ()))

    def _change_key(self, item: Item, attempt: Attempt) -> Json:
        self.active(item.terminal)
        key = PublicKey.of(item.record["content"]["key"])
        owner = self._owner(key.kid)
        elsewhere = owner is not None and owner is not item.terminal
        answer = item.terminal.order.announce(item.kid, key.kid, elsewhere)
        if answer != "posted":
            raise Problem(answer)
        item.terminal.keys.setdefault(key.kid, (key, utc(self.now())))
        attempt.state = "posted"
        return {"result": "posted"}

    def active(self, terminal: Terminal) -> None:
        # What was noted before a fork is decided.
        if terminal.status == "suspended":
            raise Problem(f"terminal_{terminal.status}")

    def begin(self, item: Item, attempt: Attempt, state: str, payload: Json) -> None:
        attempt.state, attempt.payload, attempt.sale = state, payload, item.record
        attempt.kind, attempt.jws = item.record["kind"], item.jws
        attempt.recorded_at = utc(self.now())
        attempt.record_sha256, attempt.content_sha256 = item.digest, content_digest(item.record)

    def known_id(self, item: Item, attempt: Attempt) -> Json | None:
        """The result of what came before under the id, bound anew; None: nothing came."""
        tombstone = attempt.kind == "reversal" and item.record["kind"] == "redeem"
        if attempt.kind not in ("", item.record["kind"]) and not tombstone:
            raise Refused("id_content_mismatch")
        if not attempt.record_sha256:
            return None
        attempt.content_sha256 = attempt.content_sha256 or content_digest(item.record)
        if attempt.content_sha256 != content_digest(item.record):
            raise Refused("id_content_mismatch")
        if attempt.state == "reversed":
            return nothing_put_back("reversed")
        return {**attempt.payload, **self.as_they_stand(item, attempt.payload)}

    def _redeem(self, item: Item, attempt: Attempt) -> Json:
        content = item.record["content"]
        known = self.known_id(item, attempt)
        if known is not None:
            return known
        self.active(item.terminal)
        programme = self.programmes.get(content["programme"])
        if programme is None or programme["currency"] != content["currency"]:
            raise Problem("malformed")
        shown = self._shown(item, programme)
        refusal = self._judge(item, programme, shown)
        if refusal is not None:
            raise Refused(refusal.code, refusal.at)
        payload = {"result": "posted", **self._take(item, attempt, content)}
        self.begin(item, attempt, "posted", payload)
        self.enter(item, item.record, content["programme"], payload["amount_minor"])
        self.note_home(holder_of(shown), programme, item.terminal.store)
        self.acting.note(
            (item.terminal.name, item.record["id"]),
            shown,
            content["programme"],
            payload["amount_minor"],
            self.now(),
        )
        return payload

    def _stands(self, name: str, item: Item) -> Json:
        return self.book.told(name, self.own_allotments(name, item))

    def as_they_stand(self, item: Item, payload: Json) -> Json:
        """The vouchers of a stored answer with the balances of now."""
        names = ("available_minor", "available_quantity")
        told = [
            {**part, **{name: self._stands(part["voucher"], item)[name] for name in names}}
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
            vouchers={name: self.book.told(name, self.own_allotments(name, item)) for name in mine},
            reserved={name: self._elsewhere(name, item) for name in mine},
            others=frozenset(near - mine),
            acted=self.acting.paid(shown, programme, self.now()) if shown.actor else None,
        )
        return check(now, content["basket"], content["allocation"])

    def _elsewhere(self, name: str, item: Item) -> int:
        """What of a voucher is set aside for others."""
        own = self.own_allotments(name, item)
        others = [each for each in self.book.allotments[name] if each.open and each not in own]
        value = self.book.vouchers[name]["kind"] == "value"
        return sum(each.minor if value else each.quantity for each in others)

    def _take(self, item: Item, attempt: Attempt, content: Json) -> Json:
        """Take what an allocation says; what the outcome says of it."""
        told, wanted = [], []
        for name in sorted({entry["voucher"] for entry in content["allocation"]}):
            parts = [entry for entry in content["allocation"] if entry["voucher"] == name]
            minor = sum(entry["programme_minor"] for entry in parts)
            quantity = sum(entry["quantity"] for entry in parts)
            own = self.own_allotments(name, item)
            pot = self.book.pots[name]
            if minor > pot.minor or quantity > pot.quantity:
                self.wait_for_decisions(item)
            wanted.append((name, minor, quantity, own))
        for name, minor, quantity, own in wanted:
            taken = self.book.take(name, minor, quantity, own)
            attempt.taken.append(taken)
            told.append(self.book.said(name, taken.draws, own))
        amount = sum(each["amount_minor"] for each in told)
        return {"currency": content["currency"], "amount_minor": amount, "vouchers": told}

    def own_allotments(self, name: str, item: Item) -> list[Allotment]:
        """What is set aside of a voucher for the terminal that sent a record, for its journal."""
        self.allotting.free(name)
        return self.allotting.own(name, item.terminal.name, item.record["incarnation"])

    def enter(
        self, item: Item, named: Json, programme: str, amount_minor: int, at: str = ""
    ) -> None:
        """A settlement row of a record, under the number of the record `named`."""
        if amount_minor == 0:
            return
        entry = Entry(
            item.record,
            item.digest,
            receipt_no(item.terminal.number, named["sequence"]),
            named,
            item.terminal.store,
            at or utc(self.now()),
            amount_minor,
        )
        self.settlement.enter(item.terminal.merchant, programme, entry)

    def _reverse(self, item: Item, attempt: Attempt) -> Json:
        named = item.record["content"]["record_sha256"]
        if attempt.record_sha256 not in ("", named) or attempt.kind in ("void", "refund"):
            raise Refused("id_content_mismatch")
        attempt.record_sha256 = named
        if attempt.state in ("refused", "reversed"):
            return nothing_put_back("reversed")
        was, attempt.state = attempt.state, "reversed"
        if was != "posted" or not attempt.sale:
            return nothing_put_back("reversed")
        wanted = {taken.voucher: (taken.minor, taken.quantity) for taken in attempt.taken}
        result = self.undo.give_back(item, attempt, wanted, None)
        self._finish_undo(item, item.terminal.name, attempt, attempt.sale, result)
        return {**result, "result": "reversed"}

    def _take_back(self, item: Item, attempt: Attempt) -> Json:
        """`void` and `refund`."""
        known = self.known_id(item, attempt)
        if known is not None:
            return known
        self.active(item.terminal)
        self.wait_for_decisions(item)
        result = self.undo.book_it(item, self.programmes)
        self.begin(item, attempt, "posted", result)
        sale, by = self.undo.of(item), item.record["content"]["original"]["terminal"]
        if sale is not None:
            named = sale.sale if item.record["kind"] == "void" else item.record
            self._finish_undo(item, by, sale, named, result)
        return result

    def note_home(self, holder: Holder, programme: Json, store: str) -> None:
        if programme.get("offline"):
            self.homes[holder] = store

    def _return(self, item: Item, attempt: Attempt) -> Json:
        """`return_allotment`."""
        known = self.known_id(item, attempt)
        if known is not None:
            return known
        self.active(item.terminal)
        self.wait_for_decisions(item)
        back = self.offline.return_them(item)
        told = [
            self.book.said(name, draws, self.own_allotments(name, item)) for name, draws in back
        ]
        told = [each for each in told if each["amount_minor"] or each["quantity"]]
        result = nothing_put_back("posted")
        if told:
            programme = self.book.vouchers[told[0]["voucher"]]["programme"]
            result |= {
                "currency": self.programmes[programme]["currency"],
                "amount_minor": sum(each["amount_minor"] for each in told),
                "vouchers": told,
            }
        self.begin(item, attempt, "posted", result)
        return result

    def _finish_undo(
        self, item: Item, seller: str, sale: Attempt, named: Json, result: Json
    ) -> None:
        if item.record["kind"] != "refund":
            self.acting.posted.pop((seller, sale.sale["id"]), None)
        programme, back = sale.sale["content"]["programme"], result["amount_minor"]
        if sale.loss_minor:
            self.offline.reserves[programme] += sale.loss_minor
            back, sale.loss_minor = back + sale.loss_minor, 0
        self.enter(item, named, programme, -back)

    def find_sale(self, terminal: Terminal, jti: str, number: str, code: str | None) -> Json:
        with self.lock:
            told, record = self.undo.find(terminal, number, code)
            payload = {"v": 1, "request": jti, "terminal": terminal.name, **told}
            return {"sale": self.key.sign(SALE, payload), "record": record}

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
                "epoch": self.heal.epoch,
                "request": jti,
            }
            return {"state": "not_found", "outcomes": [self.key.sign(OUTCOME, payload)]}
