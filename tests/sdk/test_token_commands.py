"""`carepos token …` as a stranger types it: help, exit codes, and nothing said that is a secret."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zxingcpp
from PIL import Image

from carepos import commands
from carepos.keys import unb64

Said = tuple[int, str, str]


class Shell:
    """One working folder, and a keyboard that is a pipe."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, words: str, stdin: str | None = "") -> Said:
        """(exit code, stdout, stderr); without a `stdin` it is closed."""
        piped = None
        if stdin is not None:
            piped = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
        self._monkeypatch.setattr(sys, "stdin", piped)
        try:
            code = commands.main(["token", *words.split()])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = self._capsys.readouterr()
        return code, out, err


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    made = Shell(tmp_path, monkeypatch, capsys)
    assert made("key --folder office --iss https://id.example")[0] == 0
    return made


EXPLAIN = "explain --issuers office/issuers.json --audience urn:carepos:redeem"


@pytest.mark.parametrize("name", ["", "key", "mint", "present", "show", "explain", "sizes"])
def test_every_command_has_help(shell: Shell, name: str) -> None:
    """What it does, its options, its exit codes."""
    code, out, _ = shell(f"{name} --help")
    assert code == 0 and "usage: carepos token" in out
    assert not name or "exit codes: 0" in out


def test_good_refused_unusable(shell: Shell) -> None:
    """0 good, 1 refused, 2 what can't be judged."""
    _, code_text, _ = shell("mint once --folder office")
    assert shell(EXPLAIN, code_text)[0] == 0
    assert shell(EXPLAIN.replace("redeem", "other"), code_text)[0] == 1
    assert shell(EXPLAIN, "hello")[0] == 1
    assert shell(EXPLAIN, "  \n")[0] == 2
    assert shell(EXPLAIN.replace("issuers.json", "jwks.json"), code_text)[0] == 2
    assert shell(EXPLAIN.replace("issuers.json", "nothing.json"), code_text)[0] == 2
    assert shell(f"{EXPLAIN} --at yesterday", code_text)[0] == 2
    assert shell("explain", code_text)[0] == 2
    late = shell(f"{EXPLAIN} --at 2040-01-01T00:00:00+08:00 --json", code_text)
    assert late[0] == 1 and json.loads(late[1])["code"] == "token_expired"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("mint once --folder nowhere", "carepos token key --folder nowhere --iss"),
        ("mint proxy --folder office", "--actor and --reason"),
        ("mint once --folder office --actor a --reason frail", "proxy and witness"),
        ("mint once --folder office --pin-stdin", "for a card"),
        ("mint card --folder office", "--pin-stdin"),
        ("mint wallet --folder office", "--holder"),
        ("mint once --folder office --kid k7", "there are k1"),
        ("mint once --folder office --lifetime 901", "900 s"),
        ("mint once --folder office --sub 13812345678", "phone or identity number"),
        ("mint once --folder office --at 2026-11-22", "with its zone"),
        ("key --folder other", "--iss"),
        ("key --folder office --iss https://another.example", "take another folder"),
        ("key --folder office --drop k1", "signs the new tokens"),
        ("key --folder office --use k1 --alg ES256", "one thing at a time"),
        ("show --file nowhere.txt", "nowhere.txt"),
        ("show a b", "unrecognized"),
        (f"{EXPLAIN} --pin-stdin", "--file"),
        (f"{EXPLAIN} --file office/jwks.json --pin-stdin", "--card-line"),
        (f"{EXPLAIN} --file office/jwks.json --revocations office/jwks.json", "jwks.json"),
        (f"{EXPLAIN} --file office/jwks.json --programme office/jwks.json", "jwks.json"),
    ],
)
def test_an_error_says_what_and_what_to_do(shell: Shell, words: str, said: str) -> None:
    """One line on stderr, exit code 2, nothing on stdout, no traceback."""
    code, out, err = shell(words, "47114711\n")
    assert (code, out) == (2, "")
    assert said in err and "Traceback" not in err
    assert "13812345678" not in err and "47114711" not in err


