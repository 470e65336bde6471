"""What people see of selling without a network: before the outage, during it and afterwards."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import requests

from carepos import Line, clock, ids, ticked_off
from carepos.disk_room import LEAST_BYTES, DiskRoom
from carepos.readiness import Why
from carepos_ledger.offline_exceptions import OfflineExceptions
from carepos_plugin import app, offline_words
from carepos_plugin.settings import Settings
from tests.cards import PIN, RULES, WRONG, print_card
from tests.pos_plugin.rig import Answer, Rig, milk, rig, write_settings
from tests.pos_plugin.test_commands import Run, run
from tests.pos_plugin.test_pin_pad import Pad
from tests.stories.offline_shop import FLOOR, OFFLINE
from tests.world import MILK, PROGRAMME, Family

__all__ = ["run"]  # a fixture


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A shop whose programme redeems without a network; the world's clock is everybody's."""
    with rig(tmp_path, printer="file:receipts") as made:
        allow(made)
        Settings.write_default(made.till.folder)
        write_settings(
            made.till.folder, port=int(made.url.rsplit(":", 1)[1]), printer="file:receipts"
        )
        monkeypatch.setattr(app, "opened", functools.partial(app.opened, now=made.world.now))
        monkeypatch.setattr(clock, "system_clock", made.world.now)
        yield made


def allow(shop: Rig, **rule: Any) -> None:
    rules = {**PROGRAMME, "offline": {**OFFLINE, **rule}}
    shop.world.ledger.programmes.put_programme(rules)
    shop.till.refresh_pack()


def at_home(shop: Rig, amount_minor: int = 12_000) -> Family:
    """A family that shopped here once."""
    family = shop.world.family(amount_minor + 100)
    sell(shop, family, 100)
    return family


def sell(shop: Rig, family: Family, amount_minor: int) -> Answer:
    checkout = f"S{shop.till.journal.sequence}"
    offer = shop.offer(checkout, family.token(), milk(amount_minor))
    assert offer["refusal"] is None, offer
    return shop.redeem(checkout, offer)


def offline(shop: Rig) -> Answer:
    return dict(shop.get("/api/status")["offline"])


def why_not(shop: Rig) -> list[str]:
    told = offline(shop)
    assert told["ready"] is not bool(told["why_not"])
    assert all(each["en"] in told["en"] and each["zh"] in told["zh"] for each in told["why_not"])
    return [each["code"] for each in told["why_not"]]


# ── the ledger, heard or not ───────────────────────────────────────────────────────────────────


def ledger(shop: Rig) -> Answer:
    return dict(shop.get("/api/status")["ledger"])


def test_what_the_pack_answers_is_no_word_of_the_ledger(shop: Rig) -> None:
    """Each offer, sale and return without a network leaves "last heard" where it was, and says why
    there is no answer; upkeep is not woken, so that its pause stays as long as it had become."""
    family = at_home(shop)
    shop.till.refresh_pack()
    before = ledger(shop)
    assert before["last_heard_at"] == clock.to_text(shop.world.now()) and before["problem"] is None
    shop.world.now.forward(minutes=5)
    shop.cut_network()
    for ask in (
        lambda: sell(shop, family, 100),
        lambda: shop.plugin.upkeep.one_pass(),
        lambda: sell(shop, family, 200),
        lambda: shop.post("/api/allotments/return", {"code": family.token()}),
    ):
        ask()
        told = ledger(shop)
        assert told["last_heard_at"] == before["last_heard_at"]
        assert "no answer from the ledger" in told["problem"]
        assert not shop.plugin.upkeep._soon.is_set()


def test_a_settle_that_the_ledger_answered_counts_as_heard(shop: Rig) -> None:
    """What goes up is answered by the ledger, though nobody asked it anything else."""
    family = at_home(shop)
    shop.till.refresh_pack()
    shop.plugin.upkeep.one_pass()
    shop.cut_network()
    sell(shop, family, 100)
    shop.mend_network()
    shop.plugin.counter._contact.problem = None
    shop.world.now.forward(seconds=30)
    assert shop.plugin.chores.when_due()
    assert shop.till.journal.count("provisional") == 0
    assert ledger(shop)["last_heard_at"] == clock.to_text(shop.world.now())


def test_answers_from_a_file_are_no_word_over_the_network(shop: Rig) -> None:
    """Whoever carries them here has not mended the network."""
    family = at_home(shop)
    shop.till.refresh_pack()
    before = ledger(shop)["last_heard_at"]
    shop.cut_network()
    sell(shop, family, 100)
    shop.world.now.forward(minutes=5)
    waiting = [e for parcel in shop.till._outbox.waiting() for e in parcel.envelopes]
    posted = requests.post(
        f"{shop.world.url}/v1/records", json={"items": waiting}, timeout=30
    ).json()["results"]
    assert shop.post("/api/answers", {"answers": posted})["taken"] >= 1
    assert shop.till.journal.count("provisional") == 0
    assert ledger(shop)["last_heard_at"] == before


