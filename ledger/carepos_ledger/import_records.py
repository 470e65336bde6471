"""`carepos ledger import-records`: what a till wrote into a file is posted for it, from anywhere.

No secret is needed: each record says who signed it, and the ledger judges it as if the till had
sent it. Whoever runs this decides nothing and believes nothing: answers are counted by what they
say, and verified by the till that they go back to (docs/offline.md §10).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from carepos import durable, jws, upload_file
from carepos.client import Transport, send_records
from carepos.errors import Malformed, NotDecided, Unreachable, problem_from
from carepos.forwarder import batched
from carepos.keys import PublicKey
from carepos.ledger_keys import LedgerKeys
from carepos.refusals import BY_CODE
from carepos.upload_file import Carried, Chain, RecordsFile
from carepos_ledger.operator_client import ANSWER_TIMEOUT_S, CommandStopped, own_url

DONE, NO, FAILED = 0, 1, 2

_FINAL: Final = ("posted", "posted_short", "refused", "reversed", "exception")
_HELD: Final = "a person decides it (carepos ledger held)"
_WORDS: Final = {
    "posted": "已入账",
    "posted_short": "部分入账",
    "refused": "已拒绝",
    "reversed": "已撤销",
    "exception": "例外",
    "held": "待核查",
    "not decided": "未处理",
}

Send = Callable[[Sequence[Mapping[str, Any]]], list[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one record: `result` of an outcome, else None; `why` besides."""

    result: str | None
    why: str
    document: Mapping[str, Any]
    missing: tuple[int, ...] = ()

    @property
    def is_final(self) -> bool:
        return self.result in _FINAL


@dataclass(frozen=True, slots=True)
class _Together:
    """Records that travel in one request."""

    records: tuple[Carried, ...]

    @property
    def envelopes(self) -> Sequence[Mapping[str, Any]]:
        return [each.envelope for each in self.records]


@dataclass
class Import:
    """All records of one chain, and what came back by their digests. `ledger_keys`: the key set
    that goes to the till with the answers, where there is one."""

    chain: Chain
    records: list[Carried]
    answers: dict[str, Answer] = field(default_factory=dict)
    ledger_keys: Mapping[str, Any] | None = None

    def post(self, send: Send, progress: Callable[[int], None] = lambda done: None) -> None:
        """Post what has no final answer, again as long as that decides more: what a record waited
        for may have stood behind it. Raises Unreachable, NotDecided; what came back stays."""
        open_ = [each for each in _together(self.records) if not self._is_decided(each)]
        while open_:
            before = len(open_)
            for batch in batched(open_):
                results = send([e for each in batch for e in each.envelopes])
                sent = (record for each in batch for record in each.records)
                for record, result in zip(sent, results, strict=True):
                    self.answers[record.digest] = read_answer(result, record)
                progress(sum(record.digest in self.answers for record in self.records))
            open_ = [each for each in open_ if not self._is_decided(each)]
            if len(open_) == before:
                return

    def _is_decided(self, each: _Together) -> bool:
        return all(
            record.digest in self.answers and self.answers[record.digest].is_final
            for record in each.records
        )

    def counts(self) -> Counter[str]:
        """How many records have each result."""
        return Counter(
            self.answers[r.digest].result or "not decided" if r.digest in self.answers else "unsent"
            for r in self.records
        )

    def gaps(self) -> list[tuple[int, int]]:
        """Ranges of numbers that are in no file, between the first and the last."""
        numbers = sorted({each.sequence for each in self.records})
        return [(low + 1, high - 1) for low, high in pairwise(numbers) if high > low + 1]

    def documents(self) -> list[Mapping[str, Any]]:
        """The answers, in the order of their records."""
        found = (self.answers.get(each.digest) for each in self.records)
        return [each.document for each in found if each is not None]


