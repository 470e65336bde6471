"""Settlement files: the frozen vectors, T-11 (tampering), FH-5 (partial, doubled, missing)."""

from __future__ import annotations

import dataclasses
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos import jws, settlement, settlement_folder
from carepos.errors import Malformed, SignatureInvalid
from carepos.keys import KeySet, PublicKey, SigningKey, digest
from carepos.settlement import Batch, Manifest, SettlementLine, Total, read_batch
from tests.vectors import build, settlement_undo_vectors, settlement_vectors

Json = dict[str, Any]
PATH = Path(build.__file__).with_name("settlement.json")
VECTORS: Json = json.loads(PATH.read_text("utf-8"))
KEYS = KeySet([PublicKey.from_jwk(VECTORS["ledger"]["jwk"])])
LEDGER = SigningKey(bytes.fromhex(VECTORS["ledger"]["seed"]))
FIRST, SECOND = VECTORS["batches"]
UNDO: Json = json.loads(PATH.with_name("settlement_undo.json").read_text("utf-8"))


def named(cases: list[Json]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def read(case: Json) -> Batch:
    return read_batch(case["csv"].encode(), case["manifest_jws"], KEYS)


def refusal(data: bytes, manifest_jws: object) -> str:
    """The sentence that a file is refused with."""
    with pytest.raises(Malformed) as refused:
        read_batch(data, manifest_jws, KEYS)
    return str(refused.value)


def make_batch(lines: list[SettlementLine], **changed: Any) -> Batch:
    """A batch that this ledger's key signed over `lines`."""
    data = settlement.render_csv(lines)
    redeemed, undone = settlement.totals(lines)
    manifest = Manifest(
        **{
            "merchant": "chengguan-mart",
            "programme": "flood-dairy",
            "currency": "CNY",
            "batch_no": 1,
            "closed_at": datetime(2026, 11, 22, 14, tzinfo=UTC),
            "epoch": 1,
            "sha256": digest(data),
            "length": len(data),
            "rows": len(lines),
            "redeemed": redeemed,
            "reversed": undone,
            "funders": {"red-cross": redeemed.amount_minor + undone.amount_minor},
            "previous": settlement.first_previous("chengguan-mart", "flood-dairy"),
            **changed,
        }
    )
    return read_batch(data, jws.sign(manifest.to_json(), typ=jws.MANIFEST, key=LEDGER), KEYS)


# ── vectors ────────────────────────────────────────────────────────────────────────────────────


def test_vectors_are_what_is_built() -> None:
    """Building the settlement vectors again gives the committed bytes."""
    assert build._written(settlement_vectors.settlement_file()) == PATH.read_text("utf-8")
    made = build._written(settlement_undo_vectors.settlement_undo_file())
    assert made == PATH.with_name("settlement_undo.json").read_text("utf-8")


@named([*VECTORS["batches"], *UNDO["batches"]])
def test_a_batch_is_read_and_written_back(case: Json) -> None:
    """A file and its manifest are read, and writing what was read gives the same bytes."""
    batch = read(case)
    assert settlement.render_csv(batch.lines) == case["csv"].encode()
    assert settlement.render_csv(reversed(batch.lines)) == case["csv"].encode()
    assert batch.manifest.to_json() == case["manifest"]
    resigned = jws.sign(batch.manifest.to_json(), typ=jws.MANIFEST, key=LEDGER)
    assert resigned == case["manifest_jws"]
    assert batch.digest == case["digest"]
    assert settlement.totals(batch.lines) == (batch.manifest.redeemed, batch.manifest.reversed)


def test_batches_form_a_chain() -> None:
    """Each manifest names the one before it; the first one its merchant and programme."""
    for first, second in (VECTORS["batches"], UNDO["batches"]):
        settlement_folder.check_sequence([read(first), read(second)])
    batches = [read(FIRST), read(SECOND)]
    settlement_folder.check_sequence(batches)
    settlement_folder.check_sequence(batches[1:], after=batches[0])
    assert batches[0].manifest.previous == VECTORS["first_previous"]
    assert settlement.first_previous("chengguan-mart", "flood-dairy") == VECTORS["first_previous"]


@named([*VECTORS["bad_files"], *UNDO["bad_files"]])
def test_a_bad_file_is_refused_by_line_and_column(case: Json) -> None:
    """A file that breaks the format is refused though it is signed, naming where."""
    sentence = refusal(case["csv"].encode(), case["manifest_jws"])
    assert FIRST["manifest"]["file"]["name"] in sentence
    if case["line"]:
        assert f"line {case['line']}" in sentence
    if case["column"]:
        assert f"column {case['column']}" in sentence


@named(VECTORS["bad_manifests"])
def test_a_bad_manifest_is_refused(case: Json) -> None:
    """A manifest that contradicts itself is refused though it is signed."""
    assert "manifest" in refusal(FIRST["csv"].encode(), case["manifest_jws"])


# ── T-11: a file that was changed ──────────────────────────────────────────────────────────────


def test_t11_every_flipped_byte_is_refused() -> None:
    """No byte of the file can be changed, whatever it is changed into."""
    data = FIRST["csv"].encode()
    chance = random.Random(11)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= chance.randrange(1, 256)
        assert FIRST["manifest"]["file"]["name"] in refusal(bytes(flipped), FIRST["manifest_jws"])


def test_t11_no_flipped_character_of_a_manifest_is_believed() -> None:
    """No character of the manifest can be changed."""
    text = FIRST["manifest_jws"]
    for place in range(len(text)):
        other = "A" if text[place] != "A" else "B"
        refusal(FIRST["csv"].encode(), text[:place] + other + text[place + 1 :])


def test_t11_another_ledgers_manifest_is_not_believed() -> None:
    """A manifest signed by any other key is no manifest."""
    stranger = SigningKey(bytes(32))
    forged = jws.sign(FIRST["manifest"], typ=jws.MANIFEST, key=stranger)
    with pytest.raises(SignatureInvalid):
        read_batch(FIRST["csv"].encode(), forged, KEYS)


def test_fh5_a_truncated_file_is_refused() -> None:
    """A file that was picked up in part is refused, wherever it ends."""
    data = FIRST["csv"].encode()
    for length in range(len(data)):
        assert "is not the file that was signed" in refusal(data[:length], FIRST["manifest_jws"])


def test_t11_rows_dropped_doubled_or_swapped_are_named() -> None:
    """Rows that are missing, there twice or out of order are refused, saying which."""
    lines = FIRST["csv"].splitlines(keepends=True)
    manifest = FIRST["manifest_jws"]
    assert "line 4, column line_no: must be 3" in refusal(
        "".join(lines[:3] + lines[4:]).encode(), manifest
    )
    assert "line 4, column line_no: must be 3" in refusal(
        "".join(lines[:3] + lines[2:]).encode(), manifest
    )
    assert "line 3, column line_no: must be 2" in refusal(
        "".join([*lines[:2], lines[3], lines[2], *lines[4:]]).encode(), manifest
    )
    shorter = settlement.render_csv(read(FIRST).lines[:-1])
    assert "it has 4 rows, the manifest says 5" in refusal(shorter, manifest)


def test_fh6_a_total_off_by_one_is_refused_with_the_sums() -> None:
    """A file whose amounts were changed consistently is refused with both sums."""
    changed = list(read(FIRST).lines)
    changed[0] = dataclasses.replace(changed[0], amount_minor=6001)
    sentence = refusal(settlement.render_csv(changed), FIRST["manifest_jws"])
    assert "4 redeemed lines come to 20001, the manifest says 4 lines and 20000" in sentence


def test_a_changed_value_that_keeps_the_sums_is_refused() -> None:
    """Moving a line to another store changes no sum and is refused all the same."""
    changed = list(read(FIRST).lines)
    changed[0] = dataclasses.replace(changed[0], store="elsewhere")
    assert "a value was changed" in refusal(settlement.render_csv(changed), FIRST["manifest_jws"])


def test_a_file_that_can_not_be_read_is_never_written() -> None:
    """The writer refuses what the reader would: values of other forms, a booking twice."""
    line = read(FIRST).lines[0]
    for bad in (
        dataclasses.replace(line, store="=HYPERLINK()"),
        dataclasses.replace(line, store="a,b"),
        dataclasses.replace(line, terminal="@sum"),
        dataclasses.replace(line, amount_minor=-1),
        dataclasses.replace(line, sequence=0),
        dataclasses.replace(line, currency="XXX"),
    ):
        with pytest.raises(Malformed):
            settlement.render_csv([bad])
    with pytest.raises(Malformed, match="stands twice"):
        settlement.render_csv([line, line])


LINES = st.builds(
    SettlementLine,
    kind=st.just("redeem"),
    terminal_no=st.just(1),
    sequence=st.integers(1, 10**12 - 1),
    incarnation=st.text("0123456789abcdef", min_size=32, max_size=32),
    terminal=st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True),
    store=st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True),
    occurred_at=st.just(datetime(2026, 11, 22, 8, 30, tzinfo=UTC)),
    recorded_at=st.integers(0, 10**10).map(
        lambda ms: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    ),
    amount_minor=st.integers(0, 10**12),
    currency=st.just("CNY"),
).flatmap(
    lambda line: st.sampled_from(
        [line, dataclasses.replace(line, kind="reversal", amount_minor=-line.amount_minor)]
    )
)


