"""What `propose` and `check` promise, over random programmes, product lists, vouchers and baskets.

A situation is drawn as the JSON that the protocol writes it in, so that the second implementation
of the page (`tests/vectors/second.py`) can be asked the same question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from carepos import clock, money, rules, token
from carepos.basket import Entry, Line, allocation_from_json, lines_from_json, spread_discount
from carepos.errors import Malformed
from carepos.product import ProductList
from carepos.refusals import BY_CODE, Refusal
from carepos.rules import Acted, Proposal, Situation
from carepos.voucher import Programme, Voucher
from tests.vectors import second

Json = dict[str, Any]

HOLDER, STRANGER = "B" * 22, "S" * 22
CATEGORIES = ("dairy", "grain", "eggs")
PRODUCTS = {
    "06913046198782": "dairy",
    "06936687862270": "dairy",
    "cat:rice-loose": "grain",
    "cat:eggs": "eggs",
}
KEYS = (*PRODUCTS, "06965356619631")  # the last stands on no list
DAYS = ("2026-11-01", "2026-11-20", "2026-11-22", "2026-11-24", "2026-12-31")
ROUNDS = settings(max_examples=400)


def instant(day: str) -> str:
    return f"{day}T00:00:00.000Z"


# Situations are drawn by a seeded generator and not part by part: that is thirty times as fast and
# spreads evenly, which finds more here than a smaller failing example would be worth.


def rarely(random: Random) -> bool:
    """Mostly not, so that most situations get far enough to say something about money."""
    return random.random() < 0.06


def random_span(random: Random) -> tuple[str, str]:
    """Dates around 22 November, mostly open on it."""
    if not rarely(random):
        return instant(DAYS[0]), instant(random.choice(DAYS[3:]))
    begin, end = sorted(random.sample(range(len(DAYS)), 2))
    return instant(DAYS[begin]), instant(DAYS[end])


def random_unit(random: Random) -> str:
    return random.choice(("g", "ml")) if rarely(random) else "piece"


def random_categories(random: Random) -> list[str]:
    return random.sample(CATEGORIES, random.choice((0, 0, 1, 1, 2)))


def random_voucher(random: Random, name: str) -> Json:
    kind = random.choice(("value", "value", "item", "fixed_price"))
    starts_at, expires_at = random_span(random)
    terms = None
    if kind != "value":
        cap = random.randint(2, 1_200)
        terms = {
            "unit": random_unit(random),
            "cap_minor": cap,
            "fixed_minor": 0 if kind == "item" else random.randint(1, min(cap - 1, 300)),
            "cap_quantity": random.choice((1, 1, 2, 3, 4)),
        }
    return {
        "voucher": name,
        "programme": "other" if rarely(random) else "flood",
        "kind": kind,
        "label": "",
        "categories": random_categories(random),
        "starts_at": starts_at,
        "expires_at": expires_at,
        "frozen": rarely(random),
        "available_minor": random.choice((0, 1, random.randint(0, 3_000), 10_000))
        if kind == "value"
        else 0,
        "available_quantity": 0 if kind == "value" else random.randint(0, 12),
        "terms": terms,
    }


def random_acting_rule(random: Random) -> Json:
    return {
        "proxy": True,
        "witness": True,
        "household_minor": random.randint(0, 4_000),
        "actor_minor": random.randint(0, 6_000),
        "window_s": 86_400,
    }


def random_sums(random: Random) -> Json:
    return {name: random.choice((0, random.randint(0, 5_000))) for name in SUMS}


def random_situation(random: Random) -> Json:
    names = random.sample([f"{letter}{'0' * 21}" for letter in "abcdefg"], 7)
    acted = random.random() < 0.3
    mine = random.choice((0, 1, 2, 2, 3, 3, 4, 5))
    starts_at, ends_at = random_span(random)
    return {
        "beneficiary": HOLDER,
        "store": "store-2" if rarely(random) else "store-1",
        "at": instant("2026-11-22"),
        "programme": {
            "programme": "flood",
            "name": "Flood",
            "currency": "CNY",
            "rules_version": 1,
            "starts_at": starts_at,
            "ends_at": ends_at,
            "paused": rarely(random),
            "stores": ["store-1"],
            "product_list": "relief",
            "issuer": "https://issuer.test",
            "classes": ["once"],
            "amr_any": [],
            "limit_per_redemption_minor": random.choice((None, random.randint(1, 4_000))),
            "top_up_allowed": random.random() < 0.5,
            "undo_window_s": 0,
            "quotas": [
                {"category": name, "quantity": random.randint(0, 12), "unit": random_unit(random)}
                for name in random_categories(random)
            ],
            **({"acting": random_acting_rule(random)} if acted else {}),
        },
        "acted": random_sums(random) if acted else None,
        "product_list": {
            "product_list": "relief",
            "version": 1,
            "entries": {key: name for key, name in PRODUCTS.items() if not rarely(random)},
        },
        "vouchers": [random_voucher(random, name) for name in names[:mine]],
        "others": [random_voucher(random, name) for name in names[mine : mine + 1]],
        "lines": [
            {
                "key": random.choice(KEYS),
                "quantity": random.randint(1, 9),
                "unit": random_unit(random),
                "line_amount_minor": random.choice((0, 1, *random.choices(range(2_500), k=5))),
            }
            for _ in range(random.randint(1, 5))
        ],
    }


SUMS = ("household_minor", "actor_minor")
RANDOM = st.randoms(use_true_random=True)


def situation_of(told: Json) -> Situation:
    held = [Voucher.from_json(each, HOLDER) for each in told["vouchers"]]
    held += [Voucher.from_json(each, STRANGER) for each in told["others"]]
    return Situation(
        programme=Programme.from_json(told["programme"]),
        products=ProductList.from_json_object(told["product_list"]),
        vouchers={voucher.voucher: voucher for voucher in held},
        beneficiary=told["beneficiary"],
        store=told["store"],
        at=clock.from_text(told["at"]),
        lines=lines_from_json(told["lines"]),
        acted=Acted(**told["acted"]) if told.get("acted") else None,
    )


def second_check(told: Json, allocation: Sequence[Json]) -> str | None:
    """The second reading's answer. It is only ever shown vouchers of the record's programme."""
    shown = {
        held: [voucher for voucher in told[held] if voucher["programme"] == "flood"]
        for held in ("vouchers", "others")
    }
    answer = second.check({**told, **shown}, allocation)
    # Acting for another came after that reading: it stands between the limit and the balance.
    if answer in (None, "balance_insufficient", "proposal_changed") and told["acted"] is not None:
        paid = sum(entry["programme_minor"] for entry in allocation)
        rule = told["programme"]["acting"]
        if any(told["acted"][name] + paid > rule[name] for name in SUMS):
            return "acting_limit"
    return answer


def code(refusal: Refusal | None) -> str | None:
    return None if refusal is None else refusal.code


def mark(offer: Proposal) -> None:
    event("refused whole" if offer.refusal else f"{min(len(offer.allocation), 4)} entries")


# what is offered


@ROUNDS
@given(RANDOM)
def test_what_propose_offers_check_accepts(random: Random) -> None:
    """The till never offers what the ledger would refuse for the same state; both readings agree.

    (Including that the offer is a well-formed allocation of the protocol.)
    """
    told = random_situation(random)
    situation = situation_of(told)
    offer = rules.propose(situation)
    mark(offer)
    if not offer.allocation:
        return
    entries = [entry.to_json() for entry in offer.allocation]
    assert allocation_from_json(entries, len(situation.lines)) == offer.allocation
    assert rules.check(situation, offer.allocation) is None
    assert second_check(told, entries) is None


@ROUNDS
@given(RANDOM)
def test_parts_and_rest_are_the_line(random: Random) -> None:
    """Nobody pays a negative part, and parts and rest of each line are its amount."""
    told = random_situation(random)
    situation = situation_of(told)
    offer = rules.propose(situation)
    assert [line.line for line in offer.lines] == list(situation.lines)
    for number, line in enumerate(offer.lines, 1):
        assert all(entry.line == number for entry in line.entries)
        assert all(e.programme_minor >= 1 and e.beneficiary_minor >= 0 for e in line.entries)
        assert line.rest_minor >= 0
        covered = sum(entry.covered_minor for entry in line.entries)
        assert covered + line.rest_minor == line.line.line_amount_minor
    whole = sum(line.line_amount_minor for line in situation.lines)
    assert offer.programme_minor + offer.beneficiary_minor + offer.rest_minor == whole


@ROUNDS
@given(RANDOM)
def test_each_rest_has_a_reason(random: Random) -> None:
    """A line says why something of it is left, with a code of the list, and only then.

    Where the whole offer is refused, each line carries that reason.
    """
    told = random_situation(random)
    offer = rules.propose(situation_of(told))
    for line in offer.lines:
        if offer.refusal is not None:
            assert line.reason == offer.refusal.code and not line.entries
        else:
            assert (line.reason is not None) == (line.rest_minor > 0), line
            assert line.reason is None or BY_CODE[line.reason].answer == "outcome"


@ROUNDS
@given(RANDOM)
def test_no_voucher_is_overdrawn(random: Random) -> None:
    """Each voucher gives at most what it holds, only usable ones give, `after` is what is left."""
    told = random_situation(random)
    situation = situation_of(told)
    offer = rules.propose(situation)
    used: dict[str, list[Entry]] = {}
    for entry in offer.allocation:
        used.setdefault(entry.voucher, []).append(entry)
    for name, voucher in situation.vouchers.items():
        money_taken = sum(entry.programme_minor for entry in used.get(name, []))
        pieces = sum(entry.quantity for entry in used.get(name, []))
        after = offer.after[name]
        if voucher.kind == "value":
            assert pieces == 0 and after.available_minor == voucher.available_minor - money_taken
        else:
            assert after.available_quantity == voucher.available_quantity - pieces
        assert after.available_minor >= 0 and after.available_quantity >= 0
        if name in used:
            assert voucher.beneficiary == HOLDER and voucher.programme == "flood"
            assert not voucher.frozen
            assert voucher.starts_at <= situation.at < voucher.expires_at
    assert used.keys() <= situation.vouchers.keys() and offer.before == situation.vouchers


@ROUNDS
@given(RANDOM)
def test_limit_and_quotas_are_kept(random: Random) -> None:
    """The programme never pays more than its limits, no category goes above its quota."""
    told = random_situation(random)
    situation = situation_of(told)
    programme = situation.programme
    offer = rules.propose(situation)
    if programme.limit_per_redemption_minor is not None:
        assert offer.programme_minor <= programme.limit_per_redemption_minor
    if told["acted"] is not None and offer.programme_minor:
        for name in SUMS:
            assert told["acted"][name] + offer.programme_minor <= told["programme"]["acting"][name]
    for quota in programme.quotas:
        used = 0
        for line in offer.lines:
            if situation.products.category_of(line.line.key) != quota.category:
                continue
            assert not line.entries or line.line.unit == quota.unit
            pieces = sum(entry.quantity for entry in line.entries)
            items = [e for e in line.entries if e.quantity]
            worth = sum(e.programme_minor for e in line.entries if not e.quantity)
            # What remained before the first value entry, and the least quantity it stands for.
            amount = line.line.line_amount_minor - sum(entry.covered_minor for entry in items)
            left = line.line.quantity - pieces
            used += pieces + (-(-worth * left // amount) if worth else 0)
        assert used <= quota.quantity


@ROUNDS
@given(RANDOM)
def test_propose_is_deterministic(random: Random) -> None:
    """The same situation gives the same offer, in whatever order the vouchers come."""
    told = random_situation(random)
    situation = situation_of(told)
    shuffled = list(situation.vouchers.items())
    random.shuffle(shuffled)
    first = rules.propose(situation)
    again = rules.propose(replace(situation, vouchers=dict(shuffled)))
    assert again.lines == first.lines and again.refusal == first.refusal
    assert again.after == first.after
    assert rules.propose(situation) == first


@ROUNDS
@given(RANDOM)
def test_an_offer_taken_leaves_an_offer_that_holds(random: Random) -> None:
    """After an offer was taken, the next one for the same basket is accepted in the state left."""
    told = random_situation(random)
    situation = situation_of(told)
    left = replace(situation, vouchers=rules.propose(situation).after)
    offer = rules.propose(left)
    if offer.allocation:
        assert rules.check(left, offer.allocation) is None


# what is judged


def refused(situation: Situation, allocation: Sequence[Entry]) -> bool:
    return rules.check(situation, allocation) is not None


@ROUNDS
@given(RANDOM)
def test_nothing_above_the_offer_is_accepted(random: Random) -> None:
    """An offer changed upward is refused: more programme money, more pieces, another's voucher."""
    told = random_situation(random)
    situation = situation_of(told)
    offer = list(rules.propose(situation).allocation)
    if not offer:
        return
    at = random.randrange(len(offer))
    entry = offer[at]
    more = random.choice((1, 2, 7, 1_000_000))
    changed = [
        replace(entry, programme_minor=entry.programme_minor + more),
        replace(entry, quantity=entry.quantity + more),
        replace(entry, voucher="z" * 22),
    ]
    if entry.beneficiary_minor:
        changed.append(
            replace(
                entry,
                programme_minor=entry.programme_minor + 1,
                beneficiary_minor=entry.beneficiary_minor - 1,
            )
        )
    for each in changed:
        assert refused(situation, [*offer[:at], each, *offer[at + 1 :]]), each
    theirs = replace(situation.vouchers[entry.voucher], beneficiary=STRANGER)
    stolen = replace(situation, vouchers={**situation.vouchers, entry.voucher: theirs})
    assert code(rules.check(stolen, offer)) == "voucher_not_yours"


