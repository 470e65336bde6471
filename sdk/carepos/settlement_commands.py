"""`carepos reconcile` and `carepos settlement …`: what a shop does with its settlement files.

Exit codes: 0 agreed, or every difference explained; 1 unexplained differences, or `settlement
check` refused a file; 2 used wrongly, or something that is needed is not there or not good.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from carepos import (
    clock,
    durable,
    key_change,
    ledger_keys,
    settlement,
    settlement_folder,
    strict_json,
)
from carepos.client import Client, Transport
from carepos.clock import Clock
from carepos.enrolment import Enrolment
from carepos.errors import EnrolmentFailed, JournalError, Malformed
from carepos.journal_view import JournalView
from carepos.keys import Keys, PublicKey, SigningKey
from carepos.ledger_keys import LedgerKeyKeeper, LedgerKeys
from carepos.money import format_amount
from carepos.reconcile import reconcile

AGREED, DIFFERENT, UNUSABLE = 0, 1, 2
KEYS_FILE = "ledger-keys.json"
"""Kept beside fetched files, so that they can be checked where no till is."""


@dataclass(frozen=True, slots=True)
class TillFolder:
    """A till's folder as others may look at it: who it is, and whom it believes."""

    path: Path
    enrolled: Enrolment
    key: SigningKey

    @classmethod
    def load(cls, path: Path) -> TillFolder:
        """Raises EnrolmentFailed when no till is there."""
        try:
            key, enrolled = key_change.load_terminal(path)
        except FileNotFoundError:
            raise EnrolmentFailed(f"{path} is not the folder of an enrolled till") from None
        return cls(path, enrolled, key)

    def journal(self) -> JournalView:
        """Raises JournalError when there is none, or another till's."""
        view = JournalView.open(self.path / "journal.db", self.enrolled.terminal_keys)
        if view.about().get("terminal") != self.enrolled.terminal:
            view.close()
            raise JournalError(f"{self.path / 'journal.db'} is another till's journal")
        return view

    def client(self, now: Clock) -> Client:
        return Client(
            Transport(self.enrolled.url),
            terminal=self.enrolled.terminal,
            ledger=self.enrolled.ledger_keys.ledger,
            key=self.key,
            now=now,
        )


