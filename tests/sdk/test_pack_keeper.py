"""The pack a till holds: never replaced by a worse one, asked for no more often than may be.

docs/identity.md §3 and §9, T-13.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from carepos import Till, clock, jws, pack, token
from carepos.client import Client, Transport
from carepos.errors import Refused, Unreachable
from carepos.keys import KeySet, SigningKey, b64, digest
from carepos.pack_keeper import PackKeeper
from carepos.token import IdentityToken
from tests.key_server import KeyServer, http, key_server, says
from tests.world import AUDIENCE, ISSUER, PROGRAMME, Family, World, milk, world

LEDGER, HELD, NEW, EVIL = (SigningKey(bytes([n]) * 32) for n in range(1, 5))
TERMINAL = "t-0123456789abcdef"


@dataclass
class Packs:
    """A ledger that hands out whatever pack a test wants, and a till's keeper."""

    server: KeyServer
    folder: Path
    at: Any
    keys: list[SigningKey] = field(default_factory=lambda: [HELD])
    issued: timedelta = timedelta()
    epoch: int = 1
    signed_by: SigningKey = LEDGER
    terminal: str = TERMINAL
    issuer: str = ISSUER
    file: bytes | None = None

    def __post_init__(self) -> None:
        self.server.answer = self.answer

    def now(self) -> Any:
        return self.at

    def keeper(self) -> PackKeeper:
        client = Client(
            Transport(self.server.url.removesuffix("/keys")),
            terminal=TERMINAL, ledger="ledger-1", key=HELD, now=self.now,
        )  # fmt: skip
        keys = KeySet([LEDGER.public])
        held = pack.kept(self.folder, terminal=TERMINAL, keys=keys)
        return PackKeeper(
            self.folder,
            terminal=TERMINAL,
            keys=keys,
            client=client,
            now=self.now,
            heard=lambda at: None,
            held=held,
            incarnation="0" * 32,
        )

    def body(self) -> bytes:
        keys = [key.public.to_jwk() for key in self.keys]
        rules = {**PROGRAMME, "rules_version": 1, "stores": []}
        return json.dumps({
            "v": 1, "terminal": TERMINAL, "store": "zhou-shop", "audience": AUDIENCE,
            "issuers": [{"iss": self.issuer, "keys": keys}], "programmes": [rules],
            "product_lists": [{"product_list": "relief", "version": 1, "entries": {}}],
        }).encode()  # fmt: skip

    def answer(self, connection: socket.socket) -> None:
        data = self.body() if self.file is None else self.file
        if not self.server.paths[-1].endswith("/offline-pack"):
            return connection.sendall(http(data))
        manifest = {
            "v": 1, "kind": "offline-pack", "terminal": self.terminal, "epoch": self.epoch,
            "issued_at": clock.to_text(self.at + self.issued),
            "file": {"sha256": digest(self.body()), "length": len(self.body())},
        }  # fmt: skip
        signed = jws.sign(manifest, typ=jws.MANIFEST, key=self.signed_by)
        return connection.sendall(http(json.dumps({"manifest": signed}).encode()))

    @property
    def manifests(self) -> int:
        return sum(path.endswith("/offline-pack") for path in self.server.paths)


@pytest.fixture
def packs(tmp_path: Path) -> Iterator[Packs]:
    with key_server() as server:
        yield Packs(server, tmp_path, clock.from_text("2026-11-22T08:00:00.000Z"))


WORSE: dict[str, dict[str, Any]] = {
    "older": {"issued": timedelta(milliseconds=-1)},
    "of an epoch before": {"epoch": 1, "issued": timedelta(hours=1)},
    "without the issuer's keys": {"issuer": "https://other.test"},
    "without any key": {"keys": []},
    "signed by another": {"signed_by": EVIL},
    "another till's": {"terminal": "t-aaaaaaaaaaaaaaaa"},
    "with a file that is cut": {"file": b"{"},
    "with another file": {"file": b"{}"},
}


@pytest.mark.parametrize("name", WORSE)
def test_t13_a_worse_pack_never_replaces_the_one_held(packs: Packs, name: str) -> None:
    """T-13: older, of another epoch, poorer, forged or not whole: the pack that is held stays, on
    the disk too, and the next good one is taken."""
    packs.epoch = 2
    keeper = packs.keeper()
    held = keeper.get()
    packs.keys = [HELD, EVIL]
    for changed, value in WORSE[name].items():
        setattr(packs, changed, value)
    with pytest.raises(Unreachable):
        keeper.refresh()
    assert keeper.refresh_for_unknown_key() is False
    assert keeper.held is held
    kept = packs.keeper().held
    assert kept is not None and kept == held
    good = Packs(packs.server, packs.folder, packs.at, keys=[HELD, NEW], epoch=2)
    assert set(keeper.refresh().issuers[ISSUER].keys) == {HELD.kid, NEW.kid}
    assert good.manifests


