"""The ledger wired together: the one place where its parts meet."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import waitress
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound

from carepos import clock
from carepos.clock import Clock
from carepos.ids import RandomBytes
from carepos_ledger import (
    heal_routes,
    held_routes,
    holder_pages,
    home_routes,
    identity_routes,
    migrations,
    openapi,
    operator_routes,
    privacy_routes,
    routes,
    settlement_routes,
    use_routes,
)
from carepos_ledger.auth import Authenticator
from carepos_ledger.book import Book, Reached, pass_by
from carepos_ledger.cards import Cards
from carepos_ledger.counter import Counter
from carepos_ledger.database import Database
from carepos_ledger.desk import Desk
from carepos_ledger.disputes import Disputes
from carepos_ledger.erasure import Erasure
from carepos_ledger.heal_status import HealStatus
from carepos_ledger.healing import Healing
from carepos_ledger.held_list import HeldList
from carepos_ledger.held_rulings import HeldRulings
from carepos_ledger.holder_pages import HolderPages
from carepos_ledger.http import MAX_BODY_BYTES, answer_problems, json_response, problem_response
from carepos_ledger.intake import Intake
from carepos_ledger.issuers import Issuers
from carepos_ledger.keyring import Keyring, refuse_keys
from carepos_ledger.lost_batches import LostBatches
from carepos_ledger.offering import Offering
from carepos_ledger.office import Office
from carepos_ledger.offline_exceptions import OfflineExceptions
from carepos_ledger.opening import Opening
from carepos_ledger.operators import Operators
from carepos_ledger.packs import Packs
from carepos_ledger.pinning import Pinning
from carepos_ledger.privacy_routes import People
from carepos_ledger.problems import Problem
from carepos_ledger.programmes import Programmes
from carepos_ledger.retention import Retention
from carepos_ledger.revoking import Revoking
from carepos_ledger.sales import Sales
from carepos_ledger.settings import Settings
from carepos_ledger.settlement import Settlement
from carepos_ledger.terminals import Terminals
from carepos_ledger.told_allotments import ToldAllotments
from carepos_ledger.uses import Uses
from carepos_ledger.voucher_stops import VoucherStops

THREADS = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ledger:
    """A running ledger's parts; `wsgi` is what a WSGI server serves."""

    wsgi: Flask
    database: Database
    keyring: Keyring
    operators: Operators
    issuers: Issuers
    revoking: Revoking
    cards: Cards
    programmes: Programmes
    office: Office
    terminals: Terminals
    settlement: Settlement
    desk: Desk

    def close(self) -> None:
        """Finish what waits at the desk, then let the database go."""
        self.desk.close()
        self.database.close()


