"""`carepos ledger …` about issuers, withdrawn things, cards and acting, against a served ledger."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carepos import clock, token
from carepos.keys import SigningKey, digest
from carepos_ledger.commands import DONE, FAILED, NO
from carepos_ledger.operators import new_secret
from tests.key_server import KeyServer, jwks, key_server, says
from tests.ledger.test_commands import PROGRAMME, Place, Said, carepos, place, settle_in
from tests.world import PROGRAMME as WORLD_PROGRAMME
from tests.world import milk, world

__all__ = ["place"]

ISS = "https://care.example"
HELD, NEW = SigningKey(b"h" * 32), SigningKey(b"n" * 32)
COMMANDS = (
    "issuer issuers refresh-issuers confirm-issuer revoke-key revoke-card revocations "
    "forget-expired card cards unlock-card acted"
)


@pytest.fixture
def keys() -> Iterator[KeyServer]:
    with key_server() as server:
        server.publishes(HELD)
        yield server


def card_code(jti: str, lifetime_s: int = 86_400) -> str:
    """What a scanner reads from a printed card."""
    minted = token.mint(
        HELD, iss=ISS, aud="urn:carepos:redeem", sub="s", jti=jti, issued_at=clock.system_clock(),
        lifetime_s=lifetime_s, token_class="card", amr=("carepos:card",),
    )  # fmt: skip
    return f"CPC1*{'c' * 22}*{minted}"


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_explains_itself(command: str, capsys: Said) -> None:
    """--help of every command names its arguments and ends with 0."""
    assert carepos(command, "--help") == DONE
    assert f"usage: carepos ledger {command}" in capsys.readouterr().out


def test_an_issuer_by_its_address(place: Place, keys: KeyServer, capsys: Said) -> None:
    """Named once, refreshed from cron, shown with its age; when all its keys are others, the
    refusal names what to compare, and exactly that is what confirming takes."""
    assert place.run("issuer", ISS, "--jwks-url", keys.url) == DONE
    assert place.run("refresh-issuers") == DONE
    assert place.run("issuers") == DONE
    shown = capsys.readouterr().out
    assert HELD.kid in shown and keys.url in shown and "0 d 0 h" in shown and "believed" in shown
    keys.publishes(NEW)
    assert place.run("refresh-issuers") == NO
    assert place.run("issuer", ISS, "--jwks-url", keys.url) == NO
    assert place.run("issuers") == NO
    said = capsys.readouterr()
    assert NEW.kid in said.err and "What was held stays" in said.err and "PROBLEM" in said.out
    assert place.run("confirm-issuer", ISS, HELD.kid) == NO
    assert place.run("confirm-issuer", ISS, NEW.kid) == DONE
    assert place.run("issuers", "--json") == DONE
    [listed] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [key["kid"] for key in listed["keys"]] == [NEW.kid]


def test_one_issuer_that_is_away_keeps_no_other_back(
    place: Place, keys: KeyServer, capsys: Said
) -> None:
    """refresh-issuers asks all, says which failed, and ends with 1."""
    with key_server() as other:
        other.publishes(NEW)
        assert place.run("issuer", "https://a.example", "--jwks-url", keys.url) == DONE
        assert place.run("issuer", "https://b.example", "--jwks-url", other.url) == DONE
        keys.answer = says(b"")
        other.publishes(NEW, HELD)
        capsys.readouterr()
        assert place.run("refresh-issuers") == NO
        said = capsys.readouterr()
        assert said.err.startswith("https://a.example: ") and "b.example" in said.out
        assert place.run("issuer", "https://c.example", "--jwks-url", keys.url) == NO
        assert "nothing was changed" in capsys.readouterr().err
    assert place.run("issuers") == NO


def test_an_issuer_from_a_file(place: Place, capsys: Said) -> None:
    """A JWK, a list or a set, of every kind of key; what is not for signing is left out; a private
    key stops it."""
    ec = {"kty": "EC", "crv": "P-256", "kid": "ec",
          "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
          "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}  # fmt: skip
    file = place.here / "keys.json"
    file.write_bytes(jwks(ec, {**ec, "kid": "other", "use": "enc"}))
    assert place.run("issuer", ISS, "--keys", file) == DONE
    assert "1 keys for other purposes" in capsys.readouterr().err
    file.write_text(json.dumps([HELD.public.to_jwk()]))
    assert place.run("issuer", ISS, "--keys", file) == NO
    assert place.run("issuer", ISS, "--keys", file, "--confirmed") == DONE
    for private in ({"d": "A" * 43}, {"k": "A" * 43}, {"p": "A" * 43}):
        file.write_text(json.dumps({**HELD.public.to_jwk(), **private}))
        assert place.run("issuer", ISS, "--keys", file) == FAILED
        said = capsys.readouterr().err
        assert "private key" in said and "A" * 43 not in said
    assert place.run("issuers") == DONE


def test_withdrawing_from_the_shell(
    place: Place, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key by its kid, a card by what a scanner reads or by its name; the list says why; nothing
    that is printed is the code. Expired ones are forgotten."""
    settle_in(place, "1")
    kid, named = place.here / "issuer.json", digest(b"card-9")
    [jwk] = json.loads(kid.read_text("utf-8"))["keys"]
    assert place.run("revoke-key", ISS, jwk["kid"], "--reason", "laptop stolen") == DONE
    scanned = card_code("card-1")
    (place.here / "card.txt").write_text(scanned + "\n")
    for _ in range(2):
        assert place.run("revoke-card", "--token", place.here / "card.txt", "--reason", "lost") == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(card_code("card-2", 1).encode())))
    assert place.run("revoke-card", "--token", "-", "--reason", "lost") == DONE
    assert place.run("revoke-card", "--card", ISS, named, "--reason", "lost") == DONE
    assert place.run("revocations") == DONE
    said = capsys.readouterr()
    for part in ("laptop stolen", digest(b"card-1"), digest(b"card-2"), named):
        assert part in said.out
    for secret in ("c" * 22, scanned[40:90], "card-1"):
        assert secret not in said.out + said.err
    assert place.run("revocations", "--json") == DONE
    listed = json.loads(capsys.readouterr().out)
    assert [each["kind"] for each in listed] == ["key", "token", "token", "token"]
    for odd in ("nobody", "x" * 43):
        assert place.run("revoke-card", "--card", f"https://{odd}", odd, "--reason", "x") == NO
    for text in ("", "x" * 5_000, scanned[:-300], "é", "6901234567892"):
        (place.here / "odd.txt").write_text(text, "utf-8")
        assert place.run("revoke-card", "--token", place.here / "odd.txt", "--reason", "x") == 2
        assert "no identity token" in capsys.readouterr().err


