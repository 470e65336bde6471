"""What the ledger answers to a record: a pure decision over state held in memory.

The order is docs/protocol.md §10: the stored outcome first, then the terminal, the token, and the
rules (`carepos.rules.check`, the same that the till ran). Each decision changes the `Shelf`, so the
next record of the batch sees it; `book` writes the shelf's changes once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from carepos import clock, outcome, rules, token
from carepos.acceptance import AcceptOffline, ReturnAllotment
from carepos.claims import Acting
from carepos.keys import SigningKey
from carepos.offline_rule import Liability
from carepos.outcome import VoucherState
from carepos.record import KeyChange, Redeem, Reversal
from carepos.refusals import Refusal, Reserved
from carepos.token import VISIT, IdentityToken
from carepos.undo import Refund, Sold, Void
from carepos.voucher import Programme, Voucher
from carepos_ledger import accepting, accounts, chain_check, key_rules
from carepos_ledger.accepting import Accepting, Booked, Held, NotBooked
from carepos_ledger.accounts import Entry
from carepos_ledger.allotments import Allotment, Drawn, draw
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import (
    ActedPosting,
    AttemptState,
    Command,
    Decided,
    Holder,
    Key,
    ListedException,
    NewHeld,
    Posted,
    Posting,
    Shelf,
)
from carepos_ledger.taking_back import TakingBack

MISSING_SHOWN = 100


class Decider:
    """Decides records one after another on one shelf. `now` is the ledger's clock."""

    def __init__(self, shelf: Shelf, keyring: Keyring, now: datetime) -> None:
        self._shelf = shelf
        self._keyring = keyring
        self._key: SigningKey = keyring.signing
        self._now = now
        self._taking_back = TakingBack(shelf, now)
        self._accepting = Accepting(shelf, keyring, now)
        for held in list(shelf.allotments.values()):
            for allotment in held:
                if now >= allotment.reclaim_after:
                    shelf.release(allotment)

    def decide(self, command: Command) -> Decided | Problem:
        """The stored answer, a new one, or a problem when nothing can be decided."""
        stored = self._shelf.outcomes.get(command.record.digest)
        if stored is None and command.ruling is None:
            stored = self._shelf.held.get(command.record.digest)
        if stored is not None:
            return stored
        try:
            if command.ruling is not None and command.ruling.refusal is not None:
                return self._keep(command, self._not_accepted(command, command.ruling.refusal))
            match command.record.content:
                case Redeem():
                    decided = self._redeem(command, command.record.content)
                case Reversal():
                    decided = self._reversal(command, command.record.content)
                case AcceptOffline():
                    decided = self._accept(command, command.record.content)
                case ReturnAllotment():
                    decided = self._return(command, command.record.content)
                case Void() | Refund():
                    decided = self._undo(command, command.record.content)
                case KeyChange():
                    decided = self._key_change(command, command.record.content)
                case _:
                    decided = self._plain(command)
        except Problem as problem:
            return problem
        return decided if decided.result == "held" else self._keep(command, decided)

    def _not_accepted(self, command: Command, refusal: Refusal) -> Decided:
        """A person does not accept a held record: nothing is booked. Raises Problem where its sale
        is booked already."""
        record = command.record
        known = self._shelf.attempts.get((record.terminal, record.id))
        if (
            isinstance(record.content, AcceptOffline)
            and known is not None
            and (known.state, known.record_sha256) == ("posted", record.content.record_sha256)
        ):
            raise Problem(
                "already_exists_differently",
                "its sale is booked by now: post it, and void or refund what should not stand",
                field="decision",
            )
        if isinstance(record.content, Redeem | Void | Refund) and (
            (record.terminal, record.id) not in self._shelf.attempts
        ):
            # The id is used up: no other record under it is booked either.
            state = AttemptState("refused", record.content_sha256, record.digest, None)
            self._begin(command, state)
        accepted = self._shelf.acceptances.get((record.terminal, record.id))
        if isinstance(record.content, Redeem | AcceptOffline):
            liability: Liability = "merchant"
            if accepted is not None and isinstance(accepted.record.content, AcceptOffline):
                liability = accepted.record.content.liability
            return self._sign("exception", command, refusal=refusal, liability=liability)
        return self._sign("refused", command, refusal=refusal)

    # ── redeem ─────────────────────────────────────────────────────────────────────────────────

    def _redeem(self, command: Command, redeem: Redeem) -> Decided:
        record = command.record
        key = (record.terminal, record.id)
        known = self._shelf.attempts.get(key)
        if known is not None:
            return self._again(command, key, known)
        if command.is_late:
            accepted = self._shelf.acceptances.get(key)
            if accepted is None:
                raise Problem(
                    "acceptance_missing", "its accept_offline must travel right behind it"
                )
            self._judge(command, accepted)
            return self._judged(record.digest)
        self._require_active(command)
        # Before the token, whose first use would be remembered though nothing is decided.
        programme = self._shelf.programmes.get(redeem.programme)
        if programme is None:
            raise Problem("malformed", "no such programme", field="content.programme")
        if programme.currency != redeem.currency:
            raise Problem("malformed", "not the programme's currency", field="content.currency")
        refusal, holder = self._token_refusal(command, redeem, programme)
        if refusal is not None:
            return self._refuse(command, refusal)
        situation = rules.Situation(
            programme=programme,
            products=self._shelf.products[programme.product_list],
            vouchers={v: self._shelf.at(v, command) for v in self._shelf.holdings},
            beneficiary=holder,
            store=command.terminal.store,
            at=self._now,
            lines=redeem.basket,
            acted=self._acted_before(command, programme, holder),
        )
        refusal = rules.check(situation, redeem.allocation)
        if refusal is not None:
            return self._refuse(command, self._reserved(refusal, command))
        draws = self._draws(command, redeem)
        if any(each.allotments for each in draws.values()):
            # What the till sold offline before may have drawn on the same allotment.
            self._require_decided(command)
        self._note_acted(command, redeem, holder)
        self._note_home(command, (record.bucket, holder))
        return self._post(command, redeem, draws)

    def _note_home(self, command: Command, holder: Holder) -> None:
        store, pinned = self._shelf.homes.get(holder, (command.terminal.store, False))
        if store != command.terminal.store and not pinned:
            self._shelf.homes[holder] = (command.terminal.store, False)
            self._shelf.new_homes[holder] = command.terminal.store

    def _draws(self, command: Command, redeem: Redeem) -> dict[str, Drawn]:
        record, shelf = command.record, self._shelf
        return {
            voucher: draw(
                shelf.holdings[voucher].balance,
                minor,
                quantity,
                shelf.own(voucher, record.terminal, record.incarnation),
            )
            for voucher, (minor, quantity) in accounts.taken_by(redeem.allocation).items()
        }

    def _reserved(self, refusal: Refusal, command: Command) -> Refusal:
        """That a voucher holds too little, told apart from that a part of it is set aside."""
        if refusal.code != "balance_insufficient" or not isinstance(refusal.at, str):
            return refusal
        elsewhere = [
            each
            for each in self._shelf.allotments.get(refusal.at, [])
            if not each.is_for(command.record.terminal, command.record.incarnation)
            and (each.left_minor or each.left_quantity)
        ]
        if not elsewhere or not self._is_there(refusal.at, command, elsewhere):
            return refusal
        last = max(elsewhere, key=lambda each: each.reclaim_after)
        reserved = Reserved(last.store_name, last.reclaim_after)
        return Refusal("reserved_elsewhere", refusal.at, reserved)

    def _is_there(self, voucher: str, command: Command, elsewhere: list[Allotment]) -> bool:
        """Whether what the allocation takes of a voucher would be there, were nothing set aside for
        others: else no date helps, and no other shop has it."""
        minor, quantity = accounts.taken_by(command.record.redeem.allocation)[voucher]
        usable = self._shelf.at(voucher, command)
        if usable.terms is None:
            return minor <= usable.available_minor + sum(each.left_minor for each in elsewhere)
        return quantity <= usable.available_quantity + sum(e.left_quantity for e in elsewhere)

    def _again(self, command: Command, key: Key, known: AttemptState) -> Decided:
        """A redeem whose id is known: the same answer for the same content, else an alarm."""
        record = command.record
        if known.content_sha256 is None:
            # A tombstone met its late original: remember what it was, post nothing.
            self._move(key, command, replace(known, content_sha256=record.content_sha256))
            return self._sign("reversed", command)
        if known.content_sha256 != record.content_sha256:
            self._shelf.alarms.append(("id_content_mismatch", command))
            return self._sign("refused", command, refusal=Refusal("id_content_mismatch"))
        if known.state == "reversed":
            return self._sign("reversed", command)
        if known.state == "refused":
            earlier = self._shelf.outcomes[known.record_sha256]
            return self._sign("refused", command, refusal=self._refusal_of(earlier))
        posted = self._shelf.posted.get(known.posting or "")
        if posted is None:
            raise Problem("try_again", "what this sale booked was lost; a person looks at it")
        if not posted.left():
            # Voided since, or refunded to the last line: nothing of it stands.
            return self._sign("reversed", command)
        return self._sign_posted("posted", command, posted.currency, posted.entries)

    def _refusal_of(self, stored: Decided) -> Refusal:
        refusal = outcome.read_any(stored.jws, keys=self._keyring.keys.keys).refusal
        assert refusal is not None
        return refusal

    def _token_refusal(
        self, command: Command, redeem: Redeem, programme: Programme
    ) -> tuple[Refusal | None, str]:
        """Why the token does not carry this redemption, else the ledger's name of its holder."""
        identity, record = command.identity, command.record
        if identity is None:
            raise Problem("malformed", "a redeem travels with the token it names", field="token")
        if isinstance(identity, Refusal):
            return identity, ""
        reference = self._keyring.beneficiary_ref(
            command.terminal.merchant, identity.iss, identity.sub
        )
        if reference != redeem.beneficiary:
            raise Problem("malformed", "is not the token's holder", field="content.beneficiary")
        found = self._shelf.beneficiaries.get((identity.iss, identity.sub))
        if found is None:
            return Refusal("voucher_unknown"), ""
        bucket, holder = found
        if bucket != record.bucket:
            raise Problem("malformed", "the bucket is not the beneficiary's", field="id")
        refusal = (
            token.issuer_refusal(identity, programme)
            or self._visit_refusal(identity, command, bucket)
            or token.fitness_refusal(
                identity, programme, pin_proved=self._pin_proved(identity, command)
            )
        )
        card = (identity.iss, identity.jti_sha256)
        if refusal == Refusal("pin_required") and card in self._shelf.locked_cards:
            refusal = Refusal("pin_locked")
        return refusal, holder

    def _visit_refusal(
        self, identity: IdentityToken, command: Command, bucket: int
    ) -> Refusal | None:
        if identity.visit_sha256 is None:
            return None
        key = (identity.iss, identity.visit_sha256)
        terminal = command.record.terminal
        first = self._shelf.visits.get(key)
        # Of a held record the token was judged when it came.
        seen_at = self._now if command.ruling is None else command.ruling.held_at
        refusal = token.visit_refusal(identity, first, terminal, seen_at)
        if first is None and refusal is None:
            self._shelf.visits[key] = (terminal, seen_at)
            self._shelf.new_visits.append((bucket, *key, terminal, seen_at))
        return refusal

    def _pin_proved(self, identity: IdentityToken, command: Command) -> bool:
        """Whether the card's PIN was proved at this terminal within a visit."""
        if command.ruling is not None:
            return command.ruling.pin_proved
        key = (identity.iss, identity.jti_sha256, command.record.terminal)
        proved_at = self._shelf.pin_visits.get(key)
        return proved_at is not None and self._now - proved_at <= VISIT

    def _acted_before(
        self, command: Command, programme: Programme, holder: str
    ) -> rules.Acted | None:
        """What was paid in acted redemptions before, when this is one."""
        acting = _acting(command)
        if acting is None:
            return None
        name = programme.programme
        return rules.Acted(
            self._shelf.household_paid.get((name, holder), 0),
            self._shelf.actor_paid.get((name, acting.actor_sha256), 0),
        )

    def _note_acted(self, command: Command, redeem: Redeem, holder: str) -> None:
        acting, record = _acting(command), command.record
        if acting is None:
            return
        noted = ActedPosting(
            record.bucket,
            record.digest,
            redeem.programme,
            holder,
            acting,
            redeem.programme_minor,
            clock.to_text(self._now),
        )
        self._shelf.acted[record.digest] = noted
        self._shelf.new_acted.append(noted)
        self._add_acted(noted, noted.amount_minor)

    def _counts(self, noted: ActedPosting) -> bool:
        """Whether it lies within its programme's window, so that the sums of before hold it."""
        programme = self._shelf.programmes.get(noted.programme)
        if programme is None or programme.acting is None:
            return False
        window = timedelta(seconds=programme.acting.window_s)
        return noted.recorded_at > clock.to_text(self._now - window)

    def _add_acted(self, noted: ActedPosting, amount_minor: int) -> None:
        for sums, key in (
            (self._shelf.household_paid, (noted.programme, noted.beneficiary)),
            (self._shelf.actor_paid, (noted.programme, noted.acting.actor_sha256)),
        ):
            sums[key] = sums.get(key, 0) + amount_minor

    def _post(self, command: Command, redeem: Redeem, draws: dict[str, Drawn]) -> Decided:
        record = command.record
        entries = self._book_draws(command, redeem, draws)
        self._begin(
            command,
            AttemptState("posted", record.content_sha256, record.digest, record.digest),
        )
        return self._sign_posted("posted", command, redeem.currency, entries)

    def _book_draws(
        self,
        command: Command,
        redeem: Redeem,
        draws: Mapping[str, Drawn],
        more: Sequence[Entry] = (),
    ) -> list[Entry]:
        """Book a redemption that is paid so; its legs."""
        record, shelf, merchant = command.record, self._shelf, command.terminal.merchant
        entries = accounts.redemption(
            [shelf.holdings[voucher].balance for voucher in draws],
            {voucher: (each.minor, each.quantity) for voucher, each in draws.items()},
            merchant,
            redeem.programme,
        )
        for voucher, each in draws.items():
            entries += accounts.drawn(
                shelf.holdings[voucher].balance,
                *each.allotted,
                terminal=record.terminal,
                merchant=merchant,
                programme=redeem.programme,
            )
            for allotment, minor, quantity in each.allotments:
                shelf.change(allotment.less(minor, quantity))
        entries += more
        shelf.apply(entries)
        shelf.new_postings.append(
            Posting(record.digest, "redeem", redeem.programme, record.bucket, command, entries)
        )
        shelf.posted[record.digest] = Posted(
            record.digest,
            "redeem",
            redeem.programme,
            merchant,
            redeem.currency,
            record.sequence,
            record.incarnation,
            entries,
        )
        # For an undo of the same batch.
        shelf.sold[record.digest] = Sold(
            redeem.basket, redeem.allocation, redeem.currency, record.occurred_at, self._now
        )
        return entries

    def _refuse(self, command: Command, refusal: Refusal) -> Decided:
        record = command.record
        self._begin(command, AttemptState("refused", record.content_sha256, record.digest, None))
        return self._sign("refused", command, refusal=refusal)

    # ── reversal ───────────────────────────────────────────────────────────────────────────────

    def _reversal(self, command: Command, reversal: Reversal) -> Decided:
        """Applied from a suspended terminal too: it only ever gives back."""
        record = command.record
        status = self._status(command)
        if status in chain_check.QUARANTINED:
            raise Problem(f"terminal_{status}")
        key = (record.terminal, record.id)
        known = self._shelf.attempts.get(key)
        if known is None:
            self._begin(command, AttemptState("reversed", None, reversal.record_sha256, None))
            return self._sign("reversed", command)
        if known.record_sha256 != reversal.record_sha256:
            self._shelf.alarms.append(("id_content_mismatch", command))
            return self._sign("refused", command, refusal=Refusal("id_content_mismatch"))
        if known.state != "posted":
            return self._sign("reversed", command)
        posted = self._shelf.posted.get(known.posting or "")
        if posted is None:
            # What it booked was lost and could not be booked again: nothing goes back.
            self._move(key, command, replace(known, state="reversed"))
            return self._sign("reversed", command)
        if posted.kind != "redeem":
            self._shelf.alarms.append(("id_content_mismatch", command))
            return self._sign("refused", command, refusal=Refusal("id_content_mismatch"))
        self._move(key, command, replace(known, state="reversed"))
        return self._take_back("reversed", command, posted, kind="reversal")

    # ── sold without the ledger ────────────────────────────────────────────────────────────────

    def _accept(self, command: Command, content: AcceptOffline) -> Decided:
        """An acceptance whose sale was decided before, or comes with it."""
        record = command.record
        key = (record.terminal, record.id)
        sale, known = self._shelf.late_sales.get(key), self._shelf.attempts.get(key)
        if sale is None or sale.record.digest != content.record_sha256:
            raise Problem("acceptance_missing", "its redeem must travel right before it")
        if known is None or known.state == "refused":
            self._judge(sale, command)
            return self._judged(record.digest)
        if known.content_sha256 not in (None, sale.record.content_sha256):
            self._shelf.alarms.append(("id_content_mismatch", command))
            return self._except(command, sale, Refusal("id_content_mismatch"))
        posted = self._shelf.posted.get(known.posting or "")
        if known.state == "reversed" or posted is None or not posted.left():
            return self._except(command, sale, Refusal("already_undone"))
        return self._sign_posted("posted", command, posted.currency, posted.entries)

    def _judge(self, sale: Command, accepted: Command) -> None:
        """Decide a sale and its acceptance together; both have their answers then."""
        match self._verdict(sale, accepted):
            case Held(reason, wrong):
                if accepted.ruling is not None:
                    raise Problem("malformed", "it can't be booked as it is, by nobody's word")
                for each in (sale, accepted):
                    self._hold(each, reason, wrong)
            case NotBooked(refusal):
                self._enter(sale, None)
                self._keep_first(sale, self._except(sale, sale, refusal, listed=False))
                self._keep(accepted, self._except(accepted, sale, refusal))
            case Booked() as booked:
                self._book_late(sale, accepted, booked)

    def _verdict(self, sale: Command, accepted: Command) -> Held | NotBooked | Booked:
        if self._status(accepted) == "suspended":
            return Held("terminal_suspended")
        if sale.record.digest in self._shelf.held:
            # Held with another acceptance; a till has one choice.
            return Held("malformed")
        self._require_active(accepted)
        content = accepted.record.content
        assert isinstance(content, AcceptOffline)
        return self._accepting.judge(sale, content, by_word=accepted.ruling is not None)

    def _judged(self, digest: str) -> Decided:
        return self._shelf.outcomes.get(digest) or self._shelf.held[digest]

    def _hold(self, command: Command, reason: outcome.HeldReason, wrong: Refusal | None) -> None:
        """Nothing is decided: a person looks at it. A sale that was decided before stays so."""
        digest = command.record.digest
        if digest in self._shelf.outcomes or digest in self._shelf.held:
            return
        held = self._sign("held", command, reason=reason)
        self._shelf.held[digest] = held
        self._shelf.new_held.append(NewHeld(command, reason, held, wrong))

    def _keep_first(self, sale: Command, decided: Decided) -> None:
        """What is answered of a sale stands, also where its acceptance brings it to another end."""
        if sale.record.digest not in self._shelf.outcomes:
            self._keep(sale, decided)

    def _book_late(self, sale: Command, accepted: Command, booked: Booked) -> None:
        record, redeem = sale.record, sale.record.redeem
        is_programmes = booked.liability == "programme"
        paid_minor = booked.shortfall_minor if is_programmes else 0
        more = accepting.loss(sale.terminal.merchant, redeem.currency, paid_minor)
        entries = self._book_draws(sale, redeem, booked.draws, more)
        if paid_minor:
            self._shelf.loss_reserve[redeem.programme] -= paid_minor
        for freed, minor in booked.said:
            self._shelf.say_of(freed, minor)
        self._shelf.sold[record.digest] = replace(
            self._shelf.sold[record.digest],
            occurred_at=record.occurred_at,
            accepted_offline=True,
            is_short=bool(booked.shortfall_minor),
        )
        self._enter(sale, record.digest)
        if booked.shortfall_minor:
            self._list(accepted, "posted_short", booked.shortfall_minor, sale, booked.liability)
        for command, keep in ((sale, self._keep_first), (accepted, self._keep)):
            states = tuple(self._states(command, redeem.currency, entries))
            keep(
                command,
                self._sign(
                    "posted_short" if booked.shortfall_minor else "posted",
                    command,
                    currency=redeem.currency if states or not booked.shortfall_minor else None,
                    amount_minor=sum(state.amount_minor for state in states),
                    vouchers=states,
                    shortfall_minor=booked.shortfall_minor,
                    liability=booked.liability,
                ),
            )

    def _enter(self, sale: Command, posting: str | None) -> None:
        """Where the attempt stands now; one that was refused online is judged anew, once."""
        record = sale.record
        key = (record.terminal, record.id)
        state = "refused" if posting is None else "posted"
        made = AttemptState(state, record.content_sha256, record.digest, posting)
        known = self._shelf.attempts.get(key)
        if known is None:
            self._begin(sale, made)
        else:
            self._move(key, sale, replace(known, state=state, posting=posting))

    def _except(
        self, command: Command, sale: Command, refusal: Refusal, *, listed: bool = True
    ) -> Decided:
        content = self._shelf.acceptances[sale.record.terminal, sale.record.id].record.content
        assert isinstance(content, AcceptOffline)
        if listed:
            minor = sale.record.redeem.programme_minor
            self._list(command, refusal.code, minor, sale, content.liability)
        return self._sign("exception", command, refusal=refusal, liability=content.liability)

    def _list(
        self, command: Command, reason: str, amount_minor: int, sale: Command, liability: str
    ) -> None:
        currency = sale.record.redeem.currency
        self._shelf.new_exceptions.append(
            ListedException(command, reason, amount_minor, currency, liability)
        )

    def _keep(self, command: Command, decided: Decided) -> Decided:
        self._shelf.outcomes[command.record.digest] = decided
        self._shelf.new_outcomes[command.record.digest] = (command, decided)
        return decided

    def _return(self, command: Command, content: ReturnAllotment) -> Decided:
        """What is left of the till's own allotments goes back to their vouchers."""
        record, shelf = command.record, self._shelf
        known = shelf.attempts.get((record.terminal, record.id))
        if known is not None:
            return self._undone_again(command, known)
        self._require_active(command)
        self._require_decided(command)
        given: list[Entry] = []
        currency = ""
        for voucher, number in content.allotments:
            for allotment in list(shelf.allotments.get(voucher, [])):
                if (allotment.number, allotment.terminal) == (number, record.terminal):
                    held = shelf.holdings[voucher].balance
                    currency = held.currency
                    given += accounts.given_back(
                        held, allotment.left_minor, allotment.left_quantity
                    )
                    shelf.release(allotment, given_back=True)
        self._begin(command, AttemptState("posted", record.content_sha256, record.digest, None))
        if not given:
            return self._sign("posted", command)
        return self._sign_posted("posted", command, currency, given)

    # ── void and refund ────────────────────────────────────────────────────────────────────────

    def _undo(self, command: Command, wish: Void | Refund) -> Decided:
        record, taking = command.record, self._taking_back
        known = self._shelf.attempts.get((record.terminal, record.id))
        if known is not None:
            return self._undone_again(command, known)
        self._require_active(command)
        self._require_decided(command)
        posted = taking.original(command, wish)
        if isinstance(posted, Refusal):
            return self._refuse(command, posted)
        refusal = taking.refusal(command, wish, posted)
        if refusal is not None:
            return self._refuse(command, refusal)
        self._begin(
            command, AttemptState("posted", record.content_sha256, record.digest, record.digest)
        )
        if isinstance(wish, Void):
            return self._take_back("posted", command, posted, kind="void")
        given = taking.refund(command, wish, posted)
        return self._sign_posted("posted", command, posted.currency, given)

    def _require_decided(self, command: Command) -> None:
        """Raises Problem while a record of the till's before this one is not decided; for a held
        one, while one before it is held: what never came may never come."""
        if command.ruling is not None:
            undecided = list(command.ruling.undecided)
        else:
            undecided = self._taking_back.undecided_before(command.record)
        if undecided:
            raise Problem(
                "sequence_gap",
                "records before this one are not decided",
                extra={"missing": undecided[:MISSING_SHOWN]},
            )

    def _undone_again(self, command: Command, known: AttemptState) -> Decided:
        """A void or refund whose id is known: the same answer for the same content."""
        if known.content_sha256 != command.record.content_sha256:
            self._shelf.alarms.append(("id_content_mismatch", command))
            return self._sign("refused", command, refusal=Refusal("id_content_mismatch"))
        if known.state == "refused":
            earlier = self._shelf.outcomes[known.record_sha256]
            return self._sign("refused", command, refusal=self._refusal_of(earlier))
        if known.posting is None:
            return self._sign("posted", command)
        posted = self._shelf.posted[known.posting]
        given = accounts.reversed_entries(posted.entries)
        return self._sign_posted("posted", command, posted.currency, given)

    def _take_back(
        self, result: outcome.Result, command: Command, posted: Posted, *, kind: str
    ) -> Decided:
        """All that stands of a sale goes back; nothing did: currency null, amount 0."""
        if not posted.left():
            return self._sign(result, command)
        given = self._taking_back.take_back(command, posted, kind=kind)
        if (noted := self._shelf.acted.get(posted.posting)) is not None:
            self._shelf.undone_acted.append(noted)
            if self._counts(noted):
                self._add_acted(noted, -noted.amount_minor)
        return self._sign_posted(result, command, posted.currency, given)

    # ── start, day report, key change ──────────────────────────────────────────────────────────

    def _plain(self, command: Command) -> Decided:
        self._require_active(command)
        record = command.record
        missing = self._shelf.gaps.get(record.digest)
        if record.kind == "day_report" and missing and command.ruling is None:
            raise Problem(
                "sequence_gap",
                "records before this one have not arrived",
                extra={"missing": missing},
            )
        return self._sign("posted", command)

    def _key_change(self, command: Command, change: KeyChange) -> Decided:
        """That the key proved itself was checked with the record's form."""
        self._require_active(command)
        terminal, keys = command.record.terminal, self._shelf.keys
        if key_rules.announce(keys, command.record, change):
            self._shelf.new_keys.append((terminal, change.key))
            if key_rules.waiting(keys, terminal) > 1:
                # A till changes once and then uses the key: perhaps there are two of it.
                self._shelf.alarms.append(("key_change", command))
        return self._sign("posted", command)

    def _require_active(self, command: Command) -> None:
        status = self._status(command)
        if status != "active":
            raise Problem(f"terminal_{status}")

    def _status(self, command: Command) -> str:
        """The terminal's status as of this transaction: it may have changed since the intake.

        Whether it forked was judged when this record was noted: what came before stays good.
        """
        if command.ruling is not None:
            return "active"
        status = self._shelf.statuses.get(command.terminal.terminal, command.terminal.status)
        return command.terminal.status if status == "forked" else status

    # ── shelf ──────────────────────────────────────────────────────────────────────────────────

    def _begin(self, command: Command, state: AttemptState) -> None:
        key = (command.record.terminal, command.record.id)
        self._shelf.attempts[key] = state
        self._shelf.new_attempts[key] = (command.record.bucket, state)

    def _move(self, key: Key, command: Command, state: AttemptState) -> None:
        self._shelf.attempts[key] = state
        changed = (
            self._shelf.new_attempts
            if key in self._shelf.new_attempts
            else self._shelf.moved_attempts
        )
        changed[key] = (command.record.bucket, state)

    # ── answers ────────────────────────────────────────────────────────────────────────────────

    def _sign_posted(
        self, result: outcome.Result, command: Command, currency: str, entries: list[Entry]
    ) -> Decided:
        """Bind what `entries` (of the redemption) moved, and what the vouchers hold now."""
        states = tuple(self._states(command, currency, entries))
        # An undo of what only the loss reserve had paid gives nothing back to a voucher.
        is_sale = command.record.kind in ("redeem", "accept_offline")
        return self._sign(
            result,
            command,
            currency=currency if states or is_sale else None,
            amount_minor=sum(state.amount_minor for state in states),
            vouchers=states,
        )

    def _states(self, command: Command, currency: str, entries: list[Entry]) -> list[VoucherState]:
        moved = _moved(currency, entries, accounts.is_vouchers)
        allotted = _moved(currency, entries, accounts.is_allotted)
        return [
            _state(self._shelf.at(voucher, command), moved[voucher], allotted.get(voucher, (0, 0)))
            for voucher in sorted(moved)
            # Money that only changed between available and saved came back to nobody.
            if any(moved[voucher])
        ]

    def _sign(
        self,
        result: outcome.Result,
        command: Command,
        *,
        refusal: Refusal | None = None,
        currency: str | None = None,
        amount_minor: int = 0,
        vouchers: tuple[VoucherState, ...] = (),
        shortfall_minor: int = 0,
        liability: Liability | None = None,
        reason: outcome.HeldReason | None = None,
    ) -> Decided:
        body = outcome.payload(
            result,
            command.record,
            recorded_at=self._now,
            epoch=self._keyring.epoch,
            refusal=refusal,
            currency=currency,
            amount_minor=amount_minor,
            vouchers=vouchers,
            shortfall_minor=shortfall_minor,
            liability=liability,
            reason=reason,
        )
        return Decided(result, outcome.sign(body, self._key))


