"""The frozen vectors of docs/offline.md §12, as far as tills know them, by product and second
reading."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from carepos import clock, lost
from carepos.errors import Malformed
from carepos.keys import KeySet, PublicKey, SigningKey
from carepos.ledger_keys import LedgerKeys
from tests.vectors import build, healing_vectors, second, second_healing

Json = dict[str, Any]
VECTORS: Json = json.loads(Path(build.__file__).with_name("healing.json").read_text("utf-8"))
OWN = KeySet([PublicKey.from_jwk(VECTORS[name]["jwk"]) for name in ("key", "key_before")])
LEDGER_KEYS = KeySet([PublicKey.from_jwk(VECTORS[n]["jwk"]) for n in ("ledger", "ledger_before")])
TERMINAL = VECTORS["terminal"]
LEDGER = LedgerKeys(
    VECTORS["ledger_name"], 2, 2, LEDGER_KEYS, "", SigningKey.generate().public
)  # fmt: skip


LINES: Json = json.loads(Path(build.__file__).with_name("healing_lines.json").read_text("utf-8"))


def each(name: str) -> pytest.MarkDecorator:
    cases = {**VECTORS, **LINES}[name]
    return pytest.mark.parametrize("case", cases, ids=[c["name"] for c in cases])


def code_of(read: Callable[[], None]) -> str | None:
    """Why it is not believed, if it is not."""
    try:
        read()
    except Malformed as error:
        return error.code
    return None


def raw(keys: KeySet) -> list[bytes]:
    return [second.unb64(key.x) for key in keys]


@each("certificates")
def test_whose_keys_they_are(case: Json) -> None:
    """A terminal is known by what the ledger signed of it, and by nothing else."""
    told = second_healing.certified(
        case["certificates"], TERMINAL, VECTORS["ledger_name"], raw(LEDGER_KEYS)
    )
    assert (told if isinstance(told, str) else None) == case["code"]
    found: list[lost.Certified] = []

    def read() -> None:
        found.extend(lost.read_certificates(case["certificates"], LEDGER))
        if {each.terminal for each in found} != {TERMINAL}:
            raise Malformed("another terminal's")

    assert code_of(read) == case["code"]
    if case["code"] is None:
        keys = [PublicKey.from_jwk(given["key"]) for given in case["certificates"]]
        assert [each.key for each in found] == keys


@each("evidence")
def test_what_proves_a_loss(case: Json) -> None:
    """The ledger's own signature over an answer to this very record, and nothing less."""
    item = case["item"]
    assert second_healing.judge(item, TERMINAL, raw(OWN), raw(LEDGER_KEYS)) == case["code"]

    def read() -> None:
        found = lost.read_evidence(item, terminal=TERMINAL, own=OWN, ledger=LEDGER_KEYS)
        assert (found.record.jws, found.outcome.jws) == (item["record"], item["outcome"])

    assert code_of(read) == case["code"]


@each("held")
def test_what_a_till_offers(case: Json) -> None:
    """What it has an outcome of and the ledger lacks; behind the last range only when it was all
    that there is."""
    held, more = lost.read_ranges(case["held"]), case["more"]
    assert lost.to_offer(case["answered"], held, more=more) == case["offered"]
    assert second_healing.offered(case["answered"], case["held"], more) == case["offered"]
    numbers = [n for low, high in held for n in range(low, high + 1)]
    assert lost.ranges_of(reversed(numbers)) == held
    assert second_healing.ranges(numbers) == case["held"]


@each("bad_ranges")
def test_ranges_that_are_none(case: Json) -> None:
    with pytest.raises(Malformed):
        lost.read_ranges(case["held"])


@each("lines")
def test_a_copys_records_are_not_the_tills(case: Json) -> None:
    """Both count with the same numbers: of a range that ends with none of its own records a till
    offers all that it has an outcome of."""
    held = lost.read_ranges(case["held"])
    ends, own = lost.read_ends(case["ends"], held), dict(enumerate(LINES["own"], 1))
    others = lost.of_others(held, ends, own)
    found = lost.to_offer(case["answered"], held, more=case["more"], others=others)
    assert found == case["offered"]
    told = case["held"], case["ends"], case["more"]
    assert second_healing.lacking(case["answered"], LINES["own"], *told) == case["offered"]


@each("bad_ends")
def test_ends_that_are_none(case: Json) -> None:
    with pytest.raises(Malformed):
        lost.read_ends(case["ends"], lost.read_ranges(case["held"]))


@dataclass(frozen=True)
class Placed:
    recorded_at: datetime
    terminal: str
    sequence: int


@each("order")
def test_in_which_order_it_is_booked(case: Json) -> None:
    """As it was decided; of one moment by terminal, then by number."""

    def placed(item: Json) -> Placed:
        at = clock.from_text(item["recorded_at"])
        return Placed(at, item["terminal"], item["sequence"])

    assert second_healing.in_order(case["items"]) == case["ordered"]
    assert sorted(map(placed, case["items"]), key=lost.in_order) == [
        placed(item) for item in case["ordered"]
    ]


def test_the_second_reading_is_independent() -> None:
    """It imports nothing of the product, nor does what builds the vectors."""
    for module in (second_healing, healing_vectors):
        lines = Path(str(module.__file__)).read_text("utf-8").splitlines()
        assert not any("carepos" in line for line in lines if line.startswith(("import", "from")))
