"""What time it is at a till whose clock lies (T-6, FA-9, FH-4), by hand-moved clocks alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos import durable
from carepos.clock_ratchet import FAR, FILE, TOLERANCE, ClockRatchet, Standing
from carepos.errors import Malformed
from carepos.uptime import Uptime, stands_still, system

TRUE = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass
class Computer:
    """The true time goes on; its clock is off by `off`; it was booted `uptime` ago."""

    folder: Path
    true: datetime = TRUE
    off: timedelta = timedelta()
    boot: str = "boot-1"
    up: float = 5_000.0
    signed: list[datetime] = field(default_factory=list)

    def wall(self) -> datetime:
        return self.true + self.off

    def till(self) -> ClockRatchet:
        """What a till knows that starts now."""
        uptime = Uptime(lambda: self.up, self.boot)
        return ClockRatchet.open(
            self.folder, wall=self.wall, uptime=uptime, signed=lambda: self.signed
        )

    def runs(self, **by: float) -> None:
        self.true += timedelta(**by)
        self.up += timedelta(**by).total_seconds()

    def is_off(self, boot: str, **by: float) -> None:
        """Switched off for so long, and on again a minute ago."""
        self.true += timedelta(**by)
        self.boot, self.up = boot, 60.0


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    return Computer(tmp_path)


WRONG: dict[str, Callable[[datetime], datetime]] = {
    "a day back": lambda at: at - DAY,
    "ten years back": lambda at: at.replace(year=at.year - 10),
    "1970": lambda at: datetime(1970, 1, 1, tzinfo=UTC),
    "the year 1": lambda at: datetime(1, 1, 1, tzinfo=UTC),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("restarted", [False, True])
def test_t6_a_clock_set_back_takes_nothing_back(
    computer: Computer, wrong: str, restarted: bool
) -> None:
    """T-6: the till's time is never before what the ledger signed and what ran since, and it says
    how far the clock is behind, also after a restart."""
    ratchet = computer.till()
    ratchet.heard(computer.true, fresh=True)
    computer.runs(hours=3)
    ratchet.keep()
    computer.off = WRONG[wrong](computer.true) - computer.true
    if restarted:
        ratchet = computer.till()
    assert ratchet.now() == computer.true
    standing = ratchet.standing()
    assert standing == Standing("behind", int(-computer.off.total_seconds()))
    assert ratchet.is_wrong
    computer.runs(hours=1)
    assert ratchet.now() == computer.true
    computer.off = timedelta()
    assert ratchet.now() == computer.true and not ratchet.is_wrong


@pytest.mark.parametrize("ahead", [DAY, timedelta(minutes=2), timedelta(days=399)])
def test_t6_a_clock_ahead_is_known_once_the_ledger_was_heard(
    computer: Computer, ahead: timedelta
) -> None:
    """T-6, +1 d: before, the clock is believed; after an answer of just now the till reckons with
    the ledger's time and says how far the clock is ahead; an old word of it changes nothing."""
    computer.signed = [TRUE]
    computer.off = ahead
    ratchet = computer.till()
    assert ratchet.now() == TRUE + ahead and ratchet.standing().state == "fine"
    ratchet.heard(computer.true)
    assert ratchet.now() == TRUE + ahead
    ratchet.heard(computer.true, fresh=True)
    assert ratchet.standing() == Standing("ahead", int(ahead.total_seconds()))
    computer.runs(hours=2)
    assert ratchet.now() == computer.true and not ratchet.is_wrong
    computer.off = timedelta()
    assert ratchet.now() == computer.true
    assert ratchet.standing() == Standing("stepped", -int(ahead.total_seconds())) or (
        ahead <= timedelta(minutes=2)
    )


def test_t6_2038_is_no_time_to_reckon_with(computer: Computer) -> None:
    """T-6, 2038: more than 400 days after all that is known, the clock is not followed; what needs
    the time is refused."""
    computer.signed = [TRUE]
    computer.off = datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC) - TRUE
    ratchet = computer.till()
    assert ratchet.now() == TRUE and ratchet.is_wrong
    assert ratchet.standing().state == "ahead" and ratchet.standing().off_s > 11 * 365 * 86_400


def test_a_clock_within_a_minute_is_right(computer: Computer) -> None:
    """59 s either way is what networks and clocks differ by anyway: nothing is said. The time does
    not go below what was signed all the same."""
    ratchet = computer.till()
    ratchet.heard(computer.true, fresh=True)
    for off_s in (-60, -59, 59, 60):
        computer.off = timedelta(seconds=off_s)
        ratchet.heard(computer.true, fresh=True)
        assert ratchet.standing() == Standing("fine") and not ratchet.is_wrong
        assert ratchet.now() == computer.true + max(timedelta(), computer.off)
    computer.off = timedelta(seconds=-61)
    assert ratchet.standing().state == "behind"


