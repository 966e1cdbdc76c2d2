"""The page of results: goodput of each side, ratios, and attainment at every rate."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rondo_bench.goodput_real.model import NAME
from rondo_bench.goodput_real.records import Header, Run, Store, Unloaded, by_seed
from rondo_bench.goodput_real.search import goodput
from rondo_bench.goodput_real.workloads import WORKLOADS
from rondo_bench.machine import span

#: Rondo's sides: its policy, with whatever margin.
OURS = "padg"
#: Bars of the P99 ratio of our best side to the best of the others.
BARS = {"sharegpt": 1.2, "longbench": 1.3}
BAR_TARGET = 0.99


def as_markdown(stores: Sequence[Store], targets: Sequence[float], command: str) -> str:
    """The page of all engines that were measured."""
    parts = ["# Goodput for real", "", f"`{command}`", "", *_rule(stores)]
    for store in stores:
        parts += ["", f"## {store.header.engine}", "", *_setup(store.header), ""]
        parts += _objectives(list(store.unloaded.values()))
        parts += ["", *_goodputs(store, targets), "", *_curves(store)]
    return "\n".join(parts).rstrip() + "\n"


def goodputs(store: Store, workload: str, side: str, target: float) -> dict[int, float]:
    """Goodput of each seed whose search has ended, in requests/s."""
    found: dict[int, float] = {}
    for seed, shares in sorted(by_seed(store.runs, workload, side).items()):
        rates = {step: store.rate(workload, step) for step in shares}
        value = goodput(shares, rates, target)
        if value is not None:
            found[seed] = value
    return found


def pooled(store: Store, workload: str, side: str, target: float) -> float | None:
    """Goodput by attainment over the requests of all seeds; None while it is not enclosed."""
    good: dict[int, float] = {}
    offered: dict[int, int] = {}
    for run in store.runs:
        if (run.workload, run.side) == (workload, side):
            good[run.step] = good.get(run.step, 0.0) + run.attainment * run.offered
            offered[run.step] = offered.get(run.step, 0) + run.offered
    rates = {step: store.rate(workload, step) for step in good}
    return goodput({step: good[step] / offered[step] for step in good}, rates, target)


def ratios(store: Store, workload: str, ours: str, other: str, target: float) -> list[float]:
    """Of one side over another, seed by seed: both had the same requests."""
    left = goodputs(store, workload, ours, target)
    right = goodputs(store, workload, other, target)
    return [left[seed] / right[seed] for seed in left if right.get(seed)]


def is_ours(side: str) -> bool:
    """Whether it is Rondo's cluster with its own policy."""
    return side.partition(":")[0] == OURS


def _rule(stores: Sequence[Store]) -> list[str]:
    wanted = {name for store in stores for name in store.unloaded}
    rows = []
    for one in WORKLOADS:
        if one.name in wanted:
            first_s, step_s = one.unloaded_there()
            ttft, tpot = one.multiples()
            rows.append(
                f"| {one.name} | {one.prompt_tokens:.0f} / {one.output_tokens:.0f} "
                f"| {one.paper.ttft_s:g} s / {one.paper.tpot_s * 1e3:g} ms "
                f"| {first_s * 1e3:.0f} / {step_s * 1e3:.1f} ms | {ttft:.1f} / {tpot:.2f} |"
            )
    return [
        *_HOW.splitlines(),
        "",
        "| workload | mean in / out | limits in the paper | mean request alone, L20 | multiples |",
        "|---|---:|---:|---:|---:|",
        *rows,
    ]


def _setup(header: Header) -> list[str]:
    mode = "compiled" if header.compiled else "not compiled"
    return [
        f"{header.machine}; {header.versions}. {NAME}, {header.dtype}, {mode}, KV pool of "
        f"{header.kv_mib} MiB an instance; lengths times {header.scale:g}; runs of "
        f"{header.settle_s:g} s that do not count and {header.run_s:g} s that do; rates in steps "
        f"of {header.ratio:g}.",
    ]


def _objectives(found: Sequence[Unloaded]) -> list[str]:
    return [
        "| workload | mean in / out here | alone: first token, then a token | limits |",
        "|---|---:|---:|---:|",
        *(
            f"| {one.workload} | {one.prompt_tokens} / {one.output_tokens} "
            f"| {one.ttft_s * 1e3:.0f} / {one.tpot_s * 1e3:.1f} ms ({one.side}) "
            f"| {one.ttft_limit_s:.2f} s / {one.tpot_limit_s * 1e3:.0f} ms |"
            for one in found
        ),
    ]


