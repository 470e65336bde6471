"""Settlement files and their chain, written a second time from docs/protocol.md section 12."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tests.second_signing import Json, Key, digest, split, unread, utc

MANIFEST = "carepos-manifest+jws"
HEADER = (
    "line_no,kind,receipt_no,incarnation,terminal,store,occurred_at,recorded_at,"
    "amount_minor,currency"
)


@dataclass(frozen=True)
class Entry:
    """A row of a settlement file that a close will sweep; `sale`: whose number it bears."""

    record: Json
    record_sha256: str
    receipt_no: str
    sale: Json
    store: str
    recorded_at: str
    amount_minor: int


class Settlement:
    """What no batch holds yet, and every batch, by (merchant, programme)."""

    def __init__(self, now: Callable[[], datetime], key: Key) -> None:
        self.now, self.key = now, key
        self.epoch = 1
        self.put_in: dict[str, Counter[str]] = {}
        self.given: dict[str, Counter[str]] = {}
        self.settled: Counter[str] = Counter()
        self.swept: set[str] = set()
        self.entries: dict[tuple[str, str], list[Entry]] = {}
        self.batches: dict[tuple[str, str], list[tuple[str, bytes]]] = {}

    def begin(self, programme: str) -> None:
        self.put_in.setdefault(programme, Counter())
        self.given.setdefault(programme, Counter())

    def enter(self, merchant: str, programme: str, entry: Entry) -> None:
        self.entries.setdefault((merchant, programme), []).append(entry)

    def close(self, programme: str, currency: str) -> int:
        """Sweep the programme's entries into one batch per merchant; how many were made."""
        pending = sorted(
            key for key, found in self.entries.items() if key[1] == programme and found
        )
        for merchant, _ in pending:
            self._settle(merchant, programme, currency)
        return len(pending)

    def _settle(self, merchant: str, programme: str, currency: str) -> None:
        rows = sorted(
            self.entries.pop((merchant, programme)),
            key=lambda row: (
                row.record["terminal"],
                row.sale["incarnation"],
                row.sale["sequence"],
                row.record["kind"],
                row.record_sha256,
            ),
        )
        lines = [HEADER]
        for number, row in enumerate(rows, 1):
            values = (
                number,
                row.record["kind"],
                row.receipt_no,
                row.sale["incarnation"],
                row.record["terminal"],
                row.store,
                row.record["occurred_at"],
                row.recorded_at,
                row.amount_minor,
                currency,
            )
            lines.append(",".join(map(str, values)))
        file = "".join(line + "\n" for line in lines).encode()
        batches = self.batches.setdefault((merchant, programme), [])
        first = digest(f"carepos/settlement/v1|{merchant}|{programme}".encode())
        previous = unread(batches[-1][0], MANIFEST).digest if batches else first
        sold = [row.amount_minor for row in rows if row.record["kind"] == "redeem"]
        undone = [row.amount_minor for row in rows if row.record["kind"] != "redeem"]
        self.swept |= {row.record_sha256 for row in rows}
        net = sum(row.amount_minor for row in rows)
        manifest = {
            "v": 1,
            "kind": "settlement",
            "merchant": merchant,
            "programme": programme,
            "currency": currency,
            "batch_no": len(batches) + 1,
            "closed_at": utc(self.now()),
            "epoch": self.epoch,
            "file": {
                "name": f"settlement-{merchant}-{programme}-{len(batches) + 1:06d}.csv",
                "sha256": digest(file),
                "length": len(file),
                "rows": len(rows),
            },
            "redeemed": {"count": len(sold), "amount_minor": sum(sold)},
            "reversed": {"count": len(undone), "amount_minor": sum(undone)},
            "net_minor": net,
            "funders": self._parts(programme, net),
            "previous": previous,
        }
        batches.append((self.key.sign(MANIFEST, manifest), file))

    def _parts(self, programme: str, net: int) -> list[Json]:
        self.settled[programme] += net
        put_in, given = self.put_in[programme], self.given[programme]
        names = sorted(put_in)
        targets = split(self.settled[programme], [put_in[name] for name in names])
        parts = []
        for name, target in zip(names, targets, strict=True):
            parts.append({"funder": name, "amount_minor": target - given[name]})
            given[name] = target
        return parts
