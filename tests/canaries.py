"""Canaries: values that must not be found, the ways in which they may be spelled, and the search.

A canary stands for everything of its kind ("name", "pin", "token" …). What may be where is a list
of `Allowed`, as data; every hit outside it is a leak.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple
from urllib.parse import quote_from_bytes


@dataclass(frozen=True)
class Canary:
    """One planted value; shorter ones than 6 bytes would be found everywhere by chance."""

    kind: str
    value: bytes

    def __post_init__(self) -> None:
        assert len(self.value) >= 6, self.kind


class Place(NamedTuple):
    """Something that was left behind, or went to somebody: its name says whose eyes see it."""

    name: str
    data: bytes


class Allowed(NamedTuple):
    """Canaries of `kind` may be at `place`; both may hold `*`."""

    kind: str
    place: str
    reason: str


class Hit(NamedTuple):
    kind: str
    spelling: str
    place: str
    around: bytes


def spellings(value: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every way in which `value` may be spelled where something leaks."""
    for name, form in _characters(value):
        yield name, form
        yield f"{name} hex", form.hex().encode()
        yield f"{name} HEX", form.hex().upper().encode()
        for variant, spelled in _base64(form):
            yield f"{name} {variant}", spelled
    quoted = quote_from_bytes(value, safe="").encode()
    if quoted != value:
        yield "url", quoted
        yield "url lower", re.sub(rb"%[0-9A-F]{2}", lambda m: m[0].lower(), quoted)


def _characters(value: bytes) -> Iterator[tuple[str, bytes]]:
    yield "bytes", value
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        shown = repr(value)[2:-1].encode("ascii")
        if shown != value:
            yield "repr", shown
        return
    for encoding in ("utf-16-le", "utf-16-be"):
        yield encoding, text.encode(encoding)
    if not text.isascii():
        yield "gb18030", text.encode("gb18030")
        yield "json", json.dumps(text)[1:-1].encode("ascii")


def _base64(form: bytes) -> Iterator[tuple[str, bytes]]:
    """Within a longer text it may begin at any of three places of a group; only what does not
    depend on its neighbours is looked for."""
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + form + b"\0\0")
        kept = whole[-(-offset * 8 // 6) : (offset + len(form)) * 8 // 6]
        yield f"base64+{offset}", kept
        if (url := kept.translate(bytes.maketrans(b"+/", b"-_"))) != kept:
            yield f"base64url+{offset}", url


def search(
    canaries: Iterable[Canary], places: Iterable[Place], allowed: Sequence[Allowed]
) -> list[Hit]:
    """Every hit that no `allowed` covers."""
    needles = [
        (c.kind, name, spelled) for c in set(canaries) for name, spelled in spellings(c.value)
    ]
    hits = []
    for place in places:
        data = _without_emptiness(place.data)
        free = {kind for kind, where, _ in allowed if fnmatchcase(place.name, where)}
        # Most of many thousand spellings begin with four bytes that are nowhere in the data.
        begun = {data[at : at + 4] for at in range(len(data) - 3)}
        for kind, name, spelled in needles:
            if len(spelled) >= 4 and spelled[:4] not in begun:
                continue
            at = data.find(spelled)
            if at >= 0 and not any(fnmatchcase(kind, each) for each in free):
                hits.append(Hit(kind, name, place.name, data[max(0, at - 60) : at + 60]))
    return hits


def unused(
    canaries: Iterable[Canary], places: Sequence[Place], allowed: Iterable[Allowed]
) -> list[Allowed]:
    """The exceptions that nothing makes use of: they would hide a leak to come."""
    held = list(set(canaries))
    return [
        each
        for each in allowed
        if not any(
            fnmatchcase(place.name, each.place) and fnmatchcase(c.kind, each.kind)
            and any(spelled in place.data for _, spelled in spellings(c.value))
            for c in held
            for place in places
        )
    ]  # fmt: skip


def _without_emptiness(data: bytes) -> bytes:
    """Pages of a database are mostly zeros; the search is the faster without them."""
    return re.sub(rb"\0{64,}", bytes(64), data)
