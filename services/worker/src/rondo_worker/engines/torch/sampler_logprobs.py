"""Logprobs of a step's rows, computed for all of them at once and packed for the bus.

They are of the model's own distribution: log-softmax of the logits before anything changes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rondo.logprobs import Logprobs
from rondo_worker.engines.torch.transfer import to_device

#: Rows whose log-softmax is held at a time: for a prompt, a bound on the memory it takes.
SLICE_ROWS = 256


def pack_rows(logits: torch.Tensor, tokens: torch.Tensor, num_top: int) -> Logprobs:
    """Logprobs of `tokens` [rows] and the best `num_top`, by logits [rows, vocabulary]."""
    own: list[float] = []
    ids: list[int] = []
    best: list[float] = []
    for begin in range(0, logits.shape[0], SLICE_ROWS):
        part = logits[begin : begin + SLICE_ROWS].float()
        total = part.logsumexp(-1, keepdim=True)
        chosen = part.gather(1, tokens[begin : begin + SLICE_ROWS].unsqueeze(1)) - total
        own += chosen.squeeze(1).tolist()
        if num_top:
            top = part.topk(min(num_top, part.shape[1]), dim=-1)
            ids += top.indices.flatten().tolist()
            best += (top.values - total).flatten().tolist()
    return Logprobs.pack(min(num_top, logits.shape[1]), own, ids, best)


def pack_each(
    logits: torch.Tensor, tokens: torch.Tensor, wanted: Sequence[tuple[int, int]]
) -> list[Logprobs]:
    """One row of logprobs for each (row, num_top) of `wanted`, computed together."""
    rows = to_device([row for row, _ in wanted], logits.device)
    most = max(num_top for _, num_top in wanted)
    packed = pack_rows(logits[rows], tokens[rows], most)
    return [packed.at(index, num_top) for index, (_, num_top) in enumerate(wanted)]
