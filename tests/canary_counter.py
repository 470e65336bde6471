"""Canaries at the counter's other doors: a PIN pad, a face or palm device, and codes that are no
care codes. Each public function is a surface of T-12 (tests/stories/test_t12_privacy.py)."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from urllib.parse import quote

from carepos import pin, token
from carepos.keys import SigningKey, b64, digest
from carepos.other_codes import look
from tests.canary_stage import AUDIENCE, ISSUER, PROGRAMME, Json, Stage
from tests.stories.offline_shop import OFFLINE

ID_NUMBER = next(
    n for n in (f"52263219751103421{d}" for d in "0123456789X") if look(n) == "id_number"
)
PIN, WRONG_PIN, NO_PIN = "73910264", "80417352", "金丝雀密码"
WRONG_SECRET = "金丝雀错密钥"
CARD = ("carepos:card",)
TOO_LATE_S = 3_600.0


# ── the PIN pad ────────────────────────────────────────────────────────────────────────────────


def pin_pad(stage: Stage) -> None:
    """A printed card and its PIN on the holder's side: right, wrong, too late, taken back, with
    another's secret, without a ledger, after a power cut, and until the card is locked."""
    card, other = (_card(stage, stage.subs[n], f"canary.pad~{n}") for n in (12, 13))
    stage.plant("pin", NO_PIN)
    stage.plant("wrong secret", WRONG_SECRET)
    assert stage.offer(card)[1]["pin"]["state"] == "no_pad"
    _connect_pad(stage)
    checkout, asked = stage.offer(card)
    for spoilt in (f"{PIN}9", f"{PIN}x", NO_PIN, [PIN], int(PIN), f" {PIN}", {PIN: PIN}):
        _enter(stage, spoilt)
    assert _enter(stage, WRONG_PIN)["state"] == "waiting"
    assert _enter(stage, PIN)["state"] == "proved"
    assert stage.redeem(checkout, stage.after_pin(checkout, asked))["state"] == "confirmed"
    for secret in ("", WRONG_SECRET, stage.token(stage.subs[12]), stage.pairing, stage.pad[:-1]):
        for action in ("state", "enter", "cancel", "pair"):
            stage.at_pad(action, {"request": PIN, "entry": 1, "pin": PIN}, secret=secret)
    for body in ({"pin": PIN, "code": card}, {"code": card}, {"request": card, "entry": PIN}):
        for action in ("state", "enter", "cancel", "pair"):
            stage.at_pad(action, body)
    _ended_otherwise(stage, card)
    stage.offer(_card(stage, stage.subs[13], "canary.pad~untold", told=False))
    assert _enter(stage, PIN)["state"] == "refused"
    stage.offer(other)
    for _ in range(5):
        _enter(stage, WRONG_PIN)
    stage.offer(other)
    assert _enter(stage, PIN)["state"] == "refused"


def _ended_otherwise(stage: Stage, card: str) -> None:
    checkout, asked = stage.offer(card)
    stage.at_pad("cancel", {"request": asked["pin"]["request"]})
    stage.after_pin(checkout, asked)
    checkout, asked = stage.offer(card)
    stage.forward(TOO_LATE_S)
    stage.at_pad("enter", {"request": asked["pin"]["request"], "entry": 1, "pin": PIN})
    stage.after_pin(checkout, asked)
    checkout, asked = stage.offer(card)
    stage.offer(card[:-4], checkout=checkout)
    stage.after_pin(checkout, asked)
    for trouble in (stage.without_ledger(), stage.without_table("pin_visits")):
        checkout, asked = stage.offer(card)
        with trouble:
            assert _enter(stage, PIN)["state"] == "failed"
            stage.after_pin(checkout, asked)
    stage.offer(card)
    stage.killed("plugin")
    stage.start_plugin()
    assert stage.at_pad("state")["state"] == "idle"
    stage.command("till", "pin-pad", "--folder", "till", "--forget")
    _connect_pad(stage)


def _connect_pad(stage: Stage) -> None:
    said = stage.command("till", "pin-pad", "--folder", "till")
    found = re.search(r"#([A-Za-z0-9_-]{22})\n", said)
    assert found is not None, said
    stage.plant("pad link", found[1])
    stage.at_pad("pair", {"code": f"{NO_PIN}{PIN}"})
    stage.pad = stage.plant("pad secret", stage.at_pad("pair", {"code": found[1]})["secret"])
    stage.at_pad("pair", {"code": found[1]})


