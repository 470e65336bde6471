"""What is held up at the counter, as the register shows it: other codes, devices, who acts."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from carepos import Refusal, Refused, TokenRefused, other_codes
from carepos.claims import REASONS as REASON_CODES
from carepos_plugin import held_code, pad_link, pairing
from carepos_plugin.problems import problem_of
from carepos_plugin.sentences import REASONS, WAYS
from carepos_plugin.settings import Settings
from tests.cards import ACTING, RULES, act_for, open_wallet, print_card
from tests.pos_plugin.rig import Rig, milk, rig, write_settings
from tests.world import PROGRAMME, end, world

CHECKOUT = "S1-000001"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as opened:
        opened.world.ledger.programmes.put_programme({**RULES, "acting": ACTING})
        opened.till.refresh_pack()
        yield opened


# ── other codes ────────────────────────────────────────────────────────────────────────────────


def test_the_cashier_reads_what_was_held_up(shop: Rig) -> None:
    """Beside the refusal's code stands what it looks like, and each line has the helpful sentence;
    nothing of the code comes back."""
    token = shop.world.family().token()
    for code, looks_like, zh in (
        ("", "empty", "未读到"),
        ("134567890123456789", "payment_code", "付款码"),
        ("4006381333931", "product", "商品条码"),
        ("CP1*0001-000007-2*CNY6490*ABCDEFGHIJKLMNOP", "receipt", "小票"),
        ("https://pay.example/1234567", "web_address", "网址"),
        (token[:-60], "damaged", "未完整"),
        (token.swapcase(), "keyboard", "输入法"),
        ("11010519491231002X", "id_number", "身份证"),
        ("我是谁", "unknown", "这不是爱心码"),
    ):
        answer = shop.offer(CHECKOUT, code)
        assert answer["refusal"]["looks_like"] == looks_like, code
        assert zh in answer["refusal"]["zh"] and zh in answer["lines"][0]["reason"]["zh"]
        assert answer["refusal"]["code"] in ("token_malformed", "token_signature")
        assert len(code) < 7 or code not in str(answer)


def test_a_problem_document_says_it_too() -> None:
    """Wherever such a refusal becomes a problem, it has the helpful sentence and its name."""
    look = other_codes.BY_LOOK["payment_code"]
    error = TokenRefused(Refusal("token_malformed"), claim="token", why="no JWS", look=look)
    told = problem_of(error).to_json()
    assert (told["looks_like"], told["zh"], told["title"]) == ("payment_code", look.zh, look.en)
    wrong = problem_of(Refused(Refusal("pin_wrong"), tries_left=3)).to_json()
    assert wrong["tries_left"] == 3 and "还可再试3次" in wrong["zh"]


def test_the_wrong_code_of_a_wallet_names_its_programmes(shop: Rig) -> None:
    """Asked for one programme, held for another: named by its title; one without any is told
    apart."""
    shop.world.ledger.programmes.put_programme(
        {**RULES, "programme": "love-meal", "name": "爱心餐"}
    )
    family = shop.world.family()
    shop.till.refresh_pack()
    told = shop.offer(CHECKOUT, family.token(), programme="love-meal")
    assert (told["offer"], told["refusal"]["code"]) == (None, "other_programme")
    assert told["refusal"]["programmes"] == [PROGRAMME["name"]]
    assert PROGRAMME["name"] in told["refusal"]["zh"]
    nobody = shop.offer(CHECKOUT, family.token(sub="nobody-was-issued-this"))
    assert nobody["refusal"]["code"] == "voucher_unknown"


# ── who acts, wallets ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "way", "reason", "zh", "slip"),
    [
        ({}, "proxy", "frail", "由他人代领", "代领"),
        (
            {"amr": ("carepos:witness", "otp"), "care_reason": "unreadable"},
            "witness",
            "unreadable",
            "见证人",
            "见证",
        ),
    ],
)
def test_the_cashier_sees_that_somebody_acts(
    shop: Rig, changes: dict[str, Any], way: str, reason: str, zh: str, slip: str
) -> None:
    """Before anything is taken: in which way and why, never who; and one line on the receipt."""
    code = act_for(shop.world.family(), "canary-actor", **changes)
    offer = shop.offer(CHECKOUT, code, milk(1_000))
    assert (offer["acting"]["way"], offer["acting"]["reason"]) == (way, reason)
    assert zh in offer["acting"]["zh"] and REASONS[reason][1] in offer["acting"]["zh"]
    sale = shop.redeem(CHECKOUT, offer)
    assert slip in sale["receipt_text"].splitlines()
    assert "canary" not in f"{offer}{sale}"
    in_person = shop.offer("S1-000002", shop.world.family().token(), milk(1_000))
    assert in_person["acting"] is None
    text = shop.redeem("S1-000002", in_person)["receipt_text"]
    assert "代领" not in text and "见证" not in text


def test_acting_above_its_limit_is_shown_line_by_line(shop: Rig) -> None:
    """The offer shows what will be accepted, and why not more."""
    offer = shop.offer(CHECKOUT, act_for(shop.world.family()), milk(6_000))
    assert offer["totals"]["programme_minor"] == 5_000
    assert offer["lines"][0]["reason"]["code"] == "acting_limit"
    assert shop.redeem(CHECKOUT, offer)["state"] == "confirmed"


def test_every_reason_and_way_has_its_sentence() -> None:
    """None of the profile's words reaches a cashier as a word of the profile."""
    assert REASONS.keys() == REASON_CODES
    assert WAYS.keys() == {"proxy", "witness"}


