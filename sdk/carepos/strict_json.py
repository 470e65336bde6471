"""JSON as the protocol allows it (docs/protocol.md §1): read strictly, written canonically.

Reading refuses what two parsers could read differently: duplicate names, floats, NaN, integers
that a double can't hold, lone surrogates, deep nesting. Writing is JCS (RFC 8785) for the subset
we use: ASCII names and integers, where sorting by code point equals JCS' sorting by UTF-16 unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from typing import Any, NoReturn

from carepos.errors import Malformed

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1

_NAME = re.compile(r"[a-z][a-z_]{0,30}[a-z0-9]")


def _refuse_number(_: str) -> NoReturn:
    raise Malformed("only integers are allowed as numbers")


def _integer(text: str) -> int:
    # The length is looked at first: int() of a megabyte of digits would be work for nothing.
    if len(text) > 17 or abs(value := int(text)) > MAX_INTEGER:
        raise Malformed("integer beyond 2^53 - 1")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Malformed("a name stands twice in one object")
    return made


_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates,
    parse_float=_refuse_number,
    parse_constant=_refuse_number,
    parse_int=_integer,
)


def _too_deep(text: str, max_depth: int) -> bool:
    """Whether brackets nest deeper than `max_depth`; a linear scan, before any recursion."""
    depth = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > max_depth:
                return True
        elif char in "]}":
            depth -= 1
    return False


def read(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value that `data` spells. Raises Malformed for anything the protocol does not allow."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None
    # Only text with many brackets can be deep; the scan costs what parsing costs.
    if text.count("{") + text.count("[") > max_depth and _too_deep(text, max_depth):
        raise Malformed(f"nested deeper than {max_depth}")
    try:
        value = _DECODER.decode(text)
    except Malformed:
        raise
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None
    if "\\u" in text:
        # Only an escape can smuggle in a lone surrogate: UTF-8 itself can't spell one.
        _refuse_surrogates(value)
    return value


def read_object(data: bytes, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """As `read`, for a JSON object."""
    value = read(data, max_depth=max_depth)
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


def _refuse_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Malformed("a lone surrogate") from None


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of `value` (dicts with ASCII names, lists, str, int, bool, None).

    Raises Malformed for a float, an integer beyond 2^53 - 1, a lone surrogate or a non-ASCII name.
    """
    _check_canonical(value)
    try:
        return json.dumps(
            value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
        ).encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed("a lone surrogate") from None


def _check_canonical(value: Any) -> None:
    if value is None or isinstance(value, (str, bool)):
        return
    if type(value) is int:
        if abs(value) > MAX_INTEGER:
            raise Malformed("integer beyond 2^53 - 1")
    elif isinstance(value, dict):
        for name, inner in value.items():
            if not (isinstance(name, str) and name.isascii()):
                raise Malformed("a name that is not ASCII")
            _check_canonical(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_canonical(inner)
    else:
        raise Malformed(f"{type(value).__name__} can't stand in canonical JSON")


def exact_names(value: object, names: Set[str], *, where: str = "object") -> dict[str, Any]:
    """`value` if it is an object with exactly `names`. Raises Malformed naming what differs."""
    return names_within(value, required=names, optional=frozenset(), where=where)


def names_within(
    value: object, *, required: Set[str], optional: Set[str], where: str = "object"
) -> dict[str, Any]:
    """`value` if it is an object with all of `required` and nothing beyond `optional`."""
    if not isinstance(value, dict):
        raise Malformed("must be an object", field=where)
    if missing := sorted(required - value.keys()):
        raise Malformed(f"{missing[0]} is missing", field=where)
    if unknown := sorted(value.keys() - required - optional):
        # A name from outside may be anything, somebody's number or a token too: one that could not
        # be a name of any format is not repeated.
        named = [each for each in unknown if isinstance(each, str) and _NAME.fullmatch(each)]
        raise Malformed(f"unknown name {named[0]!r}" if named else "an unknown name", field=where)
    return value


def integer(value: object, field: str, *, low: int = 0, high: int = MAX_INTEGER) -> int:
    """`value` if it is an int (never a bool) within low..high."""
    if type(value) is not int:
        raise Malformed("must be an integer", field=field)
    if not low <= value <= high:
        raise Malformed(f"must be between {low} and {high}", field=field)
    return value


def text(value: object, field: str, *, low: int = 1, high: int = 200) -> str:
    """`value` if it is a string of low..high characters without control characters."""
    if not isinstance(value, str):
        raise Malformed("must be a string", field=field)
    if not low <= len(value) <= high:
        raise Malformed(f"must have {_span(low, high)} characters", field=field)
    if not value.isprintable():
        raise Malformed("must be printable", field=field)
    return value


def boolean(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise Malformed("must be true or false", field=field)
    return value


def array(value: object, field: str, *, low: int = 0, high: int = 1000) -> list[Any]:
    """`value` if it is a list of low..high elements."""
    if not isinstance(value, list):
        raise Malformed("must be a list", field=field)
    if not low <= len(value) <= high:
        raise Malformed(f"must have {_span(low, high)} elements", field=field)
    return value


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def mapping(value: object, field: str, *, high: int = 20_000) -> Mapping[str, Any]:
    """`value` if it is an object of at most `high` names."""
    if not isinstance(value, dict):
        raise Malformed("must be an object", field=field)
    if len(value) > high:
        raise Malformed(f"must have at most {high} names", field=field)
    return value