# ── readiness ──────────────────────────────────────────────────────────────────────────────────


def test_readiness_is_told_before_the_outage(shop: Rig) -> None:
    """For how long, how many households, how much: what the ledger set aside, less what this till
    took of it since; an outage does not change it, time does."""
    family, _ = at_home(shop), at_home(shop, 8_000)
    shop.till.refresh_pack()
    told = offline(shop)
    assert told["en"] == (
        "Ready without a network for 2 days 23 hours: 2 households, up to ¥100.00."
    )
    assert told["zh"] == "断网仍可核销2天23小时：2户，最多¥100.00。"
    assert (told["ready"], told["households"], told["why_not"]) == (True, 2, [])
    assert told["sums"] == [{"currency": "CNY", "amount_minor": 10_000}]
    assert told["until"] == "2026-11-25T07:59:00.000Z"
    shop.world.now.forward(hours=1)
    shop.cut_network()
    sell(shop, family, 4_000)
    assert offline(shop)["sums"] == [{"currency": "CNY", "amount_minor": 6_000}]
    shop.world.now.forward(days=2)
    assert offline(shop)["en"].startswith("Ready without a network for 22 hours: ")
    shop.mend_network()
    # Sent, and told by the ledger itself from then on.
    assert shop.post("/api/settle", {})["stored"] == []
    told = offline(shop)
    assert (told["ready"], told["sums"][0]["amount_minor"]) == (True, 4_000 + 4_000)


def test_online_sales_count_until_the_next_pack(shop: Rig) -> None:
    """What a sale with a network drew on what is set aside is not told as still there."""
    family = at_home(shop)
    shop.till.refresh_pack()
    shop.world.now.forward(minutes=1)
    sell(shop, family, 8_000)  # 6000 were open
    assert offline(shop)["sums"] == [{"currency": "CNY", "amount_minor": 4_000}]


def test_the_limits_may_be_narrower_than_what_is_set_aside(shop: Rig) -> None:
    """Then it is told how much can be sold before it must go up."""
    at_home(shop)
    allow(shop, stored_sum_minor=2_500)
    told = offline(shop)
    assert told["room"] == [{"currency": "CNY", "amount_minor": 2_500}]
    assert told["en"].endswith("up to ¥60.00; ¥25.00 of it before it must go up.")
    assert told["zh"].endswith("最多¥60.00，其中¥25.00后须联网上传。")
    allow(shop, stored_sum_minor=0)
    assert why_not(shop) == ["stored_full"]


def test_why_a_till_is_not_ready(shop: Rig) -> None:
    """Each reason with what to do, in both languages."""
    assert why_not(shop) == ["nobody_at_home"]
    at_home(shop)
    shop.till.refresh_pack()
    assert why_not(shop) == []
    shop.world.now.forward(days=3)
    assert why_not(shop) == ["pack_old"]
    shop.till.refresh_pack()
    assert why_not(shop) == []
    shop.world.now.forward(days=-3)
    assert why_not(shop) == ["clock_wrong"]
    shop.world.now.forward(days=3)
    shop.world.ledger.programmes.put_programme(PROGRAMME)
    shop.till.refresh_pack()
    assert why_not(shop) == ["offline_not_allowed"]


def test_nothing_set_aside_is_told_but_for_floor_limits(shop: Rig) -> None:
    """Where the programme lets a till give beyond what is set aside it is ready all the same."""
    allow(shop, allotment_permille=0)
    at_home(shop)
    shop.till.refresh_pack()
    assert why_not(shop) == ["nothing_set_aside"]
    allow(shop, allotment_permille=0, floor=FLOOR)
    told = offline(shop)
    assert told["ready"] and told["en"].endswith("1 household, within the floor limits only.")
    assert told["zh"].endswith("1户，仅限小额限额内。")


def test_a_till_that_was_stopped_says_so(shop: Rig) -> None:
    """What it sold is decided by people, so it is not ready for anything."""
    family = at_home(shop)
    shop.till.refresh_pack()
    assert why_not(shop) == []
    offer = shop.offer("S9", family.token(), milk(100))
    shop.world.ledger.terminals.set_status(shop.till.enrolment.terminal, "revoked")
    shop.redeem("S9", offer)
    assert why_not(shop) == ["terminal_revoked"]
    told = shop.get("/api/status")["stopped"]
    assert told["code"] == "terminal_revoked" and "keep its folder" in told["en"] and told["zh"]


