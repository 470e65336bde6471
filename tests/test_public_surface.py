"""What `import carepos` gives an integrator, and what it must not bring along."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import carepos
from carepos.errors import CareposError

REVIEWED = """
    CareposError ClockSkew Correction DayClose DiskFull EnrolmentFailed Holder IdentityToken
    IssuerKeys JournalClosed JournalCorrupt JournalError JournalLocked KeyStore Line Malformed
    NotDecided NotWritten Offer Paper Programme Proposal Quota Refusal Refused Returnable
    ReturnedLine Sale SetRefused SignatureInvalid Situation Terms Till TokenRefused TokenVerifier
    Unreachable Voucher WrongState check propose spread_discount
"""
HEAVY = "flask sqlalchemy escpos qrcode rich PIL waitress alembic psycopg werkzeug".split()
HEAVY += ["carepos_plugin", "carepos_ledger", "sample_merchant"]
MODULES = sorted(each.name for each in pkgutil.iter_modules(carepos.__path__))


def test_the_surface_is_the_reviewed_list() -> None:
    """A name becomes public, or stops being it, only by changing this list too."""
    assert carepos.__all__ == sorted(carepos.__all__) == REVIEWED.split()


def test_nothing_else_is_lying_about() -> None:
    """Beside the list, `carepos` holds only its modules and what Python puts there."""
    found = {name for name in vars(carepos) if not name.startswith("_")}
    machinery = {"annotations", "TYPE_CHECKING", "import_module"}
    assert found - set(MODULES) - machinery <= set(carepos.__all__)


def test_each_name_is_loaded_when_it_is_asked_for() -> None:
    """`import carepos` by itself loads none of its modules; whoever only verifies codes loads no
    journal and no HTTP; a name that is none says so."""
    code = """
import sys, carepos
assert [m for m in sys.modules if m.startswith("carepos.")] == []
assert set(carepos.__all__) <= set(dir(carepos))
from carepos import TokenVerifier
assert not {"carepos.journal", "carepos.till", "requests", "sqlite3"} & set(sys.modules)
try:
    carepos.Nothing
except AttributeError as error:
    assert "Nothing" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(carepos._HOME) == set(carepos.__all__)


@pytest.mark.parametrize("name", carepos.__all__)
def test_every_public_name_is_explained(name: str) -> None:
    """Each has a docstring of its own (not the one dataclasses make up)."""
    said = inspect.getdoc(getattr(carepos, name)) or ""
    assert len(said) > 20 and not said.startswith(f"{name}("), said


@pytest.mark.parametrize(
    "owner", [carepos.Till, carepos.TokenVerifier, carepos.Sale, carepos.KeyStore]
)
def test_every_public_method_is_explained(owner: type) -> None:
    """Nobody has to read the code to call what may raise."""
    silent = [
        method
        for method, found in inspect.getmembers(owner, inspect.isroutine)
        if not method.startswith("_") and method != "close" and not inspect.getdoc(found)
    ]
    assert silent == []


def test_every_error_is_ours() -> None:
    """One base catches all; each error of the tree is on the surface."""
    errors = importlib.import_module("carepos.errors")
    made = {
        found
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, Exception)
    }
    assert all(issubclass(error, CareposError) for error in made)
    assert {error.__name__ for error in made} <= set(carepos.__all__)


def test_the_sdk_imports_nothing_heavy() -> None:
    """`carepos` and all of its modules bring no framework, no printer and no other package."""
    names = ["carepos", *[f"carepos.{name}" for name in MODULES]]
    script = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names!r}];"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.split() == []
