"""Canaries with issuers: the kit (`carepos token …`) and the sample issuer beside a provider that
says more of people than it was asked for. Each public function is a surface of T-12
(tests/stories/test_t12_privacy.py)."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

import requests

from carepos import compact
from carepos.keys import write_secret
from sample_issuer import links
from sample_issuer.example_app import sign_in
from tests.canary_counter import NO_PIN, PIN, WRONG_PIN, other_codes_of
from tests.canary_process import ACCOUNT, UNCHECKED
from tests.canary_stage import AUDIENCE, ISSUER, Stage

FOLDER = ("--folder", "issuer")
ISSUERS = ("--issuers", "issuer/issuers.json", "--audience", AUDIENCE)
CODE = re.compile(
    r"(?:CPC1\*[A-Za-z0-9_-]{22}\*)?eyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}(?:~[A-Za-z0-9_.-]+)?"
)


# ── the kit ────────────────────────────────────────────────────────────────────────────────────


def issuer_kit(stage: Stage) -> None:
    """An issuer's developer makes keys and codes of every kind, takes good and bad ones apart, asks
    why they are refused, and changes the key."""
    folder = stage.folder / "issuer"
    (stage.folder / "phone").mkdir()
    stage.command("token", "key", *FOLDER, "--iss", ISSUER, "--aud", AUDIENCE)
    stage.command("token", "key", *FOLDER, "--alg", "ES256")
    for kid in ("k1", "k2"):
        stage.plant_file("issuer key", folder / f"{kid}.key")
    _believed(stage)
    actor = stage.plant("actor", "canary~actor~0003")
    acting, holder = ("--actor", actor, "--reason", "frail"), ("--holder", "phone/phone.key")
    card, line = _minted(
        stage, "card", "--pin-stdin", "--sub", stage.subs[13], "--qr", "phone/card.png",
        stdin=f"{PIN}\n",
    )  # fmt: skip
    wallet, _ = _minted(stage, "wallet", *holder)
    stage.plant_file("holder key", stage.folder / "phone" / "phone.key")
    codes = [
        card,
        wallet,
        _minted(stage, "once", "--json")[0],
        _minted(stage, "proxy", *acting)[0],
        _minted(stage, "witness", *acting, "--qr", "phone/witness.png")[0],
    ]
    stage.command("token", "present", *holder, stdin=wallet)
    for code in (*codes, card[:-7], *other_codes_of(stage)):
        if CODE.match(code):
            stage.command("token", "show", stdin=code, codes=(0, 2))
        stage.command("token", "explain", *ISSUERS, stdin=code, codes=(0, 1, 2))
    later = ("--at", "2035-01-01T00:00:00Z")
    for code in (card, wallet):
        stage.command("token", "show", "--json", stdin=code)
        stage.command("token", "explain", "--json", *later, *ISSUERS, stdin=code, codes=(1,))
    _explains_a_pin(stage, card, line)
    _fails(stage, wallet)
    with stage.replacing("issuer key", folder / "k1.key"):
        stage.command("token", "key", *FOLDER, "--use", "k2")
        stage.command("token", "key", *FOLDER, "--drop", "k1")
    _believed(stage)
    lost = ("--reason", "stolen laptop", "--folder", "ledger")
    stage.command("ledger", "revoke-key", ISSUER, "k1", *lost)


def _believed(stage: Stage) -> None:
    """The ledger is told of the issuer's keys, as they are published."""
    published = json.loads((stage.folder / "issuer" / "jwks.json").read_text("utf-8"))["keys"]
    keys = [stage.issuer_key.public.to_jwk(), *published]
    stage.operate("PUT", "/issuers", {"iss": ISSUER, "keys": keys})


def _minted(stage: Stage, kind: str, *words: str, stdin: str = "") -> tuple[str, str]:
    """(the code, what the ledger is told of a card) as the command prints them."""
    said = stage.command("token", "mint", kind, *FOLDER, *words, stdin=stdin)
    found, line = CODE.search(said), re.search(r'^\{"iss".*\}$', said, re.M)
    assert found is not None, said
    if line is not None:
        stage.plant("pin verifier", str(json.loads(line[0])["pin_verifier"]))
    return _made(stage, found[0]), line[0] if line else ""


def _made(stage: Stage, code: str) -> str:
    """A code that was not made by this test: what it holds is planted afterwards."""
    card = re.match(r"CPC1\*([^*]+)\*", code)
    if card is not None:
        stage.plant("card secret", card[1])
    token = code[card.end() if card else 0 :].partition("~")[0]
    claims = compact.read(token).claims
    stage.plant("sub", str(claims["sub"]))
    stage.plant("jti", str(claims["jti"]))
    header, _, signature = token.split(".")
    stage.plant("token", header)
    stage.plant("token", signature[:60])
    return code


