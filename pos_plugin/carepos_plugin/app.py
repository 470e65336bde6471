"""The plugin wired together: the one place where its parts meet."""

from __future__ import annotations

import hmac
import logging
import os
import random
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask, Response
from waitress.server import create_server
from werkzeug.exceptions import HTTPException

from carepos import Holder, Malformed, Paper, Till, clock
from carepos.clock import Clock
from carepos.errors import CareposError
from carepos.ids import RandomBytes
from carepos.till import Reached, pass_by
from carepos_plugin import (
    device_routes,
    guard,
    held_code,
    office_routes,
    pad_link,
    pairing,
    pin_pad_routes,
    put_back_words,
    returns_routes,
    status,
)
from carepos_plugin.counter import Counter
from carepos_plugin.held_code import HeldCode
from carepos_plugin.http import MAX_BODY_BYTES, problem_response
from carepos_plugin.offers import OfferBook
from carepos_plugin.pad_link import PadLink
from carepos_plugin.pin_pad import PinPad
from carepos_plugin.print_queue import NoPrinter, PrintQueue
from carepos_plugin.printing.escpos_receipt import ReceiptEncoder
from carepos_plugin.printing.printers import FilePrinter, NetworkPrinter, Printer
from carepos_plugin.problems import Problem, problem_of
from carepos_plugin.registers import local_json
from carepos_plugin.settings import Settings, bracketed
from carepos_plugin.upkeep import Chores, Contact, Upkeep

THREADS = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin's parts; `wsgi` is what a WSGI server serves. It does not close the till.

    `read_status(running=False)`: for a command that opens the till for its own work alone.
    """

    wsgi: Flask
    settings: Settings
    counter: Counter
    chores: Chores
    print_queue: PrintQueue
    upkeep: Upkeep
    read_status: Callable[..., dict[str, Any]]

    def start(self) -> None:
        """Print and settle in the background from now on."""
        self.print_queue.start()
        self.upkeep.start()

    def close(self) -> None:
        """End what runs in the background; what is queued waits for the next start."""
        self.upkeep.close()
        self.print_queue.close()


def build(
    till: Till,
    settings: Settings,
    secret: str,
    *,
    printer: Printer | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    random_bytes: RandomBytes = os.urandom,
    reached: Reached = pass_by,
) -> Plugin:
    """Wire a plugin around an open till. Nothing runs in the background before `start()`.

    `secret` is what registers must show (`pairing.read`); `printer` stands in for the one that the
    settings name; `reached` is told the points that a print job passes.
    """
    encoder = encoder_of(settings)
    printer = printer or printer_of(settings)
    printing = PrintQueue(
        till.journal,
        printer,
        encoder.encode,
        columns=settings.columns,
        terminal_no=till.enrolment.terminal_no,
        reached=reached,
    )
    offers = OfferBook(life_s=settings.offer_life_s, monotonic=monotonic, random_bytes=random_bytes)
    contact = Contact(lambda: till.heard_at, back=lambda: upkeep.wake())
    held = HeldCode(monotonic=monotonic)
    link = PadLink(settings.folder, monotonic=monotonic, random_bytes=random_bytes)
    returns = PadLink(
        settings.folder, monotonic=monotonic, random_bytes=random_bytes, file=returns_routes.FILE
    )

    def look_up(code: str, pin: str) -> Holder:
        return counter.scan(code, pin)

    pad = PinPad(
        look_up,
        shop=till.enrolment.store_name,
        kept_s=settings.offer_life_s,
        monotonic=monotonic,
        random_bytes=random_bytes,
    )

    lost = put_back_words.Log(till.journal)

    def afterwards() -> None:
        lost.look()
        offers.forget_expired()
        pad.forget_expired()
        held.forget_expired()
        printing.wake()

    chores = Chores(
        till,
        contact,
        now=till.now,
        monotonic=monotonic,
        afterwards=afterwards,
        receipts_kept=timedelta(days=settings.receipts_days),
    )

    def due_in_s() -> float | None:
        at = till.next_try()
        return None if at is None else (at - till.now()).total_seconds()

    upkeep = Upkeep(
        chores.when_due,
        every_s=settings.settle_every_s,
        random=random.random,
        due_in_s=due_in_s,
    )
    counter = Counter(
        till,
        settings,
        offers,
        contact,
        pad,
        link,
        held,
        now=till.now,
        after_sale=printing.wake,
        has_printer=not isinstance(printer, NoPrinter),
    )

    def read_status(*, running: bool = True) -> dict[str, Any]:
        return status.of_plugin(
            settings,
            till,
            contact=contact,
            chores=chores,
            printing=printing,
            pad=pad,
            link=link,
            held=held,
            running=running,
        )

    app = Flask("carepos_plugin", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    guard.install(
        app,
        names={*guard.LOOPBACK_NAMES, bracketed(settings.host).lower()},
        secret=secret,
        doors=_doors(settings.folder, link, returns),
        names_outside={bracketed(settings.devices_host).lower()} if settings.devices_host else (),
    )
    app.register_blueprint(local_json.blueprint(counter))
    app.register_blueprint(pin_pad_routes.blueprint(pad, link))
    app.register_blueprint(pin_pad_routes.register_side(pad))
    app.register_blueprint(pin_pad_routes.PAGE.register_side(link, settings.devices_url))
    app.register_blueprint(device_routes.blueprint(held))
    app.register_blueprint(returns_routes.blueprint(counter, returns))
    app.register_blueprint(returns_routes.PAGE.register_side(returns, settings.url))
    app.register_blueprint(
        office_routes.blueprint(counter, chores, read_status, printing.print_drill)
    )
    _answer_errors(app)
    return Plugin(app, settings, counter, chores, printing, upkeep, read_status)


def _doors(folder: Path, link: PadLink, returns: PadLink) -> tuple[guard.Door, ...]:
    """For those who face the beneficiary, and the page for taking back, each with a secret of its
    own."""

    def is_device(shown: str) -> bool:
        try:
            secret = pairing.read(folder, held_code.FILE)
        except (FileNotFoundError, Malformed):
            return False  # none was made, or others on this computer could read it
        return hmac.compare_digest(shown.encode("utf-8", "replace"), secret.encode())

    return (
        guard.Door(
            pin_pad_routes.PAGE.prefix,
            pad_link.HEADER,
            link.opens,
            "pad_not_paired",
            without=pin_pad_routes.PAGE.open,
        ),
        guard.Door(device_routes.PREFIX, held_code.HEADER, is_device, "device_not_paired"),
        guard.Door(
            returns_routes.PAGE.prefix,
            returns_routes.HEADER,
            returns.opens,
            "page_not_paired",
            without=returns_routes.PAGE.open,
            from_outside=False,
        ),
    )


def encoder_of(settings: Settings) -> ReceiptEncoder:
    """What makes the bytes for the printer that the settings name."""
    return ReceiptEncoder(
        settings.columns, font_path=settings.font, cache_dir=settings.folder / "cache"
    )


def printer_of(settings: Settings) -> Printer:
    """The printer that the settings name."""
    address = settings.printer
    if address.kind == "tcp":
        return NetworkPrinter(address.host, address.port)
    if address.folder is not None:
        return FilePrinter(address.folder)
    return NoPrinter()


@contextmanager
def opened(
    folder: Path, *, now: Clock = clock.system_clock, reached: Reached = pass_by
) -> Iterator[Plugin]:
    """The till of `folder`, open and wired as its settings want it; closed again afterwards.

    Raises Malformed for a wrong setting, FileNotFoundError, EnrolmentFailed, JournalLocked.
    """
    settings = Settings.load(folder)
    secret = pairing.read(folder)
    with Till.open(
        folder,
        now=now,
        reached=reached,
        software=f"carepos-plugin/{version('carepos')}",
        paper=Paper(settings.language, settings.zone),
        answer_timeout_s=settings.answer_timeout_s,
        mirror=settings.mirror,
    ) as till:
        plugin = build(till, settings, secret, reached=reached)
        try:
            yield plugin
        finally:
            plugin.close()


def serve(
    folder: Path,
    *,
    now: Clock = clock.system_clock,
    reached: Reached = pass_by,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the till in `folder` until the process is told to stop (Ctrl-C, SIGTERM).

    A sale at work then still ends and its register is answered; no new request is taken.
    `ready` is told the address once it answers. Raises as `opened`, and OSError when the port is
    taken.
    """
    settings = Settings.load(folder)
    with ExitStack() as stack:
        # The ports first: where one is taken, the till is not even opened.
        listener = stack.enter_context(_listener(settings.host, settings.port))
        outside = (
            stack.enter_context(_listener(settings.devices_host, settings.port))
            if settings.devices_host
            else None
        )
        plugin = stack.enter_context(opened(folder, now=now, reached=reached))
        server = _server(plugin.wsgi, listener, THREADS)
        if outside is not None:
            stack.enter_context(_devices_served(plugin, outside))
        try:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, _stop)
            plugin.start()
            ready(settings.url)
            server.run()  # returns after KeyboardInterrupt and SystemExit
            # It has waited five seconds for requests at work. A sale that asks and sends may take
            # longer, and must not lose the till under it.
            server.task_dispatcher.shutdown(timeout=2 * settings.answer_timeout_s + 5)
        finally:
            server.close()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def _server(wsgi: Callable[..., Any], listener: socket.socket, threads: int) -> Any:
    return create_server(
        wsgi,
        sockets=[listener],
        threads=threads,
        max_request_body_size=2 * MAX_BODY_BYTES,
        channel_timeout=30,
        ident=None,
    )


