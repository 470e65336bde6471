"""A network printer without paper: it takes jobs, answers as printers do, and can be in trouble."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Literal, Self

from sample_merchant.escpos_commands import Command, commands

Mode = Literal["online", "paper_out", "paper_runs_out", "offline", "silent", "garbage", "hangup"]
_QUESTIONS = frozenset(("DLE EOT", "GS r", "GS I", "GS a"))


class VirtualPrinter:
    """A network printer on 127.0.0.1 at a free `port`, run by a thread of its own.

    `mode` may change at any time. `online` prints and answers. `paper_out` and `offline` (cover
    open) say so to DLE EOT, hold what they are sent and leave GS r waiting; `paper_runs_out` is
    online until a job begins. `silent` prints and never answers, `garbage` answers nonsense,
    `hangup` resets the connection when a job begins. `jobs` are the printed ones, status questions
    taken out. To switch it off, `stop()`: the port then refuses.
    """

    def __init__(self, mode: Mode = "online") -> None:
        self.mode: Mode = mode
        self._jobs: list[bytes] = []
        self._printed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def jobs(self) -> tuple[bytes, ...]:
        with self._printed:
            return tuple(self._jobs)

    def wait_for_jobs(self, count: int, timeout_s: float = 5.0) -> tuple[bytes, ...]:
        """The jobs as soon as there are `count`. Raises TimeoutError if there never are."""
        with self._printed:
            if not self._printed.wait_for(lambda: len(self._jobs) >= count, timeout_s):
                raise TimeoutError(f"{len(self._jobs)} of {count} jobs were printed")
            return tuple(self._jobs)

    def stop(self) -> None:
        """Switch it off: the port is closed, open connections too, and all threads have ended."""
        with contextlib.suppress(OSError):
            # close() alone leaves a waiting accept() waiting.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._printed:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._printed:
                self._connections.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                self._converse(connection)
        finally:
            with self._printed:
                self._connections.discard(connection)

    def _converse(self, connection: socket.socket) -> None:
        received, job = b"", b""
        while arrived := connection.recv(65536):
            received += arrived
            done = 0
            for command, end in commands(received):
                if command.name in _QUESTIONS:
                    connection.sendall(self._answer(command))
                else:
                    if not self._take_job(connection):
                        return
                    job += received[done:end]
                done = end
                if command.name == "GS V":
                    job = self._print(job)
            received = received[done:]
        self._print(job + received)

    def _take_job(self, connection: socket.socket) -> bool:
        if self.mode == "paper_runs_out":
            self.mode = "paper_out"
        if self.mode == "hangup":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        return True

    def _print(self, job: bytes) -> bytes:
        if job and self.mode not in ("paper_out", "offline"):
            with self._printed:
                self._jobs.append(job)
                self._printed.notify_all()
        return b""

    def _answer(self, command: Command) -> bytes:
        if self.mode == "silent" or command.name == "GS a":
            return b""
        if self.mode == "garbage":
            return b"HTTP/1.1 400 Bad Request\r\n\r\n"
        no_paper, cover_open = self.mode == "paper_out", self.mode == "offline"
        if command.name == "DLE EOT":
            always = 0x12
            match command.arguments[0]:
                case 1:
                    return bytes([always | 0x08 * (no_paper or cover_open)])
                case 2:
                    return bytes([always | 0x20 * no_paper | 0x04 * cover_open])
                case 4:
                    return bytes([always | 0x6C * no_paper])
                case _:
                    return bytes([always])
        if command.name == "GS I":
            return b"_CarePOS virtual printer\x00"
        # GS r waits its turn behind what can't be printed.
        return b"" if no_paper or cover_open else b"\x00"
