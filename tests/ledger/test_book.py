"""One record after another at the one write path: what is answered, and what is booked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from carepos import clock, ids, outcome
from carepos.basket import Entry, Line
from carepos.keys import digest
from carepos.outcome import Outcome
from carepos.record import DayReport, Record
from carepos_ledger import schema
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Command, Decided
from tests.ledger.rig import MILK, PROGRAMME, RICE, SOAP, Envelope, Holder, Rig, code

ODD_CAP = {"unit": "piece", "cap_minor": 3, "fixed_minor": 0, "cap_quantity": 2}
MEAL = {"unit": "piece", "cap_minor": 1_500, "fixed_minor": 1, "cap_quantity": 1}


def pieces(rig: Rig, quantity: int = 5, terms: dict[str, Any] = ODD_CAP) -> Holder:
    """A household with an item or fixed-price voucher."""
    kind = "fixed_price" if terms["fixed_minor"] else "item"
    return rig.holder({"kind": kind, "quantity": quantity, "terms": terms})


def goods(
    rig: Rig, till: Any, holder: Holder, quantity: int, programme: int, beneficiary: int = 0
) -> Envelope:
    """A redemption of `quantity` pieces at a price of both parts together."""
    return rig.redeem(
        till,
        holder,
        basket=[Line(RICE, quantity, "piece", programme + beneficiary)],
        allocation=[Entry(1, holder.voucher, quantity, programme, beneficiary)],
    )


# ── the same id, the same record (INV-1) ───────────────────────────────────────────────────────


def test_the_same_bytes_again_get_the_very_same_outcome(rig: Rig) -> None:
    """A stored outcome is served as it was signed: for the same bytes, without a token, in the same
    batch, after the token expired, and posts once."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    first = rig.send_one(envelope)
    rig.now.forward(days=2)
    again = rig.send(envelope, {"record": envelope["record"]}, envelope)
    assert first.result == "posted"
    assert [answer for answer in again if answer != first] == []
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


def test_equal_records_of_one_batch_collapse(rig: Rig) -> None:
    """One record twice in a batch is one record; that one copy lost its token spoils nothing."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    bare = {"record": envelope["record"]}
    answers = rig.send(bare, envelope, bare)
    assert {code(answer) for answer in answers} == {"posted"}
    assert rig.counts()["records"] == 1


def test_the_same_content_in_another_record_gets_the_same_result_bound_anew(rig: Rig) -> None:
    """A known id with the same content and another digest: posted stays posted, refused refused,
    each answer bound to the record that asked; nothing is booked a second time."""
    till, holder = rig.signer(), rig.holder()
    for amount, result in ((6_000, "posted"), (13_000, "refused")):
        envelope = rig.redeem(till, holder, amount)
        first = rig.send_one(envelope)
        record = rig.read(envelope)
        again = rig.send_one(
            rig.redeem(till, holder, amount, attempt_id=record.id, checkout="other")
        )
        assert (first.result, again.result) == (result, result)
        assert (first.refusal, first.amount_minor) == (again.refusal, again.amount_minor)
        assert first.record_sha256 != again.record_sha256
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


def test_refused_and_bound_anew_in_one_batch(rig: Rig) -> None:
    """The second of two records with the same content sees the first one's refusal."""
    till, holder = rig.signer(), rig.holder()
    one = rig.redeem(till, holder, 13_000)
    two = rig.redeem(till, holder, 13_000, attempt_id=rig.read(one).id, checkout="other")
    answers = rig.send(one, two)
    assert [code(answer) for answer in answers] == ["balance_insufficient"] * 2


