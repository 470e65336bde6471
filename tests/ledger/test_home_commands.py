"""`carepos ledger home` and `homes` from the shell, against a served ledger."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from carepos.commands import main
from carepos_ledger.commands import DONE, FAILED, NO
from carepos_ledger.operator_client import OfficeUnreachable, OperatorClient
from carepos_ledger.pinning import Pinning
from tests.ledger.test_commands import (
    MAPPING,
    PROGRAMME,
    SAMPLE,
    Place,
    Said,
    carepos,
    place,
    settle_in,
)

__all__ = ["place"]

LISTED = ("--list", SAMPLE, "--mapping", MAPPING, "--programme", "flood-dairy")
ISS = "https://care.example"
OFFLINE = """
[offline]
allotment_permille = 500
spend_s = 259200
upload_s = 345600
pack_age_s = 259200
stored_sum_minor = 1000000
stored_count = 200
"""


@pytest.fixture
def shops(place: Place, capsys: Said) -> Place:
    """A programme with 636 households and two stores."""
    settle_in(place, "150000.00")
    assert place.run("store", "guzhou-2", "古州超市二店", "--merchant", "guzhou") == DONE
    assert place.issue() == DONE
    capsys.readouterr()
    return place


def subs(shops: Place) -> list[str]:
    text = (shops.here / "enrolment.csv").read_text("utf-8")
    return [row["sub"] for row in csv.DictReader(io.StringIO(text))]


def by_store(shops: Place) -> dict[str, tuple[int, int]]:
    """Households at home in each store, and how many are pinned there."""
    found = Pinning(shops.ledger.database).by_store()
    return {each["store"]: (each["households"], each["pinned"]) for each in found}


@pytest.mark.parametrize("command", ["home", "homes"])
def test_every_command_explains_itself(command: str, capsys: Said) -> None:
    """--help names the arguments and ends with 0."""
    assert carepos(command, "--help") == DONE
    assert f"usage: carepos ledger {command}" in capsys.readouterr().out


def test_a_whole_list_shops_in_one_store(shops: Place, capsys: Said) -> None:
    """In as many requests as it takes; first counted, then done, then known; a line by itself
    another one. Nobody's name or number is said."""
    assert shops.run("home", "guzhou-1", *LISTED, "--dry-run") == DONE
    said = capsys.readouterr().out
    assert "636 new" in said and "nothing was written" in said and by_store(shops) == {}
    assert shops.run("home", "guzhou-1", *LISTED) == DONE
    assert "636 new, 0 changed, 0 as before, 0 refused" in capsys.readouterr().out
    assert shops.run("home", "guzhou-1", *LISTED) == DONE
    assert "636 as before" in capsys.readouterr().out
    line = next(n for n, row in enumerate(_rows(), 1) if re.search(r"\d{17}", row))
    assert shops.run("home", "guzhou-2", *LISTED, "--line", str(line)) == DONE
    assert by_store(shops) == {"guzhou-1": (635, 635), "guzhou-2": (1, 1)}
    said = capsys.readouterr().out
    assert "1 changed" in said and not re.search(r"\d{15}", said)
    assert shops.run("homes") == DONE
    said = capsys.readouterr().out
    assert "guzhou-1" in said and "635" in said and "古州超市二店" in said


def _rows() -> list[str]:
    return Path(SAMPLE).read_bytes().decode("gb18030").splitlines()


def test_a_file_of_homes(shops: Place, capsys: Said) -> None:
    """Lines that are refused are named with their reason and keep no other back; an empty store
    lets a household follow again; the same file again changes nothing."""
    one, other, third = subs(shops)[:3]
    file = shops.here / "homes.csv"
    file.write_text(
        "iss,sub,store\n"
        f"{ISS},{one},guzhou-1\n"
        f"{ISS},nobody,guzhou-1\n"
        f"{ISS},{other},guzhou-9\n"
        f"{ISS},{one},guzhou-2\n"
        f"{ISS},{other}\n"
        f"{ISS},{third},\n",
        "utf-8",
    )
    for first in (True, False):
        assert shops.run("home", "--file", file) == NO
        said = capsys.readouterr().out
        made = "1 new, 0 changed, 1 as before" if first else "0 new, 0 changed, 2 as before"
        assert f"{made}, 4 refused" in said, said
        for why in ("no such store", "nothing is held", "stands in line 2 already", "3 columns"):
            assert why in said, said
        assert one not in said and other not in said
    assert by_store(shops) == {"guzhou-1": (1, 1)}
    file.write_text(f"iss,sub,store\n{ISS},{one},\n", "utf-8")
    assert shops.run("home", "--file", file) == DONE
    assert by_store(shops) == {"guzhou-1": (1, 0)}


