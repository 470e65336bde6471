"""Disputes and stops from the operators' side, and by whoever would misuse them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import select

from carepos import clock
from carepos.errors import Malformed
from carepos_ledger import schema
from carepos_ledger.commands import DONE, FAILED, NO
from carepos_ledger.disputes import ANSWERS, REASONS, Disputes
from carepos_ledger.holder_account import HolderAccounts
from carepos_ledger.problems import Problem
from carepos_ledger.voucher_stops import VoucherStops
from tests.ledger.rig import PROGRAMME, Holder, Rig, code
from tests.ledger.test_commands import Said, carepos
from tests.ledger.test_holder_pages import buy, dispute, operator, signed_in
from tests.world import World, world


def posting_of(rig: Rig, holder: Holder) -> str:
    [use] = HolderAccounts(rig.database, rig.now).read(holder.bucket, holder.beneficiary).uses
    return use.posting


def test_only_the_holder_of_a_voucher_disputes_its_use(rig: Rig) -> None:
    """Somebody else, also of the same bucket, another kind of posting, an odd name: not found, and
    nothing is written."""
    holder = rig.holder(bucket=7)
    other = rig.holder(bucket=7)
    rig.send_one(rig.redeem(rig.signer(), holder, 100))
    posting, disputes = posting_of(rig, holder), Disputes(rig.database, rig.now)
    with rig.database.read() as connection:
        issued = connection.scalars(
            select(schema.postings.c.posting).where(schema.postings.c.kind == "issue")
        ).all()
    for bucket, who, what in (
        (7, other.beneficiary, posting), (8, holder.beneficiary, posting),
        *((7, holder.beneficiary, each) for each in (*issued, "", "x")),
    ):  # fmt: skip
        with pytest.raises(Problem) as caught:
            disputes.open(bucket, who, what, "not_me")
        assert caught.value.code == "not_found"
    for odd in ("", "because", "NOT_ME", "not_me "):
        with pytest.raises(Malformed):
            disputes.open(7, holder.beneficiary, posting, odd)
    assert not {"disputes", "alarms"} & rig.counts().keys()
    assert disputes.open(7, holder.beneficiary, posting, "not_me") == "created"
    for reason in REASONS:
        assert disputes.open(7, holder.beneficiary, posting, reason) == "exists"
    [kept] = disputes.listed()
    assert (kept["reason"], kept["state"]) == ("not_me", "open")


def test_a_use_that_is_reversed_later_keeps_its_dispute(rig: Rig) -> None:
    """And says so to the operator; one that was reversed before is no case for a dispute."""
    till, holder = rig.signer(), rig.holder()
    disputes = Disputes(rig.database, rig.now)
    sale = rig.redeem(till, holder, 100)
    rig.send_one(sale)
    posting = posting_of(rig, holder)
    disputes.open(holder.bucket, holder.beneficiary, posting, "no_goods")
    assert disputes.listed()[0]["reversed"] is False
    rig.send_one(till.reversal(rig.read(sale)))
    assert disputes.listed()[0]["reversed"] is True
    assert disputes.open(holder.bucket, holder.beneficiary, posting, "not_me") == "exists"
    other = rig.holder()
    undone = rig.redeem(till, other, 100)
    rig.send_one(undone)
    rig.send_one(till.reversal(rig.read(undone)))
    with pytest.raises(Problem):
        disputes.open(other.bucket, other.beneficiary, posting_of(rig, other), "not_me")


def test_an_answer_is_final(rig: Rig) -> None:
    """Said again it stands; said otherwise it is refused; odd ones change nothing."""
    holder = rig.holder()
    rig.send_one(rig.redeem(rig.signer(), holder, 100))
    disputes = Disputes(rig.database, rig.now)
    disputes.open(holder.bucket, holder.beneficiary, posting_of(rig, holder), "not_me")
    [n] = [each["dispute"] for each in disputes.listed()]
    for state, sentence in (("open", "x"), ("", "x"), ("upheld", ""), ("upheld", "   "),
                            ("upheld", "x" * 201), ("upheld", "a\nb"), (None, "x"), ("upheld", 7),
                            (["upheld"], "x")):  # fmt: skip
        with pytest.raises(Malformed):
            disputes.answer(n, state, sentence, operator="o")  # type: ignore[arg-type]  # odd
    with pytest.raises(Problem) as caught:
        disputes.answer(n + 1, "upheld", "x", operator="o")
    assert caught.value.code == "not_found" and disputes.listed()[0]["state"] == "open"
    rig.now.forward(minutes=2)
    assert disputes.answer(n, "rejected", "查无异常", operator="office") == "changed"
    assert disputes.answer(n, "rejected", "查无异常", operator="else") == "exists"
    for state in ANSWERS:
        with pytest.raises(Problem) as caught:
            disputes.answer(n, state, "另一句", operator="office")
        assert caught.value.code == "already_exists_differently"
    [kept] = rig.tables(["disputes"])["disputes"]
    assert (kept["answered_by"], kept["answered_at"]) == ("office", "2026-11-22T08:02:00.000Z")


def test_a_stop_and_a_sale_at_once(rig: Rig) -> None:
    """Whichever is first: a sale after the stop is refused, and the stop is never lost."""
    till, holder = rig.signer(), rig.holder()
    stops = VoucherStops(rig.database, rig.now)
    assert stops.stop(holder.bucket, holder.beneficiary, holder.voucher) == "changed"
    assert code(rig.send_one(rig.redeem(till, holder, 100))) == "voucher_frozen"
    assert stops.stop(holder.bucket, holder.beneficiary, holder.voucher) == "exists"
    other = rig.holder(bucket=holder.bucket)
    with pytest.raises(Problem) as caught:
        stops.stop(other.bucket, other.beneficiary, holder.voucher)
    assert caught.value.code == "not_found"
    [kept] = stops.listed()
    assert kept["voucher"] == holder.voucher and len(rig.tables()["alarms"]) == 1


def test_what_an_operator_frees_was_stopped_by_nobody(rig: Rig) -> None:
    """Where the office freezes it later for reasons of its own, it is not said to be the holder's
    doing."""
    holder, stops = rig.holder(), VoucherStops(rig.database, rig.now)
    mine = holder.bucket, holder.beneficiary
    assert stops.stop(*mine, holder.voucher) == "changed"
    for frozen in (False, True):
        rig.office.freeze(PROGRAMME, frozen=frozen, voucher=holder.voucher)
        assert stops.listed() == []
        [held] = HolderAccounts(rig.database, rig.now).read(*mine).vouchers
        assert held.stopped_at is None
    rig.office.freeze(PROGRAMME, frozen=False, voucher=holder.voucher)
    rig.now.forward(minutes=1)
    assert stops.stop(*mine, holder.voucher) == "changed"
    assert [each["stopped_at"] for each in stops.listed()] == [clock.to_text(rig.now())]


@pytest.fixture
def disputed(tmp_path: Path) -> Iterator[tuple[World, Path]]:
    """A ledger with one dispute and one stopped voucher, and an operator's folder."""
    with world(tmp_path) as made:
        family = made.family()
        buy(made, family)
        browser = signed_in(made, family)
        dispute(browser, browser.mine().use_links[0], "wrong_amount")
        browser.submit(browser.get(browser.mine().links["Stop this voucher"]), "/stop")
        folder = tmp_path / "office"
        folder.mkdir()
        secret = str(operator(made).headers["Authorization"]).removeprefix("Bearer ")
        (folder / "operator.secret").write_text(secret, "ascii")
        yield made, folder


