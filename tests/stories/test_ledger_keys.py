"""The ledger's signing key changes while shops sell: FC-12, T-13, docs/identity.md §11."""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from carepos import Till, jws, settlement_commands
from carepos.errors import SignatureInvalid
from carepos.keys import KeySet, SigningKey
from carepos.ledger_keys import LedgerKeys
from carepos.settlement_commands import AGREED, DIFFERENT, KEYS_FILE, TillFolder, fetch
from carepos.unknown_key import COOL_DOWN
from carepos_ledger import app
from carepos_ledger.keyring import Keyring
from carepos_plugin.commands import verify
from tests.faulty_proxy import Mode
from tests.stories.test_redemption import Shop, a_shop
from tests.world import Family, end, milk, served, world

KEY_SET = "GET /.well-known/jwks.json"


@dataclass
class Rotating:
    """A shop whose ledger can be given a new signing key and started again."""

    shop: Shop
    _opened: Any = None

    def rotate(self) -> str:
        """A new signing key, the server started again; its kid."""
        made = self.shop.world
        end(made.server)
        made.ledger.close()
        if self._opened is not None:
            self._opened.__exit__(None, None, None)
        fresh = Keyring.rotate(made.settings.folder)
        made.ledger = app.build(made.settings, now=made.now)
        self._opened = served(made.ledger)
        made.url, made.server = self._opened.__enter__()
        host, _, port = made.url.rpartition("/")[2].partition(":")
        self.shop.proxy.upstream = (host, int(port))
        return fresh.signing.kid

    def close(self) -> None:
        if self._opened is not None:
            self.shop.till.close()
            self._opened.__exit__(None, None, None)
            self.shop.world.ledger.close()

    @property
    def asked(self) -> int:
        """How often the till asked for the key set since it was enrolled."""
        return sum(f"{s.method} {s.target}" == KEY_SET for s in self.shop.proxy.seen) - 1

    @property
    def version(self) -> int:
        return self.shop.till.enrolment.ledger_keys.version


@pytest.fixture
def rotating(tmp_path: Path) -> Iterator[Rotating]:
    with world(tmp_path) as alone, a_shop(alone, tmp_path / "till") as shop:
        made = Rotating(shop)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def shop(rotating: Rotating) -> Shop:
    return rotating.shop


@pytest.fixture
def family(shop: Shop) -> Family:
    return shop.world.family(12_000)


def outcome_kid(till: Till, checkout: str) -> str:
    """Which key signed the outcome of a sale."""
    attempt = till.journal.of_checkout(checkout)[-1]
    (text,) = till.journal.outcomes_of(attempt.sequence)
    return jws.header_kid(text, typ=jws.OUTCOME)


# FC-12: the key changes mid-flight


def test_fc_12_the_key_changes_between_intent_and_outcome(rotating: Rotating) -> None:
    """FC-12: the sale was begun under the old key and is answered under a new one: the till asks
    for the key set once, keeps it, and confirms; a restart asks nobody."""
    shop = rotating.shop
    family = shop.world.family(12_000)
    kids: list[str] = []

    def reached(name: str) -> None:
        if name == "before_send" and not kids:
            kids.append(rotating.rotate())

    shop.reopen(reached=reached)
    sale = shop.redeem(family)
    assert sale.state == "confirmed" and shop.world.balance() == 6_000
    assert outcome_kid(shop.till, "S1") == kids[0]
    assert (rotating.asked, rotating.version) == (1, 2)
    shop.reopen()
    assert rotating.version == 2
    assert shop.redeem(family, milk(1_000), checkout="S2").state == "confirmed"
    assert shop.till.close_day().acknowledged and rotating.asked == 1
    beside = TillFolder.load(shop.folder)
    view = beside.journal()
    try:
        assert verify(view, beside.enrolled)[1] == 6
    finally:
        view.close()


