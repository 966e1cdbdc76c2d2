"""A pipeline's scheduler on a live instance: grants, turns, members, cancels, what it reports."""

from __future__ import annotations

from collections import deque

import pytest

from rondo.errors import ConfigError
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job, StepOutcome, StepPlan
from rondo.policy.progress import progress_of
from rondo.policy.tdpipe import PipeInstance, PipeSetup, PipeStep, make_scheduler
from rondo.policy.tdpipe.rounds import Rounds
from rondo.policy.turns import TurnEnd, TurnStart
from rondo.types import FinishReason, Phase, Slo, Started, StepStat
from rondo_worker.pipe_setup import check_pipeline_policy, make_pipe_instance
from rondo_worker.settings import WorkerSettings
from tests.support.services import SPEC

BLOCK, EOS = 4, 1


class Latency:
    """A second for a step, and a tenth for each token."""

    def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
        return 1.0 + 0.1 * (tokens + num_decodes)


class Line:
    """Drives an instance as its loop does; token 5 comes from every sequence unless told."""

    def __init__(self, name: str = "tdpipe", stages: int = 2, num_blocks: int = 60) -> None:
        setup = PipeSetup(KvLedger(num_blocks, BLOCK), Latency(), stages)
        self.instance = PipeInstance(
            make_scheduler(name, setup), max_running=8, max_prefill_tokens=64, eos_token_ids=[EOS]
        )
        self.flying: deque[PipeStep] = deque()
        self.now_s = 0.0

    def add(self, name: str, prompt: int = 5, answer: int = 4, *, background: bool = False) -> None:
        slo = Slo(ttft_s=1, tpot_s=1)
        job = Job(name, prompt, answer, answer, slo, self.now_s, background=background)
        assert self.instance.add(job) is None

    def fill(self) -> None:
        while (step := self.instance.next_step(self.now_s)) is not None:
            assert step.plan.items
            self.flying.append(step)

    def land(self, **chosen: int) -> StepOutcome:
        self.now_s += 1.0
        step = self.flying.popleft()
        tokens = {item.request_id: chosen.get(item.request_id, 5) for item in step.plan.items}
        outcome = self.instance.land(step, tokens, self.now_s)
        self.instance.check_invariants()
        return outcome

    def run(self) -> list[StepOutcome]:
        outcomes = []
        self.fill()
        while self.flying:
            outcomes.append(self.land())
            self.fill()
        return outcomes

    def granted(self) -> dict[str, bool]:
        return {m.request_id: m.granted for m in self.instance.members(self.now_s)}


def test_a_grant_lets_a_prompt_in_and_background_needs_none() -> None:
    line = Line()
    line.add("waits")
    line.add("line", background=True)
    assert line.granted() == {"waits": False, "line": True}
    assert {f.request_id for o in line.run() for f in o.finished} == {"line"}
    assert line.instance.num_waiting == 1
    assert line.instance.phase is Phase.IDLE
    line.instance.grant(1, ["waits"], 1.0, line.now_s)
    assert line.granted() == {"waits": True}
    ends = [f for o in line.run() for f in o.finished]
    assert [(f.request_id, f.reason, f.tokens_out) for f in ends] == [
        ("waits", FinishReason.LENGTH, 4)
    ]
    assert line.instance.ledger.num_free == 60


def test_what_could_never_run_is_refused() -> None:
    line = Line(num_blocks=10)
    job = Job("a", 37, 4, 4, Slo(ttft_s=1, tpot_s=1), 0.0)
    assert line.instance.add(job) == "needs 11 KV blocks, the pipeline has 10"
    assert not line.instance.has("a")


def test_a_grant_may_come_before_its_prompt_or_never_see_it() -> None:
    line = Line()
    line.instance.grant(1, ["late", "never"], 1.0, 0.0)
    line.add("late")
    assert line.granted() == {"late": True}
    line.run()
    assert not line.instance.expire(4.0)
    [given_up] = line.instance.expire(6.0)
    assert (given_up.request_id, given_up.reason) == ("never", FinishReason.CANCELLED)
    line.instance.grant(0, ["old"], 1.0, 7.0)
    line.add("old")
    assert line.granted() == {"old": False}, "the grant was of an older turn"


