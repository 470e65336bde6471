"""What a programme allows and what a voucher is worth: the state that the rules look at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from carepos import clock, ids, money, strict_json
from carepos.basket import MAX_QUANTITY, unit
from carepos.errors import Malformed
from carepos.offline_rule import OfflineRule
from carepos.product import Unit

VoucherKind = Literal["value", "item", "fixed_price"]


@dataclass(frozen=True, slots=True)
class Terms:
    """Price terms of an item or fixed-price voucher, per `cap_quantity` of `unit`.

    The programme pays at most `cap_minor` less `fixed_minor`, the beneficiary's own set part.
    """

    unit: Unit
    cap_minor: int
    fixed_minor: int
    cap_quantity: int

    def __post_init__(self) -> None:
        if not 0 <= self.fixed_minor < self.cap_minor:
            raise Malformed("the fixed price must be below the cap", field="terms.fixed_minor")

    def cap(self, quantity: int) -> int:
        return self.cap_minor * quantity // self.cap_quantity

    def fixed(self, quantity: int) -> int:
        return self.fixed_minor * quantity // self.cap_quantity

    def reserve(self, quantity: int) -> int:
        """Money that issuing sets aside for `quantity`; no redemptions of it ever need more."""
        return self.cap(quantity) - self.fixed(quantity)

    def portion(self, quantity: int) -> int:
        """The largest redeemable quantity ≤ `quantity`: whole portions where a price is fixed."""
        return quantity - quantity % self.cap_quantity if self.fixed_minor else quantity

    def to_json(self) -> dict[str, object]:
        return {
            "unit": self.unit,
            "cap_minor": self.cap_minor,
            "fixed_minor": self.fixed_minor,
            "cap_quantity": self.cap_quantity,
        }

    @classmethod
    def from_json(cls, value: object, where: str = "terms") -> Terms:
        names = strict_json.exact_names(
            value, {"unit", "cap_minor", "fixed_minor", "cap_quantity"}, where=where
        )
        top = money.MAX_AMOUNT_MINOR
        return cls(
            unit(names["unit"], f"{where}.unit"),
            strict_json.integer(names["cap_minor"], f"{where}.cap_minor", low=1, high=top),
            strict_json.integer(names["fixed_minor"], f"{where}.fixed_minor", high=top),
            strict_json.integer(
                names["cap_quantity"], f"{where}.cap_quantity", low=1, high=MAX_QUANTITY
            ),
        )


@dataclass(frozen=True, slots=True)
class Voucher:
    """A voucher as the ledger (or later the pack) states it at one moment.

    `beneficiary` is the reference of its holder at this merchant. Half-open dates:
    `starts_at` ≤ t < `expires_at`. A value voucher counts `available_minor`; the others count
    `available_quantity` in their terms' unit.
    """

    voucher: str
    programme: str
    beneficiary: str
    kind: VoucherKind
    label: str
    categories: frozenset[str]
    starts_at: datetime
    expires_at: datetime
    frozen: bool
    available_minor: int
    available_quantity: int
    terms: Terms | None

    def __post_init__(self) -> None:
        if (self.terms is None) != (self.kind == "value"):
            raise Malformed("only item and fixed-price vouchers have terms", field="terms")
        if self.terms is not None and (self.kind == "fixed_price") != (self.terms.fixed_minor > 0):
            raise Malformed("only a fixed-price voucher has a fixed price", field="terms")

    def covers(self, category: str) -> bool:
        """Whether it may pay for `category`; one without categories covers the product list."""
        return not self.categories or category in self.categories

    def order(self) -> tuple[datetime, float, str]:
        """Sort key: earliest expiry, most specific (fewest categories), id."""
        specific = len(self.categories) if self.categories else float("inf")
        return (self.expires_at, specific, self.voucher)

    def less(self, minor: int, quantity: int) -> Voucher:
        """The voucher after `minor` (value) or `quantity` (item) was taken from it."""
        if self.kind == "value":
            return replace(self, available_minor=self.available_minor - minor)
        return replace(self, available_quantity=self.available_quantity - quantity)

    def to_json(self) -> dict[str, object]:
        """As a lookup states it (docs/protocol.md §9): without the holder, who is named once."""
        return {
            "voucher": self.voucher,
            "programme": self.programme,
            "kind": self.kind,
            "label": self.label,
            "categories": sorted(self.categories),
            "starts_at": clock.to_text(self.starts_at),
            "expires_at": clock.to_text(self.expires_at),
            "frozen": self.frozen,
            "available_minor": self.available_minor,
            "available_quantity": self.available_quantity,
            "terms": None if self.terms is None else self.terms.to_json(),
        }

    @classmethod
    def from_json(cls, value: object, beneficiary: str, where: str = "voucher") -> Voucher:
        names = strict_json.exact_names(
            value,
            {
                "voucher", "programme", "kind", "label", "categories", "starts_at", "expires_at",
                "frozen", "available_minor", "available_quantity", "terms",
            },
            where=where,
        )  # fmt: skip
        top = money.MAX_AMOUNT_MINOR
        return cls(
            ids.reference(names["voucher"], f"{where}.voucher"),
            ids.name(names["programme"], f"{where}.programme"),
            beneficiary,
            voucher_kind(names["kind"], f"{where}.kind"),
            strict_json.text(names["label"], f"{where}.label", low=0, high=60),
            categories(names["categories"], f"{where}.categories"),
            clock.from_text(names["starts_at"], f"{where}.starts_at"),
            clock.from_text(names["expires_at"], f"{where}.expires_at"),
            strict_json.boolean(names["frozen"], f"{where}.frozen"),
            strict_json.integer(names["available_minor"], f"{where}.available_minor", high=top),
            strict_json.integer(
                names["available_quantity"], f"{where}.available_quantity", high=MAX_QUANTITY
            ),
            None if names["terms"] is None else Terms.from_json(names["terms"], f"{where}.terms"),
        )


def voucher_kind(value: object, field: str = "kind") -> VoucherKind:
    if value == "value" or value == "item" or value == "fixed_price":
        return value
    raise Malformed("must be value, item or fixed_price", field=field)


def categories(value: object, field: str = "categories") -> frozenset[str]:
    named = [ids.name(c, field) for c in strict_json.array(value, field, high=20)]
    return frozenset(named)


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `quantity` of `category` in one redemption."""

    category: str
    quantity: int
    unit: Unit

    def to_json(self) -> dict[str, object]:
        return {"category": self.category, "quantity": self.quantity, "unit": self.unit}

    @classmethod
    def from_json(cls, value: object, where: str = "quota") -> Quota:
        names = strict_json.exact_names(value, {"category", "quantity", "unit"}, where=where)
        return cls(
            ids.name(names["category"], f"{where}.category"),
            strict_json.integer(names["quantity"], f"{where}.quantity", high=MAX_QUANTITY),
            unit(names["unit"], f"{where}.unit"),
        )


