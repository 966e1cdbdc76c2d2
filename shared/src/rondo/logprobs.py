"""Logarithms of probabilities of tokens, packed for the bus.

Surface: `Logprobs` with `pack`, `join`, `part`, `at`, and its rows as `TokenLogprobs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from rondo.packing import pack, unpack

#: Bytes of an int32 and of a float32.
_ITEM_BYTES = 4


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One token's: its own natural logarithm, and the best tokens of its place with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...]


class Logprobs(msgspec.Struct, frozen=True, array_like=True):
    """One row a token. Little-endian: `own` float32 [rows], `ids` int32 and `best` float32
    [rows, num_top], best first. Of the model's own distribution: before temperature, penalties,
    biases and filters, as in vLLM.
    """

    num_top: int
    own: bytes
    ids: bytes = b""
    best: bytes = b""

    def __len__(self) -> int:
        return len(self.own) // _ITEM_BYTES

    def __post_init__(self) -> None:
        # Also while decoding, where msgspec makes it an error of the message.
        width = len(self.own) * self.num_top
        if self.num_top < 0 or len(self.own) % _ITEM_BYTES:
            raise ValueError("logprobs: no whole number of rows")
        if not len(self.ids) == len(self.best) == width:
            raise ValueError(f"logprobs: {width} bytes of best tokens expected")

    @classmethod
    def pack(
        cls, num_top: int, own: Sequence[float], ids: Sequence[int], best: Sequence[float]
    ) -> Logprobs:
        """From plain numbers; `ids` and `best` are flat, row after row."""
        return cls(num_top, pack("f", own), pack("i", ids), pack("f", best))

    @classmethod
    def join(cls, parts: Iterable[Logprobs]) -> Logprobs:
        """All rows in order; every part must have the same `num_top`, and there must be one."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        return cls(
            parts[0].num_top,
            b"".join([part.own for part in parts]),
            b"".join([part.ids for part in parts]),
            b"".join([part.best for part in parts]),
        )

    def part(self, begin: int, end: int | None = None) -> Logprobs:
        """The rows `begin .. end`; to the last one by default."""
        if begin <= 0 and end is None:
            return self
        rows = slice(*slice(begin, end).indices(len(self)))
        first, last = rows.start * _ITEM_BYTES, max(rows.start, rows.stop) * _ITEM_BYTES
        wide = slice(first * self.num_top, last * self.num_top)
        return Logprobs(self.num_top, self.own[first:last], self.ids[wide], self.best[wide])

    def at(self, row: int, num_top: int) -> Logprobs:
        """One row alone, with no more than its `num_top` best."""
        own = row * _ITEM_BYTES
        begin = own * self.num_top
        end = begin + min(num_top, self.num_top) * _ITEM_BYTES
        return Logprobs(
            min(num_top, self.num_top),
            self.own[own : own + _ITEM_BYTES],
            self.ids[begin:end],
            self.best[begin:end],
        )

    def rows(self) -> list[TokenLogprobs]:
        """The rows, unpacked."""
        own, ids, best = unpack("f", self.own), unpack("i", self.ids), unpack("f", self.best)
        pairs = list(zip(ids, best, strict=True))
        top = self.num_top
        return [
            TokenLogprobs(value, tuple(pairs[row * top : (row + 1) * top]))
            for row, value in enumerate(own)
        ]
