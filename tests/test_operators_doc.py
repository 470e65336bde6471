"""The examples of docs/operators.md are executed as they stand, in one shell, in their order."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

from carepos.token_commands import read_programme

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "operators.md"
RESTORING = "<!-- restoring, executed by tests/test_operators_doc.py -->"
MARK = "<!-- executed by tests/test_operators_doc.py -->"
SERVES = "until carepos ledger alarms --folder my-ledger 2>/dev/null; do sleep 0.1; done\n"


def _free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def test_from_nothing_to_an_enrolled_till(tmp_path: Path) -> None:
    """Every step works in the order in which the page has them; only the port is another."""
    page = DOCS.read_text("utf-8")
    blocks = re.findall(rf"{MARK}\n```sh\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 6
    (restoring,) = re.findall(rf"{RESTORING}\n```sh\n(.*?)```", page, re.DOTALL)
    assert restoring.count("carepos ledger serve &\n") == 1
    (rules,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "programme.toml").write_text(rules, "utf-8")
    (tmp_path / "sample_merchant").symlink_to(ROOT / "sample_merchant")
    port = _free_port()
    first = blocks[0].replace("--folder my-ledger ", f"--folder my-ledger --port {port} ", 1)
    # A till reports its day; then the server dies with its book.
    lost = "carepos till close-day --folder ../my-till\nkill -9 %1\nwait %1 || true\n"
    again = restoring.replace(
        "serve &\n", f"serve --port {port} &\n" + SERVES.replace("my-ledger", ".")
    )
    text = "".join([first, SERVES, *blocks[1:], lost, again]).replace(
        "127.0.0.1:8440", f"127.0.0.1:{port}"
    )
    binaries = str(Path(sys.executable).parent)
    ended = subprocess.run(
        ["bash", "-e", "-c", f"trap 'kill $(jobs -p)' EXIT\n{text}"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for said in (
        "flood-dairy, rules version 1", "150000.00 CNY of red-cross", "Both sums hold",
        "636 vouchers for 142,740.00 CNY would be", "636 issued, 0 issued before",
        "Enrolled as till 0001 of 古州店", "active", "1 of 1 tills have reported",
        "1 × day_report posted", "No open exception", "636 new, 0 changed", "0 homes noted",
    ):  # fmt: skip
        assert said in ended.stdout, said
    assert (tmp_path / "enrolment.csv").exists() and (
        tmp_path / "my-ledger" / "import.key"
    ).exists()
    judged = read_programme(tmp_path / "programme.toml")
    assert judged.amr_any == {"face", "otp", "pin"} and judged.acting is not None


def test_what_is_left_out_of_a_programme_has_the_value_the_page_says() -> None:
    """The values in brackets are those that the command fills in."""
    from carepos_ledger import commands

    (rules,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    spoken = {
        "classes": '(["once"])', "amr_any": "([]: any)", "top_up_allowed": "(false)",
        "limit_per_redemption_minor": "(no limit)", "undo_window_s": "(1800)",
        "paused": "(false)", "quotas": "(none)", "refunds": "(14 and 3 days)",
    }  # fmt: skip
    filled = commands._RULES_WITHOUT_A_WORD
    assert filled.keys() == spoken.keys()
    for name, said in spoken.items():
        (line,) = [line for line in rules.splitlines() if re.match(rf"(\[\[)?{name}\b", line)]
        assert line.endswith(said) or said in line, line
    assert filled["undo_window_s"] == 1800 and filled["classes"] == ["once"]
    assert filled["refunds"] == {"window_s": 14 * 86_400, "grace_s": 3 * 86_400}
    assert filled["limit_per_redemption_minor"] is None and filled["top_up_allowed"] is False
    assert set(tomllib.loads(rules)) >= filled.keys()
