"""The product broken on purpose, one promise at a time, and the tests that must see it.

Each way changes the running code as a careless change would. Those of the simulation's own list
are here too, held against ordinary tests.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from unittest import mock

from carepos import evidence, journal_file, lost, offline, set_aside
from carepos.clock_ratchet import ClockRatchet
from carepos.journal import Journal
from carepos.journal_view import Attempt, JournalView
from carepos.keys import PublicKey
from carepos.ledger_keys import LedgerKeyKeeper, LedgerKeys
from carepos.offline import OfflineState
from carepos.outcome import Outcome
from carepos.sale import Offer, Sale
from carepos.till import Till
from carepos_ledger import chain_progress, issuers
from carepos_ledger.allotments import Allotment
from carepos_ledger.allotting import Allotting
from carepos_ledger.opening import Opening
from tests.sim import breaks as simulated

Break = Callable[[ExitStack], None]


@dataclass(frozen=True)
class Way:
    """One break and the tests, below `tests/`, of which at least one must fail under it."""

    make: Break
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.make.__name__

    @property
    def what(self) -> str:
        """What is broken, in a sentence."""
        return " ".join((self.make.__doc__ or "").split())


def _patch(stack: ExitStack, target: Any, name: str, by: Any) -> Any:
    """Replace an attribute until the end; what was there before."""
    before = getattr(target, name)
    stack.enter_context(mock.patch.object(target, name, by))
    return before


# ── the till ───────────────────────────────────────────────────────────────────────────────────


def journal_not_synced(stack: ExitStack) -> None:
    """The till's COMMIT returns before the disk has it."""

    def connect(path: Path) -> Any:
        connection = before(path)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    before = _patch(stack, journal_file, "connect", connect)


def hash_not_checked(stack: ExitStack) -> None:
    """A till starts on a journal without holding each record against its digest."""

    def check_chain(self: Journal) -> tuple[int, str]:
        query = "SELECT sequence, digest FROM records ORDER BY sequence DESC LIMIT 1"
        last = self._db.execute(query).fetchone()
        return before(self) if last is None else (last[0], last[1])

    before = _patch(stack, Journal, "_check_chain", check_chain)


def choice_not_written(stack: ExitStack) -> None:
    """A sale that was cancelled without a network may still leave as accepted."""

    def cancel(self: Till, checkout: str) -> Sale:
        return replace(self.status(checkout), state="reversing")

    _patch(stack, Till, "cancel", cancel)


def goods_mark_skipped(stack: ExitStack) -> None:
    """After a restart a sale goes up though nobody knows whether its goods left."""
    simulated._step(stack, "accepted", "restart", "provisional")


def evidence_not_erased(stack: ExitStack) -> None:
    """The sealed code stays in the journal after the final outcome."""

    def decide(self: Journal, attempt: Attempt, outcome: Outcome) -> None:
        sealed = self.evidence_of(attempt.id)
        before(self, attempt, outcome)
        query = "UPDATE acceptances SET evidence = ? WHERE id = ?"
        self._db.execute(query, (sealed, attempt.id))

    before = _patch(stack, Journal, "_decide", decide)


def accepted_under_two_ids(stack: ExitStack) -> None:
    """A sale without the ledger becomes two attempts, each good by itself."""

    def redeem_offline(self: Till, offer: Offer, checkout: str, cashier: str) -> Sale:
        before(self, offer, f"{checkout}-again", cashier)
        self.journal.advance(self._latest(f"{checkout}-again").id, "goods_handed_over")
        return before(self, offer, checkout, cashier)  # type: ignore[no-any-return]

    before = _patch(stack, Till, "_redeem_offline", redeem_offline)


def allotment_not_subtracted_at_the_till(stack: ExitStack) -> None:
    """What was drawn on an allotment can be drawn once more."""
    _patch(stack, set_aside, "_draw", lambda held, minor, quantity: (0, 0))


def spend_until_ignored(stack: ExitStack) -> None:
    """A till goes on spending what is set aside when its time is over."""
    _patch(stack, set_aside, "UNCERTAINTY", timedelta(days=-3650))


