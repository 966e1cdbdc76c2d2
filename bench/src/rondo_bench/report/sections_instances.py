"""The section on how many instances replace full disaggregation where KV is tight."""

from __future__ import annotations

from collections.abc import Sequence

from rondo_bench.report.data import InstancesRecord, Results, in_order
from rondo_bench.report.section import TITLES, Section
from rondo_bench.report.style import label, percentile
from rondo_bench.report.tables import MISSING, Cell, Table, goodput, texts, times

#: In the order of their worth.
PREDICTIONS = ("file", "noise", "mean")


def instances_section(results: Results) -> Section:
    """A table for each target and prediction."""
    records = results.records("instances", InstancesRecord)
    section = Section("instances", TITLES["instances"])
    section.text = [
        "Llama-2-13B, one L20 an instance, first turns of ShareGPT: goodput on eight instances, "
        "and the fewest instances that hold the goodput of eight with full disaggregation, told "
        "the same. Every system is tuned at each target; KV moves in no time."
    ]
    for target in sorted({r.target for r in records}, reverse=True):
        for told in in_order([r.prediction for r in records], PREDICTIONS):
            if same := [r for r in records if (r.target, r.prediction) == (target, told)]:
                section.tables.append(_table(same))
    return section


def _table(records: Sequence[InstancesRecord]) -> Table:
    """A row a system, the best first."""
    first = records[0]
    rows = []
    for record in sorted(records, key=lambda r: -r.rate):
        over = times(record.rate / record.at_rate if record.at_rate else None)
        instances = MISSING if record.instances is None else Cell(str(record.instances))
        tuned = ", ".join(f"{name} {value}" for name, value in sorted(record.tuned.items()))
        names = texts(label(record.system), record.instance_policy)
        rows.append([*names, goodput(record), over, instances, *texts(tuned or MISSING.text)])
    caption = f"{percentile(first.target)}, predictions: {first.prediction}."
    heads = ["system", "KV by", "goodput, requests/s", "over FuDG", "instances", "tuned to"]
    return Table(caption, heads, rows, 2)
