"""Attention over the paged pool, for a packed prefill step and for a decode step.

Query heads that share a key head are grouped without copying keys: in decode they become the
query length, in prefill keys are expanded with stride 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from rondo_worker.engines.torch.batch import DecodeView, Segment


class PagedDecode(Protocol):
    """A compiled kernel for decode attention that reads keys and values where they lie."""

    def paged_decode(
        self,
        queries: torch.Tensor,
        slots: torch.Tensor,
        tables: torch.Tensor,
        positions: torch.Tensor,
        block_size: int,
        window: int | None,
    ) -> torch.Tensor:
        """Attention of one query a sequence over the pool.

        queries: [B, H, D], each row contiguous; slots: a layer's pool, [slots, 2, kv_heads, D],
        float32 or half precision; tables: int64 [B, width]; positions: int64 [B]. Gives [B, H * D]
        in the type of `queries`, computed in float32.
        """
        ...


def attend_decode(
    queries: torch.Tensor, pool_blocks: torch.Tensor, view: DecodeView, kv_heads: int
) -> torch.Tensor:
    """One query a sequence. queries: [B, H, D]; pool_blocks: [num_blocks, block]; gives [B, HD].

    What is gathered is converted to the type of `queries`.
    """
    batch, heads, dim = queries.shape
    gathered = pool_blocks.index_select(0, view.tables.view(-1)).to(queries.dtype)
    keys, values = gathered.view(batch, -1, 2, kv_heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
    grouped = queries.view(batch, kv_heads, heads // kv_heads, dim)
    return sdpa(grouped, keys, values, attn_mask=view.bias).reshape(batch, heads * dim)


def attend_prefill(
    queries: torch.Tensor,
    fresh: torch.Tensor,
    pool_blocks: torch.Tensor,
    segments: Sequence[Segment],
) -> torch.Tensor:
    """Each segment for itself. queries: [T, H, D]; fresh: [T, 2, kv_heads, D]; gives [T, HD]."""
    tokens, heads, dim = queries.shape
    kv_heads = fresh.shape[2]
    out = torch.empty(tokens, heads * dim, device=queries.device, dtype=queries.dtype)
    for segment in segments:
        first, last = segment.first, segment.last
        if segment.blocks is None:
            seen = fresh[first:last]
        else:
            gathered = pool_blocks.index_select(0, segment.blocks).to(queries.dtype)
            # The table's last block may reach beyond the chunk's last token.
            length = _context(segment)
            seen = gathered.view(-1, 2, kv_heads, dim)[:length]
        keys, values = (
            part.transpose(0, 1).unsqueeze(1).expand(-1, heads // kv_heads, -1, -1)
            for part in seen.unbind(1)
        )
        grouped = queries[first:last].view(-1, kv_heads, heads // kv_heads, dim)
        mixed = sdpa(
            grouped.permute(1, 2, 0, 3),
            keys,
            values,
            attn_mask=segment.bias,
            is_causal=segment.bias is None,
        )
        out[first:last].view(-1, kv_heads, heads // kv_heads, dim).copy_(mixed.permute(2, 0, 1, 3))
    return out


def _context(segment: Segment) -> int | None:
    return None if segment.bias is None else segment.bias.shape[-1]
