"""The paged KV cache and how large it is.

Each layer has one tensor [num_blocks, block_size, 2, kv_heads, head_dim]: keys and values of a
token lie side by side, so a step stores both with one call and gathers both with one call.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

from rondo.errors import ConfigError
from rondo_worker.engines.hf_config import ModelConfig

#: Share of what is free that the pool takes when nothing is said, and its limit on a CPU, where
#: the rest of the machine wants memory too.
CPU_SHARE = 0.25
CPU_LIMIT_BYTES = 1 << 30
CUDA_SHARE = 0.85


class KvPool:
    """Keys and values of `num_blocks` blocks; who owns which block is the scheduler's business."""

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        shape = (num_blocks * block_size, 2, config.num_kv_heads, config.head_dim)
        # Zeros, not empty: a masked position still enters a product, and 0 * NaN is NaN.
        slots = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_layers)]
        self.slots = slots
        """Per layer, one row a token slot: [num_blocks * block_size, 2, kv_heads, head_dim]."""
        self.blocks = [layer.view(num_blocks, -1) for layer in slots]
        """The same memory, one row a block."""


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Memory of one block over all layers."""
    per_token = 2 * config.num_kv_heads * config.head_dim * dtype.itemsize
    return per_token * config.num_layers * block_size


def choose_num_blocks(
    config: ModelConfig,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    num_blocks: int | None,
    memory_bytes: int | None,
) -> int:
    """`num_blocks` if given, else what fits `memory_bytes`, else a share of what is free.

    Called after the weights are in place, so that what is free is free for the pool.

    Raises:
        ConfigError: not even one block fits.
    """
    if block_size < 1:
        raise ConfigError("block_size", f"is {block_size}; expected at least 1")
    if num_blocks is not None:
        if num_blocks < 1:
            raise ConfigError("num_blocks", f"is {num_blocks}; expected at least 1")
        return num_blocks
    budget = _free_share_bytes(device) if memory_bytes is None else memory_bytes
    size = block_bytes(config, block_size, dtype)
    if budget < size:
        raise ConfigError("kv_memory_bytes", f"{budget} bytes hold no KV block of {size} bytes")
    return budget // size


def _free_share_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(free_bytes * CUDA_SHARE)
    return min(int(_available_ram_bytes() * CPU_SHARE), CPU_LIMIT_BYTES)


def _available_ram_bytes() -> int:
    """What Linux could give without swapping; elsewhere, or if it does not say, free pages."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
