"""The optimizer of rondo-tiny: orthogonalised momentum for matrices, AdamW for the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def orthogonalise(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Push every singular value of a matrix near one with an odd polynomial, applied in rounds."""
    tall = matrix.shape[0] > matrix.shape[1]
    current: Tensor = matrix.T if tall else matrix
    current = current / (current.norm() + 1e-7)
    for _ in range(rounds):
        gram = current @ current.T
        current = 3.4445 * current + (-4.775 * gram + 2.0315 * gram @ gram) @ current
    return current.T if tall else current


class Mixed:
    """Orthogonalised momentum (Muon) for hidden matrices; AdamW for embeddings and vectors."""

    def __init__(self, model: nn.Module, peak: float) -> None:
        """Sort the model's weights into the two kinds; ``peak`` is the matrices' largest rate."""
        named = list(model.named_parameters())
        self.matrices = [w for name, w in named if w.ndim == 2 and "embed" not in name]
        self.others = [w for name, w in named if w.ndim != 2 or "embed" in name]
        self.momenta = [torch.zeros_like(weight) for weight in self.matrices]
        self.peak = peak
        self.adam = torch.optim.AdamW(self.others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Update every weight at a share of the peak rate, then forget the gradients."""
        rate = self.peak * share
        for weight, momentum in zip(self.matrices, self.momenta, strict=True):
            assert weight.grad is not None
            momentum.lerp_(weight.grad, 0.05)
            update = orthogonalise(weight.grad.lerp(momentum, 0.95))
            scale = 0.2 * math.sqrt(max(weight.shape))
            weight.mul_(1 - 0.1 * rate).add_(update, alpha=-rate * scale)
            weight.grad = None
        for group in self.adam.param_groups:
            group["lr"] = self.peak * share
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