@contextmanager
def _devices_served(plugin: Plugin, listener: socket.socket) -> Iterator[None]:
    """The doors of the pad and the device at their own address, by threads of their own: whatever
    comes from that network, the register is answered."""
    server = _server(guard.outside(plugin.wsgi), listener, 2)
    thread = threading.Thread(target=server.run, name="devices", daemon=True)
    thread.start()
    try:
        yield
    finally:
        # A PIN at work ends before the till closes; the thread ends with the process.
        server.task_dispatcher.shutdown(timeout=2 * plugin.settings.answer_timeout_s + 5)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _answer_errors(app: Flask) -> None:
    """Whatever goes wrong becomes a problem document; no text of a foreign exception gets out."""

    @app.errorhandler(Problem)
    def problem(error: Problem) -> Response:
        return problem_response(error)

    @app.errorhandler(CareposError)
    def ours(error: CareposError) -> Response:
        return problem_response(problem_of(error))

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        status_code = error.code or 500
        if status_code in codes:
            answer = problem_response(Problem(codes[status_code]))
        elif status_code < 500:
            answer = problem_response(problem_of(Malformed("the request is not of its form")))
        else:
            answer = problem_response(Problem("internal"))
        for name, value in error.get_headers():
            if name == "Allow":
                answer.headers[name] = value
        return answer

    @app.errorhandler(OSError)
    @app.errorhandler(sqlite3.OperationalError)
    def disk(error: Exception) -> Response:
        _log.error("the disk can't be used: %s", type(error).__name__)
        return problem_response(Problem("disk"))

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        # The type only: an exception's text may hold a token.
        _log.error("a request failed: %s", type(error).__name__)
        return problem_response(Problem("internal"))
