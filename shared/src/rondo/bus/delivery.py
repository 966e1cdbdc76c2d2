"""What every bus does with an arriving message: decode it, hand it over, count and name trouble."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rondo.bus.protocol import BusStats, Handler, Incoming
from rondo.errors import DecodeError
from rondo.wire.codec import decode
from rondo.wire.messages import Message

log = logging.getLogger("rondo.bus")

T = TypeVar("T")

#: A subject's trouble is logged once in this time; the line says how many were left out.
LOG_INTERVAL_S = 10.0
#: Subjects come from outside: beyond this many, counters share one entry.
MAX_SUBJECTS = 1024
OTHER_SUBJECTS = "(other)"


class Inbound:
    """Decodes and delivers; whatever a message or a handler does, the next one is delivered."""

    def __init__(self, stats: BusStats) -> None:
        self._stats = stats
        self._quiet_until: dict[str, tuple[float, int]] = {}

    def deliver(
        self,
        handler: Handler,
        subject: str,
        data: bytes,
        respond: Callable[[Message], Awaitable[None]] | None,
    ) -> None:
        """Hands a message to a subscriber."""
        self._stats.received += 1
        message = self.decode(subject, data)
        if message is not None:
            self.call(handler, Incoming(subject, message, respond), subject)

    def answer(self, subject: str, data: bytes) -> Message:
        """The answer to a request.

        Raises:
            DecodeError: it is no message of ours.
        """
        self._stats.received += 1
        try:
            return decode(data)
        except DecodeError as error:
            self.undecodable(subject, error)
            raise

    def decode(self, subject: str, data: bytes) -> Message | None:
        """The message, or None when it is none of ours."""
        try:
            return decode(data)
        except DecodeError as error:
            self.undecodable(subject, error)
            return None

    def call(self, handler: Callable[[T], None], value: T, subject: str) -> None:
        """Calls a handler, which may fail."""
        try:
            handler(value)
        except Exception as error:  # a handler's bug must not stop the stream
            self._stats.handler_errors += 1
            self._warn(subject, "bus_handler_failed", type(error).__qualname__, error)

    def undecodable(self, subject: str, error: DecodeError) -> None:
        """A message on a subject is none of ours."""
        self._stats.undecodable += 1
        self._count(subject)
        self._warn(subject, "bus_undecodable", str(error))

    def overflow(self, subject: str) -> None:
        """A message was dropped because its handler is too slow."""
        self._stats.slow_consumer += 1
        self._warn(subject, "bus_slow_consumer", "too many messages wait for the handler")

    def _count(self, subject: str) -> None:
        counts = self._stats.by_subject
        key = subject if subject in counts or len(counts) < MAX_SUBJECTS else OTHER_SUBJECTS
        counts[key] = counts.get(key, 0) + 1

    def _warn(self, subject: str, event: str, problem: str, error: Exception | None = None) -> None:
        now_s = time.monotonic()
        key = f"{event} {subject}"
        quiet_until_s, left_out = self._quiet_until.get(key, (0.0, 0))
        if now_s < quiet_until_s:
            self._quiet_until[key] = (quiet_until_s, left_out + 1)
            return
        if len(self._quiet_until) >= MAX_SUBJECTS:
            self._quiet_until.clear()
        self._quiet_until[key] = (now_s + LOG_INTERVAL_S, 0)
        log.warning(
            '%s subject=%s problem="%s" left_out=%d',
            event, subject, problem, left_out,
            exc_info=error,
        )  # fmt: skip


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row: 0.1 s, doubling up to 2 s."""
    return min(0.1 * 2 ** min(failures - 1, 8), 2.0) if failures > 0 else 0.0