@dataclass(frozen=True, slots=True)
class ActingRule:
    """How far somebody may act for a beneficiary (docs/identity.md §8).

    `household_minor` and `actor_minor` bound what is paid in any `window_s` in redemptions that
    were acted: for one household, and by one actor.
    """

    proxy: bool
    witness: bool
    household_minor: int
    actor_minor: int
    window_s: int

    def to_json(self) -> dict[str, object]:
        return {
            "proxy": self.proxy,
            "witness": self.witness,
            "household_minor": self.household_minor,
            "actor_minor": self.actor_minor,
            "window_s": self.window_s,
        }

    @classmethod
    def from_json(cls, value: object, where: str = "acting") -> ActingRule:
        names = strict_json.exact_names(value, cls.__dataclass_fields__.keys(), where=where)
        top = money.MAX_AMOUNT_MINOR
        return cls(
            strict_json.boolean(names["proxy"], f"{where}.proxy"),
            strict_json.boolean(names["witness"], f"{where}.witness"),
            strict_json.integer(names["household_minor"], f"{where}.household_minor", high=top),
            strict_json.integer(names["actor_minor"], f"{where}.actor_minor", high=top),
            strict_json.integer(names["window_s"], f"{where}.window_s", low=1, high=31_622_400),
        )


@dataclass(frozen=True, slots=True)
class RefundRule:
    """How long after a sale refunds are taken, and how long what goes back into an expired voucher
    can be used from then (docs/offline.md §3)."""

    window_s: int
    grace_s: int

    def to_json(self) -> dict[str, object]:
        return {"window_s": self.window_s, "grace_s": self.grace_s}

    @classmethod
    def from_json(cls, value: object, where: str = "refunds") -> RefundRule:
        names = strict_json.exact_names(value, cls.__dataclass_fields__.keys(), where=where)
        return cls(
            strict_json.integer(names["window_s"], f"{where}.window_s", high=31_622_400),
            strict_json.integer(names["grace_s"], f"{where}.grace_s", high=31_622_400),
        )