@pytest.mark.parametrize("running", [True, False])
def test_a_till_that_heard_it_with_its_start_says_so(shop: Rig, run: Run, running: bool) -> None:
    """Status, drill and settle say of a till of which a copy was seen that it is stopped, and what
    helps, though nothing that it sold is held; also once it was started again."""
    at_home(shop)
    shop.till.refresh_pack()
    folder = shop.till.folder
    shop.world.ledger.terminals.set_status(shop.till.enrolment.terminal, "revoked")
    shop.till.close_day()
    if not running:
        shop.till.close()
    _, out, _ = run("status", "--folder", folder)
    assert "Stopped 停用: The office has revoked this till" in out
    assert "Not ready to sell without a network. The office has revoked" in out
    code, out, _ = run("drill", "--folder", folder)
    assert (code, "✗ Till 终端: The office has revoked this till" in out) == (1, True)
    assert "Passed" not in out


@pytest.mark.parametrize("running", [True, False])
def test_a_till_that_is_suspended_says_so(shop: Rig, run: Run, running: bool) -> None:
    """With what helps, the office, and without what does not: it is given no households. Once the
    office lets it go on, it is ready as before."""
    at_home(shop)
    shop.till.refresh_pack()
    folder, terminals = shop.till.folder, shop.world.ledger.terminals
    terminal = shop.till.enrolment.terminal
    terminals.set_status(terminal, "suspended")
    shop.till.refresh_pack()
    assert why_not(shop) == ["terminal_suspended"]
    if not running:
        shop.till.close()
    _, out, _ = run("status", "--folder", folder)
    assert "Stopped 停用: This till is suspended: call the programme's office." in out
    assert "no households" not in out
    code, out, _ = run("drill", "--folder", folder)
    assert (code, "✗ Till 终端: This till is suspended" in out) == (1, True)
    assert "– Households 家庭: Not tried." in out and "– Evidence 凭证: Not tried." in out
    terminals.set_status(terminal, "active")
    shop.world.now.forward(seconds=1)
    run("settle", "--folder", folder)
    _, out, _ = run("status", "--folder", folder)
    assert "Stopped" not in out and "Ready without a network for" in out
    code, out, _ = run("drill", "--folder", folder)
    assert (code, "✓ Till 终端: It was not stopped." in out) == (0, True)


def test_a_till_without_a_pack_or_room_says_so(shop: Rig) -> None:
    """The reasons that are the till's own."""
    at_home(shop)
    shop.till.refresh_pack()
    shop.till.disk._free = lambda _: LEAST_BYTES - 1
    assert why_not(shop) == ["disk_full"]
    shop.till.disk._free = DiskRoom(shop.till.folder)._free
    (shop.till.folder / "pack.manifest").unlink()
    assert why_not(shop) == ["no_pack"]


def test_every_reason_has_its_sentence() -> None:
    """In both languages."""
    assert all(en and zh for en, zh in offline_words.WHY_NOT.values())
    assert set(offline_words.WHY_NOT) == set(get_args(Why))


def test_the_command_tells_it_too(shop: Rig, run: Run) -> None:
    """Beside the running plugin and without it."""
    at_home(shop)
    shop.till.refresh_pack()
    sentence = "Ready without a network for 2 days 23 hours: 1 household, up to ¥60.00."
    for _ in range(2):
        done, out, _ = run("status", "--folder", shop.till.folder)
        assert done == 0 and sentence in out
        shop.till.close()


# ── what is stored, and what a person must see ─────────────────────────────────────────────────


def test_sales_that_wait_are_one_line(shop: Rig, run: Run) -> None:
    """Sales that wait for the network are told by programme, with the limits: nobody has anything
    to do for them, and they hide nothing that is open."""
    family = at_home(shop)
    shop.till.refresh_pack()
    allow(shop, stored_count=60)
    shop.cut_network()
    for _ in range(60):
        assert sell(shop, family, 10)["state"] == "accepted"
    found = shop.get("/api/status")
    assert found["open"] == [] and len(found["stored"]) == 1
    [told] = found["stored"]
    assert (told["count"], told["amount_minor"], told["since"]) == (
        60, 600, "2026-11-22T08:00:00.000Z",
    )  # fmt: skip
    assert told["en"] == (
        "7·28 洪灾奶制品: 60 of 60 sales, ¥6.00 of ¥10,000.00 stored. "
        "No more can be sold without a network until some are decided. "
        "They go up by themselves when there is a network."
    )
    assert found["offline"]["why_not"][0]["code"] == "stored_full"
    done, out, _ = run("status", "--folder", shop.till.folder)
    assert done == 0 and "已离线受理60/60单，¥6.00/¥10,000.00。" in out
    assert "Nothing is open" not in out and out.count("PROVISIONAL") == 0
    assert run("settle", "--folder", shop.till.folder)[0] == 1
    shop.mend_network()
    assert run("settle", "--folder", shop.till.folder)[0] == 0