def test_a_turn_begins_with_its_first_prompt_and_ends_with_its_last() -> None:
    line = Line(num_blocks=800)
    line.add("a", prompt=700)
    line.add("b", prompt=700)
    line.add("line", background=True)
    line.fill()
    assert not line.instance.take_turn_events(), "nothing of the turn is in the pipe"
    line.now_s = 3.0
    line.instance.grant(1, ["a"], 1.0, 1.0)
    line.instance.grant(1, ["b"], 1.0, 2.0)
    line.land()
    line.fill()
    assert line.instance.take_turn_events() == [TurnStart(1, 3.0)]
    line.instance.revoke(1)
    line.fill()
    assert not line.instance.take_turn_events(), "both are in the pipe"
    line.run()
    [end] = line.instance.take_turn_events()
    assert isinstance(end, TurnEnd)
    assert (end.turn, end.num_prefilled, end.prefill_tokens) == (1, 2, 1400)
    assert end.leftover == ()
    assert line.instance.turn_number == 1


@pytest.mark.parametrize("name", ["tdpipe", "tdpipe-fused", "pp-separate", "pp-hybrid"])
def test_tokens_are_numbered_and_an_end_token_ends(name: str) -> None:
    line = Line(name)
    line.add("a", answer=9, background=True)
    line.add("b", answer=9, background=True)
    line.fill()
    tokens: dict[str, list[int]] = {"a": [], "b": []}
    ends = {}
    while line.flying:
        outcome = line.land(b=EOS if len(tokens["b"]) == 3 else 6)
        for new in outcome.tokens:
            assert new.index == len(tokens[new.request_id])
            tokens[new.request_id].append(new.token)
            if new.finish:
                ends[new.request_id] = new.finish
        line.fill()
    assert tokens == {"a": [5] * 9, "b": [6, 6, 6, EOS]}
    assert ends == {"a": FinishReason.LENGTH, "b": FinishReason.STOP}


def test_a_cancelled_request_gives_its_blocks_back_when_its_step_is() -> None:
    line = Line()
    for name in "ab":
        line.add(name, background=True)
    line.fill()
    assert line.instance.cancel("a")
    assert not line.instance.cancel("a")
    assert list(line.granted()) == ["b"]
    held = line.instance.occupancy().used_blocks
    line.add("a", answer=2, background=True)
    line.fill()
    first = line.land()
    assert [t.request_id for t in first.tokens] == ["b"], "the token of the old one means nothing"
    assert line.instance.occupancy().used_blocks < held
    later = [f.request_id for o in line.run() for f in o.finished]
    assert sorted(later) == ["a", "b"]
    assert line.instance.ledger.num_free == 60


def test_what_is_told_of_a_pipeline_is_what_any_instance_tells() -> None:
    line = Line()
    for name in "abcd":
        line.add(name, answer=4, background=name == "a")
    line.instance.grant(1, list("bcd"), 1.0, 0.0)
    line.fill()
    prefill = line.land()
    assert sorted(prefill.prefilled) == list("abcd")
    told = progress_of(line.instance, line.now_s, outcome=prefill, full=True)
    assert (told.phase, told.turn) == (Phase.PREFILL, 1)
    assert (told.num_running, told.num_waiting) == (4, 0)
    assert told.kv.background_blocks == 2
    [step] = line.instance.take_steps()
    assert (step.phase, step.prompt_tokens, step.background_tokens) == (Phase.PREFILL, 20, 5)
    line.fill()
    assert line.instance.phase is Phase.DECODE
    first, second = line.land(), line.land()
    assert sorted(s.request_id for s in (*first.started, *second.started)) == list("abcd")
    assert {s.base_step for s in (*first.started, *second.started)} == {0}
    assert line.instance.decode_steps == 1, "a step of each batch is a round"
    [round_] = line.instance.take_steps()
    assert round_ == StepStat(Phase.DECODE, 2.0, 4, 4, 0, 0, 4, 20, 1)
    members = {m.request_id: m for m in line.instance.members(line.now_s)}
    assert {m.tokens_out for m in members.values()} == {2}
    assert members["b"].decode_age_s == 2.0
    line.run()
    assert line.instance.decode_steps == 3
    told = progress_of(line.instance, line.now_s, full=True)
    assert (told.phase, told.members, told.num_running) == (Phase.IDLE, (), 0)


