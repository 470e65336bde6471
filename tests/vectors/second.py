"""A second implementation of docs/protocol.md, written from that page alone.

It shares no line with the product and imports nothing of it, so that a vector holds what the
page says and not what the first implementation happens to do. Sums are fractions here on purpose.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

REFUSALS: dict[str, str] = {
    **dict.fromkeys(
        "malformed basket_too_large unsupported_kind signature_invalid".split(), "problem"
    ),
    "id_content_mismatch": "outcome",
    **dict.fromkeys("terminal_suspended terminal_revoked terminal_forked".split(), "problem"),
    **dict.fromkeys(
        "token_malformed token_issuer token_signature token_audience token_type token_expired"
        " token_not_yet_valid token_replayed token_revoked token_assurance programme_not_started"
        " programme_ended programme_paused store_not_in_programme voucher_unknown voucher_not_yours"
        " voucher_frozen voucher_not_started voucher_expired reserved_elsewhere not_in_product_list"
        " category_not_covered price_below_fixed price_above_cap quantity_not_allowed"
        " quota_exceeded limit_exceeded balance_insufficient proposal_changed offline_not_allowed"
        " pack_stale floor_limit stored_sum stored_count allotment_exceeded".split(),
        "outcome",
    ),
}
RANK = {code: number for number, code in enumerate(REFUSALS)}
HALF = Fraction(1, 2)


class Refused(Exception):
    """`code` is one of §6's."""

    def __init__(self, code: str, why: str = "") -> None:
        super().__init__(code, why)
        self.code = code


def need(true: object, why: str, code: str = "malformed") -> None:
    if not true:
        raise Refused(code, why)


# §1 primitives


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    need(len(text) % 4 != 1, "length")
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    need(b64(raw) == text, "a second spelling")
    return raw


def digest(raw: bytes) -> str:
    return b64(hashlib.sha256(raw).digest())


def _integer(text: str) -> int:
    need(len(text) <= 17 and abs(int(text)) < 2**53, "integer out of range")
    return int(text)


