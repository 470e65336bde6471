"""The ledger's tables, the same on SQLite (STRICT) and PostgreSQL.

`bucket` (0 to 4095, random per beneficiary) is the first column of every hot key: a posting touches
the rows of one bucket and no shared row, so the tables distribute unchanged. Merchants' and
programmes' totals are sums of entries. What the database can hold, it holds: CHECK, NOT NULL,
UNIQUE.

Only Integer, Text and LargeBinary: STRICT tables know no others (BigInteger stands for PostgreSQL).
Instants are 24-character ISO 8601 texts, which sort as they should.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

_STRICT: dict[str, Any] = {"sqlite_strict": True}
_KEYED: dict[str, Any] = {"sqlite_strict": True, "sqlite_with_rowid": False}


def _amount() -> BigInteger:
    return BigInteger().with_variant(Integer, "sqlite")


def _bucket() -> Column[int]:
    return Column(
        "bucket",
        Integer,
        CheckConstraint("bucket BETWEEN 0 AND 4095", "range"),
        nullable=False,
    )


def _text(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def _number(name: str) -> Column[int]:
    return Column(name, _amount(), nullable=False)


def _counter(name: str) -> Column[int]:
    """An amount that no posting may drive below zero (INV-2)."""
    return Column(name, _amount(), CheckConstraint(f"{name} >= 0", name), nullable=False)


# ── who takes part ─────────────────────────────────────────────────────────────────────────────

meta = Table("meta", metadata, Column("name", Text, primary_key=True), _text("value"), **_KEYED)

operators = Table(
    "operators",
    metadata,
    Column("name", Text, primary_key=True),
    Column("secret_sha256", Text, nullable=False, unique=True),
    **_KEYED,
)

funders = Table(
    "funders", metadata, Column("funder", Text, primary_key=True), _text("name"), **_KEYED
)

issuers = Table(
    "issuers",
    metadata,
    Column("iss", Text, primary_key=True),
    _text("keys"),  # JSON: carepos.issuer_keys.IssuerKeys
    _text("jwks_url", null=True),  # where the issuer publishes its set, if it does
    _text("asked_at", null=True),  # when it was last asked for, with or without success
    _text("problem", null=True),  # why what came last was not believed
    **_KEYED,
)

# Withdrawn keys (named by kid) and tokens and cards (by SHA-256 of jti); carried in every pack.
revocations = Table(
    "revocations",
    metadata,
    _text("iss"),
    Column("kind", Text, CheckConstraint("kind IN ('key', 'token')", "known"), nullable=False),
    _text("name"),
    _text("reason"),
    _text("at"),
    _text("until", null=True),  # a token's exp: after it the entry says nothing any more
    PrimaryKeyConstraint("iss", "kind", "name"),
    **_KEYED,
)

product_lists = Table(
    "product_lists",
    metadata,
    _text("product_list"),
    _number("version"),
    _text("entries"),  # JSON object: product key → category
    PrimaryKeyConstraint("product_list", "version"),
    **_KEYED,
)

programmes = Table(
    "programmes",
    metadata,
    Column("programme", Text, primary_key=True),
    _number("rules_version"),
    _text("rules"),  # JSON: carepos.voucher.Programme without its stores
    _text("currency"),
    _text("import_key_id", null=True),
    _counter("unreserved_minor"),  # may not go below zero: issued ≤ funded
    _counter("loss_reserve_minor"),
    _text("list_forgotten_at", null=True),  # from then nothing may be issued: it may be twice
    **_KEYED,
)

merchants = Table(
    "merchants", metadata, Column("merchant", Text, primary_key=True), _text("name"), **_KEYED
)

stores = Table(
    "stores",
    metadata,
    Column("store", Text, primary_key=True),
    Column("merchant", Text, ForeignKey("merchants.merchant"), nullable=False),
    _text("name"),
    **_KEYED,
)

programme_stores = Table(
    "programme_stores",
    metadata,
    Column("programme", Text, ForeignKey("programmes.programme")),
    Column("store", Text, ForeignKey("stores.store")),
    PrimaryKeyConstraint("programme", "store"),
    **_KEYED,
)

activations = Table(
    "activations",
    metadata,
    Column("code_sha256", Text, primary_key=True),
    Column("store", Text, ForeignKey("stores.store"), nullable=False),
    _text("made_at"),
    _text("expires_at"),
    _text("terminal", null=True),  # who used it; a code is used once
    **_KEYED,
)

terminals = Table(
    "terminals",
    metadata,
    Column("terminal", Text, primary_key=True),
    Column("terminal_no", Integer, nullable=False, unique=True),
    Column("store", Text, ForeignKey("stores.store"), nullable=False),
    _text("merchant"),
    Column(
        "status",
        Text,
        CheckConstraint("status IN ('active', 'suspended', 'revoked', 'forked')", "known"),
        nullable=False,
    ),
    **_KEYED,
)

# Every key of a terminal, for ever: no key may come back, nor become another terminal's. Which of
# them counts for which record says carepos_ledger.key_rules.
terminal_keys = Table(
    "terminal_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("terminal", Text, ForeignKey("terminals.terminal"), nullable=False),
    _text("x"),
    _text("since"),  # when it was enrolled or its change was posted
    _text("first_incarnation", null=True),  # its first record that is known; none: it waits
    Column("first_sequence", _amount()),
    _text("until_incarnation", null=True),  # the first record that is not its own; none: it counts
    Column("until_sequence", _amount()),
    Index(None, "terminal"),
    **_KEYED,
)

# Which numbers of a terminal's chain have arrived; written in a short transaction of its own.
terminal_notes = Table(
    "terminal_notes",
    metadata,
    _text("terminal"),
    _text("incarnation"),
    _number("sequence"),
    _text("digest"),
    _text("prev"),
    _text("noted_at"),
    Column("bucket", Integer),  # of the record's id; none where it was noted before 0006
    PrimaryKeyConstraint("terminal", "incarnation", "sequence"),
    **_KEYED,
)

# Up to which number every record of a chain is decided: what an undo waits for begins behind it.
terminal_progress = Table(
    "terminal_progress",
    metadata,
    _text("terminal"),
    _text("incarnation"),
    _number("decided_to"),
    PrimaryKeyConstraint("terminal", "incarnation"),
    **_KEYED,
)

alarms = Table(
    "alarms",
    metadata,
    Column("n", Integer, primary_key=True),
    _text("at"),
    _text("kind"),
    _text("terminal"),
    _text("digest"),
    **_STRICT,
)

# ── what they hold ─────────────────────────────────────────────────────────────────────────────

beneficiaries = Table(
    "beneficiaries",
    metadata,
    _bucket(),
    _text("beneficiary"),  # the ledger's own random name
    _text("iss"),
    _text("sub"),
    PrimaryKeyConstraint("bucket", "beneficiary"),
    UniqueConstraint("iss", "sub"),
    **_KEYED,
)

# Which beneficiary a row of a list is, by keyed hash: one `sub` per person and issuer, in every
# programme that was issued with the same import key. Erasing a row cuts that tie.
enrolments = Table(
    "enrolments",
    metadata,
    _text("iss"),
    _text("import_key_id"),
    _text("ref"),
    _bucket(),
    _text("beneficiary"),
    PrimaryKeyConstraint("iss", "import_key_id", "ref"),
    **_KEYED,
)

vouchers = Table(
    "vouchers",
    metadata,
    _bucket(),
    _text("voucher"),
    _text("beneficiary"),
    _text("programme"),
    Column(
        "kind",
        Text,
        CheckConstraint("kind IN ('value', 'item', 'fixed_price')", "known"),
        nullable=False,
    ),
    _text("label"),
    _text("categories"),  # JSON list
    _text("starts_at"),
    _text("expires_at"),
    Column("frozen", Integer, CheckConstraint("frozen IN (0, 1)", "flag"), nullable=False),
    _text("terms", null=True),  # JSON, none for a value voucher
    _counter("available_minor"),
    _counter("saved_minor"),
    _counter("available_quantity"),
    _text("frozen_at", null=True),  # when it was frozen last: a pack made before could not say so
    PrimaryKeyConstraint("bucket", "voucher"),
    Index(None, "bucket", "beneficiary"),
    UniqueConstraint("voucher"),
    **_KEYED,
)

# Where a household shops: its vouchers are set aside for that store's tills. `pinned`: an operator
# said so; else it is the store of the latest redemption.
homes = Table(
    "homes",
    metadata,
    _bucket(),
    _text("beneficiary"),
    _text("store"),
    Column("pinned", Integer, CheckConstraint("pinned IN (0, 1)", "flag"), nullable=False),
    PrimaryKeyConstraint("bucket", "beneficiary"),
    Index(None, "store"),
    **_KEYED,
)

# What is set aside of a voucher for one incarnation of one till; changed under the voucher's lock.
# No row is ever deleted: its number must not come again while a till counts what it used of it.
allotments = Table(
    "allotments",
    metadata,
    _bucket(),
    _text("voucher"),
    _number("allotment"),
    _text("terminal"),
    _text("incarnation"),
    _counter("amount_minor"),  # as it was made
    _counter("quantity"),
    _counter("left_minor"),
    _counter("left_quantity"),
    _text("spend_until"),
    _text("reclaim_after"),
    Column("closed", Integer, CheckConstraint("closed IN (0, 1)", "flag"), nullable=False),
    PrimaryKeyConstraint("bucket", "voucher", "allotment"),
    Index(None, "terminal", "incarnation"),
    **_KEYED,
)

# The files of the packs that were made last, by their SHA-256; made anew when a till asks.
pack_files = Table(
    "pack_files",
    metadata,
    _text("terminal"),
    _text("sha256"),
    _text("made_at"),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("terminal", "sha256"),
    **_KEYED,
)

# When each pack was made: what a till that sold without the ledger could know.
pack_issues = Table(
    "pack_issues",
    metadata,
    _text("terminal"),
    _text("sha256"),
    _text("made_at"),
    PrimaryKeyConstraint("terminal", "sha256"),
    **_KEYED,
)

# One row per good row of a county's list, known by a keyed hash: nothing is issued twice.
issues = Table(
    "issues",
    metadata,
    Column("programme", Text, ForeignKey("programmes.programme")),
    _text("ref"),
    _bucket(),
    _text("voucher"),  # empty once the person was erased: who was issued to is known, not what
    _text("terms_sha256"),  # what was issued; another wish is already_issued_differently
    PrimaryKeyConstraint("programme", "ref"),
    **_KEYED,
)

# A printed card: what proves its PIN, and how often somebody tried in a row. No PIN, no secret.
cards = Table(
    "cards",
    metadata,
    _bucket(),
    _text("iss"),
    _text("jti_sha256"),
    _text("beneficiary"),
    _text("pin_verifier"),
    Column(
        "wrong_tries",
        Integer,
        CheckConstraint("wrong_tries BETWEEN 0 AND 5", "wrong_tries"),
        nullable=False,
    ),
    PrimaryKeyConstraint("bucket", "iss", "jti_sha256"),
    UniqueConstraint("iss", "jti_sha256"),
    **_KEYED,
)

# Where a card's PIN was proved last, by terminal: it opens a visit of 15 minutes there.
pin_visits = Table(
    "pin_visits",
    metadata,
    _bucket(),
    _text("iss"),
    _text("jti_sha256"),
    _text("terminal"),
    _text("proved_at"),
    PrimaryKeyConstraint("bucket", "iss", "jti_sha256", "terminal"),
    **_KEYED,
)

# First use of a `once` token or of a presentation: one terminal, one visit. Kept as a hash only.
visits = Table(
    "visits",
    metadata,
    _bucket(),
    _text("iss"),
    _text("jti_sha256"),
    _text("terminal"),
    _text("first_at"),
    PrimaryKeyConstraint("bucket", "iss", "jti_sha256"),
    **_KEYED,
)

# ── who acted for whom ─────────────────────────────────────────────────────────────────────────

# A row to lock, so that what one actor is paid can be summed across households.
actors = Table(
    "actors",
    metadata,
    _text("programme"),
    _text("actor_sha256"),
    PrimaryKeyConstraint("programme", "actor_sha256"),
    **_KEYED,
)

# Each redemption that somebody made for a beneficiary.
acted = Table(
    "acted",
    metadata,
    _bucket(),
    _text("posting"),
    _text("programme"),
    _text("beneficiary"),
    _text("actor_sha256"),
    Column("way", Text, CheckConstraint("way IN ('proxy', 'witness')", "known"), nullable=False),
    _text("reason"),
    _counter("amount_minor"),
    _text("recorded_at"),
    Column("reversed", Integer, CheckConstraint("reversed IN (0, 1)", "flag"), nullable=False),
    PrimaryKeyConstraint("bucket", "posting"),
    Index(None, "bucket", "beneficiary", "programme"),
    Index(None, "programme", "actor_sha256", "recorded_at"),
    **_KEYED,
)

# ── what happened ──────────────────────────────────────────────────────────────────────────────

attempts = Table(
    "attempts",
    metadata,
    _bucket(),
    _text("terminal"),
    _text("id"),
    Column(
        "state",
        Text,
        CheckConstraint("state IN ('posted', 'refused', 'reversed')", "known"),
        nullable=False,
    ),
    _text("content_sha256", null=True),  # none: a tombstone whose original never came
    _text(
        "record_sha256"
    ),  # digest of the redeem record that was decided, or that a reversal named
    _text("posting", null=True),
    PrimaryKeyConstraint("bucket", "terminal", "id"),
    **_KEYED,
)

# Every decided record with its answer; ids and outcomes are never pruned (INV-1).
records = Table(
    "records",
    metadata,
    _bucket(),
    _text("digest"),
    _text("terminal"),
    _text("id"),
    _text("kind"),
    _text("incarnation"),
    _number("sequence"),
    _text("occurred_at"),
    _text("recorded_at"),
    _text("result"),
    _text("outcome"),
    PrimaryKeyConstraint("bucket", "digest"),
    Index(None, "bucket", "terminal", "id"),
    **_KEYED,
)

# The signed bytes, which hold GTINs, have a retention of their own: the dispute period.
record_bytes = Table(
    "record_bytes",
    metadata,
    _bucket(),
    _text("digest"),
    Column("jws", LargeBinary, nullable=False),
    PrimaryKeyConstraint("bucket", "digest"),
    **_KEYED,
)

# What only people can decide, and have not yet: the held intake (docs/offline.md §2, §8, §9).
# What a person decided is an outcome in `records`, its bytes are in `record_bytes`; then this row
# only says who decided.
held_records = Table(
    "held_records",
    metadata,
    Column("n", Integer, primary_key=True),
    _bucket(),
    _text("digest"),
    _text("terminal"),
    _text("id"),
    _text("kind"),
    _text("incarnation"),
    _number("sequence"),
    _text("occurred_at"),
    _text("held_at"),
    # Whether its goods went out of the door without the ledger: it came with evidence.
    Column("late", Integer, CheckConstraint("late IN (0, 1)", "flag"), nullable=False),
    Column(
        "reason",
        Text,
        CheckConstraint(
            "reason IN ('terminal_suspended', 'terminal_revoked', 'terminal_forked', 'token', "
            "'malformed')",
            "reason",
        ),
        nullable=False,
    ),
    Column("jws", LargeBinary),  # none once it is decided
    _text("proof", null=True),  # JSON: what its token proved then; no token, no sub, no jti
    _text("beneficiary", null=True),  # the ledger's own name of whom it proved
    _text("actor_sha256", null=True),
    _text("outcome"),  # the signed `held`
    _text("resolved_at", null=True),
    _text("operator", null=True),
    Column("decision", Text, CheckConstraint("decision IN ('post', 'refuse')", "decision")),
    _text("sentence", null=True),
    UniqueConstraint("bucket", "digest"),
    Index(None, "terminal", "resolved_at"),
    Index(None, "bucket", "beneficiary"),
    **_STRICT,
)

lines = Table(
    "lines",
    metadata,
    _bucket(),
    _text("posting"),
    _number("line"),
    _text("voucher"),
    _text("category"),
    _number("quantity"),
    _number("programme_minor"),
    _number("beneficiary_minor"),
    PrimaryKeyConstraint("bucket", "posting", "line", "voucher"),
    **_KEYED,
)

postings = Table(
    "postings",
    metadata,
    _bucket(),
    _text("posting"),
    Column(
        "kind",
        Text,
        CheckConstraint(
            "kind IN ('fund', 'issue', 'redeem', 'reversal', 'void', 'refund', 'forfeit', "
            "'allot', 'release')",
            "known",
        ),
        nullable=False,
    ),
    _text("programme"),
    _text("merchant", null=True),
    _text("store", null=True),
    _text("terminal", null=True),
    _text("incarnation", null=True),
    Column("sequence", _amount()),  # of the redeem record: what the receipt number shows
    _text("occurred_at", null=True),
    _text("recorded_at"),
    _text("original", null=True),  # the redemption that this posting takes back, or a part of it
    PrimaryKeyConstraint("bucket", "posting"),
    Index(None, "merchant", "programme", "posting"),
    Index(None, "bucket", "original"),
    **_KEYED,
)

# How much of which line of a redemption came back with which refund.
returned_lines = Table(
    "returned_lines",
    metadata,
    _bucket(),
    _text("original"),
    _text("posting"),
    _number("line"),
    Column("quantity", _amount(), CheckConstraint("quantity >= 1", "quantity"), nullable=False),
    PrimaryKeyConstraint("bucket", "original", "posting", "line"),
    **_KEYED,
)

entries = Table(
    "entries",
    metadata,
    _bucket(),
    _text("posting"),
    _number("n"),
    _text("account"),
    _text("holder"),  # funder, voucher or merchant; empty for the programme's own accounts
    _text("programme"),
    _text("unit"),  # an ISO 4217 currency, or piece, g, ml
    _number("amount"),
    PrimaryKeyConstraint("bucket", "posting", "n"),
    **_KEYED,
)

# Sales made without the ledger that a person has to look at: what vouchers did not cover, and what
# was not booked. Closed, never deleted.
exceptions = Table(
    "exceptions",
    metadata,
    Column("n", Integer, primary_key=True),
    _text("at"),
    _bucket(),
    _text("digest"),  # of the acceptance
    _text("terminal"),
    _text("reason"),  # posted_short, or the code of the outcome's refusal
    _number("amount_minor"),
    _text("currency"),
    Column(
        "liability",
        Text,
        CheckConstraint("liability IN ('programme', 'merchant')", "known"),
        nullable=False,
    ),
    _text("closed_at", null=True),
    _text("closed_by", null=True),
    _text("note", null=True),
    UniqueConstraint("bucket", "digest"),
    **_STRICT,
)

# That somebody was erased, by which operator, and what went back: not who.
erasures = Table(
    "erasures",
    metadata,
    Column("n", Integer, primary_key=True),
    _text("at"),
    _text("operator"),
    _text("erased"),  # JSON: how many rows of which kind, and what was forfeited by programme
    **_STRICT,
)

# ── who was paid ───────────────────────────────────────────────────────────────────────────────

batches = Table(
    "batches",
    metadata,
    Column("merchant", Text, ForeignKey("merchants.merchant")),
    Column("programme", Text, ForeignKey("programmes.programme")),
    _number("batch_no"),
    _text("closed_at"),
    _text("manifest"),
    Column("file", LargeBinary, nullable=False),
    PrimaryKeyConstraint("merchant", "programme", "batch_no"),
    **_KEYED,
)

# The primary key is what makes a sweep take each posting exactly once.
batch_postings = Table(
    "batch_postings",
    metadata,
    _bucket(),
    _text("posting"),
    _text("merchant"),
    _text("programme"),
    _number("batch_no"),
    PrimaryKeyConstraint("bucket", "posting"),
    Index(None, "merchant", "programme", "batch_no"),
    **_KEYED,
)

batch_shares = Table(
    "batch_shares",
    metadata,
    _text("merchant"),
    _text("programme"),
    _number("batch_no"),
    _text("funder"),
    _number("amount_minor"),
    PrimaryKeyConstraint("merchant", "programme", "batch_no", "funder"),
    **_KEYED,
)

# ── what a ledger that lost data is brought back (docs/offline.md §12) ──────────────────────────

# Outcomes that this ledger signed and did not hold, as tills offered them. The bytes go when one is
# placed; what does not fit stays until a person has closed it.
heal_evidence = Table(
    "heal_evidence",
    metadata,
    Column("n", Integer, primary_key=True),
    _bucket(),
    _text("digest"),
    _text("terminal"),
    _text("incarnation"),
    _number("sequence"),
    _text("id"),
    _text("kind"),
    _text("result"),
    _text("recorded_at"),
    _number("epoch"),
    _number("amount_minor"),  # what it says was booked or put back
    _text("currency", null=True),
    Column("record", LargeBinary),
    _text("outcome", null=True),
    Column(
        "state",
        Text,
        CheckConstraint("state IN ('staged', 'placed', 'excepted', 'closed')", "known"),
        nullable=False,
    ),
    _number("tried"),  # in which pass of the opening it was tried last
    _text("reason", null=True),  # why it did not fit then
    _text("offered_at"),
    _text("closed_at", null=True),
    _text("closed_by", null=True),
    _text("note", null=True),
    UniqueConstraint("digest", "result"),
    Index(None, "terminal", "incarnation", "sequence"),
    Index(None, "state", "tried", "recorded_at"),
    **_STRICT,
)

# Which till has said in which epoch that it has offered all that it has.
heal_reports = Table(
    "heal_reports",
    metadata,
    _text("terminal"),
    _number("epoch"),
    _text("incarnation"),
    Column("complete", Integer, CheckConstraint("complete IN (0, 1)", "flag"), nullable=False),
    _text("heard_at"),
    PrimaryKeyConstraint("terminal", "epoch"),
    **_KEYED,
)

# The pack that a till holds, until its households are read out of it.
heal_files = Table(
    "heal_files",
    metadata,
    _text("terminal"),
    _text("sha256"),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("terminal", "sha256"),
    **_KEYED,
)

# What packs say is set aside.
heal_allotments = Table(
    "heal_allotments",
    metadata,
    _bucket(),
    _text("voucher"),
    _number("allotment"),
    _text("terminal"),
    _text("incarnation"),
    _number("amount_minor"),
    _number("quantity"),
    _text("spend_until"),
    _text("reclaim_after"),
    Column(
        "state",
        Text,
        CheckConstraint("state IN ('staged', 'placed', 'excepted')", "known"),
        nullable=False,
    ),
    PrimaryKeyConstraint("bucket", "voucher", "allotment"),
    **_KEYED,
)

# Rows of a settlement batch that was restored, of bookings that this ledger does not hold yet: they
# belong to that batch as soon as it does. What a till and its copy sold under one number stands in
# two batches, each with its own time.
heal_rows = Table(
    "heal_rows",
    metadata,
    _text("merchant"),
    _text("programme"),
    _number("batch_no"),
    _text("terminal"),
    _text("incarnation"),
    _number("sequence"),
    _text("kind"),
    _text("occurred_at"),
    _number("amount_minor"),
    PrimaryKeyConstraint(
        "merchant", "programme", "batch_no", "terminal", "incarnation", "sequence", "kind"
    ),
    **_KEYED,
)

# ── what beneficiaries see and say ─────────────────────────────────────────────────────────────

# A number for each committed use (a redeem, or what takes one back), without gaps: what a feed
# reads on from.
uses = Table(
    "uses",
    metadata,
    _number("n"),
    _bucket(),
    _text("posting"),
    PrimaryKeyConstraint("bucket", "posting"),
    UniqueConstraint("n"),
    **_KEYED,
)

# Up to which of their uses a beneficiary was shown, at the last sign-in.
holder_marks = Table(
    "holder_marks",
    metadata,
    _bucket(),
    _text("beneficiary"),
    _number("seen_n"),
    PrimaryKeyConstraint("bucket", "beneficiary"),
    **_KEYED,
)

# Who is on their own pages: 15 minutes, under the SHA-256 of the cookie.
holder_sessions = Table(
    "holder_sessions",
    metadata,
    Column("session_sha256", Text, primary_key=True),
    _bucket(),
    _text("beneficiary"),
    _text("opened_at"),
    _number("new_after"),  # uses numbered above it are new to this person
    Column("has_left", Integer, CheckConstraint("has_left IN (0, 1)", "flag"), nullable=False),
    **_KEYED,
)

# Vouchers that their holders stopped, until an operator frees them.
voucher_stops = Table(
    "voucher_stops",
    metadata,
    _bucket(),
    _text("voucher"),
    _text("stopped_at"),
    PrimaryKeyConstraint("bucket", "voucher"),
    **_KEYED,
)

# "I did not buy this": at most one per redemption. Shop, terminal and amount are the posting's.
disputes = Table(
    "disputes",
    metadata,
    Column("n", Integer, primary_key=True),
    _bucket(),
    _text("posting"),
    _text("beneficiary"),
    Column(
        "reason",
        Text,
        CheckConstraint(
            "reason IN ('not_me', 'not_these_goods', 'wrong_amount', 'no_goods')", "reason"
        ),
        nullable=False,
    ),
    Column(
        "state",
        Text,
        CheckConstraint("state IN ('open', 'upheld', 'rejected')", "state"),
        nullable=False,
    ),
    _text("opened_at"),
    _text("answered_at", null=True),
    _text("answered_by", null=True),
    _text("answer", null=True),
    UniqueConstraint("bucket", "posting"),
    **_STRICT,
)
