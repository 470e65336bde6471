"""What operators do: programmes, money, shops, tills, vouchers. All SQL of it is here, in
`issuing` and in `programme_sums`.

Every action may be repeated: the same content again changes nothing, other content under the same
name is `already_exists_differently`. A call that raises has written nothing.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeVar

from sqlalchemy import Connection, Row, Table, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from carepos import clock, ids, jws, money, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.ids import RandomBytes
from carepos.keys import KeySet, PublicKey, b64, digest
from carepos.product import MAX_ENTRIES, ProductList, is_restricted_circulation
from carepos.settlement import MAX_FUNDERS
from carepos.voucher import PROGRAMME_NAMES, Programme
from carepos_ledger import accounts, issuing, programme_sums, schema
from carepos_ledger.accounts import Entry
from carepos_ledger.book import entry_rows, read_programmes
from carepos_ledger.database import Database, is_conflict, is_lock_timeout
from carepos_ledger.issuing import IssueRow, RowAnswer
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from carepos_ledger.programme_sums import ProgrammeSums

Done = Literal["created", "exists", "changed"]
Status = Literal["active", "suspended", "revoked"]

MAX_ISSUER_KEYS: Final = 20
MAX_VALID_S: Final = 30 * 86_400
MIN_VALID_S: Final = 60
ALARMS_AT_ONCE: Final = 500
RULE_NAMES: Final = PROGRAMME_NAMES - {"rules_version", "stores"}

_TRIES = 5
_ACTIVATION = re.compile(r"cp1\.[A-Za-z0-9_-]{22}\.([A-Za-z0-9_-]{43})")
_OPERATOR_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_IMPORT_KEY_ID = re.compile(r"[0-9a-f]{16}")
# What an operator may make of a till. Revoked is for ever: the same machine enrols anew. A forked
# till is let in again only once its two lines are sorted out.
_STATUS_AFTER: Final[Mapping[str, frozenset[str]]] = {
    "active": frozenset({"suspended", "revoked"}),
    "suspended": frozenset({"active", "revoked"}),
    "forked": frozenset({"revoked"}),
    "revoked": frozenset(),
}

_T = TypeVar("_T")


class RulesPut(NamedTuple):
    """What happened to a programme, and which version of its rules counts now."""

    result: Done
    rules_version: int


class Activation(NamedTuple):
    """A one-time code; the ledger keeps its digest only, so it is shown here or never."""

    code: str
    expires_at: datetime


class Office:
    """Operators' actions on one ledger. Safe to call from several threads."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        now: Clock,
        audience: str,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._now = now
        self._audience = audience
        self._random_bytes = random_bytes

    # ── who takes part ─────────────────────────────────────────────────────────────────────────

    def put_issuer(self, iss: str, keys: list[Any]) -> Done:
        """Believe an issuer's public JWKs. Keys may be added, never dropped: tokens signed by an
        old key are still in people's hands. Tills learn of it by their programmes' new rules."""
        if not strict_json.text(iss, "iss").isascii():
            raise Malformed("must be ASCII", field="iss")
        listed = strict_json.array(keys, "keys", low=1, high=MAX_ISSUER_KEYS)
        wanted = {key.kid: key.to_jwk() for key in map(PublicKey.from_jwk, listed)}
        table = schema.issuers

        def work(connection: Connection) -> Done:
            held = _row(connection, table, {"iss": iss}, for_update=True)
            text_of = json.dumps([wanted[kid] for kid in sorted(wanted)])
            if held is None:
                connection.execute(insert(table).values(iss=iss, keys=text_of))
                return "created"
            known = {jwk["kid"] for jwk in json.loads(held.keys)}
            if known == wanted.keys():
                return "exists"
            if not known < wanted.keys():
                raise Problem(
                    "already_exists_differently",
                    "a key that is believed today is missing; list the old keys with the new",
                    field="keys",
                )
            connection.execute(update(table).where(table.c.iss == iss).values(keys=text_of))
            _raise_rules(connection, lambda rules: rules["issuer"] == iss)
            return "changed"

        return self._write(work)

    def put_funder(self, funder: str, name: str) -> Done:
        ids.name(funder, "funder")
        strict_json.text(name, "name", high=80)
        return self._write(lambda c: _put(c, schema.funders, {"funder": funder}, {"name": name}))

    def put_merchant(self, merchant: str, name: str) -> Done:
        ids.name(merchant, "merchant")
        strict_json.text(name, "name", high=80)
        return self._write(
            lambda c: _put(c, schema.merchants, {"merchant": merchant}, {"name": name})
        )

    def put_store(self, store: str, merchant: str, name: str) -> Done:
        ids.name(store, "store")
        ids.name(merchant, "merchant")
        strict_json.text(name, "name", high=80)

        def work(connection: Connection) -> Done:
            _need(connection, schema.merchants, "merchant", merchant)
            return _put(
                connection, schema.stores, {"store": store}, {"merchant": merchant, "name": name}
            )

        return self._write(work)

    def put_product_list(
        self, product_list: str, version: int, entries: Mapping[str, object]
    ) -> Done:
        """A new version of a list; versions only grow, an old one never changes.

        Raises Malformed for numbers that shops give out for themselves (GS1 restricted
        circulation): the same number is milk here and liquor there.
        """
        strict_json.mapping(entries, "entries", high=MAX_ENTRIES)
        listed = ProductList.from_json_object(
            {"product_list": product_list, "version": version, "entries": entries}
        )
        if not listed.entries:
            raise Malformed("must have at least one entry", field="entries")
        for key in listed.entries:
            if not key.startswith("cat:") and is_restricted_circulation(key):
                raise Malformed(f"{key} is a shop's own in-store number", field="entries")
        table = schema.product_lists

        def work(connection: Connection) -> Done:
            newest = connection.scalars(
                select(func.max(table.c.version)).where(table.c.product_list == product_list)
            ).one()
            if newest is not None and version <= newest:
                held = _row(connection, table, {"product_list": product_list, "version": version})
                if held is not None and json.loads(held.entries) == dict(listed.entries):
                    return "exists"
                raise Problem(
                    "already_exists_differently",
                    f"version {newest} is there; a changed list needs a higher one",
                    field="version",
                )
            connection.execute(
                insert(table).values(
                    product_list=product_list,
                    version=version,
                    entries=json.dumps(dict(listed.entries)),
                )
            )
            if newest is None:
                return "created"
            _raise_rules(connection, lambda rules: rules["product_list"] == product_list)
            return "changed"

        return self._write(work)

    # ── programmes ─────────────────────────────────────────────────────────────────────────────

    def put_programme(self, rules: Mapping[str, object]) -> RulesPut:
        """`rules`: the JSON of a `carepos.voucher.Programme` without `rules_version`, `stores`.

        Other content is a new version of the rules. The currency stays once there is money, the
        issuer once vouchers are out: both would leave what exists unusable.
        """
        given = strict_json.exact_names(rules, RULE_NAMES, where="programme")
        wanted = Programme.from_json({**given, "rules_version": 1, "stores": []}).to_json()
        # A date that would not be read again must not be stored (years before 1000).
        Programme.from_json(wanted)
        del wanted["rules_version"], wanted["stores"]
        programme = str(wanted["programme"])
        table = schema.programmes

        def work(connection: Connection) -> RulesPut:
            held = _row(connection, table, {"programme": programme}, for_update=True)
            _need(connection, schema.issuers, "iss", str(wanted["issuer"]), field="issuer")
            lists = select(table_lists.product_list).where(
                table_lists.product_list == wanted["product_list"]
            )
            if connection.execute(lists.limit(1)).one_or_none() is None:
                raise Problem("not_found", "no such product list", field="product_list")
            if held is None:
                connection.execute(
                    insert(table).values(
                        programme=programme,
                        rules_version=1,
                        rules=json.dumps({**wanted, "rules_version": 1}),
                        currency=wanted["currency"],
                        unreserved_minor=0,
                        loss_reserve_minor=0,
                    )
                )
                return RulesPut("created", 1)
            if {**wanted, "rules_version": held.rules_version} == json.loads(held.rules):
                return RulesPut("exists", held.rules_version)
            _refuse_to_strand(connection, programme, json.loads(held.rules), wanted)
            connection.execute(
                update(table)
                .where(table.c.programme == programme)
                .values(currency=wanted["currency"])
            )
            return RulesPut("changed", _new_rules(connection, held, wanted))

        table_lists = schema.product_lists.c
        return self._write(work)

    def admit_store(self, programme: str, store: str) -> RulesPut:
        """Let a store take the programme's vouchers."""
        table = schema.programme_stores

        def work(connection: Connection) -> RulesPut:
            held = _locked_programme(connection, programme)
            _need(connection, schema.stores, "store", store)
            if _row(connection, table, {"programme": programme, "store": store}) is not None:
                return RulesPut("exists", held.rules_version)
            connection.execute(insert(table).values(programme=programme, store=store))
            return RulesPut("created", _new_rules(connection, held, json.loads(held.rules)))

        ids.name(programme, "programme")
        ids.name(store, "store")
        return self._write(work)

    def remove_store(self, programme: str, store: str) -> RulesPut:
        """Stop a store from taking the programme's vouchers; what it redeemed is still paid."""
        table = schema.programme_stores.c

        def work(connection: Connection) -> RulesPut:
            held = _locked_programme(connection, programme)
            _need(connection, schema.stores, "store", store)
            gone = connection.execute(
                delete(schema.programme_stores).where(
                    table.programme == programme, table.store == store
                )
            )
            if gone.rowcount == 0:
                return RulesPut("exists", held.rules_version)
            return RulesPut("changed", _new_rules(connection, held, json.loads(held.rules)))

        ids.name(programme, "programme")
        ids.name(store, "store")
        return self._write(work)

    def programmes(self) -> list[Programme]:
        with self._database.read() as connection:
            return read_programmes(connection)

    def programme(self, programme: str) -> Programme:
        """Its rules and stores. Raises Problem `not_found`."""
        ids.name(programme, "programme")
        with self._database.read() as connection:
            found = read_programmes(connection, [programme])
        if not found:
            raise Problem("not_found", "no such programme", field="programme")
        return found[0]

    # ── money ──────────────────────────────────────────────────────────────────────────────────

    def fund(self, programme: str, funder: str, amount_minor: int, reference: str) -> Done:
        """Money from a funder, known by its `reference` (the bank's, say): booked once."""
        ids.name(programme, "programme")
        ids.name(funder, "funder")
        ids.label(reference, "reference")
        strict_json.integer(amount_minor, "amount_minor", low=1, high=money.MAX_AMOUNT_MINOR)
        bucket = ids.terminal_bucket(programme)
        posting = digest(f"carepos/fund/v1|{programme}|{reference}".encode("ascii"))
        table = schema.programmes

        def work(connection: Connection) -> Done:
            held = _locked_programme(connection, programme)
            _need(connection, schema.funders, "funder", funder)
            legs = accounts.funding(funder, amount_minor, held.currency)
            booked = _entries_of(connection, bucket, posting)
            if booked == legs:
                return "exists"
            if booked:
                raise Problem(
                    "already_exists_differently",
                    "this reference was booked with another funder or amount",
                    field="reference",
                )
            if _funded(connection, bucket, programme) + amount_minor > strict_json.MAX_INTEGER:
                raise Malformed("more than a programme can hold", field="amount_minor")
            if len(_funders(connection, bucket, programme) | {funder}) > MAX_FUNDERS:
                # A settlement manifest names each of them and must fit into one signature.
                raise Malformed(f"a programme has at most {MAX_FUNDERS} funders", field="funder")
            connection.execute(
                insert(schema.postings).values(
                    bucket=bucket,
                    posting=posting,
                    kind="fund",
                    programme=programme,
                    recorded_at=clock.to_text(self._now()),
                )
            )
            connection.execute(insert(schema.entries), entry_rows(bucket, posting, programme, legs))
            connection.execute(
                update(table)
                .where(table.c.programme == programme)
                .values(unreserved_minor=table.c.unreserved_minor + amount_minor)
            )
            return "created"

        return self._write(work)

    def programme_sums(self, programme: str) -> ProgrammeSums:
        """Raises Problem `not_found`."""
        ids.name(programme, "programme")
        with self._database.read() as connection:
            return programme_sums.read_sums(connection, programme)

    # ── vouchers ───────────────────────────────────────────────────────────────────────────────

    def issue(self, programme: str, import_key_id: str, rows: list[Any]) -> list[RowAnswer]:
        """One chunk of 1 to 500 rows, in one transaction; an answer per row in order."""
        ids.name(programme, "programme")
        if not isinstance(import_key_id, str) or not _IMPORT_KEY_ID.fullmatch(import_key_id):
            raise Malformed("must be 16 lower-case hex digits", field="import_key_id")
        listed = strict_json.array(rows, "rows", low=1, high=issuing.MAX_ROWS)
        read = [IssueRow.from_json(row, f"rows[{n}]") for n, row in enumerate(listed, 1)]
        return self._write(
            lambda connection: issuing.issue(
                connection,
                programme,
                import_key_id,
                read,
                now=self._now(),
                random_bytes=self._random_bytes,
            )
        )

    def freeze(
        self,
        programme: str,
        *,
        frozen: bool,
        ref: str | None = None,
        voucher: str | None = None,
    ) -> Done:
        """Freeze or thaw one voucher, named by the ref it was issued under or by its id."""
        ids.name(programme, "programme")
        strict_json.boolean(frozen, "frozen")
        if (ref is None) == (voucher is None):
            raise Malformed("name one of ref and voucher", field="voucher")
        vouchers, issues = schema.vouchers, schema.issues.c
        if voucher is not None:
            key = vouchers.c.voucher == ids.reference(voucher, "voucher")
        else:
            key = vouchers.c.voucher.in_(
                select(issues.voucher).where(
                    issues.programme == programme, issues.ref == ids.digest_text(ref, "ref")
                )
            )

        def work(connection: Connection) -> Done:
            held = connection.execute(
                select(vouchers.c.bucket, vouchers.c.voucher, vouchers.c.frozen)
                .where(key, vouchers.c.programme == programme)
                .with_for_update()
            ).one_or_none()
            if held is None:
                raise Problem("not_found", "no such voucher in this programme", field="voucher")
            if bool(held.frozen) == frozen:
                return "exists"
            connection.execute(
                update(vouchers)
                .where(vouchers.c.bucket == held.bucket, vouchers.c.voucher == held.voucher)
                .values(frozen=int(frozen))
            )
            return "changed"

        return self._write(work)

    # ── tills ──────────────────────────────────────────────────────────────────────────────────

    def new_activation(self, store: str, valid_s: int) -> Activation:
        """A code with which one till of `store` may enrol within `valid_s` seconds."""
        ids.name(store, "store")
        strict_json.integer(valid_s, "valid_s", low=MIN_VALID_S, high=MAX_VALID_S)
        now = self._now()
        made = Activation(
            f"cp1.{b64(self._random_bytes(16))}.{self._keyring.root.kid}",
            now + timedelta(seconds=valid_s),
        )

        def work(connection: Connection) -> Activation:
            _need(connection, schema.stores, "store", store)
            code_sha256 = digest(made.code.encode("ascii"))
            # It is there already only when this is the repetition after a lost COMMIT.
            if _row(connection, schema.activations, {"code_sha256": code_sha256}) is None:
                connection.execute(
                    insert(schema.activations).values(
                        code_sha256=code_sha256,
                        store=store,
                        made_at=clock.to_text(now),
                        expires_at=clock.to_text(made.expires_at),
                    )
                )
            return made

        return self._write(work)

    def enrol(self, activation: str, public_key: object, proof: object) -> str:
        """The terminal's certificate (docs/protocol.md §9), again for the same code and key.

        Raises Problem activation_unknown, activation_used or activation_expired, and for a key
        that is another till's; Malformed, SignatureInvalid for a proof that is none.
        """
        match = _ACTIVATION.fullmatch(activation) if isinstance(activation, str) else None
        if match is None:
            raise Malformed("must be an activation code", field="activation")
        code_sha256 = digest(activation.encode("ascii"))
        key = PublicKey.from_jwk(public_key)
        proven = jws.verify(proof, typ=jws.PROOF, keys=KeySet([key])).payload
        names = strict_json.exact_names(proven, {"v", "activation_sha256"}, where="proof")
        if strict_json.integer(names["v"], "proof.v") != 1:
            raise Malformed("must be 1", field="proof.v")
        if names["activation_sha256"] != code_sha256:
            raise Malformed("is for another code", field="proof.activation_sha256")
        if match[1] != self._keyring.root.kid:
            raise Problem("activation_unknown", "it is another ledger's")
        return self._write(lambda connection: self._enrol(connection, code_sha256, key))

    def _enrol(self, connection: Connection, code_sha256: str, key: PublicKey) -> str:
        codes, terminals = schema.activations, schema.terminals
        code = _row(connection, codes, {"code_sha256": code_sha256}, for_update=True)
        if code is None:
            raise Problem("activation_unknown")
        if code.terminal is not None:
            owner = _row(connection, terminals, {"terminal": code.terminal})
            if owner is None or owner.kid != key.kid:
                raise Problem("activation_used")
            return str(owner.certificate)
        now = self._now()
        if now >= clock.from_text(code.expires_at):
            raise Problem("activation_expired")
        if _row(connection, terminals, {"kid": key.kid}) is not None:
            raise Problem(
                "already_exists_differently",
                "this key is enrolled already; a till that enrols anew makes a new key",
                field="public_key",
            )
        if not self._database.is_sqlite:
            # Terminal numbers are handed out one after another; a room full of tills that enrol
            # at once must wait for each other instead of losing races.
            connection.execute(text("LOCK TABLE terminals IN SHARE ROW EXCLUSIVE MODE"))
        terminal_no = 1 + (connection.scalar(select(func.max(terminals.c.terminal_no))) or 0)
        place = connection.execute(
            select(schema.stores, schema.merchants.c.name.label("merchant_name"))
            .join(schema.merchants, schema.merchants.c.merchant == schema.stores.c.merchant)
            .where(schema.stores.c.store == code.store)
        ).one()
        terminal = f"t-{self._random_bytes(8).hex()}"
        certificate = jws.sign(
            {
                "v": 1,
                "ledger": self._keyring.ledger,
                "terminal": terminal,
                "terminal_no": terminal_no,
                "merchant": place.merchant,
                "merchant_name": place.merchant_name,
                "store": place.store,
                "store_name": place.name,
                "key": key.kid,
                "audience": self._audience,
                "issued_at": clock.to_text(now),
            },
            typ=jws.CERTIFICATE,
            key=self._keyring.signing,
        )
        connection.execute(
            insert(terminals).values(
                terminal=terminal,
                terminal_no=terminal_no,
                store=place.store,
                merchant=place.merchant,
                kid=key.kid,
                x=key.x,
                status="active",
                certificate=certificate,
            )
        )
        connection.execute(
            update(codes).where(codes.c.code_sha256 == code_sha256).values(terminal=terminal)
        )
        return certificate

    def set_terminal_status(self, terminal: str, status: str) -> Done:
        """Suspend, let in again, or revoke for ever."""
        ids.name(terminal, "terminal")
        if status not in ("active", "suspended", "revoked"):
            raise Malformed("must be active, suspended or revoked", field="status")
        table = schema.terminals

        def work(connection: Connection) -> Done:
            held = _row(connection, table, {"terminal": terminal}, for_update=True)
            if held is None:
                raise Problem("not_found", "no such terminal", field="terminal")
            if held.status == status:
                return "exists"
            if status not in _STATUS_AFTER[held.status]:
                raise Problem(
                    "already_exists_differently",
                    f"a till that is {held.status} can't become {status}; enrol it anew",
                    field="status",
                )
            connection.execute(
                update(table).where(table.c.terminal == terminal).values(status=status)
            )
            return "changed"

        return self._write(work)

    def terminals(self) -> list[dict[str, object]]:
        """Every till, by number."""
        table = schema.terminals.c
        with self._database.read() as connection:
            rows = connection.execute(
                select(
                    table.terminal_no,
                    table.terminal,
                    table.merchant,
                    table.store,
                    table.status,
                    table.kid,
                ).order_by(table.terminal_no)
            )
            return [dict(row) for row in rows.mappings()]

    def alarms(self, after: int) -> list[dict[str, object]]:
        """At most 500 alarms numbered above `after`, oldest first."""
        strict_json.integer(after, "after", high=2**31 - 1)
        table = schema.alarms
        with self._database.read() as connection:
            rows = connection.execute(
                select(table).where(table.c.n > after).order_by(table.c.n).limit(ALARMS_AT_ONCE)
            )
            return [dict(row) for row in rows.mappings()]

    # ── operators ──────────────────────────────────────────────────────────────────────────────

    def new_operator(self, name: str) -> str:
        """The secret of a new operator. It is told once; the ledger keeps its digest."""
        ids.name(name, "operator")
        secret = b64(self._random_bytes(32))
        table, wanted = schema.operators, digest(secret.encode("ascii"))

        def work(connection: Connection) -> str:
            held = _row(connection, table, {"name": name})
            if held is None:
                connection.execute(insert(table).values(name=name, secret_sha256=wanted))
            elif held.secret_sha256 != wanted:
                raise Problem(
                    "already_exists_differently", "there is an operator of this name", field="name"
                )
            return secret

        return self._write(work)

    def operator_named(self, secret: object) -> str | None:
        """Whose secret this is. The look-up is by digest: its time tells nothing of the secret."""
        if not isinstance(secret, str) or _OPERATOR_SECRET.fullmatch(secret) is None:
            return None
        table = schema.operators.c
        with self._database.read() as connection:
            return connection.scalars(
                select(table.name).where(table.secret_sha256 == digest(secret.encode("ascii")))
            ).one_or_none()

    # ── one transaction ────────────────────────────────────────────────────────────────────────

    def _write(self, work: Callable[[Connection], _T]) -> _T:
        """`work` in a transaction, again while it loses races. After a lost COMMIT the repetition
        finds what was written: every action here can be repeated."""
        for _ in range(_TRIES):
            try:
                with self._database.write() as connection:
                    return work(connection)
            except DBAPIError as error:
                if not is_conflict(error):
                    raise
                if is_lock_timeout(error):
                    break
        raise Problem("try_again", "somebody else is changing the same thing")


