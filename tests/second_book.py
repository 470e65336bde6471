"""What vouchers hold, written a second time from docs/offline.md sections 3 and 4 alone.

A voucher has a pot of its own, and one for each allotment. In the pots of an item or fixed-price
voucher lies beside the quantity the money that it may cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.second_signing import Json


@dataclass
class Pot:
    minor: int
    quantity: int


@dataclass
class Allotment(Pot):
    """What is set aside of a voucher, and what is left of it; of one that nobody came back for in
    time, `freed` is what a sale within it may still say so of."""

    voucher: str
    number: int
    terminal: str
    incarnation: str
    spend_until: str
    reclaim_after: str
    open: bool = True
    amount_minor: int = 0
    given: int = 0
    freed: int = 0

    def __post_init__(self) -> None:
        self.amount_minor, self.given = self.minor, self.quantity


@dataclass
class Draw:
    """What one pot gave to a sale, or got back."""

    pot: Pot
    minor: int
    quantity: int


@dataclass
class Taken:
    """What one voucher gave to a sale, and what of it is not given back yet."""

    voucher: str
    draws: list[Draw] = field(default_factory=list)

    @property
    def minor(self) -> int:
        return sum(draw.minor for draw in self.draws)

    @property
    def quantity(self) -> int:
        return sum(draw.quantity for draw in self.draws)


def may_cost(voucher: Json, quantity: int) -> int:
    """What so much of an item or fixed-price voucher costs the programme at most."""
    terms = voucher["terms"]
    if terms is None:
        return 0
    cap, fixed = (
        terms[name] * quantity // terms["cap_quantity"] for name in ("cap_minor", "fixed_minor")
    )
    return int(cap - fixed)


class Book:
    """Vouchers, by id, as in a lookup but for what they hold; and their pots."""

    def __init__(self) -> None:
        self.vouchers: dict[str, Json] = {}
        self.pots: dict[str, Pot] = {}
        self.allotments: dict[str, list[Allotment]] = {}

    def issue(self, name: str, available_minor: int, available_quantity: int, told: Json) -> None:
        self.vouchers[name] = {**told, "voucher": name, "frozen": False}
        money = available_minor or may_cost(self.vouchers[name], available_quantity)
        self.pots[name], self.allotments[name] = Pot(money, available_quantity), []

    def told(self, name: str, own: Sequence[Allotment] = ()) -> Json:
        """The voucher as a lookup has it, with what it and the allotments `own` hold."""
        pots = [self.pots[name], *own]
        value = self.vouchers[name]["kind"] == "value"
        return {
            **self.vouchers[name],
            "available_minor": sum(pot.minor for pot in pots) if value else 0,
            "available_quantity": 0 if value else sum(pot.quantity for pot in pots),
        }

    def take(self, name: str, minor: int, quantity: int, own: Sequence[Allotment] = ()) -> Taken:
        """Units first, then of its money what each pot can spare; the voucher's own pot first."""
        voucher, taken = self.vouchers[name], Taken(name)
        for pot in (self.pots[name], *own):
            units = min(quantity, pot.quantity)
            quantity -= units
            pot.quantity -= units
            taken.draws.append(Draw(pot, 0, units))
        for draw in taken.draws:
            draw.minor = min(minor, draw.pot.minor - may_cost(voucher, draw.pot.quantity))
            minor -= draw.minor
            draw.pot.minor -= draw.minor
        return taken

    def close(self, allotment: Allotment, *, given_back: bool) -> Draw:
        """What is left of an allotment goes to its voucher."""
        allotment.freed = 0 if given_back else allotment.minor
        pot = self.pots[allotment.voucher]
        left = Draw(pot, allotment.minor, allotment.quantity)
        pot.minor, pot.quantity = pot.minor + left.minor, pot.quantity + left.quantity
        allotment.minor = allotment.quantity = 0
        allotment.open = False
        return left

    def draw(self, name: str, pot: Pot, minor: int, quantity: int) -> Draw:
        """As much of it as a pot holds: units, and of its money what it can spare."""
        units = min(quantity, pot.quantity)
        pot.quantity -= units
        money = max(0, min(minor, pot.minor - may_cost(self.vouchers[name], pot.quantity)))
        pot.minor -= money
        return Draw(pot, money, units)

    def put_back(self, taken: Taken, minor: int, quantity: int) -> list[Draw]:
        """Give back of what was taken to the voucher, for what an allotment gave stays used."""
        pot, back = self.pots[taken.voucher], []
        for draw in taken.draws:
            some = Draw(pot, min(minor, draw.minor), min(quantity, draw.quantity))
            minor, quantity = minor - some.minor, quantity - some.quantity
            for each, sign in ((draw, -1), (pot, 1)):
                each.minor += sign * some.minor
                each.quantity += sign * some.quantity
            back.append(some)
        return back

    def put_back_expired(
        self, taken: Taken, minor: int, quantity: int, until: str | None
    ) -> list[Draw]:
        """The same of a voucher that is expired: only what comes back can be used, `until` then;
        None: nothing of it, and it is the programme's too."""
        self._end(taken.voucher)
        back = self.put_back(taken, minor, quantity)
        if until is None:
            self._end(taken.voucher)
        else:
            self.vouchers[taken.voucher]["expires_at"] = until
        return back

    def _end(self, name: str) -> None:
        """What an expired voucher still held goes back to the programme, but for what it saved."""
        pot, voucher = self.pots[name], self.vouchers[name]
        pot.minor -= may_cost(voucher, pot.quantity) if voucher["terms"] else pot.minor
        pot.quantity = 0

    def said(self, name: str, draws: Sequence[Draw], own: Sequence[Allotment] = ()) -> Json:
        """What an outcome says of a voucher that gave or got back `draws`."""
        voucher = self.told(name, own)
        allotted = [draw for draw in draws if isinstance(draw.pot, Allotment)]
        return {
            "voucher": name,
            "amount_minor": sum(draw.minor for draw in draws),
            "quantity": sum(draw.quantity for draw in draws),
            "unit": voucher["terms"]["unit"] if voucher["terms"] else None,
            "from_allotment_minor": sum(draw.minor for draw in allotted),
            "from_allotment_quantity": sum(draw.quantity for draw in allotted),
            "available_minor": voucher["available_minor"],
            "available_quantity": voucher["available_quantity"],
        }
