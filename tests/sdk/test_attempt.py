"""The one table of an attempt's life, and the real journal driven through it at random.

The machine at the end writes with the real journal, is stopped, restarted and robbed of its power
at random, and compares what the journal says with a fold of the events over the table.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from carepos import attempt, correction, refusals
from carepos.acceptance import AcceptOffline
from carepos.attempt import Event, State, Step
from carepos.errors import JournalError, WrongState
from carepos.journal import Journal
from carepos.journal_view import Attempt
from carepos.keys import SigningKey
from carepos.outcome import Outcome
from carepos.record import Redeem, Reversal, ReversalReason
from tests import paper_till

STATES: frozenset[State] = frozenset(get_args(State))
EVENTS: frozenset[Event] = frozenset(get_args(Event))
UNDO_ROWS = {(row.state, row.event) for row in correction.TABLE}
ROWS = {(row.state, row.event): row for row in attempt.TABLE}
LIVE = STATES - attempt.FREES_CHECKOUT
DOCS = Path(__file__).parents[2] / "docs" / "protocol.md"


# the table itself


def test_each_row_stands_once() -> None:
    """A state and an event lead to one place only, and rows use known words."""
    assert len(ROWS) == len(attempt.TABLE)
    assert {row.state for row in attempt.TABLE} | {row.to for row in attempt.TABLE} == STATES
    assert {row.event for row in attempt.TABLE} == EVENTS
    assert attempt.MEANING.keys() == STATES


@pytest.mark.parametrize("state", sorted(STATES - attempt.FINAL))
def test_every_unfinished_state_survives_restart_and_silence(state: State) -> None:
    """Whatever is not over has a row for a restart, and where the ledger is asked one for no
    answer; neither ends it."""
    waits_for_the_cashier = state in ("accepted", "accept_asked")
    events: tuple[Event, ...] = ("restart",) if waits_for_the_cashier else ("restart", "no_answer")
    for event in events:
        assert attempt.step(state, event).to not in attempt.FINAL


def test_finals_have_no_rows() -> None:
    """What is over stays over: a sale that was booked, whole or in part, knows the signed answer to
    a void, and no other knows any event."""
    ends = {"confirmed", "refused", "reversed", "review", "voided", "short", "exception"}
    assert ends == attempt.FINAL
    after = [row for row in attempt.TABLE if row.state in attempt.FINAL]
    assert after == [Step(each, "void_posted", "voided") for each in ("confirmed", "short")]


@pytest.mark.parametrize("state", sorted(STATES))
@pytest.mark.parametrize("event", sorted(EVENTS))
def test_an_event_outside_the_table_is_an_error(state: State, event: Event) -> None:
    """`step` gives the row or raises WrongState naming both; it never guesses."""
    if (state, event) in ROWS:
        assert attempt.step(state, event) == ROWS[state, event]
        return
    with pytest.raises(WrongState) as wrong:
        attempt.step(state, event)
    assert (wrong.value.state, wrong.value.event) == (state, event)


def reachable(start: State) -> set[State]:
    found: set[State] = set()
    todo = {start}
    while todo:
        found |= todo
        todo = {row.to for row in attempt.TABLE if row.state in todo} - found
    return found


@pytest.mark.parametrize("state", ["reversing", "filling"])
def test_a_choice_is_not_taken_back(state: State) -> None:
    """Once a reversal is written nothing leads to confirmed or refused any more."""
    assert reachable(state) <= {"reversing", "filling", "reversed", "review"}


@pytest.mark.parametrize("state", ["accepted", "accept_asked", "provisional", "held"])
def test_an_acceptance_is_not_taken_back(state: State) -> None:
    """Once it is written nothing leads to a reversal or a refusal: it is booked, in whole or in
    part, or an exception; and what was booked may be voided."""
    stored = {"accepted", "accept_asked", "provisional", "held"}
    assert reachable(state) <= stored | {"confirmed", "short", "exception", "voided"}


def test_goods_that_may_not_have_left_are_asked_about_before_anything_goes_up() -> None:
    """After a restart an acceptance without its goods mark waits for the cashier, who alone sends
    it on; goods that stayed are taken back by a void in the same step."""
    assert attempt.step("accepted", "restart").to == "accept_asked"
    for state in ("accepted", "accept_asked"):
        rows = {row.event: row for row in attempt.TABLE if row.state == state}
        assert rows.keys() == {"goods_handed_over", "goods_kept", "restart"}
        assert rows["goods_kept"].writes == "void" and rows["goods_handed_over"].writes is None


def test_every_state_can_be_reached_and_ends() -> None:
    """From `open` every state is reachable, and from every state an end is."""
    assert reachable("open") == STATES
    for state in STATES:
        assert reachable(state) & attempt.FINAL, state


def test_only_the_ledger_or_the_cashier_confirms() -> None:
    """Confirmed comes only from a signed posted, or from the cashier who handed the goods over."""
    confirming = {row.event for row in attempt.TABLE if row.to == "confirmed"}
    assert confirming == {"sale_posted", "goods_handed_over", "accept_posted"}
    assert {row.event for row in attempt.TABLE if row.to == "refused"} == {"sale_refused"}


def test_after_a_restart_posted_is_asked_about() -> None:
    """A sale found open after a restart is confirmed only through the question about the goods."""
    assert attempt.step("open", "restart").to == attempt.step("unknown", "restart").to
    assert attempt.step("open", "restart").to == "interrupted"
    assert attempt.step("interrupted", "sale_posted").to == "goods_asked"
    assert attempt.step("interrupted", "sale_not_found") == Step(
        "interrupted", "sale_not_found", "reversing", "not_found"
    )
    assert not any(r.to == "confirmed" for r in attempt.TABLE if r.state == "interrupted")


def test_a_reversal_is_written_exactly_on_the_way_into_reversing() -> None:
    """Each row that enters `reversing` writes the reversal, with its reason; no other row does. As
    exactly an acceptance is written on the way into `accepted`."""
    for row in attempt.TABLE:
        enters = row.to == "reversing" and row.state != "reversing"
        assert (row.writes in get_args(ReversalReason)) == enters, row
        assert (row.writes == "accept_offline") == (row.to == "accepted"), row
    undoing = [row for row in attempt.TABLE if row.to == "reversing"]
    reasons = {row.event: row.writes for row in undoing if row.writes}
    assert reasons == {
        "sale_not_found": "not_found",
        "reverse_chosen": "cancelled",
        "goods_kept": "goods_kept",
    }


def test_live_states_are_those_of_the_journal() -> None:
    """The journal's index on live attempts names exactly the states that keep a sale busy."""
    left = {"accepted", "accept_asked", "provisional", "held", "short", "exception"}
    assert {"open", "unknown", "interrupted", "goods_asked", "confirmed"} | left == LIVE
    assert {"unknown", "interrupted"} == attempt.ASKS_LEDGER


