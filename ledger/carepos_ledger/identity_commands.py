"""`carepos ledger …` about who stands at the counter: issuers, what is withdrawn, cards, acting.

Added to the command by `commands`, whose exit codes hold here too. What a token says is read on
this machine and ends here: only its issuer and the SHA-256 of its `jti` leave it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress

from carepos import claims, clock, compact, durable, ids, presentation, strict_json
from carepos.errors import Malformed, NotDecided, TokenRefused
from carepos.issuer_keys import IssuerKey, IssuerKeys, issuer_text
from carepos.keys import digest
from carepos.money import format_amount
from carepos_ledger import operator_screen
from carepos_ledger.operator_client import CommandStopped, OfficeUnreachable, OperatorClient

DONE, NO = 0, 1
MAX_FILE_BYTES: Final = 64 * 2**20
MAX_CHUNK: Final = 500
CARD_COLUMNS: Final = ("iss", "jti_sha256", "sub", "pin_verifier")
ACTED_COLUMNS: Final = (
    "recorded_at", "way", "reason", "amount_minor", "currency", "reversed", "beneficiary",
    "actor_sha256", "posting",
)  # fmt: skip

Work = Callable[[OperatorClient, argparse.Namespace], int]
Add = Callable[[str, str, Work], argparse.ArgumentParser]
"""(name, summary, work) → the parser of a command that talks to a ledger."""


def add_to(add: Add) -> None:
    """Add every command of this module."""
    _add_issuers(add)
    _add_withdrawn(add)
    _add_cards(add)
    acted = add("acted", "who acted for whom in a programme 代领审计", _acted)
    acted.add_argument("programme", metavar="PROGRAMME")
    acted.add_argument("--csv", metavar="FILE.csv", help="write it there; - for the screen")


# ── issuers ────────────────────────────────────────────────────────────────────────────────────


def _add_issuers(add: Add) -> None:
    issuer = add("issuer", "believe an issuer's public keys", _issuer)
    issuer.add_argument("iss", metavar="ISS", help="as its tokens name it")
    which = issuer.add_mutually_exclusive_group(required=True)
    which.add_argument("--keys", type=Path, metavar="FILE", help="a JWK, a list or a JWK set")
    which.add_argument("--jwks-url", metavar="URL", help="where it publishes them: https://…")
    issuer.add_argument(
        "--confirmed",
        action="store_true",
        help="also if no key that is held is among them; those then stop at once",
    )

    issuers = add("issuers", "every issuer, its keys and how old they are; 1 if in trouble", _list)
    issuers.add_argument("--json", action="store_true", help="for programs instead of people")

    refresh = add("refresh-issuers", "ask issuers' addresses for their keys; for cron", _refresh)
    refresh.add_argument("iss", nargs="*", metavar="ISS", help="default: all that have an address")

    confirm = add("confirm-issuer", "believe keys that are all new, having compared them", _confirm)
    confirm.add_argument("iss", metavar="ISS")
    confirm.add_argument(
        "thumbprints", nargs="+", metavar="THUMBPRINT", help="as `issuers` shows what was refused"
    )


def _issuer(client: OperatorClient, args: argparse.Namespace) -> int:
    body: dict[str, object] = {"iss": args.iss}
    if args.confirmed:
        body["confirmed"] = True
    if args.jwks_url is not None:
        return _told(client.put("/issuers", {**body, "jwks_url": args.jwks_url}), args.iss)
    held, left_out = read_keys(args.keys)
    if left_out:
        print(f"{left_out} keys for other purposes are left out.", file=sys.stderr)
    keys = [dict(key.jwk) for key in held]
    return _told(client.put("/issuers", {**body, "keys": keys}), f"{args.iss}, {len(keys)} keys")


def read_keys(path: Path) -> tuple[list[IssuerKey], int]:
    """The signing keys of a file with a JWK, a list or a JWK set, and how many others it has.

    Raises CommandStopped for a private key, Malformed, OSError.
    """
    data = _bytes_of(path)
    found = strict_json.read(data)
    if isinstance(found, dict):
        found = found.get("keys", [found])
    listed = strict_json.array(found, "keys", low=1, high=200)
    if any(isinstance(jwk, dict) and {"d", "k", "p"} & jwk.keys() for jwk in listed):
        raise CommandStopped(
            "The file holds a private key. The ledger needs the public one only; ask the issuer "
            "for that, and to replace the one that got out."
        )
    document = json.dumps({"keys": listed}).encode()
    held = IssuerKeys.from_jwks(document, clock.system_clock())
    return list(held), held.left_out


def _list(client: OperatorClient, args: argparse.Namespace) -> int:
    issuers = _listed(client.get("/issuers"), "issuers")
    if args.json:
        print(json.dumps(issuers, ensure_ascii=False))
    else:
        _show_issuers(issuers)
    return NO if any(each["problem"] for each in issuers) else DONE


def _show_issuers(issuers: list[dict[str, Any]]) -> None:
    if not issuers:
        print("No issuers. 无签发方。")
        return
    console = operator_screen.console()
    for each in issuers:
        source = each["jwks_url"] or "from an operator 由管理员录入"
        console.print(f"{each['iss']}  {source}")
        asked = f", last asked 最近询问 {each['asked_at']}" if each["asked_at"] else ""
        console.print(f"  keys of 密钥时间 {_age(each)}{asked}")
        if each["problem"]:
            console.print(f"  PROBLEM 问题: {each['problem']}")
        if each["left_out"]:
            console.print(f"  {each['left_out']} keys for other purposes left out")
        for key in each["keys"]:
            key["state"] = _state(key)
        columns = ("kid", "kty", "thumbprint", "state")
        console.print(operator_screen.table(columns, each["keys"]))


def _age(issuer: dict[str, Any]) -> str:
    if issuer["as_of"].startswith("1970"):
        return "before this version 升级前"
    age_s = issuer["age_s"]
    shown = f"{age_s // 86_400} d {age_s % 86_400 // 3_600} h {age_s % 3_600 // 60} min"
    return f"{issuer['as_of']} ({shown})"


def _state(key: dict[str, Any]) -> str:
    if key["withdrawn"]:
        return "WITHDRAWN 已吊销"
    if key["retiring_until"]:
        return f"retiring until 即将停用 {key['retiring_until']}"
    return "believed 可信"


def _refresh(client: OperatorClient, args: argparse.Namespace) -> int:
    listed = _listed(client.get("/issuers"), "issuers")
    wanted = args.iss or [each["iss"] for each in listed if each["jwks_url"]]
    if not wanted:
        print("No issuer has an address: name one with `carepos ledger issuer --jwks-url`.")
        return DONE
    ended = DONE
    for iss in wanted:
        try:
            operator_screen.tell(client.post("/issuers/refresh", {"iss": iss}), iss)
        except NotDecided as error:
            # The others are asked all the same.
            print(f"{iss}: {error.detail or error.code}. What was held stays.", file=sys.stderr)
            ended = NO
    return ended


def _confirm(client: OperatorClient, args: argparse.Namespace) -> int:
    body = {"iss": args.iss, "thumbprints": args.thumbprints}
    return _told(client.post("/issuers/confirm", body), args.iss)


# ── what is withdrawn ──────────────────────────────────────────────────────────────────────────


def _add_withdrawn(add: Add) -> None:
    key = add("revoke-key", "withdraw an issuer's key, for ever 吊销密钥", _revoke_key)
    key.add_argument("iss", metavar="ISS")
    key.add_argument("kid", metavar="KID", help="as `issuers` shows it")
    key.add_argument("--reason", required=True)

    card = add("revoke-card", "withdraw a card or a token 吊销卡", _revoke_card)
    _add_card_name(card)
    card.add_argument("--reason", required=True)

    shown = add("revocations", "what is withdrawn, and why", _revocations)
    shown.add_argument("--json", action="store_true", help="for programs instead of people")

    add("forget-expired", "drop the entries of tokens that have expired; for cron", _forget)


def _add_card_name(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--token", metavar="FILE", help="what a scanner reads from the card; - for the keyboard"
    )
    which.add_argument(
        "--card", nargs=2, metavar=("ISS", "JTI_SHA256"), help="as the issuer names it"
    )


def _revoke_key(client: OperatorClient, args: argparse.Namespace) -> int:
    body = {"iss": args.iss, "kid": args.kid, "reason": args.reason}
    _told(client.post("/revocations/keys", body), f"key {args.kid} of {args.iss}")
    of_it = [each for each in _listed(client.get("/issuers"), "issuers") if each["iss"] == args.iss]
    if any(key["kid"] == args.kid for each in of_it for key in each["keys"]):
        return DONE
    # A key may be withdrawn before its issuer publishes it; a slip in its name looks the same.
    print(
        "Warning: the ledger holds no key of that name. If one of these was meant, withdraw that:",
        file=sys.stderr,
    )
    _show_issuers(of_it)
    return NO


def _revoke_card(client: OperatorClient, args: argparse.Namespace) -> int:
    named = _card_name(args)
    answer = client.post("/revocations/tokens", {**named, "reason": args.reason})
    return _told(answer, f"{named['jti_sha256']} of {named['iss']}")


def _card_name(args: argparse.Namespace) -> dict[str, str]:
    if args.card is not None:
        return {"iss": args.card[0], "jti_sha256": args.card[1]}
    return read_token_name(args.token)


def read_token_name(source: str) -> dict[str, str]:
    """`iss`, `jti_sha256` and `until` of a scanned code in a file, or typed in where it is "-".

    Its signature is not looked at: withdrawing needs none. Raises CommandStopped, OSError.
    """
    data = sys.stdin.buffer.read(8_192) if source == "-" else _bytes_of(Path(source))[:8_192]
    # What `carepos token mint card` prints has the ledger's line below the code.
    first = next(iter(data.strip().splitlines()), b"")
    try:
        held = presentation.read(first.decode("ascii"))
        unverified = compact.read(held.token).claims
        iss = issuer_text(unverified.get("iss"))
        found = claims.read(unverified)
        until = clock.to_text(datetime.fromtimestamp(found.expires_at_s, UTC))
    except (Malformed, TokenRefused, UnicodeDecodeError):
        # Nothing of the code is repeated: it is worth money.
        raise CommandStopped(
            "This is no identity token: give what a scanner reads from the card's code, whole."
        ) from None
    return {"iss": iss, "jti_sha256": digest(found.jti.encode("ascii")), "until": until}


def _revocations(client: OperatorClient, args: argparse.Namespace) -> int:
    found = list(_pages(client, "/revocations", "revocations"))
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return DONE
    if not found:
        print("Nothing is withdrawn. 无吊销。")
        return DONE
    columns = ("at", "kind", "name", "iss", "reason", "until")
    operator_screen.console().print(operator_screen.table(columns, found))
    return DONE


def _forget(client: OperatorClient, _: argparse.Namespace) -> int:
    print(f"Forgotten 已清除: {client.post('/revocations/forget-expired', {}).get('forgotten')}")
    return DONE


# ── cards ──────────────────────────────────────────────────────────────────────────────────────


def _add_cards(add: Add) -> None:
    card = add("card", "know a printed card, or another PIN of one", _card)
    card.add_argument("iss", metavar="ISS")
    card.add_argument("jti_sha256", metavar="JTI_SHA256")
    card.add_argument("sub", metavar="SUB")
    card.add_argument(
        "--verifier",
        required=True,
        metavar="FILE",
        help="with the pin_verifier; - for the keyboard",
    )

    cards = add("cards", "know the cards of an issuer's file 导入卡", _cards)
    cards.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help=f"CSV with columns {','.join(CARD_COLUMNS)}; or the lines for the ledger that "
        "`carepos token mint card` prints",
    )
    cards.add_argument("--dry-run", action="store_true", help="judge only; 1 if one is refused")
    cards.add_argument("--chunk", type=int, default=250, help="cards per request, 1 to 500")
    cards.add_argument("--results", type=Path, metavar="FILE.csv", help="what became of each line")

    unlock = add("unlock-card", "give a card its PIN tries back 解锁卡", _unlock)
    _add_card_name(unlock)


def _card(client: OperatorClient, args: argparse.Namespace) -> int:
    source = args.verifier
    data = sys.stdin.buffer.read(200) if source == "-" else _bytes_of(Path(source))[:200]
    try:
        verifier = ids.digest_text(data.decode("ascii").strip(), "pin_verifier")
    except (Malformed, UnicodeDecodeError):
        raise CommandStopped(
            "This is no pin_verifier: it has 43 characters of base64url."
        ) from None
    body = {"iss": args.iss, "jti_sha256": args.jti_sha256, "sub": args.sub}
    return _told(client.put("/cards", {**body, "pin_verifier": verifier}), args.jti_sha256)


def _unlock(client: OperatorClient, args: argparse.Namespace) -> int:
    named = _card_name(args)
    body = {"iss": named["iss"], "jti_sha256": named["jti_sha256"]}
    return _told(client.post("/cards/unlock", body), named["jti_sha256"])


def read_cards(path: Path) -> tuple[dict[int, dict[str, str]], dict[int, str]]:
    """(good cards, reasons of bad ones) of an issuer's file, both by line.

    UTF-8: CSV with the columns `iss,jti_sha256,sub,pin_verifier`, or a JSON object with those
    names on each line. Raises CommandStopped, OSError.
    """
    try:
        text = _bytes_of(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandStopped(f"{path} is not UTF-8: ask the issuer for it as UTF-8.") from None
    if "CPC1*" in text:
        raise CommandStopped(
            f"{path} holds cards' codes, which the ledger must never see: give it the line below "
            "each code only."
        )
    good: dict[int, dict[str, str]] = {}
    bad: dict[int, str] = {}
    seen: dict[tuple[str, str], int] = {}
    rows = _json_rows(text) if text.lstrip().startswith("{") else _csv_rows(text, path)
    for line, read in rows:
        try:
            card = read()
            first = seen.setdefault((card["iss"], card["jti_sha256"]), line)
            if first != line:
                raise Malformed(f"stands in line {first} already", field="jti_sha256")
            good[line] = card
        except Malformed as error:
            bad[line] = str(error)
    return good, bad


_Rows = Iterator[tuple[int, Callable[[], dict[str, str]]]]


def _csv_rows(text: str, path: Path) -> _Rows:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        if next(rows, None) != list(CARD_COLUMNS):
            raise CommandStopped(f"{path} must begin with the line {','.join(CARD_COLUMNS)}.")
        for row in rows:
            if any(row):
                yield rows.line_num, partial(_card_of, row)
    except csv.Error as error:
        raise CommandStopped(f"{path}, line {rows.line_num}: {error}.") from None


def _json_rows(text: str) -> _Rows:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, partial(_card_of_json, line)


def _card_of_json(line: str) -> dict[str, str]:
    named = strict_json.exact_names(strict_json.read(line.encode()), set(CARD_COLUMNS))
    return _card_of([named[column] for column in CARD_COLUMNS])


def _card_of(row: list[Any]) -> dict[str, str]:
    if len(row) != len(CARD_COLUMNS):
        raise Malformed(f"must have {len(CARD_COLUMNS)} columns")
    iss, jti_sha256, sub, verifier = row
    return {
        "iss": issuer_text(iss),
        "jti_sha256": ids.digest_text(jti_sha256, "jti_sha256"),
        "sub": strict_json.text(sub, "sub", high=64),
        "pin_verifier": ids.digest_text(verifier, "pin_verifier"),
    }


def _cards(client: OperatorClient, args: argparse.Namespace) -> int:
    strict_json.integer(args.chunk, "--chunk", low=1, high=MAX_CHUNK)
    good, bad = read_cards(args.file)
    results = {line: ("refused", why) for line, why in bad.items()}
    console = operator_screen.console()
    lines = sorted(good)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Cards 卡", total=len(lines))
        for start in range(0, len(lines), args.chunk):
            chunk = lines[start : start + args.chunk]
            body = {"cards": [good[line] for line in chunk], "dry_run": args.dry_run}
            try:
                answers = _listed(client.post("/cards", body), "results")
            except (NotDecided, OfficeUnreachable) as error:
                raise CommandStopped(
                    f"Stopped after {start} of {len(lines)} cards ({error}). Run the same command "
                    "again: what is known already stays as it is."
                ) from None
            for line, answer in zip(chunk, answers, strict=True):
                results[line] = (str(answer["result"]), str(answer["detail"] or ""))
            progress.advance(task, len(chunk))
    if args.results is not None:
        _write_csv(
            args.results,
            ("line", "jti_sha256", "result", "detail"),
            (
                (line, good.get(line, {}).get("jti_sha256", ""), *results[line])
                for line in sorted(results)
            ),
        )
    counts = operator_screen.rows_refused(results, dry_run=args.dry_run)
    console.print(
        f"{counts['created']} new, {counts['changed']} with another PIN, {counts['exists']} known "
        f"before, {counts['refused']} refused. 新增 {counts['created']}，"
        f"换密码 {counts['changed']}，已有 {counts['exists']}，拒收 {counts['refused']}。"
    )
    return NO if counts["refused"] else DONE


# ── acting ─────────────────────────────────────────────────────────────────────────────────────


def _acted(client: OperatorClient, args: argparse.Namespace) -> int:
    programme = ids.name(args.programme, "PROGRAMME")
    found = list(_pages(client, f"/programmes/{programme}/acted", "acted"))
    if args.csv is not None:
        rows = ([_plain(each[c]) for c in ACTED_COLUMNS] for each in found)
        if args.csv == "-":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(ACTED_COLUMNS)
            writer.writerows(rows)
        else:
            _write_csv(Path(args.csv), ACTED_COLUMNS, rows)
            print(f"{len(found)} redemptions are in {args.csv}.")
        return DONE
    if not found:
        print("Nobody acted for anybody. 无代领。")
        return DONE
    columns = ("recorded_at", "way", "reason", "amount", "reversed", "beneficiary", "actor_sha256")
    for each in found:
        each["amount"] = (
            f"{format_amount(each['amount_minor'], each['currency'])} {each['currency']}"
        )
        each["reversed"] = "yes" if each["reversed"] else None
    operator_screen.console().print(operator_screen.table(columns, found))
    return DONE


def _plain(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


# ── every command ──────────────────────────────────────────────────────────────────────────────


def _told(answer: dict[str, Any], what: str) -> int:
    operator_screen.tell(answer, what)
    return DONE


def _pages(client: OperatorClient, path: str, name: str) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        answer = client.get(f"{path}?after={after}")
        listed = _listed(answer, name)
        yield from listed
        after += len(listed)
        if not listed or answer.get("more") is not True:
            return


def _listed(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return strict_json.array(answer.get(name), name, high=10**6)


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise CommandStopped(f"{path} is larger than {MAX_FILE_BYTES} bytes: split it.")
    return data


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(rows)
    durable.write(path, text.getvalue().encode("utf-8-sig"), mode=0o600)
