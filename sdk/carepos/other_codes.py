"""What a code that is no care code looks like, and what the cashier can do about it.

docs/identity.md §10 is generated from this table. Nothing is verified here: a look decides only
which sentence is read, never whether a code is good. Rules of payment codes: the payment platforms'
public documentation (WeChat Pay 付款码支付, Alipay 当面付, UnionPay 付款码; EMVCo's two QR forms).
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

from carepos import compact
from carepos.errors import Malformed
from carepos.keys import unb64
from carepos.presentation import MAX_SCANNED, strip_scanner_prefix
from carepos.product import normalise_gtin
from carepos.token import TYP

LooksLike = Literal[
    "empty",
    "id_number",
    "payment_code",
    "product",
    "receipt",
    "activation",
    "web_address",
    "other_token",
    "keyboard",
    "damaged",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: what it looks like, by what that is told, what the cashier reads."""

    looks_like: LooksLike
    told_by: str
    en: str
    zh: str


KINDS: Final[tuple[Kind, ...]] = (
    Kind("empty", "nothing, or white space",
         "Nothing was read, scan again.", "未读到内容，请重新扫描。"),
    Kind("id_number", "18 characters with a date of birth and a good GB 11643 check character",
         "This is an ID number: never enter it here. Ask for the care code.",
         "这是身份证号，请勿在此输入；请出示爱心码。"),
    Kind("payment_code",
         "18 digits from 10–15 (WeChat Pay), 16–24 digits from 25–30 (Alipay), 19 digits from 62 "
         "(UnionPay), EMVCo QR (`hQVDUFYwM`, `000201`)",
         "This is a payment code, ask for the care code.", "这是付款码，请出示爱心码。"),
    Kind("product", "8, 12, 13 or 14 digits with a good GTIN check digit",
         "This is a product's barcode, scan the care code.", "这是商品条码，请扫描爱心码。"),
    Kind("receipt", "`CP1*`",
         "This is a receipt of a sale. Ask for the care code.", "这是购物小票，请出示爱心码。"),
    Kind("activation", "`cp1.`",
         "This is a till's activation code. Keep it secret.", "这是终端激活码，请妥善保管。"),
    Kind("web_address", "`http://`, `https://`, `weixin://`, `alipays://` … or `www.`",
         "This is a web address, open the care code in the app.",
         "这是网址，请在应用中打开爱心码。"),
    Kind("other_token", "a JWT of another `typ`, or for another audience",
         "This code is for something else. Ask for the care code.",
         "此码用于其他用途，请出示爱心码。"),
    Kind("keyboard",
         "a care code in other letters: case turned, full-width or Chinese characters in it, "
         "keys of another layout",
         "The keyboard changed the code: turn Caps Lock off, switch to English input, scan again.",
         "扫码内容被键盘改变：请关闭大写锁定、切换到英文输入法后重新扫描。"),
    Kind("damaged", "begins like a care code and is cut or altered",
         "The code was not read whole, scan again.", "未完整读取，请重新扫描。"),
    Kind("unknown", "anything else",
         "This is not a care code. Ask for the care code.", "这不是爱心码，请出示爱心码。"),
)  # fmt: skip

BY_LOOK: Final[dict[str, Kind]] = {kind.looks_like: kind for kind in KINDS}
assert tuple(BY_LOOK) == get_args(LooksLike)

_ID_NUMBER = re.compile(r"[1-9][0-9]{5}((?:19|20)[0-9]{6})[0-9]{3}[0-9Xx]")
_PAYMENT = re.compile(
    r"1[0-5][0-9]{16}|(?:2[5-9]|30)[0-9]{14,22}|62[0-9]{17}|(?:hQVDUFYwM|000201).*", re.DOTALL
)
_GTIN = re.compile(r"[0-9]{8}|[0-9]{12,14}")
_WEB = re.compile(r"[a-z][a-z0-9+.-]{1,30}://|www\.", re.IGNORECASE)
_CARE = re.compile(r"eyJ|CPC1(?:\*|\Z)")
_CARE_WITHIN = re.compile(r"eyJ[A-Za-z0-9_-]{16}|CPC1\*")
_CARE_MISTYPED = re.compile(r"e[yz]j.{17}|cpc[1&!][^\sa-z0-9]", re.IGNORECASE | re.DOTALL)
_CARE_LETTERS = re.compile(r"[A-Za-z0-9_.~*\s-]+")
_CARD = re.compile(r"CPC1\*[^*]*\*")

# What Chinese input methods type for the signs of a code; full-width forms are NFKC's.
_SIGNS = str.maketrans({"。": ".", "、": ".", "—": "_", "…": "^", "×": "*"})

_SIGNATURE_BYTES: Final = {"EdDSA": 64, "Ed25519": 64, "ES256": 64, "RS256": 256}


