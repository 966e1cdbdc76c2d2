"""Whatever is predicted and whatever comes: no block is lost or promised twice, and all end."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo.policy.econoserve import (
    INSTANCE_POLICY_NAMES,
    EconoSettings,
    make_instance_policy,
)
from rondo.policy.econoserve.settings import ORDERS
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger, blocks_for
from rondo.policy.plan import Job, StepPlan
from rondo.prefix import block_names
from rondo.types import Batching, BatchKind, Slo

SLO = Slo(ttft_s=1.0, tpot_s=0.1)

econos = st.builds(
    EconoSettings,
    order=st.sampled_from(ORDERS),
    groups=st.sampled_from([0, 1, 4, 16]),
    pad=st.sampled_from([0.0, 0.15, 1.0]),
    buffer_steps=st.integers(0, 3),
    reserve_share=st.sampled_from([0.0, 0.1, 0.4]),
    headroom_share=st.sampled_from([0.0, 0.1, 0.4]),
    elder_every=st.integers(2, 5),
    patience_s=st.sampled_from([0.0, 10.0]),
)


def tokens_of(scheduler: InstanceScheduler, plan: StepPlan) -> dict[str, int]:
    """A token for each sequence that the step completes."""
    board = scheduler.board
    known = {r: job.known + board.batch.gained(job) for r, job in board.jobs.items()}
    ends = {item.request_id: item.start + item.num_tokens for item in plan.items}
    return {request_id: 5 for request_id, end in ends.items() if end == known[request_id]}


class Run:
    """A scheduler under one policy, and what is left to come and to end."""

    def __init__(self, policy: str, econo: EconoSettings, seed: int) -> None:
        self.random = random = Random(seed)
        self.num_blocks, self.size = random.randint(1, 12), random.randint(1, 5)
        self.scheduler = InstanceScheduler(
            KvLedger(self.num_blocks, self.size),
            max_running=random.randint(1, 6),
            max_prefill_tokens=random.randint(16, 24),
            policy=make_instance_policy(policy, econo),
        )
        self.left: dict[str, Job] = {}
        self.tokens: dict[str, int] = {}

    def job(self, number: int) -> Job:
        """A request; its prediction may be anything."""
        draw, room = self.random.randint, self.num_blocks * self.size
        prompt = draw(1, max(1, room - 1))
        limit = draw(1, max(1, room - prompt))
        job = Job(f"r{number}", prompt, limit, draw(1, 2 * room), SLO, 0.0)
        if draw(0, 1):
            job.block_names = block_names([7] * prompt, self.size)
        job.background = draw(0, 5) == 0
        return job

    def batching(self) -> Batching:
        """Any way to fill steps."""
        kind = self.random.choice(list(BatchKind))
        return Batching(kind=kind, tokens=self.random.randint(0, 6))

    def arrive(self, step: int, job: Job) -> None:
        """The request comes and is granted, unless it can never fit."""
        if self.scheduler.add(job):
            need = blocks_for(job.prompt_tokens + job.max_tokens, self.size)
            assert need > self.num_blocks, "it is refused only when it can never fit"
            return
        self.left[job.request_id] = job
        self.tokens[job.request_id] = 0
        budget_s = self.random.choice([1e9, 2.0])
        self.scheduler.grant(step + 1, [job.request_id], budget_s, float(step), self.batching())

    def step(self, step: int, stops: list[str]) -> bool:
        """Runs a step; the answers of `stops` end with it, whatever was predicted."""
        plan = self.scheduler.plan(float(step))
        if plan is None:
            return False
        assert plan.items
        for item in plan.items:
            assert len(item.blocks) * self.size >= item.start + item.num_tokens
        got = tokens_of(self.scheduler, plan)
        outcome = self.scheduler.advance(plan, [r for r in stops if r in got])
        for request_id in got:
            self.tokens[request_id] += 1  # counted here, too
        for finished in outcome.finished:
            job = self.left.pop(finished.request_id)
            assert finished.tokens_out == self.tokens[job.request_id]
            assert finished.tokens_out == job.max_tokens or job.request_id in stops
        self.scheduler.check_invariants()
        self.check_space()
        return True

    def check_space(self) -> None:
        """The figures that people see agree with each other and with the pool."""
        use = self.scheduler.space_use()
        assert 0 <= use.used <= self.num_blocks
        assert use.lent == use.borrowed
        assert use.owned <= self.num_blocks
        assert use.reserved == use.owned + use.borrowed

    def grant_again(self, step: int) -> None:
        """What lost its turn gets another."""
        rest = [r for r, job in self.left.items() if not job.background]
        self.scheduler.grant(step + 1, rest, 1e9, float(step), self.batching())

    def trouble(self) -> list[str]:
        """Sometimes a request is cancelled; which answers end with the coming step."""
        live = sorted(self.left)
        if live and self.random.random() < 0.05:
            gone = self.random.choice(live)
            self.scheduler.cancel(gone)
            del self.left[gone]
            live.remove(gone)
            self.scheduler.check_invariants()
        return [name for name in live if self.random.random() < 0.03]


@pytest.mark.parametrize("policy", INSTANCE_POLICY_NAMES)
@given(econo=econos, seed=st.integers(0, 2**32), num_requests=st.integers(1, 14))
@settings(max_examples=80, deadline=None)
def test_nothing_is_lost_and_everything_ends(
    policy: str, econo: EconoSettings, seed: int, num_requests: int
) -> None:
    run = Run(policy, econo, seed)
    coming = [run.job(number) for number in range(num_requests)]
    most = 100 + sum(2 * j.max_tokens * num_requests * (1 + j.prompt_tokens) for j in coming)
    idle = 0
    for step in range(most):
        if coming and step % 3 == 0:
            run.arrive(step, coming.pop())
        if run.step(step, run.trouble()):
            idle = 0
        elif run.left:
            idle += 1
            run.grant_again(step)
            assert idle < 5, f"nothing runs though {sorted(run.left)} are left"
        elif not coming:
            break
    assert not run.left, f"{sorted(run.left)} do not end"
    assert run.scheduler.ledger.num_free == run.num_blocks
    assert run.scheduler.space_use().reserved == 0


@pytest.mark.parametrize("policy", INSTANCE_POLICY_NAMES)
@given(econo=econos, seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_moves_between_instances_keep_the_books(
    policy: str, econo: EconoSettings, seed: int
) -> None:
    """One instance prefills and hands over, the other decodes what it has room for."""
    draw = Random(seed).randint
    first, second = (
        InstanceScheduler(
            KvLedger(20, 4),
            max_running=6,
            max_prefill_tokens=16,
            policy=make_instance_policy(policy, econo),
        )
        for _ in range(2)
    )
    first.hands_over = True
    names = [f"r{number}" for number in range(draw(1, 8))]
    for name in names:
        job = Job(name, draw(1, 40), draw(2, 30), draw(1, 60), SLO, 0.0)
        assert first.add(job) is None
    first.grant(1, names, 1e9, 0.0)
    ended: set[str] = set()
    for step in range(2000):
        for scheduler in (first, second):
            if plan := scheduler.plan(float(step)):
                ended |= {done.request_id for done in scheduler.advance(plan).finished}
            scheduler.check_invariants()
        for name, job in list(first.board.moving.items()):
            if second.board.expect(replace(job, decode_start_s=None)):
                second.check_invariants()
                first.cancel(name)
                second.board.land(name)
        if len(ended) == len(names):
            break
    assert sorted(ended) == names
    assert first.ledger.num_free == second.ledger.num_free == 20
