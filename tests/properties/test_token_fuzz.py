"""A short run of `make fuzz` in every run of the tests."""

from __future__ import annotations

import random

from tests import fuzz_tokens


def test_no_mutated_code_is_taken_and_nothing_escapes() -> None:
    """Of some thousand mutated codes, cards, keys and key sets, each has the verdict that the
    page read a second time gives it, and nothing but a refusal leaves."""
    fuzz_tokens.run_plainly(4_000, random.randrange(2**32))
    kinds = {name.partition(":")[0] for name in fuzz_tokens.SEEN}
    assert kinds == {kind.__name__[1:] for kind in fuzz_tokens.KINDS}
    assert any(name.endswith(": taken") for name in fuzz_tokens.SEEN)