def test_a_step_is_told(computer: Computer) -> None:
    """Clock and uptime go apart by more than two minutes: said, with its sign; sleeping, which the
    uptime counts, is no step. The ledger's next word of just now settles it."""
    ratchet = computer.till()
    ratchet.heard(computer.true, fresh=True)
    computer.runs(hours=30)
    assert ratchet.standing() == Standing("fine")
    computer.off = timedelta(minutes=2)
    assert ratchet.standing().state == "fine"
    computer.off = timedelta(hours=1)
    assert ratchet.standing() == Standing("stepped", 3_600)
    assert ratchet.now() == computer.true + timedelta(hours=1)  # which of the two, nobody knows
    ratchet.heard(computer.true, fresh=True)
    assert ratchet.standing() == Standing("ahead", 3_600) and ratchet.now() == computer.true
    computer.off = timedelta()
    ratchet.heard(computer.true, fresh=True)
    assert ratchet.standing() == Standing("fine")


def test_the_hours_that_a_till_ran_count(computer: Computer) -> None:
    """Three days offline with a clock that stands still at the start of each: the hours that the
    computer ran are not lost, those in which it was off can't be known."""
    ratchet = computer.till()
    ratchet.heard(computer.true, fresh=True)
    for day in range(3):
        computer.runs(hours=8)
        ratchet.keep()
        computer.is_off(f"boot-{day + 2}", hours=16)
        computer.off = TRUE - computer.true  # the battery is flat
        ratchet = computer.till()
    assert ratchet.now() == TRUE + timedelta(hours=24)
    computer.runs(hours=1)
    assert ratchet.now() == TRUE + timedelta(hours=25)


def test_a_folder_moved_to_a_computer_that_ran_for_a_year_is_not_a_year_older(
    computer: Computer,
) -> None:
    """Whose uptime is another's says nothing, with or without a name for the boot."""
    for boot in ("boot-2", ""):
        computer.boot = boot and "boot-1"
        ratchet = computer.till()
        ratchet.heard(computer.true, fresh=True)
        computer.boot, computer.up = boot, computer.up + 366 * 86_400
        moved = computer.till()
        assert moved.now() == computer.true and moved.standing() == Standing("fine")


# what the ledger says


def test_a_time_far_off_is_doubted_and_not_kept(computer: Computer) -> None:
    """A ledger whose clock is wrong by years must not make every till's wrong: told, not kept, also
    not after a restart; its right time ends it."""
    ratchet = computer.till()
    ratchet.heard(computer.true)
    far = computer.true + FAR + timedelta(seconds=1)
    ratchet.heard(far, fresh=True)
    for till in (ratchet, computer.till()):
        assert till.standing() == Standing("doubtful", doubtful=far)
        assert till.now() == computer.true and not till.is_wrong
    ratchet.heard(computer.true + timedelta(seconds=1), fresh=True)
    assert ratchet.standing() == Standing("fine") == computer.till().standing()
    ratchet.heard(computer.true + FAR)  # as far as this it is believed
    assert ratchet.now() == computer.true + FAR and ratchet.standing().state == "behind"


def test_the_first_time_is_taken_as_it_is(computer: Computer) -> None:
    """A new till with an empty battery knows nothing better than the certificate it was given."""
    computer.off = datetime(1970, 1, 1, tzinfo=UTC) - TRUE
    ratchet = computer.till()
    assert ratchet.least() is None and ratchet.now().year == 1970 and not ratchet.is_wrong
    ratchet.heard(TRUE)
    assert ratchet.now() == TRUE and ratchet.is_wrong


@given(st.lists(st.tuples(st.integers(-800, 800), st.booleans(), st.integers(0, 90)), max_size=30))
def test_the_least_time_never_goes_back(told: list[tuple[int, bool, int]]) -> None:
    """Whatever the ledger says in whatever order, and however the clock is set meanwhile."""
    computer = Computer(Path("/nowhere"))
    ratchet = computer.till()
    least = None
    for days, fresh, off in told:
        ratchet.heard(TRUE + timedelta(days=days), fresh=fresh)
        after = ratchet.least()
        assert after is not None and (least is None or after >= least)
        assert ratchet.now() >= after
        least = after
        computer.off = timedelta(days=off)
        computer.runs(hours=1)


# what is kept


