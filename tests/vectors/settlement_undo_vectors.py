"""Settlement files with voids and refunds (docs/protocol.md §12): `settlement_undo.json`.

Rows, sums and parts are written by hand. `judge` reads a file a second time, from the page alone,
and agrees with every case before anything is written. `settlement.json` stays as it was frozen.
"""

# Rows read better on one line.
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

from tests.vectors import second
from tests.vectors.settlement_vectors import (
    DAY_1,
    DAY_2,
    FIRST,
    HEADER,
    LEDGER,
    MERCHANT,
    PROGRAMME,
    SECOND,
    TILL_1,
    TILL_2,
    check_parts,
    csv,
    manifest,
    row,
    signed,
)

Json = dict[str, Any]
KINDS = {"redeem": 1, "reversal": -1, "void": -1, "refund": -1}


def till_1(kind: str, number: int, at: str, minor: int) -> str:
    return row(kind, second.receipt_no(1, number), FIRST, TILL_1, "chengguan-1", at, minor)


def till_2(kind: str, number: int, at: str, minor: int) -> str:
    return row(kind, second.receipt_no(12, number), SECOND, TILL_2, "chengguan-2", at, minor)


DAY = [
    till_1("redeem", 2, f"{DAY_1}T08:30:00.000Z", 6000),
    till_1("void", 2, f"{DAY_1}T08:35:00.000Z", -6000),
    till_1("redeem", 4, f"{DAY_1}T09:02:00.000Z", 1000),
    # A refund of number 4, in part, under a number of its own.
    till_1("refund", 5, f"{DAY_1}T11:00:00.000Z", -334),
    till_1("redeem", 6, f"{DAY_1}T12:00:00.000Z", 250),
    # The other till takes back the rest, at its own store.
    till_2("refund", 3, f"{DAY_1}T13:00:00.000Z", -666),
    till_2("redeem", 8, f"{DAY_1}T13:30:00.000Z", 40),
]
NEXT_DAY = [
    # Settled yesterday, taken back today: by a late reversal and a void that was accepted offline.
    till_1("reversal", 6, f"{DAY_2}T07:10:00.000Z", -250),
    # Only goods came back, or what the beneficiary paid: the programme is owed nothing.
    till_1("refund", 9, f"{DAY_2}T07:20:00.000Z", 0),
    till_2("void", 8, f"{DAY_2}T08:00:00.000Z", -40),
]


def judge(text: str, payload: Json) -> tuple[int, str | None] | None:
    """(line, column) at fault, or none: what the page says of kinds, amounts, order and sums.

    Line 0: no line, but the column's sums.
    """
    lines = text[:-1].split("\n")
    assert lines[0] == HEADER and text.endswith("\n")
    before: tuple[str, str, int, str] | None = None
    counts = {"redeemed": [0, 0], "reversed": [0, 0]}
    for number, line in enumerate(lines[1:], 2):
        kind, receipt, incarnation, terminal, amount = (line.split(",")[n] for n in (1, 2, 3, 4, 8))
        if kind not in KINDS:
            return number, "kind"
        minor = int(amount)
        if minor * KINDS[kind] < 0:
            # A kind that only takes back can't be what it says.
            return number, "kind" if kind in ("void", "refund") else "amount_minor"
        place = (terminal, incarnation, int(receipt.split("-")[1]), kind)
        if before is not None and place <= before:
            return number, None
        before = place
        sums = counts["redeemed" if kind == "redeem" else "reversed"]
        sums[0], sums[1] = sums[0] + 1, sums[1] + minor
    for word, (count, minor) in counts.items():
        if payload[word] != {"count": count, "amount_minor": minor}:
            return 0, "amount_minor"
    return None


def with_sums(text: str, batch_no: int, previous: str, funders: dict[str, int]) -> Json:
    """The frozen `manifest` counts reversals only; by the page `reversed` is all but redeems."""
    rows = [line.split(",") for line in text.splitlines()[1:]]
    amounts = [int(each[8]) for each in rows if each[1] != "redeem"]
    undone = {"count": len(amounts), "amount_minor": sum(amounts)}
    made = manifest(text, batch_no, previous, funders, reversed=undone)
    return {**made, "net_minor": made["redeemed"]["amount_minor"] + undone["amount_minor"]}


