"""Receipts as printer bytes, and what became of a job."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos.paper_text import cell_width
from carepos.receipt import Receipt, ReceiptLine, VoucherBalance
from carepos.receipt_layout import lay_out, render_text
from carepos_plugin.printing.escpos_receipt import ReceiptEncoder, load_escpos, printable_bytes
from carepos_plugin.printing.printers import (
    FilePrinter,
    NetworkPrinter,
    Printer,
    PrintJob,
    PrintResult,
    PrintState,
)
from sample_merchant.paper import Raster, decode
from sample_merchant.paper_picture import default_font_path
from sample_merchant.virtual_printer import Mode, VirtualPrinter
from tests.receipt_samples import QR_TEXT, sample_receipt

# Opens the drawer, cuts, resets, asks for status, leaves two-byte mode, begins a QR code and a
# picture, and moves on the line: each would be obeyed by a printer.
_HOSTILE = (
    "\x1bp\x00\x19\xfa\x1dV\x00\x1b@\x10\x04\x01\x10\x14\x01\x00\x05\x1c.\x1d(k\x03\x001Q0"
    "\x1dv0\x00\xff\xff\x1b\x9b\x85\r\x0b\x0c\n\x7f\u202e\u2028\ue000"
)
_JOB = PrintJob("0001-000007-2", b"\x1b@paper\n\x1dV\x01", "paper\n")


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("escpos")


@pytest.fixture
def encoder(cache_dir: Path) -> ReceiptEncoder:
    return ReceiptEncoder(32, cache_dir=cache_dir)


def _hostile(receipt: Receipt, field: str) -> Receipt:
    if field.startswith("line."):
        name = field.removeprefix("line.")
        line = receipt.lines[1]
        dirty = replace(line, **{name: getattr(line, name) + _HOSTILE})
        return replace(receipt, lines=(receipt.lines[0], dirty, *receipt.lines[2:]))
    if field == "balance.label":
        dirty_balance = replace(receipt.balances[0], label=_HOSTILE + "card")
        return replace(receipt, balances=(dirty_balance, *receipt.balances[1:]))
    changes: dict[str, Any] = {field: _HOSTILE + getattr(receipt, field)}
    return replace(receipt, **changes)


def _controls(data: bytes) -> list[tuple[str, bytes]]:
    # A longer name takes another line, which is no command.
    return [control for control in decode(data).controls if control[0] != "LF"]


@pytest.mark.parametrize(
    "field",
    [
        "merchant_name",
        "store_name",
        "programme_name",
        "terminal_no",
        "receipt_no",
        "zone_name",
        "cashier",
        "beneficiary_ref",
        "line.description",
        "line.note",
        "balance.label",
    ],
)
def test_t9_no_text_field_reaches_the_printer_as_a_command(
    encoder: ReceiptEncoder, field: str
) -> None:
    """T-9: the control sequences of a hostile receipt are those of a benign one."""
    receipt = sample_receipt()
    printed = decode(data := encoder.encode(_hostile(receipt, field)))
    assert _controls(data) == _controls(encoder.encode(receipt))
    assert printed.events == ["cut"]
    assert printed.errors == []


def test_layout_and_printer_agree_on_widths() -> None:
    """Each character of GBK has two bytes, so two cells on paper, and the layout counts two."""
    for code in range(0x80, 0x10000):
        with contextlib.suppress(UnicodeEncodeError):
            if chr(code).encode("gbk") and not chr(code).isspace():
                assert cell_width(chr(code)) == 2, hex(code)


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_t9_the_encoder_itself_lets_no_control_byte_through(text: str) -> None:
    """T-9, second lock: even a text that nobody scrubbed becomes bytes without a control."""
    assert not any(byte < 0x20 or byte == 0x7F for byte in printable_bytes(text))


@pytest.mark.parametrize("columns", [32, 42, 48])
@pytest.mark.parametrize("language", ["zh", "en", "zh+en"])
def test_the_paper_shows_the_rows(cache_dir: Path, columns: int, language: Any) -> None:
    """Every row comes out with its own text, none too wide, the QR whole, then one cut."""
    receipt = sample_receipt(language, "PROVISIONAL", is_copy=True)
    printed = decode(ReceiptEncoder(columns, cache_dir=cache_dir).encode(receipt), columns * 12)
    shown = [line for line in printed.lines if "─" not in line]
    rows = [row.text for row in lay_out(receipt, columns) if not row.rule]
    assert [line for line in shown if line] == [row for row in rows if row]
    assert printed.qr_texts == [QR_TEXT]
    assert printed.overflows == 0
    assert printed.errors == []
    assert printed.events == ["cut"]


def test_a_job_begins_and_ends_as_chinese_printers_need_it(encoder: ReceiptEncoder) -> None:
    """`ESC @`, `ESC t 0`, `FS &` before the first text; `FS .` and the cut after the last."""
    data = encoder.encode(sample_receipt())
    assert data.startswith(b"\x1b@\x1bt\x00\x1c&")
    assert b"\x1c." in data[-8:]
    assert "爱心券支付".encode("gb18030") in data


def test_twenty_chinese_lines_and_a_qr_stay_small(encoder: ReceiptEncoder) -> None:
    """A slip of 20 lines of Chinese with its QR code is at most 1.2 KB; so is the sample."""
    lines = tuple(ReceiptLine("东北长粒香大米十公斤装", 1, "piece", 5850, 5850) for _ in range(6))
    receipt = sample_receipt(
        lines=lines,
        programme_minor=35100,
        beneficiary_minor=0,
        other_tender_minor=0,
        total_minor=35100,
        balances=(VoucherBalance("奶制品卡 **4821", 36000, 900),),
    )
    for columns in (32, 42, 48):
        wide = ReceiptEncoder(columns, cache_dir=encoder._cache_dir)
        assert len(lay_out(receipt, columns)) >= 20
        assert len(wide.encode(receipt)) <= 1200
    assert len(encoder.encode(sample_receipt())) <= 1200


def test_what_the_printer_has_no_glyph_for_keeps_its_place(encoder: ReceiptEncoder) -> None:
    """Without a font rare characters become 〓 and accents are dropped, in the same width."""
    receipt = sample_receipt(store_name="𬭊㛃店", cashier="Çelik", merchant_name="ß店")
    printed = decode(encoder.encode(receipt))
    assert "〓〓店" in printed.lines
    assert "〓店" in printed.lines
    assert any("Celik" in line for line in printed.lines)
    assert printed.errors == []


def test_what_the_printer_has_no_glyph_for_is_drawn_with_a_font(cache_dir: Path) -> None:
    """With a font only the line that holds a rare character becomes a picture, with ink on it."""
    encoder = ReceiptEncoder(32, font_path=default_font_path(), cache_dir=cache_dir)
    data = encoder.encode(sample_receipt(store_name="𬭊㛃店"))
    printed = decode(data)
    pictures = [item.picture for item in printed.items if isinstance(item, Raster)]
    assert [picture.size for picture in pictures] == [(72, 30)]
    assert pictures[0].getextrema() == (0, 255)
    assert "〓" not in "".join(printed.lines)
    assert "惠民超市" in printed.lines
    assert printed.errors == []
    assert not any(
        isinstance(item, Raster) for item in decode(encoder.encode(sample_receipt())).items
    )


def test_drawing_a_line_says_nothing_on_standard_output(
    cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """python-escpos prints a notice about unknown paper widths; ours is known."""
    encoder = ReceiptEncoder(32, font_path=default_font_path(), cache_dir=cache_dir)
    encoder.encode(sample_receipt(store_name="𬭊店"))
    assert capsys.readouterr() == ("", "")


def test_importing_the_library_leaves_nothing_behind(tmp_path: Path) -> None:
    """No log handler, no temporary folder; what is cached lies in the private folder alone.

    A cache cut off by a power failure is made again, and nothing is imported before the first job.
    """
    program = (
        "import logging, pathlib, sys\n"
        "from carepos_plugin.printing.escpos_receipt import ReceiptEncoder, load_escpos\n"
        "assert not any(name.split('.')[0] in ('escpos', 'PIL') for name in sys.modules)\n"
        "load_escpos(pathlib.Path(sys.argv[1]))\n"
        "assert logging.root.handlers == []\n"
    )
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()
    for content in (None, b"", b"\x80\x02}q\x00", b"garbage", b"\x80\x02N.", None):
        for pickle in cache.glob("*.pickle"):
            if content is not None:
                pickle.write_bytes(content)
        subprocess.run(
            [sys.executable, "-c", program, str(cache)],
            check=True,
            env={"PYTHONPATH": ":".join(sys.path), "TMPDIR": str(temporary)},
        )
        assert list(temporary.iterdir()) == []
        assert sorted(path.suffix for path in cache.iterdir()) == ["", ".pickle"]
        assert list((cache / "scratch").iterdir()) == []
        assert cache.stat().st_mode & 0o077 == 0


def test_a_missing_font_or_cache_folder_does_not_stop_the_slip(tmp_path: Path) -> None:
    """A font that is gone and a folder that can't be made cost glyphs and time, not the receipt."""
    (tmp_path / "file").write_text("in the way")
    encoder = ReceiptEncoder(
        32, font_path=tmp_path / "no.ttf", cache_dir=tmp_path / "file" / "cache"
    )
    assert "〓店" in decode(encoder.encode(sample_receipt(store_name="𬭊店"))).lines


