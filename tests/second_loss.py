"""A loss, and what tills offer after it: docs/offline.md section 12, written a second time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from tests.second_attempts import Terminal
from tests.second_heal import OUTCOME, believed, certified, place, ranges, until_nothing_moves
from tests.second_problems import Problem
from tests.second_signing import Json, PublicKey, unread

if TYPE_CHECKING:
    from tests.second_ledger import SecondLedger

_NOT_LOST = ("now", "ledger", "audience", "root", "key", "secret", "lock", "heal")


def snapshot(ledger: SecondLedger) -> Json:
    """All that may be lost: not the keys, and not the time."""
    state = {name: each for name, each in vars(ledger).items() if name not in _NOT_LOST}
    return deepcopy(
        state,
        _kept(
            ledger,
        ),
    )


def lose(ledger: SecondLedger, backup: Json) -> None:
    """Be as at the backup, and begin to heal."""
    with ledger.lock:
        vars(ledger).update(
            deepcopy(
                backup,
                _kept(
                    ledger,
                ),
            )
        )
        ledger.heal.begin()
        ledger.settlement.epoch = ledger.heal.epoch
        ledger.least_no = max((each.number for each in ledger.terminals.values()), default=0) + 101


def _kept(ledger: SecondLedger) -> dict[int, Any]:
    kept = [ledger, ledger.allotting.evidence, *(vars(ledger)[name] for name in _NOT_LOST)]
    return {id(each): each for each in kept}


def open_again(ledger: SecondLedger) -> None:
    """Book what tills brought back."""
    with ledger.lock:
        until_nothing_moves(ledger.heal.in_order(), lambda each: place(ledger, each))
        ledger.heal.healing = False
        ledger.heal.staged.clear()


def offer(ledger: SecondLedger, body: Json, check: Callable[[Sequence[PublicKey]], str]) -> Json:
    """`POST /v1/heal`; `check` says which terminal's read it is, by the keys that count."""
    with ledger.lock:
        told = certified(body, ledger.ledger, [ledger.key.public])
        said, own = told[0][1], {key.kid: key for key, _ in told}
        known = ledger.terminals.get(said["terminal"])
        if known is not None:
            own |= {kid: key for kid, (key, _) in known.keys.items()}
        if check(list(own.values())) != said["terminal"]:
            raise Problem("unauthorised")
        if known is None:
            known = _enrol_anew(ledger, told[0][0], said)
        results = [_offered(ledger, each, known, list(own.values())) for each in body["items"]]
        place_of = known.name, body["incarnation"]
        numbers = _known(ledger, place_of)
        asked = range(body["after"] + 1, body["last"] + 1)
        held, more = ranges([number for number in numbers if number in asked])
        return {
            "epoch": ledger.heal.epoch,
            "state": "healing" if ledger.heal.healing else "open",
            "forked": known.status in ("forked", "revoked"),
            "held": held,
            "ends": [sorted(numbers[number]) for _, number in held],
            "more": more,
            "results": results,
        }


def _known(ledger: SecondLedger, place_of: tuple[str, str]) -> dict[int, set[str]]:
    """By number, the digests of the records that are decided or were offered under it."""
    found = {number: set(told) for number, told in ledger.places.get(place_of, {}).items()}
    for digest, each in ledger.heal.staged.items():
        if (each.item.terminal.name, each.item.record["incarnation"]) == place_of:
            found.setdefault(each.item.record["sequence"], set()).add(digest)
    return found


def _enrol_anew(ledger: SecondLedger, key: PublicKey, said: Json) -> Terminal:
    taken = any(each.number == said["terminal_no"] for each in ledger.terminals.values())
    if said["store"] not in ledger.stores or taken:
        raise Problem("not_enrolled")
    made = Terminal(
        said["terminal"],
        said["terminal_no"],
        said["store"],
        said["merchant"],
        key,
        said["issued_at"],
    )
    ledger.terminals[made.name] = made
    return made


def _offered(
    ledger: SecondLedger, item: Json, terminal: Terminal, own: Sequence[PublicKey]
) -> Json:
    try:
        told = believed(item, terminal, own, [ledger.key.public])
    except Problem as problem:
        return {"problem": problem.document}
    stored = ledger.decided.get(told.item.digest)
    if stored is not None:
        same = unread(stored, OUTCOME).read(ledger.key.public)["result"] == told.outcome["result"]
        return {"result": "held" if same else "exception"}
    chain = ledger.numbers.get((terminal.name, told.item.record["incarnation"]), {})
    number, prev = told.item.record["sequence"], told.item.record["prev"]
    beside = _known(ledger, (terminal.name, told.item.record["incarnation"]))
    if (
        beside.get(number, {told.item.digest}) != {told.item.digest}
        or beside.get(number - 1, {prev}) != {prev}
        or chain.get(number + 1, ("", told.item.digest))[1] != told.item.digest
    ):
        terminal.status = "forked"
    if ledger.heal.healing or told.outcome["epoch"] >= ledger.heal.epoch:
        ledger.heal.staged[told.item.digest] = told
        return {"result": "staged"}
    return {"result": "placed" if place(ledger, told) else "exception"}
