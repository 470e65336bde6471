"""What has served its purpose goes, and nothing else: docs/privacy.md, the table of retention."""

from __future__ import annotations

from datetime import timedelta

import pytest

from carepos import clock, pin
from carepos.errors import Malformed
from carepos.ids import BUCKETS
from carepos.keys import digest
from carepos_ledger import retention, schema
from carepos_ledger.cards import Cards
from carepos_ledger.disputes import Disputes
from carepos_ledger.problems import Problem
from carepos_ledger.retention import STEP_BUCKETS, Retention
from carepos_ledger.revoking import Revoking
from carepos_ledger.settlement import Settlement
from tests.ledger.rig import IMPORT_KEY_ID, ISSUER, PROGRAMME, RULES, Rig, code
from tests.ledger.test_erasure import on_their_pages

DISPUTE_DAYS = 100


def retain(rig: Rig, *, dry_run: bool = False) -> dict[str, int]:
    """A whole run, step by step as the command does it."""
    steps, found = Retention(rig.database, rig.now, DISPUTE_DAYS), dict[str, int]()
    bucket: int | None = 0
    while bucket is not None:
        step = steps.step(bucket, dry_run=dry_run)
        for name, count in step.tables.items():
            found[name] = found.get(name, 0) + count
        bucket = step.next_bucket
    return {name: count for name, count in found.items() if count}


def test_every_slice_comes_once(rig: Rig) -> None:
    """4096 buckets in steps; each names where to go on, the last does not."""
    steps = Retention(rig.database, rig.now, DISPUTE_DAYS)
    assert steps.step(0).next_bucket == STEP_BUCKETS
    assert steps.step(BUCKETS - 1).next_bucket is None
    for wrong in (-1, BUCKETS, True, "0"):
        with pytest.raises(Malformed):
            steps.step(wrong)  # type: ignore[arg-type]


def test_counting_deletes_nothing(rig: Rig) -> None:
    """A dry run says what a run then does."""
    till, holder = rig.signer(), rig.holder()
    rig.send_one(rig.redeem(till, holder, 100))
    rig.now.forward(days=1_000)
    before = rig.tables()
    due = retain(rig, dry_run=True)
    assert rig.tables() == before
    gone = retain(rig)
    # With the people go the rows that only say who they were.
    assert gone == {**due, "enrolments": 1}
    assert retain(rig) == {}


def test_a_visit_is_kept_as_long_as_a_code_could_come_again(rig: Rig) -> None:
    """Two days, then the mark is deleted; a code that old is expired anyway."""
    till, holder = rig.signer(), rig.holder()
    text = rig.token(holder)
    rig.send_one(rig.redeem(till, holder, 100, token_text=text))
    Cards(rig.database, rig.now).put(
        ISSUER, digest(b"card"), holder.sub, pin.verifier(digest(b"proof"))
    )
    with rig.database.write() as connection:
        connection.execute(
            schema.pin_visits.insert().values(
                bucket=holder.bucket, iss=ISSUER, jti_sha256=digest(b"card"),
                terminal=till.terminal, proved_at=clock.to_text(rig.now()),
            )
        )  # fmt: skip
    rig.now.at += retention.VISITS_KEPT
    assert retain(rig) == {}
    rig.now.forward(seconds=1)
    assert retain(rig) == {"visits": 1, "pin_visits": 1}
    assert code(rig.send_one(rig.redeem(till, holder, 100, token_text=text))) == "token_expired"


def test_what_the_pages_leave_goes_in_its_time(rig: Rig) -> None:
    """A session after two days, an answered dispute after the dispute period, an open one never;
    what somebody saw last stays as long as they do."""
    answered, waiting = rig.holder(), rig.holder()
    on_their_pages(rig, answered, answered_at=clock.to_text(rig.now()))
    with rig.database.write() as connection:
        connection.execute(
            schema.disputes.insert().values(
                bucket=waiting.bucket, beneficiary=waiting.beneficiary, posting="q",
                reason="no_goods", state="open", opened_at=clock.to_text(rig.now()),
            )
        )  # fmt: skip
    rig.now.at += retention.VISITS_KEPT
    assert retain(rig) == {}
    rig.now.forward(seconds=1)
    assert retain(rig) == {"holder_sessions": 1}
    rig.now.forward(days=DISPUTE_DAYS)
    assert retain(rig)["disputes"] == 1
    assert [row["reason"] for row in rig.tables(["disputes"])["disputes"]] == ["no_goods"]
    assert rig.counts()["holder_marks"] == 1


