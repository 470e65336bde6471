"""docs/guarantees.md names a test for each promise, and each of those tests is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
ROWS = (
    *(f"FA-{n}" for n in range(1, 10)),
    *(f"FB-{n}" for n in range(1, 17)),
    *(f"FC-{n}" for n in (1, 2, 3, 4, 5, 6, 8, 10, 11, 12)),
    *(f"FD-{n}" for n in range(1, 7)),
    *(f"FF-{n}" for n in range(1, 4)),
    *(f"FG-{n}" for n in range(1, 12)),
    *(f"T-{n}" for n in (1, 2, 5, 6, 7, 14)),
)


def rows() -> list[list[str]]:
    """The cells of every row of the page's tables."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@cache
def functions(path: Path) -> dict[str, str]:
    """What each function of a file says of itself, with its name and the file's own docstring."""
    tree = ast.parse(path.read_text("utf-8"))
    about = ast.get_docstring(tree) or ""
    return {
        node.name: f"{node.name} {ast.get_docstring(node) or ''} {about}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def test_each_named_test_exists() -> None:
    """A promise whose test was renamed or removed is noticed."""
    named = NAMED.findall(PAGE.read_text("utf-8"))
    assert len(named) > 100
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not name.startswith("test_") or name not in functions(TESTS / path)
    ]
    assert missing == []


def test_each_promise_has_its_test() -> None:
    """One sentence, what it rests on, at least one test."""
    promises = [cells for cells in rows() if len(cells) == 3 and cells[0].endswith(".")]
    assert len(promises) > 20
    for sentence, why, proof in promises:
        assert why and NAMED.search(proof), sentence


@pytest.mark.parametrize("row", ROWS)
def test_each_row_is_proved_by_a_test_that_names_it_or_is_open(row: str) -> None:
    """Of faults and threats: the test says which row it proves, or the page why there is none."""
    [cells] = [each for each in rows() if each[0] == row]
    tests = NAMED.findall(cells[-1])
    if not tests:
        assert re.match(r"open: \w.{20}", cells[-1])
        return
    assert any(names(functions(TESTS / path)[name], row) for path, name in tests)


def names(text: str, row: str) -> bool:
    """Whether a docstring or name names the row: FA-4, fa_4, fa4, or within FA-1 to FA-5."""
    kind, number = row.split("-")
    if re.search(rf"(?<![a-z]){kind}[-_]?{number}(?!\d)", text.replace("test_", ""), re.IGNORECASE):
        return True
    return any(
        int(first) <= int(number) <= int(last)
        for first, last in re.findall(rf"\b{kind}-(\d+) to {kind}-(\d+)", text)
    )