@pytest.mark.parametrize("earlier", [6_000, 13_000])
def test_other_content_under_a_known_id_is_refused_and_alarmed(rig: Rig, earlier: int) -> None:
    """An id's content never changes: whatever became of it, other content is refused, an operator
    is told, and the answer is stored and served again; the alarm is raised once per record."""
    till, holder = rig.signer(), rig.holder()
    first = rig.redeem(till, holder, earlier)
    before = rig.send_one(first)
    other = rig.redeem(till, holder, 1, attempt_id=rig.read(first).id)
    refused = rig.send_one(other)
    assert code(refused) == "id_content_mismatch"
    assert rig.send_one(other) == refused
    assert rig.send_one(first) == before
    [alarm] = rig.tables()["alarms"]
    assert (alarm["kind"], alarm["digest"]) == ("id_content_mismatch", rig.read(other).digest)


def test_an_id_is_its_terminals_own(rig: Rig) -> None:
    """The same id from another terminal is another attempt: it is neither mismatch nor replay, and
    a reversal of it touches only the caller's."""
    one, two, holder = rig.signer(), rig.signer(), rig.holder()
    mine = rig.redeem(one, holder, 1_000)
    an_id = rig.read(mine).id
    theirs = rig.redeem(two, holder, 2_000, attempt_id=an_id)
    assert [code(answer) for answer in rig.send(mine, theirs)] == ["posted", "posted"]
    assert code(rig.send_one(two.reversal(rig.read(theirs)))) == "reversed"
    assert rig.balance(holder.voucher) == (11_000, 0, 0)


