"""Spatial against temporal intensity: when to go back to prefill (TD-Pipe, section 3.4).

As requests end, the decode batches shrink and use the device worse: spatial intensity is what a
batch of b brings in a unit of time, over the best that any batch brings. A prefill phase costs
bubbles where long steps follow short ones: temporal intensity is the share of the next prefill
phase that is work. It pays to go back once the first is below the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rondo.types import LatencyModel


@dataclass(slots=True)
class NextPrefill:
    """The next prefill phase as simulated: its time on the whole model, and its longest step's."""

    total_s: float = 0.0
    longest_s: float = 0.0


class Intensity:
    """Compares the two losses for a pipeline of `num_stages` stages.

    reference_batch: sequences that saturate a stage.
    """

    def __init__(self, latency: LatencyModel, num_stages: int, reference_batch: int) -> None:
        self._latency = latency
        self._num_stages = num_stages
        self._reference = reference_batch

    def spatial(self, batch: int, context: float) -> float:
        """Tokens a second of `batch` sequences of `context` tokens, over the reference's; 0 to 1.

        The reading of the KV is a cost of each sequence, whatever the batch; it is in both.
        """
        if batch < 1:
            return 0.0
        return min(1.0, self._rate(batch, context) / self._rate(self._reference, context))

    def temporal(self, phase: NextPrefill, decode_s: float) -> float:
        """Share of a prefill phase that is work, when decode steps of `decode_s` (on one stage)
        come after it."""
        stages = self._num_stages
        bubble_s = max(0.0, phase.longest_s / stages - decode_s) * (stages - 1)
        length_s = (phase.total_s + phase.longest_s * (stages - 1)) / stages
        return (length_s - bubble_s) / length_s if length_s > 0 else 0.0

    def decode_s(self, batch: int, context: float) -> float:
        """Seconds of a decode step on one stage."""
        return self._latency.step_s(0, 0, batch, round(batch * context)) / self._num_stages

    def simulate(self, prompts: Iterable[int], step_tokens: int) -> NextPrefill:
        """A prefill phase of whole prompts, packed into steps of `step_tokens` tokens."""
        phase = NextPrefill()
        tokens = pairs = 0
        for prompt in prompts:
            if tokens and tokens + prompt > step_tokens:
                self._end_step(phase, tokens, pairs)
                tokens = pairs = 0
            tokens += prompt
            pairs += prompt * prompt
        if tokens:
            self._end_step(phase, tokens, pairs)
        return phase

    def _end_step(self, phase: NextPrefill, tokens: int, pairs: int) -> None:
        step_s = self._latency.step_s(tokens, pairs, 0, 0)
        phase.total_s += step_s
        phase.longest_s = max(phase.longest_s, step_s)

    def _rate(self, batch: int, context: float) -> float:
        return batch / self._latency.step_s(0, 0, batch, round(batch * context))
