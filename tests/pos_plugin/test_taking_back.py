"""A sale is taken back at the register: over the plugin's API and by the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from carepos import Line, commands, receipt
from carepos_plugin import guard, returns_routes, sentences
from carepos_plugin.settings import Settings
from tests.pos_plugin.rig import Answer, Rig, listening, milk, rig, soap
from tests.stories.offline_shop import OFFLINE
from tests.world import MILK, PROGRAMME

REFUNDS = {"window_s": 14 * 86_400, "grace_s": 0}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        made.world.ledger.programmes.put_programme({**PROGRAMME, "refunds": REFUNDS})
        yield made


def sold(shop: Rig, checkout: str = "S1", *lines: Answer) -> Answer:
    family = shop.world.family()
    basket = lines or ({**milk(6_000), "quantity": 3}, soap())
    sale = shop.redeem(checkout, shop.offer(checkout, family.token(), *basket))
    assert sale["state"] == "confirmed"
    return sale


def void_body(sale: Answer, **more: Any) -> Answer:
    return {"receipt_no": sale["receipt_no"], "cashier": "c01", "reason": "wrong_goods", **more}


def refund_body(sale: Answer, *lines: tuple[int, int], **more: Any) -> Answer:
    returned = [{"line": line, "quantity": quantity} for line, quantity in lines]
    return {
        "refund": "R1", "receipt": sale["receipt_no"], "lines": returned, "cashier": "c01",
        "reason": "returned", **more,
    }  # fmt: skip


def assert_repeated(done: Answer, again: Answer) -> None:
    """The same, which says that it was done before, and when."""
    assert not done["repeated"] and again["repeated"]
    assert "done before, at 2026-11-22 16:" in again["next"]["en"]
    assert "此前已办理：2026-11-22 16:" in again["next"]["zh"]
    assert {**again, "next": None, "repeated": None} == {**done, "next": None, "repeated": None}


def test_a_void_is_told_and_printed(shop: Rig) -> None:
    """Taken back, its slip on paper, the checkout free again; repeated it does nothing."""
    sale = sold(shop)
    assert sale["void_until"] == "2026-11-22T09:00:00.000Z"
    body = void_body(sale, approved_by="boss-1")
    done = shop.post("/api/checkouts/S1/void", body)
    assert (done["state"], done["taken_back"], done["checkout"]) == ("posted", True, "S1")
    assert "已撤销" in done["receipt_text"] and "boss-1" in done["receipt_text"]
    assert_repeated(done, shop.post("/api/checkouts/S1/void", body))
    now = shop.get("/api/checkouts/S1")
    assert (now["state"], now["goods_may_leave"], now["void_until"]) == ("voided", False, None)
    read = shop.get(f"/api/receipts/{sale['receipt_no']}")
    assert read["receipt"]["kind"] == "VOIDED" and "副本" in read["text"]
    assert [(s["copy_no"], s["state"]) for s in read["slips"]] == [(0, "failed"), (1, "queued")]
    shop.plugin.print_queue.print_waiting()
    kinds = [job.slip["kind"] for job in shop.till.journal.print_jobs() if job.state == "failed"]
    assert kinds == ["REDEEMED", "VOIDED"]  # the rig has no printer; REDEEMED was not even tried
    assert sold(shop, "S1")["state"] == "confirmed"
    assert_repeated(done, shop.post("/api/checkouts/S1/void", body))


def test_a_refund_is_picked_by_line(shop: Rig) -> None:
    """What is left of each line is told; a return's number is one return."""
    sale = sold(shop)
    found = shop.post("/api/returns", {"receipt": f" {sale['receipt_no']} "})
    assert [(x["line"], x["left"], x["description"]) for x in found["lines"]] == [
        (1, 3, "纯牛奶 250ml*24"), (2, 0, "肥皂"),  # no voucher paid for it
    ]  # fmt: skip
    done = shop.post("/api/refunds", refund_body(sale, (1, 2), approved_by="c02"))
    assert (done["state"], done["amount_minor"], done["checkout"]) == ("posted", 4_000, "S1")
    assert "退货" in done["receipt_text"] and sale["receipt_no"] in done["receipt_text"]
    assert_repeated(done, shop.post("/api/refunds", refund_body(sale, (1, 2))))
    assert shop.get(f"/api/corrections/{done['receipt_no']}") == done
    found = shop.post("/api/returns", {"receipt": sale["receipt_no"]})
    assert [(x["returned"], x["left"]) for x in found["lines"]] == [(2, 1), (0, 0)]
    assert found["void_until"] is None
    slip = receipt.from_json_object(shop.get(f"/api/receipts/{done['receipt_no']}")["receipt"])
    assert (slip.kind, slip.is_copy, slip.approved_by) == ("REFUND", True, "c02")
    closed = shop.post("/api/day-close", {})
    assert [(u["count"], u["amount_minor"]) for u in closed["undone"]] == [(1, 4_000)]
    assert shop.post("/api/day-close", {}) == closed


