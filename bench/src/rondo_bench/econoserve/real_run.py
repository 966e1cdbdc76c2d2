"""One run of an instance policy over the real engine, or over its latency profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rondo.policy.econoserve import make_instance_policy
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo_bench.econoserve.drive import Engine, Offered, Run, drive
from rondo_bench.econoserve.real_engine import END, RealEngine, WatchedEngine
from rondo_bench.econoserve.real_setup import MAX_RUNNING, Bed
from rondo_bench.econoserve.simulated import Setup, SimEngine

#: Two logits closer than this may change places with the batch that they are computed in: sums of
#: other order differ by less. Such an answer proves nothing.
TIE = 1e-4
#: A saturated run keeps so many requests waiting.
BACKLOG = 8
#: Requests beyond those that end in a saturated run: what waits and what runs then.
SPARE = 2 * BACKLOG + MAX_RUNNING


def run_real(bed: Bed, setup: Setup, offered: Sequence[Offered]) -> Run:
    """Serves the requests in real time.

    Raises:
        EngineError: a step failed.
    """
    engine = RealEngine(bed.engine, bed.requests(offered), bed.forced)
    return _drive(bed, setup, offered, engine)


def run_simulated(bed: Bed, setup: Setup, offered: Sequence[Offered]) -> Run:
    """Serves them in virtual time, with steps as long as the engine's profile says."""
    return _drive(bed, setup, offered, SimEngine(bed.profile))


def saturated(bed: Bed, setup: Setup, seed: int, wanted: int, *, real: bool) -> Run:
    """A run of `wanted` answers in which requests always wait."""
    offered = bed.queue(seed, wanted + SPARE)
    if not real:
        return _drive(bed, setup, offered, SimEngine(bed.profile), BACKLOG, wanted)
    engine = RealEngine(bed.engine, bed.requests(offered), bed.forced)
    try:
        return _drive(bed, setup, offered, engine, BACKLOG, wanted)
    finally:
        engine.clear()


def with_texts(bed: Bed, setup: Setup, wanted: int, say: Callable[[str], None]) -> Bed:
    """The bed with its first `wanted` tasks whose greedy answer rounding cannot change, and these
    answers, as a run without any hurry makes them."""
    offered = [bed.offer(f"{row}-0", 0.0) for row in range(len(bed.tasks))]
    engine = WatchedEngine(bed.engine, bed.requests(offered), bed.forced)
    run = _drive(bed, setup, offered, engine)
    clear = [each for each in offered if engine.margins[each.request_id] > TIE]
    say(
        f"{bed.name}: {len(offered)} answers computed, "
        f"{len(offered) - len(clear)} have a tie within rounding and are left out"
    )
    tasks = []
    for each in clear[:wanted]:
        text = tuple(run.lives[each.request_id].text)
        tasks.append(replace(bed.task(each.request_id), text=text, output=len(text)))
    return replace(bed, tasks=tasks)


def num_different(bed: Bed, run: Run) -> int:
    """Answers that are not what they should be, so far as they came."""
    lives = run.lives.values()
    return sum(
        tuple(life.text) != _expected(bed, life.offered, len(life.text), life.end_s is not None)
        for life in lives
    )


def _expected(bed: Bed, offered: Offered, so_far: int, ended: bool) -> tuple[int, ...]:
    text = bed.task(offered.request_id).text
    return text if ended else text[:so_far]


def _drive(
    bed: Bed,
    setup: Setup,
    offered: Sequence[Offered],
    engine: Engine,
    backlog: int = 0,
    stop_after: int | None = None,
) -> Run:
    spec = bed.engine.spec
    scheduler = InstanceScheduler(
        KvLedger(spec.num_blocks, spec.block_size),
        max_running=MAX_RUNNING,
        max_prefill_tokens=setup.max_prefill_tokens,
        eos_token_ids=(END,) if bed.forced else spec.eos_token_ids,
        step_cost=bed.profile,
        policy=make_instance_policy(setup.policy, setup.econo),
    )
    batching = setup.batching
    run = drive(scheduler, offered, engine, batching, backlog=backlog, stop_after=stop_after)
    scheduler.check_invariants()
    return run
