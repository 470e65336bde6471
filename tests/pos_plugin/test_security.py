"""T-8: a hostile page or device can't make the plugin do anything (FAULTS)."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from carepos import Malformed
from carepos_plugin import pairing
from carepos_plugin.settings import Settings
from tests.pos_plugin.rig import Rig, milk, rig

CHECKOUT = "S1-000001"
GETS = ["/api/status", "/api/checkouts/S1-000001", "/api/receipts/0001-000002-1"]
POSTS = [
    "/api/offers",
    "/api/redemptions",
    "/api/checkouts/S1-000001/retry",
    "/api/checkouts/S1-000001/cancel",
    "/api/checkouts/S1-000001/goods",
    "/api/settle",
    "/api/answers",
    "/api/ledger-keys",
    "/api/day-close",
    "/api/receipts/0001-000002-1/print",
    "/api/pin-pad/link",
    "/api/pin-pad/forget",
    "/api/pin-requests/AAAAAAAAAAAAAAAAAAAAAA/cancel",
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One shop with one sale; these tests must leave it as it is."""
    with rig(tmp_path_factory.mktemp("shop")) as opened:
        opened.sell(CHECKOUT)
        yield opened


def _refused(shop: Rig, headers: dict[str, str], status: int, code: str) -> None:
    """Every endpoint, and an address that does not exist, answers so and nothing is written."""
    before = shop.written()
    for method, path in [
        *(("GET", path) for path in [*GETS, "/", "/static/x"]),
        *(("POST", path) for path in [*POSTS, "/api/nothing"]),
        ("OPTIONS", "/api/offers"),
        ("PUT", "/api/offers"),
    ]:
        answer = shop.call(method, path, {}, headers=headers)
        assert answer.status_code == status, (method, path, answer.text)
        assert answer.json()["code"] == code
        assert not [name for name in answer.headers if name.startswith("Access-Control-")]
    assert shop.written() == before


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1.nip.io",
        "127.0.0.1.nip.io:8450",
        "evil.example",
        "localhost.evil.example",
        "evil@127.0.0.1",
        "127.0.0.1@evil.example",
        "127.0.0.1:8450:8450",
        "127.0.0.1:x",
        "0.0.0.0",
        "localhost.",
        "[::2]",
        "",
        "1" * 4_000,
    ],
)
def test_t8_another_host_name_is_not_answered(shop: Rig, host: str) -> None:
    """T-8: a page behind a name that leads to 127.0.0.1 (DNS rebinding) gets nothing."""
    _refused(shop, {"Host": host}, 400, "host_not_allowed")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8450", "LOCALHOST:1", "[::1]:8450"])
def test_the_own_names_are_answered(shop: Rig, host: str) -> None:
    """The register may call us by any name of this computer, on any port that leads here."""
    assert shop.call("GET", "/api/status", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://127.0.0.1:8450, https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": ""},
        {"Sec-Fetch-Site": "anything"},
    ],
)
def test_t8_another_pages_request_is_refused(shop: Rig, headers: dict[str, str]) -> None:
    """T-8: what a browser says about a foreign page is enough to refuse it, secret or not."""
    _refused(shop, headers, 403, "foreign_origin")


@pytest.mark.parametrize(
    "shown", ["", "x", "A" * 43, "Bearer x", "\xe9", "A" * 10_000, "secret, secret"]
)
def test_t8_without_the_pairing_secret_nothing_is_answered(shop: Rig, shown: str) -> None:
    """T-8: neither a read nor a write, and not even which addresses there are."""
    _refused(shop, {pairing.HEADER: shown}, 401, "unauthorised")
    almost = shop.secret[:-1] + ("A" if shop.secret[-1] != "A" else "B")
    _refused(shop, {pairing.HEADER: almost}, 401, "unauthorised")


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "",
    ],
)
def test_t8_what_a_page_can_send_unasked_is_not_taken(shop: Rig, kind: str) -> None:
    """T-8: bodies of the kinds that need no preflight are refused whatever is in them."""
    before = shop.written()
    for path in POSTS:
        answer = shop.call("POST", path, data=b"{}", headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert shop.written() == before


def test_t8_a_preflight_is_never_granted(shop: Rig) -> None:
    """T-8: no answer carries a CORS header, so no page is ever told that it may."""
    ask = {
        "Origin": shop.url,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": pairing.HEADER,
    }
    answer = shop.call("OPTIONS", "/api/offers", headers=ask)
    assert not answer.ok
    for path in GETS:
        answer = shop.call("GET", path, headers={"Origin": shop.url})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("Access-Control-")]
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in answer.headers


def test_t8_reading_changes_nothing(shop: Rig) -> None:
    """T-8: no GET has an effect, and none reaches what a POST does."""
    before = shop.written()
    for path in GETS:
        assert shop.call("GET", path).status_code == 200
        assert shop.call("HEAD", path).status_code == 200
    for path in POSTS:
        assert shop.call("GET", path).status_code == 405
    assert shop.written() == before


def test_t8_only_one_address_listens(tmp_path: Path) -> None:
    """T-8: with the settings as written, the port is closed on every other address."""
    settings = Settings.read({}, tmp_path)
    assert settings.loopback
    with rig(tmp_path) as opened:
        port = int(opened.url.rsplit(":", 1)[1])
        elsewhere = {"127.0.0.2"}  # on Linux every 127.x.x.x is ours too
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            try:
                asked.connect(("192.0.2.1", 9))  # sends nothing; tells our address on the way there
                elsewhere.add(asked.getsockname()[0])
            except OSError:
                pass
        for address in elsewhere - {"127.0.0.1"}:
            with pytest.raises(OSError), socket.create_connection((address, port), timeout=2):
                pass


def test_t8_another_user_can_not_read_the_secret(tmp_path: Path) -> None:
    """T-8: the secret is 0600, is not replaced, and is not used once others can read it."""
    assert pairing.make(tmp_path)
    secret = pairing.read(tmp_path)
    assert len(secret) == 43
    assert not pairing.make(tmp_path)
    assert pairing.read(tmp_path) == secret
    path = tmp_path / pairing.FILE
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o640)
        with pytest.raises(Malformed, match="chmod 600"):
            pairing.read(tmp_path)


def test_a_damaged_secret_is_named_and_not_shown(tmp_path: Path) -> None:
    """A cut-off secret file is an error that names the file and holds none of it."""
    pairing.make(tmp_path)
    path = tmp_path / pairing.FILE
    path.write_text("abc123\n", "ascii")
    with pytest.raises(Malformed, match=pairing.FILE) as error:
        pairing.read(tmp_path)
    assert "abc123" not in str(error.value)


def test_a_register_on_a_cable_of_its_own_calls_by_address(tmp_path: Path) -> None:
    """With `host` set to another address, that address is a name too, and others stay refused."""
    with rig(tmp_path, host="192.168.7.1") as opened:
        names = {"Host": "192.168.7.1:8450"}
        assert opened.call("GET", "/api/status", headers=names).status_code == 200
        names = {"Host": "192.168.7.2:8450"}
        assert opened.call("GET", "/api/status", headers=names).status_code == 400


def test_t8_a_hostile_page_with_everything_but_the_secret(shop: Rig) -> None:
    """T-8: a page that guesses every address and body right still moves no money."""
    code = shop.world.family().token()
    before, balance = shop.written(), shop.world.balance()
    body = {"checkout": "S1-000666", "code": code, "lines": [milk()]}
    answer = shop.call("POST", "/api/offers", body, headers={pairing.HEADER: "guess"})
    assert answer.status_code == 401
    assert code not in answer.text
    assert (shop.written(), shop.world.balance()) == (before, balance)
