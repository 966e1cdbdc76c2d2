"""How good predictions of answer lengths are: errors, cost, and whether their quantiles hold."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rondo.lengths.classes import LengthClasses
from rondo.lengths.empirical import WINDOW
from rondo.lengths.model import LengthModel
from rondo.lengths.records import LengthRecord
from rondo_bench.lengths.calibrate import placed

Values = npt.NDArray[np.float64]

#: What the gateway adds to an expected length.
MARGIN = 1.2
#: Quantiles that are checked.
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
#: Classes of prompt lengths, with as many prompts each, of the length-bucket predictor.
NUM_BUCKETS = 20
#: Prompts of the timing, in tokens.
COST_TOKENS = (30, 300, 2_000, 100_000)


@dataclass(frozen=True, slots=True)
class Score:
    """Of one predictor. Tokens, but `close`, the share of answers within a quarter, and what is
    reserved for MARGIN times the prediction: the share of answers that need more, and how much
    more is reserved than used, of what is used.
    """

    mae: float
    rmse: float
    bias: float
    close: float
    short: float
    surplus: float

    @classmethod
    def of(cls, predicted: Values, outputs: Values, limits: Values) -> Score:
        """Predictions are cut at the limits, as the gateway does."""
        told = np.clip(predicted, 1.0, limits)
        reserved = np.clip(np.round(predicted * MARGIN), 1.0, limits)
        errors = told - outputs
        return cls(
            mae=float(np.abs(errors).mean()),
            rmse=float(np.sqrt((errors**2).mean())),
            bias=float(errors.mean()),
            close=float((np.abs(errors) <= 0.25 * outputs).mean()),
            short=float((outputs > reserved).mean()),
            surplus=float(np.maximum(reserved - outputs, 0.0).sum() / outputs.sum()),
        )


@dataclass(frozen=True, slots=True)
class Known:
    """Lengths that predictors without a text learn from: prompts, and answers that ended."""

    prompt_tokens: Values
    outputs: Values

    @classmethod
    def of(cls, records: Sequence[LengthRecord]) -> Known:
        """Those of the answers that ended by themselves."""
        ended = [record for record in records if record.finish == "stop"]
        prompts = np.array([len(record.prompt) for record in ended], dtype=np.float64)
        return cls(prompts, np.array([record.output for record in ended], dtype=np.float64))


def rivals(known: Known, prompt_tokens: Values, outputs: Values) -> dict[str, Values]:
    """What predictors without a text say of answers that end after `outputs` tokens.

    The running mean is the gateway's fallback: of the last answers before, all of which have
    ended. The near-oracle is told the class that the answer will be of.
    """
    edges = np.unique(np.quantile(known.prompt_tokens, np.linspace(0, 1, NUM_BUCKETS + 1)[1:-1]))
    bucket = np.searchsorted(edges, known.prompt_tokens)
    counts = np.maximum(np.bincount(bucket, minlength=len(edges) + 1), 1)
    means = np.bincount(bucket, known.outputs, minlength=len(edges) + 1) / counts
    history = np.cumsum([0.0, *known.outputs[-WINDOW:], *outputs])
    first = min(WINDOW, len(known.outputs))
    start = np.maximum(0, np.arange(len(outputs)) + first - WINDOW)
    stop = np.arange(len(outputs)) + first
    classes = LengthClasses.of(known.outputs.astype(int).tolist(), 32)
    return {
        "always the mean": np.full(len(outputs), known.outputs.mean()),
        "mean of the last answers (fallback)": (history[stop] - history[start]) / (stop - start),
        "mean of the prompt-length bucket": means[np.searchsorted(edges, prompt_tokens)],
        "near-oracle: the true class": np.array(
            [classes.means[classes.index(int(output))] for output in outputs]
        ),
    }


def scores(model: LengthModel, known: Known, records: Sequence[LengthRecord]) -> dict[str, Score]:
    """Of the predictor and its rivals on `records`, which nobody has seen."""
    prompts = np.array([len(record.prompt) for record in records], dtype=np.float64)
    outputs = np.array([record.output for record in records], dtype=np.float64)
    limits = np.array([record.max_tokens for record in records], dtype=np.float64)
    said: Mapping[str, Values] = {
        **rivals(known, prompts, outputs),
        "the predictor": np.array(
            [model.predict(r.prompt, r.max_tokens).expected for r in records]
        ),
    }
    return {name: Score.of(values, outputs, limits) for name, values in said.items()}


def coverage(model: LengthModel, records: Sequence[LengthRecord]) -> dict[float, float]:
    """For each of SHARES the share of answers that are no longer than that quantile of theirs."""
    logits = np.stack([model.logits(record.prompt, record.max_tokens) for record in records])
    ranks = placed(model, model.calibration.cumulative(logits), records)
    return {share: float((ranks <= share).mean()) for share in SHARES}


def cost_us(model: LengthModel, vocab_size: int = 256, rounds: int = 200) -> dict[int, float]:
    """CPU time of one prediction by the length of its prompt: the median of `rounds`."""
    rng = np.random.default_rng(1)
    found = {}
    for num_tokens in COST_TOKENS:
        prompt = rng.integers(0, vocab_size, num_tokens).tolist()
        times_ns = []
        for _ in range(rounds):
            start_ns = time.thread_time_ns()
            _ = model.predict(prompt, 1024).expected
            times_ns.append(time.thread_time_ns() - start_ns)
        found[num_tokens] = float(np.median(times_ns)) / 1e3
    return found
