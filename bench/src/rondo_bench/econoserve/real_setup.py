"""What the real EconoServe benchmark runs: options, models, requests with known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rondo.errors import ConfigError
from rondo.perf.profile import LatencyProfile
from rondo.policy.econoserve import EconoSettings
from rondo.types import Batching, BatchKind, Sampling, Slo
from rondo_bench.econoserve.drive import Offered
from rondo_bench.econoserve.real_tiny import LIMIT_TOKENS, TinyTokens, predictions, questions
from rondo_bench.econoserve.simulated import Setup
from rondo_bench.econoserve.workloads import LENGTHS
from rondo_bench.engines.shape import Shape
from rondo_bench.sim.arrivals import unit_gaps
from rondo_bench.sim.lengths import load_lengths
from rondo_worker.engines.base import EngineRequest

if TYPE_CHECKING:
    from rondo_worker.engines.torch import TorchEngine  # loads torch

#: 59 million weights, few layers: a step of this engine has a price for each.
SHAPE = Shape(layers=12, hidden=512, heads=8, inner=2048, vocabulary=8192, positions=2048)
#: Ids below are special in some models.
FIRST_ID = 16
RANDOM, TINY = "random", "tiny"
MODELS = (RANDOM, TINY)
#: Of prompt and answer, in the file of lengths; longer requests are left out, and an answer may be
#: as long as its prompt leaves room for.
LONGEST = 2048
#: Small blocks, because lengths are small.
BLOCK_SIZE = 4
MAX_RUNNING = 256
#: Ageing would weaken the rival.
UNAGED = EconoSettings(elder_every=10**9)
NO_LIMIT = Slo(ttft_s=1e6, tpot_s=1e6)


@dataclass(frozen=True, slots=True)
class RealOptions:
    """What to run.

    Lengths of the random model are those of a file, divided by `scale`. By model, `pool_tokens` is
    the size of the KV pool, `run_s` how long requests come in a run, `saturated_s` about how long
    one with a backlog takes. `step_tokens` is the most in a step.
    """

    lengths: Path = LENGTHS / "sharegpt_40k_with_predicted_output.csv.gz"
    models: Sequence[str] = MODELS
    num_rounds: int = 5
    num_tasks: int = 240
    scale: int = 16
    pool_tokens: Mapping[str, int] = field(default_factory=lambda: {RANDOM: 512, TINY: 768})
    run_s: Mapping[str, float] = field(default_factory=lambda: {RANDOM: 3.5, TINY: 2.5})
    saturated_s: Mapping[str, float] = field(default_factory=lambda: {RANDOM: 3.0, TINY: 2.0})
    calibration_s: float = 4.0
    step_tokens: int = 128
    num_threads: int = 1
    shape: Shape = SHAPE
    seed: int = 1

    def seeds(self) -> list[int]:
        """Of the rounds: each has arrivals of its own, the same for every policy."""
        return [self.seed + number for number in range(self.num_rounds)]

    def setup(self, policy: str) -> Setup:
        """How a policy runs. `block-growth` is the classic, with steps of prompts or decodes; all
        others share steps, as `chunked` does, which is block growth otherwise."""
        separate = policy == "block-growth"
        kind = BatchKind.SEPARATE if separate else BatchKind.CHUNKED
        return Setup(
            "block-growth" if policy == "chunked" else policy,
            Batching(kind=kind, tokens=self.step_tokens),
            max_prefill_tokens=self.step_tokens,
            econo=UNAGED if policy == "shortest-first" else EconoSettings(),
        )


@dataclass(frozen=True, slots=True)
class Task:
    """A request; `text` are its answer's tokens, `limit` the most that they might be."""

    prompt: tuple[int, ...]
    limit: int
    predicted: int
    output: int
    text: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Bed:
    """A model that is served, and what it is asked. `forced`: see `RealEngine`."""

    name: str
    engine: TorchEngine
    profile: LatencyProfile
    tasks: Sequence[Task]
    forced: bool
    slo: Slo = NO_LIMIT

    def offered(self, seed: int, rate: float, duration_s: float) -> list[Offered]:
        """What comes within a time: drawn by the seed, in the same pattern at any rate (Poisson),
        and at least one request."""
        queue = self.queue(seed, 50 + round(2 * rate * duration_s))
        gaps = unit_gaps(np.random.default_rng([seed, 2]), len(queue), 1.0)
        times_s = (np.cumsum(gaps) / rate).tolist()
        return [
            replace(each, at_s=at_s)
            for number, (each, at_s) in enumerate(zip(queue, times_s, strict=True))
            if at_s <= duration_s or not number
        ]

    def queue(self, seed: int, count: int) -> list[Offered]:
        """`count` requests drawn by the seed, all there from the beginning."""
        rows = np.random.default_rng([seed, 1]).integers(0, len(self.tasks), count).tolist()
        return [self.offer(f"{row}-{number}", 0.0) for number, row in enumerate(rows)]

    def task(self, request_id: str) -> Task:
        """What a request of `offered` asks."""
        return self.tasks[int(request_id.partition("-")[0])]

    def requests(self, offered: Sequence[Offered]) -> dict[str, EngineRequest]:
        """As the engine needs them."""
        found = {each.request_id: self.task(each.request_id) for each in offered}
        greedy = Sampling(temperature=0.0)
        return {
            name: EngineRequest(name, task.prompt, task.limit, greedy, ignore_eos=self.forced)
            for name, task in found.items()
        }

    def offer(self, request_id: str, at_s: float) -> Offered:
        """A request; its id begins with the number of its task."""
        task = self.task(request_id)
        prompt = len(task.prompt)
        return Offered(request_id, at_s, prompt, task.output, task.predicted, task.limit, self.slo)


def random_tasks(options: RealOptions, count: int) -> list[Task]:
    """Random prompts. Lengths of prompts and answers, and the predictions, are of the file.

    Raises:
        ConfigError: the file is not there, cannot be read, or has no predictions.
    """
    if not options.lengths.is_file():
        raise ConfigError("--real-lengths", f"{options.lengths} is not there")
    table = load_lengths(options.lengths)
    if table.predicted_tokens is None:
        raise ConfigError("--real-lengths", f"{options.lengths} has no predictions")
    longest = LONGEST // options.scale
    dice = np.random.default_rng(options.seed)
    rows = np.flatnonzero(table.prompt_tokens + table.output_tokens <= LONGEST)
    drawn = dice.choice(rows, count)
    sizes = (table.prompt_tokens[drawn], table.output_tokens[drawn], table.predicted_tokens[drawn])
    scaled = (np.maximum(1, np.rint(size / options.scale)).astype(int).tolist() for size in sizes)
    return [
        Task(
            prompt=tuple(dice.integers(FIRST_ID, options.shape.vocabulary, prompt).tolist()),
            limit=longest - prompt,
            predicted=predicted,
            output=output,
        )
        for prompt, output, predicted in zip(*scaled, strict=True)
    ]


def tiny_tasks(folder: Path, seed: int, count: int) -> list[Task]:
    """Questions to rondo-tiny; how long the answers are remains to be seen."""
    tokens = TinyTokens(folder)
    prompts = [tokens.prompt(question) for question in questions(seed, count)]
    told = predictions(folder, prompts)
    return [Task(p, LIMIT_TOKENS, t, LIMIT_TOKENS) for p, t in zip(prompts, told, strict=True)]
