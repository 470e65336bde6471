"""A service that makes care codes for who signs in elsewhere. Exit codes: 0 done; 2 wrong usage, or
it failed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from waitress.server import create_server

from carepos.errors import CareposError
from carepos.issuer_folder import IssuerFolder
from carepos.keys import write_secret
from sample_issuer import app, links
from sample_issuer.links import Links
from sample_issuer.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sample_issuer", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    init = commands.add_parser("init", help="settings and a key beside carepos token key's folder")
    init.add_argument("--provider", required=True, help="its issuer identifier, https://…")
    init.add_argument("--client-id", required=True, help="as registered with the provider")
    init.add_argument("--url", default="http://127.0.0.1:8480", help="as phones reach this service")
    init.add_argument("--port", type=int, default=8480)
    init.add_argument(
        "--own-pages",
        default="",
        metavar="URL",
        help="the ledger's pages for beneficiaries, https://…/me; without: no button to them",
    )
    init.set_defaults(run=_init)
    link = commands.add_parser("link", help="whose account is which beneficiary")
    link.add_argument("--people", type=Path, required=True, help="provider_sub,line")
    link.add_argument("--enrolment", type=Path, required=True, help="of carepos ledger issue")
    link.set_defaults(run=_link)
    commands.add_parser("serve", help="serve until stopped").set_defaults(run=_serve)
    for each in commands.choices.values():
        each.add_argument("--folder", type=Path, required=True, help="of carepos token key")
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except CareposError as error:
        print(f"sample_issuer: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"sample_issuer: {where}{error.strerror or error}", file=sys.stderr)
    return 2


def _init(args: argparse.Namespace) -> int:
    IssuerFolder.load(args.folder)
    with contextlib.suppress(FileExistsError):  # from a call that did not come to its end
        write_secret(args.folder / links.KEY, os.urandom(32))
    Settings.write(
        args.folder,
        provider=args.provider,
        client_id=args.client_id,
        url=args.url,
        port=args.port,
        own_pages=args.own_pages,
    )
    back = Settings.load(args.folder).redirect_uri
    print(f"Register {back} with the provider; then link, and serve.")
    return 0


def _link(args: argparse.Namespace) -> int:
    issuer = IssuerFolder.load(args.folder)
    held = Links.load(args.folder, Settings.load(args.folder).expected.issuer)
    made = held.joined(args.people, args.enrolment, issuer.iss)
    made.save(args.folder)
    print(f"{len(made.subs)} accounts are known, {len(made.subs) - len(held.subs)} of them new.")
    return 0


def _serve(args: argparse.Namespace) -> int:
    settings = Settings.load(args.folder)
    made = app.create_app(args.folder)
    listening = listen(
        made, host=settings.host, port=settings.port, threads=8, **behind_proxy(settings)
    )
    print(f"The issuer answers at {settings.url} (Ctrl-C stops it).", flush=True)
    listening.run()
    return 0


def listen(wsgi: Any, *, host: str, port: int, threads: int, **more: Any) -> Any:
    """A waitress server that has its port. Raises OSError saying which one it could not have."""
    try:
        return create_server(wsgi, host=host, port=port, threads=threads, **more)
    except OSError as error:
        why = f"port {port} of {host} can't be used ({error.strerror}): is it served already?"
        raise OSError(error.errno, why) from None


def behind_proxy(settings: Settings) -> dict[str, Any]:
    """What waitress is told of the proxy in front: by itself it believes nobody who says who calls,
    and all phones would be one address, that of the proxy."""
    if not settings.proxy:
        return {}
    return {"trusted_proxy": settings.proxy, "trusted_proxy_headers": {"x-forwarded-for"}}


if __name__ == "__main__":
    sys.exit(main())
