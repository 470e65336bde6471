"""Some of the runs of `make faults`, and that its judge can see what it looks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.faults import cases, town
from tests.faults.town import Town, _Run


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Town]:
    with town.town(tmp_path, database_url) as made:
        yield made


def test_everything_holds(place: Town, request: pytest.FixtureRequest) -> None:
    """INV-1 to INV-8, FA-4, FB-2 to FB-13, FC-2 to FC-4, FD-1, FD-3, FF-1, FG-1: real processes
    killed with SIGKILL while the network between them lies; once all is healed till and ledger
    agree. Each flow, point and fault is among them, and some in which both die, one while it
    recovers from the other's death; all of them together: `make faults`."""
    played = [
        place.play(case) for case in cases.a_few(request.node.callspec.params["database_url"])
    ]
    assert [(e.case.name, e.violation) for e in played if e.violation] == []
    assert sum(bool(each.killed) for each in played) > len(played) // 3
    together = [each for each in played if len(each.case.victims) == 2]
    assert sum(len(each.killed) == 2 for each in together) > len(together) // 2 > 1


def test_names_are_runs() -> None:
    """Each name is there once, and finds its run again."""
    names = [case.name for case in cases.every()]
    assert len(set(names)) == len(names) > 2_000
    assert [case.name for case in cases.chosen(names[1_234])] == [names[1_234]]


SPOILT = (
    "UPDATE vouchers SET available_minor = available_minor + 1",
    "DELETE FROM records WHERE kind = 'redeem'",
    "UPDATE attempts SET state = 'reversed' WHERE state = 'posted'",
    "DELETE FROM terminal_notes WHERE sequence = 2",
    "UPDATE entries SET amount = amount + 1 WHERE account = 'payable'",
)


def test_the_judge_is_not_blind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is other at the ledger than it should be is seen."""
    unseen = []
    with town.town(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}") as made:
        for changed in SPOILT:

            def spoil(run: Any, changed: str = changed) -> None:
                with run.town.engine.begin() as connection:
                    connection.execute(text(changed))

            monkeypatch.setattr(_Run, "_everything_comes_again", spoil)
            if made.play(cases.Case("sqlite", "sale", "nobody", "calm")).violation is None:
                unseen.append(changed)
    assert unseen == []
