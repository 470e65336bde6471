"""Text on paper: how wide it is, what of it may be printed, and where a line is broken.

Widths are half-width cells, as receipt printers and Chinese terminals count. What a product is
called can't move the paper, open the drawer or turn an amount around (T-9).
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_ELLIPSIS = "…"
# Letters and symbols that show nothing, or stand for a missing object: they would hide text.
_BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800\ufffc\ufffd")
_RIGHT_TO_LEFT = frozenset(("R", "AL", "AN"))
_NOT_AT_LINE_START = frozenset(",.;:!?)]}%、。，．；：！？）】》」』”’…·")


@lru_cache(maxsize=8192)
def cell_width(char: str) -> int:
    """Half-width cells of one character on paper and in a Chinese terminal: 1 or 2, 0 if barred.

    Ambiguous widths (UAX #11) count as 2: GB18030 printers draw everything beyond ASCII full width.
    Barred are controls, formats (bidi, zero width), private use, surrogates, unassigned code
    points, combining marks, invisible letters and right-to-left letters, which would turn the
    amounts beside them around.
    """
    if " " <= char <= "~":
        return 1
    if unicodedata.category(char)[0] not in "LNPS" or char in _BLANKS:
        return 0
    if unicodedata.bidirectional(char) in _RIGHT_TO_LEFT:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WFA" else 1


def text_width(text: str) -> int:
    """Cells that `text` takes on one line."""
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(map(cell_width, text))


def scrub(text: str, max_width: int) -> str:
    """`text` as it may be printed: one line of allowed characters in NFC, within `max_width` cells.

    White space of any kind becomes one space; a text that is too long ends in `…`.
    """
    if max_width <= 0:
        return ""
    # Bounded before any work: what is cut here could not have been shown.
    text = unicodedata.normalize("NFC", text[: 8 * max_width + 64])
    kept = "".join(
        " " if char.isspace() else char for char in text if char.isspace() or cell_width(char)
    )
    # What was taken out may have stood between two characters that compose.
    kept = " ".join(unicodedata.normalize("NFC", kept).split())
    if text_width(kept) <= max_width:
        return kept
    ending = _ELLIPSIS if max_width > text_width(_ELLIPSIS) else ""
    return _head(kept, max_width - text_width(ending)).rstrip() + ending


def _head(text: str, width: int) -> str:
    """The longest beginning of `text` within `width` cells."""
    taken = 0
    for place, char in enumerate(text):
        taken += cell_width(char)
        if taken > width:
            return text[:place]
    return text


def wrap(text: str, columns: int) -> list[str]:
    """`text` in lines of at most `columns` (≥ 2) cells: between words, else between characters.

    Chinese may break anywhere but before a closing mark, which takes its neighbour along.
    """
    lines: list[str] = []
    rest = text.strip(" ")
    if rest and text_width(rest) <= columns:
        return [rest]
    while rest:
        line = _head(rest, columns)
        if len(line) < len(rest):
            line = line[: _break_place(rest, len(line))]
        lines.append(line.rstrip(" "))
        rest = rest[len(line) :].lstrip(" ")
    return lines


def _break_place(text: str, limit: int) -> int:
    """Where to break `text` at or before `limit`, which is past its first character."""
    for place in range(limit, 0, -1):
        if " " in text[place - 1 : place + 1] or _breakable(text, place):
            return place
    return limit


def _breakable(text: str, place: int) -> bool:
    before, after = text[place - 1], text[place]
    return after not in _NOT_AT_LINE_START and (cell_width(before) == 2 or cell_width(after) == 2)
