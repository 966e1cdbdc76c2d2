"""Prefix caching of answers: a chat's next turn reuses the KV of the turns before it."""

from __future__ import annotations

from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.prefix import block_names
from rondo.types import Slo

BLOCK = 4
SLO = Slo(ttft_s=1.0, tpot_s=0.1)


def scheduler(num_blocks: int = 32) -> InstanceScheduler:
    return InstanceScheduler(
        KvLedger(num_blocks, BLOCK), max_running=8, max_prefill_tokens=256, eos_token_ids=(1,)
    )


def submit(made: InstanceScheduler, name: str, prompt: list[int], max_tokens: int = 99) -> Job:
    names = block_names(prompt, BLOCK)
    job = Job(name, len(prompt), max_tokens, 4, SLO, 0.0, block_names=names)
    job.tail = prompt[len(names) * BLOCK :]
    assert made.add(job) is None
    made.grant(1, [name], 1e9, 0.0)
    return job


def step(made: InstanceScheduler, token: int) -> int:
    """One step that gives everybody this token; prompt tokens it computed."""
    plan = made.plan(0.0)
    assert plan is not None
    made.commit(plan, {item.request_id: token for item in plan.items})
    made.check_invariants()
    return plan.prompt_tokens


def test_the_next_turn_computes_only_what_is_new() -> None:
    made = scheduler()
    question = list(range(10, 20))
    submit(made, "first", question, max_tokens=8)
    answer = list(range(50, 58))
    assert step(made, answer[0]) == 10
    for token in answer[1:]:
        step(made, token)
    assert not made.has("first")
    assert made.ledger.num_free == 32
    again = submit(made, "second", [*question, *answer, 7, 8, 9])
    # 18 tokens of the first turn, of which the last was never computed: four full blocks.
    assert step(made, 60) == 21 - 16
    assert again.cached == 21
    assert made.board.pool.shared_tokens == 16


def test_an_answer_that_stopped_or_was_cancelled_is_named_as_well() -> None:
    for end in ("stop", "cancel"):
        made = scheduler()
        submit(made, "first", list(range(10, 17)))
        for token in (50, 51, 52):
            step(made, token)
        if end == "stop":
            step(made, 1)
        else:
            made.cancel("first")
        submit(made, "second", [*range(10, 17), 50, 51, 52, 53])
        assert step(made, 60) == 11 - 8


def test_other_tokens_share_nothing_of_the_answer() -> None:
    made = scheduler()
    submit(made, "first", list(range(10, 18)), max_tokens=9)
    for token in range(50, 59):
        step(made, token)
    submit(made, "second", [*range(10, 18), 50, 51, 52, 99, *range(54, 60)])
    assert step(made, 60) == 18 - 8, "the block in which an answer differs is computed"


def test_a_preempted_answer_finds_its_own_blocks_again() -> None:
    made = scheduler(num_blocks=12)
    old = submit(made, "old", list(range(10, 30)), max_tokens=20)
    young = submit(made, "young", list(range(40, 56)), max_tokens=20)
    jobs = (old, young)
    for token in range(60, 160):
        before = young.num_preempted
        plan = made.plan(0.0)
        if plan is None:
            break
        if young.num_preempted > before:
            assert len(young.block_names) > 4, "the answer's blocks have names"
        known = {job.request_id: job.known + made.board.batch.gained(job) for job in jobs}
        ends = {item.request_id: item.start + item.num_tokens for item in plan.items}
        made.commit(plan, {name: token for name, end in ends.items() if end == known[name]})
        made.check_invariants()
    assert young.num_preempted
    assert not made.board.jobs


def test_without_a_tail_nothing_of_the_answer_is_named() -> None:
    made = scheduler()
    job = submit(made, "first", list(range(10, 18)), max_tokens=8)
    job.tail = None
    for token in range(50, 58):
        step(made, token)
    submit(made, "second", [*range(10, 18), *range(50, 58)])
    assert step(made, 60) == 16 - 8
