"""From Python's numbers to tensors on the device, without holding up the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Numbers = Sequence[int] | Sequence[float] | Sequence[bool] | Sequence[Sequence[int]]


def to_device(
    values: Numbers, device: torch.device, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """`values` as a tensor on `device`, of `dtype` or the one torch chooses for them.

    A copy from ordinary memory waits until the GPU has done all that was asked before; from pinned
    memory it only takes its place in the queue.
    """
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
