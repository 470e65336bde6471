"""ESC/POS bytes as the commands that they are, by the printers' manuals.

It shares nothing with what makes the receipts, so that the one checks the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_LEADS = {0x10: "DLE", 0x1B: "ESC", 0x1C: "FS", 0x1D: "GS"}
# How many bytes follow the two of a command, by the Epson manual.
_FIXED: dict[tuple[int, int], int] = {
    (0x10, 0x04): 1,
    **{(0x1B, ord(letter)): 0 for letter in "@2"},
    **{(0x1B, ord(letter)): 1 for letter in "a!EGtdJ3-MR{V "},
    (0x1B, ord("p")): 3,
    (0x1B, ord("$")): 2,
    **{(0x1D, ord(letter)): 1 for letter in "!BraIHhwfb"},
    **{(0x1D, ord(letter)): 2 for letter in "LWP"},
    **{(0x1C, ord(letter)): 0 for letter in "&."},
    **{(0x1C, ord(letter)): 1 for letter in "!-W"},
    (0x1C, ord("S")): 2,
}
_NAMES = {(0x10, 0x04): "DLE EOT"}


@dataclass(frozen=True, slots=True)
class Command:
    """`name` as manuals write it ("ESC a", "GS ( k", "text", "LF", "unknown"), and its bytes.

    `arguments` are its parameters; `payload` is content: text, picture dots, a QR code's data.
    """

    name: str
    arguments: bytes = b""
    payload: bytes = b""


def commands(data: bytes) -> Iterator[tuple[Command, int]]:
    """Each whole command in `data` and where it ends; stops before one that is cut off."""
    place = 0
    while place < len(data):
        found = _command_at(data, place)
        if found is None:
            return
        command, place = found
        yield command, place


def _command_at(data: bytes, place: int) -> tuple[Command, int] | None:
    byte = data[place]
    if byte in (0x0A, 0x0D):
        return Command("LF" if byte == 0x0A else "CR"), place + 1
    if byte not in _LEADS:
        if byte < 0x20 or byte == 0x7F:
            return Command("unknown", bytes([byte])), place + 1
        end = place
        while end < len(data) and data[end] >= 0x20 and data[end] != 0x7F:
            end += 1
        return Command("text", payload=data[place:end]), end
    if place + 1 >= len(data):
        return None
    key = (byte, data[place + 1])
    name = _NAMES.get(key, f"{_LEADS[byte]} {chr(key[1])}")
    start = place + 2
    if key in _FIXED:
        return _slice(name, data, start, _FIXED[key])
    if key == (0x1D, ord("V")):
        long = data[start : start + 1] in (b"A", b"B", b"a", b"b")
        return _slice(name, data, start, 2 if long else 1)
    if key == (0x1D, ord("(")):
        return _counted(data, start)
    if key == (0x1D, ord("v")):
        return _raster(data, start)
    return Command("unknown", bytes(key)), start


def _slice(name: str, data: bytes, start: int, length: int) -> tuple[Command, int] | None:
    end = start + length
    return (Command(name, data[start:end]), end) if end <= len(data) else None


def _counted(data: bytes, start: int) -> tuple[Command, int] | None:
    """`GS ( x pL pH …`; of the QR's store function the last part is payload."""
    if start + 3 > len(data):
        return None
    end = start + 3 + int.from_bytes(data[start + 1 : start + 3], "little")
    if end > len(data):
        return None
    body = data[start + 3 : end]
    store = data[start] == ord("k") and body[:3] == b"1P0"
    arguments, payload = (body[:3], body[3:]) if store else (body, b"")
    return Command(f"GS ( {chr(data[start])}", arguments, payload), end


def _raster(data: bytes, start: int) -> tuple[Command, int] | None:
    if start + 6 > len(data):
        return None
    across, down = struct.unpack_from("<HH", data, start + 2)
    end = start + 6 + across * down
    if end > len(data):
        return None
    return Command("GS v 0", data[start : start + 6], data[start + 6 : end]), end
