"""The plugin's settings: one readable file, `plugin.toml`, in the till's folder."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from carepos import durable, strict_json
from carepos.errors import Malformed
from carepos.receipt import Language
from carepos.receipt_layout import COLUMNS

FILE: Final = "plugin.toml"

TEXT: Final = """\
# Settings of this till's CarePOS plugin. Restart the plugin after a change.
# 本收银终端的插件设置，修改后请重启插件。

# Where the register reaches the plugin. 127.0.0.1 means: only from this computer. Where the plugin
# runs on a box of its own beside the register, give that box's address (never 0.0.0.0), and let
# no one else onto that cable: the pairing secret travels in the clear.
host = "127.0.0.1"
port = 8450

# Where the devices that face the customer reach the plugin: the PIN pad (a tablet or phone), a
# face or palm device. Empty: at the address above, which is right for a second screen of this
# computer. Else this computer's address on the network of those devices, like "192.168.1.20"; only
# what is for them is served there. What they send, PINs too, travels unencrypted on that network:
# use a cable or a Wi-Fi of their own, never the Wi-Fi that customers use.
# 面向顾客的设备（密码键盘、人脸或掌纹设备）访问插件的地址；留空表示与上面相同。
# 请使用专用网络，切勿使用顾客 Wi-Fi。
devices_host = ""

# The language of receipts: "zh", "en" or "zh+en".
language = "zh"

# The clock on the shop's wall (IANA time zone), for receipts and the business date.
zone = "Asia/Shanghai"

# Where receipts are printed:
#   "none"                       the register prints the text that the plugin gives it
#   "file:receipts"              into a folder (from the till's folder, or a whole path)
#   "tcp://192.168.1.50:9100"    an ESC/POS printer on the network
printer = "none"

# How many letters fit on one line of the paper: 32 (58 mm), 42 or 48 (80 mm).
columns = 32

# A font file for characters the printer does not know; empty: they are printed as 〓.
font = ""

# Seconds an offer stays on the screen before the code must be scanned again (30 to 900).
offer_life_s = 300

# Seconds between two looks at sales whose outcome is not known yet (5 to 3600).
settle_every_s = 30

# Days a receipt can be shown and printed again; then what was bought is deleted from it here (1 to
# 3650). The signed record of the sale stays.
receipts_days = 180

# A folder on a second disk (a stick that stays in): what is not uploaded is kept there too, in case
# this computer dies. It must be there already; sales go on when it is not. Empty: none.
# 第二块磁盘上的文件夹：另存尚未上传的记录；留空表示不用。
mirror = ""

# Seconds to wait for the ledger's answer at the counter (2 to 60).
answer_timeout_s = 8
"""

_DEFAULTS: Final[dict[str, Any]] = tomllib.loads(TEXT)
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class PrinterAddress:
    """Where receipts go. `folder` is set for files; `host` and `port` for the network."""

    kind: Literal["none", "file", "tcp"]
    folder: Path | None = None
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """What `plugin.toml` says, checked; `folder` is the till's."""

    folder: Path
    host: str
    port: int
    devices_host: str
    language: Language
    zone: str
    printer: PrinterAddress
    columns: int
    font: Path | None
    offer_life_s: int
    settle_every_s: int
    receipts_days: int
    answer_timeout_s: int
    mirror: Path | None

    @property
    def url(self) -> str:
        """Where the plugin answers."""
        return f"http://{bracketed(self.host)}:{self.port}"

    @property
    def devices_url(self) -> str:
        """Where the devices that face the beneficiary reach it."""
        return f"http://{bracketed(self.devices_host or self.host)}:{self.port}"

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """From `folder`/plugin.toml; what is not in it has its default.

        Raises Malformed naming the setting, FileNotFoundError when there is no such file.
        """
        try:
            found = tomllib.loads((folder / FILE).read_text("utf-8-sig"))
        except UnicodeDecodeError:
            raise Malformed("is not saved as UTF-8", field=FILE) from None
        except tomllib.TOMLDecodeError as error:
            raise Malformed(f"can't be read: {error}", field=FILE) from None
        return cls.read(found, folder)

    @classmethod
    def read(cls, found: dict[str, Any], folder: Path) -> Settings:
        """From the names and values of the file. Raises Malformed naming the setting."""
        strict_json.names_within(found, required=frozenset(), optional=_DEFAULTS.keys(), where=FILE)
        given = {**_DEFAULTS, **found}

        def whole(name: str, low: int, high: int) -> int:
            return strict_json.integer(given[name], _place(name), low=low, high=high)

        return cls(
            folder=folder,
            host=_host(given["host"]),
            port=whole("port", 1, 65_535),
            devices_host=_devices_host(given["devices_host"], given["host"]),
            language=_language(given["language"]),
            zone=_zone(given["zone"]),
            printer=_printer(given["printer"], folder),
            columns=_columns(given["columns"]),
            font=_font(given["font"], folder),
            offer_life_s=whole("offer_life_s", 30, 900),
            settle_every_s=whole("settle_every_s", 5, 3600),
            receipts_days=whole("receipts_days", 1, 3650),
            answer_timeout_s=whole("answer_timeout_s", 2, 60),
            mirror=_mirror(given["mirror"], folder),
        )

    @classmethod
    def write_default(cls, folder: Path) -> bool:
        """Write the file with its comments unless there is one; whether it was written."""
        if (folder / FILE).exists():
            return False
        durable.write(folder / FILE, TEXT.encode())
        return True


