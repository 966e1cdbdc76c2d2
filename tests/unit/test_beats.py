"""When an instance beats instead of reporting, and what its owner makes of that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rondo.bus import subjects
from rondo.policy import events
from rondo.policy.catalog import LIVE_POLICY_NAMES, make_policy
from rondo.policy.events import MacroScheduler
from rondo.types import KvOccupancy, Phase, Progress, RequestInfo, Slo
from rondo.wire import messages as m
from rondo_worker.reports import Reporter
from tests.support.virtual_cluster import PROFILE

KV = KvOccupancy(total_blocks=64, used_blocks=0, free_blocks=64, reserved_blocks=0)


def idle(is_idle: bool = True) -> bool:
    return is_idle


def progress(phase: Phase = Phase.IDLE, num_running: int = 0, num_waiting: int = 0) -> Progress:
    return Progress(
        phase=phase,
        turn=0,
        decode_steps=0,
        num_running=num_running,
        num_waiting=num_waiting,
        kv=KV,
        members=(),
    )


class Wire:
    """A reporter that has reported an idle instance, and what it sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, m.Message]] = []
        self.reporter = Reporter("w0", lambda subject, sent: self.sent.append((subject, sent)))
        self.reporter.restart("i1")
        self.reporter.obeys("m", 1)
        self.reporter.step(progress(), ())

    def beats(self) -> list[m.Beat]:
        """What was sent on the subject of beats."""
        return [
            sent
            for subject, sent in self.sent
            if subject == subjects.beat("w0") and isinstance(sent, m.Beat)
        ]


def test_beats_are_sent_only_to_who_takes_them() -> None:
    wire = Wire()
    wire.reporter.beat(idle)
    assert not wire.reporter.no_news
    assert not wire.beats()
    wire.reporter.may_beat(60.0)
    assert wire.reporter.no_news
    wire.reporter.beat(idle)
    [beat] = wire.beats()
    assert (beat.instance_id, beat.incarnation, beat.macro_id, beat.epoch) == ("w0", "i1", "m", 1)
    wire.reporter.may_beat(0.0)
    wire.reporter.beat(idle)
    assert len(wire.beats()) == 1, "the time for which it was allowed is over"


def test_a_beat_names_the_report_to_come_and_is_no_report_itself() -> None:
    wire = Wire()
    wire.reporter.may_beat(60.0)
    wire.reporter.beat(idle)
    wire.reporter.beat(idle)
    wire.reporter.step(progress(), ())
    reports = [sent for _, sent in wire.sent if isinstance(sent, m.StepReport)]
    assert [report.seq for report in reports] == [0, 1]
    assert [beat.seq for beat in wire.beats()] == [1, 1]


@pytest.mark.parametrize(
    "state", [progress(Phase.DECODE), progress(num_running=1), progress(num_waiting=1)]
)
def test_who_has_something_to_do_does_not_beat(state: Progress) -> None:
    wire = Wire()
    wire.reporter.may_beat(60.0)
    wire.reporter.beat(lambda: False)  # a request has come since
    wire.reporter.step(state, ())
    assert not wire.reporter.no_news
    wire.reporter.beat(idle)
    assert not wire.beats()


def test_another_owner_is_reported_to_until_it_takes_beats_too() -> None:
    changes: tuple[Callable[[Reporter], object], ...] = (
        lambda one: one.obeys("m", 2),
        lambda one: one.obey("other"),
        lambda one: one.restart("i2"),
    )
    for change in changes:
        wire = Wire()
        wire.reporter.may_beat(60.0)
        assert wire.reporter.obeys("m", 1), "the same owner's next command changes nothing"
        assert wire.reporter.no_news
        change(wire.reporter)
        assert not wire.reporter.no_news


# What a scheduler expects


def joined(name: str) -> MacroScheduler:
    policy = make_policy(name)
    info = events.InstanceInfo(
        instance_id="w0",
        latency=PROFILE,
        block_size=16,
        num_blocks=64,
        max_model_len=1024,
        max_running=8,
        max_prefill_tokens=512,
    )
    policy.handle(events.InstanceJoined(at_s=0.0, instance=info, progress=progress()))
    return policy


def request(request_id: str, *, background: bool = False) -> RequestInfo:
    return RequestInfo(
        request_id=request_id,
        prompt_tokens=32,
        max_tokens=8,
        predicted_tokens=8,
        slo=Slo(ttft_s=5.0, tpot_s=0.5),
        arrival_s=1.0,
        background=background,
    )


@pytest.mark.parametrize("name", LIVE_POLICY_NAMES)
@pytest.mark.parametrize("background", [False, True])
def test_news_is_expected_while_a_request_is_there(name: str, background: bool) -> None:
    policy = joined(name)
    assert not policy.expects_news("w0")
    assert policy.expects_news("w1"), "nothing is known of it"
    policy.handle(events.RequestArrived(at_s=1.0, request=request("r", background=background)))
    assert policy.expects_news("w0")
    policy.handle(events.RequestCancelled(at_s=1.1, request_id="r"))
    policy.handle(events.InstanceReported(at_s=1.2, instance_id="w0", progress=progress()))
    assert not policy.expects_news("w0")
    policy.handle(
        events.InstanceReported(at_s=1.3, instance_id="w0", progress=progress(Phase.DECODE))
    )
    assert policy.expects_news("w0"), "it was not idle when it was heard last"
