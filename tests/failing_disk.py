"""A disk that fails when it is told to, beneath a process of its own: fsync and write, by errno.

`tests/failing_disk.c` is compiled when the first test wants it and preloaded before libc, so that
SQLite itself meets the error. Where there is no compiler, or no such loader, tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


def compiled(folder: Path) -> Path:
    """The library in `folder`. Skips the test where it can't be made."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler (cc) to make a disk fail")
    library = folder / "failing_disk.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"the compiler can't make it: {made.stderr[-200:]}")
    return library


def environment(folder: Path, fault: Path) -> dict[str, str]:
    """For a process whose disk fails as the file `fault` says, once it is there."""
    return {**os.environ, "LD_PRELOAD": str(compiled(folder)), "CAREPOS_DISK": str(fault)}
