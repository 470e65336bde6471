"""A caller of the running plugin, as `carepos till …` uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from carepos import CareposError, Malformed, durable, strict_json
from carepos_plugin import pairing
from carepos_plugin.settings import Settings

ANSWER_TIMEOUT_S = 120
"""Settling asks the ledger about every open sale; each may wait its time."""


class PluginProblem(CareposError):
    """The plugin answered with a problem: `document` is that of RFC 9457."""

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(" ".join(str(document.get(name, "")) for name in ("en", "zh")).strip())
        self.document = document
        self.code = str(document.get("code", ""))


class PluginAbsent(CareposError):
    """Nothing that is our plugin answers."""


def is_running(folder: Path) -> bool:
    """Whether some process has the till of this folder open.

    Told by the journal's lock and not by the port: another program may listen there, and would be
    handed the pairing secret.
    """
    if not (folder / "journal.db").exists():
        return False
    try:
        durable.lock(folder / "journal.db.lock").close()
    except BlockingIOError:
        return True
    return False


class PluginClient:
    """Calls to the plugin that serves `folder`. Raises PluginProblem, PluginAbsent."""

    def __init__(self, folder: Path) -> None:
        settings = Settings.load(folder)
        self._url = settings.url
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers[pairing.HEADER] = pairing.read(folder)

    def get(self, target: str) -> dict[str, Any]:
        return self._call("GET", target, None)

    def post(self, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._call("POST", target, body or {})

    def _call(self, method: str, target: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            answer = self._session.request(
                method,
                self._url + target,
                json=body,
                timeout=(3, ANSWER_TIMEOUT_S),
                allow_redirects=False,
            )
            document = strict_json.read_object(answer.content)
        except (requests.RequestException, Malformed):
            raise PluginAbsent(
                f"this till is open in another program, but no plugin answers at {self._url}: "
                "stop that program, or see whether host and port in plugin.toml were changed "
                "since the plugin was started"
            ) from None
        if not answer.ok:
            raise PluginProblem(document)
        return document