def page(mark: str) -> str:
    text = DOCS.read_text("utf-8")
    return text.partition(f"<!-- {mark}:begin -->")[2].partition(f"<!-- {mark}:end -->")[0].strip()


def test_the_page_is_the_table() -> None:
    """docs/protocol.md §11 is what the code does."""
    assert page("attempts") == attempt.as_markdown()


def test_the_page_is_the_table_of_corrections() -> None:
    """And its second table is what becomes of a void or refund."""
    assert page("corrections") == correction.as_markdown()


def test_a_void_or_refund_waits_until_the_ledger_decides_it() -> None:
    """It ends only by a signed posted or refused; a restart, silence and `held` leave it waiting;
    that a refusal was seen changes nothing; any other event is an error."""
    assert {row.state for row in correction.TABLE} == {"waiting", "refused"}
    assert correction.MEANING.keys() == set(get_args(correction.State))
    ends = {row.event: row.to for row in correction.TABLE if row.to != row.state}
    assert ends == {"undo_posted": "posted", "undo_refused": "refused"}
    for state in get_args(correction.State):
        for event in get_args(correction.Event):
            if state == "waiting" and event != "seen":
                assert correction.step(state, event).to == ends.get(event, "waiting")
            elif (state, event) == ("refused", "seen"):
                assert correction.step(state, event).to == "refused"
            else:
                with pytest.raises(WrongState):
                    correction.step(state, event)


