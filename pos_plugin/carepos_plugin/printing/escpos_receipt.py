"""A receipt as ESC/POS bytes, through python-escpos.

Chinese goes out as receiptline sends it (`ESC t 0`, `FS &`, GB18030 bytes, `FS .`): python-escpos'
own `text()` sends Chinese punctuation and rarer characters as `?`. A line with characters that a
GB18030 printer has no glyph for is sent as an image where a font is configured; else they become
`〓`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import pickle
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from carepos.paper_text import cell_width
from carepos.receipt import Receipt
from carepos.receipt_layout import Row, lay_out

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

DOTS_PER_CELL = 12
GLYPH_DOTS = 24
ROW_DOTS = 30
_QR_DOTS_PER_MODULE = 6
_GETA = "〓"
_CONTROLS = bytes((*range(0x20), 0x7F))
_SIZES = {"normal": (1, 1), "tall": (1, 2), "large": (2, 2)}

# Imported at the first receipt, but a library that is missing is told at the start.
if importlib.util.find_spec("escpos") is None:
    raise ModuleNotFoundError("receipts need python-escpos", name="escpos")

_log = logging.getLogger(__name__)
_import_lock = threading.Lock()


class ReceiptEncoder:
    """Makes print jobs for one printer. Asks no printer anything and raises nothing.

    `columns` is the paper's width in cells of 12 dots: 32 for 58 mm, 42 or 48 for 80 mm.
    `font_path` is a font for the lines that the printer can't print (None: `〓` instead).
    `cache_dir` is a private folder in which python-escpos keeps its parsed printer list; without it
    the first job takes a third of a second longer. Nothing heavy is imported before the first job.
    """

    def __init__(
        self, columns: int, *, font_path: Path | None = None, cache_dir: Path | None = None
    ) -> None:
        self.columns = columns
        self._font_path = font_path
        self._cache_dir = cache_dir

    def encode(self, receipt: Receipt) -> bytes:
        """The whole job, from `ESC @` to the cut."""
        paper = self._paper()
        paper.begin()
        for row in lay_out(receipt, self.columns):
            if not is_printable(row.text) and (font := self._font) is not None:
                paper.image(_drawn(row, font), row.align)
            else:
                paper.row(row)
        if receipt.qr_text:
            paper.qr(receipt.qr_text)
        return paper.end()

    def _paper(self) -> _Paper:
        return _Paper(self._escpos.Dummy(profile=self._profile))

    @cached_property
    def _escpos(self) -> ModuleType:
        return load_escpos(self._cache_dir)

    @cached_property
    def _profile(self) -> Any:
        profile = importlib.import_module("escpos.capabilities").Profile(
            columns=self.columns, features={"paperPartCut": True, "paperFullCut": True}
        )
        # Unknown in the default profile, and python-escpos then prints a notice on our stdout.
        width = {"pixels": self.columns * DOTS_PER_CELL, "mm": "Unknown"}
        profile.profile_data = {**profile.profile_data, "media": {"width": width}}
        return profile

    @cached_property
    def _font(self) -> FreeTypeFont | None:
        if self._font_path is None:
            return None
        from PIL import ImageFont

        try:
            return ImageFont.truetype(str(self._font_path), GLYPH_DOTS)
        except OSError:
            # A slip with a few 〓 is better than none.
            _log.warning("receipt font can't be read: rare characters are printed as 〓")
            return None


def _drawn(row: Row, font: FreeTypeFont) -> Image:
    """`row` as the printer would have set it: each character in its cell, then enlarged."""
    from PIL import Image, ImageDraw

    picture = Image.new(
        "L", (max(1, row.cells // _SIZES[row.size][0]) * DOTS_PER_CELL, ROW_DOTS), 255
    )
    pen = ImageDraw.Draw(picture)
    # Digits are a little wider than half a Chinese character; so much smaller they fit.
    fonts = {1: font.font_variant(size=GLYPH_DOTS - 3), 2: font}
    left = 0
    for char in row.text:
        cells = cell_width(char)
        middle = left + cells * DOTS_PER_CELL / 2
        for shift in (0, 1) if row.bold else (0,):
            pen.text((middle + shift, ROW_DOTS - 8), char, font=fonts[cells], fill=0, anchor="ms")
        left += cells * DOTS_PER_CELL
    across, down = _SIZES[row.size]
    picture = picture.resize((picture.width * across, picture.height * down))
    # Black or white by half, not dithered: dots of grey make small characters unreadable.
    return picture.point(lambda dot: 255 if dot > 150 else 0, mode="1")


class _Paper:
    """Rows onto python-escpos' Dummy printer, with each setting sent only when it changes."""

    def __init__(self, printer: Any) -> None:
        self._printer = printer
        self._align = "left"
        self._size = (1, 1)
        self._bold = False
        self._inverse = False

    def begin(self) -> None:
        self._printer.hw("INIT")
        # Code page 0 and two-byte mode, whatever a DIP switch or the job before left behind.
        self._printer._raw(b"\x1bt\x00\x1c&")  # noqa: SLF001

    def row(self, row: Row) -> None:
        if row.rule:
            self._rule(row.cells)
            return
        self._set(row.align, _SIZES[row.size], bold=row.bold, inverse=row.inverse)
        self._printer._raw(printable_bytes(row.text) + b"\n")  # noqa: SLF001

    def _rule(self, cells: int) -> None:
        """A solid line of box-drawing characters drawn up to eight times as wide: a dozen bytes."""
        wide = next(wide for wide in range(8, 0, -1) if cells % (2 * wide) == 0 or wide == 1)
        self._set("left", (wide, 1))
        self._printer._raw(printable_bytes("─" * (cells // (2 * wide))) + b"\n")  # noqa: SLF001

    def image(self, picture: Image, align: str) -> None:
        self._set(align)
        self._printer.image(picture, impl="bitImageRaster")

    def qr(self, text: str) -> None:
        # `ESC a` centres it: qr(native=True, center=True) is not implemented.
        self._set("center")
        # A printer draws no quiet zone above its own QR codes.
        self._printer._raw(b"\n")  # noqa: SLF001
        self._printer.qr(text, native=True, size=_QR_DOTS_PER_MODULE, ec=1)

    def end(self) -> bytes:
        self._set("left")
        self._printer._raw(b"\x1c.")  # noqa: SLF001
        self._printer.cut(mode="PART")
        return bytes(self._printer.output)

    def _set(
        self,
        align: str,
        size: tuple[int, int] = (1, 1),
        *,
        bold: bool = False,
        inverse: bool = False,
    ) -> None:
        if align != self._align:
            self._printer.set(align=align)
        if size != self._size:
            # GS !, not ESC !: the latter leaves Chinese characters as they are on many printers.
            self._printer.set(custom_size=True, width=size[0], height=size[1])
        if bold != self._bold:
            self._printer.set(bold=bold)
        if inverse != self._inverse:
            self._printer.set(invert=inverse)
        self._align, self._size, self._bold, self._inverse = align, size, bold, inverse


def is_printable(text: str) -> bool:
    """Whether a GB18030 printer has a glyph for each character of `text`."""
    return not text or bool(_gbk(text))


def printable_bytes(text: str) -> bytes:
    """GB18030 bytes of `text`, never a control byte, as many cells wide as `text`."""
    encoded = _gbk(text) or b"".join(map(_glyph, text))
    # The receipt's texts are scrubbed; this is the second lock on the same door (T-9). No byte of
    # a GB18030 character lies in this range, so nothing else is lost.
    return encoded.translate(None, _CONTROLS)


@lru_cache(maxsize=8192)
def _glyph(char: str) -> bytes:
    if char.isascii():
        return char.encode()
    width = cell_width(char)
    if width == 2:
        return _gbk(char) or _GETA.encode("gbk")
    base = unicodedata.normalize("NFKD", char)[0]
    return (base if base.isascii() else "?").encode() * width


def _gbk(text: str) -> bytes:
    # The two-byte part that GBK and GB18030 share is what these printers' fonts hold. One byte is
    # one cell on paper there, as in the layout.
    try:
        return text.encode("gbk")
    except UnicodeEncodeError:
        return b""


# What unpickling damaged bytes, or reading what they gave, is known to raise.
_CACHE_ERRORS = (
    *(pickle.PickleError, EOFError, ValueError, LookupError),
    *(AttributeError, ImportError, TypeError),
)


def load_escpos(cache_dir: Path | None) -> ModuleType:
    """`escpos.printer`, imported without its side effects: its folders and its log handler."""
    with _import_lock:
        before = list(logging.root.handlers)
        try:
            with _folders_kept_in(cache_dir):
                try:
                    return importlib.import_module("escpos.printer")
                except _CACHE_ERRORS:
                    # Its cache was cut off by a power failure: it reads it unguarded.
                    if cache_dir is None or not _forget_cache(cache_dir):
                        raise
                    return importlib.import_module("escpos.printer")
        finally:
            for handler in [h for h in logging.root.handlers if h not in before]:
                logging.root.removeHandler(handler)


@contextlib.contextmanager
def _folders_kept_in(cache_dir: Path | None) -> Iterator[None]:
    """python-escpos makes a new temporary folder at each import and never removes it."""
    scratch = _made_scratch(cache_dir)
    if cache_dir is None or scratch is None:
        yield
        return
    name = "ESCPOS_CAPABILITIES_PICKLE_DIR"
    kept, temporary = os.environ.get(name), tempfile.tempdir
    os.environ[name], tempfile.tempdir = str(cache_dir), str(scratch)
    try:
        yield
    finally:
        tempfile.tempdir = temporary
        if kept is None:
            del os.environ[name]
        else:
            os.environ[name] = kept
        for folder in scratch.iterdir():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _made_scratch(cache_dir: Path | None) -> Path | None:
    if cache_dir is None:
        return None
    scratch = cache_dir / "scratch"
    try:
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return scratch


def _forget_cache(cache_dir: Path) -> bool:
    """Whether there was a cache to remove."""
    found = list(cache_dir.glob("*.capabilities.pickle"))
    for path in found:
        with contextlib.suppress(OSError):
            path.unlink()
    return bool(found)