def test_a_wallet_and_its_screenshot_at_the_register(shop: Rig) -> None:
    """A fresh presentation is offered and redeemed; later the same picture asks for a fresh one."""
    wallet = open_wallet(shop.world.family())
    shown = wallet.present()
    assert shop.redeem(CHECKOUT, shop.offer(CHECKOUT, shown))["state"] == "confirmed"
    shop.world.now.forward(minutes=16)
    again = shop.offer("S1-000002", shown)
    assert again["refusal"]["code"] == "token_replayed"
    assert shop.offer("S1-000003", wallet.token)["refusal"]["code"] == "holder_unproven"


# ── face and palm devices ──────────────────────────────────────────────────────────────────────


class Device:
    """Stands at the counter, has its own secret and reads palms."""

    def __init__(self, shop: Rig) -> None:
        self.url = shop.url
        assert pairing.make(shop.till.folder, file=held_code.FILE)
        self.secret = pairing.read(shop.till.folder, held_code.FILE)

    def hand_over(self, code: object, **headers: str) -> requests.Response:
        shown = {held_code.HEADER: self.secret, **headers}
        return requests.post(
            f"{self.url}/device/code", json={"code": code}, headers=shown, timeout=30
        )


def offer_of_device(shop: Rig, checkout: str = CHECKOUT) -> dict[str, Any]:
    return shop.post("/api/offers", {"checkout": checkout, "code": None, "lines": [milk()]})


def test_a_palm_is_read_and_redeemed(shop: Rig) -> None:
    """The device hands a token over, the register's next offer is made for it, once."""
    device = Device(shop)
    body = {"checkout": CHECKOUT, "code": None, "lines": [milk()]}
    assert shop.refused("POST", "/api/offers", body) == (409, "no_code_held")
    code = shop.world.family().token(amr=("carepos:palm",))
    held = device.hand_over(code)
    assert (held.status_code, held.json()) == (202, {"held": True, "seconds": 60})
    assert shop.get("/api/status")["device"] == {"code_waiting": True}
    offer = offer_of_device(shop)
    assert offer["refusal"] is None
    assert shop.get("/api/status")["device"] == {"code_waiting": False}
    assert offer_of_device(shop)["offer"] == offer["offer"]  # FA-7: a double press is one offer
    body = {"checkout": "S2-000001", "code": None, "lines": [milk()]}
    assert shop.refused("POST", "/api/offers", body) == (409, "no_code_held")
    assert shop.redeem(CHECKOUT, offer)["state"] == "confirmed"
    assert shop.plugin.counter._held_code._code is None


def test_a_code_that_nobody_asks_for_is_forgotten(shop: Rig) -> None:
    """After a minute, by upkeep too; another person's palm takes its place at once."""
    device = Device(shop)
    device.hand_over(shop.world.family().token())
    shop.seconds.at += 60
    shop.plugin.upkeep.one_pass()
    assert shop.plugin.counter._held_code._code is None
    first, second = (shop.world.family() for _ in range(2))
    device.hand_over(first.token())
    device.hand_over(second.token())
    shop.redeem(CHECKOUT, offer_of_device(shop))
    assert shop.till.scan(first.token()).vouchers[0].available_minor == 12_000
    assert shop.till.scan(second.token()).vouchers[0].available_minor == 12_000 - 6_490


