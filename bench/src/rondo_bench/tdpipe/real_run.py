"""One run of a scheduler over the real pipeline engine, and what its stages did meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rondo.errors import InvariantError
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.tdpipe import PipeScheduler, PipeStep
from rondo_bench.engines.margins import keep_margins
from rondo_bench.tdpipe.pipeline import idle_share
from rondo_bench.tdpipe.real_setup import RealRequest
from rondo_worker.engines.pipeline import PipelineEngine, StageSpan
from rondo_worker.engines.torch import TorchEngine

Texts = dict[str, list[int]]

#: A step that takes longer is taken for a hang.
STEP_LIMIT_S = 120.0


@dataclass(slots=True)
class RealRun:
    """What one run did. Instants are of CLOCK_MONOTONIC; `spans` has one list a stage."""

    began_s: float = 0.0
    duration_s: float = 0.0
    prompts_done_s: float = 0.0
    """When the last prompt had been prefilled: from then on the pipeline drains."""
    num_switches: int = 0
    num_recomputed: int = 0
    num_steps: int = 0
    texts: Texts = field(default_factory=dict)
    spans: list[list[StageSpan]] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of answers a second."""
        return sum(map(len, self.texts.values())) / self.duration_s

    @property
    def bubble_share(self) -> float:
        """Share of the stages' time without work, between ramp-up and drain; see `idle_share`."""
        stages = ([(step.begin_s, step.end_s) for step in line] for line in self.spans)
        return idle_share(stages, self.prompts_done_s)


def run_pipeline(
    engine: PipelineEngine, scheduler: PipeScheduler, requests: Sequence[RealRequest]
) -> RealRun:
    """Serves all requests, which are there from the beginning.

    Raises:
        EngineError: a step failed.
        InvariantError: the scheduler refused a request, or stopped with work left.
    """
    run = RealRun(texts={each.request.request_id: [] for each in requests})
    for order, each in enumerate(requests):
        engine.add(each.request)
        if refused := scheduler.add(each.job(order)):
            raise InvariantError(f"{each.request.request_id} {refused}")
    engine.take_timelines()
    run.began_s = time.monotonic()
    _drive(engine, scheduler, run)
    run.duration_s = time.monotonic() - run.began_s
    run.spans = engine.take_timelines()
    run.num_switches = scheduler.num_phase_switches
    run.num_recomputed = scheduler.num_preempted
    return run


def _drive(engine: PipelineEngine, scheduler: PipeScheduler, run: RealRun) -> None:
    steps: deque[PipeStep] = deque()
    while scheduler.has_work:
        while (step := scheduler.next_step(time.monotonic())) is not None:
            engine.submit(step.plan)
            steps.append(step)
        if not steps:
            raise InvariantError("the scheduler stopped with requests left")
        done = engine.take(STEP_LIMIT_S)
        if done is None:
            raise InvariantError(f"a step took over {STEP_LIMIT_S:g} s")
        if done.error:
            raise done.error
        run.num_steps += 1
        for request_id, token in done.tokens.items():
            run.texts[request_id].append(token)
        now_s = time.monotonic()
        outcome = scheduler.on_step_done(steps.popleft(), now_s)
        if outcome.prefilled:
            run.prompts_done_s = now_s
        for finished in outcome.finished:
            engine.remove(finished.request_id)


@dataclass(frozen=True, slots=True)
class Reference:
    """What one process makes of the requests. `margins`: see `keep_margins`."""

    texts: Texts
    margins: dict[str, float]


def reference(engine: TorchEngine, requests: Sequence[RealRequest], max_running: int) -> Reference:
    """The greedy texts of an engine that runs one step at a time, under the instance scheduler."""
    spec = engine.spec
    scheduler = InstanceScheduler(
        KvLedger(spec.num_blocks, spec.block_size),
        max_running=max_running,
        max_prefill_tokens=spec.max_model_len,
    )
    texts: Texts = {}
    margins: dict[str, float] = {}
    for order, each in enumerate(requests):
        engine.add(each.request)
        scheduler.add(each.job(order))
        texts[each.request.request_id] = []
    scheduler.grant(1, list(texts), float("inf"), 0.0)
    while (plan := scheduler.plan(0.0)) is not None:
        outcome = scheduler.commit(plan, engine.step(plan))
        keep_margins(margins, engine.last_logits)
        for new in outcome.tokens:
            texts[new.request_id].append(new.token)
        for finished in outcome.finished:
            engine.remove(finished.request_id)
    return Reference(texts, margins)
