"""What an ESC/POS job leaves on paper."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sample_merchant.paper import Feed, QrCode, Raster, TextLine, decode


def test_chinese_comes_out_as_itself() -> None:
    """GB18030 of two and four bytes in two-byte mode; outside it bytes are code page 437."""
    text = "爱心券￥“7·28”𬭊㛃 A"
    paper = decode(b"\x1b@\x1c&" + text.encode("gb18030") + b"\n\x1c." + b"\x80\n")
    assert paper.lines == [text, "Ç"]
    assert paper.errors == []


def test_styles_are_seen() -> None:
    """Bold, sizes by three commands, alignment and inverse belong to the characters after them."""
    paper = decode(
        b"\x1ba\x01\x1bE\x01\x1d!\x11A\n\x1b!\x00\x1b!\x30B\n\x1b!\x00\x1c!\x0cC\n\x1b@D\x1dB\x01E\n"
    )
    lines = [item for item in paper.items if isinstance(item, TextLine)]
    seen = [(g.char, g.style.bold, g.style.across, g.style.down) for x in lines for g in x.glyphs]
    assert seen == [
        ("A", True, 2, 2),
        ("B", False, 2, 2),
        ("C", False, 2, 2),
        ("D", False, 1, 1),
        ("E", False, 1, 1),
    ]
    assert [line.align for line in lines] == ["center", "center", "center", "left"]
    assert [glyph.style.inverse for glyph in lines[3].glyphs] == [False, True]


def test_feeds_pictures_drawers_and_cuts_are_seen() -> None:
    """What moves paper or metal is recorded in order."""
    paper = decode(
        b"\x1bd\x02\x1bJ\x05\x1dv0\x00\x01\x00\x02\x00\x80\x01\x1bp\x00\x19\xfa\x1dV\x00"
    )
    assert [item for item in paper.items if isinstance(item, Feed)] == [Feed(60), Feed(5)]
    pictures = [item.picture for item in paper.items if isinstance(item, Raster)]
    assert [picture.size for picture in pictures] == [(8, 2)]
    assert [pictures[0].getpixel(dot) for dot in ((0, 0), (1, 0), (7, 1))] == [0, 255, 0]
    assert paper.events == ["drawer", "cut"]


def test_a_qr_code_keeps_its_size_level_and_place() -> None:
    """The four functions of GS ( k make one code."""
    parts = (b"1A2\x00", b"1C\x05", b"1E1", b"1P0hello", b"1Q0")
    data = b"\x1ba\x01" + b"".join(
        b"\x1d(k" + len(part).to_bytes(2, "little") + part for part in parts
    )
    assert decode(data).items == [QrCode("hello", 5, 49, "center")]


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b~",
        b"\x07",
        b"\x1d(k\x03\x001Z0",
        b"\x1dv0\x00\xff\x00\x01\x00" + b"x" * 255,
        b"\x1b",
        b"\x1dv0\x00\x10\x00\x10\x00abc",
        b"\x1c&\x81",
        b"\x1c&\xff\xff",
    ],
)
def test_what_a_printer_would_choke_on_is_an_error(data: bytes) -> None:
    """Unknown commands, pictures too wide, cut-off commands and broken characters are listed."""
    assert decode(data).errors


@given(st.binary(max_size=300))
def test_any_bytes_can_be_decoded(data: bytes) -> None:
    """The decoder reports; it never raises."""
    decode(data)


def test_a_line_that_is_too_long_goes_on_below() -> None:
    """As on paper; and it is counted, so that a test can forbid it."""
    paper = decode(b"x" * 33 + b"\n")
    assert paper.lines == ["x" * 32, "x"]
    assert paper.overflows == 1