def pack_age_ignored(stack: ExitStack) -> None:
    """A pack of last month is as good as today's."""

    def refusal(vouchers: Any, allocation: Any, state: OfflineState) -> Any:
        return before(vouchers, allocation, replace(state, pack_age_s=0))

    before = _patch(stack, offline, "refusal", refusal)


def stored_sum_ignored(stack: ExitStack) -> None:
    """What waits for the ledger does not bound what may be added to it."""
    _patch(stack, JournalView, "stored", lambda self, programme: (0, 0))


def floor_forgotten(stack: ExitStack) -> None:
    """A beneficiary's floor limit begins anew with each sale."""
    _patch(stack, JournalView, "beyond_of", lambda self, *of: 0)


def clock_not_ratcheted(stack: ExitStack) -> None:
    """A till whose clock was set back believes it against the ledger's word."""
    _patch(stack, ClockRatchet, "heard", lambda self, signed, *, fresh=False: None)


# ── the ledger ─────────────────────────────────────────────────────────────────────────────────


def allotment_not_subtracted_at_the_ledger(stack: ExitStack) -> None:
    """What a till drew on its allotment is still set aside for it."""
    _patch(stack, Allotment, "less", lambda self, minor, quantity: self)


def allotment_open_to_all(stack: ExitStack) -> None:
    """Any till may spend what is set aside for another."""
    _patch(stack, Allotment, "is_for", lambda self, terminal, incarnation: True)


def void_before_its_sale(stack: ExitStack) -> None:
    """A void or refund is decided though records before it are not."""
    _patch(stack, chain_progress, "waits", lambda command: False)


def evidence_of_any_sale(stack: ExitStack) -> None:
    """A sealed code opens for other sales than the one it was held up for."""
    _patch(stack, evidence, "_info", lambda terminal, attempt_id: b"carepos/evidence/v1")


def retired_key_forgotten(stack: ExitStack) -> None:
    """A code of an issuer's key that retired since is bad, also where its sale is older."""
    _patch(stack, issuers, "REMEMBERED", timedelta(0))


def carried_keys_of_anybody(stack: ExitStack) -> None:
    """A key set in a file of answers is taken whoever's root signed it."""

    def take(self: LedgerKeyKeeper, document: Any) -> bool:
        self._keep(LedgerKeys.read(document, PublicKey.from_jwk(document["root"]).kid))
        return True

    _patch(stack, LedgerKeyKeeper, "take", take)


def copys_records_taken_for_its_own(stack: ExitStack) -> None:
    """A till offers nothing under the numbers that a copy of it had told of."""
    _patch(stack, lost, "of_others", lambda held, ends, own: frozenset())


def room_not_made(stack: ExitStack) -> None:
    """At a heal what is past its date is freed by whoever wants it next, and by nobody before."""
    _patch(stack, Opening, "_make_room", lambda self, most: False)


def household_forgotten(stack: ExitStack) -> None:
    """Who shops elsewhere by now is in no pack of the till that holds money aside for them."""
    _patch(stack, Allotting, "moved_on", lambda self, terminal, incarnation, at_home: [])


_REDEMPTION: Final = "stories/test_redemption.py::"
_OFFLINE: Final = "stories/test_offline.py::"
_BOOK: Final = "ledger/test_book.py::"
_LIMITS: Final = "stories/test_offline_limits.py::"
_LATE: Final = "stories/test_late_and_lost.py::"
_CARRIED: Final = "stories/test_carried_keys.py::"
_HEALING: Final = "ledger/test_healing.py::"
_PACKS: Final = "stories/test_contract_packs.py::"

