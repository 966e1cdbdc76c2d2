"""Measures a live engine and fits the closed form of `LatencyProfile` to it.

The engine runs real steps, planned by a real instance scheduler: prefills of growing size, of one
prompt and of several, whole and in two chunks; each followed by a few decode steps. A case that
would take too long, or that the pool or the model's length cannot hold, is left out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from rondo.perf.profile import LatencyProfile
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger, blocks_for
from rondo.policy.plan import Job, StepPlan
from rondo.types import Chunk, Phase, Sampling, Slo
from rondo_worker.engines.base import Engine, EngineRequest, EngineSpec
from rondo_worker.engines.least_squares import fit_non_negative

#: (prompts, tokens in each, prefill steps), from cheap to dear.
CASES = (
    (1, 8, 1),
    (8, 16, 1),
    (1, 128, 1),
    (1, 32, 1),
    (4, 16, 1),
    (4, 64, 1),
    (16, 32, 1),
    (1, 512, 1),
    (1, 512, 2),
    (4, 256, 1),
    (1, 2048, 1),
    (1, 2048, 2),
    (16, 256, 1),
    (32, 512, 1),
)
#: So many of them are run whatever they take: fewer cannot tell the coefficients apart.
MIN_CASES = 3
DECODE_STEPS = 4
#: Another case may take at most this share of the budget, going by what its predecessors took.
CASE_SHARE = 0.25
#: Steps this much longer than the shortest one have left the flat part of the prefill curve.
FLAT_FACTOR = 1.25

Case = tuple[int, int, int]

_SLO = Slo(ttft_s=60.0, tpot_s=60.0)


@dataclass(slots=True)
class Samples:
    """Durations in seconds by what was computed."""

    prefill: dict[tuple[Chunk, ...], list[float]] = field(default_factory=lambda: defaultdict(list))
    decode: dict[tuple[int, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, plan: StepPlan, duration_s: float) -> None:
        """Records one step."""
        if plan.phase is Phase.PREFILL:
            chunks = tuple(Chunk(item.num_tokens, item.start) for item in plan.items)
            self.prefill[chunks].append(duration_s)
        else:
            context = sum(item.start for item in plan.items)
            self.decode[len(plan.items), context].append(duration_s)


def calibrate(engine: Engine, *, budget_s: float = 2.0) -> LatencyProfile:
    """A profile of an idle engine, measured for about `budget_s` seconds."""
    return fit_profile(engine.spec, measure(engine, budget_s=budget_s))


def measure(engine: Engine, *, budget_s: float) -> Samples:
    """Step times of an idle engine, which is left empty.

    Takes the median of equal steps. The cases that fit are run in rounds while time is left; one
    is run before all others, to warm up. On an engine so slow that the budget does not suffice for
    the first `MIN_CASES`, it is exceeded.
    """
    end_s = time.perf_counter() + budget_s
    cases = [case for case in CASES if _fits(engine.spec, case)] or [(1, 1, 1)]
    _run_case(engine, cases[0], Samples())
    samples = Samples()
    cost_s: dict[Case, float] = {}
    progress = True
    while progress:
        progress = False
        for number, case in enumerate(cases):
            start_s = time.perf_counter()
            limit_s = min(end_s - start_s, CASE_SHARE * budget_s)
            must = case not in cost_s and number < MIN_CASES
            if must or _forecast_s(case, cost_s) <= limit_s:
                _run_case(engine, case, samples)
                cost_s[case] = time.perf_counter() - start_s
                progress = True
    return samples


def fit_errors(profile: LatencyProfile, samples: Samples) -> dict[str, list[float]]:
    """|predicted - median measured| / measured, one value a case, for prefill and decode."""
    pairs = {
        "prefill": [(profile.prefill_s(c), median(t)) for c, t in samples.prefill.items()],
        "decode": [(profile.decode_s(*key), median(t)) for key, t in samples.decode.items()],
    }
    return {kind: [abs(p - m) / m for p, m in values] for kind, values in pairs.items()}


def _fits(spec: EngineSpec, case: Case) -> bool:
    prompts, tokens, _ = case
    total = tokens + DECODE_STEPS + 1
    blocks = prompts * blocks_for(total, spec.block_size)
    # One more for each: the scheduler keeps a block free for each running request.
    return total <= spec.max_model_len and blocks + prompts <= spec.num_blocks


def _forecast_s(case: Case, cost_s: dict[Case, float]) -> float:
    """What the case takes: as last time, or by the worst rate a token among cheaper cases."""
    if case in cost_s:
        return cost_s[case]
    sizes = [(prompts * tokens, cost) for (prompts, tokens, _), cost in cost_s.items()]
    largest = max(sizes, default=(1, 0.0))
    return case[0] * case[1] / largest[0] * largest[1]


def _run_case(engine: Engine, case: Case, samples: Samples) -> None:
    prompts, tokens, steps = case
    spec = engine.spec
    scheduler = InstanceScheduler(
        KvLedger(spec.num_blocks, spec.block_size),
        max_running=prompts,
        max_prefill_tokens=-(-prompts * tokens // steps),
    )
    ids = [f"calibrate-{i}" for i in range(prompts)]
    for number, request_id in enumerate(ids):
        prompt = tuple((number + 7 * i) % spec.vocab_size for i in range(tokens))
        engine.add(EngineRequest(request_id, prompt, DECODE_STEPS + 1, Sampling(), True))
        job = Job(request_id, tokens, DECODE_STEPS + 1, DECODE_STEPS, _SLO, 0.0, ignore_eos=True)
        scheduler.add(job)
    scheduler.grant(1, ids, float("inf"), 0.0)
    try:
        while plan := scheduler.plan(0.0):
            start_s = time.perf_counter()
            new = engine.step(plan)
            samples.add(plan, time.perf_counter() - start_s)
            scheduler.commit(plan, new)
    finally:
        for request_id in ids:
            engine.remove(request_id)


def fit_profile(spec: EngineSpec, samples: Samples) -> LatencyProfile:
    """The profile whose times come closest to the medians of the samples."""
    line_ms, pairs_ms, floor_ms = _fit_prefill(samples.prefill)
    rows = [(1.0, float(b), float(context)) for b, context in samples.decode]
    times_ms = [median(values) * 1e3 for values in samples.decode.values()]
    d0, d1, d2 = fit_non_negative(rows, times_ms)
    return LatencyProfile(
        name=spec.model,
        source=f"calibrated on a live {spec.engine} engine",
        prefill_floor_ms=(floor_ms, 0.0),
        prefill_line_ms=line_ms,
        prefill_attn_ms=(0.0, 0.0, pairs_ms),
        decode_ms=(d0, d1, d2),
        block_size=spec.block_size,
        num_blocks=spec.num_blocks,
    )


def _fit_prefill(
    prefill: dict[tuple[Chunk, ...], list[float]],
) -> tuple[tuple[float, float], float, float]:
    """(l0, l1), a2 and f0 in ms; a0 and a1 stay 0, for they cannot be told from l0 and l1."""
    rows: list[Sequence[float]] = []
    times_ms: list[float] = []
    for chunks, values in prefill.items():
        pairs = sum(c.num_tokens * (c.num_tokens + 2 * c.context) for c in chunks)
        rows.append((1.0, float(sum(c.num_tokens for c in chunks)), float(pairs)))
        times_ms.append(median(values) * 1e3)
    shortest_ms = min(times_ms)
    rising = [i for i, t in enumerate(times_ms) if t > FLAT_FACTOR * shortest_ms]
    if len(rising) < len(rows[0]):
        rising = list(range(len(rows)))
    l0, l1, a2 = fit_non_negative([rows[i] for i in rising], [times_ms[i] for i in rising])
    return (l0, l1), a2, shortest_ms
