"""The section on how many instances replace full disaggregation where KV is tight."""

from __future__ import annotations

from collections.abc import Sequence

from rondo_bench.report.data import InstancesRecord, Results, in_order
from rondo_bench.report.section import TITLES, Section
from rondo_bench.report.style import label, percentile
from rondo_bench.report.tables import MISSING, Cell, Table, number, percent, texts

#: In the order of their worth.
PREDICTIONS = ("file", "noise", "mean")


def instances_section(results: Results) -> Section:
    """A table for each target and prediction."""
    records = results.records("instances", InstancesRecord)
    section = Section("instances", TITLES["instances"])
    section.text = [
        "Llama-2-13B, one L20 an instance, first turns of ShareGPT: the goodput of eight instances "
        "with full disaggregation, whose KV moves in no time, and the fewest instances of every "
        "other system that hold that rate. All are tuned, and told the same of the answers."
    ]
    for told in in_order([r.prediction for r in records], PREDICTIONS):
        for target in sorted({r.target for r in records}, reverse=True):
            if same := [r for r in records if (r.target, r.prediction) == (target, told)]:
                section.tables.append(_table(same))
    return section


def _table(records: Sequence[InstancesRecord]) -> Table:
    """A row a system, the fewest instances first."""
    first = records[0]
    rows = []
    for record in sorted(records, key=lambda r: (r.instances or float("inf"), -r.attainment)):
        instances = MISSING if record.instances is None else Cell(str(record.instances))
        tuned = ", ".join(_setting(*item) for item in sorted(record.tuned.items()))
        names = texts(label(record.system), record.instance_policy)
        rows.append([*names, instances, percent(record.attainment), *texts(tuned or MISSING.text)])
    caption = (
        f"{number(first.rate)} requests/s at {percentile(first.target)}, predictions: "
        f"{first.prediction}."
    )
    heads = ["system", "KV by", "instances", "attained", "tuned to"]
    return Table(caption, heads, rows, 2)


def _setting(name: str, value: float | str) -> str:
    return f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}"
