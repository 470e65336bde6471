"""Receipts to test with: six lines, one of them partly covered, one not at all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from carepos.receipt import Language, Receipt, ReceiptKind, ReceiptLine, VoucherBalance, mask

QR_TEXT = "CP1*0001-000007-2*CNY28424*MFRGGZDFMZTWQ2LK"

_LINES = (
    # quantity, unit, amount, programme's part, fixed part; description and note, zh and en
    (2, "piece", 12980, 12980, 0, "纯牛奶 250ml*24", "Whole milk 250ml*24", "", ""),
    (
        *(1, "piece", 9790, 8000, 0, "中老年奶粉 850g", "Milk powder, seniors 850g"),
        *("超过单罐限价 80.00", "Above the price cap of 80.00"),
    ),
    (2500, "g", 1475, 1475, 0, "东北大米(散装)", "Rice, loose", "", ""),
    (3, "piece", 4470, 4470, 0, "奶酪棒 100g", "Cheese sticks 100g", "", ""),
    (1, "piece", 1500, 1499, 1, "爱心午餐", "Love meal", "", ""),
    (
        *(1, "piece", 4500, 0, 0, "白酒 500ml", "Spirits 500ml"),
        *("不在救助商品清单内", "Not on the programme's list"),
    ),
)


def _line(row: tuple[Any, ...], *, chinese: bool) -> ReceiptLine:
    quantity, unit, amount, programme, fixed, name_zh, name_en, note_zh, note_en = row
    name, note = (name_zh, note_zh) if chinese else (name_en, note_en)
    return ReceiptLine(name, quantity, unit, amount, programme, fixed, note)


def sample_receipt(
    language: Language = "zh", kind: ReceiptKind = "REDEEMED", **changes: Any
) -> Receipt:
    zh = language != "en"
    fields: dict[str, Any] = {
        "kind": kind,
        "language": language,
        "merchant_name": "惠民超市" if zh else "Huimin Supermarket",
        "store_name": "古州镇幸福路店" if zh else "Xingfu Road, Guzhou",
        "programme_name": "榕江“7·28”洪灾奶制品救助" if zh else "Rongjiang flood relief: dairy",
        "terminal_no": "0001",
        "receipt_no": "0001-000007-2",
        "occurred_at": datetime(2026, 11, 22, 13, 31, 5, tzinfo=UTC),
        "utc_offset_minutes": 480,
        "zone_name": "",
        "cashier": "03",
        "beneficiary_ref": mask("a81b7f3k"),
        "currency": "CNY",
        "lines": tuple(_line(row, chinese=zh) for row in _LINES),
        "programme_minor": 28424,
        "beneficiary_minor": 1,
        "other_tender_minor": 6290,
        "total_minor": 34715,
        "balances": (
            VoucherBalance("奶制品卡 **4821" if zh else "Dairy card **4821", 36000, 9075),
            VoucherBalance("爱心餐券 **0093" if zh else "Love meals **0093", 5, 4, "piece"),
        ),
        "liability": "programme" if kind == "PROVISIONAL" else None,
        "qr_text": QR_TEXT,
    }
    return Receipt(**(fields | changes))
