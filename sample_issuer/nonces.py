"""Nonces for apps that sign in by themselves: handed out here, each good once, for ten minutes."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Final

from sample_issuer.pace import Seconds

GOOD_S: Final = 600.0
_MOST: Final = 20_000


class Nonces:
    """What was handed out and not brought back yet. Safe from several threads."""

    def __init__(self, seconds: Seconds) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._until: OrderedDict[str, float] = OrderedDict()

    def make(self) -> str:
        nonce = secrets.token_urlsafe(24)
        with self._lock:
            self._until[nonce] = self._seconds() + GOOD_S
            if len(self._until) > _MOST:
                self._until.popitem(last=False)
        return nonce

    def take(self, nonce: str) -> bool:
        """Whether it was ours and is good; afterwards it is neither."""
        with self._lock:
            until = self._until.pop(nonce, None)
        return until is not None and self._seconds() < until