def run(args: argparse.Namespace) -> int:
    """0: every record has its final answer. 1: one has not, or a line was no record. 2: a file that
    is none (nothing was sent), or the ledger did not answer."""
    files = [(path, _read(path)) for path in args.files]
    imports = _merged(found for _, found in files)
    places = _places(args.answers, imports)
    for each in imports:
        if each.chain in places:
            _take_up(each, places[each.chain])
    transport = Transport(args.url or own_url(args.folder), answer_timeout_s=ANSWER_TIMEOUT_S)
    stopped: Unreachable | NotDecided | None = None
    with closing(transport), Progress(console=Console(stderr=True), transient=True) as progress:
        for each in imports:
            task = progress.add_task(f"Posting 上传 {each.chain.terminal}", total=len(each.records))
            try:
                each.post(
                    lambda items: send_records(transport, items),
                    lambda done, task=task: progress.update(task, completed=done),  # type: ignore[misc]
                )
            except (Unreachable, NotDecided) as error:
                stopped = error
                break
        # Behind the answers, so that no key that signed one of them is missing in it.
        keys = key_set(transport) if places else None
    for path, found in files:
        _tell_file(path, found)
    for each in imports:
        _tell(each)
        if each.chain in places and each.answers:
            each.ledger_keys = keys or each.ledger_keys
            _write_answers(each, places[each.chain])
    if stopped is not None:
        raise CommandStopped(f"{stopped}. Type the same again: it goes on where it stopped.")
    whole = all(not found.bad and not found.is_cut for _, found in files)
    final = all(each.answers[r.digest].is_final for each in imports for r in each.records)
    return DONE if whole and final else NO


def _read(path: Path) -> RecordsFile:
    try:
        return upload_file.read_records(path)
    except Malformed as error:
        raise CommandStopped(f"{path} {error}. Nothing was sent.") from None


def _merged(files: Iterable[RecordsFile]) -> list[Import]:
    """By chain; a record that stands in several files once, with its evidence if one has it."""
    found: dict[Chain, dict[str, Carried]] = {}
    for file in files:
        records = found.setdefault(file.chain, {})
        for each in file.records:
            if each.digest not in records or "evidence" in each.envelope:
                records[each.digest] = each
    return [
        Import(chain, sorted(records.values(), key=lambda each: (each.sequence, each.digest)))
        for chain, records in found.items()
    ]


def _together(records: Sequence[Carried]) -> Iterator[_Together]:
    """An acceptance right behind its sale; the others alone; by the first number of each."""
    sold = {e.id for e in records if e.kind == "redeem" and "evidence" in e.envelope}
    accepted = {e.id: e for e in records if e.kind == "accept_offline" and e.id in sold}
    for each in records:
        if each is accepted.get(each.id):
            continue
        if each.kind == "redeem" and each.id in sold and each.id in accepted:
            yield _Together((each, accepted[each.id]))
        else:
            yield _Together((each,))


def read_answer(result: Mapping[str, Any], record: Carried) -> Answer:
    """One result of `POST /v1/records`, as far as it can be read without keys."""
    problem = result.get("problem")
    if isinstance(problem, dict):
        missing = problem.get("missing")
        numbers = missing if isinstance(missing, list) else []
        status = problem.get("status")
        said = problem_from(status if isinstance(status, int) else 0, problem)
        return Answer(None, str(said), result, tuple(n for n in numbers if type(n) is int))
    try:
        _, said_ = jws.peek(result.get("outcome"), typ=jws.OUTCOME)
        told = said_.get("result")
        if said_.get("record_sha256") != record.digest or told not in (*_FINAL, "held"):
            raise Malformed("answers something else")
    except Malformed:
        return Answer(None, "not an answer of a ledger", {"problem": {"code": "internal"}})
    refusal = said_.get("refusal")
    code = refusal.get("code") if isinstance(refusal, dict) else None
    why = BY_CODE[code].en if code in BY_CODE else ""
    return Answer(str(told), _HELD if told == "held" else why, result)


