"""The ledger changed its signing key while a shop had no network: the answers that are carried to
it bring the new one along (docs/offline.md §10), believed by the one rule for it (T-13)."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from carepos import Till, Unreachable, jws, upload_file
from carepos.client import Transport
from carepos.commands import main
from carepos.errors import SignatureInvalid
from carepos.journal_view import JournalView
from carepos.keys import KeySet, SigningKey
from carepos_ledger import app as ledger_app
from carepos_ledger import import_records
from carepos_ledger.keyring import Keyring
from carepos_plugin import app, pairing
from carepos_plugin.settings import Settings
from tests.pos_plugin.rig import Faults, plugged, write_settings
from tests.stories.offline_shop import OfflineShop, offline_world
from tests.world import PROGRAMME, end, served

Json = dict[str, Any]


class Cut:
    """A shop without a network, its files carried, and a ledger that changes its key meanwhile."""

    def __init__(
        self,
        shop: OfflineShop,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        servers: ExitStack,
    ) -> None:
        self.shop, self.folder, self._capsys, self._servers = shop, folder, capsys, servers
        self.files = 0
        families = [shop.at_home(12_000) for _ in range(4)]
        shop.learn()
        shop.till.settle()
        shop.cable.is_out = True
        self._codes = iter([each.token() for each in families])

    @property
    def till(self) -> Till:
        return self.shop.till

    def run(self, *words: object) -> tuple[int, str]:
        """(exit code, all that was said) of one command, and never a traceback."""
        try:
            code = main([*map(str, words)])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out + err

    def sell(self, amount_minor: int = 1_000) -> None:
        assert self.shop.sell(next(self._codes), amount_minor).state == "provisional"

    def rotate(self) -> str:
        """A new signing key, the server started again; its kid."""
        made = self.shop.world
        end(made.server)
        made.ledger.close()
        fresh = Keyring.rotate(made.settings.folder)
        made.ledger = ledger_app.build(made.settings, now=made.now)
        self._servers.callback(made.ledger.close)
        made.url, made.server = self._servers.enter_context(served(made.ledger))
        return fresh.signing.kid

    def export(self) -> Path:
        self.files += 1
        path = self.folder / f"file-{self.files}"
        code, said = self.run("till", "export", path, "--folder", self.shop.folder)
        assert code == 0, said
        return path

    def post(self, *files: Path, answers: str = "answers") -> Path:
        """At the office; the answers that go back to the shop."""
        path = self.folder / answers
        code, said = self.run(
            "ledger", "import-records", *files, "--url", self.shop.world.url,
            "--folder", self.folder, "--answers", path,
        )  # fmt: skip
        assert code == 0, said
        return path

    def take(self, path: Path) -> tuple[int, str]:
        """In the shop, through the running plugin: (exit code, what it says)."""
        if not (self.shop.folder / "plugin.toml").exists():
            Settings.write_default(self.shop.folder)
        with plugged(self.shop.world, self.till, Faults()) as opened:
            write_settings(self.shop.folder, port=int(opened.url.rsplit(":", 1)[1]))
            return self.run("till", "import-answers", path, "--folder", self.shop.folder)

    @property
    def version(self) -> int:
        return self.till.enrolment.ledger_keys.version

    def states(self) -> list[str]:
        return [each.state for each in self.till.journal.attempts() if each.amount_minor == 1_000]

    def everything(self) -> tuple[Any, ...]:
        """All that may tell that something was taken."""
        journal = self.till.journal
        return (
            (self.shop.folder / "enrolment.json").read_bytes(),
            self.version,
            journal.sequence,
            [
                (a.state, journal.events_of(a.id), journal.outcomes_of(a.sequence))
                for a in journal.attempts()
            ],
        )


@pytest.fixture
def cut(tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Cut]:
    with offline_world(tmp_path, database_url) as made, ExitStack() as servers:
        yield Cut(OfflineShop(made), tmp_path, capsys, servers)
        for till in made.tills:
            till.close()


def kids(path: Path) -> set[str]:
    """Who signed the outcomes in a file."""
    found = upload_file.read_answers(path).answers
    return {jws.header_kid(each["outcome"], typ=jws.OUTCOME) for each in found}


@pytest.mark.parametrize("running", [True, False])
def test_the_answers_bring_the_new_key(
    cut: Cut, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    """The sales are booked once and confirmed without a network, through the plugin or with the
    till stopped; the key is kept, so that a restart without a network reads them too."""
    cut.sell()
    before = cut.shop.world.ledger.office.programme_sums(PROGRAMME["programme"]).redeemed_minor
    kid = cut.rotate()
    answers = cut.post(cut.export())
    assert kids(answers) == {kid} and cut.version == 1
    with pytest.raises(SignatureInvalid):
        cut.till.enrolment.ledger_keys.keys.get(kid)
    if running:
        code, said = cut.take(answers)
    else:
        cut.till.close()
        Settings.write_default(cut.shop.folder)
        pairing.make(cut.shop.folder)
        monkeypatch.setattr(app, "opened", functools.partial(app.opened, now=cut.shop.world.now))
        code, said = cut.run("till", "import-answers", answers, "--folder", cut.shop.folder)
    assert (code, "Taken 已接受: 1" in said, "new keys were taken" in said) == (0, True, True), said
    with closing(JournalView.open(cut.shop.folder / "journal.db", KeySet([]))) as journal:
        assert {each.state for each in journal.attempts()} == {"confirmed"}
    cut.shop.restart()
    assert cut.version == 2 and cut.states() == ["confirmed"]
    sums = cut.shop.world.ledger.office.programme_sums(PROGRAMME["programme"])
    assert sums.redeemed_minor == before + 1_000
    # And when the network is back there is nothing to do.
    cut.shop.cable.is_out = False
    cut.till.settle()
    assert cut.till.close_day().acknowledged


def test_keys_that_were_changed_twice_and_one_that_is_retired(cut: Cut) -> None:
    """Three sales, answered under three keys, each older one retired since: one file settles them
    all at a till that knew the first key only, without five minutes between."""
    cut.sell()
    cut.export()
    first = cut.post(cut.folder / "file-1", answers="first")
    one = kids(first)
    two = cut.rotate()
    cut.sell()
    cut.post(cut.export(), answers="second")
    three = cut.rotate()
    cut.sell()
    answers = cut.post(cut.export())
    assert kids(answers) == one | {two, three} and len(one) == 1
    assert cut.take(answers)[0] == 0
    assert cut.states() == ["confirmed"] * 3 and cut.version == 3
    # Files that came late tell nothing new; the set of before is no reason to refuse them.
    written = cut.everything()
    for late in ("first", "second", "answers"):
        code, said = cut.take(cut.folder / late)
        assert code == 0 and "Taken 已接受: 0" in said and "new keys" not in said, said
    assert cut.everything() == written


def test_an_older_file_still_settles_what_it_answers(cut: Cut) -> None:
    """The till has met a newer key in the meantime; the older set in the file changes nothing and
    its answers count."""
    cut.sell()
    cut.rotate()
    older = cut.post(cut.export(), answers="older")
    cut.rotate()
    cut.sell()
    second = cut.export()
    lines = second.read_bytes().splitlines(keepends=True)
    said = json.loads(lines[0])
    only_new = cut.folder / "only-new"
    low = said["from_sequence"] = said["to_sequence"] - 1
    only_new.write_bytes(json.dumps(said).encode() + b"\n" + b"".join(lines[-2:]))
    assert low > 0
    assert cut.take(cut.post(only_new, answers="newer"))[0] == 1  # the first sale is open still
    assert cut.version == 3 and cut.states() == ["provisional", "confirmed"]
    code, told = cut.take(older)
    assert (code, cut.states(), cut.version) == (0, ["confirmed"] * 2, 3), told


def test_without_the_key_the_sale_waits(cut: Cut) -> None:
    """Version 1 of the file, as an office with older software makes it: why is said, nothing is
    lost, and the file with the key settles it."""
    cut.sell()
    cut.rotate()
    answers = cut.post(cut.export())
    found = upload_file.read_answers(answers)
    plain = cut.folder / "plain"
    plain.write_bytes(b"".join(upload_file.answers_lines(found.chain, found.answers)))
    code, said = cut.take(plain)
    assert code == 1 and "not known here" in said and cut.states() == ["provisional"]
    assert cut.version == 1
    assert cut.take(answers)[0] == 0 and cut.states() == ["confirmed"]


# ── whom it does not believe ───────────────────────────────────────────────────────────────────


def offered_by(cut: Cut, **changes: Any) -> Json:
    """A key set of the ledger's own root, with names of it changed."""
    folder = cut.shop.world.settings.folder
    root = SigningKey.load(folder / "root.key")
    held = Keyring.load(folder).keys
    payload = jws.verify(held.keyset, typ=jws.KEYSET, keys=KeySet([root.public])).payload
    signed = jws.sign({**payload, **changes}, typ=jws.KEYSET, key=root)
    return {"root": root.public.to_jwk(), "keyset": signed}


