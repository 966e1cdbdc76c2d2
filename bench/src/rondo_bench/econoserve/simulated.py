"""One simulated run of an instance policy, and the figures that are read off it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from rondo.policy.econoserve import EconoSettings, make_instance_policy
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import StepPlan
from rondo.types import Batching, LatencyModel
from rondo_bench.econoserve.drive import Offered, Run, StepSample, drive
from rondo_bench.econoserve.workloads import Lengths
from rondo_bench.tdpipe.model import BLOCK_SIZE, SHAPES, load_model

SHAPE = SHAPES["llama-2-13b"]
#: More sequences than the pool of one L20 ever holds: no policy is bound by it.
MAX_RUNNING = 512
#: A saturated run keeps so many requests waiting.
BACKLOG = 64
#: What a saturated run does counts from this share of its answers on, when the pool has filled and
#: aged.
WARM_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Setup:
    """A policy with what it may be tuned by; `max_prefill_tokens` bounds one step's prompts."""

    policy: str
    batching: Batching
    max_prefill_tokens: int = 2048
    econo: EconoSettings = field(default_factory=EconoSettings)

    @property
    def label(self) -> str:
        """How the batches are made, for people."""
        tokens = self.batching.tokens or self.max_prefill_tokens
        return f"{self.batching.kind.value}, {tokens} tokens"


class SimEngine:
    """Implements `drive.Engine`: steps take what the model says, on a clock of its own."""

    def __init__(self, latency: LatencyModel) -> None:
        self._latency = latency
        self._now_s = 0.0

    def now_s(self) -> float:
        """Seconds of virtual time."""
        return self._now_s

    def wait_until(self, at_s: float) -> None:
        """Jumps there."""
        self._now_s = max(self._now_s, at_s)

    def add(self, offered: Offered) -> None:
        """Nothing to prepare."""

    def execute(self, plan: StepPlan) -> Mapping[str, int] | None:
        """Lets the step's time pass; makes no tokens."""
        self._now_s += self._latency.step_s(
            plan.prompt_tokens, plan.pairs, plan.num_decodes, plan.context_tokens
        )
        return None

    def remove(self, request_id: str) -> None:
        """Nothing to forget."""


class RunFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one run amounts to.

    normalized_latency_s: mean over requests of (end - arrival) / answer tokens. completion_s: mean
    of end - arrival. requests_per_s: answers over the counted time. slo_satisfaction: share of
    requests that end by arrival + TTFT limit + TPOT limit x answer tokens. preempted_share: of
    requests that lost their KV at least once. kv_used_share, kv_owned_share: of the pool, mean over
    time, in tables and in tables or set aside. forward_tokens: mean over steps.
    """

    normalized_latency_s: float
    p99_normalized_latency_s: float
    completion_s: float
    requests_per_s: float
    tokens_per_s: float
    slo_satisfaction: float
    preempted_share: float
    kv_used_share: float
    kv_owned_share: float
    forward_tokens: float
    longest_wait_s: float
    """Arrival until the first token, of the request that waited longest."""


def latency_model() -> LatencyModel:
    """Llama-2-13B on one L20."""
    return load_model(SHAPE)


def run_once(
    setup: Setup,
    offered: Sequence[Offered],
    latency: LatencyModel,
    *,
    num_blocks: int | None = None,
    backlog: int = 0,
    stop_after: int | None = None,
) -> Run:
    """One run on a fresh instance; `num_blocks` is the KV pool, an L20's if not given."""
    scheduler = InstanceScheduler(
        KvLedger(num_blocks or SHAPE.num_blocks(1), BLOCK_SIZE),
        max_running=MAX_RUNNING,
        max_prefill_tokens=setup.max_prefill_tokens,
        step_cost=latency,
        policy=make_instance_policy(setup.policy, setup.econo),
    )
    run = drive(
        scheduler,
        offered,
        SimEngine(latency),
        setup.batching,
        backlog=backlog,
        stop_after=stop_after,
    )
    scheduler.check_invariants()
    return run


def at_rate(setup: Setup, lengths: Lengths, rate: float, latency: LatencyModel) -> RunFigures:
    """The figures of a run at `rate` requests a second, from the first arrival to the last end."""
    return figures_of(run_once(setup, lengths.at_rate(rate), latency))


def saturated(setup: Setup, lengths: Lengths, latency: LatencyModel) -> RunFigures:
    """The figures of a run in which requests always wait.

    The number of those that wait is held, so what a policy passes over is still there at the end,
    and none can look fast by doing the short answers only.
    """
    offered = lengths.backlog()
    backlog = min(BACKLOG, len(offered) // 8)
    wanted = len(offered) - 4 * backlog
    return saturated_figures(run_once(setup, offered, latency, backlog=backlog, stop_after=wanted))


def saturated_figures(run: Run) -> RunFigures:
    """The figures of a run in which requests always waited, without its beginning and its drain."""
    ends_s = sorted(life.end_s for life in run.lives.values() if life.end_s is not None)
    return figures_of(run, since_s=ends_s[int(WARM_SHARE * len(ends_s))])


def figures_of(run: Run, since_s: float = 0.0) -> RunFigures:
    """The figures of what ended after `since_s`, and of the steps that began after it."""
    ended = [e for e in run.lives.values() if e.end_s is not None and e.end_s > since_s]
    took_s = [(e.end_s or 0.0) - e.arrived_s for e in ended]
    normalized = sorted(s / e.tokens_out for s, e in zip(took_s, ended, strict=True))
    steps = [step for step in run.steps if step.began_s >= since_s]
    span_s = steps[-1].began_s + steps[-1].duration_s - since_s
    met = (
        s <= e.offered.slo.ttft_s + e.offered.slo.tpot_s * e.tokens_out
        for s, e in zip(took_s, ended, strict=True)
    )
    count = len(ended)
    return RunFigures(
        normalized_latency_s=sum(normalized) / count,
        p99_normalized_latency_s=normalized[min(count - 1, int(0.99 * count))],
        completion_s=sum(took_s) / count,
        requests_per_s=count / span_s,
        tokens_per_s=sum(e.tokens_out for e in ended) / span_s,
        slo_satisfaction=sum(met) / count,
        preempted_share=sum(e.num_preempted > 0 for e in ended) / count,
        kv_used_share=_mean_share(steps, [s.used_blocks for s in steps], run.num_blocks),
        kv_owned_share=_mean_share(steps, [s.owned_blocks for s in steps], run.num_blocks),
        forward_tokens=sum(s.forward_tokens for s in steps) / len(steps),
        longest_wait_s=max((e.first_token_s or 0.0) - e.arrived_s for e in ended),
    )


def _mean_share(steps: Sequence[StepSample], blocks: Sequence[int], num_blocks: int) -> float:
    total_s = sum(step.duration_s for step in steps)
    weighted = sum(s.duration_s * held for s, held in zip(steps, blocks, strict=True))
    return weighted / (total_s * num_blocks)
