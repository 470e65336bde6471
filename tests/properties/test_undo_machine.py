"""Voids, refunds and reversals in any order, through expiry and grace: the ledger machine's own
moves, chosen so that most of them find something to take back."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger.rig import open_rig
from tests.properties.ledger_model import TABLES
from tests.properties.rounds import histories
from tests.properties.test_holder_account import check
from tests.properties.test_ledger_machine import LedgerMachine

MOVES = {
    "sell_where_nothing_is_lost": 6,
    "refund": 6,
    "void": 2,
    "reverse": 1,
    "refund_too_much": 1,
    "an_undo_again": 2,
    "undo_with_another_digest": 1,
    "race_to_undo": 1,
    "send_a_batch": 2,
    "time_passes": 1,
    "days_pass": 2,
    "close_the_batches": 1,
    "another_grace": 2,
    "another_household": 1,
    "same_id_same_content_in_another_record": 1,
}


def standing(machine: LedgerMachine, chance: random.Random) -> int:
    """Which of all sales to take: mostly one of which something stands."""
    places = [
        n
        for n, (_, envelope) in enumerate(machine.sent)
        if (sale := machine.model.sales.get(machine.rig.read(envelope).digest)) and sale.stands
    ]
    return chance.choice(places) if places and chance.random() < 0.9 else chance.randrange(100)


def batch(machine: LedgerMachine, chance: random.Random) -> None:
    """Sales of the till that loses nothing, each followed by what takes it back, as one request."""
    till, sent = machine.seller, []
    for _ in range(chance.randint(1, 3)):
        holder = chance.choice(machine.holders)
        envelope, _ = machine.make(till, holder, chance.randint(1, 10), price=chance.randint(1, 99))
        sale = machine.rig.read(envelope)
        machine.sent.append((holder, envelope))
        sent.append(envelope)
        undo = chance.choice(["", "void", "refund", "both", "reversal"])
        if undo in ("refund", "both"):
            refund = machine.refund_of(till, sale, chance.randrange(9), chance.randint(1, 10))
            if refund is not None:
                sent.append({"record": refund.jws})
        if undo in ("void", "both"):
            sent.append({"record": till.void(sale).jws})
        if undo == "reversal":
            sent.append({"record": till.reversal(sale).jws})
    machine.send(*sent)


def play(machine: LedgerMachine, chance: random.Random, steps: int) -> Counter[str]:
    made: Counter[str] = Counter()
    for _ in range(steps):
        [move] = chance.choices(list(MOVES), list(MOVES.values()))
        n, share = chance.randrange(100), chance.randint(1, 10)
        if move == "sell_where_nothing_is_lost":
            machine.sell_where_nothing_is_lost(
                n, share, chance.randint(1, 2_000), chance.randint(0, 3)
            )
        elif move == "send_a_batch":
            batch(machine, chance)
        elif move == "time_passes":
            machine.time_passes(chance.randint(1, 14))
        elif move == "days_pass":
            machine.days_pass(1)
        elif move == "close_the_batches":
            machine.close_the_batches()
        elif move == "another_grace":
            machine.another_grace(chance.choice([0, 3_600, 3 * 86_400]))
        elif move == "another_household":
            if len(machine.holders) < 6:
                machine.another_household(chance.randint(1, 20_000), chance.randint(1, 40), n)
        elif move == "an_undo_again":
            if machine.undos:
                machine.an_undo_again(n, chance.random() < 0.5)
        elif machine.sent and move == "refund":
            machine.refund(standing(machine, chance), n, share, chance.random() < 0.2)
        elif machine.sent and move == "refund_too_much":
            machine.refund_too_much(standing(machine, chance), n, chance.randint(1, 3))
        elif machine.sent and move == "race_to_undo":
            machine.race_to_undo(standing(machine, chance), n)
        elif machine.sent:
            getattr(machine, move)(standing(machine, chance))
        made[move] += 1
    return made


def test_what_is_taken_back_in_any_order_adds_up(database_url: str, tmp_path: Path) -> None:
    """FF-1, FF-3, FC-10: after every history of sales and what takes them back, piece by piece, by
    other tills, at once, in batches, after expiry and within grace, the book holds what double
    entry says, pays what it owes, and shows families the same."""
    posted: Counter[str] = Counter()
    with open_rig(database_url, tmp_path, settled=False) as rig:

        @given(seed=st.integers(0, 2**32 - 1), steps=st.integers(20, 50))
        @settings(max_examples=histories(database_url, 5))
        def history(seed: int, steps: int) -> None:
            machine = LedgerMachine(rig)
            play(machine, random.Random(seed), steps)
            machine.model.check(rig.tables(TABLES))
            machine.close_the_batches()
            check(machine)
            posted.update({kind: len(made) for kind, made in machine.model.undone.items()})
            posted["forfeit"] += sum(machine.model.forfeits.values())
            posted["grace"] += sum(
                purse.expires_at < "2027" and bool(purse.money)
                for purse in machine.model.purses.values()
            )

        history()
    # It proves nothing where nothing was taken back, or never into a voucher that had expired.
    posted["expired"] = posted["forfeit"] + posted["grace"]
    assert min(posted[kind] for kind in ("void", "refund", "reversal", "expired")) > 0, posted
