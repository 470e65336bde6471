"""Whom any ledger must believe: docs/identity.md sections 2 to 6 and 9 from outside, over HTTP.

Every test runs against a ledger written from the page alone and against the product's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.contract_codes import (
    IssuerSigner,
    Odd,
    Wallet,
    ed25519,
    es256,
    other_spelling,
    rs256,
)
from tests.contract_ledgers import ContractLedger
from tests.contract_office import DAY_S, Office, office, pack_of, posted, refusal, told
from tests.contract_till import ContractTill
from tests.contract_visit import LEDGERS, Visit, till_of
from tests.second_signing import Json, b64, digest


@pytest.fixture(scope="module", params=LEDGERS)
def ledger(request: pytest.FixtureRequest) -> Iterator[ContractLedger]:
    with LEDGERS[request.param]() as made:
        yield made


@pytest.fixture(scope="module")
def till(ledger: ContractLedger) -> ContractTill:
    return till_of(ledger)


@pytest.fixture(scope="module")
def neighbour(ledger: ContractLedger) -> ContractTill:
    """A terminal of another merchant."""
    return till_of(ledger, "shop-w")


@pytest.fixture(scope="module")
def usual(ledger: ContractLedger) -> Office:
    """An office that takes care codes and cards."""
    return office(ledger)


# Section 2: tokens.

KINDS: dict[str, Callable[[], IssuerSigner]] = {
    "EdDSA": lambda: ed25519("key #1 of 2026/11"),
    "Ed25519": lambda: ed25519("x" * 64, "Ed25519"),
    "ES256": lambda: es256("~"),
    "RS256": lambda: rs256("https://issuer.test/keys/7"),
    "thumbprints": es256,
    "RSA of 4096 bits": lambda: rs256("large", 4_096),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_of_every_algorithm_is_believed(
    ledger: ContractLedger, till: ContractTill, kind: str
) -> None:
    """An issuer signs with the key that it has, under the name that it has."""
    own = office(ledger, KINDS[kind]())
    sub = own.family()
    there = Visit(till, sub, own.code(sub), till.lookup(own.code(sub)), own.name)
    assert posted(there, 6_000)


def test_a_key_allows_its_own_algorithms_only(ledger: ContractLedger, till: ContractTill) -> None:
    """`alg` of a JWK is then the only one; another kind's algorithm is no signature."""
    own = office(ledger)
    strict, p256 = ed25519("strict"), es256("p256")
    assert ledger.put_keys(own.iss, [own.key.jwk, {**strict.jwk, "alg": "EdDSA"}, p256.jwk])
    sub = own.family()
    assert posted(own.visit(till, sub, own.code(sub, strict)))
    assert posted(own.visit(till, sub, own.code(sub, Odd(own.key, {"alg": "Ed25519"}))))
    for odd in (Odd(strict, {"alg": "Ed25519"}), Odd(own.key, {"alg": "ES256"})):
        assert told(own.visit(till, sub, own.code(sub, odd))) == "token_signature"
    for alg in ("RS256", "EdDSA"):
        there = own.visit(till, sub, own.code(sub, Odd(p256, {"alg": alg})))
        assert told(there) == "token_signature"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"typ": "JWT"}, "token_type"),
        ({"typ": None}, "token_type"),
        ({"alg": "none"}, "token_malformed"),
        ({"alg": "HS256"}, "token_malformed"),
        ({"alg": "eddsa"}, "token_malformed"),
        ({"kid": None}, "token_malformed"),
        ({"kid": ""}, "token_malformed"),
        ({"kid": "x" * 65}, "token_malformed"),
        ({"kid": "klíč"}, "token_malformed"),
        ({"jku": "https://issuer.test"}, "token_malformed"),
        ({"kid": "nobody's"}, "token_signature"),
    ],
    ids=str,
)
def test_the_header_of_a_token(usual: Office, till: ContractTill, header: Json, code: str) -> None:
    """Exactly `alg`, `kid` and `typ`, each as section 2 says."""
    sub = usual.family()
    assert told(usual.visit(till, sub, usual.code(sub, Odd(usual.key, header)))) == code


