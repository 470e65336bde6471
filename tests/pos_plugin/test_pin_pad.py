"""A card's PIN at the counter: typed on the holder's side, counted once, on nobody else's card.

Real register calls, real pad calls, real plugin, real ledger, all over HTTP (docs/identity.md §7).
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from carepos_plugin import guard, pad_link, pairing
from carepos_plugin.pin_pad import LIFE_S, ON_PAD, ON_REGISTER
from carepos_plugin.pin_pad_routes import PAGE
from carepos_plugin.settings import Settings
from tests.cards import PIN, RULES, SECRET, WRONG, Card, cards, print_card, proof
from tests.pos_plugin.rig import Answer, Rig, listening, milk, rig
from tests.pos_plugin.test_api import Held
from tests.world import ISSUER

CHECKOUT = "S1-000001"


class Pad:
    """The screen that faces the holder: it has the link's secret and nothing else."""

    def __init__(self, shop: Rig) -> None:
        self.url = shop.url
        self.link = shop.post("/api/pin-pad/link", {})["link"].partition("#")[2]
        self.secret = self.call("pair", {"code": self.link}).json()["secret"]

    def call(self, path: str, body: object, **headers: str) -> requests.Response:
        shown = {pad_link.HEADER: getattr(self, "secret", ""), **headers}
        return requests.post(f"{self.url}/pin-pad/{path}", json=body, headers=shown, timeout=30)

    def ask(self, path: str, body: object) -> Answer:
        answer = self.call(path, body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def state(self) -> Answer:
        return self.ask("state", {})

    def enter(self, pin: str, state: Answer | None = None) -> Answer:
        """Type a PIN under what the pad shows (or showed) and press OK."""
        shown = state or self.state()
        return self.ask("enter", {"request": shown["request"], "entry": shown["entry"], "pin": pin})


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as opened:
        opened.world.ledger.programmes.put_programme(RULES)
        opened.till.refresh_pack()
        yield opened


@pytest.fixture
def pad(shop: Rig) -> Pad:
    made = Pad(shop)
    assert made.state()["state"] == "idle"
    return made


def scan(shop: Rig, card: Card, checkout: str = CHECKOUT) -> Answer:
    return shop.offer(checkout, card.scanned)


def again(shop: Rig, asked: Answer, checkout: str = CHECKOUT, **more: Any) -> Answer:
    """The register repeats its offer with the request instead of the card."""
    body = {"checkout": checkout, "pin_request": asked["pin"]["request"], "lines": [milk()]}
    return shop.post("/api/offers", {**body, **more})


def wrong_tries(shop: Rig, card: Card) -> int:
    with shop.world.ledger.database.read() as connection:
        found = connection.exec_driver_sql(
            f"SELECT wrong_tries FROM cards WHERE jti_sha256 = '{card.jti_sha256}'"
        ).scalar()
    assert isinstance(found, int)
    return found


def test_a_card_is_redeemed_with_the_pin_from_the_pad(shop: Rig, pad: Pad) -> None:
    """Scan, PIN on the holder's side, offer, redeemed: the register never has the PIN."""
    card = print_card(shop.world.family(12_000))
    asked = scan(shop, card)
    assert (asked["offer"], asked["refusal"]["code"]) == (None, "pin_required")
    assert asked["pin"]["state"] == "waiting" and "密码键盘" in asked["pin"]["zh"]
    shown = pad.state()
    assert (shown["state"], shown["shop"]) == ("waiting", "周家超市 古州店")
    assert shown["card"] == f"**{card.name[-4:]}"
    assert again(shop, asked)["pin"]["state"] == "waiting"
    assert pad.enter(PIN)["state"] == "proved"
    assert shop.get(f"/api/pin-requests/{asked['pin']['request']}")["state"] == "proved"
    offer = again(shop, asked)
    assert offer["refusal"] is None and offer["pin"] is None
    assert again(shop, asked)["offer"] == offer["offer"]  # a repeat is the same offer
    assert shop.redeem(CHECKOUT, offer)["state"] == "confirmed"
    assert shop.world.balance() == 12_000 - 6_490
    # Nothing of the card stays for the next sale.
    body = {"checkout": "S1-000002", "pin_request": asked["pin"]["request"], "lines": [milk()]}
    assert shop.refused("POST", "/api/offers", body) == (410, "pin_request_gone")
    assert all(r.holder is r.code is None for r in requests_of(shop))


def requests_of(shop: Rig) -> list[Any]:
    return list(shop.plugin.counter._pad._requests.values())


def test_a_wrong_pin_says_how_many_tries_are_left(shop: Rig, pad: Pad) -> None:
    """Holder and cashier are told; the fifth locks the card and ends the request."""
    card = print_card(shop.world.family())
    asked = scan(shop, card)
    for left in (4, 3, 2, 1):
        shown = pad.enter(WRONG)
        assert (shown["state"], shown["wrong"]) == ("waiting", True)
        assert f"还可试{left}次" in shown["zh"] and f"Tries left: {left}" in shown["en"]
        told = again(shop, asked)
        assert (told["refusal"]["code"], told["refusal"]["tries_left"]) == ("pin_wrong", left)
        assert told["pin"]["tries_left"] == left
    locked = pad.enter(WRONG)
    assert (locked["state"], locked["request"]) == ("refused", None)
    assert "锁定" in locked["zh"]
    told = again(shop, asked)
    assert (told["refusal"]["code"], told["pin"]["state"]) == ("pin_locked", "refused")
    assert scan(shop, card)["pin"]["state"] == "waiting"
    assert pad.enter(PIN)["state"] == "refused"


def test_a_wrong_pin_and_then_the_right_one(shop: Rig, pad: Pad) -> None:
    """A slip of the finger costs one try and no new scan."""
    asked = scan(shop, card := print_card(shop.world.family()))
    pad.enter(WRONG)
    assert pad.enter(PIN)["state"] == "proved"
    assert again(shop, asked)["offer"] is not None
    assert wrong_tries(shop, card) == 0


def test_one_press_is_one_try(shop: Rig, pad: Pad) -> None:
    """However often a press arrives (a double press, a wet finger, an answer that was lost and the
    page loaded anew), the ledger counts it once."""
    card = print_card(shop.world.family())
    scan(shop, card)
    shown = pad.state()
    at_once = threading.Barrier(6)

    def press(_: int) -> Answer:
        at_once.wait()
        return pad.enter(WRONG, shown)

    with ThreadPoolExecutor(6) as fingers:
        list(fingers.map(press, range(6)))
    assert wrong_tries(shop, card) == 1
    assert pad.enter(WRONG, shown)["entry"] == shown["entry"] + 1  # the same press, once more
    assert wrong_tries(shop, card) == 1
    reloaded = pad.state()
    assert (reloaded["state"], reloaded["wrong"]) == ("waiting", True)
    pad.enter(WRONG, reloaded)
    assert wrong_tries(shop, card) == 2


def test_a_reload_while_the_pin_is_checked(shop: Rig, pad: Pad) -> None:
    """The page shows that it is being checked, takes nothing, and then what became of it."""
    asked = scan(shop, card := print_card(shop.world.family()))
    shown = pad.state()
    checking = Held(shop, "scan")
    with ThreadPoolExecutor(1) as fingers:
        pressed = fingers.submit(pad.enter, WRONG, shown)
        assert checking.begun.wait(20)
        reloaded = pad.state()
        assert reloaded["state"] == "checking"
        assert pad.enter(PIN, reloaded)["state"] == "checking"
        assert again(shop, asked)["pin"]["state"] == "checking"
        checking.let_go()
        assert pressed.result()["wrong"]
    assert wrong_tries(shop, card) == 1


def test_nobodys_pin_meets_anothers_card(shop: Rig, pad: Pad) -> None:
    """The cashier scans another card while a PIN is being typed: the press for the first does not
    reach the second, which keeps all its tries."""
    first, second = (print_card(shop.world.family()) for _ in range(2))
    scan(shop, first)
    shown = pad.state()
    asked = scan(shop, second)
    answer = pad.call("enter", {"request": shown["request"], "entry": shown["entry"], "pin": WRONG})
    assert (answer.status_code, answer.json()["code"]) == (410, "pin_request_gone")
    assert wrong_tries(shop, first) == wrong_tries(shop, second) == 0
    assert pad.state()["request"] == asked["pin"]["request"] != shown["request"]


def test_a_card_replaced_while_its_pin_is_checked_gives_no_offer(shop: Rig, pad: Pad) -> None:
    """The first card's right PIN comes back after the second was scanned: nobody is offered."""
    first, second = (print_card(shop.world.family()) for _ in range(2))
    asked = scan(shop, first)
    shown, checking = pad.state(), Held(shop, "scan")
    with ThreadPoolExecutor(1) as fingers:
        pressed = fingers.submit(pad.enter, PIN, shown)
        assert checking.begun.wait(20)
        newer = scan(shop, second)
        checking.let_go()
        assert pressed.result()["request"] == newer["pin"]["request"]
    assert again(shop, asked)["pin"]["state"] == "replaced"
    assert again(shop, newer)["offer"] is None
    assert all(r.holder is None for r in requests_of(shop))


def test_two_registers_share_a_pad_one_after_the_other(shop: Rig, pad: Pad) -> None:
    """While one sale's customer is at the pad the other is told to wait; neither sees the other's
    request."""
    one, two = (print_card(shop.world.family()) for _ in range(2))
    asked = scan(shop, one, "S1-1")
    body = {"checkout": "S2-1", "code": two.scanned, "lines": [milk()]}
    assert shop.refused("POST", "/api/offers", body) == (409, "pin_pad_busy")
    stolen = {"checkout": "S2-1", "pin_request": asked["pin"]["request"], "lines": [milk()]}
    assert shop.refused("POST", "/api/offers", stolen) == (410, "pin_request_gone")
    pad.enter(PIN)
    other = scan(shop, two, "S2-1")
    assert again(shop, asked, "S1-1")["offer"] is not None
    pad.enter(PIN)
    assert again(shop, other, "S2-1")["offer"] is not None


def test_a_double_scan_of_a_card_is_one_request(shop: Rig, pad: Pad) -> None:
    """FA-7: the holder who is typing is not disturbed."""
    card = print_card(shop.world.family())
    first, second = scan(shop, card), scan(shop, card)
    assert first["pin"]["request"] == second["pin"]["request"]
    assert pad.enter(PIN)["state"] == "proved"


@pytest.mark.parametrize("next_scan", ["phone", "payment code", "empty"])
def test_another_scan_ends_the_request(shop: Rig, pad: Pad, next_scan: str) -> None:
    """Whatever is scanned next for the sale, the card that waited is forgotten, offered or not."""
    asked = scan(shop, print_card(shop.world.family()))
    code = {
        "phone": shop.world.family().token(),
        "payment code": "134567890123456789",
        "empty": "",
    }[next_scan]
    shop.offer(CHECKOUT, code)
    assert again(shop, asked)["pin"]["state"] == "replaced"
    assert pad.state()["state"] == "replaced"
    assert all(r.code is None for r in requests_of(shop))


def test_a_holder_whose_card_paid_is_thanked_and_nothing_else(shop: Rig, pad: Pad) -> None:
    """The sale ends the request: nobody scanned another code, so the pad must not say so."""
    asked = scan(shop, print_card(shop.world.family()))
    pad.enter(PIN)
    assert shop.redeem(CHECKOUT, again(shop, asked))["state"] == "confirmed"
    assert pad.state()["state"] == "proved"
    assert requests_of(shop) == []
    gone = f"/api/pin-requests/{asked['pin']['request']}"
    assert shop.refused("GET", gone, None) == (410, "pin_request_gone")


def test_a_late_poll_does_not_end_the_next_customers_offer(shop: Rig, pad: Pad) -> None:
    """The register still asks about the card when the next code was scanned and offered."""
    asked = scan(shop, print_card(shop.world.family()))
    offer = shop.offer(CHECKOUT, shop.world.family().token())
    assert again(shop, asked)["pin"]["state"] == "replaced"
    gone = {"checkout": CHECKOUT, "pin_request": "A" * 22, "lines": [milk()]}
    assert shop.refused("POST", "/api/offers", gone) == (410, "pin_request_gone")
    assert shop.redeem(CHECKOUT, offer)["state"] == "confirmed"


@pytest.mark.parametrize("who", ["holder", "cashier"])
def test_a_request_can_be_given_up(shop: Rig, pad: Pad, who: str) -> None:
    """By the holder on the pad, by the cashier at the register; nothing is counted."""
    card = print_card(shop.world.family())
    asked = scan(shop, card)
    request = asked["pin"]["request"]
    if who == "holder":
        assert pad.ask("cancel", {"request": request})["state"] == "cancelled"
    else:
        shop.post(f"/api/pin-requests/{request}/cancel", {})
        assert pad.state()["state"] == "cancelled"
    told = again(shop, asked)
    assert (told["refusal"]["code"], told["pin"]["state"]) == ("pin_required", "cancelled")
    assert wrong_tries(shop, card) == 0 and all(r.code is None for r in requests_of(shop))
    shop.seconds.at += 11
    assert pad.state()["state"] == "idle"


def test_an_abandoned_request_is_over_after_a_minute(shop: Rig, pad: Pad) -> None:
    """Nobody types: the card is forgotten, pad and register say so; upkeep does it too where
    neither asks. A wrong PIN gives another minute."""
    asked = scan(shop, print_card(shop.world.family()))
    shop.seconds.at += LIFE_S - 1
    assert pad.enter(WRONG)["wrong"]
    shop.seconds.at += LIFE_S - 1
    assert again(shop, asked)["pin"]["state"] == "waiting"
    shop.seconds.at += 1
    shop.plugin.upkeep.one_pass()
    assert all(r.code is None for r in requests_of(shop))
    assert pad.state()["state"] == "timed_out"
    told = again(shop, asked)
    assert (told["refusal"]["code"], told["pin"]["state"]) == ("pin_required", "timed_out")
    shop.seconds.at += 400
    body = {"checkout": CHECKOUT, "pin_request": asked["pin"]["request"], "lines": [milk()]}
    assert shop.refused("POST", "/api/offers", body) == (410, "pin_request_gone")


def test_a_proved_card_left_at_the_counter_is_forgotten(shop: Rig, pad: Pad) -> None:
    """As an offer is: after its life the PIN must be entered anew."""
    asked = scan(shop, print_card(shop.world.family()))
    pad.enter(PIN)
    shop.seconds.at += 301
    shop.plugin.upkeep.one_pass()
    assert all(r.holder is None for r in requests_of(shop))
    assert again(shop, asked)["offer"] is None


def test_without_a_network_nobody_reads_wrong_pin(shop: Rig, pad: Pad) -> None:
    """The register gets the same problem as for any scan; the pad says that it was the network."""
    asked = scan(shop, card := print_card(shop.world.family()))
    shop.cut_network()
    assert pad.enter(PIN)["state"] == "failed"
    body = {"checkout": CHECKOUT, "pin_request": asked["pin"]["request"], "lines": [milk()]}
    for _ in range(2):
        assert shop.refused("POST", "/api/offers", body) == (503, "unreachable")
    shop.mend_network()
    assert wrong_tries(shop, card) == 0
    scan(shop, card)
    assert pad.enter(PIN)["state"] == "proved"


def test_without_a_pad_the_cashier_is_told(shop: Rig) -> None:
    """A card can't be taken, and why; a pad whose page was closed is told apart."""
    card = print_card(shop.world.family())
    told = scan(shop, card)
    assert (told["refusal"]["code"], told["pin"]["state"]) == ("pin_required", "no_pad")
    assert told["pin"]["request"] is None and "pin-pad" in told["pin"]["en"]
    assert shop.get("/api/status")["pin_pad"] == {"paired": False, "answering": False}
    pad = Pad(shop)
    assert "does not answer" in scan(shop, card)["pin"]["en"]
    pad.state()
    assert "does not answer" not in scan(shop, card)["pin"]["en"]
    assert shop.get("/api/status")["pin_pad"] == {"paired": True, "answering": True}


@pytest.mark.parametrize(
    "pin", ["", "123", "123456789", "12a4", "２５８０", 2580, None, True, ["2"]]
)
def test_what_is_no_pin_is_no_try(shop: Rig, pad: Pad, pin: Any) -> None:
    """It is refused by its form, without repeating it, and the press is still to be made."""
    scan(shop, card := print_card(shop.world.family()))
    shown = pad.state()
    answer = pad.call("enter", {"request": shown["request"], "entry": shown["entry"], "pin": pin})
    assert (answer.status_code, answer.json()["field"]) == (400, "pin")
    assert wrong_tries(shop, card) == 0 and pad.state()["entry"] == shown["entry"]


def test_inv_10_nothing_of_pin_or_card_is_kept_or_said(
    shop: Rig, pad: Pad, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """INV-10: no answer, log, file, repr or living object holds PIN, card secret or proof, after
    right and wrong ones, an error inside, and a press that met no network."""
    caplog.set_level(logging.DEBUG)
    canary, other = "90817263", "90817264"
    card = print_card(shop.world.family(), canary)
    texts = [str(asked := scan(shop, card)), str(pad.state()), str(pad.enter(other))]
    real = shop.till.scan

    def breaks(code: str, *, pin: str | None = None) -> Any:
        raise ValueError(f"a library repeats {code} and {pin}")

    shop.till.scan = breaks  # type: ignore[method-assign,assignment]  # a library that talks
    shown = pad.state()
    body = {"request": shown["request"], "entry": shown["entry"], "pin": canary}
    failed = pad.call("enter", body)
    assert (failed.status_code, failed.json()["code"]) == (500, "internal")
    shop.till.scan = real  # type: ignore[method-assign]  # and one that does not
    texts += [failed.text, str(pad.state()), str(again(shop, asked))]
    shop.cut_network()
    scan(shop, card)
    texts.append(str(pad.enter(canary)))
    shop.mend_network()
    asked = scan(shop, card)
    texts += [str(pad.enter(canary)), str(offer := again(shop, asked))]
    texts += [str(shop.redeem(CHECKOUT, offer)), str(shop.get("/api/status"))]
    texts += [repr(requests_of(shop)), repr(shop.plugin.counter._pad), caplog.text]
    texts += list(capsys.readouterr())
    files = b"".join(f.read_bytes() for f in sorted(shop.till.folder.rglob("*")) if f.is_file())
    for secret in (canary, other, SECRET, card.token, proof(canary, card.name)):
        assert not any(secret in text for text in texts)
        assert secret.encode() not in files
    assert pad.secret.encode() not in files and shop.secret not in str(texts)
    # No object of ours holds it either: not a request, nor an exception with the frame of the call.
    gc.collect()
    holding = [
        held
        for held in gc.get_objects()
        if isinstance(held, BaseException) and held.__traceback__ is not None
    ]
    for error in holding:
        frame = error.__traceback__
        while frame is not None:
            assert canary not in map(str, frame.tb_frame.f_locals.values()) or (
                "test_pin_pad" in frame.tb_frame.f_code.co_filename
            )
            frame = frame.tb_next


# ── whose pad it is (T-8) ──────────────────────────────────────────────────────────────────────


POSTS = {
    "/pin-pad/state": {},
    "/pin-pad/enter": {"request": "A" * 22, "entry": 1, "pin": PIN},
    "/pin-pad/cancel": {"request": "A" * 22},
}


def test_t8_a_link_works_once_and_a_new_pad_takes_the_old_ones_place(shop: Rig) -> None:
    """T-8: a used, old or guessed link gives nothing; the pad before is not a pad any more."""
    code = shop.post("/api/pin-pad/link", {})["link"].partition("#")[2]
    first = Pad(shop)  # with a newer link: the one before is over
    for guess in (first.link, code, "A" * 22, "é", first.secret):
        answer = first.call("pair", {"code": guess})
        assert (answer.status_code, answer.json()["code"]) == (410, "link_gone")
    assert first.state()["state"] == "idle"
    late = shop.post("/api/pin-pad/link", {})["link"].partition("#")[2]
    shop.seconds.at += 600
    assert first.call("pair", {"code": late}).status_code == 410
    second = Pad(shop)
    assert second.state()["state"] == "idle"
    assert first.call("state", {}).status_code == 401
    shop.post("/api/pin-pad/forget", {})
    assert second.call("state", {}).status_code == 401


def test_a_full_disk_uses_no_link_up(shop: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pad whose secret could not be kept pairs with the same link once there is room."""
    code = shop.post("/api/pin-pad/link", {})["link"].partition("#")[2]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("carepos.durable.write", full)
        body = {"code": code}
        assert shop.call("POST", "/pin-pad/pair", body).status_code == 503
    assert shop.call("POST", "/pin-pad/pair", body).status_code == 200


def test_a_pad_that_is_forgotten_stays_so_after_a_power_cut(
    shop: Rig, pad: Pad, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tablet that was lost: its file's end is on the disk before the answer."""
    synced: list[bool] = []
    path = shop.till.folder / pad_link.FILE
    monkeypatch.setattr("carepos.durable.sync_folder", lambda _: synced.append(path.exists()))
    shop.post("/api/pin-pad/forget", {})
    assert synced == [False]


def test_a_pad_works_again_after_a_restart(shop: Rig, pad: Pad) -> None:
    """Only the digest of its secret is on the disk."""
    found = pad_link.PadLink(shop.till.folder, monotonic=shop.seconds, random_bytes=bytes)
    assert found.opens(pad.secret) and not found.opens("") and not found.opens(pad.secret[:-1])
    assert pad.secret not in (shop.till.folder / pad_link.FILE).read_text()


@pytest.mark.parametrize("path", POSTS)
def test_t8_each_secret_opens_its_own_door(shop: Rig, pad: Pad, path: str) -> None:
    """T-8: the register's secret does not drive the pad, nor the pad's the register."""
    before = shop.written()
    for headers in (
        {},
        {pad_link.HEADER: "x"},
        {pad_link.HEADER: shop.secret},
        {pairing.HEADER: shop.secret},
        {pairing.HEADER: pad.secret},
    ):
        answer = requests.post(f"{shop.url}{path}", json=POSTS[path], headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (401, "pad_not_paired")
    for register_path in ("/api/status", "/api/pin-requests/" + "A" * 22):
        for headers in ({pad_link.HEADER: pad.secret}, {pairing.HEADER: pad.secret}):
            answer = requests.get(f"{shop.url}{register_path}", headers=headers, timeout=30)
            assert answer.status_code == 401
    assert shop.written() == before


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1.nip.io"}, 400),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_t8_no_page_of_others_drives_the_pad(
    shop: Rig, pad: Pad, headers: dict[str, str], status: int
) -> None:
    """T-8: even one that knew the pad's secret; nor does it see the page itself."""
    for path, body in {**POSTS, "/pin-pad/pair": {"code": "A" * 22}}.items():
        shown = {pad_link.HEADER: pad.secret, "Content-Type": "application/json", **headers}
        answer = requests.post(f"{shop.url}{path}", json=body, headers=shown, timeout=30)
        assert answer.status_code == status, path
    if status != 415:
        assert (
            requests.get(f"{shop.url}/pin-pad", headers=headers, timeout=30).status_code == status
        )


def test_the_page_brings_nothing_from_elsewhere(shop: Rig) -> None:
    """No script, font or style of others, none inline, no frame; and nothing of a sale in it."""
    card = print_card(shop.world.family())
    scan(shop, card)
    for path in sorted(PAGE.open - {"/pin-pad/pair"}):
        answer = requests.get(shop.url + path, timeout=30)
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and "http" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        text = answer.text
        assert "://" not in text and " style=" not in text and "onclick" not in text
        assert "innerHTML" not in text and "eval(" not in text
        assert card.name[-4:] not in text
    for path in POSTS:
        assert requests.get(shop.url + path, timeout=30).status_code == 401
        got = requests.get(shop.url + path, headers={pad_link.HEADER: Pad(shop).secret}, timeout=30)
        assert got.status_code == 405


def test_t8_only_the_devices_are_served_to_the_network(tmp_path: Path) -> None:
    """T-8: at the address for devices the register's API is not there, whoever asks with whatever
    secret; at the register's address everything is."""
    with rig(tmp_path, devices_host="192.168.7.1") as shop:
        pad = Pad(shop)
        assert pad.state()["state"] == "idle"
        with listening(guard.outside(shop.plugin.wsgi)) as port:
            url, host = f"http://127.0.0.1:{port}", {"Host": "192.168.7.1:8450"}
            assert requests.get(f"{url}/pin-pad", headers=host, timeout=30).status_code == 200
            shown = {**host, pad_link.HEADER: pad.secret}
            state = requests.post(f"{url}/pin-pad/state", json={}, headers=shown, timeout=30)
            assert state.json()["state"] == "idle"
            for path in ("/api/status", "/", "/pin-padx", "//pin-pad/../api/status"):
                shown = {**host, pairing.HEADER: shop.secret}
                answer = requests.get(url + path, headers=shown, timeout=30)
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
            for name in ("127.0.0.1", "localhost", "192.168.7.2", "evil.example"):
                shown = {"Host": name, pairing.HEADER: shop.secret}
                for path in ("/pin-pad", "/api/status"):
                    assert requests.get(url + path, headers=shown, timeout=30).status_code == 400


def test_by_default_no_other_address_is_served(tmp_path: Path) -> None:
    """Without the setting the pad is on the register's own address, which is this computer."""
    settings = Settings.read({}, tmp_path)
    assert settings.devices_host == "" and settings.devices_url == "http://127.0.0.1:8450"
    assert Settings.read({"devices_host": "127.0.0.1"}, tmp_path).devices_host == ""
    elsewhere = Settings.read({"devices_host": "192.168.7.1"}, tmp_path)
    assert elsewhere.devices_url == "http://192.168.7.1:8450" and elsewhere.loopback


def test_every_state_is_said_to_both_sides() -> None:
    """In both languages, on the pad and at the register."""
    states = {"waiting", "checking", "proved", "cancelled", "timed_out", "replaced", "refused",
              "failed"}  # fmt: skip
    assert states <= ON_PAD.keys() and states <= ON_REGISTER.keys()
    assert all(en and zh for en, zh in [*ON_PAD.values(), *ON_REGISTER.values()])


def test_an_unlocked_card_is_asked_again(shop: Rig, pad: Pad) -> None:
    """After the office unlocked it the next scan begins anew."""
    card = print_card(shop.world.family())
    scan(shop, card)
    for _ in range(5):
        pad.enter(WRONG)
    cards(shop.world).unlock(ISSUER, card.jti_sha256)
    asked = scan(shop, card)
    assert pad.enter(PIN)["state"] == "proved"
    assert again(shop, asked)["offer"] is not None
