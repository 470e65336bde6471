"""What a phone's app does to get a care code, with a provider that asks for no password.

    python -m sample_issuer.example_app ISSUER_URL PROVIDER_URL ACCOUNT

A nonce from the issuer, a sign-in at the provider with it (authorization code, PKCE), and the ID
token brought to the issuer. Prints the care code.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import time
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import requests

from carepos.keys import b64

CLIENT: Final = "care"
BACK: Final = "care-app:/back"
PATIENCE_S: Final = 30.0


def care_code(issuer: str, provider: str, account: str, use: str = "redeem") -> dict[str, Any]:
    """The issuer's answer: {"code", "expires_at"}. Raises RuntimeError, requests' errors."""
    nonce = _answer(requests.post(f"{issuer}/v1/nonces", timeout=10))["nonce"]
    answer = requests.post(
        f"{issuer}/v1/care-codes",
        json={"nonce": nonce, "use": use},
        headers={"Authorization": f"Bearer {sign_in(provider, account, nonce)}"},
        timeout=10,
    )
    return _answer(answer)


def sign_in(provider: str, account: str, nonce: str) -> str:
    """The provider's ID token, by authorization code with PKCE."""
    state, verifier = (secrets.token_urlsafe(32) for _ in range(2))
    about = f"{provider}/.well-known/openid-configuration"
    found = _answer(requests.get(about, timeout=10))
    gone = requests.get(
        found["authorization_endpoint"],
        params={
            "response_type": "code",
            "scope": "openid",
            "client_id": CLIENT,
            "redirect_uri": BACK,
            "state": state,
            "nonce": nonce,
            "code_challenge": b64(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
            "account": account,  # only the fake provider has this: a real one asks the person
        },
        allow_redirects=False,
        timeout=10,
    )
    back = parse_qs(urlsplit(gone.headers["Location"]).query)
    if back["state"] != [state]:
        raise RuntimeError("this answer is of another sign-in")
    form = {
        "grant_type": "authorization_code",
        "code": back["code"][0],
        "redirect_uri": BACK,
        "client_id": CLIENT,
        "code_verifier": verifier,
    }
    return str(_answer(requests.post(found["token_endpoint"], form, timeout=10))["id_token"])


def _answer(response: requests.Response) -> dict[str, Any]:
    found: dict[str, Any] = response.json()
    if response.status_code != 200:
        raise RuntimeError(f"{found.get('code')}: {found.get('en')} {found.get('zh')}")
    return found


def _wait_for(*addresses: str) -> None:
    """Both may just be starting."""
    until = time.monotonic() + PATIENCE_S
    for address in addresses:
        while True:
            try:
                requests.get(address, timeout=2)
                break
            except requests.ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


def main() -> int:
    if len(sys.argv) != 4 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    issuer, provider, account = sys.argv[1:]
    try:
        _wait_for(f"{issuer}/.well-known/jwks.json", f"{provider}/jwks")
        print(care_code(issuer, provider, account)["code"])
    except requests.RequestException as error:
        address = error.request.url if error.request is not None else f"{issuer}, {provider}"
        print(f"example_app: no answer from {address}: is it running?", file=sys.stderr)
    except RuntimeError as error:
        print(f"example_app: refused: {error}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