def test_a_refusal_is_kept_and_served_again(rig: Rig) -> None:
    """What was refused stays refused, with the same words, when it would be good by now."""
    till, holder = rig.signer(), rig.holder()
    rig.office.freeze(PROGRAMME, frozen=True, voucher=holder.voucher)
    envelope = rig.redeem(till, holder)
    refused = rig.send_one(envelope)
    rig.office.freeze(PROGRAMME, frozen=False, voucher=holder.voucher)
    assert code(refused) == "voucher_frozen"
    assert rig.send_one(envelope) == refused
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_outcome_and_tables_name_one_instant(rig: Rig) -> None:
    """`recorded_at` of the signed outcome is that of the record and of its posting."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    rig.now.ticks = True
    answer = rig.send_one(envelope)
    rig.now.ticks = False
    tables = rig.tables()
    stored = {row["recorded_at"] for row in tables["records"]}
    booked = {row["recorded_at"] for row in tables["postings"] if row["kind"] == "redeem"}
    assert stored == booked == {clock.to_text(answer.recorded_at)}


# ── reversals and tombstones ───────────────────────────────────────────────────────────────────


def test_a_reversal_gives_back_exactly_what_was_posted(rig: Rig) -> None:
    """Money, saved money and goods of every voucher stand as before; the outcome says how much."""
    till = rig.signer()
    holder = rig.holder(
        {}, {"kind": "item", "quantity": 7, "terms": ODD_CAP}, {"amount_minor": 333}
    )
    value, item, small = holder.vouchers
    before = [rig.balance(voucher) for voucher in holder.vouchers]
    envelope = rig.redeem(
        till,
        holder,
        basket=[Line(RICE, 3, "piece", 1_003), Line(MILK, 1, "piece", 700)],
        allocation=[
            Entry(1, item, 1, 1, 333),
            Entry(1, value, 0, 669, 0),
            Entry(2, small, 0, 333, 0),
            Entry(2, value, 0, 100, 0),
        ],
    )
    posted = rig.send_one(envelope)
    assert (posted.result, posted.amount_minor) == ("posted", 1_103)
    assert rig.balance(item) == (9, 0, 6) and rig.balance(value) == (11_231, 0, 0)
    reversed_ = rig.send_one(till.reversal(rig.read(envelope)))
    assert (reversed_.result, reversed_.amount_minor) == ("reversed", 1_103)
    assert {state.voucher: state.amount_minor for state in reversed_.vouchers} == {
        value: 769,
        item: 1,
        small: 333,
    }
    assert [rig.balance(voucher) for voucher in holder.vouchers] == before


def test_saved_money_is_there_for_the_reversal(rig: Rig) -> None:
    """A price below the cap leaves saved money on the voucher, and its reversal takes it back."""
    till, holder = rig.signer(), pieces(rig, 10, MEAL)
    before = rig.balance(holder.voucher)
    cheap = goods(rig, till, holder, 2, 998, 2)
    assert rig.send_one(cheap).result == "posted"
    assert rig.balance(holder.voucher) == (11_992, 2_000, 8)
    rig.send_one(till.reversal(rig.read(cheap)))
    assert rig.balance(holder.voucher) == before == (14_990, 0, 10)


def test_goods_whose_cap_does_not_divide_come_back_in_any_order(rig: Rig) -> None:
    """Redeem A, B; reverse A; redeem C; reverse B. What B left as saved is not there any more, and
    yet the reversal is applied: goods and money are back, nothing is below zero."""
    till, holder = rig.signer(), pieces(rig, 5)
    a, b, c = (goods(rig, till, holder, n, price) for n, price in ((1, 1), (1, 1), (2, 3)))
    sent: list[Envelope | Record] = [
        a,
        b,
        till.reversal(rig.read(a)),
        c,
        till.reversal(rig.read(b)),
    ]
    results = [code(rig.send(each)[0]) for each in sent]
    assert results == ["posted", "posted", "reversed", "posted", "reversed"]
    assert rig.balance(holder.voucher) == (4, 0, 3)
    assert rig.send_one(till.reversal(rig.read(c))).result == "reversed"
    assert rig.balance(holder.voucher) == (7, 0, 5)


def test_a_second_reversal_gives_nothing_more(rig: Rig) -> None:
    """FF-1: the same reversal again has the same outcome; another one is `reversed` with 0."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    rig.send_one(envelope)
    undo = till.reversal(rig.read(envelope))
    first = rig.send_one(undo)
    other = rig.send_one(till.reversal(rig.read(envelope), "goods_kept"))
    assert rig.send_one(undo) == first
    assert (other.result, other.amount_minor, other.currency, other.vouchers) == (
        "reversed",
        0,
        None,
        (),
    )
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_reversal_of_what_was_refused_books_nothing(rig: Rig) -> None:
    """It answers `reversed` with 0; the refusal stays what it was."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder, 13_000)
    refused = rig.send_one(envelope)
    undone = rig.send_one(till.reversal(rig.read(envelope)))
    assert (refused.result, undone.result, undone.amount_minor) == ("refused", "reversed", 0)
    assert rig.send_one(envelope) == refused


@pytest.mark.parametrize("in_one_batch", [False, True])
def test_a_late_original_meets_its_tombstone(rig: Rig, in_one_batch: bool) -> None:
    """FB-9: after the reversal the original never posts, with or without its token; another content
    under the id is refused from then on."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    record = rig.read(envelope)
    undo = {"record": till.reversal(record).jws}
    if in_one_batch:
        answers = rig.send(undo, envelope)
    else:
        answers = [*rig.send(undo), *rig.send({"record": envelope["record"]})]
    assert [code(answer) for answer in answers] == ["reversed", "reversed"]
    other = rig.send_one(rig.redeem(till, holder, 1, attempt_id=record.id))
    assert code(other) == "id_content_mismatch"
    assert rig.balance(holder.voucher) == (12_000, 0, 0)
    assert rig.send_one(envelope).result == "reversed"


def test_a_reversed_attempt_that_comes_in_another_record_stays_reversed(rig: Rig) -> None:
    """The same content under a new digest is `reversed`, not posted again."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    rig.send(envelope, till.reversal(rig.read(envelope)))
    again = rig.redeem(till, holder, attempt_id=rig.read(envelope).id, checkout="other")
    assert rig.send_one(again).result == "reversed"
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_reversal_that_names_another_record_is_refused_and_alarmed(rig: Rig) -> None:
    """It undoes the record it names or nothing."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    rig.send_one(envelope)
    wrong = till.reversal(rig.read(envelope), record_sha256=digest(b"another record"))
    assert code(rig.send_one(wrong)) == "id_content_mismatch"
    assert rig.balance(holder.voucher) == (6_000, 0, 0)
    assert [alarm["kind"] for alarm in rig.tables()["alarms"]] == ["id_content_mismatch"]


