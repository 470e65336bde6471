"""`make demo`: one township's relief from the county's list to the reconciled settlement.

Everything is real: the `carepos` command, ledger and plugin as processes, HTTP between them,
SIGKILL. What it makes is in `demo-out/`. With SERVE=1 ledger and plugin are left running.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from carepos.money import format_amount
from sample_merchant.demo import township
from sample_merchant.demo.damage import falsify, tamper
from sample_merchant.demo.plug import Plug
from sample_merchant.demo.processes import Process, free_port
from sample_merchant.paper_picture import render_png
from sample_merchant.product_export import load_products, sample_catalogue
from sample_merchant.shop import Answer, Declined, Plugin, PluginGone
from sample_merchant.virtual_printer import VirtualPrinter

CHECKOUTS = 40
SEED = 728
CASHIER = "c01"
WIDTH = 100

TERMINAL = shutil.get_terminal_size((110, 40)).columns

console = Console(width=max(80, min(TERMINAL, 120)), highlight=False)


class DemoFailed(Exception):
    """Something did not come out as promised."""


def expect(holds: bool, promise: str) -> None:
    """A promise of the story, checked as it is played."""
    if not holds:
        raise DemoFailed(promise)
    console.print(f"   [green]✓[/] {promise}")


class Demo:
    """The stage: folders, processes, the shop; and the story, act by act."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.seed = random.Random(SEED)
        self.catalogue = sample_catalogue()
        self.ledger_folder, self.till_folder = out / "ledger", out / "till"
        self.ledger_url = f"http://127.0.0.1:{free_port()}"
        self.plugin_url = f"http://127.0.0.1:{free_port()}"
        self.ledger_plug, self.till_plug = Plug(out / "ledger.plug"), Plug(out / "till.plug")
        self.ledger = Process(
            "ledger",
            [
                "-m", "sample_merchant.demo.ledger_process",
                str(self.ledger_folder), str(out / "ledger.plug"),
            ],
            f"{self.ledger_url}/openapi.json",
            out / "ledger.log",
        )  # fmt: skip
        self.plugin = Process(
            "plugin",
            [
                "-m", "sample_merchant.demo.till_process",
                str(self.till_folder), str(out / "till.plug"),
            ],
            f"{self.plugin_url}/",
            out / "plugin.log",
        )  # fmt: skip
        self.figures: dict[str, str] = {}
        self.checkout_no = 0
        self.slips_beside = 0
        self.left_minor: dict[int, int] = {}

    # ── one: the charity's office ──────────────────────────────────────────────────────────────

    def found_the_ledger(self, stack: ExitStack) -> None:
        act("1 · The office 项目办公室: a ledger, two funders, a programme, a shop")
        port = self.ledger_url.rsplit(":", 1)[1]
        self.command("ledger", "init", "--folder", str(self.ledger_folder), "--port", port)
        stack.enter_context(self.ledger)
        self.issuer = township.Issuer(self.out / "issuer.key", self.seed)
        (self.out / "issuer.jwks.json").write_text(self.issuer.jwks(), "ascii")
        programme = self.out / "programme.json"
        programme.write_text(
            json.dumps(township.programme(), ensure_ascii=False, indent=2), "utf-8"
        )
        self.office("issuer", township.ISSUER, "--keys", str(self.out / "issuer.jwks.json"))
        self.office("product-list", "dairy-relief", "1", str(township.PRODUCT_LIST))
        self.office("programme", str(programme))
        for funder, title, amount in (
            ("red-cross", "县红十字会", "100000"),
            ("dairy-fund", "乳业公益基金", "50000"),
        ):
            self.office("funder", funder, title)
            self.office(
                "fund", township.PROGRAMME, "--funder", funder,
                "--amount", amount, "--reference", f"{funder}-2026-1",
            )  # fmt: skip
        self.office("merchant", "zhou", "周家超市")
        self.office("store", "zhou-guzhou", "--merchant", "zhou", "周家超市 古州店")
        self.office("admit", township.PROGRAMME, "zhou-guzhou")

    def issue(self) -> None:
        act("2 · The county's list 发放名册: read as it came, refused rows shown, vouchers issued")
        enrolment = self.out / "office" / "enrolment.csv"
        enrolment.parent.mkdir()
        wanted = (
            "issue", str(township.HOUSEHOLDS), "--mapping", str(township.MAPPING),
            "--programme", township.PROGRAMME, "--enrolment", str(enrolment),
        )  # fmt: skip
        shown = self.office(*wanted, codes=(0, 1))
        console.print(indented(shown))
        again = self.office(*wanted, codes=(0, 1), quiet=True)
        self.families = township.families(enrolment)
        self.by_line = {family.line: family for family in self.families}
        sums = json.loads(self.office("status", township.PROGRAMME, "--json", quiet=True))
        expect(sums["vouchers"] == 636, "636 households hold a voucher; 23 rows were refused")
        expect(sums["issued_minor"] == 14_274_000, "¥142,740.00 is set aside for them")
        expect("636" in again, "the same file again issues nothing twice")
        expect(not sums["differences"], "the programme's sums hold")
        self.figures["issued"] = f"{sums['vouchers']} vouchers, {yuan(sums['issued_minor'])}"

    def open_the_shop(self, stack: ExitStack) -> None:
        act("3 · The shop 周家超市: its product export, a till enrolled with a one-time code")
        console.print(
            f"   {len(self.catalogue.products)} products from the shop's PC; damaged rows:"
        )
        for row in self.catalogue.damaged:
            console.print(f"   line {row.line_no}: {row.sentence_en} {row.sentence_zh}")
        spoiled = load_products(township.MADE_DAMAGED.read_bytes(), self.catalogue.loose_goods)
        console.print("   and rows made for this demo, as spreadsheets spoil barcodes:")
        for row in spoiled.damaged:
            console.print(f"   {row.code}: {row.sentence_en} {row.sentence_zh}")
        expect(not spoiled.products, "none of those is sold under another's code")
        self.printer = stack.enter_context(VirtualPrinter())
        code = self.office("activate", "zhou-guzhou", "--no-qr", quiet=True)
        activation = next(word for word in code.split() if word.startswith("cp1."))
        self.command(
            "till", "enrol", "--url", self.ledger_url, "--code", "-",
            "--folder", str(self.till_folder), stdin=activation,
        )  # fmt: skip
        settings = self.till_folder / "plugin.toml"
        text = settings.read_text("utf-8")
        port = self.plugin_url.rsplit(":", 1)[1]
        changed = {
            "port": f"port = {port}",
            "printer": f'printer = "tcp://127.0.0.1:{self.printer.port}"',
            "language": 'language = "zh"',
        }
        lines = [changed.get(line.split("=")[0].strip(), line) for line in text.splitlines()]
        settings.write_text("\n".join(lines) + "\n", "utf-8")
        stack.enter_context(self.plugin)
        secret = (self.till_folder / "pairing.secret").read_text("ascii").strip()
        self.shop = Plugin(self.plugin_url, secret)

    # ── two: the counter ───────────────────────────────────────────────────────────────────────

    def sell(self) -> None:
        act(f"4 · The counter 收银台: {CHECKOUTS} families come with their baskets")
        seconds, redeemed, own, split = [], 0, 0, 0
        self.queue = self.seed.sample(self.families, CHECKOUTS + 10)
        customers = zip(
            islice(self.next_family(), CHECKOUTS),
            township.baskets(self.catalogue, self.seed),
            strict=False,
        )
        for family, basket in customers:
            began = time.perf_counter()
            _, offer, answer = self.serve_family(family, basket)
            self.left_minor[family.line] = offer["vouchers"][0]["after"]
            seconds.append(time.perf_counter() - began)
            if not answer.confirmed:
                raise DemoFailed(f"a sale ended {answer.state}")
            redeemed += answer.amount_minor
            left = offer["totals"]["rest_minor"] + offer["totals"]["beneficiary_minor"]
            own += left
            split += left > 0
        seconds.sort()
        self.own_minor = own
        expect(
            True, f"{CHECKOUTS} redeemed, {yuan(redeemed)}; {split} paid a part with another tender"
        )
        middle = seconds[len(seconds) // 2] * 1000
        console.print(
            f"   scan to receipt: median {middle:.0f} ms, slowest {seconds[-1] * 1000:.0f} ms"
        )
        self.figures["median checkout"] = f"{middle:.0f} ms"

    def refuse(self) -> None:
        act("5 · A refused basket 不予核销: a reason for every line")
        offer = self.shop.offer(
            self.new_checkout(), self.care_code(), township.without_cover(self.catalogue)
        )
        for line in offer["lines"]:
            console.print(
                f"   {line['description']}: {line['reason']['zh']} {line['reason']['en']}"
            )
        expect(offer["refusal"] is not None, "nothing can be redeemed, and nothing was taken")
        checkout = self.new_checkout()
        try:
            self.shop.redeem(offer, checkout, CASHIER)
        except Declined as declined:
            expect(True, f"the register is told {declined.code} and sells against cash")
        else:
            raise DemoFailed("a refused basket was redeemed")

    def scan_twice(self) -> None:
        act("6 · A double scan and a double click 重复扫码: nothing changes")
        family = next(self.next_family())
        checkout, offer, first = self.serve_family(family, township.one_carton(self.catalogue))
        before = self.booked()
        second = self.shop.redeem(offer, checkout, CASHIER)
        expect(second.receipt_no == first.receipt_no, f"the same sale, {first.receipt_no}")
        expect(self.booked() == before, "the ledger moved nothing")

    # ── three: the power goes ──────────────────────────────────────────────────────────────────

    def kill_the_ledger(self) -> None:
        act("7 · The ledger is killed between COMMIT and answer 账本断电")
        before = self.booked()
        checkout = self.new_checkout()
        offer = self.offer_one_carton(checkout)
        self.ledger_plug.pull_at("committed")
        answer = self.shop.redeem(offer, checkout, CASHIER)
        code = self.ledger.wait_dead()
        expect(code < 0, f"the ledger is dead (signal {-code}); the cashier reads: {answer.state}")
        expect(answer.state == "unknown", "unknown is neither: no goods leave")
        self.ledger.start()
        answer = self.shop.retry(checkout)
        expect(answer.confirmed, f"asked again: it had been booked. {answer.receipt_no} REDEEMED")
        expect(self.booked() == before + answer.amount_minor, "taken once")

    def kill_the_till(self) -> None:
        act("8 · The till is killed between intent and answer 收银机断电")
        before = self.booked()
        checkout = self.new_checkout()
        self.pull_the_tills_plug(checkout, "before_send")
        self.shop.settle()
        answer = self.shop.checkout(checkout)
        expect(answer.state == "reversed", "its intent was never sent: looked up, then cancelled")
        expect(self.booked() == before, "nothing was taken")

        checkout = self.new_checkout()
        self.pull_the_tills_plug(checkout, "answer_read")
        self.shop.settle()
        answer = self.shop.checkout(checkout)
        expect(answer.state == "goods_asked", "the ledger had booked it: the cashier is asked")
        answer = self.shop.goods(checkout, handed_over=True)
        expect(answer.confirmed, f"the goods had been handed over: {answer.receipt_no} REDEEMED")
        expect(self.booked() == before + answer.amount_minor, "taken once")

    def pull_the_tills_plug(self, checkout: str, point: str) -> None:
        offer = self.offer_one_carton(checkout)
        self.till_plug.pull_at(point)
        try:
            self.shop.redeem(offer, checkout, CASHIER)
        except PluginGone:
            code = self.plugin.wait_dead()
        else:
            raise DemoFailed("the till survived its plug")
        console.print(f"   the till died at '{point}' (signal {-code}) and is started again")
        self.plugin.start()

    # ── four: the network goes ─────────────────────────────────────────────────────────────────

    def drill(self) -> None:
        act("9 · Ready for an outage? 断网演练: the till says so before there is one")
        self.shop.settle()  # brings a pack with the families that shop here by now
        shown = self.command("till", "drill", "--print", "--folder", str(self.till_folder))
        console.print(indented(shown))
        ready = self.shop.status()["offline"]
        expect(ready["ready"], "it is, for so long, so many families and so much as it says")
        self.slips_beside = 1  # the drill's

    def sell_through_an_outage(self) -> None:
        act("10 · The network goes 断网: the shop sells on, from what was set aside for it")
        before = self.booked()
        self.ledger.stop()
        carton = township.one_carton(self.catalogue)
        sold = [self.sell_offline(family, carton) for family in self.well_off(2)]
        amount = sum(each.amount_minor for each in sold)
        [stored] = self.shop.status()["stored"]
        console.print(f"   {stored['en']}\n   {stored['zh']}")
        expect(stored["count"] == len(sold), "both went out of the door with a PROVISIONAL slip")
        self.ledger.start()
        expect(self.shop.settle()["stored"] == [], "the network is back: both went up")
        states = {self.shop.checkout(each.document["checkout"]).state for each in sold}
        expect(states == {"confirmed"}, "both are booked as they were sold")
        expect(self.booked() == before + amount, f"{yuan(amount)}, taken once")

    def sell_offline(self, family: township.Family, basket: dict[str, Any]) -> Answer:
        _, offer, answer = self.serve_family(family, basket)
        expect(
            (offer["presentment"], offer["liability"]) == ("offline", "programme"),
            f"offered without a ledger at the programme's risk: {answer.receipt_no}, "
            f"{yuan(answer.amount_minor)}",
        )
        if not answer.goods_may_leave:
            raise DemoFailed(f"a sale without a network ended {answer.state}")
        console.print(indented(answer.document["receipt_text"]))
        return answer

    def take_back(self) -> None:
        act("11 · Taken back 撤销与退货: a void at once, one carton of two later")
        [family] = self.well_off(1)
        _, _, wrong = self.serve_family(family, township.one_carton(self.catalogue))
        voided = self.shop.void(wrong, CASHIER, "wrong_goods")
        expect(voided["taken_back"], f"{wrong.receipt_no} is VOIDED, the voucher has it back")
        _, offer, sale = self.serve_family(family, township.two_cartons(self.catalogue))
        if not sale.confirmed or offer["totals"]["rest_minor"]:
            raise DemoFailed(f"a sale ended {sale.state}")
        refunded = self.shop.refund("R1", str(sale.receipt_no), {1: 1}, CASHIER, "returned")
        expect(
            refunded["taken_back"],
            f"of {yuan(sale.amount_minor)} one carton came back: {yuan(refunded['amount_minor'])} "
            f"to the voucher, REFUND {refunded['receipt_no']}",
        )
        self.slips_beside += 2  # VOIDED and REFUND

    def well_off(self, count: int) -> list[township.Family]:
        """Families that bought here and have most left."""
        left = sorted(self.left_minor, key=lambda line: self.left_minor[line], reverse=True)
        chosen = left[:count]
        for line in chosen:
            del self.left_minor[line]
        return [self.by_line[line] for line in chosen]

    # ── five: the day's end ────────────────────────────────────────────────────────────────────

    def close_the_day(self) -> None:
        act("12 · Day close 日结: the till's Z, the ledger's batch, the settlement file")
        report = self.shop.close_day()
        sold = report["sums"][0]
        console.print(
            f"   Z {report['z_no']} of {report['business_date']}: numbers {report['from_sequence']}"
            f" to {report['to_sequence']}, {report['confirmed']} confirmed, "
            f"{report['reversed']} cancelled, {report['open']} open, {yuan(sold['amount_minor'])}"
        )
        expect(report["acknowledged"], "the ledger holds the till's signed report, gapless")
        self.confirmed = report["confirmed"]
        console.print(indented(self.office("close")))
        self.settlements = self.out / "settlements"
        fetched = self.command(
            "settlement", "fetch", "--till", str(self.till_folder), "--to", str(self.settlements)
        )
        console.print(indented(fetched))

    def reconcile(self) -> None:
        act("13 · Reconciliation 对账: journal × settlement file")
        found = self.reconciled(self.settlements, code=0)
        (self.out / "reconciliation.txt").write_text(found, "utf-8")
        console.print(indented(found))
        expect(True, "zero differences")

        console.print("\n   A file that was changed on its way (one digit):")
        changed = tamper(self.settlements, self.out / "settlements-tampered")
        refused = self.reconciled(changed, code=2)
        console.print(indented(refused))
        expect("is not the file that was signed" in refused, "it is refused, and the column named")

        console.print("\n   A ledger that pays one fen less for one sale, and signs it:")
        wrong, receipt_no = falsify(
            self.settlements, self.ledger_folder, self.out / "settlements-planted"
        )
        named = self.reconciled(wrong, code=1)
        (self.out / "reconciliation-planted.txt").write_text(named, "utf-8")
        console.print(indented(named))
        expect(receipt_no in named, f"the planted difference is named: {receipt_no}, 0.01")

    def reconciled(self, settlements: Path, code: int) -> str:
        return self.command(
            "reconcile", "--till", str(self.till_folder),
            "--settlements", str(settlements), codes=(code,),
        )  # fmt: skip

    def show_receipts(self) -> None:
        folder = self.out / "receipts"
        folder.mkdir()
        self.printer.wait_for_jobs(self.confirmed + self.slips_beside)
        jobs = self.printer.jobs
        for number, job in enumerate(jobs, 1):
            render_png(bytes(job)).save(folder / f"{number:03d}.png")
        self.figures["receipts printed"] = f"{len(jobs)} (as pictures in {folder.name}/)"

    def summary(self, began: float) -> None:
        sums = json.loads(self.office("status", township.PROGRAMME, "--json", quiet=True))
        table = Table(title="One township's relief 一个乡镇的发放", show_header=False, min_width=70)
        for name, value in {
            "funded 两家资助方": yuan(sums["funded_minor"]),
            "issued 发放": self.figures["issued"],
            "redeemed 核销": f"{yuan(sums['redeemed_minor'])} in {self.checkout_no} checkouts",
            "still with families 未用": yuan(sums["available_minor"] + sums["allotted_minor"]),
            "paid by families besides 自付": yuan(self.own_minor),
            "receipts 小票": self.figures["receipts printed"],
            "median checkout 每单": self.figures["median checkout"],
            "killed 断电": "the ledger once, the till twice; no voucher lost, none spent twice",
            "unexplained differences 差异": "0",
        }.items():
            table.add_row(name, value)
        console.print()
        console.print(table)
        console.print(f"Files in {self.out}/ · {time.monotonic() - began:.0f} s")
        with (self.out / "summary.txt").open("w", encoding="utf-8") as file:
            Console(file=file, width=WIDTH).print(table)

    # ── helpers of the story ───────────────────────────────────────────────────────────────────

    def next_family(self) -> Iterator[township.Family]:
        while self.queue:
            yield self.queue.pop()

    def care_code(self) -> str:
        return self.issuer.care_code(next(self.next_family()))

    def new_checkout(self) -> str:
        self.checkout_no += 1
        return f"S1-{self.checkout_no:06d}"

    def offer_one_carton(self, checkout: str) -> dict[str, Any]:
        return self.shop.offer(checkout, self.care_code(), township.one_carton(self.catalogue))

    def serve_family(
        self, family: township.Family, basket: dict[str, Any]
    ) -> tuple[str, dict[str, Any], Answer]:
        checkout = self.new_checkout()
        offer = self.shop.offer(checkout, self.issuer.care_code(family), basket)
        return checkout, offer, self.shop.redeem(offer, checkout, CASHIER)

    def booked(self) -> int:
        """What shops are owed and were paid; what is set aside for a till is not in it."""
        sums = json.loads(self.office("status", township.PROGRAMME, "--json", quiet=True))
        return int(sums["redeemed_minor"])

    def office(self, *words: str, codes: tuple[int, ...] = (0,), quiet: bool = False) -> str:
        return self.command(
            "ledger", words[0], "--folder", str(self.ledger_folder), *words[1:],
            codes=codes, quiet=quiet,
        )  # fmt: skip

    def command(
        self, *words: str, codes: tuple[int, ...] = (0,), quiet: bool = False, stdin: str = ""
    ) -> str:
        """Run `carepos …` as an operator would; its output. DemoFailed for another exit code."""
        if not quiet:
            shown = " ".join(words).replace(f"{self.out}/", "")
            console.print(f"   [dim]$ carepos {shown}[/]")
        done = subprocess.run(
            [sys.executable, "-m", "carepos.commands", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "COLUMNS": str(console.width - 4)},
        )
        if done.returncode not in codes:
            raise DemoFailed(f"carepos {words[0]} {words[1]}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr


def act(title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left")


def indented(text: str) -> str:
    return "\n".join(f"   {line}".rstrip() for line in text.strip("\n").splitlines())


def yuan(amount_minor: int) -> str:
    whole, part = format_amount(amount_minor, "CNY").split(".")
    return f"¥{int(whole):,}.{part}"


def play(out: Path, serve: bool) -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        demo = Demo(out)
        demo.found_the_ledger(stack)
        demo.issue()
        demo.open_the_shop(stack)
        demo.sell()
        demo.refuse()
        demo.scan_twice()
        demo.kill_the_ledger()
        demo.kill_the_till()
        demo.drill()
        demo.sell_through_an_outage()
        demo.take_back()
        demo.close_the_day()
        demo.reconcile()
        demo.show_receipts()
        demo.summary(began)
        if serve:
            console.print(
                "\nStill running: "
                f"ledger {demo.ledger_url}/openapi.json · plugin {demo.plugin_url}\n"
                f"operator secret: {demo.ledger_folder}/operator.secret · "
                f"pairing secret: {demo.till_folder}/pairing.secret\nCtrl-C ends it."
            )
            stack.enter_context(_until_interrupted())


class _until_interrupted:  # noqa: N801  reads as a statement
    def __enter__(self) -> None:
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            console.print("ending")

    def __exit__(self, *_: object) -> None:
        pass


def main() -> int:
    out = Path("demo-out").absolute()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    try:
        play(out, serve=bool(os.environ.get("SERVE")))
    except (DemoFailed, RuntimeError) as failure:
        console.print(f"[bold red]The demo failed:[/] {failure}\nLogs are in {out}/")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