@pytest.mark.parametrize(
    "words",
    ["mint once --folder office --at 0001-01-01T00:00:00+08:00",
     f"{EXPLAIN} --at 9999-12-31T23:59:59-08:00", f"{EXPLAIN} --file code --programme deep.toml",
     f"{EXPLAIN}", "show", "mint card --folder office --pin-stdin"],
)  # fmt: skip
def test_nothing_that_is_typed_fails_unexpectedly(shell: Shell, words: str) -> None:
    """Times that are none in UTC, a file that nests without end, a stdin that is closed."""
    (shell.folder / "code").write_text(shell("mint once --folder office")[1])
    (shell.folder / "deep.toml").write_text("issuer = 1\na = " + "[" * 50_000)
    code, _, said = shell(words, None)
    assert code == 2 and said.startswith("carepos token: ")


def test_a_byte_order_mark_is_no_part_of_a_code(shell: Shell) -> None:
    """Some shells put one in front of what they pipe."""
    code = shell("mint once --folder office")[1]
    assert shell(EXPLAIN, f"\ufeff{code}")[0] == 0


def test_a_code_as_an_argument_is_warned_of(shell: Shell) -> None:
    """It stays in the shell's history: said on stderr, and it works all the same."""
    _, code_text, _ = shell("mint once --folder office")
    code, out, err = shell(f"show {code_text.strip()}")
    assert code == 0 and "class once" in out
    assert "history" in err and code_text.strip() not in err
    assert "history" not in shell("show -", code_text)[2]


def test_a_card_from_pin_to_proof(shell: Shell) -> None:
    """Two lines: the card, and what the ledger is told; the PIN in neither, nor the secret in the
    second; the QR reads back; the PIN proves the card and another one doesn't."""
    code, out, err = shell("mint card --folder office --pin-stdin --qr card.png", "47114711\n")
    card, line = out.splitlines()
    assert code == 0 and card.startswith("CPC1*")
    assert json.loads(line).keys() == {"iss", "jti_sha256", "sub", "pin_verifier"}
    secret = card.split("*")[1]
    assert secret not in line + err and "47114711" not in out + err
    picture = shell.folder / "card.png"
    assert picture.stat().st_mode & 0o777 == 0o600
    (found,) = zxingcpp.read_barcodes(Image.open(picture))
    assert found.text == card
    (shell.folder / "card.txt").write_text(out)
    judged = f"{EXPLAIN} --file card.txt --card-line card.txt --pin-stdin"
    assert shell(judged, "47114711\n")[0] == 0
    refused = shell(judged, "47114712\n")
    assert refused[0] == 1 and "pin_wrong" in refused[1] and "47114712" not in refused[1]
    shown = shell("show --file card.txt")[1]
    assert "not shown" in shown and secret not in shown


