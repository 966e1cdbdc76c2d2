"""The trained predictor of answer lengths: a small classifier, computed by numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rondo.lengths import features
from rondo.lengths.classes import LengthClasses, LengthDistribution

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthNet:
    """Weights. Shapes by B bags, n buckets, width d, hidden h, K classes, F = B * d + 2 inputs.

    Attributes:
        embedding: [B, n, d]; a bag is the sum of its buckets' rows over the root of their number.
        hidden, hidden_bias: [h, F], [h], before a ReLU. output, output_bias: [K, h], [K].
        scales: [4, 2]: mean, deviation, least and most of the two numbers in training. What is
            outside is taken as the nearest known, for nothing was learned about it.
    """

    embedding: Floats
    hidden: Floats
    hidden_bias: Floats
    output: Floats
    output_bias: Floats
    scales: Floats

    def logits(self, buckets: Sequence[features.Buckets], numbers: Floats) -> Floats:
        """Of one prompt, shape [K]."""
        mean, deviation, least, most = self.scales
        inputs = [
            rows[found].sum(axis=0) / np.sqrt(np.float32(len(found)))
            for rows, found in zip(self.embedding, buckets, strict=True)
        ]
        inputs.append((np.clip(numbers, least, most) - mean) / deviation)
        inner = np.maximum(self.hidden @ np.concatenate(inputs) + self.hidden_bias, 0)
        logits: Floats = self.output @ inner + self.output_bias
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was learned on answers that were kept out of the training.

    Attributes:
        temperature: the logits are divided by it.
        levels: ascending from 0 to 1: of the answers, the share levels[i] was no longer than what
            the classifier gave the chance i / (len - 1).
    """

    temperature: float = 1.0
    levels: Doubles

    def cumulative(self, logits: npt.NDArray[np.floating]) -> Doubles:
        """From logits [..., K] to the chances [..., K + 1] of at most each edge."""
        scaled = logits.astype(np.float64) / self.temperature
        scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        sums = np.cumsum(scaled, axis=-1)
        raw = sums / sums[..., -1:]
        known = np.linspace(0.0, 1.0, len(self.levels))
        level = np.interp(raw, known, self.levels)
        return np.concatenate([np.zeros_like(level[..., :1]), level], axis=-1)


def uncalibrated() -> Calibration:
    """The classifier is taken by its word."""
    return Calibration(levels=np.array([0.0, 1.0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthModel:
    """A predictor for one model's tokens. `orders` and `recent` as in `features.bags`."""

    net: LengthNet
    classes: LengthClasses
    calibration: Calibration
    orders: int
    recent: int

    def buckets(self, prompt: Sequence[int]) -> list[features.Buckets]:
        """What the classifier sees of a prompt's tokens."""
        num_buckets = self.net.embedding.shape[1]
        return features.bags(prompt, self.orders, num_buckets, self.recent)

    def logits(self, prompt: Sequence[int], max_tokens: int) -> Floats:
        """Of the classes, shape [K], before calibration."""
        return self.net.logits(self.buckets(prompt), features.numbers(len(prompt), max_tokens))

    def predict(self, prompt: Sequence[int], max_tokens: int) -> LengthDistribution:
        """How long the answer to `prompt` may be, were there no limit.

        Args:
            prompt: token ids, at least one.
            max_tokens: what the client asks for at most: it tells of what is expected.
        """
        cumulative = self.calibration.cumulative(self.logits(prompt, max_tokens))
        return LengthDistribution(self.classes, tuple(cumulative.tolist()))