@ROUNDS
@given(RANDOM)
def test_a_smaller_state_refuses_the_offer(random: Random) -> None:
    """What no longer holds when the record arrives is refused, with the code of what changed."""
    told = random_situation(random)
    situation = situation_of(told)
    offer = rules.propose(situation)
    if not offer.allocation:
        return
    used = situation.vouchers[random.choice(offer.allocation).voucher]
    after = offer.after[used.voucher]
    emptier = replace(
        used,
        available_minor=max(0, used.available_minor - after.available_minor - 1),
        available_quantity=max(0, used.available_quantity - after.available_quantity - 1),
    )

    def with_voucher(voucher: Voucher) -> Situation:
        return replace(situation, vouchers={**situation.vouchers, used.voucher: voucher})

    def now(changed: Situation) -> str | None:
        return code(rules.check(changed, offer.allocation))

    programme = situation.programme
    assert now(with_voucher(emptier)) == "balance_insufficient"
    assert now(with_voucher(replace(used, frozen=True))) == "voucher_frozen"
    assert now(with_voucher(replace(used, expires_at=situation.at))) == "voucher_expired"
    assert now(replace(situation, programme=replace(programme, paused=True))) == "programme_paused"
    assert now(replace(situation, store="store-9")) == "store_not_in_programme"
    assert now(replace(situation, products=ProductList("relief", 2, {}))) == "not_in_product_list"
    lower = replace(programme, limit_per_redemption_minor=offer.programme_minor - 1)
    assert now(replace(situation, programme=lower)) == "limit_exceeded"


