"""A second reading of docs/offline.md §12: what proves a loss, and what is booked of it.

Written from the page alone; nothing of the product is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.vectors import second, second_offline
from tests.vectors.second import B43, JWK, NAME, ONE, Refused, moment, named, need, text, whole

Json = dict[str, Any]
KEY_AND_CERTIFICATE = named(key=JWK, certificate=lambda value: isinstance(value, str))
CERTIFICATE = named(
    v=ONE, ledger=text("[ -~]{1,60}"), terminal=NAME, terminal_no=whole(1, 2**53 - 1),
    merchant=NAME, merchant_name=text(".{1,200}"), store=NAME, store_name=text(".{1,200}"),
    key=B43, audience=text(".{1,200}"), issued_at=moment,
)  # fmt: skip


def certified(offered: Any, terminal: str, ledger: str, keys: Sequence[bytes]) -> list[Json] | str:
    """The certificates' payloads, oldest first; or the code of what is wrong with the first bad
    one."""
    try:
        need(isinstance(offered, list) and 1 <= len(offered) <= 40, "how many")
        found = []
        for each in offered:
            need(KEY_AND_CERTIFICATE(each), "shape")
            said = second.verify(each["certificate"], "carepos-certificate+jws", keys)
            need(CERTIFICATE(said), "certificate")
            own = second.thumbprint(second.unb64(each["key"]["x"]))
            need(
                (said["ledger"], said["terminal"], said["key"]) == (ledger, terminal, own), "whose"
            )
            found.append(said)
    except Refused as refused:
        return refused.code
    return found


def judge(item: Json, terminal: str, own: Sequence[bytes], ledger: Sequence[bytes]) -> str | None:
    """What is wrong with a piece of evidence; None: it is believed."""
    try:
        record = second.verify(item["record"], "carepos-record+jws", own)
        if record["terminal"] != terminal:
            return "signature_invalid"
        said = second.verify(item["outcome"], "carepos-outcome+jws", ledger)
    except Refused as refused:
        return refused.code
    bound = (said.get("record_sha256"), said["id"], said["terminal"], said.get("kind"))
    is_its = bound == (
        second.jws_digest(item["record"]), record["id"], record["terminal"], record["kind"]
    )  # fmt: skip
    if not is_its or said["result"] in ("held", "not_found"):
        return "malformed"
    if record["kind"] == "redeem" and said["result"] in ("posted", "posted_short"):
        agreed = sum(entry["programme_minor"] for entry in record["content"]["allocation"])
        if said["amount_minor"] + said.get("shortfall_minor", 0) != agreed:
            return "malformed"
    return None


def offered(answered: Iterable[int], held: Sequence[Sequence[int]], more: bool) -> list[int]:
    """Which of the numbers that a till has outcomes of it offers to a ledger that has `held`."""
    end = held[-1][1] if more else None
    return [
        number
        for number in sorted(answered)
        if not any(low <= number <= high for low, high in held) and (end is None or number <= end)
    ]


def lacking(
    answered: Iterable[int],
    own: Sequence[str],
    held: Sequence[Sequence[int]],
    ends: Sequence[Sequence[str]],
    more: bool,
) -> list[int]:
    """As `offered`, where the ledger may tell of a copy's records; `own`: the digests of the till's
    records from number 1 on."""
    ours = [part for part, told in zip(held, ends, strict=True) if own[part[1] - 1] in told]
    end = held[-1][1] if more else None
    return [number for number in offered(answered, ours, False) if end is None or number <= end]


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def in_order(items: Sequence[Json]) -> list[Json]:
    return sorted(items, key=lambda i: (i["recorded_at"], i["terminal"], i["sequence"]))


def drawn(state: Json, terms: Json | None, opened: Sequence[Json]) -> Json:
    """Of one voucher in an outcome: what comes from which allotment, and what they lack."""
    minor, quantity = state["from_allotment_minor"], state["from_allotment_quantity"]
    parts = []
    for each in sorted(opened, key=lambda a: a["allotment"]):
        units = min(quantity, each["left_quantity"])
        keeps = 0
        if terms is not None:
            left = each["left_quantity"] - units
            per = terms["cap_minor"] - terms["fixed_minor"]
            # Its cap divides in every vector here: what a quantity may cost needs no rounding.
            assert left % terms["cap_quantity"] == 0
            keeps = left // terms["cap_quantity"] * per
        money = min(minor, each["left_minor"] - keeps)
        if units or money:
            parts.append([each["allotment"], money, units])
        minor, quantity = minor - money, quantity - units
    return {
        "available": [
            state["amount_minor"] - state["from_allotment_minor"],
            state["quantity"] - state["from_allotment_quantity"],
        ],
        "allotments": parts,
        "missing": [minor, quantity],
    }


def set_aside(pack: Json, files: dict[str, Json], iss: str, sub: str, terminal: str) -> list[Json]:
    """What a pack says is set aside of one household's vouchers."""
    told = pack["households"]
    tag, key, nonce = second_offline.household_keys(iss, sub, terminal, told["incarnation"])
    place = told["segments"][second_offline.segment(tag)]["sha256"]
    entry = files[place]["households"].get(tag)
    if entry is None:
        return []
    household = second_offline.open_household(entry, tag, key, nonce)
    return [
        {"bucket": household["k"], "voucher": voucher, "allotment": number, "amount_minor": minor,
         "quantity": quantity, "spend_until": told["dates"][date][0],
         "reclaim_after": told["dates"][date][1]}
        for voucher, _kind, _minor, _quantity, _frozen, allotments in household["v"]
        for number, minor, quantity, date in allotments
    ]  # fmt: skip


def next_number(what: str, epoch: int, last: int) -> int:
    step = {"allotment": 10**6, "use": 10**9}[what]
    return max(last, (epoch - 1) * step) + 1


def follows(before: Json | None, batch_no: int, previous: str, first: str) -> bool:
    """Whether a batch is the next one behind `before`, the last that the ledger holds."""
    if before is None:
        return (batch_no, previous) == (1, first)
    return (batch_no, previous) == (before["batch_no"] + 1, before["digest"])
