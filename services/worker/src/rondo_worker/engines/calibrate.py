"""Measures a live engine: the step times that a `LatencyProfile` is fitted to.

The engine runs real steps, planned by a real instance scheduler: prefills of growing size, of one
prompt and of several, whole and in chunks; each followed by a few decode steps, some of them beside
the chunks of another prompt. A case that would take too long, or that the pool or the model's
length cannot hold, is left out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rondo.perf.profile import LatencyProfile
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger, blocks_for
from rondo.policy.plan import Job, StepPlan
from rondo.types import Batching, BatchKind, Sampling, Slo
from rondo_worker.engines.base import Engine, EngineRequest, EngineSpec
from rondo_worker.engines.latency_fit import Samples, fit_profile


@dataclass(frozen=True, slots=True)
class Case:
    """`prompts` prompts of `tokens` tokens, prefilled together in `steps` steps, then decoded.

    More than `MAX_STEP_TOKENS` take more steps.
    Beside the decodes another prompt of `beside` tokens is prefilled in two fused steps.
    """

    prompts: int
    tokens: int
    steps: int = 1
    beside: int = 0

    @property
    def work(self) -> int:
        """Prompt tokens in all."""
        return self.prompts * self.tokens + self.beside


#: What a worker runs when it starts, from cheap to dear.
CASES = (
    Case(1, 8),
    Case(8, 16),
    Case(1, 128),
    Case(1, 32),
    Case(4, 16, beside=64),
    Case(4, 16),
    Case(4, 64),
    Case(8, 32, beside=256),
    Case(16, 32),
    Case(1, 512),
    Case(1, 512, 2),
    Case(4, 256),
    Case(16, 32, beside=512),
    Case(1, 2048),
    Case(1, 2048, 2),
    Case(16, 256),
    Case(32, 512),
)
#: The whole grid: prompts alone, whole and in chunks; batches at several contexts; fused steps.
GRID = (
    *CASES[:3],
    *(Case(1, tokens) for tokens in (16, 32, 64, 256)),
    *(Case(2, tokens) for tokens in (16, 128)),
    *(Case(4, tokens) for tokens in (16, 64)),
    *(Case(b, 16, beside=n) for b in (1, 4, 8) for n in (16, 64, 256)),
    *(Case(16, tokens) for tokens in (16, 32)),
    *(Case(b, 64, beside=n) for b in (8, 16) for n in (128, 512)),
    *(Case(1, 512, steps) for steps in (1, 2, 4)),
    *(Case(32, 16, beside=n) for n in (64, 256)),
    Case(1, 1024),
    Case(8, 128),
    Case(4, 256, beside=256),
    *(Case(1, 2048, steps) for steps in (1, 2, 4)),
    Case(64, 32),
    Case(8, 512),
    Case(32, 128, beside=512),
    Case(2, 2048),
    Case(16, 256),
    Case(1, 4000, 2),
    Case(16, 512),
)
#: So many of them are run whatever they take: fewer cannot tell the coefficients apart.
MIN_CASES = 3
DECODE_STEPS = 4
#: Prompt tokens in a step: as many as a worker's take unless it is told otherwise.
MAX_STEP_TOKENS = 4096
#: Another case may take at most this share of the budget, going by what its predecessors took.
CASE_SHARE = 0.25

_SLO = Slo(ttft_s=60.0, tpot_s=60.0)
_BESIDE = "calibrate-beside"


def calibrate(engine: Engine, *, budget_s: float = 2.0) -> LatencyProfile:
    """A profile of an idle engine, measured for about `budget_s` seconds."""
    return fit_profile(engine.spec, measure(engine, budget_s=budget_s))


def measure(engine: Engine, *, budget_s: float, cases: Sequence[Case] = CASES) -> Samples:
    """Step times of an idle engine, which is left empty.

    The cases that fit are run in rounds while time is left; one is run before all others, to warm
    up. On an engine so slow that the budget does not suffice for the first `MIN_CASES`, it is
    exceeded.
    """
    end_s = time.perf_counter() + budget_s
    fitting = [case for case in cases if _fits(engine.spec, case)] or [Case(1, 1)]
    _run_case(engine, fitting[0], Samples())
    samples = Samples()
    cost_s: dict[Case, float] = {}
    progress = True
    while progress:
        progress = False
        for number, case in enumerate(fitting):
            start_s = time.perf_counter()
            limit_s = min(end_s - start_s, CASE_SHARE * budget_s)
            must = case not in cost_s and number < MIN_CASES
            if must or _forecast_s(case, cost_s) <= limit_s:
                _run_case(engine, case, samples)
                cost_s[case] = time.perf_counter() - start_s
                progress = True
    return samples


def _fits(spec: EngineSpec, case: Case) -> bool:
    total = case.tokens + DECODE_STEPS + 1
    blocks = case.prompts * blocks_for(total, spec.block_size)
    beside = blocks_for(case.beside + DECODE_STEPS + 1, spec.block_size) + 1 if case.beside else 0
    longest = max(total, case.beside + DECODE_STEPS + 1)
    # One more for each: the scheduler keeps a block free for each running request.
    return longest <= spec.max_model_len and blocks + case.prompts + beside <= spec.num_blocks


def _forecast_s(case: Case, cost_s: dict[Case, float]) -> float:
    """What the case takes: as last time, or by the worst rate a token among cheaper cases."""
    if case in cost_s:
        return cost_s[case]
    sizes = [(done.work, cost) for done, cost in cost_s.items()]
    largest = max(sizes, default=(1, 0.0))
    return case.work / largest[0] * largest[1]


def _run_case(engine: Engine, case: Case, samples: Samples) -> None:
    spec, whole = engine.spec, case.prompts * case.tokens
    scheduler = InstanceScheduler(
        KvLedger(spec.num_blocks, spec.block_size),
        max_running=case.prompts + 1,
        max_prefill_tokens=min(MAX_STEP_TOKENS, max(-(-whole // case.steps), case.beside)),
    )
    ids = [f"calibrate-{i}" for i in range(case.prompts)]
    for number, request_id in enumerate(ids):
        _enter(engine, scheduler, request_id, number, case.tokens)
    scheduler.grant(1, ids, float("inf"), 0.0)
    beside = case.beside
    try:
        while plan := scheduler.plan(0.0):
            _timed_step(engine, scheduler, plan, samples)
            if beside and plan.num_decodes:
                _prefill_beside(engine, scheduler, case, samples)
                beside = 0
    finally:
        for request_id in (*ids, _BESIDE):
            engine.remove(request_id)


def _prefill_beside(
    engine: Engine, scheduler: InstanceScheduler, case: Case, samples: Samples
) -> None:
    """Two fused steps for another prompt, which then goes again."""
    _enter(engine, scheduler, _BESIDE, case.prompts, case.beside)
    half = -(-case.beside // 2)
    batching = Batching(kind=BatchKind.FUSED, tokens=half)
    scheduler.grant(2, [_BESIDE], float("inf"), 0.0, batching)
    while scheduler.num_waiting and (plan := scheduler.plan(0.0)):
        _timed_step(engine, scheduler, plan, samples)
    scheduler.cancel(_BESIDE)
    engine.remove(_BESIDE)


def _enter(
    engine: Engine, scheduler: InstanceScheduler, request_id: str, number: int, tokens: int
) -> None:
    prompt = tuple((number + 7 * i) % engine.spec.vocab_size for i in range(tokens))
    engine.add(EngineRequest(request_id, prompt, DECODE_STEPS + 1, Sampling(), True))
    job = Job(request_id, tokens, DECODE_STEPS + 1, DECODE_STEPS, _SLO, 0.0, ignore_eos=True)
    scheduler.add(job)


def _timed_step(
    engine: Engine, scheduler: InstanceScheduler, plan: StepPlan, samples: Samples
) -> None:
    start_s = time.perf_counter()
    new = engine.step(plan)
    samples.add(plan, time.perf_counter() - start_s)
    scheduler.commit(plan, new)
