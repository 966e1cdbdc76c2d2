"""The bus over NATS. Only this module and its nats_* helpers import nats."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as ClientSubscription

from rondo.bus.delivery import Inbound
from rondo.bus.nats_kv import KeyValueOptions, NatsKeyValue
from rondo.bus.nats_link import Link, unavailable
from rondo.bus.protocol import BusStats, Handler, KeyValue, Subscription
from rondo.bus.tls import TlsFiles
from rondo.errors import BusUnavailable, DecodeError, MessageTooLarge, NoResponder, RequestTimeout
from rondo.wire.codec import encode
from rondo.wire.messages import Message

#: What may wait in one subscription; the number of messages is the limit that should bite.
PENDING_MESSAGES = 65536
PENDING_BYTES = 128 << 20
#: On what JetStream publishes again, or gives out of a stream.
STREAM_HEADER = "Nats-Stream"
#: How long close() waits for the server to take what is buffered.
CLOSE_FLUSH_S = 1.0

Deliver = Callable[[Msg], Awaitable[None]]


class NatsBus:
    """A connection to NATS; see the Bus protocol.

    What needs an answer (request, flush, key-value buckets) fails at once while not connected;
    what does not (publish) is buffered, up to `buffer_bytes`.

    Args:
        url: one server or several, comma separated, with or without credentials.
        name: shown in the server's monitoring.
        tls: files for TLS; an address tls:// needs none where the system knows the authority.
        kv: how buckets are made, and how long they may take to answer.
        read_every_s: what comes may wait so long, and is then taken all at once, which is cheap.

    Raises:
        ConfigError: the URL or a file cannot be one.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        tls: TlsFiles | None = None,
        kv: KeyValueOptions | None = None,
        buffer_bytes: int = 8 << 20,
        flush_timeout_s: float = 5.0,
        read_every_s: float = 0.0,
    ) -> None:
        self.stats = BusStats()
        self._inbound = Inbound(self.stats)
        self._link = Link(
            url,
            name,
            pending_bytes=buffer_bytes,
            tls=tls or TlsFiles(),
            read_every_s=read_every_s,
            on_new_client=self._restore,
            on_up=self._on_up,
            on_slow=self._inbound.overflow,
        )
        self._kv_options = kv or KeyValueOptions()
        self._flush_timeout_s = flush_timeout_s
        self._subscriptions: dict[int, _Subscription] = {}
        self._buckets: dict[str, NatsKeyValue] = {}
        self._callbacks: list[Callable[[], None]] = []

    @property
    def url(self) -> str:
        """Where it connects, without credentials."""
        return self._link.url

    @property
    def address(self) -> str:
        """The server among those of `url` that is used or tried."""
        return self._link.address

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        return self._link.connected

    async def connect(self) -> None:
        """Connects, retrying with backoff for ever; logs each failed try with its address."""
        await self._link.connect()

    async def close(self) -> None:
        """Sends what is buffered and disconnects; safe to call twice."""
        for bucket in self._buckets.values():
            await bucket.close()
        if self.connected:
            with contextlib.suppress(BusUnavailable):
                await self._flush(CLOSE_FLUSH_S)
        await self._link.close()
        self._subscriptions.clear()
        # Cancelled tasks of the client end in the loop's next turn.
        await asyncio.sleep(0)

    async def publish(self, subject: str, message: Message) -> None:
        """Sends a message to all subscribers; see Bus.publish for what it raises."""
        await self._send(self._link.client(), subject, message)

    async def subscribe(
        self, subject: str, handler: Handler, *, pending_limit: int = PENDING_MESSAGES
    ) -> Subscription:
        """Calls `handler` for each message on `subject`; see Bus.subscribe.

        On return the server knows the subscription, unless the connection is down.
        """
        client = self._link.client()
        subscription = _Subscription(subject, self._deliver_to(handler), pending_limit)
        with unavailable(self.url, f"subscribe {subject}"):
            await subscription.start(client)
        self._subscriptions[id(subscription)] = subscription
        subscription.on_close = lambda: self._subscriptions.pop(id(subscription), None)
        with contextlib.suppress(BusUnavailable):
            await self.flush()
        return subscription

    async def request(self, subject: str, message: Message, timeout_s: float) -> Message:
        """Sends a request and waits for one answer; see Bus.request for what it raises."""
        client = self._link.connected_client()
        data = self._encode(client, subject, message)
        try:
            answer = await client.request(subject, data, timeout=timeout_s)
        except errors.NoRespondersError as error:
            raise NoResponder(subject) from error
        except errors.TimeoutError as error:
            raise RequestTimeout(subject, timeout_s) from error
        except errors.Error as error:
            raise BusUnavailable(self.url, str(error)) from error
        finally:
            self.stats.published += 1
        return self._inbound.answer(subject, answer.data)

    async def request_many(self, subject: str, message: Message, wait_s: float) -> list[Message]:
        """All answers that come within `wait_s`; at once none when nobody is subscribed."""
        client = self._link.connected_client()
        answers: list[Message] = []
        nobody = asyncio.Event()

        async def collect(msg: Msg) -> None:
            if msg.headers and msg.headers.get("Status") == "503":
                nobody.set()
                return
            self._inbound.deliver(lambda i: answers.append(i.message), subject, msg.data, None)

        inbox = _Subscription(client.new_inbox(), collect, PENDING_MESSAGES)
        with unavailable(self.url, f"request {subject}"):
            await inbox.start(client)
        try:
            await self._send(client, subject, message, inbox.subject)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await nobody.wait()
        finally:
            await inbox.close()
        return answers

    async def flush(self) -> None:
        """Returns when the server has everything published before.

        Raises:
            BusUnavailable: not connected, or no answer in time.
        """
        await self._flush(self._flush_timeout_s)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Calls `callback` after each reconnect, when subscriptions are in place again."""
        self._callbacks.append(callback)

    async def key_value(self, bucket: str) -> KeyValue:
        """Opens a bucket, creating it where it does not exist.

        Raises:
            BusUnavailable: not connected, or JetStream is off or does not answer.
        """
        store = self._buckets.get(bucket)
        if store is None:
            store = NatsKeyValue(self._link, self._inbound, bucket, self._kv_options)
            await store.open()
            store = self._buckets.setdefault(bucket, store)
        return store

    def _encode(self, client: Client, subject: str, message: Message) -> bytes:
        data = encode(message)
        if len(data) > client.max_payload:
            self.stats.too_large += 1
            raise MessageTooLarge(subject, len(data), client.max_payload)
        return data

    async def _send(self, client: Client, subject: str, message: Message, reply: str = "") -> None:
        data = self._encode(client, subject, message)
        try:
            await client.publish(subject, data, reply)
        except errors.OutboundBufferLimitError as error:
            raise BusUnavailable(self.url, "not connected, and the buffer is full") from error
        except errors.Error as error:
            raise BusUnavailable(self.url, f"publish {subject}: {error}") from error
        self.stats.published += 1

    async def _flush(self, timeout_s: float) -> None:
        """A request nobody answers: the server says so after all that was sent before.

        nats-py's own flush would kill its read loop when the answer comes after the timeout.
        """
        client = self._link.connected_client()
        try:
            await client.request(client.new_inbox(), b"", timeout=timeout_s)
        except errors.NoRespondersError:
            return
        except errors.Error as error:
            raise BusUnavailable(self.url, f"flush: {error}") from error

    def _deliver_to(self, handler: Handler) -> Deliver:
        deliver = self._inbound.deliver

        async def on_message(msg: Msg) -> None:
            if _is_stored(msg):
                self._inbound.undecodable(msg.subject, DecodeError("it comes from a store"))
                return
            respond = partial(self.publish, msg.reply) if msg.reply else None
            deliver(handler, msg.subject, msg.data, respond)

        return on_message

    async def _restore(self, client: Client) -> None:
        for subscription in list(self._subscriptions.values()):
            await subscription.start(client)

    def _on_up(self) -> None:
        self.stats.reconnects += 1
        for bucket in self._buckets.values():
            bucket.restart_watches()
        for callback in self._callbacks:
            self._notify(callback)

    def _notify(self, callback: Callable[[], None]) -> None:
        self._inbound.call(lambda _: callback(), None, "(on_reconnect)")


def _is_stored(msg: Msg) -> bool:
    """Whether JetStream sent it; a watch can have it deliver on any subject, past permissions."""
    return msg.reply.startswith("$JS.") or bool(msg.headers and STREAM_HEADER in msg.headers)


class _Subscription:
    """A subscription that outlives the client it was made with."""

    def __init__(self, subject: str, deliver: Deliver, pending_limit: int) -> None:
        self.subject = subject
        self.on_close: Callable[[], object] = lambda: None
        self._deliver = deliver
        self._pending_limit = pending_limit
        self._started: ClientSubscription | None = None

    async def start(self, client: Client) -> None:
        """Subscribes with a client."""
        self._started = await client.subscribe(
            self.subject,
            cb=self._deliver,
            pending_msgs_limit=self._pending_limit,
            pending_bytes_limit=PENDING_BYTES,
        )

    async def close(self) -> None:
        """Stops delivery; safe to call twice."""
        self.on_close()
        started, self._started = self._started, None
        if started is not None:
            # A closed connection has ended the subscription already.
            with contextlib.suppress(errors.Error):
                await started.unsubscribe()