def random_allocation(random: Random, told: Json) -> list[Json]:
    """Any allocation that is well formed for these lines, sensible or not."""
    names = [v["voucher"] for v in told["vouchers"]] or ["z" * 22]
    made = {
        (line, voucher): {
            "line": line,
            "voucher": voucher,
            "quantity": random.choice((0, 0, random.randint(1, 6))),
            "programme_minor": random.randint(1, random.choice((3, 300, 2_500))),
            "beneficiary_minor": random.choice((0, 0, 0, random.randint(0, 300))),
        }
        for line, voucher in (
            (
                random.randint(1, len(told["lines"])),
                told["others"][0]["voucher"] if rarely(random) else random.choice(names),
            )
            for _ in range(random.randint(1, 6))
        )
    }
    return sorted(made.values(), key=lambda entry: int(entry["line"]))


def changed_allocation(random: Random, told: Json, allocation: list[Json]) -> list[Json]:
    """An offer with nothing, a number or a voucher of it changed."""
    for _ in range(random.randint(0, 2)):
        entry = random.choice(allocation)
        what = random.choice(("programme_minor", "beneficiary_minor", "quantity"))
        entry[what] = max(0, entry[what] + random.randint(-3, 3))
    if random.random() < 0.3:
        random.choice(allocation)["voucher"] = random.choice(told["vouchers"])["voucher"]
    return allocation


