"""Decode steps as CUDA graphs: one launch for a whole step, for batches of a few sizes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from rondo_worker.engines.torch.batch import DecodeView, StepInputs
from rondo_worker.engines.torch.kv_pool import KvPool
from rondo_worker.engines.torch.model import DecoderModel

log = logging.getLogger("rondo.worker.torch")

#: Sequences in a recorded step. A batch is padded to the next size; above the last one, kernels
#: are launched one by one, which takes less time than they do.
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
#: Steps before one is recorded: libraries choose their kernels and take their workspaces there.
WARM_UP_STEPS = 2


class DecodeGraphs:
    """Computes decode steps in tensors of fixed place, recorded once for each size of batch.

    Rows that pad a batch are sequences of one token in a block of their own, which no request has:
    what they store is nobody's. On a CPU, where nothing can be recorded, the same padded steps are
    computed as they come; so the tests see all but the recording.

    Args:
        forward: logits [rows, vocabulary] of step inputs.
        windows: attention windows of the model's layers.
        width: blocks of the longest sequence.
        spare_block: the block that padding rows use. spare_slot: its first slot.
        device: of everything.
    """

    def __init__(
        self,
        forward: Callable[[StepInputs], torch.Tensor],
        windows: Sequence[int | None],
        *,
        width: int,
        spare_block: int,
        spare_slot: int,
        device: torch.device,
        buckets: Sequence[int] = BUCKETS,
    ) -> None:
        self._forward = forward
        self._windows = tuple(dict.fromkeys(windows))
        self._buckets = tuple(sorted(buckets))
        rows = self._buckets[-1]
        self._spare = (0, 0, spare_slot)
        self._spare_block = spare_block
        self._rows = torch.empty(3, rows, device=device, dtype=torch.int64)
        self._tables = torch.zeros(rows, width, device=device, dtype=torch.int64)
        self._logits: torch.Tensor | None = None
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pad(0, rows)

    @torch.inference_mode()
    def record(self) -> None:
        """Records all sizes, on CUDA; without enough memory for it, none."""
        if self._rows.device.type != "cuda":
            return
        stream = torch.cuda.Stream(self._rows.device)
        try:
            shared = torch.cuda.graph_pool_handle()
            for bucket in reversed(self._buckets):  # the largest first: the others use its memory
                self._graphs[bucket] = self._record(bucket, stream, shared)
        except RuntimeError as error:
            self._graphs.clear()
            log.warning("no CUDA graphs, decode steps are launched kernel by kernel: %s", error)

    def run(self, inputs: StepInputs) -> torch.Tensor | None:
        """Logits of a step of decodes only, valid until the next one; None: it is too large."""
        count = len(inputs.tokens)
        bucket = next((size for size in self._buckets if size >= count), None)
        if bucket is None:
            return None
        tables = inputs.decode[self._windows[0]].tables
        for static, given in zip(
            self._rows, (inputs.tokens, inputs.positions, inputs.slots), strict=True
        ):
            static[:count].copy_(given)
        self._tables[:count, : tables.shape[1]].copy_(tables)
        self._pad(count, bucket)
        if bucket not in self._graphs or self._logits is None:
            return self._forward(self._inputs(bucket))[:count]
        self._graphs[bucket].replay()
        return self._logits[:count]

    def _record(self, bucket: int, stream: torch.cuda.Stream, shared: Any) -> torch.cuda.CUDAGraph:
        inputs = self._inputs(bucket)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                logits = self._forward(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        if self._logits is None:
            self._logits = torch.empty_like(logits)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's doings are recorded; a worker's others must not disturb them.
        with torch.cuda.graph(graph, shared, stream, capture_error_mode="thread_local"):
            self._logits[:bucket].copy_(self._forward(inputs))
        return graph

    def _inputs(self, bucket: int) -> StepInputs:
        tokens, positions, slots = self._rows[:, :bucket]
        view = DecodeView(self._tables[:bucket], positions, None)
        return StepInputs(tokens, positions, slots, 0, None, {}, dict.fromkeys(self._windows, view))

    def _pad(self, first: int, last: int) -> None:
        if first < last:
            for static, value in zip(self._rows, self._spare, strict=True):
                static[first:last].fill_(value)
            self._tables[first:last, 0].fill_(self._spare_block)


def record_decodes(
    model: DecoderModel, pool: KvPool, windows: Sequence[int | None], max_model_len: int
) -> DecodeGraphs:
    """Decode steps of a model over a pool with a spare block, recorded where that is possible."""
    graphs = DecodeGraphs(
        partial(model.forward, pool=pool),
        windows,
        width=-(-max_model_len // pool.block_size),
        spare_block=pool.num_blocks,
        spare_slot=pool.num_blocks * pool.block_size,
        device=pool.device,
    )
    graphs.record()
    return graphs