def spent_elsewhere(shop: Rig, family: Family, amount_minor: int) -> None:
    """Another till sells what the family has left, while this one has no network."""
    with shop.world.till("till-2") as other:
        offer = other.propose(family.token(), [Line(MILK, 1, "piece", amount_minor)])
        sold = other.redeem(offer, checkout=f"L{amount_minor}", cashier="c09")
        assert (sold.state, sold.amount_minor) == ("confirmed", amount_minor)


def sold_and_spent(shop: Rig, *elsewhere_minor: int) -> list[Any]:
    """A sale of 30.00 to a family each, within floor limits, while another till gives it so much of
    its 120.00; then all of it has gone up."""
    families = [at_home(shop) for _ in elsewhere_minor]
    allow(shop, allotment_permille=0, floor=FLOOR)
    for family in families:
        shop.till.give_back(shop.till.scan(family.token()))
    shop.till.settle()
    shop.till.refresh_pack()
    shop.cut_network()
    sales = [sell(shop, family, 3_000) for family in families]
    for family, minor in zip(families, elsewhere_minor, strict=True):
        spent_elsewhere(shop, family, minor)
    shop.mend_network()
    shop.post("/api/settle", {})
    return sales


def test_exceptions_say_what_the_ledger_said_and_what_to_do(shop: Rig, run: Run) -> None:
    """A sale that was booked in part and one that was not: receipt, when, amount, who bears the
    loss, the ledger's word, the next step; counted in the status."""
    assert shop.get("/api/exceptions") == {
        "count": 0, "exceptions": [], "en": "No sale needs a person.",
        "zh": "没有需要人工处理的单。",
    }  # fmt: skip
    short, lost = sold_and_spent(shop, 10_000, 12_000)
    found = shop.get("/api/exceptions")
    assert found["count"] == 2 and "2 sales need a person" in found["en"]
    first, second = found["exceptions"]
    assert [first["receipt_no"], second["receipt_no"]] == [short["receipt_no"], lost["receipt_no"]]
    assert (first["state"], first["liability"], first["amount_minor"], first["paid_minor"]) == (
        "short", "merchant", 3_000, 2_000,
    )  # fmt: skip
    assert first["ledger_said"]["en"] == "Booked ¥20.00 of ¥30.00: ¥10.00 is not covered."
    assert first["ledger_said"]["zh"] == "已入账¥20.00（共¥30.00），差额¥10.00无券额可扣。"
    assert (second["state"], second["ledger_said"]["code"]) == (
        "exception", "balance_insufficient",
    )  # fmt: skip
    assert second["next"]["en"].startswith("Keep the slip. Call the programme's office")
    assert shop.get("/api/status")["exceptions"]["count"] == 2
    assert shop.get("/api/status")["open"] == []
    done, out, _ = run("exceptions", "--folder", shop.till.folder)
    assert done == 1 and short["receipt_no"] in out and "shop's risk 本店承担" in out
    done, out, _ = run("exceptions", "--json", "--folder", shop.till.folder)
    assert json.loads(out) == found


def lost_and_short(shop: Rig) -> tuple[str, str]:
    """Receipt numbers of a sale that was not booked, and of one that was booked in part."""
    lost, short = sold_and_spent(shop, 12_000, 10_000)
    return lost["receipt_no"], short["receipt_no"]


def test_what_was_dealt_with_is_ticked_off(shop: Rig, run: Run) -> None:
    """A person at the shop says what was done of one: it leaves the list and the status for good,
    beside the plugin and without it, the sale stays what it was, and the list's numbers are those
    that the ledger's has."""
    lost, short = lost_and_short(shop)
    at_office = OfflineExceptions(shop.world.ledger.database, shop.world.now).listed()
    assert [each["receipt_no"] for each in at_office] == [lost, short]
    folder = shop.till.folder
    done, out, _ = run("exceptions", "--folder", folder)
    assert done == 1 and out.startswith("2 sales need a person.")
    assert "carepos till exceptions --done RECEIPT" in out
    tick = ("exceptions", "--done", lost, "--note", "the office paid it", "--folder", folder)
    done, out, _ = run(*tick)
    assert done == 0 and out.startswith(f"{lost} is done 已了结: the office paid it")
    assert run(*tick)[:2] == (0, out)  # again it does nothing
    assert shop.get("/api/status")["exceptions"]["count"] == 1
    assert [each["receipt_no"] for each in shop.get("/api/exceptions")["exceptions"]] == [short]
    assert [a.state for a in shop.till.journal.attempts("exception", "short")] == [
        "exception", "short",
    ]  # fmt: skip
    done, _, err = run(*tick[:3], "--note", "something else", "--folder", folder)
    assert done == 1 and "the office paid it" in err
    shop.till.close()
    assert run("exceptions", "--done", short, "--note", "ours to bear", "--folder", folder)[0] == 0
    done, out, _ = run("exceptions", "--folder", folder)
    assert (done, out) == (0, "No sale needs a person. 没有需要人工处理的单。\n")