@pytest.mark.parametrize(
    "answer",
    [
        http(b"<html>Sign in</html>", kind="text/html"),
        http(b"<html>Sign in</html>"),
        http(b"{}"),
        http(b"", status="302 Found", more="Location: /elsewhere\r\n"),
        http(b'{"manifest":"x"}'),
        b"",
    ],
)
def test_t13_a_captive_portal_takes_no_pack(packs: Packs, answer: bytes) -> None:
    """T-13: whatever a network between till and ledger answers, the pack held stays."""
    keeper = packs.keeper()
    held = keeper.get()
    packs.server.answer = says(answer)
    with pytest.raises(Unreachable):
        keeper.refresh()
    assert keeper.held is held and packs.keeper().held == held
    assert "/elsewhere" not in packs.server.paths


def test_a_higher_epoch_comes_before_a_later_date(packs: Packs) -> None:
    """A ledger that was restored counts its epochs; its packs replace those of before."""
    keeper = packs.keeper()
    keeper.get()
    packs.epoch, packs.issued, packs.keys = 2, timedelta(days=-1), [NEW]
    assert keeper.refresh().epoch == 2
    assert set(keeper.refresh().issuers[ISSUER].keys) == {NEW.kid}


def test_a_pack_that_has_not_changed_grows_no_older(packs: Packs) -> None:
    """The ledger's word that nothing changed makes the pack as new as that word, durably, without
    the file being sent again; an older word makes it no older."""
    keeper = packs.keeper()
    first = keeper.get().issued_at
    files = packs.server.asked - packs.manifests
    packs.issued = timedelta(days=3)
    assert keeper.refresh().issued_at == first + timedelta(days=3)
    assert keeper.refresh_for_unknown_key() is False
    packs.issued = timedelta(days=1)
    assert keeper.refresh().issued_at == first + timedelta(days=3)
    kept = packs.keeper().held
    assert kept is not None and kept.issued_at == first + timedelta(days=3)
    assert packs.server.asked - packs.manifests == files