@ROUNDS
@given(RANDOM)
def test_check_agrees_with_the_second_reading(random: Random) -> None:
    """`check` and an implementation written from the page alone accept the same allocations.

    Offers, offers with a number or a voucher changed, and allocations out of thin air.
    """
    told = random_situation(random)
    situation = situation_of(told)
    offer = [entry.to_json() for entry in rules.propose(situation).allocation]
    allocation = (
        changed_allocation(random, told, offer)
        if offer and random.random() < 0.6
        else random_allocation(random, told)
    )
    try:
        entries = allocation_from_json(allocation, len(situation.lines))
    except Malformed:
        return
    ours, theirs = code(rules.check(situation, entries)), second_check(told, allocation)
    event(f"judged: {ours}")
    assert (ours is None) == (theirs is None), (ours, theirs)


@ROUNDS
@given(RANDOM)
def test_offers_of_the_two_readings_have_one_voucher_order(random: Random) -> None:
    """Within a line, entries stand in voucher order."""
    told = random_situation(random)
    order = second.voucher_order(told["vouchers"])
    for line in rules.propose(situation_of(told)).lines:
        places = [order.index(entry.voucher) for entry in line.entries]
        assert places == sorted(places)


def plain_situation(*named: tuple[str, str, bool]) -> Situation:
    """An open programme and two lines; vouchers by letter, category, and whether frozen."""
    told: Json = {
        "beneficiary": HOLDER,
        "store": "store-1",
        "at": instant("2026-11-22"),
        "programme": {
            "programme": "flood", "name": "Flood", "currency": "CNY", "rules_version": 1,
            "starts_at": instant("2026-11-01"), "ends_at": instant("2026-12-31"), "paused": False,
            "stores": ["store-1"], "product_list": "relief", "issuer": "i", "classes": ["once"],
            "amr_any": [], "limit_per_redemption_minor": None, "top_up_allowed": False,
            "undo_window_s": 0, "quotas": [],
        },
        "product_list": {"product_list": "relief", "version": 1, "entries": PRODUCTS},
        "vouchers": [
            {
                "voucher": letter * 22, "programme": "flood", "kind": "value", "label": "",
                "categories": [category], "starts_at": instant("2026-11-01"),
                "expires_at": instant("2026-12-31"), "frozen": frozen, "available_minor": 100,
                "available_quantity": 0, "terms": None,
            }
            for letter, category, frozen in named
        ],
        "others": [],
        "lines": [
            {"key": "06913046198782", "quantity": 1, "unit": "piece", "line_amount_minor": 50},
            {"key": "cat:eggs", "quantity": 1, "unit": "piece", "line_amount_minor": 50},
        ],
    }  # fmt: skip
    return situation_of(told)


