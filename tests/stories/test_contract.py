"""What any ledger must answer to a till: docs/protocol.md from outside, over HTTP.

Every test runs against a ledger written from the page alone and against the product's, with a till
written from the page alone. A ledger that passes serves our tills.
"""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import requests

from tests.contract_ledgers import (
    FIXED,
    ISSUER,
    ITEM,
    PROGRAMME,
    VALUE,
    ContractLedger,
    care,
)
from tests.contract_till import (
    FORMULA,
    MILK,
    RICE,
    ContractTill,
    Sent,
    check_problem,
    enrolment,
    refused,
    trusted_keys,
)
from tests.contract_visit import LEDGERS, Visit, entry, line, till_of, visit
from tests.second_signing import Json, Key, b64, digest, new_id, read, receipt_no, split, unread


@pytest.fixture(scope="module", params=LEDGERS)
def ledger(request: pytest.FixtureRequest) -> Iterator[ContractLedger]:
    with LEDGERS[request.param]() as made:
        made.programme("dairy")
        yield made


@pytest.fixture(scope="module")
def till(ledger: ContractLedger) -> ContractTill:
    return till_of(ledger)


@pytest.fixture(scope="module")
def neighbour(ledger: ContractLedger) -> ContractTill:
    """Another terminal of the same store."""
    return till_of(ledger)


# Keys and enrolment.


def test_the_key_set_is_signed_by_the_root_of_the_activation_code(ledger: ContractLedger) -> None:
    """A till that has only the code learns the ledger's keys, and nobody else's."""
    code = ledger.activation("shop-a")
    assert code.startswith("cp1.") and len(code.split(".")[1]) == 22
    keyset, keys = trusted_keys(ledger.url, code.split(".")[2])
    assert set(keyset) == {"v", "ledger", "version", "epoch", "keys"}
    assert keyset["v"] == 1 and keyset["version"] >= 1 and keyset["epoch"] >= 1 and keys