@given(st.lists(LINES, unique_by=SettlementLine.order, min_size=1, max_size=30))
def test_what_is_written_is_read(lines: list[SettlementLine]) -> None:
    """Any lines of the form are written and read back as they were, sorted; no field needs quotes,
    and none begins as a formula does, but for the minus of an amount."""
    batch = make_batch(lines)
    assert list(batch.lines) == sorted(lines, key=SettlementLine.order)
    text = settlement.render_csv(lines).decode("ascii")
    assert not set(text) & set("\"'\r\t=+@;")
    for row in text.splitlines()[1:]:
        for column, value in zip(settlement.COLUMNS, row.split(","), strict=True):
            assert value[0] != "-" or (column == "amount_minor" and value[1:].isdigit())


# ── many files ─────────────────────────────────────────────────────────────────────────────────


def a_week(days: int = 5, **changed: Any) -> list[Batch]:
    """Batches 1 to `days` of one chain, a line each."""
    made: list[Batch] = []
    for number in range(1, days + 1):
        line = dataclasses.replace(read(FIRST).lines[0], sequence=number + 1)
        merchant = changed.get("merchant", "chengguan-mart")
        programme = changed.get("programme", "flood-dairy")
        previous = made[-1].digest if made else settlement.first_previous(merchant, programme)
        made.append(make_batch([line], **{**changed, "batch_no": number, "previous": previous}))
    return made


