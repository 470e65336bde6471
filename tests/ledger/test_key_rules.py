"""Which of a terminal's keys counts: the frozen arrivals of docs/identity.md §11."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carepos.keys import SigningKey, digest
from carepos.record import KeyChange, Record, Start
from carepos_ledger import key_rules
from carepos_ledger.key_rules import TerminalKey
from carepos_ledger.problems import Problem
from tests.vectors import build, second

Json = dict[str, Any]
STORIES: list[Json] = json.loads(
    Path(build.__file__).with_name("key_change.json").read_text("utf-8")
)["arrivals"]
KEY = {name: SigningKey(name[:1].encode() * 32) for name in ("a", "b", "c", "d", "elsewhere")}


def arrived(step: Json) -> Record:
    """A record as far as these rules look at it."""
    announces = step["announces"]
    content = KeyChange(KEY[announces].public, "") if announces else Start("test")
    return Record(
        "",
        digest(repr(step).encode()),
        KEY[step["signed_by"]].kid,
        "key_change" if announces else "start",
        "",
        "t-1",
        step["incarnation"],
        step["sequence"],
        "",
        datetime(2026, 11, 22, 8, tzinfo=UTC),
        content,
    )


@pytest.mark.parametrize("story", STORIES, ids=[story["name"] for story in STORIES])
def test_arrivals(story: Json) -> None:
    """Each record counts or is answered with its problem, whatever came before it; and the second
    implementation says the same."""
    both = Both()
    for step in story["steps"]:
        assert both.answers(step) == [step["answer"]] * 2, step


STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "signed_by": st.sampled_from("abcd"),
            "incarnation": st.sampled_from("xxy"),
            "sequence": st.integers(1, 9),
            "announces": st.sampled_from([None, None, "b", "c", "d"]),
        }
    ),
    max_size=14,
)


@given(STEPS)
@example(
    [
        {"signed_by": "a", "incarnation": "x", "sequence": 1, "announces": "b"},
        {"signed_by": "b", "incarnation": "x", "sequence": 5, "announces": "c"},
        {"signed_by": "c", "incarnation": "x", "sequence": 7, "announces": None},
        {"signed_by": "b", "incarnation": "x", "sequence": 4, "announces": None},
        {"signed_by": "c", "incarnation": "x", "sequence": 8, "announces": None},
    ]
)
def test_any_arrivals_have_the_answers_of_the_second_implementation(steps: list[Json]) -> None:
    """Above all: no record of a closed key, at whatever number, closes the key in use."""
    both = Both()
    for step in steps:
        if step["announces"] != step["signed_by"]:  # the record's form refuses it before
            ours, other = both.answers(step)
            assert ours == other, step


class Both:
    """One terminal's keys by either implementation."""

    def __init__(self) -> None:
        self.keys = {
            KEY["a"].kid: TerminalKey("t-1"),
            KEY["elsewhere"].kid: TerminalKey("t-2"),
        }
        self.other = second.TerminalKeys("a")

    def answers(self, step: Json) -> list[str]:
        by, announces = step["signed_by"], step["announces"]
        counts = self.other.arrive(by, step["incarnation"], step["sequence"])
        said = "posted" if counts else "signature_invalid"
        if counts and announces:
            said = self.other.announce(by, announces, announces == "elsewhere")
        return [answer(self.keys, arrived(step)), said.replace("posted", "counts")]


def answer(keys: dict[str, TerminalKey], record: Record) -> str:
    if record.kid not in keys or not key_rules.arrive(keys, record):
        return "signature_invalid"
    try:
        if isinstance(record.content, KeyChange):
            key_rules.announce(keys, record, record.content)
    except Problem as problem:
        return problem.code
    return "counts"
