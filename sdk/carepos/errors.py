"""What can go wrong, by the question a caller asks.

CareposError
├── Malformed            is this what the format says?            (never worth a retry)
│   └── SignatureInvalid …and did the right key sign it?
├── Refused              a rule said no, with a code of refusals.py
│   └── TokenRefused     …about an identity token: which claim, and which rule
├── NotDecided           the ledger answered with a problem document: nothing was decided
│   └── ClockSkew        …because the clocks differ; carries the ledger's signed time
├── Unreachable          no answer that could be trusted
├── WrongState           this event is not in the attempt's table
├── EnrolmentFailed      the till could not be enrolled, and why
└── JournalError         the journal can't be used
    ├── JournalLocked    another process has it open
    ├── JournalClosed    a write failed; only a restart with recovery opens it again
    ├── DiskFull         no room for a new sale; what is open can still be ended
    ├── NotWritten       no room for this write; nothing of it is there, and others may follow
    └── JournalCorrupt   its chain doesn't hold

No message of these errors holds a token, a name, a number of a person or a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from carepos import elapsed

if TYPE_CHECKING:
    from carepos.other_codes import Kind
    from carepos.refusals import Refusal


class CareposError(Exception):
    """Base of every error this package raises on purpose."""


class Malformed(CareposError):
    """Input that is not of its format. `field` names the place, never the value."""

    code = "malformed"

    def __init__(self, message: str, *, field: str | None = None, code: str = "malformed") -> None:
        super().__init__(message if field is None else f"{field}: {message}")
        self.field = field
        self.code = code


class SignatureInvalid(Malformed):
    """A signed thing whose key is unknown or whose signature does not verify."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="signature_invalid")


class Refused(CareposError):
    """A rule said no. `refusal.code` is stable; the message is for people.

    `programmes` are the names of those a wrong code of a wallet is good for (`other_programme`);
    `tries_left` counts the PINs that may still be tried (`pin_wrong`), where the ledger said so;
    `exactly` is what is known of this case instead of the code's own sentence, English and Chinese.
    """

    def __init__(
        self,
        refusal: Refusal,
        *,
        programmes: Sequence[str] = (),
        tries_left: int | None = None,
        exactly: tuple[str, str] | None = None,
    ) -> None:
        self.refusal = refusal
        self.exactly = exactly
        self.programmes = tuple(programmes)
        self.tries_left = tries_left
        super().__init__(f"{refusal.code}: {self.sentence('en')}")

    @property
    def code(self) -> str:
        return self.refusal.code

    def sentence(self, language: str = "zh") -> str:
        """What to read out, as exactly as it is known; `language` is "zh" or "en"."""
        said = self.refusal.sentence(language)
        if self.exactly is not None:
            said = self.exactly[0 if language == "en" else 1]
        if self.programmes:
            named = ("、" if language == "zh" else ", ").join(self.programmes)
            said += f"可用于：{named}。" if language == "zh" else f" It is for: {named}."
        if self.tries_left is not None:
            left = self.tries_left
            said += f"还可再试{left}次。" if language == "zh" else f" Tries left: {left}."
        return said


class TokenRefused(Refused):
    """An identity token is not what it must be.

    `claim` names the place (a claim, a header name, or a part of the code) and `why` the rule, in
    English, for integrators; neither ever holds a value. `look` is what the code looks like
    instead, where that says more to a cashier (`other_codes`).
    """

    def __init__(self, refusal: Refusal, *, claim: str, why: str, look: Kind | None = None) -> None:
        self.claim = claim
        self.why = why
        self.look = look
        super().__init__(refusal)

    @property
    def looks_like(self) -> str | None:
        """A name of docs/identity.md §10, or None."""
        return None if self.look is None else self.look.looks_like

    def sentence(self, language: str = "zh") -> str:
        """That of what it looks like, else the refusal's own."""
        if self.look is None:
            return super().sentence(language)
        return self.look.en if language == "en" else self.look.zh


