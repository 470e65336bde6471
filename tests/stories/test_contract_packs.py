"""What any ledger sets aside for outages, and tells of it: docs/offline.md sections 4 and 5.

Every test runs over HTTP, against a ledger written from the pages alone and the product's.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.contract_ledgers import FIXED, ISSUER, ITEM, VALUE, ContractLedger, care
from tests.contract_offline import HALF, SOON, Alone, alone, at_home, fetched, pack
from tests.contract_till import RICE, ContractTill, refused
from tests.contract_visit import LEDGERS, entry, line, till_of
from tests.second_signing import Json, b64, digest, new_id, utc
from tests.vectors import second_offline


@pytest.fixture(scope="module", params=LEDGERS)
def made(request: pytest.FixtureRequest) -> Iterator[ContractLedger]:
    with LEDGERS[request.param]() as ledger:
        ledger.programme("dairy")
        yield ledger


@pytest.fixture
def ledger(made: ContractLedger, programme: str) -> ContractLedger:
    made.programme(programme, offline=HALF, classes=["once", "card"])
    return made


@pytest.fixture
def programme() -> str:
    """One of its own for each test, so that what is set aside is this test's."""
    return "p-" + secrets.token_hex(6)


@pytest.fixture
def till(ledger: ContractLedger) -> ContractTill:
    return till_of(ledger)


def vouchers(there: Alone) -> Json:
    """By voucher, what the newest pack says is left and set aside of it."""
    found = pack(there.till).household(there.sub)
    assert found is not None
    return {each[0]: (each[2], each[3], [tuple(a[:3]) for a in each[5]]) for each in found["v"]}


def set_aside(there: Alone) -> list[tuple[Json, ...]]:
    """What the newest pack says is set aside of the first voucher: number, money, quantity and both
    dates."""
    newest = pack(there.till)
    found = newest.household(there.sub)
    assert found is not None
    [mine] = [each for each in found["v"] if each[0] == there.voucher()]
    dates = newest.file["households"]["dates"]
    return [(*each[:3], *dates[each[3]]) for each in mine[5]]


