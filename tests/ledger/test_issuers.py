"""Issuers' keys at the ledger: from their address, on either database, whatever stands there.

docs/identity.md §3, T-13.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from sqlalchemy import update
from waitress.server import create_server

from carepos import key_source, token
from carepos.errors import Malformed, Refused
from carepos.issuer_keys import IssuerKey
from carepos.keys import SigningKey, b64
from carepos_ledger import app, schema
from carepos_ledger.actions import Done
from carepos_ledger.intake import Intake
from carepos_ledger.issuers import Issuers
from carepos_ledger.operators import new_secret
from carepos_ledger.problems import Problem
from tests.key_server import WRONG, KeyServer, http, jwks, key_server, says
from tests.ledger.rig import AUDIENCE, ISSUER, PROGRAMME, Holder, Rig, code
from tests.world import World, end, milk, world

NEW, EVIL = SigningKey(b"n" * 32), SigningKey(b"e" * 32)
SOON_S = 0.5


@dataclass
class Place:
    """A ledger whose issuer publishes its keys at an address; how often that was asked."""

    rig: Rig
    server: KeyServer
    issuers: Issuers
    intake: Intake
    holder: Holder

    @property
    def held(self) -> SigningKey:
        return self.rig.issuer_key

    def verdict(self, key: SigningKey, kid: str | None = None) -> str:
        """`good`, or the code with which a lookup's token is refused."""
        self.rig.tokens += 1
        minted = token.mint(
            key,
            iss=ISSUER,
            aud=AUDIENCE,
            sub=self.holder.sub,
            jti=f"look-{self.rig.tokens}",
            issued_at=self.rig.now(),
        )
        if kid is not None:
            header = b64(json.dumps({"alg": "EdDSA", "kid": kid, "typ": "care+jwt"}).encode())
            minted = ".".join([header, *minted.split(".")[1:]])
        try:
            self.intake.verify_token(minted)
        except Refused as refused:
            return refused.code
        return "good"

    def listed(self) -> dict[str, Any]:
        [found] = [each for each in self.issuers.listed() if each["iss"] == ISSUER]
        return found

    def rules_version(self) -> int:
        return self.rig.programmes.one(PROGRAMME).rules_version


@pytest.fixture
def place(rig: Rig) -> Iterator[Place]:
    with key_server() as server:
        issuers = Issuers(rig.database, rig.now)
        server.publishes(rig.issuer_key)
        assert issuers.put_source(ISSUER, server.url) == "changed"
        intake = Intake(rig.database, AUDIENCE, rig.now, rig.keyring.evidence, issuers.learn)
        yield Place(rig, server, issuers, intake, rig.holder())


def soon(url: str, _: float) -> bytes:
    return key_source.fetch(url, deadline_s=SOON_S)


@pytest.mark.parametrize("name", WRONG)
def test_t13_a_good_set_survives_at_the_ledger(place: Place, name: str) -> None:
    """T-13: whatever stands at the issuer's address, the set that is held stays, tills' packs too;
    the reason is kept for operators, and gone with the next good answer."""
    rig, wrong = place.rig, WRONG[name]
    rig.now.forward(minutes=5)
    before = rig.tables(["programmes"]), place.issuers.listed()[0]["keys"]
    packed = place.intake.trust.believed_keys()
    place.server.answer = wrong.answer(place.server, place.held, EVIL)
    issuers = Issuers(rig.database, rig.now, soon) if wrong.slow else place.issuers
    with pytest.raises(Problem) as refused:
        issuers.refresh(ISSUER)
    only_other = name in ("other keys", "the same kid for another key")
    assert refused.value.code == (
        "already_exists_differently" if only_other else "issuer_unavailable"
    )
    assert (f"within {SOON_S:g} s" in refused.value.detail) == wrong.slow
    assert place.listed()["problem"] == refused.value.detail
    with pytest.raises(Problem):
        issuers.put_source(ISSUER, place.server.url)
    assert (rig.tables(["programmes"]), place.issuers.listed()[0]["keys"]) == before
    assert place.intake.trust.believed_keys() == packed
    assert [place.verdict(key) for key in (place.held, EVIL)] == ["good", "token_signature"]
    place.server.publishes(place.held)
    assert place.issuers.refresh(ISSUER) == "exists"
    assert place.listed()["problem"] is None


