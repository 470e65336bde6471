"""An issuer's folder: keys come, sign and go, and readers are never surprised."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from carepos import issuers_file
from carepos.errors import Malformed
from carepos.issuer_folder import ABOUT, IssuerFolder, IssuerSigner
from carepos.issuer_keys import IssuerKeys, SetRefused
from carepos.keys import SigningKey
from carepos.token import TokenVerifier, mint

NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)


def made(folder: Path, alg: str = "EdDSA") -> IssuerFolder:
    return IssuerFolder.create(folder, iss="https://id.example", audience="urn:a", alg=alg)


@pytest.mark.parametrize("alg", ["EdDSA", "ES256", "RS256"])
def test_what_is_published_is_a_set_that_readers_take(tmp_path: Path, alg: str) -> None:
    """jwks.json and issuers.json hold the public keys, pinned to their alg, and nothing private."""
    folder = made(tmp_path / "office", alg).add_key("ES256")
    document = (folder.path / "jwks.json").read_bytes()
    found = IssuerKeys.from_jwks(document, NOW)
    assert sorted(key.kid for key in found) == ["k1", "k2"] and found.left_out == 0
    assert found.keys["k1"].key == folder.signer.public.key
    believed = issuers_file.load(folder.path / "issuers.json", NOW)
    assert sorted(believed["https://id.example"].keys) == ["k1", "k2"]
    assert IssuerFolder.load(folder.path).jwks() == folder.jwks()
    for jwk in json.loads(document)["keys"]:
        assert not {"d", "p", "q", "k"} & jwk.keys()


def test_a_rotation_needs_no_outage(tmp_path: Path) -> None:
    """The new key is published before it signs, and the old one until its tokens are over; each set
    is one that readers put in the place of the one before. Of the old key nothing is left, also not
    where its file lay on the disk."""
    first = made(tmp_path / "office")
    bytes_on_disk = tmp_path / "held"
    bytes_on_disk.hardlink_to(first.path / "k1.key")
    second = first.add_key()
    assert second.signs == "k1" and sorted(second.signers) == ["k1", "k2"]
    third = second.sign_with("k2")
    fourth = third.drop("k1")
    assert list(fourth.signers) == ["k2"] and not (fourth.path / "k1.key").exists()
    assert not any(bytes_on_disk.read_bytes())
    held = IssuerKeys.from_jwks(json.dumps(first.jwks()).encode(), NOW)
    for each in (second, third, fourth):
        held = held.replaced_by(IssuerKeys.from_jwks(json.dumps(each.jwks()).encode(), NOW))
    assert sorted(held.keys) == ["k1", "k2"] and list(held.retiring) == ["k1"]
    assert IssuerFolder.load(fourth.path).signs == "k2"
    assert fourth.next_kid() == "k3"


def test_a_kid_names_one_key_for_ever(tmp_path: Path) -> None:
    """A key that was dropped may be held, or withdrawn for ever, under its kid: the next key gets
    another one, and nobody can choose that one again."""
    folder = made(tmp_path / "office").add_key()
    held = IssuerKeys.from_jwks(json.dumps(folder.jwks()).encode(), NOW)
    folder.drop("k2")
    folder = IssuerFolder.load(folder.path).add_key()
    assert sorted(folder.signers) == ["k1", "k3"]
    held.replaced_by(IssuerKeys.from_jwks(json.dumps(folder.jwks()).encode(), NOW))
    with pytest.raises(Malformed, match="another key before"):
        folder.add_key(kid="k2")


class Crash(BaseException):
    """What no handler of an error stops."""


def test_a_crash_in_the_middle_stops_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two files of a change: the same command does it when it is typed again, and a key
    that was to go is gone then."""

    def crash(*_: object, **__: object) -> None:
        raise Crash

    path = tmp_path / "office"
    with monkeypatch.context() as dying:
        dying.setattr("carepos.durable.write", crash)
        with pytest.raises(Crash):
            made(path)
    folder = made(path)
    with monkeypatch.context() as dying:
        dying.setattr("carepos.durable.write", crash)
        with pytest.raises(Crash):
            folder.add_key()
    folder = IssuerFolder.load(path).add_key("ES256")
    assert [signer.alg for signer in folder.signers.values()] == ["EdDSA", "ES256"]
    added = next(kid for kid in folder.signers if kid != folder.signs)
    with monkeypatch.context() as dying:
        dying.setattr(Path, "unlink", crash)
        with pytest.raises(Crash):
            folder.drop(added)
    for _ in range(2):
        IssuerFolder.load(path).drop(added)
        assert not (path / f"{added}.key").exists()


