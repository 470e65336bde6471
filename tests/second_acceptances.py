"""Sales that went out of the door, as they come up: docs/offline.md section 8, written again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.second_attempts import Attempt, Item, holder_of
from tests.second_offline import Acceptance, Held, at, fits, opened
from tests.second_problems import Problem
from tests.second_rules import MANY, Refused, Situation, check
from tests.second_signing import Json, digest, utc
from tests.second_tokens import Shown

if TYPE_CHECKING:
    from tests.second_ledger import SecondLedger


def went_out(
    ledger: SecondLedger, item: Item, attempt: Attempt, behind: Item | Problem | None
) -> str:
    """A sale with evidence, and its acceptance, which must be behind it: one answer to both."""
    if (
        not isinstance(behind, Item)
        or behind.record["kind"] != "accept_offline"
        or (behind.terminal, behind.record["id"]) != (item.terminal, item.record["id"])
    ):
        raise Problem("acceptance_missing")
    try:
        result = _judge_offline(ledger, item.record, item, behind, attempt)
    except Held as held:
        ledger.hold(behind, held.reason)
        return ledger.hold(item, held.reason)
    ledger.begin(item, attempt, result.pop("state"), result)
    attempt.accepted = behind.digest
    outcome = ledger.keep(item, attempt, result)
    ledger.keep(behind, attempt, result)
    return outcome


def accept_alone(ledger: SecondLedger, item: Item, attempt: Attempt) -> Json:
    """An acceptance whose sale was decided before it."""
    content = item.record["content"]
    if not attempt.sale and attempt.state != "reversed":
        raise Problem("acceptance_missing")
    if attempt.record_sha256 != content["record_sha256"] or attempt.accepted:
        raise Refused("id_content_mismatch")
    if item.terminal.status == "suspended":
        raise Held("terminal_suspended")
    attempt.accepted = item.digest
    if attempt.state == "reversed":
        return _exception(content["liability"], "already_undone")
    if attempt.state == "posted":
        return {**attempt.payload, **ledger.as_they_stand(item, attempt.payload)}
    result = _judge_offline(ledger, attempt.sale, item, item, attempt)
    attempt.state, attempt.payload = result.pop("state"), result
    attempt.recorded_at = utc(ledger.now())
    return result


def _exception(liability: str, code: str, at: int | str | None = None) -> Json:
    refusal = {"code": code, "at": at}
    return {"result": "exception", "refusal": refusal, "liability": liability}


def _judge_offline(
    ledger: SecondLedger, sale: Json, sent: Item, behind: Item, attempt: Attempt
) -> Json:
    """By the time of the sale; `sent` brought its evidence, `behind` is its acceptance."""
    said, content = behind.record["content"], sale["content"]
    told, proof = opened(sent, ledger.allotting.evidence.private_bytes_raw())
    if digest(told.encode()) != content["token_sha256"]:
        raise Problem("malformed", field="evidence")
    if sent.terminal.status == "suspended":
        raise Held("terminal_suspended")
    programme = ledger.programmes.get(content["programme"])
    if programme is None or programme["currency"] != content["currency"]:
        raise Held("malformed")
    if said["record_sha256"] != (attempt.record_sha256 or sent.digest) or not fits(sale, said):
        raise Held("malformed")
    try:
        shown = ledger.identity.admit_late(told, programme, at(sale), proof)
    except Refused as refused:
        raise Held("token") from refused
    holder = holder_of(shown)
    if ledger.reference(sent.terminal.merchant, holder) != content["beneficiary"]:
        raise Held("malformed")
    rule, pack = programme.get("offline"), ledger.said.get(said["pack_sha256"])
    it = Acceptance(sale, said, rule or {}, pack)
    try:
        if rule is None or shown.actor is not None:
            raise Refused("offline_not_allowed")
        _as_the_pack_said(ledger, it, shown, programme)
        payload = ledger.offline.book_it(attempt, it)
    except Refused as refused:
        code, place = refused.refusal.code, refused.refusal.at
        return {**_exception(said["liability"], code, place), "state": "refused"}
    ledger.note_home(holder, programme, sent.terminal.store)
    if payload.get("liability") == "programme":
        attempt.loss_minor = payload["shortfall_minor"]
    paid = payload["amount_minor"] + attempt.loss_minor
    ledger.enter(sent, sale, content["programme"], paid)
    return {**payload, "state": "posted"}


def _as_the_pack_said(ledger: SecondLedger, it: Acceptance, shown: Shown, programme: Json) -> None:
    """The rules of the pack and what was known then; Refused: an exception."""
    if {(shown.iss, shown.kid), (shown.iss, shown.jti_sha256)} & (
        it.pack.withdrawn if it.pack else set()
    ):
        raise Refused("token_revoked")
    holder, content = holder_of(shown), it.sale["content"]
    told = it.pack.programmes[content["programme"]] if it.pack else programme
    mine = [name for name, each in ledger.holders.items() if each == holder]
    vouchers = {}
    for name in mine:
        voucher = {**ledger.book.told(name), "available_minor": MANY, "available_quantity": MANY}
        known = it.pack.vouchers.get(name, voucher) if it.pack else voucher
        dates = {each: known[each] for each in ("frozen", "starts_at", "expires_at")}
        vouchers[name] = {**voucher, **dates}
    now = Situation(
        at=it.sale["occurred_at"],
        store=ledger.terminals[it.sale["terminal"]].store,
        programme={**told, "stores": sorted(ledger.admitted[content["programme"]])},
        products=ledger.products[programme["product_list"]]["entries"],
        vouchers=vouchers,
    )
    refusal = check(now, content["basket"], content["allocation"])
    if refusal is not None:
        raise Refused(refusal.code, refusal.at)
