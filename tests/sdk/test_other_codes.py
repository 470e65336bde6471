"""Other codes at the counter (docs/identity.md §10): any text has an answer that helps."""

from __future__ import annotations

import unicodedata
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos import other_codes
from carepos.errors import TokenRefused
from carepos.other_codes import BY_LOOK, KINDS, look, look_of_refused
from carepos.token import TokenVerifier, mint, present
from tests.sdk.test_token import AUDIENCE, HEADER, ISSUER, KEY, NOW, OTHER, VERIFIER, believed, made

GOOD = made()
CARD = f"CPC1*{'c' * 22}*{made(care_class='card')}"
HOLDER = OTHER
WALLET = mint(
    KEY,
    iss=ISSUER,
    aud=AUDIENCE,
    sub="s",
    jti="w",
    issued_at=NOW,
    token_class="card",
    cnf={"jwk": {k: v for k, v in HOLDER.public.to_jwk().items() if k != "kid"}},
)
PRESENTED = present(WALLET, HOLDER, aud=AUDIENCE, nonce="n" * 22, at=NOW)


def test_the_page_is_the_table() -> None:
    """docs/identity.md §10 stands there as the code has it."""
    page = (Path(__file__).parents[2] / "docs" / "identity.md").read_text("utf-8")
    table = page.partition("<!-- other-codes:begin -->\n")[2].partition("\n<!-- other-codes:end")
    assert table[0] == other_codes.as_markdown()


@pytest.mark.parametrize(
    ("scanned", "expected"),
    [
        ("", "empty"),
        (" \r\n\t", "empty"),
        ("\u3000", "empty"),
        ("]Q1", "empty"),
        # WeChat Pay: 18 digits from 10 to 15.
        ("100000000000000000", "payment_code"),
        ("159999999999999999", "payment_code"),
        ("169999999999999999", "unknown"),
        ("09" + "0" * 16, "unknown"),
        ("1" * 17, "unknown"),
        # Alipay: 16 to 24 digits from 25 to 30.
        ("25" + "0" * 14, "payment_code"),
        ("30" + "9" * 22, "payment_code"),
        ("289431869362714645", "payment_code"),
        ("24" + "0" * 16, "unknown"),
        ("31" + "0" * 16, "unknown"),
        ("25" + "0" * 13, "unknown"),
        ("25" + "0" * 23, "unknown"),
        # UnionPay: 19 digits from 62; EMVCo's QR of a customer and of a shop.
        ("62" + "0" * 17, "payment_code"),
        ("62" + "0" * 14, "unknown"),
        ("hQVDUFYwMWETTwegAAADMwEBUAtVbmlvblBheQ==", "payment_code"),
        ("00020101021229300012D156000000000510A93FO3230Q", "payment_code"),
        ("\uff12\uff18" + "\uff10" * 16, "payment_code"),
        # GTIN-13, -8, -12, -14, with a scanner's prefix, with a wrong digit.
        ("6913046198782", "product"),
        ("]E06913046198782\r", "product"),
        ("96385074", "product"),
        ("036000291452", "product"),
        ("06913046198782", "product"),
        ("6913046198783", "unknown"),
        ("1101051949123100", "unknown"),
        # GB 11643: the standard's own example; a wrong check character; no date.
        ("11010519491231002X", "id_number"),
        ("11010519491231002x", "id_number"),
        ("440524188001010014", "unknown"),
        ("110105194912310021", "payment_code"),
        ("11010519491331002X", "unknown"),
        ("CP1*0001-000007-2*CNY6490*ABCDEFGHIJKLMNOP", "receipt"),
        ("cp1*0001-000007-2*cny6490*abcdefghijklmnop", "receipt"),
        ("cp1.AAAAAAAAAAAAAAAAAAAAAA.x", "activation"),
        ("CP1.aaaa", "activation"),
        ("https://pay.example/12345", "web_address"),
        ("HTTPS://PAY.EXAMPLE/", "web_address"),
        ("weixin://wxpay/bizpayurl?pr=x", "web_address"),
        ("alipays://platformapi/startapp", "web_address"),
        ("https\uff1a//pay.example/", "web_address"),
        ("www.example.cn", "web_address"),
        ("hello", "unknown"),
        ("wxp://f2f0abcdef", "web_address"),
        ("张三", "unknown"),
        ("BEGIN:VCARD\nFN:张三\nEND:VCARD" + "x" * 60, "unknown"),
        ("x" * 5_000, "unknown"),
        (None, "unknown"),
        (7, "unknown"),
        (b"eyJ", "unknown"),
    ],
)
def test_what_people_hold_up(scanned: Any, expected: str) -> None:
    """Each row of the table, at its edges."""
    assert look(scanned) == expected


@pytest.mark.parametrize("code", [GOOD, CARD, PRESENTED])
@pytest.mark.parametrize("end", [4, 9, 40, 120, -90, -20, -6, -2])
def test_a_care_code_that_was_cut_is_damaged(code: str, end: int) -> None:
    """Wherever a scan ends early: scan again, and not that it is no care code."""
    assert refused(code[:end]).looks_like == "damaged"