WITNESS = "carepos:witness"
ACTOR: Json = {"act": {"sub": "son"}, "care_reason": "frail"}
BAD_CLAIMS: list[Json] = [
    {"sub": "mr smith"},
    {"sub": "x" * 65},
    {"jti": ""},
    {"jti": 7},
    {"iat": True},
    {"nbf": 0},
    {"exp": 253_402_300_800},
    {"exp": "soon"},
    {"amr": []},
    {"amr": "face"},
    {"amr": ["face", "face"]},
    {"amr": [f"m{n}" for n in range(9)]},
    {"amr": ["Face"]},
    {"amr": ["x" * 41]},
    {"care_class": "twice"},
    {"care_class": ["once"]},
    {"cnf": {"jwk": {"crv": "Ed25519", "kty": "OKP", "x": "A" * 43}}},
    {"act": {"sub": "son"}},
    {"care_reason": "frail"},
    {**ACTOR, "act": {}},
    {**ACTOR, "act": {"sub": "my son"}},
    {**ACTOR, "act": {"sub": "son", "act": {"sub": "his"}}},
    {**ACTOR, "act": {"sub": "son", "name": "x"}},
    {**ACTOR, "care_reason": "tired"},
    {"amr": ["face", WITNESS]},
    {"a": [[[[]]]]},
    {"a": "x" * 1_400},
]


@pytest.mark.parametrize("claims", BAD_CLAIMS, ids=lambda claims: str(claims)[:40])
def test_claims_that_are_not_of_the_profile(
    usual: Office, till: ContractTill, claims: Json
) -> None:
    """`token_malformed`, whoever signed it."""
    sub = usual.family()
    assert told(usual.visit(till, sub, usual.code(sub, **claims))) == "token_malformed"


@pytest.mark.parametrize("name", "sub jti iat nbf exp amr care_class".split())
def test_a_token_that_lacks_a_claim(usual: Office, till: ContractTill, name: str) -> None:
    """Each is needed."""
    sub = usual.family()
    token = usual.code(sub, Odd(usual.key, {}, without=(name,)))
    assert told(usual.visit(till, sub, token)) == "token_malformed"


def test_a_token_without_issuer_or_audience(usual: Office, till: ContractTill) -> None:
    """Nobody's and nowhere's, since whose it is and what for is asked before its other claims."""
    sub = usual.family()
    for name, code in (("iss", "token_issuer"), ("aud", "token_audience")):
        token = usual.code(sub, Odd(usual.key, {}, without=(name,)))
        assert told(usual.visit(till, sub, token)) == code


CARD_CLAIMS: dict[str, Callable[[], Json]] = {
    "a key with a name": lambda: {"cnf": {"jwk": {**ed25519().members, "kid": "x"}}},
    "an RSA key": lambda: {"cnf": {"jwk": rs256().members}},
    "a point off its curve": lambda: {"cnf": {"jwk": {**es256().members, "y": b64(bytes(32))}}},
    "two ways to a key": lambda: {"cnf": {"jwk": es256().members, "kid": "x"}},
    "the name of a key": lambda: {"cnf": {"kid": "x"}},
    "somebody who acts": lambda: ACTOR,
}


@pytest.mark.parametrize("case", CARD_CLAIMS)
def test_claims_that_no_card_has(usual: Office, till: ContractTill, case: str) -> None:
    """A holder's key of another form, and somebody who acts."""
    sub = usual.family()
    token = usual.card(sub, **CARD_CLAIMS[case]())
    assert told(usual.visit(till, sub, token)) == "token_malformed"


def test_how_long_a_token_may_live(usual: Office, till: ContractTill) -> None:
    """900 seconds, or 400 days for a card; not one more, and not none."""
    sub, at = usual.family(), usual.at
    assert posted(usual.visit(till, sub, usual.code(sub, exp=at + 900)))
    longest = usual.wallet(sub, exp=at + 400 * DAY_S)
    assert posted(usual.visit(till, sub, longest.show(at)))
    too_long = usual.wallet(sub, exp=at + 400 * DAY_S + 1)
    tokens = [
        usual.code(sub, exp=at + 901),
        usual.code(sub, exp=at, iat=at),
        too_long.show(at),
    ]
    for token in tokens:
        assert told(usual.visit(till, sub, token)) == "token_malformed"


