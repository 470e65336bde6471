"""Upload by file (docs/offline.md §10): a network that stays away, a stick, a dead PC."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from carepos import Unreachable, client, forwarder, upload_file
from carepos.client import Transport
from carepos.commands import main
from carepos.journal_view import JournalView
from carepos.keys import KeySet, b64, unb64
from carepos.till import AnswersTaken
from carepos_ledger import import_records
from carepos_ledger.held_list import HeldList
from carepos_ledger.held_rulings import HeldRulings
from carepos_plugin import app, pairing, upload_commands
from carepos_plugin.settings import Settings
from tests.pos_plugin.rig import Faults, plugged, write_settings
from tests.stories.offline_shop import OfflineShop, offline_world
from tests.world import PROGRAMME, World

Run = Callable[..., tuple[int, str, str]]
Json = dict[str, Any]


@pytest.fixture
def made(tmp_path: Path, database_url: str) -> Iterator[World]:
    with offline_world(tmp_path, database_url) as found:
        yield found


@pytest.fixture
def shop(made: World) -> OfflineShop:
    return OfflineShop(made)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit code, stdout, stderr) of one command, and never a traceback."""

    def type_in(*words: object) -> tuple[int, str, str]:
        try:
            code = main([*map(str, words)])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return type_in


def booked(shop: OfflineShop) -> int:
    """What the ledger has posted to redemptions."""
    sums = shop.world.ledger.office.programme_sums(PROGRAMME["programme"])
    return int(sums.redeemed_minor)


def outage(shop: OfflineShop, *amounts: int) -> list[str]:
    """Sales while the cable is out, each to a family of its own; the codes that were scanned."""
    families = [shop.at_home(12_000) for _ in amounts]
    shop.learn()
    shop.till.settle()
    shop.cable.is_out = True
    codes = [each.token() for each in families]
    for code, amount in zip(codes, amounts, strict=True):
        assert shop.sell(code, amount).state == "provisional"
    return codes


def lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_what_is_not_uploaded_is_exported(shop: OfflineShop, run: Run, tmp_path: Path) -> None:
    """Every record without a final outcome, in order, with its evidence; nothing that the ledger
    has decided; beside the running till. The sums and numbers are said."""
    outage(shop, 4_000, 2_500)
    path = tmp_path / "stick" / "shop.records"
    path.parent.mkdir()
    done, out, err = run("till", "export", path, "--folder", shop.folder)
    assert (done, err) == (0, "")
    header, *found = lines(path)
    journal = shop.till.journal
    waiting = [journal.record_at(n) for n in range(journal.sequence - 3, journal.sequence + 1)]
    assert [each.kind for each in waiting] == ["redeem", "accept_offline"] * 2
    assert header == {
        "v": 1, "kind": "records", "terminal": shop.till.enrolment.terminal,
        "incarnation": journal.incarnation,
        "from_sequence": journal.sequence - 3, "to_sequence": journal.sequence,
    }  # fmt: skip
    assert [each["record"] for each in found] == [each.jws for each in waiting]
    assert [each["evidence"] for each in found] == [
        journal.evidence_of(each.id) for each in waiting
    ]
    assert "4 records" in out and "2 × = 65.00 CNY" in out and "import-records" in out
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_is_never_overwritten(shop: OfflineShop, run: Run, tmp_path: Path) -> None:
    """Not even by the same till."""
    outage(shop, 4_000)
    path = tmp_path / "shop.records"
    path.write_text("somebody's")
    done, out, err = run("till", "export", path, "--folder", shop.folder)
    assert (done, out) == (2, "") and "another file" in err
    assert path.read_text() == "somebody's"


def test_where_all_is_uploaded_there_is_no_file(
    shop: OfflineShop, run: Run, tmp_path: Path
) -> None:
    """It is said; `--all` gives the whole chain all the same."""
    outage(shop, 4_000)
    shop.cable.is_out = False
    shop.till.settle()
    path = tmp_path / "shop.records"
    done, out, _ = run("till", "export", path, "--folder", shop.folder)
    assert done == 1 and "all of it is uploaded" in out and not path.exists()
    assert run("till", "export", path, "--all", "--folder", shop.folder)[0] == 0
    header, *found = lines(path)
    assert header["from_sequence"] == 1 and len(found) == shop.till.journal.sequence