@pytest.mark.parametrize("dies", ["before the manifest", "after the manifest"])
def test_a_crash_while_a_pack_is_kept_leaves_one_of_the_two(
    packs: Packs, dies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file stands beside the old one until the manifest names it, so a till that starts
    without a network after a power cut has the old pack or the new one, and never none."""
    keeper = packs.keeper()
    old = keeper.get()
    packs.issued, packs.keys = timedelta(days=1), [HELD, NEW]
    write = pack.keep_manifest

    def keep_manifest(folder: Path, manifest: str) -> None:
        if dies == "after the manifest":
            write(folder, manifest)
        raise KeyboardInterrupt

    monkeypatch.setattr(pack, "keep_manifest", keep_manifest)
    with pytest.raises(KeyboardInterrupt):
        keeper.refresh()
    monkeypatch.undo()
    kept = packs.keeper().held
    assert kept is not None
    assert (kept.sha256 == old.sha256) == (dies == "before the manifest")
    fresh = packs.keeper().refresh()
    assert set(fresh.issuers[ISSUER].keys) == {HELD.kid, NEW.kid}
    assert len(list(packs.folder.glob("pack-*.json"))) <= 2


def test_a_disk_that_takes_no_pack_stops_no_verifying(
    packs: Packs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A code with an unknown key is judged by the pack held; `refresh` tells of the disk."""
    keeper = packs.keeper()
    old = keeper.get()
    packs.issued, packs.keys = timedelta(days=1), [HELD, NEW]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("carepos.durable.write", full)
    assert not keeper.refresh_for_unknown_key()
    with pytest.raises(OSError, match="No space"):
        keeper.refresh()
    assert keeper.held == old


# ── a whole till ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def _with_kid(code: str, kid: str) -> str:
    header = b64(json.dumps({"alg": "EdDSA", "kid": kid, "typ": "care+jwt"}).encode())
    return ".".join([header, *code.split(".")[1:]])


def test_t13_made_up_kids_at_a_till_are_one_question(
    shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T-13: ten thousand codes with made-up kids, from several threads, make a till ask for its
    pack once in five minutes; each is refused, and a good code is redeemed afterwards."""
    till, family = shop.till(), shop.family()
    code = family.token()
    till.propose(code, [milk()])
    asked: list[str] = []
    ask = till._client.make_pack

    def counted(incarnation: str) -> object:
        asked.append("pack")
        return ask(incarnation)

    monkeypatch.setattr(till._client, "make_pack", counted)
    monkeypatch.setattr(till._client, "look_up", lambda *_: pytest.fail("sent on"))

    def flood(thread: int, codes: int) -> None:
        for n in range(codes):
            if len(asked) > expected:
                return  # it has failed; no need to wait for the rest
            with pytest.raises(Refused) as refused:
                till.scan(_with_kid(code, f"k-{thread}-{n}"))
            assert refused.value.code == "token_signature"

    for codes, later, expected in ((2_500, 299.999, 1), (1, 0.001, 1), (3, 0, 2)):
        threads = [threading.Thread(target=flood, args=[n, codes]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(asked) == expected
        shop.now.forward(seconds=later)
    monkeypatch.undo()
    sale = till.redeem(till.propose(family.token(), [milk()]), checkout="S1", cashier="c01")
    assert sale.state == "confirmed"


def test_a_code_that_no_pack_makes_good_asks_nobody(
    shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `kid` of a form that no key has: refused here, and the question is left for a rotation."""
    till, family = shop.till(), shop.family()
    code = family.token()
    till.propose(code, [milk()])
    monkeypatch.setattr(till._client, "pack_manifest", lambda: pytest.fail("asked"))
    with pytest.raises(Refused) as refused:
        till.scan(_with_kid(code, "k" * 65))
    assert refused.value.code == "token_malformed"


def test_a_rotated_key_is_learned_through_one_refresh(shop: World) -> None:
    """The issuer signs with a new key that the ledger knows: the first such code is redeemed, after
    one refresh of the pack."""
    till, family = shop.till(), shop.family()
    till.propose(family.token(), [milk()])
    before = till.held_pack
    shop.ledger.issuers.put(ISSUER, [shop.issuer_key.public.to_jwk(), NEW.public.to_jwk()])
    shop.issuer_key = NEW
    sale = till.redeem(till.propose(family.token(), [milk()]), checkout="S1", cashier="c01")
    assert sale.state == "confirmed" and till.held_pack is not before


@pytest.mark.parametrize("what", ["key", "token", "card"])
def test_what_is_withdrawn_is_refused_at_both_ends(shop: World, what: str) -> None:
    """At the ledger at once, whatever pack a till holds; at the till, also without a network, as
    soon as it has the pack; everybody else goes on."""
    rules = {**PROGRAMME, "classes": ["once", "card"]}
    shop.ledger.programmes.put_programme(rules)
    shop.ledger.issuers.put(ISSUER, [shop.issuer_key.public.to_jwk(), NEW.public.to_jwk()])
    till, family = shop.till(), shop.family()
    till.refresh_pack()
    of_card: dict[str, Any] = {
        "token_class": "card",
        "amr": ("carepos:card",),
        "lifetime_s": 86_400,
    }
    lost: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": family.sub, "jti": "lost",
            "issued_at": shop.now(), **(of_card if what == "card" else {})}  # fmt: skip
    code = token.mint(shop.issuer_key, **lost)
    if what == "card":
        # The ledger is asked with the PIN's proof; any will do for a card that is withdrawn.
        code = f"CPC1*{'c' * 22}*{code}"
    revoking = shop.ledger.revoking
    if what == "key":
        revoking.key(ISSUER, shop.issuer_key.kid, reason="stolen")
    else:
        revoking.token(ISSUER, digest(b"lost"), reason="lost")
    with pytest.raises(Refused) as at_ledger:
        till.scan(code, pin="1234" if what == "card" else None)
    till.refresh_pack()
    till._client._transport.url = "http://127.0.0.1:1"
    with pytest.raises(Refused) as at_till:
        till.scan(code, pin="1234" if what == "card" else None)
    assert at_ledger.value.code == at_till.value.code == "token_revoked"
    till._client._transport.url = shop.url
    if what == "key":
        shop.issuer_key = NEW
    assert till.propose(family.token(), [milk()]).refusal is None


# ── households ─────────────────────────────────────────────────────────────────────────────────

OFFLINE = {
    "allotment_permille": 500, "spend_s": 259_200, "upload_s": 345_600, "pack_age_s": 259_200,
    "floor": None, "stored_sum_minor": 10**6, "stored_count": 100, "online_permille": 0,
}  # fmt: skip


def offline_shop(shop: World) -> tuple[Till, Family, IdentityToken]:
    """A till, and a family that shopped there once, in a programme that works offline."""
    shop.ledger.programmes.put_programme({**PROGRAMME, "offline": OFFLINE})
    till, family = shop.till(), shop.family()
    code = family.token()
    till.redeem(till.propose(code, [milk(1_000)]), checkout="S1-1", cashier="c01")
    return till, family, till.identify(code)


def files(till: Till) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in till.folder.glob("pack-*.json")}