def test_the_import_restores_the_environment(cache_dir: Path) -> None:
    """The library's setting and the folder for temporary files are as before."""
    before = tempfile.gettempdir()
    load_escpos(cache_dir)
    assert tempfile.gettempdir() == before


# -- printers ---------------------------------------------------------------------------------


def _printer(virtual: VirtualPrinter) -> Printer:
    # Short only where the answer never comes, so that a slow machine can't change the result.
    timeout_s, state_timeout_s = {"silent": (0.3, 0.05), "paper_runs_out": (0.8, 0.4)}.get(
        virtual.mode, (10.0, 5.0)
    )
    return NetworkPrinter(
        "127.0.0.1", virtual.port, timeout_s=timeout_s, state_timeout_s=state_timeout_s
    )


def test_a_printer_that_confirms_the_end_has_printed(encoder: ReceiptEncoder) -> None:
    """`printed` is what the printer itself said, and the job arrived unchanged."""
    data = encoder.encode(sample_receipt())
    with VirtualPrinter() as virtual:
        result = _printer(virtual).print_job(replace(_JOB, data=data))
        assert result == PrintResult(PrintState.PRINTED, "ok")
        assert virtual.jobs == (data,)


@pytest.mark.parametrize(
    ("mode", "state", "reason", "printed"),
    [
        ("paper_out", PrintState.FAILED, "paper_out", 0),
        ("offline", PrintState.FAILED, "cover_open", 0),
        ("paper_runs_out", PrintState.UNKNOWN, "paper_out", 0),
        ("silent", PrintState.UNKNOWN, "no_answer", 1),
        ("garbage", PrintState.UNKNOWN, "garbled_answer", 1),
        ("hangup", PrintState.UNKNOWN, "broken_off", 0),
    ],
)
def test_a_printer_in_trouble_is_a_result(
    mode: Mode, state: PrintState, reason: str, printed: int
) -> None:
    """FE-1, FE-3: paper out, cover open, silence, garbage and a reset never raise.

    `failed` only when nothing was sent; whatever may have left ink is `unknown`.
    """
    with VirtualPrinter(mode) as virtual:
        assert _printer(virtual).print_job(_JOB) == PrintResult(state, reason)
        assert len(virtual.wait_for_jobs(printed)) == printed


