"""The till: scan → propose → redeem, and what to do when the answer does not come.

This is the whole story of a redemption in one place. Rules are in `rules`, what is promised in
`journal`, what may happen next in `attempt`; this module only brings them together in order:
intent first, then send, then the outcome, then the goods.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

from carepos import (
    attempt,
    backoff,
    clock,
    clock_ratchet,
    day_end,
    enrolment,
    holding,
    ids,
    key_change,
    left_journal,
    outcome,
    pack,
    rules,
    set_aside,
    signed_time,
    slip,
    token,
    undo,
)
from carepos.acceptance import AcceptOffline
from carepos.acceptor import Acceptor
from carepos.attempt import Event, State
from carepos.basket import Line, lines_from_json
from carepos.client import Client, Transport
from carepos.clock import Clock
from carepos.clock_ratchet import ClockRatchet, Standing
from carepos.correction import Correction
from carepos.corrector import Corrector
from carepos.disk_room import DiskRoom, Room
from carepos.enrolment import Enrolment, EnrolmentFile
from carepos.errors import (
    CareposError,
    ClockSkew,
    DiskFull,
    EnrolmentFailed,
    JournalError,
    JournalLocked,
    Malformed,
    NotDecided,
    NotWritten,
    Refused,
    Unreachable,
    WrongState,
)
from carepos.forwarder import Answers, Forwarder, Parcel
from carepos.healing import Healer, HealState
from carepos.ids import RandomBytes
from carepos.journal import Accepting, Journal
from carepos.journal_view import Attempt, JournalView, Undo, Visit
from carepos.key_change import KeyChanger, KeyState
from carepos.keys import Keys, SigningKey
from carepos.ledger_keys import LedgerKeyKeeper
from carepos.mirror import Mirror
from carepos.offline_rule import Liability
from carepos.outcome import HeldReason, Outcome
from carepos.pack import Pack
from carepos.pack_keeper import PackKeeper
from carepos.put_back import PutBack
from carepos.record import ALONE, DayReport, Kind, Record, Redeem, envelope
from carepos.refusals import Refusal
from carepos.rules import Acted, Proposal, Situation
from carepos.scan import Holder, Scanner, is_away
from carepos.token import IdentityToken
from carepos.undo import RefundReason, ReturnedLine, Sold, VoidReason
from carepos.unknown_key import may_ask
from carepos.uptime import Uptime, stands_still
from carepos.uptime import system as system_uptime
from carepos.voucher import Programme

SOFTWARE = "carepos/0.1.0"

Reached = Callable[[str], None]
"""Told the name of each point in a redemption's life as it is passed. The default does nothing;
whoever embeds the till may pass another, as tests do to stop a process at a chosen point."""

POINTS = ("intent_written", "before_send", "answer_read", "outcome_written")


def pass_by(_: str) -> None:
    """The default for `Reached`."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A proposal for one programme, to be shown before anything is taken.

    `liability`: of one that was made without the ledger, who bears the loss if it turns out bad.
    """

    holder: Holder
    programme: Programme
    situation: Situation
    proposal: Proposal
    liability: Liability | None = None

    @property
    def presentment(self) -> Literal["online", "offline"]:
        """Whether the ledger was asked about the holder, or the pack."""
        return "online" if self.holder.household is None else "offline"

    @property
    def refusal(self) -> Refusal | None:
        """Why nothing can be redeemed, or None when `redeem` may be called."""
        if self.proposal.refusal is not None:
            return self.proposal.refusal
        if self.proposal.allocation:
            return None
        reasons = [line.reason for line in self.proposal.lines if line.reason is not None]
        return Refusal(reasons[0]) if reasons else Refusal("category_not_covered")


@dataclass(frozen=True, slots=True)
class Sale:
    """Where one attempt stands, for the screen.

    `message` is the cashier's sentence; only `state == "confirmed"` means REDEEMED. `next_try_at`:
    when the till by itself asks or sends again, None where it waits for nobody or for a person.
    `liability`: of a sale without the ledger's word, who bears the loss if it turns out bad.
    `held` says why the ledger keeps it for a person to decide.
    """

    checkout: str
    state: State
    receipt_no: str
    currency: str
    amount_minor: int
    refusal: Refusal | None
    problem: str | None
    next_try_at: datetime | None = None
    liability: Liability | None = None
    held: HeldReason | None = None

    def message(self, language: str = "zh") -> str:
        """What the cashier reads: the state's sentence and the refusal's, or why it is held; "zh"
        or "en"."""
        meaning = attempt.MEANING[self.state]
        said = meaning.en if language == "en" else meaning.zh
        if self.refusal is not None:
            return f"{said} {self.refusal.sentence(language)}"
        if self.held is not None:
            return f"{said} {holding.sentence(self.held, language)}"
        return said

    @property
    def final(self) -> bool:
        return self.state in attempt.FINAL


@dataclass(frozen=True, slots=True)
class Returnable:
    """A sale that may be refunded, as far as is known: `sold.refunded` says what came back by
    line; `descriptions` by line, where this till sold it; `checkout` likewise."""

    receipt_no: str
    checkout: str | None
    sold: Sold
    descriptions: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class DayClose:
    """The till's Z as written, and whether the ledger has acknowledged it."""

    record: Record
    report: DayReport
    acknowledged: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class AnswersTaken:
    """What a file of answers brought: how many were news, and by a record's number why one was not
    believed."""

    taken: int
    problems: Mapping[int, str]


_ANSWERED_AS: Mapping[State, Kind] = {
    "unknown": "redeem",
    "interrupted": "redeem",
    "reversing": "reversal",
    "filling": "redeem",
    "held": "accept_offline",
}
"""By the state of a sale that no parcel carries: the record whose outcome it waits for."""


