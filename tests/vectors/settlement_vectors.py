"""The settlement vectors (docs/protocol.md §12): `settlement_file()` is one file of `build.FILES`.

Rows, sums and parts are written by hand; `second` signs, and a second implementation of the
funders' parts, in fractions, agrees with them before anything is written.
"""

# Rows read better on one line.
# ruff: noqa: E501

from __future__ import annotations

import hashlib
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tests.vectors import second

Json = dict[str, Any]
MANIFEST = "carepos-manifest+jws"
MERCHANT, PROGRAMME, CURRENCY = "chengguan-mart", "flood-dairy", "CNY"
HEADER = "line_no,kind,receipt_no,incarnation,terminal,store,occurred_at,recorded_at,amount_minor,currency"
FIRST, SECOND = "0b5c9d2e7f8041a3b6c5d4e3f2a19080", "f1e2d3c4b5a6978877665544332211aa"
LEDGER = hashlib.sha256(b"carepos test vectors|ledger").digest()
DAY_1, DAY_2 = "2026-11-22", "2026-11-23"


def row(kind: str, number: str, of: str, till: str, store: str, at: str, minor: int) -> str:
    """All of a row but its line number; the ledger's clock is 1.250 s after the till's."""
    booked = f"{at[:-4]}{int(at[-4:-1]) + 250:03}Z".replace(":00.", ":01.")
    return f"{kind},{number},{of},{till},{store},{at},{booked},{minor},{CURRENCY}"


def csv(rows: list[str]) -> str:
    return "\n".join([HEADER, *(f"{n},{each}" for n, each in enumerate(rows, 1))]) + "\n"


def manifest(
    text: str, batch_no: int, previous: str, funders: dict[str, int], **other: Any
) -> Json:
    """By the page: sums are taken from the rows, so a hand-written sum can't hide a slip."""
    rows = [line.split(",") for line in text.splitlines()[1:]]
    amounts = {
        kind: [int(each[8]) for each in rows if each[1] == kind] for kind in ("redeem", "reversal")
    }
    redeemed, reversed_ = (
        {"count": len(amounts[kind]), "amount_minor": sum(amounts[kind])} for kind in amounts
    )
    return {
        "v": 1,
        "kind": "settlement",
        "merchant": MERCHANT,
        "programme": PROGRAMME,
        "currency": CURRENCY,
        "batch_no": batch_no,
        "closed_at": f"{DAY_1 if batch_no == 1 else DAY_2}T14:00:00.000Z",
        "epoch": 1,
        "file": {
            "name": f"settlement-{MERCHANT}-{PROGRAMME}-{batch_no:06d}.csv",
            "sha256": second.digest(text.encode()),
            "length": len(text.encode()),
            "rows": len(rows),
        },
        "redeemed": redeemed,
        "reversed": reversed_,
        "net_minor": sum(amounts["redeem"]) + sum(amounts["reversal"]),
        "funders": [{"funder": name, "amount_minor": part} for name, part in funders.items()],
        "previous": previous,
        **other,
    }


def signed(payload: Json) -> str:
    return second.sign(second.jcs(payload), MANIFEST, LEDGER)


def batch(
    name: str, rows: list[str], batch_no: int, previous: str, funders: dict[str, int]
) -> Json:
    text = csv(rows)
    payload = manifest(text, batch_no, previous, funders)
    assert sum(funders.values()) == payload["net_minor"], name
    jws = signed(payload)
    return {
        "name": name,
        "csv": text,
        "manifest": payload,
        "manifest_jws": jws,
        "digest": second.jws_digest(jws),
    }


TILL_1, TILL_2 = "t-4f1c2a9b", "t-a01b22c3"
DAY = [
    row(
        "redeem",
        second.receipt_no(1, 2),
        FIRST,
        TILL_1,
        "chengguan-1",
        f"{DAY_1}T08:30:00.000Z",
        6000,
    ),
    row(
        "redeem", second.receipt_no(1, 3), FIRST, TILL_1, "chengguan-1", f"{DAY_1}T08:41:00.000Z", 1
    ),
    row(
        "redeem",
        second.receipt_no(1, 7),
        FIRST,
        TILL_1,
        "chengguan-1",
        f"{DAY_1}T09:02:00.000Z",
        12999,
    ),
    row(
        "reversal",
        second.receipt_no(1, 7),
        FIRST,
        TILL_1,
        "chengguan-1",
        f"{DAY_1}T09:03:00.000Z",
        -12999,
    ),
    row(
        "redeem",
        second.receipt_no(12, 1000000),
        SECOND,
        TILL_2,
        "chengguan-2",
        f"{DAY_1}T10:00:00.000Z",
        1000,
    ),
]
NEXT_DAY = [
    # The next day takes back what the first one paid, and pays less: the net is below zero.
    row("reversal", second.receipt_no(1, 2), FIRST, TILL_1, "chengguan-1", f"{DAY_2}T07:10:00.000Z", -6000),
    row("redeem", second.receipt_no(1, 9), FIRST, TILL_1, "chengguan-1", f"{DAY_2}T07:20:00.000Z", 500),
]  # fmt: skip


