"""Every attack of `properties/token_attacks` on our verifier and on bare PyJWT: `make attacks`.

Bare PyJWT is used as its documentation shows: `jwt.decode(token, key, algorithms=[…], audience=…)`,
and `PyJWK` and `PyJWKSet` for keys. It is the floor, not an opponent: what it lets through is what
a profile has to close. Ends with 1 if ours takes a bad one, refuses a good one or lets anything
but its own refusals out.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import jwt
from rich.console import Console
from rich.table import Table

from carepos.errors import Malformed, Refused
from carepos.issuer_keys import IssuerKey, IssuerKeys
from carepos.token import TokenVerifier
from tests.properties import token_attacks
from tests.properties.token_attacks import AUDIENCE, FAMILIES, ISSUER, JWKS, Attack, KeyAttack

ESCAPED = "escaped"


@dataclass(frozen=True)
class Verdict:
    """`code` None: accepted; ESCAPED: something left that is no refusal. `error` is what left."""

    code: str | None
    error: BaseException | None = None


def verifier() -> TokenVerifier:
    held = IssuerKeys.from_jwks(json.dumps(JWKS).encode(), datetime.fromtimestamp(0, UTC))
    return TokenVerifier({ISSUER: held}, AUDIENCE)


OURS = verifier()


def ours(given: Any, at: int) -> Verdict:
    """What the verifier says of a code by itself."""
    now = datetime.fromtimestamp(at, UTC)
    try:
        OURS.verify(given, now)
    except Refused as refused:
        return Verdict(refused.code, refused)
    except Exception as error:  # noqa: BLE001
        return Verdict(ESCAPED, error)
    return Verdict(None)


def our_keys(given: Any) -> Verdict:
    try:
        if isinstance(given, bytes):
            IssuerKeys.from_jwks(given, datetime.fromtimestamp(0, UTC))
        else:
            IssuerKey.from_jwk(given)
    except Malformed as error:
        return Verdict(error.code, error)
    except Exception as error:  # noqa: BLE001
        return Verdict(ESCAPED, error)
    return Verdict(None)


def _bare(work: Callable[[], object]) -> Verdict:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
    except jwt.PyJWTError as error:
        return Verdict("refused", error)
    except Exception as error:  # noqa: BLE001
        return Verdict(ESCAPED, error)
    return Verdict(None)


def bare(attack: Attack) -> Verdict:
    key = FAMILIES[attack.family].private.public_key()
    algorithms = [attack.family]
    return _bare(lambda: jwt.decode(attack.given, key, algorithms=algorithms, audience=AUDIENCE))


def bare_keys(given: Any) -> Verdict:
    if isinstance(given, bytes):
        return _bare(lambda: jwt.PyJWKSet.from_dict(json.loads(given)))
    return _bare(lambda: jwt.PyJWK(given))


@dataclass
class Row:
    """Counts of one class of attacks."""

    cases: int = 0
    bad: int = 0
    ours: Counter[str] = field(default_factory=Counter)
    bare: Counter[str] = field(default_factory=Counter)


def _word(verdict: Verdict) -> str:
    return {None: "accepted", ESCAPED: ESCAPED}.get(verdict.code, "refused")


def is_right(attack: Attack | KeyAttack, verdict: Verdict) -> bool:
    """Whether a verdict is the profile's."""
    if isinstance(attack, KeyAttack):
        return (verdict.code is None) is attack.good and verdict.code != ESCAPED
    if attack.code == "any":  # a changed bit: refused, by whichever row comes first
        return verdict.code not in (None, ESCAPED)
    return verdict.code == attack.code


def judged(at: int) -> Iterator[tuple[Attack | KeyAttack, Verdict, Verdict]]:
    """Each attack with our verdict and bare PyJWT's."""
    for attack in token_attacks.attacks(at):
        yield attack, ours(attack.given, at), bare(attack)
    for each in token_attacks.key_attacks():
        yield each, our_keys(each.given), bare_keys(each.given)


def main() -> int:
    rows: dict[str, Row] = {}
    wrong: list[str] = []
    for attack, mine, theirs in judged(int(datetime.now(UTC).timestamp())):
        row = rows.setdefault(attack.group, Row())
        is_bad = attack.code is not None if isinstance(attack, Attack) else not attack.good
        row.cases += 1
        row.bad += is_bad
        for counts, verdict in ((row.ours, mine), (row.bare, theirs)):
            word = _word(verdict)
            counts[word] += 1
            counts["taken"] += is_bad and word == "accepted"
            counts["turned away"] += not is_bad and word != "accepted"
        if not is_right(attack, mine):
            wrong.append(f"{attack.group}: {attack.name}: {mine.code}")
    table = Table(title="attacks on identity tokens")
    counted = ("taken", "refused", "escaped", "bad taken", "good refused")
    for name in ("class", "cases", "bad", *counted, *(f"PyJWT {each}" for each in counted)):
        table.add_column(name, justify="left" if name == "class" else "right")
    whole = Row()
    words = ("accepted", "refused", ESCAPED, "taken", "turned away")
    for group, row in [*rows.items(), ("all", whole)]:
        told = [row.cases, row.bad, *(row.ours[w] for w in words), *(row.bare[w] for w in words)]
        table.add_row(group, *map(str, told))
        whole.cases += row.cases
        whole.bad += row.bad
        whole.ours += row.ours
        whole.bare += row.bare
    Console(width=170).print(table)
    for each in wrong:
        print("WRONG:", each)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
