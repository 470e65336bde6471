"""The issuers file: whom a verifier of one's own believes, where no pack of a ledger tells it.

    {"issuers": [{"iss": "https://id.example", "keys": [JWK, …]}, …]}

The form of a till's pack (docs/protocol.md §9), so such a file may be given too: its other names
are not looked at. Each `keys` is an issuer's set as docs/identity.md §3 has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from carepos import strict_json
from carepos.errors import Malformed
from carepos.issuer_keys import IssuerKeys

MAX_BYTES: Final = 16 * 2**20


def load(path: Path, as_of: datetime) -> Mapping[str, IssuerKeys]:
    """`iss` → keys. Raises Malformed naming the file and the place, OSError."""
    if path.stat().st_size > MAX_BYTES:
        raise Malformed(f"over {MAX_BYTES} bytes", field=path.name)
    try:
        return read(path.read_bytes(), as_of)
    except Malformed as error:
        raise Malformed(str(error), field=path.name) from None


def read(document: bytes, as_of: datetime) -> Mapping[str, IssuerKeys]:
    """As `load`. Raises Malformed, SetRefused when an issuer's set can't be believed."""
    found = strict_json.read_object(document)
    if "issuers" not in found:
        more = ": this is a key set; put it under its issuer's name" if "keys" in found else ""
        raise Malformed(f'must be {{"issuers":[{{"iss","keys"}}]}}{more}', field="issuers")
    believed: dict[str, IssuerKeys] = {}
    for place, each in enumerate(strict_json.array(found["issuers"], "issuers", low=1)):
        where = f"issuers[{place}]"
        names = strict_json.exact_names(each, {"iss", "keys"}, where=where)
        iss = strict_json.text(names["iss"], f"{where}.iss")
        if iss in believed:
            raise Malformed("stands twice", field=f"{where}.iss")
        jwks = json.dumps({"keys": names["keys"]}).encode()
        try:
            believed[iss] = IssuerKeys.from_jwks(jwks, as_of)
        except Malformed as error:
            raise Malformed(str(error), field=where) from None
    return believed