def look(scanned: object) -> LooksLike:
    """What any text at all looks like, supposed that it is no good care code. Never raises."""
    if not isinstance(scanned, str) or len(scanned) > MAX_SCANNED:
        return "unknown"
    text = strip_scanner_prefix(scanned)
    plain = unicodedata.normalize("NFKC", text).translate(_SIGNS).strip()
    if not plain:
        return "empty"
    if _is_id_number(plain):
        return "id_number"
    if _PAYMENT.fullmatch(plain):
        return "payment_code"
    if _is_product(plain):
        return "product"
    begins = plain[:4].casefold()
    if begins == "cp1*":
        return "receipt"
    if begins == "cp1.":
        return "activation"
    if _WEB.match(plain):
        return "web_address"
    return _look_of_token(text, plain)


def _look_of_token(text: str, plain: str) -> LooksLike:
    if _CARE.match(text):
        token = _CARD.sub("", text, count=1)
        if not _CARE_LETTERS.fullmatch(text) or (
            token != text and not token.startswith("eyJ") and _CARE_MISTYPED.match(token)
        ):
            return "keyboard"  # no scanner misreads a letter: what is typed here was translated
        typ = _typ(token)
        return "damaged" if typ is None or typ == TYP else "other_token"
    if _CARE_MISTYPED.match(plain) or _is_half_translated(text):
        return "keyboard"
    if _CARE_WITHIN.search(text):
        return "damaged"  # something was typed or scanned in front of it
    return "unknown"


def look_of_refused(code: str, claim: str, scanned: object) -> LooksLike | None:
    """What a code looks like that the verifier refused with `code` at `claim`; None where the
    refusal's own sentence says it best, as for a genuine token with a wrong claim."""
    if code in ("token_type", "token_audience"):
        return "other_token"
    if code == "token_malformed":
        return look(scanned) if claim in _PLACES_OF_FORM else None
    if code in ("token_signature", "holder_unproven") and isinstance(scanned, str):
        held = _CARD.sub("", strip_scanner_prefix(scanned), count=1)
        token, _, binding = held.partition("~")
        part = token if code == "token_signature" else binding
        return "damaged" if part and _is_cut(part) else None
    return None


# Where a code can be wrong before its signature was verified; behind it nothing is damaged.
_PLACES_OF_FORM: Final = frozenset(
    {"token", "header", "claims", "signature", "key_binding", "alg", "kid", "card"}
)


def _is_id_number(plain: str) -> bool:
    """A number of GB 11643-1999: region, date of birth, three digits, ISO 7064 MOD 11-2."""
    found = _ID_NUMBER.fullmatch(plain)
    if found is None:
        return False
    try:
        datetime.strptime(found[1], "%Y%m%d")  # noqa: DTZ007  a date of birth has no zone
    except ValueError:
        return False
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(plain[:17]))
    return "10X98765432"[total % 11] == plain[17].upper()


def _is_product(plain: str) -> bool:
    if _GTIN.fullmatch(plain) is None:
        return False
    try:
        normalise_gtin(plain)
    except Malformed:
        return False
    return True


def _typ(token: str) -> str | None:
    """`typ` of a JWT; "" where its header has none, None where the header can't be read."""
    header, dot, _ = token.partition(".")
    if not dot:
        return None
    try:
        names: Any = json.loads(unb64(header))
    except (Malformed, ValueError, RecursionError):
        return None
    typ = names.get("typ", "") if isinstance(names, dict) else ""
    return typ if isinstance(typ, str) else ""


def _is_half_translated(text: str) -> bool:
    """Long, without a space or the signs of other codes, mostly letters of a token, and Chinese or
    full-width characters among them: an input method took the scanner for a typist."""
    if len(text) < 60 or re.search(r"[\s:;,=/?&{}\"]", text):
        return False
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    ours = len(re.findall(r"[A-Za-z0-9_-]", text))
    return wide > 0 and ours * 3 >= len(text) * 2


def _is_cut(part: str) -> bool:
    """Whether a JWS is not whole: no three parts, or a signature shorter than its `alg` makes."""
    try:
        read = compact.read(part)
    except Malformed:
        return True
    return len(read.signature) < _SIGNATURE_BYTES.get(str(read.header.get("alg")), 0)


def sentence(looks_like: str, language: str = "zh") -> str:
    """What the cashier reads; `language` is "zh" or "en"."""
    kind = BY_LOOK[looks_like]
    return kind.en if language == "en" else kind.zh


def as_markdown() -> str:
    """The table of docs/identity.md §10."""
    rows = ["| looks like | told by | the cashier reads |", "|---|---|---|"]
    rows += [f"| `{kind.looks_like}` | {kind.told_by} | {kind.en} {kind.zh} |" for kind in KINDS]
    return "\n".join(rows)
