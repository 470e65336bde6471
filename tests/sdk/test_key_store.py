"""Issuers' keys, fetched and kept by whoever verifies by themselves (docs/identity.md §3, T-13)."""

from __future__ import annotations

import ipaddress
import json
import multiprocessing
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from carepos import (
    IssuerKeys,
    KeyStore,
    SetRefused,
    TokenRefused,
    Unreachable,
    durable,
    key_source,
    token,
)
from carepos.errors import Malformed
from carepos.issuer_keys import MAX_KEYS, IssuerKey
from carepos.keys import SigningKey, b64
from tests.key_server import WRONG, KeyServer, http, jwks, key_server, says

ISS, OTHER_ISS = "https://issuer.test", "https://second.test"
AUDIENCE = "urn:carepos:redeem"
HELD, NEW, EVIL = SigningKey(b"h" * 32), SigningKey(b"n" * 32), SigningKey(b"e" * 32)
SOON_S = 0.5
"""A deadline that a server which does not answer runs into."""


class SetClock:
    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **by: float) -> None:
        self.at += timedelta(**by)


class Place(NamedTuple):
    """A server that publishes HELD, a store's file, and the time."""

    server: KeyServer
    file: Path
    now: SetClock

    def store(self, **options: Any) -> KeyStore:
        return KeyStore(self.file, {ISS: self.server.url}, now=self.now, **options)

    def filled(self) -> KeyStore:
        store = self.store()
        assert store.refresh() == {}
        return store


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with key_server() as server:
        server.publishes(HELD)
        yield Place(server, tmp_path / "issuers.json", SetClock())


def code(store: KeyStore, now: SetClock, key: SigningKey = HELD, kid: str | None = None) -> str:
    """What a verifier over the store says of a token that `key` signed: `good`, or the refusal."""
    text = minted(now, key, kid)
    try:
        store.verifier(AUDIENCE).verify(text, now())
    except TokenRefused as refused:
        return refused.code
    return "good"


def minted(now: SetClock, key: SigningKey, kid: str | None = None) -> str:
    class Named(SigningKey):
        @property
        def kid(self) -> str:
            return kid or key.kid

    named = Named(key.private_key().private_bytes_raw())
    return token.mint(named, iss=ISS, aud=AUDIENCE, sub="s", jti="j", issued_at=now())


# ── T-13: what must not be believed ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", WRONG)
def test_t13_a_good_set_survives(place: Place, name: str) -> None:
    """T-13: whatever a captive portal, a broken or a hostile server answers, the set that is held
    stays, in memory and in the file, and its tokens are good; the reason is told."""
    before = place.filled().issuers[ISS]
    place.now.forward(minutes=1)
    wrong = WRONG[name]
    place.server.answer = wrong.answer(place.server, HELD, EVIL)
    store = place.store(deadline_s=SOON_S) if wrong.slow else place.store()
    problems = store.refresh()
    assert problems.keys() == {ISS} and problems == store.problems()
    assert (f"within {SOON_S:g} s" in problems[ISS]) == wrong.slow
    for seen in (store, place.store()):
        assert seen.issuers[ISS] == before
        assert [code(seen, place.now, key) for key in (HELD, EVIL)] == ["good", "token_signature"]
    assert "/elsewhere" not in place.server.paths
    place.server.publishes(HELD, NEW)
    assert place.filled().problems() == {}


@pytest.mark.parametrize("name", WRONG)
def test_t13_nothing_bad_is_a_first_set(place: Place, name: str) -> None:
    """T-13: nor does such an answer become the first set of a store that holds none, but for those
    that are only other than what was held."""
    wrong = WRONG[name]
    place.server.answer = wrong.answer(place.server, HELD, EVIL)
    store = place.store(deadline_s=SOON_S) if wrong.slow else place.store()
    only_other = name in ("other keys", "the same kid for another key")
    assert (store.refresh() == {}) == only_other
    assert (ISS in store.issuers) == only_other


