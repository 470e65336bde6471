"""The examples of the JOSE RFCs that a verifier of ours could meet, typed from the documents.

RFC 7515 appendix A and RFC 7519 §6.1, RFC 7797 §4, RFC 8037 appendix A. Code components of RFCs,
under the Revised BSD License (BCP 78).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.vectors.second import b64

Json = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """`verifies`: what its document says of the signature; `code`, `why`: what the profile does."""

    source: str
    what: str
    text: str
    jwk: Json
    verifies: bool
    code: str
    why: str


_CLAIMS = b'{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}'
HMAC_KEY: Json = {
    "kty": "oct",
    "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
}
_RSA_KEY: Json = {
    "kty": "RSA",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0"
    "Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5"
    "rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyx"
    "XFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "e": "AQAB",
}
_EC_KEY: Json = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
ED_KEY: Json = {
    "kty": "OKP",
    "crv": "Ed25519",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}
ED_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def _of(header: bytes, signature: str, payload: bytes = _CLAIMS) -> str:
    return f"{b64(header)}.{b64(payload)}.{signature}"


EXAMPLES = (
    Example(
        "RFC 7515 A.1, RFC 7519 §3.1", "HS256",
        _of(b'{"typ":"JWT",\r\n "alg":"HS256"}', "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        HMAC_KEY, True, "token_type", "typ is not care+jwt; a symmetric key can't be an issuer's",
    ),
    Example(
        "RFC 7515 A.2", "RS256",
        _of(
            b'{"alg":"RS256"}',
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8"
            "W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvk"
            "SjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCn"
            "vWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        _RSA_KEY, True, "token_type", "no typ",
    ),
    Example(
        "RFC 7515 A.3", "ES256",
        _of(
            b'{"alg":"ES256"}',
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        _EC_KEY, True, "token_type", "no typ",
    ),
    Example(
        "RFC 7515 A.5, RFC 7519 §6.1", "none", _of(b'{"alg":"none"}', ""),
        _EC_KEY, False, "token_malformed", "a token without a signature has no third part",
    ),
    Example(
        "RFC 7797 §4.1", "HS256, the payload as text",
        _of(b'{"alg":"HS256"}', "5mvfOroL-g7HyqJoozehmsaqmvTYGEq5jTI1gVvoEoQ", b"$.02"),
        HMAC_KEY, True, "token_malformed", "the payload is no JSON object",
    ),
    Example(
        "RFC 7797 §4.2", "HS256, unencoded and detached payload",
        b64(b'{"alg":"HS256","b64":false,"crit":["b64"]}')
        + "..A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY",
        HMAC_KEY, True, "token_malformed", "a part is empty; b64 is no name of our header",
    ),
    Example(
        "RFC 8037 A.4", "EdDSA",
        _of(
            b'{"alg":"EdDSA"}',
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            b"Example of Ed25519 signing",
        ),
        ED_KEY, True, "token_malformed", "the payload is no JSON object",
    ),
)  # fmt: skip
