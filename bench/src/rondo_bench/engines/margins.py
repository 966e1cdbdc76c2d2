"""How clear greedy answers are: those that hang on rounding prove nothing about an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def keep_margins(margins: dict[str, float], logits: Mapping[str, torch.Tensor]) -> None:
    """Keeps by request the smallest lead that a token's logit had over the next best one's.

    Args:
        logits: those of a step's new tokens, by request: (vocabulary,).
    """
    for request_id, each in logits.items():
        best, second = each.topk(2).values.tolist()
        lead = best - second
        margins[request_id] = min(lead, margins.get(request_id, lead))
