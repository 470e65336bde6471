"""`carepos ledger …` from the shell: an operator's day against a served ledger."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import insert
from werkzeug.serving import make_server

from carepos.commands import main
from carepos.errors import CareposError
from carepos.issuer_folder import ALGORITHMS, IssuerFolder
from carepos.keys import SigningKey
from carepos_ledger import app, commands, list_records, schema
from carepos_ledger.commands import DONE, FAILED, NO
from carepos_ledger.settings import Settings
from carepos_ledger.terminals import ALARMS_AT_ONCE

DATA = Path(__file__).parents[2] / "sample_merchant" / "data"
SAMPLE = str(DATA / "households_gb18030.csv")
MAPPING = str(DATA / "households.mapping.toml")
PROGRAMME = """
programme = "flood-dairy"
name = "奶制品援助"
currency = "CNY"
starts_at = 2026-01-01T00:00:00+08:00
ends_at = "2126-01-01T00:00:00.000Z"
product_list = "dairy-list"
issuer = "https://care.example"
"""

Said = pytest.CaptureFixture[str]


def carepos(*words: str | Path) -> int:
    """Run `carepos ledger WORDS…` in this process; argparse's own exits too."""
    try:
        return main(["ledger", *map(str, words)])
    except SystemExit as stopped:
        return int(stopped.code or 0)


