"""How large the QR of each kind of code is, measured on codes that are really made.

Short names against those that an identity server's defaults give: the table of docs/issuers.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from carepos import qr_size
from carepos.issuer_folder import IssuerSigner
from carepos.minting import Mint
from carepos.qr_size import Level

AUDIENCE: Final = "urn:carepos:redeem"
SHORT: Final = ("https://id.example", "k1", "s" * 22)
LONG: Final = (
    "https://accounts.identity-office.county.example/realms/relief",
    "k" * 43,
    "s" * 36,
)
"""Two ways to name things: (iss, kid, sub). Long is what an identity server's defaults give."""


def measured(
    signer: IssuerSigner, iss: str, sub: str, audience: str = AUDIENCE
) -> Iterable[tuple[str, str]]:
    """(kind, code) of each kind that this issuer would make; the codes are for measuring only."""
    start = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
    mint = Mint(signer, iss=iss, audience=audience, now=lambda: start)
    holder = IssuerSigner.generate("ES256", "holder")
    acted = {"actor": sub, "reason": "phone_lost", "amr": ("face",)}
    yield "once", mint.once(sub, amr=("face",)).code
    yield "proxy", mint.acted(sub, way="proxy", **acted).code  # type: ignore[arg-type]
    yield "witness", mint.acted(sub, way="witness", **acted).code  # type: ignore[arg-type]
    yield "card", mint.card(sub, pin_chosen="0000").code
    yield "wallet", mint.wallet(sub, holder=holder).code


def rows(names: str, signer: IssuerSigner, iss: str, sub: str) -> Iterable[dict[str, object]]:
    """One row for each kind: characters, and for level L and M version, modules and dots."""
    for kind, code in measured(signer, iss, sub):
        row: dict[str, object] = {
            "names": names, "alg": signer.alg, "kind": kind, "characters": len(code)
        }  # fmt: skip
        levels: tuple[Level, ...] = ("L", "M")
        for level in levels:
            size = qr_size.of(code, level)
            row[level] = {
                "version": size.version,
                "modules": size.modules,
                "dots_58": size.dots_per_module(58),
                "dots_80": size.dots_per_module(80),
            }
        yield row


def table() -> list[dict[str, object]]:
    """The table of docs/issuers.md: short and long names, small and large signatures."""
    made: list[dict[str, object]] = []
    for names, (iss, kid, sub), alg in (
        ("short", SHORT, "EdDSA"),
        ("long", LONG, "EdDSA"),
        ("short", SHORT, "RS256"),
        ("long", LONG, "RS256"),
    ):
        made += rows(names, IssuerSigner.generate(alg, kid), iss, sub)
    return made


def lines(measured_rows: Iterable[dict[str, Any]]) -> Iterable[str]:
    """The rows as a table that reads as text and as Markdown."""
    titles = ["names", "alg", "kind", "characters"]
    for level in ("L", "M"):
        titles += [f"{level}: version (modules)", "dots 58 / 80 mm"]
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row in measured_rows:
        cells = [str(row[name]) for name in ("names", "alg", "kind", "characters")]
        for level in ("L", "M"):
            size = row[level]
            cells.append(f"{size['version']} ({size['modules']})")
            cells.append(f"{size['dots_58']} / {size['dots_80']}")
        yield f"| {' | '.join(cells)} |"
