"""The `carepos` command at its edge: what went wrong is one sentence, and an exit code."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from carepos import settlement_folder
from carepos.commands import EXIT_CODES, main


def test_a_failure_of_the_disk_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the system says is told with the file where there is one, and never as a traceback."""
    till = tmp_path / "nowhere"
    assert main(["settlement", "fetch", "--till", str(till), "--to", str(tmp_path)]) == 2
    assert "is not the folder of an enrolled till" in capsys.readouterr().err

    for failure, told in (
        (OSError(28, "No space left on device"), "carepos: No space left on device\n"),
        (OSError(13, "Permission denied", "a.csv"), "carepos: Permission denied: a.csv\n"),
    ):

        def fail(*_: object, failure: OSError = failure, **__: object) -> None:
            raise failure

        monkeypatch.setattr(settlement_folder, "read_folder", fail)
        monkeypatch.setattr("carepos.settlement_commands._kept_keys", fail)
        assert main(["settlement", "check", str(tmp_path)]) == 2
        assert capsys.readouterr().err == told


def test_an_unforeseen_failure_shows_where_and_not_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Types and places of the whole chain; no text, which might be a row of somebody's list."""

    def fail(*_: object, **__: object) -> None:
        try:
            int("金丝雀 522632198802201317")
        except ValueError as error:
            raise KeyError("金丝雀") from error

    monkeypatch.setattr("carepos.settlement_commands._kept_keys", fail)
    monkeypatch.setattr(settlement_folder, "read_folder", fail)
    assert main(["settlement", "check", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "KeyError, raised at" in told.err and "ValueError, raised at" in told.err
    assert "test_commands.py" in told.err
    said = told.err.replace(Path(__file__).read_text("utf-8"), "")
    assert "invalid literal" not in said and told.out == ""


@pytest.mark.parametrize(
    "typed", [[], ["serve"], ["serve", "--folder", "my-till"], ["--help"]], ids=" ".join
)
def test_a_missing_extra_is_named_whatever_was_typed(
    typed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the plugin's libraries `carepos till …` says what to install, in one line."""

    def load(_: EntryPoint) -> None:
        raise ModuleNotFoundError("No module named 'flask'", name="flask")

    monkeypatch.setattr(EntryPoint, "load", load)
    assert main(["till", *typed]) == 2
    told = capsys.readouterr()
    assert told.err == "carepos till needs flask: pip install 'carepos[plugin]'\n"
    assert told.out == ""


@pytest.mark.parametrize(
    "words", ["till exceptions", "ledger heal open", "token mint", "reconcile", "settlement fetch"]
)
def test_every_command_says_its_exit_codes(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At the end of its help; a group of commands has none of its own."""
    with pytest.raises(SystemExit):
        main([*words.split(), "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith(EXIT_CODES) or "exit codes: 0" in said  # its own
    with pytest.raises(SystemExit):
        main(["till", "--help"])
    assert "Exit codes" not in capsys.readouterr().out
