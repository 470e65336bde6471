"""`issuer.toml`: which provider is believed, and how care codes are made."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from carepos import durable, strict_json
from carepos.claims import LIFETIME_S
from carepos.errors import Malformed
from carepos.key_source import source_url
from sample_issuer.id_token import Expected

FILE: Final = "issuer.toml"
SHORTEST_S: Final = 120
"""Of a care code: the page renews one before it ends, and no more often than `desk` allows."""

_TEMPLATE: Final = """\
# The sample issuer. Keys and names of the issuer itself: issuer.json (carepos token key).

[provider]
issuer = "{provider}"          # its issuer identifier, letter for letter
client_id = "{client_id}"
client_secret_file = ""        # a file beside this one; empty for a public client (PKCE)
trusted_audiences = []         # who else may stand in an ID token's aud

[care_code]
lifetime_s = 300               # 120 to 900
session_s = 900                # how long a sign-in counts
time_zone = "Asia/Shanghai"    # for the time on the page
own_pages = "{own_pages}"                 # the ledger's, https://…/me; empty: no button to them

# What the provider says in amr, and what we pass on of it. What is not here is left out.
[care_code.methods]
face = "face"
fpt = "fpt"
otp = "otp"
sms = "otp"

[service]
url = "{url}"                  # as phones reach it
host = "127.0.0.1"
port = {port}
proxy = ""                     # the TLS proxy in front, by IP address: it says who calls
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """Typed, and every value within its bounds."""

    expected: Expected
    client_secret: str | None
    lifetime_s: int
    session_s: int
    time_zone: ZoneInfo
    own_pages: str
    methods: Mapping[str, str]
    url: str
    host: str
    port: int
    proxy: str

    @classmethod
    def write(
        cls, folder: Path, *, provider: str, client_id: str, url: str, port: int, own_pages: str
    ) -> None:
        """A first issuer.toml; `own_pages` may be empty. Raises Malformed, FileExistsError."""
        given = {"--provider": provider, "--client-id": client_id, "--url": url}
        for name, text in {**given, "--own-pages": own_pages}.items():
            if '"' in text or "\\" in text or not text.isprintable():
                raise Malformed("has characters that can't be", field=name)
        source_url(provider, "--provider")
        source_url(url, "--url")
        _own_pages(own_pages, "--own-pages")
        text = _TEMPLATE.format(
            provider=provider, client_id=client_id, url=url, port=port, own_pages=own_pages
        )
        durable.create(folder / FILE, text.encode(), mode=0o644)

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Raises Malformed naming the setting, OSError."""
        try:
            found = tomllib.loads((folder / FILE).read_bytes().decode("utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Malformed(f"is not TOML: {error}", field=FILE) from None
        whole = strict_json.exact_names(found, {"provider", "care_code", "service"}, where=FILE)
        provider = _table(
            whole, "provider", "issuer client_id client_secret_file trusted_audiences"
        )
        care = _table(whole, "care_code", "lifetime_s session_s time_zone methods", "own_pages")
        service = _table(whole, "service", "url host port proxy")
        trusted = strict_json.array(provider["trusted_audiences"], "trusted_audiences", high=20)
        methods = strict_json.mapping(care["methods"], "methods", high=50)
        return cls(
            Expected(
                source_url(_text(provider, "issuer"), "provider.issuer"),
                _text(provider, "client_id"),
                frozenset(strict_json.text(each, "trusted_audiences") for each in trusted),
            ),
            _secret(folder, provider["client_secret_file"]),
            strict_json.integer(
                care["lifetime_s"], "lifetime_s", low=SHORTEST_S, high=LIFETIME_S["once"]
            ),
            strict_json.integer(care["session_s"], "session_s", low=60, high=3_600),
            _zone(_text(care, "time_zone")),
            _own_pages(care.get("own_pages", ""), "care_code.own_pages"),
            {
                name: strict_json.text(to, f"methods.{name}", high=40)
                for name, to in methods.items()
            },
            source_url(_text(service, "url"), "service.url").rstrip("/"),
            _text(service, "host"),
            strict_json.integer(service["port"], "port", high=65_535),
            _proxy(service["proxy"]),
        )

    @property
    def redirect_uri(self) -> str:
        """What has to be registered with the provider."""
        return f"{self.url}/callback"


def _table(whole: Mapping[str, Any], name: str, names: str, may: str = "") -> dict[str, Any]:
    return strict_json.names_within(
        whole[name], required=set(names.split()), optional=set(may.split()), where=name
    )


def _own_pages(value: object, field: str) -> str:
    return "" if value == "" else source_url(strict_json.text(value, field), field)


def _text(table: Mapping[str, Any], name: str) -> str:
    return strict_json.text(table[name], name)


def _secret(folder: Path, name: object) -> str | None:
    if name == "":
        return None
    path = folder / strict_json.text(name, "client_secret_file")
    return strict_json.text(path.read_text("utf-8").strip(), "client_secret_file", high=500)


def _proxy(value: object) -> str:
    if value == "":
        return ""
    text = strict_json.text(value, "proxy")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise Malformed("must be an IP address, or empty", field="proxy") from None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # A name with a slash at its end makes zoneinfo open a folder: OSError.
        raise Malformed("is no time zone", field="time_zone") from None
