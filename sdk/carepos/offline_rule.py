"""How far a programme lets a till redeem without a network (docs/offline.md §6): form only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from carepos import money, strict_json
from carepos.errors import Malformed

Liability = Literal["programme", "merchant"]

_MAX_S: Final = 31_622_400


def liability(value: object, field: str = "liability") -> Liability:
    """Who bears the loss if a redemption turns out bad. Raises Malformed."""
    if value == "programme" or value == "merchant":
        return value
    raise Malformed("must be programme or merchant", field=field)


@dataclass(frozen=True, slots=True)
class FloorRule:
    """What a till may give beyond allotments: in one redemption, and to one beneficiary in any
    `window_s`; and who bears the loss."""

    redemption_minor: int
    beneficiary_minor: int
    window_s: int
    liability: Liability

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, value: object, where: str = "floor") -> FloorRule:
        names = strict_json.exact_names(value, cls.__dataclass_fields__.keys(), where=where)
        top = money.MAX_AMOUNT_MINOR
        return cls(
            strict_json.integer(names["redemption_minor"], f"{where}.redemption_minor", high=top),
            strict_json.integer(names["beneficiary_minor"], f"{where}.beneficiary_minor", high=top),
            strict_json.integer(names["window_s"], f"{where}.window_s", low=1, high=_MAX_S),
            liability(names["liability"], f"{where}.liability"),
        )


@dataclass(frozen=True, slots=True)
class OfflineRule:
    """A programme's `offline`.

    `allotment_permille`: how much of a voucher may be set aside at one time. An allotment is spent
    for `spend_s` and kept for `upload_s` more; a pack counts for `pack_age_s`. `stored_*` bound
    what a till holds that has no final outcome. Without a `floor` nothing beyond allotments.
    """

    allotment_permille: int
    spend_s: int
    upload_s: int
    pack_age_s: int
    floor: FloorRule | None
    stored_sum_minor: int
    stored_count: int
    online_permille: int

    def to_json(self) -> dict[str, object]:
        made: dict[str, object] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**made, "floor": None if self.floor is None else self.floor.to_json()}

    @classmethod
    def from_json(cls, value: object, where: str = "offline") -> OfflineRule:
        names = strict_json.exact_names(value, cls.__dataclass_fields__.keys(), where=where)

        def whole(name: str, low: int, high: int) -> int:
            return strict_json.integer(names[name], f"{where}.{name}", low=low, high=high)

        floor = names["floor"]
        return cls(
            whole("allotment_permille", 0, 1_000),
            whole("spend_s", 1, _MAX_S),
            whole("upload_s", 0, _MAX_S),
            whole("pack_age_s", 1, _MAX_S),
            None if floor is None else FloorRule.from_json(floor, f"{where}.floor"),
            whole("stored_sum_minor", 0, money.MAX_AMOUNT_MINOR),
            whole("stored_count", 0, 1_000_000),
            whole("online_permille", 0, 1_000),
        )