def _goodputs(store: Store, targets: Sequence[float]) -> list[str]:
    lines = [
        "| workload | target | side | goodput, requests/s | seeds | of all seeds together "
        "| our best over it | |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    sides = sides_of(store.runs)
    for workload in store.unloaded:
        for target in targets:
            best = _best(store, workload, target, [side for side in sides if is_ours(side)])
            rival = _best(store, workload, target, [side for side in sides if not is_ours(side)])
            for side in sides:
                found = list(goodputs(store, workload, side, target).values())
                over: list[float] = []
                if best and not is_ours(side):
                    over = ratios(store, workload, best, side, target)
                together = pooled(store, workload, side, target)
                cells = [workload, f"P{target * 100:g}", side, _span(found), str(len(found))]
                cells += [_span([together] if together is not None else []), _span(over)]
                cells += [_bar(workload, target, over) if side == rival else ""]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def sides_of(runs: Sequence[Run]) -> list[str]:
    """Ours first, then in order of appearance."""
    names = list(dict.fromkeys(run.side for run in runs))
    return sorted(names, key=lambda name: not is_ours(name))


def _best(store: Store, workload: str, target: float, sides: Sequence[str]) -> str | None:
    """The one with the highest median; None before any has one."""
    medians = {
        side: median(found)
        for side in sides
        if (found := list(goodputs(store, workload, side, target).values()))
    }
    return max(medians, key=lambda side: medians[side], default=None)


def _bar(workload: str, target: float, over: Sequence[float]) -> str:
    if workload not in BARS or target != BAR_TARGET or not over:
        return "best of them"
    bar = BARS[workload]
    return f"best of them; {bar:g}: " + ("met" if median(over) >= bar else "**missed**")


def _span(values: Sequence[float]) -> str:
    return span(values, 2) if values else "-"


def _curves(store: Store) -> list[str]:
    """Attainment over all seeds at each rate, and where the misses are."""
    lines = [
        "| workload | side | requests/s | attainment | of | refused | TTFT missed | TPOT missed "
        "| TTFT p99 | TPOT p99 | engines' cores | front | client |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    cells: dict[tuple[str, str, int], list[Run]] = {}
    for run in store.runs:
        cells.setdefault((run.workload, run.side, run.step), []).append(run)
    order, sides = list(store.unloaded), sides_of(store.runs)
    keys = sorted(cells, key=lambda key: (order.index(key[0]), sides.index(key[1]), key[2]))
    return lines + [_curve_row(cells[key]) for key in keys]


def _curve_row(runs: Sequence[Run]) -> str:
    first, offered = runs[0], sum(run.offered for run in runs)
    good = sum(run.attainment * run.offered for run in runs)
    wall_s = sum(run.duration_s for run in runs)
    counts = [sum(getattr(run, name) for run in runs) for name in ("refused", *_MISSED)]
    cells = [
        first.workload,
        first.side,
        f"{first.rate:.2f}",
        f"{good / offered:.2%}",
        str(offered),
        *(f"{count / offered:.1%}" for count in counts),
        _seconds([run.ttft_p99_s for run in runs]),
        _seconds([run.tpot_p99_s for run in runs]),
        *(
            f"{sum(getattr(run, name) for run in runs) / wall_s:.2f}"
            for name in ("engine_cpu_s", "front_cpu_s", "client_cpu_s")
        ),
    ]
    return f"| {' | '.join(cells)} |"


def _seconds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.3f} s" if known else "-"


_MISSED = ("missed_ttft", "missed_tpot")
_HOW = """\
Two instances of the same engine and model, each on a core of its own, under the same client and
the same requests. *padg* is Rondo's cluster with its default policy, *padg:M* the same cluster,
told M of the limits; a name of another policy is a cluster with that one. *vllm* is two `vllm
serve` as they come, *vllm:N* with a token budget of N; requests reach these two by
join-shortest-queue, which the client does itself, so their router costs nothing. Gateway,
coordinators, nats-server, API servers and client share the cores with the instances (last columns
of the last table). Sides take turns run by run, and each time another begins. A run offers
Poisson arrivals of one seed at one rate; goodput is the rate at which attainment falls below the
target, on a line between the two neighbouring rates that enclose it, found for each seed; medians
with least and greatest. A request that is refused or fails has missed. TTFT ends with the first
token at the client, TPOT is the mean of the tokens after it.

**Objectives** are as tight as in EcoServe (arXiv 2504.18154), in multiples of what a request of
mean lengths takes when it is alone: on L20 by the latency profile of CodeLlama-34B, here as
measured on the plain side. **Lengths** are those of the data sets times one factor, so that a run
of seconds has enough requests."""
