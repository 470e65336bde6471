"""Issuers' keys for whoever verifies tokens by themselves: fetched, kept in one file, never spoilt.

docs/identity.md §3. A set that is held goes on being believed without a network; another replaces
it only as `IssuerKeys.replaced_by` allows. Several processes may share the file.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from carepos import clock, durable, key_source, revocation, strict_json, unknown_key
from carepos.clock import Clock
from carepos.errors import Malformed, TokenRefused, Unreachable
from carepos.issuer_keys import IssuerKeys, issuer_text
from carepos.keys import digest
from carepos.presentation import Presentation
from carepos.revocation import Revocations
from carepos.token import IdentityToken, TokenVerifier

MAX_FILE_BYTES: Final = 16 * 2**20
_NAMES: Final = frozenset({"keys", "asked_at", "problem"})


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is kept of one issuer."""

    keys: IssuerKeys | None = None
    asked_at: datetime | None = None
    problem: str | None = None


class KeyStore:
    """The keys of some issuers, in a file. Safe to call from several threads and processes.

    `sources` maps each issuer to the address of its JWKS (https; http only on this machine): what
    the file holds of others is not believed. `ca_file` (PEM) pins who may vouch for these
    addresses. Nothing is fetched before `refresh()`, which a daily job should call, or before a
    token names a key that is not known.
    """

    def __init__(
        self,
        file: Path | str,
        sources: Mapping[str, str],
        *,
        now: Clock = clock.system_clock,
        ca_file: Path | None = None,
        deadline_s: float = key_source.DEADLINE_S,
    ) -> None:
        """Raises Malformed for a source that is none, and for a file that is damaged: a store
        that was good before must not begin again with whatever comes first. OSError for a file
        that is there and can't be read."""
        self._file = Path(file)
        self._sources = {
            issuer_text(iss): key_source.source_url(url, "sources") for iss, url in sources.items()
        }
        self._now = now
        self._ca_file = ca_file
        self._deadline_s = deadline_s
        self._mutex = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._believed: dict[str, IssuerKeys] = {}
        self._seen: tuple[int, int, int] | None = None
        with self._mutex:
            self._read_again()

    def verifier(self, audience: str, revoked: Revocations = revocation.NONE) -> TokenVerifier:
        """A TokenVerifier over this store as it stands at each call.

        A token whose key is not known makes it ask the issuer anew, at most once in five minutes
        per issuer whatever it is shown; then the token is judged by what the store has.
        """
        return _StoreVerifier(self, audience, revoked)

    @property
    def issuers(self) -> Mapping[str, IssuerKeys]:
        """The keys believed, by `iss`; a view that changes with the store."""
        return MappingProxyType(self._believed)

    def refresh(self) -> Mapping[str, str]:
        """Fetch every issuer's set. What went wrong, by `iss`; empty when all are fresh.

        A set that is refused, or does not come, leaves the one held as it is. Raises OSError when
        the file can't be written, Malformed when it is damaged.
        """
        problems = {}
        for iss in sorted(self._sources):
            self._note_asking(iss)
            problem = self._ask(iss)
            if problem is not None:
                problems[iss] = problem
        return problems

    def confirm(self, iss: str, thumbprints: Collection[str]) -> None:
        """Believe the set that `iss` publishes now although it shares no key with the one held.

        Only if its keys are exactly those of the RFC 7638 `thumbprints` that a person has compared
        with the issuer. Raises Unreachable, SetRefused, KeyError for an issuer without a source.
        """
        self._note_asking(iss)
        newer = self._fetched(iss)
        newer.confirmed_by(thumbprints)
        with self._changing():
            self._take(iss, newer, confirmed=True)

    def ages(self) -> Mapping[str, timedelta | None]:
        """How long ago each issuer's set was confirmed by the issuer; None: none is held."""
        self._catch_up()
        now = self._now()
        ages: dict[str, timedelta | None] = {}
        for iss in sorted(self._sources):
            held = self._believed.get(iss)
            ages[iss] = None if held is None else now - held.as_of
        return ages

    def problems(self) -> Mapping[str, str]:
        """Why the last fetch was in vain, by `iss`."""
        self._catch_up()
        entries = self._entries
        return {
            iss: entry.problem
            for iss in sorted(self._sources)
            if (entry := entries.get(iss)) is not None and entry.problem is not None
        }

    # ── asking ─────────────────────────────────────────────────────────────────────────────────

    def _learns(self, iss: str) -> bool:
        """Whether asking about an unknown key, if it may be asked, brought this issuer other keys.

        Never raises for a source, a file or a disk that fails: the token is judged by what is held.
        """
        if iss not in self._sources:
            return False
        before = self._believed.get(iss)
        try:
            if self._claim(iss):
                self._ask(iss)
        except (OSError, Malformed):
            pass
        return self._believed.get(iss) is not before

    def _claim(self, iss: str) -> bool:
        """Whether this thread, of all that share the file, is the one to ask now."""
        if not unknown_key.may_ask(self._asked_at(iss), self._now()):
            return False
        with self._changing():
            if not unknown_key.may_ask(self._asked_at(iss), self._now()):
                return False
            self._entries[iss] = replace(self._entry(iss), asked_at=self._now())
            return True

    def _note_asking(self, iss: str) -> None:
        with self._changing():
            self._entries[iss] = replace(self._entry(iss), asked_at=self._now())

    def _ask(self, iss: str) -> str | None:
        """Fetch one set and take it if it may be taken; the problem otherwise."""
        problem = None
        newer = None
        try:
            newer = self._fetched(iss)
        except (Unreachable, Malformed) as error:
            problem = _shown(error)
        with self._changing():
            if newer is not None:
                try:
                    self._take(iss, newer, confirmed=False)
                except Malformed as error:
                    problem = _shown(error)
            self._entries[iss] = replace(self._entry(iss), problem=problem)
        return problem

    def _fetched(self, iss: str) -> IssuerKeys:
        # As of when it was asked for: of two that overtake each other the later one stays.
        asked_at = self._now()
        document = key_source.fetch(
            self._sources[iss], deadline_s=self._deadline_s, ca_file=self._ca_file
        )
        return IssuerKeys.from_jwks(document, asked_at)

    def _take(self, iss: str, newer: IssuerKeys, *, confirmed: bool) -> None:
        held = self._entry(iss).keys
        made = newer
        if held is not None:
            made = held.replaced_by(newer, confirmed=confirmed, now=self._now())
        self._entries[iss] = replace(self._entry(iss), keys=made, problem=None)
        self._believed[iss] = made

    def _asked_at(self, iss: str) -> datetime | None:
        return self._entry(iss).asked_at

    def _entry(self, iss: str) -> _Entry:
        return self._entries.get(iss) or _Entry()

    # ── the file ───────────────────────────────────────────────────────────────────────────────

    def _catch_up(self) -> None:
        """Learn what another process wrote; a file that is damaged, or can't be reached, teaches
        nothing."""
        try:
            if _signature(self._file) == self._seen:
                return
            with self._mutex:
                self._read_again()
        except (OSError, Malformed):
            # What this process holds was good, and is written anew with its next change.
            return

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """What is changed inside is changed in what the file says now, and written."""
        with self._mutex, durable.lock(self._file.with_name(f"{self._file.name}.lock"), wait=True):
            try:
                self._read_again()
            except Malformed:
                if not self._believed:
                    raise
            yield
            durable.write(self._file, _to_bytes(self._entries))
            self._seen = _signature(self._file)

    def _read_again(self) -> None:
        seen = _signature(self._file)
        if seen == self._seen:
            return
        entries = {} if seen is None else _from_bytes(self._file)
        if seen is None and self._believed:
            return  # somebody removed it: what is held stays, and is written with the next change
        for iss, held in self._believed.items():
            told = entries.get(iss, _Entry())
            if told.keys is None or told.keys.as_of < held.as_of <= self._now():
                # An old copy of the file was put back: a set that is held never goes back. One
                # that a wrong clock dated into the future is not newer than what came after it.
                entries[iss] = replace(told, keys=held)
        self._entries = entries
        for iss in self._sources:
            keys = self._entry(iss).keys
            if keys is not None and keys != self._believed.get(iss):
                self._believed[iss] = keys
        self._seen = seen


