"""What tests start from is what a ledger starts from."""

from __future__ import annotations

from pathlib import Path

from carepos_ledger import migrations
from carepos_ledger.database import Database
from tests.postgres_cluster import PostgresCluster
from tests.quick_starts import migrate

_CATALOGUES = (
    (
        "SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name"
        " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
    ),
    "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 2",
    (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"
    ),
    "SELECT version_num FROM alembic_version",
)
_MASTER = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2",
    _CATALOGUES[-1],
)


def schema_of(database: Database) -> list[list[tuple[object, ...]]]:
    with database.read() as connection:
        return [
            [tuple(row) for row in connection.exec_driver_sql(query)]
            for query in (_MASTER if database.is_sqlite else _CATALOGUES)
        ]


def test_tables_made_quickly_are_alembics(
    tmp_path: Path, postgres_cluster: PostgresCluster
) -> None:
    """Table by table, index by index, constraint by constraint, on either kind of database."""
    files = [f"sqlite:///{tmp_path / name}" for name in "abc"]
    with (
        postgres_cluster.fresh_database() as one,
        postgres_cluster.fresh_database() as two,
        postgres_cluster.fresh_database() as three,
    ):
        for urls in (files, [one, two, three]):
            found = []
            for url, make in zip(urls, (migrations.upgrade, migrate, migrate), strict=True):
                database = Database(url)
                try:
                    make(database)
                    found.append(schema_of(database))
                finally:
                    database.close()
            assert found[0] == found[1] == found[2]
            assert all(found[0])