def _row(
    connection: Connection, table: Table, key: Mapping[str, object], *, for_update: bool = False
) -> Row[Any] | None:
    query = select(table).where(*(table.c[name] == value for name, value in key.items()))
    if for_update:
        # NO KEY UPDATE: rows that only refer to this one need not wait.
        query = query.with_for_update(key_share=True)
    return connection.execute(query).one_or_none()


def _put(
    connection: Connection, table: Table, key: Mapping[str, str], values: Mapping[str, str]
) -> Done:
    """Keep a row as it was first written."""
    held = _row(connection, table, key)
    if held is None:
        connection.execute(insert(table).values(**key, **values))
        return "created"
    for name, value in values.items():
        if getattr(held, name) != value:
            raise Problem(
                "already_exists_differently", f"it is there with another {name}", field=name
            )
    return "exists"


def _need(
    connection: Connection, table: Table, column: str, value: str, *, field: str | None = None
) -> None:
    if _row(connection, table, {column: value}) is None:
        name = field or column
        raise Problem("not_found", f"no such {name}", field=name)


def _locked_programme(connection: Connection, programme: str) -> Row[Any]:
    held = _row(connection, schema.programmes, {"programme": programme}, for_update=True)
    if held is None:
        raise Problem("not_found", "no such programme", field="programme")
    return held


