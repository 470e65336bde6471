"""The code of the README and of docs/keys.md is executed as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from carepos import Till, clock, token
from carepos.keys import SigningKey
from tests.key_server import key_server, says
from tests.world import world

README = Path(__file__).parents[1] / "README.md"


def _code(page: Path = README) -> str:
    mark = "<!-- executed by tests/test_readme.py -->"
    blocks = re.findall(rf"{mark}\n```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
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


def test_verifying_by_yourself_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An integrator's own verifier fits in 15 lines; it goes on with what it holds when the issuer
    does not answer, and says why a code is no good."""
    code = compile(_code(README.parent / "docs" / "keys.md"), "keys.md", "exec")
    key, other = SigningKey.generate(), SigningKey.generate()
    common: dict[str, Any] = {
        "iss": "https://care.example", "aud": "urn:carepos:redeem", "sub": "s-1", "jti": "j",
        "issued_at": clock.system_clock(),
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with key_server() as server:
        server.publishes(key)
        names = {"issuer": "https://care.example", "jwks_url": server.url}
        exec(code, {**names, "scanned_code": token.mint(key, **common)})  # noqa: S102
        server.answer = says(b"")
        exec(code, {**names, "scanned_code": token.mint(key, **common)})  # noqa: S102
        exec(code, {**names, "scanned_code": token.mint(other, **common)})  # noqa: S102
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == [
        "good", "https://care.example", "good", "https://care.example", "token_signature",
    ]  # fmt: skip


def test_the_first_screen_names_the_two_commands() -> None:
    """A newcomer sees how to run and how to test without scrolling."""
    first_screen = "\n".join(README.read_text("utf-8").splitlines()[:25])
    assert "make demo" in first_screen
    assert "make test" in first_screen
