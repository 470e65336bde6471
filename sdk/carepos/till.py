"""The till: scan → propose → redeem, and what to do when the answer does not come.

This is the whole story of a redemption in one place: intent first, then send, then the outcome,
then the goods. Rules are in `rules`, what is promised in `journal`, what may happen next in
`attempt`; what the ledger says comes through `ledgers_word`, what is open is followed by `settler`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from carepos import (
    attempt,
    clock,
    day_end,
    enrolment,
    ids,
    key_change,
    left_journal,
    outcome,
    pack,
    set_aside,
    signed_time,
    slip,
    undo,
)
from carepos.acceptor import Acceptor
from carepos.attempt import Event
from carepos.basket import Line
from carepos.client import Client, Transport
from carepos.clock import Clock
from carepos.clock_ratchet import ClockRatchet, Standing
from carepos.correction import Correction
from carepos.corrector import Corrector
from carepos.disk_room import DiskRoom, Room
from carepos.enrolment import Enrolment, EnrolmentFile
from carepos.errors import (
    CareposError,
    DiskFull,
    EnrolmentFailed,
    JournalError,
    JournalLocked,
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
from carepos.ledgers_word import LedgersWord
from carepos.mirror import Mirror
from carepos.outbox import Outbox
from carepos.pack import Pack
from carepos.pack_keeper import PackKeeper
from carepos.proposer import Proposer
from carepos.put_back import PutBack
from carepos.record import DayReport, Record, Redeem, envelope
from carepos.refusals import Refusal
from carepos.sale import Offer, Returnable, Sale, sale_of
from carepos.scan import Holder, Scanner, is_away
from carepos.settler import ANSWERED_AS, Settler
from carepos.timetable import Timetable
from carepos.token import IdentityToken
from carepos.undo import RefundReason, ReturnedLine, VoidReason
from carepos.uptime import Uptime, stands_still
from carepos.uptime import system as system_uptime

SOFTWARE = "carepos/0.1.0"

Reached = Callable[[str], None]
"""Told the name of each point in a redemption's life as it is passed. The default does nothing;
whoever embeds the till may pass another, as tests do to stop a process at a chosen point."""

POINTS = ("intent_written", "before_send", "answer_read", "outcome_written")


def pass_by(_: str) -> None:
    """The default for `Reached`."""


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
        self._word = LedgersWord(
            journal,
            client,
            ratchet,
            keys=self._keys,
            now=lambda: self._now(),
            reached=lambda point: self._reached(point),
            decided=lambda an_id: self._offers.pop(an_id, None),
        )
        client.on_skew = self._word.skewed
        client.on_suspended = journal.note_suspended
        self._timetable = Timetable(
            journal,
            now=lambda: self._now(),
            quiet_s=client.quiet_s,
            heard_at=lambda: self._word.heard_at,
        )
        self._accepting = threading.Lock()
        self._working: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._mutex = threading.Lock()
        self._packs = PackKeeper(
            folder,
            terminal=enrolled.terminal,
            keys=self._keys,
            client=client,
            now=ratchet.now,
            heard=self._word.heard,
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
            heard=self._word.heard,
            learn_time=self._word.learn_time,
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
            forward=lambda through: self._outbox.forward(through),
            heard=self._word.heard,
        )
        self._acceptor = Acceptor(
            journal,
            self._packs,
            ratchet,
            enrolled=lambda: self.enrolment,
            stopped_for=journal.stopped_for,
            reached=lambda point: self._reached(point),
            word=self._word,
        )
        self._proposer = Proposer(
            self._packs,
            self._acceptor,
            store=lambda: self.enrolment.store,
            now=lambda: self._now(),
        )
        self._outbox = Outbox(
            journal,
            Forwarder(client, reached=lambda point: self._reached(point)),
            self._acceptor,
            self._corrector,
            self._word,
        )
        self._settler = Settler(journal, client, self._word, self._outbox)

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
        return self._word.heard_at

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
        return self._proposer.propose(holder, lines, programme)

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
        latest, problem = self._settler.ask(latest)
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
        reason = self._word.held_for(self.journal.record_of(sale))
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
            found, problem = self._word.read(written, results[0])
            if found is None:
                done.append(self._no_answer(sale, problem))
            else:
                done.append(self._sale(self._word.apply(sale, found)))

        own = Parcel(
            (written,),
            (envelope(written, self._token_of(sale)),),
            opened,
            lambda problem: done.append(self._no_answer(sale, problem)),
        )
        problem = self._outbox.forward_behind(own)
        if not done:  # there was no room to write the answer down
            return self._no_answer(sale, problem)
        return done[-1]

    def _token_of(self, sale: Attempt) -> str | None:
        """The scanned code, while it is in memory."""
        offer = self._offers.get(sale.id)
        return None if offer is None else offer.holder.text

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
        problems = self._outbox.forward(undos=False)
        settled = []
        for unfinished in self._timetable.due() if due_only else self.journal.unfinished():
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
        if self.journal.undos("waiting") and (not due_only or self._timetable.is_undo_due()):
            self._outbox.forward()
        return settled

    def quiet_s(self) -> float:
        """For how long the ledger asked to be left alone (`Retry-After`), at most five minutes."""
        return self._client.quiet_s()

    def next_try(self) -> datetime | None:
        """When the till by itself next asks or sends again; None while nothing waits for that."""
        return self._timetable.next_try()

    def next_try_of(self, sale: Attempt) -> datetime | None:
        """When the till by itself asks about this attempt again, or sends it; None: it does not."""
        return self._timetable.of_attempt(sale)

    def next_try_of_undo(self, of: Undo) -> datetime | None:
        """As `next_try_of`, of a void or refund."""
        return self._timetable.of_undo(of)

    def _settle_one(self, unfinished: Attempt, problem: str | None = None) -> Sale:
        try:
            return self._sale(*self._settler.settle(unfinished, problem))
        except NotWritten as error:
            return self._sale(self.journal.attempt(unfinished.id), str(error))

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
        answers = Answers(found)
        with self._word.carried():
            taken = self._outbox.take(answers)
            for each in self.journal.attempts(*ANSWERED_AS):
                with self._one_at_a_time(each.checkout):
                    # Another thread may have moved it since the list was made.
                    taken |= self._settler.take_answers(self.journal.attempt(each.id), answers)
        problems = {number: why for number, why in taken.items() if why is not None}
        return AnswersTaken(len(taken) - len(problems), problems)

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
        self._key_changer.note(self._outbox.forward_plain())
        if self._key_changer.switch():
            # The new key's first word closes the old one at the ledger.
            self._outbox.forward_plain()
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
        problem = self._outbox.forward_plain()
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
        self._outbox.forward_plain()

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
        return sale_of(
            self.journal,
            of,
            keys=self._keys,
            terminal_no=self.enrolment.terminal_no,
            next_try_at=self.next_try_of(of),
            problem=problem,
        )

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
