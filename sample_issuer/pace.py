"""How often somebody may ask: a count in a window, for each name, in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from sample_issuer.problems import Problem

_NAMES: Final = 50_000

Seconds = Callable[[], float]
"""A monotonic clock."""


class Pace:
    """At most `most` calls of one name in any `window_s` seconds. Safe from several threads."""

    def __init__(self, most: int, window_s: float, seconds: Seconds) -> None:
        self._most = most
        self._window_s = window_s
        self._seconds = seconds
        self._lock = threading.Lock()
        self._calls: OrderedDict[str, deque[float]] = OrderedDict()

    def count(self, name: str) -> None:
        """One more call. Raises Problem too_many."""
        now = self._seconds()
        with self._lock:
            calls = self._calls.setdefault(name, deque())
            self._calls.move_to_end(name)
            while calls and now - calls[0] >= self._window_s:
                calls.popleft()
            if len(calls) >= self._most:
                raise Problem("too_many", f"at most {self._most} in {self._window_s:.0f} s")
            calls.append(now)
            if len(self._calls) > _NAMES:
                self._calls.popitem(last=False)
