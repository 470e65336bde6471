"""`carepos till …` as a shop types it: beside a running plugin, and without one."""

from __future__ import annotations

import functools
import io
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from carepos import Unreachable, signed_time
from carepos.client import Transport
from carepos.commands import main
from carepos.key_change import load_terminal
from carepos_plugin import app, held_code, pairing
from carepos_plugin.client import is_running
from carepos_plugin.settings import FILE, Settings
from sample_merchant.shop import Plugin
from tests.cards import PIN, RULES, SECRET, WRONG, print_card
from tests.pos_plugin.rig import Rig, milk, rig, write_settings
from tests.world import World, end, world

CHECKOUT = "S1-000001"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit code, stdout, stderr) of one command, and never a traceback."""

    def type_in(*words: object) -> tuple[int, str, str]:
        try:
            code = main(["till", *map(str, words)])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return type_in


@contextmanager
def _small_world(folder: Path, now: datetime | None = None) -> Iterator[World]:
    with world(folder) as made:
        made.now.at = now or made.now.at
        try:
            yield made
        finally:
            end(made.server)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A shop whose plugin serves; the world's clock is everybody's."""
    with rig(tmp_path, printer="file:receipts") as opened:
        folder = opened.till.folder
        Settings.write_default(folder)
        port = int(opened.url.rsplit(":", 1)[1])
        write_settings(folder, port=port, printer="file:receipts")
        real = functools.partial(app.opened, now=opened.world.now)
        monkeypatch.setattr(app, "opened", real)
        yield opened


def _stopped(shop: Rig) -> Path:
    """The plugin is stopped; its port is closed to the commands by the journal's free lock."""
    shop.till.close()
    return shop.till.folder


def test_enrolment_leaves_everything_that_serving_needs(tmp_path: Path, run: Run) -> None:
    """One command with the code: key, settings, secret, next steps; twice changes nothing."""
    with _small_world(tmp_path) as made:
        code = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        folder = tmp_path / "new till"
        words = ("enrol", "--url", made.url, "--code", code, "--folder", folder)
        done, out, err = run(*words)
        assert (done, err) == (0, "")
        assert "周家超市 古州店" in out
        assert f"carepos till serve --folder {folder}" in out
        secret = pairing.read(folder)
        assert Settings.load(folder).port == 8450
        assert secret not in out
        assert code.split(".")[1] not in out
        kept = {path.name: path.read_bytes() for path in folder.iterdir()}
        done, out, err = run(*words)
        assert done == 1
        assert "enrolled already" in err and "another folder" in err
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_a_lost_pairing_secret_is_made_again(shop: Rig, run: Run) -> None:
    """The way out that the plugin names: delete the secret, enrol again; it says what it wrote."""
    folder = _stopped(shop)
    (folder / pairing.FILE).unlink()
    words = ("enrol", "--url", shop.world.url, "--code", "used", "--folder", folder)
    done, _, err = run(*words)
    assert (done, "enrolled already" in err) == (1, True)
    assert f"a new {pairing.FILE} was made" in err
    assert "nothing was changed" not in err
    assert len(pairing.read(folder)) == 43
    done, _, err = run(*words)
    assert (done, "nothing was changed" in err) == (1, True)


def test_a_till_whose_key_is_gone_is_not_sent_in_a_circle(shop: Rig, run: Run) -> None:
    """Neither command names the other: the key is put back, or a new till enrolled elsewhere."""
    folder = _stopped(shop)
    (folder / "terminal.key").rename(folder / "away.key")
    for words in (
        ("enrol", "--url", shop.world.url, "--code", "new"),
        ("status",),
        ("settle",),
    ):
        done, out, err = run(*words, "--folder", folder)
        assert (done, out) == (2, "")
        assert "terminal.key is gone" in err and "in another one" in err
    done, out, _ = run("export", folder / "all.records", "--all", "--folder", folder)
    assert done == 0 and "records" in out
    (folder / "away.key").rename(folder / "terminal.key")
    assert run("status", "--folder", folder)[0] == 0


