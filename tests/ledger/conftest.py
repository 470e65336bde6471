"""A ledger on either database, without HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ledger.rig import Rig, open_rig


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def migrated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    """One database of each kind for all tests of a module, migrated and empty."""
    folder = tmp_path_factory.mktemp("ledger")
    if request.param == "sqlite":
        with open_rig(f"sqlite:///{folder / 'ledger.db'}", folder, settled=False) as opened:
            yield opened
        return
    cluster = request.getfixturevalue("postgres_cluster")
    with (
        cluster.fresh_database() as url,
        open_rig(url, folder, settled=False) as opened,
    ):
        yield opened


@pytest.fixture
def rig(migrated: Rig) -> Iterator[Rig]:
    """A ledger with one programme, two shops of one merchant, and nothing issued yet. Whatever a
    test does to it, its sums must hold at the end (INV-2)."""
    migrated.empty()
    migrated.settle_in()
    yield migrated
    assert migrated.differences() == ()
