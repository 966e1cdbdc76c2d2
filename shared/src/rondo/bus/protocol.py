"""What a bus can do. Services know this protocol only; `nats.py` and `memory.py` implement it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from rondo.wire.messages import Message


@dataclass(slots=True)
class BusStats:
    """Counters of one connection since it was made."""

    published: int = 0
    received: int = 0
    undecodable: int = 0
    handler_errors: int = 0
    slow_consumer: int = 0
    too_large: int = 0
    reconnects: int = 0
    by_subject: dict[str, int] = field(default_factory=dict)
    """Undecodable or unexpected messages, by subject."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A decoded message, and the way to answer it when it was a request.

    `respond` may be called later, or never; it is None when no answer is expected.
    """

    subject: str
    message: Message
    respond: Callable[[Message], Awaitable[None]] | None


#: Called once a message, in order, on the event loop. It must not block: fill a queue, set state.
Handler = Callable[[Incoming], None]


@dataclass(frozen=True, slots=True)
class KeyUpdate:
    """A key of a bucket changed. `value` is None when it was deleted."""

    key: str
    value: Message | None
    revision: int


class Subscription(Protocol):
    """A running subscription or watch."""

    async def close(self) -> None:
        """Stops delivery; safe to call twice."""
        ...


class KeyValue(Protocol):
    """One bucket of last values with revisions. Keys are ids (see subjects.check_id).

    All methods raise BusUnavailable when the bus does not answer in time.
    """

    async def get(self, key: str) -> KeyUpdate | None:
        """The current value, or None."""
        ...

    async def put(self, key: str, value: Message) -> int:
        """Writes whatever is there; returns the new revision."""
        ...

    async def create(self, key: str, value: Message) -> int:
        """Writes only where there is no value (or a deleted one), else RevisionConflict."""
        ...

    async def update(self, key: str, value: Message, revision: int) -> int:
        """Compare-and-set, else RevisionConflict; returns the new revision."""
        ...

    async def delete(self, key: str) -> None:
        """Removes the value; deleting what is not there is fine."""
        ...

    async def snapshot(self) -> dict[str, KeyUpdate]:
        """All current values by key."""
        ...

    async def watch(self, handler: Callable[[KeyUpdate], None]) -> Subscription:
        """Calls `handler` for every current value before returning, then for each change.

        After a reconnect the watch starts again by itself: current values are delivered again,
        and keys that vanished meanwhile as deletions. A handler must therefore be idempotent.
        An undecodable value is counted, named in the log, and treated as absent.
        """
        ...


class Bus(Protocol):
    """A connection to the bus."""

    stats: BusStats

    @property
    def url(self) -> str:
        """Where it connects, without credentials."""
        ...

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        ...

    async def connect(self) -> None:
        """Connects, retrying with backoff for ever (cancel to give up); logs each failed try."""
        ...

    async def close(self) -> None:
        """Sends what is buffered and disconnects; safe to call twice."""
        ...

    async def publish(self, subject: str, message: Message) -> None:
        """Sends a message to all subscribers.

        Raises:
            MessageTooLarge: nothing was sent.
            BusUnavailable: not connected and the outgoing buffer is full, or closed.
        """
        ...

    async def subscribe(
        self, subject: str, handler: Handler, *, pending_limit: int = 65536
    ) -> Subscription:
        """Calls `handler` for each message on `subject` (a `*` matches one token).

        A message that does not decode is counted, logged with its subject, and dropped. When more
        than `pending_limit` messages wait for the handler, further ones are dropped and counted
        as `slow_consumer`; sequence numbers tell the receiver. An exception in the handler is
        logged and counted; delivery goes on.
        """
        ...

    async def request(self, subject: str, message: Message, timeout_s: float) -> Message:
        """Sends a request and waits for one answer.

        Raises:
            NoResponder: nobody is subscribed. RequestTimeout. MessageTooLarge. BusUnavailable.
            DecodeError: the answer is no message of ours.
        """
        ...

    async def request_many(self, subject: str, message: Message, wait_s: float) -> list[Message]:
        """All answers that come within `wait_s`."""
        ...

    async def flush(self) -> None:
        """Returns when the server has everything published before."""
        ...

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Calls `callback` after each reconnect, when subscriptions are in place again."""
        ...

    async def key_value(self, bucket: str) -> KeyValue:
        """Opens a bucket, creating it where it does not exist."""
        ...
