"""What is run of the simulated instance: all policies on all workloads, parts, predictions.

Work is cut into runs of top-level functions with plain arguments, so that processes share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from rondo.policy.econoserve.settings import ORDERS
from rondo.types import Batching, BatchKind
from rondo_bench.econoserve.search import (
    MOST_SHARE,
    POLICIES,
    Trials,
    candidates,
    tune,
)
from rondo_bench.econoserve.simulated import (
    RunFigures,
    Setup,
    latency_model,
    saturated,
)
from rondo_bench.econoserve.workloads import WORKLOADS, Lengths, draw

Say = Callable[[str], None]
#: Mean normalized latency, seconds per token, at which rates are compared; the first is reported.
#: Alone a request has 0.04, and block growth's curve bends at about 0.1.
LEVELS_S = (0.15, 0.1, 0.2)
#: Offered rates of the curves, as shares of the rate at which block growth reaches the first level.
SHARES = (0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
BEND, OVERLOAD = 1.0, 1.5
BASE = "block-growth"
#: Requests that are drawn, over what the instance serves: no search offers more.
DRAWN_SHARE = 1.2 * MOST_SHARE


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is run: requests that come for `seconds` (of ShareGPT, see `Workload.seconds`), for
    each of `seeds`, of lengths in `folder`."""

    folder: Path
    seconds: float
    seeds: tuple[int, ...]

    def draws(self, workload: str, prediction: str = "file") -> list[Lengths]:
        """The workload once for each seed."""
        latency, kind = latency_model(), WORKLOADS[workload]
        duration_s = self.seconds * kind.seconds
        usual = max(1, round(duration_s * kind.rate))
        count = round(DRAWN_SHARE * usual)
        drawn = [draw(kind, self.folder, count, seed, latency) for seed in self.seeds]
        return [
            replace(each, duration_s=duration_s, num_saturated=usual).predicted(prediction, seed)
            for each, seed in zip(drawn, self.seeds, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class PolicyStudy:
    """A tuned policy on one workload.

    `rates` has requests per second by level; none is searched beyond `most_rate`. `curve` has the
    figures by offered rate, as a share of the base's.
    """

    setup: Setup
    rates: Mapping[float, float]
    most_rate: float
    saturated: RunFigures
    curve: Mapping[float, RunFigures] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """A variant of EconoServe, or of what it is told, at the bend and in overload; None where it
    was not asked for saturated."""

    label: str
    bend: RunFigures
    overload: RunFigures
    saturated: RunFigures | None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints of a policy.

    requests_per_s_at_equal_latency: rate at which the mean normalized latency is the level.
    saturated_requests_per_s: answers with a backlog that never empties. slo_satisfaction: at the
    rate at which block growth reaches the level. preempted_share, kv_used_share, forward_tokens:
    at 1.5 times that rate.
    """

    requests_per_s_at_equal_latency: float
    saturated_requests_per_s: float
    slo_satisfaction: float
    preempted_share: float
    kv_used_share: float
    forward_tokens: float


def compare(
    workload: str, scope: Scope, level_s: float, pool: ProcessPoolExecutor, say: Say
) -> dict[str, PolicyStudy]:
    """Every policy on one workload, with the curve over common rates."""
    capacity = pool.submit(base_capacity, workload, scope).result()
    levels = (level_s, *(level for level in LEVELS_S if level != level_s))
    jobs = {
        policy: pool.submit(study_policy, workload, policy, scope, levels, capacity)
        for policy in POLICIES
    }
    studies: dict[str, PolicyStudy] = {}
    for policy, job in jobs.items():
        studies[policy] = job.result()
        rates = ", ".join(f"{rate:.2f} at {s:g} s" for s, rate in studies[policy].rates.items())
        say(f"{workload}: {policy} ({studies[policy].setup.label}): {rates}")
    bend = studies[BASE].rates[level_s]
    curves = {
        policy: {
            share: pool.submit(run_mean, workload, study.setup, scope, share * bend)
            for share in SHARES
        }
        for policy, study in studies.items()
    }
    return {
        policy: replace(study, curve={share: job.result() for share, job in curves[policy].items()})
        for policy, study in studies.items()
    }


def figures_of_policies(studies: Mapping[str, PolicyStudy], level_s: float) -> dict[str, Figures]:
    """What `--json` prints."""
    return {
        policy: Figures(
            requests_per_s_at_equal_latency=round(study.rates[level_s], 3),
            saturated_requests_per_s=round(study.saturated.requests_per_s, 3),
            slo_satisfaction=round(study.curve[BEND].slo_satisfaction, 4),
            preempted_share=round(study.curve[OVERLOAD].preempted_share, 4),
            kv_used_share=round(study.curve[OVERLOAD].kv_used_share, 4),
            forward_tokens=round(study.curve[OVERLOAD].forward_tokens, 1),
        )
        for policy, study in studies.items()
    }


def base_capacity(workload: str, scope: Scope) -> float:
    """Requests per second of saturated block growth, untuned, on the first draw."""
    setup = Setup(BASE, Batching(kind=BatchKind.CHUNKED, tokens=128))
    lengths = replace(scope, seeds=scope.seeds[:1]).draws(workload)[0]
    return saturated(setup, lengths, latency_model()).requests_per_s


def study_policy(
    workload: str, policy: str, scope: Scope, levels: Sequence[float], capacity: float
) -> PolicyStudy:
    """Tunes a policy for the first level and finds its rate at each; no curve yet."""
    trials = tune(candidates(policy), scope.draws(workload), levels[0], capacity)
    return PolicyStudy(
        trials.setup,
        {level_s: trials.rate_at(level_s, capacity) for level_s in levels},
        MOST_SHARE * capacity,
        trials.saturated(),
    )


def run_mean(
    workload: str, setup: Setup, scope: Scope, rate: float, prediction: str = "file"
) -> RunFigures:
    """The figures at a rate, mean over the seeds."""
    return Trials(setup, scope.draws(workload, prediction)).at(rate)


def run_saturated(
    workload: str, setup: Setup, scope: Scope, prediction: str = "file"
) -> RunFigures:
    """The figures with a backlog, mean over the seeds."""
    return Trials(setup, scope.draws(workload, prediction)).saturated()


def variants(setup: Setup) -> list[tuple[str, Setup]]:
    """EconoServe as it is, and with one part taken away or changed at a time."""

    def changed(**knobs: object) -> Setup:
        return replace(setup, econo=msgspec.structs.replace(setup.econo, **knobs))

    now = setup.econo
    orders = [each for each in ORDERS if each != now.order]
    groups = [each for each in (0, 16, 64) if each != now.groups]
    pads = [each for each in (0.0, 0.15, 0.3) if each != now.pad]
    return [
        ("as it is", setup),
        *((f"order: {each}", changed(order=each)) for each in orders),
        ("no pipelining (exact)", changed(pipelining=False)),
        *((f"groups of {each} steps", changed(groups=each)) for each in groups),
        *((f"pad {each:.0%}", changed(pad=each)) for each in pads),
        ("no reserve", changed(reserve_share=0.0)),
        ("no headroom for short answers", changed(headroom_share=0.0)),
        ("never a turn for the oldest", changed(elder_every=10**9)),
    ]


def take_apart(
    workload: str, setup: Setup, scope: Scope, bend: float, pool: ProcessPoolExecutor
) -> list[Part]:
    """The parts of EconoServe."""
    jobs = [
        (
            label,
            pool.submit(run_mean, workload, each, scope, BEND * bend),
            pool.submit(run_mean, workload, each, scope, OVERLOAD * bend),
            pool.submit(run_saturated, workload, each, scope),
        )
        for label, each in variants(setup)
    ]
    return [Part(label, a.result(), b.result(), c.result()) for label, a, b, c in jobs]


#: What schedulers are told of an answer's length.
PREDICTIONS = ("exact", "file", "noise=0.25", "noise=0.5", "noise=1.0", "mean")


def vary_predictions(
    workload: str,
    setups: Mapping[str, Setup],
    scope: Scope,
    bend: float,
    pool: ProcessPoolExecutor,
) -> dict[str, list[Part]]:
    """The same requests with other predictions, for each of these policies."""
    jobs = {
        policy: [
            (
                kind,
                pool.submit(run_mean, workload, setup, scope, BEND * bend, kind),
                pool.submit(run_mean, workload, setup, scope, OVERLOAD * bend, kind),
            )
            for kind in PREDICTIONS
        ]
        for policy, setup in setups.items()
    }
    return {
        policy: [Part(kind, a.result(), b.result(), None) for kind, a, b in rows]
        for policy, rows in jobs.items()
    }
