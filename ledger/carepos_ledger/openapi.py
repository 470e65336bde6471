"""The HTTP interface, described for machines: `GET /openapi.json` (OpenAPI 3.1).

Written beside the routes and held against them by a test: every route is here, every path here is a
route, and real answers validate against it. Meaning stands in docs/protocol.md.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_NAME: Final[Schema] = {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,39}$"}
_TITLE: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 80}
_JWS: Final[Schema] = {
    "type": "string",
    "pattern": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}$",
    "maxLength": 16_384,
}
_DIGEST: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"}
_TIME: Final[Schema] = {
    "type": "string",
    "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
}
_CURRENCY: Final[Schema] = {"type": "string", "pattern": "^[A-Z]{3}$"}
_FLAG: Final[Schema] = {"type": "boolean"}


def _whole(low: int = 0, high: int = 10**12) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


# A programme's sums may be beyond any one amount, and negative when they do not add up.
_SUM: Final[Schema] = _whole(-(2**53 - 1), 2**53 - 1)


def _list(of: Schema, low: int = 0, high: int | None = None) -> Schema:
    made: Schema = {"type": "array", "items": of, "minItems": low}
    return made if high is None else {**made, "maxItems": high}


def _object(optional: dict[str, Schema] | None = None, **names: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**names, **(optional or {})},
        "required": sorted(names),
        "additionalProperties": False,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_UNIT: Final[Schema] = {"enum": ["piece", "g", "ml"]}
_RULES: Final[dict[str, Schema]] = {
    "name": _TITLE,
    "currency": _CURRENCY,
    "starts_at": _TIME,
    "ends_at": _TIME,
    "paused": _FLAG,
    "product_list": _NAME,
    "issuer": _TEXT,
    "classes": _list({"enum": ["once", "card"]}, 1, 2),
    "amr_any": _list(_TEXT, 0, 20),
    "limit_per_redemption_minor": {"anyOf": [_whole(1), {"type": "null"}]},
    "top_up_allowed": _FLAG,
    "undo_window_s": _whole(0, 2_592_000),
    "quotas": _list(_object(category=_NAME, quantity=_whole(0, 10**9), unit=_UNIT), 0, 50),
}
_MAY_BE_LEFT_OUT: Final[dict[str, Schema]] = {
    "acting": {
        "description": "who may act for a beneficiary; docs/identity.md §8",
        "anyOf": [
            _object(
                proxy=_FLAG,
                witness=_FLAG,
                household_minor=_whole(),
                actor_minor=_whole(),
                window_s=_whole(1, 31_622_400),
            ),
            {"type": "null"},
        ],
    },
    "refunds": {
        "description": "how long refunds are taken, and how long what goes back into an expired "
        "voucher can be used; docs/offline.md §3",
        "anyOf": [
            _object(window_s=_whole(0, 31_622_400), grace_s=_whole(0, 31_622_400)),
            {"type": "null"},
        ],
    },
    "offline": {
        "description": "how far tills redeem without the ledger; docs/offline.md §6",
        "anyOf": [
            _object(
                allotment_permille=_whole(0, 1000),
                spend_s=_whole(1, 31_622_400),
                upload_s=_whole(0, 31_622_400),
                pack_age_s=_whole(1, 31_622_400),
                floor={
                    "anyOf": [
                        _object(
                            redemption_minor=_whole(),
                            beneficiary_minor=_whole(),
                            window_s=_whole(1, 31_622_400),
                            liability={"enum": ["programme", "merchant"]},
                        ),
                        {"type": "null"},
                    ]
                },
                stored_sum_minor=_whole(),
                stored_count=_whole(0, 10**6),
                online_permille=_whole(0, 1000),
            ),
            {"type": "null"},
        ],
    },
}
_ISS: Final[Schema] = {"type": "string", "pattern": "^[ -~]{1,200}$"}
_KID: Final[Schema] = {"type": "string", "pattern": "^[ -~]{1,64}$"}
_OR_NULL: Final[Schema] = {"anyOf": [_TEXT, {"type": "null"}]}
_REASON: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 200}
_HELD: Final[dict[str, Schema]] = {
    "n": _whole(1),
    "decision": {"enum": ["post", "refuse", None]},
    "terminal": _NAME,
    "store": _NAME,
    "store_name": _TITLE,
    "kind": _TEXT,
    "record_sha256": _DIGEST,
    "incarnation": _TEXT,
    "sequence": _whole(1, 2**53 - 1),
    "receipt_no": _OR_NULL,
    "occurred_at": _TIME,
    "held_at": _TIME,
    "reason": {
        "enum": [
            "terminal_suspended",
            "terminal_revoked",
            "terminal_forked",
            "token",
            "malformed",
        ]
    },
    "sold_offline": _FLAG,
    "programme": _OR_NULL,
    "currency": _OR_NULL,
    "amount_minor": {"anyOf": [_whole(), {"type": "null"}]},
    "token": _OR_NULL,
}
_CARD: Final[dict[str, Schema]] = {
    "iss": _ISS,
    "jti_sha256": _DIGEST,
    "sub": {"type": "string", "minLength": 1, "maxLength": 64},
    "pin_verifier": _DIGEST,
}

_SCHEMAS: Final[dict[str, Schema]] = {
    "Problem": {
        "description": "RFC 9457. Nothing was decided; unsigned, so never a decision.",
        "type": "object",
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "code": _TEXT,
            "field": _TEXT,
            "server_time": _JWS,
            "missing": _list({"type": "integer"}),
            "vouchers": _list({"type": "object"}),
        },
        "required": ["type", "title", "status", "detail", "code"],
    },
    "Jwk": _object({"kid": _DIGEST}, kty={"const": "OKP"}, crv={"const": "Ed25519"}, x=_DIGEST),
    "IssuerJwk": {
        "description": "a public signing key: Ed25519, P-256 or RSA; docs/identity.md §3",
        "type": "object",
        "properties": {
            "kty": {"enum": ["OKP", "EC", "RSA"]},
            "kid": _KID,
            "use": {"const": "sig"},
            "alg": {"enum": ["EdDSA", "Ed25519", "ES256", "RS256"]},
        },
        "required": ["kty"],
    },
    "Issuer": _object(
        iss=_ISS,
        jwks_url=_OR_NULL,
        as_of=_TIME,
        age_s=_whole(),
        asked_at={"anyOf": [_TIME, {"type": "null"}]},
        problem=_OR_NULL,
        left_out=_whole(),
        keys=_list(
            _object(
                kid=_KID,
                kty={"enum": ["OKP", "EC", "RSA"]},
                thumbprint=_DIGEST,
                retiring_until={"anyOf": [_TIME, {"type": "null"}]},
                withdrawn=_FLAG,
            ),
            1,
            40,
        ),
    ),
    "Envelope": _object(
        {"token": {"type": "string", "maxLength": 4096}, "evidence": _TEXT}, record=_JWS
    ),
    "Result": {"oneOf": [_object(outcome=_JWS), _object(problem=_ref("Problem"))]},
    "Rules": _object(_MAY_BE_LEFT_OUT, **_RULES),
    "Programme": _object(
        _MAY_BE_LEFT_OUT, programme=_NAME, rules_version=_whole(1), stores=_list(_NAME), **_RULES
    ),
    "Person": {
        "oneOf": [
            _object(iss=_TEXT, sub=_TEXT),
            _object(
                iss=_TEXT,
                import_key_id={"type": "string", "pattern": "^[0-9a-f]{16}$"},
                ref=_DIGEST,
            ),
        ]
    },
    "Terms": _object(
        unit=_UNIT, cap_minor=_whole(1), fixed_minor=_whole(), cap_quantity=_whole(1, 10**9)
    ),
    "IssueRow": _object(
        {
            "amount_minor": _whole(1),
            "quantity": _whole(1, 10**9),
            "terms": _ref("Terms"),
        },
        ref=_DIGEST,
        kind={"enum": ["value", "item", "fixed_price"]},
        label={"type": "string", "maxLength": 60},
        categories=_list(_NAME, 0, 20),
        starts_at=_TIME,
        expires_at=_TIME,
    ),
    "Done": _object(
        {"rules_version": _whole(1)}, result={"enum": ["created", "exists", "changed"]}
    ),
}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _operation(
    summary: str,
    answer: Schema | None,
    *,
    who: str,
    body: Schema | None = None,
    status: tuple[int, ...] = (200,),
    query: tuple[str, ...] = (),
    media_type: str = "application/json",
) -> Schema:
    made: Schema = {
        "summary": summary,
        "responses": {
            **{
                str(code): {
                    "description": "done",
                    "content": {media_type: {"schema": answer if answer is not None else _TEXT}},
                }
                for code in status
            },
            "default": {
                "description": "nothing was decided",
                "content": {"application/problem+json": {"schema": _ref("Problem")}},
            },
        },
        "security": [] if who == "anyone" else [{who: []}],
        "tags": [who],
    }
    if body is not None:
        made["requestBody"] = {"required": True, "content": _json(body)}
    if query:
        made["parameters"] = [
            {"name": name, "in": "query", "required": False, "schema": _TEXT} for name in query
        ]
    return made


def _operator(summary: str, answer: Schema, **more: Any) -> Schema:
    return _operation(summary, answer, who="operator", **more)


def _put(summary: str, body: Schema | None) -> Schema:
    return _operator(summary, _ref("Done"), body=body, status=(200, 201))


_HOLDER: Final = "holder"


def _page(
    summary: str,
    *,
    fields: dict[str, Schema] | None = None,
    status: tuple[int, ...] = (200,),
    who: str = _HOLDER,
) -> Schema:
    """A page for people (docs/identity.md §12): HTML, also where it is refused."""
    made = _operation(summary, None, who=who, status=status, media_type="text/html")
    made["responses"] = {
        code: {"description": "go on to the address in Location"} if code == "303" else answer
        for code, answer in made["responses"].items()
    }
    made["responses"]["default"] = {
        "description": "nothing was changed",
        "content": {"text/html": {"schema": _TEXT}},
    }
    if fields is not None:
        made["requestBody"] = {
            "required": True,
            "content": {"application/x-www-form-urlencoded": {"schema": _object(**fields)}},
        }
    return made


_FORM: Final[dict[str, Schema]] = {"form": {"type": "string", "minLength": 22, "maxLength": 22}}
_DISPUTE_REASON: Final[Schema] = {"enum": ["not_me", "not_these_goods", "wrong_amount", "no_goods"]}
_SUBJECT: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9._~-]{1,64}$"}
_RECEIPT_NO: Final[Schema] = {"type": "string", "pattern": "^[0-9]{4,9}-[0-9]{6,16}-[0-9]$"}
_RECEIPT_CODE: Final[Schema] = {"type": "string", "pattern": "^[A-Z2-7]{16}$"}
_REFERENCE: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_SETTLEMENT: Final[Schema] = _object(programme=_NAME, batch_no=_whole(1), manifest=_JWS)

_INCARNATION: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_RANGES: Final[Schema] = _list(_list(_whole(1, 2**53 - 1), 2, 2), 0, 200)
_CERTIFICATES: Final[Schema] = _list(_object(key=_ref("Jwk"), certificate=_JWS), 1, 40)
_BY_STATE: Final[Schema] = {"type": "object", "additionalProperties": _whole()}
_COUNTED: Final[dict[str, Schema]] = {
    "currency": {"anyOf": [_CURRENCY, {"type": "null"}]},
    "count": _whole(),
    "amount_minor": _SUM,
}
_HEAL_REPORT: Final[Schema] = _object(
    epoch=_whole(1),
    since=_TIME,
    opened_at=_TIME,
    early=_FLAG,
    restored=_list(_object(kind=_TEXT, result=_TEXT, **_COUNTED)),
    excepted=_list(_object(reason=_TEXT, **_COUNTED)),
    allotments=_object(placed=_whole(), excepted=_whole()),
    not_reported=_list(_NAME),
    paid_not_booked=_whole(),
)

_PATHS: Final[dict[str, Schema]] = {
    "/openapi.json": {"get": _operation("This description", {"type": "object"}, who="anyone")},
    "/.well-known/jwks.json": {
        "get": _operation(
            "The ledger's keys; trust `keyset`, signed by the root",
            _object(keys=_list(_ref("Jwk"), 1), root=_ref("Jwk"), keyset=_JWS),
            who="anyone",
        )
    },
    "/v1/terminals": {
        "post": _operation(
            "Enrol a terminal's key with a one-time activation code",
            _object(certificate=_JWS),
            who="anyone",
            body=_object(activation=_TEXT, public_key=_ref("Jwk"), proof=_JWS),
            status=(201,),
        )
    },
    "/v1/records": {
        "post": _operation(
            "Records in, one signed outcome or one problem each out, in order",
            _object(results=_list(_ref("Result"), 1, 500)),
            who="anyone",
            body=_object(items=_list(_ref("Envelope"), 1, 500)),
        )
    },
    "/v1/records/{attempt_id}": {
        "get": _operation(
            "What became of an attempt of the caller's own",
            _object(
                state={"enum": ["posted", "refused", "reversed", "not_found"]},
                outcomes=_list(_JWS, 1),
            ),
            who="terminal",
        )
    },
    "/v1/terminal": {
        "get": _operation(
            "The caller's certificate, of the key that signed the read",
            _object(certificate=_JWS),
            who="terminal",
        )
    },
    "/v1/vouchers/lookup": {
        "post": _operation(
            "The vouchers of whoever the token names",
            _object(lookup=_JWS),
            who="terminal",
            body=_object({"pin_proof": _DIGEST}, token=_TEXT),
        )
    },
    "/v1/sales/find": {
        "post": _operation(
            "A booked sale of the caller's merchant, by the number on its receipt",
            _object(sale=_JWS, record=_JWS),
            who="terminal",
            body=_object(receipt_no=_RECEIPT_NO, code=_or_null(_RECEIPT_CODE)),
        )
    },
    "/v1/offline-pack": {
        "get": _operation(
            "The signed manifest of the caller's offline pack (ETag, If-None-Match)",
            _object(manifest=_JWS),
            who="terminal",
        ),
        "post": _operation(
            "A pack with the households that shop at the caller's store, set aside for first",
            _object(manifest=_JWS),
            body=_object(incarnation={"type": "string", "pattern": "^[0-9a-f]{32}$"}),
            who="terminal",
        ),
    },
    "/v1/offline-pack/{sha256}": {
        "get": _operation("A file of the offline pack", {"type": "object"}, who="terminal")
    },
    "/v1/heal": {
        "post": _operation(
            "Ask what the ledger holds of the caller's records, and offer what it lost",
            _object(
                epoch=_whole(1),
                state={"enum": ["open", "healing"]},
                forked=_FLAG,
                held=_RANGES,
                ends=_list(_list(_DIGEST, 1, 20), 0, 200),
                more=_FLAG,
                results=_list(
                    {
                        "oneOf": [
                            _object(result={"enum": ["held", "staged", "placed", "exception"]}),
                            _object(problem=_ref("Problem")),
                        ]
                    },
                    0,
                    500,
                ),
            ),
            body=_object(
                incarnation=_INCARNATION,
                after=_whole(0),
                last=_whole(0),
                certificates=_CERTIFICATES,
                items=_list(_object(record=_JWS, outcome=_JWS), 0, 500),
                complete=_FLAG,
            ),
            who="terminal",
        )
    },
    "/v1/heal/pack": {
        "post": _operation(
            "The pack that the caller holds, for what it says is set aside",
            _object(missing=_list(_DIGEST)),
            body=_object(
                incarnation=_INCARNATION,
                certificates=_CERTIFICATES,
                manifest=_JWS,
                files=_list(_TEXT, 0, 65),
            ),
            who="terminal",
        )
    },
    "/v1/settlements": {
        "get": _operation(
            "The settlement batches of the caller's merchant",
            _object(settlements=_list(_SETTLEMENT)),
            who="terminal",
            query=("after",),
        )
    },
    "/v1/settlements/{programme}/{batch_no}": {
        "get": _operation("A settlement file", _TEXT, who="terminal", media_type="text/csv")
    },
    "/v1/operators/issuers": {
        "get": _operator(
            "Every issuer with its keys, how old they are, and what went wrong last",
            _object(issuers=_list(_ref("Issuer"))),
        ),
        "put": _put(
            "An issuer of identity tokens: its keys, or where it publishes them",
            {
                "oneOf": [
                    _object(
                        {"confirmed": _FLAG}, iss=_ISS, keys=_list(_ref("IssuerJwk"), 1, 20)
                    ),
                    _object({"confirmed": _FLAG}, iss=_ISS, jwks_url=_TEXT),
                ]
            },
        ),
    },
    "/v1/operators/issuers/refresh": {
        "post": _operator(
            "Ask an issuer's address for its set now", _ref("Done"), body=_object(iss=_ISS)
        )
    },
    "/v1/operators/issuers/confirm": {
        "post": _operator(
            "Believe the set published now, if its keys have exactly these thumbprints",
            _ref("Done"),
            body=_object(iss=_ISS, thumbprints=_list(_DIGEST, 1, 20)),
        )
    },
    "/v1/operators/revocations": {
        "get": _operator(
            "What is withdrawn, oldest first, a thousand after the first `after`",
            _object(
                revocations=_list(
                    _object(
                        iss=_ISS,
                        kind={"enum": ["key", "token"]},
                        name=_TEXT,
                        reason=_REASON,
                        at=_TIME,
                        until={"anyOf": [_TIME, {"type": "null"}]},
                    )
                ),
                more=_FLAG,
            ),
            query=("after",),
        )
    },
    "/v1/operators/revocations/keys": {
        "post": _put(
            "Withdraw an issuer's key, for ever", _object(iss=_ISS, kid=_KID, reason=_REASON)
        )
    },
    "/v1/operators/revocations/tokens": {
        "post": _put(
            "Withdraw a token or a card; `until` is its exp, after which the entry may go",
            _object({"until": _TIME}, iss=_ISS, jti_sha256=_DIGEST, reason=_REASON),
        )
    },
    "/v1/operators/revocations/forget-expired": {
        "post": _operator(
            "Drop the entries of tokens that have expired",
            _object(forgotten=_whole()),
            body=_object(),
        )
    },
    "/v1/operators/cards": {
        "put": _put("A printed card, or another PIN of one", _object(**_CARD)),
        "post": _operator(
            "Many cards, in one transaction; one that is refused keeps no other back",
            _object(
                results=_list(
                    _object(
                        jti_sha256=_DIGEST,
                        result={"enum": ["created", "exists", "changed", "refused"]},
                        detail=_OR_NULL,
                    ),
                    1,
                    500,
                )
            ),
            body=_object({"dry_run": _FLAG}, cards=_list(_object(**_CARD), 1, 500)),
        ),
    },
    "/v1/operators/cards/unlock": {
        "post": _operator(
            "Give a card its tries back", _ref("Done"), body=_object(iss=_ISS, jti_sha256=_DIGEST)
        )
    },
    "/v1/operators/programmes/{programme}/acted": {
        "get": _operator(
            "Who acted for whom, oldest first, a thousand after the first `after`",
            _object(
                acted=_list(
                    _object(
                        recorded_at=_TIME,
                        posting=_TEXT,
                        beneficiary=_TEXT,
                        actor_sha256=_DIGEST,
                        way={"enum": ["proxy", "witness"]},
                        reason=_TEXT,
                        amount_minor=_whole(),
                        currency=_CURRENCY,
                        reversed=_FLAG,
                    )
                ),
                more=_FLAG,
            ),
            query=("after",),
        )
    },
    "/v1/operators/funders/{funder}": {"put": _put("A funder", _object(name=_TITLE))},
    "/v1/operators/merchants/{merchant}": {"put": _put("A merchant", _object(name=_TITLE))},
    "/v1/operators/stores/{store}": {
        "put": _put("A merchant's store", _object(merchant=_NAME, name=_TITLE))
    },
    "/v1/operators/product-lists/{product_list}": {
        "put": _put(
            "A product list; a changed one is a new version",
            _object(
                version=_whole(1, 2**53 - 1),
                entries={"type": "object", "additionalProperties": _NAME, "maxProperties": 20_000},
            ),
        )
    },
    "/v1/operators/programmes": {
        "get": _operator("Every programme", _object(programmes=_list(_ref("Programme"))))
    },
    "/v1/operators/programmes/{programme}": {
        "get": _operator("One programme's rules", _ref("Programme")),
        "put": _put("A programme's rules; changed ones get the next version", _ref("Rules")),
    },
    "/v1/operators/programmes/{programme}/stores/{store}": {
        "put": _put("Let a store take part", None),
        "delete": _operator("Let a store take part no longer", _ref("Done"), status=(200,)),
    },
    "/v1/operators/programmes/{programme}/sums": {
        "get": _operator(
            "Where the programme's money is",
            _object(
                programme=_NAME,
                currency=_CURRENCY,
                funded_minor=_SUM,
                unreserved_minor=_SUM,
                loss_reserve_minor=_SUM,
                lost_minor=_SUM,
                issued_minor=_SUM,
                available_minor=_SUM,
                allotted_minor=_SUM,
                saved_minor=_SUM,
                redeemed_minor=_SUM,
                returned_minor=_SUM,
                vouchers=_whole(),
                quantities={"type": "object"},
                differences=_list(_TEXT),
            ),
        )
    },
    "/v1/operators/programmes/{programme}/funds": {
        "post": _put(
            "Money put in by a funder, once per reference",
            _object(
                funder=_NAME,
                amount_minor=_whole(1),
                reference={"type": "string", "pattern": "^[A-Za-z0-9._-]{1,40}$"},
            ),
        )
    },
    "/v1/operators/programmes/{programme}/issue": {
        "post": _operator(
            "Issue vouchers, once per ref",
            _object(
                results=_list(
                    _object(
                        ref=_DIGEST,
                        result={
                            "enum": ["issued", "already_issued", "already_issued_differently"]
                        },
                        iss={"anyOf": [_TEXT, {"type": "null"}]},
                        sub={"anyOf": [_TEXT, {"type": "null"}]},
                    )
                )
            ),
            body=_object(
                import_key_id={"type": "string", "pattern": "^[0-9a-f]{16}$"},
                rows=_list(_ref("IssueRow"), 1, 500),
            ),
        )
    },
    "/v1/operators/programmes/{programme}/freeze": {
        "post": _put(
            "Freeze or free a voucher",
            _object({"ref": _DIGEST, "voucher": _TEXT}, frozen=_FLAG),
        )
    },
    "/v1/operators/retention": {
        "post": _operator(
            "Delete (or count) what is past its time in one slice of buckets; go on at next_bucket",
            _object(
                tables={"type": "object", "additionalProperties": _whole()},
                next_bucket={"anyOf": [_whole(1, 4095), {"type": "null"}]},
            ),
            body=_object(from_bucket=_whole(0, 4095), dry_run=_FLAG),
        )
    },
    "/v1/operators/people/erase": {
        "post": _operator(
            "Cut the tie between a person and their vouchers (docs/privacy.md)",
            _object(
                vouchers=_whole(),
                enrolments=_whole(),
                cards=_whole(),
                acted=_whole(),
                forfeited_minor={"type": "object", "additionalProperties": _whole()},
                on_disk={"enum": ["gone", "until_checkpoint", "until_vacuum", "nothing_changed"]},
            ),
            body=_object(person=_ref("Person"), forfeit=_FLAG, dry_run=_FLAG),
        )
    },
    "/v1/operators/people/export": {
        "post": _operator(
            "What is held about a person",
            _object(
                as_of=_TIME,
                iss=_TEXT,
                sub=_TEXT,
                vouchers=_list({"type": "object"}),
                lists=_list({"type": "object"}),
                cards=_list({"type": "object"}),
                acted_for_me=_list({"type": "object"}),
                acted_by_me=_list({"type": "object"}),
                disputes=_list({"type": "object"}),
                waiting_to_be_decided=_list({"type": "object"}),
                home_store={"anyOf": [_NAME, {"type": "null"}]},
                home_pinned=_FLAG,
            ),
            body=_object(person=_ref("Person")),
        )
    },
    "/v1/operators/homes": {
        "get": _operator(
            "How many households are at home in each store, and how many of them are pinned there",
            _object(
                homes=_list(
                    _object(
                        store=_NAME, store_name=_TITLE, households=_whole(1), pinned=_whole()
                    )
                )
            ),
        ),
        "post": _operator(
            "Pin homes; null lets one follow its redemptions again. In one transaction; one that "
            "is refused keeps no other back",
            _object(
                results=_list(
                    _object(
                        result={"enum": ["created", "exists", "changed", "refused"]},
                        detail=_OR_NULL,
                    ),
                    1,
                    500,
                )
            ),
            body=_object(
                {"dry_run": _FLAG},
                homes=_list(_object(person=_ref("Person"), store=_or_null(_NAME)), 1, 500),
            ),
        ),
    },
    "/v1/operators/homes/from-sales": {
        "post": _operator(
            "In one slice of buckets, note (or count) the homes of households that have none by "
            "their latest redemption in programmes that work offline; go on at next_bucket",
            _object(
                homes=_whole(), next_bucket={"anyOf": [_whole(1, 4095), {"type": "null"}]}
            ),
            body=_object(from_bucket=_whole(0, 4095), dry_run=_FLAG),
        )
    },
    "/v1/operators/activations": {
        "post": _operator(
            "A one-time activation code for a till",
            _object(activation=_TEXT, expires_at=_TIME),
            body=_object(store=_NAME, valid_s=_whole(60, 2_592_000)),
            status=(201,),
        )
    },
    "/v1/operators/terminals": {
        "get": _operator("Every terminal", _object(terminals=_list({"type": "object"})))
    },
    "/v1/operators/terminals/{terminal}/status": {
        "put": _put(
            "Suspend a terminal, let it in again, or revoke it for ever",
            _object(status={"enum": ["active", "suspended", "revoked"]}),
        )
    },
    "/v1/operators/alarms": {
        "get": _operator(
            "What an operator should look at",
            _object(
                alarms=_list(
                    _object(
                        n=_whole(1),
                        at=_TIME,
                        kind=_TEXT,
                        terminal=_TEXT,
                        digest=_TEXT,
                        hint=_TEXT,
                        over=_FLAG,
                    )
                )
            ),
            query=("after",),
        )
    },
    "/v1/operators/held": {
        "get": _operator(
            "Records that only people can decide, and have not yet",
            _object(held=_list(_object(**_HELD), 0, 500)),
            query=("after",),
        )
    },
    "/v1/operators/held/{n}": {
        "get": _operator(
            "One of them, decided or not; its content while it is undecided",
            _object(
                **_HELD,
                content=_or_null({"type": "object"}),
                resolved_at=_or_null(_TIME),
                operator=_or_null(_NAME),
                sentence=_or_null(_TEXT),
                result=_or_null(_TEXT),
            ),
        ),
        "put": _operator(
            "Decide it, for good: by the rules of now, or that it is not accepted",
            _object(result={"enum": ["exists", "changed"]}, outcome=_TEXT),
            body=_object(
                {
                    "code": _TEXT,
                    "sentence": _REASON,
                    "leaves_spent": _FLAG,
                },
                decision={"enum": ["post", "refuse"]},
            ),
        ),
    },
    "/v1/operators/terminals/{terminal}/chains": {
        "get": _operator(
            "What of a terminal's journals has come, is missing, is held",
            _object(
                terminal=_NAME,
                status={"enum": ["active", "suspended", "revoked", "forked"]},
                chains=_list(
                    _object(
                        incarnation=_TEXT,
                        arrived_to=_whole(0, 2**53 - 1),
                        missing=_list(_whole(1, 2**53 - 1), 0, 100),
                        held=_list(_whole(1, 2**53 - 1), 0, 100),
                    )
                ),
            ),
        )
    },
    "/v1/operators/close": {
        "post": _operator(
            "Close settlement batches over everything that no batch holds yet",
            _object(closed=_list({"type": "object"})),
            body=_object({"merchant": _NAME, "programme": _NAME}),
        )
    },
    "/v1/operators/settlements": {
        "get": _operator(
            "Every settlement batch",
            _object(settlements=_list({"type": "object"})),
            query=("merchant",),
        )
    },
    "/v1/operators/uses": {
        "get": _operator(
            "Each use of a voucher in the order of its number, for notices",
            _object(
                uses=_list(
                    _object(
                        n=_whole(1),
                        kind={"enum": ["redeem", "refund", "reversal", "void"]},
                        iss=_TEXT,
                        sub=_SUBJECT,
                        receipt_no=_RECEIPT_NO,
                        store=_NAME,
                        store_name=_TITLE,
                        programme=_NAME,
                        currency=_CURRENCY,
                        amount_minor=_whole(-(10**12)),
                        recorded_at=_TIME,
                    ),
                    0,
                    500,
                ),
                next=_whole(0, 2**53 - 1),
            ),
            query=("after",),
        )
    },
    "/v1/operators/programmes/{programme}/loss-reserve": {
        "post": _put(
            "Money set aside for sales without the ledger that no voucher covers",
            _object(
                amount_minor=_whole(1),
                reference={"type": "string", "pattern": "^[A-Za-z0-9._-]{1,40}$"},
            ),
        )
    },
    "/v1/operators/heal": {
        "get": _operator(
            "How far the ledger is healed of a loss",
            _object(
                state={"enum": ["open", "healing", "opening"]},
                epoch=_whole(1),
                since={"anyOf": [_TIME, {"type": "null"}]},
                terminals=_list(
                    _object(
                        terminal=_NAME,
                        terminal_no=_whole(1),
                        store=_NAME,
                        status=_TEXT,
                        heard_at={"anyOf": [_TIME, {"type": "null"}]},
                        complete=_FLAG,
                        offered=_whole(),
                        missing=_list(_object(incarnation=_INCARNATION, numbers=_RANGES)),
                    )
                ),
                evidence=_BY_STATE,
                allotments=_BY_STATE,
                lost=_whole(),
                paid_not_booked=_list(
                    _object(
                        merchant=_NAME,
                        programme=_NAME,
                        batch_no=_whole(1),
                        terminal=_NAME,
                        sequence=_whole(1, 2**53 - 1),
                        kind=_TEXT,
                        amount_minor=_SUM,
                        offered=_FLAG,
                    )
                ),
                report={"anyOf": [_HEAL_REPORT, {"type": "null"}]},
            ),
        )
    },
    "/v1/operators/heal/open": {
        "post": _operator(
            "Go on with the opening: some of what was offered is booked again",
            _object(open=_FLAG, left=_whole()),
            body=_object(early=_FLAG),
        )
    },
    "/v1/operators/heal/settlements": {
        "post": _operator(
            "A settlement batch that was closed in what is lost; `file` is deflated (RFC 1951)",
            _object(result={"enum": ["created", "exists"]}, name=_TEXT),
            body=_object(manifest=_JWS, file=_TEXT),
            status=(200, 201),
        )
    },
    "/v1/operators/heal/exceptions": {
        "get": _operator(
            "What was decided, proved and can't be booked again; at most 500",
            _object(
                exceptions=_list(
                    _object(
                        exception=_whole(1),
                        state={"enum": ["open", "closed"]},
                        reason=_OR_NULL,
                        receipt_no=_or_null(_RECEIPT_NO),
                        kind=_TEXT,
                        result=_TEXT,
                        terminal=_NAME,
                        incarnation=_INCARNATION,
                        sequence=_whole(1, 2**53 - 1),
                        recorded_at=_TIME,
                        amount_minor=_whole(),
                        currency={"anyOf": [_CURRENCY, {"type": "null"}]},
                        closed_at={"anyOf": [_TIME, {"type": "null"}]},
                        note=_OR_NULL,
                    )
                )
            ),
            query=("after",),
        )
    },
    "/v1/operators/heal/exceptions/{exception}": {
        "put": _put("Dealt with, for good; moves no money", _object(note=_REASON))
    },
    "/v1/operators/exceptions": {
        "get": _operator(
            "Sales made without the ledger that a person has to look at",
            _object(
                exceptions=_list(
                    _object(
                        exception=_whole(1),
                        state={"enum": ["open", "closed"]},
                        receipt_no=_or_null(_RECEIPT_NO),
                        reason=_TEXT,
                        liability={"enum": ["programme", "merchant"]},
                        amount_minor=_whole(),
                        currency=_CURRENCY,
                        merchant=_NAME,
                        store=_NAME,
                        terminal=_NAME,
                        occurred_at=_TIME,
                        recorded_at=_TIME,
                        closed_at=_or_null(_TIME),
                        note=_or_null(_TEXT),
                    ),
                    0,
                    500,
                )
            ),
            query=("after",),
        )
    },
    "/v1/operators/exceptions/{exception}": {
        "put": _operator(
            "Close an exception, for good, with what was done",
            _ref("Done"),
            body=_object(note={"type": "string", "minLength": 1, "maxLength": 200}),
        )
    },
    "/v1/operators/disputes": {
        "get": _operator(
            "What beneficiaries say they did not buy",
            _object(
                disputes=_list(
                    _object(
                        dispute=_whole(1),
                        state={"enum": ["open", "upheld", "rejected"]},
                        reason=_DISPUTE_REASON,
                        opened_at=_TIME,
                        answered_at=_or_null(_TIME),
                        answer=_or_null(_TEXT),
                        iss=_or_null(_TEXT),
                        sub=_or_null(_SUBJECT),
                        receipt_no=_RECEIPT_NO,
                        merchant=_NAME,
                        store=_NAME,
                        store_name=_TITLE,
                        terminal=_NAME,
                        programme=_NAME,
                        currency=_CURRENCY,
                        amount_minor=_whole(),
                        recorded_at=_TIME,
                        reversed=_FLAG,
                        returned_minor=_whole(),
                        acted=_or_null({"enum": ["proxy", "witness"]}),
                    ),
                    0,
                    500,
                )
            ),
            query=("after",),
        )
    },
    "/v1/operators/disputes/{dispute}": {
        "put": _operator(
            "Uphold or reject a dispute, for good, with a sentence for the beneficiary",
            _ref("Done"),
            body=_object(
                state={"enum": ["upheld", "rejected"]},
                sentence={"type": "string", "minLength": 1, "maxLength": 200},
            ),
        )
    },
    "/v1/operators/stops": {
        "get": _operator(
            "Vouchers that their holders stopped and that are frozen still",
            _object(
                stops=_list(
                    _object(programme=_NAME, voucher=_REFERENCE, stopped_at=_TIME), 0, 500
                )
            ),
        )
    },
    "/me": {
        "get": _page("On to the pages in the browser's language", status=(303,), who="anyone"),
        "post": _page(
            "Open a beneficiary's own pages with a token for the audience `…:self`",
            fields={"token": {"type": "string", "maxLength": 4096}},
            who="anyone",
        ),
    },
    "/me/{language}": {"get": _page("What I have and what was used")},
    "/me/{language}/page/{page}": {"get": _page("Older uses")},
    "/me/{language}/leave": {"post": _page("End the session", fields=_FORM)},
    "/me/{language}/uses/{use}": {"get": _page("One use")},
    "/me/{language}/uses/{use}/dispute": {
        "get": _page("I did not buy this: what is wrong with it?", status=(200, 303)),
    },
    "/me/{language}/uses/{use}/dispute/{reason}": {
        "get": _page("Asked back before it is told", status=(200, 303)),
        "post": _page("Tell the office", fields=_FORM, status=(303,)),
    },
    "/me/{language}/vouchers/{voucher}/stop": {
        "get": _page("Stop this voucher?", status=(200, 303)),
        "post": _page("Stop this voucher", fields=_FORM, status=(303,)),
    },
}  # fmt: skip


def document() -> Schema:
    """The OpenAPI 3.1 document as a JSON object."""
    paths: dict[str, Schema] = {}
    for path, operations in _PATHS.items():
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names
        ]
        paths[path] = {**({"parameters": parameters} if parameters else {}), **operations}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CarePOS ledger",
            "version": "1",
            "description": "Redeem digital aid vouchers exactly once. See docs/protocol.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "terminal": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "carepos-read+jwt",
                },
                "operator": {"type": "http", "scheme": "bearer"},
                _HOLDER: {"type": "apiKey", "in": "cookie", "name": "__Host-carepos-me"},
            },
        },
    }