def _enter(stage: Stage, number: object) -> Json:
    """Type it under what the pad shows, and press OK."""
    shown = stage.at_pad("state")
    body = {"request": shown["request"], "entry": shown["entry"], "pin": number}
    return stage.at_pad("enter", body)


def _card(stage: Stage, sub: str, jti: str, *, told: bool = True) -> str:
    """What a scanner reads from a card that the ledger was told of, as its issuer's file has it."""
    secret = stage.plant("card secret", b64(stage.issuer_key.sign(jti.encode()))[:22])
    proofs = [pin.proof(p, iss=ISSUER, jti=jti, card_secret=secret) for p in (PIN, WRONG_PIN)]
    for number, proof in zip((PIN, WRONG_PIN), proofs, strict=True):
        stage.plant("pin", number)
        stage.plant("pin proof", proof)
    if told:
        verifier = stage.plant("pin verifier", pin.verifier(proofs[0]))
        row = ",".join((ISSUER, digest(jti.encode()), sub, verifier))
        file = stage.folder / "office" / "input" / "cards.csv"
        file.write_text(f"iss,jti_sha256,sub,pin_verifier\n{row}\n", "utf-8")
        stage.command("ledger", "cards", "office/input/cards.csv", "--folder", "ledger")
    code = stage.token(sub, jti=jti, token_class="card", lifetime_s=86_400, amr=CARD)
    return f"CPC1*{secret}*{code}"


# ── a face or palm device ──────────────────────────────────────────────────────────────────────


def devices(stage: Stage) -> None:
    """What a device read is redeemed, comes too late, is another's, is no code, or comes from
    somebody who is no device."""
    assert stage.at_device(stage.token(stage.subs[14]))["code"] == "device_not_paired"
    for _ in range(2):
        stage.command("till", "device", "--folder", "till")
    stage.device = stage.plant_file("device secret", stage.till_folder / "device.secret")
    amr = ("face",)
    assert stage.at_device(stage.token(stage.subs[14], amr=amr))["held"]
    assert stage.sell(None)["state"] == "confirmed"
    assert stage.offer(None)[1]["code"] == "no_code_held"
    for secret in ("", WRONG_SECRET, stage.token(stage.subs[14]), stage.pairing, stage.pad):
        stage.at_device(stage.token(stage.subs[14]), secret=secret)
    late = datetime(2026, 1, 1, tzinfo=UTC)
    for held in (
        stage.token(stage.subs[14])[:-5],
        stage.token(stage.subs[14], issued_at=late),
        stage.token(stage.subs[14], iss="https://canary.example/face"),
        stage.plant("name", "金丝雀面容蒙"),
        *other_codes_of(stage),
    ):
        stage.at_device(held)
        stage.offer(None)
    for junk in ([PIN], {"face": "金丝雀面容蒙"}, 5, None, "", "金丝雀面容蒙" * 2_000):
        stage.at_device(junk)
    stage.at_device(stage.token(stage.subs[14]))
    stage.forward(TOO_LATE_S)
    stage.offer(None)
    stage.at_device(stage.token(stage.subs[14]))
    with stage.without_ledger():
        stage.offer(None)
    stage.at_device(stage.token(stage.subs[14]))
    stage.killed("plugin")
    stage.start_plugin()
    assert stage.offer(None)[1]["code"] == "no_code_held"


# ── other codes ────────────────────────────────────────────────────────────────────────────────


def other_codes(stage: Stage) -> None:
    """Whatever is held up is looked at, told what it is, and forgotten: at the register, with an
    integrator who shows all that the SDK says, and at the command line."""
    codes = [*other_codes_of(stage), stage.token(stage.subs[12], aud=f"{AUDIENCE}:self")]
    stage.start_counter()
    for code in codes:
        stage.offer(code)
        stage.at_counter(code=code)
        stage.at_counter(code=code, pin=PIN)
    stage.over("counter")
    for code in codes:
        text = f"{code}\n{PIN}\n"
        scanned = ("--folder", "card-till", "--pin-stdin")
        stage.command("till", "scan", *scanned, stdin=text, codes=(1, 2))


