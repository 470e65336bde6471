"""What a face or palm device read, until the register's next offer asks for it.

The device's issuer gave it a token of class `once`; it posts the token here with a secret of its
own. It is held for a minute, in memory, for one sale, and shown to nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from carepos_plugin import pairing
from carepos_plugin.problems import Problem

FILE: Final = pairing.DEVICE_FILE
HEADER: Final = "X-CarePOS-Device"
LIFE_S: Final = 60


class HeldCode:
    """At most one code. Safe to call from several threads."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._mutex = threading.Lock()
        self._code: str | None = None
        self._until = 0.0
        self._checkout: str | None = None

    def hold(self, code: str) -> None:
        """Hold what the device read; who stood there before is forgotten."""
        with self._mutex:
            self._code, self._checkout = code, None
            self._until = self._monotonic() + LIFE_S

    def take(self, checkout: str) -> str:
        """The code, for the first sale that asks; again for the same sale, as a double scan.

        Raises Problem no_code_held.
        """
        with self._mutex:
            self._forget_expired()
            if self._code is None or self._checkout not in (None, checkout):
                raise Problem("no_code_held")
            self._checkout = checkout
            return self._code

    def end(self, checkout: str) -> None:
        """The sale is redeemed, or has another code: what was taken for it is forgotten."""
        with self._mutex:
            if self._checkout == checkout:
                self._code = None

    def waiting(self) -> bool:
        """Whether a code is held that no sale has taken."""
        with self._mutex:
            self._forget_expired()
            return self._code is not None and self._checkout is None

    def forget_expired(self) -> None:
        """Called every so often, so that no code stays in memory over night."""
        with self._mutex:
            self._forget_expired()

    def _forget_expired(self) -> None:
        if self._monotonic() >= self._until:
            self._code = None

    def __repr__(self) -> str:
        return "HeldCode(…)"
