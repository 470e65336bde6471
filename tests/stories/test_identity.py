"""Who stands at the counter, over real HTTP: cards and PINs, wallets, proxies, keys that change.

Real tills, a real ledger. docs/identity.md §5 to §9.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from carepos import Holder, Refused, Sale, Till, TokenRefused
from carepos.journal_view import JournalView
from carepos.keys import KeySet, SigningKey, b64
from tests.cards import (
    ACTING,
    PIN,
    RULES,
    SECRET,
    WRONG,
    act_for,
    cards,
    open_wallet,
    print_card,
    proof,
    revoking,
)
from tests.faulty_proxy import between
from tests.world import AUDIENCE, ISSUER, PROGRAMME, World, milk, world


def open_to(made: World, **changes: Any) -> World:
    made.ledger.programmes.put_programme({**RULES, **changes})
    made.ledger.programmes.admit_store("flood-dairy", "zhou-far")
    return made


@pytest.fixture
def either(tmp_path: Path, database_url: str) -> Iterator[World]:
    """A new ledger whose programme takes cards, once on SQLite and once on PostgreSQL."""
    with world(tmp_path, database_url) as made:
        yield open_to(made)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[World]:
    """The same, on SQLite."""
    with world(tmp_path) as made:
        yield open_to(made)


def refused(till: Till, code: str, number: str | None = None) -> Refused:
    with pytest.raises(Refused) as error:
        till.scan(code, pin=number)
    return error.value


def redeem(till: Till, holder: Holder | str, checkout: str, minor: int = 1_000) -> Sale:
    offer = till.propose(holder, [milk(minor)])
    return till.redeem(offer, checkout=checkout, cashier="c01")


# ── cards ──────────────────────────────────────────────────────────────────────────────────────


def test_a_printed_card_redeems_with_its_pin(either: World) -> None:
    """Without a PIN nothing is looked up; with it the voucher pays; the ledger saw no PIN."""
    till, family = either.till(), either.family(12_000)
    card = print_card(family)
    assert till.identify(card.scanned).needs_pin
    assert refused(till, card.scanned).code == "pin_required"
    holder = till.scan(card.scanned, pin=PIN)
    assert [redeem(till, holder, f"S{n}").state for n in range(2)] == ["confirmed"] * 2
    assert either.balance() == 10_000
    # Another counter of the same shop asks for the PIN anew.
    other = either.till("till-2")
    assert refused(other, card.scanned).code == "pin_required"
    assert other.scan(card.scanned, pin=PIN).pin_proved


def test_five_wrong_pins_across_two_shops_lock_the_card(either: World) -> None:
    """The tries are the card's, wherever it is held up; who is left how many is told; the office
    unlocks it."""
    near, far = either.till(), either.till("till-far", "zhou-far")
    card = print_card(either.family(12_000))
    told = [refused((near, far)[n % 2], card.scanned, WRONG) for n in range(5)]
    assert [(each.code, each.tries_left) for each in told] == [
        ("pin_wrong", 4),
        ("pin_wrong", 3),
        ("pin_wrong", 2),
        ("pin_wrong", 1),
        ("pin_locked", None),
    ]
    assert "还可再试4次" in told[0].sentence() and "Tries left: 4" in told[0].sentence("en")
    assert [refused(till, card.scanned, PIN).code for till in (near, far)] == ["pin_locked"] * 2
    cards(either).unlock(ISSUER, card.jti_sha256)
    assert redeem(far, far.scan(card.scanned, pin=PIN), "S1").state == "confirmed"


def test_a_pin_of_another_form_is_no_try(place: World) -> None:
    """Three digits, or full-width ones, never leave the till."""
    till, card = place.till(), print_card(place.family())
    for number in ("", "123", "12345678901", "２５８０", "25x0"):
        assert (refused(till, card.scanned, number).code) == "pin_wrong"
    assert till.scan(card.scanned, pin=PIN).pin_proved
    assert refused(till, card.scanned, WRONG).tries_left == 4


def test_a_card_scanned_without_its_secret(place: World) -> None:
    """The token alone, copied from somewhere, is not the card; a card of another secret neither."""
    till, card = place.till(), print_card(place.family())
    found = refused(till, card.token, PIN)
    assert isinstance(found, TokenRefused)
    assert (found.code, found.looks_like, found.claim) == ("token_malformed", "damaged", "card")
    forged = card.scanned.replace(SECRET, "x" * 22)
    assert refused(till, forged, PIN).code == "pin_wrong"


def test_nobody_is_asked_for_a_pin_that_would_not_help(place: World) -> None:
    """Where no programme takes cards, that is said before anybody types; once one does, the till
    learns of it."""
    place.ledger.programmes.put_programme(PROGRAMME)
    till, card = place.till(), print_card(place.family())
    assert refused(till, card.scanned).code == "token_assurance"
    open_to(place)
    place.now.forward(minutes=5)
    assert refused(till, card.scanned).code == "pin_required"


def test_a_card_the_ledger_was_not_told_of(place: World) -> None:
    """Whatever is typed, it is worth nothing, and no try is counted against it."""
    till, card = place.till(), print_card(place.family(), told=False)
    assert {refused(till, card.scanned, PIN).code for _ in range(6)} == {"pin_required"}


def test_a_crash_between_scan_and_outcome_leaves_nothing_of_the_pin(
    place: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """INV-10: the process dies with a card's sale on its way: no file, log or repr holds the PIN,
    the card's secret, what proves the PIN, or the token; the sale is found again without them."""
    caplog.set_level(0)
    canary = "80351927"
    card = print_card(place.family(12_000), canary)

    class Crash(BaseException):
        pass

    def dies(point: str) -> None:
        if point == "answer_read":
            raise Crash

    till = place.till(reached=dies)
    wrong = refused(till, card.scanned, "80351928")
    holder = till.scan(card.scanned, pin=canary)
    with pytest.raises(Crash):
        redeem(till, holder, "S1")
    said = f"{holder!r}{wrong!r}{wrong}{till.journal.attempts()!r}{till.identify(card.scanned)!r}"
    files = b"".join(f.read_bytes() for f in sorted(till.folder.rglob("*")) if f.is_file())
    till.close()
    again = place.till()
    assert [sale.state for sale in again.settle()] == ["goods_asked"]
    assert again.answer_goods("S1", handed_over=True).state == "confirmed"
    files += b"".join(f.read_bytes() for f in sorted(till.folder.rglob("*")) if f.is_file())
    out, err = capsys.readouterr()
    everywhere = files + (said + caplog.text + out + err).encode()
    for secret in (canary, "80351928", SECRET, proof(canary, card.name), card.name, card.token):
        assert secret.encode() not in everywhere
    assert len(files) > 10_000


