"""Planted damage: what the reconciliation must refuse or name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from carepos import jws, settlement
from carepos.keys import KeySet, SigningKey, digest, unb64


def tamper(settlements: Path, copy: Path) -> Path:
    """A copy of the files in which one digit of one amount was changed on the way."""
    shutil.copytree(settlements, copy)
    file = next(copy.glob("*.csv"))
    text = file.read_text("ascii")
    at = text.rindex(",", 0, text.index(",CNY")) + 1
    file.write_text(text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :], "ascii")
    return copy


def falsify(settlements: Path, ledger_folder: Path, copy: Path) -> tuple[Path, str]:
    """A copy in which the ledger itself pays one minor unit less for a sale, and signs that.

    Returns the folder and the receipt number of that sale.
    """
    shutil.copytree(settlements, copy)
    file = next(copy.glob("*.csv"))
    manifest_file = copy / settlement.manifest_name(file.name)
    key = SigningKey.load(ledger_folder / "signing.key")
    batch = settlement.read_batch(
        file.read_bytes(), manifest_file.read_text("ascii").strip(), KeySet([key.public])
    )
    changed = replace(batch.lines[0], amount_minor=batch.lines[0].amount_minor - 1)
    data = settlement.render_csv([changed, *batch.lines[1:]])

    payload = json.loads(unb64(manifest_file.read_text("ascii").split(".")[1]))
    payload["file"] |= {"sha256": digest(data), "length": len(data)}
    payload["redeemed"]["amount_minor"] -= 1
    payload["net_minor"] -= 1
    payload["funders"][0]["amount_minor"] -= 1
    file.write_bytes(data)
    manifest_file.write_text(jws.sign(payload, typ=jws.MANIFEST, key=key), "ascii")
    return copy, changed.receipt_no