def test_a_pack_with_households_is_found_by_its_holders_alone(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """Sixty-four segments, all of them fetched; whoever has (iss, sub) opens one entry with it."""
    there = alone(ledger, till, programme)
    told = there.pack.manifest
    assert set(told) == {"v", "kind", "terminal", "issued_at", "epoch", "file"}
    assert (told["kind"], told["terminal"]) == ("offline-pack", till.terminal)
    file = there.pack.file
    assert {"evidence_key", "allotted", "households", "programmes", "issuers"} <= set(file)
    assert second_offline.read_allotted(file["allotted"]) is not None
    households = file["households"]
    assert set(households) == {"incarnation", "count", "kinds", "dates", "segments"}
    assert households["incarnation"] == till.incarnation and len(households["segments"]) == 64
    sealed = [each["households"] for each in there.pack.segments]
    assert households["count"] == sum(map(len, sealed))
    for number, entries in enumerate(sealed):
        assert all(second_offline.segment(tag) == number for tag in entries)
    found = there.household
    lookup = till.lookup(there.token)
    assert (found["b"], found["k"]) == (lookup["beneficiary"], lookup["bucket"])
    first = found["v"][0]
    kind = households["kinds"][first[1]]
    seen = next(each for each in lookup["vouchers"] if each["voucher"] == first[0])
    own = ("voucher", "frozen", "available_minor", "available_quantity")
    assert kind == {name: value for name, value in seen.items() if name not in own}
    assert there.pack.household("A" * 22) is None
    assert there.pack.household(there.sub, "https://other.test") is None


def test_half_of_what_a_voucher_holds_is_set_aside(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """For the till that asks; it sees both parts together, another sees what is free."""
    at = utc(ledger.now())
    there = alone(ledger, till, programme)
    [spend_until, reclaim_after] = there.pack.file["households"]["dates"][0]
    assert at < spend_until < reclaim_after
    assert vouchers(there)[there.voucher()] == (6_000, 0, [(1, 6_000, 0)])
    assert there.balance() == 12_000 and there.balance(till_of(ledger)) == 6_000


def test_asking_again_sets_nothing_more_aside(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """The same allotment, never with another amount; later dates, and never more than the share."""
    there = alone(ledger, till, programme)
    ledger.now.forward(hours=1)
    again = pack(till)
    assert vouchers(there)[there.voucher()] == (6_000, 0, [(1, 6_000, 0)])
    dates = [each.file["households"]["dates"][0] for each in (there.pack, again)]
    assert dates[0] < dates[1]
    second_till = till_of(ledger)
    other = replace(there, pack=pack(second_till))
    assert [each[5] for each in other.household["v"]] == [[], []]


def test_a_voucher_that_is_used_up_crowds_nothing_out(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """Of more than twenty vouchers those with something left stand in the pack first, as in a
    lookup: else a family of many months could not be served in an outage."""
    old = [
        {
            **VALUE,
            "programme": programme,
            "available_minor": 1,
            "expires_at": f"2027-05-{day:02d}T00:00:00.000Z",
        }
        for day in range(1, 21)
    ]
    sub = ledger.family(*old, {**SOON, "programme": programme})
    token = care(ledger, sub)
    found = till.lookup(token)
    for each in found["vouchers"]:
        sale = till.redeem(
            found, token, [line(1)], [entry(each["voucher"], 1)], programme=programme
        )
        assert till.outcome(sale)["result"] == "posted"
    household = pack(till).household(sub)
    assert household is not None and len(household["v"]) == 20
    assert household["v"][0][2:] == [6_000, 0, 0, [[1, 6_000, 0, 0]]]
    seen = [each["voucher"] for each in till.lookup(token)["vouchers"]]
    assert [each[0] for each in household["v"]] == seen


def test_pieces_are_set_aside_whole_with_what_they_may_cost(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """One of three pieces, and of 4 kg as much as the share allows."""
    dates = {"expires_at": SOON["expires_at"], "categories": ["dairy"]}
    there = alone(
        ledger, till, programme, {**ITEM, **dates}, {**FIXED, **dates, "categories": ["grain"]}
    )
    found = there.household["v"]
    kinds = there.pack.file["households"]["kinds"]
    by_kind = {kinds[each[1]]["kind"]: each for each in found}
    assert by_kind["item"][2:4] == [0, 2]
    assert by_kind["item"][5][0][:3] == [1, 7_000, 1]
    assert by_kind["fixed_price"][2:4] == [0, 2_000]
    assert by_kind["fixed_price"][5][0][:3] == [1, 4_800, 2_000]


def test_only_programmes_that_work_offline_set_aside(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """Nor for families whose home is another store."""
    name = "o-" + secrets.token_hex(6)
    ledger.programme(name)
    sub = at_home(ledger, till, name)
    assert pack(till).household(sub) is None


def test_a_home_follows_where_a_family_shops(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """It stands in the packs of that store's tills, and of no other store's where nothing is set
    aside for it."""
    there = alone(ledger, till, programme)
    elsewhere = till_of(ledger, "shop-w")
    assert pack(elsewhere).household(there.sub) is None
    token = care(ledger, there.sub)
    found = elsewhere.lookup(token)
    bought = elsewhere.redeem(
        found, token, [line(100)], [entry(there.voucher(), 100)], programme=programme
    )
    assert elsewhere.outcome(bought)["result"] == "posted"
    moved = pack(elsewhere).household(there.sub)
    assert moved is not None and moved["b"] != there.household["b"]
    again = secrets.token_hex(16)
    assert pack(replace(till, incarnation=again)).household(there.sub) is None


def test_what_is_set_aside_where_a_family_shopped_before_can_still_be_given_out_there(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """Nobody else can until `reclaim_after`: so the pack tells it on, with the dates that it had,
    and nothing more is set aside there, nor told of what others may spend."""
    there = alone(ledger, till, programme)
    [before] = set_aside(there)
    elsewhere, token = till_of(ledger, "shop-w"), care(ledger, there.sub)
    found = elsewhere.lookup(token)
    bought = elsewhere.redeem(
        found, token, [line(100)], [entry(there.voucher(), 100)], programme=programme
    )
    assert elsewhere.outcome(bought)["result"] == "posted"
    ledger.now.forward(hours=1)
    assert set_aside(there) == [before]
    assert [told[:2] for told in vouchers(there).values()] == [(0, 0)]
    ledger.now.forward(seconds=HALF["spend_s"] + HALF["upload_s"])
    assert pack(till).household(there.sub) is None


def test_what_has_not_changed_is_not_fetched_again(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """The delta: an entry keeps its bytes, so only the segment of who bought something is new."""
    there = alone(ledger, till, programme)
    before = {each["sha256"] for each in pack(till).file["households"]["segments"]}
    again = {each["sha256"] for each in pack(till).file["households"]["segments"]}
    assert before == again
    found = till.lookup(there.token)
    sale = till.redeem(
        found, there.token, [line(100)], [entry(there.voucher(), 100)], programme=programme
    )
    assert till.outcome(sale)["result"] == "posted"
    after = pack(till).file["households"]["segments"]
    assert len([each for each in after if each["sha256"] not in before]) == 1


def test_a_locked_card_is_in_no_pack(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """A household's printed cards stand there by the head of their name and of their verifier."""
    sub = at_home(ledger, till, programme)
    jti_sha256, verifier = digest(b"card"), digest(b"verifier")
    jti = b64(secrets.token_bytes(16))
    jti_sha256 = digest(jti.encode())
    ledger.put_card(ISSUER, sub, jti_sha256, verifier)
    household = pack(till).household(sub)
    assert household is not None and household["c"] == [[jti_sha256[:8], verifier[:22]]]
    at = int(ledger.now().timestamp())
    card = care(ledger, sub, jti=jti, care_class="card", exp=at + 86_400, amr=["carepos:card"])
    for _ in range(5):
        till.refused_lookup(card, b64(secrets.token_bytes(32)))
    household = pack(till).household(sub)
    assert household is not None and household["c"] == []


def test_who_may_have_which_file(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """Another till's files are not there; a suspended one gets the pack without households."""
    there = alone(ledger, till, programme)
    other = till_of(ledger)
    segment = there.pack.file["households"]["segments"][0]["sha256"]
    for sha256 in (there.pack.sha256, segment):
        assert refused(other.get(f"/v1/offline-pack/{sha256}"))["status"] == 404
    for body in ({}, {"incarnation": "x"}, {"incarnation": till.incarnation, "more": 1}):
        assert refused(till.post("/v1/offline-pack", body))["code"] == "malformed"
    ledger.set_terminal(till.terminal, "suspended")
    asked = till.post("/v1/offline-pack", {"incarnation": till.incarnation})
    assert refused(asked)["code"] == "terminal_suspended"
    manifest = till.signed(till.get("/v1/offline-pack").json()["manifest"], "carepos-manifest+jws")
    assert "households" not in fetched(till, manifest["file"]["sha256"])


# What is set aside, online.


def test_the_till_itself_draws_on_what_is_free_first(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """Then on its own allotment; what an undo gives back is free for all, what is used is used."""
    there = alone(ledger, till, programme)
    found = till.lookup(there.token)
    sale = till.redeem(
        found, there.token, [line(9_000)], [entry(there.voucher(), 9_000)], programme=programme
    )
    [told] = till.outcome(sale)["vouchers"]
    assert (told["from_allotment_minor"], told["available_minor"]) == (3_000, 3_000)
    assert there.balance() == 3_000 and there.balance(till_of(ledger)) == 0
    [back] = till.outcome(till.void(sale))["vouchers"]
    assert (back["from_allotment_minor"], back["available_minor"]) == (0, 12_000)
    assert there.balance(till_of(ledger)) == 9_000
    free, _, aside = vouchers(there)[there.voucher()]
    assert (free, aside) == (6_000, [(1, 6_000, 0), (2, 3_000, 0)])


@pytest.mark.parametrize("incarnation", ["another till", "another journal"])
def test_what_is_set_aside_is_nobody_elses(
    ledger: ContractLedger, till: ContractTill, programme: str, incarnation: str
) -> None:
    """`reserved_elsewhere`, with the store and the date from which it is free; then it is."""
    there = alone(ledger, till, programme)
    other = till_of(ledger, "shop-b")
    if incarnation == "another journal":
        other = replace(till, incarnation=secrets.token_hex(16), sequence=0, prev="")
        assert other.outcome(other.start())["result"] == "posted"
    token = care(ledger, there.sub)
    found = other.lookup(token)

    def take(token: str, amount: int) -> Json:
        sale = other.redeem(
            found, token, [line(amount)], [entry(there.voucher(), amount)], programme=programme
        )
        return other.outcome(sale)

    refusal = take(token, 9_000)["refusal"]
    until = there.pack.file["households"]["dates"][0][1]
    assert refusal == {
        "code": "reserved_elsewhere",
        "at": there.voucher(),
        "reserved": {"store_name": "shop-a 店", "until": until},
    }
    # More than there is at all is nobody else's fault.
    assert take(token, 12_001)["refusal"]["code"] == "balance_insufficient"
    assert take(token, 6_000)["result"] == "posted"
    ledger.now.forward(seconds=HALF["spend_s"] + HALF["upload_s"] - 1)
    assert take(care(ledger, there.sub), 6_000)["refusal"]["code"] == "reserved_elsewhere"
    ledger.now.forward(seconds=1)
    assert take(care(ledger, there.sub), 6_000)["result"] == "posted"


def test_drawing_on_it_waits_for_the_records_before(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """What was sold offline before may have drawn on it; what is free waits for nothing."""
    there = alone(ledger, till, programme)
    found = till.lookup(there.token)
    missing = till.start()
    free, drawn = (
        till.redeem(
            found, there.token, [line(part)], [entry(there.voucher(), part)], programme=programme
        )
        for part in (6_000, 1_000)
    )
    assert till.outcome(free)["result"] == "posted"
    problem = till.problem(drawn)
    assert (problem["code"], problem["status"]) == ("sequence_gap", 409)
    assert problem["missing"] == [missing.payload["sequence"]]
    assert till.outcome(missing)["result"] == "posted"
    assert till.outcome(drawn)["vouchers"][0]["from_allotment_minor"] == 1_000


# Given back.


def test_an_allotment_is_given_back_once(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """What is left of it is everybody's again; a second time, and another's, gives nothing."""
    there = alone(ledger, till, programme)
    other = till_of(ledger)
    household = there.household
    named = [{"voucher": there.voucher(), "allotment": 1}]
    stranger = other.write(
        "return_allotment", new_id(household["k"], ledger.now()), {"allotments": named}
    )
    nothing: Json = {"currency": None, "amount_minor": 0, "vouchers": []}
    answer = other.outcome(stranger)
    assert {name: answer[name] for name in nothing} == nothing
    back = there.give_back(1)
    outcome = till.outcome(back)
    assert (outcome["result"], outcome["currency"], outcome["amount_minor"]) == (
        "posted",
        "CNY",
        6_000,
    )
    [told] = outcome["vouchers"]
    assert (told["voucher"], told["amount_minor"], told["available_minor"]) == (
        there.voucher(),
        6_000,
        12_000,
    )
    assert till.send(back, back) == [till.send(back)[0]] * 2
    assert there.balance(other) == 12_000
    again = till.outcome(there.give_back(1))
    assert again["result"] == "posted" and {name: again[name] for name in nothing} == nothing
    assert till.attempt(back.payload["id"]) == ("posted", [outcome])


def test_giving_back_waits_for_the_records_before(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """What is left is not known before; then the rest goes back, and the form is section 1's."""
    there = alone(ledger, till, programme)
    sale, accepted = there.sell(2_000, there.use(2_000))
    back = there.give_back(1)
    problem = till.problem(back)
    assert problem["code"] == "sequence_gap"
    assert problem["missing"] == [sale.payload["sequence"], accepted.payload["sequence"]]
    assert there.both(sale, accepted)["result"] == "posted"
    assert till.outcome(back)["amount_minor"] == 4_000
    twice = [{"voucher": there.voucher(), "allotment": 1}] * 2
    wrong: list[Json] = [{"allotments": []}, {"allotments": twice}]
    for content in wrong:
        identifier = new_id(there.household["k"], ledger.now())
        bad = till.write("return_allotment", identifier, content)
        assert till.problem(bad)["code"] == "malformed"


def test_rice_by_weight_from_both_parts(
    ledger: ContractLedger, till: ContractTill, programme: str
) -> None:
    """Units and money of an item voucher: what is free first, what a cheap price saved stays."""
    there = alone(ledger, till, programme, {**FIXED, "expires_at": SOON["expires_at"]})
    found = till.lookup(there.token)
    sale = till.redeem(
        found,
        there.token,
        [line(7_200, RICE, 3_000, "g")],
        [entry(there.voucher(), 5_400, quantity=3_000, beneficiary_minor=1_800)],
        programme=programme,
    )
    [told] = till.outcome(sale)["vouchers"]
    assert (told["quantity"], told["amount_minor"], told["unit"]) == (3_000, 5_400, "g")
    assert (told["from_allotment_quantity"], told["from_allotment_minor"]) == (1_000, 600)
    assert (told["available_quantity"], told["available_minor"]) == (1_000, 0)
