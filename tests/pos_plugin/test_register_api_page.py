"""docs/register-api.md: every example is called as it stands there, in order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import requests

from carepos_plugin import held_code, pairing
from carepos_plugin.problems import as_markdown
from tests.cards import ACTING, PIN, RULES, act_for, print_card
from tests.pos_plugin.rig import milk, rig
from tests.pos_plugin.test_pin_pad import Pad
from tests.stories.offline_shop import OFFLINE

REFUNDS = {"window_s": 86_400, "grace_s": 0}
PAGE = (Path(__file__).parents[2] / "docs" / "register-api.md").read_text("utf-8")
EXAMPLE = re.compile(
    r"<!-- example(?:: (.*?))? -->\n```http\n([A-Z]+) (\S+)\n(.*?)```\n```json\n(.*?)```", re.DOTALL
)


def test_the_examples_are_as_they_stand(tmp_path: Path) -> None:
    """What an integrator copies works: the request is taken, and the answer is the one shown. `…`
    stands for what differs each time; a name in angles is remembered."""
    examples = EXAMPLE.findall(PAGE)
    assert len(examples) == PAGE.count("<!-- example") >= 12
    with rig(tmp_path) as shop:
        programmes = shop.world.ledger.programmes
        rules = {**RULES, "acting": ACTING, "refunds": REFUNDS, "offline": OFFLINE}
        programmes.put_programme(rules)
        programmes.put_programme({**RULES, "programme": "love-meal", "name": "爱心餐"})
        shop.till.refresh_pack()
        pad = Pad(shop)
        pad.state()
        pairing.make(shop.till.folder, file=held_code.FILE)
        device = {held_code.HEADER: pairing.read(shop.till.folder, held_code.FILE)}
        families = [shop.world.family(minor + 100) for minor in (18_000, 20_000)]
        for n, family in enumerate(families):  # they shop here
            shop.redeem(f"before-{n}", shop.offer(f"before-{n}", family.token(), milk(100)))
        shop.till.refresh_pack()
        known = {
            "at home": families[0].token(),
            "at home 2": families[1].token(),
            "scanned": shop.world.family(12_000).token(),
            "scanned 2": shop.world.family(12_000).token(),
            "card": print_card(shop.world.family(12_000)).scanned,
            "proxy": act_for(shop.world.family(12_000)),
        }
        for who, method, path, body, answer in examples:
            if who == "the holder enters the PIN":
                assert pad.enter(PIN)["state"] == "proved"
            elif who == "the network goes":
                shop.cut_network()
            elif who == "the network is back":
                shop.mend_network()
            said = json.loads(filled(body, known)) if body else None
            if who == "as the device":
                got = requests.post(shop.url + path, json=said, headers=device, timeout=30)
            else:
                got = shop.call(method, filled(path, known), said)
            matches(json.loads(answer), got.json(), known, f"{method} {path}")
            shop.await_goods_mark()


def filled(text: str, known: dict[str, str]) -> str:
    return re.sub(r"<([a-z_0-9 ]+)>", lambda found: known[found[1]], text)


def matches(shown: Any, got: Any, known: dict[str, str], where: str) -> None:
    if shown == "…":
        return
    if isinstance(shown, str) and (name := re.fullmatch(r"<([a-z_]+)>", shown)):
        if where.endswith((".offer", ".receipt_no")) or name[1] not in known:
            known[name[1]] = got
        assert got == known[name[1]], where
    elif isinstance(shown, dict):
        assert isinstance(got, dict), where
        if "…" not in shown:
            assert shown.keys() == got.keys(), where
        for key in shown.keys() - {"…"}:
            assert key in got, f"{where}.{key}"
            matches(shown[key], got[key], known, f"{where}.{key}")
    elif isinstance(shown, list) and shown != ["…"]:
        assert len(shown) == len(got), where
        for one, other in zip(shown, got, strict=True):
            matches(one, other, known, where)
    elif shown != ["…"]:
        assert shown == got, where


def test_the_table_of_problems_is_the_code() -> None:
    """Every problem stands there with its status and both sentences."""
    table = PAGE.partition("<!-- problems:begin -->\n")[2].partition("\n<!-- problems:end")[0]
    assert table == as_markdown()