def batch(
    name: str, rows: list[str], batch_no: int, previous: str, funders: dict[str, int]
) -> Json:
    text = csv(rows)
    payload = with_sums(text, batch_no, previous, funders)
    assert sum(funders.values()) == payload["net_minor"], name
    assert judge(text, payload) is None, name
    jws = signed(payload)
    return {
        "name": name,
        "csv": text,
        "manifest": payload,
        "manifest_jws": jws,
        "digest": second.jws_digest(jws),
    }


def bad_files(good: Json) -> list[Json]:
    """Signed over just these bytes, so that only the file is at fault."""

    def with_row(n: int, instead: str) -> str:
        return csv([*DAY[:n], instead, *DAY[n + 1 :]])

    cases: list[tuple[str, str, int, str | None]] = [
        ("void above zero", with_row(1, till_1("void", 2, f"{DAY_1}T08:35:00.000Z", 6000)), 3, "kind"),
        ("refund above zero", with_row(3, till_1("refund", 5, f"{DAY_1}T11:00:00.000Z", 334)), 5, "kind"),
        ("redeem below zero", with_row(2, till_1("redeem", 4, f"{DAY_1}T09:02:00.000Z", -1000)), 4, "amount_minor"),
        ("unknown kind", with_row(1, till_1("voided", 2, f"{DAY_1}T08:35:00.000Z", -6000)), 3, "kind"),
        ("kind in capitals", with_row(3, till_1("REFUND", 5, f"{DAY_1}T11:00:00.000Z", -334)), 5, "kind"),
        ("void before its sale", csv([DAY[1], DAY[0], *DAY[2:]]), 3, None),
        ("void twice", csv([*DAY[:2], DAY[1], *DAY[2:]]), 4, None),
        ("refund twice", csv([*DAY[:4], DAY[3], *DAY[4:]]), 6, None),
        ("refund counted as redeemed", csv(DAY), 0, "amount_minor"),
    ]  # fmt: skip
    found: list[Json] = []
    for name, text, line, column in cases:
        payload = {
            **good["manifest"],
            "file": {
                **good["manifest"]["file"],
                "sha256": second.digest(text.encode()),
                "length": len(text.encode()),
            },
        }
        if name == "refund counted as redeemed":
            payload |= {
                "redeemed": {"count": 6, "amount_minor": 7290 - 1000},
                "reversed": {"count": 1, "amount_minor": -6000},
            }
        assert judge(text, payload) == (line, column), name
        found.append(
            {
                "name": name,
                "csv": text,
                "line": line,
                "column": column,
                "manifest_jws": signed(payload),
            }
        )
    return found


def settlement_undo_file() -> Json:
    first = batch(
        "a day with a void and refunds",
        DAY,
        1,
        second.first_previous(MERCHANT, PROGRAMME),
        {"red-cross": 193, "town": 97},
    )
    following = batch(
        "a day that only takes back", NEXT_DAY, 2, first["digest"], {"red-cross": -193, "town": -97}
    )
    check_parts(
        "the two batches",
        [
            (
                {"red-cross": 2, "town": 1},
                each["manifest"]["net_minor"],
                {f["funder"]: f["amount_minor"] for f in each["manifest"]["funders"]},
            )
            for each in (first, following)
        ],
    )
    return {
        "note": "Settlement files (section 12) with voids, under the number of the sale, and refunds, under their own: two batches with their manifests; files that are refused though signed (`line` and `column` as in settlement.json; line 0: the sums of that column).",
        "ledger": {
            "seed": LEDGER.hex(),
            "jwk": {"kty": "OKP", "crv": "Ed25519", "x": second.b64(second.public(LEDGER))},
            "kid": second.thumbprint(second.public(LEDGER)),
        },
        "batches": [first, following],
        "bad_files": bad_files(first),
    }  # fmt: skip
