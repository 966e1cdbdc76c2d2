"""The simulated comparison of `rondo-bench econoserve --sim`: the driver, the figures, the page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rondo.errors import ConfigError, InvariantError
from rondo.policy.econoserve import make_instance_policy
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import StepPlan
from rondo.types import Batching, BatchKind, Slo
from rondo_bench.econoserve import cmd, study, workloads
from rondo_bench.econoserve.chart import draw_all
from rondo_bench.econoserve.drive import Offered, drive
from rondo_bench.econoserve.page import PageData, page_lines, write_page
from rondo_bench.econoserve.search import POLICIES, Trials, candidates, mean_of, tune
from rondo_bench.econoserve.simulated import (
    Setup,
    SimEngine,
    at_rate,
    figures_of,
    latency_model,
    saturated,
)
from rondo_bench.econoserve.study import Scope, compare, figures_of_policies, variants
from rondo_bench.econoserve.workloads import WORKLOADS, draw
from rondo_bench.marked_page import BEGIN, END

SLO = Slo(ttft_s=1.0, tpot_s=0.1)
CHUNKED = Batching(kind=BatchKind.CHUNKED, tokens=128)


class Clockwork:
    """An engine whose steps take a second and whose tokens count up; request `eos` ends early."""

    def __init__(self, eos_after: int) -> None:
        self.at_s = 0.0
        self.live: set[str] = set()
        self._eos_after = eos_after
        self._made: dict[str, int] = {}

    def now_s(self) -> float:
        return self.at_s

    def wait_until(self, at_s: float) -> None:
        self.at_s = at_s

    def add(self, offered: Offered) -> None:
        self.live.add(offered.request_id)

    def execute(self, plan: StepPlan) -> Mapping[str, int]:
        self.at_s += 1.0
        tokens: dict[str, int] = {}
        for item in plan.items:
            count = self._made[item.request_id] = self._made.get(item.request_id, 0) + 1
            tokens[item.request_id] = 99 if count == self._eos_after else count
        return tokens

    def remove(self, request_id: str) -> None:
        self.live.remove(request_id)


class Inline:
    """Stands in for the pool of processes."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Length files with the names of the real ones: 40 prompts, answers of 2 to 130 tokens."""
    head = "num_prefill_tokens,num_decode_tokens,num_predicted_decode_tokens"
    rows = [f"{10 + i * 7 % 60},{2 + i * i % 128},{2 + i * i % 120}" for i in range(40)]
    for workload in WORKLOADS.values():
        (tmp_path / workload.file.removesuffix(".gz")).write_text("\n".join([head, *rows]))
        (tmp_path / workload.file).write_text("\n".join([head, *rows, "2000,5000,5"]))
    return tmp_path


def scheduler(num_blocks: int = 100, policy: str = "block-growth") -> InstanceScheduler:
    return InstanceScheduler(
        KvLedger(num_blocks, 16),
        max_running=64,
        max_prefill_tokens=256,
        eos_token_ids=(99,),
        step_cost=latency_model(),
        policy=make_instance_policy(policy),
    )


def offer(*sizes: tuple[float, int, int]) -> list[Offered]:
    return [
        Offered(f"r{n}", at_s, prompt, answer, answer, 200, SLO)
        for n, (at_s, prompt, answer) in enumerate(sizes)
    ]


def test_answers_end_where_they_do_and_instants_are_kept() -> None:
    offered = offer((0.0, 20, 1), (0.5, 30, 5), (1000.0, 10, 3))
    run = drive(scheduler(), offered, SimEngine(latency_model()), CHUNKED)
    one, two, late = run.lives.values()
    assert [life.tokens_out for life in run.lives.values()] == [1, 5, 3]
    assert one.end_s == one.first_token_s
    assert two.first_token_s is not None
    assert two.end_s is not None
    assert 0.5 < two.first_token_s < two.end_s < 1.5
    assert late.arrived_s == 1000.0
    assert late.first_token_s is not None
    assert late.first_token_s > 1000.0
    assert run.num_finished == 3
    assert sum(step.prompt_tokens for step in run.steps) == 60
    assert sum(step.num_decodes for step in run.steps) == 4 + 2


def test_tokens_of_an_engine_are_kept_and_its_end_token_ends() -> None:
    engine = Clockwork(eos_after=4)
    run = drive(scheduler(), offer((0.0, 8, 50), (2.5, 8, 50)), engine, CHUNKED)
    assert [life.text for life in run.lives.values()] == [[1, 2, 3, 99]] * 2
    assert not engine.live
    assert run.lives["r1"].arrived_s == 2.5
    assert run.lives["r1"].first_token_s == 4.0


