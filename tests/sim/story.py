"""What happened in one run, line by line: the same seed tells the same story, byte for byte."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Story:
    """Lines for people, a digest over them for machines, and counts of what was done and broken."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.counts: Counter[str] = Counter()
        self._depth = 0

    def say(self, text: str) -> None:
        self.lines.append("    " * self._depth + text)

    def count(self, what: str, times: int = 1) -> None:
        self.counts[what] += times

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What is told in here happened during what was told last."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]
