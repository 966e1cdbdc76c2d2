"""Runs EconoServe and its rivals on the real torch engine, in turns, and compares texts.

Each round, every policy serves requests at the rate at which it is expected at the level of latency
that all are compared at, and a backlog. Rates are guessed by simulation first and corrected by what
was measured so far. In the end all serve once the rate of first come, first served.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rondo.errors import ConfigError
from rondo.local.model_folder import find_model
from rondo_bench.econoserve.drive import Run
from rondo_bench.econoserve.real_record import RealFigures, RealModel
from rondo_bench.econoserve.real_run import (
    num_different,
    run_real,
    saturated,
    with_texts,
)
from rondo_bench.econoserve.real_search import BASE, Plan, make_plan
from rondo_bench.econoserve.real_setup import (
    BLOCK_SIZE,
    TINY,
    Bed,
    RealOptions,
    random_tasks,
    tiny_tasks,
)
from rondo_bench.econoserve.simulated import RunFigures, figures_of, saturated_figures
from rondo_bench.econoserve.workloads import SLO_SCALE, slo_of
from rondo_worker.engines.calibrate import calibrate
from rondo_worker.engines.torch import TorchEngine

#: One in so many answers is drawn to spare: rounding decides some of them.
SPARE_PART = 5


@dataclass(frozen=True, slots=True)
class Round:
    """What one policy did in a round: the rate that it serves at the level, and the backlog."""

    rate: float
    backlog: RunFigures


@dataclass(slots=True)
class ModelBench:
    """One model, and the rounds so far by policy; `last` has the last backlog run of each."""

    bed: Bed
    options: RealOptions
    plan: Plan
    say: Callable[[str], None]
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    common: dict[str, RunFigures] = field(default_factory=dict)
    different: Counter[str] = field(default_factory=Counter)
    last: dict[str, Run] = field(default_factory=dict)

    def rate(self, name: str) -> float:
        """Where the policy is expected at the level, by what is known so far."""
        done = self.rounds.get(name)
        return statistics.median(r.rate for r in done) if done else self.plan.guesses[name].rate

    def round(self, seed: int, names: Sequence[str]) -> None:
        """Every policy once; all are asked the same."""
        for name in names:
            rate = self.rate(name)
            found_s = self._serve(name, seed, rate).normalized_latency_s
            self.last[name] = self._backlog(name, seed)
            backlog = saturated_figures(self.last[name])
            at_level = self.plan.guesses[name].moved(self.plan.level_s, rate, found_s)
            self.rounds.setdefault(name, []).append(Round(at_level, backlog))
            self.say(
                f"{self.bed.name:6} {name:14} {at_level:7.2f} requests/s "
                f"({found_s * 1e3:.1f} ms/token at {rate:.2f}), "
                f"{backlog.requests_per_s:7.2f} saturated, "
                f"{backlog.preempted_share:6.1%} preempted, "
                f"{self.different[name]} texts differ so far"
            )

    def common_rate(self, seed: int) -> None:
        """All once at the rate at which first come, first served is at the level."""
        base = [name for name in BASE if name in self.rounds] or list(self.rounds)
        rate = max(self.rate(name) for name in base)
        for name in self.rounds:
            self.common[name] = self._serve(name, seed, rate)

    def result(self) -> RealModel:
        """Medians over the rounds."""
        spec = self.bed.engine.spec
        return RealModel(
            weight_bytes=spec.weight_bytes,
            pool_tokens=spec.num_blocks * spec.block_size,
            run_s=self.options.run_s[self.bed.name],
            level_s=self.plan.level_s,
            policies={name: self._figures(name) for name in self.rounds},
        )

    def _serve(self, name: str, seed: int, rate: float) -> RunFigures:
        offered = self.bed.offered(seed, rate, self.options.run_s[self.bed.name])
        run = run_real(self.bed, self.options.setup(name), offered)
        self.different[name] += num_different(self.bed, run)
        return figures_of(run)

    def _backlog(self, name: str, seed: int) -> Run:
        setup, wanted = self.options.setup(name), self.plan.num_saturated
        run = saturated(self.bed, setup, seed, wanted, real=True)
        self.different[name] += num_different(self.bed, run)
        return run

    def _figures(self, name: str) -> RealFigures:
        rounds, common = self.rounds[name], self.common[name]

        def median(of: Callable[[RunFigures], float]) -> float:
            return round(statistics.median(of(each.backlog) for each in rounds), 4)

        return RealFigures(
            requests_per_s_at_equal_latency=round(self.rate(name), 4),
            saturated_requests_per_s=median(lambda run: run.requests_per_s),
            slo_satisfaction=round(common.slo_satisfaction, 4),
            preempted_share=median(lambda run: run.preempted_share),
            kv_used_share=median(lambda run: run.kv_used_share),
            forward_tokens=median(lambda run: run.forward_tokens),
            normalized_latency_s=round(common.normalized_latency_s, 5),
            completion_s=round(common.completion_s, 4),
            different_texts=self.different[name],
        )


def run_model(
    name: str, options: RealOptions, names: Sequence[str], folder: Path, say: Callable[[str], None]
) -> ModelBench:
    """All rounds of one model; `folder` is an empty one for its files.

    Raises:
        ConfigError: an option makes no sense.
        EngineError: a step failed.
    """
    bed = _load(name, options, folder, say)
    try:
        plan = make_plan(bed, options, names)
        say(f"{name}: all are compared at {plan.level_s * 1e3:.1f} ms/token")
        bench = ModelBench(bed, options, plan, say)
        for number, seed in enumerate(options.seeds()):
            turn = number % len(names)
            bench.round(seed, [*names[turn:], *names[:turn]])
        bench.common_rate(options.seed)
    finally:
        bed.engine.close()
    bench.rounds = {each: bench.rounds[each] for each in names}
    return bench


def _load(name: str, options: RealOptions, folder: Path, say: Callable[[str], None]) -> Bed:
    spare = options.num_tasks + options.num_tasks // SPARE_PART
    if name == TINY:
        folder = find_model(None, weights=True)
        tasks = tiny_tasks(folder, options.seed, spare)
    else:
        tasks = random_tasks(options, spare)
        options.shape.write(folder)
    engine = TorchEngine.load(
        folder,
        device="cpu",
        dtype="float32",
        block_size=BLOCK_SIZE,
        num_blocks=options.pool_tokens[name] // BLOCK_SIZE,
        num_threads=options.num_threads,
    )
    profile = calibrate(engine, budget_s=options.calibration_s)
    slo = slo_of(profile, SLO_SCALE)
    bed = Bed(name, engine, profile, tasks, forced=name != TINY, slo=slo)
    bed = with_texts(bed, options.setup("chunked"), options.num_tasks, say)
    if len(bed.tasks) < options.num_tasks:
        raise ConfigError("--tasks", f"only {len(bed.tasks)} of {options.num_tasks} are clear")
    return bed
