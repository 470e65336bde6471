"""The vectors of docs/offline.md §10, version 2 of a file of answers: the ledger's keys go along.

Expected values by hand; `upload.json` is version 1 and stays.
"""

# Tables read better with their cases on long lines.
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

from tests.vectors import key_change_vectors, offline_vectors, second, second_upload
from tests.vectors.key_change_vectors import KEYSET, OTHER_ROOT, ROOT, SECOND_KEY, jwk, named_key
from tests.vectors.second import jcs, sign
from tests.vectors.undo_vectors import INCARNATION, LEDGER, TERMINAL

Json = dict[str, Any]


def key_set(by: bytes = ROOT, **changes: Any) -> Json:
    """What goes along: the root's public key, and the set that it signed."""
    said = {
        "v": 1, "ledger": "ledger-1", "version": 2, "epoch": 1,
        "keys": [jwk(LEDGER), jwk(SECOND_KEY)], **changes,
    }  # fmt: skip
    return {"root": jwk(by), "keyset": sign(jcs(said), KEYSET, by)}


def upload_keys_file() -> Json:
    chain = offline_vectors.chain()
    [posted, also_posted] = [
        each["outcome"] for each in offline_vectors.outcomes(chain)
        if each["name"] in ("the sale is posted", "the acceptance is posted")
    ]  # fmt: skip
    answers = [{"outcome": posted}, {"outcome": also_posted}]
    digests = [{"record_sha256": each["digest"]} for each in chain[:2]]
    keys = key_set()
    head: Json = {
        "v": 2, "kind": "outcomes", "terminal": TERMINAL, "incarnation": INCARNATION,
        "ledger_keys": keys,
    }  # fmt: skip
    plain = {name: value for name, value in head.items() if name != "ledger_keys"}
    whole = "".join(jcs(each).decode() + "\n" for each in (head, *answers))

    def headed(header: Json | str) -> str:
        first = header if isinstance(header, str) else jcs(header).decode()
        return "\n".join((first, *whole.split("\n")[1:]))

    read = {"lines": digests, "bad": [], "ledger_keys": keys}
    without = {**read, "ledger_keys": None}
    files: list[tuple[str, str, Json | None]] = [
        ("version 2, with keys", whole, read),
        ("version 1, without", headed({**plain, "v": 1}), without),
        ("as an editor saved it", "\ufeff" + whole.replace("\n", "\r\n"), read),
        ("cut in the second answer", whole[:-40], {**read, "lines": digests[:1], "bad": [3]}),
        ("keys that nobody believes are read all the same", headed({**head, "ledger_keys": key_set(OTHER_ROOT)}), {**read, "ledger_keys": key_set(OTHER_ROOT)}),
        ("version 2 without keys", headed(plain), None),
        ("version 2 with keys that are null", headed({**head, "ledger_keys": None}), None),
        ("version 1 with keys", headed({**head, "v": 1}), None),
        ("version 3", headed({**head, "v": 3}), None),
        ("version 0", headed({**plain, "v": 0}), None),
        ("the version as text", headed({**head, "v": "2"}), None),
        ("the version true", headed({**plain, "v": True}), None),
        ("with a name more", headed({**head, "note": ""}), None),
        ("with the keys that others' libraries read", headed({**head, "ledger_keys": {**keys, "keys": [jwk(LEDGER)]}}), None),
        ("without the root", headed({**head, "ledger_keys": {"keyset": keys["keyset"]}}), None),
        ("cut in the header", jcs(head).decode()[:-60], None),
        ("without a header", whole.partition("\n")[2], None),
    ]  # fmt: skip
    for name, text, expected in files:
        got = second_upload.read_file(text.encode(), "outcomes")
        if got is not None:
            got = {
                **{n: got[n] for n in ("lines", "bad")},
                "ledger_keys": got["header"].get("ledger_keys"),
            }
        assert got == expected, (name, got)
    return {
        "note": "docs/offline.md §10, version 2 of a file of answers. `files`: what a reader finds in each,"
        " null where it is no such file. `trust`: what a till that holds one key set does with the one in a"
        " header: it is `taken` in its place; nothing changes (`held`); or the file is refused with this code"
        " and nothing of it is read. `root` signs; its `kid` is what the activation code named.",
        "terminal": TERMINAL,
        "incarnation": INCARNATION,
        "root": named_key(ROOT),
        "written": {"answers": answers, "ledger_keys": keys, "file": whole},
        "files": [{"name": n, "file": text, "read": expected} for n, text, expected in files],
        "trust": _trust(),
    }  # fmt: skip


def _trust() -> list[Json]:
    one, both = [jwk(LEDGER)], [jwk(LEDGER), jwk(SECOND_KEY)]
    three = [*both, jwk(key_change_vectors.NEW)]
    first, second_ = key_set(version=1, keys=one), key_set()
    bent = second_["keyset"][:-4] + ("AAAA" if second_["keyset"][-4:] != "AAAA" else "AAAB")
    invalid, malformed = "signature_invalid", "malformed"
    cases: list[tuple[str, Json, Json, str]] = [
        ("the key was changed once", first, second_, "taken"),
        ("the key was changed twice", first, key_set(version=3, keys=three), "taken"),
        ("the ledger began to heal", first, key_set(epoch=2, keys=one), "taken"),
        ("the set that is held", second_, second_, "held"),
        ("one from before it", second_, first, "held"),
        ("one from long before it", key_set(version=3, epoch=2, keys=three), first, "held"),
        ("one from before it that has a key which is not held", second_, key_set(version=1, keys=three), malformed),
        ("one from before it, of a later epoch", second_, key_set(version=1, epoch=2, keys=one), malformed),
        ("another one of the same version", second_, key_set(keys=three), malformed),
        ("a newer one that lacks a key which is held", second_, key_set(version=3, keys=one), malformed),
        ("a newer one of an earlier epoch", key_set(epoch=2), key_set(version=3, epoch=1, keys=three), malformed),
        ("a newer one of another ledger with the same root", first, key_set(ledger="ledger-2"), malformed),
        ("another root's", first, key_set(OTHER_ROOT), invalid),
        ("another root's under the right one's name", first, {**key_set(OTHER_ROOT), "root": jwk(ROOT)}, invalid),
        ("with another signature", first, {**second_, "keyset": bent}, invalid),
        ("cut", first, {**second_, "keyset": second_["keyset"][:-40]}, malformed),
        ("signed as something else", first, {"root": jwk(ROOT), "keyset": sign(jcs({"v": 1}), "carepos-outcome+jws", ROOT)}, malformed),
        ("the root a text", first, {**second_, "root": second.thumbprint(second.public(ROOT))}, malformed),
        ("without a key", first, key_set(keys=[]), malformed),
    ]  # fmt: skip
    root = second.thumbprint(second.public(ROOT))
    for name, held, carried, then in cases:
        got = second_upload.take_keys(held, carried, root)
        assert got == then, (name, got)
    names = ("name", "held", "ledger_keys", "then")
    return [dict(zip(names, case, strict=True)) for case in cases]
