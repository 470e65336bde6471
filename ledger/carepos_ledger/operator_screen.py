"""What operators' commands print: one sentence per action, tables as wide as the screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def tell(answer: dict[str, Any], what: str) -> None:
    """What became of an action, from the ledger's `result`."""
    words = {
        "created": "Made 已建立",
        "exists": "There already 已存在",
        "changed": "Changed 已更改",
    }
    print(f"{words.get(str(answer.get('result')), 'Done')}: {what}")


def console() -> Console:
    """Piped into a file there is no width to keep to, unless COLUMNS names one."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(markup=False, highlight=False, width=width)


def rows_refused(results: Mapping[int, tuple[str, str]], *, dry_run: bool) -> dict[str, int]:
    """Show which lines of a file were refused, and why. `results`: by line (0: the whole file) what
    became of it, and the reason; how many there are of each result."""
    refused = {line: why for line, (result, why) in results.items() if result == "refused"}
    screen = console()
    if refused:
        shown = Table(title="Refused 拒收", title_justify="left")
        shown.add_column("line 行", justify="right")
        shown.add_column("reason 原因")
        for line in sorted(refused):
            shown.add_row(str(line or ""), refused[line])
        screen.print(shown)
    if dry_run:
        screen.print("Dry run: nothing was written. 试运行，未写入。")
    counts = dict.fromkeys(("created", "changed", "exists", "refused"), 0)
    for result, _ in results.values():
        counts[result] += 1
    return counts


def table(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Table:
    """One row per object; what an object lacks, or has as null, is an empty cell."""
    made = Table()
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*("" if row.get(c) is None else str(row[c]) for c in columns))
    return made
