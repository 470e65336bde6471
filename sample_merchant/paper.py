"""A receipt printer without paper: it takes ESC/POS bytes and shows what would have come out.

For the demo and the tests. It is written from the printers' manuals and shares nothing with what
makes the receipts, so that the one checks the other. `VirtualPrinter` listens like a network
printer and can run out of paper; `decode()` reads a job; `render_png()` draws it. Chinese glyphs
come from the package pylopdf-fonts-zh-cn (Noto Sans SC, OFL), the QR from the library qrcode.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

import qrcode
from PIL import Image, ImageChops, ImageDraw, ImageFont

# -- bytes to commands ------------------------------------------------------------------------

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


# -- commands to paper ------------------------------------------------------------------------

Align = Literal["left", "center", "right"]
_ALIGNS: dict[int, Align] = {
    0: "left",
    1: "center",
    2: "right",
    48: "left",
    49: "center",
    50: "right",
}
_CELL_DOTS = 12
_GLYPH_DOTS = 24
_PITCH_DOTS = 30
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
        return self.cells * _CELL_DOTS * self.style.across


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
        self._pitch = _PITCH_DOTS
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
                self._pitch = _PITCH_DOTS
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


# -- paper to picture -------------------------------------------------------------------------

_MARGIN_DOTS = 28
_PAPER_GREY = 253
_INK_GREY = 18
_TOOTH_DOTS = 6


def default_font_path() -> Path:
    """Noto Sans SC from the package pylopdf-fonts-zh-cn. Raises ImportError without it."""
    from pylopdf_fonts_zh_cn import sans_path

    return sans_path()


def render_png(data: bytes, width_dots: int = 384, *, font_path: Path | None = None) -> Image.Image:
    """The printed slip as a greyscale picture, a margin around the printable dots.

    A job that no printer would take whole is drawn as far as it goes; `decode()` lists its errors.
    """
    return _Renderer(width_dots, font_path or default_font_path()).draw(decode(data, width_dots))


class _Renderer:
    def __init__(self, width_dots: int, font_path: Path) -> None:
        self._width_dots = width_dots
        self._font_path = str(font_path)

    def draw(self, paper: Paper) -> Image.Image:
        blocks = [self._block(item) for item in paper.items]
        height = sum(block.height for block in blocks) + 2 * _MARGIN_DOTS
        sheet = Image.new("L", (self._width_dots + 2 * _MARGIN_DOTS, height), _PAPER_GREY)
        top = _MARGIN_DOTS
        for block in blocks:
            sheet.paste(block, (_MARGIN_DOTS, top))
            top += block.height
        if "cut" in paper.events:
            _tear(sheet)
        return sheet

    def _block(self, item: TextLine | QrCode | Raster | Feed) -> Image.Image:
        match item:
            case TextLine():
                return self._text_line(item)
            case QrCode():
                return self._placed(_qr_picture(item), item.align)
            case Raster():
                ink = item.picture.point(lambda dot: _PAPER_GREY if dot > 127 else _INK_GREY)
                return self._placed(ink, item.align)
            case Feed():
                return self._blank(item.dots)

    def _blank(self, height: int) -> Image.Image:
        return Image.new("L", (self._width_dots, height), _PAPER_GREY)

    def _placed(self, picture: Image.Image, align: Align) -> Image.Image:
        block = self._blank(picture.height)
        block.paste(picture, (_offset(self._width_dots, picture.width, align), 0))
        return block

    def _text_line(self, line: TextLine) -> Image.Image:
        tallest = max((glyph.style.down for glyph in line.glyphs), default=1)
        block = self._blank(max(_PITCH_DOTS, tallest * _GLYPH_DOTS))
        left = _offset(self._width_dots, line.dots, line.align)
        for glyph in line.glyphs:
            ink = _ink(self._font_path, glyph)
            top = tallest * _GLYPH_DOTS - ink.height
            if glyph.style.inverse:
                block.paste(_INK_GREY, (left, top, left + ink.width, top + ink.height))
                block.paste(_PAPER_GREY, (left, top), ink)
            else:
                block.paste(_INK_GREY, (left, top), ink)
            left += glyph.dots
        return block


def _offset(room: int, width: int, align: Align) -> int:
    return {"left": 0, "center": (room - width) // 2, "right": room - width}[align]


@lru_cache(maxsize=4096)
def _ink(font_path: str, glyph: Glyph) -> Image.Image:
    """The glyph's mask in its cell. Drawn large and fitted: the font's Latin is proportional."""
    scale = 4
    height = _GLYPH_DOTS * glyph.style.down
    size, baseline = (21, 19.2) if glyph.cells == 1 else (22.5, 20.2)
    font = _font(font_path, size * scale)
    room = glyph.cells * _CELL_DOTS * scale
    advance = max(room, round(font.getlength(glyph.char)))
    mask = Image.new("L", (advance, _GLYPH_DOTS * scale), 0)
    pen = ImageDraw.Draw(mask)
    if glyph.char == "─":
        # Printers draw it from edge to edge, fonts made for text leave a gap.
        pen.line((0, 12 * scale, advance, 12 * scale), fill=255, width=2 * scale)
        return mask.resize((glyph.dots, height), Image.Resampling.LANCZOS)
    pen.text(
        (advance / 2, baseline * scale),
        glyph.char,
        fill=255,
        font=font,
        anchor="ms",
        stroke_width=2 if glyph.style.bold else 0,
    )
    return mask.resize((glyph.dots, height), Image.Resampling.LANCZOS)


@lru_cache(maxsize=8)
def _font(path: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _qr_picture(code: QrCode) -> Image.Image:
    levels = {
        48: qrcode.constants.ERROR_CORRECT_L,
        49: qrcode.constants.ERROR_CORRECT_M,
        50: qrcode.constants.ERROR_CORRECT_Q,
        51: qrcode.constants.ERROR_CORRECT_H,
    }
    maker = qrcode.QRCode(error_correction=levels[code.level], border=0)
    maker.add_data(code.text)
    maker.make(fit=True)
    modules = maker.get_matrix()
    picture = Image.new("L", (len(modules), len(modules)), _PAPER_GREY)
    for row, dark in enumerate(modules):
        for column in range(len(dark)):
            if dark[column]:
                picture.putpixel((column, row), _INK_GREY)
    side = len(modules) * code.module_dots
    return picture.resize((side, side), Image.Resampling.NEAREST)


def _tear(sheet: Image.Image) -> None:
    """The lower edge as a cutter leaves it."""
    pen = ImageDraw.Draw(sheet)
    bottom = sheet.height
    for left in range(0, sheet.width, 2 * _TOOTH_DOTS):
        pen.polygon(
            [
                (left, bottom),
                (left + _TOOTH_DOTS, bottom - _TOOTH_DOTS),
                (left + 2 * _TOOTH_DOTS, bottom),
            ],
            fill=190,
        )


# -- the printer ------------------------------------------------------------------------------

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