def test_a_dead_pcs_folder_is_exported_as_it_lies(
    shop: OfflineShop, run: Run, tmp_path: Path
) -> None:
    """FG-9: a copy of the disk, with what was in its log only, and perhaps nothing but the journal
    of it; nothing in the folder is touched."""
    outage(shop, 4_000)
    dead = tmp_path / "dead"
    dead.mkdir()
    for name in ("journal.db", "journal.db-wal"):
        shutil.copy(shop.folder / name, dead / name)
    assert (dead / "journal.db-wal").stat().st_size > 0
    before = {each.name: each.read_bytes() for each in dead.iterdir()}
    path = tmp_path / "shop.records"
    assert run("till", "export", path, "--folder", dead)[0] == 0
    assert [each["record"] for each in lines(path)[1:]] == [
        shop.till.journal.record_at(n).jws
        for n in (shop.till.journal.sequence - 1, shop.till.journal.sequence)
    ]
    assert {each.name: each.read_bytes() for each in dead.iterdir()} == before


def test_one_record_is_told_as_one(shop: OfflineShop, run: Run, tmp_path: Path) -> None:
    """All is uploaded but the word with which the till began again."""
    shop.till.settle()
    shop.cable.is_out = True
    shop.restart()
    done, out, _ = run("till", "export", tmp_path / "one", "--folder", shop.folder)
    assert done == 0 and f"1 record, number {shop.till.journal.sequence}, is in" in out


def test_goods_that_may_not_have_left_do_not_go_up(
    shop: OfflineShop, run: Run, tmp_path: Path
) -> None:
    """Their sale is left out until the cashier has answered, and that is said; of a till that can't
    run any more `--all` takes it along."""
    family = shop.at_home()
    shop.learn()
    shop.till.settle()
    shop.cable.is_out = True
    assert shop.sell(family, 4_000, seen=False).state == "accepted"
    path = tmp_path / "shop.records"
    done, out, _ = run("till", "export", path, "--folder", shop.folder)
    assert done == 1 and "1 sale waits for the cashier" in out and not path.exists()
    assert run("till", "export", path, "--all", "--folder", shop.folder)[0] == 0
    assert len(lines(path)[-1]["evidence"]) > 100


def test_no_code_is_in_a_file(shop: OfflineShop, run: Run, tmp_path: Path) -> None:
    """INV-10: neither a code, nor a part of it, nor a `sub`: the file is safe to carry."""
    codes = outage(shop, 4_000, 2_500)
    path = tmp_path / "shop.records"
    run("till", "export", path, "--all", "--folder", shop.folder)
    data = path.read_bytes()
    for code in codes:
        _, claims, signature = code.split(".")
        sub = json.loads(unb64(claims))["sub"]
        for secret in (code, claims, signature, sub):
            assert secret.encode() not in data


# ── at the office ──────────────────────────────────────────────────────────────────────────────


class Carrying:
    """A shop whose files are carried: `export`, `post` at the office, `take` back in the shop."""

    def __init__(self, shop: OfflineShop, run: Run, folder: Path) -> None:
        self.shop, self.run, self.folder = shop, run, folder
        self.answers = folder / "answers"
        self.files = 0

    def export(self, *words: object) -> Path:
        self.files += 1
        path = self.folder / f"file-{self.files}"
        done, out, err = self.run("till", "export", path, "--folder", self.shop.folder, *words)
        assert done == 0, out + err
        return path

    def post(self, *files: Path, answers: Path | None = None) -> tuple[int, str, str]:
        """With the operator's machine having no secret and no folder of the ledger."""
        return self.run(
            "ledger", "import-records", *files, "--url", self.shop.world.url,
            "--folder", self.folder, "--answers", answers or self.answers,
        )  # fmt: skip

    def take(self) -> AnswersTaken:
        return self.shop.till.take_answers(upload_file.read_answers(self.answers).answers)


@pytest.fixture
def carrying(shop: OfflineShop, run: Run, tmp_path: Path) -> Carrying:
    return Carrying(shop, run, tmp_path)