def test_t13_ten_thousand_kids_are_one_question(place: Place) -> None:
    """T-13: ten thousand made-up kids in sixteen threads, and in another server over the same
    database, are one fetch in five minutes, and no write but one."""
    servers = [place, Place(place.rig, place.server, Issuers(place.rig.database, place.rig.now),
                            place.intake, place.holder)]  # fmt: skip
    servers[1].intake = Intake(
        place.rig.database, AUDIENCE, place.rig.now, place.rig.keyring.evidence,
        servers[1].issuers.learn,
    )  # fmt: skip
    assert place.server.asked == 1

    def flood(thread: int, kids: int) -> None:
        for n in range(kids):
            if place.server.asked > expected:
                return  # it has failed; no need to wait for the rest
            assert servers[n % 2].verdict(EVIL, f"made-up-{thread}-{n}") == "token_signature"

    before = place.rules_version()
    place.rig.now.forward(minutes=5)
    for kids, later, expected in ((625, 299.999, 2), (2, 0.001, 2), (5, 0, 3)):
        threads = [threading.Thread(target=flood, args=[n, kids]) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert place.server.asked == expected
        place.rig.now.forward(seconds=later)
    assert place.rules_version() == before
    assert place.verdict(place.held) == "good"


def test_t13_a_server_that_fails_is_asked_no_more_often(place: Place) -> None:
    """T-13: also when it does not answer, and when the clock was set back by years, which stops
    the asking for ever no more than it hurries it."""
    place.server.answer = says(b"")
    for by in ({"minutes": 5}, {"days": -900}, {"minutes": 5}):
        place.rig.now.forward(**by)
        asked = place.server.asked
        for n in range(5):
            assert place.verdict(EVIL, f"k{n}") == "token_signature"
        assert place.server.asked == asked + 1


def test_a_rotation_is_learned_by_the_first_token(place: Place) -> None:
    """A token under a new key is good at once; tills learn of it by new rules; the old key is
    believed for a day more, and packs then no longer have it."""
    place.rig.now.forward(minutes=5)
    place.server.publishes(place.held, NEW)
    version = place.rules_version()
    assert place.verdict(NEW) == "good"
    assert (place.server.asked, place.rules_version()) == (2, version + 1)
    place.server.publishes(NEW)
    assert place.issuers.refresh(ISSUER) == "changed"
    [new, old] = sorted(place.listed()["keys"], key=lambda key: key["retiring_until"] or "")
    assert (new["kid"], old["kid"]) == (NEW.kid, place.held.kid)
    assert old["retiring_until"] == "2026-11-23T08:05:00.000Z" and new["retiring_until"] is None
    place.rig.now.forward(hours=23, minutes=59)
    assert [place.verdict(key) for key in (place.held, NEW)] == ["good", "good"]
    place.rig.now.forward(minutes=1)
    assert [place.verdict(key) for key in (place.held, NEW)] == ["token_signature", "good"]
    [packed] = place.intake.trust.believed_keys()
    assert [key["kid"] for key in packed["keys"]] == [NEW.kid]  # type: ignore[attr-defined]


def test_a_rotation_is_learned_from_a_record_too(place: Place) -> None:
    """A redemption whose token is under a new key is posted, not refused for ever."""
    rig, till = place.rig, place.rig.signer()
    rig.now.forward(minutes=5)
    place.server.publishes(place.held, NEW)
    rig.issuer_key, held = NEW, rig.issuer_key
    sent = [rig.redeem(till, place.holder, 10), rig.redeem(till, place.holder, 10)]
    rig.issuer_key, rig.intake, before = held, place.intake, rig.intake
    try:
        assert [code(each) for each in rig.send(*sent)] == ["posted", "posted"]
    finally:
        rig.intake = before
    assert place.server.asked == 2


def test_no_lock_is_held_while_a_set_is_fetched(place: Place) -> None:
    """While the issuer takes its time, others write, the same issuer too; what was asked for
    before then does not overwrite it."""
    rig = place.rig
    rig.now.forward(minutes=5)
    done: list[Done] = []

    def meanwhile(connection: socket.socket) -> None:
        rig.office.put_funder("city-fund", "City Fund")
        till = rig.signer()
        assert code(rig.send_one(rig.redeem(till, place.holder, 10))) == "posted"
        done.append(rig.issuers.put(ISSUER, [place.held.public.to_jwk(), EVIL.public.to_jwk()]))
        connection.sendall(http(jwks(place.held, NEW)))

    place.server.answer = meanwhile
    with pytest.raises(Problem) as stale:
        place.issuers.refresh(ISSUER)
    assert (stale.value.code, done) == ("try_again", ["changed"])
    assert {key["kid"] for key in place.listed()["keys"]} == {place.held.kid, EVIL.kid}
    assert place.listed()["jwks_url"] is None


def test_of_two_that_overtake_each_other_the_later_stays(place: Place) -> None:
    """A set that was asked for before the one held arrived changes nothing."""
    rig = place.rig
    rig.now.forward(minutes=5)

    def overtaken(connection: socket.socket) -> None:
        place.server.publishes(place.held, NEW)
        rig.now.forward(seconds=1)
        assert place.issuers.refresh(ISSUER) == "changed"
        connection.sendall(http(jwks(place.held)))

    place.server.answer = overtaken
    with pytest.raises(Problem):
        place.issuers.refresh(ISSUER)
    assert place.listed()["keys"] and place.verdict(NEW) == "good"
    assert all(key["retiring_until"] is None for key in place.listed()["keys"])


def test_a_clock_that_was_ahead_stops_no_rotation(place: Place) -> None:
    """A set that was fetched under a clock a year ahead is replaced once the clock is right."""
    place.rig.now.forward(days=365)
    assert place.issuers.refresh(ISSUER) == "exists"
    place.rig.now.forward(days=-365)
    place.server.publishes(place.held, EVIL)
    assert place.issuers.refresh(ISSUER) == "changed"
    assert place.verdict(EVIL) == "good"


def test_all_keys_at_once_need_a_person(place: Place) -> None:
    """Refused with the thumbprints to compare; believed only when a person names exactly these,
    which stops the old ones at once."""
    place.server.publishes(NEW)
    with pytest.raises(Problem) as refused:
        place.issuers.refresh(ISSUER)
    assert NEW.kid in refused.value.detail
    for wrong in ([place.held.kid], [NEW.kid, place.held.kid], ["x" * 43]):
        with pytest.raises(Problem) as other:
            place.issuers.confirm(ISSUER, wrong)
        assert other.value.code == "already_exists_differently"
    for odd in ([], ["x"], [None], "x", None, [NEW.kid] * 21):
        with pytest.raises(Malformed):
            place.issuers.confirm(ISSUER, odd)  # type: ignore[arg-type]
    assert place.verdict(place.held) == "good"
    assert place.issuers.confirm(ISSUER, [NEW.kid]) == "changed"
    assert [place.verdict(key) for key in (place.held, NEW)] == ["token_signature", "good"]
    place.server.publishes(EVIL)
    assert place.issuers.put_source(ISSUER, place.server.url, confirmed=True) == "changed"
    assert place.verdict(EVIL) == "good"


def test_from_an_address_or_from_an_operator(place: Place) -> None:
    """Whichever was named last; an unknown issuer and one without an address can't be refreshed."""
    assert place.issuers.put_source(ISSUER, place.server.url) == "exists"
    assert place.issuers.put(ISSUER, [place.held.public.to_jwk()]) == "changed"
    for iss in (ISSUER, "https://nobody.test"):
        for call in (place.issuers.refresh, lambda iss: place.issuers.confirm(iss, ["x" * 43])):
            with pytest.raises(Problem) as none:
                call(iss)
            assert none.value.code == "not_found"
    asked = place.server.asked
    place.rig.now.forward(minutes=5)
    assert place.verdict(EVIL) == "token_signature"
    assert place.server.asked == asked
    assert place.issuers.put_source("https://new.test", place.server.url) == "created"
    assert len(place.issuers.listed()) == 2


def test_every_kind_of_key(place: Place) -> None:
    """What is listed names kind, thumbprint, age and what was left out; a withdrawn key says so."""
    ec = {"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig",
          "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
          "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}  # fmt: skip
    place.server.publishes(place.held.public.to_jwk(), ec, {**ec, "kid": "e", "use": "enc"})
    assert place.issuers.refresh(ISSUER) == "changed"
    place.rig.now.forward(days=3)
    with place.rig.database.write() as connection:
        connection.execute(
            schema.revocations.insert().values(
                iss=ISSUER, kind="key", name="ec", reason="lost", at="2026-11-22T08:00:00.000Z"
            )
        )
    found = place.listed()
    assert (found["age_s"], found["left_out"]) == (3 * 86_400, 1)
    by_kid = {key["kid"]: key for key in found["keys"]}
    assert by_kid["ec"] == {
        "kid": "ec",
        "kty": "EC",
        "thumbprint": IssuerKey.from_jwk(ec).thumbprint,
        "retiring_until": None,
        "withdrawn": True,
    }
    assert by_kid[place.held.kid]["withdrawn"] is False


# ── a whole ledger, over HTTP ──────────────────────────────────────────────────────────────────


@pytest.fixture
def served(tmp_path: Any, database_url: str) -> Iterator[tuple[World, KeyServer, str]]:
    """A ledger behind as many threads as it has in a shop's life, and its issuer's server."""
    with world(tmp_path, database_url) as made, key_server() as keys:
        keys.publishes(made.issuer_key)
        made.ledger.issuers.put_source("https://issuer.test", keys.url)
        server = create_server(
            made.ledger.wsgi, host="127.0.0.1", port=0, threads=app.THREADS, channel_timeout=60
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield made, keys, f"http://127.0.0.1:{server.effective_port}"
        finally:
            end(server)
            thread.join(5)


def test_t13_all_threads_together_ask_once_and_selling_goes_on(
    served: tuple[World, KeyServer, str],
) -> None:
    """T-13: sixteen lookups with made-up kids at once, while the issuer does not answer: one of
    them waits for it, the others are refused, and a redemption is confirmed meanwhile."""
    made, keys, url = served
    made.url = url
    family, tills = made.family(), [made.till(f"till-{n}") for n in range(4)]
    offer = tills[0].propose(family.token(), [milk()])
    made.now.forward(minutes=5)
    asked, go_on = threading.Event(), threading.Event()

    def waiting(connection: socket.socket) -> None:
        asked.set()
        go_on.wait(60)
        connection.sendall(http(jwks(made.issuer_key)))

    keys.answer = waiting
    refused = threading.Semaphore(0)
    codes: list[str] = []

    def look(n: int) -> None:
        # Past the till's own check, as a till with a newer pack would.
        minted = token.mint(EVIL, iss="https://issuer.test", aud=AUDIENCE, sub="s", jti=f"j{n}",
                            issued_at=made.now())  # fmt: skip
        client = tills[n % 4]._client
        try:
            client.look_up(minted)
        except Exception as error:  # noqa: BLE001
            codes.append(getattr(error, "code", type(error).__name__))
        refused.release()

    threads = [threading.Thread(target=look, args=[n]) for n in range(app.THREADS)]
    for thread in threads:
        thread.start()
    assert asked.wait(30)
    for _ in range(app.THREADS - 1):
        assert refused.acquire(timeout=30)
    sale = tills[0].redeem(offer, checkout="S1-1", cashier="c01")
    go_on.set()
    for thread in threads:
        thread.join()
    assert sale.state == "confirmed"
    assert set(codes) == {"token_signature"} and len(codes) == app.THREADS
    assert keys.asked == 2


def test_a_till_learns_a_rotation_by_itself(served: tuple[World, KeyServer, str]) -> None:
    """From the issuer's address to the till: a care code under a key that neither till nor ledger
    had is redeemed, with one question to the issuer, though the till asks for its pack first."""
    made, keys, url = served
    made.url = url
    family, till = made.family(), made.till()
    assert till.propose(family.token(), [milk()]).refusal is None
    made.now.forward(minutes=5)
    keys.publishes(made.issuer_key, NEW)
    secret = new_secret()
    made.ledger.operators.add("ops", secret)
    answer = requests.post(
        f"{url}/v1/operators/issuers/refresh",
        json={"iss": "https://issuer.test"},
        headers={"Authorization": f"Bearer {secret}"},
        timeout=20,
    )
    assert answer.json() == {"result": "changed"}
    made.issuer_key, old = NEW, made.issuer_key
    sale = till.redeem(till.propose(family.token(), [milk()]), checkout="S1-1", cashier="c01")
    assert sale.state == "confirmed"
    assert keys.asked == 2
    made.issuer_key = old
    assert till.propose(family.token(), [milk()]).refusal is None


def test_a_set_of_before_the_migration_is_kept(place: Place) -> None:
    """A row of an older version, whose age nobody knows, is as good as it was and can be
    refreshed."""
    with place.rig.database.write() as connection:
        held = json.loads(connection.execute(schema.issuers.select()).one().keys)
        old = json.dumps({**held, "as_of": "1970-01-01T00:00:00.000Z"})
        connection.execute(update(schema.issuers).values(keys=old))
    assert place.verdict(place.held) == "good"
    assert place.issuers.refresh(ISSUER) == "exists"
    assert place.listed()["age_s"] == 0
