"""Sales that went out of the door, written a second time from docs/offline.md sections 7 and 8."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography.exceptions import InvalidTag

from tests.second_attempts import Attempt, Item
from tests.second_book import Allotment, Book, Draw, Taken
from tests.second_pack import Allotting, Known
from tests.second_problems import Problem
from tests.second_rules import Refused
from tests.second_signing import Bad, Json, moment, unb64
from tests.vectors import second, second_offline


class Held(Exception):
    """Nobody can decide it but a person; `reason` is `token` or `malformed`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def opened(item: Item, private: bytes) -> tuple[str, bytes | None]:
    """The presentation that was sealed, and the proof of its PIN, if one was.

    Raises:
        Problem: it does not open. Nobody signed it, so nothing is decided by it.
    """
    try:
        terminal, identifier = item.record["terminal"], item.record["id"]
        told = second_offline.open_evidence(item.evidence or "", private, terminal, identifier)
        shown, _, proof = told.partition("\n")
        return shown, unb64(proof) if proof else None
    except (Bad, second.Refused, InvalidTag, ValueError, IndexError) as failure:
        raise Problem("malformed", field="evidence") from failure


@dataclass
class Acceptance:
    """A sale that went out of the door, and what can be known of it."""

    sale: Json
    content: Json
    rule: Json
    pack: Known | None


def fits(sale: Json, content: Json) -> bool:
    """Whether an acceptance takes of allotments no more than its sale takes of the vouchers."""
    for name in {each["voucher"] for each in content["allotment_use"]}:
        used = [each for each in content["allotment_use"] if each["voucher"] == name]
        taken = [each for each in sale["content"]["allocation"] if each["voucher"] == name]
        if sum(each["amount_minor"] for each in used) > sum(
            entry["programme_minor"] for entry in taken
        ):
            return False
        if sum(each["quantity"] for each in used) > sum(entry["quantity"] for entry in taken):
            return False
    return True


@dataclass
class Found:
    """What one voucher gives, what is said of allotments that are closed, and how much is missing
    that was within none."""

    taken: Taken
    freed: list[tuple[Allotment, int]] = field(default_factory=list)
    beyond: int = 0

    def undo(self) -> None:
        for draw in self.taken.draws:
            draw.pot.minor, draw.pot.quantity = (
                draw.pot.minor + draw.minor,
                draw.pot.quantity + draw.quantity,
            )
        for pot, some in self.freed:
            pot.freed += some


class Offline:
    """Books acceptances; `reserves` are the programmes' for their losses."""

    def __init__(self, book: Book, allotting: Allotting) -> None:
        self.book, self.allotting = book, allotting
        self.reserves: dict[str, int] = {}

    def book_it(self, attempt: Attempt, it: Acceptance) -> Json:
        """What the sale and its acceptance are answered.

        Raises:
            Refused: `balance_insufficient`, an exception.
        """
        sale = it.sale["content"]
        whole = sum(entry["programme_minor"] for entry in sale["allocation"])
        names = sorted({entry["voucher"] for entry in sale["allocation"]})
        found = [self._take(it, name) for name in names]
        taken = [each.taken for each in found]
        covered = sum(each.minor for each in taken)
        short, liability = whole - covered, _liable(it, sum(each.beyond for each in found))
        programme = sale["programme"]
        if short and (
            covered == 0 if liability == "merchant" else self.reserves.get(programme, 0) < short
        ):
            for each in found:
                each.undo()
            raise Refused("balance_insufficient")
        attempt.taken = [each for each in taken if each.minor or each.quantity]
        attempt.offline, attempt.short = True, bool(short)
        mine = it.sale["terminal"], it.sale["incarnation"]
        told = [
            self.book.said(each.voucher, each.draws, self.allotting.own(each.voucher, *mine))
            for each in attempt.taken
        ]
        payload = {
            "result": "posted",
            "currency": sale["currency"] if told else None,
            "amount_minor": covered,
            "vouchers": told,
        }
        if short:
            payload |= {"result": "posted_short", "shortfall_minor": short, "liability": liability}
            if liability == "programme":
                self.reserves[programme] -= short
        return payload

    def _take(self, it: Acceptance, name: str) -> Found:
        """From the allotments that it names, the rest from what is available."""
        found = Found(Taken(name))
        parts = [entry for entry in it.sale["content"]["allocation"] if entry["voucher"] == name]
        minor = sum(entry["programme_minor"] for entry in parts)
        quantity = sum(entry["quantity"] for entry in parts)
        mine = it.sale["terminal"], it.sale["incarnation"]
        for use in (each for each in it.content["allotment_use"] if each["voucher"] == name):
            for pot in self.book.allotments[name]:
                if (pot.number, pot.terminal, pot.incarnation) != (use["allotment"], *mine):
                    continue
                if pot.open:
                    asked = use["amount_minor"], use["quantity"]
                    found.taken.draws.append(self.book.draw(name, pot, *asked))
                else:
                    some = min(use["amount_minor"], pot.freed)
                    pot.freed -= some
                    found.freed.append((pot, some))
        rest = minor - found.taken.minor, quantity - found.taken.quantity
        found.taken.draws.append(self.book.draw(name, self.book.pots[name], *rest))
        found.beyond = max(0, minor - found.taken.minor - sum(some for _, some in found.freed))
        return found

    def return_them(self, item: Item) -> list[tuple[str, list[Draw]]]:
        """Close the allotments that a record names, if they are its terminal's and open."""
        back: dict[str, list[Draw]] = {}
        for each in item.record["content"]["allotments"]:
            for own in self.allotting.own(each["voucher"], item.terminal.name):
                if own.number == each["allotment"]:
                    back.setdefault(each["voucher"], []).append(
                        self.book.close(own, given_back=True)
                    )
        return sorted(back.items())


def _liable(it: Acceptance, beyond: int) -> str:
    """Who bears what nothing covers, `beyond` of it within no allotment."""
    floor = it.rule["floor"]
    if beyond == 0:
        return "programme"
    if floor is None or beyond > floor["redemption_minor"]:
        return "merchant"
    said: str = floor["liability"]
    return said


def at(sale: Json) -> datetime:
    return moment(sale["occurred_at"])
