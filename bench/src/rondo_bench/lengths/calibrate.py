"""Calibration of a predictor on answers it was not trained on, so that its quantiles hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rondo.lengths.classes import LengthDistribution
from rondo.lengths.model import Calibration, Doubles, LengthModel, uncalibrated
from rondo.lengths.records import LengthRecord

TEMPERATURES = np.geomspace(0.5, 4.0, 40)
#: Steps of the levels' curve; each needs so many answers, or noise would be learned.
NUM_LEVELS = 20
ANSWERS_PER_LEVEL = 20


def calibrated(model: LengthModel, records: Sequence[LengthRecord]) -> LengthModel:
    """The model with a temperature (least negative log-likelihood) and levels of its own.

    `records` are answers that it was not trained on.
    """
    logits = np.stack([model.logits(record.prompt, record.max_tokens) for record in records])
    temperature = _temperature(model, logits, records)
    plain = dataclasses.replace(uncalibrated(), temperature=temperature)
    ranks = np.sort(placed(model, plain.cumulative(logits), records))
    num_levels = min(NUM_LEVELS, len(records) // ANSWERS_PER_LEVEL)
    if num_levels < 2:
        return dataclasses.replace(model, calibration=plain)
    shares = np.searchsorted(ranks, np.linspace(0, 1, num_levels + 1), "right") / len(ranks)
    shares[0], shares[-1] = 0.0, 1.0
    return dataclasses.replace(
        model, calibration=Calibration(temperature=temperature, levels=shares)
    )


def placed(
    model: LengthModel, cumulative: Doubles, records: Sequence[LengthRecord], seed: int = 1
) -> Doubles:
    """Where each answer lies in its predicted distribution, 0 to 1; uniform if that is true.

    The randomized probability integral transform: between the chances of less than the length
    and of at most the length by lot, for lengths are whole numbers. Of a cut answer it is only
    known that it lies above its limit: by lot there.
    """
    rng = np.random.default_rng(seed)
    found = np.empty(len(records))
    for row, record in enumerate(records):
        spread = LengthDistribution(model.classes, tuple(cumulative[row].tolist()))
        at_most = spread.cdf(record.output)
        cut = record.finish == "length"
        low, high = (at_most, 1.0) if cut else (spread.cdf(record.output - 1), at_most)
        found[row] = rng.uniform(low, high)
    return found


def _temperature(
    model: LengthModel, logits: npt.NDArray[np.float32], records: Sequence[LengthRecord]
) -> float:
    first = np.array([model.classes.index(r.output + (r.finish == "length")) for r in records])
    cut = np.array([record.finish == "length" for record in records])
    rows = np.arange(len(records))
    losses = []
    for temperature in TEMPERATURES:
        bounds = dataclasses.replace(uncalibrated(), temperature=temperature).cumulative(logits)
        high = np.where(cut, 1.0, bounds[rows, first + 1])
        chance = np.maximum(high - bounds[rows, first], 1e-12)
        losses.append(-np.log(chance).mean())
    return float(TEMPERATURES[int(np.argmin(losses))])