def bad_files(good: Json) -> list[Json]:
    """Files whose manifest is signed over just these bytes, so that only the file is at fault."""

    def changed(line: int, column: str, value: str) -> str:
        lines = [each.split(",") for each in csv(DAY).splitlines()]
        lines[line - 1][HEADER.split(",").index(column)] = value
        return "\n".join(",".join(each) for each in lines) + "\n"

    cases: list[tuple[str, str, int, str]] = [
        ("line number skipped", changed(3, "line_no", "3"), 3, "line_no"),
        ("line number with a zero", changed(3, "line_no", "02"), 3, "line_no"),
        ("unknown kind", changed(2, "kind", "refund"), 2, "kind"),
        ("check digit wrong", changed(4, "receipt_no", "0001-000007-0"), 4, "receipt_no"),
        ("receipt number spelled longer", changed(4, "receipt_no", f"00001-000007-{second.mod_11_10('00001000007')}"), 4, "receipt_no"),
        ("incarnation in capitals", changed(2, "incarnation", FIRST.upper()), 2, "incarnation"),
        ("a formula as terminal", changed(2, "terminal", "=1+1"), 2, "terminal"),
        ("store quoted", changed(6, "store", '"chengguan-2"'), 6, "store"),
        ("no such day", changed(2, "occurred_at", "2026-02-30T08:30:00.000Z"), 2, "occurred_at"),
        ("local time", changed(2, "recorded_at", "2026-11-22T16:30:00.250+08:00"), 2, "recorded_at"),
        ("decimals", changed(2, "amount_minor", "60.00"), 2, "amount_minor"),
        ("plus sign", changed(2, "amount_minor", "+6000"), 2, "amount_minor"),
        ("minus zero", changed(2, "amount_minor", "-0"), 2, "amount_minor"),
        ("leading zero", changed(2, "amount_minor", "06000"), 2, "amount_minor"),
        ("redeem below zero", changed(2, "amount_minor", "-6000"), 2, "amount_minor"),
        ("reversal above zero", changed(5, "amount_minor", "12999"), 5, "amount_minor"),
        ("over 10^12", changed(2, "amount_minor", "1000000000001"), 2, "amount_minor"),
        ("no such currency", changed(2, "currency", "XXX"), 2, "currency"),
        ("another currency", changed(2, "currency", "USD"), 2, "currency"),
        ("carriage return", csv(DAY).replace("CNY\n", "CNY\r\n"), 2, "currency"),
        ("a column too many", csv(DAY).replace("6000,CNY", "6000,CNY,"), 2, "currency"),
    ]  # fmt: skip
    whole: list[tuple[str, str, int]] = [
        ("header missing", "".join(csv(DAY).splitlines(keepends=True)[1:]), 1),
        ("header renamed", csv(DAY).replace("line_no", "line"), 1),
        ("byte order mark", "\ufeff" + csv(DAY), 1),
        ("rows out of order", csv([DAY[1], DAY[0], *DAY[2:]]), 3),
        ("a booking twice", csv([DAY[0], DAY[0], *DAY[1:]]), 3),
        ("no line end", csv(DAY)[:-1], 0),
        ("empty line at the end", csv(DAY) + "\n", 7),
    ]
    found: list[Json] = [
        {"name": name, "csv": text, "line": line, "column": column}
        for name, text, line, column in cases
    ]
    found += [
        {"name": name, "csv": text, "line": line, "column": None} for name, text, line in whole
    ]
    for case in found:
        file = {
            **good["manifest"]["file"],
            "sha256": second.digest(case["csv"].encode()),
            "length": len(case["csv"].encode()),
        }
        case["manifest_jws"] = signed({**good["manifest"], "file": file})
    return found


def bad_manifests(good: Json) -> list[Json]:
    payload = good["manifest"]
    file, redeemed = payload["file"], payload["redeemed"]
    funders = payload["funders"]
    wrong: list[tuple[str, Json]] = [
        ("version 2", {"v": 2}),
        ("an offline pack", {"kind": "offline-pack"}),
        ("a name more", {"note": ""}),
        ("batch 0", {"batch_no": 0}),
        ("another file's name", {"file": {**file, "name": file["name"].replace("000001", "000002")}}),
        ("a path as name", {"file": {**file, "name": f"../{file['name']}"}}),
        ("one row less", {"file": {**file, "rows": 4}}),
        ("one redeem more", {"redeemed": {**redeemed, "count": 5}}),
        ("a minor unit more", {"redeemed": {**redeemed, "amount_minor": redeemed["amount_minor"] + 1}}),
        ("net a minor unit less", {"net_minor": payload["net_minor"] - 1}),
        ("reversed above zero", {"reversed": {"count": 1, "amount_minor": 12999}}),
        ("parts a minor unit less", {"funders": [{**funders[0], "amount_minor": funders[0]["amount_minor"] - 1}, *funders[1:]]}),
        ("funders out of order", {"funders": funders[::-1]}),
        ("no such currency", {"currency": "XXX"}),
        ("amount as text", {"net_minor": str(payload["net_minor"])}),
    ]  # fmt: skip
    return [{"name": name, "manifest_jws": signed({**payload, **change})} for name, change in wrong]


