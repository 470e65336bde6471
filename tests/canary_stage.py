"""The stage of the canary test: real processes of a ledger and of tills, and all they leave behind.

Everything goes through the doors that people use: commands, HTTP, a scanner's text. What each party
was told is kept beside what lies on the disks, as `Place`s of one name per pair of eyes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import requests
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from carepos import token
from carepos.keys import SigningKey
from carepos_ledger import schema
from sample_merchant.demo.plug import Plug
from tests.canaries import Canary, Place

ISSUER, AUDIENCE, PROGRAMME = "https://issuer.test", "urn:carepos:redeem", "flood-dairy"
MILK, SOAP = "06913046198782", "06965356619631"
CASHIER = "canary-cashier"

PROGRAMS = ("carepos", "sample_issuer")
"""What a person types and waits for; all else runs until it is stopped."""

Json = dict[str, Any]


class Parent:
    """The process that all others are forked from, in Python's development mode."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CAREPOS_", "PYTEST"))}
        self._process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "tests.canary_process", str(theirs.fileno())],
            cwd=Path(__file__).parents[1],
            env={**kept, "PYTHONMALLOC": "pymalloc", "COLUMNS": "200", "PYTHONUTF8": "1"},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def fork(self, wish: list[str], stdin: int, stdout: int) -> int:
        """The pid of a new process."""
        socket.send_fds(self._ours, [json.dumps(wish).encode()], [stdin, stdout])
        return int.from_bytes(self._ours.recv(8), "big")

    def close(self) -> None:
        self._ours.close()
        self._process.wait(10)


@dataclass
class Running:
    """A process whose every word is kept. `said` is whole once `wait_dead` has returned."""

    name: str
    pid: int
    stdin: Any
    stdout: Any
    said: bytearray = field(default_factory=bytearray)
    reader: threading.Thread | None = None

    def read(self, until: bytes = b"") -> None:
        """What it says, to its end or to the line `until`."""
        for line in self.stdout:
            self.said.extend(line)
            if line == until:
                return
        assert not until, self.end_of_words

    def read_on(self) -> None:
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def wait_dead(self) -> None:
        """Its output ends with it, however it ended."""
        if self.reader is None:
            self.read_on()
        assert self.reader is not None
        self.reader.join(30)
        assert not self.reader.is_alive(), self.name
        self.stdin.close()
        self.stdout.close()

    @property
    def alive(self) -> bool:
        return self.reader is None or self.reader.is_alive()

    @property
    def end_of_words(self) -> str:
        return bytes(self.said[-3000:]).decode("utf-8", "replace")


