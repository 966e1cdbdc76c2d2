"""What one instance is offered: lengths of three kinds, predictions of several, a latency goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rondo.errors import ConfigError
from rondo.types import LatencyModel, Slo
from rondo_bench.econoserve.drive import Offered
from rondo_bench.sim.arrivals import unit_gaps
from rondo_bench.sim.lengths import LengthTable, load_lengths

#: Relative to the repository.
LENGTHS = Path("../shared/data/lengths")
#: A deadline is so many times what the request takes alone.
SLO_SCALE = 2.5
#: What a request takes alone is read off a prompt of that length.
ALONE_PROMPT_TOKENS = 256
_LENGTHS, _GAPS, _NOISE = range(3)


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths of a file, as they are used.

    Args:
        file: in the folder of lengths. max_tokens: of prompt and answer together; rows above are
            left out, and it is what an answer may grow to. scale: answers (and the file's
            predictions) are so many times as long. noise: log-normal error of the predictions
            where the file has none. rate: requests a second that the instance serves, about.
            seconds: for which requests come, over those of ShareGPT: so that runs of all workloads
            take about as long.
    """

    name: str
    file: str
    max_tokens: int = 2048
    scale: int = 1
    noise: float = 0.0
    rate: float = 2.0
    seconds: float = 1.0


WORKLOADS = {
    each.name: each
    for each in (
        Workload("sharegpt", "sharegpt_40k_with_predicted_output.csv.gz"),
        Workload("alpaca", "alpaca_gpt4_sample_999.csv", noise=0.2, rate=10.0, seconds=0.4),
        Workload(
            "long",
            "sharegpt_40k_with_predicted_output.csv.gz",
            max_tokens=4096,
            scale=3,
            rate=0.3,
            seconds=2.0,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Lengths:
    """Requests without a clock: one row each, in order of arrival, and gaps of mean 1.

    Args:
        duration_s: for which they come at any rate, unless they run out. num_saturated: how many
            make a run with a backlog.
    """

    prompts: Sequence[int]
    answers: Sequence[int]
    predictions: Sequence[int]
    gaps: NDArray[np.float64]
    max_tokens: int
    slo: Slo
    duration_s: float = inf
    num_saturated: int | None = None

    @property
    def mean_answer(self) -> float:
        """Mean tokens of an answer."""
        return sum(self.answers) / len(self.answers)

    def at_rate(self, rate: float) -> list[Offered]:
        """The same requests, in the same pattern, at `rate` requests a second (Poisson)."""
        return self._coming(rate, self.duration_s)

    def backlog(self) -> list[Offered]:
        """The requests of a run in which some always wait."""
        return self._coming(1.0, inf)[: self.num_saturated]

    def predicted(self, kind: str, seed: int) -> Lengths:
        """The same requests with other predictions: `file` (as they are), `mean` (of all answers),
        `exact`, or `noise=WIDTH`, the true length times e^N(0, WIDTH).

        Raises:
            ConfigError: no such kind.
        """
        if kind == "file":
            return self
        if kind == "mean":
            told = [max(1, round(self.mean_answer))] * len(self.answers)
        elif kind == "exact":
            told = list(self.answers)
        elif kind.startswith("noise="):
            told = _noisy(np.array(self.answers), float(kind.removeprefix("noise=")), seed)
        else:
            raise ConfigError("--prediction", f"{kind!r} is not file, mean, exact or noise=WIDTH")
        return replace(self, predictions=told)

    def _coming(self, rate: float, duration_s: float) -> list[Offered]:
        times_s = np.cumsum(self.gaps) / rate
        count = int(np.searchsorted(times_s, duration_s, side="right"))
        rows = zip(
            times_s[:count].tolist(), self.prompts, self.answers, self.predictions, strict=False
        )
        return [
            Offered(f"r{number}", at_s, prompt, answer, told, self.max_tokens - prompt, self.slo)
            for number, (at_s, prompt, answer, told) in enumerate(rows)
        ]


def draw(workload: Workload, folder: Path, count: int, seed: int, latency: LatencyModel) -> Lengths:
    """`count` rows of the workload's file, drawn with replacement.

    Raises:
        ConfigError: no such file.
    """
    path = folder / workload.file
    if not path.is_file():
        raise ConfigError("--lengths", f"no file {path}")
    table = _used(load_lengths(path), workload)
    drawn = table.sample(_stream(seed, _LENGTHS), count)
    answers = drawn.output_tokens
    if drawn.predicted_tokens is None:
        told = _noisy(answers, workload.noise, seed)
    else:
        told = np.maximum(drawn.predicted_tokens, 1).tolist()
    return Lengths(
        prompts=drawn.prompt_tokens.tolist(),
        answers=answers.tolist(),
        predictions=told,
        gaps=unit_gaps(_stream(seed, _GAPS), count, 1.0),
        max_tokens=workload.max_tokens,
        slo=slo_of(latency, SLO_SCALE),
    )


def slo_of(latency: LatencyModel, scale: float) -> Slo:
    """`scale` times what a request needs that has the instance for itself."""
    tokens = ALONE_PROMPT_TOKENS
    prefill_s = latency.step_s(tokens, tokens * tokens, 0, 0)
    return Slo(ttft_s=scale * prefill_s, tpot_s=scale * latency.step_s(0, 0, 1, tokens))


def _used(table: LengthTable, workload: Workload) -> LengthTable:
    answers = table.output_tokens * workload.scale
    rows = np.flatnonzero(table.prompt_tokens + answers <= workload.max_tokens)
    told = table.predicted_tokens
    return LengthTable(
        prompt_tokens=table.prompt_tokens[rows],
        output_tokens=answers[rows],
        predicted_tokens=None if told is None else told[rows] * workload.scale,
    )


def _noisy(answers: NDArray[np.int64], width: float, seed: int) -> list[int]:
    factors = np.exp(_stream(seed, _NOISE).normal(0.0, width, size=len(answers)))
    told: list[int] = np.maximum(np.rint(answers * factors), 1).astype(np.int64).tolist()
    return told


def _stream(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, stream]))
