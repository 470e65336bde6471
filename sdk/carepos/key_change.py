"""A till changes its key without losing a sale (docs/identity.md §11).

The new key waits in `next.key` until the ledger has posted the change and certified it; until then
the old one signs. Which key is in use says the certificate in `enrolment.json`, whose one write is
the switch. So every crash leaves one key or the other:

    next.key made            the old key; the change is wished for, `go_on` writes it
    key_change written       the old key; it is sent until it is posted
    posted kept              the old key; the certificate is fetched
    enrolment.json written   THE SWITCH: the new key, though it lies in next.key still
    next.key renamed         the new key; the old one is overwritten
    start written            the new key; once the ledger has it, the old one is worth nothing
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from carepos import durable, outcome
from carepos.client import Client
from carepos.enrolment import Enrolment, EnrolmentFile
from carepos.errors import EnrolmentFailed, Malformed, NotDecided, Unreachable
from carepos.journal import Journal
from carepos.keys import Keys, SigningKey, secret_text
from carepos.record import KeyChange, Record

KEY_FILE: Final = "terminal.key"
NEXT_FILE: Final = "next.key"

POINTS: Final = (
    "next_key_made",
    "change_written",
    "change_posted",
    "certificate_fetched",
    "key_switched",
    "key_renamed",
    "start_written",
)


@dataclass(frozen=True, slots=True)
class KeyState:
    """The key that signs now (`kid`), whether another waits to take its place, and what stood in
    its way last."""

    kid: str
    changing: bool
    problem: str | None


def wish(folder: Path) -> bool:
    """Lay a new key beside the one in use, unless one waits already: the till of this folder, also
    one that is running, then changes to it. Whether it was made. Raises OSError."""
    path = folder / NEXT_FILE
    if _load(path) is not None:
        return False
    data = secret_text(SigningKey.generate().secret())
    try:
        durable.create(path, data)
    except FileExistsError:
        # Never in the place of a key that another process made just now: by the time of the write
        # the till could sign with that one.
        if _load(path) is not None:
            return False
        durable.write(path, data, mode=0o600)
    return True


def is_wished(folder: Path) -> bool:
    return (folder / NEXT_FILE).exists()


def load_terminal(folder: Path) -> tuple[SigningKey, Enrolment]:
    """The key that a till signs with, and its enrolment; only read, also beside a running till.

    Raises FileNotFoundError where no key is, Malformed for one that is none, EnrolmentFailed, also
    where the key of an enrolled till is gone.
    """
    try:
        return _load_terminal(folder)
    except FileNotFoundError:
        refuse_lost_key(folder)
        raise
    except (EnrolmentFailed, Malformed):
        # A running till may have switched between the reading of one file and the other.
        return _load_terminal(folder)


def refuse_lost_key(folder: Path) -> None:
    """Raises EnrolmentFailed, with what to do, where a till is enrolled and its key is gone: to
    enrol the folder anew is no way out."""
    if (folder / "enrolment.json").exists() and not (folder / KEY_FILE).exists():
        raise EnrolmentFailed(
            f"{folder} is enrolled, but {KEY_FILE} is gone from it and can't be made anew: put it "
            "back. If it is lost, make a file of what is not uploaded for the programme's office "
            "(carepos till export FILE --all), keep the folder, and enrol a new till in another one"
        )


def _load_terminal(folder: Path) -> tuple[SigningKey, Enrolment]:
    following = _load(folder / NEXT_FILE)
    try:
        found = [SigningKey.load(folder / KEY_FILE)]
    except Malformed:
        if following is None:
            raise
        found = []  # overwritten already, not yet replaced
    if following is not None:
        found.append(following)
    enrolled = Enrolment.load(folder / "enrolment.json", *(key.public for key in found))
    return next(key for key in found if key.kid == enrolled.key.kid), enrolled


def finish_switch(folder: Path, key: SigningKey) -> None:
    """Put the key in use into its place, if a crash came between: by the till's own process."""
    following = _load(folder / NEXT_FILE)
    if following is not None and following.kid == key.kid:
        _rename(folder)


