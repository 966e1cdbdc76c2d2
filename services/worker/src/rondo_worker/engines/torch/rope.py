"""Rotary position embeddings as one complex multiplication.

A pair of dimensions (i, i + D/2) is a complex number that turns by position times frequency. The
rows of the query and key projections are reordered at load time so that such a pair is adjacent
in memory; scores are dot products of both, so the order does not change them.
"""

from __future__ import annotations

import math

import torch

from rondo_worker.engines.hf_rope import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """Radians a position, for each pair of dimensions; float32, shape [head_dim / 2]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / rope.theta**exponents
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, frequencies)
    if rope.kind == "yarn":
        return _yarn(rope, frequencies, head_dim)
    return frequencies


def rotation_table(
    rope: RopeConfig, head_dim: int, num_positions: int, device: torch.device
) -> torch.Tensor:
    """Unit complex numbers (times YaRN's factor), complex64, shape [num_positions, 1, D / 2]."""
    positions = torch.arange(num_positions, dtype=torch.float32)
    angles = torch.outer(positions, inverse_frequencies(rope, head_dim))
    magnitude = torch.full_like(angles, rope.attention_factor)
    return torch.polar(magnitude, angles).unsqueeze(1).to(device)


def pair_up(rows: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Reorders each head's rows from halves to adjacent pairs; any trailing shape."""
    heads = rows.view(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


def rotate_(heads: torch.Tensor, rotations: torch.Tensor) -> None:
    """Turns `heads` [T, heads, D] in place by `rotations` [T, 1, D / 2]; always in float32."""
    pairs = heads.unflatten(-1, (-1, 2))
    if heads.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(rotations)
        return
    turned = torch.view_as_complex(pairs.float()).mul_(rotations)
    pairs.copy_(torch.view_as_real(turned))


def _llama3(rope: RopeConfig, frequencies: torch.Tensor) -> torch.Tensor:
    """Long waves are stretched by `factor`, short ones kept, those between interpolated."""
    turns = rope.original_positions * frequencies / (2 * math.pi)
    low, high = rope.low_freq_factor, rope.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - keep) * frequencies / rope.factor + keep * frequencies


def _yarn(rope: RopeConfig, frequencies: torch.Tensor, head_dim: int) -> torch.Tensor:
    """YaRN (arXiv 2309.00071), section 3.2: a ramp over dimensions from keeping to stretching."""

    def dimension_of(num_rotations: float) -> float:
        waves = rope.original_positions / (num_rotations * 2 * math.pi)
        return head_dim * math.log(waves) / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    span = (high - low) or 0.001
    steps = torch.arange(head_dim // 2, dtype=torch.float32)
    stretch = ((steps - low) / span).clamp(0.0, 1.0)
    return frequencies * (1 - stretch) + frequencies / rope.factor * stretch
