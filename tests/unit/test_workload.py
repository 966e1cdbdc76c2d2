"""Lengths, traces and arrival times become the list of requests that a run is offered."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo.errors import ConfigError
from rondo.types import Slo
from rondo_bench.sim.arrivals import RateCurve, constant_arrivals, curve_arrivals, step_curve
from rondo_bench.sim.lengths import MAX_TOKENS, LengthTable, load_lengths
from rondo_bench.sim.traces import Trace, load_trace
from rondo_bench.sim.workload import LongPrompt, WorkloadSpec, make_workload

DATA = Path(__file__).parents[3] / "shared" / "data"
PAIR = "num_prefill_tokens,num_decode_tokens"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def write(folder: Path, text: str, name: str = "file.csv") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.fixture
def lengths(tmp_path: Path) -> str:
    """Fifty rows, told apart by their prompts; each answer is a tenth, each guess one more."""
    rows = [f"{10 * n},{n},{n + 1}" for n in range(1, 51)]
    header = f"{PAIR},num_predicted_decode_tokens"
    return write(tmp_path, "\n".join([header, *rows]), "lengths.csv")


# Length files


def test_columns_are_found_by_name_and_others_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, f"task,num_decode_tokens,num_prefill_tokens\n{'qa'},3,7\nqa,4,8\n")
    table = load_lengths(path)
    assert table.prompt_tokens.tolist() == [7, 8]
    assert table.output_tokens.tolist() == [3, 4]
    assert table.predicted_tokens is None


def test_longbench_estimates_are_lengths_too(tmp_path: Path) -> None:
    path = write(tmp_path, "task,lang,pred_output_tokens,est_prefill_tokens\nqa,en,3,8265\n")
    table = load_lengths(path)
    assert (table.prompt_tokens.tolist(), table.output_tokens.tolist()) == ([8265], [3])


def test_a_gzipped_file_reads_like_a_plain_one(tmp_path: Path, lengths: str) -> None:
    zipped = tmp_path / "no-suffix"
    zipped.write_bytes(gzip.compress(Path(lengths).read_bytes()))
    plain, packed = load_lengths(lengths), load_lengths(zipped)
    assert plain.prompt_tokens.tolist() == packed.prompt_tokens.tolist()
    assert plain.predicted_tokens is not None
    assert packed.predicted_tokens is not None
    assert plain.predicted_tokens.tolist() == packed.predicted_tokens.tolist()


def test_a_byte_order_mark_and_windows_lines_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "windows.csv"
    path.write_bytes(f"\ufeff{PAIR}\r\n7,3\r\n".encode())
    assert load_lengths(path).prompt_tokens.tolist() == [7]


def test_zero_lengths_become_one_and_are_counted(tmp_path: Path) -> None:
    table = load_lengths(write(tmp_path, f"{PAIR}\n0,5\n6,0\n7,8\n"))
    assert table.prompt_tokens.tolist() == [1, 6, 7]
    assert table.output_tokens.tolist() == [5, 1, 8]
    assert table.num_clamped == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (f"{PAIR}\n", "has no rows"),
        ("num_prefill_tokens,words\n7,3\n", "line 1: lacks the column num_decode_tokens"),
        ("7,3\n8,4\n", "lacks the column num_prefill_tokens, num_decode_tokens"),
        (f"{PAIR}\n7,3\n8,x\n", "line 3: num_decode_tokens is 'x'"),
        (f"{PAIR}\n7,3\n\n-8,4\n", "line 4: num_prefill_tokens is '-8'"),
        (f"{PAIR}\n7.5,3\n", "line 2: num_prefill_tokens is '7.5'"),
        (f"{PAIR}\n7,3\n8\n", "line 3: num_decode_tokens is missing"),
        (f"{PAIR}\n{MAX_TOKENS + 1},3\n", "line 2: num_prefill_tokens"),
    ],
)
def test_a_bad_length_file_is_named_with_column_and_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_lengths(path)
    assert error.value.setting == path
    assert problem in error.value.problem


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (load_lengths, f"{PAIR}\n" + "1,2\n" * 1000),
        (load_trace, AZURE + "2023-11-16 10:00:00,1,2\n" * 1000),
    ],
)
def test_unreadable_files_are_configuration_errors(
    tmp_path: Path, load: Callable[[Path], object], text: str
) -> None:
    truncated = tmp_path / "truncated.gz"
    truncated.write_bytes(gzip.compress(text.encode())[:-9])
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    for path in (truncated, binary, tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(path)


def test_samples_are_whole_rows_and_follow_from_the_seed(lengths: str) -> None:
    table = load_lengths(lengths)
    sample, again = table.sample(rng(3), 1000), table.sample(rng(3), 1000)
    assert sample.predicted_tokens is not None
    assert (sample.prompt_tokens == 10 * sample.output_tokens).all()
    assert (sample.predicted_tokens == sample.output_tokens + 1).all()
    assert len(set(sample.output_tokens.tolist())) == len(table)
    assert sample.prompt_tokens.tolist() == again.prompt_tokens.tolist()
    assert sample.prompt_tokens.tolist() != table.sample(rng(4), 1000).prompt_tokens.tolist()


# Traces


def mooncake(*rows: tuple[float, int, int]) -> str:
    names = ("timestamp", "input_length", "output_length")
    return "\n".join(json.dumps(dict(zip(names, r, strict=True)) | {"hash_ids": [1]}) for r in rows)


def test_azure_times_count_from_the_first_request(tmp_path: Path) -> None:
    text = AZURE + (
        "2023-11-16 23:59:59.9799600,4808,10\n"
        "2023-11-17 00:00:00.4799600,3180,0\n"
        "2023-11-17 00:00:00.4799600,12,8\n"
    )
    trace = load_trace(write(tmp_path, text))
    assert trace.at_s.tolist() == [0.0, 0.5, 0.5]
    assert trace.prompt_tokens.tolist() == [4808, 3180, 12]
    assert trace.output_tokens.tolist() == [10, 1, 8]
    assert trace.spread(rng()).at_s.tolist() == [0.0, 0.5, 0.5]


def test_rows_out_of_order_are_sorted_with_their_lengths(tmp_path: Path) -> None:
    text = AZURE + "2023-11-16 10:00:02+00:00,3,30\n2023-11-16 10:00:00+00:00,1,10\n"
    trace = load_trace(write(tmp_path, text))
    assert trace.at_s.tolist() == [0.0, 2.0]
    assert trace.output_tokens.tolist() == [10, 30]


def test_mooncake_times_are_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(gzip.compress(mooncake((1000, 6758, 500), (2500, 7322, 0)).encode()))
    trace = load_trace(path)
    assert trace.at_s.tolist() == [0.0, 1.5]
    assert trace.prompt_tokens.tolist() == [6758, 7322]
    assert trace.output_tokens.tolist() == [500, 1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (AZURE, "has no rows"),
        ("TIMESTAMP,ContextTokens\n1,2\n", "line 1: lacks the column GeneratedTokens"),
        (AZURE + "noon,1,2\n", "line 2: TIMESTAMP is 'noon'"),
        (AZURE + "2023-11-16 10:00:00,1\n", "line 2: GeneratedTokens is missing"),
        (AZURE + "2023-11-16 10:00:00,1,-2\n", "line 2: GeneratedTokens is '-2'"),
        (mooncake((0, 1, 2)) + '\n{"timestamp": 0}', "line 2: Object missing required field"),
        (mooncake((0, 1, 2), (1, -1, 2)), "line 2: Expected `int` >= 0 - at `$.input_length`"),
        (mooncake((0, 1, 2)) + "\n{", "line 2: Input data was truncated"),
    ],
)
def test_a_bad_trace_is_named_with_column_and_line(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_trace(path)
    assert error.value.setting == path
    assert problem in error.value.problem


def batches(sizes: list[int], gaps_s: list[float]) -> Trace:
    """A batched trace; its prompts number the requests."""
    times = np.repeat(np.cumsum([0.0, *gaps_s]), sizes)
    numbers = np.arange(len(times))
    return Trace(at_s=times, prompt_tokens=numbers, output_tokens=numbers, batched=True)


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.floats(0.001, 100.0)),
        min_size=2,
        max_size=20,
    ),
    st.integers(0, 2**32),
)
def test_spreading_keeps_order_count_and_batches(plan: list[tuple[int, float]], seed: int) -> None:
    sizes = [size for size, _ in plan]
    trace = batches(sizes, [gap for _, gap in plan[1:]])
    spread = trace.spread(rng(seed))
    starts = np.unique(trace.at_s)
    ends = np.append(starts[1:], 2 * starts[-1] - starts[-2])
    batch = np.repeat(np.arange(len(sizes)), sizes)
    assert spread.prompt_tokens.tolist() == trace.prompt_tokens.tolist()
    assert (np.diff(spread.at_s) >= 0).all()
    assert (spread.at_s >= starts[batch]).all()
    assert (spread.at_s <= ends[batch]).all()
    alone = np.array(sizes)[batch] == 1
    assert (spread.at_s[alone] == trace.at_s[alone]).all()
    assert spread.at_s.tolist() == trace.spread(rng(seed)).at_s.tolist()


def test_spreading_parts_what_came_together() -> None:
    spread = batches([50, 50], [3.0]).spread(rng())
    assert len(set(spread.at_s.tolist())) == 100
    assert spread.at_s[:50].mean() == pytest.approx(1.5, abs=0.5)
    assert spread.at_s[50] >= 3.0
    assert spread.at_s[99] > 5.0


def test_a_single_batch_has_no_gap_to_spread_over() -> None:
    assert batches([4], []).spread(rng()).at_s.tolist() == [0.0] * 4


@given(
    st.lists(st.floats(0.0, 1e5), min_size=2, max_size=50),
    st.floats(0.01, 1000.0),
)
def test_a_scaled_trace_has_the_rate_and_the_same_bursts(times: list[float], rate: float) -> None:
    at_s = np.sort(np.array([0.0, 1.0, *times]))
    numbers = np.arange(len(at_s))
    trace = Trace(at_s=at_s, prompt_tokens=numbers, output_tokens=numbers, batched=False)
    scaled = trace.at_rate(rate)
    assert (len(trace) - 1) / (scaled.at_s[-1] - scaled.at_s[0]) == pytest.approx(rate)
    assert scaled.at_s * at_s[-1] == pytest.approx(at_s * scaled.at_s[-1])


def test_a_trace_of_one_instant_cannot_be_scaled() -> None:
    with pytest.raises(ConfigError, match="one instant"):
        batches([4], []).at_rate(2.0)


# Arrival times


@pytest.mark.parametrize("cv", [0.5, 1.0, 1.5, 2.0])
def test_gamma_gaps_have_the_rate_and_the_cv(cv: float) -> None:
    gaps = np.diff(constant_arrivals(rng(1), 100_000, 20.0, cv))
    assert 1 / gaps.mean() == pytest.approx(20.0, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_poisson_counts_vary_like_their_mean() -> None:
    at_s = constant_arrivals(rng(2), 100_000, 10.0)
    counts = np.histogram(at_s, bins=np.arange(0.0, at_s[-1], 5.0))[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)


def test_no_variation_is_a_metronome() -> None:
    assert constant_arrivals(rng(), 4, 2.0, 0.0).tolist() == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("rate", "cv"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, -1.0), (1.0, 1e9)]
)
def test_impossible_streams_are_refused(rate: float, cv: float) -> None:
    with pytest.raises(ConfigError):
        constant_arrivals(rng(), 5, rate, cv)


def test_steps_bring_their_rates_in_their_time() -> None:
    curve = step_curve([20.0, 50.0, 0.0, 30.0], 120.0)
    at_s = curve_arrivals(rng(5), curve)
    counts = np.histogram(at_s, bins=[0.0, 120.0, 240.0, 360.0, 480.0])[0]
    assert curve.mean_rate == 25.0
    assert counts[2] == 0
    for count, rate in zip(counts, (20.0, 50.0, 0.0, 30.0), strict=True):
        assert abs(count - 120 * rate) <= 4 * np.sqrt(120 * rate)


def test_a_slope_is_followed_exactly() -> None:
    """Without variation the n-th arrival is where the area under the curve reaches n."""
    curve = RateCurve(points=((10.0, 0.0), (20.0, 4.0), (30.0, 0.0)))
    at_s = curve_arrivals(rng(), curve, 0.0)
    rising = [10.0 + np.sqrt(n / 0.2) for n in range(1, 21)]
    falling = [30.0 - np.sqrt((40 - n) / 0.2) for n in range(20, 40)]
    assert at_s[:20] == pytest.approx(rising)
    assert at_s[19:] == pytest.approx(falling)


@given(
    st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 20.0)), min_size=1, max_size=6),
    st.floats(0.0, 3.0),
    st.integers(0, 100),
)
def test_curve_arrivals_ascend_where_the_rate_is_not_zero(
    pieces: list[tuple[float, float]], cv: float, seed: int
) -> None:
    points = [(1.0, 5.0), (3.0, 5.0)]
    for width_s, rate in pieces:
        points += [(points[-1][0] + width_s, rate)]
    at_s = curve_arrivals(rng(seed), RateCurve(points=tuple(points)), cv)
    assert (np.diff(at_s) >= 0).all()
    assert all(points[0][0] <= at <= points[-1][0] for at in at_s)
    pauses = [(a[0], b[0]) for a, b in pairwise(points) if a[1] == b[1] == 0]
    assert not any(start < at < end for at in at_s for start, end in pauses)


@pytest.mark.parametrize(
    "points",
    [
        (),
        ((0.0, 1.0),),
        ((0.0, 0.0), (5.0, 0.0)),
        ((0.0, 1.0), (0.0, 2.0)),
        ((5.0, 1.0), (4.0, 1.0)),
        ((-1.0, 1.0), (4.0, 1.0)),
        ((0.0, 1.0), (5.0, -1.0)),
        ((0.0, 1.0), (float("inf"), 1.0)),
    ],
)
def test_impossible_curves_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ConfigError) as error:
        RateCurve(points=points)
    assert error.value.setting == "curve"


# Workloads


def test_a_workload_follows_from_its_seed(lengths: str) -> None:
    spec = WorkloadSpec(lengths=lengths, rate=5.0, num_requests=200, slo=Slo(ttft_s=1, tpot_s=0.1))
    arrivals = make_workload(spec)
    assert arrivals == make_workload(spec)
    assert [arrival.request_id for arrival in arrivals] == [f"r{n}" for n in range(200)]
    assert all(a.at_s <= b.at_s for a, b in pairwise(arrivals))
    assert all(a.slo is spec.slo and a.predicted_tokens == a.output_tokens + 1 for a in arrivals)
    other = WorkloadSpec(lengths=lengths, rate=5.0, num_requests=200, seed=1)
    assert [a.at_s for a in make_workload(other)] != [a.at_s for a in arrivals]


def test_rates_share_lengths_and_pattern(lengths: str) -> None:
    slow, fast, bursty = (
        make_workload(WorkloadSpec(lengths=lengths, rate=rate, cv=cv, num_requests=300, seed=7))
        for rate, cv in ((2.0, 1.0), (8.0, 1.0), (2.0, 2.0))
    )
    assert [a.prompt_tokens for a in slow] == [a.prompt_tokens for a in fast]
    assert [a.prompt_tokens for a in slow] == [a.prompt_tokens for a in bursty]
    assert [a.at_s / 4 for a in slow] == pytest.approx([a.at_s for a in fast])


def test_more_requests_begin_with_the_fewer(lengths: str) -> None:
    few, many = (
        make_workload(WorkloadSpec(lengths=lengths, rate=2.0, num_requests=count))
        for count in (51, 400)
    )
    assert many[:51] == few


def test_a_curve_may_be_scaled_and_cut(lengths: str) -> None:
    curve = step_curve([20.0, 40.0], 50.0)
    whole = make_workload(WorkloadSpec(lengths=lengths, curve=curve))
    tenth = make_workload(WorkloadSpec(lengths=lengths, curve=curve, rate=3.0))
    assert len(whole) == pytest.approx(3000, abs=200)
    assert len(tenth) == pytest.approx(300, abs=70)
    assert make_workload(WorkloadSpec(lengths=lengths, curve=curve, num_requests=9)) == whole[:9]


def test_a_trace_keeps_its_times_or_takes_a_rate(tmp_path: Path) -> None:
    rows = [(1000 * n * n, 10 + n, 1 + n) for n in range(1, 7)]
    path = write(tmp_path, mooncake(*rows), "trace.jsonl")
    replayed = make_workload(WorkloadSpec(trace=path))
    assert [a.at_s for a in replayed] == [0.0, 3.0, 8.0, 15.0, 24.0, 35.0]
    assert [(a.prompt_tokens, a.output_tokens) for a in replayed] == [r[1:] for r in rows]
    first = make_workload(WorkloadSpec(trace=path, rate=2.0, num_requests=3))
    assert [a.at_s for a in first] == pytest.approx([0.0, 0.375, 1.0])
    assert len(make_workload(WorkloadSpec(trace=path, num_requests=100))) == 6


def test_long_prompts_come_among_the_others(lengths: str) -> None:
    long = LongPrompt(at_s=10.0, prompt_tokens=32_768, output_tokens=64)
    spec = WorkloadSpec(lengths=lengths, rate=5.0, num_requests=100, long_prompts=(long,))
    arrivals = make_workload(spec)
    assert len(arrivals) == 101
    index = [a.request_id for a in arrivals].index("long0")
    assert (arrivals[index].prompt_tokens, arrivals[index].output_tokens) == (32_768, 64)
    assert arrivals[index - 1].at_s <= 10.0 < arrivals[index + 1].at_s
    assert 0 < index < 100


@pytest.mark.parametrize(
    ("fields", "setting"),
    [
        ({}, "lengths"),
        ({"lengths": "a", "trace": "b"}, "lengths"),
        ({"lengths": "a", "num_requests": 5}, "rate"),
        ({"lengths": "a", "rate": 5.0}, "requests"),
        ({"lengths": "a", "rate": 0.0, "num_requests": 5}, "rate"),
        ({"lengths": "a", "rate": 1.0, "num_requests": 0}, "requests"),
        ({"trace": "a", "seed": -1}, "seed"),
        ({"trace": "a", "curve": step_curve([1.0], 5.0)}, "curve"),
        (
            {"trace": "a", "long_prompts": (LongPrompt(at_s=1, prompt_tokens=0, output_tokens=1),)},
            "long_prompts",
        ),
    ],
)
def test_a_contradictory_spec_names_its_setting(fields: dict[str, object], setting: str) -> None:
    with pytest.raises(ConfigError) as error:
        WorkloadSpec(**fields)  # type: ignore[arg-type]
    assert error.value.setting == setting


@pytest.mark.skipif(not DATA.exists(), reason="the public traces are not beside the repository")
def test_the_public_files_have_their_published_statistics() -> None:
    predicted = load_lengths(DATA / "lengths/sharegpt_40k_with_predicted_output.csv.gz")
    assert isinstance(predicted, LengthTable)
    assert len(predicted) == 40_000
    assert predicted.predicted_tokens is not None
    assert predicted.num_clamped > 0
    assert predicted.prompt_tokens.mean() == pytest.approx(250.72, abs=0.01)
    azure = load_trace(DATA / "traces/azure_llm_2023_code.csv.gz")
    assert len(azure) / azure.at_s[-1] == pytest.approx(2.57, abs=0.01)
    moon = load_trace(DATA / "traces/mooncake_fast25_conversation.jsonl.gz")
    gaps = np.diff(moon.spread(rng()).at_s)
    assert len(gaps) == 12_030
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.1)