def _no(text: str) -> Any:
    raise Refused("malformed", f"not an integer: {text[:20]}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    need(len(dict(pairs)) == len(pairs), "name twice")
    return dict(pairs)


def parse(raw: bytes) -> Any:
    """Strict JSON."""
    depth = 0
    for mark in re.findall(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', raw, re.DOTALL):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark, 0)
        need(depth <= 32, "too deep")
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_no,
            parse_constant=_no,
        )
        jcs(value)  # a lone surrogate has no UTF-8
    except ValueError as error:
        raise Refused("malformed", "not JSON") from error
    return value


def jcs(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# §2 signed things


def public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def thumbprint(key: bytes) -> str:
    return digest(b'{"crv":"Ed25519","kty":"OKP","x":"%s"}' % b64(key).encode())


def sign(payload: bytes, typ: str, seed: bytes) -> str:
    header = {"alg": "EdDSA", "kid": thumbprint(public(seed)), "typ": typ}
    return sign_raw(jcs(header), payload, seed)


def sign_raw(header: bytes, payload: bytes, seed: bytes) -> str:
    start = f"{b64(header)}.{b64(payload)}"
    return f"{start}.{b64(Ed25519PrivateKey.from_private_bytes(seed).sign(start.encode()))}"


def jws_digest(text: str) -> str:
    return digest(text.rpartition(".")[0].encode("ascii"))


def verify(text: str, typ: str, keys: Sequence[bytes]) -> dict[str, Any]:
    """The payload, or Refused with malformed (steps 1-3 and 5) or signature_invalid (step 4)."""
    shape = re.fullmatch(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{86})", text)
    if shape is None or len(text) > 16_384:
        raise Refused("malformed", "shape")
    header_raw, payload_raw, signature = (unb64(part) for part in shape.groups())
    header = parse(header_raw)
    need(isinstance(header, dict) and sorted(header) == ["alg", "kid", "typ"], "header")
    need(all(isinstance(value, str) for value in header.values()), "header types")
    need(header["alg"] == "EdDSA" and header["typ"] == typ, "alg or typ")
    need(len(header["kid"]) == 43, "kid")
    known = {thumbprint(key): key for key in keys}
    need(header["kid"] in known, "unknown key", "signature_invalid")
    try:
        key = Ed25519PublicKey.from_public_bytes(known[header["kid"]])
        key.verify(signature, text.rpartition(".")[0].encode())
    except InvalidSignature as error:
        raise Refused("signature_invalid") from error
    need(len(payload_raw) <= 12_288, "payload too long")
    payload = parse(payload_raw)
    if not isinstance(payload, dict):
        raise Refused("malformed", "payload is no object")
    return payload


# §3 ids, §8 references, §12 and §13 numbers


def make_id(ms: int, bucket: int, random62: int) -> str:
    n = f"{ms << 80 | 8 << 76 | bucket << 64 | 2 << 62 | random62:032x}"
    return f"{n[:8]}-{n[8:12]}-{n[12:16]}-{n[16:20]}-{n[20:]}"


def id_bucket(text: str) -> int:
    hexes = r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    need(re.fullmatch(hexes, text), "id")
    return int(text[15:18], 16)


def terminal_bucket(terminal: str) -> int:
    return int(hashlib.sha256(terminal.encode()).hexdigest()[:3], 16)


def beneficiary_ref(secret: bytes, merchant: str, iss: str, sub: str) -> str:
    text = f"carepos/beneficiary-ref/v1|{merchant}|{iss}|{sub}"
    return b64(hmac.new(secret, text.encode(), "sha256").digest())[:22]


def first_prev(incarnation: str) -> str:
    return digest(f"carepos/incarnation/v1|{incarnation}".encode())


def first_previous(merchant: str, programme: str) -> str:
    return digest(f"carepos/settlement/v1|{merchant}|{programme}".encode())


def mod_11_10(digits: str) -> int:
    product = 10
    for figure in digits:
        product = ((product + int(figure)) % 10 or 10) * 2 % 11
    return (11 - product) % 10


def receipt_no(terminal_no: int, sequence: int) -> str:
    digits = f"{terminal_no:04}-{sequence:06}"
    return f"{digits}-{mod_11_10(digits.replace('-', ''))}"


def receipt_no_good(text: str) -> bool:
    match = re.fullmatch(r"([0-9]{4,})-([0-9]{6,})-[0-9]", text)
    return match is not None and receipt_no(int(match[1]), int(match[2])) == text


def receipt_qr(number: str, currency: str, amount_minor: int, record_digest: str) -> str:
    code = base64.b32encode(unb64(record_digest)).decode()[:16]
    return f"CP1*{number}*{currency}{amount_minor}*{code}"


# §4 records and §5 outcomes, as shapes

Shape = Callable[[Any], bool]


def text(pattern: str) -> Shape:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def whole(low: int, high: int) -> Shape:
    return lambda value: type(value) is int and low <= value <= high


def named(**shapes: Shape) -> Shape:
    def fits(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and value.keys() == shapes.keys()
            and all(shape(value[name]) for name, shape in shapes.items())
        )

    return fits


def many(shape: Shape, low: int, high: int) -> Shape:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and low <= len(value) <= high and all(map(shape, value))

    return fits


def null_or(shape: Shape) -> Shape:
    return lambda value: value is None or shape(value)


def moment(value: Any) -> bool:
    if not text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")(value):
        return False
    try:
        return datetime.fromisoformat(value).tzinfo == UTC
    except ValueError:
        return False


def day(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 10 and moment(f"{value}T00:00:00.000Z")


def product_key(value: Any) -> bool:
    if text(r"cat:[a-z0-9][a-z0-9-]{0,39}")(value):
        return True
    return (
        bool(text(r"[0-9]{14}")(value))
        and sum(int(figure) * (3, 1)[place % 2] for place, figure in enumerate(value)) % 10 == 0
    )


NAME, TAG = text(r"[a-z0-9][a-z0-9-]{0,39}"), text(r"[A-Za-z0-9._-]{1,40}")
B22, B43 = text(r"[A-Za-z0-9_-]{22}"), text(r"[A-Za-z0-9_-]{43}")
MONEY, COUNT, SAFE = whole(0, 10**12), whole(0, 10**9), whole(0, 2**53 - 1)
SIGNED, ONE, CURRENCY = whole(1 - 2**53, 2**53 - 1), whole(1, 1), text("[A-Z]{3}")
UNIT = text("piece|g|ml")
LINE = named(key=product_key, quantity=whole(1, 10**9), unit=UNIT, line_amount_minor=MONEY)
ENTRY = named(
    line=whole(1, 40), voucher=B22, quantity=COUNT, programme_minor=MONEY, beneficiary_minor=MONEY
)
SUM = named(programme=NAME, currency=CURRENCY, count=SAFE, amount_minor=SIGNED)


def JWK(value: Any) -> bool:  # noqa: N802  a shape like the others
    plain = {"kty": text("OKP"), "crv": text("Ed25519"), "x": B43}
    if not (named(**plain)(value) or named(**plain, kid=B43)(value)):
        return False
    try:
        key = unb64(value["x"])
    except Refused:
        return False
    return bool(value.get("kid", thumbprint(key)) == thumbprint(key))


CONTENT: dict[str, Shape] = {
    "start": named(software=lambda value: isinstance(value, str)),
    "redeem": named(
        checkout=TAG,
        cashier=TAG,
        presentment=text("online"),
        programme=NAME,
        rules_version=whole(1, 2**53 - 1),
        currency=CURRENCY,
        beneficiary=B22,
        token_sha256=B43,
        basket=many(LINE, 1, 10**6),
        allocation=many(ENTRY, 1, 80),
    ),
    "reversal": named(record_sha256=B43, reason=text("not_found|cancelled|goods_kept")),
    "day_report": named(
        z_no=SAFE,
        business_date=day,
        from_sequence=SAFE,
        to_sequence=SAFE,
        confirmed=SAFE,
        refused=SAFE,
        reversed=SAFE,
        open=SAFE,
        sums=many(SUM, 0, 10**6),
    ),
    "key_change": lambda content: (
        isinstance(content, dict) and JWK(content.get("key")) and isinstance(content["proof"], str)
    ),
}
RECORD = named(
    v=ONE,
    kind=text("[a-z_]{1,30}"),
    id=text("[0-9a-f-]{36}"),
    terminal=NAME,
    incarnation=text("[0-9a-f]{32}"),
    sequence=whole(1, 2**53 - 1),
    prev=B43,
    occurred_at=moment,
    content=lambda value: isinstance(value, dict),
)


PLAIN = ("start", "day_report", "key_change")


def judge_record(record: Any) -> str | None:
    """§4 alone, no state: a refusal's code, or None for a well-formed record."""
    if not RECORD(record):
        return "malformed"
    try:
        bucket = id_bucket(record["id"])
    except Refused as refused:
        return refused.code
    kind, content = record["kind"], record["content"]
    if kind not in CONTENT:
        return "unsupported_kind"
    if kind == "key_change" and content.keys() != {"key", "proof"}:
        return "unsupported_kind"
    basket = content.get("basket") if kind == "redeem" else None
    if isinstance(basket, list) and len(basket) > 40:
        return "basket_too_large"
    if not CONTENT[kind](content) or (
        kind in PLAIN and bucket != terminal_bucket(record["terminal"])
    ):
        return "malformed"
    if record["sequence"] == 1 and record["prev"] != first_prev(record["incarnation"]):
        return "malformed"
    if kind != "redeem":
        return None
    entries = content["allocation"]
    lines = [entry["line"] for entry in entries]
    well = (
        lines == sorted(lines)
        and lines[-1] <= len(content["basket"])
        and len({(entry["line"], entry["voucher"]) for entry in entries}) == len(entries)
        and len({entry["voucher"] for entry in entries}) <= 20
        and all(entry["programme_minor"] + entry["beneficiary_minor"] for entry in entries)
    )
    return None if well else "malformed"


# identity §11: keys change


def judge_key_change(record: Any, signer: bytes) -> str | None:
    """As `judge_record`, of a `key_change` that the key `signer` signed."""
    code = judge_record(record)
    if code is not None:
        return code
    new = unb64(record["content"]["key"]["x"])
    place = {name: record[name] for name in ("terminal", "incarnation", "sequence")}
    try:
        said = verify(record["content"]["proof"], "carepos-proof+jws", [new])
    except Refused:
        return "malformed"
    # As JSON text: Python takes true for 1.
    return None if new != signer and jcs(said) == jcs({"v": 1, **place}) else "malformed"


class TerminalKeys:
    """One terminal's keys by any name: which of them counts for a record that arrives now."""

    def __init__(self, enrolled: str) -> None:
        self.used = [enrolled]
        self.first: dict[str, tuple[str, int]] = {}
        self.waiting: set[str] = set()
        self.dropped: set[str] = set()

    def counts(self, key: str, incarnation: str, sequence: int) -> bool:
        if key not in self.used:
            return key in self.waiting
        after = self.used[self.used.index(key) + 1 :]
        if not after:
            return True
        place, number = self.first[after[0]]
        return place == incarnation and sequence < number

    def arrive(self, key: str, incarnation: str, sequence: int) -> bool:
        if not self.counts(key, incarnation, sequence):
            return False
        if key in self.waiting:
            self.used.append(key)
            self.dropped |= self.waiting - {key}
            self.waiting = set()
        place, number = self.first.setdefault(key, (incarnation, sequence))
        if place == incarnation:
            self.first[key] = place, min(number, sequence)
        return True

    def announce(self, by: str, new: str, elsewhere: bool = False) -> str:
        """`posted`, or the code of a problem. `elsewhere`: another terminal has or had that key."""
        if by != self.used[-1]:
            return "signature_invalid"
        if elsewhere or new in self.used or new in self.dropped:
            return "malformed"
        self.waiting.add(new)
        return "posted"

    @property
    def reading(self) -> set[str]:
        """Whose reads are answered."""
        return {self.used[-1], *self.waiting}


def takes_key_set(held: dict[str, Any], offered: dict[str, Any], root_kid: str) -> bool:
    """Whether a till that believes `held` takes the answer `offered` of jwks.json instead."""
    try:
        root = unb64(offered["root"]["x"])
        need(JWK(offered["root"]) and thumbprint(root) == root_kid, "root")
        new = verify(offered["keyset"], "carepos-keyset+jws", [root])
    except (Refused, KeyError, TypeError):
        return False
    old = parse(unb64(held["keyset"].split(".")[1]))
    shape = named(v=ONE, ledger=text("[ -~]{1,60}"), version=whole(1, 2**53 - 1),
                  epoch=whole(1, 2**53 - 1), keys=many(JWK, 1, 40))  # fmt: skip
    if not shape(new) or new["ledger"] != old["ledger"]:
        return False
    known, told = ({jwk["x"] for jwk in each["keys"]} for each in (old, new))
    return new["version"] > old["version"] and new["epoch"] >= old["epoch"] and known <= told


def content_sha256(record: Mapping[str, Any]) -> str:
    content = record["content"]
    names = ("allocation", "beneficiary", "currency", "programme")
    return digest(jcs({**{name: content[name] for name in names}, "terminal": record["terminal"]}))


BOOKED = named(
    voucher=B22,
    amount_minor=MONEY,
    quantity=COUNT,
    unit=null_or(UNIT),
    from_allotment_minor=MONEY,
    from_allotment_quantity=COUNT,
    available_minor=MONEY,
    available_quantity=COUNT,
)
HEAD = {
    "v": ONE,
    "result": text(".*"),
    "id": TAG,
    "terminal": NAME,
    "recorded_at": moment,
    "epoch": SAFE,
}
BOUND = {**HEAD, "kind": text("|".join(CONTENT)), "record_sha256": B43}
SUMS = {"amount_minor": MONEY, "vouchers": many(BOOKED, 0, 20)}
AT: Shape = lambda value: value is None or whole(1, 40)(value) or B22(value)  # noqa: E731
OUTCOMES: dict[str, list[Shape]] = {
    "posted": [named(**BOUND), named(**BOUND, **SUMS, currency=CURRENCY)],
    "refused": [named(**BOUND, refusal=named(code=text("|".join(REFUSALS)), at=AT))],
    "reversed": [named(**BOUND, **SUMS, currency=null_or(CURRENCY))],
    "not_found": [named(**HEAD, request=B22)],
}


def read_outcome(outcome: str, record: str, keys: Sequence[bytes], request: str | None) -> str:
    """What a till may believe about its record, or `unknown`. `request` is the read's `jti`."""
    mine = parse(unb64(record.split(".")[1]))
    try:
        said = verify(outcome, "carepos-outcome+jws", keys)
    except Refused:
        return "unknown"
    shapes = OUTCOMES.get(str(said.get("result")), [])
    bound = (said.get("id"), said.get("terminal")) == (mine["id"], mine["terminal"]) and (
        said.get("request") == request
        if said.get("result") == "not_found"
        else (said.get("record_sha256"), said.get("kind")) == (jws_digest(record), mine["kind"])
    )
    plain = said.get("kind") in PLAIN
    if said.get("result") == "posted":
        shapes = shapes[:1] if plain else shapes[1:]
    return str(said["result"]) if bound and any(shape(said) for shape in shapes) else "unknown"


# §7 the rules


def split(amount: int, weights: Sequence[int]) -> list[int]:
    exact = [Fraction(amount) * weight / sum(weights) for weight in weights]
    parts = [math.floor(share) for share in exact]
    by_rest = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_rest[: amount - sum(parts)]:
        parts[i] += 1
    return parts


def voucher_order(vouchers: Sequence[Mapping[str, Any]]) -> list[str]:
    def rank(voucher: Mapping[str, Any]) -> tuple[str, float, str]:
        return voucher["expires_at"], len(voucher["categories"]) or math.inf, voucher["voucher"]

    return [voucher["voucher"] for voucher in sorted(vouchers, key=rank)]


def item_entry(
    amount: int, n: int, q: int, terms: Mapping[str, int], top_up: bool
) -> tuple[int, int, str | None]:
    """L, the programme's part, and what is wrong with it."""
    share = math.floor(Fraction(amount * q, n) + HALF)  # of two parts a tie goes to the earlier
    portions = Fraction(q, terms["cap_quantity"])
    cap = math.floor(terms["cap_minor"] * portions)
    own = math.floor(terms["fixed_minor"] * portions)
    part = max(0, min(share, cap) - own)
    if share <= own:
        return share, part, "price_below_fixed"
    if share > cap and not top_up:
        return share, part, "price_above_cap"
    return share, part, None if part else "quantity_not_allowed"


def check(situation: Mapping[str, Any], allocation: Sequence[Mapping[str, Any]]) -> str | None:
    """Every fault is gathered and the first in §6's order is the answer; None: accepted."""
    at, programme, lines = situation["at"], situation["programme"], situation["lines"]
    others = {voucher["voucher"] for voucher in situation.get("others", [])}
    reserved = situation.get("reserved_elsewhere", {})
    vouchers = {voucher["voucher"]: voucher for voucher in situation["vouchers"]}
    found = {
        code
        for code, wrong in {
            "programme_not_started": at < programme["starts_at"],
            "programme_ended": at >= programme["ends_at"],
            "programme_paused": programme["paused"],
            "store_not_in_programme": situation["store"] not in programme["stores"],
            "limit_exceeded": sum(entry["programme_minor"] for entry in allocation)
            > (programme["limit_per_redemption_minor"] or math.inf),
        }.items()
        if wrong
    }
    for name in {entry["voucher"] for entry in allocation}:
        voucher = vouchers.get(name)
        if voucher is None:
            found.add("voucher_not_yours" if name in others else "voucher_unknown")
            continue
        mine = [entry for entry in allocation if entry["voucher"] == name]
        counts = "programme_minor" if voucher["kind"] == "value" else "quantity"
        holds = voucher["available_minor" if voucher["kind"] == "value" else "available_quantity"]
        short = sum(entry[counts] for entry in mine) - holds
        found |= {
            code
            for code, wrong in {
                "voucher_frozen": voucher["frozen"],
                "voucher_not_started": at < voucher["starts_at"],
                "voucher_expired": at >= voucher["expires_at"],
                "reserved_elsewhere": 0 < short <= reserved.get(name, 0),
                "balance_insufficient": short > 0,
            }.items()
            if wrong
        }
    used: dict[str, int] = {}
    for number in sorted({entry["line"] for entry in allocation}):
        line = lines[number - 1]
        category = situation["product_list"]["entries"].get(line["key"])
        if category is None:
            found.add("not_in_product_list")
        left, n, pieces, money = line["line_amount_minor"], line["quantity"], 0, 0
        before = (left, n)
        for entry in (entry for entry in allocation if entry["line"] == number):
            voucher = vouchers.get(entry["voucher"])
            if voucher is None:
                continue
            q, part = entry["quantity"], entry["programme_minor"]
            if voucher["categories"] and category not in voucher["categories"]:
                found.add("category_not_covered")
            if voucher["kind"] == "value":
                if q:
                    found.add("quantity_not_allowed")
                if not 1 <= part <= left or entry["beneficiary_minor"]:
                    found.add("proposal_changed")
                left, money = left - part, money + part
                continue
            terms = voucher["terms"]
            if (
                terms["unit"] != line["unit"]
                or not 1 <= q <= n
                or (terms["fixed_minor"] and q % terms["cap_quantity"])
            ):
                found.add("quantity_not_allowed")
                continue
            if money:
                found.add("proposal_changed")  # only value entries may follow
                continue
            share, right, wrong_code = item_entry(left, n, q, terms, programme["top_up_allowed"])
            found |= {wrong_code} if wrong_code else set()
            if (part, entry["beneficiary_minor"]) != (right, share - right):
                found.add("proposal_changed")
            left, n, pieces = left - share, n - q, pieces + q
            before = (left, n)
        for quota in programme["quotas"]:
            if quota["category"] == category:
                if quota["unit"] != line["unit"]:
                    found.add("quantity_not_allowed")
                by_money = Fraction(money * before[1], before[0] or 1)
                used[category] = used.get(category, 0) + pieces + math.ceil(by_money)
                if used[category] > quota["quantity"]:
                    found.add("quota_exceeded")
    return min(found, key=RANK.__getitem__, default=None)
