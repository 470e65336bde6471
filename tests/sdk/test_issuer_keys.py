"""An issuer's keys: how a set is kept, and what may take its place (docs/identity.md §3).

What a JWK and a set must be is in the vectors; here are the promises between them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from carepos.errors import Malformed
from carepos.issuer_keys import (
    MAX_KEYS,
    RETIRING,
    IssuerKey,
    IssuerKeys,
    SetRefused,
    holder_key,
    public_numbers,
)
from carepos.keys import SigningKey, b64
from tests.vectors.token_keys import RSA_2048, ec_key, ed_key, jwk

NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def key(name: str) -> IssuerKey:
    return IssuerKey.from_jwk(jwk(ed_key(name), kid=name))


def held(*names: str, as_of: datetime = NOW) -> IssuerKeys:
    return IssuerKeys.of([key(name) for name in names], as_of)


def believed(keys: IssuerKeys, at: datetime) -> set[str]:
    return {each.kid for each in keys if keys.get(each.kid, at) is not None}


def test_a_set_is_kept_and_read_back() -> None:
    """What is written of a set, pinned algorithms and retiring keys too, makes the same set."""
    kinds = [
        jwk(ed_key("a")),
        jwk(ed_key("b"), kid="b", alg="Ed25519"),
        jwk(ec_key("c"), kid="c", alg="ES256"),
        jwk(RSA_2048, kid="d"),
    ]
    first = IssuerKeys.of([IssuerKey.from_jwk(each) for each in kinds], NOW, left_out=3)
    newer = IssuerKeys.of([IssuerKey.from_jwk(kinds[0])], NOW + DAY)
    for keys in (first, first.replaced_by(newer)):
        again = IssuerKeys.from_json(json.loads(json.dumps(keys.to_json())))
        assert {k.kid: (k.jwk, k.algorithms) for k in again} == {
            k.kid: (k.jwk, k.algorithms) for k in keys
        }
        assert (again.retiring, again.as_of, again.left_out) == (
            keys.retiring,
            keys.as_of,
            keys.left_out,
        )


@pytest.mark.parametrize(
    "changed",
    [
        {"keys": {}},
        {"keys": [{}]},
        {"keys": [jwk(ed_key("a"), kid="x"), jwk(ed_key("b"), kid="x")]},
        {"keys": [jwk(ed_key("a"), kid=str(n)) for n in range(2 * MAX_KEYS + 1)]},
        {"retiring": []},
        {"retiring": {"x": "tomorrow"}},
        {"retiring": {"x": None}},
        {"as_of": "2026-11-22"},
        {"left_out": -1},
        {"left_out": True},
        {"more": 1},
    ],
    ids=str,
)
def test_a_kept_set_is_read_strictly(changed: dict[str, Any]) -> None:
    """Another form, another clock or two keys of one name: malformed."""
    with pytest.raises(Malformed):
        IssuerKeys.from_json({**held("a").to_json(), **changed})


def test_a_rotation_needs_no_outage() -> None:
    """A key that went is believed for 24 hours to the second, the new one at once."""
    keys = held("a", "b").replaced_by(held("b", "c", as_of=NOW + DAY))
    ends = NOW + DAY + RETIRING
    assert believed(keys, ends - timedelta(seconds=1)) == {"a", "b", "c"}
    assert believed(keys, ends) == {"b", "c"}


def test_the_day_of_a_retiring_key_ends() -> None:
    """However many sets arrive meanwhile, its end does not move, and then nothing of it is left."""
    keys = held("a", "b").replaced_by(held("b"))
    for hours in (1, 12, 23):
        keys = keys.replaced_by(held("b", as_of=NOW + timedelta(hours=hours)))
        assert keys.retiring == {"a": NOW + RETIRING}
    keys = keys.replaced_by(held("b", as_of=NOW + RETIRING))
    assert not keys.retiring and believed(keys, NOW) == {"b"}


def test_a_key_is_remembered_for_codes_of_its_time() -> None:
    """Who judges what was held up earlier keeps it for longer: good within its time and at no later
    one, it holds no set together, and is gone in the end. Keys that a person replaced are not."""
    keys = held("a", "b").replaced_by(held("b"))
    for day in (1, 30, 60):
        keys = keys.replaced_by(held("b", as_of=NOW + day * DAY), remembered=60 * DAY)
        assert believed(keys, NOW) == {"a", "b"} and believed(keys, NOW + RETIRING) == {"b"}
    with pytest.raises(SetRefused):
        keys.replaced_by(held("a", as_of=NOW + 60 * DAY), remembered=60 * DAY)
    assert not keys.replaced_by(held("b", as_of=NOW + 61 * DAY), remembered=60 * DAY).retiring
    stopped = keys.replaced_by(held("c", as_of=NOW + 60 * DAY), confirmed=True, remembered=DAY)
    assert believed(stopped, NOW) == {"c"}


def test_a_restless_issuer_fills_nothing() -> None:
    """An issuer may exchange 19 keys an hour: what is held stays small and can be read back."""
    keys, stay = held("stay"), key("stay")
    for hour in range(30):
        names = [f"{hour}-{n}" for n in range(MAX_KEYS - 1)]
        made = [IssuerKey.from_jwk(jwk(ed_key("any"), kid=name)) for name in names]
        keys = keys.replaced_by(IssuerKeys.of([stay, *made], NOW + timedelta(hours=hour)))
        assert len(keys.keys) <= 2 * MAX_KEYS
        IssuerKeys.from_json(keys.to_json())
    # Of the keys that went, those that went last are still believed.
    assert all(f"28-{n}" in keys.retiring for n in range(MAX_KEYS - 1))


@pytest.mark.parametrize(
    ("newer", "why"),
    [
        (held("a", as_of=NOW - timedelta(seconds=1)), "older"),
        (held("c", as_of=NOW + DAY), "shares no key"),
        (IssuerKeys.of([IssuerKey.from_jwk(jwk(ed_key("x"), kid="a"))], NOW), "another key"),
    ],
    ids=["older", "none shared", "another key"],
)
def test_a_set_that_may_not_replace(newer: IssuerKeys, why: str) -> None:
    """Older, sharing no key, or giving a name another key: refused, and why is said."""
    with pytest.raises(SetRefused) as refused:
        held("a", "b").replaced_by(newer)
    assert why in str(refused.value)


def test_a_key_on_its_way_out_vouches_for_nothing() -> None:
    """A set that shares only retiring keys is a copy from before the rotation: refused, within
    their day and after it; with a key that stays, a retiring one may come back."""
    keys = held("a", "b").replaced_by(held("b"))
    late = NOW + timedelta(hours=23)
    for at in (late, NOW + RETIRING):
        with pytest.raises(SetRefused):
            keys.replaced_by(held("a", "c", as_of=at))
    assert believed(keys.replaced_by(held("a", "b", as_of=late)), late + DAY) == {"a", "b"}


def test_a_set_of_the_future_makes_no_other_older() -> None:
    """By whoever knows the time: it was dated by a wrong clock, and so were its retiring keys."""
    keys = held("a", "b", as_of=NOW + 365 * DAY).replaced_by(held("b", as_of=NOW + 366 * DAY))
    fresh = held("b", "c", as_of=NOW)
    with pytest.raises(SetRefused, match="older"):
        keys.replaced_by(fresh)
    with pytest.raises(SetRefused, match="older"):
        keys.replaced_by(fresh, now=NOW + 366 * DAY)
    made = keys.replaced_by(fresh, now=NOW)
    assert (made.as_of, made.retiring) == (NOW, {"a": NOW + RETIRING})


def test_a_person_may_confirm_a_set() -> None:
    """Then it replaces the held one at once, but an older one never does."""
    keys = held("a", "b").replaced_by(held("c", as_of=NOW + DAY), confirmed=True)
    assert believed(keys, NOW + DAY) == {"c"} and not keys.retiring
    with pytest.raises(SetRefused):
        keys.replaced_by(held("a"), confirmed=True)


def test_pinning_an_algorithm_changes_no_key() -> None:
    """An issuer may add `alg` to a published key: from then the key allows only that."""
    pinned = IssuerKeys.of([IssuerKey.from_jwk(jwk(ed_key("a"), kid="a", alg="EdDSA"))], NOW)
    keys = held("a").replaced_by(pinned)
    assert [each.algorithms for each in keys] == [{"EdDSA"}]


def test_how_many_keys_is_the_callers() -> None:
    """20 in a set of an issuer, 40 where retiring ones stand beside, as in a pack."""
    keys = [IssuerKey.from_jwk(jwk(ed_key("a"), kid=str(n))) for n in range(2 * MAX_KEYS)]
    assert len(IssuerKeys.of(keys, NOW, most=2 * MAX_KEYS).keys) == 2 * MAX_KEYS
    with pytest.raises(SetRefused):
        IssuerKeys.of(keys[: MAX_KEYS + 1], NOW)


@pytest.mark.parametrize("private", [ed_key("a"), ec_key("a"), RSA_2048], ids=["OKP", "EC", "RSA"])
def test_a_key_is_published_as_it_is_read(private: Any) -> None:
    """The members that are written of a key make the same key, with the same thumbprint."""
    made = IssuerKey.from_jwk(public_numbers(private.public_key()))
    assert made.jwk == {**jwk(private), "kid": made.kid}


def test_a_tills_key_is_an_issuers_key_too() -> None:
    """The thumbprint of an Ed25519 key is the same wherever it is taken."""
    signing = SigningKey(b"k" * 32)
    assert IssuerKey.from_jwk(signing.public.to_jwk()).kid == signing.kid


def test_a_holders_key_is_exactly_its_members() -> None:
    """A `cnf` holds Ed25519 or P-256 and no name beside; its refusal repeats none either."""
    assert holder_key(jwk(ec_key("phone"))).algorithms == {"ES256"}
    for bad in (jwk(RSA_2048), jwk(ed_key("a"), canary="x"), jwk(ed_key("a"), alg="EdDSA")):
        with pytest.raises(Malformed) as refused:
            holder_key(bad)
        assert "canary" not in str(refused.value)


def small_order_points() -> set[bytes]:
    """Every encoding of a point P with 8 P = 0, by arithmetic: from any point, ℓ times it."""
    p, order = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
    d = -121665 * pow(121666, -1, p) % p

    def add(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        (x, y), (u, v) = one, other
        t = d * x * u * y * v
        return (
            (x * v + y * u) * pow(1 + t, -1, p) % p,
            (y * v + x * u) * pow(1 - t, -1, p) % p,
        )

    def times(point: tuple[int, int], n: int) -> tuple[int, int]:
        made = (0, 1)
        while n:
            made, point, n = (add(made, point) if n & 1 else made), add(point, point), n >> 1
        return made

    for y in range(2, 40):
        square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
        x = pow(square, (p + 3) // 8, p)
        if x * x % p != square:
            x = x * pow(2, (p - 1) // 4, p) % p
        if x * x % p != square:
            continue
        torsion = times((x, y), order)
        points = {times(torsion, n) for n in range(8)}
        if len(points) == 8:
            break
    else:
        raise AssertionError("no generator of the small subgroup among these")
    found = set()
    for x, y in points:
        for spelled in (y, y + p):  # the second is no canonical one, and fits only sometimes
            for sign in {x & 1} if x else {0, 1}:
                if spelled < 2**255:
                    found.add((spelled | sign << 255).to_bytes(32, "little"))
    return found


def test_no_point_of_small_order_is_a_key() -> None:
    """Found by arithmetic, not from a list: none of the eight, in no spelling."""
    points = small_order_points()
    assert len(points) >= 8
    for raw in points:
        from_point = {**jwk(ed_key("a")), "x": b64(raw)}
        with pytest.raises(Malformed):
            IssuerKey.from_jwk(from_point)
