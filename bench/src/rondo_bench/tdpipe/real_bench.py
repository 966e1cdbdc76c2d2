"""Runs TD-Pipe and its rivals on a real pipeline engine, in turns, and compares texts.

All schedulers drive the same stage processes. A first round, in which `pp-hybrid` finds its best
budget, warms everything up. The texts of every run are compared with those of the torch engine in
one process; requests whose text depends on rounding are left out.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from rondo.perf.profile import LatencyProfile
from rondo.policy.ledger import KvLedger
from rondo.policy.tdpipe import (
    PipeScheduler,
    PipeSettings,
    PipeSetup,
    TdPipeSettings,
    make_scheduler,
)
from rondo.policy.tdpipe.settings import FusedSettings
from rondo_bench.tdpipe.real_chart import draw_stages
from rondo_bench.tdpipe.real_run import RealRun, Texts, reference, run_pipeline
from rondo_bench.tdpipe.real_setup import (
    BLOCK_SIZE,
    RealOptions,
    RealRequest,
    make_requests,
)
from rondo_bench.tdpipe.simulated import HYBRID
from rondo_worker.engines.calibrate import calibrate
from rondo_worker.engines.pipeline import PipelineEngine
from rondo_worker.engines.pipeline.split import parse_stage_cores
from rondo_worker.engines.torch import TorchEngine

CALIBRATION_S = 4.0
#: Requests that decode together in the one process that texts are compared with.
REFERENCE_RUNNING = 64
#: Two logits closer than this may change places with the batch that they are computed in: sums of
#: other order differ by 2e-6. Such a request proves nothing; one in so many is drawn to spare.
TIE = 1e-5
SPARE_PART = 20
#: The bars: TD-Pipe over separate batches, and its share of bubbles.
RATIO, BUBBLES = 1.15, 0.05


class PolicyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the rounds: tokens of answers a second, idle share of the stages between ramp-up
    and drain, changes between the phases, requests that were prefilled again."""

    tokens_per_s: float
    bubble_share: float
    phase_switches: float
    recomputed: float


@dataclass(slots=True)
class RealBench:
    """The engine, what it serves, and the runs so far by scheduler."""

    options: RealOptions
    engine: PipelineEngine
    profile: LatencyProfile
    requests: Sequence[RealRequest]
    texts: Texts
    say: Callable[[str], None]
    budget: int = 0
    runs: dict[str, list[RealRun]] = field(default_factory=dict)
    num_different: int = 0

    def find_budget(self) -> None:
        """Tries the budgets of `pp-hybrid`, once each; the fastest stays."""
        rates = {budget: self._run(HYBRID, budget).tokens_per_s for budget in self.options.budgets}
        self.budget = max(rates, key=lambda budget: rates[budget])
        self.say(f"{HYBRID}: a budget of {self.budget} tokens is the best")

    def round(self, names: Sequence[str]) -> None:
        """Every scheduler once."""
        for name in names:
            self.runs.setdefault(name, []).append(self._run(name, self.budget))

    def figures(self) -> dict[str, PolicyFigures]:
        """Medians, by scheduler."""
        return {name: _medians(runs) for name, runs in self.runs.items()}

    def _run(self, name: str, budget: int) -> RealRun:
        run = run_pipeline(self.engine, self._scheduler(name, budget), self.requests)
        different = sum(self.texts[each] != text for each, text in run.texts.items())
        self.num_different += different
        self.say(
            f"{name:13} {run.tokens_per_s:7.1f} tokens/s, bubbles {run.bubble_share:6.2%}, "
            f"{run.num_switches:4} switches, {run.num_recomputed:3} recomputed, "
            f"{run.duration_s:6.1f} s, {different} texts differ"
            + (f", budget {budget}" if name == HYBRID else "")
        )
        return run

    def _scheduler(self, name: str, budget: int) -> PipeScheduler:
        options = self.options
        settings = PipeSettings(
            prefill_tokens=options.prefill_tokens,
            budget_tokens=budget or options.prefill_tokens,
            tdpipe=TdPipeSettings(reference_batch=options.reference_batch),
            fused=FusedSettings(step_tokens=options.prefill_tokens),
        )
        ledger = KvLedger(self.engine.spec.num_blocks, BLOCK_SIZE)
        return make_scheduler(name, PipeSetup(ledger, self.profile, options.num_stages, settings))


