"""One limit for everything that a call over the network does, however slowly it comes.

The libraries' own time limit is one per read: a server that drips a byte a second would hold a till
for hours, and no limit of theirs ends the look-up of a name. So the work runs in a thread of its
own, which is left when the time is over; the connections it opened are cut then.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


def within(deadline_s: float, work: Callable[[], T], *, name: str = "carepos-call") -> T:
    """What `work` returns or raises, if it ends within `deadline_s`; else TimeoutError.

    After that `work` can reach nobody any more over a socket that it shows to `watch`: what it had
    open is cut, and what it opens later is closed before a byte is sent.
    """
    running = _Running(work)
    threading.Thread(target=running.run, name=name, daemon=True).start()
    ended = False
    try:
        ended = running.ended.wait(deadline_s)
    finally:  # also when the program is interrupted meanwhile
        if not ended:
            running.leave()
    if not ended:
        raise TimeoutError(f"not over within {deadline_s:g} s")
    if running.failure is not None:
        raise running.failure
    return running.result[0]


def watch(connection: socket.socket | None) -> None:
    """Cut this connection when the time of the work that runs in this thread is over.

    Raises TimeoutError where it is over already. Does nothing outside of `within`.
    """
    running: _Running[object] | None = getattr(_here, "running", None)
    if running is not None and connection is not None:
        running.watch(connection)


_here = threading.local()


class _Running(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self.ended = threading.Event()
        self.result: list[T] = []
        self.failure: BaseException | None = None
        self._work = work
        self._left = False
        self._open: list[socket.socket] = []
        self._mutex = threading.Lock()

    def run(self) -> None:
        _here.running = self
        try:
            self.result.append(self._work())
        except BaseException as failure:  # noqa: BLE001  it is the caller's, whatever it is
            self.failure = failure
        finally:
            self._open.clear()
            self.ended.set()

    def watch(self, connection: socket.socket) -> None:
        with self._mutex:
            if not self._left:
                self._open.append(connection)
                return
        # A name that took too long to be found: nothing may be sent to where it leads.
        connection.close()
        raise TimeoutError

    def leave(self) -> None:
        with self._mutex:
            self._left = True
            for connection in self._open:
                with suppress(OSError):
                    # The plain socket's way: TLS would want to say goodbye first.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
