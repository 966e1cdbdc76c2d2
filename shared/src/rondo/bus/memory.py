"""A bus within one process, for tests: the behaviour of NATS without its server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rondo.bus.delivery import Inbound
from rondo.bus.mailbox import Mailbox
from rondo.bus.memory_kv import MemoryBucket, MemoryKeyValue
from rondo.bus.protocol import BusStats, Handler, KeyValue, Subscription
from rondo.bus.subjects import check_id
from rondo.errors import BusUnavailable, MessageTooLarge, NoResponder, RequestTimeout
from rondo.wire.codec import encode
from rondo.wire.messages import Message


@dataclass(frozen=True, slots=True)
class _Letter:
    """A message on its way: encoded, as on a wire."""

    subject: str
    data: bytes
    reply: str = ""


class MemoryBroker:
    """What nats-server is to NatsBus. `interrupt` and `restore` play a server that is lost."""

    def __init__(self, *, max_payload: int = 8 << 20) -> None:
        self.max_payload = max_payload
        self.up = asyncio.Event()
        self.up.set()
        self.buses: dict[int, MemoryBus] = {}
        self.subscriptions: dict[int, _Subscription] = {}
        self.inboxes: dict[str, Callable[[bytes], None]] = {}
        self._buckets: dict[str, MemoryBucket] = {}
        self._inbox_numbers = itertools.count()

    def interrupt(self) -> None:
        """All connections are lost."""
        self.up.clear()

    def restore(self, *, lose_store: bool = False) -> None:
        """All connections come back; without the values of buckets where `lose_store`."""
        if lose_store:
            for bucket in self._buckets.values():
                bucket.lose()
        self.up.set()
        for bus in list(self.buses.values()):
            bus.came_back()

    def inject(self, subject: str, data: bytes) -> None:
        """Sends raw bytes, as a foreign program could."""
        self.route(_Letter(subject, data))

    def bucket(self, name: str) -> MemoryBucket:
        """A bucket, made where it does not exist."""
        return self._buckets.setdefault(name, MemoryBucket(check_id(name)))

    def new_inbox(self) -> str:
        """A subject for the answers to one request."""
        return f"_INBOX.{next(self._inbox_numbers)}"

    def route(self, letter: _Letter) -> int:
        """Passes a message on; how many took it or dropped it. None while interrupted."""
        if not self.up.is_set():
            return 0
        if inbox := self.inboxes.get(letter.subject):
            inbox(letter.data)
            return 1
        tokens = letter.subject.split(".")
        takers = [s for s in self.subscriptions.values() if s.matches(tokens)]
        for subscription in takers:
            subscription.offer(letter)
        return len(takers)


class MemoryBus:
    """A connection to a MemoryBroker; see the Bus protocol."""

    def __init__(
        self, broker: MemoryBroker, *, name: str = "memory", buffer_bytes: int = 8 << 20
    ) -> None:
        self.stats = BusStats()
        self.inbound = Inbound(self.stats)
        self.url = f"memory://{name}"
        self.broker = broker
        self._buffer_bytes = buffer_bytes
        self._open = False
        self._closed = False
        self._buffer: list[_Letter] = []
        self._callbacks: list[Callable[[], None]] = []
        self._buckets: dict[str, MemoryKeyValue] = {}
        self._subscriptions: dict[int, _Subscription] = {}

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        return self._open and self.broker.up.is_set()

    async def connect(self) -> None:
        """Returns when the broker is up."""
        if self._closed:
            raise BusUnavailable(self.url, "closed")
        await self.broker.up.wait()
        self._open = True
        self.broker.buses[id(self)] = self

    async def close(self) -> None:
        """Ends all deliveries; safe to call twice."""
        self._open, self._closed = False, True
        self.broker.buses.pop(id(self), None)
        for bucket in self._buckets.values():
            await bucket.close()
        for subscription in list(self._subscriptions.values()):
            await subscription.close()

    async def publish(self, subject: str, message: Message) -> None:
        """Sends a message to all subscribers; see Bus.publish for what it raises."""
        self._check_open()
        self._send(_Letter(subject, self.encode(subject, message)))

    async def subscribe(
        self, subject: str, handler: Handler, *, pending_limit: int = 65536
    ) -> Subscription:
        """Calls `handler` for each message on `subject`; see Bus.subscribe."""
        self._check_open()
        subscription = _Subscription(self, subject, handler, pending_limit)
        self._subscriptions[id(subscription)] = subscription
        self.broker.subscriptions[id(subscription)] = subscription
        return subscription

    async def request(self, subject: str, message: Message, timeout_s: float) -> Message:
        """Sends a request and waits for one answer; see Bus.request for what it raises."""
        self.check_connected()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def take(data: bytes) -> None:
            if not answer.done():
                answer.set_result(data)

        inbox = self.broker.new_inbox()
        letter = _Letter(subject, self.encode(subject, message), inbox)
        self.broker.inboxes[inbox] = take
        try:
            if not self._send(letter):
                raise NoResponder(subject)
            async with asyncio.timeout(timeout_s):
                data = await answer
        except TimeoutError as error:
            raise RequestTimeout(subject, timeout_s) from error
        finally:
            del self.broker.inboxes[inbox]
        return self.inbound.answer(subject, data)

    async def request_many(self, subject: str, message: Message, wait_s: float) -> list[Message]:
        """All answers that come within `wait_s`; at once none when nobody is subscribed."""
        self.check_connected()
        answers: list[Message] = []

        def take(data: bytes) -> None:
            self.inbound.deliver(lambda i: answers.append(i.message), subject, data, None)

        inbox = self.broker.new_inbox()
        letter = _Letter(subject, self.encode(subject, message), inbox)
        self.broker.inboxes[inbox] = take
        try:
            if self._send(letter):
                await asyncio.sleep(wait_s)
        finally:
            del self.broker.inboxes[inbox]
        return answers

    async def flush(self) -> None:
        """Returns when the broker has everything published before, which is now."""
        self.check_connected()
        await asyncio.sleep(0)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Calls `callback` after each reconnect."""
        self._callbacks.append(callback)

    async def key_value(self, bucket: str) -> KeyValue:
        """Opens a bucket, creating it where it does not exist."""
        self.check_connected()
        if bucket not in self._buckets:
            self._buckets[bucket] = MemoryKeyValue(self, self.broker.bucket(bucket))
        return self._buckets[bucket]

    def came_back(self) -> None:
        """The broker was restored."""
        self.stats.reconnects += 1
        buffered, self._buffer = self._buffer, []
        for letter in buffered:
            self.broker.route(letter)
        for bucket in self._buckets.values():
            bucket.restart_watches()
        for callback in self._callbacks:
            self._notify(callback)

    def check_connected(self) -> None:
        """For what needs an answer now: BusUnavailable when there can be none."""
        self._check_open()
        if not self.connected:
            raise BusUnavailable(self.url, "not connected")

    def encode(self, subject: str, message: Message) -> bytes:
        """Bytes of a message, or MessageTooLarge."""
        data = encode(message)
        if len(data) > self.broker.max_payload:
            self.stats.too_large += 1
            raise MessageTooLarge(subject, len(data), self.broker.max_payload)
        return data

    def forget(self, subscription: _Subscription) -> None:
        """A subscription has ended."""
        self._subscriptions.pop(id(subscription), None)
        self.broker.subscriptions.pop(id(subscription), None)

    def _check_open(self) -> None:
        if not self._open:
            raise BusUnavailable(self.url, "closed" if self._closed else "not connected")

    def _send(self, letter: _Letter) -> int:
        if not self.connected:
            buffered = sum(len(other.data) for other in self._buffer)
            if buffered + len(letter.data) > self._buffer_bytes:
                raise BusUnavailable(self.url, "not connected, and the buffer is full")
            self._buffer.append(letter)
        self.stats.published += 1
        return self.broker.route(letter)

    def _notify(self, callback: Callable[[], None]) -> None:
        self.inbound.call(lambda _: callback(), None, "(on_reconnect)")


class _Subscription:
    """One subscriber, with a queue of its own as in nats-py."""

    def __init__(self, bus: MemoryBus, subject: str, handler: Handler, limit: int) -> None:
        self._bus = bus
        self._pattern = subject.split(".")
        self._handler = handler
        self._mailbox = Mailbox(self._deliver, limit)

    def matches(self, tokens: list[str]) -> bool:
        """Whether a subject is ours."""
        return len(tokens) == len(self._pattern) and all(
            mine in ("*", theirs) for mine, theirs in zip(self._pattern, tokens, strict=True)
        )

    def offer(self, letter: _Letter) -> None:
        """Queues a message, or drops it when too many wait."""
        if not self._mailbox.offer(letter):
            self._bus.inbound.overflow(letter.subject)

    async def close(self) -> None:
        """Stops delivery; safe to call twice."""
        self._bus.forget(self)
        await self._mailbox.close()

    def _deliver(self, letter: _Letter) -> None:
        respond = partial(self._bus.publish, letter.reply) if letter.reply else None
        self._bus.inbound.deliver(self._handler, letter.subject, letter.data, respond)
