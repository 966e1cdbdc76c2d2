"""The keys that are good now, and what each of them has used."""

from __future__ import annotations

import time
from pathlib import Path

from rondo.service.api_keys import ApiKey, KeyTable, read_keys
from rondo.service.settings import variable
from rondo_gateway.errors import ApiError
from rondo_gateway.security.identity import no_key
from rondo_gateway.security.rates import Usage

SETTING = variable("keys")


class KeyRing:
    """The keys of a file.

    Raises:
        ConfigError: the file cannot be read, or is none of keys.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = KeyTable(())
        self._usage: dict[str, Usage] = {}
        self.load()

    def load(self) -> None:
        """Takes the file as it is now; what keys have used is kept. See the class."""
        self._table = KeyTable(read_keys(self.path, SETTING))
        now_s = time.monotonic()
        kept = {key.id for key in self._table.keys}
        for key_id in [name for name, usage in self._usage.items() if usage.idle]:
            if key_id not in kept:
                del self._usage[key_id]
        for key in self._table.keys:
            if key.id in self._usage:
                self._usage[key.id].changed(key, now_s)

    def find(self, presented: str) -> ApiKey:
        """The key that was presented.

        Raises:
            ApiError: 401, it is none, or none any more.
        """
        key = self._table.find(presented)
        if key is None:
            raise no_key()
        if key.expired():
            raise ApiError(401, "This API key has expired.", code="expired_api_key")
        return key

    def usage(self, key: ApiKey) -> Usage:
        """What a key has used."""
        usage = self._usage.get(key.id)
        if usage is None:
            usage = self._usage[key.id] = Usage(key, time.monotonic())
        return usage
