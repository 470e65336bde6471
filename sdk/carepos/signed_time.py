"""Times that the ledger signed for their own sake: its answer to a wrong clock, and the reset.

A reset is an operator's word that the ledger's clock is right, for one till that believes something
else (docs/offline.md §11).
"""

from __future__ import annotations

from datetime import datetime

from carepos import clock, ids, jws, strict_json
from carepos.errors import Malformed
from carepos.keys import Keys, SigningKey


def read(text: object, *, request: str, keys: Keys) -> datetime:
    """The ledger's time in its `clock_skew` answer to the read `request`.

    Raises Malformed, SignatureInvalid.
    """
    signed = jws.verify(text, typ=jws.TIME, keys=keys)
    names = strict_json.exact_names(
        signed.payload, {"v", "server_time", "request"}, where="server_time"
    )
    _check_version(names["v"])
    if names["request"] != request:
        raise Malformed("answers another question", field="server_time")
    return clock.from_text(names["server_time"], "server_time")


def make_reset(*, ledger: str, terminal: str, at: datetime, key: SigningKey) -> str:
    """A reset for one terminal, under the ledger's signing key."""
    payload = {"v": 1, "ledger": ledger, "terminal": terminal, "server_time": clock.to_text(at)}
    return jws.sign(payload, typ=jws.RESET, key=key)


def read_reset(text: object, *, ledger: str, terminal: str, keys: Keys) -> datetime:
    """The time in a reset for this terminal of this ledger. Raises Malformed, SignatureInvalid."""
    signed = jws.verify(text, typ=jws.RESET, keys=keys)
    names = strict_json.exact_names(
        signed.payload, {"v", "ledger", "terminal", "server_time"}, where="reset"
    )
    _check_version(names["v"])
    if ids.name(names["terminal"], "reset.terminal") != terminal or names["ledger"] != ledger:
        raise Malformed("is for another till", field="reset")
    return clock.from_text(names["server_time"], "reset.server_time")


def _check_version(value: object) -> None:
    if strict_json.integer(value, "v") != 1:
        raise Malformed("must be 1", field="v")
