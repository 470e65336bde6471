"""A till's records as a file to carry (docs/offline.md §10), from its journal or from its mirror.

Signatures are not looked at here: whoever carries a file needs no key, and what a disk garbled is
found where the file is read.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carepos import attempt, durable, jws, upload_file
from carepos.errors import CareposError, JournalError, Malformed
from carepos.journal_view import JournalView
from carepos.keys import KeySet
from carepos.upload_file import BadLine, Carried, Chain

Progress = Callable[[int, int], None]
"""Told (done, of all)."""


class NothingToExport(CareposError):
    """The ledger has an answer to all that there is; no file was made."""


@dataclass
class Exported:
    """What stands in the file. `sums`: by currency (sales without the ledger's word, their minor
    units). `asked`: sales left out because it is not known whether their goods left. `bad`: files
    of a mirror that could not be read."""

    chain: Chain
    records: int
    from_sequence: int
    to_sequence: int
    sums: dict[str, tuple[int, int]] = field(default_factory=dict)
    asked: int = 0
    bad: tuple[BadLine, ...] = ()


def of_journal(
    journal: JournalView,
    path: Path,
    *,
    everything: bool = False,
    progress: Progress = lambda done, of: None,
) -> Exported:
    """Make `path` of every record that has no final outcome, or of the whole chain; a till may go
    on writing meanwhile.

    Raises NothingToExport, FileExistsError, OSError; then there is no new file.
    """
    about = journal.about()
    chain = Chain(about["terminal"], about["incarnation"])
    found = journal.to_upload(None if everything else attempt.GOES_UP)
    asked = 0 if everything else len(journal.attempts("accepted", "accept_asked"))
    if not found:
        raise NothingToExport(
            f"only {asked} {'sale waits' if asked == 1 else 'sales wait'} for the cashier's word "
            "whether the goods left"
            if asked
            else "all of it is uploaded"
        )
    envelopes = (journal.envelope_at(sequence, sealed=sealed) for sequence, sealed in found)
    made = Exported(chain, len(found), found[0][0], found[-1][0], asked=asked)
    numbers = [sequence for sequence, _ in found]
    _write(path, made, numbers, envelopes, progress)
    return made


def of_mirror(folder: Path, path: Path, *, progress: Progress = lambda done, of: None) -> Exported:
    """Make `path` of a mirror (`mirror`): of the folder of one journal, or of one that holds just
    that. Raises as `of_journal`, and CareposError where it is not clear of which."""
    found: list[Carried] = []
    bad: list[BadLine] = []
    chain: Chain | None = None
    folder = _one_mirror(folder)
    for each in sorted(folder.glob("[0-9]*.json")):
        number = int(each.stem) if each.stem.isdigit() else 0
        try:
            data = each.read_bytes()
            chain = chain or upload_file.chain_of(data)
            found.append(upload_file.read_record(data, chain, line=number))
        except (Malformed, OSError) as error:
            bad.append(BadLine(number, str(error)))
    if chain is None or not found:
        if bad:
            raise CareposError(f"none of the {len(bad)} files in {folder} can be read")
        raise NothingToExport("all of it is uploaded")
    found.sort(key=lambda each: each.sequence)
    numbers = [each.sequence for each in found]
    made = Exported(chain, len(found), numbers[0], numbers[-1], bad=tuple(bad))
    _write(path, made, numbers, (each.envelope for each in found), progress)
    return made


@contextmanager
def looked_at(folder: Path, *, running: bool) -> Iterator[JournalView]:
    """The journal in a till's folder, without its keys: beside the till that is `running`, else a
    copy of it, so that nothing in the folder is changed and it may be a disk that can't be written.

    Raises JournalError, OSError.
    """
    path = folder / "journal.db"
    with ExitStack() as stack:
        if not running and path.exists():
            lock = path.with_name(path.name + ".lock")
            if lock.exists():
                try:
                    stack.callback(durable.lock(lock).close)
                except BlockingIOError:
                    raise JournalError("a till began to run in this folder: try again") from None
                except OSError:
                    pass  # on a disk that can't be written no till runs
            copies = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carepos-")))
            for name in (path.name, f"{path.name}-wal"):
                if (folder / name).exists():
                    shutil.copyfile(folder / name, copies / name)
            path = copies / path.name
        yield stack.enter_context(closing(JournalView.open(path, KeySet([]))))


def _one_mirror(folder: Path) -> Path:
    if not folder.is_dir():
        raise CareposError(f"there is no folder {folder}: is the second disk connected?")
    if any(folder.glob("[0-9]*.json")):
        return folder
    inside = sorted(each for each in folder.iterdir() if any(each.glob("[0-9]*.json")))
    if len(inside) > 1:
        names = ", ".join(each.name for each in inside)
        raise CareposError(f"{folder} holds the mirrors of several journals, name one: {names}")
    return inside[0] if inside else folder


def _write(
    path: Path,
    made: Exported,
    numbers: list[int],
    envelopes: Iterable[Mapping[str, Any]],
    progress: Progress,
) -> None:
    def counted() -> Iterator[Mapping[str, Any]]:
        sold: dict[str, tuple[str, int]] = {}
        for done, each in enumerate(envelopes, 1):
            _add_up(made, sold, each)
            progress(done, len(numbers))
            yield each

    if path.exists():
        # Found early: a long file is not made in vain.
        raise FileExistsError(errno.EEXIST, "is there already: name another file", str(path))
    durable.create(path, upload_file.records_lines(made.chain, numbers, counted()))


def _add_up(made: Exported, sold: dict[str, tuple[str, int]], envelope: Mapping[str, Any]) -> None:
    """A sale is counted with its acceptance, which is behind it. What a disk garbled goes along:
    whoever reads the file names it."""
    with suppress(Malformed, KeyError, TypeError):
        _, said = jws.peek(envelope["record"], typ=jws.RECORD)
        if said["kind"] == "redeem":
            parts = said["content"]["allocation"]
            minor = sum(part["programme_minor"] for part in parts)
            sold[said["id"]] = said["content"]["currency"], minor
        elif said["kind"] == "accept_offline":
            currency, minor = sold.pop(said["id"])
            count, before = made.sums.get(currency, (0, 0))
            made.sums[currency] = count + 1, before + minor