def test_a_printer_that_comes_back_prints_the_next_job() -> None:
    """Trouble with one job leaves nothing behind for the next."""
    with VirtualPrinter("paper_out") as virtual:
        printer = _printer(virtual)
        assert printer.print_job(_JOB).state is PrintState.FAILED
        virtual.mode = "online"
        assert printer.print_job(_JOB).state is PrintState.PRINTED
        assert len(virtual.jobs) == 1


def test_a_printer_that_is_off_is_a_failed_job() -> None:
    """FE-1: a refused connection means that nothing is on paper."""
    with VirtualPrinter() as virtual:
        printer = _printer(virtual)
    assert printer.print_job(_JOB) == PrintResult(PrintState.FAILED, "unreachable")


@pytest.mark.parametrize(
    ("host", "port"),
    [("a" * 70, 9100), ("no such host", 9100), ("x\x00y", 9100), ("127.0.0.1", 70000), ("", -1)],
)
def test_an_impossible_address_is_a_failed_job(host: str, port: int) -> None:
    """Whatever stands in the settings, printing answers and does not raise."""
    result = NetworkPrinter(host, port, timeout_s=0.5).print_job(_JOB)
    assert result == PrintResult(PrintState.FAILED, "unreachable")


def test_a_printer_that_takes_nothing_ends_at_the_limit() -> None:
    """FE-1: a printer that stops reading ends the job at the limit; some may be on paper."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        printer = NetworkPrinter(
            "127.0.0.1", listener.getsockname()[1], timeout_s=0.4, state_timeout_s=0.05
        )
        result = printer.print_job(replace(_JOB, data=b"x" * 50_000_000))
    assert result == PrintResult(PrintState.UNKNOWN, "broken_off")


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_only_one_clean_answer_counts_as_printed(states: bytes, ends: bytes) -> None:
    """FE-3: random answers give one of three results; `printed` needs exactly GS r's one byte."""
    from carepos_plugin.printing.printers import _end_of_job, _is_state, _trouble

    trouble = _trouble(states)
    assert trouble is None or (len(states) == 3 and all(map(_is_state, states)))
    result = _end_of_job(ends)
    said = bytes(byte for byte in ends if not _is_state(byte))
    assert (result.state is PrintState.PRINTED) == (said in (b"\x00", b"\x03"))


