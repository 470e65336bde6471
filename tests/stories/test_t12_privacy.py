"""T-12: nobody's name, phone, ID number, token or secret is where it has no business (INV-10).

A canary is planted in every personal field and every secret; then a county's list is issued and
people shop, with refusals, malformed requests at every address, a broken database, a full disk and
power cuts. What is left on the disks, in logs (all of them at DEBUG, Python in development mode),
on paper, on the wire and in /proc is searched, in clear and in every usual encoding.

What may be where stands in `ALLOWED`, each with its reason, and an exception that nothing needs
fails the test too. Another part of the system is one more function in `SURFACES`;
those of the counter's devices, the beneficiary's pages, keys and issuers are in `tests/canary_*`.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import requests
from flask import Flask

from carepos import pin, token
from carepos.keys import SigningKey, b64, digest
from carepos.till import POINTS as TILL_POINTS
from carepos_ledger import openapi
from carepos_ledger.book import POINTS as LEDGER_POINTS
from carepos_ledger.keyring import Keyring
from carepos_plugin import device_routes, office_routes, pin_pad_routes
from carepos_plugin.print_queue import POINTS as PRINT_POINTS
from carepos_plugin.registers import local_json
from tests.canaries import Allowed, Canary, Place, search, spellings, unused
from tests.canary_counter import (
    CARD,
    NO_PIN,
    PIN,
    WRONG_PIN,
    devices,
    other_codes,
    pin_pad,
    without_a_network,
)
from tests.canary_holder import own_pages
from tests.canary_issuers import issuer_kit, sample_issuer
from tests.canary_keys import a_tills_key, issuers_and_cards, the_ledgers_key
from tests.canary_stage import (
    AUDIENCE,
    CASHIER,
    ISSUER,
    MILK,
    PROGRAMME,
    SOAP,
    Parent,
    Stage,
    listening,
)
from tests.canary_stopped_till import a_sale_to_a_code_that_was_over, a_stopped_till

ALLOWED = [
    # who is behind a `sub`
    Allowed("sub", "office/enrolment.csv", "for the issuer, 0600, deleted once it is handed over"),
    Allowed("sub", "table beneficiaries", "the one map from a person to vouchers; `erase` cuts it"),
    Allowed("sub", "ledger.db*", "the file of that table, 0600"),
    Allowed("sub", "output carepos ledger export-person", "told to the person it is about"),
    Allowed("erased sub", "output carepos ledger export-person", "told before it was erased"),
    Allowed("sub", "answer operator, malformed", "the feed of uses names who is to be told"),
    Allowed("sub", "answer operator /uses*", "the feed: an issuer's app tells whom it is about"),
    Allowed("sub", "answer operator /disputes*", "an operator answers the issuer's person"),
    Allowed("erased sub", "answer operator /uses*", "the same, before it was erased"),
    Allowed("erased sub", "answer operator, malformed", "the same, before it was erased"),
    Allowed("erased sub", "office/enrolment.csv", "the issuer's copy, not the ledger's to erase"),
    Allowed("erased sub", "wire till to ledger", "the tokens with which they had shopped"),
    # what a till hands to the ledger, and to nobody else; behind TLS outside one machine
    Allowed("sub", "wire till to ledger", "in the token, which only the ledger is shown"),
    Allowed("jti", "wire till to ledger", "in the token"),
    Allowed("claim", "wire till to ledger", "an issuer's slip; nothing keeps it"),
    Allowed("actor", "wire till to ledger", "in the token"),
    Allowed("nonce", "wire till to ledger", "in the presentation"),
    Allowed("token", "wire till to ledger", "a redemption travels with its token"),
    Allowed("pin proof", "wire till to ledger", "the ledger counts tries"),
    # an issuer, who knows its people, and what they are handed
    Allowed("sub", "issuer/links.csv", "which account is which beneficiary, 0600"),
    Allowed("sub", "answer phone GET /callback", "in the cookie of the person themself"),
    Allowed("sub", "answer app POST /v1/care-codes", "in the person's own care code"),
    Allowed("jti", "answer app POST /v1/care-codes", "the same"),
    Allowed("token", "answer app POST /v1/care-codes", "the same"),
    Allowed("sub", "output carepos token mint", "the code that was asked for"),
    Allowed("jti", "output carepos token mint", "the same"),
    Allowed("token", "output carepos token mint", "the same"),
    Allowed("actor", "output carepos token mint", "the same"),
    Allowed("card secret", "output carepos token mint", "the same: it is the card"),
    Allowed("pin verifier", "output carepos token mint", "the line for the ledger"),
    Allowed("sub", "output carepos token present", "the credential that was put in"),
    Allowed("jti", "output carepos token present", "the same"),
    Allowed("token", "output carepos token present", "the same"),
    Allowed("sub", "words carepos token mint", "a random name, typed by who tries the kit"),
    Allowed("actor", "words carepos token mint", "the same"),
    Allowed("sub", "words carepos ledger card", "a random name; files of cards have it inside"),
    Allowed("sign-in", "answer phone GET /login", "OpenID Connect sends it by way of the browser"),
    Allowed("sign-in", "answer phone GET /authorize", "the same, back"),
    Allowed("sign-in", "answer app POST /v1/nonces", "the app signs in with it"),
    # a shop's own pseudonym of a family
    Allowed("beneficiary_ref", "till/journal.db*", "in the signed chain; the till's own, 0600"),
    Allowed("beneficiary_ref", "card-till/journal.db*", "the same"),
    Allowed("beneficiary_ref", "stopped-till/journal.db*", "the same"),
    Allowed("beneficiary_ref", "table held_records", "the signed record, until it is decided"),
    Allowed("beneficiary_ref", "table record_bytes", "the signed record, for the dispute period"),
    Allowed("beneficiary_ref", "ledger.db*", "the file of that table"),
    Allowed("beneficiary_ref", "wire *", "record and lookup name the holder to this merchant"),
    Allowed("beneficiary_ref", "log counter", "repr() of what the SDK gives its integrator"),
    # whoever stood at the register
    Allowed("cashier", "till/journal.db*", "in the signed record and on the slip"),
    Allowed("cashier", "stopped-till/journal.db*", "the same"),
    Allowed("cashier", "table held_records", "the signed record, until it is decided"),
    Allowed("cashier", "output carepos ledger held", "whom to ask in the shop; a label, no name"),
    Allowed("cashier", "till/receipts/*", "a receipt names its cashier"),
    Allowed("cashier", "answer register *", "the receipt's text"),
    Allowed("cashier", "table record_bytes", "the signed record, for the dispute period"),
    Allowed("cashier", "ledger.db*", "the file of that table"),
    Allowed("cashier", "wire till to ledger", "in the signed record"),
    # secrets, where they live
    Allowed("pin verifier", "table cards", "proves a PIN to whoever holds the card, not the PIN"),
    Allowed("pin verifier", "ledger.db*", "the file of that table"),
    Allowed("ledger key", "ledger/*.key", "0600"),
    Allowed("pseudonym key", "ledger/pseudonym.secret", "0600"),
    Allowed("operator secret", "ledger/operator.secret", "0600"),
    Allowed("till key", "*/terminal.key", "0600"),
    Allowed("pairing secret", "till/pairing.secret", "0600"),
    Allowed("issuer key", "issuer/*.key", "0600"),
    Allowed("links secret", "issuer/links.secret", "0600"),
    Allowed("client secret", "issuer/client.secret", "0600"),
    Allowed("holder key", "phone/phone.key", "a phone keeps it in its key store"),
    Allowed("session", "answer phone GET /callback", "the cookie of whoever signed in"),
    Allowed("session", "answer holder POST /me", "the cookie of whoever signed in, 15 minutes"),
    Allowed("form token", "answer holder * /me/*", "in the forms of that session's own pages"),
    Allowed("pad link", "output carepos till pin-pad", "to be opened on the pad, once"),
    Allowed("pad secret", "answer pad /pin-pad/pair", "the pad keeps it; the till its digest"),
    Allowed("device secret", "till/device.secret", "0600"),
    Allowed("import key", "office/import.key", "0600"),
    Allowed("database password", "ledger/ledger.toml", "0600"),
    Allowed("activation code", "answer operator /activations", "shown to whoever asked, once"),
    Allowed("activation code", "wire till to ledger", "how a till enrols"),
    Allowed("poison", "table vouchers", "planted there by hand"),
    Allowed("poison", "ledger.db*", "the file of that table"),
]

HEADER = "序号,村,户主姓名,身份证号码,联系电话,家庭人口,券种,金额（元）,备注"
MAPPING = """\
checks = ["amount = 60 * people"]
[columns]
id_number = "身份证号码"
amount = "金额（元）"
people = "家庭人口"
note = "备注"
[only]
"券种" = "奶制品卡"
[voucher]
kind = "value"
label = "奶制品卡"
categories = []
"""
RULES = {
    "name": "奶制品援助",
    "currency": "CNY",
    "starts_at": "2026-01-01T00:00:00.000Z",
    "ends_at": "2036-01-01T00:00:00.000Z",
    "paused": False,
    "product_list": "relief",
    "issuer": ISSUER,
    "classes": ["card", "once"],
    "amr_any": [],
    "limit_per_redemption_minor": None,
    "top_up_allowed": True,
    "undo_window_s": 3600,
    "quotas": [],
    "acting": {
        "proxy": True,
        "witness": False,
        "household_minor": 1_000,
        "actor_minor": 100_000,
        "window_s": 86_400,
    },
}


# ── what happens ───────────────────────────────────────────────────────────────────────────────


def found_and_issue(stage: Stage) -> None:
    """The office: a ledger, a programme, a list with names as it comes, good rows and bad ones."""
    stage.command(
        "ledger", "init", "--folder", "ledger", "--port", str(stage.ledger_port),
        "--database", "-", stdin=stage.database_url + "\n",
    )  # fmt: skip
    stage.operator = stage.plant_file("operator secret", stage.ledger_folder / "operator.secret")
    for name in ("root.key", "signing.key"):
        stage.plant_file("ledger key", stage.ledger_folder / name)
    stage.plant_file("pseudonym key", stage.ledger_folder / "pseudonym.secret")
    stage.start_ledger()
    operate = stage.operate
    operate("PUT", "/issuers", {"iss": ISSUER, "keys": [stage.issuer_key.public.to_jwk()]})
    operate("PUT", "/product-lists/relief", {"version": 1, "entries": {MILK: "dairy"}})
    operate("PUT", f"/programmes/{PROGRAMME}", RULES)
    operate("PUT", "/funders/red-cross", {"name": "红十字会"})
    operate(
        "POST",
        f"/programmes/{PROGRAMME}/funds",
        {"funder": "red-cross", "amount_minor": 10_000_000, "reference": "grant-1"},
    )
    operate("PUT", "/merchants/zhou", {"name": "周家超市"})
    for store in ("zhou-shop", "zhou-far"):
        operate("PUT", f"/stores/{store}", {"merchant": "zhou", "name": "古州店"})
        operate("PUT", f"/programmes/{PROGRAMME}/stores/{store}")
    _issue(stage)


def _issue(stage: Stage) -> None:
    inputs = stage.folder / "office" / "input"
    inputs.mkdir()
    (inputs / "mapping.toml").write_text(MAPPING, "utf-8")
    rows = [_row(stage, n) for n in range(1, 17)]
    bad = [
        [*_row(stage, 20)[:3], "金丝雀不是号码", *_row(stage, 20)[4:]],
        [*_row(stage, 21)[:7], rows[0][3], ""],
        [*_row(stage, 22)[:7], "360元整金丝雀", "代领"],
        [*_row(stage, 23)[:3], "5.22632E+17", *_row(stage, 23)[4:]],
        ['=HYPERLINK("金丝雀")', *_row(stage, 24)[1:]],
        [*_row(stage, 25), "多一列金丝雀"],
        ["合计", "", "制表人：金丝雀陆", "", "13877000999", "", "", "4320", ""],
    ]
    stage.plant("name", "金丝雀不是号码")
    stage.plant("name", "金丝雀陆")
    stage.plant("phone", "13877000999")
    lines = ["县名册（定稿）,,,,,,,,", HEADER, *(",".join(row) for row in rows + bad)]
    text = "\n".join(lines) + "\n"
    (inputs / "list.csv").write_bytes(text.encode("gb18030"))
    (inputs / "broken.csv").write_bytes(text.encode("gb18030")[:-9] + b"\x81\xff\n")
    (inputs / "no-header.csv").write_bytes(text.replace("身份证号码", "证件").encode("gb18030"))
    short = stage.issuer_key.sign(b"anything")[:31]
    stage.plant("import key", short)
    (inputs / "short.key").write_bytes(short)
    words = (
        "ledger", "issue", "office/input/list.csv", "--mapping", "office/input/mapping.toml",
        "--folder", "ledger", "--programme", PROGRAMME, "--enrolment", "office/enrolment.csv",
    )  # fmt: skip
    stage.command(*words, "--import-key", "office/import.key", "--dry-run", codes=(1,))
    stage.command(*words, "--import-key", "office/import.key")
    stage.plant_file("import key", stage.folder / "office" / "import.key")
    (inputs / "short.key").chmod(0o600)
    stage.command(*words, "--import-key", "office/input/short.key", codes=(2,))
    for name in ("broken", "no-header"):
        changed = [word.replace("list.csv", f"{name}.csv") for word in words]
        stage.command(*changed, "--import-key", "office/import.key", codes=(1, 2))
    with (stage.folder / "office" / "enrolment.csv").open(encoding="utf-8", newline="") as file:
        stage.subs = [row["sub"] for row in csv.DictReader(file)]
    assert len(stage.subs) == 16
    keyring = Keyring.load(stage.ledger_folder)
    for sub in stage.subs:
        stage.plant("sub", sub)
        stage.plant("beneficiary_ref", keyring.beneficiary_ref("zhou", ISSUER, sub))


def _row(stage: Stage, n: int) -> list[str]:
    """What all rows have in common is what is looked for."""
    return [
        str(n),
        stage.plant("village", "金丝雀村") + str(n),
        stage.plant("name", "金丝雀王莺") + str(n),
        stage.plant("id_number", "5226321988022") + f"{n:02d}317",
        stage.plant("phone", "138771234") + f"{n:02d}",
        "2",
        "奶制品卡",
        "120",
        stage.plant("note", "代领:金丝雀侄") + str(n),
    ]


def open_the_shop(stage: Stage) -> None:
    """Two tills: one with its plugin, one that an integrator drives."""
    for folder, store in (("till", "zhou-shop"), ("card-till", "zhou-far")):
        body = {"store": store, "valid_s": 3600}
        code = stage.operate("POST", "/activations", body)["activation"]
        stage.plant("activation code", code)
        url = f"http://127.0.0.1:{stage.wire.port}"
        wrong = code[:-1] + ("A" if code[-1] != "A" else "B")
        for given, codes in ((wrong, (2,)), (code, (0,))):
            stage.command(
                "till", "enrol", "--url", url, "--folder", folder, "--code", "-",
                stdin=given + "\n", codes=codes,
            )  # fmt: skip
        stage.plant_file("till key", stage.folder / folder / "terminal.key")
    stage.pairing = stage.plant_file("pairing secret", stage.till_folder / "pairing.secret")
    settings = stage.till_folder / "plugin.toml"
    text = settings.read_text("utf-8")
    text = text.replace("port = 8450", f"port = {stage.plugin_port}")
    settings.write_text(text.replace('printer = "none"', 'printer = "file:receipts"'), "utf-8")
    stage.start_plugin()


def shop(stage: Stage) -> None:
    """Sales that are redeemed, refused before and after they were sent, and shown again."""
    stage.plant("cashier", CASHIER)
    sold = stage.sell(stage.token(stage.subs[0]))
    assert sold["state"] == "confirmed", sold
    number = sold["receipt_no"]
    for method, path in (("GET", ""), ("POST", "/print")):
        stage.register(method, f"/api/receipts/{number}{path}", {} if method == "POST" else None)
    stage.register("GET", "/api/checkouts/S1-000001")
    stage.offer(stage.token(stage.subs[1]), key=SOAP)
    stage.offer(stage.token(stage.subs[1]), programme="another")
    stage.sell(stage.token(stage.subs[0], jti=stage.plant("jti", "canary.jti~again")))
    spoilt: tuple[dict[str, Any], ...] = (
        {"issued_at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"issued_at": datetime(2035, 1, 1, tzinfo=UTC)},
        {"iss": "https://canary.example/issuer"},
        {"aud": "urn:canary:other-audience"},
        {"sub": "canary~sub~that~nobody~has"},
        {"sub": "名字金丝雀"},
        {"token_class": "card", "lifetime_s": 10**9},
        {"act": {"sub": "canary~no~reason"}},
    )
    for changes in spoilt:
        stage.plant("sub", str(changes.get("sub", stage.subs[1])))
        stage.offer(stage.token(**{"sub": stage.subs[1], **changes}))
    for spoiled in _cut_and_stretched(stage.token(stage.subs[2])):
        stage.offer(spoiled)


def _cut_and_stretched(good: str) -> list[str]:
    """What scanners make of a code, and what people make up."""
    return [
        good[:-2], good + ".", good.replace(".", "..", 1), good[5:], f"{good}~x", "名" + good,
        f"CPC1*{good}", good + "A" * 3_000, good + "A" * 1_500, good.replace(".", ".eyJ", 1),
    ]  # fmt: skip


def act_for_others(stage: Stage) -> None:
    """A proxy who is served, one whose limit is reached, a witness who is not allowed."""
    actor = stage.plant("actor", "canary~actor~0001")
    acting = {"act": {"iss": ISSUER, "sub": actor}, "care_reason": "frail"}
    assert stage.sell(stage.token(stage.subs[3], **acting))["state"] == "confirmed"
    stage.sell(stage.token(stage.subs[3], **acting))
    witness = ("face", "carepos:witness")
    stage.sell(stage.token(stage.subs[3], **acting, amr=witness))


def wallets(stage: Stage) -> None:
    """A card in a phone: fresh presentations, one of another holder, one cut off."""
    holder, stranger = SigningKey.generate(), SigningKey.generate()
    stage.plant("holder key", holder.private_key().private_bytes_raw())
    jwk = {name: value for name, value in holder.public.to_jwk().items() if name != "kid"}
    stage.plant("nonce", "canary-nonce-")
    card = stage.token(
        stage.subs[4], token_class="card", lifetime_s=86_400, cnf={"jwk": jwk}, amr=CARD
    )
    for n, (key, expected) in enumerate(((holder, "confirmed"), (stranger, None))):
        nonce = f"canary-nonce-00000{n}"
        shown = token.present(card, key, aud=AUDIENCE, nonce=nonce, at=datetime.now(UTC))
        assert stage.sell(shown).get("state") == expected
        stage.offer(shown[:-5])
    stage.offer(card)


def cards_and_pins(stage: Stage) -> None:
    """A printed card at a till of an integrator who logs `repr()` of everything."""
    secret = stage.plant("card secret", b64(stage.issuer_key.sign(b"card"))[:22])
    jti = stage.plant("jti", "canary.card~0001")
    proofs = {p: pin.proof(p, iss=ISSUER, jti=jti, card_secret=secret) for p in (PIN, WRONG_PIN)}
    # The second card stays; the holder of the first is erased in the end, and so is its verifier.
    kept = pin.verifier(pin.proof(PIN, iss=ISSUER, jti="canary.card~2", card_secret=secret))
    for sub, name, verifier in (
        (stage.subs[5], jti, stage.plant("erased pin verifier", pin.verifier(proofs[PIN]))),
        (stage.subs[6], "canary.card~2", stage.plant("pin verifier", kept)),
    ):
        stage.sql(
            f"INSERT INTO cards SELECT bucket, iss, '{digest(name.encode())}', beneficiary, "
            f"'{verifier}', 0 FROM beneficiaries WHERE sub = '{sub}'"
        )
    for number, proof in proofs.items():
        stage.plant("pin", number)
        stage.plant("pin proof", proof)
    stage.start_counter()
    card = stage.token(stage.subs[5], jti=jti, token_class="card", lifetime_s=86_400, amr=CARD)
    code, wish = f"CPC1*{secret}*{card}", {"key": MILK}
    stage.at_counter(code=code)
    stage.at_counter(code=code, pin=stage.plant("pin", NO_PIN))
    stage.at_counter(code=card, pin=PIN)
    stage.at_counter(code=code, pin=PIN, checkout="C-1", **wish)
    stage.at_counter(code=stage.token(stage.subs[6]), checkout="C-2", **wish)
    stage.at_counter(code=stage.token(stage.subs[6])[:-3], **wish)
    stage.at_counter(code=stage.token(stage.subs[6]), checkout="C-2", **wish)
    for _ in range(6):
        stage.at_counter(code=code, pin=WRONG_PIN)
    for spoiled in _cut_and_stretched(stage.token(stage.subs[6])):
        stage.at_counter(code=spoiled)
    stage.sql("ALTER TABLE terminals RENAME TO away")
    stage.at_counter(code=stage.token(stage.subs[6]), checkout="C-3", **wish)
    stage.sql("ALTER TABLE away RENAME TO terminals")
    stage.over("counter")


def malformed(stage: Stage) -> None:
    """Every address of the ledger and of the plugin, with canaries where they do not belong."""
    ledger = [
        (method.upper(), path)
        for path, operations in openapi.document()["paths"].items()
        for method in operations
        if method != "parameters"
    ]
    app = Flask("addresses")
    nothing = cast(Any, None)
    app.register_blueprint(local_json.blueprint(nothing))
    app.register_blueprint(office_routes.blueprint(nothing, nothing, nothing, nothing))
    app.register_blueprint(pin_pad_routes.register_side(nothing))
    app.register_blueprint(pin_pad_routes.PAGE.register_side(nothing, ""))
    app.register_blueprint(pin_pad_routes.blueprint(nothing, nothing))
    app.register_blueprint(device_routes.blueprint(nothing))
    plugin = [
        (method, re.sub(r"<(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        if rule.endpoint != "static"
    ]
    # The register last: it may take the pad away from its till.
    for port, who, addresses, prefix, shown in (
        (stage.ledger_port, "operator", ledger, "/", f"Authorization: Bearer {stage.operator}"),
        (stage.plugin_port, "pad", plugin, "/pin-pad", f"X-CarePOS-Pin-Pad: {stage.pad}"),
        (stage.plugin_port, "device", plugin, "/device", f"X-CarePOS-Device: {stage.device}"),
        (stage.plugin_port, "register", plugin, "/api", f"X-CarePOS-Pairing: {stage.pairing}"),
    ):
        for method, path in (each for each in addresses if each[1].startswith(prefix)):
            for request in _spoiled(stage, method, path, shown):
                answer = stage.raw(port, request, f"{who}, malformed")
                assert b" 500" not in answer[:13], request[:200]


def _spoiled(stage: Stage, method: str, path: str, shown: str) -> Iterator[bytes]:
    code = stage.token(stage.subs[7])
    name, number, phone = "金丝雀王莺1", "522632198802201317", "13877123401"
    there = re.sub(r"\{\w+\}", "x", path)
    elsewhere = re.sub(r"\{\w+\}", quote(name), path)
    wrong = f"Authorization: Bearer {code}"

    def request(target: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
        lines = [
            f"{method} {target} HTTP/1.1",
            "Host: 127.0.0.1",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(body) if length is None else length}",
            *headers,
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    yield request(elsewhere, b"", shown)
    yield request(f"{there}?{quote(name)}={code[:200]}&after={number}", b"", shown)
    yield request(re.sub(r"\{\w+\}", code, path), b"", wrong)
    yield request(there, b"", f"X-Canary: {phone}", f"Cookie: session={code}", wrong)
    bodies: list[Any] = [
        code, [code], {code: name}, {number: code}, {"token": code, name: number},
        {"token": [code]}, {"code": {"code": code}, "checkout": number, "lines": [name]},
        {"items": [{"record": code, "token": code}, {"record": {code: 1}}, {number: code}]},
        {"checkout": number, "code": code, "lines": [{"key": number, phone: name}]},
        {"offer": code, "checkout": name, "cashier": phone},
        {"iss": code, "keys": [{"kty": name, code: number}]}, {"name": [name], "merchant": number},
        {"import_key_id": number, "rows": [{"ref": number, "kind": name, number: name}]},
        {"activation": code, "public_key": {name: code}, "proof": code},
    ]  # fmt: skip
    for body in bodies:
        yield request(there, json.dumps(body, ensure_ascii=False).encode(), shown)
    yield request(there, f'{{"token": "{code}'.encode(), shown)
    yield request(there, f'{{"token": "{code}", "token": "{code}"}}'.encode(), shown)
    yield request(there, f'{{"{name}": NaN, "{number}": 1e9}}'.encode("gb18030"), shown)
    yield request(there, json.dumps({"token": code}).encode(), shown, length=5_000)
    yield f"{method} {there} {code} {number}\r\nHost: {code}\r\n{phone} {name}\r\n\r\n".encode()


def a_broken_database(stage: Stage) -> None:
    """Tables that are gone, rows that hold nonsense: 500s, whose reasons stay inside."""
    poison = stage.plant("poison", '{"金丝雀毒": nonsense}')
    # Behind the ledger's back: what a bad restore or another program may leave.
    stage.sql(
        f"UPDATE vouchers SET categories = '{poison}' WHERE beneficiary IN "
        f"(SELECT beneficiary FROM beneficiaries WHERE sub = '{stage.subs[8]}')"
    )
    assert stage.offer(stage.token(stage.subs[8]))[1]["status"] == 503
    for table in ("visits", "beneficiaries", "record_bytes"):
        code = stage.token(stage.subs[9])
        checkout, offer = stage.offer(code) if table == "record_bytes" else ("", {})
        with stage.without_table(table):
            if offer:
                assert stage.redeem(checkout, offer)["state"] == "unknown"
            else:
                assert stage.offer(code)[1]["status"] == 503
        if offer:
            stage.register("POST", f"/api/checkouts/{checkout}/retry", {})
    with stage.refusing_rows("visits", "first_at"):
        assert stage.offer(stage.token(stage.subs[9]))[1]["status"] == 503
    secret = f"Authorization: Bearer {stage.operator}"
    request = f"GET /v1/operators/terminals HTTP/1.0\r\n{secret}\r\n\r\n".encode()
    with stage.without_table("operators"):
        assert b" 500 " in stage.raw(stage.ledger_port, request, "operator, 500")


def a_full_disk(stage: Stage) -> None:
    """Neither ledger nor till can write; the till must be restarted then."""
    if stage.on_sqlite:
        with stage.full_disk("ledger"):
            stage.sell(stage.token(stage.subs[10]))
    checkout, offer = stage.offer(stage.token(stage.subs[10]))
    with stage.full_disk("plugin"):
        assert stage.redeem(checkout, offer)["status"] == 503
        stage.register("GET", "/api/status")
    stage.over("plugin")
    stage.start_plugin()
    assert stage.sell(stage.token(stage.subs[10]))["state"] == "confirmed"


def power_cuts(stage: Stage) -> None:
    """SIGKILL at the named points, of the ledger and of the till; then what a person does."""
    for point in LEDGER_POINTS:
        checkout, offer = stage.offer(stage.token(stage.subs[11]))
        stage.ledger_plug.pull_at(point)
        assert stage.redeem(checkout, offer)["state"] == "unknown"
        stage.died("ledger")
        stage.start_ledger()
        stage.register("POST", f"/api/checkouts/{checkout}/retry", {})
    for point in (*TILL_POINTS, *PRINT_POINTS) if stage.on_sqlite else ():  # it is the same till
        checkout, offer = stage.offer(stage.token(stage.subs[11]))
        stage.till_plug.pull_at(point)
        # Dead before, within or after the answer: a slip is printed while it is on its way.
        with contextlib.suppress(requests.RequestException):
            stage.redeem(checkout, offer)
        stage.died("plugin")
        stage.start_plugin()
        stage.register("POST", "/api/settle", {})


def the_days_end(stage: Stage) -> None:
    """Z, batches, files, reconciliation, and the commands that look."""
    stage.command("till", "status", "--folder", "till")
    stage.command("till", "verify", "--folder", "till")
    stage.command("till", "close-day", "--folder", "till")
    stage.command("ledger", "close", "--folder", "ledger")
    stage.command("settlement", "fetch", "--till", "till", "--to", "settlements")
    stage.command("reconcile", "--till", "till", "--settlements", "settlements", codes=(0, 1))
    stage.command("ledger", "status", PROGRAMME, "--folder", "ledger", codes=(0, 1))
    stage.command("ledger", "alarms", "--folder", "ledger", codes=(0, 1))


def erase_and_retain(stage: Stage) -> None:
    """What an operator is asked for by a family: an export, then to be forgotten."""
    by_sub = ("--iss", ISSUER, "--sub-stdin", "--folder", "ledger")
    by_row = (
        "--list", "office/input/list.csv", "--mapping", "office/input/mapping.toml",
        "--programme", PROGRAMME, "--import-key", "office/import.key", "--folder", "ledger",
    )  # fmt: skip
    told = stage.command("ledger", "export-person", *by_sub, stdin=stage.subs[0])
    assert '"history"' in told
    code = stage.token(stage.subs[1])
    stage.command("ledger", "export-person", "--token-stdin", "--folder", "ledger", stdin=code)
    stage.command("ledger", "export-person", *by_row, "--line", "6")
    stage.command("ledger", "home", "zhou-far", *by_sub, stdin=stage.subs[0])
    stage.command("ledger", "home", "zhou-far", *by_row)
    stage.command("ledger", "home", "no-shop", *by_row, "--line", "6", codes=(1,))
    homes = "".join(f"{ISSUER},{sub},\n" for sub in (*stage.subs[:3], "canary~stranger"))
    (stage.folder / "homes.csv").write_text(f"iss,sub,store\n{homes}", "utf-8")
    stage.command("ledger", "home", "--file", "homes.csv", "--folder", "ledger", codes=(1,))
    (stage.folder / "homes.csv").unlink()
    stage.command("ledger", "erase", *by_sub, "--yes", stdin=stage.subs[0], codes=(1,))
    stage.command("ledger", "erase", *by_sub, "--forfeit", stdin=stage.subs[0], codes=(1,))
    stage.command("ledger", "erase", *by_sub, "--forfeit", "--yes", stdin=stage.subs[0])
    # Somebody went for the one, the other has a card.
    stage.command("ledger", "erase", *by_row, "--line", "6", "--forfeit", "--yes")
    stage.command("ledger", "erase", *by_sub, "--forfeit", "--yes", stdin=stage.subs[5])
    stage.command("ledger", "erase", *by_sub, "--yes", stdin="canary~stranger", codes=(1,))
    stage.command("ledger", "erase", "--token-stdin", "--folder", "ledger", stdin="名", codes=(2,))
    stage.command("ledger", "retain", "--folder", "ledger")
    stage.command("till", "retain", "--folder", "till")
    # The erased are looked for once more, and now nowhere but with their issuer and themselves.
    for sub in (stage.subs[0], stage.subs[3], stage.subs[5]):
        stage.canaries.discard(Canary("sub", sub.encode()))
        stage.plant("erased sub", sub)


SURFACES: list[Callable[[Stage], None]] = [
    found_and_issue,
    open_the_shop,
    shop,
    act_for_others,
    wallets,
    cards_and_pins,
    pin_pad,
    devices,
    other_codes,
    own_pages,
    malformed,
    a_broken_database,
    a_full_disk,
    power_cuts,
    a_tills_key,
    the_ledgers_key,
    issuers_and_cards,
    issuer_kit,
    sample_issuer,
    without_a_network,
    the_days_end,
    a_stopped_till,
    a_sale_to_a_code_that_was_over,
    erase_and_retain,
]


@pytest.fixture(scope="module")
def parent() -> Iterator[Parent]:
    made = Parent()
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, parent: Parent, tmp_path: Path) -> Iterator[Stage]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'stage' / 'ledger.db'}"
        yield Stage(parent, tmp_path / "stage", url)
        return
    with request.getfixturevalue("postgres_cluster").fresh_database() as url:
        yield Stage(parent, tmp_path / "stage", url)


def test_nothing_of_anybody_is_where_it_has_no_business(stage: Stage) -> None:
    """INV-10, T-12: whatever goes wrong, no name, number, phone, token or secret gets anywhere but
    where it has to be, and that is written down with its reason."""
    with listening(stage.wire):
        try:
            for surface in SURFACES:
                surface(stage)
        finally:
            stage.close()
    places = stage.places()
    hits = search(stage.canaries, places, ALLOWED)
    assert not hits, "\n".join(
        f"{hit.kind} ({hit.spelling}) at {hit.place}: {hit.around!r}" for hit in hits[:40]
    )
    elsewhere = "database password" if stage.on_sqlite else "ledger.db*"
    idle = [
        each
        for each in unused(stage.canaries, places, ALLOWED)
        if elsewhere not in (each.kind, each.place)
    ]
    assert not idle, "exceptions that nothing needs would hide a leak to come"


def test_the_search_reads_every_spelling() -> None:
    """What is hidden in another encoding, at any offset of its group, is found; what merely looks
    like it is not."""
    value = "金丝雀王莺".encode()
    for name, spelled in spellings(value):
        [hit] = search([Canary("name", value)], [Place("log", b"x" + spelled + b"y")], [])
        assert hit.kind == "name", name
    for offset in range(3):
        hidden = base64.urlsafe_b64encode(b"z" * offset + value + b"tail").rstrip(b"=")
        assert search([Canary("name", value)], [Place("log", hidden)], [])
        assert search([Canary("name", value)], [Place("log", hidden.hex().encode())], []) == []
    assert search([Canary("name", value)], [Place("log", "金丝雀王".encode())], []) == []
    allowed = [Allowed("na*", "table *", "it is there on purpose")]
    assert search([Canary("name", value)], [Place("table x", value)], allowed) == []
    assert len(search([Canary("name", value)], [Place("log", value)], allowed)) == 1
    assert unused([Canary("name", value)], [Place("log", value)], allowed) == allowed
