"""Whatever happens to a pipeline's scheduler, no block and no request is lost, and all end."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.policy.tdpipe import (
    SCHEDULER_NAMES,
    FusedSettings,
    PipeScheduler,
    PipeSettings,
    PipeSetup,
    PipeStep,
    TdPipeSettings,
    make_scheduler,
)
from rondo.types import Slo

BLOCK, NUM_BLOCKS = 4, 30


class Latency:
    """A step has a fixed cost, and one for each token."""

    def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
        return 1.0 + 0.1 * (tokens + num_decodes) + 1e-3 * (pairs + context_tokens)


requests = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 40), st.integers(1, 50)), min_size=1, max_size=25
)
knobs = st.builds(
    TdPipeSettings,
    greedy=st.booleans(),
    predict=st.booleans(),
    steal=st.booleans(),
    compare=st.booleans(),
    size=st.booleans(),
    level=st.booleans(),
    even=st.booleans(),
    kv_share=st.floats(0.3, 1.2),
    prefill_ahead=st.integers(0, 3),
)
fused = st.builds(
    FusedSettings,
    size=st.booleans(),
    level=st.booleans(),
    kv_share=st.floats(0.3, 1.2),
    step_tokens=st.integers(1, 300),
    resume_share=st.floats(0.1, 1.2),
    order=st.booleans(),
    tail=st.floats(0.0, 3.0),
)
pipe_settings = st.builds(
    PipeSettings,
    prefill_tokens=st.integers(1, 40),
    budget_tokens=st.integers(1, 40),
    max_batch=st.integers(1, 8),
    watermark=st.sampled_from([0.0, 0.01, 0.3]),
    tdpipe=knobs,
    fused=fused,
)


class Pipe:
    """Runs steps in order and checks each: what an engine relies on."""

    def __init__(self, scheduler: PipeScheduler) -> None:
        self.scheduler = scheduler
        self.flying: deque[PipeStep] = deque()
        self.now_s = 0.0
        self.computed: dict[str, int] = {}  # tokens whose KV is, or is on its way to be, there
        self.answers: dict[str, int] = {}
        self.prompts: dict[str, int] = {}
        self.preempted: dict[str, int] = {}
        self.ended: set[str] = set()

    def send_all(self) -> None:
        while (step := self.scheduler.next_step(self.now_s)) is not None:
            self.check(step)
            self.flying.append(step)

    def check(self, step: PipeStep) -> None:
        assert step.plan.items
        decoding = {item.request_id for item in step.plan.decodes}
        assert len(decoding) == len(step.plan.decodes) == step.plan.num_decodes
        for other in self.flying:
            assert not decoding & {item.request_id for item in other.plan.items}
        for item in step.plan.items:
            name = item.request_id
            again = self.scheduler.board.jobs[name].num_preempted
            if again != self.preempted.get(name, 0):
                self.preempted[name] = again
                self.computed[name] = 0
            assert item.start == self.computed.get(name, 0)
            assert item.num_tokens > 0
            self.computed[name] = item.start + item.num_tokens
            assert len(item.blocks) * BLOCK >= self.computed[name]
            assert self.computed[name] <= self.prompts[name] + self.answers.get(name, 0)

    def land(self, stops: bool = False) -> None:
        step = self.flying.popleft()
        self.now_s += 1.0
        live = [i for i in step.plan.items if self.scheduler.has(i.request_id)]
        for item in live:
            name = item.request_id
            known = self.prompts[name] + self.answers.get(name, 0)
            if item.start + item.num_tokens == known:
                self.answers[name] = self.answers.get(name, 0) + 1
        stopped = [item.request_id for item in live[:1]] if stops else []
        stopped = [s for s in stopped if self.answers.get(s)]
        outcome = self.scheduler.on_step_done(step, self.now_s, stopped)
        for finished in outcome.finished:
            assert finished.request_id not in self.ended
            assert finished.tokens_out == self.answers[finished.request_id]
            self.ended.add(finished.request_id)
        self.scheduler.check_invariants()


def job(name: str, prompt: int, answer: int, predicted: int) -> Job:
    return Job(name, prompt, answer, predicted, Slo(ttft_s=1, tpot_s=1), 0.0)


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
@settings(max_examples=30, deadline=None)
@given(
    lengths=requests,
    stages=st.integers(1, 4),
    configured=pipe_settings,
    late=st.integers(0, 12),
    events=st.lists(st.sampled_from(["land", "cancel", "stop"]), max_size=40),
)
def test_everything_ends_and_nothing_is_lost(
    name: str,
    lengths: list[tuple[int, int, int]],
    stages: int,
    configured: PipeSettings,
    late: int,
    events: list[str],
) -> None:
    scheduler = make_scheduler(
        name, PipeSetup(KvLedger(NUM_BLOCKS, BLOCK), Latency(), stages, configured)
    )
    pipe = Pipe(scheduler)
    jobs = [job(f"r{i}", *each) for i, each in enumerate(lengths)]
    cancelled: set[str] = set()
    for each in jobs:
        pipe.prompts[each.request_id] = each.prompt_tokens
    for each in jobs[late:]:
        assert scheduler.add(each) is None
    waiting = jobs[:late]
    limit = 5_000
    while scheduler.has_work or waiting:
        if waiting:
            assert scheduler.add(waiting.pop()) is None
        pipe.send_all()
        assert pipe.flying, "the scheduler stopped with work left"
        event = events.pop() if events else "land"
        if event == "cancel":
            victim = pipe.flying[-1].plan.items[0].request_id
            if scheduler.cancel(victim):
                cancelled.add(victim)
            scheduler.check_invariants()
        pipe.land(stops=event == "stop")
        limit -= 1
        assert limit, "no end"
    assert pipe.ended | cancelled == {each.request_id for each in jobs}
    assert not pipe.ended & cancelled
    assert scheduler.board.ledger.num_free == NUM_BLOCKS


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=8, max_size=60), stages=st.integers(2, 4))
def test_batches_stay_balanced(lengths: list[int], stages: int) -> None:
    """With a pool that is large enough all prompts decode together, and no batch has more than its
    share of them."""
    setup = PipeSetup(KvLedger(2000, BLOCK), Latency(), stages)
    scheduler = make_scheduler("tdpipe", setup)
    pipe = Pipe(scheduler)
    for i, length in enumerate(lengths):
        pipe.prompts[f"r{i}"] = 5
        scheduler.add(job(f"r{i}", 5, length, length))
    while scheduler.has_work:
        while (step := scheduler.next_step(pipe.now_s)) is not None:
            live = scheduler.board.num_decoding + len(scheduler.board.in_pipe)
            assert step.plan.num_decodes <= -(-live // stages)
            pipe.flying.append(step)
        pipe.land()
    assert len(pipe.ended) == len(lengths)