@pytest.mark.parametrize("kind", ["void", "refund"])
def test_an_outcome_of_an_undo_is_one_event(kind: str) -> None:
    """Its own record's answers and no others."""
    for result, event in (
        ("posted", "undo_posted"),
        ("refused", "undo_refused"),
        ("held", "undo_held"),
    ):
        assert correction.event_of(paper_till.outcome(kind, cast(Any, result))) == event
    for other, result in (("redeem", "posted"), (kind, "reversed")):
        with pytest.raises(WrongState):
            correction.event_of(paper_till.outcome(other, cast(Any, result)))


def test_the_page_is_the_list_of_refusals() -> None:
    """docs/protocol.md §6 is what the code says."""
    assert page("refusals") == refusals.as_markdown()


@pytest.mark.parametrize(
    ("kind", "result", "event"),
    [
        ("redeem", "posted", "sale_posted"),
        ("redeem", "refused", "sale_refused"),
        ("redeem", "reversed", "sale_reversed"),
        ("redeem", "held", "sale_held"),
        ("redeem", "exception", "sale_refused"),
        (None, "not_found", "sale_not_found"),
        ("reversal", "reversed", "undo_reversed"),
        ("reversal", "refused", "undo_refused"),
        ("reversal", "held", "undo_held"),
        ("accept_offline", "posted", "accept_posted"),
        ("accept_offline", "exception", "accept_exception"),
        ("accept_offline", "held", "accept_held"),
        # Of a sale that nobody accepted it decides nothing.
        ("redeem", "posted_short", "sale_held"),
    ],
)
def test_an_outcome_is_one_event(kind: str | None, result: Any, event: Event) -> None:
    """Which event an outcome is, is said by the record it answers and by nothing else."""
    assert attempt.event_of(paper_till.outcome(kind, result)) == event


def test_what_the_programme_bears_is_paid_like_any_sale() -> None:
    """Of a sale booked in part the shop has all of it, or the rest is its loss: then it's short."""
    short = paper_till.outcome("accept_offline", "posted_short")
    for liability, event in (("programme", "accept_posted"), ("merchant", "accept_short")):
        assert attempt.event_of(replace(short, liability=cast(Any, liability))) == event


@pytest.mark.parametrize(("kind", "result"), [("reversal", "posted"), ("start", "posted")])
def test_an_outcome_that_is_no_event(kind: str, result: Any) -> None:
    """A signed answer that no attempt can have is an error, never a decision."""
    with pytest.raises(WrongState):
        attempt.event_of(paper_till.outcome(kind, result))


# the journal, driven at random

CHECKOUTS = ("S1", "S2", "S3")
MEMORY = Path("/dev/shm")


def fold(events: list[tuple[str, str, str]]) -> State:
    """The state that the table gives for these events, each checked against its row."""
    state: State = "open"
    for event, before, after in events:
        assert before == state
        state = attempt.step(state, cast(Event, event)).to
        assert after == state
    return state


