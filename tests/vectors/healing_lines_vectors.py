"""The vectors of docs/offline.md §12: whose records a ledger tells of, where a copy of a till counts
with the same numbers. Expected values by hand.
"""

# Tables read better with their cases on long lines.
# ruff: noqa: E501

from __future__ import annotations

import hashlib
from typing import Any

from tests.vectors import second_healing
from tests.vectors.second import b64

Json = dict[str, Any]


def digest(name: str) -> str:
    return b64(hashlib.sha256(f"carepos test vectors|record {name}".encode()).digest())


# Up to number 2 they are one; from 3 on the till wrote a3 …, its copy b3 ….
TILL = [digest(name) for name in ("1", "2", "a3", "a4", "a5", "a6")]
COPY = [digest(name) for name in ("1", "2", "b3", "b4", "b5", "b6")]


def cases() -> list[Json]:
    both = sorted([TILL[3], COPY[3]])
    rows: list[tuple[str, list[int], list[list[int]], list[list[str]], bool, list[int]]] = [
        ("its own line", [1, 2, 3, 4], [[1, 4]], [[TILL[3]]], False, []),
        ("the copy's", [1, 2, 3, 4], [[1, 4]], [[COPY[3]]], False, [1, 2, 3, 4]),
        ("both are known", [1, 2, 3, 4], [[1, 4]], [both], False, []),
        ("what they share", [1, 2, 4], [[1, 2]], [[TILL[1]]], False, [4]),
        ("what they share, and the copy's behind it", [1, 2, 4, 5], [[1, 2], [4, 5]], [[TILL[1]], [COPY[4]]], False, [4, 5]),
        ("only what has an outcome", [1, 2, 4], [[1, 4]], [[COPY[3]]], False, [1, 2, 4]),
        ("the copy's, as far as it is told", [1, 3, 4, 6], [[1, 1], [3, 4]], [[TILL[0]], [COPY[3]]], True, [3, 4]),
        ("nothing is held", [1, 2], [], [], False, [1, 2]),
    ]  # fmt: skip
    for name, answered, held, ends, more, missing in rows:
        assert second_healing.lacking(answered, TILL, held, ends, more) == missing, name
    return [
        {
            "name": name,
            "answered": answered,
            "held": held,
            "ends": ends,
            "more": more,
            "offered": missing,
        }
        for name, answered, held, ends, more, missing in rows
    ]


def bad_ends() -> list[Json]:
    one = [[1, 2]]
    rows: list[tuple[str, list[list[int]], Any]] = [
        ("one too few", [[1, 2], [4, 5]], [[TILL[1]]]),
        ("one too many", one, [[TILL[1]], [TILL[3]]]),
        ("none", one, [[]]),
        ("more than 20", one, [[digest(str(n)) for n in range(21)]]),
        ("too short", one, [["x" * 42]]),
        ("a number", one, [[7]]),
        ("no list", one, [TILL[1]]),
    ]
    return [{"name": name, "held": held, "ends": ends} for name, held, ends in rows]


def healing_lines_file() -> Json:
    return {
        "note": "docs/offline.md §12",
        "own": TILL,
        "lines": cases(),
        "bad_ends": bad_ends(),
    }
