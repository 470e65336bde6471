"""What operators do: each action may be repeated, and none can strand money or vouchers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from carepos import clock, ids, jws
from carepos.enrolment import LedgerKeys
from carepos.errors import Malformed, SignatureInvalid
from carepos.keys import KeySet, PublicKey, SigningKey, digest
from carepos.product import gtin_check_digit
from carepos_ledger import schema
from carepos_ledger.problems import Problem
from tests.ledger.relief import (
    AUDIENCE,
    ENTRIES,
    IMPORT_KEY_ID,
    ISS,
    RULES,
    Desk,
    item_row,
    open_desk,
    ref,
    value_row,
)


@pytest.fixture
def desk(database_url: str, tmp_path: Path) -> Iterator[Desk]:
    with open_desk(database_url, tmp_path) as opened:
        opened.settle_in()
        yield opened


def refused(code: str, call: Callable[[], object], desk: Desk) -> Problem:
    """The problem that `call` is, having changed nothing."""
    before = desk.tables()
    with pytest.raises(Problem) as caught:
        call()
    assert caught.value.code == code
    assert desk.tables() == before
    return caught.value


def malformed(field: str, call: Callable[[], object], desk: Desk) -> None:
    before = desk.tables()
    with pytest.raises(Malformed) as caught:
        call()
    assert caught.value.field == field
    assert desk.tables() == before


def rules_version(desk: Desk, programme: str = "flood-dairy") -> int:
    """The version that the rules themselves carry, and the column beside them: the same."""
    with desk.database.read() as connection:
        table = schema.programmes.c
        column: int = connection.scalars(
            select(table.rules_version).where(table.programme == programme)
        ).one()
    assert desk.office.programme(programme).rules_version == column
    return column


# Who takes part


def test_names_are_kept_as_first_written(desk: Desk) -> None:
    """A funder, merchant or store put again is the same one; another name for it is refused."""
    office = desk.office
    assert office.put_funder("unicef", "UNICEF") == "created"
    assert office.put_funder("unicef", "UNICEF") == "exists"
    assert office.put_merchant("guzhou", "古州超市") == "exists"
    assert office.put_store("guzhou-1", "guzhou", "古州超市一店") == "exists"
    office.put_merchant("other", "Other")
    for call in (
        lambda: office.put_funder("unicef", "Unicef"),
        lambda: office.put_merchant("guzhou", "别的超市"),
        lambda: office.put_store("guzhou-1", "other", "古州超市一店"),
    ):
        refused("already_exists_differently", call, desk)
    refused("not_found", lambda: office.put_store("s", "nobody", "S"), desk)


def test_the_same_thing_put_at_once_is_made_once(desk: Desk) -> None:
    """Six operators who put one funder at the same moment: one made it, five find it there."""
    results: list[str] = []
    start = threading.Barrier(6)

    def one() -> None:
        start.wait()
        results.append(desk.office.put_funder("unicef", "UNICEF"))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["created"] + ["exists"] * 5


def test_a_lost_race_is_run_again(desk: Desk) -> None:
    """An action that loses a race is tried again, five times at most; then it says try again and
    has changed nothing. A failure that repeating does not mend is not repeated."""
    tries = 0

    def fail(error: type[DBAPIError], times: int, call: Callable[[], object]) -> object:
        """`call` while the first `times` inserts of a funder raise `error`."""
        nonlocal tries
        tries = 0

        def boom(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
            nonlocal tries
            if statement.startswith("INSERT INTO funders"):
                tries += 1
                if tries <= times:
                    raise error("boom", None, Exception())

        engine = desk.database.engine
        event.listen(engine, "before_cursor_execute", boom)
        try:
            return call()
        finally:
            event.remove(engine, "before_cursor_execute", boom)

    put = partial(desk.office.put_funder, "unicef", "UNICEF")
    refused("try_again", partial(fail, IntegrityError, 9, put), desk)
    assert tries == 5
    with pytest.raises(ProgrammingError):
        fail(ProgrammingError, 9, put)
    assert tries == 1
    assert fail(IntegrityError, 4, put) == "created"
    assert tries == 5


def test_issuer_keys_are_added_and_never_dropped(desk: Desk) -> None:
    """A new key of an issuer joins the old; every programme of it gets new rules, so that tills
    fetch the key. A key left out is refused: its tokens are in people's hands."""
    office, old, new = desk.office, desk.issuer_key.public, SigningKey.generate().public
    before = rules_version(desk)
    assert office.put_issuer(ISS, [old.to_jwk()]) == "exists"
    assert office.put_issuer(ISS, [new.to_jwk(), old.to_jwk()]) == "changed"
    assert office.put_issuer(ISS, [old.to_jwk(), new.to_jwk()]) == "exists"
    assert rules_version(desk) == before + 1
    refused("already_exists_differently", lambda: office.put_issuer(ISS, [new.to_jwk()]), desk)
    malformed("keys", lambda: office.put_issuer(ISS, []), desk)
    malformed("iss", lambda: office.put_issuer("https://县.example", [new.to_jwk()]), desk)


