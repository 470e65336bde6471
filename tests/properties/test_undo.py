"""What void and refund promise, over whatever `propose` sells: docs/offline.md §3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

from hypothesis import event, given, settings

from carepos import rules, undo
from carepos.basket import Entry, lines_from_json
from carepos.rules import Situation
from carepos.undo import ReturnedLine, Sold
from carepos.voucher import RefundRule, Voucher
from carepos_ledger import accounts
from carepos_ledger.accounts import Balance
from tests.properties.test_rules import RANDOM, random_situation, situation_of
from tests.vectors import second_undo

Json = dict[str, Any]
ROUNDS = settings(max_examples=400)
DAY = timedelta(days=1)


def random_sale(random: Random) -> Json:
    """A situation, half of the time with goods by weight: large quantities that nothing divides."""
    told = random_situation(random)
    if random.random() < 0.5:
        by_weight(random, told)
    return told


def by_weight(random: Random, told: Json) -> None:
    for line in told["lines"]:
        line.update(unit="g", quantity=line["quantity"] * 137 + random.randint(0, 136))
    for held in (*told["vouchers"], *told["others"]):
        if held["terms"]:
            held["terms"].update(unit="g", cap_quantity=random.choice((1, 7, 250, 500, 1000)))
            held["available_quantity"] *= random.choice((100, 137, 500))
    for quota in told["programme"]["quotas"]:
        quota.update(unit="g", quantity=quota["quantity"] * 200)


def sell(situation: Situation) -> Sold | None:
    """What the till proposes, as the book holds it; None if it proposes nothing."""
    offer = rules.propose(situation)
    if not offer.allocation:
        return None
    programme, at = situation.programme, situation.at
    return Sold(situation.lines, offer.allocation, programme.currency, at, at)


def some_back(random: Random, sold: Sold) -> tuple[ReturnedLine, ...]:
    """Some of what is left of some lines: now a little of it, now all; may be nothing."""
    lines = []
    for number, line in enumerate(sold.basket, 1):
        left = line.quantity - sold.refunded.get(number, 0)
        if left and random.random() < 0.6:
            quantity = random.choice((1, left, random.randint(1, left)))
            lines.append(ReturnedLine(number, quantity))
    return tuple(lines)


def after(sold: Sold, lines: Sequence[ReturnedLine]) -> Sold:
    came = Counter(sold.refunded) + Counter({line.line: line.quantity for line in lines})
    return replace(sold, refunded=dict(came))


def all_left(sold: Sold) -> tuple[ReturnedLine, ...]:
    left = {
        number: line.quantity - sold.refunded.get(number, 0)
        for number, line in enumerate(sold.basket, 1)
    }
    return tuple(ReturnedLine(number, quantity) for number, quantity in left.items() if quantity)


def series(random: Random, sold: Sold) -> Iterator[tuple[Sold, tuple[ReturnedLine, ...]]]:
    """Refunds one after the other, each with the sale as it stood before."""
    for _ in range(random.randint(1, 6)):
        lines = some_back(random, sold)
        if lines:
            yield sold, lines
            sold = after(sold, lines)


Moved = Counter[tuple[int, str, str]]


def moved(parts: Sequence[Entry]) -> Moved:
    return Counter(
        {
            (part.line, part.voucher, name): getattr(part, name)
            for part in parts
            for name in ("quantity", "programme_minor", "beneficiary_minor")
        }
    )


@ROUNDS
@given(RANDOM)
def test_never_more_than_was_taken(random: Random) -> None:
    """No part is negative or empty, and all refunds of a sale together never give an entry more
    than it took."""
    sold = sell(situation_of(random_sale(random)))
    if sold is None:
        return
    taken, given_back = moved(sold.allocation), Moved()
    for before, lines in series(random, sold):
        parts = undo.parts_of(before, lines)
        for part in parts:
            assert min(part.quantity, part.programme_minor, part.beneficiary_minor) >= 0
            assert part.quantity + part.covered_minor > 0
            assert part.line in {line.line for line in lines}
        given_back += moved(parts)
        assert given_back <= taken
    event(f"{len(sold.allocation)} entries")


@ROUNDS
@given(RANDOM)
def test_no_more_units_than_pieces(random: Random) -> None:
    """However many vouchers share a line, they never get back more units than came back of it."""
    sold = sell(situation_of(random_sale(random)))
    if sold is None:
        return
    for before, lines in series(random, sold):
        now = after(before, lines)
        units = Counter[int]()
        for part in undo.parts_of(sold, [ReturnedLine(*item) for item in now.refunded.items()]):
            units[part.line] += part.quantity
        assert units <= Counter(now.refunded)


@ROUNDS
@given(RANDOM)
def test_a_line_that_is_back_is_back_whole(random: Random) -> None:
    """When all of a line has come back, piece by piece, so has every part of it, to the minor unit;
    and a sale all of whose lines are back has nothing left to undo."""
    sold = sell(situation_of(random_sale(random)))
    if sold is None:
        return
    taken, given_back = moved(sold.allocation), Moved()
    for before, lines in series(random, sold):
        given_back += moved(undo.parts_of(before, lines))
        now = after(before, lines)
        for entry in sold.allocation:
            if now.refunded.get(entry.line, 0) == sold.basket[entry.line - 1].quantity:
                for key in moved([entry]):
                    assert given_back[key] == taken[key]
        sold = now
    rest = all_left(sold)
    given_back += moved(undo.parts_of(sold, rest))
    assert given_back == +taken
    assert after(sold, rest).is_used_up


@ROUNDS
@given(RANDOM)
def test_piece_by_piece_in_any_order_is_as_much_as_at_once(random: Random) -> None:
    """What has come back in all decides what has been given back in all; both readings agree."""
    sold = sell(situation_of(random_sale(random)))
    if sold is None:
        return
    steps = [lines for _, lines in series(random, sold)]
    pieces = [line for lines in steps for line in lines]
    came = Counter[int]()
    for line in pieces:
        came[line.line] += line.quantity
    at_once = tuple(ReturnedLine(*item) for item in sorted(came.items()))
    random.shuffle(pieces)
    shuffled, mixed = sold, Moved()
    for piece in pieces:
        mixed += moved(undo.parts_of(shuffled, [piece]))
        shuffled = after(shuffled, [piece])
    in_order, stepped, told = sold, Moved(), list[Json]()
    sale = {
        "basket": [line.to_json() for line in sold.basket],
        "allocation": [entry.to_json() for entry in sold.allocation],
    }
    for lines in steps:
        parts, asked = undo.parts_of(in_order, lines), [line.to_json() for line in lines]
        assert [part.to_json() for part in parts] == second_undo.parts(sale, told, asked)
        told += asked
        stepped += moved(parts)
        in_order = after(in_order, lines)
    assert stepped == mixed == +moved(undo.parts_of(sold, at_once))


@ROUNDS
@given(RANDOM)
def test_nothing_is_left_exactly_when_nothing_would_move(random: Random) -> None:
    """A sale is used up if and only if no line of it would give anything back any more."""
    sold = sell(situation_of(random_sale(random)))
    if sold is None:
        return
    for before, lines in series(random, sold):
        assert before.is_used_up is (not undo.parts_of(before, all_left(before)))
        sold = after(before, lines)
    assert sold.is_used_up is (not undo.parts_of(sold, all_left(sold)))
    assert replace(sold, undone=True).is_used_up


@ROUNDS
@given(RANDOM)
def test_void_or_refund_never_both(random: Random) -> None:
    """Of a voided sale no refund is taken, of a sale refunded in part no void, at whatever time."""
    situation = situation_of(random_sale(random))
    sold = sell(situation)
    if sold is None:
        return
    programme = replace(
        situation.programme, undo_window_s=86_400, refunds=RefundRule(31_622_400, 0)
    )
    terms = {name: voucher.terms for name, voucher in situation.vouchers.items()}
    at = situation.at + timedelta(seconds=random.choice((0, 1, 86_399, 86_400, 10**6)))
    fresh = undo.void_refusal(sold, programme, occurred_at=at, now=at)
    assert (fresh is None) is (at - sold.recorded_at < DAY)
    for before, lines in series(random, sold):
        voided = replace(before, undone=True)
        refusal = undo.refund_refusal(voided, programme, terms, lines, now=at)
        assert refusal is not None and refusal.code == "already_undone"
        if undo.refund_refusal(before, programme, terms, lines, now=at) is None:
            later = after(before, lines)
            refusal = undo.void_refusal(later, programme, occurred_at=at, now=at)
            assert refusal is not None and refusal.code == "already_undone"


@ROUNDS
@given(RANDOM)
def test_a_refund_that_is_taken_moves_whole_portions(random: Random) -> None:
    """What the rules let pass moves something, within what is left, and of a fixed-price voucher
    whole portions only."""
    situation = situation_of(random_sale(random))
    sold = sell(situation)
    if sold is None:
        return
    programme = replace(situation.programme, refunds=RefundRule(1, 0))
    terms = {name: voucher.terms for name, voucher in situation.vouchers.items()}
    for before, lines in series(random, sold):
        beyond = [*lines[:-1], replace(lines[-1], quantity=lines[-1].quantity + 10**6)]
        refusal = undo.refund_refusal(before, programme, terms, beyond, now=situation.at)
        assert refusal is not None and refusal.code in ("refund_exceeds", "already_undone")
        if undo.refund_refusal(before, programme, terms, lines, now=situation.at) is None:
            parts = undo.parts_of(before, lines)
            assert parts
            for part in parts:
                its = terms[part.voucher]
                assert its is None or not its.fixed_minor or part.quantity % its.cap_quantity == 0


# money behind goods


class Book:
    """The vouchers of a situation as a ledger keeps them: money and quantity by double entry."""

    def __init__(self, vouchers: Mapping[str, Voucher]) -> None:
        self.vouchers = dict(vouchers)
        self.balances: dict[str, Balance] = {}
        self.issued: dict[str, tuple[int, int]] = {}
        for name, each in vouchers.items():
            empty = Balance(name, "CNY", 0, 0, 0, each.terms)
            legs = accounts.issue(
                name, "flood", "CNY", each.available_minor, each.available_quantity, each.terms
            )
            self.balances[name] = empty.after(legs)
            self.issued[name] = self.holds(name)

    def holds(self, name: str) -> tuple[int, int]:
        balance = self.balances[name]
        return balance.available_minor + balance.saved_minor, balance.available_quantity

    def shown(self) -> dict[str, Voucher]:
        """As a lookup tells of them."""
        return {
            name: replace(
                each,
                available_minor=0 if each.terms else self.balances[name].available_minor,
                available_quantity=self.balances[name].available_quantity,
            )
            for name, each in self.vouchers.items()
        }

    def take(self, entries: Sequence[Entry]) -> None:
        names = {entry.voucher for entry in entries}
        balances = [self.balances[name] for name in names]
        legs = accounts.redemption(balances, accounts.taken_by(entries), "shop", "flood")
        assert accounts.sums_to_zero(legs)
        for name in names:
            self.balances[name] = self.balances[name].after(legs)

    def give_back(self, parts: Sequence[Entry]) -> None:
        """A redemption of less than nothing: what a cap had saved follows the quantity."""
        self.take(
            [
                replace(part, quantity=-part.quantity, programme_minor=-part.programme_minor)
                for part in parts
            ]
        )

    def forfeit_what_it_holds(self, name: str) -> None:
        """Before something comes back into an expired voucher. What its cap had saved stays."""
        balance = self.balances[name]
        legs = accounts.forfeit(replace(balance, saved_minor=0), "flood")
        self.balances[name] = balance.after(legs)

    def covers(self) -> None:
        for balance in self.balances.values():
            assert balance.available_minor >= 0 and balance.saved_minor >= 0
            assert balance.available_quantity >= 0
            if balance.terms is not None:
                may_cost = balance.terms.reserve(balance.available_quantity)
                assert balance.available_minor == may_cost, "goods without the money for them"
            else:
                assert balance.saved_minor == 0


def shopping(random: Random, *, expiring: bool) -> None:
    """Sales, refunds and voids of one family's vouchers, in any order, and the book after each."""
    told = random_sale(random)
    situation = situation_of(told)
    book = Book({name: v for name, v in situation.vouchers.items() if v.programme == "flood"})
    sales: list[Sold] = []
    for _ in range(random.randint(2, 12)):
        open_sales = [n for n, sale in enumerate(sales) if not sale.is_used_up]
        if not open_sales or random.random() < 0.45:
            basket = random_situation(random)
            if told["lines"][0]["unit"] == "g":
                by_weight(random, basket)
            lines = lines_from_json(basket["lines"])
            sold = sell(replace(situation, lines=lines, vouchers=book.shown(), acted=None))
            if sold is not None:
                book.take(sold.allocation)
                sales.append(sold)
        else:
            n = random.choice(open_sales)
            sale = sales[n]
            void = not sale.refunded and random.random() < 0.2
            lines_back = all_left(sale) if void else some_back(random, sale)
            parts = undo.parts_of(sale, lines_back)
            if void:
                assert parts == sale.allocation
            if not all(whole(book, part) for part in parts):
                continue
            if expiring and random.random() < 0.5:
                for name in {part.voucher for part in parts}:
                    book.forfeit_what_it_holds(name)
            book.give_back(parts)
            sales[n] = after(sale, lines_back)
        book.covers()
    event(f"{min(len(sales), 5)} sales")
    for sale in sales:
        parts = undo.parts_of(sale, all_left(sale))
        book.give_back(parts)
    book.covers()
    if not expiring:
        assert {name: book.holds(name) for name in book.balances} == book.issued


def whole(book: Book, part: Entry) -> bool:
    its = book.balances[part.voucher].terms
    return its is None or its.portion(part.quantity) == part.quantity


@ROUNDS
@given(RANDOM)
def test_money_always_covers_the_goods(random: Random) -> None:
    """After any sales, refunds and voids an item or fixed-price voucher holds the money that its
    quantity may cost at most; and when all has come back, everything is as it was issued."""
    shopping(random, expiring=False)


@ROUNDS
@given(RANDOM)
def test_money_covers_the_goods_of_an_expired_voucher(random: Random) -> None:
    """Also where what an expired voucher held went back to the programme before the refund came:
    what its cap had saved stays, for what is still to come back may cost it."""
    shopping(random, expiring=True)
