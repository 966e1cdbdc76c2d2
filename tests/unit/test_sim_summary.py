"""A run's records become the numbers of its report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo.errors import ConfigError
from rondo.types import Slo
from rondo_bench.sim.records import (
    Arrival,
    InstanceRecord,
    KvSample,
    RequestRecord,
    RunRecord,
)
from rondo_bench.sim.summary import MAX_INSTANCE_LINES, format_summary, summarize

SLO = Slo(ttft_s=1.0, tpot_s=0.1)


def offered(at_s: float = 0.0, output_tokens: int = 11) -> RequestRecord:
    arrival = Arrival(
        request_id=f"r{at_s}", at_s=at_s, prompt_tokens=100, output_tokens=output_tokens
    )
    return RequestRecord(arrival=arrival, slo=SLO)


def done(
    at_s: float = 0.0, ttft_s: float = 0.5, tpot_s: float = 0.05, output_tokens: int = 11
) -> RequestRecord:
    """A completed request; its first token came well before its decode started."""
    record = offered(at_s, output_tokens)
    record.instance_id, record.admitted_s = "i0", at_s
    record.tokens_out = output_tokens
    if output_tokens == 1:
        record.first_token_s = record.last_token_s = at_s + ttft_s
        return record
    record.first_token_s = at_s + ttft_s / 2
    record.decode_start_s = at_s + ttft_s
    record.last_token_s = record.decode_start_s + tpot_s * (output_tokens - 1)
    return record


def rejected(at_s: float = 0.0, reason: str = "no_capacity") -> RequestRecord:
    record = offered(at_s)
    record.reject_reason, record.rejected_s, record.retry_after_s = reason, at_s, 2.0
    return record


# Records


def test_ttft_ends_where_the_decode_starts_not_with_the_first_token() -> None:
    record = done(at_s=3.0, ttft_s=0.5, tpot_s=0.05)
    assert record.first_token_s == 3.25
    assert record.ttft_s == pytest.approx(0.5)
    assert record.tpot_s == pytest.approx(0.05)
    assert record.meets_slo


def test_an_answer_of_one_token_never_decodes() -> None:
    record = done(at_s=3.0, ttft_s=0.5, output_tokens=1)
    assert record.decode_start_s is None
    assert (record.ttft_s, record.tpot_s) == (0.5, 0.0)
    assert record.meets_slo


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "met"),
    [
        (1.0, 0.0625, (True, True)),
        (1.5, 0.0625, (False, True)),
        (0.5, 0.125, (True, False)),
        (1.5, 0.125, (False, False)),
    ],
)
def test_each_objective_is_judged_by_itself(
    ttft_s: float, tpot_s: float, met: tuple[bool, bool]
) -> None:
    record = done(ttft_s=ttft_s, tpot_s=tpot_s)
    assert (record.meets_ttft, record.meets_tpot) == met
    assert record.meets_slo == all(met)


def test_the_objective_itself_is_within_the_objective() -> None:
    record = done(ttft_s=0.5, tpot_s=0.25)
    record.slo = Slo(ttft_s=0.5, tpot_s=0.25)
    assert record.meets_slo


def test_what_did_not_complete_has_no_latency_and_meets_nothing() -> None:
    lost, cut, shed = done(), done(), done()
    lost.lost = True
    cut.tokens_out -= 1
    shed.reject_reason = "late"
    for record in (lost, cut, shed, offered(), rejected()):
        assert not record.completed
        assert (record.ttft_s, record.tpot_s) == (None, None)
        assert (record.meets_ttft, record.meets_tpot, record.meets_slo) == (False, False, False)


# Summaries


def small_run() -> RunRecord:
    """Eight offered: three good, one late, one slow, two rejected, one lost."""
    lost = done(at_s=6.0)
    lost.lost = True
    slow = done(at_s=4.0, ttft_s=0.75, tpot_s=0.25)
    return RunRecord(
        requests=[
            done(at_s=0.0, ttft_s=0.25),
            done(at_s=1.0, ttft_s=0.5),
            done(at_s=2.0, ttft_s=0.75, output_tokens=1),
            done(at_s=3.0, ttft_s=2.0),
            slow,
            rejected(at_s=5.0),
            lost,
            rejected(at_s=7.0, reason="slack"),
        ],
        instances=[
            InstanceRecord(
                instance_id="i0",
                busy_s=5.0,
                num_preempted=2,
                prefill_s=2.0,
                decode_s=2.5,
                fused_s=0.5,
                total_blocks=10,
                kv=[KvSample(0.0, 0, 0), KvSample(2.0, 8, 9), KvSample(7.0, 4, 4)],
            ),
            InstanceRecord(
                instance_id="i1",
                joined_s=4.0,
                left_s=6.0,
                busy_s=1.0,
                decode_s=1.0,
                total_blocks=9,
                num_preempted=1,
            ),
        ],
        duration_s=10.0,
        reasons=Counter({"turn_end": 2, "admit": 6, "arrival": 2}),
        seed=17,
    )


def test_the_shares_of_a_small_run_by_hand() -> None:
    summary = summarize(small_run())
    assert (summary["offered"], summary["completed"], summary["rejected"]) == (8, 5, 2)
    assert (summary["lost"], summary["unfinished"], summary["preemptions"]) == (1, 0, 3)
    assert summary["attainment"] == 3 / 8
    assert summary["attainment_ttft"] == 4 / 8
    assert summary["attainment_tpot"] == 4 / 8
    assert summary["admitted_attainment"] == 3 / 6
    assert summary["throughput_rps"] == 0.5
    assert summary["goodput_rps"] == 0.3
    assert summary["reject_reasons"] == {"no_capacity": 1, "slack": 1}
    assert list(summary["reasons"].items()) == [("admit", 6), ("arrival", 2), ("turn_end", 2)]
    assert (summary["duration_s"], summary["seed"]) == (10.0, 17)


def test_percentiles_are_linear_between_completed_requests() -> None:
    ttft = summarize(small_run())["ttft_s"]
    assert ttft["mean"] == pytest.approx((0.25 + 0.5 + 0.75 + 2.0 + 0.75) / 5)
    assert ttft["p50"] == pytest.approx(0.75)
    assert ttft["p90"] == pytest.approx(0.75 + 0.6 * 1.25)
    assert ttft["max"] == pytest.approx(2.0)


def test_instances_are_measured_over_their_own_lifetime() -> None:
    summary = summarize(small_run())
    assert summary["busy_share"] == {"i0": 0.5, "i1": 0.5}
    assert summary["phase_share"]["i0"] == pytest.approx(
        {"prefill": 0.2, "decode": 0.25, "fused": 0.05, "idle": 0.5}
    )
    assert summary["phase_share"]["i1"] == {
        "prefill": 0.0,
        "decode": 0.5,
        "fused": 0.0,
        "idle": 0.5,
    }


def test_kv_use_is_a_mean_over_time_not_over_samples() -> None:
    kv = summarize(small_run())["kv_used_share"]
    assert kv["i0"] == pytest.approx({"mean": (2 * 0.0 + 5 * 0.8 + 3 * 0.4) / 10, "max": 0.8})
    assert kv["i1"] is None


def test_a_warm_up_is_left_out_of_counts_and_rates() -> None:
    summary = summarize(small_run(), skip_first=3)
    assert (summary["offered"], summary["completed"], summary["rejected"]) == (5, 2, 2)
    assert summary["attainment"] == 0.0
    assert summary["throughput_rps"] == 2 / 7
    assert summary["ttft_s"]["max"] == pytest.approx(2.0)
    with pytest.raises(ConfigError, match="skip_first"):
        summarize(small_run(), skip_first=-1)


def test_a_run_still_under_way_counts_what_is_unfinished() -> None:
    summary = summarize(RunRecord(requests=[done(), offered(1.0)], duration_s=2.0))
    assert (summary["completed"], summary["unfinished"]) == (1, 1)
    assert summary["attainment"] == 0.5


@pytest.mark.parametrize(
    "run",
    [
        RunRecord(),
        RunRecord(requests=[rejected()], instances=[InstanceRecord(instance_id="i0")]),
        RunRecord(requests=[offered()], instances=[InstanceRecord("i0")], duration_s=5.0),
    ],
)
def test_nothing_completed_is_null_not_an_error(run: RunRecord) -> None:
    summary = summarize(run)
    assert summary["completed"] == 0
    assert set(summary["ttft_s"].values()) == set(summary["tpot_s"].values()) == {None}
    assert summary["attainment"] == (0.0 if run.requests else None)
    assert summary["admitted_attainment"] is None
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert " - " in format_summary(summary)


outcomes = st.sampled_from(["good", "late", "slow", "one", "rejected", "lost", "unfinished"])


@given(st.lists(outcomes, min_size=1), st.integers(0, 5))
def test_every_request_is_counted_once(kinds: list[str], skip: int) -> None:
    make: dict[str, Callable[[], RequestRecord]] = {
        "good": done,
        "late": lambda: done(ttft_s=2.0),
        "slow": lambda: done(tpot_s=0.5),
        "one": lambda: done(output_tokens=1),
        "rejected": rejected,
        "lost": done,
        "unfinished": offered,
    }
    requests = [make[kind]() for kind in kinds]
    for record, kind in zip(requests, kinds, strict=True):
        record.lost = kind == "lost"
    kept = Counter(kinds[skip:])
    summary = summarize(RunRecord(requests=requests, duration_s=10.0), skip_first=skip)
    assert summary["rejected"] == kept["rejected"]
    assert summary["lost"] == kept["lost"]
    assert summary["unfinished"] == kept["unfinished"]
    parts = ("completed", "rejected", "lost", "unfinished")
    assert sum(summary[part] for part in parts) == summary["offered"]  # type: ignore[literal-required]
    if summary["offered"]:
        assert summary["attainment"] == (kept["good"] + kept["one"]) / summary["offered"]


def test_the_table_shows_the_numbers_of_the_report() -> None:
    text = format_summary(summarize(small_run()))
    assert "8 offered, 5 completed, 2 rejected, 1 lost, 0 unfinished" in text
    assert "37.50% of offered (TTFT 50.00%, TPOT 50.00%), 50.00% of admitted" in text
    assert "0.500 completed, 0.300 within SLO" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert rows["i0"] == ["50.00%", "20.00%", "25.00%", "5.00%", "50.00%", "52.00%", "80.00%"]
    assert rows["i1"][-2:] == ["-", "-"]
    assert "reason             6  admit" in text


def test_the_table_of_many_instances_is_cut() -> None:
    instances = [InstanceRecord(instance_id=f"i{n}") for n in range(MAX_INSTANCE_LINES + 5)]
    text = format_summary(summarize(RunRecord(instances=instances)))
    assert "and 5 more instances" in text
    assert f"i{MAX_INSTANCE_LINES - 1} " in text
    assert f"i{MAX_INSTANCE_LINES} " not in text
