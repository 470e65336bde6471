"""What an operator does about an alarm: one sentence for each kind (docs/operators.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

HINTS: Final[Mapping[str, str]] = {
    "fork": (
        "Two machines write as this till, or it was put back from a copy: it is stopped. Ask the "
        "shop which, enrol it anew with `carepos ledger activate`, then go through `carepos ledger "
        "held` and `carepos ledger chain`."
    ),
    "journal": (
        "This till began another journal. If nobody in the shop set it up anew, its key is on a "
        "second machine: `carepos ledger suspend TERMINAL --revoke`."
    ),
    "key_change": (
        "A second new key waits for this till. If the shop did not change it twice, revoke it: "
        "`carepos ledger suspend TERMINAL --revoke`."
    ),
    "id_content_mismatch": (
        "One number was used for two sales; the second was refused. Ask the shop what happened."
    ),
    "data_lost": (
        "Tills hold answers of this ledger that are not in its book: stop the server and run "
        "`carepos ledger heal begin`."
    ),
    "store_missing": (
        "A till comes back from what was lost, and its store is not here (the digest is its name): "
        "make it again with `carepos ledger store` and `admit`."
    ),
    "number_taken": (
        "A till comes back from what was lost, and another has its number: its shop's receipts are "
        "settled by hand; enrol it anew with `carepos ledger activate`."
    ),
    "paid_differently": (
        "A restored settlement batch paid another amount for this sale than is booked: settle the "
        "difference with the shop."
    ),
    "disputed": "Somebody says they did not buy this: `carepos ledger disputes`.",
    "voucher_stopped": "A holder stopped a voucher: `carepos ledger stops`.",
}


def hint(kind: object) -> str:
    """Never empty: an alarm of a kind that is not known here wants somebody who knows it."""
    return HINTS.get(str(kind), "Look at what this till sent, and ask the shop.")