def _place(name: str) -> str:
    return f"{FILE}, setting {name}"


def bracketed(host: str) -> str:
    """An IP address as it stands in a URL and a Host header."""
    return f"[{host}]" if ":" in host else host


def _devices_host(value: object, host: object) -> str:
    """Empty where it is the register's own address."""
    if value in ("", host):
        return ""
    return _host(value, "devices_host")


def _host(value: object, name: str = "host") -> str:
    place = _place(name)
    text = strict_json.text(value, place)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Malformed("must be an IP address, like 127.0.0.1", field=place) from None
    if address.is_unspecified or address.is_multicast:
        raise Malformed("must be the one address that the register uses", field=place)
    return text


def _language(value: object) -> Language:
    if value not in ("zh", "en", "zh+en"):
        raise Malformed('must be "zh", "en" or "zh+en"', field=_place("language"))
    return value


def _zone(value: object) -> str:
    text = strict_json.text(value, _place("zone"), high=40)
    try:
        ZoneInfo(text)
    except (OSError, ValueError, LookupError):
        # A name with a slash at its end makes zoneinfo open a folder: OSError.
        raise Malformed("must be a time zone, like Asia/Shanghai", field=_place("zone")) from None
    return text


def _columns(value: object) -> int:
    if type(value) is not int or value not in COLUMNS:
        raise Malformed("must be 32, 42 or 48", field=_place("columns"))
    return value


def _font(value: object, folder: Path) -> Path | None:
    text = strict_json.text(value, _place("font"), low=0, high=500)
    if not text:
        return None
    path = folder / text
    if not path.is_file():
        raise Malformed("is no file", field=_place("font"))
    return path


def _mirror(value: object, folder: Path) -> Path | None:
    text = strict_json.text(value, _place("mirror"), low=0, high=500)
    if not text:
        return None
    path = folder / text
    if path.resolve().is_relative_to(folder.resolve()):
        raise Malformed("must not lie in the till's own folder", field=_place("mirror"))
    return path


def _printer(value: object, folder: Path) -> PrinterAddress:
    place = _place("printer")
    text = strict_json.text(value, place, high=500)
    if text == "none":
        return PrinterAddress("none")
    if text.startswith("file:") and len(text) > len("file:"):
        return PrinterAddress("file", folder / text.removeprefix("file:"))
    if text.startswith("tcp://"):
        host, _, port = text.removeprefix("tcp://").rpartition(":")
        if _HOST_NAME.fullmatch(host) and re.fullmatch(r"[0-9]{1,5}", port):
            return PrinterAddress(
                "tcp", host=host, port=strict_json.integer(int(port), place, low=1, high=65_535)
            )
    raise Malformed('must be "none", "file:FOLDER" or "tcp://HOST:PORT"', field=place)