def test_a_cancelled_request_that_decodes_is_not_counted() -> None:
    line = Line()
    for name in "ab":
        line.add(name, background=True)
    line.fill()
    line.land()
    line.fill()
    assert (line.instance.num_running, line.instance.num_waiting) == (2, 0)
    line.instance.cancel("a")
    assert (line.instance.num_running, line.instance.num_waiting) == (1, 0)
    line.run()
    assert line.instance.num_running == 0


def test_online_prompts_go_in_front_of_lines() -> None:
    line = Line("pp-separate", stages=1, num_blocks=400)
    for index in range(3):
        line.add(f"line{index}", prompt=700, background=True)
    line.fill()
    line.add("b")
    line.add("a")
    line.instance.grant(1, ["a", "b"], 1.0, 0.0)
    line.land()
    line.fill()
    assert [item.request_id for item in line.flying[0].plan.items][:2] == ["a", "b"]


def decode_step(num: int) -> StepPlan:
    return StepPlan(Phase.DECODE, (), num, 10 * num)


def test_rounds_add_up_to_the_time_that_passed() -> None:
    rounds = Rounds(3)
    rounds.land(StepPlan(Phase.PREFILL), None, 0.0, 2.0, timed=True)
    rounds.land(decode_step(4), 0, 1.0, 3.0, timed=True)
    rounds.land(decode_step(5), 1, 1.5, 5.0, timed=True)
    assert [step.duration_s for step in rounds.take()] == [2.0]
    rounds.land(decode_step(4), 0, 9.0, 10.0, timed=True)  # the third batch is empty
    [whole] = rounds.take()
    assert whole == StepStat(Phase.DECODE, 3.0, 9, 9, 0, 0, 9, 90)
    assert rounds.num == 1
    rounds.close()
    assert [step.duration_s for step in rounds.take()] == [1.0]
    rounds.land(decode_step(4), 0, 10.0, 11.0, timed=False)
    rounds.close()
    rounds.close()
    assert (rounds.num, rounds.take()) == (3, ()), "counted, though its time says nothing"


def test_the_setting_names_a_scheduler_and_needs_a_pipe() -> None:
    plain = WorkerSettings(model="m")
    check_pipeline_policy(plain)
    for engine, policy, words in (
        ("torch", "tdpipe", "needs RONDO_ENGINE=pipeline, not torch"),
        ("pipeline", "fastest", "tdpipe-fused"),
    ):
        settings = WorkerSettings(model="m", engine=engine, pipeline_policy=policy)
        with pytest.raises(ConfigError, match=words) as caught:
            check_pipeline_policy(settings)
        assert caught.value.setting == "RONDO_PIPELINE_POLICY"
    settings = WorkerSettings(
        model="m",
        engine="pipeline",
        pipeline_policy="pp-hybrid",
        pipeline_parallel=3,
        max_running=8,
        max_prefill_tokens=100,
    )
    check_pipeline_policy(settings)
    instance = make_pipe_instance(settings, SPEC, Latency())
    assert instance.pipe.settings.max_batch == 3
    assert instance.pipe.settings.budget_tokens == 100
    assert (instance.max_running, instance.max_prefill_tokens) == (8, 100)


def test_started_names_the_round_before_the_first_token() -> None:
    line = Line()
    line.add("a", answer=8, background=True)
    line.fill()
    line.land()
    line.fill()
    for _ in range(2):
        line.land()
        line.fill()
    line.add("b", background=True)
    outcomes = line.run()
    [started] = [s for outcome in outcomes for s in outcome.started if s.request_id == "b"]
    assert isinstance(started, Started)
    assert started.base_step >= 2