def sequence_refusal(batches: list[Batch], after: Batch | None = None) -> str:
    with pytest.raises(Malformed) as refused:
        settlement_folder.check_sequence(batches, after=after)
    return str(refused.value)


def test_fh5_a_missing_doubled_or_misplaced_file_is_named() -> None:
    """Of a week's files, the one that is missing, there twice or out of order is named."""
    week = a_week()
    settlement_folder.check_sequence(week)
    settlement_folder.check_sequence([])
    name = "settlement-chengguan-mart-flood-dairy-00000{}.csv".format
    assert sequence_refusal(week[1:]).startswith(f"{name(1)}: is missing before {name(2)}")
    assert sequence_refusal(week[:2] + week[3:]).startswith(f"{name(3)}: is missing")
    assert sequence_refusal([*week[:2], *week[1:]]) == f"{name(2)}: is there twice"
    assert sequence_refusal([week[0], week[2], week[1]]) == f"{name(3)}: is out of order"
    assert sequence_refusal([week[1], week[0]]) == f"{name(2)}: is out of order"
    assert sequence_refusal(week[2:], after=week[0]).startswith(f"{name(2)}: is missing")
    assert sequence_refusal(week[1:], after=week[2]) == f"{name(2)}: is there twice"


def test_t11_another_merchants_or_programmes_file_is_named() -> None:
    """A good file of another merchant, programme or chain does not fit into this chain."""
    week = a_week()
    for other in (
        a_week(merchant="other-mart")[1],
        a_week(programme="winter-fuel")[1],
    ):
        assert "another merchant's or another programme's" in sequence_refusal([week[0], other])
    rewritten = make_batch(list(week[1].lines), batch_no=2, previous=digest(b"another history"))
    assert "does not follow the file before it" in sequence_refusal([week[0], rewritten])
    first = make_batch(list(week[0].lines), previous=digest(b"another beginning"))
    assert "does not follow" in sequence_refusal([first])


