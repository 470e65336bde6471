"""The till's part when a ledger lost data: offering it what it signed (docs/offline.md §12).

A till asks every so often what the ledger holds of its records. What it has an answer of and the
ledger lacks, it offers: the record, and the ledger's own signature under the answer. Whoever made
the question up learns no more than whoever takes records in.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from carepos import lost, pack, strict_json
from carepos.client import Client
from carepos.enrolment import Enrolment, EnrolmentFile
from carepos.errors import Malformed, NotDecided, Unreachable
from carepos.journal import Journal
from carepos.journal_view import JournalView
from carepos.ledger_keys import LedgerKeys
from carepos.lost import Range
from carepos.pack import Pack

AT_ONCE: Final = 200
AT_ONCE_BYTES: Final = 1_500_000
"""Less than a body may have, with what stands around it."""

ROUNDS: Final = 50
"""Questions in one go: a ledger that never has enough does not hold a till up."""

_NOTE: Final = "healing"


@dataclass(frozen=True, slots=True)
class HealState:
    """How a till stands with a ledger that was restored, in its present `epoch`.

    `sent` of `of` answers were offered; once it is `complete` there are no more. `pack`: the one
    whose allotments the ledger was told of. `is_healing`: the ledger decides nothing meanwhile.
    `all_told`: a ledger that knows of a copy of this till was offered everything.
    """

    epoch: int = 0
    is_healing: bool = False
    sent: int = 0
    of: int = 0
    complete: bool = False
    pack: str = ""
    all_told: bool = False

    def message(self, language: str = "zh") -> str | None:
        """What the cashier reads while the ledger is restored; "zh" or "en"."""
        if not self.is_healing:
            return None
        if language == "en":
            return (
                "The ledger is being restored. Sales wait, or go on offline where that is ready. "
                f"{self.sent} of {self.of} answers sent."
            )
        return (
            f"账本正在恢复：销售请等待，具备离线条件的可离线办理。已上报 {self.sent}/{self.of} 条。"
        )


def state_of(journal: JournalView) -> HealState:
    """As it was noted last, also beside a running till."""
    held = journal.about().get(_NOTE)
    try:
        return HealState() if held is None else HealState(**json.loads(held))
    except (TypeError, ValueError):
        return HealState()  # of another version: everything is asked and told again


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which numbers a question is about: those behind `after`, up to the `last` that has an
    outcome."""

    last: int
    after: int = 0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a ledger said: its epoch, whether it heals, whether it knows of a copy of this till;
    what it holds, and whose records those are (`lost.of_others`)."""

    epoch: int
    is_healing: bool
    is_forked: bool
    held: Sequence[Range]
    ends: Sequence[frozenset[str]]
    more: bool
    results: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, value: object, items: int) -> _Answer:
        names = strict_json.exact_names(
            value,
            {"epoch", "state", "forked", "held", "ends", "more", "results"},
            where="heal",
        )
        results = strict_json.array(names["results"], "results", low=items, high=items)
        if names["state"] not in ("open", "healing"):
            raise Malformed("must be open or healing", field="state")
        held = lost.read_ranges(names["held"])
        more = strict_json.boolean(names["more"], "more")
        if more and not held:
            raise Malformed("must have a range before it", field="more")
        return cls(
            strict_json.integer(names["epoch"], "epoch", low=1),
            names["state"] == "healing",
            strict_json.boolean(names["forked"], "forked"),
            held,
            lost.read_ends(names["ends"], held),
            more,
            [strict_json.mapping(each, "results") for each in results],
        )


class Healer:
    """Reports to one ledger. Safe to call from several threads."""

    def __init__(
        self,
        *,
        file: EnrolmentFile,
        journal: Journal,
        client: Client,
        held_pack: Callable[[], Pack | None],
    ) -> None:
        self._file = file
        self._journal = journal
        self._client = client
        self._held_pack = held_pack
        self._reporting = threading.Lock()

    def state(self) -> HealState:
        return state_of(self._journal)

    def report(self) -> HealState:
        """Ask what the ledger holds, and offer what it lacks; where it stands then.

        Repeating it is harmless, and goes on where it was cut short. Raises Unreachable,
        NotDecided, JournalClosed.
        """
        with self._reporting:
            try:
                return self._report()
            except NotDecided as error:
                if error.status in (404, 405):
                    return self.state()  # a ledger that knows nothing of it
                raise
            except Malformed as error:
                raise Unreachable(f"not an answer of a ledger ({error})") from error

    def _report(self) -> HealState:
        answered = self._journal.answered()
        asked = _Asked(last=max(answered, default=0))
        offered: set[int] = set()
        answer = self._ask([], asked)
        self._follow(answer.epoch)
        state = self._begin(answer)
        for _ in range(ROUNDS):
            wanted = self._lacking(answered, asked, answer, state)
            lacking = [number for number in wanted if number not in offered]
            if lacking:
                state = self._note(replace(state, of=state.sent + len(lacking), complete=False))
            elif answer.more and not answer.is_forked:
                asked = replace(asked, after=answer.held[-1][1])
                answer = self._ask([], asked)
            else:
                break
            for numbers, items in self._batches(lacking):
                answer = self._ask(items, asked)
                offered |= set(numbers)
                state = self._note(replace(state, sent=state.sent + len(numbers)))
        else:
            return state
        state = self._tell_pack(self._note(replace(state, all_told=answer.is_forked)), answer)
        if answer.is_healing and not state.complete:
            self._ask([], asked, complete=True)
            state = self._note(replace(state, complete=True))
        return state

    def _lacking(
        self, answered: Sequence[int], asked: _Asked, answer: _Answer, state: HealState
    ) -> Sequence[int]:
        """What the ledger does not hold of this journal. A copy of it counts with its numbers: once
        the ledger knows of one, they say nothing."""
        if answer.is_forked:
            return [] if state.all_told else answered
        behind = [number for number in answered if number > asked.after]
        own = self._journal.digests([last for _, last in answer.held])
        others = lost.of_others(answer.held, answer.ends, own)
        return lost.to_offer(behind, answer.held, more=answer.more, others=others)

    def _begin(self, answer: _Answer) -> HealState:
        """What is noted of this epoch; of an earlier one nothing counts any more."""
        held = self.state()
        if held.epoch != answer.epoch:
            held = HealState(answer.epoch)
        return self._note(replace(held, is_healing=answer.is_healing))

    def _note(self, state: HealState) -> HealState:
        if state != self.state():
            self._journal.note(_NOTE, json.dumps(asdict(state), sort_keys=True))
        return state

    def _ask(
        self, items: list[dict[str, str]], asked: _Asked, *, complete: bool = False
    ) -> _Answer:
        body = {**self._who(), **asdict(asked), "items": items, "complete": complete}
        return _Answer.read(self._client.heal(body), len(items))

    def _who(self) -> dict[str, Any]:
        return {
            "incarnation": self._journal.incarnation,
            "certificates": certificates(self._file.enrolled),
        }

    def _batches(self, numbers: Sequence[int]) -> Iterator[tuple[list[int], list[dict[str, str]]]]:
        """Evidence in order of sequence, as much as a body may hold."""
        taken: list[int] = []
        items: list[dict[str, str]] = []
        size = 0
        for number in numbers:
            own = [
                {"record": written, "outcome": told}
                for written, told in self._journal.evidence(number)
            ]
            more = sum(len(each["record"]) + len(each["outcome"]) for each in own)
            if items and (len(items) + len(own) > AT_ONCE or size + more > AT_ONCE_BYTES):
                yield taken, items
                taken, items, size = [], [], 0
            taken.append(number)
            items += own
            size += more
        if items:
            yield taken, items

    # ── what is set aside ──────────────────────────────────────────────────────────────────────

    def _tell_pack(self, state: HealState, answer: _Answer) -> HealState:
        """Of the pack that this till sells by: what is set aside in it is no longer known there."""
        held = self._held_pack()
        if held is None or held.households is None or state.pack == held.sha256:
            return state
        if held.households.incarnation != self._journal.incarnation:
            return state
        if held.epoch >= answer.epoch:
            return state  # made on this side of the loss
        folder = self._file.folder
        manifest = pack.kept_manifest(folder)
        if manifest is None:
            return state
        texts: list[str] = []
        for _ in range(ROUNDS):
            body = {**self._who(), "manifest": manifest, "files": texts}
            missing = strict_json.array(self._client.heal_pack(body), "missing", high=100)
            texts = _files(folder, missing)
            if not texts:
                break
        return self._note(replace(state, pack=held.sha256))

    # ── the ledger's keys ──────────────────────────────────────────────────────────────────────

    def _follow(self, epoch: int) -> None:
        """Keep the key set of the new epoch: one of before must not take its place again."""
        held = self._file.ledger_keys()
        if epoch <= held.epoch:
            return
        try:
            offered = LedgerKeys.read(self._client.key_set(), held.root.kid)
            held.check_successor(offered)
        except Malformed:
            return  # what is held stays
        self._file.keep_ledger_keys(offered)


def certificates(enrolled: Enrolment) -> list[dict[str, Any]]:
    """Every key that this terminal had, oldest first, as far as a call may name them: the first,
    and the newest."""
    every = [
        *({"key": each.key.to_jwk(), "certificate": each.certificate} for each in enrolled.former),
        {"key": enrolled.key.to_jwk(), "certificate": enrolled.certificate},
    ]
    if len(every) > lost.MAX_CERTIFICATES:
        every = [every[0], *every[1 - lost.MAX_CERTIFICATES :]]
    return every


def _files(folder: Path, wanted: Sequence[object]) -> list[str]:
    """Of these files those that are here, as many as a body may hold."""
    found: list[str] = []
    size = 0
    for sha256 in wanted:
        data = pack.read_file(folder, strict_json.text(sha256, "missing", low=43, high=43))
        if data is None or len(data) > AT_ONCE_BYTES:
            continue
        if found and size + len(data) > AT_ONCE_BYTES:
            break
        found.append(data.decode("utf-8"))
        size += len(data)
    return found[:60]
