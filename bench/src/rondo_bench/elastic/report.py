"""What came of a run: figures, a table of decisions, and a chart over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.figure import Figure

from rondo.types import Slo
from rondo_bench.elastic.watch import Sample, Watch
from rondo_bench.load.outcomes import Ending, Outcome
from rondo_bench.sim.arrivals import RateCurve

#: Attainment is drawn over stretches of this length.
BIN_S = 10.0


def figures(watch: Watch, outcomes: Sequence[Outcome], slo: Slo) -> dict[str, object]:
    """One JSON object."""
    endings = Counter(outcome.ending for outcome in outcomes)
    met = sum(outcome.meets(slo) for outcome in outcomes)
    moves = sorted(watch.hand_overs_s())
    kinds = Counter(what.split()[-1] for _, what, _ in watch.decisions())
    sizes = [sample.num_instances for sample in watch.samples]
    return {
        "requests": len(outcomes),
        "completed": endings[Ending.COMPLETED],
        "refused": endings[Ending.REFUSED],
        "dropped": len(outcomes) - endings[Ending.COMPLETED] - endings[Ending.REFUSED],
        "attainment": round(met / len(outcomes), 4),
        "least_instances": min(sizes),
        "most_instances": max(sizes),
        "most_macro_instances": max(len(sample.sizes) for sample in watch.samples),
        "splits": kinds["created"],
        "merges": kinds["removed"],
        "hand_overs": len(moves),
        "longest_hand_over_ms": round(1e3 * max(moves, default=0.0), 1),
        "errors": dict(Counter(o.error for o in outcomes if o.ending.is_failure).most_common(3)),
    }


def reversals(samples: Sequence[Sample], from_s: float, to_s: float) -> int:
    """How often the number of instances changed its direction in a stretch."""
    sizes = [one.num_instances for one in samples if from_s <= one.at_s <= to_s]
    steps = [later - earlier for earlier, later in pairwise(sizes) if later != earlier]
    return sum(a * b < 0 for a, b in pairwise(steps))


def attainment(outcomes: Sequence[Outcome], slo: Slo) -> list[tuple[float, float]]:
    """(middle of a stretch, share of its arrivals that met their objectives)."""
    bins: dict[int, list[bool]] = {}
    for outcome in outcomes:
        bins.setdefault(int(outcome.arrival.at_s // BIN_S), []).append(outcome.meets(slo))
    return [((i + 0.5) * BIN_S, sum(met) / len(met)) for i, met in sorted(bins.items())]


def chart(watch: Watch, outcomes: Sequence[Outcome], slo: Slo, curve: RateCurve) -> Figure:
    """Offered rate, instances by macro-instance, and attainment, over time."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    rate, instances, met = figure.subplots(3, 1, sharex=True)
    rate.plot([at_s for at_s, _ in curve.points], [value for _, value in curve.points])
    rate.set_ylabel("requests/s")
    times = [sample.at_s for sample in watch.samples]
    widest = max(len(sample.sizes) for sample in watch.samples)
    layers = [[(*s.sizes, *[0] * widest)[index] for s in watch.samples] for index in range(widest)]
    labels = [f"macro-instance {index + 1}" for index in range(widest)]
    instances.stackplot(times, layers, labels=labels, step="post", alpha=0.7)
    instances.legend(loc="upper left", fontsize=8)
    instances.set_ylabel("instances")
    points = attainment(outcomes, slo)
    met.plot([at_s for at_s, _ in points], [100 * share for _, share in points])
    met.set_ylim(0, 102)
    met.set_ylabel(f"% within SLO, each {BIN_S:g} s")
    met.set_xlabel("seconds")
    return figure


def page(found: dict[str, object], watch: Watch, command: str, machine: str, image: str) -> str:
    """Markdown."""
    rows = [f"| {name} | {value} |" for name, value in found.items() if name != "errors"]
    decided = [
        f"| {at_s:.1f} | {what} | {reason} |"
        for at_s, what, reason in watch.decisions()
        if at_s > 0
    ]
    return "\n".join(
        [
            "# Mitosis, live",
            "",
            "A cluster as `rondo up --scale` starts it, with emulated engines, under a load that "
            "rises and falls. Every request is a stream over HTTP; dropped are those that ended "
            "neither in an answer nor in a refusal with 429 or 503.",
            "",
            f"`{command}` on {machine}.",
            "",
            f"![offered rate, instances and attainment over time]({image})",
            "",
            "| figure | value |",
            "|---|---|",
            *rows,
            "",
            "A hand-over is the time in which an instance has no scheduler; its tokens flow on.",
            "",
            "## What was decided, and why",
            "",
            "| second | what | why |",
            "|--:|---|---|",
            *decided,
            "",
        ]
    )
