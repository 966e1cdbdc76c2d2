"""Key-value buckets of the in-memory bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rondo.bus.mailbox import Mailbox
from rondo.bus.protocol import KeyUpdate, Subscription
from rondo.bus.subjects import check_id
from rondo.bus.watch_state import WatchState
from rondo.errors import RevisionConflict
from rondo.wire.messages import Message

if TYPE_CHECKING:
    from rondo.bus.memory import MemoryBus


@dataclass(frozen=True, slots=True)
class _Entry:
    """The last value of a key; None marks a deletion."""

    key: str
    data: bytes | None
    revision: int


class MemoryBucket:
    """The values of a bucket, as the server holds them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.watches: dict[int, _Watch] = {}
        self._entries: dict[str, _Entry] = {}
        self._revision = 0

    def entry(self, key: str) -> _Entry | None:
        """The key's value, if it has one."""
        entry = self._entries.get(key)
        return entry if entry and entry.data is not None else None

    def entries(self) -> list[_Entry]:
        """All values, oldest first."""
        current = [entry for entry in self._entries.values() if entry.data is not None]
        return sorted(current, key=lambda entry: entry.revision)

    def write(self, key: str, data: bytes | None) -> int:
        """Sets or deletes a value and tells the watches; the new revision."""
        self._revision += 1
        entry = _Entry(check_id(key), data, self._revision)
        self._entries[key] = entry
        for watch in self.watches.values():
            watch.offer(entry)
        return self._revision

    def lose(self) -> None:
        """The server lost its store."""
        self._entries.clear()
        self._revision = 0


class MemoryKeyValue:
    """One connection's view of a bucket; see the KeyValue protocol."""

    def __init__(self, bus: MemoryBus, bucket: MemoryBucket) -> None:
        self._bus = bus
        self._bucket = bucket
        self._prefix = f"$KV.{bucket.name}."
        self._watches: dict[int, _Watch] = {}

    async def get(self, key: str) -> KeyUpdate | None:
        """The current value, or None; an undecodable one counts as none."""
        await self._round_trip()
        entry = self._bucket.entry(check_id(key))
        return self._decoded(entry) if entry else None

    async def put(self, key: str, value: Message) -> int:
        """Writes whatever is there; returns the new revision."""
        data = self._bus.encode(self._prefix + key, value)
        await self._round_trip()
        return self._bucket.write(key, data)

    async def create(self, key: str, value: Message) -> int:
        """Writes only where there is no value (or a deleted one), else RevisionConflict."""
        return await self.update(key, value, 0)

    async def update(self, key: str, value: Message, revision: int) -> int:
        """Compare-and-set, else RevisionConflict; returns the new revision."""
        data = self._bus.encode(self._prefix + key, value)
        await self._round_trip()
        entry = self._bucket.entry(key)
        if (entry.revision if entry else 0) != revision:
            raise RevisionConflict(self._bucket.name, key, revision)
        return self._bucket.write(key, data)

    async def delete(self, key: str) -> None:
        """Removes the value; deleting what is not there is fine."""
        await self._round_trip()
        self._bucket.write(key, None)

    async def snapshot(self) -> dict[str, KeyUpdate]:
        """All current values by key."""
        await self._round_trip()
        updates = [self._decoded(entry) for entry in self._bucket.entries()]
        return {update.key: update for update in updates if update}

    async def watch(self, handler: Callable[[KeyUpdate], None]) -> Subscription:
        """Calls `handler` for every current value before returning, then for each change."""
        await self._round_trip()
        watch = _Watch(self._bucket, WatchState(self._bus.inbound, self._prefix, handler))
        self._watches[id(watch)] = watch
        watch.on_close = lambda: self._watches.pop(id(watch), None)
        watch.restart()
        await watch.drained()
        return watch

    def restart_watches(self) -> None:
        """The connection was made anew."""
        for watch in self._watches.values():
            watch.restart()

    async def close(self) -> None:
        """Ends its watches."""
        for watch in list(self._watches.values()):
            await watch.close()

    async def _round_trip(self) -> None:
        """Others get their turn, as while waiting for a server."""
        await asyncio.sleep(0)
        self._bus.check_connected()

    def _decoded(self, entry: _Entry) -> KeyUpdate | None:
        message = self._bus.inbound.decode(self._prefix + entry.key, entry.data or b"")
        return KeyUpdate(entry.key, message, entry.revision) if message is not None else None


class _Watch:
    """Tells one handler of a bucket's changes."""

    def __init__(self, bucket: MemoryBucket, state: WatchState) -> None:
        self.on_close: Callable[[], object] = lambda: None
        self._bucket = bucket
        self._state = state
        self._mailbox: Mailbox[Callable[[], None]] = Mailbox(lambda step: step())
        bucket.watches[id(self)] = self

    def offer(self, entry: _Entry) -> None:
        """A value changed."""
        self._mailbox.offer(lambda: self._apply(entry))

    def restart(self) -> None:
        """Current values again."""
        self._mailbox.offer(self._state.begin)
        for entry in self._bucket.entries():
            self.offer(entry)
        self._mailbox.offer(self._state.complete)

    async def drained(self) -> None:
        """Returns when everything so far is delivered."""
        await self._mailbox.drained()

    async def close(self) -> None:
        """Stops delivery; safe to call twice."""
        self.on_close()
        self._bucket.watches.pop(id(self), None)
        await self._mailbox.close()

    def _apply(self, entry: _Entry) -> None:
        if entry.data is None:
            self._state.remove(entry.key, entry.revision)
        else:
            self._state.put(entry.key, entry.data, entry.revision)