@pytest.mark.parametrize("code", [GOOD, CARD, PRESENTED])
def test_a_code_read_twice_or_behind_other_keys_is_damaged(code: str) -> None:
    """Two scans in one field, or a key pressed before the scan."""
    for text in (code + code, f"6{code}", code.replace("eyJ", "eyJ ", 1)):
        assert refused(text).looks_like == "damaged"


def azerty(text: str) -> str:
    """What the keys of an English keyboard type on a French one."""
    keys = str.maketrans("qQaAzZwWmM1234567890", "aAqQwWzZ,?&é\"'(-è_çà")
    return text.translate(keys)


@pytest.mark.parametrize("code", [GOOD, CARD, PRESENTED])
@pytest.mark.parametrize(
    "changed",
    [
        str.swapcase,
        str.upper,
        str.lower,
        lambda code: code.translate({n: n + 0xFEE0 for n in range(0x21, 0x7F)}),
        lambda code: code.replace(".", "。"),
        lambda code: code.replace("J", "J额", 1),
        lambda code: code[:8] + "鄂尔" + code[9:],
        lambda code: code.translate(str.maketrans("yYzZ-_*", "zZyYß?(")),
        azerty,
    ],
)
def test_a_keyboard_that_changes_letters_is_told(code: str, changed: Any) -> None:
    """Caps Lock, full-width letters, a Chinese input method, another layout: told what to turn
    off, instead of scanning again and again."""
    kind = refused(changed(code))
    assert kind.looks_like == "keyboard"
    assert "Caps Lock" in kind.sentence("en") and "输入法" in kind.sentence("zh")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (made({**HEADER, "typ": "JWT"}), "token_type"),
        (made(aud="urn:health:code"), "token_audience"),
        (made({**HEADER, "typ": "JWT"})[:-90], "token_malformed"),
        ("eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..x.y.z", "token_malformed"),
    ],
)
def test_a_token_for_something_else(text: str, code: str) -> None:
    """Genuine elsewhere, or half of one: it is for something else, whole or not."""
    found = refused(text)
    assert (found.code, found.looks_like) == (code, "other_token")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (made(amr="face"), "token_malformed"),
        (made(exp=int((NOW - timedelta(seconds=1)).timestamp())), "token_malformed"),
        (made(iss="https://unknown.test"), "token_issuer"),
        (GOOD[:-8] + "AAAAAAAA", "token_signature"),
        (WALLET, "holder_unproven"),
    ],
)
def test_what_was_read_whole_keeps_its_own_sentence(text: str, code: str) -> None:
    """A wrong claim under a good signature, a forged one, a code of another office: no scan helps,
    so none is asked for."""
    found = refused(text)
    assert (found.code, found.looks_like) == (code, None)


def refused(text: str) -> TokenRefused:
    """As the till's scan refuses it."""
    with pytest.raises(TokenRefused) as error:
        VERIFIER.verify(text, NOW)
    seen = look_of_refused(error.value.code, error.value.claim, text)
    return TokenRefused(
        error.value.refusal,
        claim=error.value.claim,
        why=error.value.why,
        look=None if seen is None else BY_LOOK[seen],
    )


TEXTS = st.one_of(
    st.text(max_size=300),
    st.text("0123456789", max_size=30),
    st.binary(max_size=300).map(lambda b: b.decode("utf-8", "surrogateescape")),
    st.sampled_from([GOOD, CARD, PRESENTED]).flatmap(
        lambda code: st.tuples(
            st.integers(0, len(code)), st.text(max_size=20), st.integers(0, 40)
        ).map(lambda t: code[: t[0]] + t[1] + code[t[0] + t[2] :])
    ),
)


@given(TEXTS)
def test_any_text_has_an_answer_that_does_not_repeat_it(text: str) -> None:
    """No exception, a sentence in both languages, and nothing of the code in any message."""
    seen = look(text)
    assert seen in BY_LOOK
    try:
        VERIFIER.verify(text, NOW)
    except TokenRefused as error:
        named = look_of_refused(error.code, error.claim, text)
        told = TokenRefused(
            error.refusal,
            claim=error.claim,
            why=error.why,
            look=None if named is None else BY_LOOK[named],
        )
        said = f"{told} {told.sentence()} {told.sentence('en')} {told.why} {told!r}"
        pieces = [text[n : n + 12] for n in range(max(1, len(text) - 11))]
        assert not any(len(piece) == 12 and piece in said for piece in pieces)


def test_every_row_is_said_in_both_languages_and_told_apart() -> None:
    """No two rows read the same, in either language."""
    for language in ("en", "zh"):
        said = {other_codes.sentence(kind.looks_like, language) for kind in KINDS}
        assert len(said) == len(KINDS) and all(said)
    assert unicodedata.east_asian_width(KINDS[0].zh[0]) == "W"
    assert not TokenVerifier({ISSUER: believed(KEY)}, AUDIENCE).verify(GOOD, NOW).revoked