def _explains_a_pin(stage: Stage, card: str, line: str) -> None:
    """The right PIN, a wrong one, none; of this card, and of a file that is no card's line."""
    inputs = stage.folder / "office" / "input"
    for name, told in (("line.txt", line), ("no-line.txt", f"{NO_PIN}{PIN}")):
        (inputs / name).write_text(f"{card}\n{told}\n", "utf-8")
        words = ("--file", f"office/input/{name}", "--card-line", f"office/input/{name}")
        for number in (PIN, WRONG_PIN, NO_PIN):
            stage.command(
                "token", "explain", *words, "--pin-stdin", *ISSUERS, stdin=f"{number}\n",
                codes=(0, 1, 2),
            )  # fmt: skip


def _fails(stage: Stage, wallet: str) -> None:
    """Wrong words, wrong files, wrong input: each a message that repeats nothing of it."""
    name = stage.plant("name", "金丝雀签发韩")
    (stage.folder / "office" / "input" / "names.key").write_text(f"{name}\n{wallet}\n", "utf-8")
    pin = ("--pin-stdin",)
    for words, stdin in (
        (("mint", "card", *FOLDER, *pin), f"{name}\n"),
        (("mint", "card", *FOLDER, *pin), f"{PIN}{WRONG_PIN}\n"),
        (("mint", "once", "--folder", "nowhere"), wallet),
        (("mint", "wallet", *FOLDER, "--holder", "office/input/names.key"), ""),
        (("present", "--holder", "office/input/names.key"), wallet),
        (("present", "--holder", "phone/phone.key"), name),
        (("present", "--holder", "phone/phone.key"), stage.token(stage.subs[12])),
        (("explain", "--issuers", "office/input/names.key", "--audience", AUDIENCE), wallet),
        (("explain", *ISSUERS, "--revocations", "office/input/names.key"), wallet),
        (("explain", *ISSUERS, "--programme", "office/input/names.key"), wallet),
        (("explain", *ISSUERS), ""),
        (("key", *FOLDER, "--drop", "k1"), ""),
    ):
        stage.command("token", *words, stdin=stdin, codes=(2,))


# ── the sample issuer ──────────────────────────────────────────────────────────────────────────

EACH_ACCOUNT = "canary-account-"


def sample_issuer(stage: Stage) -> None:
    """A provider's account becomes a care code, on a phone's page and in an app; and does not, for
    strangers, with forged and old sign-ins, without the provider, and after a power cut."""
    folder = stage.folder / "issuer"
    for value in ACCOUNT.values():
        stage.plant("profile", value)
    stage.plant("account", EACH_ACCOUNT)
    port = stage.issuer_url.rpartition(":")[2]
    stage.sample_issuer(
        "init", "--provider", stage.provider_url, "--client-id", "care",
        "--url", stage.issuer_url, "--port", port,
    )  # fmt: skip
    stage.plant_file("links secret", folder / links.KEY)
    write_secret(folder / "client.secret", stage.issuer_key.sign(b"client")[:32])
    stage.plant_file("client secret", folder / "client.secret")
    toml = (folder / "issuer.toml").read_text("utf-8")
    toml = toml.replace('client_secret_file = ""', 'client_secret_file = "client.secret"')
    (folder / "issuer.toml").write_text(toml, "utf-8")
    _linked(stage)
    stage.start_provider()
    stage.start_issuer()
    _on_a_phone(stage)
    _in_an_app(stage)
    _forged(stage)
    stage.killed("issuer")
    stage.start_issuer()
    stage.over("provider")
    stage.browse(requests.Session(), "phone", "GET", f"{stage.issuer_url}/login")
    stage.over("issuer")


def _linked(stage: Stage) -> None:
    """Good files, and files that are not as they must be."""
    inputs, name = stage.folder / "office" / "input", stage.plant("name", "金丝雀帐号杨")
    enrolment = ("--enrolment", "office/enrolment.csv")
    lines = (stage.folder / "office" / "enrolment.csv").read_text("utf-8").splitlines()[1:]
    line = {sub: n for n, _, sub in (each.split(",") for each in lines)}
    good = [f"{EACH_ACCOUNT}{n},{line[stage.subs[n]]}" for n in (12, 14)]
    for rows, code in (
        (good, 0),
        ([f"{EACH_ACCOUNT}{UNCHECKED},{line[stage.subs[13]]}"], 0),
        ([f"{EACH_ACCOUNT}12,{line[stage.subs[14]]}"], 2),
        ([f"{EACH_ACCOUNT}99,{name}"], 2),
        ([f"{EACH_ACCOUNT}99,2,{name}"], 2),
        ([f'"{name},2'], 2),
    ):
        (inputs / "people.csv").write_text("\n".join(["provider_sub,line", *rows, ""]), "utf-8")
        people = ("--people", "office/input/people.csv")
        stage.sample_issuer("link", *people, *enrolment, codes=(code,))
    (inputs / "others.csv").write_text(f"line,iss,sub\n2,{name},{stage.subs[0]}\n", "utf-8")
    others = ("--enrolment", "office/input/others.csv")
    stage.sample_issuer("link", "--people", "office/input/people.csv", *others, codes=(2,))


