"""`carepos ledger keys` and `rotate-key`: a new signing key, whatever happens in between."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from carepos import clock, durable, signed_time
from carepos.errors import Malformed
from carepos.keys import SigningKey
from carepos.ledger_keys import MAX_KEYS
from carepos_ledger.commands import DONE, FAILED
from carepos_ledger.keyring import POINTS, Keyring
from tests.ledger.test_commands import Said, carepos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def before(folder: Path) -> Keyring:
    return Keyring.create(folder)


def test_a_rotation_adds_a_key_and_keeps_the_others(folder: Path, before: Keyring) -> None:
    """The next version of the set, signed by the same root, with every key so far; the secret of
    the old one is nowhere any more, also not where its file lay on the disk."""
    secret = (folder / "signing.key").read_bytes().strip()
    bytes_on_disk = folder.parent / "held"
    bytes_on_disk.hardlink_to(folder / "signing.key")
    after = Keyring.rotate(folder)
    before.keys.check_successor(after.keys)
    assert after.keys.version == 2 and after.signing.kid != before.signing.kid
    assert [key.kid for key in after.keys.keys] == [before.signing.kid, after.signing.kid]
    assert (after.ledger, after.epoch, after.root) == (before.ledger, before.epoch, before.root)
    assert after.beneficiary_ref("m", "i", "s") == before.beneficiary_ref("m", "i", "s")
    assert secret not in b"".join(f.read_bytes() for f in [bytes_on_disk, *folder.iterdir()])
    if os.name == "posix":
        assert (folder / "signing.key").stat().st_mode & 0o777 == 0o600
    third = Keyring.rotate(folder)
    assert third.keys.version == 3 and len(third.keys.keys) == 3


@pytest.mark.parametrize("point", POINTS)
def test_a_rotation_that_is_cut_off_is_finished_by_the_next(
    folder: Path, before: Keyring, point: str
) -> None:
    """Stopped between its steps, the ledger still serves, with a key that is in its set; typed
    again, one rotation has taken place in all."""

    def reached(name: str) -> None:
        if name == point:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Keyring.rotate(folder, reached=reached)
    served, waiting = Keyring.load(folder), SigningKey.load(folder / "signing.key.next")
    old_is_gone = point == "old_overwritten"
    assert served.signing.kid == (waiting if old_is_gone else before.signing).kid
    assert served.keys.version == (1 if point == "key_made" else 2)
    with pytest.raises(KeyboardInterrupt):
        Keyring.rotate(folder, reached=reached)
    after = Keyring.rotate(folder)
    assert after.signing.kid == waiting.kid and after.keys.version == 2
    assert len(after.keys.keys) == 2 and not (folder / "signing.key.next").exists()


def test_the_root_key_may_be_somewhere_else(folder: Path, before: Keyring, said: Said) -> None:
    """Off the machine, as it should be: nothing happens without it, and its copy is named."""
    away = folder.parent / "root copy.key"
    (folder / "root.key").rename(away)
    held = {f.name: f.read_bytes() for f in folder.iterdir()}
    assert carepos("rotate-key", "--folder", folder) == FAILED
    assert "--root" in said.readouterr().err
    stranger = folder.parent / "stranger.key"
    SigningKey.generate().save(stranger)
    assert carepos("rotate-key", "--folder", folder, "--root", stranger) == FAILED
    assert "not the root key of this ledger" in said.readouterr().err
    assert {f.name: f.read_bytes() for f in folder.iterdir() if f.name != "keys.lock"} == held
    assert carepos("rotate-key", "--folder", folder, "--root", away) == DONE
    out = said.readouterr().out
    assert "restart" in out and "重启" in out and Keyring.load(folder).signing.kid in out
    assert not (folder / "root.key").exists()


@pytest.fixture
def said(capsys: Said) -> Said:
    return capsys


def test_the_keys_are_shown(folder: Path, before: Keyring, said: Said) -> None:
    """Version, root, the key that signs and those of old signatures; never a secret."""
    after = Keyring.rotate(folder)
    assert carepos("keys", "--folder", folder) == DONE
    lines = said.readouterr().out.splitlines()
    assert "version 2" in lines[0] and before.root.kid in lines[1]
    assert before.signing.kid in lines[2] and "old" in lines[2]
    assert after.signing.kid in lines[3] and "signs" in lines[3]
    assert carepos("keys", "--folder", folder.parent) == FAILED
    assert carepos("rotate-key", "--folder", folder.parent) == FAILED


def test_two_rotations_at_once_are_one_after_the_other(folder: Path, before: Keyring) -> None:
    """The second one is told to wait; nothing is mixed up."""
    with closing(durable.lock(folder / "keys.lock")):
        assert carepos("rotate-key", "--folder", folder) == FAILED
    assert Keyring.load(folder).keys.version == 1


def test_a_set_that_is_full_is_said(folder: Path, before: Keyring) -> None:
    """A set holds 40 keys; the fortieth rotation says so and changes nothing."""
    for _ in range(MAX_KEYS - 1):
        Keyring.rotate(folder)
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    with pytest.raises(Malformed, match="40 keys"):
        Keyring.rotate(folder)
    for file in copy.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_a_clock_reset_is_made_for_one_till(folder: Path, before: Keyring, said: Said) -> None:
    """A file that names the till and this machine's time, under the signing key; it says the time,
    for a person to judge it. A name that is none is refused."""
    to = folder.parent / "t-1.reset"
    assert carepos("clock-reset", "t-1", "--folder", folder, "--to", to) == DONE
    own = {"ledger": before.ledger, "terminal": "t-1"}
    at = signed_time.read_reset(to.read_text("ascii").strip(), **own, keys=before.keys.keys)
    assert clock.to_text(at) in said.readouterr().out
    assert carepos("clock-reset", "No Name", "--folder", folder, "--to", to) == FAILED
    assert carepos("clock-reset", "t-1", "--folder", folder / "none", "--to", to) == FAILED
