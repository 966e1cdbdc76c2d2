"""Names for the blocks of prompts and answers: equal names mean equal tokens, from the first on.

A block's name is a digest of the name before it and its own tokens, so two requests whose first n
full blocks have the same names begin with the same n blocks of tokens, and may share their KV.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

#: Bytes of a name. Names are compared, never the tokens: a collision would be a wrong answer.
NAME_BYTES = 16


def block_names(tokens: Sequence[int], block_size: int) -> tuple[bytes, ...]:
    """Names of the full blocks of `tokens`; what is left at the end has none."""
    names: list[bytes] = []
    extend_names(names, tokens, block_size, len(tokens) // block_size)
    return tuple(names)


def extend_names(
    names: list[bytes], tokens: Sequence[int], block_size: int, num_blocks: int
) -> None:
    """Appends names of the first blocks of `tokens`, which follow those that have names."""
    for first in range(0, num_blocks * block_size, block_size):
        before = names[-1] if names else b""
        packed = array("q", tokens[first : first + block_size]).tobytes()
        names.append(hashlib.blake2b(before + packed, digest_size=NAME_BYTES).digest())
