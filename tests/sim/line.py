"""A way to the simulated ledger, where HTTP would be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from carepos.client import MAX_ANSWER_BYTES, Transport
from carepos.errors import Unreachable
from tests.sim.ledger_host import Answer, Request


class Line(Transport):
    """`carry` brings a request there and the answer back. It raises Unreachable."""

    def __init__(
        self,
        carry: Callable[[Request], Answer],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("http://ledger.test", monotonic=monotonic)
        self._carry = carry

    def call(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        limit: int = MAX_ANSWER_BYTES,
        deadline_s: float | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        self.answered = False
        answer = self._carry(Request.of(method, target, body, headers))
        if len(answer.body) > limit:
            raise Unreachable("the answer is larger than any answer may be")
        return answer.status, answer.headers, answer.body
