"""A throw-away PostgreSQL server in a process of its own; standard library only.

    python postgres_server.py INSTALLATION

INSTALLATION is a folder with `bin/initdb` and `bin/postgres`. One line of JSON goes to standard
output: `{"port": int, "password": str, "uid": int}` once the server takes connections, or
`{"error": str}`. The server lives until standard input closes, so it ends with whoever started it,
however that one ended; then its folder is removed.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_SUPERUSER = "carepos"
_START_ATTEMPTS = 5

# Small, but as durable as in production: what COMMIT promised is part of what the tests prove.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # containers have a small /dev/shm
    "huge_pages": "off",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "jit": "off",
    "log_checkpoints": "off",
    "log_min_messages": "log",  # the readiness line, but not the errors that tests provoke
    "lc_messages": "C",
    "timezone": "UTC",
}


class Failed(Exception):
    """PostgreSQL did not start; the text says why."""


def _unprivileged_uid_gid() -> tuple[int, int] | None:
    """Who PostgreSQL runs as: None for ourselves, since only root is refused by it."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return user.pw_uid, user.pw_gid
    raise Failed("there is no user 'nobody' to run PostgreSQL as")


def _reachable_by_all(folder: Path) -> bool:
    resolved = folder.resolve()
    return all(part.stat().st_mode & 0o001 for part in (resolved, *resolved.parents))


@contextmanager
def _private_folder(owner: tuple[int, int] | None) -> Iterator[Path]:
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    if owner is not None:
        candidates = [folder for folder in candidates if _reachable_by_all(folder)]
        if not candidates:
            raise Failed("no temporary folder can be reached by an unprivileged user")
    folder = Path(tempfile.mkdtemp(prefix="carepos-postgres-", dir=candidates[0]))
    try:
        if owner is not None:
            os.chown(folder, *owner)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Runner:
    """Starts programs of one installation as the unprivileged owner of `folder`."""

    def __init__(self, installation: Path, folder: Path, owner: tuple[int, int] | None) -> None:
        self._folder = folder
        self._owner = owner
        self._programs = installation / "bin"
        if owner is not None:
            # The installation may lie under a home that only root can enter. The libraries a wheel
            # brings lie beside its package and are found by their place relative to the programs.
            package = installation.parent
            copy = folder / "site-packages"
            shutil.copytree(
                installation,
                copy / package.name / installation.name,
                ignore=shutil.ignore_patterns("include", "*.a", "pkgconfig"),
            )
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, copy / libraries.name)
            self._programs = copy / package.name / installation.name / "bin"

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        uid, gid = self._owner or (None, None)
        return subprocess.Popen(
            [str(self._programs / program), *arguments],
            cwd=self._folder,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            user=uid,
            group=gid,
            extra_groups=None if self._owner is None else [],
        )


def _make_cluster(runner: _Runner, folder: Path, owner: tuple[int, int] | None) -> str:
    password = secrets.token_urlsafe(24)
    password_file = folder / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if owner is not None:
        os.chown(password_file, *owner)
    initdb = runner.start(
        "initdb",
        f"--pgdata={folder / 'data'}",
        f"--username={_SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",  # nothing of worth is in it yet
    )
    _, complaint = initdb.communicate()
    password_file.unlink()
    if initdb.returncode != 0:
        raise Failed(f"initdb: {complaint.strip()}")
    return password


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def _drain(stream: IO[str]) -> None:
    for _ in stream:
        pass


def _start_postgres(runner: _Runner, folder: Path) -> tuple[subprocess.Popen[str], int]:
    complaints = ""
    for _ in range(_START_ATTEMPTS):  # another process may take the port in between
        port = _free_port()
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        server = runner.start("postgres", f"-D{folder / 'data'}", f"-p{port}", *settings)
        assert server.stderr is not None
        complaints = ""
        for line in server.stderr:
            complaints += line
            if "ready to accept connections" in line:
                threading.Thread(target=_drain, args=(server.stderr,), daemon=True).start()
                return server, port
        server.wait()
    raise Failed(f"postgres: {complaints.strip()}")


def _say(**answer: object) -> None:
    print(json.dumps(answer), flush=True)


def main(installation: Path) -> int:
    try:
        owner = _unprivileged_uid_gid()
        with _private_folder(owner) as folder:
            runner = _Runner(installation, folder, owner)
            password = _make_cluster(runner, folder, owner)
            server, port = _start_postgres(runner, folder)
            try:
                uid = os.geteuid() if owner is None else owner[0]
                _say(port=port, password=password, user=_SUPERUSER, uid=uid, pid=server.pid)
                sys.stdin.read()
            finally:
                server.send_signal(signal.SIGINT)  # fast shutdown: open sessions are cut
                server.wait()
    except (Failed, OSError, subprocess.SubprocessError) as failure:
        _say(error=str(failure))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
