"""Canaries on the beneficiary's own pages, and with the operators who answer what is said there.
The public function is a surface of T-12 (tests/stories/test_t12_privacy.py)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import quote

import requests

from tests.canary_counter import CARD, other_codes_of
from tests.canary_stage import AUDIENCE, ISSUER, Stage

FORM = "application/x-www-form-urlencoded"
SELF = f"{AUDIENCE}:self"
COOKIE = "carepos-me"
LATE = datetime(2026, 1, 1, tzinfo=UTC)


def own_pages(stage: Stage) -> None:
    """Somebody looks, says that it was not them, stops a voucher and leaves; then those who have
    no business there, and the same pages while the ledger can't read or can't write."""
    sub = stage.subs[15]
    actor = stage.plant("actor", "canary~actor~0002")
    proxy = {"act": {"iss": ISSUER, "sub": actor}, "care_reason": "frail"}
    for more in ({}, {}, proxy):
        assert stage.sell(stage.token(sub, **more))["state"] == "confirmed"
    mine = _signed_in(stage, sub)
    page = _get(stage, mine, "/me/en")
    first, second, _ = dict.fromkeys(re.findall(r'href="(/me/en/uses/[^"/]+)"', page))
    [stop] = re.findall(r'href="(/me/en/vouchers/[^"]+/stop)"', page)
    for path in (first, f"{first}/dispute", f"{first}/dispute/not_me", stop):
        _get(stage, mine, path)
    _say(stage, mine, f"{first}/dispute/not_me")
    _at_the_office(stage)
    _get(stage, mine, first.replace("/en/", "/zh/"))
    _let_in_nobody_else(stage, second, stop)
    _forged(stage, mine, second)
    for trouble in (
        stage.without_table("entries"),
        stage.without_table("holder_sessions"),
        stage.refusing_rows("holder_sessions", "opened_at"),
        stage.refusing_rows("disputes", "opened_at"),
    ):
        with trouble:
            for path in ("/me/zh", second):
                _get(stage, mine, path)
            _say(stage, mine, f"{second}/dispute/no_goods")
            _open(stage, stage.token(sub, aud=SELF))
    if stage.on_sqlite:
        with stage.full_disk("ledger"):
            _say(stage, mine, f"{second}/dispute/no_goods")
            _open(stage, stage.token(sub, aud=SELF))
    _say(stage, mine, stop)
    assert stage.offer(stage.token(sub))[1]["refusal"]["code"] == "voucher_frozen"
    stage.command("ledger", "stops", "--folder", "ledger", codes=(1,))
    _say(stage, mine, "/me/en/leave")
    _get(stage, mine, second)
    late = _signed_in(stage, sub)
    stage.sql(f"UPDATE holder_sessions SET opened_at = '{LATE:%Y-%m-%dT%H:%M:%S.000Z}'")
    _get(stage, late, second)
    _say(stage, late, f"{second}/dispute/not_me")


def _at_the_office(stage: Stage) -> None:
    """The feed of an issuer's app, and the operator who answers."""
    stage.operate("GET", "/uses?after=0")
    [told] = stage.operate("GET", "/disputes?after=0")["disputes"]
    folder = ("--folder", "ledger")
    stage.command("ledger", "disputes", *folder, codes=(1,))
    answer = ("--answer", str(told["dispute"]), "--upheld", "--say", "已核实，款项将退回")
    stage.command("ledger", "disputes", *answer, *folder)
    stage.command("ledger", "disputes", *answer, *folder, codes=(0, 1, 2))
    stage.command("ledger", "disputes", "--all", *folder)


