"""The printer made of a socket and a thread."""

from __future__ import annotations

import socket

import pytest

from sample_merchant.virtual_printer import VirtualPrinter


def test_status_questions_are_answered_and_taken_out() -> None:
    """DLE EOT, GS r and GS I get their answers; what remains is the job."""
    with VirtualPrinter() as virtual, socket.create_connection(("127.0.0.1", virtual.port)) as line:
        line.settimeout(5)
        line.sendall(b"\x10\x04\x01")
        assert line.recv(10) == b"\x12"
        line.sendall(b"\x1b@slip\n\x1dI\x43")
        assert line.recv(100).startswith(b"_CarePOS")
        line.sendall(b"\x1dV\x00\x1dr\x01")
        assert line.recv(10) == b"\x00"
        assert virtual.jobs == (b"\x1b@slip\n\x1dV\x00",)


def test_a_job_without_a_cut_ends_with_the_connection() -> None:
    """Printers without a cutter see no cut; the job is what was sent."""
    with VirtualPrinter() as virtual:
        with socket.create_connection(("127.0.0.1", virtual.port)) as line:
            line.sendall(b"\x1b@slip\n")
        assert virtual.wait_for_jobs(1) == (b"\x1b@slip\n",)


def test_waiting_for_a_job_that_never_comes_ends() -> None:
    """The wait has a limit of its own."""
    with VirtualPrinter() as virtual, pytest.raises(TimeoutError):
        virtual.wait_for_jobs(1, timeout_s=0.01)


def test_switching_off_refuses_and_ends_its_threads() -> None:
    """After `stop()` the port refuses, also while a till is still connected."""
    virtual = VirtualPrinter("silent")
    with socket.create_connection(("127.0.0.1", virtual.port)):
        virtual.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", virtual.port))