class Till:
    """One enrolled till. `Till.open(folder)`; safe to call from several threads.

    Files in the folder: `terminal.key` (0600), `enrolment.json`, `journal.db`, `pack.manifest` with
    the file that it names, `clock.json`, `reserve.bin`, and while the key changes `next.key`
    (0600).
    """

    def __init__(
        self,
        folder: Path,
        *,
        enrolled: Enrolment,
        journal: Journal,
        client: Client,
        ratchet: ClockRatchet,
        disk: DiskRoom,
        reached: Reached,
        paper: slip.Paper,
        random_bytes: RandomBytes = os.urandom,
        software: str = SOFTWARE,
        mirror: Mirror | None = None,
    ) -> None:
        self.folder = folder
        self.mirror = mirror
        self._enrolled = EnrolmentFile(folder / "enrolment.json", enrolled)
        self.journal = journal
        self._client = client
        self.ratchet = ratchet
        self.disk = disk
        self._now: Clock = ratchet.now
        self._heard_at: datetime | None = None
        self._asked_time_at: datetime | None = None
        client.on_skew = self._skewed
        client.on_suspended = journal.note_suspended
        self._reached = reached
        self._random_bytes = random_bytes
        self._software = software
        self._asked_why = False
        self._paper = paper
        self._ledger_keys = LedgerKeyKeeper(
            held=self._enrolled.ledger_keys,
            keep=self._enrolled.keep_ledger_keys,
            ask=client.key_set,
            now=lambda: self._now(),
        )
        self._keys: Keys = self._ledger_keys.find
        self._offers: dict[str, Offer] = {}
        self._accepting = threading.Lock()
        self._working: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._mutex = threading.Lock()
        self._packs = PackKeeper(
            folder,
            terminal=enrolled.terminal,
            keys=self._keys,
            client=client,
            now=ratchet.now,
            heard=self._heard,
            # Without asking anybody: a till opens without a network.
            held=pack.kept(folder, terminal=enrolled.terminal, keys=enrolled.ledger_keys.keys),
            incarnation=journal.incarnation,
        )
        self._key_changer = KeyChanger(
            folder,
            file=self._enrolled,
            journal=journal,
            client=client,
            ledger_keys=self._keys,
            software=software,
            reached=reached,
        )
        self._scanner = Scanner(
            terminal=enrolled.terminal,
            keys=self._keys,
            packs=self._packs,
            journal=journal,
            pin_tried=journal.pin_tried,
            client=client,
            now=ratchet.now,
            heard=self._heard,
            learn_time=self._learn_time,
        )
        self._healer = Healer(
            file=self._enrolled, journal=journal, client=client, held_pack=lambda: self._packs.held
        )
        self._corrector = Corrector(
            journal,
            client,
            self._packs,
            enrolled=lambda: self.enrolment,
            keys=self._keys,
            now=lambda: self._now(),
            reached=lambda point: self._reached(point),
            paper=paper,
            forward=self._forward,
            heard=self._heard,
        )
        self._forwarder = Forwarder(client, reached=lambda point: self._reached(point))
        self._acceptor = Acceptor(
            journal,
            self._packs,
            ratchet,
            enrolled=lambda: self.enrolment,
            stopped_for=journal.stopped_for,
            reached=lambda point: self._reached(point),
            advance=self._advance,
            read=self._read_result,
        )

    # ── beginning and ending ───────────────────────────────────────────────────────────────────

    @classmethod
    def enrol(cls, folder: Path, *, url: str, activation: str) -> Enrolment:
        """Make this folder a till of the ledger behind `url`. Repeating it is harmless.

        Raises EnrolmentFailed with what to do.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key_file = folder / "terminal.key"
        key_change.refuse_lost_key(folder)
        if (folder / "enrolment.json").exists():
            raise EnrolmentFailed(f"{folder} is enrolled already; use another folder")
        left_journal.refuse(folder)
        if not key_file.exists():
            SigningKey.generate().save(key_file)
        key = SigningKey.load(key_file)
        transport = Transport(url)
        try:
            enrolled = enrolment.enrol(url, activation, key, transport)
        finally:
            transport.close()
        enrolled.save(folder / "enrolment.json")
        return enrolled

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        now: Clock = clock.system_clock,
        uptime: Uptime | None = None,
        random_bytes: RandomBytes = os.urandom,
        reached: Reached = pass_by,
        paper: slip.Paper | None = None,
        software: str = SOFTWARE,
        answer_timeout_s: float = 8.0,
        transport: Transport | None = None,
        disk: DiskRoom | None = None,
        mirror: Path | None = None,
    ) -> Till:
        """Open an enrolled till and recover its journal; no network is needed.

        `now` is the computer's clock, which may be wrong (`clock_ratchet`), and `uptime` how long
        it has been running, by default its own with its own clock, and unknown with another.
        `transport`: the way to the ledger, instead of HTTP to the address it was enrolled at;
        `disk`: the room in `folder`, instead of what the system says of it. `mirror`: a folder on a
        second disk, which holds what is not uploaded (`mirror.Mirror`); it need not be there now.
        Raises EnrolmentFailed when the folder is not enrolled, JournalLocked when another process
        runs this till, JournalCorrupt.
        """
        folder = Path(folder)
        try:
            key, enrolled = key_change.load_terminal(folder)
        except FileNotFoundError:
            raise EnrolmentFailed(f"{folder} is not enrolled (carepos till enrol)") from None
        ratchet = clock_of(folder, enrolled, now=now, uptime=uptime)
        room = disk or DiskRoom(folder)

        def start() -> Journal:
            return Journal.start(
                folder / "journal.db",
                key=key,
                terminal=enrolled.terminal,
                software=software,
                former=[each.key for each in enrolled.former],
                now=ratchet.now,
                follow=ratchet.follow,
                failed=room.failed,
                random_bytes=random_bytes,
            )

        with_reserve = room.room().has_reserve
        try:
            journal = start()
        except JournalLocked:
            raise
        except JournalError:
            room.release_if_short()
            if not with_reserve or room.room().has_reserve:
                raise
            journal = start()
        room.refill()
        # From here on no other process changes a file of this till.
        key_change.finish_switch(folder, key)
        client = Client(
            transport or Transport(enrolled.url, answer_timeout_s=answer_timeout_s),
            terminal=enrolled.terminal,
            ledger=enrolled.ledger_keys.ledger,
            key=key,
            now=ratchet.now,
            random_bytes=random_bytes,
        )
        kept = None
        if mirror is not None:
            kept = Mirror(
                mirror, journal, beside=folder, reached=reached, found=PutBack(journal).found
            )
            journal.on_written = kept.wake
            kept.start()
            # What lies there may forbid the first sale. A disk that hangs is not waited for.
            kept.settle()
        return cls(
            folder,
            enrolled=enrolled,
            journal=journal,
            client=client,
            ratchet=ratchet,
            disk=room,
            reached=reached,
            paper=paper or slip.Paper(),
            random_bytes=random_bytes,
            software=software,
            mirror=kept,
        )

    def now(self) -> datetime:
        """The till's time: its clock's, but never before what the ledger signed."""
        return self._now()

    def room(self) -> Room:
        """How the till's disk stands."""
        found = self.disk.room()
        return replace(found, state="failed") if self.journal.is_closed else found

    def clock_standing(self) -> Standing:
        """How the computer's clock stands."""
        return self.ratchet.standing()

    def reset_clock(self, text: str) -> datetime:
        """Take an operator's reset (docs/offline.md §11): the time that counts from here on.

        A pack that is dated after it is dropped, to be fetched again. Raises Malformed,
        SignatureInvalid for one that is none or is another till's, ResetTaken for one that is not
        newer than the last; OSError.
        """
        own = self.enrolment
        at = signed_time.read_reset(
            text.strip(), ledger=own.ledger_keys.ledger, terminal=own.terminal, keys=self._keys
        )
        self.ratchet.reset(at)
        self._packs.drop_if_after(at)
        return at

    @property
    def heard_at(self) -> datetime | None:
        """When the ledger was last heard since the till was opened: with an answer over the network
        that it signed."""
        return self._heard_at

    def _heard(self, signed: datetime, *, fresh: bool = False) -> None:
        """Told every time under a signature of the ledger that was verified."""
        self.ratchet.heard(signed, fresh=fresh)
        self._heard_at = self._now()
        if fresh:
            self.journal.let_in(signed)

    def _skewed(self, error: ClockSkew, request: str) -> bool:
        """Whether the till knows the time now, after the ledger said that its clock is wrong."""
        try:
            at = signed_time.read(error.server_time, request=request, keys=self._keys)
        except Malformed:
            return False
        error.ahead_s = self.ratchet.ahead_s(at)
        self._heard(at, fresh=True)
        error.is_doubtful = self.ratchet.standing().doubtful == at
        return abs(self._now() - at) < clock_ratchet.TOLERANCE

    def _learn_time(self) -> bool:
        """Whether the till reckons with another time, after asking a ledger that it had not yet
        heard; at most once in five minutes."""
        before = self._now()
        if self.ratchet.is_known() or not may_ask(self._asked_time_at, before):
            return False
        self._asked_time_at = before
        with suppress(Unreachable, NotDecided):
            self._client.greet()
        return abs(self._now() - before) > clock_ratchet.TOLERANCE

    @property
    def enrolment(self) -> Enrolment:
        """Who this till is, under the key that signs now."""
        return self._enrolled.enrolled

    def close(self) -> None:
        self._client.close()
        if self.mirror is not None:
            self.mirror.close()
        self.journal.close()

    def __enter__(self) -> Till:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── scan and propose ───────────────────────────────────────────────────────────────────────

    def scan(self, scanned: str, *, pin: str | None = None) -> Holder:
        """Who presents this code, and what they hold. `pin`: of a printed card, entered on the
        beneficiary's side; it stays in memory.

        Raises Refused (token_*, pin_*, …) when the code is no good, NotDecided when the ledger
        refuses to look, Unreachable without an answer that can be trusted.
        """
        return self._scanner.scan(scanned, pin)

    def identify(self, scanned: str) -> IdentityToken:
        """Whom this code names, verified here without asking the ledger: `needs_pin` says whether
        a PIN must be entered before `scan`. Raises Refused; Unreachable while there is no pack.
        """
        return self._scanner.identify(scanned)

    def propose(
        self,
        holder: Holder | str,
        lines: Sequence[Line],
        *,
        programme: str | None = None,
    ) -> Offer:
        """What could be redeemed for these lines (after discounts). Takes nothing.

        `holder` may be the scanned code itself. Without `programme`, the one whose usable voucher
        expires first is taken. Raises as `scan`; Malformed for a bad basket.
        """
        if isinstance(holder, str):
            holder = self.scan(holder)
        basket = _checked(lines)
        held = self._packs.get()
        offers = [
            self._offer(holder, each, held, basket)
            for each in held.programmes.values()
            if programme in (None, each.programme)
            and any(v.programme == each.programme for v in holder.vouchers)
        ]
        if not offers:
            # The wrong code of a wallet is told apart from one that holds nothing.
            if not holder.vouchers:
                raise Refused(Refusal("voucher_unknown"))
            raise Refused(Refusal("other_programme"), programmes=_names(holder, held))
        return min(offers, key=_preference)

    def _offer(
        self, holder: Holder, programme: Programme, held: Pack, lines: tuple[Line, ...]
    ) -> Offer:
        own = {v.voucher: v for v in holder.vouchers if v.programme == programme.programme}
        situation = Situation(
            programme=programme,
            products=held.product_lists[programme.product_list],
            vouchers=own,
            beneficiary=holder.beneficiary,
            store=self.enrolment.store,
            at=self._now(),
            lines=lines,
            acted=None
            if holder.identity.acting is None
            else holder.acted.get(programme.programme, Acted(0, 0)),
        )
        refusal = token.issuer_refusal(holder.identity, programme) or token.fitness_refusal(
            holder.identity, programme, pin_proved=holder.pin_proved
        )
        if refusal is not None:
            nothing = rules.nothing(situation, refusal)
            return Offer(holder, programme, situation, nothing)
        if holder.household is not None:
            return self._offline_offer(holder, programme, situation)
        return Offer(holder, programme, situation, rules.propose(situation))

    def _offline_offer(self, holder: Holder, programme: Programme, situation: Situation) -> Offer:
        """As without a ledger: the same rules over what this till may give by itself."""
        try:
            situation = self._acceptor.situation(holder, programme, situation)
            proposal = rules.propose(situation)
            if proposal.refusal is not None or not proposal.allocation:
                return Offer(holder, programme, situation, proposal)
            accepting = self._acceptor.accepting(holder, programme, situation, proposal.allocation)
        except Refused as refused:
            nothing = rules.nothing(situation, refused.refusal)
            return Offer(holder, programme, situation, nothing)
        return Offer(holder, programme, situation, proposal, accepting.liability)

    # ── redeem ─────────────────────────────────────────────────────────────────────────────────

    def redeem(self, offer: Offer, *, checkout: str, cashier: str) -> Sale:
        """Redeem what was offered and accepted: exactly once per `checkout`, however often called.

        Returns confirmed, refused or unknown; or accepted, of an offer that was made without the
        ledger. Goods may leave only on confirmed or accepted; of an accepted one `answer_goods`
        says that they did, once the cashier has seen it. A checkout that already has a live attempt
        gets that attempt's state, and nothing is sent twice.
        Raises Refused when the offer redeems nothing, DiskFull, JournalClosed, Malformed.
        """
        with self._one_at_a_time(checkout):
            live = self.journal.live_attempt(checkout)
            if live is not None:
                return self._sale(live)
            if offer.refusal is not None:
                raise Refused(offer.refusal)
            if self.disk.room().state == "full":
                raise DiskFull("there is no room on the disk for a new sale")
            if offer.presentment == "offline" and not self._is_back(offer):
                return self._redeem_offline(offer, checkout, cashier)
            begun, written = self._write_intent(offer, checkout, cashier)
            self._offers[begun.id] = offer
            self._reached("intent_written")
            try:
                return self._send_sale(begun, written)
            except Exception:
                # Whatever failed here, the answer is not known: the sale must not stay `open`,
                # from where the cashier could neither ask again nor cancel.
                if self.journal.attempt(begun.id).state == "open":
                    self.journal.advance(begun.id, "no_answer")
                raise

    def give_back(self, holder: Holder) -> int:
        """Give back what this till still has set aside for a holder, so that it can be used
        elsewhere; of how many allotments. `settle` sends it. Raises JournalClosed."""
        with self._accepting:
            return self._acceptor.give_back(holder)

    def retry(self, checkout: str) -> Sale:
        """Ask again about a sale whose outcome is unknown; send the same record if need be.

        For any other state this is the state. Raises KeyError for a checkout never seen.
        """
        with self._one_at_a_time(checkout):
            latest = self._latest(checkout)
            return self._retried(latest)

    def _retried(self, latest: Attempt) -> Sale:
        if latest.state not in attempt.ASKS_LEDGER:
            return self._sale(latest)
        latest, problem = self._ask(latest)
        if latest.state == "unknown" and latest.id in self._offers and problem is None:
            return self._send_sale(latest, self.journal.record_of(latest))
        return self._sale(latest, problem)

    def accept(self, checkout: str) -> Sale:
        """Let a sale whose outcome is unknown go out of the door without the ledger's word, where
        the rules allow it. Asks once more first; once written it can't be taken back.

        Raises Refused where it may not (offline_not_allowed, holder_not_in_pack, pack_stale,
        floor_limit, …), WrongState when there is nothing to accept or the till was restarted since,
        DiskFull, KeyError.
        """
        with self._one_at_a_time(checkout):
            sale = self._retried(self._latest(checkout))
            latest = self._latest(checkout)
            if latest.state in attempt.FINAL | attempt.STORED:
                return sale
            offer = self._offers.get(latest.id)
            if latest.state != "unknown" or offer is None:
                raise WrongState(latest.state, "accept_chosen")
            self._must_not_be_held(latest)
            if self.disk.room().state == "full":
                raise DiskFull("there is no room on the disk for a new sale")
            with self._accepting:
                accepting = self._accept_anew(offer, latest.id)
                drafted = slip.provisional(latest.slip, accepting.liability)
                accepted = self.journal.advance(
                    latest.id, "accept_chosen", slip=drafted, accepting=accepting
                )
            self._accepted(accepted)
            return self._sale(accepted)

    def can_accept(self, checkout: str) -> bool:
        """Whether `accept` would let the newest attempt go now, as far as can be told without
        asking the ledger. Raises KeyError."""
        latest = self._latest(checkout)
        offer = self._offers.get(latest.id)
        if latest.state != "unknown" or offer is None:
            return False
        try:
            self._must_not_be_held(latest)
            self._accept_anew(offer, latest.id)
        except Refused:
            return False
        return True

    def _must_not_be_held(self, sale: Attempt) -> None:
        """Raises Refused for one that the ledger has and people decide: that is an answer."""
        reason = self._held(self.journal.record_of(sale))
        if reason is not None and reason != "token":  # which only what has left is held for
            raise Refused(Refusal(reason))

    def _accept_anew(self, offer: Offer, own: str | None = None) -> Accepting:
        return self._acceptor.accepting(
            offer.holder, offer.programme, offer.situation, offer.proposal.allocation, own=own
        )

    def _accepted(self, sale: Attempt) -> None:
        self._offers.pop(sale.id, None)
        self._reached("acceptance_written")
        if self.mirror is not None:
            self.mirror.settle()

    def _is_back(self, offer: Offer) -> bool:
        """Of some sales of a till without a network, drawn at random, the ledger is asked about the
        holder once more: whether it answered. Raises Refused, NotDecided for what it says of them.
        """
        rule = offer.programme.offline
        drawn = int.from_bytes(self._random_bytes(4), "big") * 1000 >> 32
        if rule is None or drawn >= rule.online_permille:
            return False
        holder = offer.holder
        try:
            self._scanner.look_up(holder.identity, holder.text, holder.pin_proof)
        except (Unreachable, NotDecided) as error:
            if not is_away(error):
                raise
            return False
        return True

    def _redeem_offline(self, offer: Offer, checkout: str, cashier: str) -> Sale:
        """Intent and acceptance in one write."""
        with self._accepting:
            accepting = self._accept_anew(offer)
            begun, _ = self._write_intent(offer, checkout, cashier, accepting)
        self._accepted(begun)
        return self._sale(begun)

    def cancel(self, checkout: str) -> Sale:
        """Reverse a sale whose outcome is unknown. Can't be taken back once written; of a sale that
        is being cancelled, or was, this is the state.

        Raises WrongState when there is nothing to cancel, KeyError.
        """
        with self._one_at_a_time(checkout):
            latest = self._latest(checkout)
            if latest.state in attempt.CANCELLED:
                return self._sale(latest)
            return self._settle_one(self.journal.advance(latest.id, "reverse_chosen"))

    def answer_goods(self, checkout: str, *, handed_over: bool) -> Sale:
        """Whether the goods left, of a sale that was accepted without the ledger, or that was
        booked while the till was down.

        An accepted one goes up when they did; when they did not, a void goes up behind it. The same
        answer again does nothing. Raises WrongState when nobody asked or the other answer was
        given, KeyError.
        """
        event: Event = "goods_handed_over" if handed_over else "goods_kept"
        with self._one_at_a_time(checkout):
            latest = self._latest(checkout)
            answered = self._answered_goods(latest)
            if answered == event:
                return self._sale(latest)
            if answered is not None:
                raise WrongState(latest.state, event, before=answered)
            if not handed_over and latest.state in ("accepted", "accept_asked"):
                cashier = self.journal.record_of(latest).redeem.cashier
                self._corrector.void(latest, cashier=cashier, reason="goods_kept", approved_by=None)
                return self._sale(self.journal.attempt(latest.id))
            return self._settle_one(self.journal.advance(latest.id, event))

    def _answered_goods(self, sale: Attempt) -> Event | None:
        given = [event for event, _ in self.journal.events_of(sale.id)]
        return next((e for e in given if e in ("goods_handed_over", "goods_kept")), None)

    def status(self, checkout: str) -> Sale:
        """Where the sale's newest attempt stands. Raises KeyError for one never seen."""
        return self._sale(self._latest(checkout))

    def _write_intent(
        self, offer: Offer, checkout: str, cashier: str, accepting: Accepting | None = None
    ) -> tuple[Attempt, Record]:
        identity, situation = offer.holder.identity, offer.situation
        content = Redeem(
            checkout=ids.label(checkout, "checkout"),
            cashier=ids.label(cashier, "cashier"),
            programme=offer.programme.programme,
            rules_version=offer.programme.rules_version,
            currency=offer.programme.currency,
            beneficiary=offer.holder.beneficiary,
            token_sha256=identity.token_sha256,
            basket=situation.lines,
            allocation=offer.proposal.allocation,
        )
        visit = None
        if identity.visit_sha256 is not None:
            visit = Visit(identity.iss, identity.visit_sha256)

        def make_slip(written: Record) -> dict[str, Any]:
            return slip.draft(
                written,
                offer.programme.name,
                offer.proposal,
                self.enrolment,
                self._paper,
                acting=None if identity.acting is None else identity.acting.way,
                liability=None if accepting is None else accepting.liability,
            )

        plan = None
        if accepting is None:
            plan = self._acceptor.planned(offer.holder, offer.programme, content.allocation)
        used = {entry.voucher for entry in content.allocation}
        terms = {v: t for v in sorted(used) if (t := situation.vouchers[v].terms) is not None}
        return self.journal.write_intent(
            content,
            bucket=offer.holder.bucket,
            visit=visit,
            slip=make_slip,
            terms=terms,
            taken=() if plan is None else set_aside.planned(plan),
            accepting=accepting,
        )

    def _send_sale(self, sale: Attempt, written: Record) -> Sale:
        """Send the intent with whatever must go before it; read one outcome."""
        done: list[Sale] = []

        def opened(results: Sequence[Mapping[str, Any]]) -> None:
            self._reached("answer_read")
            done.append(self._apply(sale, written, results[0]))

        own = Parcel(
            (written,),
            (envelope(written, self._token_of(sale)),),
            opened,
            lambda problem: done.append(self._no_answer(sale, problem)),
        )
        problems = self._forwarder.forward(
            lambda: [*(p for p in self._waiting() if p.sequence < written.sequence), own]
        )
        if not done:  # there was no room to write the answer down
            return self._no_answer(sale, problems.get(written.sequence))
        return done[-1]

    def _token_of(self, sale: Attempt) -> str | None:
        """The scanned code, while it is in memory."""
        offer = self._offers.get(sale.id)
        return None if offer is None else offer.holder.text

    def _apply(self, sale: Attempt, written: Record, result: Mapping[str, Any]) -> Sale:
        found, problem = self._read_result(written, result)
        if found is None:
            return self._no_answer(sale, problem)
        return self._sale(self._advance(sale, found))

    def _advance(self, sale: Attempt, found: Outcome) -> Attempt:
        event = attempt.event_of(found)
        final = None
        if event in ("sale_posted", "accept_posted") and attempt.step(sale.state, event).to in (
            "confirmed",
            "goods_asked",
        ):
            final = slip.with_outcome(sale.slip, found)
        moved = self.journal.advance(sale.id, event, outcome=found, slip=final)
        self._reached("outcome_written")
        if moved.state not in ("open", "unknown"):
            self._offers.pop(sale.id, None)
        return moved

    def _no_answer(self, sale: Attempt, problem: str | None) -> Sale:
        return self._sale(self.journal.advance(sale.id, "no_answer"), problem)

    # ── void and refund ────────────────────────────────────────────────────────────────────────

    def void(
        self,
        checkout: str,
        *,
        cashier: str,
        reason: VoidReason,
        approved_by: str | None = None,
        receipt_no: str | None = None,
    ) -> Correction:
        """Take a whole confirmed sale of this till back, within the programme's undo window.

        `receipt_no` names one of a checkout's attempts, else it is the newest. However often
        called, it is one void; one that is not decided yet stays `waiting`, and `settle` sends it
        again. After one that was refused another may be tried, once this or `seen` has told it.
        Raises Refused (void_too_late, already_undone, original_not_booked) before anything is
        written, WrongState while the sale, or a refund of it, is not over, KeyError for a sale
        never seen, Malformed, JournalClosed.
        """
        with self._one_at_a_time(checkout):
            sale = self._latest(checkout)
            if receipt_no is not None:
                number = self.enrolment.terminal_no
                named = {
                    ids.receipt_no(number, each.sequence): each
                    for each in self.journal.of_checkout(checkout)
                }
                sale = named[receipt_no]
            return self._corrector.void(
                sale, cashier=cashier, reason=reason, approved_by=approved_by
            )

    def void_until(self, checkout: str) -> datetime | None:
        """Until when the newest attempt of a checkout can be voided, by the rules that the till
        has; None where it can't. Raises KeyError."""
        sale = self._latest(checkout)
        held = self._packs.held
        programme = None if held is None else held.programmes.get(sale.programme)
        if sale.state not in attempt.BOOKED | attempt.STORED or programme is None:
            return None
        mine = self.journal.undos_of(self.enrolment.terminal, sale.id)
        if any(each.state != "refused" for each in mine):
            return None  # it is being taken back, or was in part
        begun = self.journal.record_of(sale).occurred_at
        until = begun + timedelta(seconds=programme.undo_window_s)
        return until if self._now() < until else None

    def returnable(self, receipt: str) -> Returnable:
        """What of a sale can come back: `receipt` as for `refund`. Writes nothing. Raises alike."""
        receipt_no, code = slip.parse_scanned(receipt)
        found = self._corrector.find(receipt_no, code)
        own = self._corrector.own_attempt(receipt_no, code)
        lines = [] if own is None else own.slip.get("lines", [])
        return Returnable(
            receipt_no,
            None if own is None else own.checkout,
            found.sold,
            {n: str(line["description"]) for n, line in enumerate(lines, 1)},
        )

    def refund(
        self,
        receipt: str,
        lines: Sequence[ReturnedLine],
        *,
        cashier: str,
        reason: RefundReason,
        approved_by: str | None = None,
        reference: str | None = None,
    ) -> Correction:
        """Give lines of a confirmed sale back to the vouchers that paid for them.

        `receipt`: the number on the receipt, or its QR as scanned. A sale of this till is known
        here; one of another till of the merchant is asked for at the ledger. `reference` is the
        register's own number of this return, by which a repeated call is known; without one a
        second call with the same lines is the same refund only while it waits.
        Raises Refused (refund_exceeds, refund_too_late, already_undone, …; original_unknown) before
        anything is written, WrongState while the sale or another undo of it is not over,
        Unreachable and NotDecided for another till's sale without an answer, Malformed.
        """
        lines = undo.returned_lines([each.to_json() for each in lines])
        receipt_no, code = slip.parse_scanned(receipt)
        own = self._corrector.own_attempt(receipt_no, code)
        with self._one_at_a_time(receipt_no if own is None else own.checkout):
            return self._corrector.refund(
                self._corrector.find(receipt_no, code),
                receipt_no,
                lines,
                cashier=cashier,
                reason=reason,
                approved_by=approved_by,
                reference=reference,
            )

    def corrections(self, *, waiting: bool = False) -> list[Correction]:
        """Every void and refund of this till, oldest first; or those that wait."""
        undos = self.journal.undos("waiting") if waiting else self.journal.undos()
        return [self._corrector.standing(each) for each in undos]

    def correction(self, receipt_no: str) -> Correction:
        """The void or refund with this number of its own. Raises KeyError."""
        return self._corrector.standing(self._undo(receipt_no))

    def seen(self, receipt_no: str) -> Correction:
        """The cashier has seen how the void or refund of this number ended: one that waited and was
        refused behind her back is told (`Correction.seen`) until then. Repeated, it does nothing.

        Raises KeyError, WrongState while it waits, Malformed, JournalClosed.
        """
        return self._corrector.seen(self._undo(receipt_no))

    def _undo(self, receipt_no: str) -> Undo:
        terminal_no, sequence = ids.parse_receipt_no(receipt_no)
        for each in self.journal.undos():
            if (terminal_no, sequence) == (self.enrolment.terminal_no, each.sequence):
                return each
        raise KeyError(receipt_no)

    # ── settling what is open ──────────────────────────────────────────────────────────────────

    def settle(self, *, due_only: bool = False) -> list[Sale]:
        """Do the next thing for everything that is not over: query, reverse, fill numbers.

        Call it when somebody asks for it; with `due_only` every so often: then each sale is asked
        about when its time has come (`next_try`), and once nobody answers the others wait. Returns
        where each sale of them stands now; voids and refunds that wait are sent too
        (`corrections`). A change of key that is under way goes on with it.
        """
        if due_only and self._client.quiet_s():
            return []
        self._go_on_changing()
        problems = self._forward(undos=False)
        settled = []
        for unfinished in self._due() if due_only else self.journal.unfinished():
            with self._one_at_a_time(unfinished.checkout):
                # Another thread may have moved it since the list was made.
                settled.append(
                    self._settle_one(
                        self.journal.attempt(unfinished.id), problems.get(unfinished.sequence)
                    )
                )
            if due_only and settled[-1].problem is not None and not self._client.answered:
                return settled
        # Last: an undo is decided only when all before it is.
        if self.journal.undos("waiting") and (not due_only or self._is_undo_due()):
            self._forward()
        return settled

    def quiet_s(self) -> float:
        """For how long the ledger asked to be left alone (`Retry-After`), at most five minutes."""
        return self._client.quiet_s()

    def next_try(self) -> datetime | None:
        """When the till by itself next asks or sends again; None while nothing waits for that."""
        times = [self.next_try_of(each) for each in self.journal.unfinished()]
        times += [self.next_try_of_undo(each) for each in self.journal.undos("waiting")]
        return min((at for at in times if at is not None), default=None)

    def _due(self) -> list[Attempt]:
        """What may be asked about by now, whoever waits longest first."""
        now = self._now()
        times = [(self.next_try_of(each), each) for each in self.journal.unfinished()]
        due = [(at, each) for at, each in times if at is not None and at <= now]
        return [each for _, each in sorted(due, key=lambda pair: (pair[0], pair[1].sequence))]

    def next_try_of(self, sale: Attempt) -> datetime | None:
        """When the till by itself asks about this attempt again, or sends it; None: it does not."""
        now = self._now()
        return self._not_before_quiet(
            backoff.of_attempt(self.journal, sale, now, heard_at=self._heard_at), now
        )

    def next_try_of_undo(self, of: Undo) -> datetime | None:
        """As `next_try_of`, of a void or refund."""
        now = self._now()
        return self._not_before_quiet(
            backoff.of_undo(self.journal, of, now, heard_at=self._heard_at), now
        )

    def _is_undo_due(self) -> bool:
        now = self._now()
        times = [self.next_try_of_undo(each) for each in self.journal.undos("waiting")]
        return any(at is not None and at <= now for at in times)

    def _not_before_quiet(self, at: datetime | None, now: datetime) -> datetime | None:
        quiet_s = self._client.quiet_s()
        return at if at is None or not quiet_s else max(at, now + timedelta(seconds=quiet_s))

    def _settle_one(self, unfinished: Attempt, problem: str | None = None) -> Sale:
        """Follow the table as far as the network allows."""
        try:
            return self._settle_by_table(unfinished, problem)
        except NotWritten as error:
            return self._sale(self.journal.attempt(unfinished.id), str(error))

    def _settle_by_table(self, unfinished: Attempt, problem: str | None) -> Sale:
        for _ in range(4):  # query, reversal, fill: no attempt needs more steps
            state = unfinished.state
            if state in attempt.ASKS_LEDGER:
                unfinished, problem = self._ask(unfinished)
            elif state == "held":
                # Who is held may read nothing: sent again, it is answered with what people decided.
                problem = self._forward_again(unfinished)
                unfinished = self.journal.attempt(unfinished.id)
            elif state in ("reversing", "filling"):
                kind: Literal["reversal", "redeem"] = (
                    "reversal" if state == "reversing" else "redeem"
                )
                unfinished, problem = self._deliver(
                    unfinished, self.journal.record_of(unfinished, kind)
                )
            if unfinished.state == state:
                break
        return self._sale(unfinished, problem)

    def _ask(self, sale: Attempt) -> tuple[Attempt, str | None]:
        """Query the ledger for an attempt; apply what it signed about its redeem record."""
        written = self.journal.record_of(sale)
        if self.journal.stopped_for() is not None or self._held(written) is not None:
            # Who is held may read nothing. Sent again, the record is answered with what was decided
            # of it before, or people decided since; nothing is booked by that.
            return self._deliver(sale, written)
        try:
            answers, jti = self._client.ask(sale.id)
        except (Unreachable, NotDecided) as error:
            return self.journal.advance(sale.id, "no_answer"), str(error)
        # Oldest first: of one that was held the newest word counts.
        for answer in reversed(answers):
            try:
                found = outcome.read_bound(answer, written, keys=self._keys)
            except Malformed:
                continue  # of another record of the attempt, or not the ledger's word
            self._heard(found.recorded_at)
            return self._advance(sale, found), None
        try:
            absent = outcome.read_not_found(
                answers[0],
                an_id=sale.id,
                terminal=self.enrolment.terminal,
                request=jti,
                keys=self._keys,
            )
        except Malformed as error:
            return self.journal.advance(sale.id, "no_answer"), str(error)
        self._heard(absent.recorded_at, fresh=True)
        return self._advance(sale, absent), None

    def _deliver(self, sale: Attempt, written: Record) -> tuple[Attempt, str | None]:
        """Send one record of an attempt that is being reversed; apply its outcome."""
        try:
            results = self._client.send([envelope(written)])
        except (Unreachable, NotDecided) as error:
            return self.journal.advance(sale.id, "no_answer"), str(error)
        found, problem = self._read_result(written, results[0])
        if found is None:
            return self.journal.advance(sale.id, "no_answer"), problem
        return self._advance(sale, found), None

    def _read_result(
        self, written: Record, result: Mapping[str, Any]
    ) -> tuple[Outcome | None, str | None]:
        """The bound outcome in a result, or why there is none."""
        accepted = None
        if written.kind == "accept_offline":
            accepted = self.journal.record_of(self.journal.attempt(written.id)).redeem
        found, problem = outcome.read_result(result, written, keys=self._keys, accepted=accepted)
        if found is not None:
            self._heard(found.recorded_at)
        return found, problem

    def _forward(self, through: int | None = None, *, undos: bool = True) -> dict[int, str]:
        """Send what is stored, up to this number where one is given; by number, why one is not
        decided. `undos`: voids and refunds too, which wait for all before them."""

        def waiting() -> list[Parcel]:
            found = self._waiting(undos=undos)
            return [each for each in found if through is None or each.sequence <= through]

        return self._forwarder.forward(waiting)

    def _forward_again(self, held: Attempt) -> str | None:
        parcel = self._acceptor.parcel(held)
        return self._forwarder.forward(lambda: [parcel]).get(parcel.sequence)

    def _waiting(self, *, undos: bool = True) -> list[Parcel]:
        """What the ledger may not have: records that are nobody's redemption, sales that left
        without its word, what takes sales back."""
        plain = [self._plain_parcel(each) for each in self.journal.unanswered(*ALONE)]
        taking_back = self._corrector.waiting() if undos else []
        return [*plain, *self._acceptor.waiting(), *taking_back]

    def _plain_parcel(self, written: Record) -> Parcel:
        return Parcel(
            (written,),
            (envelope(written),),
            lambda results: self._keep_plain(written, results[0]),
        )

    def _send_plain(self) -> str | None:
        """Send all that is stored; why not, if one that is nobody's redemption was not accepted."""
        problems = self._forward(undos=False)
        waiting = [each.sequence for each in self.journal.unanswered(*ALONE)]
        return next((problems[each] for each in reversed(waiting) if each in problems), None)

    def _keep_plain(self, written: Record, result: Mapping[str, Any]) -> str | None:
        found, problem = self._read_result(written, result)
        if found is not None and found.reason is not None:
            # Sent again until it is decided.
            self.journal.keep_held(found)
            return holding.sentence(found.reason, "en")
        if found is not None:
            self.journal.keep_outcome(written, found)
        return problem

    # ── answers that were carried here ─────────────────────────────────────────────────────────

    def take_ledger_keys(self, document: Mapping[str, Any]) -> bool:
        """Take the ledger's key set that came with a file of answers, by the rule for one that the
        ledger was asked for (docs/identity.md §11); whether it is news.

        Raises Malformed, SignatureInvalid for one that is not believed, OSError when it can't be
        kept; then nothing has changed.
        """
        return self._ledger_keys.take(document)

    def take_answers(self, found: Sequence[Mapping[str, Any]]) -> AnswersTaken:
        """Take outcomes that came in a file (docs/offline.md §10), verified and bound like those
        that come over the network, once the keys that came with them are (`take_ledger_keys`). What
        they do not answer stays open; again they change nothing.

        `found`: `{"outcome"}` or `{"problem"}` each. Raises Malformed, JournalClosed.
        """
        answers, heard_at = Answers(found), self._heard_at
        taken = self._forwarder.take(self._waiting, answers)
        for each in self.journal.attempts(*_ANSWERED_AS):
            with self._one_at_a_time(each.checkout):
                # Another thread may have moved it since the list was made.
                taken |= self._take_answers_of(self.journal.attempt(each.id), answers)
        self._heard_at = heard_at  # what was carried here says nothing of the network
        problems = {number: why for number, why in taken.items() if why is not None}
        return AnswersTaken(len(taken) - len(problems), problems)

    def _take_answers_of(self, sale: Attempt, answers: Answers) -> dict[int, str | None]:
        """Of a sale that is not just forwarded: unknown, being reversed, held."""
        taken: dict[int, str | None] = {}
        while (kind := _ANSWERED_AS.get(sale.state)) is not None:
            before, written = sale.state, self.journal.record_of(sale, kind)
            result = answers.of(written)
            if result is None:
                break
            found, problem = self._read_result(written, result)
            if found is None:
                taken[written.sequence] = problem
                break
            is_old = found.jws in self.journal.outcomes_of(written.sequence)
            if is_old and found.result == "held":
                break
            if sale.state == "held" and found.result != "held":
                own = self.journal.record_of(sale)
                if not self.journal.is_decided(own.sequence):
                    # The same word decided both, and neither counts alone.
                    of_sale, problem = self._read_result(own, answers.of(own) or {})
                    if of_sale is None or of_sale.result == "held":
                        taken[own.sequence] = problem or "what became of the sale is missing"
                        break
                    sale = self._advance(sale, of_sale)
                    taken[own.sequence] = None
            sale = self._advance(sale, found)
            taken[written.sequence] = None
            if sale.state == before:
                break
        return taken

    # ── the key ────────────────────────────────────────────────────────────────────────────────

    def change_key(self) -> KeyState:
        """Make a new key and change over to it (docs/identity.md §11).

        Without a network the change waits, `settle` goes on with it, and selling goes on under
        the old key. Called again meanwhile it goes on with the same change. Raises OSError,
        JournalClosed.
        """
        self._key_changer.wish()
        self._go_on_changing()
        return self._key_changer.state()

    @property
    def key_state(self) -> KeyState:
        return self._key_changer.state()

    def _go_on_changing(self) -> bool:
        """Write, send, switch, as far as the network allows; False where no change is wished."""
        if not key_change.is_wished(self.folder):
            return False
        self._key_changer.write()
        self._key_changer.note(self._send_plain())
        if self._key_changer.switch():
            # The new key's first word closes the old one at the ledger.
            self._send_plain()
        return True

    # ── the day, the pack ──────────────────────────────────────────────────────────────────────

    def close_day(self, business_date: str | None = None) -> DayClose:
        """Write the day report (Z) over everything since the last one, and send it.

        Works without a network; the report then goes up later. `business_date` is ISO 8601, by
        default today, and not before the last report's: Malformed.
        """
        today = f"{self._now().astimezone(UTC):%Y-%m-%d}"
        day = day_end.date_for(self.journal, business_date, today)
        self.settle()
        written = self.journal.write_day_report(
            lambda last: day_end.report(self.journal, day, last)
        )
        problem = self._send_plain()
        report = written.content
        assert isinstance(report, DayReport)
        return DayClose(written, report, bool(self.journal.outcomes_of(written.sequence)), problem)

    def refresh_pack(self) -> Pack:
        """Fetch the offline pack if the ledger has a newer one; keep it durably.

        Raises Unreachable, NotDecided, OSError; the pack held before stays.
        """
        return self._packs.refresh()

    def ask_why_not_served(self) -> None:
        """Hear under the ledger's signature why it answers this till's reads as a stranger's
        (`unauthorised`): whoever it stopped reads nothing, but what it sends is held with the
        reason. Sends a record that says nothing new, once in a run. Raises JournalClosed."""
        if self._asked_why or self.journal.stopped_for() is not None:
            return
        self._asked_why = True
        self.journal.write_start(self._software)
        self._send_plain()

    def heal(self) -> HealState:
        """Ask the ledger what it holds of this till's records, and offer it what it lost: call it
        every so often, and before `refresh_pack` when a ledger is heard again.

        Raises Unreachable, NotDecided, JournalClosed.
        """
        return self._healer.report()

    @property
    def heal_state(self) -> HealState:
        """Whether the ledger is being restored, and how much of it this till has sent."""
        return self._healer.state()

    def sell_on(self) -> bool:
        """The office has seen what this till lost when it was put back, and lets it sell without a
        network: whether it may (`put_back`). Raises JournalClosed."""
        return PutBack(self.journal).release()

    @property
    def held_pack(self) -> Pack | None:
        return self._packs.held

    # ── inside ─────────────────────────────────────────────────────────────────────────────────

    def _latest(self, checkout: str) -> Attempt:
        attempts = self.journal.of_checkout(checkout)
        if not attempts:
            raise KeyError(checkout)
        return attempts[-1]

    def _sale(self, of: Attempt, problem: str | None = None) -> Sale:
        refusal = None
        if of.state in ("refused", "exception"):
            for text in self.journal.outcomes_of(of.sequence):
                refusal = outcome.read_any(text, keys=self._keys).refusal or refusal
        held = None
        if of.state in ("unknown", "interrupted", "filling", "held"):
            held = self._held(self.journal.record_of(of))
        elif of.state == "reversing":
            held = self._held(self.journal.record_of(of, "reversal"))
        return Sale(
            of.checkout,
            of.state,
            ids.receipt_no(self.enrolment.terminal_no, of.sequence),
            of.currency,
            of.amount_minor,
            refusal,
            problem,
            self.next_try_of(of),
            self._liability(of),
            held,
        )

    def _liability(self, of: Attempt) -> Liability | None:
        if of.state not in attempt.STORED | {"short", "exception"}:
            return None
        content = self.journal.record_of(of, "accept_offline").content
        return content.liability if isinstance(content, AcceptOffline) else None

    def _held(self, written: Record) -> HeldReason | None:
        return holding.reason_of(self.journal.outcomes_of(written.sequence), keys=self._keys)

    def _one_at_a_time(self, checkout: str) -> threading.Lock:
        """A lock per sale: a double click waits for the first and then sees its state."""
        with self._mutex:
            return self._working.setdefault(checkout, threading.Lock())


