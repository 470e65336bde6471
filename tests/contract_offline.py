"""Tills that are ready for an outage, in contract tests: their packs, and what they sell alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.contract_codes import Printed
from tests.contract_ledgers import ISSUER, VALUE, ContractLedger, care
from tests.contract_till import ContractTill, Sent
from tests.contract_visit import entry, line
from tests.second_signing import Json, b64, digest, new_id, unb64
from tests.vectors import second_offline

HALF: Json = {
    "allotment_permille": 500,
    "spend_s": 72 * 3_600,
    "upload_s": 48 * 3_600,
    "pack_age_s": 72 * 3_600,
    "floor": None,
    "stored_sum_minor": 100_000,
    "stored_count": 50,
    "online_permille": 0,
}
# Expires before the voucher that `at_home` makes, and so stands first in the pack.
SOON: Json = {**VALUE, "expires_at": "2027-07-01T00:00:00.000Z"}
FLOOR: Json = {
    "redemption_minor": 5_000,
    "beneficiary_minor": 8_000,
    "window_s": 86_400,
    "liability": "programme",
}


@dataclass(frozen=True)
class Pack:
    """A pack with households, as it was fetched."""

    till: ContractTill
    manifest: Json
    file: Json
    segments: tuple[Json, ...]

    @property
    def sha256(self) -> str:
        sha256: str = self.manifest["file"]["sha256"]
        return sha256

    def household(self, sub: str, iss: str = ISSUER) -> Json | None:
        """What a code of this person opens; None: nobody like this is in it."""
        told = self.file["households"]
        tag, key, nonce_key = second_offline.household_keys(
            iss, sub, self.till.terminal, told["incarnation"]
        )
        if not self.segments:
            return None
        sealed = self.segments[second_offline.segment(tag)]["households"].get(tag)
        if sealed is None:
            return None
        found: Json = second_offline.open_household(sealed, tag, key, nonce_key)
        return found


def fetched(till: ContractTill, sha256: str) -> Json:
    answer = till.get(f"/v1/offline-pack/{sha256}")
    assert answer.status_code == 200 and digest(answer.content) == sha256
    found: Json = answer.json()
    return found


def pack(till: ContractTill) -> Pack:
    """The till's pack with the households of its store, each file held against its digest."""
    answer = till.post("/v1/offline-pack", {"incarnation": till.incarnation})
    assert answer.status_code == 200, answer.text
    manifest = till.signed(answer.json()["manifest"], "carepos-manifest+jws")
    file = fetched(till, manifest["file"]["sha256"])
    told = file["households"]["segments"]
    return Pack(till, manifest, file, tuple(fetched(till, each["sha256"]) for each in told))


@dataclass
class Alone:
    """A family at a till that has no ledger to ask, with the pack that it fetched before."""

    ledger: ContractLedger
    pack: Pack
    sub: str
    programme: str
    token: str

    @property
    def till(self) -> ContractTill:
        return self.pack.till

    @property
    def household(self) -> Json:
        found = self.pack.household(self.sub)
        assert found is not None
        return found

    def voucher(self, n: int = 0) -> str:
        name: str = self.household["v"][n][0]
        return name

    def use(self, amount_minor: int, allotment: int = 1, quantity: int = 0, n: int = 0) -> Json:
        return {
            "voucher": self.voucher(n),
            "allotment": allotment,
            "amount_minor": amount_minor,
            "quantity": quantity,
        }

    def sell(
        self,
        amount_minor: int,
        *use: Json,
        basket: Sequence[Json] = (),
        allocation: Sequence[Json] = (),
        **changes: Any,
    ) -> tuple[Sent, Sent]:
        """A sale and its acceptance, written behind each other; both with the evidence."""
        household, token = self.household, changes.pop("token", self.token)
        proof = changes.pop("proof", None)
        found = {"beneficiary": household["b"], "bucket": household["k"], "rules": {}}
        programmes = {each["programme"]: each for each in self.pack.file["programmes"]}
        version = programmes[self.programme]["rules_version"]
        sale = self.till.redeem(
            found,
            token,
            basket or [line()],
            allocation or [entry(self.voucher(), amount_minor)],
            programme=self.programme,
            rules_version=version,
            **changes,
        )
        return self.seal(sale, token, proof), self.accept(sale, *use, token=token, proof=proof)

    def seal(self, sent: Sent, token: str, proof: str | None = None) -> Sent:
        """A record with the evidence beside it in place of the token."""
        told = token if proof is None else f"{token}\n{proof}"
        key = unb64(self.pack.file["evidence_key"]["x"])
        sealed = second_offline.seal_evidence(told, key, self.till.terminal, sent.payload["id"])
        return replace(sent, token=None, evidence=b64(sealed))

    def accept(
        self, sale: Sent, *use: Json, token: str = "", proof: str | None = None, **changes: Any
    ) -> Sent:
        content = {
            "record_sha256": sale.digest,
            "presentment": "offline",
            "liability": "programme",
            "pack_sha256": self.pack.sha256,
            "allotment_use": list(use),
            **changes,
        }
        sent = self.till.write("accept_offline", sale.payload["id"], content)
        return self.seal(sent, token or self.token, proof)

    def both(self, sale: Sent, accepted: Sent) -> Json:
        """The one result of both, as each outcome has it."""
        results = self.till.send(sale, accepted)
        told = [
            self.till.believe(sent, result)
            for sent, result in zip((sale, accepted), results, strict=True)
        ]
        bound = ("kind", "record_sha256")
        same = [{key: value for key, value in each.items() if key not in bound} for each in told]
        assert same[0] == same[1], same
        assert self.till.send(sale, accepted) == results
        return told[1]

    def give_back(self, *allotments: int, n: int = 0) -> Sent:
        """A record that returns allotments of a voucher."""
        named = [{"voucher": self.voucher(n), "allotment": each} for each in allotments]
        identifier = new_id(self.household["k"], self.till.now())
        return self.till.write("return_allotment", identifier, {"allotments": named})

    def balance(self, till: ContractTill | None = None, n: int = 0) -> int:
        """What a till sees of the voucher by a fresh code."""
        found = (till or self.till).lookup(care(self.ledger, self.sub))["vouchers"]
        told = {each["voucher"]: each for each in found}[self.voucher(n)]
        left: int = told["available_minor"] + told["available_quantity"]
        return left


def at_home(
    ledger: ContractLedger,
    till: ContractTill,
    programme: str,
    *vouchers: Json,
    card: Printed | None = None,
) -> str:
    """A family whose home is the till's store: it redeemed one minor unit there."""
    told = [{**each, "programme": programme} for each in vouchers or (SOON,)]
    first = {**VALUE, "programme": programme, "available_minor": 1, "categories": ["dairy"]}
    sub = ledger.family(first, *told)
    token = care(ledger, sub)
    found = till.lookup(token)
    small = next(
        each
        for each in found["vouchers"]
        if each["categories"] == ["dairy"] and each["available_minor"] == 1
    )
    sale = till.redeem(found, token, [line()], [entry(small["voucher"], 1)], programme=programme)
    assert till.outcome(sale)["result"] == "posted"
    return sub


def alone(ledger: ContractLedger, till: ContractTill, programme: str, *vouchers: Json) -> Alone:
    """A family at home at the till's store, which has its pack; the code is shown now."""
    sub = at_home(ledger, till, programme, *vouchers)
    return Alone(ledger, pack(till), sub, programme, care(ledger, sub))
