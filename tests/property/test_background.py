"""Background requests on an instance: never in the way, nothing lost, and all done in the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from rondo.perf.profile import load_profile
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job, StepPlan
from rondo.policy.rides import BURST_SHARE, RIDE_SHARE
from rondo.types import Batching, BatchKind, LatencyModel, Phase, Slo

PROFILES = [load_profile(name) for name in ("codellama-34b-l20-tp4", "llama-3-8b-h200-tp1")]
SIZE = 16
SLO = Slo(ttft_s=1.0, tpot_s=0.1)

requests = st.lists(
    st.tuples(
        st.integers(0, 60),  # the step before which it comes
        st.integers(1, 300),  # prompt
        st.integers(1, 40),  # answer
        st.booleans(),  # background
    ),
    min_size=1,
    max_size=24,
)
batchings = st.builds(Batching, kind=st.sampled_from(BatchKind), tokens=st.sampled_from([0, 64]))


@dataclass
class Drive:
    """Runs one instance on a profile; keeps what its foreground steps cost."""

    scheduler: InstanceScheduler
    cost: LatencyModel
    now_s: float = 0.0
    turn: int = 0
    base_s: float = 0.0
    spent_s: float = 0.0
    longest_s: float = 0.0
    finished: list[str] = field(default_factory=list)

    def come(self, job: Job, batching: Batching) -> None:
        assert self.scheduler.add(job) is None
        if not job.background:
            self.turn += 1
            self.scheduler.grant(self.turn, [job.request_id], 1e9, self.now_s, batching)

    def step(self) -> StepPlan | None:
        waiting = [job.request_id for job in self.scheduler.board.waiting]
        plan = self.scheduler.plan(self.now_s)
        if plan is None:
            return None
        jobs = self.scheduler.board.jobs
        riders = [d for d in plan.decodes if jobs[d.request_id].background]
        mine = [c for c in plan.chunks if jobs[c.request_id].background]
        assert plan.background_tokens == len(riders) + sum(c.num_tokens for c in mine)
        took_s = self.cost.step_s(
            plan.prompt_tokens, plan.pairs, plan.num_decodes, plan.context_tokens
        )
        others = plan.num_decodes - len(riders)
        if plan.background_tokens:
            assert len(mine) == len(plan.chunks), "a step has prompts of one kind"
            assert not waiting, "a foreground prompt waits for a background step"
            running = [
                j
                for j in jobs.values()
                if not j.background and j.tokens_out and j.base_step is None
            ]
            assert not running, "every foreground request takes part"
        if others and plan.phase is not Phase.PREFILL and len(mine) == len(plan.chunks):
            context = plan.context_tokens - sum(d.start for d in riders)
            base_s = self.cost.step_s(0, 0, others, context)
            self.base_s += base_s
            self.spent_s += took_s - base_s
            self.longest_s = max(self.longest_s, base_s)
            assert took_s <= base_s * (1 + BURST_SHARE) + 1e-9
            assert self.spent_s <= RIDE_SHARE * self.base_s + BURST_SHARE * self.longest_s + 1e-9
        self.now_s += took_s
        self.finished += [f.request_id for f in self.scheduler.advance(plan).finished]
        self.scheduler.check_invariants()
        return plan


@given(
    lines=requests,
    profile=st.sampled_from(PROFILES),
    blocks=st.integers(24, 80),
    most=st.sampled_from([1, 5, 16, 256]),
    batching=batchings,
    timed=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_never_in_the_way_and_all_done(
    lines: list[tuple[int, int, int, bool]],
    profile: LatencyModel,
    blocks: int,
    most: int,
    batching: Batching,
    timed: bool,
) -> None:
    ledger = KvLedger(blocks, SIZE)
    scheduler = InstanceScheduler(
        ledger,
        max_running=8,
        max_prefill_tokens=most,
        step_cost=profile if timed else None,
    )
    drive = Drive(scheduler, profile)
    left = sorted(enumerate(lines), key=lambda line: line[1][0])
    for number in range(20_000):
        while left and left[0][1][0] <= number:
            index, (_, prompt, answer, background) = left.pop(0)
            job = Job(f"r{index}", prompt, answer, answer, SLO, drive.now_s, background=background)
            drive.come(job, batching)
        if drive.step() is None and not left:
            break
    assert sorted(drive.finished) == sorted(f"r{index}" for index in range(len(lines)))
    assert ledger.num_free == ledger.num_blocks
    if not timed:
        assert drive.spent_s == 0.0, "without a latency model nothing rides"


@given(lines=requests, batching=batchings, blocks=st.integers(24, 80))
@settings(max_examples=60, deadline=None)
def test_foreground_tokens_are_the_same_with_a_backlog(
    lines: list[tuple[int, int, int, bool]], batching: Batching, blocks: int
) -> None:
    """All at once, so that steps and not their times decide: a backlog changes no foreground."""

    def steps(backlog: int) -> list[tuple[tuple[str, int], ...]]:
        scheduler = InstanceScheduler(
            KvLedger(blocks, SIZE), max_running=8, max_prefill_tokens=256, step_cost=PROFILES[0]
        )
        drive = Drive(scheduler, PROFILES[0])
        for index in range(backlog):
            drive.come(Job(f"b{index}", 90, 9, 9, SLO, 0.0, background=True), batching)
        if backlog:
            drive.step()  # they are under way when the foreground comes
        for index, (_, prompt, answer, _) in enumerate(lines):
            drive.come(Job(f"r{index}", prompt, answer, answer, SLO, 0.0), batching)
        seen = []
        for _ in range(5_000):
            plan = drive.scheduler.plan(drive.now_s)
            if plan is None or not any(not j.background for j in scheduler.board.jobs.values()):
                break
            items = [(i.request_id, i.start, i.num_tokens) for i in plan.items]
            seen.append(tuple((r, s + n) for r, s, n in items if r.startswith("r")))
            scheduler.advance(plan)
        return seen

    assert steps(6) == steps(0)
