"""Key-value buckets of JetStream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from nats import errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js import errors as js_errors
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue as ClientKeyValue

from rondo.bus.delivery import Inbound
from rondo.bus.nats_link import Link
from rondo.bus.nats_watch import NatsWatch
from rondo.bus.protocol import KeyUpdate, Subscription
from rondo.bus.subjects import check_id
from rondo.errors import BusUnavailable, MessageTooLarge, RevisionConflict
from rondo.wire.codec import encode
from rondo.wire.messages import Message

T = TypeVar("T")

#: Room for the headers of a compare-and-set: the server's limit counts them.
HEADER_BYTES = 512
#: How long the mark of a deletion stays (servers before 2.11 keep it for ever).
DELETION_MARK_S = 3600
#: JetStream's code for a stream that exists with other settings.
STREAM_NAME_IN_USE = 10058


@dataclass(frozen=True, slots=True)
class KeyValueOptions:
    """How buckets are made where they do not exist, and how long an answer may take."""

    replicas: int = 1
    in_memory: bool = False
    timeout_s: float = 2.0


class NatsKeyValue:
    """One bucket; see the KeyValue protocol.

    A bucket that vanished with the server's store is made again by the next write or watch.
    """

    def __init__(self, link: Link, inbound: Inbound, bucket: str, options: KeyValueOptions) -> None:
        self._link = link
        self._inbound = inbound
        self._bucket = check_id(bucket)
        self._options = options
        self._bound: tuple[Client, ClientKeyValue] | None = None
        self._watches: dict[int, NatsWatch] = {}

    async def open(self) -> None:
        """Makes the bucket where it does not exist."""
        await self._call(self._store)

    async def close(self) -> None:
        """Ends its watches."""
        for watch in list(self._watches.values()):
            await watch.close()

    def restart_watches(self) -> None:
        """The connection was made anew."""
        for watch in self._watches.values():
            watch.restart()

    async def get(self, key: str) -> KeyUpdate | None:
        """The current value, or None; an undecodable one counts as none."""
        try:
            entry = await self._call(lambda: self._get(key))
        except js_errors.KeyNotFoundError:
            return None
        message = self._inbound.decode(self._subject(key), entry.value or b"")
        return KeyUpdate(key, message, entry.revision or 0) if message is not None else None

    async def put(self, key: str, value: Message) -> int:
        """Writes whatever is there; returns the new revision."""
        data = self._encode(key, value)
        return await self._write(lambda store: store.put(check_id(key), data))

    async def create(self, key: str, value: Message) -> int:
        """Writes only where there is no value (or a deleted one), else RevisionConflict."""
        data = self._encode(key, value)
        try:
            return await self._write(lambda store: store.create(check_id(key), data))
        except js_errors.KeyValueError as error:
            raise RevisionConflict(self._bucket, key, 0) from error

    async def update(self, key: str, value: Message, revision: int) -> int:
        """Compare-and-set, else RevisionConflict; returns the new revision."""
        data = self._encode(key, value)
        try:
            return await self._write(lambda store: store.update(check_id(key), data, revision))
        except js_errors.KeyWrongLastSequenceError as error:
            raise RevisionConflict(self._bucket, key, revision) from error

    async def delete(self, key: str) -> None:
        """Removes the value; deleting what is not there is fine."""
        await self._write(lambda store: store.purge(check_id(key), msg_ttl=DELETION_MARK_S))

    async def snapshot(self) -> dict[str, KeyUpdate]:
        """All current values by key."""
        values: dict[str, KeyUpdate] = {}

        def collect(update: KeyUpdate) -> None:
            if update.value is None:
                values.pop(update.key, None)
            else:
                values[update.key] = update

        watch = self._new_watch(collect)
        try:
            await watch.open()
        finally:
            await watch.close()
        return values

    async def watch(self, handler: Callable[[KeyUpdate], None]) -> Subscription:
        """Calls `handler` for every current value before returning, then for each change."""
        watch = self._new_watch(handler)
        self._watches[id(watch)] = watch
        watch.on_close = lambda: self._watches.pop(id(watch), None)
        try:
            await watch.open()
        except BaseException:
            await watch.close()
            raise
        return watch

    async def jetstream(self) -> JetStreamContext:
        """The context for a watch's consumer, after making sure that the bucket exists.

        Raises:
            BusUnavailable: not connected, or JetStream is off or does not answer.
        """
        self._bound = None
        await self._call(self._store)
        return self._context(self._link.connected_client())

    def _new_watch(self, handler: Callable[[KeyUpdate], None]) -> NatsWatch:
        return NatsWatch(self, self._link, self._inbound, self._bucket, handler, self._options)

    def _subject(self, key: str) -> str:
        return f"$KV.{self._bucket}.{key}"

    def _encode(self, key: str, value: Message) -> bytes:
        data = encode(value)
        limit = self._link.client().max_payload - HEADER_BYTES
        if len(data) > limit:
            raise MessageTooLarge(self._subject(key), len(data), limit)
        return data

    async def _get(self, key: str) -> ClientKeyValue.Entry:
        return await (await self._store()).get(check_id(key))

    async def _write(self, write: Callable[[ClientKeyValue], Awaitable[T]]) -> T:
        async def once() -> T:
            return await write(await self._store())

        try:
            return await self._call(once)
        except js_errors.NoStreamResponseError:
            # Nobody takes this key's subject: the bucket vanished with the server's store.
            self._bound = None
        try:
            return await self._call(once)
        except js_errors.NoStreamResponseError as error:
            raise BusUnavailable(self._link.url, f"bucket {self._bucket}: {error}") from error

    async def _call(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Runs an operation; only errors about keys and missing streams pass as they are."""
        url, bucket = self._link.url, self._bucket
        try:
            return await operation()
        except (js_errors.KeyValueError, js_errors.NoStreamResponseError):
            raise
        except errors.TimeoutError as error:
            problem = f"bucket {bucket}: no answer within {self._options.timeout_s:g} s"
            raise BusUnavailable(url, problem) from error
        except js_errors.ServiceUnavailableError as error:
            problem = f"bucket {bucket}: JetStream does not answer; is it on in nats-server?"
            raise BusUnavailable(url, problem) from error
        except errors.Error as error:
            raise BusUnavailable(url, f"bucket {bucket}: {error}") from error

    async def _store(self) -> ClientKeyValue:
        """The client's handle of the bucket, which is made where it does not exist."""
        client = self._link.connected_client()
        if self._bound is None or self._bound[0] is not client:
            self._bound = (client, await self._bind(self._context(client)))
        return self._bound[1]

    def _context(self, client: Client) -> JetStreamContext:
        return client.jetstream(timeout=self._options.timeout_s)

    async def _bind(self, context: JetStreamContext) -> ClientKeyValue:
        try:
            return await context.key_value(self._bucket)
        except js_errors.BucketNotFoundError:
            pass
        storage = StorageType.MEMORY if self._options.in_memory else StorageType.FILE
        config = KeyValueConfig(
            bucket=self._bucket, history=1, storage=storage, replicas=self._options.replicas
        )
        try:
            return await context.create_key_value(config)
        except js_errors.BadRequestError as error:
            if error.err_code != STREAM_NAME_IN_USE:
                raise
        # Another program made it meanwhile, with other settings.
        return await context.key_value(self._bucket)
