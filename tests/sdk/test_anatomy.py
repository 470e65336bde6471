"""A code taken apart: everything a developer needs to see, nothing that names a person."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos import presentation
from carepos.anatomy import NOT_JUDGED, dissect
from carepos.elapsed import relative
from carepos.errors import Malformed
from carepos.issuer_folder import IssuerSigner
from carepos.minting import Mint

NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
KEY, HOLDER = IssuerSigner.generate("ES256", "k1"), IssuerSigner.generate("ES256", "holder")
MINT = Mint(KEY, iss="https://id.example", audience="urn:a", now=lambda: NOW)
ACTED = {"actor": "canary-act", "reason": "frail", "amr": ("otp",)}


def test_a_care_code_says_what_it_is() -> None:
    """Header, claims with readable times, class, the key it needs; and that nothing is verified."""
    code = MINT.once("canary-sub", amr=("face", "otp")).code
    text = dissect(code, NOW + timedelta(minutes=8)).to_text()
    for part in (
        "class once, for one visit",
        "alg         ES256",
        "iss         https://id.example",
        "sub         (10 characters, not shown)",
        "jti         (16 characters, not shown)",
        "iat         2026-11-22T08:30:00Z (8 minutes ago)",
        "exp         2026-11-22T08:35:00Z (expired 3 minutes ago)",
        "amr         face, otp",
        "a P-256 key, k1 of https://id.example",
        NOT_JUDGED,
    ):
        assert part in text
    assert "canary" not in text and "readers ignore" not in text


def test_each_kind_is_told_apart() -> None:
    """Card with and without its secret, wallet with and without a presentation, proxy, witness."""
    card = MINT.card("canary-sub", pin_chosen="4711")
    wallet = MINT.wallet("canary-sub", holder=HOLDER)
    other = MINT.wallet("canary-sub", holder=HOLDER)
    proxy = MINT.acted("s", way="proxy", **ACTED)  # type: ignore[arg-type]
    witness = MINT.acted("s", way="witness", **ACTED)  # type: ignore[arg-type]
    kinds = {
        card.code: "printed, with its secret",
        card.token: "printed, scanned without its secret",
        wallet.code: "credential and a presentation",
        wallet.token: "credential without a presentation",
        proxy.code: "in the hand of a proxy",
        witness.code: "with a witness",
    }
    for code, kind in kinds.items():
        found = dissect(code, NOW)
        assert kind in found.kind and found.characters == len(code)
        shown = found.to_text() + json.dumps(found.to_json())
        assert "canary" not in shown
        assert (presentation.read(code).card_secret or "canary") not in shown
    assert "sd_hash     of this token" in dissect(wallet.code, NOW).to_text()
    mixed = f"{other.token}~{wallet.code.partition('~')[2]}"
    assert "of another token" in dissect(mixed, NOW).to_text()


def test_what_should_not_be_in_a_token_is_named_and_not_shown() -> None:
    """A name or phone that an issuer has put in is pointed out by its claim, masked."""
    code = jwt.encode(
        {"iss": "i", "name": "canary", "phone": "canary", "exp": "canary", "act": "canary"},
        KEY._key, algorithm="ES256", headers={"kid": "k1"},
    )  # fmt: skip
    text = dissect(code, NOW).to_text()
    assert "no care code" in text and "JWT (must be care+jwt)" in text
    assert "name        (6 characters, not shown); readers ignore this claim" in text
    assert "exp         no whole number of seconds" in text
    assert "canary" not in text


@given(st.text(max_size=40))
def test_any_text_is_taken_apart_or_malformed(text: str) -> None:
    """Nothing but our own error comes of anything scanned, and no control character of it out."""
    with pytest.raises(Malformed):
        dissect(text, NOW)
    code = jwt.encode({"iss": text, text: text}, KEY._key, algorithm="ES256")
    try:
        shown = dissect(code, NOW).to_text()
    except Malformed:
        return
    assert all(each.isprintable() or each == "\n" for each in shown)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "now"), (1, "in 1 second"), (-59, "59 seconds ago"), (-60, "1 minute ago"),
     (7_199, "in 1 hour"), (-172_800, "2 days ago"), (31_536_000, "in 365 days")],
)  # fmt: skip
def test_how_long_ago(seconds: int, said: str) -> None:
    """Whole units, cut."""
    assert relative(NOW + timedelta(seconds=seconds), NOW) == said
