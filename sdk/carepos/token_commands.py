"""`carepos token …`: an issuer's kit. Keys, codes of every kind, why a code is or is not good.

Exit codes: 0 done, or the code is good; 1 the code is refused; 2 wrong usage, or input that can't
be used. Messages go to stderr, what was asked for to stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

from carepos import (
    anatomy,
    clock,
    compact,
    durable,
    issuers_file,
    presentation,
    qr_picture,
    qr_size,
    strict_json,
    token_sizes,
    verdict,
)
from carepos.claims import REASONS
from carepos.errors import CareposError, Malformed
from carepos.issuer_folder import ABOUT, ALGORITHMS, ISSUERS, JWKS, IssuerFolder, IssuerSigner
from carepos.minting import CARD_S, ONCE_S, Mint, Minted, present, random_sub
from carepos.qr_size import Level
from carepos.revocation import NONE, Revocations
from carepos.token_sizes import AUDIENCE
from carepos.verdict import Question
from carepos.voucher import Programme

DONE, REFUSED, UNUSABLE = 0, 1, 2
KINDS: Final = ("once", "card", "wallet", "proxy", "witness")

_READ_BYTES: Final = 4 * presentation.MAX_SCANNED
_AMR: Final[dict[str, tuple[str, ...]]] = {
    "once": ("otp",),
    "card": ("carepos:card",),
    "wallet": ("otp",),
    "proxy": ("otp",),
    "witness": ("face",),
}
_EXITS: Final = "exit codes: 0 done; 2 wrong usage, or it failed"

_Work = Callable[[argparse.Namespace], int]
_Commands = Any  # argparse keeps the type of its subparsers to itself


def group(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `token` to the carepos command."""
    made = subparsers.add_parser(
        "token",
        help="for issuers: make care codes, take them apart, explain them 爱心码签发工具",
        description="For who runs an identity system: docs/issuers.md goes through it.",
    )
    commands = made.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _key_parser(commands)
    _mint_parser(commands)
    _present_parser(commands)
    _show_parser(commands)
    _explain_parser(commands)
    _sizes_parser(commands)


def _leaf(
    commands: _Commands, name: str, summary: str, work: _Work, exits: str = _EXITS
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary, epilog=exits
    )
    parser.set_defaults(run=_guarded(work))
    return parser


def _guarded(work: _Work) -> _Work:
    def run(args: argparse.Namespace) -> int:
        try:
            done = work(args)
            sys.stdout.flush()
            return done
        except BrokenPipeError:
            # `… | head` has read enough. What is left goes nowhere, at the interpreter's end too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except CareposError as error:
            _say(str(error))
        except FileNotFoundError as error:
            _say(_missing(error))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _say(f"{where}{error.strerror or type(error).__name__}")
        return UNUSABLE

    return run


def _missing(error: FileNotFoundError) -> str:
    path = Path(error.filename or "")
    if path.name == ABOUT:
        return (
            f"no issuer is in {path.parent}: make one with "
            f"carepos token key --folder {path.parent} --iss https://…"
        )
    return f"{path}: there is no such file"


def _say(text: str) -> None:
    print(f"carepos token: {text}", file=sys.stderr)


# ── key ────────────────────────────────────────────────────────────────────────────────────────


def _key_parser(commands: _Commands) -> None:
    key = _leaf(commands, "key", "make a test issuer, or change its keys 密钥", _key)
    key.add_argument(
        "--folder", type=Path, required=True, help="the issuer's folder; private, not for a repo"
    )
    key.add_argument("--iss", help="the issuer's name in its tokens, https://…; short is small")
    key.add_argument("--aud", default=AUDIENCE, help="the platform's redemption audience")
    key.add_argument("--alg", choices=ALGORITHMS, help="default: EdDSA, the smallest code")
    key.add_argument("--kid", help="default: k1, k2, …; short is small")
    change = key.add_mutually_exclusive_group()
    change.add_argument("--use", metavar="KID", help="sign new tokens with this key")
    change.add_argument("--drop", metavar="KID", help="publish this key no more, and delete it")