WAYS: Final = (
    Way(simulated.new_id_on_retry, (f"{_REDEMPTION}test_no_answer_is_neither_yes_nor_no",)),
    Way(journal_not_synced, ("sdk/test_journal.py::test_durability_is_asserted_not_hoped_for",)),
    Way(hash_not_checked, ("sdk/test_journal.py::test_a_broken_chain_is_not_continued",)),
    Way(simulated.unsigned_403_is_refused, (f"{_REDEMPTION}test_no_answer_is_neither_yes_nor_no",)),
    Way(simulated.signature_not_checked, (f"{_REDEMPTION}test_no_answer_is_neither_yes_nor_no",)),
    Way(
        simulated.outcome_not_bound,
        (f"{_REDEMPTION}test_fb_13_another_requests_answer_is_not_believed",),
    ),
    Way(
        simulated.restart_sends_again,
        (f"{_REDEMPTION}test_fa_4_an_open_sale_the_ledger_never_saw_is_reversed",),
    ),
    Way(choice_not_written, (f"{_OFFLINE}test_a_cancelled_sale_is_not_accepted",)),
    Way(goods_mark_skipped, (f"{_OFFLINE}test_goods_that_may_not_have_left_are_asked_about",)),
    Way(evidence_not_erased, (f"{_OFFLINE}test_a_shop_sells_through_an_outage",)),
    Way(accepted_under_two_ids, (f"{_OFFLINE}test_many_sales_go_up_in_order_and_in_batches",)),
    Way(
        allotment_not_subtracted_at_the_till,
        (f"{_OFFLINE}test_what_is_set_aside_is_spent_once",),
    ),
    Way(spend_until_ignored, (f"{_OFFLINE}test_what_is_set_aside_ends_by_its_own_date",)),
    Way(pack_age_ignored, (f"{_OFFLINE}test_an_old_pack_sells_nothing",)),
    Way(
        stored_sum_ignored,
        (f"{_LIMITS}test_what_is_stored_is_bounded",),
    ),
    Way(
        floor_forgotten,
        (f"{_LIMITS}test_floor_limits_are_per_redemption_and_per_beneficiary",),
    ),
    Way(
        clock_not_ratcheted,
        ("stories/test_t6_clock.py::test_t6_online_the_ledgers_time_counts",),
    ),
    Way(simulated.copy_not_marked, ("sdk/test_journal.py::test_printing_is_its_own_fact",)),
    Way(simulated.no_tombstone, (f"{_BOOK}test_a_late_original_meets_its_tombstone",)),
    Way(
        simulated.reversal_gives_nothing_back,
        (f"{_BOOK}test_a_reversal_gives_back_exactly_what_was_posted",),
    ),
    Way(
        simulated.stored_outcome_ignored,
        (f"{_BOOK}test_the_same_bytes_again_get_the_very_same_outcome",),
    ),
    Way(
        simulated.answered_before_commit,
        ("ledger/test_book_faults.py::test_a_death_at_a_point_of_a_posting",),
    ),
    Way(simulated.balance_not_written, (f"{_BOOK}test_many_tills_at_one_voucher",)),
    Way(
        allotment_not_subtracted_at_the_ledger,
        ("ledger/test_allotments.py::test_the_till_itself_draws_on_available_first",),
    ),
    Way(
        allotment_open_to_all,
        ("ledger/test_allotments.py::test_what_is_set_aside_can_t_be_spent_elsewhere",),
    ),
    Way(
        void_before_its_sale,
        ("ledger/test_undo.py::test_an_undo_waits_for_every_record_before_it",),
    ),
    Way(
        evidence_of_any_sale,
        ("ledger/test_acceptances.py::test_evidence_of_another_sale_opens_nothing",),
    ),
    Way(
        carried_keys_of_anybody,
        (f"{_CARRIED}test_t_13_keys_that_are_not_the_ledgers_next_are_not_believed",),
    ),
    Way(
        retired_key_forgotten,
        (f"{_LATE}test_fg_10_a_key_that_retired_meanwhile_is_judged_by_the_sales_time",),
    ),
    Way(
        copys_records_taken_for_its_own,
        ("stories/test_healing.py::test_a_till_and_its_copy_both_bring_back_what_was_decided",),
    ),
    Way(
        room_not_made,
        (f"{_HEALING}test_what_is_past_its_date_makes_room_for_what_was_set_aside_since",),
    ),
    Way(
        household_forgotten,
        (
            f"{_PACKS}test_what_is_set_aside_where_a_family_shopped_before_can_still_be_given_out_there",
        ),
    ),
)
