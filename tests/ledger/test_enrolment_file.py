"""`enrolment.csv`: private, whole or not at all, never overwritten by accident."""

from __future__ import annotations

import csv
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos_ledger.enrolment_file import Enrolment, EnrolmentRefused, write_enrolment_file

ISS = "https://id.example.org"
ROWS = [Enrolment(9, ISS, "c3Vi"), Enrolment(3, ISS, "-b2U")]


def refusal(path: Path, rows: list[Enrolment], *, replace: bool = False) -> str:
    with pytest.raises(EnrolmentRefused) as caught:
        write_enrolment_file(path, rows, replace=replace)
    return caught.value.code


def test_content(tmp_path: Path) -> None:
    """The file has line, iss and sub, in the order of lines, and mode 0600."""
    path = tmp_path / "enrolment.csv"
    before = os.umask(0)
    try:
        assert write_enrolment_file(path, ROWS) == "written"
    finally:
        os.umask(before)
    assert path.read_bytes() == f"line,iss,sub\n3,{ISS},-b2U\n9,{ISS},c3Vi\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_same_content_is_left(tmp_path: Path) -> None:
    """Writing the same content again changes nothing but a mode that was too open."""
    path = tmp_path / "enrolment.csv"
    write_enrolment_file(path, ROWS)
    path.chmod(0o644)
    before = path.stat()
    assert write_enrolment_file(path, reversed(ROWS)) == "unchanged"
    assert path.stat().st_ino == before.st_ino
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_other_content_is_kept(tmp_path: Path) -> None:
    """Other content is overwritten only when told to."""
    path = tmp_path / "enrolment.csv"
    path.write_text("line,iss,sub\n", encoding="utf-8")
    assert refusal(path, ROWS) == "enrolment_exists"
    assert path.read_text(encoding="utf-8") == "line,iss,sub\n"
    assert write_enrolment_file(path, ROWS, replace=True) == "written"
    assert "c3Vi" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_failure_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk fails before all is down, the old file stands and no torn one is left."""
    path = tmp_path / "enrolment.csv"
    write_enrolment_file(path, ROWS)

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert refusal(path, ROWS[:1], replace=True) == "enrolment_unwritable"
    monkeypatch.undo()
    assert write_enrolment_file(path, ROWS) == "unchanged"
    assert list(tmp_path.iterdir()) == [path]


def test_nowhere_to_write(tmp_path: Path) -> None:
    """A missing folder is a coded refusal."""
    assert refusal(tmp_path / "missing" / "enrolment.csv", ROWS) == "enrolment_unwritable"


@pytest.mark.parametrize(
    "rows",
    [
        [Enrolment(0, ISS, "s")],
        [Enrolment(1, "", "s")],
        [Enrolment(1, ISS, "")],
        [Enrolment(1, ISS, "a\nb")],
        [Enrolment(1, ISS, " s")],
        [Enrolment(1, ISS, "a"), Enrolment(1, ISS, "b")],
    ],
)
def test_rows_no_issuer_could_use(tmp_path: Path, rows: list[Enrolment]) -> None:
    """Two subs for one line, or an empty or odd one, are refused and nothing is written."""
    assert refusal(tmp_path / "enrolment.csv", rows) == "enrolment_wrong"
    assert list(tmp_path.iterdir()) == []


words = st.text(min_size=1, max_size=12).filter(lambda t: t.isprintable() and t == t.strip())


@given(st.dictionaries(st.tuples(st.integers(1, 10**6), words), words, max_size=8))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, subs: dict[tuple[int, str], str]
) -> None:
    """Any CSV reader gets back what was written, commas and quotes in it too."""
    path = tmp_path_factory.mktemp("enrolment") / "enrolment.csv"
    write_enrolment_file(path, (Enrolment(n, iss, sub) for (n, iss), sub in subs.items()))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(int(row["line"]), row["iss"]): row["sub"] for row in rows} == subs
