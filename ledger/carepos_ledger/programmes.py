"""The rules that tills hold in their packs: programmes with their stores, and product lists.

Whatever changes for a till is a new `rules_version` of each programme concerned: by its number a
till sees that its pack is behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from carepos import claims, ids, strict_json
from carepos.errors import Malformed
from carepos.product import MAX_ENTRIES, ProductList, is_restricted_circulation
from carepos.voucher import OPTIONAL_NAMES, PROGRAMME_NAMES, Programme
from carepos_ledger import schema
from carepos_ledger.actions import Done, act, find, need
from carepos_ledger.book import read_programmes
from carepos_ledger.database import Database
from carepos_ledger.problems import Problem

RULE_NAMES: Final = PROGRAMME_NAMES - {"rules_version", "stores"}


class RulesPut(NamedTuple):
    """What happened to a programme, and which version of its rules counts now."""

    result: Done
    rules_version: int


class Programmes:
    """What operators say about programmes. Safe to call from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
                held = find(connection, table, {"product_list": product_list, "version": version})
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
            raise_rules(connection, lambda rules: rules["product_list"] == product_list)
            return "changed"

        return act(self._database, work)

    def put_programme(self, rules: Mapping[str, object]) -> RulesPut:
        """`rules`: the JSON of a `carepos.voucher.Programme` without `rules_version`, `stores`.

        Other content is a new version of the rules. The currency stays once there is money, the
        issuer once vouchers are out: both would leave what exists unusable.
        """
        given = strict_json.names_within(
            rules,
            required=RULE_NAMES - OPTIONAL_NAMES,
            optional=OPTIONAL_NAMES,
            where="programme",
        )
        read = Programme.from_json({**given, "rules_version": 1, "stores": []})
        # Tills take any text here, as old packs may hold it; a new rule nobody can meet is a slip.
        if not all(claims.is_method(each) for each in read.amr_any):
            raise Malformed(claims.METHOD_FORM, field="programme.amr_any")
        wanted = read.to_json()
        # A date that would not be read again must not be stored (years before 1000).
        Programme.from_json(wanted)
        del wanted["rules_version"], wanted["stores"]
        programme = str(wanted["programme"])
        table = schema.programmes

        def work(connection: Connection) -> RulesPut:
            held = find(connection, table, {"programme": programme}, for_update=True)
            need(connection, schema.issuers, "iss", str(wanted["issuer"]), field="issuer")
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
        return act(self._database, work)

    def admit_store(self, programme: str, store: str) -> RulesPut:
        """Let a store take the programme's vouchers."""
        table = schema.programme_stores

        def work(connection: Connection) -> RulesPut:
            held = locked_programme(connection, programme)
            need(connection, schema.stores, "store", store)
            if find(connection, table, {"programme": programme, "store": store}) is not None:
                return RulesPut("exists", held.rules_version)
            connection.execute(insert(table).values(programme=programme, store=store))
            # Rules that can't be read again would stop the whole programme: raises Malformed.
            read_programmes(connection, [programme])
            return RulesPut("created", _new_rules(connection, held, json.loads(held.rules)))

        ids.name(programme, "programme")
        ids.name(store, "store")
        return act(self._database, work)

    def remove_store(self, programme: str, store: str) -> RulesPut:
        """Stop a store from taking the programme's vouchers; what it redeemed is still paid."""
        table = schema.programme_stores.c

        def work(connection: Connection) -> RulesPut:
            held = locked_programme(connection, programme)
            need(connection, schema.stores, "store", store)
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
        return act(self._database, work)

    def all(self) -> list[Programme]:
        """Every programme, by name."""
        with self._database.read() as connection:
            return read_programmes(connection)

    def one(self, programme: str) -> Programme:
        """Its rules and stores. Raises Problem `not_found`."""
        ids.name(programme, "programme")
        with self._database.read() as connection:
            found = read_programmes(connection, [programme])
        if not found:
            raise Problem("not_found", "no such programme", field="programme")
        return found[0]


def locked_programme(connection: Connection, programme: str) -> Row[Any]:
    held = find(connection, schema.programmes, {"programme": programme}, for_update=True)
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


def raise_rules(connection: Connection, concerned: Callable[[dict[str, Any]], bool]) -> None:
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