def other_codes_of(stage: Stage) -> list[str]:
    """What people hold up, and cashiers type, instead of a care code."""
    name, phone = stage.plant("name", "金丝雀码主莫"), stage.plant("phone", "13900882215")
    good = stage.token(stage.subs[12])
    stranger = token.mint(
        SigningKey.generate(),
        iss="https://canary.example/id",
        aud=AUDIENCE,
        sub=stage.plant("sub", "canary~of~another"),
        jti=stage.plant("jti", "canary.of.another"),
        issued_at=datetime.now(UTC),
        family_name=name,
    )
    claims = {"email": "canary.mo@county.example", "name": name, "phone_number": phone}
    about = json.dumps({"iss": "https://accounts.example", "sub": phone, **claims}).encode()
    foreign = (
        f"{b64(json.dumps({'alg': 'RS256', 'typ': 'JWT'}).encode())}.{b64(about)}.{b64(about)}"
    )
    stage.plant("claim", claims["email"])
    for part in (stranger.rpartition(".")[2], foreign.partition(".")[0]):
        stage.plant("token", part)
    activation = next(c.value for c in stage.canaries if c.kind == "activation code")
    secret = stage.plant("card secret", "canary_card_secret_0004"[:22])
    return [
        stage.plant("payment code", "134567809123456701"),
        stage.plant("payment code", "2812345678091234567"),
        stage.plant("id_number", ID_NUMBER),
        stage.plant("phone", phone),
        f"BEGIN:VCARD\nFN:{name}\nTEL:{phone}\nEND:VCARD",
        f"https://canary.example/pay?name={quote(name)}&phone={phone}&token={good}",
        f"weixin://wxpay/{name}/{phone}",
        activation.decode(),
        foreign,
        f"CPC1*{secret}*{foreign}",
        stranger,
        f"{stranger}~{good}",
        good.swapcase(),
        good.replace("e", "ｅ"),
        f"\x1b[31m{name}\x00{phone}",
        name * 2_000,
    ]


# ── without a network ──────────────────────────────────────────────────────────────────────────


def without_a_network(stage: Stage) -> None:
    """An outage played and one that comes: drills with codes of every kind and a card's PIN, sales
    and what waits of them, giving back; what a person looks at afterwards."""
    stage.forward(TOO_LATE_S)  # nobody stands at the pad
    _connect_pad(stage)
    address = f"/programmes/{PROGRAMME}"
    told = stage.operate("GET", address)
    rules = {name: told[name] for name in told.keys() - {"programme", "rules_version", "stores"}}
    stage.operate("PUT", address, {**rules, "offline": OFFLINE})
    for n in (12, 14):  # their home is this shop
        assert stage.sell(stage.token(stage.subs[n]))["state"] == "confirmed"
    card = _card(stage, stage.subs[12], "canary.offline~card")
    stage.register("POST", "/api/settle", {})  # brings a pack with them
    good, other = (stage.token(stage.subs[n]) for n in (14, 12))
    played = stage.register("POST", "/api/drill", {"code": good, "print": True})
    assert played["passed"], played
    codes = [card, stage.token(stage.subs[1]), good[:-4], *other_codes_of(stage)]
    for code in codes:
        assert not stage.register("POST", "/api/drill", {"code": code}).get("passed")
        stage.register("POST", "/api/allotments/return", {"code": code})
    for spoilt in ({"code": good, "pin": PIN}, {"code": [good]}, {"print": good}, {"code": None}):
        stage.register("POST", "/api/drill", spoilt)
        stage.register("POST", "/api/allotments/return", spoilt)
    with stage.without_ledger():
        assert stage.sell(good)["state"] == "accepted"
        checkout, asked = stage.offer(card)
        assert _enter(stage, WRONG_PIN)["state"] == "waiting"
        assert _enter(stage, PIN)["state"] == "proved"
        assert stage.redeem(checkout, stage.after_pin(checkout, asked))["state"] == "accepted"
        for code in codes:
            stage.sell(code)
        stage.register("POST", "/api/drill", {"code": other, "print": True})
        stage.register("POST", "/api/allotments/return", {"code": other})
        stage.over("plugin")
        _at_the_command_line(stage, card, codes)
        stage.start_plugin()
        assert stage.register("GET", "/api/status")["stored"][0]["count"] == 2
        stage.register("GET", "/api/exceptions")
    assert stage.register("POST", "/api/settle", {})["stored"] == []
    stage.operate("PUT", address, rules)
    stage.register("POST", "/api/settle", {})


def _at_the_command_line(stage: Stage, card: str, codes: list[str]) -> None:
    folder = ("--folder", "till")
    for code in codes:
        stage.command("till", "drill", "--code-stdin", *folder, stdin=f"{code}\n", codes=(1, 2))
    with_pin = ("--print", "--code-stdin", "--pin-stdin", *folder)
    for number in (WRONG_PIN, NO_PIN, PIN):
        stage.command("till", "drill", *with_pin, stdin=f"{card}\n{number}\n", codes=(0, 1))
    stage.command("till", "status", *folder)
    stage.command("till", "status", "--json", *folder)
    stage.command("till", "exceptions", "--json", *folder)
