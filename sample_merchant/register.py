"""The sample shop's cash register: scans in, a basket for the plugin out."""

from __future__ import annotations

from typing import Any

from carepos.errors import Malformed
from carepos.product import to_grams
from sample_merchant.catalogue import BasketLine, Catalogue

MAX_QUANTITY_KEY = 999


class Register:
    """One customer's basket, line by line. `clear()` starts the next.

    A refused entry changes nothing, so the cashier scans again or presses another key.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._states: list[tuple[BasketLine, ...]] = [()]
        self._next_quantity = 1
        self._discount_minor = 0

    @property
    def lines(self) -> tuple[BasketLine, ...]:
        return self._states[-1]

    @property
    def discount_minor(self) -> int:
        return self._discount_minor

    @property
    def subtotal_minor(self) -> int:
        """The lines' sum, before the basket discount."""
        return sum(line.line_amount_minor for line in self.lines)

    @property
    def total_minor(self) -> int:
        return self.subtotal_minor - self._discount_minor

    def press_quantity(self, quantity: int) -> None:
        """The quantity key: the next scan stands for this many pieces (1 to 999).

        A scan that is refused or not known leaves the quantity waiting for the next try.
        """
        if type(quantity) is not int or not 1 <= quantity <= MAX_QUANTITY_KEY:
            raise Malformed(f"must be 1 to {MAX_QUANTITY_KEY}", field="quantity")
        self._next_quantity = quantity

    def scan(self, text: object) -> BasketLine | None:
        """Adds a scanned barcode; None, with nothing added, if the shop doesn't know the code.

        Goods scanned before grow on their line. Raises Malformed for what is no barcode, and for a
        scale's label after a quantity other than 1 (a label is one bag).
        """
        scanned = self._catalogue.find_by_scan(text)
        if scanned is None:
            return None
        if scanned.key.startswith("cat:"):
            if self._next_quantity != 1:
                raise Malformed("a weighed label is one bag; scan each", field="quantity")
            return self._append(scanned)
        return self._add_pieces(scanned.key, self._next_quantity)

    def add_pieces(self, key: str, quantity: int) -> BasketLine:
        """Adds goods without a barcode that are sold by the piece.

        Raises Malformed if the shop has no such goods or sells them by weight.
        """
        if type(quantity) is not int or not 1 <= quantity <= MAX_QUANTITY_KEY:
            raise Malformed(f"must be 1 to {MAX_QUANTITY_KEY}", field="quantity")
        return self._add_pieces(key, quantity)

    def add_weighed(self, key: str, quantity_text: str, unit_text: str) -> BasketLine:
        """Adds loose goods weighed at the register: `add_weighed("cat:rice-loose", "1.5", "斤")`.

        Raises Malformed if the shop has no such goods, sells them by the piece, or the weight is
        not a positive whole number of grams.
        """
        product = self._catalogue.find_by_key(key)
        if product is None or product.unit != "g":
            raise Malformed("no goods of this key are sold by weight", field="key")
        grams = to_grams(quantity_text, unit_text)
        if grams == 0:
            raise Malformed("must be more than nothing", field="quantity")
        return self._append(
            BasketLine(
                product.key, product.full_description, grams, "g", product.amount_minor(grams)
            )
        )

    def undo(self) -> None:
        """Takes back the last line added or grown; nothing to take back changes nothing."""
        if len(self._states) > 1:
            self._states.pop()

    def give_discount(self, discount_minor: int) -> None:
        """One discount on the whole basket, in minor units; it replaces an earlier one.

        Raises Malformed if it is more than the lines' sum.
        """
        if type(discount_minor) is not int or not 0 <= discount_minor <= self.subtotal_minor:
            raise Malformed("must be between 0 and the basket's sum", field="discount_minor")
        self._discount_minor = discount_minor

    def clear(self) -> None:
        """An empty basket for the next customer."""
        self._states = [()]
        self._next_quantity = 1
        self._discount_minor = 0

    def to_basket(self) -> dict[str, Any]:
        """The basket as the plugin's API takes it: `{"lines": [...], "discount_minor": int}`.

        Raises Malformed if it is empty, or if lines taken back left a discount above the sum.
        """
        if not self.lines:
            raise Malformed("the basket is empty", field="lines")
        if self.total_minor < 0:
            raise Malformed("must be between 0 and the basket's sum", field="discount_minor")
        return {
            "lines": [
                {
                    "key": line.key,
                    "description": line.description,
                    "quantity": line.quantity,
                    "unit": line.unit,
                    "line_amount_minor": line.line_amount_minor,
                }
                for line in self.lines
            ],
            "discount_minor": self._discount_minor,
        }

    def _add_pieces(self, key: str, quantity: int) -> BasketLine:
        product = self._catalogue.find_by_key(key)
        if product is None or product.unit != "piece":
            raise Malformed("no goods of this key are sold by the piece", field="key")
        # A label's line costs what its label said: only lines at this price grow.
        place = next(
            (
                i
                for i, line in enumerate(self.lines)
                if line.key == key
                and line.unit == "piece"
                and line.line_amount_minor == product.amount_minor(line.quantity)
            ),
            len(self.lines),
        )
        before = self.lines[place].quantity if place < len(self.lines) else 0
        line = BasketLine(
            key,
            product.full_description,
            before + quantity,
            "piece",
            product.amount_minor(before + quantity),
        )
        self._push((*self.lines[:place], line, *self.lines[place + 1 :]))
        return line

    def _append(self, line: BasketLine) -> BasketLine:
        self._push((*self.lines, line))
        return line

    def _push(self, lines: tuple[BasketLine, ...]) -> None:
        self._states.append(lines)
        self._next_quantity = 1
