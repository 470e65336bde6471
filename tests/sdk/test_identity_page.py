"""docs/identity.md §12 against the tests that it names."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "identity.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## 12.")[2].splitlines()
    if line.startswith("| 3.")
]


def ids_of(path: str, function: str) -> set[str]:
    """The names of a test's cases. Raises if there is no such file or test."""
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    found: set[str] = set()
    for mark in getattr(getattr(module, function), "pytestmark", []):
        if mark.name == "parametrize":
            given = mark.kwargs.get("ids")
            found |= {str(each) for each in (given or mark.args[1])}
    return found


def test_every_section_has_its_row() -> None:
    """RFC 8725 §3.1 to §3.12, in their order, each with what is done and by what it is proved."""
    assert [row[0].split()[0] for row in ROWS] == [f"3.{n}" for n in range(1, 13)]
    assert all(len(row) == 3 and all(row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0].split()[0] for row in ROWS])
def test_the_tests_of_a_row_are_there(row: list[str]) -> None:
    """Each test that the page names exists, and so does the case within it."""
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_\w+)(?:\[([^`]+)\])?`", row[2])
    assert named and len(named) == row[2].count("::")
    for path, function, case in named:
        assert not case or case in ids_of(path, function), (function, case)
        assert case or ids_of(path, function) is not None
