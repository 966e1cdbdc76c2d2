"""The report of one run as a JSON object, and the same as text.

Shares are of the offered requests unless they say otherwise, and a request that was rejected, lost
or not completed counts as missed. Percentiles are linear between neighbours, over the completed
requests. What has no value, such as a percentile of nothing, is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TypedDict

from rondo.errors import ConfigError
from rondo.metrics.lifecycle import percentile
from rondo_bench.sim.records import InstanceRecord, RequestRecord, RunRecord

#: Instances that `format_summary` shows.
MAX_INSTANCE_LINES = 32


class Spread(TypedDict):
    """How a latency is spread, in seconds."""

    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    max: float | None


class PhaseShare(TypedDict):
    """Shares of an instance's lifetime; they add up to 1."""

    prefill: float
    decode: float
    fused: float
    idle: float


class KvShare(TypedDict):
    """Shares of an instance's KV blocks in use: mean over time, and the most at one instant."""

    mean: float
    max: float


class Summary(TypedDict):
    """One run. The names up to `preemptions` are fixed: other programs read them.

    `goodput_rps` counts the requests that met their SLO. `unfinished` neither completed, nor were
    rejected or lost, before the run ended. `kv_used_share` is None where no timeline was kept.
    """

    offered: int
    completed: int
    rejected: int
    attainment: float | None
    attainment_ttft: float | None
    attainment_tpot: float | None
    ttft_s: Spread
    tpot_s: Spread
    throughput_rps: float | None
    busy_share: dict[str, float]
    preemptions: int
    goodput_rps: float | None
    admitted_attainment: float | None
    lost: int
    unfinished: int
    phase_share: dict[str, PhaseShare]
    kv_used_share: dict[str, KvShare | None]
    reject_reasons: dict[str, int]
    reasons: dict[str, int]
    duration_s: float
    seed: int


def summarize(run: RunRecord, *, skip_first: int = 0) -> Summary:
    """The report of `run`, without its first `skip_first` requests (a warm-up).

    Rates are per second from the run's start, or from the first request counted, to its end. What
    is reported of instances, `preemptions` and `reasons`, is of the whole run.

    Raises:
        ConfigError: `skip_first` is negative.
    """
    if skip_first < 0:
        raise ConfigError("skip_first", f"must be 0 or more, not {skip_first}")
    counted = run.requests[skip_first:]
    completed = [record for record in counted if record.completed]
    rejected = [record for record in counted if record.rejected]
    lost = sum(record.lost and not record.rejected for record in counted)
    admitted = [record for record in counted if record.admitted_s is not None]
    num_good = sum(record.meets_slo for record in counted)
    start_s = counted[0].arrival.at_s if skip_first and counted else 0.0
    return Summary(
        offered=len(counted),
        completed=len(completed),
        rejected=len(rejected),
        attainment=_share(num_good, len(counted)),
        attainment_ttft=_share(sum(record.meets_ttft for record in counted), len(counted)),
        attainment_tpot=_share(sum(record.meets_tpot for record in counted), len(counted)),
        ttft_s=_spread(completed, lambda record: record.ttft_s),
        tpot_s=_spread(completed, lambda record: record.tpot_s),
        throughput_rps=_share(len(completed), run.duration_s - start_s),
        busy_share={i.instance_id: _of_life(i.busy_s, i, run) for i in run.instances},
        preemptions=sum(instance.num_preempted for instance in run.instances),
        goodput_rps=_share(num_good, run.duration_s - start_s),
        admitted_attainment=_share(sum(r.meets_slo for r in admitted), len(admitted)),
        lost=lost,
        unfinished=len(counted) - len(completed) - len(rejected) - lost,
        phase_share={i.instance_id: _phase_share(i, run) for i in run.instances},
        kv_used_share={i.instance_id: _kv_share(i, run) for i in run.instances},
        reject_reasons=_sorted(Counter(str(record.reject_reason) for record in rejected)),
        reasons=_sorted(run.reasons),
        duration_s=run.duration_s,
        seed=run.seed,
    )


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    """By count, most first, then by name: the same order whatever happened first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _spread(
    records: Sequence[RequestRecord], value: Callable[[RequestRecord], float | None]
) -> Spread:
    values = sorted(v for record in records if (v := value(record)) is not None)
    if not values:
        return Spread(mean=None, p50=None, p90=None, p95=None, p99=None, max=None)
    return Spread(
        mean=sum(values) / len(values),
        p50=percentile(values, 0.50),
        p90=percentile(values, 0.90),
        p95=percentile(values, 0.95),
        p99=percentile(values, 0.99),
        max=values[-1],
    )


def _left_s(instance: InstanceRecord, run: RunRecord) -> float:
    return run.duration_s if instance.left_s is None else instance.left_s


def _of_life(part_s: float, instance: InstanceRecord, run: RunRecord) -> float:
    """`part_s` as a share of an instance's lifetime, 0 when it had none."""
    return _share(part_s, _left_s(instance, run) - instance.joined_s) or 0.0


