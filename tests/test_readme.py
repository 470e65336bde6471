"""The README's code is executed as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from carepos import Till
from tests.world import world

README = Path(__file__).parents[1] / "README.md"


def _code() -> str:
    mark = "<!-- executed by tests/test_readme.py -->"
    blocks = re.findall(rf"{mark}\n```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def test_the_first_redemption_is_fifteen_lines_and_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An integrator's first redemption fits in 15 lines that redeem against a real ledger."""
    code = _code()
    assert len(code.splitlines()) <= 15
    with world(tmp_path) as made:
        made.till("till").close()
        made.tills.clear()
        monkeypatch.chdir(tmp_path)
        # The world's clock stands still; the README's till is given the same one.
        open_till = Till.open
        monkeypatch.setattr(Till, "open", lambda folder: open_till(folder, now=made.now))
        names = {"scanned_code": made.family().token()}
        exec(compile(code, "README.md", "exec"), names)  # noqa: S102  the promise itself
    assert "confirmed 0001-000003-" in capsys.readouterr().out


def test_the_first_screen_names_the_two_commands() -> None:
    """A newcomer sees how to run and how to test without scrolling."""
    first_screen = "\n".join(README.read_text("utf-8").splitlines()[:25])
    assert "make demo" in first_screen
    assert "make test" in first_screen
