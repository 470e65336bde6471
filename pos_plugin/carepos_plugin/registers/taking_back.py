"""Bodies of a void, a refund and the question before it, as registers and the page send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from carepos import Malformed, ids, strict_json
from carepos.undo import (
    REFUND_REASONS,
    VOID_REASONS,
    RefundReason,
    VoidReason,
    returned_lines,
)
from carepos_plugin.counter import Counter


def void(counter: Counter, checkout: str, body: Mapping[str, object]) -> dict[str, Any]:
    """`{"receipt_no","cashier","reason"}`, and `approved_by` where a second person was asked."""
    names = strict_json.names_within(
        body, required={"receipt_no", "cashier", "reason"}, optional={"approved_by"}, where="body"
    )
    receipt_no = strict_json.text(names["receipt_no"], "receipt_no", high=40)
    ids.parse_receipt_no(receipt_no)
    return counter.void(
        ids.label(checkout, "checkout"),
        receipt_no,
        cashier=ids.label(names["cashier"], "cashier"),
        reason=cast(VoidReason, _one_of(names["reason"], VOID_REASONS)),
        approved_by=_approved_by(names),
    )


def returnable(counter: Counter, body: Mapping[str, object]) -> dict[str, Any]:
    """`{"receipt"}`: a number or a QR, as scanned or typed."""
    names = strict_json.exact_names(body, {"receipt"}, where="body")
    return counter.returnable(_receipt(names["receipt"]))


def refund(counter: Counter, body: Mapping[str, object]) -> dict[str, Any]:
    """`{"refund","receipt","lines","cashier","reason"}`, and `approved_by` as of a void."""
    names = strict_json.names_within(
        body,
        required={"refund", "receipt", "lines", "cashier", "reason"},
        optional={"approved_by"},
        where="body",
    )
    return counter.refund(
        ids.label(names["refund"], "refund"),
        _receipt(names["receipt"]),
        returned_lines(names["lines"]),
        cashier=ids.label(names["cashier"], "cashier"),
        reason=cast(RefundReason, _one_of(names["reason"], REFUND_REASONS)),
        approved_by=_approved_by(names),
    )


def _receipt(value: object) -> str:
    return strict_json.text(value, "receipt", high=200)


def _approved_by(names: Mapping[str, object]) -> str | None:
    value = names.get("approved_by")
    return None if value is None else ids.label(value, "approved_by")


def _one_of(value: object, known: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise Malformed(f"must be one of {', '.join(known)}", field="reason")
    return value
