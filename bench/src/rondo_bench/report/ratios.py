"""The grid's goodputs beside each other: ratios of systems, and geometric means over cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rondo_bench.report.data import GridRecord, in_order
from rondo_bench.report.style import CEILING, DATASETS, GPUS, MODELS, NODG, TARGETS


@dataclass(frozen=True, slots=True)
class Ratio:
    """One system's goodput over another's; `below` may name several, the best of which counts."""

    name: str
    above: str
    below: tuple[str, ...]


OURS_TO_NODG = Ratio("PaDG ours / best NoDG", "padg", NODG)
OURS_TO_PAPER = Ratio("PaDG ours / PaDG paper", "padg", ("padg-paper",))
PAPER_TO_NODG = Ratio("PaDG paper / best NoDG", "padg-paper", NODG)
OURS_TO_FUDG = Ratio("PaDG ours / FuDG", "padg", ("fudg",))
OURS_TO_CEILING = Ratio("PaDG ours / ceiling", "padg", (CEILING,))
RATIOS = (OURS_TO_NODG, OURS_TO_PAPER, PAPER_TO_NODG, OURS_TO_FUDG, OURS_TO_CEILING)


@dataclass(frozen=True, slots=True)
class Case:
    """One data set on one model: the goodput record of each system."""

    gpu: str
    target: float
    dataset: str
    model: str
    systems: dict[str, GridRecord]

    def ratio(self, ratio: Ratio) -> float | None:
        """None where a side was not measured or the divisor served nothing at all."""
        above = self.systems.get(ratio.above)
        below = [self.systems[name].rate for name in ratio.below if name in self.systems]
        if above is None or not below or max(below) == 0:
            return None
        return above.rate / max(below)


class Grid:
    """The records of the grid as cases, in the order of the report."""

    def __init__(self, records: Sequence[GridRecord]) -> None:
        self.gpus = in_order([r.gpu for r in records], GPUS)
        self.targets = in_order([r.target for r in records], TARGETS)
        self.datasets = in_order([r.dataset for r in records], DATASETS)
        self.models = in_order([r.model for r in records], MODELS)
        found: dict[tuple[str, float, str, str], dict[str, GridRecord]] = {}
        for record in records:
            key = (record.gpu, record.target, record.dataset, record.model)
            found.setdefault(key, {})[record.system] = record
        self.cases = [
            Case(gpu, target, dataset, model, found[gpu, target, dataset, model])
            for gpu in self.gpus
            for target in self.targets
            for dataset in self.datasets
            for model in self.models
            if (gpu, target, dataset, model) in found
        ]

    def select(
        self, gpu: str, target: float, *, dataset: str | None = None, model: str | None = None
    ) -> list[Case]:
        """The cases of a GPU and a target, or of them those of a data set or a model."""
        return [
            case
            for case in self.cases
            if (case.gpu, case.target) == (gpu, target)
            and dataset in (None, case.dataset)
            and model in (None, case.model)
        ]


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are there; None of none, 0 when one is 0."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    if min(present) <= 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, present)) / len(present))


def smallest(values: Iterable[float | None]) -> float | None:
    """Of the values that are there; None of none."""
    return min((value for value in values if value is not None), default=None)
