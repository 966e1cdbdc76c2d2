"""Counter-based randomness: numbers that are a function of their arguments and of nothing else."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
#: The largest prime below 2**64. Tokens are digits of a number to base 2**64, modulo this.
_PRIME = (1 << 64) - 59


def mix64(value: int) -> int:
    """SplitMix64's step and finaliser: a bijection of 64-bit numbers that scatters neighbours."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) for each seed and index."""
    return (mix64(mix64(seed) + index * _GOLDEN) >> 16) / (1 << 48)


def hash_tokens(tokens: Sequence[int]) -> int:
    """A hash of a token sequence that `extend_hash` can carry on."""
    return int.from_bytes(struct.pack(f">{len(tokens)}Q", *tokens), "big") % _PRIME


def extend_hash(prefix_hash: int, token: int) -> int:
    """hash_tokens([*prefix, token]), from hash_tokens(prefix)."""
    return ((prefix_hash << 64) + token) % _PRIME