def test_closing_the_day_tells_what_was_sold_without_the_ledger(shop: Rig, run: Run) -> None:
    """It is in no sum of the Z: beside it stands how much it is, until the ledger has booked it."""
    family = at_home(shop)
    shop.till.refresh_pack()
    shop.cut_network()
    sell(shop, family, 3_000)
    folder = shop.till.folder
    done, out, _ = run("close-day", "--folder", folder)
    assert done == 0 and "1 redeemed" in out and "1 × = 30.00 CNY" in out
    [line] = [each for each in out.splitlines() if "sold without the ledger" in each]
    assert "1 × = 30.00 CNY" in line
    shop.mend_network()
    shop.post("/api/settle", {})
    _, out, _ = run("close-day", "--folder", folder)
    assert "sold without the ledger" not in out and "1 redeemed" in out


def test_only_what_nothing_else_ends_is_ticked_off(shop: Rig, run: Run) -> None:
    """Not what the office still decides, nor a sale that needs nobody, nor another till's number,
    nor without a word of what was done."""
    family = at_home(shop)
    good = shop.till.journal.attempts("confirmed")[0].slip["receipt_no"]
    shop.till.refresh_pack()
    shop.cut_network()
    held = sell(shop, family, 3_000)["receipt_no"]
    terminal = shop.till.enrolment.terminal
    shop.world.ledger.terminals.set_status(terminal, "suspended")
    shop.mend_network()
    shop.post("/api/settle", {})
    folder = shop.till.folder
    for number, note, code, says in (
        (held, "done", 1, "the programme's office decides it"),
        (good, "done", 1, "needs no person"),
        ("9999-000001-5", "done", 2, ""),
        ("nonsense", "done", 2, ""),
        (held, " ", 2, "note"),
        (held, "x" * 201, 2, "note"),
    ):
        done, out, err = run("exceptions", "--done", number, "--note", note, "--folder", folder)
        assert (done, out) == (code, ""), (number, err)
        assert says in err, err
    assert run("exceptions", "--done", held, "--folder", folder)[0] == 2
    assert shop.get("/api/status")["exceptions"]["count"] == 1


def test_a_later_word_of_the_ledger_lists_it_again(shop: Rig) -> None:
    """What was said of a sale counts for what it was then."""
    lost, _ = lost_and_short(shop)
    journal, number = shop.till.journal, ids.parse_receipt_no(lost)[1]
    sale = journal.attempt_at(number)
    assert sale is not None
    ticked_off.tick_off(journal, sale, "paid", shop.world.now())
    assert ticked_off.count(journal) == 1
    journal._db.execute("UPDATE attempts SET state = 'short' WHERE id = ?", (sale.id,))
    assert ticked_off.count(journal) == 2
    assert ticked_off.newest(journal, 200)[0].sequence == number


# ── the drill ──────────────────────────────────────────────────────────────────────────────────


