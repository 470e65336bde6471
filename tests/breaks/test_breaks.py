"""The list of breaks is what it says; whether each is caught is played by `make breaks`."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.breaks import __main__ as breaks
from tests.breaks.ways import WAYS, Way
from tests.test_guarantees import functions

TESTS = Path(__file__).parent.parent
PAGE = TESTS.parent / "docs" / "testing.md"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_each_can_be_made_and_mended(way: Way) -> None:
    """It changes something that is still there, and leaves nothing behind; its tests exist."""
    for _ in range(2):
        with ExitStack() as stack:
            way.make(stack)
    for test in way.tests:
        path, _, name = test.partition("::")
        assert name in functions(TESTS / path)


def test_the_page_lists_them() -> None:
    """docs/testing.md has each break, what it is, and the test that caught it."""
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (`.+`) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    tests = [", ".join(f"`{test}`" for test in way.tests) for way in WAYS]
    assert rows == [(w.name, w.what, t) for w, t in zip(WAYS, tests, strict=True)]


def test_a_break_is_seen_and_its_absence_too() -> None:
    """A break that its test sees is caught; one that a test does not see is not called so."""
    [way] = [way for way in WAYS if way.name == "hash_not_checked"]
    assert breaks.caught_by(way) == ["test_a_broken_chain_is_not_continued"]
    [other] = [way for way in WAYS if way.name == "stored_sum_ignored"]
    assert breaks.caught_by(Way(other.make, way.tests)) == []
