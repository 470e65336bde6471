"""The operator's side of `/v1/operators/…`: thin calls over HTTP with the operator's secret."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carepos import strict_json
from carepos.client import Transport
from carepos.errors import CareposError, Malformed, NotDecided, Unreachable
from carepos.ids import digest_text
from carepos_ledger.settings import FILE, Settings

SECRET_FILE = "operator.secret"
ANSWER_TIMEOUT_S = 30.0


class CommandStopped(CareposError):
    """A command that can't go on; the message says what happened and what to do."""


class OfficeUnreachable(CareposError):
    """There is no ledger to talk to, or no secret to show it; the message says what to do."""


class OperatorClient:
    """One ledger as an operator sees it. Every call may be repeated. repr() shows no secret."""

    def __init__(self, transport: Transport, secret: str) -> None:
        self._transport = transport
        self._headers = {"Authorization": f"Bearer {secret}"}

    @classmethod
    def of_folder(cls, folder: Path, url: str | None) -> OperatorClient:
        """The secret in `folder`, and the address given or the one in its ledger.toml.

        Raises OfficeUnreachable.
        """
        try:
            secret = digest_text((folder / SECRET_FILE).read_text("ascii").strip(), SECRET_FILE)
        except FileNotFoundError:
            raise OfficeUnreachable(
                f"There is no {SECRET_FILE} in {folder}: name the operator's folder with --folder"
            ) from None
        except (Malformed, UnicodeDecodeError):
            raise OfficeUnreachable(
                f"{folder / SECRET_FILE} holds no operator's secret: "
                "make one with `carepos ledger operator`"
            ) from None
        return cls(Transport(url or own_url(folder), answer_timeout_s=ANSWER_TIMEOUT_S), secret)

    def close(self) -> None:
        self._transport.close()

    def get(self, path: str) -> dict[str, Any]:
        return self._call("GET", path, None)

    def pages(self, path: str, name: str, *, number: str, after: int = 0) -> list[dict[str, Any]]:
        """All that is listed under `name` at `path`, page by page; `number` names the member by
        which it goes on, from `after`. Raises also Malformed."""
        found: list[dict[str, Any]] = []
        while page := strict_json.array(self.get(f"{path}?after={after}").get(name), name):
            found += page
            after = strict_json.integer(page[-1][number], number, low=after + 1)
        return found

    def put(self, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        return self._call("PUT", path, body)

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        return self._call("POST", path, body)

    def delete(self, path: str) -> dict[str, Any]:
        return self._call("DELETE", path, None)

    def _call(self, method: str, path: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        """Raises NotDecided for a problem document, OfficeUnreachable for anything else."""
        try:
            answer, _ = self._transport.json(
                method,
                f"/v1/operators{path}",
                body=body,
                headers=self._headers,
                expected=(200, 201),
            )
        except NotDecided as error:
            if error.code == "unauthorised":
                raise OfficeUnreachable(
                    f"The ledger at {self._transport.url} does not know this operator's secret: "
                    "name the right folder with --folder"
                ) from None
            raise
        except Unreachable as error:
            raise OfficeUnreachable(
                f"The ledger at {self._transport.url} gave no answer ({error}): "
                "start it with `carepos ledger serve`, or name its address with --url"
            ) from None
        return answer

    def __repr__(self) -> str:
        return f"OperatorClient({self._transport.url})"


def own_url(folder: Path) -> str:
    """The address in the folder's ledger.toml. Raises OfficeUnreachable."""
    try:
        settings = Settings.load(folder)
    except FileNotFoundError:
        raise OfficeUnreachable(
            f"There is no {FILE} in {folder}: name the ledger's address with --url"
        ) from None
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