def test_what_can_not_be_taken_back_says_why(shop: Rig) -> None:
    """A problem with its code in both languages, and nothing is written."""
    sale = sold(shop)
    written = shop.written()
    for path, body, wanted in (
        ("/api/refunds", refund_body(sale, (1, 4)), (409, "refund_exceeds")),
        ("/api/refunds", refund_body(sale, (2, 1)), (409, "refund_exceeds")),  # nothing was covered
        ("/api/refunds", refund_body(sale), (400, "malformed")),
        ("/api/refunds", refund_body(sale, (1, 1), reason="x"), (400, "malformed")),
        ("/api/refunds", refund_body(sale, (1, 1), cashier="Li Si"), (400, "malformed")),
        ("/api/refunds", refund_body(sale, (1, 1), approved_by=""), (400, "malformed")),
        ("/api/refunds", refund_body(sale, (1, 1), refund=None), (400, "malformed")),
        ("/api/refunds", {"refund": "R1"}, (400, "malformed")),
        ("/api/returns", {"receipt": "0001-000001-0"}, (400, "malformed")),
        ("/api/returns", {"receipt": None}, (400, "malformed")),
        ("/api/checkouts/S9/void", void_body(sale), (404, "checkout_unknown")),
        ("/api/checkouts/S1/void", void_body(sale, receipt_no="1"), (400, "malformed")),
        ("/api/checkouts/S1/void", void_body(sale, reason="returned"), (400, "malformed")),
    ):
        assert shop.refused("POST", path, body) == wanted, body
    assert shop.refused("GET", f"/api/corrections/{sale['receipt_no']}") == (404, "undo_unknown")
    assert shop.written() == written
    shop.post("/api/refunds", refund_body(sale, (1, 1)))
    again = refund_body(sale, (1, 2))
    assert shop.refused("POST", "/api/refunds", again) == (400, "malformed")
    assert said_no(shop, "/api/checkouts/S1/void", void_body(sale)) == (
        "already_undone", "A part of this sale was refunded already: refund the rest.",
    )  # fmt: skip


def said_no(shop: Rig, path: str, body: Answer) -> tuple[str, str]:
    problem = shop.call("POST", path, body).json()
    assert problem["zh"]
    return problem["code"], problem["en"]


def test_why_a_line_does_not_come_back(shop: Rig) -> None:
    """A line that is not there, one that no voucher paid for, and one that came back before are
    told apart."""
    sale = sold(shop)

    def no(refund: str, *lines: tuple[int, int]) -> str:
        code, told = said_no(shop, "/api/refunds", refund_body(sale, *lines, refund=refund))
        assert code == "refund_exceeds"
        return told

    assert no("R1", (3, 1)).startswith("The sale has no line of this number.")
    assert no("R1", (2, 1)).startswith("No voucher paid for this")
    assert no("R1", (2, 9)).startswith("No voucher paid for this")
    assert no("R1", (1, 4)).startswith("More than is left of this line")
    shop.post("/api/refunds", refund_body(sale, (1, 2), refund="R2"))
    assert no("R3", (1, 2)).startswith("This came back before")
    shop.post("/api/refunds", refund_body(sale, (1, 1), refund="R4"))
    assert said_no(shop, "/api/checkouts/S1/void", void_body(sale)) == (
        "already_undone", "That sale was taken back already.",
    )  # fmt: skip


def test_what_the_customer_paid_is_given_back_once(shop: Rig) -> None:
    """The repeated call says so, at the API and for people."""
    zone_s = "2026-11-22 16:"
    sale = sold(shop)
    done = shop.till.void("S1", cashier="c01", reason="other")
    told = sentences.next_of_undo(
        replace(done, repeated=True, beneficiary_minor=500), "Asia/Shanghai"
    )
    assert zone_s in told["en"] and "If they have it, give nothing." in told["en"]
    assert "只退一次" in told["zh"] and sale["receipt_no"] == done.sale_receipt_no
    once = sentences.next_of_undo(replace(done, beneficiary_minor=500), "Asia/Shanghai")
    assert once["en"].startswith("Give back what the customer paid themselves")


