"""A ledger's settings: one readable file, `ledger.toml`, in the ledger's folder."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from carepos import durable, strict_json
from carepos.errors import Malformed

FILE = "ledger.toml"
DEFAULT_AUDIENCE = "urn:carepos:redeem"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8440
DEFAULT_DISPUTE_DAYS = 180

_TEXT = """\
# Settings of this CarePOS ledger. Keys are in the files beside this one; keep them private.

# Where the book is: an SQLite file (the default, for one server) or PostgreSQL:
#   postgresql+psycopg://user:password@host/database
database = {database}

# The audience that identity tokens must name.
audience = {audience}

# Where tills and operators reach it. Outside one machine, put TLS in front.
host = {host}
port = {port}

# How long after a sale was paid, and after a programme has ended, somebody may still complain.
# Then `carepos ledger retain` deletes the signed records with what was bought, and who was issued
# what. Half a year: card schemes allow 120 days, and an audit of relief comes after the relief.
dispute_days = {dispute_days}

# The clock of the times on beneficiaries' pages (an IANA time zone like "Asia/Shanghai"): the
# shops', so that the page says what the paper receipt says. Empty: this machine's.
zone = {zone}
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `ledger.toml` says; `folder` also holds keys and operator secrets."""

    folder: Path
    database: str
    audience: str = DEFAULT_AUDIENCE
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    dispute_days: int = DEFAULT_DISPUTE_DAYS
    zone: ZoneInfo | None = None

    @classmethod
    def default(cls, folder: Path) -> Settings:
        return cls(folder, f"sqlite:///{folder.absolute() / 'ledger.db'}")

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Raises FileNotFoundError when there is no ledger here, Malformed naming the setting."""
        try:
            found = tomllib.loads((folder / FILE).read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Malformed(f"is not TOML: {error}", field=FILE) from None
        names = strict_json.names_within(
            found,
            required={"database"},
            optional={"audience", "host", "port", "dispute_days", "zone"},
            where=FILE,
        )
        return cls(
            folder,
            strict_json.text(names["database"], "database", high=500),
            strict_json.text(names.get("audience", DEFAULT_AUDIENCE), "audience"),
            strict_json.text(names.get("host", DEFAULT_HOST), "host"),
            strict_json.integer(names.get("port", DEFAULT_PORT), "port", low=1, high=65_535),
            strict_json.integer(
                names.get("dispute_days", DEFAULT_DISPUTE_DAYS), "dispute_days", low=1, high=36_500
            ),
            _zone(strict_json.text(names.get("zone", ""), "zone", low=0)),
        )

    def save(self) -> None:
        """Write the file with its comments; private, because a database URL may hold a password."""
        # JSON spells these strings as TOML's basic strings do; a Windows path has backslashes.
        text = _TEXT.format(
            database=json.dumps(self.database),
            audience=json.dumps(self.audience),
            host=json.dumps(self.host),
            port=self.port,
            dispute_days=self.dispute_days,
            zone=json.dumps("" if self.zone is None else self.zone.key),
        )
        durable.write(self.folder / FILE, text.encode(), mode=0o600)


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Malformed(
            'must be a time zone like "Asia/Shanghai", or empty', field="zone"
        ) from None