def _cards_file(path: Path, rows: list[tuple[Any, ...]]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("iss", "jti_sha256", "sub", "pin_verifier"), *rows])
    return path


def _enrolled(place: Place, people: int) -> list[str]:
    """The `sub`s of so many households of the sample list."""
    settle_in(place, "142740")
    assert place.issue() == DONE
    with (place.here / "enrolment.csv").open(encoding="utf-8-sig", newline="") as file:
        return [row["sub"] for row in csv.DictReader(file)][:people]


def test_cards_from_an_issuers_file(place: Place, capsys: Said) -> None:
    """The dry run writes nothing and names each refused line; the real run keeps the good ones,
    once; the same file again changes nothing; results are told line by line."""
    people = _enrolled(place, 12)
    rows: list[tuple[Any, ...]] = [
        (ISS, digest(f"card-{n}".encode()), sub, digest(f"pin-{n}".encode()))
        for n, sub in enumerate(people)
    ]
    rows += [
        (ISS, digest(b"card-x"), "nobody", digest(b"pin")),
        (ISS, "short", people[0], digest(b"pin")),
        rows[0],
        (ISS, rows[1][1]),
    ]
    file, results = _cards_file(place.here / "cards.csv", rows), place.here / "results.csv"
    capsys.readouterr()
    for _ in range(2):
        assert place.run("cards", file, "--dry-run", "--chunk", "5") == NO
        said = capsys.readouterr().out
        assert "nothing was written" in said and "12 new, 0 with another PIN, 0 known" in said
        assert all(re.search(rf"│ +{line} │", said) for line in (14, 15, 16, 17))
    assert place.run("cards", file, "--chunk", "5", "--results", results) == NO
    assert "12 new, 0 with another PIN, 0 known before, 4 refused" in capsys.readouterr().out
    with results.open(encoding="utf-8-sig", newline="") as written:
        told = list(csv.DictReader(written))
    assert [row["line"] for row in told] == [str(n) for n in range(2, 18)]
    assert [row["result"] for row in told] == ["created"] * 12 + ["refused"] * 4
    if os.name == "posix":
        assert results.stat().st_mode & 0o777 == 0o600
    good = _cards_file(place.here / "good.csv", rows[:12])
    assert place.run("cards", good) == DONE
    assert "0 new, 0 with another PIN, 12 known before, 0 refused" in capsys.readouterr().out
    verifier = place.here / "verifier"
    verifier.write_text(digest(b"new pin") + "\n")
    one = ("card", ISS, rows[3][1], people[3], "--verifier", verifier)
    assert place.run(*one) == DONE
    assert "Changed" in capsys.readouterr().out
    assert place.run(*one) == DONE
    assert place.run("unlock-card", "--card", ISS, rows[3][1]) == DONE
    assert place.run("unlock-card", "--card", ISS, digest(b"none")) == NO
    verifier.write_text("1234")
    assert place.run(*one) == FAILED
    for broken in ("iss,sub\n", "", '"iss'):
        (place.here / "broken.csv").write_text(broken)
        assert place.run("cards", place.here / "broken.csv") == FAILED
    (place.here / "broken.csv").write_bytes(b"\xff\xfe")
    assert place.run("cards", place.here / "broken.csv") == FAILED


