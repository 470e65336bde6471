"""A million mutated codes, cards and key sets: `make fuzz`, or `python -m tests.fuzz_tokens 50000`.

Coverage-guided by atheris where it is installed (`pip install atheris`, no dependency of ours),
else by plain mutation. What must hold of every input:

- nothing but our own refusals leaves;
- the second implementation, written from the page, gives the same verdict and the same code;
- a text that is taken without a key in hand is one of the good ones it grew from, unless only the
  spelling of an ECDSA signature changed.

The first byte of an input says what the others are; see `KINDS`.
"""

# ruff: noqa: E501
# Tables read better with their cases on long lines.

from __future__ import annotations

import base64
import importlib.util
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FunctionType
from typing import Any

from carepos import presentation
from carepos.errors import Malformed, Refused
from carepos.issuer_keys import IssuerKey, IssuerKeys
from carepos.revocation import Revocations
from carepos.token import TokenVerifier
from tests.vectors import second, second_tokens, token_vectors
from tests.vectors.token_keys import compact, jwk
from tests.vectors.token_vectors import AT, AUDIENCE, ED, ISSUERS, PHONE, REVOCATIONS, N

Json = dict[str, Any]
NOW = datetime.fromtimestamp(AT, UTC)


def _held(issuer: Json) -> IssuerKeys:
    first = IssuerKeys.from_jwks(second.jcs(issuer["jwks"]), NOW)
    until = {k: datetime.fromtimestamp(t, UTC) for k, t in issuer["retiring"].items()}
    return IssuerKeys(first.keys, until, NOW)


OURS = TokenVerifier(
    {each["iss"]: _held(each) for each in ISSUERS}, AUDIENCE, Revocations.from_json(REVOCATIONS)
)
SECOND = {
    each["iss"]: second_tokens.Held(
        second_tokens.key_set(second.jcs(each["jwks"]))[0], AT, each["retiring"]
    )
    for each in ISSUERS
}


def our_verdict(scanned: str) -> str | None:
    try:
        OURS.verify(scanned, NOW)
    except Refused as refused:
        return refused.code
    return None


def second_verdict(scanned: str) -> str | None:
    try:
        found = second_tokens.verify(scanned, SECOND, AUDIENCE, REVOCATIONS, AT)
        second_tokens.first_use(found)
    except second.Refused as refused:
        return refused.code
    return None


def _one_spelling(text: str) -> str:
    """With the smaller s in each signature that could be ECDSA's."""
    told = []
    for each in text.split("~"):
        start, dot, signature = each.rpartition(".")
        raw = second.unb64(signature)
        if len(raw) == 64:
            s = int.from_bytes(raw[32:], "big")
            raw = raw[:32] + min(s, (N - s) % 2**256).to_bytes(32, "big")
        told.append(start + dot + second.b64(raw))
    return "~".join(told)


GOOD = [str(case[1]) for case in token_vectors.good_cases() if case[2] == AT]
_GOOD = {_one_spelling(presentation.read(text).text) for text in GOOD}