# ── wallets ────────────────────────────────────────────────────────────────────────────────────


def test_a_wallet_redeems_and_its_screenshot_does_not(either: World) -> None:
    """T-2: a fresh presentation pays; the same picture at another till is `token_replayed`; the
    wallet's next one is good there."""
    near, far = either.till(), either.till("till-far", "zhou-far")
    wallet = open_wallet(either.family(12_000))
    shown = wallet.present()
    assert redeem(near, shown, "S1").state == "confirmed"
    assert refused(far, shown).code == "token_replayed"
    assert redeem(far, wallet.present(), "S2").state == "confirmed"
    assert either.balance() == 10_000


def test_a_wallet_that_proves_nothing(place: World) -> None:
    """A picture of five minutes ago that was shown nowhere yet, and the token without a signature
    of this moment, are `holder_unproven` and leave no mark."""
    till, wallet = place.till(), open_wallet(place.family())
    till.refresh_pack()
    shown = wallet.present()
    place.now.forward(seconds=301)
    before = place.rows("visits")
    assert refused(till, shown).code == "holder_unproven"
    bare = refused(till, wallet.token)
    assert bare.code == "holder_unproven" and "重新打开" in bare.sentence()
    assert place.rows("visits") == before
    assert till.scan(wallet.present()).vouchers


def test_a_picture_grows_old_within_its_visit(place: World) -> None:
    """Scanned, nothing redeemed, scanned again after six minutes at the same till: the visit that
    the first scan opened still holds there, and nowhere else."""
    till, other, wallet = place.till(), place.till("till-2"), open_wallet(place.family(12_000))
    shown = wallet.present()
    assert till.scan(shown).vouchers
    place.now.forward(minutes=6)
    assert redeem(till, shown, "S1").state == "confirmed"
    assert refused(other, shown).code == "token_replayed"


def test_a_retry_outlives_the_presentation(either: World, tmp_path: Path) -> None:
    """The answer was lost and the picture grew old: within the visit the same record is sent again
    and is redeemed once; a second basket is fine too; after the visit it is over."""
    code = either.ledger.terminals.new_activation("zhou-shop", 3600).code
    with between(either.url) as proxy:
        Till.enrol(tmp_path / "wired", url=proxy.url, activation=code)
        with Till.open(tmp_path / "wired", now=either.now, answer_timeout_s=20) as till:
            wallet = open_wallet(either.family(12_000))
            shown = wallet.present()
            offer = till.propose(shown, [milk(1_000)])
            proxy.fail("drop_before")
            assert till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
            either.now.forward(minutes=10)
            assert till.retry("S1").state == "confirmed"
            assert redeem(till, shown, "S2").state == "confirmed"
            assert either.balance() == 10_000
            either.now.forward(minutes=5, seconds=1)
            assert refused(till, shown).code == "token_replayed"