def test_what_the_mint_prints_is_what_the_ledger_reads(place: Place, capsys: Said) -> None:
    """The lines for the ledger of `carepos token mint card`, as they come; with a card's own code
    among them nothing is sent. To withdraw and unlock, its whole output names the card."""
    people = _enrolled(place, 2)
    lines = [
        {"iss": ISS, "jti_sha256": digest(f"card-{n}".encode()), "sub": sub,
         "pin_verifier": digest(b"pin")}
        for n, sub in enumerate(people)
    ]  # fmt: skip
    told = [json.dumps(line) for line in lines]
    file = place.here / "cards.jsonl"
    file.write_text("\n".join([*told, '{"iss": "x"}', "no JSON", told[0]]) + "\n")
    capsys.readouterr()
    assert place.run("cards", file) == NO
    said = capsys.readouterr().out
    assert "2 new, 0 with another PIN, 0 known before, 3 refused" in said
    assert all(re.search(rf"│ +{line} │", said) for line in (3, 4, 5))
    scanned = card_code("card-0")
    file.write_text(f"{told[1]}\n{scanned}\n{told[0]}\n")
    assert place.run("cards", file) == FAILED
    said = capsys.readouterr().err
    assert "must never see" in said and "c" * 22 not in said
    (place.here / "card.txt").write_text(f"{scanned}\n{told[0]}\n")
    assert place.run("unlock-card", "--token", place.here / "card.txt") == DONE
    assert place.run("revoke-card", "--token", place.here / "card.txt", "--reason", "lost") == DONE
    assert lines[0]["jti_sha256"] in capsys.readouterr().out


def test_a_slip_in_a_keys_name_is_told(place: Place, capsys: Said) -> None:
    """A key that the ledger does not hold may be withdrawn ahead; who meant another reads which
    there are, before the stolen one signs on. A name that begins with a hyphen is one."""
    settle_in(place, "1")
    [jwk] = json.loads((place.here / "issuer.json").read_text("utf-8"))["keys"]
    capsys.readouterr()
    assert place.run("revoke-key", ISS, "-h" + "k" * 41, "--reason", "laptop stolen") == NO
    said = capsys.readouterr()
    assert "Made" in said.out and "holds no key of that name" in said.err
    assert jwk["kid"] in said.out
    assert place.run("revoke-key", ISS, jwk["kid"], "--reason", "laptop stolen") == DONE
    assert capsys.readouterr().err == ""