def test_product_lists_only_grow(desk: Desk) -> None:
    """A version stands for ever; a changed list is a higher version, which tills are told of."""
    office, more = desk.office, {**ENTRIES, "cat:eggs": "dairy"}
    before = rules_version(desk)
    assert office.put_product_list("dairy-list", 1, ENTRIES) == "exists"
    assert office.put_product_list("dairy-list", 3, more) == "changed"
    assert office.put_product_list("dairy-list", 3, more) == "exists"
    assert rules_version(desk) == before + 1
    for version, entries in ((1, more), (2, more), (3, ENTRIES)):
        refused(
            "already_exists_differently",
            partial(office.put_product_list, "dairy-list", version, entries),
            desk,
        )
    malformed("entries", lambda: office.put_product_list("empty", 1, {}), desk)


def test_a_shops_own_numbers_are_on_no_list(desk: Desk) -> None:
    """A number that each shop gives out for itself (GS1 restricted circulation) is refused."""
    for digits in ("0211234500123", "0021234567890", "0040000000000", "0000002345678"):
        entries = {digits + str(gtin_check_digit(digits)): "dairy"}
        malformed("entries", partial(desk.office.put_product_list, "new", 1, entries), desk)


# Programmes


def test_programme_rules_are_versioned_by_content(desk: Desk) -> None:
    """The same rules again change nothing, in whatever order they are written; other rules are
    the next version."""
    office = desk.office
    assert rules_version(desk) == 2  # one for the store that was admitted
    assert office.put_programme(dict(reversed(RULES.items()))) == ("exists", 2)
    assert office.put_programme({**RULES, "classes": ["card", "once"]}) == ("exists", 2)
    assert office.put_programme({**RULES, "paused": True}) == ("changed", 3)
    assert rules_version(desk) == 3
    assert office.programme("flood-dairy").paused
    assert office.programme("flood-dairy").stores == {"guzhou-1"}


def test_programme_needs_its_issuer_and_list(desk: Desk) -> None:
    """A programme whose issuer or product list nobody knows is not made."""
    for name, value in (("issuer", "https://nobody.example"), ("product_list", "nothing")):
        rules = {**RULES, "programme": "new", name: value}
        problem = refused("not_found", partial(desk.office.put_programme, rules), desk)
        assert problem.field == name


def test_currency_stays_once_there_is_money(desk: Desk) -> None:
    """Before any money a programme's currency may be mended; afterwards never."""
    office = desk.office
    assert office.put_programme({**RULES, "currency": "JPY"}).result == "changed"
    assert office.put_programme(RULES).result == "changed"
    office.fund("flood-dairy", "red-cross", 100, "T1")
    problem = refused(
        "already_exists_differently",
        lambda: office.put_programme({**RULES, "currency": "JPY"}),
        desk,
    )
    assert problem.field == "currency"


def test_issuer_stays_once_vouchers_are_out(desk: Desk) -> None:
    """A programme that issued keeps its issuer: nobody else's tokens open those vouchers."""
    office = desk.office
    office.put_issuer("https://other.example", [SigningKey.generate().public.to_jwk()])
    office.fund("flood-dairy", "red-cross", 36_000, "T1")
    office.issue("flood-dairy", IMPORT_KEY_ID, [value_row(1)])
    rules = {**RULES, "issuer": "https://other.example"}
    refused("already_exists_differently", lambda: office.put_programme(rules), desk)


ODD_RULES: list[dict[str, Any]] = [
    {"starts_at": "2027-03-01T00:00:00.000Z"},
    {"currency": "XXX"},
    {"rules_version": 4},
    {"stores": ["guzhou-1"]},
    {"limit_per_redemption_minor": True},
    {"limit_per_redemption_minor": 1.0},
    {"undo_window_s": -1},
    {"quotas": [{"category": "dairy", "quantity": 1, "unit": "piece"}] * 2},
    {"name": "a\x00b"},
    {"classes": [[]]},
]


def test_odd_rules_are_malformed(desk: Desk) -> None:
    """Rules that a till could not read are never stored."""
    before = desk.tables()
    for change in ODD_RULES:
        with pytest.raises(Malformed):
            desk.office.put_programme({**RULES, **change})
    assert desk.tables() == before


