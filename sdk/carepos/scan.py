"""From a code held up to a holder: verified here, looked up at the ledger (docs/identity.md §4), or
in the pack where the ledger does not answer (docs/offline.md §6)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from carepos import lookup, other_codes, pin, presentation, set_aside, token, unknown_key
from carepos.client import Client
from carepos.clock import Clock
from carepos.errors import Malformed, NotDecided, Refused, TokenRefused, Unreachable
from carepos.households import Household
from carepos.journal_view import JournalView, Visit
from carepos.keys import Keys
from carepos.pack import Pack
from carepos.pack_keeper import PackKeeper
from carepos.presentation import Presentation
from carepos.refusals import BY_CODE, Refusal
from carepos.rules import Acted
from carepos.token import IdentityToken, TokenVerifier
from carepos.voucher import Voucher


@dataclass(frozen=True, slots=True)
class Holder:
    """Who stands at the counter: the verified token, and what the ledger says they hold.

    Where it did not answer, `household` is what the pack says, as of when it was made, and `away`
    why nobody else was asked. The token's
    text and the PIN's proof stay in memory only (INV-10) and are not in repr(). `acted` says, by
    programme, what was paid before in redemptions that somebody made for this household.
    """

    identity: IdentityToken
    text: str
    beneficiary: str
    bucket: int
    as_of: datetime
    vouchers: tuple[Voucher, ...]
    acted: Mapping[str, Acted]
    pin_proof: str | None = field(default=None, repr=False)
    household: Household | None = None
    away: str | None = None

    @property
    def pin_proved(self) -> bool:
        return self.pin_proof is not None

    def __repr__(self) -> str:
        return f"Holder({len(self.vouchers)} vouchers)"


MAX_WRONG_PINS: Final = 5
IMPATIENT_S: Final = 3.0

_BY_THE_CLOCK = ("token_expired", "token_not_yet_valid", "holder_unproven")
"""What a code is refused as by a till whose clock is wrong, before the ledger hears of it."""


class Heard(Protocol):
    """Told a time that the ledger signed; `fresh`: just now, for this question."""

    def __call__(self, signed: datetime, *, fresh: bool = False) -> None: ...


class PinTried(Protocol):
    """Counts a PIN that was tried without a network; wrong ones since the last right one."""

    def __call__(self, card: str, *, right: bool) -> int: ...


class Scanner:
    """Verifies codes with the keys of the pack and looks their holders up."""

    def __init__(
        self,
        *,
        terminal: str,
        keys: Keys,
        packs: PackKeeper,
        journal: JournalView,
        pin_tried: PinTried,
        client: Client,
        now: Clock,
        heard: Heard,
        learn_time: Callable[[], bool],
    ) -> None:
        self._terminal = terminal
        self._keys = keys
        self._packs = packs
        self._journal = journal
        self._pin_tried = pin_tried
        self._client = client
        self._now = now
        self._heard = heard
        self._learn_time = learn_time

    def scan(self, scanned: str, pin_entered: str | None = None) -> Holder:
        """Who presents this code, and what they hold. `pin_entered` only for a printed card.

        Raises Refused (token_*, holder_unproven, pin_*, voucher_unknown) when the code is no good:
        TokenRefused with `looks_like` where it is something else;
        terminal_revoked, terminal_forked where it has stopped this till;
        NotDecided when the ledger refuses to look. Without an answer to be trusted what the pack
        has counts: Refused (holder_not_in_pack), or Unreachable where it has no households.
        """
        identity, held = self._identified(scanned)
        proof = None
        if identity.needs_pin:
            proof = _pin_proof(held, identity, pin_entered)
        try:
            return self.look_up(identity, held.text, proof)
        except (Unreachable, NotDecided) as error:
            if not is_away(error):
                raise
            return self._in_pack(identity, held.text, proof, error)

    def look_up(self, identity: IdentityToken, text: str, proof: str | None) -> Holder:
        """What the ledger says that the holder of a verified token holds. Raises as `scan`, and
        Unreachable without an answer to be trusted."""
        answer, jti = self._look_up(text, proof)
        try:
            found = lookup.read(answer, request=jti, terminal=self._terminal, keys=self._keys)
        except Malformed as error:
            raise Unreachable(f"the ledger's answer can't be trusted: {error}") from error
        self._heard(found.as_of, fresh=True)
        if _is_behind(self._packs.get(), found.rules):
            self._packs.refresh()
        return Holder(
            identity,
            text,
            found.beneficiary,
            found.bucket,
            found.as_of,
            found.vouchers,
            found.acted,
            pin_proof=proof,
        )

    def _in_pack(
        self,
        identity: IdentityToken,
        text: str,
        proof: str | None,
        error: Unreachable | NotDecided,
    ) -> Holder:
        """The holder as the pack knows them; `error` says why the ledger was not asked."""
        held = self._packs.held
        if held is None or not self._packs.has_households:
            raise error
        household = self._packs.household(identity.iss, identity.sub)
        if household is None or held.households is None:
            if isinstance(error, NotDecided):
                raise error  # a ledger that says why it does not answer just now
            raise Refused(Refusal("holder_not_in_pack"))
        if proof is not None:
            self._check_pin(identity, household, proof)
        taken = [t for v in household.vouchers for t in self._journal.taken_of(v.voucher)]
        vouchers = set_aside.vouchers_of(household, held.households.kinds, taken, held.issued_at)
        return Holder(
            identity,
            text,
            household.beneficiary,
            household.bucket,
            held.issued_at,
            vouchers,
            {},
            pin_proof=proof,
            household=household,
            away=str(error),
        )

    def _check_pin(self, identity: IdentityToken, household: Household, proof: str) -> None:
        """As the ledger counts them, but at this till alone: with every card that is not locked in
        the pack, five wrong ones in a row."""
        card = identity.jti_sha256
        verifier = household.verifier_of(card)
        if verifier is None:
            # Locked, or given out after the pack was made.
            raise Refused(Refusal("holder_not_in_pack"))
        if self._journal.wrong_pins(card) >= MAX_WRONG_PINS:
            raise Refused(Refusal("pin_locked"))
        right = hmac.compare_digest(pin.verifier(proof)[: len(verifier)], verifier)
        wrong = self._pin_tried(card, right=right)
        if wrong >= MAX_WRONG_PINS:
            raise Refused(Refusal("pin_locked"))
        if wrong:
            raise Refused(Refusal("pin_wrong"), tries_left=MAX_WRONG_PINS - wrong)

    def identify(self, scanned: str) -> IdentityToken:
        """Whom this code names, as far as this till can tell by itself; the ledger is not asked.

        Raises Refused (token_*, holder_unproven); Unreachable, NotDecided while there is no pack.
        """
        return self._identified(scanned)[0]

    def _identified(self, scanned: str) -> tuple[IdentityToken, Presentation]:
        try:
            held = _presented(scanned)
            identity = self._verify(held)
        except TokenRefused as refused:
            look = other_codes.look_of_refused(refused.code, refused.claim, scanned)
            if look is None:
                raise
            raise TokenRefused(
                refused.refusal,
                claim=refused.claim,
                why=refused.why,
                look=other_codes.BY_LOOK[look],
            ) from None
        self._check_use(identity)
        if identity.needs_pin:
            self._check_card(identity, held)
        return identity, held

    def _check_card(self, identity: IdentityToken, held: Presentation) -> None:
        """Nobody is asked for a PIN that would not help."""
        if not self._takes_cards(identity.iss) and (
            # The rules may have changed since; asked no more often than for an unknown key.
            not self._packs.refresh_for_unknown_key() or not self._takes_cards(identity.iss)
        ):
            raise Refused(Refusal("token_assurance"))
        if held.card_secret is None:
            raise TokenRefused(
                Refusal("token_malformed"),
                claim="card",
                why="was scanned without the card's secret",
                look=other_codes.BY_LOOK["damaged"],
            )

    def _takes_cards(self, iss: str) -> bool:
        """Whether a programme of the issuer takes cards, or none is known that could say no."""
        asked = [p for p in self._packs.get().programmes.values() if p.issuer == iss]
        return not asked or any("card" in each.classes for each in asked)

    def _verify(self, held: Presentation) -> IdentityToken:
        try:
            return self._verifier().examine(held, self._now())
        except TokenRefused as refused:
            if refused.code in _BY_THE_CLOCK and self._learn_time():
                return self._verifier().examine(held, self._now())
            # An issuer or key that this pack doesn't have may be in a newer one.
            asks = unknown_key.is_meant_or_its_issuer(refused)
            if not asks or not self._packs.refresh_for_unknown_key():
                raise
        return self._verifier().examine(held, self._now())

    def _verifier(self) -> TokenVerifier:
        pack = self._packs.get()
        return TokenVerifier(pack.issuers, pack.audience, pack.revocations)

    def _check_use(self, identity: IdentityToken) -> None:
        """Rows 12 and 13, as far as this till knows: used before, withdrawn.

        Its journal marks a visit with the intent. One that a lookup opened only the ledger knows,
        so whether a picture is too old to open one is the ledger's to say.
        """
        if identity.visit_sha256 is not None:
            first = self._journal.first_use(Visit(identity.iss, identity.visit_sha256))
            if first is not None and (
                refusal := token.visit_refusal(
                    identity, (self._terminal, first), self._terminal, self._now()
                )
            ):
                raise Refused(refusal)
        if identity.revoked:
            raise Refused(Refusal("token_revoked"))

    def _patience_s(self) -> float | None:
        """A family that can be served by the pack does not wait long, each time anew, for a ledger
        that did not answer the call before. None: as long as for any call."""
        is_away = not self._client.answered
        return IMPATIENT_S if is_away and self._packs.has_households else None

    def _look_up(self, text: str, proof: str | None) -> tuple[object, str]:
        try:
            return self._client.look_up(text, proof, deadline_s=self._patience_s())
        except NotDecided as error:
            # A lookup decides nothing, so this much of an unsigned answer may be believed.
            kind = BY_CODE.get(error.code)
            if kind is not None and kind.answer == "outcome":
                raise Refused(Refusal(error.code), tries_left=error.tries_left) from None
            # To a till that it stopped it is a stranger's call; what it signed before says more.
            stopped = self._journal.stopped_for() if error.status == 401 else None
            if stopped is not None:
                raise Refused(Refusal(stopped)) from None
            raise


def is_away(error: Unreachable | NotDecided) -> bool:
    """Whether this is no answer of a ledger that works: what it refuses to do it refuses."""
    return isinstance(error, Unreachable) or error.status >= 500 or error.status == 429


def _presented(scanned: str) -> Presentation:
    try:
        return presentation.read(scanned)
    except Malformed as error:
        raise TokenRefused(
            Refusal("token_malformed"), claim=error.field or "token", why=str(error)
        ) from None


def _pin_proof(held: Presentation, identity: IdentityToken, entered: str | None) -> str:
    if entered is None:
        raise Refused(Refusal("pin_required"))
    secret = held.card_secret or ""  # there is one: `_check_card`
    try:
        return pin.proof(entered, iss=identity.iss, jti=identity.jti, card_secret=secret)
    except Malformed:
        raise Refused(Refusal("pin_wrong")) from None


def _is_behind(held: Pack, rules: Mapping[str, int]) -> bool:
    return any(
        (known := held.programmes.get(programme)) is None or known.rules_version != version
        for programme, version in rules.items()
    )
