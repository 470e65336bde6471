"""What an ESC/POS job leaves on paper: lines, pictures, QR codes, cuts; and what it does wrong.

For the demo and the tests, which look at it instead of at paper.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Literal

from PIL import Image, ImageChops

from sample_merchant.escpos_commands import Command, commands

Align = Literal["left", "center", "right"]
_ALIGNS: dict[int, Align] = {
    0: "left",
    1: "center",
    2: "right",
    48: "left",
    49: "center",
    50: "right",
}
CELL_DOTS = 12
GLYPH_DOTS = 24
PITCH_DOTS = 30
_FEED_TO_CUT_DOTS = 100


@dataclass(frozen=True, slots=True)
class Style:
    bold: bool = False
    across: int = 1
    down: int = 1
    inverse: bool = False


@dataclass(frozen=True, slots=True)
class Glyph:
    """One character; `cells` is 1 for a single byte and 2 for a Chinese one, before enlarging."""

    char: str
    cells: int
    style: Style

    @property
    def dots(self) -> int:
        return self.cells * CELL_DOTS * self.style.across


@dataclass(frozen=True, slots=True)
class TextLine:
    glyphs: tuple[Glyph, ...]
    align: Align

    @property
    def text(self) -> str:
        return "".join(glyph.char for glyph in self.glyphs)

    @property
    def dots(self) -> int:
        return sum(glyph.dots for glyph in self.glyphs)


@dataclass(frozen=True, slots=True)
class QrCode:
    text: str
    module_dots: int
    level: int
    align: Align


@dataclass(frozen=True, slots=True)
class Raster:
    picture: Image.Image
    align: Align


@dataclass(frozen=True, slots=True)
class Feed:
    dots: int


@dataclass(slots=True)
class Paper:
    """What a job left behind. `events` are cuts and drawer pulses in order; `errors` what a printer
    would have choked on; `controls` every command without its text, in order; `overflows` counts
    the lines that were too long and went on in the next one."""

    items: list[TextLine | QrCode | Raster | Feed] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    controls: list[tuple[str, bytes]] = field(default_factory=list)
    overflows: int = 0

    @property
    def lines(self) -> list[str]:
        return [item.text for item in self.items if isinstance(item, TextLine)]

    @property
    def qr_texts(self) -> list[str]:
        return [item.text for item in self.items if isinstance(item, QrCode)]


def decode(data: bytes, width_dots: int = 384) -> Paper:
    """What `data` would print on paper with `width_dots` dots across (384 or 576)."""
    return _Decoder(width_dots).decode(data)


class _Decoder:
    def __init__(self, width_dots: int) -> None:
        self._width_dots = width_dots
        self._paper = Paper()
        self._glyphs: list[Glyph] = []
        self._reset()

    def _reset(self) -> None:
        self._align: Align = "left"
        self._style = Style()
        self._chinese = False
        self._pitch = PITCH_DOTS
        self._qr = (3, 48)
        self._qr_data = b""
        self._glyphs.clear()

    def decode(self, data: bytes) -> Paper:
        taken = 0
        for command, end in commands(data):
            taken = end
            if command.name != "text":
                self._paper.controls.append((command.name, command.arguments))
            self._obey(command)
        if taken < len(data):
            self._paper.errors.append(f"cut off: {data[taken : taken + 4].hex(' ')}")
        if self._glyphs:
            self._line_feed()
        return self._paper

    def _obey(self, command: Command) -> None:
        arguments = command.arguments
        first = arguments[0] if arguments else 0
        match command.name:
            case "text":
                self._text(command.payload)
            case "LF":
                self._line_feed()
            case "CR" | "ESC t" | "DLE EOT" | "GS r" | "GS a" | "GS I":
                pass
            case "ESC @":
                self._reset()
            case "ESC a":
                self._align = _ALIGNS.get(first, self._align)
            case "ESC E" | "ESC G":
                self._style = replace(self._style, bold=bool(first & 1))
            case "ESC !":
                self._style = Style(bool(first & 8), 1 + (first >> 5 & 1), 1 + (first >> 4 & 1))
            case "FS !":
                self._style = replace(
                    self._style, across=1 + (first >> 2 & 1), down=1 + (first >> 3 & 1)
                )
            case "GS !":
                self._style = replace(
                    self._style, across=1 + (first >> 4 & 7), down=1 + (first & 7)
                )
            case "GS B":
                self._style = replace(self._style, inverse=bool(first & 1))
            case "ESC 2":
                self._pitch = PITCH_DOTS
            case "ESC 3":
                self._pitch = first
            case "FS &" | "FS .":
                self._chinese = command.name == "FS &"
            case "ESC d":
                self._feed(first * self._pitch)
            case "ESC J":
                self._feed(first)
            case "ESC p":
                self._paper.events.append("drawer")
            case "GS V":
                self._feed(_FEED_TO_CUT_DOTS if first in b"ABab" else 0)
                self._paper.events.append("cut")
            case "GS ( k":
                self._two_dimensional(arguments, command.payload)
            case "GS v 0":
                self._picture(arguments, command.payload)
            case _:
                self._paper.errors.append(f"{command.name}: {arguments.hex(' ')}".strip(": "))

    def _text(self, data: bytes) -> None:
        place = 0
        while place < len(data):
            length = self._char_length(data, place)
            raw = data[place : place + length]
            place += length
            try:
                char = raw.decode("gb18030" if self._chinese else "cp437")
            except UnicodeDecodeError:
                self._paper.errors.append(f"not GB18030: {raw.hex(' ')}")
                char = "?"
            self._put(Glyph(char, 1 if length == 1 else 2, self._style))

    def _char_length(self, data: bytes, place: int) -> int:
        if not self._chinese or data[place] < 0x81:
            return 1
        second = data[place + 1 : place + 2]
        return 4 if second and 0x30 <= second[0] <= 0x39 else 2

    def _put(self, glyph: Glyph) -> None:
        if sum(other.dots for other in self._glyphs) + glyph.dots > self._width_dots:
            self._paper.overflows += 1
            self._line_feed()
        self._glyphs.append(glyph)

    def _line_feed(self) -> None:
        self._paper.items.append(TextLine(tuple(self._glyphs), self._align))
        self._glyphs.clear()

    def _feed(self, dots: int) -> None:
        if self._glyphs:
            self._line_feed()
        if dots:
            self._paper.items.append(Feed(dots))

    def _two_dimensional(self, arguments: bytes, payload: bytes) -> None:
        function = arguments[:2]
        if function == b"1A" and arguments[2:3] == b"2":
            return
        if function == b"1C" and 1 <= arguments[2] <= 16:
            self._qr = (arguments[2], self._qr[1])
        elif function == b"1E" and 48 <= arguments[2] <= 51:
            self._qr = (self._qr[0], arguments[2])
        elif function == b"1P":
            self._qr_data = payload
        elif function == b"1Q":
            self._paper.items.append(
                QrCode(self._qr_data.decode("utf-8", "replace"), *self._qr, self._align)
            )
        else:
            self._paper.errors.append(f"GS ( k: {arguments.hex(' ')}")

    def _picture(self, arguments: bytes, payload: bytes) -> None:
        across, down = struct.unpack_from("<HH", arguments, 2)
        if not (across and down):
            self._paper.errors.append("GS v 0: empty picture")
            return
        if across * 8 > self._width_dots:
            self._paper.errors.append("GS v 0: wider than the paper")
        picture = ImageChops.invert(Image.frombytes("1", (across * 8, down), payload).convert("L"))
        wide, high = 1 + (arguments[1] & 1), 1 + (arguments[1] >> 1 & 1)
        picture = picture.resize((picture.width * wide, picture.height * high))
        self._paper.items.append(Raster(picture, self._align))