def strangers(cut: Cut, name: str) -> Json:
    """What stands in the header in the place of the ledger's keys."""
    own = Keyring.load(cut.shop.world.settings.folder)
    jwks = [each.to_jwk() for each in own.keys.keys]
    match name:
        case "another root":
            other = Keyring.create(cut.folder / "other-ledger")
            return dict(other.keys.document())
        case "another root under its name":
            other = Keyring.create(cut.folder / "other-ledger")
            return {**other.keys.document(), "root": own.root.to_jwk()}
        case "a stranger's key among them":
            key = SigningKey.generate()
            said = {"v": 1, "ledger": own.ledger, "version": 9, "epoch": 1}
            signed = jws.sign(
                {**said, "keys": [*jwks, key.public.to_jwk()]}, typ=jws.KEYSET, key=key
            )
            return {"root": own.root.to_jwk(), "keyset": signed}
        case "of another ledger with this root":
            return offered_by(cut, ledger="ledger-2")
        case "without a key that is held":
            return offered_by(cut, keys=jwks[1:])
        case "back to another version 1":
            return offered_by(cut, version=1)
        case "of an epoch that is none":
            return offered_by(cut, epoch=0)
        case "cut":
            whole = own.keys.document()
            return {**whole, "keyset": str(whole["keyset"])[:-20]}
    raise AssertionError(name)


