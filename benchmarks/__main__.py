"""`make bench`: every hot path beside its floor, as a table and as `bench-out/results.json`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import online, till_side
from benchmarks.measure import Row


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 150)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "http").mkdir()
        (folder / "embedded").mkdir()
        for row in (*till_side.rows(folder), *online.rows(folder)):
            console.print(f"[dim]measured[/] {row.row}")
            found.append(row)
    table = Table(title="Ours beside the floor of the same run; only the ratio counts")
    for column in ("row", "ours", "floor", "unit", "ratio", "goal", "met"):
        table.add_column(column, justify="left" if column in ("row", "goal") else "right")
    for row in found:
        table.add_row(
            row.row,
            f"{row.ours:,.1f}",
            "" if row.floor is None else f"{row.floor:,.1f}",
            row.unit,
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.goal,
            "yes" if row.met else "no",
        )
    console.print(table)
    out = Path("bench-out")
    out.mkdir(exist_ok=True)
    (out / "results.json").write_text(
        json.dumps([row.to_json() for row in found], indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    console.print(f"{out / 'results.json'} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
