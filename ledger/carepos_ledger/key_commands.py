"""`carepos ledger keys`, `rotate-key`, `clock-reset`: the ledger's own keys, on its own machine.

None holds the database open: they may be typed beside a running server.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from pathlib import Path

from sqlalchemy import NullPool, create_engine, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from carepos import clock, durable, ids, signed_time
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos_ledger import schema
from carepos_ledger.founding import settings_of
from carepos_ledger.keyring import Keyring
from carepos_ledger.operator_client import CommandStopped

DONE = 0


def keys(args: argparse.Namespace) -> int:
    _show(_loaded(args.folder))
    return DONE


def rotate_key(args: argparse.Namespace) -> int:
    before = _loaded(args.folder)
    root: Path = args.root or args.folder / "root.key"
    try:
        made = Keyring.rotate(args.folder, root)
    except FileNotFoundError:
        raise CommandStopped(
            f"{root} is not there: name the copy of the root key with --root. Nothing was changed."
        ) from None
    except BlockingIOError:
        raise CommandStopped("Another command changes these keys: try again.") from None
    except Malformed as error:
        raise CommandStopped(f"{error}. Nothing was changed.") from None
    _show(made)
    print(
        f"Signing key {made.signing.kid} takes the place of {before.signing.kid}.\n"
        "签名密钥已更换，重启服务后生效。\n"
        "A server that is running signs with the old key until it is started again: restart it.\n"
        f"Take a copy of keyset.json and signing.key; take {root.name} off this machine."
    )
    return DONE


def clock_reset(args: argparse.Namespace, now: Clock = clock.system_clock) -> int:
    """Sign this machine's time for one till; only an operator can say that it is right. Raises
    CommandStopped for a terminal that is not in the book."""
    terminal = ids.name(args.terminal, "TERMINAL")
    ring, at = _loaded(args.folder), now()
    try:
        is_known = _has_terminal(args.folder, terminal)
    except (CommandStopped, SQLAlchemyError, Malformed, OSError, ModuleNotFoundError):
        # A till must be helped also from where only the keys are.
        print("The book can't be looked into here: is that the terminal's name?", file=sys.stderr)
    else:
        if not is_known:
            raise CommandStopped(
                f"There is no terminal {terminal}, and no reset was made: carepos ledger terminals "
                "lists them."
            )
    text = signed_time.make_reset(ledger=ring.ledger, terminal=terminal, at=at, key=ring.signing)
    to: Path = args.to or Path(f"{terminal}.reset")
    durable.write(to, text.encode("ascii") + b"\n")
    print(
        f"{to} tells {terminal} that it is {clock.to_text(at)}. 已生成时钟重置文件。\n"
        "If that is not the time, delete it and set this machine's clock.\n"
        f"Else send it to the shop: carepos till clock-reset {to.name}. It is taken once, and no "
        "earlier one after it."
    )
    return DONE


def _has_terminal(folder: Path, terminal: str) -> bool:
    """Looked up beside the server, which alone opens an SQLite book for writing."""
    url = make_url(settings_of(folder).database)
    if url.get_backend_name() == "sqlite":
        uri = f"{Path(url.database or '').absolute().as_uri()}?mode=ro"
        engine = create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True), poolclass=NullPool
        )
    else:
        engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
    table = schema.terminals.c
    with engine.connect() as connection:
        found = connection.scalar(select(table.terminal).where(table.terminal == terminal))
    return found is not None


def _loaded(folder: Path) -> Keyring:
    try:
        return Keyring.load(folder)
    except FileNotFoundError:
        raise CommandStopped(
            f"There are no keys of a ledger in {folder}: name its folder with --folder."
        ) from None


def _show(ring: Keyring) -> None:
    print(f"{ring.ledger}, key set version {ring.keys.version}, epoch {ring.epoch}")
    print(f"  {ring.root.kid}  root: signs the key set 根密钥")
    for key in ring.keys.keys:
        what = "signs 签名中" if key == ring.signing.public else "of old signatures 旧签名"
        print(f"  {key.kid}  {what}")
