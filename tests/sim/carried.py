"""What people carry where no network goes: records to the office, and its answers back
(docs/no-network.md).

A till's records are written to a file, from its journal or from the copy on its second disk; some
file, perhaps cut or garbled on the way, reaches the office on some day, perhaps twice; the answers
come back to the shop, to another one, or never.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, Literal

from carepos import export, upload_file
from carepos.client import send_records
from carepos.errors import Malformed, NotDecided, SignatureInvalid, Unreachable
from carepos.export import NothingToExport
from carepos.mirror import Mirror
from carepos_ledger.import_records import Import, key_set
from tests.properties.ledger_model import Opened
from tests.sim.files import Journal
from tests.sim.ledger_host import Answer, Request
from tests.sim.line import Line
from tests.sim.witness import Violation

if TYPE_CHECKING:
    from carepos import Till
    from tests.sim.network import Network
    from tests.sim.shop import Shop

Source = Literal["journal", "whole journal", "second disk"]
_SOURCES: Final[tuple[Source, ...]] = ("journal", "journal", "whole journal", "second disk")
_DECIDED: Final = frozenset(
    "confirmed goods_asked voided short exception refused reversed posted".split()
)
_LOST_ON_THE_WAY: Final = 0.15


@dataclass
class Pockets:
    """Everything that somebody carries, in files under `folder`."""

    folder: Path
    records: list[Path] = field(default_factory=list)
    answers: list[Path] = field(default_factory=list)
    _made: int = 0

    def new(self, kind: str) -> Path:
        self.folder.mkdir(exist_ok=True)
        self._made += 1
        return self.folder / f"{self._made:03d}.{kind}"


# ── in the shop ────────────────────────────────────────────────────────────────────────────────


def export_records(shop: Shop, rng: Random) -> None:
    """Somebody takes along what is not uploaded, or all of it."""
    assert shop.till is not None and shop.second_disk is not None
    source = rng.choice(_SOURCES)
    path = shop.pockets.new("records")
    try:
        if source == "second disk":
            shop.second_disk.one_pass()
            made = export.of_mirror(shop.second_disk.folder, path)
            check_second_disk(shop)
        else:
            made = export.of_journal(shop.till.journal, path, everything=source == "whole journal")
    except NothingToExport:
        shop._say(f"has nothing to carry in the {source}")
    else:
        shop.pockets.records.append(path)
        found = upload_file.read_records(path)
        shop._witness.carried([each.envelope["record"] for each in found.records])
        shop._say(f"gives {made.records} records of the {source} to somebody")


def there_and_back(shop: Shop, rng: Random) -> None:
    """Somebody goes to the office with what is not uploaded, and waits for the answers."""
    before = len(shop.pockets.records), len(shop.pockets.answers)
    export_records(shop, rng)
    if len(shop.pockets.records) == before[0]:
        return
    said = _import(shop.pockets, shop.pockets.records[-1], shop._network, rng)
    shop._say(f"sends somebody to the office, who {said}")
    if len(shop.pockets.answers) > before[1]:
        _take(shop, shop.pockets.answers[-1], rng)


def keep_second_disk(shop: Shop, rng: Random) -> None:
    """The thread that copies to the second disk gets its turn; or somebody pulls the stick out, and
    it comes back with a file that is cut."""
    assert shop.till is not None and shop.second_disk is not None
    shop.second_disk.one_pass()
    check_second_disk(shop)
    files = sorted(shop.second_disk.folder.iterdir())
    if files and rng.random() < 0.3:
        file = rng.choice(files)
        file.write_bytes(_damaged(file.read_bytes(), rng))
        # A stick that is put in again is looked at again.
        shop.second_disk = second_disk_of(shop.till, shop.folder)
        shop._say(f"finds {file.name} of its second disk damaged")


def second_disk_of(till: Till, folder: Path) -> Mirror:
    """The product's mirror of this till's journal, without its thread: passes are made when asked
    for."""
    stick = folder.with_name(f"{folder.name}-stick")
    stick.mkdir(exist_ok=True)
    devices = {folder: 1}
    return Mirror(stick, till.journal, beside=folder, device=lambda path: devices.get(path, 2))


def check_second_disk(shop: Shop) -> None:
    """Raises Violation unless every record that is not decided stands on the second disk, and
    nothing else."""
    assert shop.till is not None and shop.second_disk is not None
    found = {
        Opened.of(json.loads(file.read_bytes())["record"]).payload["sequence"]
        for file in shop.second_disk.folder.iterdir()
    }
    wanted = _not_decided(Journal.read(shop.database, shop.name))
    standing = shop.second_disk.standing()
    if (found, standing.state, standing.waiting) != (wanted, "fine", 0):
        raise Violation("mirror", f"{shop.name} has {wanted} to upload, its second disk {found}")


def _not_decided(journal: Journal) -> set[int]:
    """The numbers of the records of what the ledger has not decided yet, as the till knows."""
    rows = (*journal.attempts, *journal.undos)
    decided = {row["id"]: row["state"] in _DECIDED for row in rows}
    answered = {row["sequence"] for row in journal.outcomes}
    return {
        row["sequence"]
        for row in journal.records
        if not decided.get(row["id"], row["sequence"] in answered)
    }


def take_answers(shop: Shop, rng: Random) -> None:
    """Some file of answers comes to the shop."""
    if shop.pockets.answers:
        _take(shop, rng.choice(shop.pockets.answers), rng)


def _take(shop: Shop, path: Path, rng: Random) -> None:
    assert shop.till is not None
    data = path.read_bytes()
    if rng.random() < _LOST_ON_THE_WAY:
        data = _damaged(data, rng)
    came = shop.pockets.new("came")
    came.write_bytes(data)
    try:
        found = upload_file.read_answers(came)
    except Malformed:
        shop._say("gets answers that nobody can read")
        return
    if found.chain.terminal != shop.till.enrolment.terminal:
        shop._say("gets another till's answers, and leaves them")
        return
    try:
        if found.ledger_keys is not None:
            shop.till.take_ledger_keys(found.ledger_keys)
    except (Malformed, SignatureInvalid):
        shop._say("gets answers with keys that are not the ledger's, and leaves them")
        return
    shop._witness.reads(shop.name, data)
    done = shop.till.take_answers(found.answers)
    shop._say(f"takes {done.taken} answers of {len(found.answers)}")
    shop._story.count("carried: answers taken", done.taken)
    shop.look_at_all()


# ── at the office ──────────────────────────────────────────────────────────────────────────────


def import_records(pockets: Pockets, network: Network, rng: Random) -> str:
    """Some file of records comes to the office: what is said of it."""
    if not pockets.records:
        return "waits for records that somebody carries"
    return _import(pockets, rng.choice(pockets.records), network, rng)


def _import(pockets: Pockets, path: Path, network: Network, rng: Random) -> str:
    data = path.read_bytes()
    if rng.random() < _LOST_ON_THE_WAY:
        data = _damaged(data, rng)
    came = pockets.new("came")
    came.write_bytes(data)
    try:
        found = upload_file.read_records(came)
    except Malformed:
        return f"can't read {path.name}"
    line = Line(partial(_by_the_office, network, rng))
    post = Import(found.chain, sorted(found.records, key=lambda each: each.sequence))
    said = f"posts {len(found.records)} records of {path.name}"
    try:
        post.post(lambda items: send_records(line, items))
    except (Unreachable, NotDecided):
        said += ", as far as the ledger answers"
    if post.answers:
        back = pockets.new("answers")
        keys = key_set(line)
        back.write_bytes(b"".join(upload_file.answers_lines(post.chain, post.documents(), keys)))
        pockets.answers.append(back)
    network.story.count("carried: records posted", len(post.answers))
    return said


def _damaged(data: bytes, rng: Random) -> bytes:
    """Cut somewhere, or with one byte that is another."""
    if not data:
        return b"?"
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
        return data[:at]
    return data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :]


def _by_the_office(network: Network, rng: Random, request: Request) -> Answer:
    """The office's way to the ledger has its bad days too."""
    answer = network.arrive(request)
    if answer is None or rng.random() < _LOST_ON_THE_WAY:
        raise Unreachable("no answer from the ledger (simulated)")
    return answer
