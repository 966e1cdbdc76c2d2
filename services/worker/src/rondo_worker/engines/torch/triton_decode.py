"""Attention of one new token per sequence over the paged KV pool, as a Triton kernel for CUDA.

One program for each sequence and key head; it walks the sequence's blocks once, with an online
softmax, so nothing is gathered. Scores and sums are float32. TRITON_INTERPRET=1 runs it on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

#: Tokens that a program looks at in one go.
TILE = 32


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _paged_decode(
    queries: Any,
    pool: Any,
    tables: Any,
    positions: Any,
    out: Any,
    query_stride: Any,
    width: Any,
    window: Any,
    scale: Any,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    row, head = tl.program_id(0), tl.program_id(1)
    position = tl.load(positions + row)
    first = tl.maximum(position - window + 1, 0)
    group, dims = tl.arange(0, GROUP_PADDED), tl.arange(0, DIM_PADDED)
    inside = (group < GROUP)[:, None] & (dims < DIM)[None, :]
    place = (head * GROUP + group)[:, None] * DIM + dims[None, :]
    query = tl.load(queries + row * query_stride + place, mask=inside, other=0.0).to(tl.float32)
    query *= scale
    top = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PADDED], tl.float32)
    sums = tl.zeros([GROUP_PADDED, DIM_PADDED], tl.float32)
    # The first tile holds `first`, so every row's maximum is finite from there on.
    for start in range(first // TILE * TILE, position + 1, TILE):
        token = start + tl.arange(0, TILE)
        seen = (token >= first) & (token <= position)
        block = tl.load(tables + row * width + token // BLOCK_SIZE, mask=seen, other=0)
        slot = block * BLOCK_SIZE + token % BLOCK_SIZE
        where = slot[:, None] * (2 * KV_HEADS * DIM) + head * DIM + dims[None, :]
        mask = seen[:, None] & (dims < DIM)[None, :]
        keys = tl.load(pool + where, mask=mask, other=0.0).to(tl.float32)
        values = tl.load(pool + where + KV_HEADS * DIM, mask=mask, other=0.0).to(tl.float32)
        scores = tl.sum(query[:, None, :] * keys[None, :, :], 2)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        fade = tl.exp(top - higher)
        total = total * fade + tl.sum(weights, 1)
        sums = sums * fade[:, None] + tl.sum(weights[:, :, None] * values[None, :, :], 1)
        top = higher
    result = (sums / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + row * KV_HEADS * GROUP * DIM + place, result, mask=inside)


class TritonKernels:
    """Implements `PagedDecode` on CUDA."""

    def paged_decode(
        self,
        queries: torch.Tensor,
        slots: torch.Tensor,
        tables: torch.Tensor,
        positions: torch.Tensor,
        block_size: int,
        window: int | None,
    ) -> torch.Tensor:
        """Attention of one query a sequence over the pool; see `PagedDecode`."""
        batch, heads, dim = queries.shape
        kv_heads = slots.shape[2]
        group = heads // kv_heads
        out = torch.empty(batch, heads * dim, dtype=queries.dtype, device=queries.device)
        _paged_decode[(batch, kv_heads)](
            queries,
            slots,
            tables,
            positions,
            out,
            queries.stride(0),
            tables.shape[1],
            # No window: one that reaches beyond every position.
            window or tables.shape[1] * block_size + 1,
            dim**-0.5,
            KV_HEADS=kv_heads,
            GROUP=group,
            GROUP_PADDED=triton.next_power_of_2(group),
            DIM=dim,
            DIM_PADDED=triton.next_power_of_2(dim),
            BLOCK_SIZE=block_size,
            TILE=TILE,
        )
        return out
