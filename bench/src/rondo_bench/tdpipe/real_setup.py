"""What the real pipeline benchmark runs: options, a model with random weights, requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rondo.errors import ConfigError
from rondo.policy.plan import Job
from rondo.types import Sampling, Slo
from rondo_bench.engines.shape import Shape
from rondo_bench.sim.lengths import LengthTable, load_lengths
from rondo_bench.tdpipe.simulated import LENGTHS
from rondo_worker.engines.base import EngineRequest

#: 57 million weights. Many layers and a small head, so that two stages are alike, in a prefill step
#: (which spares the last layer most rows) as in a decode step (which needs the head for each row).
SHAPE = Shape(layers=32, hidden=384, heads=6, inner=1024, vocabulary=1024, positions=1024)
BLOCK_SIZE = 16
#: Nobody waits at a screen.
SLO = Slo(ttft_s=1e6, tpot_s=1e6)
#: Classes of the length predictor, by percentile, as in the paper.
NUM_CLASSES = 5


@dataclass(frozen=True, slots=True)
class RealOptions:
    """What to run.

    Requests of the file with prompts of up to `longest_prompt` tokens are drawn (the limit is the
    paper's), lengths divided by `scale`. `pool_tokens` limits the KV pool; `budgets` are the
    step sizes that `pp-hybrid` is tried with. `accuracy`: how often the length predictor names the
    right class; else it names a neighbour of it. `reference_batch`: see `TdPipeSettings`; here
    where a core's matrix products stop gaining from more rows.
    """

    lengths: Path = LENGTHS
    num_requests: int = 500
    num_rounds: int = 5
    num_stages: int = 2
    cores: str = "0,1"
    longest_prompt: int = 1024
    scale: int = 8
    pool_tokens: int = 10_240
    prefill_tokens: int = 128
    budgets: tuple[int, ...] = (64, 96, 128)
    accuracy: float = 0.6
    reference_batch: int = 48
    shape: Shape = SHAPE
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RealRequest:
    """A request with what its answer is expected to be, in tokens."""

    request: EngineRequest
    predicted_tokens: int

    def job(self, order: int) -> Job:
        """A fresh job for a scheduler."""
        return Job(
            request_id=self.request.request_id,
            prompt_tokens=len(self.request.prompt),
            max_tokens=self.request.max_tokens,
            predicted_tokens=self.predicted_tokens,
            slo=SLO,
            arrival_s=0.0,
            ignore_eos=True,
            order=order,
        )


def make_requests(options: RealOptions, count: int) -> list[RealRequest]:
    """Random prompts whose lengths, and those of their answers, are of the file, scaled down.

    Raises:
        ConfigError: the file is not there, or cannot be read.
    """
    if not options.lengths.is_file():
        raise ConfigError("--real-lengths", f"{options.lengths} is not there")
    whole = load_lengths(options.lengths)
    short = whole.prompt_tokens <= options.longest_prompt
    table = LengthTable(whole.prompt_tokens[short], whole.output_tokens[short])
    dice = np.random.default_rng(options.seed)
    drawn = table.sample(dice, count)
    longest = options.shape.positions // 2
    sizes_in = np.clip(drawn.prompt_tokens // options.scale, 1, longest)
    sizes_out = np.clip(drawn.output_tokens // options.scale, 2, longest)
    told = _predict(table.output_tokens // options.scale, sizes_out, options.accuracy, dice)
    return [
        RealRequest(
            EngineRequest(
                f"r{index}",
                tuple(dice.integers(3, options.shape.vocabulary, int(tokens_in)).tolist()),
                int(tokens_out),
                Sampling(temperature=0.0),
                ignore_eos=True,
            ),
            int(predicted),
        )
        for index, (tokens_in, tokens_out, predicted) in enumerate(
            zip(sizes_in, sizes_out, told, strict=True)
        )
    ]


def _predict(
    known: np.ndarray[tuple[int], np.dtype[np.int64]],
    actual: np.ndarray[tuple[int], np.dtype[np.int64]],
    accuracy: float,
    dice: np.random.Generator,
) -> list[int]:
    """The mean of each answer's class of lengths, or of a neighbouring class."""
    edges = np.quantile(known, np.arange(1, NUM_CLASSES) / NUM_CLASSES)
    classes = np.digitize(known, edges)
    means = [max(1, round(float(known[classes == index].mean()))) for index in range(NUM_CLASSES)]
    right = np.digitize(actual, edges)
    slips = np.where(dice.random(len(actual)) < accuracy, 0, dice.choice([-1, 1], len(actual)))
    return [means[index] for index in np.clip(right + slips, 0, NUM_CLASSES - 1)]