def build(
    settings: Settings,
    *,
    now: Clock = clock.system_clock,
    random_bytes: RandomBytes = secrets.token_bytes,
    reached: Reached = pass_by,
    make_desk: Callable[[Book], Desk] = Desk,
) -> Ledger:
    """Wire a ledger over a migrated database. Raises RuntimeError when it is not migrated, and when
    it is of another epoch than its keys.

    `reached` is told the name of each point that a posting passes (`book.POINTS`); `make_desk`
    puts a desk in front of the book.
    """
    database = Database(settings.database, pool_size=THREADS + 4)
    try:
        if not migrations.is_current(database):
            raise RuntimeError("the database has another schema: run `carepos ledger migrate`")
        keyring = Keyring.load(settings.folder)
        healing = Healing(database, keyring)
        healing.check()
    except BaseException:
        database.close()
        raise
    operators = Operators(database)
    issuers = Issuers(database, now)
    revoking = Revoking(database, now)
    cards = Cards(database, now)
    programmes = Programmes(database)
    office = Office(database, now, random_bytes)
    terminals = Terminals(database, keyring, now, settings.audience, random_bytes)
    settlement = Settlement(database, keyring, now, reached)
    intake = Intake(database, settings.audience, now, keyring.evidence, issuers.learn)
    book = Book(database, keyring, now, reached)
    desk = make_desk(book)
    counter = Counter(database, keyring, intake, now)
    packs = Packs(database, keyring, intake.trust, settings.audience, now)
    authenticate = Authenticator(database, keyring, now)

    app = Flask("carepos_ledger", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    # `//` is another address, not one to be sent on from with a page of HTML.
    app.url_map.merge_slashes = False
    app.register_blueprint(
        routes.blueprint(
            keyring=keyring,
            terminals=terminals,
            intake=intake,
            desk=desk,
            counter=counter,
            packs=packs,
            sales=Sales(database, keyring),
            authenticate=authenticate,
        )
    )
    opening = Opening(database, keyring, now, reached)
    offering = Offering(database, keyring, now, opening.place_late)
    told = ToldAllotments(database, keyring, now)
    app.register_blueprint(heal_routes.terminal_blueprint(offering, told, opening, authenticate))
    batches = LostBatches(database, keyring)
    app.register_blueprint(
        heal_routes.operator_blueprint(operators, HealStatus(database, now), opening, batches)
    )
    heal_routes.guard(app, healing)
    app.register_blueprint(
        settlement_routes.terminal_blueprint(
            settlement, lambda: routes.caller(authenticate).terminal
        )
    )
    app.register_blueprint(settlement_routes.operator_blueprint(settlement, operators.named))
    app.register_blueprint(operator_routes.blueprint(operators, programmes, office, terminals))
    app.register_blueprint(identity_routes.blueprint(operators, issuers, revoking, cards, database))
    people = People(database, now, Erasure(database, now, random_bytes))
    retention = Retention(database, now, settings.dispute_days)
    app.register_blueprint(privacy_routes.blueprint(operators, people, retention))
    app.register_blueprint(
        use_routes.blueprint(
            Uses(database),
            Disputes(database, now),
            VoucherStops(database, now),
            OfflineExceptions(database, now),
            operators.named,
        )
    )
    rulings = HeldRulings(database, book, now)
    app.register_blueprint(held_routes.blueprint(HeldList(database), rulings, operators.named))
    app.register_blueprint(home_routes.blueprint(Pinning(database), operators.named))
    pages = HolderPages(database, settings.audience, now, settings.zone)
    app.register_blueprint(pages.blueprint())
    _describe(app)
    _answer_errors(app, pages)
    return Ledger(
        app,
        database,
        keyring,
        operators,
        issuers,
        revoking,
        cards,
        programmes,
        office,
        terminals,
        settlement,
        desk,
    )


def serve(
    settings: Settings, *, reached: Reached = pass_by, ready: Callable[[], None] = lambda: None
) -> None:
    """Serve until the process is told to stop, behind waitress; `ready` is called once it can be
    reached. Raises OSError for an address that is not this machine's, or is taken."""
    logging.basicConfig()
    ledger = build(settings, reached=reached)
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.create_server((settings.host, settings.port), family=family) as listener:
            server = waitress.create_server(
                ledger.wsgi,
                sockets=[listener],
                threads=THREADS,
                max_request_body_size=2 * MAX_BODY_BYTES,
                ident=None,
            )
            ready()
            server.run()
            server.close()
    finally:
        ledger.close()


def create(folder: Path, settings: Settings | None = None) -> Settings:
    """A new ledger in `folder`: settings, keys, empty book.

    Raises FileExistsError where keys are, RuntimeError for a database that holds a ledger.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    refuse_keys(folder)
    made = settings or Settings.default(folder)
    # The database first: a wrong URL must not leave keys that block the next try.
    database = Database(made.database)
    try:
        if migrations.revision(database) is None:
            migrations.upgrade(database)
        elif not migrations.is_current(database) or Operators(database).any():
            # Tills trust the keys that it was founded with; a second set would sign into it.
            raise RuntimeError(
                "the database holds a ledger already: name another one with --database, or serve "
                "that ledger from its own folder"
            )
    finally:
        database.close()
    Keyring.create(folder)
    made.save()
    return made


def _describe(app: Flask) -> None:
    document = openapi.document()

    @app.get("/openapi.json")
    def describe() -> Response:
        return json_response(document)


def _answer_errors(app: Flask, pages: HolderPages) -> None:
    """Whatever goes wrong becomes a problem document; no text of an exception gets out."""

    answer_problems(app)

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        status = error.code or 500
        if holder_pages.is_page(request.path):
            return pages.refused(status)
        code = codes.get(status, "malformed" if status < 500 else "internal")
        answer = problem_response(Problem(code, status=status))
        if isinstance(error, NotFound):
            return answer
        for name, value in error.get_headers():
            if name == "Allow":
                answer.headers[name] = value
        return answer

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        # The type only: an exception's text may hold a token, a name or a row.
        _log.error("a request failed: %s", type(error).__name__)
        return problem_response(Problem("internal"))