def test_a_pack_holds_the_households_that_shop_here(shop: World) -> None:
    """Found by the token alone, with what is set aside for this till; nobody else's code opens
    anything, and nothing of anybody stands in the files."""
    till, family, identity = offline_shop(shop)
    assert till._packs.household(identity.iss, identity.sub) is None
    till.refresh_pack()
    household = till._packs.household(identity.iss, identity.sub)
    assert household is not None
    [voucher] = household.vouchers
    assert (voucher.available_minor, voucher.allotments[0].amount_minor) == (5_500, 5_500)
    assert till._packs.household(identity.iss, "A" * 22) is None
    held = b"".join(files(till).values())
    for secret in (family.sub, household.beneficiary, voucher.voucher):
        assert secret.encode() not in held


def test_only_what_changed_of_a_pack_is_fetched_again(
    shop: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 segments, of which one household's use changes one: that and the pack's own file."""
    till, _, _ = offline_shop(shop)
    other = shop.family()
    till.redeem(till.propose(other.token(), [milk(500)]), checkout="S1-2", cashier="c01")
    till.refresh_pack()
    before = files(till)
    fetched: list[str] = []
    fetch = till._client.pack_file

    def counted(sha256: str) -> bytes:
        fetched.append(sha256)
        return fetch(sha256)

    monkeypatch.setattr(till._client, "pack_file", counted)
    till.refresh_pack()
    assert fetched == [] and files(till) == before
    till.redeem(till.propose(other.token(), [milk(700)]), checkout="S1-3", cashier="c01")
    till.refresh_pack()
    assert 1 <= len(fetched) <= 2
    assert len(files(till).keys() & before.keys()) >= len(before) - 2


def test_a_segment_that_is_cut_costs_the_households_not_the_rules(shop: World) -> None:
    """After a power cut garbled a file the till opens with keys and rules as before, says that it
    has no households, and fetches the segment again."""
    till, _, identity = offline_shop(shop)
    held = till.refresh_pack()
    assert held.households is not None
    till.close()
    name = pack._file_name(held.households.segments[0].sha256)
    for segment in held.households.segments:
        path = till.folder / pack._file_name(segment.sha256)
        if path.exists():
            path.write_bytes(path.read_bytes()[:-1])
    again = shop.till()
    assert again.held_pack is not None and again.held_pack.programmes
    assert again._packs.household(identity.iss, identity.sub) is None
    # A pack that is held without its households is not the whole of what the ledger names.
    again.refresh_pack()
    assert again._packs.household(identity.iss, identity.sub) is not None
    assert (again.folder / name).exists()


def test_a_new_journal_opens_no_households_of_the_old_one(shop: World) -> None:
    """An incarnation's pack is its own: what was set aside for another is not spent."""
    till, _, identity = offline_shop(shop)
    till.refresh_pack()
    till.close()
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (till.folder / name).unlink(missing_ok=True)
    reborn = shop.till()
    assert reborn._packs.household(identity.iss, identity.sub) is None
    reborn.refresh_pack()
    household = reborn._packs.household(identity.iss, identity.sub)
    assert household is not None and household.vouchers[0].allotments == ()


def test_a_suspended_till_is_given_no_households(shop: World) -> None:
    """It may read keys and rules; it has no business selling without the ledger."""
    till, _, identity = offline_shop(shop)
    till.refresh_pack()
    shop.ledger.terminals.set_status(till.enrolment.terminal, "suspended")
    held = till.refresh_pack()
    assert held.households is None and held.programmes
    assert till._packs.household(identity.iss, identity.sub) is None


def test_a_pack_is_made_for_nobody_who_does_not_prove_who_it_is(shop: World) -> None:
    """Nothing is set aside for a call without the till's own signature over it."""
    till, _, _ = offline_shop(shop)
    body = {"incarnation": till.journal.incarnation}
    answer = requests.post(f"{shop.url}/v1/offline-pack", json=body, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorised")
    assert shop.rows("allotments") == 0