def key_set(transport: Transport) -> Mapping[str, Any] | None:
    """The ledger's key set as a till is told it, of its form and no more: which root the till
    believes is known to the till alone. None where no such answer came."""
    try:
        document, _ = transport.json("GET", "/.well-known/jwks.json")
        root = PublicKey.from_jwk(document.get("root"))
        return LedgerKeys.read(document, root.kid).document()
    except (Unreachable, NotDecided, Malformed):
        return None


# ── the answers file ───────────────────────────────────────────────────────────────────────────


def _places(path: Path | None, imports: Sequence[Import]) -> dict[Chain, Path]:
    if path is None:
        return {}
    if path.is_dir():
        return {
            each.chain: path / f"{each.chain.terminal}-{each.chain.incarnation[:8]}.answers"
            for each in imports
        }
    if len(imports) > 1:
        raise CommandStopped(
            f"The files are of {len(imports)} journals: name a folder with --answers. "
            "Nothing was sent."
        )
    return {each.chain: path for each in imports}


def _take_up(each: Import, path: Path) -> None:
    """What an earlier import wrote there is not asked for again."""
    if not path.exists():
        return
    try:
        before = upload_file.read_answers(path)
    except Malformed as error:
        raise CommandStopped(f"{path} is there and {error}. Nothing was sent.") from None
    if before.chain != each.chain:
        raise CommandStopped(f"{path} holds another till's answers. Nothing was sent.")
    each.ledger_keys = before.ledger_keys
    records = {record.digest: record for record in each.records}
    for document in before.answers:
        digest = upload_file.answered_digest(document)
        if digest in records:
            answer = read_answer(document, records[digest])
            if answer.is_final:
                each.answers[digest] = answer


def _write_answers(each: Import, path: Path) -> None:
    lines = upload_file.answers_lines(each.chain, each.documents(), each.ledger_keys)
    durable.write(path, b"".join(lines), mode=0o600)
    print(f"The till's answers are in {path}. 回执文件已生成。")
    if each.ledger_keys is None:
        print(
            "  without the ledger's keys 未含账本密钥: if they were changed during the outage, the "
            "till can't read it. Type the same again."
        )
    print("In the shop: carepos till import-answers FILE. 交回商户导入。")


# ── what is said ───────────────────────────────────────────────────────────────────────────────


def _tell_file(path: Path, found: RecordsFile) -> None:
    print(
        f"{path}: {len(found.records)} records 条记录 of {found.chain.terminal}, "
        f"numbers {found.from_sequence} to {found.to_sequence}"
    )
    for each in found.bad:
        print(f"  line {each.number} is no record 第{each.number}行无法读取: {each.why}")
    if found.is_cut:
        print(
            f"  it was cut 文件不完整: number {found.to_sequence} should be the last. "
            "Bring the whole file; what is in this one was posted."
        )


def _tell(each: Import) -> None:
    counts = each.counts()
    told = ", ".join(f"{name} {_WORDS.get(name, '未发送')} {n}" for name, n in counts.items())
    print(f"{each.chain.terminal}: {told or 'nothing'}")
    for low, high in each.gaps():
        numbers = f"{low}" if low == high else f"{low} to {high}"
        print(f"  number {numbers} in no file 不在文件中: decided before, or in another file")
    for record in each.records:
        answer = each.answers.get(record.digest)
        if answer is None or answer.result in ("posted", "reversed"):
            continue
        what = answer.result or "not decided"
        why = f": {answer.why}" if answer.why else ""
        print(f"  number {record.sequence} (line {record.line}, {record.kind}) {what}{why}")
    missing = sorted({n for answer in each.answers.values() for n in answer.missing})
    if missing:
        print(
            f"  the ledger lacks 账本缺少: {', '.join(map(str, missing))}. "
            "In the shop: carepos till export FILE --all"
        )
