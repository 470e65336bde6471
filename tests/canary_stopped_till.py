"""The part of T-12 about what is held, shown and decided: all that a revoked till sends, and what a
till sold without the ledger to a code that was over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import requests

from carepos import Line, Till, record, token
from carepos.acceptance import AcceptOffline
from carepos.evidence import seal
from carepos.ids import new_attempt_id, terminal_bucket
from carepos.keys import SigningKey
from carepos.record import Redeem, Start
from carepos_ledger.keyring import Keyring
from tests.canary_stage import CASHIER, ISSUER, MILK, Stage

FOLDER, OFFLINE_FOLDER = "stopped-till", "offline-till"
OLD = timedelta(days=2)


def a_stopped_till(stage: Stage) -> None:
    """Families stand before it when it is revoked; one sale is booked by hand, one is not accepted,
    the others are left to lie."""
    ledger = ("--folder", "ledger")
    body = {"store": "zhou-shop", "valid_s": 3600}
    code = stage.plant("activation code", stage.operate("POST", "/activations", body)["activation"])
    url, folder = f"http://127.0.0.1:{stage.wire.port}", stage.folder / FOLDER
    Till.enrol(folder, url=url, activation=code)
    stage.plant_file("till key", folder / "terminal.key")
    acting = {"act": {"iss": ISSUER, "sub": "canary~actor~0001"}, "care_reason": "frail"}
    shown = [
        stage.token(stage.subs[12]),
        stage.token(stage.subs[12]),
        stage.token(stage.subs[12]),
        stage.token(stage.subs[12], **acting),
    ]
    with Till.open(folder) as till:
        terminal = till.enrolment.terminal
        goods = [Line(MILK, 1, "piece", 100, "纯牛奶")]
        offers = [till.propose(each, goods) for each in shown]
        stage.operate("PUT", f"/terminals/{terminal}/status", {"status": "revoked"})
        sales = [
            till.redeem(offer, checkout=f"H{n}", cashier=CASHIER) for n, offer in enumerate(offers)
        ]
        assert {sale.held for sale in sales} == {"terminal_revoked"}
        till.cancel("H2")
        stage.command("ledger", "held", *ledger, codes=(1,))
        stage.command("ledger", "chain", terminal, *ledger)
        held = [each for each in stage.operate("GET", "/held")["held"] if each["token"]]
        assert [each["token"] for each in held] == ["proved"] * 4
        numbers = [str(each["n"]) for each in held]
        for number in numbers:
            stage.command("ledger", "held", number, *ledger)
        stage.command("ledger", "held", numbers[0], "--post", *ledger)
        refuse = ("--refuse", "--say", "not this shop's", *ledger)
        stage.command("ledger", "held", numbers[1], *refuse)
        till.settle()
        assert till.status("H0").state == "confirmed" and till.status("H1").state == "refused"
        stage.command("ledger", "alarms", *ledger, codes=(0, 1))
    told = stage.command(
        "ledger", "export-person", "--iss", ISSUER, "--sub-stdin", *ledger, stdin=stage.subs[12]
    )
    assert told.count('"held_at"') == 2
    stage.command("till", "status", "--folder", FOLDER, codes=(0, 1))
    stage.command("ledger", "retain", *ledger)


def a_sale_to_a_code_that_was_over(stage: Stage) -> None:
    """Twice, with the token sealed: one is booked by a person's word as far as the rules let it,
    one is left to lie. The ledger opened both, and keeps nothing of what it read."""
    ledger = ("--folder", "ledger")
    body = {"store": "zhou-shop", "valid_s": 3600}
    code = stage.plant("activation code", stage.operate("POST", "/activations", body)["activation"])
    url, folder = f"http://127.0.0.1:{stage.wire.port}", stage.folder / OFFLINE_FOLDER
    Till.enrol(folder, url=url, activation=code)
    stage.plant_file("till key", folder / "terminal.key")
    with Till.open(folder) as till:
        terminal = till.enrolment.terminal
        offer = till.propose(stage.token(stage.subs[12]), [Line(MILK, 1, "piece", 100, "纯牛奶")])
    chain = Chain(terminal, SigningKey.load(folder / "terminal.key"))
    evidence_key = Keyring.load(stage.ledger_folder).evidence_key
    own = new_attempt_id(terminal_bucket(terminal), datetime.now(UTC))
    envelopes = [{"record": chain.sign(Start("canary 1"), own).jws}]
    for n in range(2):
        shown = stage.token(stage.subs[12], issued_at=datetime.now(UTC) - OLD)
        redeem = Redeem(
            checkout=f"F{n}",
            cashier=CASHIER,
            programme=offer.programme.programme,
            rules_version=offer.programme.rules_version,
            currency=offer.programme.currency,
            beneficiary=offer.holder.beneficiary,
            token_sha256=token.token_sha256(shown),
            basket=offer.situation.lines,
            allocation=offer.proposal.allocation,
        )
        sale = chain.sign(redeem, new_attempt_id(offer.holder.bucket, datetime.now(UTC)))
        accept = AcceptOffline(sale.digest, "merchant", "A" * 43, ())
        sealed = seal(shown, key=evidence_key, terminal=terminal, attempt_id=sale.id)
        for made in (sale, chain.sign(accept, sale.id)):
            envelopes.append({"record": made.jws, "evidence": sealed})
    answer = requests.post(f"{url}/v1/records", json={"items": envelopes}, timeout=30)
    assert [sorted(each) for each in answer.json()["results"]] == [["outcome"]] * 5
    printed = stage.command("ledger", "held", *ledger, codes=(1,))
    assert printed.count("sold offline") == 4
    held = [each for each in stage.operate("GET", "/held")["held"] if each["terminal"] == terminal]
    assert [each["token"] for each in held] == ["token_expired", None] * 2
    assert {each["reason"] for each in held} == {"token"}
    for each in held:
        stage.command("ledger", "held", str(each["n"]), *ledger)
    stage.command("ledger", "held", str(held[0]["n"]), "--post", *ledger)
    told = stage.command(
        "ledger", "export-person", "--iss", ISSUER, "--sub-stdin", *ledger, stdin=stage.subs[12]
    )
    assert told.count('"reason": "token"') == 1
    stage.command("ledger", "exceptions", *ledger, codes=(0, 1))


class Chain:
    """A journal that nobody keeps."""

    def __init__(self, terminal: str, key: SigningKey) -> None:
        self.terminal, self.key, self.sequence = terminal, key, 0
        self.incarnation = "c0" * 16
        self.prev = record.first_prev(self.incarnation)

    def sign(self, content: record.Content, attempt_id: str) -> record.Record:
        self.sequence += 1
        made = record.make(
            content,
            attempt_id=attempt_id,
            terminal=self.terminal,
            incarnation=self.incarnation,
            sequence=self.sequence,
            prev=self.prev,
            occurred_at=datetime.now(UTC),
            key=self.key,
        )
        self.prev = made.digest
        return made