def test_a_scan_takes_the_devices_code_off_the_sale(shop: Rig) -> None:
    """Who paid by phone after their palm was read leaves no palm for the next press."""
    device = Device(shop)
    device.hand_over(shop.world.family().token())
    offer_of_device(shop)
    shop.offer(CHECKOUT, shop.world.family().token())
    body = {"checkout": CHECKOUT, "code": None, "lines": [milk()]}
    assert shop.refused("POST", "/api/offers", body) == (409, "no_code_held")


def test_t8_only_the_device_hands_codes_over(shop: Rig) -> None:
    """T-8: without its secret, with the register's or the pad's, from a page, in another form:
    nothing is held; and no answer ever shows what is."""
    url, code = f"{shop.url}/device/code", shop.world.family().token()
    assert requests.post(url, json={"code": code}, timeout=30).status_code == 401
    device = Device(shop)
    for headers in (
        {},
        {held_code.HEADER: ""},
        {held_code.HEADER: shop.secret},
        {pairing.HEADER: shop.secret},
        {pad_link.HEADER: device.secret},
    ):
        answer = requests.post(url, json={"code": code}, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (401, "device_not_paired")
    assert device.hand_over(code, Origin="https://evil.example").status_code == 403
    assert device.hand_over(code, **{"Content-Type": "text/plain"}).status_code == 415
    for wrong in ("", "x" * 4_097, None, 7, [code]):
        assert device.hand_over(wrong).status_code == 400
    assert not shop.plugin.counter._held_code.waiting()
    shown = {held_code.HEADER: device.secret}
    assert requests.get(url, headers=shown, timeout=30).status_code == 405
    status = requests.get(f"{shop.url}/api/status", headers=shown, timeout=30)
    assert status.status_code == 401
    held = device.hand_over(code)
    assert code not in held.text + shop.call("GET", "/api/status").text
    assert code not in repr(shop.plugin.counter._held_code)


def test_a_device_secret_that_others_can_read_opens_nothing(shop: Rig) -> None:
    """As with the register's: made with 0600, and refused otherwise."""
    device = Device(shop)
    path = shop.till.folder / held_code.FILE
    path.chmod(0o644)
    assert device.hand_over("x").status_code == 401
    path.chmod(0o600)
    assert device.hand_over("x").status_code == 202


# ── a process of its own ───────────────────────────────────────────────────────────────────────


def test_the_devices_address_is_served_by_the_process_that_serves_the_register(
    tmp_path: Path,
) -> None:
    """`carepos till serve` with `devices_host`: the pad answers there and the register does not;
    a stop ends both."""
    with world(tmp_path) as made:
        till = made.till("till")
        till.close()
        made.tills.clear()
        pairing.make(till.folder)
        Settings.write_default(till.folder)
        write_settings(till.folder, devices_host="127.0.0.2", port=_free_port())
        settings = Settings.load(till.folder)
        serving = subprocess.Popen(
            [sys.executable, "-m", "carepos.commands", "till", "serve", "--folder", till.folder],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert serving.stdout is not None
            assert settings.url in serving.stdout.readline()
            shown = {pairing.HEADER: pairing.read(till.folder)}
            register, devices = settings.url, settings.devices_url
            assert requests.get(f"{register}/api/status", headers=shown, timeout=30).ok
            assert requests.get(f"{devices}/pin-pad", timeout=30).ok
            answer = requests.get(f"{devices}/api/status", headers=shown, timeout=30)
            assert answer.status_code == 404
            serving.send_signal(signal.SIGTERM)
            _, err = serving.communicate(timeout=60)
            assert serving.returncode == 0 and "127.0.0.2" in err and "Traceback" not in err
        finally:
            serving.kill()
            serving.communicate()
            end(made.server)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_card_from_the_device_needs_its_pin_too(shop: Rig) -> None:
    """What hands a code over decides nothing about it."""
    device = Device(shop)
    device.hand_over(print_card(shop.world.family()).scanned)
    assert offer_of_device(shop)["pin"]["state"] == "no_pad"
