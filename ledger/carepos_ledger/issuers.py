"""The issuers whose tokens count: their keys, where they publish them, and asking there anew.

docs/identity.md §3. A set is fetched in the thread of whoever asked, with no transaction open:
neither a lock of the database nor the posting thread ever waits for somebody else's server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from carepos import clock, key_source, strict_json, unknown_key
from carepos.clock import Clock
from carepos.errors import Malformed, Unreachable
from carepos.issuer_keys import MAX_KEYS, IssuerKey, IssuerKeys, SetRefused, issuer_text
from carepos_ledger import schema
from carepos_ledger.actions import Done, act, find
from carepos_ledger.database import Database
from carepos_ledger.problems import Problem
from carepos_ledger.programmes import raise_rules

ASK_DEADLINE_S: Final = 4.0
"""For an unknown key in front of a till, which itself waits 8 s for its answer."""

REMEMBERED: Final = timedelta(days=62)
"""For so long after its time a key still judges codes that were held up within it: a sale made
without the ledger comes up weeks later."""

Fetch = Callable[[str, float], bytes]
"""(address, deadline in seconds) → the document there. Raises Unreachable."""

_REMEDY: Final = "list an old key beside the new ones, or confirm that all keys are replaced"


def fetch(url: str, deadline_s: float) -> bytes:
    return key_source.fetch(url, deadline_s=deadline_s)


class Issuers:
    """What operators say about issuers. Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock, fetch: Fetch = fetch) -> None:
        self._database = database
        self._now = now
        self._fetch = fetch
        self._mutex = threading.Lock()
        self._asked: dict[str, datetime] = {}

    def put(self, iss: str, keys: list[Any], *, confirmed: bool = False) -> Done:
        """Believe an issuer's public JWKs from now on; an address that was known is forgotten.

        A key that is not among them any more is believed for another day; a set that shares none
        with the one held needs to be `confirmed`, and then replaces it at once. Tills learn of it
        by their programmes' new rules. Raises Malformed, Problem already_exists_differently.
        """
        issuer_text(iss)
        listed = strict_json.array(keys, "keys", low=1, high=MAX_KEYS)
        wanted = IssuerKeys.of(map(IssuerKey.from_jwk, listed), self._now())
        return act(
            self._database,
            lambda connection: _put(
                connection, iss, wanted, None, self._now(), confirmed=confirmed
            ),
        )

    def put_source(self, iss: str, jwks_url: str, *, confirmed: bool = False) -> Done:
        """Believe the set that an issuer publishes at `jwks_url`, now and as it changes.

        As `put`, and Problem issuer_unavailable when no set can be had there: nothing is changed.
        """
        issuer_text(iss)
        key_source.source_url(jwks_url)
        wanted = self._fetched(jwks_url, key_source.DEADLINE_S)
        return act(
            self._database,
            lambda connection: _put(
                connection, iss, wanted, jwks_url, self._now(), confirmed=confirmed
            ),
        )

    def refresh(self, iss: str) -> Done:
        """Ask an issuer's address for its set, whenever it was asked last.

        Raises Problem not_found, issuer_unavailable, or already_exists_differently for a set that
        must not replace the one held; which problem it was is also kept for `listed`.
        """
        return self._ask(iss, self._source(iss), key_source.DEADLINE_S)

    def confirm(self, iss: str, thumbprints: list[Any]) -> Done:
        """Believe the set that an issuer publishes now although it shares no key with the one held.

        Only if its keys are exactly those of the RFC 7638 `thumbprints`: what a person has compared
        with the issuer, not what may stand there by now. Raises as `refresh`.
        """
        named = [
            strict_json.text(each, "thumbprints", low=43, high=43)
            for each in strict_json.array(thumbprints, "thumbprints", low=1, high=MAX_KEYS)
        ]
        return self._ask(iss, self._source(iss), key_source.DEADLINE_S, named)

    def learn(self, iss: str) -> bool:
        """Whether asking about a key that nobody here knows brought this issuer other keys.

        At most once in five minutes per issuer, in all threads and servers of this ledger together,
        whatever they are shown. Whoever comes while another asks is judged by what is held.
        """
        now = self._now()
        with self._mutex:
            # First in memory: tokens with made-up kids must not become writes.
            if not unknown_key.may_ask(self._asked.get(iss), now):
                return False
            self._asked[iss] = now
        try:
            url = act(self._database, lambda connection: _claim(connection, iss, now))
            return url is not None and self._ask(iss, url, ASK_DEADLINE_S) == "changed"
        except Problem:
            return False

    def listed(self) -> list[dict[str, Any]]:
        """Every issuer with its keys, by `iss`: how old the set is, and what went wrong last."""
        withdrawn = schema.revocations.c
        with self._database.read() as connection:
            rows = connection.execute(select(schema.issuers).order_by(schema.issuers.c.iss)).all()
            gone = {
                (row.iss, row.name)
                for row in connection.execute(
                    select(withdrawn.iss, withdrawn.name).where(withdrawn.kind == "key")
                )
            }
        now = self._now()
        return [_listed(row, gone, now) for row in rows]

    def _source(self, iss: str) -> str:
        issuer_text(iss)
        with self._database.read() as connection:
            row = find(connection, schema.issuers, {"iss": iss})
        if row is None:
            raise Problem("not_found", "no such issuer", field="iss")
        if row.jwks_url is None:
            raise Problem("not_found", "its keys came from an operator, not from an address")
        return str(row.jwks_url)

    def _ask(
        self, iss: str, url: str, deadline_s: float, thumbprints: list[str] | None = None
    ) -> Done:
        # As of when it was asked for: of two that overtake each other the later one stays.
        asked_at = self._now()
        with self._mutex:
            self._asked[iss] = asked_at
        try:
            wanted = self._fetched(url, deadline_s)
            if thumbprints is not None:
                wanted.confirmed_by(thumbprints)
        except SetRefused as error:
            found: Done | Problem = _differently(error)
        except Problem as unavailable:
            found = unavailable
        else:
            found = act(
                self._database,
                lambda connection: _take(
                    connection, iss, url, wanted, self._now(), confirmed=thumbprints is not None
                ),
            )
        if isinstance(found, Problem):
            detail = found.detail
            act(self._database, lambda c: _keep_problem(c, iss, url, asked_at, detail))
            raise found
        return found

    def _fetched(self, url: str, deadline_s: float) -> IssuerKeys:
        asked_at = self._now()
        try:
            return IssuerKeys.from_jwks(self._fetch(url, deadline_s), asked_at)
        except (Unreachable, Malformed) as error:
            raise Problem("issuer_unavailable", str(error), field="jwks_url") from None