def _new_rules(connection: Connection, held: Row[Any], rules: Mapping[str, object]) -> int:
    """Write `rules` under the next version: by its number tills see that their pack is behind."""
    version: int = held.rules_version + 1
    table = schema.programmes
    connection.execute(
        update(table)
        .where(table.c.programme == held.programme)
        .values(rules_version=version, rules=json.dumps({**rules, "rules_version": version}))
    )
    return version


def _raise_rules(connection: Connection, concerned: Callable[[dict[str, Any]], bool]) -> None:
    """A new rules version for every programme whose tills need a new pack."""
    table = schema.programmes
    for held in connection.execute(
        select(table).order_by(table.c.programme).with_for_update(key_share=True)
    ).all():
        rules = json.loads(held.rules)
        if concerned(rules):
            _new_rules(connection, held, rules)


def _refuse_to_strand(
    connection: Connection,
    programme: str,
    held: Mapping[str, object],
    wanted: Mapping[str, object],
) -> None:
    postings = schema.postings.c
    for name, kind in (("currency", "fund"), ("issuer", "issue")):
        if held[name] == wanted[name]:
            continue
        query = select(postings.posting).where(
            postings.programme == programme, postings.kind == kind
        )
        if connection.execute(query.limit(1)).one_or_none() is not None:
            raise Problem(
                "already_exists_differently",
                f"the {name} can't change any more: there is money in the programme"
                if name == "currency"
                else f"the {name} can't change any more: vouchers were issued",
                field=name,
            )


def _entries_of(connection: Connection, bucket: int, posting: str) -> list[Entry]:
    table = schema.entries.c
    rows = connection.execute(
        select(table.account, table.holder, table.unit, table.amount)
        .where(table.bucket == bucket, table.posting == posting)
        .order_by(table.n)
    )
    return [Entry(*row) for row in rows]


def _funders(connection: Connection, bucket: int, programme: str) -> set[str]:
    table = schema.entries.c
    return set(
        connection.scalars(
            select(table.holder).where(
                table.bucket == bucket,
                table.programme == programme,
                table.account == accounts.FUNDER,
            )
        )
    )


def _funded(connection: Connection, bucket: int, programme: str) -> int:
    table = schema.entries.c
    total = connection.scalar(
        select(func.sum(table.amount)).where(
            table.bucket == bucket,
            table.programme == programme,
            table.account == accounts.FUNDER,
        )
    )
    return -int(total or 0)
