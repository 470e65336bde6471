"""What can be wrong with a row of the export, and what the shopkeeper can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# reason: (what is wrong and what to do in English, the same in Chinese)
REASONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "encoding": (
            "This line is not valid text. Export the file again.",
            "这一行不是有效文字，请重新导出文件。",
        ),
        "quoting": (
            "A quotation mark in this line is not closed. Correct the name in the shop system.",
            "这一行的引号没有成对，请在收银系统里改正品名。",
        ),
        "column_count": (
            (
                "This line has more or fewer columns than the header, often from a comma inside the"
                " name. Put the name in double quotes, or use a Chinese comma."
            ),
            "这一行的列数与表头不同，多半是品名里有英文逗号。请给品名加上英文双引号，或改用中文逗号。",
        ),
        "control_characters": (
            (
                "A text in this line holds characters that can't be shown, or that a printer would"
                " take as commands. Type the text again."
            ),
            "这一行的文字里有无法显示的字符，或打印机会当作命令的字符。请重新输入文字。",
        ),
        "text_too_long": (
            "The name or the specification is too long (100 and 80 characters). Shorten it.",
            "品名或规格太长（分别最多100字和80字），请缩短。",
        ),
        "scientific_notation": (
            (
                "A spreadsheet turned the barcode into scientific notation and its last digits are"
                " gone. Scan the barcode again into a text column."
            ),
            "条码被电子表格改成了科学计数法，末尾数字已丢失。请把该列设为文本后重新扫描条码。",
        ),
        "not_a_barcode": (
            "The barcode holds something other than digits. Scan it again into a text column.",
            "条码里有数字以外的字符。请把该列设为文本后重新扫描条码。",
        ),
        "digits_lost": (
            (
                "The barcode does not have 8, 12, 13 or 14 digits; a spreadsheet may have dropped"
                " some. Scan it again."
            ),
            "条码不是8、12、13或14位，可能被电子表格丢掉了数字。请重新扫描条码。",
        ),
        "cut_short": (
            (
                "The barcode has 12 digits and begins like a Chinese one of 13: its last digit may"
                " be gone. Scan it again; if it really has 12, write it with a 0 in front."
            ),
            "条码只有12位，却像13位的国内条码，末位可能丢失。请重新扫描；确实是12位的，请在前面补0。",
        ),
        "check_digit": (
            "The barcode's check digit is wrong, so at least one digit is. Scan it again.",
            "条码校验位不对，至少有一位数字错了。请重新扫描条码。",
        ),
        "in_store_code": (
            (
                "This number is one that each shop gives out itself, and it is not in the form of"
                " this shop's scales. Use the maker's barcode or a category key."
            ),
            "这是店内自编码，又不是本店秤码的格式。请用厂家条码，或按散装商品登记。",
        ),
        "scale_item_unknown": (
            "This scale's item code is not in the list of loose goods. Add it there.",
            "散装商品表里没有这个秤码品号，请补上。",
        ),
        "no_code": (
            (
                "There is no barcode, and the name is not in the list of loose goods."
                " Scan the barcode, or add the name to that list."
            ),
            "没有条码，散装商品表里也没有这个品名。请扫描条码，或把品名加到散装商品表。",
        ),
        "name_missing": (
            "The name is missing. Enter it.",
            "没有品名，请补上。",
        ),
        "unit_unknown": (
            "The unit is missing or not known here, so the price can't be understood. Correct it.",
            "单位缺失或无法识别，无法确定售价按什么计算，请改正。",
        ),
        "unit_needs_scale": (
            (
                "Goods with a maker's barcode are priced by weight, but the barcode does not say"
                " the weight. Price them by piece, or sell them as loose goods."
            ),
            "有厂家条码的商品按重量计价，但条码里没有重量。请改为按件计价，或按散装商品销售。",
        ),
        "price_missing": (
            "The price is missing. Enter it.",
            "没有售价，请补上。",
        ),
        "price": (
            "The price is not a plain amount such as 12.50. Correct it.",
            "售价不是像12.50这样的金额，请改正。",
        ),
        "price_zero": (
            "The price is zero. Enter the real price.",
            "售价为零，请填写实际售价。",
        ),
        "duplicate": (
            "This row repeats an earlier one. Delete one of them; the earlier one is sold.",
            "这一行与前面的一行重复，请删去一行；目前按前面那行销售。",
        ),
        "duplicate_differs": (
            "Several rows have this code but differ, so none of them is sold. Keep the right one.",
            "有几行同一条码但内容不同，目前都不销售。请只保留正确的一行。",
        ),
    }
)


@dataclass(frozen=True)
class DamagedRow:
    """A row that is not sold. `code` is the barcode column as it stands, made printable."""

    line_no: int
    code: str
    reason: str

    @property
    def sentence_en(self) -> str:
        return REASONS[self.reason][0]

    @property
    def sentence_zh(self) -> str:
        return REASONS[self.reason][1]
