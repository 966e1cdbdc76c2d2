"""The section of a page about the real runs, made from their record."""

from __future__ import annotations

from rondo_bench.econoserve.real_record import RealModel, RealRecord
from rondo_bench.econoserve.real_search import BASE

_TITLES = {"random": "A model with random weights, lengths forced", "tiny": "rondo-tiny"}


def real_section(record: RealRecord) -> list[str]:
    """Lines of Markdown."""
    lines = [
        f"Torch engine in one process, {record.machine}, {record.date}; "
        f"medians of {record.num_rounds} rounds.",
    ]
    for name, model in record.models.items():
        lines += ["", f"### {_TITLES.get(name, name)}", "", *_model(model)]
    return lines


def ratios(model: RealModel) -> dict[str, tuple[float, float]]:
    """EconoServe over each kind of first come, first served that was run: rate at equal latency,
    and saturated rate."""
    ours = model.policies.get("econoserve")
    if ours is None:
        return {}
    rivals = {name: model.policies[name] for name in BASE if name in model.policies}
    return {
        name: (
            ours.requests_per_s_at_equal_latency / each.requests_per_s_at_equal_latency,
            ours.saturated_requests_per_s / each.saturated_requests_per_s,
        )
        for name, each in rivals.items()
    }


def _model(model: RealModel) -> list[str]:
    lines = [
        f"{model.weight_bytes / 4e6:.1f} M weights (float32), a KV pool of {model.pool_tokens:,} "
        f"tokens; requests come for {model.run_s:g} s in a run. Equal latency: "
        f"{model.level_s * 1e3:.1f} ms/token, mean of arrival to end over tokens.",
        "",
        "| policy | requests/s at equal latency | saturated requests/s | ms/token | completion, s "
        "| SLO met | preempted | KV in use | tokens a step |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, each in model.policies.items():
        lines.append(
            f"| {name} | {each.requests_per_s_at_equal_latency:.2f} "
            f"| {each.saturated_requests_per_s:.2f} | {each.normalized_latency_s * 1e3:.1f} "
            f"| {each.completion_s:.2f} | {each.slo_satisfaction:.1%} "
            f"| {each.preempted_share:.1%} | {each.kv_used_share:.1%} "
            f"| {each.forward_tokens:.1f} |"
        )
    lines += [
        "",
        "*ms/token*, *completion* and *SLO met* are at the rate at which first come, first served "
        "is at the level; *saturated* and what follows *SLO met* are with a backlog. "
        f"Texts that differ: {sum(each.different_texts for each in model.policies.values())}.",
    ]
    lines += [
        f"EconoServe over `{name}`: {at_level:.2f}× the rate at equal latency, "
        f"{saturated:.2f}× the saturated rate."
        for name, (at_level, saturated) in ratios(model).items()
    ]
    return lines