# ── terminals ──────────────────────────────────────────────────────────────────────────────────


def test_a_suspended_terminal_gets_stored_outcomes_and_may_give_back(rig: Rig) -> None:
    """Stored outcomes are served, other content is still refused, reversals are applied (of posted
    and of unseen attempts); nothing else is decided, and its id is not used up."""
    till, holder = rig.signer(), rig.holder()
    old = rig.redeem(till, holder)
    posted = rig.send_one(old)
    new, unseen = rig.redeem(till, holder, 1_000), rig.redeem(till, holder, 2_000)
    rig.terminals.set_status(till.terminal, "suspended")
    assert rig.send_one(old) == posted
    assert rig.send(new, till.start(), till.day_report()) == ["terminal_suspended"] * 3
    other = rig.redeem(till, holder, 1, attempt_id=rig.read(old).id)
    assert code(rig.send_one(other)) == "id_content_mismatch"
    assert rig.send_one(till.reversal(rig.read(old))).amount_minor == 6_000
    assert rig.send_one(till.reversal(rig.read(unseen))).amount_minor == 0
    rig.terminals.set_status(till.terminal, "active")
    assert [code(answer) for answer in rig.send(new, unseen)] == ["posted", "reversed"]
    assert rig.balance(holder.voucher) == (11_000, 0, 0)


def test_a_status_counts_when_the_record_is_posted(rig: Rig) -> None:
    """A till that is suspended after its record was verified and before it is posted is suspended;
    one that is let in meanwhile is let in."""
    till, holder = rig.signer(), rig.holder()
    [command] = rig.commands([rig.redeem(till, holder)])
    assert isinstance(command, Command)
    rig.terminals.set_status(till.terminal, "suspended")
    answer = rig.book.post([command])[command.record.digest]
    assert isinstance(answer, Problem) and answer.code == "terminal_suspended"
    [command] = rig.commands([rig.redeem(till, holder)])
    assert isinstance(command, Command)
    rig.terminals.set_status(till.terminal, "active")
    assert isinstance(rig.book.post([command])[command.record.digest], Decided)


def test_a_revoked_terminal_undoes_nothing(rig: Rig) -> None:
    """Neither sales nor reversals of a revoked till are decided: they are held."""
    till, holder = rig.signer(), rig.holder()
    old = rig.redeem(till, holder)
    rig.send_one(old)
    rig.terminals.set_status(till.terminal, "revoked")
    undo = till.reversal(rig.read(old))
    answers = rig.send(rig.redeem(till, holder), undo)
    assert [code(answer) for answer in answers] == ["held"] * 2
    assert rig.balance(holder.voucher) == (6_000, 0, 0)


def test_two_records_at_one_number_are_a_fork(rig: Rig) -> None:
    """The later one is held and an operator is told; the first one's outcome stands, and what
    follows is held."""
    till, holder = rig.signer(), rig.holder()
    first = rig.redeem(till, holder, 1_000)
    posted = rig.send_one(first)
    fork = rig.redeem(till, holder, 2_000, sequence=1)
    answers = rig.send(fork, first, rig.redeem(till, holder, 3_000))
    assert [code(answer) for answer in answers] == ["held", "posted", "held"]
    assert rig.send_one(first) == posted
    assert rig.balance(holder.voucher) == (11_000, 0, 0)
    [alarm] = rig.tables()["alarms"]
    assert (alarm["kind"], alarm["terminal"]) == ("fork", till.terminal)


