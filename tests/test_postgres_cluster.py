from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import make_url

from tests.postgres_cluster import URL_VARIABLE, NoPostgres, PostgresCluster, running_cluster


def test_a_database_url_leads_to_an_empty_database_that_can_be_written(database_url: str) -> None:
    """Every test starts from nothing, on either kind of database."""
    engine = create_engine(database_url)
    assert inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER NOT NULL)"))
        connection.execute(text("INSERT INTO t VALUES (7)"))
    with engine.begin() as connection:
        assert connection.execute(text("SELECT n FROM t")).scalar_one() == 7
    engine.dispose()


def test_a_fresh_database_is_gone_afterwards_even_with_a_session_open(
    postgres_cluster: PostgresCluster,
) -> None:
    """A test that forgets to close a connection leaves nothing behind for the next."""
    with postgres_cluster.fresh_database() as url:
        name = make_url(url).database
        assert name in postgres_cluster.database_names()
        forgotten = postgres_cluster.connect(database=name)
    assert name not in postgres_cluster.database_names()
    with pytest.raises(psycopg.OperationalError):
        forgotten.execute("SELECT 1")
    forgotten.close()


def test_our_own_server_is_unprivileged_durable_and_asks_for_the_password(
    postgres_cluster: PostgresCluster,
) -> None:
    """What the tests prove about COMMIT holds: the server keeps its durability settings."""
    with postgres_cluster.fresh_database() as url:
        engine = create_engine(url)
        with engine.connect() as connection:
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                assert connection.execute(text(f"SHOW {name}")).scalar_one() == "on"
        engine.dispose()
    if postgres_cluster.pid is not None:
        assert Path(f"/proc/{postgres_cluster.pid}").stat().st_uid == postgres_cluster.uid != 0
        with pytest.raises(psycopg.OperationalError, match="password"):
            postgres_cluster.connect(password="not the password")


def test_a_run_that_is_killed_leaves_no_server_and_no_folder() -> None:
    """The server ends with the process that started it, however that one ended."""
    program = """
import os, signal
from tests.postgres_cluster import running_cluster
with running_cluster() as cluster:
    with cluster.connect() as connection:
        folder = connection.execute("SHOW data_directory").fetchone()[0]
    print(cluster.pid, folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    # The server's own process inherits standard error: reading that to its end waits for it.
    killed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        env={name: value for name, value in os.environ.items() if name != URL_VARIABLE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode < 0, killed.stderr
    pid, folder = killed.stdout.split(maxsplit=1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert not Path(folder.strip()).parent.exists()


def test_without_a_server_the_run_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is skipped for want of PostgreSQL: the run fails with the remedy, without secrets."""
    monkeypatch.setenv(URL_VARIABLE, "postgresql://someone:a-secret@127.0.0.1:1/postgres")
    with (
        pytest.raises(NoPostgres, match=f"{URL_VARIABLE}=.* make test") as refused,
        running_cluster(),
    ):
        pass
    assert "a-secret" not in str(refused.value)
