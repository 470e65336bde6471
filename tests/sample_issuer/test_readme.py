"""The README's ten lines bring a stranger to the first care code."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "sample_issuer" / "README.md"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_from_nothing_to_the_first_care_code_in_ten_lines(tmp_path: Path) -> None:
    """As typed, with two real services; only the ports are others."""
    mark = "<!-- executed by tests/sample_issuer/test_readme.py -->"
    (text,) = re.findall(rf"{mark}\n```sh\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len(text.splitlines()) <= 10
    text = text.replace("8470", str(_free_port())).replace("8480", str(_free_port()))
    script = f"trap 'kill $(jobs -p)' EXIT\n{text}"
    binaries = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    ended = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "good 有效: class once of https://id.example, by otp" in ended.stdout