def test_a_frozen_voucher_is_named_rather_than_none() -> None:
    """A holder whose only fitting voucher is frozen reads that, not that there is none."""
    offer = rules.propose(plain_situation(("a", "grain", False), ("b", "dairy", True)))
    assert [line.reason for line in offer.lines] == ["voucher_frozen", "category_not_covered"]


def test_of_two_vouchers_barred_alike_the_first_in_order_is_named() -> None:
    """Which voucher a refusal names does not hang on the order they came in."""
    for named in ("ab", "ba"):
        situation = plain_situation(*((letter, "dairy", True) for letter in named))
        assert rules.propose(situation).refusal == Refusal("voucher_frozen", "a" * 22)


# splitting and discounts


@given(
    st.integers(0, 10**12),
    st.lists(st.integers(0, 10**12), min_size=1, max_size=12).filter(any),
)
def test_split_loses_nothing(amount: int, weights: list[int]) -> None:
    """Parts sum to the amount, each within one unit of its exact share, and none goes to nobody."""
    parts = money.split(amount, weights)
    assert sum(parts) == amount and len(parts) == len(weights)
    total = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * total - amount * weight) < total
        assert part == 0 if weight == 0 else part >= 0
    assert parts == second.split(amount, weights)


@given(
    st.integers(0, 10**9),
    st.lists(st.integers(0, 10**6), min_size=2, max_size=8).filter(any),
)
def test_split_is_fair(amount: int, weights: list[int]) -> None:
    """Who has more weight never gets less; equals differ by at most a unit, the earlier first."""
    parts = money.split(amount, weights)
    for i, j in combinations(range(len(weights)), 2):
        if weights[i] == weights[j]:
            assert 0 <= parts[i] - parts[j] <= 1
        elif weights[i] > weights[j]:
            assert parts[i] >= parts[j]
        else:
            assert parts[i] <= parts[j]


