"""What is there before a run begins: a ledger with programmes, families, shops and enrolled tills.

Made once per process under a seed of its own and copied for every run, so that each begins from the
same bytes. Everything is set up through the operators' own calls.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from carepos import Till, disk_room, enrolment, pin, token
from carepos.keys import SigningKey, digest
from carepos_ledger import app, migrations
from carepos_ledger.cards import Cards
from carepos_ledger.database import Database
from carepos_ledger.keyring import Keyring
from carepos_ledger.office import Office
from tests.sim.clock import Time
from tests.sim.ledger_host import LedgerHost
from tests.sim.line import Line
from tests.sim.story import Story
from tests.world import AUDIENCE, FORMULA, IMPORT_KEY_ID, ISSUER, MILK, PROGRAMME, RICE

CURRENCY: Final = "CNY"
STORES: Final = {"zhou-shop": "zhou", "zhou-far": "zhou", "li-shop": "li"}
TILLS: Final = ("zhou-shop", "li-shop", "zhou-shop", "zhou-far")
"""The store of till 1, 2, …: of two merchants, and the third stands beside the first."""
PROGRAMMES: Final = ("dairy", "grain", "formula")
UNDO_WINDOW_S: Final = 3600
OPERATOR_SECRET: Final = "o" * 43
GRACE_S: Final = {"dairy": 3 * 86_400, "grain": 0, "formula": 600}
"""How long what is refunded into an expired voucher can be used."""

PIN: Final = "2580"
WRONG_PIN: Final = "2581"
"""Of every family's card, and what somebody types who does not know it."""
_CARD_SECRET: Final = "s3cr3t-of-one-card-22c"

LOSS_RESERVE: Final = {"dairy": 4_000, "grain": 1_000, "formula": 0}
_HOUR: Final = 3600
OFFLINE: Final[dict[str, dict[str, Any]]] = {
    "dairy": {
        "allotment_permille": 500,
        "spend_s": 6 * _HOUR,
        "upload_s": 2 * _HOUR,
        "pack_age_s": 24 * _HOUR,
        "floor": {
            "redemption_minor": 2_500,
            "beneficiary_minor": 4_000,
            "window_s": 24 * _HOUR,
            "liability": "programme",
        },
        "stored_sum_minor": 9_000,
        "stored_count": 5,
        "online_permille": 100,
    },
    "grain": {
        "allotment_permille": 400,
        "spend_s": 2 * _HOUR,
        "upload_s": _HOUR,
        "pack_age_s": 24 * _HOUR,
        "floor": None,
        "stored_sum_minor": 5_000,
        "stored_count": 3,
        "online_permille": 0,
    },
    "formula": {
        "allotment_permille": 300,
        "spend_s": 6 * _HOUR,
        "upload_s": 2 * _HOUR,
        "pack_age_s": 12 * _HOUR,
        "floor": {
            "redemption_minor": 9_000,
            "beneficiary_minor": 18_000,
            "window_s": 12 * _HOUR,
            "liability": "merchant",
        },
        "stored_sum_minor": 40_000,
        "stored_count": 4,
        "online_permille": 500,
    },
}
"""What each programme lets a till do without the ledger: money and floor limits at the programme's
risk, rice within allotments only, formula at the shop's."""

_STARTS, _ENDS = "2026-08-01T00:00:00.000Z", "2027-08-01T00:00:00.000Z"
_ITEM: Final = {"unit": "g", "cap_minor": 500, "fixed_minor": 0, "cap_quantity": 500}
_FIXED: Final = {"unit": "piece", "cap_minor": 9900, "fixed_minor": 1000, "cap_quantity": 1}


@dataclass(frozen=True)
class Household:
    """What one family was given: money for dairy, grams of rice, tins of formula."""

    ref: str
    dairy_minor: int = 0
    rice_g: int = 0
    formula: int = 0
    ends: Mapping[str, str] = field(default_factory=dict)
    """By programme, when its voucher expires, where it is before the relief ends."""
    sub: str = ""
    card: str = ""
    """What the QR of the printed card says."""

    def rows(self) -> dict[str, dict[str, Any]]:
        """One issue row per programme in which they hold something."""
        base = {
            "ref": self.ref.ljust(43, "_"),
            "label": "援助卡",
            "categories": [],
            "starts_at": _STARTS,
        }
        rows: dict[str, dict[str, Any]] = {}
        if self.dairy_minor:
            rows["dairy"] = {**base, "kind": "value", "amount_minor": self.dairy_minor}
        if self.rice_g:
            rows["grain"] = {**base, "kind": "item", "quantity": self.rice_g, "terms": _ITEM}
        if self.formula:
            rows["formula"] = {
                **base, "kind": "fixed_price", "quantity": self.formula, "terms": _FIXED
            }  # fmt: skip
        return {
            name: {**row, "expires_at": self.ends.get(name, _ENDS)} for name, row in rows.items()
        }


HOUSEHOLDS: Final = (
    Household("family-1", dairy_minor=5_000, rice_g=6_000),
    Household("family-2", dairy_minor=12_000, rice_g=4_000),
    Household("family-3", formula=6, rice_g=2_000, ends={"grain": "2026-11-22T08:20:00.000Z"}),
    Household("family-4", dairy_minor=3_000, ends={"dairy": "2026-11-22T08:30:00.000Z"}),
    Household("family-5", dairy_minor=9_000, rice_g=3_000, formula=2),
    Household("family-6", dairy_minor=30_000),
)


