"""The offline pack: what a till holds so that it can verify and decide by itself.

A plain file under a signed manifest (docs/protocol.md §9): issuers' keys, this store's programmes
with their rules, product lists, what is withdrawn; and, where the till asked for them, the
households that shop here, in segments of their own (docs/offline.md §5). Top-level names we do not
know are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from carepos import clock, durable, ids, jws, money, revocation, strict_json
from carepos.errors import Malformed
from carepos.evidence import EvidenceKey
from carepos.households import SEGMENTS
from carepos.issuer_keys import MAX_KEYS, IssuerKey, IssuerKeys
from carepos.keys import Keys, KeySet, digest, unb64
from carepos.product import ProductList
from carepos.revocation import Revocations
from carepos.voucher import Programme, Voucher

MAX_SEGMENT_BYTES = 4 * 2**20

_NAMES = frozenset({"v", "terminal", "store", "audience", "issuers", "programmes", "product_lists"})


@dataclass(frozen=True, slots=True)
class Pack:
    """One verified pack. `issuers` maps `iss` to its keys; programmes and lists by their names.

    `issued_at` and `epoch` are its manifest's: a till never takes an older pack for a newer. One
    that is not whole lost its households on this disk and is fetched again. `allotted`: minor units
    by currency that the allotments of all its households held together, None where it is not told.
    """

    sha256: str
    issued_at: datetime
    epoch: int
    terminal: str
    store: str
    audience: str
    issuers: Mapping[str, IssuerKeys]
    programmes: Mapping[str, Programme]
    product_lists: Mapping[str, ProductList]
    revocations: Revocations
    evidence_key: EvidenceKey | None = None
    households: PackHouseholds | None = None
    is_whole: bool = True
    allotted: Mapping[str, int] | None = None

    def files(self) -> list[str]:
        """SHA-256 of every file that the pack consists of, its own first."""
        segments = () if self.households is None else self.households.segments
        return [self.sha256, *dict.fromkeys(segment.sha256 for segment in segments)]


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of a pack, as the pack names it."""

    sha256: str
    length: int


@dataclass(frozen=True, slots=True)
class PackHouseholds:
    """What a pack says of the households in its segments.

    `kinds` and `dates` are what they point to: vouchers without what is a household's own, and
    (`spend_until`, `reclaim_after`). For one incarnation of the till alone.
    """

    incarnation: str
    count: int
    kinds: tuple[Mapping[str, object], ...]
    dates: tuple[tuple[datetime, datetime], ...]
    segments: tuple[Segment, ...]

    @classmethod
    def from_json(cls, value: object) -> PackHouseholds:
        """Raises Malformed."""
        where = "pack.households"
        names = strict_json.exact_names(
            value, {"incarnation", "count", "kinds", "dates", "segments"}, where=where
        )
        dates = []
        for each in strict_json.array(names["dates"], f"{where}.dates", high=100_000):
            spend, reclaim = strict_json.array(each, f"{where}.dates", low=2, high=2)
            dates.append(
                (
                    clock.from_text(spend, f"{where}.dates"),
                    clock.from_text(reclaim, f"{where}.dates"),
                )
            )
        segments = strict_json.array(names["segments"], f"{where}.segments", high=SEGMENTS)
        if len(segments) not in (0, SEGMENTS):
            raise Malformed(f"must be none or {SEGMENTS}", field=f"{where}.segments")
        return cls(
            ids.incarnation(names["incarnation"], f"{where}.incarnation"),
            strict_json.integer(names["count"], f"{where}.count"),
            tuple(
                _kind(each, f"{where}.kinds")
                for each in strict_json.array(names["kinds"], f"{where}.kinds", high=100_000)
            ),
            tuple(dates),
            tuple(_segment(each, f"{where}.segments") for each in segments),
        )


_OWN = {"voucher": "A" * 22, "frozen": False, "available_minor": 0, "available_quantity": 0}


def _kind(value: object, where: str) -> Mapping[str, object]:
    """What many vouchers share, checked as the voucher that it makes."""
    if not isinstance(value, dict) or value.keys() & _OWN.keys():
        raise Malformed("must be a voucher without what is its own", field=where)
    Voucher.from_json({**value, **_OWN}, "A" * 22, where)
    return value


