"""What every test may ask for: a database of each kind, and the same Hypothesis everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

from tests.postgres_cluster import NoPostgres, PostgresCluster, running_cluster
from tests.quick_starts import remember_addresses

# pytest-xdist tells its workers that the screen is narrow; what commands print must not depend on
# how the tests are run.
os.environ.pop("COLUMNS", None)

# Never derandomised, also where CI is set: each run looks at other examples, and a failing one is
# printed as a line that reproduces it.
settings.register_profile("default", deadline=None, derandomize=False, print_blob=True)
settings.register_profile("ci", settings.get_profile("default"))
settings.register_profile("thorough", settings.get_profile("default"), max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

remember_addresses()


_LONGEST: Final = (
    "test_t12_privacy",
    "test_undo_machine",
    "test_ledger_machine",
    "test_retention",
    "test_healing",
    "test_offline_limits",
    "test_sim",
    "test_faults",
)
"""Files that take a minute and more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: begun last, one alone would keep everybody waiting."""
    items.sort(key=lambda item: item.path.stem not in _LONGEST)


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """One PostgreSQL server for the whole run, started when the first test asks for it."""
    try:
        with running_cluster() as cluster:
            yield cluster
    except NoPostgres as failure:
        pytest.fail(str(failure), pytrace=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database; each test that asks runs once on either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres_cluster")
    with cluster.fresh_database() as url:
        yield url