# Funders' parts: what each had put in when a batch closed, the batch's net, and the parts.
Step = tuple[dict[str, int], int, dict[str, int]]

PARTS: list[tuple[str, list[Step]]] = [
    ("one funder bears all", [({"a": 1}, 7001, {"a": 7001})]),
    ("half and half, the odd unit to the earlier name", [({"a": 5, "b": 5}, 1, {"a": 1, "b": 0})]),
    (
        "rounding does not add up: the next odd unit goes to the other",
        [
            ({"a": 5, "b": 5}, 1, {"a": 1, "b": 0}),
            ({"a": 5, "b": 5}, 1, {"a": 0, "b": 1}),
            ({"a": 5, "b": 5}, 1, {"a": 1, "b": 0}),
        ],
    ),
    (
        "thirds",
        [
            ({"a": 1, "b": 1, "c": 1}, 100, {"a": 34, "b": 33, "c": 33}),
            ({"a": 1, "b": 1, "c": 1}, 100, {"a": 33, "b": 34, "c": 33}),
            ({"a": 1, "b": 1, "c": 1}, 100, {"a": 33, "b": 33, "c": 34}),
        ],
    ),
    (
        "a batch that takes back more than it pays",
        [({"a": 2, "b": 1}, 1000, {"a": 667, "b": 333}), ({"a": 2, "b": 1}, -999, {"a": -666, "b": -333})],
    ),
    (
        "who joins later bears its share of what was settled before",
        [
            ({"a": 1000}, 900, {"a": 900}),
            ({"a": 1000, "b": 1000}, 100, {"a": -400, "b": 500}),
            ({"a": 1000, "b": 1000}, 101, {"a": 51, "b": 50}),
        ],
    ),
    ("nothing to share", [({"a": 3, "b": 1}, 0, {"a": 0, "b": 0})]),
    (
        "largest remainders, not the largest funder",
        [({"a": 60, "b": 30, "c": 10}, 7, {"a": 4, "b": 2, "c": 1})],
    ),
]  # fmt: skip


def check_parts(name: str, steps: list[Step]) -> None:
    """The page's words in fractions: sums are exact, and nobody is ever a minor unit off."""
    borne: dict[str, int] = {}
    settled = 0
    for weights, net_minor, parts in steps:
        settled += net_minor
        assert sum(parts.values()) == net_minor, name
        for funder, part in parts.items():
            borne[funder] = borne.get(funder, 0) + part
            exact = Fraction(settled * weights[funder], sum(weights.values()))
            assert abs(borne[funder] - exact) < 1, name
        names = sorted(weights)
        assert [borne[each] for each in names] == second.split(settled, [weights[n] for n in names])


def settlement_file() -> Json:
    first = batch(
        "the first day",
        DAY,
        1,
        second.first_previous(MERCHANT, PROGRAMME),
        {"red-cross": 4667, "town": 2334},
    )
    following = batch(
        "the day after", NEXT_DAY, 2, first["digest"], {"red-cross": -3666, "town": -1834}
    )
    for one, other in pairwise([first, following]):
        assert other["manifest"]["previous"] == one["digest"]
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
    for name, steps in PARTS:
        check_parts(name, steps)
    return {
        "note": "Settlement files (section 12): two batches of one merchant and programme with their manifests; files and manifests that are refused though signed (`line` and `column` as a message names them, the header being line 1; 0: no line); funders' parts of one batch after another, by what each had put in.",
        "ledger": {
            "seed": LEDGER.hex(),
            "jwk": {"kty": "OKP", "crv": "Ed25519", "x": second.b64(second.public(LEDGER))},
            "kid": second.thumbprint(second.public(LEDGER)),
        },
        "first_previous": second.first_previous(MERCHANT, PROGRAMME),
        "batches": [first, following],
        "bad_files": bad_files(first),
        "bad_manifests": bad_manifests(first),
        "funders_parts": [
            {
                "name": name,
                "batches": [
                    {"put_in_minor": weights, "net_minor": net_minor, "parts_minor": parts}
                    for weights, net_minor, parts in steps
                ],
            }
            for name, steps in PARTS
        ],
    }  # fmt: skip
