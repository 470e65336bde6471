"""A printed slip as a picture.

Chinese glyphs come from the package pylopdf-fonts-zh-cn (Noto Sans SC, OFL), QR codes from the
library qrcode.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import qrcode
from PIL import Image, ImageDraw, ImageFont

from sample_merchant.paper import (
    CELL_DOTS,
    GLYPH_DOTS,
    PITCH_DOTS,
    Align,
    Feed,
    Glyph,
    Paper,
    QrCode,
    Raster,
    TextLine,
    decode,
)

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
        block = self._blank(max(PITCH_DOTS, tallest * GLYPH_DOTS))
        left = _offset(self._width_dots, line.dots, line.align)
        for glyph in line.glyphs:
            ink = _ink(self._font_path, glyph)
            top = tallest * GLYPH_DOTS - ink.height
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
    height = GLYPH_DOTS * glyph.style.down
    size, baseline = (21, 19.2) if glyph.cells == 1 else (22.5, 20.2)
    font = _font(font_path, size * scale)
    room = glyph.cells * CELL_DOTS * scale
    advance = max(room, round(font.getlength(glyph.char)))
    mask = Image.new("L", (advance, GLYPH_DOTS * scale), 0)
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
