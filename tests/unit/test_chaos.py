"""The judgement of the chaos suite: what it must notice, and what it must hold against nobody."""

from __future__ import annotations

from typing import Any

import pytest

from rondo.types import KvOccupancy, Phase
from rondo.wire.messages import InstanceStatus, StatusReply
from rondo_bench.chaos.asks import Answer, Ask, Kind, make_asks, with_stops
from rondo_bench.chaos.cluster import problem_of
from rondo_bench.chaos.cmd import summary
from rondo_bench.chaos.faults import KINDS, Injected
from rondo_bench.chaos.judge import gaps_after, judge, passed
from rondo_bench.chaos.load import Ending, Outcome
from rondo_bench.chaos.page import as_page
from rondo_bench.workload import Item

ASK = Ask(Item("a", (20, 21), 5), Kind.STREAM, 1)
RIGHT = Answer(("hello",), ("length",), 5)


def outcome(text: str = "hello", **changes: Any) -> Outcome:
    made = Outcome(ASK, 1.0, ended_s=2.0, ending=Ending.COMPLETED, num_tokens=5)
    made.texts, made.finishes, made.first_token_s = [text], ["length"], 1.5
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def report_of(*outcomes: Outcome, kind: str = "worker") -> dict[str, Any]:
    return judge({"a": RIGHT}, outcomes, [Injected(kind, 1.0, "")])


def test_a_right_answer_passes() -> None:
    report = report_of(outcome(), outcome())
    assert (report["requests"], report["completed"], report["faults"]) == (2, 2, {"worker": 1})
    assert passed(report)


@pytest.mark.parametrize(
    ("wrong", "counted"),
    [
        (outcome("hellp"), "mismatched_texts"),
        (outcome(finishes=["stop"]), "mismatched_texts"),
        (outcome("help", ending=Ending.TYPED_ERROR, finishes=[""]), "mismatched_texts"),
        (outcome(num_tokens=4), "lost_tokens"),
        (outcome(num_tokens=6), "duplicated_tokens"),
        (outcome(ending=Ending.HUNG), "hung"),
        (outcome(ending=Ending.BROKEN), "broken_connections"),
        (outcome(flaw="after the ending"), "bad_endings"),
    ],
)
def test_what_is_wrong_is_counted_and_fails(wrong: Outcome, counted: str) -> None:
    report = report_of(outcome(), wrong)
    assert report[counted] == 1
    assert not passed(report)


def test_the_beginning_of_an_answer_before_a_typed_error_is_right() -> None:
    lost = outcome("hel", ending=Ending.TYPED_ERROR, error="in stream: instance_lost")
    report = report_of(lost, kind="gateway")
    assert (report["typed_errors"], report["mismatched_texts"]) == (1, 0)
    assert passed(report)
    assert not passed(report_of(lost)), "for a worker's death no client should get one"


def test_an_internal_error_is_never_right() -> None:
    internal = outcome("", ending=Ending.TYPED_ERROR, error="500 internal_error")
    assert not passed(report_of(internal, kind="gateway"))


def test_connections_may_break_where_a_gateway_was_killed() -> None:
    broken = outcome("he", ending=Ending.BROKEN)
    assert passed(report_of(broken, kind="gateway"))
    assert not passed(report_of(broken, kind="gateway-stop"))


def test_gaps_are_put_down_to_the_fault_before_them() -> None:
    injected = [Injected("bus", 10.0, ""), Injected("bus", 20.0, ""), Injected("bus", 90.0, "")]
    firsts = [9.0, 10.5, 13.0, 19.9, 20.2, 21.0, 29.0, 60.0]
    assert gaps_after(injected, firsts) == {"bus": [6.9, 31.0]}, "nobody asked after the third"


def test_stop_strings_are_taken_from_the_answers() -> None:
    asks = make_asks(16, seed=3)
    assert {ask.kind for ask in asks} == set(Kind)
    answers = {ask.key: Answer(("abcdefghijklmno",), ("length",), 15) for ask in asks}
    asked, texts = with_stops(asks, answers)
    stops = [ask for ask in asked if ask.kind is Kind.STOP]
    assert [ask.stop for ask in stops] == ["jklmn"] * 2
    assert texts == {ask.key: "abcdefghi" for ask in stops}
    assert stops[0].body("m")["stop"] == ["jklmn"]


def status(
    used_blocks: int = 0, num_running: int = 0, num_pending: int = 0, report_age_s: float = 0.1
) -> StatusReply:
    instance = InstanceStatus(
        instance_id="w0",
        engine="emulated",
        phase=Phase.IDLE,
        turn=0,
        num_running=num_running,
        num_waiting=0,
        kv=KvOccupancy(total_blocks=4, used_blocks=used_blocks, free_blocks=4, reserved_blocks=0),
        report_age_s=report_age_s,
    )
    return StatusReply(
        macro_id="m",
        model="m",
        owner_id="c",
        epoch=1,
        num_pending=num_pending,
        instances=(instance,),
    )


def test_what_was_left_behind_is_named() -> None:
    assert problem_of([status()], 1) == ""
    assert problem_of([], 1) == "0 owners"
    assert problem_of([status()], 2) == "1 of 2 instances"
    assert problem_of([status(report_age_s=3.1)], 1) == "w0: silent for 3.1 s"
    assert problem_of([status(num_pending=3)], 1) == "3 requests pending"
    assert problem_of([status(used_blocks=2)], 1) == "w0: 0 running, 0 waiting, 2 KV blocks used"


def test_phases_add_up_and_one_that_failed_fails_all() -> None:
    more: dict[str, Any] = {
        "seconds": 3.0,
        "members": {"joined": 2},
        "messages": {},
        "left_behind": "",
        "whole_after_s": 0.5,
    }
    phases = [
        {"phase": "worker", **report_of(outcome(), outcome()), **more},
        {"phase": "bus", **report_of(outcome(num_tokens=3), kind="bus"), **more},
    ]
    total = summary(phases)
    assert (total["requests"], total["lost_tokens"], total["seconds"]) == (3, 2, 6.0)
    assert total["faults"] == {"bus": 1, "worker": 1}
    assert total["members"] == {"joined": 4}
    assert not total["passed"]
    assert summary(phases[:1])["passed"]
    assert not summary([{**phases[0], "left_behind": "0 owners"}])["passed"]
    page = as_page(total, "rondo-bench chaos")
    assert "| `bus` | SIGKILL of nats-server | 1 |" in page
    assert "**failed**" in page


def test_every_kind_says_what_it_is_and_hurts_something() -> None:
    for name, kind in KINDS.items():
        assert kind.meaning, name
        assert kind.how in {"kill", "term", "stop", "slow", "part", "noise"}
        assert bool(kind.program) == (kind.how not in {"part", "noise"})
        assert (kind.away_s[1] > 0) == (kind.how in {"stop", "part"})