STRANGERS = {
    "another root": "signature_invalid",
    "another root under its name": "signature_invalid",
    "a stranger's key among them": "signature_invalid",
    "of another ledger with this root": "malformed",
    "without a key that is held": "malformed",
    "back to another version 1": "malformed",
    "of an epoch that is none": "malformed",
    "cut": "malformed",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_t_13_keys_that_are_not_the_ledgers_next_are_not_believed(cut: Cut, name: str) -> None:
    """T-13: the file is refused whole, with a code, though its answers are the ledger's own: also
    those under the key that the till knows are not taken. Then the true file settles all."""
    cut.sell()
    cut.export()
    cut.post(cut.folder / "file-1")
    cut.rotate()
    cut.sell()
    answers = cut.post(cut.export())
    assert len(kids(answers)) == 2
    true = answers.read_bytes()
    header, rest = true.split(b"\n", 1)
    forged = {**json.loads(header), "ledger_keys": strangers(cut, name)}
    answers.write_bytes(json.dumps(forged).encode() + b"\n" + rest)
    written = cut.everything()
    code, said = cut.take(answers)
    assert code == 2 and "not believed" in said and STRANGERS[name] in said, said
    assert "nothing was changed" in said and cut.everything() == written
    answers.write_bytes(true)
    assert cut.take(answers)[0] == 0 and cut.states() == ["confirmed"] * 2


def another_header(cut: Cut, true: bytes, name: str) -> bytes:
    header, rest = true.split(b"\n", 1)
    said = json.loads(header)
    match name:
        case "cut in the header":
            return header[: len(header) // 2]
        case "without the header":
            return rest
        case "of a later version":
            said["v"] = 3
        case "version 1 with keys":
            said["v"] = 1
        case "version 2 without keys":
            del said["ledger_keys"]
        case "another till's":
            said["terminal"] = "t-other"
        case "another journal's":
            said["incarnation"] = "f" * 32
    return json.dumps(said).encode() + b"\n" + rest


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cut in the header", "is not a file of a ledger's answers"),
        ("without the header", "is not a file of a ledger's answers"),
        ("of a later version", "of version 3, which is not known here: update CarePOS"),
        ("version 1 with keys", "is not a file of a ledger's answers"),
        ("version 2 without keys", "is not a file of a ledger's answers"),
        ("another till's", "is for the till t-other"),
        ("another journal's", "is for an earlier journal of this till"),
    ],
)
def test_a_header_that_is_not_the_files_own_changes_nothing(cut: Cut, name: str, why: str) -> None:
    """Cut, swapped, of a version that nobody knows: exit 2, one sentence, no key and no answer is
    taken."""
    cut.sell()
    cut.rotate()
    answers = cut.post(cut.export())
    true = answers.read_bytes()
    answers.write_bytes(another_header(cut, true, name))
    written = cut.everything()
    code, said = cut.take(answers)
    assert code == 2 and why in said and cut.everything() == written, said
    answers.write_bytes(true)
    assert cut.take(answers)[0] == 0 and cut.states() == ["confirmed"]