def _on_a_phone(stage: Stage) -> None:
    """A page without a script: signed in, known or not, left, and come back to too late."""
    for account, ends in ((f"{EACH_ACCOUNT}12", 303), (f"{EACH_ACCOUNT}77", 403),
                          (f"{EACH_ACCOUNT}{UNCHECKED}", 403)):  # fmt: skip
        phone = requests.Session()
        back = _at_the_provider(stage, phone, account)
        answer = stage.browse(phone, "phone", "GET", back)
        assert answer.status_code == ends, answer.text
        if "care" in answer.cookies:
            stage.plant("session", str(answer.cookies["care"]))
        page = stage.browse(phone, "phone", "GET", f"{stage.issuer_url}/")
        assert ("data:image" in page.text) == (ends == 303)
        stage.browse(phone, "phone", "GET", back)
        stage.browse(phone, "phone", "POST", f"{stage.issuer_url}/logout")
        stage.browse(phone, "phone", "GET", f"{stage.issuer_url}/")


def _at_the_provider(stage: Stage, phone: requests.Session, account: str) -> str:
    """The address with which the provider sends a browser back."""
    gone = stage.browse(phone, "phone", "GET", f"{stage.issuer_url}/login").headers["Location"]
    for name in ("state", "nonce"):
        stage.plant("sign-in", parse_qs(urlsplit(gone).query)[name][0])
    there = stage.browse(phone, "phone", "GET", f"{gone}&account={account}")
    back = there.headers["Location"]
    stage.plant("sign-in", parse_qs(urlsplit(back).query)["code"][0])
    return back


def _in_an_app(stage: Stage) -> None:
    """Codes for a shop and for the beneficiary's own pages."""
    url = f"{stage.issuer_url}/v1"
    for use in ("redeem", "self"):
        nonce, shown = _id_token(stage, f"{EACH_ACCOUNT}14")
        body = {"nonce": nonce, "use": use}
        told = {"json": body, "headers": {"Authorization": f"Bearer {shown}"}}
        answer = stage.browse(requests.Session(), "app", "POST", f"{url}/care-codes", **told)
        code = _made(stage, str(answer.json()["code"]))
        again = stage.browse(requests.Session(), "app", "POST", f"{url}/care-codes", **told)
        assert again.json()["code"] == "id_token_nonce"
        if use == "redeem":
            assert stage.sell(code)["state"] == "confirmed"
        else:
            pages = requests.Session()
            stage.browse(pages, "holder", "POST", f"{stage.ledger_url}/me", data={"token": code})
            stage.plant("session", str(pages.cookies["carepos-me"]))


def _id_token(stage: Stage, account: str) -> tuple[str, str]:
    """(nonce, ID token) of a sign-in, as an app has them."""
    answer = stage.browse(requests.Session(), "app", "POST", f"{stage.issuer_url}/v1/nonces")
    nonce = stage.plant("sign-in", str(answer.json()["nonce"]))
    shown = sign_in(stage.provider_url, account, nonce)
    header, _, signature = shown.split(".")
    stage.plant("id token", header)
    stage.plant("id token", signature[:60])
    return nonce, shown


def _forged(stage: Stage) -> None:
    """Sign-ins of others, cut ones, and forms with what does not belong there."""
    app, url, name = requests.Session(), stage.issuer_url, "金丝雀帐号杨"
    nonce, shown = _id_token(stage, f"{EACH_ACCOUNT}14")
    _, stranger = _id_token(stage, f"{EACH_ACCOUNT}77")
    good = stage.token(stage.subs[14])
    for bearer in (shown[:-5], stranger, good, shown.replace(".", "..", 1), name, "", shown):
        headers = {"Authorization": f"Bearer {bearer}".encode()}
        for body in ({"nonce": nonce + "x"}, {"nonce": name}, {"nonce": [shown]}, {name: shown}):
            stage.browse(app, "app", "POST", f"{url}/v1/care-codes", json=body, headers=headers)
    stage.browse(app, "app", "POST", f"{url}/v1/care-codes", data=f'{{"nonce": "{shown}')
    for target in (f"/callback?code={shown}&state={nonce}", f"/callback?error={name}&state={good}",
                   f"/{name}", f"/?token={good}", "/v1/nonces"):  # fmt: skip
        phone = requests.Session()
        phone.headers["Cookie"] = f"care={shown}"
        stage.browse(phone, "phone", "GET", url + target)
    phone = requests.Session()
    back = _at_the_provider(stage, phone, f"{EACH_ACCOUNT}12")
    stage.browse(phone, "phone", "GET", back.replace("code=", f"code={name}"))