def test_enrolment_gives_a_certificate_that_names_everything_a_till_needs(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """The certificate is section 9's, of this key, and each terminal has a number of its own."""
    wanted = "v ledger terminal terminal_no merchant merchant_name store store_name key audience"
    assert set(till.certificate) == {*wanted.split(), "issued_at"}
    assert till.certificate["key"] == till.key.public.kid
    assert (till.certificate["store"], till.certificate["merchant"]) == ("shop-a", "zhou")
    assert till.certificate["audience"] == ledger.audience
    assert till.certificate["terminal_no"] != neighbour.certificate["terminal_no"]


def test_a_code_enrols_one_key_however_often_it_is_sent(ledger: ContractLedger) -> None:
    """A lost answer costs no code: the same key gets the same certificate, another key nothing."""
    code, key = ledger.activation("shop-a"), Key.new()
    url = ledger.url + "/v1/terminals"
    first, again = (requests.post(url, json=enrolment(code, key), timeout=20) for _ in range(2))
    assert first.status_code == again.status_code == 201
    certificates = [answer.json()["certificate"] for answer in (first, again)]
    payloads = [unread(jws, "carepos-certificate+jws").payload for jws in certificates]
    assert payloads[0] == payloads[1]
    other = requests.post(url, json=enrolment(code, Key.new()), timeout=20)
    assert refused(other)["code"] == "activation_used"


def test_a_proof_by_another_key_enrols_nothing(ledger: ContractLedger) -> None:
    """Who can't sign with a key can't enrol it, and the code is still good."""
    code, key = ledger.activation("shop-a"), Key.new()
    url = ledger.url + "/v1/terminals"
    body = {**enrolment(code, Key.new()), "public_key": key.public.jwk}
    assert refused(requests.post(url, json=body, timeout=20))["code"] == "signature_invalid"
    proof = key.sign("carepos-proof+jws", {"v": 1, "activation_sha256": digest(b"another")})
    body = {**enrolment(code, key), "proof": proof}
    assert 400 <= requests.post(url, json=body, timeout=20).status_code < 500
    assert requests.post(url, json=enrolment(code, key), timeout=20).status_code == 201
    twice = enrolment(ledger.activation("shop-a"), key)
    answer = requests.post(url, json=twice, timeout=20)
    assert refused(answer)["code"] == "already_exists_differently"


def test_an_unknown_activation_code_enrols_nothing(ledger: ContractLedger) -> None:
    """A made-up secret is a problem with its code."""
    kid = ledger.activation("shop-a").split(".")[2]
    body = enrolment(f"cp1.{b64(secrets.token_bytes(16))}.{kid}", Key.new())
    answer = requests.post(ledger.url + "/v1/terminals", json=body, timeout=20)
    assert refused(answer)["code"] == "activation_unknown"


# The pack and the lookup.


def test_the_pack_is_a_plain_file_named_by_a_signed_manifest(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Manifest, file, ETag and 304; the file tells the till's own store and nobody else's."""
    answer = till.get("/v1/offline-pack")
    assert answer.status_code == 200
    manifest = read(answer.json()["manifest"], "carepos-manifest+jws", till.ledger_keys)
    assert set(manifest) == {"v", "kind", "terminal", "issued_at", "epoch", "file"}
    assert (manifest["kind"], manifest["terminal"]) == ("offline-pack", till.terminal)
    sha256 = manifest["file"]["sha256"]
    assert answer.headers["ETag"] == f'"{sha256}"'
    same = till.get("/v1/offline-pack", headers={"If-None-Match": answer.headers["ETag"]})
    assert same.status_code == 304 and same.content == b""
    file = till.get(f"/v1/offline-pack/{sha256}")
    assert manifest["file"] == {"sha256": digest(file.content), "length": len(file.content)}
    pack = file.json()
    assert (pack["v"], pack["terminal"], pack["store"]) == (1, till.terminal, "shop-a")
    assert pack["audience"] == ledger.audience
    dairy = next(found for found in pack["programmes"] if found["programme"] == "dairy")
    known = {name: value for name, value in dairy.items() if name in PROGRAMME}
    assert known == PROGRAMME
    assert set(dairy) == {*PROGRAMME, "programme", "rules_version", "stores"}
    assert dairy["stores"] == ["shop-a"]
    issuer = next(found for found in pack["issuers"] if found["iss"] == ISSUER)
    assert ledger.issuer_key.public.jwk["x"] in [key["x"] for key in issuer["keys"]]
    products = next(found for found in pack["product_lists"] if found["product_list"] == "relief")
    assert products["entries"][MILK] == "dairy"
    assert refused(till.get(f"/v1/offline-pack/{digest(b'other')}"))["status"] == 404


def test_a_store_outside_a_programme_sees_it_without_a_store(ledger: ContractLedger) -> None:
    """`stores` names the caller's store or nothing, never another shop's."""
    out = till_of(ledger, "shop-out")
    answer = out.get("/v1/offline-pack").json()["manifest"]
    manifest = read(answer, "carepos-manifest+jws", out.ledger_keys)
    pack = out.get(f"/v1/offline-pack/{manifest['file']['sha256']}").json()
    assert [found["stores"] for found in pack["programmes"] if found["programme"] == "dairy"] == [
        []
    ]


def test_a_lookup_tells_the_vouchers_of_the_holder(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """What is left comes first, then what expires first; a voucher is told as section 9 says."""
    soon, later = "2026-12-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z"
    empty = {**VALUE, "available_minor": 1, "expires_at": soon}
    there = visit(
        ledger, till, empty, {**VALUE, "expires_at": later}, {**FIXED, "expires_at": soon}
    )
    names = "v request terminal beneficiary bucket as_of visit_until rules vouchers"
    assert set(there.found) == set(names.split())
    assert there.found["rules"]["dairy"] >= 1
    assert len(there.found["beneficiary"]) == 22 and 0 <= there.found["bucket"] < 4096
    assert there.found["as_of"] < there.found["visit_until"]
    one = next(found for found in there.found["vouchers"] if found["available_minor"] == 1)
    spent = there.redeem([line()], [entry(one["voucher"], 1)])
    assert till.outcome(spent)["result"] == "posted"
    told = till.lookup(there.token)["vouchers"]
    assert [found["kind"] for found in told] == ["fixed_price", "value", "value"]
    assert [found["expires_at"] for found in told] == [soon, later, soon]
    given = {name: value for name, value in told[0].items() if name != "voucher"}
    assert given == {**FIXED, "expires_at": soon, "frozen": False}
    assert till.lookup(there.token)["bucket"] == there.found["bucket"]


def test_two_merchants_see_two_references_of_one_family(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """No two merchants can tell that they serve the same family."""
    sub = ledger.family(VALUE)
    here = till.lookup(care(ledger, sub))
    there = till_of(ledger, "shop-w").lookup(care(ledger, sub))
    assert here["beneficiary"] != there["beneficiary"]
    assert [found["voucher"] for found in here["vouchers"]] == [
        found["voucher"] for found in there["vouchers"]
    ]


def test_a_lookup_gives_at_most_twenty_vouchers(ledger: ContractLedger, till: ContractTill) -> None:
    """A signed answer stays small."""
    assert len(visit(ledger, till, *[VALUE] * 21).found["vouchers"]) == 20


def test_a_bad_token_is_a_403_at_lookup(ledger: ContractLedger, till: ContractTill) -> None:
    """The problem carries section 6's code, and nothing is signed about anybody."""
    answer = till.post("/v1/vouchers/lookup", {"token": "no care code"})
    assert refused(answer)["status"] == 403 and answer.json()["code"] == "token_malformed"


# Redeeming.


def test_a_redeem_is_posted_and_its_answer_can_be_asked_for(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """The voucher gives exactly what the allocation says, once."""
    there = visit(ledger, till)
    sale = there.milk(6_000)
    outcome = till.outcome(sale)
    voucher = {
        "voucher": there.voucher(),
        "amount_minor": 6_000,
        "quantity": 0,
        "unit": None,
        "from_allotment_minor": 0,
        "from_allotment_quantity": 0,
        "available_minor": 6_000,
        "available_quantity": 0,
    }
    assert outcome["result"] == "posted" and outcome["vouchers"] == [voucher]
    assert (outcome["currency"], outcome["amount_minor"]) == ("CNY", 6_000)
    names = "v result kind id terminal record_sha256 recorded_at epoch currency amount_minor"
    assert set(outcome) == {*names.split(), "vouchers"}
    assert till.attempt(sale.payload["id"]) == ("posted", [outcome])
    assert there.balance() == 6_000


def test_one_basket_takes_from_vouchers_of_every_kind(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Item, fixed price and value on three lines, and a reversal gives all of it back."""
    there = visit(ledger, till, ITEM, FIXED, VALUE)
    by_kind = {found["kind"]: found["voucher"] for found in there.found["vouchers"]}
    basket = [
        line(13_001, MILK, 2),
        line(2_999, RICE, 1_000, "g"),
        line(5_000, FORMULA),
    ]
    allocation = [
        entry(by_kind["item"], 6_501, quantity=1),
        entry(by_kind["value"], 500),
        entry(by_kind["fixed_price"], 2_399, line=2, quantity=1_000, beneficiary_minor=600),
        entry(by_kind["value"], 4_000, line=3),
    ]
    sale = there.redeem(basket, allocation)
    outcome = till.outcome(sale)
    assert outcome["result"] == "posted", outcome
    assert outcome["amount_minor"] == 13_400
    assert [found["voucher"] for found in outcome["vouchers"]] == sorted(by_kind.values())
    told = {found["voucher"]: found for found in outcome["vouchers"]}
    fixed = told[by_kind["fixed_price"]]
    assert (fixed["quantity"], fixed["unit"], fixed["available_quantity"]) == (1_000, "g", 3_000)
    assert told[by_kind["value"]]["available_minor"] == 7_500
    undone = till.outcome(till.reversal(sale))
    assert undone["result"] == "reversed" and undone["amount_minor"] == 13_400
    left = [found["available_minor"] + found["available_quantity"] for found in undone["vouchers"]]
    assert sorted(left) == [3, 4_000, 12_000]


def test_less_than_could_be_had_is_accepted(ledger: ContractLedger, till: ContractTill) -> None:
    """`check` judges what is asked and never reallocates."""
    there = visit(ledger, till)
    assert till.outcome(there.milk(1))["amount_minor"] == 1


@dataclass(frozen=True)
class Shop:
    """What a case may use."""

    ledger: ContractLedger
    till: ContractTill
    neighbour: ContractTill

    def visit(self, *vouchers: Json) -> Visit:
        return visit(self.ledger, self.till, *vouchers)


@dataclass(frozen=True)
class Tried:
    """A sale that will be refused, `at` a line, a voucher or nothing in particular."""

    there: Visit
    sale: Sent
    at: int | str | None = None


Case = Callable[[Shop], Tried]
CASES: dict[str, Case] = {}


def case(of: Case) -> Case:
    CASES[of.__name__] = of
    return of


def presented(shop: Shop, token: Callable[[str], str]) -> Tried:
    """Milk for a family that was looked up and then presents another token."""
    there = shop.visit()
    return Tried(there, replace(there, token=token(there.sub)).milk())


@case
def token_malformed(shop: Shop) -> Tried:
    return presented(shop, lambda _sub: "https://pay.example/qr/1234")


@case
def token_issuer(shop: Shop) -> Tried:
    return presented(shop, lambda sub: care(shop.ledger, sub, iss="https://nobody.test"))


@case
def token_signature(shop: Shop) -> Tried:
    return presented(shop, lambda sub: care(shop.ledger, sub, Key.new()))


@case
def token_audience(shop: Shop) -> Tried:
    return presented(shop, lambda sub: care(shop.ledger, sub, aud="urn:other"))


@case
def token_type(shop: Shop) -> Tried:
    return presented(shop, lambda sub: care(shop.ledger, sub, typ="JWT"))


@case
def token_expired(shop: Shop) -> Tried:
    at = int(shop.ledger.now().timestamp())
    return presented(shop, lambda sub: care(shop.ledger, sub, iat=at - 600, nbf=at - 600, exp=at))


@case
def token_not_yet_valid(shop: Shop) -> Tried:
    at = int(shop.ledger.now().timestamp()) + 600
    return presented(shop, lambda sub: care(shop.ledger, sub, iat=at, nbf=at, exp=at + 600))


@case
def token_replayed(shop: Shop) -> Tried:
    there = replace(visit(shop.ledger, shop.neighbour), till=shop.till)
    return Tried(there, there.milk())


@case
def token_assurance(shop: Shop) -> Tried:
    shop.ledger.programme("palm", amr_any=["carepos:palm"])
    there = shop.visit({**VALUE, "programme": "palm"})
    return Tried(there, there.milk(programme="palm"))


@case
def programme_not_started(shop: Shop) -> Tried:
    shop.ledger.programme("early", starts_at="2027-01-01T00:00:00.000Z")
    there = shop.visit({**VALUE, "programme": "early"})
    return Tried(there, there.milk(programme="early"))


@case
def programme_ended(shop: Shop) -> Tried:
    shop.ledger.programme("ended", ends_at="2026-11-01T00:00:00.000Z")
    voucher = {**VALUE, "programme": "ended", "expires_at": "2026-11-01T00:00:00.000Z"}
    there = shop.visit(voucher)
    return Tried(there, there.milk(programme="ended"))


@case
def programme_paused(shop: Shop) -> Tried:
    shop.ledger.programme("paused", paused=True)
    there = shop.visit({**VALUE, "programme": "paused"})
    return Tried(there, there.milk(programme="paused"))


@case
def store_not_in_programme(shop: Shop) -> Tried:
    there = visit(shop.ledger, till_of(shop.ledger, "shop-out"))
    return Tried(there, there.milk())


@case
def voucher_unknown(shop: Shop) -> Tried:
    nobody = "A" * 22
    there = shop.visit()
    return Tried(there, there.redeem([line()], [entry(nobody, 1)]), nobody)


@case
def voucher_not_yours(shop: Shop) -> Tried:
    other, ledger = shop.visit(), shop.ledger
    sub = ledger.family(VALUE, beside=other.sub)
    token = care(ledger, sub)
    there = Visit(shop.till, sub, token, shop.till.lookup(token))
    return Tried(there, there.redeem([line()], [entry(other.voucher(), 1)]), other.voucher())


@case
def voucher_frozen(shop: Shop) -> Tried:
    there = shop.visit()
    shop.ledger.freeze(there.voucher())
    return Tried(there, there.milk(), there.voucher())


@case
def voucher_not_started(shop: Shop) -> Tried:
    there = shop.visit({**VALUE, "starts_at": "2026-12-01T00:00:00.000Z"})
    return Tried(there, there.milk(), there.voucher())


@case
def voucher_expired(shop: Shop) -> Tried:
    there = shop.visit({**VALUE, "expires_at": "2026-11-01T00:00:00.000Z"})
    return Tried(there, there.milk(), there.voucher())


@case
def not_in_product_list(shop: Shop) -> Tried:
    there = shop.visit()
    basket = [line(), line(500, "cat:cigarettes")]
    return Tried(there, there.redeem(basket, [entry(there.voucher(), 500, line=2)]), 2)


@case
def category_not_covered(shop: Shop) -> Tried:
    there = shop.visit({**VALUE, "categories": ["grain"]})
    return Tried(there, there.milk(), 1)


@case
def price_below_fixed(shop: Shop) -> Tried:
    there = shop.visit(FIXED)
    part = entry(there.voucher(), 0, quantity=500, beneficiary_minor=300)
    return Tried(there, there.redeem([line(300, RICE, 500, "g")], [part]), 1)


@case
def price_above_cap(shop: Shop) -> Tried:
    there = shop.visit(ITEM)
    part = entry(there.voucher(), 7_000, quantity=1, beneficiary_minor=1)
    return Tried(there, there.redeem([line(7_001)], [part]), 1)


@case
def quantity_not_allowed(shop: Shop) -> Tried:
    there = shop.visit(FIXED)
    part = entry(there.voucher(), 840, quantity=700, beneficiary_minor=420)
    return Tried(there, there.redeem([line(1_260, RICE, 700, "g")], [part]), 1)


@case
def quota_exceeded(shop: Shop) -> Tried:
    shop.ledger.programme("two", quotas=[{"category": "dairy", "quantity": 2, "unit": "piece"}])
    there = shop.visit({**VALUE, "programme": "two"})
    basket = [line(3_000, MILK, 3)]
    return Tried(there, there.redeem(basket, [entry(there.voucher(), 2_001)], programme="two"), 1)


@case
def limit_exceeded(shop: Shop) -> Tried:
    shop.ledger.programme("small", limit_per_redemption_minor=5_999)
    there = shop.visit({**VALUE, "programme": "small"})
    return Tried(there, there.milk(programme="small"))


@case
def balance_insufficient(shop: Shop) -> Tried:
    there = shop.visit({**VALUE, "available_minor": 5_999})
    return Tried(there, there.milk(), there.voucher())


@case
def proposal_changed(shop: Shop) -> Tried:
    there = shop.visit()
    return Tried(there, there.milk(6_491), 1)


@pytest.mark.parametrize("code", CASES)
def test_a_refusal_is_a_signed_outcome_and_books_nothing(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill, code: str
) -> None:
    """Each code of section 6 that a test can bring about: decided, final, asked for again."""
    tried = CASES[code](Shop(ledger, till, neighbour))
    by, sale = tried.there.till, tried.sale
    outcome = by.outcome(sale)
    assert outcome["result"] == "refused", outcome
    assert outcome["refusal"] == {"code": code, "at": tried.at}
    assert "amount_minor" not in outcome and "vouchers" not in outcome
    assert by.outcome(sale) == outcome
    assert by.attempt(sale.payload["id"]) == ("refused", [outcome])


def test_the_first_refusal_of_the_list_is_answered(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Frozen on line 1 and unknown on line 2: the list's order, not the lines'."""
    there = visit(ledger, till)
    ledger.freeze(there.voucher())
    allocation = [entry(there.voucher(), 6_490), entry("B" * 22, 1, line=2)]
    outcome = till.outcome(there.redeem([line(), line()], allocation))
    assert outcome["refusal"] == {"code": "voucher_unknown", "at": "B" * 22}


def test_a_card_is_not_a_care_code_where_only_care_codes_do(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """A programme names the classes of token that it takes."""
    there = visit(ledger, till)
    at = int(ledger.now().timestamp())
    card = care(ledger, there.sub, care_class="card", exp=at + 86_400, amr=["carepos:card"])
    outcome = till.outcome(replace(there, token=card).milk())
    assert outcome["refusal"] == {"code": "token_assurance", "at": None}


def test_a_redeem_without_the_token_that_it_names_decides_nothing(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """The envelope lost its token or carries another: sent again with it, the sale is posted."""
    there = visit(ledger, till)
    sale = there.milk()
    for envelope in ({"record": sale.jws}, {**sale.envelope, "token": care(ledger, there.sub)}):
        problem = till.problem(envelope)
        assert (problem["code"], problem.get("field")) == ("malformed", "token")
    assert till.attempt(sale.payload["id"])[0] == "not_found"
    assert till.outcome(sale)["result"] == "posted"


def test_sealed_evidence_is_malformed_where_it_can_not_be_opened(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """It is no token that anybody named: nothing is decided, and nothing is held."""
    sale = visit(ledger, till).milk()
    assert till.problem({"record": sale.jws, "evidence": "AAAA"})["code"] == "malformed"


@pytest.mark.parametrize("changes", [{"programme": "nothing"}, {"currency": "USD"}])
def test_a_programme_or_currency_that_is_not_there_is_malformed(
    ledger: ContractLedger, till: ContractTill, changes: Json
) -> None:
    """The record can't have come from a pack of this ledger."""
    there = visit(ledger, till)
    assert till.problem(there.milk(**changes))["code"] == "malformed"
    assert there.balance() == 12_000


def test_another_holders_token_is_malformed(ledger: ContractLedger, till: ContractTill) -> None:
    """`beneficiary` is the merchant's reference of whoever the token is of."""
    there, other = visit(ledger, till), visit(ledger, till)
    assert till.problem(replace(there, token=other.token).milk())["code"] == "malformed"
    assert there.balance() == other.balance() == 12_000


def test_a_holder_without_vouchers_is_told_so(ledger: ContractLedger, till: ContractTill) -> None:
    """Nothing was ever issued to this `sub`: `voucher_unknown`."""
    answer = till.post("/v1/vouchers/lookup", {"token": care(ledger, "nobody")})
    assert (refused(answer)["status"], answer.json()["code"]) == (403, "voucher_unknown")


def test_claims_that_are_not_ours_are_passed_over(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Issuers put more into a token than is read here."""
    there = visit(ledger, till)
    token = care(ledger, there.sub, scope="food", address={"postal_code": 1})
    assert till.outcome(replace(there, token=token).milk(1))["result"] == "posted"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": 901}, "token_malformed"),
        ({"care_class": "twice"}, "token_malformed"),
        ({"amr": []}, "token_malformed"),
        ({"act": {"sub": "son"}}, "token_malformed"),
        ({"cnf": {"kid": "x"}}, "token_malformed"),
        ({"aud": ["urn:a"]}, "token_audience"),
        ({"nbf": 61}, "token_not_yet_valid"),
        ({"iat": 61, "exp": 661}, "token_not_yet_valid"),
    ],
)
def test_the_profile_of_a_token(
    ledger: ContractLedger, till: ContractTill, changes: Json, code: str
) -> None:
    """Section 8; times here are seconds from the ledger's clock."""
    at = int(ledger.now().timestamp())
    moved = {n: at + v if n in ("iat", "nbf", "exp") else v for n, v in changes.items()}
    there = visit(ledger, till)
    token = care(ledger, there.sub, **moved)
    assert till.outcome(replace(there, token=token).milk())["refusal"]["code"] == code


def test_a_token_may_be_a_minute_ahead(ledger: ContractLedger, till: ContractTill) -> None:
    """The issuer's clock is not the ledger's; the end of a token has no leeway."""
    at = int(ledger.now().timestamp()) + 60
    there = visit(ledger, till)
    token = care(ledger, there.sub, iat=at, nbf=at, exp=at + 900)
    assert till.outcome(replace(there, token=token).milk(1))["result"] == "posted"


# The same again.


def test_the_same_bytes_get_the_identical_outcome(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """A retry takes nothing, says the same, and is no replay even when the token is long dead."""
    there = visit(ledger, till)
    sale = there.milk(5_000)
    first = till.outcome(sale)
    assert till.outcome(sale) == first
    ledger.now.forward(hours=3)
    assert till.outcome(replace(sale, token=None)) == first
    again = Visit(till, there.sub, care(ledger, there.sub), there.found)
    assert again.balance() == 7_000


def test_the_same_content_under_another_digest_gets_the_same_result(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Made anew after the journal was lost: the stored result, bound to the new record."""
    there = visit(ledger, till)
    sale = there.milk(5_000)
    first = till.outcome(sale)
    anew = there.again(sale, checkout="S1-anew")
    again = till.outcome(anew)
    assert {**again, "record_sha256": sale.digest, "recorded_at": first["recorded_at"]} == first
    assert there.balance() == 7_000
    state, outcomes = till.attempt(sale.payload["id"])
    assert state == "posted" and outcomes == [first, again]


def test_a_refusal_is_kept_for_the_same_content_too(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """An id that was refused stays refused, whatever changed meanwhile."""
    there = visit(ledger, till)
    sale = there.milk(6_491)
    first = till.outcome(sale)
    again = till.outcome(there.again(sale, basket=[line(7_000)]))
    assert first["result"] == "refused" and again["refusal"] == first["refusal"]


def test_other_content_under_a_known_id_is_refused(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """An id names one redemption; the one that it names is untouched."""
    there = visit(ledger, till)
    sale = there.milk(5_000)
    first = till.outcome(sale)
    other = there.again(sale, allocation=[entry(there.voucher(), 4_000)])
    assert till.outcome(other)["refusal"] == {"code": "id_content_mismatch", "at": None}
    assert there.balance() == 7_000
    state, outcomes = till.attempt(sale.payload["id"])
    assert state == "posted" and outcomes[0] == first


def test_an_id_belongs_to_the_terminal_that_signed_it(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """Another terminal's id is answered exactly as one never seen, and may be used anew."""
    there = visit(ledger, till)
    sale = there.milk(5_000)
    assert till.outcome(sale)["result"] == "posted"
    state, [not_found] = neighbour.attempt(sale.payload["id"])
    assert state == not_found["result"] == "not_found"
    names = {"v", "result", "id", "terminal", "recorded_at", "epoch", "request"}
    assert set(not_found) == names
    unseen_state, [unseen] = neighbour.attempt(new_id(there.found["bucket"], ledger.now()))
    assert unseen_state == "not_found" and set(unseen) == names
    token = care(ledger, there.sub)
    twin = Visit(neighbour, there.sub, token, neighbour.lookup(token))
    theirs = twin.milk(1_000, identifier=sale.payload["id"])
    assert neighbour.outcome(theirs)["result"] == "posted"
    assert twin.balance() == 6_000


# Reversals.


def test_a_reversal_puts_back_what_was_posted_once(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Reversed, the amounts and the balances after; a second reversal moves nothing."""
    there = visit(ledger, till)
    sale = there.milk(5_000)
    posted = till.outcome(sale)
    undo = till.reversal(sale, "goods_kept")
    undone = till.outcome(undo)
    assert (undone["result"], undone["kind"]) == ("reversed", "reversal")
    assert (undone["currency"], undone["amount_minor"]) == ("CNY", 5_000)
    assert undone["vouchers"] == [{**posted["vouchers"][0], "available_minor": 12_000}]
    assert till.outcome(undo) == undone
    second_undo = till.outcome(till.reversal(sale))
    assert second_undo["result"] == "reversed" and second_undo["amount_minor"] == 0
    assert second_undo["currency"] is None and second_undo["vouchers"] == []
    assert there.balance() == 12_000
    state, outcomes = till.attempt(sale.payload["id"])
    assert state == "reversed" and outcomes == [posted, undone, second_undo]
    assert till.outcome(sale) == posted
    anew = till.outcome(there.again(sale, checkout="S1-anew"))
    assert (anew["result"], anew["kind"], anew["amount_minor"]) == ("reversed", "redeem", 0)


def test_a_reversal_names_the_record_that_came_first(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Of several records with one content the first is the one that is reversed."""
    there = visit(ledger, till)
    sale = there.milk(5_000)
    anew = there.again(sale, checkout="S1-anew")
    assert [till.outcome(sent)["result"] for sent in (sale, anew)] == ["posted", "posted"]
    assert till.outcome(till.reversal(anew))["refusal"]["code"] == "id_content_mismatch"
    assert till.outcome(till.reversal(sale))["amount_minor"] == 5_000


def test_a_tombstone_waits_for_the_record_that_it_names(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """A second reversal of another record is refused; nothing can be posted under the id."""
    there = visit(ledger, till)
    sale = there.milk(5_000)
    assert till.outcome(till.reversal(sale, "not_found"))["result"] == "reversed"
    wrong = till.outcome(till.reversal(sale, record_sha256=digest(b"another")))
    assert wrong["refusal"]["code"] == "id_content_mismatch"
    assert till.outcome(there.again(sale, checkout="S1-anew"))["result"] == "reversed"


def test_a_late_original_meets_its_tombstone(ledger: ContractLedger, till: ContractTill) -> None:
    """Reversed before it came: nothing is booked, with or without its token, for ever."""
    there = visit(ledger, till)
    sale = there.milk(5_000)
    undone = till.outcome(till.reversal(sale, "not_found"))
    assert (undone["result"], undone["currency"], undone["vouchers"]) == ("reversed", None, [])
    ledger.now.forward(hours=1)
    late = till.outcome(replace(sale, token=None))
    assert (late["result"], late["kind"], late["amount_minor"]) == ("reversed", "redeem", 0)
    state, outcomes = till.attempt(sale.payload["id"])
    assert state == "reversed" and outcomes == [undone, late]
    again = Visit(till, there.sub, care(ledger, there.sub), there.found)
    assert again.balance() == 12_000


def test_a_refused_sale_may_be_reversed_for_nothing(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """A till that never read the refusal reverses: nothing is booked."""
    there = visit(ledger, till)
    sale = there.milk(6_491)
    assert till.outcome(sale)["result"] == "refused"
    undone = till.outcome(till.reversal(sale))
    assert (undone["result"], undone["amount_minor"]) == ("reversed", 0)
    assert till.attempt(sale.payload["id"])[0] == "refused"
    assert there.balance() == 12_000


def test_a_reversal_of_another_record_is_refused(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """`record_sha256` pins the sale that is meant; a wrong one moves nothing."""
    there = visit(ledger, till)
    sale = there.milk(5_000)
    assert till.outcome(sale)["result"] == "posted"
    wrong = till.outcome(till.reversal(sale, record_sha256=digest(b"another")))
    assert wrong["refusal"] == {"code": "id_content_mismatch", "at": None}
    assert there.balance() == 7_000


# Visits.


def test_a_visit_lasts_fifteen_minutes_at_one_terminal(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """In it the holder may look up, be refused and redeem again; elsewhere it is a replay."""
    there = visit(ledger, till)
    assert till.outcome(there.milk(6_491))["result"] == "refused"
    elsewhere = neighbour.post("/v1/vouchers/lookup", {"token": there.token})
    assert (refused(elsewhere)["status"], elsewhere.json()["code"]) == (403, "token_replayed")
    assert till.outcome(there.milk(1_000))["result"] == "posted"
    ledger.now.forward(minutes=9)
    assert till.lookup(there.token)["visit_until"] == there.found["visit_until"]
    assert till.outcome(there.milk(1_000))["result"] == "posted"


def test_a_code_ends_in_its_visit_too(ledger: ContractLedger, till: ContractTill) -> None:
    """A visit does not make a token live longer."""
    there = visit(ledger, till)
    ledger.now.forward(minutes=10)
    assert till.outcome(there.milk())["refusal"] == {"code": "token_expired", "at": None}


def test_a_visit_is_over_after_fifteen_minutes(ledger: ContractLedger, till: ContractTill) -> None:
    """Not even a token that still lives begins another: first used a minute before its `iat`."""
    sub, at = ledger.family(VALUE), int(ledger.now().timestamp()) + 60
    token = care(ledger, sub, iat=at, nbf=at, exp=at + 900)
    there = Visit(till, sub, token, till.lookup(token))
    ledger.now.forward(minutes=15)
    assert till.outcome(there.milk(1))["result"] == "posted"
    ledger.now.forward(seconds=1)
    assert till.outcome(there.milk(2))["refusal"] == {"code": "token_replayed", "at": None}


def test_a_redeem_without_a_lookup_begins_the_visit(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """The first use binds the code, whatever it is used for."""
    before = visit(ledger, till)
    there = replace(before, token=care(ledger, before.sub))
    assert till.outcome(there.milk(1))["result"] == "posted"
    answer = neighbour.post("/v1/vouchers/lookup", {"token": there.token})
    assert refused(answer)["code"] == "token_replayed"


# Batches.


def test_a_batch_is_answered_item_by_item(ledger: ContractLedger, till: ContractTill) -> None:
    """Duplicates collapse, a bad item is a problem in its place, and the rest see each other."""
    there = visit(ledger, till)
    one, two, three = there.milk(5_000), there.milk(4_000), there.milk(4_000)
    bad: Json = {"record": one.jws[:-86] + "A" * 86}
    results = till.send(one, bad, two, one, {"record": 7}, three)
    assert till.believe(one, results[0])["vouchers"][0]["available_minor"] == 7_000
    assert check_problem(results[1]["problem"])["code"] in ("malformed", "signature_invalid")
    assert till.believe(two, results[2])["vouchers"][0]["available_minor"] == 3_000
    assert till.believe(one, results[3]) == till.believe(one, results[0])
    assert check_problem(results[4]["problem"])["code"] == "malformed"
    refusal = till.believe(three, results[5])["refusal"]
    assert refusal == {"code": "balance_insufficient", "at": there.voucher()}
    assert there.balance() == 3_000


def test_a_sale_and_its_reversal_in_one_batch(ledger: ContractLedger, till: ContractTill) -> None:
    """In the order of the items: posted and reversed, or a tombstone and its late original."""
    there = visit(ledger, till)
    sale = there.milk(5_000)
    undo = till.reversal(sale)
    results = till.send(sale, undo)
    assert till.believe(sale, results[0])["result"] == "posted"
    assert till.believe(undo, results[1])["amount_minor"] == 5_000
    sale = there.milk(5_000)
    undo = till.reversal(sale)
    results = till.send(undo, sale)
    assert till.believe(undo, results[0])["amount_minor"] == 0
    assert till.believe(sale, results[1])["result"] == "reversed"
    assert there.balance() == 12_000


@pytest.mark.parametrize("items", [[], None, [{}] * 501, {"record": "x"}])
def test_a_batch_of_the_wrong_size_is_malformed(ledger: ContractLedger, items: object) -> None:
    """1 to 500 items, else nothing is looked at."""
    answer = requests.post(ledger.url + "/v1/records", json={"items": items}, timeout=20)
    assert refused(answer)["code"] == "malformed"


# Problems of a record: nothing was decided, the id is not used up.


def test_a_bucket_of_another_family_is_malformed(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """The bucket in the id is the beneficiary's, and a record's own is its terminal's."""
    there = visit(ledger, till)
    wrong = new_id(there.found["bucket"] ^ 1, ledger.now())
    assert till.problem(there.milk(identifier=wrong))["code"] == "malformed"
    assert till.attempt(wrong)[0] == "not_found"
    own = till.own_id()
    other = own[:15] + f"{int(own[15:18], 16) ^ 1:03x}" + own[18:]
    start = till.write("start", other, {"software": "contract till"})
    assert till.problem(start)["code"] == "malformed"


@pytest.mark.parametrize(
    "kind", ["accept_offline", "void", "refund", "return_allotment", "key_change", "tomorrow"]
)
def test_an_unknown_kind_leaves_the_id_unused(
    ledger: ContractLedger, till: ContractTill, kind: str
) -> None:
    """A newer till's record is a problem of its own code; its id is not used up."""
    there = visit(ledger, till)
    identifier = new_id(there.found["bucket"], ledger.now())
    assert till.problem(till.write(kind, identifier, {}))["code"] == "unsupported_kind"
    assert till.attempt(identifier)[0] == "not_found"
    assert till.outcome(there.milk(1, identifier=identifier))["result"] == "posted"


def test_the_number_of_an_unknown_kind_stays_missing(ledger: ContractLedger) -> None:
    """Nothing was noted of it, so a day report waits until a ledger knows the kind."""
    till = till_of(ledger)
    unknown = till.write("tomorrow", till.own_id(), {})
    assert till.problem(unknown)["code"] == "unsupported_kind"
    assert till.problem(till.day_report())["missing"] == [unknown.payload["sequence"]]


def test_a_record_of_another_form_is_malformed(ledger: ContractLedger, till: ContractTill) -> None:
    """A name that is not defined, a float, a missing part of the envelope."""
    there = visit(ledger, till)
    sale = there.milk(1)
    more = till.sign({**sale.payload, "note": "hello"}, there.token)
    assert till.problem(more)["code"] == "malformed"
    text = b64(b'{"v":1.0}')
    assert till.problem({"record": f"{sale.jws.split('.')[0]}.{text}.{'A' * 86}"})["code"] in (
        "malformed",
        "signature_invalid",
    )
    assert till.problem({**sale.envelope, "cashier": "c01"})["code"] == "malformed"
    assert till.outcome(sale)["result"] == "posted"


# Keys change.


def test_a_terminal_has_a_certificate_for_the_key_that_asks(ledger: ContractLedger) -> None:
    """`GET /v1/terminal` names the terminal and the key that signed the read."""
    till, key = till_of(ledger), Key.new()
    assert certificate(till) == till.certificate
    assert till.outcome(till.key_change(key))["result"] == "posted"
    fresh = certificate(till.under(key))
    assert {**fresh, "issued_at": ""} == {
        **till.certificate,
        "key": key.public.kid,
        "issued_at": "",
    }
    assert certificate(till) == till.certificate
    assert refused(till.under(Key.new()).get("/v1/terminal"))["code"] == "unauthorised"


def certificate(till: ContractTill) -> Json:
    answer = till.get("/v1/terminal")
    assert answer.status_code == 200 and set(answer.json()) == {"certificate"}
    return read(answer.json()["certificate"], "carepos-certificate+jws", till.ledger_keys)


def test_both_keys_count_until_the_new_one_has_signed(ledger: ContractLedger) -> None:
    """Then the old key's later numbers, and its other journals, are `signature_invalid`; what it
    wrote before is still taken, and no number is lost."""
    till, key = till_of(ledger), Key.new()
    there = visit(ledger, till)
    early = there.milk(1_000)
    change = till.key_change(key)
    outcome = till.outcome(change)
    names = {"v", "result", "kind", "id", "terminal", "record_sha256", "recorded_at", "epoch"}
    assert outcome["result"] == "posted" and set(outcome) == names
    assert till.attempt(change.payload["id"]) == ("posted", [outcome])
    assert till.outcome(till.start())["result"] == "posted"
    fresh = till.under(key)
    elsewhere = replace(till, incarnation=secrets.token_hex(16), sequence=0, prev="")
    assert fresh.attempt(change.payload["id"])[0] == "posted"
    assert fresh.outcome(fresh.start())["result"] == "posted"
    assert till.problem(there.milk(1_000))["code"] == "signature_invalid"
    assert till.problem(elsewhere.start())["code"] == "signature_invalid"
    assert refused(till.get("/v1/terminal"))["code"] == "unauthorised"
    assert fresh.outcome(fresh.start())["result"] == "posted"  # at the number just refused
    assert fresh.outcome(early)["amount_minor"] == 1_000
    assert replace(there, till=fresh).balance() == 11_000
    assert fresh.outcome(fresh.day_report())["result"] == "posted"


def test_a_change_that_is_sent_again_has_its_outcome(ledger: ContractLedger) -> None:
    """Also after the new key has closed the old one that signed it."""
    till, key = till_of(ledger), Key.new()
    change = till.key_change(key)
    first = till.send(change)[0]["outcome"]
    assert till.send(change, change) == [{"outcome": first}] * 2
    fresh = till.under(key)
    assert fresh.outcome(fresh.start())["result"] == "posted"
    assert fresh.send(change)[0] == {"outcome": first}


def test_what_was_decided_before_the_close_keeps_its_outcome(ledger: ContractLedger) -> None:
    """A record of the old key at a number behind the new key's first: once decided, for ever."""
    till, key = till_of(ledger), Key.new()
    assert till.outcome(till.key_change(key))["result"] == "posted"
    skipped = till.under(key)
    till.sequence += 2  # beside each other they would be a fork
    late = till.start()
    stored = till.send(late)[0]
    assert "outcome" in stored and till.outcome(skipped.start())["result"] == "posted"
    assert till.send(late)[0] == stored
    assert till.problem(till.start())["code"] == "signature_invalid"


def test_records_of_one_batch_see_each_other_close_a_key(ledger: ContractLedger) -> None:
    """What stands before the new key's first record counts, what stands behind it does not."""
    till, key = till_of(ledger), Key.new()
    assert till.outcome(till.key_change(key))["result"] == "posted"
    before = till.start()
    fresh = till.under(key)
    first, late, late_too = fresh.start(), till.start(), till.start()
    answers = till.send(before, first, late, late_too)
    assert [list(each) for each in answers] == [["outcome"]] * 2 + [["problem"]] * 2
    assert {each["problem"]["code"] for each in answers[2:]} == {"signature_invalid"}


def test_a_key_that_is_no_new_one_is_malformed(
    ledger: ContractLedger, neighbour: ContractTill
) -> None:
    """Another terminal's, the one in use, one from before; and a proof that is none."""
    till, key = till_of(ledger), Key.new()
    for other in (neighbour.key, till.key):
        assert till.problem(till.key_change(other))["code"] == "malformed"
    for proof in ({"sequence": till.sequence}, {"terminal": neighbour.terminal}, {"v": 2}):
        assert till.problem(till.key_change(key, **proof))["code"] == "malformed"
    unproved = till.write("key_change", till.own_id(), till.announcing(key, by=till.key))
    assert till.problem(unproved)["code"] == "malformed"
    assert refused(till.under(key).get("/v1/terminal"))["code"] == "unauthorised"
    assert till.outcome(till.key_change(key))["result"] == "posted"
    fresh = till.under(key)
    assert fresh.problem(fresh.key_change(till.key))["code"] == "malformed"


def test_a_key_that_was_announced_is_nobody_elses(ledger: ContractLedger) -> None:
    """Neither by a change of another terminal nor by an enrolment."""
    till, other, key = till_of(ledger), till_of(ledger), Key.new()
    code = ledger.activation("shop-a")
    assert till.outcome(till.key_change(key))["result"] == "posted"
    assert other.problem(other.key_change(key))["code"] == "malformed"
    answer = requests.post(ledger.url + "/v1/terminals", json=enrolment(code, key), timeout=20)
    assert refused(answer)["code"] == "already_exists_differently"


def test_of_two_announced_keys_the_first_that_signs_counts(ledger: ContractLedger) -> None:
    """The other one never signs, and the same key may be announced again."""
    till, one, two = till_of(ledger), Key.new(), Key.new()
    for key in (one, two, one):
        assert till.outcome(till.key_change(key))["result"] == "posted"
    fresh, dropped = till.under(one), till.under(two)
    assert fresh.outcome(fresh.start())["result"] == "posted"
    dropped.sequence += 1
    assert till.problem(dropped.start())["code"] == "signature_invalid"
    assert refused(dropped.get("/v1/terminal"))["code"] == "unauthorised"
    assert fresh.problem(fresh.key_change(two))["code"] == "malformed"


def test_keys_change_one_after_another(ledger: ContractLedger) -> None:
    """Each by the one before it; the first one's early records still count at the end."""
    till = till_of(ledger)
    there = visit(ledger, till)
    early, last = there.milk(2_000), till
    for _ in range(3):
        key = Key.new()
        assert last.outcome(last.key_change(key))["result"] == "posted"
        before, last = last, last.under(key)
        assert last.outcome(last.start())["result"] == "posted"
        assert before.problem(before.key_change(Key.new()))["code"] == "signature_invalid"
    assert last.outcome(early)["result"] == "posted"
    assert last.outcome(last.reversal(early))["amount_minor"] == 2_000


def test_a_suspended_terminal_changes_no_key(ledger: ContractLedger) -> None:
    """It is not decided, and once the terminal is let in again it is; a revoked one's never."""
    till, key = till_of(ledger), Key.new()
    ledger.set_terminal(till.terminal, "suspended")
    change = till.key_change(key)
    assert till.problem(change)["code"] == "terminal_suspended"
    assert refused(till.under(key).get("/v1/terminal"))["code"] == "unauthorised"
    ledger.set_terminal(till.terminal, "active")
    assert till.outcome(change)["result"] == "posted"
    ledger.set_terminal(till.terminal, "revoked")
    assert till.outcome(till.key_change(Key.new()))["result"] == "held"
    assert "outcome" in till.send(change)[0]


def test_an_activation_code_stays_the_enrolled_keys(ledger: ContractLedger) -> None:
    """After a change the code gives its key's certificate as before, and none for the new key."""
    code, old, key = ledger.activation("shop-a"), Key.new(), Key.new()
    url = ledger.url + "/v1/terminals"
    certified = requests.post(url, json=enrolment(code, old), timeout=20).json()["certificate"]
    _, keys = trusted_keys(ledger.url, code.split(".")[2])
    payload = read(certified, "carepos-certificate+jws", keys)
    till = ContractTill(ledger.url, ledger.now, old, payload, keys)
    assert "outcome" in till.send(till.start())[0]
    assert till.outcome(till.key_change(key))["result"] == "posted"
    again = requests.post(url, json=enrolment(code, old), timeout=20).json()["certificate"]
    assert read(again, "carepos-certificate+jws", keys) == payload
    answer = requests.post(url, json=enrolment(code, key), timeout=20)
    assert refused(answer)["code"] == "activation_used"


def test_a_basket_of_41_lines_is_too_large(ledger: ContractLedger, till: ContractTill) -> None:
    """A problem, so that the till may split the basket under the same id."""
    there = visit(ledger, till)
    sale = there.redeem([line()] * 41, [entry(there.voucher(), 1)])
    assert till.problem(sale)["code"] == "basket_too_large"


def test_a_record_is_believed_from_its_own_terminal_only(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """An unknown key and another terminal's are `signature_invalid`, and nothing is booked."""
    there = visit(ledger, till)
    sale = there.milk(1)
    by_neighbour = neighbour.sign(sale.payload, there.token)
    assert till.problem(by_neighbour)["code"] == "signature_invalid"
    stranger = replace(till, key=Key.new()).sign(sale.payload, there.token)
    assert till.problem(stranger)["code"] == "signature_invalid"
    assert till.attempt(sale.payload["id"])[0] == "not_found"


def test_two_records_at_one_place_of_the_chain_are_a_fork(ledger: ContractLedger) -> None:
    """Two copies of a till: the later record is held, and so is all that comes behind it; what was
    decided before is told as before, and nothing is read any more."""
    till = till_of(ledger)
    there = visit(ledger, till)
    sale = there.milk(1_000)
    posted = till.outcome(sale)
    assert posted["result"] == "posted"
    identifier = new_id(there.found["bucket"], ledger.now())
    twin = till.sign({**sale.payload, "id": identifier}, there.token)
    held_as(till, twin, "terminal_forked")
    for sent in (there.milk(100), till.reversal(sale), till.start(), till.day_report()):
        held_as(till, sent, "terminal_forked")
    assert till.outcome(sale) == posted
    assert refused(till.get(f"/v1/records/{identifier}"))["code"] == "unauthorised"
    [voucher] = till_of(ledger).lookup(care(ledger, there.sub))["vouchers"]
    assert voucher["available_minor"] == 11_000


def held_as(till: ContractTill, sent: Sent, reason: str) -> None:
    """A record is held, says exactly why, and sent again has the very same outcome."""
    results = till.send(sent, sent)
    outcome = till.believe(sent, results[0])
    names = {"v", "result", "kind", "id", "terminal", "record_sha256", "recorded_at", "epoch"}
    assert set(outcome) == names | {"reason"}
    assert (outcome["result"], outcome["reason"]) == ("held", reason)
    assert results == [results[0]] * 2 == till.send(sent, sent)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "the later number first"])
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
def test_a_link_to_another_record_is_a_fork(
    ledger: ContractLedger, order: tuple[int, int], together: bool
) -> None:
    """`prev` is not the digest of the record at the number before, or of the one behind it: the
    record that comes second is held, what came before it is decided."""
    till = till_of(ledger)
    sent = till.start(), till.start()
    wrong = till.sign({**sent[1].payload, "prev": sent[1].digest})
    pair = [(sent[0], wrong)[place] for place in order]
    results = till.send(*pair) if together else [till.send(each)[0] for each in pair]
    answers = [till.believe(each, result) for each, result in zip(pair, results, strict=True)]
    assert [each["result"] for each in answers] == ["posted", "held"]
    assert answers[1]["reason"] == "terminal_forked"
    held_as(till, till.start(), "terminal_forked")


def test_an_incarnation_begins_with_its_digest(ledger: ContractLedger) -> None:
    """Number 1 with another `prev` is `malformed`, which is no fork: nothing is noted."""
    till = replace(till_of(ledger), incarnation=secrets.token_hex(16), sequence=0, prev="")
    start = till.start()
    other = till.sign({**start.payload, "prev": start.digest})
    assert till.problem(other)["code"] == "malformed"
    assert till.outcome(start)["result"] == "posted"
    assert till.outcome(till.start())["result"] == "posted"


def test_a_suspended_terminal_forks_too(ledger: ContractLedger) -> None:
    """Then it is let in no more: what it sends is held."""
    till = till_of(ledger)
    ledger.set_terminal(till.terminal, "suspended")
    one = till.start()
    twin = till.sign({**one.payload, "id": till.own_id()})
    assert till.problem(one)["code"] == "terminal_suspended"
    held_as(till, twin, "terminal_forked")
    held_as(till, one, "terminal_forked")


def test_a_key_whose_place_was_taken_forks_no_terminal(ledger: ContractLedger) -> None:
    """T-1: whoever copied the old key can't stop the till with a number from before the change:
    that record alone is held."""
    till, key = till_of(ledger), Key.new()
    sale = till.start()
    assert till.outcome(sale)["result"] == "posted"
    assert till.outcome(till.key_change(key))["result"] == "posted"
    fresh = till.under(key)
    assert fresh.outcome(fresh.start())["result"] == "posted"
    copied = till.sign({**sale.payload, "id": till.own_id()})
    held_as(till, copied, "terminal_forked")
    assert fresh.outcome(fresh.start())["result"] == "posted"
    assert fresh.outcome(fresh.day_report())["result"] == "posted"


def test_a_suspended_terminal_gets_stored_outcomes_and_may_reverse(ledger: ContractLedger) -> None:
    """What was decided is told and what must be undone is undone; nothing new is sold."""
    till = till_of(ledger)
    there = visit(ledger, till)
    sale, next_sale = there.milk(5_000), there.milk(1_000)
    posted = till.outcome(sale)
    ledger.set_terminal(till.terminal, "suspended")
    assert till.outcome(sale) == posted
    problem = till.problem(next_sale)
    assert (problem["code"], problem["status"]) == ("terminal_suspended", 403)
    lookup = till.post("/v1/vouchers/lookup", {"token": there.token})
    assert refused(lookup)["code"] == "terminal_suspended"
    assert till.get("/v1/offline-pack").status_code == 200
    assert till.attempt(sale.payload["id"]) == ("posted", [posted])
    assert till.outcome(till.reversal(sale))["amount_minor"] == 5_000
    ledger.set_terminal(till.terminal, "active")
    assert till.outcome(next_sale)["result"] == "posted"


def test_a_revoked_terminal_redeems_no_more(ledger: ContractLedger) -> None:
    """Not even with a family that stands before it: what it sends is held for people to decide."""
    till = till_of(ledger)
    there = visit(ledger, till)
    sold, sale = there.milk(1_000), there.milk(1_000)
    posted = till.outcome(sold)
    ledger.set_terminal(till.terminal, "revoked")
    for sent in (sale, till.reversal(sold), till.start()):
        held_as(till, sent, "terminal_revoked")
    bare = Sent(sale.jws, sale.payload)
    assert till.send(bare) == till.send(sale)
    assert till.outcome(sold) == posted
    assert refused(till.get("/v1/offline-pack"))["code"] == "unauthorised"


def test_a_day_report_waits_for_what_is_missing(ledger: ContractLedger) -> None:
    """409 with the numbers that the ledger has not seen; posted once they are there."""
    till = till_of(ledger)
    there = visit(ledger, till)
    sales = [there.milk(1), there.milk(2)]
    report = till.day_report()
    problem = till.problem(report)
    assert (problem["code"], problem["status"]) == ("sequence_gap", 409)
    assert problem["missing"] == [sale.payload["sequence"] for sale in sales]
    assert till.attempt(report.payload["id"])[0] == "not_found"
    for sale in sales:
        assert till.outcome(sale)["result"] == "posted"
    outcome = till.outcome(report)
    assert outcome["result"] == "posted"
    assert not {"currency", "amount_minor", "vouchers"} & set(outcome)
    assert till.attempt(report.payload["id"]) == ("posted", [outcome])


# Read tokens and bodies.


def test_a_clock_that_is_off_is_told_the_time(ledger: ContractLedger, till: ContractTill) -> None:
    """401 with the ledger's time, signed and bound to the read; with it the read succeeds."""
    jti = b64(secrets.token_bytes(16))
    late = int(ledger.now().timestamp()) - 90
    answer = till.get("/v1/offline-pack", iat=late, jti=jti)
    problem = refused(answer)
    assert (problem["code"], problem["status"]) == ("clock_skew", 401)
    time = read(problem["server_time"], "carepos-time+jws", till.ledger_keys)
    assert set(time) == {"v", "server_time", "request"}
    assert time["request"] == jti and time["server_time"][:16] == f"{ledger.now():%Y-%m-%dT%H:%M}"
    assert till.get("/v1/offline-pack", iat=late + 40).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "t-00000000"},
        {"aud": "another"},
        {"htm": "POST"},
        {"htu": "/v1/settlements"},
        {"jti": "short"},
        {"iat": "1"},
        {"more": 1},
        {"body_sha256": digest(b"")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_read_token_is_for_one_request_of_one_terminal(
    ledger: ContractLedger, till: ContractTill, changes: Json
) -> None:
    """Every claim is looked at: 401, and nothing is told."""
    assert refused(till.get("/v1/offline-pack", **changes))["code"] == "unauthorised"


def test_a_read_wants_a_token_of_a_known_key(ledger: ContractLedger, till: ContractTill) -> None:
    """None, another scheme, and a stranger's: 401."""
    url = ledger.url + "/v1/offline-pack"
    for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer x"}):
        assert refused(requests.get(url, headers=headers, timeout=20))["status"] == 401
    stranger = replace(till, key=Key.new())
    assert refused(stranger.get("/v1/offline-pack"))["status"] == 401


def test_a_read_token_covers_the_body(ledger: ContractLedger, till: ContractTill) -> None:
    """A token for another body is 401."""
    there = visit(ledger, till)
    answer = till.post("/v1/vouchers/lookup", {"token": there.token}, body_sha256=digest(b"{}"))
    assert refused(answer)["status"] == 401


def test_bodies_are_strict_json_of_a_known_size(ledger: ContractLedger) -> None:
    """Other media types are 415, more than 2 MiB 413, lax JSON 400."""
    url, media = ledger.url + "/v1/records", {"Content-Type": "application/json"}
    text = requests.post(url, "x", headers={"Content-Type": "text/plain"}, timeout=20)
    assert refused(text)["status"] == 415
    large = requests.post(url, b" " * (2 * 1024 * 1024 + 1), headers=media, timeout=20)
    assert refused(large)["status"] == 413
    for body in (b'{"items":[],"items":[]}', b'{"items":[1.0]}', b"\xef\xbb\xbf{}", b"[]", b""):
        answer = requests.post(url, body, headers=media, timeout=20)
        assert refused(answer)["code"] == "malformed" and answer.status_code == 400


def test_what_is_not_there_is_a_404_problem(ledger: ContractLedger, till: ContractTill) -> None:
    """Problems everywhere, never a page for people."""
    assert refused(requests.get(ledger.url + "/v1/nothing", timeout=20))["status"] == 404
    assert refused(requests.get(ledger.url + "/v1/records", timeout=20))["status"] == 405
    assert refused(till.get("/v1/records/no-id"))["code"] == "malformed"
    assert refused(till.get("/v1/settlements/dairy/999"))["status"] == 404


# Settlement.


def manifest_of(till: ContractTill, listed: Json) -> Json:
    return read(listed["manifest"], "carepos-manifest+jws", till.ledger_keys)


def test_settlement_files_and_their_chain(ledger: ContractLedger) -> None:
    """Every committed entry once, in order; manifests name file, sums and what went before."""
    ledger.programme("settled")
    ledger.fund("settled", "dairy-fund", 50_000_000)
    till = till_of(ledger, "shop-l")
    there = visit(ledger, till, {**VALUE, "programme": "settled"})
    first, second_sale = (there.milk(part, programme="settled") for part in (5_000, 2_001))
    undo = till.reversal(second_sale)
    outcomes = [till.outcome(sent) for sent in (first, second_sale, undo)]
    refusal = till.outcome(there.milk(6_491, programme="settled"))
    assert refusal["result"] == "refused"
    ledger.close("settled")
    ledger.close("settled")
    undo_first = till.reversal(first)
    assert till.outcome(undo_first)["result"] == "reversed"
    third = there.milk(1_000, programme="settled")
    assert till.outcome(third)["result"] == "posted"
    ledger.close("settled")

    listed = till.get("/v1/settlements").json()["settlements"]
    assert [(found["programme"], found["batch_no"]) for found in listed] == [
        ("settled", 1),
        ("settled", 2),
    ]
    after = till.get("/v1/settlements?after=settled:1").json()["settlements"]
    assert [found["batch_no"] for found in after] == [2]
    one, two = (manifest_of(till, found) for found in listed)
    assert set(one) == set(
        "v kind merchant programme currency batch_no closed_at epoch file redeemed reversed"
        " net_minor funders previous".split()
    )
    start = digest(b"carepos/settlement/v1|li|settled")
    assert one["previous"] == start
    assert two["previous"] == unread(listed[0]["manifest"], "carepos-manifest+jws").digest
    assert one["redeemed"] == {"count": 2, "amount_minor": 7_001}
    assert one["reversed"] == {"count": 1, "amount_minor": -2_001}
    assert (one["net_minor"], two["net_minor"]) == (5_000, -4_000)
    given = {"dairy-fund": 0, "red-cross": 0}
    for manifest, total in ((one, 5_000), (two, 1_000)):
        for part in manifest["funders"]:
            given[part["funder"]] += part["amount_minor"]
        assert [given["dairy-fund"], given["red-cross"]] == split(total, [1, 2])

    answer = till.get("/v1/settlements/settled/1")
    file = answer.content
    assert one["file"] == {
        "name": "settlement-li-settled-000001.csv",
        "sha256": digest(file),
        "length": len(file),
        "rows": 3,
    }
    assert file.endswith(b"\n") and b"\r" not in file
    rows = list(csv.DictReader(io.StringIO(file.decode())))
    number = till.certificate["terminal_no"]
    sold = [receipt_no(number, sale.payload["sequence"]) for sale in (first, second_sale)]
    wanted = [
        (first, outcomes[0], sold[0], 5_000),
        (second_sale, outcomes[1], sold[1], 2_001),
        (undo, outcomes[2], sold[1], -2_001),
    ]
    assert rows == [
        {
            "line_no": str(line_no),
            "kind": sent.payload["kind"],
            "receipt_no": receipt,
            "incarnation": till.incarnation,
            "terminal": till.terminal,
            "store": "shop-l",
            "occurred_at": sent.payload["occurred_at"],
            "recorded_at": outcome["recorded_at"],
            "amount_minor": str(amount),
            "currency": "CNY",
        }
        for line_no, (sent, outcome, receipt, amount) in enumerate(wanted, 1)
    ]


def test_a_merchant_sees_its_own_settlements_only(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """The merchant comes from the terminal's registration."""
    there = visit(ledger, till_of(ledger, "shop-w"))
    assert there.till.outcome(there.milk(1))["result"] == "posted"
    ledger.close("dairy")
    own = there.till.get("/v1/settlements").json()["settlements"]
    assert [manifest_of(there.till, found)["merchant"] for found in own] == ["wang"]
    other = [
        manifest_of(till, found) for found in till.get("/v1/settlements").json()["settlements"]
    ]
    assert {manifest["merchant"] for manifest in other} <= {"zhou"}
