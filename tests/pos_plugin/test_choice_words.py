"""Why something can't be done with a sale: a reason and what to do, never a table's words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from carepos import attempt
from carepos.attempt import State
from carepos.errors import WrongState
from carepos_plugin import choice_words
from carepos_plugin.problems import problem_of

STATES = frozenset(get_args(State))
NOTHING_THERE = {"refused", "reversing", "filling", "reversed"}
"""States in which a void or refund is refused by a rule, with its code."""
IMPOSSIBLE = {
    "cancel": STATES - {"unknown", "interrupted"} - attempt.CANCELLED,
    "goods": STATES - {"goods_asked", "accepted", "accept_asked"},
    "accept": STATES - attempt.FINAL - attempt.STORED | {choice_words.STOPPED},
    "void": STATES - attempt.BOOKED - attempt.STORED - NOTHING_THERE - {"voided"},
    "refund": STATES - attempt.BOOKED - NOTHING_THERE - {"voided"},
}
PAGE = (Path(__file__).parents[2] / "docs" / "register-api.md").read_text("utf-8")


@pytest.mark.parametrize("event", choice_words.CHOICES)
def test_every_choice_that_is_none_has_its_reason(event: str) -> None:
    """In both languages, for each state in which the till says no, and for no other."""
    choice = choice_words.CHOICES[event]
    assert {state for c, state in choice_words.WHY_NOT if c == choice} == IMPOSSIBLE[choice]
    for state in IMPOSSIBLE[choice]:
        problem = problem_of(WrongState(state, event)).to_json()
        assert (problem["status"], problem["code"], problem["detail"]) == (409, "wrong_state", "")
        assert problem.get("state") == (None if state == choice_words.STOPPED else state)
        for said in (problem["en"], problem["zh"]):
            assert said and not re.search(r"_|\bevent\b|\bstate\b", said), said


def test_the_other_answer_is_named() -> None:
    """Once answered, the other answer is refused with what was said before."""
    told = {
        before: problem_of(WrongState("provisional", "goods_kept", before=before)).to_json()["en"]
        for before in choice_words.ANSWERED
    }
    assert "Void the sale" in told["goods_handed_over"] and "kept" in told["goods_kept"]


def test_the_page_is_the_table() -> None:
    """docs/register-api.md tells them all."""
    table = PAGE.partition("<!-- choices:begin -->\n")[2].partition("\n<!-- choices:end")[0]
    assert table == choice_words.as_markdown()