def test_t13_a_set_from_before_does_not_come_back(place: Place) -> None:
    """T-13: after a rotation, a cache's old document, which has only the key that is on its way
    out, replaces nothing, by a clock that is set back neither; nor does an old copy of the file."""
    store = place.filled()
    for keys in ([HELD, NEW], [NEW]):
        place.now.forward(hours=1)
        place.server.publishes(*keys)
        assert store.refresh() == {}
    before = store.issuers[ISS]
    place.now.forward(hours=1)
    place.server.publishes(HELD)
    assert "shares no key" in store.refresh()[ISS]
    assert store.issuers[ISS] == before and HELD.kid in before.retiring
    place.now.forward(hours=-2)
    assert "shares no key" in store.refresh()[ISS]
    assert store.issuers[ISS] == before


def test_a_clock_that_was_ahead_stops_no_rotation(place: Place) -> None:
    """A set that was fetched under a clock a year ahead is replaced once the clock is right, in
    every process; what retired meanwhile is believed for a day and not for a year."""
    place.server.publishes(HELD, NEW)
    place.now.forward(days=365)
    store, other = place.filled(), place.store()
    place.server.publishes(NEW)
    assert store.refresh() == {}
    assert other.ages()[ISS] == timedelta(0)
    place.now.forward(days=-365)
    place.server.publishes(NEW, EVIL)
    assert store.refresh() == {}
    for each in (store, other, place.store()):
        assert [code(each, place.now, key) for key in (HELD, NEW, EVIL)] == ["good"] * 3
    place.now.forward(hours=24)
    for each in (store, other, place.store()):
        assert code(each, place.now, HELD) == "token_signature"
    assert other.refresh() == {}
    assert EVIL.kid in place.store().issuers[ISS].keys


