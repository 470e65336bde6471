"""From a sign-in at a provider to a care code at a till, over HTTP."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import zxingcpp
from flask import Flask, Response
from PIL import Image

from carepos.errors import Malformed, TokenRefused
from carepos.issuer_folder import IssuerFolder, IssuerSigner
from carepos.issuer_keys import IssuerKeys
from carepos.keys import write_secret
from carepos.token import IdentityToken, TokenVerifier
from sample_issuer import __main__ as command
from sample_issuer import app, example_app, limited_http
from sample_issuer.pace import Pace
from sample_issuer.problems import KINDS, Problem
from sample_issuer.provider import _address
from sample_issuer.settings import SHORTEST_S, Settings
from tests.key_server import key_server
from tests.sample_issuer.rig import AUDIENCE, ISS, SUB, Rig, rig, served

ROOT = Path(__file__).parents[2]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


def at_the_till(office: Rig, code: str, audience: str = AUDIENCE) -> IdentityToken:
    """What a till says that believes what this issuer publishes."""
    document = requests.get(f"{office.url}/.well-known/jwks.json", timeout=10).content
    keys = IssuerKeys.from_jwks(document, office.clock())
    return TokenVerifier({ISS: keys}, audience).verify(code, office.clock())


def test_an_app_gets_a_care_code_that_a_till_takes(office: Rig) -> None:
    """The account becomes the beneficiary of enrolment.csv; the method is passed on by the list."""
    found = at_the_till(office, office.code())
    assert (found.sub, found.amr) == (SUB, frozenset({"otp"})) and found.token_class == "once"
    assert (found.expires_at - office.clock()).total_seconds() == 300
    office.provider.amr = ["pwd", "face", "sms", "mfa"]
    assert at_the_till(office, office.code()).amr == {"face", "otp"}


def test_the_self_audience_opens_nothing_at_a_till(office: Rig) -> None:
    """A code for the beneficiary's own pages is for `<audience>:self`, and the other way round."""
    own, shown = office.code(use="self"), office.code()
    assert at_the_till(office, own, f"{AUDIENCE}:self").sub == SUB
    for code, audience in ((own, AUDIENCE), (shown, f"{AUDIENCE}:self")):
        with pytest.raises(TokenRefused) as refused:
            at_the_till(office, code, audience)
        assert refused.value.code == "token_audience"
    status, document = office.bring("x.y.z", office.nonce(), "all")
    assert (status, document["code"]) == (400, "request_malformed")


def test_the_page_shows_a_code_that_reads_and_renews_itself(office: Rig) -> None:
    """Signed in on a phone: a QR without a script, in two languages, renewed before it ends."""
    phone = requests.Session()
    welcome = phone.get(office.url, timeout=10)
    assert "登录" in welcome.text and "Sign in" in welcome.text and "<img" not in welcome.text
    page = _sign_in(phone, office)
    code = _read(page)
    assert at_the_till(office, code).sub == SUB
    assert 0 < int(page.headers["Refresh"]) <= 300 - 30
    assert page.headers["Cache-Control"] == "no-store"
    assert (
        "<script" not in page.text and "script-src" not in page.headers["Content-Security-Policy"]
    )
    assert code not in page.text and SUB not in page.text
    assert "16:35:00" in page.text  # 08:35 UTC in the office's time zone
    again = _read(phone.get(office.url, timeout=10))
    assert again != code
    office.clock.advance(901)
    assert "<img" not in phone.get(office.url, timeout=10).text


def test_the_way_to_the_beneficiarys_own_pages(tmp_path: Path) -> None:
    """One press mints a token for those pages alone, the next posts it there: in a form's body, to
    that one address, and good for nothing at a till. Nobody who is not signed in gets one."""
    ledger = "https://ledger.example:8443/me"
    with rig(tmp_path, ledger) as office:
        phone = requests.Session()
        stranger = phone.post(f"{office.url}/my-vouchers", timeout=10)
        assert "Sign in" in stranger.text and "token" not in stranger.text
        assert 'action="/my-vouchers"' in _sign_in(phone, office).text
        page = phone.post(f"{office.url}/my-vouchers", timeout=10)
        form = re.search(
            r'<form method="post" action="([^"]+)">'
            r'<input type="hidden" name="token" value="([^"]+)">',
            page.text,
        )
        assert form is not None and form[1] == ledger
        assert page.headers["Cache-Control"] == "no-store" and "<script" not in page.text
        policy = page.headers["Content-Security-Policy"]
        assert "form-action https://ledger.example:8443;" in policy
        with pytest.raises(TokenRefused, match="token_audience"):
            at_the_till(office, form[2])
        assert at_the_till(office, form[2], f"{AUDIENCE}:self").sub == SUB