def test_sales_reach_the_ledger_and_their_answers_the_till_by_hand(carrying: Carrying) -> None:
    """FG-9, and the point of it all: nothing went over the shop's network, everybody agrees; the
    sealed code is gone; all of it again changes nothing."""
    shop = carrying.shop
    outage(shop, 4_000, 2_500)
    before = booked(shop)
    path = carrying.export()
    shop.world.now.forward(days=2)
    done, out, err = carrying.post(path)
    assert (done, err.strip()) == (0, "") and "posted 已入账 4" in out
    assert booked(shop) == before + 6_500
    taken = carrying.take()
    assert (taken.taken, taken.problems) == (2, {})
    assert {a.state for a in shop.till.journal.attempts()} == {"confirmed"}
    assert {shop.till.journal.evidence_of(a.id) for a in shop.till.journal.attempts()} == {None}
    written = _everything(shop)
    assert carrying.take().taken == 0 and _everything(shop) == written
    assert carrying.post(path)[0] == 0 and booked(shop) == before + 6_500
    # The network comes back: there is nothing to send, and nothing was booked twice.
    shop.cable.is_out = False
    shop.till.settle()
    assert booked(shop) == before + 6_500


def _everything(shop: OfflineShop) -> list[Any]:
    journal = shop.till.journal
    return [
        (a.state, journal.events_of(a.id), journal.outcomes_of(a.sequence))
        for a in journal.attempts()
    ]


def test_files_may_overlap_and_come_twice(carrying: Carrying) -> None:
    """Each record is posted once, whatever files it stands in; numbers that none has are listed."""
    shop = carrying.shop
    outage(shop, 1_000)
    first = carrying.export()
    shop.cable.is_out = False
    shop.till.close_day()  # decided, so in no file
    second_family = shop.at_home(12_000)
    shop.learn()
    shop.till.settle()
    shop.cable.is_out = True
    shop.sell(second_family, 2_000)
    second = carrying.export()
    before = booked(shop)
    done, out, _ = carrying.post(first, second, first)
    assert done == 0 and "posted 已入账 4" in out, out
    assert "in no file" in out
    assert booked(shop) == before + 2_000


def test_a_broken_line_costs_that_line(carrying: Carrying) -> None:
    """It is named with its number and the rest is posted; so of a file that was cut; a record whose
    signature does not hold is named by the ledger's word."""
    shop = carrying.shop
    outage(shop, 1_000, 2_000, 3_000)
    before = booked(shop)
    header, *rest = carrying.export().read_bytes().splitlines()
    turned = rest[3].replace(b'"record":"', b'"record":"x', 1)
    signature = json.loads(rest[4])
    text = signature["record"]
    signature["record"] = text[:-3] + ("AAA" if text[-3:] != "AAA" else "BBB")
    broken = carrying.folder / "broken"
    broken.write_bytes(b"\n".join([header, *rest[:3], turned, json.dumps(signature).encode()]))
    done, out, _ = carrying.post(broken)
    assert done == 1 and booked(shop) == before + 1_000
    assert "line 5 is no record" in out and "it was cut" in out
    assert "posted 已入账 2" in out and "not decided 未处理 2" in out and "signature" in out
    # What it answers is settled, the rest stays open and goes up with the whole file.
    assert carrying.take().taken == 1
    states = [a.state for a in shop.till.journal.attempts()]
    assert states[-3:] == ["confirmed", "provisional", "provisional"]
    done, out, _ = carrying.post(carrying.export())
    assert done == 0 and booked(shop) == before + 6_000
    assert carrying.take().taken == 2


def test_a_file_that_is_something_else_is_refused(carrying: Carrying) -> None:
    """Before anything is sent: exit 2, one sentence, and what was there stays."""
    outage(carrying.shop, 1_000)
    before = booked(carrying.shop)
    good, other = carrying.export(), carrying.folder / "list.csv"
    other.write_text("name,amount\n")
    done, out, err = carrying.post(good, other)
    assert (done, out) == (2, "") and "is not a file of a till's records" in err
    done, _, err = carrying.post(good, answers=other)
    assert done == 2 and "Nothing was sent" in err and other.read_text() == "name,amount\n"
    assert booked(carrying.shop) == before
    # And the till does not take records for answers, nor another till's answers for its own.
    done, out, err = carrying.run("till", "import-answers", good, "--folder", carrying.shop.folder)
    assert done == 2 and "is not a file of a ledger's answers" in err