@dataclass(frozen=True, slots=True)
class Programme:
    """The rules under which a programme pays; dates are half-open.

    `stores` as the ledger holds them are all; in a till's pack they name this store or nothing.
    `classes` and `amr_any` say which identity tokens are enough (RFC 8176): any one of `amr_any`,
    or none asked for when it is empty. Without an `acting` nobody may act for a beneficiary,
    without `refunds` none are taken, without `offline` a till redeems nothing without the ledger.
    """

    programme: str
    name: str
    currency: str
    rules_version: int
    starts_at: datetime
    ends_at: datetime
    paused: bool
    stores: frozenset[str]
    product_list: str
    issuer: str
    classes: frozenset[str]
    amr_any: frozenset[str]
    limit_per_redemption_minor: int | None
    top_up_allowed: bool
    undo_window_s: int
    quotas: tuple[Quota, ...]
    acting: ActingRule | None = None
    refunds: RefundRule | None = None
    offline: OfflineRule | None = None

    def allows(self, way: str) -> bool:
        """Whether somebody may act for a beneficiary in this way: `proxy` or `witness`."""
        rule = self.acting
        return rule is not None and (rule.proxy if way == "proxy" else rule.witness)

    def to_json(self) -> dict[str, object]:
        rules = {"acting": self.acting, "refunds": self.refunds, "offline": self.offline}
        return {
            "programme": self.programme,
            "name": self.name,
            "currency": self.currency,
            "rules_version": self.rules_version,
            "starts_at": clock.to_text(self.starts_at),
            "ends_at": clock.to_text(self.ends_at),
            "paused": self.paused,
            "stores": sorted(self.stores),
            "product_list": self.product_list,
            "issuer": self.issuer,
            "classes": sorted(self.classes),
            "amr_any": sorted(self.amr_any),
            "limit_per_redemption_minor": self.limit_per_redemption_minor,
            "top_up_allowed": self.top_up_allowed,
            "undo_window_s": self.undo_window_s,
            "quotas": [quota.to_json() for quota in self.quotas],
            **{name: rule.to_json() for name, rule in rules.items() if rule is not None},
        }

    @classmethod
    def from_json(cls, value: object, where: str = "programme") -> Programme:
        names = strict_json.names_within(
            value, required=PROGRAMME_NAMES - OPTIONAL_NAMES, optional=OPTIONAL_NAMES, where=where
        )
        acting, refunds, offline = (names.get(name) for name in ("acting", "refunds", "offline"))
        limit = names["limit_per_redemption_minor"]
        quotas = strict_json.array(names["quotas"], f"{where}.quotas", high=50)
        programme = cls(
            ids.name(names["programme"], f"{where}.programme"),
            strict_json.text(names["name"], f"{where}.name", high=80),
            money.currency(names["currency"], f"{where}.currency"),
            strict_json.integer(names["rules_version"], f"{where}.rules_version", low=1),
            clock.from_text(names["starts_at"], f"{where}.starts_at"),
            clock.from_text(names["ends_at"], f"{where}.ends_at"),
            strict_json.boolean(names["paused"], f"{where}.paused"),
            frozenset(
                ids.name(s, f"{where}.stores")
                for s in strict_json.array(names["stores"], f"{where}.stores", high=10_000)
            ),
            ids.name(names["product_list"], f"{where}.product_list"),
            strict_json.text(names["issuer"], f"{where}.issuer"),
            _classes(names["classes"], f"{where}.classes"),
            frozenset(
                strict_json.text(a, f"{where}.amr_any", high=40)
                for a in strict_json.array(names["amr_any"], f"{where}.amr_any", high=20)
            ),
            None
            if limit is None
            else strict_json.integer(
                limit, f"{where}.limit_per_redemption_minor", low=1, high=money.MAX_AMOUNT_MINOR
            ),
            strict_json.boolean(names["top_up_allowed"], f"{where}.top_up_allowed"),
            strict_json.integer(names["undo_window_s"], f"{where}.undo_window_s", high=2_592_000),
            tuple(Quota.from_json(q, f"{where}.quotas[{n}]") for n, q in enumerate(quotas, 1)),
            None if acting is None else ActingRule.from_json(acting, f"{where}.acting"),
            None if refunds is None else RefundRule.from_json(refunds, f"{where}.refunds"),
            None if offline is None else OfflineRule.from_json(offline, f"{where}.offline"),
        )
        if programme.starts_at >= programme.ends_at:
            raise Malformed("must be after starts_at", field=f"{where}.ends_at")
        if len({quota.category for quota in programme.quotas}) < len(programme.quotas):
            raise Malformed("a category stands twice", field=f"{where}.quotas")
        return programme


PROGRAMME_NAMES = frozenset(Programme.__dataclass_fields__)
OPTIONAL_NAMES = frozenset({"acting", "refunds", "offline"})


def _classes(value: object, field: str) -> frozenset[str]:
    named = frozenset(str(c) for c in strict_json.array(value, field, low=1, high=2))
    if not named <= {"once", "card"}:
        raise Malformed("must be once or card", field=field)
    return named
