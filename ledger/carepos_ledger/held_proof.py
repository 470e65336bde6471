"""What the token of a held record proved: judged when the record came, and kept with it.

Nothing is kept that could be used again or names anybody: no token, no `jti`, no `sub` but the
ledger's own name of the beneficiary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from carepos import clock, token
from carepos.acceptance import AcceptOffline
from carepos.claims import Acting
from carepos.record import Redeem
from carepos.refusals import Refusal
from carepos.token import VISIT, IdentityToken
from carepos_ledger import accepting
from carepos_ledger.keyring import Keyring
from carepos_ledger.shelf import Command, Shelf

_NOTHING: Final = dict.fromkeys(("proof", "beneficiary", "actor_sha256"))


@dataclass(frozen=True, slots=True, repr=False)
class KeptIdentity(IdentityToken):
    """An identity as it was proved when the record came: what names its token are hashes only."""

    kept_jti_sha256: str = ""
    kept_visit_sha256: str | None = None
    kept_needs_pin: bool = False

    @property
    def jti_sha256(self) -> str:
        return self.kept_jti_sha256

    @property
    def visit_sha256(self) -> str | None:
        return self.kept_visit_sha256

    @property
    def needs_pin(self) -> bool:
        return self.kept_needs_pin


def columns(
    command: Command,
    shelf: Shelf,
    keyring: Keyring,
    now: datetime,
    wrong: Refusal | None = None,
) -> dict[str, Any]:
    """The columns of `held_records` that say it: `late`, and the others None where it proved
    nothing of this record. `shelf` has what was read about the people in it; `wrong` is what a
    judge found already."""
    content = command.record.content
    late = command.is_late or isinstance(content, AcceptOffline)
    if not isinstance(content, Redeem):
        found = _NOTHING
    elif late:
        found = _of_late(command, shelf, keyring, wrong)
    else:
        found = _of_fresh(command, shelf, keyring, now)
    return {"late": int(late), **found}


def _of_fresh(command: Command, shelf: Shelf, keyring: Keyring, now: datetime) -> dict[str, Any]:
    identity, record = command.identity, command.record
    if identity is None:
        return _NOTHING
    if isinstance(identity, Refusal):
        return {**_NOTHING, "proof": _refused(identity)}
    if not _is_of(command, identity, keyring):
        return _NOTHING
    bucket, beneficiary = shelf.beneficiaries.get((identity.iss, identity.sub), (None, ""))
    if bucket is None:
        return {**_NOTHING, "proof": NOBODY_PROVED}
    if bucket != record.bucket:
        return _NOTHING
    first = shelf.visits.get((identity.iss, identity.visit_sha256 or ""))
    refusal = token.visit_refusal(identity, first, record.terminal, now)
    if refusal is not None:
        return {**_NOTHING, "proof": _refused(refusal)}
    proved_at = shelf.pin_visits.get((identity.iss, identity.jti_sha256, record.terminal))
    pin_proved = proved_at is not None and now - proved_at <= VISIT
    return _kept(identity, beneficiary, pin_proved)


def _of_late(
    command: Command, shelf: Shelf, keyring: Keyring, wrong: Refusal | None
) -> dict[str, Any]:
    """Of whom the sale is stands in its vouchers, whatever its token was worth."""
    identity, beneficiary = command.identity, accepting.owner(shelf, keyring, command)
    if wrong is None and isinstance(identity, Refusal):
        wrong = identity
    if wrong is not None or not isinstance(identity, IdentityToken):
        proof = NOBODY_PROVED if wrong is None else _refused(wrong)
    elif beneficiary is None or not _is_of(command, identity, keyring):
        proof = NOBODY_PROVED
    else:
        return _kept(identity, beneficiary, accepting.is_pin_proved(shelf, command, identity))
    return {**_NOTHING, "proof": proof, "beneficiary": beneficiary}


def _is_of(command: Command, identity: IdentityToken, keyring: Keyring) -> bool:
    merchant = command.terminal.merchant
    reference = keyring.beneficiary_ref(merchant, identity.iss, identity.sub)
    return reference == command.record.redeem.beneficiary


def _kept(identity: IdentityToken, beneficiary: str, pin_proved: bool) -> dict[str, Any]:
    acting = identity.acting
    kept = {
        "iss": identity.iss,
        "token_class": identity.token_class,
        "amr": sorted(identity.amr),
        "issued_at": clock.to_text(identity.issued_at),
        "expires_at": clock.to_text(identity.expires_at),
        "jti_sha256": identity.jti_sha256,
        "visit_sha256": identity.visit_sha256,
        "needs_pin": identity.needs_pin,
        "pin_proved": pin_proved,
        "revoked": identity.revoked,
        "acting": None if acting is None else {"way": acting.way, "reason": acting.reason},
    }
    return {
        "proof": json.dumps(kept, sort_keys=True),
        "beneficiary": beneficiary,
        "actor_sha256": None if acting is None else acting.actor_sha256,
    }


def _refused(refusal: Refusal) -> str:
    return json.dumps({"refusal": refusal.to_json()}, sort_keys=True)


NOBODY_PROVED: Final = _refused(Refusal("voucher_unknown"))
"""What is left of a proof whose person was erased; and that it proved nobody of this record."""


def proved_of(row: Any, sub: str | None) -> tuple[IdentityToken | Refusal | None, bool]:
    """What the row's token proved, and whether a card's PIN was. `sub`: the issuer's name of its
    beneficiary, None where nobody has it any more."""
    if row.proof is None:
        return None, False
    kept = json.loads(row.proof)
    if "refusal" in kept:
        return Refusal(kept["refusal"]["code"], kept["refusal"]["at"]), False
    if sub is None:
        return Refusal("voucher_unknown"), False
    acting = None
    if kept["acting"] is not None:
        acting = Acting(row.actor_sha256, kept["acting"]["way"], kept["acting"]["reason"])
    identity = KeptIdentity(
        iss=kept["iss"],
        sub=sub,
        jti="",
        token_class=kept["token_class"],
        amr=frozenset(kept["amr"]),
        issued_at=clock.from_text(kept["issued_at"]),
        expires_at=clock.from_text(kept["expires_at"]),
        token_sha256="",
        acting=acting,
        revoked=kept["revoked"],
        kept_jti_sha256=kept["jti_sha256"],
        kept_visit_sha256=kept["visit_sha256"],
        kept_needs_pin=kept["needs_pin"],
    )
    return identity, kept["pin_proved"]
