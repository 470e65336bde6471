"""plugin.toml: readable, strict, and each mistake named."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos import Malformed
from carepos_plugin.settings import FILE, TEXT, Settings


def test_the_written_file_says_what_the_defaults_are(tmp_path: Path) -> None:
    """The file that enrolment writes and an empty one mean the same; it is never overwritten."""
    assert Settings.write_default(tmp_path)
    written = Settings.load(tmp_path)
    assert written == Settings.read({}, tmp_path)
    assert (written.url, written.printer.kind) == ("http://127.0.0.1:8450", "none")
    (tmp_path / FILE).write_text("port = 9000\n")
    assert not Settings.write_default(tmp_path)
    assert Settings.load(tmp_path).port == 9000


def test_every_setting_is_explained_in_the_file() -> None:
    """Each setting has its comment above it."""
    lines = TEXT.splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            assert lines[number - 1].startswith(("#", "host"))


def test_a_file_from_notepad_is_read(tmp_path: Path) -> None:
    """A byte-order mark and CRLF, as Windows editors leave them, do no harm."""
    (tmp_path / FILE).write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert Settings.load(tmp_path) == Settings.read({}, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "0.0.0.0"),
        ("host", "::"),
        ("host", "localhost"),
        ("host", "224.0.0.1"),
        ("host", 1),
        ("devices_host", "0.0.0.0"),
        ("devices_host", "::"),
        ("devices_host", "tablet"),
        ("devices_host", None),
        ("devices_host", 7),
        ("port", 0),
        ("port", 65_536),
        ("port", "8450"),
        ("port", True),
        ("port", 84.5),
        ("language", "cn"),
        ("language", []),
        ("zone", "Beijing"),
        ("zone", "../etc/passwd"),
        ("zone", "/"),
        ("zone", ""),
        ("printer", "lpt1"),
        ("printer", "file:"),
        ("printer", "tcp://192.168.1.50"),
        ("printer", "tcp://:9100"),
        ("printer", "tcp://a b:9100"),
        ("printer", "tcp://x:0"),
        ("printer", "tcp://x:99999"),
        ("columns", 40),
        ("columns", "32"),
        ("columns", True),
        ("font", "nowhere.ttf"),
        ("offer_life_s", 29),
        ("offer_life_s", 901),
        ("settle_every_s", 0),
        ("answer_timeout_s", 1),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, name: str, value: object) -> None:
    """The error says which file and which setting, in one sentence."""
    with pytest.raises(Malformed, match=rf"^{FILE}, setting {name}: must|^{FILE}.*{name}: is no"):
        Settings.read({name: value}, tmp_path)


def test_a_misspelt_setting_is_not_ignored(tmp_path: Path) -> None:
    """What is not a setting is an error, so that a typing slip is seen at once."""
    with pytest.raises(Malformed, match=r"unknown name 'prot'"):
        Settings.read({"prot": 8450}, tmp_path)


@pytest.mark.parametrize("data", [b"port = ", b"\xff\xfe", b"port = 1\nport = 2\n"])
def test_a_file_that_is_no_toml_is_an_error_of_ours(tmp_path: Path, data: bytes) -> None:
    """A broken file is named and no foreign exception escapes."""
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(Malformed, match=FILE):
        Settings.load(tmp_path)


_VALUES: Any = st.one_of(
    st.integers(), st.text(max_size=20), st.booleans(), st.floats(), st.lists(st.integers())
)


@given(st.dictionaries(st.sampled_from(sorted(TEXT.split())), _VALUES, max_size=4))
def test_no_content_makes_reading_fail_otherwise(found: dict[str, Any]) -> None:
    """Whatever stands in the file, it is settings or Malformed."""
    with contextlib.suppress(Malformed):
        Settings.read(found, Path("nowhere"))


@pytest.mark.parametrize(
    ("text", "kind", "place"),
    [
        ("file:receipts", "file", "till/receipts"),
        ("file:/var/receipts", "file", "/var/receipts"),
        ("tcp://192.168.1.50:9100", "tcp", "192.168.1.50:9100"),
        ("tcp://printer.shop:9100", "tcp", "printer.shop:9100"),
    ],
)
def test_printers(text: str, kind: str, place: str) -> None:
    """A folder is taken from the till's folder; a network printer is host and port."""
    address = Settings.read({"printer": text}, Path("till")).printer
    assert address.kind == kind
    found = str(address.folder) if address.folder else f"{address.host}:{address.port}"
    assert found == place