class Place(NamedTuple):
    """A served ledger's folder, its address, and the test's own folder."""

    folder: Path
    url: str
    here: Path
    ledger: app.Ledger

    def run(self, *words: str | Path) -> int:
        return carepos(*words, "--folder", self.folder, "--url", self.url)

    def issue(self, *words: str | Path, file: str | Path = SAMPLE) -> int:
        return self.run(
            "issue", file, "--mapping", MAPPING, "--programme", "flood-dairy",
            "--enrolment", self.here / "enrolment.csv", *words,
        )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A ledger founded by `init` and served on a free port."""
    folder = tmp_path / "ledger"
    assert carepos("init", "--folder", folder) == DONE
    ledger = app.build(Settings.load(folder))
    server = make_server("127.0.0.1", 0, ledger.wsgi, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Place(folder, f"http://127.0.0.1:{server.server_port}", tmp_path, ledger)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        ledger.close()


def settle_in(place: Place, amount: str) -> None:
    """A programme with `amount` in it and one store."""
    here = place.here
    (here / "programme.toml").write_text(PROGRAMME, "utf-8")
    jwks = {"keys": [{**SigningKey.generate().public.to_jwk(), "use": "sig", "alg": "EdDSA"}]}
    (here / "issuer.json").write_text(json.dumps(jwks), "utf-8")
    steps: list[tuple[str | Path, ...]] = [
        ("issuer", "https://care.example", "--keys", here / "issuer.json"),
        ("product-list", "dairy-list", "1", DATA / "product-list.csv"),
        ("programme", here / "programme.toml"),
        ("funder", "red-cross", "红十字会"),
        ("fund", "flood-dairy", "--funder", "red-cross", "--amount", amount, "--reference", "T-1"),
        ("merchant", "guzhou", "古州超市"),
        ("store", "guzhou-1", "古州超市一店", "--merchant", "guzhou"),
        ("admit", "flood-dairy", "guzhou-1"),
    ]
    for step in steps:
        assert place.run(*step) == DONE, step
        assert place.run(*step) == DONE, f"again: {step}"


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_an_issuers_keys_are_taken_as_it_publishes_them(
    place: Place, alg: str, capsys: Said
) -> None:
    """What `carepos token key` writes: each kind of key, with a short kid, `alg` and `use`."""
    office = IssuerFolder.create(
        place.here / "office", iss="https://id.example", audience="a", alg=alg
    )
    jwks = office.path / "jwks.json"
    assert place.run("issuer", office.iss, "--keys", jwks) == DONE, capsys.readouterr()
    office.add_key()
    assert place.run("issuer", office.iss, "--keys", jwks) == DONE, capsys.readouterr()


def test_a_ledger_is_founded_once(tmp_path: Path, capsys: Said) -> None:
    """init leaves settings, keys and a secret that only their owner reads, and never replaces a
    ledger that is there."""
    folder = tmp_path / "new" / "ledger"
    assert carepos("init", "--folder", folder, "--operator", "zhang") == DONE
    assert "carepos ledger serve" in capsys.readouterr().out
    private = ("ledger.toml", "operator.secret", "root.key", "signing.key", "pseudonym.secret")
    if os.name == "posix":
        assert {(folder / name).stat().st_mode & 0o777 for name in private} == {0o600}
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert carepos("init", "--folder", folder) == FAILED
    assert "already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert carepos("migrate", "--folder", folder) == DONE
    assert carepos("operator", "li", "--folder", folder, "--to", tmp_path / "li") == DONE
    assert carepos("operator", "li", "--folder", folder, "--to", tmp_path / "li2") == NO
    assert not (tmp_path / "li2").exists()


def test_a_wrong_database_leaves_no_ledger(tmp_path: Path, capsys: Said) -> None:
    """A database that can't be reached is said in one sentence without its password, and no key is
    left that would stand in the way of the next try."""
    folder = tmp_path / "ledger"
    for url in (
        "postgresql+psycopg://u:pAsSwOrD@127.0.0.1:1/x",
        "postgresql+psycopg://u:p:pAsSwOrD@127.0.0.1:port/x",
        "postgresql://u:pAsSwOrD@127.0.0.1:1/x",
        "nonsense:pAsSwOrD",
        "oracle://x",
        "mysql://x",
        "sqlite://",
        "sqlite:///:memory:",
    ):
        assert (url, carepos("init", "--folder", folder, "--database", url)) == (url, FAILED)
        said = capsys.readouterr()
        assert "pip install" not in said.err
        assert "pAsSwOrD" not in said.out + said.err and "Traceback" not in said.err
        assert len(said.err.splitlines()) == 1
    assert list(folder.iterdir()) == []
    assert carepos("init", "--folder", folder) == DONE


def test_a_book_belongs_to_one_ledger(tmp_path: Path, capsys: Said) -> None:
    """A database that holds a ledger already gets no second one with other keys, nor does a folder
    that holds keys: the sentence says which, and nothing is changed."""
    assert carepos("init", "--folder", tmp_path / "first") == DONE
    second = tmp_path / "second"
    url = f"sqlite:///{tmp_path / 'first' / 'ledger.db'}"
    assert carepos("init", "--folder", second, "--database", url) == FAILED
    assert "holds a ledger already" in capsys.readouterr().err
    assert list(second.iterdir()) == []
    (second / "root.key").write_text("left over", "ascii")
    assert carepos("init", "--folder", second) == FAILED
    assert "root.key" in (said := capsys.readouterr().err) and "another folder" in said
    assert [path.name for path in second.iterdir()] == ["root.key"]


def test_an_operator_is_made_with_its_secret_or_not_at_all(tmp_path: Path, capsys: Said) -> None:
    """Where the secret can't be kept no operator is made, and the name is free for the next try; a
    refused name leaves no secret behind."""
    folder = tmp_path / "ledger"
    assert carepos("init", "--folder", folder) == DONE
    assert carepos("operator", "li", "--folder", folder, "--to", tmp_path / "no" / "li") == FAILED
    assert carepos("operator", "li", "--folder", folder, "--to", tmp_path / "li") == DONE
    assert carepos("operator", "Li!", "--folder", folder, "--to", tmp_path / "li2") == FAILED
    assert carepos("operator", "li", "--folder", folder, "--to", tmp_path / "li2") == NO
    assert not (tmp_path / "li2").exists()


@pytest.mark.parametrize("name", ["keyset.json", "signing.key", "pseudonym.secret", "ledger.toml"])
def test_damaged_files_of_a_ledger_are_one_sentence(
    tmp_path: Path, name: str, capsys: Said
) -> None:
    """A key or setting that a disk or an editor spoilt: one sentence naming the file, no
    traceback."""
    folder = tmp_path / "ledger"
    assert carepos("init", "--folder", folder) == DONE
    capsys.readouterr()
    for content in (b"", b"{", b"[]", b"{}", b"\xff", b"A" * 42):
        (folder / name).write_bytes(content)
        assert (content, carepos("serve", "--folder", folder)) == (content, FAILED)
        said = capsys.readouterr().err
        assert (content, len(said.splitlines()), name in said) == (content, 1, True)


def test_a_book_of_newer_software_is_left_alone(tmp_path: Path, capsys: Said) -> None:
    """Older software neither serves nor migrates it, and says why."""
    folder = tmp_path / "ledger"
    assert carepos("init", "--folder", folder) == DONE
    with closing(sqlite3.connect(folder / "ledger.db")) as book, book:
        book.execute("UPDATE alembic_version SET version_num = '9999'")
    capsys.readouterr()
    assert carepos("serve", "--folder", folder) == FAILED
    assert carepos("migrate", "--folder", folder) == FAILED
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "9999" in said[1] and "newer" in said[1]


def test_the_sample_list_from_the_shell(place: Place, capsys: Said) -> None:
    """The dry run names every refused row with its line; the issue gives 636 vouchers of CNY
    142,740.00 and a private enrolment.csv; the same file again issues nothing; the sums hold."""
    settle_in(place, "142,740.00")
    capsys.readouterr()
    assert place.issue("--dry-run") == NO
    shown = capsys.readouterr().out
    assert "142,740.00" in shown and "2,379" in shown and "amount_in_words" in shown
    lines = [49, 76, 136, 157, 165, 210, 257, 262, 292, 330, 371, 417, 462, 502, 506, 516, 529]
    assert all(f"│ {line:>7} │" in shown for line in [*lines, 561, 563, 566, 572, 587, 651])
    assert not (place.here / "enrolment.csv").exists()
    assert not (place.folder / "import.key").exists()

    assert place.issue() == DONE
    assert "636 issued, 0 issued before" in capsys.readouterr().out
    enrolment = place.here / "enrolment.csv"
    written = enrolment.read_bytes()
    assert len(written.splitlines()) == 637
    if os.name == "posix":
        assert enrolment.stat().st_mode & 0o777 == 0o600
    enrolment.unlink()
    assert place.issue("--chunk", "500") == DONE
    assert "0 issued, 636 issued before" in capsys.readouterr().out
    assert enrolment.read_bytes() == written
    assert place.run("status", "flood-dairy") == DONE
    assert "142,740.00" in capsys.readouterr().out


def test_names_and_numbers_stay_on_this_machine(place: Place, capsys: Said) -> None:
    """T-12: nothing that the command prints or the ledger stores holds a name, a phone or an ID
    number of the list."""
    settle_in(place, "142740")
    place.issue("--dry-run")
    place.issue()
    said = capsys.readouterr()
    rows = [line.split(",") for line in DATA.joinpath("households_gb18030.csv").read_bytes()
            .decode("gb18030").splitlines()[2:]]  # fmt: skip
    personal = {c.strip() for row in rows if len(row) > 5 for c in row[3:6] if len(c.strip()) > 2}
    stored = b"".join(path.read_bytes() for path in place.folder.iterdir() if path.is_file())
    assert len(personal) > 1_000
    for text in personal:
        assert text not in said.out + said.err
        assert text.encode() not in stored


def test_an_issue_that_stops_is_taken_up_again(place: Place, capsys: Said) -> None:
    """With too little money the command says after how many rows it stopped and what to do; after
    funding, the same command issues the rest."""
    settle_in(place, "60000")
    capsys.readouterr()
    assert place.issue() == FAILED
    error = capsys.readouterr().err
    assert error.startswith("Stopped after 250 of 636 rows") and "carepos ledger fund" in error
    assert place.run(
        "fund", "flood-dairy", "--funder", "red-cross", "--amount", "82740", "--reference", "T-2"
    ) == DONE  # fmt: skip
    assert place.issue() == DONE
    assert "386 issued, 250 issued before, 0 issued differently" in capsys.readouterr().out


def test_a_changed_list_says_which_lines_differ(place: Place, capsys: Said) -> None:
    """Rows issued before with another amount are named by line and left; the enrolment file of
    before is overwritten only when asked for."""
    settle_in(place, "150000")
    assert place.issue() == DONE
    lines = DATA.joinpath("households_gb18030.csv").read_bytes().decode("gb18030").splitlines()
    assert ",6,奶制品卡,360," in lines[2]
    lines[2] = lines[2].replace(",6,奶制品卡,360,", ",7,奶制品卡,420,")
    changed = place.here / "changed.csv"
    changed.write_bytes("\r\n".join(lines).encode("gb18030"))
    capsys.readouterr()
    assert place.issue(file=changed) == FAILED
    assert "--replace" in capsys.readouterr().err
    assert place.issue("--replace", file=changed) == NO
    shown = capsys.readouterr().out
    assert "0 issued, 635 issued before, 1 issued differently" in shown and "line 3" in shown
    assert len((place.here / "enrolment.csv").read_bytes().splitlines()) == 636


def test_a_new_import_key_is_told(place: Place, capsys: Said) -> None:
    """A key made for this list is said, with what losing it costs; one that was there is not."""
    settle_in(place, "142,740.00")
    capsys.readouterr()
    key = place.here / "import.key"
    assert place.issue("--import-key", key) == DONE
    assert "A new import key" in (said := capsys.readouterr().out) and "copy" in said
    assert place.issue("--import-key", key) == DONE
    assert "import key" not in capsys.readouterr().out


def test_more_alarms_than_one_answer_holds(place: Place, capsys: Said) -> None:
    """Every alarm is shown, however many answers that takes."""
    row = {"at": "2026-11-22T08:30:00.000Z", "kind": "fork", "terminal": "t-1", "digest": "x"}
    with place.ledger.database.write() as connection:
        connection.execute(insert(schema.alarms), [row] * (ALARMS_AT_ONCE + 1))
    assert place.run("alarms") == NO
    assert "│ 501 │" in capsys.readouterr().out


def test_an_alarm_that_a_heal_answered_is_over(place: Place, capsys: Said) -> None:
    """It is counted, with nothing to do, and is no reason to look; `--all` shows it."""
    row = {"at": "2026-11-22T08:30:00.000Z", "kind": "data_lost", "terminal": "t-1", "digest": "x"}
    with place.ledger.database.write() as connection:
        connection.execute(insert(schema.alarms), [row])
    assert place.run("alarms") == DONE
    said = capsys.readouterr().out
    assert "over, the ledger was healed" in said and "heal begin" not in said
    assert place.run("alarms", "--all") == DONE
    assert "│ data_lost │" in capsys.readouterr().out


def test_a_list_too_large_is_one_sentence(
    place: Place, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more of a file is read than a list may have, and the limit is said once."""
    monkeypatch.setattr(list_records, "MAX_LIST_BYTES", 1_000)
    assert place.issue("--dry-run", "--currency", "CNY") == FAILED
    assert "larger than" in capsys.readouterr().err