def test_an_outage_is_not_blamed_on_another_sale(tmp_path: Path) -> None:
    """A void that waits for the ledger alone names no sale: not one that is merely stored, nor one
    that is unknown because nobody answers."""
    with rig(tmp_path) as shop:
        rules = {**PROGRAMME, "refunds": REFUNDS, "offline": OFFLINE}
        shop.world.ledger.programmes.put_programme(rules)
        family = shop.world.family(20_000)
        shop.redeem("S0", shop.offer("S0", family.token(), milk(100)))
        shop.till.refresh_pack()
        sale = sold(shop)
        shop.cut_network()
        offer = shop.till.propose(family.token(), [Line(MILK, 1, "piece", 3_000)])
        assert shop.till.redeem(offer, checkout="S2", cashier="c01").state == "accepted"
        shop.till.answer_goods("S2", handed_over=True)
        begun = shop.post("/api/checkouts/S1/void", void_body(sale))
        assert (begun["state"], begun["waits_for"]) == ("waiting", None)
        assert "has to end first" not in begun["message"]["en"]
        assert "The ledger has not decided it" in begun["next"]["en"]
        (told,) = shop.get("/api/status")["corrections"]
        assert (told["waits_for"], told["message"]) == (None, begun["message"])
    with rig(tmp_path / "other") as shop:
        sale, shown = sold(shop), shop.offer("S2", shop.world.family().token())
        shop.cut_network()
        assert shop.redeem("S2", shown)["state"] == "unknown"
        begun = shop.post("/api/checkouts/S1/void", void_body(sale))
        assert (begun["state"], begun["waits_for"]) == ("waiting", None)


def test_what_waits_is_told_until_it_is_decided(shop: Rig) -> None:
    """Without a network: waiting, no slip, nothing given back; a second one is told to wait; status
    says what happens next; once the network is back it goes through by itself."""
    sale = sold(shop)
    slips = len(shop.till.journal.print_jobs())
    shop.cut_network()
    begun = shop.post("/api/checkouts/S1/void", void_body(sale))
    assert (begun["state"], begun["taken_back"], begun["receipt_text"]) == ("waiting", False, None)
    assert "Give nothing back" in begun["message"]["en"] and begun["problem"]
    refused = shop.refused("POST", "/api/refunds", refund_body(sale, (1, 1)))
    assert refused == (409, "undo_waits")
    assert shop.get("/api/checkouts/S1")["void_until"] is None
    status = shop.get("/api/status")
    assert [c["receipt_no"] for c in status["corrections"]] == [begun["receipt_no"]]
    assert status["open"] == [] and status["not_uploaded"] >= 1
    assert not shop.post("/api/settle", {})["ledger_answered"]
    shop.mend_network()
    settled = shop.post("/api/settle", {})
    assert settled == {"ledger_answered": True, "open": [], "stored": [], "corrections": []}
    assert shop.get(f"/api/corrections/{begun['receipt_no']}")["state"] == "posted"
    assert len(shop.till.journal.print_jobs()) == slips + 1


def test_the_sale_that_must_end_first_is_named(shop: Rig) -> None:
    """In status and in the answer, by its receipt number."""
    sale = sold(shop)
    unknown = shop.sell_unknown("S2", point="written")
    begun = shop.post("/api/checkouts/S1/void", void_body(sale))
    assert (begun["state"], begun["waits_for"]) == ("waiting", unknown["receipt_no"])
    assert unknown["receipt_no"] in shop.get("/api/status")["corrections"][0]["message"]["zh"]
    shop.post("/api/checkouts/S2/cancel", {})
    shop.post("/api/settle", {})
    assert shop.get(f"/api/corrections/{begun['receipt_no']}")["state"] == "posted"


def refused_later(shop: Rig, sale: Answer) -> Answer:
    """A void that waited, and that the ledger refused behind the cashier's back."""
    shop.cut_network()
    begun = shop.post(f"/api/checkouts/{sale['checkout']}/void", void_body(sale))
    assert begun["state"] == "waiting" and begun["seen"]
    shop.mend_network()
    shop.world.now.forward(hours=2)
    shop.post("/api/settle", {})
    return begun


