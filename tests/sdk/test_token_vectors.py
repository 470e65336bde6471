"""The product and the second implementation against the vectors of docs/identity.md.

Each vector is a test of its own name against either of the two, so a failure says which of them
reads the page differently.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from carepos import pin, refusals, token
from carepos.errors import Malformed, Refused, TokenRefused
from carepos.issuer_keys import IssuerKey, IssuerKeys, SetRefused
from carepos.keys import digest
from carepos.revocation import Revocations
from carepos.token import IdentityToken, TokenVerifier
from tests.vectors import second, second_tokens, token_keys, token_vectors

Json = dict[str, Any]
VECTORS: Json = json.loads((Path(token_vectors.__file__).parent / "tokens.json").read_text("utf-8"))


def each(group: str, label: str = "name") -> pytest.MarkDecorator:
    cases = VECTORS[group]
    return pytest.mark.parametrize("case", cases, ids=[str(case[label]) for case in cases])


def utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def jwks(keys: list[Json]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def held_by(issuer: Json) -> IssuerKeys:
    first = IssuerKeys.from_jwks(jwks(issuer["jwks"]["keys"]), utc(0))
    retiring = {kid: utc(until) for kid, until in issuer["retiring"].items()}
    return IssuerKeys(first.keys, retiring, utc(0))


REVOKED = Revocations.from_json(VECTORS["revocations"])
VERIFIER = TokenVerifier(
    {each["iss"]: held_by(each) for each in VECTORS["issuers"]}, VECTORS["audience"], REVOKED
)
SECOND = {
    each["iss"]: second_tokens.Held(
        second_tokens.key_set(jwks(each["jwks"]["keys"]))[0], 0, each["retiring"]
    )
    for each in VECTORS["issuers"]
}


# the product


@each("presentations")
def test_presentation(case: Json) -> None:
    """A good code says what it says; any other has the code, and names the claim, of the page."""
    now = utc(case["now"])
    if case["code"] is None:
        got = VERIFIER.verify(case["scanned"], now)
        said = {
            "iss": got.iss,
            "sub": got.sub,
            "jti_sha256": got.jti_sha256,
            "care_class": got.token_class,
            "amr": sorted(got.amr),
            "token_sha256": got.token_sha256,
            "visit_sha256": got.visit_sha256,
            "needs_pin": got.needs_pin,
        }
        if got.acting is not None:
            said |= {"actor_sha256": got.acting.actor_sha256, "way": got.acting.way}
        assert said == case["says"]
        return
    with pytest.raises(Refused) as refused:
        VERIFIER.verify(case["scanned"], now)
    assert refused.value.code == case["code"]
    if case["claim"] is not None:
        assert isinstance(refused.value, TokenRefused)
        assert refused.value.claim == case["claim"]


@each("jwks")
def test_key(case: Json) -> None:
    """A key of the table is taken with its name and its algorithms, any other is malformed."""
    if "refused" in case:
        with pytest.raises(Malformed):
            IssuerKey.from_jwk(case["jwk"])
    else:
        got = IssuerKey.from_jwk(case["jwk"])
        assert (got.kid, sorted(got.algorithms)) == (case["kid"], case["algs"])


@each("sets")
def test_set(case: Json) -> None:
    """What an issuer publishes is taken whole or not at all."""
    document = case["document"].encode() + b" " * case["spaces"]
    if "refused" in case:
        with pytest.raises(SetRefused):
            IssuerKeys.from_jwks(document, utc(0))
    else:
        got = IssuerKeys.from_jwks(document, utc(0))
        assert ([key.kid for key in got], got.left_out) == (case["kids"], case["left_out"])


@each("rotations")
def test_rotation(case: Json) -> None:
    """Sets arrive one after another: which keys are believed at the end, and until when."""
    held: IssuerKeys | None = None
    for arrived in case["sets"]:
        newer = IssuerKeys.from_jwks(jwks(arrived["keys"]), utc(arrived["as_of"]))
        try:
            held = newer if held is None else held.replaced_by(newer)
        except SetRefused:
            continue
    assert held is not None
    for when in case["believed"]:
        at = utc(when["at"])
        found = {key.kid: key.jwk["x"] for key in held if held.get(key.kid, at) is not None}
        assert found == when["keys"]


@each("pins")
def test_pin(case: Json) -> None:
    """A PIN's proof and verifier are the page's; the proof is told right from wrong."""
    proof = pin.proof(case["pin"], iss=case["iss"], jti=case["jti"], card_secret=case["secret"])
    assert (proof, pin.verifier(proof)) == (case["proof"], case["verifier"])
    others = [other for other in VECTORS["pins"] if other is not case]
    assert pin.matches(proof, case["verifier"])
    assert not any(pin.matches(proof, other["verifier"]) for other in others)


@each("bad_pins")
def test_bad_pin(case: Json) -> None:
    """Anything but 4 to 8 ASCII digits is no PIN."""
    with pytest.raises(Malformed):
        pin.proof(case["pin"], iss="i", jti="j", card_secret="s" * 22)


@each("actors", "actor_sha256")
def test_actor(case: Json) -> None:
    """An actor is remembered by issuer and `sub`, the token's issuer where none is named."""
    by = token_keys.Signer(token_vectors.ED, "k", "EdDSA")
    claims = {**token_vectors.CLAIMS, **token_vectors.ACT, "iss": case["iss"], "act": case["act"]}
    held = IssuerKeys.from_jwks(jwks([token_keys.jwk(by.private, kid="k")]), utc(0))
    verifier = TokenVerifier({case["iss"]: held}, VECTORS["audience"])
    acting = verifier.verify(by.token(claims), utc(token_vectors.AT)).acting
    assert acting is not None and acting.actor_sha256 == case["actor_sha256"]