def failed(played: Answer) -> list[str]:
    return [each["check"] for each in played["checks"] if each["ok"] is False]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Whatever the till keeps, but for what SQLite needs to look at a journal."""
    return {
        each.name: each.read_bytes()
        for each in folder.iterdir()
        if each.is_file() and each.stat().st_size and not each.name.endswith(("-shm", ".lock"))
    }


def test_a_drill_plays_an_outage_and_writes_nothing(shop: Rig) -> None:
    """What would work is told, down to what a code could buy; no record, no slip in the queue, and
    nobody is asked."""
    family = at_home(shop)
    shop.till.refresh_pack()
    before, kept = shop.written(), bytes_of(shop.till.folder)
    asked = shop.world.rows("visits")  # a lookup opens one
    played = shop.post("/api/drill", {"code": family.token()})
    assert played["passed"] and failed(played) == []
    assert played["en"] == (
        "Passed. Ready without a network for 2 days 23 hours: 1 household, up to ¥60.00."
    )
    assert played["zh"].startswith("演练通过。断网仍可核销")
    [could] = played["could_use"]
    assert (could["name"], could["refusal"]) == ("7·28 洪灾奶制品", None)
    assert could["vouchers"] == [
        {"label": "奶制品卡", "unit": None, "left": 6_000, "text": "¥60.00"}
    ]
    assert {each["check"]: each["ok"] for each in played["checks"]}["printer"] is None
    assert (shop.written(), bytes_of(shop.till.folder)) == (before, kept)
    assert shop.world.rows("visits") == asked
    shop.cut_network()
    assert shop.post("/api/drill", {"code": family.token()}) == played
    # What was told is what can be sold.
    assert shop.offer("S-most", family.token(), milk(50_000))["totals"]["programme_minor"] == 6_000


def test_a_drill_says_what_would_not_work(shop: Rig) -> None:
    """A stranger's code, a code that is none, a till that is not ready: what, and what to do."""
    at_home(shop)
    shop.till.refresh_pack()
    played = shop.post("/api/drill", {"code": shop.world.family().token()})
    assert failed(played) == ["code"] and not played["passed"]
    assert played["checks"][-2]["code"] == "holder_not_in_pack"
    played = shop.post("/api/drill", {"code": "134567890123456789"})
    assert played["checks"][-2]["looks_like"] == "payment_code"
    assert "ask for the care code" in played["checks"][-2]["en"]
    shop.world.now.forward(days=3)
    assert failed(shop.post("/api/drill", {})) == ["pack"]
    shop.till.refresh_pack()
    shop.world.now.forward(days=-3)
    assert failed(shop.post("/api/drill", {})) == ["clock"]
    shop.world.now.forward(days=3)
    (shop.till.folder / "pack.manifest").unlink()
    played = shop.post("/api/drill", {})
    assert failed(played) == ["pack"]
    assert [each["check"] for each in played["checks"] if each["ok"] is None] == [
        "programme", "households", "set_aside", "stored", "seal", "printer",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body", [{"code": 5}, {"print": "yes"}, {"pin": "1"}, {"code": "x" * 9000}]
)
def test_t15_a_drill_takes_no_other_body(shop: Rig, body: Answer) -> None:
    """A PIN never passes the register's API."""
    assert shop.refused("POST", "/api/drill", body) == (400, "malformed")