def _acting(command: Command) -> Acting | None:
    return command.identity.acting if isinstance(command.identity, IdentityToken) else None


def _moved(
    currency: str, entries: list[Entry], counts: Callable[[str], bool]
) -> dict[str, tuple[int, int]]:
    """By voucher: money and quantity that left its accounts of this kind."""
    moved: dict[str, tuple[int, int]] = {}
    for entry in entries:
        if not counts(entry.account):
            continue
        minor, quantity = moved.get(entry.holder, (0, 0))
        if entry.unit == currency:
            minor -= entry.amount
        else:
            quantity -= entry.amount
        moved[entry.holder] = (minor, quantity)
    return moved


def _state(voucher: Voucher, moved: tuple[int, int], allotted: tuple[int, int]) -> VoucherState:
    return VoucherState(
        voucher.voucher,
        *moved,
        None if voucher.terms is None else voucher.terms.unit,
        voucher.available_minor,
        voucher.available_quantity,
        *allotted,
    )


def needed_vouchers(shelf: Shelf, commands: list[Command]) -> set[tuple[int, str]]:
    """(bucket, voucher) of every row that deciding these commands may change: lock them first."""
    needed: set[tuple[int, str]] = set()
    for command in commands:
        record = command.record
        if isinstance(record.content, Redeem):
            needed |= {(record.bucket, entry.voucher) for entry in record.content.allocation}
        if isinstance(record.content, ReturnAllotment):
            needed |= {(record.bucket, voucher) for voucher, _ in record.content.allotments}
        keys = [(record.terminal, record.id)]
        if isinstance(record.content, Void | Refund):
            keys.append((record.content.original.terminal, record.content.original.id))
        for key in keys:
            known = shelf.attempts.get(key)
            if known is not None and known.posting is not None:
                needed |= {
                    (record.bucket, entry.holder)
                    for entry in shelf.posted[known.posting].entries
                    if accounts.is_vouchers(entry.account)
                }
    return needed
