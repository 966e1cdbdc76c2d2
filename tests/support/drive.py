"""Drives an engine with the real instance scheduler: plan, step, commit, until nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rondo.logprobs import Logprobs
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job, StepOutcome, StepPlan
from rondo.prefix import block_names
from rondo.types import FinishReason, LatencyModel, Phase, Sampling, Slo
from rondo_worker.engines.base import Engine, EngineRequest

GREEDY = Sampling(temperature=0.0)
SLO = Slo(ttft_s=60.0, tpot_s=60.0)


def request(
    request_id: str,
    prompt: Iterable[int],
    max_tokens: int = 16,
    sampling: Sampling = GREEDY,
    ignore_eos: bool = True,
) -> EngineRequest:
    """An engine request with defaults for tests."""
    return EngineRequest(request_id, tuple(prompt), max_tokens, sampling, ignore_eos)


@dataclass
class Driver:
    """One engine under its own scheduler. Time is a step counter; every turn is unlimited."""

    engine: Engine
    max_running: int = 64
    max_prefill_tokens: int = 4096
    on_step: Callable[[StepPlan, dict[str, int]], None] | None = None
    answers: dict[str, list[int]] = field(default_factory=dict)
    finished: dict[str, FinishReason] = field(default_factory=dict)
    num_steps: int = 0
    step_cost: LatencyModel | None = None

    def __post_init__(self) -> None:
        spec = self.engine.spec
        self.scheduler = InstanceScheduler(
            KvLedger(spec.num_blocks, spec.block_size),
            max_running=self.max_running,
            max_prefill_tokens=self.max_prefill_tokens,
            eos_token_ids=spec.eos_token_ids,
            step_cost=self.step_cost,
        )

    def submit(self, *requests: EngineRequest, background: bool = False) -> None:
        """Adds requests to engine and scheduler, and grants them."""
        size = self.engine.spec.block_size
        for item in requests:
            self.engine.add(item)
            job = Job(
                request_id=item.request_id,
                prompt_tokens=len(item.prompt),
                max_tokens=item.max_tokens,
                predicted_tokens=item.max_tokens,
                slo=SLO,
                arrival_s=float(self.num_steps),
                ignore_eos=item.ignore_eos,
                background=background,
                block_names=block_names(item.prompt, size),
                tail=list(item.prompt[len(item.prompt) // size * size :]),
            )
            refusal = self.scheduler.add(job)
            assert refusal is None, refusal
            self.answers[item.request_id] = []
        ids = [item.request_id for item in requests]
        self.scheduler.grant(1, ids, 1e9, float(self.num_steps))

    def step(self) -> tuple[StepPlan, StepOutcome] | None:
        """One step; None when there was nothing to do."""
        plan = self.scheduler.plan(float(self.num_steps))
        if plan is None:
            return None
        tokens = self.engine.step(plan)
        self._check_tokens(plan, tokens)
        if self.on_step:
            self.on_step(plan, tokens)
        self.num_steps += 1
        outcome = self.scheduler.commit(plan, tokens)
        for new in outcome.tokens:
            assert new.index == len(self.answers[new.request_id])
            self.answers[new.request_id].append(new.token)
        for end in outcome.finished:
            self.engine.remove(end.request_id)
            self.finished[end.request_id] = end.reason
        self._check_pool()
        return plan, outcome

    def cancel(self, request_id: str) -> None:
        """Aborts a request between steps."""
        assert self.scheduler.cancel(request_id)
        self.engine.remove(request_id)

    def run(self, limit: int = 100_000) -> dict[str, list[int]]:
        """Steps until nothing is left; the answers by request id."""
        for _ in range(limit):
            if self.step() is None:
                assert self.scheduler.num_waiting == 0, "requests wait though nothing runs"
                return self.answers
        raise AssertionError(f"not finished after {limit} steps")

    def _check_tokens(self, plan: StepPlan, tokens: dict[str, int]) -> None:
        planned = [item.request_id for item in plan.items]
        assert set(tokens) <= set(planned), "a token for a request outside the plan"
        if plan.phase is Phase.DECODE:
            assert list(tokens) == planned, "a decode step gives each item one token"
        assert all(0 <= token < self.engine.spec.vocab_size for token in tokens.values())

    def _check_pool(self) -> None:
        self.scheduler.check_invariants()
        pool = self.scheduler.occupancy()
        assert pool.used_blocks + pool.free_blocks == pool.total_blocks
        assert pool.total_blocks == self.engine.spec.num_blocks


def answers(
    engine: Engine,
    requests: Iterable[EngineRequest],
    *,
    max_running: int = 64,
    max_prefill_tokens: int = 4096,
) -> dict[str, list[int]]:
    """Runs requests to their end, all at once; the engine is empty afterwards."""
    driver = Driver(engine, max_running, max_prefill_tokens)
    driver.submit(*requests)
    return driver.run()


def collect_logprobs(driver: Driver) -> tuple[dict[str, list[Logprobs]], dict[str, Logprobs]]:
    """Runs to the end; logprobs of answers and prompts by request."""
    rows: dict[str, list[Logprobs]] = {}
    prompts: dict[str, Logprobs] = {}

    def take(_plan: object, _tokens: object) -> None:
        taken = driver.engine.take_logprobs()
        for request_id, row in taken.tokens.items():
            rows.setdefault(request_id, []).append(row)
        prompts.update(taken.prompts)

    driver.on_step = take
    driver.run()
    return rows, prompts