def _key(args: argparse.Namespace) -> int:
    folder: Path = args.folder
    if (args.use or args.drop) and (args.iss or args.alg or args.kid):
        raise Malformed("change one thing at a time: --use and --drop stand alone")
    if not (folder / ABOUT).exists():
        if args.use or args.drop or not args.iss:
            raise Malformed(f"no issuer is in {folder} yet: name a new one with --iss https://…")
        made = IssuerFolder.create(
            folder,
            iss=args.iss,
            audience=args.aud,
            alg=args.alg or "EdDSA",
            kid=args.kid,
        )
        print(f"Made the issuer {made.iss} with the key {made.signs} ({made.signer.alg}).")
    else:
        held = IssuerFolder.load(folder)
        if args.iss not in (None, held.iss):
            raise Malformed(f"{folder} is the folder of {held.iss}: take another folder")
        if args.use:
            made = held.sign_with(args.use)
            print(f"New tokens are signed with {made.signs}.")
        elif args.drop:
            made = held.drop(args.drop)
            print(f"{args.drop} is gone. What it signed, cards too, ends within a day.")
        else:
            made = held.add_key(args.alg or "EdDSA", args.kid)
            (kid,) = made.signers.keys() - held.signers.keys()
            print(f"Made the key {kid}. It is published and signs nothing yet: wait until readers")
            print(f"have it (a day), then: carepos token key --folder {folder} --use {kid}")
    print(f"Public 公开: {folder / JWKS} (to publish), {folder / ISSUERS} (for token explain)")
    print(f"Private 保密: {', '.join(str(folder / f'{kid}.key') for kid in made.signers)}")
    return DONE


# ── mint ───────────────────────────────────────────────────────────────────────────────────────


def _mint_parser(commands: _Commands) -> None:
    mint = _leaf(commands, "mint", "make a care code 生成爱心码", _mint)
    mint.add_argument("kind", choices=KINDS, help="docs/identity.md §1")
    mint.add_argument("--folder", type=Path, required=True, help="of carepos token key")
    mint.add_argument("--sub", help="the beneficiary, as in enrolment.csv (default: a random one)")
    mint.add_argument("--aud", help="instead of the folder's audience")
    mint.add_argument("--kid", help="instead of the key that signs")
    mint.add_argument("--amr", help="how the person was checked, with commas: face,otp")
    mint.add_argument("--lifetime", type=int, metavar="SECONDS")
    mint.add_argument("--at", metavar="TIME", help="issued then, like 2026-11-22T08:30:00Z")
    mint.add_argument("--actor", metavar="SUB", help="proxy, witness: who presents")
    mint.add_argument("--reason", choices=sorted(REASONS), help="proxy, witness: why")
    mint.add_argument(
        "--pin-stdin", action="store_true", help="card: read the PIN from stdin, without asking"
    )
    mint.add_argument(
        "--holder", type=Path, metavar="FILE.key", help="wallet: its key; made if new"
    )
    _picture_options(mint)
    mint.add_argument("--json", action="store_true", help="for programs instead of people")


def _picture_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--qr", type=Path, metavar="FILE.png", help="write the code as a QR")
    parser.add_argument("--terminal", action="store_true", help="show the QR here")
    parser.add_argument("--level", choices=("L", "M"), help="default: L on screens, M for cards")


def _mint(args: argparse.Namespace) -> int:
    _refuse_stray_options(args)
    _need_qr(args)
    folder = IssuerFolder.load(args.folder)
    at = None if args.at is None else read_time(args.at, "--at")
    mint = Mint(
        folder.get(args.kid),
        iss=folder.iss,
        audience=args.aud or folder.audience,
        now=clock.system_clock if at is None else lambda: at,
    )
    made = _minted(args, mint, args.sub or random_sub())
    if args.json:
        print(json.dumps(made.to_json(), indent=2))
    else:
        print(made.code)
        if made.ledger_line is not None:
            print(json.dumps(made.ledger_line))
            _say("the second line is for the ledger; the first is the card, which it never sees")
    _picture(made.code, args, args.level or ("M" if args.kind == "card" else "L"))
    return DONE


