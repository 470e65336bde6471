"""A folder of settlement files: each verified, none missing, each the one after the one before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from carepos.errors import Malformed, SignatureInvalid
from carepos.keys import Keys
from carepos.settlement import (
    MANIFEST_SUFFIX,
    Batch,
    file_name,
    first_previous,
    manifest_name,
    read_batch,
    read_manifest,
)


def check_sequence(batches: Sequence[Batch], *, after: Batch | None = None) -> None:
    """Check that `batches` are all of one merchant's programme, in order, none missing.

    Begins with batch 1, or with the one that follows `after`. Raises Malformed naming the file
    that is missing, twice there, out of order, another merchant's or not of this chain.
    """
    before = after
    for place, batch in enumerate(batches):
        manifest, previous = batch.manifest, before.manifest if before else None
        expected_no = previous.batch_no + 1 if previous else 1
        if previous is not None and (manifest.merchant, manifest.programme) != (
            previous.merchant,
            previous.programme,
        ):
            raise Malformed(
                "is another merchant's or another programme's file, "
                f"not {previous.merchant}'s of {previous.programme}",
                field=batch.name,
            )
        if manifest.batch_no < expected_no:
            earlier = {each.manifest.batch_no for each in batches[:place]}
            # What a reader holds as `after` stands for all files up to it.
            twice = manifest.batch_no in earlier or after is not None
            raise Malformed("is there twice" if twice else "is out of order", field=batch.name)
        if manifest.batch_no > expected_no:
            later = {each.manifest.batch_no for each in batches[place + 1 :]}
            if expected_no in later:
                raise Malformed("is out of order", field=batch.name)
            missing = file_name(manifest.merchant, manifest.programme, expected_no)
            raise Malformed(f"is missing before {batch.name}", field=missing)
        wanted = before.digest if before else first_previous(manifest.merchant, manifest.programme)
        if manifest.previous != wanted:
            raise Malformed(
                "does not follow the file before it: its manifest names another one",
                field=batch.name,
            )
        if previous is not None and manifest.currency != previous.currency:
            raise Malformed(f"is not in {previous.currency}", field=batch.name)
        before = batch


def read_folder(folder: Path, keys: Keys, *, merchant: str | None = None) -> list[Batch]:
    """Every settlement in `folder`, verified and in order per programme.

    Each `….csv` has its `….manifest.jws` beside it. Raises Malformed naming the file that does not
    fit (`merchant`: only this one's files may be there), OSError when the folder can't be read.
    """
    batches = []
    manifests = {path.name: path for path in folder.glob(f"*{MANIFEST_SUFFIX}")}
    for path in sorted(folder.glob("settlement-*.csv")):
        if manifest_name(path.name) not in manifests:
            raise Malformed(f"has no {manifest_name(path.name)} beside it", field=path.name)
    for name, path in sorted(manifests.items()):
        batches.append(
            _read_pair(path.with_name(name.removesuffix(MANIFEST_SUFFIX) + ".csv"), path, keys)
        )
    groups: dict[tuple[str, str], list[Batch]] = {}
    for batch in batches:
        if merchant is not None and batch.manifest.merchant != merchant:
            raise Malformed(
                f"is the file of {batch.manifest.merchant}, not of {merchant}", field=batch.name
            )
        groups.setdefault((batch.manifest.merchant, batch.manifest.programme), []).append(batch)
    ordered = []
    for _, group in sorted(groups.items()):
        group.sort(key=lambda batch: batch.manifest.batch_no)
        check_sequence(group)
        ordered += group
    return ordered


def _read_pair(csv_path: Path, manifest_path: Path, keys: Keys) -> Batch:
    try:
        text = manifest_path.read_text("ascii").strip()
        manifest, _ = read_manifest(text, keys)
    except UnicodeDecodeError:
        raise Malformed("is no manifest", field=manifest_path.name) from None
    except SignatureInvalid as error:
        raise Malformed(
            f"was not signed by this ledger ({error})",
            field=manifest_path.name,
            code=error.code,
        ) from None
    except Malformed as error:
        raise Malformed(str(error), field=manifest_path.name) from None
    if csv_path.name != manifest.file_name:
        raise Malformed(
            f"was renamed: it is the manifest of {manifest.file_name}", field=manifest_path.name
        )
    try:
        data = csv_path.read_bytes()
    except FileNotFoundError:
        raise Malformed(f"is missing beside {manifest_path.name}", field=csv_path.name) from None
    return read_batch(data, text, keys)
