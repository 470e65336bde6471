"""The pack that a till holds: fetched, kept durably, and never replaced by a worse one.

docs/identity.md §3: a set of keys that is older, or not whole, does not replace the one held; an
unknown key may mean a rotation and is asked about, but not as often as somebody makes keys up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from carepos import pack
from carepos.client import Client
from carepos.clock import Clock
from carepos.errors import Malformed, NotDecided, Unreachable
from carepos.households import Household, HouseholdKey, read_segment
from carepos.keys import Keys, digest
from carepos.pack import Manifest, Pack
from carepos.unknown_key import may_ask


class PackKeeper:
    """Holds one terminal's pack. Safe to call from several threads."""

    def __init__(
        self,
        folder: Path,
        *,
        terminal: str,
        keys: Keys,
        client: Client,
        now: Clock,
        heard: Callable[[datetime], None],
        held: Pack | None,
        incarnation: str,
    ) -> None:
        self._folder = folder
        self._terminal = terminal
        self._keys = keys
        self._client = client
        self._now = now
        self._heard = heard
        self._incarnation = incarnation
        self._refreshing = threading.Lock()
        self._asked_at: datetime | None = None
        self.held = held

    def get(self) -> Pack:
        """The pack held; the first time it is fetched. Raises as `refresh`."""
        return self.held or self.refresh()

    def refresh(self) -> Pack:
        """Fetch the pack if the ledger has a newer one; keep it durably.

        Raises Unreachable, NotDecided, OSError; the pack held before stays.
        """
        with self._refreshing:
            return self._refresh()

    def drop_if_after(self, at: datetime) -> None:
        """Hold no pack that is dated after `at`: none made before its date could replace it."""
        with self._refreshing:
            if self.held is not None and self.held.issued_at > at:
                pack.drop(self._folder)
                self.held = None

    def refresh_for_unknown_key(self) -> bool:
        """Whether asking anew, at most once in five minutes, brought another pack.

        Never raises for a ledger that does not answer, nor for a disk that takes no pack: the till
        then judges by what it holds.
        """
        before = self.held
        with self._refreshing:
            now = self._now()
            if not may_ask(self._asked_at, now):
                return self._is_other(before)
            self._asked_at = now
            try:
                self._refresh()
            except (Unreachable, NotDecided, OSError):
                return False
        return self._is_other(before)

    def _is_other(self, before: Pack | None) -> bool:
        return self.held is not None and (before is None or self.held.sha256 != before.sha256)

    def _refresh(self) -> Pack:
        text = self._ask()
        try:
            told = pack.read_manifest(text, terminal=self._terminal, keys=self._keys)
            self._heard(told.issued_at)
            held = self.held
            if held is not None and held.is_whole and held.sha256 == told.sha256:
                return self._still_good(held, told, str(text))
            self._check_age(told)
            data = self._client.pack_file(told.sha256)
            fresh = pack.read(data, text, terminal=self._terminal, keys=self._keys)
            files = [data, *self._segments(fresh)]
        except Malformed as error:
            raise Unreachable(f"the ledger's pack can't be trusted: {error}") from error
        pack.keep(self._folder, files, str(text))
        self.held = fresh
        return fresh

    def _ask(self) -> object:
        """A manifest of a pack with this journal's households; or of what the tills of a store
        share, from a ledger that makes no others, or none for a till that is suspended."""
        try:
            return self._client.make_pack(self._incarnation)
        except NotDecided as error:
            if error.status not in (403, 404, 405):
                raise
        return self._client.pack_manifest()

    def _segments(self, fresh: Pack) -> Iterator[bytes]:
        """The households' files; only those are fetched that are not here already."""
        if fresh.households is None:
            return
        for segment in fresh.households.segments:
            data = pack.read_file(self._folder, segment.sha256)
            if data is None:
                data = self._client.pack_file(segment.sha256)
            if digest(data) != segment.sha256 or len(data) != segment.length:
                raise Malformed("is not the segment that the pack names", field="pack.households")
            yield data

    @property
    def has_households(self) -> bool:
        """Whether the pack held is one with households for this journal."""
        told = None if self.held is None else self.held.households
        return told is not None and told.incarnation == self._incarnation and bool(told.segments)

    def household(self, iss: str, sub: str) -> Household | None:
        """What the pack holds of this beneficiary, if anything for this journal. Raises nothing:
        what does not open is not there."""
        held = self.held
        if held is None or held.households is None or not self.has_households:
            return None
        told = held.households
        key = HouseholdKey.of(iss, sub, terminal=self._terminal, incarnation=self._incarnation)
        data = pack.read_file(self._folder, told.segments[key.segment].sha256)
        try:
            entry = None if data is None else read_segment(data).get(key.tag)
            if entry is None:
                return None
            return key.open(entry, kinds=len(told.kinds), dates=len(told.dates))
        except Malformed:
            return None

    def _still_good(self, held: Pack, told: Manifest, text: str) -> Pack:
        """The pack held, as old as the ledger's newest word that nothing in it has changed."""
        if (told.epoch, told.issued_at) <= (held.epoch, held.issued_at):
            return held
        pack.keep_manifest(self._folder, text)
        self.held = replace(held, issued_at=told.issued_at, epoch=told.epoch)
        return self.held

    def _check_age(self, told: Manifest) -> None:
        held = self.held
        if held is not None and (told.epoch, told.issued_at) < (held.epoch, held.issued_at):
            raise Malformed("is older than the one that is held", field="manifest")
