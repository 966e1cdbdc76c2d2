"""Runs the sides in turns: every side's next run of every workload, seed after seed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rondo.types import Slo
from rondo_bench.engines.shape import Shape
from rondo_bench.goodput_real.measure import one_run, target_of, unloaded
from rondo_bench.goodput_real.model import write_model
from rondo_bench.goodput_real.records import Cell, Run, Store, by_seed
from rondo_bench.goodput_real.search import bracket, next_step
from rondo_bench.goodput_real.sides import Running, Setup, Side, start_side
from rondo_bench.goodput_real.workloads import Workload

#: Of a search that has no seed before it to begin from, and of all others.
FIRST_STRIDE, STRIDE = 2, 1
#: Between two runs, so that the last one's connections and cancellations are over.
PAUSE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to compare. `budget_s` bounds everything from the first start on; what is there by
    then stays, and the next call goes on."""

    sides: Sequence[Side]
    workloads: Sequence[Workload]
    targets: Sequence[float]
    num_seeds: int
    budget_s: float
    lengths: Path
    setup: Setup
    shape: Shape


async def compare(options: Options, store: Store, tell: Callable[[str], None]) -> bool:
    """Measures until every search has ended or the time is over; whether all is there.

    SIGTERM stops the sides and raises CancelledError.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _cancel(asyncio.current_task()))
    deadline_s = time.monotonic() + options.budget_s
    write_model(options.setup.model, options.shape)
    async with AsyncExitStack() as stack:
        hosts: dict[str, Running] = {}
        # Plain ones first: a cluster's workers measure their engine when they start.
        for side in sorted(options.sides, key=lambda side: not side.is_plain):
            if side.host not in hosts:
                tell(f"starting {side.host}")
                start = start_side(side, options.setup)
                hosts[side.host] = await stack.enter_async_context(start)
        await _measure_alone(options, store, hosts, tell)
        for seed in range(options.num_seeds):
            number = 0
            while cells := list(_cells(options, store, seed, number)):
                for side, cell in cells:
                    if time.monotonic() > deadline_s:
                        return False
                    run = await _run(options, store, hosts[side.host], cell, side.margin)
                    store.add(run)
                    tell(_as_line(run))
                    await asyncio.sleep(PAUSE_S)
                number += 1
    return True


def _cancel(task: asyncio.Task[object] | None) -> Callable[[], object]:
    assert task is not None  # a coroutine runs in one
    return task.cancel


def _cells(options: Options, store: Store, seed: int, number: int) -> Iterator[tuple[Side, Cell]]:
    """The next run of every workload and side that still needs one; each time another side
    begins."""
    turn = (seed + number) % len(options.sides)
    for workload in options.workloads:
        for side in [*options.sides[turn:], *options.sides[:turn]]:
            step = plan(store.runs, workload.name, side.name, seed, options.targets)
            if step is None:
                continue
            rate = store.rate(workload.name, step)
            yield (
                side,
                Cell(workload=workload.name, side=side.name, seed=seed, step=step, rate=rate),
            )


def plan(
    runs: Sequence[Run], workload: str, side: str, seed: int, targets: Sequence[float]
) -> int | None:
    """The step to measure next; None when this seed's search has ended.

    A search begins where those of the seeds before ended.
    """
    found = by_seed(runs, workload, side)
    before = [shares for number, shares in found.items() if number < seed]
    starts = [_start(before, target) for target in targets]
    stride = STRIDE if before else FIRST_STRIDE
    return next_step(found.get(seed, {}), targets, starts, stride)


def _start(before: Sequence[Mapping[int, float]], target: float) -> int:
    ends = [found.meets for shares in before if (found := bracket(shares, target)).closed]
    return round(median(end for end in ends if end is not None)) if ends else 0


async def _measure_alone(
    options: Options, store: Store, hosts: Mapping[str, Running], tell: Callable[[str], None]
) -> None:
    """Objectives come from the plain side, so that none of Rondo's own speed moves them."""
    plain = next((side for side in options.sides if side.is_plain), options.sides[-1])
    host = hosts[plain.host]
    for workload in options.workloads:
        if workload.name in store.unloaded:
            continue
        found = await unloaded(plain.name, host, workload, store.header, options.shape.vocabulary)
        store.add(found)
        tell(
            f"{workload.name}: alone {found.ttft_s:.3f} s, then {found.tpot_s * 1e3:.1f} ms a token"
            f"; limits {found.ttft_limit_s:.2f} s and {found.tpot_limit_s * 1e3:.0f} ms"
        )


async def _run(options: Options, store: Store, host: Running, cell: Cell, margin: float) -> Run:
    header, alone = store.header, store.unloaded[cell.workload]
    workload = next(one for one in options.workloads if one.name == cell.workload)
    arrivals = workload.arrivals(
        options.lengths,
        scale=header.scale,
        rate=cell.rate,
        duration_s=header.settle_s + header.run_s,
        seed=cell.seed,
    )
    slo = Slo(ttft_s=alone.ttft_limit_s, tpot_s=alone.tpot_limit_s)
    told = Slo(ttft_s=slo.ttft_s * margin, tpot_s=slo.tpot_s * margin)
    target = target_of(host, options.shape.vocabulary, told)
    return await one_run(cell, host, target, arrivals, slo, header.settle_s)


def _as_line(run: Run) -> str:
    why = f"{run.refused} refused, {run.missed_ttft} late, {run.missed_tpot} slow"
    return (
        f"{run.workload:10} {run.side:12} seed {run.seed}  {run.rate:7.3f}/s  "
        f"{run.attainment:7.2%} of {run.offered:4}  ({why}, {run.failed} failed)"
    )
