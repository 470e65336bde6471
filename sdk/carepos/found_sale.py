"""The ledger's signed answer about a sale of any till of the merchant (docs/offline.md §3).

A till refunds what another one sold: it learns of the sale by the number on the receipt. The record
is that till's, whose keys are not known here; the ledger signs its digest and so vouches for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from carepos import clock, ids, jws, record, strict_json
from carepos.errors import Malformed
from carepos.keys import Keys
from carepos.lookup import MAX_VOUCHERS
from carepos.record import Record
from carepos.undo import Original, Sold, returned_lines
from carepos.voucher import Terms


@dataclass(frozen=True, slots=True)
class FoundSale:
    """One booked sale as the ledger holds it: the `redeem` record that made it, and as an undo
    looks at it. `terms` and `labels` are of its vouchers, by id; no terms: a value voucher."""

    record: Record
    sold: Sold
    terms: Mapping[str, Terms | None]
    labels: Mapping[str, str]

    @property
    def original(self) -> Original:
        """What a void or refund of it names."""
        return Original(self.record.terminal, self.record.id, self.record.digest)

    @property
    def programme(self) -> str:
        """The programme whose rules a refund is judged by."""
        return self.record.redeem.programme


def read(
    answer: object, sale_record: object, *, request: str, terminal: str, keys: Keys
) -> FoundSale:
    """The verified answer (`sale` and `record` of it) to the read `request` of `terminal`.

    `keys`: the ledger's. Raises Malformed or SignatureInvalid for anything else: nothing is known.
    """
    signed = jws.verify(answer, typ=jws.SALE, keys=keys)
    names = strict_json.exact_names(
        signed.payload,
        {
            "v", "request", "terminal", "original", "record_sha256", "recorded_at", "refunded",
            "undone", "vouchers",
        },
        where="sale",
    )  # fmt: skip
    if strict_json.integer(names["v"], "sale.v") != 1:
        raise Malformed("must be 1", field="sale.v")
    if (names["request"], names["terminal"]) != (request, terminal):
        raise Malformed("answers another question", field="sale")
    found = record.vouched_for(
        sale_record, sha256=ids.digest_text(names["record_sha256"], "sale.record_sha256")
    )
    original = {"terminal": found.terminal, "id": found.id}
    if found.kind != "redeem" or names["original"] != original:
        raise Malformed("is not the record of the sale", field="sale.original")
    redeem = found.redeem
    refunded = {}
    if names["refunded"] != []:
        lines = returned_lines(names["refunded"], "sale.refunded")
        refunded = {line.line: line.quantity for line in lines}
    for line, quantity in refunded.items():
        if line > len(redeem.basket) or quantity > redeem.basket[line - 1].quantity:
            raise Malformed("more than was sold", field="sale.refunded")
    terms, labels = _vouchers(names["vouchers"])
    if terms.keys() != {entry.voucher for entry in redeem.allocation}:
        raise Malformed("must be those of the sale", field="sale.vouchers")
    sold = Sold(
        redeem.basket,
        redeem.allocation,
        redeem.currency,
        found.occurred_at,
        clock.from_text(names["recorded_at"], "sale.recorded_at"),
        undone=strict_json.boolean(names["undone"], "sale.undone"),
        refunded=refunded,
    )
    return FoundSale(found, sold, terms, labels)


def _vouchers(value: object) -> tuple[dict[str, Terms | None], dict[str, str]]:
    terms: dict[str, Terms | None] = {}
    labels: dict[str, str] = {}
    for n, each in enumerate(strict_json.array(value, "sale.vouchers", high=MAX_VOUCHERS), 1):
        where = f"sale.vouchers[{n}]"
        names = strict_json.exact_names(each, {"voucher", "label", "terms"}, where=where)
        voucher = ids.reference(names["voucher"], f"{where}.voucher")
        if voucher in terms:
            raise Malformed("stands twice", field=where)
        terms[voucher] = (
            None if names["terms"] is None else Terms.from_json(names["terms"], f"{where}.terms")
        )
        labels[voucher] = strict_json.text(names["label"], f"{where}.label", low=0, high=60)
    return terms, labels
