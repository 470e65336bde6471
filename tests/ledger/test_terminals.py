"""Tills: one code enrols one till, and only an operator says what it may do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, update

from carepos import clock, ids, jws
from carepos.errors import SignatureInvalid
from carepos.keys import SigningKey, digest
from carepos.ledger_keys import LedgerKeys
from carepos_ledger import schema
from carepos_ledger.problems import Problem
from tests.ledger.relief import (
    AUDIENCE,
    Desk,
    malformed,
    open_desk,
    refused,
)


@pytest.fixture
def desk(database_url: str, tmp_path: Path) -> Iterator[Desk]:
    with open_desk(database_url, tmp_path) as opened:
        opened.settle_in()
        yield opened


def proof(key: SigningKey, code: str) -> str:
    payload = {"v": 1, "activation_sha256": digest(code.encode())}
    return jws.sign(payload, typ=jws.PROOF, key=key)


def enrol(desk: Desk, code: str, key: SigningKey) -> str:
    return desk.terminals.enrol(code, key.public.to_jwk(), proof(key, code))


def test_a_code_enrols_one_till(desk: Desk) -> None:
    """The certificate names the shop and the key; the code is stored nowhere, and answers again
    to the same key only, even after it has expired."""
    code, expires_at = desk.terminals.new_activation("guzhou-1", 3600)
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
    assert [t["terminal_no"] for t in desk.terminals.listed()] == [1]


def test_the_sdk_accepts_the_certificate(desk: Desk) -> None:
    """What the office signs is what a till's own enrolment verifies, from the code's thumbprint."""
    code = desk.terminals.new_activation("guzhou-1", 3600).code
    document = {"root": desk.keyring.root.to_jwk(), "keyset": desk.keyring.keyset}
    keys = LedgerKeys.read(document, code.split(".")[2])
    key = SigningKey.generate()
    jws.verify(enrol(desk, code, key), typ=jws.CERTIFICATE, keys=keys.keys)


def test_codes_that_enrol_nobody(desk: Desk) -> None:
    """Unknown, foreign, expired codes and proofs by another key or for another code: refused."""
    terminals, key = desk.terminals, SigningKey.generate()
    code = terminals.new_activation("guzhou-1", 60).code
    unknown = f"cp1.{'A' * 22}.{desk.keyring.root.kid}"
    foreign = f"{code.rsplit('.', 1)[0]}.{'A' * 43}"
    for other in (unknown, foreign):
        refused("activation_unknown", partial(enrol, desk, other, key), desk)
    stranger = SigningKey.generate()
    with pytest.raises(SignatureInvalid):
        terminals.enrol(code, key.public.to_jwk(), proof(stranger, code))
    malformed(
        "proof.activation_sha256",
        lambda: terminals.enrol(code, key.public.to_jwk(), proof(key, unknown)),
        desk,
    )
    malformed("activation", lambda: terminals.enrol(code + " ", key.public.to_jwk(), ""), desk)
    desk.clock.forward(seconds=60)
    refused("activation_expired", lambda: enrol(desk, code, key), desk)


def test_one_key_is_one_till(desk: Desk) -> None:
    """A key that is enrolled can't become a second till with another code."""
    key = SigningKey.generate()
    enrol(desk, desk.terminals.new_activation("guzhou-1", 3600).code, key)
    again = desk.terminals.new_activation("guzhou-1", 3600).code
    refused("already_exists_differently", lambda: enrol(desk, again, key), desk)


def test_tills_that_enrol_at_once_get_numbers_in_a_row(desk: Desk) -> None:
    """Eight tills at once: eight terminals, numbered 1 to 8; and one code for two: one of them."""
    shared = desk.terminals.new_activation("guzhou-1", 3600).code
    codes = [desk.terminals.new_activation("guzhou-1", 3600).code for _ in range(7)]
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
    assert [t["terminal_no"] for t in desk.terminals.listed()] == list(range(1, 9))


def test_terminal_status(desk: Desk) -> None:
    """A till is suspended and let in again; revoked is for ever, and so is a fork until then."""
    terminals = desk.terminals
    enrol(desk, terminals.new_activation("guzhou-1", 3600).code, SigningKey.generate())
    (till,) = terminals.listed()
    terminal = str(till["terminal"])
    assert terminals.set_status(terminal, "active") == "exists"
    assert terminals.set_status(terminal, "suspended") == "changed"
    assert terminals.set_status(terminal, "active") == "changed"
    with desk.database.write() as connection:
        connection.execute(update(schema.terminals).values(status="forked"))
    refused("already_exists_differently", lambda: terminals.set_status(terminal, "active"), desk)
    assert terminals.set_status(terminal, "revoked") == "changed"
    refused("already_exists_differently", lambda: terminals.set_status(terminal, "active"), desk)
    refused("not_found", lambda: terminals.set_status("t-0", "active"), desk)
    malformed("status", lambda: terminals.set_status(terminal, "forked"), desk)


def test_codes_live_a_minute_to_a_month(desk: Desk) -> None:
    """A code that never ends, or ends before it is typed, is not made."""
    odd: list[Any] = [0, 59, True, 60.0, "3600", 31 * 86_400]
    for valid_s in odd:
        malformed("valid_s", partial(desk.terminals.new_activation, "guzhou-1", valid_s), desk)


def test_alarms_are_read_on_from_the_last(desk: Desk) -> None:
    """Whoever watches asks for what came after the last number it saw."""
    row = {"at": "2026-11-22T08:30:00.000Z", "kind": "fork", "terminal": "t-1", "digest": "x"}
    with desk.database.write() as connection:
        connection.execute(insert(schema.alarms), [row, row, row])
    seen = desk.terminals.alarms(0)
    assert len(seen) == 3
    assert desk.terminals.alarms(int(str(seen[1]["n"]))) == seen[2:]
    malformed("after", lambda: desk.terminals.alarms(2**31), desk)


def test_an_alarm_that_commits_late_is_not_passed_over(desk: Desk) -> None:
    """PostgreSQL numbers alarms before they are committed. Whoever reads number 2 has not missed
    number 1 for ever: the read waits until 1 is there, or is none."""
    if desk.database.is_sqlite:
        return  # one transaction writes at a time: numbers are in the order of commits
    row = {"at": "2026-11-22T08:30:00.000Z", "kind": "fork", "terminal": "t-1", "digest": "x"}
    locking = threading.Event()

    def watch(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("LOCK TABLE alarms"):
            locking.set()

    seen: list[object] = []
    reader = threading.Thread(target=lambda: seen.extend(desk.terminals.alarms(0)))
    event.listen(desk.database.engine, "before_cursor_execute", watch)
    with desk.database.write() as late:
        late.execute(insert(schema.alarms), [row])
        with desk.database.write() as early:
            early.execute(insert(schema.alarms), [row])
        reader.start()
        assert locking.wait(20)
    reader.join()
    assert len(seen) == 2
