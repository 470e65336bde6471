"""Attacks on identity tokens: not one bad one is taken, not one good one refused, nothing leaks."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests import attacks_report
from tests.properties import token_attacks
from tests.properties.token_attacks import Attack, Forge, KeyAttack
from tests.vectors import second, second_tokens

AT = 1_795_336_200
NOW = datetime.fromtimestamp(AT, UTC)


@functools.cache
def of_group(group: str) -> list[Attack]:
    """Made once: there are thousands of signatures in them."""
    return [
        Attack(group, name, family, given, code)
        for family in token_attacks.FAMILIES
        for name, given, code in token_attacks.GROUPS[group](Forge(family, AT))
    ]


KEYS = list(token_attacks.key_attacks())
each_group = pytest.mark.parametrize("group", token_attacks.GROUPS)


@each_group
def test_every_attack_has_the_verdict_of_the_profile(group: str) -> None:
    """None bad is taken, none good refused, each with its code; only a refusal ever leaves."""
    verdicts = [(a, attacks_report.ours(a.given, AT)) for a in of_group(group)]
    wrong = [(a.family, a.name, v) for a, v in verdicts if not attacks_report.is_right(a, v)]
    assert wrong == []


@each_group
def test_the_second_implementation_says_the_same(group: str) -> None:
    """What the attacks expect is no habit of the product: the page read a second time agrees."""
    held = {token_attacks.ISSUER: second_tokens.Held(*_second_set())}
    wrong = []
    for attack in of_group(group):
        if not isinstance(attack.given, str) or attack.code == "any":
            continue
        code = None
        try:
            found = second_tokens.verify(
                attack.given, held, token_attacks.AUDIENCE, {"keys": [], "tokens": []}, AT
            )
            second_tokens.first_use(found)
        except second.Refused as refused:
            code = refused.code
        if code != attack.code:
            wrong.append((attack.family, attack.name, code))
    assert wrong == []


def _second_set() -> tuple[dict[str, second_tokens.Key], int]:
    return second_tokens.key_set(second.jcs(token_attacks.JWKS))[0], 0


@pytest.mark.parametrize("group", token_attacks.KEY_GROUPS)
def test_no_bad_key_is_believed(group: str) -> None:
    """A key or set that is not the profile's is malformed, and nothing else ever leaves."""
    verdicts = [(a, attacks_report.our_keys(a.given)) for a in KEYS if a.group == group]
    assert [(a.name, v) for a, v in verdicts if not attacks_report.is_right(a, v)] == []


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and everything that is shown with it."""
    while error is not None:
        yield error
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)


def said_by(error: BaseException) -> str:
    parts = list(traceback.format_exception(error))
    for each in chain(error):
        parts += [repr(each), str(each), repr(each.args)]
        parts += [getattr(each, "claim", ""), getattr(each, "why", "")]
    return " ".join(parts)


@each_group
def test_nothing_of_a_token_is_said(group: str) -> None:
    """INV-10: no message, repr or chain of a refusal repeats a value, a name or a piece of it."""
    for attack in of_group(group):
        error = attacks_report.ours(attack.given, AT).error
        if error is None:
            continue
        said = said_by(error)
        assert token_attacks.CANARY not in said, attack.name
        if isinstance(attack.given, str):
            pieces = [piece[:40] for piece in attack.given.split(".") if len(piece) >= 40]
            assert not any(piece in said for piece in pieces), attack.name


def test_nothing_of_a_key_is_said() -> None:
    """Nor do the refusals of keys repeat a member: a JWKS may be anything, private keys too."""
    for attack in KEYS:
        error = attacks_report.our_keys(attack.given).error
        if error is not None and isinstance(attack.given, dict):
            said = said_by(error)
            values = [v for v in attack.given.values() if isinstance(v, str) and len(v) > 20]
            assert not any(value[:20] in said for value in values), attack.name


def test_a_signatures_second_spelling_is_one_visit() -> None:
    """ECDSA has two signatures for one: both tokens are one token, told by issuer and jti."""
    forge = Forge("ES256", AT)
    text = forge.token()
    twin = next(given for name, given, _ in token_attacks.GROUPS["good"](forge) if "second" in name)
    one, other = (attacks_report.OURS.verify(each, NOW) for each in (text, twin))
    assert twin != text and one.token_sha256 != other.token_sha256
    assert (one.iss, one.visit_sha256) == (other.iss, other.visit_sha256)


def test_there_are_attacks_of_every_kind() -> None:
    """Hundreds of each family, with bad ones in every class but that of the good ones."""
    made = [attack for group in token_attacks.GROUPS for attack in of_group(group)]
    assert all(sum(a.family == f for a in made) > 1000 for f in token_attacks.FAMILIES)
    bad = {a.group for a in made if a.code is not None}
    assert bad == set(token_attacks.GROUPS) - {"good"}
    assert sum(a.good for a in KEYS) > 10 and len({(a.group, a.name) for a in KEYS}) > 400
    assert all(isinstance(a, KeyAttack) for a in KEYS)
