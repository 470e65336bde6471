"""Commands on the ledger's own machine: found it, serve it, migrate it, name an operator.

They open the database, so all but `serve` want the ledger stopped when it is an SQLite file.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from carepos import ids, strict_json
from carepos_ledger import app, migrations
from carepos_ledger.database import Database, LedgerInUse
from carepos_ledger.operator_client import SECRET_FILE, CommandStopped
from carepos_ledger.operators import Operators, new_secret
from carepos_ledger.private_file import write_private_file
from carepos_ledger.problems import Problem
from carepos_ledger.settings import FILE, Settings

DONE, NO = 0, 1

_Work = Callable[[argparse.Namespace], int]


def plain_failures(work: _Work) -> _Work:
    """What the database says becomes one sentence; its own text may show a password or a row."""

    @functools.wraps(work)
    def run(args: argparse.Namespace) -> int:
        try:
            return work(args)
        except Problem as error:
            print(f"Refused: {error.detail or error.code}.", file=sys.stderr)
            return NO
        except LedgerInUse as error:
            raise CommandStopped(f"The ledger is running: {error}.") from error
        except SQLAlchemyError as error:
            raise CommandStopped(
                f"The database can't be used ({type(error).__name__}): look at `database` in "
                f"{FILE}, and whether its server runs."
            ) from None

    return run


@plain_failures
def init(args: argparse.Namespace) -> int:
    folder: Path = args.folder
    ids.name(args.operator, "--operator")
    default = Settings.default(folder)
    settings = Settings(
        folder,
        _database_url(args.database) or default.database,
        strict_json.text(args.audience, "--audience"),
        args.host,
        strict_json.integer(args.port, "--port", low=1, high=65_535),
    )
    if (folder / FILE).exists():
        raise CommandStopped(f"There is a ledger in {folder} already: nothing was changed.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        app.create(folder, settings)
    except FileExistsError as error:
        raise CommandStopped(
            f"{error.filename} is a key of a ledger that is or was in {folder}: name another "
            "folder, or move the keys away if nothing was ever signed with them."
        ) from None
    secret_file = _new_operator(settings, args.operator, folder / SECRET_FILE)
    print(
        f"A ledger is founded in {folder}. 账本已建立。\n"
        f"  {FILE}: settings, to be read and changed\n"
        f"  {secret_file.name}: the secret of the operator {args.operator}; keep it private\n"
        "  root.key: take a copy to a safe place; the ledger serves without it\n"
        f"Next: carepos ledger serve --folder {folder}"
    )
    return DONE


def _database_url(given: str | None) -> str | None:
    """`-` reads it from stdin: every user of this machine sees a command's words."""
    return sys.stdin.readline().strip() if given == "-" else given


@plain_failures
def serve(args: argparse.Namespace) -> int:
    settings = settings_of(args.folder)
    if args.host is not None:
        settings = replace(settings, host=args.host)
    if args.port is not None:
        settings = replace(
            settings, port=strict_json.integer(args.port, "--port", low=1, high=65_535)
        )
    said = f"Serving on http://{settings.host}:{settings.port}, stop with Ctrl-C"
    app.serve(settings, ready=lambda: print(said, flush=True))
    return DONE


@plain_failures
def migrate(args: argparse.Namespace) -> int:
    with closing(Database(settings_of(args.folder).database)) as database:
        applied = migrations.upgrade(database)
    print(f"Applied: {', '.join(applied)}" if applied else "Nothing to do: the schema is current.")
    return DONE


@plain_failures
def operator(args: argparse.Namespace) -> int:
    path = args.to or args.folder / SECRET_FILE
    if path.exists():
        raise CommandStopped(f"{path} is there already: name another file with --to.")
    _new_operator(settings_of(args.folder), args.name, path)
    print(f"The secret of {args.name} is in {path}. Hand it over on a safe way.")
    return DONE


def _new_operator(settings: Settings, name: str, path: Path) -> Path:
    secret = new_secret()
    # The file first: an operator whose secret nobody has would hold the name for ever.
    write_private_file(path, secret.encode("ascii") + b"\n", replace=False)
    try:
        with closing(Database(settings.database)) as database:
            Operators(database).add(name, secret)
    except BaseException:
        path.unlink()
        raise
    return path


def settings_of(folder: Path) -> Settings:
    """Of the ledger in a folder. Raises CommandStopped."""
    try:
        return Settings.load(folder)
    except FileNotFoundError:
        raise CommandStopped(
            f"There is no ledger in {folder}: found one with `carepos ledger init`, or name its "
            "folder with --folder."
        ) from None