def test_a_lost_block_is_counted_as_a_preemption_and_the_answer_is_whole() -> None:
    run = drive(
        scheduler(num_blocks=16),
        offer(*((0.0, 40, 60) for _ in range(4))),
        SimEngine(latency_model()),
        CHUNKED,
    )
    assert run.num_preempted > 0
    assert run.num_preempted == sum(life.num_preempted for life in run.lives.values())
    assert [life.tokens_out for life in run.lives.values()] == [60] * 4
    assert max(step.used_blocks for step in run.steps) <= 16


def test_a_backlog_is_held_until_enough_have_ended() -> None:
    offered = offer(*((9.0, 20, 5 + n % 7) for n in range(60)))
    run = drive(
        scheduler(num_blocks=14),
        offered,
        SimEngine(latency_model()),
        CHUNKED,
        backlog=4,
        stop_after=30,
    )
    assert run.num_finished >= 30
    assert 30 < len(run.lives) < 60
    assert min(life.arrived_s for life in run.lives.values()) == 0.0


def test_a_request_that_never_fits_is_told() -> None:
    with pytest.raises(InvariantError, match="needs"):
        drive(scheduler(2), offer((0.0, 100, 5)), SimEngine(latency_model()), CHUNKED)


def test_lengths_are_drawn_alike_and_the_too_long_left_out(folder: Path) -> None:
    model = latency_model()
    one, two = (draw(WORKLOADS["sharegpt"], folder, 200, 3, model) for _ in range(2))
    assert (one.prompts, one.answers) == (two.prompts, two.answers)
    assert max(one.prompts) < 2000
    long = draw(WORKLOADS["long"], folder, 200, 3, model)
    assert long.mean_answer == pytest.approx(3 * one.mean_answer, rel=1e-9)
    slow, fast = one.at_rate(1.0), one.at_rate(4.0)
    assert [s.at_s / 4 for s in slow] == pytest.approx([f.at_s for f in fast])
    assert slow[0].limit_tokens == 2048 - slow[0].prompt_tokens
    alpaca = workloads.Workload("alpaca", WORKLOADS["alpaca"].file, noise=0.2)
    plain = folder / alpaca.file
    plain.write_text("num_prefill_tokens,num_decode_tokens\n10,50\n20,80\n")
    noisy = draw(alpaca, folder, 100, 3, model)
    assert len(set(noisy.predictions)) > 20
    with pytest.raises(ConfigError, match="no file"):
        draw(WORKLOADS["long"], folder / "none", 5, 1, model)


def test_predictions_of_each_kind(folder: Path) -> None:
    lengths = draw(WORKLOADS["sharegpt"], folder, 200, 3, latency_model())
    assert lengths.predicted("file", 1) is lengths
    assert lengths.predicted("exact", 1).predictions == list(lengths.answers)
    assert set(lengths.predicted("mean", 1).predictions) == {round(lengths.mean_answer)}
    noisy = lengths.predicted("noise=0.5", 1)
    assert noisy.predictions == lengths.predicted("noise=0.5", 1).predictions
    assert noisy.predictions != lengths.predicted("noise=1.0", 1).predictions
    assert noisy.answers == lengths.answers
    with pytest.raises(ConfigError, match="oracle"):
        lengths.predicted("oracle", 1)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_run_gives_the_same_figures(folder: Path, policy: str) -> None:
    model = latency_model()
    lengths = draw(WORKLOADS["sharegpt"], folder, 60, 1, model)
    setup = candidates(policy)[0]
    figures = [at_rate(setup, lengths, 5.0, model) for _ in range(2)]
    assert figures[0] == figures[1]
    assert figures[0].preempted_share == 0.0
    assert 0 < figures[0].kv_used_share < figures[0].kv_owned_share * 1.1 < 1
    assert figures[0].normalized_latency_s > model.step_s(0, 0, 1, 0)


def test_figures_count_what_they_say() -> None:
    run = drive(scheduler(), offer((0.0, 16, 4), (0.0, 16, 2)), SimEngine(latency_model()), CHUNKED)
    figures = figures_of(run)
    ends = [life.end_s or 0.0 for life in run.lives.values()]
    assert figures.normalized_latency_s == pytest.approx((ends[0] / 4 + ends[1] / 2) / 2)
    assert figures.requests_per_s == pytest.approx(2 / max(ends))
    assert figures.tokens_per_s == pytest.approx(6 / max(ends))
    assert figures.slo_satisfaction == 1.0
    strict = replace(run.lives["r0"].offered, slo=Slo(ttft_s=0.0, tpot_s=0.001))
    run.lives["r0"].offered = strict
    assert figures_of(run).slo_satisfaction == 0.5
    assert mean_of([figures, figures]) == figures


def test_saturated_runs_count_full_steps_only(folder: Path) -> None:
    lengths = draw(WORKLOADS["sharegpt"], folder, 600, 1, latency_model())
    figures = saturated(Setup("block-growth", CHUNKED), lengths, latency_model())
    assert figures.requests_per_s * lengths.mean_answer == pytest.approx(
        figures.tokens_per_s, rel=0.15
    )
    assert figures.forward_tokens > 64


