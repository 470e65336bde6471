"""`repr()` shows nobody: what ends in a log or a traceback names no person and no secret."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from types import ModuleType

import pytest

import carepos
import carepos_ledger
import carepos_plugin

PERSONAL = {
    "sub", "jti", "nonce", "token", "pin", "proof", "secret", "card_secret", "text", "key_binding",
    "cells", "claims", "signing_input", "pin_verifier", "activation",
}  # fmt: skip
# Of a name that means something else there.
HARMLESS = {
    ("Anatomy", "claims"),  # what may be shown of them, masked
    ("KeyChange", "proof"),  # a signature of a till's public key
    ("RowCheck", "text"),  # the check as the mapping has it
    ("Row", "text"),  # of a receipt, which names nobody
    ("PrintJob", "text"),  # the same
}


def _modules() -> list[ModuleType]:
    found = []
    for package in (carepos, carepos_ledger, carepos_plugin):
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".migrations." not in each.name:
                found.append(importlib.import_module(each.name))
    return found


CLASSES = sorted(
    {
        thing
        for module in _modules()
        for thing in vars(module).values()
        if isinstance(thing, type)
        and (dataclasses.is_dataclass(thing) or hasattr(thing, "_fields"))
        and thing.__module__ == module.__name__
    },
    key=lambda each: (each.__module__, each.__qualname__),
)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda each: f"{each.__module__}.{each.__name__}")
def test_no_value_shows_a_personal_field(kind: type) -> None:
    """A dataclass or named tuple leaves a field that is named like a secret out of `repr()`."""
    spelled = vars(kind).get("__repr__")
    if spelled is None:
        return  # shown as an object, with nothing in it
    if spelled.__code__.co_filename.endswith(f"{kind.__module__.rpartition('.')[2]}.py"):
        return  # written by hand
    if dataclasses.is_dataclass(kind):
        shown = {each.name for each in dataclasses.fields(kind) if each.repr}
    else:
        shown = set(kind._fields)  # type: ignore[attr-defined]
    wrong = {name for name in shown & PERSONAL if (kind.__name__, name) not in HARMLESS}
    assert not wrong, f"{kind.__name__}: {sorted(wrong)}"
