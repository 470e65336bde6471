"""Whenever `retain` runs, and whoever is erased: answers, ids and sums stay (INV-1, INV-2)."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from carepos.outcome import Outcome
from carepos.record import Record
from carepos_ledger.erasure import Erasure
from carepos_ledger.person import Who
from carepos_ledger.retention import Retention
from carepos_ledger.settlement import Settlement
from tests.ledger.rig import ISSUER, PROGRAMME, Envelope, Holder, Rig, Signer, open_rig
from tests.properties.rounds import histories

UNDO = ("reverse", "void", "refund", "refund")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("redeem"), st.integers(0, 2), st.integers(1, 7_000)),
        st.tuples(st.sampled_from(UNDO), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("again"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([1, 60 * 24 * 3, 60 * 24 * 9]), st.just(0)),
        st.tuples(st.just("close"), st.just(0), st.just(0)),
        st.tuples(st.just("retain"), st.just(0), st.just(0)),
        st.tuples(st.just("erase"), st.integers(0, 2), st.just(0)),
    ),
    min_size=6,
    max_size=24,
)


class History:
    """One ledger, its sales, and every answer that it ever gave."""

    def __init__(self, rig: Rig) -> None:
        rig.empty()
        rig.settle_in()
        self.rig = rig
        self.till: Signer = rig.signer()
        self.holders: list[Holder] = [rig.holder() for _ in range(3)]
        self.sent: list[Envelope] = []
        self.answers: dict[str, str] = {}

    def play(self, what: str, n: int, amount: int) -> None:
        rig = self.rig
        if what == "redeem":
            self._send(rig.redeem(self.till, self.holders[n], amount))
        elif what in (*UNDO, "again") and self.sent:
            envelope = self.sent[n % len(self.sent)]
            if what in UNDO and "token" in envelope:
                envelope = {"record": self._undo(what, rig.read(envelope)).jws}
            self._send(envelope)
        elif what == "wait":
            rig.now.forward(minutes=n)
        elif what == "close":
            Settlement(rig.database, rig.keyring, rig.now).close(None, None)
        elif what == "retain":
            steps = Retention(rig.database, rig.now, dispute_days=7)
            bucket: int | None = 0
            while bucket is not None:
                bucket = steps.step(bucket).next_bucket
        elif what == "erase":
            self._erase(self.holders[n])
        assert rig.differences() == ()

    def _undo(self, what: str, sale: Record) -> Record:
        if what == "reverse":
            return self.till.reversal(sale)
        return self.till.void(sale) if what == "void" else self.till.refund(sale, (1, 1))

    def _send(self, envelope: Envelope) -> None:
        [answer] = self.rig.send(envelope)
        assert isinstance(answer, Outcome), answer
        known = self.answers.setdefault(envelope["record"], answer.jws)
        assert known == answer.jws, "a stored outcome changed"
        if envelope not in self.sent:
            self.sent.append(envelope)

    def _erase(self, holder: Holder) -> None:
        people = {row["sub"] for row in self.rig.tables(["beneficiaries"])["beneficiaries"]}
        if holder.sub in people:
            who = Who(ISSUER, holder.sub, None, None)
            Erasure(self.rig.database, self.rig.now).erase(who, forfeit=True, operator="office")

    def end(self) -> None:
        """Everything once more, all of it answered from what is stored; nothing posts twice."""
        before = self.rig.counts()
        for envelope in list(self.sent):
            self._send(envelope)
        assert self.rig.counts() == before
        sums = self.rig.office.programme_sums(PROGRAMME)
        assert sums.issued_minor == 36_000 and sums.differences == ()


def test_retention_and_erasure_at_any_moment_change_no_answer_and_no_sum(
    database_url: str, tmp_path: Path
) -> None:
    """In any order of sales, what takes them back, payments, waiting, erasing and retaining."""
    with open_rig(database_url, tmp_path, settled=False) as rig:

        @given(steps=STEPS)
        @settings(max_examples=histories(database_url, 8))
        def play(steps: list[tuple[str, int, int]]) -> None:
            history = History(rig)
            for what, n, amount in steps:
                history.play(what, n, amount)
            history.play("retain", 0, 0)
            history.end()

        play()