def _medians(runs: Sequence[RealRun]) -> PolicyFigures:
    return PolicyFigures(
        tokens_per_s=round(statistics.median(run.tokens_per_s for run in runs), 2),
        bubble_share=round(statistics.median(run.bubble_share for run in runs), 4),
        phase_switches=statistics.median(run.num_switches for run in runs),
        recomputed=statistics.median(run.num_recomputed for run in runs),
    )


def run_real(
    options: RealOptions, names: Sequence[str], chart: Path | None, say: Callable[[str], None]
) -> RealBench:
    """Measures; `say` takes lines for the user.

    Raises:
        ConfigError: an option makes no sense.
        EngineError: a step failed.
    """
    drawn = make_requests(options, options.num_requests + options.num_requests // SPARE_PART)
    cores = parse_stage_cores(options.cores, options.num_stages)
    sizes: dict[str, Any] = {
        "device": "cpu",
        "dtype": "float32",
        "block_size": BLOCK_SIZE,
        "num_blocks": options.pool_tokens // BLOCK_SIZE,
    }
    with tempfile.TemporaryDirectory(prefix="rondo-tdpipe-") as made:
        folder = Path(made) / "model"
        options.shape.write(folder)
        say(f"{options.shape.parameters / 1e6:.0f} M weights")
        requests, texts = _with_texts(folder, drawn, options.num_requests, sizes, say)
        engine = PipelineEngine.load(folder, num_stages=options.num_stages, cores=cores, **sizes)
        try:
            profile = calibrate(engine, budget_s=CALIBRATION_S)
            bench = RealBench(options, engine, profile, requests, texts, say)
            if HYBRID in names:
                bench.find_budget()
            for number in range(options.num_rounds):
                turn = number % len(names)
                bench.round([*names[turn:], *names[:turn]])
        finally:
            engine.close()
    bench.runs = {name: bench.runs[name] for name in names}
    if chart is not None:
        draw_stages({name: _typical(runs) for name, runs in bench.runs.items()}, chart)
    return bench


def _with_texts(
    folder: Path,
    drawn: Sequence[RealRequest],
    wanted: int,
    sizes: dict[str, Any],
    say: Callable[[str], None],
) -> tuple[list[RealRequest], Texts]:
    """The first `wanted` requests whose greedy text rounding cannot change, and these texts, as
    one process makes them a step at a time."""
    engine = TorchEngine.load(folder, num_threads=1, **sizes)
    try:
        made = reference(engine, drawn, REFERENCE_RUNNING)
    finally:
        engine.close()
    clear = [each for each in drawn if made.margins[each.request.request_id] > TIE][:wanted]
    texts = {each.request.request_id: made.texts[each.request.request_id] for each in clear}
    say(
        f"{len(clear)} requests with {sum(map(len, texts.values()))} tokens; of {len(drawn)} drawn "
        f"{sum(margin <= TIE for margin in made.margins.values())} had a tie within rounding"
    )
    return clear, texts


def _typical(runs: Sequence[RealRun]) -> RealRun:
    """The run of median speed."""
    return sorted(runs, key=lambda run: run.tokens_per_s)[len(runs) // 2]


def verdict(bench: RealBench) -> list[str]:
    """How the figures stand to the bars, a line each."""
    figures = bench.figures()
    lines = [f"texts that differ from one process: {bench.num_different} (bar: 0)"]
    ours, theirs = figures.get("tdpipe"), figures.get("pp-separate")
    if ours and theirs:
        ratio = ours.tokens_per_s / theirs.tokens_per_s
        lines.append(f"tdpipe over pp-separate: {ratio:.3f} (bar: at least {RATIO})")
    if ours:
        lines.append(f"bubbles of tdpipe: {ours.bubble_share:.2%} (bar: at most {BUBBLES:.0%})")
    return lines