def remembered(jti: str, nonce: str | None, *, stale: bool = False) -> IdentityToken:
    token_class: Any = "once" if nonce is None else "card"
    methods = frozenset({"face"})
    return IdentityToken(
        "i", "s", jti, token_class, methods, utc(0), utc(900), "t", nonce=nonce, stale=stale
    )


@each("names", "visit_sha256")
def test_visit_name(case: Json) -> None:
    """A token is remembered by its `jti`, a presentation by `jti` and nonce."""
    got = remembered(case["jti"], case["nonce"])
    assert got.jti_sha256 == digest(case["jti"].encode()) == case["jti_sha256"]
    assert got.visit_sha256 == case["visit_sha256"]


@each("visits")
@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
def test_visit(case: Json, stale: bool) -> None:
    """A first use binds to one terminal for 15 minutes, the last instant included; in the visit
    it counts no more how old a wallet's signature has become."""
    first = (case["first"]["terminal"], utc(case["first"]["at"]))
    identity = remembered("j", "n" * 16 if stale else None, stale=stale)
    got = token.visit_refusal(identity, first, case["terminal"], utc(case["at"]))
    assert (None if got is None else got.code) == case["code"]


@each("list", "code")
def test_place_in_the_list(case: Json) -> None:
    """The codes of this page stand where it puts them among the others, and are answered so."""
    order = refusals.ORDER
    assert order[case["after"]] < order[case["code"]] < order[case["before"]]
    assert refusals.BY_CODE[case["code"]].answer == case["answered_as"]


# the second implementation


@each("presentations")
def test_presentation_read_a_second_time(case: Json) -> None:
    """An implementation written from the page alone gives the same verdict for every code."""

    def used() -> None:
        found = second_tokens.verify(
            case["scanned"], SECOND, VECTORS["audience"], VECTORS["revocations"], case["now"]
        )
        second_tokens.first_use(found)

    if case["code"] is None:
        used()
        return
    with pytest.raises(second.Refused) as refused:
        used()
    assert refused.value.code == case["code"]


@each("jwks")
def test_key_read_a_second_time(case: Json) -> None:
    """And takes the same keys."""
    if "refused" in case:
        with pytest.raises(second.Refused):
            second_tokens.key(case["jwk"])
    else:
        got = second_tokens.key(case["jwk"])
        assert (got.kid, sorted(got.algs)) == (case["kid"], case["algs"])


@each("sets")
def test_set_read_a_second_time(case: Json) -> None:
    """And the same sets."""
    document = case["document"].encode() + b" " * case["spaces"]
    if "refused" in case:
        with pytest.raises(second.Refused):
            second_tokens.key_set(document)
    else:
        keys, left_out = second_tokens.key_set(document)
        assert (list(keys), left_out) == (case["kids"], case["left_out"])


@each("rotations")
def test_rotation_read_a_second_time(case: Json) -> None:
    """And believes the same keys after sets have arrived."""
    held: second_tokens.Held | None = None
    for arrived in case["sets"]:
        keys = second_tokens.key_set(jwks(arrived["keys"]))[0]
        try:
            if held is None:
                held = second_tokens.Held(keys, arrived["as_of"])
            else:
                held = second_tokens.replaced(held, keys, arrived["as_of"])
        except second.Refused:
            continue
    assert held is not None
    for when in case["believed"]:
        found = {kid: key.members["x"] for kid, key in held.believed(when["at"]).items()}
        assert found == when["keys"]


def test_second_implementation_stands_alone() -> None:
    """Neither it nor what builds the vectors imports anything of the product or a JWT library."""
    for module in (second_tokens, token_vectors, token_keys):
        lines = Path(str(module.__file__)).read_text("utf-8").splitlines()
        imported = [line.split()[1] for line in lines if line.startswith(("import ", "from "))]
        assert not {name.partition(".")[0] for name in imported} & {"carepos", "jwt"}