def test_fc_12_an_outcome_that_was_lost_is_found_under_the_new_key(
    rotating: Rotating, shop: Shop, family: Family
) -> None:
    """FC-12: booked and signed under the old key, asked about under the new one; and a sale that
    the ledger never saw is reversed with a `not_found` of the new key."""
    shop.proxy.fail("drop_after")
    assert shop.redeem(family, milk(1_000), checkout="S1").state == "unknown"
    shop.proxy.fail("drop_before")
    assert shop.redeem(family, milk(1_000), checkout="S2").state == "unknown"
    rotating.rotate()
    assert shop.till.retry("S1").state == "confirmed"
    shop.reopen()
    assert {sale.state for sale in shop.till.settle()} == {"reversed"}
    assert shop.balance() == 11_000 and rotating.version == 2


def test_everything_that_the_ledger_signs_may_bring_its_new_key(
    rotating: Rotating, shop: Shop, family: Family
) -> None:
    """A lookup, a pack's manifest and a certificate under an unknown key are read in the end."""
    reads: list[Callable[[], object]] = [
        lambda: shop.till.scan(family.token()),
        lambda: shop.till.refresh_pack(),
        lambda: shop.till.change_key(),
    ]
    for version, read in enumerate(reads, 2):
        rotating.rotate()
        shop.reopen()  # which has not asked yet
        read()
        assert rotating.version == version
    assert not shop.till.key_state.changing
    assert shop.redeem(family).state == "confirmed"
    assert len(shop.till.enrolment.ledger_keys.keys) == 4


# T-13: whom it does not believe


def offered_by(shop: Shop, **changes: Any) -> dict[str, Any]:
    """A key set of the ledger's own root, with names of it changed."""
    root = SigningKey.load(shop.world.settings.folder / "root.key")
    held = shop.world.ledger.keyring.keys
    payload = jws.verify(held.keyset, typ=jws.KEYSET, keys=KeySet([root.public])).payload
    signed = jws.sign({**payload, **changes}, typ=jws.KEYSET, key=root)
    return {"root": root.public.to_jwk(), "keyset": signed}


def strangers(shop: Shop) -> dict[str, Callable[[], dict[str, Any]]]:
    stranger = SigningKey.generate()
    keys = [each.to_jwk() for each in shop.world.ledger.keyring.keys.keys]
    fresh = [*keys, stranger.public.to_jwk()]
    payload = {"v": 1, "ledger": shop.world.ledger.keyring.ledger, "version": 9, "epoch": 1}
    signed = jws.sign({**payload, "keys": fresh}, typ=jws.KEYSET, key=stranger)
    own_root = shop.world.ledger.keyring.root.to_jwk()
    return {
        "another root": lambda: {"root": stranger.public.to_jwk(), "keyset": signed},
        "another root under its name": lambda: {"root": own_root, "keyset": signed},
        "only keys": lambda: {"keys": fresh, "root": own_root},
        "older": lambda: offered_by(shop, version=0),
        "of another ledger": lambda: offered_by(shop, version=9, ledger="ledger-2", keys=fresh),
        "without a key that is held": lambda: offered_by(shop, version=9, keys=fresh[1:]),
        "of an earlier epoch": lambda: offered_by(shop, version=9, epoch=0, keys=fresh),
    }


