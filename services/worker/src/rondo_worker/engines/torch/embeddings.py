"""Embeddings of prompts whose last chunk a step computes, from its final hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from rondo.policy.plan import StepPlan
from rondo.wire.codec import pack_floats
from rondo_worker.engines.sequences import LiveSequence
from rondo_worker.engines.torch.sampler_step import lines_of
from rondo_worker.engines.torch.transfer import to_device


def embeddings_of(
    plan: StepPlan, rows: Sequence[LiveSequence], states: torch.Tensor
) -> dict[str, bytes]:
    """The packed embedding of each prompt that asks for one and is complete with this step.

    Args:
        states: [rows, hidden], after the last norm, of the rows that need logits.
    """
    done = [
        line
        for line in lines_of(plan, rows)[: len(plan.chunks)]
        if line.done and line.row.request.sampling.embed
    ]
    if not done:
        return {}
    last = to_device([line.end - 1 for line in done], states.device, torch.long)
    vectors = F.normalize(states[last].float(), dim=-1).tolist()
    return {
        line.item.request_id: pack_floats(vector)
        for line, vector in zip(done, vectors, strict=True)
    }