# ── acting for another ─────────────────────────────────────────────────────────────────────────


def test_a_proxy_is_offered_what_will_be_accepted(either: World) -> None:
    """Within the limit it is paid and the slip says 代领; above it the offer shows how much is
    left, which is then accepted; then nothing."""
    open_to(either, acting=ACTING)
    till, family = either.till(), either.family(12_000)
    first = till.propose(act_for(family), [milk(3_000)])
    assert first.holder.identity.acting is not None
    assert first.holder.identity.acting.way == "proxy"
    assert till.redeem(first, checkout="S1", cashier="c01").state == "confirmed"
    [slip] = [job.slip for job in till.journal.print_jobs()]
    assert slip["acting"] == "proxy" and "actor-1" not in json.dumps(slip)
    above = till.propose(act_for(family, "actor-2"), [milk(3_000)])
    assert above.proposal.programme_minor == 2_000 and above.proposal.rest_minor == 1_000
    assert above.proposal.lines[0].reason == "acting_limit"
    assert till.redeem(above, checkout="S2", cashier="c01").state == "confirmed"
    none = till.propose(act_for(family), [milk(1_000)])
    assert none.refusal is not None and none.refusal.code == "acting_limit"
    # In person the household is not limited by what was collected for it.
    assert redeem(till, family.token(), "S3", 6_000).state == "confirmed"
    assert either.balance() == 1_000


def test_an_offer_that_another_shop_overtook_is_refused(place: World) -> None:
    """The ledger judges the limit at the moment it books, whatever was offered before."""
    open_to(place, acting=ACTING)
    near, far, family = place.till(), place.till("till-far", "zhou-far"), place.family(12_000)
    early = near.propose(act_for(family), [milk(4_000)])
    assert redeem(far, act_for(family, "actor-2"), "S1", 4_000).state == "confirmed"
    sale = near.redeem(early, checkout="S1", cashier="c01")
    assert sale.refusal is not None and sale.refusal.code == "acting_limit"


def test_a_witness_vouches_where_the_programme_allows_it(place: World) -> None:
    """The slip says 见证; a programme that allows only that refuses a proxy at the till."""
    open_to(place, acting={**ACTING, "proxy": False})
    till, family = place.till(), place.family(12_000)
    vouched = act_for(family, amr=("carepos:witness", "otp"), care_reason="unreadable")
    assert redeem(till, vouched, "S1").state == "confirmed"
    assert [job.slip["acting"] for job in till.journal.print_jobs()] == ["witness"]
    proxy = till.propose(act_for(family), [milk(1_000)])
    assert proxy.refusal is not None and proxy.refusal.code == "acting_not_allowed"


# ── withdrawn, rotated ─────────────────────────────────────────────────────────────────────────


def test_a_withdrawn_card_is_refused_at_ledger_and_till(place: World) -> None:
    """At once by the ledger, also for a sale already offered; by a till without asking, as soon as
    it has the list."""
    till, family = place.till(), place.family(12_000)
    card = print_card(family)
    offer = till.propose(till.scan(card.scanned, pin=PIN), [milk(1_000)])
    revoking(place).token(ISSUER, card.jti_sha256, reason="lost")
    sale = till.redeem(offer, checkout="S1", cashier="c01")
    assert sale.refusal is not None and sale.refusal.code == "token_revoked"
    assert refused(till, card.scanned, PIN).code == "token_revoked"
    till.refresh_pack()
    till._client._transport.url = "http://127.0.0.1:1"
    assert refused(till, card.scanned, PIN).code == "token_revoked"


def test_a_withdrawn_key_ends_all_its_tokens(place: World) -> None:
    """A code of a key that was stolen is refused by the ledger at once, and by the till that has
    learned of it; codes of the issuer's other key go on."""
    till, family = place.till(), place.family(12_000)
    till.refresh_pack()
    newer = SigningKey.generate()
    place.ledger.issuers.put(ISSUER, [place.issuer_key.public.to_jwk(), newer.public.to_jwk()])
    revoking(place).key(ISSUER, place.issuer_key.kid, reason="stolen")
    assert refused(till, family.token()).code == "token_revoked"
    place.issuer_key = newer
    assert redeem(till, family.token(), "S1").state == "confirmed"


