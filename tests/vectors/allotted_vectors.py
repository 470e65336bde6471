"""The vectors of a pack's `allotted` (docs/offline.md §5). Expected values are written by hand."""

from __future__ import annotations

import json
from typing import Any

from tests.vectors import second_offline

Json = dict[str, Any]


def sums(*told: tuple[object, object]) -> list[Json]:
    return [{"currency": currency, "amount_minor": minor} for currency, minor in told]


CASES: list[tuple[str, Any, dict[str, int] | None]] = [
    ("one currency", sums(("CNY", 1_230_000)), {"CNY": 1_230_000}),
    ("two, in order", sums(("CNY", 5), ("JPY", 7)), {"CNY": 5, "JPY": 7}),
    ("nothing set aside", [], {}),
    ("a sum of nothing", sums(("CNY", 0)), {"CNY": 0}),
    ("of very many households", sums(("CNY", 2**53 - 1)), {"CNY": 2**53 - 1}),
    ("out of order", sums(("JPY", 7), ("CNY", 5)), None),
    ("twice", sums(("CNY", 5), ("CNY", 7)), None),
    ("four letters", sums(("CNYY", 5)), None),
    ("small letters", sums(("cny", 5)), None),
    ("less than nothing", sums(("CNY", -1)), None),
    ("true", sums(("CNY", True)), None),
    ("as text", sums(("CNY", "5")), None),
    ("without an amount", [{"currency": "CNY"}], None),
    ("with a programme", [{**sums(("CNY", 5))[0], "programme": "flood-dairy"}], None),
    ("an object", {"CNY": 5}, None),
    ("null", None, None),
]


def allotted_file() -> Json:
    """What stands in allotted.json; `sums` is null where the pack is malformed."""
    found = []
    for name, told, expected in CASES:
        assert second_offline.read_allotted(told) == expected, name
        found.append({"name": name, "allotted": json.dumps(told), "sums": expected})
    return {"note": "docs/offline.md §5: `allotted` of a pack, as JSON text", "cases": found}
