"""`carepos ledger heal` while processes are killed (FI-3, INV-8): at each step that it takes, the
command is typed again, and in the end the ledger is what it was before it lost anything."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from carepos.commands import main
from carepos_ledger import app, book, healing, opening
from carepos_ledger.operator_client import OperatorClient
from carepos_ledger.settings import Settings
from tests.faults.processes import ENDS_IN_S, Armed, Child, Died
from tests.postgres_cluster import PostgresCluster
from tests.stories.restorable import Restorable, confirmed, restorable
from tests.stories.test_healing import OFFLINE, REFUNDS, a_day, is_whole
from tests.world import PROGRAMME, served

ANSWERED = "answered"
"""Not a point of the product: the operator's command has heard the ledger."""
OPENING = [
    ("noted", 1), ("written", 1), ("committed", 1), ("replayed", 1),
    ("noted", 3), ("written", 3), ("committed", 3), ("replayed", 3),
    ("turned", 1), ("turned", 1), ("opened", 1),
]  # fmt: skip
"""Where the server dies, and which time, one after another: each begins where the one before
stopped."""


def _serve(calls: Connection, settings: Settings, at: datetime, port: int, armed: Armed) -> None:
    """The ledger's server, until it is killed."""
    built = app.build(settings, now=lambda: at, reached=armed.reached)
    with served(built, port) as (url, _):
        calls.send(url)
        calls.recv()


def _type(calls: Connection, words: list[str], armed: Armed) -> None:
    """An operator's command, as a process of its own; its exit code."""
    healing.begin = partial(healing.begin, reached=armed.reached)
    real = OperatorClient.post

    def post(self: OperatorClient, path: str, body: Any) -> dict[str, Any]:
        answer = real(self, path, body)
        armed.reached(ANSWERED)
        return answer

    OperatorClient.post = post  # type: ignore[method-assign]
    calls.send(main(words))


def armed_at(point: str, times: int = 1) -> Armed:
    armed = Armed()
    armed.arm(point, times)
    return armed


@contextmanager
def serving(house: Restorable, armed: Armed) -> Iterator[Child]:
    made = house.world
    port = int(made.url.rpartition(":")[2])
    child = Child(_serve, made.settings, made.now(), port, armed)
    try:
        yield child
    finally:
        child.kill()


def types(house: Restorable, *words: str, armed: Armed) -> int:
    """Raises Died where the command does not live to end."""
    more = ["--folder", str(house.world.settings.folder)]
    if words != ("heal", "begin"):
        more += ["--url", house.world.url]
    child = Child(_type, ["ledger", *words, *more], armed)
    child.kill()
    return int(child.first)


@pytest.fixture
def house(
    tmp_path: Path, database_url: str, request: pytest.FixtureRequest
) -> Iterator[Restorable]:
    def cluster() -> PostgresCluster:
        found: PostgresCluster = request.getfixturevalue("postgres_cluster")
        return found

    with restorable(tmp_path, database_url, cluster) as made:
        rules = {**PROGRAMME, "refunds": REFUNDS, "offline": OFFLINE}
        made.world.ledger.programmes.put_programme(rules)
        yield made


def begin(house: Restorable) -> None:
    """Typed until it is done: PostgreSQL may still count the connection of one that was killed."""
    for _ in range(60):
        if house.carepos("heal", "begin") == 0:
            return
    raise AssertionError("it does not begin")


def test_a_heal_whose_processes_are_killed_at_each_step(house: Restorable) -> None:
    """The command that begins it, the server that opens it, the command that waits for that: what
    was done is done once, nothing is half done, and every row is what it was before the loss."""
    one, two, _, _ = a_day(house)
    before = house.rows()
    house.restore()
    nothing = armed_at("")

    for point in healing.POINTS:
        begun = False
        while not begun:
            try:
                code = types(house, "heal", "begin", armed=armed_at(point))
                assert code == 2, code  # the connection of the one before is still counted
            except Died:
                begun = True
        if point == "heal_begun":
            # The book is of the next epoch and the keys are not: nobody serves that.
            with pytest.raises(RuntimeError, match="cut short"):
                house.start()
    begin(house)

    with serving(house, nothing):
        assert {one.heal().complete, two.heal().complete} == {True}
        assert house.carepos("heal", "manifest", str(house.world.folder / "settlements")) == 0
    for point, times in OPENING:
        with serving(house, armed_at(point, times)) as server:
            assert house.carepos("heal", "open") == 2
            server._process.join(ENDS_IN_S)
            assert server._process.exitcode == -signal.SIGKILL, (point, times)
        if (point, times) == ("replayed", 3):
            with serving(house, nothing):
                two.heal()  # a till that reports again meanwhile
                with pytest.raises(Died):
                    types(house, "heal", "open", armed=armed_at(ANSWERED))

    with serving(house, nothing):
        for _ in range(2):
            assert house.carepos("heal", "open") == house.carepos("heal", "status") == 0
        for till in (one, two):
            assert till.heal().message() is None
    house.start()
    is_whole(house, before)
    assert house.world.ledger.keyring.epoch == 2  # it began once
    with house.world.ledger.database.read() as connection:
        assert healing.read(connection) is None
    for till in (one, two):
        assert confirmed(till) == house.posted(till)
    assert house.world.ledger.office.programme_sums(PROGRAMME["programme"]).differences == ()


def test_every_point_of_the_opening_is_among_them() -> None:
    """A point that is added is killed at too."""
    assert {point for point, _ in OPENING} == {*book.POINTS, *opening.POINTS}
