"""What a watch has told its handler: the part that every bus shares."""

from __future__ import annotations

from collections.abc import Callable

from rondo.bus.delivery import Inbound
from rondo.bus.protocol import KeyUpdate


class WatchState:
    """Reports values and deletions, and after a restart the keys that vanished meanwhile.

    A restart is begin(), put() for all current values, complete(). Only keys that the handler
    knows are reported as deleted; an undecodable value counts as none.
    """

    def __init__(self, inbound: Inbound, prefix: str, handler: Callable[[KeyUpdate], None]) -> None:
        self._inbound = inbound
        self._prefix = prefix
        self._handler = handler
        self._revisions: dict[str, int] = {}
        self._seen: set[str] = set()

    def begin(self) -> None:
        """Current values come next."""
        self._seen.clear()

    def put(self, key: str, data: bytes, revision: int) -> None:
        """A key has this value."""
        message = self._inbound.decode(self._prefix + key, data)
        if message is None:
            self.remove(key, revision)
            return
        self._seen.add(key)
        self._revisions[key] = revision
        self._report(KeyUpdate(key, message, revision))

    def remove(self, key: str, revision: int) -> None:
        """A key has no value."""
        if self._revisions.pop(key, None) is not None:
            self._report(KeyUpdate(key, None, revision))

    def complete(self) -> None:
        """All current values were put: what was not among them is gone."""
        for key, revision in list(self._revisions.items()):
            if key not in self._seen:
                self.remove(key, revision)

    def _report(self, update: KeyUpdate) -> None:
        self._inbound.call(self._handler, update, self._prefix + update.key)
