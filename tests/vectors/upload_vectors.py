"""The vectors of docs/offline.md §10: files as they are carried. Expected values by hand."""

# Tables read better with their cases on long lines.
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

from tests.vectors import offline_vectors, second_upload
from tests.vectors.second import jcs
from tests.vectors.undo_vectors import INCARNATION, TERMINAL

Json = dict[str, Any]


def _text(*lines: Json | str) -> str:
    return "".join((x if isinstance(x, str) else jcs(x).decode()) + "\n" for x in lines)


def upload_file() -> Json:
    chain = offline_vectors.chain()
    sale, accepted, returned = (each["jws"] for each in chain)
    sealed = offline_vectors.SEALED["a phone's code"][2]
    [posted, also_posted] = [
        each["outcome"] for each in offline_vectors.outcomes(chain)
        if each["name"] in ("the sale is posted", "the acceptance is posted")
    ]  # fmt: skip
    head: Json = {
        "v": 1, "kind": "records", "terminal": TERMINAL, "incarnation": INCARNATION,
        "from_sequence": 1, "to_sequence": 3,
    }  # fmt: skip
    back: Json = {"v": 1, "kind": "outcomes", "terminal": TERMINAL, "incarnation": INCARNATION}
    first, second_ = {"record": sale, "evidence": sealed}, {"record": accepted, "evidence": sealed}
    third: Json = {"record": returned}
    whole = _text(head, first, second_, third)
    told = [
        {"sequence": n, "kind": each["record"]["kind"], "digest": each["digest"], "sealed": n < 3}
        for n, each in enumerate(chain, 1)
    ]
    problem: Json = {"problem": {"code": "sequence_gap", "status": 409, "missing": [1]}}
    answers = [
        {"record_sha256": chain[0]["digest"]},
        {"record_sha256": chain[1]["digest"]},
        {"record_sha256": None},
    ]
    other = {**head, "terminal": "t-other"}
    cases: list[tuple[str, str, str, Json | None]] = [
        ("records", "three records", whole, {"lines": told, "bad": [], "cut": False}),
        ("records", "as an editor saved it", "\ufeff" + whole.replace("\n", "\r\n"), {"lines": told, "bad": [], "cut": False}),
        ("records", "an empty line, and none at the end", whole.replace("}\n{", "}\n\n{", 1)[:-1], {"lines": told, "bad": [], "cut": False}),
        ("records", "cut in the third", whole[:-40], {"lines": told[:2], "bad": [4], "cut": True}),
        ("records", "cut behind the second", _text(head, first, second_), {"lines": told[:2], "bad": [], "cut": True}),
        ("records", "a broken line in the middle", _text(head, first, "garbled", third), {"lines": [told[0], told[2]], "bad": [3], "cut": False}),
        ("records", "a code in the clear", _text(head, {**third, "token": offline_vectors.TOKEN}), {"lines": [], "bad": [2], "cut": True}),
        ("records", "an outcome among records", _text(head, {"outcome": posted}, {"record": posted}, third), {"lines": [told[2]], "bad": [2, 3], "cut": False}),
        ("records", "of another till", _text(other, first), {"lines": [], "bad": [2], "cut": True}),
        ("records", "without a header", _text(first, second_), None),
        ("records", "of a later version", _text({**head, "v": 2}, first), None),
        ("records", "with a name more", _text({**head, "note": ""}, first), None),
        ("records", "backwards", _text({**head, "from_sequence": 4}, first), None),
        ("records", "answers", _text(back, {"outcome": posted}), None),
        ("records", "nothing", "", None),
        ("records", "a table", "key,category\n", None),
        ("outcomes", "two outcomes and a problem", _text(back, {"outcome": posted}, {"outcome": also_posted}, problem), {"lines": answers, "bad": []}),
        ("outcomes", "nothing answered", _text(back), {"lines": [], "bad": []}),
        ("outcomes", "broken lines", _text(back, {"outcome": "x"}, {**problem, "outcome": posted}, {}, {"problem": 1}, {"outcome": posted}), {"lines": answers[:1], "bad": [2, 3, 4, 5]}),
        ("outcomes", "records", whole, None),
    ]  # fmt: skip
    made = []
    for kind, name, text, expected in cases:
        read = second_upload.read_file(text.encode(), kind)
        got = None if read is None else {k: v for k, v in read.items() if k != "header"}
        assert got == expected, (name, got)
        made.append({"name": name, "kind": kind, "file": text, "read": expected})
    return {
        "note": "docs/offline.md §10",
        "terminal": TERMINAL,
        "incarnation": INCARNATION,
        "written": {
            "records": {
                "numbers": [1, 2, 3],
                "envelopes": [first, second_, third],
                "file": whole,
            },
            "outcomes": {
                "answers": [{"outcome": posted}, {"outcome": also_posted}, problem],
                "file": next(c[2] for c in cases if c[1] == "two outcomes and a problem"),
            },
        },
        "files": made,
    }
