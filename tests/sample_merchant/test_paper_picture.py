"""The picture of what a job prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import zxingcpp
from PIL import ImageFont

from carepos_plugin.printing.escpos_receipt import ReceiptEncoder
from sample_merchant.paper_picture import default_font_path, render_png
from tests.receipt_samples import QR_TEXT, sample_receipt


@pytest.mark.parametrize("columns", [32, 48])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_pictures_qr_is_the_receipts(tmp_path: Path, columns: int, language: str) -> None:
    """An independent reader finds the receipt's QR text in the picture, and only that."""
    receipt = sample_receipt("zh" if language == "zh" else "en")
    data = ReceiptEncoder(columns, cache_dir=tmp_path).encode(receipt)
    picture = render_png(data, columns * 12)
    assert [code.text for code in zxingcpp.read_barcodes(picture)] == [QR_TEXT]
    assert picture.width > columns * 12


def test_the_font_draws_all_that_printers_can() -> None:
    """Every GB2312 character, and the rare ones of local names, has a glyph of its own."""
    font = ImageFont.truetype(str(default_font_path()), 24)
    missing = bytes(font.getmask("\U000e1234"))
    hanzi = (
        bytes((first, second)).decode("gb2312", "ignore")
        for first in range(0xB0, 0xF8)
        for second in range(0xA1, 0xFF)
    )
    wanted = "".join(hanzi) + "𬭊㛃〓￥·×“”…─，。：（）"
    assert [char for char in wanted if bytes(font.getmask(char)) == missing] == []