def test_stores_come_and_go_with_new_rules(desk: Desk) -> None:
    """Admitting or removing a store is a new version of the rules, once each."""
    office = desk.office
    assert office.admit_store("flood-dairy", "guzhou-1") == ("exists", 2)
    assert office.remove_store("flood-dairy", "guzhou-1") == ("changed", 3)
    assert office.remove_store("flood-dairy", "guzhou-1") == ("exists", 3)
    assert office.programme("flood-dairy").stores == frozenset()
    assert office.admit_store("flood-dairy", "guzhou-1") == ("created", 4)
    assert rules_version(desk) == 4
    refused("not_found", lambda: office.admit_store("flood-dairy", "nowhere"), desk)
    refused("not_found", lambda: office.admit_store("nothing", "guzhou-1"), desk)


# Money


def test_a_reference_is_booked_once(desk: Desk) -> None:
    """One transfer is one reference: repeated it is there already, changed it is refused."""
    office = desk.office
    assert office.fund("flood-dairy", "red-cross", 5_000, "T1") == "created"
    assert office.fund("flood-dairy", "red-cross", 5_000, "T1") == "exists"
    assert office.fund("flood-dairy", "city-fund", 2_000, "T2") == "created"
    for funder, amount in (("red-cross", 5_001), ("city-fund", 5_000)):
        refused(
            "already_exists_differently",
            partial(office.fund, "flood-dairy", funder, amount, "T1"),
            desk,
        )
    sums = office.programme_sums("flood-dairy")
    assert (sums.funded_minor, sums.unreserved_minor, sums.differences) == (7_000, 7_000, ())


def test_only_amounts_are_funded(desk: Desk) -> None:
    """T-15: a funding is a positive integer of minor units, nothing that only looks like one."""
    odd: list[Any] = [0, -1, True, 1.5, "5", None, 10**12 + 1]
    for amount in odd:
        call = partial(desk.office.fund, "flood-dairy", "red-cross", amount, "T")
        malformed("amount_minor", call, desk)


def test_a_programme_has_at_most_100_funders(desk: Desk) -> None:
    """What a settlement manifest has room for; the 101st is refused and nothing is booked."""
    for n in range(101):
        desk.office.put_funder(f"funder-{n}", f"Funder {n}")
    for n in range(100):
        assert desk.office.fund("flood-dairy", f"funder-{n}", 100, f"T-{n}") == "created"
    before = desk.tables()
    with pytest.raises(Malformed, match="at most 100 funders"):
        desk.office.fund("flood-dairy", "funder-100", 100, "T-100")
    assert desk.tables() == before


def test_unknown_funders_and_programmes_are_not_found(desk: Desk) -> None:
    """Money goes from a known funder to a known programme."""
    refused("not_found", lambda: desk.office.fund("flood-dairy", "nobody", 1, "T"), desk)
    refused("not_found", lambda: desk.office.fund("nothing", "red-cross", 1, "T"), desk)
    refused("not_found", lambda: desk.office.programme_sums("nothing"), desk)


def test_sums_are_those_of_the_entries(desk: Desk) -> None:
    """After funding, issuing and redeeming a part, both sums of INV-2 hold and nothing differs."""
    office = desk.office
    office.fund("flood-dairy", "red-cross", 100_000, "T1")
    office.issue("flood-dairy", IMPORT_KEY_ID, [value_row(1), item_row(2, 5_000)])
    sums = office.programme_sums("flood-dairy")
    assert sums.differences == ()
    assert (sums.funded_minor, sums.issued_minor, sums.unreserved_minor, sums.vouchers) == (
        100_000,
        46_000,
        54_000,
        2,
    )
    assert sums.to_json()["quantities"] == {
        "g": {"issued": 5_000, "available": 5_000, "redeemed": 0}
    }
    assert json.loads(json.dumps(sums.to_json())) == sums.to_json()


def test_a_wrong_balance_is_reported(desk: Desk) -> None:
    """A balance or an entry that was changed by hand is named among the differences."""
    office = desk.office
    office.fund("flood-dairy", "red-cross", 100_000, "T1")
    office.issue("flood-dairy", IMPORT_KEY_ID, [value_row(1)])
    vouchers, entries, programmes = schema.vouchers, schema.entries, schema.programmes
    with desk.database.write() as connection:
        connection.execute(update(vouchers).values(available_minor=35_999))
        connection.execute(update(programmes).values(unreserved_minor=1))
    assert len(office.programme_sums("flood-dairy").differences) == 2
    with desk.database.write() as connection:
        connection.execute(
            update(entries).where(entries.c.account == "funder").values(amount=-99_999)
        )
    assert office.programme_sums("flood-dairy").differences[0].startswith("funded")
    assert "a posting does not sum to zero" in office.programme_sums("flood-dairy").differences


