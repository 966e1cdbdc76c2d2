"""A simulated pipeline: a real scheduler, whose stages take the time that a latency model says."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rondo.errors import InvariantError
from rondo.policy.plan import Job
from rondo.policy.tdpipe import PipeScheduler, PipeStep
from rondo.types import LatencyModel


@dataclass(slots=True)
class PipeRecord:
    """What a run of a pipeline did; all instants and spans in virtual seconds."""

    duration_s: float = 0.0
    num_steps: int = 0
    tokens_out: int = 0
    tokens_in: int = 0
    prompts_done_s: float = 0.0
    """When the last prompt had been prefilled: from then on the pipeline drains."""
    spans: list[list[tuple[float, float]]] = field(default_factory=list)
    """What each stage worked on, in order: (begin, end)."""


class SimPipeline:
    """P stages, each a P-th of the model. Activations reach the next stage `hop_s_per_token` times
    their tokens later, without holding a stage up."""

    def __init__(
        self, scheduler: PipeScheduler, latency: LatencyModel, hop_s_per_token: float = 0.0
    ) -> None:
        self._scheduler = scheduler
        self._latency = latency
        self._hop_s = hop_s_per_token
        self._free_s = [0.0] * scheduler.num_stages
        self._in_flight: deque[tuple[float, PipeStep]] = deque()
        self.record = PipeRecord(spans=[[] for _ in range(scheduler.num_stages)])

    def run(self, jobs: Sequence[Job]) -> PipeRecord:
        """Serves all jobs, which are there from the beginning.

        Raises:
            InvariantError: a request was refused, or the scheduler stopped with work left.
        """
        for job in jobs:
            if refused := self._scheduler.add(job):
                raise InvariantError(f"{job.request_id} {refused}")
        now_s, num_left = 0.0, len(jobs)
        while num_left:
            while (step := self._scheduler.next_step(now_s)) is not None:
                self._send(step, now_s)
            if not self._in_flight:
                raise InvariantError(f"the scheduler stopped with {num_left} requests left")
            now_s, step = self._in_flight.popleft()
            outcome = self._scheduler.on_step_done(step, now_s)
            if outcome.prefilled:
                self.record.prompts_done_s = now_s
            self.record.tokens_out += sum(each.tokens_out for each in outcome.finished)
            num_left -= len(outcome.finished)
        self.record.duration_s = now_s
        return self.record

    def _send(self, step: PipeStep, now_s: float) -> None:
        plan = step.plan
        tokens = plan.prompt_tokens
        stages = len(self._free_s)
        took_s = (
            self._latency.step_s(tokens, plan.pairs, plan.num_decodes, plan.context_tokens) / stages
        )
        hop_s = self._hop_s * (tokens + plan.num_decodes)
        ready_s = now_s
        for stage, free_s in enumerate(self._free_s):
            began_s = max(ready_s, free_s)
            self._free_s[stage] = began_s + took_s
            self.record.spans[stage].append((began_s, began_s + took_s))
            ready_s = began_s + took_s + hop_s
        self._in_flight.append((self._free_s[-1], step))
        self.record.num_steps += 1
        self.record.tokens_in += tokens


def bubble_share(record: PipeRecord) -> float:
    """Share of the stages' time without work, between ramp-up and drain; see `idle_share`."""
    return idle_share(record.spans, record.prompts_done_s)


def idle_share(stages: Iterable[Sequence[tuple[float, float]]], prompts_done_s: float) -> float:
    """Share of the stages' time without work, from their steps' begins and ends.

    For each stage from its first step's begin to the end of its last step that began before the
    last prompt had been prefilled.
    """
    idle_s = total_s = 0.0
    for spans in stages:
        inside = [span for span in spans if span[0] < prompts_done_s]
        if not inside:
            continue
        length_s = inside[-1][1] - inside[0][0]
        total_s += length_s
        idle_s += length_s - sum(end_s - began_s for began_s, end_s in inside)
    return idle_s / total_s if total_s else 0.0
