"""`/v1/operators/people/…` and `…/retention`: HTTP in front of erasure, export and retention.

The person is named in the body, never in an address: addresses stand in logs. Operators' secrets as
in `operator_routes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g

from carepos import strict_json
from carepos.clock import Clock
from carepos_ledger import held
from carepos_ledger.database import Database
from carepos_ledger.erasure import Erasure
from carepos_ledger.http import body_names, json_response, operators_only
from carepos_ledger.operators import Operators
from carepos_ledger.person import Who
from carepos_ledger.retention import Retention


@dataclass(frozen=True, slots=True)
class People:
    """What may be done about one person."""

    database: Database
    now: Clock
    erasure: Erasure

    def erase(self, who: Who, *, forfeit: bool, operator: str, dry_run: bool) -> dict[str, Any]:
        """`on_disk` says when the rows can't be read in the database's files any more."""
        erased = self.erasure.erase(who, forfeit=forfeit, operator=operator, dry_run=dry_run)
        on_disk = "nothing_changed"
        if not dry_run:
            gone = "gone" if self.database.clear_log() else "until_checkpoint"
            on_disk = gone if self.database.is_sqlite else "until_vacuum"
        return {**erased.to_json(), "on_disk": on_disk}

    def export(self, who: Who) -> dict[str, Any]:
        return held.export(self.database, who, self.now)


def blueprint(operators: Operators, people: People, retention: Retention) -> Blueprint:
    routes = Blueprint("privacy", __name__, url_prefix="/v1/operators")

    operators_only(routes, operators.named)

    @routes.post("/retention")
    def retain() -> Response:
        names = body_names("from_bucket", "dry_run")
        dry_run = strict_json.boolean(names["dry_run"], "dry_run")
        return json_response(retention.step(names["from_bucket"], dry_run=dry_run).to_json())

    @routes.post("/people/erase")
    def erase() -> Response:
        names = body_names("person", "forfeit", "dry_run")
        return json_response(
            people.erase(
                Who.from_json(names["person"]),
                forfeit=strict_json.boolean(names["forfeit"], "forfeit"),
                operator=g.operator,
                dry_run=strict_json.boolean(names["dry_run"], "dry_run"),
            )
        )

    @routes.post("/people/export")
    def export() -> Response:
        return json_response(people.export(Who.from_json(body_names("person")["person"])))

    return routes
