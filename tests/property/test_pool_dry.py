"""However small the KV pool is and whatever comes: the youngest gives way, and everything ends."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger, blocks_for
from rondo.policy.plan import Job, StepPlan
from rondo.prefix import block_names
from rondo.types import Batching, BatchKind, Slo

SLO = Slo(ttft_s=1.0, tpot_s=0.1)

pools = st.tuples(st.integers(1, 8), st.integers(1, 5))  # blocks, tokens in each
batchings = st.builds(Batching, kind=st.sampled_from(BatchKind), tokens=st.integers(0, 6))


def tokens_of(scheduler: InstanceScheduler, plan: StepPlan) -> dict[str, int]:
    """A token for each sequence that the step completes."""
    known = {job.request_id: job for job in scheduler.board.jobs.values()}
    gained = scheduler.board.batch.gained
    return {
        item.request_id: 5
        for item in plan.items
        if item.start + item.num_tokens
        == known[item.request_id].known + gained(known[item.request_id])
    }


@given(data=st.data(), pool=pools, max_running=st.integers(1, 6), max_prefill=st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_everything_ends(
    data: st.DataObject, pool: tuple[int, int], max_running: int, max_prefill: int
) -> None:
    num_blocks, size = pool
    scheduler = InstanceScheduler(
        KvLedger(num_blocks, size), max_running=max_running, max_prefill_tokens=max_prefill
    )
    room = num_blocks * size
    jobs: list[Job] = []
    for number in range(data.draw(st.integers(1, 10), label="requests")):
        prompt = data.draw(st.integers(1, room - 1)) if room > 1 else 1
        answer = data.draw(st.integers(1, max(1, room - prompt)))
        job = Job(f"r{number}", prompt, answer, data.draw(st.integers(1, 9)), SLO, 0.0)
        if data.draw(st.booleans(), label="shares"):
            job.block_names = block_names([7] * prompt, size)
        jobs.append(job)
    left = {job.request_id: job for job in jobs}
    waiting = list(jobs)
    num_wanted = num_tokens = 0
    # Each prompt may be computed again for every token of every answer, and no more than that.
    limit = 50 + sum(2 * job.max_tokens * len(jobs) * (1 + job.prompt_tokens) for job in jobs)
    for step in range(limit):
        while waiting and (step % 3 == 0):
            job = waiting.pop()
            if scheduler.add(job):
                need = blocks_for(job.prompt_tokens + job.max_tokens, size)
                assert need > num_blocks, "it is refused only when it can never fit"
                del left[job.request_id]
                continue
            num_wanted += job.max_tokens
            scheduler.grant(step + 1, [job.request_id], 1e9, float(step), data.draw(batchings))
            if data.draw(st.booleans(), label="more at once"):
                break
        preempted = scheduler.num_preempted
        before = {job.request_id: job.num_preempted for job in left.values()}
        owners = [j for j in left.values() if scheduler.ledger.held(j.request_id)]
        plan = scheduler.plan(float(step))
        if scheduler.num_preempted == preempted + 1:
            [victim] = [j for j in left.values() if j.num_preempted > before[j.request_id]]
            assert victim.order == max(job.order for job in owners), "the youngest gives way"
        if plan is None:
            if waiting:
                continue
            break
        outcome = scheduler.commit(plan, tokens_of(scheduler, plan))
        num_tokens += len(outcome.tokens)
        for finished in outcome.finished:
            del left[finished.request_id]
        scheduler.check_invariants()
    assert not left, f"{sorted(left)} do not end"
    assert num_tokens == num_wanted, "each token once"
    assert scheduler.ledger.num_free == num_blocks
