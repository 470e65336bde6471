"""A provider and an issuer beside it, each behind a real server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from waitress.server import create_server

from carepos.issuer_folder import IssuerFolder, IssuerSigner
from sample_issuer import __main__ as command
from sample_issuer import app, example_app
from sample_issuer.fake_provider import FakeProvider
from tests.world import end

ISS, AUDIENCE = "https://id.example", "urn:carepos:redeem"
SUB = "Tn3kQ0o9qkqvT9k1W0YV9w"
Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


@dataclass
class Clock:
    """Both services' time, moved by hand."""

    at: datetime = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def seconds(self) -> float:
        return self.at.timestamp()

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass
class Late:
    """A WSGI application that is known only once its server's address is."""

    wsgi: Wsgi | None = field(default=None)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        assert self.wsgi is not None
        return self.wsgi(environ, start_response)


@contextmanager
def served(wsgi: Any, **options: Any) -> Iterator[str]:
    """The address of a real server with this application."""
    server = create_server(wsgi, host="127.0.0.1", port=0, threads=4, **options)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        end(server)
        thread.join(timeout=5)


@dataclass
class Rig:
    """What a test has: both addresses, the clock, the provider to be made to lie."""

    folder: Path
    url: str
    provider: FakeProvider
    clock: Clock

    def issuer(self) -> IssuerFolder:
        return IssuerFolder.load(self.folder)

    def nonce(self) -> str:
        return str(requests.post(f"{self.url}/v1/nonces", timeout=10).json()["nonce"])

    def bring(self, id_token: str, nonce: str, use: str = "redeem") -> tuple[int, dict[str, Any]]:
        """(status, document) of an app's call."""
        answer = requests.post(
            f"{self.url}/v1/care-codes",
            json={"nonce": nonce, "use": use},
            headers={"Authorization": f"Bearer {id_token}"},
            timeout=30,
        )
        return answer.status_code, answer.json()

    def refused(self, id_token: str, nonce: str) -> tuple[int, str, str | None]:
        """(status, code, claim); the answer says it in two languages and repeats nothing."""
        status, document = self.bring(id_token, nonce)
        assert document["en"] and document["zh"] and "canary" not in str(document)
        assert not id_token or id_token not in str(document)
        return status, document["code"], document["claim"]

    def code(self, account: str = "amy", use: str = "redeem") -> str:
        found = example_app.care_code(self.url, self.provider.issuer, account, use)
        return str(found["code"])


@contextmanager
def rig(folder: Path, own_pages: str = "") -> Iterator[Rig]:
    """An issuer that knows amy (line 2) and ben (line 3), and nobody else."""
    clock, provider_app, issuer_app = Clock(), Late(), Late()
    with ExitStack() as opened:
        provider_url = opened.enter_context(served(provider_app))
        issuer_url = opened.enter_context(served(issuer_app))
        signer = IssuerSigner.generate("RS256", "p1")
        provider = FakeProvider(provider_url, signer=signer, now=clock)
        provider_app.wsgi = provider.app()
        office = folder / "office"
        IssuerFolder.create(office, iss=ISS, audience=AUDIENCE)
        make = (
            f"init --folder {office} --provider {provider_url} --client-id care --url {issuer_url}"
        )
        assert command.main([*make.split(), "--own-pages", own_pages]) == 0
        people, enrolment = folder / "people.csv", folder / "enrolment.csv"
        people.write_text("provider_sub,line\namy,2\nben,3\n")
        enrolment.write_text(f"line,iss,sub\n2,{ISS},{SUB}\n3,{ISS},pPz4ZkzqQmWl7o2eS0c1xA\n")
        link = f"link --folder {office} --people {people} --enrolment {enrolment}"
        assert command.main(link.split()) == 0
        issuer_app.wsgi = app.create_app(office, now=clock, seconds=clock.seconds)
        yield Rig(office, issuer_url, provider, clock)
