"""`carepos ledger keys` and `rotate-key`: the ledger's own keys, on its own machine.

Neither opens the database: both may be typed beside a running server.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from carepos.errors import Malformed
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
