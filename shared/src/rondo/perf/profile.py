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
#: Smallest values that make sense.
_LEAST = {
    "cpu_ms": 0,
    "block_size": 1,
    "num_blocks": 1,
    "num_gpus": 1,
    "gpu_memory_bytes": 1,
    "weight_bytes": 0,
    "kv_bytes_per_token": 1,
}


class LatencyProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Coefficients in milliseconds, with their origin. Implements LatencyModel.

    `num_blocks` is the KV pool that emulated and simulated engines take from it; where a file gives
    none, it follows from the memory of the GPUs (`pool_blocks`).
    """

    name: str = ""
    source: str = ""
    licence: str = ""
    """Of the data that the coefficients were made from."""
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

    Fields that Rondo does not know are ignored; name and source are the file's or entry's if none
    are given. A KEY that is only the beginning of keys, up to a "|", takes the first of them.

    Raises:
        ConfigError: no such name, file or entry, or a field is missing or of the wrong type.
    """
    path, key = _split(name_or_path)
    if path is not None:
        data, name = path.read_bytes(), path.stem
    elif name_or_path in builtin_names():
        data = (resources.files("rondo.perf") / "profiles" / f"{name_or_path}.json").read_bytes()
        name = name_or_path
    elif ".json" in name_or_path:
        raise ConfigError("profile", f"no file {name_or_path}")
    else:
        known = ", ".join(builtin_names())
        raise ConfigError("profile", f"{name_or_path!r} is neither a file nor one of: {known}")
    try:
        fields = msgspec.json.decode(data, type=dict[str, object])
        if key:
            name, fields = _entry(fields, key)
        profile = msgspec.convert(fields, type=LatencyProfile)
        _check(profile)
    except (msgspec.DecodeError, ValueError) as error:  # ValidationError is both
        raise ConfigError("profile", f"{name_or_path}: {error}") from error
    if "num_blocks" not in fields and (sizes := _sizes(profile)):
        num_blocks = pool_blocks(*sizes, block_size=profile.block_size)
        profile = msgspec.structs.replace(profile, num_blocks=num_blocks)
    source = profile.source or f"file {name_or_path}"
    return msgspec.structs.replace(profile, name=profile.name or name, source=source)


def _split(name_or_path: str) -> tuple[Path | None, str]:
    """The file and the key that are meant; no file for a name. Both may contain '#'."""
    ends = [len(name_or_path), *(i for i, char in enumerate(name_or_path) if char == "#")]
    for end in ends:
        try:
            if Path(name_or_path[:end]).is_file():
                return Path(name_or_path[:end]), name_or_path[end + 1 :]
        except OSError:  # longer than a path may be
            break
    return None, ""


def _entry(data: dict[str, object], key: str) -> tuple[str, dict[str, object]]:
    """The entry `key`; else the first whose key goes on after it with a '|', as variants do."""
    for name in (key, *(name for name in data if name.startswith(f"{key}|"))):
        entry = data.get(name)
        if isinstance(entry, dict):
            return name, entry
    known = ", ".join(name for name, value in data.items() if isinstance(value, dict))
    raise ValueError(f"no entry {key!r}; it has: {known}")


def _check(profile: LatencyProfile) -> None:
    """Refuses sizes out of bounds, and steps that take less than nothing.

    Single coefficients may be negative, as fitted intercepts are.
    """
    for field, least in _LEAST.items():
        value = getattr(profile, field)
        if value is not None and value < least:
            raise ValueError(f"{field} is {value}, must be at least {least}")
    for num, tokens in ((1, 1), (256, 100_000)):
        if profile.decode_s(num, tokens) < 0:
            raise ValueError(f"decode_ms: {num} sequences of {tokens} tokens take less than 0 s")
        if profile.step_s(tokens, tokens**2, 0, 0) < 0:
            raise ValueError(f"prefill_line_ms: {tokens} tokens take less than 0 s")


def _sizes(profile: LatencyProfile) -> tuple[int, int, int, int] | None:
    gpus, memory = profile.num_gpus, profile.gpu_memory_bytes
    weights, kv = profile.weight_bytes, profile.kv_bytes_per_token
    if gpus is None or memory is None or weights is None or kv is None:
        return None
    return gpus, memory, weights, kv