def test_two_records_at_one_number_in_one_batch(rig: Rig) -> None:
    """The one that stands first is decided, the other one is the fork."""
    till, holder = rig.signer(), rig.holder()
    one = rig.redeem(till, holder, 1_000)
    two = rig.redeem(till, holder, 2_000, sequence=1)
    assert [code(answer) for answer in rig.send(two, one)] == ["posted", "held"]
    assert rig.balance(holder.voucher) == (10_000, 0, 0)


def test_a_day_report_waits_for_the_numbers_before_it(rig: Rig) -> None:
    """While numbers are missing it is the problem `sequence_gap`, which lists them; then fine."""
    till, holder = rig.signer(), rig.holder()
    held_back: list[Envelope | Record] = [till.start(), rig.redeem(till, holder, 1_000)]
    rig.send_one(rig.redeem(till, holder, 2_000))
    report = till.day_report()
    [command] = rig.commands([{"record": report.jws}])
    assert isinstance(command, Command)
    problem = rig.book.post([command])[report.digest]
    assert isinstance(problem, Problem)
    assert (problem.code, problem.status, problem.extra) == (
        "sequence_gap",
        409,
        {"missing": [1, 2]},
    )
    answers = rig.send(report, *held_back)
    assert [code(answer) for answer in answers] == ["posted"] * 3
    assert rig.send_one(till.day_report()).result == "posted"


def test_a_claim_of_endless_numbers_costs_nothing(rig: Rig) -> None:
    """T-16: a report at number 2^53 - 1 is answered at once with the first hundred missing."""
    till = rig.signer()
    report = till.day_report(sequence=2**53 - 1)
    [command] = rig.commands([{"record": report.jws}])
    assert isinstance(command, Command)
    problem = rig.book.post([command])[report.digest]
    assert isinstance(problem, Problem)
    assert problem.extra == {"missing": list(range(1, 101))}


def test_a_start_is_posted_and_moves_nothing(rig: Rig) -> None:
    """Its outcome names no money."""
    answer = rig.send_one(rig.signer().start())
    assert (answer.result, answer.currency, answer.vouchers) == ("posted", None, ())
    assert "attempts" not in rig.counts()


# ── tokens and what else stands before the rules ───────────────────────────────────────────────


def test_a_once_token_belongs_to_one_terminal(rig: Rig) -> None:
    """T-3: the first use binds it; there the holder may redeem again, elsewhere it is replayed. The
    retry of a known id is no replay."""
    one, two, holder = rig.signer(), rig.signer(), rig.holder()
    text = rig.token(holder)
    first = rig.redeem(one, holder, 1_000, token_text=text)
    again = rig.redeem(one, holder, 2_000, token_text=text)
    elsewhere = rig.redeem(two, holder, 3_000, token_text=text)
    answers = rig.send(first, elsewhere, again, first)
    assert [code(a) for a in answers] == ["posted", "token_replayed", "posted", "posted"]
    assert rig.send_one(rig.redeem(two, holder, 3, token_text=text)) != answers[1]
    assert rig.balance(holder.voucher) == (9_000, 0, 0)


def test_a_visit_ends(rig: Rig) -> None:
    """Fifteen minutes after its first use a token is replayed at its own terminal too."""
    till, holder = rig.signer(), rig.holder()
    rig.now.forward(minutes=-1)
    text = rig.token(holder, lifetime_s=900)
    [command] = rig.commands([rig.redeem(till, holder, 1_000, token_text=text)])
    late = rig.commands([rig.redeem(till, holder, 1_000, token_text=text)])[0]
    assert isinstance(command, Command) and isinstance(late, Command)
    rig.book.post([command])
    # Verified in time, decided late: what waited behind a long outage of the database.
    rig.now.forward(minutes=15, seconds=1)
    answer = rig.book.post([late])[late.record.digest]
    assert isinstance(answer, Decided)
    assert code(outcome.read_any(answer.jws, keys=rig.keyring.keys.keys)) == "token_replayed"