def test_signed_bytes_wait_until_the_shop_was_paid(rig: Rig) -> None:
    """The dispute period of a sale begins with its payment; unpaid sales keep their bytes."""
    till, holder = rig.signer(), rig.holder()
    paid = rig.redeem(till, holder, 100)
    first = rig.send_one(paid)
    settlement = Settlement(rig.database, rig.keyring, rig.now)
    rig.now.forward(days=1)
    settlement.close(None, None)
    unpaid, refused = rig.redeem(till, holder, 200), rig.redeem(till, holder, 999_999)
    second, third = rig.send_one(unpaid), rig.send_one(refused)
    rig.now.forward(days=DISPUTE_DAYS, seconds=1)
    assert retain(rig)["record_bytes"] == 2  # the paid one and the refused one
    [left] = rig.tables(["record_bytes"])["record_bytes"]
    assert left["digest"] == rig.read(unpaid).digest
    for envelope, answer in ((paid, first), (unpaid, second), (refused, third)):
        assert rig.send_one(envelope).jws == answer.jws
    settlement.close(None, None)
    assert "record_bytes" not in retain(rig)
    rig.now.forward(days=DISPUTE_DAYS, seconds=1)
    assert retain(rig)["record_bytes"] == 1
    assert rig.differences() == ()


def test_signed_bytes_stay_while_somebody_looks_into_them(rig: Rig) -> None:
    """A dispute keeps the record that it is about, until it is answered and over itself."""
    till, holder = rig.signer(), rig.holder()
    sale = rig.redeem(till, holder, 100)
    rig.send_one(sale)
    posting = rig.read(sale).digest
    Settlement(rig.database, rig.keyring, rig.now).close(None, None)
    disputes = Disputes(rig.database, rig.now)
    rig.now.forward(days=DISPUTE_DAYS)
    assert disputes.open(holder.bucket, holder.beneficiary, posting, "not_me") == "created"
    rig.now.forward(seconds=1)
    assert "record_bytes" not in retain(rig)
    [n] = [row["dispute"] for row in disputes.listed()]
    disputes.answer(n, "upheld", "你说得对。", operator="office")
    rig.now.forward(days=DISPUTE_DAYS)
    assert "record_bytes" not in retain(rig)
    rig.now.forward(seconds=1)
    assert retain(rig) == {"disputes": 1, "record_bytes": 1}


def test_people_are_kept_while_anything_of_theirs_runs(rig: Rig) -> None:
    """Who holds a voucher of a running programme stays, whatever else is over; the lists of the
    one that is over are forgotten, and it issues nothing more."""
    rig.programmes.put_programme(
        {**RULES, "programme": "winter", "ends_at": "2030-01-01T00:00:00.000Z"}
    )
    rig.office.fund("winter", "red-cross", 50_000, "grant-9")
    row = rig.row({})
    [one] = rig.office.issue(PROGRAMME, IMPORT_KEY_ID, [row])
    [two] = rig.office.issue("winter", IMPORT_KEY_ID, [row])
    other = rig.holder()
    assert one.sub == two.sub
    rig.now.at = clock.from_text(RULES["ends_at"]) + timedelta(days=DISPUTE_DAYS)
    assert retain(rig) == {}
    rig.now.forward(seconds=1)
    assert retain(rig) == {"issues": 2, "beneficiaries": 1, "enrolments": 1}
    [left] = rig.tables(["beneficiaries"])["beneficiaries"]
    assert left["sub"] == one.sub != other.sub
    with pytest.raises(Problem) as caught:
        rig.office.issue(PROGRAMME, IMPORT_KEY_ID, [row])
    assert caught.value.code == "list_forgotten"
    assert rig.office.issue("winter", IMPORT_KEY_ID, [row])[0].result == "already_issued"
    assert rig.differences() == ()


def test_codes_and_withdrawn_tokens_go_when_they_mean_nothing_more(rig: Rig) -> None:
    """Activation codes a month after they expired, withdrawn tokens at their `exp`; keys stay."""
    till = rig.signer()
    revoking = Revoking(rig.database, rig.now)
    until = rig.now() + timedelta(days=5)
    revoking.token(ISSUER, digest(b"token"), reason="lost", until=until)
    revoking.token(ISSUER, digest(b"for ever"), reason="lost")
    revoking.key(ISSUER, "kid-1", reason="stolen")
    rig.now.at = until
    assert retain(rig, dry_run=True)["revocations"] == 1
    assert retain(rig) == {"revocations": 1}
    assert len(revoking.all()) == 2
    rig.now.forward(days=31)
    assert retain(rig) == {"activations": 1}
    assert code(rig.send_one(till.start())) == "posted"


def test_many_rows_go_in_small_transactions(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over a full table never holds more than a bounded number of rows at once."""
    monkeypatch.setattr(retention, "MAX_ROWS", 7)
    rows = [
        {
            "bucket": n % 3, "iss": ISSUER, "jti_sha256": digest(str(n).encode()),
            "terminal": "t-1", "first_at": clock.to_text(rig.now()),
        }
        for n in range(50)
    ]  # fmt: skip
    with rig.database.write() as connection:
        connection.execute(schema.visits.insert(), rows)
    rig.now.forward(days=3)
    assert retain(rig) == {"visits": 50}
