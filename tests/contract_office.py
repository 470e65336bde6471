"""Issuers with a programme of their own, and the codes, cards and wallets that they give out."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import Any

from tests.contract_codes import IssuerSigner, Printed, Signer, Wallet, ed25519
from tests.contract_ledgers import VALUE, ContractLedger, care
from tests.contract_till import ContractTill
from tests.contract_visit import Visit
from tests.second_signing import Json, b64, digest

DAY_S = 86_400
LIMITS: Json = {
    "proxy": True,
    "witness": True,
    "household_minor": 6_000,
    "actor_minor": 10_000,
    "window_s": 86_400,
}


@dataclass
class Office:
    """An issuer at a ledger, with one programme; `key` signs unless a test says otherwise."""

    ledger: ContractLedger
    key: IssuerSigner = field(default_factory=ed25519)
    name: str = field(default_factory=lambda: "p-" + secrets.token_hex(6))

    @property
    def iss(self) -> str:
        return f"https://{self.name}.test"

    @property
    def at(self) -> int:
        return int(self.ledger.now().timestamp())

    def family(self, amount_minor: int = 12_000) -> str:
        voucher = {**VALUE, "programme": self.name, "available_minor": amount_minor}
        return self.ledger.family(voucher)

    def code(
        self, sub: str, key: Signer | None = None, typ: str = "care+jwt", /, **claims: Any
    ) -> str:
        """A fresh care code."""
        said = {"sub": sub, "iss": self.iss, **claims}
        return care(self.ledger, key=key or self.key, typ=typ, **said)

    def acted(self, sub: str, actor: str, *amr: str, **claims: Any) -> str:
        """A care code that somebody else presents: a witness when `amr` says so."""
        methods = list(amr) or ["face"]
        said = {"act": {"sub": actor}, "care_reason": "frail", "amr": methods, **claims}
        return self.code(sub, **said)

    def card(self, sub: str, **claims: Any) -> str:
        """A long-lived token."""
        said = {"care_class": "card", "exp": self.at + DAY_S, "amr": ["carepos:card"], **claims}
        return self.code(sub, **said)

    def printed(self, sub: str, *, told: bool = True, **claims: Any) -> Printed:
        """A printed card with the PIN 2580, which the ledger was `told` of."""
        jti = b64(secrets.token_bytes(16))
        token = self.card(sub, jti=jti, **claims)
        card = Printed(self.iss, jti, token, "2580", b64(secrets.token_bytes(16)))
        if told:
            self.ledger.put_card(self.iss, sub, card.jti_sha256, card.verifier)
        return card

    def wallet(self, sub: str, key: IssuerSigner | None = None, **claims: Any) -> Wallet:
        """A card in a phone, bound to a key of the phone's."""
        holder = key or ed25519()
        token = self.card(sub, cnf={"jwk": holder.members}, **claims)
        return Wallet(token, holder, self.ledger.audience)

    def visit_by(self, key: IssuerSigner, till: ContractTill, sub: str, token: str) -> Visit:
        """The same, when another of the issuer's keys signs the good code."""
        return replace(self, key=key).visit(till, sub, token)

    def visit(self, till: ContractTill, sub: str, token: str | None = None) -> Visit:
        """A family at a till, looked up by a good code, that then presents `token`."""
        code = self.code(sub)
        return Visit(till, sub, token or code, till.lookup(code), self.name)


def office(ledger: ContractLedger, key: IssuerSigner | None = None, **programme: Any) -> Office:
    """An issuer that the ledger believes, and its programme."""
    made = Office(ledger, key or ed25519())
    assert ledger.put_keys(made.iss, [made.key.jwk])
    ledger.programme(made.name, **{"issuer": made.iss, "classes": ["once", "card"], **programme})
    return made


def acting_office(ledger: ContractLedger, **changes: object) -> Office:
    """As `office`; whoever acts may collect what `LIMITS`, or `changes` of them, allow."""
    return office(ledger, acting={**LIMITS, **changes})


def collect(own: Office, till: ContractTill, sub: str, actor: str, *amr: str) -> Visit:
    """Somebody at a till, looked up as who collects for a family."""
    token = own.acted(sub, actor, *amr)
    return Visit(till, sub, token, till.lookup(token), own.name)


def pack_of(till: ContractTill) -> Json:
    """The till's pack, as it is now."""
    manifest = till.get("/v1/offline-pack").json()["manifest"]
    sha256 = till.signed(manifest, "carepos-manifest+jws")["file"]["sha256"]
    file = till.get(f"/v1/offline-pack/{sha256}")
    assert digest(file.content) == sha256
    found: Json = file.json()
    return found


def refusal(there: Visit, amount_minor: int = 1) -> str:
    """The code with which a redeem is refused."""
    outcome = there.till.outcome(there.milk(amount_minor))
    assert outcome["result"] == "refused", outcome
    assert outcome["refusal"]["at"] is None
    code: str = outcome["refusal"]["code"]
    return code


def told(there: Visit) -> str:
    """The code of a lookup's problem, which is the one of a record's outcome too."""
    problem = there.till.refused_lookup(there.token)
    assert problem["status"] == 403
    assert refusal(there) == problem["code"]
    code: str = problem["code"]
    return code


def posted(there: Visit, amount_minor: int = 1) -> bool:
    outcome = there.till.outcome(there.milk(amount_minor))
    return bool(outcome["result"] == "posted")


def tried(till: ContractTill, card: Printed, pin: str) -> tuple[str, int | None]:
    """The code, and the tries left, that a wrong PIN gets."""
    problem = till.refused_lookup(card.token, card.proof(pin))
    assert problem["status"] == 403
    return problem["code"], problem.get("tries_left")
