"""Where print jobs go, and what became of them.

Printing is three-valued: `printed` is said only when the printer itself confirmed the end of the
job, `failed` only when nothing of it can be on paper, `unknown` otherwise. Printing never touches
money, so nothing here raises: a printer that is off, silent or talks nonsense is a result.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from carepos import durable


class PrintState(StrEnum):
    PRINTED = "printed"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PrintResult:
    """`reason` is a stable code: `ok`, or why not (see the module's constants)."""

    state: PrintState
    reason: str


UNREACHABLE = "unreachable"
PAPER_OUT = "paper_out"
COVER_OPEN = "cover_open"
PRINTER_ERROR = "printer_error"
OFFLINE = "offline"
BROKEN_OFF = "broken_off"
NO_ANSWER = "no_answer"
GARBLED_ANSWER = "garbled_answer"
NOT_WRITTEN = "not_written"

PRINTED = PrintResult(PrintState.PRINTED, "ok")


@dataclass(frozen=True, slots=True)
class PrintJob:
    """`name` is for files (the receipt number); `data` for printers, `text` for people."""

    name: str
    data: bytes
    text: str


class Printer(Protocol):
    def print_job(self, job: PrintJob) -> PrintResult:
        """Print `job` once. Never raises; blocks no longer than the printer's own limit."""


# -- a printer on the network (port 9100) -----------------------------------------------------

_NO_UNASKED_STATUS = b"\x1da\x00"
_ASK_STATE = b"\x10\x04\x01\x10\x04\x02\x10\x04\x04"
_ASK_END = b"\x1dr\x01"
_MOST_ANSWER_BYTES = 256


class NetworkPrinter:
    """An ESC/POS printer behind a TCP port.

    `timeout_s` bounds the whole job, connecting and answers included; only looking up a host *name*
    has the system's own limit, so give an address where a name server may hang. `state_timeout_s`
    is how long the printer may take to say before the job whether it is ready; one that doesn't
    say is sent the job all the same.
    """

    def __init__(
        self,
        host: str,
        port: int = 9100,
        *,
        timeout_s: float = 10.0,
        state_timeout_s: float = 0.5,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._state_timeout_s = state_timeout_s
        self._monotonic = monotonic

    def print_job(self, job: PrintJob) -> PrintResult:
        deadline = self._monotonic() + self._timeout_s
        line = self._connect(deadline)
        if line is None:
            return PrintResult(PrintState.FAILED, UNREACHABLE)
        with line:
            return self._print(line, job.data, deadline)

    def _print(self, line: _Line, data: bytes, deadline: float) -> PrintResult:
        try:
            line.send(_NO_UNASKED_STATUS + _ASK_STATE)
            answers = line.receive(_states_complete, self._monotonic() + self._state_timeout_s)
        except OSError:
            return PrintResult(PrintState.FAILED, BROKEN_OFF)
        if (trouble := _trouble(answers)) is not None:
            return PrintResult(PrintState.FAILED, trouble)

        try:
            line.send(data)
        except OSError:
            # From the first byte on, some of it may be on paper.
            sent = line.sent_of_last
            return PrintResult(PrintState.UNKNOWN if sent else PrintState.FAILED, BROKEN_OFF)
        try:
            line.send(_ASK_END)
            answer = line.receive(_end_said, deadline - self._state_timeout_s)
        except OSError:
            return PrintResult(PrintState.UNKNOWN, BROKEN_OFF)
        if not _end_said(answer):
            return self._after_silence(line, deadline)
        # What has come with the answer belongs to it: it is one byte, or it is no answer.
        return _end_of_job(answer + line.arrived())

    def _after_silence(self, line: _Line, deadline: float) -> PrintResult:
        """The answer did not come: GS r waits its turn, DLE EOT doesn't and may say why."""
        try:
            line.send(_ASK_STATE)
            answers = line.receive(_states_complete, deadline)
        except OSError:
            return PrintResult(PrintState.UNKNOWN, BROKEN_OFF)
        # A printer that gets paper again goes on with what it holds: unknown, not failed.
        return PrintResult(PrintState.UNKNOWN, _trouble(answers) or NO_ANSWER)

    def _connect(self, deadline: float) -> _Line | None:
        try:
            addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, ValueError, OverflowError):
            return None
        for family, kind, protocol, _, address in addresses:
            remaining_s = deadline - self._monotonic()
            if remaining_s <= 0:
                return None
            with contextlib.ExitStack() as undo:
                try:
                    connection = undo.enter_context(socket.socket(family, kind, protocol))
                    connection.settimeout(remaining_s)
                    connection.connect(address)
                except (OSError, ValueError, OverflowError):
                    continue
                undo.pop_all()
                return _Line(connection, deadline, self._monotonic)
        return None


class _Line:
    """A connection on which every step ends at a deadline."""

    def __init__(
        self, connection: socket.socket, deadline: float, monotonic: Callable[[], float]
    ) -> None:
        self._socket = connection
        self._deadline = deadline
        self._monotonic = monotonic
        self.sent_of_last = 0

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing with unread bytes resets the connection and the printer loses its buffer.
        self.arrived()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Raises OSError when not all of `data` was taken; `sent_of_last` says how much was."""
        self.sent_of_last = 0
        view = memoryview(data)
        while view:
            remaining_s = self._deadline - self._monotonic()
            if remaining_s <= 0:
                raise TimeoutError(errno.ETIMEDOUT, "not taken in time")
            self._socket.settimeout(remaining_s)
            taken = self._socket.send(view)
            self.sent_of_last += taken
            view = view[taken:]

    def receive(self, complete: Callable[[bytes], bool], deadline: float) -> bytes:
        """What arrives until it is `complete` or the deadline is over, empty if nothing did.

        Raises OSError when the other end is gone.
        """
        received = b""
        while not complete(received) and len(received) < _MOST_ANSWER_BYTES:
            remaining_s = deadline - self._monotonic()
            # Zero means not to wait at all.
            self._socket.settimeout(max(0.0, remaining_s))
            try:
                arrived = self._socket.recv(_MOST_ANSWER_BYTES - len(received))
            except (TimeoutError, BlockingIOError):
                return received
            if not arrived:
                if received:
                    return received
                raise ConnectionResetError(errno.ECONNRESET, "closed by the printer")
            received += arrived
        return received

    def arrived(self) -> bytes:
        """What has arrived and was not taken yet."""
        try:
            return self.receive(lambda _: False, self._monotonic())
        except OSError:
            return b""


def _is_state(byte: int) -> bool:
    """Whether it can be an answer to DLE EOT: bits 1 and 4 set, 0 and 7 clear, never otherwise."""
    return byte & 0x93 == 0x12


def _states_complete(received: bytes) -> bool:
    return len(received) >= 3


def _end_said(received: bytes) -> bool:
    """Whether more came than answers to DLE EOT, which may be late and never look like GS r's."""
    return not all(map(_is_state, received))


def _trouble(answers: bytes) -> str | None:
    """Why the printer can't print, if its three DLE EOT answers (1, 2, 4) say so.

    Anything but exactly three answers in their frame says nothing: cheap printers answer one of
    them, and a number of bytes that belong to something else must not stop the shop.
    """
    if len(answers) != 3 or not all(map(_is_state, answers)):
        return None
    printer, offline, paper = answers
    if paper & 0x60 or offline & 0x20:
        return PAPER_OUT
    if offline & 0x04:
        return COVER_OPEN
    if offline & 0x40:
        return PRINTER_ERROR
    return OFFLINE if printer & 0x08 else None


def _end_of_job(answer: bytes) -> PrintResult:
    """What GS r 1 said. Its two bits per sensor go together and all others are zero."""
    said = bytes(byte for byte in answer if not _is_state(byte))
    if len(said) != 1 or said[0] not in (0x00, 0x03, 0x0C, 0x0F):
        return PrintResult(PrintState.UNKNOWN, GARBLED_ANSWER)
    if said[0] & 0x0C:
        return PrintResult(PrintState.UNKNOWN, PAPER_OUT)
    return PRINTED


# -- files ------------------------------------------------------------------------------------

_UNSAFE_IN_NAME = re.compile(r"[^0-9A-Za-z_-]+")


class FilePrinter:
    """Each job as `receipt-<name>.bin` and `.txt` in a folder; nothing is ever overwritten.

    A second job of the same name gets `-2`. The `.bin` appears last and whole: where it is, the
    job is complete.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def print_job(self, job: PrintJob) -> PrintResult:
        safe = _UNSAFE_IN_NAME.sub("_", job.name)[:80]
        text = job.text.encode("utf-8", "replace")
        with self._lock:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                stem = self._free_stem(f"receipt-{safe}")
                durable.write(self._folder / f"{stem}.txt", text, mode=0o600)
                durable.write(self._folder / f"{stem}.bin", job.data, mode=0o600)
            except OSError:
                return PrintResult(PrintState.FAILED, NOT_WRITTEN)
        return PRINTED

    def _free_stem(self, stem: str) -> str:
        number, free = 1, stem
        while any((self._folder / f"{free}{ending}").exists() for ending in (".txt", ".bin")):
            number += 1
            free = f"{stem}-{number}"
        return free
