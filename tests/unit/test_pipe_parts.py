"""The parts of TD-Pipe, each by itself, and what each is worth on a small simulated pipeline."""

from __future__ import annotations

import pytest

from rondo.errors import ConfigError, InvariantError
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.policy.tdpipe import (
    FusedSettings,
    PipeSettings,
    PipeSetup,
    TdPipeSettings,
    make_scheduler,
)
from rondo.policy.tdpipe.forecast import KvForecast
from rondo.policy.tdpipe.intensity import Intensity, NextPrefill
from rondo.policy.tdpipe.order import Pace, in_time
from rondo.policy.tdpipe.remaining import RemainingTokens
from rondo.policy.tdpipe.sizing import best_batch, best_rows, even_rows
from rondo.policy.tdpipe.stealing import fair_share
from rondo.types import Phase, Slo
from rondo_bench.tdpipe.pipeline import PipeRecord, SimPipeline, bubble_share


class Tiles:
    """A second for each tile of 128 rows that is begun, and one for the weights."""

    def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
        return 1.0 + -(-(tokens + num_decodes) // 128)


def job(name: str, prompt: int, answer: int, predicted: int | None = None) -> Job:
    return Job(name, prompt, answer, predicted or answer, Slo(ttft_s=1, tpot_s=1), 0.0)


def test_forecast_counts_a_request_at_every_point_that_it_reaches() -> None:
    forecast = KvForecast((5, 10, 20), block_size=10)
    forecast.add(known_tokens=12, expected_tokens=10)  # 17, 22 tokens: 2 and 3 blocks
    assert forecast.peak_blocks == 3
    forecast.add(known_tokens=95, expected_tokens=5)  # 100 tokens: 10 blocks, at the first point
    assert forecast.peak_blocks == 12
    forecast.clear()
    assert forecast.peak_blocks == 0


def test_remaining_tokens_with_and_without_predictions() -> None:
    exact = RemainingTokens(predict=True, first_guess=256)
    assert exact.expect(job("a", 1, 50, 40), 10) == 30
    assert exact.expect(job("a", 1, 50, 40), 45) == 0
    mean = RemainingTokens(predict=False, first_guess=256)
    assert mean.expect(job("a", 1, 50, 40), 10) == 246
    mean.ended(20)
    mean.ended(40)
    assert mean.expect(job("a", 1, 50, 40), 10) == 20


def test_intensities_compare_small_batches_with_the_bubbles_of_switching() -> None:
    intensity = Intensity(Tiles(), num_stages=4)
    assert intensity.spatial(256, 0.0, 256) == 1.0
    assert intensity.spatial(128, 0.0, 256) == pytest.approx((128 / 2) / (256 / 3))
    assert intensity.spatial(0, 0.0, 256) == 0.0
    phase = intensity.simulate([128] * 8, step_tokens=256)
    assert (phase.total_s, phase.longest_s) == (12.0, 3.0)
    # (12 + 3 * 3) / 4 seconds long; stages wait (3 / 4 - 0.5) * 3 of them
    assert intensity.temporal(phase, 0.5) == pytest.approx((5.25 - 0.75) / 5.25)
    assert intensity.temporal(phase, 10.0) == 1.0
    assert intensity.temporal(NextPrefill(), 1.0) == 0.0


def test_prompts_that_are_split_fill_their_steps_and_the_last_one_wastes_rows() -> None:
    intensity = Intensity(Tiles(), num_stages=4)
    whole = intensity.simulate([300, 300], step_tokens=256)
    assert (whole.total_s, whole.longest_s, whole.wasted_s) == (8.0, 4.0, 0.0)
    split = intensity.simulate([300, 300], step_tokens=256, split=True)
    # 256 + 256 + 88 rows, and 88 rows of a full step take 88 / 256 of its three seconds
    assert (split.total_s, split.longest_s) == (8.0, 3.0)
    assert split.wasted_s == pytest.approx(2 - 3 * 88 / 256)
    exact = intensity.simulate([300, 212], step_tokens=256, split=True)
    assert (exact.total_s, exact.wasted_s) == (6.0, 0.0)
    assert intensity.temporal(exact, 0.75) == 1.0
    assert intensity.temporal(split, 0.75) == pytest.approx(1 - split.wasted_s / 17)


def test_batches_and_steps_end_at_tiles_where_that_is_faster() -> None:
    assert best_batch(Tiles(), 140, 0.0) == 128
    assert best_batch(Tiles(), 250, 0.0) == 250
    assert best_rows(Tiles(), 100, 256, 0.0) == 256
    assert best_rows(Tiles(), 300, 256, 0.0) == 300
    assert even_rows(Tiles(), 1024, limit_s=4.5) == 384
    assert even_rows(Tiles(), 300, limit_s=3.0) == 256
    assert even_rows(Tiles(), 1024, limit_s=0.5) == 128
    assert even_rows(Tiles(), 50, limit_s=9.0) == 50


def order_of(jobs: list[Job], pace: Pace, tail: float = 0.0) -> list[str]:
    waiting = {each.request_id: each for each in jobs}
    return list(in_time(waiting, lambda each: each.max_tokens, pace, tail))


def test_a_long_answer_goes_first_when_it_takes_as_long_as_all_that_is_left() -> None:
    jobs = [job(f"s{i}", 5, 15) for i in range(20)] + [job("long", 5, 35)]
    # 440 tokens are left in all, 10 pass in a round: the long answer's 35 rounds begin when 90 are
    # gone, which is after five of the short ones.
    order = order_of(jobs, Pace(10, 1e9))
    assert order.index("long") == 5
    assert [name for name in order if name != "long"] == [f"s{i}" for i in range(20)]
    assert order_of(jobs, Pace(1, 1e9))[-2:] == ["s19", "long"]
    # It may end 16 rounds, or a mean answer, later: then when 250 of the 440 tokens are gone.
    assert order_of(jobs, Pace(10, 1e9), tail=1.0).index("long") == 13


def test_where_memory_sets_the_pace_it_sets_the_latest_start() -> None:
    jobs = [job(f"s{i}", 10, 20) for i in range(20)] + [job("long", 10, 40)]
    # A short answer holds 20 tokens for 20 rounds on average, the long one 30 for 40.
    assert order_of(jobs, Pace(1e9, 100)).index("long") == 13


def test_preempted_requests_stay_in_front_and_background_ones_behind() -> None:
    again = job("again", 5, 5)
    again.num_preempted = 1
    later = job("later", 5, 900)
    later.background = True
    order = order_of([job("a", 5, 5), later, job("b", 5, 5), again], Pace(10, 1e9))
    assert order == ["again", "a", "b", "later"]


@pytest.mark.parametrize(("total", "shares"), [(10, [3, 3, 2, 2]), (3, [1, 1, 1, 0]), (0, [0] * 4)])
def test_fair_shares_differ_by_one_at_most(total: int, shares: list[int]) -> None:
    assert [fair_share(total, 4, index) for index in range(4)] == shares


def test_phases_stay_apart_in_tdpipe_and_share_steps_in_the_others() -> None:
    phases: dict[str, set[Phase]] = {}
    for name in ("tdpipe", "tdpipe-fused", "pp-separate", "pp-hybrid"):
        setup = PipeSetup(KvLedger(60, 16), Tiles(), 2, PipeSettings(prefill_tokens=64))
        scheduler = make_scheduler(name, setup)
        for i in range(40):
            scheduler.add(job(f"r{i}", 30, 5 + i))
        phases[name] = set()
        while scheduler.has_work:
            steps = []
            while (step := scheduler.next_step(0.0)) is not None:
                steps.append(step)
            for step in steps:
                phases[name].add(step.plan.phase)
                scheduler.on_step_done(step, 0.0)
    assert phases["tdpipe"] == phases["pp-separate"] == {Phase.PREFILL, Phase.DECODE}
    assert Phase.FUSED in phases["tdpipe-fused"]
    assert Phase.FUSED in phases["pp-hybrid"]


def test_a_request_that_moves_between_batches_ends_at_its_length() -> None:
    """Batches count steps each for itself: an end noted in one must not count in another."""
    setup = PipeSetup(KvLedger(400, 16), Tiles(), 4, PipeSettings(prefill_tokens=64))
    jobs = [job(f"r{i}", 10, 3 + i * 7 % 41) for i in range(60)]
    record = SimPipeline(make_scheduler("tdpipe", setup), Tiles()).run(jobs)
    assert record.tokens_out == sum(3 + i * 7 % 41 for i in range(60))


def test_forecast_keeps_the_pool_from_running_dry() -> None:
    """Without the simulated use, prompts take the room that answers need later."""
    recomputed = {}
    for greedy in (True, False):
        knobs = TdPipeSettings(greedy=greedy, fixed_fill=0.9, points=tuple(range(8, 200, 8)))
        setup = PipeSetup(KvLedger(200, 16), Tiles(), 2, PipeSettings(tdpipe=knobs))
        scheduler = make_scheduler("tdpipe", setup)
        SimPipeline(scheduler, Tiles()).run([job(f"r{i}", 16, 96) for i in range(100)])
        recomputed[greedy] = scheduler.num_preempted
    assert recomputed[True] == 0 < recomputed[False]


def run_job(name: str, jobs: list[Job], num_blocks: int, settings: PipeSettings) -> PipeRecord:
    setup = PipeSetup(KvLedger(num_blocks, 16), Tiles(), 4, settings)
    return SimPipeline(make_scheduler(name, setup), Tiles()).run(jobs)


def test_prefill_steps_as_long_as_decode_steps_leave_fewer_bubbles() -> None:
    shares = {}
    for even in (False, True):
        jobs = [job(f"r{i}", 40 + i * 37 % 300, 20 + i * 29 % 80) for i in range(600)]
        settings = PipeSettings(tdpipe=TdPipeSettings(size=True, even=even))
        shares[even] = bubble_share(run_job("tdpipe", jobs, 4000, settings))
    assert shares[True] < 0.5 * shares[False]


def test_long_answers_that_begin_in_time_do_not_end_the_job_alone() -> None:
    durations_s = {}
    for order in (False, True):
        jobs = [job(f"r{i}", 16, 200 if i % 10 == 9 else 20) for i in range(1000)]
        settings = PipeSettings(fused=FusedSettings(order=order))
        durations_s[order] = run_job("tdpipe-fused", jobs, 600, settings).duration_s
    assert durations_s[True] < 0.95 * durations_s[False]


def test_bubbles_are_counted_between_ramp_up_and_drain() -> None:
    record = PipeRecord(prompts_done_s=9.0, spans=[[(0, 4), (6, 10), (20, 30)]])
    assert bubble_share(record) == pytest.approx(0.2)
    assert bubble_share(PipeRecord(spans=[[]])) == 0.0


def test_what_cannot_run_is_refused() -> None:
    setup = PipeSetup(KvLedger(4, 16), Tiles(), 2)
    scheduler = make_scheduler("tdpipe", setup)
    assert "KV blocks" in (scheduler.add(job("r", 60, 10)) or "")
    assert not scheduler.cancel("r")
    with pytest.raises(ConfigError):
        make_scheduler("tdpipe-best", setup)
    with pytest.raises(InvariantError):
        SimPipeline(scheduler, Tiles()).run([job("r", 60, 10)])
    with pytest.raises(ValueError, match="0 stages"):
        make_scheduler("tdpipe", PipeSetup(KvLedger(4, 16), Tiles(), 0))