def test_without_pages_there_is_no_button(office: Rig) -> None:
    """An issuer.toml without the setting, as an older one, is read and shows the code alone."""
    phone = requests.Session()
    assert "my-vouchers" not in _sign_in(phone, office).text
    assert "<img" in phone.post(f"{office.url}/my-vouchers", timeout=10).text
    toml = office.folder / "issuer.toml"
    older = [
        line for line in toml.read_text("utf-8").splitlines() if not line.startswith("own_pages")
    ]
    toml.write_text("\n".join(older), "utf-8")
    assert Settings.load(office.folder).own_pages == ""
    toml.write_text("\n".join(older).replace("[service]", '[service]\nown_pages = ""'), "utf-8")
    with pytest.raises(Malformed):
        Settings.load(office.folder)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("", 2, "python -m sample_issuer.example_app ISSUER_URL"),
        ("--help", 2, "python -m sample_issuer.example_app ISSUER_URL"),
        ("ISSUER PROVIDER nobody", 1, "refused: person_unknown: Nothing was issued to you here"),
        ("PROVIDER/x PROVIDER amy", 1, "no answer from"),
    ],
)
def test_the_example_app_says_what_went_wrong(
    office: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: str, code: int, says: str,
) -> None:  # fmt: skip
    """A sentence, not a traceback: it is the first thing that an integrator copies."""
    named = words.replace("ISSUER", office.url).replace("PROVIDER", office.provider.issuer)
    monkeypatch.setattr(sys, "argv", ["example_app", *named.split()])
    assert example_app.main() == code
    said = capsys.readouterr()
    assert says in said.err and said.out == ""


def test_a_port_that_is_taken_is_named(office: Rig) -> None:
    """Before it says that it answers."""
    port = urlsplit(office.url).port
    toml = office.folder / "issuer.toml"
    toml.write_text(re.sub(r"(?m)^port = .*", f"port = {port}", toml.read_text("utf-8")), "utf-8")
    for words, code in (
        (["sample_issuer", "serve", "--folder", str(office.folder)], 2),
        (["sample_issuer.fake_provider", "--port", str(port)], 1),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert (ended.returncode, ended.stdout) == (code, "")
        assert f"port {port} " in ended.stderr and "can't be used" in ended.stderr
        assert "Traceback" not in ended.stderr


def _sign_in(phone: requests.Session, office: Rig, account: str = "amy") -> requests.Response:
    there = phone.get(f"{office.url}/login", allow_redirects=False, timeout=10)
    return phone.get(f"{there.headers['Location']}&account={account}", timeout=10)


def _read(page: requests.Response) -> str:
    found = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page.text)
    assert found is not None, page.text
    (symbol,) = zxingcpp.read_barcodes(Image.open(io.BytesIO(b64decode(found[1]))))
    return str(symbol.text)


def test_a_sign_in_belongs_to_the_browser_that_began_it(office: Rig) -> None:
    """A callback with another's state, twice, or out of nowhere opens nothing."""
    phone, other = requests.Session(), requests.Session()
    there = phone.get(f"{office.url}/login", allow_redirects=False, timeout=10)
    asked = parse_qs(urlsplit(there.headers["Location"]).query)
    assert asked["code_challenge_method"] == ["S256"] and len(asked["nonce"][0]) > 20
    back = phone.get(
        f"{there.headers['Location']}&account=amy", allow_redirects=False, timeout=10
    ).headers["Location"]
    for browser in (other, requests.Session()):
        answer = browser.get(back, timeout=10)
        assert answer.status_code == 400 and "login_interrupted" in answer.text
    assert phone.get(back.replace("state=", "state=x"), timeout=10).status_code == 400
    assert phone.get(back, timeout=10).status_code == 400  # the state is used up by a wrong try


def test_who_is_not_enrolled_reads_what_to_do(office: Rig) -> None:
    """A stranger's account, and a sign-in by password alone, are told so on the page."""
    answer = _sign_in(requests.Session(), office, "cui")
    assert answer.status_code == 403 and KINDS["person_unknown"].zh in answer.text
    office.provider.amr = ["pwd"]
    answer = _sign_in(requests.Session(), office)
    assert answer.status_code == 403 and KINDS["methods_not_enough"].en in answer.text