def test_what_is_too_long_or_not_canonical_is_not_read(usual: Office, till: ContractTill) -> None:
    """Sizes, characters and spelling come before anything is believed."""
    sub = usual.family()
    token = usual.code(sub)
    other_end = token[:-1] + chr(ord(token[-1]) ^ 1 if token[-1].isalpha() else ord("B"))
    strange = ["..", token + "=", f" {token}", f"CPC1*{'A' * 22}*{token}", f"{token}.x"]
    strange += [other_end, "A" * 3_000, token.replace(".", ".A", 1)]
    for text in strange:
        there = usual.visit(till, sub, text)
        if text != other_end:
            assert told(there) == "token_malformed"
        else:
            assert told(there) in ("token_malformed", "token_signature")


# Section 4: the order of the checks. Each token is wrong in two ways.

TWICE: dict[str, tuple[Json, Json, str]] = {
    "spelling before type": ({"typ": "JWT"}, {"a": [[[[]]]]}, "token_malformed"),
    "type before header": ({"typ": "JWT", "alg": "HS256"}, {}, "token_type"),
    "header before issuer": ({"alg": "HS256"}, {"iss": "https://x.test"}, "token_malformed"),
    "issuer before signature": ({"kid": "x"}, {"iss": "https://x.test"}, "token_issuer"),
    "signature before audience": ({"kid": "x"}, {"aud": "urn:x"}, "token_signature"),
    "audience before claims": ({}, {"aud": "urn:x", "amr": []}, "token_audience"),
    "claims before times": ({}, {"amr": [], "iat": 1, "exp": 2}, "token_malformed"),
    "end before beginning": ({}, {"iat": 1, "exp": 2, "nbf": 253_402_300_799}, "token_expired"),
}


@pytest.mark.parametrize("case", TWICE)
def test_the_first_check_that_fails_names_the_refusal(
    usual: Office, till: ContractTill, case: str
) -> None:
    """Rows 1 to 9 of section 4."""
    header, claims, code = TWICE[case]
    sub = usual.family()
    token = usual.code(sub, Odd(usual.key, header), **claims)
    assert told(usual.visit(till, sub, token)) == code


def test_the_times_of_a_token_come_before_its_holder(usual: Office, till: ContractTill) -> None:
    """Rows 8, 9 and 10."""
    sub, at = usual.family(), usual.at
    late_code = usual.code(sub, iat=at - 60, nbf=at - 60, exp=at)
    assert told(usual.visit(till, sub, f"{late_code}~x.y.z")) == "token_expired"
    late = usual.wallet(sub, iat=at - 60, nbf=at - 60, exp=at)
    early = usual.wallet(sub, nbf=at + 61)
    assert told(usual.visit(till, sub, late.token)) == "token_expired"
    assert told(usual.visit(till, sub, early.token)) == "token_not_yet_valid"


