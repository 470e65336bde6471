"""Who is on their own pages: a token in, once; a session of 15 minutes out (identity.md §12)."""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from carepos import clock
from carepos.clock import Clock
from carepos.errors import Refused
from carepos.ids import RandomBytes
from carepos.keys import b64, digest
from carepos.refusals import Refusal
from carepos.token import IdentityToken
from carepos_ledger import holder_account, schema, uses
from carepos_ledger.actions import act, find
from carepos_ledger.book import bind_visit
from carepos_ledger.database import Database
from carepos_ledger.person import find_holder
from carepos_ledger.problems import Problem
from carepos_ledger.trust import Trust

AUDIENCE_SUFFIX: Final = ":self"
SESSION: Final = timedelta(minutes=15)
SESSIONS_AT_ONCE: Final = 20

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """An open session. `secret` is the cookie's value; uses numbered above `new_after` are new."""

    secret: str
    bucket: int
    beneficiary: str
    new_after: int
    closes_at: datetime

    def name_for(self, kind: str, what: str) -> str:
        """How a use, a voucher or a form is named to this browser: 22 characters that say nothing
        elsewhere."""
        message = f"carepos/holder-page/v1|{kind}|{what}".encode()
        return b64(hmac.digest(self.secret.encode("ascii"), message, "sha256"))[:22]

    @property
    def form_token(self) -> str:
        return self.name_for("form", "")

    def __repr__(self) -> str:
        return "Session(…)"


class HolderSessions:
    """Opens, finds and ends sessions. Safe to call from several threads and servers."""

    def __init__(
        self,
        database: Database,
        redemption_audience: str,
        now: Clock,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._trust = Trust(database, redemption_audience + AUDIENCE_SUFFIX, now)
        self._now = now
        self._random_bytes = random_bytes

    def open(self, presented: str) -> str:
        """The secret of a new session for whoever `presented` proves.

        Raises Refused (a code of docs/protocol.md §6), Problem `too_many_requests`, `try_again`.
        """
        identity = self._verified(presented)
        secret = b64(self._random_bytes(32))
        now = self._now()

        def work(connection: Connection) -> None:
            person = find_holder(connection, identity.iss, identity.sub)
            if person is None:
                raise Refused(Refusal("voucher_unknown"))
            self._open(connection, identity, person.bucket, person.beneficiary, secret, now)

        act(self._database, work)
        return secret

    def _verified(self, presented: str) -> IdentityToken:
        identity = self._trust.verifier().verify(presented, self._now())
        if identity.revoked:
            raise Refused(Refusal("token_revoked"))
        if identity.token_class != "once":
            raise Refused(Refusal("token_assurance"))
        if identity.acting is not None:
            raise Refused(Refusal("acting_not_allowed"))
        return identity

    def _open(
        self,
        connection: Connection,
        identity: IdentityToken,
        bucket: int,
        beneficiary: str,
        secret: str,
        now: datetime,
    ) -> None:
        table, session_sha256 = schema.holder_sessions, digest(secret.encode("ascii"))
        if find(connection, table, {"session_sha256": session_sha256}) is not None:
            return  # tried again after a COMMIT whose answer was lost
        connection.execute(delete(table).where(table.c.opened_at <= clock.to_text(now - SESSION)))
        mine = and_(table.c.bucket == bucket, table.c.beneficiary == beneficiary)
        count = connection.scalar(select(func.count()).select_from(table).where(mine)) or 0
        if count >= SESSIONS_AT_ONCE:
            raise Problem("too_many_requests")
        # A visit at a place of its own: whoever comes second, also in these 15 minutes, is not it.
        place = f"self-{session_sha256[:16]}"
        if bind_visit(connection, bucket, identity, place, now)[0] != place:
            raise Refused(Refusal("token_replayed"))
        connection.execute(
            insert(table).values(
                session_sha256=session_sha256,
                bucket=bucket,
                beneficiary=beneficiary,
                opened_at=clock.to_text(now),
                new_after=_move_mark(connection, bucket, beneficiary),
                has_left=0,
            )
        )

    def find(self, secret: str | None) -> Session | None:
        """The open session of a cookie's value; None for whatever else it is."""
        if secret is None or _SECRET.fullmatch(secret) is None:
            return None
        table, people = schema.holder_sessions.c, schema.beneficiaries.c
        with self._database.read() as connection:
            row = connection.execute(
                select(schema.holder_sessions)
                # Whose row was erased has no pages any more.
                .join(
                    schema.beneficiaries,
                    and_(people.bucket == table.bucket, people.beneficiary == table.beneficiary),
                )
                .where(
                    table.session_sha256 == digest(secret.encode("ascii")),
                    table.has_left == 0,
                    table.opened_at > clock.to_text(self._now() - SESSION),
                )
            ).one_or_none()
        if row is None:
            return None
        closes_at = clock.from_text(row.opened_at) + SESSION
        return Session(secret, row.bucket, row.beneficiary, row.new_after, closes_at)

    def leave(self, session: Session) -> None:
        """End it here too, not only in the browser."""
        table = schema.holder_sessions
        session_sha256 = digest(session.secret.encode("ascii"))

        def work(connection: Connection) -> None:
            connection.execute(
                update(table).where(table.c.session_sha256 == session_sha256).values(has_left=1)
            )

        act(self._database, work)


def _move_mark(connection: Connection, bucket: int, beneficiary: str) -> int:
    """Up to which use this person was shown until now; from now on it is their last one."""
    mine = holder_account.of_holder(bucket, beneficiary)
    uses.give_numbers(connection, uses.unnumbered(connection, mine))
    marks, numbered, postings = schema.holder_marks, schema.uses.c, schema.postings.c
    last = (
        connection.scalar(
            select(func.max(numbered.n))
            .join(
                schema.postings,
                and_(postings.bucket == numbered.bucket, postings.posting == numbered.posting),
            )
            .where(mine)
        )
        or 0
    )
    key = {"bucket": bucket, "beneficiary": beneficiary}
    held = find(connection, marks, key)
    if held is None:
        connection.execute(insert(marks).values(**key, seen_n=last))
        return 0
    connection.execute(
        update(marks)
        .where(marks.c.bucket == bucket, marks.c.beneficiary == beneficiary)
        .values(seen_n=last)
    )
    return int(held.seen_n)