def test_nobody_asks_without_end(office: Rig) -> None:
    """Twelve codes in ten minutes for one person; others are not held up by it."""
    for _ in range(12):
        office.code("amy")
    nonce = office.nonce()
    assert office.refused(office.provider.id_token("amy", nonce), nonce)[:2] == (429, "too_many")
    office.code("ben")
    office.clock.advance(600)
    office.code("amy")


def test_one_address_does_not_ask_without_end(office: Rig) -> None:
    """Guessing costs time; the keys stay to be had."""
    told = {requests.post(f"{office.url}/v1/nonces", timeout=10).status_code for _ in range(130)}
    assert told == {200, 429}
    assert requests.get(f"{office.url}/.well-known/jwks.json", timeout=10).status_code == 200


def test_behind_a_proxy_phones_are_told_apart(office: Rig) -> None:
    """By what the proxy that is named says of them; nobody else is believed."""
    path = office.folder / "issuer.toml"
    good = path.read_text("utf-8")
    for proxy, told in (("127.0.0.1", {200}), ("", {200, 429}), ("192.0.2.1", {200, 429})):
        path.write_text(good.replace('proxy = ""', f'proxy = "{proxy}"'), "utf-8")
        made = app.create_app(office.folder, now=office.clock, seconds=office.clock.seconds)
        with served(made, **command.behind_proxy(Settings.load(office.folder))) as url:
            assert {
                requests.post(
                    f"{url}/v1/nonces", headers={"X-Forwarded-For": f"192.0.2.{n}"}, timeout=10
                ).status_code
                for n in range(130)
            } == told


def test_the_page_of_the_shortest_code_is_not_too_often(office: Rig) -> None:
    """A code that is renewed as often as the page asks for it never meets the desk's limit."""
    path = office.folder / "issuer.toml"
    text = path.read_text("utf-8")
    path.write_text(text.replace("lifetime_s = 300", f"lifetime_s = {SHORTEST_S}"), "utf-8")
    made = app.create_app(office.folder, now=office.clock, seconds=office.clock.seconds)
    office.provider.always = "amy"
    phone = made.test_client()
    with phone.session_transaction() as session:
        until = int(office.clock().timestamp()) + 3_600
        session["who"] = {"sub": SUB, "amr": ["otp"], "until": until}
    for _ in range(30):
        page = phone.get("/")
        assert page.status_code == 200
        office.clock.advance(int(page.headers["Refresh"]))


def test_an_init_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    """The secret was made and the settings were not: the same command does the rest."""
    folder = tmp_path / "office"
    IssuerFolder.create(folder, iss=ISS, audience=AUDIENCE)
    write_secret(folder / "links.secret", b"s" * 32)
    words = f"init --folder {folder} --provider https://p.example --client-id care".split()
    assert command.main(words) == 0
    assert (folder / "issuer.toml").exists()
    assert command.main(words) == 2  # nothing is made in place of settings


def test_the_memory_of_who_asked_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm of names pushes out the oldest, and never grows."""
    monkeypatch.setattr("sample_issuer.pace._NAMES", 100)
    pace = Pace(1, 60.0, lambda: 0.0)
    for number in range(1_000):
        pace.count(str(number))
    assert len(pace._calls) == 100
    with pytest.raises(Problem):
        pace.count("999")


def test_keys_turn_over_while_it_runs(office: Rig) -> None:
    """Two keys overlap: codes of either are good while both are published."""
    first = office.code()
    office.issuer().add_key()
    document = requests.get(f"{office.url}/.well-known/jwks.json", timeout=10).json()
    assert [jwk["kid"] for jwk in document["keys"]] == ["k1", "k2"]
    office.issuer().sign_with("k2")
    second = office.code()
    assert at_the_till(office, first).sub == at_the_till(office, second).sub == SUB
    office.issuer().drop("k1")
    with pytest.raises(TokenRefused):
        at_the_till(office, first)
    assert at_the_till(office, second).sub == SUB


def test_the_providers_keys_turn_over(office: Rig) -> None:
    """An unknown kid asks for the set anew, at most once in five minutes whatever is shown."""
    office.code()
    asked = office.provider.asked.count("/jwks")
    newer = IssuerSigner.generate("ES256", "p2")
    old = office.provider.signer
    office.provider.published.append(newer.to_jwk())
    office.provider.signer = newer
    nonce = office.nonce()
    assert office.refused(office.provider.id_token("amy", nonce), nonce)[1] == "id_token_signature"
    office.clock.advance(300)
    assert at_the_till(office, office.code()).sub == SUB
    for _ in range(5):
        nonce = office.nonce()
        stranger = IssuerSigner.generate("EdDSA", "p9")
        shown = stranger.sign("JWT", office.provider.claims("amy", nonce))
        assert office.refused(shown, nonce)[1] == "id_token_signature"
    assert office.provider.asked.count("/jwks") == asked + 1
    office.provider.signer = old
    office.code()


def test_a_clock_that_was_ahead_stops_no_rotation(office: Rig) -> None:
    """Once the clock is right again, a provider's new key is learned at once."""
    office.clock.advance(86_400)
    office.code()
    office.clock.advance(-86_400)
    newer = IssuerSigner.generate("ES256", "p2")
    office.provider.published.append(newer.to_jwk())
    office.provider.signer = newer
    assert at_the_till(office, office.code()).sub == SUB