class JournalMachine(RuleBasedStateMachine):
    """Random events at the real journal, with crashes and power losses in between."""

    def __init__(self) -> None:
        super().__init__()
        # In memory where there is such a folder: power is lost here by copying files, and waiting
        # for a disk proves nothing more.
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.life = 0
        self.key = SigningKey(b"k" * 32)
        self.now = paper_till.Ticking()
        self.journal = self.start(self.folder / "0")
        self.states: dict[str, State] = {}
        self.undos: dict[str, correction.State] = {}

    def start(self, folder: Path) -> Journal:
        folder.mkdir(exist_ok=True)
        return Journal.start(
            folder / "journal.db",
            key=self.key,
            terminal="t-1",
            software="machine/1",
            now=self.now,
            random_bytes=self.now.random_bytes,
        )

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)

    def known(self) -> list[Attempt]:
        return self.journal.attempts()

    def live(self, checkout: str) -> list[str]:
        return [a.id for a in self.known() if a.checkout == checkout and self.states[a.id] in LIVE]

    @initialize()
    def first_sale(self) -> None:
        self.sell("S1")

    @rule(checkout=st.sampled_from(CHECKOUTS))
    def sell(self, checkout: str) -> None:
        """A sale gets its next attempt only when none of its attempts is live."""
        sequence = self.journal.sequence
        if self.live(checkout):
            with pytest.raises(JournalError):
                paper_till.write_intent(self.journal, checkout)
            assert self.journal.sequence == sequence
        else:
            made, _ = paper_till.write_intent(self.journal, checkout)
            self.states[made.id] = "open"

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def follow_the_table(self, data: st.DataObject) -> None:
        """An event of the row is taken, and writes what the row says, in one step."""
        # A confirmed sale moves by `take_back` only, with the void that takes it back.
        moving = [a for a in self.known() if self.states[a.id] not in attempt.FINAL]
        if any(u.state == "waiting" for u in self.journal.undos()):
            # Of goods that stayed a second void would be written.
            moving = [a for a in moving if self.states[a.id] not in ("accepted", "accept_asked")]
        if not moving:
            return
        chosen = data.draw(st.sampled_from(moving))
        rows = [row for row in attempt.TABLE if row.state == self.states[chosen.id]]
        self.apply(chosen, data.draw(st.sampled_from(rows)))

    def apply(self, chosen: Attempt, row: Step) -> None:
        sequence = self.journal.sequence
        answer = self.answer_for(chosen, row.event)
        if row.writes == "void":
            with pytest.raises(WrongState):
                self.journal.advance(chosen.id, row.event)
            made, _ = paper_till.write_void(self.journal, chosen, sale_event=row.event)
            self.undos[made.id] = "waiting"
            moved = self.journal.attempt(chosen.id)
        else:
            moved = self.journal.advance(
                chosen.id,
                row.event,
                outcome=answer,
                accepting=paper_till.accepting() if row.writes == "accept_offline" else None,
            )
        self.states[chosen.id] = row.to
        assert moved.state == row.to
        assert self.journal.sequence == sequence + (row.writes is not None)
        if row.writes == "accept_offline":
            accepted = self.journal.record_of(moved, "accept_offline").content
            assert isinstance(accepted, AcceptOffline)
            assert accepted.record_sha256 == self.journal.record_of(moved).digest
        elif row.writes is not None and row.writes != "void":
            undo = self.journal.record_of(moved, "reversal")
            assert undo.content == Reversal(self.journal.record_of(moved).digest, row.writes)
        if answer is not None and answer.kind is not None:
            about = self.journal.record_of(moved, cast(Any, answer.kind))
            assert answer.jws in self.journal.outcomes_of(about.sequence)

    def answer_for(self, chosen: Attempt, event: Event) -> Outcome | None:
        about, _, result = event.partition("_")
        if about == "accept" and event != "accept_chosen":
            results = {"short": "posted_short"}
            told = cast(Any, results.get(result, result))
            return paper_till.outcome("accept_offline", told, chosen.id)
        if about not in ("sale", "undo"):
            return None
        kind = None if result == "not_found" else "redeem" if about == "sale" else "reversal"
        return paper_till.outcome(kind, cast(Any, result), chosen.id)

    @precondition(lambda self: self.states)
    @rule(data=st.data(), whole=st.booleans())
    def take_back(self, data: st.DataObject, whole: bool) -> None:
        """A void or refund is written while no other of the sale waits, and changes no sale."""
        chosen = data.draw(st.sampled_from(self.known()))
        if self.states[chosen.id] not in attempt.BOOKED | {"provisional", "held"}:
            return
        if self.states[chosen.id] == "short" and not whole:
            return  # such a sale is never refunded by lines
        write = paper_till.write_void if whole else paper_till.write_refund
        if any(u.state == "waiting" for u in self.journal.undos_of("t-1", chosen.id)):
            sequence = self.journal.sequence
            with pytest.raises(JournalError):
                write(self.journal, chosen)
            assert self.journal.sequence == sequence
        else:
            made, _ = write(self.journal, chosen)
            self.undos[made.id] = "waiting"

    @precondition(lambda self: not {"waiting", "refused"}.isdisjoint(self.undos.values()))
    @rule(data=st.data())
    def follow_the_table_of_corrections(self, data: st.DataObject) -> None:
        """Its row is taken; a posted void takes its sale with it, and nothing else moves one."""
        chosen = data.draw(st.sampled_from(self.journal.undos("waiting", "refused")))
        rows = [row for row in correction.TABLE if row.state == chosen.state]
        row = data.draw(st.sampled_from(rows))
        is_booked = self.states[chosen.original] in attempt.BOOKED
        if (chosen.kind, row.to) == ("void", "posted") and not is_booked:
            with pytest.raises(WrongState):
                self.journal.advance_undo(chosen.id, row.event)
            return
        about, _, result = row.event.partition("_")
        answer = None
        if about == "undo":
            answer = paper_till.outcome(chosen.kind, cast(Any, result), chosen.id)
        moved = self.journal.advance_undo(chosen.id, row.event, outcome=answer)
        assert moved.state == row.to
        self.undos[chosen.id] = row.to
        if (chosen.kind, row.to) == ("void", "posted"):
            self.states[chosen.original] = "voided"
        if answer is not None:
            assert answer.jws in self.journal.outcomes_of(chosen.sequence)

    @precondition(lambda self: self.undos)
    @rule(data=st.data(), event=st.sampled_from(sorted(get_args(correction.Event))))
    def break_the_table_of_corrections(self, data: st.DataObject, event: correction.Event) -> None:
        """An event that its state's row has not raises WrongState and writes nothing."""
        chosen = data.draw(st.sampled_from(sorted(self.undos)))
        if (self.undos[chosen], event) in UNDO_ROWS:
            return
        before = paper_till.dump(self.journal)
        with pytest.raises(WrongState):
            self.journal.advance_undo(chosen, event)
        assert paper_till.dump(self.journal) == before

    @precondition(lambda self: self.states)
    @rule(data=st.data(), event=st.sampled_from(sorted(EVENTS)))
    def break_the_table(self, data: st.DataObject, event: Event) -> None:
        """An event that the state's row has not raises WrongState and writes nothing."""
        chosen = data.draw(st.sampled_from(self.known()))
        if (self.states[chosen.id], event) in ROWS:
            return
        before = paper_till.dump(self.journal)
        with pytest.raises(WrongState):
            self.journal.advance(chosen.id, event)
        assert paper_till.dump(self.journal) == before

    @rule()
    def restart(self) -> None:
        """Stopped and started in order."""
        self.journal.close()
        self.recover(self.folder / str(self.life))

    @rule()
    def lose_power(self) -> None:
        """The files as they lie on the disk at this moment, opened as another life of the till."""
        here = self.folder / str(self.life)
        self.life += 1
        there = self.folder / str(self.life)
        there.mkdir()
        for file in here.glob("journal.db*"):
            if not file.name.endswith((".lock", "-shm")):
                shutil.copyfile(file, there / file.name)
        self.journal.close()
        self.recover(there)

    def recover(self, folder: Path) -> None:
        incarnation, sequence = self.journal.incarnation, self.journal.sequence
        self.journal = self.start(folder)
        assert self.journal.incarnation == incarnation
        assert self.journal.sequence == sequence + 1
        assert self.journal.records("start")[-1].sequence == sequence + 1
        for an_id, state in self.states.items():
            if state in ("open", "unknown", "interrupted"):
                self.states[an_id] = "interrupted"
            elif state == "accepted":
                self.states[an_id] = "accept_asked"

    @rule()
    def recover_twice(self) -> None:
        """INV-8: recovery run twice leaves every attempt where recovery run once left it."""
        self.restart()
        once = {a.id: (a.state, a.slip) for a in self.known()}
        self.restart()
        assert {a.id: (a.state, a.slip) for a in self.known()} == once

    @invariant()
    def the_chain_holds(self) -> None:
        """Every record verifies, and numbers have no gap."""
        assert self.journal.verify() == self.journal.sequence
        assert [r.sequence for r in self.journal.records()] == list(
            range(1, self.journal.sequence + 1)
        )

    @invariant()
    def states_are_the_fold_of_their_events(self) -> None:
        """The stored state is what the table makes of the stored events, and what we expect."""
        events: dict[str, list[tuple[str, str, str]]] = {}
        for an_id, event, before, after in self.journal._db.execute(
            "SELECT id, event, before, after FROM attempt_events ORDER BY n"
        ):
            events.setdefault(an_id, []).append((event, before, after))
        stored: Mapping[str, State] = {a.id: a.state for a in self.known()}
        assert stored == {an_id: fold(events.get(an_id, [])) for an_id in stored}
        assert stored == self.states
        undone: dict[str, correction.State] = {u.id: "waiting" for u in self.journal.undos()}
        for an_id, event, before, after in self.journal._db.execute(
            "SELECT id, event, before, after FROM correction_events ORDER BY n"
        ):
            assert undone[an_id] == before
            undone[an_id] = correction.step(before, event).to
            assert undone[an_id] == after
        assert undone == {u.id: u.state for u in self.journal.undos()} == self.undos

    @invariant()
    def no_attempt_is_undone_twice(self) -> None:
        """At most one reversal per id, and exactly for those on the way back."""
        undone = [record.id for record in self.journal.records("reversal")]
        assert len(undone) == len(set(undone))
        undoing = {"reversing", "filling", "review"}
        assert {i for i, s in self.states.items() if s in undoing} <= set(undone)
        assert not set(undone) & {i for i, s in self.states.items() if s in LIVE | {"refused"}}
        accepted = [record.id for record in self.journal.records("accept_offline")]
        assert len(accepted) == len(set(accepted)) and not set(undone) & set(accepted)

    @invariant()
    def evidence_is_kept_until_it_has_served(self) -> None:
        """The sealed token of each acceptance without a final outcome, and of no other."""
        sealed = {i for i in self.states if self.journal.evidence_of(i) is not None}
        assert sealed == {i for i, s in self.states.items() if s in attempt.STORED}

    @invariant()
    def one_live_attempt_per_sale(self) -> None:
        """No sale is attempted while an attempt of it is live."""
        for checkout in CHECKOUTS:
            live = self.live(checkout)
            assert len(live) <= 1
            found = self.journal.live_attempt(checkout)
            assert ([] if found is None else [found.id]) == live

    @invariant()
    def confirmed_is_printed_once(self) -> None:
        """Each sale that was confirmed or accepted, and no other, has queued one receipt; each
        posted undo one slip."""
        jobs = self.journal.print_jobs()
        originals = [job.receipt_no for job in jobs if "kind" not in job.slip]
        left = attempt.STORED | {"confirmed", "voided", "short", "exception"}
        confirmed = [a for a in self.known() if a.state in left]
        assert sorted(originals) == sorted(a.slip["receipt_no"] for a in confirmed)
        undone = [(job.receipt_no, job.slip["kind"]) for job in jobs if "kind" in job.slip]
        posted = self.journal.undos("posted")
        assert sorted(undone) == sorted((u.slip["receipt_no"], u.slip["kind"]) for u in posted)

    @invariant()
    def one_waits_per_sale(self) -> None:
        """Of each sale at most one void or refund waits, and at most one void was posted."""
        waiting = [u.original for u in self.journal.undos("waiting")]
        voided = [u.original for u in self.journal.undos("posted") if u.kind == "void"]
        assert len(waiting) == len(set(waiting)) and len(voided) == len(set(voided))
        assert set(voided) == {an_id for an_id, s in self.states.items() if s == "voided"}

    @invariant()
    def every_sale_has_its_signed_record(self) -> None:
        """INV-3: behind each attempt stands one durable signed redeem record of its number."""
        for each in self.known():
            written = self.journal.record_of(each)
            assert isinstance(written.content, Redeem)
            assert (written.sequence, written.id) == (each.sequence, each.id)


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=25, stateful_step_count=25)