def _put(
    connection: Connection,
    iss: str,
    wanted: IssuerKeys,
    url: str | None,
    now: datetime,
    *,
    confirmed: bool,
) -> Done:
    table = schema.issuers
    row = find(connection, table, {"iss": iss}, for_update=True)
    asked = {"jwks_url": url, "asked_at": None if url is None else clock.to_text(wanted.as_of)}
    if row is None:
        connection.execute(insert(table).values(iss=iss, keys=_text(wanted), **asked))
        return "created"
    try:
        changed = _replace(connection, row, wanted, now, confirmed=confirmed)
    except SetRefused as error:
        raise _differently(error) from None
    connection.execute(update(table).where(table.c.iss == iss).values(**asked))
    return "changed" if changed or row.jwks_url != url else "exists"


def _take(
    connection: Connection,
    iss: str,
    url: str,
    wanted: IssuerKeys,
    now: datetime,
    *,
    confirmed: bool,
) -> Done | Problem:
    """Write what was fetched, unless an operator named another address meanwhile."""
    table = schema.issuers
    row = find(connection, table, {"iss": iss}, for_update=True)
    if row is None or row.jwks_url != url:
        return Problem("try_again", "the issuer's address was changed meanwhile")
    try:
        changed = _replace(connection, row, wanted, now, confirmed=confirmed)
    except SetRefused as error:
        return _differently(error)
    connection.execute(
        update(table).where(table.c.iss == iss).values(asked_at=clock.to_text(wanted.as_of))
    )
    return "changed" if changed else "exists"


def _replace(
    connection: Connection, row: Any, wanted: IssuerKeys, now: datetime, *, confirmed: bool
) -> bool:
    """Write `wanted` in place of the set held, as docs/identity.md §3 allows it; whether it is
    another one. Raises SetRefused."""
    table = schema.issuers
    held = IssuerKeys.from_json(json.loads(row.keys))
    made = held.replaced_by(wanted, confirmed=confirmed, now=now, remembered=REMEMBERED)
    changed = (dict(made.keys), made.retiring) != (dict(held.keys), held.retiring)
    connection.execute(
        update(table).where(table.c.iss == row.iss).values(keys=_text(made), problem=None)
    )
    if changed:
        raise_rules(connection, lambda rules: bool(rules["issuer"] == row.iss))
    return changed


def _claim(connection: Connection, iss: str, now: datetime) -> str | None:
    """The address to ask, if this thread, of all servers of this ledger, is the one to ask now."""
    table = schema.issuers
    row = find(connection, table, {"iss": iss}, for_update=True)
    if row is None or row.jwks_url is None:
        return None
    asked_at = None if row.asked_at is None else clock.from_text(row.asked_at)
    if not unknown_key.may_ask(asked_at, now):
        return None
    connection.execute(update(table).where(table.c.iss == iss).values(asked_at=clock.to_text(now)))
    return str(row.jwks_url)


def _keep_problem(
    connection: Connection, iss: str, url: str, asked_at: datetime, problem: str
) -> None:
    shown = "".join(c for c in problem if c.isprintable())[:2_000]
    table = schema.issuers
    connection.execute(
        update(table)
        .where(table.c.iss == iss, table.c.jwks_url == url)
        .values(problem=shown, asked_at=clock.to_text(asked_at))
    )


def _differently(error: SetRefused) -> Problem:
    return Problem("already_exists_differently", f"{error}: {_REMEDY}", field="keys")


def _listed(row: Any, withdrawn: set[tuple[str, str]], now: datetime) -> dict[str, Any]:
    held = IssuerKeys.from_json(json.loads(row.keys))
    return {
        "iss": row.iss,
        "jwks_url": row.jwks_url,
        "as_of": clock.to_text(held.as_of),
        "age_s": max(0, int((now - held.as_of).total_seconds())),
        "asked_at": row.asked_at,
        "problem": row.problem,
        "left_out": held.left_out,
        "keys": [
            {
                "kid": key.kid,
                "kty": key.jwk["kty"],
                "thumbprint": key.thumbprint,
                "retiring_until": clock.to_text(until)
                if (until := held.retiring.get(key.kid)) is not None
                else None,
                "withdrawn": (row.iss, key.kid) in withdrawn,
            }
            for key in held
        ],
    }


def _text(keys: IssuerKeys) -> str:
    return json.dumps(keys.to_json(), sort_keys=True)