def test_tuning_takes_the_setup_that_serves_more(folder: Path) -> None:
    model = latency_model()
    lengths = draw(WORKLOADS["sharegpt"], folder, 20, 1, model)
    good, bad = Setup("block-growth", CHUNKED), Setup("max-length", CHUNKED)
    tuned = tune([bad, good], [lengths, lengths], 0.046, 6.0)
    assert tuned.setup == good
    assert len(tuned.draws) == 2
    trials = Trials(good, [lengths])
    rate = trials.rate_at(0.046, 6.0)
    assert trials.at(rate).normalized_latency_s <= 0.046
    assert trials.at(rate * 1.1).normalized_latency_s > 0.045
    assert trials.rate_at(1e-3, 6.0) == 0.0
    assert trials.rate_at(100.0, 6.0) == 24.0


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "SHARES", (1.0, 1.5))
    monkeypatch.setattr("rondo_bench.econoserve.page.SHARES", (1.0, 1.5))
    monkeypatch.setattr(study, "LEVELS_S", (0.07,))
    monkeypatch.setattr(study, "PREDICTIONS", ("exact", "mean"))
    monkeypatch.setattr(study, "variants", lambda setup: variants(setup)[:3])
    monkeypatch.setattr("rondo_bench.econoserve.search.MOST_SHARE", 0.7)
    monkeypatch.setattr(study, "candidates", lambda policy: candidates(policy)[:1], raising=True)


def test_the_page_has_every_policy_and_keeps_what_is_around(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    scope = Scope(folder, 12, (1,))
    told: list[str] = []
    pool: Any = Inline()
    studies = compare("sharegpt", scope, 0.07, pool, told.append)
    assert list(studies) == list(POLICIES)
    assert len(told) == len(POLICIES)
    figures = figures_of_policies(studies, 0.07)
    assert figures["econoserve"].requests_per_s_at_equal_latency > 0
    data = PageData(0.07, "Runs.", {"sharegpt": studies})
    setup = studies["econoserve"].setup
    data.parts = study.take_apart("sharegpt", setup, scope, 5.0, pool)
    told_to = {"econoserve": setup}
    data.predictions = study.vary_predictions("sharegpt", told_to, scope, 5.0, pool)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page(page, data)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert all(f"| {policy} |" in text for policy in POLICIES)
    assert all(f"| {kind} |" in text for kind in study.PREDICTIONS)
    assert "\n".join(page_lines(data)) in text
    (tmp_path / "bare.md").write_text("nothing")
    with pytest.raises(ConfigError, match="lacks"):
        write_page(tmp_path / "bare.md", data)


def test_the_chart_shows_curves_and_pools(tmp_path: Path) -> None:
    requests = offer(*((0.1 * n, 20, 30) for n in range(20)))
    run = drive(scheduler(policy="econoserve"), requests, SimEngine(latency_model()), CHUNKED)
    figures = figures_of(run)
    one = study.PolicyStudy(
        Setup("econoserve", CHUNKED), {0.1: 2.0}, 9.0, figures, {0.5: figures, 1.0: figures}
    )
    paths = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in paths:
        draw_all({"a": {"econoserve": one}}, {"a": 2.0}, {"econoserve": run}, (0.0, 9.0), path)
    text = paths[0].read_text()
    assert text == paths[1].read_text()
    assert "KV pool under econoserve" in text
    assert "requests/s" in text


def test_each_variant_differs_from_the_whole_in_one_setting() -> None:
    whole, *others = variants(candidates("econoserve")[0])
    assert whole[1] == candidates("econoserve")[0]
    for label, setup in others:
        names = setup.econo.__struct_fields__
        changed = [n for n in names if getattr(setup.econo, n) != getattr(whole[1].econo, n)]
        assert len(changed) == 1, label


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cmd.add_parser(parser.add_subparsers())
    return parser.parse_args(["econoserve", *arguments])


def test_the_command_prints_the_fixed_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small(monkeypatch)
    monkeypatch.setattr(cmd, "ProcessPoolExecutor", InlinePool)
    options = ["--sim", "--lengths", str(folder), "--seconds", "12", "--seeds", "1"]
    options += ["--level", "0.07"]
    args = parse(*options, "--json")
    assert args.run(args) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == list(POLICIES)
    assert set(printed["econoserve"]) == {
        "requests_per_s_at_equal_latency",
        "saturated_requests_per_s",
        "slo_satisfaction",
        "preempted_share",
        "kv_used_share",
        "forward_tokens",
    }
    for wrong in (["--lengths", str(folder / "none")], ["--level", "0"]):
        args = parse(*options, *wrong)
        with pytest.raises(ConfigError):
            args.run(args)


class InlinePool(Inline):
    """As `Inline`, made as a pool of processes is."""

    def __init__(self, count: int) -> None:
        assert count > 0

    def shutdown(self, cancel_futures: bool) -> None:
        assert cancel_futures
