"""A second reading of docs/offline.md §10: files of records and of answers.

Written from the page alone.
"""

from __future__ import annotations

import json
from typing import Any

from tests.vectors.second import (
    JWK,
    Refused,
    jws_digest,
    parse,
    takes_key_set,
    thumbprint,
    unb64,
    verify,
)

Json = dict[str, Any]
TYPES = {"records": "carepos-record+jws", "outcomes": "carepos-outcome+jws"}
HEAD = {"v", "kind", "terminal", "incarnation"}
HEADS = {
    ("records", 1): HEAD | {"from_sequence", "to_sequence"},
    ("outcomes", 1): HEAD,
    ("outcomes", 2): HEAD | {"ledger_keys"},
}


def said(jws: object, typ: str) -> Json | None:
    """What a signed thing says, whoever signed it."""
    if not isinstance(jws, str) or jws.count(".") != 2 or len(jws) > 16_384:
        return None
    head, body, signature = jws.split(".")
    try:
        if json.loads(unb64(head)).get("typ") != typ or len(unb64(signature)) != 64:
            return None
        payload = parse(unb64(body))
    except (Refused, ValueError):
        return None
    return payload if isinstance(payload, dict) else None


def read_file(data: bytes, kind: str) -> Json | None:
    """`{"header","lines","bad"}` of a file: what each good line is about, and the numbers of the
    bad ones; None where it is no such file."""
    first, *rest = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    header = line(first)
    if header is None or header.get("kind") != kind or type(header.get("v")) is not int:
        return None
    if header.keys() != HEADS.get((kind, header["v"])):
        return None
    keys = header.get("ledger_keys", {"root": {}, "keyset": ""})
    if not isinstance(keys, dict) or keys.keys() != {"root", "keyset"}:
        return None
    if kind == "records" and not 1 <= header["from_sequence"] <= header["to_sequence"]:
        return None
    good, bad = [], []
    for number, text in enumerate(rest, 2):
        if not text.strip():
            continue
        about = (carried if kind == "records" else answered)(line(text), header)
        if about is None:
            bad.append(number)
        else:
            good.append(about)
    found: Json = {"header": header, "lines": good, "bad": bad}
    if kind == "records":
        last = max((each["sequence"] for each in good), default=0)
        found["cut"] = last < header["to_sequence"]
    return found


def take_keys(held: Json, carried: Json, root_kid: str) -> str:
    """What becomes of the key set in a header, at a till that holds another: `taken`, `held` where
    nothing changes, or the code with which the file is refused."""
    try:
        if not JWK(carried["root"]):
            return "malformed"
        root = unb64(carried["root"]["x"])
        if thumbprint(root) != root_kid:
            return "signature_invalid"
        said = verify(carried["keyset"], "carepos-keyset+jws", [root])
    except Refused as refused:
        return refused.code
    if takes_key_set(held, carried, root_kid):
        return "taken"
    if carried["keyset"] == held["keyset"]:
        return "held"
    follows = "ledger" in said and takes_key_set(carried, held, root_kid)
    return "held" if follows else "malformed"


def line(text: bytes) -> Json | None:
    if len(text) > 65_536:
        return None
    try:
        value = parse(text)
    except (Refused, ValueError):
        return None
    return value if isinstance(value, dict) else None


def carried(envelope: Json | None, header: Json) -> Json | None:
    if envelope is None or not {"record"} <= envelope.keys() <= {"record", "evidence"}:
        return None
    if not isinstance(envelope.get("evidence", ""), str):
        return None
    record = said(envelope["record"], TYPES["records"])
    if record is None:
        return None
    if any(record.get(name) != header[name] for name in ("terminal", "incarnation")):
        return None
    return {
        "sequence": record["sequence"], "kind": record["kind"],
        "digest": jws_digest(envelope["record"]), "sealed": "evidence" in envelope,
    }  # fmt: skip


def answered(answer: Json | None, _: Json) -> Json | None:
    if answer is None or len(answer) != 1:
        return None
    if "problem" in answer:
        return {"record_sha256": None} if isinstance(answer["problem"], dict) else None
    outcome = said(answer.get("outcome"), TYPES["outcomes"])
    return None if outcome is None else {"record_sha256": outcome.get("record_sha256")}
