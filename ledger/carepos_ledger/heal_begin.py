"""`carepos ledger heal begin`: on the ledger's own machine, with every server of it stopped."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from carepos import clock
from carepos.errors import Malformed
from carepos_ledger import healing, migrations
from carepos_ledger.database import Database
from carepos_ledger.founding import DONE, plain_failures, settings_of
from carepos_ledger.operator_client import CommandStopped


@plain_failures
def begin(args: argparse.Namespace) -> int:
    root: Path = args.root or args.folder / "root.key"
    with closing(Database(settings_of(args.folder).database)) as database:
        migrations.upgrade(database)
        if others := database.others():
            # It would go on signing for the epoch before, into a book that is not whole.
            raise CommandStopped(
                f"{others} others are connected to the database: stop every server of this ledger "
                "first. Nothing was changed."
            )
        try:
            progress = healing.begin(database, args.folder, clock.system_clock, root)
        except FileNotFoundError:
            raise CommandStopped(
                f"{root} is not there: name the copy of the root key with --root. Nothing was "
                "changed."
            ) from None
        except BlockingIOError:
            raise CommandStopped("Another command changes these keys: try again.") from None
        except Malformed as error:
            raise CommandStopped(f"{error}. Nothing was changed.") from None
    print(
        f"The ledger heals, epoch {progress.epoch}. 账本进入恢复状态。\n"
        "Start the server: tills wait, and report what they hold.\n"
        "Then: carepos ledger heal manifest FILE…   settlement files published after the backup\n"
        "      carepos ledger heal status            who has reported\n"
        "      carepos ledger heal open              book it, and let tills go on\n"
        f"Take a copy of keyset.json; take {root.name} off this machine."
    )
    return DONE
