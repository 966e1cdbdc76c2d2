"""Closed-form step times of one instance.

    prefill(chunks) = max(f0 + f1 N, l0 + l1 N) + a0 + a1 N + a2 sum n (n + 2 ctx)
    decode(b, S)    = d0 + d1 b + d2 S

N: new tokens in the step; n, ctx: a chunk's tokens and the cached ones before it; b: sequences;
S: their context lengths summed. Coefficients are milliseconds, as in the published fits that
`profiles/*.json` were taken from; results are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec

from rondo.errors import ConfigError
from rondo.types import Chunk


class LatencyProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Coefficients in milliseconds, with their origin. Implements LatencyModel."""

    name: str
    source: str
    prefill_floor_ms: tuple[float, float]
    prefill_line_ms: tuple[float, float]
    prefill_attn_ms: tuple[float, float, float]
    decode_ms: tuple[float, float, float]
    cpu_ms: float = 0.0
    """Engine overhead added to every step."""
    block_size: int = 16
    num_blocks: int = 4096
    """KV pool that the emulated engine takes from this profile."""

    def prefill_s(self, chunks: Sequence[Chunk]) -> float:
        """Seconds for one prefill step; 0 for no chunk."""
        if not chunks:
            return 0.0
        tokens = sum(chunk.num_tokens for chunk in chunks)
        pairs = sum(c.num_tokens * (c.num_tokens + 2 * c.context) for c in chunks)
        floor, line, attn = self.prefill_floor_ms, self.prefill_line_ms, self.prefill_attn_ms
        linear = max(floor[0] + floor[1] * tokens, line[0] + line[1] * tokens)
        total_ms = linear + attn[0] + attn[1] * tokens + attn[2] * pairs + self.cpu_ms
        return total_ms / 1e3

    def decode_s(self, num_sequences: int, context_tokens: int) -> float:
        """Seconds for one decode step; 0 for an empty batch."""
        if num_sequences == 0:
            return 0.0
        d0, d1, d2 = self.decode_ms
        return (d0 + d1 * num_sequences + d2 * context_tokens + self.cpu_ms) / 1e3


def builtin_names() -> list[str]:
    """Names of the profiles that ship with Rondo."""
    folder = resources.files("rondo.perf") / "profiles"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".json"))


def load_profile(name_or_path: str) -> LatencyProfile:
    """A profile by built-in name or JSON file.

    Raises:
        ConfigError: no such name or file, or a field is missing or of the wrong type.
    """
    path = Path(name_or_path)
    if name_or_path.endswith(".json") or path.is_file():
        if not path.is_file():
            raise ConfigError("profile", f"no file {name_or_path}")
        data = path.read_bytes()
    elif name_or_path in builtin_names():
        data = (resources.files("rondo.perf") / "profiles" / f"{name_or_path}.json").read_bytes()
    else:
        known = ", ".join(builtin_names())
        raise ConfigError("profile", f"{name_or_path!r} is neither a file nor one of: {known}")
    try:
        return msgspec.json.decode(data, type=LatencyProfile)
    except msgspec.DecodeError as error:
        raise ConfigError("profile", f"{name_or_path}: {error}") from error