@dataclass
class Wire:
    """A cable that is listened to: bytes of either direction, untouched."""

    port: int
    upstream: int
    sent: bytearray = field(default_factory=bytearray)
    heard: bytearray = field(default_factory=bytearray)

    def serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.upstream), 10)
        except OSError:
            client.close()
            return
        back = threading.Thread(target=self._pump, args=(server, client, self.heard), daemon=True)
        back.start()
        self._pump(client, server, self.sent)
        back.join()
        for each in (client, server):
            each.close()

    def _pump(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                kept += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    @property
    def targets(self) -> bytes:
        return b"\n".join(re.findall(rb"^[A-Z]+ \S+(?= HTTP/1\.1\r$)", bytes(self.sent), re.M))


@dataclass
class Stage:
    """One ledger and its tills on one machine; `canaries` grows as secrets are made."""

    parent: Parent
    folder: Path
    database_url: str
    canaries: set[Canary] = field(default_factory=set)
    running: dict[str, Running] = field(default_factory=dict)
    told: list[Place] = field(default_factory=list)
    subs: list[str] = field(default_factory=list)
    issuer_key: SigningKey = field(default_factory=SigningKey.generate)
    tokens: int = 0
    sales: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir()
        for name in ("tmp", "office", "settlements"):
            (self.folder / name).mkdir()
        self._ahead = 0.0
        self.ledger_port, self.plugin_port = _free_port(), _free_port()
        self.provider_url, self.issuer_url = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
        self.ledger_url = f"http://127.0.0.1:{self.ledger_port}"
        self.plugin_url = f"http://127.0.0.1:{self.plugin_port}"
        self.wire = Wire(_free_port(), self.ledger_port)
        self.ledger_plug = Plug(self.folder / "ledger.plug")
        self.till_plug = Plug(self.folder / "till.plug")
        self.operator = self.pairing = self.pad = self.device = ""
        self.plant("issuer key", self.issuer_key.private_key().private_bytes_raw())
        if password := urlsplit(self.database_url).password:
            self.plant("database password", password)

    @property
    def ledger_folder(self) -> Path:
        return self.folder / "ledger"

    @property
    def till_folder(self) -> Path:
        return self.folder / "till"

    # ── canaries ───────────────────────────────────────────────────────────────────────────────

    def plant(self, kind: str, value: str | bytes) -> str:
        """From now on this is looked for; the value as text."""
        data = value.encode() if isinstance(value, str) else value
        self.canaries.add(Canary(kind, data))
        return value if isinstance(value, str) else ""

    def plant_file(self, kind: str, path: Path) -> str:
        """A secret as its file holds it, in text and (where that is base64url or PEM) as bytes."""
        values = _secrets_of(path)
        self.canaries.update(Canary(kind, value) for value in values)
        return values[0].decode("ascii", "replace")

    @contextlib.contextmanager
    def replacing(self, kind: str, path: Path) -> Iterator[None]:
        """The secret in this file is replaced or deleted: from then on it must be nowhere, also not
        where its bytes lay on the disk, which another name holds on to."""
        former = _secrets_of(path)
        held = self.folder / "held"
        held.mkdir(exist_ok=True)
        os.link(path, held / str(len(list(held.iterdir()))))
        yield
        assert not path.exists() or _secrets_of(path) != former
        for value in former:
            self.canaries.discard(Canary(kind, value))
            self.plant(f"former {kind}", value)
        if path.exists():
            self.plant_file(kind, path)

    def token(self, sub: str, **changes: Any) -> str:
        """A care code with a canary in every claim that says something of a person."""
        self.tokens += 1
        claims: Json = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": sub,
            "jti": self.plant("jti", "canary.jti~") + f"{self.tokens:04d}",
            "issued_at": datetime.now(UTC),
            "family_name": self.plant("claim", "金丝雀覃"),
            "phone_number": self.plant("claim", "13800577210"),
            **changes,
        }
        made = token.mint(self.issuer_key, **claims)
        self.plant("sub", sub)
        header, _, signature = made.split(".")
        self.plant("token", header)  # the same for all of this issuer
        if self.tokens <= 12:
            self.plant("token", signature[:60])
        return made

    # ── processes ──────────────────────────────────────────────────────────────────────────────

    def start(self, what: str, *words: str) -> Running:
        stdin, to_stdin = os.pipe()
        from_stdout, stdout = os.pipe()
        pid = self.parent.fork([str(self.folder), what, *words], stdin, stdout)
        os.close(stdin)
        os.close(stdout)
        run = Running(what, pid, os.fdopen(to_stdin, "wb"), os.fdopen(from_stdout, "rb"))
        place = Path(f"/proc/{pid}")
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                self.told.append(Place("processes", (place / name).read_bytes()))
        if what not in PROGRAMS:
            self.running[what] = run
        return run

    def _serve(self, what: str, *words: str, probe: str, name: str | None = None) -> None:
        run = self.start(what, *words)
        self.running[name or what] = run
        run.read_on()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and run.alive:
            with contextlib.suppress(requests.RequestException):
                requests.get(probe, timeout=5)
                return
            time.sleep(0.02)
        raise AssertionError(run.end_of_words)

    def start_ledger(self) -> None:
        probe = f"{self.ledger_url}/openapi.json"
        self._serve("ledger", "ledger", "ledger.plug", probe=probe)

    def start_plugin(self) -> None:
        self._serve("plugin", "till", "till.plug", probe=f"{self.plugin_url}/")

    def start_provider(self) -> None:
        port = self.provider_url.rpartition(":")[2]
        self._serve("provider", port, probe=f"{self.provider_url}/jwks")

    def start_issuer(self) -> None:
        words = ("sample_issuer", "serve", "--folder", "issuer")
        probe = f"{self.issuer_url}/.well-known/jwks.json"
        self._serve(*words, probe=probe, name="issuer")

    def start_counter(self) -> None:
        self.start("counter", "card-till").read(b"ready\n")

    def over(self, what: str) -> None:
        """It stops now."""
        run = self.running[what]
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGTERM)
        self.died(what)

    def died(self, what: str) -> None:
        """It is dead, or will be in a moment, by itself."""
        run = self.running.pop(what)
        run.wait_dead()
        self.told.append(Place(f"log {what}", bytes(run.said)))

    def close(self) -> None:
        for what in list(self.running):
            self.over(what)

    @contextlib.contextmanager
    def without_ledger(self) -> Iterator[None]:
        """No till can reach it."""
        self.over("ledger")
        yield
        self.start_ledger()

    @contextlib.contextmanager
    def full_disk(self, what: str) -> Iterator[None]:
        """No file of this process may grow any more."""
        pid = self.running[what].pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    def command(self, *words: str, stdin: str = "", codes: tuple[int, ...] = (0,)) -> str:
        """`carepos …` as a person types it; every word of both sides is kept."""
        return self._typed("carepos", " ".join(words[:2]), words, stdin, codes)

    def sample_issuer(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """`python -m sample_issuer …`, in the folder `issuer`."""
        return self._typed("sample_issuer", words[0], (*words, "--folder", "issuer"), "", codes)

    def _typed(
        self, program: str, name: str, words: tuple[str, ...], stdin: str, codes: tuple[int, ...]
    ) -> str:
        run = self.start(program, *words)
        run.stdin.write(stdin.encode())
        run.stdin.close()
        run.wait_dead()
        self.told.append(Place(f"words {program} {name}", " ".join(words).encode()))
        self.told.append(Place(f"output {program} {name}", bytes(run.said)))
        said = bytes(run.said).decode("utf-8", "replace")
        assert int(said.rsplit("exit ", 1)[-1]) in codes, (words, said)
        return said

    def killed(self, what: str) -> None:
        """The power goes, now."""
        os.kill(self.running[what].pid, signal.SIGKILL)
        self.died(what)

    def forward(self, seconds: float) -> None:
        """The plugin's clock for what ends by itself."""
        self._ahead += seconds
        (self.folder / "ahead").write_text(str(self._ahead))

    # ── HTTP ───────────────────────────────────────────────────────────────────────────────────

    def operate(self, method: str, path: str, body: object = None) -> Json:
        answer = requests.request(
            method,
            f"{self.ledger_url}/v1/operators{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.operator}"},
            timeout=30,
        )
        self.told.append(Place(f"answer operator {path}", answer.content))
        assert answer.ok, answer.text
        return dict(answer.json())

    def register(self, method: str, path: str, body: object = None) -> Json:
        """What the register asks the plugin; problem documents are answers too."""
        return self._plugin("register", method, path, body, "X-CarePOS-Pairing", self.pairing)

    def at_pad(self, action: str, body: object = None, secret: str | None = None) -> Json:
        """What the PIN pad's page asks the plugin."""
        shown = self.pad if secret is None else secret
        path = f"/pin-pad/{action}"
        return self._plugin("pad", "POST", path, body or {}, "X-CarePOS-Pin-Pad", shown)

    def at_device(self, code: object, secret: str | None = None) -> Json:
        """What a face or palm device hands over."""
        shown = self.device if secret is None else secret
        body = {"code": code}
        return self._plugin("device", "POST", "/device/code", body, "X-CarePOS-Device", shown)

    def _plugin(
        self, who: str, method: str, path: str, body: object, header: str, secret: str
    ) -> Json:
        headers = {header: secret.encode().decode("latin-1")}
        answer = requests.request(
            method, self.plugin_url + path, json=body, headers=headers, timeout=60
        )
        self.told.append(Place(f"answer {who} {path}", answer.content))
        return dict(answer.json())

    def browse(
        self, browser: requests.Session, who: str, method: str, url: str, **more: Any
    ) -> requests.Response:
        """One page, with what its headers say; redirects are pages too."""
        answer = browser.request(method, url, allow_redirects=False, timeout=30, **more)
        head = "".join(f"{name}: {value}\n" for name, value in answer.headers.items())
        # Flask deflates a session's cookie where that makes it shorter.
        packed = re.findall(r"=\.([A-Za-z0-9_-]+)\.", answer.headers.get("Set-Cookie", ""))
        read = b"".join(zlib.decompress(base64.urlsafe_b64decode(f"{each}==")) for each in packed)
        name = "/".join(urlsplit(url).path.split("/")[:3])
        said = head.encode() + read + answer.content
        self.told.append(Place(f"answer {who} {method} {name}", said))
        return answer

    def raw(self, port: int, request: bytes, who: str) -> bytes:
        """Bytes that need not be HTTP; what came back."""
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.settimeout(10)
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = bytearray()
            with contextlib.suppress(OSError):
                while data := connection.recv(65_536):
                    answer += data
        self.told.append(Place(f"answer {who}", bytes(answer)))
        return bytes(answer)

    # ── at the counter ─────────────────────────────────────────────────────────────────────────

    def offer(self, code: str | None, *, key: str = MILK, **more: Any) -> tuple[str, Json]:
        """(checkout, what could be redeemed); without a code for what the device read."""
        self.sales += 1
        checkout = f"S1-{self.sales:06d}"
        body = {"checkout": checkout, "code": code, "lines": [_line(key)], **more}
        return checkout, self.register("POST", "/api/offers", body)

    def after_pin(self, checkout: str, asked: Json) -> Json:
        """The register comes again for a card whose PIN was asked."""
        body = {
            "checkout": checkout,
            "pin_request": asked["pin"]["request"],
            "lines": [_line(MILK)],
        }
        return self.register("POST", "/api/offers", body)

    def redeem(self, checkout: str, offer: Json) -> Json:
        body = {"offer": offer.get("offer"), "checkout": checkout, "cashier": CASHIER}
        return self.register("POST", "/api/redemptions", body)

    def sell(self, code: str | None) -> Json:
        checkout, offer = self.offer(code)
        return self.redeem(checkout, offer)

    def at_counter(self, **wish: Any) -> None:
        """One wish to the till without a plugin; all it says is kept."""
        run = self.running["counter"]
        run.stdin.write(json.dumps(wish).encode() + b"\n")
        run.stdin.flush()
        run.read(b"done\n")

    # ── the database ───────────────────────────────────────────────────────────────────────────

    def sql(self, statement: str) -> None:
        """Behind the ledger's back."""
        if self.on_sqlite:
            with contextlib.closing(sqlite3.connect(self.sqlite_file)) as connection, connection:
                connection.execute("PRAGMA busy_timeout = 5000")
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                connection.execute(statement)
            return
        with psycopg.connect(self.psycopg_url, autocommit=True) as session:
            session.execute(statement.encode())

    @contextlib.contextmanager
    def without_table(self, name: str) -> Iterator[None]:
        """What reads or writes it fails."""
        self.sql(f"ALTER TABLE {name} RENAME TO away")
        yield
        self.sql(f"ALTER TABLE away RENAME TO {name}")

    @contextlib.contextmanager
    def refusing_rows(self, table: str, column: str) -> Iterator[None]:
        """The database takes no new row, and its reason quotes a value, as a CHECK of PostgreSQL
        shows the whole row."""
        poison = self.plant("poison", '{"金丝雀毒": nonsense}')
        check = f"CHECK ({column} = '{poison}') NOT VALID"
        self.sql(
            f"CREATE TRIGGER breaks BEFORE INSERT ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{poison}'); END"
            if self.on_sqlite
            else f"ALTER TABLE {table} ADD CONSTRAINT breaks {check}"
        )
        yield
        self.sql(
            "DROP TRIGGER breaks"
            if self.on_sqlite
            else f"ALTER TABLE {table} DROP CONSTRAINT breaks"
        )

    @property
    def on_sqlite(self) -> bool:
        return self.database_url.startswith("sqlite")

    @property
    def sqlite_file(self) -> Path:
        return Path(self.database_url.removeprefix("sqlite:///"))

    @property
    def psycopg_url(self) -> str:
        return self.database_url.replace("postgresql+psycopg", "postgresql")

    # ── what is left ───────────────────────────────────────────────────────────────────────────

    def places(self) -> list[Place]:
        """Everything that anybody could read afterwards."""
        found = [
            *self.told,
            Place("wire till to ledger, addresses", self.wire.targets),
            Place("wire till to ledger", bytes(self.wire.sent)),
            Place("wire ledger to till", bytes(self.wire.heard)),
        ]
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.parent != self.folder / "office" / "input":
                found += _readings(path.relative_to(self.folder).as_posix(), path.read_bytes())
        together: dict[str, list[bytes]] = {}
        for name, data in [*found, *self._tables()]:
            together.setdefault(name, []).append(data)
        return [Place(name, b"\n\xff\n".join(parts)) for name, parts in together.items()]

    def _tables(self) -> list[Place]:
        """Each table of the ledger by itself, as a dump has it."""
        names = [table.name for table in schema.metadata.sorted_tables]
        if self.on_sqlite:
            with contextlib.closing(sqlite3.connect(self.sqlite_file)) as connection:
                return [
                    Place(f"table {name}", repr(rows).encode())
                    for name in names
                    for rows in [connection.execute(f"SELECT * FROM {name}").fetchall()]
                ]
        found = []
        with psycopg.connect(self.psycopg_url) as session:
            for name in names:
                with session.cursor().copy(f"COPY {name} TO STDOUT".encode()) as copy:
                    rows = b"".join(map(bytes, copy))
                # `bytea` comes as digits; what they mean is looked through too.
                blobs = [bytes.fromhex(x.decode()) for x in re.findall(rb"\\\\x([0-9a-f]+)", rows)]
                found.append(Place(f"table {name}", b"\n".join([rows, *blobs])))
        return found