def test_files_hold_the_job_and_are_never_overwritten(tmp_path: Path) -> None:
    """Each job is one .bin and one .txt; a reprint gets files of its own; no part is left."""
    printer: Printer = FilePrinter(tmp_path / "out")
    text = render_text(sample_receipt())
    for data in (b"one", b"two"):
        assert printer.print_job(PrintJob("0001-000007-2", data, text)).state is PrintState.PRINTED
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        "receipt-0001-000007-2.bin": b"one",
        "receipt-0001-000007-2.txt": text.encode(),
        "receipt-0001-000007-2-2.bin": b"two",
        "receipt-0001-000007-2-2.txt": text.encode(),
    }


def test_a_job_name_can_not_leave_the_folder(tmp_path: Path) -> None:
    """Separators, dots and control characters in a name do not choose another place."""
    out = tmp_path / "out"
    assert FilePrinter(out).print_job(PrintJob("../../etc/x\x00", b"", "")).state == "printed"
    assert {path.name for path in out.iterdir()} == {"receipt-_etc_x_.bin", "receipt-_etc_x_.txt"}
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_can_not_be_written_is_a_failed_job(tmp_path: Path) -> None:
    """A file where the folder should be, or a full disk, is a result."""
    (tmp_path / "out").write_text("in the way")
    result = FilePrinter(tmp_path / "out").print_job(_JOB)
    assert result == PrintResult(PrintState.FAILED, "not_written")