@pytest.mark.parametrize(
    "name",
    [
        "another root",
        "another root under its name",
        "only keys",
        "older",
        "of another ledger",
        "without a key that is held",
        "of an earlier epoch",
    ],
)
def test_t_13_a_key_set_that_is_not_the_ledgers_next_is_ignored(
    rotating: Rotating, shop: Shop, family: Family, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """T-13: the sale stays unknown, what is held stays, also on the disk; five minutes later the
    ledger itself is heard, and the sale is confirmed. Nothing was lost."""
    offer = shop.offer(family)
    rotating.rotate()
    monkeypatch.setattr(shop.till._ledger_keys, "_ask", strangers(shop)[name])
    before = (shop.folder / "enrolment.json").read_bytes()
    sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert sale.state == "unknown" and "not known" in (sale.problem or "")
    assert rotating.version == 1
    assert (shop.folder / "enrolment.json").read_bytes() == before
    monkeypatch.undo()
    assert shop.till.retry("S1").state == "unknown"  # not asked again so soon
    later(shop)
    assert shop.till.retry("S1").state == "confirmed" and rotating.version == 2


def later(shop: Shop) -> None:
    shop.world.now.at += COOL_DOWN


@pytest.mark.parametrize("fault", ["html_200", "redirect", "garble", "truncate", "drop_before"])
def test_t_13_a_captive_portal_offers_no_keys(
    rotating: Rotating, shop: Shop, family: Family, fault: Mode
) -> None:
    """T-13: whatever answers in the ledger's place is no key set; the sale waits for the ledger."""
    offer = shop.offer(family)
    rotating.rotate()
    shop.proxy.fail(fault, target=KEY_SET)
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
    assert rotating.version == 1
    later(shop)
    assert shop.till.retry("S1").state == "confirmed" and rotating.version == 2


def test_t_13_ten_thousand_unknown_keys_cause_one_question(
    rotating: Rotating, shop: Shop, family: Family
) -> None:
    """T-13: at most one in five minutes, whichever way the clock goes."""
    assert shop.redeem(family, milk(1_000), checkout="S0").state == "confirmed"
    find = shop.till._ledger_keys.find

    def flood(count: int) -> None:
        for _ in range(count):
            with pytest.raises(SignatureInvalid):
                find(secrets.token_urlsafe(32))

    flood(10_000)
    assert rotating.asked == 1
    shop.world.now.at += COOL_DOWN - timedelta(seconds=1)
    flood(10)
    assert rotating.asked == 1
    shop.world.now.at += timedelta(seconds=1)
    flood(10)
    assert rotating.asked == 2
    shop.world.now.at -= timedelta(days=400)  # set back
    flood(10)
    assert rotating.asked == 3
    shop.world.now.at += timedelta(days=400)


def test_a_key_set_that_cannot_be_kept_is_not_believed(
    rotating: Rotating, shop: Shop, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: the outcome stays unread, for after a restart nobody could read it again."""
    offer = shop.offer(family)
    rotating.rotate()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("carepos.durable.write", full)
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
    monkeypatch.undo()
    later(shop)
    assert shop.till.retry("S1").state == "confirmed"


# the files


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    settlement_commands.group(parser.add_subparsers(required=True))
    chosen = parser.parse_args([str(word) for word in words])
    return int(chosen.run(chosen))


def test_settlement_files_outlive_the_keys_that_signed_them(
    rotating: Rotating, shop: Shop, family: Family, tmp_path: Path
) -> None:
    """Files of before and after, fetched by a till that never met the new key: believed, and the
    newer set is kept beside them. Without it `check` refuses; `reconcile` and `check` with the
    till find it there."""
    to = tmp_path / "files"
    assert shop.redeem(family, milk(1_000), checkout="S1").state == "confirmed"
    shop.world.ledger.settlement.close()
    offer = shop.offer(family, milk(1_000))
    rotating.rotate()
    shop.proxy.fail("drop_after")
    assert shop.till.redeem(offer, checkout="S2", cashier="c01").state == "unknown"
    shop.world.ledger.settlement.close()
    assert fetch_all(shop, to) == (0, 2)
    old = shop.till.enrolment.ledger_keys
    assert LedgerKeys.read(json.loads((to / KEYS_FILE).read_bytes()), old.root.kid).version == 2
    assert TillFolder.load(shop.folder).enrolled.ledger_keys.version == 1  # the till's own affair
    assert run("settlement", "check", to) == AGREED
    assert run("settlement", "check", to, "--till", shop.folder) == AGREED
    assert shop.till.retry("S2").state == "confirmed"
    shop.till.settle()
    assert run("reconcile", "--till", shop.folder, "--settlements", to) == AGREED
    (to / KEYS_FILE).write_text(json.dumps(old.document()))
    assert run("settlement", "check", to) == DIFFERENT
    assert fetch_all(shop, to) == (2, 0) and run("settlement", "check", to) == AGREED


def fetch_all(shop: Shop, to: Path) -> tuple[int, int]:
    own = TillFolder.load(shop.folder)
    with closing(own.client(shop.world.now)) as client:
        return fetch(client, own.enrolled, to)
