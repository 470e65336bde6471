"""The examples of the JOSE RFCs against the verifier (docs/jose-vectors.md)."""

from __future__ import annotations

import hmac

import pytest

from carepos.issuer_keys import IssuerKey
from carepos.keys import b64, unb64
from tests import jose_vectors
from tests.vectors import jose_rfc
from tests.vectors.jose_rfc import Example

each = pytest.mark.parametrize(
    "example", jose_rfc.EXAMPLES, ids=[each.source for each in jose_rfc.EXAMPLES]
)
OURS = ("RS256", "ES256", "EdDSA")


@each
def test_an_example_is_no_care_code(example: Example) -> None:
    """Held up at a till that believes its key, an example is refused with the code of the page."""
    assert jose_vectors.as_token(example.text, example.jwk) == example.code


@each
def test_the_signature_step_says_what_the_rfc_says(example: Example) -> None:
    """A signature of ours verifies, and not with one bit changed; of another alg it never does."""
    said = jose_vectors.jws(example.text, example.jwk)
    assert (said == jose_vectors.TAKEN) is (example.what in OURS)
    head, body, signature = example.text.split(".")
    changed = bytes([(unb64(signature) or b"\0")[0] ^ 1]) + unb64(signature)[1:]
    text = f"{head}.{body}.{b64(changed)}"
    assert jose_vectors.jws(text, example.jwk) != jose_vectors.TAKEN


def test_the_examples_were_typed_right() -> None:
    """The HMAC examples verify by their key, and RFC 8037 A.3's thumbprint is ours."""
    key = unb64(jose_rfc.HMAC_KEY["k"])
    for example in jose_rfc.EXAMPLES:
        head, body, signature = example.text.split(".")
        if "HS256" in example.what:
            signed = f"{head}.{body or '$.02'}".encode()
            assert b64(hmac.digest(key, signed, "sha256")) == signature
    assert IssuerKey.from_jwk(jose_rfc.ED_KEY).kid == jose_rfc.ED_THUMBPRINT


def test_the_page_has_the_table() -> None:
    """docs/jose-vectors.md shows what comes of the examples."""
    page = jose_vectors.PAGE.read_text("utf-8")
    told = page.partition("<!-- rfc:begin -->")[2].partition("<!-- rfc:end -->")[0]
    assert told.strip() == jose_vectors.rfc_table()
