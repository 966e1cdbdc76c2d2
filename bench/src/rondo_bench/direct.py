"""The engine called directly in this process, under the same instance scheduler, closed loop."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rondo.metrics.lifecycle import Lifecycle
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.types import Sampling, Slo
from rondo_bench.workload import Item
from rondo_worker.engines.base import Engine, EngineRequest

#: As the worker's settings have it.
MAX_RUNNING = 256
MAX_PREFILL_TOKENS = 4096


def run_direct(engine: Engine, items: Sequence[Item], concurrency: int) -> list[Lifecycle]:
    """Keeps `concurrency` requests in flight until all are done; their stamps."""
    spec = engine.spec
    scheduler = InstanceScheduler(
        KvLedger(spec.num_blocks, spec.block_size),
        max_running=MAX_RUNNING,
        max_prefill_tokens=MAX_PREFILL_TOKENS,
        eos_token_ids=spec.eos_token_ids,
    )
    times: dict[str, Lifecycle] = {}
    queue = list(reversed(items))
    live = 0
    while queue or live:
        while queue and live < concurrency:
            item = queue.pop()
            times[item.request_id] = Lifecycle(time.monotonic())
            _submit(engine, scheduler, item)
            live += 1
        plan = scheduler.plan(time.monotonic())
        assert plan is not None  # something is in flight, and nothing waits for a message
        outcome = scheduler.commit(plan, engine.step(plan))
        now_s = time.monotonic()
        for token in outcome.tokens:
            times[token.request_id].tokens(1, now_s, keep_gaps=True)
        for finished in outcome.finished:
            engine.remove(finished.request_id)
            live -= 1
    return list(times.values())


def _submit(engine: Engine, scheduler: InstanceScheduler, item: Item) -> None:
    now_s = time.monotonic()
    engine.add(
        EngineRequest(
            request_id=item.request_id,
            prompt=item.prompt,
            max_tokens=item.output_tokens,
            sampling=Sampling(temperature=0.0),
            ignore_eos=True,
        )
    )
    job = Job(
        request_id=item.request_id,
        prompt_tokens=len(item.prompt),
        max_tokens=item.output_tokens,
        predicted_tokens=item.output_tokens,
        slo=Slo(ttft_s=5.0, tpot_s=0.1),
        arrival_s=now_s,
        ignore_eos=True,
    )
    scheduler.grant(scheduler.turn_number + 1, [item.request_id], 1e9, now_s)
    problem = scheduler.add(job)
    assert problem is None, problem  # the benchmark's requests are small
