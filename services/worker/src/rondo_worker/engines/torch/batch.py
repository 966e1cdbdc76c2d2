"""Turns a step plan into the tensors that the model needs.

All integers of a step travel to the device in one copy. Masks are built there, once a step and
attention window, and shared by the layers.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rondo.policy.plan import PlanItem
from rondo_worker.engines.sequences import LiveSequence


@dataclass(frozen=True, slots=True)
class DecodeView:
    """What every sequence of a decode step sees: padded block rows and an additive mask.

    `blocks` is [batch * width]; `bias` is [batch, 1, 1, width * block_size], or None when there is
    nothing to hide.
    """

    blocks: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Segment:
    """One prompt's rows `first .. last` of a packed prefill step.

    `blocks` is None when nothing is cached before it: its keys and values are then taken from the
    step itself. `bias` is [rows, context], or None for plain causal attention.
    """

    first: int
    last: int
    blocks: torch.Tensor | None
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One packed step. `last_rows` selects the rows that need logits; None means all of them.

    `decode` and `segments` are keyed by attention window (None: everything is seen); one of the
    two is empty.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    last_rows: torch.Tensor | None
    decode: dict[int | None, DecodeView]
    segments: dict[int | None, list[Segment]]


class BatchBuilder:
    """Builds step inputs for one device, block size and set of attention windows."""

    def __init__(
        self,
        windows: Sequence[int | None],
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._windows = list(dict.fromkeys(windows))
        self._block_size = block_size
        self._device = device
        self._dtype = dtype

    def decode(self, items: Sequence[PlanItem], rows: Sequence[LiveSequence]) -> StepInputs:
        """One new token for each item."""
        size = self._block_size
        starts = [item.start for item in items]
        parts = [
            [row.tokens[start] for row, start in zip(rows, starts, strict=True)],
            starts,
            [item.blocks[item.start // size] * size + item.start % size for item in items],
            *(self._padded_tables(items, window) for window in self._windows),
        ]
        tokens, positions, slots, *tables = self._send(parts)
        views = {
            window: self._decode_view(items, window, positions, table)
            for window, table in zip(self._windows, tables, strict=True)
        }
        return StepInputs(tokens, positions, slots, None, views, {})

    def prefill(self, items: Sequence[PlanItem], rows: Sequence[LiveSequence]) -> StepInputs:
        """A chunk of tokens for each item, packed one after the other."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        last_rows: list[int] = []
        for item, row in zip(items, rows, strict=True):
            end = item.start + item.num_tokens
            tokens += row.tokens[item.start : end]
            positions += range(item.start, end)
            slots += self._slots(item)
            if end == len(row.tokens):
                last_rows.append(len(tokens) - 1)
        pairs = [(item, window) for window in self._windows for item in items]
        tables = [self._seen_blocks(item, window) for item, window in pairs]
        sent = self._send([tokens, positions, slots, last_rows, *tables])
        segments: dict[int | None, list[Segment]] = {window: [] for window in self._windows}
        for (item, window), table in zip(pairs, sent[4:], strict=True):
            line = segments[window]
            line.append(self._segment(item, window, table, line[-1].last if line else 0))
        return StepInputs(sent[0], sent[1], sent[2], sent[3], {}, segments)

    def _send(self, parts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        packed = array("q")
        for part in parts:
            packed.extend(part)
        whole = torch.frombuffer(packed, dtype=torch.int64).to(self._device)
        return list(whole.split([len(part) for part in parts]))

    def _slots(self, item: PlanItem) -> list[int]:
        size = self._block_size
        first, end = item.start // size, item.start + item.num_tokens
        slots: list[int] = []
        for block in item.blocks[first : -(-end // size)]:
            slots += range(block * size, (block + 1) * size)
        skip = item.start - first * size
        return slots[skip : skip + item.num_tokens]

    def _first_block(self, start: int, window: int | None) -> int:
        """The first block that a token at `start` still sees."""
        return 0 if window is None else max(0, start - window + 1) // self._block_size

    def _seen_blocks(self, item: PlanItem, window: int | None) -> Sequence[int]:
        if item.start == 0:
            return ()
        end = item.start + item.num_tokens
        first = self._first_block(item.start, window)
        return item.blocks[first : -(-end // self._block_size)]

    def _segment(
        self, item: PlanItem, window: int | None, blocks: torch.Tensor, first: int
    ) -> Segment:
        last = first + item.num_tokens
        if item.start == 0 and (window is None or item.num_tokens <= window):
            return Segment(first, last, None, None)
        base = self._first_block(item.start, window) * self._block_size
        end = item.start + item.num_tokens
        seen = torch.arange(base, end, device=self._device)
        own = torch.arange(item.start, end, device=self._device).unsqueeze(1)
        bias = self._bias(seen > own if window is None else (seen > own) | (seen <= own - window))
        return Segment(first, last, blocks if item.start else None, bias)

    def _padded_tables(self, items: Sequence[PlanItem], window: int | None) -> list[int]:
        size = self._block_size
        tables = [
            item.blocks[self._first_block(item.start, window) : item.start // size + 1]
            for item in items
        ]
        width = max(map(len, tables))
        padded: list[int] = []
        for table in tables:
            padded += table
            if len(table) < width:
                # Any block will do: the mask hides it.
                padded += [0] * (width - len(table))
        return padded

    def _decode_view(
        self,
        items: Sequence[PlanItem],
        window: int | None,
        positions: torch.Tensor,
        blocks: torch.Tensor,
    ) -> DecodeView:
        length = blocks.shape[0] // len(items) * self._block_size
        if window is None:
            if all(item.start == length - 1 for item in items):
                return DecodeView(blocks, None)
            newest, oldest = positions.unsqueeze(1), None
        else:
            bases = [self._first_block(item.start, window) * self._block_size for item in items]
            offset = positions - self._send([bases])[0] if any(bases) else positions
            newest = offset.unsqueeze(1)
            oldest = newest - window
        seen = torch.arange(length, device=self._device)
        hidden = seen > newest if oldest is None else (seen > newest) | (seen <= oldest)
        return DecodeView(blocks, self._bias(hidden)[:, None, None, :])

    def _bias(self, hidden: torch.Tensor) -> torch.Tensor:
        bias = torch.zeros(hidden.shape, device=self._device, dtype=self._dtype)
        return bias.masked_fill_(hidden, float("-inf"))
