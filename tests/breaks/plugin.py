"""For pytest: the product with the one break that `CAREPOS_BREAK` names, for all of a run."""

from __future__ import annotations

import os
from contextlib import ExitStack

from tests.breaks.ways import WAYS

_STACK = ExitStack()


def pytest_configure() -> None:
    [way] = [each for each in WAYS if each.name == os.environ["CAREPOS_BREAK"]]
    way.make(_STACK)


def pytest_unconfigure() -> None:
    _STACK.close()
