"""How large a QR code becomes: version, modules, and dots per module on a receipt printer.

A code is base64url, which has small letters, so only byte mode can spell it (ISO/IEC 18004:2015,
7.3.5); cutting it into alphanumeric and byte segments costs more in segment headers than it saves
(a switch and back is 32 to 40 bits, a character saves 2.5). Measured in tests/sdk/test_qr.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from carepos.errors import Malformed

Level = Literal["L", "M"]

QUIET_MODULES: Final = 4
"""On each side (ISO/IEC 18004:2015, 6.3.8)."""
PAPER_DOTS: Final = {58: 384, 80: 576}
"""Printable dots by the paper's width in mm, at 203 dpi: 48 and 72 mm."""
DOT_MM: Final = 25.4 / 203.2

# Bytes that one byte-mode segment holds, versions 1 to 40 (ISO/IEC 18004:2015, Table 7).
CAPACITY: Final[dict[Level, tuple[int, ...]]] = {
    "L": (
        17, 32, 53, 78, 106, 134, 154, 192, 230, 271, 321, 367, 425, 458, 520, 586, 644, 718, 792,
        858, 929, 1003, 1091, 1171, 1273, 1367, 1465, 1528, 1628, 1732, 1840, 1952, 2068, 2188,
        2303, 2431, 2563, 2699, 2809, 2953,
    ),
    "M": (
        14, 26, 42, 62, 84, 106, 122, 152, 180, 213, 251, 287, 331, 362, 412, 450, 504, 560, 624,
        666, 711, 779, 857, 911, 997, 1059, 1125, 1190, 1264, 1370, 1452, 1538, 1628, 1722, 1809,
        1911, 1989, 2099, 2213, 2331,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class QrSize:
    """A symbol: `modules` on a side without the quiet zone."""

    version: int

    @property
    def modules(self) -> int:
        return 17 + 4 * self.version

    def dots_per_module(self, paper_mm: int) -> int:
        """Whole dots of a 203 dpi printer, quiet zone included; `paper_mm` is 58 or 80."""
        return PAPER_DOTS[paper_mm] // (self.modules + 2 * QUIET_MODULES)


def of(text: str, level: Level) -> QrSize:
    """The smallest symbol that holds `text`. Raises Malformed when none does."""
    length = len(text.encode("utf-8"))
    for version, capacity in enumerate(CAPACITY[level], 1):
        if length <= capacity:
            return QrSize(version)
    raise Malformed(f"{length} bytes are more than a QR code holds", field="code")
