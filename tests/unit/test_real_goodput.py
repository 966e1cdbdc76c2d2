"""The side-by-side benchmark: its search, its rule for objectives, its files and its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from rondo.errors import ConfigError
from rondo.metrics.lifecycle import Lifecycle
from rondo.types import Slo
from rondo_bench.engines.shape import Shape
from rondo_bench.goodput_real import page
from rondo_bench.goodput_real.compare import plan
from rondo_bench.goodput_real.measure import figures
from rondo_bench.goodput_real.model import FIRST_ID, write_model
from rondo_bench.goodput_real.records import Cell, Header, Run, Store, Unloaded
from rondo_bench.goodput_real.search import LOWEST_STEP, MAX_RUNS, goodput, next_step
from rondo_bench.goodput_real.sides import Side, parse_side
from rondo_bench.goodput_real.workloads import WORKLOADS, scaled
from rondo_bench.load.outcomes import Ending, Outcome
from rondo_bench.load.shortest_queue import ShortestQueue
from rondo_bench.sim.records import Arrival

HEADER = Header(
    engine="vllm",
    dtype="float32",
    compiled=False,
    kv_mib=1024,
    scale=0.125,
    settle_s=5.0,
    run_s=20.0,
    ratio=1.1,
    machine="a machine",
    versions="vllm 1",
)


def a_run(side: str, seed: int, step: int, attainment: float, offered: int = 100) -> Run:
    return Run(
        workload="sharegpt",
        side=side,
        seed=seed,
        step=step,
        rate=2.0 * 1.1**step,
        offered=offered,
        attainment=attainment,
        refused=1,
        failed=0,
        missed_ttft=2,
        missed_tpot=3,
        ttft_p50_s=0.1,
        ttft_p99_s=0.2,
        tpot_p50_s=0.1,
        tpot_p99_s=0.2,
        late_p99_s=0.001,
        duration_s=10.0,
        engine_cpu_s=18.0,
        front_cpu_s=1.0,
        client_cpu_s=0.5,
        load_average=2.0,
    )


def unloaded() -> Unloaded:
    return Unloaded(
        workload="sharegpt",
        side="vllm",
        prompt_tokens=43,
        output_tokens=30,
        ttft_s=0.1,
        tpot_s=0.07,
        ttft_limit_s=3.4,
        tpot_limit_s=0.25,
        base_rate=2.0,
    )


def searched(attainment: Callable[[int], float], targets: list[float]) -> dict[int, float]:
    shares: dict[int, float] = {}
    starts = [0] * len(targets)
    while (step := next_step(shares, targets, starts, 3)) is not None:
        assert step not in shares  # no run is made twice
        shares[step] = attainment(step)
    return shares


@pytest.mark.parametrize("edge", [-20, -3, 0, 1, 2, 7])
def test_a_search_encloses_both_targets(edge: int) -> None:
    shares = searched(lambda step: 1.0 - 0.01 * max(0, step - edge), [0.9, 0.99])
    rates = {step: float(step) for step in shares}
    assert goodput(shares, rates, 0.985) == pytest.approx(edge + 1.5)
    assert goodput(shares, rates, 0.9) == pytest.approx(edge + 10)
    assert len(shares) <= MAX_RUNS


def test_a_search_gives_up_where_nothing_meets_the_target() -> None:
    shares = searched(lambda step: 0.5, [0.9])
    assert min(shares) == LOWEST_STEP
    assert goodput(shares, dict.fromkeys(shares, 1.0), 0.9) == 0.0


def test_luck_above_a_rate_that_fails_does_not_count() -> None:
    shares = {0: 1.0, 1: 0.8, 2: 0.95}
    assert goodput(shares, {0: 10.0, 1: 11.0, 2: 12.0}, 0.9) == pytest.approx(10.5)


def test_a_seed_goes_on_where_the_last_one_ended() -> None:
    runs = [a_run("vllm", 0, 4, 0.95), a_run("vllm", 0, 5, 0.7)]
    assert plan(runs, "sharegpt", "vllm", 1, [0.9]) == 4
    assert plan(runs, "sharegpt", "vllm", 0, [0.9]) is None
    assert plan(runs, "sharegpt", "padg", 0, [0.9]) == 0
    runs.append(a_run("vllm", 1, 4, 0.97))
    assert plan(runs, "sharegpt", "vllm", 1, [0.9]) == 5


def test_limits_are_as_tight_as_in_the_paper() -> None:
    for workload in WORKLOADS:
        there = workload.unloaded_there()
        assert workload.slo(*there).ttft_s == pytest.approx(workload.paper.ttft_s)
        assert workload.slo(*there).tpot_s == pytest.approx(workload.paper.tpot_s)
        assert workload.slo(2 * there[0], there[1]).ttft_s == pytest.approx(
            2 * workload.paper.ttft_s
        )
    short = scaled(
        Arrival(request_id="r", at_s=1.0, prompt_tokens=3, output_tokens=800), scale=0.125
    )
    assert (short.prompt_tokens, short.output_tokens) == (1, 100)


def test_requests_that_miss_are_told_apart() -> None:
    def outcome(ttft_s: float, tpot_s: float, ending: Ending = Ending.COMPLETED) -> Outcome:
        times = Lifecycle(0.0)
        times.tokens(1, ttft_s)
        times.tokens(10, ttft_s + 10 * tpot_s)
        arrival = Arrival(request_id="r", at_s=0.0, prompt_tokens=1, output_tokens=11)
        return Outcome(arrival, times, ending=ending, ended_s=2.0)

    counted = [
        outcome(0.5, 0.1),
        outcome(1.5, 0.1),
        outcome(0.5, 0.3),
        outcome(0.5, 0.1, Ending.REFUSED),
        outcome(0.5, 0.1, Ending.BROKEN),
    ]
    cell = Cell(workload="sharegpt", side="padg", seed=3, step=1, rate=2.2)
    found = figures(
        cell,
        counted,
        Slo(ttft_s=1.0, tpot_s=0.2),
        engine_cpu_s=1.0,
        front_cpu_s=1.0,
        client_cpu_s=1.0,
        load_average=1.0,
    )
    assert found.offered == 5
    assert found.attainment == pytest.approx(0.2)
    assert (found.refused, found.failed) == (1, 1)
    assert (found.missed_ttft, found.missed_tpot) == (1, 1)
    assert (found.side, found.seed, found.rate) == ("padg", 3, 2.2)


def test_runs_are_kept_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "real" / "vllm.jsonl"
    store = Store(path, HEADER)
    store.add(unloaded())
    store.add(a_run("padg", 0, 2, 0.97))
    again = Store(path, HEADER)
    assert again.runs == store.runs
    assert again.unloaded == store.unloaded
    assert Store.open(path).header == HEADER
    other = Header(**{**{f: getattr(HEADER, f) for f in HEADER.__struct_fields__}, "scale": 1.0})
    with pytest.raises(ConfigError, match="other options"):
        Store(path, other)
    foreign = path.with_name("foreign.jsonl")
    foreign.write_text('{"type": "run"}\n')
    with pytest.raises(ConfigError, match=r"foreign\.jsonl has no runs"):
        Store.open(foreign)


def test_the_page_compares_the_best_of_both(tmp_path: Path) -> None:
    store = Store(tmp_path / "vllm.jsonl", HEADER)
    store.add(unloaded())
    ends = {"padg": 3, "padg:0.9": 5, "vllm": 1, "vllm:128": 2}
    for side, edge in ends.items():
        for seed in (0, 1):
            store.add(a_run(side, seed, edge, 1.0))
            store.add(a_run(side, seed, edge + 1, 0.98))
    text = page.as_markdown([store], [0.99], "made")
    low, high = 2.0 * 1.1**5, 2.0 * 1.1**6
    assert page.goodputs(store, "sharegpt", "padg:0.9", 0.99)[0] == pytest.approx((low + high) / 2)
    assert page.pooled(store, "sharegpt", "padg:0.9", 0.99) == pytest.approx((low + high) / 2)
    over = page.ratios(store, "sharegpt", "padg:0.9", "vllm:128", 0.99)
    assert over == pytest.approx([1.1**3] * 2)
    assert "best of them; 1.2: met |" in text
    assert text.count("best of them") == 1  # vllm:128, not vllm
    assert "| sharegpt | vllm | 2.20 | 100.00% | 200 | 1.0% | 2.0% | 3.0% |" in text


def test_sides_have_names() -> None:
    assert parse_side("padg").margin == 1.0
    assert parse_side("padg:0.9") == Side("padg:0.9", "padg", margin=0.9)
    assert parse_side("padg:0.9").host == parse_side("padg").host
    assert parse_side("vllm:256").budget == 256
    assert parse_side("vllm").is_plain
    assert not parse_side("chunked-jsq").is_plain
    for wrong in ("fudg", "vllm:0", "vllm:x", "padg:0", "padg:2", ""):
        with pytest.raises(ConfigError):
            parse_side(wrong)


def test_every_token_of_the_model_has_text_of_its_own(tmp_path: Path) -> None:
    shape = Shape(layers=1, hidden=64, heads=2, inner=64, vocabulary=300, positions=64)
    folder = write_model(tmp_path / "model", shape)
    assert write_model(folder, shape) == folder
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 300
    ids = list(range(FIRST_ID, 300))
    text = tokenizer.decode(ids)
    assert tokenizer.encode(text).ids == ids
    assert len(set(text.split())) == len(ids)


def test_requests_go_where_fewest_are() -> None:
    queue = ShortestQueue(["a", "b"])
    first, second = queue.take(), queue.take()
    assert {queue.url(first), queue.url(second)} == {"a", "b"}
    queue.ended(second)
    assert queue.take() == second
    queue.ended(second)
    queue.ended(first)
    assert queue.take() == first  # both are idle: the one that had fewer
