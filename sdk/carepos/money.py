"""Money as integers in a currency's minor unit, and how a whole is split without losing one.

Currencies and their minor units are those of ISO 4217 (list one, 2026); an amount is never a float.
"""

from __future__ import annotations

from collections.abc import Sequence

from carepos.errors import Malformed

MAX_AMOUNT_MINOR = 10**12

_TWO_DIGITS = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD "
    "CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD "
    "GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD "
    "MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP "
    "PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS "
    "TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
)
_MINOR_UNIT_DIGITS: dict[str, int] = {
    **dict.fromkeys(_TWO_DIGITS.split(), 2),
    **dict.fromkeys("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split(), 0),
    **dict.fromkeys("BHD IQD JOD KWD LYD OMR TND".split(), 3),
}


def minor_unit_digits(currency: str) -> int:
    """Decimals of a currency (ISO 4217): 2 for CNY, 0 for JPY. Raises Malformed if unknown."""
    try:
        return _MINOR_UNIT_DIGITS[currency]
    except (KeyError, TypeError):
        raise Malformed("not a currency of ISO 4217", field="currency") from None


def currency(value: object, field: str = "currency") -> str:
    """`value` if it is a currency of ISO 4217. Raises Malformed."""
    if not isinstance(value, str) or value not in _MINOR_UNIT_DIGITS:
        raise Malformed("not a currency of ISO 4217", field=field)
    return value


def format_amount(amount_minor: int, currency: str) -> str:
    """For people: 6490 CNY is "64.90", -5 JPY is "-5". No thousands separators, no symbol."""
    digits = minor_unit_digits(currency)
    sign = "-" if amount_minor < 0 else ""
    if digits == 0:
        return f"{sign}{abs(amount_minor)}"
    whole, part = divmod(abs(amount_minor), 10**digits)
    return f"{sign}{whole}.{part:0{digits}d}"


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """`amount` ≥ 0 in proportion to `weights` ≥ 0 by largest remainder; the parts sum to `amount`.

    Ties go to the earlier part. Raises ValueError when no weight is positive or one is negative.
    """
    total = sum(weights)
    if amount < 0 or total <= 0 or min(weights) < 0:
        raise ValueError("split() needs an amount >= 0 and weights >= 0 of which one is positive")
    parts = [amount * weight // total for weight in weights]
    remainders = [amount * weight % total for weight in weights]
    missing = amount - sum(parts)
    for place in sorted(range(len(weights)), key=lambda i: -remainders[i])[:missing]:
        parts[place] += 1
    return parts
