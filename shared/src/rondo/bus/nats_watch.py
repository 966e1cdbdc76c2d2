"""A watch on a bucket that survives whatever happens to the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as ClientSubscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.kv import KV_MARKER_REASON, KV_OP

from rondo.bus.delivery import Inbound, backoff_s
from rondo.bus.nats_link import Link
from rondo.bus.protocol import KeyUpdate
from rondo.bus.tasks import end_task
from rondo.bus.watch_state import WatchState
from rondo.errors import BusUnavailable

if TYPE_CHECKING:
    from rondo.bus.nats_kv import KeyValueOptions, NatsKeyValue

log = logging.getLogger("rondo.bus")

#: The server tells in this interval that the watch lives; silence for longer means it does not.
HEARTBEAT_S = 1.0
SILENCE_LIMIT_S = 3.0
#: The server forgets a watch that nobody listens to any more.
INACTIVE_S = 10.0


@dataclass(slots=True)
class _Session:
    """One consumer on the server: from its first message on until something goes wrong."""

    subscription: ClientSubscription | None = None
    delivered: int = 0
    heard_s: float = field(default_factory=time.monotonic)
    complete: asyncio.Event = field(default_factory=asyncio.Event)


class NatsWatch:
    """Delivers values through an ephemeral JetStream consumer, and makes a new one when needed.

    A new consumer starts with all current values; keys that were known before and are not among
    them are reported as deleted.
    """

    def __init__(
        self,
        store: NatsKeyValue,
        link: Link,
        inbound: Inbound,
        bucket: str,
        handler: Callable[[KeyUpdate], None],
        options: KeyValueOptions,
    ) -> None:
        self.on_close: Callable[[], object] = lambda: None
        self._store = store
        self._link = link
        self._bucket = bucket
        self._prefix = f"$KV.{bucket}."
        self._state = WatchState(inbound, self._prefix, handler)
        self._timeout_s = options.timeout_s
        self._session = _Session()
        self._trouble = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Returns when all current values are delivered.

        Raises:
            BusUnavailable: not connected, or JetStream does not answer.
        """
        await self._start_session()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Stops delivery; safe to call twice."""
        self.on_close()
        await end_task(self._keeper)
        await self._end_session()

    def restart(self) -> None:
        """Values may have been missed: start from the current ones."""
        self._trouble.set()

    async def _keep(self) -> None:
        while True:
            await self._wait_for_trouble()
            failures = 0
            while self._trouble.is_set():
                await asyncio.sleep(backoff_s(failures))
                await self._link.up.wait()
                self._trouble.clear()
                try:
                    await self._start_session()
                except Exception as error:  # whatever it was, a watch must not die silently
                    failures += 1
                    self._trouble.set()
                    log.warning('bus_watch_failed bucket=%s error="%s"', self._bucket, error)
            log.info("bus_watch_restarted bucket=%s", self._bucket)

    async def _wait_for_trouble(self) -> None:
        while not self._trouble.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._trouble.wait()
            if time.monotonic() - self._session.heard_s > SILENCE_LIMIT_S:
                self._trouble.set()
            await self._store.replicate()

    async def _start_session(self) -> None:
        await self._end_session()
        context = await self._store.jetstream()
        client = self._link.connected_client()
        session = self._session
        self._state.begin()
        inbox = client.new_inbox()
        try:
            session.subscription = await client.subscribe(
                inbox, cb=partial(self._on_message, session)
            )
            info = await context.add_consumer(f"KV_{self._bucket}", self._consumer(inbox))
            sent = info.delivered.consumer_seq if info.delivered else 0
            if not info.num_pending and not sent:
                session.complete.set()
            async with asyncio.timeout(self._timeout_s):
                await session.complete.wait()
        except (errors.Error, TimeoutError) as error:
            await self._end_session()
            problem = f"watch of bucket {self._bucket}: {error or 'no answer in time'}"
            raise BusUnavailable(self._link.url, problem) from error
        self._state.complete()

    async def _end_session(self) -> None:
        session, self._session = self._session, _Session()
        if session.subscription is not None:
            # A closed connection has ended the subscription already.
            with contextlib.suppress(errors.Error):
                await session.subscription.unsubscribe()

    def _consumer(self, inbox: str) -> ConsumerConfig:
        return ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            filter_subject=f"{self._prefix}>",
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            idle_heartbeat=HEARTBEAT_S,
            inactive_threshold=INACTIVE_S,
            mem_storage=True,
            num_replicas=1,
        )

    async def _on_message(self, session: _Session, msg: Msg) -> None:
        if session is not self._session:
            return
        session.heard_s = time.monotonic()
        headers = msg.headers or {}
        if "Status" in headers:
            # A heartbeat: it says how many messages were sent.
            sent = int(headers.get("Nats-Last-Consumer", session.delivered))
            if sent != session.delivered:
                self.restart()
            return
        metadata = msg.metadata
        if metadata.sequence.consumer != session.delivered + 1:
            self.restart()
            return
        session.delivered += 1
        self._apply(msg, metadata.sequence.stream)
        if metadata.num_pending == 0:
            session.complete.set()

    def _apply(self, msg: Msg, revision: int) -> None:
        key = msg.subject.removeprefix(self._prefix)
        headers = msg.headers or {}
        if KV_OP in headers or KV_MARKER_REASON in headers:
            self._state.remove(key, revision)
        else:
            self._state.put(key, msg.data, revision)