def group(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `reconcile` and `settlement` to the carepos command."""
    one = subparsers.add_parser(
        "reconcile",
        help="compare tills' journals with settlement files 对账",
        description="Compare tills' journals with settlement files and name each difference.",
    )
    one.add_argument(
        "--till",
        type=Path,
        action="append",
        required=True,
        metavar="FOLDER",
        help="a till's folder; repeat it for several tills",
    )
    one.add_argument("--settlements", type=Path, required=True, metavar="DIR")
    one.add_argument(
        "--all-tills",
        action="store_true",
        help="lines of tills that are not given are differences too",
    )
    one.add_argument("--json", action="store_true", help="for programs instead of people")
    one.set_defaults(run=_reconcile)

    many = subparsers.add_parser(
        "settlement", help="fetch and check settlement files 结算文件"
    ).add_subparsers(required=True, metavar="COMMAND")
    fetch = many.add_parser("fetch", help="download this merchant's files, verified")
    fetch.add_argument("--till", type=Path, required=True, metavar="FOLDER")
    fetch.add_argument("--to", type=Path, required=True, metavar="DIR")
    fetch.set_defaults(run=_fetch)
    check = many.add_parser("check", help="check every file of a folder")
    check.add_argument("dir", type=Path, metavar="DIR")
    check.add_argument(
        "--till",
        type=Path,
        metavar="FOLDER",
        help="believe this till's ledger; without it the keys kept beside the files",
    )
    check.set_defaults(run=_check)


# ── reconcile ──────────────────────────────────────────────────────────────────────────────────


def _reconcile(args: argparse.Namespace) -> int:
    tills = [TillFolder.load(path) for path in args.till]
    merchant = _one_merchant(tills)
    folder = _folder(args.settlements)
    keys = _believed(folder, [till.enrolled.ledger_keys for till in tills]).keys
    batches = settlement_folder.read_folder(folder, keys, merchant=merchant)
    try:
        with ExitStack() as opened:
            journals = [opened.enter_context(closing(till.journal())) for till in tills]
            found = reconcile(journals, batches, keys, every_terminal=args.all_tills)
    except sqlite3.Error as error:
        raise JournalError(
            f"a till's journal can't be read to its end ({error}): if it is a copy, copy it again "
            "while the till is stopped"
        ) from error
    if args.json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=2))
    else:
        print(found.to_text(), end="")
    return DIFFERENT if found.unexplained else AGREED


def _one_merchant(tills: Sequence[TillFolder]) -> str:
    found = {(till.enrolled.ledger_keys.root, till.enrolled.merchant) for till in tills}
    if len(found) > 1:
        raise Malformed("the tills are not all of one merchant at one ledger", field="--till")
    return found.pop()[1]


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise Malformed("is no folder", field=str(path))
    return path


# ── fetch ──────────────────────────────────────────────────────────────────────────────────────


def _fetch(args: argparse.Namespace) -> int:
    till = TillFolder.load(args.till)
    with closing(till.client(clock.system_clock)) as client:
        kept, fresh = fetch(client, till.enrolled, args.to)
    print(f"{fresh} new, {kept} kept before, all verified: {args.to}")
    return AGREED


def fetch(client: Client, enrolled: Enrolment, folder: Path) -> tuple[int, int]:
    """Download the merchant's settlements that `folder` lacks: (held before, new).

    Each pair of files is verified before it is kept, the CSV first, so that what has a manifest is
    whole. The keys that verified them are kept beside them; where a manifest was signed by another
    one, the ledger is asked for its newer set. A file that is held is never replaced by another of
    its number, and one that the ledger no longer lists is named. Raises Malformed for what does
    not verify, NotDecided, Unreachable, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _keep_keys(folder, _believed(folder, [enrolled.ledger_keys]))
    keys = LedgerKeyKeeper(
        held=lambda: _kept_keys(folder),
        keep=lambda newer: _keep_keys(folder, newer),
        ask=client.key_set,
        now=clock.system_clock,
    ).find
    kept = fresh = 0
    listed = set()
    for offered in client.settlements():
        manifest, digest = settlement.read_manifest(offered["manifest"], keys)
        if manifest.merchant != enrolled.merchant:
            raise Malformed(
                f"is the file of {manifest.merchant}, not of {enrolled.merchant}",
                field=manifest.file_name,
            )
        named = (offered["programme"], offered["batch_no"])
        if named != (manifest.programme, manifest.batch_no):
            raise Malformed("is not the file it is listed as", field=manifest.file_name)
        listed.add(manifest.file_name)
        if _is_held(folder, manifest.file_name, digest, keys):
            kept += 1
            continue
        data = client.settlement_file(manifest.programme, manifest.batch_no)
        batch = settlement.read_batch(data, offered["manifest"], keys)
        durable.write(folder / batch.name, data)
        durable.write(
            folder / settlement.manifest_name(batch.name), batch.manifest_jws.encode("ascii")
        )
        fresh += 1
    for held in settlement_folder.read_folder(folder, keys, merchant=enrolled.merchant):
        if held.name not in listed:
            raise Malformed(
                "is held here, but the ledger no longer lists it: keep it and call the "
                "programme's office",
                field=held.name,
            )
    return kept, fresh


def _is_held(folder: Path, name: str, digest: str, keys: Keys) -> bool:
    """Whether the pair is there and whole. Raises Malformed when another one has its number."""
    try:
        text = (folder / settlement.manifest_name(name)).read_text("ascii").strip()
        if settlement.read_manifest(text, keys)[1] == digest:
            settlement.read_batch((folder / name).read_bytes(), text, keys)
            return True
    except (FileNotFoundError, UnicodeDecodeError, Malformed):
        return False  # a part is missing or was damaged here: fetched anew
    raise Malformed(
        "the ledger now offers another file of this number than the one held here: "
        "call the programme's office",
        field=name,
    )


def _believed(folder: Path, of_tills: Sequence[LedgerKeys]) -> LedgerKeys:
    """The newest key set of the tills and of the folder: tills that have not met a newer key hold
    older ones. Raises Malformed where they are not of one ledger."""
    kept = [_kept_keys(folder)] if (folder / KEYS_FILE).exists() else []
    if any(each.root != of_tills[0].root for each in kept):
        raise Malformed("holds another ledger's files", field=str(folder))
    return ledger_keys.newest([*of_tills, *kept])


def _keep_keys(folder: Path, keys: LedgerKeys) -> None:
    data = json.dumps(keys.document(), indent=2).encode() + b"\n"
    durable.write(folder / KEYS_FILE, data)


# ── check ──────────────────────────────────────────────────────────────────────────────────────


def _check(args: argparse.Namespace) -> int:
    folder = _folder(args.dir)
    if args.till is not None:
        till = TillFolder.load(args.till)
        keys = _believed(folder, [till.enrolled.ledger_keys]).keys
        merchant = till.enrolled.merchant
    else:
        believed = _kept_keys(folder)
        keys, merchant = believed.keys, None
        print(f"Believing the keys kept here, of the ledger with root key {believed.root.kid}")
    try:
        batches = settlement_folder.read_folder(folder, keys, merchant=merchant)
    except Malformed as error:
        print(f"REFUSED 拒收 {error}")
        return DIFFERENT
    for batch in batches:
        manifest = batch.manifest
        net = format_amount(manifest.net_minor, manifest.currency)
        print(f"good 有效 {batch.name}: {manifest.rows} lines, {net} {manifest.currency}")
    print(f"{len(batches)} files, none missing in between 文件连续")
    return AGREED


def _kept_keys(folder: Path) -> LedgerKeys:
    path = folder / KEYS_FILE
    try:
        document = strict_json.exact_names(
            strict_json.read(path.read_bytes()), {"root", "keyset"}, where=KEYS_FILE
        )
        return LedgerKeys.read(document, PublicKey.from_jwk(document["root"]).kid)
    except FileNotFoundError:
        raise Malformed(
            "no ledger's keys are kept here; name a till with --till", field=str(folder)
        ) from None
    except Malformed as error:
        raise Malformed(
            f"is damaged ({error}): remove it and fetch again", field=str(path)
        ) from None
