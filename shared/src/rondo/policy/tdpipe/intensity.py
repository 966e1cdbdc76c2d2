"""Spatial against temporal intensity: when to go back to prefill (TD-Pipe, section 3.4).

As requests end, the decode batches shrink and use the device worse: spatial intensity is what a
batch of b brings in a unit of time, over the best that any batch brings. A prefill phase costs
bubbles where long steps follow short ones: temporal intensity is the share of the next prefill
phase that is work. It pays to go back once the first is below the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rondo.types import LatencyModel


@dataclass(slots=True)
class NextPrefill:
    """The next prefill phase as simulated: its time on the whole model, and its longest step's;
    `wasted_s` of it is what its tokens would save in steps that are full."""

    total_s: float = 0.0
    longest_s: float = 0.0
    wasted_s: float = 0.0


class Intensity:
    """Compares the two losses for a pipeline of `num_stages` stages."""

    def __init__(self, latency: LatencyModel, num_stages: int) -> None:
        self._latency = latency
        self._num_stages = num_stages

    def spatial(self, batch: int, context: float, saturated: int) -> float:
        """Tokens a second of `batch` sequences of `context` tokens, over those of a batch of
        `saturated`; 0 to 1.

        The reading of the KV is a cost of each sequence, whatever the batch; it is in both.
        """
        if batch < 1:
            return 0.0
        return min(1.0, self._rate(batch, context) / self._rate(saturated, context))

    def temporal(self, phase: NextPrefill, decode_s: float) -> float:
        """Share of a prefill phase that is work, when decode steps of `decode_s` (on one stage)
        come after it."""
        stages = self._num_stages
        bubble_s = max(0.0, phase.longest_s / stages - decode_s) * (stages - 1)
        length_s = (phase.total_s + phase.longest_s * (stages - 1)) / stages
        lost_s = bubble_s + phase.wasted_s / stages
        return (length_s - lost_s) / length_s if length_s > 0 else 0.0

    def decode_s(self, batch: int, context: float) -> float:
        """Seconds of a decode step on one stage."""
        return self._latency.step_s(0, 0, batch, round(batch * context)) / self._num_stages

    def simulate(
        self, prompts: Iterable[int], step_tokens: int, *, split: bool = False
    ) -> NextPrefill:
        """A prefill phase of prompts packed into steps of `step_tokens` tokens: whole ones, whose
        waste is not counted, or `split` such that all steps but the last are full."""
        phase = NextPrefill()
        packed = _split(prompts, step_tokens) if split else _whole(prompts, step_tokens)
        full_s = self._latency.step_s(step_tokens, 0, 0, 0) if split else 0.0
        for tokens, pairs in packed:
            step_s = self._latency.step_s(tokens, pairs, 0, 0)
            phase.total_s += step_s
            phase.longest_s = max(phase.longest_s, step_s)
            if split and tokens < step_tokens:
                phase.wasted_s = max(0.0, step_s - full_s * tokens / step_tokens)
        return phase

    def _rate(self, batch: int, context: float) -> float:
        return batch / self._latency.step_s(0, 0, batch, round(batch * context))


def _whole(prompts: Iterable[int], step_tokens: int) -> Iterator[tuple[int, int]]:
    """Tokens and pairs of each step; a prompt that is longer than a step goes alone."""
    tokens = pairs = 0
    for prompt in prompts:
        if tokens and tokens + prompt > step_tokens:
            yield tokens, pairs
            tokens = pairs = 0
        tokens += prompt
        pairs += prompt * prompt
    if tokens:
        yield tokens, pairs


def _split(prompts: Iterable[int], step_tokens: int) -> Iterator[tuple[int, int]]:
    """Tokens and pairs of each step; what a prompt has too many goes into the next one."""
    tokens = pairs = 0
    for prompt in prompts:
        done = 0
        while done < prompt:
            end = min(prompt, done + step_tokens - tokens)
            tokens += end - done
            pairs += end * end - done * done
            done = end
            if tokens == step_tokens:
                yield tokens, pairs
                tokens = pairs = 0
    if tokens:
        yield tokens, pairs