def test_a_broken_chain_says_what_to_do(shop: Rig, run: Run) -> None:
    """Whatever opens the till: its journal goes to the office, and a new till is enrolled."""
    folder = _stopped(shop)
    path = folder / "journal.db"
    with closing(sqlite3.connect(path)) as journal:
        journal.execute("DROP TRIGGER records_stay")
        journal.execute("UPDATE records SET digest = 'x' WHERE sequence = 1")
        journal.commit()
    for words in (("settle",), ("close-day",)):
        done, out, err = run(*words, "--folder", folder)
        assert (done, out) == (2, "")
        assert "chain of records does not hold" in err
        assert "carepos till export FILE --all" in err and "enrol a new till" in err
    assert run("export", folder / "all.records", "--all", "--folder", folder)[0] == 0


def test_the_code_can_come_from_standard_input(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--code -` keeps the code out of the list of processes."""
    with _small_world(tmp_path) as made:
        code = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        monkeypatch.setattr("sys.stdin", _Line(code + "\n"))
        words = ("enrol", "--url", made.url, "--code", "-", "--folder", tmp_path / "t")
        assert run(*words)[0] == 0


class _Line:
    def __init__(self, text: str) -> None:
        self._text = text

    def readline(self) -> str:
        return self._text


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("hello", "not an activation code"),
        (f"cp1.{'A' * 22}.{'A' * 43}", "not the ledger this code is for"),
    ],
)
def test_a_wrong_code_says_what_to_do(tmp_path: Path, run: Run, code: str, says: str) -> None:
    """Enrolling with a wrong code is one sentence, and can be repeated with the right one."""
    with _small_world(tmp_path) as made:
        words = ("enrol", "--url", made.url, "--folder", tmp_path / "t", "--code")
        done, _, err = run(*words, code)
        assert (done, says in err) == (2, True), err
        assert len(err.splitlines()) == 1
        good = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        assert run(*words, good)[0] == 0


def test_a_code_that_another_till_used_says_what_to_do(tmp_path: Path, run: Run) -> None:
    """What happened and who gives a new code, instead of a bare status."""
    with _small_world(tmp_path) as made:
        code = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        words = ("enrol", "--url", made.url, "--code", code, "--folder")
        assert run(*words, tmp_path / "one")[0] == 0
        done, _, err = run(*words, tmp_path / "two")
        assert done == 2
        assert "This activation code was used by another till;" in err
        assert "carepos ledger activate" in err


def test_a_till_that_was_never_started_is_told_so(tmp_path: Path, run: Run) -> None:
    """Right after enrolling there is no journal to look at; that is no damage."""
    with _small_world(tmp_path) as made:
        code = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        folder = tmp_path / "t"
        assert run("enrol", "--url", made.url, "--code", code, "--folder", folder)[0] == 0
        for command in ("status", "verify"):
            done, _, err = run(command, "--folder", folder)
            assert (done, "never started (carepos till serve)" in err) == (2, True)


def test_a_ledger_that_is_not_there_says_so(tmp_path: Path, run: Run) -> None:
    """A wrong address is one sentence with the address in it."""
    code = f"cp1.{'A' * 22}.{'A' * 43}"
    words = ("--url", "http://127.0.0.1:1", "--code", code, "--folder", tmp_path)
    done, _, err = run("enrol", *words)
    assert done == 2
    assert "is the address right? (http://127.0.0.1:1)" in err


_NEED_A_TILL = [
    ("serve",),
    ("status",),
    ("verify",),
    ("settle",),
    ("close-day",),
    ("reprint", "0001-000002-1"),
    ("goods", CHECKOUT, "--kept"),
    ("cancel", CHECKOUT),
]


@pytest.mark.parametrize("words", _NEED_A_TILL)
def test_a_folder_without_a_till(tmp_path: Path, run: Run, words: tuple[str, ...]) -> None:
    """Every command says that the folder is no till and what to type."""
    done, _, err = run(*words, "--folder", tmp_path)
    assert done == 2
    assert "carepos till enrol" in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [(), ("nonsense",), ("goods", CHECKOUT), ("goods", CHECKOUT, "--kept", "--handed-over")],
)
def test_wrong_usage(run: Run, words: tuple[str, ...]) -> None:
    """Wrong words are exit code 2 with the usage."""
    done, _, err = run(*words)
    assert done == 2
    assert "usage:" in err


def test_help_lists_every_command(run: Run) -> None:
    """`carepos till --help` shows what there is, in both languages."""
    done, out, _ = run("--help")
    assert done == 0
    for name in (
        *("enrol", "serve", "status", "verify", "settle"),
        *("close-day", "reprint", "goods", "cancel"),
    ):
        assert name in out


@pytest.mark.parametrize("running", [True, False])
def test_status_says_what_is_open_and_what_next(shop: Rig, run: Run, running: bool) -> None:
    """The same sentences whether the plugin runs or not, for people and for programs."""
    sale = shop.sell_unknown()
    folder = shop.till.folder if running else _stopped(shop)
    assert is_running(folder) is running
    done, out, _ = run("status", "--folder", folder)
    assert done == 0
    assert f"{CHECKOUT}  {sale['receipt_no']}  64.90 CNY  unknown" in out
    assert "No answer yet. Do not hand over goods." in out
    assert "尚无结果" in out
    assert ("not running" in out) is not running and "carepos till accept" not in out
    done, out, _ = run("status", "--json", "--folder", folder)
    assert [each["checkout"] for each in json.loads(out)["open"]] == [CHECKOUT]


@pytest.mark.parametrize("running", [True, False])
def test_nothing_is_said_to_happen_by_itself_while_no_plugin_runs(
    shop: Rig, run: Run, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    """What would be asked, sent or uploaded says that the plugin has to be started."""
    by_itself = ("keeps asking", "asks again", "keeps sending", "up by themselves", "终端会持续")
    sale = shop.sell("S1-void")
    shop.sell_unknown()

    def no_answer(*_: object, **__: object) -> None:
        raise Unreachable("no answer from the ledger")

    monkeypatch.setattr(Transport, "call", no_answer)
    body = {"receipt_no": sale["receipt_no"], "cashier": "c01", "reason": "other"}
    assert shop.post("/api/checkouts/S1-void/void", body)["state"] == "waiting"
    folder = shop.till.folder if running else _stopped(shop)
    for words in (("status",), ("settle",)):
        _, out, _ = run(*words, "--folder", folder)
        assert any(said in out for said in by_itself) is running, out
        assert ("start it (carepos till serve)" in out) is not running
    found = json.loads(run("status", "--json", "--folder", folder)[1])
    assert (found["open"][0]["next_try"] is not None) is running
    _, out, _ = run("cancel", CHECKOUT, "--folder", folder)
    assert "reversing" in out and ("start it (carepos till serve)" in out) is not running
    _, out, _ = run("void", "S1-void", "--folder", folder)
    assert "waiting" in out and ("start it (carepos till serve)" in out) is not running


@pytest.mark.parametrize("running", [True, False])
def test_status_says_how_old_pack_and_keys_are(shop: Rig, run: Run, running: bool) -> None:
    """So that somebody sees that a till was cut off for days before it stops selling."""
    shop.sell()
    folder = shop.till.folder if running else _stopped(shop)
    shop.world.now.forward(days=2, hours=3, minutes=4)
    done, out, _ = run("status", "--json", "--folder", folder)
    held = json.loads(out)["pack"]
    assert done == 0 and held["issued_at"] == "2026-11-22T08:00:00.000Z"
    assert held["issuers"] == [{"iss": "https://issuer.test", "keys": 1}]
    assert held["revocations_version"] == 0
    # Without the plugin it is this machine's clock that tells the age.
    assert not running or held["age_s"] == 2 * 86_400 + 3 * 3_600 + 4 * 60
    _, out, _ = run("status", "--folder", folder)
    assert "Pack 离线包: 2026-11-22T08:00:00.000Z, age" in out and "密钥 1, of the same age" in out
    assert not running or "2 d 3 h 4 min" in out


def test_looking_writes_nothing(shop: Rig, run: Run) -> None:
    """Status and verify of a stopped till leave its journal as it is, to the last record."""
    shop.sell()
    folder, before = shop.till.folder, shop.till.journal.sequence
    _stopped(shop)
    assert run("status", "--folder", folder)[0] == 0
    assert run("verify", "--folder", folder)[0] == 0
    assert shop.world.till().journal.sequence == before + 1


@pytest.mark.parametrize("running", [True, False])
def test_cancel_and_begin_again(shop: Rig, run: Run, running: bool) -> None:
    """An unknown sale is cancelled from the command line; twice is as once."""
    shop.sell_unknown()
    folder = shop.till.folder if running else _stopped(shop)
    done, out, err = run("cancel", CHECKOUT, "--folder", folder)
    assert (done, err) == (0, "")
    assert "reversed" in out
    assert shop.world.balance() == 12_000
    assert run("cancel", CHECKOUT, "--folder", folder) == (0, out, "")
    done, _, err = run("goods", CHECKOUT, "--kept", "--folder", folder)
    assert (done, "Nobody asks about the goods" in err, "无需回答" in err) == (1, True, True)
    assert not any(word in err for word in ("event", "reversed", "goods_kept"))
    done, _, err = run("cancel", "S1-404", "--folder", folder)
    assert done == 1
    assert "No redemption was begun" in err


@pytest.mark.parametrize(("answer", "state"), [("--handed-over", "confirmed"), ("--kept", "rev")])
def test_settle_asks_and_goods_answers(shop: Rig, run: Run, answer: str, state: str) -> None:
    """After a restart settling finds the posting; the cashier's answer ends the sale."""
    shop.sell_unknown()
    folder = _stopped(shop)
    done, out, _ = run("settle", "--folder", folder)
    assert done == 1  # something is open: the cashier's answer
    assert "Were the goods handed over?" in out
    done, out, _ = run("goods", CHECKOUT, answer, "--folder", folder)
    assert done == 0
    assert state in out
    assert run("goods", CHECKOUT, answer, "--folder", folder) == (0, out, "")
    other = "--kept" if answer == "--handed-over" else "--handed-over"
    done, _, err = run("goods", CHECKOUT, other, "--folder", folder)
    assert (done, "It was said that" in err, "此前已回答" in err) == (1, True, True)
    done, out, _ = run("settle", "--folder", folder)
    assert (done, "Nothing is open" in out) == (0, True)


@pytest.mark.parametrize("running", [True, False])
def test_settle_says_what_became_of_what_was_open(shop: Rig, run: Run, running: bool) -> None:
    """A sale that it ends is told with its new state, and what to do with the goods."""
    shop.sell_unknown(point="committed" if running else "written")
    folder = shop.till.folder if running else _stopped(shop)
    done, out, _ = run("settle", "--folder", folder)
    assert (done, "Nothing is open" in out) == (0, True)
    first, told = out.splitlines()[:2]
    assert first.startswith(f"{CHECKOUT}  ")
    assert first.endswith("  confirmed" if running else "  reversed")
    assert ("Hand over the goods." if running else "nothing was taken") in told
    assert run("settle", "--folder", folder)[1].startswith("Nothing is open")


@pytest.mark.parametrize("running", [True, False])
def test_close_day(shop: Rig, run: Run, running: bool) -> None:
    """The Z with its sums, once however often it is typed."""
    shop.sell()
    folder = shop.till.folder if running else _stopped(shop)
    for _ in range(2):
        done, out, _ = run("close-day", "--folder", folder)
        assert done == 0
        assert "Z 1  2026-11-22: 1 redeemed" in out
        assert "flood-dairy: 1 × = 64.90 CNY" in out
        assert "The ledger has it." in out
    done, _, err = run("close-day", "--date", "2026-02-30", "--folder", folder)
    assert (done, "no such day" in err) == (2, True)


@pytest.mark.parametrize("running", [True, False])
def test_without_a_network_the_day_is_closed_and_goes_up_later(
    shop: Rig, run: Run, running: bool
) -> None:
    """Day close needs no network; settling says that the ledger gave no answer."""
    shop.sell()
    folder = shop.till.folder if running else _stopped(shop)
    shop.cut_network()
    end(shop.world.server)
    done, out, _ = run("settle", "--folder", folder)
    assert (done, "gave no answer that counts (" in out) == (1, True)
    done, out, _ = run("close-day", "--folder", folder)
    assert (done, "does not have it yet" in out) == (0, True)
    done, out, _ = run("status", "--folder", folder)
    assert done == 0
    assert "Not uploaded 未上传: 0" not in out


@pytest.mark.parametrize("running", [True, False])
def test_reprint(shop: Rig, run: Run, running: bool) -> None:
    """A reprint goes to the printer of the settings and says COPY; a wrong number is a no."""
    number = shop.sell()["receipt_no"]
    folder = shop.till.folder if running else _stopped(shop)
    done, out, _ = run("reprint", number, "--folder", folder)
    assert (done, "COPY" in out) == (0, True)
    assert shop.till.folder.joinpath("receipts").exists() is not running
    done, _, err = run("reprint", "0001-000009-7", "--folder", folder)
    assert (done, "no receipt of this number" in err) == (1, True)
    done, _, err = run("reprint", "0001-000009-8", "--folder", folder)
    assert (done, "a digit is wrong" in err) == (2, True)


def test_verify_names_a_record_that_was_changed(shop: Rig, run: Run) -> None:
    """T-5: an intact journal verifies beside the running plugin; a changed one is a no."""
    shop.sell()
    folder = shop.till.folder
    done, out, _ = run("verify", "--folder", folder)
    assert (done, "good" in out) == (0, True)
    database = shop.till.journal._db
    database.execute("DROP TRIGGER records_stay")
    row = database.execute("SELECT jws FROM records WHERE sequence = 2").fetchone()[0]
    database.execute("UPDATE records SET jws = ? WHERE sequence = 2", (row[:-4] + "AAAA",))
    done, out, _ = run("verify", "--folder", folder)
    assert done == 1
    assert "NOT GOOD" in out


def test_a_journal_damaged_anywhere_is_told_in_one_sentence(shop: Rig, run: Run) -> None:
    """T-5: whichever page of the file a dying disk has spoiled, no command answers a traceback."""
    for n in range(3):
        shop.sell(f"S1-00000{n}")
    folder = _stopped(shop)
    path = folder / "journal.db"
    whole = path.read_bytes()
    told = set()
    for start in range(0, len(whole), 4096):
        path.write_bytes(whole[:start] + b"\xa5" * 4096 + whole[start + 4096 :])
        for command in ("verify", "status", "settle"):
            done, out, err = run(command, "--folder", folder)
            told.add((command, done))
            assert len((out + err).splitlines()) < 20
        path.write_bytes(whole)
    assert ("verify", 1) in told or ("verify", 2) in told
    path.write_bytes(whole)
    assert run("verify", "--folder", folder)[0] == 0


def test_a_till_held_by_something_else(shop: Rig, run: Run) -> None:
    """The journal is locked and nobody answers: one sentence says what to look at."""
    write_settings(shop.till.folder, port=1)
    done, _, err = run("settle", "--folder", shop.till.folder)
    assert done == 2
    assert "no plugin answers at http://127.0.0.1:1" in err


def test_a_wrong_setting_is_named(shop: Rig, run: Run) -> None:
    """A slip in plugin.toml is one sentence with the setting's name."""
    folder = _stopped(shop)
    write_settings(folder, columns=40)
    done, _, err = run("serve", "--folder", folder)
    assert done == 2
    assert f"{FILE}, setting columns: must be 32, 42 or 48" in err


def test_a_port_that_is_taken(shop: Rig, run: Run) -> None:
    """Serving on a port in use says so and names the setting."""
    folder = _stopped(shop)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        write_settings(folder, port=taken.getsockname()[1])
        done, _, err = run("serve", "--folder", folder)
    assert done == 2
    assert "another plugin" in err
    assert not is_running(folder)


def test_an_address_that_is_not_this_computers(shop: Rig, run: Run) -> None:
    """A host of another machine is called that, and not a second plugin."""
    folder = _stopped(shop)
    write_settings(folder, host="192.0.2.7")
    done, _, err = run("serve", "--folder", folder)
    assert done == 2
    assert "192.0.2.7 is not an address of this computer" in err
    assert "another plugin" not in err
    assert not is_running(folder)


def test_a_shop_without_a_printer_is_told_so(shop: Rig, run: Run) -> None:
    """printer = "none": a reprint is refused with what to do instead of waiting for nothing."""
    number = shop.sell()["receipt_no"]
    folder = _stopped(shop)
    write_settings(folder, printer="none")
    done, _, err = run("reprint", number, "--folder", folder)
    assert (done, "This till has no printer of its own" in err) == (1, True)


def test_pin_pad_gives_a_link_that_works_once(shop: Rig, run: Run) -> None:
    """Beside a running plugin: a link for the screen that faces the holder; without one, what to
    start. The link's code is behind the # and so in no request's address."""
    folder = shop.till.folder
    code, out, _ = run("pin-pad", "--folder", folder)
    link = next(line.strip() for line in out.splitlines() if "/pin-pad#" in line)
    assert code == 0 and link.startswith("http://127.0.0.1:") and "devices_host" in out
    paired = requests.post(
        f"{shop.url}/pin-pad/pair", json={"code": link.partition("#")[2]}, timeout=30
    )
    assert paired.status_code == 200
    assert "its page is closed" in run("status", "--folder", folder)[1]
    assert run("pin-pad", "--folder", folder, "--forget")[0] == 0
    assert shop.get("/api/status")["pin_pad"]["paired"] is False
    code, _, err = run("pin-pad", "--folder", _stopped(shop))
    assert code == 1 and "carepos till serve" in err


def test_device_makes_a_secret_once(shop: Rig, run: Run) -> None:
    """It names the file, the header and the address, and never shows the secret."""
    folder = shop.till.folder
    assert "made" in (first := run("device", "--folder", folder))[1]
    secret = pairing.read(folder, held_code.FILE)
    assert "kept" in (second := run("device", "--folder", folder))[1]
    assert pairing.read(folder, held_code.FILE) == secret
    assert f"{shop.url}/device/code" in first[1] and held_code.HEADER in first[1]
    assert secret not in f"{first}{second}"
    assert run("device", "--folder", folder / "nothing")[0] == 2


def test_device_says_when_its_secret_opens_nothing(shop: Rig, run: Run) -> None:
    """Others can read it, or it is damaged: said with what to do, not "kept"."""
    folder = shop.till.folder
    run("device", "--folder", folder)
    path = folder / held_code.FILE
    for mode, content in ((0o644, path.read_bytes()), (0o600, b"")):
        path.write_bytes(content)
        path.chmod(mode)
        code, out, err = run("device", "--folder", folder)
        assert code == 2 and "kept" not in out and held_code.FILE in err
    path.chmod(0o644)
    assert "carepos till device" in run("device", "--folder", folder)[2]


def test_scan_says_what_a_code_is(shop: Rig, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a shell, code and PIN by stdin and never repeated: what it looks like, whether the PIN
    is right, what is left."""
    shop.world.ledger.programmes.put_programme(RULES)
    card = print_card(shop.world.family(12_000))
    phone = shop.world.family(5_000).token()
    assert run("scan", "--folder", shop.till.folder)[0] == 1  # the plugin has it open
    folder = _stopped(shop)

    def scan(expected: int, text: str, *words: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        code, out, err = run("scan", "--folder", folder, *words)
        assert code == expected, err
        assert not any(part in out + err for part in (card.token, phone, SECRET, PIN, WRONG))
        return out

    assert "payment_code" in scan(1, "134567890123456789\n")
    assert "pin_required" in scan(1, f"{card.scanned}\n")
    assert "Tries left: 4" in scan(1, f"{card.scanned}\n{WRONG}\n", "--pin-stdin")
    assert "120.00 CNY" in scan(0, f"{card.scanned}\n{PIN}\n", "--pin-stdin")
    assert "50.00 CNY" in scan(0, f"{phone}\n")


@pytest.mark.parametrize("missing", ["escpos", "flask"])
def test_a_missing_library_is_told_at_the_start(missing: str) -> None:
    """Printing is imported at the first receipt; that it is there at all is known before a sale."""
    program = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "from carepos.commands import main\n"
        "sys.exit(main(['till']))\n"
    )
    done = _typed([sys.executable, "-c", program])
    assert done.returncode == 2
    assert done.stderr == f"carepos till needs {missing}: pip install 'carepos[plugin]'\n"


def test_serve_is_a_process_that_answers_and_ends(tmp_path: Path) -> None:
    """`carepos till serve` answers its register, refuses a second one, and ends on SIGTERM."""
    with _small_world(tmp_path, now=datetime.now(UTC)) as made:
        folder = tmp_path / "till"
        code = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        words = ["enrol", "--url", made.url, "--code", code, "--folder", str(folder)]
        assert main(["till", *words]) == 0
        port = _free_port()
        write_settings(folder, port=port)
        command = [sys.executable, "-m", "carepos.commands", "till"]
        with _serving([*command, "serve", "--folder", str(folder)]) as served:
            assert served.stdout is not None
            assert f"http://127.0.0.1:{port}" in served.stdout.readline()
            answer = requests.get(
                f"http://127.0.0.1:{port}/api/status",
                headers={pairing.HEADER: pairing.read(folder)},
                timeout=10,
            )
            assert answer.status_code == 200
            again = _typed([*command, "serve", "--folder", str(folder)])
            assert (again.returncode, "is another plugin running?" in again.stderr) == (2, True)
            write_settings(folder, port=_free_port())
            again = _typed([*command, "serve", "--folder", str(folder)])
            assert (again.returncode, "has this journal open" in again.stderr) == (2, True)
            served.send_signal(signal.SIGTERM)
            _, err = served.communicate(timeout=30)
            assert (served.returncode, err) == (0, "")
        assert not is_running(folder)


# The till of a world, by that world's clock.
_SERVE = """
import sys
from pathlib import Path
from carepos_plugin import app
from tests.world import FakeClock
app.serve(Path(sys.argv[1]), now=FakeClock(), ready=lambda url: print(url, flush=True))
"""


def test_stopping_waits_for_the_sale_that_is_being_sent(tmp_path: Path) -> None:
    """FI-3: SIGTERM while the ledger takes its time: the register still gets its answer."""
    armed, held, let_go = threading.Event(), threading.Event(), threading.Event()

    def reached(point: str) -> None:
        if armed.is_set() and point == "committed":
            held.set()
            assert let_go.wait(60)

    with world(tmp_path, reached=reached) as made, ThreadPoolExecutor(1) as clicks:
        folder, port = made.till().folder, _free_port()
        made.tills[0].close()
        pairing.make(folder)
        Settings.write_default(folder)
        write_settings(folder, port=port, answer_timeout_s=30)
        register = Plugin(f"http://127.0.0.1:{port}", pairing.read(folder))
        try:
            with _serving([sys.executable, "-c", _SERVE, str(folder)]) as served:
                assert served.stdout is not None
                assert served.stderr is not None
                served.stdout.readline()
                basket = {"lines": [milk()]}
                offer = register.offer(CHECKOUT, made.family().token(), basket)
                armed.set()
                click = clicks.submit(register.redeem, offer, CHECKOUT, "c01")
                assert held.wait(20)
                served.send_signal(signal.SIGTERM)
                # The server's own patience ends before the ledger answers.
                assert "still running" in served.stderr.readline()
                let_go.set()
                assert click.result().confirmed
                assert served.wait(30) == 0
        finally:
            let_go.set()
            end(made.server)


@contextmanager
def _serving(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _typed(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.mark.parametrize("running", [True, False])
def test_a_till_changes_its_key(shop: Rig, run: Run, running: bool) -> None:
    """Beside a running plugin and without one: the till signs with a new key, and everything that
    it wrote before stays good."""
    before = shop.till.key_state.kid
    if not running:
        _stopped(shop)
    folder = shop.till.folder
    done, out, _ = run("change-key", "--folder", folder)
    assert done == 0 and "new key" in out and "新密钥" in out
    assert load_terminal(folder)[1].key.kid != before and not (folder / "next.key").exists()
    assert run("verify", "--folder", folder)[0] == 0
    assert run("status", "--folder", folder)[0] == 0


def test_a_change_of_key_waits_for_the_ledger(shop: Rig, run: Run) -> None:
    """Without the ledger the command says that the till sells on; typed again, it is one change;
    while no plugin runs, that one has to."""
    before = shop.till.key_state.kid
    end(shop.world.server)
    for _ in range(2):
        done, out, _ = run("change-key", "--folder", shop.till.folder)
        assert done == 1 and "sells on with the old one" in out
        assert "carepos till serve" not in out
    assert shop.till.key_state.kid == before
    assert len(shop.till.journal.records("key_change")) == 1
    folder = _stopped(shop)
    assert "carepos till serve" in run("change-key", "--folder", folder)[1]


# the clock


def test_an_operators_reset_is_taken_by_command_and_through_the_plugin(
    shop: Rig, run: Run, tmp_path: Path
) -> None:
    """With the plugin running and without; once, and no earlier one; a file that is none is said to
    be none, and status says how the clock stands."""
    ring, terminal = shop.world.ledger.keyring, shop.till.enrolment.terminal

    def reset(**later: float) -> Path:
        shop.world.now.forward(**later)
        made = signed_time.make_reset(
            ledger=ring.ledger, terminal=terminal, at=shop.world.now(), key=ring.signing
        )
        file = tmp_path / "a.reset"
        file.write_text(made + "\n", "ascii")
        return file

    folder = shop.till.folder
    first = reset(hours=1)
    done, out, _ = run("clock-reset", first, "--folder", folder)
    assert done == 0 and "2026-11-22T09:00:00.000Z" in out
    done, _, err = run("clock-reset", first, "--folder", folder)
    assert done == 1 and "was taken before. Nothing was changed" in err
    assert "agreed form" not in err
    done, out, _ = run("status", "--folder", folder)
    assert done == 0 and "Clock 时钟: The clock is right." in out
    _stopped(shop)
    assert run("clock-reset", reset(hours=1), "--folder", folder)[0] == 0
    done, _, err = run("clock-reset", first.with_name("a.reset"), "--folder", folder)
    assert done == 1 and "was taken before" in err


@pytest.mark.parametrize("running", [True, False])
def test_a_file_that_is_no_reset_is_said_to_be_none(
    shop: Rig, run: Run, tmp_path: Path, running: bool
) -> None:
    """A picture, an empty file, another till's: the same sentence, and nothing is changed."""
    folder = shop.till.folder if running else _stopped(shop)
    ring = shop.world.ledger.keyring
    of_another = signed_time.make_reset(
        ledger=ring.ledger, terminal="t-other", at=shop.world.now(), key=ring.signing
    )
    wrong = tmp_path / "holiday.jpg"
    for data in (b"\xff\xd8" * 30_000, b"", b"\x07\n", of_another.encode()):
        wrong.write_bytes(data)
        done, _, err = run("clock-reset", wrong, "--folder", folder)
        assert done == 2 and "is not the programme's office's clock reset" in err, (data[:9], err)


@pytest.mark.parametrize("words", [("clock-reset",), ("import-answers",)])
def test_a_file_that_is_not_there_is_no_missing_till(
    shop: Rig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """It is named; also where it would lie in the till's own folder. A folder that is no till
    is still said to be none."""
    folder = _stopped(shop)
    done, _, err = run(*words, tmp_path / "nofile", "--folder", folder)
    assert (done, "enrol" in err) == (2, False) and f"{tmp_path / 'nofile'}: no such file" in err
    monkeypatch.chdir(folder)
    done, _, err = run(*words, "nofile")
    assert (done, "enrol" in err) == (2, False) and "nofile: no such file" in err
    done, _, err = run("status", "--folder", tmp_path / "no-till")
    assert done == 2 and "enrol" in err