def test_a_pin_is_asked_twice_and_unseen(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a keyboard it is asked without echo, and what differs is not taken."""
    typed: list[str] = []

    def asked(prompt: str) -> str:
        assert "PIN" in prompt or "Once more" in prompt
        return typed.pop(0)

    monkeypatch.setattr("carepos.token_commands.getpass.getpass", asked)
    monkeypatch.setattr("carepos.token_commands._at_a_keyboard", lambda: True)
    typed[:] = ["47114711", "47114711"]
    code, out, _ = shell("mint card --folder office")
    assert code == 0 and not typed
    (shell.folder / "card.txt").write_text(out)
    typed[:] = ["47114711", "47114712"]
    code, out, err = shell("mint card --folder office")
    assert (code, out) == (2, "") and "not the same" in err and "4711" not in err
    typed[:] = ["47114711"]
    assert shell(f"{EXPLAIN} --file card.txt --card-line card.txt --pin")[0] == 0


def test_a_wallet_presents_again(shell: Shell) -> None:
    """The holder's key is made once, 0600; each presentation is another one and is good."""
    code, first, _ = shell("mint wallet --folder office --holder phone.key")
    assert code == 0 and (shell.folder / "phone.key").stat().st_mode & 0o777 == 0o600
    _, again, _ = shell("present --holder phone.key", first)
    assert again != first and again.partition("~")[0] == first.partition("~")[0]
    assert shell(EXPLAIN, first)[0] == shell(EXPLAIN, again)[0] == 0
    assert shell(EXPLAIN, first.partition("~")[0])[0] == 1
    _, once, _ = shell("mint once --folder office")
    assert shell("present --holder phone.key", once)[0] == 2


def test_programme_and_withdrawals_are_looked_at(shell: Shell) -> None:
    """The operator's own file of rules, and the list of what is withdrawn."""
    _, code_text, _ = shell("mint proxy --folder office --actor a1 --reason frail --amr otp")
    rules = shell.folder / "rules.toml"
    rules.write_text(
        'issuer = "https://id.example"\nname = "x"\nstarts_at = 2026-01-01T00:00:00Z\n'
    )
    refused = shell(f"{EXPLAIN} --programme rules.toml", code_text)
    assert refused[0] == 1 and "acting_not_allowed: act" in refused[1]
    rules.write_text(
        'issuer = "https://id.example"\namr_any = ["face"]\n[acting]\nproxy = true\n'
        "witness = false\nhousehold_minor = 100\nactor_minor = 100\nwindow_s = 3600\n"
    )
    assert "token_assurance: amr" in shell(f"{EXPLAIN} --programme rules.toml", code_text)[1]
    gone = {"version": 1, "keys": [{"iss": "https://id.example", "kid": "k1"}], "tokens": []}
    (shell.folder / "gone.json").write_text(json.dumps(gone))
    refused = shell(f"{EXPLAIN} --revocations gone.json", code_text)
    assert refused[0] == 1 and "token_revoked" in refused[1]


def test_keys_turn_over(shell: Shell) -> None:
    """A second key is published, then signs, then the first goes; each step is one command."""
    assert shell("key --folder office --alg RS256")[0] == 0
    assert "kid         k1" in shell("show", shell("mint once --folder office")[1])[1]
    assert shell("key --folder office --use k2")[0] == 0
    assert "kid         k2" in shell("show", shell("mint once --folder office")[1])[1]
    assert shell("key --folder office --drop k1")[0] == 0
    assert shell(EXPLAIN, shell("mint once --folder office")[1])[0] == 0


def test_sizes_are_for_people_and_programs(shell: Shell) -> None:
    """Of the two ways of naming, or of one's own folder."""
    code, out, _ = shell("sizes")
    assert code == 0 and out.count("\n| ") >= 20 and "203 dpi" in out
    rows = json.loads(shell("sizes --folder office --json")[1])
    assert [row["kind"] for row in rows] == ["once", "proxy", "witness", "card", "wallet"]
    assert all(row["L"]["version"] < row["M"]["version"] for row in rows)


def test_the_json_of_mint_is_whole(shell: Shell) -> None:
    """Everything a program needs, in one object."""
    made = json.loads(shell("mint card --folder office --pin-stdin --json", "47114711")[1])
    assert made.keys() == {"code", "token", "jti_sha256", "expires_at", "ledger_line"}
    assert made["ledger_line"]["jti_sha256"] == made["jti_sha256"]


def test_a_sub_that_begins_with_a_hyphen_is_one(shell: Shell) -> None:
    """As one random name in 64 does; what is a wrong use stays one."""
    sub = "-A" + "b" * 20
    code, out, err = shell(f"mint once --folder office --amr face --sub {sub} --json")
    assert code == 0, err
    claims = json.loads(unb64(json.loads(out)["token"].split(".")[1]))
    assert claims["sub"] == sub
    assert shell("mint once --folder office --sub --json")[0] == 2


def test_no_code_is_made_that_can_t_be_drawn(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package it says so before it asks for a PIN or prints anything."""
    monkeypatch.setitem(sys.modules, "qrcode", None)
    code, out, err = shell("mint card --folder office --pin-stdin --qr card.png", "47114711")
    assert (code, out) == (2, "") and "pip install 'carepos[qr]'" in err
    assert len(err.splitlines()) == 1


def test_a_reader_that_has_enough_is_no_error(shell: Shell) -> None:
    """`carepos token sizes | head -1` ends quietly."""
    carepos = Path(sys.executable).with_name("carepos")
    ended = subprocess.run(
        ["sh", "-c", f"{carepos} token sizes | head -1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stdout.startswith("| names") and ended.stderr == ""


@pytest.mark.parametrize(
    ("path", "says"),
    [("nowhere/card.png", "there is no folder nowhere"), ("card.jpg", "let its name end in .png")],
)
def test_a_picture_that_has_no_place_is_told_before_a_code_is_made(
    shell: Shell, path: str, says: str
) -> None:
    """No code on the screen that was to be a picture, and no temporary name in the message."""
    code, out, err = shell(f"mint once --folder office --qr {path}")
    assert (code, out) == (2, "") and says in err


def test_a_qr_on_the_terminal(shell: Shell) -> None:
    """Below the code, in half blocks."""
    lines = shell("mint once --folder office --terminal")[1].splitlines()
    assert "\x1b[30;107m" in lines[1] and len(lines) > 35
