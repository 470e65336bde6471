"""Canaries while keys change: a till's and the ledger's, and what operators do about issuers' keys
and cards. Each public function is a surface of T-12 (tests/stories/test_t12_privacy.py)."""

from __future__ import annotations

import json

from carepos import key_change
from carepos.key_change import KEY_FILE
from carepos.keys import SigningKey, b64, digest
from carepos_ledger.keyring import POINTS as ROTATION_POINTS
from tests.canary_counter import CARD
from tests.canary_stage import ISSUER, PROGRAMME, Stage

SWITCH_POINTS = key_change.POINTS[1:]
"""The first is passed where the running till itself wishes for a new key."""


def a_tills_key(stage: Stage) -> None:
    """The key of a till changes, also when the power goes in the middle of it: of the old one
    there is nothing left, not even where its file lay."""
    file = stage.till_folder / KEY_FILE
    for point in SWITCH_POINTS if stage.on_sqlite else ():  # it is the same till
        with stage.replacing("till key", file):
            stage.till_plug.pull_at(point)
            stage.command("till", "change-key", "--folder", "till", codes=(0, 1, 2))
            stage.died("plugin")
            stage.start_plugin()
            stage.register("POST", "/api/settle", {})
    with stage.replacing("till key", file):
        stage.killed("plugin")
        key_change.wish(stage.till_folder)
        stage.start_plugin()
        stage.register("POST", "/api/settle", {})
    with stage.replacing("till key", file):
        with stage.without_ledger():
            stage.command("till", "change-key", "--folder", "till", codes=(1,))
            stage.command("till", "status", "--folder", "till")
        stage.register("POST", "/api/settle", {})
    assert stage.sell(stage.token(stage.subs[14]))["state"] == "confirmed"
    stage.command("till", "verify", "--folder", "till")


def the_ledgers_key(stage: Stage) -> None:
    """The ledger's signing key is rotated, with the wrong root key, without one, cut off in the
    middle and at last: of the old one there is nothing left, and tills go on selling."""
    folder, root = ("--folder", "ledger"), stage.ledger_folder / "root.key"
    inputs = stage.folder / "office" / "input"
    stage.command("ledger", "keys", *folder)
    (inputs / "names.key").write_text(stage.plant("name", "金丝雀根钥吴"), "utf-8")
    stranger = SigningKey.generate()
    stage.plant("stranger's key", stranger.private_key().private_bytes_raw())
    stranger.save(inputs / "stranger.key")
    for name in ("names.key", "stranger.key", "no.key"):
        wrong = ("--root", f"office/input/{name}")
        stage.command("ledger", "rotate-key", *folder, *wrong, codes=(2,))
    with stage.replacing("ledger key", stage.ledger_folder / "signing.key"):
        for point in ROTATION_POINTS:
            stage.ledger_plug.pull_at(point)
            stage.start("rotation", "ledger", "ledger.plug")
            stage.died("rotation")
            stage.command("ledger", "keys", *folder)
            stage.over("ledger")
            stage.start_ledger()
            assert stage.sell(stage.token(stage.subs[14]))["state"] == "confirmed"
        root.rename(inputs / "root.key")
        stage.command("ledger", "rotate-key", *folder, codes=(2,))
        stage.command("ledger", "rotate-key", *folder, "--root", "office/input/root.key")
        (inputs / "root.key").rename(root)
    stage.over("ledger")
    stage.start_ledger()
    assert stage.sell(stage.token(stage.subs[14]))["state"] == "confirmed"


def issuers_and_cards(stage: Stage) -> None:
    """Issuers' keys as they come, private ones among them; cards that are lost, locked, told of
    twice; who acted. What a scanner reads from a card comes in a file or from the keyboard."""
    folder, inputs = ("--folder", "ledger"), stage.folder / "office" / "input"
    private = SigningKey.generate()
    number = private.private_key().private_bytes_raw()
    stage.plant("issuer key", number)
    name = stage.plant("name", "金丝雀发卡潘")
    for n, keys in enumerate((
        [{**private.public.to_jwk(), "d": b64(number)}],
        [{**private.public.to_jwk(), "kid": name}],
        {name: [name]},
        [],
    )):  # fmt: skip
        (inputs / f"keys{n}.json").write_text(json.dumps({"keys": keys}), "utf-8")
        stage.command(
            "ledger", "issuer", ISSUER, "--keys", f"office/input/keys{n}.json", *folder, codes=(2,)
        )
    nowhere = ("https://canary.example", "--jwks-url", "http://127.0.0.1:1/jwks.json")
    stage.command("ledger", "issuer", *nowhere, *folder, codes=(0, 1, 2))
    stage.command("ledger", "issuers", *folder, codes=(0, 1))
    stage.command("ledger", "issuers", "--json", *folder, codes=(0, 1))
    stage.command("ledger", "refresh-issuers", *folder, codes=(0, 1))
    lost = stage.token(stage.subs[13], token_class="card", lifetime_s=86_400, amr=CARD)
    secret = stage.plant("card secret", "canary_card_secret_0003"[:22])
    for code, codes in ((f"CPC1*{secret}*{lost}", (0,)), (lost[:-9], (2,)), (name, (2,))):
        (inputs / "card.txt").write_text(f"{code}\n", "utf-8")
        of = ("--token", "office/input/card.txt")
        stage.command("ledger", "unlock-card", *of, *folder, codes=(0, 1, 2))
        stage.command("ledger", "revoke-card", *of, "--reason", "lost", *folder, codes=codes)
        typed = ("--token", "-", "--reason", "lost", *folder)
        stage.command("ledger", "revoke-card", *typed, stdin=f"{code}\n", codes=(0, 1, 2))
    stage.offer(f"CPC1*{secret}*{lost}")
    stage.command("ledger", "revocations", *folder)
    stage.command("ledger", "revocations", "--json", *folder)
    (inputs / "cards.csv").write_text(
        f"iss,jti_sha256,sub,pin_verifier\n{ISSUER},{name},{stage.subs[13]},{lost}\n", "utf-8"
    )
    for more in (("--dry-run",), ("--results", "office/cards-results.csv")):
        stage.command("ledger", "cards", "office/input/cards.csv", *more, *folder, codes=(1,))
    one = ("card", ISSUER, digest(b"canary.card~3"), stage.subs[13], "--verifier", "-")
    for verifier, codes in ((digest(b"canary"), (0,)), (name, (2,))):
        stage.command("ledger", *one, *folder, stdin=f"{verifier}\n", codes=codes)
    (inputs / "cards.csv").write_bytes(f"{name}\n".encode("gb18030"))
    stage.command("ledger", "cards", "office/input/cards.csv", *folder, codes=(2,))
    stage.command("ledger", "forget-expired", *folder)
    stage.command("ledger", "acted", PROGRAMME, *folder)
    stage.command("ledger", "acted", PROGRAMME, "--csv", "office/acted.csv", *folder)