class Dice:
    """Small choices out of an input's bytes; zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self, below: int) -> int:
        got = int.from_bytes(self.data[self.at : self.at + 2], "big")
        self.at += 2
        return got % below

    def rest(self) -> bytes:
        return self.data[self.at :]


# kinds of inputs


def _text(data: bytes) -> str | None:
    """A text as a scanner types it."""
    scanned = data.decode("utf-8", "surrogateescape")
    code = agreed(scanned)
    if code is None:
        assert _one_spelling(presentation.read(scanned).text) in _GOOD
    return code


def _signed(data: bytes) -> str | None:
    """Header and claims of any bytes, well signed; a line feed between."""
    header, _, claims = data.partition(b"\n\n")
    return agreed(compact(header or b" ", claims or b" ", ED))


_HEADER: Json = {"alg": "EdDSA", "kid": token_vectors.BY_ED.kid, "typ": "care+jwt"}
_BINDING: Json = {"iat": AT, "aud": AUDIENCE, "nonce": token_vectors.NONCE, "sd_hash": ""}
_CARD: Json = {**token_vectors.CLAIMS, **token_vectors.CARD, "cnf": token_vectors.cnf(PHONE)}
_NAMES = (*_CARD, "act", "care_reason", "sd_hash", "nonce", "jwk", "alg", "kid", "typ", "crit", "x")
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, AT, AT + 60, AT + 61, AT + 600, AT + 900, AT + 901, AT - 300, 2**53, 1.0, "", "x", "once", "card", "face",
    "carepos:witness", "frail", "EdDSA", "Ed25519", "ES256", "none", "care+jwt", "kb+jwt", [], ["face"], ["otp", "carepos:witness"], ["face", "face"], {},
    {"sub": "a"}, {"iss": "i", "sub": "a"}, {"jwk": jwk(PHONE)}, {"jwk": jwk(ED)}, {"jwk": {}}, "~" * 64, "x" * 65, AUDIENCE, [AUDIENCE], "爱", "\0",
    253_402_300_799, AT + 34_560_000, [[[]]], [[[[]]]], token_vectors.ISSUER, token_vectors.SECOND_ISSUER, "ec 1", "withdrawn",
)  # fmt: skip


def _changed(names: Json, dice: Dice, seldom: int = 1) -> bytes:
    """JSON with some of its names taken out, put in, exchanged or told twice; one time in `seldom`."""
    pairs = list(names.items())
    for _ in range(dice.number(4) if dice.number(seldom) == 0 else 0):
        how, value = dice.number(5), _VALUES[dice.number(len(_VALUES))]
        place = dice.number(len(pairs)) if pairs else 0
        if how == 0 and pairs:
            pairs.pop(place)
        elif how == 1:
            pairs.insert(place, (_NAMES[dice.number(len(_NAMES))], value))
        elif how == 2 and pairs:
            pairs.append((pairs[place][0], value))
        elif pairs:
            pairs[place] = (pairs[place][0], value)
    return b"{" + b",".join(second.jcs({n: v})[1:-1] for n, v in pairs) + b"}"


def _token(data: bytes) -> str | None:
    """A token whose header and claims are changed by name and value, well signed."""
    dice = Dice(data)
    act: Json = {**token_vectors.ACT, "amr": ["otp"]}
    more: Json = ({}, act, token_vectors.CARD)[dice.number(3)]
    header = _changed(_HEADER, dice, seldom=5)
    return agreed(compact(header, _changed({**token_vectors.CLAIMS, **more}, dice), ED))


def _wallet(data: bytes) -> str | None:
    """A token with `cnf` and a KB-JWT, both changed, both well signed."""
    dice = Dice(data)
    text = compact(_changed(_HEADER, dice, 20), _changed(_CARD, dice, 4), ED)
    body = {**_BINDING, "sd_hash": second.digest(f"{text}~".encode())}
    header = _changed({"alg": "EdDSA", "typ": "kb+jwt"}, dice, 5)
    return agreed(f"{text}~{compact(header, _changed(body, dice), PHONE)}")


def _card(data: bytes) -> str | None:
    """What stands around a card's token, from a scanner and on the card."""
    around, _, behind = data.decode("utf-8", "surrogateescape").partition("*")
    scanned = f"{around}*{behind}{token_vectors.GOOD}"
    return agreed(scanned)


def _set(data: bytes) -> str | None:
    """A JWKS document."""
    mine: tuple[list[str], int] | None = None
    try:
        got = IssuerKeys.from_jwks(data, NOW)
        mine = [key.kid for key in got], got.left_out
    except Malformed:
        pass
    theirs: tuple[list[str], int] | None = None
    try:
        keys, out = second_tokens.key_set(data)
        theirs = list(keys), out
    except second.Refused:
        pass
    assert mine == theirs
    return None if mine is not None else "malformed"


def _key(data: bytes) -> str | None:
    """A JWK with members changed, by value or by bit."""
    dice = Dice(data)
    private = (ED, token_vectors.EC, token_vectors.RSA_2)[dice.number(3)]
    whole = {**jwk(private), "kid": "k", "use": "sig", "key_ops": ["verify"]}
    for _ in range(dice.number(3)):
        name = (*whole, "d", "k", "alg")[dice.number(len(whole) + 3)]
        value = whole.get(name)
        if dice.number(2) and isinstance(value, str) and value:
            place = dice.number(len(value))
            letter = "AZaz09-_=. é"[dice.number(12)]
            whole[name] = value[:place] + letter + value[place + dice.number(2) :]
        else:
            whole[name] = _VALUES[dice.number(len(_VALUES))]
    mine: tuple[str, frozenset[str]] | None = None
    try:
        got = IssuerKey.from_jwk(whole)
        mine = got.kid, got.algorithms
    except Malformed:
        pass
    theirs: tuple[str, frozenset[str]] | None = None
    try:
        other = second_tokens.key(whole)
        theirs = other.kid, other.algs
    except second.Refused:
        pass
    assert mine == theirs
    return None if mine is not None else "malformed"


def agreed(scanned: str) -> str | None:
    """The verdict that both implementations give."""
    mine, theirs = our_verdict(scanned), second_verdict(scanned)
    assert mine == theirs, (mine, theirs)
    return mine