def test_a_set_that_shares_no_key_is_not_taken(office: Rig) -> None:
    """Whoever answers in the provider's place with keys of their own signs nobody in."""
    office.code()
    thief = IssuerSigner.generate("RS256", "p9")
    office.provider.published[:] = [thief.to_jwk()]
    office.clock.advance(3_700)
    nonce = office.nonce()
    shown = thief.sign("JWT", office.provider.claims("amy", nonce))
    assert office.refused(shown, nonce)[1] == "id_token_signature"
    office.code()  # the key held goes on


def test_a_provider_that_can_t_be_reached_is_said_so(tmp_path: Path) -> None:
    """503 with words for the person; and it works again when the provider does."""
    with rig(tmp_path) as office:
        office.provider.published[:] = []
        nonce = office.nonce()
        shown = office.provider.id_token("amy", nonce)
        assert office.refused(shown, nonce)[:2] == (503, "provider_unreachable")
        office.provider.published[:] = [office.provider.signer.to_jwk()]
        asked = office.provider.asked.count("/jwks")
        assert office.refused(shown, nonce)[0] == 503  # not asked again at once
        assert office.provider.asked.count("/jwks") == asked
        office.clock.advance(10)
        assert office.bring(shown, nonce)[0] == 200


def test_a_provider_speaks_for_itself_alone(office: Rig) -> None:
    """A discovery document that names another issuer, or keys off this machine without TLS, is not
    believed (OpenID Connect Discovery §4.3)."""
    own = office.provider.issuer
    for changed in ("https://another.example", own + "/"):
        office.provider.issuer = changed
        nonce = office.nonce()
        shown = office.provider.id_token("amy", nonce)
        assert office.refused(shown, nonce)[:2] == (503, "provider_unreachable")
        assert requests.get(f"{office.url}/login", timeout=10).status_code == 503
        office.clock.advance(10)
    office.provider.issuer = own
    office.code()


def test_documents_are_bounded_and_never_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too large, too slow, a redirect, no JSON, twice the same name: one code for all of them."""
    odd = Flask(__name__)

    @odd.get("/<what>")
    def answer(what: str) -> Response:
        if what == "moved":
            return Response(status=302, headers={"Location": "/good"})
        if what == "endless":
            return Response(b"x" * 1_000 for _ in range(500))  # waitress spools from 1 MiB on
        if what == "large":
            return Response(b'{"a":"' + b"x" * 70_000 + b'"}', content_type="application/json")
        texts = {"good": b'{"a":1}', "page": b"<html>", "twice": b'{"a":1,"a":2}', "list": b"[]"}
        status = 200 if what in texts else 404
        return Response(texts.get(what, b""), status, content_type="application/json")

    def post(url: str, total_s: float = 10.0) -> Any:
        return limited_http.post(url, {"code": "x"}, total_s=total_s)

    odd.add_url_rule("/<what>", "posted", answer, methods=["POST"])
    ask: Callable[..., Any]
    with served(odd) as url:
        for ask in (limited_http.get, post):
            assert ask(f"{url}/good") == {"a": 1}
            for what in ("moved", "endless", "large", "page", "twice", "list", "missing"):
                with pytest.raises(Problem) as refused:
                    ask(f"{url}/{what}")
                assert refused.value.code == "provider_unreachable"
            with pytest.raises(Problem, match=r"too long|did not come"):
                ask(f"{url}/good", total_s=0.0)
    for ask in (limited_http.get, post):
        with pytest.raises(Problem, match=r"no answer|could not be fetched"):
            ask("http://127.0.0.1:1/")


def test_a_provider_that_drips_is_let_go() -> None:
    """A byte now and then, in the head of the answer too: the whole has one deadline."""
    with key_server() as server:
        server.answer = server.drips(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000)
        with pytest.raises(Problem, match="did not come whole"):
            limited_http.get(server.url, total_s=0.5)


def test_who_has_keys_does_not_wait_for_them(office: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one asks a provider that does not answer, the others sign in by the keys held."""
    office.code()
    office.clock.advance(3_700)
    asked, answered, get = threading.Event(), threading.Event(), limited_http.get

    def slowly(url: str, **more: Any) -> dict[str, Any]:
        if url.endswith("/jwks"):
            asked.set()
            assert answered.wait(30)
        return get(url, **more)

    monkeypatch.setattr(limited_http, "get", slowly)
    with ThreadPoolExecutor(1) as phone:
        first = phone.submit(office.code)
        assert asked.wait(30)
        try:
            assert at_the_till(office, office.code()).sub == SUB
            assert not first.done()
        finally:
            answered.set()
        assert at_the_till(office, first.result()).sub == SUB


