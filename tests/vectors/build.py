"""Writes `tests/vectors/*.json`, always the same bytes: `python -m tests.vectors.build`.

Expected values are written here by hand; `second` signs, and every case is held against it before
anything is written. Once committed, a vector is frozen: a changed file is a changed protocol.
"""

# Tables read better with their cases on long lines.
# ruff: noqa: E501

from __future__ import annotations

import base64
import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.vectors import second
from tests.vectors.allotted_vectors import allotted_file
from tests.vectors.clock_reset_vectors import clock_reset_file
from tests.vectors.healing_lines_vectors import healing_lines_file
from tests.vectors.healing_vectors import healing_file
from tests.vectors.key_change_vectors import key_change_file
from tests.vectors.offline_vectors import offline_file
from tests.vectors.second import b64, jcs, jws_digest, sign, sign_raw
from tests.vectors.settlement_undo_vectors import settlement_undo_file
from tests.vectors.settlement_vectors import settlement_file
from tests.vectors.token_vectors import tokens_file
from tests.vectors.undo_vectors import undo_file
from tests.vectors.upload_keys_vectors import upload_keys_file
from tests.vectors.upload_vectors import upload_file

Json = dict[str, Any]
HERE = Path(__file__).parent
RECORD, OUTCOME = "carepos-record+jws", "carepos-outcome+jws"
TERMINAL, INCARNATION = "t-4f1c2a9b", "0b5c9d2e7f8041a3b6c5d4e3f2a19080"
MS, BUCKET = 1795336200000, 0xABC  # 2026-11-22T08:30:00.000Z


def seed(name: str) -> bytes:
    return hashlib.sha256(f"carepos test vectors|{name}".encode()).digest()


def some22(name: str) -> str:
    return b64(seed(name)[:16])


TILL, LEDGER, STRANGER = seed("terminal"), seed("ledger"), seed("stranger")


def jwk(key_seed: bytes) -> Json:
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(second.public(key_seed))}


def key(key_seed: bytes) -> Json:
    return {
        "seed": key_seed.hex(),
        "jwk": jwk(key_seed),
        "kid": second.thumbprint(second.public(key_seed)),
    }


# json.json


def json_file() -> Json:
    good: list[tuple[str, bytes, str, str]] = [
        ("empty object", b"{}", "{}", ""),
        ("white space goes", b' {\n\t"b" : 1 ,\r "a":[ true , null ] } ', '{"a":[true,null],"b":1}', ""),
        ("names sorted at every level", b'{"b":{"d":1,"c":2},"a":0}', '{"a":0,"b":{"c":2,"d":1}}', ""),
        ("upper case sorts before lower", b'{"a":1,"B":2,"_":3,"-":4}', '{"-":4,"B":2,"_":3,"a":1}', ""),
        ("list order stays", b'{"a":[3,1,2]}', '{"a":[3,1,2]}', ""),
        ("largest integers", b'{"a":[9007199254740991,-9007199254740991]}',
         '{"a":[9007199254740991,-9007199254740991]}', ""),
        ("minus zero is the integer 0", b'{"a":-0}', '{"a":0}', "RFC 8785 writes it 0"),
        ("escapes become minimal", rb'{"a":"\u0041\/\u00e9\u000A\u001F\u007f\b\f\n\r\t\"\\"}',
         '{"a":"A/é\\n\\u001f\x7f\\b\\f\\n\\r\\t\\"\\\\"}', "U+007F needs no escape"),
        ("nul stays escaped", rb'{"a":"\u0000"}', r'{"a":"\u0000"}', ""),
        ("surrogate pair", rb'{"a":"\ud83d\ude00"}', '{"a":"😀"}', ""),
        ("line separators stay as they are", rb'{"a":"\u2028\u2029"}', '{"a":"\u2028\u2029"}', ""),
        ("Chinese text", '{"a":"爱心券"}'.encode(), '{"a":"爱心券"}', ""),
        ("no normalisation", '{"a":"e\u0301"}'.encode(), '{"a":"e\u0301"}', "e + combining accent"),
        ("escaped name", rb'{"\u0061":1}', '{"a":1}', ""),
        ("brackets in a string are no nesting", b'{"a":"' + b"[" * 50 + b'"}',
         '{"a":"' + "[" * 50 + '"}', ""),
        ("depth 32", b"[" * 32 + b"]" * 32, "[" * 32 + "]" * 32, ""),
    ]  # fmt: skip
    bad: list[tuple[str, bytes, str]] = [
        ("depth 33", b"[" * 33 + b"]" * 33, ""),
        ("depth 33 with objects", b'{"a":' * 33 + b"1" + b"}" * 33, ""),
        ("depth 5000, never closed", b"[" * 5000, "must not exhaust a stack"),
        ("name twice", b'{"a":1,"a":1}', ""),
        ("name twice, one of them escaped", rb'{"a":1,"\u0061":2}', ""),
        ("name twice deep inside", b'{"a":[{"b":1,"b":2}]}', ""),
        ("1.0", b'{"a":1.0}', ""),
        ("1e3", b'{"a":1e3}', ""),
        ("1E0", b'{"a":1E0}', ""),
        ("1.5", b'{"a":1.5}', ""),
        ("-0.0", b'{"a":-0.0}', ""),
        ("1e400", b'{"a":1e400}', "infinity in many readers"),
        ("NaN", b'{"a":NaN}', ""),
        ("Infinity", b'{"a":Infinity}', ""),
        ("-Infinity", b'{"a":-Infinity}', ""),
        ("2^53", b'{"a":9007199254740992}', ""),
        ("-2^53", b'{"a":-9007199254740992}', ""),
        ("5000 digits", b'{"a":' + b"9" * 5000 + b"}", ""),
        ("leading zero", b'{"a":01}', ""),
        ("plus sign", b'{"a":+1}', ""),
        ("hexadecimal", b'{"a":0x10}', ""),
        ("full-width digit", '{"a":１}'.encode(), ""),
        ("lone high surrogate", rb'{"a":"\ud83d"}', ""),
        ("lone low surrogate", rb'{"a":"\ude00"}', ""),
        ("surrogates in the wrong order", rb'{"a":"\ude00\ud83d"}', ""),
        ("lone surrogate in a name", rb'{"\ud83d":1}', ""),
        ("surrogate in UTF-8", b'{"a":"\xed\xa0\x80"}', ""),
        ("overlong UTF-8", b'{"a":"\xc0\xaf"}', ""),
        ("cut UTF-8", b'{"a":"\xe7\x88"}', ""),
        ("Latin-1", b'{"a":"\xe9"}', ""),
        ("byte order mark", b'\xef\xbb\xbf{"a":1}', ""),
        ("UTF-16", '{"a":1}'.encode("utf-16-le"), ""),
        ("UTF-16 with mark", '{"a":1}'.encode("utf-16"), ""),
        ("empty", b"", ""),
        ("only white space", b"  ", ""),
        ("text after the end", b'{"a":1}{"a":1}', ""),
        ("nul after the end", b'{"a":1}\x00', ""),
        ("trailing comma", b'{"a":1,}', ""),
        ("trailing comma in a list", b'{"a":[1,]}', ""),
        ("comment", b'{"a":1/**/}', ""),
        ("single quotes", b"{'a':1}", ""),
        ("bare name", b"{a:1}", ""),
        ("True", b'{"a":True}', ""),
        ("raw tab in a string", b'{"a":"\t"}', ""),
        ("raw line feed in a string", b'{"a":"\n"}', ""),
        ("bad escape", rb'{"a":"\x41"}', ""),
        ("short escape", rb'{"a":"\u41"}', ""),
        ("form feed as white space", b'{"a":\x0c1}', ""),
        ("no-break space as white space", '{"a":\u00a01}'.encode(), ""),
        ("cut off", b'{"a":1', ""),
    ]
    cases: list[Json] = []
    for name, raw, canonical, why in good:
        cases.append({"name": name, **_text(raw), "canonical": canonical, "why": why})
        assert jcs(second.parse(raw)) == canonical.encode(), name
    for name, raw, why in bad:
        cases.append({"name": name, **_text(raw), "refused": "malformed", "why": why})
        assert _code(lambda raw=raw: second.parse(raw)) == "malformed", name
    return {
        "note": "Strict JSON (section 1): `text`, or `base64` where it is not plain printable text."
        " `canonical`: accepted, and its canonical JSON (UTF-8); `refused`: the code.",
        "cases": cases,
    }


def _text(raw: bytes) -> Json:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\ufeff"
    if text.startswith("\ufeff") or not all(c.isprintable() or c in "\t\r\n" for c in text):
        return {"base64": base64.b64encode(raw).decode()}
    return {"text": text}


def _code(call: Any) -> str | None:
    try:
        call()
    except second.Refused as refused:
        return refused.code
    return None


# split.json


def split_file() -> Json:
    cases = [
        ("exact", 10, [1, 1], [5, 5], ""),
        ("the tie goes to the earlier", 1, [1, 1], [1, 0], "0.5 each"),
        ("a third each", 1000, [1, 1, 1], [334, 333, 333], "333 1/3 each, one missing, all tie"),
        ("two missing", 1001, [1, 1, 1], [334, 334, 333], "333 2/3 each"),
        ("one of three pieces", 1000, [1, 2], [333, 667], "333.33 and 666.67"),
        ("two of three pieces", 1000, [2, 1], [667, 333], "666.67 and 333.33"),
        ("half of 667", 667, [1, 1], [334, 333], "tie"),
        ("the largest remainder wins, not the largest part", 100, [1000, 500, 333], [55, 27, 18],
         "54.55 27.28 18.17"),
        ("later part with the larger remainder", 10, [6, 5, 5], [4, 3, 3], "3.75 3.125 3.125"),
        ("exact, in three", 7, [3, 1, 3], [3, 1, 3], ""),
        ("remainders 0.6 0.6 0.8", 2, [3, 3, 4], [1, 0, 1], "0.6 0.6 0.8: last, then first"),
        ("weight nothing gets nothing", 5, [0, 3, 0, 4], [0, 2, 0, 3], "2.14 2.86"),
        ("nothing to split", 0, [3, 4], [0, 0], ""),
        ("one part", 7, [5], [7], ""),
        ("all in the first", 1380, [3, 0], [1380, 0], ""),
        ("less than one unit each", 2, [1, 1, 1, 1, 1], [1, 1, 0, 0, 0], "0.4 each"),
        ("grams", 987, [777, 457], [621, 366], "621.47 and 365.53: the missing one to the second"),
        ("the largest sums", 10**12, [1, 10**9 - 1], [1000, 10**12 - 1000], "no floating point"),
        ("beyond 64 bits on the way", 10**12 - 1, [10**9, 10**9, 1],
         [499999999750, 499999999749, 500], "499999999749.5 twice, 499.9999…: one each"),
    ]  # fmt: skip
    discounts = [
        ("spread by amount", [1000, 500, 333], 100, [945, 473, 315], "split is 55 27 18"),
        ("a free line stays free", [500, 0, 500], 1, [499, 0, 500], "0.5 each: the first"),
        ("everything off", [300, 200], 500, [0, 0], ""),
        ("nothing off", [300, 200], 0, [300, 200], ""),
        ("three equal lines", [333, 333, 334], 100, [300, 300, 300], "33.3 33.3 33.4 → 33 33 34"),
        ("no line below zero", [1, 1, 1], 2, [0, 0, 1], "0.67 each, two missing"),
    ]
    for name, amount, weights, parts, _why in cases:
        assert second.split(amount, weights) == parts, (name, second.split(amount, weights))
    for name, amounts, discount, after, _why in discounts:
        parts = second.split(discount, amounts)
        assert [a - p for a, p in zip(amounts, parts, strict=True)] == after, name
    names = ("name", "amount", "weights", "parts", "why")
    discount_names = ("name", "amounts", "discount", "after", "why")
    return {
        "note": "Largest remainder (section 7). `discounts`: line amounts before and after a basket"
        " discount is spread.",
        "cases": [dict(zip(names, case, strict=True)) for case in cases],
        "discounts": [dict(zip(discount_names, case, strict=True)) for case in discounts],
    }