def _phase_share(instance: InstanceRecord, run: RunRecord) -> PhaseShare:
    prefill = _of_life(instance.prefill_s, instance, run)
    decode = _of_life(instance.decode_s, instance, run)
    fused = _of_life(instance.fused_s, instance, run)
    idle = 1.0 - prefill - decode - fused
    return PhaseShare(prefill=prefill, decode=decode, fused=fused, idle=idle)


def _kv_share(instance: InstanceRecord, run: RunRecord) -> KvShare | None:
    """From the samples, each of which holds until the next, the last until the instance left."""
    if not instance.kv or instance.total_blocks == 0:
        return None
    instants = [sample.at_s for sample in instance.kv]
    instants.append(max(_left_s(instance, run), instants[-1]))
    blocks = [sample.used_blocks for sample in instance.kv]
    area = sum(used * (b - a) for used, (a, b) in zip(blocks, pairwise(instants), strict=True))
    span_s = instants[-1] - instants[0]
    mean = area / span_s if span_s > 0 else blocks[-1]
    return KvShare(mean=mean / instance.total_blocks, max=max(blocks) / instance.total_blocks)


def format_summary(summary: Summary) -> str:
    """The report as text for people: a few lines, then one for each instance and reason.

    Of many instances it shows the first `MAX_INSTANCE_LINES`. No newline at its end.
    """
    return "\n".join([*_request_lines(summary), *_instance_lines(summary), *_reason_lines(summary)])


def _request_lines(summary: Summary) -> list[str]:
    counts = ("offered", "completed", "rejected", "lost", "unfinished")
    values = (summary[name] for name in counts)  # type: ignore[literal-required]
    spread_names = ("mean", "p50", "p90", "p95", "p99", "max")
    lines = [
        _row("requests", ", ".join(f"{n} {name}" for n, name in zip(values, counts, strict=True))),
        _row(
            "attainment",
            f"{_percent(summary['attainment'])} of offered"
            f" (TTFT {_percent(summary['attainment_ttft'])},"
            f" TPOT {_percent(summary['attainment_tpot'])}),"
            f" {_percent(summary['admitted_attainment'])} of admitted",
        ),
        _row(
            "per second",
            f"{_number(summary['throughput_rps'])} completed,"
            f" {_number(summary['goodput_rps'])} within SLO",
        ),
        _row("run", f"{summary['duration_s']:.1f} s, seed {summary['seed']}"),
        _row("preemptions", str(summary["preemptions"])),
        _row("", "".join(f"{name:>9}" for name in spread_names)),
    ]
    for label, spread in (("TTFT, s", summary["ttft_s"]), ("TPOT, s", summary["tpot_s"])):
        cells = (spread[name] for name in spread_names)  # type: ignore[literal-required]
        lines.append(_row(label, "".join(f"{_number(value, 4):>9}" for value in cells)))
    return lines


def _instance_lines(summary: Summary) -> list[str]:
    columns = ("busy", "prefill", "decode", "fused", "idle", "KV mean", "KV max")
    lines = [_row("instance", "".join(f"{name:>9}" for name in columns))]
    for name, busy in list(summary["busy_share"].items())[:MAX_INSTANCE_LINES]:
        phases, kv = summary["phase_share"][name], summary["kv_used_share"][name]
        shares = (
            *(busy, phases["prefill"], phases["decode"], phases["fused"], phases["idle"]),
            *((kv["mean"], kv["max"]) if kv else (None, None)),
        )
        lines.append(_row(name, "".join(f"{_percent(share):>9}" for share in shares)))
    hidden = len(summary["busy_share"]) - MAX_INSTANCE_LINES
    return [*lines, f"and {hidden} more instances"] if hidden > 0 else lines


def _reason_lines(summary: Summary) -> list[str]:
    return [
        f"{title:<10} {count:>9}  {reason}"
        for title, counts in (
            ("rejected", summary["reject_reasons"]),
            ("reason", summary["reasons"]),
        )
        for reason, count in counts.items()
    ]


def _row(label: str, text: str) -> str:
    return f"{label:<12}{text}".rstrip()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
