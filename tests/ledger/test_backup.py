"""A copy of the book is one moment of it, whole, and private."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from carepos.commands import main
from carepos_ledger.operators import Operators, new_secret
from tests.world import world


def operators(book: Path) -> list[str]:
    with closing(sqlite3.connect(book)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM operators ORDER BY name")]


def test_a_book_is_copied_while_it_is_served(tmp_path: Path) -> None:
    """Everything that was committed by then and nothing later, in one file of its owner's; another
    backup is never overwritten."""
    with world(tmp_path) as made:
        made.settings.save()
        desk, target = Operators(made.ledger.database), tmp_path / "copy.db"
        desk.add("before", new_secret())
        words = ["ledger", "backup", str(target), "--folder", str(made.settings.folder)]
        assert main(words) == 0
        desk.add("behind", new_secret())
        assert operators(target) == ["before"]
        assert target.stat().st_mode & 0o777 == 0o600
        kept = target.read_bytes()
        assert main(words) == 2
        assert target.read_bytes() == kept
        assert [each.name for each in tmp_path.iterdir() if "copy.db" in each.name] == ["copy.db"]


def test_what_is_no_book_leaves_no_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged file, or a book in PostgreSQL: one sentence, and no file that looks like one."""
    with world(tmp_path) as made:
        made.settings.save()
    folder, target = made.settings.folder, tmp_path / "copy.db"
    (tmp_path / "ledger.db").write_bytes(b"SQLite format 3\0" + b"x" * 4_000)
    assert main(["ledger", "backup", str(target), "--folder", str(folder)]) == 2
    settings = folder / "ledger.toml"
    text = settings.read_text("utf-8")
    line = next(each for each in text.splitlines() if each.startswith("database ="))
    elsewhere = 'database = "postgresql+psycopg://user@host/book"'
    settings.write_text(text.replace(line, elsewhere), "utf-8")
    assert main(["ledger", "backup", str(target), "--folder", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "pg_dump" in said and "Traceback" not in said
    assert not list(tmp_path.glob("copy.db*"))
