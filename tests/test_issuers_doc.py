"""The examples of docs/issuers.md are executed as they stand, in one folder, in their order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from carepos import issuers_file
from carepos.errors import TokenRefused
from carepos.token import TokenVerifier

DOCS = Path(__file__).parents[1] / "docs" / "issuers.md"
_BLOCK = re.compile(
    r"<!-- executed by tests/test_issuers_doc.py(?:: (\d))? -->\n```(sh|python)\n(.*?)```",
    re.DOTALL,
)


def run(kind: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    binaries = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", "-e", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder after all examples, and what each printed."""
    folder = tmp_path_factory.mktemp("issuers")
    printed = []
    blocks = _BLOCK.findall(DOCS.read_text("utf-8"))
    assert len(blocks) == 7
    for code, kind, text in blocks:
        ended = run(kind, text, folder)
        assert ended.returncode == int(code or 0), (text, ended.stdout, ended.stderr)
        printed.append(ended.stdout)
    return folder, printed


def test_the_examples_work(done: tuple[Path, list[str]]) -> None:
    """A stranger who types what the page says gets what the page says."""
    _, printed = done
    assert "good 有效: class once of https://id.example, by face" in printed[0]
    assert "refused 拒绝 token_expired: exp has passed" in printed[1]
    assert printed[1].split("(")[0] in DOCS.read_text("utf-8")
    assert "its PIN proved" in printed[4]
    assert "k1 is gone" in printed[5]
    assert "good 有效: class once" in printed[6]


def test_a_key_that_was_dropped_takes_its_codes_along(done: tuple[Path, list[str]]) -> None:
    """The page's warning is true: what k1 signed, cards too, is refused without it."""
    folder, _ = done
    now = datetime.now(UTC)
    believed = issuers_file.load(folder / "office" / "issuers.json", now)
    assert list(believed["https://id.example"].keys) == ["k2"]
    for name in ("code", "card", "shown", "again", "proxy", "witness"):
        code = (folder / f"{name}.txt").read_text().splitlines()[0]
        with pytest.raises(TokenRefused) as refused:
            TokenVerifier(believed, "urn:carepos:redeem").verify(code, now)
        assert (refused.value.code, refused.value.claim) == ("token_signature", "kid")


def test_secret_files_are_for_their_owner_alone(done: tuple[Path, list[str]]) -> None:
    """Keys and pictures of codes that the examples leave behind are 0600."""
    folder, _ = done
    for name in ("office/k2.key", "phone.key", "card.png"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