class _StoreVerifier(TokenVerifier):
    """Verifies with what the store holds, and lets it ask when a key is not known."""

    def __init__(self, store: KeyStore, audience: str, revoked: Revocations) -> None:
        super().__init__(store.issuers, audience, revoked)
        self._store = store

    def examine(self, scanned: str | Presentation, now: datetime) -> IdentityToken:
        """As TokenVerifier, `verify` too; an unknown key is asked about first."""
        self._store._catch_up()  # noqa: SLF001  one concept, two classes
        try:
            return super().examine(scanned, now)
        except TokenRefused as refused:
            # Its issuer is not known where a source's set was never fetched.
            iss = unknown_key.issuer_named(scanned)
            asks = unknown_key.is_meant_or_its_issuer(refused)
            if not asks or iss is None or not self._store._learns(iss):  # noqa: SLF001
                raise
        return super().examine(scanned, now)


def _shown(error: Exception) -> str:
    """Its sentence so that it can be kept: what came from outside is bounded and printable."""
    return "".join(c for c in str(error) if c.isprintable())[:2_000]


def _signature(file: Path) -> tuple[int, int, int] | None:
    """What changes whenever the file is replaced; None when there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _to_bytes(entries: Mapping[str, _Entry]) -> bytes:
    body: dict[str, Any] = {
        iss: {
            "keys": None if entry.keys is None else entry.keys.to_json(),
            "asked_at": None if entry.asked_at is None else clock.to_text(entry.asked_at),
            "problem": entry.problem,
        }
        for iss, entry in entries.items()
    }
    whole = {"v": 1, "sha256": digest(strict_json.canonical(body)), "issuers": body}
    return strict_json.canonical(whole) + b"\n"


def _from_bytes(file: Path) -> dict[str, _Entry]:
    """Raises Malformed, saying what to do, for a file that is not whole or not a store's."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise Malformed("is too large")
        names = strict_json.exact_names(
            strict_json.read_object(data), {"v", "sha256", "issuers"}, where="file"
        )
        issuers = strict_json.mapping(names["issuers"], "issuers", high=10_000)
        if names["v"] != 1 or names["sha256"] != digest(strict_json.canonical(dict(issuers))):
            raise Malformed("was changed since it was written")
        return {iss: _entry_from(value) for iss, value in issuers.items()}
    except Malformed as error:
        raise Malformed(
            f"is damaged, or no file of a key store ({error}): put back a copy of it, or remove it "
            "and compare the keys that are fetched anew with the issuers",
            field=file.name,
        ) from None


def _entry_from(value: object) -> _Entry:
    names = strict_json.exact_names(value, _NAMES, where="issuers")
    keys, asked_at, problem = names["keys"], names["asked_at"], names["problem"]
    return _Entry(
        None if keys is None else IssuerKeys.from_json(keys),
        None if asked_at is None else clock.from_text(asked_at, "asked_at"),
        None if problem is None else strict_json.text(problem, "problem", high=4_000),
    )
