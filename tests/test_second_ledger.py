"""The second reading of docs/protocol.md agrees with every vector that the page points to."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.second_rules import ORDER, Situation, check, check_record, content_digest
from tests.second_signing import (
    Bad,
    Json,
    PublicKey,
    bucket_of,
    canonical,
    read,
    receipt_no,
    split,
    strict_json,
    unread,
)

VECTORS = Path(__file__).with_name("vectors")


def vectors(name: str) -> Json:
    found: Json = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return found


def named(file: str, *lists: str) -> list[Any]:
    """Every case of some lists of a vector file, each under its name."""
    whole = vectors(file)
    return [pytest.param(case, id=case["name"]) for name in lists for case in whole[name]]


@pytest.mark.parametrize("case", named("json", "cases"))
def test_strict_json(case: Json) -> None:
    """Section 1: what is read, and what is refused."""
    data = case["text"].encode() if "text" in case else base64.b64decode(case["base64"])
    if "refused" in case:
        with pytest.raises(Bad):
            strict_json(data)
    else:
        assert canonical(strict_json(data)).decode() == case["canonical"]


@pytest.mark.parametrize("case", named("jws", "cases"))
def test_signed_things(case: Json) -> None:
    """Section 2: the payload and the digest, or the code."""
    whole = vectors("jws")
    keys = [PublicKey.of(each["jwk"]) for each in whole["keys"]]
    if "refused" in case:
        with pytest.raises(Bad) as bad:
            read(case["jws"], whole["typ"], keys)
        assert bad.value.code == case["refused"]
    else:
        assert read(case["jws"], whole["typ"], keys) == case["payload"]
        assert unread(case["jws"], whole["typ"]).digest == case["digest"]


def test_ids_and_numbers() -> None:
    """Sections 3, 7 and 13: buckets, receipt numbers, largest remainder."""
    for case in vectors("ids")["terminal_buckets"]:
        assert bucket_of(case["terminal"]) == case["bucket"]
    for case in vectors("ids")["receipt_numbers"]:
        assert receipt_no(case["terminal_no"], case["sequence"]) == case["receipt_no"]
    for case in vectors("split")["cases"]:
        if "parts" in case:
            assert split(case["amount"], case["weights"]) == case["parts"]


@pytest.mark.parametrize("case", named("records", "malformed", "good"))
def test_records(case: Json) -> None:
    """Section 4: the shape of a record, and the code of one that has another."""
    if "code" not in case:
        check_record(strict_json(case["payload"].encode()))
        return
    with pytest.raises(Bad) as bad:
        check_record(strict_json(case["payload"].encode()))
    assert bad.value.code == case["code"]


def test_content_digests() -> None:
    """Section 4: the digest tells whether two records mean the same redemption."""
    whole = vectors("records")
    (sale,) = (each["record"] for each in whole["chain"] if each["record"]["kind"] == "redeem")
    same = {
        case["name"]: case["content_sha256"] == content_digest(sale) for case in whole["contents"]
    }
    assert same == {case["name"]: case["same"] for case in whole["contents"]}


@pytest.mark.parametrize("case", named("refusals", "checks", "both"))
def test_check(case: Json) -> None:
    """Sections 6 and 7: the first refusal of the list, or none."""
    refusal = check(situation(case["situation"]), case["situation"]["lines"], case["allocation"])
    assert (refusal and refusal.code) == case["code"]


@pytest.mark.parametrize("case", named("allocations", "cases"))
def test_what_propose_offers_check_accepts(case: Json) -> None:
    """Section 7's promise, by a second reading of it."""
    told = case["situation"]
    assert not case["entries"] or check(situation(told), told["lines"], case["entries"]) is None


def test_the_order_of_refusals() -> None:
    """Section 6's list, into which later versions put codes."""
    codes = [each["code"] for each in vectors("refusals")["order"]]
    assert [code for code in codes if code in ORDER] == [code for code in ORDER if code in codes]


def situation(told: Json) -> Situation:
    return Situation(
        told["at"],
        told["store"],
        told["programme"],
        told["product_list"]["entries"],
        {voucher["voucher"]: voucher for voucher in told["vouchers"]},
        frozenset(each["voucher"] for each in told.get("others", [])),
        told.get("reserved_elsewhere"),
    )