def _refuse_stray_options(args: argparse.Namespace) -> None:
    acted = args.kind in ("proxy", "witness")
    if acted and not (args.actor and args.reason):
        raise Malformed(f"a {args.kind} code needs --actor and --reason", field="act")
    if not acted and (args.actor or args.reason):
        raise Malformed("--actor and --reason are for proxy and witness", field="act")
    if args.pin_stdin and args.kind != "card":
        raise Malformed("--pin-stdin is for a card", field="pin")
    if (args.holder is not None) != (args.kind == "wallet"):
        raise Malformed("--holder FILE.key goes with wallet", field="cnf")


def _minted(args: argparse.Namespace, mint: Mint, sub: str) -> Minted:
    amr = tuple(args.amr.split(",")) if args.amr else _AMR[args.kind]
    long_lived = args.kind in ("card", "wallet")
    lifetime_s = args.lifetime if args.lifetime is not None else CARD_S if long_lived else ONCE_S
    if args.kind == "once":
        return mint.once(sub, amr=amr, lifetime_s=lifetime_s)
    if args.kind == "card":
        chosen = _new_pin(from_stdin=args.pin_stdin)
        return mint.card(sub, pin_chosen=chosen, amr=amr, lifetime_s=lifetime_s)
    if args.kind == "wallet":
        holder = _holder(args.holder)
        return mint.wallet(sub, holder=holder, amr=amr, lifetime_s=lifetime_s)
    return mint.acted(
        sub,
        actor=args.actor,
        way=args.kind,
        reason=args.reason,
        amr=amr,
        lifetime_s=lifetime_s,
    )


def _holder(path: Path) -> IssuerSigner:
    if path.exists():
        return IssuerSigner.load(path, "holder")
    made = IssuerSigner.generate("ES256", "holder")  # what phones' key stores have
    made.save(path)
    _say(f"made the holder's key {path}; on a phone it would never leave it")
    return made


def _new_pin(*, from_stdin: bool) -> str:
    if from_stdin:
        return _pin_line()
    if not _at_a_keyboard():
        raise Malformed("give it on stdin with --pin-stdin; it never stands on the command line",
                        field="pin")  # fmt: skip
    chosen = getpass.getpass("PIN, 4 to 8 digits 密码: ")
    if getpass.getpass("Once more 再次输入: ") != chosen:
        raise Malformed("the two are not the same", field="pin")
    return chosen


def _at_a_keyboard() -> bool:
    return _stdin().isatty()


def _pin_line() -> str:
    return _stdin().readline(64).strip()


def _stdin() -> TextIO:
    """Raises Malformed where it is closed (`<&-`): Python then has none."""
    if sys.stdin is None:
        raise Malformed("is closed", field="stdin")
    return sys.stdin


def _need_qr(args: argparse.Namespace) -> None:
    """Before a code is made or a PIN asked for: what draws it, and where it goes, is there.

    Raises QrMissing, Malformed.
    """
    if args.qr or args.terminal:
        qr_picture.library()
    if args.qr and args.qr.suffix.lower() != ".png":
        raise Malformed("is a PNG: let its name end in .png", field="--qr")
    if args.qr and not args.qr.parent.is_dir():
        raise Malformed(f"there is no folder {args.qr.parent}: make it first", field="--qr")


def _picture(code: str, args: argparse.Namespace, level: Level) -> None:
    if not (args.qr or args.terminal):
        return
    dark = qr_picture.modules(code, level)
    if args.terminal:
        print(qr_picture.terminal(dark), end="")
    if args.qr:
        # As private as the code itself.
        durable.write(args.qr, qr_picture.png(dark), mode=0o600)
        _say(f"{args.qr}: {len(dark)} modules, level {level}")


# ── present ────────────────────────────────────────────────────────────────────────────────────


def _present_parser(commands: _Commands) -> None:
    made = _leaf(
        commands, "present", "a fresh presentation of a wallet's credential 出示", _present
    )
    _code_options(made)
    made.add_argument("--holder", type=Path, required=True, metavar="FILE.key")
    made.add_argument("--aud", default=AUDIENCE, help="the platform's redemption audience")
    made.add_argument("--at", metavar="TIME", help="signed then")
    _picture_options(made)


