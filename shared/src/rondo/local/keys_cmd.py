"""rondo keys new | list | revoke: the key file of gateways, which read it again when it changes."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rondo.errors import ConfigError
from rondo.local.arguments import whole
from rondo.service.api_keys import SCOPES, ApiKey, changing_keys, digest, new_key, read_keys

FILE_VARIABLE = "RONDO_KEYS"
_COLUMNS = ("id", "scopes", "expires", "requests/min", "tokens/min", "at once", "made")


def add_parser(commands: Any) -> None:
    """Adds the command to the command line."""
    keys = commands.add_parser("keys", help="make, list and revoke API keys")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--file",
        type=Path,
        default=os.environ.get(FILE_VARIABLE) or None,
        help=f"key file (default: ${FILE_VARIABLE})",
    )
    new = actions.add_parser("new", parents=[common], help="make a key and show it, once")
    new.add_argument("id", help="whose key it is, in logs: letters, digits, '_' and '-'")
    new.add_argument(
        "--scope", action="append", choices=SCOPES, help="inference (the default), admin, or both"
    )
    new.add_argument("--days", type=whole(1), metavar="N", help="it expires after so many days")
    new.add_argument("--requests-per-minute", type=whole(1), metavar="N")
    new.add_argument(
        "--tokens-per-minute", type=whole(1), metavar="N", help="of prompts and answers"
    )
    new.add_argument("--concurrent-requests", type=whole(1), metavar="N")
    new.set_defaults(run=_new)
    listing = actions.add_parser("list", parents=[common], help="list the keys of a file")
    listing.set_defaults(run=_list)
    revoke = actions.add_parser("revoke", parents=[common], help="take a key out of the file")
    revoke.add_argument("id")
    revoke.set_defaults(run=_revoke)


def _new(args: argparse.Namespace) -> int:
    try:
        secret = new_key(args.id)
    except ValueError as error:
        raise ConfigError("id", str(error)) from None
    now = datetime.now(UTC).replace(microsecond=0)
    key = ApiKey(
        id=args.id,
        sha256=digest(secret),
        scopes=tuple(dict.fromkeys(args.scope or ("inference",))),
        created_at=now,
        expires_at=now + timedelta(days=args.days) if args.days else None,
        requests_per_minute=args.requests_per_minute,
        tokens_per_minute=args.tokens_per_minute,
        concurrent_requests=args.concurrent_requests,
    )
    with changing_keys(_file(args), "--file") as keys:
        if any(other.id == key.id for other in keys):
            raise ConfigError("id", f"there is a key {key.id!r} already; revoke it first")
        keys.append(key)
    print(secret)
    print("This key is shown once: the file has only its hash.", file=sys.stderr)
    return 0


def _list(args: argparse.Namespace) -> int:
    rows = [_COLUMNS, *(_row(key) for key in read_keys(_file(args), "--file"))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _revoke(args: argparse.Namespace) -> int:
    with changing_keys(_file(args), "--file") as keys:
        kept = [key for key in keys if key.id != args.id]
        if len(kept) == len(keys):
            raise ConfigError("id", f"there is no key {args.id!r}")
        keys[:] = kept
    print(f"{args.id} is revoked: gateways that read this file refuse it within seconds")
    return 0


def _file(args: argparse.Namespace) -> Path:
    if args.file is None:
        raise ConfigError("--file", f"is not given, and {FILE_VARIABLE} is not set")
    return Path(args.file)


def _row(key: ApiKey) -> tuple[str, ...]:
    if key.expires_at is None:
        expires = "never"
    else:
        expires = "expired" if key.expired() else f"{key.expires_at:%Y-%m-%d %H:%M}Z"
    limits = (key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests)
    return (
        key.id,
        "+".join(key.scopes),
        expires,
        *("-" if limit is None else str(limit) for limit in limits),
        f"{key.created_at:%Y-%m-%d}" if key.created_at else "-",
    )