def test_the_order_of_what_a_programme_asks(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """Rows 10 to 16: every pair of neighbours, and the first is told."""
    own, other = office(ledger), office(ledger)
    narrow = office(ledger, classes=["once"], amr_any=["face"])
    sub, theirs = own.family(), other.family()
    wallet = other.wallet(theirs)
    there = replace(other.visit(till, theirs, wallet.token), programme=own.name)
    assert refusal(there) == "holder_unproven"
    used = other.code(theirs)
    neighbour.lookup(used)
    there = replace(other.visit(till, theirs, used), programme=own.name)
    assert refusal(there) == "token_issuer"
    used = own.code(sub, jti="used-and-withdrawn")
    neighbour.lookup(used)
    ledger.withdraw_token(own.iss, digest(b"used-and-withdrawn"))
    assert told(own.visit(till, sub, used)) == "token_replayed"

    sub = narrow.family()
    ledger.withdraw_token(narrow.iss, digest(b"gone"))
    gone = narrow.code(sub, jti="gone", amr=["otp"])
    assert refusal(narrow.visit(till, sub, gone)) == "token_revoked"
    assert refusal(narrow.visit(till, sub, narrow.acted(sub, "son", "otp"))) == "token_assurance"
    card = narrow.printed(sub)
    assert refusal(narrow.visit(till, sub, card.token)) == "token_assurance"
    assert refusal(narrow.visit(till, sub, narrow.acted(sub, "son"))) == "acting_not_allowed"


def test_whoever_was_issued_nothing_is_told_so(usual: Office, till: ContractTill) -> None:
    """After row 10, before a visit, a list or a PIN: there is nothing here that they could open."""
    usual.ledger.withdraw_token(usual.iss, digest(b"nobodys"))
    card = usual.printed("nobody", told=False)
    tokens = [usual.code("nobody", jti="nobodys"), card.token, usual.acted("nobody", "son")]
    codes = {till.refused_lookup(token)["code"] for token in tokens}
    assert codes == {"voucher_unknown"}
    assert till.refused_lookup(usual.wallet("nobody").token)["code"] == "holder_unproven"


def test_a_lookup_asks_nothing_of_a_programme(ledger: ContractLedger, till: ContractTill) -> None:
    """Rows 11, 14 and 15 are a programme's, and a lookup is of every programme."""
    narrow = office(ledger, classes=["card"], amr_any=["carepos:palm"])
    sub = narrow.family()
    assert till.lookup(narrow.acted(sub, "son"))["vouchers"]
    assert refusal(narrow.visit(till, sub)) == "token_assurance"


# Section 3: keys and their sets.


def kids(till: ContractTill, own: Office) -> set[str]:
    [issuer] = [found for found in pack_of(till)["issuers"] if found["iss"] == own.iss]
    return {key["kid"] for key in issuer["keys"]}


def test_a_key_retires_for_24_hours(ledger: ContractLedger, till: ContractTill) -> None:
    """A rotation stops no shop; then only the new key counts, here and in the pack."""
    own, new = office(ledger), ed25519("new")
    sub = own.family()
    assert ledger.put_keys(own.iss, [own.key.jwk, new.jwk])
    assert ledger.put_keys(own.iss, [new.jwk])
    assert kids(till, own) == {own.key.kid, "new"}
    ledger.now.forward(hours=23, minutes=59, seconds=59)
    assert posted(own.visit(till, sub)) and posted(own.visit(till, sub, own.code(sub, new)))
    late = own.code(sub)
    ledger.now.forward(seconds=1)
    own_by_new = replace(own, key=new)
    assert told(own_by_new.visit(till, sub, late)) == "token_signature"
    assert kids(till, own) == {"new"}
    assert posted(own_by_new.visit(till, sub))


def test_a_key_that_comes_back_does_not_retire(ledger: ContractLedger, till: ContractTill) -> None:
    """It is in the newest set, and so it counts."""
    own, new = office(ledger), ed25519("new")
    sub = own.family()
    for jwks in ([own.key.jwk, new.jwk], [new.jwk], [new.jwk, own.key.jwk]):
        assert ledger.put_keys(own.iss, jwks)
    ledger.now.forward(hours=25)
    assert posted(own.visit(till, sub))


def test_a_set_that_shares_no_key_waits_for_a_person(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Whoever answers for an issuer can't change whom the shops believe."""
    own, new = office(ledger), ed25519("new")
    sub = own.family()
    assert not ledger.put_keys(own.iss, [new.jwk])
    assert told(own.visit(till, sub, own.code(sub, new))) == "token_signature"
    assert posted(own.visit(till, sub)) and kids(till, own) == {own.key.kid}
    assert ledger.put_keys(own.iss, [new.jwk], confirmed=True)
    assert posted(replace(own, key=new).visit(till, sub)) and kids(till, own) == {"new"}
    assert told(own.visit_by(new, till, sub, own.code(sub))) == "token_signature"


def test_one_name_with_another_key_behind_it_is_another_key(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """A set that shares only a `kid` shares no key, and no set changes what a `kid` means."""
    own, twin, more = office(ledger, ed25519("main")), ed25519("main"), ed25519("more")
    sub = own.family()
    assert not ledger.put_keys(own.iss, [twin.jwk])
    assert ledger.put_keys(own.iss, [own.key.jwk, more.jwk])
    assert not ledger.put_keys(own.iss, [more.jwk, twin.jwk])
    assert told(own.visit(till, sub, own.code(sub, twin))) == "token_signature"
    assert posted(own.visit(till, sub))


def test_keys_for_other_purposes_are_left_out(ledger: ContractLedger, till: ContractTill) -> None:
    """What is no signing key of a known kind is passed over; the rest of the set counts."""
    own = office(ledger)
    used, operations, other_alg = ed25519("enc"), ed25519("wrap"), ed25519("es")
    short = rs256("short", 1_024)
    jwks = [
        own.key.jwk,
        {**used.jwk, "use": "enc"},
        {**operations.jwk, "key_ops": ["sign"]},
        {**other_alg.jwk, "alg": "ES256"},
        {"kty": "EC", "crv": "P-384", "x": "AAAA", "y": "AAAA", "kid": "p384"},
        {**es256("off").jwk, "y": b64(bytes(32))},
        short.jwk,
        {"kty": "OKP", "crv": "Ed25519", "x": b64(bytes(32)), "kid": "of small order"},
        {**ed25519("long").jwk, "kid": "k" * 65},
    ]
    assert ledger.put_keys(own.iss, jwks)
    assert kids(till, own) == {own.key.kid}
    sub = own.family()
    for key in (used, operations, other_alg, short):
        assert told(own.visit(till, sub, own.code(sub, key))) == "token_signature"
    assert posted(own.visit(till, sub))


def test_sets_that_are_refused_as_a_whole(ledger: ContractLedger, till: ContractTill) -> None:
    """A private or symmetric member, a `kid` twice, more than 20, nothing that is left."""
    own, more = office(ledger), [ed25519(f"k{n}").jwk for n in range(20)]
    poisons = "d p q dp dq qi oth k".split()
    bad: list[list[Any]] = [[own.key.jwk, {**more[0], name: "AAAA"}] for name in poisons]
    bad += [[own.key.jwk, {"kty": "oct", "k": "AAAA"}], [own.key.jwk, more[0], more[0]]]
    bad += [[own.key.jwk, *more], [], [{**own.key.jwk, "use": "enc"}]]
    assert [ledger.put_keys(own.iss, jwks) for jwks in bad] == [False] * len(bad)
    assert kids(till, own) == {own.key.kid}
    assert ledger.put_keys(own.iss, [own.key.jwk, *more[:19]])
    assert len(kids(till, own)) == 20


# Section 5: visits and replay.


def test_a_second_spelling_of_a_signature_is_the_same_token(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """Everybody can respell an ECDSA signature: the visit is told by (`iss`, `jti`)."""
    own = office(ledger, es256())
    sub = own.family()
    token = own.code(sub)
    assert posted(own.visit(till, sub, token))
    assert told(own.visit(neighbour, sub, other_spelling(token))) == "token_replayed"
    assert posted(own.visit(till, sub, other_spelling(token)))


def test_two_issuers_may_use_one_name(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """A `jti` is its issuer's."""
    one, two = office(ledger), office(ledger)
    here, there = one.family(), two.family()
    assert posted(one.visit(till, here, one.code(here, jti="first")))
    assert posted(two.visit(neighbour, there, two.code(there, jti="first")))


def test_a_redeem_that_was_refused_began_the_visit(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """Not enough for this programme; the code has been used here all the same."""
    narrow = office(ledger, amr_any=["carepos:palm"])
    sub = narrow.family()
    token = narrow.code(sub)
    assert refusal(narrow.visit(till, sub, token)) == "token_assurance"
    assert told(narrow.visit(neighbour, sub, token)) == "token_replayed"


# Section 6: the holder's key.


@pytest.fixture(scope="module", params=["Ed25519", "P-256"])
def holder_key(request: pytest.FixtureRequest) -> IssuerSigner:
    return es256() if request.param == "P-256" else ed25519()


def test_a_wallet_redeems_by_a_fresh_presentation(
    ledger: ContractLedger, till: ContractTill, holder_key: IssuerSigner
) -> None:
    """No PIN, no network in the phone: its key proves who holds it, and counts as `pop`."""
    own = office(ledger, classes=["card"], amr_any=["pop"])
    sub = own.family()
    shown = own.wallet(sub, holder_key).show(own.at)
    found = till.lookup(shown)
    assert posted(Visit(till, sub, shown, found, own.name), 6_000)


def test_each_presentation_is_used_once(
    usual: Office, till: ContractTill, neighbour: ContractTill
) -> None:
    """The same wallet at two tills, each with a presentation of its own."""
    sub = usual.family()
    wallet = usual.wallet(sub)
    first, second = wallet.show(usual.at), wallet.show(usual.at)
    assert posted(usual.visit(till, sub, first)) and posted(usual.visit(neighbour, sub, second))
    assert told(usual.visit(neighbour, sub, first)) == "token_replayed"
    assert told(usual.visit(till, sub, second)) == "token_replayed"


Shown = Callable[[Office, Wallet], str]
UNPROVEN: dict[str, Shown] = {
    "no proof": lambda _own, wallet: wallet.token,
    "an empty one": lambda _own, wallet: f"{wallet.token}~",
    "none of the form": lambda own, wallet: wallet.show(own.at).replace("~", "~x", 1),
    "two of them": lambda own, wallet: f"{wallet.show(own.at)}~x.y.z",
    "stale": lambda own, wallet: wallet.show(own.at - 301),
    "ahead": lambda own, wallet: wallet.show(own.at + 61),
    "of another key": lambda own, wallet: wallet.show(own.at, ed25519()),
    "of another token": lambda own, wallet: wallet.show(own.at, sd_hash=digest(b"another~")),
    "for another platform": lambda own, wallet: wallet.show(own.at, aud="urn:other"),
    "of another type": lambda own, wallet: wallet.show(own.at, typ="JWT"),
    "by another algorithm": lambda own, wallet: wallet.show(own.at, alg="ES256"),
    "with a kid": lambda own, wallet: wallet.show(own.at, kid="x"),
    "with a short nonce": lambda own, wallet: wallet.show(own.at, nonce="A" * 15),
    "with a long nonce": lambda own, wallet: wallet.show(own.at, nonce="A" * 65),
    "with one claim more": lambda own, wallet: wallet.show(own.at, iss="me"),
}


@pytest.mark.parametrize("case", UNPROVEN)
def test_a_card_in_a_phone_is_worth_nothing_without_its_holder(
    usual: Office, till: ContractTill, case: str
) -> None:
    """`holder_unproven`, at lookup and in a redeem."""
    sub = usual.family()
    shown = UNPROVEN[case](usual, usual.wallet(sub))
    assert told(usual.visit(till, sub, shown)) == "holder_unproven"


def test_another_tokens_proof_is_none(usual: Office, till: ContractTill) -> None:
    """A KB-JWT is of one token, even where one key holds two."""
    sub, key = usual.family(), ed25519()
    one, two = usual.wallet(sub, key), usual.wallet(sub, key)
    proof = one.show(usual.at).partition("~")[2]
    assert told(usual.visit(till, sub, f"{two.token}~{proof}")) == "holder_unproven"


def test_a_presentation_is_fresh_for_five_minutes(usual: Office, till: ContractTill) -> None:
    """Both ends count."""
    sub = usual.family()
    for seconds in (-300, 60):
        shown = usual.wallet(sub).show(usual.at + seconds)
        assert posted(usual.visit(till, sub, shown))


@pytest.mark.parametrize("proof", ["x", "x.y", "e30.e30.AAAA", "A" * 1_024])
def test_a_proof_beside_a_code_that_names_no_key(
    usual: Office, till: ContractTill, proof: str
) -> None:
    """`token_malformed`, whatever the proof."""
    sub = usual.family()
    for token in (usual.code(sub), usual.printed(sub).token):
        assert told(usual.visit(till, sub, f"{token}~{proof}")) == "token_malformed"
    signed = usual.wallet(sub).show(usual.at).partition("~")[2]
    assert told(usual.visit(till, sub, f"{usual.code(sub)}~{signed}")) == "token_malformed"


def test_a_presentation_that_grew_old_counts_in_its_visit(
    usual: Office, till: ContractTill, neighbour: ContractTill
) -> None:
    """A retry, a second basket: freshness was asked at the first use. Elsewhere it is a replay."""
    sub = usual.family()
    shown = usual.wallet(sub).show(usual.at)
    there = usual.visit(till, sub, shown)
    until = till.lookup(shown)["visit_until"]
    sale = there.milk(1_000)
    first = till.outcome(sale)
    usual.ledger.now.forward(minutes=10)
    assert till.lookup(shown)["visit_until"] == until
    assert posted(there, 1_000)
    assert told(usual.visit(neighbour, sub, shown)) == "token_replayed"
    usual.ledger.now.forward(minutes=5)
    assert posted(there, 1_000)
    usual.ledger.now.forward(seconds=1)
    assert told(there) == "token_replayed"
    assert till.outcome(sale) == first


# Section 9: what is withdrawn.


def test_a_withdrawn_key_is_believed_no_more(ledger: ContractLedger, till: ContractTill) -> None:
    """At once, also in a visit that is open, also a retiring one; the other keys go on."""
    own, new = office(ledger), ed25519("new")
    assert ledger.put_keys(own.iss, [own.key.jwk, new.jwk])
    sub = own.family()
    there = own.visit(till, sub)
    sale = there.milk(1_000)
    first = till.outcome(sale)
    ledger.withdraw_key(own.iss, own.key.kid)
    assert told(there) == "token_revoked"
    assert told(own.visit_by(new, till, sub, own.code(sub))) == "token_revoked"
    assert posted(own.visit_by(new, till, sub, own.code(sub, new)))
    assert till.outcome(sale) == first
    assert ledger.put_keys(own.iss, [new.jwk])
    assert told(own.visit_by(new, till, sub, own.code(sub))) == "token_revoked"


def test_a_withdrawn_token_is_believed_no_more(usual: Office, till: ContractTill) -> None:
    """One code; the same name of another issuer is another."""
    sub = usual.family()
    jti = b64(secrets.token_bytes(16))
    token = usual.code(sub, jti=jti)
    there = usual.visit(till, sub, token)
    assert posted(there)
    usual.ledger.withdraw_token(usual.iss, digest(jti.encode()))
    assert told(there) == "token_revoked"
    other = office(usual.ledger)
    theirs = other.family()
    assert posted(other.visit(till, theirs, other.code(theirs, jti=jti)))


def test_a_withdrawn_card_is_worth_nothing_in_any_hand(usual: Office, till: ContractTill) -> None:
    """Printed, with the right PIN, or in a phone with its key: a card is a token, told by `jti`."""
    sub = usual.family()
    card, wallet = usual.printed(sub), usual.wallet(sub, jti="a-card-in-a-phone")
    shown = wallet.show(usual.at)
    till.lookup(card.token, card.proof())
    till.lookup(shown)
    usual.ledger.withdraw_token(usual.iss, card.jti_sha256)
    usual.ledger.withdraw_token(usual.iss, digest(b"a-card-in-a-phone"))
    assert till.refused_lookup(card.token, card.proof())["code"] == "token_revoked"
    for token in (card.token, shown, wallet.show(usual.at)):
        assert told(usual.visit(till, sub, token)) == "token_revoked"


def test_the_pack_tells_what_is_withdrawn(ledger: ContractLedger, till: ContractTill) -> None:
    """Sorted, and under a number that grows with each change."""
    own, names = office(ledger), sorted(digest(secrets.token_bytes(8)) for _ in range(3))
    ledger.withdraw_token(own.iss, names[1])
    first = pack_of(till)["revocations"]
    assert set(first) == {"version", "keys", "tokens"}
    ledger.withdraw_token(own.iss, names[0])
    second = pack_of(till)["revocations"]
    ledger.withdraw_token(own.iss, names[2])
    ledger.withdraw_key(own.iss, own.key.kid)
    third = pack_of(till)["revocations"]
    assert first["version"] < second["version"] < third["version"]
    mine = [found for found in third["tokens"] if found["iss"] == own.iss]
    assert mine == [{"iss": own.iss, "jti_sha256": name} for name in names]
    assert {"iss": own.iss, "kid": own.key.kid} in third["keys"]
    for listed, name in ((third["tokens"], "jti_sha256"), (third["keys"], "kid")):
        told_of = [(found["iss"], found[name]) for found in listed]
        assert told_of == sorted(set(told_of))
