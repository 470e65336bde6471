"""The sample shop's side of the plugin: a register calls it, as an integrator would write it.

Three calls are all there is to it: an offer for a scanned code and a basket, the redemption the
beneficiary agreed to, and, when no answer came, asking again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests

from carepos.errors import CareposError

TIMEOUT_S = 30


class Declined(CareposError):
    """The plugin answered with a problem document: nothing was redeemed."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.code = str(document.get("code", "unknown_problem"))
        self.document = document
        super().__init__(f"{self.code}: {document.get('detail', '')}")


class PluginGone(CareposError):
    """The plugin does not answer: it is not running, or it was stopped in the middle of this.

    A sale in the middle is unknown: ask `checkout` once the plugin runs again.
    """


@dataclass(frozen=True, slots=True)
class Answer:
    """What the plugin said about a sale; goods leave only when `goods_may_leave`."""

    document: dict[str, Any]

    @property
    def state(self) -> str:
        return str(self.document["state"])

    @property
    def confirmed(self) -> bool:
        return self.state == "confirmed"

    @property
    def goods_may_leave(self) -> bool:
        """Confirmed, or accepted without the ledger's word as the programme allows."""
        return self.document["goods_may_leave"] is True

    @property
    def amount_minor(self) -> int:
        return int(self.document["amount_minor"])

    @property
    def receipt_no(self) -> str | None:
        """None for a sale that the till refused before it was given a number."""
        number = self.document["receipt_no"]
        return None if number is None else str(number)


class Plugin:
    """The register's side of the plugin's local JSON API."""

    def __init__(self, url: str, pairing_secret: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["X-CarePOS-Pairing"] = pairing_secret

    def offer(
        self, checkout: str, code: str, basket: dict[str, Any], programme: str | None = None
    ) -> dict[str, Any]:
        """What the vouchers behind `code` would pay of the basket. Takes nothing."""
        body = {"checkout": checkout, "code": code, **basket}
        if programme is not None:
            body["programme"] = programme
        return self._call("POST", "/api/offers", body)

    def redeem(self, offer: dict[str, Any], checkout: str, cashier: str) -> Answer:
        """Redeem what was shown and agreed to; harmless to repeat."""
        body = {"offer": offer["offer"], "checkout": checkout, "cashier": cashier}
        return Answer(self._call("POST", "/api/redemptions", body))

    def retry(self, checkout: str) -> Answer:
        return Answer(self._call("POST", f"/api/checkouts/{checkout}/retry", {}))

    def goods(self, checkout: str, *, handed_over: bool) -> Answer:
        body = {"handed_over": handed_over}
        return Answer(self._call("POST", f"/api/checkouts/{checkout}/goods", body))

    def checkout(self, checkout: str) -> Answer:
        return Answer(self._call("GET", f"/api/checkouts/{checkout}"))

    def void(self, sale: Answer, cashier: str, reason: str) -> dict[str, Any]:
        """Take a whole sale back, soon after it; nothing is given back before `taken_back`."""
        checkout = sale.document["checkout"]
        body = {"receipt_no": sale.receipt_no, "cashier": cashier, "reason": reason}
        return self._call("POST", f"/api/checkouts/{checkout}/void", body)

    def refund(
        self, number: str, receipt: str, lines: dict[int, int], cashier: str, reason: str
    ) -> dict[str, Any]:
        """Give so much of these lines back to the vouchers; harmless to repeat by `number`."""
        body = {
            "refund": number,
            "receipt": receipt,
            "lines": [{"line": line, "quantity": lines[line]} for line in sorted(lines)],
            "cashier": cashier,
            "reason": reason,
        }
        return self._call("POST", "/api/refunds", body)

    def status(self) -> dict[str, Any]:
        return self._call("GET", "/api/status")

    def settle(self) -> dict[str, Any]:
        return self._call("POST", "/api/settle", {})

    def close_day(self) -> dict[str, Any]:
        return self._call("POST", "/api/day-close", {})

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            # The pairing secret is for this address only, so no redirect is followed.
            answer = self._session.request(
                method, self._url + path, json=body, timeout=TIMEOUT_S, allow_redirects=False
            )
            document = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise PluginGone(f"the plugin does not answer ({type(error).__name__})") from None
        if not isinstance(document, dict):
            raise PluginGone("what answers is not the plugin")
        if answer.status_code >= 400:
            raise Declined(document)
        return document