def test_a_refusal_behind_the_cashiers_back_is_told_until_it_is_seen(shop: Rig) -> None:
    """In status, with the reason and how to say that it was seen; looking at it changes nothing;
    the register says so by its number, as often as it likes."""
    begun = refused_later(shop, sold(shop))
    number = begun["receipt_no"]
    for _ in range(2):
        (told,) = shop.get("/api/status")["corrections"]
        assert (told["receipt_no"], told["state"], told["seen"]) == (number, "refused", False)
        assert "Too late to void" in told["message"]["en"] and told["decided_at"]
        assert f"carepos till seen {number}" in told["next"]["en"]
        assert f"carepos till seen {number}" in told["next"]["zh"]
        assert shop.get(f"/api/corrections/{number}")["seen"] is False
    for _ in range(2):
        said = shop.post(f"/api/corrections/{number}/seen", {})
        assert (said["state"], said["seen"]) == ("refused", True)
        assert "carepos till seen" not in said["next"]["en"]
    assert shop.get("/api/status")["corrections"] == []
    path = "/api/corrections/0001-000099-2/seen"
    assert shop.refused("POST", path, {}) == (404, "undo_unknown")


def test_the_repeated_void_tells_what_became_of_it(shop: Rig) -> None:
    """The refusal, under the number that it had; nothing new is written, and it is seen then."""
    sale = sold(shop)
    begun = refused_later(shop, sale)
    written = shop.written()
    told = shop.post("/api/checkouts/S1/void", void_body(sale))
    assert (told["receipt_no"], told["state"]) == (begun["receipt_no"], "refused")
    assert told["refusal"]["code"] == "void_too_late"
    assert shop.written() == written and shop.get("/api/status")["corrections"] == []


def test_what_waits_can_not_be_seen(shop: Rig) -> None:
    """There is nothing to see yet."""
    sale = sold(shop)
    shop.cut_network()
    begun = shop.post("/api/checkouts/S1/void", void_body(sale))
    path = f"/api/corrections/{begun['receipt_no']}/seen"
    assert shop.refused("POST", path, {}) == (409, "undo_waits")


def test_the_page_tells_a_refusal_until_it_is_seen(shop: Rig) -> None:
    """Beside what waits, with a button."""
    begun = refused_later(shop, sold(shop))
    page = paired(shop)
    (told,) = page("state", {}).json()["waiting"]
    assert (told["receipt_no"], told["final"], told["seen"]) == (begun["receipt_no"], True, False)
    assert page("seen", {"receipt_no": begun["receipt_no"]}).json()["seen"]
    assert page("state", {}).json()["waiting"] == []