def _segment(value: object, where: str) -> Segment:
    names = strict_json.exact_names(value, {"sha256", "length"}, where=where)
    return Segment(
        ids.digest_text(names["sha256"], f"{where}.sha256"),
        strict_json.integer(names["length"], f"{where}.length", high=MAX_SEGMENT_BYTES),
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the ledger signed of a terminal's pack: which file it is, and from when."""

    sha256: str
    length: int
    issued_at: datetime
    epoch: int


def read_manifest(manifest: object, *, terminal: str, keys: Keys) -> Manifest:
    """Raises Malformed unless the ledger signed it as this terminal's pack."""
    signed = jws.verify(manifest, typ=jws.MANIFEST, keys=keys)
    names = strict_json.exact_names(
        signed.payload, {"v", "kind", "terminal", "issued_at", "epoch", "file"}, where="manifest"
    )
    if (names["kind"], names["terminal"]) != ("offline-pack", terminal):
        raise Malformed("is not this terminal's pack", field="manifest")
    file = strict_json.exact_names(names["file"], {"sha256", "length"}, where="manifest.file")
    return Manifest(
        ids.digest_text(file["sha256"], "manifest.file.sha256"),
        strict_json.integer(file["length"], "manifest.file.length"),
        clock.from_text(names["issued_at"], "manifest.issued_at"),
        strict_json.integer(names["epoch"], "manifest.epoch", low=1),
    )


def read(data: bytes, manifest: object, *, terminal: str, keys: Keys) -> Pack:
    """The pack in `data`, if it is the file `manifest` names. Raises Malformed."""
    told = read_manifest(manifest, terminal=terminal, keys=keys)
    if len(data) != told.length or digest(data) != told.sha256:
        raise Malformed("is not the file that its manifest names", field="pack")
    body = strict_json.read_object(data)
    names = {name: body[name] for name in _NAMES & body.keys()}
    strict_json.exact_names(names, _NAMES, where="pack")
    if strict_json.integer(names["v"], "pack.v") != 1:
        raise Malformed("must be 1", field="pack.v")
    programmes = [
        Programme.from_json(each, f"pack.programmes[{n}]")
        for n, each in enumerate(strict_json.array(names["programmes"], "pack.programmes"), 1)
    ]
    lists = [
        ProductList.from_json_object(each)
        for each in strict_json.array(names["product_lists"], "pack.product_lists")
    ]
    if missing := {p.product_list for p in programmes} - {each.product_list_id for each in lists}:
        raise Malformed(f"lacks the product list {min(missing)}", field="pack")
    issuers = dict(
        _issuer(each, told.issued_at)
        for each in strict_json.array(names["issuers"], "pack.issuers")
    )
    if any(programme.issuer not in issuers for programme in programmes):
        raise Malformed("lacks the keys of a programme's issuer", field="pack")
    return Pack(
        told.sha256,
        told.issued_at,
        told.epoch,
        terminal,
        ids.name(names["store"], "pack.store"),
        strict_json.text(names["audience"], "pack.audience"),
        issuers,
        {programme.programme: programme for programme in programmes},
        {each.product_list_id: each for each in lists},
        Revocations.from_json(body["revocations"]) if "revocations" in body else revocation.NONE,
        EvidenceKey.from_json(body["evidence_key"], "pack.evidence_key")
        if "evidence_key" in body
        else None,
        PackHouseholds.from_json(body["households"]) if "households" in body else None,
        allotted=allotted_from_json(body["allotted"]) if "allotted" in body else None,
    )


def allotted_to_json(allotted: Mapping[str, int]) -> list[dict[str, object]]:
    """A pack's `allotted`, in order of currency."""
    return [
        {"currency": currency, "amount_minor": allotted[currency]} for currency in sorted(allotted)
    ]


def allotted_from_json(value: object, where: str = "pack.allotted") -> Mapping[str, int]:
    """Minor units by currency. Raises Malformed."""
    found: dict[str, int] = {}
    for each in strict_json.array(value, where, high=200):
        names = strict_json.exact_names(each, {"currency", "amount_minor"}, where=where)
        currency = money.currency(names["currency"], f"{where}.currency")
        if found and currency <= max(found):
            raise Malformed("must be sorted, none twice", field=where)
        found[currency] = strict_json.integer(names["amount_minor"], f"{where}.amount_minor")
    return found


def _issuer(value: object, as_of: datetime) -> tuple[str, IssuerKeys]:
    names = strict_json.exact_names(value, {"iss", "keys"}, where="issuer")
    listed = strict_json.array(names["keys"], "issuer.keys", high=200)
    # Those that retire stand beside those that replaced them.
    keys = IssuerKeys.of(map(IssuerKey.from_jwk, listed), as_of, most=2 * MAX_KEYS)
    return strict_json.text(names["iss"], "issuer.iss"), keys


def keep(folder: Path, files: Iterable[bytes], manifest: str) -> None:
    """Store a verified pack durably beside the journal: its file, its segments, its manifest.

    Each file has a name of its own, so that the manifest decides in one step which pack is held:
    a crash at any point leaves the old one or the new one, never none.
    """
    paths = set()
    for data in files:
        sha256 = digest(data)
        path = folder / _file_name(sha256)
        paths.add(path)
        if read_file(folder, sha256) is None:  # also one that a power cut garbled
            durable.write(path, data)
    keep_manifest(folder, manifest)
    for other in folder.glob("pack-*.json"):
        if other not in paths:
            other.unlink(missing_ok=True)


def read_file(folder: Path, sha256: str) -> bytes | None:
    """A pack's file that is kept here, if it is what its name says."""
    try:
        data = (folder / _file_name(sha256)).read_bytes()
    except OSError:
        return None
    return data if digest(data) == sha256 else None


def _file_name(sha256: str) -> str:
    # Hexadecimal: there are file systems to which a and A are one letter.
    return f"pack-{unb64(sha256).hex()[:32]}.json"


def keep_manifest(folder: Path, manifest: str) -> None:
    """Store a newer manifest of the same file: what is held is as old as it says."""
    durable.write(folder / "pack.manifest", manifest.encode("ascii"))


def drop(folder: Path) -> None:
    """Hold no pack any more; its files go with the next one."""
    (folder / "pack.manifest").unlink(missing_ok=True)
    durable.sync_folder(folder)


def kept_manifest(folder: Path) -> str | None:
    """The manifest as it is stored, unverified."""
    try:
        return (folder / "pack.manifest").read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return None


def kept(folder: Path, *, terminal: str, keys: KeySet) -> Pack | None:
    """The stored pack, verified anew. None when there is none that verifies: it is then fetched."""
    try:
        manifest = (folder / "pack.manifest").read_text("ascii")
        told = read_manifest(manifest, terminal=terminal, keys=keys)
        found = read(read_file(folder, told.sha256) or b"", manifest, terminal=terminal, keys=keys)
    except (OSError, UnicodeDecodeError, Malformed):
        return None
    if any(read_file(folder, sha256) is None for sha256 in found.files()):
        # Rules and keys are whole; the households are fetched again.
        return replace(found, households=None, is_whole=False)
    return found
