"""What was sold without the ledger's word: within which limits, and what became of it.

The limits are those of docs/offline.md §6 and of the programmes as the township has them. A loss
is possible and stays within them; whatever was not paid by a voucher stands in a list.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any, Final

from tests.properties.ledger_model import Opened
from tests.sim.evidence import Evidence, need
from tests.sim.files import Journal
from tests.sim.township import OFFLINE

_OVER: Final = frozenset({"confirmed", "short", "exception", "voided"})


def check(evidence: Evidence) -> None:
    """Raises Violation for the first promise about offline sales that is broken."""
    _check_choice(evidence)
    _check_one_word(evidence)
    _check_listed(evidence)
    for journal in (*evidence.journals, *evidence.copies):
        _check_stored(journal)
        _check_given_back(journal)
        _check_floor(evidence, journal)
    _check_allotments(evidence)
    _check_losses(evidence)


def _check_choice(evidence: Evidence) -> None:
    """An attempt became a reversal or an acceptance, never both."""
    for journal in (*evidence.journals, *evidence.copies):
        chosen = Counter(
            row["id"] for row in journal.records if row["kind"] in ("reversal", "accept_offline")
        )
        need("INV-5", all(n == 1 for n in chosen.values()), "an attempt was chosen for twice")


def _check_one_word(evidence: Evidence) -> None:
    """A sale and its acceptance have the same result."""
    results = {
        record.key: outcome["result"]
        for record, outcome in evidence.decided(
            "redeem", "posted", "posted_short", "exception", "refused", "reversed"
        )
    }
    for record, outcome in evidence.decided(
        "accept_offline", "posted", "posted_short", "exception"
    ):
        is_one = results[record.key] == outcome["result"]
        # Two journals of one till may go on with a sale that was open, each in its own way.
        need("INV-6", is_one or record.key[0] in evidence.copied, "two words for one sale")


def _check_listed(evidence: Evidence) -> None:
    """Every sale that left and was not paid in full stands in the ledger's list, and none else; but
    for those that a person did not accept, who had them before."""
    looked_at = {
        row["digest"] for row in evidence.book["held_records"] if row["decision"] == "refuse"
    }
    lost = {
        record.digest: outcome.get("shortfall_minor", _amount(evidence, record))
        for record, outcome in evidence.decided("accept_offline", "posted_short", "exception")
        if record.digest not in looked_at
    }
    listed = {row["digest"]: row["amount_minor"] for row in evidence.book["exceptions"]}
    need("listed", listed == lost, f"listed {listed}, lost {lost}")


def _amount(evidence: Evidence, accepted: Opened) -> int:
    redeem = evidence.record[accepted.payload["content"]["record_sha256"]]
    return sum(entry["programme_minor"] for entry in redeem.payload["content"]["allocation"])


def _check_stored(journal: Journal) -> None:
    """A till never held more that is not decided than its programmes allow."""
    programmes = {row["id"]: (row["programme"], row["amount_minor"]) for row in journal.attempts}
    held: dict[str, dict[str, int]] = defaultdict(dict)
    for event in journal.events:
        programme, amount = programmes[event["id"]]
        stored = held[programme]
        if event["event"] == "accept_chosen":
            stored[event["id"]] = amount
            limits = OFFLINE[programme]
            within = (
                sum(stored.values()) <= limits["stored_sum_minor"]
                and len(stored) <= limits["stored_count"]
            )
            need("limits", within, f"{len(stored)} of {sum(stored.values())} stored: {programme}")
        elif event["after"] in _OVER:
            stored.pop(event["id"], None)


def _check_given_back(journal: Journal) -> None:
    """What a till gave back of allotments it does not spend any more."""
    given_back: set[tuple[str, int]] = set()
    for record in journal.opened:
        content = record.payload["content"]
        if record.payload["kind"] == "return_allotment":
            given_back |= {(each["voucher"], each["allotment"]) for each in content["allotments"]}
        for use in content.get("allotment_use", ()):
            spent = (use["voucher"], use["allotment"]) in given_back
            need("INV-2", not spent, "a till spent what it had given back")


def _check_floor(evidence: Evidence, journal: Journal) -> None:
    """Beyond allotments no more went than floor limits let, in one sale and to one family."""
    beyond: dict[tuple[str, str], list[tuple[datetime, int]]] = defaultdict(list)
    for accepted in journal.opened:
        if accepted.payload["kind"] != "accept_offline":
            continue
        content = accepted.payload["content"]
        sale = evidence.record[content["record_sha256"]].payload
        programme = sale["content"]["programme"]
        used = sum(use["amount_minor"] for use in content["allotment_use"])
        minor = _amount(evidence, accepted) - used
        floor: dict[str, Any] | None = OFFLINE[programme]["floor"]
        if floor is None:
            need("limits", minor == 0, f"{minor} beyond allotments where there is no floor")
            continue
        liability = floor["liability"] if minor else "programme"
        need("limits", content["liability"] == liability, "another is liable than the rule says")
        need("limits", minor <= floor["redemption_minor"], "more in one sale than the floor")
        at = datetime.fromisoformat(accepted.payload["occurred_at"])
        given = beyond[sale["content"]["beneficiary"], programme]
        given.append((at, minor))
        since = at - timedelta(seconds=floor["window_s"])
        total = sum(minor for when, minor in given if when > since)
        need("limits", total <= floor["beneficiary_minor"], "more to one family than the floor")


def _check_allotments(evidence: Evidence) -> None:
    """No allotment gave more than it held; what stayed within one was paid in full as long as it
    was open."""
    for row in evidence.book["allotments"]:
        left = (row["left_minor"], row["left_quantity"])
        need("INV-2", min(left) >= 0, "an allotment below zero")
        need("INV-2", left <= (row["amount_minor"], row["quantity"]), "an allotment grew")
    closed = {
        (row["voucher"], row["allotment"]) for row in evidence.book["allotments"] if row["closed"]
    }
    for accepted, outcome in evidence.decided("accept_offline", "posted_short"):
        content = accepted.payload["content"]
        uses = {(use["voucher"], use["allotment"]) for use in content["allotment_use"]}
        used = sum(use["amount_minor"] for use in content["allotment_use"])
        if uses & closed or accepted.key[0] in evidence.copied:
            continue
        beyond = _amount(evidence, accepted) - used
        need("INV-2", outcome["shortfall_minor"] <= beyond, "an open allotment did not pay")


def _check_losses(evidence: Evidence) -> None:
    """What the programme lost it had set aside; what the shop risked it said so before."""
    for accepted, outcome in evidence.decided("accept_offline", "posted_short"):
        if outcome["liability"] == "merchant":
            continue
        redeem = evidence.record[accepted.payload["content"]["record_sha256"]]
        programme = redeem.payload["content"]["programme"]
        need("limits", OFFLINE[programme]["floor"] is None or
             OFFLINE[programme]["floor"]["liability"] == "programme" or
             bool(accepted.payload["content"]["allotment_use"]),
             "the programme pays what the shop risked")  # fmt: skip