def test_a_rotated_key_is_learned_with_one_refresh(place: World, tmp_path: Path) -> None:
    """T-13: the first code under the new key makes the till fetch its pack, once; a storm of
    made-up keys makes it ask no more often than every five minutes."""
    code = place.ledger.terminals.new_activation("zhou-shop", 3600).code
    with between(place.url) as proxy:
        Till.enrol(tmp_path / "wired", url=proxy.url, activation=code)
        with Till.open(tmp_path / "wired", now=place.now, answer_timeout_s=20) as till:
            family = place.family(12_000)
            assert redeem(till, family.token(), "S1").state == "confirmed"
            old, place.issuer_key = place.issuer_key, SigningKey.generate()
            place.ledger.issuers.put(
                ISSUER, [place.issuer_key.public.to_jwk(), old.public.to_jwk()]
            )

            def packs() -> int:
                return sum(each.target.endswith("/v1/offline-pack") for each in proxy.seen)

            before = packs()
            assert redeem(till, family.token(), "S2").state == "confirmed"
            assert packs() == before + 1
            for _ in range(20):
                place.issuer_key = SigningKey.generate()
                assert refused(till, family.token()).code == "token_signature"
            assert packs() == before + 1


def test_t_3_a_twin_of_the_signature_is_the_same_visit(either: World) -> None:
    """T-3: ES256's second spelling of one signature is the same token: at another till it is
    `token_replayed`; at the same till it shares the visit, and nothing is posted for free."""
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = key.public_key().public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": b64(numbers.x.to_bytes(32, "big")),
        "y": b64(numbers.y.to_bytes(32, "big")),
        "kid": "es-1",
    }
    either.ledger.issuers.put(ISSUER, [either.issuer_key.public.to_jwk(), jwk])
    near, far, family = either.till(), either.till("till-far", "zhou-far"), either.family(12_000)
    at = int(either.now().timestamp())
    claims = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": family.sub, "jti": "one", "iat": at, "nbf": at,
        "exp": at + 600, "amr": ["otp"], "care_class": "once",
    }  # fmt: skip
    text = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "es-1", "typ": "care+jwt"})
    twin = high_s(text)
    assert twin != text
    assert redeem(near, text, "S1").state == "confirmed"
    assert refused(far, twin).code == "token_replayed"
    assert redeem(near, twin, "S2").state == "confirmed"
    either.now.forward(minutes=9)
    for spelled in (text, twin):
        assert refused(far, spelled).code == "token_replayed"
    assert either.rows("visits") == 1 and either.balance() == 10_000
    padded = refused(far, f"{text}=")
    assert padded.code == "token_malformed"


def high_s(text: str) -> str:
    """The same signature with n − s in the place of s."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    head, claims, signature = text.split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    assert decode_dss_signature(encode_dss_signature(r, s)) == (r, s)
    other = r.to_bytes(32, "big") + (order - s).to_bytes(32, "big")
    return ".".join((head, claims, b64(other)))


# ── the wrong one of a wallet ──────────────────────────────────────────────────────────────────


def test_the_wrong_code_of_a_wallet_names_what_it_is_for(place: World) -> None:
    """A good code asked for another programme says for which it is good; one that holds nothing is
    told apart."""
    place.ledger.programmes.put_programme(
        {**RULES, "programme": "love-meal", "name": "爱心餐 Love meal"}
    )
    till, family = place.till(), place.family(12_000)
    with pytest.raises(Refused) as other:
        till.propose(family.token(), [milk()], programme="love-meal")
    assert (other.value.code, other.value.programmes) == ("other_programme", (PROGRAMME["name"],))
    assert PROGRAMME["name"] in other.value.sentence() and "可用于" in other.value.sentence()
    stranger = family.token(sub="nobody-was-issued-this")
    assert refused(till, stranger).code == "voucher_unknown"


def test_what_a_code_looks_like_reaches_whoever_scans(place: World) -> None:
    """The till's `scan` says what it sees, and the message repeats nothing of the code."""
    till = place.till()
    for code, looks_like in (
        ("134567890123456789", "payment_code"),
        ("6913046198782", "product"),
        (place.family().token()[:200], "damaged"),
        (place.family().token().swapcase(), "keyboard"),
    ):
        found = refused(till, code)
        assert isinstance(found, TokenRefused)
        assert (found.code, found.looks_like) == ("token_malformed", looks_like)
        assert code not in f"{found}{found.sentence()}{found!r}"


def test_a_journal_of_cards_verifies(place: World) -> None:
    """Nothing that cards and wallets bring makes a record that a reader of the journal refuses."""
    till, family = place.till(), place.family(12_000)
    card, wallet = print_card(family), open_wallet(family)
    redeem(till, till.scan(card.scanned, pin=PIN), "S1")
    redeem(till, wallet.present(), "S2")
    key = SigningKey.load(till.folder / "terminal.key").public
    view = JournalView.open(till.folder / "journal.db", KeySet([key]))
    try:
        kinds = [found.kind for found in view.records()]
    finally:
        view.close()
    assert kinds.count("redeem") == 2
