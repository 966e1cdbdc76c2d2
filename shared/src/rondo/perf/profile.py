"""Closed-form step times of one instance.

    prefill(chunks)       = max(f0 + f1 N, l0 + l1 N) + a0 + a1 N + a2 P
    decode(b, S)          = d0 + d1 b + d2 S
    fused(chunks, b, S)   = prefill's form with N + b for N, and d2 S for the riders' KV reads

N: prompt tokens in the step; P: sum of n (n + 2 ctx) over its chunks, where n, ctx are a chunk's
tokens and the cached ones before it; b: sequences that decode; S: their context lengths summed.
Coefficients are milliseconds, as in the published fits that `profiles/*.json` were taken from;
results are seconds. In a fused step the tokens of both kinds pass the same matrices, which is why
decoding beside a compute-bound chunk is nearly free.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec

from rondo.errors import ConfigError
from rondo.types import Chunk

#: Share of the GPUs' memory that an engine uses, as vLLM's default.
MEMORY_SHARE = 0.9


class LatencyProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Coefficients in milliseconds, with their origin. Implements LatencyModel.

    `num_blocks` is the KV pool that emulated and simulated engines take from it; where a file gives
    none, it follows from the memory of the GPUs (`pool_blocks`).
    """

    name: str = ""
    source: str = ""
    prefill_floor_ms: tuple[float, float]
    prefill_line_ms: tuple[float, float]
    prefill_attn_ms: tuple[float, float, float]
    decode_ms: tuple[float, float, float]
    cpu_ms: float = 0.0
    """Engine overhead added to every step."""
    block_size: int = 16
    num_blocks: int = 4096
    num_gpus: int | None = None
    gpu_memory_bytes: int | None = None
    """Of one GPU."""
    weight_bytes: int | None = None
    """Of the whole model."""
    kv_bytes_per_token: int | None = None

    def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
        """Seconds for one step of `tokens` prompt tokens beside `num_decodes` sequences.

        `pairs` is P above, `context_tokens` is S. 0 for an empty step.
        """
        d0, d1, d2 = self.decode_ms
        if tokens == 0:
            if num_decodes == 0:
                return 0.0
            return (d0 + d1 * num_decodes + d2 * context_tokens + self.cpu_ms) / 1e3
        rows = tokens + num_decodes
        f0, f1 = self.prefill_floor_ms
        l0, l1 = self.prefill_line_ms
        a0, a1, a2 = self.prefill_attn_ms
        floor, line = f0 + f1 * rows, l0 + l1 * rows
        linear = floor if floor > line else line
        attention = a0 + a1 * rows + a2 * pairs + d2 * context_tokens
        return (linear + attention + self.cpu_ms) / 1e3

    def prefill_s(self, chunks: Sequence[Chunk]) -> float:
        """Seconds for one prefill step; 0 for no chunk."""
        tokens = sum(chunk.num_tokens for chunk in chunks)
        return self.step_s(tokens, sum(pairs_of(c.num_tokens, c.context) for c in chunks), 0, 0)

    def decode_s(self, num_sequences: int, context_tokens: int) -> float:
        """Seconds for one decode step; 0 for an empty batch."""
        return self.step_s(0, 0, num_sequences, context_tokens)


def pairs_of(num_tokens: int, context: int) -> int:
    """A chunk's share of P: twice the query-key pairs of causal attention."""
    return num_tokens * (num_tokens + 2 * context)


def pool_blocks(
    num_gpus: int,
    gpu_memory_bytes: int,
    weight_bytes: int,
    kv_bytes_per_token: int,
    block_size: int = 16,
) -> int:
    """Blocks of KV cache that fit beside the weights: nine tenths of the memory are used.

    Raises:
        ConfigError: the weights alone do not fit.
    """
    free_bytes = int(num_gpus * gpu_memory_bytes * MEMORY_SHARE) - weight_bytes
    blocks = free_bytes // (kv_bytes_per_token * block_size)
    if blocks < 1:
        raise ConfigError("profile", f"{weight_bytes} bytes of weights leave no room for KV blocks")
    return blocks


def builtin_names() -> list[str]:
    """Names of the profiles that ship with Rondo."""
    folder = resources.files("rondo.perf") / "profiles"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".json"))


def load_profile(name_or_path: str) -> LatencyProfile:
    """A profile by built-in name or JSON file; `FILE#KEY` takes one entry of a file of many.

    Fields that Rondo does not know are ignored; the name is that of the file or entry if none is
    given.

    Raises:
        ConfigError: no such name, file or entry, or a field is missing or of the wrong type.
    """
    path, _, key = name_or_path.partition("#")
    if path.endswith(".json") or Path(path).is_file():
        if not Path(path).is_file():
            raise ConfigError("profile", f"no file {path}")
        data, name = Path(path).read_bytes(), key or Path(path).stem
    elif name_or_path in builtin_names():
        data = (resources.files("rondo.perf") / "profiles" / f"{name_or_path}.json").read_bytes()
        name = name_or_path
    else:
        known = ", ".join(builtin_names())
        raise ConfigError("profile", f"{name_or_path!r} is neither a file nor one of: {known}")
    try:
        fields = _entry(msgspec.json.decode(data, type=dict[str, object]), path, key)
        profile = msgspec.convert(fields, type=LatencyProfile)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigError("profile", f"{name_or_path}: {error}") from error
    for field in ("cpu_ms", "block_size", "num_blocks"):
        if getattr(profile, field) < (0 if field == "cpu_ms" else 1):
            raise ConfigError("profile", f"{name_or_path}: {field} is {getattr(profile, field)}")
    if "num_blocks" not in fields and (sizes := _sizes(profile)):
        num_blocks = pool_blocks(*sizes, block_size=profile.block_size)
        profile = msgspec.structs.replace(profile, num_blocks=num_blocks)
    return msgspec.structs.replace(profile, name=profile.name or name)


def _entry(data: dict[str, object], path: str, key: str) -> dict[str, object]:
    if not key:
        return data
    entry = data.get(key)
    if not isinstance(entry, dict):
        known = ", ".join(name for name, value in data.items() if isinstance(value, dict))
        raise ConfigError("profile", f"{path} has no entry {key!r}; it has: {known}")
    return entry


def _sizes(profile: LatencyProfile) -> tuple[int, int, int, int] | None:
    gpus, memory = profile.num_gpus, profile.gpu_memory_bytes
    weights, kv = profile.weight_bytes, profile.kv_bytes_per_token
    if gpus is None or memory is None or weights is None or kv is None:
        return None
    return gpus, memory, weights, kv
