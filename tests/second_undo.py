"""Void and refund, written a second time from docs/offline.md section 3 alone.

What a record may look like, and which refusal comes first, is `vectors.second_undo`: here it is
booked.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from tests.second_attempts import Attempt, Item, Terminal, nothing_put_back
from tests.second_book import Allotment, Book, Draw, Taken
from tests.second_problems import Problem
from tests.second_rules import Refused
from tests.second_signing import Json, receipt_no, unb64, utc
from tests.vectors import second_undo

_BEHIND_EXCEEDS = (None, "refund_not_whole", "proposal_changed")


class Undo:
    """Takes back what attempts booked; `finish` is told of the programme and what went back."""

    def __init__(
        self,
        now: Callable[[], datetime],
        book: Book,
        attempts: Mapping[tuple[str, str], Attempt],
        terminals: Mapping[str, Terminal],
        settled: Callable[[Attempt], bool],
        own: Callable[[str, Item], Sequence[Allotment]],
    ) -> None:
        self.now, self.book, self.attempts = now, book, attempts
        self.terminals, self.settled, self.own = terminals, settled, own

    def of(self, item: Item) -> Attempt | None:
        """The attempt that the record names, if that is a sale."""
        original = item.record["content"]["original"]
        found = self.attempts.get((original["terminal"], original["id"]))
        return found if found is not None and found.kind in ("redeem", "reversal") else None

    def book_it(self, item: Item, programmes: Mapping[str, Json]) -> Json:
        """What the record is answered.

        Raises:
            Refused: as the first row of the table that fits says.
        """
        record, sale = item.record, self.of(item)
        programme = programmes[sale.sale["content"]["programme"]] if sale and sale.sale else {}
        code = second_undo.judge(self._situation(item, sale, programme), record)
        if sale and sale.short and record["kind"] == "refund" and code in _BEHIND_EXCEEDS:
            code = "refund_exceeds"
        if code is not None or sale is None:
            raise Refused(code or "original_unknown")
        grace_s = None
        if record["kind"] == "void":
            sale.undone = True
            wanted = {taken.voucher: (taken.minor, taken.quantity) for taken in sale.taken}
        else:
            content = record["content"]
            sale.refunded += content["lines"]
            wanted, grace_s = {}, programme["refunds"]["grace_s"]
            for part in content["parts"]:
                minor, quantity = wanted.get(part["voucher"], (0, 0))
                moved = minor + part["programme_minor"], quantity + part["quantity"]
                wanted[part["voucher"]] = moved
        return self.give_back(item, sale, wanted, grace_s)

    def give_back(
        self,
        item: Item,
        sale: Attempt,
        wanted: Mapping[str, tuple[int, int]],
        grace_s: int | None,
    ) -> Json:
        """Give back of a sale; `grace_s` None: as it was taken, also to what is expired."""
        told = []
        for taken in sale.taken:
            moved = wanted.get(taken.voucher, (0, 0))
            if any(moved):
                back = self._back(taken, moved, grace_s)
                told.append(self.book.said(taken.voucher, back, self.own(taken.voucher, item)))
        if not told:
            return nothing_put_back("posted")
        total = sum(each["amount_minor"] for each in told)
        currency = sale.sale["content"]["currency"]
        return {"result": "posted", "currency": currency, "amount_minor": total, "vouchers": told}

    def _back(self, taken: Taken, moved: tuple[int, int], grace_s: int | None) -> list[Draw]:
        expired = utc(self.now()) >= self.book.vouchers[taken.voucher]["expires_at"]
        if grace_s is None or not expired:
            return self.book.put_back(taken, *moved)
        until = utc(self.now() + timedelta(seconds=grace_s)) if grace_s else None
        return self.book.put_back_expired(taken, *moved, until)

    def _situation(self, item: Item, sale: Attempt | None, programme: Json) -> Json:
        merchant = item.terminal.merchant
        of = {name for name, each in self.terminals.items() if each.merchant == merchant}
        return {
            "now": utc(self.now()),
            "terminals": of,
            "programme": programme,
            "terms": {name: each["terms"] for name, each in self.book.vouchers.items()},
            "sale": sale and self._told(item.record["content"]["original"], sale),
        }

    def _told(self, original: Json, sale: Attempt) -> Json:
        content = sale.sale.get("content", {"basket": [], "allocation": []})
        return {
            **original,
            "record_sha256": sale.record_sha256,
            "state": sale.state,
            "refunded": sale.refunded,
            "undone": sale.undone,
            "offline": sale.offline,
            "settled": self.settled(sale),
            "recorded_at": sale.recorded_at,
            "occurred_at": sale.sale.get("occurred_at"),
            "basket": content["basket"],
            "allocation": content["allocation"],
            "bytes_held": True,
        }

    def find(self, reader: Terminal, number: str, code: str | None) -> tuple[Json, str]:
        """What a ledger signs of a booked sale of the reader's merchant, and the sale's record."""
        found = [
            (self.terminals[terminal], attempt)
            for (terminal, _), attempt in self.attempts.items()
            if attempt.kind == "redeem"
            and attempt.state == "posted"
            and self.terminals[terminal].merchant == reader.merchant
            and number == receipt_no(self.terminals[terminal].number, attempt.sale["sequence"])
            and code in (None, receipt_code(attempt.record_sha256))
        ]
        if len(found) != 1:
            raise Problem("not_found")
        [(terminal, sale)] = found
        content = sale.sale["content"]
        sums = second_undo.line_sums(sale.refunded)
        names = sorted({entry["voucher"] for entry in content["allocation"]})
        entries = content["allocation"]
        stands = any(
            any(second_undo.kept(content, each, sums.get(each["line"], 0))) for each in entries
        )
        told = {
            "original": {"terminal": terminal.name, "id": sale.sale["id"]},
            "record_sha256": sale.record_sha256,
            "recorded_at": sale.recorded_at,
            "refunded": [{"line": line, "quantity": n} for line, n in sorted(sums.items())],
            "undone": sale.undone or not stands,
            "vouchers": [
                {name: self.book.vouchers[each][name] for name in ("voucher", "label", "terms")}
                for each in names
            ],
        }
        return told, sale.jws


def receipt_code(record_sha256: str) -> str:
    """Section 13 of the protocol: what a receipt's QR says of the record."""
    return base64.b32encode(unb64(record_sha256)).decode()[:16]
