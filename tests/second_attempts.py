"""Who sends records, and what is known of each, as docs/protocol.md sections 3 to 5 have it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.second_book import Taken
from tests.second_signing import Json, PublicKey
from tests.second_tokens import Shown
from tests.vectors.second import TerminalKeys


@dataclass
class Terminal:
    name: str
    number: int
    store: str
    merchant: str
    enrolled: PublicKey
    enrolled_at: str
    status: str = "active"
    keys: dict[str, tuple[PublicKey, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys[self.enrolled.kid] = (self.enrolled, self.enrolled_at)
        self.order = TerminalKeys(self.enrolled.kid)


@dataclass(frozen=True)
class Holder:
    """A beneficiary, as the issuer knows them."""

    iss: str
    sub: str


def holder_of(shown: Shown) -> Holder:
    return Holder(shown.iss, shown.claims["sub"])


@dataclass
class Attempt:
    """What is known under one (terminal, id). `record_sha256` is the redeem's that came first, or
    the one that a tombstone waits for; `sale` is that redeem, `jws` as it was signed, and
    `payload` what it was answered; `accepted` is the digest of its acceptance, `loss_minor`
    what the loss reserve paid. Of a void, a refund and a returned allotment they are its own.
    """

    state: str = ""
    kind: str = ""
    record_sha256: str = ""
    content_sha256: str = ""
    jws: str = ""
    sale: Json = field(default_factory=dict)
    payload: Json = field(default_factory=dict)
    outcomes: list[str] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    recorded_at: str = ""
    refunded: list[Json] = field(default_factory=list)
    undone: bool = False
    offline: bool = False
    short: bool = False
    loss_minor: int = 0
    accepted: str = ""


@dataclass
class Item:
    """An envelope that was verified."""

    record: Json
    digest: str
    terminal: Terminal
    token: str | None
    evidence: str | None
    kid: str
    jws: str


def nothing_put_back(result: str) -> Json:
    return {"result": result, "currency": None, "amount_minor": 0, "vouchers": []}
