"""The paged KV cache and how large it is.

Each layer has one tensor [num_blocks, block_size, 2, kv_heads, head_dim]: keys and values of a
token lie side by side, so a step stores both with one call and gathers both with one call.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import torch

from rondo.errors import ConfigError
from rondo_worker.engines.hf_config import ModelConfig

#: Share of what is free that the pool takes when nothing is said, and its limit on a CPU, where
#: the rest of the machine wants memory too.
CPU_SHARE = 0.25
CPU_LIMIT_BYTES = 1 << 30
CUDA_SHARE = 0.85
#: Where a container sees the limits of its own control group.
CGROUP = Path("/sys/fs/cgroup")


class KvPool:
    """Keys and values of `num_blocks` blocks; who owns which block is the scheduler's business.

    With `spare` there is one more, block `num_blocks`, where rows that pad a step may write.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        spare: bool = False,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.device = device
        total = num_blocks + spare
        shape = (total * block_size, 2, config.num_kv_heads, config.head_dim)
        # Zeros, not empty: a masked position still enters a product, and 0 * NaN is NaN.
        slots = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_layers)]
        self.slots = slots
        """Per layer, one row a token slot: [slots, 2, kv_heads, head_dim]."""
        self.blocks = [layer.view(total, -1) for layer in slots]
        """The same memory, one row a block."""
        self.num_bytes = total * block_bytes(config, block_size, dtype)
        """All of it."""


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
        ConfigError: not even one block fits, or what is asked for is more than what is free.
    """
    if block_size < 1:
        raise ConfigError("block_size", f"is {block_size}; expected at least 1")
    free = free_bytes(device)
    size = block_bytes(config, block_size, dtype)
    if num_blocks is not None:
        if num_blocks < 1:
            raise ConfigError("num_blocks", f"is {num_blocks}; expected at least 1")
        _check_fits("num_blocks", f"{num_blocks} KV blocks take", num_blocks * size, free)
        return num_blocks
    if memory_bytes is not None:
        _check_fits("kv_memory_bytes", "asks for", memory_bytes, free)
    budget = _share_bytes(device, free) if memory_bytes is None else memory_bytes
    if budget < size:
        raise ConfigError("kv_memory_bytes", f"{budget} bytes hold no KV block of {size} bytes")
    return budget // size


def free_bytes(device: torch.device) -> int:
    """Memory that a pool on this device could take now, a container's limit included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available_ram_bytes(), _container_bytes())


def _check_fits(setting: str, asked: str, wanted: int, free: int) -> None:
    # Linux would hand the pages out all the same, and kill the process once they are used.
    if wanted > free:
        raise ConfigError(setting, f"{asked} {wanted} bytes, but only {free} are free")


def _share_bytes(device: torch.device, free: int) -> int:
    if device.type == "cuda":
        return int(free * CUDA_SHARE)
    return min(int(free * CPU_SHARE), CPU_LIMIT_BYTES)


def _container_bytes() -> int:
    """What is left of this control group's limit (version 2); without one, no bound."""
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return sys.maxsize
    if limit == "max":
        return sys.maxsize
    # Files that were read, such as the weights, count as used until somebody wants the memory.
    cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return max(0, int(limit) - used + cached)


def _available_ram_bytes() -> int:
    """What Linux could give without swapping; elsewhere, or if it does not say, free pages."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