def test_one_household_by_sub_or_by_its_code(
    shops: Place, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From stdin, for words of a command can be seen by every user of the machine."""

    def typed(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text + "\n"))

    sub = subs(shops)[0]
    typed(sub)
    assert shops.run("home", "guzhou-2", "--sub-stdin", "--iss", ISS) == DONE
    assert by_store(shops) == {"guzhou-2": (1, 1)}
    typed(sub)
    assert shops.run("home", "--follow", "--sub-stdin", "--iss", ISS) == DONE
    assert by_store(shops) == {"guzhou-2": (1, 0)}
    typed("nobody")
    assert shops.run("home", "guzhou-2", "--sub-stdin", "--iss", ISS) == NO
    typed(sub)
    assert shops.run("home", "no-shop", "--sub-stdin", "--iss", ISS) == NO
    said = capsys.readouterr()
    assert "no such store" in said.out and sub not in said.out + said.err
    typed("CPC1*nonsense")
    assert main_code(shops, "home", "guzhou-2", "--token-stdin") == FAILED


def main_code(shops: Place, *words: str | Path) -> int:
    """Through `carepos`, which makes one sentence of what stops a command."""
    try:
        return main(["ledger", *map(str, words), "--folder", str(shops.folder), "--url", shops.url])
    except SystemExit as stopped:
        return int(stopped.code or 0)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("guzhou-1", "--follow", *LISTED), "Name a STORE, or --follow"),
        ((*LISTED,), "Name a STORE, or --follow"),
        (("guzhou-1", "--file", "homes.csv"), "names the stores itself"),
        (("guzhou-1",), "one of the arguments"),
        (("guzhou-1", "--list", SAMPLE), "wants --mapping and --programme"),
        (("guzhou-1", *LISTED, "--line", "1"), "is a good row of the list"),
        (("Not A Name", *LISTED), "STORE"),
        (("--file", MAPPING), "must begin with the line iss,sub,store"),
        (("--file", SAMPLE), "is not UTF-8"),
    ],
)
def test_what_is_used_wrongly_changes_nothing(
    shops: Place, capsys: Said, words: tuple[str, ...], why: str
) -> None:
    """Exit 2 and one sentence."""
    assert main_code(shops, "home", *words) == FAILED
    assert why in capsys.readouterr().err and by_store(shops) == {}


def test_homes_from_sales(shops: Place, capsys: Said) -> None:
    """Counted, then noted; where nothing was sold, nothing is; `--dry-run` alone is used wrongly.
    What a programme's file leaves out of `offline` has the value that the page says."""
    (shops.here / "programme.toml").write_text(PROGRAMME + OFFLINE, "utf-8")
    assert shops.run("programme", shops.here / "programme.toml") == DONE
    [rules] = shops.ledger.programmes.all()
    assert rules.offline is not None
    assert (rules.offline.floor, rules.offline.online_permille) == (None, 0)
    assert shops.run("homes", "--from-sales", "--dry-run") == DONE
    assert "0 homes would be noted" in capsys.readouterr().out
    assert shops.run("homes", "--from-sales") == DONE
    said = capsys.readouterr().out
    assert "0 homes noted" in said and "No household's home is known" in said
    assert main_code(shops, "homes", "--dry-run") == FAILED


def test_an_import_that_was_cut_goes_on(
    shops: Place, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how far it came; the same command again does the rest."""
    real, sent = OperatorClient.post, []

    def cut(self: OperatorClient, path: str, body: object) -> object:
        sent.append(path)
        if len(sent) == 2:
            raise OfficeUnreachable("the line is cut")
        return real(self, path, body)  # type: ignore[arg-type]

    monkeypatch.setattr(OperatorClient, "post", cut)
    assert main_code(shops, "home", "guzhou-1", *LISTED) == FAILED
    assert "Stopped after 250 of 636 households" in capsys.readouterr().err
    assert shops.run("home", "guzhou-1", *LISTED) == DONE
    assert "386 new, 0 changed, 250 as before" in capsys.readouterr().out
