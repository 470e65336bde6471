"""The held intake: nothing of a stopped till is lost, nothing is decided but by people, once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from carepos.errors import Malformed
from carepos.outcome import Outcome
from carepos.record import Record
from carepos_ledger import held, held_intake
from carepos_ledger.book import Book
from carepos_ledger.erasure import Erasure
from carepos_ledger.held_list import HeldList
from carepos_ledger.held_rulings import HeldRulings
from carepos_ledger.person import Who
from carepos_ledger.problems import Problem
from carepos_ledger.retention import Retention
from tests.ledger.rig import ISSUER, RULES, Envelope, Rig, Signer, code
from tests.ledger.test_terminal_keys import change


def words(rig: Rig, *sent: Envelope | Record, book: Book | None = None) -> list[str]:
    return [code(answer) for answer in rig.send(*sent, book=book)]


def answer(rig: Rig, sent: Envelope | Record) -> Outcome:
    """The outcome that its till gets by sending the record, without any token."""
    return rig.send_one({"record": rig.read(sent).jws})


def stopped(rig: Rig, till: Signer) -> Signer:
    rig.terminals.set_status(till.terminal, "revoked")
    return till


def rulings(rig: Rig, book: Book | None = None) -> HeldRulings:
    return HeldRulings(rig.database, book or rig.book, rig.now)


def number(rig: Rig, of: Envelope | Record) -> int:
    return int(row_of(rig, of)["n"])


def row_of(rig: Rig, of: Envelope | Record) -> dict[str, Any]:
    digest = rig.read(of).digest
    [row] = [r for r in rig.tables(["held_records"])["held_records"] if r["digest"] == digest]
    return row


def post(rig: Rig, of: Envelope | Record) -> str:
    return rulings(rig).post(number(rig, of), operator="wang", sentence="asked the shop")


def refuse(rig: Rig, of: Envelope | Record, **more: Any) -> str:
    given = {"code": "not_accepted", "sentence": "not this shop's", **more}
    return rulings(rig).refuse(number(rig, of), operator="wang", **given)


def problem(call: Callable[[], object]) -> Problem:
    with pytest.raises(Problem) as raised:
        call()
    return raised.value


# ── what is kept ───────────────────────────────────────────────────────────────────────────────


def test_what_is_held_is_kept_whole_and_names_nobody(rig: Rig) -> None:
    """The signed bytes as they came, and what the token proved without token, jti or sub."""
    till, holder = rig.signer(), rig.holder()
    stopped(rig, till)
    sale = rig.redeem(till, holder, 5_000)
    said = rig.send_one(sale)
    assert (said.result, said.reason, said.refusal) == ("held", "terminal_revoked", None)
    row = row_of(rig, sale)
    assert bytes(row["jws"]).decode() == sale["record"] and row["outcome"] == said.jws
    assert (row["beneficiary"], row["reason"]) == (holder.beneficiary, "terminal_revoked")
    kept = json.dumps({name: str(value) for name, value in row.items()})
    for secret in (sale["token"], holder.sub, '"visit-1"', "visit-1"):
        assert secret not in kept
    assert rig.balance(holder.voucher) == (12_000, 0, 0)
    assert rig.counts().keys() & {"attempts", "records", "visits"} == set()


def test_every_kind_is_held(rig: Rig) -> None:
    """Sales, undo of any kind, day reports, changes of key; what was decided keeps its outcome."""
    till, holder = rig.signer(), rig.holder()
    sold = rig.redeem(till, holder, 1_000)
    posted = rig.send_one(sold)
    stopped(rig, till)
    sale = rig.read(sold)
    sent: list[Envelope | Record] = [
        till.start(),
        till.reversal(sale),
        till.void(sale),
        till.refund(sale, (1, 1)),
        till.day_report(),
        rig.redeem(till, holder, 100),
        rig.redeem(till, holder, 1_000, attempt_id=sale.id),
    ]
    answers = rig.send(sold, *sent, sold)
    assert [code(each) for each in answers] == ["posted", *["held"] * len(sent), "posted"]
    assert answers[0] == answers[-1] == posted
    assert rig.send(*sent) == answers[1:-1]
    assert rig.counts()["held_records"] == len(sent)
    assert rig.balance(holder.voucher) == (11_000, 0, 0)


def test_a_replay_without_the_token_spoils_nothing(rig: Rig) -> None:
    """Whoever sends a record first without its token: the till's own copy brings the proof."""
    till, holder = stopped(rig, rig.signer()), rig.holder()
    sale = rig.redeem(till, holder, 1_000)
    first = answer(rig, sale)
    assert row_of(rig, sale)["proof"] is None
    assert problem(lambda: post(rig, sale)).field == "token"
    assert rig.send_one(sale) == first
    assert post(rig, sale) == "changed" and answer(rig, sale).result == "posted"


