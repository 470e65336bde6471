"""The pack that a till holds: fetched, kept durably, and never replaced by a worse one.

docs/identity.md §3: a set of keys that is older, or not whole, does not replace the one held; an
unknown key may mean a rotation and is asked about, but not as often as somebody makes keys up.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from carepos import pack
from carepos.client import Client
from carepos.clock import Clock
from carepos.errors import Malformed, NotDecided, Unreachable
from carepos.keys import Keys
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
        held: Pack | None,
    ) -> None:
        self._folder = folder
        self._terminal = terminal
        self._keys = keys
        self._client = client
        self._now = now
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
        text = self._client.pack_manifest()
        try:
            told = pack.read_manifest(text, terminal=self._terminal, keys=self._keys)
            if self.held is not None and self.held.sha256 == told.sha256:
                return self._still_good(self.held, told, str(text))
            self._check_age(told)
            data = self._client.pack_file(told.sha256)
            fresh = pack.read(data, text, terminal=self._terminal, keys=self._keys)
        except Malformed as error:
            raise Unreachable(f"the ledger's pack can't be trusted: {error}") from error
        pack.keep(self._folder, data, str(text))
        self.held = fresh
        return fresh

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