def test_commands_tell_a_refusal_until_it_is_seen(
    shop: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` names it and the command that says it was seen."""
    begun = refused_later(shop, sold(shop))
    shop.till.close()
    Settings.write_default(shop.till.folder)
    folder = ["--folder", str(shop.till.folder)]

    def run(*words: str) -> tuple[int, str]:
        code = commands.main(["till", words[0], *folder, *words[1:]])
        return code, capsys.readouterr().out

    said = run("status")[1]
    assert begun["receipt_no"] in said and "Too late to void this sale" in said
    assert f"carepos till seen {begun['receipt_no']}" in said and "Nothing is open" not in said
    code, said = run("seen", begun["receipt_no"])
    assert code == 0 and "refused" in said and "carepos till seen" not in said
    assert "Nothing is open" in run("status")[1]


def paired(shop: Rig) -> Callable[..., requests.Response]:
    """The page on which sales are taken back, connected by its one-time link."""
    code = shop.post("/api/returns-page/link", {})["link"].partition("#")[2]

    def call(path: str, body: object, secret: str = "") -> requests.Response:
        header = {returns_routes.HEADER: secret} if secret else {}
        return requests.post(f"{shop.url}/returns/{path}", json=body, headers=header, timeout=30)

    secret = call("pair", {"code": code}).json()["secret"]
    assert call("pair", {"code": code}).status_code == 410
    return lambda path, body: call(path, body, secret)


def test_the_page_takes_back_what_a_register_can_not(shop: Rig) -> None:
    """It lists what can be voided, finds a receipt's lines, and sends what the register would."""
    page = paired(shop)
    first, second = sold(shop, "S1"), sold(shop, "S2")
    state = page("state", {}).json()
    assert [s["receipt_no"] for s in state["voidable"]] == [
        second["receipt_no"], first["receipt_no"],
    ]  # fmt: skip
    assert state["voidable"][0]["goods"] == ["纯牛奶 250ml*24", "肥皂"]
    done = page("void", {"checkout": "S1", **void_body(first)}).json()
    assert (done["state"], done["sale_receipt_no"]) == ("posted", first["receipt_no"])
    assert page("find", {"receipt": second["receipt_no"]}).json()["lines"][0]["left"] == 3
    shop.cut_network()
    begun = page("refund", refund_body(second, (1, 1))).json()
    assert begun["state"] == "waiting"
    state = page("state", {}).json()
    assert state["voidable"] == []
    assert [w["receipt_no"] for w in state["waiting"]] == [begun["receipt_no"]]
    shop.mend_network()
    shop.post("/api/settle", {})
    assert page("refund", refund_body(second, (1, 1))).json()["state"] == "posted"
    ended = page("standing", {"receipt_no": begun["receipt_no"]}).json()
    assert (ended["state"], ended["taken_back"]) == ("posted", True)
    for path, body in (
        ("void", {}),
        ("standing", {}),
        ("void", void_body(first)),
        ("find", {}),
        ("state", {"a": 1}),
    ):
        assert page(path, body).status_code == 400


def test_the_pages_door_is_its_own(shop: Rig) -> None:
    """Without its secret only the page itself is answered, which holds nothing; the register's
    secret does not open it, nor its the register's; it is not there for the devices' network."""
    paired(shop)
    for path in ("", "/page.js", "/page.css"):
        answer = requests.get(f"{shop.url}/returns{path}", timeout=30)
        assert answer.status_code == 200 and "script-src 'self'" in str(answer.headers)
    for path in ("state", "standing", "seen", "find", "void", "refund"):
        assert shop.refused("POST", f"/returns/{path}", {}) == (401, "page_not_paired")
    assert shop.refused("GET", "/returns/state") == (401, "page_not_paired")
    with listening(guard.outside(shop.plugin.wsgi)) as port:
        headers = {"Host": "pad.shop"}
        gone = requests.get(f"http://127.0.0.1:{port}/returns", headers=headers, timeout=30)
        assert gone.json()["code"] in ("not_found", "host_not_allowed")
    shop.post("/api/returns-page/forget", {})
    script = (Path(guard.__file__).parent / "returns.js").read_text("utf-8")
    assert script.count("localStorage.setItem") == 1 and "innerHTML" not in script


def test_commands_take_back_too(shop: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """`carepos till void` and `refund`, beside no plugin; status says what waits."""
    # The commands have the computer's own clock.
    month_s = 30 * 86_400
    rules = {**PROGRAMME, "refunds": REFUNDS, "undo_window_s": month_s}
    shop.world.ledger.programmes.put_programme(rules)
    first, second = sold(shop, "S1"), sold(shop, "S2")
    shop.till.close()
    folder = ["--folder", str(shop.till.folder)]

    def run(*words: str) -> tuple[int, str]:
        code = commands.main(["till", words[0], *folder, *words[1:]])
        return code, capsys.readouterr().out

    Settings.write_default(shop.till.folder)
    code, said = run("refund", first["receipt_no"])
    assert code == 0 and "can come back 可退 3" in said
    assert "can come back 可退 0, no voucher paid for it" in said
    code, said = run("refund", first["receipt_no"], "1:1", "--number", "R1", "--approved-by", "c2")
    assert code == 0 and "20.00 CNY  posted" in said
    code, again = run("refund", first["receipt_no"], "1:1", "--number", "R1")
    assert code == 0 and "done before" in again and "done before" not in said
    assert run("refund", first["receipt_no"], "1-1")[0] == 2
    code, said = run("void", "S2", "--reason", "wrong_holder")
    assert code == 0 and second["receipt_no"] in said and "已退回券中" in said
    assert run("void", "S9")[0] == 1
    assert run("refund", second["receipt_no"], "1:1")[0] == 1  # it is taken back already
    code, said = run("close-day")
    assert "taken back 退回 2 × = 80.00 CNY" in said
    assert run("status")[1].endswith("Nothing is open. 没有未完成的单。\n")
