"""What a cashier does in each flow: `before` on a calm day, `then` while everything goes wrong.

She does what a till tells her: asks again where it says unknown, hands over where it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tests.faulty_proxy import Mode


class Cashier(Protocol):
    """One till, the family in front of it, and the wire behind it."""

    def does(self, what: str, **more: Any) -> Any: ...

    def sells(self, checkout: str, amount_minor: int) -> str: ...

    def is_away(self, away: bool) -> None: ...

    def fails(self, otherwise: Mode | None = None) -> None:
        """The network fails once more, as the run says; where it is calm, by `otherwise`."""


def sell_one(at: Cashier) -> None:
    assert at.sells("S0", 2_000) == "confirmed"


def at_home(at: Cashier) -> None:
    sell_one(at)
    at.does("learn")


def sale(at: Cashier) -> None:
    at.fails()
    at.sells("S1", 4_000)


def retry(at: Cashier) -> None:
    at.fails("drop_before")
    state = at.sells("S1", 4_000)
    for _ in range(2):
        if state == "unknown":
            state = at.does("retry", checkout="S1")


def cancel(at: Cashier) -> None:
    """Whatever the network does, it does it to the sale and to its reversal."""
    at.fails("drop_after")
    at.fails()
    if at.sells("S1", 4_000) == "unknown":
        at.does("cancel", checkout="S1")
        at.does("settle")


def void(at: Cashier) -> None:
    at.fails()
    at.does("void", checkout="S0")
    at.does("settle")


def refund(at: Cashier) -> None:
    at.fails()
    at.does("refund", checkout="S0")
    at.does("settle")


def sell_without_a_network(at: Cashier, checkout: str, amount_minor: int) -> None:
    if at.sells(checkout, amount_minor) == "accepted":
        at.does("goods", checkout=checkout, handed_over=True)


def offline(at: Cashier) -> None:
    at.is_away(True)
    sell_without_a_network(at, "S1", 1_000)
    sell_without_a_network(at, "S2", 1_500)
    at.is_away(False)
    at.fails()
    at.does("settle")
    at.does("settle")


def accept(at: Cashier) -> None:
    at.fails("drop_after")
    if at.sells("S1", 2_000) == "unknown":
        at.is_away(True)
        if at.does("accept", checkout="S1") == "accepted":
            at.does("goods", checkout="S1", handed_over=True)
        at.is_away(False)
    at.fails()
    at.does("settle")
    at.does("settle")


def void_stored(at: Cashier) -> None:
    at.is_away(True)
    sell_without_a_network(at, "S1", 2_000)
    at.does("void", checkout="S1")
    at.is_away(False)
    at.fails()
    at.does("settle")
    at.does("settle")


def day(at: Cashier) -> None:
    at.fails("drop_after")
    at.sells("S1", 3_000)
    at.fails()
    at.does("close_day")
    at.does("settle")


FLOWS: dict[str, tuple[Callable[[Cashier], None], Callable[[Cashier], None]]] = {
    "sale": (sell_one, sale),
    "retry": (sell_one, retry),
    "cancel": (sell_one, cancel),
    "void": (sell_one, void),
    "refund": (sell_one, refund),
    "offline": (at_home, offline),
    "accept": (at_home, accept),
    "void_stored": (at_home, void_stored),
    "day": (sell_one, day),
}