@pytest.mark.parametrize(
    ("amount", "weights"), [(-1, [1]), (1, []), (1, [0, 0]), (1, [2, -1]), (0, [0])]
)
def test_split_needs_something_to_split_by(amount: int, weights: list[int]) -> None:
    """A negative amount or weight, or no weight at all, is a programming error, said at once."""
    with pytest.raises(ValueError, match="split"):
        money.split(amount, weights)


def lines_of(amounts: list[int]) -> list[Line]:
    return [Line("cat:eggs", 2, "piece", amount, "鸡蛋") for amount in amounts]


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=10), st.data())
def test_a_discount_is_spread_whole(amounts: list[int], data: st.DataObject) -> None:
    """The lines are less by exactly the discount, none negative, nothing else of them changed."""
    discount = data.draw(st.integers(0, sum(amounts)))
    spread = spread_discount(lines_of(amounts), discount)
    assert sum(line.line_amount_minor for line in spread) == sum(amounts) - discount
    for line, amount in zip(spread, amounts, strict=True):
        assert 0 <= line.line_amount_minor <= amount
        assert replace(line, line_amount_minor=amount) == lines_of([amount])[0]


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=10), st.integers(1, 10**6))
def test_a_discount_beyond_the_basket_is_malformed(amounts: list[int], beyond: int) -> None:
    """A discount that is negative or more than the basket is refused, never clipped."""
    for discount in (sum(amounts) + beyond, -beyond):
        with pytest.raises(Malformed):
            spread_discount(lines_of(amounts), discount)


@given(st.integers(-(10**13), 10**13), st.sampled_from(["CNY", "JPY", "BHD"]))
def test_an_amount_is_written_exactly(amount: int, currency: str) -> None:
    """What people read is the integer again when the point is taken out."""
    text = money.format_amount(amount, currency)
    assert int(text.replace(".", "")) == amount
    assert len(text.partition(".")[2]) == money.minor_unit_digits(currency)


@pytest.mark.parametrize("currency", ["XXX", "cny", "", "EURO", "XAU"])
def test_an_unknown_currency_is_malformed(currency: str) -> None:
    """Minor units are never guessed."""
    with pytest.raises(Malformed):
        money.minor_unit_digits(currency)
    with pytest.raises(Malformed):
        money.currency(currency)


def assurance(told: Json, *, pin_proved: bool = False, **claims: Any) -> str | None:
    identity = token.IdentityToken(
        **{
            "iss": "https://issuer.test", "sub": "s", "jti": "j", "token_class": "once",
            "amr": frozenset({"face"}), "issued_at": clock.from_text(instant("2026-11-22")),
            "expires_at": clock.from_text(instant("2026-11-24")), "token_sha256": "x" * 43,
            **claims,
        }
    )  # fmt: skip
    programme = Programme.from_json(told)
    return code(
        token.issuer_refusal(identity, programme)
        or token.fitness_refusal(identity, programme, pin_proved=pin_proved)
    )


@ROUNDS
@given(RANDOM)
def test_assurance_is_what_the_programme_asks(random: Random) -> None:
    """Another issuer, another class or no wanted method is refused; one wanted method is enough."""
    told = random_situation(random)
    programme = told["programme"]
    assert assurance(programme) is None
    assert assurance(programme, iss="https://elsewhere.test") == "token_issuer"
    assert assurance(programme, token_class="card") == "token_assurance"
    asking = {**programme, "amr_any": ["carepos:palm", "face"]}
    assert assurance(asking) is None
    assert assurance(asking, amr=frozenset({"otp", "pin"})) == "token_assurance"
    cards = {**programme, "classes": ["card"], "amr_any": ["pin"]}
    card: Json = {"token_class": "card", "amr": frozenset({"carepos:card"})}
    assert assurance(cards, **card) == "pin_required"
    assert assurance(cards, **card, pin_proved=True) is None
    assert assurance(cards, **card, nonce="n" * 22) == "token_assurance"
    assert assurance({**cards, "amr_any": ["pop"]}, **card, pin_proved=True) == "token_assurance"
    assert assurance(programme, revoked=True, token_class="card") == "token_revoked"
