"""Who and what the demo plays with: the programme, the issuer, the families, what they buy."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from carepos import clock, token
from carepos.keys import SigningKey, b64
from sample_merchant.catalogue import Catalogue
from sample_merchant.product_export import DATA
from sample_merchant.register import Register

ISSUER = "https://id.rongjiang.example"
AUDIENCE = "urn:carepos:redeem"
PROGRAMME = "flood-dairy"
HOUSEHOLDS = DATA / "households_gb18030.csv"
MAPPING = DATA / "households.mapping.toml"
PRODUCT_LIST = DATA / "product-list.csv"
MADE_DAMAGED = DATA / "made-damaged-products_gb18030.csv"

# What a family may buy with its dairy card, and what it buys besides; barcodes of the sample shop.
COVERED = (
    "6913046198782", "6949688688282", "6990817079471", "6955795782645", "6939113176439",
    "6969137795118", "6932482110967", "6978568432479", "6995332420166",
)  # fmt: skip
NOT_COVERED = ("6952589852966", "6998035705974", "6927382851263", "6978160709764", "6968193248101")


def programme() -> dict[str, Any]:
    """The programme as its office writes it down; open for a year around now."""
    now = datetime.now(UTC)
    return {
        "programme": PROGRAMME,
        "name": "7·28 洪灾奶制品发放",
        "currency": "CNY",
        "starts_at": clock.to_text(now - timedelta(days=30)),
        "ends_at": clock.to_text(now + timedelta(days=335)),
        "paused": False,
        "product_list": "dairy-relief",
        "issuer": ISSUER,
        "classes": ["once"],
        "amr_any": ["face", "carepos:palm"],
        "limit_per_redemption_minor": None,
        "top_up_allowed": True,
        "undo_window_s": 3600,
        "quotas": [],
        "refunds": {"window_s": 14 * 86_400, "grace_s": 3 * 86_400},
        # Half of a voucher is set aside for the shop where its family buys, for three days.
        "offline": {
            "allotment_permille": 500,
            "spend_s": 3 * 86_400,
            "upload_s": 4 * 86_400,
            "pack_age_s": 3 * 86_400,
            "floor": None,
            "stored_sum_minor": 1_000_000,
            "stored_count": 200,
            "online_permille": 0,
        },
    }


@dataclass(frozen=True, slots=True)
class Family:
    """One issued household: what the issuer got in `enrolment.csv`, and no name."""

    line: int
    sub: str


class Issuer:
    """The identity office: knows each `sub`, reads a face or palm, hands out a fresh care code."""

    def __init__(self, key_file: Path, seed: random.Random) -> None:
        self._key = SigningKey.generate()
        self._key.save(key_file)
        self._seed = seed

    def jwks(self) -> str:
        return json.dumps({"keys": [self._key.public.to_jwk()]})

    def care_code(self, family: Family) -> str:
        return token.mint(
            self._key,
            iss=ISSUER,
            aud=AUDIENCE,
            sub=family.sub,
            jti=b64(self._seed.randbytes(12)),
            issued_at=datetime.now(UTC),
            amr=(self._seed.choice(["face", "carepos:palm"]),),
        )


def families(enrolment: Path) -> list[Family]:
    with enrolment.open(encoding="utf-8", newline="") as file:
        return [Family(int(row["line"]), row["sub"]) for row in csv.DictReader(file)]


def baskets(catalogue: Catalogue, seed: random.Random) -> Iterator[dict[str, Any]]:
    """What families put on the counter: dairy, sometimes other goods, now and then a discount."""
    while True:
        register = Register(catalogue)
        for barcode in seed.sample(COVERED, seed.randint(1, 3)):
            register.press_quantity(seed.choice([1, 1, 1, 2]))
            register.scan(barcode)
        if seed.random() < 0.6:
            for barcode in seed.sample(NOT_COVERED, seed.randint(1, 2)):
                register.scan(barcode)
        if seed.random() < 0.2:
            register.add_weighed("cat:rice-loose", "2.5", "斤")
        if seed.random() < 0.25:
            register.give_discount(seed.choice([100, 333, 500]))
        yield register.to_basket()


def without_cover(catalogue: Catalogue) -> dict[str, Any]:
    """A basket that the programme pays nothing of."""
    register = Register(catalogue)
    for barcode in NOT_COVERED[:3]:
        register.scan(barcode)
    return register.to_basket()


def two_cartons(catalogue: Catalogue) -> dict[str, Any]:
    register = Register(catalogue)
    register.press_quantity(2)
    register.scan(COVERED[2])
    return register.to_basket()


def one_carton(catalogue: Catalogue) -> dict[str, Any]:
    register = Register(catalogue)
    register.scan(COVERED[2])
    return register.to_basket()