Change = Callable[[Rig, Holder], dict[str, Any]]
REFUSED: dict[str, Change] = {
    "token_expired": lambda rig, h: {
        "token_text": rig.token(h, issued_at=clock.from_text("2026-11-22T07:00:00.000Z"))
    },
    "token_malformed": lambda rig, h: {"token_text": "no token"},
    "token_audience": lambda rig, h: {"token_text": rig.token(h, aud="urn:other")},
    "token_issuer": lambda rig, h: {"token_text": rig.token(h, iss="https://nobody.test")},
    "programme_ended": lambda rig, h: rig.now.forward(days=300) or {},  # type: ignore[func-returns-value]
    "voucher_unknown": lambda rig, h: {"allocation": [Entry(1, "A" * 22, 0, 100, 0)]},
    "voucher_not_yours": lambda rig, h: {
        "allocation": [Entry(1, rig.holder(bucket=h.bucket).voucher, 0, 100, 0)]
    },
    "not_in_product_list": lambda rig, h: {"basket": [Line(SOAP, 1, "piece", 6_000)]},
    "balance_insufficient": lambda rig, h: {"amount_minor": 12_001},
    "proposal_changed": lambda rig, h: {"basket": [Line(MILK, 1, "piece", 5_999)]},
}


@pytest.mark.parametrize("refusal", REFUSED)
def test_a_refusal_books_nothing_and_uses_up_its_id(rig: Rig, refusal: str) -> None:
    """Each is a stored outcome with its code; no balance moves."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder, **REFUSED[refusal](rig, holder))
    answer = rig.send_one(envelope)
    assert code(answer) == refusal
    assert rig.send_one(envelope) == answer
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_holder_to_whom_nothing_was_issued_has_no_voucher(rig: Rig) -> None:
    """A good token of somebody unknown here is `voucher_unknown`, whatever voucher it names."""
    till, holder = rig.signer(), rig.holder()
    stranger = Holder("stranger", holder.bucket, "", holder.vouchers)
    assert code(rig.send_one(rig.redeem(till, stranger))) == "voucher_unknown"


MALFORMED: dict[str, Change] = {
    "no such programme": lambda rig, h: {"programme": "flood-rice"},
    "another currency": lambda rig, h: {"currency": "EUR"},
    "another bucket": lambda rig, h: {"attempt_id": ids.new_attempt_id(h.bucket ^ 1, rig.now())},
    "another holder": lambda rig, h: {"beneficiary": "A" * 22},
    "another token": lambda rig, h: {"token_sha256": "A" * 43},
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_contradiction_decides_nothing(rig: Rig, what: str) -> None:
    """A signed record that contradicts itself or its token is `malformed`: its number is noted, and
    nothing else is written, not even the first use of its token; the id is not used up."""
    till, holder = rig.signer(), rig.holder()
    changes = MALFORMED[what](rig, holder)
    before = rig.counts()
    envelope = rig.redeem(till, holder, **changes)
    assert rig.send(envelope) == ["malformed"]
    assert rig.counts() == {**before, "terminal_notes": 1}
    good = rig.redeem(till, holder)
    assert rig.send_one(good).result == "posted"


def test_no_token_decides_nothing(rig: Rig) -> None:
    """A record that comes without the token it names, or with another one, is not decided: neither
    good nor bad tokens of somebody in between may spoil an id."""
    till, holder, other = rig.signer(), rig.holder(), rig.holder()
    envelope = rig.redeem(till, holder)
    for token_text in (rig.token(other), rig.token(holder), "junk"):
        assert rig.send({**envelope, "token": token_text}) == ["malformed"]
    assert rig.send({"record": envelope["record"]}) == ["malformed"]
    assert rig.send_one(envelope).result == "posted"


# ── side by side ───────────────────────────────────────────────────────────────────────────────


def test_many_tills_at_one_voucher(rig: Rig) -> None:
    """FC-10: of twelve redemptions at the same moment exactly those that fit are posted: their sum
    is what left the voucher, and never more than it held."""
    tills, holder = [rig.signer() for _ in range(4)], rig.holder()
    envelopes = [rig.redeem(tills[n % 4], holder, 2_500) for n in range(12)]
    answers = [code(answer) for answer in rig.side_by_side(envelopes)]
    assert sorted(answers) == ["balance_insufficient"] * 8 + ["posted"] * 4
    assert rig.balance(holder.voucher) == (2_000, 0, 0)


def test_one_record_many_times_at_once(rig: Rig) -> None:
    """FC-11: the same record from eight connections at the same moment is posted once, and all get
    the very same outcome."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    answers = rig.side_by_side([envelope] * 8)
    assert len({a.jws for a in answers if isinstance(a, Outcome)}) == 1
    assert rig.balance(holder.voucher) == (6_000, 0, 0)
    assert rig.counts()["records"] == 1


