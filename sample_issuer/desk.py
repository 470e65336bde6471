"""From a person who signed in to a care code: known here, checked well enough, not too often."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from carepos.clock import Clock
from carepos.issuer_folder import ABOUT, IssuerFolder
from carepos.minting import Mint, Minted
from sample_issuer.id_token import Person
from sample_issuer.links import Links
from sample_issuer.pace import Pace, Seconds
from sample_issuer.problems import Problem
from sample_issuer.settings import Settings

Use = Literal["redeem", "self"]

CODES: Final = 12
WINDOW_S: Final = 600.0


class Desk:
    """Mints with the keys that stand in the folder now. Safe to use from several threads."""

    def __init__(self, folder: Path, settings: Settings, now: Clock, seconds: Seconds) -> None:
        self._path = folder
        self._settings = settings
        self._now = now
        self._lock = threading.Lock()
        self._links = Links.load(folder, settings.expected.issuer)
        self._paces: dict[Use, Pace] = {
            "redeem": Pace(CODES, WINDOW_S, seconds),
            "self": Pace(CODES, WINDOW_S, seconds),
        }
        self._seen = -1
        self._folder = IssuerFolder.load(folder)

    def admit(self, person: Person) -> tuple[str, list[str]]:
        """(beneficiary's sub, methods to pass on). Raises Problem."""
        sub = self._links.sub_of(person.sub)
        if sub is None:
            raise Problem("person_unknown", "nothing was issued to this account")
        allowed = self._settings.methods
        methods = sorted({allowed[each] for each in person.amr if each in allowed})
        if not methods:
            raise Problem("methods_not_enough", "names no method that is passed on", "amr")
        return sub, methods

    def mint(self, sub: str, methods: Sequence[str], use: Use = "redeem") -> Minted:
        """A token of class `once`: for the till, or for the beneficiary's own pages.

        The second is for the audience `<audience>:self`, so a till refuses it and the ledger's
        own pages can't be opened with a code that was held up at a counter. Raises Problem.
        """
        self._paces[use].count(sub)
        folder = self.issuer()
        audience = folder.audience if use == "redeem" else f"{folder.audience}:self"
        mint = Mint(folder.signer, iss=folder.iss, audience=audience, now=self._now)
        return mint.once(sub, amr=methods, lifetime_s=self._settings.lifetime_s)

    def issuer(self) -> IssuerFolder:
        """The issuer with its keys; read anew when `carepos token key` has changed them."""
        changed = (self._path / ABOUT).stat().st_mtime_ns
        with self._lock:
            if changed != self._seen:
                self._folder = IssuerFolder.load(self._path)
                self._seen = changed
            return self._folder
