"""Wrong messages on the bus: garbage, and real ones cut, changed, repeated, late or too large.

Real ones are overheard. A change that still decodes as a message of ours is never sent: it would be
a forgery, not damage, and nothing on the bus is signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable

from rondo.errors import DecodeError
from rondo.wire.codec import SCHEMA_VERSION, decode
from rondo_bench.chaos.raw_bus import Letter, RawBus

OVERHEARD = "rondo.v1.>"
#: Events are for observers, of whom this program is one.
NOT_HURT = "rondo.v1.events."
KEPT_LETTERS = 2048
BURST = 16
LARGE_BYTES = 2**20
RETRY_S = 0.5
#: How often a changed message is drawn again because it still decodes.
TRIES = 8


class Noise:
    """Overhears the bus, and sends bursts of wrong messages; counts them by kind in `sent`."""

    def __init__(self, host: str, port: int, seed: int) -> None:
        self._target = (host, port)
        self._rng = random.Random(seed)
        self._heard: deque[Letter] = deque(maxlen=KEPT_LETTERS)
        self._bus: RawBus | None = None
        self.sent: Counter[str] = Counter()
        self._makers: dict[str, Callable[[Letter], Letter | None]] = {
            "garbage": self._garbage,
            "truncated": self._truncated,
            "changed": self._changed,
            "oversized": self._oversized,
            "duplicate": lambda letter: letter,
            "late": lambda _: self._rng.choice(self._heard),
            "garbled reply": self._garbled_reply,
        }

    @property
    def listening(self) -> bool:
        """Whether it hears what goes over the bus now."""
        return self._bus is not None

    async def listen(self) -> None:
        """Overhears until cancelled; connects again whenever the server was away."""
        while True:
            try:
                bus = await RawBus.connect(*self._target)
            except OSError:
                await asyncio.sleep(RETRY_S)
                continue
            with contextlib.suppress(OSError), contextlib.closing(bus):
                await bus.subscribe(OVERHEARD)
                self._bus = bus
                while True:
                    letter = await bus.next()
                    if letter.data and not letter.subject.startswith(NOT_HURT):
                        self._heard.append(letter)
            self._bus = None

    async def burst(self) -> int:
        """Sends some wrong messages; how many, which is none while the bus is away."""
        num_sent = 0
        for _ in range(BURST):
            bus = self._bus
            if bus is None or not self._heard:
                break
            kind = self._rng.choice(sorted(self._makers))
            letter = self._makers[kind](self._heard[-1])
            if letter is None:
                continue
            try:
                await bus.publish(letter)
            except OSError:
                break
            self.sent[kind] += 1
            num_sent += 1
            await asyncio.sleep(0.01)  # so that they fall between different messages
        return num_sent

    def _garbage(self, letter: Letter) -> Letter | None:
        size = self._rng.choice((0, 1, 7, 100, 5000))
        return self._undecodable(letter, self._rng.randbytes(size))

    def _truncated(self, letter: Letter) -> Letter | None:
        return self._undecodable(letter, letter.data[: self._rng.randrange(len(letter.data))])

    def _changed(self, letter: Letter) -> Letter | None:
        for _ in range(TRIES):
            data = bytearray(letter.data)
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
            if damaged := self._undecodable(letter, bytes(data)):
                return damaged
        return None

    def _oversized(self, letter: Letter) -> Letter | None:
        """Large, and a message by its first byte."""
        data = bytes((SCHEMA_VERSION,)) + self._rng.randbytes(LARGE_BYTES)
        return self._undecodable(letter, data)

    def _garbled_reply(self, _: Letter) -> Letter | None:
        """Garbage as the answer to a question that was just asked."""
        asked = next((one for one in reversed(self._heard) if one.reply), None)
        return asked and self._undecodable(Letter(asked.reply, "", b""), self._rng.randbytes(40))

    @staticmethod
    def _undecodable(letter: Letter, data: bytes) -> Letter | None:
        """The letter with other data, unless that could be taken for a message."""
        try:
            decode(data)
        except DecodeError:
            return Letter(letter.subject, "", data)
        return None