@pytest.mark.parametrize("running", [True, False])
def test_the_drill_by_command(
    shop: Rig, run: Run, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    """The same list beside a running plugin and without one, with a slip that is no receipt."""
    family = at_home(shop)
    shop.till.refresh_pack()
    folder = shop.till.folder
    if not running:
        shop.till.close()
    kept = bytes_of(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO(family.token() + "\n"))
    done, out, err = run("drill", "--print", "--code-stdin", "--folder", folder)
    assert (done, err) == (0, "")
    for line in (
        "✓ Pack 离线包: The offline pack is whole and signed, and not too old.",
        "✓ Evidence 凭证: A code can be sealed for the ledger.",
        "✓ Code 爱心码: It could be used without a network. 此码断网时可以使用。",
        "  7·28 洪灾奶制品: 奶制品卡, up to 最多 ¥60.00",
        "✓ Printer 打印机: The slip is on paper. 演练小票已打出。",
        "Passed. Ready without a network for 2 days 23 hours: 1 household, up to ¥60.00.",
    ):
        assert line in out
    assert bytes_of(folder) == kept
    [slip] = (folder / "receipts").glob("*.txt")
    text = slip.read_text("utf-8")
    assert "** 演练 DRILL **" in text and text.count("** 无效 NOT VALID **") == 2
    assert not any(word in text for word in ("已核销", "合计", "单号", "CP1*"))
    (folder / "pack.manifest").unlink()
    done, out, _ = run("drill", "--folder", folder)
    assert done == 1 and "✗ Pack 离线包: There is no offline pack yet" in out
    assert "– Households 家庭: Not tried. 未检查。" in out


def test_a_cards_pin_in_a_drill_is_counted(
    shop: Rig, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the plugin a PIN may be given: a wrong one counts like any other, so that no drill
    finds a PIN out. Beside the plugin it can't be."""
    shop.world.ledger.programmes.put_programme({**RULES, "offline": OFFLINE})
    family = at_home(shop)
    card = print_card(family)
    shop.till.refresh_pack()
    folder = shop.till.folder
    played = shop.post("/api/drill", {"code": card.scanned})
    assert played["checks"][-2]["code"] == "pin_required"

    def drill(pin: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{card.scanned}\n{pin}\n"))
        return run("drill", "--code-stdin", "--pin-stdin", "--folder", folder)

    done, _, err = drill(PIN)
    assert done == 1 and "stop it first" in err
    shop.till.close()
    done, out, _ = drill(PIN)
    assert done == 0 and "奶制品卡, up to 最多 ¥60.00" in out
    for _ in range(4):
        assert drill(WRONG)[0] == 1
    assert "✗ Code" in drill(WRONG)[1]
    assert drill(PIN)[0] == 1  # locked at this till


def test_a_sale_that_is_held_says_why(shop: Rig) -> None:
    """The till was suspended while it sold: the office decides; the cashier has nothing to do."""
    family = at_home(shop)
    shop.till.refresh_pack()
    shop.cut_network()
    sold = sell(shop, family, 3_000)
    shop.world.ledger.terminals.set_status(shop.till.enrolment.terminal, "suspended")
    shop.mend_network()
    shop.post("/api/settle", {})
    [held] = shop.get("/api/exceptions")["exceptions"]
    assert (held["receipt_no"], held["state"]) == (sold["receipt_no"], "held")
    assert (held["ledger_said"]["code"], held["liability"]) == ("terminal_suspended", "programme")
    assert "The office decides it by hand." in held["ledger_said"]["en"]
    assert "由项目办公室人工处理。" in held["ledger_said"]["zh"]
    assert held["next"]["en"].startswith("The programme's office decides it, and the till learns")
    [stored] = shop.get("/api/status")["stored"]
    assert (stored["count"], stored["held"]) == (1, 1)  # against the limits until it is decided
    assert stored["en"].endswith("stored. The programme's office decides 1.")


def test_goods_that_stayed_do_not_leave_any_more(shop: Rig) -> None:
    """Once the cashier has said so, whoever looks at the sale is told so too: a void goes up behind
    it, and until it is decided the sale is provisional, or booked, and its goods stay."""
    family = at_home(shop)
    shop.till.refresh_pack()
    shop.cut_network()
    offer = shop.till.propose(family.token(), [Line(MILK, 1, "piece", 3_000)])
    path = "/api/checkouts/S-kept"
    assert shop.till.redeem(offer, checkout="S-kept", cashier="c01").state == "accepted"
    assert shop.get(path)["goods_may_leave"]
    kept = shop.post(f"{path}/goods", {"handed_over": False})
    assert (kept["state"], kept["goods_may_leave"]) == ("provisional", False)
    assert kept["message"]["en"].startswith("Being taken back. Do not hand over goods")
    assert "可以撤销" not in kept["next"]["zh"] and "decided the void" in kept["next"]["en"]
    written = shop.written()
    assert shop.post(f"{path}/goods", {"handed_over": False}) == kept
    assert shop.written() == written
    assert shop.refused("POST", f"{path}/goods", {"handed_over": True}) == (409, "wrong_state")
    looked = shop.get(path)
    assert not looked["goods_may_leave"] and looked["message"] == kept["message"]
    assert [each["goods_may_leave"] for each in looked["attempts"]] == [False]
    shop.mend_network()
    shop.post("/api/settle", {})
    assert (shop.get(path)["state"], shop.get(path)["goods_may_leave"]) == ("voided", False)


def test_whether_the_goods_left_is_asked_once_the_process_is_gone(shop: Rig, run: Run) -> None:
    """A sale accepted just before the till died: nobody is told to hand goods over, or that it goes
    up by itself; the command that answers is named. So too once the till is started again."""
    family = at_home(shop)
    shop.till.refresh_pack()
    shop.cut_network()
    sell(shop, family, 1_000)
    offer = shop.till.propose(family.token(), [Line(MILK, 1, "piece", 3_000)])
    assert shop.till.redeem(offer, checkout="S-died", cashier="c01").state == "accepted"
    shop.till.close()
    folder = shop.till.folder
    for _ in range(2):
        found = json.loads(run("status", "--json", "--folder", folder)[1])
        (told,) = found["open"]
        assert (told["state"], told["goods_may_leave"]) == ("accept_asked", False)
        assert "carepos till goods" in told["next"]["en"] and "Hand over" not in str(told)
        (stored,) = found["stored"]
        assert (stored["count"], stored["asked"]) == (2, 1)
        assert "Say of 1 whether the goods were handed over: carepos till goods." in stored["en"]
        assert "其中1单请回答商品是否已交付：carepos till goods。" in stored["zh"]
        assert "by themselves" not in stored["en"] and "carepos till serve" in stored["en"]
        shop.world.till().close()  # started again, and stopped
    till = shop.world.till()
    shop.till.__dict__.update(till.__dict__)
    (stored,) = shop.get("/api/status")["stored"]
    assert (stored["asked"], "They go up by themselves" in stored["en"]) == (1, True)
    shop.post("/api/checkouts/S-died/goods", {"handed_over": True})
    (stored,) = shop.get("/api/status")["stored"]
    assert stored["asked"] == 0 and "carepos till goods" not in stored["en"]


def test_a_sale_that_is_not_uploaded_says_why_it_is_not_refunded(shop: Rig, run: Run) -> None:
    """And what to do instead, at the API and the command; no word of a state machine."""
    family = at_home(shop)
    shop.till.refresh_pack()
    shop.cut_network()
    number = sell(shop, family, 3_000)["receipt_no"]
    problem = shop.call("POST", "/api/returns", {"receipt": number}).json()
    assert (problem["code"], problem["state"]) == ("wrong_state", "provisional")
    assert problem["en"] == (
        "This sale is not uploaded yet: void the whole of it, or wait until it is."
    )
    done, _, err = run("refund", number, "1:1", "--folder", shop.till.folder)
    assert done == 1 and problem["en"] in err and problem["zh"] in err and "event" not in err


def test_an_unknown_sale_that_may_leave_says_how(shop: Rig, run: Run) -> None:
    """At the sale, in status, and at the command: try again, cancel, or accept it."""
    family = at_home(shop)
    shop.till.refresh_pack()
    offer = shop.offer("S-unknown", family.token(), milk(3_000))
    shop.cut_network()
    sale = shop.redeem("S-unknown", offer)
    assert (sale["state"], sale["can_accept"]) == ("unknown", True)
    assert "accept it without the ledger" in sale["message"]["en"]
    assert "离线受理" in sale["message"]["zh"]
    (told,) = shop.get("/api/status")["open"]
    assert (told["message"], told["next"]) == (sale["message"], sale["next"])
    out = run("status", "--folder", shop.till.folder)[1]
    assert "carepos till accept" in out


# ── giving back ────────────────────────────────────────────────────────────────────────────────


def give_back(shop: Rig, **body: str) -> Answer:
    return shop.post("/api/allotments/return", body)


def test_what_is_set_aside_is_given_back_at_the_register(shop: Rig) -> None:
    """With the family's code; without a network from here on, and elsewhere once it went up. A
    second time, and for a stranger, there is nothing to give back."""
    one, two = at_home(shop), at_home(shop)
    shop.till.refresh_pack()
    done = give_back(shop, code=one.token())
    assert (done["allotments"], done["sent"], done["refusal"]) == (1, True, None)
    again = give_back(shop, code=one.token())
    assert (again["allotments"], again["sent"]) == (0, False)
    assert again["zh"] == "本店没有为该持券人预留额度。"
    assert give_back(shop, code=shop.world.family().token())["allotments"] == 0
    shop.cut_network()
    done = give_back(shop, code=two.token())
    assert (done["allotments"], done["sent"]) == (1, False)
    assert done["en"].startswith("Given back here; the holder can use it elsewhere once")
    offer = shop.offer("S9", two.token(), milk(100))
    assert offer["refusal"]["code"] in ("allotment_exceeded", "balance_insufficient")
    shop.mend_network()
    shop.post("/api/settle", {})
    assert shop.till.journal.unanswered("return_allotment") == []


def test_giving_back_wants_a_good_code(shop: Rig) -> None:
    """A payment code is told as one; a body of another form changes nothing."""
    told = give_back(shop, code="134567890123456789")
    assert (told["refusal"]["looks_like"], told["allotments"]) == ("payment_code", 0)
    before = shop.written()
    for body in ({}, {"code": None}, {"code": "x", "pin_request": "A" * 22}, {"code": 5}):
        assert shop.refused("POST", "/api/allotments/return", body) == (400, "malformed")
    assert shop.refused("POST", "/api/allotments/return", {"pin_request": "A" * 22}) == (
        410, "pin_request_gone",
    )  # fmt: skip
    assert shop.written() == before


def test_a_cards_pin_is_proved_before_anything_is_given_back(shop: Rig) -> None:
    """On the PIN pad, as for an offer."""
    shop.world.ledger.programmes.put_programme({**RULES, "offline": OFFLINE})
    family = at_home(shop)
    card = print_card(family)
    shop.till.refresh_pack()
    assert give_back(shop, code=card.scanned)["pin"]["state"] == "no_pad"
    pad = Pad(shop)
    pad.state()
    asked = give_back(shop, code=card.scanned)
    assert (asked["pin"]["state"], asked["allotments"]) == ("waiting", 0)
    assert pad.enter(WRONG)["state"] == "waiting"
    waiting = give_back(shop, pin_request=asked["pin"]["request"])
    assert waiting["refusal"]["code"] == "pin_wrong" and waiting["allotments"] == 0
    assert pad.enter(PIN)["state"] == "proved"
    done = give_back(shop, pin_request=asked["pin"]["request"])
    assert (done["allotments"], done["sent"], done["pin"]) == (1, True, None)
