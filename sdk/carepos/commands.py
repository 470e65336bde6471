"""The `carepos` command: its subcommands come from the entry-point group `carepos.commands`.

Each entry point is a function that adds a parser to the subparsers it is given, whose leaves set
`run`, a function from the parsed arguments to an exit code. So the SDK imports none of them, and
an installation without an extra shows the command but says what to install.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

from carepos.errors import CareposError

GROUP = "carepos.commands"
EXIT_CODES = (
    "Exit codes: 0 done; 1 done or asked, and the answer is no, or somebody should look; "
    "2 used wrongly, or it failed."
)
# A key, card, person or voucher with a random name, which begins with a hyphen as one in 64 does.
_RANDOM_NAME = re.compile(r"-[A-Za-z0-9_-]{15,}")


class _Parser(argparse.ArgumentParser):
    """Of the command and, for argparse makes them of the same class, of all below it: the help of
    one that does something ends with its exit codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"epilog": EXIT_CODES, **options})

    def add_subparsers(self, **options: Any) -> Any:
        self.epilog = None
        return super().add_subparsers(**options)

    def _parse_optional(self, arg_string: str) -> Any:
        """None: the word is no option. argparse has no public way to say so of one that begins with
        a hyphen, and who copies a name from a list would not think of `--` or `=`."""
        known = any(option.startswith(arg_string) for option in self._option_string_actions)
        if _RANDOM_NAME.fullmatch(arg_string) and not known:
            return None
        return super()._parse_optional(arg_string)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 1: done, but the answer is no; 2: wrong usage or it failed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console that can't show Chinese shows a mark instead of failing.
            stream.reconfigure(errors="replace")
    parser = _Parser(
        prog="carepos", description="The open redemption stack for digital aid vouchers."
    )
    parser.add_argument("--version", action="version", version=f"carepos {version('carepos')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    given = sys.argv[1:] if arguments is None else list(arguments)
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    # Loading a group costs up to a second: only the one that was named, or all for the help.
    named = [entry for entry in found if given and entry.name == given[0]]
    for entry in named or found:
        _add(entry, subparsers)
    chosen = parser.parse_args(given)
    try:
        return int(chosen.run(chosen))
    except CareposError as error:
        print(f"carepos: {error}", file=sys.stderr)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        print(f"carepos: {error.strerror or error}{place}", file=sys.stderr)
    except KeyboardInterrupt:
        print("carepos: stopped", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001  nobody foresaw it, so nobody knows what its text holds
        _say_where(error)
    return 2


def _say_where(error: BaseException | None) -> None:
    """Types and places of an error and of those behind it. Their texts may hold a token, a name or
    a row of somebody's list, and stderr ends in logs (INV-10)."""
    print("carepos: it failed unexpectedly; please report these lines:", file=sys.stderr)
    while error is not None:
        print(f"{type(error).__name__}, raised at", file=sys.stderr)
        for line in traceback.format_tb(error.__traceback__):
            print(line, end="", file=sys.stderr)
        error = error.__cause__ or error.__context__


def _add(
    entry: EntryPoint, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]
) -> None:
    try:
        entry.load()(subparsers)
    except ModuleNotFoundError as error:
        missing = error.name or "a package"
        extra = "plugin" if entry.module.startswith("carepos_plugin") else "ledger"
        needs = f"needs {missing}: pip install 'carepos[{extra}]'"
        # Whatever was typed behind it: the answer is what to install, not that a word is unknown.
        absent = subparsers.add_parser(entry.name, help=needs, prefix_chars="\0", add_help=False)
        absent.add_argument("words", nargs="*")

        def explain(_: argparse.Namespace) -> int:
            print(f"carepos {entry.name} {needs}", file=sys.stderr)
            return 2

        absent.set_defaults(run=explain)


if __name__ == "__main__":
    sys.exit(main())
