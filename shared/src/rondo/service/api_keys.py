"""API keys: what a key looks like, and the file that knows their hashes.

A key is `rondo-ID-SECRET` with a secret of 256 random bits, and the file has its SHA-256. A slow
hash with a salt, as for passwords, would only cost every request time: such hashes make guessing
dear where there is something to guess, and 2^256 random keys cannot be guessed at any price; no
two of them are alike, so there is nothing for a salt to tell apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from rondo.bus.subjects import check_id
from rondo.errors import ConfigError

Scope = Literal["inference", "admin"]
SCOPES: tuple[Scope, ...] = ("inference", "admin")

_PREFIX = "rondo-"
_SECRET_BYTES = 32
_NOBODY = "0" * 64
_Positive = Annotated[int, Meta(ge=1)]


class ApiKey(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A key as the file has it.

    Attributes:
        sha256: of the whole key, in hex; the key itself is nowhere.
        expires_at: with a time zone; None: never.
        requests_per_minute, tokens_per_minute, concurrent_requests: None: as many as there are.
    """

    id: str
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = ("inference",)
    created_at: Annotated[datetime, Meta(tz=True)] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    requests_per_minute: _Positive | None = None
    tokens_per_minute: _Positive | None = None
    concurrent_requests: _Positive | None = None

    def expired(self) -> bool:
        """Whether its time is over; by the wall clock, because a date is meant."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


class _Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: tuple[ApiKey, ...] = ()


class KeyTable:
    """The keys of a file, to look presented ones up in."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self.keys = keys
        self._by_id = {key.id: key for key in keys}

    def find(self, presented: str) -> ApiKey | None:
        """The key that `presented` is, expired or not; None if it is none.

        Takes the same time whatever is wrong with it: an id that nobody has is compared, too.
        """
        key = self._by_id.get(id_of(presented))
        stored = key.sha256 if key else _NOBODY
        return key if hmac.compare_digest(digest(presented), stored) else None


def digest(key: str) -> str:
    """What the file stores of a key."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def id_of(key: str) -> str:
    """The id within a key; empty for what has not the form of one."""
    if not key.startswith(_PREFIX):
        return ""
    return key.removeprefix(_PREFIX).rpartition("-")[0]


def new_key(key_id: str) -> str:
    """A new key.

    Raises:
        ValueError: the id is no word of letters, digits, `-` and `_`.
    """
    return f"{_PREFIX}{check_id(key_id)}-{secrets.token_hex(_SECRET_BYTES)}"


def read_keys(path: Path, setting: str) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Raises:
        ConfigError: it is not there, or is no key file; names the field, and nothing within it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(setting, f"cannot read the key file: {error.strerror}") from None
    try:
        keys = msgspec.json.decode(data, type=_Content).keys
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(setting, f"the key file is damaged{_where(error)}") from None
    ids = [key.id for key in keys]
    if len(set(ids)) < len(ids):
        raise ConfigError(setting, "the key file is damaged: an id is there twice")
    return keys


@contextlib.contextmanager
def changing_keys(path: Path, setting: str) -> Iterator[list[ApiKey]]:
    """The keys of a file to change, written back at the end; a file that is not there has none.

    One process at a time; readers see the old file or the new one.

    Raises:
        ConfigError: see `read_keys`; or the file cannot be written.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(setting, f"{path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = list(read_keys(path, setting)) if path.exists() else []
        yield keys
        _replace(path, setting, _Content(keys=tuple(keys)))
    finally:
        os.close(folder)


def _replace(path: Path, setting: str, content: _Content) -> None:
    text = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    draft = path.with_name(f".{path.name}.new")
    try:
        # Nobody else needs to read it, unless somebody has said so of the file that is there.
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except OSError as error:
        raise ConfigError(setting, f"cannot write the key file: {error.strerror}") from None


def _where(error: Exception) -> str:
    """The place that msgspec's error names: its text may quote the file, the path does not."""
    _, found, place = str(error).rpartition(" - at `")
    return f" at {place.rstrip('`')}" if found else ""