def test_tills_from_the_shell(place: Place, capsys: Said) -> None:
    """A code is printed alone on its line, so that a script can read it; tills, alarms and closing
    answer when there are none."""
    settle_in(place, "1")
    capsys.readouterr()
    assert place.run("activate", "guzhou-1", "--hours", "1") == DONE
    said = capsys.readouterr()
    assert said.out.startswith("cp1.") and len(said.out.splitlines()) == 1
    assert "█" in said.err
    for command in ("terminals", "alarms", "close"):
        assert place.run(command) == DONE
    assert place.run("suspend", "t-0123456789abcdef") == NO
    assert "no such terminal" in capsys.readouterr().err


def test_the_running_ledger_is_not_opened_twice(place: Place, capsys: Said) -> None:
    """Commands that need the database itself say that it is in use."""
    assert carepos("migrate", "--folder", place.folder) == FAILED
    assert "running" in capsys.readouterr().err
    assert carepos("serve", "--folder", place.folder, "--port", "0") == FAILED
    assert "--port" in capsys.readouterr().err


def test_failures_are_one_sentence(place: Place, capsys: Said) -> None:
    """Wrong folder, wrong address, wrong secret, files that are missing or no good: exit code 2,
    one line that says what to do, no traceback."""
    here = place.here
    (here / "bad.toml").write_text("x = [", "utf-8")
    (here / "bad.csv").write_text("key,category\n123,dairy\n", "utf-8")
    private = SigningKey.generate().public.to_jwk() | {"d": "A" * 43}
    (here / "private.json").write_text(json.dumps(private), "utf-8")
    other = here / "other"
    other.mkdir()
    (other / "operator.secret").write_text("A" * 43 + "\n", "ascii")
    tries: list[Callable[[], int]] = [
        lambda: carepos("terminals", "--folder", here),
        lambda: carepos("terminals", "--folder", other),
        lambda: carepos("terminals", "--folder", other, "--url", place.url),
        lambda: carepos("terminals", "--folder", place.folder, "--url", "http://127.0.0.1:1"),
        lambda: carepos("serve", "--folder", here),
        lambda: place.run("programme", here / "absent.toml"),
        lambda: place.run("programme", here / "bad.toml"),
        lambda: place.run("product-list", "x", "1", here / "bad.csv"),
        lambda: place.run("issuer", "https://care.example", "--keys", here / "private.json"),
        lambda: place.issue("--dry-run", "--currency", "CNY", file=here / "absent.csv"),
        lambda: place.issue("--dry-run", "--currency", "XXX"),
        lambda: place.issue("--dry-run", "--currency", "CNY", file=here / "bad.toml"),
        lambda: place.issue("--chunk", "1"),
    ]
    capsys.readouterr()
    for n, attempt in enumerate(tries):
        assert (n, attempt()) == (n, FAILED)
        said = capsys.readouterr()
        assert (n, len(said.err.splitlines()), said.out) == (n, 1, "")
        assert "Traceback" not in said.err and "A" * 43 not in said.err