@dataclass(frozen=True)
class Township:
    """The folder to copy, and what everybody in a run knows."""

    folder: Path
    households: tuple[Household, ...]
    terminals: dict[str, str]
    """By till's name (which is its folder's), the terminal that it is."""
    ledger_kid: str
    ledger_x: str
    issuer_key: SigningKey

    def settle_in(self, folder: Path) -> None:
        """A copy of everything, ready for a run."""
        shutil.copytree(self.folder, folder, copy_function=copy)


def copy(file: str, to: str) -> None:
    """A copy; but the megabytes that a till only holds and lets go are the same for all."""
    if Path(file).name == disk_room.FILE:
        os.link(file, to)
    else:
        shutil.copy2(file, to)


def found(folder: Path) -> Township:
    """Make the township in `folder`: the same bytes each time."""
    rng = Random("a township")
    time, story = Time(), Story()
    folder.mkdir(parents=True)
    host = LedgerHost(folder, story, now=time.clock_of("the ledger"), ids=rng.randbytes)
    keyring = Keyring.create(host.settings.folder, rng.randbytes)
    database = Database(host.settings.database)
    migrations.upgrade(database)
    database.close()
    issuer_key = SigningKey(rng.randbytes(32))
    host.start()
    try:
        assert host.running is not None
        households = _open_office(host.running, issuer_key)
        terminals = _enrol_tills(folder, host, time, rng)
    finally:
        host.stop()
    return Township(
        folder,
        households,
        terminals,
        keyring.signing.kid,
        keyring.signing.public.x,
        issuer_key,
    )


def _open_office(ledger: app.Ledger, issuer_key: SigningKey) -> tuple[Household, ...]:
    office = ledger.office
    ledger.operators.add("office", OPERATOR_SECRET)
    ledger.issuers.put(ISSUER, [issuer_key.public.to_jwk()])
    products = {MILK: "dairy", FORMULA: "infant-formula", RICE: "grain"}
    ledger.programmes.put_product_list("relief", 1, products)
    office.put_funder("red-cross", "红十字会")
    office.put_funder("dairy-fund", "乳业基金")
    for merchant in sorted(set(STORES.values())):
        office.put_merchant(merchant, f"{merchant} 超市")
    for store, merchant in STORES.items():
        office.put_store(store, merchant, f"{store} 店")
    for programme in PROGRAMMES:
        ledger.programmes.put_programme(rules_of(programme))
        office.fund(programme, "red-cross", 70_001, f"grant-1-{programme}")
        office.fund(programme, "dairy-fund", 30_002, f"grant-2-{programme}")
        if LOSS_RESERVE[programme]:
            office.reserve_for_losses(programme, LOSS_RESERVE[programme], f"losses-{programme}")
        for store in STORES:
            ledger.programmes.admit_store(programme, store)
    return tuple(_with_card(ledger.cards, issuer_key, issue(office, each)) for each in HOUSEHOLDS)


def _with_card(cards: Cards, issuer_key: SigningKey, household: Household) -> Household:
    name = f"card-of-{household.ref}"
    text = token.mint(
        issuer_key,
        iss=ISSUER,
        aud=AUDIENCE,
        sub=household.sub,
        jti=name,
        issued_at=Time().at,
        lifetime_s=300 * 86_400,
        token_class="card",
        amr=("carepos:card",),
    )
    proof = pin.proof(PIN, iss=ISSUER, jti=name, card_secret=_CARD_SECRET)
    cards.put(ISSUER, digest(name.encode()), household.sub, pin.verifier(proof))
    return replace(household, card=f"CPC1*{_CARD_SECRET}*{text}")


def issue(office: Office, household: Household) -> Household:
    """The same household once it holds its vouchers, with the `sub` that it got."""
    sub = ""
    for programme, row in household.rows().items():
        [answer] = office.issue(programme, IMPORT_KEY_ID, [row])
        assert answer.result == "issued" and answer.sub is not None, answer
        sub = answer.sub
    return replace(household, sub=sub)


def rules_of(programme: str, *, paused: bool = False) -> dict[str, Any]:
    """What an operator types for one of the programmes."""
    return {
        **PROGRAMME,
        "programme": programme,
        "name": f"洪灾援助 {programme}",
        "paused": paused,
        "classes": ["once", "card"],
        "undo_window_s": UNDO_WINDOW_S,
        "offline": OFFLINE[programme],
        "refunds": {"window_s": 14 * 86_400, "grace_s": GRACE_S[programme]},
    }


def _enrol_tills(folder: Path, host: LedgerHost, time: Time, rng: Random) -> dict[str, str]:
    """By till's name, the terminal that it became."""
    found = {}
    for n, store in enumerate(TILLS, 1):
        name = f"till-{n}"
        home = folder / name
        found[name] = enrol_till(home, host, store, rng.randbytes)
        with Till.open(
            home, now=time.clock_of(name), random_bytes=rng.randbytes, transport=Line(host.call)
        ) as till:
            till.refresh_pack()
        # The run begins with a journal of its own; the pack stays.
        for file in home.glob("journal.db*"):
            file.unlink()
    return found


def enrol_till(
    home: Path, host: LedgerHost, store: str, random_bytes: Callable[[int], bytes]
) -> str:
    """Make a folder that is a till of a running ledger; the terminal that it is."""
    assert host.running is not None
    home.mkdir()
    key = SigningKey(random_bytes(32))
    key.save(home / "terminal.key")
    line = Line(host.call)
    code = host.running.terminals.new_activation(store, 3600).code
    enrolled = enrolment.enrol(line.url, code, key, line)
    enrolled.save(home / "enrolment.json")
    return enrolled.terminal