def test_one_id_in_many_records_at_once(rig: Rig) -> None:
    """FC-11: one id in six different records: the first decides; equal content is posted with it,
    other content is refused; one posting."""
    till, holder = rig.signer(), rig.holder()
    first = rig.redeem(till, holder, 1_000)
    an_id = rig.read(first).id
    same = [rig.redeem(till, holder, 1_000, attempt_id=an_id, checkout=f"c{n}") for n in range(3)]
    other = [rig.redeem(till, holder, 2_000, attempt_id=an_id, checkout=f"c{n}") for n in range(2)]
    answers = [code(answer) for answer in rig.side_by_side([first, *same, *other])]
    results = sorted(answers)
    assert results in (
        ["id_content_mismatch"] * 2 + ["posted"] * 4,
        ["id_content_mismatch"] * 4 + ["posted"] * 2,
    )
    assert [row["kind"] for row in rig.tables()["postings"]].count("redeem") == 1


def test_a_sale_and_its_reversal_at_once(rig: Rig) -> None:
    """FF-1: whichever comes first, the money is back: reversed, or posted and then reversed."""
    till, holder = rig.signer(), rig.holder()
    for _ in range(5):
        envelope = rig.redeem(till, holder)
        undo = {"record": till.reversal(rig.read(envelope)).jws}
        sale, back = rig.side_by_side([envelope, undo])
        assert code(back) == "reversed"
        assert isinstance(back, Outcome)
        assert (code(sale), back.amount_minor) in (("posted", 6_000), ("reversed", 0))
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_two_late_originals_of_one_tombstone(rig: Rig) -> None:
    """Two servers meet one tombstone with different originals: the second waits for the first, and
    its content is another one."""
    till, one, two = rig.signer(), rig.holder(bucket=5), rig.holder(bucket=5)
    first = rig.redeem(till, one)
    record = rig.read(first)
    second = rig.redeem(till, two, attempt_id=record.id)
    rig.send_one(till.reversal(record))
    answers = rig.before_commit(first, lambda: rig.send(second)[0])
    assert [code(each) for each in answers] == ["reversed", "id_content_mismatch"]


# ── reading ────────────────────────────────────────────────────────────────────────────────────


def test_reading_sees_one_moment_and_writes_nothing(rig: Rig) -> None:
    """A reading transaction sees one snapshot from its first look on, and can't write."""
    till, holder = rig.signer(), rig.holder()
    envelope = rig.redeem(till, holder)
    count = select(schema.records.c.digest)
    with rig.database.read() as connection:
        before = connection.execute(count).all()
        rig.send_one(envelope)
        assert connection.execute(count).all() == before == []
    with rig.database.read() as connection, pytest.raises(Exception, match=r"read-?only"):
        connection.execute(schema.alarms.delete())
    assert rig.counts()["records"] == 1


def test_a_day_report_of_an_empty_range_is_fine(rig: Rig) -> None:
    """A till that sold nothing still closes its day."""
    till = rig.signer()
    report = till.sign(DayReport(1, "2026-11-22", 1, 0, 0, 0, 0, 0, ()), till.own_id())
    assert rig.send_one(report).result == "posted"