class NotDecided(CareposError):
    """The ledger answered with a problem document (RFC 9457): the request changed nothing.

    Problems are unsigned. They may be shown; they are never a decision about a record.
    `tries_left` comes with `pin_wrong`; `retry_after_s` where the ledger asks for time.
    """

    retry_after_s: int | None = None

    def __init__(
        self, status: int, code: str, detail: str, *, tries_left: int | None = None
    ) -> None:
        super().__init__(f"{code} ({status}): {detail}" if detail else f"{code} ({status})")
        self.tries_left = tries_left
        self.status = status
        self.code = code
        self.detail = detail


class ClockSkew(NotDecided):
    """The clocks differ by more than a minute; `server_time` is the ledger's signed time.

    `ahead_s`: by how much this computer's clock is ahead of it (negative: behind), where the
    signature was checked. `is_doubtful`: so far ahead of what the till knows that nobody should set
    a clock by it (docs/offline.md §11).
    """

    def __init__(self, status: int, detail: str, server_time: str | None) -> None:
        super().__init__(status, "clock_skew", detail)
        self.server_time = server_time
        self.ahead_s: int | None = None
        self.is_doubtful = False

    def __str__(self) -> str:
        if self.ahead_s is None:
            return super().__str__()
        if self.is_doubtful:
            return (
                f"{super().__str__()}; the ledger's time is {elapsed.length(-self.ahead_s)} ahead "
                "of this computer's and can't be right by it: look at date and time here; if they "
                "are right, call the programme's office"
            )
        said = f"{elapsed.length(abs(self.ahead_s))} {'ahead' if self.ahead_s > 0 else 'behind'}"
        return f"{super().__str__()}; this computer's clock is {said}: set date and time"


class Unreachable(CareposError):
    """No answer, or none that could be trusted (timeout, reset, captive portal, bad signature).

    `retry_after_s` where whoever answered asks for time (an overloaded proxy).
    """

    retry_after_s: int | None = None


class WrongState(CareposError):
    """An event that the attempt's table does not have in this state.

    `before`: the other answer to the same question, where one was given.
    """

    def __init__(self, state: str, event: str, *, before: str | None = None) -> None:
        super().__init__(f"event {event!r} cannot happen in state {state!r}")
        self.state = state
        self.event = event
        self.before = before


class EnrolmentFailed(CareposError):
    """Enrolment did not succeed; the message says why and what to do."""


class JournalError(CareposError):
    """The journal can't be used."""


class JournalLocked(JournalError):
    """Another process holds the journal's lock."""


class JournalClosed(JournalError):
    """A write to the journal failed, so nothing more may be written until a restart recovers it."""


class DiskFull(JournalError):
    """There is too little room on the disk for a new sale. Nothing was written.

    What is open can be ended and the day closed: for that a reserve is kept.
    """


class NotWritten(JournalError):
    """There was no room on the disk for this write, and nothing of it was written.

    The journal is as it was before and stays open; the reserve was let go, so that what ends a sale
    finds room.
    """


class JournalCorrupt(JournalError):
    """The journal's chain of records does not hold.

    `sequence` is the first record that is not what it was when it was written.
    """

    def __init__(self, message: str, *, sequence: int | None = None) -> None:
        super().__init__(message)
        self.sequence = sequence


def problem_from(status: int, document: Mapping[str, object]) -> NotDecided:
    """A problem document as an error; texts from the network are bounded and made printable."""

    def text(name: str, limit: int) -> str:
        value = document.get(name)
        kept = value if isinstance(value, str) else ""
        return "".join(c for c in kept if c.isprintable())[:limit]

    code = text("code", 60) or "unknown_problem"
    # Without a detail the title says what happened: a bare code helps nobody who reads it.
    detail = text("detail", 300) or text("title", 300).rstrip(".")
    if code == "clock_skew":
        server_time = document.get("server_time")
        return ClockSkew(status, detail, server_time if isinstance(server_time, str) else None)
    left = document.get("tries_left")
    tries_left = left if type(left) is int and 0 <= left <= 99 else None
    return NotDecided(status, code, detail, tries_left=tries_left)