def test_t13_made_up_kids_cause_one_fetch_in_five_minutes(place: Place) -> None:
    """T-13: ten thousand tokens with made-up kids, from many threads, ask the issuer once; five
    minutes later once more."""
    store = place.filled()
    verifier = store.verifier(AUDIENCE)
    first = minted(place.now, EVIL, "made-up-00000")
    head, rest = first.split(".", 1)
    assert place.server.asked == 1
    place.now.forward(minutes=5)

    def flood(thread: int) -> None:
        for n in range(1_250):
            if place.server.asked > expected:
                return  # it has failed; no need to wait for the rest
            made = f"made-up-{thread}{n:04}"
            header = b64(json.dumps({"alg": "EdDSA", "kid": made, "typ": "care+jwt"}).encode())
            with pytest.raises(TokenRefused):
                verifier.verify(f"{header}.{rest}", place.now())

    assert head not in rest
    for expected in (2, 3):
        threads = [threading.Thread(target=flood, args=[n]) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert place.server.asked == expected
        assert code(store, place.now) == "good"
        place.now.forward(minutes=4, seconds=59, milliseconds=999)
        assert code(store, place.now, EVIL) == "token_signature"
        assert place.server.asked == expected
        place.now.forward(milliseconds=1)


def test_t13_a_deadline_is_for_all_of_it(place: Place) -> None:
    """T-13: a server that drips is let go: its connection ends while it still has most of its
    answer to give, and no thread stays with it."""
    answer = http(jwks(HELD) + b" " * 60_000)
    let_go = threading.Event()

    def dripping(connection: Any) -> None:
        try:
            place.server.drips(answer)(connection)
        except OSError:
            let_go.set()

    place.server.answer = dripping
    with pytest.raises(Unreachable):
        key_source.fetch(place.server.url, deadline_s=SOON_S)
    assert let_go.wait(30)
    for thread in threading.enumerate():
        if thread.name == "carepos-keys":
            thread.join(30)
            assert not thread.is_alive()


def test_t13_only_who_vouches_for_the_address_is_believed(tmp_path: Path) -> None:
    """T-13: over TLS, a certificate that nobody vouches for is refused; pinned by `ca_file`, it is
    the only one believed."""
    pem, ca = _certificate(tmp_path, "127.0.0.1"), tmp_path / "127.0.0.1.crt"
    other = _certificate(tmp_path, "other.test")
    now = SetClock()
    with key_server(pem) as server:
        server.publishes(HELD)
        sources = {ISS: server.url}
        assert ISS in KeyStore(tmp_path / "a", sources, now=now).refresh()
        assert ISS in KeyStore(tmp_path / "b", sources, now=now, ca_file=other).refresh()
        store = KeyStore(tmp_path / "c", sources, now=now, ca_file=ca)
        assert store.refresh() == {}
        assert code(store, now) == "good"
        assert server.asked == 1


def _certificate(folder: Path, host: str) -> Path:
    """A PEM file of a key and its own certificate for `host`; the certificate alone in `.crt`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    names: x509.GeneralName = x509.DNSName(host)
    if host[0].isdigit():
        names = x509.IPAddress(ipaddress.ip_address(host))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2099, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / f"{host}.crt").write_bytes(pem)
    (folder / f"{host}.pem").write_bytes(private + pem)
    return folder / f"{host}.pem"


def test_t13_no_proxy_and_no_password_of_the_environment(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """T-13: neither a proxy variable nor a .netrc reroutes or adds to the fetch."""
    with key_server() as proxy:
        proxy.publishes(EVIL)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("no_proxy", "")
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert place.filled().issuers[ISS].keys.keys() == {HELD.kid}
        assert proxy.asked == 0


# ── rotation ───────────────────────────────────────────────────────────────────────────────────


def test_a_rotation_is_learned_by_the_first_token(place: Place) -> None:
    """A token signed by a key that is new is good at once, at one fetch; the old key is believed
    for a day more, and then no longer."""
    store = place.filled()
    place.now.forward(minutes=5)
    place.server.publishes(HELD, NEW)
    assert code(store, place.now, NEW) == "good"
    assert place.server.asked == 2
    place.now.forward(minutes=5)
    place.server.publishes(NEW)
    assert store.refresh() == {}
    assert [code(store, place.now, key) for key in (HELD, NEW)] == ["good", "good"]
    place.now.forward(hours=23, minutes=59)
    assert code(place.store(), place.now) == "good"
    place.now.forward(minutes=1)
    assert [code(store, place.now, key) for key in (HELD, NEW)] == ["token_signature", "good"]


def test_the_first_token_may_be_the_first_question(place: Place) -> None:
    """A store that never fetched asks when it is first shown a token of a source, and no other."""
    store = place.store()
    assert code(store, place.now) == "good"
    assert place.server.asked == 1
    text = token.mint(HELD, iss=OTHER_ISS, aud=AUDIENCE, sub="s", jti="j", issued_at=place.now())
    with pytest.raises(TokenRefused):
        store.verifier(AUDIENCE).verify(text, place.now())
    assert place.server.asked == 1


def test_whoever_examines_learns_of_a_rotation_too(place: Place) -> None:
    """`examine`, for those who remember visits, asks as `verify` does."""
    store = place.filled()
    place.now.forward(minutes=5)
    place.server.publishes(HELD, NEW)
    text = minted(place.now, NEW)
    assert store.verifier(AUDIENCE).examine(text, place.now()).iss == ISS


def test_other_keys_need_a_person(place: Place) -> None:
    """All keys replaced at once: refused, with the thumbprints to compare; believed only when a
    person names exactly these, and then the old ones stop at once."""
    store = place.filled()
    place.server.publishes(NEW)
    assert NEW.kid in store.refresh()[ISS]
    for thumbprints in ([], [HELD.kid], [NEW.kid, HELD.kid], ["x"]):
        with pytest.raises(SetRefused):
            store.confirm(ISS, thumbprints)
    assert code(store, place.now) == "good"
    store.confirm(ISS, [NEW.kid])
    assert [code(store, place.now, key) for key in (HELD, NEW)] == ["token_signature", "good"]
    assert place.store().issuers[ISS].keys.keys() == {NEW.kid}


def test_an_issuer_that_rotates_without_end_stays_readable(place: Place) -> None:
    """Nineteen of twenty keys are others each hour: what is kept stays bounded and can be read."""
    store = place.filled()
    for _ in range(6):
        place.now.forward(hours=1)
        place.server.publishes(HELD, *(SigningKey.generate() for _ in range(MAX_KEYS - 1)))
        assert store.refresh() == {}
    kept = place.store().issuers[ISS]
    assert kept == store.issuers[ISS]
    assert len(kept.retiring) == MAX_KEYS and len(kept.keys) == 2 * MAX_KEYS


# ── days without a network, and the file ───────────────────────────────────────────────────────


def test_without_a_network_for_days(place: Place) -> None:
    """What is held is believed on, also by a new process, and its age is shown."""
    place.filled()
    place.server.answer = says(b"")
    place.now.forward(days=9)
    store = place.store()
    assert code(store, place.now) == "good"
    assert ISS in store.refresh()
    assert store.ages() == {ISS: timedelta(days=9)}
    assert code(place.store(), place.now) == "good"
    empty = KeyStore(place.file, {OTHER_ISS: place.server.url}, now=place.now)
    assert empty.ages() == {OTHER_ISS: None} and dict(empty.issuers) == {}


def _damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    kept = json.loads(data)
    if how == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "zeros":
        file.write_bytes(bytes(len(data)))
    elif how == "another key":
        file.write_bytes(data.replace(HELD.kid.encode(), EVIL.kid.encode()))
    elif how == "no keys":
        kept["issuers"][ISS]["keys"]["keys"] = []
        file.write_bytes(json.dumps(kept).encode())
    elif how == "no issuers":
        file.write_bytes(json.dumps({**kept, "issuers": {}}).encode())
    elif how == "not a store":
        file.write_bytes(jwks(EVIL))


@pytest.mark.parametrize(
    "how", ["cut", "empty", "zeros", "another key", "no keys", "no issuers", "not a store"]
)
def test_t13_a_damaged_file_is_never_an_empty_store(place: Place, how: str) -> None:
    """T-13: a new process says what is wrong and what to do, and fetches nothing; a running one
    goes on with the good set and mends the file."""
    running = place.filled()
    before = running.issuers[ISS]
    _damage(place.file, how)
    with pytest.raises(Malformed) as caught:
        place.store()
    assert "is damaged" in str(caught.value) and place.server.asked == 1
    assert code(running, place.now) == "good"
    place.now.forward(minutes=5)
    assert code(running, place.now, EVIL) == "token_signature"
    assert running.issuers[ISS].keys == before.keys
    assert place.store().issuers[ISS].keys == before.keys


def test_t13_an_old_copy_of_the_file_takes_nothing_back(place: Place) -> None:
    """T-13: somebody puts last week's file back, or removes it, under a running process: it keeps
    what it holds, and writes it at its next change."""
    store = place.filled()
    old = place.file.read_bytes()
    place.now.forward(days=7)
    place.server.publishes(HELD, NEW)
    assert store.refresh() == {}
    place.server.answer = says(b"")
    for put_back in (lambda: place.file.write_bytes(old), place.file.unlink):
        put_back()
        assert [code(store, place.now, key) for key in (HELD, NEW)] == ["good", "good"]
        assert ISS in store.refresh()
        assert place.store().issuers[ISS].keys.keys() == {HELD.kid, NEW.kid}


def test_a_disk_that_is_full_stops_no_verifying(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that can't be written is told by `refresh`; tokens are judged by what is held."""
    store = place.filled()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("carepos.durable.write", full)
    place.now.forward(minutes=5)
    assert [code(store, place.now, key) for key in (HELD, EVIL)] == ["good", "token_signature"]
    with pytest.raises(OSError, match="No space"):
        store.refresh()
    assert code(store, place.now) == "good"


def test_a_file_that_can_t_be_reached_stops_no_verifying(place: Place) -> None:
    """A folder that is gone, or is no folder any more: tokens are judged by what is held."""
    folder = place.file.with_name("keys")
    folder.mkdir()
    store = KeyStore(folder / "issuers.json", {ISS: place.server.url}, now=place.now)
    assert store.refresh() == {}
    folder.rename(folder.with_name("moved"))
    folder.write_text("no folder")
    place.now.forward(minutes=5)
    assert [code(store, place.now, key) for key in (HELD, EVIL)] == ["good", "token_signature"]
    assert store.ages()[ISS] == timedelta(minutes=5) and store.problems() == {}
    with pytest.raises(OSError, match="directory"):
        store.refresh()


def test_what_one_process_learns_the_others_know(place: Place) -> None:
    """Two stores over one file: a rotation that one fetched is known to the other without a fetch
    of its own, and they share the five minutes."""
    one, two = place.filled(), place.store()
    place.now.forward(minutes=5)
    place.server.publishes(HELD, NEW)
    assert one.refresh() == {}
    assert code(two, place.now, NEW) == "good"
    assert [code(each, place.now, EVIL) for each in (one, two)] == ["token_signature"] * 2
    assert place.server.asked == 2


def test_a_process_that_writes_keeps_the_others_waiting(place: Place) -> None:
    """Whoever holds the file's lock reads and writes it alone: nothing that another process learns
    meanwhile is lost."""
    place.filled()
    other = KeyStore(place.file, {OTHER_ISS: place.server.url}, now=place.now)
    refreshing = threading.Thread(target=other.refresh)
    with durable.lock(place.file.with_name(f"{place.file.name}.lock")):
        before = place.file.read_bytes()
        refreshing.start()
        refreshing.join(0.5)
        place.file.write_bytes(before)
    refreshing.join()
    found = KeyStore(place.file, dict.fromkeys([ISS, OTHER_ISS], place.server.url), now=place.now)
    assert found.issuers.keys() == {ISS, OTHER_ISS}


def _refresh_often(file: str, iss: str, url: str) -> None:
    store = KeyStore(file, {iss: url})
    for _ in range(20):
        assert store.refresh() == {}


def test_processes_that_write_at_once_lose_nothing(place: Place) -> None:
    """Several processes refresh issuers of their own in one file: every set is in it at the end,
    and whoever reads it meanwhile finds it whole."""
    issuers = [f"https://issuer-{n}.test" for n in range(3)]
    context = multiprocessing.get_context("spawn")
    running = [
        context.Process(target=_refresh_often, args=(str(place.file), iss, place.server.url))
        for iss in issuers
    ]
    for process in running:
        process.start()
    while any(process.is_alive() for process in running):
        KeyStore(place.file, dict.fromkeys(issuers, place.server.url))
    assert [process.exitcode for process in running] == [0, 0, 0]
    found = KeyStore(place.file, dict.fromkeys(issuers, place.server.url))
    assert found.issuers.keys() == set(issuers)


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.test/keys", "http://127.0.0.2.example/keys", "ftp://127.0.0.1/keys",
        "https://", "https:///keys", "https://a:b@issuer.test/", "https://issuer.test/#k",
        "https://issuer.test:x/", "https://issuer.test/ä", "https://issuer.test/a b",
        "file:///etc/passwd", "https://" + "a" * 500, "", "/keys", "https://[::1/", 7, None,
    ],
)  # fmt: skip
def test_a_source_is_https(tmp_path: Path, url: Any) -> None:
    """Anything else is refused before it is asked; plain http only on this machine."""
    with pytest.raises(Malformed):
        KeyStore(tmp_path / "keys", {ISS: url})
    for good in ("http://[::1]:80/k?x=1", "http://localhost/", "https://issuer.test:8443/k?x=1"):
        assert key_source.source_url(good) == good


def test_thumbprints_are_rfc_7638() -> None:
    """The same key has the same thumbprint, whatever its kid and its other members."""
    # RFC 8037, appendix A.3
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    expected = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    for more in ({}, {"kid": "2026"}, {"use": "sig", "alg": "Ed25519"}):
        assert IssuerKey.from_jwk({**jwk, **more}).thumbprint == expected
    assert IssuerKeys.from_jwks(jwks(jwk), datetime(2026, 1, 1, tzinfo=UTC)).keys.keys() == {
        expected
    }