def test_operators_answer_from_the_shell(disputed: tuple[World, Path], capsys: Said) -> None:
    """List, answer, list again; the exit code says whether something waits."""
    made, folder = disputed

    def run(*words: str) -> int:
        return carepos(*words, "--folder", folder, "--url", made.url)

    assert run("alarms") == NO
    assert {"disputed", "voucher_stopped"} <= set(re.split(r"[ │]+", capsys.readouterr().out))
    assert run("disputes") == NO
    said = capsys.readouterr().out
    assert "wrong_amount" in said and "0001-000002-1" in said and "64.90" in said
    for wrong in (("--answer", "1"), ("--answer", "1", "--upheld"), ("--say", "x"), ("--upheld",)):
        assert run("disputes", *wrong) == FAILED
    assert "needs --upheld or --rejected" in capsys.readouterr().err
    assert run("disputes", "--answer", "2", "--upheld", "--say", "x") == NO
    assert run("disputes", "--answer", "1", "--rejected", "--say", "已核对小票，金额一致。") == DONE
    assert run("disputes", "--answer", "1", "--upheld", "--say", "x") == NO
    capsys.readouterr()
    assert run("disputes") == DONE
    assert "No open dispute" in capsys.readouterr().out
    assert run("disputes", "--all") == DONE
    assert "rejected" in capsys.readouterr().out
    assert run("stops") == NO
    voucher = re.findall(r"[A-Za-z0-9_-]{22}", capsys.readouterr().out)[0]
    assert run("freeze", "flood-dairy", "--voucher", voucher, "--thaw") == DONE
    assert run("stops") == DONE


def test_odd_calls_change_nothing(disputed: tuple[World, Path]) -> None:
    """Credentials first, then strict bodies and addresses: a coded 4xx to each."""
    made, _ = disputed
    http = operator(made)
    base = f"{made.url}/v1/operators"
    good = {"state": "upheld", "sentence": "x"}

    def kept() -> Any:
        with made.ledger.database.read() as connection:
            return connection.execute(select(schema.disputes)).all()

    before = kept()
    for path in ("/uses", "/disputes", "/stops"):
        assert requests.get(base + path, timeout=10).status_code == 401
        assert http.get(f"{base}{path}?odd=1", timeout=10).json()["code"] == "malformed"
        assert http.get(base + path, data="{}", timeout=10).json()["code"] == "malformed"
    assert requests.put(f"{base}/disputes/1", json=good, timeout=10).status_code == 401
    odd_bodies: list[Any] = [
        {},
        {**good, "more": 1},
        {"state": "upheld"},
        {**good, "state": None},
        [],
        "x",
    ]
    for body in odd_bodies:
        assert http.put(f"{base}/disputes/1", json=body, timeout=10).json()["code"] == "malformed"
    for odd in ("0", "-1", "x", "01", "2147483648", "9" * 30):
        found = http.put(f"{base}/disputes/{odd}", json=good, timeout=10)
        assert (odd, found.json()["code"]) == (odd, "malformed")
    assert http.put(f"{base}/disputes/2", json=good, timeout=10).status_code == 404
    assert http.put(f"{base}/disputes/1?a=1", json=good, timeout=10).status_code == 400
    assert http.put(f"{base}/disputes/1", data=b"x", timeout=10).status_code == 415
    assert kept() == before
