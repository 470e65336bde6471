"""From an outcome to the slip: it prints the ledger's word, and never stands in the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from carepos import receipt, slip
from carepos.errors import Malformed
from carepos.outcome import VoucherState
from carepos.slip import Paper
from tests.receipt_samples import sample_receipt
from tests.sdk.test_reconcile import a_shop

MONEY = receipt.VoucherBalance("dairy", 12_000, 5_510)
TINS = receipt.VoucherBalance("formula", 4, 3, "piece")


def printed(tmp_path: Path, *vouchers: VoucherState) -> list[tuple[int, int]]:
    """Before and after of a slip drafted with a money and a tin voucher, once the ledger answered
    with `vouchers`."""
    with a_shop(tmp_path) as shop:
        sale = shop.sell(6_000)
        posted = replace(shop.answer(sale, "posted"), vouchers=vouchers)
    drafted = receipt.to_json_object(replace(sample_receipt(), balances=(MONEY, TINS)))
    made = receipt.from_json_object(slip.with_outcome(drafted, posted))
    return [(each.before, each.after) for each in made.balances]


def test_the_ledgers_balances_are_printed(tmp_path: Path) -> None:
    """Before and after are what the ledger stated, money and quantities each in their own unit."""
    money = VoucherState("A" * 22, 500, 0, None, 700, 0)
    tins = VoucherState("B" * 22, 8_000, 2, "piece", 0, 5)
    assert printed(tmp_path, tins, money) == [(1_200, 700), (7, 5)]


@pytest.mark.parametrize(
    "vouchers",
    [
        (),
        (VoucherState("A" * 22, 500, 0, None, 700, 0),),
        # Tins where the slip has money, and money where it has tins.
        (
            VoucherState("A" * 22, 8_000, 2, "piece", 0, 5),
            VoucherState("B" * 22, 500, 0, None, 700, 0),
        ),
    ],
)
def test_an_answer_about_other_vouchers_leaves_the_draft(
    tmp_path: Path, vouchers: tuple[VoucherState, ...]
) -> None:
    """The sale is posted all the same; tins are never printed as money, nor money as tins."""
    assert printed(tmp_path, *vouchers) == [(12_000, 5_510), (4, 3)]


@pytest.mark.parametrize("wrong", [{"zone": "Mars/Olympus"}, {"zone": "../x"}, {"language": "fr"}])
def test_paper_that_no_slip_could_be_made_for_is_refused(wrong: dict[str, Any]) -> None:
    """A zone or language that isn't there is told when the till is opened, not at the counter."""
    with pytest.raises(Malformed) as refused:
        Paper(**wrong)
    assert refused.value.field == next(iter(wrong))
