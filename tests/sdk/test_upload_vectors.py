"""The frozen vectors of docs/offline.md §10, by product and second reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carepos import upload_file
from carepos.errors import Malformed
from carepos.upload_file import Chain
from tests.vectors import build, second_upload

Json = dict[str, Any]
VECTORS: Json = json.loads(Path(build.__file__).with_name("upload.json").read_text("utf-8"))
CHAIN = Chain(VECTORS["terminal"], VECTORS["incarnation"])


def test_a_file_is_written() -> None:
    """Byte for byte."""
    records, answers = VECTORS["written"]["records"], VECTORS["written"]["outcomes"]
    made = upload_file.records_lines(CHAIN, records["numbers"], records["envelopes"])
    assert b"".join(made) == records["file"].encode()
    assert b"".join(upload_file.answers_lines(CHAIN, answers["answers"])) == (
        answers["file"].encode()
    )


@pytest.mark.parametrize("case", VECTORS["files"], ids=[c["name"] for c in VECTORS["files"]])
def test_a_file_is_read(case: Json, tmp_path: Path) -> None:
    """What each line is about; a line that is broken costs that line and is named by its number; a
    file that was cut is known, and one that is something else is refused whole."""
    path = tmp_path / "carried"
    path.write_bytes(case["file"].encode())
    got: Json | None = None
    try:
        if case["kind"] == "records":
            found = upload_file.read_records(path)
            got = {
                "lines": [
                    {"sequence": r.sequence, "kind": r.kind, "digest": r.digest,
                     "sealed": "evidence" in r.envelope}
                    for r in found.records
                ],
                "bad": [each.number for each in found.bad],
                "cut": found.is_cut,
            }  # fmt: skip
        else:
            read = upload_file.read_answers(path)
            digests = [upload_file.answered_digest(each) for each in read.answers]
            got = {
                "lines": [{"record_sha256": each} for each in digests],
                "bad": [each.number for each in read.bad],
            }
    except Malformed:
        got = None
    assert got == case["read"]
    again = second_upload.read_file(case["file"].encode(), case["kind"])
    assert (again is None) == (case["read"] is None)
    if again is not None:
        assert {name: again[name] for name in case["read"]} == case["read"]


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    """It is one bad line, and what stands behind it is read."""
    path = tmp_path / "carried"
    head, *rest = VECTORS["written"]["records"]["file"].splitlines()
    path.write_text("\n".join([head, "x" * 1_000_000, *rest]))
    found = upload_file.read_records(path)
    assert [each.number for each in found.bad] == [2] and len(found.records) == 3
