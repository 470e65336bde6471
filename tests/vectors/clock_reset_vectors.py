"""The vectors of docs/offline.md §11: an operator's clock reset, and what is none.

Made by the second implementation, without a line of `carepos`.
"""

from __future__ import annotations

from typing import Any

from tests.vectors import second

LEDGER_SEED = bytes(range(32))
TYP = "carepos-reset+jws"
GOOD = {
    "v": 1,
    "ledger": "ledger-1",
    "terminal": "t-1",
    "server_time": "2026-11-22T08:00:00.000Z",
}
REFUSED: dict[str, dict[str, Any]] = {
    "another till's": {**GOOD, "terminal": "t-2"},
    "another ledger's": {**GOOD, "ledger": "ledger-2"},
    "another version": {**GOOD, "v": 2},
    "a name too many": {**GOOD, "until": "2026-11-22T08:00:00.000Z"},
    "a name too few": {name: GOOD[name] for name in ("v", "ledger", "terminal")},
    "a time in another spelling": {**GOOD, "server_time": "2026-11-22T08:00:00Z"},
    "a day that is none": {**GOOD, "server_time": "2026-02-30T08:00:00.000Z"},
    "no terminal": {**GOOD, "terminal": None},
}


def clock_reset_file() -> dict[str, Any]:
    """What stands in clock_reset.json."""

    def spelled(payload: dict[str, Any], typ: str = TYP) -> str:
        return second.sign(second.jcs(payload), typ, LEDGER_SEED)

    return {
        "note": "docs/offline.md §11, for till `t-1` of ledger `ledger-1`. All are well signed "
        "by `seed`; what is refused is `malformed`.",
        "seed": LEDGER_SEED.hex(),
        "good": {"payload": GOOD, "jws": spelled(GOOD)},
        "refused": [
            *({"name": name, "jws": spelled(payload)} for name, payload in REFUSED.items()),
            {"name": "another type", "jws": spelled(GOOD, "carepos-time+jws")},
        ],
    }