def test_a_crash_costs_at_most_a_minute_of_it(computer: Computer) -> None:
    """Not every answer costs an fsync: the file is at most a minute behind what was signed, and ten
    behind what ran."""
    ratchet = computer.till()
    ratchet.heard(computer.true)
    for _ in range(50):
        computer.runs(seconds=7)
        ratchet.heard(computer.true)
        least = computer.till().least()
        assert least is not None and computer.true - least < TOLERANCE
    writes = 0
    before = (computer.folder / FILE).read_bytes()
    for _ in range(60):
        computer.runs(seconds=30)
        ratchet.keep()
        writes += before != (before := (computer.folder / FILE).read_bytes())
    assert writes in (2, 3)


@pytest.mark.parametrize(
    "damage",
    [
        None,
        b"",
        b"{}",
        b"\0" * 200,
        b'{"v":2,"signed":null,"ran_ms":0,"boot":"","uptime_ms":0,"doubtful":null,"reset":null}',
        b'{"v":1,"signed":null,"ran_ms":-1,"boot":"","uptime_ms":0,"doubtful":null,"reset":null}',
        b'{"v":1,"signed":"now","ran_ms":0,"boot":"","uptime_ms":0,"doubtful":null,"reset":null}',
    ],
)
def test_without_its_file_it_begins_with_what_else_is_signed(
    computer: Computer, damage: bytes | None
) -> None:
    """A file that is gone or garbled costs only what nothing else in the folder tells."""
    ratchet = computer.till()
    ratchet.heard(computer.true)
    if damage is None:
        (computer.folder / FILE).unlink()
    else:
        (computer.folder / FILE).write_bytes(damage)
    computer.signed = [TRUE - timedelta(days=9), TRUE - timedelta(days=2)]
    computer.off = -timedelta(days=30)
    again = computer.till()
    assert again.least() == TRUE - timedelta(days=2) == again.now()
    again.keep()
    assert json.loads((computer.folder / FILE).read_bytes())["signed"] == "2026-11-20T08:00:00.000Z"


def test_fa8_a_full_disk_costs_no_answer(
    computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FA-8: what can't be written down still counts in this run, and is written when it can be."""
    ratchet = computer.till()
    write = durable.write

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "write", full)
    ratchet.heard(computer.true)
    assert ratchet.least() == computer.true and not (computer.folder / FILE).exists()
    monkeypatch.setattr(durable, "write", write)
    ratchet.keep()
    assert computer.till().least() == computer.true


# the reset


def test_a_reset_is_taken_once(computer: Computer) -> None:
    """It sets the least time, forward or back; taken twice, or after a newer one, it is refused."""
    ratchet = computer.till()
    ratchet.heard(computer.true + timedelta(days=300))
    assert ratchet.is_wrong
    ratchet.reset(computer.true)
    for till in (ratchet, computer.till()):
        assert till.now() == computer.true and not till.is_wrong
        assert till.standing() == Standing("fine")
    for old in (computer.true, computer.true - DAY):
        with pytest.raises(Malformed, match="taken before"):
            computer.till().reset(old)
    later = computer.true + 2 * FAR
    ratchet.heard(later)
    assert ratchet.standing().state == "doubtful"
    ratchet.reset(later)
    assert ratchet.now() == later and ratchet.standing().state == "behind"


# the journal's times


def test_times_of_records_do_not_go_back_but_by_the_ledgers_word(computer: Computer) -> None:
    """Behind a record of tomorrow stands one of tomorrow: unless the ledger has just said that it
    is today. After a clock that was set, its word counts no more."""
    ratchet = computer.till()
    tomorrow = TRUE + DAY
    assert ratchet.follow(TRUE, tomorrow) == tomorrow
    assert ratchet.follow(tomorrow, TRUE) == tomorrow
    ratchet.heard(TRUE)
    assert ratchet.follow(TRUE, tomorrow) == tomorrow
    ratchet.heard(TRUE, fresh=True)
    assert ratchet.follow(TRUE, tomorrow) == TRUE
    close = TRUE + TOLERANCE
    assert ratchet.follow(TRUE, close) == close
    computer.off = timedelta(hours=3)
    assert ratchet.follow(TRUE, tomorrow) == tomorrow


def test_this_computers_uptime_grows_and_has_a_name_for_its_boot() -> None:
    """As far as the system has one; a clock of somebody else's says nothing about it."""
    own = system()
    assert own.seconds() <= own.seconds() and system().boot == own.boot
    assert own.measures and not stands_still().measures
    assert stands_still().seconds() == stands_still().seconds()


def test_a_clock_that_nothing_measures_makes_no_step(tmp_path: Path) -> None:
    """A program that brings its own clock, as tests do, hears nothing of steps."""
    at: list[Any] = [TRUE]
    ratchet = ClockRatchet.open(tmp_path, wall=lambda: at[0], uptime=stands_still())
    ratchet.heard(TRUE, fresh=True)
    at[0] += 5 * DAY
    assert ratchet.standing() == Standing("fine") and ratchet.now() == TRUE + 5 * DAY