# jws.json


def jws_file() -> Json:
    payload = b'{"v":1}'
    kid = second.thumbprint(second.public(TILL))
    other_kid = second.thumbprint(second.public(STRANGER))
    header: Json = {"alg": "EdDSA", "kid": kid, "typ": RECORD}
    plain = sign(payload, RECORD, TILL)
    head, body, signature = plain.split(".")
    last = signature[-1]
    twin = signature[:-1] + chr(ord(last) + 1)  # the same 64 bytes in another spelling
    order = 2**252 + 27742317777372353535851937790883648493
    raw = second.unb64(signature)
    high_s = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    flipped = bytes([raw[0] ^ 1]) + raw[1:]

    def headed(**changed: Any) -> str:
        changed_header = {n: v for n, v in {**header, **changed}.items() if v is not ...}
        return sign_raw(jcs(changed_header), payload, TILL)

    def raw_headed(text: str) -> str:
        return sign_raw(text.encode(), payload, TILL)

    room = 16_384 - len(head) - len(signature) - 2  # for the payload part
    longest = b'{"a":"' + b"x" * (room * 3 // 4 - 8) + b'"}'
    assert len(sign(longest, RECORD, TILL)) == 16_384 - (room % 4 == 1), room
    good = [
        ("plain", plain, ""),
        ("white space in the payload", sign(b' {"v" : 1}\n', RECORD, TILL), "bytes as received"),
        ("names of the payload unsorted", sign(b'{"b":1,"a":2}', RECORD, TILL), ""),
        ("names of the header in another order",
         raw_headed(f'{{"typ":"{RECORD}","kid":"{kid}","alg":"EdDSA"}}'), ""),
        ("white space in the header",
         raw_headed(f'{{ "alg":"EdDSA", "kid":"{kid}", "typ":"{RECORD}" }}'), ""),
        ("Chinese text", sign('{"a":"爱心券"}'.encode(), RECORD, TILL), ""),
        ("empty object", sign(b"{}", RECORD, TILL), "shape is the next step's business"),
        ("as long as can be", sign(longest, RECORD, TILL), "16 384 bytes"),
    ]  # fmt: skip
    bad = [
        ("empty", "", "malformed", ""),
        ("two parts", f"{head}.{body}", "malformed", ""),
        ("four parts", f"{plain}.AA", "malformed", ""),
        ("no header", f".{body}.{signature}", "malformed", ""),
        ("no payload", f"{head}..{signature}", "malformed", "detached payload"),
        ("no signature", f"{head}.{body}.", "malformed", ""),
        ("line feed at the end", f"{plain}\n", "malformed", "`$` of many regex engines allows it"),
        ("white space before", f" {plain}", "malformed", ""),
        ("padding", f"{plain}==", "malformed", ""),
        ("padding in the header", f"{head}=.{body}.{signature}", "malformed", ""),
        ("standard alphabet", f"{head}.{body}.{signature[:-2]}+/", "malformed", ""),
        ("non-ASCII letter", f"{head}.{body}é.{signature}", "malformed", ""),
        ("full-width letter", f"{head}.{body}Ａ.{signature}", "malformed", ""),
        ("signature of 85 characters", plain[:-1], "malformed", ""),
        ("signature of 87 characters", f"{plain}A", "malformed", ""),
        ("second spelling of the signature", f"{head}.{body}.{twin}", "malformed", "unused bits"),
        ("second spelling of the payload", f"{head}.{body[:-1]}{chr(ord(body[-1]) + 1)}.{signature}",
         "malformed", "unused bits"),
        ("payload of an impossible length", f"{head}.{body[:-1]}.{signature}"
         if len(body) % 4 == 2 else f"{head}.{body}AAA.{signature}", "malformed", ""),
        ("longer than 16 384 bytes", sign(longest + b"    ", RECORD, TILL), "malformed", ""),
        ("JSON serialization", json.dumps({"protected": head, "payload": body, "signature": signature}),
         "malformed", ""),
        ("alg none", headed(alg="none"), "malformed", ""),
        ("alg HS256", headed(alg="HS256"), "malformed", ""),
        ("alg Ed25519", headed(alg="Ed25519"), "malformed", "RFC 9864's name is not ours"),
        ("alg eddsa", headed(alg="eddsa"), "malformed", ""),
        ("another typ", headed(typ=OUTCOME), "malformed", "a record is expected"),
        ("typ with application/", headed(typ=f"application/{RECORD}"), "malformed", ""),
        ("typ in capitals", headed(typ=RECORD.upper()), "malformed", ""),
        ("no typ", headed(typ=...), "malformed", ""),
        ("no kid", headed(kid=...), "malformed", ""),
        ("kid a number", headed(kid=1), "malformed", ""),
        ("kid null", headed(kid=None), "malformed", ""),
        ("kid a list", headed(kid=[kid]), "malformed", ""),
        ("alg an object", headed(alg={}), "malformed", ""),
        ("crit", headed(crit=["exp"]), "malformed", ""),
        ("b64 false", headed(b64=False, crit=["b64"]), "malformed", ""),
        ("jwk in the header", headed(jwk=jwk(TILL)), "malformed", "no key comes with the message"),
        ("jku in the header", headed(jku="https://example.org/keys"), "malformed", ""),
        ("alg twice", raw_headed(f'{{"alg":"EdDSA","alg":"EdDSA","kid":"{kid}","typ":"{RECORD}"}}'),
         "malformed", ""),
        ("header a list", raw_headed('["EdDSA"]'), "malformed", ""),
        ("header a string", raw_headed('"EdDSA"'), "malformed", ""),
        ("header not JSON", raw_headed("EdDSA"), "malformed", ""),
        ("header with a byte order mark", raw_headed("\ufeff" + jcs(header).decode()), "malformed", ""),
        ("header not UTF-8", sign_raw(b'{"alg":"\xff"}', payload, TILL), "malformed", ""),
        ("unknown kid", headed(kid=other_kid), "signature_invalid", ""),
        ("kid of no key at all", headed(kid="x"), "malformed", "a kid has 43 characters"),
        ("another key's signature", sign_raw(jcs(header), payload, STRANGER), "signature_invalid", ""),
        ("signature of zeros", f"{head}.{body}.{'A' * 86}", "signature_invalid", ""),
        ("one bit of the signature", f"{head}.{body}.{b64(flipped)}", "signature_invalid", ""),
        ("S + L", f"{head}.{body}.{b64(high_s)}", "signature_invalid", "RFC 8032 5.1.7: S < L"),
        ("signature of the payload alone", f"{head}.{body}.{b64(_raw_sign(payload))}",
         "signature_invalid", ""),
        ("payload exchanged", '.'.join((head, b64(b'{"v":2}'), signature)), "signature_invalid", ""),
        ("header rewritten",
         '.'.join((b64(b" " + jcs(header)), body, signature)), "signature_invalid", ""),
        ("payload broken and signature wrong",
         '.'.join((head, b64(b"{"), signature)), "signature_invalid", "step 4 before step 5"),
        ("payload a list", sign(b"[]", RECORD, TILL), "malformed", ""),
        ("payload a string", sign(b'"a"', RECORD, TILL), "malformed", ""),
        ("payload not JSON", sign(b"{", RECORD, TILL), "malformed", ""),
        ("payload with a float", sign(b'{"v":1.0}', RECORD, TILL), "malformed", ""),
        ("payload with a name twice", sign(b'{"v":1,"v":1}', RECORD, TILL), "malformed", ""),
        ("payload not UTF-8", sign(b'{"v":"\xff"}', RECORD, TILL), "malformed", ""),
    ]  # fmt: skip
    public = [second.public(TILL)]
    cases: list[Json] = []
    for name, text, why in good:
        payload_read = second.verify(text, RECORD, public)
        cases.append({"name": name, "jws": text, "payload": payload_read,
                      "digest": jws_digest(text), "why": why})  # fmt: skip
    for name, text, code, why in bad:
        got = _code(lambda text=text: second.verify(text, RECORD, public))
        assert got == code, (name, got)
        cases.append({"name": name, "jws": text, "refused": code, "why": why})
    return {
        "note": f"Signed things (section 2), read where a {RECORD} is expected and `keys` are known."
        " `digest` is the thing's. Steps 1-3 and 5 are `malformed`, step 4 is `signature_invalid`.",
        "typ": RECORD,
        "keys": [key(TILL)],
        "not_known": [key(STRANGER)],
        "cases": cases,
    }


def _raw_sign(message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(TILL).sign(message)


# ids.json


def ids_file() -> Json:
    made = [
        ("the one of the page", 0x019AA9F32B80, 0xABC, 0x1123456789ABCDEF,
         "019aa9f3-2b80-8abc-9123-456789abcdef"),
        ("everything nothing", 0, 0, 0, "00000000-0000-8000-8000-000000000000"),
        ("everything full", 2**48 - 1, 4095, 2**62 - 1, "ffffffff-ffff-8fff-bfff-ffffffffffff"),
        ("bucket 1", MS, 1, 1, "01a20260-5f40-8001-8000-000000000001"),
    ]  # fmt: skip
    bad_ids = {
        "upper case": "019AA9F3-2B80-8ABC-9123-456789ABCDEF",
        "one capital": "019aa9f3-2b80-8abc-9123-456789abcdeF",
        "braces": "{019aa9f3-2b80-8abc-9123-456789abcdef}",
        "urn": "urn:uuid:019aa9f3-2b80-8abc-9123-456789abcdef",
        "no hyphens": "019aa9f32b808abc9123456789abcdef",
        "hyphen moved": "019aa9f32-b80-8abc-9123-456789abcdef",
        "version 7": "019aa9f3-2b80-7abc-9123-456789abcdef",
        "version 4": "019aa9f3-2b80-4abc-9123-456789abcdef",
        "variant 0": "019aa9f3-2b80-8abc-1123-456789abcdef",
        "variant 110": "019aa9f3-2b80-8abc-c123-456789abcdef",
        "short": "019aa9f3-2b80-8abc-9123-456789abcde",
        "long": "019aa9f3-2b80-8abc-9123-456789abcdef0",
        "line feed": "019aa9f3-2b80-8abc-9123-456789abcdef\n",
        "white space": " 019aa9f3-2b80-8abc-9123-456789abcdef",
        "not hexadecimal": "019aa9f3-2b80-8abc-9123-456789abcdeg",
        "full-width digit": "０19aa9f3-2b80-8abc-9123-456789abcdef",
        "empty": "",
    }
    receipts = [(1, 7, "0001-000007-2"), (1, 1, "0001-000001-3"), (12, 345, "0012-000345-5"),
                (9999, 999999, "9999-999999-4"), (10000, 1000000, "10000-1000000-4")]  # fmt: skip
    bad_receipts = {
        "check digit": "0001-000007-3",
        "digit exchanged": "0001-000008-2",
        "digits swapped": "0001-000070-2",
        "terminal not padded": "1-000007-2",
        "sequence not padded": "0001-7-2",
        "terminal padded too far": "00001-000007-2",
        "no hyphens": "00010000072",
        "no check digit": "0001-000007",
        "line feed": "0001-000007-2\n",
        "full-width digits": "０００１-000007-2",
        "empty": "",
    }
    secret = seed("beneficiary secret")
    refs = [("shop-a", "https://issuer.example", "sub-1"), ("shop-b", "https://issuer.example", "sub-1"),
            ("shop-a", "https://issuer.example", "sub-2")]  # fmt: skip
    # Published examples of ISO/IEC 7064 MOD 11,10.
    assert (second.mod_11_10("0794"), second.mod_11_10("79462")) == (5, 3)
    for _name, ms, bucket, random62, text in made:
        assert second.make_id(ms, bucket, random62) == text, second.make_id(ms, bucket, random62)
        assert second.id_bucket(text) == bucket
    for name, text in bad_ids.items():
        assert _code(lambda text=text: second.id_bucket(text)) == "malformed", name
    for terminal_no, sequence, text in receipts:
        got = second.receipt_no(terminal_no, sequence)
        assert got == text, (got, text)
        assert second.receipt_no_good(text)
    for name, text in bad_receipts.items():
        assert not second.receipt_no_good(text), name
    digest = second.digest(b"a record")
    return {
        "note": "Ids (section 3) from `ms`, `bucket` and the 62 random bits `custom_c` (hexadecimal);"
        " buckets of terminals; receipt numbers and the receipt's QR (13); the merchant's pseudonym of a"
        " beneficiary (8); the digests that chains begin with (4, 12).",
        "ids": [{"name": name, "ms": ms, "bucket": bucket, "custom_c": f"{random62:016x}", "id": text}
                for name, ms, bucket, random62, text in made],
        "bad_ids": [{"name": name, "id": text} for name, text in bad_ids.items()],
        "terminal_buckets": [{"terminal": name, "bucket": second.terminal_bucket(name)}
                             for name in (TERMINAL, "t-00000000", "t-1", "till-9")],
        "receipt_numbers": [{"terminal_no": no, "sequence": sequence, "receipt_no": text}
                            for no, sequence, text in receipts],
        "bad_receipt_numbers": [{"name": name, "receipt_no": text}
                                for name, text in bad_receipts.items()],
        "receipt_qrs": [{"receipt_no": "0001-000007-2", "currency": "CNY", "amount_minor": 6000,
                         "record_sha256": digest,
                         "qr": second.receipt_qr("0001-000007-2", "CNY", 6000, digest)}],
        "beneficiary_refs": [{"secret": secret.hex(), "merchant": merchant, "iss": iss, "sub": sub,
                              "beneficiary": second.beneficiary_ref(secret, merchant, iss, sub)}
                             for merchant, iss, sub in refs],
        "first_prev": [{"incarnation": INCARNATION, "prev": second.first_prev(INCARNATION)}],
        "first_previous": [{"merchant": "shop-a", "programme": "flood-dairy",
                            "previous": second.first_previous("shop-a", "flood-dairy")}],
    }  # fmt: skip


# records.json

MILK, EGGS, RICE, OIL, SOAP = (
    "06913046198782", "06901234567892", "cat:rice-loose", "06920000000012", "06930000000011",
)  # fmt: skip
VOUCHER, SECOND_VOUCHER = some22("voucher 1"), some22("voucher 2")
# The last of 22 characters of a cut HMAC may be any character: no 16 bytes stand behind it.
BENEFICIARY = second.beneficiary_ref(seed("beneficiary secret"), "shop-a", "https://i.example", "s")


assert all(map(second.product_key, (MILK, EGGS, RICE, OIL, SOAP)))


def redeem_content() -> Json:
    return {
        "checkout": "S1-000123",
        "cashier": "c01",
        "presentment": "online",
        "programme": "flood-dairy",
        "rules_version": 1,
        "currency": "CNY",
        "beneficiary": BENEFICIARY,
        "token_sha256": second.digest(b"a token"),
        "basket": [
            {"key": MILK, "quantity": 1, "unit": "piece", "line_amount_minor": 6490},
            {"key": RICE, "quantity": 1234, "unit": "g", "line_amount_minor": 987},
        ],
        "allocation": [entry(1, VOUCHER, 0, 6000), entry(2, SECOND_VOUCHER, 777, 621)],
    }


def entry(line: int, voucher: str, quantity: int, programme: int, own: int = 0) -> Json:
    return {
        "line": line,
        "voucher": voucher,
        "quantity": quantity,
        "programme_minor": programme,
        "beneficiary_minor": own,
    }


def record(kind: str, id_: str, sequence: int, prev: str, content: Json) -> Json:
    return {
        "v": 1,
        "kind": kind,
        "id": id_,
        "terminal": TERMINAL,
        "incarnation": INCARNATION,
        "sequence": sequence,
        "prev": prev,
        "occurred_at": f"2026-11-22T08:30:{sequence:02}.000Z",
        "content": content,
    }


def chain() -> list[Json]:
    own = second.terminal_bucket(TERMINAL)
    attempt = second.make_id(MS + 2000, BUCKET, 2)
    day_report = {
        "z_no": 1, "business_date": "2026-11-22", "from_sequence": 1, "to_sequence": 4,
        "confirmed": 0, "refused": 0, "reversed": 1, "open": 0,
        "sums": [{"programme": "flood-dairy", "currency": "CNY", "count": 0, "amount_minor": 0}],
    }  # fmt: skip
    prev = second.first_prev(INCARNATION)
    made: list[Json] = []
    for number, (name, kind, id_, content) in enumerate(
        [
            ("start", "start", second.make_id(MS, own, 1), {"software": "carepos 0.1.0"}),
            ("redeem", "redeem", attempt, redeem_content()),
            ("its reversal", "reversal", attempt, {"reason": "cancelled"}),
            ("day report", "day_report", second.make_id(MS + 4000, own, 4), day_report),
        ],
        start=1,
    ):
        if kind == "reversal":
            content = {"record_sha256": made[-1]["digest"], **content}
        whole = record(kind, id_, number, prev, content)
        jws = sign(jcs(whole), RECORD, TILL)
        assert second.judge_record(whole) is None, name
        prev = jws_digest(jws)
        made.append({"name": name, "record": whole, "jws": jws, "digest": prev})
        if kind == "redeem":
            made[-1]["content_sha256"] = second.content_sha256(whole)
    return made


def _set(whole: Json, path: str, value: Any) -> None:
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
    target: Any = whole
    for part in way:
        target = target[part]
    if value is ...:
        del target[last]
    else:
        target[last] = value


def records_file() -> Json:
    made = chain()
    start, redeem, reversal, report = (json.dumps(each["record"]) for each in made)
    line = redeem_content()["basket"][0]
    forty = [{**line, "line_amount_minor": number} for number in range(1, 41)]
    vouchers = [some22(f"v{number}") for number in range(21)]
    wrong_bucket = second.make_id(MS, second.terminal_bucket(TERMINAL) ^ 1, 1)
    eighty = [entry(n // 2 + 1, vouchers[n % 2], 0, 1) for n in range(80)]
    twenty_one = [entry(n + 1, vouchers[n], 0, 1) for n in range(21)]
    c = "content."
    sets: list[tuple[str, str, list[tuple[str, Any]], str]] = [
        ("unknown name", redeem, [("note", 1)], "malformed"),
        ("unknown name in the content", redeem, [(c + "note", 1)], "malformed"),
        ("description in the basket", redeem, [(c + "basket.0.description", "milk")], "malformed"),
        ("unknown name in an entry", redeem, [(c + "allocation.0.note", 1)], "malformed"),
        ("token in the content", redeem, [(c + "token", "ey")], "malformed"),
        *((f"{name} missing", redeem, [(name, ...)], "malformed") for name in json.loads(redeem)),
        *((f"content's {name} missing", redeem, [(c + name, ...)], "malformed")
          for name in redeem_content()),
        ("voucher missing", redeem, [(c + "allocation.0.voucher", ...)], "malformed"),
        ("unit missing", redeem, [(c + "basket.0.unit", ...)], "malformed"),
        ("v 2", redeem, [("v", 2)], "malformed"),
        ("v true", redeem, [("v", True)], "malformed"),
        ("v text", redeem, [("v", "1")], "malformed"),
        ("kind null", redeem, [("kind", None)], "malformed"),
        ("content a list", redeem, [("content", [])], "malformed"),
        ("id of version 7", redeem, [("id", "019aa9f3-2b80-7abc-9123-456789abcdef")], "malformed"),
        ("id in capitals", redeem, [("id", "019AA9F3-2B80-8ABC-9123-456789ABCDEF")], "malformed"),
        ("terminal in capitals", redeem, [("terminal", "T-4F1C2A9B")], "malformed"),
        ("incarnation in capitals", redeem, [("incarnation", INCARNATION.upper())], "malformed"),
        ("incarnation short", redeem, [("incarnation", INCARNATION[1:])], "malformed"),
        ("sequence 0", redeem, [("sequence", 0)], "malformed"),
        ("sequence true", redeem, [("sequence", True)], "malformed"),
        ("sequence text", redeem, [("sequence", "2")], "malformed"),
        ("prev short", redeem, [("prev", made[0]["digest"][1:])], "malformed"),
        ("prev in hexadecimal", redeem, [("prev", "0" * 64)], "malformed"),
        *((f"time {text!r}", redeem, [("occurred_at", text)], "malformed") for text in (
            "2026-11-22T08:30:00Z", "2026-11-22T08:30:00.000+00:00", "2026-11-22T08:30:00.000000Z",
            "2026-11-22 08:30:00.000Z", "2026-11-22t08:30:00.000z", "2026-02-30T08:30:00.000Z",
            "2026-11-22T25:00:00.000Z", "２026-11-22T08:30:00.000Z", "2026-11-22T08:30:00.00Z0")),
        ("checkout with a space", redeem, [(c + "checkout", "S1 000123")], "malformed"),
        ("checkout of 41", redeem, [(c + "checkout", "1" * 41)], "malformed"),
        ("checkout empty", redeem, [(c + "checkout", "")], "malformed"),
        ("cashier in Chinese", redeem, [(c + "cashier", "王")], "malformed"),
        ("presentment unknown", redeem, [(c + "presentment", "by-post")], "malformed"),
        ("programme in capitals", redeem, [(c + "programme", "Flood")], "malformed"),
        ("programme of 41", redeem, [(c + "programme", "a" * 41)], "malformed"),
        ("programme with a hyphen first", redeem, [(c + "programme", "-flood")], "malformed"),
        ("programme with a line feed", redeem, [(c + "programme", "flood\n")], "malformed"),
        ("currency in small letters", redeem, [(c + "currency", "cny")], "malformed"),
        ("currency of two letters", redeem, [(c + "currency", "CN")], "malformed"),
        ("rules_version true", redeem, [(c + "rules_version", True)], "malformed"),
        ("beneficiary of 21", redeem, [(c + "beneficiary", BENEFICIARY[1:])], "malformed"),
        ("token_sha256 of 44", redeem, [(c + "token_sha256", "A" * 44)], "malformed"),
        ("basket empty", redeem, [(c + "basket", [])], "malformed"),
        ("basket an object", redeem, [(c + "basket", {})], "malformed"),
        ("41 lines", redeem, [(c + "basket", [*forty, line])], "basket_too_large"),
        ("41 lines and an amount as text", redeem,
         [(c + "basket", [*forty, {**line, "line_amount_minor": "1"}])], "basket_too_large"),
        ("GTIN-13", redeem, [(c + "basket.0.key", MILK[1:])], "malformed"),
        ("GTIN with a wrong check digit", redeem, [(c + "basket.0.key", MILK[:-1] + "3")], "malformed"),
        ("GTIN as a number", redeem, [(c + "basket.0.key", int(MILK))], "malformed"),
        ("category key in capitals", redeem, [(c + "basket.0.key", "cat:Rice")], "malformed"),
        ("category key empty", redeem, [(c + "basket.0.key", "cat:")], "malformed"),
        ("line quantity 0", redeem, [(c + "basket.0.quantity", 0)], "malformed"),
        ("line quantity above 10^9", redeem, [(c + "basket.0.quantity", 10**9 + 1)], "malformed"),
        ("line quantity true", redeem, [(c + "basket.0.quantity", True)], "malformed"),
        ("unit kg", redeem, [(c + "basket.0.unit", "kg")], "malformed"),
        ("unit null", redeem, [(c + "basket.0.unit", None)], "malformed"),
        ("line amount below 0", redeem, [(c + "basket.0.line_amount_minor", -1)], "malformed"),
        ("line amount above 10^12", redeem, [(c + "basket.0.line_amount_minor", 10**12 + 1)], "malformed"),
        ("line amount text", redeem, [(c + "basket.0.line_amount_minor", "6490")], "malformed"),
        ("line amount null", redeem, [(c + "basket.0.line_amount_minor", None)], "malformed"),
        ("allocation empty", redeem, [(c + "allocation", [])], "malformed"),
        ("allocation null", redeem, [(c + "allocation", None)], "malformed"),
        ("allocation not sorted", redeem, [(c + "allocation", redeem_content()["allocation"][::-1])],
         "malformed"),
        ("voucher twice on a line", redeem,
         [(c + "allocation", [entry(1, VOUCHER, 0, 1), entry(1, VOUCHER, 0, 2)])], "malformed"),
        ("voucher twice on a line, not side by side", redeem,
         [(c + "allocation", [entry(1, VOUCHER, 0, 1), entry(1, SECOND_VOUCHER, 0, 1),
                              entry(1, VOUCHER, 0, 2)])], "malformed"),
        ("line 0", redeem, [(c + "allocation.0.line", 0)], "malformed"),
        ("line that the basket does not have", redeem, [(c + "allocation.1.line", 3)], "malformed"),
        ("line true", redeem, [(c + "allocation.0.line", True)], "malformed"),
        ("81 entries", redeem, [(c + "basket", forty), (c + "allocation",
                               [*eighty, entry(40, vouchers[2], 0, 1)])], "malformed"),
        ("21 vouchers", redeem, [(c + "basket", forty), (c + "allocation", twenty_one)], "malformed"),
        ("voucher of 21", redeem, [(c + "allocation.0.voucher", VOUCHER[1:])], "malformed"),
        ("voucher with a star", redeem, [(c + "allocation.0.voucher", "*" * 22)], "malformed"),
        ("parts nothing", redeem, [(c + "allocation.0.programme_minor", 0)], "malformed"),
        ("programme's part below 0", redeem, [(c + "allocation.0.programme_minor", -1),
                                              (c + "allocation.0.beneficiary_minor", 2)], "malformed"),
        ("beneficiary's part below 0", redeem, [(c + "allocation.0.beneficiary_minor", -1)], "malformed"),
        ("entry's quantity below 0", redeem, [(c + "allocation.0.quantity", -1)], "malformed"),
        ("entry's quantity null", redeem, [(c + "allocation.0.quantity", None)], "malformed"),
        ("start in another bucket", start, [("id", wrong_bucket)], "malformed"),
        ("start without software", start, [("content", {})], "malformed"),
        ("start with software a number", start, [(c + "software", 1)], "malformed"),
        ("reversal for an unknown reason", reversal, [(c + "reason", "no_answer")], "malformed"),
        ("reversal without digest", reversal, [(c + "record_sha256", ...)], "malformed"),
        ("reversal with a short digest", reversal, [(c + "record_sha256", "A" * 42)], "malformed"),
        ("reversal with more", reversal, [(c + "amount_minor", 1)], "malformed"),
        ("day report in another bucket", report, [("id", wrong_bucket)], "malformed"),
        ("day report of a day that is none", report, [(c + "business_date", "2026-02-30")], "malformed"),
        ("day report with a time", report,
         [(c + "business_date", "2026-11-22T00:00:00.000Z")], "malformed"),
        ("day report counting below 0", report, [(c + "confirmed", -1)], "malformed"),
        ("day report without open", report, [(c + "open", ...)], "malformed"),
        ("day report with sums an object", report, [(c + "sums", {})], "malformed"),
        ("day report with a sum without currency", report, [(c + "sums.0.currency", ...)], "malformed"),
        *((f"reserved kind {kind}", redeem, [("kind", kind), ("content", content)], "unsupported_kind")
          for kind, content in {
              "accept_offline": {"record_sha256": made[1]["digest"], "presentment": "offline",
                                 "liability": "merchant", "allotment_use": []},
              "void": {"original": {"terminal": TERMINAL, "id": made[1]["record"]["id"]}},
              "refund": {"original": {"terminal": TERMINAL, "id": made[1]["record"]["id"]}},
              "return_allotment": {}, "key_change": {}}.items()),
        ("kind that nobody knows", redeem, [("kind", "teleport"), ("content", {})], "unsupported_kind"),
        ("unknown kind and an unknown name", redeem, [("kind", "void"), ("note", 1)], "malformed"),
    ]  # fmt: skip
    malformed = []
    for name, base, changes, code in sets:
        whole = json.loads(base)
        for path, value in changes:
            _set(whole, path, value)
        assert second.judge_record(whole) == code, (name, second.judge_record(whole))
        malformed.append({"name": name, "payload": json.dumps(whole, ensure_ascii=False,
                                                              separators=(",", ":")), "code": code})  # fmt: skip
    compact = jcs(json.loads(redeem)).decode()
    texts = {
        "line amount 6490.0": compact.replace("6490", "6490.0"),
        "line amount 649e1": compact.replace("6490", "649e1"),
        "line amount NaN": compact.replace("6490", "NaN"),
        "line amount 2^53": compact.replace("6490", "9007199254740992"),
        "sequence 2.0": compact.replace('"sequence":2', '"sequence":2.0'),
        "kind twice": compact.replace('"kind":', '"kind":"start","kind":'),
        "voucher twice in an entry": compact.replace('"voucher":', f'"voucher":"{VOUCHER}","voucher":', 1),
        "not JSON": compact[:-1],
        "list": "[]",
    }  # fmt: skip
    for name, text in texts.items():
        jws = sign(text.encode(), RECORD, TILL)
        public = [second.public(TILL)]
        assert (
            _code(lambda jws=jws, public=public: second.verify(jws, RECORD, public)) == "malformed"
        )
        malformed.append({"name": name, "payload": text, "code": "malformed"})
    wide: list[tuple[str, str, list[tuple[str, Any]]]] = [
        ("40 lines, 80 entries, 2 vouchers", redeem, [(c + "basket", forty), (c + "allocation", eighty)]),
        ("20 vouchers", redeem, [(c + "basket", forty), (c + "allocation", twenty_one[:20])]),
        ("20 vouchers on one line", redeem,
         [(c + "allocation", [entry(1, each, 0, 1) for each in vouchers[20:0:-1]])]),
        ("the largest numbers", redeem,
         [(c + "basket.0.line_amount_minor", 10**12), (c + "basket.0.quantity", 10**9)]),
        ("a line of 0", redeem, [(c + "basket.0.line_amount_minor", 0)]),
        ("only the beneficiary's part", redeem, [(c + "allocation.0.programme_minor", 0),
                                                 (c + "allocation.0.beneficiary_minor", 1)]),
        ("names of one character, tags of forty", redeem,
         [(c + "programme", "0"), (c + "checkout", "." * 40), (c + "cashier", "-")]),
        ("a reference that spells no 16 bytes", redeem, [(c + "beneficiary", "A" * 21 + "B")]),
        ("software in Chinese", start, [(c + "software", "收银 1.0")]),
        ("day report without sums", report, [(c + "sums", [])]),
        ("reason not_found", reversal, [(c + "reason", "not_found")]),
        ("reason goods_kept", reversal, [(c + "reason", "goods_kept")]),
    ]  # fmt: skip
    good = []
    for name, base, changes in wide:
        whole = json.loads(base)
        for path, value in changes:
            _set(whole, path, value)
        assert second.judge_record(whole) is None, (name, second.judge_record(whole))
        text = jcs(whole).decode()
        assert len(sign(text.encode(), RECORD, TILL)) <= 16_384, name
        good.append({"name": name, "payload": text})
    base = json.loads(redeem)
    same = []
    for name, path, value, equal in [
        ("another checkout", "content.checkout", "S1-000124", True),
        ("another basket", "content.basket.0.line_amount_minor", 6491, True),
        ("another token", "content.token_sha256", "A" * 43, True),
        ("another time", "occurred_at", "2026-11-23T00:00:00.000Z", True),
        ("another id", "id", second.make_id(MS, BUCKET, 9), True),
        ("another sum", "content.allocation.0.programme_minor", 5999, False),
        ("another programme", "content.programme", "flood-rice", False),
        ("another currency", "content.currency", "JPY", False),
        ("another beneficiary", "content.beneficiary", "A" * 22, False),
        ("another terminal", "terminal", "t-4f1c2a9c", False),
    ]:
        whole = json.loads(redeem)
        _set(whole, path, value)
        digest = second.content_sha256(whole)
        assert (digest == second.content_sha256(base)) is equal, name
        same.append({"name": name, "path": path, "value": value, "content_sha256": digest,
                     "same": equal})  # fmt: skip
    return {
        "note": "Records (section 4). `chain`: one incarnation of a terminal, signed; Ed25519 signatures"
        " are deterministic, so whoever writes canonical JSON gets the same bytes. `malformed` and `good`:"
        " payload texts, to be signed with the terminal's key, and the code of a reader that keeps no"
        " state. `contents`: the chain's redeem with one value changed.",
        "key": key(TILL),
        "terminal": TERMINAL,
        "incarnation": INCARNATION,
        "chain": made,
        "malformed": malformed,
        "good": good,
        "contents": same,
    }


# outcomes.json


def outcomes_file() -> Json:
    made = {each["name"]: each for each in chain()}
    start, redeem, reversal, report = made.values()
    jti = some22("read")
    at = "2026-11-22T08:30:03.000Z"

    def head(of: Json, result: str, **more: Any) -> Json:
        return {"v": 1, "result": result, "kind": of["record"]["kind"], "id": of["record"]["id"],
                "terminal": TERMINAL, "record_sha256": of["digest"], "recorded_at": at, "epoch": 1,
                **more}  # fmt: skip

    def booked(name: str, amount: int, quantity: int, unit: str | None, left: int) -> Json:
        return {"voucher": name, "amount_minor": amount, "quantity": quantity, "unit": unit,
                "from_allotment_minor": 0, "from_allotment_quantity": 0,
                "available_minor": 0 if quantity else left,
                "available_quantity": left if quantity else 0}  # fmt: skip

    taken = sorted([booked(VOUCHER, 6000, 0, None, 12000), booked(SECOND_VOUCHER, 621, 777, "g", 1223)],
                   key=lambda each: str(each["voucher"]))  # fmt: skip
    back = sorted([booked(VOUCHER, 6000, 0, None, 18000), booked(SECOND_VOUCHER, 621, 777, "g", 2000)],
                  key=lambda each: str(each["voucher"]))  # fmt: skip
    posted = head(redeem, "posted", currency="CNY", amount_minor=6621, vouchers=taken)
    nothing: Json = {"currency": None, "amount_minor": 0, "vouchers": []}
    missing = {"v": 1, "result": "not_found", "id": redeem["record"]["id"], "terminal": TERMINAL,
               "recorded_at": at, "epoch": 1, "request": jti}  # fmt: skip

    def refused(of: Json, code: str, where: int | str | None) -> Json:
        return head(of, "refused", refusal={"code": code, "at": where})

    rows: list[tuple[str, Json, Json, str]] = [
        ("posted", redeem, posted, "posted"),
        ("posted start", start, head(start, "posted"), "posted"),
        ("posted day report", report, head(report, "posted"), "posted"),
        ("refused at a voucher", redeem, refused(redeem, "voucher_expired", VOUCHER), "refused"),
        ("refused at a line", redeem, refused(redeem, "not_in_product_list", 2), "refused"),
        ("refused at nothing in particular", redeem, refused(redeem, "programme_paused", None), "refused"),
        ("reversal refused", reversal, refused(reversal, "id_content_mismatch", None), "refused"),
        ("reversed", reversal, head(reversal, "reversed", currency="CNY", amount_minor=6621, vouchers=back),
         "reversed"),
        ("reversed, nothing had been posted", reversal, head(reversal, "reversed", **nothing), "reversed"),
        ("redeem that met its tombstone", redeem, head(redeem, "reversed", **nothing), "reversed"),
        ("not found", redeem, missing, "not_found"),
        ("another record's digest", redeem, {**posted, "record_sha256": start["digest"]}, "unknown"),
        ("answer to the reversal, not to the sale", redeem,
         head(reversal, "reversed", currency="CNY", amount_minor=6621, vouchers=back), "unknown"),
        ("another id", redeem, {**posted, "id": second.make_id(MS, BUCKET, 3)}, "unknown"),
        ("another terminal", redeem, {**posted, "terminal": "t-4f1c2a9c"}, "unknown"),
        ("refused for another terminal", redeem,
         {**refused(redeem, "voucher_expired", None), "terminal": "t-4f1c2a9c"}, "unknown"),
        ("not found for another read", redeem, {**missing, "request": some22("other read")}, "unknown"),
        ("not found for another id", redeem, {**missing, "id": second.make_id(MS, BUCKET, 3)}, "unknown"),
        ("result that nobody knows", redeem, {**posted, "result": "maybe"}, "unknown"),
        ("no digest", redeem, {n: v for n, v in posted.items() if n != "record_sha256"}, "unknown"),
        ("unknown name", redeem, {**posted, "note": 1}, "unknown"),
        ("amount true", redeem, {**posted, "amount_minor": True}, "unknown"),
        ("amount text", redeem, {**posted, "amount_minor": "6621"}, "unknown"),
        ("amount below 0", redeem, {**posted, "amount_minor": -1}, "unknown"),
        ("v 2", redeem, {**posted, "v": 2}, "unknown"),
        ("posted without vouchers", redeem,
         {n: v for n, v in posted.items() if n != "vouchers"}, "unknown"),
        ("posted without a currency", redeem, {**posted, "currency": None}, "unknown"),
        ("refused without a refusal", redeem, head(redeem, "refused"), "unknown"),
        ("refusal with more", redeem,
         head(redeem, "refused", refusal={"code": "voucher_expired", "at": None, "more": 1}), "unknown"),
    ]  # fmt: skip
    cases = []

    def add(name: str, of: Json, jws: str, result: str, why: str = "") -> None:
        got = second.read_outcome(jws, of["jws"], [second.public(LEDGER)], jti)
        assert got == result, (name, got)
        cases.append(
            {"name": name, "record": of["jws"], "outcome": jws, "result": result, "why": why}
        )

    for name, of, payload, result in rows:
        add(name, of, sign(jcs(payload), OUTCOME, LEDGER), result)
    good = jcs(posted)
    text = sign(good, OUTCOME, LEDGER)
    add("white space and another order of names", redeem,
        sign(json.dumps(posted, indent=1).encode(), OUTCOME, LEDGER), "posted", "bytes as received")  # fmt: skip
    add("signed by a stranger", redeem, sign(good, OUTCOME, STRANGER), "unknown")
    add("signed by the terminal itself", redeem, sign(good, OUTCOME, TILL), "unknown")
    add("typ of a record", redeem, sign(good, RECORD, LEDGER), "unknown")
    add("one character of the payload", redeem,
        ".".join((text.split(".")[0], b64(good.replace(b"6621", b"6622")), text.split(".")[2])), "unknown")  # fmt: skip
    add("the record itself", redeem, redeem["jws"], "unknown")
    add("cut off", redeem, text[:-1], "unknown")
    add("empty", redeem, "", "unknown")
    add("unsigned", redeem, good.decode(), "unknown")
    return {
        "note": "Outcomes (section 5): what a till that knows `ledger` may believe about its `record`."
        " `unknown`: nothing was decided as far as it knows. `request` is the `jti` of its read.",
        "ledger": key(LEDGER),
        "terminal": key(TILL),
        "stranger": key(STRANGER),
        "request": jti,
        "cases": cases,
    }


# allocations.json and refusals.json

LIST = {
    "product_list": "relief-2026",
    "version": 3,
    "entries": {MILK: "dairy", EGGS: "eggs", RICE: "rice", OIL: "oil"},
}
AT = "2026-11-22T08:30:00.000Z"
V = [some22(f"situation {number}") for number in range(6)]


def programme(**changed: Any) -> Json:
    return {
        "programme": "flood-dairy", "name": "Flood relief", "currency": "CNY", "rules_version": 1,
        "starts_at": "2026-11-01T00:00:00.000Z", "ends_at": "2026-12-31T00:00:00.000Z",
        "paused": False, "stores": ["store-1"], "product_list": "relief-2026",
        "issuer": "https://issuer.example", "classes": ["once"], "amr_any": [],
        "limit_per_redemption_minor": None, "top_up_allowed": False, "undo_window_s": 900,
        "quotas": [], **changed,
    }  # fmt: skip


def voucher(name: str, kind: str = "value", available: int = 100000, **changed: Any) -> Json:
    unit = changed.pop("unit", "piece")
    cap, fixed, per = changed.pop("terms", (10**9, 0, 1))
    return {
        "voucher": name, "programme": "flood-dairy", "kind": kind, "label": "Relief",
        "categories": [], "starts_at": "2026-11-01T00:00:00.000Z",
        "expires_at": "2026-12-01T00:00:00.000Z", "frozen": False,
        "available_minor": available if kind == "value" else 0,
        "available_quantity": 0 if kind == "value" else available,
        "terms": None if kind == "value" else {
            "unit": unit, "cap_minor": cap, "fixed_minor": fixed, "cap_quantity": per},
        **changed,
    }  # fmt: skip


def line(key_: str, quantity: int, amount: int, unit: str = "piece") -> Json:
    return {"key": key_, "quantity": quantity, "unit": unit, "line_amount_minor": amount}


def situation(vouchers: list[Json], lines: list[Json], **changed: Any) -> Json:
    extra: Json = {n: changed.pop(n) for n in ("others", "reserved_elsewhere") if n in changed}
    at, store = changed.pop("at", AT), changed.pop("store", "store-1")
    return {
        "beneficiary": BENEFICIARY, "store": store, "at": at, "programme": programme(**changed),
        "product_list": LIST, "vouchers": vouchers, "lines": lines, **extra,
    }  # fmt: skip


EARLY, LATE = "2026-11-30T00:00:00.000Z", "2026-12-15T00:00:00.000Z"


def proposals() -> list[tuple[str, Json, list[Json], list[int], list[str | None], str]]:
    """Name, situation, entries, rest of each line, reason of each line, the arithmetic."""
    a, b, c = V[:3]
    short, limit, quota = "balance_insufficient", "limit_exceeded", "quota_exceeded"
    cap, fit, below = "price_above_cap", "quantity_not_allowed", "price_below_fixed"
    uncovered = "category_not_covered"
    milk3 = [line(MILK, 3, 1000)]
    rice2k = [line(RICE, 2000, 1600, "g")]
    portions = voucher(a, "fixed_price", 9000, unit="g", terms=(600, 200, 500))
    fives = [line(MILK, 5, 1500)]
    ordered = sorted([some22(f"tie {n}") for n in range(40)])
    # "-" < "0" < "A" < "_" < "a" in ASCII; a dictionary's order would differ.
    ties = [next(t for t in ordered if t[0] in first) for first in ("-", "0123456789", "ABC", "_", "abc")
            if any(t[0] in first for t in ordered)]  # fmt: skip
    return [
        # value
        ("value covers all", situation([voucher(a)], [line(MILK, 1, 6490)]),
         [entry(1, a, 0, 6490)], [0], [None], ""),
        ("value and another tender", situation([voucher(a, available=6000)], [line(MILK, 1, 6490)]),
         [entry(1, a, 0, 6000)], [490], [short], ""),
        ("value over several lines",
         situation([voucher(a, available=1000)], [line(MILK, 1, 600), line(EGGS, 1, 600), line(OIL, 1, 5)]),
         [entry(1, a, 0, 600), entry(2, a, 0, 400)], [0, 200, 5], [None, short, short], ""),
        ("two value vouchers on one line",
         situation([voucher(b, available=700), voucher(a, available=600, expires_at=EARLY)],
                   [line(MILK, 1, 1000)]),
         [entry(1, a, 0, 600), entry(1, b, 0, 400)], [0], [None], "the earlier expiry first"),
        ("an empty voucher", situation([voucher(a, available=0)], [line(MILK, 1, 100)]),
         [], [100], [short], ""),
        ("the smallest sum", situation([voucher(a, available=1)], [line(MILK, 1, 2)]),
         [entry(1, a, 0, 1)], [1], [short], ""),
        # item
        ("item covers all", situation([voucher(a, "item", 5, terms=(800, 0, 1))], [line(EGGS, 2, 1380)]),
         [entry(1, a, 2, 1380)], [0], [None], "L 1380 ≤ C 1600"),
        ("1000 over 3 pieces, one on the voucher",
         situation([voucher(a, "item", 1, terms=(400, 0, 1))], milk3),
         [entry(1, a, 1, 333)], [667], [short], "333.33 | 666.67"),
        ("1000 over 3 pieces, two on the voucher",
         situation([voucher(a, "item", 2, terms=(400, 0, 1))], milk3),
         [entry(1, a, 2, 667)], [333], [short], "666.67 | 333.33"),
        ("1000 over 3 pieces, two vouchers",
         situation([voucher(a, "item", 1, expires_at=EARLY), voucher(b, "item", 5)], milk3),
         [entry(1, a, 1, 333), entry(1, b, 2, 667)], [0], [None], "what the first left"),
        ("1000 over 3 pieces, three vouchers",
         situation([voucher(a, "item", 1, expires_at=EARLY), voucher(b, "item", 1),
                    voucher(c, "item", 1, expires_at=LATE)], milk3),
         [entry(1, a, 1, 333), entry(1, b, 1, 334), entry(1, c, 1, 333)], [0], [None],
         "333.33 → 333; 667/2 = 333.5, the tie to the earlier → 334; 333"),
        ("1 minor over 3 pieces, two on the voucher",
         situation([voucher(a, "item", 2)], [line(MILK, 3, 1)]),
         [entry(1, a, 2, 1)], [0], [None], "0.67 | 0.33 → 1 | 0: a piece stays, no money does"),
        ("one voucher over two lines",
         situation([voucher(a, "item", 3)], [line(MILK, 2, 1000), line(MILK, 2, 1001)]),
         [entry(1, a, 2, 1000), entry(2, a, 1, 501)], [0, 500], [None, short], "500.5: tie to the earlier"),
        ("item, then value on the same line",
         situation([voucher(a, "item", 1, expires_at=EARLY), voucher(b, available=500)], milk3),
         [entry(1, a, 1, 333), entry(1, b, 0, 500)], [167], [short], "1000 − 333 − 500"),
        ("value expires first, so no item may follow",
         situation([voucher(a, available=400, expires_at=EARLY), voucher(b, "item", 3)], milk3),
         [entry(1, a, 0, 400)], [600], [short], "after a value entry only value entries"),
        # caps
        ("beneficiary tops up", situation([voucher(a, "item", 5, terms=(500, 0, 1))],
                                          [line(MILK, 2, 1380)], top_up_allowed=True),
         [entry(1, a, 2, 1000, 380)], [0], [None], "L 1380, C 1000"),
        ("no top-up allowed",
         situation([voucher(a, "item", 5, terms=(500, 0, 1))], [line(MILK, 2, 1380)]),
         [], [1380], [cap], ""),
        ("price at the cap", situation([voucher(a, "item", 5, terms=(690, 0, 1))], [line(MILK, 2, 1380)]),
         [entry(1, a, 2, 1380)], [0], [None], "L = C"),
        ("1000 over 3 pieces, cap 333", situation([voucher(a, "item", 5, terms=(333, 0, 1))], milk3),
         [], [1000], [cap], "as much as balance, quota and limit allow is 3; C 999 < L 1000"),
        ("1000 over 3 pieces, cap 333, top-up",
         situation([voucher(a, "item", 5, terms=(333, 0, 1))], milk3, top_up_allowed=True),
         [entry(1, a, 3, 999, 1)], [0], [None], ""),
        ("above one voucher's cap, another voucher covers",
         situation([voucher(a, "item", 5, terms=(100, 0, 1), expires_at=EARLY), voucher(b)], milk3),
         [entry(1, b, 0, 1000)], [0], [None], ""),
        ("a cap that rounds to nothing", situation(
            [voucher(a, "item", 900, unit="g", terms=(1, 0, 500))],
            [line(RICE, 200, 50, "g")], top_up_allowed=True),
         [], [50], [fit], "C = floor(200/500) = 0, so the programme's part is 0"),
        # g and ml
        ("grams by 500", situation([voucher(a, "item", 5000, unit="g", terms=(450, 0, 500))],
                                   [line(RICE, 1234, 987, "g")]),
         [entry(1, a, 1234, 987)], [0], [None], "C = floor(450 × 1234 / 500) = 1110"),
        ("grams by 500, not enough", situation([voucher(a, "item", 777, unit="g", terms=(450, 0, 500))],
                                               [line(RICE, 1234, 987, "g")]),
         [entry(1, a, 777, 621)], [366], [short], "987 × 777 / 1234 = 621.47; C = floor(699.3)"),
        ("grams by 500, cap in the fractions", situation(
            [voucher(a, "item", 5000, unit="g", terms=(399, 0, 500))],
            [line(RICE, 1234, 987, "g")], top_up_allowed=True),
         [entry(1, a, 1234, 984, 3)], [0], [None], "C = floor(984.73) = 984"),
        ("millilitres", situation([voucher(a, "item", 1500, unit="ml", terms=(2500, 0, 1000))],
                                  [line(OIL, 1800, 3990, "ml")]),
         [entry(1, a, 1500, 3325)], [665], [short], "3990 × 1500 / 1800 = 3325; C 3750"),
        ("voucher in grams, line in pieces",
         situation([voucher(a, "item", 5000, unit="g", terms=(450, 0, 500))], [line(RICE, 2, 987)]),
         [], [987], [fit], ""),
        # fixed price
        ("fixed price", situation([voucher(a, "fixed_price", 5, terms=(500, 100, 1))],
                                  [line(MILK, 3, 1350)]),
         [entry(1, a, 3, 1050, 300)], [0], [None], "L 1350 ≤ C 1500, F 300"),
        ("fixed price above the cap, top-up", situation(
            [voucher(a, "fixed_price", 5, terms=(500, 100, 1))],
            [line(MILK, 2, 1380)], top_up_allowed=True),
         [entry(1, a, 2, 800, 580)], [0], [None], "min(1380, 1000) − 200"),
        ("fixed price above the cap, no top-up",
         situation([voucher(a, "fixed_price", 5, terms=(500, 100, 1))], [line(MILK, 2, 1380)]),
         [], [1380], [cap], ""),
        ("cheaper than the fixed price",
         situation([voucher(a, "fixed_price", 5, terms=(500, 100, 1))], [line(MILK, 1, 99)]),
         [], [99], [below], ""),
        ("as dear as the fixed price",
         situation([voucher(a, "fixed_price", 5, terms=(500, 100, 1))], [line(MILK, 2, 200)]),
         [], [200], [below], "L = F"),
        ("one minor unit above the fixed price",
         situation([voucher(a, "fixed_price", 5, terms=(500, 100, 1))], [line(MILK, 2, 201)]),
         [entry(1, a, 2, 1, 200)], [0], [None], ""),
        ("fixed 1, cap_quantity 1",
         situation([voucher(a, "fixed_price", 5, terms=(5, 1, 1))], [line(MILK, 3, 10)]),
         [entry(1, a, 3, 7, 3)], [0], [None], "L 10, C 15, F 3"),
        ("fixed 1, cap_quantity 1, one of three",
         situation([voucher(a, "fixed_price", 1, terms=(5, 1, 1))], [line(MILK, 3, 10)]),
         [entry(1, a, 1, 2, 1)], [7], [short], "L = 3.33 → 3, F 1"),
        ("whole portions of 500 g", situation([portions], [line(RICE, 1300, 1040, "g")]),
         [entry(1, a, 1000, 400, 400)], [240], [fit],
         "1000 of 1300 g: L = 1040 × 1000 / 1300 = 800, C 1200, F 400"),
        ("less than a portion", situation([portions], [line(RICE, 499, 400, "g")]),
         [], [400], [fit], ""),
        # quota and limit
        ("quota in pieces", situation([voucher(a, "item", 9)], [line(MILK, 2, 400), line(MILK, 2, 401)],
                                      quotas=[{"category": "dairy", "quantity": 3, "unit": "piece"}]),
         [entry(1, a, 2, 400), entry(2, a, 1, 201)], [0, 200], [None, quota], "200.5 → 201"),
        ("quota of another category", situation([voucher(a, "item", 9)], [line(MILK, 2, 400)],
                                                quotas=[{"category": "eggs", "quantity": 1, "unit": "piece"}]),
         [entry(1, a, 2, 400)], [0], [None], ""),
        ("quota and a value voucher", situation([voucher(a)], milk3,
                                                quotas=[{"category": "dairy", "quantity": 2, "unit": "piece"}]),
         [entry(1, a, 0, 666)], [334], [quota], "ceil(666 × 3 / 1000) = 2, ceil(667 × 3 / 1000) = 3"),
        ("quota and two value vouchers", situation(
            [voucher(a, available=100, expires_at=EARLY), voucher(b)], milk3,
            quotas=[{"category": "dairy", "quantity": 1, "unit": "piece"}]),
         [entry(1, a, 0, 100), entry(1, b, 0, 233)], [667], [short],
         "together ceil(333 × 3 / 1000) = 1; the first one's balance stood in the way first"),
        ("quota, item and value", situation(
            [voucher(a, "item", 1, expires_at=EARLY), voucher(b)], milk3,
            quotas=[{"category": "dairy", "quantity": 2, "unit": "piece"}]),
         [entry(1, a, 1, 333), entry(1, b, 0, 333)], [334], [short],
         "1 + ceil(333 × 2 / 667) = 2; with 334 it would be 1 + ceil(1.0015) = 3"),
        ("quota in grams over fixed portions",
         situation([portions], rice2k, quotas=[{"category": "rice", "quantity": 1200, "unit": "g"}]),
         [entry(1, a, 1000, 400, 400)], [800], [quota], "1200 g hold two whole portions"),
        ("quota over value lines", situation(
            [voucher(a)], [line(MILK, 3, 1000), line(MILK, 2, 600)],
            quotas=[{"category": "dairy", "quantity": 4, "unit": "piece"}]),
         [entry(1, a, 0, 1000), entry(2, a, 0, 300)], [0, 300], [None, quota], "3 + ceil(300 × 2 / 600)"),
        ("quota in another unit", situation([voucher(a)], milk3,
                                            quotas=[{"category": "dairy", "quantity": 900, "unit": "ml"}]),
         [], [1000], [fit], ""),
        ("limit in the middle of an item line", situation([voucher(a, "item", 9)], fives,
                                                          limit_per_redemption_minor=1000),
         [entry(1, a, 3, 900)], [600], [limit], "3 pieces 900, 4 pieces 1200"),
        ("limit in the middle of a rounded item line",
         situation([voucher(a, "item", 9)], [line(MILK, 7, 1000)], limit_per_redemption_minor=571),
         [entry(1, a, 4, 571)], [429], [limit], "1000 × 4 / 7 = 571.43 → 571"),
        ("limit one below a rounded part",
         situation([voucher(a, "item", 9)], [line(MILK, 7, 1000)], limit_per_redemption_minor=570),
         [entry(1, a, 3, 429)], [571], [limit], "428.57 → 429"),
        ("limit, then value takes what is left of it", situation(
            [voucher(a, "item", 9, expires_at=EARLY), voucher(b)], fives, limit_per_redemption_minor=1000),
         [entry(1, a, 3, 900), entry(1, b, 0, 100)], [500], [limit], ""),
        ("limit over lines", situation([voucher(a)], [line(MILK, 1, 700), line(EGGS, 1, 600),
                                                      line(OIL, 1, 50)], limit_per_redemption_minor=1000),
         [entry(1, a, 0, 700), entry(2, a, 0, 300)], [0, 300, 50], [None, limit, limit], ""),
        ("limit just reached", situation([voucher(a)], [line(MILK, 1, 1000)],
                                         limit_per_redemption_minor=1000),
         [entry(1, a, 0, 1000)], [0], [None], ""),
        ("limit and fixed portions", situation([portions], rice2k, limit_per_redemption_minor=500),
         [entry(1, a, 1000, 400, 400)], [800], [limit], "400 a portion − 200: three would be 600"),
        ("the limit counts the programme's part only", situation(
            [portions], rice2k, limit_per_redemption_minor=800),
         [entry(1, a, 2000, 800, 800)], [0], [None], ""),
        # which vouchers
        ("vouchers of one expiry by voucher id",
         situation([voucher(t, available=100) for t in ties[::-1]], [line(MILK, 1, 100 * len(ties) + 1)]),
         [entry(1, t, 0, 100) for t in ties], [1], [short], "ASCII order: - 0 A _ a"),
        ("most specific first", situation(
            [voucher(a, available=100), voucher(b, available=100, categories=["dairy", "eggs"]),
             voucher(c, available=100, categories=["dairy"])], [line(MILK, 1, 250)]),
         [entry(1, c, 0, 100), entry(1, b, 0, 100), entry(1, a, 0, 50)], [0], [None],
         "one category, two, the whole list"),
        ("expiry before specificity", situation(
            [voucher(a, available=100, categories=["dairy"]), voucher(b, available=100, expires_at=EARLY)],
            [line(MILK, 1, 150)]),
         [entry(1, b, 0, 100), entry(1, a, 0, 50)], [0], [None], ""),
        ("vouchers for other categories", situation(
            [voucher(a, categories=["eggs"]), voucher(b, categories=["dairy"])],
            [line(MILK, 1, 300), line(RICE, 100, 200, "g"), line(EGGS, 1, 100)]),
         [entry(1, b, 0, 300), entry(3, a, 0, 100)], [0, 200, 0], [None, uncovered, None], ""),
        ("goods outside the list", situation([voucher(a)], [line(SOAP, 1, 900), line(MILK, 1, 300)]),
         [entry(2, a, 0, 300)], [900, 0], ["not_in_product_list", None], ""),
        ("no vouchers", situation([], [line(MILK, 1, 300)]), [], [300], ["voucher_unknown"], ""),
        ("another programme's voucher", situation([voucher(a, programme="flood-rice")],
                                                  [line(MILK, 1, 300)]),
         [], [300], ["voucher_unknown"], "one programme per redemption"),
        ("frozen", situation([voucher(a, frozen=True)], [line(MILK, 1, 300)]),
         [], [300], ["voucher_frozen"], ""),
        ("frozen, but another covers", situation(
            [voucher(a, frozen=True, expires_at=EARLY), voucher(b)], [line(MILK, 1, 300)]),
         [entry(1, b, 0, 300)], [0], [None], ""),
        ("frozen, and another covers other goods", situation(
            [voucher(a, frozen=True), voucher(b, categories=["eggs"])],
            [line(MILK, 1, 300), line(EGGS, 1, 100)]),
         [entry(2, b, 0, 100)], [300, 0], ["voucher_frozen", None], "for milk the frozen one is in the way"),
        ("not started", situation([voucher(a, starts_at="2026-11-22T08:30:00.001Z")],
                                  [line(MILK, 1, 300)]),
         [], [300], ["voucher_not_started"], "a millisecond too early"),
        ("starting now", situation([voucher(a, starts_at=AT)], [line(MILK, 1, 300)]),
         [entry(1, a, 0, 300)], [0], [None], "half-open"),
        ("expiring now", situation([voucher(a, expires_at=AT)], [line(MILK, 1, 300)]),
         [], [300], ["voucher_expired"], "half-open"),
        ("expiring in a millisecond", situation([voucher(a, expires_at="2026-11-22T08:30:00.001Z")],
                                                [line(MILK, 1, 300)]),
         [entry(1, a, 0, 300)], [0], [None], ""),
        # the programme
        ("programme not started", situation([voucher(a)], [line(MILK, 1, 300), line(SOAP, 1, 1)],
                                            starts_at=LATE),
         [], [300, 1], ["programme_not_started"] * 2, ""),
        ("programme starting now", situation([voucher(a)], [line(MILK, 1, 300)], starts_at=AT),
         [entry(1, a, 0, 300)], [0], [None], ""),
        ("programme ending now", situation([voucher(a)], [line(MILK, 1, 300)], ends_at=AT),
         [], [300], ["programme_ended"], ""),
        ("programme paused", situation([voucher(a)], [line(MILK, 1, 300)], paused=True),
         [], [300], ["programme_paused"], ""),
        ("store not in the programme", situation([voucher(a)], [line(MILK, 1, 300)], stores=[]),
         [], [300], ["store_not_in_programme"], ""),
        # lines
        ("a line of nothing", situation([voucher(a)], [line(MILK, 1, 0), line(EGGS, 1, 300)]),
         [entry(2, a, 0, 300)], [0, 0], [None, None], "nothing to cover"),
        ("the same product on two lines", situation([voucher(a, available=500)],
                                                    [line(MILK, 1, 300), line(MILK, 1, 300)]),
         [entry(1, a, 0, 300), entry(2, a, 0, 200)], [0, 100], [None, short], ""),
        ("after a spread discount", situation(
            [voucher(a, "item", 2, expires_at=EARLY), voucher(b, available=500)],
            [line(MILK, 3, 945), line(EGGS, 1, 473), line(OIL, 1, 315)]),
         [entry(1, a, 2, 630), entry(1, b, 0, 315), entry(2, b, 0, 185)], [0, 288, 315],
         [None, short, short], "1000 500 333 less 100; item 2 of 3 pieces; the value voucher's 500 run out"),
        ("value, item and fixed price in one basket", situation(
            [voucher(a, "fixed_price", 2, terms=(900, 100, 1), categories=["dairy"]),
             voucher(b, "item", 1000, unit="g", terms=(500, 0, 500), categories=["rice"]),
             voucher(c, available=1000, categories=["eggs", "oil"])],
            [line(MILK, 2, 1399), line(RICE, 1500, 1001, "g"), line(EGGS, 10, 999), line(OIL, 900, 77, "ml"),
             line(SOAP, 1, 450)]),
         [entry(1, a, 2, 1199, 200), entry(2, b, 1000, 667), entry(3, c, 0, 999), entry(4, c, 0, 1)],
         [0, 334, 0, 76, 450], [None, short, None, short, "not_in_product_list"],
         "1001 × 1000 / 1500 = 667.33 → 667"),
        ("the largest sums", situation(
            [voucher(a, "item", 10**9, terms=(10**12, 0, 1)), voucher(b, available=10**12, expires_at=LATE)],
            [line(MILK, 10**9, 10**12)]),
         [entry(1, a, 10**9, 10**12)], [0], [None], ""),
    ]  # fmt: skip


def allocations_file() -> Json:
    cases = []
    for name, where, entries, rest, reasons, why in proposals():
        assert not entries or second.check(where, entries) is None, (
            name,
            second.check(where, entries),
        )
        by_hand = [
            line_["line_amount_minor"]
            - sum(
                e["programme_minor"] + e["beneficiary_minor"]
                for e in entries
                if e["line"] == number
            )
            for number, line_ in enumerate(where["lines"], start=1)
        ]
        assert by_hand == rest, (name, by_hand)
        _as_much_as_possible(name, where, entries)
        order = second.voucher_order(where["vouchers"])
        assert all(
            order.index(one["voucher"]) < order.index(two["voucher"])
            for one, two in pairwise(entries)
            if one["line"] == two["line"]
        ), name
        cases.append({"name": name, "situation": where, "entries": entries, "rest_minor": rest,
                      "reasons": reasons, "why": why})  # fmt: skip
    return {
        "note": "Proposals (section 7): from a situation (programme and vouchers as in section 9, lines"
        " after discounts) exactly these entries; `rest_minor` and `reasons` per line, null where the line"
        " is covered in full. Every proposal that is not empty passes `check` in the same situation.",
        "cases": cases,
    }


def _as_much_as_possible(name: str, where: Json, entries: list[Json]) -> None:
    """One unit more in the last entry of a line that has a rest must be refused."""
    kinds = {each["voucher"]: each for each in where["vouchers"]}
    for number, each in enumerate(entries):
        used = kinds[each["voucher"]]
        if used["kind"] != "value":
            continue
        more = [dict(e) for e in entries]
        more[number]["programme_minor"] += 1
        assert second.check(where, more) is not None, name


def refusals_file() -> Json:
    a, b = V[:2]
    milk = [line(MILK, 1, 300)]
    take = [entry(1, a, 0, 300)]
    late: Json = {"starts_at": LATE}
    item = voucher(a, "item", 9, terms=(100, 0, 1))
    fixed = voucher(a, "fixed_price", 9, terms=(500, 100, 1))
    grams = voucher(a, "fixed_price", 9000, unit="g", terms=(600, 200, 500))
    gone = voucher(a, expires_at=AT)
    two = [line(MILK, 1, 300), line(EGGS, 1, 300)]
    dairy2 = [{"category": "dairy", "quantity": 2, "unit": "piece"}]
    milk3 = [line(MILK, 3, 1000)]
    rows: list[tuple[str, Json, list[Json], str | None, str]] = [
        ("accepted", situation([voucher(a)], milk), take, None, ""),
        ("less than could be had is accepted", situation([voucher(a)], milk), [entry(1, a, 0, 1)], None,
         "check judges, it does not ask for more"),
        ("another order of vouchers is accepted", situation([voucher(a, expires_at=EARLY), voucher(b)], milk),
         [entry(1, b, 0, 100), entry(1, a, 0, 200)], None, "entries apply in the order of the allocation"),
        ("programme not started", situation([voucher(a)], milk, **late), take, "programme_not_started", ""),
        ("programme ended", situation([voucher(a)], milk, ends_at=AT), take, "programme_ended", "half-open"),
        ("programme paused", situation([voucher(a)], milk, paused=True), take, "programme_paused", ""),
        ("store not in the programme", situation([voucher(a)], milk, stores=[]), take,
         "store_not_in_programme", ""),
        ("another store", situation([voucher(a)], milk, store="store-2"), take, "store_not_in_programme", ""),
        ("voucher unknown", situation([], milk), take, "voucher_unknown", ""),
        ("voucher of another beneficiary", situation([], milk, others=[voucher(a)]), take,
         "voucher_not_yours", ""),
        ("voucher frozen", situation([voucher(a, frozen=True)], milk), take, "voucher_frozen", ""),
        ("voucher not started", situation([voucher(a, starts_at=LATE, expires_at="2027-01-01T00:00:00.000Z")],
                                          milk), take, "voucher_not_started", ""),
        ("voucher expired", situation([gone], milk), take, "voucher_expired", "half-open"),
        ("reserved elsewhere", situation([voucher(a, available=200)], milk, reserved_elsewhere={a: 100}), take,
         "reserved_elsewhere", "200 are free, 100 are set aside for another till, 300 are taken"),
        ("reserved elsewhere, but enough is free",
         situation([voucher(a, available=300)], milk, reserved_elsewhere={a: 100}), take, None, ""),
        ("product not in the list", situation([voucher(a)], [line(SOAP, 1, 300)]), take,
         "not_in_product_list", ""),
        ("category not covered", situation([voucher(a, categories=["eggs"])], milk), take,
         "category_not_covered", ""),
        ("price below the fixed part", situation([fixed], [line(MILK, 1, 100)]), [entry(1, a, 1, 1, 99)],
         "price_below_fixed", "L = F"),
        ("price below the fixed part by rounding",
         situation([voucher(a, "fixed_price", 9, terms=(5, 1, 1))], [line(MILK, 3, 4)]),
         [entry(1, a, 1, 1)], "price_below_fixed", "L = 1.33 → 1, F = 1"),
        ("item on a line of nothing", situation([item], [line(MILK, 1, 0)]), [entry(1, a, 1, 1)],
         "price_below_fixed", "L = 0 ≤ F = 0"),
        ("price above the cap", situation([item], [line(MILK, 1, 101)]), [entry(1, a, 1, 100, 1)],
         "price_above_cap", ""),
        ("top-up allowed", situation([item], [line(MILK, 1, 101)], top_up_allowed=True),
         [entry(1, a, 1, 100, 1)], None, ""),
        ("more pieces than the line has", situation([item], [line(MILK, 1, 100)]), [entry(1, a, 2, 100)],
         "quantity_not_allowed", ""),
        ("more pieces than another voucher left",
         situation([voucher(a, "item", 9), voucher(b, "item", 9)], milk3),
         [entry(1, a, 2, 667), entry(1, b, 2, 333)], "quantity_not_allowed", "n′ = 1"),
        ("quantity 0 for an item voucher", situation([item], [line(MILK, 1, 100)]), [entry(1, a, 0, 100)],
         "quantity_not_allowed", ""),
        ("quantity for a value voucher", situation([voucher(a)], milk), [entry(1, a, 1, 300)],
         "quantity_not_allowed", ""),
        ("unit", situation([grams], [line(RICE, 500, 400)]), [entry(1, a, 500, 200, 200)],
         "quantity_not_allowed", ""),
        ("no whole portion", situation([grams], [line(RICE, 700, 560, "g")]), [entry(1, a, 700, 280, 280)],
         "quantity_not_allowed", "700 is no multiple of 500"),
        ("programme's part of nothing", situation([voucher(a, "item", 900, unit="g", terms=(1, 0, 500))],
                                                  [line(RICE, 200, 50, "g")], top_up_allowed=True),
         [entry(1, a, 200, 0, 50)], "quantity_not_allowed", "C = floor(0.4)"),
        ("item after value", situation([voucher(a), voucher(b, "item", 9)], milk3),
         [entry(1, a, 0, 100), entry(1, b, 1, 300)], "proposal_changed",
         "after a value entry only value entries"),
        ("quota's unit", situation([voucher(a)], milk, quotas=[{**dairy2[0], "unit": "ml"}]), take,
         "quantity_not_allowed", ""),
        ("quota", situation([voucher(a, "item", 9)], milk3, quotas=dairy2), [entry(1, a, 3, 1000)],
         "quota_exceeded", ""),
        ("quota by value", situation([voucher(a)], milk3, quotas=dairy2), [entry(1, a, 0, 667)],
         "quota_exceeded", "ceil(667 × 3 / 1000) = 3"),
        ("quota by value, just enough", situation([voucher(a)], milk3, quotas=dairy2),
         [entry(1, a, 0, 666)], None, "ceil(666 × 3 / 1000) = 2"),
        ("quota over two lines", situation([voucher(a)], [*milk3, *milk], quotas=dairy2),
         [entry(1, a, 0, 666), entry(2, a, 0, 1)], "quota_exceeded", "2 + ceil(1/300) = 3"),
        ("limit", situation([voucher(a)], milk, limit_per_redemption_minor=299), take, "limit_exceeded", ""),
        ("limit over two lines", situation([voucher(a)], two, limit_per_redemption_minor=599),
         [*take, entry(2, a, 0, 300)], "limit_exceeded", ""),
        ("at the limit", situation([voucher(a)], two, limit_per_redemption_minor=600),
         [*take, entry(2, a, 0, 300)], None, ""),
        ("balance", situation([voucher(a, available=299)], milk), take, "balance_insufficient", ""),
        ("balance over two lines", situation([voucher(a, available=599)], two),
         [*take, entry(2, a, 0, 300)], "balance_insufficient", ""),
        ("balance in pieces", situation([voucher(a, "item", 2)], milk3), [entry(1, a, 3, 1000)],
         "balance_insufficient", ""),
        ("programme pays one more than the formula", situation([voucher(a, "item", 9)], milk3),
         [entry(1, a, 1, 334)], "proposal_changed", "333.33 → 333"),
        ("programme pays one less than the formula", situation([voucher(a, "item", 9)], milk3),
         [entry(1, a, 1, 332, 1)], "proposal_changed", "the sum fits, the parts do not"),
        ("beneficiary pays on a value voucher", situation([voucher(a)], milk), [entry(1, a, 0, 200, 100)],
         "proposal_changed", ""),
        ("value above the line", situation([voucher(a)], milk), [entry(1, a, 0, 301)],
         "proposal_changed", "p ≤ A′"),
        ("value above what an item left", situation([voucher(a, "item", 9), voucher(b)], milk3),
         [entry(1, a, 2, 667), entry(1, b, 0, 334)], "proposal_changed", "A′ = 333"),
        ("fixed part left out", situation([fixed], [line(MILK, 1, 400)]), [entry(1, a, 1, 400)],
         "proposal_changed", ""),
    ]  # fmt: skip
    both: list[tuple[str, Json, list[Json], str, str]] = [
        ("not started and paused", situation([voucher(a)], milk, paused=True, **late), take,
         "programme_not_started", ""),
        ("ended and paused", situation([voucher(a)], milk, paused=True, ends_at=AT), take, "programme_ended", ""),
        ("paused and the store", situation([voucher(a)], milk, paused=True, stores=[]), take,
         "programme_paused", ""),
        ("the store and an unknown voucher", situation([], milk, stores=[]), take,
         "store_not_in_programme", ""),
        ("frozen on line 1, unknown on line 2", situation([voucher(a, frozen=True)], two),
         [*take, entry(2, b, 0, 300)], "voucher_unknown", "the list's order, not the lines'"),
        ("frozen on line 1, another's on line 2",
         situation([voucher(a, frozen=True)], two, others=[voucher(b)]),
         [*take, entry(2, b, 0, 300)], "voucher_not_yours", ""),
        ("another's and unknown", situation([], two, others=[voucher(a)]),
         [*take, entry(2, b, 0, 300)], "voucher_unknown", ""),
        ("another's that is frozen", situation([], milk, others=[voucher(a, frozen=True)]), take,
         "voucher_not_yours", "nothing is told about it"),
        ("frozen and expired", situation([voucher(a, frozen=True, expires_at=AT)], milk), take,
         "voucher_frozen", ""),
        ("not started on line 2, expired on line 1", situation([gone, voucher(b, starts_at=LATE)], two),
         [*take, entry(2, b, 0, 300)], "voucher_not_started", ""),
        ("expired and reserved", situation([{**gone, "available_minor": 200}], milk,
                                           reserved_elsewhere={a: 100}), take, "voucher_expired", ""),
        ("expired and not in the list", situation([gone], [line(SOAP, 1, 300)]), take,
         "voucher_expired", ""),
        ("reserved and not in the list", situation([voucher(a, available=200)], [line(SOAP, 1, 300)],
                                                   reserved_elsewhere={a: 100}), take,
         "reserved_elsewhere", ""),
        ("category on line 1, product on line 2",
         situation([voucher(a, categories=["eggs"]), voucher(b)], [*milk, line(SOAP, 1, 300)]),
         [*take, entry(2, b, 0, 300)], "not_in_product_list", ""),
        ("price on line 1, category on line 2",
         situation([item, voucher(b, categories=["rice"])], [line(MILK, 1, 101), line(EGGS, 1, 300)]),
         [entry(1, a, 1, 100, 1), entry(2, b, 0, 300)], "category_not_covered", ""),
        ("above the cap on line 1, below the fixed part on line 2",
         situation([item, voucher(b, "fixed_price", 9, terms=(500, 100, 1))],
                   [line(MILK, 1, 101), line(EGGS, 1, 100)]),
         [entry(1, a, 1, 100, 1), entry(2, b, 1, 1)], "price_below_fixed", ""),
        ("quantity on line 1, price on line 2", situation([item], [line(MILK, 1, 100), line(EGGS, 1, 101)]),
         [entry(1, a, 2, 100), entry(2, a, 1, 100, 1)], "price_above_cap", ""),
        ("quota on line 1, quantity on line 2",
         situation([voucher(a, "item", 9)], [*milk3, line(EGGS, 1, 100)], quotas=dairy2),
         [entry(1, a, 3, 1000), entry(2, a, 2, 100)], "quantity_not_allowed", ""),
        ("quota and limit", situation([voucher(a)], milk3, quotas=dairy2, limit_per_redemption_minor=500),
         [entry(1, a, 0, 667)], "quota_exceeded", ""),
        ("limit and balance", situation([voucher(a, available=299)], milk, limit_per_redemption_minor=299),
         take, "limit_exceeded", ""),
        ("balance and parts", situation([voucher(a, "item", 2)], milk3), [entry(1, a, 3, 999)],
         "balance_insufficient", ""),
        ("limit and parts", situation([voucher(a, "item", 9)], milk3, limit_per_redemption_minor=1000),
         [entry(1, a, 3, 1001)], "limit_exceeded", ""),
        ("not in the list and balance", situation([voucher(a, available=1)], [line(SOAP, 1, 300)]), take,
         "not_in_product_list", ""),
        ("everything at once", situation([], [line(SOAP, 1, 300)], paused=True, stores=[],
                                         limit_per_redemption_minor=1, **late), take,
         "programme_not_started", ""),
    ]  # fmt: skip
    for name, where, entries, code, _why in [*rows, *both]:
        got = second.check(where, entries)
        assert got == code, (name, got, code)
    names = ("name", "situation", "allocation", "code", "why")
    return {
        "note": "Refusals (section 6): `order` is the list. `checks`: what `check` answers to an allocation"
        " in a situation, null where it accepts; `others` are vouchers that exist and belong to another"
        " beneficiary, `reserved_elsewhere` what of a voucher is set aside for another till, beside what is"
        " available. `both`: two things are wrong at once, the earlier in the list is answered.",
        "order": [{"number": number, "code": code, "answered_as": answered}
                  for number, (code, answered) in enumerate(second.REFUSALS.items(), start=1)],
        "checks": [dict(zip(names, row, strict=True)) for row in rows],
        "both": [dict(zip(names, row, strict=True)) for row in both],
    }  # fmt: skip


FILES = {
    "settlement.json": settlement_file,
    "settlement_undo.json": settlement_undo_file,
    "json.json": json_file,
    "split.json": split_file,
    "jws.json": jws_file,
    "ids.json": ids_file,
    "records.json": records_file,
    "outcomes.json": outcomes_file,
    "refusals.json": refusals_file,
    "allocations.json": allocations_file,
    "tokens.json": tokens_file,
    "key_change.json": key_change_file,
    "allotted.json": allotted_file,
    "healing.json": healing_file,
    "healing_lines.json": healing_lines_file,
    "offline.json": offline_file,
    "clock_reset.json": clock_reset_file,
    "undo.json": undo_file,
    "upload.json": upload_file,
    "upload_keys.json": upload_keys_file,
}


def _written(content: Json) -> str:
    """One case a line, so that a difference shows which case it is."""
    parts = []
    for name, value in content.items():
        if isinstance(value, list):
            inner = ",\n".join(json.dumps(each, ensure_ascii=False) for each in value)
            parts.append(f'"{name}": [\n{inner}\n]')
        else:
            parts.append(f'"{name}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def built_file(name: str) -> str:
    """The text of one vector file."""
    return _written(FILES[name]())


def main() -> None:
    for name in FILES:
        (HERE / name).write_text(built_file(name), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
