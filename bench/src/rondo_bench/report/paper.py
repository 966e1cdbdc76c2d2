"""EcoServe's own figures (arXiv 2504.18154; OSDI 2026) and ours, computed from the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rondo_bench.report.data import MitosisRecord, ScaleRecord, SloRecord, in_order
from rondo_bench.report.ratios import Case, Grid, Ratio, geometric_mean
from rondo_bench.report.style import DATASETS, MODELS, NODG, TARGETS, label, percentile
from rondo_bench.report.tables import MISSING, Cell, Table, percent, texts, times

#: Who stands for PaDG: the paper's policy as we built it, and our best.
PADG = ("padg-paper", "padg")
_PADG_NAMES = {"padg-paper": "paper's policy here", "padg": "ours"}


@dataclass(frozen=True, slots=True)
class Claim:
    """EcoServe over a rival on L20 in the paper; `targets`: those that it is claimed for."""

    text: str
    paper: str
    rivals: tuple[str, ...]
    dataset: str | None = None
    targets: tuple[float, ...] = TARGETS


#: Headlines over all cases on L20, then by data set at P90.
CLAIMS = (
    Claim("over vLLM, all cases", "1.96×", ("nodg-rr", "nodg-jsq")),
    Claim("over Sarathi, all cases", "1.99×", ("chunked-rr", "chunked-jsq")),
    Claim("over DistServe, all cases", "2.51×", ("fudg",)),
    Claim("over MoonCake, all cases", "2.40×", ("fudg",)),
    *(
        Claim(f"over NoDG, {label(name)}", figure, NODG, name, (0.9,))
        for name, figure in zip(DATASETS, ("1.19×", "1.26×", "2.72×"), strict=True)
    ),
    *(
        Claim(f"over FuDG, {label(name)}", figure, ("fudg",), name, (0.9,))
        for name, figure in zip(DATASETS, ("1.70×", "4.00×", "2.53×"), strict=True)
    ),
)


def grid_beside_paper(grid: Grid) -> Table | None:
    """The claims beside geometric means over the L20 cases; None without any L20 case."""
    if "l20" not in grid.gpus:
        return None
    targets = [target for target in grid.targets if target in TARGETS]
    rows = [
        [
            *texts(claim.text, claim.paper),
            *(_claimed(grid, claim, who, target) for who in PADG for target in targets),
        ]
        for claim in CLAIMS
    ]
    heads = [f"{_PADG_NAMES[who]}, {percentile(target)}" for who in PADG for target in targets]
    caption = (
        "EcoServe's figures on L20 and ours: geometric means over the cases measured, each against "
        "the better of the rival's routings, tuned."
    )
    return Table(caption, ["PaDG", "paper", *heads], rows)


def _claimed(grid: Grid, claim: Claim, who: str, target: float) -> Cell:
    if target not in claim.targets:
        return Cell("")
    ratio = Ratio(claim.text, who, claim.rivals)
    cases: Sequence[Case] = grid.select("l20", target, dataset=claim.dataset)
    return times(geometric_mean(case.ratio(ratio) for case in cases))


#: Goodput lost when (5 s, 100 ms) becomes (1 s, 50 ms); the best routing stands for a rival.
LOSSES = (
    ("EcoServe", "57 %", ("padg-paper",)),
    ("our PaDG", "", ("padg",)),
    ("vLLM", "60 %", ("nodg-rr", "nodg-jsq")),
    ("Sarathi", "73 %", ("chunked-rr", "chunked-jsq")),
)
_LOOSE, _TIGHT = (5.0, 0.1), (1.0, 0.05)


def slo_beside_paper(records: Sequence[SloRecord]) -> Table | None:
    """Loss of goodput by the tighter objective, of each system's better routing."""
    datasets = in_order([r.dataset for r in records], DATASETS)
    targets = in_order([r.target for r in records], TARGETS)
    columns = [(dataset, target) for dataset in datasets for target in targets]
    rows = []
    for name, paper, systems in LOSSES:
        of_columns = ([r for r in records if (r.dataset, r.target) == c] for c in columns)
        cells = [_loss(of_column, systems) for of_column in of_columns]
        rows.append([*texts(name, paper or MISSING.text), *cells])
    heads = [f"{label(dataset)}, {percentile(target)}" for dataset, target in columns]
    caption = "Goodput lost between (5 s, 100 ms) and (1 s, 50 ms); the paper's is at P99."
    return Table(caption, ["system", "paper", *heads], rows)


def _loss(records: Sequence[SloRecord], systems: tuple[str, ...]) -> Cell:
    def best(slo: tuple[float, float]) -> float | None:
        return max(
            (r.rate for r in records if r.system in systems and (r.ttft_s, r.tpot_s) == slo),
            default=None,
        )

    loose, tight = best(_LOOSE), best(_TIGHT)
    return percent(1 - tight / loose, 0) if loose and tight is not None else MISSING


#: Goodput of 4 instances over that of 1.
GROWTH = {"codellama-34b": "4.96×", "qwen2-72b": "5.47×"}


def scale_beside_paper(records: Sequence[ScaleRecord]) -> Table | None:
    """Growth from 1 to 4 instances, which is 4 where it is linear."""
    models = in_order([r.model for r in records], MODELS)
    datasets = in_order([r.dataset for r in records], DATASETS)
    rates = {(r.model, r.dataset, r.target, r.system, r.instances): r.rate for r in records}
    rows = []
    for model in models:
        for dataset in datasets:
            for target in in_order([r.target for r in records], TARGETS):
                growth = []
                for who in PADG:
                    one = rates.get((model, dataset, target, who, 1))
                    four = rates.get((model, dataset, target, who, 4))
                    growth.append(times(four / one) if one and four is not None else MISSING)
                if growth == [MISSING, MISSING]:
                    continue
                paper = GROWTH.get(model, MISSING.text)
                rows.append(
                    [*texts(label(model), label(dataset), percentile(target), paper), *growth]
                )
    heads = ["model", "data set", "target", "paper", *(_PADG_NAMES[who] for who in PADG)]
    return Table("Goodput of 4 instances over that of 1.", heads, rows, 3) if rows else None


def mitosis_beside_paper(records: Sequence[MitosisRecord]) -> Table:
    """The course of the scaling run."""

    def values(series: str) -> list[float]:
        return [value for _, value in _points(records, series)]

    def first_to_peak(series: str) -> str:
        found = values(series)
        return f"{found[0]:g} → {max(found):g}, last {found[-1]:g}" if found else MISSING.text

    attainment = values("attainment")
    rows = [
        texts("rate, requests/s", "20 → 50", first_to_peak("rate")),
        texts("instances", "8 → 16", first_to_peak("instances")),
        texts("instances at the first split", "12", _at_split(records)),
        texts("macro-instances", "1 → 2", first_to_peak("macros")),
        [
            *texts("least attainment of a sample", MISSING.text),
            percent(min(attainment, default=None)),
        ],
    ]
    return Table("The course of the run; the paper's load only rises.", ["", "paper", "ours"], rows)


def _at_split(records: Sequence[MitosisRecord]) -> str:
    """The number of instances when there first were more macro-instances than at the start."""
    macros = _points(records, "macros")
    split = next((t for t, value in macros if value > macros[0][1]), None)
    if split is None:
        return MISSING.text
    instances = [value for t, value in _points(records, "instances") if t <= split]
    return f"{instances[-1]:g} (at {split:.0f} s)" if instances else MISSING.text


def _points(records: Sequence[MitosisRecord], series: str) -> list[tuple[float, float]]:
    return sorted((r.t_s, r.value) for r in records if r.series == series and r.value is not None)