def _present(args: argparse.Namespace) -> int:
    _need_qr(args)
    held = presentation.read(_code(args))
    if "cnf" not in compact.read(held.token).claims:
        raise Malformed("is not in this token, which is no wallet's credential", field="cnf")
    code = present(
        held.token,
        IssuerSigner.load(args.holder, "holder"),
        audience=args.aud,
        nonce=random_sub(),
        at=_at(args),
    )
    print(code)
    _picture(code, args, args.level or "L")
    return DONE


# ── show ───────────────────────────────────────────────────────────────────────────────────────


def _code_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "code",
        nargs="?",
        metavar="CODE",
        help="default: stdin, which leaves nothing in the shell's history",
    )
    parser.add_argument("--file", type=Path, metavar="FILE", help="the code is in this file")


def _show_parser(commands: _Commands) -> None:
    show = _leaf(commands, "show", "take a code apart, without judging it 查看", _show)
    _code_options(show)
    show.add_argument("--json", action="store_true", help="for programs instead of people")


def _show(args: argparse.Namespace) -> int:
    try:
        found = anatomy.dissect(_code(args), clock.system_clock())
    except Malformed as error:
        raise Malformed(
            f"{error}. A care code is three parts of base64url with dots between, a card's with "
            "CPC1*…* before: scan or copy it whole"
        ) from None
    if args.json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=2))
    else:
        print(found.to_text(), end="")
    return DONE


def _code(args: argparse.Namespace) -> str:
    """The code from argument, file or stdin. Raises Malformed, OSError."""
    if args.code is not None and args.file is not None:
        raise Malformed("give CODE or --file, not both", field="code")
    if args.code not in (None, "-"):
        _say(
            "warning: a code on the command line stays in the shell's history and is seen by "
            "others on this machine; pipe it in, or use --file"
        )
        text = str(args.code)
    elif args.file is not None:
        with args.file.open("rb") as file:
            text = file.read(_READ_BYTES).decode("utf-8-sig", "replace")
    elif _at_a_keyboard():
        text = getpass.getpass("Scan or paste the code, then Enter (nothing is shown): ")
    else:
        text = _stdin().buffer.read(_READ_BYTES).decode("utf-8-sig", "replace")
    # What mint prints for a card has the ledger's line below the code.
    lines = text.strip().splitlines()
    if not lines:
        raise Malformed("is empty: pipe it in, or use --file", field="code")
    return lines[0]


# ── explain ────────────────────────────────────────────────────────────────────────────────────


def _explain_parser(commands: _Commands) -> None:
    explain = _leaf(
        commands,
        "explain",
        "say in one sentence why a code is or is not good 诊断",
        _explain,
        "exit codes: 0 the code is good; 1 it is refused; 2 wrong usage or unusable input",
    )
    _code_options(explain)
    explain.add_argument(
        "--issuers", type=Path, required=True, metavar="FILE", help="issuers.json, or a pack"
    )
    explain.add_argument("--audience", required=True, help="the platform's redemption audience")
    explain.add_argument("--at", metavar="TIME", help="judge as of then (default: now)")
    explain.add_argument("--revocations", type=Path, metavar="FILE", help="docs/identity.md §9")
    explain.add_argument(
        "--programme", type=Path, metavar="FILE", help="its rules, TOML or JSON, as for the ledger"
    )
    explain.add_argument("--first-use", metavar="TIME", help="when this till saw it first")
    entered = explain.add_mutually_exclusive_group()
    entered.add_argument("--pin", action="store_true", help="ask for the card's PIN")
    entered.add_argument(
        "--pin-stdin", action="store_true", help="the PIN is the only line of stdin"
    )
    explain.add_argument(
        "--card-line", type=Path, metavar="FILE", help="with a PIN: what the ledger was told"
    )
    explain.add_argument("--json", action="store_true", help="for programs instead of people")