ACTING = """
[acting]
proxy = true
witness = false
household_minor = 50000
actor_minor = 200000
window_s = 2592000
"""


def test_who_may_act_stands_in_the_programmes_file(place: Place, capsys: Said) -> None:
    """`[acting]` in TOML, `"acting"` in JSON, and null or nothing where nobody may; a limit that is
    no whole number of minor units is refused."""
    settle_in(place, "1")
    file = place.here / "programme.toml"
    file.write_text(PROGRAMME + ACTING, "utf-8")
    assert place.run("programme", file) == DONE
    assert place.run("programme", file) == DONE
    said = capsys.readouterr().out
    assert "Changed" in said and "There already" in said
    rules = {
        "programme": "flood-dairy", "name": "奶制品援助", "currency": "CNY",
        "starts_at": "2025-12-31T16:00:00.000Z", "ends_at": "2126-01-01T00:00:00.000Z",
        "product_list": "dairy-list", "issuer": ISS,
        "acting": {"proxy": True, "witness": False, "household_minor": 50_000,
                   "actor_minor": 200_000, "window_s": 2_592_000},
    }  # fmt: skip
    as_json = place.here / "programme.json"
    as_json.write_text(json.dumps(rules), "utf-8")
    assert place.run("programme", as_json) == DONE
    assert "There already" in capsys.readouterr().out
    as_json.write_text(json.dumps({**rules, "acting": None}), "utf-8")
    assert place.run("programme", as_json) == DONE
    for odd in ("household_minor = 500.00", "household_minor = -1", 'household_minor = "1"'):
        file.write_text(PROGRAMME + ACTING.replace("household_minor = 50000", odd), "utf-8")
        assert place.run("programme", file) in (NO, FAILED)
        assert "Traceback" not in capsys.readouterr().err


def test_an_audit_of_who_acted(tmp_path: Path, capsys: Said) -> None:
    """Each redemption that somebody made for another, as a table and as CSV; the actor as a hash,
    and never the token."""
    with world(tmp_path) as made:
        secret = new_secret()
        made.ledger.operators.add("audit", secret)
        (tmp_path / "operator.secret").write_text(secret, "ascii")
        rule = {"proxy": True, "witness": True, "household_minor": 50_000, "actor_minor": 50_000,
                "window_s": 86_400}  # fmt: skip
        made.ledger.programmes.put_programme({**WORLD_PROGRAMME, "acting": rule})
        till = made.till()
        for n, reason in enumerate(("frail", "card_lost")):
            made.now.forward(minutes=1)
            code = made.family().token(act={"sub": "actor-1"}, care_reason=reason)
            sale = till.redeem(till.propose(code, [milk()]), checkout=f"S{n}", cashier="c01")
            assert sale.state == "confirmed"
        where = ("--folder", tmp_path, "--url", made.url)
        assert carepos("acted", "flood-dairy", *where) == DONE
        shown = capsys.readouterr().out
        assert "64.90 CNY" in shown and "card_lost" in shown
        assert carepos("acted", "flood-dairy", "--csv", tmp_path / "a.csv", *where) == DONE
        with (tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["reason"] for row in rows] == ["frail", "card_lost"]
        assert {row["actor_sha256"] for row in rows} == {digest(b"https://issuer.test|actor-1")}
        assert {(row["amount_minor"], row["reversed"]) for row in rows} == {("6490", "false")}


def test_an_audit_of_nobody(place: Place, capsys: Said) -> None:
    """Without acted redemptions the list says so, and the CSV has its head."""
    settle_in(place, "1")
    capsys.readouterr()
    assert place.run("acted", "flood-dairy") == DONE
    assert "Nobody acted" in capsys.readouterr().out
    assert place.run("acted", "flood-dairy", "--csv", "-") == DONE
    assert capsys.readouterr().out.startswith("recorded_at,way,reason,amount_minor,")
    assert place.run("acted", "nothing") == NO