def test_an_import_that_was_cut_goes_on(
    carrying: Carrying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command again sends what has no final answer yet, and nothing twice."""
    shop = carrying.shop
    outage(shop, 1_000, 2_000, 3_000)
    before, path = booked(shop), carrying.export()
    monkeypatch.setattr(forwarder, "MAX_ITEMS", 2)
    real, sent = client.send_records, []

    def cut(transport: Transport, items: Any) -> Any:
        sent.append(len(items))
        if len(sent) == 2:
            raise Unreachable("no answer from the ledger (the line is cut)")
        return real(transport, items)

    monkeypatch.setattr(import_records, "send_records", cut)
    done, out, err = carrying.post(path)
    assert done == 2 and "Type the same again" in err and booked(shop) == before + 1_000
    assert "unsent 未发送 4" in out
    assert carrying.post(path)[0] == 0
    assert sent == [2, 2, 2, 2] and booked(shop) == before + 6_000
    assert carrying.take().taken == 3


def test_a_void_goes_up_behind_its_sale(carrying: Carrying) -> None:
    """In one file; both answers are taken."""
    shop = carrying.shop
    outage(shop, 4_000)
    before = booked(shop)
    shop.till.void(shop.newest().checkout, cashier="c01", reason="changed_mind")
    done, out, _ = carrying.post(carrying.export())
    assert done == 0 and "posted 已入账 3" in out and booked(shop) == before
    carrying.take()
    assert shop.newest().state == "voided" and shop.till.corrections(waiting=True) == []


def test_unknown_and_cancelled_sales_end_by_file_too(carrying: Carrying) -> None:
    """One that was booked is confirmed by the answer in the file; one that the cashier cancelled is
    reversed, and its number filled, in one go; one that never arrived books nothing and stays."""
    shop = carrying.shop
    families = [shop.at_home(12_000) for _ in range(3)]
    shop.till.settle()
    before = booked(shop)
    lost = ("answer", "request", "request")
    for n, (family, loses) in enumerate(zip(families, lost, strict=True)):
        offer = shop.offer(family, 1_000)
        shop.cable.loses = loses  # type: ignore[assignment]
        assert shop.till.redeem(offer, checkout=f"U{n}", cashier="c01").state == "unknown"
        shop.cable.loses = None
    shop.cable.is_out = True
    assert shop.till.cancel("U1").state == "reversing"
    done, out, _ = carrying.post(carrying.export())
    assert done == 1 and "not decided 未处理 1" in out and booked(shop) == before + 1_000, out
    carrying.take()
    states = {name: shop.till.status(name).state for name in ("U0", "U1", "U2")}
    assert states == {"U0": "confirmed", "U1": "reversed", "U2": "unknown"}


def test_what_is_held_is_decided_by_a_later_import(carrying: Carrying) -> None:
    """Of a till that was stopped meanwhile: it is said, the answers come again with the same files,
    and only what a person decided since has changed."""
    shop = carrying.shop
    outage(shop, 4_000)
    before, path = booked(shop), carrying.export()
    shop.world.ledger.terminals.set_status(shop.till.enrolment.terminal, "suspended")
    for _ in range(2):
        done, out, _ = carrying.post(path)
        assert done == 1 and "held 待核查 2" in out and "a person decides it" in out
        carrying.take()
        assert shop.newest().state == "held" and booked(shop) == before
    written = _everything(shop)
    assert carrying.take().taken == 0 and _everything(shop) == written
    assert lines(carrying.export())[1:] == lines(path)[1:]  # it goes along until it is decided
    database, book = shop.world.ledger.database, shop.world.ledger.desk._book
    number = HeldList(database).listed()[-1]["n"]
    HeldRulings(database, book, shop.world.now).post(number, operator="wang")
    assert carrying.post(path)[0] == 0
    answers = upload_file.read_answers(carrying.answers).answers
    assert shop.till.take_answers(answers[1:]).taken == 0 and shop.newest().state == "held"
    assert carrying.take().taken == 2
    sale = shop.newest()
    assert sale.state == "confirmed" and booked(shop) == before + 4_000
    for kind in ("redeem", "accept_offline"):
        assert shop.till.journal.is_decided(shop.till.journal.record_of(sale, kind).sequence)


# ── back in the shop ───────────────────────────────────────────────────────────────────────────


def test_answers_that_were_altered_are_not_believed(carrying: Carrying) -> None:
    """Another amount, another till's, another record's, one signed by somebody else: the sale stays
    open, and why is said by its number."""
    shop = carrying.shop
    outage(shop, 1_000, 2_000)
    carrying.post(carrying.export())
    found = [dict(each) for each in upload_file.read_answers(carrying.answers).answers]
    forged = []
    for each in found:
        head, body, signature = each["outcome"].split(".")
        said = json.loads(unb64(body))
        said["recorded_at"] = "2026-11-22T08:00:00.001Z"
        forged.append({"outcome": ".".join((head, b64(json.dumps(said).encode()), signature))})
    taken = shop.till.take_answers(forged)
    assert taken.taken == 0 and len(taken.problems) == 2
    assert all("can't be trusted" in why for why in taken.problems.values())
    # One sale's answers for the other's record: nobody asked for them.
    assert shop.till.take_answers(found[:1]).taken == 0  # the sale without its acceptance
    assert [a.state for a in shop.till.journal.attempts()[-2:]] == ["provisional"] * 2
    assert shop.till.take_answers(found[2:]).taken == 1
    assert [a.state for a in shop.till.journal.attempts()[-2:]] == ["provisional", "confirmed"]


@pytest.mark.parametrize("running", [True, False])
def test_the_command_gives_the_answers_to_the_till(
    carrying: Carrying, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    """Through the running plugin, in as many requests as it takes, or with the till stopped."""
    shop, run = carrying.shop, carrying.run
    outage(shop, 1_000, 2_000, 3_000)
    carrying.post(carrying.export())
    words = ("till", "import-answers", carrying.answers, "--folder", shop.folder)
    Settings.write_default(shop.folder)
    monkeypatch.setattr(upload_commands, "PART_BYTES", 2_000)
    if running:
        with plugged(shop.world, shop.till, Faults()) as opened:
            write_settings(shop.folder, port=int(opened.url.rsplit(":", 1)[1]))
            done, out, err = run(*words)
    else:
        shop.till.close()
        pairing.make(shop.folder)
        real = functools.partial(app.opened, now=shop.world.now)
        monkeypatch.setattr(app, "opened", real)
        done, out, err = run(*words)
    assert "Taken 已接受: 3" in out, out + err
    with closing(JournalView.open(shop.folder / "journal.db", KeySet([]))) as journal:
        assert {a.state for a in journal.attempts()} == {"confirmed"}
    assert done == 0 and "Still open 仍未完成: 0" in out
    assert out.endswith("Not uploaded 未上传: 0\n")
    assert "news" not in out and "cut" not in out


def test_answers_that_change_nothing_say_why(
    carrying: Carrying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was cut between the two answers to a sale, one that holds none, one that the
    till took before."""
    shop, run = carrying.shop, carrying.run
    outage(shop, 1_000)
    carrying.post(carrying.export())
    shop.till.close()
    Settings.write_default(shop.folder)
    pairing.make(shop.folder)
    monkeypatch.setattr(app, "opened", functools.partial(app.opened, now=shop.world.now))
    whole = carrying.answers.read_bytes()
    header, *lines = whole.splitlines(keepends=True)
    sale = next(n for n, line in enumerate(lines) if _kind_of(line) == "redeem")
    for data, taken, says in (
        (header + lines[sale], 0, "only one of two answers is in it: the file was cut"),
        (header, 0, "It holds no answers"),
        (whole[:-40], 0, "only one of two answers"),
        (whole, 1, "Taken"),
        (whole, 0, "None of them is news"),
    ):
        carrying.answers.write_bytes(data)
        _, out, err = run("till", "import-answers", carrying.answers, "--folder", shop.folder)
        assert f"Taken 已接受: {taken} " in out and says in out, (says, out, err)


def _kind_of(line: bytes) -> str | None:
    claims = json.loads(line)["outcome"].split(".")[1]
    return str(json.loads(unb64(claims))["kind"])
