"""The ledger's signed answer to a scan: what a beneficiary holds now (docs/protocol.md §9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from carepos import clock, ids, jws, strict_json
from carepos.errors import Malformed
from carepos.keys import Keys
from carepos.rules import Acted
from carepos.voucher import Voucher

MAX_VOUCHERS = 20


@dataclass(frozen=True, slots=True)
class Lookup:
    """`rules` maps programmes to their newest version; `bucket` goes into the attempt's id;
    `acted` says, by programme, what was paid before where somebody acts for the beneficiary."""

    beneficiary: str
    bucket: int
    as_of: datetime
    visit_until: datetime
    rules: Mapping[str, int]
    vouchers: tuple[Voucher, ...]
    acted: Mapping[str, Acted]


def read(answer: object, *, request: str, terminal: str, keys: Keys) -> Lookup:
    """The verified answer to the read `request` of `terminal`.

    Raises Malformed or SignatureInvalid for anything else: nothing is then known.
    """
    signed = jws.verify(answer, typ=jws.LOOKUP, keys=keys)
    names = strict_json.names_within(
        signed.payload,
        required={
            "v", "request", "terminal", "beneficiary", "bucket", "as_of",
            "visit_until", "rules", "vouchers",
        },
        optional={"acted"},
        where="lookup",
    )  # fmt: skip
    if strict_json.integer(names["v"], "lookup.v") != 1:
        raise Malformed("must be 1", field="lookup.v")
    if (names["request"], names["terminal"]) != (request, terminal):
        raise Malformed("answers another question", field="lookup")
    beneficiary = ids.reference(names["beneficiary"], "lookup.beneficiary")
    listed = strict_json.array(names["vouchers"], "lookup.vouchers", high=MAX_VOUCHERS)
    rules = strict_json.mapping(names["rules"], "lookup.rules", high=MAX_VOUCHERS)
    return Lookup(
        beneficiary,
        strict_json.integer(names["bucket"], "lookup.bucket", high=ids.BUCKETS - 1),
        clock.from_text(names["as_of"], "lookup.as_of"),
        clock.from_text(names["visit_until"], "lookup.visit_until"),
        {
            ids.name(name, "lookup.rules"): strict_json.integer(version, "lookup.rules", low=1)
            for name, version in rules.items()
        },
        tuple(
            Voucher.from_json(each, beneficiary, f"lookup.vouchers[{n}]")
            for n, each in enumerate(listed, 1)
        ),
        _acted(names.get("acted", {})),
    )


def _acted(value: object) -> dict[str, Acted]:
    found = {}
    for programme, sums in strict_json.mapping(value, "lookup.acted", high=MAX_VOUCHERS).items():
        names = strict_json.exact_names(
            sums, {"household_minor", "actor_minor"}, where="lookup.acted"
        )
        found[ids.name(programme, "lookup.acted")] = Acted(
            strict_json.integer(names["household_minor"], "lookup.acted.household_minor"),
            strict_json.integer(names["actor_minor"], "lookup.acted.actor_minor"),
        )
    return found