@pytest.mark.parametrize(
    ("url", "good"),
    [("https://id.example", True), ("http://127.0.0.1:8470", True), ("http://[::1]:1", True),
     ("http://localhost:1", True), ("http://id.example", False),
     ("http://127.0.0.1.evil.example", False),
     ("file:///etc/passwd", False), ("", False), ("https://", False), ("https://[::1", False),
     ("https://id.example:port", False), (7, False)],
)  # fmt: skip
def test_only_https_leaves_this_machine(url: object, good: bool) -> None:
    """http is for trying, on loopback."""
    if good:
        assert _address({"jwks_uri": url}, "jwks_uri") == url
        return
    with pytest.raises(Problem, match="provider_unreachable"):
        _address({"jwks_uri": url}, "jwks_uri")


def test_links_hold_nobodys_name(
    office: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither account nor line is in links.csv; a wrong file is refused by row, and nothing of it
    is said, whatever stands in the columns."""
    links = (office.folder / "links.csv").read_text()
    assert SUB in links and "amy" not in links
    assert (office.folder / "links.csv").stat().st_mode & 0o777 == 0o600
    people, enrolment = tmp_path / "people.csv", tmp_path / "enrolment.csv"
    for name, text in (
        ("people", "provider_sub,line\namy,9\n"), ("people", "provider_sub,line\namy,3\n"),
        ("people", "sub,line\n"), ("people", "provider_sub,line\namy\n"),
        ("people", "provider_sub,line\n2,amy\n"), ("enrolment", "\xff"),
        ("enrolment", "line,iss,sub\namy,https://other.example,x\n"),
    ):  # fmt: skip
        kept = {each: each.read_bytes() for each in (people, enrolment)}
        (people if name == "people" else enrolment).write_text(text, encoding="latin-1")
        words = f"link --folder {office.folder} --people {people} --enrolment {enrolment}"
        assert command.main(words.split()) == 2
        said = capsys.readouterr().err
        assert "amy" not in said and name in said
        for each, data in kept.items():
            each.write_bytes(data)
    assert (office.folder / "links.csv").read_text() == links


def test_settings_are_checked(office: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong value stops the service with its name; nothing is started half."""
    path = office.folder / "issuer.toml"
    good = path.read_text("utf-8")
    for old, new, named in (
        ("lifetime_s = 300", "lifetime_s = 901", "lifetime_s"),
        ("lifetime_s = 300", f"lifetime_s = {SHORTEST_S - 1}", "lifetime_s"),
        ('proxy = ""', 'proxy = "proxy.example"', "proxy"),
        ('proxy = ""', "proxy = 7", "proxy"),
        ("Asia/Shanghai", "Asia/", "time_zone"),
        ("lifetime_s = 300", 'lifetime_s = "300"', "lifetime_s"),
        ("Asia/Shanghai", "Mars/Olympus", "time_zone"),
        ("client_id", "client", "client"),
        ("[service]", "[service", "TOML"),
        (office.provider.issuer, "http://id.example", "https://"),
    ):
        path.write_text(good.replace(old, new), "utf-8")
        assert command.main(["serve", "--folder", str(office.folder)]) == 2
        assert named in capsys.readouterr().err
    assert command.main(["serve", "--folder", str(office.folder / "nowhere")]) == 2