COMMANDS = (
    "init serve migrate operator funder merchant store product-list programme admit fund "
    "issue freeze status activate terminals suspend alarms close"
)


HEALING = ("heal", *(f"heal {each}" for each in "begin status manifest open exceptions".split()))


@pytest.mark.parametrize("command", ["", *COMMANDS.split(), "backup", *HEALING])
def test_every_command_explains_itself(command: str, capsys: Said) -> None:
    """--help of every command names its arguments and ends with 0."""
    assert carepos(*command.split(), "--help") == DONE
    assert "usage: carepos ledger" in capsys.readouterr().out


def test_amounts_as_people_write_them() -> None:
    """Minor units come from digits alone, never through a float."""
    read = commands.read_amount
    assert [read(t, "CNY") for t in ("1", "142,740.00", "0.1", "0.01")] == [100, 14_274_000, 10, 1]
    assert read("5", "JPY") == 5
    for text in ("", "1.234", "1,00", "-1", "1e3", "１", "0", "9" * 14, "1.", ".5", "1,2345"):
        with pytest.raises(CareposError):
            read(text, "CNY")


def test_a_ledger_that_is_served_already_is_not_said_to_be_served(
    place: Place, capsys: Said
) -> None:
    """Nor one whose address is taken: the first word is why not."""
    assert carepos("serve", "--folder", place.folder) == FAILED
    said = capsys.readouterr()
    assert "Serving on" not in said.out and "another process" in said.err
    place.ledger.close()
    port = place.url.rpartition(":")[2]
    assert carepos("serve", "--folder", place.folder, "--port", port) == FAILED
    said = capsys.readouterr()
    assert "Serving on" not in said.out and "in use" in said.err