def _let_in_nobody_else(stage: Stage, use: str, stop: str) -> None:
    """Tokens of others, for others, from others, of another time, and what is no token."""
    sub = stage.subs[15]
    used = stage.token(sub, aud=SELF)
    _open(stage, used)
    refused = [
        used,
        stage.token(sub),
        stage.token(sub, aud=SELF)[:-4],
        stage.token(sub, aud=SELF, issued_at=LATE),
        stage.token(sub, aud=SELF, iss="https://canary.example/issuer"),
        stage.token(sub, aud=SELF, token_class="card", lifetime_s=86_400, amr=CARD),
        stage.token(sub, aud=SELF, act={"sub": "canary~actor~0002"}, care_reason="frail"),
        stage.token(stage.plant("sub", "canary~sub~of~nobody"), aud=SELF),
        stage.plant("name", "金丝雀页面石"),
        *other_codes_of(stage),
    ]
    for shown in refused:
        assert _open(stage, shown).status_code in (400, 403, 413)
    good = stage.token(sub, aud=SELF)
    url, name = f"{stage.ledger_url}/me", quote("金丝雀页面石")
    for target in (f"{url}?token={good}", f"{url}/en?token={good}", f"{url}/{name}", f"{url}/en",
                   f"{url}/en/uses/{good}", f"{url}/zh/uses/{name}", f"{url}/zh/page/13800577210",
                   f"{url}/zh/vouchers/{name}/stop", stage.ledger_url + use):  # fmt: skip
        for method, cookie in (("GET", good), ("POST", name), ("PUT", "A" * 43)):
            browser = requests.Session()
            browser.headers["Cookie"] = f"{COOKIE}={cookie}"
            data = {"token": good, "name": name}
            answer = stage.browse(browser, "nobody", method, target, data=data)
            assert answer.status_code < 500
    browser = requests.Session()
    for body in ({"token": [good, good]}, {"token": good, "phone": "13800577210"}, {"form": good}):
        for path in ("", "/en/leave", use.removeprefix("/me"), stop.removeprefix("/me")):
            stage.browse(browser, "nobody", "POST", url + path, data=body)
            stage.browse(browser, "nobody", "POST", url + path, json=body)


def _forged(stage: Stage, mine: requests.Session, use: str) -> None:
    """Forms of other sites, and of a browser that adds a field of its own."""
    url, form = f"{stage.ledger_url}{use}/dispute/not_me", _form(stage, mine)
    name = stage.plant("name", "金丝雀页面石")
    for headers in ({"Origin": "https://canary.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = stage.browse(mine, "holder", "POST", url, data={"form": form}, headers=headers)
        assert answer.status_code == 400
    for data in ({"form": name}, {"form": form, "why": name}, {"form": form, "token": name}, name):
        body = quote(data) if isinstance(data, str) else data
        headers = {"Content-Type": FORM}
        answer = stage.browse(mine, "holder", "POST", url, data=body, headers=headers)
        assert answer.status_code == 400
    other = stage.browse(mine, "holder", "GET", f"{url[:-6]}{quote(name)}")
    assert other.status_code == 404


def _signed_in(stage: Stage, sub: str) -> requests.Session:
    browser = requests.Session()
    token = stage.token(sub, aud=SELF, amr=("face",))
    url = f"{stage.ledger_url}/me"
    answer = stage.browse(browser, "holder", "POST", url, data={"token": token})
    assert answer.status_code == 200, answer.text
    stage.plant("session", str(browser.cookies[COOKIE]))
    return browser


def _open(stage: Stage, shown: str) -> requests.Response:
    """Somebody who comes with this; if they get in, their session is of no further use."""
    url = f"{stage.ledger_url}/me"
    answer = stage.browse(requests.Session(), "holder", "POST", url, data={"token": shown})
    if COOKIE in answer.cookies:
        stage.plant("session", str(answer.cookies[COOKIE]))
    return answer


def _get(stage: Stage, browser: requests.Session, path: str) -> str:
    return stage.browse(browser, "holder", "GET", stage.ledger_url + path).text


def _form(stage: Stage, browser: requests.Session) -> str:
    """The form token of this session, if its pages can be had."""
    found = re.search(r'name="form" value="([^"]+)"', _get(stage, browser, "/me/en"))
    return stage.plant("form token", found[1]) if found else "no-form-token"


def _say(stage: Stage, browser: requests.Session, path: str) -> None:
    """Press the button of a page."""
    data = {"form": _form(stage, browser)}
    stage.browse(browser, "holder", "POST", stage.ledger_url + path, data=data)