def test_the_key_that_signs_is_not_dropped(tmp_path: Path) -> None:
    """Nor is a kid used or dropped that is not there, nor one that is there made again."""
    folder = made(tmp_path / "office")
    acts: list[Callable[[], IssuerFolder]] = [
        lambda: folder.drop("k1"),
        lambda: folder.sign_with("k9"),
        lambda: folder.add_key(kid="../k2"),
        lambda: folder.add_key("HS256"),
    ]
    for act in acts:
        with pytest.raises(Malformed):
            act()
    with pytest.raises(FileExistsError):
        folder.add_key(kid="k1")
    with pytest.raises(FileExistsError):
        made(tmp_path / "office")
    assert (folder.path / "k1.key").exists()


def test_a_wallets_key_beside_them_is_no_key_of_the_issuer(tmp_path: Path) -> None:
    """Only the kids that issuer.json lists are published, whatever else lies in the folder."""
    folder = made(tmp_path / "office")
    IssuerSigner.generate("ES256", "holder").save(folder.path / "holder.key")
    assert list(IssuerFolder.load(folder.path).signers) == ["k1"]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"iss":"x"}', b"\xff", b'{"iss":"x","audience":"a","keys":[],"signs":"k1"}',
     b'{"iss":"x","audience":"a","keys":["../x"],"signs":"k1"}',
     b'{"iss":"x","audience":"a","keys":["k1"],"signs":"k2"}'],
)  # fmt: skip
def test_a_damaged_folder_is_named_and_not_guessed_at(tmp_path: Path, content: bytes) -> None:
    """Every other content of issuer.json is refused by our own error."""
    folder = made(tmp_path / "office")
    (folder.path / ABOUT).write_bytes(content)
    with pytest.raises(Malformed):
        IssuerFolder.load(folder.path)


def test_a_file_that_is_no_key_is_never_quoted(tmp_path: Path) -> None:
    """The error names the file; nothing of what stands in it."""
    folder = made(tmp_path / "office")
    (folder.path / "k1.key").write_text("canary secret")
    with pytest.raises(Malformed) as refused:
        IssuerFolder.load(folder.path)
    assert "canary" not in f"{refused.value} {refused.value.__cause__}"
    assert "k1.key" in str(refused.value)


def test_issuers_file_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    """A JWKS given in its place, an issuer twice, a private key: each is named."""
    folder = made(tmp_path / "office")
    with pytest.raises(Malformed, match="key set"):
        issuers_file.load(folder.path / "jwks.json", NOW)
    one = {"iss": "https://id.example", **folder.jwks()}
    with pytest.raises(Malformed, match="twice"):
        issuers_file.read(json.dumps({"issuers": [one, one]}).encode(), NOW)
    private = {**folder.jwks()["keys"][0], "d": "AAAA"}
    with pytest.raises(Malformed, match="private key"):
        issuers_file.read(json.dumps({"issuers": [{**one, "keys": [private]}]}).encode(), NOW)
    assert issubclass(SetRefused, Malformed)


def test_a_pack_file_is_an_issuers_file_too() -> None:
    """Other names beside `issuers` are not looked at: a till's pack can be given as it is."""
    key = SigningKey.generate()
    pack = {"v": 1, "audience": "urn:a", "issuers": [{"iss": "i", "keys": [key.public.to_jwk()]}]}
    believed = issuers_file.read(json.dumps(pack).encode(), NOW)
    code = mint(key, iss="i", aud="urn:a", sub="s", jti="j", issued_at=NOW)
    assert TokenVerifier(believed, "urn:a").verify(code, NOW).iss == "i"
