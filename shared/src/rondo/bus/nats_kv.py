"""Key-value buckets of JetStream."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from nats import errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js import errors as js_errors
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue as ClientKeyValue

from rondo.bus.delivery import Inbound, backoff_s
from rondo.bus.nats_link import Link
from rondo.bus.nats_watch import NatsWatch
from rondo.bus.permissions import may_replicate
from rondo.bus.protocol import KeyUpdate, Subscription
from rondo.bus.subjects import check_id
from rondo.errors import BusUnavailable, MessageTooLarge, RevisionConflict
from rondo.wire.codec import encode
from rondo.wire.messages import Message

log = logging.getLogger("rondo.bus")

T = TypeVar("T")

#: Room for the headers of a compare-and-set: the server's limit counts them.
HEADER_BYTES = 512
#: How long the mark of a deletion stays (servers before 2.11 keep it for ever).
DELETION_MARK_S = 3600
#: JetStream's codes: a stream exists with other settings; the cluster has too few servers for so
#: many replicas, or there is no cluster.
STREAM_NAME_IN_USE = 10058
NOT_SO_MANY_REPLICAS = (10005, 10074)
#: A bucket that could not get its replicas is given them as soon as there are enough servers.
REPLICATE_INTERVAL_S = 30.0
#: A cluster that has just started, or lost a server, has a leader again within this time.
OPEN_PATIENCE_S = 12.0


@dataclass(frozen=True, slots=True)
class KeyValueOptions:
    """How buckets are made where they do not exist, and how long an answer may take.

    A bucket has `replicas` where there are so many servers, and one as long as there are not.
    """

    replicas: int = 3
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
        # Not before then; None: it is done, or for others to do.
        self._replicate_s: float | None = 0.0 if may_replicate(link.user, bucket) else None

    async def open(self) -> None:
        """Makes the bucket where it does not exist; waits for a cluster to find its leaders.

        Raises:
            BusUnavailable: not connected, or JetStream is off or does not answer.
        """
        deadline_s = time.monotonic() + OPEN_PATIENCE_S
        for failures in itertools.count(1):
            try:
                await self._call(self._store)
                break
            except BusUnavailable:
                late = time.monotonic() > deadline_s
                if late or not self._link.connected or not self._link.in_cluster:
                    raise
            await asyncio.sleep(backoff_s(failures))
        await self.replicate()

    async def replicate(self) -> None:
        """Gives the bucket its replicas, if there were too few servers before; never raises."""
        now_s = time.monotonic()
        if self._replicate_s is None or now_s < self._replicate_s or not self._link.in_cluster:
            return
        self._replicate_s = now_s + REPLICATE_INTERVAL_S
        try:
            await self._call(self._more_replicas)
            self._replicate_s = None
        except BusUnavailable as error:
            log.warning('bus_not_replicated bucket=%s error="%s"', self._bucket, error)

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
        try:
            return await self._create(context, self._options.replicas)
        except js_errors.APIError as error:
            if error.err_code == STREAM_NAME_IN_USE:
                # Another program made it meanwhile, with other settings.
                return await context.key_value(self._bucket)
            if error.err_code not in NOT_SO_MANY_REPLICAS:
                raise
        return await self._create(context, 1)

    async def _create(self, context: JetStreamContext, replicas: int) -> ClientKeyValue:
        storage = StorageType.MEMORY if self._options.in_memory else StorageType.FILE
        config = KeyValueConfig(bucket=self._bucket, history=1, storage=storage, replicas=replicas)
        return await context.create_key_value(config)

    async def _more_replicas(self) -> None:
        context = self._context(self._link.connected_client())
        config = (await context.stream_info(f"KV_{self._bucket}")).config
        if (config.num_replicas or 1) < self._options.replicas:
            await context.update_stream(config, num_replicas=self._options.replicas)
            log.info("bus_replicated bucket=%s replicas=%d", self._bucket, self._options.replicas)
