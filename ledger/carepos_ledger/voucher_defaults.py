"""The `[voucher]` table of a mapping file: what every good row of the list becomes.

[voucher]
kind = "value"                            # lists of amounts are issued as value vouchers
label = "奶制品卡"                         # at most 60 characters; may be left out
categories = ["dairy"]                    # left out: the programme's whole product list
starts_at = "2026-11-01T00:00:00.000Z"    # left out: the programme's own dates
expires_at = 2027-03-01T00:00:00+08:00    # TOML's own spelling is taken too
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from carepos import clock, strict_json
from carepos.errors import Malformed
from carepos.voucher import categories

_NAMES = {"kind", "label", "categories", "starts_at", "expires_at"}


@dataclass(frozen=True, slots=True)
class VoucherDefaults:
    """Label, categories and dates of the vouchers of one list; None: the programme's dates."""

    label: str = ""
    categories: frozenset[str] = frozenset()
    starts_at: datetime | None = None
    expires_at: datetime | None = None

    def row(
        self, ref: str, amount_minor: int, *, starts_at: datetime, ends_at: datetime
    ) -> dict[str, object]:
        """The row of the bulk issue for `ref`; the programme's dates stand in for missing ones."""
        return {
            "ref": ref,
            "kind": "value",
            "label": self.label,
            "categories": sorted(self.categories),
            "starts_at": clock.to_text(self.starts_at or starts_at),
            "expires_at": clock.to_text(self.expires_at or ends_at),
            "amount_minor": amount_minor,
        }


def read_voucher_defaults(path: Path) -> VoucherDefaults:
    """From a mapping file that `column_mapping.read_mapping` took. Raises Malformed, OSError."""
    document = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    table = strict_json.names_within(
        document.get("voucher", {}), required=set(), optional=_NAMES, where="voucher"
    )
    if table.get("kind", "value") != "value":
        raise Malformed("lists of amounts are issued as value vouchers", field="voucher.kind")
    return VoucherDefaults(
        label=strict_json.text(table.get("label", ""), "voucher.label", low=0, high=60),
        categories=categories(table.get("categories", []), "voucher.categories"),
        starts_at=_instant(table.get("starts_at"), "voucher.starts_at"),
        expires_at=_instant(table.get("expires_at"), "voucher.expires_at"),
    )


def _instant(value: object, field: str) -> datetime | None:
    return None if value is None else clock.from_text(instant_text(value, field), field)


def instant_text(value: object, field: str) -> object:
    """A TOML date-time with an offset as the protocol spells it; whatever else as it is.

    Raises Malformed for one without an offset, which names no instant.
    """
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise Malformed("needs a time zone, as in 2026-11-01T00:00:00+08:00", field=field)
    return clock.to_text(value)
