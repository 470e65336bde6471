"""What may be logged or said on stderr: a list of fields, and nothing that came from outside.

Read from the source: a call that interpolates anything else fails here, before anybody's name is in
a log. An error's text is allowed only where our own errors are (they name fields, never values).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sdk/carepos", "ledger/carepos_ledger", "pos_plugin/carepos_plugin")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

# What a log line may hold: types, counts, states, and the number that stands on a receipt.
LOGGED = {
    "type(error).__name__",
    "len(commands)",
    "slip.receipt_no",
    "slip.state",
    "slip.reason",
}
# What a person at a terminal is told besides: names that they typed or that name no person, and
# our own errors' sentences.
SAID = {
    "_EARLY",
    "_missing(error)",
    "_refusal(error)",
    "_sentence(error, args)",
    "answer.get('expires_at')",
    "args.qr",
    "args.store",
    "document.get('en')",
    "document.get('zh')",
    "done",  # a count
    "entry.name",
    "error",  # in handlers of CareposError, sqlite3 and RuntimeError only, see below
    "error.detail or error.code",
    "error.filename or 'A file'",
    "error.name",
    "error.strerror or 'failed'",
    "error.strerror or error",
    "error.strerror or type(error).__name__",
    "extra",
    "folder",
    "iss",  # of an issuer, which is a service
    "left",  # how many answers wait
    "left_out",
    "len(dark)",
    "level",
    "line",  # of traceback.format_tb: places, no texts
    "more",
    "needs",
    "of",  # a count
    "path",
    "place",
    "staged",  # how many answers wait
    "settings.devices_url",
    "settings.host",
    "str(error)",
    "text",  # of _say, whose callers are looked at
    "type(error).__name__",
    "what",
    "where",
    "what or 'nothing was changed'",
    "why",
}
OWN_ERRORS = {
    "CareposError",
    "JournalCorrupt",  # one of them: which number does not hold
    "RuntimeError",  # ours: what SQLite or PostgreSQL is set to
    "sqlite3.DatabaseError",  # names tables and columns
}


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _is_log(call: ast.Call) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in ("_log", "logging", "logger", "log")
        and function.attr
        in ("debug", "info", "warning", "error", "critical", "exception", "log", "warn")
    )


def _is_stderr(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Name):
        return False
    return call.func.id == "_say" or (
        call.func.id == "print"
        and any(k.arg == "file" and ast.unparse(k.value) == "sys.stderr" for k in call.keywords)
    )


def _interpolated(call: ast.Call) -> Iterator[str]:
    """Everything in the call's arguments that is no literal text."""
    for argument in call.args:
        if isinstance(argument, ast.JoinedStr):
            for part in ast.walk(argument):
                if isinstance(part, ast.FormattedValue):
                    yield ast.unparse(part.value)
        elif not isinstance(argument, ast.Constant):
            yield ast.unparse(argument)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_listed_fields_are_logged_or_said(path: Path) -> None:
    """Log calls hold fields of `LOGGED` and never a traceback; stderr also those of `SAID`."""
    for call in _calls(ast.parse(path.read_text("utf-8"))):
        where = f"{path.name}:{call.lineno}"
        if _is_log(call):
            assert set(_interpolated(call)) <= LOGGED, where
            assert isinstance(call.args[0], ast.Constant), where
            named = {keyword.arg for keyword in call.keywords}
            assert not named, f"{where}: exc_info and stack_info would show an exception's text"
            assert isinstance(call.func, ast.Attribute) and call.func.attr != "exception", where
        elif _is_stderr(call):
            assert set(_interpolated(call)) <= SAID, (where, set(_interpolated(call)) - SAID)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_text_of_a_foreign_exception_is_said(path: Path) -> None:
    """Whoever says `error` on stderr has caught one whose text names no value."""
    for handler in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
            continue
        said = {
            each
            for call in _calls(handler)
            if _is_stderr(call)
            for each in _interpolated(call)
            if each in (handler.name, f"str({handler.name})", f"repr({handler.name})")
        }
        if said:
            assert handler.type is not None
            assert ast.unparse(handler.type) in OWN_ERRORS, f"{path.name}:{handler.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_exception_is_printed_whole(path: Path) -> None:
    """`traceback` is asked for places only, and nobody writes past `print` and the loggers."""
    allowed = {"fileno", "flush", "format_tb", "print_ascii"}
    for call in _calls(ast.parse(path.read_text("utf-8"))):
        spelled = ast.unparse(call.func)
        if spelled.startswith(("traceback.", "sys.stderr.", "sys.stdout.")):
            assert call.func.attr in allowed | {"isatty", "reconfigure"}, spelled  # type: ignore[attr-defined]


def test_the_lists_hold_nothing_that_is_not_said() -> None:
    """A field that no call needs any more would let a later one through unseen."""
    calls = [call for path in SOURCES for call in _calls(ast.parse(path.read_text("utf-8")))]
    assert {each for c in calls if _is_log(c) for each in _interpolated(c)} == LOGGED
    assert {each for c in calls if _is_stderr(c) for each in _interpolated(c)} >= SAID