def test_a_till_fills_its_own_intake_only(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """T-16: beyond so many undecided records it gets the problem; what is held stays held, other
    tills are held as before, and what is decided makes room."""
    monkeypatch.setattr(held_intake, "MAX_HELD", 3)
    till, other = stopped(rig, rig.signer()), stopped(rig, rig.signer())
    sent = [till.start() for _ in range(5)]
    full = ["held"] * 3 + ["terminal_revoked"] * 2
    assert words(rig, *sent, other.start()) == [*full, "held"]
    assert words(rig, *sent) == full and rig.counts()["held_records"] == 4
    post(rig, sent[1])
    assert words(rig, *sent[3:], sent[1]) == ["held", "terminal_revoked", "posted"]


def test_a_held_record_outlives_its_key(rig: Rig) -> None:
    """It has its outcome also after another key took the place of the one that signed it."""
    till = rig.signer()
    fresh = change(rig, till)
    stopped(rig, till)
    late = till.start()
    held = rig.send_one(late)
    assert words(rig, fresh.start(), till.start()) == ["held", "signature_invalid"]
    assert rig.send_one(late) == held
    refuse(rig, late)
    assert code(answer(rig, late)) == "not_accepted"


# ── decided by a person ────────────────────────────────────────────────────────────────────────


def test_a_posted_one_is_booked_when_its_token_is_long_gone(rig: Rig) -> None:
    """The code is judged as it was when the record came, everything else as it is now; its till
    gets the final outcome by sending the record again."""
    till, holder = stopped(rig, rig.signer()), rig.holder()
    sale = rig.redeem(till, holder, 5_000)
    held = rig.send_one(sale)
    rig.now.forward(days=40)
    assert post(rig, sale) == "changed"
    final = answer(rig, sale)
    assert (final.result, final.amount_minor) == ("posted", 5_000)
    assert final.recorded_at == rig.now() > held.recorded_at
    assert rig.balance(holder.voucher) == (7_000, 0, 0)
    row = row_of(rig, sale)
    assert (row["operator"], row["decision"], row["sentence"]) == ("wang", "post", "asked the shop")
    assert (row["jws"], row["proof"], row["beneficiary"]) == (None, None, None)
    assert post(rig, sale) == "exists" and answer(rig, sale) == final
    assert problem(lambda: refuse(rig, sale)).code == "already_exists_differently"
    assert rig.balance(holder.voucher) == (7_000, 0, 0)


def test_a_posted_one_is_refused_by_the_rules_of_now(rig: Rig) -> None:
    """The person's word lets the terminal count, and nothing else."""
    till, other, holder = stopped(rig, rig.signer()), rig.signer(), rig.holder()
    first, second, third = (rig.redeem(till, holder, 5_000) for _ in range(3))
    words(rig, first, second, third)
    assert words(rig, rig.redeem(other, holder, 10_000)) == ["posted"]
    post(rig, first)
    assert code(answer(rig, first)) == "balance_insufficient"
    rig.programmes.put_programme({**RULES, "paused": True})
    post(rig, second)
    assert code(answer(rig, second)) == "programme_paused"
    assert rig.balance(holder.voucher) == (2_000, 0, 0)


def test_a_code_that_was_used_elsewhere_since_is_replayed(rig: Rig) -> None:
    """Held is not used: an honest till may use the code, and then the held sale may not."""
    till, other, holder = stopped(rig, rig.signer()), rig.signer(), rig.holder()
    code_shown = rig.token(holder)
    stolen = rig.redeem(till, holder, 5_000, token_text=code_shown)
    assert words(rig, stolen) == ["held"]
    assert words(rig, rig.redeem(other, holder, 1_000, token_text=code_shown)) == ["posted"]
    post(rig, stolen)
    assert code(answer(rig, stolen)) == "token_replayed"


def test_a_visit_that_was_open_when_it_came_counts(rig: Rig) -> None:
    """A second basket under one code, held: its visit is not over because people took
    their time."""
    till, holder = rig.signer(), rig.holder()
    shown = rig.token(holder, lifetime_s=900, issued_at=rig.now())
    assert words(rig, rig.redeem(till, holder, 100, token_text=shown)) == ["posted"]
    stopped(rig, till)
    rig.now.forward(minutes=14)
    second = rig.redeem(till, holder, 200, token_text=shown)
    assert words(rig, second) == ["held"]
    rig.now.forward(days=1)
    post(rig, second)
    assert answer(rig, second).result == "posted"
    assert rig.balance(holder.voucher) == (11_700, 0, 0)


def test_a_bad_code_stays_bad(rig: Rig) -> None:
    """What was wrong with it when it came is what it is refused with, however late."""
    till, other, holder = rig.signer(), rig.signer(), rig.holder()
    used = rig.token(holder)
    words(rig, rig.redeem(other, holder, 100, token_text=used))
    stopped(rig, till)
    wanted = {
        "token_replayed": used,
        "token_malformed": "no token",
        "voucher_unknown": rig.token(replace(holder, sub="nobody-was-issued-this")),
    }
    for refused, shown in wanted.items():
        bearer = replace(holder, sub="nobody-was-issued-this") if "unknown" in refused else holder
        sale = rig.redeem(till, bearer, 100, token_text=shown)
        assert words(rig, sale) == ["held"]
        assert HeldList(rig.database).one(number(rig, sale))["token"] == refused
        post(rig, sale)
        assert code(answer(rig, sale)) == refused


def test_an_undo_waits_for_what_is_held_before_it(rig: Rig) -> None:
    """A sale and its void: the earliest first. What never came is not waited for."""
    till, holder = rig.signer(), rig.holder()
    till.start()  # never sent
    stopped(rig, till)
    sale = rig.redeem(till, holder, 5_000)
    void, report = till.void(rig.read(sale)), till.day_report()
    words(rig, sale, void, report)
    waits = problem(lambda: post(rig, void))
    assert (waits.code, waits.extra) == ("sequence_gap", {"missing": [rig.read(sale).sequence]})
    post(rig, sale)
    post(rig, void)
    post(rig, report)
    assert [answer(rig, each).result for each in (sale, void, report)] == ["posted"] * 3
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


@pytest.mark.parametrize("accepts", [True, False])
def test_what_people_decided_has_its_number(rig: Rig, accepts: bool) -> None:
    """Where a till has changed its key, what contradicts a copy of the old one is held alone: once
    it is decided, neither the till's day reports nor its undos wait for it any more."""
    till, holder = rig.signer(), rig.holder()
    words(rig, till.start())
    copied = replace(till)
    ours = [rig.redeem(till, holder, 500), rig.redeem(till, holder, 600)]
    assert words(rig, rig.redeem(copied, holder, 700)) == ["posted"]
    till = change(rig, till)
    sale = rig.redeem(till, holder, 800)
    assert words(rig, sale, *ours) == ["posted", "held", "held"]
    void, report = till.void(rig.read(sale)), till.day_report()
    assert words(rig, void, report) == ["sequence_gap"] * 2
    for each in ours:
        assert (post(rig, each) if accepts else refuse(rig, each)) == "changed"
    assert words(rig, void, report) == ["posted"] * 2


def test_a_sale_and_its_reversal_that_are_both_posted_spend_nothing(rig: Rig) -> None:
    """In either order: the reversal leaves its tombstone, as always."""
    for turned in (False, True):
        till, holder = stopped(rig, rig.signer()), rig.holder()
        sale = rig.redeem(till, holder, 5_000)
        undo = till.reversal(rig.read(sale))
        words(rig, sale, undo)
        for each in (undo, sale) if turned else (sale, undo):
            post(rig, each)
        assert answer(rig, undo).result == "reversed"
        assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_one_that_is_not_accepted_books_nothing(rig: Rig) -> None:
    """Its till reads the code; its id is used up; a reversal of it has nothing to give back."""
    till, holder = stopped(rig, rig.signer()), rig.holder()
    sale = rig.redeem(till, holder, 5_000)
    undo = till.reversal(rig.read(sale))
    again = rig.redeem(till, holder, 5_000, attempt_id=rig.read(sale).id, checkout="another")
    words(rig, sale, undo, again)
    assert refuse(rig, sale) == "changed" == post(rig, undo) == post(rig, again)
    final = answer(rig, sale)
    assert (final.result, final.liability, code(final)) == (
        "exception",
        "merchant",
        "not_accepted",
    )
    assert (answer(rig, undo).result, answer(rig, undo).amount_minor) == ("reversed", 0)
    assert code(answer(rig, again)) == "not_accepted"
    assert refuse(rig, sale) == "exists" and rig.balance(holder.voucher) == (12_000, 0, 0)
    assert problem(lambda: post(rig, sale)).code == "already_exists_differently"


def test_a_reversal_is_refused_only_by_somebody_who_means_it(rig: Rig) -> None:
    """It may leave money spent for goods that stayed in the shop."""
    till, holder = rig.signer(), rig.holder()
    sale = rig.redeem(till, holder, 5_000)
    words(rig, sale)
    stopped(rig, till)
    undo = till.reversal(rig.read(sale))
    words(rig, undo)
    assert problem(lambda: refuse(rig, undo)).code == "leaves_spent"
    assert answer(rig, undo).result == "held"
    assert refuse(rig, undo, leaves_spent=True) == "changed"
    assert code(answer(rig, undo)) == "not_accepted"
    assert rig.balance(holder.voucher) == (7_000, 0, 0)


def test_a_word_that_can_not_be_said(rig: Rig) -> None:
    """No record, no code of a decision, no sentence: nothing is changed."""
    till = stopped(rig, rig.signer())
    start = till.start()
    held = rig.send_one(start)
    assert problem(lambda: rulings(rig).post(999, operator="wang")).code == "not_found"
    for wrong in (
        {"code": "terminal_revoked"}, {"code": "no_such_code"}, {"code": 7}, {"sentence": ""},
        {"sentence": "  "}, {"sentence": "x" * 201}, {"sentence": None}, {"leaves_spent": 1},
    ):  # fmt: skip
        with pytest.raises(Malformed):
            refuse(rig, start, **wrong)
    with pytest.raises(Malformed):
        rulings(rig).post(number(rig, start), operator="wang", sentence="")
    assert answer(rig, start) == held


# ── once, whatever happens ─────────────────────────────────────────────────────────────────────


class Boom(Exception):
    """The ledger's process dies here."""


@pytest.mark.parametrize("point", ["written", "committed"])
@pytest.mark.parametrize("accepted", [True, False])
def test_a_ledger_that_dies_while_a_person_decides(rig: Rig, point: str, accepted: bool) -> None:
    """The word and the posting are one transaction: both are there, or neither; said again it is
    done once."""
    till, holder = stopped(rig, rig.signer()), rig.holder()
    sale = rig.redeem(till, holder, 5_000)
    held = rig.send_one(sale)

    def reached(name: str) -> None:
        if name == point:
            raise Boom

    with pytest.raises(Boom):
        rig.rule_on(rig.read(sale), post=accepted, book=rig.new_book(reached))
    rig.new_book()
    is_done = point == "committed"
    assert (answer(rig, sale) != held) == is_done
    assert rig.rule_on(rig.read(sale), post=accepted) == ("exists" if is_done else "changed")
    assert rig.balance(holder.voucher) == (7_000 if accepted else 12_000, 0, 0)


def test_two_people_decide_at_once(rig: Rig) -> None:
    """Exactly one word counts, and the other one is told so."""
    for _ in range(4):
        till, holder = stopped(rig, rig.signer()), rig.holder()
        sale = rig.redeem(till, holder, 5_000)
        rig.send_one(sale)
        n, said = number(rig, sale), threading.Barrier(2)

        def decide(accepted: bool, n: int = n, said: threading.Barrier = said) -> str:
            of = rulings(rig, Book(rig.database, rig.keyring, rig.now))
            said.wait()
            try:
                if accepted:
                    return of.post(n, operator="wang")
                return of.refuse(n, "not_accepted", "no", operator="li")
            except Problem as error:
                return error.code

        with ThreadPoolExecutor(2) as pool:
            words_said = sorted(pool.map(decide, (True, False)))
        assert words_said == ["already_exists_differently", "changed"]
        final, row = answer(rig, sale), row_of(rig, sale)
        assert (final.result, row["operator"]) in (("posted", "wang"), ("exception", "li"))
        spent = 5_000 if final.result == "posted" else 0
        assert rig.balance(holder.voucher) == (12_000 - spent, 0, 0)


@contextmanager
def decided_but_not_committed(
    rig: Rig, of: Envelope, post: bool = True
) -> Iterator[Callable[[], str]]:
    """A person's word is written and not committed, until the block ends; then what came of it."""
    written, go_on = threading.Event(), threading.Event()

    def reached(point: str) -> None:
        if point == "written":
            written.set()
            assert go_on.wait(20)

    book, record = Book(rig.database, rig.keyring, rig.now, reached), rig.read(of)
    with ThreadPoolExecutor(1) as pool:
        ruling = pool.submit(rig.rule_on, record, post=post, book=book)
        assert written.wait(20)

        def end() -> str:
            go_on.set()
            return ruling.result()

        yield end
        go_on.set()


def test_a_record_that_comes_while_a_person_decides_it(rig: Rig) -> None:
    """It waits for the word, and is told the final outcome: never the held one after it."""
    till, holder = stopped(rig, rig.signer()), rig.holder()
    sale = rig.redeem(till, holder, 5_000)
    rig.send_one(sale)
    other = Book(rig.database, rig.keyring, rig.now)
    with ThreadPoolExecutor(1) as pool, decided_but_not_committed(rig, sale) as end:
        sent = pool.submit(rig.send_one, sale, other)
        rig.until_it_waits(sent)
        assert end() == "changed"
        assert sent.result().result == "posted"
    assert rig.balance(holder.voucher) == (7_000, 0, 0)


# ── what people see, and what goes ─────────────────────────────────────────────────────────────


def test_people_see_what_waits(rig: Rig) -> None:
    """Shop, number, amount and whether the code was good; no family, no code; and afterwards who
    decided it."""
    till, holder = rig.signer(), rig.holder()
    words(rig, till.start())
    stopped(rig, till)
    sale, start = rig.redeem(till, holder, 5_000), till.start()
    words(rig, sale, start)
    seen = HeldList(rig.database)
    first, second = seen.listed()
    assert (first["kind"], first["amount_minor"], first["currency"]) == ("redeem", 5_000, "CNY")
    assert (first["receipt_no"], first["token"]) == ("0001-000002-1", "proved")
    assert (second["kind"], second["receipt_no"], second["token"]) == ("start", None, None)
    assert seen.listed(first["n"]) == [second]
    whole = seen.one(first["n"])
    assert whole["content"]["basket"] and whole["result"] is None
    # Nor "presentment": it says "online" of every sale's record, also of one sold offline.
    assert not {"beneficiary", "token_sha256", "presentment"} & whole["content"].keys()
    assert holder.sub not in json.dumps(whole)
    post(rig, sale)
    assert seen.listed() == [second]
    after = seen.one(first["n"])
    assert (after["result"], after["operator"], after["content"]) == ("posted", "wang", None)
    assert problem(lambda: seen.one(999)).code == "not_found"


def test_people_see_what_is_missing_of_a_chain(rig: Rig) -> None:
    """FG-7: the numbers that no machine has sent are gaps; what was decided by people is none."""
    till = rig.signer()
    records = [till.start() for _ in range(6)]
    words(rig, records[0], records[1], records[3])
    stopped(rig, till)
    words(rig, records[5])
    [chain] = HeldList(rig.database).chains(till.terminal)["chains"]
    assert chain == {
        "incarnation": till.incarnation,
        "arrived_to": 4,
        "missing": [3, 5],
        "held": [6],
    }
    post(rig, records[5])
    [chain] = HeldList(rig.database).chains(till.terminal)["chains"]
    assert (chain["missing"], chain["held"]) == ([3, 5], [])
    assert problem(lambda: HeldList(rig.database).chains("t-none")).code == "not_found"
    assert HeldList(rig.database).chains(rig.signer().terminal)["chains"] == []


def test_a_person_who_was_erased_is_found_in_nothing_that_is_held(rig: Rig) -> None:
    """They are told of it before; afterwards the record can be decided, and finds nobody."""
    till, holder = stopped(rig, rig.signer()), rig.holder()
    sale = rig.redeem(till, holder, 5_000)
    words(rig, sale)
    who = Who(ISSUER, holder.sub, None, None)
    [told] = held.export(rig.database, who, rig.now)["waiting_to_be_decided"]
    assert (told["kind"], told["store"], told["reason"]) == (
        "redeem",
        "zhou-shop",
        "terminal_revoked",
    )
    Erasure(rig.database, rig.now).erase(who, forfeit=True, operator="wang")
    row = row_of(rig, sale)
    assert row["beneficiary"] == "" and "jti_sha256" not in row["proof"]
    post(rig, sale)
    assert code(answer(rig, sale)) == "voucher_unknown"


def test_what_nobody_has_decided_is_kept(rig: Rig) -> None:
    """The dispute period begins with the decision; then only that there was one goes."""
    till = stopped(rig, rig.signer())
    decided, waiting = till.start(), till.start()
    words(rig, decided, waiting)
    rig.now.forward(days=400)
    post(rig, decided)
    final = answer(rig, decided)

    def retain() -> list[str]:
        for bucket in range(0, 4096, 128):
            Retention(rig.database, rig.now, 180).step(bucket)
        return [row["digest"] for row in rig.tables(["held_records"])["held_records"]]

    assert sorted(retain()) == sorted([decided.digest, waiting.digest])
    rig.now.forward(days=181)
    assert retain() == [waiting.digest]
    assert answer(rig, decided) == final
    refuse(rig, waiting)
    assert code(answer(rig, waiting)) == "not_accepted"