def test_keys_that_cannot_be_kept_are_not_believed(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: nothing of the file is taken, for after a restart nobody could read it again."""
    cut.sell()
    cut.rotate()
    found = upload_file.read_answers(cut.post(cut.export()))
    written = cut.everything()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    assert found.ledger_keys is not None
    with monkeypatch.context() as patched:
        patched.setattr("carepos.durable.write", full)
        with pytest.raises(OSError, match="No space"):
            cut.till.take_ledger_keys(found.ledger_keys)
        taken = cut.till.take_answers(found.answers)
    assert taken.taken == 0 and cut.everything() == written
    assert cut.till.take_ledger_keys(found.ledger_keys)
    assert cut.till.take_answers(found.answers).taken == 1


# ── at the office ──────────────────────────────────────────────────────────────────────────────


def test_where_the_keys_do_not_come_the_answers_are_written_all_the_same(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of version 1, and it is said; the same command again adds them, and one that fails later does
    not lose them."""
    cut.sell()
    cut.rotate()
    path = cut.export()
    real: Callable[..., Any] = Transport.json

    def without(self: Transport, method: str, target: str, **more: Any) -> Any:
        if target == "/.well-known/jwks.json":
            raise Unreachable("no answer from the ledger (the line is cut)")
        return real(self, method, target, **more)

    monkeypatch.setattr(Transport, "json", without)
    words = (
        "ledger", "import-records", path, "--url", cut.shop.world.url,
        "--folder", cut.folder, "--answers", cut.folder / "answers",
    )  # fmt: skip
    code, said = cut.run(*words)
    assert code == 0 and "without the ledger's keys" in said
    assert upload_file.read_answers(cut.folder / "answers").ledger_keys is None
    monkeypatch.undo()
    code, said = cut.run(*words)
    assert code == 0 and "without the ledger's keys" not in said
    with_keys = (cut.folder / "answers").read_bytes()
    monkeypatch.setattr(import_records, "key_set", lambda _: None)
    code, said = cut.run(*words)
    assert code == 0 and (cut.folder / "answers").read_bytes() == with_keys
    assert cut.take(cut.folder / "answers")[0] == 0 and cut.states() == ["confirmed"]