KINDS: tuple[Callable[[bytes], str | None], ...] = (
    _text, _signed, _token, _wallet, _card, _set, _key,
)  # fmt: skip
SEEN: Counter[str] = Counter()


def attempt(data: bytes) -> None:
    """One input. AssertionError, or whatever escaped, if a promise is broken."""
    if not data:
        return
    kind = KINDS[data[0] % len(KINDS)]
    code = kind(data[1:])
    SEEN[f"{kind.__name__[1:]}: {code or 'taken'}"] += 1


def seeds() -> list[bytes]:
    """Inputs to grow from: the vectors, and some of each kind that is built."""
    cases = [*GOOD, *(str(case[1]) for case in token_vectors.bad_cases())]
    made = [b"\0" + text.encode("utf-8", "surrogatepass") for text in cases if len(text) < 3000]
    made += [b"\1" + _HEADER_TEXT + b"\n\n" + second.jcs(c) for c in (token_vectors.CLAIMS, _CARD)]
    rng = random.Random(7)
    made += [bytes([kind]) + rng.randbytes(40) for kind in (2, 3, 6) for _ in range(40)]
    made += [b"\4]Q1CPC1*" + token_vectors.CARD_SECRET.encode() + b"*", b"\4CPC1*", b"\4\\000026*"]
    sets = [case["document"].encode() for case in token_vectors.set_cases()]
    return made + [b"\5" + each for each in sets if len(each) < 3000]


_HEADER_TEXT = second.jcs(_HEADER)


def mutated(grown: dict[int, list[bytes]], rng: random.Random) -> bytes:
    """One of `grown`, every kind as often, with a few bytes changed, or two of a kind spliced."""
    of_kind = grown[rng.choice(list(grown))]
    data = bytearray(rng.choice(of_kind))
    for _ in range(rng.choice((1, 1, 2, 4))):
        how, place = rng.randrange(6), rng.randrange(1, len(data) + 1)
        if how == 0:
            data[place : place + 1] = bytes([rng.randrange(256)])
        elif how == 1:
            data[place:place] = rng.choice(
                (b"=", b".", b"~", b"A", b'"', b",", b"{", b"\\u0061", b"0")
            )
        elif how == 2:
            del data[place : place + rng.choice((1, 1, 2, 8))]
        elif how == 3 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif how == 4:
            data[place:place] = data[place : place + rng.randrange(20)]
        else:
            other = rng.choice(of_kind)
            data[place:] = other[min(place, len(other)) :]
    return bytes(data[:5000])


def run_plainly(count: int, seed: int) -> None:
    """`count` inputs by mutation alone; what breaks a promise is shown as base64."""
    rng, first, began = random.Random(seed), seeds(), time.monotonic()
    grown: dict[int, list[bytes]] = {}
    for data in first:
        grown.setdefault(data[0], []).append(data)
    for n in range(count):
        data = first[n] if n < len(first) else mutated(grown, rng)
        try:
            attempt(data)
        except Exception as error:
            shown = base64.b64encode(data).decode()
            raise AssertionError(f"{error!r}: attempt(base64.b64decode('{shown}'))") from error
        if n and n % 100_000 == 0:
            report(n, time.monotonic() - began)


def run_guided(count: int) -> None:
    """The same, guided by what code each input reaches. Does not return: libFuzzer ends it."""
    import atheris

    began = time.monotonic()
    done = 0

    def one(data: bytes) -> None:
        nonlocal done
        attempt(data)
        done += 1
        if done in (count, count - 1) or done % 100_000 == 0:
            report(done, time.monotonic() - began)

    for module in ("claims", "compact", "presentation", "issuer_keys", "strict_json", "token"):
        for part in list(vars(sys.modules[f"carepos.{module}"]).values()):
            for each in vars(part).values() if isinstance(part, type) else [part]:
                work = getattr(each, "__func__", each)
                if isinstance(work, FunctionType) and work.__module__ == f"carepos.{module}":
                    atheris.instrument_func(work)
    with tempfile.TemporaryDirectory() as folder:
        for n, data in enumerate(seeds()):
            (Path(folder) / f"seed-{n}").write_bytes(data)
        flags = [f"-runs={count}", "-max_len=5000", "-len_control=0", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *flags, folder], one)
        atheris.Fuzz()


def report(count: int, seconds: float) -> None:
    kinds = ", ".join(f"{name} {n}" for name, n in sorted(SEEN.items()))
    print(f"{count:,} inputs in {seconds:,.0f} s; {kinds}", flush=True)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    if importlib.util.find_spec("atheris") is not None:
        run_guided(count)
    print("atheris is not installed: plain mutation")
    began = time.monotonic()
    run_plainly(count, random.randrange(2**32))
    report(count, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