def keep(folder: Path, batches: list[Batch]) -> None:
    for batch in batches:
        (folder / batch.name).write_bytes(settlement.render_csv(batch.lines))
        manifest = folder / settlement.manifest_name(batch.name)
        manifest.write_text(batch.manifest_jws, "ascii")


def folder_refusal(folder: Path, merchant: str | None = None) -> str:
    with pytest.raises(Malformed) as refused:
        settlement_folder.read_folder(folder, KEYS, merchant=merchant)
    return str(refused.value)


def test_a_folder_is_read_in_order_per_programme(tmp_path: Path) -> None:
    """All files of a folder are verified and come in order; other files are left alone."""
    batches = a_week(11, programme="a-first") + a_week(2)
    keep(tmp_path, batches)
    (tmp_path / "notes.txt").write_text("not a settlement")
    assert settlement_folder.read_folder(tmp_path, KEYS) == batches


def test_t11_a_folder_with_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    """Yesterday's file under today's name, a half pair, a missing day, another merchant's file."""
    week = a_week(3)
    names = [batch.name for batch in week]
    keep(tmp_path, week)

    today = tmp_path / names[2]
    good = today.read_bytes()
    today.write_bytes((tmp_path / names[1]).read_bytes())
    assert folder_refusal(tmp_path).startswith(f"{names[2]}: is not the file that was signed")
    today.write_bytes(good)

    manifest = tmp_path / settlement.manifest_name(names[2])
    text = manifest.read_text()
    manifest.write_text((tmp_path / settlement.manifest_name(names[1])).read_text())
    assert f"{manifest.name}: was renamed: it is the manifest of {names[1]}" in folder_refusal(
        tmp_path
    )
    manifest.write_text(text)

    today.unlink()
    assert folder_refusal(tmp_path).startswith(f"{names[2]}: is missing beside")
    today.write_bytes(good)
    manifest.unlink()
    assert folder_refusal(tmp_path).startswith(f"{names[2]}: has no {manifest.name}")
    manifest.write_bytes(b"\xff")
    assert folder_refusal(tmp_path) == f"{manifest.name}: is no manifest"
    manifest.write_text(jws.sign(FIRST["manifest"], typ=jws.MANIFEST, key=SigningKey(bytes(32))))
    assert "was not signed by this ledger" in folder_refusal(tmp_path)
    manifest.write_text(text)

    for suffix in (names[1], settlement.manifest_name(names[1])):
        (tmp_path / suffix).unlink()
    assert folder_refusal(tmp_path).startswith(f"{names[1]}: is missing before {names[2]}")
    keep(tmp_path, week)
    assert "is the file of chengguan-mart, not of other-mart" in folder_refusal(
        tmp_path, "other-mart"
    )
    assert len(settlement_folder.read_folder(tmp_path, KEYS, merchant="chengguan-mart")) == 3


def test_totals_count_both_kinds() -> None:
    """Counts and sums are per kind; reversals come to nothing or less."""
    assert settlement.totals(read(FIRST).lines) == (Total(4, 20000), Total(1, -12999))