def clock_of(
    folder: Path, enrolled: Enrolment, *, now: Clock, uptime: Uptime | None = None
) -> ClockRatchet:
    """What a till's folder knows of the time, also beside a running till. Writes nothing yet."""
    if uptime is None:
        own = now is clock.system_clock
        uptime = system_uptime() if own else stands_still()
    return ClockRatchet.open(
        folder, wall=now, uptime=uptime, signed=lambda: _signed_times(folder, enrolled)
    )


def _signed_times(folder: Path, enrolled: Enrolment) -> Iterator[datetime]:
    """Times under the ledger's signature that lie in the folder besides."""
    yield enrolled.issued_at
    keys = enrolled.ledger_keys.keys
    held = pack.kept(folder, terminal=enrolled.terminal, keys=keys)
    if held is not None:
        yield held.issued_at
    with suppress(CareposError):
        with closing(JournalView.open(folder / "journal.db", enrolled.terminal_keys)) as view:
            newest = view.newest_outcome()
        if newest is not None:
            yield outcome.read_any(newest, keys=keys).recorded_at


def _names(holder: Holder, held: Pack) -> list[str]:
    """The names of the programmes that somebody holds vouchers of, as the pack has them."""
    return [
        known.name if (known := held.programmes.get(programme)) is not None else programme
        for programme in sorted({voucher.programme for voucher in holder.vouchers})
    ]


def _checked(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Lines as if they had come over the wire, so that a caller's slip is found here."""
    return lines_from_json([{**line.to_json(), "description": line.description} for line in lines])


def _preference(offer: Offer) -> tuple[bool, datetime]:
    """Offers that redeem something first, then the one whose used voucher expires first."""
    held = offer.situation.vouchers
    used = {entry.voucher for entry in offer.proposal.allocation} or held.keys()
    return offer.refusal is not None, min(held[voucher].expires_at for voucher in used)
