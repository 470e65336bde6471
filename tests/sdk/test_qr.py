"""QR codes as small as the standard allows, and the table of docs/issuers.md as measured."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import qrcode
import zxingcpp
from PIL import Image
from qrcode import constants
from qrcode.util import ALPHA_NUM, BIT_LIMIT_TABLE

from carepos import qr_picture, qr_size, token_sizes
from carepos.errors import Malformed
from carepos.issuer_folder import IssuerSigner
from carepos.qr_size import Level, QrSize

LEVELS: tuple[Level, ...] = ("L", "M")
CORRECTION = {"L": constants.ERROR_CORRECT_L, "M": constants.ERROR_CORRECT_M}
DOCS = Path(__file__).parents[2] / "docs" / "issuers.md"
SHORT = IssuerSigner.generate("EdDSA", "k1")


def codes() -> Iterable[tuple[str, str]]:
    return token_sizes.measured(SHORT, token_sizes.SHORT[0], token_sizes.SHORT[2])


@pytest.mark.parametrize("level", LEVELS)
def test_the_capacities_are_the_standards(level: Level) -> None:
    """Our 40 numbers are those of the library, which has ISO/IEC 18004's table."""
    for version, capacity in enumerate(qr_size.CAPACITY[level], 1):
        bits = BIT_LIMIT_TABLE[CORRECTION[level]][version] - 4 - (8 if version < 10 else 16)
        assert capacity == bits // 8
        assert qr_size.of("a" * capacity, level) == QrSize(version)
        assert QrSize(version).modules == 17 + 4 * version
    with pytest.raises(Malformed):
        qr_size.of("a" * (qr_size.CAPACITY[level][-1] + 1), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["once", "proxy", "witness", "card", "wallet"])
def test_a_picture_of_every_kind_reads_back(kind: str, level: Level) -> None:
    """Another decoder reads each code's PNG as it was, from a symbol of the size we say."""
    code = dict(codes())[kind]
    dark = qr_picture.modules(code, level)
    assert len(dark) == qr_size.of(code, level).modules
    picture = Image.open(io.BytesIO(qr_picture.png(dark, 4)))
    assert picture.size == ((len(dark) + 8) * 4,) * 2
    # Among random modules a reader of everything sees other, smaller kinds of code now and then.
    qr = zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode)
    (found,) = zxingcpp.read_barcodes(picture, formats=qr)
    assert found.text == code


@pytest.mark.parametrize("level", LEVELS)
def test_no_other_segmentation_is_smaller(level: Level) -> None:
    """One byte segment is not beaten by the library's own splitting, which at its finest is a
    version larger; nor by the best mix of byte and alphanumeric segments there is, but for a code
    that happens to have long runs of capitals and digits, and then by one version."""
    for _, code in codes():
        size = qr_size.of(code, level)
        for optimise in (4, 8, 12, 20):
            other: Any = qrcode.QRCode(error_correction=CORRECTION[level])
            other.add_data(code.encode(), optimize=optimise)
            other.make(fit=True)
            assert size.version <= other.version
        assert size.version - 1 <= _best_mix(code, level)


def _best_mix(code: str, level: Level) -> int:
    """The smallest version for the cheapest segmentation, by dynamic programming."""
    headers = {"byte": 4 + 16, "alnum": 4 + 11}  # of versions 10 to 26; 27 on has more
    bits = {"byte": 8.0, "alnum": 5.5}
    cost: dict[str, float] = {mode: float(head) for mode, head in headers.items()}
    for letter in code.encode():
        after: dict[str, float] = {}
        for mode in bits:
            if mode == "alnum" and letter not in ALPHA_NUM:
                after[mode] = float("inf")
                continue
            arrive = min(cost[mode], min(cost.values()) + headers[mode])
            after[mode] = arrive + bits[mode]
        cost = after
    needed = min(cost.values())
    limits = BIT_LIMIT_TABLE[CORRECTION[level]]
    return next(v for v in range(10, 41) if limits[v] >= needed)


def test_the_table_of_the_docs_is_measured() -> None:
    """Each line of docs/issuers.md's table comes out of codes that are really made."""
    measured = list(token_sizes.lines(token_sizes.table()))
    text = DOCS.read_text("utf-8")
    found = re.search(r"<!-- measured by tests/sdk/test_qr.py -->\n(.*?)\n\n", text, re.DOTALL)
    assert found is not None
    assert found[1].splitlines() == measured


def test_a_receipt_printer_prints_every_kind() -> None:
    """With short names each kind has at least 3 dots a module on 58 mm paper at level L."""
    for _, code in codes():
        size = qr_size.of(code, "L")
        dots = size.dots_per_module(58)
        assert dots >= 3
        assert (size.modules + 8) * dots <= 384 < (size.modules + 8) * (dots + 1)


def test_a_terminal_shows_it_too() -> None:
    """Half blocks on a light ground: rows of one width, whatever the theme."""
    lines = qr_picture.terminal(qr_picture.modules("CPC1", "L")).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == (21 + 8 + 1) // 2


def test_without_the_package_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names what to install, and no traceback."""
    import sys

    monkeypatch.setitem(sys.modules, "qrcode", None)
    with pytest.raises(qr_picture.QrMissing, match=r"pip install 'carepos\[qr\]'"):
        qr_picture.modules("x")