def _line(key: str) -> Json:
    return {
        "key": key,
        "description": "纯牛奶 250ml*24",
        "quantity": 1,
        "unit": "piece",
        "line_amount_minor": 1_000,
    }


def _readings(name: str, data: bytes) -> list[Place]:
    """A file as it is; a receipt also as it reads."""
    found = [Place(name, data)]
    if "/receipts/" in name:
        text = re.sub(
            r"\s", "", data.decode("gb18030" if name.endswith(".bin") else "utf-8", "replace")
        )
        found.append(Place(f"{name}, read", text.encode()))
    return found


def _secrets_of(path: Path) -> list[bytes]:
    text = path.read_bytes().strip()
    if re.fullmatch(rb"[A-Za-z0-9_-]{43}", text):
        return [text, base64.urlsafe_b64decode(text + b"=")]
    if text.startswith(b"-----BEGIN"):
        key = load_pem_private_key(text, password=None)
        if isinstance(key, Ed25519PrivateKey):
            return [key.private_bytes_raw()]
        assert isinstance(key, EllipticCurvePrivateKey)
        # Its number goes over the end of a line of PEM; 20 of its bytes are on the second.
        return [text.splitlines()[2], key.private_numbers().private_value.to_bytes(32, "big")]
    return [text]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextlib.contextmanager
def listening(wire: Wire) -> Iterator[Wire]:
    """The cable, as long as the block lasts."""
    with socket.create_server(("127.0.0.1", wire.port)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    threading.Thread(target=wire.serve, args=(client,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield wire
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