def _explain(args: argparse.Namespace) -> int:
    if args.pin_stdin and args.code is None and args.file is None:
        raise Malformed("stdin is the PIN's then: give the code with --file", field="code")
    if (args.pin or args.pin_stdin) and args.card_line is None:
        raise Malformed("a PIN is checked against --card-line FILE", field="pin")
    at = _at(args)
    entered = None
    if args.pin_stdin:
        entered = _pin_line()
    elif args.pin:
        entered = getpass.getpass("PIN 密码: ")
    question = Question(
        issuers_file.load(args.issuers, at),
        args.audience,
        at,
        NONE if args.revocations is None else _revocations(args.revocations),
        None if args.programme is None else read_programme(args.programme),
        None if args.first_use is None else read_time(args.first_use, "--first-use"),
        entered,
        None if args.card_line is None else _verifier(args.card_line),
    )
    found = verdict.judge(_code(args), question)
    if args.json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=2))
    else:
        print(found.sentence())
        for each in found.unchecked:
            print(f"  not checked 未检查: {each}")
    return DONE if found.good else REFUSED


def _revocations(path: Path) -> Revocations:
    try:
        return Revocations.from_json(strict_json.read(path.read_bytes()))
    except Malformed as error:
        raise Malformed(str(error), field=path.name) from None


def _verifier(path: Path) -> str:
    """`pin_verifier` of a card's line; mint's whole output may be given. Raises Malformed."""
    lines = path.read_bytes().strip().splitlines()
    try:
        names = strict_json.exact_names(
            strict_json.read(lines[-1] if lines else b""),
            {"iss", "jti_sha256", "sub", "pin_verifier"},
        )
        return strict_json.text(names["pin_verifier"], "pin_verifier", low=43, high=43)
    except Malformed as error:
        raise Malformed(f"is not the line of a card: {error}", field=path.name) from None


def read_programme(path: Path) -> Programme:
    """Of a programme's rules only what judges a code: issuer, classes, amr_any, acting.

    Raises Malformed, OSError.
    """
    data = path.read_bytes()
    try:
        if path.suffix.lower() == ".json":
            rules = strict_json.read_object(data)
        else:
            rules = tomllib.loads(data.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, Malformed):
        raise Malformed("is not TOML or JSON", field=path.name) from None
    if "issuer" not in rules:
        raise Malformed("issuer is missing", field=path.name)
    neutral: dict[str, object] = {
        "programme": "rules",
        "name": "rules",
        "currency": "CNY",
        "rules_version": 1,
        "starts_at": "2000-01-01T00:00:00.000Z",
        "ends_at": "2100-01-01T00:00:00.000Z",
        "paused": False,
        "stores": [],
        "product_list": "rules",
        "limit_per_redemption_minor": None,
        "top_up_allowed": False,
        "undo_window_s": 0,
        "quotas": [],
    }
    judged = {
        "issuer": rules["issuer"],
        "classes": rules.get("classes", ["once"]),
        "amr_any": rules.get("amr_any", []),
        "acting": rules.get("acting"),
    }
    return Programme.from_json({**neutral, **judged}, path.name)


def _at(args: argparse.Namespace) -> datetime:
    return clock.system_clock() if args.at is None else read_time(args.at, "--at")


def read_time(text: str, field: str) -> datetime:
    """An instant in ISO 8601 with its zone. Raises Malformed."""
    # Overflow: in UTC it may be before the year 1 or behind 9999.
    with contextlib.suppress(ValueError, OverflowError):
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            return instant.astimezone(UTC)
    raise Malformed("must look like 2026-11-22T08:30:00Z, with its zone", field=field)


# ── sizes ──────────────────────────────────────────────────────────────────────────────────────


def _sizes_parser(commands: _Commands) -> None:
    sizes = _leaf(commands, "sizes", "how large the QR of each kind of code is 二维码尺寸", _sizes)
    sizes.add_argument("--folder", type=Path, help="measure this issuer's names instead")
    sizes.add_argument("--json", action="store_true", help="for programs instead of people")


def _sizes(args: argparse.Namespace) -> int:
    if args.folder is None:
        rows = token_sizes.table()
    else:
        folder = IssuerFolder.load(args.folder)
        rows = list(token_sizes.rows("yours", folder.signer, folder.iss, "s" * 22))
    if args.json:
        print(json.dumps(rows, indent=2))
        return DONE
    for line in token_sizes.lines(rows):
        print(line)
    print(
        f"A dot is {qr_size.DOT_MM:.3f} mm (203 dpi); a module of n dots is n times that wide, with"
        f" {qr_size.QUIET_MODULES} quiet modules around the symbol."
    )
    return DONE
