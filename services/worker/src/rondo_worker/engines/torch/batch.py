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
    """What every decoding sequence sees: block tables, their own positions, and a mask.

    `tables` is [batch, width], padded; `positions` is [batch]. `bias` is [batch, 1, 1, width *
    block_size], additive, or None when there is nothing to hide or nobody asked for it.
    """

    tables: torch.Tensor
    positions: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Segment:
    """One prompt's rows `first .. last` of a packed step.

    `blocks` is None when nothing is cached before it: its keys and values are then taken from the
    step itself. `bias` is [rows, context], or None for plain causal attention.
    """

    first: int
    last: int
    blocks: torch.Tensor | None
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One packed step: rows of prompt chunks, then one row for each sequence that decodes.

    `num_prompt_rows` is where the second part begins. `last_rows` selects the rows that need
    logits; None means all of them. `segments` and `decode` are keyed by attention window (None:
    everything is seen); either is empty when the step has no such part. `last_view` is what the
    `last_rows` see in the last layer, where each stands at the end of its sequence and attends as a
    decode does; None where they do not, or where no compiled kernel attends.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    num_prompt_rows: int
    last_rows: torch.Tensor | None
    segments: dict[int | None, list[Segment]]
    decode: dict[int | None, DecodeView]
    last_view: DecodeView | None = None


class BatchBuilder:
    """Builds step inputs.

    Args:
        windows: of the model's layers. block_size: tokens in a KV block.
        device, dtype: of masks; dtype is that of queries.
        trim_tables: leave out blocks before the window and mask the rest, for attention that
            gathers what it sees; else tables begin at token 0 and there is no mask for decodes.
    """

    def __init__(
        self,
        windows: Sequence[int | None],
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        trim_tables: bool,
    ) -> None:
        self._windows = list(dict.fromkeys(windows))
        self._block_size = block_size
        self._device = device
        self._dtype = dtype
        self._trim = trim_tables

    def build(
        self,
        chunks: Sequence[PlanItem],
        decodes: Sequence[PlanItem],
        rows: Sequence[LiveSequence],
    ) -> StepInputs:
        """One step over chunks and decodes; `rows` are their sequences, in this order."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        last_rows: list[int] = []
        for item, row in zip(chunks, rows, strict=False):
            end = item.start + item.num_tokens
            tokens += row.tokens[item.start : end]
            positions += range(item.start, end)
            slots += self._slots(item)
            if row.scores_prompt:
                last_rows += range(len(tokens) - item.num_tokens, len(tokens))
            elif end == len(row.tokens):
                last_rows.append(len(tokens) - 1)
        first = len(tokens)
        size = self._block_size
        for item, row in zip(decodes, rows[len(chunks) :], strict=True):
            tokens.append(row.tokens[item.start])
            positions.append(item.start)
            slots.append(item.blocks[item.start // size] * size + item.start % size)
        if chunks:
            last_rows += range(first, len(tokens))
        pairs = [(item, window) for window in self._windows for item in chunks]
        tables = [self._seen_blocks(item, window) for item, window in pairs]
        views = self._table_windows() if decodes else []
        tables += [self._padded_tables(decodes, window) for window in views]
        ends = self._ends(chunks, decodes, rows) if chunks else None
        last_table = self._padded_tables(ends, None) if ends else ()
        sent = self._send([tokens, positions, slots, last_rows, last_table, *tables])
        return StepInputs(
            sent[0],
            sent[1],
            sent[2],
            first,
            sent[3] if chunks else None,
            self._segments(pairs, sent[5 : 5 + len(pairs)]),
            self._decode_views(decodes, sent[1][first:], sent[5 + len(pairs) :]),
            None if ends is None else self._last_view(sent[1], sent[3], sent[4]),
        )

    def _ends(
        self,
        chunks: Sequence[PlanItem],
        decodes: Sequence[PlanItem],
        rows: Sequence[LiveSequence],
    ) -> list[PlanItem] | None:
        """The tokens that need logits, if each is the last one of its sequence."""
        if self._trim or any(row.scores_prompt for row in rows[: len(chunks)]):
            return None
        ends = [
            PlanItem(item.request_id, len(row.tokens) - 1, 1, item.blocks)
            for item, row in zip(chunks, rows, strict=False)
            if item.start + item.num_tokens == len(row.tokens)
        ]
        return [*ends, *decodes]

    @staticmethod
    def _last_view(
        positions: torch.Tensor, last_rows: torch.Tensor, table: torch.Tensor
    ) -> DecodeView:
        own = positions.index_select(0, last_rows)
        return DecodeView(table.view(len(own), -1) if len(own) else table, own, None)

    def _send(self, parts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        packed = array("q")
        for part in parts:
            packed.extend(part)
        whole = torch.frombuffer(packed, dtype=torch.int64)
        if self._device.type == "cuda":
            # From pinned memory the copy does not hold up the host.
            whole = whole.pin_memory().to(self._device, non_blocking=True)
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

    def _segments(
        self, pairs: Sequence[tuple[PlanItem, int | None]], tables: Sequence[torch.Tensor]
    ) -> dict[int | None, list[Segment]]:
        segments: dict[int | None, list[Segment]] = {}
        for (item, window), table in zip(pairs, tables, strict=True):
            line = segments.setdefault(window, [])
            line.append(self._segment(item, window, table, line[-1].last if line else 0))
        return segments

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

    def _table_windows(self) -> list[int | None]:
        return self._windows if self._trim else [None]

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
                # Any block will do: it is masked, or lies behind the last position.
                padded += [0] * (width - len(table))
        return padded

    def _decode_views(
        self, items: Sequence[PlanItem], positions: torch.Tensor, tables: Sequence[torch.Tensor]
    ) -> dict[int | None, DecodeView]:
        if not items:
            return {}
        grids = [table.view(len(items), -1) for table in tables]
        if not self._trim:
            return dict.fromkeys(self._windows, DecodeView(grids[0], positions, None))
        return {
            window: DecodeView(grid, positions, self._decode_bias(items, window, positions, grid))
            for window, grid in zip(self._windows, grids, strict=True)
        }

    def _decode_bias(
        self,
        items: Sequence[PlanItem],
        window: int | None,
        positions: torch.Tensor,
        tables: torch.Tensor,
    ) -> torch.Tensor | None:
        length = tables.shape[1] * self._block_size
        if window is None:
            if all(item.start == length - 1 for item in items):
                return None
            newest, oldest = positions.unsqueeze(1), None
        else:
            bases = [self._first_block(item.start, window) * self._block_size for item in items]
            offset = positions - self._send([bases])[0] if any(bases) else positions
            newest = offset.unsqueeze(1)
            oldest = newest - window
        seen = torch.arange(length, device=self._device)
        hidden = seen > newest if oldest is None else (seen > newest) | (seen <= oldest)
        return self._bias(hidden)[:, None, None, :]

    def _bias(self, hidden: torch.Tensor) -> torch.Tensor:
        bias = torch.zeros(hidden.shape, device=self._device, dtype=self._dtype)
        return bias.masked_fill_(hidden, float("-inf"))
