"""Processes that say all they can, so that a test may look through it: logging at DEBUG.

    python -X dev -m tests.canary_process SOCKET_FD

It has everything imported and forks one process for each wish that comes over the socket: a JSON
list with, as file descriptors, what that process is to have as stdin and as stdout and stderr.

    ["ledger", FOLDER, PLUG]   ["plugin", FOLDER, PLUG]   ["counter", FOLDER]
    ["carepos", WORD, …]   ["sample_issuer", WORD, …]   ["provider", PORT]
    ["rotation", FOLDER, PLUG]

`counter` is a till without a plugin, driven by one JSON object a line. It shows what a careless
integrator would: `repr()` of whatever comes back, and of errors the whole chain. The plugin's
monotonic clock is ahead by what stands in the file `ahead`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import waitress

from carepos import Line, Till, commands
from carepos_ledger import app as ledger
from carepos_ledger import commands as ledger_commands
from carepos_ledger import founding
from carepos_ledger.keyring import Keyring
from carepos_ledger.settings import Settings
from carepos_plugin import app as plugin
from carepos_plugin import commands as plugin_commands
from sample_issuer import __main__ as sample_issuer
from sample_issuer.fake_provider import FakeProvider
from sample_merchant.demo.plug import Plug

LOADED = (ledger_commands, founding, plugin_commands)
ACCOUNT = {
    "name": "账户金丝雀韦",
    "email": "canary.wei@county.example",
    "preferred_username": "canary-wei-1988",
    "phone_number": "+8613999066110",
}
"""What a provider says of whoever signs in, whether it was asked for or not."""
UNCHECKED = "by-habit"
"""How an account ends whose sign-in says nothing of how the person was checked."""


def counter(folder: Path) -> None:
    with Till.open(folder) as till:
        print("ready", flush=True)
        for text in sys.stdin:
            _show(till, json.loads(text))
            print("done", flush=True)


def _show(till: Till, wish: dict[str, Any]) -> None:
    try:
        holder = till.scan(wish["code"], pin=wish.get("pin"))
        print(repr(holder), repr(holder.identity), str(holder))
        if "checkout" in wish:
            line = Line(wish["key"], 1, "piece", 1_000, "milk")
            offer = till.propose(holder, [line])
            print(repr(offer), repr(offer.proposal))
            sale = till.redeem(offer, checkout=wish["checkout"], cashier="c02")
            print(repr(sale), repr(till.journal.of_checkout(sale.checkout)))
    except Exception as error:
        logging.getLogger("shop").exception("as somebody's log would have it")
        traceback.print_exception(error)
        seen: BaseException | None = error
        while seen is not None:
            # All of the chain, also what `from None` hides from a traceback.
            print(repr(seen), str(seen), getattr(seen, "__notes__", None), flush=True)
            seen = seen.__cause__ or seen.__context__


class TalkativeProvider(FakeProvider):
    def claims(self, sub: str, nonce: str) -> dict[str, Any]:
        made = {**super().claims(sub, nonce), **ACCOUNT}
        if sub.endswith(UNCHECKED):
            del made["amr"]
        return made


def _ahead(file: Path) -> float:
    return time.monotonic() + (float(file.read_text()) if file.exists() else 0.0)


def run(what: str, *words: str) -> None:
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("sqlalchemy").setLevel(logging.DEBUG)  # it keeps a level of its own
    if what == "carepos":
        sys.exit(commands.main(words))
    if what == "sample_issuer":
        sys.exit(sample_issuer.main(words))
    if what == "counter":
        counter(Path(words[0]))
    elif what == "provider":
        made = TalkativeProvider(f"http://127.0.0.1:{words[0]}")
        waitress.serve(made.app(), host="127.0.0.1", port=int(words[0]))
    elif what == "rotation":
        Keyring.rotate(Path(words[0]), reached=Plug(Path(words[1])).reached)
    elif what == "ledger":
        ledger.serve(Settings.load(Path(words[0])), reached=Plug(Path(words[1])).reached)
    else:
        plugin.build = partial(plugin.build, monotonic=partial(_ahead, Path("ahead")))
        plugin.serve(Path(words[0]), reached=Plug(Path(words[1])).reached)


def _become(wish: list[str], files: list[int]) -> None:
    """What follows in a forked process: it has its own words, folder and files."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(files[0], 0)
    for number in (1, 2):
        os.dup2(files[1], number)
    # Anew: the parent's were made for other files.
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
    os.chdir(wish[0])
    os.environ["TMPDIR"] = f"{wish[0]}/tmp"
    code = 0
    try:
        run(*wish[1:])
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:  # noqa: BLE001  as the interpreter would end
        traceback.print_exc()
        code = 1
    finally:
        print(f"\nexit {code}", flush=True)
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    wishes = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, files, _, _ = socket.recv_fds(wishes, 65_536, 2)
        if not data:
            return
        child = os.fork()
        if child == 0:
            wishes.close()
            _become(json.loads(data), files)
        for each in files:
            os.close(each)
        wishes.sendall(child.to_bytes(8, "big"))


if __name__ == "__main__":
    main()