# Freezing


def test_a_voucher_is_frozen_by_its_ref_or_id(desk: Desk) -> None:
    """The office names a voucher as the list or as the till knows it, in its own programme only."""
    office = desk.office
    office.fund("flood-dairy", "red-cross", 100_000, "T1")
    office.issue("flood-dairy", IMPORT_KEY_ID, [value_row(1), value_row(2)])
    with desk.database.read() as connection:
        voucher = connection.scalars(
            select(schema.issues.c.voucher).where(schema.issues.c.ref == ref(1))
        ).one()

    def frozen() -> list[int]:
        with desk.database.read() as connection:
            return sorted(connection.scalars(select(schema.vouchers.c.frozen)))

    assert office.freeze("flood-dairy", ref=ref(1), frozen=True) == "changed"
    assert frozen() == [0, 1]
    assert office.freeze("flood-dairy", voucher=voucher, frozen=True) == "exists"
    assert office.freeze("flood-dairy", voucher=voucher, frozen=False) == "changed"
    assert frozen() == [0, 0]
    office.put_programme({**RULES, "programme": "other"})
    refused("not_found", lambda: office.freeze("other", voucher=voucher, frozen=True), desk)
    refused("not_found", lambda: office.freeze("other", ref=ref(1), frozen=True), desk)
    malformed("voucher", lambda: office.freeze("flood-dairy", frozen=True), desk)


# Tills


def proof(key: SigningKey, code: str) -> str:
    payload = {"v": 1, "activation_sha256": digest(code.encode())}
    return jws.sign(payload, typ=jws.PROOF, key=key)


def enrol(desk: Desk, code: str, key: SigningKey) -> str:
    return desk.office.enrol(code, key.public.to_jwk(), proof(key, code))


def test_a_code_enrols_one_till(desk: Desk) -> None:
    """The certificate names the shop and the key; the code is stored nowhere, and answers again
    to the same key only, even after it has expired."""
    code, expires_at = desk.office.new_activation("guzhou-1", 3600)
    assert expires_at == desk.clock.at + timedelta(hours=1)
    assert code.split(".")[2] == desk.keyring.root.kid
    assert code not in repr(desk.tables()) and code.split(".")[1] not in repr(desk.tables())
    key = SigningKey.generate()
    certificate = enrol(desk, code, key)
    payload = jws.verify(certificate, typ=jws.CERTIFICATE, keys=desk.keyring.keys.keys).payload
    assert payload == {
        "v": 1,
        "ledger": desk.keyring.ledger,
        "terminal": payload["terminal"],
        "terminal_no": 1,
        "merchant": "guzhou",
        "merchant_name": "古州超市",
        "store": "guzhou-1",
        "store_name": "古州超市一店",
        "key": key.kid,
        "audience": AUDIENCE,
        "issued_at": clock.to_text(desk.clock.at),
    }
    ids.name(payload["terminal"], "terminal")
    desk.clock.forward(days=2)
    assert enrol(desk, code, key) == certificate
    refused("activation_used", lambda: enrol(desk, code, SigningKey.generate()), desk)
    assert [t["terminal_no"] for t in desk.office.terminals()] == [1]


def test_the_sdk_accepts_the_certificate(desk: Desk) -> None:
    """What the office signs is what a till's own enrolment verifies, from the code's thumbprint."""
    code = desk.office.new_activation("guzhou-1", 3600).code
    document = {"root": desk.keyring.root.to_jwk(), "keyset": desk.keyring.keyset}
    keys = LedgerKeys.read(document, code.split(".")[2])
    key = SigningKey.generate()
    jws.verify(enrol(desk, code, key), typ=jws.CERTIFICATE, keys=keys.keys)


def test_codes_that_enrol_nobody(desk: Desk) -> None:
    """Unknown, foreign, expired codes and proofs by another key or for another code: refused."""
    office, key = desk.office, SigningKey.generate()
    code = office.new_activation("guzhou-1", 60).code
    unknown = f"cp1.{'A' * 22}.{desk.keyring.root.kid}"
    foreign = f"{code.rsplit('.', 1)[0]}.{'A' * 43}"
    for other in (unknown, foreign):
        refused("activation_unknown", partial(enrol, desk, other, key), desk)
    stranger = SigningKey.generate()
    with pytest.raises(SignatureInvalid):
        office.enrol(code, key.public.to_jwk(), proof(stranger, code))
    malformed(
        "proof.activation_sha256",
        lambda: office.enrol(code, key.public.to_jwk(), proof(key, unknown)),
        desk,
    )
    malformed("activation", lambda: office.enrol(code + " ", key.public.to_jwk(), ""), desk)
    desk.clock.forward(seconds=60)
    refused("activation_expired", lambda: enrol(desk, code, key), desk)