def _rename(folder: Path) -> None:
    """The old key's file is overwritten and then replaced. What a disk keeps besides is out of
    reach: it is the ledger that makes the old key worth nothing."""
    durable.overwrite(folder / KEY_FILE)
    (folder / NEXT_FILE).replace(folder / KEY_FILE)
    durable.sync_folder(folder)


def _load(path: Path) -> SigningKey | None:
    """The key in `path`; none where nothing is, or nothing that is a key."""
    with contextlib.suppress(FileNotFoundError, Malformed):
        return SigningKey.load(path)
    return None


class KeyChanger:
    """One running till's changes of key. Safe to call from several threads."""

    def __init__(
        self,
        folder: Path,
        *,
        file: EnrolmentFile,
        journal: Journal,
        client: Client,
        ledger_keys: Keys,
        software: str,
        reached: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._file = file
        self._journal = journal
        self._client = client
        self._ledger_keys = ledger_keys
        self._software = software
        self._reached = reached
        self._changing = threading.Lock()
        self._problem: str | None = None

    def state(self) -> KeyState:
        return KeyState(self._file.enrolled.key.kid, is_wished(self._folder), self._problem)

    def wish(self) -> None:
        """As `wish`, for this till."""
        with self._changing:
            if wish(self._folder):
                self._reached("next_key_made")

    def write(self) -> None:
        """Write the record of a change that is wished for, once. Raises JournalClosed."""
        if not is_wished(self._folder):
            return
        with self._changing:
            if not is_wished(self._folder):
                return  # another thread has changed over meanwhile
            wish(self._folder)  # where it was damaged: it has signed nothing and never will
            following = SigningKey.load(self._folder / NEXT_FILE)
            if self._written(following) is None:
                self._journal.write_key_change(following)
                self._reached("change_written")

    def switch(self) -> bool:
        """Go over to the new key, if the ledger has posted the change; whether it was done.

        Needs the ledger once more, for the certificate. Raises OSError, JournalClosed.
        """
        if not is_wished(self._folder):
            return False
        with self._changing:
            following = _load(self._folder / NEXT_FILE)
            if following is None:
                return False
            # Else only the file's name could not be changed when it was switched.
            if following.kid != self._file.enrolled.key.kid:
                fresh = self._certified(following)
                if fresh is None:
                    return False
                # With it the ledger's keys may have been renewed, which must not be undone.
                self._file.change(lambda held: replace(fresh, ledger_keys=held.ledger_keys))
                self._reached("key_switched")
            # Reads first: the old key's count until the first record under the new one is there.
            self._client.use_key(following)
            self._journal.use_key(following)
            _rename(self._folder)
            self._reached("key_renamed")
            self._journal.write_start(self._software)
            self._reached("start_written")
            self._problem = None
            return True

    def note(self, problem: str | None) -> None:
        """What was said last about a change that is still waiting."""
        self._problem = problem

    def _written(self, following: SigningKey) -> Record | None:
        """This journal's record that announces the key."""
        for each in self._journal.records("key_change"):
            if isinstance(each.content, KeyChange) and each.content.key == following.public:
                return each
        return None

    def _certified(self, following: SigningKey) -> Enrolment | None:
        """The enrolment under the new key, once the change is posted; None while it is not."""
        written = self._written(following)
        if written is None:
            return None
        try:
            if not any(
                outcome.read_bound(text, written, keys=self._ledger_keys).result == "posted"
                for text in self._journal.outcomes_of(written.sequence)
            ):
                return None
            self._reached("change_posted")
            text = self._client.certificate(following)
            fresh = self._file.enrolled.with_key(text, following.public, self._ledger_keys)
        except (Unreachable, NotDecided, Malformed) as error:
            self._problem = f"no certificate for the new key: {error}"
            return None
        self._reached("certificate_fetched")
        return fresh
