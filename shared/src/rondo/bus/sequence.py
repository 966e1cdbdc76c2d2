"""Numbers on streams of messages, so that a receiver notices what the bus dropped. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

#: The number of the first message of a stream.
FIRST = 0
#: Streams that are remembered. Beyond, that which was used longest ago is forgotten: should it go
#: on, its numbers begin anew, and one loss may go unnoticed here (answers notice by token index).
MAX_STREAMS = 4096


class Sequencer:
    """Numbers a sender's messages; each key is a stream of its own."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def next(self, stream_key: str = "") -> int:
        """The number of the next message of a stream."""
        number = self._next.pop(stream_key, FIRST)
        self._next[stream_key] = number + 1  # last: it was used just now
        _forget_beyond_limit(self._next)
        return number

    def upcoming(self, stream_key: str = "") -> int:
        """The number that the next message of a stream will have."""
        return self._next.get(stream_key, FIRST)


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages from `expected` to `got` - 1 were lost."""

    expected: int
    got: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A number below the expected one: seen before, or counted as lost before."""

    expected: int
    got: int


class SequenceTracker:
    """Follows the numbers of many streams.

    A stream starts at the first number seen of an incarnation of its sender, so that a receiver
    may join late. Where it cannot have joined late, `from_first` makes a lost beginning a gap.
    """

    def __init__(self, *, from_first: bool = False) -> None:
        self._from_first = from_first
        self._streams: dict[str, tuple[str, int]] = {}

    def observe(self, stream_key: str, incarnation: str, seq: int) -> Gap | Duplicate | None:
        """Takes note of a message; what was wrong with its number, or None."""
        expected = self.expected(stream_key, incarnation)
        if expected is None:
            expected = FIRST if self._from_first else seq
        if seq < expected:
            return Duplicate(expected, seq)
        self._streams.pop(stream_key, None)
        self._streams[stream_key] = (incarnation, seq + 1)
        _forget_beyond_limit(self._streams)
        return None if seq == expected else Gap(expected, seq)

    def expected(self, stream_key: str, incarnation: str) -> int | None:
        """The number that comes next; None where none of this incarnation has come."""
        known, expected = self._streams.get(stream_key, (None, None))
        return expected if known == incarnation else None

    def forget(self, stream_key: str) -> None:
        """The stream has ended; what comes next on it is a beginning."""
        self._streams.pop(stream_key, None)


def _forget_beyond_limit(streams: dict[str, T]) -> None:
    if len(streams) > MAX_STREAMS:
        del streams[next(iter(streams))]