def test_one_key_is_one_till(desk: Desk) -> None:
    """A key that is enrolled can't become a second till with another code."""
    key = SigningKey.generate()
    enrol(desk, desk.office.new_activation("guzhou-1", 3600).code, key)
    again = desk.office.new_activation("guzhou-1", 3600).code
    refused("already_exists_differently", lambda: enrol(desk, again, key), desk)


def test_tills_that_enrol_at_once_get_numbers_in_a_row(desk: Desk) -> None:
    """Eight tills at once: eight terminals, numbered 1 to 8; and one code for two: one of them."""
    shared = desk.office.new_activation("guzhou-1", 3600).code
    codes = [desk.office.new_activation("guzhou-1", 3600).code for _ in range(7)]
    results: list[str] = []

    def one(code: str) -> None:
        try:
            enrol(desk, code, SigningKey.generate())
            results.append("enrolled")
        except Problem as problem:
            results.append(problem.code)

    threads = [threading.Thread(target=one, args=(code,)) for code in [*codes, shared, shared]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["activation_used"] + ["enrolled"] * 8
    assert [t["terminal_no"] for t in desk.office.terminals()] == list(range(1, 9))


def test_terminal_status(desk: Desk) -> None:
    """A till is suspended and let in again; revoked is for ever, and so is a fork until then."""
    office = desk.office
    enrol(desk, office.new_activation("guzhou-1", 3600).code, SigningKey.generate())
    (till,) = office.terminals()
    terminal = str(till["terminal"])
    assert office.set_terminal_status(terminal, "active") == "exists"
    assert office.set_terminal_status(terminal, "suspended") == "changed"
    assert office.set_terminal_status(terminal, "active") == "changed"
    with desk.database.write() as connection:
        connection.execute(update(schema.terminals).values(status="forked"))
    refused(
        "already_exists_differently", lambda: office.set_terminal_status(terminal, "active"), desk
    )
    assert office.set_terminal_status(terminal, "revoked") == "changed"
    refused(
        "already_exists_differently", lambda: office.set_terminal_status(terminal, "active"), desk
    )
    refused("not_found", lambda: office.set_terminal_status("t-0", "active"), desk)
    malformed("status", lambda: office.set_terminal_status(terminal, "forked"), desk)


def test_codes_live_a_minute_to_a_month(desk: Desk) -> None:
    """A code that never ends, or ends before it is typed, is not made."""
    odd: list[Any] = [0, 59, True, 60.0, "3600", 31 * 86_400]
    for valid_s in odd:
        malformed("valid_s", partial(desk.office.new_activation, "guzhou-1", valid_s), desk)


# Operators and alarms


def test_operator_secrets_are_kept_as_digests(desk: Desk) -> None:
    """The secret is told once, names its operator afterwards, and stands in no table."""
    office = desk.office
    secret = office.new_operator("ops-1")
    assert office.operator_named(secret) == "ops-1"
    assert secret not in repr(desk.tables())
    for other in ("", secret[:-1], secret + "A", "A" * 43, None, 7):
        assert office.operator_named(other) is None
    refused("already_exists_differently", lambda: office.new_operator("ops-1"), desk)


def test_alarms_are_read_on_from_the_last(desk: Desk) -> None:
    """Whoever watches asks for what came after the last number it saw."""
    row = {"at": "2026-11-22T08:30:00.000Z", "kind": "fork", "terminal": "t-1", "digest": "x"}
    with desk.database.write() as connection:
        connection.execute(insert(schema.alarms), [row, row, row])
    seen = desk.office.alarms(0)
    assert len(seen) == 3
    assert desk.office.alarms(int(str(seen[1]["n"]))) == seen[2:]
    malformed("after", lambda: desk.office.alarms(2**31), desk)


def test_keys_of_issuers_are_usable(desk: Desk) -> None:
    """What is stored of an issuer is a list of JWKs that the verifier takes."""
    with desk.database.read() as connection:
        stored = json.loads(connection.scalars(select(schema.issuers.c["keys"])).one())
    assert len(KeySet(PublicKey.from_jwk(jwk) for jwk in stored)) == 1
