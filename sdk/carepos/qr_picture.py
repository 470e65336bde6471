"""A code as a QR: a PNG, or blocks on a terminal. Needs the package qrcode (extra `qr`).

PNG is written here (one bit per dot), so that no imaging library is needed.
"""

from __future__ import annotations

import importlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final

from carepos import qr_size
from carepos.errors import CareposError
from carepos.qr_size import QUIET_MODULES, Level

Modules = Sequence[Sequence[bool]]

MISSING: Final = "a QR needs the package qrcode: pip install 'carepos[qr]'"


class QrMissing(CareposError):
    """The package that draws QR codes is not installed."""


def library() -> Any:
    """The package qrcode. Raises QrMissing: ask before anything that can't be repeated."""
    try:
        # By name: the SDK does not depend on it, and `make check` holds that.
        return importlib.import_module("qrcode")
    except ModuleNotFoundError:
        raise QrMissing(MISSING) from None


def modules(code: str, level: Level = "M") -> Modules:
    """The dark modules, row by row, without the quiet zone: the smallest symbol, one byte segment.

    Raises QrMissing, Malformed when the code is longer than a QR code holds.
    """
    qrcode = library()
    correction = getattr(qrcode.constants, f"ERROR_CORRECT_{level}")
    made = qrcode.QRCode(
        version=qr_size.of(code, level).version, error_correction=correction, border=0
    )
    made.add_data(code.encode("ascii"), optimize=0)
    made.make(fit=False)
    return [[bool(each) for each in row] for row in made.get_matrix()]


def png(dark: Modules, dots_per_module: int = 6) -> bytes:
    """A black and white PNG with its quiet zone, `dots_per_module` pixels to a module."""
    margin = [False] * QUIET_MODULES
    width = len(dark) + 2 * QUIET_MODULES
    blank = [[False] * width] * QUIET_MODULES
    rows = [*blank, *([*margin, *row, *margin] for row in dark), *blank]
    side = width * dots_per_module
    image = bytearray()
    for row in rows:
        bits = "".join("01"[not each] * dots_per_module for each in row)
        packed = int(bits.ljust(-(-side // 8) * 8, "1"), 2).to_bytes(-(-side // 8), "big")
        image += (b"\0" + packed) * dots_per_module
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(image), 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def terminal(dark: Modules) -> str:
    """Two rows of modules to a line of half blocks, dark on a light ground whatever the theme."""
    width = len(dark) + 2 * QUIET_MODULES
    margin = [False] * QUIET_MODULES
    blank = [[False] * width] * QUIET_MODULES
    rows = [*blank, *([*margin, *row, *margin] for row in dark), *blank]
    if len(rows) % 2:
        rows.append([False] * width)
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        blocks = "".join(" ▄▀█"[2 * a + b] for a, b in zip(upper, lower, strict=True))
        lines.append(f"\x1b[30;107m{blocks}\x1b[0m")
    return "\n".join(lines) + "\n"
