"""What stands in an `accept_offline` and in a `return_allotment` (docs/offline.md §1).

An acceptance lets a sale out of the door without the ledger's word. It is the second of the two
things that an attempt whose outcome is not known may become, for ever; the other is a reversal.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from carepos import ids, money, strict_json
from carepos.basket import MAX_QUANTITY
from carepos.errors import Malformed
from carepos.offline import AllotmentUse
from carepos.offline_rule import Liability, liability

MAX_USES: Final = 20

_NAMES: Final = frozenset(
    {"record_sha256", "presentment", "liability", "pack_sha256", "allotment_use"}
)


@dataclass(frozen=True, slots=True)
class AcceptOffline:
    """Content of an `accept_offline`: of which redeem record, who bears the loss, under which pack,
    and what it draws on allotments; the rest of the allocation is within floor limits."""

    record_sha256: str
    liability: Liability
    pack_sha256: str
    allotment_use: tuple[AllotmentUse, ...]
    presentment: str = "offline"

    def to_json(self) -> dict[str, object]:
        return {
            "record_sha256": self.record_sha256,
            "presentment": self.presentment,
            "liability": self.liability,
            "pack_sha256": self.pack_sha256,
            "allotment_use": [use.to_json() for use in self.allotment_use],
        }

    @classmethod
    def from_json(cls, value: object) -> AcceptOffline:
        """Raises Malformed; its code is unsupported_kind for a content with other names."""
        if isinstance(value, dict) and value.keys() != _NAMES:
            raise Malformed("not of a version known here", field="content", code="unsupported_kind")
        names = strict_json.exact_names(value, _NAMES, where="content")
        if names["presentment"] != "offline":
            raise Malformed("must be offline", field="content.presentment")
        where = "content.allotment_use"
        uses = tuple(
            _use(each, f"{where}[{n}]")
            for n, each in enumerate(
                strict_json.array(names["allotment_use"], where, high=MAX_USES), 1
            )
        )
        if any((a.voucher, a.allotment) >= (b.voucher, b.allotment) for a, b in pairwise(uses)):
            raise Malformed("must be sorted, none twice", field=where)
        return cls(
            ids.digest_text(names["record_sha256"], "content.record_sha256"),
            liability(names["liability"], "content.liability"),
            ids.digest_text(names["pack_sha256"], "content.pack_sha256"),
            uses,
        )


def _use(value: object, where: str) -> AllotmentUse:
    names = strict_json.exact_names(
        value, {"voucher", "allotment", "amount_minor", "quantity"}, where=where
    )
    use = AllotmentUse(
        ids.reference(names["voucher"], f"{where}.voucher"),
        strict_json.integer(names["allotment"], f"{where}.allotment", low=1),
        strict_json.integer(
            names["amount_minor"], f"{where}.amount_minor", high=money.MAX_AMOUNT_MINOR
        ),
        strict_json.integer(names["quantity"], f"{where}.quantity", high=MAX_QUANTITY),
    )
    if use.amount_minor == 0 and use.quantity == 0:
        raise Malformed("draws nothing", field=where)
    return use


@dataclass(frozen=True, slots=True)
class ReturnAllotment:
    """Content of a `return_allotment`: what is left of these (voucher, number) is given back."""

    allotments: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, object]:
        return {
            "allotments": [
                {"voucher": voucher, "allotment": number} for voucher, number in self.allotments
            ]
        }

    def meaning(self) -> dict[str, object]:
        """What a content digest is taken of, beside kind and terminal (INV-1)."""
        return self.to_json()

    @classmethod
    def from_json(cls, value: object) -> ReturnAllotment:
        """Raises Malformed; its code is unsupported_kind for a content with other names."""
        if isinstance(value, dict) and value.keys() != {"allotments"}:
            raise Malformed("not of a version known here", field="content", code="unsupported_kind")
        names = strict_json.exact_names(value, {"allotments"}, where="content")
        where = "content.allotments"
        found = []
        for n, each in enumerate(
            strict_json.array(names["allotments"], where, low=1, high=MAX_USES), 1
        ):
            told = strict_json.exact_names(each, {"voucher", "allotment"}, where=f"{where}[{n}]")
            found.append(
                (
                    ids.reference(told["voucher"], f"{where}[{n}].voucher"),
                    strict_json.integer(told["allotment"], f"{where}[{n}].allotment", low=1),
                )
            )
        if any(a >= b for a, b in pairwise(found)):
            raise Malformed("must be sorted, none twice", field=where)
        return cls(tuple(found))
